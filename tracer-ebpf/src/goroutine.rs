//! The goroutine that runs: who moves bytes in a program of Go, where that changes threads while it waits for the network.
//!
//! Go keeps the goroutine's address in thread-local storage and in a register, and both must agree: a program may be linked so that it lies elsewhere, and
//! within C code the register is that code's. Its number (`goid`) is never given twice. Where that stands depends on the version, and moved by a word from one to the
//! next and back: it is what stands behind the state of a goroutine that runs, of which user space says the first place where it may be ([`GO_PROCESSES`]). In versions that have it at
//! the second, a pointer is at the first, whose low bits are zero.

use aya_ebpf::helpers::{
    bpf_get_current_task,
    generated::{bpf_get_current_task_btf, bpf_task_pt_regs},
};
use tracer_ebpf::{NO_OFFSET, target_hint};

use crate::{
    maps::{GO_HINTS, GO_PROCESSES},
    memory::{Memory as _, Probed, read_user},
    probes::{call::Registers, sched::kernel_stack_registers},
    settings::setting,
};

/// `g.atomicstatus` of one that runs, and of one in a system call, without the bit of a garbage collection that looks at its stack (`runtime/runtime2.go`, `_Grunning`,
/// `_Gsyscall`, `_Gscan`).
const RUNNING: u64 = 2;
const IN_CALL: u64 = 3;
const SCANNED: u64 = 0x1000;

/// Its address, where Go's linker puts it (`runtime/tls_amd64`: `-8(FS)`).
#[inline(always)]
pub fn address(task: *const u8) -> u64 {
    let base: u64 = Probed::read(task, setting!(offsets.task_thread_fsbase));
    read_user(base.wrapping_sub(8)).unwrap_or(0)
}

/// The low half of its number; 0 = it is no program of Go, or none of its goroutines. A program that is no Go's costs one look at a hint; one that is, some five
/// reads.
///
/// A function of its own: its paths end here, and its stack is not the hook's.
#[inline(never)]
pub fn running(pid: u32) -> u32 {
    if GO_HINTS.get(target_hint(pid)).is_none_or(|hint| *hint == 0) {
        return 0;
    }
    if setting!(offsets.task_thread_fsbase) == NO_OFFSET {
        return 0;
    }
    // SAFETY: the value is one integer.
    let Some(&at) = (unsafe { GO_PROCESSES.get(pid) }) else { return 0 };
    // SAFETY: no arguments.
    let task = unsafe { bpf_get_current_task() } as *const u8;
    let registers = if setting!(has_task_registers) != 0 {
        // SAFETY: the task is the running one.
        unsafe { bpf_task_pt_regs(bpf_get_current_task_btf()) as *const u8 }
    } else {
        kernel_stack_registers(task)
    };
    let goroutine = address(task);
    if goroutine == 0 || Registers::goroutine::<Probed>(registers) != goroutine {
        return 0;
    }
    let Some([first, second, third]) = read_user::<[u64; 3]>(goroutine.wrapping_add(u64::from(at))) else {
        return 0;
    };
    if runs(first) {
        second as u32
    } else if runs(second) {
        third as u32
    } else {
        0
    }
}

/// Whether a word is the state of a goroutine that runs. Its upper half is the lock of the stack.
#[inline(always)]
fn runs(word: u64) -> bool {
    let state = word & u64::from(u32::MAX) & !SCANNED;
    state == RUNNING || state == IN_CALL
}
