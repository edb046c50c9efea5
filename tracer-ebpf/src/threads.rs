//! Threads that serve requests: since when, what they wait for, and how long they were on a CPU within system calls.
//!
//! A thread is followed from the first bytes that it receives as a server. It serves as long as one of its connections has received and not begun to answer;
//! what it waits for behind that is told only if it goes on answering: waiting for the next request is nobody's time.

use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use tracer_ebpf::{
    ANATOMY_CALLS, Conn, EGRESS, Header, INGRESS, IS_CARRIED, KIND_OFF_CPU, OFF_FLAG_IO_WAIT,
    OFF_FLAG_RUNNABLE, OffCpu, ROLE_CLIENT, Stat, target_hint,
};

use crate::{
    capture::{self, BPF_RB_NO_WAKEUP, NO_PAYLOAD},
    conn::now,
    maps::{EVENTS, THREAD_HINTS, THREADS},
    settings::setting,
    stats::count,
};

/// Times off the CPU that are told behind the last bytes moved while nothing is being served: a thread that does something else for good is left alone.
const MAX_BEHIND: u32 = 64;

/// A thread that serves requests.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Followed {
    /// When it left the CPU; 0 = it is on one, or that is not told.
    pub out_ns: u64,
    /// When it was woken; 0 = not yet.
    pub wake_ns: u64,
    /// What it was in when it left: first argument.
    pub argument: u64,
    /// When the system call in progress began; 0 = none.
    pub enter_ns: u64,
    /// How long it was off the CPU since.
    pub off_ns: u64,
    /// How long on a CPU within calls that have ended.
    pub kernel_ns: u64,
    /// The same when it left the CPU.
    pub kernel_out_ns: u64,
    /// What it waited for behind an answer that may go on; number 0 = nothing.
    pub held: OffCpu,
    /// How often it had left its CPU when that was last seen; 0 = not known.
    pub switches: u64,
    /// Number of the last time off the CPU.
    pub number: u32,
    /// Connections that have received, and have not begun to answer.
    pub n_open: u32,
    /// How many more times are told while there are none.
    pub behind: u32,
    pub pid: u32,
    /// What it was in when it left the CPU.
    pub call: u32,
    pub waker: u32,
    pub file: u16,
    /// `OFF_FLAG_*`.
    pub flags: u16,
    /// 1 = what it waits for ends with something to do: a request, or more of an answer.
    pub is_idle: u32,
    /// 1 = for any of several descriptors: with several requests open it is nobody's.
    pub is_poll: u32,
    /// Number of the time off the CPU of which the program's part of the stack is told when the call ends; 0 = none.
    pub due: u32,
    pub reserved: u32,
}

/// A new one.
static NEW: Followed = Followed {
    out_ns: 0,
    wake_ns: 0,
    argument: 0,
    enter_ns: 0,
    off_ns: 0,
    kernel_ns: 0,
    kernel_out_ns: 0,
    held: OffCpu {
        header: Header { time_ns: 0, kind: 0, flags: 0, length: 0 },
        out_ns: 0,
        wake_ns: 0,
        kernel_ns: 0,
        argument: 0,
        number: 0,
        pid: 0,
        tid: 0,
        call: 0,
        waker: 0,
        file: 0,
        reserved: 0,
    },
    switches: 0,
    number: 1,
    n_open: 0,
    behind: 0,
    pid: 0,
    call: 0,
    waker: 0,
    file: 0,
    flags: 0,
    is_idle: 0,
    is_poll: 0,
    due: 0,
    reserved: 0,
};

/// A thread, if it is followed.
#[inline(always)]
pub fn find(tid: u32) -> Option<&'static mut Followed> {
    if THREAD_HINTS.get(target_hint(tid)).is_none_or(|hint| *hint == 0) {
        return None;
    }
    // SAFETY: map values stay readable for the program's run. Only the thread itself and who wakes it write to it.
    THREADS.get_ptr_mut(tid).map(|thread| unsafe { &mut *thread })
}

/// How long it was on a CPU within system calls, up to now.
#[inline(always)]
pub fn kernel_ns(thread: &Followed, now: u64) -> u64 {
    if setting!(anatomy) != ANATOMY_CALLS || thread.enter_ns == 0 {
        return thread.kernel_ns;
    }
    thread.kernel_ns + (now - thread.enter_ns).saturating_sub(thread.off_ns)
}

/// Bytes moved on a connection: whether its thread serves, and how its time stands.
#[inline(never)]
pub fn moved(conn: &mut Conn, pid: u32, tid: u32, direction: u32) -> u32 {
    let starts_turn = conn.turn == 0 || u32::from(conn.direction) != direction;
    // What carries clear text says when its thread serves.
    if starts_turn && conn.role != ROLE_CLIENT && conn.carries != IS_CARRIED {
        if direction == u32::from(INGRESS) {
            conn.serving = serve(pid, tid);
        } else if conn.serving != 0 {
            served(conn.serving);
            conn.serving = 0;
        }
    }
    let Some(followed) = find(tid) else {
        conn.off_cpu = 0;
        conn.kernel_ns = 0;
        return 0;
    };
    followed.behind = MAX_BEHIND;
    if followed.held.number != 0 {
        if direction == u32::from(EGRESS) && conn.role != ROLE_CLIENT {
            tell(&followed.held);
        }
        followed.held.number = 0;
    }
    conn.off_cpu = followed.number;
    conn.kernel_ns = kernel_ns(followed, now());
    0
}

/// A thread has received what may be a request. Gives its number, 0 if it is not followed.
#[inline(always)]
fn serve(pid: u32, tid: u32) -> u32 {
    let mut followed = find(tid);
    if followed.is_none() {
        if let Some(hint) = THREAD_HINTS.get_ptr_mut(target_hint(tid)) {
            // SAFETY: an aligned word of the map; whoever writes it writes 1.
            unsafe { hint.write_volatile(1) };
        }
        #[expect(
            clippy::needless_borrows_for_generic_args,
            reason = "by value, it would be copied to the stack"
        )]
        let _ = THREADS.insert(tid, &NEW, 0);
        followed = find(tid);
    }
    let Some(followed) = followed else {
        count(Stat::ThreadsFull);
        return 0;
    };
    followed.pid = pid;
    if followed.n_open == 0 {
        // What it did meanwhile is nobody's.
        followed.switches = 0;
        followed.off_ns = 0;
        followed.enter_ns = if setting!(hits_in_call) != 0 { now() } else { 0 };
    }
    followed.n_open += 1;
    tid
}

/// What a thread served is being answered, or never will be.
#[inline(never)]
pub fn served(tid: u32) -> u32 {
    if let Some(followed) = find(tid)
        && followed.n_open != 0
    {
        followed.n_open -= 1;
    }
    0
}

/// A thread ends.
#[inline(always)]
pub fn ended(tid: u32) {
    if find(tid).is_some() {
        let _ = THREADS.remove(tid);
    }
}

/// A thread runs again: what it waited for is told, held, or nobody's.
#[inline(always)]
pub fn back(followed: &mut Followed, tid: u32, now: u64) {
    let out_ns = followed.out_ns;
    followed.out_ns = 0;
    if followed.enter_ns != 0 {
        followed.off_ns += now - out_ns;
    }
    followed.number += 1;
    let slice = OffCpu {
        header: Header {
            time_ns: now,
            kind: KIND_OFF_CPU,
            flags: followed.flags,
            length: size_of::<OffCpu>() as u32,
        },
        out_ns,
        wake_ns: followed.wake_ns,
        kernel_ns: followed.kernel_out_ns,
        argument: followed.argument,
        number: followed.number,
        pid: followed.pid,
        tid,
        call: followed.call,
        waker: followed.waker,
        file: followed.file,
        reserved: 0,
    };
    if followed.n_open == 0 {
        followed.behind = followed.behind.saturating_sub(1);
        if followed.behind == 0 {
            // What comes from here on is not told: it shows as a gap.
            followed.number += 1;
        }
        // It has gone on behind it, perhaps with the answer: each number is told, or a gap shows.
        if followed.held.number != 0 {
            tell(&followed.held);
            followed.held.number = 0;
        }
        if followed.is_idle != 0 {
            followed.held = slice;
            return;
        }
    }
    tell(&slice);
}

/// Tells a time off the CPU.
#[inline(never)]
fn tell(slice: &OffCpu) -> u32 {
    let (pressure, _) = capture::pressure();
    count(Stat::EventsAttempted);
    if pressure >= NO_PAYLOAD {
        count(Stat::RefusedOffCpu);
        return 0;
    }
    let Some(mut entry) = EVENTS.reserve::<OffCpu>(0) else {
        count(Stat::RefusedOffCpu);
        return 0;
    };
    count(Stat::EventsReserved);
    // SAFETY: both are an `OffCpu`, plain integers, aligned to 8.
    unsafe { crate::memory::copy_words(entry.as_mut_ptr(), slice) };
    entry.submit(BPF_RB_NO_WAKEUP);
    0
}

/// Whether what a thread does is told.
#[inline(always)]
pub fn is_told(followed: &Followed) -> bool {
    followed.n_open != 0 || followed.behind != 0
}

/// The running thread, if what it does is told.
#[inline(always)]
pub fn current() -> Option<&'static mut Followed> {
    find(bpf_get_current_pid_tgid() as u32).filter(|followed| is_told(followed))
}

/// `OFF_FLAG_*` of a thread that leaves.
#[inline(always)]
pub fn flags(is_runnable: bool, waits_for_device: bool) -> u16 {
    let mut flags = 0;
    if is_runnable {
        flags |= OFF_FLAG_RUNNABLE;
    } else if waits_for_device {
        flags |= OFF_FLAG_IO_WAIT;
    }
    flags
}
