//! Traces made by hand: their trees and critical paths.

use proptest::prelude::*;

use super::*;
use crate::{
    event::ConnId,
    sink::compliance::transaction,
    transaction::{
        End,
        anatomy::{CallSum, Causes, Link},
    },
};

const ZERO: u64 = 1_700_000_000_000_000_000;

/// Number, number of its parent and how that is known, from when to when.
type Made = (u64, Option<(u64, LinkMethod)>, u64, u64);

fn row((number, parent, from, to): Made) -> Arc<Transaction> {
    let link = parent.map(|(parent, method)| Link { parent: of(parent), method });
    let role = match parent {
        Some((_, LinkMethod::Socket)) | None => Role::Server,
        _ => Role::Client,
    };
    Arc::new(Transaction {
        role,
        conn: ConnId(number),
        ordinal: 0,
        seq: number,
        service: format!("service-{}", number / 10).into(),
        operation: format!("GET /{number}").into(),
        start_time: WallTime(ZERO + from),
        end_time: WallTime(ZERO + to),
        duration_ns: to as i64 - from as i64,
        causes: link.map(|link| Box::new(Causes { link: Some(link), ..Causes::default() })),
        ..transaction(number)
    })
}

fn of(number: u64) -> CallId {
    CallId { conn: ConnId(number), ordinal: 0 }
}

fn trace(rows: &[Arc<Transaction>], shown: u64) -> Trace {
    let shown = rows.iter().find(|row| row.conn.0 == shown).unwrap();
    Trace::of(shown, |from| rows.iter().filter(move |row| row.end_time >= from))
}

/// Number, depth, own time on the critical path.
fn short(trace: &Trace) -> Vec<(u64, usize, Option<u64>)> {
    trace.spans.iter().map(|span| (span.row.conn.0, span.depth, span.critical_ns)).collect()
}

use LinkMethod::{Header, Order, Socket, Thread};

#[test]
fn a_chain_is_one_tree_wherever_it_is_entered() {
    let rows = [
        (1, None, 0, 100),
        (2, Some((1, Thread)), 10, 90),
        (20, Some((2, Socket)), 15, 85),
        (21, Some((20, Header)), 30, 60),
        (9, None, 0, 1_000),
    ]
    .map(row);
    let want = [(1, 0, Some(20)), (2, 1, Some(10)), (20, 2, Some(40)), (21, 3, Some(30))];
    for shown in [1, 2, 20, 21] {
        let trace = trace(&rows, shown);
        assert_eq!(short(&trace), want);
        assert_eq!(trace.spans[trace.shown].row.conn.0, shown);
        assert_eq!((trace.missing_parent, trace.n_more, trace.whole_ns()), (None, 0, 100));
    }
}

#[test]
fn of_calls_at_once_the_one_that_ended_last_is_waited_for() {
    // Two at once, then one behind them.
    let rows = [
        (1, None, 0, 100),
        (2, Some((1, Thread)), 10, 50),
        (3, Some((1, Thread)), 20, 40),
        (4, Some((1, Thread)), 60, 90),
    ]
    .map(row);
    assert_eq!(short(&trace(&rows, 1)), [(1, 0, Some(30)), (2, 1, Some(40)), (3, 1, None), (4, 1, Some(30))]);
    // One begins before the other has ended: what lies before it is not waited for, but what ended before it is.
    let rows = [
        (1, None, 0, 100),
        (2, Some((1, Thread)), 10, 60),
        (3, Some((1, Thread)), 50, 90),
        (4, Some((1, Thread)), 20, 30),
    ]
    .map(row);
    assert_eq!(short(&trace(&rows, 1)), [(1, 0, Some(50)), (2, 1, None), (4, 1, Some(10)), (3, 1, Some(40))]);
}

#[test]
fn what_ends_behind_its_span_was_not_waited_for_unless_it_is_its_other_end() {
    let rows = [
        (1, None, 0, 100),
        (2, Some((1, Thread)), 10, 130),
        (3, Some((1, Thread)), 20, 40),
        (30, Some((3, Socket)), 18, 45),
    ]
    .map(row);
    assert_eq!(short(&trace(&rows, 1)), [(1, 0, Some(80)), (2, 1, None), (3, 1, Some(0)), (30, 2, Some(20))]);
    let unended =
        Arc::new(Transaction { end: End::TracerStopped, ..(*row((2, Some((1, Thread)), 10, 90))).clone() });
    let rows = [row((1, None, 0, 100)), unended];
    let trace = trace(&rows, 1);
    assert_eq!(short(&trace), [(1, 0, Some(100)), (2, 1, None)]);
    assert!(trace.notes(Marks::ASCII).contains(&"> the end was not seen: 1 spans".to_owned()));
}

#[test]
fn what_is_missing_and_what_is_guessed_is_said() {
    let mut parent = (*row((1, Some((7, Header)), 0, 100))).clone();
    let calls = vec![CallSum { kind: "redis", peer: "10.0.0.9:6379".into(), count: 3, ns: 60 }];
    parent.causes.as_mut().unwrap().calls = calls;
    let rows = [Arc::new(parent), row((2, Some((1, Order)), 10, 30)), row((20, Some((2, Socket)), 12, 29))];
    let trace = trace(&rows, 20);
    assert_eq!(trace.missing_parent, Some(of(7)));
    assert_eq!(trace.spans[0].n_missing, 2);
    assert_eq!(
        trace.notes(Marks::ASCII),
        [
            "missing: what made the first one, 0000000000000007-0",
            "> the other end is not here: 1 calls",
            "missing: 2 calls that were counted",
            "`? a guess: its thread had received something for that last: 1 spans",
        ]
    );
    let lines = trace.waterfall(140, Marks::ASCII);
    assert_eq!(lines.iter().map(|line| line.is_guess).collect::<Vec<_>>(), [false, true, false]);
}

#[test]
fn a_loop_of_parents_ends() {
    let rows = [row((1, Some((2, Header)), 0, 100)), row((2, Some((1, Socket)), 0, 90))];
    assert_eq!(trace(&rows, 1).spans.len(), 2);
    let many: Vec<_> = (0..MAX_SPANS as u64 + 9)
        .map(|i| row((i, (i > 0).then_some((0, Thread)), 10 * i, 10 * i + 5)))
        .collect();
    let wide = trace(&many, 0);
    assert_eq!((wide.spans.len(), wide.n_more), (MAX_SPANS, 9));
    let deep: Vec<_> = (0..500).map(|i| row((i, (i > 0).then(|| (i - 1, Thread)), i, 2_000 - i))).collect();
    let deep = trace(&deep, 0);
    assert_eq!((deep.spans.len() as u64 + deep.n_more, deep.spans.len()), (500, MAX_DEPTH + 1));
}

#[test]
fn the_waterfall_is_exactly_this() {
    let ms = |ms: u64| ms * 1_000_000;
    let rows = [
        (10, None, 0, ms(100)),
        (11, Some((10, Thread)), ms(10), ms(60)),
        (20, Some((11, Socket)), ms(12), ms(58)),
        (21, Some((20, Order)), ms(20), ms(50)),
        (12, Some((10, Header)), ms(15), ms(40)),
    ]
    .map(row);
    let rows = rows.map(|row| Arc::new(Transaction { trace_id: Some("4bf92f".into()), ..(*row).clone() }));
    let trace = trace(&rows, 20);
    insta::assert_snapshot!("trace", trace.text(150, Marks::UNICODE));
    insta::assert_snapshot!("trace_ascii", trace.text(100, Marks::ASCII));
    let json = String::from_utf8(trace.json()).unwrap();
    insta::assert_snapshot!("trace_json", json.replace("},{", "},\n{"));
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(value["spans"].as_array().unwrap().len(), 5);
}

proptest! {
    /// Whatever lies where: each instant of the root is the own time of one span.
    #[test]
    fn the_own_times_on_the_path_are_the_whole(
        spans in prop::collection::vec((0..12_u64, 0..4_usize, -20..220_i64, 0..120_u64), 0..30),
    ) {
        let mut rows = vec![row((0, None, 100, 200))];
        for (i, (parent, method, from, took)) in spans.into_iter().enumerate() {
            let from = from.max(0).unsigned_abs();
            let parent = parent.min(i as u64);
            rows.push(row((i as u64 + 1, Some((parent, LinkMethod::ALL[method])), from, from + took)));
        }
        let trace = trace(&rows, 0);
        prop_assert_eq!(trace.spans.len(), rows.len());
        let sum: u64 = trace.spans.iter().filter_map(|span| span.critical_ns).sum();
        prop_assert_eq!(sum, trace.whole_ns());
        for span in trace.spans.iter().filter(|span| span.critical_ns.is_some()) {
            prop_assert!(span.parent.is_none_or(|parent| trace.spans[parent].critical_ns.is_some()));
        }
    }
}
