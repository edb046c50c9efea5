//! Counters: one slot per reason and CPU.

use tracer_ebpf::Stat;

use crate::maps::STATS;

/// Counts one.
#[inline(always)]
pub fn count(stat: Stat) {
    add(stat, 1);
}

/// Counts several.
#[inline(always)]
pub fn count_more(stat: Stat, n: u64) {
    add(stat, n);
}

/// Atomic although the slot is per CPU: a probe can be preempted by, or interrupted by, another on the same CPU,
/// and a lost increment would break the sums. Without its result this is the plain `lock add` of kernel 5.10.
#[inline(always)]
fn add(stat: Stat, n: u64) {
    if let Some(slot) = STATS.get_ptr_mut(stat as u32) {
        // SAFETY: the map's value is a u64, aligned, and lives as long as the map. (Rust's atomics want compare-and-swap of a
        // target, which BPF before kernel 5.12 has not.)
        unsafe { core::arch::asm!("lock *(u64 *)({slot} + 0) += {n}", slot = in(reg) slot, n = in(reg) n) };
    }
}
