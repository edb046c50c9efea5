//! Recording: a tap that stores every event the pipeline consumes, and sinks that store the transactions and their sums.
//!
//! ```text
//! pipeline's thread ── Recorder::tap ──▶ bounded queue ──▶ recorder's thread ──▶ journal ─┐
//! sink's thread ────── ParquetSink::write ───────────────────────────────────▶ journal ─┼▶ sealer's thread ▶ Parquet, retention
//! sink's thread ────── RollupSink::advance ──────────────────────────────────▶ journal ─┘
//! ```
//!
//! Only the tap touches the pipeline's thread, and it never waits. The format is [`crate::schema`]'s.
//!
//! **What kill -9 costs**: the events that stood in the queue or had not been handed to the kernel: a quarter of a second
//! at most while the recorder keeps up. Journals are not synced, sealed files are: power loss may cost what was written in
//! the last half minute (the kernel's own write-back time).

use std::{path::PathBuf, time::Duration};

use crate::schema::{FormatError, PayloadMode};

mod folder;
mod part;
mod recorder;
mod recover;
mod retention;
mod rollups;
mod seal;

pub use folder::{Folder, Owner, lock};
pub use recorder::{Recorder, RecorderSummary};
pub use recover::{RecoverReport, recover};
pub use retention::{Budget, enforce};
pub use rollups::RollupRecorder;
pub use seal::{Sealed, seal_journal};

pub(super) use part::{PartWriter, Shared};
pub(super) use recorder::{TransactionWriter, lock_transactions};

/// Events between two checkpoints within a part: whoever goes to an instant plays half of them in the mean, an eighth of a second.
///
/// 1,000,000 made-up events of 1,000 connections in 32 s (`examples/checkpoint_cost.rs`, optimised build without link-time optimisation, Xeon
/// 2.1 GHz; a checkpoint has 1.2 MB and takes 4 ms on a quiet machine): events that a playback plays to an instant, in the mean and at most,
/// of which 105,000 are the last three seconds, played in any case; bytes of the sealed files.
///
/// | events between | played | bytes |
/// | --- | --- | --- |
/// | none within parts | 470,812 (817,736) | 25,491,227 |
/// | 262,144 | 246,249 (381,261) | + 4.2 % |
/// | 131,072 | 194,998 (247,991) | + 9.9 % |
/// | 65,536 | 147,382 (186,672) | + 19.9 % |
/// | as [`CHECKPOINT_SHARE`] allows | 207,798 (347,749) | + 4.2 % |
///
/// Of 20 connections, whose checkpoint has 30 kB and takes 0.2 ms, it is + 0.7 % at each of these distances: there the minute decides, and 18,893
/// (34,696) events are played instead of 90,215 (188,519).
const CHECKPOINT_ROWS: u64 = 131_072;
/// Bytes of rows between two checkpoints for each byte of one: what checkpoints add to a recording, and the pipeline's time that making them takes, stay
/// small however many connections are open. Of 1,000 connections one comes each 240,000 events or so; of 10,000 (11.5 MB, 0.1 s) none within a part
/// but the first one.
const CHECKPOINT_SHARE: u64 = 64;

/// Where and how a recording is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordingConfig {
    /// Its folder.
    pub dir: PathBuf,
    /// Which payload it holds.
    pub payload: PayloadMode,
    /// What it may take of disk and past.
    pub budget: Budget,
    /// Rows after which a part is sealed. 1,000,000.
    pub rotate_rows: u64,
    /// Bytes of a journal after which a part is sealed. 256 MiB: about a quarter of it once sealed.
    pub rotate_bytes: u64,
    /// Event time after which a part is sealed. 5 minutes; so is the end of each hour (UTC).
    pub rotate_after: Duration,
    /// Events after which a checkpoint is written within a part. 131,072.
    pub checkpoint_rows: u64,
    /// Event time after which a checkpoint is written within a part. 1 minute.
    pub checkpoint_after: Duration,
    /// So many times the bytes of the last checkpoint come before another one within a part. 64.
    pub checkpoint_share: u64,
    /// How long a row may wait before it is handed to the kernel. 250 ms.
    pub flush_after: Duration,
    /// Batches that may wait between the tap and the recorder. 1,024.
    pub queue_batches: usize,
    /// Memory (payload and 160 bytes per event) that may wait there. 64 MiB.
    pub queue_bytes: u64,
}

impl RecordingConfig {
    /// The defaults, for a folder.
    pub fn new(dir: PathBuf) -> Self {
        RecordingConfig {
            dir,
            payload: PayloadMode::default(),
            budget: Budget::default(),
            rotate_rows: 1_000_000,
            rotate_bytes: 256 << 20,
            rotate_after: Duration::from_secs(300),
            checkpoint_rows: CHECKPOINT_ROWS,
            checkpoint_after: Duration::from_secs(60),
            checkpoint_share: CHECKPOINT_SHARE,
            flush_after: Duration::from_millis(250),
            queue_batches: 1_024,
            queue_bytes: 64 << 20,
        }
    }
}

/// Why a recording cannot begin or go on.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The folder cannot be made or written.
    #[error("recording folder {}: {source}", dir.display())]
    Folder {
        /// The folder.
        dir: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Another txray writes there.
    #[error("recording folder {}: another txray is writing there", dir.display())]
    Locked {
        /// The folder.
        dir: PathBuf,
    },
    /// A thread could not be started.
    #[error("recorder thread: {0}")]
    Thread(std::io::Error),
    /// The recorder's thread is gone.
    #[error("the recorder stopped unexpectedly")]
    Stopped,
    /// A file could not be written or read.
    #[error(transparent)]
    Format(#[from] FormatError),
}

impl RecordError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            RecordError::Folder { source, .. } => Some(match source.raw_os_error() {
                Some(libc::ELOOP | libc::ENOTDIR) => {
                    "--out must be a folder, or not be there yet; links are not followed"
                }
                Some(libc::EACCES | libc::EPERM) => "choose a folder that this user may write, with --out",
                Some(libc::EROFS) => "the file system is read-only: choose another folder with --out",
                Some(libc::ENOSPC | libc::EDQUOT) => "make room, or choose another folder with --out",
                _ => return None,
            }),
            RecordError::Locked { .. } => Some("stop it first, or choose another folder with --out"),
            RecordError::Thread(_) | RecordError::Stopped | RecordError::Format(_) => None,
        }
    }
}
