//! A connection as a parser sees it: bytes in pieces, lengths without bytes, losses, turns, closes. Feeds a parser by
//! the contract of `Parser` alone, checks the parser's half of it, and writes down what came out. Shared by the golden
//! tests, the properties and the fuzz target.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::Arc,
};

use tracer_user::protocol::{
    Body, Flow, Mark, Message, Operation, Pairing, Parser, Protocol, REGISTRY, Resync, Step, TlsFacts,
    upgraded_to,
};

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
    /// All bytes until the other side speaks are the message's in progress, or nobody's.
    until_turn: bool,
    /// The parser looks at them all the same: those it was shown.
    look: Option<Vec<u8>>,
    /// Bytes lost, and no boundary found since.
    lost: Option<u64>,
    /// Positions at which turns began, not passed yet.
    turn_starts: Vec<u64>,
    /// Streams and indexes of the messages in progress: without streams, one at most.
    open: Vec<(u64, usize)>,
    /// Bytes lost, noticed when the next ones come.
    unnoticed: u64,
    closed: bool,
}

/// A connection.
pub struct Wire {
    protocol: &'static dyn Protocol,
    parser: Box<dyn Parser>,
    pipes: [Pipe; 2],
    /// Messages in the order in which they began.
    pub seen: Vec<Seen>,
    /// Ranges whose length was announced before they came.
    pub announced: Vec<(Flow, Range<u64>)>,
    /// It became another protocol.
    pub is_upgraded: bool,
    /// What is known of its TLS.
    pub tls: Option<Arc<TlsFacts>>,
    /// How many messages began within them, by index.
    inner: BTreeMap<usize, u64>,
    /// Of which of them nobody knows.
    uncounted: BTreeSet<usize>,
    /// Several messages of a flow may be in progress at once.
    by_stream: bool,
    /// Name of the protocol that comes behind the step in progress.
    next_protocol: Option<&'static str>,
    /// Who speaks, and in which turn.
    turn: (Option<Flow>, u64),
    /// Turn in which the newest request began.
    asked_turn: u64,
    /// Two requests began in one turn.
    is_pipelined: bool,
    /// Bytes were lost, or refused.
    is_lossy: bool,
    /// Bytes that were not the protocol's: times the parser gave up.
    pub n_invalid: u64,
    /// Most bytes held at once in one flow.
    pub max_held: usize,
}

impl Wire {
    /// Nothing was sent yet.
    pub fn new(protocol: &'static dyn Protocol) -> Self {
        Wire {
            protocol,
            parser: protocol.parser(),
            pipes: Default::default(),
            seen: Vec::new(),
            announced: Vec::new(),
            is_upgraded: false,
            tls: None,
            inner: BTreeMap::new(),
            uncounted: BTreeSet::new(),
            by_stream: protocol.pairing() == Pairing::ByStreamId,
            next_protocol: None,
            turn: (None, 0),
            asked_turn: 0,
            is_pipelined: false,
            is_lossy: false,
            n_invalid: 0,
            max_held: 0,
        }
    }

    /// `bytes` arrive, the first of a turn or not.
    pub fn bytes(&mut self, flow: Flow, bytes: &[u8], turn_start: bool) {
        if self.pipes[flow.index()].closed || bytes.is_empty() {
            return;
        }
        self.speaks(flow);
        self.turn_over(if flow == Flow::Request { Flow::Response } else { Flow::Request });
        if turn_start {
            self.turn_over(flow);
        }
        self.notice(flow);
        let pipe = &mut self.pipes[flow.index()];
        if turn_start {
            let at = pipe.position + pipe.held.len() as u64;
            pipe.turn_starts.push(at);
        }
        let n_passed = pipe.pass(bytes.len() as u64) as usize;
        self.look(flow, &bytes[..n_passed]);
        let pipe = &mut self.pipes[flow.index()];
        pipe.held.extend_from_slice(&bytes[n_passed..]);
        self.max_held = self.max_held.max(self.pipes[flow.index()].held.len());
        self.read(flow);
        // What one flow says may make the other's bytes readable.
        self.read(if flow == Flow::Request { Flow::Response } else { Flow::Request });
        assert!(self.pipes[flow.index()].held.len() < MAX_HELD, "the parser holds too much");
    }

    /// Bytes of a flow are there, seen or not.
    fn speaks(&mut self, flow: Flow) {
        if self.turn.0 != Some(flow) {
            self.turn = (Some(flow), self.turn.1 + 1);
        }
    }

    /// A flow's turn is over: what ends with it has ended.
    fn turn_over(&mut self, flow: Flow) {
        let pipe = &mut self.pipes[flow.index()];
        pipe.look = None;
        if std::mem::take(&mut pipe.until_turn) {
            // Whoever speaks next says how far the flow has come.
            let end = if pipe.unnoticed == 0 { End::At(pipe.passed) } else { End::Cut };
            for (_, open) in pipe.open.drain(..) {
                self.seen[open].end = end;
            }
        }
    }

    /// `len` bytes went by: their number is known, they themselves are not.
    pub fn missing(&mut self, flow: Flow, len: u64) {
        if len > 0 {
            self.speaks(flow);
        }
        let pipe = &mut self.pipes[flow.index()];
        if pipe.closed {
            return;
        }
        pipe.look.take_if(|_| len > 0);
        let n_lost = len - pipe.pass(len);
        if n_lost > 0 {
            self.is_lossy = true;
            self.cut(flow);
            let pipe = &mut self.pipes[flow.index()];
            pipe.position += pipe.held.len() as u64 + n_lost;
            pipe.held.clear();
            pipe.lost = Some(pipe.lost.unwrap_or(0) + n_lost);
        }
    }

    /// `len` bytes are lost: nobody knows until the next ones come.
    pub fn lost(&mut self, flow: Flow, len: u64) {
        if len > 0 {
            self.speaks(flow);
        }
        self.pipes[flow.index()].unnoticed += len;
    }

    /// More bytes of a turn that the parser looks at.
    fn look(&mut self, flow: Flow, bytes: &[u8]) {
        let Some(mut seen) = self.pipes[flow.index()].look.take() else { return };
        seen.extend_from_slice(bytes);
        let mut marks = Vec::new();
        assert!(!seen.is_empty(), "nothing is shown");
        if self.parser.look(flow, &seen, &mut marks) {
            assert!(seen.len() < MAX_HELD, "the parser holds too much");
            self.pipes[flow.index()].look = Some(seen);
        }
        for mark in marks {
            let Mark::Tls(facts) = mark else { panic!("{mark:?} is not of the connection") };
            self.tls = Some(facts);
        }
    }

    fn notice(&mut self, flow: Flow) {
        let n_lost = std::mem::take(&mut self.pipes[flow.index()].unnoticed);
        if n_lost > 0 {
            self.missing(flow, n_lost);
        }
    }

    /// The next byte of a flow needs not be seen.
    pub fn is_announced(&self, flow: Flow) -> bool {
        let pipe = &self.pipes[flow.index()];
        pipe.until_close || pipe.until_turn || pipe.announced > 0
    }

    /// The flow ends.
    pub fn close(&mut self, flow: Flow) {
        self.turn_over(flow);
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
    pub fn reload(&mut self) {
        let mut fresh = self.protocol.parser();
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
        // However the bytes came in pieces.
        for at in &self.uncounted {
            self.inner.remove(at);
            self.seen[*at].text += " +? messages";
        }
        for (at, n) in &self.inner {
            self.seen[*at].text += &format!(" +{n} messages");
        }
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
            // What pairing knows behind a loss on a connection without pipelining: this turn answers the one before it.
            let begins = flow == Flow::Response && starts.first() == Some(&0) && pipe.open.is_empty();
            if begins && self.is_lossy && !self.is_pipelined && self.asked_turn + 1 == self.turn.1 {
                self.parser.in_flight(1);
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
                    if pipe.announced > 0 {
                        let range = pipe.position..pipe.position + pipe.announced;
                        self.announced.push((flow, range));
                    }
                    if len > 0 {
                        pipe.passed = begin + len;
                    }
                    let position = pipe.position;
                    pipe.turn_starts.retain(|&start| start >= position);
                    self.mark(flow, marks, Some(begin));
                    if let Some(next) = self.next_protocol.take() {
                        self.switch(next);
                    }
                }
                Step::UntilClose => {
                    let begin = pipe.position;
                    pipe.flow_out();
                    self.mark(flow, marks, Some(begin));
                    assert!(self.next_protocol.is_none(), "another protocol behind the close");
                }
                step @ (Step::UntilTurn | Step::LookUntilTurn) => {
                    let begin = pipe.position;
                    self.mark(flow, marks, Some(begin));
                    let pipe = &mut self.pipes[flow.index()];
                    pipe.until_turn = true;
                    pipe.look = (step == Step::LookUntilTurn).then(Vec::new);
                    let held = pipe.held.clone();
                    pipe.pass_held();
                    self.look(flow, &held);
                }
                Step::NeedMore => {
                    assert!(marks.is_empty(), "marks without bytes");
                    return;
                }
                Step::Invalid(_) => {
                    assert!(marks.is_empty(), "marks without bytes");
                    self.n_invalid += 1;
                    self.is_lossy = true;
                    self.cut(flow);
                    self.pipes[flow.index()].lost = Some(0);
                }
            }
        }
    }

    fn mark(&mut self, flow: Flow, marks: Vec<Mark>, begin: Option<u64>) {
        let by_stream = self.by_stream;
        for mark in marks {
            if let Some(stream) = mark.stream() {
                assert!(by_stream || stream == 0, "a stream of a protocol without streams");
            }
            let pipe = &mut self.pipes[flow.index()];
            match mark {
                Mark::Begin(message) => {
                    let begin = begin.expect("a message begins at the close");
                    let is_push = matches!(message.body, Body::Push(_));
                    let end = if is_push { End::At(pipe.passed) } else { End::Open };
                    if !is_push {
                        let is_open = pipe.open.iter().any(|(stream, _)| *stream == message.stream);
                        assert!(!is_open, "a message begins inside another");
                        pipe.open.push((message.stream, self.seen.len()));
                    }
                    let on = if by_stream { format!("#{} ", message.stream) } else { String::new() };
                    self.seen.push(Seen { flow, begin, end, text: on + &text(&message) });
                    if matches!(message.body, Body::Request(_)) {
                        self.is_pipelined |= self.asked_turn == self.turn.1;
                        self.asked_turn = self.turn.1;
                    }
                }
                Mark::Part { stream } => {
                    assert!(by_stream && pipe.find(stream).is_some(), "a part of nothing")
                }
                Mark::Messages { n, .. } if !by_stream && pipe.open.is_empty() => {
                    // Within a transaction that began before this protocol.
                    let begin = begin.expect("messages begin at the close");
                    let (end, text) = (End::At(pipe.passed), format!("{n} message"));
                    self.seen.push(Seen { flow, begin, end, text });
                }
                // Counted as far as they were shown: how many depends on the pieces.
                Mark::Messages { .. } if !by_stream => {}
                Mark::Messages { stream, n } => {
                    if let Some(open) = self.pipes[flow.index()].find(stream) {
                        *self.inner.entry(open).or_default() += n;
                    }
                }
                Mark::Uncounted { stream } => {
                    self.uncounted.extend(self.pipes[flow.index()].find(stream));
                }
                Mark::Unread { stream } => assert!(pipe.find(stream).is_some(), "nothing is read"),
                Mark::LongLived { stream } => self.note(flow, stream, " turns out long-lived"),
                Mark::Outcome { stream, response } => {
                    let outcome = Message { stream, body: Body::Response(response) };
                    if !by_stream && pipe.open.is_empty() {
                        let begin = begin.expect("an outcome at the close");
                        let (end, text) = (End::At(pipe.passed), text(&outcome));
                        self.seen.push(Seen { flow, begin, end, text });
                        continue;
                    }
                    self.note(flow, stream, &format!(", then {}", text(&outcome)));
                }
                Mark::End { stream } => {
                    let open = pipe.take(stream).expect("an end without a begin");
                    self.seen[open].end = End::At(pipe.passed);
                }
                Mark::Cut { stream } => {
                    if let Some(open) = pipe.take(stream) {
                        self.seen[open].end = End::Cut;
                    }
                }
                Mark::Reset { stream, error } => {
                    assert!(by_stream, "a stream is given up where there are none");
                    let at = pipe.passed;
                    let error = error.map_or(String::new(), |error| format!(" {error}"));
                    for pipe in &mut self.pipes {
                        if let Some(open) = pipe.take(stream) {
                            self.seen[open].text += &format!(", reset{error} at {at}");
                            self.seen[open].end = End::Cut;
                        }
                    }
                }
                Mark::Tls(facts) => self.tls = Some(facts),
                Mark::Switch { to } => {
                    assert!(REGISTRY.iter().any(|protocol| protocol.name() == to), "no protocol {to}");
                    self.next_protocol = Some(to);
                }
                Mark::Upgraded { to } => {
                    self.is_upgraded = true;
                    let (_, open) = *pipe.open.last().expect("an upgrade without a response");
                    let next = to.as_deref().and_then(upgraded_to).map(|(_, protocol)| protocol);
                    let to = to.map_or("a tunnel".into(), |to| to.escape_ascii().to_string());
                    self.seen[open].text += &format!(", then {to}");
                    match next {
                        Some(next) => {
                            self.next_protocol = Some(next.name());
                            // The transaction goes on; its response is not the new parser's.
                            self.pipes.iter_mut().for_each(|pipe| pipe.open.clear());
                        }
                        None => self.pipes.iter_mut().for_each(Pipe::flow_out),
                    }
                }
            }
        }
    }

    /// More is known of a message in progress: of the flow's own, or of the whole transaction it belongs to.
    fn note(&mut self, flow: Flow, stream: u64, what: &str) {
        if let Some(open) = self.pipes[flow.index()].find(stream) {
            self.seen[open].text += what;
        }
    }

    /// Another protocol from here on.
    fn switch(&mut self, to: &str) {
        let protocol = REGISTRY.iter().find(|protocol| protocol.name() == to).expect("a registered protocol");
        self.protocol = *protocol;
        self.parser = protocol.parser();
        self.by_stream = protocol.pairing() == Pairing::ByStreamId;
    }

    fn cut(&mut self, flow: Flow) {
        if self.by_stream {
            // What is on other streams goes on behind a gap.
            return;
        }
        for (_, open) in self.pipes[flow.index()].open.drain(..) {
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
    fn find(&self, stream: u64) -> Option<usize> {
        self.open.iter().rev().find(|(on, _)| *on == stream).map(|(_, open)| *open)
    }

    fn take(&mut self, stream: u64) -> Option<usize> {
        let at = self.open.iter().rposition(|(on, _)| *on == stream)?;
        Some(self.open.remove(at).1)
    }

    /// What is held is accounted for.
    fn pass_held(&mut self) {
        self.position += self.held.len() as u64;
        self.passed = self.passed.max(self.position);
        self.held.clear();
        let position = self.position;
        self.turn_starts.retain(|&start| start >= position);
    }

    /// Nothing is shown to the parser any more.
    fn flow_out(&mut self) {
        self.until_close = true;
        self.lost = None;
        self.pass_held();
    }

    /// Passes the part of `len` new bytes that was announced; they do not reach the parser. Returns how many.
    fn pass(&mut self, len: u64) -> u64 {
        let n_passed = if self.until_close || self.until_turn {
            self.passed = self.passed.max(self.position) + len;
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

/// The byte by which inputs of the fuzz target name a protocol: does not change when another one comes.
pub fn choice(protocol: &dyn Protocol) -> u8 {
    protocol.name().bytes().fold(0, |sum: u8, byte| sum.wrapping_mul(31).wrapping_add(byte))
}

/// Facts in a line.
pub fn tls_text(facts: &TlsFacts) -> String {
    let TlsFacts { library, version, sni, alpn } = facts;
    let show =
        |text: &Option<_>| text.as_deref().map_or("-".into(), |text: &str| text.escape_default().to_string());
    format!("library {} version {} sni {} alpn {}", show(library), show(version), show(sni), show(alpn))
}

/// A message in a line, all of its parts escaped.
pub fn text(message: &Message) -> String {
    let show = |bytes: &Option<bytes::Bytes>| {
        bytes.as_ref().map_or("-".into(), |bytes| bytes.escape_ascii().to_string())
    };
    match &message.body {
        Body::Request(request) | Body::Push(request) => {
            let operation = match &request.operation {
                Operation::Fixed(name) => name.to_string(),
                Operation::Path { method, path } => format!("{method} {}", path.escape_ascii()),
            };
            let one_way = if request.one_way { ", one way" } else { "" };
            let long_lived = if request.long_lived { ", long-lived" } else { "" };
            let namespace = request
                .namespace
                .as_ref()
                .map_or(String::new(), |name| format!(", in {}", name.escape_ascii()));
            let protocol = request.protocol.map_or(String::new(), |name| format!(", by {name}"));
            let push = if matches!(message.body, Body::Push(_)) { "push " } else { "" };
            format!(
                "{push}{operation} (target {}, to {}{namespace}{protocol}{one_way}{long_lived})",
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
            let rows = response.rows.map_or(String::new(), |rows| format!(" {rows} rows"));
            let words = response
                .error_message
                .as_ref()
                .map_or(String::new(), |words| format!(" ({})", words.escape_ascii()));
            format!("{status}{interim}{long_lived}{error}{error_type}{words}{rows}")
        }
    }
}
