//! WebSocket (RFC 6455) behind HTTP/1's upgrade or on a stream of HTTP/2 (RFC 8441): the request that asked for it is one long-lived transaction,
//! in which messages are counted. On a stream that is [`super::http2`]'s work, by [`Frames`] from here.
//!
//! **Framing.** A frame is one step, however long: its payload is never looked at, but for the first two bytes of a close. Data frames with
//! `FIN` unset begin a message that goes on in continuations: it is counted with its first frame. Ping, pong and close are no messages.
//! What extensions do to payloads (permessage-deflate, RFC 7692) changes nothing here: their first reserved bit is let pass.
//!
//! **Outcome.** The first close frame says how it went: 1000, 1001 and none at all are no error; for others `error_type` is the code, `3xxx` and
//! `4xxx` for those of libraries and applications, whose number is in `error_message`. The reason in words is the application's and is
//! not shown. The transaction ends `upgraded`, with the connection; on HTTP/2 as its stream does.
//!
//! **Losses.** Lengths lead from frame to frame, so that only what is lost at a frame's head matters. Behind that, a turn's start is taken for a
//! boundary if a chain of valid heads begins there, of the sort that this side sends (only clients mask). Messages in between are not
//! counted, and the transaction has confidence `gap`. A side that sends on and on without being answered is counted again only when the other
//! side has spoken. That everything is to be captured is known some 10 ms behind the upgrade: of turns longer than what is captured before, heads
//! can be missed in that time. On HTTP/2 nothing begins anew behind a loss: how many messages there are is then not known.
//!
//! **Bounds.** Nothing is kept but a few bits for each side, on HTTP/2 the 16 bytes of a head as well. Cost: each frame's head is looked at
//! once, or once more for each piece in which it comes (at most 16 bytes).
//!
//! Not handled: extensions that use the other reserved bits; a connection joined behind its upgrade, which shows nothing of what it is.

use std::borrow::Cow;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    Capture, Coverage, ErrorFor, Family, Flow, Inference, Mark, Parser, Protocol, Response, Resync, Step,
    codec::messages::Passed,
};

/// Registry name.
pub const NAME: &str = "websocket";
/// The longest head: two bytes, a length of eight, a mask of four. Behind it, what is looked at of a close.
const MAX_HEAD: usize = 14 + 2;

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
        NAME
    }

    fn family(&self) -> Family {
        Family::Http
    }

    fn coverage(&self) -> Coverage {
        Coverage {
            title: "WebSocket",
            covers: "behind HTTP/1's upgrade and on HTTP/2's streams: one long-lived transaction, messages and bytes of both sides, how it was closed",
            lacks: "contents; joined behind the upgrade",
            tested_with: "Python (websockets, hypercorn), nghttpx",
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

/// A frame, as far as it has to be seen.
struct Read {
    n_head: usize,
    /// Bytes looked at: the head, and the code of a close.
    n_seen: usize,
    length: u64,
    /// A message begins with it.
    is_message: bool,
    /// Of the close that says how it went.
    code: Option<u16>,
}

/// Reads the frame at the beginning of `buf`. `None`: there has to be more of it. `closed`: a close was seen, in either flow.
fn read(
    flow: Flow,
    buf: &[u8],
    message: &mut Message,
    closed: &mut bool,
) -> Result<Option<Read>, &'static str> {
    let frame = match head(flow, buf) {
        Head::Whole(frame) => frame,
        Head::Partial => return Ok(None),
        Head::Bad(why) => return Err(why),
    };
    let Frame { n_head, length, .. } = frame;
    let mut read = Read { n_head, n_seen: n_head, length, is_message: false, code: None };
    match (frame.opcode, *message) {
        (CONTINUATION, Message::None) => return Err("nothing to go on with"),
        (TEXT | BINARY, Message::Within) => return Err("a message within a message"),
        (CLOSE, _) if !*closed => {
            read.n_seen += length.min(2) as usize;
            let Some(code) = buf.get(n_head..read.n_seen) else { return Ok(None) };
            *closed = true;
            if let ([high, low], [a, b, ..]) = (code, frame.mask.unwrap_or_default()) {
                read.code = Some(u16::from_be_bytes([high ^ a, low ^ b]));
            }
        }
        (CLOSE.., _) => {}
        (opcode, _) => {
            read.is_message = opcode != CONTINUATION;
            *message = if frame.fin { Message::None } else { Message::Within };
        }
    }
    Ok(Some(read))
}

/// The frames of one flow where they come in pieces with something else between them: in the content of a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frames {
    message: Message,
    closed: bool,
    /// Bytes of the head in progress.
    have: u8,
    head: [u8; MAX_HEAD],
    /// Bytes of the payload in progress that are still to come.
    left: u64,
}

impl Frames {
    /// A close was seen, in either flow.
    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// The other flow's close was seen.
    pub(super) fn close(&mut self) {
        self.closed = true;
    }

    /// A state that reading can lead to.
    pub(super) fn is_sound(&self) -> bool {
        usize::from(self.have) < MAX_HEAD && (self.have == 0 || self.left == 0)
    }

    /// Passes over `left` bytes, of which `shown` are the first.
    pub(super) fn advance(&mut self, flow: Flow, shown: &[u8], left: u32) -> Passed {
        let mut passed = Passed::default();
        while passed.len < left {
            if self.left > 0 {
                let step = self.left.min(u64::from(left - passed.len));
                self.left -= step;
                passed.len += step as u32;
                continue;
            }
            let rest = shown.get(passed.len as usize..).unwrap_or_default();
            let have = usize::from(self.have);
            let n = rest.len().min(MAX_HEAD - have);
            if n == 0 {
                break;
            }
            self.head[have..have + n].copy_from_slice(&rest[..n]);
            match read(flow, &self.head[..have + n], &mut self.message, &mut self.closed) {
                // A whole head was there, with what is looked at behind it.
                Ok(None) if have + n == MAX_HEAD => passed.is_bad = true,
                Err(_) => passed.is_bad = true,
                Ok(None) => {
                    self.have += n as u8;
                    passed.len += n as u32;
                }
                Ok(Some(read)) => {
                    passed.len += read.n_seen.saturating_sub(have) as u32;
                    (self.have, self.head) = (0, [0; MAX_HEAD]);
                    self.left = read.n_head as u64 + read.length - read.n_seen as u64;
                    passed.n += u64::from(read.is_message);
                    passed.code = passed.code.or(read.code);
                }
            }
            if passed.is_bad {
                break;
            }
        }
        passed
    }
}

impl Parser for WebSocketParser {
    fn step(&mut self, flow: Flow, buf: &[u8], marks: &mut Vec<Mark>) -> Step {
        let side = &mut self.flows[flow.index()];
        let frame = match read(flow, buf, &mut side.message, &mut self.closed) {
            Ok(Some(frame)) => frame,
            Ok(None) => return Step::NeedMore,
            Err(why) => return self.give_up(flow, why),
        };
        if frame.is_message {
            marks.push(Mark::Messages { stream: 0, n: 1 });
        }
        // As the response that agreed to the upgrade said.
        let response = frame.code.and_then(|code| outcome(code, Some(101)));
        marks.extend(response.map(|response| Mark::Outcome { stream: 0, response }));
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

/// How it went, by the code of the close frame (RFC 6455 §7.4): `None` if well. `status`: of the response that agreed to it.
pub(super) fn outcome(code: u16, status: Option<i32>) -> Option<Response> {
    let (error, words): (Cow<'static, str>, _) = match code {
        1000 | 1001 => return None,
        1002..=1015 => (code.to_string().into(), None),
        3000..=3999 => ("3xxx".into(), Some(code)),
        4000..=4999 => ("4xxx".into(), Some(code)),
        _ => ("_OTHER".into(), None),
    };
    Some(Response {
        status_code: status,
        error: ErrorFor::Both,
        error_type: Some(error),
        error_message: words.map(|code| Bytes::from(format!("closed with code {code}"))),
        long_lived: true,
        ..Response::default()
    })
}
