//! Datagrams: which conversation each belongs to, what is lost between two of them, and when conversations are over.
//!
//! A UDP socket may have many peers, and ask as well as answer. So each (socket, peer, who asks) is a connection of its own; its id
//! is a hash of the three, with the highest bit set: the kernel's own ids are times and have it after 4 years of uptime. Two of 2^63
//! values are equal by chance once in 4 × 10^9 runs that keep 65,536 of them at once; then two conversations would share a
//! connection, and still pair by id and question. Who asks is what the message says of itself, or, where nothing of it was
//! captured, the port.
//!
//! What one conversation lost is not known, only what its socket did: a lost datagram of the side that asks is a lost request; one of
//! the side that answers may have been anybody's answer, so that a question older than it, when it ends unanswered, ends as not seen to the end.

use std::collections::VecDeque;

use bytes::{BufMut as _, Bytes, BytesMut};
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};
use tracer_ebpf as abi;

use super::{Entry, LostRequests, Pipeline, Rest};
use crate::{
    conn::connection::MAX_HELD_EVENTS,
    event::{ConnClose, ConnId, Data, Datagram, Direction},
    metrics::Counter,
    protocol::{Inference, Protocol, REGISTRY, of_ports},
    time::BootTime,
    transaction::End,
};

/// Sockets whose numbers are remembered: as many as the kernel tracks. Beyond it the losses of new ones are not told from what was
/// before their first datagram. 65,536 × some 100 bytes.
const MAX_SOCKETS: usize = 65_536;
/// Conversations at once: beyond it the oldest is let go. 16,384, a quarter of the tracker: a server has one for each of its clients' sockets.
const MAX_CONVERSATIONS: usize = 16_384;
/// A conversation in which nothing is in flight is over after so long. 10 s: twice what resolvers wait before they ask again.
const IDLE_NS: u64 = 10_000_000_000;
/// Conversations of one socket that are remembered by the socket; with more, all are looked at when it closes.
const MAX_OF_SOCKET: usize = 64;

/// All sockets of datagrams.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Datagrams {
    sockets: FxHashMap<ConnId, Socket>,
    /// Conversations by when to look whether they are over.
    due: VecDeque<(BootTime, ConnId)>,
}

/// One socket.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Socket {
    /// Number behind the last one seen, by direction.
    next: [u64; 2],
    /// Numbers before it that were not seen, by direction.
    absent: [u64; 2],
    /// When the last of them that may have been an answer was found to be missing.
    gap: Option<BootTime>,
    /// Directions in which it was seen to ask or be asked.
    asks: [bool; 2],
    /// Its conversations, as long as they are few.
    conversations: Vec<ConnId>,
    many: bool,
}

/// Which direction asks, by the ports alone.
fn asks_by_port(protocol: &dyn Protocol, tuple: &abi::Tuple) -> Option<Direction> {
    let is_own = |port: u16| protocol.udp_ports().contains(&port);
    match (is_own(tuple.local_port), is_own(tuple.remote_port)) {
        (true, false) => Some(Direction::Ingress),
        (false, true) => Some(Direction::Egress),
        _ => None,
    }
}

/// The id of a conversation.
fn conversation(datagram: &Datagram, requests: Direction, asks_a_group: bool) -> ConnId {
    /// The finaliser of MurmurHash3: every bit of the input changes each of the output with a probability of a half.
    fn mix(mut value: u64) -> u64 {
        value = (value ^ value >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
        value = (value ^ value >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        value ^ value >> 33
    }
    let abi::Tuple { remote, remote_port, family, .. } = datagram.tuple;
    // Who asks a group is answered by others than it asked.
    let peer = if asks_a_group && requests == Direction::Egress { [0; 16] } else { remote };
    let half = |at: usize| peer[at..at + 8].iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
    let rest = u64::from(remote_port) << 32 | u64::from(family) << 8 | requests.index() as u64;
    let hash = [half(0), half(8), rest].into_iter().fold(mix(datagram.conn.0), |hash, word| mix(hash ^ word));
    ConnId(hash | 1 << 63)
}

/// A datagram's bytes as parsers want them: behind their number.
fn framed(payload: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(2 + payload.len());
    // INVARIANT: no datagram has more than 65,535 bytes.
    framed.put_u16(payload.len() as u16);
    framed.put_slice(payload);
    framed.freeze()
}

impl Pipeline {
    /// Takes a datagram.
    pub(super) fn datagram(&mut self, datagram: &Datagram, is_late: bool) {
        let Some(at) = of_ports(datagram.tuple.remote_port, datagram.tuple.local_port) else { return };
        let protocol = REGISTRY[at];
        let direction = datagram.direction();
        let by_port = asks_by_port(protocol, &datagram.tuple);
        self.rest.number(datagram, by_port);
        let framed = framed(&datagram.payload);
        let requests = match protocol.infer_datagram(&framed) {
            Inference::Request => direction,
            Inference::Response => direction.flip(),
            _ if datagram.payload.len() < datagram.bytes as usize => {
                // There, and not to be looked at.
                self.rest.metrics.add(Counter::ParserGap, 1);
                self.rest.not_seen(datagram.conn, direction, by_port, 1, datagram.time);
                return;
            }
            _ => {
                self.rest.metrics.add(Counter::ParserInvalid, 1);
                return;
            }
        };
        let id = conversation(datagram, requests, protocol.asks_a_group());
        if self.tracker.get_mut(id).is_none() {
            self.begin(id, datagram, at, requests);
        }
        let Some((entry, rest)) = self.entry(id) else { return };
        let now = datagram.time;
        if is_late && now < entry.exchange.newest() {
            rest.metrics.add(Counter::Late, 1);
            rest.not_seen(datagram.conn, direction, Some(requests), 1, now);
            return;
        }
        entry.conn.last = entry.conn.last.max(now);
        if rest.is_excluded(entry) {
            return;
        }
        let data = Data {
            time: now,
            conn: id,
            bytes: u64::from(datagram.bytes),
            turn: (datagram.number as u32).wrapping_add(1),
            flags: datagram.flags & abi::FLAG_EGRESS,
            pid: datagram.pid,
            tid: datagram.tid,
            n_calls: 1,
            comm: datagram.comm,
            payload: framed,
            ..Data::default()
        };
        if entry.exchange.lacks_question(&data) {
            let window = rest.config.reorder_window_ns;
            entry.conn.hold(data, window);
            if entry.conn.n_held() > MAX_HELD_EVENTS {
                rest.metrics.add(Counter::ReorderFull, 1);
                if let Some(first) = entry.conn.release_first(window) {
                    rest.apply_datagram(entry, first);
                }
            }
        } else {
            rest.apply_datagram(entry, data);
        }
        rest.settle(entry);
    }

    /// A new conversation.
    fn begin(&mut self, id: ConnId, datagram: &Datagram, at: usize, requests: Direction) {
        while self.rest.datagrams.due.len() >= MAX_CONVERSATIONS {
            let Some((_, oldest)) = self.rest.datagrams.due.pop_front() else { break };
            self.let_go(oldest);
        }
        let due = BootTime(datagram.time.0.saturating_add(IDLE_NS));
        let mut asked = 0;
        self.rest.datagrams.due.push_back((due, id));
        if let Some(socket) = self.rest.datagrams.sockets.get_mut(&datagram.conn) {
            socket.asks[requests.index()] = true;
            asked = socket.next[requests.index()];
            socket.many |= socket.conversations.len() >= MAX_OF_SOCKET;
            if !socket.many {
                socket.conversations.push(id);
            }
        }
        let Some((entry, _)) = self.entry(id) else { return };
        let conn = &mut entry.conn;
        (conn.opened, conn.mid_join, conn.forgotten) = (true, false, false);
        (conn.tuple, conn.netns) = (datagram.tuple, datagram.netns);
        entry.exchange.converse(conn, at, requests, datagram.conn);
        // It may have been let go before, and its requests have had the numbers up to this.
        entry.exchange.pairs_mut().start_at(asked);
    }

    /// Lets a conversation go that nobody may miss: what is in flight is not seen to its end.
    fn let_go(&mut self, id: ConnId) {
        let now = self.rest.state.now;
        let Some(entry) = self.tracker.get_mut(id) else { return };
        self.rest.flush_held(entry);
        if entry.exchange.pairs().n_open() > 0 {
            self.rest.metrics.add(Counter::TrackerFull, 1);
            self.rest.with(entry, |exchange, _, turnover| exchange.pairs_mut().lose_all(now, turnover.fx));
        }
        self.over(id, None);
    }

    /// A conversation is no longer tracked.
    fn over(&mut self, id: ConnId, close: Option<&ConnClose>) {
        let socket = self.tracker.get_mut(id).and_then(|entry| entry.exchange.socket());
        if let Some(socket) = socket.and_then(|id| self.rest.datagrams.sockets.get_mut(&id)) {
            socket.conversations.retain(|other| *other != id);
        }
        self.remove(id, close);
    }

    /// Conversations that are over, at `now`.
    pub(super) fn end_conversations(&mut self, now: BootTime) {
        while let Some(&(due, id)) = self.rest.datagrams.due.front()
            && due <= now
        {
            self.rest.datagrams.due.pop_front();
            let Some(entry) = self.tracker.get_mut(id) else { continue };
            let idle = entry.conn.last.0.saturating_add(IDLE_NS) <= now.0;
            if idle && entry.exchange.pairs().n_open() == 0 && !entry.conn.is_holding() {
                self.over(id, None);
            } else {
                self.rest.datagrams.due.push_back((BootTime(now.0.saturating_add(IDLE_NS)), id));
            }
        }
    }

    /// A socket closed. `false`: it is none of these.
    pub(super) fn close_socket(&mut self, close: &ConnClose) -> bool {
        let Some(socket) = self.rest.datagrams.sockets.get(&close.conn) else { return false };
        let mut conversations = socket.conversations.clone();
        if socket.many {
            let of_socket = |entry: &&Entry| entry.exchange.socket() == Some(close.conn);
            conversations = self.tracker.iter().filter(of_socket).map(|entry| entry.conn.id).collect();
        }
        for direction in Direction::BOTH {
            let next =
                self.rest.datagrams.sockets.get(&close.conn).map_or(0, |it| it.next[direction.index()]);
            let absent = close.position[direction.index()].saturating_sub(next);
            self.rest.not_seen(close.conn, direction, None, absent, close.time);
        }
        for id in conversations {
            let Some(entry) = self.tracker.get_mut(id) else { continue };
            self.rest.flush_held(entry);
            self.rest.lose_doubtful(entry);
            let end = if close.reason == abi::CLOSE_EXIT { End::Exited } else { End::Closed };
            self.rest.with(entry, |exchange, _, turnover| {
                exchange.pairs_mut().end_all(end, close.time, turnover.fx);
            });
            self.remove(id, Some(close));
        }
        self.rest.datagrams.sockets.remove(&close.conn);
        true
    }
}

impl Rest {
    /// Notes a datagram's number among those of its socket and direction.
    fn number(&mut self, datagram: &Datagram, requests: Option<Direction>) {
        let (direction, number) = (datagram.direction(), datagram.number);
        if self.datagrams.sockets.len() >= MAX_SOCKETS && !self.datagrams.sockets.contains_key(&datagram.conn)
        {
            return;
        }
        let socket = self.datagrams.sockets.entry(datagram.conn).or_default();
        let (next, absent) = (&mut socket.next[direction.index()], &mut socket.absent[direction.index()]);
        if number < *next {
            if *absent > 0 {
                // Two threads' datagrams came in another order than they were numbered.
                *absent -= 1;
                self.state.lost.low = self.state.lost.low.saturating_sub(1);
                self.state.lost.high = self.state.lost.high.saturating_sub(1);
            }
            return;
        }
        let n = number - *next;
        *next = number + 1;
        self.not_seen(datagram.conn, direction, requests, n, datagram.time);
    }

    /// `n` datagrams of a direction were not seen, or could not be looked at. `requests`: the direction that asks, if that is known.
    fn not_seen(
        &mut self,
        socket: ConnId,
        direction: Direction,
        requests: Option<Direction>,
        n: u64,
        at: BootTime,
    ) {
        if n == 0 {
            return;
        }
        let Some(socket) = self.datagrams.sockets.get_mut(&socket) else { return };
        let requests = requests.or(match socket.asks {
            [true, false] => Some(Direction::Ingress),
            [false, true] => Some(Direction::Egress),
            _ => None,
        });
        if requests == Some(direction) {
            socket.absent[direction.index()] += n;
            self.state.lost.add(LostRequests { low: n, high: n });
            return;
        }
        socket.gap = Some(at);
        if requests.is_none() {
            self.state.lost.add(LostRequests { low: 0, high: n });
        }
    }

    /// Requests that may have been answered by what was lost on their socket are not seen to their end.
    pub(super) fn lose_doubtful(&mut self, entry: &mut Entry) {
        let socket = entry.exchange.socket().and_then(|socket| self.datagrams.sockets.get(&socket));
        if let Some(gap) = socket.and_then(|socket| socket.gap) {
            let now = self.state.now;
            self.with(entry, |exchange, _, turnover| {
                exchange.pairs_mut().lose_older(gap, now, turnover.fx);
            });
        }
    }

    /// Applies a datagram, whatever it should have waited for.
    pub(super) fn apply_datagram(&mut self, entry: &mut Entry, mut data: Data) {
        let stream = &entry.conn.streams[data.direction().index()];
        data.position = stream.next;
        entry.tally.data(&data, !stream.started);
        self.with(entry, |exchange, conn, turnover| exchange.datagram(conn, &data, turnover));
    }

    /// Applies the answers that no longer have to wait for their questions.
    pub(super) fn settle_datagrams(&mut self, entry: &mut Entry) {
        let window = self.config.reorder_window_ns;
        while let Some(data) = {
            let Entry { conn, exchange, .. } = &mut *entry;
            conn.release_where(window, |data| !exchange.lacks_question(data))
        } {
            self.apply_datagram(entry, data);
        }
    }
}

impl Entry {
    /// It is a conversation of datagrams.
    pub(super) fn has_datagrams(&self) -> bool {
        self.exchange.socket().is_some()
    }
}
