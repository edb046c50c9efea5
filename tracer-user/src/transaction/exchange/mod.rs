//! The exchange on one connection: bytes in order go to the parser, what it finds goes to pairing.
//!
//! The parser sees an event's payload where it lies. Bytes are copied only when a message is not complete yet. A parser
//! may account for more bytes than it was shown (`Consume`): what lies inside an announced length needs no capture, and
//! missing bytes there cost nothing but their own times. Missing bytes where the parser has to look are a counted gap.

use serde::{Deserialize, Serialize};
use tracer_ebpf as abi;

use super::{
    open::{Effects, Open},
    pairing::Pairs,
};
use crate::{
    conn::{
        connection::Connection,
        stream::{Stamp, Stream},
        turns::{Missing, SHORTEST_REQUEST},
    },
    event::{ConnClose, ConnId, Data, Direction, Role},
    protocol::{Capture, Flow, Mark, Pairing, Parser, Protocol, REGISTRY},
    time::BootTime,
    transaction::{End, Kind},
};

/// Steps without progress in a row before a flow is given up (the contract of [`Parser::step`]).
const MAX_IDLE_STEPS: u32 = 64;
/// A held buffer keeps at most this capacity once it is empty: 65,536 connections × 2 directions × 2 KiB = 256 MiB at the
/// very worst, nothing for connections whose heads come whole.
const KEEP_CAPACITY: usize = 2048;
/// An announced length from which on copying pauses until its end (a verdict costs a map update).
const RESUME_ABOVE: u64 = 16 * 1024;
/// Bytes captured of each turn where nothing but its kind is looked at: two TLS record headers and an alert.
const TURN_BUDGET: u32 = 16;

/// A message that runs until the close ends with its last byte, when the close followed so fast; otherwise with the
/// close, which is what told the peer. 250 ms: below the watermark's lag, so that the transaction keeps its place in the order.
const UNTIL_CLOSE_NS: u64 = 250_000_000;

mod carrier;
mod datagram;
mod infer;
mod read;
mod saved;

use carrier::Inside;
pub use infer::ByTurn;
pub use saved::ExchangeMore;

/// Bounds of one exchange.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Requests in flight.
    pub max_in_flight: usize,
    /// Bytes held back while a message is incomplete.
    pub max_held_bytes: usize,
    /// How long a request may come behind what it was answered, ns.
    pub reorder_window_ns: u64,
    /// Keep the raw target.
    pub keep_target: bool,
    /// Whether what no parser knows becomes opaque transactions, turn by turn.
    pub by_turn: ByTurn,
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
struct Side {
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
    /// What checkpoints hold apart, since version 4.
    #[serde(skip)]
    more: SideMore,
}

/// More about one flow's place.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct SideMore {
    /// Everything until the turn's end belongs to the message in progress, or to none.
    until_turn: bool,
    /// Streams to which the bytes of the announced length belong.
    parts: Vec<u64>,
    /// The parser looks at the turn's bytes: those it has seen. No more than it wants, nor than [`Limits::max_held_bytes`].
    look: Option<Vec<u8>>,
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
    /// The same, before the first bytes seen of a direction or the first request, on a connection that is older than the tracer:
    /// they may have been the rest of a message that began before.
    LostOld,
    /// They were not captured: the verdict did not ask for them.
    NotCaptured,
    /// They were not captured, whatever the verdict: the ring was nearly full, the buffer could not be read.
    LeftOut,
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
    flows: [Side; 2],
    pairs: Pairs,
    /// A message's length was not known in advance, or a head was not captured: everything has to be.
    everything: bool,
    /// Last verdict given: mode and resume positions.
    verdict: (u32, [u64; 2]),
    /// The last verdict told the budget of a turn.
    #[serde(skip)]
    turn_budget: bool,
    /// The first turn of each side of a protocol that is followed by turn was seen to begin: the later ones tell less.
    #[serde(skip)]
    answered_by_turn: bool,
    /// Index of the protocol that comes behind the step in progress.
    #[serde(skip)]
    next_protocol: Option<usize>,
    /// The UDP socket whose datagrams these are.
    #[serde(skip)]
    socket: Option<ConnId>,
    /// Its clear text is seen, as a connection of its own.
    #[serde(skip)]
    carries: bool,
    /// What its clear text goes on with, where that is known: the protocol that asked for TLS, and the state of its parser.
    #[serde(skip)]
    inside: Option<Inside>,
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
            turn_budget: false,
            answered_by_turn: false,
            next_protocol: None,
            socket: None,
            carries: false,
            inside: None,
        }
    }
}

impl Exchange {
    /// Registry name of the protocol, once it is known.
    pub fn protocol(&self) -> Option<&'static str> {
        self.registered().map(|protocol| protocol.name())
    }

    fn registered(&self) -> Option<&'static dyn Protocol> {
        (self.known == Known::Yes).then(|| REGISTRY.get(self.protocol).copied()).flatten()
    }

    fn captures(&self) -> Capture {
        self.registered().map_or(Capture::Heads, |protocol| protocol.capture())
    }

    /// Bytes of the shortest request there is; fewer are no message: urgent data, the FIN's place.
    fn shortest(&self) -> u64 {
        self.registered().map_or(SHORTEST_REQUEST, |protocol| protocol.shortest_request())
    }

    /// What sort of transaction its requests are.
    fn kind(&self) -> Kind {
        if self.captures() == Capture::Turns { Kind::Opaque } else { Kind::Request }
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

    /// No parser knows the protocol, nor does anybody know what is inside.
    pub fn is_opaque(&self) -> bool {
        self.known == Known::Opaque && !self.carries
    }

    /// Requests in flight.
    pub fn open(&self) -> impl DoubleEndedIterator<Item = &Open> {
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

    /// The connection speaks a protocol from here on. Its parser.
    fn speak(&mut self, conn: &mut Connection, at: usize) -> Option<Box<dyn Parser>> {
        let protocol = *REGISTRY.get(at)?;
        self.known = Known::Yes;
        self.protocol = at;
        self.pairs.pair_by_stream(protocol.pairing() == Pairing::ByStreamId);
        conn.turns.set_protocol(protocol.shortest_request(), protocol.turns_are_requests());
        self.everything |= protocol.capture() == Capture::Everything;
        Some(protocol.parser())
    }

    /// The response that must end with its turn has been quiet until `now`, for too long.
    pub fn give_up_turn(&mut self, conn: &Connection, now: BootTime, fx: &mut Effects) {
        let responses = self.requests.flip().index();
        let (last, is_over) = (self.flows[responses].last, self.captures() == Capture::Turns);
        let at = if is_over { last.last } else { now };
        self.pairs.give_up_turn(conn.streams[responses].next, &last, at, is_over, fx);
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
        if !conn.turns.is_intact() || (conn.mid_join && !self.pairs.has_begun()) || self.is_mute() {
            return None;
        }
        let (requests, waits) = match (self.known, conn.role) {
            (Known::Opaque, _) | (Known::No { .. }, Role::Unknown) => return None,
            (Known::Yes, _) => {
                let flow = &self.flows[self.requests.flip().index()];
                let quiet = flow.skip == 0
                    && flow.held.is_empty()
                    && !flow.until_close
                    && !flow.more.until_turn
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

    /// A request whose head has come in part. Where events were lost its rest may be among them.
    pub fn has_half_a_head(&self) -> bool {
        let asks = |one: &Direction| self.requests().is_none_or(|requests| requests == *one);
        Direction::BOTH.into_iter().filter(asks).any(|one| {
            let flow = &self.flows[one.index()];
            flow.spans.first().is_some_and(|(_, first)| !flow.resyncing || first.turn_start)
        })
    }

    /// Time of the newest bytes that were applied.
    pub fn newest(&self) -> BootTime {
        self.flows[0].last.last.max(self.flows[1].last.last)
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

    /// `missing` bytes of a direction, not seen before something of `turn`, belong to messages whose length is known anyway.
    fn is_inside(&self, direction: Direction, missing: u64, turn: u32) -> bool {
        let flow = &self.flows[direction.index()];
        let in_turn = flow.more.until_turn && turn <= flow.last.turn;
        let in_tunnel = self.pairs.is_tunnel();
        self.known == Known::Yes && (in_tunnel || flow.until_close || in_turn || missing <= flow.skip)
    }

    /// Nothing more is read: another protocol, of which no parser is known.
    fn is_tunnel(&self) -> bool {
        self.pairs.is_tunnel() && self.registered().is_none_or(|protocol| protocol.upgrade_token().is_none())
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
        let mut stamp = Stamp::of(data).skip(seen);
        // Fewer bytes are no message: urgent data, the FIN's place.
        stamp.jump = data.has(abi::FLAG_JUMP) && missing >= self.shortest();
        let have = data.payload.len().min(usize::try_from(data.bytes).unwrap_or(usize::MAX));
        let payload =
            data.payload.get(usize::try_from(seen).unwrap_or(usize::MAX).min(have)..have).unwrap_or(&[]);
        let hole = (data.bytes - seen) - payload.len() as u64;

        let limit = data.time.0.saturating_sub(turnover.limits.reorder_window_ns);
        self.pairs.expire_early(BootTime(limit), turnover.fx);
        let stream: Stream = conn.streams[at];
        let absent = match (stream.started, missing) {
            (false, _) => Missing::Outside,
            (true, 0) => Missing::Nothing,
            (true, _) if self.is_inside(direction, missing, data.turn) => Missing::Inside,
            (true, _) => Missing::Outside,
        };
        let flow = &self.flows[at];
        let continues = self.known == Known::Yes
            && absent != Missing::Outside
            && (flow.skip > missing
                || flow.until_close
                || (flow.more.until_turn && data.turn <= flow.last.turn)
                || self.pairs.is_tunnel()
                || !flow.held.is_empty()
                || (flow.skip == 0 && self.in_progress(self.flow(direction))));
        let old = conn.mid_join || conn.forgotten;
        conn.turns.observe(direction, data.turn, stamp.begins_turn(), absent, continues, old);

        if self.known == Known::Yes {
            let (other, own) = (direction.flip(), self.flows[at].last.turn);
            if data.turn > self.flows[other.index()].last.turn {
                // Bytes of the other direction that moved before these, and were not seen.
                let stream = &conn.streams[other.index()];
                let unseen = data.other_position().map_or(0, |at| at.wrapping_sub(stream.next as u32) as i32);
                self.turn_over(conn, other, unseen <= 0 || !stream.started, turnover);
            }
            if own != 0 && data.turn > own {
                // The other direction's turn in between may not have been seen.
                self.turn_over(conn, direction, missing == 0, turnover);
            }
            // The first bytes seen of a direction tell no position before them, but their turn does.
            let begins_late = !stream.started && (data.turn > 2 || !stamp.turn_start);
            let missing = if begins_late { 1 } else { missing };
            if missing > 0 {
                let older = old && (begins_late || !self.pairs.has_begun());
                let why = if older { Blind::LostOld } else { Blind::Lost };
                self.blind(conn, direction, stream.next, missing, why, &stamp, turnover);
            }
        } else if missing > 0 {
            self.drop_unrecognised(conn, direction);
        }
        conn.streams[at].advance(data.end());
        self.flows[at].last = stamp;
        let left_out = abi::FLAG_OVERLOAD | abi::FLAG_FAULT | abi::FLAG_NO_BUFFER;
        let why = if data.flags & left_out == 0 { Blind::NotCaptured } else { Blind::LeftOut };
        if let Some(position) = data.other_position() {
            // Bytes of a body whose length is known that went by unseen (splice): there, at a time that is not known.
            let (other, stream) = (direction.flip(), conn.streams[direction.flip().index()]);
            let ahead = position.wrapping_sub(stream.next as u32);
            if self.known == Known::Yes
                && stream.started
                && u64::from(ahead) <= self.flows[other.index()].skip
            {
                self.pairs.reached(other == self.requests, stream.next.wrapping_add(u64::from(ahead)));
            }
        }
        match self.known {
            Known::Opaque => {}
            Known::No { turns } => self.infer(conn, direction, payload, (hole, why), &stamp, turns, turnover),
            Known::Yes => self.parse(conn, direction, payload, (hole, why), &stamp, turnover),
        }
        self.pairs.reached(direction == self.requests, data.end());
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
        let was_closed = std::mem::replace(&mut conn.streams[at].closed, true);
        if !was_closed && matches!(self.known, Known::No { .. }) {
            self.infer_by_turn(conn, direction, turnover);
        }
        if was_closed || self.known != Known::Yes {
            return;
        }
        self.turn_over(conn, direction, true, turnover);
        let Some(mut parser) = self.parser.take() else { return };
        turnover.marks.clear();
        parser.close(self.flow(direction), turnover.marks);
        self.parser = Some(parser);
        let mut stamp = self.flows[at].last;
        if now.0.saturating_sub(stamp.last.0) > UNTIL_CLOSE_NS {
            (stamp.first, stamp.last) = (now, now);
        }
        let position = conn.streams[at].next;
        // A message that runs until the close ends with it.
        self.marks(conn, direction, position, 0, 0, &[], &stamp, turnover);
        if self.flow(direction) == Flow::Response && !self.pairs.is_tunnel() {
            self.pairs.end_all(End::Closed, now, turnover.fx);
        }
    }

    /// A turn of a direction is over: what ends with it has ended. `whole`: no byte of it is known to be missing.
    fn turn_over(
        &mut self,
        conn: &Connection,
        direction: Direction,
        whole: bool,
        turnover: &mut Turnover<'_>,
    ) {
        let flow = &mut self.flows[direction.index()];
        (flow.more.until_turn, flow.more.look) = (false, None);
        let last = flow.last;
        let response = self.flow(direction) == Flow::Response;
        self.pairs.turn_over(response, conn.streams[direction.index()].next, &last, whole, turnover.fx);
    }

    /// A call failed with a connection error, in turn `turn`.
    pub fn fail(&mut self, turn: u32, now: BootTime, turnover: &mut Turnover<'_>) {
        if turn > self.flows.iter().map(|flow| flow.last.turn).max().unwrap_or(0) {
            // Of a turn nothing was seen: it may have been the answer, sent before the call that failed.
            self.pairs.lose_all(now, turnover.fx);
        } else {
            self.pairs.end_all(End::Reset, now, turnover.fx);
        }
    }

    /// The connection ended.
    pub fn close(&mut self, conn: &mut Connection, close: &ConnClose, turnover: &mut Turnover<'_>) {
        for direction in Direction::BOTH {
            if matches!(self.known, Known::No { .. }) {
                self.infer_by_turn(conn, direction, turnover);
            }
        }
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
            inside[at] = missing > 0 && self.is_inside(direction, missing, self.flows[at].last.turn);
            if missing > 0 && self.known == Known::Yes {
                responses_missing |= self.flow(direction) == Flow::Response;
                let last =
                    Stamp { turn: close.turn, first: close.time, last: close.time, ..Stamp::default() };
                self.blind(conn, direction, stream.next, missing, Blind::Lost, &last, turnover);
                conn.streams[at].advance(close.position[at]);
            } else if missing > 0 {
                self.drop_unrecognised(conn, direction);
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
            self.turn_over(conn, self.requests.flip(), !responses_missing, turnover);
        }
        if responses_missing {
            self.pairs.lose_all(close.time, turnover.fx);
        } else if end == End::Closed {
            for direction in Direction::BOTH {
                self.shut(conn, direction, close.time, turnover);
            }
        }
        self.pairs.end_all(end, close.time, turnover.fx);
        // Half a head is all there ever was of it.
        for flow in &mut self.flows {
            flow.held.clear();
            flow.spans.clear();
        }
    }

    /// What the kernel is told to capture: mode of the last verdict given.
    pub fn capture(&self) -> u32 {
        self.verdict.0
    }

    /// The verdict to give now, if it is not the one in force.
    pub fn verdict(&mut self, conn: &Connection) -> Option<abi::Verdict> {
        let (_, mut resume) = self.verdict;
        let by_turn = self.captures() == Capture::Turns;
        let mode = match self.known {
            _ if self.is_mute() && self.awaits_hello(conn) => abi::VERDICT_HEADS,
            _ if self.is_mute() => abi::VERDICT_LENGTHS,
            Known::Opaque => abi::VERDICT_NOTHING,
            Known::No { .. } => return None,
            Known::Yes if self.is_tunnel() => abi::VERDICT_LENGTHS,
            Known::Yes if by_turn => abi::VERDICT_HEADS,
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
        let is_looking = self.flows.iter().any(|flow| flow.more.look.is_some());
        let turn_budget = by_turn && self.answered_by_turn && !is_looking && !self.is_mute();
        if self.verdict == (mode, resume) && self.turn_budget == turn_budget {
            return None;
        }
        (self.verdict, self.turn_budget) = ((mode, resume), turn_budget);
        let budget = if turn_budget { TURN_BUDGET } else { abi::DEFAULT_BUDGET };
        Some(abi::Verdict { conn_id: conn.id.0, resume, mode, budget })
    }
}
