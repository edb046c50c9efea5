//! Go's crypto/tls: which connection on the wire a `*tls.Conn` is of, and its clear text.
//!
//! Goroutines change threads while they wait for the network, so that what happens within a call is known by the goroutine: Go keeps it in a
//! register, and in thread-local storage, where the hooks of sockets find it. No structure of crypto/tls is read, and no call is open: each byte is told
//! at the one place that it passes ([`copies`], [`sends`]).
//!
//! A connection is linked by the first bytes that its handshake moves. Connections that were there before the probes are linked by what moves within
//! `Read` and `Write`: bytes received by the goroutine between a `Read`'s beginning and its copy were received within it, those sent between
//! `Write`'s call that sends and the place behind it as well. All of that is certain. What is not is not linked, and counted (`tls_unlinked`).
//!
//! A `*tls.Conn` within another one's connection (a proxy that is asked over TLS) has no connection on the wire of its own: the outer one has it.

use aya_ebpf::helpers::bpf_get_current_task;
use tracer_ebpf::{CARRIES, Conn, EGRESS, INGRESS, TLS_GO, TLS_LINK_NESTED, conn_first_seen, target_hint};

use crate::{
    conn,
    filter::Thread,
    goroutine,
    maps::{TLS_CARRIED, TLS_GO_HINTS, TLS_GOROUTINES, TLS_HANDLES, TLS_PROCESSES},
    memory::read_user,
    probes::hit::Hit,
    tls::{self, Handle, Key, Told, called, carrier, process, unlinked},
};

/// What a goroutine does whose connection is not known yet.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Goroutine {
    /// The `*tls.Conn` of the call; 0 = it has made none since the probes are there, and is within one that began before or in none.
    pub handle: u64,
    /// The socket that moved bytes since; 0 = none.
    pub socket: u64,
    /// Its connection; of a handshake, the one that the `*tls.Conn` was of before (0 = none).
    pub conn_id: u64,
    /// `Write`: where the bytes are.
    pub buffer: u64,
    /// `Write`: how many.
    pub bytes: u64,
    /// `Write`: when it was called.
    pub time_ns: u64,
    /// `Write`: how far down the stack its frame is.
    pub depth: u64,
    /// One of the calls below.
    pub call: u64,
}

const NOTHING: Goroutine =
    Goroutine { handle: 0, socket: 0, conn_id: 0, buffer: 0, bytes: 0, time_ns: 0, depth: 0, call: 0 };

const HANDSHAKE: u64 = 1;
const READ: u64 = 2;
const WRITE: u64 = 3;

/// What a connection on the wire carries.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Carried {
    /// The `*tls.Conn`.
    pub handle: u64,
    /// When the first byte arrived that was received and of which nothing was given yet; 0 = not known.
    pub arrival_ns: u64,
}

/// The goroutine that runs in Go's code, whose register has it too. Both must agree: a program may be linked so that it lies elsewhere.
#[inline(always)]
fn running(thread: &Thread, register: u64) -> Option<Key> {
    // SAFETY: no arguments.
    let task = unsafe { bpf_get_current_task() };
    let id = goroutine::address(task as *const u8);
    (id != 0 && id == register).then_some(Key { pid: thread.pid, zero: 0, id })
}

/// Whether every place of the process has its probe: where only some have, an answer would be taken for another's. On a connection that began after all the
/// probes on files were there that is so whichever process has it, looked at or not; and where something was told, it was so.
#[inline(always)]
fn is_whole(pid: u32, carrier: &Conn) -> bool {
    // SAFETY: only read; user space writes whole values.
    let all = || unsafe { TLS_PROCESSES.get(0) };
    let is_young =
        || carrier.mid_join == 0 && all().is_some_and(|all| conn_first_seen(carrier.id) > all.since_ns);
    carrier.carries == CARRIES || process(pid, TLS_GO).is_some() || is_young()
}

/// Links a `*tls.Conn` with a connection on the wire. `known`: the one that it was of before.
#[inline(always)]
fn link(handle: Key, socket: u64, conn_id: u64, known: u64) -> Option<&'static mut Conn> {
    let carrier = conn::find(socket).filter(|conn| conn.id == conn_id)?;
    // SAFETY: only read.
    match unsafe { TLS_CARRIED.get(conn_id) } {
        Some(carried) if carried.handle == handle.id => {}
        // Another one's, that has said something: that of the outer connection.
        _ if carrier.carries == CARRIES && known != conn_id => return None,
        // One that never came to say anything.
        Some(carried) => {
            let _ = TLS_HANDLES.remove(Key { pid: handle.pid, zero: 0, id: carried.handle });
        }
        None => {}
    }
    let link = u32::from(TLS_LINK_NESTED);
    let _ = TLS_HANDLES.insert(handle, Handle { socket, conn_id, link, n_agreed: 0 }, 0);
    let carried = Carried { handle: handle.id, arrival_ns: 0 };
    let _ = TLS_CARRIED.insert(conn_id, carried, 0);
    Some(carrier)
}

/// A handshake begins: what its goroutine moves first tells the connection. Whatever was at this address before is gone.
#[inline(always)]
pub fn handshake(thread: &Thread, handle: u64, register: u64) {
    let key = Key { pid: thread.pid, zero: 0, id: handle };
    // SAFETY: only read.
    let known = unsafe { TLS_HANDLES.get(key) }.map_or(0, |linked| linked.conn_id);
    if known != 0 {
        let _ = TLS_HANDLES.remove(key);
        let _ = TLS_CARRIED.remove(known);
    }
    let _ = TLS_GOROUTINES.remove(pending(key));
    let Some(running) = running(thread, register) else { return };
    called(&TLS_GO_HINTS, thread.pid);
    let note = Goroutine { handle, conn_id: known, call: HANDSHAKE, ..NOTHING };
    let _ = TLS_GOROUTINES.insert(running, note, 0);
}

/// `Read` begins.
#[inline(always)]
pub fn reads(thread: &Thread, handle: u64, register: u64) {
    let linked = carrier(Key { pid: thread.pid, zero: 0, id: handle }).map(|carrier| carrier.id);
    let Some(running) = running(thread, register) else { return };
    if let Some(conn_id) = linked {
        if let Some(carried) = TLS_CARRIED.get_ptr_mut(conn_id) {
            // SAFETY: map values stay readable for the program's run. What arrived before was not for this call.
            unsafe { (*carried).arrival_ns = 0 };
        }
        // SAFETY: only asked whether it is there.
        if unsafe { TLS_GOROUTINES.get(running) }.is_some() {
            let _ = TLS_GOROUTINES.remove(running);
        }
        return;
    }
    called(&TLS_GO_HINTS, thread.pid);
    let note = Goroutine { handle, call: READ, ..NOTHING };
    let _ = TLS_GOROUTINES.insert(running, note, 0);
}

/// `Read` is about to copy what it gives.
#[inline(never)]
pub fn copies(thread: &Thread, handle: u64, register: u64, from: u64, bytes: u64) -> u32 {
    if bytes == 0 {
        return 0;
    }
    let key = Key { pid: thread.pid, zero: 0, id: handle };
    let carrier = carrier(key).or_else(|| {
        if handle == 0 {
            return None;
        }
        let running = running(thread, register)?;
        // SAFETY: only read; only this goroutine's thread writes it.
        let note = *unsafe { TLS_GOROUTINES.get(running) }?;
        let _ = TLS_GOROUTINES.remove(running);
        // With none of its calls known it is within one that began before: what it received since was received within.
        let is_own = note.handle == 0 || (note.handle == handle && note.call == READ);
        if note.socket == 0 || !is_own {
            return None;
        }
        link(key, note.socket, note.conn_id, 0)
    });
    let Some(carrier) = carrier else {
        unlinked(thread.pid, TLS_GO);
        return 0;
    };
    if !is_whole(thread.pid, carrier) {
        return 0;
    }
    if carrier.carries != CARRIES {
        // Who asked may be slower than the answer.
        tell_pending(thread, key, carrier);
    }
    let conn_id = carrier.id;
    let Some(clear) = tls::clear_text(carrier, thread.pid, u32::from(TLS_GO), u32::from(TLS_LINK_NESTED))
    else {
        return 0;
    };
    let carried = TLS_CARRIED.get_ptr_mut(conn_id);
    // SAFETY: map values stay readable for the program's run.
    let carried = carried.map(|carried| unsafe { &mut *carried });
    clear.arrival_ns = 0;
    if let Some(carried) = carried {
        clear.arrival_ns = carried.arrival_ns;
        carried.arrival_ns = 0;
    }
    let told = Told { buffer: from, bytes, time_ns: conn::now(), direction: u64::from(INGRESS) };
    tls::tell(thread, clear, &told, goroutine::running(thread.pid));
    clear.arrival_ns = 0;
    1
}

/// What `Write` sends.
pub struct Sends {
    /// The `*tls.Conn`.
    pub handle: u64,
    /// The stack pointer.
    pub stack: u64,
    /// The goroutine.
    pub register: u64,
    /// User address of the bytes.
    pub buffer: u64,
    /// How many.
    pub bytes: u64,
}

/// How far down a goroutine's stack an address is: stacks move, this stays. A goroutine begins with the two ends of its stack, of which code that checks for
/// room needs to know.
#[inline(always)]
fn depth(goroutine: u64, stack: u64) -> u64 {
    read_user::<u64>(goroutine.wrapping_add(8)).unwrap_or(0).wrapping_sub(stack)
}

/// `Write` is about to send. Told now: who answers may be faster than what follows.
#[inline(never)]
pub fn sends(thread: &Thread, sends: &Sends) -> u32 {
    let &Sends { handle, stack, register, buffer, bytes } = sends;
    if bytes == 0 {
        return 0;
    }
    let now = conn::now();
    let key = Key { pid: thread.pid, zero: 0, id: handle };
    if let Some(carrier) = carrier(key) {
        let mut told = Told { buffer, bytes, time_ns: now, direction: u64::from(EGRESS) };
        tell(thread, carrier, &mut told);
        return 1;
    }
    let Some(running) = running(thread, register) else {
        unlinked(thread.pid, TLS_GO);
        return 0;
    };
    called(&TLS_GO_HINTS, thread.pid);
    let depth = depth(running.id, stack);
    let note = Goroutine { handle, buffer, bytes, time_ns: now, depth, call: WRITE, ..NOTHING };
    let _ = TLS_GOROUTINES.insert(pending(key), note, 0);
    let _ = TLS_GOROUTINES.insert(running, note, 0);
    0
}

/// Under which a `Write` of a connection waits to be told, for whoever comes first: what is behind it, or the answer.
#[inline(always)]
fn pending(handle: Key) -> Key {
    Key { zero: 1, ..handle }
}

/// Tells a `Write` that waits, once. Its bytes are the caller's until it returns.
#[inline(always)]
fn tell_pending(thread: &Thread, handle: Key, carrier: &mut Conn) {
    // SAFETY: only read; a connection's writes come one by one.
    let Some(note) = (unsafe { TLS_GOROUTINES.get(pending(handle)) }) else { return };
    let mut told =
        Told { buffer: note.buffer, bytes: note.bytes, time_ns: note.time_ns, direction: u64::from(EGRESS) };
    if TLS_GOROUTINES.remove(pending(handle)).is_ok() {
        tell(thread, carrier, &mut told);
    }
}

/// `Write` has sent, or failed: bytes whose connection was not known are told now.
#[inline(never)]
pub fn sent(thread: &Thread, stack: u64, register: u64) -> u32 {
    if TLS_GO_HINTS.get(target_hint(thread.pid)).is_none_or(|hint| *hint == 0) {
        return 0;
    }
    let Some(running) = running(thread, register) else { return 0 };
    // SAFETY: only read; only this goroutine's thread writes it.
    let Some(note) = (unsafe { TLS_GOROUTINES.get(running) }) else { return 0 };
    if note.call != WRITE || note.depth != depth(running.id, stack) {
        return 0;
    }
    let note = *note;
    let _ = TLS_GOROUTINES.remove(running);
    let key = Key { pid: thread.pid, zero: 0, id: note.handle };
    // SAFETY: only asked whether it is there.
    if unsafe { TLS_GOROUTINES.get(pending(key)) }.is_none() {
        return 0;
    }
    let Some(carrier) = link(key, note.socket, note.conn_id, 0) else {
        let _ = TLS_GOROUTINES.remove(pending(key));
        unlinked(thread.pid, TLS_GO);
        return 0;
    };
    tell_pending(thread, key, carrier);
    1
}

#[inline(always)]
fn tell(thread: &Thread, carrier: &mut Conn, told: &mut Told) {
    if !is_whole(thread.pid, carrier) {
        return;
    }
    let link = u32::from(TLS_LINK_NESTED);
    let Some(clear) = tls::clear_text(carrier, thread.pid, u32::from(TLS_GO), link) else { return };
    // Nothing is told of it that is older than itself.
    let since_ns = conn_first_seen(clear.id) + 1;
    if told.time_ns < since_ns {
        told.time_ns = since_ns;
    }
    tls::tell(thread, clear, told, goroutine::running(thread.pid));
}

/// A socket moved bytes.
#[inline(never)]
pub fn moved(hit: &Hit, conn: &Conn) -> u32 {
    let is_ingress = hit.direction == u64::from(INGRESS);
    let pid = hit.thread.pid;
    if let Some(carried) = TLS_CARRIED.get_ptr_mut(conn.id) {
        // SAFETY: map values stay readable for the program's run.
        let carried = unsafe { &mut *carried };
        if is_ingress && (carried.arrival_ns == 0 || conn.carries != CARRIES) {
            // Before the first clear text it may have been the handshake's.
            carried.arrival_ns = conn.arrival_ns;
        }
        if conn.carries == CARRIES {
            return 0;
        }
    }
    let id = goroutine::address(hit.task);
    if id == 0 {
        return 0;
    }
    let running = Key { pid, zero: 0, id };
    let Some(note) = TLS_GOROUTINES.get_ptr_mut(running) else {
        // Within a `Read` that began before the probes were there, perhaps: on a connection that was there then.
        let is_older = process(pid, TLS_GO)
            .is_some_and(|process| conn.mid_join != 0 || conn_first_seen(conn.id) <= process.since_ns);
        if is_ingress && is_older {
            let note = Goroutine { socket: hit.sock as u64, conn_id: conn.id, ..NOTHING };
            let _ = TLS_GOROUTINES.insert(running, note, 0);
        }
        return 0;
    };
    // SAFETY: map values stay readable for the program's run; only this goroutine's thread touches the entry.
    let note = unsafe { &mut *note };
    match note.call {
        HANDSHAKE => {
            let (handle, known) = (Key { pid, zero: 0, id: note.handle }, note.conn_id);
            let _ = TLS_GOROUTINES.remove(running);
            link(handle, hit.sock as u64, conn.id, known);
        }
        READ | 0 if is_ingress => {
            note.socket = hit.sock as u64;
            note.conn_id = conn.id;
        }
        WRITE if !is_ingress && note.socket == 0 => {
            note.socket = hit.sock as u64;
            note.conn_id = conn.id;
        }
        _ => {}
    }
    0
}
