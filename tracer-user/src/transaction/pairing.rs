//! Pairing: which response answers which request, and how each request ended.
//!
//! In order ([`Pairing::Fifo`](crate::protocol::Pairing)) the n-th response answers the n-th request, as long as nothing
//! was lost. After a loss the numbers no longer agree, and a response paired by number alone would be a lie. What helps
//! is that nearly all connections are *synchronous*: when a turn of requests begins, all earlier ones are answered.
//! Then the first response of turn `m` answers the first request of turn `m − 1`. So:
//!
//! * requests lost: everything behind the loss is unpairable until a response begins a turn whose request turn was
//!   seen from its start;
//! * responses lost: requests of older turns than the one that is being answered leave as `tracer_stopped` with
//!   confidence `gap`: that they were answered is likely, when is not known;
//! * a connection that was seen not to be synchronous is never aligned again after a loss.
//!
//! Without pipelining the client itself sees to it that a connection is synchronous. With it (two messages in one turn were
//! seen), only the server does, and a server that reads ahead looks the same as one that does not. Such a connection is
//! aligned again only for the server's role, only where the thread that answers is the one that read, and what it then
//! gives has confidence `guessed`.

use std::{collections::VecDeque, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{
    End, Kind, ProtocolName, Unpaired,
    multiplexed::Early,
    open::{Around, Effects, Ended, More, Open, Setting},
};
use crate::{
    conn::stream::Stamp,
    protocol::{Flow, Request, Response, TlsFacts},
    time::BootTime,
};

/// What the response flow is in the middle of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
enum Answering {
    /// Nothing.
    #[default]
    Nothing,
    /// An interim response.
    Interim,
    /// The response to the request with this ordinal.
    Final(u64),
    /// A response without a request.
    Unpaired,
}

/// The requests in flight on one connection.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Pairs {
    pub(super) open: VecDeque<Open>,
    pub(super) next_ordinal: u64,
    /// Ordinal of the request whose end was not seen yet, and whether that end is the end of its turn.
    request: Option<u64>,
    request_by_turn: bool,
    response: Answering,
    response_by_turn: bool,
    /// Requests from this ordinal on are not aligned; by stream: those before it may have been answered by something lost.
    pub(super) barrier: Option<u64>,
    /// Last turn in which requests were lost.
    pub(super) blind_turn: u32,
    /// Last turn in which responses were lost.
    lost_turn: u32,
    /// Turn of responses that is in step since its first byte.
    aligned_turn: u32,
    /// Responses still owed to requests that were given up.
    given_up: u32,
    /// Last turn with a request that was given up: behind a loss, the responses to that turn are not in step.
    spoiled_turn: u32,
    /// Which response answers which request has been inferred since a loss.
    inferring: bool,
    /// A request was seen to begin before an earlier one of another turn was answered.
    overlapped: bool,
    tunnel: bool,
    first_ordinal: u64,
    /// Responses find their requests by stream; several messages of a flow are in progress at once.
    #[serde(skip)]
    pub(super) by_stream: bool,
    /// In order: last turn with a response that was not paired because of a loss: it may be that of any request before it. What checkpoints
    /// hold apart.
    #[serde(skip)]
    pub(super) unpaired_turn: u32,
    /// What is known of the connection's TLS. What checkpoints hold apart.
    #[serde(skip)]
    tls: Option<Arc<TlsFacts>>,
    /// Responses on streams whose request may still come. What checkpoints hold apart.
    #[serde(skip)]
    pub(super) early: VecDeque<Early>,
}

impl Pairs {
    /// Numbers the requests from `ordinal` on (a connection that may have been forgotten before must not reuse ids).
    pub fn start_at(&mut self, ordinal: u64) {
        self.next_ordinal = ordinal;
        self.first_ordinal = ordinal;
    }

    /// Responses find their requests by stream from here on, or in order.
    pub fn pair_by_stream(&mut self, by_stream: bool) {
        self.by_stream = by_stream;
    }

    /// Whether responses find their requests by stream.
    pub fn is_by_stream(&self) -> bool {
        self.by_stream
    }

    /// What is known of the connection's TLS.
    pub fn tls(&self) -> Option<&Arc<TlsFacts>> {
        self.tls.as_ref()
    }

    /// What is known of the connection's TLS: of what is in flight, and of all that comes.
    pub fn set_tls(&mut self, facts: Arc<TlsFacts>) {
        for open in &mut self.open {
            open.more.tls = Some(facts.clone());
        }
        self.tls = Some(facts);
    }

    /// The same from a checkpoint, where each request has its own.
    pub fn restore_tls(&mut self, tls: Option<Arc<TlsFacts>>) {
        self.tls = tls;
    }

    /// Requests in flight.
    pub fn open(&self) -> impl DoubleEndedIterator<Item = &Open> {
        self.open.iter()
    }

    /// Requests in flight.
    pub fn open_mut(&mut self) -> impl Iterator<Item = &mut Open> {
        self.open.iter_mut()
    }

    /// Number of requests in flight.
    pub fn n_open(&self) -> usize {
        self.open.len()
    }

    /// Whether a request is in the middle of its bytes.
    pub fn in_request(&self) -> bool {
        self.request.is_some()
    }

    /// Whether a response is in the middle of its bytes.
    pub fn in_response(&self) -> bool {
        self.response != Answering::Nothing
    }

    /// Whether a response ends with its turn, and nobody knows yet whether the turn has ended.
    pub fn awaits_turn(&self) -> bool {
        self.response_by_turn
    }

    /// Whether a request was ever seen.
    pub fn has_begun(&self) -> bool {
        self.next_ordinal != self.first_ordinal
    }

    /// Whether the connection is a tunnel.
    pub fn is_tunnel(&self) -> bool {
        self.tunnel
    }

    /// Whether nothing was ever asked, or everything answered, and nothing was lost: a response now would be early.
    pub fn owes_nothing(&self) -> bool {
        self.open.is_empty() && self.given_up == 0 && self.barrier.is_none() && !self.tunnel
    }

    pub(super) fn given_up(&self) -> u32 {
        self.given_up
    }

    pub(super) fn find(&self, ordinal: u64) -> Option<usize> {
        self.open.binary_search_by_key(&ordinal, |open| open.ordinal).ok()
    }

    /// A request begins at `position`.
    pub fn request_begin(
        &mut self,
        stamp: &Stamp,
        position: u64,
        stream: u64,
        request: Request,
        setting: Setting,
        fx: &mut Effects,
    ) {
        let Setting { protocol, kind, server, mid_join, max_open } = setting;
        if self.request.is_some() {
            // The parser went on without an end: the one before was cut.
            self.request_cut();
        }
        if self.open.len() >= max_open.max(1) {
            fx.in_flight_full += 1;
            self.give_up_front(stamp.last, End::TracerStopped, fx);
        }
        let arrival =
            stamp.arrival.known().filter(|at| server && position == stamp.position && *at <= stamp.first);
        let ordinal = self.next_ordinal;
        self.next_ordinal += 1;
        fx.requests_seen += 1;
        fx.counted = true;
        self.open.push_back(Open {
            ordinal,
            stream,
            turn: stamp.turn,
            turn_last: stamp.turn,
            start: stamp.first,
            request_end: None,
            interim: None,
            response_start: None,
            request_from: position,
            request_bytes: 0,
            response_from: 0,
            response_bytes: 0,
            pid: stamp.pid,
            tid: stamp.tid,
            comm: stamp.comm,
            queue_ns: arrival.map(|at| stamp.first.0 - at.0),
            entry: !server && stamp.entry,
            response: None,
            kind: match (request.long_lived, request.one_way) {
                (true, _) => Kind::LongLived,
                (false, true) => Kind::Message,
                (false, false) => kind,
            },
            gap: false,
            mid_join: mid_join && ordinal == self.first_ordinal && !stamp.turn_start && !self.by_stream,
            operation: request.operation,
            target: request.target,
            one_way: request.one_way,
            tid_last: stamp.tid,
            inferred: false,
            more: More {
                protocol: request.protocol.unwrap_or(protocol),
                namespace: request.namespace,
                tls: self.tls.clone(),
                trace_id: request.trace_id,
                ..More::default()
            },
        });
        if !self.by_stream {
            self.request = Some(ordinal);
            self.request_by_turn = false;
        }
    }

    /// The request in progress ends before `position`; `stamp`: of its last byte, if that was seen.
    pub fn request_end(&mut self, position: u64, stamp: Option<&Stamp>, fx: &mut Effects) {
        let Some(at) = self.request.take().and_then(|ordinal| self.find(ordinal)) else { return };
        self.request_by_turn = false;
        let open = &mut self.open[at];
        open.request_bytes = position.wrapping_sub(open.request_from);
        match stamp {
            Some(stamp) => {
                open.request_end = Some(stamp.last.max(open.start));
                open.turn_last = open.turn_last.max(stamp.turn);
                open.tid_last = stamp.tid;
            }
            None => open.gap = true,
        }
        let (one_way, ordinal, end) = (open.one_way, open.ordinal, open.request_end.unwrap_or(open.start));
        if one_way {
            self.end(at, End::Answered, end, fx);
        } else if self.overlapped && self.barrier.is_some_and(|barrier| ordinal >= barrier) {
            self.unended(at, end, fx);
        }
    }

    /// Place of the request whose own bytes, or whose response's, are in progress.
    fn in_progress(&self, of_request: bool) -> Option<usize> {
        let ordinal = match (of_request, self.response) {
            _ if self.tunnel => self.tunnel_ordinal(),
            (true, _) => self.request,
            (false, Answering::Final(ordinal)) => Some(ordinal),
            (false, _) => None,
        };
        ordinal.and_then(|ordinal| self.find(ordinal))
    }

    /// The request or response in progress is known to reach `position`, whether or not it ends.
    pub fn reached(&mut self, request: bool, position: u64) {
        let Some(at) = self.in_progress(request) else { return };
        let open = &mut self.open[at];
        if request {
            open.request_bytes = open.request_bytes.max(position.wrapping_sub(open.request_from));
        } else {
            open.response_bytes = open.response_bytes.max(position.wrapping_sub(open.response_from));
        }
    }

    /// A place of the stream within the message in progress holds no byte.
    pub fn shift(&mut self, of_request: bool) {
        // Between an interim response and the final one, the answer goes on.
        let has_interim = || self.open.iter().position(|open| open.interim.is_some());
        let at = self.in_progress(of_request).or_else(|| if of_request { None } else { has_interim() });
        let Some(open) = at.and_then(|at| self.open.get_mut(at)) else { return };
        let from = if of_request { &mut open.request_from } else { &mut open.response_from };
        *from = from.wrapping_add(1);
    }

    fn request_cut(&mut self) {
        if let Some(at) = self.request.take().and_then(|ordinal| self.find(ordinal)) {
            self.open[at].gap = true;
        }
        self.request_by_turn = false;
    }

    /// Which request the first response of a turn answers, behind a loss: this turn answers the one before it. `at_start`: the
    /// response begins with the turn's first byte. Changes nothing.
    fn alignment(&self, stamp: &Stamp, at_start: bool, around: Around) -> Option<usize> {
        let asked = stamp.turn.wrapping_sub(1);
        if self.is_intact() || self.overlapped || !at_start || asked <= self.spoiled_turn {
            return None;
        }
        let at = self.open.iter().position(|open| open.turn_last == asked)?;
        let open = &self.open[at];
        let by_reader = around.server && open.tid_last == stamp.tid;
        let behind_loss = self.barrier.is_some_and(|barrier| open.ordinal >= barrier);
        ((!around.pipelined || by_reader) && !(asked <= self.blind_turn && behind_loss)).then_some(at)
    }

    /// A response turn begins with `stamp`: how many of the newest requests are in flight, if that is known again behind a
    /// loss. For a parser that needs to know what a response answers.
    pub fn known_in_flight(&self, stamp: &Stamp, around: Around) -> Option<usize> {
        let at = self.alignment(stamp, true, around)?;
        usize::try_from(self.next_ordinal.checked_sub(self.open[at].ordinal)?).ok()
    }

    /// Nothing was ever lost. Then the numbers of turns prove nothing (a send is numbered when it returns) and are not needed.
    fn is_intact(&self) -> bool {
        self.blind_turn == 0 && self.lost_turn == 0
    }

    /// Which request the response that begins now answers.
    fn answers(&mut self, stamp: &Stamp, at_start: bool, around: Around, fx: &mut Effects) -> Option<usize> {
        let before_barrier = |open: &Open| self.barrier.is_none_or(|barrier| open.ordinal < barrier);
        if self.is_intact() || self.overlapped {
            let next = self.given_up == 0 && self.open.front().is_some_and(before_barrier);
            return next.then_some(0);
        }
        if self.aligned_turn == stamp.turn && !at_start {
            // In step since this turn's first byte.
            let asked = stamp.turn.wrapping_sub(1);
            return self
                .open
                .front()
                .is_some_and(|open| open.turn_last == asked && before_barrier(open))
                .then_some(0);
        }
        let at = self.alignment(stamp, at_start, around)?;
        if !before_barrier(&self.open[at]) {
            self.barrier = None;
        }
        for _ in 0..at {
            self.unended(0, stamp.first, fx);
        }
        self.given_up = 0;
        self.aligned_turn = stamp.turn;
        self.inferring |= around.pipelined;
        Some(0)
    }

    /// A response (or an interim one) begins at `position`; `at_start`: with the first byte of a turn.
    #[expect(clippy::too_many_arguments, reason = "one call, from the exchange")]
    pub fn response_begin(
        &mut self,
        stamp: &Stamp,
        position: u64,
        at_start: bool,
        response: Response,
        interim: bool,
        around: Around,
        fx: &mut Effects,
    ) {
        self.response_left(stamp.first, fx);
        let Some(at) = self.answers(stamp, at_start, around, fx) else {
            self.response = Answering::Unpaired;
            if !interim {
                let why = self.why_unpaired(stamp, around);
                if matches!(why, Unpaired::Gap | Unpaired::Late) {
                    self.unpaired_turn = self.unpaired_turn.max(stamp.turn);
                }
                fx.unpaired[why as usize] += 1;
                fx.counted = true;
            }
            return;
        };
        let (turn, asked) = (stamp.turn, self.open[at].turn_last);
        if self.open.iter().skip(at + 1).any(|open| open.turn > asked && open.turn < turn) {
            self.overlapped = true;
        }
        let inferring = self.inferring;
        let open = &mut self.open[at];
        open.inferred |= inferring;
        open.responds(stamp, position, response, interim);
        self.response = if interim { Answering::Interim } else { Answering::Final(open.ordinal) };
    }

    pub(super) fn why_unpaired(&mut self, stamp: &Stamp, around: Around) -> Unpaired {
        if self.given_up > 0 {
            self.given_up -= 1;
            Unpaired::Late
        } else if around.mid_join && self.next_ordinal == self.first_ordinal {
            Unpaired::MidJoin
        } else if self.barrier.is_some()
            || (self.by_stream && self.blind_turn > 0)
            || around.requests_missing
            || stamp.turn <= self.lost_turn
            || around.request_turn.saturating_add(1) < stamp.turn
        {
            Unpaired::Gap
        } else {
            Unpaired::Unsolicited
        }
    }

    /// The response in progress ends before `position`; `stamp`: of its last byte, if that was seen; `at`: now.
    pub fn response_end(&mut self, position: u64, stamp: Option<&Stamp>, at: BootTime, fx: &mut Effects) {
        self.response_by_turn = false;
        let Answering::Final(ordinal) = std::mem::take(&mut self.response) else { return };
        let Some(index) = self.find(ordinal) else { return };
        let open = &mut self.open[index];
        open.response_bytes = position.wrapping_sub(open.response_from);
        match stamp {
            _ if self.tunnel => self.response = Answering::Final(ordinal),
            Some(stamp) => self.end(index, End::Answered, stamp.last, fx),
            None => self.unended(index, at, fx),
        }
    }

    /// The response in progress will not be seen to end: something else begins.
    fn response_left(&mut self, now: BootTime, fx: &mut Effects) {
        if let Answering::Final(ordinal) = std::mem::take(&mut self.response)
            && let Some(at) = self.find(ordinal)
        {
            self.unended(at, now, fx);
        }
        self.response_by_turn = false;
    }

    /// The response in progress was cut off.
    pub fn response_cut(&mut self, now: BootTime, fx: &mut Effects) {
        self.response_left(now, fx);
    }

    /// The request in progress was cut off.
    pub fn request_cut_off(&mut self) {
        self.request_cut();
    }

    /// The connection is a tunnel from here on: one long-lived transaction.
    /// Its bytes belong to the protocol with that name, if it is named.
    pub fn upgrade(&mut self, protocol: Option<ProtocolName>) {
        let at = match self.response {
            Answering::Final(ordinal) => self.find(ordinal),
            _ => (!self.open.is_empty()).then_some(0),
        };
        if let Some(at) = at {
            self.open[at].kind = Kind::LongLived;
            if let Some(protocol) = protocol {
                self.open[at].more.protocol = protocol;
            }
            self.tunnel = true;
        }
    }

    /// The request in flight that asked for another protocol is answered in that, on `stream`: it is one of that protocol's.
    pub fn move_to_stream(&mut self, stream: u64, protocol: ProtocolName) {
        let at = match self.response {
            Answering::Final(ordinal) => self.find(ordinal),
            _ => (!self.open.is_empty()).then_some(0),
        };
        if let Some(at) = at {
            let open = &mut self.open[at];
            (open.stream, open.response, open.response_start) = (stream, None, None);
            // What agreed is no answer: how long that is open says nothing of it.
            (open.kind, open.more.protocol, open.response_bytes) = (Kind::Request, protocol, 0);
        }
        self.response = Answering::Nothing;
    }

    /// Messages within the message in progress.
    pub fn messages(&mut self, flow: Flow, stream: u64, n: u64) {
        if let Some(early) = self.early_mut(flow, stream) {
            early.messages = Some(early.messages.unwrap_or(0).saturating_add(n));
        } else if let Some(open) = self.in_progress_mut(flow, stream) {
            let sum = open.more.messages[flow.index()].get_or_insert(0);
            *sum = sum.saturating_add(n);
        }
    }

    /// What the response in progress turned out to be, or how the request in progress went.
    pub fn outcome(&mut self, flow: Flow, stream: u64, response: Response) {
        if let Some(early) = self.early_mut(flow, stream) {
            early.answer(response);
        } else if let Some(open) = self.in_progress_mut(flow, stream) {
            open.answer(response);
        }
    }

    /// The message in progress says more than could be read.
    pub fn not_read(&mut self, flow: Flow, stream: u64) {
        if let Some(early) = self.early_mut(flow, stream) {
            early.gap = true;
        } else if let Some(open) = self.in_progress_mut(flow, stream) {
            open.gap = true;
        }
    }

    /// The transaction of the message in progress is long-lived.
    pub fn turns_out_long_lived(&mut self, flow: Flow, stream: u64) {
        if let Some(early) = self.early_mut(flow, stream) {
            early.long_lived = true;
        } else if let Some(open) = self.in_progress_mut(flow, stream) {
            open.kind = Kind::LongLived;
        }
    }

    /// What goes on in a tunnel goes on within the one transaction.
    fn tunnel_ordinal(&self) -> Option<u64> {
        self.open.iter().find(|open| open.kind == Kind::LongLived).map(|open| open.ordinal)
    }

    fn in_progress_mut(&mut self, flow: Flow, stream: u64) -> Option<&mut Open> {
        let ordinal = match (self.by_stream, flow, self.response) {
            (true, ..) => return self.open.iter_mut().rev().find(|open| open.stream == stream),
            _ if self.tunnel => self.tunnel_ordinal()?,
            (false, Flow::Request, _) => self.request?,
            (false, Flow::Response, Answering::Final(ordinal)) => ordinal,
            (false, Flow::Response, _) => return None,
        };
        let at = self.find(ordinal)?;
        self.open.get_mut(at)
    }

    /// Bytes inside the announced length of the message in progress were lost.
    pub fn inner_gap(&mut self, of_request: bool) {
        if let Some(at) = self.in_progress(of_request) {
            self.open[at].gap = true;
        }
    }

    /// Bytes of the request flow could not be looked at; `turn`: of what comes behind them, `None` if it is all of the
    /// same event; `at_start`: that begins a turn. `lost`: they are missing; otherwise only their contents.
    pub fn requests_missing(&mut self, turn: u32, at_start: bool, lost: bool) {
        if self.request.is_some() && !lost {
            self.request_by_turn = true;
            self.inner_gap(true);
        } else {
            self.request_cut();
        }
        // Requests behind an older loss, but in a later turn, are in step again.
        let again = self.open.back().is_some_and(|open| open.turn > self.blind_turn);
        self.barrier = match self.barrier {
            Some(barrier) if !again || self.overlapped => Some(barrier),
            _ => Some(self.next_ordinal),
        };
        let blind = if at_start { turn.saturating_sub(2) } else { turn };
        self.blind_turn = self.blind_turn.max(blind);
    }

    /// Bytes of the response flow are missing before an event of `turn`.
    pub fn responses_lost(&mut self, turn: u32, at_start: bool, now: BootTime, fx: &mut Effects) {
        self.response_left(now, fx);
        let asked = turn.wrapping_sub(1);
        // A request that is still being sent has its answer before it, as one of the turn that is answered next.
        let intact = |open: &Open| {
            !self.overlapped && (self.request == Some(open.ordinal) || (at_start && open.turn_last >= asked))
        };
        let mut at = 0;
        let doomed: Vec<bool> = self.open.iter().map(|open| !intact(open)).collect();
        for doomed in doomed {
            if doomed {
                self.unended(at, now, fx);
            } else {
                at += 1;
            }
        }
        self.given_up = 0;
        self.aligned_turn = 0;
        self.lost_turn = self.lost_turn.max(if at_start { turn.saturating_sub(2) } else { turn });
        if self.overlapped {
            self.barrier = Some(0);
        }
    }

    /// Contents of the response flow, from an event with `stamp`, were there but not captured: in the middle of the answer to the
    /// only request there is, or where a head had to begin. In the middle of anything else (an interim response, one without a
    /// request, one of several) a head may have been among them.
    pub fn response_not_captured(&mut self, stamp: &Stamp, position: u64, fx: &mut Effects) {
        if let Answering::Final(ordinal) = self.response
            && self.open.len() <= 1
        {
            self.response_by_turn = true;
            if let Some(at) = self.find(ordinal) {
                self.open[at].gap = true;
            }
            return;
        }
        let asked = stamp.turn.wrapping_sub(1);
        let alone = !self.overlapped
            && self.barrier.is_none()
            && self.given_up == 0
            && self.open.len() == 1
            && self.open[0].turn_last == asked;
        if alone && position == stamp.position && stamp.turn_start {
            // The answer to the only request there is; what it says was not captured, when it began and ends was.
            let open = &mut self.open[0];
            open.response_start = Some(stamp.first);
            open.response_from = position;
            open.gap = true;
            self.response = Answering::Final(open.ordinal);
            self.response_by_turn = true;
        } else {
            // How many responses began there is not known.
            self.responses_lost(stamp.turn.saturating_add(2), true, stamp.last, fx);
        }
    }

    /// The message in progress ends with its turn.
    pub fn ends_with_turn(&mut self, flow: Flow) {
        match flow {
            Flow::Request => self.request_by_turn = self.request.is_some(),
            Flow::Response => self.response_by_turn = matches!(self.response, Answering::Final(_)),
        }
    }

    /// The other side speaks in a later turn: what ended with its turn has ended, before `position`, with `last`. `whole`: no byte
    /// of the turn is known to be missing.
    pub fn turn_over(&mut self, response: bool, position: u64, last: &Stamp, whole: bool, fx: &mut Effects) {
        let end = whole.then_some(last);
        if response && self.response_by_turn {
            self.response_end(position, end, last.last, fx);
        } else if !response && self.request_by_turn {
            self.request_end(position, end, fx);
        }
    }

    /// The response that ends with its turn has been quiet since `last`, for so long that its end can no longer be given in
    /// order. `is_over`: what protocols without messages have as their turns; that it has ended is then likely, not certain.
    pub fn give_up_turn(
        &mut self,
        position: u64,
        last: &Stamp,
        now: BootTime,
        is_over: bool,
        fx: &mut Effects,
    ) {
        if !self.response_by_turn {
            return;
        }
        if is_over && let Answering::Final(ordinal) = self.response {
            if let Some(at) = self.find(ordinal) {
                self.open[at].inferred = true;
            }
            self.response_end(position, Some(last), now, fx);
        } else {
            self.response_left(now, fx);
        }
        self.response = Answering::Unpaired;
    }

    /// Nothing more can be answered.
    pub fn end_all(&mut self, end: End, now: BootTime, fx: &mut Effects) {
        let intact = self.is_intact();
        self.drop_early(fx);
        while let Some(open) = self.open.front_mut() {
            // Behind a loss, what cannot be paired, or was answered by something lost, is not known to be open.
            let in_doubt = match self.barrier {
                Some(barrier) if self.by_stream => open.ordinal < barrier,
                // Not aligned again.
                Some(barrier) if open.ordinal >= barrier => true,
                _ => open.turn < self.unpaired_turn,
            };
            open.gap |= end == End::TracerStopped && !intact || in_doubt;
            let end = match (end, open.kind, self.tunnel) {
                (End::TracerStopped, _, _) => End::TracerStopped,
                _ if in_doubt => End::TracerStopped,
                (_, Kind::LongLived, true) => End::Upgraded,
                (end, _, _) => end,
            };
            self.end(0, end, now, fx);
        }
        self.response = Answering::Nothing;
        self.request = None;
    }

    /// Events were lost up to `at`: the answers to requests that began before may have been among them.
    pub fn doubt(&mut self, at: BootTime) {
        for open in self.open.iter_mut().filter(|open| open.start <= at) {
            open.gap = true;
        }
    }

    /// What began before `at` was answered or not: nobody saw it.
    pub fn lose_older(&mut self, at: BootTime, now: BootTime, fx: &mut Effects) {
        while let Some(index) = self.open.iter().position(|open| open.start <= at) {
            self.unended(index, now, fx);
        }
    }

    /// What is in flight are no requests at all: they are gone, and nobody misses them. Their number.
    pub fn take_back(&mut self) -> u64 {
        (self.request, self.request_by_turn) = (None, false);
        (self.response, self.response_by_turn) = (Answering::Nothing, false);
        self.open.drain(..).count() as u64
    }

    /// What is left was answered or not: nobody saw it.
    pub fn lose_all(&mut self, now: BootTime, fx: &mut Effects) {
        self.drop_early(fx);
        while !self.open.is_empty() {
            if self.tunnel && self.open[0].kind == Kind::LongLived {
                self.end(0, End::Upgraded, now, fx);
            } else {
                self.unended(0, now, fx);
            }
        }
        self.response = Answering::Nothing;
        self.request = None;
    }

    /// Requests of a process that ended.
    pub fn end_process(&mut self, pid: u32, now: BootTime, fx: &mut Effects) {
        let mut at = 0;
        while at < self.open.len() {
            if self.open[at].pid == pid && self.open[at].kind != Kind::LongLived {
                self.owe(at);
                self.end(at, End::Exited, now, fx);
            } else {
                at += 1;
            }
        }
    }

    /// When the oldest request that waits for its response began.
    pub fn waiting_since(&self) -> Option<BootTime> {
        self.open.iter().find(|open| Self::can_be_stuck(open)).map(|open| open.start)
    }

    fn can_be_stuck(open: &Open) -> bool {
        open.kind == Kind::Request && open.response_start.is_none()
    }

    /// Gives up what waits for longer than `after_ns`.
    pub fn end_stuck(&mut self, now: BootTime, after_ns: u64, fx: &mut Effects) {
        let mut at = 0;
        while let Some(open) = self.open.get(at) {
            let due = open.start.0.saturating_add(after_ns);
            if due > now.0 {
                break;
            }
            if Self::can_be_stuck(open) {
                self.owe(at);
                self.end(at, End::Stuck, BootTime(due), fx);
            } else {
                at += 1;
            }
        }
    }

    /// The response to a request that is given up may still come.
    pub(super) fn owe(&mut self, at: usize) {
        let open = &self.open[at];
        self.spoiled_turn = self.spoiled_turn.max(open.turn_last);
        if open.response_start.is_none() && self.barrier.is_none_or(|barrier| open.ordinal < barrier) {
            self.given_up = self.given_up.saturating_add(1);
        }
    }

    fn give_up_front(&mut self, now: BootTime, end: End, fx: &mut Effects) {
        if !self.open.is_empty() {
            self.owe(0);
            self.open[0].gap = true;
            self.end(0, end, now, fx);
        }
    }

    /// A request whose end was lost: it leaves as open.
    pub(super) fn unended(&mut self, at: usize, now: BootTime, fx: &mut Effects) {
        self.open[at].gap = true;
        self.end(at, End::TracerStopped, now, fx);
    }

    pub(super) fn end(&mut self, at: usize, end: End, now: BootTime, fx: &mut Effects) {
        let Some(open) = self.open.remove(at) else { return };
        if self.response == Answering::Final(open.ordinal) {
            self.response = if end == End::Answered { Answering::Nothing } else { Answering::Unpaired };
            self.response_by_turn = false;
        }
        fx.ended.push(Ended { at: now.max(open.start), open, end });
    }
}
