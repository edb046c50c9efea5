//! rustls: which connection on the wire a set of its keys is of, and their clear text.
//!
//! rustls works on buffers: no socket is moved within its calls, and its connections are moved in memory. What stays where it is, and is never
//! another's while it lives, is the object that holds the keys of one direction (`Box<dyn MessageEncrypter>`, `Box<dyn MessageDecrypter>`). All records pass
//! it, each once and in order, with a number that begins at 0 for new keys; and calls through a table are never compiled into their callers.
//!
//! It is linked by the memory that records lie in. A record that is decrypted lies where the thread has just received: those bytes are the connection's. A
//! record that was encrypted lies where what is sent next, or one of its first pieces, begins: that send is the connection's. Both are certain. Where a
//! program copies records on their way between its sockets and the library, nothing is linked, and what was said is counted (`tls_unlinked`).
//!
//! What was said by keys that are linked by a send waits for it, where its caller has it; whether it is still there is seen by how it begins.
//!
//! What is lost on the way is counted as well (`tls_unlinked`): a record in progress whose entry could not be made or made room for another's, and results and messages
//! that cannot be read or are none. A record of the handshake whose entry was lost counts too: which it was is not known then. Not counted is what waits for its
//! connection and makes room for others', of 4,096 keys at once.

use aya_ebpf::helpers::{bpf_get_current_pid_tgid, generated::bpf_get_current_comm};
use tracer_ebpf::{
    CARRIES, Conn, EGRESS, INGRESS, Stat, TLS_LINK_NESTED, TLS_RUSTLS, conn_first_seen, target_hint,
};

use crate::{
    capture::{self, BUFFER_IOVECS, BUFFER_NONE, BUFFER_SINGLE, Buffer, Moved},
    conn,
    filter::Thread,
    gather::Iovec,
    maps::{TLS_CARRIED, TLS_HANDLES, TLS_RUSTLS_HINTS, TLS_RUSTLS_PENDING, TLS_RUSTLS_THREADS},
    memory::{forget, read_user, zero},
    probes::hit::Hit,
    stats::count,
    tls::{self, Handle, Key, Told, called, carrier, process, unlinked},
    tls_go::Carried,
};

/// What a thread does.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Worker {
    /// The socket that it received from last; 0 = none yet.
    pub socket: u64,
    /// Its connection.
    pub conn_id: u64,
    /// User address of the bytes.
    pub from: u64,
    /// How many.
    pub bytes: u64,
    /// When the first of them arrived.
    pub arrival_ns: u64,
    /// The record in progress: the object with its keys; 0 = none.
    pub keys: u64,
    /// Where its message is, or 0 for one that is encrypted.
    pub message: u64,
    /// How long that is.
    pub message_bytes: u64,
    /// Where what comes of it is left.
    pub result: u64,
    /// Stack pointer at the entry.
    pub stack: u64,
    /// Keys that encrypted, whose connection is not known; 0 = none.
    pub unlinked: u64,
    /// Where the first of their records is that is not sent yet.
    pub record: u64,
    /// Keys that were linked by what was just sent: what they said is told by a program of its own (`rustls_sent`); 0 = none.
    pub linked: u64,
    /// Keys whose record is to be told.
    pub speaks: u64,
    /// Where its bytes are: the rest of a piece, and pieces; or one of them.
    pub parts: [Part; 2],
}

/// Bytes of a record.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Part {
    /// Where they are, or their pieces; 0: what they say is not known.
    pub address: u64,
    /// How many pieces; 0: it is one.
    pub n_pieces: u64,
    /// How many bytes; 0: there are none.
    pub bytes: u64,
}

/// Pieces of what waits: a head and a body are two, however many records they take.
const MAX_WAITING: usize = 8;

/// What was said by keys whose connection is not known yet.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Pending {
    /// Bytes that are lost before it.
    pub lost: u64,
    /// When the first was said.
    pub time_ns: u64,
    /// How many pieces there are.
    pub n_pieces: u64,
    /// What the first began with: the caller may have given its memory to others.
    pub begins: u64,
    /// The pieces.
    pub pieces: [Iovec; MAX_WAITING],
}

/// Most of one record (RFC 8446, 5.1).
const MAX_RECORD: u64 = 16_384;
/// Pieces of one record that are told; the rest is a gap of known length (`iovecs_cut`). hyper gives at most 16 buffers of up to three pieces at once.
const MAX_PIECES: u64 = 16;
/// Pieces of a send that are looked at: before a connection's first record only what is left of its handshake may wait.
const MAX_SENT: u64 = 4;

/// Insert only (include/uapi/linux/bpf.h).
const BPF_NOEXIST: u64 = 1;

/// `ContentType::ApplicationData` in memory.
const APPLICATION_DATA: u8 = 3;
/// Errors that a connection goes on behind have lower tags in memory, `Ok` has a higher one (`Error::DecryptError` is 6, `Ok` 21 or more).
const NO_ERROR: u8 = 16;

#[inline(always)]
fn worker(thread: &Thread) -> Option<&'static mut Worker> {
    let key = Key { pid: thread.pid, zero: 0, id: u64::from(thread.tid) };
    // SAFETY: map values stay readable for the program's run; only this thread touches the entry.
    TLS_RUSTLS_THREADS.get_ptr_mut(key).map(|worker| unsafe { &mut *worker })
}

/// The same, made if need be.
#[inline(never)]
fn worker_of(thread: &Thread) -> Option<&'static mut Worker> {
    if let Some(worker) = worker(thread) {
        return Some(worker);
    }
    let key = Key { pid: thread.pid, zero: 0, id: u64::from(thread.tid) };
    let mut new = core::mem::MaybeUninit::<Worker>::uninit();
    // SAFETY: plain integers, all of them written before they are read.
    unsafe {
        zero(new.as_mut_ptr());
        let _ = TLS_RUSTLS_THREADS.insert(key, new.assume_init_ref(), 0);
    }
    worker(thread)
}

#[inline(always)]
fn link(keys: Key, socket: u64, conn_id: u64) {
    let handle = Handle { socket, conn_id, link: u32::from(TLS_LINK_NESTED), n_agreed: 0 };
    let _ = TLS_HANDLES.insert(keys, handle, 0);
}

/// New keys at this address: whatever was there before is gone.
#[inline(always)]
fn renewed(keys: Key) {
    // SAFETY: only asked whether it is there.
    if unsafe { TLS_HANDLES.get(keys) }.is_some() {
        let _ = TLS_HANDLES.remove(keys);
    }
    // SAFETY: as above.
    if unsafe { TLS_RUSTLS_PENDING.get(keys) }.is_some() {
        let _ = TLS_RUSTLS_PENDING.remove(keys);
    }
}

/// `OutboundPlainMessage` in memory.
#[repr(C)]
#[derive(Clone, Copy)]
struct Outbound {
    /// Where the pieces are (`&[&[u8]]`); 0: there is one.
    pieces: u64,
    /// How many; of one: where it is.
    n_or_address: u64,
    /// Where in them the record begins; of one: how long it is.
    begin: u64,
    /// Where it ends.
    end: u64,
    /// Its type, in the first byte.
    kind: u64,
}

/// The arguments of a call for one record, and its stack pointer.
pub struct Arguments {
    /// Where it leaves what comes of it.
    pub result: u64,
    /// The object with the keys.
    pub keys: u64,
    /// Its message.
    pub message: u64,
    /// The record's number since the keys are new.
    pub number: u64,
    /// The stack pointer.
    pub stack: u64,
}

/// A record is about to be encrypted; not 0: its bytes are to be told ([`speaks`]).
#[inline(never)]
pub fn encrypts(thread: &Thread, arguments: &Arguments) -> u32 {
    called(&TLS_RUSTLS_HINTS, thread.pid);
    let keys = Key { pid: thread.pid, zero: 0, id: arguments.keys };
    if arguments.number == 0 {
        renewed(keys);
    }
    let Some(message) = read_user::<Outbound>(arguments.message) else {
        unlinked(thread.pid, TLS_RUSTLS);
        return 0;
    };
    // What is lost without it is counted at the return.
    let Some(worker) = worker_of(thread) else { return 0 };
    if worker.unlinked != 0 && worker.unlinked != arguments.keys {
        forget_pending(thread.pid, worker.unlinked);
        worker.unlinked = 0;
    }
    let is_linked = carrier(keys).is_some();
    worker.keys = 0;
    if !is_linked {
        worker.keys = arguments.keys;
        worker.message = 0;
        worker.result = arguments.result;
        worker.stack = arguments.stack;
    }
    let (begin, end) = match message.pieces {
        0 => (0, message.begin),
        _ => (message.begin, message.end),
    };
    let bytes = end.wrapping_sub(begin);
    if message.kind as u8 != APPLICATION_DATA || bytes == 0 {
        return 0;
    }
    if bytes > MAX_RECORD {
        // None is so long: these are no messages of rustls as they are known.
        unlinked(thread.pid, TLS_RUSTLS);
        return 0;
    }
    worker.speaks = arguments.keys;
    worker.parts[0] = Part { address: message.n_or_address, n_pieces: 0, bytes };
    worker.parts[1].bytes = 0;
    if message.pieces != 0 {
        find_parts(worker, &message);
    }
    if is_linked {
        return 1;
    }
    waits(keys, worker);
    0
}

/// Finds where in its pieces a record begins.
#[inline(never)]
fn find_parts(worker: &mut Worker, message: &Outbound) -> u32 {
    let bytes = message.end.wrapping_sub(message.begin);
    let mut at = 0;
    let mut i = 0;
    while i < MAX_PIECES {
        if i >= message.n_or_address {
            break;
        }
        let pieces = message.pieces.wrapping_add(i * size_of::<Iovec>() as u64);
        let Some(piece) = read_user::<Iovec>(pieces) else { break };
        i += 1;
        let end = at + piece.length;
        if message.begin >= end {
            at = end;
            continue;
        }
        let from = message.begin - at;
        let room = piece.length - from;
        let address = piece.base.wrapping_add(from);
        if room >= bytes {
            worker.parts[0] = Part { address, n_pieces: 0, bytes };
        } else if from == 0 {
            let n_pieces = message.n_or_address - (i - 1);
            worker.parts[0] = Part { address: pieces, n_pieces, bytes };
        } else {
            worker.parts[0] = Part { address, n_pieces: 0, bytes: room };
            let address = pieces.wrapping_add(size_of::<Iovec>() as u64);
            worker.parts[1] = Part { address, n_pieces: message.n_or_address - i, bytes: bytes - room };
        }
        return 0;
    }
    count(Stat::IovecsCut);
    worker.parts[0] = Part { address: 0, n_pieces: 0, bytes };
    0
}

/// Tells the record that is about to be encrypted.
#[inline(never)]
pub fn speaks(thread: &Thread) -> u32 {
    let Some(worker) = worker(thread) else { return 0 };
    let keys = Key { pid: thread.pid, zero: 0, id: worker.speaks };
    let Some(carrier) = carrier(keys) else { return 0 };
    let (library, link) = (u32::from(TLS_RUSTLS), u32::from(TLS_LINK_NESTED));
    let Some(clear) = tls::clear_text(carrier, thread.pid, library, link) else { return 0 };
    let time_ns = conn::now();
    let mut i = 0;
    while i < 2 {
        let part = &worker.parts[i];
        if part.bytes == 0 {
            break;
        }
        let count = if part.n_pieces > u64::from(u32::MAX) { u32::MAX } else { part.n_pieces as u32 };
        let kind = match (part.address, count) {
            (0, _) => BUFFER_NONE,
            (_, 0) => BUFFER_SINGLE,
            _ => BUFFER_IOVECS,
        };
        let mut moved = Moved {
            thread: *thread,
            comm: [0; 2],
            time_ns,
            bytes: part.bytes,
            end: 0,
            consumed: 0,
            direction: EGRESS,
            has_sequence: 0,
            goroutine: 0,
            buffer: Buffer { kind, count, address: part.address },
        };
        // SAFETY: the name has 16 bytes.
        unsafe { bpf_get_current_comm((&raw mut moved.comm).cast(), 16) };
        // SAFETY: plain integers.
        unsafe { forget(&mut moved) };
        capture::moved::<true>(clear, &moved);
        i += 1;
    }
    0
}

/// Tells a piece.
#[inline(never)]
fn tell(thread: &Thread, clear: &mut Conn, told: &Told) -> u32 {
    tls::tell(thread, clear, told, 0);
    0
}

/// Has a record wait for its connection.
#[inline(never)]
fn waits(keys: Key, worker: &Worker) -> u32 {
    let time_ns = conn::now();
    let mut k = 0;
    while k < 2 {
        let part = &worker.parts[k];
        k += 1;
        if part.n_pieces == 0 {
            if part.bytes != 0 {
                wait(keys, part.address, part.bytes, time_ns);
            }
            continue;
        }
        let mut left = part.bytes;
        let mut i = 0;
        while i < MAX_WAITING as u64 {
            if i >= part.n_pieces || left == 0 {
                break;
            }
            let at = part.address.wrapping_add(i * size_of::<Iovec>() as u64);
            let Some(piece) = read_user::<Iovec>(at) else { break };
            let bytes = if piece.length < left { piece.length } else { left };
            if bytes != 0 {
                wait(keys, piece.base, bytes, time_ns);
            }
            left -= bytes;
            i += 1;
        }
        if left != 0 {
            wait(keys, 0, left, time_ns);
        }
    }
    0
}

/// Has a piece wait for its connection.
#[inline(never)]
fn wait(keys: Key, address: u64, bytes: u64, time_ns: u64) -> u32 {
    if TLS_RUSTLS_PENDING.get_ptr_mut(keys).is_none() {
        let mut new = core::mem::MaybeUninit::<Pending>::uninit();
        // SAFETY: plain integers, all of them written before they are read.
        unsafe {
            zero(new.as_mut_ptr());
            let _ = TLS_RUSTLS_PENDING.insert(keys, new.assume_init_ref(), 0);
        }
    }
    let Some(pending) = TLS_RUSTLS_PENDING.get_ptr_mut(keys) else {
        unlinked(keys.pid, TLS_RUSTLS);
        return 0;
    };
    // SAFETY: map values stay readable for the program's run; a connection's records are encrypted one by one.
    let pending = unsafe { &mut *pending };
    let n = pending.n_pieces;
    if n == 0 {
        pending.time_ns = time_ns;
        pending.begins = read_user(address).unwrap_or(0);
    }
    // The next record of the same piece.
    if let Some(last) = pending.pieces.get_mut(n.wrapping_sub(1) as usize)
        && last.base.wrapping_add(last.length) == address
    {
        last.length += bytes;
        return 0;
    }
    match pending.pieces.get_mut(n as usize) {
        Some(piece) if address != 0 => {
            *piece = Iovec { base: address, length: bytes };
            pending.n_pieces = n + 1;
        }
        // All of it is a gap.
        _ => {
            let mut i = 0;
            while i < MAX_WAITING {
                if (i as u64) < n {
                    pending.lost += pending.pieces[i].length;
                }
                i += 1;
            }
            pending.lost += bytes;
            pending.n_pieces = 0;
            unlinked(keys.pid, TLS_RUSTLS);
        }
    }
    0
}

/// What waits is told as a gap, when its connection is known.
#[inline(never)]
fn forget_pending(pid: u32, keys: u64) -> u32 {
    let key = Key { pid, zero: 0, id: keys };
    let Some(pending) = TLS_RUSTLS_PENDING.get_ptr_mut(key) else { return 0 };
    // SAFETY: map values stay readable for the program's run.
    let pending = unsafe { &mut *pending };
    if pending.n_pieces != 0 {
        unlinked(pid, TLS_RUSTLS);
    }
    let mut i = 0;
    while i < MAX_WAITING {
        if (i as u64) < pending.n_pieces {
            pending.lost += pending.pieces[i].length;
        }
        i += 1;
    }
    pending.n_pieces = 0;
    0
}

/// Tells what waited for its connection, once.
#[inline(never)]
fn tell_pending(thread: &Thread, keys: Key, carrier: &mut Conn) -> u32 {
    let direction = u64::from(EGRESS);
    // SAFETY: only read; a connection's records come one by one.
    let Some(pending) = (unsafe { TLS_RUSTLS_PENDING.get(keys) }) else { return 0 };
    let library = u32::from(TLS_RUSTLS);
    let link = u32::from(TLS_LINK_NESTED);
    if let Some(clear) = tls::clear_text(carrier, thread.pid, library, link) {
        // Nothing is told of it that is older than itself.
        let since_ns = conn_first_seen(clear.id) + 1;
        let time_ns = if pending.time_ns < since_ns { since_ns } else { pending.time_ns };
        let mut lost = pending.lost;
        let mut n_pieces = pending.n_pieces;
        if n_pieces != 0 && read_user(pending.pieces[0].base).unwrap_or(0) != pending.begins {
            // Its memory is others' by now.
            unlinked(thread.pid, TLS_RUSTLS);
            let mut i = 0;
            while i < MAX_WAITING {
                if (i as u64) < n_pieces {
                    lost += pending.pieces[i].length;
                }
                i += 1;
            }
            n_pieces = 0;
        }
        if lost != 0 {
            tell(thread, clear, &Told { buffer: 0, bytes: lost, time_ns, direction });
        }
        let mut i = 0;
        while i < MAX_WAITING {
            if i as u64 >= n_pieces {
                break;
            }
            let piece = pending.pieces[i];
            tell(thread, clear, &Told { buffer: piece.base, bytes: piece.length, time_ns, direction });
            i += 1;
        }
    }
    let _ = TLS_RUSTLS_PENDING.remove(keys);
    0
}

/// A record is about to be decrypted, where it lies.
#[inline(never)]
pub fn decrypts(thread: &Thread, arguments: &Arguments) -> u32 {
    called(&TLS_RUSTLS_HINTS, thread.pid);
    if arguments.number == 0 {
        renewed(Key { pid: thread.pid, zero: 0, id: arguments.keys });
    }
    // `InboundOpaqueMessage` begins with its `&mut [u8]`.
    let Some(message) = read_user::<Iovec>(arguments.message) else {
        unlinked(thread.pid, TLS_RUSTLS);
        return 0;
    };
    // What is lost without it is counted at the return.
    let Some(worker) = worker_of(thread) else { return 0 };
    worker.keys = arguments.keys;
    worker.message = message.base;
    worker.message_bytes = message.length;
    worker.result = arguments.result;
    worker.stack = arguments.stack;
    0
}

/// `Result<InboundPlainMessage, Error>` in memory.
#[repr(C)]
#[derive(Clone, Copy)]
struct Inbound {
    /// In the first byte which error it is, or none.
    tag: u64,
    /// User address of the bytes.
    address: u64,
    /// How many.
    bytes: u64,
    /// Their type, in the first byte.
    kind: u64,
}

/// A record was encrypted or decrypted; `stack` is the stack pointer behind the return.
#[inline(never)]
pub fn returned(thread: &Thread, stack: u64) -> u32 {
    let Some(worker) = worker(thread) else {
        // It could not be made, or made room for another thread's.
        unlinked(thread.pid, TLS_RUSTLS);
        return 0;
    };
    let keys = worker.keys;
    if keys == 0 || stack <= worker.stack {
        return 0;
    }
    worker.keys = 0;
    if worker.message != 0 {
        return decrypted(thread, worker, Key { pid: thread.pid, zero: 0, id: keys });
    }
    // `Result<OutboundOpaqueMessage, Error>`: its `Vec` is a capacity, an address, and a length.
    let Some(record) = read_user::<u64>(worker.result.wrapping_add(16)) else {
        unlinked(thread.pid, TLS_RUSTLS);
        return 0;
    };
    if worker.unlinked != keys {
        worker.unlinked = keys;
        worker.record = record;
    }
    0
}

/// Tells what was decrypted.
#[inline(never)]
fn decrypted(thread: &Thread, worker: &Worker, keys: Key) -> u32 {
    let Some(plain) = read_user::<Inbound>(worker.result) else {
        unlinked(thread.pid, TLS_RUSTLS);
        return 0;
    };
    let (message, end) = (worker.message, worker.message.wrapping_add(worker.message_bytes));
    if plain.tag as u8 <= NO_ERROR
        || plain.address < message
        || plain.bytes > worker.message_bytes
        || plain.address.wrapping_add(plain.bytes) > end
    {
        return 0;
    }
    let mut known = carrier(keys);
    if known.is_none() {
        // Of a record that came in several pieces, the last one.
        let is_received = message < worker.from.wrapping_add(worker.bytes) && worker.from < end;
        let socket = conn::find(worker.socket).filter(|conn| conn.id == worker.conn_id);
        if let Some(conn) = socket
            && is_received
            && (lost(keys) == 0 || is_older(thread.pid, conn))
        {
            link(keys, worker.socket, worker.conn_id);
            known = carrier(keys);
            let carried = Carried { handle: keys.id, arrival_ns: worker.arrival_ns };
            // Keys before these may have left one.
            let _ = TLS_CARRIED.insert(worker.conn_id, carried, BPF_NOEXIST);
        }
    }
    if plain.kind as u8 != APPLICATION_DATA || plain.bytes == 0 {
        return 0;
    }
    let Some(carrier) = known else {
        wait(keys, 0, plain.bytes, 0);
        return 0;
    };
    let conn_id = carrier.id;
    let Some(clear) = tls::clear_text(carrier, thread.pid, u32::from(TLS_RUSTLS), u32::from(TLS_LINK_NESTED))
    else {
        return 0;
    };
    clear.arrival_ns = 0;
    let (direction, time_ns) = (u64::from(INGRESS), conn::now());
    let lost = lost_before(keys);
    if lost != 0 {
        tell(thread, clear, &Told { buffer: 0, bytes: lost, time_ns, direction });
    }
    if let Some(carried) = TLS_CARRIED.get_ptr_mut(conn_id) {
        // SAFETY: map values stay readable for the program's run.
        let carried = unsafe { &mut *carried };
        clear.arrival_ns = carried.arrival_ns;
        carried.arrival_ns = 0;
    }
    tell(thread, clear, &Told { buffer: plain.address, bytes: plain.bytes, time_ns, direction });
    clear.arrival_ns = 0;
    0
}

/// Bytes that were lost before the connection of these keys was known. Of one that is not older than the probes none may be: behind them an answer would be taken for
/// another request's.
#[inline(always)]
fn lost(keys: Key) -> u64 {
    // SAFETY: only read; a connection's records come one by one.
    unsafe { TLS_RUSTLS_PENDING.get(keys) }.map_or(0, |pending| pending.lost)
}

/// The same, once.
#[inline(never)]
fn lost_before(keys: Key) -> u64 {
    let lost = lost(keys);
    if lost != 0 {
        let _ = TLS_RUSTLS_PENDING.remove(keys);
    }
    lost
}

/// Whether a connection was there before the probes of its process.
#[inline(never)]
fn is_older(pid: u32, conn: &Conn) -> bool {
    process(pid, TLS_RUSTLS)
        .is_some_and(|process| conn.mid_join != 0 || conn_first_seen(conn.id) <= process.since_ns)
}

/// A socket moved bytes.
#[inline(never)]
pub fn moved(hit: &Hit, conn: &Conn) -> u32 {
    let buffer = &hit.call.buffer;
    if hit.direction == u64::from(INGRESS) {
        if let Some(carried) = TLS_CARRIED.get_ptr_mut(conn.id) {
            // SAFETY: map values stay readable for the program's run.
            let carried = unsafe { &mut *carried };
            if carried.arrival_ns == 0 || conn.carries != CARRIES {
                // Before the first clear text it may have been the handshake's.
                carried.arrival_ns = conn.arrival_ns;
            }
        }
        let Some(worker) = worker_of(&hit.thread) else { return 0 };
        worker.socket = hit.sock as u64;
        worker.conn_id = conn.id;
        worker.arrival_ns = conn.arrival_ns;
        worker.from = buffer.address;
        worker.bytes = hit.result as u64;
        if buffer.kind != BUFFER_SINGLE {
            // As a rule one piece, the library's buffer.
            let first = match buffer.kind {
                BUFFER_IOVECS => read_user::<Iovec>(buffer.address),
                _ => None,
            };
            let first = first.unwrap_or(Iovec { base: 0, length: 0 });
            worker.from = first.base;
            if first.length < worker.bytes {
                worker.bytes = first.length;
            }
        }
        return 0;
    }
    let Some(worker) = worker(&hit.thread) else { return 0 };
    if worker.unlinked == 0 {
        return 0;
    }
    let keys = Key { pid: hit.thread.pid, zero: 0, id: worker.unlinked };
    worker.unlinked = 0;
    let mut is_sent = buffer.kind == BUFFER_SINGLE && buffer.address == worker.record;
    if buffer.kind == BUFFER_IOVECS {
        let mut i = 0;
        while i < MAX_SENT {
            if i >= u64::from(buffer.count) {
                break;
            }
            let piece = read_user::<Iovec>(buffer.address.wrapping_add(i * size_of::<Iovec>() as u64));
            is_sent |= piece.is_some_and(|piece| piece.base == worker.record);
            i += 1;
        }
    }
    // Where a connection's handshake was seen, its other direction was linked within it. If not, what is received is copied, and only large records are sent
    // as they are: answers would be told without requests.
    // SAFETY: only asked whether it is there.
    let has_other = unsafe { TLS_CARRIED.get(conn.id) }.is_some();
    if !is_sent || !(is_older(keys.pid, conn) || has_other && lost(keys) == 0) {
        return forget_pending(keys.pid, keys.id);
    }
    link(keys, hit.sock as u64, conn.id);
    worker.linked = keys.id;
    0
}

/// Whether something is to be told behind a send: the hook's stack has no room for it, nor for an argument of this.
#[inline(never)]
pub fn is_due() -> u32 {
    let id = bpf_get_current_pid_tgid();
    let thread = Thread { pid: (id >> 32) as u32, tid: id as u32 };
    let is_hinted = TLS_RUSTLS_HINTS.get(target_hint(thread.pid)).is_some_and(|hint| *hint != 0);
    u32::from(is_hinted && worker(&thread).is_some_and(|worker| worker.linked != 0))
}

/// Tells it.
#[inline(always)]
pub fn sent(thread: &Thread) {
    let Some(worker) = worker(thread) else { return };
    let keys = Key { pid: thread.pid, zero: 0, id: worker.linked };
    worker.linked = 0;
    if let Some(carrier) = carrier(keys) {
        tell_pending(thread, keys, carrier);
    }
}
