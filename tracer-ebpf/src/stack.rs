//! Call stacks of targets: return addresses, found by frame pointers, and a copy of the stack, by which user space finds those of code without them.
//!
//! The walk is made here and not by `bpf_get_stack`: that leaves out the caller of a function that has not set up its frame yet (until Linux 6.11, and after it
//! where the first instruction is another than `push rbp`), shows return probes' page instead of callers, and does not say why it ended. One step is one read of 16 bytes.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::{bpf_get_stack, bpf_get_task_stack, bpf_probe_read_user};
use tracer_ebpf::{
    KIND_STACK, LONG_WAIT_NS, OFF_NO_CALL, PYTHON_FRAME_WORDS, RETURN_PROBES, STACK_END_BROKEN,
    STACK_END_FAULT, STACK_END_LIMIT, STACK_END_WHOLE, STACK_FLAG_WAIT, STACK_FRAMES, STACK_KERNEL_FRAMES,
    STACKS_WINDOW_NS, Stack, Stat,
};

use crate::{
    capture::{self, BPF_RB_NO_WAKEUP, NO_PAYLOAD},
    filter::Thread,
    maps::{EVENTS, FUNCTION_OPEN, STACK_WINDOWS},
    memory::read_user,
    python,
    settings::setting,
    stats::count,
    threads::Followed,
};

/// Where on a thread's stack the return address of a function is.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Frame {
    pub pid: u32,
    pub zero: u32,
    /// Thread, or goroutine.
    pub id: u64,
    pub stack: u64,
}

/// A function that has begun.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Open {
    pub time: u64,
    /// Where it returns to.
    pub caller: u64,
}

/// Where a walk begins.
pub struct Walk {
    pub thread: Thread,
    /// Thread, or goroutine.
    pub id: u64,
    pub number: u64,
    pub time: u64,
    /// The first address.
    pub first: u64,
    /// The stack pointer there.
    pub stack: u64,
    /// The frame pointer there.
    pub frame: u64,
    /// `STACK_FLAG_*`.
    pub flags: u16,
}

/// Bytes that are copied at a time: what is less below the end of a stack is not copied, and holds the environment or what the C library knows of a
/// thread.
const PIECE: usize = 1024;

/// How many stacks of waits a CPU has told since.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Window {
    pub since_ns: u64,
    /// Of short waits, and of long ones.
    pub n: [u32; 2],
}

/// A record and room for heads of frames of Python, for its addresses, those of the kernel before them, and a copy of the stack.
#[repr(C)]
struct WithStack<const P: usize, const K: usize, const N: usize> {
    record: Stack,
    python: [[u64; PYTHON_FRAME_WORDS]; P],
    kernel: [u64; K],
    addresses: [u64; STACK_FRAMES],
    bytes: [u8; N],
}

/// Where a probed function returns to whose return address the kernel has replaced; 0 = not known.
#[inline(always)]
pub fn caller_of(pid: u32, id: u64, stack: u64) -> u64 {
    let frame = Frame { pid, zero: 0, id, stack };
    // SAFETY: the value is copied at once.
    unsafe { FUNCTION_OPEN.get(frame) }.map_or(0, |open| open.caller)
}

/// Whether the stack of a wait is to be told: on a host with thousands of threads that wait all the time, as many as can be resolved.
#[inline(always)]
pub fn is_due(now: u64, waited_ns: u64) -> bool {
    let Some(window) = STACK_WINDOWS.get_ptr_mut(0) else { return false };
    // SAFETY: a map value of this CPU. Two programs on it at once may count one stack less.
    let window = unsafe { &mut *window };
    if now.saturating_sub(window.since_ns) >= STACKS_WINDOW_NS {
        *window = Window { since_ns: now, n: [0; 2] };
    }
    let limit = setting!(stacks_per_window);
    let (n, limit) =
        if waited_ns >= LONG_WAIT_NS { (&mut window.n[1], 4 * limit) } else { (&mut window.n[0], limit) };
    if *n >= limit {
        count(Stat::StacksLeftOut);
        return false;
    }
    *n += 1;
    true
}

/// Tells what a thread waits in, of the kernel, while it does.
#[inline(never)]
pub fn tell_kernel(task: *const u8, followed: &Followed, tid: u32, now: u64) -> u64 {
    count(Stat::EventsAttempted);
    let (pressure, _) = capture::pressure();
    if pressure >= NO_PAYLOAD {
        count(Stat::RefusedStack);
        return 0;
    }
    let Some(mut entry) = EVENTS.reserve::<KernelStack>(0) else {
        count(Stat::RefusedStack);
        return 0;
    };
    count(Stat::EventsReserved);
    let all: *mut KernelStack = entry.as_mut_ptr();
    // SAFETY: a reservation of the ring, of which each field is written once; the task came from the tracepoint.
    unsafe {
        let kernel = (&raw mut (*all).kernel).cast::<c_void>();
        let found = bpf_get_task_stack(task.cast_mut().cast(), kernel, (8 * STACK_KERNEL_FRAMES) as u32, 0);
        let n = if found > 0 { found as u32 / 8 } else { 0 };
        let record = &raw mut (*all).record;
        (&raw mut (*record).header.time_ns).write_volatile(now);
        (&raw mut (*record).header.kind).write_volatile(KIND_STACK);
        (&raw mut (*record).header.flags).write_volatile(STACK_FLAG_WAIT);
        (&raw mut (*record).header.length).write_volatile(size_of::<KernelStack>() as u32);
        (&raw mut (*record).number).write_volatile(u64::from(followed.number + 1));
        (&raw mut (*record).stack).write_volatile(0);
        (&raw mut (*record).frame).write_volatile(0);
        (&raw mut (*record).pid).write_volatile(followed.pid);
        (&raw mut (*record).tid).write_volatile(tid);
        (&raw mut (*record).n_addresses).write_volatile(0);
        // The program's part comes at the end of the call.
        let end = if followed.call == OFF_NO_CALL { STACK_END_BROKEN } else { STACK_END_LIMIT };
        (&raw mut (*record).end).write_volatile(end);
        (&raw mut (*record).n_bytes).write_volatile(0);
        (&raw mut (*record).n_kernel).write_volatile(n);
        (&raw mut (*record).n_python).write_volatile(0);
        (&raw mut (*record).python_end).write_volatile(STACK_END_WHOLE);
    }
    entry.submit(BPF_RB_NO_WAKEUP);
    1
}

/// A record with addresses of the kernel alone.
#[repr(C)]
struct KernelStack {
    record: Stack,
    kernel: [u64; STACK_KERNEL_FRAMES],
}

/// Tells who called, with a copy of `N` bytes. A function of its own: it is in several programs. With `K` = [`STACK_KERNEL_FRAMES`] there is room for the
/// kernel's part, which `context`, unless it is null, knows. With `P` = [`tracer_ebpf::PYTHON_FRAMES`] frames of Python are told as well.
#[inline(never)]
pub fn tell<const P: usize, const K: usize, const N: usize>(walk: &Walk, context: *mut c_void) -> u64 {
    count(Stat::EventsAttempted);
    let (pressure, wake) = capture::pressure();
    if pressure >= NO_PAYLOAD {
        count(Stat::RefusedStack);
        return 0;
    }
    let Some(mut entry) = EVENTS.reserve::<WithStack<P, K, N>>(0) else {
        count(Stat::RefusedStack);
        return 0;
    };
    count(Stat::EventsReserved);
    let record: *mut WithStack<P, K, N> = entry.as_mut_ptr();
    // SAFETY: a reservation of the ring; each field is written once, by itself, and addresses within their array.
    unsafe {
        if P > 0 {
            // Before anything is known: then it is verified once.
            let heads = (&raw mut (*record).python).cast::<u8>();
            python::tell(&raw mut (*record).record, heads, walk.thread.pid);
        }
        let addresses = (&raw mut (*record).addresses).cast::<u64>();
        addresses.write_volatile(walk.first);
        let mut n = 1;
        let mut end = STACK_END_LIMIT;
        let mut frame = walk.frame;
        if frame == 0 {
            end = STACK_END_WHOLE;
        }
        while n < STACK_FRAMES {
            if end != STACK_END_LIMIT {
                break;
            }
            // The caller's frame pointer, and above it where this one returns to.
            let Some([next, mut address]) = read_user::<[u64; 2]>(frame) else {
                end = STACK_END_FAULT;
                break;
            };
            if address == 0 {
                end = STACK_END_WHOLE;
                break;
            }
            if address >= RETURN_PROBES {
                address = caller_of(walk.thread.pid, walk.id, frame + 8);
            }
            addresses.add(n).write_volatile(address);
            n += 1;
            if next == 0 {
                end = STACK_END_WHOLE;
            } else if next <= frame {
                end = STACK_END_BROKEN;
            }
            frame = next;
        }
        let bytes = (&raw mut (*record).bytes).cast::<u8>();
        let mut copied = 0;
        while copied < N {
            let from = (walk.stack + copied as u64) as *const c_void;
            if bpf_probe_read_user(bytes.add(copied).cast(), PIECE as u32, from) != 0 {
                break;
            }
            copied += PIECE;
        }
        let mut n_kernel = 0;
        if K > 0 && !context.is_null() {
            let kernel = (&raw mut (*record).kernel).cast::<c_void>();
            let found = bpf_get_stack(context, kernel, (8 * K) as u32, 0);
            n_kernel = if found > 0 { found as u32 / 8 } else { 0 };
        }
        let behind = size_of::<[[u64; PYTHON_FRAME_WORDS]; P]>()
            + 8 * K
            + if copied == 0 { 8 * n } else { 8 * STACK_FRAMES + copied };
        let record = &raw mut (*record).record;
        (&raw mut (*record).header.time_ns).write_volatile(walk.time);
        (&raw mut (*record).header.kind).write_volatile(KIND_STACK);
        (&raw mut (*record).header.flags).write_volatile(walk.flags);
        (&raw mut (*record).header.length).write_volatile((size_of::<Stack>() + behind) as u32);
        (&raw mut (*record).number).write_volatile(walk.number);
        (&raw mut (*record).pid).write_volatile(walk.thread.pid);
        (&raw mut (*record).tid).write_volatile(walk.thread.tid);
        (&raw mut (*record).n_addresses).write_volatile(n as u32);
        (&raw mut (*record).end).write_volatile(end);
        (&raw mut (*record).stack).write_volatile(walk.stack);
        (&raw mut (*record).frame).write_volatile(walk.frame);
        (&raw mut (*record).n_bytes).write_volatile(copied as u32);
        (&raw mut (*record).n_kernel).write_volatile(n_kernel);
        if P == 0 {
            (&raw mut (*record).n_python).write_volatile(0);
            (&raw mut (*record).python_end).write_volatile(STACK_END_WHOLE);
        }
    }
    entry.submit(wake);
    1
}
