//! Owned events: what the pipeline consumes, in one order, whether live, replayed or synthetic.
//!
//! Kernel records are decoded by [`decode`]; the rest is made by sources (anchors, process facts, counters,
//! listening ports), because the pipeline itself never asks the machine anything.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tracer_ebpf as abi;

use crate::{
    metrics::Counter,
    time::{Anchor, BootTime},
};

mod function;
mod off_cpu;
mod stack;

pub use function::{Argument, FunctionEnter, FunctionFacts, FunctionReturn, ValueKind};
pub use off_cpu::OffCpu;
pub use stack::{CodeFile, CodePlaces, Stack, StackEnd, StackKind};

/// A connection, never reused ([`tracer_ebpf::conn_id`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ConnId(pub u64);

/// Towards or from the traced process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum Direction {
    /// Towards the traced process.
    Ingress = 0,
    /// From the traced process.
    Egress = 1,
}

impl Direction {
    /// Both, in index order.
    pub const BOTH: [Direction; 2] = [Direction::Ingress, Direction::Egress];

    /// The other one.
    pub fn flip(self) -> Direction {
        match self {
            Direction::Ingress => Direction::Egress,
            Direction::Egress => Direction::Ingress,
        }
    }

    /// Index into arrays by direction.
    pub fn index(self) -> usize {
        self as usize
    }
}

/// The traced process's part in a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It connected.
    Client,
    /// It accepted.
    Server,
    /// Not known (yet).
    #[default]
    Unknown,
}

impl Role {
    /// The text in JSON, Parquet and filters.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Client => "client",
            Role::Server => "server",
            Role::Unknown => "unknown",
        }
    }
}

/// One record in the pipeline's order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Event {
    /// Bytes moved.
    Data(Data),
    /// First sight of a connection.
    ConnOpen(ConnOpen),
    /// One direction ended.
    ConnShut(ConnShut),
    /// A connection ended.
    ConnClose(ConnClose),
    /// A target process started, executed or ended.
    Process(Process),
    /// Both clocks, read at once.
    Anchor(Anchor),
    /// What the machine says about a process; comes before the first event that needs it.
    ProcessFacts(ProcessFacts),
    /// A local port on which some process listens, seen at `time` (role of old connections).
    Listening(Listening),
    /// All counters at one instant, once a second and at the end.
    Counters(Counters),
    /// Time passed without other events (source's heartbeat): moves the watermark, changes nothing else.
    Tick(BootTime),
    /// Events that a recording should hold and does not; comes from a replay only, at the place where they are missing.
    Loss(Loss),
    /// A datagram.
    Datagram(Datagram),
    /// The clear text inside a TLS connection came into sight.
    TlsOpen(TlsOpen),
    /// What a probed function is called, and how its arguments are read; comes before its first call.
    FunctionFacts(FunctionFacts),
    /// A probed function begins, or a place in it is passed.
    FunctionEnter(FunctionEnter),
    /// A probed function returns.
    FunctionReturn(FunctionReturn),
    /// Who called what a thread runs: of the record of a function that follows.
    Stack(Stack),
    /// A thread that serves a request was off the CPU.
    OffCpu(OffCpu),
    /// This end of a connection sent segments again.
    Retransmit(Retransmit),
}

/// Bytes moved on a connection by one call, or several summed. See [`tracer_ebpf::Data`] for the meaning of each field.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Data {
    /// Exit of the (last) call.
    pub time: BootTime,
    /// Entry of the (first) call, or exit of the first call summed; 0 = not known.
    pub first: BootTime,
    /// Arrival of the first waiting byte; 0 = not known.
    pub arrival: BootTime,
    /// The connection.
    pub conn: ConnId,
    /// Stream position of the first byte.
    pub position: u64,
    /// Bytes moved.
    pub bytes: u64,
    /// Number of this direction change, from 1.
    pub turn: u32,
    /// `abi::FLAG_*`.
    pub flags: u16,
    /// Process.
    pub pid: u32,
    /// Thread.
    pub tid: u32,
    /// Calls summed.
    pub n_calls: u32,
    /// errno with `FLAG_ERROR`; see [`Data::other_position`].
    pub error: u32,
    /// Thread name, zero-padded.
    pub comm: [u8; 16],
    /// The captured first bytes of the call; shorter than `bytes` when cut.
    pub payload: Bytes,
    /// Time that the thread had spent on a CPU within system calls, ns. What checkpoints hold apart, since version 5.
    #[serde(skip)]
    pub kernel_ns: u64,
    /// Number of the thread's last [`OffCpu`]; 0 = it is not followed. What checkpoints hold apart, since version 5.
    #[serde(skip)]
    pub off_cpu: u32,
    /// Low half of the number of the goroutine that moved them, which is never given twice; 0 = none, or not known. What checkpoints hold apart.
    #[serde(skip)]
    pub goroutine: u32,
    /// Time from a segment to its acknowledgement, as the kernel smooths it, µs; 0 = not known. What checkpoints hold apart.
    #[serde(skip)]
    pub rtt_us: u32,
    /// Segments that this end has sent again since the connection began, modulo 2^32. What checkpoints hold apart.
    #[serde(skip)]
    pub retransmits: u32,
}

/// This end of a connection sent segments again. See [`tracer_ebpf::Retransmit`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retransmit {
    /// When.
    pub time: BootTime,
    /// The connection.
    pub conn: ConnId,
    /// As [`Data::rtt_us`].
    pub rtt_us: u32,
    /// As [`Data::retransmits`], these included.
    pub retransmits: u32,
}

impl Data {
    /// Which way the bytes went.
    pub fn direction(&self) -> Direction {
        if self.flags & abi::FLAG_EGRESS != 0 { Direction::Egress } else { Direction::Ingress }
    }

    /// Position behind the last byte.
    pub fn end(&self) -> u64 {
        self.position.wrapping_add(self.bytes)
    }

    /// How far the process has consumed the other direction, where no record shows it: low 32 bits of the position.
    pub fn other_position(&self) -> Option<u32> {
        self.has(abi::FLAG_UNSEEN).then_some(self.error)
    }

    /// Whether `flag` (`abi::FLAG_*`) is set.
    pub fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }
}

/// A datagram. See [`tracer_ebpf::Datagram`] for the meaning of each field.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Datagram {
    /// Exit of the call.
    pub time: BootTime,
    /// The socket.
    pub conn: ConnId,
    /// Number among those of its direction on the socket.
    pub number: u64,
    /// Length, bytes.
    pub bytes: u32,
    /// The ends.
    #[serde(with = "tuple_bytes")]
    pub tuple: abi::Tuple,
    /// `abi::FLAG_*`.
    pub flags: u16,
    /// Process.
    pub pid: u32,
    /// Thread.
    pub tid: u32,
    /// Network namespace; 0 = not known.
    pub netns: u32,
    /// Thread name, zero-padded.
    pub comm: [u8; 16],
    /// The captured first bytes; shorter than `bytes` when cut.
    pub payload: Bytes,
}

impl Datagram {
    /// Which way it went.
    pub fn direction(&self) -> Direction {
        if self.flags & abi::FLAG_EGRESS != 0 { Direction::Egress } else { Direction::Ingress }
    }
}

/// First sight of a connection. See [`tracer_ebpf::ConnOpen`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnOpen {
    /// When the record was made.
    pub time: BootTime,
    /// The connection.
    pub conn: ConnId,
    /// When it was established; 0 = not seen.
    pub established: BootTime,
    /// Socket inode.
    pub inode: u64,
    /// The ends.
    #[serde(with = "tuple_bytes")]
    pub tuple: abi::Tuple,
    /// Process.
    pub pid: u32,
    /// Network namespace.
    pub netns: u32,
    /// What the kernel knows of the role.
    pub role: Role,
    /// `abi::FLAG_*` (mid-join).
    pub flags: u16,
    /// Path of a Unix socket; starts with a NUL for an abstract name; empty otherwise.
    pub unix_path: Bytes,
}

/// The clear text inside a TLS connection came into sight: a connection of its own. See [`tracer_ebpf::TlsOpen`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsOpen {
    /// When the record was made.
    pub time: BootTime,
    /// The clear text's connection.
    pub conn: ConnId,
    /// The connection on the wire.
    pub carrier: ConnId,
    /// Process.
    pub pid: u32,
    /// `abi::TLS_*`.
    pub library: u16,
    /// `abi::TLS_LINK_*`.
    pub link: u16,
    /// `abi::FLAG_*` (mid-join).
    pub flags: u16,
}

/// What a TLS library (`abi::TLS_*`) is called.
pub fn tls_library(number: u16) -> &'static str {
    match number {
        abi::TLS_OPENSSL => "openssl",
        abi::TLS_BORINGSSL => "boringssl",
        abi::TLS_GNUTLS => "gnutls",
        abi::TLS_NSS => "nss",
        abi::TLS_GO => "go",
        abi::TLS_RUSTLS => "rustls",
        // Of a later txray.
        _ => "unknown",
    }
}

/// A [`abi::Tuple`] in serde's terms: its 40 bytes, as they cross the boundary.
pub(crate) mod tuple_bytes {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};
    use tracer_ebpf::Tuple;
    use zerocopy::{FromBytes as _, IntoBytes as _};

    pub(crate) fn serialize<S: Serializer>(tuple: &Tuple, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(tuple.as_bytes())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Tuple, D::Error> {
        let bytes = bytes::Bytes::deserialize(deserializer)?;
        Tuple::read_from_bytes(&bytes).map_err(|_| D::Error::custom("a tuple has 40 bytes"))
    }
}

/// One direction ended. See [`tracer_ebpf::ConnShut`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnShut {
    /// When.
    pub time: BootTime,
    /// The connection.
    pub conn: ConnId,
    /// Egress: this end sent its FIN; ingress: the peer's FIN arrived.
    pub direction: Direction,
}

/// End of a connection. See [`tracer_ebpf::ConnClose`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnClose {
    /// When.
    pub time: BootTime,
    /// The connection.
    pub conn: ConnId,
    /// Final positions by direction; 0 = nothing seen.
    pub position: [u64; 2],
    /// Last turn.
    pub turn: u32,
    /// `abi::CLOSE_*`.
    pub reason: u32,
    /// Data records refused by the ring.
    pub n_refused: u32,
    /// Socket error, positive errno.
    pub error: u32,
}

/// What happened to a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProcessChange {
    /// Forked.
    Start,
    /// Executed a program.
    Exec,
    /// Ended.
    Exit,
}

/// A target process started, executed or ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// When.
    pub time: BootTime,
    /// What.
    pub change: ProcessChange,
    /// Process.
    pub pid: u32,
    /// Parent.
    pub parent_pid: u32,
    /// Wait status of an exit.
    pub exit_code: u32,
    /// Name of the leader, zero-padded.
    pub comm: [u8; 16],
}

/// Facts about a process, read by the source from the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessFacts {
    /// When they were read.
    pub time: BootTime,
    /// Process.
    pub pid: u32,
    /// Start time in clock ticks after boot (`/proc/PID/stat` field 22): with `pid`, an identity.
    pub start_ticks: u64,
    /// Leader's name.
    pub comm: Arc<str>,
    /// Executable path, empty if not readable.
    pub exe: Arc<str>,
    /// Service: OTEL_SERVICE_NAME, systemd unit, container name, executable, in that order.
    pub service: Arc<str>,
    /// Container id, empty if none.
    pub container: Arc<str>,
}

/// A listening port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listening {
    /// When it was seen.
    pub time: BootTime,
    /// Network namespace's inode; 0 = the tracer's own or not known.
    pub netns: u32,
    /// Local port.
    pub port: u16,
}

/// Cumulative counters at one instant.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Counters {
    /// When.
    pub time: BootTime,
    /// Name → count since start. Kernel counters have the names of [`abi::STAT_NAMES`] prefixed `kernel.`, user-space
    /// losses `lost.`, gauges (ring fill, memory) `gauge.`. What is called `program.` is no count since start but the last
    /// sample of what each kernel program takes: `program.NAME.runs` and `program.NAME.ns` within `program.sample_ns`. There is
    /// one every `program.period_ns`; this was number `program.samples`.
    pub values: Vec<(Arc<str>, u64)>,
}

/// Kernel counters of records that are gone.
pub const LOST_IN_KERNEL: [&str; 14] = [
    "refused_data",
    "refused_conn",
    "refused_process",
    "conn_map_full",
    "conn_race",
    "target_map_full",
    "datagram_unnamed",
    "datagram_vector",
    "tls_unlinked",
    "tls_calls_full",
    "refused_function",
    "refused_stack",
    "refused_off_cpu",
    "refused_retransmit",
];
/// Losses of a run's own sinks, which are none of a replay's business.
pub const LOST_BY_SINKS: [Counter; 2] = [Counter::SinkQueueFull, Counter::SinkWrite];

impl Counters {
    /// Whether a counter is of what was lost on the way to the sinks.
    pub fn is_loss(name: &str) -> bool {
        let of_sinks = || LOST_BY_SINKS.iter().any(|counter| counter.name() == name);
        name.strip_prefix("kernel.").is_some_and(|name| LOST_IN_KERNEL.contains(&name))
            || (name.starts_with("lost.") && !of_sinks())
    }

    /// What was lost since the start, all reasons added up: for telling whether more was lost, and when.
    pub fn lost(&self) -> u64 {
        let lost = self.values.iter().filter(|(name, _)| Counters::is_loss(name));
        lost.fold(0, |sum, (_, n)| sum.saturating_add(*n))
    }
}

/// A hole in a recording. What is missing shows by itself as a gap in stream positions; this says how much and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// Time of the last event before the hole, as far as known (0 = the recording begins with the hole).
    pub time: BootTime,
    /// Ordinal of the first event that is missing.
    pub first_ordinal: u64,
    /// How many are missing; `None` when the end of the recording is missing, so that nobody can know.
    pub n: Option<u64>,
    /// Why.
    pub reason: LossReason,
}

/// Why a recording has a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossReason {
    /// The recorder's queue was full.
    QueueFull,
    /// The recorder could not write (disk full).
    Write,
    /// A file is damaged or gone.
    Damaged,
}

/// A batch of events in pipeline order, with the ordinal of its first event.
#[derive(Clone, Debug, Default)]
pub struct EventBatch {
    /// Ordinal of `events[0]` since the start of the run (or recording): the recorder lists what it dropped by it.
    pub first_ordinal: u64,
    /// The events.
    pub events: Vec<Event>,
}

/// A record that cannot be decoded. Counted by kind, never a panic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Shorter than its kind's struct or than its own length field.
    #[error("record of {have} bytes, {need} needed")]
    Short {
        /// Bytes there.
        have: usize,
        /// Bytes needed.
        need: usize,
    },
    /// A kind this build does not know.
    #[error("unknown record kind {0}")]
    UnknownKind(u16),
}

/// Decodes one ring record. `record` may be longer than the record's own length (size classes).
///
/// The payload is a slice of `record`: nothing is copied.
pub fn decode(record: &Bytes) -> Result<Event, DecodeError> {
    fn read<T: zerocopy::FromBytes>(bytes: &[u8]) -> Result<T, DecodeError> {
        T::read_from_prefix(bytes)
            .map(|(value, _)| value)
            .map_err(|_| DecodeError::Short { have: bytes.len(), need: size_of::<T>() })
    }
    let header: abi::Header = read(record)?;
    match header.kind {
        abi::KIND_DATA => {
            let raw: abi::Data = read(record)?;
            let start = size_of::<abi::Data>();
            let end = start + raw.captured as usize;
            if record.len() < end {
                return Err(DecodeError::Short { have: record.len(), need: end });
            }
            Ok(Event::Data(Data {
                time: BootTime(raw.header.time_ns),
                first: BootTime(raw.first_ns),
                arrival: BootTime(raw.arrival_ns),
                conn: ConnId(raw.conn_id),
                position: raw.position,
                bytes: raw.bytes,
                turn: raw.turn,
                flags: raw.header.flags,
                pid: raw.pid,
                tid: raw.tid,
                n_calls: raw.n_calls,
                error: raw.error,
                comm: raw.comm,
                payload: record.slice(start..end),
                kernel_ns: raw.kernel_ns,
                off_cpu: raw.off_cpu,
                goroutine: raw.goroutine,
                rtt_us: raw.rtt_us,
                retransmits: raw.retransmits,
            }))
        }
        abi::KIND_DATAGRAM => {
            let raw: abi::Datagram = read(record)?;
            let start = size_of::<abi::Datagram>();
            let end = start + raw.captured as usize;
            if record.len() < end {
                return Err(DecodeError::Short { have: record.len(), need: end });
            }
            Ok(Event::Datagram(Datagram {
                time: BootTime(raw.header.time_ns),
                conn: ConnId(raw.conn_id),
                number: raw.number,
                bytes: raw.bytes,
                tuple: raw.tuple,
                flags: raw.header.flags,
                pid: raw.pid,
                tid: raw.tid,
                netns: raw.netns,
                comm: raw.comm,
                payload: record.slice(start..end),
            }))
        }
        abi::KIND_CONN_OPEN => {
            let raw: abi::ConnOpen = read(record)?;
            let start = size_of::<abi::ConnOpen>();
            let end = start + usize::from(raw.path_length);
            if record.len() < end {
                return Err(DecodeError::Short { have: record.len(), need: end });
            }
            Ok(Event::ConnOpen(ConnOpen {
                time: BootTime(raw.header.time_ns),
                conn: ConnId(raw.conn_id),
                established: BootTime(raw.established_ns),
                inode: raw.inode,
                tuple: raw.tuple,
                pid: raw.pid,
                netns: raw.netns,
                role: match raw.role {
                    abi::ROLE_CLIENT => Role::Client,
                    abi::ROLE_SERVER => Role::Server,
                    _ => Role::Unknown,
                },
                flags: raw.header.flags,
                unix_path: record.slice(start..end),
            }))
        }
        abi::KIND_CONN_SHUT => {
            let raw: abi::ConnShut = read(record)?;
            Ok(Event::ConnShut(ConnShut {
                time: BootTime(raw.header.time_ns),
                conn: ConnId(raw.conn_id),
                direction: if raw.header.flags & abi::FLAG_EGRESS != 0 {
                    Direction::Egress
                } else {
                    Direction::Ingress
                },
            }))
        }
        abi::KIND_CONN_CLOSE => {
            let raw: abi::ConnClose = read(record)?;
            Ok(Event::ConnClose(ConnClose {
                time: BootTime(raw.header.time_ns),
                conn: ConnId(raw.conn_id),
                position: raw.position,
                turn: raw.turn,
                reason: raw.reason,
                n_refused: raw.n_refused,
                error: raw.error,
            }))
        }
        kind @ (abi::KIND_PROCESS_START | abi::KIND_PROCESS_EXEC | abi::KIND_PROCESS_EXIT) => {
            let raw: abi::Process = read(record)?;
            Ok(Event::Process(Process {
                time: BootTime(raw.header.time_ns),
                change: match kind {
                    abi::KIND_PROCESS_START => ProcessChange::Start,
                    abi::KIND_PROCESS_EXEC => ProcessChange::Exec,
                    _ => ProcessChange::Exit,
                },
                pid: raw.pid,
                parent_pid: raw.parent_pid,
                exit_code: raw.exit_code,
                comm: raw.comm,
            }))
        }
        abi::KIND_LISTENING => {
            let raw: abi::Listening = read(record)?;
            Ok(Event::Listening(Listening {
                time: BootTime(raw.header.time_ns),
                netns: raw.netns,
                port: raw.port as u16,
            }))
        }
        abi::KIND_TLS_OPEN => {
            let raw: abi::TlsOpen = read(record)?;
            Ok(Event::TlsOpen(TlsOpen {
                time: BootTime(raw.header.time_ns),
                conn: ConnId(raw.conn_id),
                carrier: ConnId(raw.carrier),
                pid: raw.pid,
                library: raw.library,
                link: raw.link,
                flags: raw.header.flags,
            }))
        }
        abi::KIND_FUNCTION_ENTER => FunctionEnter::decode(&read(record)?, record).map(Event::FunctionEnter),
        abi::KIND_FUNCTION_RETURN => {
            FunctionReturn::decode(&read(record)?, record).map(Event::FunctionReturn)
        }
        abi::KIND_OFF_CPU => Ok(Event::OffCpu(OffCpu::from(&read::<abi::OffCpu>(record)?))),
        abi::KIND_RETRANSMIT => {
            let raw: abi::Retransmit = read(record)?;
            Ok(Event::Retransmit(Retransmit {
                time: BootTime(raw.header.time_ns),
                conn: ConnId(raw.conn_id),
                rtt_us: raw.rtt_us,
                retransmits: raw.retransmits,
            }))
        }
        abi::KIND_STACK => Stack::decode(&read(record)?, record).map(Event::Stack),
        kind => Err(DecodeError::UnknownKind(kind)),
    }
}
