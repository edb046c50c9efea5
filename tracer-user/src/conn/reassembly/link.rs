//! One connection of a capture: what of it is in order, what waits, and what is told of it.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, VecDeque},
};

use bytes::Bytes;
use tracer_ebpf as abi;

use super::{Endpoint, Key, Rest, Segment, Speech};
use crate::{
    conn::turns::SHORTEST_REQUEST,
    event::{ConnClose, ConnId, ConnOpen, ConnShut, Data, Direction, Event, Role},
    time::BootTime,
};

/// Bytes that one direction may hold back behind a hole; more than a window of 4 MiB is rare, and costs a gap where it happens.
const MAX_HELD_BYTES: usize = 4 << 20;
/// Bytes that all connections together may hold back.
const MAX_HELD_TOTAL: usize = 64 << 20;
/// What a held segment takes beside its bytes.
const HELD_OVERHEAD: usize = 128;
/// Segments of a connection that wait for a decision.
const MAX_WAITING: usize = 256;
/// Servers remembered, for connections joined in the middle. 65,536 × 18 bytes.
const MAX_SERVERS: usize = 65_536;
/// How long bytes that were acknowledged may come late: half of the window in which the pipeline puts events in order.
const GRACE_NS: u64 = 10_000_000;
/// How long bytes may be missing that nobody acknowledged: several of TCP's time-outs.
const HOLE_NS: u64 = 5_000_000_000;
/// Farther away than the largest window of TCP (RFC 7323) no sequence number is the same connection's.
const MAX_DISTANCE: u64 = 1 << 30;
/// So near are an ended connection's late packets.
const NEAR: u64 = 64 << 20;
/// `ECONNRESET`.
const RESET_ERROR: u32 = 104;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// SYN seen.
    Opening,
    /// Joined in the middle; who serves is not known yet.
    Undecided,
    Open,
    Closed,
}

/// One connection. Sides are 0 and 1 as in the key.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) id: ConnId,
    pub(super) key: Key,
    pub(super) state: State,
    /// Side of the server.
    pub(super) server: usize,
    /// A SYN told who serves.
    certain: bool,
    /// SYN and SYN-ACK were seen.
    answered: bool,
    sides: [Side; 2],
    turn: u32,
    speaker: Option<usize>,
    /// Time of the newest event.
    told: BootTime,
    waiting: VecDeque<(usize, Segment)>,
    /// Until when they wait; `None`: nothing waits.
    until: Option<BootTime>,
    /// The hole that they wait for: whose bytes, and up to where.
    hole: (usize, u64),
}

/// One direction. Positions are sequence numbers extended to 64 bits, 2^32 more than the first one seen.
#[derive(Debug, Default)]
struct Side {
    /// Sequence number of the SYN.
    first: Option<u32>,
    next: Option<u64>,
    /// What is ahead of `next`, without overlaps.
    held: BTreeMap<u64, Piece>,
    held_bytes: usize,
    hole_since: BootTime,
    /// Position of the FIN.
    fin: Option<u64>,
    finished: bool,
    /// Bytes were told, or are known to be missing.
    spoke: bool,
    /// Missing bytes, since the other side was heard of in between.
    unseen: u64,
}

#[derive(Debug)]
struct Piece {
    bytes: u64,
    payload: Bytes,
}

fn start(sequence: u32) -> u64 {
    (1 << 32) + u64::from(sequence)
}

/// The position of a sequence number near `next`.
fn extend(next: u64, sequence: u32) -> u64 {
    let distance = sequence.wrapping_sub(next as u32) as i32;
    next.wrapping_add_signed(i64::from(distance))
}

impl Link {
    /// `certain`: a SYN told who serves.
    pub(super) fn new(id: ConnId, key: Key, server: usize, certain: bool) -> Link {
        Link {
            id,
            key,
            state: State::Opening,
            server,
            certain,
            answered: false,
            sides: Default::default(),
            turn: 0,
            speaker: None,
            told: BootTime(0),
            waiting: VecDeque::new(),
            until: None,
            hole: (0, 0),
        }
    }

    pub(super) fn end(&self, side: usize) -> Endpoint {
        if side == 0 { self.key.1 } else { self.key.2 }
    }

    pub(super) fn held(&self) -> usize {
        let waiting =
            self.waiting.iter().map(|(_, segment)| segment.payload.len() + HELD_OVERHEAD).sum::<usize>();
        waiting + self.sides.iter().map(|side| side.held_bytes).sum::<usize>()
    }

    /// Whether a segment between the same ends is of another connection.
    pub(super) fn is_other(&self, side: usize, segment: &Segment) -> bool {
        let Side { first, next, .. } = self.sides[side];
        match (first, next) {
            (Some(first), _) if segment.syn => first != segment.sequence,
            (None, Some(next)) if segment.syn => {
                // A SYN behind its bytes is the same connection's where packets are not in order.
                let at = extend(next, segment.sequence.wrapping_add(1));
                self.certain || at > next || next - at > NEAR
            }
            (_, Some(next)) if self.state == State::Closed && segment.bytes > 0 => {
                extend(next, segment.sequence).abs_diff(next) > NEAR
            }
            _ => false,
        }
    }

    pub(super) fn take(&mut self, side: usize, segment: Segment, rest: &mut Rest, out: &mut Vec<Event>) {
        if self.state == State::Closed {
            rest.counts.stray += u64::from(segment.bytes > 0);
        } else if self.until.is_none() {
            self.apply(side, segment, false, rest, out);
        } else if self.state == State::Undecided {
            self.decide(side, segment, rest, out);
        } else {
            self.fill(side, segment, rest, out);
        }
    }

    pub(super) fn wait_until(&mut self, from: BootTime, wait_ns: u64, rest: &mut Rest) {
        let until = BootTime(from.0.saturating_add(wait_ns));
        self.until = Some(until);
        rest.due.push(Reverse((until, self.id)));
    }

    /// A segment of a connection of which it is not known yet who serves.
    fn decide(&mut self, side: usize, segment: Segment, rest: &mut Rest, out: &mut Vec<Event>) {
        let serves = match (rest.recognise)(&segment.payload) {
            Some(Speech::Asks) => Some(1 - side),
            Some(Speech::Answers) => Some(side),
            None => {
                let known = [0, 1].map(|side| rest.servers.contains(&self.end(side)));
                (known[0] != known[1]).then_some(usize::from(known[1]))
            }
        };
        self.waiting.push_back((side, segment));
        if let Some(serves) = serves {
            self.server = serves;
        }
        if serves.is_some() || self.waiting.len() >= MAX_WAITING {
            self.decided(rest, out);
        }
    }

    fn decided(&mut self, rest: &mut Rest, out: &mut Vec<Event>) {
        self.state = State::Open;
        let time = self.waiting.front().map_or(rest.now, |(_, segment)| segment.time);
        self.open(time, out);
        self.resume(false, rest, out);
    }

    /// A segment of a connection that waits for bytes that were acknowledged and are not there.
    fn fill(&mut self, side: usize, segment: Segment, rest: &mut Rest, out: &mut Vec<Event>) {
        let (whose, end) = self.hole;
        let next = self.sides[whose].next.unwrap_or(0);
        if side == whose && segment.bytes > 0 && extend(next, segment.sequence) < end {
            let time = segment.time;
            self.receive(side, segment, rest);
            self.settle(side, time, rest, out);
            if self.sides[whose].next.is_some_and(|next| next >= end) {
                self.resume(false, rest, out);
            }
            return;
        }
        self.waiting.push_back((side, segment));
        if self.waiting.len() >= MAX_WAITING {
            self.resume(true, rest, out);
        }
    }

    /// Applies what waited. `forced`: the first of it waits no longer, whatever is missing.
    fn resume(&mut self, mut forced: bool, rest: &mut Rest, out: &mut Vec<Event>) {
        self.until = None;
        let mut waiting = std::mem::take(&mut self.waiting);
        while let Some((side, segment)) = waiting.pop_front() {
            if self.state == State::Closed {
                return;
            }
            self.apply(side, segment, std::mem::take(&mut forced), rest, out);
            if self.until.is_some() {
                self.waiting.append(&mut waiting);
            }
        }
    }

    pub(super) fn overdue(&mut self, rest: &mut Rest, out: &mut Vec<Event>) {
        let now = rest.now;
        if self.until.is_some_and(|until| until <= now) {
            self.give_up_waiting(rest, out);
        }
        for side in 0..2 {
            if self.sides[side].held.is_empty() || self.state == State::Closed {
                continue;
            }
            let due = BootTime(self.sides[side].hole_since.0.saturating_add(HOLE_NS));
            if due <= now {
                self.give_up(side, None, now, rest, out);
                self.settle(side, now, rest, out);
            } else {
                rest.due.push(Reverse((due, self.id)));
            }
        }
    }

    fn give_up_waiting(&mut self, rest: &mut Rest, out: &mut Vec<Event>) {
        match self.state {
            State::Undecided => self.decided(rest, out),
            _ => self.resume(true, rest, out),
        }
    }

    /// Tells all that waits.
    pub(super) fn flush(&mut self, rest: &mut Rest, out: &mut Vec<Event>) {
        while self.until.is_some() {
            self.give_up_waiting(rest, out);
        }
        for side in 0..2 {
            while !self.sides[side].held.is_empty() {
                self.give_up(side, None, rest.now, rest, out);
                self.settle(side, rest.now, rest, out);
            }
        }
    }

    /// A segment. `forced`: what it acknowledges and is missing stays missing.
    fn apply(
        &mut self,
        side: usize,
        mut segment: Segment,
        forced: bool,
        rest: &mut Rest,
        out: &mut Vec<Event>,
    ) {
        let (other, time) = (1 - side, segment.time);
        if segment.syn {
            let sequence = segment.sequence.wrapping_add(1);
            self.sides[side].first = Some(segment.sequence);
            self.sides[side].next.get_or_insert(start(sequence));
            if let Some(ack) = segment.acknowledged.take() {
                self.sides[other].next.get_or_insert(start(ack));
                self.answered = true;
            }
            if self.certain && rest.servers.len() < MAX_SERVERS {
                rest.servers.insert(self.end(self.server));
            }
            segment.sequence = sequence;
        }
        if segment.reset {
            return self.reset(side, &segment, rest, out);
        }
        if self.state == State::Opening {
            let established = self.answered && side != self.server && !segment.syn;
            if !established && segment.bytes == 0 && !segment.fin {
                return;
            }
            self.state = State::Open;
            self.open(time, out);
        }
        if let Some(ack) = segment.acknowledged
            && let Some(end) = self.acknowledged(other, ack)
        {
            if !forced {
                self.hole = (other, end);
                self.waiting.push_front((side, segment));
                return self.wait_until(time, GRACE_NS, rest);
            }
            // A client's bytes only: where a server's are missing, those of the client before them may be of the question that was seen.
            if segment.bytes > 0 && side != self.server {
                self.jump(side, segment.sequence, time, rest, out);
            }
            self.give_up(other, Some(end), time, rest, out);
            self.settle(other, time, rest, out);
            if self.state == State::Closed {
                return;
            }
        }
        if segment.fin {
            let next = *self.sides[side].next.get_or_insert(start(segment.sequence));
            let at = extend(next, segment.sequence.wrapping_add(segment.bytes));
            if at.abs_diff(next) <= MAX_DISTANCE {
                self.sides[side].fin.get_or_insert(at);
            }
        }
        if segment.bytes > 0 {
            self.receive(side, segment, rest);
        }
        self.settle(side, time, rest, out);
        let is_full = self.sides[side].held_bytes > MAX_HELD_BYTES
            || (rest.held > MAX_HELD_TOTAL && !self.sides[side].held.is_empty());
        if is_full && self.state != State::Closed {
            rest.counts.held_full += 1;
            self.give_up(side, None, time, rest, out);
            self.settle(side, time, rest, out);
        }
    }

    /// Up to where bytes of `side` are acknowledged, if some of them are not there.
    fn acknowledged(&mut self, side: usize, ack: u32) -> Option<u64> {
        let side = &mut self.sides[side];
        let next = *side.next.get_or_insert(start(ack));
        let at = extend(next, ack);
        let end = side.fin.map_or(at, |fin| at.min(fin));
        // One byte more may be the place of a FIN that is not there, unless bytes or the FIN are known to be behind it.
        let is_followed = !side.held.is_empty() || side.fin.is_some_and(|fin| fin > next);
        let is_missing = end > next + 1 || (end > next && is_followed);
        (is_missing && end - next <= MAX_DISTANCE).then_some(end)
    }

    /// Takes the bytes of a segment in.
    fn receive(&mut self, side: usize, segment: Segment, rest: &mut Rest) {
        let Segment { sequence, bytes, payload, .. } = segment;
        let own = &mut self.sides[side];
        let next = *own.next.get_or_insert(start(sequence));
        let from = extend(next, sequence);
        let end = from + u64::from(bytes);
        if from > next + MAX_DISTANCE {
            rest.counts.stray += 1;
            return;
        }
        if from > next && own.held.is_empty() {
            own.hole_since = rest.now;
            rest.due.push(Reverse((BootTime(rest.now.0.saturating_add(HOLE_NS)), self.id)));
        }
        rest.counts.ahead += u64::from(from > next);
        let mut is_new = false;
        let mut at = from.max(next);
        while at < end {
            let before =
                own.held.range(..=at).next_back().map_or(0, |(position, piece)| position + piece.bytes);
            if before > at {
                at = before;
                continue;
            }
            let until = own.held.range(at..).next().map_or(end, |(position, _)| (*position).min(end));
            let cut =
                |position: u64| usize::try_from(position - from).unwrap_or(usize::MAX).min(payload.len());
            let piece = Piece { bytes: until - at, payload: payload.slice(cut(at)..cut(until)) };
            own.held_bytes += piece.payload.len() + HELD_OVERHEAD;
            own.held.insert(at, piece);
            is_new = true;
            at = until;
        }
        rest.counts.repeated += u64::from(!is_new);
    }

    /// Gives up the bytes before `end`, or those before the first that are held.
    fn give_up(
        &mut self,
        side: usize,
        end: Option<u64>,
        time: BootTime,
        rest: &mut Rest,
        out: &mut Vec<Event>,
    ) {
        loop {
            self.deliver(side, time, rest, out);
            let own = &mut self.sides[side];
            let Some(next) = own.next else { return };
            let first = own.held.keys().next().copied();
            let Some(to) = end.map_or(first, |end| Some(first.map_or(end, |first| first.min(end)))) else {
                return;
            };
            if to <= next {
                return;
            }
            rest.counts.gaps += 1;
            rest.counts.gap_bytes += to - next;
            own.next = Some(to);
            own.spoke = true;
            own.hole_since = rest.now;
            own.unseen += to - next;
            // A single byte is no message: it may have been acknowledged without its turn (see `acknowledged`).
            if to - next > 1 {
                self.speak(side);
            }
            if end.is_none() {
                return;
            }
        }
    }

    /// Bytes that the other side sent are missing, and so are some of this side's before `sequence`: a question and its answer, most
    /// likely. They are turns of their own, and what comes now begins another. Were they the head of the same turn, a question is lost as well.
    fn jump(&mut self, side: usize, sequence: u32, time: BootTime, rest: &mut Rest, out: &mut Vec<Event>) {
        self.deliver(side, time, rest, out);
        let own = &mut self.sides[side];
        let Some(next) = own.next else { return };
        let from = extend(next, sequence);
        if own.held.is_empty() && from > next && from - next <= MAX_DISTANCE {
            rest.counts.gaps += 1;
            rest.counts.gap_bytes += from - next;
            own.next = Some(from);
            own.spoke = true;
            own.unseen += from - next;
            self.speak(side);
        }
    }

    /// Tells what is in order, the end of a direction, and that of the connection.
    fn settle(&mut self, side: usize, time: BootTime, rest: &mut Rest, out: &mut Vec<Event>) {
        self.deliver(side, time, rest, out);
        let own = &mut self.sides[side];
        if own.finished || self.state != State::Open || own.fin.is_none_or(|fin| own.next != Some(fin)) {
            return;
        }
        own.finished = true;
        let position = own.next.unwrap_or(0);
        let time = self.now(time);
        let direction = self.direction(side);
        out.push(Event::ConnShut(ConnShut { time, conn: self.id, direction }));
        if direction == Direction::Ingress {
            // As the call that returns nothing: the server will read no more.
            let (conn, turn, flags) = (self.id, self.turn, abi::FLAG_EOF);
            out.push(Event::Data(Data { time, conn, position, turn, flags, n_calls: 1, ..Data::default() }));
        }
        if self.sides.iter().all(|side| side.finished) {
            self.close(time, abi::CLOSE_NORMAL, 0, rest, out);
        }
    }

    fn deliver(&mut self, side: usize, time: BootTime, rest: &mut Rest, out: &mut Vec<Event>) {
        while let Some(first) = self.sides[side].held.first_entry()
            && Some(*first.key()) == self.sides[side].next
        {
            let own = &mut self.sides[side];
            let Some((position, Piece { bytes, payload })) = own.held.pop_first() else { return };
            own.held_bytes = own.held_bytes.saturating_sub(payload.len() + HELD_OVERHEAD);
            own.next = Some(position + bytes);
            own.spoke = true;
            own.hole_since = rest.now;
            let begins = self.speak(side);
            let [one, other] = self.sides.each_ref().map(|side| side.unseen);
            if one > 0 && other > 0 {
                rest.counts.turns_hidden += one.min(other) / SHORTEST_REQUEST;
            }
            if begins || (one > 0 && other > 0) {
                self.sides.iter_mut().for_each(|side| side.unseen = 0);
            }
            let egress = if self.direction(side) == Direction::Egress { abi::FLAG_EGRESS } else { 0 };
            let data = Data {
                time: self.now(time),
                conn: self.id,
                position,
                bytes,
                turn: self.turn,
                flags: egress | if begins { abi::FLAG_TURN_START } else { 0 },
                n_calls: 1,
                payload,
                ..Data::default()
            };
            out.push(Event::Data(data));
        }
    }

    /// A side speaks; returns whether that begins a turn.
    fn speak(&mut self, side: usize) -> bool {
        let begins = self.speaker != Some(side);
        if begins {
            self.speaker = Some(side);
            self.turn = self.turn.saturating_add(1);
        }
        begins
    }

    fn direction(&self, side: usize) -> Direction {
        if side == self.server { Direction::Egress } else { Direction::Ingress }
    }

    fn now(&mut self, time: BootTime) -> BootTime {
        self.told = self.told.max(time);
        self.told
    }

    fn open(&mut self, time: BootTime, out: &mut Vec<Event>) {
        let time = self.now(time);
        let (server, client) = (self.end(self.server), self.end(1 - self.server));
        out.push(Event::ConnOpen(ConnOpen {
            time,
            conn: self.id,
            established: if self.certain { time } else { BootTime(0) },
            tuple: abi::Tuple {
                local: server.address,
                remote: client.address,
                local_port: server.port,
                remote_port: client.port,
                family: self.key.0,
                reserved: 0,
            },
            role: if self.certain { Role::Server } else { Role::Unknown },
            flags: if self.certain { 0 } else { abi::FLAG_MID_JOIN },
            ..ConnOpen::default()
        }));
    }

    fn reset(&mut self, side: usize, segment: &Segment, rest: &mut Rest, out: &mut Vec<Event>) {
        if self.state == State::Opening {
            rest.counts.refused += 1;
            self.state = State::Closed;
            rest.closed.push_back((rest.now, self.id));
            return;
        }
        let next = self.sides[side].next.unwrap_or_else(|| start(segment.sequence));
        let at = extend(next, segment.sequence);
        if at > next + MAX_DISTANCE || next.saturating_sub(at) > NEAR {
            rest.counts.stray += 1;
            return;
        }
        self.flush(rest, out);
        self.close(segment.time, abi::CLOSE_RESET, RESET_ERROR, rest, out);
    }

    pub(super) fn close(
        &mut self,
        time: BootTime,
        reason: u32,
        error: u32,
        rest: &mut Rest,
        out: &mut Vec<Event>,
    ) {
        if self.state == State::Open {
            let time = self.now(time);
            let mut position = [0; 2];
            for (at, side) in self.sides.iter().enumerate().filter(|(_, side)| side.spoke) {
                position[self.direction(at).index()] = side.next.unwrap_or(0);
            }
            let (conn, turn) = (self.id, self.turn);
            out.push(Event::ConnClose(ConnClose { time, conn, position, turn, reason, n_refused: 0, error }));
        }
        if self.state != State::Closed {
            self.state = State::Closed;
            rest.closed.push_back((rest.now, self.id));
        }
        self.waiting.clear();
        self.until = None;
        for side in &mut self.sides {
            side.held.clear();
            side.held_bytes = 0;
        }
    }
}
