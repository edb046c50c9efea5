//! The recording's format: datasets, columns, versions, file metadata, seal and journal. Writer, replay and recovery
//! share it; nothing else may name a column.
//!
//! ```text
//! DIR/events/date=2026-11-22/hour=09/part-RUN-ORDINAL.parquet         what the pipeline consumed, in its order
//! DIR/events/date=2026-11-22/hour=09/_part-RUN-ORDINAL.journal        the same, not sealed yet (or after kill -9)
//! DIR/transactions/date=2026-11-22/hour=09/part-RUN-SEQ.parquet       what analysts read
//! DIR/rollups/date=2026-11-22/hour=09/part-RUN-ORDINAL.parquet        what happened in each second, minute and hour
//! ```
//!
//! * **A part** is a run's contiguous stretch of rows. It is written as a journal ([`journal`]): frames, each handed to
//!   the kernel within a quarter of a second and guarded by its own checksum. When it is long enough it is *sealed*: turned into one
//!   Parquet file ([`mod@file`]) under a temporary name, synced, renamed; then the journal goes. Where both exist, the sealed
//!   file wins, so that no instant of death loses or doubles a row. `recover` seals what a dead run left behind.
//! * **Checkpoints** are the pipeline's state before an event, as rows among the events: the first row of nearly each part, and further ones
//!   within it, so that whoever wants an instant has few events to play. [`PartMeta`] lists them. A checkpoint within a part is the
//!   only row of its frame, so that the frames' headers tell where they are.
//! * **The seal** is a CRC-32 over the whole Parquet file and one over its footer, kept in the footer itself: Parquet alone
//!   does not notice most flipped bits. Nothing is parsed before its checksum matched.
//! * **Versions.** [`VERSION`] stands in each file; a reader knows all versions up to its own (a fixture for each), and
//!   refuses later ones by name. A dataset that a reader does not know is a folder that it does not look into: `rollups` came later than
//!   the other two, and a recording may be without it.
//! * Names that begin with `_` are ignored by pyarrow, pandas and Spark, and do not end in `.parquet` for the others.

use std::{fmt, path::PathBuf};

mod event_blob;
mod event_kind;
pub mod event_rows;
pub mod file;
pub mod groups;
pub mod journal;
pub mod rollup_rows;
pub mod transaction_rows;

/// Version of everything in this module. Raised when a reader of the version before would misread; old ones stay readable.
pub const VERSION: u32 = 5;

/// Metadata keys of a sealed file (and of a journal's header).
pub mod key {
    /// [`super::Dataset`].
    pub const DATASET: &str = "txray.dataset";
    /// [`super::VERSION`].
    pub const SCHEMA: &str = "txray.schema";
    /// Version of the txray that wrote it.
    pub const WRITER: &str = "txray.writer";
    /// The run: 16 hexadecimal digits, drawn at its start.
    pub const RUN: &str = "txray.run";
    /// The rest of [`super::PartMeta`], as JSON.
    pub const PART: &str = "txray.part";
    /// The checksums ([`super::file`]).
    pub const SEAL: &str = "txray.seal";
}

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dataset {
    /// What the pipeline consumed, in its order: what replay runs from.
    Events,
    /// What left the pipeline: what analysts read.
    Transactions,
    /// Sums over what left the pipeline, by second, minute and hour.
    Rollups,
}

impl Dataset {
    /// All.
    pub const ALL: [Dataset; 3] = [Dataset::Events, Dataset::Transactions, Dataset::Rollups];

    /// Name of its folder.
    pub fn as_str(self) -> &'static str {
        match self {
            Dataset::Events => "events",
            Dataset::Transactions => "transactions",
            Dataset::Rollups => "rollups",
        }
    }
}

/// Which payload a recording holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PayloadMode {
    /// What the kernel copied for the pipeline: heads, and bodies only where heads could not be told apart from them.
    #[default]
    Heads,
    /// Everything that the kernel was asked to copy: all bytes.
    Full,
    /// No payload: transactions are recorded, parsing cannot be re-run.
    None,
}

/// The run that wrote a part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunId(pub u64);

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl std::str::FromStr for RunId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u64::from_str_radix(text, 16).map(RunId)
    }
}

/// Facts about a part. Of a journal's header: as known when it was begun.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PartMeta {
    /// What it holds.
    #[serde(skip, default = "events")]
    pub dataset: Dataset,
    /// Which run wrote it.
    #[serde(skip)]
    pub run: RunId,
    /// Its version of the format.
    #[serde(skip)]
    pub schema: u32,
    /// The txray that wrote it.
    #[serde(skip)]
    pub writer: String,
    /// Wall time of the run's start, ns: orders the runs of a folder.
    pub run_start_ns: u64,
    /// Ordinal (`events`), seq (`transactions`) or number in the run (`rollups`) of its first row.
    pub first: u64,
    /// The same behind its last row.
    pub next: u64,
    /// Wall time of its first row, ns; its hour is the partition.
    pub first_time_ns: u64,
    /// Latest wall time of its rows, ns.
    pub last_time_ns: u64,
    /// Latest wall time of all rows of the run before it, ns; 0 = it is the run's first.
    pub horizon_ns: u64,
    /// Events that the recorder lost within it.
    pub lost: u64,
    /// It begins with a checkpoint.
    pub checkpoint: bool,
    /// Further checkpoints within it, in their order; at most [`MAX_CHECKPOINTS`]. Parts that were sealed before there was this list have
    /// none in it, and readers of then ignore it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checkpoints: Vec<Checkpoint>,
    /// Payload of the run.
    pub payload: PayloadMode,
}

/// Where a replay can begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Checkpoint {
    /// Ordinal of the event that follows.
    pub ordinal: u64,
    /// Latest wall time of all rows of the run before it, ns.
    pub horizon_ns: u64,
}

/// Checkpoints that a part lists: some 60 bytes of the footer each. The recorder writes at most one each five seconds, behind holes, and
/// those that rows and time call for: less than 150 in a part of ten minutes, which is overdue.
pub const MAX_CHECKPOINTS: usize = 1_024;

fn events() -> Dataset {
    Dataset::Events
}

impl PartMeta {
    /// `part-RUN-FIRST`, in the order of rows within a run.
    pub fn stem(&self) -> String {
        format!("part-{}-{:015}", self.run, self.first)
    }

    /// Name of the sealed file.
    pub fn sealed_name(&self) -> String {
        format!("{}.parquet", self.stem())
    }

    /// Name of the journal.
    pub fn journal_name(&self) -> String {
        format!("_{}.journal", self.stem())
    }

    /// Its checkpoints, in their order.
    pub fn all_checkpoints(&self) -> impl DoubleEndedIterator<Item = Checkpoint> + '_ {
        let first =
            self.checkpoint.then_some(Checkpoint { ordinal: self.first, horizon_ns: self.horizon_ns });
        first.into_iter().chain(self.checkpoints.iter().copied())
    }

    /// Folders below the dataset's: the hour of the first row, UTC.
    pub fn partition(&self) -> [String; 2] {
        partition(self.first_time_ns)
    }
}

/// Length of an hour, ns.
pub const HOUR_NS: u64 = 3_600_000_000_000;

/// `date=YYYY-MM-DD` and `hour=HH` of a wall time, UTC.
pub fn partition(wall_ns: u64) -> [String; 2] {
    let hours = wall_ns / HOUR_NS;
    let (year, month, day) = civil_date(hours / 24);
    [format!("date={year:04}-{month:02}-{day:02}"), format!("hour={:02}", hours % 24)]
}

/// Year, month, day of a day since 1970-01-01 in the Gregorian calendar (years of 400-year cycles that begin in March).
pub fn civil_date(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (cycle, day_of_cycle) = (shifted / 146_097, shifted % 146_097);
    let year_of_cycle =
        (day_of_cycle - day_of_cycle / 1_460 + day_of_cycle / 36_524 - day_of_cycle / 146_096) / 365;
    let day_of_year = day_of_cycle - (365 * year_of_cycle + year_of_cycle / 4 - year_of_cycle / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (cycle * 400 + year_of_cycle + u64::from(month <= 2), month, day)
}

/// Why a file of a recording cannot be read or written. Names the file.
#[derive(Debug, thiserror::Error)]
#[error("{}: {what}", path.display())]
pub struct FormatError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    #[source]
    pub what: Fault,
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The operating system refused.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// Not a recording's file at all.
    #[error("not a file of a txray recording ({0})")]
    Foreign(&'static str),
    /// A journal that was killed before its first row: it holds nothing.
    #[error("cut off before its first row")]
    Unbegun,
    /// A part of the file is missing or changed.
    #[error("damaged: {0}")]
    Damaged(String),
    /// Written by a later txray.
    #[error(
        "written in version {found} of the format; this txray reads versions 1 to {VERSION}: use a later one"
    )]
    Future {
        /// In the file.
        found: u32,
    },
    /// The Parquet library failed.
    #[error(transparent)]
    Parquet(#[from] parquet::errors::ParquetError),
    /// The Arrow library failed.
    #[error(transparent)]
    Arrow(#[from] arrow_schema::ArrowError),
}

impl Fault {
    /// Whether another try may succeed (disk full, permission), because the bytes themselves are not at fault.
    pub fn is_io(&self) -> bool {
        matches!(self, Fault::Io(_) | Fault::Parquet(parquet::errors::ParquetError::External(_)))
    }

    /// Names the file.
    pub fn at(self, path: impl Into<PathBuf>) -> FormatError {
        FormatError { path: path.into(), what: self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_utc_hours_across_leap_days_and_centuries() {
        let hour = |text: &str, hours: u64| {
            let [date, hour] = partition(hours * HOUR_NS + 3_599_999_999_999);
            assert_eq!(format!("{date}/{hour}"), text);
        };
        hour("date=1970-01-01/hour=00", 0);
        hour("date=2000-02-29/hour=23", 11_016 * 24 + 23);
        hour("date=2000-03-01/hour=00", 11_017 * 24);
        hour("date=2026-11-22/hour=09", 20_779 * 24 + 9);
        hour("date=2100-02-28/hour=01", 47_540 * 24 + 1);
        hour("date=2100-03-01/hour=01", 47_541 * 24 + 1);
    }
}
