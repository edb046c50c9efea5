//! TLS libraries: probes on functions of the traced program, at places that user space found in its files. Where the kernel can tell what
//! a place is for (from 5.15), that would be one program with a cookie; these run from 5.10 on, so that each sort of function has its own.
//!
//! A call's arguments are taken at its entry, the rest at its return, from the same function; its own stack pointer says which return is which entry's.

use aya_ebpf::{
    EbpfContext as _,
    bindings::pt_regs,
    macros::{uprobe, uretprobe},
    programs::{ProbeContext, RetProbeContext},
};
use tracer_ebpf::{EGRESS, INGRESS, TLS_BORINGSSL, TLS_GNUTLS, TLS_NSS, TLS_OPENSSL};

use crate::{
    filter::current_target,
    memory::on_kernel_stack,
    tls::{self, Call, Key, NO_LENGTH},
};

/// The registers where the probe was hit.
#[inline(always)]
fn registers(context: &ProbeContext) -> &pt_regs {
    // SAFETY: the context of such a program is its registers.
    unsafe { &*context.as_ptr().cast::<pt_regs>() }
}

/// A function `f(handle, buffer, length, …)`; `LENGTH`: which argument is where it leaves how many bytes there were, 0: none.
#[inline(always)]
fn entered<const LENGTH: u8>(context: &ProbeContext, direction: u8, library: u16) {
    let Some(thread) = current_target() else { return };
    let registers = registers(context);
    let call = Call {
        handle: registers.rdi,
        buffer: registers.rsi,
        length_at: match LENGTH {
            4 => registers.rcx,
            5 => registers.r8,
            _ => 0,
        },
        stack: registers.rsp,
        socket: 0,
        arrival_ns: 0,
        direction: u32::from(direction),
        library: u32::from(library),
    };
    tls::entered(Key { pid: thread.pid, zero: 0, id: u64::from(thread.tid) }, &call);
}

/// One program for each sort of function.
macro_rules! entries {
    ($($(#[$doc:meta])* $name:ident = $direction:ident, $library:ident, $length:literal;)*) => {
        $(
            $(#[$doc])*
            #[uprobe]
            pub fn $name(context: ProbeContext) -> u32 {
                on_kernel_stack(&context);
                entered::<$length>(&context, $direction, $library);
                0
            }
        )*
    };
}

entries! {
    /// `int SSL_read(SSL *, void *, int)`.
    tls_openssl_read = INGRESS, TLS_OPENSSL, 0;
    /// `int SSL_read_ex(SSL *, void *, size_t, size_t *)`, and `ssl_read_internal`, which both call.
    tls_openssl_read_ex = INGRESS, TLS_OPENSSL, 4;
    /// `int SSL_write(SSL *, const void *, int)`.
    tls_openssl_write = EGRESS, TLS_OPENSSL, 0;
    /// `int SSL_write_ex(SSL *, const void *, size_t, size_t *)`, `ssl_write_internal`, and `SSL_write_early_data`.
    tls_openssl_write_ex = EGRESS, TLS_OPENSSL, 4;
    /// `int ssl_write_internal(SSL *, const void *, size_t, uint64_t flags, size_t *)` of OpenSSL 3.3 and later.
    tls_openssl_write_internal = EGRESS, TLS_OPENSSL, 5;
    /// `SSL_read` of BoringSSL and AWS-LC.
    tls_boringssl_read = INGRESS, TLS_BORINGSSL, 0;
    /// `SSL_write` of BoringSSL and AWS-LC.
    tls_boringssl_write = EGRESS, TLS_BORINGSSL, 0;
    /// `ssize_t gnutls_record_recv(gnutls_session_t, void *, size_t)`.
    tls_gnutls_read = INGRESS, TLS_GNUTLS, 0;
    /// `ssize_t gnutls_record_send(gnutls_session_t, const void *, size_t)`.
    tls_gnutls_write = EGRESS, TLS_GNUTLS, 0;
    /// `int ssl_SecureSend(sslSocket *, const unsigned char *, int, int)`.
    tls_nss_write = EGRESS, TLS_NSS, 0;
}

/// `ssize_t _gnutls_recv_int(gnutls_session_t, content_type_t, uint8_t *, size_t, …)`, through which `gnutls_record_recv` goes, and what GnuTLS says for
/// itself.
#[uprobe]
pub fn tls_gnutls_recv_int(context: ProbeContext) -> u32 {
    on_kernel_stack(&context);
    /// `GNUTLS_APPLICATION_DATA`.
    const APPLICATION_DATA: u32 = 23;
    let Some(thread) = current_target() else { return 0 };
    let registers = registers(&context);
    if registers.rsi as u32 != APPLICATION_DATA {
        return 0;
    }
    let call = Call {
        handle: registers.rdi,
        buffer: registers.rdx,
        length_at: 0,
        stack: registers.rsp,
        socket: 0,
        arrival_ns: 0,
        direction: u32::from(INGRESS),
        library: u32::from(TLS_GNUTLS),
    };
    tls::entered(Key { pid: thread.pid, zero: 0, id: u64::from(thread.tid) }, &call);
    0
}

/// `int ssl_SecureRecv(sslSocket *, unsigned char *, int, int flags)`. What it is asked to leave there will be read again.
#[uprobe]
pub fn tls_nss_read(context: ProbeContext) -> u32 {
    on_kernel_stack(&context);
    /// `PR_MSG_PEEK`.
    const PEEK: u64 = 2;
    let Some(thread) = current_target() else { return 0 };
    let registers = registers(&context);
    let call = Call {
        handle: registers.rdi,
        buffer: registers.rsi,
        length_at: if registers.rcx & PEEK == 0 { 0 } else { NO_LENGTH },
        stack: registers.rsp,
        socket: 0,
        arrival_ns: 0,
        direction: u32::from(INGRESS),
        library: u32::from(TLS_NSS),
    };
    tls::entered(Key { pid: thread.pid, zero: 0, id: u64::from(thread.tid) }, &call);
    0
}

/// `int SSL_do_handshake(SSL *)`, through which `SSL_connect` and `SSL_accept` go: moves no clear text, and tells whose the handle is.
#[uprobe]
pub fn tls_openssl_handshake(context: ProbeContext) -> u32 {
    on_kernel_stack(&context);
    let Some(thread) = current_target() else { return 0 };
    let registers = registers(&context);
    let call = Call {
        handle: registers.rdi,
        buffer: 0,
        length_at: NO_LENGTH,
        stack: registers.rsp,
        socket: 0,
        arrival_ns: 0,
        direction: u32::from(INGRESS),
        library: u32::from(TLS_OPENSSL),
    };
    tls::entered(Key { pid: thread.pid, zero: 0, id: u64::from(thread.tid) }, &call);
    0
}

/// `ossl_ssize_t SSL_sendfile(SSL *, int, off_t, size_t, int)`, for which the kernel encrypts: what it sends is in no memory of the process. Its result
/// fits 32 bits (`MAX_RW_COUNT`, include/linux/fs.h).
#[uprobe]
pub fn tls_openssl_sendfile(context: ProbeContext) -> u32 {
    on_kernel_stack(&context);
    let Some(thread) = current_target() else { return 0 };
    let registers = registers(&context);
    let call = Call {
        handle: registers.rdi,
        buffer: 0,
        length_at: 0,
        stack: registers.rsp,
        socket: 0,
        arrival_ns: 0,
        direction: u32::from(EGRESS),
        library: u32::from(TLS_OPENSSL),
    };
    tls::entered(Key { pid: thread.pid, zero: 0, id: u64::from(thread.tid) }, &call);
    0
}

/// `int BIO_write(BIO *, const void *, int)` of BoringSSL, by which it hands over its records: within one of its calls, they are its handle's.
#[uprobe]
pub fn tls_bio_write(context: ProbeContext) -> u32 {
    on_kernel_stack(&context);
    let Some(thread) = current_target() else { return 0 };
    let registers = registers(&context);
    let key = Key { pid: thread.pid, zero: 0, id: u64::from(thread.tid) };
    let bytes = (registers.rdx as i32).max(0) as u64;
    tls::written(key, registers.rsi, bytes, registers.rsp);
    0
}

/// The return of any of them.
#[uretprobe]
pub fn tls_return(context: RetProbeContext) -> u32 {
    on_kernel_stack(&context);
    let Some(thread) = current_target() else { return 0 };
    // SAFETY: the context of such a program is its registers.
    let registers = unsafe { &*context.as_ptr().cast::<pt_regs>() };
    let key = Key { pid: thread.pid, zero: 0, id: u64::from(thread.tid) };
    tls::returned(&thread, key, registers.rax, registers.rsp);
    0
}

/// A library lets go of a handle: `SSL_free` and its like.
#[uprobe]
pub fn tls_free(context: ProbeContext) -> u32 {
    on_kernel_stack(&context);
    if let Some(thread) = current_target() {
        tls::freed(Key { pid: thread.pid, zero: 0, id: registers(&context).rdi });
    }
    0
}
