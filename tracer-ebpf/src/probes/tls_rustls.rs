//! rustls: probes on what encrypts and decrypts a record, with each crypto provider and version of TLS. Structures of rustls are read as rustc lays them out
//! for its versions 0.23; user space puts no probe on others.

use aya_ebpf::{
    EbpfContext as _,
    bindings::pt_regs,
    macros::{btf_tracepoint, uprobe, uretprobe},
    programs::{BtfTracePointContext, ProbeContext, RetProbeContext},
};

use crate::{
    filter::current_target,
    memory::on_kernel_stack,
    tls_rustls::{self, Arguments},
};

/// What both are called with: `(result, self, message, number)`.
#[inline(always)]
fn arguments(context: &ProbeContext) -> Arguments {
    // SAFETY: the context of such a program is its registers.
    let registers = unsafe { &*context.as_ptr().cast::<pt_regs>() };
    Arguments {
        result: registers.rdi,
        keys: registers.rsi,
        message: registers.rdx,
        number: registers.rcx,
        stack: registers.rsp,
    }
}

/// `fn encrypt(&mut self, msg: OutboundPlainMessage<'_>, seq: u64) -> Result<OutboundOpaqueMessage, Error>` of `MessageEncrypter`.
#[uprobe]
pub fn tls_rustls_encrypt(context: ProbeContext) -> u32 {
    on_kernel_stack(&context);
    if let Some(thread) = current_target()
        && tls_rustls::encrypts(&thread, &arguments(&context)) != 0
    {
        tls_rustls::speaks(&thread);
    }
    0
}

/// `fn decrypt<'a>(&mut self, msg: InboundOpaqueMessage<'a>, seq: u64) -> Result<InboundPlainMessage<'a>, Error>` of `MessageDecrypter`.
#[uprobe]
pub fn tls_rustls_decrypt(context: ProbeContext) -> u32 {
    on_kernel_stack(&context);
    if let Some(thread) = current_target() {
        tls_rustls::decrypts(&thread, &arguments(&context));
    }
    0
}

/// The return of either.
#[uretprobe]
pub fn tls_rustls_return(context: RetProbeContext) -> u32 {
    on_kernel_stack(&context);
    let Some(thread) = current_target() else { return 0 };
    // SAFETY: the context of such a program is its registers.
    let registers = unsafe { &*context.as_ptr().cast::<pt_regs>() };
    tls_rustls::returned(&thread, registers.rsp);
    0
}

/// Behind `socket_send`, where what was sent has told whose keys some were.
#[btf_tracepoint(function = "sock_send_length")]
pub fn rustls_sent(_: BtfTracePointContext) -> i32 {
    sent()
}

/// The same behind `syscall_exit`.
#[btf_tracepoint(function = "sys_exit")]
pub fn rustls_sent_call(_: BtfTracePointContext) -> i32 {
    sent()
}

#[inline(always)]
fn sent() -> i32 {
    if let Some(thread) = current_target() {
        tls_rustls::sent(&thread);
    }
    0
}
