//! A recording as it lies on disk: its runs, their parts in order, and what is wrong with it.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use arrow_array::RecordBatch;

use super::symbols::Symbols;
use crate::{
    schema::{
        Checkpoint, Dataset, Fault, FormatError, PartMeta, PayloadMode, RunId,
        file::{Rows, SealedFile},
        groups::{Group, GroupTest},
        journal::{Journal, is_journal},
        transaction_rows::{self, Names},
    },
    time::WallTime,
    transaction::{Transaction, WallRange},
};

/// Rows that a reader takes at once: bounds its memory, beside the file itself.
const BATCH_ROWS: usize = 8_192;

/// A recording.
#[derive(Debug, Default)]
pub struct Recording {
    /// Its folder.
    pub dir: PathBuf,
    /// The runs that wrote it, in the order of time.
    pub runs: Vec<Run>,
    /// Files that cannot be read, each named. What they held shows as holes.
    pub faults: Vec<FormatError>,
    /// Names that were found for its frames since.
    pub symbols: Option<Arc<Symbols>>,
}

/// What one run of txray wrote.
#[derive(Debug)]
pub struct Run {
    /// Its id.
    pub id: RunId,
    /// Wall time of its first event, ns.
    pub start_ns: u64,
    /// Payload it kept.
    pub payload: PayloadMode,
    /// Parts of `events`, in the order of ordinals.
    pub events: Vec<Part>,
    /// Parts of `transactions`, in the order of `seq`.
    pub transactions: Vec<Part>,
    /// Parts of `rollups`, in the order in which they were written.
    pub rollups: Vec<Part>,
}

/// Where in a run a replay can begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// Place of the part among the run's.
    pub part: usize,
    /// The checkpoint in it.
    pub checkpoint: Checkpoint,
}

/// A part: a sealed file, a journal, or (after a kill between two steps) both with the same rows.
#[derive(Clone, Debug)]
pub struct Part {
    /// Facts about it.
    pub meta: PartMeta,
    /// Rows; of a damaged journal: those known.
    pub n_rows: u64,
    /// Bytes on disk.
    pub n_bytes: u64,
    /// Row groups of the sealed file.
    pub n_groups: usize,
    /// The sealed file.
    pub sealed: Option<PathBuf>,
    /// The journal.
    pub journal: Option<PathBuf>,
}

/// The sums of a recording.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordingSummary {
    /// Runs.
    pub n_runs: usize,
    /// Parts.
    pub n_parts: usize,
    /// Parts that no one sealed: being written, or left behind by a kill.
    pub n_journals: usize,
    /// Bytes on disk.
    pub n_bytes: u64,
    /// Events that can be read.
    pub n_events: u64,
    /// Transactions that can be read.
    pub n_transactions: u64,
    /// Events that the recorder lost.
    pub n_lost: u64,
    /// Events before the first that is left: deleted by the budget.
    pub n_deleted: u64,
    /// Files that cannot be read.
    pub n_faults: usize,
    /// From the first to the last row, wall time.
    pub range: Option<WallRange>,
}

impl Recording {
    /// Looks through a folder. Damaged files are listed in [`Recording::faults`]; an error means that there is nothing to read.
    pub fn open(dir: &Path) -> io::Result<Recording> {
        let mut recording = Recording { dir: dir.to_owned(), ..Recording::default() };
        let mut parts = BTreeMap::<(RunId, Dataset, u64), Part>::new();
        fs::read_dir(dir)?;
        for dataset in Dataset::ALL {
            for path in part_files(&dir.join(dataset.as_str()))? {
                match look(&path, dataset) {
                    Ok(Some(part)) => {
                        let key = (part.meta.run, dataset, part.meta.first);
                        match parts.get_mut(&key) {
                            None => {
                                parts.insert(key, part);
                            }
                            Some(known) => known.join(part),
                        }
                    }
                    Ok(None) => {}
                    Err(fault) => recording.faults.push(fault),
                }
            }
        }
        let mut runs = BTreeMap::<RunId, Run>::new();
        for ((id, dataset, _), part) in parts {
            let run = runs.entry(id).or_insert_with(|| Run {
                id,
                start_ns: part.meta.run_start_ns,
                payload: part.meta.payload,
                events: Vec::new(),
                transactions: Vec::new(),
                rollups: Vec::new(),
            });
            match dataset {
                Dataset::Events => run.events.push(part),
                Dataset::Transactions => run.transactions.push(part),
                Dataset::Rollups => run.rollups.push(part),
            }
        }
        recording.runs = runs.into_values().collect();
        recording.runs.sort_by_key(|run| (run.start_ns, run.id));
        match Symbols::read(dir) {
            Ok(symbols) => recording.symbols = symbols.map(Arc::new),
            Err(error) => recording.faults.push(Fault::Io(error).at(dir.join(Symbols::NAME))),
        }
        if recording.runs.is_empty() && recording.faults.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                "no recording here: no events, no transactions",
            ));
        }
        Ok(recording)
    }

    /// The sums.
    pub fn summary(&self) -> RecordingSummary {
        let mut summary =
            RecordingSummary { n_runs: self.runs.len(), n_faults: self.faults.len(), ..Default::default() };
        for run in &self.runs {
            summary.n_deleted += run.events.first().map_or(0, |part| part.meta.first);
            summary.n_events += run.events.iter().map(|part| part.n_rows).sum::<u64>();
            summary.n_transactions += run.transactions.iter().map(|part| part.n_rows).sum::<u64>();
            for part in run.events.iter().chain(&run.transactions) {
                summary.n_parts += 1;
                summary.n_journals += usize::from(part.sealed.is_none());
                summary.n_bytes += part.n_bytes;
                summary.n_lost += part.meta.lost;
                let range = summary.range.get_or_insert(WallRange {
                    from: WallTime(part.meta.first_time_ns),
                    to: WallTime(part.meta.last_time_ns),
                });
                range.from.0 = range.from.0.min(part.meta.first_time_ns);
                range.to.0 = range.to.0.max(part.meta.last_time_ns);
            }
            // They say nothing that is not in the others, and begin with a whole second.
            for part in &run.rollups {
                summary.n_parts += 1;
                summary.n_journals += usize::from(part.sealed.is_none());
                summary.n_bytes += part.n_bytes;
            }
        }
        summary
    }

    /// Payload of the recording: the least of its runs.
    pub fn payload(&self) -> PayloadMode {
        let has = |mode| self.runs.iter().any(|run| run.payload == mode);
        if has(PayloadMode::None) {
            PayloadMode::None
        } else if has(PayloadMode::Heads) || self.runs.is_empty() {
            PayloadMode::Heads
        } else {
            PayloadMode::Full
        }
    }

    /// The recorded transactions that end within `range`, in order: batch by batch.
    pub fn transactions(&self, range: WallRange) -> TransactionRows {
        self.transactions_of(range, Box::new(|_| true))
    }

    /// As [`Recording::transactions`], without the row groups that are not `wanted`: what is left still has to be looked at one
    /// by one. Journals have no row groups; they come whole.
    pub fn transactions_of(&self, range: WallRange, wanted: Box<GroupTest>) -> TransactionRows {
        // A part's own times are no help here: the wall clock may have stepped back within it.
        let parts: Vec<Part> = self.runs.iter().flat_map(|run| run.transactions.iter().cloned()).collect();
        let wanted = move |group: &Group<'_>| {
            let reaches = group.end_times().is_none_or(|times| {
                let end = |time: i64| u64::try_from(time).unwrap_or(0);
                end(*times.end()) >= range.from.0 && end(*times.start()) < range.to.0
            });
            reaches && wanted(group)
        };
        TransactionRows {
            range,
            parts: parts.into_iter(),
            wanted: Box::new(wanted),
            symbols: self.symbols.clone(),
            rows: None,
            names: Names::default(),
            reach: Reach::default(),
        }
    }
}

impl Run {
    /// The checkpoints of its events, in their order: of parts and within them. Neither ordinals nor horizons fall.
    pub fn checkpoints(&self) -> impl DoubleEndedIterator<Item = Start> + '_ {
        let parts = self.events.iter().enumerate();
        parts.flat_map(|(part, events)| {
            events.meta.all_checkpoints().map(move |checkpoint| Start { part, checkpoint })
        })
    }

    /// The last checkpoint that is wholly before `from`: what left the pipeline before it ended earlier.
    pub fn last_checkpoint(&self, from: WallTime) -> Option<Start> {
        self.checkpoints().rfind(|start| start.checkpoint.horizon_ns < from.0)
    }
}

/// Files that may be parts, sorted by path: by hour, then by name.
fn part_files(root: &Path) -> io::Result<Vec<PathBuf>> {
    let list = |path: &Path| -> io::Result<Vec<PathBuf>> {
        match fs::read_dir(path) {
            Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
            // Deleted by the budget of a recording that goes on, or never begun.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    };
    let named = |path: &Path, prefix: &str| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix))
    };
    let mut files = Vec::new();
    for date in list(root)?.iter().filter(|path| named(path, "date=")) {
        for hour in list(date)?.iter().filter(|path| named(path, "hour=")) {
            files.extend(list(hour)?);
        }
    }
    files.sort();
    Ok(files)
}

/// What a journal is called once it is sealed.
fn sealed_name(journal: &Path) -> PathBuf {
    let name = journal.file_name().unwrap_or_default().to_string_lossy();
    journal.with_file_name(format!("{}.parquet", name.trim_start_matches('_').trim_end_matches(".journal")))
}

/// What a file is. `None`: not a part (a temporary file, another program's).
fn look(path: &Path, dataset: Dataset) -> Result<Option<Part>, FormatError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let part = if is_journal(&name) {
        let journal = match Journal::open(path) {
            Ok(journal) => journal,
            // Sealed and removed since the folder was listed: the next look finds the sealed file.
            Err(FormatError { what: Fault::Io(error), .. }) if error.kind() == io::ErrorKind::NotFound => {
                let sealed = sealed_name(path);
                return if sealed.exists() { look(&sealed, dataset) } else { Ok(None) };
            }
            Err(FormatError { what: Fault::Unbegun, .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        Part {
            n_rows: journal.n_rows(),
            n_bytes: journal.n_bytes,
            n_groups: 0,
            meta: journal.meta,
            sealed: None,
            journal: Some(path.to_owned()),
        }
    } else if name.ends_with(".parquet") {
        let file = SealedFile::open(path)?;
        Part {
            n_rows: file.n_rows,
            n_bytes: file.n_bytes,
            n_groups: file.n_groups(),
            meta: file.meta,
            sealed: Some(path.to_owned()),
            journal: None,
        }
    } else {
        return Ok(None);
    };
    if part.meta.dataset != dataset {
        return Err(Fault::Damaged(format!(
            "holds {}, found among {}",
            part.meta.dataset.as_str(),
            dataset.as_str()
        ))
        .at(path));
    }
    Ok(Some(part))
}

impl Part {
    /// Takes in the other form of the same part.
    fn join(&mut self, other: Part) {
        let (sealed, journal) =
            (self.sealed.clone().or(other.sealed.clone()), self.journal.clone().or(other.journal.clone()));
        if other.sealed.is_some() {
            *self = other;
        }
        (self.sealed, self.journal) = (sealed, journal);
    }

    /// Its events from an ordinal on, and what lies with them in a row group or a frame.
    pub(super) fn rows_from(&self, ordinal: u64) -> Result<PartRows, FormatError> {
        let mut rows = self.rows_of(&move |group| group.may_reach(ordinal))?;
        if let PartRows::Journal { journal, next, .. } = &mut rows {
            *next = journal.frames().take_while(|frame| frame.next < ordinal).count();
        }
        Ok(rows)
    }

    /// Shows all its rows, batch by batch, up to the first that cannot be read.
    pub(super) fn each_batch(
        &self,
        look: &mut dyn FnMut(&RecordBatch) -> Result<(), Fault>,
    ) -> Result<(), FormatError> {
        let path = self.sealed.as_ref().or(self.journal.as_ref()).cloned().unwrap_or_default();
        for batch in self.rows_from(0)? {
            look(&batch?).map_err(|fault| fault.at(path.clone()))?;
        }
        Ok(())
    }

    /// Whether the checkpoint before the event `ordinal` can be read. A sealed file is whole or not read at all, and what it lists was
    /// there when it was sealed; a journal may be damaged anywhere.
    pub(super) fn holds_checkpoint(&self, ordinal: u64) -> bool {
        match (&self.sealed, &self.journal) {
            (None, Some(path)) => match Journal::open(path) {
                Ok(journal) => journal.holds_checkpoint(ordinal),
                // Sealed since the folder was listed, or a fault that is told when its rows are read.
                Err(_) => true,
            },
            _ => true,
        }
    }

    /// Its rows, without the row groups of a sealed file that are not `wanted`. A sealed file that turns out damaged is replaced by its
    /// journal where there is one.
    pub(super) fn rows_of(&self, wanted: &GroupTest) -> Result<PartRows, FormatError> {
        let journal = |path: &Path| {
            Journal::open(path).map(|journal| PartRows::Journal { journal, path: path.to_owned(), next: 0 })
        };
        match (&self.sealed, &self.journal) {
            (Some(sealed), backup) => {
                let opened = SealedFile::open(sealed).and_then(|file| file.rows_of(BATCH_ROWS, wanted));
                match (opened, backup) {
                    (Ok(rows), _) => Ok(PartRows::Sealed(Box::new(rows))),
                    (Err(_), Some(path)) => journal(path),
                    (Err(error), None) => Err(error),
                }
            }
            (None, Some(path)) => match journal(path) {
                // Sealed and removed since the folder was listed.
                Err(FormatError { what: Fault::Io(error), .. })
                    if error.kind() == io::ErrorKind::NotFound
                        && path.with_file_name(self.meta.sealed_name()).exists() =>
                {
                    let sealed = SealedFile::open(&path.with_file_name(self.meta.sealed_name()))?;
                    Ok(PartRows::Sealed(Box::new(sealed.rows_of(BATCH_ROWS, wanted)?)))
                }
                rows => rows,
            },
            (None, None) => Ok(PartRows::None),
        }
    }
}

/// Rows of a part, batch by batch.
pub(super) enum PartRows {
    Sealed(Box<Rows>),
    Journal { journal: Journal, path: PathBuf, next: usize },
    None,
}

impl Iterator for PartRows {
    type Item = Result<RecordBatch, FormatError>;

    /// Damaged frames of a journal are left out; their ordinals are missing.
    fn next(&mut self) -> Option<Self::Item> {
        match self {
            PartRows::Sealed(rows) => rows.next(),
            PartRows::Journal { journal, path, next } => loop {
                if *next >= journal.frames().len() {
                    return None;
                }
                *next += 1;
                match journal.batch(*next - 1) {
                    Ok(Some(batch)) => return Some(Ok(batch)),
                    Ok(None) => {}
                    Err(fault) => return Some(Err(fault.at(path.as_path()))),
                }
            },
            PartRows::None => None,
        }
    }
}

/// How much of a recording was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// Row groups that were read; none twice.
    pub n_groups_read: usize,
    /// Row groups of the recording.
    pub n_groups: usize,
    /// Transactions of the recording.
    pub n_rows: u64,
    /// Journals that were read, which have no row groups.
    pub n_journals: usize,
}

/// Recorded transactions, batch by batch.
pub struct TransactionRows {
    range: WallRange,
    parts: std::vec::IntoIter<Part>,
    wanted: Box<GroupTest>,
    symbols: Option<Arc<Symbols>>,
    rows: Option<PartRows>,
    names: Names,
    reach: Reach,
}

impl TransactionRows {
    /// How much was read so far, of how much.
    pub fn reach(&self) -> Reach {
        let mut reach = self.reach;
        for part in self.parts.as_slice() {
            reach.n_groups += part.n_groups;
            reach.n_rows += part.n_rows;
        }
        reach
    }
}

impl Iterator for TransactionRows {
    type Item = Result<Vec<Transaction>, FormatError>;

    /// After an error it goes on behind the file that is at fault.
    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let Some(rows) = &mut self.rows else {
                let part = self.parts.next()?;
                let rows = part.rows_of(&self.wanted);
                // A journal may have grown, or been sealed, since the folder was listed.
                match &rows {
                    Ok(PartRows::Sealed(rows)) => {
                        self.reach.n_groups_read += rows.n_groups;
                        self.reach.n_groups += rows.n_all_groups;
                        self.reach.n_rows += rows.n_all_rows;
                    }
                    Ok(PartRows::Journal { journal, .. }) => {
                        self.reach.n_journals += 1;
                        self.reach.n_rows += journal.n_rows();
                    }
                    Ok(PartRows::None) => {}
                    Err(_) => {
                        self.reach.n_groups += part.n_groups;
                        self.reach.n_rows += part.n_rows;
                    }
                }
                match rows {
                    Ok(rows) => self.rows = Some(rows),
                    Err(error) => return Some(Err(error)),
                }
                continue;
            };
            match rows.next() {
                None => self.rows = None,
                Some(Err(error)) => {
                    self.rows = None;
                    return Some(Err(error));
                }
                Some(Ok(batch)) => match transaction_rows::decode(&batch, &mut self.names) {
                    Err(fault) => {
                        self.rows = None;
                        return Some(Err(fault.at("transactions")));
                    }
                    Ok(mut transactions) => {
                        let WallRange { from, to } = self.range;
                        transactions.retain(|transaction| (from..to).contains(&transaction.end_time));
                        if let Some(symbols) = &self.symbols {
                            transactions.iter_mut().for_each(|transaction| symbols.name_in(transaction));
                        }
                        if !transactions.is_empty() {
                            return Some(Ok(transactions));
                        }
                    }
                },
            }
        }
    }
}
