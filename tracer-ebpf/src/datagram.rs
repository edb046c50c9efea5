//! Datagrams: each is one record, with its peer and its number. No turn, no position, no sum, no verdict.
//!
//! Told are those with a wanted port at either end (`UDP_PORTS`). The socket's state counts them by direction; two threads that send on
//! one socket at once may give one number twice, never skip one.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::{
    bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_loop, bpf_probe_read_user,
};
use tracer_ebpf::{
    CLOSE_REPLACED, Conn, Datagram, EXIT_ATTACHED, EXIT_WANTED, FLAG_CUT, FLAG_EGRESS, FLAG_FAULT,
    FLAG_NO_BUFFER, FLAG_OVERLOAD, INGRESS, KIND_DATAGRAM, MAX_DATAGRAM_PAYLOAD, ROLE_UNKNOWN, Stat, Tuple,
};

use crate::{
    capture::{
        self, BUFFER_IOVECS, BUFFER_MESSAGES, BUFFER_NONE, Buffer, NO_PAYLOAD, RESERVED, no_buffer, pressure,
        refuse, reread, reserve,
    },
    conn::{self, Birth},
    filter::{wants_datagrams, wants_ports},
    gather::Iovec,
    maps::{DATAGRAM_EXIT, OWNERS, TARGETS, VECTORS},
    memory::{Memory, copy_words, forget, hide, opaque, read_user},
    probes::{
        call::{
            self, MMSGHDR_BYTES, MMSGHDR_LENGTH, MSG_ERRQUEUE, MSG_PEEK, MSG_TRUNC, MessageHeader, NAMES,
            ONE_OF_MANY,
        },
        hit::Hit,
    },
    socket,
    stats::{count, count_more},
};

/// Most messages of one recvmmsg, the kernel's own bound (`UIO_MAXIOV`, include/uapi/linux/uio.h): beside the socket tracepoints all are told.
pub const MAX_MESSAGES: u32 = 1024;
/// Most messages of one recvmmsg or sendmmsg that are told with the hooks on system calls: glibc sends 2 at once. Those behind them count as
/// lost (`datagram_vector`). Kernel 5.10 has no `bpf_loop` and walks over a million instructions for 20.
pub const MAX_MESSAGES_OF_CALL: u32 = 6;

/// Most pieces of a datagram that are put together.
const MAX_PIECES: u32 = 4;
/// Most bytes of a datagram in pieces that are copied; one less than a power of two.
const MAX_GATHERED: u64 = 4095;

/// A vector of messages that a thread is sending.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Vector {
    /// User address of the vector.
    address: u64,
    /// Messages in it.
    count: u32,
    /// Place of the message that is sent next.
    next: u32,
}

/// Whether `datagram_exit` is attached, and tells what it is there for.
#[inline(always)]
pub fn is_exit_attached() -> bool {
    DATAGRAM_EXIT.get(EXIT_ATTACHED).is_some_and(|attached| *attached != 0)
}

/// A target has a socket that `datagram_exit` is there for.
#[inline(always)]
fn want_exit() {
    if let Some(wanted) = DATAGRAM_EXIT.get_ptr_mut(EXIT_WANTED) {
        // SAFETY: a word of the map's own; whoever writes writes 1.
        unsafe { wanted.write_volatile(1) };
    }
}

/// Whether only the exit of a receive tells all of it: who sent, or which messages of a vector.
#[inline(always)]
pub fn is_told_at_exit<M: Memory>(sock: *const u8, name: u64) -> bool {
    name == NAMES || (name != 0 && socket::ports::<M>(sock).1 == 0)
}

/// A hook that knows the socket met a datagram that is sent.
#[inline(always)]
pub fn sent<M: Memory>(hit: &mut Hit) {
    // Not from there: the two would not fit into the stack.
    if hit.call.name == ONE_OF_MANY && one_of_many::<M>(hit) == 0 {
        return;
    }
    self::hit::<M>(hit);
}

/// A hook that knows the socket, but runs before the call has told the peer, met a datagram that is received.
#[inline(always)]
pub fn received<M: Memory>(hit: &Hit) {
    if is_told_at_exit::<M>(hit.sock, hit.call.name) {
        left_to_exit::<M>(hit);
    } else {
        self::hit::<M>(hit);
    }
}

/// A receive that `datagram_exit` tells. Before user space has attached it, the datagram is lost: it has its number, and is counted. (A call in
/// progress while it is being attached may be counted here and told there.)
#[inline(never)]
fn left_to_exit<M: Memory>(hit: &Hit) -> u32 {
    if hit.result <= 0 || hit.call.flags & (MSG_ERRQUEUE | MSG_PEEK) != 0 {
        return 0;
    }
    let (local, remote) = socket::ports::<M>(hit.sock);
    if !(wants_datagrams(local) || wants_datagrams(remote)) {
        // One that asks wanted ports is known by what it asked.
        if conn::find(hit.sock as u64).is_none_or(|conn| conn.datagrams == 0) {
            count(Stat::OtherSocket);
            return 0;
        }
    }
    want_exit();
    if is_exit_attached() || !wants_ports(local, remote) {
        return 0;
    }
    let tuple = socket::tuple::<M>(hit.sock);
    let Some(conn) = lookup::<M>(hit, &tuple) else { return 0 };
    conn.position[INGRESS as usize] += 1;
    capture::refuse(conn, Stat::DatagramUnnamed);
    0
}

/// One message of a vector that is being sent: which one, the thread's last hits say. That its pieces hold as many bytes as were sent confirms it;
/// one that does not fit is told without bytes, or, if its peer is not known either, not at all. 0: not wanted.
#[inline(never)]
fn one_of_many<M: Memory>(hit: &mut Hit) -> u32 {
    let (local, remote) = socket::ports::<M>(hit.sock);
    if remote != 0 && !(wants_datagrams(local) || wants_datagrams(remote)) {
        count(Stat::OtherSocket);
        return 0;
    }
    let Buffer { address, count: n, .. } = hit.call.buffer;
    let message = address + u64::from(place_in_vector(hit.thread.tid, address, n)) * MMSGHDR_BYTES;
    let (buffer, name) = call::message(message);
    let is_whole = length(&buffer) == hit.result as u64;
    hit.call.buffer = if is_whole { buffer } else { no_buffer(Stat::NoBufferVector) };
    hit.call.name = if is_whole { name } else { 0 };
    1
}

/// The place of the message that a thread sends now, and the next one's noted.
#[inline(always)]
fn place_in_vector(tid: u32, address: u64, count: u32) -> u32 {
    if let Some(vector) = VECTORS.get_ptr_mut(tid) {
        // SAFETY: only this thread touches the entry.
        let vector = unsafe { &mut *vector };
        if vector.address == address && vector.count == count && vector.next < count {
            let place = vector.next;
            vector.next = place + 1;
            return place;
        }
    }
    let _ = VECTORS.insert(tid, Vector { address, count, next: 1 }, 0);
    0
}

/// Bytes in the first pieces of a message.
#[inline(always)]
fn length(buffer: &Buffer) -> u64 {
    let mut sum = 0;
    let mut i = 0;
    while i < MAX_PIECES {
        if buffer.kind != BUFFER_IOVECS || i >= buffer.count {
            break;
        }
        match read_user::<Iovec>(buffer.address + u64::from(i) * size_of::<Iovec>() as u64) {
            Some(piece) => sum += piece.length,
            None => break,
        }
        i += 1;
    }
    sum
}

/// What a datagram is, beside its socket.
struct One {
    bytes: u64,
    /// User address of the bytes; 0 = not readable.
    address: u64,
    /// Bytes there: fewer than the datagram has where its one piece is shorter.
    there: u64,
    /// Not 0: it stands in so many pieces, whose iovecs are at `address`.
    pieces: u32,
    netns: u32,
    /// Flags of the record.
    flags: u32,
    tuple: Tuple,
    /// The socket has a peer of its own: 0 = it has not.
    connected: u32,
}

/// One return of a call that moved a datagram.
#[inline(never)]
pub fn hit<M: Memory>(hit: &Hit) -> u32 {
    let flags = hit.call.flags;
    if hit.result <= 0 || flags & MSG_ERRQUEUE != 0 || hit.call.buffer.kind == BUFFER_MESSAGES {
        return 0;
    }
    let (local, remote) = socket::ports::<M>(hit.sock);
    if remote != 0 && !(wants_datagrams(local) || wants_datagrams(remote)) {
        // A name given to a send could still say otherwise; nobody sends to others from a socket with a peer.
        count(Stat::OtherSocket);
        return 0;
    }
    let receives = hit.direction == u64::from(INGRESS);
    if receives && flags & MSG_PEEK != 0 {
        count(Stat::Peeked);
        return 0;
    }
    let mut one = One {
        bytes: hit.result as u64,
        address: 0,
        there: 0,
        pieces: 0,
        netns: socket::netns::<M>(hit.sock),
        flags: if receives { 0 } else { u32::from(FLAG_EGRESS) },
        tuple: socket::tuple::<M>(hit.sock),
        connected: u32::from(remote != 0),
    };
    let connected = remote != 0;
    let name = hit.call.name;
    // A name given to a send goes before the socket's own peer.
    if name != 0 && !(receives && connected) {
        socket::peer_of_name(&mut one.tuple, name);
    }
    if receives && flags & MSG_TRUNC != 0 {
        count(Stat::Truncated);
    } else {
        place(&mut one, &hit.call.buffer);
    }
    // SAFETY: plain integers.
    unsafe { forget(&mut one) };
    tell::<M>(hit, &one);
    0
}

/// Finds the bytes of a single message.
#[inline(always)]
fn place(one: &mut One, buffer: &Buffer) {
    if buffer.kind == BUFFER_NONE {
        return;
    }
    one.address = buffer.address;
    one.there = one.bytes;
    if buffer.kind == BUFFER_IOVECS {
        pieces(one, buffer.address, u64::from(buffer.count));
    }
}

/// The pieces in which a datagram stands; nearly all programs use one.
#[inline(always)]
fn pieces(one: &mut One, iovecs: u64, n: u64) {
    one.pieces = 0;
    match read_user::<Iovec>(iovecs) {
        Some(iovec) if iovec.length >= one.bytes || n < 2 => {
            one.address = iovec.base;
            one.there = if iovec.length < one.bytes { iovec.length } else { one.bytes };
        }
        Some(_) => {
            one.address = iovecs;
            one.there = one.bytes;
            one.pieces = if n > u64::from(MAX_PIECES) { MAX_PIECES } else { n as u32 };
        }
        None => {
            one.address = 0;
            count(Stat::PayloadFault);
        }
    }
}

/// A vector of messages while it is walked.
struct Walk {
    one: One,
    /// The socket's state.
    conn: *mut Conn,
    /// User address of the vector.
    address: u64,
    direction: u64,
    /// Messages that could not be read.
    missed: u64,
    /// Not 0: messages have no names, or names that say nothing.
    nameless: u64,
}

/// One return of a call that moved a vector of messages, whose lengths stand in user memory by now. `MOST` of them are told, in a loop of
/// the verifier's (which walks each turn) or, `LOOP`, of the helper's `bpf_loop` (5.17), which it walks once.
#[inline(always)]
pub fn vector<M: Memory, const MOST: u32, const LOOP: bool>(hit: &Hit) -> u32 {
    if hit.result <= 0 || hit.call.flags & MSG_ERRQUEUE != 0 {
        return 0;
    }
    if hit.direction == u64::from(INGRESS) && hit.call.flags & MSG_PEEK != 0 {
        count(Stat::Peeked);
        return 0;
    }
    // Two functions, one behind the other: their frames do not add up (512 bytes for a chain of calls).
    match socket_of_vector::<M>(hit) {
        Some(conn) => walk::<M, MOST, LOOP>(hit, conn),
        None => {
            count(Stat::OtherSocket);
            0
        }
    }
}

/// The socket of a vector of messages, once, by the first of them: a lookup is a third of what the verifier walks for one. `None`: not wanted.
#[inline(never)]
fn socket_of_vector<M: Memory>(hit: &Hit) -> Option<&'static mut Conn> {
    let connected = socket::ports::<M>(hit.sock).1 != 0;
    let mut tuple = socket::tuple::<M>(hit.sock);
    if !(hit.direction == u64::from(INGRESS) && connected)
        && let Some(first) = read_user::<MessageHeader>(hit.call.buffer.address)
        && first.name != 0
    {
        socket::peer_of_name(&mut tuple, first.name);
    }
    if is_wanted(&tuple) {
        lookup::<M>(hit, &tuple)
    } else {
        conn::find(hit.sock as u64).filter(|conn| conn.datagrams != 0)
    }
}

/// What all messages of a vector have in common.
#[inline(never)]
fn begin<M: Memory>(hit: &Hit, walk: &mut Walk) -> u32 {
    let receives = hit.direction == u64::from(INGRESS);
    let connected = socket::ports::<M>(hit.sock).1 != 0;
    if !connected {
        want_exit();
    }
    walk.one.netns = socket::netns::<M>(hit.sock);
    walk.one.flags = if receives { 0 } else { u32::from(FLAG_EGRESS) };
    walk.one.tuple = socket::tuple::<M>(hit.sock);
    walk.one.connected = u32::from(connected);
    walk.nameless = u64::from(receives && connected);
    0
}

/// Walks a vector of messages.
#[inline(never)]
fn walk<M: Memory, const MOST: u32, const LOOP: bool>(hit: &Hit, conn: &'static mut Conn) -> u32 {
    let mut walk = Walk {
        one: One {
            bytes: 0,
            address: 0,
            there: 0,
            pieces: 0,
            netns: 0,
            flags: 0,
            tuple: Tuple::default(),
            connected: 0,
        },
        conn,
        address: hit.call.buffer.address,
        direction: hit.direction,
        missed: 0,
        nameless: 0,
    };
    begin::<M>(hit, &mut walk);
    let n = hit.call.buffer.count;
    if LOOP {
        // SAFETY: `message` takes an index and the context that is handed over here, which outlives the call.
        unsafe {
            bpf_loop(if n < MOST { n } else { MOST }, message as *mut c_void, (&raw mut walk).cast(), 0);
        }
    } else {
        let mut i = 0;
        while i < MOST {
            if i >= n {
                break;
            }
            walk_message(&mut walk, u64::from(i));
            // SAFETY: a plain integer.
            unsafe { forget(&mut walk.missed) };
            i += 1;
        }
    }
    // Those that could not be read, and those behind the most that are.
    let missed = walk.missed + u64::from(n.saturating_sub(MOST));
    if missed != 0 {
        // SAFETY: map values stay readable for the program's run.
        let conn = unsafe { &mut *walk.conn };
        conn.position[(walk.direction & 1) as usize] += missed;
        count_more(Stat::DatagramVector, missed);
    }
    0
}

/// [`walk_message`] as `bpf_loop` calls it; 0 = go on.
///
/// # Safety
/// `walk` is the context that [`vector`] handed over.
unsafe extern "C" fn message(index: u64, walk: *mut Walk) -> i64 {
    // SAFETY: the caller's.
    walk_message(unsafe { &mut *walk }, index);
    0
}

/// Tells a message of a vector.
#[inline(always)]
fn walk_message(walk: &mut Walk, index: u64) {
    let message = walk.address + index * MMSGHDR_BYTES;
    let Some(header) = read_user::<MessageHeader>(message) else {
        walk.missed += 1;
        return;
    };
    let one = &mut walk.one;
    one.bytes = u64::from(read_user::<u32>(message + MMSGHDR_LENGTH).unwrap_or(0));
    if header.name != 0 && walk.nameless == 0 {
        socket::peer_of_name(&mut one.tuple, header.name);
    }
    pieces(one, header.iovecs, header.n_iovecs);
    // SAFETY: plain integers.
    unsafe { forget(one) };
    if is_wanted(&one.tuple) {
        // SAFETY: map values stay readable for the program's run.
        send_numbered(unsafe { &mut *walk.conn }, one, walk.direction);
    } else {
        count(Stat::OtherSocket);
    }
}

/// Finds the socket of a datagram, and tells it.
#[inline(always)]
fn tell<M: Memory>(hit: &Hit, one: &One) -> u32 {
    if !is_wanted(&one.tuple) {
        count(Stat::OtherSocket);
        return 0;
    }
    if one.connected == 0 {
        // Its answers come from whom they like.
        want_exit();
    }
    let Some(conn) = lookup::<M>(hit, &one.tuple) else { return 0 };
    send_numbered(conn, one, hit.direction)
}

/// Whether datagrams between these ends are told.
#[inline(always)]
fn is_wanted(tuple: &Tuple) -> bool {
    let (local, remote) = (tuple.local_port, tuple.remote_port);
    (wants_datagrams(local) || wants_datagrams(remote)) && wants_ports(local, remote)
}

/// Numbers a datagram of a socket and sends its record.
#[inline(never)]
fn send_numbered(conn: &mut Conn, one: &One, direction: u64) -> u32 {
    let direction = (direction & 1) as usize;
    let number = conn.position[direction];
    conn.position[direction] = number + 1;
    let (pressure, wake) = pressure();
    if pressure >= RESERVED {
        count(Stat::EventsAttempted);
        refuse(conn, Stat::RefusedData);
        return 0;
    }
    let mut flags = one.flags;
    let mut wanted =
        if one.there > u64::from(MAX_DATAGRAM_PAYLOAD) { u64::from(MAX_DATAGRAM_PAYLOAD) } else { one.there };
    if one.address == 0 {
        flags |= u32::from(FLAG_NO_BUFFER);
        wanted = 0;
    } else if pressure >= NO_PAYLOAD {
        count(Stat::OverloadPayload);
        flags |= u32::from(FLAG_OVERLOAD);
        wanted = 0;
    } else if wanted < one.bytes {
        count(if one.there < one.bytes { Stat::IovecsCut } else { Stat::PayloadCut });
        flags |= u32::from(FLAG_CUT);
    }
    let time_ns = conn::now();
    let part = Part { time_ns, number, wake, wanted: hide(wanted, time_ns), flags };
    if one.pieces != 0 && wanted != 0 {
        send_pieces(conn, one, &part)
    } else if wanted <= 512 {
        send::<512>(conn, one, &part)
    } else {
        send::<4096>(conn, one, &part)
    }
}

/// What is decided about a record.
struct Part {
    time_ns: u64,
    number: u64,
    /// Flag of the submit.
    wake: u64,
    /// Bytes to copy.
    wanted: u64,
    /// `FLAG_*`.
    flags: u32,
}

/// A record with room for `N` bytes of payload.
#[repr(C)]
struct Record<const N: usize> {
    datagram: Datagram,
    payload: [u8; N],
}

/// Writes all of a record but its length, flags and payload.
///
/// # Safety
/// `datagram` is in a reservation of the ring; each field is written once, by itself (volatile: the compiler would gather neighbours into
/// a copy on the stack).
#[inline(always)]
unsafe fn fill(datagram: *mut Datagram, conn: &Conn, one: &One, part: &Part) {
    // SAFETY: the caller's.
    unsafe {
        (&raw mut (*datagram).header.time_ns).write_volatile(part.time_ns);
        (&raw mut (*datagram).header.kind).write_volatile(KIND_DATAGRAM);
        (&raw mut (*datagram).conn_id).write_volatile(conn.id);
        (&raw mut (*datagram).number).write_volatile(part.number);
        copy_words(&raw mut (*datagram).tuple, &raw const one.tuple);
        (&raw mut (*datagram).bytes).write_volatile(one.bytes as u32);
        let thread = bpf_get_current_pid_tgid();
        (&raw mut (*datagram).pid).write_volatile((thread >> 32) as u32);
        (&raw mut (*datagram).tid).write_volatile(thread as u32);
        (&raw mut (*datagram).netns).write_volatile(one.netns);
        (&raw mut (*datagram).reserved).write_volatile(0);
        // By the helper, and all of these into their places: the stack is full (kernel 6.12 has 512 bytes for a whole chain of calls).
        let _ = bpf_get_current_comm((&raw mut (*datagram).comm).cast::<c_void>(), 16);
    }
}

/// Builds a record of a datagram in pieces, of up to [`MAX_GATHERED`] bytes.
#[inline(never)]
fn send_pieces(conn: &mut Conn, one: &One, part: &Part) -> u32 {
    // Twice the room: the verifier bounds offset and length apart, not their sum.
    let Some(mut entry) = reserve::<Record<{ 2 * (MAX_GATHERED as usize + 1) }>>(conn) else { return 0 };
    let record = entry.as_mut_ptr();
    let mut flags = part.flags;
    let mut wanted = part.wanted;
    if wanted > MAX_GATHERED {
        wanted = MAX_GATHERED;
        count(Stat::PayloadCut);
        flags |= u32::from(FLAG_CUT);
    }
    // SAFETY: all of it is in a reservation of the ring.
    unsafe {
        let datagram = &raw mut (*record).datagram;
        fill(datagram, conn, one, part);
        let payload = (&raw mut (*record).payload).cast::<u8>();
        let captured = &raw mut (*datagram).captured;
        captured.write_volatile(0);
        let mut i = 0;
        while i < MAX_PIECES {
            if i >= one.pieces {
                break;
            }
            let filled = reread(captured);
            let Some(piece) = read_user::<Iovec>(one.address + u64::from(i) * size_of::<Iovec>() as u64)
            else {
                flags |= u32::from(FLAG_FAULT);
                break;
            };
            i += 1;
            let left = wanted - filled;
            let n = if piece.length < left { piece.length } else { left };
            // Neither mask changes a value: both are at most `wanted`.
            let (at, length) = (opaque(filled) & MAX_GATHERED, opaque(n) & MAX_GATHERED);
            if bpf_probe_read_user(
                payload.add(at as usize).cast::<c_void>(),
                length as u32,
                piece.base as *const c_void,
            ) != 0
            {
                count(Stat::PayloadFault);
                flags |= u32::from(FLAG_FAULT);
                break;
            }
            captured.write_volatile((at + length) as u32);
        }
        if u64::from(captured.read_volatile()) < wanted && flags & u32::from(FLAG_CUT | FLAG_FAULT) == 0 {
            count(Stat::IovecsCut);
            flags |= u32::from(FLAG_CUT);
        }
        (&raw mut (*datagram).header.flags).write_volatile(flags as u16);
        (&raw mut (*datagram).header.length)
            .write_volatile(size_of::<Datagram>() as u32 + captured.read_volatile());
    }
    entry.submit(part.wake);
    1
}

/// Builds a record in the ring's own memory.
#[inline(never)]
fn send<const N: usize>(conn: &mut Conn, one: &One, part: &Part) -> u32 {
    let Some(mut entry) = reserve::<Record<N>>(conn) else { return 0 };
    let record = entry.as_mut_ptr();
    // SAFETY: `record` is a reservation of the ring; each field is written once, by itself (volatile: the compiler would gather
    // neighbours into a copy on the stack).
    unsafe {
        let datagram = &raw mut (*record).datagram;
        fill(datagram, conn, one, part);
        let captured = &raw mut (*datagram).captured;
        captured.write_volatile(part.wanted as u32);
        let n = reread(captured);
        let n = if n > N as u64 { N as u64 } else { n };
        let mut flags = part.flags;
        if n != 0
            && bpf_probe_read_user(
                (&raw mut (*record).payload).cast::<c_void>(),
                n as u32,
                one.address as *const c_void,
            ) != 0
        {
            count(Stat::PayloadFault);
            captured.write_volatile(0);
            flags |= u32::from(FLAG_FAULT);
        }
        (&raw mut (*datagram).header.flags).write_volatile(flags as u16);
        (&raw mut (*datagram).header.length)
            .write_volatile(size_of::<Datagram>() as u32 + captured.read_volatile());
    }
    entry.submit(part.wake);
    1
}

/// The state of the socket, created if need be.
#[inline(never)]
fn lookup<M: Memory>(hit: &Hit, tuple: &Tuple) -> Option<&'static mut Conn> {
    let key = hit.sock as u64;
    let inode = socket::inode::<M>(hit.sock);
    if let Some(conn) = conn::find(key) {
        // UDP sockets die without a hook, as Unix ones do: the inode tells whether the memory still belongs to the same one.
        if conn.datagrams != 0 && (conn.inode == inode || inode == 0) {
            return Some(conn);
        }
        conn::end(key, conn, CLOSE_REPLACED);
    }
    let birth =
        Birth { pid: hit.thread.pid, netns: 0, role: ROLE_UNKNOWN, from_start: false, established_ns: 0 };
    let conn = conn::create(key, tuple, &birth)?;
    conn.datagrams = 1;
    conn.opened = 1;
    conn.inode = inode;
    // SAFETY: only asked whether the key is there.
    if unsafe { TARGETS.get(hit.thread.pid) }.is_none() {
        let _ = OWNERS.insert(hit.thread.pid, 1, 0);
    }
    Some(conn)
}
