//! `txray snapshot`: the state at one instant of a recording.

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::Args;

use super::{ExitCode, Expected, args::DatagramArgs, capture, run::open_recording};
use crate::{
    event::Event,
    metrics::Metrics,
    pipeline::{NullVerdicts, Pipeline, PipelineConfig},
    protocol::udp_ports,
    report::{instant::Instant, loss::Losses},
    schema::PayloadMode,
    sink::histogram::Histograms,
    source::{Source as _, recording::Recording, replay::ReplaySource},
    time::{BootTime, WallTime},
    transaction::{TransactionBatch, WallRange, watermark::WallLine},
};

/// Print the state at one instant of a recording: what was in flight then, one by one, with its age and step, and the
/// histograms and rates of all that had finished by then. The same events give the same state, on any machine.
///
/// Packet captures are recorded into a folder in $TMPDIR first, as `txray replay` does for the screen.
#[derive(Debug, Args)]
#[command(after_help = "EXAMPLES\n  txray snapshot rec --at 2026-08-21T14:03:07Z\n  \
    txray snapshot rec --at 1787320987000000000 --json\n  txray snapshot traffic.pcap --at 2026-08-21T14:03:07Z")]
pub struct SnapshotArgs {
    /// Folder of the recording; or packet captures
    #[arg(value_name = "DIR|FILE", required = true)]
    paths: Vec<PathBuf>,
    /// The instant (RFC 3339, or ns since 1970)
    #[arg(long, value_name = "TIME")]
    at: WallTime,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    datagrams: DatagramArgs,
}

/// Runs it.
pub fn run(args: &SnapshotArgs) -> anyhow::Result<ExitCode> {
    if !capture::are_named(&args.paths)? {
        let dir = args.paths.first().map(PathBuf::as_path).unwrap_or(Path::new(""));
        return print(args, dir);
    }
    let udp_ports = udp_ports().chain(args.datagrams.udp_port.iter().copied()).collect();
    let made = capture::into_folder(&args.paths, udp_ports, &PipelineConfig::default())?;
    let code = match &made.stopped {
        Some(code) => *code,
        None => print(args, made.folder.path())?,
    };
    capture::whole(made.report.fault()).map(|()| code)
}

fn print(args: &SnapshotArgs, dir: &Path) -> anyhow::Result<ExitCode> {
    let recording = open_recording(dir)?;
    let (instant, n_unread) = state_at(&recording, args.at)?;
    let text = if args.json { instant.json() } else { instant.text().into_bytes() };
    io::stdout().write_all(&text).context("write the snapshot")?;
    // The source has told of its own in the log.
    let n_faults = recording.faults.len() as u64 + n_unread;
    for fault in &recording.faults {
        // A closed standard error is nobody's loss.
        let _ = io::stderr().write_all(format!("txray: {fault}\n").as_bytes());
    }
    if n_faults != 0 {
        let what = format!("{n_faults} files of the recording cannot be read; the state is without them");
        return Err(Expected::new(what, "txray recover DIR seals what a kill left open").into());
    }
    Ok(ExitCode::Ok)
}

/// Runs what was recorded up to `at` through the pipeline, and looks at it there. Also the number of files that turned out unreadable
/// on the way.
pub fn state_at(recording: &Recording, at: WallTime) -> anyhow::Result<(Instant, u64)> {
    if recording.payload() == PayloadMode::None {
        return Err(Expected::new(
            "recorded with --payload none: what was in flight cannot be known",
            "`txray replay` shows the transactions of such a recording",
        )
        .into());
    }
    let parts = || recording.runs.iter().flat_map(|run| &run.events);
    let first = parts().map(|part| part.meta.first_time_ns).min().unwrap_or(0);
    let last = parts().map(|part| part.meta.last_time_ns).max().unwrap_or(0);
    if !(first..=last).contains(&at.0) {
        let hint = format!("it goes from {first} to {last} (ns since 1970)");
        return Err(Expected::new("the recording does not reach to this instant", hint).into());
    }
    let metrics = Metrics::default();
    let config = PipelineConfig { list_connections: true, ..PipelineConfig::default() };
    let range = WallRange { from: WallTime(0), to: at };
    let mut source = ReplaySource::open(recording, range, metrics.clone()).map_err(|error| {
        Expected::new(error.to_string(), "a recording is a folder that txray record --out has written")
    })?;
    let mut pipeline = Pipeline::new(config.clone(), metrics.clone(), Box::new(NullVerdicts));
    let mut histograms = Histograms::default();
    let mut line = WallLine::default();
    let mut take = |batch: TransactionBatch| {
        for transaction in batch.transactions.iter().filter(|transaction| transaction.end_time <= at) {
            histograms.record(transaction);
        }
    };
    while let Some(batch) = source.next_batch()? {
        if let Some(restart) = source.restart() {
            let next = if restart.checkpoint.is_empty() {
                // Another run, perhaps after another boot: it begins with an anchor.
                line = WallLine::default();
                Pipeline::new(config.clone(), metrics.clone(), Box::new(NullVerdicts))
            } else {
                let verdicts = Box::new(NullVerdicts);
                Pipeline::restore(&restart.checkpoint, config.clone(), metrics.clone(), verdicts)
                    .context("continue from a checkpoint of the recording")?
            };
            take(std::mem::replace(&mut pipeline, next).finish());
        }
        for event in &batch.events {
            if let Event::Anchor(anchor) = event {
                line.add(*anchor);
            }
            let boot = crate::conn::order::time(event);
            if line.at(boot).1.wall(boot) <= at {
                pipeline.push(event);
            }
        }
        take(pipeline.drain());
    }
    // Up to the instant itself, though nothing happened in it.
    let anchor = line.at(pipeline.snapshot().time).1;
    let boot = anchor.boot.0.saturating_add_signed(at.0.wrapping_sub(anchor.wall.0) as i64);
    pipeline.push(&Event::Tick(BootTime(boot)));
    pipeline.settle();
    let snapshot = pipeline.snapshot();
    take(pipeline.finish());
    histograms.advance(at);
    let losses = Losses::collect(&snapshot, &metrics);
    Ok((Instant { at, snapshot, histograms, losses }, source.faults().1))
}
