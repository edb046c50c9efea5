//! `txray profile`: what one recorded request did, one thing after the other.

use std::{
    io::{self, IsTerminal as _, Write as _},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::Args;

use super::{ExitCode, Expected, run::open_recording, why};
use crate::{
    metrics::Metrics,
    pipeline::{NullVerdicts, Pipeline, PipelineConfig},
    report::{
        filter::Filter,
        profile::{self, Paint},
    },
    source::{Source as _, recording::Recording, replay::ReplaySource},
    time::WallTime,
    transaction::{
        CallId, Transaction, WallRange,
        profile::{Profile, Watch},
    },
    tui,
};

/// Print what one served request of a recording did: each stretch on a CPU, each wait, and each call, in the order of time.
///
/// The recording is read again from the last checkpoint before it. T-GAP is how long a line took (bold red above 50 % of the whole, blue above 20 %, green above 10 %), CPU how
/// much of that on a CPU; all lines together are the request, with the time in its socket's queue. Exits with 1 if the recording has no such transaction.
#[derive(Debug, Args)]
#[command(after_help = "EXAMPLES\n  txray find rec slow            the slow ones, with their numbers\n  \
    txray profile rec 4711         one of them, by its seq\n  txray profile rec 000e990e5010f3c0-6 --json")]
pub struct ProfileArgs {
    /// Folder of the recording
    dir: PathBuf,
    /// The transaction: its seq (which each run of the recording counts from 0) or its id
    #[arg(value_name = "SEQ_OR_ID", value_parser = super::find::one)]
    id: Filter,
    /// Lines at most: those that take longest; others are added up where they are
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
    /// Print a JSON object a line
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: &ProfileArgs) -> anyhow::Result<ExitCode> {
    let recording = open_recording(&args.dir)?;
    let shown = why::all(&recording, &args.id)?;
    if shown.is_empty() {
        return Ok(ExitCode::NothingMatched);
    }
    let is_coloured =
        io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let paint = if is_coloured { Paint::COLOURS } else { Paint::NONE };
    let mut out = String::new();
    for (i, shown) in shown.iter().enumerate() {
        let id = CallId { conn: shown.conn, ordinal: shown.ordinal };
        let has_profile = profile::why_not(shown).is_none();
        let profile = if has_profile {
            again(&recording, shown, &PipelineConfig::default())?
        } else {
            Profile::default()
        };
        let made = why::all(&recording, &Filter::made_for(id))?;
        let rows = if has_profile { profile::rows(shown, &profile, &made) } else { Vec::new() };
        let rows = profile::longest(rows, args.limit as usize);
        if args.json {
            out.push_str(&profile::json(shown, &rows, profile.is_whole));
        } else {
            out.push_str(if i > 0 { "\n" } else { "" });
            out.push_str(&profile::text(shown, &rows, profile.is_whole, paint));
        }
    }
    match io::stdout().write_all(out.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error).context("write the profile"),
        _ => Ok(ExitCode::Ok),
    }
}

/// What a transaction of the recording in `dir` did, for the screen; made by a pipeline of these settings. An error says why it cannot be told.
pub fn steps(dir: &Path, shown: &Transaction, config: &PipelineConfig) -> Result<tui::Steps, String> {
    if let Some(why) = profile::why_not(shown) {
        return Err(why.to_owned());
    }
    let said = |error: anyhow::Error| format!("{error:#}");
    let recording = open_recording(dir).map_err(said)?;
    let profile = again(&recording, shown, config).map_err(said)?;
    let id = CallId { conn: shown.conn, ordinal: shown.ordinal };
    let made = why::all(&recording, &Filter::made_for(id)).map_err(said)?;
    let rows = profile::longest(profile::rows(shown, &profile, &made), tui::MAX_PROFILE_ROWS);
    Ok(tui::Steps { rows, is_whole: profile.is_whole })
}

/// The steps of a request: its events once more through the pipeline.
fn again(recording: &Recording, shown: &Transaction, config: &PipelineConfig) -> anyhow::Result<Profile> {
    let id = CallId { conn: shown.conn, ordinal: shown.ordinal };
    // The checkpoint has to be before it begins: steps before one are not in it.
    let range = WallRange { from: shown.start_time, to: WallTime(shown.end_time.0.saturating_add(1)) };
    let metrics = Metrics::default();
    let mut source = ReplaySource::open(recording, range, metrics.clone()).map_err(|error| {
        Expected::new(error.to_string(), "a profile is made of the events of a recording: without `--payload none`, and not of its summary files alone")
    })?;
    let new = || Pipeline::new(config.clone(), metrics.clone(), Box::new(NullVerdicts));
    let mut pipeline = new();
    pipeline.watch(Watch::new(id));
    while let Some(batch) = source.next_batch()? {
        if let Some(restart) = source.restart() {
            let watch = pipeline.take_watch();
            pipeline = if restart.checkpoint.is_empty() {
                new()
            } else {
                Pipeline::restore(
                    &restart.checkpoint,
                    config.clone(),
                    metrics.clone(),
                    Box::new(NullVerdicts),
                )
                .context("continue from a checkpoint of the recording")?
            };
            pipeline.watch(watch.unwrap_or_else(|| Watch::new(id)));
        }
        pipeline.push_batch(&batch);
        pipeline.drain();
    }
    pipeline.settle();
    Ok(pipeline.take_watch().map(Watch::into_profile).unwrap_or_default())
}
