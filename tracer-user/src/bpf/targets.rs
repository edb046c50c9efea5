//! The kernel's list of target processes, as user space corrects it while it traces.

use aya::maps::{HashMap, MapData};
use tracer_ebpf as abi;

/// The live end of what user space finds out about targets.
pub struct LiveTargets {
    processes: HashMap<MapData, u32, abi::Target>,
}

impl LiveTargets {
    /// Takes the map.
    pub fn new(map: aya::maps::Map) -> Result<LiveTargets, aya::maps::MapError> {
        Ok(LiveTargets { processes: HashMap::try_from(map)? })
    }

    /// A process is no target.
    pub fn remove(&mut self, pid: u32) {
        // It may have ended, and its entry with it.
        let _ = self.processes.remove(&pid);
    }
}
