//! Tries probes out before a target is touched: on a process of txray's own, with the very programs and kinds of places that targets get.
//!
//! Two things can go wrong, and neither may happen to a target. A kernel may refuse such probes. And one from 6.11 on answers a return probe with a
//! system call that the program itself never made (`uretprobe`, `uprobe`): a program that has confined itself (seccomp) is killed for it, unless the
//! kernel excepts these calls (6.13.2, and stable kernels since; kernel/seccomp.c). The trial says what a call costs, too.

use std::{
    arch::global_asm,
    fs, io,
    os::fd::{FromRawFd as _, OwnedFd},
    path::Path,
    time::Duration,
};

use super::{
    uprobe_link::{self, Place},
    uprobe_programs::UprobeProgram,
};

// Begins as most functions do, with an instruction that the kernel emulates. (handle, buffer, length) → 0.
global_asm!(
    ".globl txray_probe_trial",
    ".type txray_probe_trial, @function",
    "txray_probe_trial:",
    "push rbx",
    "xor eax, eax",
    "pop rbx",
    "ret",
    ".size txray_probe_trial, . - txray_probe_trial",
);

unsafe extern "C" {
    fn txray_probe_trial(handle: u64, buffer: u64, length: u64) -> i32;
}

/// Calls in one round: 1.5 ms with probes.
const N_CALLS: u64 = 1000;
/// `uretprobe(2)`, `uprobe(2)` (arch/x86/entry/syscalls/syscall_64.tbl).
const SYS_URETPROBE: u32 = 335;
const SYS_UPROBE: u32 = 336;

/// What came of it.
#[derive(Debug)]
pub struct Trial {
    /// What an entry and a return probe add to a call whose process is no target, ns.
    pub ns_per_call: u64,
    /// Why programs that confine themselves must be left alone.
    pub harms_confined: Option<String>,
    /// Its probes, on which no process runs any more. What is attached behind their end would wait for it: they end with the others.
    pub links: Vec<OwnedFd>,
}

/// Tries both. An error: no such probe works here.
pub fn run(entry: &UprobeProgram, at_return: &UprobeProgram) -> Result<Trial, String> {
    let failed = |error: String| format!("a trial of probes failed: {error}");
    let free = Subject::fork(false).map_err(failed)?;
    let confined = Subject::fork(true);
    let offset = offset().ok_or_else(|| failed("its own file is not mapped".to_owned()))?;
    // On the file, once for both: nobody else calls it.
    let place = |at_return| Place { path: Path::new("/proc/self/exe"), offset, at_return, pid: None };
    let plain = free.calls();
    let wanted = [(entry, place(false)), (at_return, place(true))];
    let links: Result<Vec<OwnedFd>, io::Error> = uprobe_link::attach_all(&wanted).into_iter().collect();
    let outcome = links.map_err(|error| format!("attach: {error}")).and_then(|links| {
        let probed = free.calls();
        let of_confined = confined.and_then(|confined| {
            let called = confined.calls();
            // The younger one first: it has a copy of the other's input.
            confined.end().and(called)
        });
        Ok((probed?, of_confined.err(), links))
    });
    let ended = free.end();
    let (probed, harm, links) = outcome.map_err(failed)?;
    ended.map_err(failed)?;
    let harms_confined = harm.map(|error| {
        format!("on this kernel return probes end programs that confine themselves (seccomp): {error}")
    });
    let ns_per_call = probed.saturating_sub(plain.map_err(failed)?) / N_CALLS;
    Ok(Trial { ns_per_call, harms_confined, links })
}

/// Where the function lies in this program's own file.
fn offset() -> Option<u64> {
    let address = txray_probe_trial as *const () as u64;
    let maps = fs::read_to_string("/proc/self/maps").ok()?;
    maps.lines().find_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let number = |text| u64::from_str_radix(text, 16).ok();
        let (start, end, offset) = (number(start)?, number(end)?, number(fields.nth(1)?)?);
        (start..end).contains(&address).then(|| address - start + offset)
    })
}

/// A child that calls the function when it is asked to.
struct Subject {
    pid: u32,
    /// Its input; `None`: it was told to end.
    to: Option<OwnedFd>,
    from: OwnedFd,
}

impl Subject {
    fn fork(is_confined: bool) -> Result<Subject, String> {
        let (to_child, to) = pipe().map_err(|error| error.to_string())?;
        let (from, from_child) = pipe().map_err(|error| error.to_string())?;
        // SAFETY: the child makes system calls and calls a function without side effects, and nothing else: no allocation, no lock.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            // It must not keep its own input open.
            // SAFETY: descriptors of this process, closed once.
            unsafe {
                libc::close(raw(&to));
                libc::close(raw(&from));
            }
            child(raw(&to_child), raw(&from_child), is_confined);
        }
        if pid < 0 {
            return Err(format!("fork: {}", io::Error::last_os_error()));
        }
        Ok(Subject { pid: pid.cast_unsigned(), to: Some(to), from })
    }

    /// Lets it call the function; ns.
    fn calls(&self) -> Result<u64, String> {
        self.to.as_ref().map_or_else(|| Err("it has ended".to_owned()), |to| ask(raw(to), raw(&self.from)))
    }

    /// Waits for its end; how it ended.
    fn end(mut self) -> Result<(), String> {
        let status = self.wait();
        if libc::WIFSIGNALED(status) {
            return Err(format!("its process was ended by signal {}", libc::WTERMSIG(status)));
        }
        match libc::WEXITSTATUS(status) {
            0 => Ok(()),
            code => Err(format!("its process ended with {code}")),
        }
    }

    /// Its status, once.
    fn wait(&mut self) -> i32 {
        let mut status = 0;
        // Its input ends, and it with it.
        if self.to.take().is_some() {
            // SAFETY: a child of this process, and a place for its status.
            unsafe { libc::waitpid(self.pid.cast_signed(), &raw mut status, 0) };
        }
        status
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        self.wait();
    }
}

fn raw(fd: &OwnedFd) -> i32 {
    std::os::fd::AsRawFd::as_raw_fd(fd)
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors.
    if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: made just now, owned by nobody else.
    Ok(unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) })
}

/// One round of calls, ns. Waits for the child at most five seconds: a starved machine.
fn ask(to: i32, from: i32) -> Result<u64, String> {
    const PATIENCE: Duration = Duration::from_secs(5);
    let mut answer = [0u8; 8];
    let mut poll = libc::pollfd { fd: from, events: libc::POLLIN, revents: 0 };
    // SAFETY: descriptors of this process, buffers of the lengths given.
    let n = unsafe {
        if libc::write(to, [1u8].as_ptr().cast(), 1) != 1 {
            return Err(format!("write: {}", io::Error::last_os_error()));
        }
        if libc::poll(&raw mut poll, 1, PATIENCE.as_millis() as i32) != 1 {
            return Err("its process does not answer".to_owned());
        }
        libc::read(from, answer.as_mut_ptr().cast(), answer.len())
    };
    if n == 8 { Ok(u64::from_ne_bytes(answer)) } else { Err("its process has ended".to_owned()) }
}

/// The child's part: answers each byte with the time of a round.
fn child(input: i32, output: i32, is_confined: bool) -> ! {
    // SAFETY: system calls on descriptors that it was left, and buffers of its own.
    unsafe {
        if is_confined && !confine() {
            libc::_exit(3);
        }
        let mut byte = [0u8; 1];
        while libc::read(input, byte.as_mut_ptr().cast(), 1) == 1 {
            let began = now();
            let mut i = 0;
            while i < N_CALLS {
                std::hint::black_box(txray_probe_trial(i, 0, 0));
                i += 1;
            }
            let took = (now() - began).to_ne_bytes();
            if libc::write(output, took.as_ptr().cast(), took.len()) != 8 {
                libc::_exit(4);
            }
        }
        libc::_exit(0);
    }
}

/// As programs do that confine themselves: the calls of probes, which they never make, end them.
unsafe fn confine() -> bool {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let filter = [
        libc::sock_filter { code: LOAD, jt: 0, jf: 0, k: 0 },
        libc::sock_filter { code: EQUAL, jt: 2, jf: 0, k: SYS_URETPROBE },
        libc::sock_filter { code: EQUAL, jt: 1, jf: 0, k: SYS_UPROBE },
        libc::sock_filter { code: RETURN, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW },
        libc::sock_filter { code: RETURN, jt: 0, jf: 0, k: libc::SECCOMP_RET_KILL_PROCESS },
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    // SAFETY: the program outlives the call, which copies it.
    unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) == 0
    }
}

fn now() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: room for the time.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
