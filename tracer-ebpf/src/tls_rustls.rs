//! rustls: which connection on the wire a set of its keys is of, and their clear text.
//!
//! rustls works on buffers: no socket is moved within its calls, and its connections are moved in memory. What stays where it is, and is never
//! another's while it lives, is the object that holds the keys of one direction (`Box<dyn MessageEncrypter>`, `Box<dyn MessageDecrypter>`). All records pass
//! it, each once and in order, with a number that begins at 0 for new keys; and calls through a table are never compiled into their callers.
//!
//! It is linked by the memory that records lie in. A record that is decrypted lies where the thread has just received: those bytes are the connection's. A
//! record that was encrypted lies where what is sent next, or one of its first pieces, begins: that send is the connection's. Both are certain. Where a
//! program copies records on their way between its sockets and the library, nothing is linked, and what was said is counted (`tls_unlinked`).

use tracer_ebpf::{
    CARRIES, Conn, EGRESS, INGRESS, Stat, TLS_LINK_NESTED, TLS_RUSTLS, TlsProcess, conn_first_seen,
    target_hint,
};

use crate::{
    capture::{BUFFER_IOVECS, BUFFER_SINGLE},
    conn,
    filter::Thread,
    gather::Iovec,
    maps::{
        TLS_CARRIED, TLS_HANDLES, TLS_PROCESSES, TLS_RUSTLS_HINTS, TLS_RUSTLS_PENDING, TLS_RUSTLS_THREADS,
    },
    memory::{read_user, zero},
    probes::hit::Hit,
    stats::count,
    tls::{self, Handle, Key, Told},
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
}

/// Pieces of what waits: a head and a body are two, however many records they take.
const MAX_WAITING: usize = 6;

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

/// Counts bytes whose connection is not known. Before all probes of a process are there, it is nothing that was missed.
#[inline(always)]
fn unlinked(pid: u32) {
    // SAFETY: only read; user space writes whole values.
    let process: Option<&TlsProcess> = unsafe { TLS_PROCESSES.get(pid) };
    if process.is_some_and(|process| process.libraries >> TLS_RUSTLS & 1 != 0) {
        count(Stat::TlsUnlinked);
    }
}

/// Has the hooks of sockets ask for the thread.
#[inline(always)]
fn hint(pid: u32) {
    if let Some(hint) = TLS_RUSTLS_HINTS.get_ptr_mut(target_hint(pid)) {
        // SAFETY: an aligned word of the map; whoever writes it writes 1.
        unsafe { hint.write_volatile(1) };
    }
}

/// The connection that keys are linked with, if it lives.
#[inline(always)]
fn carrier(keys: Key) -> Option<&'static mut Conn> {
    // SAFETY: only read; whoever writes writes whole values.
    let linked = unsafe { TLS_HANDLES.get(keys) }?;
    let conn_id = linked.conn_id;
    conn::find(linked.socket).filter(|conn| conn.id == conn_id)
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

/// A record is about to be encrypted.
#[inline(never)]
pub fn encrypts(thread: &Thread, arguments: &Arguments) -> u32 {
    hint(thread.pid);
    let keys = Key { pid: thread.pid, zero: 0, id: arguments.keys };
    if arguments.number == 0 {
        renewed(keys);
    }
    let Some(message) = read_user::<Outbound>(arguments.message) else {
        unlinked(thread.pid);
        return 0;
    };
    let Some(worker) = worker_of(thread) else { return 0 };
    if worker.unlinked != 0 && worker.unlinked != arguments.keys {
        forget_pending(thread.pid, worker.unlinked);
        worker.unlinked = 0;
    }
    let carrier = carrier(keys);
    worker.keys = 0;
    if carrier.is_none() {
        worker.keys = arguments.keys;
        worker.message = 0;
        worker.result = arguments.result;
        worker.stack = arguments.stack;
    }
    if message.kind as u8 != APPLICATION_DATA {
        return 0;
    }
    said(thread, keys, carrier, &message)
}

/// Tells a record's bytes, or has them wait.
#[inline(never)]
fn said(thread: &Thread, keys: Key, carrier: Option<&'static mut Conn>, message: &Outbound) -> u32 {
    let (begin, end) = match message.pieces {
        0 => (0, message.begin),
        _ => (message.begin, message.end),
    };
    let bytes = end.wrapping_sub(begin);
    if bytes == 0 || bytes > MAX_RECORD {
        return 0;
    }
    let clear = match carrier {
        None => None,
        Some(carrier) => {
            match tls::clear_text(carrier, thread.pid, u32::from(TLS_RUSTLS), u32::from(TLS_LINK_NESTED)) {
                None => return 0,
                clear => clear,
            }
        }
    };
    let mut sink = Sink { clear, keys, time_ns: conn::now() };
    if message.pieces == 0 {
        sink.take(thread, message.n_or_address, bytes);
        return 0;
    }
    // Where in the pieces the one that is looked at begins.
    let mut at = 0;
    let mut left = bytes;
    let mut i = 0;
    while i < MAX_PIECES {
        if i >= message.n_or_address || left == 0 {
            break;
        }
        let Some(piece) = read_user::<Iovec>(message.pieces.wrapping_add(i * size_of::<Iovec>() as u64))
        else {
            break;
        };
        let from = if begin > at { begin - at } else { 0 };
        at += piece.length;
        if from < piece.length {
            let room = piece.length - from;
            let bytes = if room < left { room } else { left };
            sink.take(thread, piece.base.wrapping_add(from), bytes);
            left -= bytes;
        }
        i += 1;
    }
    if left != 0 {
        count(Stat::IovecsCut);
        sink.take(thread, 0, left);
    }
    0
}

/// Where a record's bytes go.
struct Sink {
    /// The clear text's connection; `None`: it is not known.
    clear: Option<&'static mut Conn>,
    keys: Key,
    time_ns: u64,
}

impl Sink {
    /// Takes a piece; `address` 0: what it says is not known.
    #[inline(always)]
    fn take(&mut self, thread: &Thread, address: u64, bytes: u64) {
        match &mut self.clear {
            Some(clear) => {
                let told =
                    Told { buffer: address, bytes, time_ns: self.time_ns, direction: u64::from(EGRESS) };
                tell(thread, clear, &told);
            }
            None => {
                wait(self.keys, address, bytes, self.time_ns);
            }
        }
    }
}

/// Tells a piece.
#[inline(never)]
fn tell(thread: &Thread, clear: &mut Conn, told: &Told) -> u32 {
    tls::tell(thread, clear, told);
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
        unlinked(keys.pid);
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
            unlinked(keys.pid);
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
        unlinked(pid);
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
fn tell_pending(thread: &Thread, keys: Key, carrier: &mut Conn, direction: u64) -> u32 {
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
            unlinked(thread.pid);
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
    hint(thread.pid);
    if arguments.number == 0 {
        renewed(Key { pid: thread.pid, zero: 0, id: arguments.keys });
    }
    // `InboundOpaqueMessage` begins with its `&mut [u8]`.
    let Some(message) = read_user::<Iovec>(arguments.message) else {
        unlinked(thread.pid);
        return 0;
    };
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
    let Some(worker) = worker(thread) else { return 0 };
    let keys = worker.keys;
    if keys == 0 || stack <= worker.stack {
        return 0;
    }
    worker.keys = 0;
    if worker.message != 0 {
        return decrypted(thread, worker, Key { pid: thread.pid, zero: 0, id: keys });
    }
    // `Result<OutboundOpaqueMessage, Error>`: its `Vec` is a capacity, an address, and a length.
    let Some(record) = read_user::<u64>(worker.result.wrapping_add(16)) else { return 0 };
    if worker.unlinked != keys {
        worker.unlinked = keys;
        worker.record = record;
    }
    0
}

/// Tells what was decrypted.
#[inline(never)]
fn decrypted(thread: &Thread, worker: &Worker, keys: Key) -> u32 {
    let Some(plain) = read_user::<Inbound>(worker.result) else { return 0 };
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
        if worker.socket != 0 && is_received {
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
    tell_pending(thread, keys, carrier, u64::from(INGRESS));
    let Some(clear) =
        tls::clear_text(carrier, thread.pid, u32::from(TLS_RUSTLS), u32::from(TLS_LINK_NESTED))
    else {
        return 0;
    };
    clear.arrival_ns = 0;
    if let Some(carried) = TLS_CARRIED.get_ptr_mut(conn_id) {
        // SAFETY: map values stay readable for the program's run.
        let carried = unsafe { &mut *carried };
        clear.arrival_ns = carried.arrival_ns;
        carried.arrival_ns = 0;
    }
    let told = Told {
        buffer: plain.address,
        bytes: plain.bytes,
        time_ns: conn::now(),
        direction: u64::from(INGRESS),
    };
    tell(thread, clear, &told);
    clear.arrival_ns = 0;
    0
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
    if !is_sent {
        return forget_pending(keys.pid, keys.id);
    }
    link(keys, hit.sock as u64, conn.id);
    let Some(carrier) = carrier(keys) else { return 0 };
    tell_pending(&hit.thread, keys, carrier, u64::from(EGRESS))
}
