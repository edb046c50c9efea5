//! The requests in flight, one by one: what is known of each so far.

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;
use tracer_ebpf as abi;

use super::{Entry, Pipeline, Step};
use crate::{
    event::{ConnId, Role},
    protocol::{Operation, TlsFacts},
    text::data_text,
    time::{Anchor, BootTime, WallTime},
    transaction::{
        Confidence, End, Kind, Network, ProtocolName, TimeBasis, Transaction,
        finish::{local_and_remote, time_basis},
        open::Open,
    },
};

/// Requests in flight that a snapshot holds one by one: the oldest. All are counted. 1,000 × some 400 bytes.
pub const MAX_OPEN_LISTED: usize = 1_000;

/// A request in flight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenRequest {
    /// How long, ns of event time.
    pub age_ns: u64,
    /// How far it is.
    pub step: Step,
    /// What sort of transaction.
    pub kind: Kind,
    /// The traced process's part.
    pub role: Role,
    /// Service.
    pub service: Arc<str>,
    /// Process that moved its first byte.
    pub pid: u32,
    /// Its thread.
    pub tid: u32,
    /// The thread's name, zero-padded.
    pub comm: [u8; 16],
    /// Connection.
    pub conn: ConnId,
    /// The connection on the wire, where that is the clear text inside of it.
    pub carrier: Option<ConnId>,
    /// Number on it.
    pub ordinal: u64,
    /// Method; empty where the name has none.
    pub method: Cow<'static, str>,
    /// Path as sent, or the name.
    pub path: Bytes,
    /// Target, as in a transaction.
    pub target: Option<Bytes>,
    /// Database, keyspace or vhost.
    pub namespace: Option<Bytes>,
    /// Registry name of the protocol.
    pub protocol: ProtocolName,
    /// First request byte.
    pub start: WallTime,
    /// Last request byte, once it was seen.
    pub request_end: Option<WallTime>,
    /// First response byte, once there is one; an interim response (`100 Continue`) is none.
    pub response_start: Option<WallTime>,
    /// Arrival of the first request byte to its start, ns; `None` where the kernel cannot say.
    pub queue_ns: Option<u64>,
    /// Status, once it was read.
    pub status_code: Option<i32>,
    /// Bytes of request and response, as far as they are known.
    pub bytes: [u64; 2],
    /// Messages within them, where they are streams of such.
    pub messages: [Option<u64>; 2],
    /// The connection's ends.
    pub tuple: abi::Tuple,
    /// Path of a Unix socket.
    pub unix_path: Bytes,
    /// What is known of its TLS.
    pub tls: Option<Arc<TlsFacts>>,
    /// The trace id that it carries.
    pub trace_id: Option<Arc<str>>,
    /// What the network has done to its connection since.
    pub network: Option<Network>,
    /// How sure that is.
    pub confidence: Confidence,
    /// What the stamps are.
    pub time_basis: TimeBasis,
}

impl OpenRequest {
    /// A word for how far it is; `open` = meant to be open for long.
    pub fn step_name(&self) -> &'static str {
        match (self.kind, self.step) {
            (Kind::LongLived, _) => "open",
            (_, Step::Reading) => "reading",
            (_, Step::Waiting) => "waiting",
            (_, Step::Sending) => "sending",
        }
    }

    /// Method and path, as sent.
    pub fn request(&self) -> Vec<u8> {
        let mut text = self.method.as_bytes().to_vec();
        if !text.is_empty() {
            text.push(b' ');
        }
        text.extend_from_slice(&self.path);
        text
    }

    /// The instant at which it was looked at.
    pub fn now(&self) -> WallTime {
        WallTime(self.start.0.saturating_add(self.age_ns))
    }

    /// The record that it would leave if the tracer stopped at the instant at which it was looked at: its end is not known, its
    /// operation is the request as sent, and it has no number in the run.
    pub fn so_far(&self) -> Transaction {
        let [local, remote] = local_and_remote(&self.tuple, &self.unix_path);
        let (client, server) = if self.role == Role::Client { (local, remote) } else { (remote, local) };
        let ttfb_ns = match (self.request_end, self.response_start) {
            (Some(asked), Some(answered)) => answered.0.checked_sub(asked.0),
            _ => None,
        };
        let end = self.comm.iter().position(|&byte| byte == 0).unwrap_or(self.comm.len());
        Transaction {
            start_time: self.start,
            request_end: self.request_end,
            response_start: self.response_start,
            end_time: self.now(),
            duration_ns: i64::try_from(self.age_ns).unwrap_or(i64::MAX),
            ttfb_ns,
            queue_ns: self.queue_ns,
            time_basis: self.time_basis,
            kind: self.kind,
            role: self.role,
            protocol: self.protocol,
            operation: data_text(&self.request()).into(),
            target: self.target.clone(),
            namespace: self.namespace.clone(),
            status_code: self.status_code,
            error: false,
            error_type: None,
            error_message: None,
            rows: None,
            pid: self.pid,
            tid: self.tid,
            comm: data_text(&self.comm[..end]).into(),
            service: self.service.clone(),
            client_addr: client.0,
            client_port: client.1,
            server_addr: server.0,
            server_port: server.1,
            tls: self.tls.clone(),
            trace_id: self.trace_id.clone(),
            request_bytes: self.bytes[0],
            response_bytes: self.bytes[1],
            request_messages: self.messages[0],
            response_messages: self.messages[1],
            call: None,
            causes: None,
            network: self.network,
            end: End::TracerStopped,
            confidence: self.confidence,
            conn: self.conn,
            carrier: self.carrier,
            ordinal: self.ordinal,
            seq: 0,
        }
    }
}

impl Pipeline {
    /// What is known of a request at `now`, in wall time by `anchor`.
    pub(super) fn open_request(
        &self,
        entry: &Entry,
        open: &Open,
        now: BootTime,
        anchor: Anchor,
    ) -> OpenRequest {
        // A slice of a captured batch would keep the whole batch in memory.
        let copy = |bytes: &Bytes| Bytes::copy_from_slice(bytes);
        let (method, path) = match &open.operation {
            Operation::Fixed(name) => ("".into(), Bytes::copy_from_slice(name.as_bytes())),
            Operation::Path { method, path } => (method.clone(), copy(path)),
        };
        OpenRequest {
            age_ns: now.0.saturating_sub(open.start.0),
            step: open.step(),
            kind: open.kind,
            role: entry.exchange.role(),
            service: self.rest.service_of(entry, open.pid, &open.comm),
            pid: open.pid,
            tid: open.tid,
            comm: open.comm,
            conn: entry.conn.id,
            carrier: entry.carrier(),
            ordinal: open.ordinal,
            method,
            path,
            target: open.target.as_ref().map(copy),
            namespace: open.more.namespace.as_ref().map(copy),
            protocol: match open.more.protocol {
                "" => entry.exchange.protocol().unwrap_or_default(),
                name => name,
            },
            start: anchor.wall(open.start),
            request_end: open.request_end.map(|at| anchor.wall(at)),
            response_start: open.response_start.map(|at| anchor.wall(at)),
            queue_ns: open.queue_ns,
            status_code: open.response.as_ref().and_then(|response| response.status_code),
            bytes: [open.request_bytes, open.response_bytes],
            messages: open.more.messages,
            tuple: entry.conn.tuple,
            unix_path: entry.conn.unix_path.clone(),
            tls: open.more.tls.clone(),
            trace_id: open.more.trace_id.clone(),
            network: entry.path.between(open.start, now),
            confidence: open.confidence(entry.is_guessed()),
            time_basis: time_basis(open),
        }
    }
}
