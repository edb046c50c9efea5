//! Protocols: the traits, the registry and inference. One file per protocol; an implementation never stands here.
//!
//! A parser is pure: no I/O, no clock, no logging, no panic; it sees neither time nor pids nor sockets. Bad bytes are
//! an outcome. It returns how many bytes of the stream the bytes it looked at account for — possibly **more than it
//! was given** — so that a body that was never captured needs no special case.

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub mod codec;
pub mod dns;
pub mod grpc;
pub mod http1;
pub mod http2;
pub mod llmnr;
pub mod mdns;
pub mod mysql;
pub mod opaque;
pub mod postgres;
pub mod redis;
pub mod tls;
pub mod websocket;

/// All protocols, in probe order: the strictest first.
pub static REGISTRY: &[&dyn Protocol] = &[
    &http2::Http2,
    &http1::Http1,
    &postgres::Postgres,
    &mysql::MySql,
    &redis::Redis,
    &tls::Tls,
    &dns::Dns,
    &mdns::Mdns,
    &llmnr::Llmnr,
    &grpc::Grpc,
    &websocket::WebSocket,
    &opaque::Opaque,
];

/// Ports by which servers are known whose connections have to be captured whole.
pub fn whole_ports() -> impl Iterator<Item = u16> {
    let protocols = REGISTRY.iter().filter(|protocol| protocol.capture() == Capture::Everything);
    protocols.flat_map(|protocol| protocol.tcp_ports().iter().copied())
}

/// Ports of servers on which datagrams are messages of protocols that are known.
pub fn udp_ports() -> impl Iterator<Item = u16> {
    REGISTRY.iter().flat_map(|protocol| protocol.udp_ports()).copied()
}

/// The protocol of a datagram between two ports, by its place in the registry: that of the first port, else that of the second. What was captured on
/// other ports was asked for as DNS.
pub fn of_ports(first: u16, second: u16) -> Option<usize> {
    let by = |port: u16| REGISTRY.iter().position(|protocol| protocol.udp_ports().contains(&port));
    by(first)
        .or_else(|| by(second))
        .or_else(|| REGISTRY.iter().position(|protocol| !protocol.udp_ports().is_empty()))
}

/// Registry name of the protocol whose `Upgrade` leads to others.
pub const HTTP1: &str = "http1";

/// Registry name of what others turn to, and carry clear text in.
pub const TLS: &str = "tls";

/// Registry name of what no parser knows, on ports where that is followed turn by turn.
pub const OPAQUE: &str = "opaque";

/// The protocol that HTTP/1's `Upgrade` names, and its place in the registry.
pub fn upgraded_to(token: &[u8]) -> Option<(usize, &'static dyn Protocol)> {
    let is_named = |protocol: &&dyn Protocol| {
        protocol.upgrade_token().is_some_and(|name| name.as_bytes().eq_ignore_ascii_case(token))
    };
    let at = REGISTRY.iter().position(is_named)?;
    Some((at, REGISTRY[at]))
}

/// A protocol; stateless.
pub trait Protocol: Sync {
    /// File stem = fixture folder = `--protocol` value = metric label = the `protocol` field.
    fn name(&self) -> &'static str;

    /// OpenTelemetry's name (`network.protocol.name`, `db.system.name`, …).
    fn semconv_name(&self) -> &'static str {
        self.name()
    }

    /// What sort of protocol it is: decides which views show its operations.
    fn family(&self) -> Family;

    /// What the README says of it.
    fn coverage(&self) -> Coverage;

    /// It is recognised by its bytes. Others come behind an upgrade, on the streams of another protocol, or where a setting says so.
    fn is_inferred(&self) -> bool {
        true
    }

    /// Its messages begin with heads that are text, in which what is secret is known by its name: such may be shown. What other protocols say has
    /// values in it (literals of statements, passwords), and is not.
    fn has_text_heads(&self) -> bool {
        false
    }

    /// Its responses alone are recognised too. Not so where they could be another protocol's.
    fn responses_are_inferred(&self) -> bool {
        true
    }

    /// Looks at the first bytes of one direction. Must never answer `Yes` to bytes that another protocol could send.
    fn infer(&self, head: &[u8]) -> Inference;

    /// Ports of TCP by which servers of this protocol are known, where all of it has to be captured: there that is done from a connection's
    /// first byte on. A name comes from the bytes alone.
    fn tcp_ports(&self) -> &'static [u16] {
        &[]
    }

    /// Ports of servers on which datagrams are its messages.
    fn udp_ports(&self) -> &'static [u16] {
        &[]
    }

    /// Looks at a datagram of a port of its own, whole or cut. `framed` has the number of bytes that are there before them (two bytes,
    /// most significant first), and so has what the parser is shown: each datagram is one step.
    fn infer_datagram(&self, framed: &[u8]) -> Inference {
        self.infer(framed)
    }

    /// Datagrams are sent to a group and answered from other addresses.
    fn asks_a_group(&self) -> bool {
        false
    }

    /// Looks at the whole first turn of a connection and at the first bytes of the turn that answers it: for requests that could be
    /// another protocol's, and are this one's if the answer is one. `Request`, or `No`; `NeedMore` only while `answered` is empty,
    /// for what is worth waiting for an answer.
    fn infer_answered(&self, asked: &[u8], answered: &[u8]) -> Inference {
        let _ = (asked, answered);
        Inference::No
    }

    /// A parser for one connection: one for both directions, because a response may need its request.
    fn parser(&self) -> Box<dyn Parser>;

    /// How responses find their requests.
    fn pairing(&self) -> Pairing {
        Pairing::Fifo
    }

    /// How much of a connection has to be captured.
    fn capture(&self) -> Capture {
        match self.pairing() {
            Pairing::ByStreamId => Capture::Everything,
            Pairing::Fifo | Pairing::OneWay => Capture::Heads,
        }
    }

    /// Bytes of the shortest request there is: bounds how many requests a stretch of lost bytes may have held.
    fn shortest_request(&self) -> u64;

    /// Every turn of the client begins exactly one request, unless it pipelines. Not so where a client also sends what is no
    /// request of its own (handshakes, acknowledgements): then how many requests were lost is known as an interval only.
    fn turns_are_requests(&self) -> bool {
        true
    }

    /// Registry names of the protocols whose connections may hold its transactions, on their streams or because they turn into it. HTTP/1
    /// is among them where there is an [`Protocol::upgrade_token`].
    fn carriers(&self) -> &'static [&'static str] {
        &[]
    }

    /// The token by which HTTP/1's `Upgrade` names this protocol.
    fn upgrade_token(&self) -> Option<&'static str> {
        None
    }

    /// The stream on which the request that asked for the upgrade is answered in this protocol (h2c: 1). `None`: the
    /// response that agreed to it was the answer, and the transaction lives as long as the connection.
    fn upgraded_stream(&self) -> Option<u64> {
        None
    }
}

/// How much of a connection has to be captured for its messages to be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capture {
    /// The first bytes of each turn, as long as they tell how long the messages are.
    Heads,
    /// Everything: heads may begin anywhere.
    Everything,
    /// The first bytes of each turn and no more, whatever they say: messages end with their turns.
    Turns,
}

/// What is read of a protocol, for people: a row of the README's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Coverage {
    /// Its name as people write it.
    pub title: &'static str,
    /// What is read.
    pub covers: &'static str,
    /// What is not.
    pub lacks: &'static str,
    /// Real programs that the live tests trace.
    pub tested_with: &'static str,
}

/// What sort of protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// HTTP in all its versions.
    Http,
    /// Remote procedure calls.
    Rpc,
    /// Databases: operations are statements.
    Database,
    /// Caches and key-value stores: operations are commands.
    Cache,
    /// Queues and brokers.
    Messaging,
    /// Name resolution.
    Dns,
    /// None of these.
    Other,
}

/// What the first bytes of a direction say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inference {
    /// Not this protocol.
    No,
    /// Too few bytes to tell.
    NeedMore,
    /// These are requests.
    Request,
    /// These are responses.
    Response,
    /// It is this protocol, and nothing in the bytes tells which side asks: for connections joined in the middle.
    Either,
}

/// How responses find their requests. Declared, never written in a parser.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairing {
    /// In order.
    Fifo,
    /// By [`Message::stream`].
    ByStreamId,
    /// Every message is a transaction of its own.
    OneWay,
}

/// Which way a message goes, as the protocol sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Flow {
    /// From the client to the server.
    Request,
    /// From the server to the client.
    Response,
}

impl Flow {
    /// Index into arrays by flow.
    pub fn index(self) -> usize {
        self as usize
    }
}

/// A parser for one connection.
pub trait Parser: Send {
    /// Looks at the unconsumed bytes of one flow (never empty) and accounts for some of them, reporting what begins
    /// and ends in `marks`. `buf` is contiguous: after a gap the stream calls [`Parser::resync`] first.
    ///
    /// Must make progress: `Consume { len: 0 }` is allowed only together with at least one mark or a change of the
    /// parser's state that makes the next call differ; the stream gives up after 64 such steps in a row.
    fn step(&mut self, flow: Flow, buf: &[u8], marks: &mut Vec<Mark>) -> Step;

    /// `missing` bytes of a flow were lost at a point where the parser wanted to look (a gap inside the length that
    /// `Consume` announced never gets here), or [`Step::Invalid`] was returned (`missing` is then 0). `buf` holds the
    /// bytes behind the gap, or the invalid ones, which are shown once more from their first on: it must not be taken
    /// for a boundary again. Asked again, with the bytes it did not drop and more, until it finds a boundary; the parser
    /// forgets what it knew of the message that was cut.
    ///
    /// `turn_starts` are the offsets in `buf`, ascending, at which the kernel saw a turn begin (`FLAG_TURN_START`);
    /// 0 is among them only if the first byte behind the gap is known to begin one. A body may hold text that looks
    /// like a head, so that what bytes look like is never enough: a boundary is certain at a turn start, and where
    /// the framing of the message in progress is known across the gap.
    fn resync(&mut self, flow: Flow, missing: u64, buf: &[u8], turn_starts: &[usize]) -> Resync;

    /// Behind a loss, pairing has found its place again: a response begins now, and it answers the oldest of the newest `n`
    /// requests that were read, pushes among them. For parsers whose responses are framed by what they answer.
    fn in_flight(&mut self, n: usize) {
        let _ = n;
    }

    /// A turn of which [`Step::LookUntilTurn`] was said: `buf` holds the bytes shown then and all that came since, without a gap. Only marks
    /// about the connection ([`Mark::Tls`]). Says whether it wants to see more; it is not told when the turn ends before that, or its bytes
    /// are not captured.
    fn look(&mut self, flow: Flow, buf: &[u8], marks: &mut Vec<Mark>) -> bool {
        let _ = (flow, buf, marks);
        false
    }

    /// The connection turns to TLS behind this step ([`Mark::Switch`]), and may be seen inside of it: the state ([`Parser::save`]) with which
    /// a parser of this protocol reads on there, from the first byte of the clear text. `None`: that begins anew, and says itself what it is.
    fn inside_tls(&self) -> Option<Vec<u8>> {
        None
    }

    /// The flow ended (FIN). A message that runs until the close ends here.
    fn close(&mut self, flow: Flow, marks: &mut Vec<Mark>);

    /// The parser's state, for a checkpoint: [`Parser::load`] of a fresh parser makes an equal one.
    fn save(&self) -> Vec<u8>;

    /// Takes over a saved state. `false` (and an unchanged parser) when the bytes are not such a state.
    fn load(&mut self, state: &[u8]) -> bool;
}

/// What a parser says about the bytes it was shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The next `len` bytes of the stream are accounted for; may be more than were shown. A mark `Begin` belongs to the
    /// first of them, `End` to the last.
    Consume {
        /// Bytes.
        len: u64,
    },
    /// All bytes until the flow closes, those shown included, belong to the message that begins with them or is in
    /// progress (or to a tunnel).
    UntilClose,
    /// All bytes until the other side speaks, those shown included, belong to the message that begins with them (or to none, without
    /// a mark). It ends with the last of them, or with the close; the parser is not told.
    UntilTurn,
    /// As [`Step::UntilTurn`], and the bytes are shown to [`Parser::look`], as long as they are captured: nothing of the message depends on
    /// them.
    LookUntilTurn,
    /// Show me more.
    NeedMore,
    /// Not this protocol's bytes: the stream resyncs (a counted parser give-up).
    Invalid(&'static str),
}

/// What [`Parser::resync`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resync {
    /// A message begins behind this many bytes; they are dropped.
    At(usize),
    /// No boundary in sight; this many bytes are dropped and never shown again. What is kept is shown again with more.
    NotYet {
        /// Bytes.
        dropped: usize,
    },
}

/// Something begins or ends, or turns out. With [`Pairing::ByStreamId`] messages of several streams are in progress at once, and the
/// bytes of a step belong to each stream that its marks name.
#[derive(Clone, Debug, PartialEq)]
pub enum Mark {
    /// A message begins at the first byte consumed.
    Begin(Message),
    /// The bytes consumed belong to the message in progress on `stream`: only needed by [`Pairing::ByStreamId`].
    Part {
        /// As in [`Message::stream`].
        stream: u64,
    },
    /// So many messages within the message in progress (of a stream of messages, gRPC's or a socket's) begin in the bytes consumed.
    Messages {
        /// As in [`Message::stream`].
        stream: u64,
        /// Number.
        n: u64,
    },
    /// How many messages there are within the message in progress is not known: what was said of that is void, and no more is said.
    Uncounted {
        /// As in [`Message::stream`].
        stream: u64,
    },
    /// What the response in progress turned out to be: takes the place of what its [`Mark::Begin`] said. Comes before its `End`. In the
    /// request flow: how the request in progress went, where the client itself says so and nobody answers.
    Outcome {
        /// As in [`Message::stream`].
        stream: u64,
        /// All of it.
        response: Response,
    },
    /// The message in progress says more than can be read: it refers to something that was lost.
    Unread {
        /// As in [`Message::stream`].
        stream: u64,
    },
    /// The transaction of the message in progress turned out to be long-lived.
    LongLived {
        /// As in [`Message::stream`].
        stream: u64,
    },
    /// The message in progress on `stream` ends at the last byte consumed (or at the close).
    End {
        /// As in [`Message::stream`].
        stream: u64,
    },
    /// The message in progress on `stream` was cut off: its end is not known.
    Cut {
        /// As in [`Message::stream`].
        stream: u64,
    },
    /// One of the two sides gave up the transaction on `stream`: it ends as `reset` with the last byte consumed. Only with
    /// [`Pairing::ByStreamId`].
    Reset {
        /// As in [`Message::stream`].
        stream: u64,
        /// Which error it named (`error_type`).
        error: Option<Cow<'static, str>>,
    },
    /// From the next byte on the connection speaks the protocol with this registry name, in both directions (TLS behind a
    /// request for it, see [`Parser::inside_tls`]). What is in progress goes on as it is.
    Switch {
        /// [`Protocol::name`].
        to: &'static str,
    },
    /// What is known of the connection's TLS, all of it: of what is in progress and of all that comes.
    Tls(Arc<TlsFacts>),
    /// The connection is a tunnel or another protocol from here on (CONNECT, Upgrade): one long-lived transaction. Comes
    /// right behind the `Begin` of the response that agreed; the `End` of that response comes with the close. From here
    /// on neither flow is read, whatever its last step said, unless the registry has the protocol
    /// ([`Protocol::upgrade_token`]): then its parser goes on behind this step.
    Upgraded {
        /// The protocol named, if any.
        to: Option<Bytes>,
    },
}

impl Mark {
    /// The stream whose message it is about.
    pub fn stream(&self) -> Option<u64> {
        match self {
            Mark::Begin(message) => Some(message.stream),
            Mark::Part { stream }
            | Mark::Messages { stream, .. }
            | Mark::Uncounted { stream }
            | Mark::Outcome { stream, .. }
            | Mark::LongLived { stream }
            | Mark::Unread { stream }
            | Mark::End { stream }
            | Mark::Cut { stream }
            | Mark::Reset { stream, .. } => Some(*stream),
            Mark::Switch { .. } | Mark::Tls(_) | Mark::Upgraded { .. } => None,
        }
    }
}

/// What is known of a connection's TLS: facts, told once per connection and shared by its transactions. Text as in
/// [`data_text`](crate::text::data_text).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsFacts {
    /// Library in which the clear text was captured (`openssl`); `None`: the connection is seen from outside.
    pub library: Option<Cow<'static, str>>,
    /// Version that both sides agreed on, as OpenSSL spells it: `TLSv1.3` (OpenTelemetry's `tls.protocol.name` and `tls.protocol.version`).
    pub version: Option<Cow<'static, str>>,
    /// Name of the server that the client asked for (SNI; `tls.client.server_name`).
    pub sni: Option<Cow<'static, str>>,
    /// Protocol that both sides agreed on (ALPN): `h2` (`tls.next_protocol`).
    pub alpn: Option<Cow<'static, str>>,
}

/// One request or response.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// Stream id for [`Pairing::ByStreamId`]; 0 otherwise.
    pub stream: u64,
    /// What it says.
    pub body: Body,
}

impl Message {
    /// Whether a transaction begins with it.
    pub fn is_new(&self) -> bool {
        matches!(self.body, Body::Request(_) | Body::Push(_))
    }
}

/// What a message says.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// A request.
    Request(Request),
    /// The final response.
    Response(Response),
    /// An interim response (HTTP 1xx): is no answer, but its time counts as the first response byte only if no other comes.
    Interim(Response),
    /// What the server sends unasked, in the response flow: a transaction of its own. With `one_way` (a notification) it ends with
    /// its step; otherwise (a pushed request) it is complete as a request, and a response on its stream answers it. Has no `End` of its own.
    Push(Request),
}

/// A request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Request {
    /// Name of the operation.
    pub operation: Operation,
    /// Target: path and query, or key, as sent; a statement without its literals.
    pub target: Option<Bytes>,
    /// Host the request names, if any.
    pub authority: Option<Bytes>,
    /// Database, keyspace or vhost it works in, if known (`db.namespace`).
    pub namespace: Option<Bytes>,
    /// Never answered by the protocol's rules.
    pub one_way: bool,
    /// Open for long by its nature: kept out of request histograms.
    pub long_lived: bool,
    /// Registry name of the protocol that it is a request of, where that is another than the connection's (gRPC on HTTP/2).
    pub protocol: Option<&'static str>,
    /// The trace id that it carries: what other tools call it.
    pub trace_id: Option<Arc<str>>,
}

/// Name of an operation, before the learned templates are applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation {
    /// Known as it is.
    Fixed(Cow<'static, str>),
    /// A method and a path that becomes a template (`GET /user/{id}`).
    Path {
        /// `GET`; `_OTHER` for unknown ones.
        method: Cow<'static, str>,
        /// Path as sent, query cut off.
        path: Bytes,
    },
}

impl Default for Operation {
    fn default() -> Self {
        Operation::Fixed(Cow::Borrowed(""))
    }
}

/// A response.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Response {
    /// Integer status, if the protocol has one.
    pub status_code: Option<i32>,
    /// Whether it counts as an error, by role.
    pub error: ErrorFor,
    /// Textual code (`error_type`) when it is an error; `None` = the status code in decimal.
    pub error_type: Option<Cow<'static, str>>,
    /// A long-lived stream by its nature (event stream): kept out of request histograms.
    pub long_lived: bool,
    /// Rows it returned, or that the request changed, where the protocol says so.
    #[serde(skip)]
    pub rows: Option<u64>,
    /// What the error says in words, where that cannot hold values of a statement (`grpc-message`).
    #[serde(skip)]
    pub error_message: Option<Bytes>,
}

/// For whom a response is an error (an HTTP server errs from 500 on, a client's call from 400 on).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ErrorFor {
    /// No one.
    #[default]
    None,
    /// The client only.
    Client,
    /// Both.
    Both,
}
