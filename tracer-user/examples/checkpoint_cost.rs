//! What checkpoints within a part cost and what they save. Run it in release:
//! `cargo run --release --example checkpoint_cost [events] [connections ...]`.
//!
//! Prints for each number of connections, and for checkpoints at several distances: bytes of one, time to make one and to continue from
//! one; bytes that they add to the recording; events that are played to reach an instant; time to fetch the heads of a transaction. The
//! traffic is made up and made to last: each connection has some 24 events a second.

use std::{
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use tracer_user::{
    cli::player::{Begin, FIRST_ROWS, Player, Tape},
    event::{Event, EventBatch},
    metrics::{Counter, Metrics},
    pipeline::{NullVerdicts, Pipeline, PipelineConfig},
    sink::{
        Sink as _,
        recording::{Recorder, RecordingConfig},
    },
    source::{
        Source as _,
        heads::heads,
        recording::Recording,
        synthetic::{Random, Synthetic, SyntheticConfig},
    },
    time::{BootTime, WallTime},
    transaction::{End, Transaction, WallRange},
    tui::{Order, Pace, Playback as _},
};

/// The synthetic load of a connection is made to last so many times as long.
const STRETCH: u64 = 80;
/// Instants that are gone to.
const N_INSTANTS: u64 = 20;
/// Transactions whose heads are fetched.
const N_HEADS: usize = 20;
/// Batches that the recorder may have in hand while the next is made: nothing is lost.
const IN_HAND: usize = 64;

/// Events between two checkpoints within a part, however large they are. `None` stands for what a run does; in the first there are none.
const ROWS: [Option<u64>; 5] = [Some(u64::MAX), Some(262_144), Some(131_072), Some(65_536), None];

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let n_events: u64 = args.next().map_or(Ok(1_000_000), |text| text.parse())?;
    let mut n_conns: Vec<usize> = args.map(|text| text.parse()).collect::<Result<_, _>>()?;
    if n_conns.is_empty() {
        n_conns = vec![20, 1_000, 10_000];
    }
    let dir = std::env::temp_dir().join(format!("checkpoint-cost-{}", std::process::id()));
    for n_conns in n_conns {
        println!("{n_conns} connections");
        let mut bytes_without = None;
        for rows in ROWS {
            let Recorded {
                n_events,
                event_seconds,
                n_checkpoints,
                state_bytes,
                make_ms,
                restore_ms,
                n_bytes,
                sample,
            } = record(&dir, n_events, n_conns, rows)?;
            match rows {
                Some(u64::MAX) => println!("  {n_events} events in {event_seconds:.0} s, none within parts"),
                Some(rows) => println!("  one each {rows} events"),
                None => println!("  as a run has them"),
            }
            println!(
                "    {n_checkpoints} checkpoints of {state_bytes} bytes: {make_ms:.2} ms to make, {restore_ms:.2} ms to continue from"
            );
            let without = *bytes_without.get_or_insert(n_bytes);
            let added = n_bytes.saturating_sub(without);
            println!(
                "    {n_bytes} bytes of events: {:.2} % more, {} by 1,000,000 events",
                added as f64 * 100.0 / without as f64,
                added * 1_000_000 / n_events
            );
            let played = played(&dir)?;
            let mean = played.iter().map(|(n, _)| n).sum::<u64>() / N_INSTANTS;
            let max = played.iter().map(|(n, _)| *n).max().unwrap_or(0);
            let ms = played.iter().map(|(_, ms)| ms).sum::<f64>() / N_INSTANTS as f64;
            println!("    {mean} events to an instant in the mean, {max} at most; {ms:.0} ms in the mean");
            let began = Instant::now();
            for transaction in &sample {
                heads(&dir, transaction, &PipelineConfig::default())?;
            }
            let ms = began.elapsed().as_secs_f64() * 1e3 / sample.len().max(1) as f64;
            println!("    {ms:.0} ms for the heads of a transaction in the mean, of {}", sample.len());
            std::fs::remove_dir_all(&dir)?;
        }
    }
    Ok(())
}

struct Recorded {
    n_events: u64,
    event_seconds: f64,
    n_checkpoints: u64,
    /// Of the largest.
    state_bytes: usize,
    /// Of the last: made, and continued from.
    make_ms: f64,
    restore_ms: f64,
    n_bytes: u64,
    /// Some of its transactions.
    sample: Vec<Transaction>,
}

fn stretch(time: &mut BootTime, begin: u64) {
    if time.0 != 0 {
        time.0 = begin + time.0.saturating_sub(begin) * STRETCH;
    }
}

/// Makes an event of the synthetic load last longer.
fn stretched(mut event: Event, begin: u64) -> Event {
    match &mut event {
        Event::Data(data) => {
            [&mut data.time, &mut data.first, &mut data.arrival]
                .into_iter()
                .for_each(|time| stretch(time, begin));
        }
        Event::ConnOpen(open) => {
            [&mut open.time, &mut open.established].into_iter().for_each(|time| stretch(time, begin));
        }
        Event::Datagram(datagram) => stretch(&mut datagram.time, begin),
        Event::TlsOpen(open) => stretch(&mut open.time, begin),
        Event::FunctionFacts(facts) => stretch(&mut facts.time, begin),
        Event::FunctionEnter(enter) => stretch(&mut enter.time, begin),
        Event::FunctionReturn(leave) => stretch(&mut leave.time, begin),
        Event::Stack(stack) => stretch(&mut stack.time, begin),
        Event::OffCpu(off) => {
            stretch(&mut off.time, begin);
            stretch(&mut off.out, begin);
            stretch(&mut off.wake, begin);
        }
        Event::Retransmit(again) => stretch(&mut again.time, begin),
        Event::ConnShut(shut) => stretch(&mut shut.time, begin),
        Event::ConnClose(close) => stretch(&mut close.time, begin),
        Event::Process(process) => stretch(&mut process.time, begin),
        Event::ProcessFacts(facts) => stretch(&mut facts.time, begin),
        Event::Counters(counters) => stretch(&mut counters.time, begin),
        Event::Tick(time) => stretch(time, begin),
        Event::Anchor(_) | Event::Listening(_) | Event::Loss(_) => {}
    }
    event
}

/// Records so many events with so many connections, as a run does.
fn record(dir: &Path, n_events: u64, n_conns: usize, rows: Option<u64>) -> Result<Recorded> {
    let metrics = Metrics::default();
    let mut config = RecordingConfig::new(dir.to_owned());
    if let Some(rows) = rows {
        (config.checkpoint_rows, config.checkpoint_share) = (rows, 0);
    }
    let mut recorder = Recorder::start(config, metrics.clone())?;
    let mut sink = recorder.transactions();
    let new = || Pipeline::new(PipelineConfig::default(), Metrics::default(), Box::new(NullVerdicts));
    let mut pipeline = new();
    let mut source = Synthetic::new(SyntheticConfig {
        n_requests: u64::MAX,
        n_conns,
        max_per_conn: 500,
        ..SyntheticConfig::default()
    });
    let mut recorded = Recorded {
        n_events: 0,
        event_seconds: 0.0,
        n_checkpoints: 0,
        state_bytes: 0,
        make_ms: 0.0,
        restore_ms: 0.0,
        n_bytes: 0,
        sample: Vec::new(),
    };
    let (mut begin, mut last) = (None, 0);
    let mut in_hand = std::collections::VecDeque::new();
    recorder.checkpoint(pipeline.checkpoint(), 0);
    let mut state = Vec::new();
    while recorded.n_events < n_events {
        let Some(EventBatch { events, .. }) = source.next_batch()? else { break };
        let begin = *begin
            .get_or_insert_with(|| events.first().map_or(0, |event| tracer_user::conn::order::time(event).0));
        let events: Vec<Event> = events.into_iter().map(|event| stretched(event, begin)).collect();
        last = events
            .iter()
            .map(|event| tracer_user::conn::order::time(event).0)
            .max()
            .unwrap_or(last)
            .max(last);
        let batch = Arc::new(EventBatch { first_ordinal: recorded.n_events, events });
        recorded.n_events += batch.events.len() as u64;
        recorder.tap(&batch);
        pipeline.push_batch(&batch);
        let ready = pipeline.drain();
        sink.write(&ready)?;
        let due = recorded.n_events * N_HEADS as u64 / n_events > recorded.sample.len() as u64;
        recorded.sample.extend(ready.transactions.into_iter().find(|row| due && row.end == End::Answered));
        recorded.event_seconds = (last - begin) as f64 / 1e9;
        if recorder.wants_checkpoint() {
            let began = Instant::now();
            state = pipeline.checkpoint();
            recorded.make_ms = began.elapsed().as_secs_f64() * 1e3;
            recorded.n_checkpoints += 1;
            recorded.state_bytes = recorded.state_bytes.max(state.len());
            recorder.checkpoint(state.clone(), recorded.n_events);
        }
        in_hand.push_back(batch);
        while in_hand.len() > IN_HAND {
            match in_hand.front() {
                Some(first) if Arc::strong_count(first) > 1 => thread::sleep(Duration::from_micros(100)),
                _ => drop(in_hand.pop_front()),
            }
        }
    }
    sink.write(&pipeline.finish())?;
    sink.finish()?;
    recorder.finish()?;
    if state.is_empty() {
        state = pipeline.checkpoint();
        recorded.state_bytes = state.len();
    }
    let began = Instant::now();
    Pipeline::restore(&state, PipelineConfig::default(), Metrics::default(), Box::new(NullVerdicts))?;
    recorded.restore_ms = began.elapsed().as_secs_f64() * 1e3;
    anyhow::ensure!(metrics.get(Counter::RecorderQueueFull) == 0, "the recorder lost events");
    let recording = Recording::open(dir)?;
    recorded.n_bytes = recording.runs.iter().flat_map(|run| &run.events).map(|part| part.n_bytes).sum();
    Ok(recorded)
}

/// Events that the playback plays to show each of some random instants with the five minutes before it, and how long it takes until
/// all of that is loaded.
fn played(dir: &Path) -> Result<Vec<(u64, f64)>> {
    let recording = Recording::open(dir)?;
    let bounds = recording.summary().range.context("an empty recording")?;
    let mut random = Random(3);
    let mut all = Vec::new();
    for _ in 0..N_INSTANTS {
        let began = Instant::now();
        let at = WallTime(bounds.from.0 + random.below(bounds.to.0 - bounds.from.0));
        let tape = Tape {
            dir: dir.to_owned(),
            pipeline: PipelineConfig { list_connections: true, ..PipelineConfig::default() },
            filter: None,
            range: WallRange::default(),
            until: None,
            xlog_dots: 1 << 20,
            // As if it were larger: nowhere is all of it played.
            whole_events: 0,
            first_rows: FIRST_ROWS,
            follows: false,
        };
        let order = Some(Order::Goto { at, window_ns: 300_000_000_000 });
        let player = Player::start(tape, Begin { order, narrowed: None, pace: Pace::REAL })?;
        loop {
            let played = player.played();
            if played.seeking.is_none() && !played.is_loading {
                break;
            }
            thread::sleep(Duration::from_millis(1));
        }
        let ms = began.elapsed().as_secs_f64() * 1e3;
        all.push((player.finish().totals.events, ms));
    }
    Ok(all)
}
