//! Connection state: identity, ends, turn, positions and what was summed but not yet sent.
//!
//! Two threads may use one socket at once (a reader and a writer, or several writers). The fields of the two directions
//! are apart; the shared ones (turn, budget) may then be off by one: turn numbers are for counting losses on
//! half-duplex connections, where no two threads move bytes at once. Stream positions are the kernel's and stay right.

use aya_ebpf::helpers::{bpf_get_smp_processor_id, generated::bpf_ktime_get_boot_ns};
use tracer_ebpf::{
    ANATOMY_NONE, CARRIES, Conn, IS_CARRIED, PORT_HEADS, PORT_WHOLE, ROLE_CLIENT, ROLE_SERVER, Stat, Sum,
    Tuple, VERDICT_EVERYTHING, Verdict, conn_id, socket_hint, verdict_slot,
};

use crate::{
    capture,
    maps::{CONNS, PORT_MODES, SOCKET_HINTS, VERDICTS},
    memory::{copy_words, forget},
    settings::setting,
    stats::count,
    threads,
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

/// What a new entry holds before it is filled in. In read-only data: no stack.
static EMPTY: Conn = Conn {
    id: 0,
    sum: [Sum {
        position: 0,
        bytes: 0,
        first_ns: 0,
        last_ns: 0,
        n_calls: 0,
        turn: 0,
        pid: 0,
        tid: 0,
        kernel_ns: 0,
        off_cpu: 0,
        tid_last: 0,
    }; 2],
    position: [0; 2],
    established_ns: 0,
    arrival_ns: 0,
    inode: 0,
    tuple: Tuple { local: [0; 16], remote: [0; 16], local_port: 0, remote_port: 0, family: 0, reserved: 0 },
    turn: 0,
    copied: 0,
    n_refused: 0,
    pid: 0,
    netns: 0,
    error: 0,
    direction: 0,
    role: 0,
    opened: 0,
    drained: 0,
    eof: 0,
    mid_join: 0,
    datagrams: 0,
    carries: 0,
    kernel_ns: 0,
    off_cpu: 0,
    serving: 0,
    rtt_us: 0,
    retransmits: 0,
};

/// Creates the state of a socket, or finds what another CPU created at the same time. The id is written last: an entry
/// without one is being filled in.
#[inline(never)]
pub fn create(socket: u64, tuple: &Tuple, birth: &Birth) -> Option<&'static mut Conn> {
    const BPF_NOEXIST: u64 = 1;
    /// Looks at an entry that another CPU is filling in: it takes that one some 50 instructions.
    const LOOKS: u32 = 32;
    let mut address = socket;
    // SAFETY: a plain integer afterwards; before it may be a typed pointer, which the verifier lets nobody calculate with.
    unsafe { forget(&mut address) };
    if let Some(hint) = SOCKET_HINTS.get_ptr_mut(socket_hint(address)) {
        // SAFETY: an aligned word of the map; whoever writes it writes 1.
        unsafe { hint.write_volatile(1) };
    }
    #[expect(clippy::needless_borrows_for_generic_args, reason = "by value, it would be copied to the stack")]
    let is_new = CONNS.insert(socket, &EMPTY, BPF_NOEXIST).is_ok();
    let Some(conn) = CONNS.get_ptr_mut(socket) else {
        count(Stat::ConnMapFull);
        return None;
    };
    // SAFETY: map values stay readable for the program's run.
    let conn = unsafe { &mut *conn };
    if !is_new {
        let mut i = 0;
        while i < LOOKS {
            // SAFETY: as above. Volatile: another CPU writes it.
            if unsafe { (&raw const conn.id).read_volatile() } != 0 {
                return Some(conn);
            }
            i += 1;
        }
        count(Stat::ConnRace);
        return None;
    }
    conn.established_ns = birth.established_ns;
    // SAFETY: a `Tuple` is plain integers, aligned to 8.
    unsafe { copy_words(&raw mut conn.tuple, tuple) };
    conn.pid = birth.pid;
    conn.netns = birth.netns;
    conn.role = birth.role;
    conn.drained = birth.from_start as u8;
    conn.mid_join = !birth.from_start as u8;
    // SAFETY: no arguments.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    // SAFETY: a field of the entry. Volatile: last.
    unsafe { (&raw mut conn.id).write_volatile(conn_id(now(), cpu)) };
    Some(conn)
}

/// The state of a socket.
#[inline(always)]
pub fn find(socket: u64) -> Option<&'static mut Conn> {
    // SAFETY: map values stay readable for the program's run; concurrent writers see the module's header.
    CONNS.get_ptr_mut(socket).map(|conn| unsafe { &mut *conn }).filter(|conn| conn.id != 0)
}

/// Ends the state of a socket; with `reason` (`CLOSE_*`), told where it was in use. What it carries ends before it.
#[inline(always)]
pub fn end(key: u64, conn: &mut Conn, reason: u32) {
    if conn.carries == CARRIES
        && let Some(clear) = find(conn.id)
    {
        capture::close(clear, reason);
        let _ = CONNS.remove(conn.id);
    }
    if conn.opened != 0 {
        capture::close(conn, reason);
    }
    if setting!(anatomy) != ANATOMY_NONE && conn.serving != 0 {
        threads::served(conn.serving);
    }
    let _ = CONNS.remove(key);
}

/// The state of a socket, for hooks that see every socket of the host.
#[inline(always)]
pub fn find_hinted(socket: u64) -> Option<&'static mut Conn> {
    if SOCKET_HINTS.get(socket_hint(socket)).is_none_or(|hint| *hint == 0) {
        return None;
    }
    find(socket)
}

/// In force until user space says otherwise, where everything is wanted from the first byte on (`Settings::capture`).
static EVERYTHING: Verdict = Verdict { conn_id: 0, resume: [0; 2], mode: VERDICT_EVERYTHING, budget: 0 };

/// The verdict of a connection, if user space gave one, or the one in force for all, or for its server's port.
#[inline(always)]
pub fn verdict(conn: &Conn) -> Option<&'static Verdict> {
    let id = conn.id;
    // SAFETY: array values live as long as the map; user space may write meanwhile: a torn read costs at most one turn's
    // capture, never a wrong position (positions are the kernel's).
    VERDICTS
        .get_ptr(verdict_slot(id))
        .map(|verdict| unsafe { &*verdict })
        .filter(|verdict| verdict.conn_id == id)
        .or_else(|| {
            (setting!(capture) == VERDICT_EVERYTHING || port_wants_everything(conn)).then_some(&EVERYTHING)
        })
}

/// Whether everything is captured until there is a verdict, by what is spoken at the server's port. Inside of TLS that is HTTP/2 as often as not, and
/// copying costs little beside ciphers: there, wherever not only others were met.
#[inline(always)]
fn port_wants_everything(conn: &Conn) -> bool {
    let port = match conn.role {
        ROLE_SERVER => conn.tuple.local_port,
        ROLE_CLIENT => conn.tuple.remote_port,
        _ => 0,
    };
    PORT_MODES
        .get(u32::from(port))
        .is_some_and(|mode| *mode == PORT_WHOLE || (conn.carries == IS_CARRIED && *mode != PORT_HEADS))
}
