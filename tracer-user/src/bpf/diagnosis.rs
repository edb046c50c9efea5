//! What follows from [`Features`]: what works, what does not, what that costs and how to get it. A pure function, so
//! that `doctor`, the live header and failed starts say the same in the same words.

use serde::Serialize;

use super::{
    features::{Capability, Features, Lockdown, map, program},
    pid_namespace,
    trial::Outcome,
};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// It works.
    Ok,
    /// Could not be checked, or worth knowing; costs nothing that was asked for.
    Note,
    /// A feature or some speed is missing.
    Limit,
    /// Nothing can be traced.
    Fatal,
}

/// Part of the host that a check is about, in the order of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Area {
    /// Kernel and its types.
    Kernel,
    /// What the caller may do.
    Privileges,
    /// Where the probes sit.
    Hooks,
    /// Ring and maps.
    Memory,
    /// Mounted file systems.
    Mounts,
    /// TLS.
    Tls,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Which part of the host.
    pub area: Area,
    /// How bad.
    pub severity: Severity,
    /// What was found.
    pub what: String,
    /// What it costs; empty if nothing.
    pub cost: String,
    /// How to get it; empty if there is nothing to get.
    pub fix: String,
}

/// Families of data hooks that would load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Families {
    /// Socket tracepoints.
    pub socket: bool,
    /// System call tracepoints.
    pub syscall: bool,
}

/// All that was found about a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnosis {
    /// Whether tracing works here, for this caller.
    pub can_trace: bool,
    /// By which hooks.
    pub families: Families,
    /// All findings, good ones included, in the order of the report.
    pub checks: Vec<Check>,
}

/// Oldest kernel that is supported.
const FLOOR: (u32, u32) = (5, 10);
/// From here on maps are charged to the memory cgroup instead of the caller's locked memory.
pub(super) const NO_MEMLOCK: (u32, u32) = (5, 11);
/// First kernel with `sock_send_length` and `sock_recv_length`.
const SOCKET_HOOKS: &str = "6.3";
/// What a user types to get the capabilities without being root.
const SETCAP: &str =
    "run as root, or: setcap cap_bpf,cap_perfmon,cap_sys_ptrace,cap_dac_read_search+ep txray";

/// Says what follows from what was found.
pub fn diagnose(features: &Features) -> Diagnosis {
    let mut checks = Checks(Vec::new());
    kernel(features, &mut checks);
    let may_trace = privileges(features, &mut checks);
    let families = hooks(features, may_trace, &mut checks);
    memory(features, may_trace, &mut checks);
    mounts(features, &mut checks);
    tls(features, &mut checks);
    let can_trace = checks.0.iter().all(|check| check.severity != Severity::Fatal);
    Diagnosis { can_trace, families, checks: checks.0 }
}

impl Diagnosis {
    /// Whether only the caller's privileges are in the way.
    pub fn is_privilege_only(&self) -> bool {
        let mut fatal = self.checks.iter().filter(|check| check.severity == Severity::Fatal).peekable();
        fatal.peek().is_some() && fatal.all(|check| check.area == Area::Privileges)
    }

    /// The worst findings first-hand: why nothing can be traced.
    pub fn fatal(&self) -> impl Iterator<Item = &Check> {
        self.checks.iter().filter(|check| check.severity == Severity::Fatal)
    }
}

struct Checks(Vec<Check>);

impl Checks {
    fn ok(&mut self, area: Area, what: impl Into<String>) {
        self.add(area, Severity::Ok, what, "", "");
    }

    fn add(
        &mut self,
        area: Area,
        severity: Severity,
        what: impl Into<String>,
        cost: impl Into<String>,
        fix: impl Into<String>,
    ) {
        self.0.push(Check { area, severity, what: what.into(), cost: cost.into(), fix: fix.into() });
    }
}

fn kernel(features: &Features, checks: &mut Checks) {
    const NOTHING: &str = "nothing can be traced";
    let area = Area::Kernel;
    let version = features.version();
    if features.machine != "x86_64" {
        let what = format!("the machine is {}", features.machine);
        checks.add(area, Severity::Fatal, what, NOTHING, "txray reads x86-64 registers; use it there");
    }
    if version < FLOOR {
        let what = format!("kernel {} is older than 5.10", features.kernel);
        checks.add(area, Severity::Fatal, what, NOTHING, "a kernel of 5.10 or later");
    } else {
        checks.ok(area, format!("kernel {}", features.kernel));
    }
    match &features.btf.problem {
        None => {
            checks.ok(area, format!("BTF: {} types, every member that the probes need", features.btf.n_types))
        }
        Some(problem) if features.btf.present => {
            let fix = "report this with the kernel's release: the probes need a new offset";
            checks.add(area, Severity::Fatal, problem.clone(), NOTHING, fix);
        }
        Some(problem) => {
            let fix =
                "a kernel built with CONFIG_DEBUG_INFO_BTF=y, as distributions' kernels are since about 2021";
            checks.add(area, Severity::Fatal, format!("no BTF: {problem}"), NOTHING, fix);
        }
    }
    if features.foreign_pids {
        let what = pid_namespace::Foreign.to_string();
        checks.add(area, Severity::Fatal, what, NOTHING, pid_namespace::HINT);
    }
    match features.lockdown {
        Lockdown::None => checks.ok(area, "lockdown: off"),
        Lockdown::Integrity => checks.ok(area, "lockdown: integrity, which takes nothing from txray"),
        // A kernel whose lockdown left the reads alone would still be traced.
        Lockdown::Confidentiality if features.works(program::READ_KERNEL) => {
            checks.ok(area, "lockdown: confidentiality, though kernel memory may be read");
        }
        Lockdown::Confidentiality => checks.add(
            area,
            Severity::Fatal,
            "lockdown=confidentiality: the kernel lets no BPF program read kernel memory",
            "nothing can be traced: a socket cannot be told from a file, nor one connection from another",
            "boot with lockdown=integrity or without lockdown",
        ),
        Lockdown::Unknown => checks.add(
            area,
            Severity::Note,
            "lockdown: not known, securityfs is not readable",
            "",
            "mount -t securityfs securityfs /sys/kernel/security",
        ),
    }
    match features.settings.bpf_jit_enable {
        Some(0) => checks.add(
            area,
            Severity::Limit,
            "BPF programs are interpreted",
            "each hit of a probe takes several times as long",
            "sysctl net.core.bpf_jit_enable=1",
        ),
        Some(_) => checks.ok(area, "BPF programs are compiled to machine code"),
        // The file is for root only; most kernels are built to compile always.
        None => {}
    }
    if features.settings.bpf_stats_enabled.is_some_and(|enabled| enabled != 0) {
        checks.add(
            area,
            Severity::Limit,
            "statistics of BPF programs are on",
            "two clock reads, some 30 ns, at each hit of a probe",
            "sysctl kernel.bpf_stats_enabled=0",
        );
    }
}

/// Whether the caller may load programs: without that, trials say nothing about the kernel.
fn privileges(features: &Features, checks: &mut Checks) -> bool {
    let area = Area::Privileges;
    let capabilities = features.capabilities;
    let may_trace = capabilities.may_trace();
    if may_trace {
        let names: Vec<&str> =
            Capability::ALL.iter().filter(|&&one| capabilities.has(one)).map(|one| one.name()).collect();
        checks.ok(area, format!("user {} with {}", features.uid, names.join(" ")));
    } else {
        let needed = [Capability::Bpf, Capability::Perfmon];
        let lacking: Vec<&str> =
            needed.iter().filter(|&&one| !capabilities.has(one)).map(|one| one.name()).collect();
        let unreachable = needed.iter().any(|&one| !capabilities.could_have(one));
        let fix = if unreachable {
            "start the container or service with CAP_BPF, CAP_PERFMON and CAP_SYS_PTRACE: its bounding set leaves them out"
        } else {
            SETCAP
        };
        let what = format!("user {} without {}", features.uid, lacking.join(" and "));
        checks.add(area, Severity::Fatal, what, "no probe can be loaded; what loads was not checked", fix);
    }
    if !capabilities.has(Capability::SysPtrace) {
        checks.add(
            area,
            Severity::Limit,
            "no CAP_SYS_PTRACE",
            "executables, environments and sockets of other users' processes cannot be read: their services are named by \
             thread, and roles of connections older than the tracer are guessed",
            SETCAP,
        );
    }
    if !capabilities.has(Capability::DacReadSearch) {
        checks.add(
            area,
            Severity::Limit,
            "no CAP_DAC_READ_SEARCH",
            "names of containers, which their runtimes keep in root's files, are not found: ids are shown",
            SETCAP,
        );
    }
    may_trace
}

fn hooks(features: &Features, may_trace: bool, checks: &mut Checks) -> Families {
    let area = Area::Hooks;
    let has_all = |names: &[&str]| names.iter().all(|name| features.has_tracepoint(name));
    // Without privileges only BTF speaks.
    let loads = |what: &str| !may_trace || features.works(what);
    if may_trace {
        for (what, does, cost) in [
            (program::TP_BTF, "typed tracepoints", "nothing can be traced: every probe is one"),
            (
                program::READ_USER,
                "reading the traced process's memory",
                "nothing can be traced: payload cannot be read",
            ),
            (
                program::READ_KERNEL,
                "reading kernel memory",
                "nothing can be traced: connections cannot be told apart",
            ),
        ] {
            match features.trial(what) {
                Some(outcome @ Outcome::Refused { .. }) => {
                    let known =
                        what == program::READ_KERNEL && features.lockdown == Lockdown::Confidentiality;
                    // Said already, with its cause.
                    if !known {
                        let fix = "look for what forbids it: a security module, a sandbox, lockdown, a vendor's kernel";
                        let what = format!("{does} is refused: {}", reason(outcome));
                        checks.add(area, Severity::Fatal, what, cost, fix);
                    }
                }
                Some(Outcome::Works) => checks.ok(area, format!("{does} ({what})")),
                Some(Outcome::NotTried { .. }) | None => {}
            }
        }
    }
    let can_read = loads(program::TP_BTF) && loads(program::READ_KERNEL) && loads(program::READ_USER);
    let has_socket = has_all(&["sock_send_length", "sock_recv_length"]);
    let socket = has_socket && can_read && loads(program::USER_REGISTERS);
    let syscall = has_all(&["sys_exit"]) && can_read;
    let slower = "data is taken at the system calls: every process on the host pays 30 to 60 ns per call, \
                  and a saturated server keeps less of its throughput";
    if has_socket && (socket || !can_read) {
        checks.ok(area, "socket tracepoints (sock_send_length, sock_recv_length)");
    } else if has_socket {
        let what = format!(
            "the socket tracepoints cannot find their buffers: {}",
            features.trial(program::USER_REGISTERS).map(reason).unwrap_or_default()
        );
        checks.add(area, Severity::Limit, what, slower, "report this with the kernel's release");
    } else if features.btf.present {
        let what = "no socket tracepoints (sock_send_length, sock_recv_length)";
        checks.add(area, Severity::Limit, what, slower, format!("a kernel of {SOCKET_HOOKS} or later"));
    }
    if has_all(&["sys_exit"]) {
        checks.ok(area, "system call tracepoint (sys_exit)");
    } else if features.btf.present {
        let (severity, cost) = if socket {
            (Severity::Note, "--hooks syscall is not possible here")
        } else {
            (Severity::Fatal, "nothing can be traced: there is no data hook at all")
        };
        let fix = "a kernel built with CONFIG_FTRACE_SYSCALLS=y";
        checks.add(area, severity, "no system call tracepoint (sys_exit)", cost, fix);
    }
    life(features, checks);
    let (socket, syscall) = own_probes(features, socket, syscall, checks);
    if may_trace {
        other_programs(features, checks);
    }
    Families { socket, syscall }
}

/// txray's own probes, loaded for trial. What the kernel refuses is missing although its tracepoint is there.
fn own_probes(features: &Features, socket: bool, syscall: bool, checks: &mut Checks) -> (bool, bool) {
    let (mut socket, mut syscall) = (socket, syscall);
    let area = Area::Hooks;
    let fix = "report this with the kernel's release: its verifier does not accept the probe";
    for probe in &features.probes {
        let Some(refused) = &probe.refused else { continue };
        let what = format!("probe {} on {} is refused: {refused}", probe.program, probe.tracepoint);
        let (severity, cost) = match (probe.family.as_deref(), &probe.feature) {
            (Some("socket"), _) => {
                socket = false;
                (
                    Severity::Limit,
                    "system calls are traced in place of socket tracepoints, which costs more".to_owned(),
                )
            }
            (Some(_), _) => {
                syscall = false;
                (Severity::Limit, "system call tracepoints cannot be used".to_owned())
            }
            (None, Some(feature)) => (Severity::Limit, format!("not known: {feature}")),
            (None, None) => (Severity::Fatal, "nothing can be traced".to_owned()),
        };
        checks.add(area, severity, what, cost, fix);
    }
    let n_loaded = features.probes.iter().filter(|probe| probe.refused.is_none()).count();
    if n_loaded > 0 {
        checks.ok(area, format!("{n_loaded} of {} probes load", features.probes.len()));
        let is_hook_refused =
            features.probes.iter().any(|probe| probe.family.is_some() && probe.refused.is_some());
        if !socket && !syscall && is_hook_refused {
            let what = "neither family of data hooks loads";
            checks.add(area, Severity::Fatal, what, "nothing can be traced", fix);
        }
    }
    (socket, syscall)
}

/// Tracepoints that the connections' life comes from, and those that each carry one feature.
fn life(features: &Features, checks: &mut Checks) {
    if !features.btf.present {
        return;
    }
    for (name, does) in
        [("inet_sock_set_state", "life of TCP connections"), ("tcp_destroy_sock", "end of TCP connections")]
    {
        if features.has_tracepoint(name) {
            checks.ok(Area::Hooks, format!("{does} ({name})"));
        } else {
            let cost = "nothing can be traced: connections would never begin or end";
            let fix = "a kernel with this tracepoint (4.16 or later)";
            checks.add(Area::Hooks, Severity::Fatal, format!("no tracepoint {name}: {does}"), cost, fix);
        }
    }
    for (name, does, cost, fix) in [
        (
            "sk_data_ready",
            "arrival of requests",
            "queue_ns stays empty: how long a request waited before it was read is not known",
            "a kernel of 6.3 or later",
        ),
        (
            "tcp_retransmit_skb",
            "segments sent again",
            "retransmits are counted with the next bytes of their connection, and those behind an answer not at all",
            "a kernel with this tracepoint (4.16 or later)",
        ),
        (
            "sched_process_fork",
            "start of processes",
            "children of a target are not followed",
            "a kernel with this tracepoint",
        ),
        (
            "sched_process_exec",
            "programs executed",
            "--exe finds only what runs already; a process keeps its first service name",
            "a kernel with this tracepoint",
        ),
        (
            "sched_process_exit",
            "end of processes",
            "requests of a process that dies stay open until their connection is closed",
            "a kernel with this tracepoint",
        ),
        (
            "task_rename",
            "names that processes take",
            "--comm finds only processes that have the name already",
            "a kernel with this tracepoint",
        ),
    ] {
        if features.has_tracepoint(name) {
            checks.ok(Area::Hooks, format!("{does} ({name})"));
        } else {
            checks.add(Area::Hooks, Severity::Limit, format!("no tracepoint {name}: {does}"), cost, fix);
        }
    }
}

/// Program types that nothing needs today, for whoever plans with them.
fn other_programs(features: &Features, checks: &mut Checks) {
    for what in [program::RAW_TP, program::TRACEPOINT, program::UPROBE, program::PERF_EVENT, program::FENTRY]
    {
        match features.trial(what) {
            Some(Outcome::Works) => checks.ok(Area::Hooks, format!("{what} loads")),
            Some(outcome) => {
                let what = format!("{what} does not load: {}", reason(outcome));
                checks.add(Area::Hooks, Severity::Note, what, "nothing: txray works without", "");
            }
            None => {}
        }
    }
    match features.trial(program::STATISTICS) {
        Some(Outcome::Works) => {
            checks.ok(Area::Hooks, "kernel time per program (statistics of BPF programs)")
        }
        Some(outcome) => {
            let what = format!("the kernel does not count what programs take: {}", reason(outcome));
            let fix = "CAP_SYS_ADMIN, and a kernel of 5.8 or later";
            let cost = "the kernel time of each probe is not known";
            checks.add(Area::Hooks, Severity::Limit, what, cost, fix);
        }
        None => {}
    }
}

fn memory(features: &Features, may_trace: bool, checks: &mut Checks) {
    let area = Area::Memory;
    if !may_trace {
        return;
    }
    let locked = features.version() < NO_MEMLOCK;
    let fix = if locked {
        "ulimit -l unlimited, or CAP_SYS_RESOURCE"
    } else {
        "free memory, or a higher limit of the cgroup"
    };
    for (what, severity, cost) in [
        (map::RING, Severity::Fatal, "nothing can be traced: events have no way out of the kernel"),
        (map::HASH, Severity::Fatal, "nothing can be traced: connections cannot be remembered"),
        (map::ARRAY, Severity::Fatal, "nothing can be traced: settings and counters have no place"),
        (
            map::RING_DEFAULT,
            Severity::Limit,
            "the default ring does not fit: give --ring-size 8M, and expect losses at lower rates",
        ),
    ] {
        match features.trial(what) {
            Some(Outcome::Works) => checks.ok(area, what),
            Some(outcome) => {
                checks.add(area, severity, format!("{what} is refused: {}", reason(outcome)), cost, fix);
            }
            None => {}
        }
    }
    if locked && !features.capabilities.has(Capability::SysResource) {
        let limit = match features.memlock_bytes {
            Some(bytes) => format!("{} KiB", bytes / 1024),
            None => "unlimited".to_owned(),
        };
        let severity = if features.memlock_bytes.is_some() { Severity::Note } else { Severity::Ok };
        checks.add(
            area,
            severity,
            format!("locked memory: {limit}, which maps count towards before 5.11"),
            "",
            fix,
        );
    }
}

fn mounts(features: &Features, checks: &mut Checks) {
    let area = Area::Mounts;
    match &features.mounts.cgroup2 {
        Some(path) => checks.ok(area, format!("cgroup2 at {path}")),
        None => checks.add(
            area,
            Severity::Limit,
            "cgroup2 is not mounted",
            "--cgroup finds nothing",
            "mount -t cgroup2 cgroup2 /sys/fs/cgroup",
        ),
    }
    // Typed tracepoints and unpinned maps need neither of these.
    for (name, mount) in [("tracefs", &features.mounts.tracefs), ("bpffs", &features.mounts.bpffs)] {
        match mount {
            Some(path) => checks.ok(area, format!("{name} at {path}")),
            None => checks.add(
                area,
                Severity::Note,
                format!("{name} is not mounted"),
                "nothing: txray works without",
                "",
            ),
        }
    }
}

fn tls(features: &Features, checks: &mut Checks) {
    let area = Area::Tls;
    let Some(tls) = &features.tls else { return };
    if let Some(trial) = &tls.probes {
        let opaque = "what is said inside TLS is not shown: turns from outside are";
        match (&trial.refused, &trial.harms_confined) {
            (Some(why), _) => {
                let fix = "a kernel with CONFIG_UPROBE_EVENTS; --tls opaque does without";
                checks.add(area, Severity::Limit, format!("no probes on functions: {why}"), opaque, fix);
            }
            (None, Some(why)) => {
                let cost = format!("of those programs {opaque}");
                checks.add(area, Severity::Limit, why.clone(), cost, "kernel 6.13.2 or later");
            }
            (None, None) => {
                let cost = trial.ns_per_call;
                checks.ok(area, format!("probes on a library's function: {cost} ns a call, entry and return, tried on a process of txray's own"));
            }
        }
    }
    for library in &tls.libraries {
        let what = format!(
            "{}: {} ({}) with {}",
            library.kind,
            processes(library.n_processes),
            library.examples.join(", "),
            library.file
        );
        if library.is_read() {
            checks.ok(area, what);
            continue;
        }
        checks.add(
            area,
            Severity::Note,
            what,
            "what they encrypt is not read: connections, turns, bytes and times are seen, requests are not",
            "",
        );
    }
    if tls.libraries.is_empty() {
        checks.ok(area, format!("no TLS library in use by {}", processes(tls.n_processes)));
    }
    if tls.n_unreadable > 0 {
        let what = format!("{} more whose libraries may not be read", processes(tls.n_unreadable));
        // With the capability it is the process itself that forbids it, by a security module or a namespace.
        let fix = if features.capabilities.has(Capability::SysPtrace) { "" } else { SETCAP };
        checks.add(area, Severity::Note, what, "TLS in them is not listed", fix);
    }
    if tls.cut_short {
        let what = format!("not all processes answered in time: {} looked at", processes(tls.n_processes));
        checks.add(area, Severity::Note, what, "TLS in the others is not listed", "");
    }
}

fn processes(n: u64) -> String {
    if n == 1 { "1 process".to_owned() } else { format!("{n} processes") }
}

fn reason(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Works => String::new(),
        Outcome::Refused { reason, .. } | Outcome::NotTried { reason } => reason.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bpf::features::{Trial, test_hosts};

    fn fatal(features: &Features) -> Vec<String> {
        diagnose(features).fatal().map(|check| check.what.clone()).collect()
    }

    fn set(features: &mut Features, what: &str, outcome: Outcome) {
        let all = features.programs.iter_mut().chain(&mut features.maps);
        let trial = all.into_iter().find(|trial| trial.what == what).unwrap();
        *trial = Trial { what: what.to_owned(), outcome };
    }

    fn refused() -> Outcome {
        Outcome::Refused { errno: libc::EPERM, reason: "Operation not permitted".to_owned() }
    }

    #[test]
    fn a_good_host_has_nothing_against_it() {
        let diagnosis = diagnose(&test_hosts::good());
        assert!(diagnosis.can_trace);
        assert_eq!(diagnosis.families, Families { socket: true, syscall: true });
        let bad: Vec<_> = diagnosis.checks.iter().filter(|check| check.severity > Severity::Note).collect();
        assert!(bad.is_empty(), "{bad:?}");
    }

    #[test]
    fn an_old_kernel_is_traced_by_system_calls() {
        let diagnosis = diagnose(&test_hosts::old());
        assert!(diagnosis.can_trace);
        assert_eq!(diagnosis.families, Families { socket: false, syscall: true });
    }

    #[test]
    fn each_thing_that_nothing_works_without_is_fatal_alone() {
        let mut host = test_hosts::good();
        host.kernel = "5.4.0-1".to_owned();
        assert_eq!(fatal(&host), ["kernel 5.4.0-1 is older than 5.10"]);
        let mut host = test_hosts::good();
        host.machine = "aarch64".to_owned();
        assert_eq!(fatal(&host), ["the machine is aarch64"]);
        for what in [program::TP_BTF, program::READ_USER, program::READ_KERNEL] {
            let mut host = test_hosts::good();
            set(&mut host, what, refused());
            let diagnosis = diagnose(&host);
            assert_eq!(diagnosis.fatal().count(), 1, "{what}");
            assert_eq!(diagnosis.families, Families::default(), "{what}");
            assert!(!diagnosis.is_privilege_only());
        }
        for name in ["inet_sock_set_state", "tcp_destroy_sock"] {
            let mut host = test_hosts::good();
            host.tracepoints.iter_mut().find(|tracepoint| tracepoint.name == name).unwrap().arguments = None;
            assert_eq!(fatal(&host).len(), 1, "{name}");
        }
        for what in [map::RING, map::HASH, map::ARRAY] {
            let mut host = test_hosts::good();
            set(&mut host, what, refused());
            assert_eq!(fatal(&host), [format!("{what} is refused: Operation not permitted")]);
        }
    }

    #[test]
    fn lockdown_is_named_once_as_the_cause() {
        let host = test_hosts::locked_down();
        assert_eq!(
            fatal(&host),
            ["lockdown=confidentiality: the kernel lets no BPF program read kernel memory"]
        );
        assert_eq!(diagnose(&host).families, Families::default());
    }

    #[test]
    fn a_user_without_privileges_hears_of_them_and_not_of_refusals() {
        let diagnosis = diagnose(&test_hosts::unprivileged());
        assert!(!diagnosis.can_trace && diagnosis.is_privilege_only());
        assert_eq!(diagnosis.fatal().count(), 1);
        assert!(!diagnosis.checks.iter().any(|check| check.what.contains("refused")));
        assert!(diagnosis.families.socket, "what the kernel has is said all the same");
    }

    #[test]
    fn what_costs_only_a_feature_is_not_fatal() {
        for name in
            ["sk_data_ready", "sched_process_exec", "sched_process_fork", "sched_process_exit", "task_rename"]
        {
            let mut host = test_hosts::good();
            host.tracepoints.iter_mut().find(|tracepoint| tracepoint.name == name).unwrap().arguments = None;
            let diagnosis = diagnose(&host);
            assert!(diagnosis.can_trace, "{name}");
            let limits = diagnosis.checks.iter().filter(|check| check.severity == Severity::Limit);
            assert_eq!(limits.filter(|check| check.what.contains(name)).count(), 1, "{name}");
        }
        for what in
            [program::FENTRY, program::UPROBE, program::RAW_TP, program::PERF_EVENT, map::RING_DEFAULT]
        {
            let mut host = test_hosts::good();
            set(&mut host, what, refused());
            assert!(diagnose(&host).can_trace, "{what}");
        }
    }

    #[test]
    fn numbers_that_are_not_the_kernels_are_fatal_and_no_matter_of_privileges() {
        let host = Features { foreign_pids: true, ..test_hosts::good() };
        let diagnosis = diagnose(&host);
        assert!(!diagnosis.can_trace && !diagnosis.is_privilege_only());
        assert!(diagnosis.fatal().next().unwrap().what.contains("pid namespace"));
    }

    #[test]
    fn a_probe_that_the_verifier_refuses_costs_what_it_is_for() {
        let refuse = |programs: &[&str]| {
            let mut host = test_hosts::good();
            for probe in host.probes.iter_mut().filter(|probe| programs.contains(&probe.program.as_str())) {
                probe.refused = Some("too large".to_owned());
            }
            diagnose(&host)
        };
        assert!(refuse(&["data_ready"]).can_trace);
        let diagnosis = refuse(&["socket_send"]);
        assert!(diagnosis.can_trace);
        assert_eq!(diagnosis.families, Families { socket: false, syscall: true });
        assert!(!refuse(&["tcp_state"]).can_trace);
        let diagnosis = refuse(&["socket_receive", "syscall_exit"]);
        assert_eq!((diagnosis.can_trace, diagnosis.families), (false, Families::default()));
    }

    #[test]
    fn a_host_without_any_data_hook_is_fatal() {
        let mut host = test_hosts::old();
        for tracepoint in &mut host.tracepoints {
            if tracepoint.name.starts_with("sock_") || tracepoint.name == "sys_exit" {
                tracepoint.arguments = None;
            }
        }
        assert_eq!(fatal(&host), ["no system call tracepoint (sys_exit)"]);
    }

    #[test]
    fn all_that_is_missing_has_a_cost_and_a_way() {
        for host in test_hosts::all() {
            for check in diagnose(&host).checks {
                if check.severity >= Severity::Limit {
                    assert!(!check.cost.is_empty() && !check.fix.is_empty(), "{check:?}");
                }
            }
        }
    }
}
