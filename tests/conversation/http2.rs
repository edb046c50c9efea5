//! Conversations of HTTP/2: interleaved streams, all frames, a dynamic table in both directions.

use httlib_hpack::Encoder;
use proptest::{collection::vec, prelude::*, sample::select};
use tracer_user::protocol::Flow;

use super::{Conversation, Script, websocket};
use crate::wire::{End, Seen};

const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

pub(super) type Fields = Vec<(String, String)>;

/// One step of a stream.
#[derive(Clone, Debug)]
pub(super) enum Act {
    /// A list of fields that begins a message, an interim response, or trailers.
    Fields { flow: Flow, fields: Fields, end: bool, role: Role },
    /// A DATA frame; `split`: in two turns. `seen`: all of it has to be.
    Data { flow: Flow, bytes: Vec<u8>, end: bool, padding: Option<u8>, split: bool, seen: bool },
    /// RST_STREAM.
    Reset { flow: Flow },
}

/// What a list of fields is.
#[derive(Clone, Debug)]
pub(super) enum Role {
    /// A message begins, told as this line (without the stream).
    Begin(String),
    /// Complete in itself.
    Interim(String),
    /// A request that the server pushes on a stream of its own.
    Push(u32, String),
    /// Trailers.
    Trailers,
}

/// How lists of fields are cut and dressed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dress {
    continuation: Option<u8>,
    padding: Option<u8>,
    priority: bool,
    flags: u8,
}

pub(super) fn dress() -> impl Strategy<Value = Dress> {
    let flags = select(vec![
        Encoder::WITH_INDEXING | Encoder::BEST_FORMAT,
        Encoder::WITH_INDEXING | Encoder::BEST_FORMAT | Encoder::HUFFMAN_VALUE,
        Encoder::WITH_INDEXING | Encoder::BEST_FORMAT | Encoder::HUFFMAN_NAME | Encoder::HUFFMAN_VALUE,
        Encoder::NEVER_INDEXED | Encoder::BEST_FORMAT,
        0,
    ]);
    (prop_oneof![3 => Just(None), 1 => (0..6u8).prop_map(Some)], padding(), any::<bool>(), flags)
        .prop_map(|(continuation, padding, priority, flags)| Dress { continuation, padding, priority, flags })
}

pub(super) fn padding() -> impl Strategy<Value = Option<u8>> {
    prop_oneof![3 => Just(None), 1 => (0..20u8).prop_map(Some)]
}

/// Bytes that tempt a parser: frames of all sorts, a preface, anything.
pub(super) fn body() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(b"\0\0\x08\x01\x05\0\0\0\x63\x82\x86\x44\x04/eve".to_vec()),
        Just(b"\0\0\x01\x01\x05\0\0\0\x01\x88".to_vec()),
        Just(b"\0\0\x04\x08\0\0\0\0\0\0\0\0\x09".repeat(4)),
        Just(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec()),
        vec(any::<u8>(), 0..60),
    ];
    vec(piece, 0..4).prop_map(|pieces| pieces.concat())
}

/// Streams that are open at the same time, in an order; noise between their frames.
pub(super) fn written(
    rounds: Vec<Vec<Vec<Act>>>,
    dress: &[Dress],
    order: &[prop::sample::Index],
    is_part: fn(&str, &str) -> bool,
) -> Conversation {
    let mut writer = Writer::new(dress, order);
    let mut id = 1;
    for round in rounds {
        let mut streams: Vec<(u32, std::vec::IntoIter<Act>)> = Vec::new();
        for acts in round {
            streams.push((id, acts.into_iter()));
            id += 2;
        }
        // Streams begin in the order of their numbers.
        let mut n_begun = 0;
        while !streams.is_empty() {
            let choice = writer.choose(n_begun.max(1).min(streams.len()));
            let at = if writer.choose(3) == 0 && n_begun < streams.len() { n_begun } else { choice };
            n_begun = n_begun.max(at + 1);
            match streams[at].1.next() {
                Some(act) => writer.act(streams[at].0, &act),
                None => {
                    streams.remove(at);
                    n_begun -= 1;
                }
            }
            writer.noise();
        }
    }
    let mut conversation = writer.script.finish();
    conversation.half_duplex = false;
    conversation.is_part = is_part;
    conversation
}

/// Writes frames.
struct Writer<'a> {
    script: Script,
    encoders: [Encoder<'static>; 2],
    /// Stream, flow and place among the expected ones of messages in progress.
    open: Vec<(u32, Flow, usize)>,
    dress: &'a [Dress],
    order: &'a [prop::sample::Index],
    n_chosen: usize,
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A payload with its padding, if it has any.
fn padded(padding: Option<u8>, payload: &[u8]) -> Vec<u8> {
    match padding {
        None => payload.to_vec(),
        Some(n) => [&[n], payload, &vec![0; usize::from(n)]].concat(),
    }
}

fn flip(flow: Flow) -> Flow {
    if flow == Flow::Request { Flow::Response } else { Flow::Request }
}

impl<'a> Writer<'a> {
    fn new(dress: &'a [Dress], order: &'a [prop::sample::Index]) -> Writer<'a> {
        let mut writer = Writer {
            script: Script::default(),
            encoders: [Encoder::default(), Encoder::default()],
            open: Vec::new(),
            dress,
            order,
            n_chosen: 0,
        };
        let mut first = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        first.extend(frame(4, 0, 0, b"\0\x02\0\0\0\0\0\x04\0\x10\0\0"));
        writer.plain(Flow::Request, &first);
        writer.plain(Flow::Response, &frame(4, 0, 0, b"\0\x03\0\0\0\x64"));
        writer.plain(Flow::Response, &frame(4, 1, 0, b""));
        writer
    }

    fn choose(&mut self, n: usize) -> usize {
        self.n_chosen += 1;
        self.order[self.n_chosen % self.order.len()].index(n)
    }

    /// Frames without meaning.
    fn plain(&mut self, flow: Flow, bytes: &[u8]) {
        self.script.bytes(flow, bytes, bytes.len(), false);
    }

    fn noise(&mut self) {
        let flow = if self.choose(2) == 0 { Flow::Request } else { Flow::Response };
        match self.choose(14) {
            0 => self.plain(flow, &frame(6, 0, 0, b"12345678")),
            1 => self.plain(flow, &frame(8, 0, 0, b"\0\0\x10\0")),
            2 => self.plain(flow, &frame(8, 0, 1, b"\0\0\x10\0")),
            3 => self.plain(flow, &frame(4, 1, 0, b"")),
            4 => self.plain(flow, &frame(0xbb, 0x55, 9, b"an extension")),
            5 => self.plain(flow, &frame(2, 0, 3, b"\0\0\0\0\x10")),
            _ => {}
        }
    }

    fn act(&mut self, id: u32, act: &Act) {
        match act {
            Act::Fields { flow, fields, end, role } => self.fields(id, *flow, fields, *end, role),
            Act::Data { flow, bytes, end, padding, split, seen } => {
                let flags = if *end { END_STREAM } else { 0 } | if padding.is_some() { PADDED } else { 0 };
                let frame = frame(0, flags, id, &padded(*padding, bytes));
                let n_first = if *split { 9 + (frame.len() - 9) / 2 } else { frame.len() };
                let n_head = if *seen { n_first } else { 9 };
                let begin = self.script.bytes(*flow, &frame[..n_first], n_head, false);
                if *split {
                    self.plain(flip(*flow), &self::frame(6, 1, 0, b"12345678"));
                    let n_head = if *seen { frame.len() - n_first } else { 0 };
                    self.script.bytes(*flow, &frame[n_first..], n_head, false);
                }
                if !*seen {
                    self.script.announced.push((*flow, begin + 9..begin + frame.len() as u64));
                }
                if *end {
                    self.end(id, *flow);
                }
            }
            Act::Reset { flow } => {
                self.plain(*flow, &frame(3, 0, id, b"\0\0\0\x08"));
                let at = self.script.position[flow.index()];
                for (stream, _, place) in &self.open {
                    if *stream == id {
                        let seen = &mut self.script.expected[*place];
                        seen.text += &format!(", reset CANCEL at {at}");
                        seen.end = End::Cut;
                    }
                }
                self.open.retain(|(stream, _, _)| *stream != id);
            }
        }
    }

    fn end(&mut self, id: u32, flow: Flow) {
        let at = self.open.iter().position(|(stream, side, _)| (*stream, *side) == (id, flow));
        let (_, _, place) = self.open.remove(at.expect("a message in progress"));
        self.script.expected[place].end = End::At(self.script.position[flow.index()]);
    }

    fn fields(&mut self, id: u32, flow: Flow, fields: &Fields, end: bool, role: &Role) {
        let choice = self.choose(self.dress.len());
        let dress = self.dress[choice];
        let mut block = Vec::new();
        for (name, value) in fields {
            let field = (name.as_bytes().to_vec(), value.as_bytes().to_vec(), dress.flags);
            self.encoders[flow.index()].encode(field, &mut block).expect("encodes");
        }
        let n_first = dress.continuation.map_or(block.len(), |n| usize::from(n).min(block.len()));
        let (first, rest) = block.split_at(n_first);
        let (kind, mut payload) = match role {
            Role::Push(promised, _) => (5, promised.to_be_bytes().to_vec()),
            _ => (1, Vec::new()),
        };
        let mut flags = if end { END_STREAM } else { 0 };
        if dress.priority && kind == 1 {
            flags |= PRIORITY;
            payload.extend(b"\0\0\0\0\x10");
        }
        payload.extend(first);
        if dress.padding.is_some() {
            flags |= PADDED;
        }
        if dress.continuation.is_none() {
            flags |= END_HEADERS;
        }
        let mut bytes = frame(kind, flags, id, &padded(dress.padding, &payload));
        if dress.continuation.is_some() {
            let (one, two) = rest.split_at(rest.len() / 2);
            bytes.extend(frame(9, 0, id, one));
            bytes.extend(frame(9, END_HEADERS, id, two));
        }
        let begin = self.script.bytes(flow, &bytes, bytes.len(), false);
        let behind = self.script.position[flow.index()];
        match role {
            Role::Begin(text) => {
                self.open.push((id, flow, self.script.expected.len()));
                let text = format!("#{id} {text}");
                self.script.expected.push(Seen { flow, begin, end: End::Open, text });
            }
            Role::Interim(text) => {
                let text = format!("#{id} {text}");
                self.script.expected.push(Seen { flow, begin, end: End::At(behind), text });
            }
            Role::Push(promised, text) => {
                let text = format!("#{promised} push {text}");
                self.script.expected.push(Seen { flow, begin, end: End::At(behind), text });
            }
            Role::Trailers => {}
        }
        if end {
            self.end(id, flow);
        }
    }
}

pub(super) fn owned(fields: &[(&str, &str)]) -> Fields {
    fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// One request and what comes of it.
fn exchange() -> impl Strategy<Value = Vec<Act>> {
    let data = || vec((body(), padding(), prop::bool::weighted(0.2)), 0..3);
    (
        select(vec!["GET", "POST", "PUT", "BREW", "CONNECT"]),
        select(vec!["/", "/index.html", "/user/1?x=2", "/a/b", "/a/c"]),
        data(),
        any::<bool>(),
        select(vec![200u16, 200, 204, 302, 404, 503]),
        (data(), any::<bool>(), any::<bool>()),
        (prop::bool::weighted(0.2), prop::bool::weighted(0.15), any::<bool>()),
    )
        .prop_map(
            |(
                method,
                path,
                asked,
                trailers,
                status,
                (told, end_trailers, stream),
                (interim, reset, late),
            )| {
                let mut acts = Vec::new();
                let name = if method == "BREW" { "_OTHER" } else { method };
                let mut fields = owned(&[(":method", method), (":scheme", "http")]);
                let text = if method == "CONNECT" {
                    fields.extend(owned(&[(":authority", "shop.example")]));
                    "CONNECT (target shop.example, to shop.example)".to_owned()
                } else {
                    fields.extend(owned(&[
                        (":path", path),
                        (":authority", "shop.example"),
                        ("cookie", "id=1"),
                    ]));
                    let end = path.find('?').unwrap_or(path.len());
                    format!("{name} {} (target {path}, to shop.example)", &path[..end])
                };
                message(&mut acts, Flow::Request, fields, text, asked, trailers);
                if reset && late {
                    acts.push(Act::Reset { flow: Flow::Request });
                    return acts;
                }
                if interim {
                    let fields = owned(&[(":status", "103"), ("link", "</s.css>")]);
                    let role = Role::Interim("103 interim".to_owned());
                    acts.push(Act::Fields { flow: Flow::Response, fields, end: false, role });
                }
                let code = status.to_string();
                let is_stream = stream && status == 200 && !reset;
                let kind = if is_stream { "text/event-stream" } else { "text/html" };
                let fields = owned(&[(":status", &code), ("content-type", kind), ("server", "x")]);
                let long_lived =
                    if is_stream || (method == "CONNECT" && status < 300) { " long-lived" } else { "" };
                let error = match status {
                    500.. => " error",
                    400.. => " error for the client",
                    _ => "",
                };
                let (mut told, mut n_events) = (told, String::new());
                if is_stream {
                    n_events = format!(" +{} messages", events(&mut told));
                }
                let mut answer = Vec::new();
                message(
                    &mut answer,
                    Flow::Response,
                    fields,
                    format!("{code}{long_lived}{error}{n_events}"),
                    told,
                    end_trailers,
                );
                for act in &mut answer {
                    if let Act::Data { seen, .. } = act {
                        *seen = is_stream;
                    }
                }
                if reset {
                    answer.pop();
                    answer.push(Act::Reset { flow: Flow::Response });
                }
                acts.extend(answer);
                acts
            },
        )
}

/// Makes bodies pieces of an event stream; how many events it has.
fn events(told: &mut [(Vec<u8>, Option<u8>, bool)]) -> usize {
    const PIECES: [&str; 6] =
        ["data: a\n\nda", "ta: b\n\n", ": alive\n\n", "id: 4\ndata\n", "\n", "data: c\n\ndata: d\n\n"];
    let mut all = String::new();
    for (body, _, split) in told {
        let piece = PIECES[body.len() % PIECES.len()];
        (*body, *split) = (piece.into(), false);
        all += piece;
    }
    let blocks: Vec<&str> = all.split("\n\n").collect();
    let has_data = |block: &&&str| block.lines().any(|line| line == "data" || line.starts_with("data:"));
    blocks[..blocks.len() - 1].iter().filter(has_data).count()
}

/// A WebSocket on a stream: messages of both sides, whole or in parts, and how one of them closes.
fn socket() -> impl Strategy<Value = Vec<Act>> {
    let said = || vec((vec(body(), 1..3), any::<bool>()), 0..4);
    let close = select(vec![None, Some(1000u16), Some(1011), Some(4401)]);
    (said(), said(), close, any::<bool>(), 1..4usize, padding()).prop_map(
        |(asked, told, close, by_client, n_frames, padding)| {
            let fields = owned(&[
                (":method", "CONNECT"),
                (":protocol", "websocket"),
                (":scheme", "http"),
                (":path", "/chat"),
                (":authority", "shop.example"),
            ]);
            let outcome = match close {
                Some(1011) => ", then 200 long-lived error 1011",
                Some(4401) => ", then 200 long-lived error 4xxx (closed with code 4401)",
                _ => "",
            };
            let note = |is_closing: bool, said: &[(Vec<Vec<u8>>, bool)]| {
                let n = if said.is_empty() { String::new() } else { format!(" +{} messages", said.len()) };
                format!("{}{n}", if is_closing { outcome } else { "" })
            };
            let text = "CONNECT /chat (target /chat, to shop.example, by websocket)";
            let role = Role::Begin(format!("{text}{}", note(by_client, &asked)));
            let mut acts = vec![Act::Fields { flow: Flow::Request, fields, end: false, role }];
            let role = Role::Begin(format!("200 long-lived{}", note(!by_client, &told)));
            let fields = owned(&[(":status", "200"), ("server", "x")]);
            acts.push(Act::Fields { flow: Flow::Response, fields, end: false, role });
            let closing = if by_client { Flow::Request } else { Flow::Response };
            // Who closes is heard first.
            let sides = [(Flow::Request, asked), (Flow::Response, told)];
            let (first, second) = sides.into_iter().partition::<Vec<_>, _>(|(flow, _)| *flow == closing);
            for (flow, said) in first.into_iter().chain(second) {
                let mut bytes = Vec::new();
                for (parts, control) in said {
                    for (at, part) in parts.iter().enumerate() {
                        let fin = if at + 1 == parts.len() { 0x80 } else { 0 };
                        bytes.extend(websocket::frame(flow, fin | if at == 0 { 2 } else { 0 }, part).0);
                        if control {
                            bytes.extend(websocket::frame(flow, 0x89, b"ping").0);
                        }
                    }
                }
                if flow == closing {
                    let code = close.map_or(Vec::new(), |code| code.to_be_bytes().to_vec());
                    bytes.extend(websocket::frame(flow, 0x88, &code).0);
                }
                let size = bytes.len().div_ceil(n_frames).max(1);
                for bytes in bytes.chunks(size) {
                    let bytes = bytes.to_vec();
                    acts.push(Act::Data { flow, bytes, end: false, padding, split: false, seen: true });
                }
                let bytes = Vec::new();
                acts.push(Act::Data { flow, bytes, end: true, padding, split: false, seen: true });
            }
            acts
        },
    )
}

/// A whole message: ends with its fields, its data or its trailers.
fn message(
    acts: &mut Vec<Act>,
    flow: Flow,
    fields: Fields,
    text: String,
    data: Vec<(Vec<u8>, Option<u8>, bool)>,
    trailers: bool,
) {
    let end = data.is_empty() && !trailers;
    acts.push(Act::Fields { flow, fields, end, role: Role::Begin(text) });
    let n = data.len();
    for (at, (mut bytes, padding, split)) in data.into_iter().enumerate() {
        let end = at + 1 == n && !trailers;
        let split = split && bytes.len() > 1;
        if split {
            // What comes in a later turn does not look like frames.
            bytes.fill(b'x');
        }
        acts.push(Act::Data { flow, bytes, end, padding: padding.filter(|_| !split), split, seen: false });
    }
    if trailers {
        let fields = owned(&[("digest", "sha"), ("x-end", "1")]);
        acts.push(Act::Fields { flow, fields, end: true, role: Role::Trailers });
    }
}

/// Up to 4 rounds of up to 8 streams at once.
pub fn conversation() -> impl Strategy<Value = Conversation> {
    (
        vec(vec(prop_oneof![6 => exchange(), 1 => socket()], 1..8), 1..5),
        vec(dress(), 1..6),
        vec(any::<prop::sample::Index>(), 20..60),
        prop::bool::weighted(0.2),
    )
        .prop_map(|(mut rounds, dress, order, push)| {
            if push {
                // Behind the first request: a pushed one.
                let fields = owned(&[(":method", "GET"), (":scheme", "http"), (":path", "/s.css")]);
                let text = "GET /s.css (target /s.css, to -)".to_owned();
                let acts = &mut rounds[0][0];
                let promise =
                    Act::Fields { flow: Flow::Response, fields, end: false, role: Role::Push(2, text) };
                acts.insert(1, promise);
            }
            written(rounds, &dress, &order, is_part)
        })
}

/// Takes a note off the end of a line.
fn without<'a>(text: &'a str, note: &str) -> (&'a str, Option<&'a str>) {
    text.rfind(note).map_or((text, None), |at| (&text[..at], Some(&text[at + note.len()..])))
}

/// Fields that were sent as entries of a table that was lost are not known; the others are right.
pub(super) fn is_part(seen: &str, sent: &str) -> bool {
    let count =
        |n: Option<&str>| n.map_or(0, |n| n.trim_end_matches(" messages").parse::<u64>().unwrap_or(0));
    let (seen, n_seen) = without(seen, " +");
    let (sent, n_sent) = without(sent, " +");
    if count(n_seen) > count(n_sent) {
        return false;
    }
    if sent.ends_with("103 interim") {
        // Its status is not known: it may be the final one.
        return seen.starts_with(&sent.replace("103 interim", "-"));
    }
    let (seen, reset_seen) = without(seen, ", reset ");
    let (sent, reset_sent) = without(sent, ", reset ");
    let (seen, then_seen) = without(seen, ", then ");
    let (sent, then_sent) = without(sent, ", then ");
    let (seen, _) = without(seen, " turns out");
    let (sent, _) = without(sent, " turns out");
    // A stream may be given up behind the end of its request, which was not seen.
    let is_open_request = reset_sent.is_none() && sent.contains(" (target ");
    if (reset_seen.is_some() && reset_seen != reset_sent && !is_open_request)
        || then_seen.is_some_and(|then| then != "-" && Some(then) != then_sent)
    {
        return false;
    }
    let (Some((id, seen)), Some((other, sent))) = (seen.split_once(' '), sent.split_once(' ')) else {
        return false;
    };
    if id != other {
        return false;
    }
    let Some((operation, rest)) = sent.split_once(" (target ") else {
        // A response: of a call that was not recognised as one, its HTTP status.
        let long_lived = sent.replace(" long-lived", "");
        return [sent, &long_lived, "-", "- long-lived"].contains(&seen)
            || (seen == "200" && (sent == "-" || then_sent.is_none()));
    };
    let operation = operation.trim_start_matches("push ");
    let seen = seen.trim_start_matches("push ");
    let (target, rest) = rest.split_once(", to ").expect("a request's line");
    let (authority, by) = rest
        .trim_end_matches(')')
        .split_once(", by ")
        .map_or((rest.trim_end_matches(')'), ""), |(a, _)| (a, &rest[a.len()..rest.len() - 1]));
    let method = operation.split(' ').next().unwrap_or_default();
    let path = target.split('?').next().unwrap_or_default();
    let (method, is_call) = if by == ", by grpc" { ("POST", true) } else { (method, false) };
    let mut ways = Vec::new();
    for to in [authority, "-"] {
        for by in ["", by] {
            let head = |operation: &str, target: &str| format!("{operation} (target {target}, to {to}{by})");
            if is_call && !by.is_empty() {
                ways.extend([head(operation, target), head("_OTHER", "-")]);
                continue;
            }
            ways.extend([
                head(&format!("{method} {path}"), target),
                head(&format!("_OTHER {path}"), target),
                head(method, "-"),
                head("_OTHER", "-"),
            ]);
            if method == "CONNECT" {
                ways.extend([head("CONNECT", to), head("_OTHER", "-")]);
            }
        }
    }
    ways.iter().any(|way| way == seen)
}
