//! The exchange on one connection: bytes in order go to the parser, what it finds goes to pairing.
//!
//! The parser sees an event's payload where it lies. Bytes are copied only when a message is not complete yet. A parser
//! may account for more bytes than it was shown (`Consume`): what lies inside an announced length needs no capture, and
//! missing bytes there cost nothing but their own times. Missing bytes where the parser has to look are a counted gap.

use serde::{Deserialize, Serialize};
use tracer_ebpf as abi;

use super::pairing::{Around, Effects, Open, Pairs};
use crate::{
    conn::{
        connection::Connection,
        stream::{Stamp, Stream},
        turns::Missing,
    },
    event::{ConnClose, Data, Direction, Role},
    protocol::{Body, Flow, Inference, Mark, Pairing, Parser, REGISTRY, Resync, Step},
    time::BootTime,
    transaction::End,
};

/// Steps without progress in a row before a flow is given up (the contract of [`Parser::step`]).
const MAX_IDLE_STEPS: u32 = 64;
/// Bytes of a turn that inference may ask for.
const INFER_BYTES: usize = 4096;
/// Turns that may pass without a protocol being recognised.
const INFER_TURNS: u32 = 3;
/// The same on a connection that was joined in the middle: its first turns may be the rest of long bodies.
const INFER_TURNS_MID_JOIN: u32 = 16;
/// A held buffer keeps at most this capacity once it is empty: 65,536 connections × 2 directions × 2 KiB = 256 MiB at the
/// very worst, nothing for connections whose heads come whole.
const KEEP_CAPACITY: usize = 2048;
/// An announced length from which on copying pauses until its end (a verdict costs a map update).
const RESUME_ABOVE: u64 = 16 * 1024;

/// Bounds of one exchange.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Requests in flight.
    pub max_in_flight: usize,
    /// Bytes held back while a message is incomplete.
    pub max_held_bytes: usize,
    /// Keep the raw target.
    pub keep_target: bool,
}

/// What an exchange needs for one event and what it leaves behind.
pub struct Turnover<'a> {
    /// Bounds.
    pub limits: Limits,
    /// Scratch.
    pub marks: &'a mut Vec<Mark>,
    /// What came of it.
    pub fx: &'a mut Effects,
}

/// One flow's place between the bytes and the parser.
#[derive(Debug, Default, Serialize, Deserialize)]
struct FlowState {
    /// Bytes of an announced length still to come.
    skip: u64,
    /// Messages that end with the last of them.
    ends: Vec<u64>,
    /// Everything until the close belongs to the message in progress.
    until_close: bool,
    /// The parser looks for a boundary.
    resyncing: bool,
    /// Bytes missing before what it will be shown.
    missing: u64,
    /// Bytes shown and not accounted for; they end at the stream's position.
    held: Vec<u8>,
    /// Where they came from: position, and the event's stamp.
    spans: Vec<(u64, Stamp)>,
    /// The last event.
    last: Stamp,
    /// Inference has given up on this turn.
    skip_turn: bool,
}

/// What is known of the protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
enum Known {
    /// Nothing yet; turns that told nothing.
    No {
        /// Number.
        turns: u32,
    },
    /// It is recognised.
    Yes,
    /// No parser knows it.
    #[default]
    Opaque,
}

/// Why bytes cannot be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blind {
    /// Their events were lost.
    Lost,
    /// The same, before the first bytes seen of a direction on a connection that is older than the tracer: they may have
    /// been the rest of a message that began before.
    LostOld,
    /// They were not captured.
    NotCaptured,
}

/// The exchange on one connection.
#[derive(Serialize, Deserialize)]
pub struct Exchange {
    known: Known,
    /// Index into [`REGISTRY`]; saved by name.
    #[serde(skip)]
    protocol: usize,
    #[serde(skip)]
    parser: Option<Box<dyn Parser>>,
    /// The direction that carries requests.
    requests: Direction,
    /// The role was guessed from who asks.
    guessed: bool,
    flows: [FlowState; 2],
    pairs: Pairs,
    /// A message's length was not known in advance, or a head was not captured: everything has to be.
    everything: bool,
    /// Last verdict given: mode and resume positions.
    verdict: (u32, [u64; 2]),
}

impl Default for Exchange {
    fn default() -> Self {
        Exchange {
            known: Known::No { turns: 0 },
            protocol: 0,
            parser: None,
            requests: Direction::Ingress,
            guessed: false,
            flows: Default::default(),
            pairs: Pairs::default(),
            everything: false,
            verdict: (abi::VERDICT_HEADS, [0; 2]),
        }
    }
}

impl Exchange {
    /// Registry name of the protocol, once it is known.
    pub fn protocol(&self) -> Option<&'static str> {
        (self.known == Known::Yes)
            .then(|| REGISTRY.get(self.protocol).map(|protocol| protocol.name()))
            .flatten()
    }

    /// The direction that carries requests, once it is known.
    pub fn requests(&self) -> Option<Direction> {
        (self.known == Known::Yes).then_some(self.requests)
    }

    /// Role of the traced process by who asks.
    pub fn role(&self) -> Role {
        match self.requests() {
            None => Role::Unknown,
            Some(Direction::Ingress) => Role::Server,
            Some(Direction::Egress) => Role::Client,
        }
    }

    /// The role was guessed.
    pub fn is_guessed(&self) -> bool {
        self.guessed
    }

    /// No parser knows the protocol.
    pub fn is_opaque(&self) -> bool {
        self.known == Known::Opaque
    }

    /// Requests in flight.
    pub fn open(&self) -> impl Iterator<Item = &Open> {
        self.pairs.open()
    }

    /// Requests in flight.
    pub fn pairs(&self) -> &Pairs {
        &self.pairs
    }

    /// Requests in flight.
    pub fn pairs_mut(&mut self) -> &mut Pairs {
        &mut self.pairs
    }

    /// The parser's state (checkpoint).
    pub fn parser_state(&self) -> Option<Vec<u8>> {
        self.parser.as_ref().map(|parser| parser.save())
    }

    /// Takes over a parser's state. `false`: no such protocol, or no such state.
    pub fn restore_parser(&mut self, protocol: &str, state: &[u8]) -> bool {
        let Some(at) = REGISTRY.iter().position(|candidate| candidate.name() == protocol) else {
            return false;
        };
        let mut parser = REGISTRY[at].parser();
        let good = parser.load(state);
        self.protocol = at;
        self.parser = Some(parser);
        good
    }

    /// When the response that must end with its turn was last heard of.
    pub fn quiet_since(&self) -> Option<BootTime> {
        self.pairs.awaits_turn().then(|| self.flows[self.requests.flip().index()].last.last)
    }

    /// The direction that has to speak before `data` can be applied: an answer now would be one that nobody asked for.
    ///
    /// Only where the question can still come: the kernel numbers turns in the order of its hooks, so that a question
    /// that is stamped after its answer has the later number. Where something was lost, an answer waits for nothing: its
    /// question may be what was lost, and the next question is not its own.
    pub fn question(&self, conn: &Connection, data: &Data) -> Option<Direction> {
        if !conn.turns.is_intact() || (conn.mid_join && !self.pairs.has_begun()) {
            return None;
        }
        let (requests, waits) = match (self.known, conn.role) {
            (Known::Opaque, _) | (Known::No { .. }, Role::Unknown) => return None,
            (Known::Yes, _) => {
                let flow = &self.flows[self.requests.flip().index()];
                let quiet = flow.skip == 0
                    && flow.held.is_empty()
                    && !flow.until_close
                    && !flow.resyncing
                    && !self.flows[self.requests.index()].resyncing;
                (self.requests, quiet && self.pairs.owes_nothing() && !self.pairs.in_response())
            }
            (Known::No { .. }, role) => {
                let requests = if role == Role::Client { Direction::Egress } else { Direction::Ingress };
                (requests, !conn.streams[requests.index()].started)
            }
        };
        let asked = self.flows[requests.index()].last.turn;
        (waits && data.direction() != requests && data.turn <= asked.saturating_add(1)).then_some(requests)
    }

    fn flow(&self, direction: Direction) -> Flow {
        if direction == self.requests { Flow::Request } else { Flow::Response }
    }

    fn in_progress(&self, flow: Flow) -> bool {
        match flow {
            Flow::Request => self.pairs.in_request(),
            Flow::Response => self.pairs.in_response(),
        }
    }

    /// `missing` bytes of a direction, not seen, belong to messages whose length is known anyway.
    fn is_inside(&self, direction: Direction, missing: u64) -> bool {
        let flow = &self.flows[direction.index()];
        self.known == Known::Yes && (self.pairs.is_tunnel() || flow.until_close || missing <= flow.skip)
    }

    /// Applies one event, in order: `missing` bytes before it were not seen, its first `seen` bytes were seen before.
    pub fn data(
        &mut self,
        conn: &mut Connection,
        data: &Data,
        missing: u64,
        seen: u64,
        turnover: &mut Turnover<'_>,
    ) {
        let direction = data.direction();
        let at = direction.index();
        let stamp = Stamp::of(data).skip(seen);
        let have = data.payload.len().min(usize::try_from(data.bytes).unwrap_or(usize::MAX));
        let payload =
            data.payload.get(usize::try_from(seen).unwrap_or(usize::MAX).min(have)..have).unwrap_or(&[]);
        let hole = (data.bytes - seen) - payload.len() as u64;

        let stream: Stream = conn.streams[at];
        let absent = match (stream.started, missing) {
            (false, _) => Missing::Outside,
            (true, 0) => Missing::Nothing,
            (true, _) if self.is_inside(direction, missing) => Missing::Inside,
            (true, _) => Missing::Outside,
        };
        let flow = &self.flows[at];
        let continues = self.known == Known::Yes
            && absent != Missing::Outside
            && (flow.skip > missing
                || flow.until_close
                || self.pairs.is_tunnel()
                || !flow.held.is_empty()
                || (flow.skip == 0 && self.in_progress(self.flow(direction))));
        let old = conn.mid_join || conn.forgotten;
        conn.turns.observe(direction, data.turn, stamp.turn_start, absent, continues, old);

        if self.known == Known::Yes {
            let other = direction.flip();
            if data.turn > self.flows[other.index()].last.turn {
                let last = self.flows[other.index()].last;
                let response = self.flow(other) == Flow::Response;
                self.pairs.turn_over(response, conn.streams[other.index()].next, &last, turnover.fx);
            }
            // The first bytes seen of a direction tell no position before them, but their turn does.
            let begins_late = !stream.started && (data.turn > 2 || !stamp.turn_start);
            let missing = if begins_late { 1 } else { missing };
            if missing > 0 {
                let why = if begins_late && old { Blind::LostOld } else { Blind::Lost };
                self.blind(conn, direction, stream.next, missing, why, &stamp, turnover);
            }
        } else if missing > 0 {
            self.drop_unrecognised(conn, direction);
        }
        conn.streams[at].advance(data.end());
        self.flows[at].last = stamp;
        match self.known {
            Known::Opaque => {}
            Known::No { turns } => self.infer(conn, direction, payload, hole, &stamp, turns, turnover),
            Known::Yes => self.parse(conn, direction, payload, hole, &stamp, turnover),
        }
    }
    /// Bytes of a direction whose protocol is not known yet.
    #[expect(clippy::too_many_arguments, reason = "one call; the arguments are one event's parts")]
    fn infer(
        &mut self,
        conn: &mut Connection,
        direction: Direction,
        payload: &[u8],
        hole: u64,
        stamp: &Stamp,
        turns: u32,
        turnover: &mut Turnover<'_>,
    ) {
        let flow = &mut self.flows[direction.index()];
        if stamp.turn_start {
            flow.held.clear();
            flow.spans.clear();
            flow.skip_turn = false;
        }
        if !stamp.turn_start && flow.held.is_empty() {
            // The middle of something.
            flow.skip_turn = true;
        }
        if flow.skip_turn || payload.is_empty() {
            return;
        }
        let joined;
        let head = if flow.held.is_empty() {
            payload
        } else {
            joined = [&flow.held, payload].concat();
            &joined
        };
        let mut need_more = false;
        for (at, protocol) in REGISTRY.iter().enumerate() {
            let requests = match protocol.infer(head) {
                Inference::Request => direction,
                Inference::Response => direction.flip(),
                Inference::NeedMore => {
                    need_more = true;
                    continue;
                }
                Inference::No => continue,
            };
            let role = if requests == Direction::Ingress { Role::Server } else { Role::Client };
            if conn.role_by_kernel && conn.role != role {
                continue;
            }
            self.guessed = conn.role != role;
            conn.role = role;
            self.known = Known::Yes;
            self.protocol = at;
            self.parser = Some(protocol.parser());
            self.requests = requests;
            // What the other direction said before told nothing: the rest of something older.
            self.drop_unrecognised(conn, direction.flip());
            self.parse(conn, direction, payload, hole, stamp, turnover);
            return;
        }
        if need_more && hole == 0 && head.len() < INFER_BYTES {
            let flow = &mut self.flows[direction.index()];
            flow.spans.push((stamp.position, *stamp));
            flow.held.extend_from_slice(payload);
            return;
        }
        flow.held.clear();
        flow.spans.clear();
        flow.skip_turn = true;
        let most = if conn.mid_join { INFER_TURNS_MID_JOIN } else { INFER_TURNS };
        self.known = if turns + 1 >= most { Known::Opaque } else { Known::No { turns: turns + 1 } };
    }

    /// The beginning of something whose rest was not seen.
    fn drop_unrecognised(&mut self, conn: &mut Connection, direction: Direction) {
        let flow = &mut self.flows[direction.index()];
        if let Some((_, stamp)) = flow.spans.first() {
            conn.turns.head_not_seen(direction, stamp.turn, conn.mid_join || conn.forgotten);
        }
        flow.held.clear();
        flow.spans.clear();
    }

    /// Bytes of a direction: `payload`, then `hole` bytes that were not captured.
    fn parse(
        &mut self,
        conn: &mut Connection,
        direction: Direction,
        mut payload: &[u8],
        mut hole: u64,
        stamp: &Stamp,
        turnover: &mut Turnover<'_>,
    ) {
        let at = direction.index();
        let mut position = stamp.position;
        if self.flows[at].skip > 0 {
            let n = self.flows[at].skip.min(payload.len() as u64);
            payload = &payload[n as usize..];
            self.skip(conn, direction, n, &mut position, stamp, turnover);
        }
        if !payload.is_empty() {
            self.step(conn, direction, payload, position, stamp, turnover);
            position = position.wrapping_add(payload.len() as u64);
        }
        let n = self.flows[at].skip.min(hole);
        hole -= n;
        self.skip(conn, direction, n, &mut position, stamp, turnover);
        if hole > 0 {
            self.blind(conn, direction, position, hole, Blind::NotCaptured, stamp, turnover);
        }
        // A length that nobody announced (chunks): their sizes have to be seen.
        let flow = &self.flows[at];
        self.everything |= flow.skip == 0 && !flow.until_close && self.in_progress(self.flow(direction));
    }

    /// `n` bytes of an announced length went by.
    fn skip(
        &mut self,
        conn: &mut Connection,
        direction: Direction,
        n: u64,
        position: &mut u64,
        stamp: &Stamp,
        turnover: &mut Turnover<'_>,
    ) {
        let flow = &mut self.flows[direction.index()];
        *position = position.wrapping_add(n);
        if n == 0 {
            return;
        }
        flow.skip -= n;
        if flow.skip == 0 {
            self.end_pending(conn, direction, *position, Some(stamp), stamp.last, turnover);
        }
    }

    /// The announced length is over before `position`: what had to end there has ended.
    fn end_pending(
        &mut self,
        conn: &mut Connection,
        direction: Direction,
        position: u64,
        stamp: Option<&Stamp>,
        now: BootTime,
        turnover: &mut Turnover<'_>,
    ) {
        let mut ends = std::mem::take(&mut self.flows[direction.index()].ends);
        for _ in ends.drain(..) {
            self.message_end(conn, direction, position, stamp, now, turnover);
        }
        self.flows[direction.index()].ends = ends;
    }

    fn message_end(
        &mut self,
        _conn: &mut Connection,
        direction: Direction,
        position: u64,
        stamp: Option<&Stamp>,
        now: BootTime,
        turnover: &mut Turnover<'_>,
    ) {
        match self.flow(direction) {
            Flow::Request => self.pairs.request_end(position, stamp, turnover.fx),
            Flow::Response => self.pairs.response_end(position, stamp, now, turnover.fx),
        }
    }

    /// `missing` bytes from `from` on cannot be looked at; `stamp`: of the event that holds or follows them.
    #[expect(clippy::too_many_arguments, reason = "one call; the arguments are one gap's parts")]
    fn blind(
        &mut self,
        conn: &mut Connection,
        direction: Direction,
        from: u64,
        missing: u64,
        why: Blind,
        stamp: &Stamp,
        turnover: &mut Turnover<'_>,
    ) {
        let at = direction.index();
        let kind = self.flow(direction);
        if self.pairs.is_tunnel() || self.flows[at].until_close {
            if why != Blind::NotCaptured {
                self.pairs.inner_gap(kind == Flow::Request);
            }
            return;
        }
        let inside = self.flows[at].skip.min(missing);
        if inside > 0 {
            self.pairs.inner_gap(kind == Flow::Request);
            self.flows[at].skip -= inside;
            if self.flows[at].skip == 0 {
                // Its last byte was not seen: when it ended is not known.
                let end = from.wrapping_add(inside);
                self.end_pending(conn, direction, end, None, stamp.first, turnover);
            }
        }
        let missing = missing - inside;
        if missing == 0 {
            return;
        }
        let in_message = self.in_progress(kind);
        let flow = &mut self.flows[at];
        // While it looks for a boundary a parser keeps what may be a head: the beginning of a turn.
        let in_head = !flow.held.is_empty()
            && (!flow.resyncing || flow.spans.first().is_some_and(|(_, stamp)| stamp.turn_start));
        let head = in_head || (!in_message && !flow.resyncing);
        if !flow.resyncing {
            turnover.fx.gaps += 1;
            turnover.fx.counted = true;
        }
        flow.resyncing = true;
        flow.missing = flow.missing.saturating_add(missing);
        let (position, turn) = flow.spans.first().map_or((from, stamp.turn), |span| (span.0, span.1.turn));
        flow.held.clear();
        flow.spans.clear();
        match (kind, why) {
            (Flow::Request, Blind::Lost | Blind::LostOld) => {
                conn.turns.requests_not_seen(missing, head && why == Blind::Lost);
                if in_head {
                    conn.turns.head_not_seen(direction, turn, false);
                }
                self.pairs.requests_missing(stamp.turn, stamp.turn_start, true);
            }
            (Flow::Request, Blind::NotCaptured) => {
                conn.turns.requests_not_seen(missing, head);
                if head {
                    conn.turns.head_not_seen(direction, turn, false);
                }
                self.everything = true;
                self.pairs.requests_missing(stamp.turn, false, false);
            }
            (Flow::Response, Blind::Lost | Blind::LostOld) => {
                self.pairs.responses_lost(stamp.turn, stamp.turn_start, stamp.first, turnover.fx);
            }
            (Flow::Response, Blind::NotCaptured) => {
                self.everything = true;
                self.pairs.response_not_captured(stamp, position, !in_message, turnover.fx);
            }
        }
    }

    /// Shows bytes to the parser until it wants no more.
    fn step(
        &mut self,
        conn: &mut Connection,
        direction: Direction,
        bytes: &[u8],
        position: u64,
        stamp: &Stamp,
        turnover: &mut Turnover<'_>,
    ) {
        let at = direction.index();
        let kind = self.flow(direction);
        let Some(mut parser) = self.parser.take() else { return };
        let mut held = std::mem::take(&mut self.flows[at].held);
        let mut spans = std::mem::take(&mut self.flows[at].spans);
        let joined = !held.is_empty();
        spans.push((position, *stamp));
        if joined {
            held.extend_from_slice(bytes);
        }
        let buf: &[u8] = if joined { &held } else { bytes };
        let base = position.wrapping_sub((buf.len() - bytes.len()) as u64);
        let mut off = 0;
        let mut idle = 0;
        while off < buf.len() {
            if self.pairs.is_tunnel() || self.flows[at].until_close {
                off = buf.len();
                break;
            }
            if idle > MAX_IDLE_STEPS {
                turnover.fx.invalid += 1;
                turnover.fx.counted = true;
                self.flows[at].resyncing = true;
                off = buf.len();
                break;
            }
            if self.flows[at].resyncing {
                let starts: Vec<usize> = spans
                    .iter()
                    .filter(|(_, stamp)| stamp.turn_start)
                    .map(|(_, stamp)| stamp.position.wrapping_sub(base) as usize)
                    .filter(|start| (off..buf.len()).contains(start))
                    .map(|start| start - off)
                    .collect();
                let missing = std::mem::take(&mut self.flows[at].missing);
                match parser.resync(kind, missing, &buf[off..], &starts) {
                    Resync::At(n) => {
                        let n = n.min(buf.len() - off);
                        let last =
                            starts.iter().rev().find(|start| **start <= n).map_or(n, |start| off + start);
                        self.passed_over(conn, kind, n, base, off..last, &spans);
                        off += n;
                        self.flows[at].resyncing = false;
                        idle += 1;
                        continue;
                    }
                    Resync::NotYet { dropped } => {
                        let dropped = dropped.min(buf.len() - off);
                        self.passed_over(conn, kind, dropped, base, off..off + dropped, &spans);
                        off += dropped;
                        break;
                    }
                }
            }
            turnover.marks.clear();
            match parser.step(kind, &buf[off..], turnover.marks) {
                Step::Consume { len } => {
                    let have = (buf.len() - off) as u64;
                    let begin = base.wrapping_add(off as u64);
                    self.marks(conn, direction, begin, len, have, &spans, stamp, turnover);
                    off += len.min(have) as usize;
                    self.flows[at].skip = len.saturating_sub(have);
                    idle = if len == 0 { idle + 1 } else { 0 };
                }
                Step::UntilClose => {
                    let begin = base.wrapping_add(off as u64);
                    self.marks(conn, direction, begin, 0, 0, &spans, stamp, turnover);
                    self.flows[at].until_close = true;
                }
                Step::NeedMore => break,
                Step::Invalid(_) => {
                    turnover.fx.invalid += 1;
                    turnover.fx.counted = true;
                    self.invalid(conn, direction, stamp, turnover);
                    // The same place must not be taken for a boundary again.
                    off += 1;
                    idle += 1;
                }
            }
        }
        let n_buf = buf.len();
        if n_buf.saturating_sub(off) > turnover.limits.max_held_bytes {
            turnover.fx.invalid += 1;
            turnover.fx.counted = true;
            self.invalid(conn, direction, stamp, turnover);
            off = n_buf;
        }
        if off >= n_buf {
            // Keeps a small buffer: the next incomplete head needs no allocation.
            held.clear();
            if held.capacity() > KEEP_CAPACITY {
                held = Vec::new();
            }
            spans.clear();
        } else {
            if joined {
                held.drain(..off);
            } else {
                held.extend_from_slice(&bytes[off..]);
            }
            let first = base.wrapping_add(off as u64);
            let n_over =
                spans.iter().skip(1).take_while(|span| span.0.wrapping_sub(first) as i64 <= 0).count();
            spans.drain(..n_over);
        }
        self.flows[at].held = held;
        self.flows[at].spans = spans;
        self.parser = Some(parser);
    }

    /// `n` bytes that were there and told nothing: they may have held requests as well as the missing ones, and so may
    /// each turn that begins in `range` (of the buffer, which begins at `base`).
    fn passed_over(
        &self,
        conn: &mut Connection,
        kind: Flow,
        n: usize,
        base: u64,
        range: std::ops::Range<usize>,
        spans: &[(u64, Stamp)],
    ) {
        if kind == Flow::Response {
            return;
        }
        conn.turns.requests_not_seen(n as u64, false);
        for (_, stamp) in spans.iter().filter(|(_, stamp)| stamp.turn_start) {
            if range.contains(&(stamp.position.wrapping_sub(base) as usize)) {
                conn.turns.turn_not_understood(self.requests, stamp.turn);
            }
        }
    }

    /// The parser cannot read on: what is in progress is cut, alignment behind it unknown.
    fn invalid(
        &mut self,
        conn: &mut Connection,
        direction: Direction,
        stamp: &Stamp,
        turnover: &mut Turnover<'_>,
    ) {
        if !self.flows[direction.index()].resyncing {
            self.flows[direction.index()].resyncing = true;
            match self.flow(direction) {
                Flow::Request => {
                    conn.turns.requests_not_seen(0, false);
                    self.pairs.requests_missing(stamp.turn, false, true);
                }
                Flow::Response => self.pairs.responses_lost(stamp.turn, false, stamp.last, turnover.fx),
            }
        }
    }

    /// What a step found: begins at the first of `len` bytes from `begin` on, ends at the last, of which `have` are there.
    #[expect(clippy::too_many_arguments, reason = "one call; the arguments are one step's parts")]
    fn marks(
        &mut self,
        conn: &mut Connection,
        direction: Direction,
        begin: u64,
        len: u64,
        have: u64,
        spans: &[(u64, Stamp)],
        stamp: &Stamp,
        turnover: &mut Turnover<'_>,
    ) {
        let at = |position: u64| -> &Stamp {
            let span = spans.iter().rev().find(|span| position.wrapping_sub(span.0) as i64 >= 0);
            span.map_or(stamp, |span| &span.1)
        };
        let mut marks = std::mem::take(turnover.marks);
        for mark in marks.drain(..) {
            match mark {
                Mark::Begin(message) => self.message_begin(conn, begin, at(begin), message, turnover),
                Mark::End { stream } if len > have => self.flows[direction.index()].ends.push(stream),
                Mark::End { .. } => {
                    let end = begin.wrapping_add(len);
                    let last = if len == 0 && spans.first().is_none_or(|span| span.0 == begin) {
                        // Ends with the byte before the first one here.
                        stamp
                    } else {
                        at(end.wrapping_sub(1))
                    };
                    self.message_end(conn, direction, end, Some(last), last.last, turnover);
                }
                Mark::Cut { .. } => match self.flow(direction) {
                    Flow::Request => self.pairs.request_cut_off(),
                    Flow::Response => self.pairs.response_cut(stamp.last, turnover.fx),
                },
                Mark::Upgraded { .. } => self.pairs.upgrade(),
            }
        }
        *turnover.marks = marks;
    }

    fn message_begin(
        &mut self,
        conn: &mut Connection,
        position: u64,
        stamp: &Stamp,
        message: crate::protocol::Message,
        turnover: &mut Turnover<'_>,
    ) {
        let mode = REGISTRY.get(self.protocol).map_or(Pairing::Fifo, |protocol| protocol.pairing());
        let (response, interim) = match message.body {
            Body::Request(mut request) => {
                if !turnover.limits.keep_target {
                    request.target = None;
                }
                request.one_way |= mode == Pairing::OneWay;
                conn.turns.request_begun(self.requests, stamp.turn);
                let server = self.requests == Direction::Ingress;
                let (max, mid_join) = (turnover.limits.max_in_flight, conn.mid_join);
                self.pairs.request_begin(
                    stamp,
                    position,
                    message.stream,
                    request,
                    server,
                    mid_join,
                    max,
                    turnover.fx,
                );
                return;
            }
            Body::Response(response) => {
                conn.turns.response_begun(stamp.turn);
                (response, false)
            }
            Body::Interim(response) => (response, true),
        };
        let around = Around {
            mid_join: conn.mid_join,
            request_turn: self.flows[self.requests.index()].last.turn,
            requests_missing: self.flows[self.requests.index()].resyncing,
        };
        let at_start = stamp.turn_start && stamp.position == position;
        self.pairs.response_begin(
            mode,
            stamp,
            position,
            at_start,
            message.stream,
            response,
            interim,
            around,
            turnover.fx,
        );
    }

    /// One direction ended at `now`.
    pub fn shut(
        &mut self,
        conn: &mut Connection,
        direction: Direction,
        now: BootTime,
        turnover: &mut Turnover<'_>,
    ) {
        let at = direction.index();
        if std::mem::replace(&mut conn.streams[at].closed, true) || self.known != Known::Yes {
            return;
        }
        let Some(mut parser) = self.parser.take() else { return };
        turnover.marks.clear();
        parser.close(self.flow(direction), turnover.marks);
        self.parser = Some(parser);
        let stamp = Stamp { first: now, last: now, ..self.flows[at].last };
        let position = conn.streams[at].next;
        // A message that runs until the close ends with it.
        self.marks(conn, direction, position, 0, 0, &[], &stamp, turnover);
        if self.flow(direction) == Flow::Response && !self.pairs.is_tunnel() {
            self.pairs.end_all(End::Closed, now, turnover.fx);
        }
    }

    /// A call failed with a connection error.
    pub fn fail(&mut self, now: BootTime, turnover: &mut Turnover<'_>) {
        self.pairs.end_all(End::Reset, now, turnover.fx);
    }

    /// The connection ended.
    pub fn close(&mut self, conn: &mut Connection, close: &ConnClose, turnover: &mut Turnover<'_>) {
        let mut inside = [false; 2];
        let mut responses_missing = false;
        for direction in Direction::BOTH {
            let at = direction.index();
            let stream = conn.streams[at];
            let missing = match (stream.started, close.position[at]) {
                (_, 0) => 0,
                (false, _) => {
                    // Nothing was seen of it; a turn behind the last request says that there was something.
                    let answered = close.turn > self.flows[self.requests.index()].last.turn;
                    let responses = self.known == Known::Yes && self.flow(direction) == Flow::Response;
                    responses_missing |= responses && answered;
                    continue;
                }
                (true, end) => (end.wrapping_sub(stream.next) as i64).max(0) as u64,
            };
            inside[at] = missing > 0 && self.is_inside(direction, missing);
            if missing > 0 && self.known == Known::Yes {
                responses_missing |= self.flow(direction) == Flow::Response;
                let last =
                    Stamp { turn: close.turn, first: close.time, last: close.time, ..Stamp::default() };
                self.blind(conn, direction, stream.next, missing, Blind::Lost, &last, turnover);
                conn.streams[at].advance(close.position[at]);
            }
        }
        if close.turn > 0 {
            conn.turns.close(close.turn, inside, conn.mid_join || conn.forgotten);
        }
        let end = match (close.reason, close.error) {
            (abi::CLOSE_RESET, _) | (abi::CLOSE_NORMAL, 1..) => End::Reset,
            (abi::CLOSE_EXIT, _) => End::Exited,
            _ => End::Closed,
        };
        if self.known == Known::Yes {
            let responses = self.requests.flip().index();
            let last = self.flows[responses].last;
            self.pairs.turn_over(true, conn.streams[responses].next, &last, turnover.fx);
        }
        if responses_missing {
            self.pairs.lose_all(close.time, turnover.fx);
        } else if end == End::Closed {
            for direction in Direction::BOTH {
                self.shut(conn, direction, close.time, turnover);
            }
        }
        self.pairs.end_all(end, close.time, turnover.fx);
    }

    /// The verdict to give now, if it is not the one in force.
    pub fn verdict(&mut self, conn: &Connection) -> Option<abi::Verdict> {
        let (_, mut resume) = self.verdict;
        let mode = match self.known {
            Known::Opaque => abi::VERDICT_NOTHING,
            Known::No { .. } => return None,
            Known::Yes if self.pairs.is_tunnel() => abi::VERDICT_LENGTHS,
            Known::Yes if self.everything || conn.turns.is_pipelined() || self.pairs.n_open() > 1 => {
                self.everything = true;
                for direction in Direction::BOTH {
                    let (flow, stream) = (&self.flows[direction.index()], &conn.streams[direction.index()]);
                    if flow.skip > RESUME_ABOVE {
                        resume[direction.index()] = stream.next.wrapping_add(flow.skip);
                    }
                }
                abi::VERDICT_EVERYTHING
            }
            Known::Yes => abi::VERDICT_HEADS,
        };
        if self.verdict == (mode, resume) {
            return None;
        }
        self.verdict = (mode, resume);
        Some(abi::Verdict { conn_id: conn.id.0, resume, mode, budget: abi::DEFAULT_BUDGET })
    }
}
