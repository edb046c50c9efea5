//! What a thread runs in Python: the frames of CPython's interpreter, which keeps them in memory of its own and not on the thread's stack.
//!
//! They are read at the moment of the sample or of the end of the wait: a moment later they are those of other functions. Where they are depends on the version, which user
//! space knows ([`PYTHON_PROCESSES`]); what is in them is read there too. A thread is known by its address of thread-local storage, which is what `pthread_self` gives: its number is another
//! one within a container, and in CPython 3.11 the parent's in a child that did not execute a program.

use core::ffi::c_void;

use aya_ebpf::helpers::{bpf_get_current_task, generated::bpf_probe_read_user};
use tracer_ebpf::{
    NO_OFFSET, PYTHON_FRAME_WORDS, PYTHON_FRAMES, PYTHON_THREADS, PythonProcess, STACK_END_FAULT,
    STACK_END_LIMIT, STACK_END_WHOLE, Stack, Stat,
};

use crate::{
    maps::PYTHON_PROCESSES,
    memory::{Memory as _, Probed, read_user},
    settings::setting,
    stats::count,
};

/// Bytes of the head of a frame.
const HEAD: usize = 8 * PYTHON_FRAME_WORDS;
/// Of [`PythonProcess::frame_previous`]: a word of the head.
const WORD: u32 = 0x38;
const _: () = assert!(WORD as usize + 8 <= HEAD);

/// A program of Python.
#[inline(always)]
pub fn process(pid: u32) -> Option<&'static PythonProcess> {
    if setting!(offsets.task_thread_fsbase) == NO_OFFSET {
        return None;
    }
    // SAFETY: map values stay readable for the program's run. User space replaces a value as a whole; half of one makes a read fail.
    unsafe { PYTHON_PROCESSES.get(pid) }
}

/// Copies the heads of the frames of the running thread, the innermost first, and says in the record how many they are. `heads` has room for [`PYTHON_FRAMES`].
///
/// A function of its own, which gives nothing back: to the verifier all its paths end in one state.
#[inline(never)]
pub fn tell(record: *mut Stack, heads: *mut u8, pid: u32) {
    let mut n = 0;
    let mut end = STACK_END_WHOLE;
    if let Some(process) = process(pid) {
        let mut frame = current_frame(process);
        while n < PYTHON_FRAMES {
            if frame == 0 {
                break;
            }
            // SAFETY: within the room for them, whose bounds the verifier sees.
            unsafe {
                let head = heads.add(HEAD * n);
                if bpf_probe_read_user(head.cast::<c_void>(), HEAD as u32, frame as *const c_void) != 0 {
                    end = STACK_END_FAULT;
                    break;
                }
                frame = head.add((process.frame_previous & WORD) as usize).cast::<u64>().read_volatile();
            }
            n += 1;
        }
        if n == PYTHON_FRAMES && frame != 0 {
            end = STACK_END_LIMIT;
        }
        if end == STACK_END_FAULT {
            count(Stat::PythonFault);
        }
    }
    // SAFETY: a record of the ring.
    unsafe {
        (&raw mut (*record).n_python).write_volatile(n as u32);
        (&raw mut (*record).python_end).write_volatile(end);
    }
}

/// The frame of the function that the running thread runs; 0 = it runs none.
#[inline(never)]
fn current_frame(process: &PythonProcess) -> u64 {
    let thread = thread_state(process);
    if thread == 0 {
        return 0;
    }
    let found = word(thread, process.thread_frame);
    match process.cframe_frame {
        NO_OFFSET => found,
        _ if found == 0 => 0,
        offset => word(found, offset),
    }
}

/// What CPython knows of the running thread; 0 = it is none of Python's, or not found.
#[inline(always)]
fn thread_state(process: &PythonProcess) -> u64 {
    // SAFETY: no arguments.
    let task = unsafe { bpf_get_current_task() } as *const u8;
    let id: u64 = Probed::read(task, setting!(offsets.task_thread_fsbase));
    let mut interpreter = read_user(process.interpreters).unwrap_or(0);
    let mut thread = 0;
    let mut i = 0;
    while i < PYTHON_THREADS {
        if thread != 0 {
            if word(thread, process.thread_id) == id {
                return thread;
            }
            thread = word(thread, process.thread_next);
        } else if interpreter != 0 {
            thread = word(interpreter, process.interpreter_threads);
            interpreter = word(interpreter, process.interpreter_next);
        } else {
            return 0;
        }
        i += 1;
    }
    count(Stat::PythonThreadUnknown);
    0
}

/// A word of the program's memory; 0 where it cannot be read.
#[inline(always)]
fn word(address: u64, offset: u32) -> u64 {
    read_user(address.wrapping_add(u64::from(offset))).unwrap_or(0)
}
