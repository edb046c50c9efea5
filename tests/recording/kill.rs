//! kill -9 at any instant: at most the last moments are missing, nothing is doubled, everything opens.
//!
//! How much may be missing is told by the recorder's own order of things, not by the machine's speed: the child taps a
//! batch only after the recorder has taken the one before, and the recorder looks at its clock after each.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use tracer_user::{
    sink::rollup::{RollupSink, SharedRollups},
    source::{rollups::rollups_of, synthetic::Random},
    transaction::{Transaction, rollup::Interval},
};

use super::*;

/// Set in the child process that records until it is killed.
const CHILD: &str = "TXRAY_TEST_RECORD_INTO";
const STEP_NS: u64 = 10_000;
const FLUSH_US: u64 = 50_000;

/// Not a test of its own: the process that the test below kills. Does nothing unless it is that process.
#[test]
fn child_records_until_it_is_killed() {
    let Some(dir) = std::env::var_os(CHILD) else { return };
    let config = RecordingConfig {
        rotate_rows: 4_000,
        checkpoint_rows: 900,
        flush_after: Duration::from_micros(FLUSH_US),
        ..config(Path::new(&dir))
    };
    let mut recorder = Recorder::start(config, Metrics::default()).unwrap();
    let mut sink = recorder.transactions();
    let mut rollups = RollupSink::new(SharedRollups::default(), Some(recorder.rollups()));
    let start = Instant::now();
    for first in (0..).step_by(100) {
        if recorder.wants_checkpoint() {
            recorder.checkpoint(state(first), first);
        }
        let before_us = start.elapsed().as_micros();
        tap_and_wait(&mut recorder, batch(first..first + 100, STEP_NS));
        let transactions = vec![versions::transaction(first / 100)];
        let batch = TransactionBatch { transactions, watermark: WallTime(0) };
        sink.write(&batch).unwrap();
        rollups.write(&in_seconds(&batch.transactions)).unwrap();
        rollups.advance(second(first / 100 + 1)).unwrap();
        println!("tapped {} {before_us}", first + 100);
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The same transaction, one in each second.
fn in_seconds(transactions: &[Transaction]) -> TransactionBatch {
    let at = |row: &Transaction| Transaction { end_time: second(row.seq), ..row.clone() };
    TransactionBatch { transactions: transactions.iter().map(at).collect(), watermark: WallTime(0) }
}

fn second(i: u64) -> WallTime {
    WallTime(START_NS + i * 1_000_000_000)
}

/// The seconds that are recorded: each with its number and what it counted.
fn seconds(dir: &Path) -> Vec<(u64, u64)> {
    let all = WallRange { from: WallTime(START_NS), to: second(3_600) };
    let read = rollups_of(dir, all, 1_000_000_000).unwrap();
    assert!(read.faults.is_empty(), "{:?}", read.faults);
    let count = |interval: &Interval| interval.rows.iter().map(|row| row.sums.count).sum();
    let number = |interval: &Interval| (interval.start.0 - START_NS) / 1_000_000_000;
    read.columns.iter().map(|interval| (number(interval), count(interval))).collect()
}

/// The batches that the recorder has taken, by what the child said: number of events so far, and when the last of them
/// began to be tapped, µs.
fn tapped(line: &str) -> Option<(u64, u64)> {
    let (n, at) = line.rsplit("tapped ").next()?.split_once(' ')?;
    Some((n.parse().ok()?, at.parse().ok()?))
}

/// How many events must be in files when these batches were the last that the child spoke of. Once the recorder has
/// taken the last one, it has looked at its clock after the one before: what had waited for longer than it may was
/// written then. A batch begins to wait before the second one behind it begins to be tapped.
fn written(tapped: &[(u64, u64)]) -> u64 {
    let Some([(_, looked_us), _]) = tapped.last_chunk() else { return 0 };
    let waits_since = tapped.iter().zip(tapped.iter().skip(2));
    waits_since
        .take_while(|(_, (_, before_us))| before_us + FLUSH_US < *looked_us)
        .last()
        .map_or(0, |((n, _), _)| *n)
}

#[test]
fn kill_at_fifty_instants_loses_no_more_than_the_last_second() {
    // What is true of this child is true of a run: it hands rows over several times a second.
    assert!(RecordingConfig::new("".into()).flush_after < Duration::from_secs(1));
    let (mut rotations, mut left_journals, mut n_within) = (0, 0, 0);
    let mut random = Random(1);
    for round in 0..50_u64 {
        let temp = tempfile::tempdir().unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "recording::kill::child_records_until_it_is_killed", "--nocapture"])
            .env(CHILD, temp.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        // Uneven, so that the rotations (every 40 batches or more) are hit at every step of theirs.
        let n_batches = 60 + 10 * round as usize;
        let mut taken: Vec<(u64, u64)> =
            lines.by_ref().filter_map(|line| tapped(&line)).take(n_batches).collect();
        std::thread::sleep(Duration::from_micros(round * 7_919 % 2_003));
        child.kill().unwrap();
        child.wait().unwrap();
        taken.extend(lines.filter_map(|line| tapped(&line)));
        assert!(taken.len() >= n_batches, "the child ended by itself");
        let must = written(&taken);
        assert!(must > 0, "{taken:?}");

        // As it was left.
        let n_journals = files(temp.path(), ".journal").len();
        let before = all(temp.path());
        let n = before.events.len() as u64;
        assert_accounted(&before, n, STEP_NS);
        assert!(n >= must && before.losses.is_empty(), "{n} events, {must} were written: {taken:?}");
        assert_eq!(before.faults, Vec::<String>::new());
        n_within += checkpoints::assert_begins(temp.path(), n, STEP_NS, 3, &mut random);
        let checkpoints = checkpoints::listed(&Recording::open(temp.path()).unwrap().runs[0]);
        let transactions = versions::transactions(temp.path());
        let rollups = seconds(temp.path());

        // Recovered.
        let report = recover(temp.path()).unwrap();
        assert!(report.faults.is_empty(), "{:?}", report.faults);
        assert!(report.sealed.len() + report.n_deleted >= n_journals);
        assert_eq!(all(temp.path()), before);
        let run = &Recording::open(temp.path()).unwrap().runs[0];
        assert_eq!(checkpoints::listed(run), checkpoints);
        n_within += checkpoints::assert_begins(temp.path(), n, STEP_NS, 3, &mut random);
        assert_eq!(versions::transactions(temp.path()), transactions);
        for (i, transaction) in transactions.iter().enumerate() {
            assert_eq!(*transaction, versions::transaction(i as u64), "each once, in order");
        }
        // A second is handed over as soon as it is over: all but those of which the child had not spoken yet.
        assert_eq!(seconds(temp.path()), rollups);
        let n_seconds = rollups.len() as u64;
        assert_eq!(rollups, (0..n_seconds).map(|second| (second, 1)).collect::<Vec<_>>());
        assert!(n_seconds + 1 >= taken.len() as u64, "{n_seconds} of {}", taken.len());
        assert!(files(temp.path(), ".journal").is_empty() && files(temp.path(), ".tmp").is_empty());
        rotations += files(&temp.path().join("events"), ".parquet").len() - 1;
        left_journals += n_journals;

        // A recording can go on in it.
        if round.is_multiple_of(10) {
            Recorder::start(config(temp.path()), Metrics::default()).unwrap().finish().unwrap();
        }
    }
    // How many parts there are, so how many instants lie in one with a checkpoint, is up to the machine's speed: 120 were seen on
    // a slow one.
    assert!(n_within > 40, "{n_within} of 300 instants begin within a part: shows little");
    assert!(
        rotations > 50 && left_journals > 50,
        "{rotations} rotations, {left_journals} journals: shows little"
    );
}
