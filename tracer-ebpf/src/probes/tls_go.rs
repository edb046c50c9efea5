//! Go's crypto/tls: probes within functions of the traced program, at places that user space found in its code. Arguments are in Go's registers
//! (<https://go.dev/s/regabi>): rax, rbx, rcx, rdi; the goroutine is in r14, and the frame pointer in rbp.

use aya_ebpf::{EbpfContext as _, bindings::pt_regs, macros::uprobe, programs::ProbeContext};

use tracer_ebpf::Stat;

use crate::{
    filter::{Thread, current_target},
    memory::{on_kernel_stack, read_user},
    stats::count,
    tls_go::{self, Sends},
};

/// `recordTypeApplicationData` (crypto/tls/common.go).
const APPLICATION_DATA: u8 = 23;

/// The registers where the probe was hit.
#[inline(always)]
fn registers(context: &ProbeContext) -> &pt_regs {
    // SAFETY: the context of such a program is its registers.
    unsafe { &*context.as_ptr().cast::<pt_regs>() }
}

/// `func (c *Conn) clientHandshake(ctx context.Context) error`, and `serverHandshake`.
#[uprobe]
pub fn tls_go_handshake(context: ProbeContext) -> u32 {
    on_kernel_stack(&context);
    if let Some(thread) = current_target() {
        let registers = registers(&context);
        tls_go::handshake(&thread, registers.rax, registers.r14);
    }
    0
}

/// `func (c *Conn) Read(b []byte) (int, error)`.
#[uprobe]
pub fn tls_go_read(context: ProbeContext) -> u32 {
    on_kernel_stack(&context);
    if let Some(thread) = current_target() {
        let registers = registers(&context);
        tls_go::reads(&thread, registers.rax, registers.r14);
    }
    0
}

/// `runtime.memmove(to, from, n)`, called by `Read` with what it gives.
#[uprobe]
pub fn tls_go_copy(context: ProbeContext) -> u32 {
    on_kernel_stack(&context);
    if let Some(thread) = current_target() {
        let registers = registers(&context);
        copies(&thread, registers, registers.rbx, registers.rcx);
    }
    0
}

/// `func (r *bytes.Reader) Read(b []byte) (n int, err error)`, called by `Read` where nothing is put in place.
#[uprobe]
pub fn tls_go_copy_reader(context: ProbeContext) -> u32 {
    on_kernel_stack(&context);
    /// Its beginning: `s []byte` and `i int64` (bytes/reader.go).
    #[derive(Clone, Copy)]
    #[repr(C)]
    struct Reader {
        bytes: u64,
        length: u64,
        capacity: u64,
        next: u64,
    }
    let Some(thread) = current_target() else { return 0 };
    let registers = registers(&context);
    let Some(reader) = read_user::<Reader>(registers.rax) else {
        count(Stat::TlsUnlinked);
        return 0;
    };
    let left = reader.length.saturating_sub(reader.next);
    let room = registers.rcx;
    let bytes = if room < left { room } else { left };
    copies(&thread, registers, reader.bytes.wrapping_add(reader.next), bytes);
    0
}

#[inline(always)]
fn copies(thread: &Thread, registers: &pt_regs, from: u64, bytes: u64) {
    // Where `Read` keeps its first argument: above the return address, which is above where the frame pointer points. User space has seen in its code
    // that it does.
    let handle = read_user(registers.rbp.wrapping_add(16)).unwrap_or(0);
    tls_go::copies(thread, handle, registers.r14, from, bytes);
}

/// `func (c *Conn) writeRecordLocked(typ recordType, data []byte) (int, error)`, called by `Write`.
#[uprobe]
pub fn tls_go_send(context: ProbeContext) -> u32 {
    on_kernel_stack(&context);
    let Some(thread) = current_target() else { return 0 };
    let registers = registers(&context);
    if registers.rbx as u8 == APPLICATION_DATA {
        let sends = Sends {
            handle: registers.rax,
            stack: registers.rsp,
            register: registers.r14,
            buffer: registers.rcx,
            bytes: registers.rdi,
        };
        tls_go::sends(&thread, &sends);
    }
    0
}

/// Behind that call.
#[uprobe]
pub fn tls_go_sent(context: ProbeContext) -> u32 {
    on_kernel_stack(&context);
    if let Some(thread) = current_target() {
        let registers = registers(&context);
        tls_go::sent(&thread, registers.rsp, registers.r14);
    }
    0
}
