//! `txray recover`: seal what a kill left open, verify the rest.

use std::{io::Write as _, path::PathBuf};

use clap::Args;

use super::{ExitCode, Expected, record};
use crate::{report::format::count, schema::Dataset, sink::recording};

/// Seal what a killed run left open and verify every file of a recording. What cannot be read is named and left as it is.
#[derive(Debug, Args)]
pub struct RecoverArgs {
    /// Folder of the recording
    dir: PathBuf,
}

/// Runs it.
pub fn run(args: &RecoverArgs) -> anyhow::Result<ExitCode> {
    // Whatever is not one is left as it is.
    if !Dataset::ALL.iter().any(|dataset| args.dir.join(dataset.as_str()).is_dir()) {
        let what = match args.dir.try_exists() {
            Ok(true) => "no recording here: no events, no transactions",
            _ => "there is no such folder",
        };
        let what = format!("recording {}: {what}", args.dir.display());
        return Err(Expected::new(what, "name the folder that txray record --out has written").into());
    }
    let report = recording::recover(&args.dir).map_err(record::failed)?;
    let recording::RecoverReport { sealed, n_deleted, n_whole, faults } = report;
    let mut text = String::new();
    for (path, sealed) in &sealed {
        text.push_str(&format!("sealed {}: {} rows", path.display(), count(sealed.n_rows)));
        if sealed.n_damaged != 0 {
            text.push_str(&format!(", {} damaged", count(sealed.n_damaged)));
        }
        if sealed.n_skipped_bytes != 0 {
            text.push_str(&format!(
                ", {} bytes of an unfinished frame left out",
                count(sealed.n_skipped_bytes)
            ));
        }
        if sealed.already {
            text.push_str(", was sealed already");
        }
        text.push('\n');
    }
    text.push_str(&format!(
        "{n_whole} files whole, {} sealed now, {n_deleted} empty ones deleted, {} unreadable\n",
        sealed.len(),
        faults.len()
    ));
    std::io::stdout().write_all(text.as_bytes())?;
    if faults.is_empty() {
        return Ok(ExitCode::Ok);
    }
    let names: Vec<String> = faults.iter().map(|fault| format!("  {fault}")).collect();
    Err(Expected::new(
        format!("files that cannot be read:\n{}", names.join("\n")),
        "a replay shows what they held as a hole; the files stay as they are",
    )
    .into())
}
