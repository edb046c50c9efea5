//! Conversations of HTTP/1.

use std::ops::Range;

use proptest::{collection::vec, prelude::*, sample::select};
use tracer_user::protocol::Flow;

use super::{Conversation, Turn};
use crate::wire::{End, Seen};

#[derive(Clone, Debug)]
enum Content {
    Absent,
    Length(Vec<u8>),
    Chunks {
        chunks: Vec<Vec<u8>>,
        extension: bool,
        trailer: bool,
    },
    /// Responses only, and the last one: until the close.
    UntilClose(Vec<u8>),
}

#[derive(Clone, Debug)]
struct Exchange {
    method: &'static str,
    target: &'static str,
    request: Content,
    status: u16,
    response: Content,
    /// Interim responses before the final one; 100 comes before the request's body.
    interim: Option<u16>,
    /// The response comes before the request's last bytes.
    early: bool,
    /// Line ends without carriage return.
    bare: bool,
    fields: usize,
}

/// Bytes that tempt a parser: heads, ends of chunked bodies, line ends, anything.
fn body() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n".to_vec()),
        Just(b"GET /evil HTTP/1.1\r\nHost: evil\r\n\r\n".to_vec()),
        Just(b"0\r\n\r\n".to_vec()),
        Just(b"\r\n\r\n".to_vec()),
        vec(any::<u8>(), 0..40),
    ];
    vec(piece, 1..6).prop_map(|pieces| pieces.concat())
}

fn content(responses: bool) -> impl Strategy<Value = Content> {
    let chunks = vec(body().prop_filter("an empty chunk is the last", |body| !body.is_empty()), 0..4);
    prop_oneof![
        3 => Just(Content::Absent),
        3 => body().prop_map(Content::Length),
        3 => (chunks, any::<bool>(), any::<bool>())
            .prop_map(|(chunks, extension, trailer)| Content::Chunks { chunks, extension, trailer }),
        u32::from(responses) => body().prop_map(Content::UntilClose),
    ]
}

fn exchange() -> impl Strategy<Value = Exchange> {
    (
        select(vec!["GET", "GET", "POST", "HEAD", "PUT", "OPTIONS"]),
        select(vec!["/", "/user/123?x=1", "/a/b/c", "*x", "/%20"]),
        content(false),
        select(vec![200u16, 200, 201, 204, 304, 404, 500, 503]),
        content(true),
        prop_oneof![4 => Just(None), 1 => Just(Some(100)), 1 => Just(Some(103))],
        prop::bool::weighted(0.15),
        prop::bool::weighted(0.15),
        0..40usize,
    )
        .prop_map(|(method, target, request, status, response, interim, early, bare, fields)| Exchange {
            method,
            target,
            request,
            status,
            response,
            interim,
            early,
            bare,
            fields,
        })
}

/// Up to 6 rounds; a round is one exchange, or up to 4 pipelined ones.
pub fn conversation() -> impl Strategy<Value = Conversation> {
    vec(prop_oneof![3 => vec(exchange(), 1..2), 1 => vec(exchange(), 2..5)], 1..6).prop_map(|mut rounds| {
        let n_rounds = rounds.len();
        for (idx, round) in rounds.iter_mut().enumerate() {
            let n_exchanges = round.len();
            for (at, exchange) in round.iter_mut().enumerate() {
                let is_last = idx + 1 == n_rounds && at + 1 == n_exchanges;
                if let Content::UntilClose(body) = &exchange.response
                    && !is_last
                {
                    exchange.response = Content::Length(body.clone());
                }
                if let Content::Absent = exchange.response
                    && !is_last
                {
                    exchange.response = Content::Length(Vec::new());
                }
            }
        }
        let mut maker = Maker::default();
        for round in &rounds {
            match &round[..] {
                [exchange] => maker.alone(exchange),
                exchanges => maker.pipelined(exchanges),
            }
        }
        maker.finish()
    })
}

/// Writes a conversation.
#[derive(Default)]
struct Maker {
    turns: Vec<Turn>,
    expected: Vec<Seen>,
    announced: Vec<(Flow, Range<u64>)>,
    position: [u64; 2],
    has_chunks: bool,
    is_pipelined: bool,
}

/// A message's bytes: its head and its body, if there is one on the wire.
struct Written {
    head: Vec<u8>,
    body: Vec<u8>,
    text: String,
    until_close: bool,
    is_chunked: bool,
}

impl Maker {
    fn alone(&mut self, exchange: &Exchange) {
        let request = write_request(exchange);
        let response = write_response(exchange);
        let is_100 = exchange.interim == Some(100);
        let at = self.expected.len();
        if (is_100 || exchange.early) && request.body.len() > 1 {
            // The body, or its last bytes, come behind what the server says. Early: not text that looks like a head.
            let mut body = request.body.clone();
            let n_first = if is_100 { 0 } else { body.len() / 2 };
            if !is_100 && !request.is_chunked {
                body[n_first] = b'x';
            }
            let split_inside_chunks = !is_100 && request.is_chunked;
            let n_first = if split_inside_chunks { body.len() - 1 } else { n_first };
            let first = Written { body: body[..n_first].to_vec(), ..request };
            self.turn(Flow::Request, &[&first]);
            if let Some(code) = exchange.interim {
                self.interim(code, exchange.bare);
            }
            if !is_100 {
                self.turn(Flow::Response, &[&response]);
            }
            self.rest(at, &body[n_first..], first.is_chunked);
            if is_100 {
                self.turn(Flow::Response, &[&response]);
            } else {
                self.is_pipelined = true;
            }
        } else {
            self.turn(Flow::Request, &[&request]);
            if let Some(code) = exchange.interim {
                self.interim(code, exchange.bare);
            }
            self.turn(Flow::Response, &[&response]);
        }
    }

    fn pipelined(&mut self, exchanges: &[Exchange]) {
        self.is_pipelined = true;
        let requests: Vec<Written> = exchanges.iter().map(write_request).collect();
        let responses: Vec<Written> = exchanges.iter().map(write_response).collect();
        self.turn(Flow::Request, &requests.iter().collect::<Vec<_>>());
        self.turn(Flow::Response, &responses.iter().collect::<Vec<_>>());
    }

    fn interim(&mut self, code: u16, bare: bool) {
        let head = ends(&format!("HTTP/1.1 {code} Wait\r\nLink: </s.css>\r\n\r\n"), bare);
        let text = format!("{code} interim");
        let interim = Written { head, body: Vec::new(), text, until_close: false, is_chunked: false };
        self.turn(Flow::Response, &[&interim]);
    }

    /// Adds to the turn, or begins one.
    fn turn(&mut self, flow: Flow, messages: &[&Written]) {
        let begins = self.turns.last().is_none_or(|turn| turn.flow != flow);
        if begins {
            self.turns.push(Turn { flow, bytes: Vec::new(), n_heads: 0, begins_message: true });
        }
        for Written { head, body, text, until_close, is_chunked } in messages {
            let Some(turn) = self.turns.last_mut() else { return };
            let position = &mut self.position[flow.index()];
            let begin = *position;
            turn.bytes.extend_from_slice(head);
            turn.n_heads = turn.bytes.len();
            turn.bytes.extend_from_slice(body);
            *position += (head.len() + body.len()) as u64;
            let body_begin = begin + head.len() as u64;
            if *is_chunked {
                self.has_chunks = true;
            } else {
                let end = if *until_close { u64::MAX } else { *position };
                self.announced.push((flow, body_begin..end));
            }
            self.expected.push(Seen { flow, begin, end: End::At(*position), text: text.clone() });
        }
    }

    /// The rest of a request, in a turn of its own.
    fn rest(&mut self, at: usize, body: &[u8], is_chunked: bool) {
        self.turns.push(Turn {
            flow: Flow::Request,
            bytes: body.to_vec(),
            n_heads: 0,
            begins_message: false,
        });
        let position = &mut self.position[Flow::Request.index()];
        let begin = *position;
        *position += body.len() as u64;
        self.expected[at].end = End::At(*position);
        if !is_chunked {
            let (_, announced) =
                self.announced.iter_mut().rfind(|(flow, _)| *flow == Flow::Request).expect("the first part");
            assert_eq!(announced.end, begin);
            announced.end = *position;
        }
    }

    fn finish(mut self) -> Conversation {
        self.expected.sort_by_key(|seen| (seen.begin, seen.flow.index()));
        Conversation {
            turns: self.turns,
            expected: self.expected,
            less: Vec::new(),
            announced: self.announced,
            lengths_known: !self.has_chunks,
            half_duplex: !self.is_pipelined,
            tls: None,
            is_part: |_, _| false,
        }
    }
}

fn write_request(exchange: &Exchange) -> Written {
    let Exchange { method, target, request, bare, fields, .. } = exchange;
    let (framing, body) = write_content(request);
    let noise = noise(*fields);
    let head = format!("{method} {target} HTTP/1.1\r\nHost: shop.example\r\n{noise}{framing}\r\n");
    let path = target.split('?').next().unwrap_or_default();
    let text = format!("{method} {path} (target {target}, to shop.example)");
    let is_chunked = matches!(request, Content::Chunks { .. });
    Written { head: ends(&head, *bare), body, text, until_close: false, is_chunked }
}

fn write_response(exchange: &Exchange) -> Written {
    let Exchange { method, status, response, bare, fields, .. } = exchange;
    let (framing, body) = write_content(response);
    let noise = noise(fields / 2);
    let head = ends(&format!("HTTP/1.1 {status} Reason\r\n{noise}{framing}\r\n"), *bare);
    let error = match status {
        500.. => " error",
        400.. => " error for the client",
        _ => "",
    };
    let has_body = *method != "HEAD" && !matches!(status, 204 | 304);
    Written {
        head,
        body: if has_body { body } else { Vec::new() },
        text: format!("{status}{error}"),
        until_close: has_body && matches!(response, Content::UntilClose(_) | Content::Absent),
        is_chunked: has_body && matches!(response, Content::Chunks { .. }),
    }
}

/// Fields that mean nothing to framing.
fn noise(n_fields: usize) -> String {
    (0..n_fields).map(|at| format!("X-Field-{at}: Content-Length: 7, chunked\r\n")).collect()
}

fn write_content(content: &Content) -> (String, Vec<u8>) {
    match content {
        Content::Absent => (String::new(), Vec::new()),
        Content::UntilClose(body) => (String::new(), body.clone()),
        Content::Length(body) => (format!("content-length:{}\r\n", body.len()), body.clone()),
        Content::Chunks { chunks, extension, trailer } => {
            let extension = if *extension { ";a=\"b\"" } else { "" };
            let mut body = Vec::new();
            for chunk in chunks {
                body.extend_from_slice(format!("{:X}{extension}\r\n", chunk.len()).as_bytes());
                body.extend_from_slice(chunk);
                body.extend_from_slice(b"\r\n");
            }
            body.extend_from_slice(if *trailer { b"0\r\nDigest: x\r\n\r\n" } else { b"0\r\n\r\n" });
            ("Transfer-Encoding: chunked\r\n".to_owned(), body)
        }
    }
}

fn ends(head: &str, bare: bool) -> Vec<u8> {
    if bare { head.replace("\r\n", "\n").into_bytes() } else { head.as_bytes().to_vec() }
}
