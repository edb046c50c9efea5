//! Retention: a recording within its byte and age budgets. The oldest hour goes first, all datasets of it together.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use super::Folder;
use crate::schema::{Dataset, HOUR_NS, partition};

/// What a recording may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Budget {
    /// Bytes on disk, journals included; `None` = no limit.
    pub max_bytes: Option<u64>,
    /// Age of an hour's end, measured from the newest event, ns; `None` = no limit.
    pub max_age_ns: Option<u64>,
}

/// A file of the recording. Ordered by hour, then by name (run, then ordinal), so that the oldest comes first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct PartFile {
    path: PathBuf,
    bytes: u64,
    sealed: bool,
    /// Of `rollups`.
    is_rollup: bool,
}

/// Deletes what is over the budget; gives the number of files deleted. Journals are never deleted: they are being written, or
/// wait for the sealer. Within the last hour that is left, single parts go, the oldest first.
pub fn enforce(root: &Folder, budget: &Budget, now_ns: u64) -> u64 {
    if *budget == Budget::default() {
        return 0;
    }
    let Ok(mut hours) = hours(root) else { return 0 };
    let mut n_deleted = 0;
    if let Some(max_age_ns) = budget.max_age_ns {
        // An hour ends 3,600 s behind its start: this one and those before it are too old as a whole.
        let [date, hour] = partition(now_ns.saturating_sub(max_age_ns).saturating_sub(HOUR_NS));
        for (_, files) in hours.range_mut(..=format!("{date}/{hour}")) {
            n_deleted += delete(files, usize::MAX, true);
        }
    }
    let Some(max_bytes) = budget.max_bytes else { return n_deleted };
    let total = |hours: &BTreeMap<String, Vec<PartFile>>| -> u64 {
        hours.values().flatten().map(|file| file.bytes).sum()
    };
    let newest = hours.keys().next_back().cloned();
    while total(&hours) > max_bytes {
        let oldest = hours.iter_mut().find(|(_, files)| files.iter().any(|file| file.sealed));
        let Some((hour, files)) = oldest else { break };
        let whole_hour = Some(hour) != newest.as_ref();
        let deleted = delete(files, if whole_hour { usize::MAX } else { 1 }, whole_hour);
        n_deleted += deleted;
        if deleted == 0 {
            break;
        }
    }
    n_deleted
}

/// All parts by hour (`date=…/hour=…` sorts by time).
fn hours(root: &Folder) -> io::Result<BTreeMap<String, Vec<PartFile>>> {
    let mut hours = BTreeMap::<String, Vec<PartFile>>::new();
    for dataset in Dataset::ALL {
        for date in folders(&root.path().join(dataset.as_str())) {
            for hour in folders(&date.path()) {
                let Ok(files) = fs::read_dir(hour.path()) else { continue };
                let name = format!("{}/{}", date.file_name().display(), hour.file_name().display());
                let parts = hours.entry(name).or_default();
                for file in files.flatten() {
                    let Ok(metadata) = file.metadata() else { continue };
                    let sealed = file.file_name().to_string_lossy().ends_with(".parquet");
                    let is_rollup = dataset == Dataset::Rollups;
                    parts.push(PartFile { path: file.path(), bytes: metadata.len(), sealed, is_rollup });
                }
            }
        }
    }
    for files in hours.values_mut() {
        // By name, not by folder: the oldest part of either dataset first. Rollups, whose numbers are others, are small and say the
        // most in little: they stay while there is anything else.
        let key = |file: &PartFile| {
            (file.is_rollup, file.path.file_name().map(ToOwned::to_owned), file.path.clone())
        };
        files.sort_by_key(key);
    }
    Ok(hours)
}

/// Folders in a folder, links left out.
fn folders(path: &Path) -> Vec<fs::DirEntry> {
    let Ok(entries) = fs::read_dir(path) else { return Vec::new() };
    entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).collect()
}

/// Deletes up to `n` sealed files, the first first. With `folders` also the folders that are then empty: not those of
/// the newest hour, in which a part may be about to begin.
fn delete(files: &mut Vec<PartFile>, mut n: usize, folders: bool) -> u64 {
    let mut n_deleted = 0;
    files.retain(|file| {
        if n == 0 || !file.sealed || fs::remove_file(&file.path).is_err() {
            return true;
        }
        n -= 1;
        n_deleted += 1;
        // Fails while something is left in them, as it should.
        for folder in file.path.ancestors().skip(1).take(2) {
            if !folders || fs::remove_dir(folder).is_err() {
                break;
            }
        }
        false
    });
    n_deleted
}
