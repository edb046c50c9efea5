//! However the bytes of the captures are cut into calls, the whole pipeline finds the same transactions, but for their times.

use tracer_ebpf as abi;
use tracer_user::{
    event::{ConnShut, Event, Role},
    metrics::Counter,
    pipeline::PipelineConfig,
    protocol::Flow,
    time::BootTime,
    transaction::{TimeBasis, Transaction},
};

use crate::{
    captures::Line,
    cases::{IN, OUT, Script},
    looked_for::conversations,
};

/// Bytes of each call; the last of them is more than any turn has.
const SIZES: [usize; 9] = [1, 2, 3, 5, 9, 10, 64, 1000, usize::MAX];
/// Longest conversation that is sent byte by byte.
const MAX_BYTEWISE: usize = 20_000;

fn play(lines: &[Line], is_server: bool, size: usize) -> (Vec<Transaction>, [u64; 3]) {
    let mut script = Script::new(PipelineConfig { opaque_ports: vec![80], ..PipelineConfig::default() });
    script = script.open(if is_server { Role::Server } else { Role::Client }, 0);
    let direction = |flow| if (flow == Flow::Request) == is_server { IN } else { OUT };
    for line in lines {
        match line {
            Line::Bytes(flow, bytes) => {
                for piece in bytes.chunks(size) {
                    let data = script.data(direction(*flow), piece, usize::MAX);
                    script = script.push(data);
                }
            }
            Line::Close(flow) => {
                let (time, conn) = (BootTime(script.now), script.conn);
                let shut = ConnShut { time, conn, direction: direction(*flow) };
                script.pipeline.push(&Event::ConnShut(shut));
            }
            Line::Uncaptured(..) | Line::Lost(..) => unreachable!("left out"),
        }
    }
    let (mut transactions, script) = script.close(abi::CLOSE_NORMAL).end();
    transactions.sort_by_key(|one| one.ordinal);
    for one in &mut transactions {
        (one.start_time, one.end_time) = Default::default();
        (one.request_end, one.response_start, one.ttfb_ns) = (None, None, None);
        (one.duration_ns, one.seq, one.time_basis) = (0, 0, TimeBasis::Exit);
        if one.protocol == "http1" {
            // The events of an event stream are counted where each of its chunks comes in one call, and are not known otherwise.
            one.response_messages = None;
        }
    }
    let counters = [Counter::RequestsSeen, Counter::ParserGap, Counter::ParserInvalid];
    (transactions, counters.map(|counter| script.metrics.get(counter)))
}

/// The lines that are not the same.
fn difference(cut: &impl std::fmt::Debug, whole: &impl std::fmt::Debug) -> String {
    let (cut, whole) = (format!("{cut:#?}"), format!("{whole:#?}"));
    let lines = cut.lines().zip(whole.lines()).filter(|(cut, whole)| cut != whole);
    lines.take(6).map(|(cut, whole)| format!("{}, whole {}; ", cut.trim(), whole.trim())).collect()
}

#[test]
fn calls_of_any_size_give_the_same_transactions() {
    let (mut n_compared, mut different) = (0, Vec::new());
    for (idx, lines) in conversations().into_iter().enumerate() {
        let is_whole = lines.iter().all(|line| matches!(line, Line::Bytes(..) | Line::Close(_)));
        if !is_whole {
            continue;
        }
        let n_bytes: usize =
            lines.iter().map(|line| if let Line::Bytes(_, bytes) = line { bytes.len() } else { 0 }).sum();
        for is_server in [true, false] {
            let whole = play(&lines, is_server, usize::MAX);
            // What is skipped of bytes that are no protocol's may depend on how many came at once.
            if whole.1[2] > 0 {
                continue;
            }
            for size in SIZES.into_iter().filter(|size| *size > 3 || n_bytes < MAX_BYTEWISE) {
                let cut = play(&lines, is_server, size);
                if cut != whole {
                    different
                        .push(format!("conversation {idx} in calls of {size}: {}", difference(&cut, &whole)));
                }
                n_compared += 1;
            }
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
    assert!(n_compared > 1000, "{n_compared}");
}
