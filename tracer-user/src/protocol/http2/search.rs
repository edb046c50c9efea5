//! Where HTTP/2's frames begin again behind a loss.

use super::{
    Http2Parser, Side, skip,
    stream::{Data, Phase},
};
use crate::protocol::{
    Flow, Resync,
    codec::{
        frame::{self, Block, Frame, Kind, PREFACE},
        hpack,
        messages::Messages,
        pseudo::Head,
    },
};

/// Longest payload while frames are searched for, so that a length that is none cannot hold much.
const MAX_SEARCHED: u32 = 64 << 10;
/// Flawless frames in a row that are no accident.
const CHAIN: usize = 3;

/// What bytes behind a loss are.
enum Search {
    Found,
    Preface,
    NeedMore,
    Nothing,
}

impl Http2Parser {
    /// As [`Parser::resync`](crate::protocol::Parser::resync).
    pub(super) fn find_frames(
        &mut self,
        flow: Flow,
        missing: u64,
        buf: &[u8],
        turn_starts: &[usize],
    ) -> Resync {
        let side = &mut self.flows[flow.index()];
        let at_refused = std::mem::take(&mut side.refused) && missing == 0;
        let inside = side.data.take().filter(|data| missing > 0 && missing <= u64::from(data.left));
        for stream in &mut self.streams {
            stream.messages[flow.index()] = Messages::Off;
            // A response may have begun in what is lost.
            stream.stale |= flow == Flow::Response && inside.is_none();
        }
        if let Some(data) = inside {
            // All of it was content: the frame goes on.
            side.data = Some(Data { left: data.left - missing as u32, ..data });
            return Resync::At(0);
        }
        (side.started, side.intact) = (true, false);
        side.hpack.lose();
        for (idx, &start) in turn_starts.iter().enumerate() {
            if start == 0 && at_refused {
                continue;
            }
            let Some(behind) = buf.get(start..) else { continue };
            let turn = turn_starts.get(idx + 1).and_then(|next| next.checked_sub(start));
            match self.search(flow, behind, turn) {
                Search::Found => return Resync::At(start),
                Search::Preface => {
                    self.flows[flow.index()] =
                        Side { max_frame: self.flows[flow.index()].max_frame, ..Side::default() };
                    return Resync::At(start);
                }
                Search::NeedMore => return Resync::NotYet { dropped: start },
                Search::Nothing => {}
            }
        }
        Resync::NotYet { dropped: buf.len() }
    }

    /// Looks for frames at the start of `buf`; `turn`: how many bytes there are up to the next turn's start.
    fn search(&self, flow: Flow, buf: &[u8], turn: Option<usize>) -> Search {
        let n = buf.len().min(PREFACE.len());
        if flow == Flow::Request && buf[..n] == PREFACE[..n] {
            return if n == PREFACE.len() { Search::Preface } else { Search::NeedMore };
        }
        let max = self.max_frame(flow).clamp(frame::DEFAULT_MAX, MAX_SEARCHED);
        let is_open =
            |id| self.find(id).is_some_and(|at| self.streams[at].phase[flow.index()] == Phase::Open);
        let (mut at, mut n_frames, mut last) = (0, 0, 0);
        loop {
            let rest = &buf[at..];
            if rest.is_empty() && n_frames > 0 && is_open(last) {
                return Search::Found;
            }
            let Some(frame) = Frame::read(rest) else {
                return if Frame::may_begin(rest) { Search::NeedMore } else { Search::Nothing };
            };
            let is_misplaced = match frame.kind {
                Kind::Continuation => true,
                Kind::PushPromise => flow == Flow::Request,
                _ => false,
            };
            if !frame.is_plain(rest, max) || is_misplaced {
                return Search::Nothing;
            }
            if rest.len() < frame.whole() {
                return Search::NeedMore;
            }
            at += match frame.kind {
                Kind::Headers => match frame::block(rest, &frame, skip(&frame), max) {
                    Block::Partial => return Search::NeedMore,
                    Block::Bad(_) => return Search::Nothing,
                    Block::Whole { block, len } => {
                        let Some(head) = Head::read(&mut hpack::Decoder::lost(), &block) else {
                            return Search::Nothing;
                        };
                        match (flow, head.is_request(), head.status) {
                            (Flow::Request, true, None) | (Flow::Response, false, Some(_)) => {
                                return Search::Found;
                            }
                            (_, false, None) => len,
                            _ => return Search::Nothing,
                        }
                    }
                },
                _ => frame.whole(),
            };
            (n_frames, last) = (n_frames + 1, frame.stream);
            if n_frames >= CHAIN || Some(at) == turn {
                return Search::Found;
            }
        }
    }
}
