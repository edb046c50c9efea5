//! Conversations of Redis: commands in arrays and in lines, alone and in pipelines, replies of every type, pushes.

use proptest::{collection::vec, prelude::*, sample::select};
use tracer_user::protocol::Flow;

use super::{Conversation, Script};
use crate::wire::{End, Seen};

/// One request and what answers it.
#[derive(Clone, Debug)]
struct Exchange {
    request: Request,
    reply: Reply,
    /// A message of a channel comes before the reply.
    pushed: Option<Vec<u8>>,
}

#[derive(Clone, Debug)]
enum Request {
    Get(Vec<u8>),
    Set(Vec<u8>, Vec<u8>),
    /// Values between the keys: keys that come late are not shown.
    MultiSet(Vec<Vec<u8>>),
    Push(Vec<Vec<u8>>),
    Subscribe(usize),
    /// Is not answered.
    Silent,
    Line(&'static str),
    Exec,
}

/// A reply: its bytes, and how many of them have to be seen; what an error inside says.
#[derive(Clone, Debug)]
struct Reply {
    bytes: Vec<u8>,
    n_head: usize,
    error: Option<&'static str>,
    inner: Option<&'static str>,
}

impl Reply {
    fn whole(bytes: Vec<u8>) -> Reply {
        Reply { n_head: bytes.len(), bytes, error: None, inner: None }
    }
}

/// Bytes that tempt a parser: heads of requests and replies, line ends, anything; some longer than any head.
fn value() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n".to_vec()),
        Just(b"+OK\r\n".to_vec()),
        Just(b"-ERR no\r\n".to_vec()),
        Just(b"*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\nb\r\n".to_vec()),
        Just(b"\r\n".to_vec()),
        vec(any::<u8>(), 0..40),
        Just(vec![b'v'; 3000]),
    ];
    vec(piece, 0..4).prop_map(|pieces| pieces.concat())
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => select(vec![&b"user:1"[..], b"a", b"counter", b"a key", b"\r\n"]).prop_map(<[u8]>::to_vec),
        1 => vec(any::<u8>(), 1..20),
    ]
}

fn request() -> impl Strategy<Value = Request> {
    prop_oneof![
        3 => key().prop_map(Request::Get),
        3 => (key(), value()).prop_map(|(key, value)| Request::Set(key, value)),
        1 => vec(value(), 1..5).prop_map(Request::MultiSet),
        1 => vec(value(), 1..5).prop_map(Request::Push),
        1 => (1..4usize).prop_map(Request::Subscribe),
        1 => Just(Request::Silent),
        1 => select(vec!["PING", "set user:1 secret", "get  \"a key\"", "nosuch x"]).prop_map(Request::Line),
        1 => Just(Request::Exec),
    ]
}

fn bulk(value: &[u8]) -> Vec<u8> {
    [format!("${}\r\n", value.len()).as_bytes(), value, b"\r\n"].concat()
}

/// Any value but an error, of limited depth.
fn nested() -> impl Strategy<Value = Vec<u8>> {
    let leaf = prop_oneof![
        value().prop_map(|value| bulk(&value)),
        select(vec![
            &b":-5\r\n"[..],
            b"+fine\r\n",
            b"$-1\r\n",
            b"*-1\r\n",
            b"_\r\n",
            b"#t\r\n",
            b",1.5e3\r\n",
            b"(3492890328409238509324850943850943825024385\r\n",
            b"=7\r\ntxt:a\nb\r\n",
        ])
        .prop_map(<[u8]>::to_vec),
    ];
    leaf.prop_recursive(4, 24, 5, |inner| {
        (select(vec![(b'*', 1), (b'~', 1), (b'%', 2), (b'|', 2)]), vec(inner, 0..5)).prop_map(
            |((kind, pairs), mut elements)| {
                // What an attribute describes follows it.
                let described =
                    if kind == b'|' { elements.pop().unwrap_or(b":1\r\n".to_vec()) } else { vec![] };
                let n = elements.len() / pairs;
                let mut bytes = format!("{}{n}\r\n", char::from(kind)).into_bytes();
                bytes.extend(elements[..n * pairs].concat());
                bytes.extend(described);
                bytes
            },
        )
    })
}

fn reply() -> impl Strategy<Value = Reply> {
    prop_oneof![
        3 => value().prop_map(|value| {
            let bytes = bulk(&value);
            let n_head = bytes.len() - value.len() - 2;
            Reply { n_head, ..Reply::whole(bytes) }
        }),
        3 => nested().prop_map(Reply::whole),
        1 => select(vec![
            (&b"-WRONGTYPE Operation against\r\n"[..], "WRONGTYPE"),
            (b"-ERR no\r\n", "ERR"),
            (b"-MOVED 3999 127.0.0.1:6381\r\n", "MOVED"),
            (b"!21\r\nSYNTAX invalid syntax\r\n", "SYNTAX"),
            (b"-my script failed\r\n", "_OTHER"),
        ])
        .prop_map(|(bytes, error)| Reply { error: Some(error), ..Reply::whole(bytes.to_vec()) }),
        1 => nested().prop_map(|first| {
            let bytes = [b"*3\r\n", &first[..], b"-WRONGTYPE Operation\r\n-ERR other\r\n"].concat();
            Reply { inner: Some("WRONGTYPE"), ..Reply::whole(bytes) }
        }),
    ]
}

fn exchange() -> impl Strategy<Value = Exchange> {
    (request(), reply(), prop::option::weighted(0.1, value())).prop_map(|(request, reply, pushed)| Exchange {
        request,
        reply,
        pushed,
    })
}

/// Up to 6 rounds; a round is one exchange, or up to 4 pipelined ones.
pub fn conversation() -> impl Strategy<Value = Conversation> {
    (any::<bool>(), vec(prop_oneof![3 => vec(exchange(), 1..2), 1 => vec(exchange(), 2..5)], 1..6)).prop_map(
        |(is_resp3, rounds)| {
            let mut maker = Maker { script: Script::default(), n_channels: 0, is_resp3 };
            for round in &rounds {
                for exchange in round {
                    maker.ask(exchange);
                }
                for exchange in round {
                    maker.answer(exchange);
                }
            }
            maker.script.lengths_are_unknown();
            maker.script.finish()
        },
    )
}

/// A command's arguments, and which of them are shown.
struct Shown {
    arguments: Vec<Vec<u8>>,
    is_key: Vec<bool>,
}

impl Shown {
    fn add(&mut self, name: &str, more: &[(&[u8], bool)]) {
        let name = (!name.is_empty()).then_some((name.as_bytes(), true));
        for (argument, is_key) in name.iter().chain(more) {
            self.arguments.push(argument.to_vec());
            self.is_key.push(*is_key);
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let head = format!("*{}\r\n", self.arguments.len()).into_bytes();
        let arguments: Vec<u8> = self.arguments.iter().flat_map(|argument| bulk(argument)).collect();
        [head, arguments].concat()
    }

    /// What is beyond the head is cut off.
    fn text(&self, name: &str) -> Vec<u8> {
        let mut text = name.as_bytes().to_vec();
        let mut end = format!("*{}\r\n", self.arguments.len()).len() + bulk(&self.arguments[0]).len();
        for (argument, is_key) in self.arguments.iter().zip(&self.is_key).skip(1) {
            if end > 4096 {
                text.extend(b"...");
                break;
            }
            text.extend([&b" "[..], if *is_key { &argument[..] } else { b"?" }].concat());
            end += bulk(argument).len();
        }
        text
    }
}

struct Maker {
    script: Script,
    /// No channel has the name of another.
    n_channels: usize,
    is_resp3: bool,
}

impl Maker {
    fn ask(&mut self, exchange: &Exchange) {
        let mut shown = Shown { arguments: Vec::new(), is_key: Vec::new() };
        let (name, value_is_last) = match &exchange.request {
            Request::Get(key) => {
                shown.add("get", &[]);
                shown.add("", &[(key, true)]);
                ("GET", false)
            }
            Request::Set(key, value) => {
                shown.add("SET", &[(key, true), (value, false)]);
                ("SET", true)
            }
            Request::MultiSet(values) => {
                shown.add("MSET", &[]);
                for (at, value) in values.iter().enumerate() {
                    shown.add("", &[(format!("k{at}").as_bytes(), true), (value, false)]);
                }
                ("MSET", true)
            }
            Request::Push(values) => {
                shown.add("RPUSH", &[(b"list", true)]);
                values.iter().for_each(|value| shown.add("", &[(value, false)]));
                ("RPUSH", true)
            }
            Request::Subscribe(n) => {
                shown.add("subscribe", &[]);
                for at in 0..*n {
                    shown.add("", &[(format!("c{}", self.n_channels + at).as_bytes(), true)]);
                }
                ("SUBSCRIBE", false)
            }
            Request::Silent => {
                shown.add("REPLCONF", &[(b"ACK", false), (b"12", false)]);
                ("REPLCONF", true)
            }
            Request::Exec => {
                shown.add("EXEC", &[]);
                ("EXEC", false)
            }
            Request::Line(line) => {
                let text = match *line {
                    "PING" => "PING (target PING, to -)",
                    "set user:1 secret" => "SET (target SET user:1 ?, to -)",
                    "get  \"a key\"" => "GET (target GET a key, to -)",
                    _ => "NOSUCH (target NOSUCH ?, to -)",
                };
                let bytes = format!("{line}\r\n").into_bytes();
                // Behind a loss nobody takes a line for a request.
                let begin = self.script.bytes(Flow::Request, &bytes, bytes.len(), false);
                let end = End::At(self.script.position(Flow::Request));
                self.script.expect(Seen { flow: Flow::Request, begin, end, text: text.into() });
                return;
            }
        };
        let bytes = shown.bytes();
        let n_value = shown.arguments.last().map_or(0, Vec::len) + 2;
        let n_head = if value_is_last { bytes.len() - n_value } else { bytes.len() };
        let one_way = if matches!(exchange.request, Request::Silent) { ", one way" } else { "" };
        let text = format!("{name} (target {}, to -{one_way})", shown.text(name).escape_ascii());
        self.script.message(Flow::Request, &bytes, n_head, text);
    }

    fn answer(&mut self, exchange: &Exchange) {
        if let Some(value) = &exchange.pushed
            && (self.is_resp3 || self.n_channels > 0)
        {
            let kind = if self.is_resp3 { b">" } else { b"*" };
            let head = [kind, &b"3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n"[..]].concat();
            let bytes = [&head[..], &bulk(value)].concat();
            let n_head = bytes.len() - value.len() - 2;
            let text = "push message (target news, to -, one way)";
            self.script.message(Flow::Response, &bytes, n_head, text);
        }
        let reply = &exchange.reply;
        match &exchange.request {
            Request::Silent => {}
            Request::Subscribe(n) => {
                let mut bytes = Vec::new();
                for _ in 0..*n {
                    let channel = format!("c{}", self.n_channels);
                    self.n_channels += 1;
                    bytes.push(if self.is_resp3 { b'>' } else { b'*' });
                    bytes.extend(b"3\r\n$9\r\nsubscribe\r\n");
                    bytes.extend(bulk(channel.as_bytes()));
                    bytes.extend(format!(":{}\r\n", self.n_channels).as_bytes());
                }
                self.script.message(Flow::Response, &bytes, bytes.len(), "-");
            }
            _ => {
                let text = match (reply.error, reply.inner) {
                    (Some(error), _) => format!("- error {error}"),
                    (_, Some(inner)) => format!("-, then - error {inner}"),
                    _ => "-".into(),
                };
                self.script.message(Flow::Response, &reply.bytes, reply.n_head, text);
            }
        }
    }
}
