//! Messages within one direction of a stream: where they begin in its content, however that is cut into frames and pieces. gRPC's, each
//! behind five bytes with its length; those of a WebSocket, in that protocol's frames; server-sent events.
//!
//! Of what has a length only heads are looked at; of events each byte, once. Nothing is kept but what a head needs: at most 40 bytes for a
//! direction.

use serde::{Deserialize, Serialize};

use super::events::Events;
use crate::protocol::{Flow, websocket::Frames};

/// Bytes before each message of gRPC: compressed or not, and the length.
const PREFIX: u8 = 5;

/// What is counted in one direction of a stream, and how far that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Messages {
    /// Nothing, or bytes were not seen: messages are not counted.
    Off,
    /// gRPC: the bytes before a message, of which so many are there.
    Prefix {
        /// Number.
        have: u8,
        /// The length, as far as it is there.
        len: u32,
    },
    /// gRPC: bytes of a message still to come.
    Body {
        /// Number.
        left: u32,
    },
    /// A WebSocket's.
    Frames(Frames),
    /// Server-sent events.
    Events(Events),
}

/// What passed by, and what was in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// So many bytes; fewer than were asked for only where more have to be seen.
    pub len: u32,
    /// So many messages began. Events count when they are over.
    pub n: u64,
    /// The code of a WebSocket's close, where none was seen before it.
    pub code: Option<u16>,
    /// These are no such messages: nobody knows how many there are.
    pub is_bad: bool,
}

impl Messages {
    /// At the start of a call.
    pub const CALL: Messages = Messages::Prefix { have: 0, len: 0 };

    /// A state that counting can lead to.
    pub fn is_sound(&self) -> bool {
        match self {
            Messages::Off | Messages::Body { .. } | Messages::Events(_) => true,
            Messages::Prefix { have, .. } => *have < PREFIX,
            Messages::Frames(frames) => frames.is_sound(),
        }
    }

    /// A WebSocket's close was seen in this direction.
    pub fn is_closed(&self) -> bool {
        matches!(self, Messages::Frames(frames) if frames.is_closed())
    }

    /// The other direction's close was seen: this one's is its answer.
    pub fn close(&mut self) {
        if let Messages::Frames(frames) = self {
            frames.close();
        }
    }

    /// Passes over `left` bytes of content, of which `buf` shows the first; what stands in it behind them is something else.
    pub fn advance(&mut self, flow: Flow, buf: &[u8], left: u32) -> Passed {
        let shown = &buf[..buf.len().min(left as usize)];
        let passed = match self {
            Messages::Off => Passed { len: left, ..Passed::default() },
            Messages::Prefix { .. } | Messages::Body { .. } => self.advance_call(shown, left),
            Messages::Frames(frames) => frames.advance(flow, shown, left),
            Messages::Events(events) => {
                Passed { len: shown.len() as u32, n: events.seen(shown), ..Passed::default() }
            }
        };
        if passed.is_bad {
            *self = Messages::Off;
            return Passed { len: left, ..passed };
        }
        passed
    }

    fn advance_call(&mut self, shown: &[u8], left: u32) -> Passed {
        let mut passed = Passed::default();
        while passed.len < left {
            match self {
                Messages::Body { left: body } => {
                    let step = (*body).min(left - passed.len);
                    *body -= step;
                    passed.len += step;
                    if *body == 0 {
                        *self = Messages::CALL;
                    }
                }
                Messages::Prefix { have, len } => {
                    let Some(&byte) = shown.get(passed.len as usize) else { break };
                    if *have == 0 && byte > 1 {
                        // Neither compressed nor not.
                        passed.is_bad = true;
                        break;
                    }
                    *len = if *have == 0 { 0 } else { *len << 8 | u32::from(byte) };
                    *have += 1;
                    passed.len += 1;
                    if *have == PREFIX {
                        passed.n += 1;
                        *self = if *len == 0 { Messages::CALL } else { Messages::Body { left: *len } };
                    }
                }
                Messages::Off | Messages::Frames(_) | Messages::Events(_) => break,
            }
        }
        passed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Messages found when the content comes in pieces of `size`, and where that leads.
    fn count(mut messages: Messages, flow: Flow, bytes: &[u8], size: usize) -> (u64, Messages) {
        let mut n = 0;
        for piece in bytes.chunks(size) {
            let passed = messages.advance(flow, piece, piece.len() as u32);
            assert_eq!((passed.len as usize, passed.is_bad), (piece.len(), false));
            n += passed.n;
        }
        (n, messages)
    }

    #[test]
    fn messages_are_counted_however_they_are_cut() {
        let call = [&b"\0\0\0\0\x03abc"[..], b"\x01\0\0\0\0", b"\0\0\0\x01\0", &[7; 256]].concat();
        let long = [&b"\x82\xfe\x01\x00mask"[..], &[0x81; 256]].concat();
        let frames = [&b"\x01\x82maskab\x89\x80mask\x80\x81maskc"[..], &long, b"\x81\x80mask"].concat();
        let events = b": hello\n\ndata: 1\n\ndata: 2\r\n\r\nid: 3\n\ndata\n\n";
        for size in 1..call.len() {
            assert_eq!(count(Messages::CALL, Flow::Response, &call, size), (3, Messages::CALL), "{size}");
            let socket = Messages::Frames(Frames::default());
            assert_eq!(count(socket, Flow::Request, &frames, size), (3, socket), "{size}");
            let (n, _) = count(Messages::Events(Events::default()), Flow::Response, events, size);
            assert_eq!(n, 3, "{size}");
        }
    }

    #[test]
    fn what_has_a_length_is_not_looked_at_and_what_stands_behind_is_not_taken_for_it() {
        let mut call = Messages::CALL;
        assert_eq!(
            call.advance(Flow::Request, b"\0\0\0\0\x03", 8),
            Passed { len: 8, n: 1, ..Passed::default() }
        );
        let mut socket = Messages::Frames(Frames::default());
        let passed = socket.advance(Flow::Response, b"\x81\x05", 7);
        assert_eq!(passed, Passed { len: 7, n: 1, ..Passed::default() });
        for mut messages in [Messages::CALL, socket, Messages::Events(Events::default())] {
            assert_eq!(messages.advance(Flow::Response, b"\0\0\x01\0\x01", 0), Passed::default());
        }
    }

    #[test]
    fn the_first_close_says_how_it_went_and_what_stands_behind_it_is_read() {
        let bytes = b"\x82\x80mask\x88\x84mask\x66\x98oo\x8a\x80mask\x88\x82maskxx\x82\x80mask";
        for size in 1..bytes.len() {
            let mut messages = Messages::Frames(Frames::default());
            let (mut n, mut codes) = (0, Vec::new());
            for piece in bytes.chunks(size) {
                let passed = messages.advance(Flow::Request, piece, piece.len() as u32);
                assert!(!passed.is_bad);
                n += passed.n;
                codes.extend(passed.code);
            }
            assert_eq!((n, codes, messages.is_closed()), (2, vec![0x0bf9], true), "{size}");
        }
        let mut answer = Messages::Frames(Frames::default());
        answer.close();
        assert_eq!(answer.advance(Flow::Response, b"\x88\x02\x03\xf3", 4).code, None);
    }

    #[test]
    fn content_that_is_none_of_them_is_not_counted_and_passed_over() {
        let bad = Passed { len: 4, is_bad: true, ..Passed::default() };
        for (mut messages, bytes) in
            [(Messages::CALL, b"GET "), (Messages::Frames(Frames::default()), b"\x81\x01a\xff")]
        {
            // Only clients mask.
            let passed = messages.advance(Flow::Request, bytes, 4);
            assert_eq!((passed, messages), (bad, Messages::Off));
            assert_eq!(messages.advance(Flow::Request, b"", 9), Passed { len: 9, ..Passed::default() });
        }
    }
}
