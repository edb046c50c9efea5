//! Which processes are targets. The first thing that a data hook asks; most hits end here.

use aya_ebpf::helpers::{bpf_get_current_pid_tgid, generated::bpf_current_task_under_cgroup};
use tracer_ebpf::{MAX_CGROUPS, MODE_ALL, MODE_TARGETS, Stat, Target, target_hint};

use crate::{
    maps::{ARMED, TARGET_CGROUPS, TARGET_HINTS, TARGET_PORTS, TARGETS, UDP_PORTS},
    settings::setting,
    stats::count,
};

/// Marks that children of a target are targets.
const FOLLOW: Target = Target { follow: 1 };

/// The running thread.
#[derive(Clone, Copy)]
pub struct Thread {
    /// Process (thread group).
    pub pid: u32,
    /// Thread.
    pub tid: u32,
}

/// The running thread if its process is a target.
#[inline(always)]
pub fn current_target() -> Option<Thread> {
    let id = bpf_get_current_pid_tgid();
    let thread = Thread { pid: (id >> 32) as u32, tid: id as u32 };
    if is_target(thread.pid) && is_armed() {
        return Some(thread);
    }
    count(Stat::NotTarget);
    None
}

/// Whether every program is attached, and the run has not ended.
#[inline(always)]
pub fn is_armed() -> bool {
    ARMED.get(0).is_some_and(|armed| *armed != 0)
}

/// Whether a process, which must be the running one for cgroups to be asked, is a target.
#[inline(always)]
pub fn is_target(pid: u32) -> bool {
    if pid == setting!(self_pid) {
        return false;
    }
    match setting!(mode) {
        MODE_ALL => true,
        MODE_TARGETS => {
            let is_hinted = TARGET_HINTS.get(target_hint(pid)).is_some_and(|hint| *hint != 0);
            // SAFETY: only asked whether the key is there.
            (is_hinted && unsafe { TARGETS.get(pid) }.is_some())
                || (setting!(by_cgroup) != 0 && in_target_cgroup())
        }
        _ => false,
    }
}

/// Makes a process, and its children to be, targets. `false`: the map was full (counted).
#[inline(always)]
pub fn add_target(pid: u32) -> bool {
    if let Some(hint) = TARGET_HINTS.get_ptr_mut(target_hint(pid)) {
        // SAFETY: an aligned word of the map; whoever writes it writes 1.
        unsafe { hint.write_volatile(1) };
    }
    let is_added = TARGETS.insert(pid, FOLLOW, 0).is_ok();
    if !is_added {
        count(Stat::TargetMapFull);
    }
    is_added
}

#[inline(always)]
fn in_target_cgroup() -> bool {
    let mut index = 0;
    while index < MAX_CGROUPS {
        // SAFETY: the map is a cgroup array. An empty slot answers -EAGAIN.
        let answer =
            unsafe { bpf_current_task_under_cgroup((&raw const TARGET_CGROUPS).cast_mut().cast(), index) };
        if answer == 1 {
            return true;
        }
        if answer < 0 {
            return false;
        }
        index += 1;
    }
    false
}

/// Whether datagrams of a port are told.
#[inline(always)]
pub fn wants_datagrams(port: u16) -> bool {
    UDP_PORTS.get(u32::from(port >> 6)).is_some_and(|word| *word >> (port & 63) & 1 != 0)
}

/// Whether a connection with these ports is wanted.
#[inline(always)]
pub fn wants_ports(local: u16, remote: u16) -> bool {
    if setting!(by_port) == 0 {
        return true;
    }
    // SAFETY: only asked whether the keys are there.
    unsafe { TARGET_PORTS.get(u32::from(local)).is_some() || TARGET_PORTS.get(u32::from(remote)).is_some() }
}
