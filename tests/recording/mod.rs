//! Recordings: what is recorded comes back, whatever kills, fills, damages or trims them on the way.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use tracer_user::{
    event::{ConnId, ConnOpen, Data, Event, EventBatch, Loss, LossReason, ProcessFacts},
    metrics::{Counter, Metrics},
    schema::{
        PayloadMode,
        file::{SealedFile, SealedWriter},
    },
    sink::{
        Sink as _,
        recording::{Recorder, RecorderSummary, RecordingConfig, recover},
    },
    source::{
        Source as _,
        recording::Recording,
        replay::ReplaySource,
        synthetic::{Synthetic, SyntheticConfig},
    },
    time::{Anchor, BootTime, WallTime},
    transaction::{TransactionBatch, WallRange},
};

pub mod checkpoints;
mod damage;
mod disk;
mod find;
mod kill;
mod prune;
mod rollups;
mod versions;

/// 2026-11-22T09:59:59Z.
pub const START_NS: u64 = 1_795_341_599_000_000_000;
/// Boot time of it.
pub const BOOT_NS: u64 = 5_000_000_000;

/// Event `i` of a run that has one each `step_ns`: an anchor first, then opens, facts, ticks, and data most of all.
pub fn event(i: u64, step_ns: u64) -> Event {
    let time = BootTime(BOOT_NS + i * step_ns);
    let conn = ConnId(0x4000 + i % 50);
    match i {
        0 => Event::Anchor(Anchor { boot: time, wall: WallTime(START_NS) }),
        i if i % 101 == 1 => Event::ConnOpen(ConnOpen { time, conn, inode: i, ..ConnOpen::default() }),
        i if i % 103 == 2 => Event::Tick(time),
        i if i % 107 == 3 => Event::ProcessFacts(ProcessFacts {
            time,
            pid: 7,
            service: "shop".into(),
            ..ProcessFacts::default()
        }),
        i => Event::Data(Data {
            time,
            first: BootTime(time.0 - 900 - i % 64),
            conn,
            position: i * 300,
            bytes: 200 + i % 7,
            turn: i as u32,
            pid: 7,
            tid: 70 + (i % 4) as u32,
            n_calls: 1,
            comm: *b"shop\0\0\0\0\0\0\0\0\0\0\0\0",
            payload: Bytes::from(format!("GET /item/{i} HTTP/1.1\r\nHost: shop\r\nUser-Agent: test\r\n\r\n")),
            ..Data::default()
        }),
    }
}

pub fn batch(range: std::ops::Range<u64>, step_ns: u64) -> Arc<EventBatch> {
    let first_ordinal = range.start;
    Arc::new(EventBatch { first_ordinal, events: range.map(|i| event(i, step_ns)).collect() })
}

/// Parts end by rows or by the hour alone. With [`tap_and_wait`] a flush holds at most seven batches, on a machine of any speed:
/// less than a part, so that a part always ends by a checkpoint and never because it is overdue.
pub fn config(dir: &Path) -> RecordingConfig {
    RecordingConfig {
        flush_after: Duration::from_millis(1),
        rotate_after: Duration::from_secs(86_400),
        ..RecordingConfig::new(dir.to_owned())
    }
}

/// State of the "pipeline" of these tests before the event `ordinal`.
pub fn state(ordinal: u64) -> Vec<u8> {
    format!("state {ordinal}").into_bytes()
}

/// Records events `0..n`, 100 to a batch.
pub fn record(config: RecordingConfig, n: u64, step_ns: u64) -> (RecorderSummary, Metrics) {
    let metrics = Metrics::default();
    let mut recorder = Recorder::start(config, metrics.clone()).unwrap();
    for first in (0..n).step_by(100) {
        if recorder.wants_checkpoint() {
            recorder.checkpoint(state(first), first);
        }
        tap_and_wait(&mut recorder, batch(first..(first + 100).min(n), step_ns));
    }
    (recorder.finish().unwrap(), metrics)
}

/// Taps a batch and waits until the recorder has taken it, so that its queue never fills and its wishes (checkpoints)
/// are heard in time however slow the machine is. The pause keeps the parts small: the recorder flushes by the clock.
pub fn tap_and_wait(recorder: &mut Recorder, batch: Arc<EventBatch>) {
    recorder.tap(&batch);
    std::thread::sleep(Duration::from_micros(200));
    // The queue's share of it is dropped when its events are written down.
    while Arc::strong_count(&batch) > 1 {
        std::thread::sleep(Duration::from_micros(50));
    }
}

/// A recording of about so many synthetic requests, a few records of which the ring refused.
pub fn synthetic(n_requests: u64) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let config = SyntheticConfig { n_requests, lost: 5, ..SyntheticConfig::default() };
    let mut recorder = Recorder::start(self::config(dir.path()), Metrics::default()).unwrap();
    recorder.checkpoint(Vec::new(), 0);
    let mut source = Synthetic::new(config);
    while let Some(batch) = source.next_batch().unwrap() {
        tap_and_wait(&mut recorder, Arc::new(batch));
    }
    recorder.finish().unwrap();
    dir
}

/// What a replay gives.
#[derive(Debug, Default, PartialEq)]
pub struct Replayed {
    /// Ordinal and event, losses left out.
    pub events: Vec<(u64, Event)>,
    /// First ordinal, number and reason.
    pub losses: Vec<(u64, Option<u64>, LossReason)>,
    /// Ordinal of the next event, and state.
    pub restarts: Vec<(u64, Bytes)>,
    /// Files that could not be read.
    pub faults: Vec<String>,
}

pub fn replay(dir: &Path, range: WallRange) -> Replayed {
    let recording = Recording::open(dir).unwrap();
    let mut replayed = Replayed {
        faults: recording.faults.iter().map(ToString::to_string).collect(),
        ..Replayed::default()
    };
    let mut source = match ReplaySource::open(&recording, range, Metrics::default()) {
        Ok(source) => source,
        Err(error) => {
            replayed.faults.push(error.to_string());
            return replayed;
        }
    };
    while let Some(batch) = source.next_batch().unwrap() {
        assert!(!batch.events.is_empty());
        assert!(batch.events.len() <= 4_096, "batches are bounded");
        if let Some(restart) = source.restart() {
            replayed.restarts.push((batch.first_ordinal, restart.checkpoint));
        }
        for (ordinal, event) in (batch.first_ordinal..).zip(batch.events) {
            match event {
                Event::Loss(Loss { first_ordinal, n, reason, .. }) => {
                    replayed.losses.push((first_ordinal, n, reason));
                }
                event => replayed.events.push((ordinal, event)),
            }
        }
    }
    replayed.faults.extend(source.faults().0.iter().map(ToString::to_string));
    replayed
}

pub fn all(dir: &Path) -> Replayed {
    replay(dir, WallRange::default())
}

/// Events, holes and their order are what was recorded: each of `0..n` is there once, or within a loss.
#[track_caller]
pub fn assert_accounted(replayed: &Replayed, n: u64, step_ns: u64) {
    for (ordinal, found) in &replayed.events {
        assert_eq!(*found, event(*ordinal, step_ns), "event {ordinal}");
    }
    let mut covered: Vec<(u64, u64)> = replayed.events.iter().map(|(ordinal, _)| (*ordinal, 1)).collect();
    covered.extend(replayed.losses.iter().filter_map(|(first, n, _)| Some((*first, (*n)?))));
    covered.sort_unstable();
    let mut next = 0;
    for (first, count) in covered {
        assert_eq!(first, next, "nothing twice, nothing unaccounted for");
        next = first + count;
    }
    assert_eq!(next, n, "the end");
}

/// All files below a folder with this ending, sorted.
pub fn files(dir: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.to_string_lossy().ends_with(ending) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

#[test]
fn a_recording_replays_every_event_in_order_from_an_empty_pipeline() {
    let temp = tempfile::tempdir().unwrap();
    let (summary, metrics) = record(config(temp.path()), 20_000, 100_000);
    assert_eq!(summary, RecorderSummary { n_events: 20_000, n_lost: 0, n_unsealed: 0 });
    assert_eq!(metrics.get(Counter::RecorderQueueFull) + metrics.get(Counter::RecorderWrite), 0);

    let replayed = all(temp.path());
    assert_accounted(&replayed, 20_000, 100_000);
    assert_eq!(replayed.events.len(), 20_000);
    assert_eq!(
        replayed.restarts[0],
        (0, Bytes::new()),
        "the state before a run's first event is that of a new pipeline"
    );
    assert_eq!(replayed.faults, Vec::<String>::new());
    assert!(files(temp.path(), ".journal").is_empty(), "all is sealed");
    assert!(files(temp.path(), ".tmp").is_empty());

    let sum = Recording::open(temp.path()).unwrap().summary();
    assert_eq!((sum.n_runs, sum.n_journals, sum.n_lost, sum.n_deleted), (1, 0, 0, 0));
    let range = sum.range.unwrap();
    assert_eq!((range.from.0, range.to.0), (START_NS, START_NS + 19_999 * 100_000));
}

#[test]
fn parts_end_with_the_hour_and_begin_with_a_checkpoint() {
    let temp = tempfile::tempdir().unwrap();
    // 40 s from the last second of an hour on, a part each 10 s.
    let config = RecordingConfig { rotate_after: Duration::from_secs(10), ..config(temp.path()) };
    record(config, 40_000, 1_000_000);
    let parts = files(&temp.path().join("events"), ".parquet");
    let hours: Vec<String> = parts
        .iter()
        .map(|path| {
            path.parent().unwrap().strip_prefix(temp.path().join("events")).unwrap().display().to_string()
        })
        .collect();
    assert_eq!(hours[0], "date=2026-11-22/hour=09");
    assert!(hours.len() >= 3 && hours[1..].iter().all(|hour| hour == "date=2026-11-22/hour=10"), "{hours:?}");

    let recording = Recording::open(temp.path()).unwrap();
    let run = &recording.runs[0];
    assert!(run.events.iter().all(|part| part.meta.checkpoint));
    assert_accounted(&all(temp.path()), 40_000, 1_000_000);

    // From an instant on: from the last checkpoint before it, and everything behind.
    let last = run.events.last().unwrap();
    let from = WallRange { from: WallTime(last.meta.first_time_ns + 1_000_000), to: WallTime(u64::MAX) };
    let replayed = replay(temp.path(), from);
    let first = last.meta.first;
    assert_eq!(replayed.restarts, [(first, Bytes::from(state(first)))]);
    assert_eq!(replayed.events[0].0, first);
    assert_eq!(replayed.events.last().unwrap().0, 39_999);
    assert!(replayed.losses.is_empty());
}

#[test]
fn what_does_not_fit_into_the_queue_is_counted_and_listed() {
    let temp = tempfile::tempdir().unwrap();
    let metrics = Metrics::default();
    let config = RecordingConfig { queue_batches: 2, ..config(temp.path()) };
    let mut recorder = Recorder::start(config, metrics.clone()).unwrap();
    recorder.checkpoint(state(0), 0);
    // 200 batches of 2,000 at once: the recorder cannot follow, and the tap does not wait for it.
    let batches: Vec<_> =
        (0..400_000).step_by(2_000).map(|first| batch(first..first + 2_000, 1_000)).collect();
    for batch in &batches {
        recorder.tap(batch);
    }
    let summary = recorder.finish().unwrap();
    let dropped = metrics.get(Counter::RecorderQueueFull);
    assert!(dropped > 0, "the queue was never full: the test shows nothing");
    assert_eq!(summary.n_lost, dropped);
    assert_eq!(summary.n_events + dropped, 400_000);

    let replayed = all(temp.path());
    assert_accounted(&replayed, 400_000, 1_000);
    assert_eq!(replayed.events.len() as u64, summary.n_events);
    assert!(replayed.losses.iter().all(|(.., reason)| *reason == LossReason::QueueFull));
    assert_eq!(Recording::open(temp.path()).unwrap().summary().n_lost, dropped);
}

#[test]
fn a_second_run_in_the_same_folder_is_replayed_behind_the_first() {
    let temp = tempfile::tempdir().unwrap();
    record(config(temp.path()), 1_000, 1_000_000);
    let metrics = Metrics::default();
    let mut recorder = Recorder::start(config(temp.path()), metrics).unwrap();
    recorder.checkpoint(Vec::new(), 0);
    let later = Anchor { boot: BootTime(1), wall: WallTime(START_NS + 60_000_000_000) };
    let tick = Event::Tick(BootTime(2));
    recorder
        .tap(&Arc::new(EventBatch { first_ordinal: 0, events: vec![Event::Anchor(later), tick.clone()] }));
    recorder.finish().unwrap();

    let replayed = all(temp.path());
    assert_eq!(replayed.restarts, [(0, Bytes::new()), (0, Bytes::new())]);
    assert_eq!(replayed.events.len(), 1_002);
    assert_eq!(replayed.events[1_001], (1, tick));
}

#[test]
fn a_checkpoint_that_comes_long_before_the_first_event_lies_in_its_hour() {
    let temp = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::start(config(temp.path()), Metrics::default()).unwrap();
    recorder.checkpoint(state(0), 0);
    // Longer than rows wait to be written.
    std::thread::sleep(Duration::from_millis(20));
    tap_and_wait(&mut recorder, batch(0..100, 1_000));
    recorder.finish().unwrap();
    let range = Recording::open(temp.path()).unwrap().summary().range.unwrap();
    assert_eq!(range.from, WallTime(START_NS));
    assert_eq!(all(temp.path()).events.len(), 100);
}

#[test]
fn two_recorders_cannot_share_a_folder() {
    let temp = tempfile::tempdir().unwrap();
    let first = Recorder::start(config(temp.path()), Metrics::default()).unwrap();
    let second = Recorder::start(config(temp.path()), Metrics::default()).unwrap_err();
    assert!(second.to_string().contains("another txray"), "{second}");
    assert!(second.hint().is_some());
    assert!(recover(temp.path()).unwrap_err().to_string().contains("another txray"));
    first.finish().unwrap();
}

#[test]
fn a_folder_that_cannot_be_written_is_known_in_the_first_instant() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("file");
    std::fs::write(&file, "x").unwrap();
    for out in [file.clone(), file.join("below")] {
        let error = Recorder::start(config(&out), Metrics::default()).unwrap_err();
        assert!(error.to_string().contains(out.to_str().unwrap()), "{error}");
        assert!(error.hint().is_some(), "{error:?}");
    }
}

#[test]
fn without_payload_the_events_cannot_be_replayed_and_say_so() {
    let temp = tempfile::tempdir().unwrap();
    record(RecordingConfig { payload: PayloadMode::None, ..config(temp.path()) }, 1_000, 1_000);
    let replayed = all(temp.path());
    assert_eq!(replayed.faults, ["recorded with --payload none: parsing cannot be re-run"]);
    for part in files(temp.path(), ".parquet") {
        let bytes = std::fs::read(part).unwrap();
        assert!(!bytes.windows(10).any(|window| window == b"User-Agent"));
    }
}

#[test]
fn the_byte_budget_deletes_the_oldest_and_the_rest_replays_cleanly() {
    let temp = tempfile::tempdir().unwrap();
    let mut config = RecordingConfig { rotate_rows: 3_000, ..config(temp.path()) };
    config.budget.max_bytes = Some(400_000);
    record(config, 60_000, 200_000_000);
    let total: u64 = files(temp.path(), ".parquet").iter().map(|path| path.metadata().unwrap().len()).sum();
    assert!(total <= 400_000, "{total} bytes");

    let replayed = all(temp.path());
    let first = replayed.events[0].0;
    assert!(first > 0, "nothing was deleted: the test shows nothing");
    assert_eq!(replayed.restarts, [(first, Bytes::from(state(first)))]);
    assert_eq!(replayed.events.len() as u64, 60_000 - first);
    assert!(replayed.losses.is_empty() && replayed.faults.is_empty());
    assert_eq!(Recording::open(temp.path()).unwrap().summary().n_deleted, first);
}

#[test]
fn the_age_budget_deletes_whole_hours() {
    let temp = tempfile::tempdir().unwrap();
    let mut config = RecordingConfig { rotate_rows: 2_000, ..config(temp.path()) };
    config.budget.max_age_ns = Some(3_600_000_000_000);
    // Five hours.
    record(config, 18_000, 1_000_000_000);
    let hours: std::collections::BTreeSet<String> = files(temp.path(), ".parquet")
        .iter()
        .map(|path| path.parent().unwrap().file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    let hours: Vec<_> = hours.into_iter().collect();
    assert!(!hours.contains(&"hour=09".to_owned()) && !hours.contains(&"hour=12".to_owned()), "{hours:?}");
    assert!(hours.contains(&"hour=14".to_owned()), "{hours:?}");
    assert!(all(temp.path()).losses.is_empty());
}
