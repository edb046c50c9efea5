//! Connection identity: what names a socket, its ends and the traced process's part in it.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Address family of a [`Tuple`]: none known.
pub const FAMILY_NONE: u16 = 0;
/// Unix stream socket; `local`/`remote` hold the start of the path, the ports are 0.
pub const FAMILY_UNIX: u16 = 1;
/// IPv4 (`AF_INET`); addresses are in the first 4 bytes.
pub const FAMILY_INET: u16 = 2;
/// IPv6 (`AF_INET6`).
pub const FAMILY_INET6: u16 = 10;

/// Role not known to the kernel: user space decides (listening set, then who speaks first).
pub const ROLE_UNKNOWN: u8 = 0;
/// The traced process connected.
pub const ROLE_CLIENT: u8 = 1;
/// The traced process accepted.
pub const ROLE_SERVER: u8 = 2;

/// Bytes towards the traced process.
pub const INGRESS: u8 = 0;
/// Bytes from the traced process.
pub const EGRESS: u8 = 1;

/// The two ends of a connection as the traced process sees them.
///
/// Aligned to words, so that the probes can fill it by words.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Tuple {
    /// Own address, network byte order.
    pub local: [u8; 16],
    /// Peer's address, network byte order.
    pub remote: [u8; 16],
    /// Own port, host byte order.
    pub local_port: u16,
    /// Peer's port, host byte order.
    pub remote_port: u16,
    /// `FAMILY_*`.
    pub family: u16,
    /// Zero.
    pub reserved: u16,
}

/// What user space tells the kernel to capture on a connection; the value of the `VERDICTS` array.
///
/// The slot of a connection is `conn_id`'s hash (see [`verdict_slot`]); `conn_id` tells whose verdict it is, so that a
/// collision costs a connection its verdict (it falls back to the default) and never gives it another's.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Verdict {
    /// The connection meant; 0 = empty slot.
    pub conn_id: u64,
    /// Per direction ([`INGRESS`], [`EGRESS`]): bytes before this position are summed, not copied; 0 = none.
    /// From the position on, copying resumes with a fresh budget.
    pub resume: [u64; 2],
    /// `VERDICT_*`.
    pub mode: u32,
    /// Bytes copied per turn in mode [`VERDICT_HEADS`].
    pub budget: u32,
}

/// Copy the first `budget` bytes of each turn.
pub const VERDICT_HEADS: u32 = 0;
/// Copy everything (pipelining, multiplexing), but what lies before a resume position.
pub const VERDICT_EVERYTHING: u32 = 1;
/// Lengths and times only.
pub const VERDICT_LENGTHS: u32 = 2;
/// No data events at all; turns still counted.
pub const VERDICT_NOTHING: u32 = 3;

/// Number of verdict slots (a power of two). 65,536 × 32 bytes = 2 MiB, locked for the run.
pub const VERDICT_SLOTS: u32 = 65_536;

/// The slot of a connection's verdict. A connection's id is a time and a CPU ([`conn_id`]): the multiplication
/// (Knuth's, 2^64 / φ) spreads ids that were born close together.
#[inline(always)]
pub const fn verdict_slot(conn_id: u64) -> u32 {
    ((conn_id.wrapping_mul(0x9E37_79B9_7F4A_7C15)) >> 48) as u32 & (VERDICT_SLOTS - 1)
}

/// [`Conn::carries`]: TLS, whose clear text is a connection of its own, with this one's `id` as its key.
pub const CARRIES: u8 = 1;
/// [`Conn::carries`]: such a clear text.
pub const IS_CARRIED: u8 = 2;

/// In `PORT_MODES`: nothing was recognised at the port.
pub const PORT_UNKNOWN: u32 = 0;
/// Only protocols that have to be captured whole.
pub const PORT_WHOLE: u32 = 1;
/// Only others.
pub const PORT_HEADS: u32 = 2;
/// Both: where some want more than heads, they say so one by one.
pub const PORT_MIXED: u32 = 3;

/// Slots of `PORT_MODES`: one for each port of TCP, 512 KiB.
pub const PORT_SLOTS: u32 = 65_536;

/// Slots of the hints of sockets: 512 KiB.
pub const SOCKET_HINT_SLOTS: u32 = 65_536;

/// Where the hint of a socket stands. Its address spreads as a connection's id does ([`verdict_slot`]).
#[inline(always)]
pub const fn socket_hint(socket: u64) -> u32 {
    (socket.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 48) as u32 & (SOCKET_HINT_SLOTS - 1)
}

/// Makes a connection's id: boot-time nanoseconds of first sight in the high 58 bits (9 years of uptime), the
/// CPU's low 6 bits below. Never reused: one CPU reads a later time at every call (each read takes longer than the
/// clock's step), and two CPUs differ in the low bits (beyond 64 CPUs a clash needs the same nanosecond as well).
#[inline(always)]
pub const fn conn_id(first_seen_ns: u64, cpu: u32) -> u64 {
    (first_seen_ns << 6) | (cpu as u64 & 63)
}

/// When a connection was first seen, boot time, ns.
#[inline(always)]
pub const fn conn_first_seen(conn_id: u64) -> u64 {
    conn_id >> 6
}

/// Bytes of one direction that moved without a record of their own.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Sum {
    /// Position of the first byte.
    pub position: u64,
    /// Bytes; 0 = nothing summed.
    pub bytes: u64,
    /// Exit of the first call.
    pub first_ns: u64,
    /// Exit of the last call.
    pub last_ns: u64,
    /// Calls.
    pub n_calls: u32,
    /// Turn they belong to.
    pub turn: u32,
    /// Process of the first call.
    pub pid: u32,
    /// Its thread.
    pub tid: u32,
    /// As [`crate::Data::kernel_ns`], at the last call.
    pub kernel_ns: u64,
    /// As [`crate::Data::off_cpu`], at the last call.
    pub off_cpu: u32,
    /// Thread of the last call.
    pub tid_last: u32,
}

/// State of one connection; value of the `CONNS` map (key: the socket's address). Written by the probes; user space reads
/// the sums that no later event has carried.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Conn {
    /// [`conn_id`].
    pub id: u64,
    /// Sums by direction.
    pub sum: [Sum; 2],
    /// Position behind the last byte seen, by direction; 0 = none yet.
    pub position: [u64; 2],
    /// When established; 0 = not seen.
    pub established_ns: u64,
    /// Arrival of the first byte waiting; 0 = none or not known.
    pub arrival_ns: u64,
    /// Socket inode; 0 = not known yet.
    pub inode: u64,
    /// The ends.
    pub tuple: Tuple,
    /// Number of the turn in progress, from 1.
    pub turn: u32,
    /// Bytes of the turn already copied.
    pub copied: u32,
    /// Data records refused by the ring.
    pub n_refused: u32,
    /// Process that opened, or first used it.
    pub pid: u32,
    /// Network namespace's inode number.
    pub netns: u32,
    /// Socket error at the close, positive errno.
    pub error: u32,
    /// Direction of the turn in progress.
    pub direction: u8,
    /// `ROLE_*`.
    pub role: u8,
    /// 1 = a `ConnOpen` was sent (or refused).
    pub opened: u8,
    /// 1 = no byte waits in the receive queue: the next arrival is the first one's.
    pub drained: u8,
    /// 1 = `FLAG_EOF` was sent.
    pub eof: u8,
    /// 1 = first seen in use, not at its start.
    pub mid_join: u8,
    /// 1 = a UDP socket: `position` counts its datagrams, and it has neither turns nor sums.
    pub datagrams: u8,
    /// [`CARRIES`], [`IS_CARRIED`], or 0.
    pub carries: u8,
    /// As [`crate::Data::kernel_ns`], at the call in progress.
    pub kernel_ns: u64,
    /// As [`crate::Data::off_cpu`], at the call in progress.
    pub off_cpu: u32,
    /// Thread that serves the turn in progress; 0 = none.
    pub serving: u32,
    /// As [`crate::Data::rtt_us`], at the call in progress.
    pub rtt_us: u32,
    /// As [`crate::Data::retransmits`], at the call in progress.
    pub retransmits: u32,
}

#[cfg(feature = "user")]
// SAFETY: as `Verdict` below.
unsafe impl aya::Pod for Conn {}

#[cfg(feature = "user")]
// SAFETY: `Verdict` is `repr(C)`, without padding, and every bit pattern is a value (zerocopy's derives check it).
unsafe impl aya::Pod for Verdict {}

const _: () = assert!(size_of::<Tuple>() == 40);
const _: () = assert!(size_of::<Verdict>() == 32);
const _: () = assert!(size_of::<Sum>() == 64);
const _: () = assert!(size_of::<Conn>() == 272);
