//! Connection state: identity, ends, turn, positions and what was summed but not yet sent.
//!
//! Two threads may use one socket at once (a reader and a writer, or several writers). The fields of the two directions
//! are apart; the shared ones (turn, budget) may then be off by one: turn numbers are for counting losses on
//! half-duplex connections, where no two threads move bytes at once. Stream positions are the kernel's and stay right.

use aya_ebpf::helpers::{bpf_get_smp_processor_id, generated::bpf_ktime_get_boot_ns};
use tracer_ebpf::{Conn, Stat, Sum, Tuple, Verdict, conn_id, verdict_slot};

use crate::{
    maps::{CONNS, VERDICTS},
    stats::count,
};

/// An empty sum.
pub const NO_SUM: Sum =
    Sum { position: 0, bytes: 0, first_ns: 0, last_ns: 0, n_calls: 0, turn: 0, pid: 0, tid: 0 };

/// Time now, boot clock, ns.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: no arguments.
    unsafe { bpf_ktime_get_boot_ns() }
}

/// What to put into a new connection's state.
pub struct Birth {
    /// Process.
    pub pid: u32,
    /// Network namespace.
    pub netns: u32,
    /// `ROLE_*`.
    pub role: u8,
    /// Whether its start was seen.
    pub from_start: bool,
    /// When established; 0 = not yet, or not seen.
    pub established_ns: u64,
}

/// Creates the state of a socket, or finds what another CPU created at the same time. A function of its own: the state
/// is built on its stack frame.
#[inline(never)]
pub fn create(socket: u64, tuple: &Tuple, birth: &Birth) -> Option<&'static mut Conn> {
    // SAFETY: no arguments.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    let conn = Conn {
        id: conn_id(now(), cpu),
        sum: [NO_SUM; 2],
        position: [0; 2],
        established_ns: birth.established_ns,
        arrival_ns: 0,
        inode: 0,
        tuple: *tuple,
        turn: 0,
        copied: 0,
        n_refused: 0,
        pid: birth.pid,
        netns: birth.netns,
        error: 0,
        direction: 0,
        role: birth.role,
        opened: 0,
        drained: birth.from_start as u8,
        eof: 0,
        mid_join: !birth.from_start as u8,
        reserved: [0; 2],
    };
    const BPF_NOEXIST: u64 = 1;
    let inserted = CONNS.insert(socket, conn, BPF_NOEXIST);
    let found = find(socket);
    if inserted.is_err() && found.is_none() {
        count(Stat::ConnMapFull);
    }
    found
}

/// The state of a socket.
#[inline(always)]
pub fn find(socket: u64) -> Option<&'static mut Conn> {
    // SAFETY: map values stay readable for the program's run; concurrent writers see the module's header.
    CONNS.get_ptr_mut(socket).map(|conn| unsafe { &mut *conn })
}

/// The verdict of a connection, if user space gave one.
#[inline(always)]
pub fn verdict(id: u64) -> Option<&'static Verdict> {
    // SAFETY: array values live as long as the map; user space may write meanwhile: a torn read costs at most one turn's
    // capture, never a wrong position (positions are the kernel's).
    VERDICTS
        .get_ptr(verdict_slot(id))
        .map(|verdict| unsafe { &*verdict })
        .filter(|verdict| verdict.conn_id == id)
}
