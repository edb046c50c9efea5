//! Recovery: seals what a dead run left behind, and says what of a recording cannot be read.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{Folder, Owner, RecordError, Sealed, lock, seal_journal};
use crate::schema::{Dataset, Fault, FormatError, file::SealedFile, journal::is_journal};

/// What was found and done.
#[derive(Debug, Default)]
pub struct RecoverReport {
    /// Journals that are sealed files now, with what came of each.
    pub sealed: Vec<(PathBuf, Sealed)>,
    /// Files left by a kill that held nothing: unfinished temporary files, journals without a row. Deleted.
    pub n_deleted: usize,
    /// Sealed files that were there and are whole.
    pub n_whole: usize,
    /// Files that cannot be read. They stay as they are; a replay shows what they held as a hole.
    pub faults: Vec<FormatError>,
}

/// Seals every journal of a recording that nobody is writing, and verifies every file.
pub fn recover(dir: &Path) -> Result<RecoverReport, RecordError> {
    let failed = |source| RecordError::Folder { dir: dir.to_owned(), source };
    let owner = Owner::behind_sudo();
    let root = Folder::open(dir, owner).map_err(failed)?;
    let _held = lock(&root).map_err(|source| match source.kind() {
        io::ErrorKind::WouldBlock => RecordError::Locked { dir: dir.to_owned() },
        _ => failed(source),
    })?;
    let mut report = RecoverReport::default();
    for dataset in Dataset::ALL {
        let Ok(top) = Folder::open(&dir.join(dataset.as_str()), owner) else { continue };
        for date in names(top.path(), "date=").map_err(failed)? {
            let date = top.sub(&date).map_err(failed)?;
            for hour in names(date.path(), "hour=").map_err(failed)? {
                let hour = date.sub(&hour).map_err(failed)?;
                recover_hour(&hour, &mut report).map_err(failed)?;
            }
        }
    }
    Ok(report)
}

fn recover_hour(hour: &Folder, report: &mut RecoverReport) -> io::Result<()> {
    for name in names(hour.path(), "_part-")? {
        if name.ends_with(".tmp") {
            hour.remove_file(&name)?;
            report.n_deleted += 1;
        } else if is_journal(&name) {
            match seal_journal(hour, &name) {
                Ok(sealed) => report.sealed.push((hour.path().join(&name), sealed)),
                Err(FormatError { what: Fault::Unbegun, .. }) => {
                    hour.remove_file(&name)?;
                    report.n_deleted += 1;
                }
                Err(fault) => report.faults.push(fault),
            }
        }
    }
    for name in names(hour.path(), "")?.iter().filter(|name| name.ends_with(".parquet")) {
        match SealedFile::open(&hour.path().join(name)).and_then(SealedFile::verify) {
            Ok(_) => report.n_whole += 1,
            Err(fault) => report.faults.push(fault),
        }
    }
    Ok(())
}

/// Names in a folder that begin with `prefix`, sorted.
fn names(folder: &Path, prefix: &str) -> io::Result<Vec<String>> {
    let mut names: Vec<String> = fs::read_dir(folder)?
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with(prefix))
        .collect();
    names.sort();
    Ok(names)
}
