//! Row groups that are left out: never one that holds a match, whatever the rows and the filter; and those that hold none
//! are left out indeed.

use std::{borrow::Cow, sync::Arc};

use proptest::{
    prelude::*,
    sample::select,
    test_runner::{Config, TestRunner},
};
use tracer_user::{
    event::Role,
    protocol::TlsFacts,
    report::filter::{Filter, Thresholds},
    schema::file::TRANSACTION_GROUP_ROWS,
    transaction::{Confidence, End, Kind, Transaction},
};

use super::{
    find::{find, recording_of},
    *,
};

/// Rows of a part in the property's recordings, and so of a row group.
const PART_ROWS: usize = 7;

/// Transaction `i`, its fields picked by `bytes`: mostly one value for a whole group, so that groups differ.
fn picked(i: usize, bytes: [u8; 20]) -> Transaction {
    let pick = |field: usize| -> usize {
        let byte = usize::from(bytes[field]);
        if byte < 216 { i / PART_ROWS * 31 + field } else { byte }
    };
    fn of<T: Copy>(values: &[T], pick: usize) -> T {
        values[pick % values.len()]
    }
    let end = START_NS + 500_000_000 + i as u64 * 1_000_000;
    let is_inside = of(&[false, true, false], pick(1));
    let facts = TlsFacts { library: Some("openssl".into()), ..TlsFacts::default() };
    Transaction {
        start_time: WallTime(end - 1_000),
        request_end: of(&[None, Some(WallTime(end - 900)), Some(WallTime(7))], pick(0)),
        response_start: of(&[None, Some(WallTime(end - 500))], pick(1)),
        end_time: WallTime(end),
        duration_ns: of(&[-5, 0, 1_000, 2_000_000, 3_000_000_000, i64::MAX], pick(2)),
        ttfb_ns: of(&[None, Some(0), Some(2_000_000)], pick(3)),
        queue_ns: of(&[None, Some(5)], pick(4)),
        kind: of(Kind::ALL, pick(5)),
        role: of(&[Role::Client, Role::Server, Role::Unknown], pick(6)),
        operation: of(&["GET /a", "GET /a/{id}", "POST /b", ""], pick(7)).into(),
        target: of(&[None, Some(&b"/a"[..]), Some(b"/a/1"), Some(b"/b\xff")], pick(8))
            .map(Bytes::from_static),
        status_code: of(&[None, Some(200), Some(404), Some(503)], pick(9)),
        error: of(&[false, true], pick(10)),
        error_type: of(&[None, Some("503"), Some("timeout")], pick(11)).map(Cow::Borrowed),
        pid: of(&[1, 2, 3], pick(12)),
        service: of(&["shop", "cart", ""], pick(13)).into(),
        client_addr: of(&["", "10.0.0.7", "unix:/run/a"], pick(14)).into(),
        client_port: of(&[None, Some(80), Some(8_080)], pick(15)),
        server_addr: of(&["", "10.0.0.7"], pick(16)).into(),
        request_bytes: of(&[0, 80, 4_096], pick(17)),
        end: of(End::ALL, pick(18)),
        confidence: of(Confidence::ALL, pick(19)),
        conn: ConnId(i as u64 / 10),
        carrier: is_inside.then_some(ConnId(0xffff)),
        tls: is_inside.then(|| Arc::new(facts)),
        ordinal: i as u64 % 10,
        seq: i as u64,
        ..versions::transaction(0)
    }
}

/// Fields with values of theirs, and some that no row has.
const NUMBERS: &[(&str, &[&str])] = &[
    ("duration", &["-5ns", "0", "1us", "2ms", "3s", "4s", "9223372036854775807ns"]),
    ("ttfb", &["0", "1ms", "2ms"]),
    ("queue", &["5ns", "6ns"]),
    ("status_code", &["200", "404", "500", "503"]),
    ("pid", &["0", "1", "2", "3"]),
    ("client_port", &["80", "443", "8080"]),
    ("request_bytes", &["0", "80", "4KB"]),
    ("seq", &["0", "20", "60", "1000"]),
    ("end_time", &["'2026-11-22T09:59:59.52Z'", "'2026-11-22T09:59:59.56Z'", "1795341599570000000"]),
    ("request_end", &["7", "'2026-11-22T09:59:59.53Z'"]),
    ("response_start", &["'2026-11-22T09:59:59.55Z'"]),
];
const TEXTS: &[(&str, &[&str])] = &[
    ("kind", &["request", "longlived", "opaque"]),
    ("role", &["client", "server"]),
    ("protocol", &["http1", "redis", "unknown"]),
    ("operation", &["'GET /a'", "'POST /b'", "'GET **'", "''"]),
    ("target", &["/a", "'/a/*'", r"'/b\\\\xff'", "'/**'"]),
    ("error_type", &["503", "timeout", "'t*'"]),
    ("service", &["shop", "cart", "''", "'s*'"]),
    ("client_addr", &["''", "10.0.0.7", "'unix:*'"]),
    ("server_addr", &["''", "10.0.0.7"]),
    ("end", &["answered", "reset", "tracer_stopped"]),
    ("confidence", &["complete", "gap"]),
    ("conn_id", &["0000000000000000", "0000000000000004", "000000000000ffff"]),
    ("tls_library", &["openssl", "gnutls"]),
    ("id", &["0000000000000000-3", "0000000000000004-9", "odd"]),
];
const ORDERS: &[&str] = &["=", "!=", "<", "<=", ">", ">="];

fn comparison() -> impl Strategy<Value = String> {
    let one = |fields: &'static [(&str, &[&str])], operators: Vec<&'static str>| {
        (select(fields), select(operators)).prop_flat_map(|((field, values), operator)| {
            select(values).prop_map(move |value| format!("{field} {operator} {value}"))
        })
    };
    let list = |fields: &'static [(&str, &[&str])]| {
        select(fields).prop_flat_map(|(field, values)| {
            prop::collection::vec(select(values), 1..4)
                .prop_map(move |values| format!("{field} in ({})", values.join(", ")))
        })
    };
    let all: Vec<&str> = NUMBERS.iter().chain(TEXTS).map(|(field, _)| *field).collect();
    prop_oneof![
        4 => one(NUMBERS, ORDERS.to_vec()),
        4 => one(TEXTS, [ORDERS, &["~", "=~"]].concat()),
        1 => list(NUMBERS),
        1 => list(TEXTS),
        1 => (select(all), select(vec!["=", "!="])).prop_map(|(field, operator)| format!("{field} {operator} null")),
        1 => select(vec!["slow", "err", "db", "out", "async", "error != true", "error < true", "error = null"])
            .prop_map(str::to_owned),
    ]
}

fn expression() -> impl Strategy<Value = String> {
    comparison().prop_recursive(4, 16, 2, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a} and {b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a} or {b})")),
            inner.prop_map(|a| format!("not ({a})")),
        ]
    })
}

#[test]
fn no_row_group_that_holds_a_match_is_left_out_whatever_the_rows_and_the_filter() {
    let strategy = (
        prop::collection::vec(any::<[u8; 20]>(), 1..100),
        prop::collection::vec(expression(), 40),
        prop::option::of((0_u64..100, 0_u64..100)),
    );
    let (mut n_all, mut n_read) = (0, 0);
    let config = Config { cases: 24, failure_persistence: None, ..Config::default() };
    let sums = std::cell::RefCell::new((&mut n_all, &mut n_read));
    let checked = TestRunner::new(config).run(&strategy, |(bytes, expressions, times)| {
        let rows: Vec<_> = bytes.into_iter().enumerate().map(|(i, bytes)| picked(i, bytes)).collect();
        let end = |i: u64| WallTime(START_NS + 500_000_000 + i * 1_000_000);
        let range = times
            .map_or_else(WallRange::default, |(from, n)| WallRange { from: end(from), to: end(from + n) });
        let temp = tempfile::tempdir().unwrap();
        let recorder = recording_of(temp.path(), &rows, PART_ROWS as u64);
        let check = |expression: &str| {
            let filter = Filter::parse(expression, Thresholds::default()).unwrap();
            let matching =
                |row: &&Transaction| filter.matches(row) && (range.from..range.to).contains(&row.end_time);
            let wanted: Vec<u64> = rows.iter().filter(matching).map(|row| row.seq).collect();
            let (found, reach) = find(temp.path(), &filter, range);
            let found: Vec<u64> = found.iter().map(|row| row.seq).collect();
            prop_assert_eq!(found, wanted, "{}", expression);
            prop_assert_eq!(reach.n_rows, rows.len() as u64);
            Ok(reach)
        };
        // While parts are being sealed.
        check(&expressions[0])?;
        recorder.finish().unwrap();
        for expression in &expressions {
            let reach = check(expression)?;
            prop_assert_eq!(reach.n_groups, rows.len().div_ceil(PART_ROWS));
            let (n_all, n_read) = &mut *sums.borrow_mut();
            **n_all += reach.n_groups;
            **n_read += reach.n_groups_read;
        }
        Ok(())
    });
    if let Err(error) = checked {
        panic!("{error}");
    }
    assert!(n_read < n_all * 3 / 4, "{n_read} of {n_all} were read: nothing is left out");
}

/// Five groups, the last one half full; what is rare is in one of them.
fn groups() -> Vec<Transaction> {
    let rare = |i: usize, group: usize| i == group * TRANSACTION_GROUP_ROWS + 77;
    (0..TRANSACTION_GROUP_ROWS * 9 / 2)
        .map(|i| {
            let end = START_NS + SECOND + i as u64 * 1_000;
            let duration = if rare(i, 1) { 3_100_000_000 } else { 1_000_000 + i as u64 % 1_000 };
            Transaction {
                start_time: WallTime(end - duration),
                end_time: WallTime(end),
                duration_ns: duration as i64,
                ttfb_ns: rare(i, 0).then_some(5),
                queue_ns: Some(0),
                status_code: (!rare(i, 4)).then_some(if rare(i, 3) { 500 } else { 200 }),
                error: rare(i, 3),
                error_type: rare(i, 3).then_some("500".into()),
                pid: if rare(i, 2) { 9 } else { 100 },
                service: if rare(i, 4) { "payment" } else { "shop" }.into(),
                server_port: Some(if rare(i, 2) { 81 } else { 80 }),
                client_addr: if rare(i, 1) { "" } else { "10.0.0.7" }.into(),
                // So long that a dictionary does not hold them all.
                target: Some(Bytes::from(format!("/{i:0>100}"))),
                conn: ConnId(if rare(i, 0) { 0xbeef } else { 0xcafe }),
                ordinal: i as u64,
                seq: i as u64,
                ..versions::transaction(0)
            }
        })
        .collect()
}

const SECOND: u64 = 1_000_000_000;

#[test]
fn a_selective_filter_reads_exactly_the_row_groups_that_may_hold_a_match() {
    let temp = tempfile::tempdir().unwrap();
    let rows = groups();
    recording_of(temp.path(), &rows, 1 << 30).finish().unwrap();
    assert_eq!(files(&temp.path().join("transactions"), ".parquet").len(), 1);
    let read = |expression: &str, range: WallRange| {
        let filter = Filter::parse(expression, Thresholds::default()).unwrap();
        let (found, reach) = find(temp.path(), &filter, range);
        let matching =
            |row: &&Transaction| filter.matches(row) && (range.from..range.to).contains(&row.end_time);
        assert_eq!(found.len(), rows.iter().filter(matching).count(), "{expression}");
        assert_eq!((reach.n_groups, reach.n_rows), (5, rows.len() as u64));
        reach.n_groups_read
    };
    for (expression, n) in [
        ("duration > 0", 5),
        // By their ranges.
        ("slow", 1),
        ("not duration < 3s", 1),
        ("duration >= 2s and duration <= 1ms", 1),
        ("duration > 3s or status_code >= 500", 2),
        ("duration > 3s and status_code >= 500", 0),
        ("status_code != 200", 1),
        ("not status_code = 200", 2),
        ("status_code = null", 1),
        ("ttfb != null", 1),
        ("err", 1),
        ("error != false and not slow", 1),
        ("queue > 0", 0),
        ("seq = 5", 1),
        // By their dictionaries.
        ("status_code in (404, 500)", 1),
        ("status_code = 404", 0),
        ("pid = 9", 1),
        ("pid = 50", 0),
        ("server_port in (79, 81)", 1),
        ("service = payment", 1),
        ("service ~ 'pay*'", 1),
        ("service =~ 'n.$' or slow", 2),
        ("service > shop", 0),
        ("not (service = shop)", 1),
        ("client_addr = null", 1),
        ("client_addr = ''", 0),
        ("error_type = 500", 1),
        ("error_type != null", 1),
        ("db", 0),
        ("conn_id = 000000000000beef", 1),
        ("id = '000000000000beef-77'", 1),
        ("id in ('000000000000beef-77', '000000000000f00d-1')", 1),
        ("id = odd", 0),
        // Nobody knows the values of these: each row is looked at.
        ("id ~ '*-77'", 5),
        // But of the half group, whose dictionary is whole.
        ("target ~ '**3777'", 4),
    ] {
        assert_eq!(read(expression, WallRange::default()), n, "{expression}");
    }
    let end = |i: usize| rows[i].end_time;
    let group = TRANSACTION_GROUP_ROWS;
    for (from, to, n) in [
        (end(group), end(2 * group), 1),
        (end(group - 1), end(2 * group), 2),
        (end(group), WallTime(end(2 * group).0 + 1), 2),
        (WallTime(0), end(0), 0),
        (end(4 * group), WallTime(u64::MAX), 1),
    ] {
        assert_eq!(read("duration > 0", WallRange { from, to }), n, "{from:?} {to:?}");
    }
    assert_eq!(read("slow", WallRange { from: end(2 * group), to: WallTime(u64::MAX) }), 0);
}

#[test]
fn a_row_behind_a_step_back_of_the_wall_clock_is_found_by_its_time() {
    let temp = tempfile::tempdir().unwrap();
    let at = |i: u64, second: u64| Transaction {
        end_time: WallTime(START_NS + second * SECOND),
        seq: i,
        ..versions::transaction(i)
    };
    let rows = [at(0, 600), at(1, 610), at(2, 300), at(3, 310)];
    let recorder = recording_of(temp.path(), &rows, 1_000);
    let range = WallRange { from: rows[2].end_time, to: rows[3].end_time };
    let filter = Filter::parse("pid = 100", Thresholds::default()).unwrap();
    assert_eq!(find(temp.path(), &filter, range).0[0].seq, 2);
    recorder.finish().unwrap();
    assert_eq!(find(temp.path(), &filter, range).0[0].seq, 2);
}
