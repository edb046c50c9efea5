//! Reading kernel memory: by typed pointer where the verifier knows the pointer's type (free of helper calls), by
//! probe read where it does not. The same code serves both.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::{bpf_probe_read_kernel, bpf_probe_read_user};

/// How to follow kernel pointers.
pub trait Memory {
    /// Reads a `T` at `base + offset`; 0 where the memory cannot be read.
    fn read<T: Copy>(base: *const u8, offset: u32) -> T;
}

/// The pointer came from a tracing program's argument (PTR_TO_BTF_ID), and so do all pointers read through it.
pub struct Typed;

impl Memory for Typed {
    #[inline(always)]
    fn read<T: Copy>(base: *const u8, offset: u32) -> T {
        // SAFETY: the verifier checks the member; a fault reads 0 (exception table).
        unsafe { core::ptr::read_volatile(base.add(offset as usize).cast::<T>()) }
    }
}

/// Any kernel pointer.
pub struct Probed;

impl Memory for Probed {
    #[inline(always)]
    fn read<T: Copy>(base: *const u8, offset: u32) -> T {
        let mut value = core::mem::MaybeUninit::<T>::uninit();
        // SAFETY: the destination has the size given; the source may be anything; a fault fills the destination with zeros.
        unsafe {
            bpf_probe_read_kernel(
                value.as_mut_ptr().cast::<c_void>(),
                size_of::<T>() as u32,
                base.wrapping_add(offset as usize).cast::<c_void>(),
            );
            value.assume_init()
        }
    }
}

/// Reads a plain struct from user memory.
#[inline(always)]
pub fn read_user<T: Copy>(address: u64) -> Option<T> {
    let mut value = core::mem::MaybeUninit::<T>::uninit();
    // SAFETY: the destination has the size given; the source may be anything. `T` is plain integers (callers).
    unsafe {
        if bpf_probe_read_user(
            value.as_mut_ptr().cast::<c_void>(),
            size_of::<T>() as u32,
            address as *const c_void,
        ) != 0
        {
            return None;
        }
        Some(value.assume_init())
    }
}

/// Hides where a value came from, so that the compiler keeps the bounds check behind it for the verifier to see.
#[inline(always)]
pub fn opaque(mut value: u64) -> u64 {
    // SAFETY: a move of a register to itself. (A real instruction: two line records for one instruction are refused.)
    unsafe { core::arch::asm!("{0} = {0}", inout(reg) value, options(pure, nomem, nostack)) };
    value
}

/// Fills a value with zeros, word by word: the compiler's memset is a call to a loop over bytes, which the verifier walks
/// byte by byte at each call site.
///
/// # Safety
///
/// `T` must be plain integers, aligned to 8, with a size that is a multiple of 8; `to` must be writable.
#[inline(always)]
pub unsafe fn zero<T>(to: *mut T) {
    let words = to.cast::<u64>();
    let mut i = 0;
    while i < size_of::<T>() / 8 {
        // SAFETY: within `T` (caller's promise).
        unsafe { words.add(i).write_volatile(0) };
        i += 1;
    }
}

/// Copies a value word by word (see [`zero`]).
///
/// # Safety
///
/// As [`zero`]; `from` must be readable.
#[inline(always)]
pub unsafe fn copy_words<T>(to: *mut T, from: *const T) {
    let (to, from) = (to.cast::<u64>(), from.cast::<u64>());
    let mut i = 0;
    while i < size_of::<T>() / 8 {
        // SAFETY: within `T` (caller's promise).
        unsafe { to.add(i).write_volatile(from.add(i).read_volatile()) };
        i += 1;
    }
}

/// Makes the verifier forget what it knows of a struct on the stack: copies it onto itself with a helper. The paths that led to
/// different constants in it then become one; without this, one program per system call family passed the verifier's limit
/// of 1,000,000 instructions walked.
///
/// # Safety
///
/// `T` must be plain integers: to the verifier, pointers in it are integers afterwards.
#[inline(always)]
pub unsafe fn forget<T>(value: &mut T) {
    let at = core::ptr::from_mut(value).cast::<c_void>();
    // SAFETY: source and destination are the same `T`.
    unsafe { bpf_probe_read_kernel(at, size_of::<T>() as u32, at) };
}

/// Makes the verifier forget what it knows of a number, at the price of four instructions: `unknown` is a time, of which it
/// does not know that its highest bit is 0. A number that is compared must be told apart from every other value that it might have at
/// that place; one that is not known is one state, and the paths before it meet.
#[inline(always)]
pub fn hide(mut value: u64, unknown: u64) -> u64 {
    // SAFETY: arithmetic on registers. value ^ (sign of `unknown` as a mask & `unknown`): the mask is 0.
    unsafe {
        core::arch::asm!(
            "{mask} = {unknown}",
            "{mask} s>>= 63",
            "{mask} &= {unknown}",
            "{value} ^= {mask}",
            mask = out(reg) _,
            unknown = in(reg) unknown,
            value = inout(reg) value,
            options(pure, nomem, nostack)
        );
    }
    value
}

/// Keeps a program for functions on the thread's own stack. From Linux 6.13 on a program may get a stack of its own for each CPU (a private stack), which nothing keeps from
/// being used twice at once: programs on functions may be preempted, and another thread then runs the same one on the same CPU. On Linux 7.3, which preempts, a pointer
/// on that stack was another thread's, and the kernel oopsed. Where there is a tail call, reached or not, the verifier gives no such stack (`check_max_stack_depth`, kernel/bpf/verifier.c).
#[inline(always)]
pub fn on_kernel_stack<C: aya_ebpf::EbpfContext>(context: &C) {
    if crate::settings::setting!(reserved) != 0 {
        // SAFETY: it is never reached: the setting is 0.
        unsafe { crate::maps::NO_PROGRAMS.tail_call(context, 0) };
    }
}
