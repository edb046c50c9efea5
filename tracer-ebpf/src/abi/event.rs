//! The records of the ring. Each starts with a [`Header`]; user space drops nothing it cannot decode without counting it.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::conn::Tuple;

/// [`Data`] and its payload.
pub const KIND_DATA: u16 = 1;
/// [`ConnOpen`].
pub const KIND_CONN_OPEN: u16 = 2;
/// [`ConnShut`].
pub const KIND_CONN_SHUT: u16 = 3;
/// [`ConnClose`].
pub const KIND_CONN_CLOSE: u16 = 4;
/// [`Process`]: started (forked from a target).
pub const KIND_PROCESS_START: u16 = 5;
/// [`Process`]: executed a new program.
pub const KIND_PROCESS_EXEC: u16 = 6;
/// [`Process`]: its last thread ended.
pub const KIND_PROCESS_EXIT: u16 = 7;

/// First bytes of every record.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Header {
    /// Boot time, ns: exit of the call, or the time of the hook.
    pub time_ns: u64,
    /// `KIND_*`.
    pub kind: u16,
    /// `FLAG_*` of the kind.
    pub flags: u16,
    /// Bytes of the record that mean something, header included. The ring's own length may be larger (size classes).
    pub length: u32,
}

/// [`Data`]: bytes from the traced process; without it, towards it.
pub const FLAG_EGRESS: u16 = 1 << 0;
/// [`Data`]: several calls summed, nothing captured; `time_ns` is the last call's, `first_ns` the first's.
pub const FLAG_SUMMED: u16 = 1 << 1;
/// [`Data`]: first bytes of a turn.
pub const FLAG_TURN_START: u16 = 1 << 2;
/// [`Data`]: length 0, the peer will send no more.
pub const FLAG_EOF: u16 = 1 << 3;
/// [`Data`]: the call's buffer could not be seen (sendfile, splice, 32-bit caller, io_uring, …): lengths only.
pub const FLAG_NO_BUFFER: u16 = 1 << 4;
/// [`Data`]: the copy of the buffer failed (page not resident).
pub const FLAG_FAULT: u16 = 1 << 5;
/// [`Data`]: payload was left out because the ring was nearly full.
pub const FLAG_OVERLOAD: u16 = 1 << 6;
/// [`Data`]: the call failed with a connection error (`error` holds the errno); length 0.
pub const FLAG_ERROR: u16 = 1 << 7;
/// [`Data`]: the verdict asked for more than the probe copies per call.
pub const FLAG_CUT: u16 = 1 << 8;
/// [`ConnOpen`]: the connection is older than the tracer (or was first seen in the middle).
pub const FLAG_MID_JOIN: u16 = 1 << 9;
/// [`Data`], egress on TCP: the process has consumed bytes of the other direction that no record shows (splice from the socket), or
/// not yet (another thread's call is returning). `error` holds how far: the low 32 bits of the position.
pub const FLAG_UNSEEN: u16 = 1 << 10;
/// [`Data`]: bytes of this direction moved just before, and no probe ran for them (splice, zero-copy receive, a probe that the kernel left
/// out), or another thread's call is being told out of order. What no probe saw has no turn either.
pub const FLAG_JUMP: u16 = 1 << 11;

/// Bytes moved on a connection by one call (or several, [`FLAG_SUMMED`]). `captured` payload bytes follow.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Data {
    /// Kind, flags, exit time of the (last) call.
    pub header: Header,
    /// The connection ([`crate::conn_id`]).
    pub conn_id: u64,
    /// Entry of the (first) call where the hook has it, otherwise exit of the first call summed; 0 = not known.
    pub first_ns: u64,
    /// Ingress: when the first of the bytes waiting in the socket arrived; 0 = not known.
    pub arrival_ns: u64,
    /// Stream position of the first byte: the kernel's sequence number extended to 64 bits (2^32 is added to the
    /// first one seen), so that missed bytes show as a gap.
    pub position: u64,
    /// Bytes moved.
    pub bytes: u64,
    /// Number of this direction change on the connection, from 1.
    pub turn: u32,
    /// Payload bytes that follow this struct.
    pub captured: u32,
    /// Thread group (process).
    pub pid: u32,
    /// Thread.
    pub tid: u32,
    /// Calls summed; 1 otherwise.
    pub n_calls: u32,
    /// Positive errno with [`FLAG_ERROR`]; a position with [`FLAG_UNSEEN`]; otherwise 0.
    pub error: u32,
    /// Thread name.
    pub comm: [u8; 16],
    /// Time that the thread has spent on a CPU within system calls since it is followed, ns, up to `header.time_ns`; 0 where calls are not timed.
    pub kernel_ns: u64,
    /// Number of the thread's last [`OffCpu`] by then; 0 = the thread is not followed.
    pub off_cpu: u32,
    /// Low half of the number of the goroutine that moved them; 0 = it is no program of Go, that is not known, or of several calls ([`FLAG_SUMMED`]).
    pub goroutine: u32,
    /// Time from a segment to its acknowledgement, as the kernel smooths it (`tcp_sock.srtt_us`), µs; 0 = none was measured, or no TCP socket of its own.
    pub rtt_us: u32,
    /// Segments that this end has sent again since the connection began (`tcp_sock.total_retrans`), modulo 2^32.
    pub retransmits: u32,
}

/// [`Retransmit`].
pub const KIND_RETRANSMIT: u16 = 15;

/// This end of a connection sent segments again, that the peer had not acknowledged.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Retransmit {
    /// When.
    pub header: Header,
    /// The connection.
    pub conn_id: u64,
    /// As [`Data::rtt_us`].
    pub rtt_us: u32,
    /// As [`Data::retransmits`], these included.
    pub retransmits: u32,
}

/// A process began to listen ([`Listening`]).
pub const KIND_LISTENING: u16 = 8;

/// [`Datagram`] and its payload.
pub const KIND_DATAGRAM: u16 = 9;

/// A datagram that a call sent or received. `captured` payload bytes follow. Its flags are those of [`Data`]: [`FLAG_EGRESS`],
/// [`FLAG_NO_BUFFER`], [`FLAG_FAULT`], [`FLAG_OVERLOAD`], [`FLAG_CUT`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Datagram {
    /// Kind, flags, exit time of the call.
    pub header: Header,
    /// The socket ([`crate::conn_id`]). It may have many peers.
    pub conn_id: u64,
    /// Number of the datagram among those of its direction on this socket, from 0: what is lost shows as a gap.
    pub number: u64,
    /// The ends, as far as the socket and the call tell: the own address is all zeros where the socket is bound to none.
    pub tuple: Tuple,
    /// Length, bytes.
    pub bytes: u32,
    /// Payload bytes that follow this struct.
    pub captured: u32,
    /// Thread group (process).
    pub pid: u32,
    /// Thread.
    pub tid: u32,
    /// Network namespace's inode number; 0 = not known.
    pub netns: u32,
    /// Zero.
    pub reserved: u32,
    /// Thread name.
    pub comm: [u8; 16],
}

/// Most payload bytes of a datagram. EDNS asks for 1,232 to 4,096 bytes; multicast DNS allows 9,000, which nobody sends.
pub const MAX_DATAGRAM_PAYLOAD: u32 = 4096;

/// First sight of a connection in a target's hands. Comes before its first [`Data`]. For Unix sockets the path follows
/// (`path_length` bytes, at most [`MAX_UNIX_PATH`]; an abstract name starts with a NUL).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct ConnOpen {
    /// Time of the hook at which the record was made.
    pub header: Header,
    /// The connection.
    pub conn_id: u64,
    /// When it was established; 0 = not seen.
    pub established_ns: u64,
    /// Inode number of the socket, as in `/proc/PID/fd`.
    pub inode: u64,
    /// The ends.
    pub tuple: Tuple,
    /// Process.
    pub pid: u32,
    /// Network namespace's inode number; 0 = not known.
    pub netns: u32,
    /// `ROLE_*`.
    pub role: u8,
    /// Bytes of the Unix path that follow.
    pub path_length: u8,
    /// Zero.
    pub reserved: [u8; 6],
}

/// One direction ended (a FIN was sent or received).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct ConnShut {
    /// With [`FLAG_EGRESS`]: this end sent its FIN; without: the peer's FIN arrived.
    pub header: Header,
    /// The connection.
    pub conn_id: u64,
}

/// Last record of a connection.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct ConnClose {
    /// Time of the close.
    pub header: Header,
    /// The connection.
    pub conn_id: u64,
    /// Final stream positions ([`crate::INGRESS`], [`crate::EGRESS`]); 0 = nothing seen in that direction.
    pub position: [u64; 2],
    /// Number of the last turn: what user space did not see of them is lost, and known to be.
    pub turn: u32,
    /// `CLOSE_*`.
    pub reason: u32,
    /// Data records of this connection that the ring refused.
    pub n_refused: u32,
    /// The socket's error (positive errno), 0 if none.
    pub error: u32,
}

/// Closed in order.
pub const CLOSE_NORMAL: u32 = 0;
/// Reset by the peer or aborted.
pub const CLOSE_RESET: u32 = 1;
/// The socket's memory was found to belong to another socket, or nobody holds the socket: the end itself was not seen.
pub const CLOSE_REPLACED: u32 = 2;
/// The process ended.
pub const CLOSE_EXIT: u32 = 3;

/// A target process started, executed or exited.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Process {
    /// Kind says which.
    pub header: Header,
    /// Process.
    pub pid: u32,
    /// Its parent.
    pub parent_pid: u32,
    /// Exit: the wait status.
    pub exit_code: u32,
    /// Zero.
    pub reserved: u32,
    /// Thread name of the leader.
    pub comm: [u8; 16],
}

/// Longest Unix path (`sun_path`, unix(7)).
pub const MAX_UNIX_PATH: u32 = 108;

/// A TCP socket of a target went into the state LISTEN.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Listening {
    /// When.
    pub header: Header,
    /// Network namespace's inode number; 0 = not known.
    pub netns: u32,
    /// Local port, host byte order.
    pub port: u32,
}

/// [`TlsOpen`].
pub const KIND_TLS_OPEN: u16 = 10;

/// The clear text inside a TLS connection of a target came into sight: a connection of its own from here on, with turns, positions (of the
/// clear text, counted from 0 by the kernel side) and a [`ConnClose`] of its own. Comes before its first [`Data`]; it has no [`ConnOpen`]: its ends are
/// those of the connection that carries it. [`FLAG_MID_JOIN`]: what was said before is not known.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct TlsOpen {
    /// Time of the hook at which the record was made.
    pub header: Header,
    /// The clear text's connection.
    pub conn_id: u64,
    /// The connection on the wire.
    pub carrier: u64,
    /// Process.
    pub pid: u32,
    /// `TLS_*`.
    pub library: u16,
    /// `TLS_LINK_*`.
    pub link: u16,
}

/// OpenSSL, and those that keep its names and layouts (LibreSSL).
pub const TLS_OPENSSL: u16 = 1;
/// BoringSSL or AWS-LC.
pub const TLS_BORINGSSL: u16 = 2;
/// GnuTLS.
pub const TLS_GNUTLS: u16 = 3;
/// NSS.
pub const TLS_NSS: u16 = 4;
/// Go's crypto/tls.
pub const TLS_GO: u16 = 5;
/// rustls.
pub const TLS_RUSTLS: u16 = 6;

/// The library moved bytes of the connection on the wire within its own call, or its very record was sent there: certain.
pub const TLS_LINK_NESTED: u16 = 1;
/// The library keeps its records in memory and the program moves them: linked by what the thread moved before and behind the library's
/// calls, the same each time it was looked at.
pub const TLS_LINK_ORDER: u16 = 2;

/// [`FunctionEnter`] and its texts.
pub const KIND_FUNCTION_ENTER: u16 = 11;
/// [`FunctionReturn`] and its text.
pub const KIND_FUNCTION_RETURN: u16 = 12;

/// Registers that a [`FunctionEnter`] holds: as many as calling conventions pass arguments in, or their first eight.
pub const FUNCTION_REGISTERS: usize = 8;
/// Texts among the arguments of a function that are copied.
pub const FUNCTION_TEXTS: usize = 4;
/// Bytes of a text that are copied at most: what stands in the record for each.
pub const FUNCTION_TEXT_BYTES: usize = 256;
/// Instead of a length: the text was not copied.
pub const NO_TEXT: u16 = u16::MAX;

/// A probed function of a target begins, or a place in it is passed. Its flags: a bit for each of `registers` that could not be read (a mark's argument in
/// memory whose page was not resident). `n_texts` fields of [`FUNCTION_TEXT_BYTES`] follow.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct FunctionEnter {
    /// Time of the hit.
    pub header: Header,
    /// Number of this record among those of its thread's functions: what is lost shows as a gap.
    pub number: u64,
    /// The stack pointer: at a function's beginning the address of its return address. In Go, whose stacks move, the way from the stack's
    /// upper end, as a negative number.
    pub stack: u64,
    /// Go: the goroutine; otherwise 0.
    pub goroutine: u64,
    /// Where it returns to, of functions whose end a return probe tells; otherwise 0.
    pub caller: u64,
    /// In the order of the calling convention; of a mark: its arguments.
    pub registers: [u64; FUNCTION_REGISTERS],
    /// Bytes of each text that were copied, or [`NO_TEXT`].
    pub text_lengths: [u16; FUNCTION_TEXTS],
    /// Which function ([`FunctionSpec`](crate::FunctionSpec)).
    pub function: u32,
    /// Thread group (process).
    pub pid: u32,
    /// Thread.
    pub tid: u32,
    /// Texts that follow.
    pub n_texts: u32,
    /// Thread name.
    pub comm: [u8; 16],
}

/// A probed function of a target returns. If `text_length` is not [`NO_TEXT`], [`FUNCTION_TEXT_BYTES`] of what it returns follow.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct FunctionReturn {
    /// Time of the hit.
    pub header: Header,
    /// As in [`FunctionEnter`], of the same count.
    pub number: u64,
    /// Where the return address stands or stood: as [`FunctionEnter::stack`] of the same call.
    pub stack: u64,
    /// Go: the goroutine; otherwise 0.
    pub goroutine: u64,
    /// What it returns.
    pub value: u64,
    /// Which function.
    pub function: u32,
    /// Thread group (process).
    pub pid: u32,
    /// Thread.
    pub tid: u32,
    /// Bytes of the text that was copied, or [`NO_TEXT`].
    pub text_length: u16,
    /// Zero.
    pub reserved: u16,
}

/// [`Stack`] and its addresses.
pub const KIND_STACK: u16 = 13;

/// Addresses of a stack that are told at most. Stacks of services in C, Rust and Go are some 10 to 50 deep.
pub const STACK_FRAMES: usize = 64;

/// Bytes of a stack that are copied at most, of slow calls. The frames of 64 functions in C are some 6 KiB, with buffers in them more.
pub const STACK_BYTES: usize = 16 << 10;
/// The same where the stack of each call is told.
pub const STACK_BYTES_ALL: usize = 4 << 10;

/// Addresses of the kernel that are told at most. The deepest of waits in a disk's driver are some 25.
pub const STACK_KERNEL_FRAMES: usize = 32;

/// Frames of Python that are told at most, of the innermost functions. Those of a request in Django are some 40 to 60.
pub const PYTHON_FRAMES: usize = 48;
/// Words that are copied of each: what stands in it before its variables, in CPython 3.11 to 3.13.
pub const PYTHON_FRAME_WORDS: usize = 9;

/// Who called what a thread runs: addresses, the innermost first, found by frame pointers, and a copy of the stack for code that keeps none. `n_addresses` of
/// 8 bytes follow; if `n_bytes` is not 0, room for [`STACK_FRAMES`] of them and then the copy. With [`STACK_FLAG_SAMPLE`] or [`STACK_FLAG_WAIT`] room for
/// [`STACK_KERNEL_FRAMES`] addresses comes before these. With [`STACK_FLAG_PYTHON`] room for [`PYTHON_FRAMES`] heads of frames, of [`PYTHON_FRAME_WORDS`]
/// each, comes before all.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Stack {
    /// Time of the record of the function that it belongs to. Its flags: `STACK_FLAG_*`.
    pub header: Header,
    /// Number of that record, which follows: of a [`FunctionEnter`] or, of a slow call, its [`FunctionReturn`]. With [`STACK_FLAG_WAIT`] that of the
    /// [`OffCpu`].
    pub number: u64,
    /// The stack pointer behind the return to the first address: where the copy begins.
    pub stack: u64,
    /// The frame pointer there.
    pub frame: u64,
    /// Thread group (process).
    pub pid: u32,
    /// Thread.
    pub tid: u32,
    /// Addresses that follow.
    pub n_addresses: u32,
    /// Where they end: `STACK_END_*`.
    pub end: u32,
    /// Bytes of the copy.
    pub n_bytes: u32,
    /// Addresses of the kernel.
    pub n_kernel: u32,
    /// Frames of Python.
    pub n_python: u32,
    /// Where those end: `STACK_END_*`.
    pub python_end: u32,
}

/// [`Stack`]: the first address is that of the place itself, and not one to which a call returns.
pub const STACK_FLAG_PLACE: u16 = 1 << 0;
/// [`Stack`]: what a thread that serves was doing on a CPU when the clock struck; there is no other record.
pub const STACK_FLAG_SAMPLE: u16 = 1 << 1;
/// [`Stack`]: what a thread that serves waited in. Its part in the kernel is told when it is woken, before the [`OffCpu`], that of the program behind it, when the call
/// ends.
pub const STACK_FLAG_WAIT: u16 = 1 << 2;

/// [`Stack`]: of a process with Python's interpreter.
pub const STACK_FLAG_PYTHON: u16 = 1 << 3;

/// Time between two samples of what a CPU does, ns: 97 times a second. A prime, so that it does not keep step with what the program does by itself.
pub const SAMPLE_PERIOD_NS: u64 = 1_000_000_000 / 97;

/// There was no room for more.
pub const STACK_END_LIMIT: u32 = 0;
/// The last frame says that none is behind it.
pub const STACK_END_WHOLE: u32 = 1;
/// Where the next frame should be nothing can be read.
pub const STACK_END_FAULT: u32 = 2;
/// The next frame would be below the last: that was no frame pointer.
pub const STACK_END_BROKEN: u32 = 3;

/// The kernel's page for return probes is the last of a process's memory (`xol_add_vma`, kernel/events/uprobes.c): a return address from here on is not
/// the program's own. The last MiB below 2^47.
pub const RETURN_PROBES: u64 = (1 << 47) - (1 << 20);

/// [`FunctionReturn`]: it hands over to another function (a tail call), whose value nobody sees here.
pub const FLAG_HANDS_OVER: u16 = 1 << 0;

/// [`OffCpu`].
pub const KIND_OFF_CPU: u16 = 14;

/// A thread that serves a request was not on a CPU, from `out_ns` until the time of the record. Its flags: `OFF_FLAG_*`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct OffCpu {
    /// When it ran again.
    pub header: Header,
    /// When it left the CPU.
    pub out_ns: u64,
    /// When it was woken; 0 = not seen.
    pub wake_ns: u64,
    /// As [`Data::kernel_ns`], when it left.
    pub kernel_ns: u64,
    /// First argument of the call: a descriptor, or the address of a futex.
    pub argument: u64,
    /// Number of this record among those of its thread, from 2: what is missing was lost, or left out because the thread served no request then.
    pub number: u32,
    /// Thread group (process).
    pub pid: u32,
    /// Thread.
    pub tid: u32,
    /// System call that it was in (x86-64), or [`OFF_NO_CALL`] or [`OFF_UNKNOWN_CALL`].
    pub call: u32,
    /// Thread that ran where it was woken, 0 = none. It is the one that woke it unless that was an interrupt; with [`OFF_FLAG_FUTEX_WAKE`] it was.
    pub waker: u32,
    /// Type of the file that a call on a descriptor was about (`S_IFMT` of its inode's mode), 0 where that was not asked.
    pub file: u16,
    /// Zero.
    pub reserved: u16,
}

/// [`OffCpu`]: it could have gone on, and another thread ran.
pub const OFF_FLAG_RUNNABLE: u16 = 1 << 0;
/// [`OffCpu`]: it waited for a device (`task_struct.in_iowait`).
pub const OFF_FLAG_IO_WAIT: u16 = 1 << 1;
/// [`OffCpu`]: the waker was in a call of futex(2).
pub const OFF_FLAG_FUTEX_WAKE: u16 = 1 << 2;
/// [`OffCpu`]: a signal or a debugger stopped it.
pub const OFF_FLAG_STOPPED: u16 = 1 << 3;

/// [`OffCpu::call`]: it was in none (a page fault, an interrupt).
pub const OFF_NO_CALL: u32 = u32::MAX;
/// [`OffCpu::call`]: in one of another table of numbers (32 bit, x32).
pub const OFF_UNKNOWN_CALL: u32 = u32::MAX - 1;

const _: () = assert!(size_of::<OffCpu>() == 72);
const _: () = assert!(size_of::<FunctionEnter>() == 152);
const _: () = assert!(size_of::<FunctionReturn>() == 64);
const _: () = assert!(size_of::<Stack>() == 72);
const _: () = assert!(size_of::<TlsOpen>() == 40);
const _: () = assert!(size_of::<Listening>() == 24);
const _: () = assert!(size_of::<Retransmit>() == 32);
const _: () = assert!(size_of::<Datagram>() == 112);
const _: () = assert!(size_of::<Header>() == 16);
const _: () = assert!(size_of::<Data>() == 120);
const _: () = assert!(size_of::<ConnOpen>() == 96);
const _: () = assert!(size_of::<ConnShut>() == 24);
const _: () = assert!(size_of::<ConnClose>() == 56);
const _: () = assert!(size_of::<Process>() == 48);
