//! What the probes of the scheduler have to know of the running kernel.

use std::thread;

use tracer_ebpf as abi;

use super::{
    btf::KernelBtf,
    load::Family,
    probes::{CALLS, Probe, THREADS},
};
use crate::config::{Anatomy, WAIT_STACK_NS};

/// Stacks of short waits of all CPUs in a tenth of a second, and four times as many of long ones: 20 MB/s of the ring at most on up to six CPUs, where each has 17 KB.
const STACKS_PER_WINDOW: u32 = 24;

/// The probes that an anatomy needs.
pub(super) fn probes(anatomy: Anatomy) -> impl Iterator<Item = &'static Probe> {
    let (threads, calls): (&[Probe], &[Probe]) = match anatomy {
        Anatomy::Off => (&[], &[]),
        Anatomy::Threads => (THREADS, &[]),
        Anatomy::Calls => (THREADS, CALLS),
    };
    threads.iter().chain(calls)
}

/// Fills in what concerns the anatomy. Where the kernel lacks a member without which it cannot be, there is none.
pub(super) fn settings(
    anatomy: Anatomy,
    stacks: bool,
    family: Family,
    kernel: &KernelBtf,
    settings: &mut abi::Settings,
) {
    let member = |name: &str| kernel.member("task_struct", name);
    // 5.14 gave it another name and size; what is read are its low 32 bits.
    let state = member("__state").or_else(|| member("state"));
    let io_wait = member("in_iowait").filter(|member| member.bitfield_bits == 1);
    let has_state = kernel.tracepoint("sched_switch").is_some_and(|parameters| parameters.len() == 5);
    let has_registers = Family::Socket.is_of(kernel);
    let stack = member("stack");
    let is_possible = (has_state || state.is_some()) && (has_registers || stack.is_some());
    settings.anatomy = match anatomy {
        Anatomy::Threads if is_possible => abi::ANATOMY_THREADS,
        Anatomy::Calls if is_possible => abi::ANATOMY_CALLS,
        _ => abi::ANATOMY_NONE,
    };
    if stacks && settings.anatomy == abi::ANATOMY_CALLS {
        let n_cpus = thread::available_parallelism().map_or(1, usize::from) as u32;
        settings.wait_stack_ns = WAIT_STACK_NS;
        settings.stacks_per_window = (STACKS_PER_WINDOW / n_cpus).max(4);
    }
    settings.switch_has_state = u32::from(has_state);
    // The helper came with 5.15, and is certainly there where there are tracepoints on sockets (6.3).
    settings.has_task_registers = u32::from(has_registers);
    settings.hits_in_call = u32::from(family == Family::Socket);
    settings.task_state = state.map_or(abi::NO_OFFSET, |member| member.offset_bytes);
    let switches = |name| member(name).filter(|member| member.size == 8).map(|member| member.offset_bytes);
    let switches = switches("nvcsw").filter(|at| switches("nivcsw") == Some(at + 8));
    settings.task_switches = switches.unwrap_or(abi::NO_OFFSET);
    settings.task_stack = stack.map_or(abi::NO_OFFSET, |member| member.offset_bytes);
    settings.io_wait_byte = io_wait.map_or(abi::NO_OFFSET, |member| member.offset_bits / 8);
    settings.io_wait_bit = io_wait.map_or(0, |member| member.offset_bits % 8);
}
