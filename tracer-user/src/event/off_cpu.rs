//! Threads that serve requests, off the CPU.

use serde::{Deserialize, Serialize};
use tracer_ebpf as abi;

use crate::time::BootTime;

/// A thread that serves a request was not on a CPU. See [`tracer_ebpf::OffCpu`] for the meaning of each field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OffCpu {
    /// When it ran again.
    pub time: BootTime,
    /// When it left the CPU.
    pub out: BootTime,
    /// When it was woken; 0 = not seen.
    pub wake: BootTime,
    /// Time on a CPU within system calls when it left, ns.
    pub kernel_ns: u64,
    /// First argument of the call.
    pub argument: u64,
    /// Number among those of its thread.
    pub number: u32,
    /// Process.
    pub pid: u32,
    /// Thread.
    pub tid: u32,
    /// System call (x86-64), `abi::OFF_NO_CALL` or `abi::OFF_UNKNOWN_CALL`.
    pub call: u32,
    /// Thread that ran where it was woken; 0 = none.
    pub waker: u32,
    /// `S_IFMT` of the call's file; 0 = not asked.
    pub file: u16,
    /// `abi::OFF_FLAG_*`.
    pub flags: u16,
}

impl From<&abi::OffCpu> for OffCpu {
    fn from(raw: &abi::OffCpu) -> OffCpu {
        OffCpu {
            time: BootTime(raw.header.time_ns),
            out: BootTime(raw.out_ns),
            wake: BootTime(raw.wake_ns),
            kernel_ns: raw.kernel_ns,
            argument: raw.argument,
            number: raw.number,
            pid: raw.pid,
            tid: raw.tid,
            call: raw.call,
            waker: raw.waker,
            file: raw.file,
            flags: raw.header.flags,
        }
    }
}

impl OffCpu {
    /// Whether `flag` (`abi::OFF_FLAG_*`) is set.
    pub fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }
}
