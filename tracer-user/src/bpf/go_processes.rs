//! Tells the kernel side which processes are programs of Go: of those, what moves bytes says which goroutine did.
//!
//! A process is looked at when it is named, is met for the first time, or executes a program: its file says whether Go built it
//! ([`crate::uprobe::go`]). A thread does that: files are read.

use std::{
    fs::File,
    os::unix::fs::MetadataExt as _,
    path::Path,
    sync::mpsc::{self, Receiver, SyncSender},
    thread::JoinHandle,
    time::Duration,
};

use aya::maps::{Array, HashMap, MapData};
use rustc_hash::FxHashMap;
use tracer_ebpf as abi;

use super::load::Loaded;
use crate::{
    metrics::{Counter, Metrics},
    uprobe::{elf::Elf, go},
};

/// What waits to be looked at. Full: counted (`links.go_processes`).
const MAX_COMMANDS: usize = 4096;
/// Files of which it is known whether they are programs of Go; beyond it all are forgotten, and read again.
const MAX_FILES: usize = 4096;
/// How long a start waits for the processes that were named. Of a file little is read: some 0.1 ms.
const PATIENCE: Duration = Duration::from_millis(500);

/// What the thread is told.
enum Command {
    Look(u32),
    Ended(u32),
}

/// The running thread. Dropping it ends it.
pub struct GoProcesses {
    commands: Option<SyncSender<Command>>,
    thread: Option<JoinHandle<()>>,
    metrics: Metrics,
}

impl GoProcesses {
    /// Looks at `pids`, and then at whoever is named to it.
    pub fn start(loaded: &mut Loaded, pids: &[u32], metrics: Metrics) -> Result<GoProcesses, String> {
        let mut map = |name| loaded.ebpf.take_map(name).ok_or(format!("the object has no map {name}"));
        let (processes, hints) = (map("GO_PROCESSES")?, map("GO_HINTS")?);
        let mut worker = Worker {
            processes: HashMap::try_from(processes).map_err(|error| error.to_string())?,
            hints: Array::try_from(hints).map_err(|error| error.to_string())?,
            files: FxHashMap::default(),
            metrics: metrics.clone(),
        };
        let (commands, queue) = mpsc::sync_channel(MAX_COMMANDS);
        let (done, is_done) = mpsc::sync_channel(1);
        let pids = pids.to_vec();
        let thread = std::thread::Builder::new().name("txray-go".to_owned()).spawn(move || {
            pids.into_iter().for_each(|pid| worker.look(pid));
            // Nobody may be waiting any more.
            let _ = done.try_send(());
            worker.run(&queue);
        });
        let thread = thread.map_err(|error| format!("start the thread txray-go: {error}"))?;
        // What is not reached in time is known a little later.
        let _ = is_done.recv_timeout(PATIENCE);
        Ok(GoProcesses { commands: Some(commands), thread: Some(thread), metrics })
    }

    /// A process was met for the first time, or executes a program.
    pub fn look(&self, pid: u32) {
        self.send(Command::Look(pid));
    }

    /// A process has ended.
    pub fn ended(&self, pid: u32) {
        self.send(Command::Ended(pid));
    }

    fn send(&self, command: Command) {
        let is_taken = self.commands.as_ref().is_some_and(|commands| commands.try_send(command).is_ok());
        self.metrics.add(Counter::LinksGoProcesses, u64::from(!is_taken));
    }
}

impl Drop for GoProcesses {
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

struct Worker {
    processes: HashMap<MapData, u32, u32>,
    hints: Array<MapData, u64>,
    /// Where programs have the state of a goroutine; `None`: it is none of Go's.
    files: FxHashMap<FileKey, Option<u32>>,
    metrics: Metrics,
}

impl Worker {
    fn run(mut self, queue: &Receiver<Command>) {
        for command in queue {
            match command {
                Command::Look(pid) => self.look(pid),
                Command::Ended(pid) => self.forget(pid),
            }
        }
    }

    fn look(&mut self, pid: u32) {
        let Some(at) = self.state_of(&Path::new("/proc").join(pid.to_string()).join("exe")) else {
            // It may have been one before it executed this.
            return self.forget(pid);
        };
        let is_told =
            self.hints.set(abi::target_hint(pid), 1, 0).is_ok() && self.processes.insert(pid, at, 0).is_ok();
        self.metrics.add(Counter::LinksGoProcesses, u64::from(!is_told));
    }

    fn forget(&mut self, pid: u32) {
        // Most were never in it.
        let _ = self.processes.remove(&pid);
    }

    /// Where a program has the state of a goroutine. One that cannot be read is none of Go's.
    fn state_of(&mut self, path: &Path) -> Option<u32> {
        let file = File::open(path).ok()?;
        let facts = file.metadata().ok()?;
        let key = (facts.dev(), facts.ino(), facts.len(), facts.mtime(), facts.mtime_nsec());
        if let Some(known) = self.files.get(&key) {
            return *known;
        }
        let version = Elf::parse(&file).ok().and_then(|elf| go::version(&elf));
        let state = version.and_then(|version| go::goroutine_state(&version));
        if self.files.len() >= MAX_FILES {
            self.files.clear();
        }
        self.files.insert(key, state);
        state
    }
}
