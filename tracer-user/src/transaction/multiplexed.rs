//! Pairing by stream: the messages of many requests go on at once on one connection, and each says which one it belongs to.
//!
//! A loss cannot shift the pairs; it can hide their parts. What was in flight when bytes of the response flow were lost may have been
//! answered by them: unless its end is seen all the same, it leaves as `tracer_stopped` with confidence `gap`.

use std::borrow::Cow;

use super::{
    End, Kind,
    open::{Around, Effects, Open, Setting},
    pairing::Pairs,
};
use crate::{
    conn::stream::Stamp,
    protocol::{Flow, Request, Response},
    time::BootTime,
};

impl Pairs {
    fn newest_on(&mut self, stream: u64) -> Option<usize> {
        self.open.iter().rposition(|open| open.stream == stream)
    }

    /// `n` more bytes of the message in progress on a stream.
    pub fn stream_part(&mut self, flow: Flow, stream: u64, n: u64) {
        if let Some(at) = self.newest_on(stream) {
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
            if !interim {
                fx.unpaired[self.why_unpaired(stamp, around) as usize] += 1;
                fx.counted = true;
            }
            return;
        };
        let open = &mut self.open[at];
        if open.interim.is_none() {
            open.response_from = position;
        }
        if open.interim.is_none() && !open.entry {
            open.entry = stamp.entry;
        }
        if interim {
            open.interim.get_or_insert(stamp.first);
            return;
        }
        open.response_start = Some(stamp.first);
        open.answer(response);
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
        if let Some(index) = self.newest_on(stream) {
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
        if flow == Flow::Response {
            self.barrier = Some(self.next_ordinal);
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
