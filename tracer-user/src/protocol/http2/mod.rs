//! HTTP/2 (RFC 9113, RFC 7541, RFC 8441), for clients and servers alike; with [`super::grpc`] on its streams.
//!
//! **Beginning.** By prior knowledge (the client's preface, the server's SETTINGS) or by HTTP/1's upgrade to `h2c`, whose request
//! becomes stream 1. A connection joined in the middle is recognised by a chain of flawless frames with a list of fields that
//! names a method or a status.
//!
//! **Framing.** A frame's length is known from its header: DATA is one step, however long, and never looked at, but for the
//! heads of messages within it ([`super::codec::messages`]) and the events of an event stream that is not coded. A list of fields (HEADERS, PUSH_PROMISE and their CONTINUATIONs) is one step. Frames
//! of the connection and of unknown sorts are passed over.
//!
//! **Messages.** A request begins with its HEADERS and ends with END_STREAM, on whichever frame; so does a response, behind interim
//! ones. A pushed request is a [`Body::Push`]. RST_STREAM ends a transaction as reset, under the error's name, unless its response
//! was complete; GOAWAY does so with all streams that it says were not processed (`REFUSED_STREAM`). CONNECT is long-lived
//! once it was agreed to, as are event streams; one that asks for a WebSocket is that protocol's, and says how it was closed as
//! [`super::websocket`] does. Messages of calls and WebSockets and the events of event streams are counted, as long as every byte that tells
//! of them is seen: behind anything else there is no number for those that go on.
//!
//! **Loss.** Behind a loss the fields of the dynamic table are not known until they are sent anew ([`hpack`]): of a request what
//! is known is told (a method without a path), a response may have no status; both are marked. A message whose first frame was lost is no message; a
//! response whose end is seen without its beginning is cut. An interim response whose status is not known counts as the beginning
//! of the final one. The beginning of a list that may be a response or the trailers of one
//! that was lost is taken for neither. Frames are found again at the start of a turn only: by a list of fields there, by
//! three flawless frames, by frames that end with the turn, or by one of an open stream that ends with what is there; and behind bytes that
//! were all content of one DATA frame, whose length is known.
//! What remains possible: a frame's payload goes on in a new turn and holds whole frames exactly where that turn starts.
//!
//! Nothing of it is framed by turns: everything has to be captured. What the first turns of a connection hold beyond what is copied
//! before user space has said so is a gap like any other, and with it names that a client sends once (gRPC's methods) stay unknown until
//! they are sent anew.
//!
//! **Bounds.** [`MAX_STREAMS`] streams, beyond which the one with the lowest number is forgotten; lists of fields as
//! [`frame::MAX_BLOCK`] and [`hpack`] say, longer ones are invalid; 192 KiB of bytes held while frames are searched for.
//! Each byte of a list is looked at twice (once to find its end), of DATA none but heads of messages, and each of events once.
//!
//! Not handled: TLS; what runs inside a CONNECT tunnel. Priorities, flow control and pings say nothing about transactions.

use std::{borrow::Cow, collections::VecDeque};

use serde::{Deserialize, Serialize};

use self::stream::{Asked, Data, Phase, Stream};
use super::{
    Body, Coverage, Family, Flow, Inference, Mark, Message, Pairing, Parser, Protocol, Response, Resync,
    Step,
    codec::{
        frame::{self, Block, Frame, HEADER, Kind, PREFACE},
        hpack,
        messages::Messages,
        pseudo::{self, Head},
    },
    grpc,
    websocket::Frames,
};

mod search;
mod stream;

/// Streams in progress that are remembered: as many as the pipeline keeps requests in flight on a connection.
pub const MAX_STREAMS: usize = 1024;
/// Streams remembered that were reset: frames that were under way then are nothing new.
const MAX_RESET: usize = 64;
/// A list of settings that is read; 6 bytes each, some ten are registered.
const MAX_SETTINGS: usize = 4096;

/// HTTP/2.
pub struct Http2;

impl Protocol for Http2 {
    fn name(&self) -> &'static str {
        "http2"
    }

    fn semconv_name(&self) -> &'static str {
        "http"
    }

    fn family(&self) -> Family {
        Family::Http
    }

    fn coverage(&self) -> Coverage {
        Coverage {
            title: "HTTP/2",
            covers: "both roles; prior knowledge and h2c, HPACK, concurrent streams, resets, GOAWAY, pushes, extended CONNECT, event streams with the number of their events",
            lacks: "content of bodies; behind a loss, names that its dynamic table held",
            tested_with: "nghttpd, nginx, nghttpx, hypercorn, Node, nghttp, h2load, curl",
        }
    }

    fn infer(&self, head: &[u8]) -> Inference {
        let n = head.len().min(PREFACE.len());
        if head[..n] == PREFACE[..n] {
            return if n == PREFACE.len() { Inference::Request } else { Inference::NeedMore };
        }
        let mut at = 0;
        loop {
            let buf = &head[at..];
            let Some(frame) = Frame::read(buf) else {
                return if Frame::may_begin(buf) { Inference::NeedMore } else { Inference::No };
            };
            if !frame.is_plain(buf, frame::DEFAULT_MAX) || frame.kind == Kind::Continuation {
                return Inference::No;
            }
            if buf.len() < frame.whole() {
                return Inference::NeedMore;
            }
            let mut len = frame.whole();
            match frame.kind {
                // What a server sends first.
                Kind::Settings if at == 0 && frame.len > 0 => return Inference::Response,
                Kind::Headers => match frame::block(buf, &frame, skip(&frame), frame::DEFAULT_MAX) {
                    Block::Whole { block, len: n } => {
                        let Some(head) = Head::read(&mut hpack::Decoder::lost(), &block) else {
                            return Inference::No;
                        };
                        match (head.is_request(), head.status) {
                            (true, None) => return Inference::Request,
                            (false, Some(_)) => return Inference::Response,
                            (true, Some(_)) => return Inference::No,
                            (false, None) => len = n,
                        }
                    }
                    Block::Partial => return Inference::NeedMore,
                    Block::Bad(_) => return Inference::No,
                },
                _ => {}
            }
            at += len;
        }
    }

    fn parser(&self) -> Box<dyn Parser> {
        Box::new(Http2Parser::default())
    }

    fn pairing(&self) -> Pairing {
        Pairing::ByStreamId
    }

    /// A frame's header, and method, scheme and path from the tables.
    fn shortest_request(&self) -> u64 {
        HEADER as u64 + 3
    }

    /// The client also sends settings, acknowledgements, windows and pings.
    fn turns_are_requests(&self) -> bool {
        false
    }

    fn upgrade_token(&self) -> Option<&'static str> {
        Some("h2c")
    }

    fn upgraded_stream(&self) -> Option<u64> {
        Some(1)
    }
}

/// Bytes of a list's first frame before its fields.
fn skip(frame: &Frame) -> usize {
    match frame.kind {
        Kind::PushPromise => 4,
        _ if frame.has(frame::PRIORITY) => 5,
        _ => 0,
    }
}

/// Reads both flows of one connection.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Http2Parser {
    /// By flow.
    flows: [Side; 2],
    /// Streams in progress, by number.
    streams: VecDeque<Stream>,
    /// Streams up to this one that are not among them are forgotten.
    floor: u32,
    /// Highest stream of a request.
    newest: u32,
    /// Streams that were reset lately.
    reset: VecDeque<u32>,
    /// Highest stream that each side processes of the other's (by the flow that said so).
    goaway: [Option<u32>; 2],
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Side {
    /// Something was read.
    started: bool,
    /// Everything was, from the first byte on.
    intact: bool,
    /// The bytes shown last were invalid: what begins there is no boundary.
    refused: bool,
    /// Longest payload that the other side accepts, once it has said so.
    max_frame: Option<u32>,
    hpack: hpack::Decoder,
    /// In the middle of a DATA frame with messages.
    data: Option<Data>,
}

impl Parser for Http2Parser {
    fn step(&mut self, flow: Flow, buf: &[u8], marks: &mut Vec<Mark>) -> Step {
        let side = &mut self.flows[flow.index()];
        if let Some(data) = side.data {
            return self.data(flow, data, 0, buf, marks);
        }
        if !side.started
            && let Some(step) = side.start(flow, buf)
        {
            return step;
        }
        let Some(frame) = Frame::read(buf) else { return Step::NeedMore };
        let max = self.max_frame(flow);
        if !frame.is_valid(max) {
            return self.give_up(flow, "no frame");
        }
        let whole = Step::Consume { len: frame.whole() as u64 };
        match frame.kind {
            Kind::Data => self.data_frame(flow, &frame, buf, marks),
            Kind::Headers => self.fields(flow, &frame, buf, marks),
            Kind::PushPromise if flow == Flow::Response => self.fields(flow, &frame, buf, marks),
            Kind::PushPromise | Kind::Continuation => self.give_up(flow, "a frame out of place"),
            Kind::RstStream | Kind::Goaway if buf.len() < HEADER + frame.len.min(8) as usize => {
                Step::NeedMore
            }
            Kind::RstStream => {
                self.reset(flow, frame.stream, frame::word(&buf[HEADER..]), marks);
                whole
            }
            Kind::Goaway => {
                self.goaway(flow, frame::word(&buf[HEADER..]) & (u32::MAX >> 1), marks);
                whole
            }
            Kind::Settings if frame.whole() > MAX_SETTINGS => whole,
            Kind::Settings if buf.len() < frame.whole() => Step::NeedMore,
            Kind::Settings => {
                self.settings(flow, &buf[HEADER..frame.whole()]);
                whole
            }
            Kind::Priority | Kind::Ping | Kind::WindowUpdate | Kind::Other => whole,
        }
    }

    fn resync(&mut self, flow: Flow, missing: u64, buf: &[u8], turn_starts: &[usize]) -> Resync {
        self.find_frames(flow, missing, buf, turn_starts)
    }

    fn close(&mut self, _: Flow, _: &mut Vec<Mark>) {
        // A message without its last frame was cut off by the close, which ends its transaction.
    }

    fn save(&self) -> Vec<u8> {
        // Plain data into memory: there is no way to fail, and `load` refuses the empty state.
        postcard::to_allocvec(self).unwrap_or_default()
    }

    fn load(&mut self, state: &[u8]) -> bool {
        match postcard::from_bytes::<Http2Parser>(state) {
            Ok(parser) if parser.is_sound() => {
                *self = parser;
                true
            }
            _ => false,
        }
    }
}

impl Side {
    /// The first bytes of a flow: from its very beginning, or joined in the middle.
    fn start(&mut self, flow: Flow, buf: &[u8]) -> Option<Step> {
        match flow {
            Flow::Request => {
                let n = buf.len().min(PREFACE.len());
                if buf[..n] == PREFACE[..n] && n < PREFACE.len() {
                    return Some(Step::NeedMore);
                }
                self.started = true;
                if buf.starts_with(PREFACE) {
                    self.intact = true;
                    return Some(Step::Consume { len: PREFACE.len() as u64 });
                }
            }
            Flow::Response => {
                let Some(first) = Frame::read(buf) else { return Some(Step::NeedMore) };
                self.started = true;
                self.intact = first.kind == Kind::Settings && !first.has(frame::ACK);
            }
        }
        if !self.intact {
            self.hpack = hpack::Decoder::lost();
        }
        None
    }
}

impl Http2Parser {
    fn give_up(&mut self, flow: Flow, why: &'static str) -> Step {
        self.flows[flow.index()].refused = true;
        Step::Invalid(why)
    }

    /// Longest payload that may come in a flow.
    fn max_frame(&self, flow: Flow) -> u32 {
        let told = self.flows[flow.index()].max_frame;
        // A setting that was not seen may allow anything.
        let unseen = if self.flows[1 - flow.index()].intact { frame::DEFAULT_MAX } else { frame::LARGEST };
        told.unwrap_or(unseen)
    }

    fn find(&self, id: u32) -> Option<usize> {
        self.streams.binary_search_by_key(&id, |stream| stream.id).ok()
    }

    /// Adds a stream; its place.
    fn add(&mut self, stream: Stream) -> usize {
        if self.streams.len() >= MAX_STREAMS
            && let Some(lowest) = self.streams.pop_front()
        {
            self.floor = self.floor.max(lowest.id);
        }
        let at = self.streams.partition_point(|other| other.id < stream.id);
        self.streams.insert(at, stream);
        at
    }

    fn settings(&mut self, flow: Flow, payload: &[u8]) {
        // They are about what the other side may send.
        let other = &mut self.flows[1 - flow.index()];
        for (id, value) in frame::settings(payload) {
            match id {
                1 => other.hpack.allow(value),
                5 => other.max_frame = Some(value.clamp(frame::DEFAULT_MAX, frame::LARGEST)),
                _ => {}
            }
        }
    }

    /// A list of fields: HEADERS or PUSH_PROMISE at the start of `buf`.
    fn fields(&mut self, flow: Flow, frame: &Frame, buf: &[u8], marks: &mut Vec<Mark>) -> Step {
        let max = self.max_frame(flow);
        if frame.len as usize > frame::MAX_BLOCK {
            return self.give_up(flow, "too many fields");
        }
        let (block, len) = match frame::block(buf, frame, skip(frame), max) {
            Block::Whole { block, len } => (block, len as u64),
            Block::Partial => return Step::NeedMore,
            Block::Bad(why) => return self.give_up(flow, why),
        };
        let Some(head) = Head::read(&mut self.flows[flow.index()].hpack, &block) else {
            return self.give_up(flow, "no fields");
        };
        let end = frame.has(frame::END_STREAM);
        match (frame.kind, flow) {
            (Kind::PushPromise, _) => {
                let n_before = HEADER + usize::from(frame.has(frame::PADDED));
                self.push(frame::word(&buf[n_before..]) & (u32::MAX >> 1), &head, marks);
            }
            (_, Flow::Request) => self.request(frame.stream, end, &head, marks),
            (_, Flow::Response) => self.response(frame.stream, end, head, marks),
        }
        Step::Consume { len }
    }

    /// A request the server makes in the client's place.
    fn push(&mut self, id: u32, head: &Head, marks: &mut Vec<Mark>) {
        if !id.is_multiple_of(2) || id <= self.floor || self.find(id).is_some() {
            return;
        }
        let mut stream = Stream::new(id);
        stream.phase[Flow::Request.index()] = Phase::Ended;
        self.add(stream);
        marks.push(Mark::Begin(Message { stream: u64::from(id), body: Body::Push(head.request(false)) }));
    }

    /// Fields of a request, or its trailers.
    fn request(&mut self, id: u32, end: bool, head: &Head, marks: &mut Vec<Mark>) {
        let asks = Flow::Request.index();
        let stream = u64::from(id);
        let known = self.find(id);
        if let Some(at) = known.filter(|at| self.streams[*at].phase[asks] != Phase::Absent) {
            if self.streams[at].phase[asks] == Phase::Open {
                marks.push(Mark::Part { stream });
                if end {
                    self.end(Flow::Request, at, marks);
                }
            }
            return;
        }
        // What is not known to be a request may be the trailers of one that was not seen.
        if !head.is_request() || id.is_multiple_of(2) || (known.is_none() && id <= self.floor) {
            return;
        }
        self.newest = self.newest.max(id);
        let at = known.unwrap_or_else(|| self.add(Stream::new(id)));
        let side = &mut self.streams[at];
        side.phase[asks] = Phase::Open;
        side.asked = match (head.is_socket(), head.is_connect()) {
            (true, _) => Asked::Socket,
            (false, true) => Asked::Tunnel,
            (false, false) => Asked::Other,
        };
        side.grpc |= head.grpc;
        side.messages[asks] = match side.asked {
            _ if side.grpc => Messages::CALL,
            Asked::Socket => Messages::Frames(Frames::default()),
            Asked::Tunnel | Asked::Other => Messages::Off,
        };
        let request = head.request(side.grpc);
        marks.push(Mark::Begin(Message { stream, body: Body::Request(request) }));
        marks.extend(head.unknown.then_some(Mark::Unread { stream }));
        if end {
            self.end(Flow::Request, at, marks);
        }
        if self.goaway[Flow::Response.index()].is_some_and(|last| id > last) {
            marks.push(Mark::Reset { stream, error: Some(Cow::Borrowed("REFUSED_STREAM")) });
            self.forget(id);
        }
    }

    /// Fields of a response, interim or not, or its trailers.
    fn response(&mut self, id: u32, end: bool, head: Head, marks: &mut Vec<Mark>) {
        let answers = Flow::Response.index();
        let stream = u64::from(id);
        let known = self.find(id);
        let phase = known.map_or(Phase::Absent, |at| self.streams[at].phase[answers]);
        let is_forgotten = known.is_none() && (id <= self.floor || self.reset.contains(&id));
        if phase == Phase::Ended || is_forgotten {
            return;
        }
        if let (Some(100..=199), false, Phase::Absent) = (head.status, end, phase) {
            let interim = pseudo::response(head.status, false);
            marks.push(Mark::Begin(Message { stream, body: Body::Interim(interim) }));
            marks.push(Mark::End { stream });
            return;
        }
        if let Some(at) = known.filter(|_| phase == Phase::Open) {
            return self.trailers(at, end, &head, marks);
        }
        let at = match known {
            Some(at) => at,
            // The end of something that was not seen.
            None if head.status.is_none() => return,
            None => self.add(Stream::new(id)),
        };
        let side = &mut self.streams[at];
        if head.status.is_none() && end && (side.stale || !head.unknown) {
            // The trailers of a response whose beginning was lost, as far as can be told.
            marks.push(Mark::Cut { stream });
            return self.ended(Flow::Response, at);
        }
        side.status = head.status;
        side.phase[answers] = Phase::Open;
        if head.grpc && side.phase[1 - answers] == Phase::Absent {
            // Its request comes later, or was not seen.
            side.grpc = true;
        }
        side.tells(&head);
        let counts_events = side.counts_events();
        let response = match (side.grpc, end) {
            (false, _) => pseudo::response(head.status, head.event_stream || side.is_tunnel()),
            (true, false) => Response::default(),
            (true, true) => grpc::response(head.grpc_status(), head.status, head.grpc_message.as_deref()),
        };
        marks.push(Mark::Begin(Message { stream, body: Body::Response(response) }));
        // There may be none.
        marks.extend(counts_events.then_some(Mark::Messages { stream, n: 0 }));
        marks.extend(head.unknown.then_some(Mark::Unread { stream }));
        if end {
            marks.push(Mark::End { stream });
            self.ended(Flow::Response, at);
        }
    }

    /// Fields behind a response's first ones.
    fn trailers(&mut self, at: usize, end: bool, head: &Head, marks: &mut Vec<Mark>) {
        let side = &mut self.streams[at];
        let stream = u64::from(side.id);
        if side.status.is_none() && head.status.is_some() && !side.grpc {
            // What came before was an interim response that could not be read.
            side.status = head.status;
            side.tells(head);
            let response = pseudo::response(head.status, head.event_stream || side.is_tunnel());
            marks.push(Mark::Outcome { stream, response });
            marks.extend(side.counts_events().then_some(Mark::Messages { stream, n: 0 }));
        } else {
            marks.push(Mark::Part { stream });
        }
        marks.extend(head.unknown.then_some(Mark::Unread { stream }));
        if !end {
            return;
        }
        if side.grpc {
            let status = head.grpc_status();
            let response = grpc::response(status, side.status, head.grpc_message.as_deref());
            marks.push(Mark::Outcome { stream, response });
        }
        marks.push(Mark::End { stream });
        self.ended(Flow::Response, at);
    }

    /// One side gives a stream up.
    fn reset(&mut self, flow: Flow, id: u32, code: u32, marks: &mut Vec<Mark>) {
        let stream = u64::from(id);
        let Some(at) = self.find(id) else {
            // Its request may have been sent by another thread, and come later.
            if flow == Flow::Response && id > self.newest && !id.is_multiple_of(2) {
                marks.push(Mark::Reset { stream, error: Some(Cow::Borrowed(frame::error_name(code))) });
                let mut refused = Stream::new(id);
                refused.phase[Flow::Response.index()] = Phase::Ended;
                self.add(refused);
            }
            return;
        };
        match self.streams[at].phase {
            // The answer was complete: what is given up is the rest of the request.
            [Phase::Open, Phase::Ended] if flow == Flow::Request => marks.push(Mark::Cut { stream }),
            [_, Phase::Ended] => {}
            _ => marks.push(Mark::Reset { stream, error: Some(Cow::Borrowed(frame::error_name(code))) }),
        }
        self.forget(id);
    }

    /// One side processes no stream of the other's above `last`.
    fn goaway(&mut self, flow: Flow, last: u32, marks: &mut Vec<Mark>) {
        let lowest = self.goaway[flow.index()].map_or(last, |before| before.min(last));
        self.goaway[flow.index()] = Some(lowest);
        // A server speaks of the client's, which are odd.
        let parity = u32::from(flow == Flow::Response);
        let streams = self.streams.iter();
        let refused: Vec<u32> = streams
            .filter(|stream| {
                let is_open = stream.phase[Flow::Response.index()] != Phase::Ended;
                is_open && stream.id > lowest && stream.id % 2 == parity
            })
            .map(|stream| stream.id)
            .collect();
        for id in refused {
            let error = Some(Cow::Borrowed("REFUSED_STREAM"));
            marks.push(Mark::Reset { stream: u64::from(id), error });
            self.forget(id);
        }
    }

    /// Nothing more is expected on a stream.
    fn forget(&mut self, id: u32) {
        if let Some(at) = self.find(id) {
            self.streams.remove(at);
        }
        if self.reset.len() >= MAX_RESET {
            self.reset.pop_front();
        }
        self.reset.push_back(id);
    }

    /// A state that reading can lead to.
    fn is_sound(&self) -> bool {
        let ids = self.streams.iter().zip(self.streams.iter().skip(1));
        self.streams.len() <= MAX_STREAMS
            && self.reset.len() <= MAX_RESET
            && ids.into_iter().all(|(one, next)| one.id < next.id)
            && self.streams.iter().all(|stream| stream.messages.iter().all(Messages::is_sound))
            && self.flows.iter().all(|side| {
                let fits = |data: Data| data.left <= frame::LARGEST;
                side.hpack.is_sound() && side.data.is_none_or(fits)
            })
    }
}
