//! Replay: the same transactions, histograms and dots as the run that was recorded, to the byte, on any machine.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Duration,
};

use tracer_user::{
    cli::snapshot::state_at,
    conn::order,
    event::{Event, EventBatch},
    metrics::{Counter, Metrics},
    pipeline::{NullVerdicts, Pipeline, PipelineConfig},
    sink::{
        Sink as _,
        histogram::{Histograms, Outcome},
        jsonl::write_transaction,
        recording::{Recorder, RecordingConfig, recover},
        xlog::Xlog,
    },
    source::{
        Source,
        recording::{Recording, Run, Start},
        replay::ReplaySource,
        synthetic::{Random, Synthetic, SyntheticConfig},
    },
    time::{Anchor, BootTime, WallTime},
    transaction::{TransactionBatch, Unpaired, WallRange, watermark::WallLine},
};

use crate::recording::checkpoints::copy_events;

/// What a run gives out.
#[derive(Default)]
struct Output {
    /// One JSON line per transaction.
    lines: Vec<String>,
    ends: Vec<WallTime>,
    histograms: Histograms,
    xlog: Option<Xlog>,
    /// At the end.
    unpaired: Vec<(Unpaired, u64)>,
    /// Events that the recording should hold and does not.
    missing: u64,
    /// Events that were played, losses included.
    n_events: u64,
}

impl Output {
    fn take(&mut self, batch: &TransactionBatch, range: WallRange) {
        let xlog = self.xlog.get_or_insert_with(|| Xlog::new(1 << 20));
        for transaction in &batch.transactions {
            if !(range.from..range.to).contains(&transaction.end_time) {
                continue;
            }
            let mut line = Vec::new();
            write_transaction(&mut line, transaction);
            self.lines.push(String::from_utf8(line).unwrap());
            self.ends.push(transaction.end_time);
            self.histograms.record(transaction);
            xlog.push(transaction);
        }
    }

    /// Every histogram with its name, serialised.
    fn histogram_bytes(&self) -> Vec<(String, u64, Vec<u8>, Vec<u8>)> {
        let row = |row: tracer_user::sink::histogram::Row<'_>| {
            let name = format!("{} {:?} {:?}", row.service, row.role, row.operation);
            let bytes = |outcome| row.series.serialize(outcome);
            (name, row.series.count, bytes(Outcome::Ok), bytes(Outcome::Error))
        };
        let mut all: Vec<_> =
            self.histograms.operations().into_iter().chain(self.histograms.services()).map(row).collect();
        all.sort();
        all
    }
}

#[track_caller]
fn assert_same(found: &Output, want: &Output, what: &str) {
    for (i, (found, want)) in found.lines.iter().zip(&want.lines).enumerate() {
        assert_eq!(found, want, "{what}: transaction {i}");
    }
    assert_eq!(found.lines.len(), want.lines.len(), "{what}");
    assert!(found.histogram_bytes() == want.histogram_bytes(), "{what}: histograms differ");
    let dots = |output: &Output| -> Vec<_> {
        output.xlog.iter().flat_map(|xlog| xlog.dots(WallTime(0), WallTime(u64::MAX))).collect()
    };
    assert!(dots(found) == dots(want), "{what}: dots differ");
}

fn new_pipeline() -> Pipeline {
    Pipeline::new(PipelineConfig::default(), Metrics::default(), Box::new(NullVerdicts))
}

/// Records what a source gives, as a live run does; returns what the run itself gave out.
fn run_live(mut source: impl Source, config: RecordingConfig) -> Output {
    let mut pipeline = new_pipeline();
    let mut output = Output::default();
    let metrics = Metrics::default();
    let mut recorder = Recorder::start(config, metrics.clone()).unwrap();
    let mut sink = recorder.transactions();
    let mut next_ordinal = 0;
    while let Some(mut batch) = source.next_batch().unwrap() {
        batch.first_ordinal = next_ordinal;
        next_ordinal += batch.events.len() as u64;
        let batch: Arc<EventBatch> = Arc::new(batch);
        if recorder.wants_checkpoint() {
            recorder.checkpoint(pipeline.checkpoint(), batch.first_ordinal);
        }
        recorder.tap(&batch);
        pipeline.push_batch(&batch);
        let ready = pipeline.drain();
        output.take(&ready, WallRange::default());
        sink.write(&ready).unwrap();
    }
    let rest = pipeline.finish();
    output.take(&rest, WallRange::default());
    output.unpaired = pipeline.snapshot().unpaired;
    sink.write(&rest).unwrap();
    sink.finish().unwrap();
    let summary = recorder.finish().unwrap();
    assert_eq!((summary.n_events, summary.n_lost), (next_ordinal, 0));
    assert_eq!(metrics.get(Counter::RecorderQueueFull), 0);
    output
}

/// Replays a range as the command does.
fn run_replay(dir: &Path, range: WallRange) -> Output {
    let recording = Recording::open(dir).unwrap();
    let metrics = Metrics::default();
    let mut source = ReplaySource::open(&recording, range, metrics.clone()).unwrap();
    let mut pipeline = new_pipeline();
    let mut output = Output::default();
    while let Some(batch) = source.next_batch().unwrap() {
        output.n_events += batch.events.len() as u64;
        if let Some(restart) = source.restart() {
            let mut rest = pipeline.finish();
            rest.transactions.retain(|transaction| transaction.is_finished());
            output.take(&rest, range);
            pipeline = if restart.checkpoint.is_empty() {
                new_pipeline()
            } else {
                let (config, metrics) = (PipelineConfig::default(), Metrics::default());
                Pipeline::restore(&restart.checkpoint, config, metrics, Box::new(NullVerdicts)).unwrap()
            };
        }
        pipeline.push_batch(&batch);
        output.take(&pipeline.drain(), range);
    }
    output.take(&pipeline.finish(), range);
    output.unpaired = pipeline.snapshot().unpaired;
    output.missing = metrics.get(Counter::RecordingMissing);
    assert_eq!(source.faults().1, 0);
    output
}

/// Losses, mid-joins, resets, pipelining, disorder: everything at once.
fn traffic(seed: u64, n_requests: u64) -> Synthetic {
    Synthetic::new(SyntheticConfig {
        seed,
        n_requests,
        n_conns: 100,
        pipelined: 200,
        expect: 50,
        broken: 60,
        mid_join: 150,
        lost: 20,
        lost_ends: 20,
        disorder_ns: 2_000_000,
        ..SyntheticConfig::default()
    })
}

/// One recording of more than 100,000 transactions in many parts, made once, and what the run gave out.
fn recorded() -> &'static (tempfile::TempDir, Output) {
    static RECORDED: OnceLock<(tempfile::TempDir, Output)> = OnceLock::new();
    RECORDED.get_or_init(|| {
        let temp = tempfile::tempdir().unwrap();
        let config = RecordingConfig {
            rotate_rows: 40_000,
            flush_after: Duration::from_millis(20),
            queue_bytes: 1 << 30,
            queue_batches: 1 << 20,
            ..RecordingConfig::new(temp.path().join("recording"))
        };
        let output = run_live(traffic(1, 110_000), config);
        assert!(output.lines.len() >= 100_000, "{} transactions", output.lines.len());
        let n_mid_join = output.unpaired.iter().find(|(reason, _)| *reason == Unpaired::MidJoin).unwrap().1;
        assert!(n_mid_join > 0, "no connection was joined in the middle");
        for word in ["\"gap\"", "\"reset\""] {
            assert!(output.lines.iter().any(|line| line.contains(word)), "no {word} among the transactions");
        }
        (temp, output)
    })
}

fn dir() -> PathBuf {
    recorded().0.path().join("recording")
}

#[test]
fn a_replay_gives_the_same_transactions_histograms_and_dots() {
    let replayed = run_replay(&dir(), WallRange::default());
    assert_same(&replayed, &recorded().1, "whole replay");
    assert_eq!(replayed.unpaired, recorded().1.unpaired);
    assert_eq!(replayed.missing, 0);
}

#[test]
fn a_replay_from_an_instant_is_the_whole_replay_cut_there() {
    let whole = &recorded().1;
    let recording = Recording::open(&dir()).unwrap();
    let parts = &recording.runs[0].events;
    let n_starts = parts.iter().filter(|part| part.meta.checkpoint).count();
    assert!(n_starts >= 3, "{n_starts} parts begin with a checkpoint");
    let middle = parts.len() / 2;
    let (first, second) = (parts[middle].meta.first_time_ns, parts[middle].meta.last_time_ns);
    for from in [first - 1, first, first + 1, (first + second) / 2, second, parts[0].meta.first_time_ns] {
        for to in [u64::MAX, second + 1_000_000_000] {
            let range = WallRange { from: WallTime(from), to: WallTime(to) };
            let mut want = Output::default();
            let recording = Recording::open(&dir()).unwrap();
            // What the run gave out, cut: read back from `transactions`, which is tested to be the same below.
            for transactions in recording.transactions(range) {
                let batch = TransactionBatch { transactions: transactions.unwrap(), watermark: WallTime(0) };
                want.take(&batch, range);
            }
            let n = whole.ends.iter().filter(|end| (range.from..range.to).contains(end)).count();
            assert_eq!(want.lines.len(), n);
            assert_same(&run_replay(&dir(), range), &want, &format!("from {from} to {to}"));
        }
    }
}

/// A run of a random recording: how its events come, and what is done to it.
fn run_randomly(dir: &Path, copy: &Path, random: &mut Random, config: RecordingConfig, shift_ns: u64) {
    let seed = random.draw();
    let mut source = traffic(seed, 800 + random.below(800));
    let mut pipeline = new_pipeline();
    let mut recorder = Recorder::start(config, Metrics::default()).unwrap();
    // Some batches come all at once: the queue overflows.
    let is_hasty = random.chance(400);
    let mut hasty = 0;
    let steps_back = random.chance(300);
    let killed_behind = random.below(8_000);
    let (mut first_ordinal, mut latest) = (0, BootTime(0));
    let (mut anchor, mut waiting) = (None, Vec::<Arc<EventBatch>>::new());
    while let Some(EventBatch { mut events, .. }) = source.next_batch().unwrap() {
        for event in &mut events {
            if let Event::Anchor(read) = event {
                // Each run at its own time.
                read.wall.0 += shift_ns;
                anchor = Some(*read);
            }
            latest = latest.max(order::time(event));
        }
        let mut rest = &events[..];
        while !rest.is_empty() {
            let n = rest.len().min(1 + random.below(120) as usize);
            let mut events = rest[..n].to_vec();
            rest = &rest[n..];
            if steps_back && random.chance(20) {
                // Less than a second, so that the hours of the partitions stay.
                let wall = anchor.unwrap().wall(latest).0 - random.below(800_000_000);
                let set_back = Anchor { boot: latest, wall: WallTime(wall) };
                anchor = Some(set_back);
                events.push(Event::Anchor(set_back));
            }
            let n = events.len() as u64;
            let batch = Arc::new(EventBatch { first_ordinal, events });
            if hasty == 0 {
                waiting.drain(..).for_each(|batch| pipeline.push_batch(&batch));
                if recorder.wants_checkpoint() {
                    recorder.checkpoint(pipeline.checkpoint(), first_ordinal);
                }
            }
            recorder.tap(&batch);
            if is_hasty && random.chance(30) {
                hasty = 60;
            }
            if hasty > 0 {
                hasty -= 1;
                waiting.push(batch.clone());
            } else {
                pipeline.push_batch(&batch);
                pipeline.drain();
            }
            while waiting.is_empty() && Arc::strong_count(&batch) > 1 {
                std::thread::sleep(Duration::from_micros(20));
            }
            if (first_ordinal..first_ordinal + n).contains(&killed_behind) {
                copy_events(dir, copy);
            }
            first_ordinal += n;
        }
    }
    recorder.finish().unwrap();
}

/// The ordinals at which a run can be begun, with their horizons: by reading every row. A horizon may be later than what was read says,
/// and never earlier.
#[track_caller]
fn assert_horizons(run: &Run) {
    let listed: Vec<Start> = run.checkpoints().collect();
    assert!(listed.windows(2).all(|pair| {
        let (a, b) = (pair[0].checkpoint, pair[1].checkpoint);
        a.ordinal < b.ordinal && a.horizon_ns <= b.horizon_ns
    }));
    let events = run.events.clone();
    let alone = Run { events, transactions: Vec::new(), rollups: Vec::new(), ..*run };
    let alone = Recording { runs: vec![alone], ..Recording::default() };
    let mut source = ReplaySource::open(&alone, WallRange::default(), Metrics::default()).unwrap();
    let (mut line, mut latest) = (WallLine::default(), 0);
    let mut listed = listed.into_iter().peekable();
    while let Some(batch) = source.next_batch().unwrap() {
        for (ordinal, event) in (batch.first_ordinal..).zip(&batch.events) {
            while let Some(Start { checkpoint, .. }) =
                listed.next_if(|next| next.checkpoint.ordinal <= ordinal)
            {
                assert!(checkpoint.horizon_ns >= latest, "{checkpoint:?}, {latest}");
            }
            if let Event::Anchor(anchor) = event {
                line.add(*anchor);
            }
            let time = order::time(event);
            if !line.is_empty() && time != BootTime(0) {
                latest = latest.max(line.at(time).1.wall(time).0);
            }
        }
    }
}

#[test]
fn a_replay_from_any_instant_of_any_recording_is_the_whole_replay_cut_there() {
    let (mut n_within, mut n_journals, mut n_holed, mut n_cut) = (0, 0, 0, 0);
    for round in 0..12 {
        let random = &mut Random(1_000 + round);
        let (temp, copied) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let every = 150 + random.below(800);
        let n_runs = 1 + random.below(2);
        for run in 0..n_runs {
            let config = RecordingConfig {
                rotate_rows: if random.chance(500) { 1_000_000 } else { 1_500 },
                checkpoint_rows: every,
                checkpoint_share: 0,
                flush_after: Duration::from_millis(1 + random.below(20)),
                queue_batches: 8,
                ..RecordingConfig::new(temp.path().to_owned())
            };
            run_randomly(temp.path(), copied.path(), random, config, run * 1_000_000_000_000);
        }
        if random.chance(400) {
            let recording = Recording::open(temp.path()).unwrap();
            let parts = &recording.runs[0].events;
            if parts.len() > 2 {
                std::fs::remove_file(parts[parts.len() / 2].sealed.as_ref().unwrap()).unwrap();
            }
        }
        for (dir, is_recovered) in [(temp.path(), false), (copied.path(), false), (copied.path(), true)] {
            if is_recovered && dir.join("events").exists() {
                recover(dir).unwrap();
            }
            let Ok(recording) = Recording::open(dir) else { continue };
            n_journals += recording.summary().n_journals;
            recording.runs.iter().for_each(|run| assert_horizons(run));
            let whole = run_replay(dir, WallRange::default());
            n_holed += u64::from(whole.missing > 0);
            let bounds = recording.summary().range.unwrap();
            let within = |range: &WallRange, end: &WallTime| (range.from..range.to).contains(end);
            for _ in 0..8 {
                let run = &recording.runs[random.below(recording.runs.len() as u64) as usize];
                let last = run.events.iter().map(|part| part.meta.last_time_ns).max().unwrap();
                let from = WallTime(run.start_ns + random.below(last - run.start_ns + 2));
                let to = if random.chance(500) {
                    WallTime(u64::MAX)
                } else {
                    WallTime(from.0 + random.below(100_000_000))
                };
                let range = WallRange { from, to };
                let found = run_replay(dir, range);
                // What is in flight where a replay ends depends on where that is.
                let is_finished = |line: &&String| !line.contains("\"end\":\"tracer_stopped\"");
                let lines = whole.lines.iter().zip(&whole.ends).filter(|(_, end)| within(&range, end));
                let want: Vec<&String> = lines.map(|(line, _)| line).filter(is_finished).collect();
                assert!(
                    found.lines.iter().filter(is_finished).eq(want.iter().copied()),
                    "round {round}, {range:?} of {bounds:?}"
                );
                n_cut += want.len();
                // From the last checkpoint on, and not from further back.
                let behind: u64 = recording
                    .runs
                    .iter()
                    .filter(|run| run.events.iter().any(|part| part.meta.last_time_ns >= from.0))
                    .map(|run| {
                        let end = run.events.last().unwrap().meta.next;
                        let begin = run.last_checkpoint(from);
                        n_within += u64::from(begin.is_some_and(|start| {
                            start.checkpoint.ordinal > run.events[start.part].meta.first
                        }));
                        end - begin.map_or(run.events[0].meta.first, |start| start.checkpoint.ordinal)
                    })
                    .sum();
                assert!(
                    found.n_events <= behind,
                    "{} played, {behind} behind the checkpoints",
                    found.n_events
                );
            }
        }
    }
    assert!(
        n_within > 100 && n_journals > 5 && n_holed > 3 && n_cut > 10_000,
        "{n_within} {n_journals} {n_holed} {n_cut}"
    );
}

#[test]
fn the_recorded_transactions_are_those_of_the_run() {
    let recording = Recording::open(&dir()).unwrap();
    let mut found = Output::default();
    for transactions in recording.transactions(WallRange::default()) {
        let batch = TransactionBatch { transactions: transactions.unwrap(), watermark: WallTime(0) };
        found.take(&batch, WallRange::default());
    }
    assert_same(&found, &recorded().1, "transactions");
}

#[test]
fn a_replay_needs_the_events_alone() {
    let temp = tempfile::tempdir().unwrap();
    let config = RecordingConfig::new(temp.path().to_owned());
    let output = run_live(traffic(2, 5_000), config);
    std::fs::remove_dir_all(temp.path().join("transactions")).unwrap();
    assert_same(&run_replay(temp.path(), WallRange::default()), &output, "without transactions/");
}

#[test]
fn behind_a_hole_a_replay_is_right_again_from_the_next_checkpoint_on() {
    let temp = tempfile::tempdir().unwrap();
    let config = RecordingConfig {
        rotate_rows: 5_000,
        flush_after: Duration::from_millis(1),
        queue_bytes: 1 << 30,
        queue_batches: 1 << 20,
        ..RecordingConfig::new(temp.path().to_owned())
    };
    // A few events in a batch, so that the recorder's wishes are heard often.
    let whole = run_live(Slowly(traffic(3, 30_000)), config);
    let recording = Recording::open(temp.path()).unwrap();
    let parts = &recording.runs[0].events;
    // The first long one before a part from which a replay can go on: most of the traffic comes behind it.
    let before_start = |i: &usize| parts[i + 1].meta.checkpoint && parts[*i].n_rows > 100;
    let gone = (1..parts.len() - 1).find(before_start).unwrap();
    let start = &parts[gone + 1];
    let gone = &parts[gone];
    std::fs::remove_file(gone.sealed.as_ref().unwrap()).unwrap();

    let holed = run_replay(temp.path(), WallRange::default());
    assert_eq!(holed.missing, gone.meta.next - gone.meta.first);
    // What ends behind the latest event before the checkpoint is the same, to the byte.
    let behind = |output: &Output| -> Vec<String> {
        let from = WallTime(start.meta.horizon_ns + 1);
        let lines = output.lines.iter().zip(&output.ends).filter(|(_, end)| **end >= from);
        lines.map(|(line, _)| line.clone()).collect()
    };
    assert!(behind(&whole).len() > 100, "{} of {}", behind(&whole).len(), whole.lines.len());
    assert!(behind(&holed) == behind(&whole));
}

/// A source that takes its time, as a live one does.
struct Slowly<S>(S);

impl<S: Source> Source for Slowly<S> {
    fn next_batch(&mut self) -> Result<Option<EventBatch>, tracer_user::source::SourceError> {
        std::thread::sleep(Duration::from_micros(500));
        self.0.next_batch()
    }
}

#[test]
fn the_state_at_an_instant_is_that_of_a_run_that_was_there() {
    let temp = tempfile::tempdir().unwrap();
    let config = RecordingConfig {
        rotate_rows: 2_000,
        queue_bytes: 1 << 30,
        queue_batches: 1 << 20,
        ..RecordingConfig::new(temp.path().to_owned())
    };
    run_live(traffic(3, 800), config);
    let (events, _) = traffic(3, 800).all();
    let recording = Recording::open(temp.path()).unwrap();
    let anchor = events
        .iter()
        .find_map(|event| if let Event::Anchor(anchor) = event { Some(*anchor) } else { None })
        .unwrap();
    // Only the load itself, not the quiet time behind it.
    let is_data = |event: &&Event| matches!(event, Event::Data(_));
    let last = events.iter().filter(is_data).map(order::time).max().unwrap();
    let mut random = Random(7);
    let (mut most_open, mut n_checked, mut most_conns) = (0, 0, 0);
    for _ in 0..100 {
        let boot = BootTime(anchor.boot.0 + 1 + random.below(last.0 - anchor.boot.0));
        let at = anchor.wall(boot);
        let (found, n_unread) = state_at(&recording, at).unwrap();
        assert_eq!(n_unread, 0);
        // A run that is asked at that instant.
        let config = PipelineConfig { list_connections: true, ..PipelineConfig::default() };
        let mut pipeline = Pipeline::new(config, Metrics::default(), Box::new(NullVerdicts));
        let mut finished = Vec::new();
        for event in events.iter().filter(|event| order::time(event) <= boot) {
            pipeline.push(event);
        }
        pipeline.push(&Event::Tick(boot));
        pipeline.settle();
        let want = pipeline.snapshot();
        finished.extend(pipeline.drain().transactions);
        finished.extend(pipeline.finish().transactions);
        finished.retain(|transaction| transaction.is_finished() && transaction.end_time <= at);
        assert_eq!(found.snapshot, want, "at {}", at.0);
        let mut histograms = Output::default();
        for transaction in &finished {
            histograms.histograms.record(transaction);
        }
        let of = |histograms: Histograms| Output { histograms, ..Output::default() }.histogram_bytes();
        assert!(of(found.histograms.clone()) == histograms.histogram_bytes(), "histograms at {}", at.0);
        // The same from what a machine reads.
        let json: serde_json::Value = serde_json::from_slice(&found.json()).unwrap();
        assert_eq!(json["in_flight"], want.n_open);
        assert_eq!(json["requests"].as_array().unwrap().len(), want.open.len());
        assert_eq!(json["transactions"], finished.len());
        let listed = &want.connections;
        assert_eq!(
            (json["connections_open"].as_u64(), listed.open.len()),
            (Some(want.n_conns as u64), want.n_conns)
        );
        let conns = json["connections"].as_array().unwrap();
        assert_eq!(conns.len(), listed.open.len() + listed.closed.len());
        let in_flight: u64 = conns.iter().map(|conn| conn["in_flight"].as_u64().unwrap()).sum();
        assert_eq!(in_flight, want.n_open + want.n_long_lived);
        most_conns = most_conns.max(conns.len());
        // And from what a person reads: as many of them as the first line says.
        let text = found.text();
        let told =
            text.lines().find_map(|line| line.strip_prefix("connections open: ")).unwrap_or("0; ended: 0");
        let number = |text: &str| text.split(' ').next().unwrap().replace(',', "").parse::<usize>().unwrap();
        let (open, ended) = told.split_once("; ended: ").unwrap();
        assert_eq!(number(open), listed.open.len().min(40), "{text}");
        assert_eq!(number(ended), listed.closed.len().min(10), "{text}");
        for row in listed.open.iter().take(40).chain(listed.closed.iter().take(10)) {
            let [_, (peer, port)] = row.ends();
            let peer = port.map_or(peer.to_string(), |port| format!("{peer}:{port}"));
            let is_row = |line: &&str| line.starts_with(row.state.as_str()) && line.contains(&peer);
            assert!(text.lines().any(|line| is_row(&line)), "{row:?}: {text}");
        }
        most_open = most_open.max(want.n_open);
        n_checked += finished.len();
    }
    assert!(most_open > 2 && n_checked > 10_000, "{most_open} in flight, {n_checked} transactions");
    assert!(most_conns > 100, "{most_conns} connections");
}

#[test]
fn an_instant_outside_of_the_recording_is_refused_with_its_bounds() {
    let temp = tempfile::tempdir().unwrap();
    run_live(traffic(4, 200), RecordingConfig::new(temp.path().to_owned()));
    let recording = Recording::open(temp.path()).unwrap();
    for at in [WallTime(1), WallTime(u64::MAX)] {
        let error = state_at(&recording, at).unwrap_err();
        assert!(error.to_string().contains("does not reach to this instant"), "{error}");
        assert!(tracer_user::cli::failure_lines(&error).contains("hint: it goes from 1"), "{error}");
    }
}
