//! The scheduler, for threads that serve requests: when they leave a CPU and for what, who wakes them, and when they run again. And the beginning and end of
//! their system calls.

use core::ptr::null_mut;

use aya_ebpf::{
    EbpfContext as _,
    helpers::{
        bpf_get_current_pid_tgid,
        generated::{bpf_get_current_task, bpf_get_current_task_btf, bpf_task_pt_regs},
    },
    macros::{btf_tracepoint, perf_event},
    programs::{BtfTracePointContext, PerfEventContext},
};
use tracer_ebpf::{
    NO_OFFSET, OFF_FLAG_FUTEX_WAKE, OFF_FLAG_RUNNABLE, OFF_FLAG_STOPPED, OFF_NO_CALL, OFF_UNKNOWN_CALL,
    PYTHON_FRAMES, STACK_BYTES, STACK_FLAG_PLACE, STACK_FLAG_PYTHON, STACK_FLAG_SAMPLE, STACK_FLAG_WAIT,
    STACK_KERNEL_FRAMES, SYS_EXIT_PYTHON, Stat,
};

use super::call::{
    PREADV2, PWRITEV2, READ, READV, RECVFROM, RECVMMSG, RECVMSG, Registers, WRITE, WRITEV, is_compat,
};
use crate::{
    conn::now,
    filter::{Thread, is_armed},
    maps::{PYTHON_SAMPLE, SYS_EXIT},
    memory::{Memory, Probed, Typed},
    python,
    settings::setting,
    stack::{self, Walk},
    stats::count,
    threads::{self, Followed},
};

/// Numbers of system calls in which a thread waits for what comes next (arch/x86/entry/syscalls/syscall_64.tbl), beside those of `call`.
const POLL: u64 = 7;
const SELECT: u64 = 23;
const PAUSE: u64 = 34;
const ACCEPT: u64 = 43;
const RT_SIGTIMEDWAIT: u64 = 128;
const RT_SIGSUSPEND: u64 = 130;
const FUTEX: u64 = 202;
const EPOLL_WAIT: u64 = 232;
const PSELECT6: u64 = 270;
const PPOLL: u64 = 271;
const EPOLL_PWAIT: u64 = 281;
const ACCEPT4: u64 = 288;
const IO_URING_ENTER: u64 = 426;
const EPOLL_PWAIT2: u64 = 441;
const FUTEX_WAITV: u64 = 449;
const FUTEX_WAIT: u64 = 455;

/// `S_IFMT`, `S_IFSOCK` (include/uapi/linux/stat.h).
const S_IFMT: u16 = 0o170_000;
const S_IFSOCK: u16 = 0o140_000;

/// `TASK_RUNNING`, `__TASK_STOPPED` and `__TASK_TRACED` (include/linux/sched.h).
const TASK_RUNNING: u32 = 0;
const TASK_STOPPED_OR_TRACED: u32 = 0x4 | 0x8;

/// Bytes of a kernel stack on x86-64 and of the user's registers at its upper end (`THREAD_SIZE`, `struct pt_regs`). Before 5.15; since then a helper knows.
const KERNEL_STACK_BYTES: usize = 16 << 10;
const REGISTERS_BYTES: usize = 168;

/// A CPU goes from one thread to another.
///
/// match-proto: `sched_switch(bool preempt, struct task_struct *prev, struct task_struct *next, unsigned int prev_state)`, the last since 5.18
#[btf_tracepoint(function = "sched_switch")]
pub fn sched_switch(context: BtfTracePointContext) -> i32 {
    let previous: *const u8 = context.arg(1);
    let next: *const u8 = context.arg(2);
    let tid: u32 = Typed::read(previous, setting!(offsets.task_pid));
    if let Some(followed) = threads::find(tid)
        && threads::is_told(followed)
    {
        let is_preempted: u64 = context.arg(0);
        let state = if is_preempted & 1 != 0 {
            TASK_RUNNING
        } else if setting!(switch_has_state) != 0 {
            context.arg::<u32>(3)
        } else {
            Typed::read(previous, setting!(task_state))
        };
        out(followed, previous, state);
    }
    let tid: u32 = Typed::read(next, setting!(offsets.task_pid));
    if let Some(followed) = threads::find(tid) {
        if followed.out_ns == 0 {
            // That it left was not told: a gap, and no time on a CPU. Where nothing was to be told, nothing is missed.
            if followed.n_open != 0 {
                count(Stat::SwitchesMissed);
            }
            followed.number += 1;
        } else if is_armed() {
            threads::back(followed, tid, now());
        } else {
            followed.out_ns = 0;
        }
    }
    0
}

/// A followed thread leaves the CPU: what for is in its registers.
#[inline(always)]
fn out(followed: &mut Followed, task: *const u8, state: u32) {
    let now = now();
    if followed.out_ns != 0 {
        // That it came back was not seen: a gap, and no time on a CPU.
        count(Stat::SwitchesMissed);
        followed.number += 1;
    }
    let is_runnable = state == TASK_RUNNING;
    let mut waits = false;
    if setting!(io_wait_byte) != NO_OFFSET {
        let bits: u8 = Probed::read(task, setting!(io_wait_byte));
        waits = bits >> (setting!(io_wait_bit) & 7) & 1 != 0;
    }
    let mut flags = threads::flags(is_runnable, waits);
    if state & TASK_STOPPED_OR_TRACED != 0 {
        flags |= OFF_FLAG_STOPPED;
    }
    let registers = registers(task);
    let number = Registers::number::<Probed>(registers);
    let argument: u64 = Registers::first::<Probed>(registers);
    let mut call = number as u32;
    let mut file = 0;
    let mut is_idle = false;
    let mut is_poll = false;
    if number == u64::MAX {
        call = OFF_NO_CALL;
    } else if is_compat::<Probed>(task, number) {
        call = OFF_UNKNOWN_CALL;
    } else if !is_runnable {
        if matches!(number, READ | WRITE | READV | WRITEV | PREADV2 | PWRITEV2) {
            file = file_type(task, argument);
        }
        is_poll = matches!(
            number,
            POLL | SELECT | EPOLL_WAIT | PSELECT6 | PPOLL | EPOLL_PWAIT | IO_URING_ENTER | EPOLL_PWAIT2
        );
        is_idle = is_poll
            || matches!(
                number,
                PAUSE
                    | ACCEPT
                    | RT_SIGTIMEDWAIT
                    | RT_SIGSUSPEND
                    | FUTEX
                    | ACCEPT4
                    | FUTEX_WAITV
                    | FUTEX_WAIT
                    | RECVFROM
                    | RECVMSG
                    | RECVMMSG
            )
            || (file == S_IFSOCK && matches!(number, READ | READV | PREADV2));
    }
    followed.switches = switches::<Typed>(task);
    followed.kernel_out_ns = threads::kernel_ns(followed, now);
    followed.argument = argument;
    followed.call = call;
    followed.file = file;
    followed.flags = flags;
    followed.is_idle = u32::from(is_idle);
    followed.is_poll = u32::from(is_poll);
    followed.waker = 0;
    // What could have gone on waits for a CPU from the beginning.
    followed.wake_ns = if flags & OFF_FLAG_RUNNABLE != 0 { now } else { 0 };
    followed.out_ns = now;
}

/// How often a thread has left its CPU; 0 where the kernel does not say.
#[inline(always)]
fn switches<M: Memory>(task: *const u8) -> u64 {
    if setting!(task_switches) == NO_OFFSET {
        return 0;
    }
    let [voluntary, others]: [u64; 2] =
        [M::read(task, setting!(task_switches)), M::read(task, setting!(task_switches) + 8)];
    voluntary + others
}

/// The user's registers of a thread that does not run in user mode.
#[inline(always)]
fn registers(task: *const u8) -> *const u8 {
    if setting!(has_task_registers) != 0 {
        // SAFETY: the task came from the tracepoint.
        return unsafe { bpf_task_pt_regs(task.cast_mut().cast()) } as *const u8;
    }
    kernel_stack_registers(task)
}

/// The same without the helper.
#[inline(always)]
pub fn kernel_stack_registers(task: *const u8) -> *const u8 {
    let stack: *const u8 = Probed::read(task, setting!(task_stack));
    stack.wrapping_add(KERNEL_STACK_BYTES - REGISTERS_BYTES)
}

/// What sort of file a descriptor of a task is.
#[inline(always)]
fn file_type(task: *const u8, fd: u64) -> u16 {
    let fd = fd as u32;
    let files: *const u8 = Probed::read(task, setting!(offsets.task_files));
    let table: *const u8 = Probed::read(files, setting!(offsets.files_fdt));
    let n_fds: u32 = Probed::read(table, setting!(offsets.fdtable_max_fds));
    if fd >= n_fds {
        return 0;
    }
    let array: *const u8 = Probed::read(table, setting!(offsets.fdtable_fd));
    let file: *const u8 = Probed::read(array.wrapping_add(fd as usize * 8), 0);
    let inode: *const u8 = Probed::read(file, setting!(offsets.file_inode));
    let mode: u16 = Probed::read(inode, setting!(offsets.inode_mode));
    mode & S_IFMT
}

/// A thread is being woken, by the one that runs here or by an interrupt.
///
/// match-proto: `sched_waking(struct task_struct *p)`
#[btf_tracepoint(function = "sched_waking")]
pub fn sched_waking(context: BtfTracePointContext) -> i32 {
    let task: *const u8 = context.arg(0);
    let tid: u32 = Typed::read(task, setting!(offsets.task_pid));
    let Some(followed) = threads::find(tid) else { return 0 };
    if followed.out_ns == 0 || followed.wake_ns != 0 {
        return 0;
    }
    let now = now();
    followed.wake_ns = now;
    let waited_ns = now - followed.out_ns;
    let is_shared = followed.is_poll != 0 && followed.n_open > 1;
    if setting!(wait_stack_ns) != 0
        && waited_ns >= setting!(wait_stack_ns)
        // Behind the beginning of its answer as well, unless it may have ended.
        && (followed.n_open != 0 || followed.is_idle == 0)
        && !is_shared
        && stack::is_due(now, waited_ns)
        && stack::tell_kernel(task, followed, tid, now) != 0
        && followed.call != OFF_NO_CALL
    {
        followed.due = followed.number + 1;
    }
    followed.waker = bpf_get_current_pid_tgid() as u32;
    if setting!(has_task_registers) != 0 {
        // SAFETY: no arguments; the task is the running one.
        let waker = unsafe { bpf_get_current_task_btf() };
        // SAFETY: as above.
        let registers = unsafe { bpf_task_pt_regs(waker) } as *const u8;
        if Registers::number::<Probed>(registers) == FUTEX {
            followed.flags |= OFF_FLAG_FUTEX_WAKE;
        }
    }
    0
}

/// A system call begins.
///
/// match-proto: `sys_enter(struct pt_regs *regs, long id)`
#[btf_tracepoint(function = "sys_enter")]
pub fn call_enter(_: BtfTracePointContext) -> i32 {
    if let Some(followed) = threads::current() {
        followed.off_ns = 0;
        followed.enter_ns = now();
    }
    0
}

/// It ends.
///
/// match-proto: `sys_exit(struct pt_regs *regs, long ret)`
#[btf_tracepoint(function = "sys_exit")]
pub fn call_exit(context: BtfTracePointContext) -> i32 {
    let id = bpf_get_current_pid_tgid();
    let Some(followed) = threads::find(id as u32).filter(|followed| threads::is_told(followed)) else {
        return 0;
    };
    // SAFETY: no arguments.
    let task = unsafe { bpf_get_current_task() } as *const u8;
    let switches = switches::<Probed>(task);
    if followed.switches != switches {
        if followed.switches != 0 {
            // It left the CPU, and that was not seen: a gap, and no time on a CPU.
            count(Stat::SwitchesMissed);
            followed.number += 1;
        }
        followed.switches = switches;
    }
    let now = now();
    if followed.enter_ns != 0 {
        followed.kernel_ns = threads::kernel_ns(followed, now);
        followed.enter_ns = 0;
    }
    if setting!(wait_stack_ns) != 0 && followed.due != 0 {
        if python::process(followed.pid).is_some() {
            // SAFETY: the array holds one program of this tracepoint there, or none.
            unsafe { SYS_EXIT.tail_call(&context, SYS_EXIT_PYTHON) };
        }
        tell_wait::<0>(&context, id, followed);
    }
    0
}

/// The same for a program of Python, behind `call_exit`: without it those are told as others.
///
/// match-proto: `sys_exit(struct pt_regs *regs, long ret)`
#[btf_tracepoint(function = "sys_exit")]
pub fn python_call(context: BtfTracePointContext) -> i32 {
    let id = bpf_get_current_pid_tgid();
    if let Some(followed) = threads::find(id as u32)
        && followed.due != 0
    {
        tell_wait::<PYTHON_FRAMES>(&context, id, followed);
    }
    0
}

/// Tells the program's part of the stack of a wait that has ended.
#[inline(always)]
fn tell_wait<const P: usize>(context: &BtfTracePointContext, id: u64, followed: &mut Followed) {
    // The program stands where it stood while it waited.
    let place = Registers::place::<Typed>(context.arg(0));
    let flags = STACK_FLAG_PLACE | STACK_FLAG_WAIT | python_flag::<P>();
    let walk = walk(id, place, followed.due, now(), flags);
    followed.due = 0;
    stack::tell::<P, STACK_KERNEL_FRAMES, STACK_BYTES>(&walk, null_mut());
}

#[inline(always)]
const fn python_flag<const P: usize>() -> u16 {
    if P > 0 { STACK_FLAG_PYTHON } else { 0 }
}

/// Where the walk along a thread's stack begins.
#[inline(always)]
fn walk(id: u64, place: [u64; 3], number: u32, time: u64, flags: u16) -> Walk {
    let thread = Thread { pid: (id >> 32) as u32, tid: id as u32 };
    let [first, stack, frame] = place;
    Walk { thread, id: u64::from(thread.tid), number: u64::from(number), time, first, stack, frame, flags }
}

/// The clock strikes on a CPU ([`tracer_ebpf::SAMPLE_PERIOD_NS`]): what it does, if a thread runs that serves, or did so until now.
#[perf_event]
pub fn sample(context: PerfEventContext) -> u32 {
    if let Some(walk) = sampled::<0>() {
        if python::process(walk.thread.pid).is_some() {
            // SAFETY: the array holds one program for clocks, or none.
            unsafe { PYTHON_SAMPLE.tail_call(&context, 0) };
        }
        stack::tell::<0, STACK_KERNEL_FRAMES, STACK_BYTES>(&walk, context.as_ptr());
    }
    0
}

/// The same for a program of Python, behind `sample`: without it those are told as others.
#[perf_event]
pub fn python_sample(context: PerfEventContext) -> u32 {
    if let Some(walk) = sampled::<PYTHON_FRAMES>() {
        stack::tell::<PYTHON_FRAMES, STACK_KERNEL_FRAMES, STACK_BYTES>(&walk, context.as_ptr());
    }
    0
}

/// Where the walk begins, if the thread that runs serves a request, or has begun to answer its last one: only user space knows whether that has ended.
#[inline(always)]
fn sampled<const P: usize>() -> Option<Walk> {
    let id = bpf_get_current_pid_tgid();
    let followed = threads::find(id as u32).filter(|followed| threads::is_told(followed))?;
    if !is_armed() {
        return None;
    }
    // SAFETY: no arguments; the task is the running one.
    let task = unsafe { bpf_get_current_task() } as *const u8;
    let registers = if setting!(has_task_registers) != 0 {
        // SAFETY: as above.
        unsafe { bpf_task_pt_regs(bpf_get_current_task_btf()) as *const u8 }
    } else {
        kernel_stack_registers(task)
    };
    let place = Registers::place::<Probed>(registers);
    let flags = STACK_FLAG_PLACE | STACK_FLAG_SAMPLE | python_flag::<P>();
    Some(walk(id, place, followed.number, now(), flags))
}
