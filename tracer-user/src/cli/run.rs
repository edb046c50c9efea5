//! The one place where a run is put together: source → (recorder) → pipeline → filter → fan-out → sinks.

use std::{
    io::{self, IsTerminal as _, Write as _},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;

use super::{
    ExitCode, Expected,
    stop::{Reason, Stop},
};
use crate::{
    config::{Config, SummaryForm},
    event::{Event, EventBatch},
    metrics::{Counter, Metrics},
    pipeline::{NullVerdicts, Pipeline, PipelineConfig, Snapshot, VerdictSink},
    report::{
        filter::Filter,
        format,
        loss::Losses,
        strip::Strip,
        summary::{self, Summary},
    },
    sink::{
        Sink,
        fanout::{FanOut, SinkReport, WhenFull},
        histogram::{HistogramSink, SharedHistograms},
        jsonl::JsonLines,
        recent::{DEFAULT_ROWS, RecentSink, SharedRecent},
        recording::Recorder,
        xlog::{SharedXlog, XlogSink},
    },
    source::Source,
    time::{BootTime, WallTime},
    transaction::{Transaction, TransactionBatch, WallRange},
    tui,
};

/// Sinks hear of what the pipeline holds when so much event time has passed since they last did, ns.
const OBSERVE_EVERY_NS: u64 = 250_000_000;
/// Transactions go to the sinks this often (event time), or when so many are ready: a batch costs each sink a wake-up and a place
/// in its queue, however few it holds.
const DELIVER_EVERY_NS: u64 = 20_000_000;
const DELIVER_AT: usize = 1024;
/// A paced replay hands over events in slices of so much event time, ns: shorter than a screen's frame.
const SLICE_NS: u64 = 50_000_000;

/// Whether events come from the kernel or from a recording.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mode {
    /// As they happen; nothing may hold them up.
    Live,
    /// Recorded; so many times as fast as they happened, `None` = as fast as the machine can.
    Replay {
        /// Event time per wall time.
        pace: Option<f64>,
        /// Only what ends in it.
        range: WallRange,
    },
}

/// What comes in.
pub enum Input {
    /// Events, to be run through the pipeline.
    Events(Box<dyn Source + Send>),
    /// Transactions as they were recorded, of a recording that holds no payload.
    Rows(Box<dyn Iterator<Item = anyhow::Result<Vec<Transaction>>> + Send>),
}

/// What a run is made of.
pub struct Run {
    /// Settings.
    pub config: Config,
    /// The pipeline's settings.
    pub pipeline: PipelineConfig,
    /// Live or replay.
    pub mode: Mode,
    /// Where events come from.
    pub input: Input,
    /// Where verdicts go.
    pub verdicts: Box<dyn VerdictSink + Send>,
    /// Stores the events, and the transactions that the filter lets through.
    pub recorder: Option<Recorder>,
    /// Counters.
    pub metrics: Metrics,
    /// Ends the run.
    pub stop: Stop,
    /// Heading of the screen: what runs.
    pub title: String,
    /// Lines for standard error, written when the run has begun and a signal ends it in order.
    pub notes: String,
}

/// Reads the filter of the settings, if there is one.
pub fn filter(config: &Config) -> anyhow::Result<Option<Filter>> {
    let parse = |text: &String| {
        Filter::parse(text).map_err(|error| {
            Expected::new(
                error.to_string(),
                "for example: duration >= 100ms and (status_code in (500, 503) or target ~ '/api/**')",
            )
        })
    };
    Ok(config.filter.as_ref().map(parse).transpose()?)
}

/// Runs to the end and prints the summary.
pub fn run(run: Run) -> anyhow::Result<ExitCode> {
    let Run { config, pipeline, mode, input, verdicts, recorder, metrics, stop, title, notes } = run;
    let filter = filter(&config)?;
    let rows_only = matches!(input, Input::Rows(_));
    let histograms = SharedHistograms::default();
    let mut sinks: Vec<Box<dyn Sink>> = Vec::new();
    if let Some(recorder) = &recorder {
        sinks.push(Box::new(recorder.transactions()));
    }
    sinks.push(Box::new(HistogramSink::new(histograms.clone())));
    let out_is_terminal = io::stdout().is_terminal();
    let has_screen = out_is_terminal && io::stdin().is_terminal() && tui::usable() && !config.terminal.json;
    super::log::start(has_screen);
    let closed = {
        let stop = stop.clone();
        move || stop.stop(Reason::ClosedPipe)
    };
    let mut screen = None;
    if config.terminal.json {
        sinks.push(Box::new(JsonLines::new(io::stdout(), closed)));
    } else if has_screen {
        let xlog = SharedXlog::new(config.terminal.xlog_dots);
        sinks.push(Box::new(XlogSink::new(xlog.clone(), metrics.clone())));
        let recent = SharedRecent::new(DEFAULT_ROWS);
        sinks.push(Box::new(RecentSink::new(recent.clone())));
        let status = tui::SharedStatus::default();
        status.lock().losses.unknown = rows_only;
        sinks.push(Box::new(tui::StatusSink::new(status.clone(), metrics.clone())));
        let heading = tui::Heading {
            title,
            filter: filter.as_ref().map(|filter| filter.text().to_owned()),
            replay: mode != Mode::Live,
            window_ns: config
                .duration
                .filter(|duration| *duration < Duration::from_secs(300))
                .map(|duration| duration.as_nanos() as u64),
        };
        screen = Some((
            tui::Feed { histograms: histograms.clone(), xlog, recent, status: status.clone() },
            heading,
        ));
    } else if config.terminal.summary == SummaryForm::Text {
        sinks.push(Box::new(Strip::new(io::stdout(), rows_only, closed)));
    }
    let when_full = if mode == Mode::Live { WhenFull::Drop } else { WhenFull::Wait };
    let fan_out = FanOut::start(sinks, config.capture.sink_queue, when_full, metrics.clone())
        .context("start the sinks' threads")?;
    let pump = Pump {
        make: Box::new({
            let metrics = metrics.clone();
            move |checkpoint: &[u8], verdicts| {
                if checkpoint.is_empty() {
                    return Ok(Pipeline::new(pipeline.clone(), metrics.clone(), verdicts));
                }
                Pipeline::restore(checkpoint, pipeline.clone(), metrics.clone(), verdicts)
                    .context("continue from a checkpoint of the recording")
            }
        }),
        fan_out,
        filter: filter.clone(),
        metrics: metrics.clone(),
        stop: stop.clone(),
        pace: match mode {
            Mode::Live => None,
            Mode::Replay { pace, .. } => pace.map(Pace::new),
        },
        range: match mode {
            Mode::Live => None,
            Mode::Replay { range, .. } => Some(range),
        },
        until: match mode {
            Mode::Live => None,
            Mode::Replay { .. } => config.duration,
        },
        is_replay: mode != Mode::Live,
        totals: Totals::default(),
        observed: 0,
        delivered: 0,
    };
    let timer = if mode == Mode::Live { config.duration } else { None };
    stop.watch(timer, tui::restore).context("watch for signals")?;
    // A closed standard error is nobody's loss.
    let _ = io::stderr().write_all(notes.as_bytes());

    let done = match screen {
        None => pump.run(input, verdicts, recorder),
        Some((feed, heading)) => {
            let status = feed.status.clone();
            let worker = thread::Builder::new()
                .name("pipeline".to_owned())
                .spawn(move || {
                    let done = pump.run(input, verdicts, recorder);
                    status.finished();
                    done
                })
                .context("start the pipeline's thread")?;
            let keys = stop.clone();
            let shown = tui::run(&feed, heading, || keys.reason().is_some());
            match &shown {
                Ok(tui::Left::Quit) => stop.stop(Reason::Quit),
                Ok(tui::Left::Interrupted) | Err(_) => stop.stop(Reason::Signal),
                Ok(tui::Left::Stopped) => {}
            }
            let done = worker.join().map_err(|_| anyhow::anyhow!("the pipeline's thread panicked"))?;
            shown.context("draw the screen")?;
            done
        }
    };
    let Done { totals, snapshot, reports, failure } = done;

    let losses = Losses { unknown: rows_only, ..Losses::collect(&snapshot, &metrics) };
    let shown = totals.transactions - totals.filtered;
    let summary = Summary {
        events: totals.events,
        transactions: totals.transactions,
        open: totals.open,
        unpaired: Summary::unpaired(&snapshot),
        losses,
        filtered: totals.filtered,
        duration_ns: totals.duration_ns(),
        operations: summary::operations(&histograms.lock()),
    };
    if stop.reason() != Some(Reason::ClosedPipe) {
        let text = match (config.terminal.summary, config.terminal.json) {
            (SummaryForm::Json, _) => summary.json(),
            // Nothing but rows on standard output.
            (SummaryForm::Text, true) => Vec::new(),
            (SummaryForm::Text, false) => format!("\n{}", summary.text()).into_bytes(),
        };
        match io::stdout().write_all(&text) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                return Err(error).context("write the summary");
            }
            _ => {}
        }
    }
    complain(&reports)?;
    if let Some(failure) = failure {
        return Err(failure);
    }
    Ok(match stop.reason() {
        Some(Reason::Signal) => ExitCode::Interrupted,
        _ if filter.is_some() && shown == 0 => ExitCode::NothingMatched,
        _ => ExitCode::Ok,
    })
}

/// What sinks failed to do, on standard error; the run itself goes on without it, the losses are counted.
fn complain(reports: &[SinkReport]) -> anyhow::Result<()> {
    let mut text = String::new();
    for report in reports {
        let SinkReport { name, written: _, dropped, failed, error } = report;
        if let Some(error) = error {
            text.push_str(&format!("txray: sink {name} failed: {error:#}\n"));
        }
        if dropped + failed != 0 {
            let n = format::count(dropped + failed);
            text.push_str(&format!("txray: sink {name} lost {n} transactions\n"));
        }
    }
    // If standard error is closed there is nobody to tell.
    let _ = io::stderr().write_all(text.as_bytes());
    match reports.iter().find_map(|report| report.error.as_ref().map(|error| (report.name, error))) {
        Some((name, error)) => Err(anyhow::anyhow!("sink {name}: {error:#}")),
        None => Ok(()),
    }
}

type MakePipeline = dyn Fn(&[u8], Box<dyn VerdictSink + Send>) -> anyhow::Result<Pipeline> + Send;

/// Moves events through the pipeline to the sinks, on one thread.
struct Pump {
    make: Box<MakePipeline>,
    fan_out: FanOut,
    filter: Option<Filter>,
    metrics: Metrics,
    stop: Stop,
    pace: Option<Pace>,
    /// Event time after which a replay ends.
    until: Option<Duration>,
    is_replay: bool,
    /// What is outside is no part of the run.
    range: Option<WallRange>,
    totals: Totals,
    /// Event time of the last snapshot handed to the sinks.
    observed: u64,
    /// Event time of the last batch handed to the sinks.
    delivered: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Totals {
    events: u64,
    transactions: u64,
    open: u64,
    filtered: u64,
    first: Option<BootTime>,
    last: BootTime,
}

impl Totals {
    fn duration_ns(&self) -> u64 {
        self.first.map_or(0, |first| self.last.0.saturating_sub(first.0))
    }
}

struct Done {
    totals: Totals,
    snapshot: Snapshot,
    reports: Vec<SinkReport>,
    failure: Option<anyhow::Error>,
}

impl Pump {
    fn run(
        mut self,
        input: Input,
        verdicts: Box<dyn VerdictSink + Send>,
        mut recorder: Option<Recorder>,
    ) -> Done {
        let (snapshot, mut failure) = match input {
            Input::Events(source) => self.events(source, verdicts, &mut recorder),
            Input::Rows(rows) => (Snapshot::default(), self.rows(rows).err()),
        };
        let reports = self.fan_out.finish();
        // The sink of its transactions has finished: now the recorder may.
        if let Some(recorder) = recorder
            && let Err(error) = recorder.finish()
        {
            failure.get_or_insert(error.into());
        }
        Done { totals: self.totals, snapshot, reports, failure }
    }

    fn events(
        &mut self,
        mut source: Box<dyn Source + Send>,
        verdicts: Box<dyn VerdictSink + Send>,
        recorder: &mut Option<Recorder>,
    ) -> (Snapshot, Option<anyhow::Error>) {
        let mut pipeline = match (self.make)(&[], verdicts) {
            Ok(pipeline) => pipeline,
            Err(error) => return (Snapshot::default(), Some(error)),
        };
        let failure = self.pump(source.as_mut(), &mut pipeline, recorder).err();
        // The probes go first: nothing is read any more.
        drop(source);
        // What is in flight becomes `tracer_stopped`; to who looks at the last instant it is in flight.
        let Snapshot { n_open, n_long_lived, in_flight, open, .. } = pipeline.snapshot();
        let rest = pipeline.finish();
        let snapshot = pipeline.snapshot();
        let last = Snapshot { n_open, n_long_lived, in_flight, open, ..snapshot.clone() };
        self.deliver(rest, Some(&last));
        (snapshot, failure)
    }

    fn rows(&mut self, rows: impl Iterator<Item = anyhow::Result<Vec<Transaction>>>) -> anyhow::Result<()> {
        let mut failure = Ok(());
        for rows in rows {
            if self.stop.reason().is_some() {
                break;
            }
            match rows {
                Ok(mut transactions) => {
                    let n_all = transactions.len();
                    if let (Some(until), Some(first)) = (self.until, transactions.first()) {
                        let start = self.totals.first.map_or(first.start_time.0, |first| first.0);
                        let last = start.saturating_add(u64::try_from(until.as_nanos()).unwrap_or(u64::MAX));
                        transactions.retain(|transaction| transaction.end_time.0 <= last);
                    }
                    let is_over = transactions.len() < n_all;
                    for transaction in &transactions {
                        // Wall time stands for boot time: only differences of it are shown.
                        let start = BootTime(transaction.start_time.0);
                        let first = self.totals.first.get_or_insert(start);
                        *first = (*first).min(start);
                        self.totals.last = self.totals.last.max(BootTime(transaction.end_time.0));
                    }
                    let watermark = transactions.last().map_or(WallTime(0), |last| last.end_time);
                    self.deliver(TransactionBatch { transactions, watermark }, None);
                    if is_over {
                        self.stop.stop(Reason::Time);
                    }
                }
                // It goes on behind the file that is at fault; the first fault is told at the end.
                Err(error) => failure = failure.and(Err(error)),
            }
        }
        failure
    }

    fn pump(
        &mut self,
        source: &mut dyn Source,
        pipeline: &mut Pipeline,
        recorder: &mut Option<Recorder>,
    ) -> anyhow::Result<()> {
        let mut is_first = true;
        loop {
            // A live source ends by itself once it is told to, and is drained first.
            if self.is_replay && self.stop.reason().is_some() {
                return Ok(());
            }
            let Some(batch) = source.next_batch()? else { return Ok(()) };
            let batch = Arc::new(batch);
            if let Some(restart) = source.restart() {
                let next = (self.make)(&restart.checkpoint, Box::new(NullVerdicts))?;
                let mut rest = std::mem::replace(pipeline, next).finish();
                rest.transactions.retain(|transaction| transaction.is_finished());
                self.deliver(rest, None);
            }
            if let Some(recorder) = recorder {
                if is_first {
                    recorder.checkpoint(pipeline.checkpoint(), batch.first_ordinal);
                }
                recorder.tap(&batch);
            }
            is_first = false;
            if self.push(&batch, pipeline) {
                return Ok(());
            }
            if let Some(recorder) = recorder
                && recorder.wants_checkpoint()
            {
                recorder.checkpoint(pipeline.checkpoint(), batch.first_ordinal + batch.events.len() as u64);
            }
        }
    }

    /// Pushes a batch; returns whether the time of a replay is over.
    fn push(&mut self, batch: &EventBatch, pipeline: &mut Pipeline) -> bool {
        for event in &batch.events {
            let time = time_of(event);
            // What the machine said before the first probe was attached is no part of the run's time.
            let is_fact = matches!(event, Event::Listening(_) | Event::ProcessFacts(_));
            if let Some(time) = time.known().filter(|_| !is_fact) {
                let first = *self.totals.first.get_or_insert(time);
                let elapsed = Duration::from_nanos(time.0.saturating_sub(first.0));
                if self.until.is_some_and(|until| elapsed > until) {
                    self.stop.stop(Reason::Time);
                    return true;
                }
                if let Some(pace) = &mut self.pace
                    && let Some(wait) = pace.wait(time)
                {
                    let snapshot = self.snapshot_if_due(pipeline, time);
                    let ready = pipeline.drain();
                    self.deliver(ready, snapshot.as_ref());
                    if self.pause(wait) {
                        return true;
                    }
                }
                self.totals.last = self.totals.last.max(time);
            }
            self.totals.events += u64::from(!matches!(event, Event::Tick(_)));
            pipeline.push(event);
        }
        let now = self.totals.last;
        let snapshot = self.snapshot_if_due(pipeline, now);
        let is_due =
            now.0 >= self.delivered.saturating_add(DELIVER_EVERY_NS) || pipeline.n_ready() >= DELIVER_AT;
        if is_due || snapshot.is_some() {
            self.delivered = now.0;
            let ready = pipeline.drain();
            self.deliver(ready, snapshot.as_ref());
        }
        false
    }

    fn snapshot_if_due(&mut self, pipeline: &Pipeline, now: BootTime) -> Option<Snapshot> {
        if now.0 < self.observed.saturating_add(OBSERVE_EVERY_NS) {
            return None;
        }
        self.observed = now.0;
        Some(pipeline.snapshot())
    }

    /// Waits, unless the run is stopped meanwhile; returns whether it was.
    fn pause(&self, wait: Duration) -> bool {
        let end = Instant::now() + wait;
        loop {
            if self.stop.reason().is_some() {
                return true;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            thread::sleep(left.min(Duration::from_millis(50)));
        }
    }

    fn deliver(&mut self, mut batch: TransactionBatch, snapshot: Option<&Snapshot>) {
        if let Some(range) = self.range {
            batch.transactions.retain(|transaction| {
                // A request that was in flight when a cut replay ended is in the whole one a finished one behind the cut.
                let is_inside = (range.from..range.to).contains(&transaction.end_time);
                is_inside && (transaction.is_finished() || range.to == WallTime(u64::MAX))
            });
        }
        let n_all = batch.transactions.len();
        let n_open = batch.transactions.iter().filter(|transaction| !transaction.is_finished()).count();
        self.totals.open += n_open as u64;
        self.totals.transactions += (n_all - n_open) as u64;
        if let Some(filter) = &self.filter {
            let mut filtered = 0;
            batch.transactions.retain(|transaction| {
                let keep = filter.matches(transaction);
                filtered += u64::from(!keep && transaction.is_finished());
                keep
            });
            self.totals.filtered += filtered;
            self.metrics.add(Counter::Filtered, filtered);
        }
        if n_all != 0 || snapshot.is_some() || batch.watermark != WallTime(0) {
            self.fan_out.send(batch, snapshot.map(|snapshot| Arc::new(snapshot.clone())));
        }
    }
}

/// Holds a replay to its pace.
struct Pace {
    factor: f64,
    start: Option<(BootTime, Instant)>,
    slice_end: u64,
}

impl Pace {
    fn new(factor: f64) -> Pace {
        Pace { factor, start: None, slice_end: 0 }
    }

    /// How long to wait before the event at `time` may go; `None` within a slice.
    fn wait(&mut self, time: BootTime) -> Option<Duration> {
        let (first, started) = *self.start.get_or_insert_with(|| (time, Instant::now()));
        if time.0 < self.slice_end {
            return None;
        }
        self.slice_end = time.0 + SLICE_NS;
        let due = Duration::from_nanos((time.0.saturating_sub(first.0) as f64 / self.factor) as u64);
        Some(due.saturating_sub(started.elapsed()))
    }
}

fn time_of(event: &Event) -> BootTime {
    match event {
        Event::Data(data) => data.time,
        Event::ConnOpen(open) => open.time,
        Event::ConnShut(shut) => shut.time,
        Event::ConnClose(close) => close.time,
        Event::Process(process) => process.time,
        Event::Anchor(anchor) => anchor.boot,
        Event::ProcessFacts(facts) => facts.time,
        Event::Listening(listening) => listening.time,
        Event::Counters(counters) => counters.time,
        Event::Tick(time) => *time,
        Event::Loss(loss) => loss.time,
    }
}
