//! Data hooks, family *system call*: `sys_exit` for kernels without the socket tracepoints. The arguments are still in
//! `pt_regs` at the exit, so one program serves sends and receives and no state is kept between entry and exit.
//!
//! fd → file → socket → sock by walking the task's structures: works for sockets older than the tracer, inherited, duplicated and passed.

use aya_ebpf::{helpers::bpf_get_current_task, macros::btf_tracepoint, programs::BtfTracePointContext};
use tracer_ebpf::{EGRESS, INGRESS, Stat};

use super::{
    call::{self, Call, MMSGHDR_BYTES, MMSGHDR_LENGTH, Registers},
    hit::{Hit, hit},
};
use crate::{
    capture::{BUFFER_SINGLE, Buffer, no_buffer},
    filter::{Thread, current_target},
    memory::{Memory, Probed, Typed, read_user},
    settings::setting,
    stats::count,
};

/// `S_IFMT`, `S_IFSOCK` (include/uapi/linux/stat.h).
const S_IFMT: u16 = 0o170_000;
const S_IFSOCK: u16 = 0o140_000;
/// Most messages of a recvmmsg or sendmmsg that are read; the rest are length only.
const MAX_MESSAGES: u64 = 8;

/// Exit of any system call; ends at once for those that move no bytes on sockets.
///
/// match-proto: `sys_exit(struct pt_regs *regs, long ret)`
#[btf_tracepoint(function = "sys_exit")]
pub fn syscall_exit(context: BtfTracePointContext) -> i32 {
    let regs: *const u8 = context.arg(0);
    let number = Registers::number::<Typed>(regs);
    match number {
        call::READ
        | call::WRITE
        | call::READV
        | call::WRITEV
        | call::SENDFILE
        | call::SENDTO
        | call::RECVFROM
        | call::SENDMSG
        | call::RECVMSG
        | call::SPLICE
        | call::RECVMMSG
        | call::SENDMMSG
        | call::PREADV2
        | call::PWRITEV2 => {}
        _ => return 0,
    }
    let Some(thread) = current_target() else { return 0 };
    let result: i64 = context.arg(1);
    // SAFETY: no arguments.
    let task = unsafe { bpf_get_current_task() } as *const u8;
    if call::is_compat::<Probed>(task, number) {
        // The numbers above mean other calls there: nothing is read, not even the length.
        count(Stat::NoBufferCompat);
        return 0;
    }
    let call = Registers::read::<Typed>(regs);
    let at = Site { thread: &thread, task, result };
    match number {
        call::READ => at.single(call.di, INGRESS, call.si, call.dx, 0),
        call::WRITE => at.single(call.di, EGRESS, call.si, call.dx, 0),
        call::RECVFROM => at.single(call.di, INGRESS, call.si, call.dx, call.r10 as u32),
        call::SENDTO => at.single(call.di, EGRESS, call.si, call.dx, call.r10 as u32),
        call::READV | call::PREADV2 => at.iovecs(call.di, INGRESS, call.si, call.dx),
        call::WRITEV | call::PWRITEV2 => at.iovecs(call.di, EGRESS, call.si, call.dx),
        call::RECVMSG => at.message(call.di, INGRESS, call.si, call.dx as u32),
        call::SENDMSG => at.message(call.di, EGRESS, call.si, call.dx as u32),
        call::RECVMMSG => at.messages(call.di, INGRESS, call.si, call.r10 as u32),
        call::SENDMMSG => at.messages(call.di, EGRESS, call.si, call.r10 as u32),
        call::SENDFILE => at.lengths(call.di, EGRESS),
        call::SPLICE => {
            at.lengths(call.di, INGRESS);
            at.lengths(call.dx, EGRESS);
        }
        _ => {}
    }
    0
}

/// One exit.
struct Site<'a> {
    thread: &'a Thread,
    task: *const u8,
    result: i64,
}

impl Site<'_> {
    #[inline(always)]
    fn go(&self, fd: u64, direction: u8, result: i64, behind: u64, call: Call) {
        let sock = sock_of(self.task, fd);
        if sock.is_null() {
            return;
        }
        hit_probed(&Hit { thread: self.thread, task: self.task, sock, direction, result, behind, call });
    }

    #[inline(always)]
    fn single(&self, fd: u64, direction: u8, address: u64, capacity: u64, flags: u32) {
        let buffer = Buffer { kind: BUFFER_SINGLE, count: 0, address };
        self.go(fd, direction, self.result, 0, Call { buffer, flags, capacity });
    }

    #[inline(always)]
    fn iovecs(&self, fd: u64, direction: u8, address: u64, count: u64) {
        let call = Call { buffer: call::iovecs(address, count), flags: 0, capacity: u64::MAX };
        self.go(fd, direction, self.result, 0, call);
    }

    #[inline(always)]
    fn message(&self, fd: u64, direction: u8, address: u64, flags: u32) {
        let call = Call { buffer: call::message(address), flags, capacity: u64::MAX };
        self.go(fd, direction, self.result, 0, call);
    }

    /// `result` counts messages; their lengths stand in user memory by now.
    #[inline(always)]
    fn messages(&self, fd: u64, direction: u8, address: u64, flags: u32) {
        if self.result <= 0 {
            let call = Call { buffer: no_buffer(Stat::NoBufferVector), flags, capacity: 0 };
            self.go(fd, direction, self.result, 0, call);
            return;
        }
        let n_messages = self.result as u64;
        let mut behind = 0u64;
        let mut i = 0u64;
        while i < MAX_MESSAGES {
            if i >= n_messages {
                break;
            }
            behind += message_length(address, i);
            i += 1;
        }
        let mut i = 0u64;
        while i < MAX_MESSAGES {
            if i >= n_messages {
                break;
            }
            let bytes = message_length(address, i);
            behind -= bytes;
            let call = Call { buffer: call::message(address + i * MMSGHDR_BYTES), flags, capacity: u64::MAX };
            self.go(fd, direction, bytes as i64, behind, call);
            i += 1;
        }
        if n_messages > MAX_MESSAGES {
            count(Stat::NoBufferVector);
        }
    }

    #[inline(always)]
    fn lengths(&self, fd: u64, direction: u8) {
        let sock = sock_of(self.task, fd);
        if sock.is_null() {
            return;
        }
        let call = Call { buffer: no_buffer(Stat::NoBufferFile), flags: 0, capacity: 0 };
        hit_probed(&Hit {
            thread: self.thread,
            task: self.task,
            sock,
            direction,
            result: self.result,
            behind: 0,
            call,
        });
    }
}

#[inline(always)]
fn message_length(address: u64, index: u64) -> u64 {
    u64::from(read_user::<u32>(address + index * MMSGHDR_BYTES + MMSGHDR_LENGTH).unwrap_or(0))
}

/// One copy of the hit's code for all calls: the verifier sees it once per call site, the instruction cache once.
#[inline(never)]
fn hit_probed(site: &Hit<'_>) -> u32 {
    hit::<Probed>(site);
    0
}

/// The `struct sock` of a descriptor of the running task; null if it is no socket.
#[inline(always)]
fn sock_of(task: *const u8, fd: u64) -> *const u8 {
    let fd = fd as u32;
    let files: *const u8 = Probed::read(task, setting!(offsets.task_files));
    let table: *const u8 = Probed::read(files, setting!(offsets.files_fdt));
    let n_fds: u32 = Probed::read(table, setting!(offsets.fdtable_max_fds));
    if fd >= n_fds {
        return core::ptr::null();
    }
    let array: *const u8 = Probed::read(table, setting!(offsets.fdtable_fd));
    let file: *const u8 = Probed::read(array.wrapping_add(fd as usize * 8), 0);
    let inode: *const u8 = Probed::read(file, setting!(offsets.file_inode));
    let mode: u16 = Probed::read(inode, setting!(offsets.inode_mode));
    if mode & S_IFMT != S_IFSOCK {
        return core::ptr::null();
    }
    let socket: *const u8 = Probed::read(file, setting!(offsets.file_private_data));
    Probed::read(socket, setting!(offsets.socket_sk))
}
