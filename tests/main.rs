//! Integration tests.

/// Where the time of requests went.
mod anatomy;
/// Protocols that are known by what was asked and answered together.
mod answered;
/// Captures of protocols, as text.
mod captures;
/// Single cases through the pipeline.
mod cases;
/// The command line as a user meets it.
mod cli;
/// Conversations with the messages that must be found in them.
mod conversation;
/// Datagrams through the pipeline.
mod datagrams;
/// What this host can do, as root and as others.
mod doctor;
/// Calls of functions through the pipeline.
mod functions;
/// Programs written in Go, built by the toolchains that are there.
mod go;
/// The heads of recorded transactions.
mod heads;
/// HPACK against its specification and another implementation.
mod hpack;
/// What belongs together, through the pipeline.
mod links;
/// Real programs, traced, against what they logged themselves.
mod live;
/// What `--protocol` leaves.
mod looked_for;
/// Who calls whom, of a recording.
mod map;
/// What the network does to connections, through the pipeline.
mod network;
/// Patterns of the XLog, found in traffic whose truth is known.
mod patterns;
/// Packet captures as a source.
mod pcap;
/// Reads of any sizes give the same transactions.
mod pieces;
/// The pipeline against the synthetic source and its truth.
mod pipeline;
/// A recording played on the screen.
mod playback;
/// Tracing without root.
mod privileges;
/// Properties of all parsers.
mod properties;
/// Golden captures, inference, and the registry against the folders.
mod protocols;
/// Which protocol is it? Every capture against every recogniser.
mod recognition;
/// What is recorded comes back, whatever kills, fills, damages or trims it.
mod recording;
/// A replay gives what the recorded run gave.
mod replay;
/// Programs with rustls, built by this toolchain.
mod rustls;
/// Call stacks of a recording, in every form.
mod stacks;
/// Many streams on one connection, through the pipeline.
mod streams;
mod tidy;
/// The clear text of TLS connections, through the pipeline.
mod tls_inside;
/// Which TLS libraries were tried.
mod tls_tried;
/// The live screen, drawn into memory.
mod tui;
/// What is followed turn by turn.
mod turns;
/// WebSocket behind HTTP/1's upgrade.
mod upgraded;
/// Places for probes in real programs and processes.
mod uprobe;
/// Feeds parsers by their contract.
mod wire;
