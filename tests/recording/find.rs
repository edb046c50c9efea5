//! Finding transactions in a recording: what `txray find` prints is what every row asked one by one gives and what DuckDB
//! gives on the same files, and row groups that cannot match are not read.

use std::{
    collections::BTreeSet,
    io::Write as _,
    process::{Command, Output, Stdio},
};

use tracer_user::{
    report::filter::Filter,
    sink::jsonl::write_transaction,
    source::recording::Reach,
    transaction::{Kind, Transaction},
};

use super::{versions::python, *};

const SECOND: u64 = 1_000_000_000;

/// Transaction `i` of a run with one each 100 ms; every field that filters name takes several values.
fn row(i: u64) -> Transaction {
    let end = START_NS + i * SECOND / 10;
    let duration = if i % 97 == 5 { 3 * SECOND + i } else { 200_000 + (i * 7_919) % 900_000 };
    Transaction {
        start_time: WallTime(end - duration),
        request_end: Some(WallTime(end - duration + 1_000)),
        end_time: WallTime(end),
        duration_ns: duration as i64,
        kind: if i % 13 == 6 { Kind::LongLived } else { Kind::Request },
        pid: 100 + (i % 3) as u32,
        service: ["상점", "cart", "it's"][i as usize % 3].into(),
        // Each hour has a port of its own.
        server_port: (!i.is_multiple_of(5)).then_some(8_080 + (i / 600) as u16),
        ..versions::transaction(i)
    }
}

/// Records transactions in parts of `part_rows`, one row group each as long as they are short, and leaves the recorder open:
/// the last part may be a journal yet.
pub fn recording_of(dir: &Path, transactions: &[Transaction], part_rows: u64) -> Recorder {
    let mut recorder =
        Recorder::start(RecordingConfig { rotate_rows: part_rows, ..config(dir) }, Metrics::default())
            .unwrap();
    let mut sink = recorder.transactions();
    recorder.checkpoint(state(0), 0);
    recorder.tap(&batch(0..100, 1_000_000));
    for transactions in transactions.chunks(usize::try_from(part_rows).unwrap()) {
        let transactions = transactions.to_vec();
        sink.write(&TransactionBatch { transactions, watermark: WallTime(0) }).unwrap();
        sink.finish().unwrap();
    }
    recorder
}

/// What `find` finds in a recording, as the subcommand goes about it.
pub fn find(dir: &Path, filter: &Filter, range: WallRange) -> (Vec<Transaction>, Reach) {
    let recording = Recording::open(dir).unwrap();
    let pruning = filter.clone();
    let mut rows = recording
        .transactions_of(range, Box::new(move |group| pruning.may_match(&|name| group.column(name))));
    let mut found: Vec<_> = (&mut rows).flat_map(Result::unwrap).collect();
    found.retain(|row| filter.matches(row));
    (found, rows.reach())
}

fn txray(dir: &Path, args: &[&str]) -> Output {
    run(&[&["find", dir.to_str().unwrap()], args].concat())
}

fn run(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_txray"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("TXRAY_")) {
        command.env_remove(name);
    }
    // The settings of whoever runs the tests say nothing here.
    command.env("XDG_CONFIG_HOME", "/nonexistent");
    command.args(args).stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// `--json` lines of rows.
fn lines(rows: impl IntoIterator<Item = Transaction>) -> String {
    let mut out = Vec::new();
    rows.into_iter().for_each(|row| write_transaction(&mut out, &row));
    text(&out)
}

#[test]
fn find_prints_the_rows_that_match_in_order_across_midnight_and_says_how_much_it_read() {
    // 2026-11-22T23:59:50Z.
    let midnight = |i: u64| {
        let later = 14 * 3_600 * SECOND - 9 * SECOND;
        let mut row = row(i);
        (row.start_time.0, row.end_time.0) = (row.start_time.0 + later, row.end_time.0 + later);
        row
    };
    let temp = tempfile::tempdir().unwrap();
    let rows: Vec<_> = (0..1_000).map(midnight).collect();
    let recorder = recording_of(temp.path(), &rows, 50);
    recorder.finish().unwrap();
    let output = txray(temp.path(), &["slow and not err", "--json"]);
    let want = rows.iter().filter(|row| row.duration_ns >= 3_000_000_000 && !row.error);
    assert_eq!(text(&output.stdout), lines(want.cloned()));
    assert_eq!(text(&output.stderr), "10 of 1,000 matched; 11 of 20 row groups read\n");
    assert_eq!(output.status.code(), Some(0));
    let range = ["--from", "2026-11-22T23:59:58Z", "--to", "2026-11-23T00:00:02.5+00:00", "--json"];
    let output = txray(temp.path(), &range);
    assert_eq!(text(&output.stdout), lines(rows[80..125].to_vec()));
    assert_eq!(text(&output.stderr), "45 of 1,000 matched; 2 of 20 row groups read\n");
    let output = txray(temp.path(), &["err", "--limit", "3", "--json"]);
    assert_eq!(text(&output.stdout), lines([0, 7, 14].map(midnight)));
    let last = "3 of 1,000 found, then stopped at --limit; 1 of 20 row groups read\n";
    assert_eq!(text(&output.stderr), last);
}

#[test]
fn slow_is_what_the_settings_file_says_in_find_in_replay_and_in_the_map() {
    let temp = tempfile::tempdir().unwrap();
    let (dir, settings) = (temp.path().join("rec"), temp.path().join("settings.toml"));
    let rows: Vec<_> = (0..2_000).map(row).collect();
    recording_of(&dir, &rows, 500).finish().unwrap();
    let (dir, settings) = (dir.to_str().unwrap(), settings.to_str().unwrap());
    let n_of = |args: &[&str]| {
        let output = run(&[args, &["--config", settings]].concat());
        text(&output.stdout).lines().count()
    };
    for (slow, ns) in [("off", 3_000_000_000), ("1ms", 1_000_000), ("3000000s", i64::MAX)] {
        std::fs::write(settings, format!("[screen]\nslow = '{slow}'\n")).unwrap();
        let n = rows.iter().filter(|row| row.duration_ns >= ns).count();
        assert_eq!(n_of(&["find", dir, "slow", "--json"]), n, "{slow}");
        assert_eq!(n_of(&["find", dir, "not slow", "--json"]), rows.len() - n, "{slow}");
        // Of this recording there is nothing to parse again: no rows, or a map without any.
        let map = run(&["map", dir, "--filter", "slow", "--format", "json", "--config", settings]);
        assert_eq!(map.status.code(), Some(if n == 0 { 1 } else { 0 }), "{slow}: {}", text(&map.stderr));
    }
    assert_eq!(txray(temp.path().join("rec").as_path(), &["slow", "--json"]).stdout, {
        let want = rows.iter().filter(|row| row.duration_ns >= 3_000_000_000);
        lines(want.cloned()).into_bytes()
    });
    // A fault tells what the word means here.
    std::fs::write(settings, "[screen]\nslow = '1ms'\n").unwrap();
    for args in [
        ["find", dir, "slou > 1", "--config", settings],
        ["replay", dir, "--filter=slou > 1", "--config", settings],
    ] {
        let output = run(&args);
        assert_eq!(output.status.code(), Some(2));
        assert!(text(&output.stderr).contains("slow (duration >= 1ms)"), "{}", text(&output.stderr));
    }
}

#[test]
fn find_takes_a_seq_or_an_id_and_reads_the_one_group_that_has_it() {
    let temp = tempfile::tempdir().unwrap();
    let rows: Vec<_> = (0..1_000).map(row).collect();
    recording_of(temp.path(), &rows, 50).finish().unwrap();
    let output = txray(temp.path(), &["--id", "777", "--json"]);
    assert_eq!(text(&output.stdout), lines([row(777)]));
    assert_eq!(text(&output.stderr), "1 of 1,000 matched; 1 of 20 row groups read\n");
    let output = txray(temp.path(), &["--id", &row(777).id(), "--json"]);
    assert_eq!(text(&output.stdout), lines([row(777)]));
    let output = txray(temp.path(), &["--id", "00000000deadbeef-1", "--json"]);
    assert_eq!(text(&output.stderr), "0 of 1,000 matched; 0 of 20 row groups read\n");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(txray(temp.path(), &["err", "--id", "777"]).status.code(), Some(0));
    assert_eq!(txray(temp.path(), &["not err", "--id", "777"]).status.code(), Some(1));
}

#[test]
fn find_shows_a_table_that_no_byte_from_the_network_gets_out_of() {
    let temp = tempfile::tempdir().unwrap();
    let hostile = Transaction { target: Some(Bytes::from_static(b"/\x1b[2J\xff")), ..row(1) };
    recording_of(temp.path(), &[row(0), hostile], 50).finish().unwrap();
    let output = txray(temp.path(), &[]);
    assert_eq!(
        text(&output.stdout),
        "      seq end                       elapsed   status   service          operation                        target\n        \
         0 2026-11-22T09:59:59.000Z    200us      503 s 상점             GET /item/{id}/0\n        \
         1 2026-11-22T09:59:59.100Z    208us      200 c cart             GET /item/{id}/1                 /\\u{1b}[2J\\xff\n"
    );
    assert_eq!(text(&output.stderr), "2 of 2 matched; 1 of 1 row groups read\n");
}

#[test]
fn the_table_leaves_secrets_out_of_targets_and_the_recording_and_json_have_them() {
    let temp = tempfile::tempdir().unwrap();
    let target = "/a?user=kim&access_token=s3cret&Signature=s3cret#x";
    let secret = Transaction { target: Some(Bytes::from(target)), ..row(1) };
    recording_of(temp.path(), std::slice::from_ref(&secret), 50).finish().unwrap();
    let table = text(&txray(temp.path(), &[]).stdout);
    assert!(table.contains("/a?user=kim&access_token=REDACTED&Signature=REDACTED#x\n"), "{table}");
    assert!(!table.contains("s3cret"), "{table}");
    assert_eq!(text(&txray(temp.path(), &["--json"]).stdout), lines([secret]));
    // What it was is still what it is found by.
    let output = txray(temp.path(), &["target ~ '**s3cret**'", "--json"]);
    assert!(text(&output.stdout).contains(target), "{}", text(&output.stderr));
}

#[test]
fn find_says_what_was_typed_wrong_and_what_to_do() {
    let temp = tempfile::tempdir().unwrap();
    recording_of(temp.path(), &[row(0)], 50).finish().unwrap();
    let fails = |dir: &Path, args: &[&str], words: &[&str]| {
        let output = txray(dir, args);
        let errors = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {errors}");
        assert_eq!(text(&output.stdout), "");
        words.iter().for_each(|word| assert!(errors.contains(word), "{args:?}: no {word:?} in {errors}"));
    };
    fails(
        temp.path(),
        &["err and dration > 1s"],
        &["column 9", "did you mean 'duration'?", "hint: for example"],
    );
    fails(temp.path(), &["--from", "noon"], &["'noon' is not a time such as 2026-08-21T14:03:07Z"]);
    fails(temp.path(), &["--from", "5", "--to", "5"], &["--from is not before --to", "hint: "]);
    fails(temp.path(), &["--id", "x"], &["neither a seq such as 4711 nor an id"]);
    fails(Path::new("/nowhere"), &[], &["recording /nowhere", "hint: name the folder"]);
}

#[test]
fn find_reads_files_that_are_still_being_written() {
    let temp = tempfile::tempdir().unwrap();
    let rows: Vec<_> = (20..50).map(row).collect();
    let recorder = recording_of(temp.path(), &rows, 1_000);
    let output = txray(temp.path(), &["status_code = 503", "--json"]);
    assert_eq!(text(&output.stdout), lines([21, 28, 35, 42, 49].map(row)));
    let last = "5 of 30 matched; 0 of 0 row groups read, and 1 file that is not sealed yet\n";
    assert_eq!(text(&output.stderr), last);
    // Sealed between the first look and the second.
    let listed = Recording::open(temp.path()).unwrap();
    recorder.finish().unwrap();
    let found: Vec<_> = listed.transactions(WallRange::default()).flat_map(Result::unwrap).collect();
    assert_eq!(lines(found), lines(rows));
}

#[test]
fn find_goes_on_behind_a_damaged_file_and_names_it() {
    let temp = tempfile::tempdir().unwrap();
    // The hour ends behind the tenth row.
    let rows: Vec<_> = (0..30).map(row).collect();
    recording_of(temp.path(), &rows, 1_000).finish().unwrap();
    let [first, second] = files(&temp.path().join("transactions"), ".parquet").try_into().unwrap();
    let mut bytes = std::fs::read(&first).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&first, bytes).unwrap();
    let output = txray(temp.path(), &["status_code = 503", "--json"]);
    assert_eq!(text(&output.stdout), lines([14, 21, 28].map(row)));
    assert_eq!(output.status.code(), Some(2));
    let errors = text(&output.stderr);
    assert!(
        errors.contains(first.to_str().unwrap()) && !errors.contains(second.to_str().unwrap()),
        "{errors}"
    );
    assert!(errors.contains("3 of 30 matched; 1 of 2 row groups read"), "{errors}");
    assert!(errors.contains("1 files of the recording"), "{errors}");
}

#[test]
fn a_reader_that_goes_away_ends_a_search_quietly() {
    let temp = tempfile::tempdir().unwrap();
    let rows: Vec<_> = (0..5_000).map(row).collect();
    recording_of(temp.path(), &rows, 10_000).finish().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_txray"))
        .arg("find")
        .arg(temp.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), String::new()));
}

/// Expressions, and the same in SQL: a comparison with a missing value is false here and unknown there.
const QUERIES: &[(&str, &str)] = &[
    ("duration >= 3s", "duration_ns >= 3000000000"),
    ("duration_ns < 300us or duration > 1090000ns", "duration_ns < 300000 or duration_ns > 1090000"),
    ("status_code != 200", "coalesce(status_code != 200, false)"),
    ("not status_code = 200", "not coalesce(status_code = 200, false)"),
    ("status_code = null and not err", "status_code is null and not error"),
    ("queue != null and queue <= 500ns", "coalesce(queue_ns <= 500, false)"),
    (
        "server_port in (8081, 8082, 1) and pid in (101)",
        "coalesce(server_port in (8081, 8082, 1), false) and pid = 101",
    ),
    (
        "not (server_port >= 8082 or ttfb = null)",
        "not (coalesce(server_port >= 8082, false) or ttfb_ns is null)",
    ),
    ("service = 상점 and role = server", "service = '상점' and role = 'server'"),
    (r"service in ('it\'s', nobody) and out", "service in ('it''s', 'nobody') and role = 'client'"),
    (
        "target ~ '/item/1*' and operation ~ 'GET /item/?id?/4'",
        "regexp_full_match(target, '/item/1[^/]*') and regexp_full_match(operation, 'GET /item/[^/]id[^/]/4')",
    ),
    (
        r"target =~ '^/item/[0-9]*7$' or comm =~ 'x'",
        "coalesce(regexp_matches(target, '^/item/[0-9]*7$'), false) or regexp_matches(comm, 'x')",
    ),
    ("not target ~ '/item/**'", "not coalesce(regexp_full_match(target, '/item/.*'), false)"),
    (
        "slow and err or async and not out",
        "duration_ns >= 3000000000 and error or kind = 'longlived' and role != 'client'",
    ),
    (
        "db or error_type = 503 and end != answered",
        "protocol in ('postgres', 'mysql', 'redis') or coalesce(error_type = '503', false) and \"end\" != 'answered'",
    ),
    (
        "client_addr < '10.0.1' and client_port > 40050",
        "client_addr < '10.0.1' and coalesce(client_port > 40050, false)",
    ),
    (
        "response_bytes >= 7KB and request_bytes != 1 MB",
        "response_bytes >= 7168 and request_bytes != 1048576",
    ),
    (
        "end_time >= '2026-11-22T10:01:00Z' and end_time < '2026-11-22T19:01:30+09:00'",
        "end_time_ns >= epoch_ns(timestamp '2026-11-22 10:01:00') and end_time_ns < epoch_ns(timestamp '2026-11-22 10:01:30')",
    ),
    (
        "seq <= 50 or id = '00abcdef00000003-7' or conn_id = 00abcdef00000005",
        "seq <= 50 or id = '00abcdef00000003-7' or conn_id = '00abcdef00000005'",
    ),
    (
        "tls.version = TLSv1.3 and tls_alpn != null or tls.sni ~ 'shop*' and not tls.library = openssl",
        "tls_version = 'TLSv1.3' and tls_alpn is not null or coalesce(regexp_full_match(tls_sni, 'shop.*'), false) and not coalesce(tls_library = 'openssl', false)",
    ),
    (
        "not tls.sni in ('shop1.example', 'shop3.example')",
        "not coalesce(tls_sni in ('shop1.example', 'shop3.example'), false)",
    ),
    ("tls.version = null and tls.sni != null", "tls_version is null and tls_sni is not null"),
    (
        "error = true and confidence = complete and time_basis != exit",
        "error and confidence = 'complete' and time_basis != 'exit'",
    ),
];

#[test]
fn find_gives_the_ids_that_duckdb_gives_on_the_same_files() {
    let temp = tempfile::tempdir().unwrap();
    let rows: Vec<_> = (0..5_000).map(row).collect();
    recording_of(temp.path(), &rows, 400).finish().unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/recording/find_ids.py");
    let mut duckdb = Command::new(python())
        .arg(script)
        .arg(temp.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let queries: String = QUERIES.iter().map(|(_, sql)| format!("{sql}\n")).collect();
    duckdb.stdin.take().unwrap().write_all(queries.as_bytes()).unwrap();
    let output = duckdb.wait_with_output().unwrap();
    assert!(output.status.success());
    let wanted: Vec<BTreeSet<String>> = text(&output.stdout)
        .lines()
        .map(|line| line.split_whitespace().map(str::to_owned).collect())
        .collect();
    assert_eq!(wanted.len(), QUERIES.len());
    for ((expression, sql), wanted) in QUERIES.iter().zip(wanted) {
        let output = txray(temp.path(), &[expression, "--json"]);
        let found: BTreeSet<String> = text(&output.stdout)
            .lines()
            .map(|line| {
                serde_json::from_str::<serde_json::Value>(line).unwrap()["id"].as_str().unwrap().to_owned()
            })
            .collect();
        assert_eq!(found, wanted, "{expression}\n{sql}\n{}", text(&output.stderr));
        assert!(!found.is_empty() && found.len() < rows.len(), "{expression} tells nothing apart");
    }
}
