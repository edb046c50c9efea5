//! Data hooks, family *socket*: `sock_send_length` and `sock_recv_length` (kernel 6.3 and later, net/socket.c).
//!
//! They hand over the socket, fire for socket calls alone, and arm no system-call tracepoint. Not seen here: splice from a
//! socket and zero-copy receive (the next position shows them as a gap).

use aya_ebpf::{
    helpers::generated::{bpf_get_current_task_btf, bpf_task_pt_regs},
    macros::btf_tracepoint,
    programs::BtfTracePointContext,
};
use tracer_ebpf::{EGRESS, INGRESS, SEND_RUSTLS, TLS_AND_RUSTLS};

use super::{
    call,
    hit::{Hit, failed, hit},
};
use crate::{
    filter::current_target,
    maps::{DATAGRAM_RECEIVE, DATAGRAM_SEND, VECTORS},
    memory::Typed,
    settings::setting,
    socket::{self, Kind},
    tls_rustls,
};

/// Bytes sent on a socket. Reads: the socket, the user registers, the buffer. Emits: opens, data.
///
/// match-proto: `sock_send_length(struct sock *sk, int ret, int flags)`
#[btf_tracepoint(function = "sock_send_length")]
pub fn socket_send(context: BtfTracePointContext) -> i32 {
    on_hit(&context, EGRESS);
    0
}

/// Bytes received on a socket. As [`socket_send`].
///
/// match-proto: `sock_recv_length(struct sock *sk, int ret, int flags)`
#[btf_tracepoint(function = "sock_recv_length")]
pub fn socket_receive(context: BtfTracePointContext) -> i32 {
    on_hit(&context, INGRESS);
    0
}

#[inline(always)]
fn on_hit(context: &BtfTracePointContext, direction: u8) {
    let Some(thread) = current_target() else { return };
    let sock: *const u8 = context.arg(0);
    let result: i32 = context.arg(1);
    // SAFETY: no arguments; the task is the running one.
    let task = unsafe { bpf_get_current_task_btf() };
    // SAFETY: as above.
    let regs = unsafe { bpf_task_pt_regs(task) } as *const u8;
    let task: *const u8 = task.cast();
    let call = call::current::<Typed>(task, regs, direction).hidden();
    let site = Hit { thread, task, sock, direction: u64::from(direction), result: i64::from(result), call };
    if site.result < 0 {
        if site.call.name == call::ONE_OF_MANY {
            // The call ends with it.
            let _ = VECTORS.remove(thread.tid);
        }
        failed(&site);
        return;
    }
    let kind = socket::kind::<Typed>(sock);
    if kind == Some(Kind::Udp) {
        let programs = if direction == EGRESS { &DATAGRAM_SEND } else { &DATAGRAM_RECEIVE };
        // SAFETY: nothing here has to be dropped. It comes back only where that program is missing, which the start told.
        unsafe { programs.tail_call(context, 0) };
        return;
    }
    hit::<Typed>(&site, kind);
    if direction == EGRESS && setting!(tls) == TLS_AND_RUSTLS && tls_rustls::is_due() != 0 {
        // SAFETY: as above.
        unsafe { DATAGRAM_SEND.tail_call(context, SEND_RUSTLS) };
    }
}
