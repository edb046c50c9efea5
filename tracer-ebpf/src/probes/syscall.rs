//! Data hooks, family *system call*: `sys_exit` for kernels without the socket tracepoints. The arguments are still in
//! `pt_regs` at the exit, so one program serves sends and receives and no state is kept between entry and exit.
//!
//! fd → file → socket → sock by walking the task's structures: works for sockets older than the tracer, inherited, duplicated and passed.

use aya_ebpf::{helpers::bpf_get_current_task, macros::btf_tracepoint, programs::BtfTracePointContext};
use tracer_ebpf::{EGRESS, INGRESS, SYS_EXIT_RUSTLS, SYS_EXIT_SINGLE, SYS_EXIT_VECTOR, Stat, TLS_AND_RUSTLS};

use super::{
    call::{self, Call, MMSGHDR_BYTES, MMSGHDR_LENGTH, NAMES, Registers},
    hit::{Hit, failed, hit},
};
use crate::{
    capture::{BUFFER_MESSAGES, BUFFER_SINGLE, Buffer, NO_BUFFER},
    filter::current_target,
    maps::SYS_EXIT,
    memory::{Memory, Probed, Typed, forget, read_user},
    settings::setting,
    socket::{self, Kind},
    stats::count,
    tls_rustls,
};

/// `S_IFMT`, `S_IFSOCK` (include/uapi/linux/stat.h).
const S_IFMT: u16 = 0o170_000;
const S_IFSOCK: u16 = 0o140_000;
/// Most messages of a recvmmsg or sendmmsg whose lengths are read; the bytes of as many as there are pieces to a record.
const MAX_MESSAGES: u64 = 16;

/// Whether a system call of this number may move bytes on a socket.
#[inline(always)]
fn moves_bytes(number: u64) -> bool {
    matches!(
        number,
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
            | call::PWRITEV2
    )
}

/// Exit of any system call; ends at once for those that move no bytes on sockets.
///
/// match-proto: `sys_exit(struct pt_regs *regs, long ret)`
#[btf_tracepoint(function = "sys_exit")]
pub fn syscall_exit(context: BtfTracePointContext) -> i32 {
    let regs: *const u8 = context.arg(0);
    if !moves_bytes(Registers::number::<Typed>(regs)) {
        return 0;
    }
    let Some(thread) = current_target() else { return 0 };
    let result: i64 = context.arg(1);
    // SAFETY: no arguments.
    let task = unsafe { bpf_get_current_task() } as *const u8;
    let mut site = Hit {
        thread,
        task,
        sock: core::ptr::null(),
        direction: 0,
        result,
        call: Call { buffer: NO_BUFFER, flags: 0, is_empty: 0, name: 0 },
    };
    if find_site(regs, &mut site) == 0 {
        return 0;
    }
    // SAFETY: plain integers; the two pointers are only ever probed.
    unsafe { forget(&mut site) };
    if site.result < 0 {
        failed(&site);
        return 0;
    }
    let kind = socket::kind::<Probed>(site.sock);
    if kind == Some(Kind::Udp) {
        let program = if site.call.name == NAMES { SYS_EXIT_VECTOR } else { SYS_EXIT_SINGLE };
        // SAFETY: nothing here has to be dropped. It comes back only where that program is missing, which the start told.
        unsafe { SYS_EXIT.tail_call(&context, program) };
        return 0;
    }
    hit::<Probed>(&site, kind);
    if site.direction == u64::from(EGRESS) && setting!(tls) == TLS_AND_RUSTLS && tls_rustls::is_due() != 0 {
        // SAFETY: as above.
        unsafe { SYS_EXIT.tail_call(&context, SYS_EXIT_RUSTLS) };
    }
    0
}

/// Fills in the site of a call; 0 if there is nothing to see. A function of its own: what it needs of the stack is free again
/// when the bytes are copied.
#[inline(never)]
pub fn find_site(regs: *const u8, site: &mut Hit) -> u32 {
    let registers = Registers::read::<Typed>(regs);
    let number = registers.number;
    let task = site.task;
    if call::is_compat::<Probed>(task, number) {
        // The numbers above mean other calls there: nothing is read, not even the length.
        count(Stat::NoBufferCompat);
        return 0;
    }
    let mut plan = Plan {
        fd: registers.di,
        direction: u64::from(INGRESS),
        shape: SINGLE,
        address: registers.si,
        count: registers.dx,
        flags: 0,
        name: 0,
    };
    match number {
        call::READ => {}
        call::WRITE => plan.direction = u64::from(EGRESS),
        call::RECVFROM => {
            plan.flags = registers.r10 as u32;
            plan.name = registers.r8;
        }
        call::SENDTO => {
            plan.direction = u64::from(EGRESS);
            plan.flags = registers.r10 as u32;
            plan.name = registers.r8;
        }
        call::READV | call::PREADV2 => plan.shape = IOVECS,
        call::WRITEV | call::PWRITEV2 => {
            plan.direction = u64::from(EGRESS);
            plan.shape = IOVECS;
        }
        call::RECVMSG => {
            plan.shape = MESSAGE;
            plan.flags = registers.dx as u32;
        }
        call::SENDMSG => {
            plan.direction = u64::from(EGRESS);
            plan.shape = MESSAGE;
            plan.flags = registers.dx as u32;
        }
        call::RECVMMSG => {
            plan.shape = MESSAGES;
            plan.flags = registers.r10 as u32;
        }
        call::SENDMMSG => {
            plan.direction = u64::from(EGRESS);
            plan.shape = MESSAGES;
            plan.flags = registers.r10 as u32;
        }
        call::SENDFILE => {
            plan.direction = u64::from(EGRESS);
            plan.shape = LENGTHS;
        }
        // From the one descriptor to the other: only one can be a stream socket that the other is not.
        _ => {
            plan.shape = LENGTHS;
            if sock_of(task, plan.fd).is_null() {
                plan.direction = u64::from(EGRESS);
                plan.fd = registers.dx;
            }
        }
    }
    // SAFETY: plain integers.
    unsafe { forget(&mut plan) };
    complete(&plan, site)
}

/// One buffer.
const SINGLE: u32 = 0;
/// An array of iovecs.
const IOVECS: u32 = 1;
/// A `msghdr`.
const MESSAGE: u32 = 2;
/// An array of `mmsghdr`.
const MESSAGES: u32 = 3;
/// Not in user memory.
const LENGTHS: u32 = 4;

/// A call, reduced to what the hit needs.
struct Plan {
    fd: u64,
    address: u64,
    count: u64,
    /// User address of the peer's name; 0 = none.
    name: u64,
    flags: u32,
    /// How the call holds its bytes: [`SINGLE`] and so on.
    shape: u32,
    direction: u64,
}

/// Finds the socket and the buffer of a plan.
#[inline(always)]
fn complete(plan: &Plan, site: &mut Hit) -> u32 {
    let sock = sock_of(site.task, plan.fd);
    if sock.is_null() {
        return 0;
    }
    let result = site.result;
    site.sock = sock;
    site.direction = plan.direction;
    site.call.flags = plan.flags;
    site.call.name = plan.name;
    match plan.shape {
        SINGLE => {
            site.call.buffer = Buffer { kind: BUFFER_SINGLE, count: 0, address: plan.address };
            site.call.is_empty = u32::from(plan.count == 0);
        }
        IOVECS => site.call.buffer = call::iovecs(plan.address, plan.count),
        MESSAGE => (site.call.buffer, site.call.name) = call::message(plan.address),
        MESSAGES => {
            site.call.name = NAMES;
            if result > 0 {
                site.result = messages_length(plan.address, result as u64) as i64;
                site.call.buffer =
                    Buffer { kind: BUFFER_MESSAGES, count: result as u32, address: plan.address };
            }
        }
        _ => {
            count(Stat::NoBufferFile);
            site.call.is_empty = 1;
        }
    }
    1
}

/// Bytes of the messages of a vector, of which `n` were moved: their lengths stand in user memory by now. Those beyond
/// [`MAX_MESSAGES`] are missed, and seen to be: the stream's position jumps.
#[inline(always)]
fn messages_length(address: u64, n: u64) -> u64 {
    let mut total = 0u64;
    let mut i = 0u64;
    while i < MAX_MESSAGES {
        if i >= n {
            break;
        }
        total += message_length(address, i);
        i += 1;
    }
    total
}

#[inline(always)]
fn message_length(address: u64, index: u64) -> u64 {
    u64::from(read_user::<u32>(address + index * MMSGHDR_BYTES + MMSGHDR_LENGTH).unwrap_or(0))
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
