//! `txray stacks` and `txray why` on a recording: the forms agree with each other and with the rows.

use std::process::{Command, Output, Stdio};

use tracer_user::{
    event::{Role, StackEnd},
    metrics::Metrics,
    schema::PayloadMode,
    sink::{
        Sink as _,
        recording::{Recorder, RecordingConfig},
    },
    time::WallTime,
    transaction::{
        End, Transaction, TransactionBatch,
        anatomy::{Anatomy, Causes, Reason},
        stacks::{StackPart, StackSum, frames_text},
    },
};

use crate::recording;

const START: u64 = 1_700_000_000_000_000_000;

/// Requests that compute and wait for a lock; every fourth one keeps nothing. The odd ones are slow.
fn transaction(i: u64) -> Transaction {
    let slow = if i % 2 == 1 { 10 } else { 1 };
    let stack = |part, ns: u64, frames: &[&str], end| StackSum {
        part,
        ns: ns * slow,
        count: slow,
        frames: frames_text(frames),
        end,
    };
    let (main, futex) = ("main+0x40 (shop)", StackPart::Off(Reason::Futex));
    let stacks = vec![
        stack(StackPart::OnCpu, 3_000_000, &["render+0x12 (shop)", main], StackEnd::Complete),
        stack(
            StackPart::OnCpu,
            1_000_000,
            &["memcpy+0x3 (libc.so.6)", "render+0x99 (shop)", main],
            StackEnd::Complete,
        ),
        stack(
            futex,
            5_000_000,
            &["futex_wait+0x9 (kernel)", "pthread_mutex_lock+0x7 (libc.so.6)", "cart::lock+0x1 (shop)", main],
            StackEnd::UnknownCaller,
        ),
    ];
    let mut off_ns = [0; Reason::ALL.len()];
    off_ns[Reason::Futex.index()] = 5_000_000 * slow;
    let anatomy = Anatomy { user_ns: 4_000_000 * slow, off_ns, ..Anatomy::default() };
    let stacks = if i.is_multiple_of(4) { Vec::new() } else { stacks };
    let duration = 10_000_000 * slow;
    let start = START + i * 1_000_000_000;
    Transaction {
        start_time: WallTime(start),
        end_time: WallTime(start + duration),
        duration_ns: duration as i64,
        role: Role::Server,
        protocol: "http1",
        operation: "GET /cart".into(),
        service: "shop".into(),
        comm: "shop".into(),
        end: End::Answered,
        status_code: Some(200),
        causes: Some(Box::new(Causes { anatomy: Some(anatomy), stacks, ..Causes::default() })),
        ordinal: i,
        seq: i,
        ..Transaction::default()
    }
}

fn recorded(rows: &[Transaction]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let config = RecordingConfig { payload: PayloadMode::None, ..recording::config(dir.path()) };
    let mut recorder = Recorder::start(config, Metrics::default()).unwrap();
    let mut sink = recorder.transactions();
    recorder.checkpoint(recording::state(0), 0);
    recorder.tap(&recording::batch(0..100, 1_000));
    let watermark = rows.last().unwrap().end_time;
    sink.write(&TransactionBatch { transactions: rows.to_vec(), watermark }).unwrap();
    sink.finish().unwrap();
    recorder.finish().unwrap();
    dir
}

fn txray(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_txray"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("TXRAY_")) {
        command.env_remove(name);
    }
    command.env("XDG_CONFIG_HOME", "/nonexistent").args(args).stdin(Stdio::null()).output().unwrap()
}

#[track_caller]
fn printed(args: &[&str]) -> String {
    let output = txray(args);
    assert_eq!(output.status.code(), Some(0), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_stacks_of_a_recording_are_printed_in_every_form_with_the_same_sums() {
    let rows: Vec<Transaction> = (0..100).map(transaction).collect();
    let dir = recorded(&rows);
    let path = dir.path().to_str().unwrap();
    insta::assert_snapshot!("tree", printed(&["stacks", path]));
    insta::assert_snapshot!(
        "on_top_2",
        printed(&["stacks", path, "--part", "on", "--top", "2", "--min-percent", "30"])
    );
    insta::assert_snapshot!(
        "diff",
        printed(&["stacks", path, "--filter", "duration >= 50ms", "--diff", "duration < 50ms"])
    );
    insta::assert_snapshot!("sandwich", printed(&["stacks", path, "--sandwich", "render"]));
    let stacks = rows.iter().filter_map(|row| row.causes.as_ref()?.stacks()).flatten();
    let ns: u64 = stacks.map(|stack| stack.ns).sum();
    let folded = printed(&["stacks", path, "--format", "folded"]);
    let of_line = |line: &str| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap();
    assert_eq!(folded.lines().map(of_line).sum::<u64>(), ns, "{folded}");
    let json = |format| -> serde_json::Value {
        serde_json::from_str(&printed(&["stacks", path, "--format", format])).unwrap()
    };
    assert_eq!(json("json")["nodes"][0]["external_ns"], ns);
    assert_eq!(json("speedscope")["profiles"][0]["endValue"], ns);
    let pprof = txray(&["stacks", path, "--format", "pprof"]);
    assert_eq!((pprof.status.code(), &pprof.stdout[..2]), (Some(0), &[0x1f, 0x8b][..]), "gzip");
    // The other ones first, then the selected ones, of one request each.
    let diff = [
        "stacks",
        path,
        "--part",
        "off",
        "--filter",
        "duration >= 50ms",
        "--diff",
        "duration < 50ms",
        "--format",
        "folded",
    ];
    assert_eq!(
        printed(&diff),
        "[unknown caller];main;cart::lock;pthread_mutex_lock;futex_wait_[k] 5000000 50000000\n"
    );
    // A range of time.
    let from = (START + 50 * 1_000_000_000).to_string();
    let half = printed(&["stacks", path, "--from", &from, "--format", "folded"]);
    assert!(half.lines().map(of_line).sum::<u64>() < ns);
}

#[test]
fn what_cannot_be_printed_is_told_with_a_way_out() {
    let dir = recorded(&(0..8).map(transaction).collect::<Vec<_>>());
    let path = dir.path().to_str().unwrap();
    let fails = |args: &[&str], code: i32, words: &str| {
        let output = txray(&[&["stacks", path], args].concat());
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {errors}");
        assert!(errors.contains(words), "{args:?}: {errors}");
    };
    fails(&["--sandwich", "nobody"], 2, "no stack has a function 'nobody'");
    fails(&["--sandwich", "m"], 2, "'m' is a part of 3 names: main, memcpy, pthread_mutex_lock");
    fails(&["--format", "pprof", "--diff", "err"], 2, "this form cannot say that");
    fails(&["--format", "folded", "--sandwich", "main"], 2, "this form cannot say that");
    fails(&["--filter", "dration > 1s"], 2, "did you mean 'duration'?");
    fails(&["--min-percent", "101"], 2, "it is from 0 to 100");
    fails(&["--filter", "duration > 1h", "--format", "folded"], 1, "0 of 0 requests have stacks");
    fails(&["--filter", "duration > 1h", "--sandwich", "main"], 1, "");
}

#[test]
fn why_says_where_the_longest_wait_was_and_what_was_computed() {
    let dir = recorded(&(0..8).map(transaction).collect::<Vec<_>>());
    let path = dir.path().to_str().unwrap();
    let lines = printed(&["why", path, "1"]);
    assert!(lines.contains("50.0ms of 100ms: waiting for a lock, at cart::lock (shop) (50.0ms)"), "{lines}");
    assert!(lines.contains("40.0ms of 100ms: on a CPU, 75 % of samples in render (shop)"), "{lines}");
    let without = printed(&["why", path, "4"]);
    assert!(without.contains("waiting for a lock\n") && !without.contains(" at "), "{without}");
}
