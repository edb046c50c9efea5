//! Any happenings on a connection, for each protocol: bytes in pieces, lengths without bytes, losses, turns, closes,
//! saved and loaded states. The wire checks the parser's half of the contract: progress, marks in order, bounded
//! memory. The same bytes in other pieces must give the same messages.
//!
//! Input: a byte that chooses the protocol (`wire::choice`); then happenings, each a byte (the low 3 bits say what, bit 3 the flow, bit 4
//! whether a turn starts) and a byte for its length (0 to 255; ×16 for bytes that go by), and for bytes, those.
//!
//! Seen: 7,799,603 executions in 3,601 s found nothing (2026-11-25, nice 15 on a busy 2-core AMD EPYC virtual machine); of HTTP/2's and gRPC's
//! inputs alone, which are compared in pieces since then, 2,369,917 in 1,202 s found nothing (2026-11-27, the same).

#![no_main]

use libfuzzer_sys::fuzz_target;
use tracer_user::protocol::{Flow, Protocol, REGISTRY};

#[path = "../../wire.rs"]
mod wire;

use wire::{Seen, Wire};

/// A parser's own state, in bytes as saved: 1,024 requests in flight and a name each.
const MAX_STATE: usize = 1024 * 80 + 1024;
/// What a parser may leave in the stream: a head of the longest sort and one piece.
const MAX_HELD: usize = (256 << 10) + 4096;

/// Parsers that find the same behind lost bytes too, however many come at once; others look at what is there to find their place again.
const SAME_BEHIND_LOSS: &[&str] = &["http1", "opaque"];

fuzz_target!(|input: &[u8]| {
    let Some((&choice, input)) = input.split_first() else { return };
    let named = REGISTRY.iter().find(|protocol| wire::choice(**protocol) == choice);
    let protocol = *named.unwrap_or(&REGISTRY[usize::from(choice) % REGISTRY.len()]);
    let (seen, n_invalid) = play(protocol, input, usize::MAX);
    let (in_pieces, n_invalid_in_pieces) = play(protocol, input, 1 + usize::from(choice) % 7);
    // Where bytes are no protocol's, what is skipped with them may depend on how many came at once.
    let name = protocol.name();
    let may_differ = is_lossy(input) && !SAME_BEHIND_LOSS.contains(&name);
    if n_invalid == 0 && n_invalid_in_pieces == 0 && !may_differ {
        assert_eq!(seen, in_pieces);
    }
    for cut in [1, input.len() / 2, input.len()] {
        let _ = protocol.infer(&input[..cut.min(input.len())]);
    }
});

/// Bytes are lost or go by unseen.
fn is_lossy(mut input: &[u8]) -> bool {
    while let [what, length, rest @ ..] = input {
        input = match what & 7 {
            0..=3 => &rest[usize::from(*length).min(rest.len())..],
            4 | 5 if *length > 0 => return true,
            _ => rest,
        };
    }
    false
}

fn play(protocol: &'static dyn Protocol, mut input: &[u8], n_at_once: usize) -> (Vec<Seen>, u64) {
    let mut wire = Wire::new(protocol);
    while let [what, length, rest @ ..] = input {
        let flow = if what & 8 == 0 { Flow::Request } else { Flow::Response };
        let turn_start = what & 16 != 0;
        let length = usize::from(*length);
        input = rest;
        match what & 7 {
            0..=3 => {
                let (bytes, rest) = input.split_at(length.min(input.len()));
                input = rest;
                for (idx, piece) in bytes.chunks(n_at_once.min(bytes.len().max(1))).enumerate() {
                    wire.bytes(flow, piece, turn_start && idx == 0);
                }
            }
            4 => wire.missing(flow, 16 * length as u64),
            5 => wire.lost(flow, 16 * length as u64),
            6 => wire.reload(),
            _ => wire.close(flow),
        }
    }
    wire.close(Flow::Response);
    wire.close(Flow::Request);
    assert!(wire.state().len() <= MAX_STATE && wire.max_held <= MAX_HELD, "the parser keeps too much");
    let n_invalid = wire.n_invalid;
    (wire.finish(), n_invalid)
}
