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
    capture::{BUFFER_SINGLE, Buffer, NO_BUFFER},
    filter::{Thread, current_target},
    memory::{Memory, Probed, Typed, read_user},
    settings::setting,
    stats::count,
};

/// `S_IFMT`, `S_IFSOCK` (include/uapi/linux/stat.h).
const S_IFMT: u16 = 0o170_000;
const S_IFSOCK: u16 = 0o140_000;
/// Most messages of a recvmmsg or sendmmsg that are read; the rest are length only.
const MAX_MESSAGES: u64 = 4;

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
    let registers = Registers::read::<Typed>(regs);
    let mut plan = Plan {
        fd: registers.di,
        direction: INGRESS,
        shape: Shape::Single,
        address: registers.si,
        count: registers.dx,
        flags: 0,
    };
    match number {
        call::READ => {}
        call::WRITE => plan.direction = EGRESS,
        call::RECVFROM => plan.flags = registers.r10 as u32,
        call::SENDTO => {
            plan.direction = EGRESS;
            plan.flags = registers.r10 as u32;
        }
        call::READV | call::PREADV2 => plan.shape = Shape::Iovecs,
        call::WRITEV | call::PWRITEV2 => {
            plan.direction = EGRESS;
            plan.shape = Shape::Iovecs;
        }
        call::RECVMSG => {
            plan.shape = Shape::Message;
            plan.flags = registers.dx as u32;
        }
        call::SENDMSG => {
            plan.direction = EGRESS;
            plan.shape = Shape::Message;
            plan.flags = registers.dx as u32;
        }
        call::RECVMMSG => {
            plan.shape = Shape::Messages;
            plan.flags = registers.r10 as u32;
        }
        call::SENDMMSG => {
            plan.direction = EGRESS;
            plan.shape = Shape::Messages;
            plan.flags = registers.r10 as u32;
        }
        call::SENDFILE => {
            plan.direction = EGRESS;
            plan.shape = Shape::Lengths;
        }
        // From the one descriptor to the other: only one can be a stream socket that the other is not.
        _ => {
            plan.shape = Shape::Lengths;
            if sock_of(task, plan.fd).is_null() {
                plan.direction = EGRESS;
                plan.fd = registers.dx;
            }
        }
    }
    run(&plan, &thread, task, result);
    0
}

/// How a call holds its bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// One buffer.
    Single,
    /// An array of iovecs.
    Iovecs,
    /// A `msghdr`.
    Message,
    /// An array of `mmsghdr`.
    Messages,
    /// Not in user memory.
    Lengths,
}

/// A call, reduced to what the hit needs.
struct Plan {
    fd: u64,
    direction: u8,
    shape: Shape,
    address: u64,
    count: u64,
    flags: u32,
}

/// One call site of the hit for all calls: the verifier walks it once per site and turn of the loop.
#[inline(always)]
fn run(plan: &Plan, thread: &Thread, task: *const u8, result: i64) {
    let sock = sock_of(task, plan.fd);
    if sock.is_null() {
        return;
    }
    let mut n_parts = 1;
    let mut behind = 0u64;
    if plan.shape == Shape::Messages && result > 0 {
        // `result` counts messages; their lengths stand in user memory by now.
        n_parts = result as u64;
        let mut i = 0u64;
        while i < MAX_MESSAGES && i < n_parts {
            behind += message_length(plan.address, i);
            i += 1;
        }
        if n_parts > MAX_MESSAGES {
            count(Stat::NoBufferVector);
        }
    }
    let mut i = 0u64;
    while i < MAX_MESSAGES && i < n_parts {
        let mut call = Call { buffer: NO_BUFFER, flags: plan.flags, capacity: u64::MAX };
        let mut bytes = result;
        match plan.shape {
            Shape::Single => {
                call.buffer = Buffer { kind: BUFFER_SINGLE, count: 0, address: plan.address };
                call.capacity = plan.count;
            }
            Shape::Iovecs => call.buffer = call::iovecs(plan.address, plan.count),
            Shape::Message => call.buffer = call::message(plan.address),
            Shape::Messages => {
                if result > 0 {
                    let length = message_length(plan.address, i);
                    behind -= length;
                    bytes = length as i64;
                    call.buffer = call::message(plan.address + i * MMSGHDR_BYTES);
                }
            }
            Shape::Lengths => {
                count(Stat::NoBufferFile);
                call.capacity = 0;
            }
        }
        let site = Hit { thread, task, sock, direction: plan.direction, result: bytes, behind, call };
        hit_probed(&site);
        i += 1;
    }
}

#[inline(always)]
fn message_length(address: u64, index: u64) -> u64 {
    u64::from(read_user::<u32>(address + index * MMSGHDR_BYTES + MMSGHDR_LENGTH).unwrap_or(0))
}

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
