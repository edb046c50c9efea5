//! Datagrams, in programs of their own: the verifier's limit is for each. Those of streams hand over to them (a tail call) what is of a UDP
//! socket.
//!
//! With the socket tracepoints, `datagram_send` and `datagram_receive` tell what the socket knows the peer of; both tracepoints run before
//! the call has put the peer's name into user memory, and do not say for which message of a vector. What was received without a peer, and
//! into vectors, is completed by `datagram_exit` and, behind it, `datagrams_exit`, attached only while targets need them: they cost every call of
//! the host. With the hooks on system calls, `datagram_call` and `datagrams_call` tell all.

use aya_ebpf::{
    helpers::{
        bpf_get_current_task,
        generated::{bpf_get_current_task_btf, bpf_task_pt_regs},
    },
    macros::btf_tracepoint,
    programs::BtfTracePointContext,
};
use tracer_ebpf::{EGRESS, INGRESS, SYS_EXIT_VECTOR};

use super::{
    call::{self, Call, Registers},
    hit::Hit,
    syscall::find_site,
};
use crate::{
    capture::NO_BUFFER,
    datagram,
    filter::current_target,
    maps::SYS_EXIT,
    memory::{Probed, Typed, forget},
    socket::{self, Kind},
};

/// A datagram sent, behind `socket_send`. Reads: the socket, the user registers, the buffer. Emits: datagrams.
///
/// match-proto: `sock_send_length(struct sock *sk, int ret, int flags)`
#[btf_tracepoint(function = "sock_send_length")]
pub fn datagram_send(context: BtfTracePointContext) -> i32 {
    seen(&context, EGRESS);
    0
}

/// A datagram received, behind `socket_receive`. As [`datagram_send`].
///
/// match-proto: `sock_recv_length(struct sock *sk, int ret, int flags)`
#[btf_tracepoint(function = "sock_recv_length")]
pub fn datagram_receive(context: BtfTracePointContext) -> i32 {
    seen(&context, INGRESS);
    0
}

#[inline(always)]
fn seen(context: &BtfTracePointContext, direction: u8) {
    let Some(thread) = current_target() else { return };
    let sock: *const u8 = context.arg(0);
    let result: i32 = context.arg(1);
    // SAFETY: no arguments; the task is the running one.
    let task = unsafe { bpf_get_current_task_btf() };
    // SAFETY: as above.
    let regs = unsafe { bpf_task_pt_regs(task) } as *const u8;
    let task: *const u8 = task.cast();
    let call = call::current::<Typed>(task, regs, direction).hidden();
    let direction = u64::from(direction);
    let mut hit = Hit { thread, task, sock, direction, result: i64::from(result), call };
    if direction == u64::from(EGRESS) {
        datagram::sent::<Typed>(&mut hit);
    } else {
        datagram::received::<Typed>(&hit);
    }
}

/// What the exit of a receive adds to the socket tracepoints. Other calls end at the first comparisons, and a receive that asks for no name
/// (of TCP, nearly all) does too. A vector of messages goes to `datagrams_exit`.
///
/// match-proto: `sys_exit(struct pt_regs *regs, long ret)`
#[btf_tracepoint(function = "sys_exit")]
pub fn datagram_exit(context: BtfTracePointContext) -> i32 {
    let regs: *const u8 = context.arg(0);
    match Registers::number::<Typed>(regs) {
        call::RECVFROM if Registers::fifth::<Typed>(regs) != 0 => {}
        call::RECVMSG => {}
        call::RECVMMSG => {
            // SAFETY: nothing here has to be dropped. Both are there, or neither is attached.
            unsafe { SYS_EXIT.tail_call(&context, SYS_EXIT_VECTOR) };
            return 0;
        }
        _ => return 0,
    }
    if datagram::is_exit_attached()
        && let Some(site) = site(&context)
        && datagram::is_told_at_exit::<Probed>(site.sock, site.call.name)
    {
        datagram::hit::<Probed>(&site);
    }
    0
}

/// The same for a vector of messages that was received.
///
/// match-proto: `sys_exit(struct pt_regs *regs, long ret)`
#[btf_tracepoint(function = "sys_exit")]
pub fn datagrams_exit(context: BtfTracePointContext) -> i32 {
    if datagram::is_exit_attached()
        && let Some(site) = site(&context)
    {
        datagram::vector::<Probed, { datagram::MAX_MESSAGES }, true>(&site);
    }
    0
}

/// A call that moved a datagram, behind `syscall_exit`.
///
/// match-proto: `sys_exit(struct pt_regs *regs, long ret)`
#[btf_tracepoint(function = "sys_exit")]
pub fn datagram_call(context: BtfTracePointContext) -> i32 {
    if let Some(site) = site(&context) {
        datagram::hit::<Probed>(&site);
    }
    0
}

/// A call that moved a vector of messages, behind `syscall_exit`.
///
/// match-proto: `sys_exit(struct pt_regs *regs, long ret)`
#[btf_tracepoint(function = "sys_exit")]
pub fn datagrams_call(context: BtfTracePointContext) -> i32 {
    if let Some(site) = site(&context) {
        datagram::vector::<Probed, { datagram::MAX_MESSAGES_OF_CALL }, false>(&site);
    }
    0
}

/// What a call did with a UDP socket.
#[inline(always)]
fn site(context: &BtfTracePointContext) -> Option<Hit> {
    let regs: *const u8 = context.arg(0);
    let result: i64 = context.arg(1);
    if result <= 0 {
        return None;
    }
    let thread = current_target()?;
    // SAFETY: no arguments.
    let task = unsafe { bpf_get_current_task() } as *const u8;
    let mut site = Hit {
        thread,
        task,
        sock: core::ptr::null(),
        direction: 0,
        result,
        call: Call { buffer: NO_BUFFER, flags: 0, is_empty: 0, name: 0 },
    };
    if find_site(regs, &mut site) == 0 {
        return None;
    }
    // SAFETY: plain integers; the two pointers are only ever probed.
    unsafe { forget(&mut site) };
    (socket::kind::<Probed>(site.sock) == Some(Kind::Udp)).then_some(site)
}
