//! The life of TCP connections, and the arrival of bytes.

use aya_ebpf::{
    macros::{btf_tracepoint, raw_tracepoint},
    programs::{BtfTracePointContext, RawTracePointContext},
};
use tracer_ebpf::{
    CLOSE_NORMAL, EGRESS, Header, INGRESS, KIND_LISTENING, KIND_RETRANSMIT, Listening, MODE_ALL, PortKey,
    ROLE_CLIENT, ROLE_SERVER, Retransmit, Stat, Tuple,
};

use crate::{
    capture::{self, BPF_RB_NO_WAKEUP},
    conn::{self, Birth},
    filter::{current_target, is_armed, wants_ports},
    maps::{EVENTS, LISTENING},
    memory::{Memory, Probed, Typed},
    settings::setting,
    socket::{self, Kind},
    stats::count,
};

/// TCP states (include/net/tcp_states.h).
const ESTABLISHED: i32 = 1;
const SYN_SENT: i32 = 2;
const SYN_RECV: i32 = 3;
const FIN_WAIT1: i32 = 4;
const CLOSE: i32 = 7;
const CLOSE_WAIT: i32 = 8;
const LAST_ACK: i32 = 9;
const LISTEN: i32 = 10;

/// A TCP socket changes state. Creates state for connections of targets (a client's in connect(), a server's when it is
/// established, before anyone accepted it), sends shuts, notes errors. May run in softirq: then there is no process.
///
/// match-proto: `inet_sock_set_state(const struct sock *sk, const int oldstate, const int newstate)`
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn tcp_state(context: BtfTracePointContext) -> i32 {
    let sock: *const u8 = context.arg(0);
    let old: i32 = context.arg(1);
    let new: i32 = context.arg(2);
    let key = sock as u64;
    match new {
        SYN_SENT => connecting(sock),
        ESTABLISHED if old == SYN_RECV => accepted(sock),
        ESTABLISHED => {
            if let Some(conn) = conn::find(key) {
                conn.established_ns = conn::now();
            }
        }
        CLOSE_WAIT => shut(key, INGRESS),
        FIN_WAIT1 | LAST_ACK => shut(key, EGRESS),
        CLOSE => {
            if let Some(conn) = conn::find(key) {
                let error: u32 = Typed::read(sock, setting!(offsets.sock_err));
                if error != 0 {
                    conn.error = error;
                }
            }
        }
        LISTEN => listening(sock),
        _ => {}
    }
    0
}

#[inline(always)]
fn shut(key: u64, direction: u8) {
    if let Some(conn) = conn::find(key)
        && conn.opened != 0
        && is_armed()
    {
        capture::shut(conn, u32::from(direction));
    }
}

/// connect() by the running process.
#[inline(always)]
fn connecting(sock: *const u8) {
    let Some(thread) = current_target() else { return };
    if socket::kind::<Typed>(sock) != Some(Kind::Tcp) {
        return;
    }
    let tuple = socket::tuple::<Typed>(sock);
    // The local port is chosen after this state change on some paths: the remote one must do for --port.
    if !wants_ports(tuple.local_port, tuple.remote_port) {
        return;
    }
    create(sock, &tuple, thread.pid, ROLE_CLIENT, 0);
}

/// A connection arrived at a listening port; no process knows of it yet.
#[inline(always)]
fn accepted(sock: *const u8) {
    if socket::kind::<Typed>(sock) != Some(Kind::Tcp) {
        return;
    }
    let tuple = socket::tuple::<Typed>(sock);
    if !wants_ports(tuple.local_port, tuple.remote_port) {
        return;
    }
    if setting!(mode) != MODE_ALL {
        let port = PortKey { netns: socket::netns::<Typed>(sock), port: u32::from(tuple.local_port) };
        // SAFETY: only asked whether the key is there.
        if unsafe { LISTENING.get(port) }.is_none() {
            return;
        }
    }
    create(sock, &tuple, 0, ROLE_SERVER, conn::now());
}

#[inline(always)]
fn create(sock: *const u8, tuple: &Tuple, pid: u32, role: u8, established_ns: u64) {
    let birth = Birth { pid, netns: socket::netns::<Typed>(sock), role, from_start: true, established_ns };
    // A state left over from an earlier life of the same memory would be wrong; tcp_destroy_sock removes it, so there is none.
    conn::create(sock as u64, tuple, &birth);
}

/// listen() by the running process.
#[inline(always)]
fn listening(sock: *const u8) {
    if current_target().is_none() {
        return;
    }
    let port: u16 = Typed::read(sock, setting!(offsets.sock_common_num));
    let key = PortKey { netns: socket::netns::<Typed>(sock), port: u32::from(port) };
    let _ = LISTENING.insert(key, 1, 0);
    count(Stat::EventsAttempted);
    let Some(mut entry) = EVENTS.reserve::<Listening>(0) else {
        count(Stat::RefusedConn);
        return;
    };
    count(Stat::EventsReserved);
    entry.write(Listening {
        header: Header {
            time_ns: conn::now(),
            kind: KIND_LISTENING,
            flags: 0,
            length: size_of::<Listening>() as u32,
        },
        netns: key.netns,
        port: key.port,
    });
    entry.submit(1);
}

/// A TCP socket is destroyed: last sums, the close, and the end of its state.
///
/// match-proto: `tcp_destroy_sock(struct sock *sk)`
#[raw_tracepoint(tracepoint = "tcp_destroy_sock")]
pub fn tcp_destroy(context: RawTracePointContext) -> i32 {
    let key: u64 = context.arg(0);
    let Some(conn) = conn::find_hinted(key) else { return 0 };
    if conn.opened != 0 && !is_armed() {
        // The run has ended: what was summed until then is yet to be read.
        return 0;
    }
    conn::end(key, conn, CLOSE_NORMAL);
    0
}

/// A TCP socket sends again what was not acknowledged in time. Runs for those of the whole host: rare where nothing is lost.
///
/// match-proto: `tcp_retransmit_skb(const struct sock *sk, const struct sk_buff *skb)`; since kernel 6.15 also `int err`.
#[raw_tracepoint(tracepoint = "tcp_retransmit_skb")]
pub fn tcp_retransmit(context: RawTracePointContext) -> i32 {
    let key: u64 = context.arg(0);
    let Some(conn) = conn::find_hinted(key) else { return 0 };
    if conn.opened == 0 || !is_armed() {
        // What was sent again by then is in the first count that is told.
        return 0;
    }
    // `tcp_sock` begins with the `sock`.
    let tcp = key as *const u8;
    count(Stat::EventsAttempted);
    let Some(mut entry) = EVENTS.reserve::<Retransmit>(0) else {
        // The next record of the connection has the count.
        count(Stat::RefusedRetransmit);
        return 0;
    };
    count(Stat::EventsReserved);
    entry.write(Retransmit {
        header: Header {
            time_ns: conn::now(),
            kind: KIND_RETRANSMIT,
            flags: 0,
            length: size_of::<Retransmit>() as u32,
        },
        conn_id: conn.id,
        rtt_us: socket::rtt_us::<Probed>(tcp),
        retransmits: socket::retransmits::<Probed>(tcp),
    });
    entry.submit(BPF_RB_NO_WAKEUP);
    0
}

/// Bytes arrived in a receive queue (kernel 6.3 and later). Runs for every segment of every TCP socket on the host: one
/// look into an array for those that are not tracked. Raw, because a typed pointer may not be calculated with.
///
/// match-proto: `sk_data_ready(const struct sock *sk)`
#[raw_tracepoint(tracepoint = "sk_data_ready")]
pub fn data_ready(context: RawTracePointContext) -> i32 {
    if let Some(conn) = conn::find_hinted(context.arg(0))
        && conn.drained != 0
        && conn.arrival_ns == 0
    {
        conn.arrival_ns = conn::now();
    }
    0
}
