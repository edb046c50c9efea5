//! HTTP/2's streams: how far the messages on each have come, and what their content tells.

use serde::{Deserialize, Serialize};

use super::Http2Parser;
use crate::protocol::{
    Flow, Mark, Step,
    codec::{
        events::Events,
        frame::{self, Frame, HEADER},
        messages::{Messages, Passed},
        pseudo::Head,
    },
    grpc::{self, Status},
    websocket::{self, Frames},
};

/// What is left of a DATA frame.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Data {
    pub stream: u32,
    /// Bytes of content; none where the last ones were not seen.
    pub left: u32,
    /// Bytes of padding behind them.
    pub padding: u8,
    /// The message ends with it.
    pub end: bool,
}

/// How far a message has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Phase {
    /// Not begun, or its beginning was not seen.
    #[default]
    Absent,
    /// In progress.
    Open,
    /// Over.
    Ended,
}

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Asked {
    /// An answer.
    Other,
    /// A tunnel (CONNECT).
    Tunnel,
    /// One for a WebSocket.
    Socket,
}

/// A stream in progress.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Stream {
    pub id: u32,
    /// Request and response.
    pub phase: [Phase; 2],
    /// Some of the response flow was not seen since it began: its response may have begun there.
    pub stale: bool,
    pub asked: Asked,
    /// It is a gRPC call.
    pub grpc: bool,
    /// The response's status.
    pub status: Option<u16>,
    /// By flow: where in the messages.
    pub messages: [Messages; 2],
    /// By flow: one message was seen.
    has_message: [bool; 2],
    /// More than one was.
    is_streaming: bool,
}

impl Stream {
    pub fn new(id: u32) -> Stream {
        Stream {
            id,
            phase: [Phase::Absent; 2],
            stale: false,
            asked: Asked::Other,
            grpc: false,
            status: None,
            messages: [Messages::Off; 2],
            has_message: [false; 2],
            is_streaming: false,
        }
    }

    /// A tunnel that was agreed to.
    pub fn is_tunnel(&self) -> bool {
        self.asked != Asked::Other && matches!(self.status, Some(200..=299))
    }

    /// The response begins, and says what is in it.
    pub fn tells(&mut self, head: &Head) {
        let messages = match self.asked {
            _ if self.grpc => Messages::CALL,
            Asked::Socket if self.is_tunnel() => Messages::Frames(Frames::default()),
            _ if head.has_plain_events() => Messages::Events(Events::default()),
            _ => Messages::Off,
        };
        self.messages[Flow::Response.index()] = messages;
    }

    /// The response's events are counted.
    pub fn counts_events(&self) -> bool {
        matches!(self.messages[Flow::Response.index()], Messages::Events(_))
    }

    /// Nothing more comes of it.
    fn is_over(&self) -> bool {
        self.phase == [Phase::Ended; 2]
    }

    /// Passes over `left` bytes of content, of which `shown` are the first. Returns how many were passed.
    fn advance(&mut self, flow: Flow, shown: &[u8], left: u32, marks: &mut Vec<Mark>) -> u32 {
        let stream = u64::from(self.id);
        marks.push(Mark::Part { stream });
        let Passed { len, n, code, is_bad } = self.messages[flow.index()].advance(flow, shown, left);
        if n > 0 {
            marks.push(Mark::Messages { stream, n });
            if self.grpc && (n > 1 || self.has_message[flow.index()]) && !self.is_streaming {
                self.is_streaming = true;
                marks.push(Mark::LongLived { stream });
            }
            self.has_message[flow.index()] = true;
        }
        if is_bad {
            marks.push(Mark::Uncounted { stream });
        }
        if self.messages[flow.index()].is_closed() {
            self.messages[1 - flow.index()].close();
        }
        // What is said before the answer is nothing that was agreed to.
        let is_open = self.phase[Flow::Response.index()] == Phase::Open;
        let status = self.status.map(i32::from);
        let response = code.filter(|_| is_open).and_then(|code| websocket::outcome(code, status));
        marks.extend(response.map(|response| Mark::Outcome { stream, response }));
        len
    }
}

impl Http2Parser {
    /// A DATA frame at the start of `buf`.
    pub(super) fn data_frame(
        &mut self,
        flow: Flow,
        frame: &Frame,
        buf: &[u8],
        marks: &mut Vec<Mark>,
    ) -> Step {
        let whole = Step::Consume { len: frame.whole() as u64 };
        let end = frame.has(frame::END_STREAM);
        let Some(at) = self.find(frame.stream) else { return whole };
        let stream = &self.streams[at];
        let id = u64::from(frame.stream);
        match stream.phase[flow.index()] {
            Phase::Open => {}
            Phase::Absent if flow == Flow::Response && end => {
                // Its beginning was lost; its end is here.
                marks.push(Mark::Cut { stream: id });
                self.ended(flow, at);
                return whole;
            }
            Phase::Absent | Phase::Ended => return whole,
        }
        if stream.messages[flow.index()] != Messages::Off {
            let is_padded = frame.has(frame::PADDED);
            let (n_head, padding) = match (is_padded, buf.get(HEADER)) {
                (false, _) => (HEADER, 0),
                (true, Some(&padding)) => (HEADER + 1, padding),
                (true, None) => return Step::NeedMore,
            };
            let content = frame.len.checked_sub(u32::from(padding) + u32::from(is_padded));
            let Some(left) = content else { return self.give_up(flow, "padding") };
            return self.data(flow, Data { stream: frame.stream, left, padding, end }, n_head, buf, marks);
        }
        marks.push(Mark::Part { stream: id });
        if end {
            self.end(flow, at, marks);
        }
        whole
    }

    /// The content of a DATA frame with messages, behind `n_head` bytes.
    pub(super) fn data(
        &mut self,
        flow: Flow,
        mut data: Data,
        n_head: usize,
        buf: &[u8],
        marks: &mut Vec<Mark>,
    ) -> Step {
        let at = self.find(data.stream);
        // The last of the content was not seen: when the message ended is not known.
        let is_cut = data.left == 0 && n_head == 0;
        let passed = match at.filter(|at| self.streams[*at].phase[flow.index()] == Phase::Open) {
            Some(at) => {
                let shown = buf.get(n_head..).unwrap_or_default();
                self.streams[at].advance(flow, shown, data.left, marks)
            }
            None => data.left,
        };
        data.left -= passed;
        let mut len = n_head as u64 + u64::from(passed);
        self.flows[flow.index()].data = (data.left > 0).then_some(data);
        if data.left == 0 {
            len += u64::from(data.padding);
            match at.filter(|_| data.end) {
                Some(at) if is_cut => {
                    marks.push(Mark::Cut { stream: u64::from(data.stream) });
                    self.ended(flow, at);
                }
                Some(at) => self.end(flow, at, marks),
                None => {}
            }
        }
        Step::Consume { len }
    }

    /// A message ends with this step.
    pub(super) fn end(&mut self, flow: Flow, at: usize, marks: &mut Vec<Mark>) {
        let stream = &self.streams[at];
        let id = u64::from(stream.id);
        if stream.phase[flow.index()] == Phase::Open {
            if flow == Flow::Response && stream.grpc {
                // Without trailers.
                let response = grpc::response(Status::Missing, stream.status, None);
                marks.push(Mark::Outcome { stream: id, response });
            }
            marks.push(Mark::End { stream: id });
        }
        self.ended(flow, at);
    }

    pub(super) fn ended(&mut self, flow: Flow, at: usize) {
        self.streams[at].phase[flow.index()] = Phase::Ended;
        if self.streams[at].is_over() {
            self.streams.remove(at);
        }
    }
}
