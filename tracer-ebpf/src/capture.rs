//! From bytes moved to records: turn, verdict, budget, sums, and the copy into the ring.
//!
//! Records are built in the ring's own memory: no scratch slot that another probe on the same CPU could overwrite.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_probe_read_user;
use tracer_ebpf::{
    ANATOMY_NONE, CLOSE_NORMAL, CLOSE_RESET, Conn, ConnClose, ConnOpen, ConnShut, Data, EGRESS, FAMILY_UNIX,
    FLAG_CUT, FLAG_EGRESS, FLAG_EOF, FLAG_ERROR, FLAG_FAULT, FLAG_JUMP, FLAG_MID_JOIN, FLAG_NO_BUFFER,
    FLAG_OVERLOAD, FLAG_SUMMED, FLAG_TURN_START, FLAG_UNSEEN, Header, INGRESS, KIND_CONN_CLOSE,
    KIND_CONN_OPEN, KIND_CONN_SHUT, KIND_DATA, KIND_TLS_OPEN, MAX_PAYLOAD_PER_CALL, MAX_UNIX_PATH,
    ROLE_CLIENT, ROLE_SERVER, Stat, TlsOpen, VERDICT_EVERYTHING, VERDICT_HEADS, VERDICT_NOTHING,
    conn_first_seen,
};

use crate::{
    conn,
    filter::Thread,
    gather,
    maps::EVENTS,
    memory::{copy_words, hide, zero},
    settings::setting,
    socket,
    stats::count,
    threads,
};

/// Where the bytes of a call are.
#[derive(Clone, Copy)]
pub struct Buffer {
    /// `BUFFER_*`.
    pub kind: u32,
    /// Number of iovecs, or of messages.
    pub count: u32,
    /// User address of the bytes, of the iovecs, or of the messages.
    pub address: u64,
}

/// Not readable: lengths only.
pub const BUFFER_NONE: u32 = 0;
/// One buffer.
pub const BUFFER_SINGLE: u32 = 1;
/// An array of `struct iovec`.
pub const BUFFER_IOVECS: u32 = 2;
/// An array of `struct mmsghdr` whose lengths are known (the call has returned).
pub const BUFFER_MESSAGES: u32 = 3;

/// Bytes moved by one call on one socket.
pub struct Moved {
    /// By whom.
    pub thread: Thread,
    /// The thread's name.
    pub comm: [u64; 2],
    /// Exit of the call, boot ns.
    pub time_ns: u64,
    /// Bytes.
    pub bytes: u64,
    /// TCP: sequence number behind the last byte. Not used for Unix sockets.
    pub end: u32,
    /// TCP, egress: sequence number behind the last byte that the process has consumed of the other direction.
    pub consumed: u32,
    /// [`INGRESS`] or [`EGRESS`].
    pub direction: u8,
    /// Bit 0: whether `end` counts.
    pub has_sequence: u8,
    /// As [`Data::goroutine`].
    pub goroutine: u32,
    /// Where the bytes are.
    pub buffer: Buffer,
}

/// From 75 % fill: payload is left out.
pub const NO_PAYLOAD: u64 = 1;
/// From 87.5 %: continuations of a turn are summed.
pub const HEADS_ONLY: u64 = 2;
/// The last 6.25 %: kept for opens and closes.
pub const RESERVED: u64 = 3;

/// `BPF_RB_AVAIL_DATA` (include/uapi/linux/bpf.h).
const BPF_RB_AVAIL_DATA: u64 = 0;
/// Do not wake the reader: it polls.
pub const BPF_RB_NO_WAKEUP: u64 = 1;
/// Wake the reader now.
const BPF_RB_FORCE_WAKEUP: u64 = 2;

/// How full the ring is (0, or one of the steps above), and the flag with which a record is to be submitted.
#[inline(always)]
pub fn pressure() -> (u64, u64) {
    let unread = EVENTS.query(BPF_RB_AVAIL_DATA);
    let size = u64::from(setting!(ring_bytes));
    let wake = if unread >= u64::from(setting!(wake_bytes)) { BPF_RB_FORCE_WAKEUP } else { BPF_RB_NO_WAKEUP };
    let pressure = if unread < size / 4 * 3 {
        0
    } else if unread < size / 8 * 7 {
        NO_PAYLOAD
    } else if unread < size / 16 * 15 {
        HEADS_ONLY
    } else {
        RESERVED
    };
    (pressure, wake)
}

/// A record with room for `N` bytes of payload.
#[repr(C)]
pub struct Record<const N: usize> {
    /// The record.
    pub data: Data,
    /// What it holds of the bytes.
    pub payload: [u8; N],
}

/// Accounts for bytes that moved on a connection: position, turn, and a record or a sum.
///
/// A function of its own: its stack frame must not add to the hook's (512 bytes for a chain of calls). Without `VECTORS` all buffers are single,
/// and what gathers others is no part of the chain.
#[inline(never)]
pub fn moved<const VECTORS: bool>(conn: &mut Conn, moved: &Moved) -> u32 {
    if setting!(anatomy) != ANATOMY_NONE {
        threads::moved(conn, moved.thread.pid, moved.thread.tid, u32::from(moved.direction));
    }
    let direction = (moved.direction & 1) as usize;
    let known = conn.position[direction];
    let start = advance(conn, direction, moved);
    let time_ns = moved.time_ns;
    let verdict = conn::verdict(conn);
    let (mode, budget, resume) = match verdict {
        Some(verdict) => (verdict.mode, verdict.budget, verdict.resume[direction]),
        None => (VERDICT_HEADS, setting!(budget), 0),
    };
    // Where the verdict came from makes no difference from here on.
    let mode = hide(u64::from(mode), time_ns) as u32;
    let budget = hide(u64::from(budget), time_ns) as u32;
    let resume = hide(resume, time_ns);
    let mut flags = if moved.direction == EGRESS { FLAG_EGRESS } else { 0 };
    if moved.consumed != conn.position[INGRESS as usize] as u32
        && moved.direction == EGRESS
        && moved.has_sequence & 1 != 0
        && conn.position[INGRESS as usize] != 0
    {
        flags |= FLAG_UNSEEN;
    }
    if known != 0 && start != known {
        flags |= FLAG_JUMP;
    }
    if conn.turn == 0 || conn.direction != moved.direction {
        conn.turn = conn.turn.wrapping_add(1);
        conn.direction = moved.direction;
        conn.copied = 0;
        flags |= FLAG_TURN_START;
        count(turn_stat(conn.role, moved.direction));
    }
    if mode == VERDICT_NOTHING {
        return 0;
    }

    // How many of the bytes are summed before copying resumes, and how many are then wanted.
    let mut skip = 0;
    if resume > start {
        skip = resume - start;
        // A message begins there, in this call or the next: it gets a budget of its own.
        conn.copied = 0;
        if skip >= moved.bytes {
            sum(conn, direction, moved, start, moved.bytes);
            return 0;
        }
        if moved.buffer.kind != BUFFER_SINGLE {
            // Copying from the middle of a vector is not worth its branches: copy from its start.
            skip = 0;
        }
    }
    let skip = hide(skip, time_ns);
    let rest = moved.bytes - skip;
    let mut wanted = match mode {
        VERDICT_EVERYTHING => u64::from(MAX_PAYLOAD_PER_CALL),
        VERDICT_HEADS => u64::from(budget.saturating_sub(conn.copied)),
        _ => 0,
    };
    if wanted > rest {
        wanted = rest;
    } else if mode == VERDICT_EVERYTHING && wanted < rest {
        count(Stat::PayloadCut);
        flags |= FLAG_CUT;
    }
    let mut wanted = hide(wanted, time_ns);
    let mut flags = hide(u64::from(flags), time_ns) as u16;
    let (pressure, wake) = pressure();
    let pressure = hide(pressure, time_ns);
    if wanted != 0 && moved.buffer.kind == BUFFER_NONE {
        flags |= FLAG_NO_BUFFER;
        wanted = 0;
    } else if wanted != 0 && pressure >= NO_PAYLOAD {
        count(Stat::OverloadPayload);
        flags |= FLAG_OVERLOAD;
        wanted = 0;
    }
    let wanted = hide(wanted, time_ns);
    let flags = hide(u64::from(flags), time_ns) as u16;
    if flags & FLAG_TURN_START == 0 {
        let overloaded = pressure >= HEADS_ONLY;
        if overloaded || (wanted == 0 && flags & FLAG_OVERLOAD == 0) {
            if overloaded {
                count(Stat::OverloadSummed);
            }
            sum(conn, direction, moved, start, moved.bytes);
            return 0;
        }
    }
    if skip != 0 {
        sum(conn, direction, moved, start, skip);
    }
    flush(conn);
    if pressure >= RESERVED {
        count(Stat::EventsAttempted);
        refuse(conn, Stat::RefusedData);
        return 0;
    }
    conn.copied = conn.copied.saturating_add(wanted as u32);

    let mut part = Part {
        position: start + skip,
        bytes: rest,
        address: moved.buffer.address + skip,
        wake,
        wanted: wanted as u32,
        flags: u32::from(flags),
    };
    if wanted == 0 {
        send_plain(conn, moved, &part);
    } else if !VECTORS || moved.buffer.kind == BUFFER_SINGLE {
        send_single(conn, moved, &mut part);
    } else {
        gather::send(conn, moved, &mut part);
    }
    0
}

/// What of a call goes into a record.
pub struct Part {
    /// Position of the first byte.
    pub position: u64,
    /// Bytes, copied or not.
    pub bytes: u64,
    /// User address of the first byte (single buffers).
    pub address: u64,
    /// Flag of the submit.
    pub wake: u64,
    /// Bytes to copy.
    pub wanted: u32,
    /// `FLAG_*`.
    pub flags: u32,
}

/// Fills a record's struct in the ring's own memory: nothing of it stands on the stack, whose 512 bytes serve a whole chain of calls.
#[inline(always)]
pub fn fill(record: *mut Data, conn: &Conn, moved: &Moved, part: &Part) {
    // SAFETY: `record` is a reservation of the ring; each field is written once, by itself (volatile: the compiler would
    // gather neighbours into a memset or a copy on the stack).
    unsafe {
        (&raw mut (*record).header.time_ns).write_volatile(moved.time_ns);
        (&raw mut (*record).header.kind).write_volatile(KIND_DATA);
        (&raw mut (*record).header.flags).write_volatile(part.flags as u16);
        (&raw mut (*record).header.length).write_volatile(size_of::<Data>() as u32);
        (&raw mut (*record).conn_id).write_volatile(conn.id);
        // No hook has the entry of the call.
        (&raw mut (*record).first_ns).write_volatile(0);
        let arrival_ns = if moved.direction == INGRESS { conn.arrival_ns } else { 0 };
        (&raw mut (*record).arrival_ns).write_volatile(arrival_ns);
        (&raw mut (*record).position).write_volatile(part.position);
        (&raw mut (*record).bytes).write_volatile(part.bytes);
        (&raw mut (*record).turn).write_volatile(conn.turn);
        (&raw mut (*record).captured).write_volatile(0);
        (&raw mut (*record).pid).write_volatile(moved.thread.pid);
        (&raw mut (*record).tid).write_volatile(moved.thread.tid);
        (&raw mut (*record).n_calls).write_volatile(1);
        let unseen = part.flags & u32::from(FLAG_UNSEEN) != 0;
        (&raw mut (*record).error).write_volatile(if unseen { moved.consumed } else { 0 });
        let comm = (&raw mut (*record).comm).cast::<u64>();
        comm.write_volatile(moved.comm[0]);
        comm.add(1).write_volatile(moved.comm[1]);
        (&raw mut (*record).kernel_ns).write_volatile(conn.kernel_ns);
        (&raw mut (*record).off_cpu).write_volatile(conn.off_cpu);
        (&raw mut (*record).goroutine).write_volatile(moved.goroutine);
        (&raw mut (*record).rtt_us).write_volatile(conn.rtt_us);
        (&raw mut (*record).retransmits).write_volatile(conn.retransmits);
    }
}

/// Moves the position of a direction; returns where these bytes start.
#[inline(always)]
fn advance(conn: &mut Conn, direction: usize, moved: &Moved) -> u64 {
    /// Where streams begin: room for bytes that turn out to lie before the first ones seen.
    const FIRST: u64 = 1 << 32;
    let known = conn.position[direction];
    let start = if moved.has_sequence & 1 == 0 {
        if known == 0 { FIRST } else { known }
    } else {
        let start = moved.end.wrapping_sub(moved.bytes as u32);
        if known == 0 {
            FIRST + u64::from(start)
        } else {
            known.wrapping_add_signed(i64::from(start.wrapping_sub(known as u32) as i32))
        }
    };
    conn.position[direction] = start + moved.bytes;
    start
}

/// Which turn counter a turn belongs to.
#[inline(always)]
fn turn_stat(role: u8, direction: u8) -> Stat {
    match (role, direction) {
        (ROLE_SERVER, INGRESS) | (ROLE_CLIENT, EGRESS) => Stat::TurnsRequest,
        (ROLE_SERVER, _) | (ROLE_CLIENT, _) => Stat::TurnsResponse,
        _ => Stat::TurnsUnknown,
    }
}

/// Adds bytes to the sum of a direction; sends the sum first where they do not continue it.
#[inline(always)]
fn sum(conn: &mut Conn, direction: usize, moved: &Moved, start: u64, bytes: u64) {
    let direction = direction & 1;
    let sum = &conn.sum[direction];
    if sum.bytes != 0 && (sum.position + sum.bytes != start || sum.turn != conn.turn) {
        send_sum(conn, direction as u32);
    }
    let turn = conn.turn;
    let sum = &mut conn.sum[direction];
    if sum.bytes == 0 {
        sum.position = start;
        sum.first_ns = moved.time_ns;
        sum.turn = turn;
        sum.n_calls = 0;
        sum.pid = moved.thread.pid;
        sum.tid = moved.thread.tid;
        count(Stat::SumsBegun);
    }
    sum.last_ns = moved.time_ns;
    sum.n_calls += 1;
    sum.kernel_ns = conn.kernel_ns;
    sum.off_cpu = conn.off_cpu;
    sum.tid_last = moved.thread.tid;
    // Last: user space reads a sum while it grows and must not see bytes without their time.
    sum.bytes += bytes;
    // SAFETY: a field of the sum. Volatile: another CPU may have sent and emptied the sum in between (a reader and a writer on one
    // socket: each sends the other's sum before its own record). What it had before was sent: these bytes begin a new one.
    if unsafe { (&raw const sum.position).read_volatile() } == 0 {
        sum.position = start;
        sum.first_ns = moved.time_ns;
        sum.turn = turn;
        sum.n_calls = 1;
        sum.pid = moved.thread.pid;
        sum.tid = moved.thread.tid;
        sum.bytes = bytes;
        count(Stat::SumsBegun);
    }
}

/// Sends what was summed in both directions.
#[inline(always)]
pub fn flush(conn: &mut Conn) {
    if conn.sum[0].bytes != 0 {
        send_sum(conn, 0);
    }
    if conn.sum[1].bytes != 0 {
        send_sum(conn, 1);
    }
}

#[inline(never)]
fn send_sum(conn: &mut Conn, direction: u32) -> u32 {
    count(Stat::SumsSent);
    let direction = (direction & 1) as usize;
    let flags = if direction == EGRESS as usize { FLAG_SUMMED | FLAG_EGRESS } else { FLAG_SUMMED };
    let entry = reserve::<Data>(conn);
    let sum = &mut conn.sum[direction];
    // SAFETY: a field of the sum. Before the times: another CPU may be adding to it, time first.
    let bytes = unsafe { (&raw const sum.bytes).read_volatile() };
    if let Some(mut entry) = entry {
        let record = entry.as_mut_ptr();
        // SAFETY: as in `fill`.
        unsafe {
            zero(record);
            (&raw mut (*record).header.time_ns).write_volatile((&raw const sum.last_ns).read_volatile());
            (&raw mut (*record).header.kind).write_volatile(KIND_DATA);
            (&raw mut (*record).header.flags).write_volatile(flags);
            (&raw mut (*record).header.length).write_volatile(size_of::<Data>() as u32);
            (&raw mut (*record).conn_id).write_volatile(conn.id);
            (&raw mut (*record).first_ns).write_volatile(sum.first_ns);
            (&raw mut (*record).position).write_volatile(sum.position);
            (&raw mut (*record).bytes).write_volatile(bytes);
            (&raw mut (*record).turn).write_volatile(sum.turn);
            (&raw mut (*record).pid).write_volatile(sum.pid);
            (&raw mut (*record).tid).write_volatile(sum.tid);
            (&raw mut (*record).n_calls).write_volatile(sum.n_calls);
            (&raw mut (*record).kernel_ns).write_volatile(sum.kernel_ns);
            // What another thread moved first says nothing of this one's time.
            let is_one = sum.tid == sum.tid_last;
            (&raw mut (*record).off_cpu).write_volatile(if is_one { sum.off_cpu } else { 0 });
            // Of now, which is the next call's at the latest.
            (&raw mut (*record).rtt_us).write_volatile(conn.rtt_us);
            (&raw mut (*record).retransmits).write_volatile(conn.retransmits);
        }
        entry.submit(BPF_RB_NO_WAKEUP);
    }
    // SAFETY: a `Sum` is plain integers, aligned to 8.
    unsafe { zero(core::ptr::from_mut(sum)) };
    0
}

/// Reserves a record, or counts the refusal.
#[inline(always)]
pub fn reserve<T: 'static>(conn: &mut Conn) -> Option<aya_ebpf::maps::ring_buf::RingBufEntry<T>> {
    count(Stat::EventsAttempted);
    let entry = EVENTS.reserve::<T>(0);
    if entry.is_none() {
        refuse(conn, Stat::RefusedData);
    } else {
        count(Stat::EventsReserved);
    }
    entry
}

#[inline(always)]
pub fn refuse(conn: &mut Conn, stat: Stat) {
    conn.n_refused = conn.n_refused.wrapping_add(1);
    count(stat);
}

/// Writes a struct. Inline: the compiler copies it in words.
#[inline(always)]
fn put<T: Copy>(to: *mut T, from: &T) {
    // SAFETY: both have the size of T, and `to` is a reservation of the ring.
    unsafe { to.write(*from) };
}

/// Sends a data record without payload.
#[inline(never)]
fn send_plain(conn: &mut Conn, moved: &Moved, part: &Part) -> u32 {
    let Some(mut entry) = reserve::<Data>(conn) else { return 0 };
    fill(entry.as_mut_ptr(), conn, moved, part);
    entry.submit(part.wake);
    1
}

/// Sends a single buffer: one record, or several of the largest class.
#[inline(always)]
fn send_single(conn: &mut Conn, moved: &Moved, part: &mut Part) {
    if part.wanted <= 256 {
        send_copy::<256>(conn, moved, part);
    } else if part.wanted <= 1024 {
        send_copy::<1024>(conn, moved, part);
    } else if part.wanted <= 4096 {
        send_copy::<4096>(conn, moved, part);
    } else {
        send_chunks(conn, moved, part);
    }
}

/// Sends up to `MAX_PAYLOAD_PER_CALL` bytes in records of 16 KiB.
#[inline(never)]
fn send_chunks(conn: &mut Conn, moved: &Moved, part: &mut Part) -> u32 {
    const CHUNK: u32 = 16_384;
    let mut left = part.wanted;
    let mut bytes_left = part.bytes;
    let mut i = 0;
    while i < MAX_PAYLOAD_PER_CALL / CHUNK {
        let is_last = left <= CHUNK;
        part.wanted = if is_last { left } else { CHUNK };
        part.bytes = if is_last { bytes_left } else { u64::from(CHUNK) };
        send_copy::<16_384>(conn, moved, part);
        if is_last {
            break;
        }
        part.flags &= !u32::from(FLAG_TURN_START);
        part.position += u64::from(CHUNK);
        part.address += u64::from(CHUNK);
        left -= CHUNK;
        bytes_left -= u64::from(CHUNK);
        i += 1;
    }
    0
}

/// Sends one record with up to `N` bytes from a user address.
#[inline(never)]
fn send_copy<const N: usize>(conn: &mut Conn, moved: &Moved, part: &Part) -> u32 {
    let Some(mut entry) = reserve::<Record<N>>(conn) else { return 0 };
    let record = entry.as_mut_ptr();
    // SAFETY: `record` is a reservation of the ring.
    unsafe {
        fill(&raw mut (*record).data, conn, moved, part);
        let captured = &raw mut (*record).data.captured;
        captured.write_volatile(part.wanted);
        let n = reread(captured);
        let n = if n > N as u64 { N as u64 } else { n };
        let failed = bpf_probe_read_user(
            (&raw mut (*record).payload).cast::<c_void>(),
            n as u32,
            part.address as *const c_void,
        ) != 0;
        if failed {
            count(Stat::PayloadFault);
            captured.write_volatile(0);
            (*record).data.header.flags |= FLAG_FAULT;
        }
        (*record).data.header.length = size_of::<Data>() as u32 + captured.read_volatile();
    }
    entry.submit(part.wake);
    1
}

/// Reads back what was just written to a record. To the verifier it is an unknown number: what led to it need not be
/// told apart any more, and the paths that came here become one. (`socket_receive`, kernel
/// 6.18: 377,083 instructions walked before, 252,529 with it; the limit is 1,000,000.)
#[inline(always)]
pub unsafe fn reread(field: *const u32) -> u64 {
    // SAFETY: a field of a reservation (caller).
    u64::from(unsafe { field.read_volatile() })
}

/// Sends the record of a connection's first use, once.
#[inline(never)]
pub fn open(conn: &mut Conn, unix_address: u64) -> u32 {
    conn.opened = 1;
    count(Stat::EventsAttempted);
    let flags = if conn.mid_join != 0 { FLAG_MID_JOIN } else { 0 };
    if conn.tuple.family != FAMILY_UNIX || unix_address == 0 {
        let Some(mut entry) = EVENTS.reserve::<ConnOpen>(0) else {
            count(Stat::RefusedConn);
            return 0;
        };
        count(Stat::EventsReserved);
        fill_open(entry.as_mut_ptr(), conn, flags);
        entry.submit(BPF_RB_NO_WAKEUP);
        return 1;
    }
    #[repr(C)]
    struct UnixOpen {
        open: ConnOpen,
        path: [u8; MAX_UNIX_PATH as usize + 4],
    }
    let Some(mut entry) = EVENTS.reserve::<UnixOpen>(0) else {
        count(Stat::RefusedConn);
        return 0;
    };
    count(Stat::EventsReserved);
    let record: *mut UnixOpen = entry.as_mut_ptr();
    // SAFETY: `record` is a reservation of the ring; the path has MAX_UNIX_PATH bytes.
    unsafe {
        fill_open(&raw mut (*record).open, conn, flags);
        let n = socket::unix_path(unix_address as *const u8, (&raw mut (*record).path).cast::<u8>());
        (*record).open.path_length = n;
        (*record).open.header.length = size_of::<ConnOpen>() as u32 + u32::from(n);
    }
    entry.submit(BPF_RB_NO_WAKEUP);
    1
}

/// Sends that the clear text inside a TLS connection came into sight.
#[inline(never)]
pub fn tls_open(conn: &mut Conn, carrier: u64, library: u32, link: u32) -> u32 {
    count(Stat::EventsAttempted);
    let Some(mut entry) = EVENTS.reserve::<TlsOpen>(0) else {
        count(Stat::RefusedConn);
        return 0;
    };
    count(Stat::EventsReserved);
    let open = TlsOpen {
        header: Header {
            // Nothing that moved in it is older.
            time_ns: conn_first_seen(conn.id),
            kind: KIND_TLS_OPEN,
            flags: if conn.mid_join != 0 { FLAG_MID_JOIN } else { 0 },
            length: size_of::<TlsOpen>() as u32,
        },
        conn_id: conn.id,
        carrier,
        pid: conn.pid,
        library: library as u16,
        link: link as u16,
    };
    put(entry.as_mut_ptr(), &open);
    entry.submit(BPF_RB_NO_WAKEUP);
    1
}

#[inline(always)]
fn fill_open(open: *mut ConnOpen, conn: &Conn, flags: u16) {
    // SAFETY: as in `fill`.
    unsafe {
        zero(open);
        (&raw mut (*open).header.time_ns).write_volatile(conn::now());
        (&raw mut (*open).header.kind).write_volatile(KIND_CONN_OPEN);
        (&raw mut (*open).header.flags).write_volatile(flags);
        (&raw mut (*open).header.length).write_volatile(size_of::<ConnOpen>() as u32);
        (&raw mut (*open).conn_id).write_volatile(conn.id);
        (&raw mut (*open).established_ns).write_volatile(conn.established_ns);
        (&raw mut (*open).inode).write_volatile(conn.inode);
        copy_words(&raw mut (*open).tuple, &raw const conn.tuple);
        (&raw mut (*open).pid).write_volatile(conn.pid);
        (&raw mut (*open).netns).write_volatile(conn.netns);
        (&raw mut (*open).role).write_volatile(conn.role);
    }
}

/// Sends that one direction ended.
#[inline(never)]
pub fn shut(conn: &mut Conn, direction: u32) -> u32 {
    flush(conn);
    count(Stat::EventsAttempted);
    let Some(mut entry) = EVENTS.reserve::<ConnShut>(0) else {
        count(Stat::RefusedConn);
        return 0;
    };
    count(Stat::EventsReserved);
    let flags = if direction == u32::from(EGRESS) { FLAG_EGRESS } else { 0 };
    let shut = ConnShut {
        header: Header {
            time_ns: conn::now(),
            kind: KIND_CONN_SHUT,
            flags,
            length: size_of::<ConnShut>() as u32,
        },
        conn_id: conn.id,
    };
    put(entry.as_mut_ptr(), &shut);
    entry.submit(BPF_RB_NO_WAKEUP);
    1
}

/// Sends the end of a connection. `reason` is `CLOSE_*`; a socket error turns an orderly close into a reset.
#[inline(never)]
pub fn close(conn: &mut Conn, reason: u32) -> u32 {
    flush(conn);
    count(Stat::EventsAttempted);
    let Some(mut entry) = EVENTS.reserve::<ConnClose>(0) else {
        count(Stat::RefusedConn);
        return 0;
    };
    count(Stat::EventsReserved);
    let reason = if reason == CLOSE_NORMAL && conn.error != 0 { CLOSE_RESET } else { reason };
    let close = ConnClose {
        header: Header {
            time_ns: conn::now(),
            kind: KIND_CONN_CLOSE,
            flags: 0,
            length: size_of::<ConnClose>() as u32,
        },
        conn_id: conn.id,
        position: conn.position,
        turn: conn.turn,
        reason,
        n_refused: conn.n_refused,
        error: conn.error,
    };
    put(entry.as_mut_ptr(), &close);
    entry.submit(BPF_RB_NO_WAKEUP);
    1
}

/// Sends that a direction ended (a read returned 0) or a call failed with a connection error.
#[inline(never)]
pub fn ended(conn: &mut Conn, thread: &Thread, direction: u32, errno: u32) -> u32 {
    flush(conn);
    let mut flags = if errno == 0 { FLAG_EOF } else { FLAG_ERROR };
    if direction == u32::from(EGRESS) {
        flags |= FLAG_EGRESS;
    }
    let Some(mut entry) = reserve::<Data>(conn) else { return 0 };
    let record = entry.as_mut_ptr();
    // SAFETY: as in `fill`.
    unsafe {
        zero(record);
        (&raw mut (*record).header.time_ns).write_volatile(conn::now());
        (&raw mut (*record).header.kind).write_volatile(KIND_DATA);
        (&raw mut (*record).header.flags).write_volatile(flags);
        (&raw mut (*record).header.length).write_volatile(size_of::<Data>() as u32);
        (&raw mut (*record).conn_id).write_volatile(conn.id);
        (&raw mut (*record).position).write_volatile(conn.position[(direction & 1) as usize]);
        (&raw mut (*record).turn).write_volatile(conn.turn);
        (&raw mut (*record).pid).write_volatile(thread.pid);
        (&raw mut (*record).tid).write_volatile(thread.tid);
        (&raw mut (*record).n_calls).write_volatile(1);
        (&raw mut (*record).error).write_volatile(errno);
    }
    entry.submit(BPF_RB_NO_WAKEUP);
    1
}

/// No buffer.
pub const NO_BUFFER: Buffer = Buffer { kind: BUFFER_NONE, count: 0, address: 0 };

/// Counts a call that cannot be read, by reason.
#[inline(always)]
pub fn no_buffer(stat: Stat) -> Buffer {
    count(stat);
    NO_BUFFER
}
