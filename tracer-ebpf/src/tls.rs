//! What TLS libraries are given and give: calls in progress, which connection a library's handle is of, and the clear text as a connection
//! of its own.
//!
//! A call is known by its thread. What moves on a socket while it runs is the connection that carries it: no structure of a library is read.
//! Where nothing moves (it serves from what it has decrypted, or buffers), the handle says whose it is. Go's and
//! rustls' own are other files' (`tls_go`, `tls_rustls`).
//!
//! Programs with an event loop move the records themselves: what they receive they give to the library and then ask it, and what it makes of their
//! bytes they send behind its call. Where the function is known by which the library writes its records (BoringSSL), a handle is linked by the record itself: it is
//! the connection's on which just these bytes are sent, by whichever thread, which is certain. Elsewhere, and until such a record is sent, a handle is linked by what
//! the thread moved before and behind, when it was the same connection [`AGREED`] times; such a link is a guess, and is told as one.

use aya_ebpf::{helpers::generated::bpf_get_current_comm, maps::Array};
use tracer_ebpf::{
    CARRIES, Conn, EGRESS, INGRESS, IS_CARRIED, Stat, TLS_AND_RUSTLS, TLS_HINT, TLS_LINK_NESTED,
    TLS_LINK_ORDER, TlsProcess, conn_first_seen, target_hint,
};

use crate::{
    capture::{self, BUFFER_IOVECS, BUFFER_NONE, BUFFER_SINGLE, Buffer, Moved},
    conn::{self, Birth},
    filter::Thread,
    gather::Iovec,
    maps::{
        TLS_CALLS, TLS_GO_HINTS, TLS_HANDLES, TLS_HINTS, TLS_MOVERS, TLS_PROCESSES, TLS_RECORDS,
        TLS_RUSTLS_HINTS,
    },
    memory::{forget, read_user},
    probes::hit::Hit,
    settings::setting,
    stats::count,
    tls_go, tls_rustls,
};

/// A thread, a goroutine or a library's handle, within a process.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Key {
    pub pid: u32,
    pub zero: u32,
    pub id: u64,
}

/// A library's call in progress.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Call {
    /// The library's object: `SSL *` and its like.
    pub handle: u64,
    /// User address of the bytes; 0: they come from a file.
    pub buffer: u64,
    /// User address at which the call leaves how many there were; 0: it returns that.
    pub length_at: u64,
    /// Stack pointer at the entry: a call of which no return was seen (longjmp, an exception) is known by it.
    pub stack: u64,
    /// The socket that moved bytes during the call; 0 = none.
    pub socket: u64,
    /// When the first byte that the call read from it arrived; 0 = not known.
    pub arrival_ns: u64,
    /// `EGRESS` or `INGRESS`.
    pub direction: u32,
    /// `TLS_*`.
    pub library: u32,
}

/// Whose connection a handle is.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Handle {
    /// Address of the socket.
    pub socket: u64,
    /// Its connection then: the memory may be another socket's by now.
    pub conn_id: u64,
    /// `TLS_LINK_*`.
    pub link: u32,
    /// By order: how often it was the same.
    pub n_agreed: u32,
}

/// How often in a row order has to say the same: the two sides of a handshake make that many before the first byte of clear text.
const AGREED: u32 = 2;

/// What a thread did outside of library calls.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Mover {
    /// The socket that it received from last, and its connection.
    pub socket: u64,
    pub conn_id: u64,
    /// The handle whose bytes it will send next; 0 = none.
    pub handle: u64,
}

/// A record of TLS in memory.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Record {
    pub pid: u32,
    pub zero: u32,
    /// How it begins: its head of five bytes, and what nobody else's has in common with it: the random bytes of a greeting, or encrypted ones.
    pub begins: [u64; 2],
}

/// [`Call::length_at`]: the call moves no clear text.
pub const NO_LENGTH: u64 = u64::MAX;

/// Has the hooks of sockets ask for those who call, and counts calls.
#[inline(always)]
pub fn called(hints: &Array<u64>, pid: u32) {
    if let Some(hint) = hints.get_ptr_mut(target_hint(pid)) {
        // SAFETY: an aligned word of the map. Two processors at once may count one: user space estimates with it what the probes cost.
        unsafe { hint.write_volatile(hint.read_volatile().wrapping_add(1) | TLS_HINT) };
    }
}

/// Of a process that user space has looked at, if it has the library (`TLS_*`).
#[inline(always)]
pub fn process(pid: u32, library: u16) -> Option<&'static TlsProcess> {
    // SAFETY: only read; user space writes whole values.
    unsafe { TLS_PROCESSES.get(pid) }.filter(|process| process.libraries >> library & 1 != 0)
}

/// Counts bytes whose connection is not known. Before all probes of a process are there, it is nothing that was missed.
#[inline(always)]
pub fn unlinked(pid: u32, library: u16) {
    if process(pid, library).is_some() {
        count(Stat::TlsUnlinked);
    }
}

/// The connection that a handle is linked with, if it lives.
#[inline(always)]
pub fn carrier(handle: Key) -> Option<&'static mut Conn> {
    // SAFETY: only read; whoever writes writes whole values.
    let linked = unsafe { TLS_HANDLES.get(handle) }?;
    let conn_id = linked.conn_id;
    conn::find(linked.socket).filter(|conn| conn.id == conn_id)
}

/// Notes that a call begins.
#[inline(always)]
pub fn entered(key: Key, call: &Call) {
    called(&TLS_HINTS, key.pid);
    if let Some(running) = TLS_CALLS.get_ptr_mut(key) {
        // SAFETY: map values stay readable for the program's run; only this thread touches the entry.
        let running = unsafe { &*running };
        let is_same = running.handle == call.handle && running.buffer == call.buffer;
        let moves_none = call.length_at == NO_LENGTH && running.length_at != NO_LENGTH;
        if running.stack > call.stack && (running.handle != call.handle || is_same || moves_none) {
            // A library that uses itself, or another one, to move its bytes: those are the outer call's. So does writing before the handshake is over
            // (OpenSSL), and BoringSSL, which reads by looking at what is there; either may begin with the handshake.
            return;
        }
        if running.stack == call.stack && is_same {
            // The same call, told by a second probe while one takes the other's place.
            return;
        }
        // It was left without a return.
        count(Stat::TlsCallLeft);
    }
    if TLS_CALLS.insert(key, call, 0).is_err() {
        count(Stat::TlsCallsFull);
    }
}

/// A library writes a record of `bytes` at `address` to wherever its handle's are to go; `stack` is the stack pointer.
#[inline(always)]
pub fn written(key: Key, address: u64, bytes: u64, stack: u64) {
    /// `handshake` of RFC 8446, 5.1. Later ones are encrypted.
    const HANDSHAKE: u8 = 22;
    // SAFETY: only read; only this thread touches the entry.
    let Some(call) = (unsafe { TLS_CALLS.get(key) }) else { return };
    if stack >= call.stack || bytes < 16 {
        return;
    }
    if let Some(hint) = TLS_HINTS.get_ptr_mut(target_hint(key.pid)) {
        // SAFETY: as in `entered`.
        unsafe { hint.write_volatile(hint.read_volatile().wrapping_add(1) | TLS_HINT) };
    }
    let handle = Key { pid: key.pid, zero: 0, id: call.handle };
    let Some(begins) = read_user::<[u64; 2]>(address) else { return };
    if begins[0] as u8 == HANDSHAKE {
        // A new connection: where its memory was another's, that one's link is not its own.
        let _ = TLS_HANDLES.remove(handle);
    } else {
        // SAFETY: only read.
        let linked = unsafe { TLS_HANDLES.get(handle) };
        if linked.is_some_and(|linked| linked.link == u32::from(TLS_LINK_NESTED)) {
            return;
        }
    }
    let _ = TLS_RECORDS.insert(Record { pid: key.pid, zero: 0, begins }, handle.id, 0);
}

/// Bytes were sent outside of library calls: if they begin with a record that a library has written, the connection is its handle's.
#[inline(never)]
fn sent(hit: &Hit, conn: &Conn) -> u32 {
    let buffer = &hit.call.buffer;
    let address = match buffer.kind {
        BUFFER_SINGLE => buffer.address,
        BUFFER_IOVECS => read_user::<Iovec>(buffer.address).map_or(0, |first| first.base),
        _ => 0,
    };
    let Some(begins) = read_user::<[u64; 2]>(address) else { return 0 };
    let record = Record { pid: hit.thread.pid, zero: 0, begins };
    // SAFETY: only read.
    let Some(&id) = (unsafe { TLS_RECORDS.get(record) }) else { return 0 };
    let _ = TLS_RECORDS.remove(record);
    let handle =
        Handle { socket: hit.sock as u64, conn_id: conn.id, link: u32::from(TLS_LINK_NESTED), n_agreed: 0 };
    let _ = TLS_HANDLES.insert(Key { pid: record.pid, zero: 0, id }, handle, 0);
    0
}

/// A socket moved bytes: those of the call that runs, if one does.
#[inline(always)]
pub fn moved(hit: &Hit, conn: &Conn) {
    around(hit, conn);
    let slot = target_hint(hit.thread.pid);
    if TLS_GO_HINTS.get(slot).is_some_and(|hint| *hint != 0) {
        tls_go::moved(hit, conn);
    }
    if setting!(tls) == TLS_AND_RUSTLS && TLS_RUSTLS_HINTS.get(slot).is_some_and(|hint| *hint != 0) {
        tls_rustls::moved(hit, conn);
    }
}

/// By itself, to leave the hook's stack as it is.
#[inline(never)]
fn around(hit: &Hit, conn: &Conn) -> u32 {
    let may_call = TLS_HINTS.get(target_hint(hit.thread.pid)).is_some_and(|hint| *hint != 0);
    if may_call && note(hit, conn) != 0 {
        return 0;
    }
    if conn.carries == CARRIES {
        unseen(hit.thread.pid);
    }
    if may_call && hit.direction == u64::from(EGRESS) {
        sent(hit, conn);
    }
    0
}

/// A process without probes moves bytes of a connection of which the clear text is told: a child goes on with what its parent began, before it was
/// looked at or while its probes are being attached. What it says there is seen nowhere.
#[inline(never)]
fn unseen(pid: u32) -> u32 {
    // SAFETY: only read; user space writes whole values.
    let (own, all) = unsafe { (TLS_PROCESSES.get(pid), TLS_PROCESSES.get(0)) };
    if own.map_or(all.is_none(), |process| process.libraries == 0) {
        count(Stat::TlsUnlinked);
    }
    0
}

/// Notes the socket for the call that runs; 0: none does.
#[inline(never)]
fn note(hit: &Hit, conn: &Conn) -> u32 {
    let key = Key { pid: hit.thread.pid, zero: 0, id: u64::from(hit.thread.tid) };
    let Some(call) = TLS_CALLS.get_ptr_mut(key) else {
        outside(key, hit, conn);
        return 0;
    };
    // SAFETY: map values stay readable for the program's run; only this thread touches the entry.
    let call = unsafe { &mut *call };
    call.socket = hit.sock as u64;
    if hit.direction == u64::from(INGRESS) && call.arrival_ns == 0 {
        call.arrival_ns = conn.arrival_ns;
    }
    1
}

/// A socket moved bytes outside of library calls.
#[inline(always)]
fn outside(key: Key, hit: &Hit, conn: &Conn) {
    let Some(mover) = TLS_MOVERS.get_ptr_mut(key) else {
        if hit.direction == u64::from(INGRESS) {
            let mover = Mover { socket: hit.sock as u64, conn_id: conn.id, handle: 0 };
            let _ = TLS_MOVERS.insert(key, mover, 0);
        }
        return;
    };
    // SAFETY: map values stay readable for the program's run; only this thread touches the entry.
    let mover = unsafe { &mut *mover };
    if hit.direction == u64::from(INGRESS) {
        mover.socket = hit.sock as u64;
        mover.conn_id = conn.id;
    } else if mover.handle != 0 {
        let handle = Key { pid: key.pid, zero: 0, id: mover.handle };
        mover.handle = 0;
        agree(handle, hit.sock as u64, conn.id);
    }
}

/// Order says whose a handle is.
#[inline(always)]
fn agree(handle: Key, socket: u64, conn_id: u64) {
    if let Some(linked) = TLS_HANDLES.get_ptr_mut(handle) {
        // SAFETY: map values stay readable for the program's run; two threads that use one handle at once count one less.
        let linked = unsafe { &mut *linked };
        if linked.link == u32::from(TLS_LINK_NESTED) {
            return;
        }
        if linked.conn_id == conn_id {
            linked.n_agreed = linked.n_agreed.saturating_add(1);
            return;
        }
    }
    let link = u32::from(TLS_LINK_ORDER);
    let _ = TLS_HANDLES.insert(handle, Handle { socket, conn_id, link, n_agreed: 1 }, 0);
}

/// A call moved nothing on a socket: what its thread moves before or behind it says whose its handle is.
#[inline(always)]
fn observe(thread: &Thread, handle: Key, direction: u32) {
    let key = Key { pid: thread.pid, zero: 0, id: u64::from(thread.tid) };
    let Some(mover) = TLS_MOVERS.get_ptr_mut(key) else {
        if direction == u32::from(EGRESS) {
            let _ = TLS_MOVERS.insert(key, Mover { socket: 0, conn_id: 0, handle: handle.id }, 0);
        }
        return;
    };
    // SAFETY: map values stay readable for the program's run; only this thread touches the entry.
    let mover = unsafe { &mut *mover };
    if direction == u32::from(EGRESS) {
        mover.handle = handle.id;
    } else if mover.socket != 0 {
        agree(handle, mover.socket, mover.conn_id);
        // It answers for one call: what the thread asks the library for next may be another's.
        mover.socket = 0;
    }
}

/// A call ends with `value`; `stack` is the stack pointer behind its return.
#[inline(always)]
pub fn returned(thread: &Thread, key: Key, value: u64, stack: u64) {
    let Some(running) = TLS_CALLS.get_ptr_mut(key) else { return };
    // SAFETY: map values stay readable for the program's run; only this thread touches the entry.
    let mut call = unsafe { *running };
    if stack <= call.stack {
        // The return of a call within this one.
        return;
    }
    let _ = TLS_CALLS.remove(key);
    // SAFETY: plain integers.
    unsafe { forget(&mut call) };
    let bytes = match call.length_at {
        0 => u64::from((value as i32).max(0) as u32),
        NO_LENGTH => 0,
        _ if value as u32 != 1 => 0,
        at => match read_user(at) {
            Some(bytes) => bytes,
            None => {
                count(Stat::TlsUnlinked);
                0
            }
        },
    };
    ended(thread, key.pid, &call, bytes);
}

/// Tells what a call moved.
#[inline(never)]
fn ended(thread: &Thread, pid: u32, call: &Call, bytes: u64) -> u32 {
    let handle = Key { pid, zero: 0, id: call.handle };
    let mut socket = call.socket;
    let mut link = u32::from(TLS_LINK_NESTED);
    let mut known = 0;
    if socket == 0 {
        // SAFETY: only read.
        let is_certain = unsafe { TLS_HANDLES.get(handle) }
            .is_some_and(|linked| linked.link == u32::from(TLS_LINK_NESTED));
        if !is_certain {
            observe(thread, handle, call.direction);
        }
    }
    // SAFETY: only read.
    if let Some(linked) = unsafe { TLS_HANDLES.get(handle) } {
        let is_settled = linked.link == u32::from(TLS_LINK_NESTED) || linked.n_agreed >= AGREED;
        if socket == 0 && is_settled {
            socket = linked.socket;
            link = linked.link;
        }
        if socket == linked.socket && linked.link == link {
            known = linked.conn_id;
        }
    }
    if socket == 0 {
        if bytes != 0 {
            count(Stat::TlsUnlinked);
        }
        return 0;
    }
    let Some(carrier) = conn::find(socket) else {
        // Not wanted, or not tracked, which is counted; or closed.
        return 0;
    };
    if known != carrier.id {
        if call.socket == 0 {
            // The socket is another one by now.
            let _ = TLS_HANDLES.remove(handle);
            if bytes != 0 {
                count(Stat::TlsUnlinked);
            }
            return 0;
        }
        let _ = TLS_HANDLES.insert(handle, Handle { socket, conn_id: carrier.id, link, n_agreed: 0 }, 0);
    }
    if bytes == 0 {
        return 0;
    }
    let Some(clear) = clear_text(carrier, pid, call.library, link) else { return 0 };
    if call.direction == u32::from(INGRESS) && clear.arrival_ns == 0 {
        clear.arrival_ns = call.arrival_ns;
    }
    let told =
        Told { buffer: call.buffer, bytes, time_ns: conn::now(), direction: u64::from(call.direction) };
    tell(thread, clear, &told, 0);
    if call.direction == u32::from(INGRESS) {
        clear.arrival_ns = 0;
    }
    1
}

/// Clear text that moved.
pub struct Told {
    /// User address of the bytes; 0: what they say is not known.
    pub buffer: u64,
    /// How many.
    pub bytes: u64,
    /// When.
    pub time_ns: u64,
    /// `EGRESS` or `INGRESS`.
    pub direction: u64,
}

/// Tells clear text. `goroutine`: as [`tracer_ebpf::Data::goroutine`]; it is looked for by Go's library alone, as the stack of rustls's chain has no room for it.
#[inline(always)]
pub fn tell(thread: &Thread, clear: &mut Conn, told: &Told, goroutine: u32) {
    let mut moved = Moved {
        thread: *thread,
        comm: [0; 2],
        time_ns: told.time_ns,
        bytes: told.bytes,
        end: 0,
        consumed: 0,
        direction: told.direction as u8,
        has_sequence: 0,
        goroutine,
        buffer: Buffer {
            kind: if told.buffer == 0 { BUFFER_NONE } else { BUFFER_SINGLE },
            count: 0,
            address: told.buffer,
        },
    };
    // SAFETY: the name has 16 bytes.
    unsafe { bpf_get_current_comm((&raw mut moved.comm).cast(), 16) };
    // SAFETY: plain integers.
    unsafe { forget(&mut moved) };
    capture::moved::<false>(clear, &moved);
}

/// The clear text's connection, created if need be.
#[inline(never)]
pub fn clear_text(carrier: &mut Conn, pid: u32, library: u32, link: u32) -> Option<&'static mut Conn> {
    // SAFETY: only read; user space writes whole values.
    let own = unsafe { TLS_PROCESSES.get(pid) };
    // Not all probes of the library are there yet: what one of them shows would be half of the truth.
    let is_whole = |process: &TlsProcess| process.libraries >> (library & 63) & 1 != 0;
    if carrier.carries == CARRIES
        && let Some(clear) = conn::find(carrier.id)
    {
        // A child goes on with it. Where nobody has looked at the child yet, it met a probe on its parent's file, of which all are there.
        if own.is_none_or(is_whole) {
            return Some(clear);
        }
        count(Stat::TlsUnlinked);
        return None;
    }
    // Of a process that user space has not looked at yet: what is on its files was there before it.
    // SAFETY: as above.
    let process = own.or_else(|| unsafe { TLS_PROCESSES.get(0) })?;
    if !is_whole(process) {
        return None;
    }
    let since = process.since_ns;
    let birth = Birth {
        pid,
        netns: carrier.netns,
        role: carrier.role,
        // Nothing was said before the probes were there.
        from_start: carrier.mid_join == 0 && conn_first_seen(carrier.id) > since,
        established_ns: carrier.established_ns,
    };
    let clear = conn::create(carrier.id, &carrier.tuple, &birth)?;
    carrier.carries = CARRIES;
    clear.carries = IS_CARRIED;
    clear.inode = carrier.inode;
    clear.opened = 1;
    clear.drained = 0;
    capture::tls_open(clear, carrier.id, library, link);
    Some(clear)
}

/// A thread ends, perhaps within a call: nobody will see its return.
#[inline(always)]
pub fn thread_ended(pid: u32, tid: u32) {
    let _ = TLS_CALLS.remove(Key { pid, zero: 0, id: u64::from(tid) });
}

/// A library lets go of a handle.
#[inline(always)]
pub fn freed(key: Key) {
    let _ = TLS_HANDLES.remove(key);
}
