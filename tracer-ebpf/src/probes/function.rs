//! Functions of targets: uprobes at their beginnings and ends, at places that user space found in their files. Each probe's cookie says which function it
//! is for ([`FUNCTIONS`]; kernel 5.15 and later).
//!
//! The kernel tells raw facts: who, where on which stack, the registers, texts behind them. Which return is which entry's, user space decides. Nothing
//! is kept here but the number of each thread's records, by which user space knows that one is missing. An entry costs some 0.8 µs where the kernel emulates
//! the probed instruction, of which this program takes a fifth.

use core::{ffi::c_void, ptr::null_mut};

use aya_ebpf::{
    EbpfContext as _,
    bindings::pt_regs,
    helpers::generated::{
        bpf_get_attach_cookie, bpf_get_current_comm, bpf_probe_read_user, bpf_probe_read_user_str,
    },
    macros::{uprobe, uretprobe},
    programs::{ProbeContext, RetProbeContext},
};
use tracer_ebpf::{
    AT_CONSTANT, AT_MEMORY, AT_REGISTER, ArgumentAt, CALL_GO, FLAG_HANDS_OVER, FUNCTION_REGISTERS,
    FUNCTION_TEXT_BYTES, FUNCTION_TEXTS, FunctionEnter, FunctionReturn, FunctionSpec, KIND_FUNCTION_ENTER,
    KIND_FUNCTION_RETURN, NO_REGISTER, NO_TEXT, RETURN_PROBES, STACK_BYTES, STACK_BYTES_ALL,
    STACK_FLAG_PLACE, STACKS_ALL, STACKS_NONE, STACKS_SLOW, Stat, TextAt,
};

use crate::{
    capture::{self, HEADS_ONLY, NO_PAYLOAD},
    conn,
    filter::{Thread, current_target},
    maps::{EVENTS, FUNCTION_NUMBERS, FUNCTION_OPEN, FUNCTIONS},
    memory::{on_kernel_stack, opaque, read_user},
    settings::setting,
    stack::{self, Frame, Open, Walk},
    stats::count,
    tls::Key,
};

/// Function, thread and registers of a hit.
struct Hit {
    thread: Thread,
    function: u32,
    spec: &'static FunctionSpec,
    goroutine: u64,
    stack: u64,
    number: u64,
    time: u64,
}

impl Hit {
    /// Whose stack it is.
    #[inline(always)]
    fn id(&self) -> u64 {
        if self.goroutine == 0 { u64::from(self.thread.tid) } else { self.goroutine }
    }

    /// Notes that a function has begun.
    #[inline(always)]
    fn remember(&self, mut caller: u64) {
        let frame = Frame { pid: self.thread.pid, zero: 0, id: self.id(), stack: self.stack };
        let mut time = self.time;
        if caller >= RETURN_PROBES {
            // Another function with a return probe has jumped here: both return at once, to where that would.
            // SAFETY: the value is copied at once.
            if let Some(open) = unsafe { FUNCTION_OPEN.get(frame) } {
                (time, caller) = (open.time, open.caller);
            }
        }
        let _ = FUNCTION_OPEN.insert(frame, Open { time, caller }, 0);
    }

    /// Who called a function that is about to return, if it was slow. The frames of its callers are what they were when it began.
    #[inline(always)]
    fn slow(&self, stack: u64, frame: u64, first: impl Fn() -> u64) {
        if setting!(stacks) != STACKS_SLOW {
            return;
        }
        let key = Frame { pid: self.thread.pid, zero: 0, id: self.id(), stack: self.stack };
        // SAFETY: the value is copied at once.
        let Some(open) = (unsafe { FUNCTION_OPEN.get(key) }) else {
            count(Stat::StackUnknown);
            return;
        };
        if self.time.wrapping_sub(open.time) >= setting!(stack_ns) {
            self.tell_stack::<STACK_BYTES>(first(), stack, frame, 0);
        }
    }

    /// The stack at a place that is passed.
    #[inline(always)]
    fn tell_place(&self, top: u64, place: u64, frame: u64) {
        let (thread, id, number, time) = (self.thread, self.id(), self.number, self.time);
        let (first, stack, flags) = (place, top, STACK_FLAG_PLACE);
        stack::tell::<0, 0, STACK_BYTES_ALL>(
            &Walk { thread, id, number, time, first, stack, frame, flags },
            null_mut(),
        );
    }

    #[inline(always)]
    fn tell_stack<const N: usize>(&self, first: u64, stack: u64, frame: u64, flags: u16) {
        let (thread, id, number, time) = (self.thread, self.id(), self.number, self.time);
        let walk = Walk { thread, id, number, time, first, stack, frame, flags };
        if self.spec.convention == CALL_GO {
            // Which keeps frame pointers.
            stack::tell::<0, 0, 0>(&walk, null_mut());
        } else {
            stack::tell::<0, 0, N>(&walk, null_mut());
        }
    }
}

/// Notes that a function begins, and tells who called it where that is asked of all. `top`: the stack pointer, `place`: the probed place.
#[inline(always)]
fn begins(hit: &Hit, top: u64, place: u64, frame: u64) {
    if setting!(stacks) == STACKS_NONE {
        return;
    }
    if hit.spec.is_place != 0 {
        if setting!(stacks) == STACKS_ALL {
            hit.tell_place(top, place, frame);
        }
        return;
    }
    let mut caller = read_user(top).unwrap_or(0);
    hit.remember(caller);
    if setting!(stacks) == STACKS_ALL {
        if caller >= RETURN_PROBES {
            caller = stack::caller_of(hit.thread.pid, hit.id(), hit.stack);
        }
        hit.tell_stack::<STACK_BYTES_ALL>(caller, top + 8, frame, 0);
    }
}

/// Reads a register. Each by itself: a context can be read at constant offsets alone.
macro_rules! register {
    ($context:expr, $name:ident) => {
        // SAFETY: the context of such a program is its registers.
        unsafe { (&raw const (*$context.as_ptr().cast::<pt_regs>()).$name).read_volatile() }
    };
}

/// Whose hit it is. `above`: how far above the place for the return address the stack pointer is.
#[inline(always)]
fn hit(context: *mut c_void, stack: u64, g: u64, above: u64) -> Option<Hit> {
    let thread = current_target()?;
    // SAFETY: the program's own context.
    let function = unsafe { bpf_get_attach_cookie(context) } as u32;
    if function == 0 {
        return None;
    }
    let spec = FUNCTIONS.get(function)?;
    let key = Key { pid: thread.pid, zero: 0, id: u64::from(thread.tid) };
    let number = match FUNCTION_NUMBERS.get_ptr_mut(key) {
        Some(number) => {
            // SAFETY: map values stay readable for the program's run; only this thread touches the entry.
            unsafe {
                *number += 1;
                *number
            }
        }
        None => {
            let _ = FUNCTION_NUMBERS.insert(key, 1, 0);
            1
        }
    };
    let (mut goroutine, mut stack) = (0, stack - above);
    if spec.convention == CALL_GO {
        /// `g.stack.hi` (runtime/runtime2.go).
        const HI: u64 = 8;
        let Some(top) = read_user::<u64>(g + HI) else {
            count(Stat::ReadFault);
            return None;
        };
        goroutine = g;
        stack = stack.wrapping_sub(top);
    }
    Some(Hit { thread, function, spec, goroutine, stack, number, time: conn::now() })
}

/// How full the ring is; `None`: too full for records of functions. Counts.
#[inline(always)]
fn room() -> Option<(bool, u64)> {
    count(Stat::EventsAttempted);
    let (pressure, wake) = capture::pressure();
    if pressure >= HEADS_ONLY {
        count(Stat::RefusedFunction);
        return None;
    }
    Some((pressure < NO_PAYLOAD, wake))
}

/// A record and room for its texts.
#[repr(C)]
struct WithTexts {
    record: FunctionEnter,
    texts: [[u8; FUNCTION_TEXT_BYTES]; FUNCTION_TEXTS],
}

/// A record and room for its text.
#[repr(C)]
struct WithText {
    record: FunctionReturn,
    text: [u8; FUNCTION_TEXT_BYTES],
}

/// Copies a text; gives its length.
#[inline(always)]
unsafe fn copy(to: *mut u8, address: u64, length: Option<u64>) -> u16 {
    const ROOM: u64 = FUNCTION_TEXT_BYTES as u64;
    let n = match length {
        Some(length) => {
            let length = if length > ROOM { ROOM } else { length };
            let length = opaque(length);
            if length > ROOM {
                return NO_TEXT;
            }
            // SAFETY: the destination has the room; the source may be anything.
            match unsafe { bpf_probe_read_user(to.cast(), length as u32, address as *const c_void) } {
                0 => length as i64,
                error => error,
            }
        }
        // SAFETY: as above. Its length counts the zero.
        None => unsafe {
            bpf_probe_read_user_str(to.cast(), ROOM as u32, address as *const c_void) as i64 - 1
        },
    };
    if n < 0 {
        count(Stat::FunctionTextFault);
        return NO_TEXT;
    }
    n as u16
}

#[inline(always)]
unsafe fn fill_enter(record: *mut FunctionEnter, hit: &Hit) {
    // SAFETY: `record` is a reservation of the ring (caller); each field is written once, by itself.
    unsafe {
        (&raw mut (*record).header.time_ns).write_volatile(hit.time);
        (&raw mut (*record).header.kind).write_volatile(KIND_FUNCTION_ENTER);
        (&raw mut (*record).header.flags).write_volatile(0);
        (&raw mut (*record).header.length).write_volatile(size_of::<FunctionEnter>() as u32);
        (&raw mut (*record).number).write_volatile(hit.number);
        (&raw mut (*record).stack).write_volatile(hit.stack);
        (&raw mut (*record).goroutine).write_volatile(hit.goroutine);
        let caller = if hit.spec.by_return_probe != 0 { read_user(hit.stack).unwrap_or(0) } else { 0 };
        (&raw mut (*record).caller).write_volatile(caller);
        (&raw mut (*record).text_lengths).cast::<u64>().write_volatile(u64::MAX);
        (&raw mut (*record).function).write_volatile(hit.function);
        (&raw mut (*record).pid).write_volatile(hit.thread.pid);
        (&raw mut (*record).tid).write_volatile(hit.thread.tid);
        (&raw mut (*record).n_texts).write_volatile(0);
        bpf_get_current_comm((&raw mut (*record).comm).cast(), 16);
    }
}

/// The registers of arguments, in the order of the convention.
#[inline(always)]
unsafe fn fill_registers(record: *mut FunctionEnter, context: *mut c_void, convention: u8) {
    let put = |i: usize, value: u64| {
        // SAFETY: as in `fill_enter`.
        unsafe { (&raw mut (*record).registers).cast::<u64>().add(i).write_volatile(value) };
    };
    let context = Context(context);
    if convention == CALL_GO {
        put(0, register!(context, rax));
        put(1, register!(context, rbx));
        put(2, register!(context, rcx));
        put(3, register!(context, rdi));
        put(4, register!(context, rsi));
        put(5, register!(context, r8));
        put(6, register!(context, r9));
        put(7, register!(context, r10));
    } else {
        put(0, register!(context, rdi));
        put(1, register!(context, rsi));
        put(2, register!(context, rdx));
        put(3, register!(context, rcx));
        put(4, register!(context, r8));
        put(5, register!(context, r9));
        put(6, 0);
        put(7, 0);
    }
}

/// A context by its address.
struct Context(*mut c_void);

impl Context {
    #[inline(always)]
    fn as_ptr(&self) -> *mut c_void {
        self.0
    }
}

/// Copies the texts behind registers that are in the record already.
#[inline(always)]
unsafe fn fill_texts(entry: *mut WithTexts, spec: &FunctionSpec) {
    const MASK: u64 = FUNCTION_REGISTERS as u64 - 1;
    // SAFETY: `entry` is a reservation of the ring (caller); the masks keep reads within the registers.
    unsafe {
        let registers = (&raw const (*entry).record.registers).cast::<u64>();
        let lengths = (&raw mut (*entry).record.text_lengths).cast::<u16>();
        let mut i = 0;
        while i < FUNCTION_TEXTS {
            if i >= spec.n_texts as usize {
                break;
            }
            let TextAt { address, length } = spec.texts[i];
            let address = registers.add((opaque(u64::from(address)) & MASK) as usize).read_volatile();
            let length = (length != NO_REGISTER)
                .then(|| registers.add((opaque(u64::from(length)) & MASK) as usize).read_volatile());
            let n = copy((&raw mut (*entry).texts[i]).cast(), address, length);
            lengths.add(i).write_volatile(n);
            i += 1;
        }
        (&raw mut (*entry).record.n_texts).write_volatile(u32::from(spec.n_texts));
        let texts = u32::from(spec.n_texts) * FUNCTION_TEXT_BYTES as u32;
        (&raw mut (*entry).record.header.length).write_volatile(size_of::<FunctionEnter>() as u32 + texts);
    }
}

/// Tells that a function begins, or that a place is passed.
#[inline(always)]
fn enter(hit: &Hit, fill: impl Fn(*mut FunctionEnter)) {
    let Some((has_room, wake)) = room() else { return };
    let wants_texts = hit.spec.n_texts != 0;
    if wants_texts && has_room {
        let Some(mut entry) = EVENTS.reserve::<WithTexts>(0) else {
            count(Stat::RefusedFunction);
            return;
        };
        count(Stat::EventsReserved);
        let record: *mut WithTexts = entry.as_mut_ptr();
        // SAFETY: a reservation of the ring.
        unsafe {
            fill_enter(&raw mut (*record).record, hit);
            fill(&raw mut (*record).record);
            fill_texts(record, hit.spec);
        }
        entry.submit(wake);
        return;
    }
    if wants_texts {
        count(Stat::FunctionTextLeftOut);
    }
    let Some(mut entry) = EVENTS.reserve::<FunctionEnter>(0) else {
        count(Stat::RefusedFunction);
        return;
    };
    count(Stat::EventsReserved);
    // SAFETY: a reservation of the ring.
    unsafe { fill_enter(entry.as_mut_ptr(), hit) };
    fill(entry.as_mut_ptr());
    entry.submit(wake);
}

/// A function's beginning, where its arguments are in their registers and its return address is on top of the stack; or a place in it.
#[uprobe]
pub fn function_enter(context: ProbeContext) -> u32 {
    on_kernel_stack(&context);
    let at = context.as_ptr();
    let Some(hit) = hit(at, register!(context, rsp), register!(context, r14), 0) else { return 0 };
    begins(&hit, register!(context, rsp), register!(context, rip), register!(context, rbp));
    // SAFETY: the record is a reservation of the ring.
    enter(&hit, |record| unsafe { fill_registers(record, at, hit.spec.convention) });
    0
}

/// A mark (USDT). Without a stack: Linux 6.1 walks 806,000 instructions as it is, and 1,000,000 are the limit.
#[uprobe]
pub fn function_mark(context: ProbeContext) -> u32 {
    on_kernel_stack(&context);
    let at = context.as_ptr();
    let Some(hit) = hit(at, register!(context, rsp), register!(context, r14), 0) else { return 0 };
    enter(&hit, |record| {
        let mut unread = 0;
        let mut i = 0;
        while i < FUNCTION_REGISTERS {
            let mut is_unread = 0;
            let value = argument(at, &hit.spec.places[i], &mut is_unread);
            unread |= (is_unread as u16 & 1) << i;
            // SAFETY: a reservation of the ring.
            unsafe { (&raw mut (*record).registers).cast::<u64>().add(i).write_volatile(value) };
            i += 1;
        }
        if unread != 0 {
            count(Stat::FunctionTextFault);
        }
        // SAFETY: a reservation of the ring.
        unsafe { (&raw mut (*record).header.flags).write_volatile(unread) };
    });
    0
}

/// The value of a mark's argument, extended to 64 bits. What cannot be read sets `is_unread` to 1.
#[inline(never)]
fn argument(context: *mut c_void, at: &ArgumentAt, is_unread: &mut u64) -> u64 {
    let value = match at.kind {
        AT_CONSTANT => at.value as u64,
        AT_REGISTER => numbered(context, at.register),
        AT_MEMORY => {
            let address = numbered(context, at.register).wrapping_add(at.value as u64);
            match read_user(address) {
                Some(value) => value,
                None => {
                    *is_unread = 1;
                    0
                }
            }
        }
        _ => 0,
    };
    match at.size {
        1 => value & 0xff,
        2 => value & 0xffff,
        4 => value & 0xffff_ffff,
        -1 => i64::from(value as i8) as u64,
        -2 => i64::from(value as i16) as u64,
        -4 => i64::from(value as i32) as u64,
        _ => value,
    }
}

/// A register by its number in the instruction set. All are read, and then one is chosen: a choice of places to read from is none that the verifier
/// allows.
#[inline(always)]
fn numbered(context: *mut c_void, number: u8) -> u64 {
    let context = Context(context);
    let mut all = core::mem::MaybeUninit::<[u64; 16]>::uninit();
    let at = all.as_mut_ptr().cast::<u64>();
    let put = |i: usize, value: u64| {
        // SAFETY: within the array.
        unsafe { at.add(i).write_volatile(value) };
    };
    put(0, register!(context, rax));
    put(1, register!(context, rcx));
    put(2, register!(context, rdx));
    put(3, register!(context, rbx));
    put(4, register!(context, rsp));
    put(5, register!(context, rbp));
    put(6, register!(context, rsi));
    put(7, register!(context, rdi));
    put(8, register!(context, r8));
    put(9, register!(context, r9));
    put(10, register!(context, r10));
    put(11, register!(context, r11));
    put(12, register!(context, r12));
    put(13, register!(context, r13));
    put(14, register!(context, r14));
    put(15, register!(context, r15));
    // SAFETY: within the array, all of which was written.
    unsafe { at.add((opaque(u64::from(number)) & 15) as usize).read_volatile() }
}

/// Tells that a function ends.
#[inline(always)]
fn end(hit: &Hit, value: u64, second: u64, flags: u16) {
    let Some((has_room, wake)) = room() else { return };
    let TextAt { address, length } = hit.spec.returned;
    let is_text = address != NO_REGISTER && flags == 0;
    if is_text && has_room {
        let Some(mut entry) = EVENTS.reserve::<WithText>(0) else {
            count(Stat::RefusedFunction);
            return;
        };
        count(Stat::EventsReserved);
        let record: *mut WithText = entry.as_mut_ptr();
        // SAFETY: a reservation of the ring.
        unsafe {
            fill_return(&raw mut (*record).record, hit, value, flags);
            let length = (length != NO_REGISTER).then_some(second);
            let n = copy((&raw mut (*record).text).cast(), value, length);
            (&raw mut (*record).record.text_length).write_volatile(n);
            if n != NO_TEXT {
                let whole = (size_of::<FunctionReturn>() + FUNCTION_TEXT_BYTES) as u32;
                (&raw mut (*record).record.header.length).write_volatile(whole);
            }
        }
        entry.submit(wake);
        return;
    }
    if is_text {
        count(Stat::FunctionTextLeftOut);
    }
    let Some(mut entry) = EVENTS.reserve::<FunctionReturn>(0) else {
        count(Stat::RefusedFunction);
        return;
    };
    count(Stat::EventsReserved);
    // SAFETY: a reservation of the ring.
    unsafe { fill_return(entry.as_mut_ptr(), hit, value, flags) };
    entry.submit(wake);
}

#[inline(always)]
unsafe fn fill_return(record: *mut FunctionReturn, hit: &Hit, value: u64, flags: u16) {
    // SAFETY: as in `fill_enter`.
    unsafe {
        (&raw mut (*record).header.time_ns).write_volatile(hit.time);
        (&raw mut (*record).header.kind).write_volatile(KIND_FUNCTION_RETURN);
        (&raw mut (*record).header.flags).write_volatile(flags);
        (&raw mut (*record).header.length).write_volatile(size_of::<FunctionReturn>() as u32);
        (&raw mut (*record).number).write_volatile(hit.number);
        (&raw mut (*record).stack).write_volatile(hit.stack);
        (&raw mut (*record).goroutine).write_volatile(hit.goroutine);
        (&raw mut (*record).value).write_volatile(value);
        (&raw mut (*record).function).write_volatile(hit.function);
        (&raw mut (*record).pid).write_volatile(hit.thread.pid);
        (&raw mut (*record).tid).write_volatile(hit.thread.tid);
        (&raw mut (*record).text_length).write_volatile(NO_TEXT);
        (&raw mut (*record).reserved).write_volatile(0);
    }
}

/// Back in the caller: by a return probe.
#[uretprobe]
pub fn function_return(context: RetProbeContext) -> u32 {
    on_kernel_stack(&context);
    // The return address has been taken from the stack.
    let Some(hit) = hit(context.as_ptr(), register!(context, rsp), 0, 8) else { return 0 };
    hit.slow(register!(context, rsp), register!(context, rbp), || register!(context, rip));
    end(&hit, register!(context, rax), register!(context, rdx), 0);
    0
}

/// At an instruction that returns, or that jumps out of the function: where a return probe would end the program (exceptions find their way by
/// the return addresses on the stack, which such a probe replaces; Go's stacks move).
#[uprobe]
pub fn function_end(context: ProbeContext) -> u32 {
    on_kernel_stack(&context);
    let Some(hit) = hit(context.as_ptr(), register!(context, rsp), register!(context, r14), 0) else {
        return 0;
    };
    let top = register!(context, rsp);
    hit.slow(top + 8, register!(context, rbp), || read_user(top).unwrap_or(0));
    // Both are read, and then one is chosen: a choice of places to read from is none that the verifier allows.
    let (c, go) = (opaque(register!(context, rdx)), opaque(register!(context, rbx)));
    let second = if hit.spec.convention == CALL_GO { go } else { c };
    end(&hit, register!(context, rax), second, 0);
    0
}

/// At a jump out of the function.
#[uprobe]
pub fn function_tail(context: ProbeContext) -> u32 {
    on_kernel_stack(&context);
    let Some(hit) = hit(context.as_ptr(), register!(context, rsp), register!(context, r14), 0) else {
        return 0;
    };
    let top = register!(context, rsp);
    hit.slow(top + 8, register!(context, rbp), || read_user(top).unwrap_or(0));
    end(&hit, 0, 0, FLAG_HANDS_OVER);
    0
}
