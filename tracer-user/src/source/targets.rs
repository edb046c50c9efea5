//! Targets as processes: what the names, executables, cgroups and parents given stand for on this machine now.

use std::path::{Path, PathBuf};

use rustc_hash::FxHashSet;

use crate::{
    bpf::pid_namespace,
    config::Targets,
    enrich::{listening, target},
    event::Listening,
    time::BootTime,
};

/// Where processes are listed.
const PROC: &str = "/proc";

/// What the targets stand for.
#[derive(Clone, Debug, Default)]
pub struct Resolved {
    /// Processes, ascending.
    pub pids: Vec<u32>,
    /// Ports on which they listen.
    pub listening: Vec<Listening>,
    /// They have a UDP socket without a peer on a wanted port.
    pub has_open_datagram_sockets: bool,
    /// Directories of the cgroups.
    pub cgroups: Vec<PathBuf>,
}

/// A target that names nothing.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// No such process.
    #[error("there is no process {0}")]
    Pid(u32),
    /// A thread's number.
    #[error("{thread} is a thread of process {process}")]
    Thread {
        /// What was given.
        thread: u32,
        /// Its process.
        process: u32,
    },
    /// No such cgroup.
    #[error("there is no cgroup {}", .0.display())]
    Cgroup(PathBuf),
    /// No cgroup version 2 hierarchy is mounted.
    #[error("no cgroup2 file system is mounted, and --cgroup needs one")]
    NoCgroups,
    /// More than the probes compare.
    #[error("at most {max} {what} can be given")]
    TooMany {
        /// What.
        what: &'static str,
        /// The bound.
        max: u32,
    },
}

/// Resolves targets; `udp_ports`: whose datagrams are wanted. Names and executables may match nothing yet: processes that start later are found by the probes.
pub fn resolve(targets: &Targets, udp_ports: &[u16], now: BootTime) -> Result<Resolved, TargetError> {
    let proc_root = Path::new(PROC);
    let bounds = [
        ("--comm", targets.comms.len(), tracer_ebpf::MAX_COMMS),
        ("--cgroup", targets.cgroups.len(), tracer_ebpf::MAX_CGROUPS),
        ("--exe", targets.exes.len(), 64),
        ("--port", targets.ports.len(), 256),
    ];
    if let Some((what, _, max)) = bounds.into_iter().find(|(_, n, max)| *n > *max as usize) {
        return Err(TargetError::TooMany { what, max });
    }
    let mut cgroups = Vec::new();
    if !targets.cgroups.is_empty() {
        let mount = cgroup2_mount().ok_or(TargetError::NoCgroups)?;
        for name in &targets.cgroups {
            let dir = target::cgroup_dir(&mount, name).ok_or_else(|| TargetError::Cgroup(name.clone()))?;
            cgroups.push(dir);
        }
    }
    let pids = pids(targets)?;
    let open_datagrams = |owners: &[u32], all| listening::have_open_udp(proc_root, owners, udp_ports, all);
    let (listening, has_open_datagram_sockets) =
        if targets.is_whole_host() || (pids.is_empty() && !targets.ports.is_empty()) {
            let all = target::all(proc_root);
            (listening::of_namespaces(proc_root, &all, now), open_datagrams(&all, true))
        } else {
            let mut owners = pids.clone();
            owners.extend(cgroups.iter().flat_map(|dir| target::in_cgroup(dir)));
            (listening::of_processes(proc_root, &owners, now), open_datagrams(&owners, false))
        };
    Ok(Resolved { pids, listening, has_open_datagram_sockets, cgroups })
}

/// The processes that the targets name now, with their descendants. Asked twice: before the probes are attached, and after,
/// for children that were forked in between.
pub fn pids(targets: &Targets) -> Result<Vec<u32>, TargetError> {
    let proc_root = Path::new(PROC);
    let mut found: FxHashSet<u32> = FxHashSet::default();
    for &pid in &targets.pids {
        let family = target::descendants(proc_root, pid);
        if family.is_empty() {
            return Err(match target::process_of_thread(proc_root, pid) {
                Some(process) => TargetError::Thread { thread: pid, process },
                None => TargetError::Pid(pid),
            });
        }
        found.extend(family);
    }
    found.extend(targets.comms.iter().flat_map(|name| target::by_comm(proc_root, name)));
    found.extend(targets.exes.iter().flat_map(|exe| target::by_exe(proc_root, exe)));
    // In another pid namespace nothing is traced at all: that is said at the load.
    found.remove(&pid_namespace::own_pid(proc_root).unwrap_or_else(|_| std::process::id()));
    let mut pids: Vec<u32> = found.into_iter().collect();
    pids.sort_unstable();
    Ok(pids)
}

/// Names and executables among the targets that no process has at this moment, in the words of the flags. As typed: not safe to show.
pub fn not_running(targets: &Targets) -> Vec<String> {
    let proc_root = Path::new(PROC);
    let comms = targets.comms.iter().filter(|name| target::by_comm(proc_root, name).is_empty());
    let exes = targets.exes.iter().filter(|exe| target::by_exe(proc_root, exe).is_empty());
    let comms = comms.map(|name| format!("is called {name}"));
    comms.chain(exes.map(|exe| format!("runs {}", exe.display()))).collect()
}

/// Where the cgroup version 2 hierarchy is mounted.
fn cgroup2_mount() -> Option<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    // Fields (proc_pid_mountinfo(5)): … mount point is the fifth; the type follows the separator " - ".
    mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        after.starts_with("cgroup2 ").then(|| before.split(' ').nth(4).map(PathBuf::from))?
    })
}
