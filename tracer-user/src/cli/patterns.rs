//! `txray patterns`: what an engineer would see in the XLog of a recording, found and explained.

use std::{
    io::{self, Write as _},
    path::PathBuf,
    sync::Arc,
};

use anyhow::Context as _;
use clap::Args;

use super::{
    ExitCode, Expected,
    args::WordsArgs,
    delivery::Delivery,
    run::{open_recording, range, read_filter},
};
use crate::{
    metrics::Metrics,
    pipeline::{LookedFor, NullVerdicts, Pipeline, PipelineConfig, Snapshot},
    report::{
        filter::Filter,
        format::count,
        patterns::{bounds_line, lines, write_json},
    },
    schema::PayloadMode,
    sink::{
        fanout::Inline,
        patterns::{PatternSink, SharedPatterns},
    },
    source::{Source as _, recording::Recording, replay::ReplaySource},
    time::WallTime,
    transaction::{TransactionBatch, WallRange},
};

/// Print the patterns in the XLog of a recording: vertical and horizontal lines, a floor that rises, two bands, ramps, silences; each with its figures, and
/// with what recorded facts say of its cause.
///
/// Runs the recording through the pipeline, so that they are those that the screen of the live run showed. Exits with 1 if there are none.
#[derive(Debug, Args)]
#[command(after_help = "EXAMPLES\n  txray patterns rec\n  \
    txray patterns rec --from 2026-08-21T14:00:00Z --to 2026-08-21T15:00:00Z\n  \
    txray patterns rec --filter 'service = shop and role = server' --json")]
pub struct PatternsArgs {
    /// Folder of the recording
    dir: PathBuf,
    /// Only what ended at this time or later (RFC 3339, or ns since 1970)
    #[arg(long, value_name = "TIME")]
    from: Option<WallTime>,
    /// Only what ended before this time
    #[arg(long, value_name = "TIME")]
    to: Option<WallTime>,
    /// Look only at transactions that match: 'duration >= 100ms and status_code = 500'
    #[arg(long, value_name = "EXPR")]
    filter: Option<String>,
    /// Print one JSON object per pattern and line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    words: WordsArgs,
}

/// Runs it.
pub fn run(args: &PatternsArgs) -> anyhow::Result<ExitCode> {
    let filter = match &args.filter {
        Some(text) => Some(read_filter(text, args.words.thresholds()?)?),
        None => None,
    };
    let range = range(args.from, args.to)?;
    let recording = open_recording(&args.dir)?;
    let (found, mut faults) = gather(&recording, range, filter)?;
    faults.extend(recording.faults.iter().map(ToString::to_string));
    let patterns = found.lock();
    let mut out = Vec::new();
    for finding in patterns.findings() {
        if args.json {
            write_json(&mut out, finding);
        } else {
            out.extend_from_slice(lines(finding).as_bytes());
        }
    }
    match io::stdout().write_all(&out) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            return Err(error).context("write to standard output");
        }
        _ => {}
    }
    let n = patterns.findings().len();
    let mut notes = match n {
        0 => "no patterns".to_owned(),
        1 => "1 pattern".to_owned(),
        n => format!("{} patterns", count(n as u64)),
    };
    let bounds = bounds_line(&patterns.bounds());
    if !bounds.is_empty() {
        notes.push_str(&format!("; {bounds}"));
    }
    notes.push('\n');
    notes.extend(faults.iter().map(|fault| format!("txray: {fault}\n")));
    // A closed standard error is nobody's loss.
    let _ = io::stderr().write_all(notes.as_bytes());
    match faults.len() {
        0 if n == 0 => Ok(ExitCode::NothingMatched),
        0 => Ok(ExitCode::Ok),
        n => Err(Expected::new(
            format!("{n} files of the recording cannot be read; what was good is above"),
            "txray recover DIR seals what a kill left open and verifies every file",
        )
        .into()),
    }
}

/// The patterns of a recording, and what could not be read.
pub fn gather(
    recording: &Recording,
    range: WallRange,
    filter: Option<Filter>,
) -> anyhow::Result<(SharedPatterns, Vec<String>)> {
    let metrics = Metrics::default();
    let found = SharedPatterns::default();
    let mut sink =
        Inline::new(vec![Box::new(PatternSink::new(found.clone(), metrics.clone()))], metrics.clone());
    let mut out = |batch: TransactionBatch, snapshot: Option<Arc<Snapshot>>| {
        sink.send(&batch, snapshot.as_deref());
    };
    let mut delivery = Delivery::new(LookedFor::ALL, filter, Some(range), metrics.clone());
    let mut faults = Vec::new();
    if recording.payload() == PayloadMode::None {
        // Nothing is parsed again: these are the transactions as they were, and losses are not known.
        for rows in recording.transactions(range) {
            match rows {
                Ok(transactions) => {
                    let watermark = transactions.last().map_or(WallTime(0), |last| last.end_time);
                    delivery.deliver(TransactionBatch { transactions, watermark }, None, &mut out);
                }
                Err(fault) => faults.push(fault.to_string()),
            }
        }
    } else {
        let mut source = ReplaySource::open(recording, range, metrics.clone()).map_err(|error| {
            Expected::new(error.to_string(), "a recording is a folder that txray record --out has written")
        })?;
        let config = PipelineConfig::default();
        let mut pipeline = Pipeline::new(config.clone(), metrics.clone(), Box::new(NullVerdicts));
        while let Some(batch) = source.next_batch()? {
            if let Some(restart) = source.restart() {
                let next = if restart.checkpoint.is_empty() {
                    Pipeline::new(config.clone(), metrics.clone(), Box::new(NullVerdicts))
                } else {
                    let verdicts = Box::new(NullVerdicts);
                    Pipeline::restore(&restart.checkpoint, config.clone(), metrics.clone(), verdicts)
                        .context("continue from a checkpoint of the recording")?
                };
                let mut rest = std::mem::replace(&mut pipeline, next).finish();
                rest.transactions.retain(|transaction| transaction.is_finished());
                delivery.deliver(rest, None, &mut out);
            }
            for event in &batch.events {
                delivery.push(event, &mut pipeline, &mut out);
            }
            delivery.batch_is_over(&mut pipeline, &mut out);
        }
        let n_faults = source.faults().1;
        if n_faults != 0 {
            faults.push(format!("{n_faults} places of the recording cannot be read"));
        }
        pipeline.settle();
        let rest = pipeline.finish();
        let last = Arc::new(pipeline.snapshot());
        delivery.deliver(rest, Some(last), &mut out);
    }
    sink.finish();
    Ok((found, faults))
}
