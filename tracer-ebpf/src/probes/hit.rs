//! What both families of data hooks do once they know thread, socket, direction and result.

use tracer_ebpf::{CLOSE_REPLACED, Conn, EGRESS, FAMILY_UNIX, INGRESS, ROLE_UNKNOWN, Stat};

use super::call::{Call, MSG_ERRQUEUE, MSG_OOB, MSG_PEEK, MSG_TRUNC, ONE_OF_MANY};
use crate::{
    capture::{self, Moved, no_buffer},
    conn::{self, Birth},
    filter::{Thread, wants_ports},
    goroutine,
    maps::{OWNERS, TARGETS},
    memory::forget,
    settings::setting,
    socket::{self, Kind, TcpMemory},
    stats::count,
    tls,
};

/// errno values (include/uapi/asm-generic/errno-base.h, errno.h; include/linux/errno.h).
const EINTR: i64 = 4;
const EAGAIN: i64 = 11;
const EPIPE: i64 = 32;
const ECONNRESET: i64 = 104;
const ETIMEDOUT: i64 = 110;
const ERESTARTSYS: i64 = 512;
const ERESTART_RESTARTBLOCK: i64 = 516;

/// One return of a call on a socket.
pub struct Hit {
    pub thread: Thread,
    /// The task that runs.
    pub task: *const u8,
    pub sock: *const u8,
    /// `INGRESS` or `EGRESS`.
    pub direction: u64,
    /// Bytes, or a negative errno.
    pub result: i64,
    pub call: Call,
}

/// Handles a hit of a call that did not fail, on a socket that is not one of datagrams: those are for programs of their own (`datagram`).
#[inline(always)]
pub fn hit<M: TcpMemory>(hit: &Hit, kind: Option<Kind>) {
    let call = &hit.call;
    let mut buffer = call.buffer;
    if call.name == ONE_OF_MANY {
        buffer = no_buffer(Stat::NoBufferVector);
    }
    if call.flags & MSG_ERRQUEUE != 0 {
        count(Stat::ErrorQueue);
        return;
    }
    if hit.direction == u64::from(INGRESS) {
        if call.flags & MSG_PEEK != 0 {
            count(Stat::Peeked);
            return;
        }
        if call.flags & MSG_OOB != 0 {
            count(Stat::OutOfBand);
            return;
        }
        if call.flags & MSG_TRUNC != 0 {
            buffer = no_buffer(Stat::Truncated);
        }
    } else if call.flags & MSG_OOB != 0 {
        // The last of these bytes is urgent data; the stream position counts it.
        buffer = no_buffer(Stat::OutOfBand);
    }
    let Some(kind) = kind else {
        count(Stat::OtherSocket);
        return;
    };
    let Some(conn) = lookup::<M>(hit, kind) else { return };
    if hit.result == 0 {
        if hit.direction == u64::from(INGRESS) && call.is_empty == 0 && conn.eof == 0 && conn.opened != 0 {
            conn.eof = 1;
            capture::ended(conn, &hit.thread, u32::from(INGRESS), 0);
        }
        return;
    }
    if conn.opened == 0 {
        open::<M>(conn, hit, kind);
    }
    if setting!(tls) != 0 {
        tls::moved(hit, conn);
    }

    let mut end = 0;
    let mut consumed = 0;
    let mut has_sequence = false;
    // Where that is not known, when the next byte arrives is not noted.
    let mut waiting = true;
    if kind == Kind::Tcp {
        let Some(sequence) = M::sequence(hit.sock) else {
            count(Stat::ReadFault);
            return;
        };
        end = if hit.direction == u64::from(EGRESS) { sequence.write } else { sequence.copied };
        consumed = sequence.copied;
        has_sequence = !sequence.counts_records;
        waiting = sequence.counts_records || sequence.received != sequence.copied;
        conn.rtt_us = sequence.rtt_us;
        conn.retransmits = sequence.retransmits;
    }
    let mut moved = Moved {
        thread: hit.thread,
        comm: M::read(hit.task, setting!(offsets.task_comm)),
        time_ns: conn::now(),
        bytes: hit.result as u64,
        end,
        consumed,
        direction: hit.direction as u8,
        // The second bit is for below: a variable of its own would be a slot more of the deepest chain's stack.
        has_sequence: has_sequence as u8 | (waiting as u8) << 1,
        goroutine: goroutine::running(hit.thread.pid),
        buffer,
    };
    // SAFETY: plain integers. (Hiding the five that matter one by one costs as little on 6.18, and more than a million instructions
    // walked on 6.1.)
    unsafe { forget(&mut moved) };
    capture::moved::<true>(conn, &moved);
    if moved.direction == INGRESS {
        // The next arrival is the first waiting byte's, unless bytes wait already: theirs was not noted. (Between the
        // hook and here an arrival may have been noted: it stays.)
        conn.arrival_ns = 0;
        conn.drained = (moved.has_sequence & 2 == 0) as u8;
    }
}

/// A failed call.
#[inline(always)]
pub fn failed(hit: &Hit) {
    let errno = -hit.result;
    if errno == EAGAIN || errno == EINTR || (ERESTARTSYS..=ERESTART_RESTARTBLOCK).contains(&errno) {
        count(Stat::WouldBlock);
        return;
    }
    count(Stat::CallFailed);
    if (errno == ECONNRESET || errno == EPIPE || errno == ETIMEDOUT)
        && let Some(conn) = conn::find(hit.sock as u64)
    {
        conn.error = errno as u32;
        if conn.opened != 0 && conn.eof == 0 {
            conn.eof = 1;
            capture::ended(conn, &hit.thread, hit.direction as u32, errno as u32);
        }
    }
}

/// The state of the hit's connection, created if need be.
#[inline(never)]
fn lookup<M: TcpMemory>(hit: &Hit, kind: Kind) -> Option<&'static mut Conn> {
    let key = hit.sock as u64;
    if let Some(conn) = conn::find(key) {
        if kind == Kind::Tcp && conn.datagrams == 0 {
            return Some(conn);
        }
        // Unix sockets die without a hook: the inode tells whether the memory still belongs to the same one.
        let inode = socket::inode::<M>(hit.sock);
        if conn.tuple.family == FAMILY_UNIX && (conn.inode == inode || inode == 0) {
            return Some(conn);
        }
        conn::end(key, conn, CLOSE_REPLACED);
    }
    if kind == Kind::Unix {
        let mut tuple = socket::no_tuple();
        tuple.family = FAMILY_UNIX;
        if !wants_ports(0, 0) {
            return None;
        }
        let birth =
            Birth { pid: hit.thread.pid, netns: 0, role: ROLE_UNKNOWN, from_start: false, established_ns: 0 };
        return conn::create(key, &tuple, &birth);
    }
    let tuple = socket::tuple::<M>(hit.sock);
    if !wants_ports(tuple.local_port, tuple.remote_port) {
        return None;
    }
    let birth = Birth {
        pid: hit.thread.pid,
        netns: socket::netns::<M>(hit.sock),
        role: ROLE_UNKNOWN,
        from_start: false,
        established_ns: 0,
    };
    conn::create(key, &tuple, &birth)
}

/// First use by a target: completes the state and sends the record.
#[inline(never)]
fn open<M: TcpMemory>(conn: &mut Conn, hit: &Hit, kind: Kind) -> u32 {
    conn.inode = socket::inode::<M>(hit.sock);
    conn.pid = hit.thread.pid;
    if kind == Kind::Tcp && conn.tuple.local_port == 0 {
        // connect() changes the state before it binds a port and an address (tcp_v4_connect, inet_hash_connect).
        conn.tuple = socket::tuple::<M>(hit.sock);
    }
    // SAFETY: only asked whether the key is there.
    if unsafe { TARGETS.get(hit.thread.pid) }.is_none() {
        let _ = OWNERS.insert(hit.thread.pid, 1, 0);
    }
    let mut address = core::ptr::null();
    if kind == Kind::Unix {
        let (role, named) = socket::unix_end(hit.sock);
        conn.role = role;
        address = named;
    }
    capture::open(conn, address as u64)
}
