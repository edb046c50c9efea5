//! Packet captures on the command line: what `replay` and `record --from` have in common.

use std::{
    io::{IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;

use super::{
    ExitCode, Expected,
    delivery::Delivery,
    record,
    run::{self, Input, Mode, Run},
    stop::{Reason, Stop},
};
use crate::{
    config::{Config, Payload},
    metrics::Metrics,
    pipeline::{LookedFor, NullVerdicts, Pipeline, PipelineConfig},
    schema::PayloadMode,
    sink::{
        Sink,
        fanout::{FanOut, WhenFull},
        recording::{Recorder, RecordingConfig},
        rollup::{RollupSink, SharedRollups},
    },
    source::{
        Source as _,
        pcap::{CaptureError, PcapSource, Report},
    },
    transaction::{TransactionBatch, WallRange},
    tui,
};

/// What is read so far is told this often.
const TELL_EVERY: Duration = Duration::from_millis(200);

/// Whether paths name captures: one that is there and no folder, or several. A folder among several is an error.
pub(super) fn are_named(paths: &[PathBuf]) -> anyhow::Result<bool> {
    let is_file = |path: &PathBuf| path == Path::new("-") || (path.exists() && !path.is_dir());
    match paths {
        [path] => Ok(is_file(path)),
        _ => {
            files(paths)?;
            Ok(true)
        }
    }
}

/// What captures are called together.
pub(super) fn title(paths: &[PathBuf]) -> String {
    let first = paths.first().map_or_else(String::new, |path| path.display().to_string());
    match paths.len() {
        0 | 1 => first,
        n => format!("{first} and {} more", n - 1),
    }
}

/// Checks that none of them is a folder, nor standard input twice.
fn files(paths: &[PathBuf]) -> anyhow::Result<()> {
    if let Some(folder) = paths.iter().find(|path| path.is_dir()) {
        let name = folder.display();
        let (what, hint) = match paths.iter().find(|path| !path.is_dir()) {
            Some(file) => (
                format!(
                    "{name} is a folder, and {} is not: recordings and captures are not read together",
                    file.display()
                ),
                "a recording is named alone; several captures are read as one",
            ),
            None if paths.len() > 1 => (
                format!("{name} is not alone: recordings are read one by one"),
                "name one folder: txray replay DIR",
            ),
            None => (
                format!("{name} is a folder, and a packet capture is a file"),
                "if it is a recording: txray replay DIR",
            ),
        };
        return Err(Expected::new(what, hint).into());
    }
    if paths.iter().filter(|path| *path == Path::new("-")).count() > 1 {
        return Err(Expected::new("standard input is named twice", "it can be read once").into());
    }
    Ok(())
}

/// Opens captures, which are read as one; datagrams are read on these ports.
pub(super) fn open(paths: &[PathBuf], udp_ports: Vec<u16>) -> anyhow::Result<PcapSource> {
    files(paths)?;
    let source = PcapSource::open(paths).map_err(|error| {
        let hint = match &error {
            CaptureError::Open { .. } => "name a file that tcpdump -w has written, or - for standard input",
            CaptureError::Foreign { .. } => {
                "captures are pcap and pcapng files of Ethernet, Linux cooked, raw IP or loopback packets, as they are or \
                 in gzip or zstd; recordings are folders"
            }
            CaptureError::Damaged { .. } => "nothing before it can be read",
        };
        Expected::new(error.to_string(), hint)
    })?;
    Ok(source.with_udp_ports(udp_ports))
}

/// What could not be read is an error, behind the result of what could.
pub(super) fn whole(fault: Option<String>) -> anyhow::Result<()> {
    match fault {
        None => Ok(()),
        Some(fault) => Err(Expected::new(fault, "what was good before it is above, and was counted").into()),
    }
}

/// Says what was in it.
pub(super) fn tell(report: &Report) {
    // A closed standard error is nobody's loss.
    let _ = std::io::stderr().write_all(format!("txray: {}\n", report.line()).as_bytes());
}

/// Records captures as `record` does; returns what could not be read as well.
pub(super) fn record(
    files: &[PathBuf],
    payload: Option<Payload>,
    mut config: Config,
) -> anyhow::Result<(ExitCode, Option<String>)> {
    if payload == Some(Payload::Heads) {
        return Err(Expected::new(
            "--payload heads is what the probes copy, and a capture has what it has",
            "leave it out to keep everything, or take --payload none",
        )
        .into());
    }
    if config.record.payload == Payload::Heads {
        config.record.payload = Payload::Full;
    }
    run::filter(&config)?;
    let age_steps = run::screen(&config)?.age_steps;
    let source = open(files, run::udp_ports(&config))?;
    let report = source.report();
    let metrics = Metrics::default();
    let recorder = record::recorder(&config, &metrics)?;
    let code = run::run(Run {
        pipeline: PipelineConfig {
            protocols: config.protocols.clone(),
            opaque_ports: config.opaque_ports.clone(),
            age_steps,
            ..PipelineConfig::default()
        },
        mode: Mode::Replay { pace: None, range: WallRange::default() },
        input: Input::Events(Box::new(source)),
        verdicts: Box::new(NullVerdicts),
        recorder,
        metrics,
        stop: Stop::default(),
        notes: String::new(),
        heading: tui::Heading::default(),
        config,
    })?;
    tell(&report);
    Ok((code, report.fault()))
}

/// A recording made of captures, for as long as it is looked at.
pub(super) struct Made {
    /// Goes with this.
    pub(super) folder: tempfile::TempDir,
    /// What was in them.
    pub(super) report: Report,
    /// It was interrupted.
    pub(super) stopped: Option<ExitCode>,
}

/// Records captures into a folder of its own, which the screen plays. As large as the disk below $TMPDIR lets it be.
pub(super) fn into_folder(
    files: &[PathBuf],
    udp_ports: Vec<u16>,
    config: &PipelineConfig,
) -> anyhow::Result<Made> {
    let mut source = open(files, udp_ports)?;
    let report = source.report();
    let folder = tempfile::Builder::new().prefix("txray-").tempdir().context("make a folder in $TMPDIR")?;
    let stop = Stop::default();
    stop.watch(None, || ()).context("watch for signals")?;
    let metrics = Metrics::default();
    let recording =
        RecordingConfig { payload: PayloadMode::Full, ..RecordingConfig::new(folder.path().to_owned()) };
    let mut recorder = Recorder::start(recording, metrics.clone()).map_err(record::failed)?;
    let sinks: Vec<Box<dyn Sink>> = vec![
        Box::new(recorder.transactions()),
        Box::new(RollupSink::new(SharedRollups::unread(), Some(recorder.rollups()))),
    ];
    let mut fan_out =
        FanOut::start(sinks, 256, WhenFull::Wait, metrics.clone()).context("start the sinks' threads")?;
    let mut pipeline = Pipeline::new(config.clone(), metrics.clone(), Box::new(NullVerdicts));
    let mut delivery = Delivery::new(LookedFor::new(&config.protocols), None, None, metrics);
    recorder.checkpoint(pipeline.checkpoint(), 0);
    let mut progress = Progress::new(title(files));
    while stop.reason().is_none()
        && let Some(batch) = source.next_batch()?
    {
        let batch = Arc::new(batch);
        recorder.tap_waiting(&batch);
        for event in &batch.events {
            delivery.push(event, &mut pipeline, &mut fan_out);
        }
        delivery.batch_is_over(&mut pipeline, &mut fan_out);
        if recorder.wants_checkpoint() {
            let next = batch.first_ordinal + batch.events.len() as u64;
            recorder.checkpoint(pipeline.checkpoint(), next);
        }
        progress.at(report.packets());
    }
    progress.over();
    pipeline.settle();
    let last = Arc::new(pipeline.snapshot());
    let rest: TransactionBatch = pipeline.finish();
    delivery.deliver(rest, Some(last), &mut fan_out);
    let failed = fan_out.finish().into_iter().find_map(|report| report.error);
    let summary = recorder.finish()?;
    if let Some(error) = failed {
        return Err(error.context(format!("write into {}", folder.path().display())));
    }
    if summary.n_lost != 0 {
        let what = format!("{} has no room for all of the capture", folder.path().display());
        return Err(Expected::new(
            what,
            "TMPDIR=DIR names another folder; --from and --to take part only of what \
            is shown",
        )
        .into());
    }
    let stopped = stop.reason().map(|reason| match reason {
        Reason::Signal => ExitCode::Interrupted,
        _ => ExitCode::Ok,
    });
    if stopped.is_none() && report.packets() == 0 {
        whole(report.fault())?;
        let what = match files {
            [file] => format!("{} has no packets", file.display()),
            _ => format!("none of {} captures has packets", files.len()),
        };
        return Err(Expected::new(what, "a filter of tcpdump may have left out all of them").into());
    }
    Ok(Made { folder, report, stopped })
}

/// A line that says how far it is, where there is a terminal to say it on.
struct Progress {
    title: String,
    told: Option<Instant>,
    is_terminal: bool,
}

impl Progress {
    fn new(title: String) -> Progress {
        let title = crate::text::screen_text(&title).into_owned();
        Progress { title, told: None, is_terminal: std::io::stderr().is_terminal() }
    }

    fn at(&mut self, packets: u64) {
        if !self.is_terminal || self.told.is_some_and(|told| told.elapsed() < TELL_EVERY) {
            return;
        }
        self.told = Some(Instant::now());
        let packets = crate::report::format::count(packets);
        // A closed standard error is nobody's loss.
        let _ = std::io::stderr()
            .write_all(format!("\rtxray: reading {}: {packets} packets", self.title).as_bytes());
    }

    fn over(&self) {
        if self.told.is_some() {
            let _ = std::io::stderr().write_all(b"\r\x1b[K");
        }
    }
}
