//! The transaction record. Field names are the contract: JSON keys = Parquet columns = filter fields.

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::anatomy::Causes;
use crate::{
    event::{ConnId, Role, StackEnd},
    protocol::{REGISTRY, TlsFacts},
    time::WallTime,
};

/// The registry's own text. An alias, so that serde does not take it for text borrowed from its input.
pub type ProtocolName = &'static str;

/// A request, and its response if there was one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Transaction {
    /// First request byte read (server) or written (client).
    pub start_time: WallTime,
    /// Last request byte; `None` if it was not seen.
    pub request_end: Option<WallTime>,
    /// First response byte; `None` without a response.
    pub response_start: Option<WallTime>,
    /// Last response byte; without a whole response, when the end was seen. Orders the dots.
    pub end_time: WallTime,
    /// `end_time − start_time` on the boot clock, ns. 0 or less is counted and never recorded in histograms.
    pub duration_ns: i64,
    /// `response_start − request_end`, ns; `None` when the response began first, or one of them is not known.
    pub ttfb_ns: Option<u64>,
    /// Arrival of the first request byte to `start_time`, ns; `None` where the kernel cannot say.
    pub queue_ns: Option<u64>,
    /// What the stamps are.
    pub time_basis: TimeBasis,
    /// What sort of transaction.
    pub kind: Kind,
    /// Client or server.
    pub role: Role,
    /// Registry name of the protocol.
    #[serde(deserialize_with = "registered")]
    pub protocol: ProtocolName,
    /// Template name, bounded cardinality.
    pub operation: Arc<str>,
    /// Target: path and query, or key, as sent; a statement without its literals.
    pub target: Option<Bytes>,
    /// Database, keyspace or vhost it works in.
    #[serde(skip)]
    pub namespace: Option<Bytes>,
    /// Integer status.
    pub status_code: Option<i32>,
    /// Whether it counts as an error for this role.
    pub error: bool,
    /// Which error.
    pub error_type: Option<Cow<'static, str>>,
    /// What the error says in words, where that cannot hold values of a statement.
    #[serde(skip)]
    pub error_message: Option<Bytes>,
    /// Rows returned or changed, where the protocol says so.
    #[serde(skip)]
    pub rows: Option<u64>,
    /// Process that read (server) or wrote (client) the first request byte.
    pub pid: u32,
    /// Its thread.
    pub tid: u32,
    /// The thread's name.
    pub comm: Arc<str>,
    /// Service of the process.
    pub service: Arc<str>,
    /// Address of the client end: an IP address, or `unix:PATH`; empty if not known.
    pub client_addr: Arc<str>,
    /// Port of the client end; `None` for Unix sockets.
    pub client_port: Option<u16>,
    /// Address of the server end.
    pub server_addr: Arc<str>,
    /// Port of the server end.
    pub server_port: Option<u16>,
    /// What is known of the connection's TLS, shared by its transactions; `None` on plain ones, and where nothing is known.
    #[serde(skip)]
    pub tls: Option<Arc<TlsFacts>>,
    /// The trace id that the request carries, as the tool writes it that it belongs to.
    #[serde(skip)]
    pub trace_id: Option<Arc<str>>,
    /// Bytes of the request, head included.
    pub request_bytes: u64,
    /// Bytes of the response, head included.
    pub response_bytes: u64,
    /// Messages within the request, where it is a stream of such (gRPC, WebSocket).
    #[serde(skip)]
    pub request_messages: Option<u64>,
    /// Messages within the response; of an event stream its events, where all of it was seen.
    #[serde(skip)]
    pub response_messages: Option<u64>,
    /// Of a function's call: what was called, and from where.
    #[serde(skip)]
    pub call: Option<Arc<Call>>,
    /// Where its time went, whom it asked, and what made it.
    #[serde(skip)]
    pub causes: Option<Box<Causes>>,
    /// What the network did to its connection; `None` where that is not known: Unix sockets, datagrams, captures, functions.
    #[serde(skip)]
    pub network: Option<Network>,
    /// How the end was seen.
    pub end: End,
    /// How sure the record is.
    pub confidence: Confidence,
    /// The connection; of a function's call its thread ([`CallId`]).
    pub conn: ConnId,
    /// The connection on the wire, where `conn` is the clear text inside of it.
    #[serde(skip)]
    pub carrier: Option<ConnId>,
    /// Number of the request on its connection, from 0: `id` is `{conn:016x}-{ordinal}`.
    pub ordinal: u64,
    /// Position in the run's order, given behind the watermark. Contiguous from 0 for everything that leaves it.
    pub seq: u64,
}

/// What the network did to a connection while a request was in flight on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Time from a segment to its acknowledgement at the end, as this end's kernel smooths it, µs; 0 = none was measured.
    pub rtt_us: u32,
    /// Segments that this end sent again: from the first byte to the last, and behind a response, before another request began, those that were seen
    /// before it left the watermark.
    pub retransmits: u32,
}

impl Network {
    /// The time to an acknowledgement, ns.
    pub fn rtt_ns(self) -> Option<u64> {
        (self.rtt_us != 0).then(|| u64::from(self.rtt_us) * 1_000)
    }
}

/// What is known of a function's call.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// What was probed: the file, and the name or address in it.
    pub function: Arc<str>,
    /// Its arguments, as a JSON array.
    pub arguments: Arc<str>,
    /// What it returned, as JSON; `None`: nobody asked, or it did not return.
    pub returned: Option<Arc<str>>,
    /// The call or the request around it.
    pub parent: Option<CallId>,
    /// The request that its thread was serving.
    pub root: Option<CallId>,
    /// Its own time, without that of calls within it, ns.
    pub self_ns: u64,
    /// Who called it, where that was asked for.
    pub stack: Option<CallStack>,
}

/// Who called a function: see [`crate::event::Stack`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallStack {
    /// What was called from where, the innermost first, as a JSON array of texts.
    pub frames: Arc<str>,
    /// Where it ends.
    pub end: StackEnd,
}

/// A transaction by its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CallId {
    /// Connection, or thread.
    pub conn: ConnId,
    /// Number on it.
    pub ordinal: u64,
}

impl CallId {
    /// Of a function's call: its thread in the place of a connection, and the number of its entry among the thread's records. Ids of connections are
    /// times, whose first bit is 0 for 4 years of uptime.
    pub fn of_call(pid: u32, tid: u32, number: u64) -> CallId {
        CallId { conn: ConnId(1 << 63 | u64::from(pid) << 32 | u64::from(tid)), ordinal: number }
    }
}

impl std::fmt::Display for CallId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}-{}", self.conn.0, self.ordinal)
    }
}

impl std::str::FromStr for CallId {
    type Err = ();

    fn from_str(text: &str) -> Result<CallId, ()> {
        let (conn, ordinal) = text.split_once('-').ok_or(())?;
        let conn = ConnId(u64::from_str_radix(conn, 16).map_err(|_| ())?);
        Ok(CallId { conn, ordinal: ordinal.parse().map_err(|_| ())? })
    }
}

/// What checkpoints hold of a transaction apart, since version 4.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct TransactionMore {
    namespace: Option<Bytes>,
    error_message: Option<Bytes>,
    rows: Option<u64>,
    messages: [Option<u64>; 2],
    tls: Option<Arc<TlsFacts>>,
    carrier: Option<ConnId>,
    call: Option<Arc<Call>>,
}

/// The registry's own text of a protocol's name.
pub(super) fn registered<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<ProtocolName, D::Error> {
    let name = String::deserialize(deserializer)?;
    if name.is_empty() {
        return Ok("");
    }
    REGISTRY
        .iter()
        .map(|protocol| protocol.name())
        .find(|registered| *registered == name)
        .ok_or_else(|| serde::de::Error::custom(format!("no protocol {name:?}")))
}

impl Transaction {
    pub(super) fn more(&self) -> TransactionMore {
        TransactionMore {
            namespace: self.namespace.clone(),
            error_message: self.error_message.clone(),
            rows: self.rows,
            messages: [self.request_messages, self.response_messages],
            tls: self.tls.clone(),
            carrier: self.carrier,
            call: self.call.clone(),
        }
    }

    pub(super) fn restore_more(&mut self, more: TransactionMore) {
        let TransactionMore { namespace, error_message, rows, messages, tls, carrier, call } = more;
        self.call = call;
        (self.namespace, self.error_message, self.rows, self.tls) = (namespace, error_message, rows, tls);
        ([self.request_messages, self.response_messages], self.carrier) = (messages, carrier);
    }

    /// The id: derived from recorded facts, the same in every replay.
    pub fn id(&self) -> String {
        CallId { conn: self.conn, ordinal: self.ordinal }.to_string()
    }

    /// The connection on the wire: what is printed as `conn_id`.
    pub fn on_wire(&self) -> ConnId {
        self.carrier.unwrap_or(self.conn)
    }

    /// What made it: the call around a function's call, or the request for which a request was made.
    pub fn parent(&self) -> Option<CallId> {
        let of_call = self.call.as_ref().and_then(|call| call.parent);
        of_call.or_else(|| Some(self.causes.as_ref()?.link?.parent))
    }

    /// Whether it draws a dot and is counted: all but those that only the tracer's own stop ended.
    pub fn is_finished(&self) -> bool {
        self.end != End::TracerStopped
    }

    /// Whether its duration enters latency histograms.
    pub fn is_measured(&self) -> bool {
        self.end == End::Answered
            && self.duration_ns > 0
            && matches!(self.kind, Kind::Request | Kind::Function)
    }
}

macro_rules! text_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $name { $($(#[$vdoc])* $variant,)* }

        impl Default for $name {
            fn default() -> Self {
                Self::ALL[0]
            }
        }

        impl $name {
            /// All, in order.
            pub const ALL: &[$name] = &[$($name::$variant),*];

            /// The text in JSON, Parquet and filters.
            pub fn as_str(self) -> &'static str {
                match self { $($name::$variant => $text,)* }
            }

            /// The value of a text.
            pub fn parse(text: &str) -> Option<$name> {
                Self::ALL.iter().copied().find(|value| value.as_str() == text)
            }
        }
    };
}

text_enum! {
    /// What the time stamps of a transaction are.
    TimeBasis {
        /// Exit of the calls.
        Exit = "exit",
        /// Sends stamped at the call's entry, receives at its exit.
        EntryExit = "entry_exit",
        /// Packets, where they were captured: there were no calls to see.
        Packet = "packet",
    }
}

text_enum! {
    /// What sort of transaction.
    Kind {
        /// A request and its response.
        Request = "request",
        /// A message without a response.
        Message = "message",
        /// A tunnel, upgraded connection or stream: kept out of request histograms.
        LongLived = "longlived",
        /// Turns of bytes that no parser reads.
        Opaque = "opaque",
        /// A call of a function.
        Function = "function",
    }
}

text_enum! {
    /// How the end was seen.
    End {
        /// The whole response was seen.
        Answered = "answered",
        /// The connection closed first.
        Closed = "closed",
        /// The connection was reset first.
        Reset = "reset",
        /// The process ended first.
        Exited = "exited",
        /// In flight longer than the bound; a later answer is `unpaired`.
        Stuck = "stuck",
        /// Turned into a tunnel or another protocol.
        Upgraded = "upgraded",
        /// The tracer stopped first: counts as open, draws no dot.
        TracerStopped = "tracer_stopped",
        /// A function's call was left without a return: an exception, a panic or `longjmp` went over it. The end is when that was seen.
        Unwound = "unwound",
    }
}

text_enum! {
    /// How sure the record is.
    Confidence {
        /// Every byte that matters was seen.
        Complete = "complete",
        /// Bytes in between were lost.
        Gap = "gap",
        /// The connection was joined in the middle.
        MidJoin = "mid_join",
        /// A role or protocol was guessed, or, behind a loss on a pipelined connection, which response answers.
        Guessed = "guessed",
    }
}

text_enum! {
    /// Why a response has no request, or a message no pair.
    Unpaired {
        /// A response whose request went by before the tracer looked.
        MidJoin = "mid_join",
        /// A response whose request was lost.
        Gap = "gap",
        /// A response that nothing asked for.
        Unsolicited = "unsolicited",
        /// The answer to a request that was already given up as stuck.
        Late = "late",
    }
}

impl Unpaired {
    /// The same in words: what became of the requests.
    pub fn why(self) -> &'static str {
        match self {
            Unpaired::MidJoin => "asked for before the run",
            Unpaired::Gap => "asked for in what was lost",
            Unpaired::Unsolicited => "not asked for",
            Unpaired::Late => "given up before",
        }
    }
}

/// Transactions behind the watermark, in order, and the watermark itself.
#[derive(Clone, Debug, Default)]
pub struct TransactionBatch {
    /// In (`end_time`, `conn`, `ordinal`) order, `seq` contiguous.
    pub transactions: Vec<Transaction>,
    /// Every transaction that ends before it has been handed over.
    pub watermark: WallTime,
}

impl Default for WallRange {
    fn default() -> Self {
        WallRange { from: WallTime(0), to: WallTime(u64::MAX) }
    }
}

/// A range of wall time, `from` included, `to` excluded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WallRange {
    /// First instant.
    pub from: WallTime,
    /// First instant behind it.
    pub to: WallTime,
}
