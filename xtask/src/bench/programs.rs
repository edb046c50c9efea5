//! The kernel's own statistics of BPF programs: how often each ran, and for how long.

use std::{collections::BTreeMap, fs, io, mem};

use anyhow::{Context as _, Result};

const STATISTICS: &str = "/proc/sys/kernel/bpf_stats_enabled";
/// Commands of bpf(2).
const BPF_PROG_GET_FD_BY_ID: libc::c_int = 13;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;

/// Turns the statistics on while it lives. They cost about 40 ns a hit, which is in the figures.
#[derive(Debug)]
pub(crate) struct Statistics {
    before: String,
}

impl Statistics {
    pub(crate) fn on() -> Result<Self> {
        let before = fs::read_to_string(STATISTICS).with_context(|| format!("reading {STATISTICS}"))?;
        fs::write(STATISTICS, "1").with_context(|| format!("writing {STATISTICS}"))?;
        Ok(Self { before })
    }
}

impl Drop for Statistics {
    fn drop(&mut self) {
        if let Err(error) = fs::write(STATISTICS, self.before.trim()) {
            eprintln!("bench: could not restore {STATISTICS}: {error}");
        }
    }
}

/// What a program has cost since it was loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cost {
    pub(crate) n_runs: u64,
    pub(crate) total_ns: u64,
}

/// Costs of the programs that a process holds, by program name.
pub(crate) fn costs_of(pid: u32) -> Result<BTreeMap<String, Cost>> {
    let mut costs = BTreeMap::<String, Cost>::new();
    let mut seen = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        let Ok(text) = fs::read_to_string(entry?.path()) else { continue };
        let id = text.lines().find_map(|line| line.strip_prefix("prog_id:")?.trim().parse::<u32>().ok());
        // Links name their program as well.
        if let Some(id) = id
            && !seen.contains(&id)
        {
            seen.push(id);
            let info = ProgramInfo::of(id)?;
            let cost = costs.entry(info.name()).or_default();
            cost.n_runs += info.run_cnt;
            cost.total_ns += info.run_time_ns;
        }
    }
    Ok(costs)
}

/// The kernel's `struct bpf_prog_info` up to `run_cnt` (linux/bpf.h; a stable layout that only grows at its end).
#[repr(C)]
#[derive(Clone, Copy)]
struct ProgramInfo {
    before_name: [u64; 8],
    name: [u8; 16],
    between: [u64; 14],
    run_time_ns: u64,
    run_cnt: u64,
}

const _: () = assert!(mem::offset_of!(ProgramInfo, name) == 64);
const _: () = assert!(mem::offset_of!(ProgramInfo, run_time_ns) == 192);

/// `union bpf_attr`, large enough for both commands.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    id_or_fd: u32,
    length_or_next: u32,
    info: u64,
    rest: [u64; 4],
}

impl ProgramInfo {
    fn of(id: u32) -> Result<Self> {
        let by_id = Attributes { id_or_fd: id, ..Attributes::default() };
        let fd = bpf(BPF_PROG_GET_FD_BY_ID, &by_id).with_context(|| format!("program {id}"))?;
        // The kernel reads the struct as well (it may hold buffers to fill), so all of it is zero.
        let mut info =
            Self { before_name: [0; 8], name: [0; 16], between: [0; 14], run_time_ns: 0, run_cnt: 0 };
        let by_fd = Attributes {
            id_or_fd: u32::try_from(fd)?,
            length_or_next: u32::try_from(mem::size_of::<Self>())?,
            info: std::ptr::from_mut(&mut info) as u64,
            ..Attributes::default()
        };
        let result = bpf(BPF_OBJ_GET_INFO_BY_FD, &by_fd);
        // SAFETY: the descriptor came from the first call and is closed once.
        unsafe { libc::close(fd) };
        result.with_context(|| format!("program {id}"))?;
        Ok(info)
    }

    fn name(&self) -> String {
        let end = self.name.iter().position(|byte| *byte == 0).unwrap_or(self.name.len());
        String::from_utf8_lossy(&self.name[..end]).into_owned()
    }
}

fn bpf(command: libc::c_int, attributes: &Attributes) -> io::Result<libc::c_int> {
    // SAFETY: the attributes are as large as said and outlive the call; `info` points at a struct of the stated length.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), mem::size_of::<Attributes>())
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as libc::c_int) }
}
