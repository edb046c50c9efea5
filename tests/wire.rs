//! A connection as a parser sees it: bytes in pieces, lengths without bytes, losses, turns, closes. Feeds a parser by
//! the contract of `Parser` alone, checks the parser's half of it, and writes down what came out. Shared by the golden
//! tests, the properties and the fuzz target.

use tracer_user::protocol::{Body, Flow, Mark, Message, Operation, Parser, Resync, Step};

/// Most bytes of a flow that a stream holds back for its parser.
const MAX_HELD: usize = 1 << 20;
/// Steps in a row that consume nothing.
const MAX_IDLE_STEPS: usize = 64;

/// A message, and where it stands in its flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its flow.
    pub flow: Flow,
    /// Position of its first byte.
    pub begin: u64,
    /// Where it ended.
    pub end: End,
    /// What it says, in a line.
    pub text: String,
}

/// Where a message ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Position behind its last byte.
    At(u64),
    /// Not known: it was cut off.
    Cut,
    /// It goes on.
    Open,
}

/// One flow.
#[derive(Default)]
struct Pipe {
    /// Bytes shown to the parser and not accounted for yet.
    held: Vec<u8>,
    /// Position of the first of them.
    position: u64,
    /// Bytes announced by a step that did not arrive yet.
    announced: u64,
    /// Position behind the bytes passed last: where a message ends that ends now.
    passed: u64,
    until_close: bool,
    /// Bytes lost, and no boundary found since.
    lost: Option<u64>,
    /// Positions at which turns began, not passed yet.
    turn_starts: Vec<u64>,
    /// Index of the message in progress.
    open: Option<usize>,
    /// Bytes lost, noticed when the next ones come.
    unnoticed: u64,
    closed: bool,
}

/// A connection.
pub struct Wire {
    parser: Box<dyn Parser>,
    pipes: [Pipe; 2],
    /// Messages in the order in which they began.
    pub seen: Vec<Seen>,
    /// Bytes that were not the protocol's: times the parser gave up.
    pub n_invalid: u64,
    /// Most bytes held at once in one flow.
    pub max_held: usize,
}

impl Wire {
    /// Nothing was sent yet.
    pub fn new(parser: Box<dyn Parser>) -> Self {
        Wire { parser, pipes: Default::default(), seen: Vec::new(), n_invalid: 0, max_held: 0 }
    }

    /// `bytes` arrive, the first of a turn or not.
    pub fn bytes(&mut self, flow: Flow, bytes: &[u8], turn_start: bool) {
        if self.pipes[flow.index()].closed || bytes.is_empty() {
            return;
        }
        self.notice(flow);
        let pipe = &mut self.pipes[flow.index()];
        if turn_start {
            let at = pipe.position + pipe.held.len() as u64;
            pipe.turn_starts.push(at);
        }
        let n_passed = pipe.pass(bytes.len() as u64) as usize;
        pipe.held.extend_from_slice(&bytes[n_passed..]);
        self.max_held = self.max_held.max(self.pipes[flow.index()].held.len());
        self.read(flow);
        // What one flow says may make the other's bytes readable.
        self.read(if flow == Flow::Request { Flow::Response } else { Flow::Request });
        assert!(self.pipes[flow.index()].held.len() < MAX_HELD, "the parser holds too much");
    }

    /// `len` bytes went by: their number is known, they themselves are not.
    pub fn missing(&mut self, flow: Flow, len: u64) {
        let pipe = &mut self.pipes[flow.index()];
        if pipe.closed {
            return;
        }
        let n_lost = len - pipe.pass(len);
        if n_lost > 0 {
            self.cut(flow);
            let pipe = &mut self.pipes[flow.index()];
            pipe.position += pipe.held.len() as u64 + n_lost;
            pipe.held.clear();
            pipe.lost = Some(pipe.lost.unwrap_or(0) + n_lost);
        }
    }

    /// `len` bytes are lost: nobody knows until the next ones come.
    pub fn lost(&mut self, flow: Flow, len: u64) {
        self.pipes[flow.index()].unnoticed += len;
    }

    fn notice(&mut self, flow: Flow) {
        let n_lost = std::mem::take(&mut self.pipes[flow.index()].unnoticed);
        if n_lost > 0 {
            self.missing(flow, n_lost);
        }
    }

    /// The flow ends.
    pub fn close(&mut self, flow: Flow) {
        self.notice(flow);
        let pipe = &mut self.pipes[flow.index()];
        if std::mem::replace(&mut pipe.closed, true) {
            return;
        }
        // A message announced but not arrived in full was cut; its `End` was said already.
        let cut = pipe.announced > 0;
        let mut marks = Vec::new();
        self.parser.close(flow, &mut marks);
        if self.pipes[flow.index()].lost.is_some() {
            // The parser was not told yet that the message in progress was cut.
            marks.clear();
        }
        self.mark(flow, marks, None);
        if cut {
            self.cut_last(flow);
        }
    }

    /// Continues with a parser made from the saved state of this one.
    pub fn reload(&mut self, mut fresh: Box<dyn Parser>) {
        let state = self.parser.save();
        assert!(fresh.load(&state), "a saved state is not read again");
        assert_eq!(fresh.save(), state, "a state changes by being saved and loaded");
        self.parser = fresh;
    }

    /// The parser's state.
    pub fn state(&self) -> Vec<u8> {
        self.parser.save()
    }

    /// Messages in the order of flow and position.
    pub fn finish(mut self) -> Vec<Seen> {
        self.seen.sort_by_key(|seen| (seen.begin, seen.flow.index()));
        self.seen
    }

    fn read(&mut self, flow: Flow) {
        let mut n_idle = 0;
        while !self.pipes[flow.index()].held.is_empty() {
            let pipe = &mut self.pipes[flow.index()];
            let starts: Vec<usize> = pipe
                .turn_starts
                .iter()
                .filter_map(|start| start.checked_sub(pipe.position))
                .map(|start| start as usize)
                .collect();
            if let Some(missing) = pipe.lost {
                let (dropped, found) = match self.parser.resync(flow, missing, &pipe.held, &starts) {
                    Resync::At(dropped) => (dropped, true),
                    Resync::NotYet { dropped } => (dropped, false),
                };
                assert!(dropped <= pipe.held.len(), "resync drops more than it was shown");
                pipe.held.drain(..dropped);
                pipe.position += dropped as u64;
                let position = pipe.position;
                pipe.turn_starts.retain(|&start| start >= position);
                pipe.lost = (!found).then_some(0);
                n_idle = if dropped > 0 { 0 } else { n_idle + 1 };
                assert!(n_idle <= MAX_IDLE_STEPS, "the parser makes no progress");
                if !found {
                    return;
                }
                continue;
            }
            let mut marks = Vec::new();
            match self.parser.step(flow, &pipe.held, &mut marks) {
                Step::Consume { len } => {
                    n_idle = if len == 0 { n_idle + 1 } else { 0 };
                    assert!(n_idle <= MAX_IDLE_STEPS, "the parser makes no progress");
                    let begin = pipe.position;
                    let n_held = len.min(pipe.held.len() as u64);
                    pipe.held.drain(..n_held as usize);
                    pipe.position += n_held;
                    pipe.announced = len - n_held;
                    if len > 0 {
                        pipe.passed = begin + len;
                    }
                    let position = pipe.position;
                    pipe.turn_starts.retain(|&start| start >= position);
                    self.mark(flow, marks, Some(begin));
                }
                Step::UntilClose => {
                    let begin = pipe.position;
                    pipe.flow_out();
                    self.mark(flow, marks, Some(begin));
                }
                Step::NeedMore => {
                    assert!(marks.is_empty(), "marks without bytes");
                    return;
                }
                Step::Invalid(_) => {
                    assert!(marks.is_empty(), "marks without bytes");
                    self.n_invalid += 1;
                    self.cut(flow);
                    self.pipes[flow.index()].lost = Some(0);
                }
            }
        }
    }

    fn mark(&mut self, flow: Flow, marks: Vec<Mark>, begin: Option<u64>) {
        for mark in marks {
            let pipe = &mut self.pipes[flow.index()];
            match mark {
                Mark::Begin(message) => {
                    assert!(pipe.open.is_none(), "a message begins inside another");
                    pipe.open = Some(self.seen.len());
                    let begin = begin.expect("a message begins at the close");
                    self.seen.push(Seen { flow, begin, end: End::Open, text: text(&message) });
                }
                Mark::End { stream } => {
                    assert_eq!(stream, 0, "only protocols without streams so far");
                    let open = pipe.open.take().expect("an end without a begin");
                    self.seen[open].end = End::At(pipe.passed);
                }
                Mark::Cut { .. } => self.cut(flow),
                Mark::Upgraded { to } => {
                    let open = pipe.open.expect("an upgrade without a response");
                    let to = to.map_or("a tunnel".into(), |to| to.escape_ascii().to_string());
                    self.seen[open].text += &format!(", then {to}");
                    self.pipes.iter_mut().for_each(Pipe::flow_out);
                }
            }
        }
    }

    fn cut(&mut self, flow: Flow) {
        if let Some(open) = self.pipes[flow.index()].open.take() {
            self.seen[open].end = End::Cut;
        }
    }

    /// The message that ended last did not arrive in full.
    fn cut_last(&mut self, flow: Flow) {
        if let Some(last) = self.seen.iter_mut().rfind(|seen| seen.flow == flow) {
            last.end = End::Cut;
        }
    }
}

impl Pipe {
    /// Nothing is shown to the parser any more.
    fn flow_out(&mut self) {
        self.until_close = true;
        self.lost = None;
        self.position += self.held.len() as u64;
        self.passed = self.passed.max(self.position);
        self.held.clear();
    }

    /// Passes the part of `len` new bytes that was announced; they do not reach the parser. Returns how many.
    fn pass(&mut self, len: u64) -> u64 {
        let n_passed = if self.until_close {
            self.passed += len;
            len
        } else {
            let n_passed = self.announced.min(len);
            self.announced -= n_passed;
            n_passed
        };
        if n_passed > 0 {
            assert!(self.held.is_empty(), "bytes are held behind ones that were announced");
            self.position += n_passed;
            let position = self.position;
            self.turn_starts.retain(|&start| start >= position);
        }
        n_passed
    }
}

/// A message in a line, all of its parts escaped.
pub fn text(message: &Message) -> String {
    let show = |bytes: &Option<bytes::Bytes>| {
        bytes.as_ref().map_or("-".into(), |bytes| bytes.escape_ascii().to_string())
    };
    match &message.body {
        Body::Request(request) => {
            let operation = match &request.operation {
                Operation::Fixed(name) => name.to_string(),
                Operation::Path { method, path } => format!("{method} {}", path.escape_ascii()),
            };
            let one_way = if request.one_way { ", one way" } else { "" };
            format!(
                "{operation} (target {}, to {}{one_way})",
                show(&request.target),
                show(&request.authority)
            )
        }
        Body::Response(response) | Body::Interim(response) => {
            let status = response.status_code.map_or("-".to_owned(), |status| status.to_string());
            let interim = if matches!(message.body, Body::Interim(_)) { " interim" } else { "" };
            let error_type = response.error_type.as_ref().map_or(String::new(), |text| format!(" {text}"));
            let long_lived = if response.long_lived { " long-lived" } else { "" };
            let error = match response.error {
                tracer_user::protocol::ErrorFor::None => "",
                tracer_user::protocol::ErrorFor::Client => " error for the client",
                tracer_user::protocol::ErrorFor::Both => " error",
            };
            format!("{status}{interim}{long_lived}{error}{error_type}")
        }
    }
}
