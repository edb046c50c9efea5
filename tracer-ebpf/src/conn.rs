//! Connection state: identity, ends, turn, positions and what was summed but not yet sent.
//!
//! Two threads may use one socket at once (a reader and a writer, or several writers). The fields of the two directions
//! are apart; the shared ones (turn, budget) may then be off by one: turn numbers are for counting losses on
//! half-duplex connections, where no two threads move bytes at once. Stream positions are the kernel's and stay right.

use core::mem::MaybeUninit;

use aya_ebpf::helpers::{bpf_get_smp_processor_id, generated::bpf_ktime_get_boot_ns};
use tracer_ebpf::{Conn, Stat, Tuple, Verdict, conn_id, verdict_slot};

use crate::{
    maps::{CONNS, VERDICTS},
    memory::zero,
    stats::count,
};

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
    let mut conn = MaybeUninit::<Conn>::uninit();
    // SAFETY: `Conn` is plain integers, aligned to 8.
    unsafe { zero(conn.as_mut_ptr()) };
    // SAFETY: all zeros is a value of every field.
    let conn = unsafe { conn.assume_init_mut() };
    conn.id = conn_id(now(), cpu);
    conn.established_ns = birth.established_ns;
    conn.tuple = *tuple;
    conn.pid = birth.pid;
    conn.netns = birth.netns;
    conn.role = birth.role;
    conn.drained = birth.from_start as u8;
    conn.mid_join = !birth.from_start as u8;
    const BPF_NOEXIST: u64 = 1;
    #[expect(
        clippy::needless_borrows_for_generic_args,
        reason = "by value it would be a copy on the small stack"
    )]
    let inserted = CONNS.insert(socket, &*conn, BPF_NOEXIST);
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
