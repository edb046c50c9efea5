//! System calls as the registers show them: which call, which buffer, which flags (x86-64,
//! arch/x86/entry/syscalls/syscall_64.tbl).

use aya_ebpf::helpers::generated::bpf_get_current_pid_tgid;
use tracer_ebpf::{EGRESS, INGRESS, NO_OFFSET, Stat};

use crate::{
    capture::{BUFFER_IOVECS, BUFFER_MESSAGES, BUFFER_SINGLE, Buffer, no_buffer},
    memory::{Memory, hide, read_user},
    settings::setting,
};

pub const READ: u64 = 0;
pub const WRITE: u64 = 1;
pub const READV: u64 = 19;
pub const WRITEV: u64 = 20;
pub const SENDFILE: u64 = 40;
pub const SENDTO: u64 = 44;
pub const RECVFROM: u64 = 45;
pub const SENDMSG: u64 = 46;
pub const RECVMSG: u64 = 47;
pub const SPLICE: u64 = 275;
pub const TEE: u64 = 276;
pub const RECVMMSG: u64 = 299;
pub const SENDMMSG: u64 = 307;
pub const PREADV2: u64 = 327;
pub const PWRITEV2: u64 = 328;
pub const IO_URING_ENTER: u64 = 426;

/// Bit of x32 system call numbers (arch/x86/include/uapi/asm/unistd.h).
const X32_BIT: u64 = 0x4000_0000;
/// `TS_COMPAT` (arch/x86/include/asm/thread_info.h): a 32-bit system call is being executed.
const TS_COMPAT: u32 = 0x0002;
/// `PF_IO_WORKER` and `PF_KTHREAD` (include/linux/sched.h).
const PF_IO_WORKER: u32 = 0x0000_0010;
const PF_KTHREAD: u32 = 0x0020_0000;

/// `MSG_*` (include/linux/socket.h).
pub const MSG_OOB: u32 = 0x1;
pub const MSG_PEEK: u32 = 0x2;
pub const MSG_TRUNC: u32 = 0x20;
pub const MSG_ERRQUEUE: u32 = 0x2000;

/// User registers at a system call.
#[derive(Clone, Copy)]
pub struct Registers {
    /// `orig_ax`: the call's number.
    pub number: u64,
    pub di: u64,
    pub si: u64,
    pub dx: u64,
    pub r10: u64,
    pub r8: u64,
}

/// Offsets in `struct pt_regs` (arch/x86/include/asm/ptrace.h; user ABI, the same on every kernel).
const REG_R10: u32 = 56;
const REG_R8: u32 = 72;
const REG_DX: u32 = 96;
const REG_SI: u32 = 104;
const REG_DI: u32 = 112;
const REG_ORIG_AX: u32 = 120;
const REG_BP: u32 = 32;
const REG_R14: u32 = 8;
const REG_IP: u32 = 128;
const REG_SP: u32 = 152;

impl Registers {
    /// Reads the registers that arguments come in.
    #[inline(always)]
    pub fn read<M: Memory>(regs: *const u8) -> Registers {
        Registers {
            number: M::read(regs, REG_ORIG_AX),
            di: M::read(regs, REG_DI),
            si: M::read(regs, REG_SI),
            dx: M::read(regs, REG_DX),
            r10: M::read(regs, REG_R10),
            r8: M::read(regs, REG_R8),
        }
    }

    /// The first argument alone.
    #[inline(always)]
    pub fn first<M: Memory>(regs: *const u8) -> u64 {
        M::read(regs, REG_DI)
    }

    /// The fifth argument alone.
    #[inline(always)]
    pub fn fifth<M: Memory>(regs: *const u8) -> u64 {
        M::read(regs, REG_R8)
    }

    /// Where the program is: instruction, stack and frame pointer.
    #[inline(always)]
    pub fn place<M: Memory>(regs: *const u8) -> [u64; 3] {
        [M::read(regs, REG_IP), M::read(regs, REG_SP), M::read(regs, REG_BP)]
    }

    /// The register in which Go keeps its goroutine.
    #[inline(always)]
    pub fn goroutine<M: Memory>(regs: *const u8) -> u64 {
        M::read(regs, REG_R14)
    }

    /// The call's number alone.
    #[inline(always)]
    pub fn number<M: Memory>(regs: *const u8) -> u64 {
        M::read(regs, REG_ORIG_AX)
    }
}

/// `struct user_msghdr` up to the iovecs (include/linux/socket.h): name, namelen + padding, iov, iovlen.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct MessageHeader {
    pub name: u64,
    name_length: u64,
    pub iovecs: u64,
    pub n_iovecs: u64,
}

/// Offset of `iovecs` in it.
pub const MESSAGE_IOVECS: u64 = 16;

/// Bytes of `struct mmsghdr`: a `user_msghdr` (56) and the length sent or received.
pub const MMSGHDR_BYTES: u64 = 64;
/// Offset of `msg_len` in it.
pub const MMSGHDR_LENGTH: u64 = 56;

/// Whether the thread is in a 32-bit or x32 call.
#[inline(always)]
pub fn is_compat<M: Memory>(task: *const u8, number: u64) -> bool {
    if number & X32_BIT != 0 {
        return true;
    }
    if setting!(offsets.task_thread_info_status) == NO_OFFSET {
        return false;
    }
    let status: u32 = M::read(task, setting!(offsets.task_thread_info_status));
    status & TS_COMPAT != 0
}

/// Iovecs at an address.
#[inline(always)]
pub fn iovecs(address: u64, count: u64) -> Buffer {
    let count = if count > u64::from(u32::MAX) { u32::MAX } else { count as u32 };
    Buffer { kind: BUFFER_IOVECS, count, address }
}

/// Iovecs of a `msghdr` in user memory, and the address of its name.
#[inline(always)]
pub fn message(address: u64) -> (Buffer, u64) {
    match read_user::<MessageHeader>(address) {
        Some(header) => (iovecs(header.iovecs, header.n_iovecs), header.name),
        None => (no_buffer(Stat::PayloadFault), 0),
    }
}

/// A call that moves bytes on a socket: its buffer and `MSG_*` flags.
#[derive(Clone, Copy)]
pub struct Call {
    pub buffer: Buffer,
    /// `MSG_*`, from the registers.
    pub flags: u32,
    /// 1: the buffer is one, and has no room. (Not its length: streams' programs use every byte of the stack that kernel 6.12 has.)
    pub is_empty: u32,
    /// User address of the peer's name, which a receive fills in at the end; 0 = none.
    pub name: u64,
}

impl Call {
    /// The same, of which the verifier knows nothing: which system call it was makes no difference to what follows, which is then walked once and not once
    /// for each of them.
    #[inline(always)]
    pub fn hidden(&self) -> Call {
        // SAFETY: no arguments. Below 2^63, as process ids are below 2^22; the verifier does not know that.
        let unknown = unsafe { bpf_get_current_pid_tgid() };
        let Buffer { kind, count, address } = self.buffer;
        Call {
            buffer: Buffer {
                kind: hide(u64::from(kind), unknown) as u32,
                count: hide(u64::from(count), unknown) as u32,
                address: hide(address, unknown),
            },
            flags: hide(u64::from(self.flags), unknown) as u32,
            is_empty: hide(u64::from(self.is_empty), unknown) as u32,
            name: hide(self.name, unknown),
        }
    }
}

/// [`Call::name`]: there is one for each message of the vector, in user memory by the end of the call.
pub const NAMES: u64 = u64::MAX;
/// [`Call::name`]: the hook runs for one message of a vector that is being sent, and does not say for which.
pub const ONE_OF_MANY: u64 = u64::MAX - 1;

/// The call in progress, as a data hook finds it; `direction` is the hook's.
#[inline(always)]
pub fn current<M: Memory>(task: *const u8, regs: *const u8, direction: u8) -> Call {
    let nothing = |buffer| Call { buffer, flags: 0, is_empty: 0, name: 0 };
    let task_flags: u32 = M::read(task, setting!(offsets.task_flags));
    if task_flags & PF_IO_WORKER != 0 {
        return nothing(no_buffer(Stat::NoBufferUring));
    }
    if task_flags & PF_KTHREAD != 0 {
        return nothing(no_buffer(Stat::NoBufferKernel));
    }
    if regs.is_null() {
        return nothing(no_buffer(Stat::NoBufferOther));
    }
    let call = Registers::read::<M>(regs);
    if is_compat::<M>(task, call.number) {
        return nothing(no_buffer(Stat::NoBufferCompat));
    }
    let single = |flags, name| Call {
        buffer: Buffer { kind: BUFFER_SINGLE, count: 0, address: call.si },
        flags,
        is_empty: u32::from(call.dx == 0),
        name,
    };
    let of_message = |flags| {
        let (buffer, name) = message(call.si);
        Call { buffer, flags, is_empty: 0, name }
    };
    if direction == INGRESS {
        match call.number {
            READ => return single(0, 0),
            RECVFROM => return single(call.r10 as u32, call.r8),
            READV | PREADV2 => return nothing(iovecs(call.si, call.dx)),
            RECVMSG => return of_message(call.dx as u32),
            _ => {}
        }
    } else if direction == EGRESS {
        match call.number {
            WRITE => return single(0, 0),
            SENDTO => return single(call.r10 as u32, call.r8),
            WRITEV | PWRITEV2 => return nothing(iovecs(call.si, call.dx)),
            SENDMSG => return of_message(call.dx as u32),
            SENDMMSG if call.dx == 1 => return of_message(call.r10 as u32),
            SENDMMSG => {
                let count = if call.dx > u64::from(u32::MAX) { u32::MAX } else { call.dx as u32 };
                let buffer = Buffer { kind: BUFFER_MESSAGES, count, address: call.si };
                return Call { flags: call.r10 as u32, name: ONE_OF_MANY, ..nothing(buffer) };
            }
            _ => {}
        }
    }
    match call.number {
        // The hook fires once per message and does not say for which: only a vector of one is certain.
        RECVMMSG if call.dx == 1 => Call { name: NAMES, ..of_message(call.r10 as u32) },
        RECVMMSG => Call { flags: call.r10 as u32, name: NAMES, ..nothing(no_buffer(Stat::NoBufferVector)) },
        SENDFILE | SPLICE | TEE => nothing(no_buffer(Stat::NoBufferFile)),
        IO_URING_ENTER => nothing(no_buffer(Stat::NoBufferUring)),
        _ => nothing(no_buffer(Stat::NoBufferOther)),
    }
}
