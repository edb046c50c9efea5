//! `txray why`: where the time of one recorded request went.

use std::{
    io::{self, Write as _},
    path::PathBuf,
};

use anyhow::Context as _;
use clap::Args;

use super::{ExitCode, Expected, run::open_recording};
use crate::{
    report::{filter::Filter, why},
    source::recording::Recording,
    transaction::{CallId, Transaction, WallRange},
};

/// Requests made for one that are kept for its lines.
const MAX_MADE: usize = 10_000;

/// Print why one request of a recording took as long as it did: where its time went, whom it asked, what it was made for.
///
/// Each line is of what was recorded; what is not known is told as such. Exits with 1 if the recording has no such transaction.
#[derive(Debug, Args)]
#[command(after_help = "EXAMPLES\n  txray find rec slow            the slow ones, with their numbers\n  \
    txray why rec 4711             one of them, by its seq\n  txray why rec 000e990e5010f3c0-6")]
pub struct WhyArgs {
    /// Folder of the recording
    dir: PathBuf,
    /// The transaction: its seq (which each run of the recording counts from 0) or its id
    #[arg(value_name = "SEQ_OR_ID", value_parser = super::find::one)]
    id: Filter,
}

/// Runs it.
pub fn run(args: &WhyArgs) -> anyhow::Result<ExitCode> {
    let recording = open_recording(&args.dir)?;
    let shown = all(&recording, &args.id)?;
    if shown.is_empty() {
        return Ok(ExitCode::NothingMatched);
    }
    let mut out = String::new();
    for (i, shown) in shown.iter().enumerate() {
        let id = CallId { conn: shown.conn, ordinal: shown.ordinal };
        let filter = Filter::made_for(id);
        out.push_str(if i > 0 { "\n" } else { "" });
        out.push_str(&why::lines(shown, &all(&recording, &filter)?));
    }
    io::stdout().write_all(out.as_bytes()).context("write to standard output")?;
    Ok(ExitCode::Ok)
}

/// All that match, up to a bound.
pub(super) fn all(recording: &Recording, filter: &Filter) -> anyhow::Result<Vec<Transaction>> {
    let pruning = filter.clone();
    let batches = recording.transactions_of(
        WallRange::default(),
        Box::new(move |group| pruning.may_match(&|name| group.column(name))),
    );
    let mut found = Vec::new();
    for batch in batches {
        let batch = batch.map_err(|fault| {
            Expected::new(
                fault.to_string(),
                "txray recover DIR seals what a kill left open and verifies every file",
            )
        })?;
        found.extend(batch.into_iter().filter(|row| filter.matches(row)));
        if found.len() >= MAX_MADE {
            found.truncate(MAX_MADE);
            break;
        }
    }
    Ok(found)
}
