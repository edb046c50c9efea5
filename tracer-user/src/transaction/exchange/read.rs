//! Between the bytes and the parser: what it is shown, what it jumps over, and what it finds.

use super::{Blind, Exchange, KEEP_CAPACITY, MAX_IDLE_STEPS, Turnover, datagram::FRAME};
use crate::{
    conn::{connection::Connection, stream::Stamp},
    event::Direction,
    protocol::{Body, Capture, Flow, Mark, Message, Pairing, Parser, REGISTRY, Resync, Step, upgraded_to},
    time::BootTime,
    transaction::open::{Around, Setting},
};

impl Exchange {
    /// Bytes of a direction: `payload`, then `hole` bytes that were not captured, and why.
    pub(super) fn parse(
        &mut self,
        conn: &mut Connection,
        direction: Direction,
        mut payload: &[u8],
        (mut hole, why): (u64, Blind),
        stamp: &Stamp,
        turnover: &mut Turnover<'_>,
    ) {
        let at = direction.index();
        let mut position = stamp.position;
        if self.flows[at].skip > 0 {
            let n = self.flows[at].skip.min(payload.len() as u64);
            payload = &payload[n as usize..];
            self.skip(direction, n, &mut position, stamp, turnover);
        }
        if !payload.is_empty() {
            self.step(conn, direction, payload, position, stamp, turnover);
            position = position.wrapping_add(payload.len() as u64);
        }
        let n = self.flows[at].skip.min(hole);
        hole -= n;
        if hole > 0 && n > 0 && stamp.is_of_several_calls() {
            // The end lies between the first and the last call summed: when it was is not known.
            position = position.wrapping_add(n);
            self.flows[at].skip = 0;
            self.end_pending(direction, position, None, stamp.last, turnover);
        } else {
            self.skip(direction, n, &mut position, stamp, turnover);
        }
        if hole > 0 {
            self.blind(conn, direction, position, hole, why, stamp, turnover);
        }
        // A length that nobody announced (chunks): their sizes have to be seen.
        let flow = &self.flows[at];
        self.everything |= flow.skip == 0 && !flow.until_close && self.in_progress(self.flow(direction));
    }

    /// `n` bytes of an announced length went by.
    fn skip(
        &mut self,
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
        self.parts(direction, n);
        if self.flows[direction.index()].skip == 0 {
            self.end_pending(direction, *position, Some(stamp), stamp.last, turnover);
        }
    }

    /// The announced length is over before `position`: what had to end there has ended.
    fn end_pending(
        &mut self,
        direction: Direction,
        position: u64,
        stamp: Option<&Stamp>,
        now: BootTime,
        turnover: &mut Turnover<'_>,
    ) {
        let mut ends = std::mem::take(&mut self.flows[direction.index()].ends);
        for stream in ends.drain(..) {
            self.message_end(direction, stream, position, stamp, now, turnover);
        }
        self.flows[direction.index()].ends = ends;
    }

    pub(super) fn message_end(
        &mut self,
        direction: Direction,
        stream: u64,
        position: u64,
        stamp: Option<&Stamp>,
        now: BootTime,
        turnover: &mut Turnover<'_>,
    ) {
        match self.flow(direction) {
            flow if self.pairs.is_by_stream() => {
                self.pairs.stream_end(flow, stream, stamp, now, turnover.fx);
            }
            Flow::Request => self.pairs.request_end(position, stamp, turnover.fx),
            Flow::Response => self.pairs.response_end(position, stamp, now, turnover.fx),
        }
    }

    /// `missing` bytes from `from` on cannot be looked at; `stamp`: of the event that holds or follows them.
    #[expect(clippy::too_many_arguments, reason = "one call; the arguments are one gap's parts")]
    pub(super) fn blind(
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
        if self.is_mute() {
            return self.not_looked_at(direction);
        }
        let kind = self.flow(direction);
        // What is not known to be of a later turn belongs to this one.
        let in_turn = self.flows[at].more.until_turn;
        if self.is_tunnel() || self.flows[at].until_close || in_turn {
            self.flows[at].more.look = None;
            if matches!(why, Blind::Lost | Blind::LostOld) {
                self.pairs.inner_gap(kind == Flow::Request);
            }
            return;
        }
        let inside = self.flows[at].skip.min(missing);
        if inside > 0 {
            self.pairs.inner_gap(kind == Flow::Request);
            if self.pairs.is_by_stream() {
                self.pairs.streams_missing(kind);
            }
            self.flows[at].skip -= inside;
            if self.flows[at].skip == 0 {
                // Its last byte was not seen: when it ended is not known.
                let end = from.wrapping_add(inside);
                self.end_pending(direction, end, None, stamp.first, turnover);
            }
        }
        let missing = missing - inside;
        if missing == 0 {
            return;
        }
        if self.pairs.is_tunnel() {
            // No request begins any more: what is missed is messages of the one transaction.
            self.pairs.inner_gap(kind == Flow::Request);
            self.tunnel_blind(at, missing, turnover);
            return;
        }
        let by_stream = self.pairs.is_by_stream();
        // Where messages of many streams mix, none has to begin anywhere.
        let in_message = self.in_progress(kind) || by_stream;
        if by_stream {
            self.pairs.streams_missing(kind);
            self.pairs.uncounted(kind, None);
        }
        let shortest = self.shortest();
        let flow = &mut self.flows[at];
        // While it looks for a boundary a parser keeps what may be a head: the beginning of a turn.
        let in_head = !flow.held.is_empty()
            && (!flow.resyncing || flow.spans.first().is_some_and(|(_, stamp)| stamp.turn_start));
        let begins_turn = stamp.turn_start && from == stamp.position;
        // Of a head at the beginning of a turn, the first byte is enough.
        let head = in_head || (!in_message && !flow.resyncing && (missing >= shortest || begins_turn));
        // A turn of which nothing can be looked at, behind something that was not understood: it began with a head, unless a
        // message goes over several turns, and then all counts of turns are taken for upper bounds.
        let blind_turn = flow.resyncing && begins_turn;
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
                if !by_stream {
                    self.pairs.requests_missing(stamp.turn, stamp.begins_turn(), true);
                }
            }
            (Flow::Request, Blind::NotCaptured | Blind::LeftOut) => {
                conn.turns.requests_not_seen(missing, head);
                if head {
                    conn.turns.head_not_seen(direction, turn, false);
                } else if blind_turn {
                    conn.turns.head_not_seen(direction, stamp.turn, conn.mid_join || conn.forgotten);
                }
                self.everything |= why == Blind::NotCaptured;
                if !by_stream {
                    self.pairs.requests_missing(stamp.turn, false, false);
                }
            }
            // A loss cannot shift the pairs.
            (Flow::Response, _) if by_stream => self.everything |= why == Blind::NotCaptured,
            (Flow::Response, Blind::Lost | Blind::LostOld) => {
                self.pairs.responses_lost(stamp.turn, stamp.begins_turn(), stamp.first, turnover.fx);
            }
            (Flow::Response, Blind::NotCaptured | Blind::LeftOut) => {
                self.everything |= why == Blind::NotCaptured;
                self.pairs.response_not_captured(stamp, position, turnover.fx);
            }
        }
    }

    /// Bytes of a tunnel with a parser could not be looked at, or not be read (`missing` is then 0).
    fn tunnel_blind(&mut self, at: usize, missing: u64, turnover: &mut Turnover<'_>) {
        let flow = &mut self.flows[at];
        if !flow.resyncing && missing > 0 {
            turnover.fx.gaps += 1;
            turnover.fx.counted = true;
        }
        flow.resyncing = true;
        flow.missing = flow.missing.saturating_add(missing);
        flow.held.clear();
        flow.spans.clear();
    }

    /// Shows bytes to the parser until it wants no more.
    pub(super) fn step(
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
            if self.is_tunnel() || self.flows[at].until_close || self.flows[at].more.until_turn {
                self.look(parser.as_mut(), at, kind, &buf[off..], turnover);
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
            if kind == Flow::Response && !self.pairs.in_response() {
                let position = base.wrapping_add(off as u64);
                let span = spans.iter().find(|(_, stamp)| stamp.begins_turn() && stamp.position == position);
                if let Some(n) =
                    span.and_then(|(_, stamp)| self.pairs.known_in_flight(stamp, self.around(conn)))
                {
                    parser.in_flight(n);
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
                    if let Some(next) = self.next_protocol.take() {
                        self.set_inside(parser.inside_tls());
                        // Whatever the old one held of the other flow is not the new one's.
                        if let Some(next) = self.speak(conn, next) {
                            parser = next;
                        }
                    }
                }
                Step::UntilClose => {
                    let begin = base.wrapping_add(off as u64);
                    self.marks(conn, direction, begin, 0, 0, &spans, stamp, turnover);
                    self.flows[at].until_close = true;
                }
                step @ (Step::UntilTurn | Step::LookUntilTurn) => {
                    let begin = base.wrapping_add(off as u64);
                    self.marks(conn, direction, begin, 0, 0, &spans, stamp, turnover);
                    self.pairs.ends_with_turn(kind);
                    self.flows[at].more.until_turn = true;
                    self.flows[at].more.look = (step == Step::LookUntilTurn).then(Vec::new);
                }
                Step::NeedMore => break,
                Step::Invalid(_) => {
                    turnover.fx.invalid += 1;
                    turnover.fx.counted = true;
                    self.invalid(conn, direction, stamp, turnover);
                    // Shown again whole: the parser knows that no boundary is there, and needs to see what it skips.
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
    pub(super) fn passed_over(
        &self,
        conn: &mut Connection,
        kind: Flow,
        n: usize,
        base: u64,
        range: std::ops::Range<usize>,
        spans: &[(u64, Stamp)],
    ) {
        if kind == Flow::Response || self.pairs.is_tunnel() {
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
    pub(super) fn invalid(
        &mut self,
        conn: &mut Connection,
        direction: Direction,
        stamp: &Stamp,
        turnover: &mut Turnover<'_>,
    ) {
        if !self.flows[direction.index()].resyncing {
            self.flows[direction.index()].resyncing = true;
            if self.pairs.is_tunnel() {
                self.pairs.inner_gap(self.flow(direction) == Flow::Request);
                return;
            }
            match self.flow(direction) {
                flow if self.pairs.is_by_stream() => {
                    if flow == Flow::Request {
                        conn.turns.requests_not_seen(0, false);
                    }
                    self.pairs.streams_missing(flow);
                    self.pairs.uncounted(flow, None);
                }
                Flow::Request => {
                    conn.turns.requests_not_seen(0, false);
                    self.pairs.requests_missing(stamp.turn, false, true);
                }
                Flow::Response => self.pairs.responses_lost(stamp.turn, false, stamp.last, turnover.fx),
            }
        }
    }

    /// More bytes of a turn, of which only the connection's facts are of interest.
    fn look(
        &mut self,
        parser: &mut dyn Parser,
        at: usize,
        flow: Flow,
        bytes: &[u8],
        turnover: &mut Turnover<'_>,
    ) {
        let Some(mut seen) = self.flows[at].more.look.take() else { return };
        if !seen.is_empty() {
            seen.extend_from_slice(bytes);
        }
        turnover.marks.clear();
        let shown: &[u8] = if seen.is_empty() { bytes } else { &seen };
        if parser.look(flow, shown, turnover.marks) && shown.len() <= turnover.limits.max_held_bytes {
            if seen.is_empty() {
                seen.extend_from_slice(bytes);
            }
            self.flows[at].more.look = Some(seen);
        }
        for mark in turnover.marks.drain(..) {
            if let Mark::Tls(facts) = mark {
                self.pairs.set_tls(facts);
                turnover.fx.tls = true;
            }
        }
    }

    /// What a step found: begins at the first of `len` bytes from `begin` on, ends at the last, of which `have` are there.
    #[expect(clippy::too_many_arguments, reason = "one call; the arguments are one step's parts")]
    pub(super) fn marks(
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
        let flow = self.flow(direction);
        let last = if len == 0 && spans.first().is_none_or(|span| span.0 == begin) {
            // Ends with the byte before the first one here.
            stamp
        } else {
            at(begin.wrapping_add(len.min(have).max(1) - 1))
        };
        let mut marks = std::mem::take(turnover.marks);
        if self.is_mute() {
            marks.retain(|mark| matches!(mark, Mark::Tls(_)));
        }
        let by_stream = self.pairs.is_by_stream();
        // What stands before a datagram for the parser was not on the wire.
        let n_bytes = len.min(have).saturating_sub(if self.socket.is_some() { FRAME } else { 0 });
        let mut parts = std::mem::take(&mut self.flows[direction.index()].more.parts);
        parts.clear();
        for mark in marks.drain(..) {
            let mut begins = None;
            if let Mark::Reset { stream, .. } = &mark {
                // It ends with what is announced, which is all its own: nothing is added to it later.
                self.pairs.stream_part(flow, *stream, len);
            } else if by_stream
                && let Some(stream) = mark.stream()
                && !parts.contains(&stream)
            {
                parts.push(stream);
                if matches!(&mark, Mark::Begin(_)) {
                    // There is nothing yet that they could belong to.
                    begins = Some(stream);
                } else {
                    self.pairs.stream_part(flow, stream, n_bytes);
                }
            }
            match mark {
                Mark::Begin(Message { stream, body: Body::Push(request) }) => {
                    let setting = self.setting(conn, turnover);
                    let first = at(begin);
                    let len = if self.socket.is_some() { n_bytes } else { len };
                    self.pairs.push(first, last.last, begin, len, stream, request, setting, turnover.fx);
                }
                Mark::Begin(message) => {
                    self.message_begin(conn, begin, at(begin), message, turnover);
                    if let Some(stream) = begins {
                        self.pairs.stream_part(flow, stream, n_bytes);
                    }
                }
                Mark::Part { .. } => {}
                Mark::Messages { stream, n } => self.pairs.messages(flow, stream, n),
                Mark::Uncounted { stream } => self.pairs.uncounted(flow, Some(stream)),
                Mark::Outcome { stream, response } => self.pairs.outcome(flow, stream, response),
                Mark::Unread { stream } => self.pairs.not_read(flow, stream),
                Mark::LongLived { stream } => self.pairs.turns_out_long_lived(flow, stream),
                Mark::End { stream } if len > have => self.flows[direction.index()].ends.push(stream),
                Mark::End { stream } => {
                    let end = begin.wrapping_add(len);
                    self.message_end(direction, stream, end, Some(last), last.last, turnover);
                }
                Mark::Cut { stream } => match flow {
                    flow if by_stream => self.pairs.stream_cut(flow, stream, stamp.last, turnover.fx),
                    Flow::Request => self.pairs.request_cut_off(),
                    Flow::Response => self.pairs.response_cut(stamp.last, turnover.fx),
                },
                Mark::Reset { stream, error } => {
                    self.pairs.stream_reset(stream, error, last.last, turnover.fx);
                }
                Mark::Tls(facts) => {
                    self.pairs.set_tls(facts);
                    turnover.fx.tls = true;
                }
                Mark::Switch { to } => {
                    self.next_protocol = REGISTRY.iter().position(|protocol| protocol.name() == to);
                }
                Mark::Upgraded { to } => self.upgraded(to.as_deref()),
            }
        }
        *turnover.marks = marks;
        if by_stream && flow == Flow::Request {
            self.pairs.settle_early(turnover.fx);
        }
        if len <= have {
            parts.clear();
        }
        self.flows[direction.index()].more.parts = parts;
    }

    /// The connection is another protocol from here on: one with a parser, or a tunnel.
    fn upgraded(&mut self, to: Option<&[u8]>) {
        let Some((at, protocol)) = to.and_then(upgraded_to) else { return self.pairs.upgrade(None) };
        self.next_protocol = Some(at);
        match protocol.upgraded_stream() {
            Some(stream) => self.pairs.move_to_stream(stream, protocol.name()),
            None => self.pairs.upgrade(Some(protocol.name())),
        }
    }

    /// `n` bytes of an announced length belong to the streams that announced it.
    fn parts(&mut self, direction: Direction, n: u64) {
        let flow = self.flow(direction);
        for stream in &self.flows[direction.index()].more.parts {
            self.pairs.stream_part(flow, *stream, n);
        }
    }

    fn setting(&self, conn: &Connection, turnover: &Turnover<'_>) -> Setting {
        Setting {
            protocol: self.protocol().unwrap_or_default(),
            kind: self.kind(),
            server: self.requests == Direction::Ingress,
            mid_join: conn.mid_join,
            max_open: turnover.limits.max_in_flight,
        }
    }

    /// What pairing has to know of the connection.
    fn around(&self, conn: &Connection) -> Around {
        let requests = &self.flows[self.requests.index()];
        Around {
            mid_join: conn.mid_join,
            request_turn: requests.last.turn,
            requests_missing: requests.resyncing,
            pipelined: conn.turns.is_pipelined(),
            server: self.requests == Direction::Ingress,
        }
    }

    pub(super) fn message_begin(
        &mut self,
        conn: &mut Connection,
        position: u64,
        stamp: &Stamp,
        message: Message,
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
                let setting = self.setting(conn, turnover);
                self.pairs.request_begin(stamp, position, message.stream, request, setting, turnover.fx);
                return;
            }
            Body::Response(response) => {
                conn.turns.response_begun(stamp.turn);
                self.answered_by_turn |= self.captures() == Capture::Turns;
                (response, false)
            }
            Body::Interim(response) => (response, true),
            // Handled where its end is known.
            Body::Push(_) => return,
        };
        let around = self.around(conn);
        if mode == Pairing::ByStreamId {
            let stream = message.stream;
            self.pairs.stream_response(stamp, position, stream, response, interim, around, turnover.fx);
            return;
        }
        let at_start = stamp.begins_turn() && stamp.position == position;
        self.pairs.response_begin(stamp, position, at_start, response, interim, around, turnover.fx);
    }
}
