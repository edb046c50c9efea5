//! `txray replay`: the same code over a recording. No root, no BPF, any machine.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use clap::Args;

use super::{
    ExitCode, Expected,
    args::RunArgs,
    run::{self, Input, Mode, Run},
    stop::Stop,
};
use crate::{
    config::{Settings, Speed},
    event::EventBatch,
    metrics::Metrics,
    pipeline::{NullVerdicts, PipelineConfig},
    schema::PayloadMode,
    source::{Restart, Source, SourceError, recording::Recording, replay::ReplaySource},
    time::WallTime,
    transaction::WallRange,
};

/// Run a recording through the pipeline again: the same transactions, histograms and dots as the live run had. Needs no
/// root and runs on any machine.
#[derive(Debug, Args)]
#[command(after_help = "EXAMPLES\n  txray replay rec\n  txray replay rec --speed 10\n  \
    txray replay rec --from 2026-08-21T14:03:00Z --to 2026-08-21T14:04:00Z --json")]
pub struct ReplayArgs {
    /// Folder of the recording
    dir: PathBuf,
    /// How fast: as it happened, ten times that, or as fast as the machine can
    #[arg(long, value_enum, default_value = "max")]
    speed: Speed,
    /// Only what ended at this time or later (RFC 3339, or ns since 1970)
    #[arg(long, value_name = "TIME")]
    from: Option<WallTime>,
    /// Only what ended before this time
    #[arg(long, value_name = "TIME")]
    to: Option<WallTime>,
    #[command(flatten)]
    run: RunArgs,
}

/// Runs it.
pub fn run(args: &ReplayArgs) -> anyhow::Result<ExitCode> {
    let config = args.run.resolve(args.run.settings(Settings::default()))?;
    run::filter(&config)?;
    let range = WallRange { from: args.from.unwrap_or_default(), to: args.to.unwrap_or(WallTime(u64::MAX)) };
    if range.from >= range.to {
        return Err(Expected::new("--from is not before --to", "nothing can lie between them").into());
    }
    let recording = open(&args.dir)?;
    let metrics = Metrics::default();
    let faults = Faults::default();
    for fault in &recording.faults {
        faults.add(fault.to_string());
    }
    let input = if recording.payload() == PayloadMode::None {
        faults.note(
            "recorded with --payload none: these are the recorded transactions, nothing is parsed again and losses are not known",
        );
        Input::Rows(Box::new(recording.transactions(range).map(|rows| Ok(rows?))))
    } else {
        let source = ReplaySource::open(&recording, range, metrics.clone()).map_err(|error| {
            Expected::new(error.to_string(), "a recording is a folder that txray record --out has written")
        })?;
        Input::Events(Box::new(Watched { source, faults: faults.clone() }))
    };
    let pace = match args.speed {
        Speed::Real => Some(1.0),
        Speed::Tenfold => Some(10.0),
        Speed::Max => None,
    };
    let code = run::run(Run {
        pipeline: PipelineConfig { protocols: config.protocols.clone(), ..PipelineConfig::default() },
        mode: Mode::Replay { pace, range },
        input,
        verdicts: Box::new(NullVerdicts),
        recorder: None,
        metrics,
        stop: Stop::default(),
        notes: String::new(),
        title: format!("replay  {}", args.dir.display()),
        config,
    })?;
    match faults.take() {
        0 => Ok(code),
        n => Err(Expected::new(
            format!("{n} files of the recording cannot be read; what was good is above"),
            "txray recover DIR seals what a kill left open and verifies every file",
        )
        .into()),
    }
}

fn open(dir: &Path) -> anyhow::Result<Recording> {
    Recording::open(dir).map_err(|error| {
        let what = format!("recording {}: {error}", dir.display());
        Expected::new(what, "name the folder that txray record --out has written").into()
    })
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
