//! How fast each parser reads its own captures: `parser_speed SECONDS`, a line of JSON for each protocol.
//!
//! The captures of `fixtures/` that are whole are read again and again, turn by turn as they came, by a fresh parser each time: bytes of both
//! directions, and messages that begin. What is not measured is what stands around a parser (order, pairing, names).

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use tracer_user::protocol::{Flow, Mark, Protocol, REGISTRY, Step};

#[path = "../../tests/captures.rs"]
mod captures;

use captures::{Line, captures, fixtures, parse};

/// Turns of a capture: flow and bytes.
type Turns = Vec<(Flow, Vec<u8>)>;

fn main() {
    let seconds = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(0.5);
    assert!(fixtures().is_dir(), "{} is not there: run it from the repository", fixtures().display());
    for protocol in REGISTRY {
        let all: Vec<Turns> =
            captures(protocol.name()).iter().filter_map(|(_, capture)| turns(*protocol, capture)).collect();
        let n_bytes: usize = all.iter().flatten().map(|(_, bytes)| bytes.len()).sum();
        if n_bytes == 0 {
            continue;
        }
        let (mut n_rounds, mut n_messages) = (0_u64, 0);
        let mut marks = Vec::new();
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs_f64(seconds) {
            for turns in &all {
                n_messages += read(*protocol, turns, &mut marks).unwrap_or(0);
            }
            n_rounds += 1;
        }
        let elapsed = began.elapsed().as_secs_f64();
        let bytes = n_bytes as f64 * n_rounds as f64;
        println!(
            "{{\"protocol\":\"{}\",\"mb_per_second\":{:.1},\"messages_per_second\":{:.0},\"captures\":{},\"bytes\":{n_bytes}}}",
            protocol.name(),
            bytes / elapsed / 1e6,
            n_messages as f64 / elapsed,
            all.len(),
        );
    }
}

/// A capture that is whole and understood to its end.
fn turns(protocol: &dyn Protocol, capture: &str) -> Option<Turns> {
    let mut turns = Turns::new();
    for line in parse(capture) {
        match line {
            Line::Bytes(flow, bytes) => match turns.last_mut().filter(|(last, _)| *last == flow) {
                Some((_, turn)) => turn.extend(bytes),
                None => turns.push((flow, bytes)),
            },
            Line::Close(_) => {}
            Line::Lost(..) | Line::Uncaptured(..) => return None,
        }
    }
    (!capture.contains("# joined in the middle")).then_some(())?;
    read(protocol, &turns, &mut Vec::new()).is_some().then_some(turns)
}

/// Messages that begin; `None`: something is not understood, or becomes another protocol.
fn read(protocol: &dyn Protocol, turns: &Turns, marks: &mut Vec<Mark>) -> Option<u64> {
    let mut parser = protocol.parser();
    let mut n_messages = 0;
    let mut held: [Vec<u8>; 2] = [Vec::new(), Vec::new()];
    let mut until_close = [false; 2];
    for (flow, bytes) in turns {
        let held = &mut held[flow.index()];
        let joined;
        let mut rest: &[u8] = if held.is_empty() {
            bytes
        } else {
            held.extend_from_slice(bytes);
            joined = std::mem::take(held);
            &joined
        };
        let mut n_idle = 0;
        while !rest.is_empty() && !until_close[flow.index()] {
            marks.clear();
            match parser.step(*flow, rest, marks) {
                Step::Consume { len } => {
                    n_idle = if len == 0 { n_idle + 1 } else { 0 };
                    rest = rest.get(usize::try_from(len).ok()?..)?;
                }
                Step::UntilClose => until_close[flow.index()] = true,
                Step::UntilTurn => rest = &[],
                Step::LookUntilTurn => {
                    parser.look(*flow, rest, marks);
                    rest = &[];
                }
                Step::NeedMore => {
                    held.extend_from_slice(rest);
                    rest = &[];
                }
                Step::Invalid(_) => return None,
            }
            n_messages += marks.iter().filter(|mark| matches!(mark, Mark::Begin(_))).count() as u64;
            if n_idle > 64
                || marks.iter().any(|mark| matches!(mark, Mark::Upgraded { .. } | Mark::Switch { .. }))
            {
                return None;
            }
        }
        black_box(&marks);
    }
    Some(n_messages)
}
