//! What this host can do: found once, in a plain struct that `doctor`, the live header and tests share.
//!
//! Everything here is observation. What follows from it is said by [`super::diagnosis`].

use std::{fs, io::Read as _, path::Path};

use serde::{Deserialize, Serialize};

use super::{
    btf::{BtfError, KERNEL_BTF, KernelBtf},
    diagnosis::NO_MEMLOCK,
    load::{self, Family},
    offsets::{Offsets, kernel_release},
    pid_namespace,
    tls_libraries::{self, TlsUse},
    trial::{self, Outcome, ProgramType},
};

/// Longest file of `/proc` or `/sys` read here (mountinfo of a host with thousands of containers).
const MAX_FILE: u64 = 8 << 20;

/// What was found. Absent values (`None`) could not be read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Features {
    /// Release, as `uname -r`.
    pub kernel: String,
    /// Machine, as `uname -m`.
    pub machine: String,
    /// Effective user.
    pub uid: u32,
    /// Whether `/proc` numbers processes otherwise than the kernel does.
    #[serde(default)]
    pub foreign_pids: bool,
    /// Capabilities.
    pub capabilities: Capabilities,
    /// Largest memory that the caller may lock, bytes; `None` = no limit. Matters before 5.11 only.
    pub memlock_bytes: Option<u64>,
    /// Kernel lockdown.
    pub lockdown: Lockdown,
    /// Types of the kernel.
    pub btf: Btf,
    /// Where file systems are mounted.
    pub mounts: Mounts,
    /// Kernel settings.
    pub settings: Settings,
    /// [`TRACEPOINTS`] by the kernel's BTF.
    pub tracepoints: Vec<Tracepoint>,
    /// Trial loads of programs.
    pub programs: Vec<Trial>,
    /// Trial creations of maps.
    pub maps: Vec<Trial>,
    /// Trial loads of txray's own probes; none where the types or privileges for it are missing.
    pub probes: Vec<ProbeLoad>,
    /// Libraries for TLS in use; `None` = not looked for.
    pub tls: Option<TlsUse>,
}

/// Bits of `/proc/self/status`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// In force now.
    pub effective: u64,
    /// The most that could be had.
    pub bounding: u64,
}

/// A capability by its bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
#[allow(missing_docs, reason = "named as in capabilities(7)")]
pub enum Capability {
    DacReadSearch = 2,
    NetAdmin = 12,
    SysPtrace = 19,
    SysAdmin = 21,
    SysResource = 24,
    Perfmon = 38,
    Bpf = 39,
}

impl Capability {
    /// Those that matter to txray.
    pub const ALL: [Capability; 7] = [
        Capability::Bpf,
        Capability::Perfmon,
        Capability::SysPtrace,
        Capability::DacReadSearch,
        Capability::SysAdmin,
        Capability::SysResource,
        Capability::NetAdmin,
    ];

    /// `CAP_…`.
    pub fn name(self) -> &'static str {
        match self {
            Capability::DacReadSearch => "CAP_DAC_READ_SEARCH",
            Capability::NetAdmin => "CAP_NET_ADMIN",
            Capability::SysPtrace => "CAP_SYS_PTRACE",
            Capability::SysAdmin => "CAP_SYS_ADMIN",
            Capability::SysResource => "CAP_SYS_RESOURCE",
            Capability::Perfmon => "CAP_PERFMON",
            Capability::Bpf => "CAP_BPF",
        }
    }
}

impl Capabilities {
    /// Those of this process.
    pub fn own() -> Capabilities {
        Capabilities::of_status(&text(Path::new("/proc/self/status")).unwrap_or_default())
    }

    /// As `/proc/PID/status` says.
    fn of_status(status: &str) -> Capabilities {
        Capabilities {
            effective: status_field(status, "CapEff", 16).first().copied().unwrap_or(0),
            bounding: status_field(status, "CapBnd", 16).first().copied().unwrap_or(0),
        }
    }

    /// Whether `capability` is in force.
    pub fn has(self, capability: Capability) -> bool {
        self.effective >> capability as u32 & 1 != 0
    }

    /// Whether `capability` could be had at all (a container's or service's bounding set may lack it).
    pub fn could_have(self, capability: Capability) -> bool {
        self.bounding >> capability as u32 & 1 != 0
    }

    /// Whether BPF programs may be loaded and attached: CAP_SYS_ADMIN, or CAP_BPF with CAP_PERFMON.
    pub fn may_trace(self) -> bool {
        self.has(Capability::SysAdmin) || (self.has(Capability::Bpf) && self.has(Capability::Perfmon))
    }
}

/// Kernel lockdown, `kernel_lockdown.7`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lockdown {
    /// Off, or not built in.
    None,
    /// Nothing may change the kernel.
    Integrity,
    /// Nothing may read it either.
    Confidentiality,
    /// securityfs is not readable.
    #[default]
    Unknown,
}

/// The kernel's own type information.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Btf {
    /// Whether it was read and understood.
    pub present: bool,
    /// Number of types.
    pub n_types: u64,
    /// Bytes.
    pub n_bytes: u64,
    /// Why not, or which member that the probes need is missing.
    pub problem: Option<String>,
}

/// Where file systems are mounted; `None` = nowhere.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mounts {
    /// tracefs.
    pub tracefs: Option<String>,
    /// BPF file system.
    pub bpffs: Option<String>,
    /// The unified cgroup hierarchy.
    pub cgroup2: Option<String>,
}

/// Kernel settings (`/proc/sys`); `None` = not readable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// `kernel.unprivileged_bpf_disabled`.
    pub unprivileged_bpf_disabled: Option<i64>,
    /// `net.core.bpf_jit_enable`.
    pub bpf_jit_enable: Option<i64>,
    /// `kernel.perf_event_paranoid`.
    pub perf_event_paranoid: Option<i64>,
    /// `kernel.bpf_stats_enabled`.
    pub bpf_stats_enabled: Option<i64>,
}

/// A tracepoint, by the kernel's BTF.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tracepoint {
    /// Name.
    pub name: String,
    /// Types of its arguments; `None` = the kernel does not have it.
    pub arguments: Option<Vec<String>>,
}

/// A trial load.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    /// What was tried.
    pub what: String,
    /// What came of it.
    pub outcome: Outcome,
}

/// A trial load of one of txray's own probes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeLoad {
    /// Function.
    pub program: String,
    /// Tracepoint that it sits on.
    pub tracepoint: String,
    /// What is not known without it; `None` = it belongs to what nothing works without.
    pub feature: Option<String>,
    /// `socket` or `syscall` for data hooks.
    pub family: Option<String>,
    /// The kernel's words, if it refuses the probe.
    pub refused: Option<String>,
}

/// Names of the trials of programs, in order. `diagnosis` and tests ask by them.
pub mod program {
    /// A typed tracepoint: what every data hook is.
    pub const TP_BTF: &str = "tp_btf";
    /// The same with the reads of the socket hooks' buffer: the caller's registers.
    pub const USER_REGISTERS: &str = "tp_btf bpf_task_pt_regs";
    /// A read of kernel memory.
    pub const READ_KERNEL: &str = "tp_btf bpf_probe_read_kernel";
    /// A read of the traced process's memory.
    pub const READ_USER: &str = "tp_btf bpf_probe_read_user";
    /// A raw tracepoint.
    pub const RAW_TP: &str = "raw_tp";
    /// A tracepoint through perf.
    pub const TRACEPOINT: &str = "tracepoint";
    /// A probe on an instruction of a program or library.
    pub const UPROBE: &str = "uprobe";
    /// A sampler.
    pub const PERF_EVENT: &str = "perf_event cpu-clock";
    /// A probe at the entry of a kernel function.
    pub const FENTRY: &str = "fentry";
    /// What each program takes.
    pub const STATISTICS: &str = "statistics of BPF programs";
}

/// Names of the trials of maps.
pub mod map {
    /// A ring of one page.
    pub const RING: &str = "ring buffer, 4 KiB";
    /// A ring of the default size.
    pub const RING_DEFAULT: &str = "ring buffer, 64 MiB";
    /// A hash.
    pub const HASH: &str = "hash, 65,536 entries";
    /// An array.
    pub const ARRAY: &str = "array, 4 KiB value";
}

/// Tracepoints that the probes use: the two families of data hooks, connection life, arrival, processes.
pub const TRACEPOINTS: &[&str] = &[
    "sock_send_length",
    "sock_recv_length",
    "sys_exit",
    "inet_sock_set_state",
    "tcp_destroy_sock",
    "sk_data_ready",
    "tcp_retransmit_skb",
    "sched_process_fork",
    "sched_process_exec",
    "sched_process_exit",
    "task_rename",
];

/// A kernel function that every kernel has and a fentry program can sit on.
const FENTRY_FUNCTION: &str = "tcp_sendmsg";
/// Entries of the trial hash, as many as the tracer's largest.
const HASH_ENTRIES: u32 = 65_536;
/// Bytes of the default ring.
const DEFAULT_RING: u32 = 64 << 20;

impl Features {
    /// Finds everything: loads txray's own probes too (about a second of verification, far more under emulation) unless
    /// `is_quick`, and looks at all processes' libraries (at most `tls_patience`).
    pub fn detect(tls_patience: std::time::Duration, is_quick: bool) -> Features {
        let mut tls = tls_libraries::in_use(Path::new("/proc"), tls_patience);
        let (probes, trial) = if is_quick { Default::default() } else { probes() };
        tls.probes = trial;
        Features { tls: Some(tls), probes, ..Features::detect_kernel() }
    }

    /// Finds in 20 to 50 ms what concerns the kernel and the caller; processes are not looked at, probes not loaded.
    pub fn detect_kernel() -> Features {
        let btf = KernelBtf::running();
        Features::on(btf, Path::new("/proc"), Path::new("/sys"))
    }

    /// With given types and file systems; trials ask the running kernel in any case.
    fn on(btf: Result<KernelBtf, BtfError>, proc_root: &Path, sys_root: &Path) -> Features {
        let status = text(&proc_root.join("self/status")).unwrap_or_default();
        let mounts = text(&proc_root.join("self/mountinfo")).map(|text| mounts(&text)).unwrap_or_default();
        let setting = |name: &str| {
            text(&proc_root.join("sys").join(name)).and_then(|value| value.trim().parse::<i64>().ok())
        };
        let lockdown = match text(&sys_root.join("kernel/security/lockdown")) {
            Some(text) => lockdown(&text),
            None => lockdown_of_cmdline(&text(&proc_root.join("cmdline")).unwrap_or_default()),
        };
        raise_memlock();
        Features {
            kernel: kernel_release(),
            machine: std::env::consts::ARCH.to_owned(),
            foreign_pids: pid_namespace::own_pid(proc_root).is_err(),
            uid: status_field(&status, "Uid", 10).get(1).copied().unwrap_or(0) as u32,
            capabilities: Capabilities::of_status(&status),
            memlock_bytes: memlock(),
            lockdown,
            tracepoints: tracepoints(btf.as_ref().ok()),
            programs: programs(btf.as_ref().ok(), sys_root),
            maps: maps(),
            probes: Vec::new(),
            btf: describe(btf),
            mounts,
            settings: Settings {
                unprivileged_bpf_disabled: setting("kernel/unprivileged_bpf_disabled"),
                bpf_jit_enable: setting("net/core/bpf_jit_enable"),
                perf_event_paranoid: setting("kernel/perf_event_paranoid"),
                bpf_stats_enabled: setting("kernel/bpf_stats_enabled"),
            },
            tls: None,
        }
    }

    /// (major, minor) of the release; (0, 0) if it does not begin with two numbers.
    pub fn version(&self) -> (u32, u32) {
        let mut numbers =
            self.kernel.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
        (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
    }

    /// Whether the kernel has the tracepoint `name`.
    pub fn has_tracepoint(&self, name: &str) -> bool {
        self.tracepoints.iter().any(|tracepoint| tracepoint.name == name && tracepoint.arguments.is_some())
    }

    /// What came of the trial `what` of a program or map.
    pub fn trial(&self, what: &str) -> Option<&Outcome> {
        self.programs.iter().chain(&self.maps).find(|trial| trial.what == what).map(|trial| &trial.outcome)
    }

    /// Whether the trial `what` worked.
    pub fn works(&self, what: &str) -> bool {
        self.trial(what).is_some_and(Outcome::works)
    }
}

fn describe(btf: Result<KernelBtf, BtfError>) -> Btf {
    match btf {
        Ok(btf) => Btf {
            present: true,
            n_types: btf.n_types() as u64,
            n_bytes: btf.n_bytes() as u64,
            problem: Offsets::resolve(&btf).err().map(|missing| missing.to_string()),
        },
        Err(BtfError::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            Btf { problem: Some(format!("there is no {KERNEL_BTF}")), ..Btf::default() }
        }
        Err(error) => Btf { problem: Some(error.to_string()), ..Btf::default() },
    }
}

fn tracepoints(btf: Option<&KernelBtf>) -> Vec<Tracepoint> {
    let describe = |name: &&str| Tracepoint {
        name: (*name).to_owned(),
        arguments: btf.and_then(|btf| btf.tracepoint(name)),
    };
    TRACEPOINTS.iter().map(describe).collect()
}

fn programs(btf: Option<&KernelBtf>, sys_root: &Path) -> Vec<Trial> {
    let no_btf = || Outcome::NotTried { reason: "the kernel has no BTF".to_owned() };
    // Every kernel since 4.16 has this one, and nothing is attached to it here.
    let tracepoint_id = btf.and_then(|btf| btf.typedef_id("btf_trace_inet_sock_set_state"));
    let tp_btf = |instructions: &[trial::Instruction]| match tracepoint_id {
        Some(id) => trial::program(ProgramType::Tracing, trial::ATTACH_TP_BTF, id, instructions),
        None => no_btf(),
    };
    let fentry = match btf.and_then(|btf| btf.func_id(FENTRY_FUNCTION)) {
        Some(id) => trial::program(ProgramType::Tracing, trial::ATTACH_FENTRY, id, trial::EMPTY),
        None => no_btf(),
    };
    let plain = |program_type| trial::program(program_type, 0, 0, trial::EMPTY);
    // A uprobe is opened through perf: the program alone says little.
    let uprobe = if sys_root.join("bus/event_source/devices/uprobe/type").exists() {
        plain(ProgramType::Kprobe)
    } else {
        Outcome::NotTried { reason: "the kernel is built without uprobes".to_owned() }
    };
    let perf_event = match trial::cpu_clock() {
        Outcome::Works => plain(ProgramType::PerfEvent),
        refused => refused,
    };
    let trials = [
        (program::TP_BTF, tp_btf(trial::EMPTY)),
        (program::USER_REGISTERS, tp_btf(trial::USER_REGISTERS)),
        (program::READ_KERNEL, tp_btf(&trial::probe_read(trial::HELPER_PROBE_READ_KERNEL))),
        (program::READ_USER, tp_btf(&trial::probe_read(trial::HELPER_PROBE_READ_USER))),
        (program::RAW_TP, plain(ProgramType::RawTracepoint)),
        (program::TRACEPOINT, plain(ProgramType::Tracepoint)),
        (program::UPROBE, uprobe),
        (program::PERF_EVENT, perf_event),
        (program::FENTRY, fentry),
        (program::STATISTICS, trial::statistics()),
    ];
    trials.into_iter().map(|(what, outcome)| Trial { what: what.to_owned(), outcome }).collect()
}

/// None where the object cannot be loaded at all: the trials of maps and programs say why.
fn probes() -> (Vec<ProbeLoad>, Option<tls_libraries::TlsTrial>) {
    let Ok((trials, tls)) = load::try_all() else { return Default::default() };
    let probes = trials.into_iter().map(|trial| ProbeLoad {
        program: trial.program.to_owned(),
        tracepoint: trial.tracepoint.to_owned(),
        feature: trial.feature.map(str::to_owned),
        family: trial.family.map(|family| {
            match family {
                Family::Socket => "socket",
                Family::Syscall => "syscall",
            }
            .to_owned()
        }),
        refused: trial.outcome.err(),
    });
    (probes.collect(), Some(tls))
}

fn maps() -> Vec<Trial> {
    let trials = [
        (map::RING, trial::map(trial::MAP_RINGBUF, 0, 0, 4096)),
        (map::RING_DEFAULT, trial::map(trial::MAP_RINGBUF, 0, 0, DEFAULT_RING)),
        (map::HASH, trial::map(trial::MAP_HASH, 8, 256, HASH_ENTRIES)),
        (map::ARRAY, trial::map(trial::MAP_ARRAY, 4, 4096, 1)),
    ];
    trials.into_iter().map(|(what, outcome)| Trial { what: what.to_owned(), outcome }).collect()
}

/// `Name:\tvalue value …`.
fn status_field(status: &str, name: &str, radix: u32) -> Vec<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let values = value.unwrap_or_default().split_ascii_whitespace();
    values.filter_map(|value| u64::from_str_radix(value, radix).ok()).collect()
}

fn version_of(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// Lifts this process's limit on locked memory where maps count towards it (before 5.11); called before maps are made.
/// Without CAP_SYS_RESOURCE the limit stays, and the kernel's refusals show what that means.
pub fn raise_memlock() {
    if version_of(&kernel_release()) >= NO_MEMLOCK {
        return;
    }
    let limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: `limit` is a valid limit; a failure changes nothing.
    unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &limit) };
}

fn memlock() -> Option<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid place for the result.
    let failed = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &mut limit) } != 0;
    (!failed && limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur)
}

/// `none [integrity] confidentiality`: the one in brackets holds.
fn lockdown(text: &str) -> Lockdown {
    match text.split_once('[').and_then(|(_, rest)| rest.split_once(']')).map(|(mode, _)| mode) {
        Some("none") => Lockdown::None,
        Some("integrity") => Lockdown::Integrity,
        Some("confidentiality") => Lockdown::Confidentiality,
        _ => Lockdown::Unknown,
    }
}

/// Without securityfs the command line may still tell; what it does not say stays unknown.
fn lockdown_of_cmdline(text: &str) -> Lockdown {
    match text.split_ascii_whitespace().rev().find_map(|word| word.strip_prefix("lockdown=")) {
        Some("integrity") => Lockdown::Integrity,
        Some("confidentiality") => Lockdown::Confidentiality,
        _ => Lockdown::Unknown,
    }
}

/// From the text of `/proc/self/mountinfo`: `ID PARENT DEV ROOT POINT OPTIONS [TAGS…] - TYPE SOURCE …`.
fn mounts(text: &str) -> Mounts {
    let mut mounts = Mounts::default();
    for line in text.lines() {
        let Some((before, after)) = line.split_once(" - ") else { continue };
        let point = before.split(' ').nth(4).unwrap_or_default();
        let place = match after.split(' ').next() {
            Some("tracefs") => &mut mounts.tracefs,
            Some("bpf") => &mut mounts.bpffs,
            Some("cgroup2") => &mut mounts.cgroup2,
            _ => continue,
        };
        // The first of several; bind mounts of parts come later.
        if place.is_none() {
            *place = Some(unescape_mount(point));
        }
    }
    mounts
}

/// Mount points have blank, tab, line end and backslash as `\040`.
fn unescape_mount(point: &str) -> String {
    let mut text = String::with_capacity(point.len());
    let mut rest = point;
    while let Some((before, after)) = rest.split_once('\\') {
        text.push_str(before);
        let code = after.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(byte) => {
                text.push(char::from(byte));
                rest = &after[3..];
            }
            None => {
                text.push('\\');
                rest = after;
            }
        }
    }
    text + rest
}

fn text(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    fs::File::open(path).ok()?.take(MAX_FILE).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_found_wherever_they_are() {
        let found = mounts(
            "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
             41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n\
             42 23 0:13 / /sys/kernel/my\\040tracing rw - tracefs tracefs rw\n\
             43 23 0:13 / /other rw - tracefs tracefs rw\n\
             44 nonsense\n",
        );
        assert_eq!(
            found,
            Mounts {
                tracefs: Some("/sys/kernel/my tracing".to_owned()),
                bpffs: None,
                cgroup2: Some("/sys/fs/cgroup/unified".to_owned()),
            }
        );
        assert_eq!(unescape_mount("/a\\134b\\9"), "/a\\b\\9");
    }

    #[test]
    fn lockdown_is_what_stands_in_brackets() {
        assert_eq!(lockdown("none [integrity] confidentiality\n"), Lockdown::Integrity);
        assert_eq!(lockdown("[none] integrity confidentiality\n"), Lockdown::None);
        assert_eq!(lockdown("none integrity [confidentiality]"), Lockdown::Confidentiality);
        assert_eq!(lockdown(""), Lockdown::Unknown);
        assert_eq!(lockdown_of_cmdline("quiet lockdown=confidentiality x"), Lockdown::Confidentiality);
        assert_eq!(lockdown_of_cmdline("quiet"), Lockdown::Unknown);
    }

    #[test]
    fn capabilities_are_read_by_bit() {
        let status = "Name:\tx\nUid:\t0\t1000\t0\t0\nCapEff:\t000000c000080000\nCapBnd:\t000001ffffffffff\n";
        assert_eq!(status_field(status, "Uid", 10)[1], 1000);
        let capabilities = Capabilities {
            effective: status_field(status, "CapEff", 16)[0],
            bounding: status_field(status, "CapBnd", 16)[0],
        };
        assert!(capabilities.may_trace());
        assert!(capabilities.has(Capability::SysPtrace) && !capabilities.has(Capability::SysAdmin));
        assert!(Capability::ALL.iter().all(|&capability| capabilities.could_have(capability)));
        let bpf_only = Capabilities { effective: 1 << 39, bounding: 0 };
        assert!(!bpf_only.may_trace());
    }

    #[test]
    fn versions_are_two_numbers() {
        for (release, version) in
            [("6.18.44-fc-v769", (6, 18)), ("5.10.0-32-cloud", (5, 10)), ("7.3", (7, 3)), ("", (0, 0))]
        {
            assert_eq!(Features { kernel: release.to_owned(), ..Features::default() }.version(), version);
        }
    }

    #[test]
    fn this_host_can_trace() {
        let features = Features::detect_kernel();
        assert!(features.version() >= (5, 10), "{}", features.kernel);
        assert_eq!(features.btf.problem, None);
        assert!(features.capabilities.may_trace());
        for what in
            [program::TP_BTF, program::READ_KERNEL, program::READ_USER, program::RAW_TP, map::RING, map::HASH]
        {
            assert!(features.works(what), "{what}: {:?}", features.trial(what));
        }
        assert!(features.has_tracepoint("inet_sock_set_state"));
        assert!(!features.has_tracepoint("no_such_tracepoint"));
        assert!(features.mounts.cgroup2.is_some());
        let json = serde_json::to_string(&features).unwrap();
        assert_eq!(serde_json::from_str::<Features>(&json).unwrap(), features);
    }

    #[test]
    fn a_host_without_btf_says_what_could_not_be_tried() {
        let missing = KernelBtf::read(Path::new("/no/such/btf"));
        let features = Features::on(missing, Path::new("/proc"), Path::new("/sys"));
        assert!(!features.btf.present);
        assert!(matches!(features.trial(program::TP_BTF), Some(Outcome::NotTried { .. })));
        assert!(!features.has_tracepoint("sys_exit"));
        assert!(features.works(program::RAW_TP));
    }
}

/// Hosts as they are found, for tests of what is said about them.
#[cfg(test)]
pub(crate) mod test_hosts {
    use super::*;
    use crate::bpf::tls_libraries::{TlsLibrary, TlsTrial};

    const ALL_CAPABILITIES: u64 = 0x1ff_ffff_ffff;

    fn tracepoints(present: impl Fn(&str) -> bool) -> Vec<Tracepoint> {
        let describe = |name: &&str| Tracepoint {
            name: (*name).to_owned(),
            arguments: present(name).then(|| vec!["sock*".to_owned()]),
        };
        TRACEPOINTS.iter().map(describe).collect()
    }

    fn trials(names: &[&str]) -> Vec<Trial> {
        names.iter().map(|name| Trial { what: (*name).to_owned(), outcome: Outcome::Works }).collect()
    }

    /// Probes that load.
    pub(crate) fn probes(programs: &[&str]) -> Vec<ProbeLoad> {
        let describe = |program: &&str| ProbeLoad {
            program: (*program).to_owned(),
            tracepoint: format!("of_{program}"),
            feature: (*program == "data_ready").then(|| "queue time".to_owned()),
            family: program
                .split_once('_')
                .map(|(family, _)| family.to_owned())
                .filter(|f| f.starts_with('s')),
            refused: None,
        };
        programs.iter().map(describe).collect()
    }

    fn refuse(trials: &mut [Trial], what: &[&str], errno: i32, reason: &str) {
        for trial in trials.iter_mut().filter(|trial| what.contains(&trial.what.as_str())) {
            trial.outcome = Outcome::Refused { errno, reason: reason.to_owned() };
        }
    }

    /// Root on a recent kernel.
    pub(crate) fn good() -> Features {
        Features {
            kernel: "6.12.9-amd64".to_owned(),
            machine: "x86_64".to_owned(),
            foreign_pids: false,
            uid: 0,
            capabilities: Capabilities { effective: ALL_CAPABILITIES, bounding: ALL_CAPABILITIES },
            memlock_bytes: Some(8 << 20),
            lockdown: Lockdown::None,
            btf: Btf { present: true, n_types: 126_689, n_bytes: 5_519_912, problem: None },
            mounts: Mounts {
                tracefs: Some("/sys/kernel/tracing".to_owned()),
                bpffs: Some("/sys/fs/bpf".to_owned()),
                cgroup2: Some("/sys/fs/cgroup".to_owned()),
            },
            settings: Settings {
                unprivileged_bpf_disabled: Some(2),
                bpf_jit_enable: Some(1),
                perf_event_paranoid: Some(3),
                bpf_stats_enabled: Some(0),
            },
            tracepoints: tracepoints(|_| true),
            programs: trials(&[
                program::TP_BTF,
                program::USER_REGISTERS,
                program::READ_KERNEL,
                program::READ_USER,
                program::RAW_TP,
                program::TRACEPOINT,
                program::UPROBE,
                program::PERF_EVENT,
                program::FENTRY,
                program::STATISTICS,
            ]),
            maps: trials(&[map::RING, map::RING_DEFAULT, map::HASH, map::ARRAY]),
            probes: probes(&[
                "tcp_destroy",
                "tcp_state",
                "data_ready",
                "socket_receive",
                "socket_send",
                "syscall_exit",
            ]),
            tls: Some(TlsUse { n_processes: 120, ..TlsUse::default() }),
        }
    }

    /// 5.10 with little locked memory, no JIT, a vendor's refusal of fentry, and hostile names.
    pub(crate) fn old() -> Features {
        let mut host = Features {
            kernel: "5.10.0-32-cloud-amd64".to_owned(),
            memlock_bytes: Some(64 << 10),
            lockdown: Lockdown::Unknown,
            mounts: Mounts { cgroup2: Some("/sys/fs/cgroup/unified".to_owned()), ..Mounts::default() },
            tracepoints: tracepoints(|name| !name.starts_with("sock_") && name != "sk_data_ready"),
            probes: probes(&["tcp_destroy", "tcp_state", "syscall_exit"]),
            tls: Some(TlsUse {
                libraries: vec![TlsLibrary {
                    kind: "OpenSSL".to_owned(),
                    file: "/app/\u{1b}[2J/libssl.so.3".to_owned(),
                    n_processes: 2,
                    examples: vec!["nginx".to_owned(), "evil\u{202e}\n".to_owned()],
                }],
                n_processes: 80,
                n_unreadable: 3,
                cut_short: true,
                probes: Some(TlsTrial {
                    refused: Some("attach: Operation not permitted".to_owned()),
                    ..TlsTrial::default()
                }),
            }),
            ..good()
        };
        host.capabilities.effective &= !(1 << Capability::SysResource as u64);
        host.settings.bpf_jit_enable = Some(0);
        host.settings.bpf_stats_enabled = Some(1);
        let unpermitted = [program::FENTRY, program::STATISTICS];
        refuse(&mut host.programs, &unpermitted, libc::EPERM, "Operation not permitted");
        let unknown = "Invalid argument: unknown func bpf_get_current_task_btf#158";
        refuse(&mut host.programs, &[program::USER_REGISTERS], libc::EINVAL, unknown);
        refuse(&mut host.maps, &[map::RING_DEFAULT], libc::EPERM, "Operation not permitted");
        host
    }

    /// Lockdown=confidentiality.
    pub(crate) fn locked_down() -> Features {
        let mut host = Features { lockdown: Lockdown::Confidentiality, probes: Vec::new(), ..good() };
        let refusal = "Invalid argument: program of this type cannot use helper bpf_probe_read_kernel#113";
        refuse(&mut host.programs, &[program::READ_KERNEL], libc::EINVAL, refusal);
        host
    }

    /// An ordinary user.
    pub(crate) fn unprivileged() -> Features {
        let mut host = Features {
            uid: 1000,
            capabilities: Capabilities { effective: 0, bounding: ALL_CAPABILITIES },
            lockdown: Lockdown::Unknown,
            probes: Vec::new(),
            tls: Some(TlsUse { n_processes: 4, n_unreadable: 116, ..TlsUse::default() }),
            ..good()
        };
        host.settings.bpf_jit_enable = None;
        for trial in host.programs.iter_mut().chain(&mut host.maps) {
            trial.outcome =
                Outcome::Refused { errno: libc::EPERM, reason: "Operation not permitted".to_owned() };
        }
        host
    }

    /// A kernel without BTF.
    pub(crate) fn without_btf() -> Features {
        let mut host = Features {
            btf: Btf { problem: Some(format!("there is no {KERNEL_BTF}")), ..Btf::default() },
            tracepoints: tracepoints(|_| false),
            probes: Vec::new(),
            ..good()
        };
        for trial in host.programs.iter_mut().take(4) {
            trial.outcome = Outcome::NotTried { reason: "the kernel has no BTF".to_owned() };
        }
        host
    }

    pub(crate) fn all() -> [Features; 5] {
        [good(), old(), locked_down(), unprivileged(), without_btf()]
    }
}
