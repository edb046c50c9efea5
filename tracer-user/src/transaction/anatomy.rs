//! Where the time of a request went: the parts, and what a thread off the CPU waited for.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tracer_ebpf as abi;

use super::{CallId, ProtocolName, record::registered, stacks::StackSum};
use crate::event::OffCpu;

/// What a thread waits for, off the CPU and not able to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum Reason {
    /// A lock, or what else futex(2) serves for.
    Futex,
    /// A disk, or a file that is not there yet.
    Disk,
    /// The peer of a socket.
    Network,
    /// Time to pass.
    Timer,
    /// A page that is not in memory.
    Fault,
    /// The other end of a pipe.
    Pipe,
    /// Any of several descriptors.
    Poll,
    /// Its thread, which does something for another request.
    Busy,
    /// A child process.
    Child,
    /// A signal or a debugger has stopped it.
    Stopped,
    /// Something else.
    Other,
}

/// Number of parts of an [`Anatomy`].
pub const N_FIELDS: usize = 6 + N_REASONS;
/// Number of reasons.
pub const N_REASONS: usize = Reason::ALL.len();

impl Reason {
    /// All, in order.
    pub const ALL: [Reason; 11] = [
        Reason::Futex,
        Reason::Disk,
        Reason::Network,
        Reason::Timer,
        Reason::Fault,
        Reason::Pipe,
        Reason::Poll,
        Reason::Busy,
        Reason::Child,
        Reason::Stopped,
        Reason::Other,
    ];

    /// The text in JSON, Parquet and filters.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Futex => "futex",
            Reason::Disk => "disk",
            Reason::Network => "network",
            Reason::Timer => "timer",
            Reason::Fault => "fault",
            Reason::Pipe => "pipe",
            Reason::Poll => "poll",
            Reason::Busy => "busy",
            Reason::Child => "child",
            Reason::Stopped => "stopped",
            Reason::Other => "other",
        }
    }

    /// What it is to people.
    pub fn label(self) -> &'static str {
        match self {
            Reason::Futex => "waiting for a lock",
            Reason::Disk => "waiting for a disk",
            Reason::Network => "waiting for a peer",
            Reason::Timer => "sleeping",
            Reason::Fault => "waiting for memory",
            Reason::Pipe => "waiting for a pipe",
            Reason::Poll => "waiting for events",
            Reason::Busy => "its thread was busy with others",
            Reason::Child => "waiting for a child process",
            Reason::Stopped => "stopped",
            Reason::Other => "waiting for something else",
        }
    }

    /// Index into arrays by reason.
    pub fn index(self) -> usize {
        self as usize
    }
}

/// Numbers of system calls (x86-64, arch/x86/entry/syscalls/syscall_64.tbl).
mod call {
    pub(super) const READ: u32 = 0;
    pub(super) const WRITE: u32 = 1;
    pub(super) const POLL: u32 = 7;
    pub(super) const READV: u32 = 19;
    pub(super) const WRITEV: u32 = 20;
    pub(super) const SELECT: u32 = 23;
    pub(super) const MSYNC: u32 = 26;
    pub(super) const PAUSE: u32 = 34;
    pub(super) const NANOSLEEP: u32 = 35;
    pub(super) const SENDFILE: u32 = 40;
    pub(super) const CONNECT: u32 = 42;
    pub(super) const SENDTO: u32 = 44;
    pub(super) const SENDMSG: u32 = 46;
    pub(super) const RECVMSG: u32 = 47;
    pub(super) const WAIT4: u32 = 61;
    pub(super) const FSYNC: u32 = 74;
    pub(super) const FDATASYNC: u32 = 75;
    pub(super) const FUTEX: u32 = 202;
    pub(super) const IO_GETEVENTS: u32 = 208;
    pub(super) const CLOCK_NANOSLEEP: u32 = 230;
    pub(super) const EPOLL_WAIT: u32 = 232;
    pub(super) const WAITID: u32 = 247;
    pub(super) const PSELECT6: u32 = 270;
    pub(super) const PPOLL: u32 = 271;
    pub(super) const SYNC_FILE_RANGE: u32 = 277;
    pub(super) const EPOLL_PWAIT: u32 = 281;
    pub(super) const ACCEPT4: u32 = 288;
    pub(super) const PREADV: u32 = 295;
    pub(super) const PWRITEV: u32 = 296;
    pub(super) const RECVMMSG: u32 = 299;
    pub(super) const SENDMMSG: u32 = 307;
    pub(super) const PREADV2: u32 = 327;
    pub(super) const PWRITEV2: u32 = 328;
    pub(super) const IO_URING_ENTER: u32 = 426;
    pub(super) const EPOLL_PWAIT2: u32 = 441;
    pub(super) const FUTEX_WAITV: u32 = 449;
    pub(super) const FUTEX_WAIT: u32 = 455;
}

/// `S_IFMT` of sockets, pipes, files and block devices (include/uapi/linux/stat.h).
const S_IFSOCK: u16 = 0o140_000;
const S_IFREG: u16 = 0o100_000;
const S_IFBLK: u16 = 0o060_000;
const S_IFDIR: u16 = 0o040_000;
const S_IFIFO: u16 = 0o010_000;

/// What a thread waited for; `None`: for a CPU alone.
pub fn reason(off: &OffCpu) -> Option<Reason> {
    if off.has(abi::OFF_FLAG_STOPPED) {
        return Some(Reason::Stopped);
    }
    if off.has(abi::OFF_FLAG_RUNNABLE) {
        return None;
    }
    let io_wait = off.has(abi::OFF_FLAG_IO_WAIT);
    Some(match off.call {
        abi::OFF_NO_CALL => Reason::Fault,
        abi::OFF_UNKNOWN_CALL if !io_wait => Reason::Other,
        // Those that wait for events say so whatever the kernel thinks of it.
        call::POLL
        | call::SELECT
        | call::PSELECT6
        | call::PPOLL
        | call::EPOLL_WAIT
        | call::EPOLL_PWAIT
        | call::EPOLL_PWAIT2
        | call::IO_URING_ENTER => match off.call {
            // Of no descriptors: for time to pass.
            call::SELECT | call::PSELECT6 if off.argument == 0 => Reason::Timer,
            _ => Reason::Poll,
        },
        call::FUTEX | call::FUTEX_WAITV | call::FUTEX_WAIT => Reason::Futex,
        call::CONNECT..=call::RECVMSG | call::ACCEPT4 | call::RECVMMSG | call::SENDMMSG => Reason::Network,
        call::NANOSLEEP | call::CLOCK_NANOSLEEP | call::PAUSE => Reason::Timer,
        call::WAIT4 | call::WAITID => Reason::Child,
        _ if io_wait => Reason::Disk,
        call::READ
        | call::WRITE
        | call::READV
        | call::WRITEV
        | call::PREADV
        | call::PWRITEV
        | call::PREADV2
        | call::PWRITEV2 => match off.file {
            S_IFSOCK => Reason::Network,
            S_IFIFO => Reason::Pipe,
            S_IFREG | S_IFBLK | S_IFDIR => Reason::Disk,
            _ => Reason::Other,
        },
        call::SENDFILE => Reason::Network,
        call::MSYNC | call::FSYNC | call::FDATASYNC | call::SYNC_FILE_RANGE | call::IO_GETEVENTS => {
            Reason::Disk
        }
        _ => Reason::Other,
    })
}

/// Whether it waited within a call that sends on a socket.
pub fn is_send(off: &OffCpu) -> bool {
    reason(off) == Some(Reason::Network)
        && matches!(
            off.call,
            call::WRITE
                | call::WRITEV
                | call::PWRITEV2
                | call::SENDFILE
                | call::SENDTO
                | call::SENDMSG
                | call::SENDMMSG
        )
}

/// Where the time of a request went. All parts and the time in the socket's queue add up to `queue_ns` + `duration_ns`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Anatomy {
    /// On a CPU, in the program, ns; all of the time on a CPU where `is_split` is false.
    pub user_ns: u64,
    /// On a CPU, in system calls, ns.
    pub kernel_ns: u64,
    /// Able to run, and waiting for a CPU, ns.
    pub runq_ns: u64,
    /// Waiting, by reason, ns.
    pub off_ns: [u64; N_REASONS],
    /// Waiting for the answers of others, ns.
    pub calls_ns: u64,
    /// Waiting until what is being sent is taken, ns.
    pub sending_ns: u64,
    /// What is not known, ns: nothing of it is spread over the other parts.
    pub unattributed_ns: u64,
    /// Whether system calls were timed.
    pub is_split: bool,
    /// Its thread had other requests in flight meanwhile: which of them it worked for follows from the order of what it received.
    pub is_shared: bool,
    /// Of which parts some is a guess.
    pub guessed: Guessed,
}

/// Parts of which some is a guess: whose time it was follows from the order of what the thread received, or the call that was waited for was linked by a guess.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guessed(u32);

/// Places of parts in [`Anatomy::fields`]; the reasons' are behind them.
pub(crate) const USER: usize = 0;
pub(crate) const KERNEL: usize = 1;
pub(crate) const RUNQ: usize = 2;
pub(crate) const CALLS: usize = 3;
pub(crate) const SENDING: usize = 4;
const UNATTRIBUTED: usize = 5;
const REASONS: usize = 6;
const _: () = assert!(REASONS + N_REASONS == N_FIELDS && N_FIELDS <= 32);

/// The place of a reason.
pub(crate) fn of_reason(reason: Reason) -> usize {
    REASONS + reason.index()
}

impl Guessed {
    /// All parts, as of those who do not tell them apart.
    pub const ALL: Guessed = Guessed(!(1 << UNATTRIBUTED));

    fn has(self, field: usize) -> bool {
        self.0 >> field & 1 != 0
    }
}

impl Anatomy {
    /// All parts, ns.
    pub fn total(&self) -> u64 {
        let Anatomy {
            user_ns,
            kernel_ns,
            runq_ns,
            off_ns,
            calls_ns,
            sending_ns,
            unattributed_ns,
            is_split: _,
            is_shared: _,
            guessed: _,
        } = self;
        let all = [user_ns, kernel_ns, runq_ns, calls_ns, sending_ns, unattributed_ns];
        all.into_iter().chain(off_ns).fold(0, |sum, part| sum.saturating_add(*part))
    }

    /// All parts in one order, ns.
    pub fn fields(&self) -> [u64; N_FIELDS] {
        let mut fields = [0; N_FIELDS];
        let first = [self.user_ns, self.kernel_ns, self.runq_ns, self.calls_ns, self.sending_ns];
        let all = first.into_iter().chain([self.unattributed_ns]).chain(self.off_ns);
        fields.iter_mut().zip(all).for_each(|(field, ns)| *field = ns);
        fields
    }

    /// A part by its place in [`Anatomy::fields`].
    pub(crate) fn field(&mut self, field: usize) -> &mut u64 {
        match field {
            USER => &mut self.user_ns,
            KERNEL => &mut self.kernel_ns,
            RUNQ => &mut self.runq_ns,
            CALLS => &mut self.calls_ns,
            SENDING => &mut self.sending_ns,
            UNATTRIBUTED => &mut self.unattributed_ns,
            _ => &mut self.off_ns[field - REASONS],
        }
    }

    /// Adds to a part what is known, or a guess.
    pub(crate) fn add(&mut self, field: usize, ns: u64, is_guess: bool) {
        *self.field(field) += ns;
        self.guessed.0 |= u32::from(is_guess && ns > 0) << field;
    }

    /// So much of a part is one of another, perhaps by a guess; that it was one goes with it.
    pub(crate) fn take_over(&mut self, from: usize, to: usize, ns: u64, is_guess: bool) {
        let ns = ns.min(*self.field(from));
        *self.field(from) -= ns;
        self.add(to, ns, is_guess || self.guessed.has(from));
    }

    /// The places of what a part ([`PARTS`]) is made of, in [`Anatomy::fields`].
    fn places(part: usize) -> std::ops::RangeInclusive<usize> {
        match part {
            0 => USER..=KERNEL,
            1..=3 => part - 1..=part - 1,
            _ if part < 4 + N_REASONS => part - 4 + REASONS..=part - 4 + REASONS,
            _ => part - (4 + N_REASONS) + CALLS..=part - (4 + N_REASONS) + CALLS,
        }
    }

    /// Columns without `anatomy_` of the parts of which some is a guess ([`PARTS`]).
    pub fn guesses(&self) -> impl Iterator<Item = &'static str> + '_ {
        let there = self.parts();
        let parts = (0..N_PARTS).filter(move |part| there[*part].is_some_and(|ns| ns > 0));
        let guesses = parts.filter(|part| Self::places(*part).any(|field| self.guessed.has(field)));
        guesses.map(|part| PARTS[part].strip_prefix("anatomy_").unwrap_or(PARTS[part]))
    }

    /// The same as JSON.
    pub fn guesses_as_json(&self) -> String {
        let mut json = String::from("[");
        for (i, name) in self.guesses().enumerate() {
            json.push_str(if i > 0 { ",\"" } else { "\"" });
            // Names of columns need no escapes.
            json.push_str(name);
            json.push('"');
        }
        json.push(']');
        json
    }

    /// The reverse; a name that is no part's is left out.
    pub fn guessed_from_json(json: &str) -> Option<Guessed> {
        let names: Vec<String> = serde_json::from_str(json).ok()?;
        // All of the time on a CPU stands first; where that is told apart, its parts are there too.
        let is_split = names.iter().any(|name| name == "oncpu_user_ns" || name == "oncpu_kernel_ns");
        let part = |name: &String| PARTS.iter().position(|part| part.strip_prefix("anatomy_") == Some(name));
        let parts = names.iter().filter_map(part).filter(|part| *part > 0 || !is_split);
        Some(Guessed(parts.fold(0, |all, part| all | 1 << Self::places(part).start())))
    }

    /// Of parts that are 0 nothing is a guess.
    pub(crate) fn settled(mut self) -> Anatomy {
        for (field, _) in self.fields().iter().enumerate().filter(|(_, ns)| **ns == 0) {
            self.guessed.0 &= !(1 << field);
        }
        self
    }

    /// Whether some of the time that is told under a part's place is a guess.
    pub fn is_guess(&self, field: usize) -> bool {
        self.guessed.has(field)
    }

    /// The reverse of [`Anatomy::fields`].
    pub fn with_fields(&self, fields: [u64; N_FIELDS]) -> Anatomy {
        let [user_ns, kernel_ns, runq_ns, calls_ns, sending_ns, unattributed_ns, off_ns @ ..] = fields;
        Anatomy { user_ns, kernel_ns, runq_ns, calls_ns, sending_ns, unattributed_ns, off_ns, ..*self }
    }

    /// What was added since it was `before`.
    pub fn since(&self, before: &Anatomy) -> Anatomy {
        let (now, before) = (self.fields(), before.fields());
        self.with_fields(std::array::from_fn(|i| now[i].saturating_sub(before[i])))
    }

    /// Both together.
    pub fn plus(&self, other: &Anatomy) -> Anatomy {
        let (one, others) = (self.fields(), other.fields());
        let fields = std::array::from_fn(|i| one[i].saturating_add(others[i]));
        Anatomy { guessed: Guessed(self.guessed.0 | other.guessed.0), ..self.with_fields(fields) }
    }

    /// The parts by the names of their columns ([`PARTS`]), ns; `None` = not known apart.
    pub fn parts(&self) -> [Option<u64>; N_PARTS] {
        let split = |ns: u64| self.is_split.then_some(ns);
        let mut parts = [None; N_PARTS];
        let first = [Some(self.on_cpu_ns()), split(self.user_ns), split(self.kernel_ns), Some(self.runq_ns)];
        let last = [self.calls_ns, self.sending_ns, self.unattributed_ns].map(Some);
        let all = first.into_iter().chain(self.off_ns.map(Some)).chain(last);
        parts.iter_mut().zip(all).for_each(|(part, value)| *part = value);
        parts
    }

    /// The reverse of [`Anatomy::parts`]; what is missing is 0. Where it is not known what is a guess, all is, if the thread was shared.
    pub fn from_parts(parts: [Option<u64>; N_PARTS], is_shared: bool, guessed: Option<Guessed>) -> Anatomy {
        let part = |i: usize| parts[i].unwrap_or(0);
        let is_split = parts[2].is_some();
        Anatomy {
            user_ns: if is_split { part(1) } else { part(0) },
            kernel_ns: part(2),
            runq_ns: part(3),
            off_ns: std::array::from_fn(|i| part(4 + i)),
            calls_ns: part(4 + N_REASONS),
            sending_ns: part(5 + N_REASONS),
            unattributed_ns: part(6 + N_REASONS),
            is_split,
            is_shared,
            guessed: guessed.unwrap_or(if is_shared { Guessed::ALL } else { Guessed::default() }),
        }
        .settled()
    }

    /// On a CPU, ns.
    pub fn on_cpu_ns(&self) -> u64 {
        self.user_ns.saturating_add(self.kernel_ns)
    }
}

/// Number of [`PARTS`].
pub const N_PARTS: usize = 7 + N_REASONS;

/// The columns of the parts, in order: those of reasons as [`Reason::ALL`].
pub const PARTS: [&str; N_PARTS] = [
    "anatomy_oncpu_ns",
    "anatomy_oncpu_user_ns",
    "anatomy_oncpu_kernel_ns",
    "anatomy_runq_ns",
    "anatomy_offcpu_futex_ns",
    "anatomy_offcpu_disk_ns",
    "anatomy_offcpu_network_ns",
    "anatomy_offcpu_timer_ns",
    "anatomy_offcpu_fault_ns",
    "anatomy_offcpu_pipe_ns",
    "anatomy_offcpu_poll_ns",
    "anatomy_offcpu_busy_ns",
    "anatomy_offcpu_child_ns",
    "anatomy_offcpu_stopped_ns",
    "anatomy_offcpu_other_ns",
    "anatomy_calls_ns",
    "anatomy_sending_ns",
    "anatomy_unattributed_ns",
];

/// Calls to one peer that a request made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallSum {
    /// Registry name of the protocol.
    #[serde(deserialize_with = "registered")]
    pub kind: ProtocolName,
    /// Whom it asked, as `address:port`; `*` of those for which there was no room.
    pub peer: Arc<str>,
    /// How many.
    pub count: u64,
    /// Their durations, added up: those at the same time count each.
    pub ns: u64,
}

impl CallSum {
    /// Adds a call to those of a request.
    pub fn add(calls: &mut Vec<CallSum>, kind: ProtocolName, peer: Arc<str>, ns: u64) {
        let found = calls.iter().position(|sum| sum.kind == kind && sum.peer == peer);
        let at = match found {
            Some(at) => at,
            None if calls.len() < MAX_PEERS => {
                calls.push(CallSum { kind, peer, count: 0, ns: 0 });
                calls.len() - 1
            }
            None => {
                let rest = calls.iter().position(|sum| sum.kind == kind && &*sum.peer == "*");
                rest.unwrap_or_else(|| {
                    calls.push(CallSum { kind, peer: "*".into(), count: 0, ns: 0 });
                    calls.len() - 1
                })
            }
        };
        calls[at].count += 1;
        calls[at].ns = calls[at].ns.saturating_add(ns);
    }

    /// As a JSON array of objects.
    pub fn as_json(calls: &[CallSum]) -> String {
        serde_json::to_string(calls).unwrap_or_default()
    }

    /// The reverse.
    pub fn from_json(text: &str) -> Option<Vec<CallSum>> {
        serde_json::from_str(text).ok()
    }
}

/// A lock that a request waited for, and who let it go on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lock {
    /// Where the futex is in the process's memory; 0 = others, for which there was no room.
    pub address: u64,
    /// The thread that woke it; `None`: a timeout or a signal did, or that is not known.
    pub tid: Option<u32>,
    /// The request for which that thread worked.
    pub id: Option<CallId>,
    /// How often.
    pub count: u64,
    /// How long in all.
    pub ns: u64,
}

impl Lock {
    /// As a JSON array of objects: `[{"address": "0x…", "tid", "id", "count", "ns"}]`.
    pub fn as_json(locks: &[Lock]) -> String {
        let number = |tid: Option<u32>| tid.map_or_else(|| "null".to_owned(), |tid| tid.to_string());
        let text = |id: Option<CallId>| id.map_or_else(|| "null".to_owned(), |id| format!("\"{id}\""));
        let one = |Lock { address, tid, id, count, ns }: &Lock| {
            format!(
                "{{\"address\":\"{address:#x}\",\"tid\":{},\"id\":{},\"count\":{count},\"ns\":{ns}}}",
                number(*tid),
                text(*id)
            )
        };
        format!("[{}]", locks.iter().map(one).collect::<Vec<_>>().join(","))
    }

    /// The reverse.
    pub fn from_json(text: &str) -> Option<Vec<Lock>> {
        #[derive(Deserialize)]
        struct Row {
            address: String,
            tid: Option<u32>,
            id: Option<String>,
            count: u64,
            ns: u64,
        }
        let of_row = |Row { address, tid, id, count, ns }: Row| {
            let address = u64::from_str_radix(address.strip_prefix("0x")?, 16).ok()?;
            let id = id.map(|id| id.parse().ok()).map_or(Some(None), |id: Option<CallId>| id.map(Some))?;
            Some(Lock { address, tid, id, count, ns })
        };
        serde_json::from_str::<Vec<Row>>(text).ok()?.into_iter().map(of_row).collect()
    }

    /// Adds a wait to those of a request.
    pub fn add(locks: &mut Vec<Lock>, address: u64, tid: Option<u32>, id: Option<CallId>, ns: u64) {
        let same = |lock: &Lock| (lock.address, lock.tid, lock.id) == (address, tid, id);
        let at = match locks.iter().position(same) {
            Some(at) => at,
            None if locks.len() < MAX_LOCKS => {
                locks.push(Lock { address, tid, id, count: 0, ns: 0 });
                locks.len() - 1
            }
            None => locks.iter().position(|lock| lock.address == 0).unwrap_or_else(|| {
                locks.push(Lock { address: 0, tid: None, id: None, count: 0, ns: 0 });
                locks.len() - 1
            }),
        };
        locks[at].count += 1;
        locks[at].ns = locks[at].ns.saturating_add(ns);
    }
}

/// Locks that are listed one by one, each with who let go of it; waits for more are one entry.
pub const MAX_LOCKS: usize = 16;

/// Peers that are listed one by one; calls to more are one entry.
pub const MAX_PEERS: usize = 16;

impl Causes {
    /// For which locks it waited; `None`: for none, or that is not known.
    pub fn locks(&self) -> Option<&[Lock]> {
        Some(&self.locks[..]).filter(|locks| !locks.is_empty())
    }

    /// What its thread was met doing; `None`: nothing was taken, or it is not kept.
    pub fn stacks(&self) -> Option<&[StackSum]> {
        Some(&self.stacks[..]).filter(|stacks| !stacks.is_empty())
    }

    /// Whom it asked, where that is known.
    pub fn calls(&self) -> Option<&[CallSum]> {
        (self.anatomy.is_some() || !self.calls.is_empty()).then_some(&self.calls)
    }
}

/// How a transaction is known to belong to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum LinkMethod {
    /// Its thread was serving the other, and no other one, in a process whose threads serve one request each from its beginning to its end.
    Thread,
    /// Its thread had last received something for the other, and may have done something else since.
    Order,
    /// It carries the trace id of the other, and its process was serving no second one with that id.
    Header,
    /// The other is the same request, seen at the other end of the same connection.
    Socket,
    /// Its goroutine has received the other, and nothing else that is not answered.
    Goroutine,
}

impl LinkMethod {
    /// All, in order.
    pub const ALL: [LinkMethod; 5] = [
        LinkMethod::Thread,
        LinkMethod::Order,
        LinkMethod::Header,
        LinkMethod::Socket,
        LinkMethod::Goroutine,
    ];

    /// The text in JSON, Parquet and filters.
    pub fn as_str(self) -> &'static str {
        match self {
            LinkMethod::Thread => "thread",
            LinkMethod::Order => "order",
            LinkMethod::Header => "header",
            LinkMethod::Socket => "socket",
            LinkMethod::Goroutine => "goroutine",
        }
    }

    /// The reverse of [`LinkMethod::as_str`].
    pub fn parse(text: &str) -> Option<LinkMethod> {
        LinkMethod::ALL.into_iter().find(|method| method.as_str() == text)
    }

    /// How sure that is: a thread may do something else while others go on with what it received.
    pub fn confidence(self) -> &'static str {
        if self.is_sure() { "high" } else { "guessed" }
    }

    /// Whether nothing else could be meant.
    pub fn is_sure(self) -> bool {
        match self {
            LinkMethod::Thread | LinkMethod::Header | LinkMethod::Socket | LinkMethod::Goroutine => true,
            LinkMethod::Order => false,
        }
    }

    /// The same in words.
    pub fn why(self) -> &'static str {
        match self {
            LinkMethod::Thread => "its thread was serving that, and nothing else",
            LinkMethod::Order => "a guess: its thread had received something for that last",
            LinkMethod::Header => "it carries that one's trace id",
            LinkMethod::Socket => "the same request at the other end of its connection",
            LinkMethod::Goroutine => "its goroutine was serving that, and nothing else",
        }
    }
}

/// What a transaction belongs to, and how that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// The other.
    pub parent: CallId,
    /// How that is known.
    pub method: LinkMethod,
}

/// What is known of a request beside its messages.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Causes {
    /// Where its time went; of requests that were served.
    pub anatomy: Option<Anatomy>,
    /// Whom it asked meanwhile, by kind and peer.
    pub calls: Vec<CallSum>,
    /// What made it: of one that was made, the request for which; of one that was served, the same at its client.
    pub link: Option<Link>,
    /// What its thread was met doing.
    pub stacks: Vec<StackSum>,
    /// For which locks it waited.
    pub locks: Vec<Lock>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::ConnId;

    #[test]
    fn locks_are_told_apart_by_who_let_go_of_them_and_what_finds_no_room_is_one() {
        let mut locks = Vec::new();
        let by = CallId { conn: ConnId(16), ordinal: 3 };
        Lock::add(&mut locks, 0x10, Some(7), Some(by), 5);
        Lock::add(&mut locks, 0x10, Some(7), Some(by), 6);
        Lock::add(&mut locks, 0x10, None, None, 7);
        assert_eq!(
            Lock::as_json(&locks),
            "[{\"address\":\"0x10\",\"tid\":7,\"id\":\"0000000000000010-3\",\"count\":2,\"ns\":11},\
             {\"address\":\"0x10\",\"tid\":null,\"id\":null,\"count\":1,\"ns\":7}]"
        );
        (0..20).for_each(|i| Lock::add(&mut locks, 0x100 + i, None, None, 1));
        assert_eq!((locks.len(), locks[MAX_LOCKS].count), (MAX_LOCKS + 1, 6));
        assert_eq!(Lock::from_json(&Lock::as_json(&locks)), Some(locks));
        assert_eq!(Lock::from_json("[{\"address\":\"x\",\"count\":1,\"ns\":1}]"), None);
    }

    #[test]
    fn a_wait_is_told_by_its_call_and_file() {
        let off = |call, file, flags| OffCpu { call, file, flags, argument: 3, ..OffCpu::default() };
        for (off, expected) in [
            (off(call::FUTEX, 0, 0), Some(Reason::Futex)),
            (off(call::FUTEX, 0, abi::OFF_FLAG_RUNNABLE), None),
            (off(call::READ, S_IFSOCK, 0), Some(Reason::Network)),
            (off(call::READ, S_IFIFO, 0), Some(Reason::Pipe)),
            (off(call::READ, S_IFREG, 0), Some(Reason::Disk)),
            (off(call::READ, 0o020_000, 0), Some(Reason::Other)),
            (off(17, 0, abi::OFF_FLAG_IO_WAIT), Some(Reason::Disk)),
            (off(17, 0, 0), Some(Reason::Other)),
            (off(44, 0, 0), Some(Reason::Network)),
            (off(43, 0, 0), Some(Reason::Network)),
            (off(call::WRITEV, S_IFSOCK, 0), Some(Reason::Network)),
            (off(call::EPOLL_WAIT, 0, 0), Some(Reason::Poll)),
            (off(call::IO_URING_ENTER, 0, abi::OFF_FLAG_IO_WAIT), Some(Reason::Poll)),
            (off(call::CLOCK_NANOSLEEP, 0, 0), Some(Reason::Timer)),
            (off(call::FSYNC, 0, 0), Some(Reason::Disk)),
            (off(abi::OFF_NO_CALL, 0, abi::OFF_FLAG_IO_WAIT), Some(Reason::Fault)),
            (off(call::FUTEX, 0, abi::OFF_FLAG_STOPPED), Some(Reason::Stopped)),
            (OffCpu { argument: 0, ..off(call::SELECT, 0, 0) }, Some(Reason::Timer)),
        ] {
            assert_eq!(reason(&off), expected, "{off:?}");
            let sends = [call::WRITEV, 44].contains(&off.call);
            assert_eq!(is_send(&off), sends && expected == Some(Reason::Network), "{off:?}");
        }
        assert!(Reason::ALL.iter().enumerate().all(|(i, reason)| reason.index() == i));
    }
}
