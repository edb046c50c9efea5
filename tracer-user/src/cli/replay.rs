//! `txray replay`: the same code over a recording. No root, no BPF, any machine.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context as _;
use clap::Args;

use super::{
    ExitCode, Expected,
    args::{OnceArgs, RunArgs},
    capture,
    player::{Begin, FIRST_ROWS, Outcome, Player, Tape, WHOLE_EVENTS},
    run::{self, Input, Mode, Run},
    stop::{Reason, Stop},
};
use crate::{
    config::{Config, Settings, Speed},
    event::EventBatch,
    metrics::Metrics,
    pipeline::{NullVerdicts, PipelineConfig},
    report::{
        loss::Losses,
        summary::{self, Summary},
    },
    schema::PayloadMode,
    source::{
        Restart, Source, SourceError,
        replay::{ReplayError, ReplaySource},
    },
    time::WallTime,
    transaction::WallRange,
    tui::{self, Playback as _},
};

/// Run a recording through the pipeline again: the same transactions, histograms and dots as the live run had. Needs no
/// root and runs on any machine.
///
/// Counter graphs over a range are sums that were recorded, of everything: --protocol and --filter do not narrow those of a recording, as their
/// title says.
///
/// A packet capture (pcap or pcapng, also gzip or zstd) is run through the same pipeline: each TCP connection as its server sees it, named by
/// its address, and likewise the datagrams of DNS, mDNS and LLMNR (ports 53, 5353, 5355 and --udp-port; other UDP is counted). Several are read as one, in the order of their times, whichever order they are named in: what tcpdump -C or -G has
/// left behind, or captures of several interfaces; a packet that is in two of them counts once. For the screen it is recorded into a folder in $TMPDIR first, which takes about as much room as the capture and
/// goes at the end.
#[derive(Debug, Args)]
#[command(after_help = "EXAMPLES\n  txray replay rec\n  txray replay rec --speed 10\n  \
    txray replay rec --from 2026-08-21T14:03:00Z --to 2026-08-21T14:04:00Z --json\n  \
    txray replay rec --once\n  txray replay traffic.pcap\n  txray replay rotated.pcap*\n  \
    tcpdump -U -w - tcp port 80 | txray replay -")]
pub struct ReplayArgs {
    /// Folder of the recording; or packet captures, - for one on standard input
    #[arg(value_name = "DIR|FILE", required = true)]
    paths: Vec<PathBuf>,
    /// How fast: as it happened, ten times that, or as fast as the machine can
    #[arg(long, value_enum, default_value = "max")]
    speed: Speed,
    /// Only what ended at this time or later (RFC 3339, or ns since 1970)
    #[arg(long, value_name = "TIME")]
    from: Option<WallTime>,
    /// Only what ended before this time
    #[arg(long, value_name = "TIME")]
    to: Option<WallTime>,
    /// On a terminal: stop at this instant, with the screen as it was then
    #[arg(long, value_name = "TIME")]
    at: Option<WallTime>,
    #[command(flatten)]
    once: OnceArgs,
    #[command(flatten)]
    run: RunArgs,
}

/// Runs it.
pub fn run(args: &ReplayArgs) -> anyhow::Result<ExitCode> {
    let config = args.run.resolve(args.run.settings(Settings::default()))?;
    let config = args.once.apply(config, &args.run)?;
    if config.terminal.once && args.at.is_some() {
        return Err(Expected::new(
            "--once has no screen, and --at stops one at an instant",
            "`txray snapshot DIR --at TIME` prints the state then; --to TIME ends the table there",
        )
        .into());
    }
    run::filter(&config)?;
    let screen = run::screen(&config)?;
    let range = run::range(args.from, args.to)?;
    let pipeline = PipelineConfig {
        protocols: config.protocols.clone(),
        opaque_ports: config.opaque_ports.clone(),
        age_steps: screen.age_steps,
        ..PipelineConfig::default()
    };
    let is_capture = capture::are_named(&args.paths)?;
    if is_capture && run::wants_screen(&config) {
        let made = capture::into_folder(&args.paths, run::udp_ports(&config), &pipeline)?;
        let code = match &made.stopped {
            Some(code) => *code,
            None => play(args, made.folder.path(), config, screen, range)?,
        };
        return capture::whole(made.report.fault()).map(|()| code);
    }
    let dir = args.paths.first().filter(|_| !is_capture);
    if let Some(dir) = dir.filter(|_| run::wants_screen(&config)) {
        return play(args, dir, config, screen, range);
    }
    if args.at.is_some() {
        return Err(Expected::new(
            "--at shows the screen of an instant, and there is no terminal to show it on",
            "`txray snapshot DIR --at TIME` prints the state then",
        )
        .into());
    }
    let metrics = Metrics::default();
    let faults = Faults::default();
    let pace = match args.speed {
        Speed::Real => Some(1.0),
        Speed::Tenfold => Some(10.0),
        Speed::Max => None,
    };
    let mode = Mode::Replay { pace, range };
    let Some(dir) = dir else {
        let source = capture::open(&args.paths, run::udp_ports(&config))?;
        let report = source.report();
        let input = Input::Events(Box::new(source));
        let code = replay(config, pipeline, mode, input, metrics)?;
        capture::tell(&report);
        return capture::whole(report.fault()).map(|()| code);
    };
    let recording = run::open_recording(dir)?;
    for fault in &recording.faults {
        faults.add(fault.to_string());
    }
    let input = if recording.payload() == PayloadMode::None {
        faults.note(
            "recorded with --payload none: these are the recorded transactions, nothing is parsed again and losses are not known",
        );
        // Only the range leaves row groups out: what the filter leaves out is still counted.
        Input::Rows(Box::new(recording.transactions(range).map(|rows| Ok(rows?))))
    } else {
        let source =
            ReplaySource::open(&recording, range, metrics.clone()).map_err(|error| no_recording(&error))?;
        Input::Events(Box::new(Watched { source, faults: faults.clone() }))
    };
    let code = replay(config, pipeline, mode, input, metrics)?;
    unreadable(faults.take()).map(|()| code)
}

/// Runs without a screen.
fn replay(
    config: Config,
    pipeline: PipelineConfig,
    mode: Mode,
    input: Input,
    metrics: Metrics,
) -> anyhow::Result<ExitCode> {
    run::run(Run {
        pipeline,
        mode,
        input,
        verdicts: Box::new(NullVerdicts),
        recorder: None,
        metrics,
        stop: Stop::default(),
        notes: String::new(),
        heading: tui::Heading::default(),
        config,
    })
}

fn unreadable(n: u64) -> anyhow::Result<()> {
    match n {
        0 => Ok(()),
        n => Err(Expected::new(
            format!("{n} files of the recording cannot be read; what was good is above"),
            "txray recover DIR seals what a kill left open and verifies every file",
        )
        .into()),
    }
}

/// Plays the recording on the screen, and prints the summary of what was loaded last.
fn play(
    args: &ReplayArgs,
    dir: &Path,
    config: Config,
    screen: tui::ScreenSettings,
    range: WallRange,
) -> anyhow::Result<ExitCode> {
    let recording = run::open_recording(dir)?;
    super::log::start(true);
    let bounds = recording.summary().range.unwrap_or_default();
    if let Some(at) = args.at.filter(|at| !(bounds.from..=bounds.to).contains(at)) {
        let WallRange { from, to } = bounds;
        let hint = format!("it goes from {} to {} (ns since 1970)", from.0, to.0);
        return Err(Expected::new(format!("the recording does not reach to {}", at.0), hint).into());
    }
    if recording.payload() != PayloadMode::None && recording.runs.iter().all(|run| run.events.is_empty()) {
        return Err(no_recording(&ReplayError::NoEvents(dir.to_owned())));
    }
    let filter = run::filter(&config)?;
    let stop = Stop::default();
    stop.watch(None, tui::restore).context("watch for signals")?;
    let heading = tui::Heading {
        title: format!("replay  {}", capture::title(&args.paths)),
        filter: filter.as_ref().map(|filter| filter.text().to_owned()),
        replay: true,
        // What was made of packet captures a moment ago was made of those protocols.
        some_protocols: !config.protocols.is_empty() && args.paths.iter().any(|path| path == dir),
        template: run::template(&config)?,
        ..tui::Heading::default()
    };
    let heading = tui::Heading {
        window_ns: config
            .duration
            .filter(|duration| *duration < Duration::from_secs(300))
            .map(|duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)),
        ..heading
    };
    let window_ns = tui::App::with_window(heading.window_ns).window_ns;
    let begin = Begin {
        order: args.at.map(|at| tui::Order::Goto { at, window_ns }),
        narrowed: None,
        pace: match args.speed {
            Speed::Real => tui::Pace::REAL,
            Speed::Tenfold => tui::Pace::Thousandths(10_000),
            Speed::Max => tui::Pace::Max,
        },
    };
    let tape = Tape {
        dir: dir.to_owned(),
        pipeline: PipelineConfig {
            protocols: config.protocols.clone(),
            opaque_ports: config.opaque_ports.clone(),
            age_steps: screen.age_steps,
            list_connections: true,
            ..PipelineConfig::default()
        },
        filter: filter.clone(),
        range,
        until: config.duration,
        xlog_dots: config.terminal.xlog_dots,
        whole_events: WHOLE_EVENTS,
        first_rows: FIRST_ROWS,
        follows: false,
    };
    let fetches = run::fetches(dir.to_owned(), &tape.pipeline);
    let player = Player::start(tape, begin).context("play the recording")?;
    let rollups = tui::RollupSources { memory: None, fetch: Some(run::fetch_rollups(dir.to_owned())) };
    let shows = tui::Shows::Recording(&player);
    let left = run::show(shows, Some(fetches), rollups, heading, screen, &stop, &stop.clone());
    let histograms = player.feed().histograms;
    let Outcome { totals, snapshot, metrics, n_faults } = player.finish();
    left.context("draw the screen")?;
    let unknown = recording.payload() == PayloadMode::None;
    let summary = Summary {
        events: totals.events,
        transactions: totals.transactions,
        open: totals.open,
        unpaired: Summary::unpaired(&snapshot),
        losses: Losses { unknown, ..Losses::collect(&snapshot, &metrics) },
        filtered: totals.filtered,
        duration_ns: totals.duration_ns(),
        operations: summary::operations(&histograms.lock()),
    };
    run::print(&summary, &config)?;
    unreadable(n_faults)?;
    Ok(match stop.reason() {
        Some(Reason::Signal) => ExitCode::Interrupted,
        _ if filter.is_some() && totals.transactions == totals.filtered => ExitCode::NothingMatched,
        _ => ExitCode::Ok,
    })
}

fn no_recording(error: &ReplayError) -> anyhow::Error {
    Expected::new(error.to_string(), "a recording is a folder that txray record --out has written").into()
}

/// Files that cannot be read, told as they are met and counted.
#[derive(Clone, Default)]
struct Faults(Arc<Mutex<u64>>);

impl Faults {
    fn add(&self, fault: String) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.note(&fault);
    }

    fn note(&self, text: &str) {
        use std::io::Write as _;
        // A closed standard error is nobody's loss.
        let _ = std::io::stderr().write_all(format!("txray: {text}\n").as_bytes());
    }

    fn set(&self, n: u64) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) += n;
    }

    fn take(&self) -> u64 {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A replay whose faults are known at its end.
struct Watched {
    source: ReplaySource,
    faults: Faults,
}

impl Source for Watched {
    fn next_batch(&mut self) -> Result<Option<EventBatch>, SourceError> {
        self.source.next_batch()
    }

    fn restart(&mut self) -> Option<Restart> {
        self.source.restart()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        // The source has told of each in the log.
        self.faults.set(self.source.faults().1);
    }
}
