//! Conversations between a client and a server, made with the messages that a parser must find in them. A file for each protocol.

use std::{fmt, ops::Range};

use proptest::prelude::*;
use tracer_user::protocol::{Flow, Protocol, TlsFacts};

use crate::wire::{End, Seen, Wire};

mod captured;
mod dns;
mod grpc;
mod http1;
mod http2;
mod mysql;
mod opaque;
mod postgres;
mod redis;
pub mod tls;
mod websocket;

/// The bytes of one direction between two changes of direction.
#[derive(Clone)]
pub struct Turn {
    pub flow: Flow,
    pub bytes: Vec<u8>,
    /// Bytes up to the end of the last head in it: what any capture has.
    pub n_heads: usize,
    /// Its first byte is the first of a message.
    pub begins_message: bool,
}

/// On one line, so that a failing case can be read.
impl fmt::Debug for Turn {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Turn { flow, bytes, n_heads, begins_message } = self;
        let text = bytes.escape_ascii();
        write!(
            formatter,
            "{flow:?} of {} bytes, heads {n_heads}, begins {begins_message}: {text}",
            bytes.len()
        )
    }
}

/// What a message says where something that it depends on was lost.
#[derive(Clone, Debug)]
struct Less {
    flow: Flow,
    /// Where it begins, and where it seems to.
    begin: u64,
    seen_begin: u64,
    text: String,
}

/// What was sent, and what a parser must see.
#[derive(Clone, Debug)]
pub struct Conversation {
    pub turns: Vec<Turn>,
    /// In the order of positions; the client's first.
    pub expected: Vec<Seen>,
    /// What messages say where something they depend on was lost.
    less: Vec<Less>,
    /// Ranges whose length was announced before: nothing in them needs to be seen.
    announced: Vec<(Flow, Range<u64>)>,
    /// All lengths are announced in heads.
    pub lengths_known: bool,
    /// Each turn has one message, and each message one turn.
    pub half_duplex: bool,
    /// What it tells of its TLS.
    pub tls: Option<TlsFacts>,
    /// Whether a message that was seen behind a loss (first) is what was sent (second), as far as that could be known.
    is_part: fn(&str, &str) -> bool,
}

impl Conversation {
    /// Both ends close.
    pub fn close(&self, wire: &mut Wire) {
        wire.close(Flow::Response);
        wire.close(Flow::Request);
    }

    /// What was seen is what was sent, or the part of it that could be known: a message that was cut off says what it began with.
    pub fn agrees(&self, seen: &Seen, expected: &Seen) -> bool {
        let is_whole = !matches!(seen.end, End::Cut | End::Open);
        let says = |text: &String| if is_whole { *text == seen.text } else { text.starts_with(&seen.text) };
        let mut less = self.less.iter().filter(|less| {
            (less.flow, less.begin, less.seen_begin) == (expected.flow, expected.begin, seen.begin)
        });
        let is_at_begin = seen.begin == expected.begin;
        seen.flow == expected.flow
            && ((is_at_begin && (says(&expected.text) || (self.is_part)(&seen.text, &expected.text)))
                || less.any(|less| says(&less.text)))
            && (seen.end == expected.end
                || !is_whole
                // What is not known to be interim goes on as the final one.
                || (expected.text.ends_with(" interim") && seen.text != expected.text))
    }

    /// Nobody needs to see these bytes.
    pub fn is_inside_announced(&self, flow: Flow, bytes: &Range<u64>) -> bool {
        self.announced
            .iter()
            .any(|(side, range)| *side == flow && range.start <= bytes.start && bytes.end <= range.end)
    }
}

/// Conversations of a protocol: made ones where a file makes them, otherwise those that were captured.
pub fn of(protocol: &'static dyn Protocol) -> BoxedStrategy<Conversation> {
    match protocol.name() {
        "dns" => dns::conversation().boxed(),
        "mdns" => dns::mdns().boxed(),
        "llmnr" => dns::llmnr().boxed(),
        "grpc" => grpc::conversation().boxed(),
        "http1" => http1::conversation().boxed(),
        "http2" => http2::conversation().boxed(),
        "mysql" => mysql::conversation().boxed(),
        "opaque" => opaque::conversation().boxed(),
        "postgres" => postgres::conversation().boxed(),
        "redis" => redis::conversation().boxed(),
        "tls" => tls::conversation().boxed(),
        "websocket" => websocket::conversation().boxed(),
        name => {
            let captured = captured::conversation(protocol);
            captured.unwrap_or_else(|| panic!("no capture in fixtures/{name} is whole")).boxed()
        }
    }
}

/// Writes a conversation, message by message. What changes direction begins a turn.
#[derive(Default)]
pub struct Script {
    turns: Vec<Turn>,
    expected: Vec<Seen>,
    less: Vec<Less>,
    announced: Vec<(Flow, Range<u64>)>,
    position: [u64; 2],
    is_pipelined: bool,
    lengths_unknown: bool,
    tls: Option<TlsFacts>,
}

impl Script {
    /// A message whose first `n_head` bytes have to be seen, and announce how many follow.
    #[allow(dead_code, reason = "for protocols to come")]
    pub fn message(&mut self, flow: Flow, bytes: &[u8], n_head: usize, text: impl Into<String>) {
        let begin = self.position[flow.index()];
        self.unannounced(flow, bytes, n_head, text);
        self.announced.push((flow, begin + n_head as u64..self.position[flow.index()]));
    }

    /// The same of a message whose first bytes do not tell where it ends.
    pub fn unannounced(&mut self, flow: Flow, bytes: &[u8], n_head: usize, text: impl Into<String>) {
        let begin = self.bytes(flow, bytes, n_head, true);
        let end = End::At(self.position[flow.index()]);
        self.expected.push(Seen { flow, begin, end, text: text.into() });
    }

    /// Bytes that are no message of their own (`begins` says whether one begins with them); where they stand.
    pub fn bytes(&mut self, flow: Flow, bytes: &[u8], n_head: usize, begins: bool) -> u64 {
        if self.turns.last().is_none_or(|turn| turn.flow != flow) {
            self.turns.push(Turn { flow, bytes: Vec::new(), n_heads: 0, begins_message: begins });
        } else {
            self.is_pipelined = true;
        }
        let position = &mut self.position[flow.index()];
        let begin = *position;
        *position += bytes.len() as u64;
        // INVARIANT: a turn was begun above.
        let turn = self.turns.last_mut().expect("a turn");
        if n_head > 0 {
            turn.n_heads = turn.bytes.len() + n_head;
        }
        turn.bytes.extend_from_slice(bytes);
        begin
    }

    /// Bytes of the same turn behind its messages that have to be seen and are no message. `alone`: the turn has one message all the same.
    #[allow(dead_code, reason = "for protocols to come")]
    pub fn trailer(&mut self, flow: Flow, bytes: &[u8], alone: bool) {
        let is_pipelined = self.is_pipelined;
        self.bytes(flow, bytes, bytes.len(), false);
        self.is_pipelined = is_pipelined || !alone;
    }

    /// A message that is not one stretch of bytes, or says more than its bytes.
    #[allow(dead_code, reason = "for protocols to come")]
    pub fn expect(&mut self, seen: Seen) {
        self.expected.push(seen);
    }

    /// What the message written last says where something that it depends on was lost.
    #[allow(dead_code, reason = "for protocols to come")]
    pub fn less(&mut self, text: impl Into<String>) {
        if let Some(&Seen { begin, .. }) = self.expected.last() {
            self.less_from(begin, text);
        }
    }

    /// The same of one that then seems to begin later.
    pub fn less_from(&mut self, seen_begin: u64, text: impl Into<String>) {
        if let Some(&Seen { flow, begin, .. }) = self.expected.last() {
            self.less.push(Less { flow, begin, seen_begin, text: text.into() });
        }
    }

    /// What it tells of its TLS.
    pub fn tls(&mut self, facts: TlsFacts) {
        self.tls = Some(facts);
    }

    /// Where the next byte of a flow stands.
    #[allow(dead_code, reason = "for protocols to come")]
    pub fn position(&self, flow: Flow) -> u64 {
        self.position[flow.index()]
    }

    /// Some lengths are not announced by what has to be seen.
    #[allow(dead_code, reason = "for protocols to come")]
    pub fn lengths_are_unknown(&mut self) {
        self.lengths_unknown = true;
    }

    pub fn finish(mut self) -> Conversation {
        self.expected.sort_by_key(|seen| (seen.begin, seen.flow.index()));
        Conversation {
            turns: self.turns,
            expected: self.expected,
            less: self.less,
            announced: self.announced,
            lengths_known: !self.lengths_unknown,
            half_duplex: !self.is_pipelined,
            tls: self.tls,
            is_part: |_, _| false,
        }
    }
}
