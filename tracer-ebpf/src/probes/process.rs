//! Processes: children of targets, programs that become targets, and the end.

use aya_ebpf::{helpers::bpf_get_current_pid_tgid, macros::btf_tracepoint, programs::BtfTracePointContext};
use tracer_ebpf::{
    ANATOMY_NONE, ExeKey, Header, KIND_PROCESS_EXEC, KIND_PROCESS_EXIT, KIND_PROCESS_START, MAX_COMMS,
    Process, Stat,
};

use crate::{
    conn,
    filter::{add_target, is_armed},
    maps::{EVENTS, OWNERS, TARGET_COMMS, TARGET_EXES, TARGETS},
    memory::{Memory, Typed},
    settings::setting,
    stats::count,
    threads, tls,
};

/// A process or thread is created: a target's child process is a target.
///
/// match-proto: `sched_process_fork(struct task_struct *parent, struct task_struct *child)`
#[btf_tracepoint(function = "sched_process_fork")]
pub fn process_fork(context: BtfTracePointContext) -> i32 {
    let parent: *const u8 = context.arg(0);
    let child: *const u8 = context.arg(1);
    let parent_pid: u32 = Typed::read(parent, setting!(offsets.task_tgid));
    let child_pid: u32 = Typed::read(child, setting!(offsets.task_tgid));
    if parent_pid == child_pid {
        return 0;
    }
    // SAFETY: the value is one integer.
    match unsafe { TARGETS.get(parent_pid) } {
        Some(target) if target.follow != 0 => {}
        _ => return 0,
    }
    if !add_target(child_pid) {
        return 0;
    }
    #[cfg(feature = "log")]
    aya_log_ebpf::debug!(&context, "process {} is followed: child of target {}", child_pid, parent_pid);
    send(KIND_PROCESS_START, child, child_pid, parent_pid, 0);
    0
}

/// A process executes a program: by name or file it may become a target.
///
/// match-proto: `sched_process_exec(struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm)`
#[btf_tracepoint(function = "sched_process_exec")]
pub fn process_exec(context: BtfTracePointContext) -> i32 {
    let task: *const u8 = context.arg(0);
    let pid: u32 = Typed::read(task, setting!(offsets.task_tgid));
    if pid == setting!(self_pid) {
        return 0;
    }
    // SAFETY: only asked whether the key is there.
    let mut is_target = unsafe { TARGETS.get(pid) }.is_some();
    if !is_target {
        is_target = has_target_comm(Typed::read(task, setting!(offsets.task_comm)));
        if !is_target && setting!(by_exe) != 0 {
            let program: *const u8 = context.arg(2);
            let file: *const u8 = Typed::read(program, setting!(offsets.linux_binprm_file));
            let inode: *const u8 = Typed::read(file, setting!(offsets.file_inode));
            let key = ExeKey { inode: Typed::read(inode, setting!(offsets.inode_ino)) };
            // SAFETY: as above.
            is_target = unsafe { TARGET_EXES.get(key) }.is_some();
        }
        if !is_target {
            return 0;
        }
        if !add_target(pid) {
            return 0;
        }
        #[cfg(feature = "log")]
        aya_log_ebpf::debug!(&context, "process {} is a target: by what it executes", pid);
    }
    let parent: *const u8 = Typed::read(task, setting!(offsets.task_real_parent));
    send(KIND_PROCESS_EXEC, task, pid, Typed::read(parent, setting!(offsets.task_tgid)), 0);
    0
}

/// A thread takes a name (prctl, pthread_setname_np): with `--comm`, its process becomes a target.
///
/// match-proto: `task_rename(struct task_struct *task, const char *comm)`
#[btf_tracepoint(function = "task_rename")]
pub fn task_rename(context: BtfTracePointContext) -> i32 {
    if setting!(n_comms) == 0 {
        return 0;
    }
    let name: *const u8 = context.arg(1);
    let comm: [u64; 2] = crate::memory::Probed::read(name, 0);
    let pid = (bpf_get_current_pid_tgid() >> 32) as u32;
    if pid != setting!(self_pid) && has_target_comm(comm) {
        add_target(pid);
    }
    0
}

/// A thread ends. The last one of a target's is the process's end; its sockets are closed after this.
///
/// match-proto: `sched_process_exit(struct task_struct *p, …)`
#[btf_tracepoint(function = "sched_process_exit")]
pub fn process_exit(context: BtfTracePointContext) -> i32 {
    let task: *const u8 = context.arg(0);
    let pid: u32 = Typed::read(task, setting!(offsets.task_tgid));
    // SAFETY: only asked whether the keys are there.
    if unsafe { TARGETS.get(pid).is_none() && OWNERS.get(pid).is_none() } {
        return 0;
    }
    if setting!(tls) != 0 {
        tls::thread_ended(pid, bpf_get_current_pid_tgid() as u32);
    }
    if setting!(anatomy) != ANATOMY_NONE {
        threads::ended(bpf_get_current_pid_tgid() as u32);
    }
    let signal: *const u8 = Typed::read(task, setting!(offsets.task_signal));
    let live: u32 = Typed::read(signal, setting!(offsets.signal_live));
    if live != 0 {
        return 0;
    }
    let _ = TARGETS.remove(pid);
    let _ = OWNERS.remove(pid);
    let parent: *const u8 = Typed::read(task, setting!(offsets.task_real_parent));
    let parent_pid: u32 = Typed::read(parent, setting!(offsets.task_tgid));
    let exit_code: u32 = Typed::read(task, setting!(offsets.task_exit_code));
    if is_armed() {
        send(KIND_PROCESS_EXIT, task, pid, parent_pid, exit_code);
    }
    0
}

/// Whether a thread name is one of `TARGET_COMMS`.
#[inline(always)]
fn has_target_comm(comm: [u64; 2]) -> bool {
    let mut index = 0;
    while index < MAX_COMMS {
        if index >= setting!(n_comms) {
            return false;
        }
        if let Some(wanted) = TARGET_COMMS.get(index)
            && same_name(*wanted, comm)
        {
            return true;
        }
        index += 1;
    }
    false
}

/// Compares two names up to their NUL: behind it the kernel leaves what was there.
#[inline(always)]
fn same_name(wanted: [u64; 2], comm: [u64; 2]) -> bool {
    let mask = |wanted: u64| -> u64 {
        // Bytes up to and including the first NUL of the wanted name count.
        let zero = wanted.wrapping_sub(0x0101_0101_0101_0101) & !wanted & 0x8080_8080_8080_8080;
        if zero == 0 { u64::MAX } else { (zero ^ (zero - 1)) | zero }
    };
    if (wanted[0] ^ comm[0]) & mask(wanted[0]) != 0 {
        return false;
    }
    mask(wanted[0]) != u64::MAX || (wanted[1] ^ comm[1]) & mask(wanted[1]) == 0
}

#[inline(always)]
fn send(kind: u16, task: *const u8, pid: u32, parent_pid: u32, exit_code: u32) {
    count(Stat::EventsAttempted);
    let Some(mut entry) = EVENTS.reserve::<Process>(0) else {
        count(Stat::RefusedProcess);
        return;
    };
    count(Stat::EventsReserved);
    let comm: [u64; 2] = Typed::read(task, setting!(offsets.task_comm));
    let record = entry.as_mut_ptr();
    // SAFETY: `record` is a reservation of the ring; the name lies at a multiple of 8 and has 16 bytes.
    unsafe {
        (*record).header =
            Header { time_ns: conn::now(), kind, flags: 0, length: size_of::<Process>() as u32 };
        (*record).pid = pid;
        (*record).parent_pid = parent_pid;
        (*record).exit_code = exit_code;
        (*record).reserved = 0;
        (&raw mut (*record).comm).cast::<[u64; 2]>().write(comm);
    }
    entry.submit(1);
}
