//! TCP segments, as a packet capture has them, to the events that the probes would have sent: bytes in order, turns, ends.
//!
//! Pure: no files, no clock; time is that of the segments. A capture sees both ends' packets in the middle, so each connection
//! comes once, as its server sees it: bytes of the client are ingress. What is told of a byte is told when whoever it was sent to could have had
//! it: bytes behind a hole carry the time at which the hole was filled. Times of one connection never go backwards.
//!
//! * **Who serves** is certain where a SYN was seen. A connection joined in the middle waits for bytes that tell ([`Recognise`]), at
//!   most `UNDECIDED_NS`; then for it speaks a port on which others were seen to serve, then the lower port.
//! * **Seen twice** (retransmissions, keep-alive probes, a packet captured on two interfaces): the first bytes seen win.
//! * **Not there**: bytes that the receiver has acknowledged and the capture has not are a gap, after `GRACE_NS` for captures whose packets are
//!   not quite in order. So are, without an acknowledgement, bytes that do not come within `HOLE_NS`, or when too much waits behind them.
//! * **Turns** are numbered as they are seen to change; a gap is a turn too when the other side spoke last. A gap in both
//!   directions may hide more of them: at most so many are counted in [`Counts::turns_hidden`].
//! * A SYN with another sequence number on the same ends is another connection. So are bytes far from where an ended one left off.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
};

use bytes::Bytes;
use rustc_hash::{FxHashMap, FxHashSet};
use tracer_ebpf as abi;

use self::link::{Link, State};
use super::tracker::Tracker;
use crate::{
    event::{ConnId, Event},
    time::BootTime,
};

mod link;

/// Connections followed at once, ended ones of the last minute included; beyond it the one that was idle longest is forgotten. As many as the
/// pipeline tracks.
pub const MAX_CONNS: usize = 65_536;
/// How long a connection joined in the middle waits for bytes that tell who serves: below the lag of the watermark.
const UNDECIDED_NS: u64 = 200_000_000;
/// How long an ended connection is remembered, so that its last packets do not begin another: Linux's TIME_WAIT.
const CLOSED_NS: u64 = 60_000_000_000;

/// One end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// Address, network byte order; IPv4 in the first four bytes.
    pub address: [u8; 16],
    /// Port.
    pub port: u16,
}

/// A captured TCP segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// When it was captured.
    pub time: BootTime,
    /// `abi::FAMILY_*` of both ends.
    pub family: u16,
    /// Who sent it.
    pub source: Endpoint,
    /// To whom.
    pub destination: Endpoint,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledged sequence number.
    pub acknowledged: Option<u32>,
    /// SYN.
    pub syn: bool,
    /// FIN.
    pub fin: bool,
    /// RST.
    pub reset: bool,
    /// Bytes of payload that were sent.
    pub bytes: u32,
    /// Those of them that were captured: the first ones.
    pub payload: Bytes,
}

/// What first bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speech {
    /// A request.
    Asks,
    /// A response.
    Answers,
}

/// Tells from the bytes of a segment whether they begin a request or a response, if they do for certain.
pub type Recognise = fn(&[u8]) -> Option<Speech>;

/// What was seen and left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Segments.
    pub segments: u64,
    /// Segments whose bytes had all been seen.
    pub repeated: u64,
    /// Segments that came ahead of others.
    pub ahead: u64,
    /// Segments of which the capture has not all bytes (snaplen).
    pub cut: u64,
    /// Connections that were refused.
    pub refused: u64,
    /// Segments that belong to no connection that is followed, or cannot (far away, a reset out of place).
    pub stray: u64,
    /// Stretches of bytes that are missing.
    pub gaps: u64,
    /// Their bytes.
    pub gap_bytes: u64,
    /// Stretches given up because too much waited behind them (they are in `gaps` too).
    pub held_full: u64,
    /// Connections forgotten because there were too many.
    pub conns_full: u64,
    /// At most so many turns lie in gaps of both directions without a number.
    pub turns_hidden: u64,
}

impl Counts {
    /// Names of counters, with their counts.
    pub fn named(&self) -> [(&'static str, u64); 11] {
        let Counts {
            segments,
            repeated,
            ahead,
            cut,
            refused,
            stray,
            gaps,
            gap_bytes,
            held_full,
            conns_full,
            turns_hidden,
        } = *self;
        [
            ("capture.tcp_segments", segments),
            ("capture.tcp_repeated", repeated),
            ("capture.tcp_ahead", ahead),
            ("capture.tcp_cut", cut),
            ("capture.tcp_refused", refused),
            ("capture.tcp_stray", stray),
            ("lost.capture_gaps", gaps),
            ("capture.tcp_gap_bytes", gap_bytes),
            ("lost.capture_held_full", held_full),
            ("lost.capture_conns_full", conns_full),
            ("lost.capture_turns_hidden", turns_hidden),
        ]
    }
}

/// The two ends, in an order that does not depend on who sent.
type Key = (u16, Endpoint, Endpoint);

/// All connections of a capture.
#[derive(Debug)]
pub struct Reassembly {
    by_key: FxHashMap<Key, ConnId>,
    links: Tracker<Link>,
    rest: Rest,
}

/// Everything but the connections.
#[derive(Debug)]
struct Rest {
    now: BootTime,
    counts: Counts,
    last_id: u64,
    servers: FxHashSet<Endpoint>,
    /// Connections that have to be looked at, and when. At most a few of each.
    due: BinaryHeap<Reverse<(BootTime, ConnId)>>,
    closed: VecDeque<(BootTime, ConnId)>,
    held: usize,
    recognise: Recognise,
}

impl Reassembly {
    /// Without connections.
    pub fn new(recognise: Recognise) -> Reassembly {
        Reassembly::with_room(recognise, MAX_CONNS)
    }

    fn with_room(recognise: Recognise, max_conns: usize) -> Reassembly {
        Reassembly {
            by_key: FxHashMap::default(),
            links: Tracker::new(max_conns),
            rest: Rest {
                now: BootTime(0),
                counts: Counts::default(),
                last_id: 0,
                servers: FxHashSet::default(),
                due: BinaryHeap::new(),
                closed: VecDeque::new(),
                held: 0,
                recognise,
            },
        }
    }

    /// What was seen so far.
    pub fn counts(&self) -> Counts {
        self.rest.counts
    }

    /// A name that no connection has, for something else that is followed in the same capture.
    pub fn new_id(&mut self, time: BootTime) -> ConnId {
        self.rest.new_id(time)
    }

    /// Takes a segment in; what it makes known is appended to `out`.
    pub fn take(&mut self, segment: Segment, out: &mut Vec<Event>) {
        self.rest.counts.segments += 1;
        self.rest.counts.cut += u64::from((segment.payload.len() as u64) < u64::from(segment.bytes));
        self.pass(segment.time, out);
        if segment.source == segment.destination {
            // Which way it went cannot be told.
            self.rest.counts.stray += 1;
            return;
        }
        let side = usize::from(segment.source > segment.destination);
        let (low, high) = match side {
            0 => (segment.source, segment.destination),
            _ => (segment.destination, segment.source),
        };
        let key = (segment.family, low, high);
        let known = self.by_key.get(&key).copied();
        let is_other =
            known.and_then(|id| self.links.get_mut(id)).is_none_or(|link| link.is_other(side, &segment));
        let id = match known {
            Some(id) if !is_other => id,
            _ if !segment.syn && (segment.bytes == 0 || segment.reset) => {
                self.rest.counts.stray += 1;
                return;
            }
            _ => {
                if let Some(id) = known {
                    self.remove(id, out);
                }
                self.begin(key, side, &segment, out)
            }
        };
        self.with(id, |link, rest| link.take(side, segment, rest, out));
    }

    /// Time passes.
    pub fn pass(&mut self, time: BootTime, out: &mut Vec<Event>) {
        self.rest.now = self.rest.now.max(time);
        let now = self.rest.now;
        while let Some(&Reverse((due, id))) = self.rest.due.peek()
            && due <= now
        {
            self.rest.due.pop();
            self.with(id, |link, rest| link.overdue(rest, out));
        }
        while let Some(&(at, id)) = self.rest.closed.front()
            && at.0.saturating_add(CLOSED_NS) <= now.0
        {
            self.rest.closed.pop_front();
            self.remove(id, out);
        }
    }

    /// The capture is over: what waited is told. Connections that were open stay open.
    pub fn finish(&mut self, out: &mut Vec<Event>) {
        let ids: Vec<ConnId> = self.links.iter().map(|link| link.id).collect();
        for id in ids {
            self.with(id, |link, rest| link.flush(rest, out));
        }
    }

    fn with(&mut self, id: ConnId, act: impl FnOnce(&mut Link, &mut Rest)) {
        let Some(link) = self.links.touch(id) else { return };
        let before = link.held();
        act(link, &mut self.rest);
        self.rest.held = self.rest.held.saturating_sub(before) + link.held();
    }

    fn begin(&mut self, key: Key, side: usize, segment: &Segment, out: &mut Vec<Event>) -> ConnId {
        while self.links.is_full() {
            let Some((idlest, state)) = self.links.idlest().map(|link| (link.id, link.state)) else { break };
            self.rest.counts.conns_full += u64::from(state != State::Closed);
            self.remove(idlest, out);
        }
        let id = self.rest.new_id(segment.time);
        let server = match segment.acknowledged {
            // Of a SYN the other side serves, of its answer this one.
            None => 1 - side,
            Some(_) => side,
        };
        let mut link = Link::new(id, key, server, segment.syn);
        if !segment.syn {
            link.state = State::Undecided;
            link.server = usize::from(link.end(1).port < link.end(0).port);
            link.wait_until(segment.time, UNDECIDED_NS, &mut self.rest);
        }
        self.by_key.insert(key, id);
        self.links.insert(id, link);
        id
    }

    /// Lets go of a connection. One that has not ended is told to be over: its end was not seen.
    fn remove(&mut self, id: ConnId, out: &mut Vec<Event>) {
        self.with(id, |link, rest| {
            if link.state != State::Closed {
                link.flush(rest, out);
                link.close(rest.now, abi::CLOSE_REPLACED, 0, rest, out);
            }
        });
        if let Some(link) = self.links.remove(id) {
            self.rest.held = self.rest.held.saturating_sub(link.held());
            if self.by_key.get(&link.key) == Some(&id) {
                self.by_key.remove(&link.key);
            }
        }
    }
}

impl Rest {
    /// A name as the kernel side makes them, never used again within the nine years after which they wrap.
    fn new_id(&mut self, time: BootTime) -> ConnId {
        let made = abi::conn_id(time.0, 0);
        let is_later = self.last_id == 0 || made.wrapping_sub(self.last_id) as i64 > 0;
        self.last_id = if is_later { made } else { self.last_id.wrapping_add(1) }.max(1);
        ConnId(self.last_id)
    }
}

#[cfg(test)]
mod tests;
