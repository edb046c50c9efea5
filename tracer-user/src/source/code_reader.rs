//! Files of code, read by a thread of their own, so that the pipeline need not stand still for the names of a large program.
//!
//! A file is asked for as soon as a process that runs it is met; whoever needs it before it is there waits.

use std::{
    fs::File,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        mpsc::{self, SyncSender, TrySendError},
    },
    thread,
};

use rustc_hash::FxHashMap;

use crate::uprobe::{maps::MappedFile, process::Process, resolve::Code};

/// Files whose functions are known: some 40 bytes a function and their names; beyond it all are read anew.
const MAX_FILES: usize = 256;
/// Files that wait for the thread; beyond it they are read by who asks.
const MAX_JOBS: usize = 64;
/// Files with this many bytes of code are read when a process that runs them is met, smaller ones when a stack goes through them.
const LARGE: u64 = 1 << 20;

/// A file as it is: another one may have its number later.
type FileKey = (u64, u64, u64, i64, i64);

/// What is known of a file's code, now or soon.
#[derive(Debug, Default)]
pub struct Slot(OnceLock<Option<Code>>);

impl Slot {
    /// Waits until it is read. `None`: it has no code that is understood.
    pub fn code(&self) -> Option<&Code> {
        self.0.wait().as_ref()
    }
}

/// A file to be read. Dropped unread it is as one without code, so that nobody waits for ever.
struct Job {
    slot: Arc<Slot>,
    file: File,
    path: PathBuf,
}

impl Job {
    fn read(self) {
        // Nobody else sets it.
        let _ = self.slot.0.set(Code::read(&self.file, &self.path).ok());
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        let _ = self.slot.0.set(None);
    }
}

/// The files that were met.
#[derive(Debug, Default)]
pub struct CodeReader {
    /// To the thread; made when the first file is met, ended by the drop of this end of the channel.
    jobs: Option<SyncSender<Job>>,
    files: FxHashMap<FileKey, Arc<Slot>>,
}

impl CodeReader {
    /// A process was met.
    pub fn prepare(&mut self, process: &Process) {
        for mapped in &process.files {
            let size: u64 = mapped.ranges.iter().map(|range| range.end.saturating_sub(range.start)).sum();
            if size >= LARGE {
                self.slot(process, mapped);
            }
        }
    }

    /// A file of a process; `None`: it cannot be opened.
    pub fn slot(&mut self, process: &Process, mapped: &MappedFile) -> Option<Arc<Slot>> {
        let opened = process.open(mapped).ok()?;
        let metadata = opened.file.metadata().ok()?;
        let key = (metadata.dev(), metadata.ino(), metadata.len(), metadata.mtime(), metadata.mtime_nsec());
        if let Some(slot) = self.files.get(&key) {
            return Some(slot.clone());
        }
        if self.files.len() >= MAX_FILES {
            self.files.clear();
        }
        let slot = Arc::new(Slot::default());
        self.files.insert(key, slot.clone());
        self.give(Job { slot: slot.clone(), file: opened.file, path: Path::new(&mapped.path).to_owned() });
        Some(slot)
    }

    fn give(&mut self, job: Job) {
        if self.jobs.is_none() {
            let (sender, jobs) = mpsc::sync_channel::<Job>(MAX_JOBS);
            let thread = thread::Builder::new().name("txray-code".to_owned());
            self.jobs = thread.spawn(move || jobs.into_iter().for_each(Job::read)).ok().map(|_| sender);
        }
        let job = match &self.jobs {
            Some(jobs) => match jobs.try_send(job) {
                Ok(()) => return,
                Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) => job,
            },
            None => job,
        };
        job.read();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_nobody_reads_is_waited_for_by_nobody() {
        let slot = Arc::new(Slot::default());
        drop(Job { slot: slot.clone(), file: File::open("/dev/null").unwrap(), path: PathBuf::new() });
        assert!(slot.code().is_none());
    }

    #[test]
    fn a_file_is_read_once_whoever_runs_it() {
        let mut reader = CodeReader::default();
        let process = Process::read(Path::new("/proc"), std::process::id()).unwrap();
        let own = process.files.iter().max_by_key(|file| file.ranges.len()).unwrap();
        let slots = [(); 2].map(|()| reader.slot(&process, own).unwrap());
        assert!(Arc::ptr_eq(&slots[0], &slots[1]));
        assert!(slots[0].code().is_some());
    }
}
