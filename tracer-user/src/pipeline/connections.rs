//! The connections, one by one: who, with whom, how much, since when. What is open, the last used first, and what ended of late.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tracer_ebpf as abi;

use super::{Entry, Pipeline, Rest, Step};
use crate::{
    event::{ConnClose, ConnId, ConnOpen, Data, Role, tuple_bytes},
    protocol::{REGISTRY, TlsFacts},
    text::data_text,
    time::BootTime,
    transaction::{
        Kind, Transaction,
        finish::{is_captured, local_and_remote, server_name},
        open::Open,
    },
};

/// Open connections that a snapshot holds one by one: those that were used last. All are counted.
pub const MAX_CONNS_LISTED: usize = 1_000;
/// Connections that ended, of which a snapshot tells: the last. All are counted. 256 × some 200 bytes.
pub const MAX_CLOSED_LISTED: usize = 256;

/// What a connection is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ConnState {
    /// Nothing has moved on it yet.
    Opening,
    /// Its protocol is known.
    Open,
    /// Its protocol is not known yet.
    Unrecognised,
    /// No parser looks at it: none knows the protocol, or it is not among those looked for.
    Opaque,
    /// A response that is meant to be open for long.
    LongLived,
    /// A tunnel, or turned into another protocol.
    Tunnel,
    /// One direction has ended.
    Closing,
    /// It ended.
    Closed,
    /// It was reset.
    Reset,
    /// Its process ended.
    Exited,
    /// It was idle for so long, or there were so many, that it is no longer tracked.
    Forgotten,
}

impl ConnState {
    /// The text in JSON and on the screen.
    pub fn as_str(self) -> &'static str {
        match self {
            ConnState::Opening => "opening",
            ConnState::Open => "open",
            ConnState::Unrecognised => "unrecognised",
            ConnState::Opaque => "opaque",
            ConnState::LongLived => "longlived",
            ConnState::Tunnel => "tunnel",
            ConnState::Closing => "closing",
            ConnState::Closed => "closed",
            ConnState::Reset => "reset",
            ConnState::Exited => "exited",
            ConnState::Forgotten => "forgotten",
        }
    }

    /// Whether it has ended, or is no longer looked at.
    pub fn is_over(self) -> bool {
        self >= ConnState::Closed
    }
}

/// A connection at the instant of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnRow {
    /// Its name.
    pub conn: ConnId,
    /// Service of the process.
    pub service: Arc<str>,
    /// Process that moved bytes on it last, or opened it.
    pub pid: u32,
    /// The thread's name, zero-padded; all zero before anything has moved.
    pub comm: [u8; 16],
    /// The traced process's part.
    pub role: Role,
    /// The ends.
    pub tuple: abi::Tuple,
    /// Path of a Unix socket.
    pub unix_path: Bytes,
    /// Registry name of its protocol, once it is known: of the clear text, where that is seen.
    pub protocol: Option<&'static str>,
    /// What is known of its TLS.
    pub tls: Option<Arc<TlsFacts>>,
    /// Since when it is known, ns of event time.
    pub age_ns: u64,
    /// Its beginning was seen: it is no older.
    pub from_start: bool,
    /// Requests that ended.
    pub requests: u64,
    /// Errors among them.
    pub errors: u64,
    /// Requests in flight.
    pub in_flight: u64,
    /// How far the oldest of them is.
    pub step: Option<Step>,
    /// Bytes towards and from the process, on the wire, since its first bytes were seen; lost ones in between included.
    pub bytes: [u64; 2],
    /// Since when nothing moved, or since its end, ns of event time; `None` where the kernel no longer tells.
    pub idle_ns: Option<u64>,
    /// What it is about.
    pub state: ConnState,
    /// What the kernel is told to copy.
    pub capture: &'static str,
}

/// The connections at the instant of a snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connections {
    /// Those that are open, the last used first, [`MAX_CONNS_LISTED`] of [`super::Snapshot::n_conns`].
    pub open: Vec<ConnRow>,
    /// Those that ended, the last first, [`MAX_CLOSED_LISTED`] of `n_closed`.
    pub closed: Vec<ConnRow>,
    /// All that ended.
    pub n_closed: u64,
}

/// What is counted on one connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Tally {
    since: BootTime,
    pid: u32,
    comm: [u8; 16],
    requests: u64,
    errors: u64,
    /// Position of the first byte seen, by direction.
    from: [u64; 2],
    /// Registry name of the protocol of a clear text inside of it that has ended. What checkpoints hold apart.
    #[serde(skip)]
    inside: Option<&'static str>,
}

/// What checkpoints hold of a connection's counts apart, since version 4.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TallyMore {
    inside: Option<String>,
}

impl Tally {
    pub(super) fn open(&mut self, open: &ConnOpen) {
        self.since = open.established.known().unwrap_or(open.time);
        if self.comm == [0; 16] {
            self.pid = open.pid;
        }
    }

    /// A clear text comes into sight.
    pub(super) fn open_inside(&mut self, time: BootTime, pid: u32) {
        if self.since.known().is_none() {
            self.since = time;
        }
        if self.comm == [0; 16] {
            self.pid = pid;
        }
    }

    /// What checkpoints hold apart.
    pub(super) fn more(&self) -> TallyMore {
        TallyMore { inside: self.inside.map(str::to_owned) }
    }

    /// Takes over what checkpoints hold apart.
    pub(super) fn restore_more(&mut self, more: TallyMore) {
        self.inside = registered(more.inside.as_deref());
    }

    /// Bytes are about to be applied; `first`: of their direction.
    pub(super) fn data(&mut self, data: &Data, first: bool) {
        if self.since.known().is_none() {
            self.since = data.time;
        }
        // What was summed up does not tell the name of its thread: that of another process is not it.
        if data.comm != [0; 16] || data.pid != self.pid {
            (self.pid, self.comm) = (data.pid, data.comm);
        }
        if first {
            self.from[data.direction().index()] = data.position;
        }
    }

    fn age(&self, now: BootTime) -> u64 {
        self.since.known().map_or(0, |since| now.0.saturating_sub(since.0))
    }

    pub(super) fn ended(&mut self, transaction: &Transaction) {
        if transaction.is_finished() {
            self.requests += 1;
            self.errors += u64::from(transaction.error);
        }
    }
}

/// A connection that is no longer tracked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Closed {
    at: BootTime,
    conn: ConnId,
    tally: Tally,
    service: Arc<str>,
    role: Role,
    #[serde(with = "tuple_bytes")]
    tuple: abi::Tuple,
    unix_path: Bytes,
    /// Index into [`REGISTRY`] would not outlive a build.
    protocol: Option<String>,
    from_start: bool,
    bytes: [u64; 2],
    state: ConnState,
    capture: u32,
    /// What checkpoints hold apart.
    #[serde(skip)]
    tls: Option<Arc<TlsFacts>>,
}

/// Connections that ended. Bounded by [`MAX_CLOSED_LISTED`].
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct ClosedConns {
    rows: VecDeque<Closed>,
    n: u64,
}

impl ClosedConns {
    /// What is known of their TLS, in their order (checkpoint).
    pub(super) fn tls(&self) -> Vec<Option<Arc<TlsFacts>>> {
        self.rows.iter().map(|row| row.tls.clone()).collect()
    }

    /// Takes it over.
    pub(super) fn restore_tls(&mut self, tls: Vec<Option<Arc<TlsFacts>>>) {
        self.rows.iter_mut().zip(tls).for_each(|(row, tls)| row.tls = tls);
    }
}

impl Rest {
    /// A connection is about to be let go: at its close, or (without one) because there are too many. `outer`: what carries it, which
    /// then tells of it.
    pub(super) fn note_end(&mut self, entry: &Entry, outer: Option<&mut Entry>, close: Option<&ConnClose>) {
        if let Some(outer) = outer {
            outer.tally.requests += entry.tally.requests;
            outer.tally.errors += entry.tally.errors;
            outer.tally.inside = entry.exchange.protocol().or(outer.tally.inside);
            outer.exchange.pairs_mut().restore_tls(entry.exchange.pairs().tls().cloned());
            return;
        }
        if !self.config.list_connections {
            return;
        }
        self.closed.n += 1;
        if self.closed.rows.len() >= MAX_CLOSED_LISTED {
            self.closed.rows.pop_front();
        }
        let state = match close.map(|close| (close.reason, close.error)) {
            None => ConnState::Forgotten,
            Some((abi::CLOSE_RESET, _) | (abi::CLOSE_NORMAL, 1..)) => ConnState::Reset,
            Some((abi::CLOSE_EXIT, _)) => ConnState::Exited,
            Some(_) => ConnState::Closed,
        };
        let closed = Closed {
            at: close.map_or(self.state.now, |close| close.time),
            conn: entry.carrier().unwrap_or(entry.conn.id),
            tally: entry.tally.clone(),
            service: self.service_of(entry, entry.tally.pid, &entry.tally.comm),
            role: entry.role(),
            tuple: entry.conn.tuple,
            unix_path: entry.conn.unix_path.clone(),
            protocol: entry.protocol().map(str::to_owned),
            from_start: entry.is_whole(),
            bytes: entry.bytes(),
            state,
            capture: self.capture(entry),
            tls: entry.exchange.pairs().tls().cloned(),
        };
        self.closed.rows.push_back(closed);
    }

    /// Service of a process that moved bytes on a connection.
    pub(super) fn service_of(&self, entry: &Entry, pid: u32, comm: &[u8; 16]) -> Arc<str> {
        if is_captured(pid, comm) && entry.conn.opened {
            return server_name(&entry.conn.tuple, &entry.conn.unix_path, entry.role());
        }
        self.processes.service_of(pid, comm)
    }

    fn capture(&self, entry: &Entry) -> u32 {
        if self.is_excluded(entry) { abi::VERDICT_NOTHING } else { entry.exchange.capture() }
    }
}

impl ConnRow {
    /// Address and port of its own end and of the peer's, as data: not safe to show.
    pub fn ends(&self) -> [(Arc<str>, Option<u16>); 2] {
        local_and_remote(&self.tuple, &self.unix_path)
    }

    /// Name of the thread that moved bytes on it last, as data: not safe to show.
    pub fn thread(&self) -> String {
        let end = self.comm.iter().position(|&byte| byte == 0).unwrap_or(self.comm.len());
        data_text(&self.comm[..end]).into_owned()
    }
}

impl Step {
    /// A word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Step::Reading => "reading",
            Step::Waiting => "waiting",
            Step::Sending => "sending",
        }
    }
}

impl Entry {
    fn role(&self) -> Role {
        match self.exchange.role() {
            Role::Unknown => self.conn.role,
            role => role,
        }
    }

    fn protocol(&self) -> Option<&'static str> {
        self.tally.inside.or(self.exchange.protocol())
    }

    fn is_whole(&self) -> bool {
        self.conn.opened && !self.conn.mid_join
    }

    fn bytes(&self) -> [u64; 2] {
        let moved = |at: usize| {
            let stream = &self.conn.streams[at];
            // Positions of broken records may go backwards.
            let n = stream.next.wrapping_sub(self.tally.from[at]) as i64;
            if stream.started { n.max(0).unsigned_abs() } else { 0 }
        };
        [moved(0), moved(1)]
    }
}

impl Open {
    /// How far it is.
    pub(super) fn step(&self) -> Step {
        match (self.request_end, self.response_start) {
            (_, Some(_)) => Step::Sending,
            (Some(_), None) => Step::Waiting,
            (None, None) => Step::Reading,
        }
    }
}

fn capture_name(mode: u32) -> &'static str {
    match mode {
        abi::VERDICT_HEADS => "heads",
        abi::VERDICT_EVERYTHING => "everything",
        abi::VERDICT_LENGTHS => "lengths",
        _ => "nothing",
    }
}

impl Pipeline {
    /// The connections, if they are asked for. Costs as much as is listed, however many there are.
    pub(super) fn connections(&self, now: BootTime) -> Arc<Connections> {
        if !self.rest.config.list_connections {
            return Arc::default();
        }
        // What is inside of another is told of by that.
        let is_inside =
            |entry: &Entry| entry.carrier().is_some_and(|carrier| self.tracker.get(carrier).is_some());
        let open = self.tracker.newest_first().filter(|entry| !is_inside(entry)).take(MAX_CONNS_LISTED);
        let open = open.map(|entry| self.conn_row(entry, now));
        let closed = self.rest.closed.rows.iter().rev().map(|closed| closed.row(now));
        Arc::new(Connections { open: open.collect(), closed: closed.collect(), n_closed: self.rest.closed.n })
    }

    fn state(&self, entry: &Entry) -> ConnState {
        let Entry { conn, exchange, .. } = entry;
        if exchange.pairs().is_tunnel() {
            ConnState::Tunnel
        } else if self.rest.is_excluded(entry) || exchange.is_opaque() {
            ConnState::Opaque
        } else if conn.streams.iter().any(|stream| stream.closed) {
            ConnState::Closing
        } else if exchange.open().next().is_some_and(|open| open.kind == Kind::LongLived) {
            ConnState::LongLived
        } else if exchange.protocol().is_some() {
            ConnState::Open
        } else if conn.streams.iter().any(|stream| stream.started) {
            ConnState::Unrecognised
        } else {
            ConnState::Opening
        }
    }

    /// A connection, with all that is inside of it: the wire has the bytes, the clear text says what they are.
    fn conn_row(&self, entry: &Entry, now: BootTime) -> ConnRow {
        let conn = &entry.conn;
        let inside = || self.inside(conn.id);
        let all = || std::iter::once(entry).chain(inside());
        let told = inside().next_back().unwrap_or(entry);
        let named = if told.tally.comm == [0; 16] { entry } else { told };
        let state = match self.state(entry) {
            state @ (ConnState::Tunnel | ConnState::Closing) => state,
            state => inside().next_back().map_or(state, |told| self.state(told)),
        };
        let is_told = all().any(|entry| self.rest.capture(entry) != abi::VERDICT_NOTHING);
        let last = all().map(|entry| entry.conn.last).max().unwrap_or(conn.last);
        ConnRow {
            conn: entry.carrier().unwrap_or(conn.id),
            service: self.rest.service_of(entry, named.tally.pid, &named.tally.comm),
            pid: named.tally.pid,
            comm: named.tally.comm,
            role: if told.role() == Role::Unknown { entry.role() } else { told.role() },
            tuple: conn.tuple,
            unix_path: conn.unix_path.clone(),
            protocol: inside().rev().find_map(Entry::protocol).or(entry.protocol()),
            tls: told.exchange.pairs().tls().cloned(),
            age_ns: entry.tally.age(now),
            from_start: entry.is_whole(),
            requests: all().map(|entry| entry.tally.requests).sum(),
            errors: all().map(|entry| entry.tally.errors).sum(),
            in_flight: all().map(|entry| entry.exchange.pairs().n_open() as u64).sum(),
            step: all()
                .filter_map(|entry| entry.exchange.open().next())
                .min_by_key(|open| open.start)
                .map(Open::step),
            bytes: entry.bytes(),
            idle_ns: is_told.then(|| now.0.saturating_sub(last.0)),
            state,
            capture: capture_name(self.rest.capture(told)),
        }
    }
}

/// The registry's own text of a protocol's name.
fn registered(name: Option<&str>) -> Option<&'static str> {
    REGISTRY.iter().map(|protocol| protocol.name()).find(|known| Some(*known) == name)
}

impl Closed {
    fn row(&self, now: BootTime) -> ConnRow {
        ConnRow {
            conn: self.conn,
            service: self.service.clone(),
            pid: self.tally.pid,
            comm: self.tally.comm,
            role: self.role,
            tuple: self.tuple,
            unix_path: self.unix_path.clone(),
            protocol: registered(self.protocol.as_deref()),
            tls: self.tls.clone(),
            // It ages no more.
            age_ns: self.tally.age(self.at),
            from_start: self.from_start,
            requests: self.tally.requests,
            errors: self.tally.errors,
            in_flight: 0,
            step: None,
            bytes: self.bytes,
            idle_ns: Some(now.0.saturating_sub(self.at.0)),
            state: self.state,
            capture: capture_name(self.capture),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_summed_up_leaves_the_name_of_the_thread_of_its_own_process() {
        let mut tally = Tally::default();
        for (pid, name, known) in
            [(7, "", ""), (7, "nginx", "nginx"), (7, "", "nginx"), (7, "php", "php"), (8, "", "")]
        {
            let comm = |name: &str| std::array::from_fn(|at| name.as_bytes().get(at).copied().unwrap_or(0));
            tally.data(&Data { pid, comm: comm(name), ..Data::default() }, true);
            assert_eq!((tally.pid, tally.comm), (pid, comm(known)), "{pid} {name}");
        }
    }
}
