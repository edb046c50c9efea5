//! Properties of every parser in the registry: any pieces give the same messages; any bytes are survived; behind lost
//! bytes messages come again and none is wrong; what was captured of bodies changes nothing.
//!
//! The messages that must come out are made together with the bytes, so that a parser that is wrong in all cases alike
//! does not pass.

use proptest::{collection::vec, prelude::*, sample::Index};
use tracer_user::protocol::{Flow, REGISTRY};

use crate::{
    conversation::{self, Conversation},
    wire::{Seen, Wire},
};

fn config() -> ProptestConfig {
    // `PROPTEST_CASES` asks for more than the default of 256.
    ProptestConfig { failure_persistence: None, ..ProptestConfig::default() }
}

/// A protocol, as an index, and one of its conversations.
fn conversations() -> impl Strategy<Value = (usize, Conversation)> {
    (0..REGISTRY.len()).prop_flat_map(|idx| {
        conversation::of(REGISTRY[idx]).prop_map(move |conversation| (idx, conversation))
    })
}

fn messages(wire: Wire) -> Vec<Seen> {
    wire.finish()
}

/// Sends a turn in pieces that end at `cuts`.
fn in_pieces(bytes: &[u8], cuts: &[Index]) -> Vec<std::ops::Range<usize>> {
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len())).collect();
    ends.extend([0, bytes.len()]);
    ends.sort_unstable();
    ends.windows(2).map(|pair| pair[0]..pair[1]).filter(|range| !range.is_empty()).collect()
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn any_pieces_give_the_expected_messages(
        (idx, conversation) in conversations(),
        cuts in vec(any::<Index>(), 0..12),
        bytewise in prop::bool::weighted(0.2),
        reload in any::<bool>(),
    ) {
        let protocol = REGISTRY[idx];
        let mut wire = Wire::new(protocol);
        for turn in &conversation.turns {
            let pieces = if bytewise { (0..turn.bytes.len()).map(|at| at..at + 1).collect() } else { in_pieces(&turn.bytes, &cuts) };
            for (idx, piece) in pieces.into_iter().enumerate() {
                wire.bytes(turn.flow, &turn.bytes[piece], idx == 0);
                if reload {
                    wire.reload();
                }
            }
        }
        conversation.close(&mut wire);
        prop_assert_eq!(wire.n_invalid, 0);
        prop_assert_eq!(wire.tls.as_deref(), conversation.tls.as_ref());
        prop_assert_eq!(messages(wire), conversation.expected);
    }

    #[test]
    fn what_was_captured_of_bodies_changes_nothing(
        (idx, conversation) in conversations(),
        n_captured in 0..400usize,
    ) {
        let protocol = REGISTRY[idx];
        let mut wire = Wire::new(protocol);
        for turn in &conversation.turns {
            // A capture that ends anywhere behind the last head of the turn.
            let n_captured = turn.bytes.len().min(turn.n_heads + n_captured);
            wire.bytes(turn.flow, &turn.bytes[..n_captured], true);
            wire.missing(turn.flow, (turn.bytes.len() - n_captured) as u64);
        }
        conversation.close(&mut wire);
        let seen = messages(wire);
        // Where the size lines of chunks were not captured, messages behind them in the same turn are not found.
        if conversation.half_duplex || conversation.lengths_known {
            prop_assert_eq!(seen.len(), conversation.expected.len(), "{:?}", seen);
        }
        for seen in &seen {
            let expected = conversation.expected.iter().find(|expected| conversation.agrees(seen, expected));
            prop_assert!(expected.is_some(), "{:?} was never sent: {:?}", seen, conversation.expected);
            prop_assert!(!conversation.lengths_known || expected == Some(seen), "{:?} is not {:?}", seen, expected);
        }
    }

    #[test]
    fn behind_lost_bytes_messages_come_again_and_none_is_wrong(
        (idx, conversation) in conversations(),
        flow in prop_oneof![Just(Flow::Request), Just(Flow::Response)],
        from in any::<Index>(),
        n_lost in prop_oneof![1..4usize, 1..200usize, 1..5000usize],
        cuts in vec(any::<Index>(), 0..4),
    ) {
        let length: usize = conversation.turns.iter().filter(|turn| turn.flow == flow).map(|turn| turn.bytes.len()).sum();
        prop_assume!(length > 0);
        let lost = { let from = from.index(length); from..from + n_lost };
        let protocol = REGISTRY[idx];
        // A parser that was saved and loaded goes on as the other.
        let mut wire = Wire::new(protocol);
        let mut reloaded = Wire::new(protocol);
        let mut position = [0; 2];
        // The messages that begin a turn behind the loss.
        let mut must_come = Vec::new();
        for turn in &conversation.turns {
            let position = &mut position[turn.flow.index()];
            let begin = *position;
            *position += turn.bytes.len();
            // Of the other flow nothing is lost.
            let lost = if turn.flow == flow { lost.clone() } else { 0..0 };
            for (idx, piece) in in_pieces(&turn.bytes, &cuts).into_iter().enumerate() {
                // A piece may lose its start, its end, what lies between, or all of it.
                let inside = |at: usize| at.saturating_sub(begin).clamp(piece.start, piece.end);
                let hole = inside(lost.start)..inside(lost.end);
                let starts_behind = hole.is_empty() && hole.start == piece.start;
                for wire in [&mut wire, &mut reloaded] {
                    wire.bytes(turn.flow, &turn.bytes[piece.start..hole.start], idx == 0);
                    wire.lost(turn.flow, hole.len() as u64);
                    wire.bytes(turn.flow, &turn.bytes[hole.end..piece.end], idx == 0 && starts_behind);
                }
                reloaded.reload();
            }
            if turn.flow == flow && turn.begins_message && begin >= lost.end {
                must_come.push((turn.flow, begin as u64));
            }
        }
        conversation.close(&mut wire);
        conversation.close(&mut reloaded);
        prop_assert_eq!(&wire.seen, &reloaded.seen);
        let is_whole = conversation.is_inside_announced(flow, &(lost.start as u64..lost.end.min(length) as u64));
        let seen = messages(wire);
        for seen in &seen {
            prop_assert!(
                conversation.expected.iter().any(|expected| conversation.agrees(seen, expected)),
                "{:?} was never sent: {:?}", seen, conversation.expected
            );
        }
        if is_whole {
            prop_assert_eq!(&seen, &conversation.expected);
        }
        if conversation.half_duplex {
            for (flow, begin) in must_come {
                prop_assert!(
                    seen.iter().any(|seen| seen.flow == flow && seen.begin == begin),
                    "{:?} at {} did not come again: {:?}", flow, begin, seen
                );
            }
        }
    }

    #[test]
    fn any_bytes_are_survived(
        idx in 0..REGISTRY.len(),
        pieces in vec((any::<bool>(), any::<bool>(), 0..4u8, vec(any::<u8>(), 0..60), 0..100u64), 0..40),
    ) {
        let mut wire = Wire::new(REGISTRY[idx]);
        for (request, turn_start, happening, bytes, len) in pieces {
            let flow = if request { Flow::Request } else { Flow::Response };
            match happening {
                0 => wire.missing(flow, len),
                1 => wire.lost(flow, len),
                _ => wire.bytes(flow, &bytes, turn_start),
            }
        }
        wire.close(Flow::Request);
        wire.close(Flow::Response);
    }

    #[test]
    fn damaged_conversations_are_survived(
        (idx, conversation) in conversations(),
        damage in vec((any::<Index>(), any::<Index>(), any::<u8>()), 1..6),
        cuts in vec(any::<Index>(), 0..6),
    ) {
        let mut turns = conversation.turns.clone();
        for (turn, at, byte) in damage {
            let turn = turn.index(turns.len());
            let bytes = &mut turns[turn].bytes;
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let protocol = REGISTRY[idx];
        let mut wire = Wire::new(protocol);
        for turn in &turns {
            for (idx, piece) in in_pieces(&turn.bytes, &cuts).into_iter().enumerate() {
                wire.bytes(turn.flow, &turn.bytes[piece], idx == 0);
            }
        }
        wire.close(Flow::Response);
        wire.close(Flow::Request);
    }

    #[test]
    fn damaged_states_are_refused_or_survived(
        (idx, conversation) in conversations(),
        damage in vec((any::<Index>(), any::<u8>()), 1..4),
    ) {
        let protocol = REGISTRY[idx];
        let mut wire = Wire::new(protocol);
        for turn in &conversation.turns {
            wire.bytes(turn.flow, &turn.bytes, true);
            let mut state = wire.state();
            for (at, byte) in &damage {
                let at = at.index(state.len());
                state[at] = *byte;
            }
            let mut parser = protocol.parser();
            let before = parser.save();
            if parser.load(&state) {
                let mut marks = Vec::new();
                parser.step(turn.flow, &turn.bytes, &mut marks);
                parser.resync(turn.flow, 1, &turn.bytes, &[0]);
                parser.step(turn.flow, &turn.bytes, &mut marks);
                parser.close(turn.flow, &mut marks);
            } else {
                prop_assert_eq!(parser.save(), before);
            }
        }
    }
}

#[test]
fn every_protocol_has_conversations() {
    for protocol in REGISTRY {
        let _panics_without = conversation::of(*protocol);
    }
}
