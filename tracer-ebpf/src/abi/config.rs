//! Settings that user space hands over before load, as frozen globals or map values.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes copied per turn before user space has given a verdict. A request head from curl, wrk or nginx takes 50 to
/// 250 bytes, a browser's with cookies 1 to 3 KiB; the copy costs only what is there.
pub const DEFAULT_BUDGET: u32 = 4096;
/// The most payload bytes that one call gives, over several records.
pub const MAX_PAYLOAD_PER_CALL: u32 = 256 * 1024;
/// The most iovecs that a probe reads of one call, at least; the rest is counted (`iovecs_cut`).
pub const MAX_IOVECS: u32 = 512;
/// Payload classes of a data record (bytes reserved behind [`crate::Data`]).
pub const PAYLOAD_CLASSES: [u32; 4] = [256, 1024, 4096, 16_384];

/// Slots of the hints of targets: 128 KiB, of which a hit touches one word.
pub const TARGET_HINT_SLOTS: u32 = 16_384;

/// Where the hint of a process stands.
#[inline(always)]
pub const fn target_hint(pid: u32) -> u32 {
    pid & (TARGET_HINT_SLOTS - 1)
}

/// Programs of Go whose goroutines are told.
pub const MAX_GO_PROCESSES: u32 = 4096;

/// Programs of Python whose frames are told.
pub const MAX_PYTHON_PROCESSES: u32 = 4096;
/// Threads and interpreters of a program of Python that are looked at for the one that runs; a thread that began earlier than so many others is not found.
pub const PYTHON_THREADS: u32 = 128;

/// Where CPython keeps what a thread runs; value of the `PYTHON_PROCESSES` map (key: pid). But for the first all are offsets in its structures, by its version.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PythonProcess {
    /// Address of the pointer to the first interpreter (`_PyRuntime.interpreters.head`).
    pub interpreters: u64,
    /// `PyInterpreterState.next`.
    pub interpreter_next: u32,
    /// `PyInterpreterState.threads.head`.
    pub interpreter_threads: u32,
    /// `PyThreadState.next`.
    pub thread_next: u32,
    /// `PyThreadState.thread_id`: what `pthread_self` gives.
    pub thread_id: u32,
    /// Of the frame that runs: `PyThreadState.current_frame`, or `PyThreadState.cframe` if there is one.
    pub thread_frame: u32,
    /// `_PyCFrame.current_frame`, or [`crate::NO_OFFSET`].
    pub cframe_frame: u32,
    /// `_PyInterpreterFrame.previous`.
    pub frame_previous: u32,
    /// Zero.
    pub reserved: u32,
}

#[cfg(feature = "user")]
// SAFETY: `repr(C)`, integers without padding.
unsafe impl aya::Pod for PythonProcess {}

/// A process in which calls of TLS libraries are seen; value of the `TLS_PROCESSES` map (key: pid).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct TlsProcess {
    /// From when on, boot ns: of connections that are younger, nothing was missed.
    pub since_ns: u64,
    /// Which: a bit for each `TLS_*`.
    pub libraries: u64,
}

#[cfg(feature = "user")]
// SAFETY: `repr(C)`, two integers.
unsafe impl aya::Pod for TlsProcess {}

/// [`Settings::tls`]: no calls.
pub const TLS_NOTHING: u32 = 0;
/// Those of all libraries but rustls: on Linux 6.1 the verifier had not come to an end of its programs in ten minutes (an emulated processor). Used where
/// there are no tracepoints on sockets, before 6.3.
pub const TLS_LIBRARIES: u32 = 1;
/// Those of rustls as well.
pub const TLS_AND_RUSTLS: u32 = 2;

/// Set in a value of the maps `TLS_HINTS` and `TLS_GO_HINTS` where there may be calls; below it, how many there were.
pub const TLS_HINT: u64 = 1 << 63;

/// Functions that one run may probe. Before 6.10 the kernel takes probes away one by one and waits at each until nobody runs what it replaces: some 160 ms
/// on a loaded machine with two processors (so measured with events of perf on Linux 6.18), and a function of C++ has three probes or four.
pub const MAX_FUNCTIONS: u32 = 128;

/// What the kernel side has to know of a probed function; value of the `FUNCTIONS` map. Its key goes with each probe as its cookie; 0 is none.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct FunctionSpec {
    /// `CALL_*`.
    pub convention: u8,
    /// Texts among the arguments, the first of `texts`.
    pub n_texts: u8,
    /// The text that is returned.
    pub returned: TextAt,
    /// 1 = its end is told by a return probe.
    pub by_return_probe: u8,
    /// 1 = it is a place that is passed: what is on top of the stack there is no return address.
    pub is_place: u8,
    /// Zero.
    pub reserved: [u8; 2],
    /// Where the texts are, by register ([`crate::FunctionEnter::registers`]).
    pub texts: [TextAt; crate::FUNCTION_TEXTS],
    /// Where a mark's arguments are.
    pub places: [ArgumentAt; crate::FUNCTION_REGISTERS],
}

/// Where a text is.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct TextAt {
    /// Number of the register with its address. Of what is returned: [`NO_REGISTER`] = it is no text, 0 = it is one.
    pub address: u8,
    /// Number of the one with its length; [`NO_REGISTER`]: it ends with a zero.
    pub length: u8,
}

/// There is no such register.
pub const NO_REGISTER: u8 = u8::MAX;

/// Where an argument of a mark is.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct ArgumentAt {
    /// A constant, or what is added to the register before memory is read there.
    pub value: i64,
    /// `AT_*`.
    pub kind: u8,
    /// The register, by its number in the instruction set.
    pub register: u8,
    /// Bytes; negative: with a sign.
    pub size: i8,
    /// Zero.
    pub reserved: [u8; 5],
}

/// System V: rdi, rsi, rdx, rcx, r8, r9; returns in rax and rdx.
pub const CALL_C: u8 = 0;
/// Go since 1.17: rax, rbx, rcx, rdi, rsi, r8, r9, r10; returns in rax and rbx; the goroutine in r14.
pub const CALL_GO: u8 = 1;
/// A mark (USDT): each argument is somewhere else.
pub const CALL_MARK: u8 = 2;

/// No argument.
pub const AT_NOTHING: u8 = 0;
/// In a register.
pub const AT_REGISTER: u8 = 1;
/// In memory.
pub const AT_MEMORY: u8 = 2;
/// The value itself.
pub const AT_CONSTANT: u8 = 3;

const _: () = assert!(size_of::<FunctionSpec>() == 144);
const _: () = assert!(size_of::<PythonProcess>() == 40);

#[cfg(feature = "user")]
// SAFETY: `repr(C)`, integers only, no padding (zerocopy's derive checks it).
unsafe impl aya::Pod for FunctionSpec {}

/// Why a process is a target; value of the `TARGETS` map (key: pid).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Target {
    /// 1 = its children are targets too.
    pub follow: u32,
}

#[cfg(feature = "user")]
// SAFETY: `repr(C)`, one integer.
unsafe impl aya::Pod for Target {}

/// Member offsets of the running kernel's structures, bytes, from its BTF. [`NO_OFFSET`] = the kernel lacks the member.
///
/// Handed over inside [`Settings`] as a frozen global, so that the verifier sees constants.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[allow(missing_docs, reason = "each field is named structure_member, as in the kernel's sources")]
pub struct KernelOffsets {
    pub sock_common_family: u32,
    pub sock_common_state: u32,
    pub sock_common_dport: u32,
    pub sock_common_num: u32,
    pub sock_common_daddr: u32,
    pub sock_common_rcv_saddr: u32,
    pub sock_common_v6_daddr: u32,
    pub sock_common_v6_rcv_saddr: u32,
    pub sock_common_net: u32,
    pub sock_type: u32,
    pub sock_protocol: u32,
    pub sock_socket: u32,
    pub sock_err: u32,
    pub socket_file: u32,
    pub socket_sk: u32,
    pub tcp_sock_copied_seq: u32,
    pub tcp_sock_write_seq: u32,
    pub tcp_sock_srtt_us: u32,
    pub tcp_sock_total_retrans: u32,
    pub tcp_sock_rcv_nxt: u32,
    pub tcp_sock_icsk_ulp_ops: u32,
    pub unix_sock_peer: u32,
    pub unix_sock_addr: u32,
    pub unix_address_len: u32,
    pub unix_address_name: u32,
    pub file_inode: u32,
    pub file_private_data: u32,
    pub inode_ino: u32,
    pub inode_mode: u32,
    pub task_files: u32,
    pub task_pid: u32,
    pub task_tgid: u32,
    pub task_comm: u32,
    pub task_flags: u32,
    pub task_real_parent: u32,
    pub task_exit_code: u32,
    pub task_signal: u32,
    pub task_thread_info_status: u32,
    pub signal_live: u32,
    pub files_fdt: u32,
    pub fdtable_fd: u32,
    pub fdtable_max_fds: u32,
    pub net_ns_inum: u32,
    pub linux_binprm_file: u32,
    pub task_thread_fsbase: u32,
}

/// A member that this kernel does not have.
pub const NO_OFFSET: u32 = u32::MAX;

/// Every process but the tracer is a target.
pub const MODE_ALL: u32 = 0;
/// Processes in `TARGETS` are.
pub const MODE_TARGETS: u32 = 1;

/// Everything the probes are told before load; the frozen global `SETTINGS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Settings {
    /// With [`STACKS_SLOW`]: from how long on a call is slow, ns.
    pub stack_ns: u64,
    /// From how long on the stack is told in which a thread that serves waited, ns; 0 = of none.
    pub wait_stack_ns: u64,
    /// [`crate::ABI_VERSION`] of user space.
    pub abi_version: u32,
    /// The tracer's own process: never traced.
    pub self_pid: u32,
    /// `MODE_*`.
    pub mode: u32,
    /// 1 = processes in the cgroups of `TARGET_CGROUPS` are targets as well.
    pub by_cgroup: u32,
    /// Number of names in `TARGET_COMMS`: a process that takes one of them becomes a target.
    pub n_comms: u32,
    /// 1 = a process that executes a file in `TARGET_EXES` becomes a target.
    pub by_exe: u32,
    /// 1 = only connections with a port of `TARGET_PORTS`.
    pub by_port: u32,
    /// Bytes copied per turn until a verdict says otherwise.
    pub budget: u32,
    /// Size of the ring, bytes (a power of two).
    pub ring_bytes: u32,
    /// Unread bytes in the ring from which a submit wakes the reader.
    pub wake_bytes: u32,
    /// What is captured before a verdict: [`crate::VERDICT_HEADS`] (`budget` a turn) or [`crate::VERDICT_EVERYTHING`].
    pub capture: u32,
    /// 1 = datagrams of the ports in `UDP_PORTS` are told.
    pub datagrams: u32,
    /// Whether calls of TLS libraries are told: `TLS_NOTHING`, `TLS_LIBRARIES` or `TLS_AND_RUSTLS`.
    pub tls: u32,
    /// Of which calls of functions the stack is told: `STACKS_*`.
    pub stacks: u32,
    /// What is told of threads that serve requests: `ANATOMY_*`.
    pub anatomy: u32,
    /// 1 = the tracepoint `sched_switch` hands over the state in which a thread leaves (Linux 5.18 and later).
    pub switch_has_state: u32,
    /// 1 = there is the helper `bpf_task_pt_regs` (5.15 and later).
    pub has_task_registers: u32,
    /// 1 = data hooks run within the call, 0 = at its exit.
    pub hits_in_call: u32,
    /// `task_struct.__state`, or `state`; unused with `switch_has_state`.
    pub task_state: u32,
    /// `task_struct.stack`; unused with `has_task_registers`.
    pub task_stack: u32,
    /// The byte of `task_struct.in_iowait` (a bit field), or [`NO_OFFSET`].
    pub io_wait_byte: u32,
    /// Its bit there.
    pub io_wait_bit: u32,
    /// Stacks of waits that one CPU tells at most in [`STACKS_WINDOW_NS`].
    pub stacks_per_window: u32,
    /// `task_struct.nvcsw`, behind which `nivcsw` stands: how often a thread has left its CPU. Or [`NO_OFFSET`].
    pub task_switches: u32,
    /// Zero: what no program does (`on_kernel_stack`).
    pub reserved: u32,
    /// Where all else is.
    pub offsets: KernelOffsets,
}

/// [`Settings::anatomy`]: nothing.
pub const ANATOMY_NONE: u32 = 0;
/// When they were not on a CPU, and why.
pub const ANATOMY_THREADS: u32 = 1;
/// And how long they were on one within system calls.
pub const ANATOMY_CALLS: u32 = 2;

/// See [`Settings::stacks_per_window`].
pub const STACKS_WINDOW_NS: u64 = 100_000_000;
/// A wait from so long on has a share of its own in [`Settings::stacks_per_window`], four times as large: it is these that are looked for.
pub const LONG_WAIT_NS: u64 = 50_000_000;

/// Of none.
pub const STACKS_NONE: u32 = 0;
/// Of those that took at least [`Settings::stack_ns`], when they return.
pub const STACKS_SLOW: u32 = 1;
/// Of all, when they begin.
pub const STACKS_ALL: u32 = 2;

/// Words of `UDP_PORTS`: one bit for each port.
pub const UDP_PORT_WORDS: u32 = 1024;

/// In `DATAGRAM_EXIT`: not 0 = a target has a datagram socket whose peers only the exit of the call tells. Set by the kernel side, cleared by
/// user space.
pub const EXIT_WANTED: u32 = 0;
/// In `DATAGRAM_EXIT`: not 0 = the exit of calls is told, and the socket tracepoints leave those datagrams to it. Written by user space.
pub const EXIT_ATTACHED: u32 = 1;

/// In `SYS_EXIT`: the program for a call that moved one datagram.
pub const SYS_EXIT_SINGLE: u32 = 0;
/// In `SYS_EXIT`: the one for a call that moved a vector of messages.
pub const SYS_EXIT_VECTOR: u32 = 1;
/// What keys of rustls said that were linked by a send.
pub const SYS_EXIT_RUSTLS: u32 = 2;
/// In `SYS_EXIT`: the one behind `call_exit`, for a wait in a program of Python.
pub const SYS_EXIT_PYTHON: u32 = 3;

/// The same behind `socket_send`, in `DATAGRAM_SEND`.
pub const SEND_RUSTLS: u32 = 1;

/// Most names in `TARGET_COMMS`.
pub const MAX_COMMS: u32 = 16;
/// Most cgroups in `TARGET_CGROUPS`.
pub const MAX_CGROUPS: u32 = 16;

/// Key of `TARGET_EXES`: a file by its inode.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct ExeKey {
    /// Inode number.
    pub inode: u64,
}

/// Key of `LISTENING`: a port on which a target listens.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PortKey {
    /// Network namespace's inode number.
    pub netns: u32,
    /// Local port, host byte order.
    pub port: u32,
}

#[cfg(feature = "user")]
// SAFETY: `repr(C)`, integers only, no padding (zerocopy's derive checks it).
unsafe impl aya::Pod for Settings {}
#[cfg(feature = "user")]
// SAFETY: as above.
unsafe impl aya::Pod for ExeKey {}
#[cfg(feature = "user")]
// SAFETY: as above.
unsafe impl aya::Pod for PortKey {}
