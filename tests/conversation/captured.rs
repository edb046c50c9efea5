//! Conversations as they were captured: each protocol has them without anybody's doing.
//!
//! What must be found in them is what the parser finds when it is shown a byte at a time, which the golden captures pin down
//! (`tests/protocols.rs`); which bytes a head announces shows there too.

use std::collections::HashMap;

use proptest::{prelude::*, sample::select};
use tracer_user::protocol::{Flow, Protocol};

use super::{Conversation, Turn};
use crate::{
    captures::{Line, captures, parse},
    wire::Wire,
};

/// The captures that are whole; `None` if there are none.
pub fn conversation(protocol: &'static dyn Protocol) -> Option<impl Strategy<Value = Conversation>> {
    let captures = captures(protocol.name()).into_iter();
    let whole = captures.filter(|(_, capture)| {
        !capture.contains("# joined in the middle") && !capture.contains("# says less behind a loss")
    });
    let conversations: Vec<_> = whole.filter_map(|(_, capture)| read(protocol, &parse(&capture))).collect();
    (!conversations.is_empty()).then(|| select(conversations))
}

/// A capture as a conversation; `None` where bytes are missing, or come behind a close, or are no protocol's.
fn read(protocol: &'static dyn Protocol, lines: &[Line]) -> Option<Conversation> {
    let mut turns: Vec<Turn> = Vec::new();
    let mut is_closed = false;
    for line in lines {
        match line {
            Line::Bytes(flow, bytes) if !is_closed => {
                match turns.last_mut().filter(|turn| turn.flow == *flow) {
                    Some(turn) => turn.bytes.extend_from_slice(bytes),
                    None => turns.push(Turn {
                        flow: *flow,
                        bytes: bytes.clone(),
                        n_heads: 0,
                        begins_message: false,
                    }),
                }
            }
            Line::Close(_) => is_closed = true,
            Line::Bytes(..) | Line::Uncaptured(..) | Line::Lost(..) => return None,
        }
    }
    let mut wire = Wire::new(protocol);
    let mut starts = Vec::new();
    let mut position = [0; 2];
    for turn in &mut turns {
        let position: &mut u64 = &mut position[turn.flow.index()];
        starts.push((turn.flow, *position));
        for (at, byte) in turn.bytes.iter().enumerate() {
            let is_announced = wire.is_announced(turn.flow) && at > 0;
            wire.bytes(turn.flow, &[*byte], at == 0);
            if !is_announced {
                turn.n_heads = at + 1;
            }
        }
        *position += turn.bytes.len() as u64;
    }
    wire.close(Flow::Response);
    wire.close(Flow::Request);
    // Behind a loss an upgrade is not known to be one: what is then found in it has its own tests.
    if wire.n_invalid > 0 || wire.is_upgraded {
        return None;
    }
    let (announced, tls) = (wire.announced.clone(), wire.tls.as_deref().cloned());
    let expected = wire.finish();
    let mut begun: HashMap<(usize, u64), usize> = HashMap::new();
    for seen in &expected {
        *begun.entry((seen.flow.index(), seen.begin)).or_default() += 1;
    }
    for (turn, (flow, start)) in turns.iter_mut().zip(&starts) {
        turn.begins_message = begun.contains_key(&(flow.index(), *start));
    }
    let half_duplex = expected.len() == turns.len()
        && starts.iter().all(|(flow, start)| begun.get(&(flow.index(), *start)) == Some(&1));
    Some(Conversation {
        turns,
        expected,
        announced,
        lengths_known: false,
        half_duplex,
        tls,
        less: Vec::new(),
        is_part: |_, _| false,
    })
}
