//! A thread that looks at processes for something that stands in their files: at those that are named, and at whoever is met or executes a program later.

use std::{
    fs::File,
    os::unix::fs::MetadataExt as _,
    sync::mpsc::{self, SyncSender},
    thread::JoinHandle,
    time::Duration,
};

use rustc_hash::FxHashMap;

use crate::metrics::{Counter, Metrics};

/// What waits to be looked at. Full: counted ([`Looks::MISSED`]).
const MAX_COMMANDS: usize = 4096;
/// Files of which something is known; beyond it all are forgotten, and read again.
const MAX_FILES: usize = 4096;
/// How long a start waits for the processes that were named. Of a file its tables of names are read: some 0.1 to 1 ms.
const PATIENCE: Duration = Duration::from_millis(500);

/// Looks at processes.
pub(super) trait Looks: Send + 'static {
    /// The thread's name.
    const THREAD: &'static str;
    /// Counts those for which the queue had no room.
    const MISSED: Counter;

    /// Looks at a process, perhaps again.
    fn look(&mut self, pid: u32);

    /// A process has ended.
    fn forget(&mut self, pid: u32);

    /// Those that were named are looked at.
    fn begun(&mut self) {}
}

/// What the thread is told.
enum Command {
    Look(u32),
    Ended(u32),
}

/// The running thread. Dropping it ends it.
pub(super) struct Lookout {
    commands: Option<SyncSender<Command>>,
    thread: Option<JoinHandle<()>>,
    missed: Counter,
    metrics: Metrics,
}

impl Lookout {
    /// Looks at `pids`, and then at whoever is named to it.
    pub(super) fn start<L: Looks>(mut looks: L, pids: &[u32], metrics: Metrics) -> Result<Lookout, String> {
        let (commands, queue) = mpsc::sync_channel(MAX_COMMANDS);
        let (done, is_done) = mpsc::sync_channel(1);
        let pids = pids.to_vec();
        let thread = std::thread::Builder::new().name(L::THREAD.to_owned()).spawn(move || {
            pids.into_iter().for_each(|pid| looks.look(pid));
            // Nobody may be waiting any more.
            let _ = done.try_send(());
            looks.begun();
            for command in queue {
                match command {
                    Command::Look(pid) => looks.look(pid),
                    Command::Ended(pid) => looks.forget(pid),
                }
            }
        });
        let thread = thread.map_err(|error| format!("start the thread {}: {error}", L::THREAD))?;
        // What is not reached in time is known a little later.
        let _ = is_done.recv_timeout(PATIENCE);
        Ok(Lookout { commands: Some(commands), thread: Some(thread), missed: L::MISSED, metrics })
    }

    /// A process was met for the first time, executes a program, or is to be looked at again.
    pub(super) fn look(&self, pid: u32) {
        self.send(Command::Look(pid));
    }

    /// A process has ended.
    pub(super) fn ended(&self, pid: u32) {
        self.send(Command::Ended(pid));
    }

    fn send(&self, command: Command) {
        let is_taken = self.commands.as_ref().is_some_and(|commands| commands.try_send(command).is_ok());
        self.metrics.add(self.missed, u64::from(!is_taken));
    }
}

impl Drop for Lookout {
    fn drop(&mut self) {
        // It ends with its queue.
        self.commands = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Which file, as it was when it was read: device, inode, length, time of the last change.
type FileKey = (u64, u64, u64, i64, i64);

/// What is known of files: each is read once, whoever runs it.
pub(super) struct Files<T>(FxHashMap<FileKey, T>);

impl<T> Default for Files<T> {
    fn default() -> Self {
        Files(FxHashMap::default())
    }
}

impl<T: Copy> Files<T> {
    /// What `read` finds in a file, or has found. `None`: nobody may ask what it is.
    pub(super) fn of(&mut self, file: &File, read: impl FnOnce(&File) -> T) -> Option<T> {
        let facts = file.metadata().ok()?;
        let key = (facts.dev(), facts.ino(), facts.len(), facts.mtime(), facts.mtime_nsec());
        if let Some(known) = self.0.get(&key) {
            return Some(*known);
        }
        let found = read(file);
        if self.0.len() >= MAX_FILES {
            self.0.clear();
        }
        self.0.insert(key, found);
        Some(found)
    }
}
