//! Verdicts of the pipeline, written into the kernel's array.

use aya::maps::{Array, MapData};
use tracer_ebpf as abi;

use crate::{event::ConnId, pipeline::VerdictSink};

/// The live end of [`VerdictSink`].
pub struct LiveVerdicts {
    slots: Array<MapData, abi::Verdict>,
}

impl LiveVerdicts {
    /// Takes the map.
    pub fn new(map: aya::maps::Map) -> Result<LiveVerdicts, aya::maps::MapError> {
        Ok(LiveVerdicts { slots: Array::try_from(map)? })
    }
}

impl VerdictSink for LiveVerdicts {
    fn set(&mut self, conn: ConnId, verdict: abi::Verdict) {
        let verdict = abi::Verdict { conn_id: conn.0, ..verdict };
        // An array's slot always exists: this can only fail when the map is gone, and then so is the run.
        let _ = self.slots.set(abi::verdict_slot(conn.0), verdict, 0);
    }
}
