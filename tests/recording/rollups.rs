//! Rollups in a recording: what is written is what was counted, what is read adds up to the transactions, and a replay counts the same.

use std::process::Command;

use tracer_user::{
    cli::delivery::{Delivery, Out},
    event::Role,
    pipeline::{LookedFor, NullVerdicts, Pipeline, PipelineConfig, Snapshot},
    sink::{
        Sink,
        fanout::Inline,
        recording::{Budget, Folder, enforce},
        rollup::{RollupSink, SharedRollups},
    },
    source::rollups::{RecordedRollups, read, rollups_of},
    transaction::{
        Transaction,
        rollup::{Interval, Resolution, Sums},
    },
};

use super::{versions::python, *};
use crate::playback;

const SECOND: u64 = 1_000_000_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
/// The hour that most of it lies in.
const TEN: u64 = START_NS + SECOND;

/// Transaction `i` of a run that has `per_second` of them in each second, from [`START_NS`] on.
fn row(i: u64, per_second: u64) -> Transaction {
    Transaction {
        end_time: WallTime(START_NS + i * SECOND / per_second),
        service: ["상점", "cart"][i as usize % 2].into(),
        ..versions::transaction(i)
    }
}

fn snapshot(at: u64) -> Snapshot {
    Snapshot { wall: WallTime(at), n_open: at / SECOND % 5, ..Snapshot::default() }
}

/// Feeds rows to sinks as a run does, watched from `from` to `to`, and does not finish them.
fn feed(sinks: &mut [Box<dyn Sink>], rows: &[Transaction], from: u64, to: u64) {
    let mut next = 0;
    for at in (from..=to).step_by(SECOND as usize / 4) {
        let mark = at - SECOND / 2;
        let end = next + rows[next..].partition_point(|row| row.end_time.0 < mark);
        let batch = TransactionBatch { transactions: rows[next..end].to_vec(), watermark: WallTime(mark) };
        next = end;
        for sink in &mut *sinks {
            sink.observe(&snapshot(at)).unwrap();
            sink.write(&batch).unwrap();
            sink.advance(batch.watermark).unwrap();
        }
    }
    let rest = TransactionBatch { transactions: rows[next..].to_vec(), watermark: WallTime(to) };
    sinks.iter_mut().for_each(|sink| sink.write(&rest).unwrap());
}

/// Records rows with their rollups; `ends`: in order. Otherwise it is as a kill leaves it.
fn record(dir: &Path, rows: &[Transaction], from: u64, to: u64, ends: bool) -> SharedRollups {
    record_with(config(dir), rows, from, to, ends)
}

fn record_with(
    config: RecordingConfig,
    rows: &[Transaction],
    from: u64,
    to: u64,
    ends: bool,
) -> SharedRollups {
    let mut recorder = Recorder::start(config, Metrics::default()).unwrap();
    recorder.checkpoint(state(0), 0);
    recorder.tap(&batch(0..100, 1_000_000));
    let shared = SharedRollups::default();
    let mut sinks: Vec<Box<dyn Sink>> = vec![
        Box::new(recorder.transactions()),
        Box::new(RollupSink::new(shared.clone(), Some(recorder.rollups()))),
    ];
    feed(&mut sinks, rows, from, to);
    // A kill leaves what was written; what the sink held is gone.
    if ends {
        sinks.iter_mut().for_each(|sink| sink.finish().unwrap());
    }
    recorder.finish().unwrap();
    shared
}

fn range(from: u64, to: u64) -> WallRange {
    WallRange { from: WallTime(from), to: WallTime(to) }
}

fn read_all(dir: &Path, column_ns: u64) -> RecordedRollups {
    let read = rollups_of(dir, range(TEN - HOUR, TEN + 4 * HOUR), column_ns).unwrap();
    assert_eq!(read.faults, Vec::<String>::new());
    read
}

/// Sums of what memory holds, by column.
fn kept(shared: &SharedRollups, resolution: Resolution, column_ns: u64) -> Vec<Interval> {
    by_column(shared.lock().intervals(resolution, WallRange::default()).cloned(), column_ns)
}

fn by_column(intervals: impl IntoIterator<Item = Interval>, column_ns: u64) -> Vec<Interval> {
    let mut columns: Vec<Interval> = Vec::new();
    for interval in intervals {
        let start = WallTime(interval.start.0 / column_ns * column_ns);
        if columns.last().is_none_or(|last| last.start != start) {
            columns.push(Interval::new(start));
        }
        columns.last_mut().unwrap().merge(&interval);
    }
    columns
}

/// The same, without a page of buckets where they differ.
#[track_caller]
fn assert_same(found: &[Interval], want: &[Interval], what: &str) {
    let short = |interval: &Interval| {
        let Interval { start, recorded_ns, in_flight, lost, rows } = interval;
        let rows: Vec<_> = rows.iter().map(|row| (row.service.clone(), row.role, row.sums.count)).collect();
        (start.0, *recorded_ns, *in_flight, *lost, rows)
    };
    for (found, want) in found.iter().zip(want) {
        assert_eq!(short(found), short(want), "{what}");
    }
    assert_eq!(found.len(), want.len(), "{what}");
    assert!(found == want, "{what}: the sums differ");
}

fn total<'a>(intervals: impl IntoIterator<Item = &'a Interval>) -> Sums {
    let mut total = Sums::default();
    intervals.into_iter().flat_map(|interval| &interval.rows).for_each(|row| total.merge(&row.sums));
    total
}

fn direct(rows: &[Transaction]) -> Sums {
    let mut total = Sums::default();
    rows.iter().for_each(|row| total.record(row));
    total
}

/// Four minutes around ten o'clock, three a second.
fn four_minutes() -> Vec<Transaction> {
    (0..720).map(|i| row(i, 3)).collect()
}

#[test]
fn what_is_read_is_what_was_counted_in_columns_of_any_length() {
    let temp = tempfile::tempdir().unwrap();
    let rows = four_minutes();
    let shared = record(temp.path(), &rows, START_NS, START_NS + 240 * SECOND, true);
    assert_eq!(files(&temp.path().join("rollups"), ".parquet").len(), 2, "one file each side of 10:00");
    for column in [SECOND, 5 * SECOND, MINUTE, 2 * MINUTE, HOUR, 3 * HOUR] {
        let read = read_all(temp.path(), column);
        assert_same(&read.columns, &kept(&shared, Resolution::Second, column), &column.to_string());
        assert_eq!(total(&read.columns), direct(&rows), "{column}");
        assert_eq!((read.has_none, read.until), (false, WallTime(START_NS + 241 * SECOND)));
    }
    // Part of it: whole columns.
    let part = rollups_of(temp.path(), range(TEN + MINUTE, TEN + 2 * MINUTE), 10 * SECOND).unwrap().columns;
    assert_eq!(part.len(), 6);
    assert_eq!(part[0].start, WallTime(TEN + MINUTE));
    assert!(part.iter().all(|column| column.recorded_ns == 10 * SECOND && total([column]).count == 30));
    let seconds = rollups_of(temp.path(), range(TEN, TEN + MINUTE), SECOND).unwrap().columns;
    assert!(seconds.iter().all(|second| (second.recorded_ns, total([second]).count) == (SECOND, 3)));
    assert_eq!(seconds.len(), 60, "exactly three in each whole second");
}

#[test]
fn minutes_that_a_kill_left_without_a_row_are_summed_up_from_their_seconds() {
    let temp = tempfile::tempdir().unwrap();
    let rows = four_minutes();
    let shared = record(temp.path(), &rows, START_NS, START_NS + 200 * SECOND, false);
    let whole = kept(&shared, Resolution::Second, SECOND);
    for column in [SECOND, MINUTE, HOUR] {
        let read = read_all(temp.path(), column).columns;
        assert_same(&read, &by_column(whole.clone(), column), &column.to_string());
    }
    // Another run goes on in the same minute: both count, and the time between is not recorded.
    let later: Vec<Transaction> = (0..30)
        .map(|i| Transaction { end_time: WallTime(START_NS + 203 * SECOND + i), ..row(i, 3) })
        .collect();
    record(temp.path(), &later, START_NS + 203 * SECOND, START_NS + 210 * SECOND, true);
    let minute = read_all(temp.path(), MINUTE).columns.pop().unwrap();
    assert_eq!(minute.start, WallTime(TEN + 3 * MINUTE));
    let before = by_column(whole, MINUTE).pop().unwrap();
    assert_eq!(total([&minute]).count, total([&before]).count + 30);
    assert_eq!(minute.recorded_ns, before.recorded_ns + 7 * SECOND);
    let seconds = read_all(temp.path(), SECOND).columns;
    let recorded = |second: u64| {
        let start = WallTime(START_NS + second * SECOND);
        seconds.iter().find(|column| column.start == start).map_or(0, |column| column.recorded_ns)
    };
    assert_eq!([198, 199, 201, 203, 209].map(recorded), [SECOND, 0, 0, SECOND, SECOND]);
}

#[test]
fn rollups_are_there_while_they_are_written_and_recovered_behind_a_kill() {
    let temp = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::start(config(temp.path()), Metrics::default()).unwrap();
    recorder.checkpoint(state(0), 0);
    recorder.tap(&batch(0..100, 1_000_000));
    let shared = SharedRollups::default();
    let mut sinks: Vec<Box<dyn Sink>> =
        vec![Box::new(RollupSink::new(shared.clone(), Some(recorder.rollups())))];
    feed(&mut sinks, &four_minutes(), START_NS, START_NS + 240 * SECOND);
    // Parts that ended are sealed by a thread of its own: the open one is left.
    while files(&temp.path().join("rollups"), ".journal").len() > 1 {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(files(&temp.path().join("rollups"), ".journal").len(), 1);
    let written = read_all(temp.path(), MINUTE);
    assert_same(&written.columns, &kept(&shared, Resolution::Second, MINUTE), "while it is written");
    let journal = files(&temp.path().join("rollups"), ".journal").remove(0);
    let bytes = std::fs::read(&journal).unwrap();
    drop(sinks);
    recorder.finish().unwrap();

    // As a kill leaves it: the journal, its last frame torn.
    let sealed = files(&temp.path().join("rollups"), ".parquet");
    std::fs::remove_file(sealed.last().unwrap()).unwrap();
    std::fs::write(&journal, &bytes[..bytes.len() - 7]).unwrap();
    let torn = read_all(temp.path(), SECOND);
    let report = recover(temp.path()).unwrap();
    assert_eq!((report.sealed.len(), report.faults.len()), (1, 0));
    assert!(
        report.sealed[0].0.starts_with(temp.path().join("rollups")) && report.sealed[0].1.n_skipped_bytes > 0
    );
    assert_same(&read_all(temp.path(), SECOND).columns, &torn.columns, "recovered");
    let seconds = kept(&shared, Resolution::Second, SECOND);
    assert_same(&torn.columns, &seconds[..seconds.len() - 1], "one second is missing");
}

#[test]
fn files_outside_of_a_range_are_not_read() {
    let temp = tempfile::tempdir().unwrap();
    // Parts of ten seconds.
    let config = RecordingConfig { rotate_after: Duration::from_secs(10), ..config(temp.path()) };
    record_with(config, &four_minutes(), START_NS, START_NS + 240 * SECOND, true);
    let parts = files(&temp.path().join("rollups"), ".parquet");
    assert!(parts.len() > 20, "{}", parts.len());
    // A body that is damaged is noticed when it is read, and only then.
    let wanted = range(TEN + 60 * SECOND, TEN + 70 * SECOND);
    let recording = Recording::open(temp.path()).unwrap();
    let of = |part: &PathBuf| SealedFile::open(part).unwrap().meta;
    let mut n_damaged = 0;
    for part in &parts {
        let meta = of(part);
        if meta.first_time_ns >= wanted.to.0 || meta.last_time_ns < wanted.from.0 - 10 * SECOND {
            let mut bytes = std::fs::read(part).unwrap();
            bytes[40] ^= 1;
            std::fs::write(part, bytes).unwrap();
            n_damaged += 1;
        }
    }
    assert!(n_damaged > 15, "{n_damaged}");
    let found = read(&recording, wanted, SECOND);
    // A part that has the row of a minute or an hour reaches back to its begin, and is looked into.
    assert!(found.columns.len() == 10 && found.faults.len() <= 2, "{:?}", found.faults);
    assert!(found.columns.iter().all(|second| total([second]).count == 3));
    let all = read(&recording, range(TEN, TEN + 240 * SECOND), SECOND);
    assert!(!all.faults.is_empty() && all.faults[0].contains("rollups"), "{:?}", all.faults);
    assert!(all.faults.len() > 15, "{:?}", all.faults);
}

#[test]
fn of_a_whole_hour_only_the_part_that_has_its_row_is_read() {
    let temp = tempfile::tempdir().unwrap();
    let config = RecordingConfig { rotate_after: Duration::from_secs(10), ..config(temp.path()) };
    record_with(config, &four_minutes(), START_NS, START_NS + 240 * SECOND, true);
    let parts = files(&temp.path().join("rollups/date=2026-11-22/hour=10"), ".parquet");
    for part in &parts[..parts.len() - 1] {
        let mut bytes = std::fs::read(part).unwrap();
        bytes[40] ^= 1;
        std::fs::write(part, bytes).unwrap();
    }
    let hour = rollups_of(temp.path(), range(TEN, TEN + HOUR), HOUR).unwrap();
    assert_eq!((hour.faults.len(), total(&hour.columns).count), (0, 717));
    assert_eq!(hour.columns[0].recorded_ns, 239 * SECOND);
}

#[test]
fn the_budget_takes_whole_hours_and_of_the_newest_the_rollups_last() {
    let temp = tempfile::tempdir().unwrap();
    let config = RecordingConfig { rotate_after: Duration::from_secs(10), ..config(temp.path()) };
    record_with(config, &four_minutes(), START_NS, START_NS + 240 * SECOND, true);
    let sealed = |of: &str| files(&temp.path().join(of), ".parquet");
    let bytes = |of: &str| sealed(of).iter().map(|path| path.metadata().unwrap().len()).sum::<u64>();
    let n_rollups = sealed("rollups/date=2026-11-22/hour=10").len();
    // Room for the rollups of the newest hour, and no other file.
    let max_bytes = Some(bytes("rollups/date=2026-11-22/hour=10") + 100);
    let n_all = sealed("").len();
    let root = Folder::open(temp.path(), None).unwrap();
    let n_deleted = enforce(&root, &Budget { max_bytes, max_age_ns: None }, START_NS);
    assert_eq!((sealed("").len(), sealed("rollups").len()), (n_rollups, n_rollups));
    assert_eq!(n_deleted as usize, n_all - n_rollups);
    assert!(!temp.path().join("rollups/date=2026-11-22/hour=09").exists());
    let read = rollups_of(temp.path(), range(TEN - HOUR, TEN + HOUR), SECOND).unwrap();
    assert_eq!(total(&read.columns).count, 717, "all of the newest hour");
    // By age they go with their hour.
    enforce(&root, &Budget { max_bytes: None, max_age_ns: Some(HOUR) }, TEN + 3 * HOUR);
    assert!(sealed("").is_empty());
}

#[test]
fn recordings_without_rollups_say_so_and_those_of_every_version_are_read() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/recording");
    let old = rollups_of(&fixtures.join("v1"), range(TEN - HOUR, TEN + HOUR), MINUTE).unwrap();
    assert_eq!(old, RecordedRollups { has_none: true, ..RecordedRollups::default() });
    let with = fixtures.join("v1-rollups");
    if std::env::var_os("TXRAY_BLESS").is_some() && !with.exists() {
        record(&with, &four_minutes()[..60], START_NS, START_NS + 20 * SECOND, true);
    }
    for column in [SECOND, MINUTE, HOUR] {
        assert_eq!(total(&read_all(&with, column).columns), direct(&four_minutes()[..60]), "{column}");
    }
}

/// A run as the live one is put together, without its threads.
struct Run(Inline);

impl Out for Run {
    fn take(&mut self, batch: TransactionBatch, snapshot: Option<Arc<Snapshot>>) {
        self.0.send(&batch, snapshot.as_deref());
    }
}

fn pipeline(metrics: &Metrics) -> Pipeline {
    Pipeline::new(PipelineConfig::default(), metrics.clone(), Box::new(NullVerdicts))
}

#[test]
fn a_replay_counts_what_the_recorded_run_counted() {
    let temp = tempfile::tempdir().unwrap();
    let events = playback::events(5, 4_000);
    let metrics = Metrics::default();
    let config = RecordingConfig { queue_bytes: 1 << 30, queue_batches: 1 << 20, ..config(temp.path()) };
    let mut recorder = Recorder::start(config, metrics.clone()).unwrap();
    let live = SharedRollups::default();
    let mut out = Run(Inline::new(
        vec![
            Box::new(recorder.transactions()),
            Box::new(RollupSink::new(live.clone(), Some(recorder.rollups()))),
        ],
        metrics.clone(),
    ));
    let (mut line, mut delivery) =
        (pipeline(&metrics), Delivery::new(LookedFor::ALL, None, None, metrics.clone()));
    recorder.checkpoint(line.checkpoint(), 0);
    for (i, events) in events.chunks(500).enumerate() {
        let batch = Arc::new(EventBatch { first_ordinal: i as u64 * 500, events: events.to_vec() });
        recorder.tap(&batch);
        batch.events.iter().for_each(|event| delivery.push(event, &mut line, &mut out));
        delivery.batch_is_over(&mut line, &mut out);
    }
    delivery.deliver(line.finish(), None, &mut out);
    out.0.finish();
    recorder.finish().unwrap();

    let recording = Recording::open(temp.path()).unwrap();
    let mut source = ReplaySource::open(&recording, WallRange::default(), Metrics::default()).unwrap();
    let replayed = SharedRollups::default();
    let mut out = Run(Inline::new(vec![Box::new(RollupSink::new(replayed.clone(), None))], metrics.clone()));
    let (mut line, mut delivery) =
        (pipeline(&metrics), Delivery::new(LookedFor::ALL, None, None, metrics.clone()));
    while let Some(batch) = source.next_batch().unwrap() {
        let _ = source.restart();
        batch.events.iter().for_each(|event| delivery.push(event, &mut line, &mut out));
        delivery.batch_is_over(&mut line, &mut out);
    }
    delivery.deliver(line.finish(), None, &mut out);
    out.0.finish();

    let all = |shared: &SharedRollups| kept(shared, Resolution::Second, SECOND);
    let seconds = all(&live);
    assert_same(&all(&replayed), &seconds, "counted again");
    let range = range(seconds[0].start.0 / HOUR * HOUR, seconds.last().unwrap().start.0 / HOUR * HOUR + HOUR);
    assert_same(&rollups_of(temp.path(), range, SECOND).unwrap().columns, &seconds, "recorded");
    // It shows something: whole seconds, in flight, losses, both roles, and as many as are recorded as transactions.
    let transactions = versions::transactions(temp.path());
    let finished: Vec<_> = transactions.into_iter().filter(Transaction::is_finished).collect();
    assert_eq!(total(&seconds), direct(&finished));
    assert!(seconds.iter().filter(|second| second.recorded_ns == SECOND).count() > 5);
    assert!(
        seconds.iter().any(|second| second.lost > Some(0)) && seconds.iter().any(|s| s.in_flight > Some(0))
    );
    assert!(seconds.iter().flat_map(|second| &second.rows).any(|row| row.role == Role::Server));
}

#[test]
fn sums_of_rollups_are_those_of_the_transactions_in_duckdb() {
    let temp = tempfile::tempdir().unwrap();
    let rows: Vec<Transaction> = (0..3_000).map(|i| row(i, 7)).collect();
    record(temp.path(), &rows, START_NS, START_NS + 430 * SECOND, true);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/recording/sum_rollups.py");
    let output = Command::new(python()).arg(script).arg(temp.path()).output().unwrap();
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{error}");
    let lines: Vec<&str> = out.lines().collect();
    // 9:59 and the eight minutes behind it, two services, each in a role of its own.
    assert_eq!(lines[..4], ["minutes 18", "differ 1s 0", "differ 60s 0", "differ 3600s 0"], "{out}");
    let n_errors = rows.iter().filter(|row| row.error).count();
    assert_eq!(lines[4], format!("count 3000 errors {n_errors} hdr {}", direct(&rows).latency.len()));
    assert_eq!(lines[5], "silent 1", "the second that nothing ended in is there");
}
