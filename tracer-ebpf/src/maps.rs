//! Every map: key, value, size, who writes and reads it, and what happens when it is full.

use aya_ebpf::{
    macros::map,
    maps::{Array, CgroupArray, HashMap, LruHashMap, PerCpuArray, ProgramArray, RingBuf},
};
use tracer_ebpf::{
    Conn, ExeKey, FunctionSpec, MAX_CGROUPS, MAX_COMMS, MAX_FUNCTIONS, MAX_GO_PROCESSES,
    MAX_PYTHON_PROCESSES, N_STATS, PORT_SLOTS, PortKey, PythonProcess, SOCKET_HINT_SLOTS, TARGET_HINT_SLOTS,
    Target, TlsProcess, UDP_PORT_WORDS, VERDICT_SLOTS, Verdict,
};

use crate::{
    datagram::Vector,
    stack::{Frame, Open, Window},
    threads::Followed,
    tls::{Call, Handle, Key, Mover, Record},
    tls_go::{Carried, Goroutine},
    tls_rustls::{Pending, Worker},
};

/// The one ring, for everything that needs order. Size set by user space (default 8 MiB). Full: the record is refused and counted.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(8 * 1024 * 1024, 0);

/// Counters, [`tracer_ebpf::Stat`] → count. Written here, read by user space each second.
#[map]
pub static STATS: PerCpuArray<u64> = PerCpuArray::with_max_entries(N_STATS, 0);

/// Connection state by socket address. A hash map because sockets are pointers; preallocated, because probes run where
/// allocation may fail. Written and deleted here; user space reads it (sums older than 250 ms) and deletes Unix sockets that are
/// dead, whose end no hook tells. Full: the
/// connection is not tracked and each of its calls is counted (`conn_map_full`). 65,536 × about 280 bytes = 18 MiB by default.
#[map]
pub static CONNS: HashMap<u64, Conn> = HashMap::with_max_entries(65_536, 0);

/// Verdicts by slot of the connection's id ([`tracer_ebpf::verdict_slot`]). Written by user space only. An array: no hash, no delete.
#[map]
pub static VERDICTS: Array<Verdict> = Array::with_max_entries(VERDICT_SLOTS, 0);

/// What is spoken at a server's port (`PORT_*`), which decides what is captured on a connection before its own verdict. That comes some 20 ms
/// late, and a result of a database is over by then. Written by user space at start (ports by which such protocols are known) and when a
/// protocol was recognised.
#[map]
pub static PORT_MODES: Array<u32> = Array::with_max_entries(PORT_SLOTS, 0);

/// Target processes by pid. Written by user space at start, here at fork, exec and exit. Full: a new child is not followed (counted).
#[map]
pub static TARGETS: HashMap<u32, Target> = HashMap::with_max_entries(16_384, 0);

/// Whether a process may be a target, by [`tracer_ebpf::target_hint`]: 0 = no process of that slot ever was one, and [`TARGETS`] need not be
/// asked (a hash lookup is a quarter of what a hit of another process costs). Set here and by user space before the target is, never cleared. One
/// word for each slot: a bit would want an atomic `or`, which kernel 5.10 has not.
#[map]
pub static TARGET_HINTS: Array<u64> = Array::with_max_entries(TARGET_HINT_SLOTS, 0);

/// The same for sockets and [`CONNS`], by [`tracer_ebpf::socket_hint`]: most hits of the hooks that see every socket of the host end here.
#[map]
pub static SOCKET_HINTS: Array<u64> = Array::with_max_entries(SOCKET_HINT_SLOTS, 0);

/// Processes that own tracked connections although every process is a target: whose exit is worth a record. Full: the exit is not reported.
#[map]
pub static OWNERS: HashMap<u32, u32> = HashMap::with_max_entries(16_384, 0);

/// Thread names that make a process a target when it takes them. Written by user space at start.
#[map]
pub static TARGET_COMMS: Array<[u64; 2]> = Array::with_max_entries(MAX_COMMS, 0);

/// Executables (by inode) that make a process a target when it executes them. Written by user space at start.
#[map]
pub static TARGET_EXES: HashMap<ExeKey, u32> = HashMap::with_max_entries(64, 0);

/// Cgroups whose members, and members of their descendants, are targets. Written by user space at start.
#[map]
pub static TARGET_CGROUPS: CgroupArray = CgroupArray::with_max_entries(MAX_CGROUPS, 0);

/// Ports (either end) to which `--port` limits the run. Written by user space at start.
#[map]
pub static TARGET_PORTS: HashMap<u32, u32> = HashMap::with_max_entries(256, 0);

/// UDP ports (either end) whose datagrams are told, a bit each. Written by user space at start.
#[map]
pub static UDP_PORTS: Array<u64> = Array::with_max_entries(UDP_PORT_WORDS, 0);

/// What the socket tracepoints cannot tell of datagrams, the exit of the call can ([`tracer_ebpf::EXIT_WANTED`],
/// [`tracer_ebpf::EXIT_ATTACHED`]).
#[map]
pub static DATAGRAM_EXIT: Array<u32> = Array::with_max_entries(2, 0);

/// Vectors of messages that are being sent, by thread. Written and read here. Full: the vector used longest ago is forgotten, and what is left
/// of it is told by length alone.
#[map]
pub static VECTORS: LruHashMap<u32, Vector> = LruHashMap::with_max_entries(1024, 0);

/// Calls of TLS libraries in progress, by thread or goroutine. Written and read here. Full: the call is not seen, and counted (`tls_calls_full`).
#[map]
pub static TLS_CALLS: HashMap<Key, Call> = HashMap::with_max_entries(8192, 0);

/// Whose connection a TLS library's handle is. Written and read here. Full: the handle used longest ago is forgotten; its next call that moves bytes
/// on a socket tells again.
#[map]
pub static TLS_HANDLES: LruHashMap<Key, Handle> = LruHashMap::with_max_entries(65_536, 0);

/// Threads of programs that move the records of TLS themselves. Written and read here. Full: the thread used longest ago is forgotten, and learned anew.
#[map]
pub static TLS_MOVERS: LruHashMap<Key, Mover> = LruHashMap::with_max_entries(8192, 0);

/// Records of TLS that a library has written to memory: whose each is, by how it begins. Written and read here, and taken out when it is sent. Full: the
/// oldest is forgotten; its handle's next record tells.
#[map]
pub static TLS_RECORDS: LruHashMap<Record, u64> = LruHashMap::with_max_entries(4096, 0);

/// Whether a process may call a TLS library, by [`tracer_ebpf::target_hint`]: most hits of the data hooks end here. Set by user space when probes are
/// attached and here at a call, never cleared. Below the highest bit: how many calls there were, for what they cost.
#[map]
pub static TLS_HINTS: Array<u64> = Array::with_max_entries(TARGET_HINT_SLOTS, 0);

/// The same for processes with Go's crypto/tls: of those, hits ask for the goroutine.
#[map]
pub static TLS_GO_HINTS: Array<u64> = Array::with_max_entries(TARGET_HINT_SLOTS, 0);

/// Programs of Go, by process: where in a goroutine its state stands, or a word behind. Written by user space when it has looked at a process, and taken out at its
/// end. Full: goroutines of later ones are not told (`links.go_processes`).
#[map]
pub static GO_PROCESSES: HashMap<u32, u32> = HashMap::with_max_entries(MAX_GO_PROCESSES, 0);

/// Whether a process may be in [`GO_PROCESSES`], by [`tracer_ebpf::target_hint`]: all that a hit of another program costs. Set by user space before that
/// is, never cleared.
#[map]
pub static GO_HINTS: Array<u64> = Array::with_max_entries(TARGET_HINT_SLOTS, 0);

/// What goroutines do whose connection is not known yet, and what such connections wait to tell. Written and read here. Full: the goroutine used longest ago is forgotten, and what it reads or
/// writes then may not be linked (`tls_unlinked`).
#[map]
pub static TLS_GOROUTINES: LruHashMap<Key, Goroutine> = LruHashMap::with_max_entries(16_384, 0);

/// Whose a connection on the wire is (a `*tls.Conn`, a decrypter of rustls), by the connection's id. Written and read here. Full: the one used longest
/// ago is forgotten; what was linked stays so.
#[map]
pub static TLS_CARRIED: LruHashMap<u64, Carried> = LruHashMap::with_max_entries(65_536, 0);

/// The same for processes with rustls: of those, hits ask for the thread.
#[map]
pub static TLS_RUSTLS_HINTS: Array<u64> = Array::with_max_entries(TARGET_HINT_SLOTS, 0);

/// What threads with rustls do: the record in progress, and what was moved last. Written and read here. Full: the thread used longest ago is forgotten, and
/// what it has in progress is not seen (`tls_unlinked`, where bytes are lost by it).
#[map]
pub static TLS_RUSTLS_THREADS: LruHashMap<Key, Worker> = LruHashMap::with_max_entries(8192, 0);

/// What was said by keys of rustls whose connection is not known yet. Written and read here. Full: the keys used longest ago are forgotten, and what they said
/// is lost, uncounted.
#[map]
pub static TLS_RUSTLS_PENDING: LruHashMap<Key, Pending> = LruHashMap::with_max_entries(4096, 0);

/// Processes with probes on TLS libraries. Written by user space when all of a process are attached. Full: its connections count as joined in
/// the middle.
#[map]
pub static TLS_PROCESSES: HashMap<u32, TlsProcess> = HashMap::with_max_entries(16_384, 0);

/// What is probed, by the cookie of its probes. Written by user space before they are attached.
#[map]
pub static FUNCTIONS: Array<FunctionSpec> = Array::with_max_entries(MAX_FUNCTIONS + 1, 0);

/// How many records of functions each thread has made. Written and read here. Full: the thread used longest ago is forgotten; it begins anew,
/// which user space takes for a loss. One entry in runs without functions.
#[map]
pub static FUNCTION_NUMBERS: LruHashMap<Key, u64> = LruHashMap::with_max_entries(16_384, 0);

/// Functions that have begun, by the frame: when, and where they return to. Written and read here; what has returned stays until its frame is used again.
/// Full: the one used longest ago is forgotten, and its stack, were it slow, not taken (`function_stack_unknown`). One entry in runs without stacks.
#[map]
pub static FUNCTION_OPEN: LruHashMap<Frame, Open> = LruHashMap::with_max_entries(16_384, 0);

/// The programs behind `socket_send`: for datagrams, and [`tracer_ebpf::SEND_RUSTLS`]. A tail call costs streams nothing, where a second program on their tracepoint cost every hit 80 ns; and
/// the kernel wants an array for each tracepoint. Written by user space at start. Empty: no datagrams, which is told.
#[map]
pub static DATAGRAM_SEND: ProgramArray = ProgramArray::with_max_entries(2, 0);

/// The one behind `socket_receive`.
#[map]
pub static DATAGRAM_RECEIVE: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// Those behind `syscall_exit` and `datagram_exit`: [`tracer_ebpf::SYS_EXIT_SINGLE`], [`tracer_ebpf::SYS_EXIT_VECTOR`],
/// [`tracer_ebpf::SYS_EXIT_RUSTLS`]. And the one behind `call_exit`, [`tracer_ebpf::SYS_EXIT_PYTHON`].
#[map]
pub static SYS_EXIT: ProgramArray = ProgramArray::with_max_entries(4, 0);

/// The one behind `sample`, for programs of Python. Written by user space at start. Empty: their stacks have the interpreter's functions alone.
#[map]
pub static PYTHON_SAMPLE: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// Programs of Python, by process. Written by user space when it has looked at a process, and taken out at its end. Full: stacks of later ones have the
/// interpreter's functions alone (`stacks.python_processes`).
#[map]
pub static PYTHON_PROCESSES: HashMap<u32, PythonProcess> = HashMap::with_max_entries(MAX_PYTHON_PROCESSES, 0);

/// Ports on which targets listen: connections to them get state as soon as they are established, so that the time in the
/// accept queue is known. Written by user space at start and here when a target listens. Full: that port's accept queue is not seen.
#[map]
pub static LISTENING: HashMap<PortKey, u32> = HashMap::with_max_entries(4096, 0);

/// One flag: not 0 from when every program is attached until the first is to be detached. Written by user space. Before and after,
/// bytes, closes and exits are not told: with only one data hook attached, a response would go by unseen between two requests and
/// the next one be taken for it, or come without its request; and a close would end a request whose answer went by unseen.
#[map]
pub static ARMED: Array<u32> = Array::with_max_entries(1, 0);

/// Threads that serve requests, by their number. Written and read here, deleted at the thread's end. Full: what such a thread does is not told
/// (`threads_full`). 16,384 × 200 bytes; one entry in runs without it.
#[map]
pub static THREADS: HashMap<u32, Followed> = HashMap::with_max_entries(16_384, 0);

/// Whether a thread may be in [`THREADS`], by [`tracer_ebpf::target_hint`]: the scheduler's tracepoints see every thread of the host, and most hits end here.
/// Set here, never cleared.
#[map]
pub static THREAD_HINTS: Array<u64> = Array::with_max_entries(TARGET_HINT_SLOTS, 0);

/// How many stacks of waits each CPU has told lately ([`crate::stack::is_due`]). Written and read here.
#[map]
pub static STACK_WINDOWS: PerCpuArray<Window> = PerCpuArray::with_max_entries(1, 0);

/// Stays empty ([`crate::memory::on_kernel_stack`]).
#[map]
pub static NO_PROGRAMS: ProgramArray = ProgramArray::with_max_entries(1, 0);
