//! Sealing: a journal becomes a Parquet file. The same code ends a part, recovers what a dead run left, and tries again
//! after a full disk.

use std::{
    fs::File,
    sync::{
        Arc,
        mpsc::{Receiver, Sender, channel},
    },
    thread::{self, JoinHandle},
};

use super::{Folder, Shared, enforce};
use crate::{
    event::{Loss, LossReason},
    schema::{
        Dataset, Fault, FormatError, PayloadMode,
        event_rows::EventRows,
        file::{SealedFile, SealedWriter},
        journal::{Journal, begins_with_checkpoint},
    },
    time::BootTime,
};

/// A journal to seal.
#[derive(Debug)]
pub(super) struct SealJob {
    pub(super) folder: Arc<Folder>,
    pub(super) journal: String,
    /// Newest wall time of the recording, ns: what ages are measured from.
    pub(super) now_ns: u64,
}

/// What came of a journal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sealed {
    /// Rows in the sealed file.
    pub n_rows: u64,
    /// Events or transactions whose frame was damaged, as far as known.
    pub n_damaged: u64,
    /// Bytes at the end, or in between, that belonged to no whole frame.
    pub n_skipped_bytes: u64,
    /// It had been sealed before the kill: nothing was to be done.
    pub already: bool,
}

/// Turns `journal` in `folder` into a sealed file. At whatever instant this dies, the rows are in the journal or in the
/// sealed file, and a reader takes them once.
pub fn seal_journal(folder: &Folder, name: &str) -> Result<Sealed, FormatError> {
    let path = folder.path().join(name);
    seal(folder, name).map_err(|fault| fault.at(path))
}

fn seal(folder: &Folder, name: &str) -> Result<Sealed, Fault> {
    let journal = Journal::read(folder.open_file(name)?)?;
    let mut sealed = Sealed { n_skipped_bytes: journal.n_skipped_bytes, ..Sealed::default() };
    let target = journal.meta.sealed_name();
    if is_whole(folder, &target) {
        sealed.already = true;
    } else if journal.n_rows() > 0 {
        let temporary = format!("_{}.tmp", journal.meta.stem());
        folder.remove_file(&temporary)?;
        let file = folder.create_file(&temporary)?;
        let written = write(&journal, file, &mut sealed).and_then(|()| {
            folder.rename(&temporary, &target)?;
            Ok(folder.sync()?)
        });
        if let Err(fault) = written {
            // The space is wanted by the journals.
            let _ = folder.remove_file(&temporary);
            return Err(fault);
        }
    }
    folder.remove_file(name)?;
    Ok(sealed)
}

fn write(journal: &Journal, file: File, sealed: &mut Sealed) -> Result<(), Fault> {
    let mut meta = journal.meta.clone();
    let mut writer = SealedWriter::new(file, meta.dataset)?;
    for (i, frame) in journal.frames().enumerate() {
        let batch = journal.batch(i)?;
        // What is listed is there.
        let should_begin = i == 0 || frame.is_checkpoint();
        if should_begin && !batch.as_ref().is_some_and(begins_with_checkpoint) {
            if i == 0 {
                meta.checkpoint = false;
            } else {
                meta.checkpoints.retain(|checkpoint| checkpoint.ordinal != frame.first);
            }
        }
        match batch {
            Some(batch) => {
                sealed.n_rows += batch.num_rows() as u64;
                writer.write(&batch)?;
            }
            None => {
                let n = frame.next.saturating_sub(frame.first);
                sealed.n_damaged += n;
                if meta.dataset == Dataset::Events && n > 0 {
                    let mut rows = EventRows::new(PayloadMode::None, 1);
                    let reason = LossReason::Damaged;
                    rows.push_hole(&Loss {
                        time: BootTime(0),
                        first_ordinal: frame.first,
                        n: Some(n),
                        reason,
                    });
                    meta.lost += n;
                    writer.write(&rows.finish())?;
                }
            }
        }
    }
    writer.finish(&meta)
}

/// Whether a sealed file of this name is there and whole.
fn is_whole(folder: &Folder, name: &str) -> bool {
    let path = folder.path().join(name);
    let Ok(file) = SealedFile::open(&path) else { return false };
    file.verify().is_ok()
}

/// The thread that seals, and keeps the recording within its budget.
#[derive(Debug)]
pub(super) struct Sealer {
    thread: JoinHandle<u64>,
}

impl Sealer {
    /// Starts it. The queue is of names; what waits in it waits on disk.
    pub(super) fn start(shared: Arc<Shared>) -> std::io::Result<(Sealer, Sender<SealJob>)> {
        let (sender, jobs) = channel();
        let thread =
            thread::Builder::new().name("txray-sealer".to_owned()).spawn(move || run(&shared, &jobs))?;
        Ok((Sealer { thread }, sender))
    }

    /// Waits for the last part. Gives the number of journals that could not be sealed and stay as they are.
    pub(super) fn finish(self) -> Option<u64> {
        self.thread.join().ok()
    }
}

fn run(shared: &Shared, jobs: &Receiver<SealJob>) -> u64 {
    // Journals that could not be sealed (disk full): tried again with every job. They are on disk; 64 names are kept.
    let mut again: Vec<SealJob> = Vec::new();
    for job in jobs {
        let now_ns = job.now_ns;
        again.push(job);
        again.retain(|job| seal_journal(&job.folder, &job.journal).is_err());
        again.truncate(64);
        enforce(&shared.root, &shared.config.budget, now_ns);
    }
    again.retain(|job| seal_journal(&job.folder, &job.journal).is_err());
    again.len() as u64
}
