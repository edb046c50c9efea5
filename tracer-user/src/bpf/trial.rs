//! Trial loads: what this kernel accepts from this process, found out by asking it. Tiny programs and maps, made by
//! hand, loaded with bpf(2) and closed at once; nothing is attached.
//!
//! Asking is the only sound way: a kernel may list a program type and still refuse it to this caller, by lockdown, by
//! a security module, or by a vendor's own rule (fentry is refused so on hosts that have all it needs).

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use serde::{Deserialize, Serialize};

/// What came of a trial.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Accepted.
    Works,
    /// Refused.
    Refused {
        /// errno.
        errno: i32,
        /// Its text, and the verifier's last line where it said something.
        reason: String,
    },
    /// Not asked: something that it needs is missing.
    NotTried {
        /// What.
        reason: String,
    },
}

impl Outcome {
    /// Whether it was accepted.
    pub fn works(&self) -> bool {
        matches!(self, Outcome::Works)
    }

    /// Whether it was refused for lack of a permission.
    pub fn is_permission(&self) -> bool {
        matches!(self, Outcome::Refused { errno, .. } if *errno == libc::EPERM || *errno == libc::EACCES)
    }

    fn of(result: io::Result<OwnedFd>) -> Outcome {
        match result {
            Ok(_) => Outcome::Works,
            Err(error) => Outcome::refused(&error, ""),
        }
    }

    fn refused(error: &io::Error, log: &str) -> Outcome {
        // "Operation not permitted (os error 1)": the number stands apart.
        let text = error.to_string();
        let text = text.split(" (os error").next().unwrap_or_default();
        let reason = if log.is_empty() { text.to_owned() } else { format!("{text}: {log}") };
        Outcome::Refused { errno: error.raw_os_error().unwrap_or(0), reason }
    }
}

/// Program types, `enum bpf_prog_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum ProgramType {
    /// Also uprobes.
    Kprobe = 2,
    Tracepoint = 5,
    PerfEvent = 7,
    RawTracepoint = 17,
    /// tp_btf and fentry, told apart by the attach type.
    Tracing = 26,
}

/// `BPF_TRACE_RAW_TP`: a tracepoint with typed arguments.
pub(crate) const ATTACH_TP_BTF: u32 = 23;
/// `BPF_TRACE_FENTRY`.
pub(crate) const ATTACH_FENTRY: u32 = 24;

/// `BPF_MAP_TYPE_HASH`.
pub(crate) const MAP_HASH: u32 = 1;
/// `BPF_MAP_TYPE_ARRAY`.
pub(crate) const MAP_ARRAY: u32 = 2;
/// `BPF_MAP_TYPE_RINGBUF`.
pub(crate) const MAP_RINGBUF: u32 = 27;

/// `bpf_probe_read_user`.
pub(crate) const HELPER_PROBE_READ_USER: i32 = 112;
/// `bpf_probe_read_kernel`.
pub(crate) const HELPER_PROBE_READ_KERNEL: i32 = 113;
const HELPER_CURRENT_TASK_BTF: i32 = 158;
const HELPER_TASK_PT_REGS: i32 = 175;

const CMD_MAP_CREATE: libc::c_long = 0;
const CMD_PROG_LOAD: libc::c_long = 5;
const CMD_ENABLE_STATS: libc::c_long = 32;
/// Bytes of the verifier's log that are kept room for. Its last line is enough.
const LOG_BYTES: usize = 16 << 10;

/// How often a load is tried that a signal interrupted.
const MAX_TRIES: u32 = 5;

/// `struct bpf_insn`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Instruction {
    code: u8,
    /// Low half: destination register; high half: source.
    registers: u8,
    offset: i16,
    immediate: i32,
}

const fn instruction(code: u8, to: u8, from: u8, immediate: i32) -> Instruction {
    Instruction { code, registers: from << 4 | to, offset: 0, immediate }
}

/// `to = immediate`, 64 bits.
const fn set(to: u8, immediate: i32) -> Instruction {
    instruction(0xb7, to, 0, immediate)
}

/// `to = from`, 64 bits.
const fn copy(to: u8, from: u8) -> Instruction {
    instruction(0xbf, to, from, 0)
}

/// `to += immediate`, 64 bits.
const fn add(to: u8, immediate: i32) -> Instruction {
    instruction(0x07, to, 0, immediate)
}

const fn call(helper: i32) -> Instruction {
    instruction(0x85, 0, 0, helper)
}

const EXIT: Instruction = instruction(0x95, 0, 0, 0);

/// `return 0`.
pub(crate) const EMPTY: &[Instruction] = &[set(0, 0), EXIT];

/// `helper(stack, 8, 0)`: a probe read of 8 bytes.
pub(crate) fn probe_read(helper: i32) -> [Instruction; 7] {
    [copy(1, 10), add(1, -8), set(2, 8), set(3, 0), call(helper), set(0, 0), EXIT]
}

/// The registers of the system call that the current thread is in: how the socket hooks find the buffer.
pub(crate) const USER_REGISTERS: &[Instruction] =
    &[call(HELPER_CURRENT_TASK_BTF), copy(1, 0), call(HELPER_TASK_PT_REGS), set(0, 0), EXIT];

/// The head of `union bpf_attr` for `BPF_PROG_LOAD`, as long as the oldest supported kernel knows it (5.10).
#[repr(C)]
#[derive(Default)]
struct LoadAttr {
    program_type: u32,
    n_instructions: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buffer: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    expected_attach_type: u32,
    btf_fd: u32,
    func_info_size: u32,
    func_info: u64,
    n_func_info: u32,
    line_info_size: u32,
    line_info: u64,
    n_line_info: u32,
    attach_btf_id: u32,
    attach_program: u32,
    reserved: u32,
}

/// The head of `union bpf_attr` for `BPF_MAP_CREATE`.
#[repr(C)]
#[derive(Default)]
struct MapAttr {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
    inner_map: u32,
    numa_node: u32,
    name: [u8; 16],
    reserved: [u32; 3],
}

const _: () = assert!(size_of::<Instruction>() == 8);
const _: () = assert!(size_of::<LoadAttr>() == 120);
const _: () = assert!(size_of::<MapAttr>() == 56);

/// Loads a program and drops it. `attach_type` and `btf_id` are 0 where the type takes none.
pub(crate) fn program(
    program_type: ProgramType,
    attach_type: u32,
    btf_id: u32,
    instructions: &[Instruction],
) -> Outcome {
    let mut attr = LoadAttr {
        program_type: program_type as u32,
        n_instructions: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        license: c"Dual MIT/GPL".as_ptr() as u64,
        expected_attach_type: attach_type,
        attach_btf_id: btf_id,
        ..LoadAttr::default()
    };
    attr.name[..11].copy_from_slice(b"txray_trial");
    let error = match bpf(CMD_PROG_LOAD, &attr) {
        Ok(_) => return Outcome::Works,
        Err(error) => error,
    };
    // Asked again with a log: it costs time and memory, and only a refusal has something to say.
    let mut log = vec![0u8; LOG_BYTES];
    attr.log_level = 1;
    attr.log_size = log.len() as u32;
    attr.log_buffer = log.as_mut_ptr() as u64;
    match bpf(CMD_PROG_LOAD, &attr) {
        Ok(_) => Outcome::Works,
        Err(_) => Outcome::refused(&error, &last_line(&log)),
    }
}

/// Creates a map and drops it.
pub(crate) fn map(map_type: u32, key_size: u32, value_size: u32, max_entries: u32) -> Outcome {
    let mut attr = MapAttr { map_type, key_size, value_size, max_entries, ..MapAttr::default() };
    attr.name[..11].copy_from_slice(b"txray_trial");
    Outcome::of(bpf(CMD_MAP_CREATE, &attr))
}

/// Has the kernel count what BPF programs take, for an instant.
pub(crate) fn statistics() -> Outcome {
    const RUN_TIME: u32 = 0;
    Outcome::of(bpf(CMD_ENABLE_STATS, &RUN_TIME))
}

/// Opens a software clock sampler on the caller's own thread and closes it.
pub(crate) fn cpu_clock() -> Outcome {
    /// The head of `struct perf_event_attr`: its first version, which every kernel takes.
    #[repr(C)]
    #[derive(Default)]
    struct PerfAttr {
        event_type: u32,
        size: u32,
        config: u64,
        sample_period: u64,
        sample_type: u64,
        read_format: u64,
        flags: u64,
        wakeup: u32,
        breakpoint_type: u32,
        breakpoint: u64,
    }
    const _: () = assert!(size_of::<PerfAttr>() == 64);
    // PERF_TYPE_SOFTWARE, PERF_COUNT_SW_CPU_CLOCK; one sample a second, disabled (bit 0).
    let attr =
        PerfAttr { event_type: 1, size: 64, sample_period: 1_000_000_000, flags: 1, ..PerfAttr::default() };
    // SAFETY: `attr` lives through the call and is as long as its size field says; the result is a new descriptor or
    // an error.
    let fd = unsafe { libc::syscall(libc::SYS_perf_event_open, &attr, 0, -1, -1, 8u64) };
    Outcome::of(owned(fd))
}

fn bpf<T>(command: libc::c_long, attr: &T) -> io::Result<OwnedFd> {
    let mut result = Err(io::Error::from_raw_os_error(libc::EAGAIN));
    // The verifier gives up with EAGAIN when a signal is pending.
    for _ in 0..MAX_TRIES {
        // SAFETY: `attr` is a `repr(C)` head of `union bpf_attr` without padding and its length is passed along; the
        // buffers that it points to are owned by the caller and live through the call; the commands used here give
        // back a new descriptor or an error.
        let fd = unsafe { libc::syscall(libc::SYS_bpf, command, attr as *const T, size_of::<T>()) };
        result = owned(fd);
        match &result {
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {}
            _ => break,
        }
    }
    result
}

fn owned(fd: libc::c_long) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the system call has just returned this descriptor; nobody else owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    debug_assert!(fd.as_raw_fd() >= 0);
    Ok(fd)
}

/// The verifier's last line that is not its statistics.
fn last_line(log: &[u8]) -> String {
    let end = log.iter().position(|&byte| byte == 0).unwrap_or(log.len());
    let text = String::from_utf8_lossy(&log[..end]);
    let line = text.lines().rev().find(|line| {
        let line = line.trim();
        !line.is_empty() && !line.starts_with("processed ") && !line.starts_with("verification time")
    });
    line.unwrap_or_default().trim().chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verifiers_reason_is_its_last_line_without_statistics() {
        let log = b"0: R1=ctx()\nunknown func bpf_x#113\nprocessed 5 insns (limit 1000000)\n\0junk";
        assert_eq!(last_line(log), "unknown func bpf_x#113");
        assert_eq!(last_line(b"\0"), "");
        assert_eq!(last_line(b"processed 1"), "");
    }

    #[test]
    fn this_kernel_takes_a_sound_program_and_refuses_an_unsound_one_with_a_reason() {
        assert_eq!(program(ProgramType::RawTracepoint, 0, 0, EMPTY), Outcome::Works);
        let unsound = program(ProgramType::RawTracepoint, 0, 0, &[EXIT]);
        let Outcome::Refused { errno, reason } = unsound else { panic!("{unsound:?}") };
        assert_eq!(errno, libc::EACCES);
        assert!(reason.contains("R0 !read_ok"), "{reason}");
    }

    #[test]
    fn this_kernel_makes_a_ring_of_a_power_of_two_only() {
        assert_eq!(map(MAP_RINGBUF, 0, 0, 4096), Outcome::Works);
        assert!(matches!(map(MAP_RINGBUF, 0, 0, 5000), Outcome::Refused { errno: libc::EINVAL, .. }));
    }

    #[test]
    fn an_outcome_knows_a_lack_of_permission() {
        let refused = Outcome::refused(&io::Error::from_raw_os_error(libc::EPERM), "");
        assert!(refused.is_permission() && !refused.works());
        assert_eq!(
            refused,
            Outcome::Refused { errno: libc::EPERM, reason: "Operation not permitted".to_owned() }
        );
        assert!(!Outcome::refused(&io::Error::from_raw_os_error(libc::E2BIG), "").is_permission());
    }
}
