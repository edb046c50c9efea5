//! WebSocket (RFC 6455) behind HTTP/1's upgrade: the request that asked for it is one long-lived transaction, in which messages are counted.
//!
//! **Framing.** A frame is one step, however long: its payload is never looked at, but for the first two bytes of a close. Data frames with
//! `FIN` unset begin a message that goes on in continuations: it is counted with its first frame. Ping, pong and close are no messages.
//! What extensions do to payloads (permessage-deflate, RFC 7692) changes nothing here: their first reserved bit is let pass.
//!
//! **Outcome.** The first close frame says how it went: 1000, 1001 and none at all are no error; for others `error_type` is the code, `3xxx` and
//! `4xxx` for those of libraries and applications, whose number is in `error_message`. The reason in words is the application's and is
//! not shown. The transaction ends `upgraded`, with the connection.
//!
//! **Losses.** Lengths lead from frame to frame, so that only what is lost at a frame's head matters. Behind that, a turn's start is taken for a
//! boundary if a chain of valid heads begins there, of the sort that this side sends (only clients mask). Messages in between are not
//! counted, and the transaction has confidence `gap`. A side that sends on and on without being answered is counted again only when the other
//! side has spoken. That everything is to be captured is known some 10 ms behind the upgrade: of turns longer than what is captured before, heads
//! can be missed in that time.
//!
//! **Bounds.** Nothing is kept but a few bits for each side. Cost: each frame's head is looked at once, or once more for each piece in which
//! it comes (at most 16 bytes).
//!
//! Not handled: extensions that use the other reserved bits; messages of a WebSocket on HTTP/2 (RFC 8441), which is shown and not read; a connection joined behind its upgrade, which shows
//! nothing of what it is.

use std::borrow::Cow;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    Capture, Coverage, ErrorFor, Family, Flow, Inference, Mark, Parser, Protocol, Response, Resync, Step,
};

/// Opcodes.
const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PONG: u8 = 10;
/// Longest payload of a control frame.
const MAX_CONTROL: u64 = 125;

/// WebSocket.
pub struct WebSocket;

impl Protocol for WebSocket {
    fn name(&self) -> &'static str {
        "websocket"
    }

    fn family(&self) -> Family {
        Family::Http
    }

    fn coverage(&self) -> Coverage {
        Coverage {
            title: "WebSocket",
            covers: "behind HTTP/1's upgrade: one long-lived transaction, messages and bytes of both sides, how it was closed",
            lacks: "contents; on HTTP/2 the messages; joined behind the upgrade",
            tested_with: "Python (websockets), Node",
        }
    }

    fn is_inferred(&self) -> bool {
        false
    }

    fn infer(&self, _: &[u8]) -> Inference {
        Inference::No
    }

    fn parser(&self) -> Box<dyn Parser> {
        Box::new(WebSocketParser::default())
    }

    fn capture(&self) -> Capture {
        Capture::Everything
    }

    /// A frame without payload, masked.
    fn shortest_request(&self) -> u64 {
        6
    }

    fn turns_are_requests(&self) -> bool {
        false
    }

    /// By an extended CONNECT (RFC 8441).
    fn carriers(&self) -> &'static [&'static str] {
        &["http2"]
    }

    fn upgrade_token(&self) -> Option<&'static str> {
        Some("websocket")
    }
}

/// Reads both flows of one connection.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct WebSocketParser {
    /// By flow.
    flows: [Side; 2],
    /// A close frame was seen: the first says how it went.
    closed: bool,
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Side {
    message: Message,
    /// The bytes shown last were invalid: what begins there is no boundary.
    refused: bool,
}

/// Where a flow is in its messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
enum Message {
    /// Between two.
    #[default]
    None,
    /// In one that goes on in continuations.
    Within,
    /// Behind a loss: either.
    Unknown,
}

/// The head of a frame.
#[derive(Clone, Copy)]
struct Frame {
    fin: bool,
    opcode: u8,
    mask: Option<[u8; 4]>,
    n_head: usize,
    length: u64,
}

/// What the bytes at a frame's beginning say.
enum Head {
    Whole(Frame),
    Partial,
    Bad(&'static str),
}

fn head(flow: Flow, buf: &[u8]) -> Head {
    let &[first, ref rest @ ..] = buf else { return Head::Partial };
    let (fin, compressed, opcode) = (first & 0x80 != 0, first & 0x40 != 0, first & 0x0f);
    let is_control = opcode >= CLOSE;
    if first & 0x30 != 0 || !matches!(opcode, CONTINUATION..=BINARY | CLOSE..=PONG) {
        return Head::Bad("no frame");
    }
    if (is_control && !fin) || (compressed && !matches!(opcode, TEXT | BINARY)) {
        return Head::Bad("no control frame");
    }
    let &[second, ref rest @ ..] = rest else { return Head::Partial };
    let (is_masked, short) = (second & 0x80 != 0, u64::from(second & 0x7f));
    if is_masked != (flow == Flow::Request) {
        return Head::Bad("masked by the wrong side");
    }
    if is_control && short > MAX_CONTROL {
        return Head::Bad("control frame too long");
    }
    let n_length = match short {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let Some((length, rest)) = rest.split_at_checked(n_length) else { return Head::Partial };
    let length = length.iter().fold(0, |length: u64, byte| length << 8 | u64::from(*byte));
    let length = match n_length {
        0 => short,
        // The shortest form only (RFC 6455 §5.2), and no sign.
        2 if length > MAX_CONTROL => length,
        8 if length > 0xffff && length >> 63 == 0 => length,
        _ => return Head::Bad("length in the wrong form"),
    };
    let mask = match (is_masked, rest.first_chunk()) {
        (false, _) => None,
        (true, Some(mask)) => Some(*mask),
        (true, None) => return Head::Partial,
    };
    let n_head = 2 + n_length + if is_masked { 4 } else { 0 };
    Head::Whole(Frame { fin, opcode, mask, n_head, length })
}

impl Parser for WebSocketParser {
    fn step(&mut self, flow: Flow, buf: &[u8], marks: &mut Vec<Mark>) -> Step {
        let frame = match head(flow, buf) {
            Head::Whole(frame) => frame,
            Head::Partial => return Step::NeedMore,
            Head::Bad(why) => return self.give_up(flow, why),
        };
        let side = &mut self.flows[flow.index()];
        match (frame.opcode, side.message) {
            (CONTINUATION, Message::None) => return self.give_up(flow, "nothing to go on with"),
            (TEXT | BINARY, Message::Within) => return self.give_up(flow, "a message within a message"),
            (CLOSE, _) if !self.closed => {
                let n_code = frame.length.min(2) as usize;
                let Some(code) = buf.get(frame.n_head..frame.n_head + n_code) else { return Step::NeedMore };
                self.closed = true;
                if let ([high, low], [a, b, ..]) = (code, frame.mask.unwrap_or_default()) {
                    marks.extend(outcome(u16::from_be_bytes([high ^ a, low ^ b])));
                }
            }
            (CLOSE.., _) => {}
            (opcode, _) => {
                if opcode != CONTINUATION {
                    marks.push(Mark::Messages { stream: 0, n: 1 });
                }
                side.message = if frame.fin { Message::None } else { Message::Within };
            }
        }
        side.refused = false;
        Step::Consume { len: frame.n_head as u64 + frame.length }
    }

    fn resync(&mut self, flow: Flow, missing: u64, buf: &[u8], turn_starts: &[usize]) -> Resync {
        let side = &mut self.flows[flow.index()];
        side.message = Message::Unknown;
        let at_refused = std::mem::take(&mut side.refused) && missing == 0;
        for &start in turn_starts {
            if start == 0 && at_refused {
                continue;
            }
            match chain(flow, buf.get(start..).unwrap_or_default()) {
                Some(true) => return Resync::At(start),
                Some(false) => {}
                None => return Resync::NotYet { dropped: start },
            }
        }
        Resync::NotYet { dropped: buf.len() }
    }

    fn close(&mut self, _: Flow, _: &mut Vec<Mark>) {}

    fn save(&self) -> Vec<u8> {
        // Plain data into memory: there is no way to fail, and `load` refuses the empty state.
        postcard::to_allocvec(self).unwrap_or_default()
    }

    fn load(&mut self, state: &[u8]) -> bool {
        let Ok(parser) = postcard::from_bytes(state) else { return false };
        *self = parser;
        true
    }
}

impl WebSocketParser {
    fn give_up(&mut self, flow: Flow, why: &'static str) -> Step {
        self.flows[flow.index()].refused = true;
        Step::Invalid(why)
    }
}

/// Whether `buf` is a chain of frames as far as it goes; `None`: too short to hold one head.
fn chain(flow: Flow, mut buf: &[u8]) -> Option<bool> {
    let mut found = None;
    loop {
        match head(flow, buf) {
            Head::Bad(_) => return Some(false),
            Head::Partial => return found,
            Head::Whole(frame) => {
                found = Some(true);
                let Some(rest) = usize::try_from(frame.length)
                    .ok()
                    .and_then(|length| buf.get(frame.n_head.checked_add(length)?..))
                else {
                    return found;
                };
                buf = rest;
            }
        }
    }
}

/// How it went, by the code of the close frame (RFC 6455 §7.4): `None` if well.
fn outcome(code: u16) -> Option<Mark> {
    let (error, words): (Cow<'static, str>, _) = match code {
        1000 | 1001 => return None,
        1002..=1015 => (code.to_string().into(), None),
        3000..=3999 => ("3xxx".into(), Some(code)),
        4000..=4999 => ("4xxx".into(), Some(code)),
        _ => ("_OTHER".into(), None),
    };
    let response = Response {
        // As the response that agreed to the upgrade said.
        status_code: Some(101),
        error: ErrorFor::Both,
        error_type: Some(error),
        error_message: words.map(|code| Bytes::from(format!("closed with code {code}"))),
        long_lived: true,
        ..Response::default()
    };
    Some(Mark::Outcome { stream: 0, response })
}
