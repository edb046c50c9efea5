//! Where a thread is at this moment, by what the kernel says of it in /proc: nothing of the process is stopped or touched.
//!
//! proc(5): `/proc/PID/task/TID/stat` (the state), `syscall` (the call that it is in, its arguments, stack and instruction pointer), `stack` (the kernel's functions), `/proc/PID/mem`.

use std::{
    fs::{self, File},
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use tracer_ebpf as abi;

use super::stacks::Resolver;
use crate::{
    event::{OffCpu, Stack},
    transaction::{
        CallStack,
        anatomy::{Reason, reason},
        stacks::frames_text,
    },
};

/// What a thread does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Doing {
    /// It runs, or could.
    Running,
    /// It waits.
    Waiting {
        /// For what.
        reason: Reason,
        /// The file, or the address of the lock, where there is one.
        on: Option<String>,
    },
    /// Nothing is known: it is gone, or may not be looked at.
    Unknown,
}

impl Doing {
    /// In a word.
    pub fn word(&self) -> &'static str {
        match self {
            Doing::Running => "cpu",
            Doing::Waiting { reason, .. } => reason.as_str(),
            Doing::Unknown => "?",
        }
    }

    /// In a sentence.
    pub fn sentence(&self) -> String {
        match self {
            Doing::Running => "on a CPU, or waiting for one".to_owned(),
            Doing::Waiting { reason, on } => {
                let on = on.as_ref().map(|on| format!(": {on}")).unwrap_or_default();
                format!("{}{on}", reason.label())
            }
            Doing::Unknown => "not known: it is gone, or may not be looked at".to_owned(),
        }
    }
}

/// The call that a thread is in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Place {
    /// Its number; `None`: it waits outside of one.
    call: Option<u32>,
    argument: u64,
    stack: u64,
    instruction: u64,
}

/// Looks.
#[derive(Debug)]
pub struct Looker {
    proc_root: PathBuf,
    resolver: Resolver,
}

impl Looker {
    /// `proc_root` is `/proc`.
    pub fn new(proc_root: &Path) -> Looker {
        Looker { proc_root: proc_root.to_owned(), resolver: Resolver::new(proc_root, false) }
    }

    /// What a thread does.
    pub fn doing(&self, pid: u32, tid: u32) -> Doing {
        let thread = self.thread(pid, tid);
        let Some(state) = fs::read_to_string(thread.join("stat")).ok().and_then(|text| state(&text)) else {
            return Doing::Unknown;
        };
        if state == 'R' {
            return Doing::Running;
        }
        let text = fs::read_to_string(thread.join("syscall")).unwrap_or_default();
        if text.trim() == "running" {
            return Doing::Running;
        }
        let Some(place) = place(&text) else { return Doing::Unknown };
        let file = self.proc_root.join(format!("{pid}/fd/{}", place.argument));
        let of_file = fs::metadata(&file).map_or(0, |metadata| (metadata.mode() & 0o170_000) as u16);
        let flags = match state {
            'T' | 't' => abi::OFF_FLAG_STOPPED,
            'D' => abi::OFF_FLAG_IO_WAIT,
            _ => 0,
        };
        let call = place.call.unwrap_or(abi::OFF_NO_CALL);
        let off = OffCpu { call, argument: place.argument, file: of_file, flags, ..OffCpu::default() };
        // Without the flag for those that could go on there is always a reason.
        let reason = reason(&off).unwrap_or(Reason::Other);
        let on = match reason {
            Reason::Futex => Some(format!("at {:#x}", place.argument)),
            Reason::Disk | Reason::Pipe | Reason::Network | Reason::Other if of_file != 0 => {
                fs::read_link(&file).ok().map(|path| path.to_string_lossy().into_owned())
            }
            _ => None,
        };
        Doing::Waiting { reason, on }
    }

    /// The stack in which a thread waits; `None`: it runs, or may not be looked at.
    pub fn stack(&mut self, pid: u32, tid: u32) -> Option<CallStack> {
        let thread = self.thread(pid, tid);
        let before = place(&fs::read_to_string(thread.join("syscall")).ok()?)?;
        let kernel = fs::read_to_string(thread.join("stack")).unwrap_or_default();
        let mut copy = vec![0; abi::STACK_BYTES];
        let memory = File::open(self.proc_root.join(format!("{pid}/mem"))).ok()?;
        let n = memory.read_at(&mut copy, before.stack).ok()?;
        copy.truncate(n);
        // It has gone on meanwhile: what was read is a mixture.
        if place(&fs::read_to_string(thread.join("syscall")).ok()?)? != before {
            return None;
        }
        let mut stack = Stack {
            pid,
            tid,
            addresses: vec![before.instruction],
            is_place: true,
            // The frame pointer is not told: where a caller is found by it alone, the stack ends.
            pointers: [before.stack, 0],
            copy: Bytes::from(copy),
            ..Stack::default()
        };
        self.resolver.resolve(&mut stack);
        let mut frames: Vec<String> = kernel.lines().filter_map(kernel_frame).collect();
        frames.extend(serde_json::from_str::<Vec<String>>(&stack.frames).unwrap_or_default());
        Some(CallStack { frames: frames_text(&frames), end: stack.end })
    }

    fn thread(&self, pid: u32, tid: u32) -> PathBuf {
        self.proc_root.join(format!("{pid}/task/{tid}"))
    }
}

/// The state, behind the name in parentheses, which may hold any.
fn state(stat: &str) -> Option<char> {
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}

/// `NUMBER ARGUMENT … STACK INSTRUCTION`, or `-1 STACK INSTRUCTION`.
fn place(syscall: &str) -> Option<Place> {
    let mut fields = syscall.split_ascii_whitespace();
    let number: i64 = fields.next()?.parse().ok()?;
    let rest: Vec<u64> = fields
        .map(|field| u64::from_str_radix(field.trim_start_matches("0x"), 16).ok())
        .collect::<Option<_>>()?;
    let [.., stack, instruction] = rest[..] else { return None };
    let call = u32::try_from(number).ok();
    let argument = if call.is_some() && rest.len() > 2 { rest[0] } else { 0 };
    Some(Place { call, argument, stack, instruction })
}

/// `[<0>] function+0x12/0x34`, behind which the module may stand in brackets.
fn kernel_frame(line: &str) -> Option<String> {
    let rest = line.split_once("] ")?.1.trim();
    let (place, module) = rest.split_once(' ').unwrap_or((rest, ""));
    let place = place.split_once('/').map_or(place, |(place, _)| place);
    let module = module.trim_matches(['[', ']']);
    let space = if module.is_empty() { "" } else { " " };
    Some(format!("{place} (kernel{space}{module})"))
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread, time::Duration};

    use super::*;

    #[test]
    fn lines_of_proc_are_read() {
        assert_eq!(state("7 (a) b) S 1 2"), Some('S'));
        assert_eq!(state("7"), None);
        let there = Place { call: Some(202), argument: 0x7f00, stack: 0x10, instruction: 0x20 };
        assert_eq!(place("202 0x7f00 0x80 0x0 0x0 0x0 0x0 0x10 0x20\n"), Some(there));
        let outside = Place { call: None, argument: 0, stack: 0x10, instruction: 0x20 };
        assert_eq!(place("-1 0x10 0x20\n"), Some(outside));
        assert_eq!((place("running"), place("")), (None, None));
        assert_eq!(kernel_frame("[<0>] futex_wait+0x67/0xf0"), Some("futex_wait+0x67 (kernel)".to_owned()));
        assert_eq!(
            kernel_frame("[<0>] nfs_wait+0x1/0x2 [nfs]"),
            Some("nfs_wait+0x1 (kernel nfs)".to_owned())
        );
        assert_eq!(kernel_frame("nonsense"), None);
    }

    #[test]
    fn a_thread_that_waits_is_found_where_it_waits() {
        let (tell, told) = mpsc::channel();
        let (end, until) = mpsc::channel::<()>();
        let waits = thread::spawn(move || {
            // SAFETY: no arguments.
            tell.send(unsafe { libc::gettid() } as u32).unwrap();
            until.recv().unwrap_err();
        });
        let (pid, tid) = (std::process::id(), told.recv().unwrap());
        let mut looker = Looker::new(Path::new("/proc"));
        let waiting = |doing: &Doing| matches!(doing, Doing::Waiting { reason: Reason::Futex, on: Some(_) });
        let stack = (0..1000).find_map(|_| {
            thread::sleep(Duration::from_millis(5));
            looker.stack(pid, tid).filter(|_| waiting(&looker.doing(pid, tid)))
        });
        let frames: Vec<String> = serde_json::from_str(&stack.unwrap().frames).unwrap();
        // Unoptimised code finds its callers by the frame pointer, which is not told: no further than that.
        assert!(
            frames[0].ends_with(" (kernel)") && frames.iter().any(|frame| frame.contains("park")),
            "{frames:?}"
        );
        drop(end);
        waits.join().unwrap();
        assert_eq!((looker.doing(pid, u32::MAX), looker.stack(pid, u32::MAX)), (Doing::Unknown, None));
    }
}
