//! The one place where a run is put together: source → (recorder) → pipeline → filter → fan-out → sinks.

use std::{
    io::{self, IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;

use super::{
    ExitCode, Expected,
    delivery::{Delivery, Out, Totals},
    player::{Begin, FIRST_ROWS, Player, Tape, WHOLE_EVENTS},
    stop::{Reason, Stop},
};
use crate::{
    config::{Config, SummaryForm},
    event::EventBatch,
    metrics::Metrics,
    pipeline::{InFlight, LookedFor, NullVerdicts, Pipeline, PipelineConfig, Snapshot, VerdictSink},
    protocol::REGISTRY,
    report::{
        filter::{Filter, Thresholds},
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
        patterns::{PatternSink, SharedPatterns},
        recent::{DEFAULT_ROWS, RecentSink, SharedRecent},
        recording::Recorder,
        rollup::{RollupSink, SharedRollups},
        xlog::{SharedXlog, XlogSink},
    },
    source::{Source, heads::heads, recording::Recording, rollups::rollups_of},
    time::{BootTime, WallTime},
    transaction::{Transaction, TransactionBatch, WallRange},
    tui,
};

/// A paced replay hands over events in slices of so much event time, ns: shorter than a screen's frame.
const SLICE_NS: u64 = 50_000_000;

/// Ports whose datagrams are of protocols that are looked for; those that were named are DNS's.
pub(super) fn udp_ports(config: &Config) -> Vec<u16> {
    let is_wanted = |name: &str| config.protocols.is_empty() || config.protocols.iter().any(|it| it == name);
    let wanted = REGISTRY.iter().filter(|protocol| is_wanted(protocol.name()));
    let named = config.udp_ports.iter().filter(|_| is_wanted("dns"));
    wanted.flat_map(|protocol| protocol.udp_ports()).chain(named).copied().collect()
}

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
    /// Heading of the screen: what runs. Its filter, links and window are taken from the settings.
    pub heading: tui::Heading,
    /// Lines for standard error, written when the run has begun and a signal ends it in order.
    pub notes: String,
}

/// Reads the filter of the settings, if there is one.
pub fn filter(config: &Config) -> anyhow::Result<Option<Filter>> {
    let Some(text) = &config.filter else { return Ok(None) };
    read_filter(text, screen(config)?.thresholds()).map(Some)
}

/// Reads a filter.
pub fn read_filter(text: &str, thresholds: Thresholds) -> anyhow::Result<Filter> {
    Ok(Filter::parse(text, thresholds).map_err(|error| {
        Expected::new(
            error.to_string(),
            "for example: duration >= 100ms and (status_code in (500, 503) or target ~ '/api/**')",
        )
    })?)
}

/// The range that `--from` and `--to` name.
pub fn range(from: Option<WallTime>, to: Option<WallTime>) -> anyhow::Result<WallRange> {
    let range = WallRange { from: from.unwrap_or_default(), to: to.unwrap_or(WallTime(u64::MAX)) };
    if range.from >= range.to {
        return Err(Expected::new("--from is not before --to", "nothing can lie between them").into());
    }
    Ok(range)
}

/// Opens a recording.
pub fn open_recording(dir: &Path) -> anyhow::Result<Recording> {
    Recording::open(dir).map_err(|error| {
        let what = format!("recording {}: {error}", dir.display());
        if dir.is_file() {
            let hint =
                "if it is a packet capture: txray record --from FILE --out DIR makes a recording of it";
            return Expected::new(what, hint).into();
        }
        Expected::new(what, "name the folder that txray record --out has written").into()
    })
}

/// Reads what the settings say about the screen.
pub fn screen(config: &Config) -> anyhow::Result<tui::ScreenSettings> {
    let settings = tui::ScreenSettings::read(&config.screen);
    Ok(settings.map_err(|fault| Expected::new(fault.to_string(), fault.way_out))?)
}

/// Reads the template of links of the settings, if there is one.
pub fn template(config: &Config) -> anyhow::Result<Option<tui::Template>> {
    let parse = |text: &String| {
        tui::Template::parse(text).map_err(|error| {
            let hint =
                "for example: https://traces.example/search?service={service}&start={from_ms}&end={to_ms}";
            Expected::new(error.to_string(), hint)
        })
    };
    Ok(config.terminal.open_url.as_ref().map(parse).transpose()?)
}

/// Runs to the end and prints the summary.
pub fn run(run: Run) -> anyhow::Result<ExitCode> {
    let Run { config, pipeline, mode, input, verdicts, recorder, metrics, stop, heading, notes } = run;
    let filter = filter(&config)?;
    let settings = screen(&config)?;
    let rows_only = matches!(input, Input::Rows(_));
    let age_steps = pipeline.age_steps;
    let histograms = SharedHistograms::default();
    let mut sinks: Vec<Box<dyn Sink>> = Vec::new();
    if let Some(recorder) = &recorder {
        sinks.push(Box::new(recorder.transactions()));
    }
    sinks.push(Box::new(HistogramSink::new(histograms.clone())));
    // A replay on the screen is a playback.
    let has_screen = mode == Mode::Live && wants_screen(&config);
    super::log::start(has_screen);
    let rollups = if has_screen { SharedRollups::default() } else { SharedRollups::unread() };
    if has_screen || recorder.is_some() {
        let recording = recorder.as_ref().map(Recorder::rollups);
        sinks.push(Box::new(RollupSink::new(rollups.clone(), recording)));
    }
    // Nobody else looks at them.
    let pipeline = PipelineConfig { list_connections: has_screen, ..pipeline };
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
        let patterns = SharedPatterns::default();
        sinks.push(Box::new(PatternSink::new(patterns.clone(), metrics.clone())));
        let status = tui::SharedStatus::default();
        status.lock().losses.unknown = rows_only;
        sinks.push(Box::new(tui::StatusSink::new(status.clone(), metrics.clone())));
        let heading = tui::Heading {
            filter: filter.as_ref().map(|filter| filter.text().to_owned()),
            template: template(&config)?,
            window_ns: config
                .duration
                .filter(|duration| *duration < Duration::from_secs(300))
                .map(|duration| duration.as_nanos() as u64),
            ..heading
        };
        let past = recorder.is_some().then(|| past(&config, &pipeline, filter.as_ref())).flatten();
        let dir = config.record.out.clone().filter(|_| recorder.is_some());
        let fetches = dir.clone().map(|dir| fetches(dir, &pipeline));
        let rollups = tui::RollupSources { memory: Some(rollups), fetch: dir.map(fetch_rollups) };
        screen = Some((
            tui::Feed { histograms: histograms.clone(), xlog, recent, patterns, status: status.clone() },
            heading,
            past,
            fetches,
            rollups,
        ));
    } else if config.terminal.summary == SummaryForm::Text && !config.terminal.once {
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
        delivery: Delivery::new(
            LookedFor::new(&config.protocols),
            filter.clone(),
            match mode {
                Mode::Live => None,
                Mode::Replay { range, .. } => Some(range),
            },
            metrics.clone(),
        ),
        stop: stop.clone(),
        pace: match mode {
            Mode::Live => None,
            Mode::Replay { pace, .. } => pace.map(Pace::new),
        },
        until: match mode {
            Mode::Live => None,
            Mode::Replay { .. } => config.duration,
        },
        is_replay: mode != Mode::Live,
    };
    let timer = if mode == Mode::Live { config.duration } else { None };
    stop.watch(timer, tui::restore).context("watch for signals")?;
    // A closed standard error is nobody's loss.
    let _ = io::stderr().write_all(notes.as_bytes());

    let done = match screen {
        None => pump.run(input, verdicts, recorder),
        Some((feed, heading, past, fetches, rollups)) => {
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
            let shows = tui::Shows::Live(&feed, past);
            let shown = show(shows, fetches, rollups, heading, settings, &stop, &keys);
            let done = worker.join().map_err(|_| anyhow::anyhow!("the pipeline's thread panicked"))?;
            shown.context("draw the screen")?;
            done
        }
    };
    let Done { totals, snapshot, in_flight, reports, failure } = done;

    let losses = Losses { unknown: rows_only, ..Losses::collect(&snapshot, &metrics) };
    let shown = totals.transactions - totals.filtered;
    let summary = Summary {
        events: totals.events,
        transactions: totals.transactions,
        open: totals.open,
        unpaired: Summary::unpaired(&snapshot),
        losses,
        filtered: totals.filtered,
        duration_ns: match mode {
            Mode::Live => totals.duration_ns(),
            // More is read than lies in the range, and is no part of the run.
            Mode::Replay { range, .. } => length_ns(&totals, &snapshot, range),
        },
        operations: summary::operations(&histograms.lock()),
    };
    if stop.reason() != Some(Reason::ClosedPipe) {
        if config.terminal.once && config.terminal.summary == SummaryForm::Text {
            let in_flight = match mode {
                _ if rows_only => Err("only finished transactions were recorded"),
                // What was read behind the range is not what was in flight at its end.
                Mode::Replay { range, .. } if range.to != WallTime(u64::MAX) => {
                    Err("at the end of a range; txray snapshot DIR --at TIME tells")
                }
                _ => Ok(&*in_flight),
            };
            write_out(summary.once(in_flight, &age_steps).as_bytes())?;
        } else {
            print(&summary, &config)?;
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

/// Event time of a replay that lies in its range.
fn length_ns(totals: &Totals, snapshot: &Snapshot, range: WallRange) -> u64 {
    let Some(first) = totals.first else { return 0 };
    // Of rows alone the times are wall times, and the snapshot is empty.
    let wall = |time: BootTime| time.0.wrapping_sub(snapshot.time.0).wrapping_add(snapshot.wall.0);
    wall(totals.last).min(range.to.0).saturating_sub(wall(first).max(range.from.0))
}

/// Whether there is a terminal, and a screen is wanted on it.
pub fn wants_screen(config: &Config) -> bool {
    let is_terminal = io::stdout().is_terminal() && io::stdin().is_terminal();
    is_terminal && tui::usable() && !config.terminal.json && !config.terminal.once
}

/// Shows the screen; what it was left by stops the run.
pub fn show(
    shows: tui::Shows<'_>,
    fetches: Option<tui::Fetches>,
    rollups: tui::RollupSources,
    heading: tui::Heading,
    settings: tui::ScreenSettings,
    stop: &Stop,
    keys: &Stop,
) -> io::Result<tui::Left> {
    let left = tui::run(shows, fetches, rollups, heading, settings, || keys.reason().is_some());
    match &left {
        Ok(tui::Left::Quit) => stop.stop(Reason::Quit),
        Ok(tui::Left::Interrupted) | Err(_) => stop.stop(Reason::Signal),
        Ok(tui::Left::Stopped) => {}
    }
    left
}

/// What fetches the heads of a transaction, and what it did, from a recording.
pub fn fetches(dir: PathBuf, pipeline: &PipelineConfig) -> tui::Fetches {
    let (config, of_heads) = (pipeline.clone(), dir.clone());
    let heads: tui::FetchHeads = Arc::new(move |shown| heads(&of_heads, shown, &config));
    let config = pipeline.clone();
    tui::Fetches { heads, profile: Arc::new(move |shown| super::profile::steps(&dir, shown, &config)) }
}

/// What reads the rollups of a recording.
pub fn fetch_rollups(dir: PathBuf) -> tui::FetchRollups {
    Arc::new(move |range, column_ns| rollups_of(&dir, range, column_ns))
}

/// What plays the recording that this run makes.
fn past(config: &Config, pipeline: &PipelineConfig, filter: Option<&Filter>) -> Option<tui::OpenPast> {
    let tape = Tape {
        dir: config.record.out.clone()?,
        pipeline: pipeline.clone(),
        filter: filter.cloned(),
        range: WallRange::default(),
        until: None,
        xlog_dots: config.terminal.xlog_dots,
        whole_events: WHOLE_EVENTS,
        first_rows: FIRST_ROWS,
        follows: true,
    };
    Some(Box::new(move |order, narrowed| {
        let begin = Begin { order: Some(order), narrowed: narrowed.cloned(), pace: tui::Pace::REAL };
        Ok(Box::new(Player::start(tape.clone(), begin)?))
    }))
}

/// Prints the summary.
pub fn print(summary: &Summary, config: &Config) -> anyhow::Result<()> {
    let text = match (config.terminal.summary, config.terminal.json) {
        (SummaryForm::Json, _) => summary.json(),
        // Nothing but rows on standard output.
        (SummaryForm::Text, true) => {
            if let Some(warning) = summary.warning() {
                // A closed standard error is nobody's loss.
                let _ = warning.lines().try_for_each(|line| writeln!(io::stderr(), "txray: {line}"));
            }
            Vec::new()
        }
        (SummaryForm::Text, false) => format!("\n{}", summary.text()).into_bytes(),
    };
    write_out(&text)
}

fn write_out(text: &[u8]) -> anyhow::Result<()> {
    match io::stdout().write_all(text) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error).context("write the summary"),
        _ => Ok(()),
    }
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
    delivery: Delivery,
    stop: Stop,
    pace: Option<Pace>,
    /// Event time after which a replay ends.
    until: Option<Duration>,
    is_replay: bool,
}

impl Out for FanOut {
    fn take(&mut self, batch: TransactionBatch, snapshot: Option<Arc<Snapshot>>) {
        self.send(batch, snapshot);
    }
}

struct Done {
    totals: Totals,
    snapshot: Snapshot,
    /// By service, at the last instant.
    in_flight: Vec<InFlight>,
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
        let (snapshot, in_flight, mut failure) = match input {
            Input::Events(source) => self.events(source, verdicts, &mut recorder),
            Input::Rows(rows) => (Snapshot::default(), Vec::new(), self.rows(rows).err()),
        };
        let reports = self.fan_out.finish();
        // The sink of its transactions has finished: now the recorder may.
        if let Some(recorder) = recorder
            && let Err(error) = recorder.finish()
        {
            failure.get_or_insert(error.into());
        }
        Done { totals: self.delivery.totals, snapshot, in_flight, reports, failure }
    }

    fn events(
        &mut self,
        mut source: Box<dyn Source + Send>,
        verdicts: Box<dyn VerdictSink + Send>,
        recorder: &mut Option<Recorder>,
    ) -> (Snapshot, Vec<InFlight>, Option<anyhow::Error>) {
        let mut pipeline = match (self.make)(&[], verdicts) {
            Ok(pipeline) => pipeline,
            Err(error) => return (Snapshot::default(), Vec::new(), Some(error)),
        };
        let failure = self.pump(source.as_mut(), &mut pipeline, recorder).err();
        // The probes go first: nothing is read any more.
        drop(source);
        // What is in flight becomes `tracer_stopped`; to who looks at the last instant it is in flight. What came last is, too.
        pipeline.settle();
        let Snapshot { n_open, n_long_lived, n_left_out, in_flight, open, connections, .. } =
            pipeline.snapshot();
        let rest = pipeline.finish();
        let snapshot = pipeline.snapshot();
        let in_flight_last = in_flight.clone();
        let last =
            Snapshot { n_open, n_long_lived, n_left_out, in_flight, open, connections, ..snapshot.clone() };
        self.deliver(rest, Some(Arc::new(last)));
        (snapshot, in_flight_last, failure)
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
                        let start = self.delivery.totals.first.map_or(first.start_time.0, |first| first.0);
                        let last = start.saturating_add(u64::try_from(until.as_nanos()).unwrap_or(u64::MAX));
                        transactions.retain(|transaction| transaction.end_time.0 <= last);
                    }
                    let is_over = transactions.len() < n_all;
                    for transaction in &transactions {
                        // Wall time stands for boot time: only differences of it are shown.
                        let start = BootTime(transaction.start_time.0);
                        let totals = &mut self.delivery.totals;
                        let first = totals.first.get_or_insert(start);
                        *first = (*first).min(start);
                        totals.last = totals.last.max(BootTime(transaction.end_time.0));
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
                if self.is_replay {
                    recorder.tap_waiting(&batch);
                } else {
                    recorder.tap(&batch);
                }
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
            if self.is_replay
                && let Some(time) = Delivery::time_of(event)
            {
                let first = self.delivery.totals.first.unwrap_or(time);
                let elapsed = Duration::from_nanos(time.0.saturating_sub(first.0));
                if self.until.is_some_and(|until| elapsed > until) {
                    self.stop.stop(Reason::Time);
                    return true;
                }
                if let Some(pace) = &mut self.pace
                    && let Some(wait) = pace.wait(time)
                {
                    self.delivery.batch_is_over(pipeline, &mut self.fan_out);
                    if self.pause(wait) {
                        return true;
                    }
                }
            }
            self.delivery.push(event, pipeline, &mut self.fan_out);
        }
        self.delivery.batch_is_over(pipeline, &mut self.fan_out);
        false
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

    fn deliver(&mut self, batch: TransactionBatch, snapshot: Option<Arc<Snapshot>>) {
        self.delivery.deliver(batch, snapshot, &mut self.fan_out);
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
