//! kill -9 at any instant: at most the last moments are missing, nothing is doubled, everything opens.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use super::*;

/// Set in the child process that records until it is killed.
const CHILD: &str = "TXRAY_TEST_RECORD_INTO";
const STEP_NS: u64 = 10_000;
const FLUSH_MS: u64 = 50;

/// Not a test of its own: the process that the test below kills. Does nothing unless it is that process.
#[test]
fn child_records_until_it_is_killed() {
    let Some(dir) = std::env::var_os(CHILD) else { return };
    let config = RecordingConfig {
        rotate_rows: 4_000,
        flush_after: Duration::from_millis(FLUSH_MS),
        ..config(Path::new(&dir))
    };
    let mut recorder = Recorder::start(config, Metrics::default()).unwrap();
    let mut sink = recorder.transactions();
    for first in (0..).step_by(100) {
        if recorder.wants_checkpoint() {
            recorder.checkpoint(state(first), first);
        }
        recorder.tap(&batch(first..first + 100, STEP_NS));
        let transactions = vec![versions::transaction(first / 100)];
        sink.write(&TransactionBatch { transactions, watermark: WallTime(0) }).unwrap();
        // Said only after it was tapped: with the time, the parent knows what must be there.
        println!("tapped {}", first + 100);
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn kill_at_fifty_instants_loses_no_more_than_the_last_second() {
    let mut rotations = 0;
    let mut left_journals = 0;
    for round in 0..50_u64 {
        let temp = tempfile::tempdir().unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "recording::kill::child_records_until_it_is_killed", "--nocapture"])
            .env(CHILD, temp.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let reader = std::thread::spawn(move || {
            lines
                .map_while(Result::ok)
                .filter_map(|line| {
                    Some((Instant::now(), line.rsplit("tapped ").next()?.parse::<u64>().ok()?))
                })
                .collect::<Vec<_>>()
        });
        // Uneven, so that the rotations (every 40 batches or so) are hit at every step of theirs.
        std::thread::sleep(Duration::from_micros(60_000 + round * 7_919 + round * round * 97));
        child.kill().unwrap();
        let killed = Instant::now();
        child.wait().unwrap();
        let tapped = reader.join().unwrap();
        let Some((_, last)) = tapped.last() else { continue };
        let must = tapped
            .iter()
            .rfind(|(at, _)| killed.duration_since(*at) > Duration::from_secs(1))
            .map_or(0, |(_, n)| *n);

        // As it was left.
        if Recording::open(temp.path()).is_err() {
            assert_eq!(must, 0, "{last} events were tapped, and nothing is there");
            continue;
        }
        let n_journals = files(temp.path(), ".journal").len();
        let before = all(temp.path());
        let n = before.events.len() as u64;
        assert_accounted(&before, n, STEP_NS);
        assert!(
            n >= must && before.losses.is_empty(),
            "{n} events of {last}, {must} are older than a second"
        );
        assert_eq!(before.faults, Vec::<String>::new());
        let transactions = versions::transactions(temp.path());

        // Recovered.
        let report = recover(temp.path()).unwrap();
        assert!(report.faults.is_empty(), "{:?}", report.faults);
        assert!(report.sealed.len() + report.n_deleted >= n_journals);
        assert_eq!(all(temp.path()), before);
        assert_eq!(versions::transactions(temp.path()), transactions);
        for (i, transaction) in transactions.iter().enumerate() {
            assert_eq!(*transaction, versions::transaction(i as u64), "each once, in order");
        }
        assert!(files(temp.path(), ".journal").is_empty() && files(temp.path(), ".tmp").is_empty());
        rotations += files(&temp.path().join("events"), ".parquet").len() - 1;
        left_journals += n_journals;

        // A recording can go on in it.
        if round.is_multiple_of(10) {
            Recorder::start(config(temp.path()), Metrics::default()).unwrap().finish().unwrap();
        }
    }
    assert!(
        rotations > 50 && left_journals > 50,
        "{rotations} rotations, {left_journals} journals: shows little"
    );
}
