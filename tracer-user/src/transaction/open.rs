//! A request in flight: what is known of it, of what surrounds it, and how it left.

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Confidence, End, Kind, ProtocolName, Unpaired, record::registered};
use crate::{
    conn::stream::Stamp,
    protocol::{Operation, Response, TlsFacts},
    time::BootTime,
};

/// A request whose end is not known yet.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Open {
    /// Number on its connection.
    pub ordinal: u64,
    /// [`crate::protocol::Message::stream`].
    pub stream: u64,
    /// Turn of its first byte.
    pub turn: u32,
    /// Turn of its last byte; of the first until that is known.
    pub turn_last: u32,
    /// Time of its first byte.
    pub start: BootTime,
    /// Time of its last byte.
    pub request_end: Option<BootTime>,
    /// Time of the first byte of an interim response.
    pub interim: Option<BootTime>,
    /// Time of the first byte of the response.
    pub response_start: Option<BootTime>,
    /// Position of the first request byte.
    pub request_from: u64,
    /// Length of the request, as far as known.
    pub request_bytes: u64,
    /// Position of the first response byte.
    pub response_from: u64,
    /// Length of the response, as far as known.
    pub response_bytes: u64,
    /// Process, thread and thread name that moved the first request byte.
    pub pid: u32,
    /// Thread.
    pub tid: u32,
    /// Thread name.
    pub comm: [u8; 16],
    /// Arrival to start.
    pub queue_ns: Option<u64>,
    /// The send (of the request by a client, of the response by a server) is stamped at its entry.
    pub entry: bool,
    /// What it was answered.
    pub response: Option<Response>,
    /// What sort of transaction.
    pub kind: Kind,
    /// Bytes of it were lost or not captured.
    pub gap: bool,
    /// Its beginning may not have been seen.
    pub mid_join: bool,
    /// Its name, before templates.
    pub operation: Operation,
    /// Raw target.
    pub target: Option<Bytes>,
    /// Never answered by the protocol's rules.
    pub one_way: bool,
    /// Thread that moved the last request byte.
    pub tid_last: u32,
    /// Which response is its own was inferred behind a loss.
    pub inferred: bool,
    /// What checkpoints hold apart, since version 4.
    #[serde(skip)]
    pub more: More,
}

/// More about a request whose end is not known yet.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct More {
    /// Protocol that it is a request of; empty: that of the connection.
    #[serde(deserialize_with = "registered")]
    pub protocol: ProtocolName,
    /// Database, keyspace or vhost.
    pub namespace: Option<Bytes>,
    /// Messages within the request and the response, where they are streams of such.
    pub messages: [Option<u64>; 2],
    /// Rows returned or changed.
    pub rows: Option<u64>,
    /// What the error says.
    pub error_message: Option<Bytes>,
    /// Which error it was given up with (`error_type`).
    pub reset: Option<Cow<'static, str>>,
    /// The trace id that it carries. What checkpoints hold apart.
    #[serde(skip)]
    pub trace_id: Option<Arc<str>>,
    /// What is known of its connection's TLS.
    pub tls: Option<Arc<TlsFacts>>,
    /// When its newest byte of each flow moved: of messages that end with their turn, or on a stream.
    pub newest: [BootTime; 2],
}

impl Open {
    /// A response to it (or an interim one) begins at `position` of its flow.
    pub(super) fn responds(&mut self, stamp: &Stamp, position: u64, response: Response, interim: bool) {
        if self.interim.is_none() {
            self.response_from = position;
        }
        if self.interim.is_none() && !self.entry {
            self.entry = stamp.entry;
        }
        if interim {
            self.interim.get_or_insert(stamp.first);
        } else {
            self.response_start = Some(stamp.first);
            self.answer(response);
        }
    }

    /// What it is answered, or turns out to have been.
    pub(super) fn answer(&mut self, mut response: Response) {
        if response.long_lived {
            self.kind = Kind::LongLived;
        }
        if response.rows.is_some() {
            self.more.rows = response.rows.take();
        }
        if response.error_message.is_some() {
            self.more.error_message = response.error_message.take();
        }
        self.response = Some(response);
    }

    /// How sure the record is; `guessed`: the role is.
    pub fn confidence(&self, guessed: bool) -> Confidence {
        match (self.gap, self.mid_join, guessed || self.inferred) {
            (true, _, _) => Confidence::Gap,
            (_, true, _) => Confidence::MidJoin,
            (_, _, true) => Confidence::Guessed,
            _ => Confidence::Complete,
        }
    }
}

/// A request that ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// The request and what is known of its response.
    pub open: Open,
    /// How.
    pub end: End,
    /// When.
    pub at: BootTime,
}

/// What one event brought about, for the pipeline to count and pass on.
#[derive(Debug, Default)]
pub struct Effects {
    /// Requests that ended.
    pub ended: Vec<Ended>,
    /// Messages without a pair, by [`Unpaired`].
    pub unpaired: [u64; Unpaired::ALL.len()],
    /// Requests that began.
    pub requests_seen: u64,
    /// Requests given up because too many were in flight.
    pub in_flight_full: u64,
    /// Stretches that a parser had to jump over.
    pub gaps: u64,
    /// Bytes that were not the protocol's.
    pub invalid: u64,
    /// Anything but `ended` and `tls` is set.
    pub counted: bool,
    /// Facts of the connection's TLS were told.
    pub tls: bool,
}

/// What the connection knows when a request comes.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Its protocol.
    pub protocol: ProtocolName,
    /// What sort of transaction its requests are.
    pub kind: Kind,
    /// The traced process is the server.
    pub server: bool,
    /// The connection was joined in the middle.
    pub mid_join: bool,
    /// Requests in flight at most.
    pub max_open: usize,
}

/// What the connection knows when a response comes.
#[derive(Clone, Copy, Debug)]
pub struct Around {
    /// The connection was joined in the middle.
    pub mid_join: bool,
    /// Last turn of the request direction of which anything was seen.
    pub request_turn: u32,
    /// Bytes of the request direction are known to be missing.
    pub requests_missing: bool,
    /// Two messages shared a turn.
    pub pipelined: bool,
    /// The traced process is the server.
    pub server: bool,
}
