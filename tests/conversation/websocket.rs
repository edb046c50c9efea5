//! Conversations behind an upgrade to WebSocket.

use proptest::{collection::vec, option, prelude::*, sample::select};
use tracer_user::protocol::Flow;

use super::{Conversation, Script};

/// A frame, and the length of its head.
pub(super) fn frame(flow: Flow, first: u8, payload: &[u8]) -> (Vec<u8>, usize) {
    const MASK: [u8; 4] = *b"\x81\x82ok";
    let mask_bit = if flow == Flow::Request { 0x80 } else { 0 };
    let mut frame = vec![first];
    match payload.len() {
        len @ ..=125 => frame.push(mask_bit | len as u8),
        len @ ..=0xffff => {
            frame.push(mask_bit | 126);
            frame.extend((len as u16).to_be_bytes());
        }
        len => {
            frame.push(mask_bit | 127);
            frame.extend((len as u64).to_be_bytes());
        }
    }
    if flow == Flow::Request {
        frame.extend(MASK);
        let n_head = frame.len();
        frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        (frame, n_head)
    } else {
        let n_head = frame.len();
        frame.extend_from_slice(payload);
        (frame, n_head)
    }
}

/// Payloads that tempt a parser: frames, anything.
fn payload() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(b"\x81\x02ok\x88\x02\x03\xf3".to_vec()),
        Just(b"\x81\x82abcdxx".to_vec()),
        vec(any::<u8>(), 0..60),
    ];
    prop_oneof![
        9 => vec(piece, 0..5).prop_map(|pieces| pieces.concat()),
        1 => Just(vec![0x81; 66_000]),
    ]
}

/// What one side says at a time: parts of a message, and whether control frames stand between them.
fn said() -> impl Strategy<Value = (Vec<Vec<u8>>, bool, bool)> {
    (vec(payload(), 1..4), any::<bool>(), any::<bool>())
}

pub fn conversation() -> impl Strategy<Value = Conversation> {
    let close =
        option::of((any::<bool>(), select(vec![None, Some(1000u16), Some(1001), Some(1011), Some(4401)])));
    (vec((any::<bool>(), said()), 1..8), any::<bool>(), close).prop_map(|(turns, simple, close)| {
        let mut script = Script::default();
        let mut flow = Flow::Request;
        for (other, (parts, compressed, control)) in turns {
            // With simple turns each is one frame, and the sides take turns.
            if simple || other {
                flow = if flow == Flow::Request { Flow::Response } else { Flow::Request };
            }
            let parts = if simple { &parts[..1] } else { &parts[..] };
            for (at, part) in parts.iter().enumerate() {
                let opcode = match at {
                    0 => 2 | if compressed { 0x40 } else { 0 },
                    _ => 0,
                };
                let fin = if at + 1 == parts.len() { 0x80 } else { 0 };
                let (bytes, n_head) = frame(flow, fin | opcode, part);
                if at == 0 {
                    script.message(flow, &bytes, n_head, "1 message");
                } else {
                    script.bytes(flow, &bytes, n_head, false);
                }
                if control && !simple {
                    let (bytes, n_head) = frame(flow, if at == 0 { 0x89 } else { 0x8a }, b"ping");
                    script.bytes(flow, &bytes, n_head, false);
                }
            }
        }
        if let Some((by_client, code)) = close {
            let flow = if by_client { Flow::Request } else { Flow::Response };
            let (bytes, _) = frame(flow, 0x88, &code.map_or(Vec::new(), |code| code.to_be_bytes().to_vec()));
            let text = match code {
                Some(1011) => "101 long-lived error 1011",
                Some(4401) => "101 long-lived error 4xxx (closed with code 4401)",
                _ => {
                    script.bytes(flow, &bytes, bytes.len(), false);
                    return script.finish();
                }
            };
            script.unannounced(flow, &bytes, bytes.len(), text);
        }
        script.finish()
    })
}
