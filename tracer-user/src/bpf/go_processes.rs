//! Tells the kernel side which processes are programs of Go: of those, what moves bytes says which goroutine did.
//!
//! A process is looked at when it is named, is met for the first time, or executes a program: its file says whether Go built it
//! ([`crate::uprobe::go`]).

use std::{fs::File, path::Path};

use aya::maps::{Array, HashMap, MapData};
use tracer_ebpf as abi;

use super::{
    load::Loaded,
    lookout::{Files, Lookout, Looks},
};
use crate::{
    metrics::{Counter, Metrics},
    uprobe::{elf::Elf, go},
};

/// The running thread. Dropping it ends it.
pub struct GoProcesses {
    lookout: Lookout,
}

impl GoProcesses {
    /// Looks at `pids`, and then at whoever is named to it.
    pub fn start(loaded: &mut Loaded, pids: &[u32], metrics: Metrics) -> Result<GoProcesses, String> {
        let mut map = |name| loaded.ebpf.take_map(name).ok_or(format!("the object has no map {name}"));
        let (processes, hints) = (map("GO_PROCESSES")?, map("GO_HINTS")?);
        let worker = Worker {
            processes: HashMap::try_from(processes).map_err(|error| error.to_string())?,
            hints: Array::try_from(hints).map_err(|error| error.to_string())?,
            files: Files::default(),
            metrics: metrics.clone(),
        };
        Ok(GoProcesses { lookout: Lookout::start(worker, pids, metrics)? })
    }

    /// A process was met for the first time, or executes a program.
    pub fn look(&self, pid: u32) {
        self.lookout.look(pid);
    }

    /// A process has ended.
    pub fn ended(&self, pid: u32) {
        self.lookout.ended(pid);
    }
}

struct Worker {
    processes: HashMap<MapData, u32, u32>,
    hints: Array<MapData, u64>,
    /// Where programs have the state of a goroutine; `None`: it is none of Go's.
    files: Files<Option<u32>>,
    metrics: Metrics,
}

impl Looks for Worker {
    const THREAD: &'static str = "txray-go";
    const MISSED: Counter = Counter::LinksGoProcesses;

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
}

impl Worker {
    /// Where a program has the state of a goroutine. One that cannot be read is none of Go's.
    fn state_of(&mut self, path: &Path) -> Option<u32> {
        self.files.of(&File::open(path).ok()?, |file| {
            let version = Elf::parse(file).ok().and_then(|elf| go::version(&elf));
            version.and_then(|version| go::goroutine_state(&version))
        })?
    }
}
