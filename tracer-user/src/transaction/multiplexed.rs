//! Pairing by stream: the messages of many requests go on at once on one connection, and each says which one it belongs to.
//!
//! A loss cannot shift the pairs; it can hide their parts. What was in flight when bytes of the response flow were lost may have been
//! answered by them: unless its end is seen all the same, it leaves as `tracer_stopped` with confidence `gap`.
//!
//! A client's send is stamped when it returns, and another thread may have received the answer by then. While other requests are
//! in flight nothing else tells that this one is still to come: a response on a stream without a request waits for
//! one that began before it, as long as the events' own order allows one to come.

use std::borrow::Cow;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    End, Kind, Unpaired,
    open::{Around, Effects, Open, Setting},
    pairing::Pairs,
};
use crate::{
    conn::stream::Stamp,
    protocol::{Flow, Request, Response},
    time::BootTime,
};

/// Responses of a connection that wait for their requests; beyond it the oldest goes without. As many threads as may be between
/// their send and its return at one time: 64 × 300 bytes.
const MAX_EARLY: usize = 64;

/// A response (or an interim one) on a stream whose request is not known yet.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Early {
    stream: u64,
    /// Of its first byte.
    stamp: Stamp,
    position: u64,
    interim: Option<BootTime>,
    /// What the final one says, and when it began.
    response: Option<(Response, BootTime)>,
    rows: Option<u64>,
    error_message: Option<Bytes>,
    bytes: u64,
    pub(super) messages: Option<u64>,
    pub(super) long_lived: bool,
    pub(super) gap: bool,
    /// How and when it ended, and with which error it was given up.
    end: Option<(End, BootTime, Option<Cow<'static, str>>)>,
    /// What it is if no request comes.
    why: Unpaired,
}

impl Early {
    fn new(stream: u64, stamp: &Stamp, position: u64, why: Unpaired) -> Early {
        Early {
            stream,
            stamp: *stamp,
            position,
            interim: None,
            response: None,
            rows: None,
            error_message: None,
            bytes: 0,
            messages: None,
            long_lived: false,
            gap: false,
            end: None,
            why,
        }
    }

    /// What it turns out to be.
    pub(super) fn answer(&mut self, mut response: Response) {
        // Apart, as a saved response does not hold them.
        self.rows = response.rows.take().or(self.rows);
        self.error_message = response.error_message.take().or(self.error_message.take());
        self.long_lived |= response.long_lived;
        let start = self.response.as_ref().map_or(self.stamp.first, |(_, start)| *start);
        self.response = Some((response, start));
    }
}

impl Pairs {
    /// Responses that wait for their requests (checkpoint).
    pub fn early(&self) -> impl Iterator<Item = &Early> {
        self.early.iter()
    }

    /// Takes them over.
    pub fn restore_early(&mut self, early: Vec<Early>) {
        self.early = early.into();
        self.early.truncate(MAX_EARLY);
    }

    pub(super) fn early_mut(&mut self, flow: Flow, stream: u64) -> Option<&mut Early> {
        let is_response = flow == Flow::Response;
        self.early.iter_mut().find(|early| is_response && early.stream == stream && early.end.is_none())
    }

    /// What waits for a request since before `limit` waits no longer.
    pub fn expire_early(&mut self, limit: BootTime, fx: &mut Effects) {
        while self.early.front().is_some_and(|early| early.stamp.last < limit) {
            self.drop_oldest_early(fx);
        }
    }

    /// No request comes any more.
    pub(super) fn drop_early(&mut self, fx: &mut Effects) {
        while !self.early.is_empty() {
            self.drop_oldest_early(fx);
        }
    }

    fn drop_oldest_early(&mut self, fx: &mut Effects) {
        if let Some(early) = self.early.pop_front()
            && early.response.is_some()
        {
            fx.unpaired[early.why as usize] += 1;
            fx.counted = true;
        }
    }

    /// Responses whose requests have come are theirs.
    pub fn settle_early(&mut self, fx: &mut Effects) {
        let mut at = 0;
        while let Some(early) = self.early.get(at) {
            let is_asked = |open: &Open| {
                open.stream == early.stream && open.response.is_none() && open.start <= early.stamp.first
            };
            let Some(asked) = self.open.iter().position(is_asked) else {
                at += 1;
                continue;
            };
            let Some(early) = self.early.remove(at) else { return };
            let open = &mut self.open[asked];
            open.entry |= early.stamp.entry;
            open.interim = early.interim;
            open.response_from = early.position;
            open.response_bytes = early.bytes;
            open.gap |= early.gap;
            open.more.messages[Flow::Response.index()] = early.messages;
            open.more.newest[Flow::Response.index()] = early.stamp.last;
            if let Some((response, start)) = early.response {
                open.response_start = Some(start);
                open.answer(Response { rows: early.rows, error_message: early.error_message, ..response });
            }
            if early.long_lived {
                open.kind = Kind::LongLived;
            }
            if let Some((end, at, error)) = early.end {
                open.more.reset = error;
                self.end(asked, end, at, fx);
            }
        }
    }

    fn newest_on(&mut self, stream: u64) -> Option<usize> {
        self.open.iter().rposition(|open| open.stream == stream)
    }

    /// `n` more bytes of the message in progress on a stream.
    pub fn stream_part(&mut self, flow: Flow, stream: u64, n: u64) {
        if let Some(early) = self.early_mut(flow, stream) {
            early.bytes = early.bytes.saturating_add(n);
        } else if let Some(at) = self.newest_on(stream) {
            let open = &mut self.open[at];
            match flow {
                Flow::Request => open.request_bytes = open.request_bytes.saturating_add(n),
                Flow::Response => open.response_bytes = open.response_bytes.saturating_add(n),
            }
        }
    }

    /// A response (or an interim one) begins on a stream, at `position` of its flow.
    #[expect(clippy::too_many_arguments, reason = "one call, from the exchange")]
    pub fn stream_response(
        &mut self,
        stamp: &Stamp,
        position: u64,
        stream: u64,
        response: Response,
        interim: bool,
        around: Around,
        fx: &mut Effects,
    ) {
        // Where one name is in use twice (a question asked again) the answers come in order.
        let asked = self.open.iter().position(|open| open.stream == stream && open.response.is_none());
        let Some(at) = asked else {
            self.without_request(stamp, position, stream, response, interim, around, fx);
            return;
        };
        self.open[at].responds(stamp, position, response, interim);
    }

    /// A response begins on a stream without a request.
    #[expect(clippy::too_many_arguments, reason = "one call; the arguments are one response's parts")]
    fn without_request(
        &mut self,
        stamp: &Stamp,
        position: u64,
        stream: u64,
        response: Response,
        interim: bool,
        around: Around,
        fx: &mut Effects,
    ) {
        if self.early_mut(Flow::Response, stream).is_none() {
            // What was given up is known to be late; a server has read what it answers.
            if around.server || self.given_up() > 0 {
                if !interim {
                    fx.unpaired[self.why_unpaired(stamp, around) as usize] += 1;
                    fx.counted = true;
                }
                return;
            }
            if self.early.len() >= MAX_EARLY {
                self.drop_oldest_early(fx);
            }
            let why = self.why_unpaired(stamp, around);
            self.early.push_back(Early::new(stream, stamp, position, why));
        }
        let Some(early) = self.early_mut(Flow::Response, stream) else { return };
        if interim {
            early.interim.get_or_insert(stamp.first);
        } else {
            early.answer(response);
            if let Some((_, start)) = &mut early.response {
                *start = stamp.first;
            }
        }
    }

    /// The message in progress on a stream ends; `stamp`: of its last byte, if that was seen; `now`: otherwise.
    pub fn stream_end(
        &mut self,
        flow: Flow,
        stream: u64,
        stamp: Option<&Stamp>,
        now: BootTime,
        fx: &mut Effects,
    ) {
        if let Some(early) = self.early_mut(flow, stream) {
            // The end of an interim response is not the response's.
            if early.response.is_some() {
                early.gap |= stamp.is_none();
                let end = if stamp.is_some() { End::Answered } else { End::TracerStopped };
                early.end = Some((end, stamp.map_or(now, |stamp| stamp.last), None));
            }
            return;
        }
        let is_meant = |open: &Open| {
            open.stream == stream
                && match flow {
                    Flow::Request => open.request_end.is_none(),
                    Flow::Response => open.response.is_some(),
                }
        };
        let Some(at) = self.open.iter().position(is_meant) else { return };
        let open = &mut self.open[at];
        match (flow, stamp) {
            (Flow::Request, Some(stamp)) => {
                open.request_end = Some(stamp.last.max(open.start));
                open.turn_last = open.turn_last.max(stamp.turn);
                open.tid_last = stamp.tid;
                if open.one_way {
                    self.end(at, End::Answered, stamp.last, fx);
                }
            }
            (Flow::Request, None) => {
                open.gap = true;
                if open.one_way {
                    self.unended(at, now, fx);
                }
            }
            (Flow::Response, Some(stamp)) => self.end(at, End::Answered, stamp.last, fx),
            (Flow::Response, None) => self.unended(at, now, fx),
        }
    }

    /// The message in progress on a stream was cut off.
    pub fn stream_cut(&mut self, flow: Flow, stream: u64, now: BootTime, fx: &mut Effects) {
        if let Some(early) = self.early_mut(flow, stream) {
            early.gap = true;
            early.end = Some((End::TracerStopped, now, None));
            return;
        }
        let Some(at) = self.newest_on(stream) else { return };
        match flow {
            Flow::Request => self.open[at].gap = true,
            Flow::Response => self.unended(at, now, fx),
        }
    }

    /// One of the two sides gave up what goes on on a stream, with an error if it named one.
    pub fn stream_reset(
        &mut self,
        stream: u64,
        error: Option<Cow<'static, str>>,
        at: BootTime,
        fx: &mut Effects,
    ) {
        if let Some(early) = self.early_mut(Flow::Response, stream) {
            early.end = Some((End::Reset, at, error));
        } else if let Some(index) = self.newest_on(stream) {
            self.open[index].more.reset = error;
            self.end(index, End::Reset, at, fx);
        }
    }

    /// Bytes of a flow are missing: what was in progress in it may have gone on, or ended, in them.
    pub fn streams_missing(&mut self, flow: Flow) {
        for open in &mut self.open {
            open.gap |= match flow {
                Flow::Request => open.request_end.is_none(),
                Flow::Response => true,
            };
        }
        if flow == Flow::Request {
            self.blind_turn = self.blind_turn.max(1);
            return;
        }
        self.barrier = Some(self.next_ordinal);
        for early in &mut self.early {
            early.gap = true;
        }
    }

    /// Bytes of a flow could not be read (`stream`: of one), and parsers do not count on behind them: how many messages there are in what is in
    /// progress is not known.
    pub fn uncounted(&mut self, flow: Flow, stream: Option<u64>) {
        let is_meant = |on: u64| stream.is_none_or(|stream| stream == on);
        for open in self.open.iter_mut().filter(|open| is_meant(open.stream)) {
            if flow == Flow::Response || open.request_end.is_none() {
                open.more.messages[flow.index()] = None;
            }
        }
        for early in self.early.iter_mut().filter(|early| flow == Flow::Response && is_meant(early.stream)) {
            early.messages = None;
        }
    }

    /// The server sends something unasked, `n_bytes` long: a request in the client's place, or a message that nothing answers.
    #[expect(clippy::too_many_arguments, reason = "one call, from the exchange")]
    pub fn push(
        &mut self,
        stamp: &Stamp,
        last: BootTime,
        position: u64,
        n_bytes: u64,
        stream: u64,
        request: Request,
        setting: Setting,
        fx: &mut Effects,
    ) {
        // It is no part of the client's bytes: what is in progress there goes on.
        let by_stream = std::mem::replace(&mut self.by_stream, true);
        let one_way = request.one_way;
        self.request_begin(stamp, position, stream, request, Setting { server: false, ..setting }, fx);
        self.by_stream = by_stream;
        let Some(open) = self.open.back_mut() else { return };
        open.queue_ns = None;
        open.entry = stamp.entry;
        open.request_end = Some(last.max(open.start));
        if one_way {
            open.response_bytes = n_bytes;
            if open.kind == Kind::Request {
                open.kind = Kind::Message;
            }
            let at = self.open.len() - 1;
            self.end(at, End::Answered, last, fx);
        } else {
            open.request_bytes = n_bytes;
        }
    }
}
