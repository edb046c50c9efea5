//! Loading and attaching the probes. A program that the kernel refuses costs its feature, not the run; only the data
//! hooks and the connection's life are indispensable.

use std::{
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use aya::{
    Btf, Ebpf, EbpfLoader,
    maps::{Array, CgroupArray, HashMap, MapData},
    programs::{Program, tp_btf::BtfTracePointLink},
};
use rustc_hash::FxHashMap;
use tracer_ebpf as abi;

use crate::{
    bpf::{
        anatomy,
        btf::{BtfError, KernelBtf},
        features,
        later_programs::{self, TlsPrograms},
        meter,
        offsets::{MissingMember, Offsets},
        pid_namespace,
        probes::{
            ANATOMY, FUNCTIONS, LIFE, Place, Probe, TLS, TLS_FEATURE, TLS_FILES, TLS_FILES_FEATURE, TLS_GO,
            TLS_LATER_FEATURE, TLS_RUSTLS,
        },
        python_processes::{self, PythonPrograms},
        samples,
        tls_libraries::TlsTrial,
        tracepoints::{attach, detach, load_together},
        uprobe_programs::{self, Relocated, UprobePrograms},
        uprobe_trial,
    },
    config::{Anatomy, Hooks, Targets},
};

pub use super::probes::Family;
pub(super) use super::{
    refusal::{chain, shortened},
    tracepoints::NO_SUCH_PROGRAM,
};

/// Programs beside those of the first object, by name; some come later.
pub(super) type Others = Arc<Mutex<Vec<(&'static str, OwnedFd)>>>;

/// The kernel side, as built by this package's build script.
pub(super) static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/txray-bpf"));

/// What to load and whom to trace.
#[derive(Clone, Debug)]
pub struct LoadConfig {
    /// Who is traced.
    pub targets: Targets,
    /// Processes that the targets name now, found in `/proc` by the caller.
    pub pids: Vec<u32>,
    /// Ports on which they listen now.
    pub listening: Vec<abi::PortKey>,
    /// Family of data hooks.
    pub hooks: Hooks,
    /// Ring size, bytes: a power of two, at least a page.
    pub ring_bytes: u32,
    /// Most connections tracked at once.
    pub max_conns: u32,
    /// Bytes copied per turn until a verdict says otherwise.
    pub budget: u32,
    /// What is copied of a connection before its first verdict.
    pub capture: Capture,
    /// Ports whose datagrams are told; empty = no datagrams.
    pub udp_ports: Vec<u16>,
    /// Calls of TLS libraries are told.
    pub tls: bool,
    /// Calls of functions are told.
    pub functions: bool,
    /// From which duration on their stacks are told too, ns; 0 = of all.
    pub stacks: Option<u64>,
    /// What is told of threads that serve requests.
    pub anatomy: Anatomy,
    /// Stacks of requests are told.
    pub request_stacks: bool,
    /// A target has a UDP socket without a peer on one of them.
    pub has_open_datagram_sockets: bool,
}

/// What the kernel copies of a connection before user space has given a verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Capture {
    /// The first bytes of each turn, up to the budget.
    #[default]
    Heads,
    /// All bytes of each call, up to [`abi::MAX_PAYLOAD_PER_CALL`] (what is beyond is counted, `payload_cut`).
    Everything,
}

/// A feature that this run does without.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// What cannot be known.
    pub feature: &'static str,
    /// Why.
    pub reason: String,
}

/// Why nothing can be traced. Each has one line and a hint.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// No BTF, or a broken one.
    #[error("{0}")]
    Btf(#[from] BtfError),
    /// The kernel lacks a member that the probes read.
    #[error("{0}")]
    Member(#[from] MissingMember),
    /// The kernel's process numbers are not those of `/proc`.
    #[error("{0}")]
    PidNamespace(#[from] pid_namespace::Foreign),
    /// Forced hooks that this kernel does not have.
    #[error("this kernel has no tracepoints sock_send_length and sock_recv_length (they came with 6.3)")]
    NoSocketHooks,
    /// The object could not be loaded: maps or BTF.
    #[error("load the kernel side: {0}")]
    Object(String),
    /// A program without which there is nothing to see.
    #[error("load probe {program}: {reason}")]
    Program {
        /// Which.
        program: &'static str,
        /// The kernel's words.
        reason: String,
    },
    /// A map could not be filled.
    #[error("{doing}: {reason}")]
    Map {
        /// What was being done.
        doing: String,
        /// Why not.
        reason: String,
    },
}

impl LoadError {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            LoadError::Btf(_) => {
                "txray needs a kernel with CONFIG_DEBUG_INFO_BTF=y (/sys/kernel/btf/vmlinux); Debian's have it"
            }
            LoadError::Member(_) => "run `txray doctor`, and report this kernel version",
            LoadError::PidNamespace(_) => pid_namespace::HINT,
            LoadError::NoSocketHooks => "use --hooks syscall, or leave --hooks at auto",
            LoadError::Object(_) | LoadError::Program { .. } => {
                "run as root, or with CAP_BPF, CAP_PERFMON and CAP_SYS_PTRACE; `txray doctor` says what is missing"
            }
            LoadError::Map { .. } => "check the target: `txray doctor` lists what this host has",
        }
    }
}

/// The loaded kernel side. Dropping it detaches every program.
pub struct Loaded {
    /// Programs and maps.
    pub ebpf: Ebpf,
    /// Which data hooks run.
    pub family: Family,
    /// What this run does without.
    pub missing: Vec<Missing>,
    /// The programs for functions of TLS libraries, attached to nothing. Empty where the kernel did not take them, or nobody asked for them.
    pub tls_programs: TlsPrograms,
    /// The programs for functions that somebody named, in the same way; an error where the kernel did not take them.
    pub function_programs: Result<UprobePrograms, String>,
    /// The programs that read what Python runs, until the first process does. `None`: nobody wants stacks, or the kernel cannot have them.
    pub python: Option<PythonPrograms>,
    /// Those of all three that `ebpf` does not hold.
    pub others: Others,
    /// The probe at the exit of calls is loaded, and not attached.
    pub has_datagram_exit: bool,
    /// It is wanted from the start.
    pub datagram_exit_at_once: bool,
}

impl Loaded {
    /// Ends what is seen at one instant. Detaching takes tens of milliseconds, one program after the other: an answer would be seen whose
    /// request no longer was.
    pub fn disarm(&mut self) -> Result<(), LoadError> {
        arm(&mut self.ebpf, false)
    }

    /// Attaches the probes at the exit of calls, which complete what the socket tracepoints tell of datagrams. Dropping the link detaches
    /// them.
    pub fn attach_datagram_exits(&mut self) -> Result<BtfTracePointLink, String> {
        let exits = self.family.datagram_exits();
        // Where one hands over to the other, the other is there before.
        for probe in exits.iter().filter(|probe| probe.place != Place::Tracepoint) {
            attach(&mut self.ebpf, probe)?;
        }
        let first = exits.iter().find(|probe| probe.place == Place::Tracepoint);
        let Some(Program::BtfTracePoint(program)) =
            first.and_then(|probe| self.ebpf.program_mut(probe.program))
        else {
            return Err(NO_SUCH_PROGRAM.to_owned());
        };
        let link = program.attach().and_then(|id| program.take_link(id));
        link.map_err(|error| shortened(&chain(&error)))
    }
}

/// Loads and attaches everything; the data hooks last, so that no byte is seen before its connection can be.
pub fn load(config: &LoadConfig) -> Result<Loaded, LoadError> {
    features::raise_memlock();
    let own_pid = pid_namespace::own_pid(Path::new("/proc"))?;
    let kernel = KernelBtf::running()?;
    let offsets = Offsets::resolve(&kernel)?;
    let families = families(config.hooks, Family::Socket.is_of(&kernel))?;
    let btf = Btf::from_sys_fs().map_err(|error| LoadError::Object(error.to_string()))?;
    let settings = settings(config, &offsets, own_pid, &kernel, families[0]);
    let mut ebpf = object(&settings, config.max_conns, config.functions, &btf)?;
    fill(&mut ebpf, config)?;

    let mut missing = Vec::new();
    // The costliest first. What a fallback needs is loaded when it is needed.
    let datagrams = |family: Family| {
        let wanted = !config.udp_ports.is_empty();
        family.datagrams().iter().chain(family.datagram_exits()).filter(move |_| wanted)
    };
    let scheduler = || anatomy::probes(config.anatomy).filter(|_| settings.anatomy != abi::ANATOMY_NONE);
    let wanted = families
        .iter()
        .take(1)
        .flat_map(|family| family.probes().iter().chain(datagrams(*family)))
        .chain(LIFE)
        .chain(scheduler());
    let present: Vec<&Probe> = wanted.filter(|probe| kernel.tracepoint(probe.tracepoint).is_some()).collect();
    let mut loaded = load_together(&mut ebpf, &present, &btf);
    let mut is_loaded = |ebpf: &mut Ebpf, probe: &Probe| match loaded.remove(probe.program) {
        _ if kernel.tracepoint(probe.tracepoint).is_none() => {
            Err(format!("this kernel has no tracepoint {}", probe.tracepoint))
        }
        Some(outcome) => outcome,
        None => load_together(ebpf, &[probe], &btf).remove(probe.program).unwrap_or(Ok(())),
    };
    let mut attach = |ebpf: &mut Ebpf, probe: &Probe| {
        is_loaded(ebpf, probe)?;
        attach(ebpf, probe)
    };
    for probe in LIFE {
        match (attach(&mut ebpf, probe), probe.feature) {
            (Ok(()), _) => {}
            (Err(reason), Some(feature)) => missing.push(Missing { feature, reason }),
            (Err(reason), None) => return Err(LoadError::Program { program: probe.program, reason }),
        }
    }
    if let Some(reason) = scheduler().find_map(|probe| attach(&mut ebpf, probe).err()) {
        // Half of it would take a wait for work.
        let mut loaded = load(&LoadConfig { anatomy: Anatomy::Off, ..config.clone() })?;
        loaded.missing.push(Missing { feature: ANATOMY, reason });
        return Ok(loaded);
    }
    if settings.wait_stack_ns != 0 {
        missing.extend(samples::attach(&mut ebpf).err());
    }
    let family = data_hooks(families, |probe| attach(&mut ebpf, probe), &mut missing)?;
    let absent = |probe: &Probe, reason| Missing { feature: probe.feature.unwrap_or_default(), reason };
    let mut has_datagram_exit = false;
    if !config.udp_ports.is_empty() {
        let probes = family.datagrams();
        let refused = probes.iter().find_map(|probe| Some(absent(probe, attach(&mut ebpf, probe).err()?)));
        if let Some(refused) = refused {
            // Half of it would take an answer for another's.
            probes.iter().for_each(|probe| detach(&mut ebpf, probe));
            missing.push(refused);
        } else if !family.datagram_exits().is_empty() {
            let exits = family.datagram_exits();
            let refused = exits.iter().find_map(|exit| Some(absent(exit, is_loaded(&mut ebpf, exit).err()?)));
            has_datagram_exit = refused.is_none();
            missing.extend(refused);
        }
    }
    for other in families.iter().filter(|other| **other != family) {
        other.probes().iter().chain(datagrams(*other)).for_each(|probe| detach(&mut ebpf, probe));
    }
    let others = later_programs::others();
    // Once for all that is loaded later.
    let mut object: Option<Arc<Relocated>> = None;
    let mut relocated = |ebpf: &Ebpf| match &object {
        Some(object) => Ok::<_, String>(object.clone()),
        None => Ok(object.insert(Arc::new(Relocated::of(ebpf)?)).clone()),
    };
    let mut python = None;
    if settings.wait_stack_ns != 0 {
        let later =
            relocated(&ebpf).and_then(|object| PythonPrograms::of(&ebpf, object, &kernel, others.clone()));
        match later {
            Ok(programs) => python = Some(programs),
            Err(reason) => missing.push(Missing { feature: python_processes::FEATURE, reason }),
        }
    }
    let mut tls_programs = TlsPrograms::new(FxHashMap::default(), others.clone());
    if config.tls {
        match uprobe_programs::load(&mut ebpf, TLS) {
            Ok(mut programs) => {
                // By themselves: without them the others are read.
                match uprobe_programs::load(&mut ebpf, TLS_FILES) {
                    Ok(files) => programs.extend(files),
                    Err(reason) => missing.push(Missing { feature: TLS_FILES_FEATURE, reason }),
                }
                tls_programs = TlsPrograms::new(programs, others.clone());
                let groups =
                    [later_programs::go(TLS_GO), later_programs::rustls(TLS_RUSTLS, family.rustls())];
                let n_groups = if settings.tls == abi::TLS_AND_RUSTLS { 2 } else { 1 };
                let later = relocated(&ebpf)
                    .and_then(|object| tls_programs.add_later(&ebpf, object, &kernel, &groups[..n_groups]));
                if let Err(reason) = later {
                    missing.push(Missing { feature: TLS_LATER_FEATURE, reason });
                }
            }
            Err(reason) => missing.push(Missing { feature: TLS_FEATURE, reason }),
        }
    }
    let function_programs =
        if config.functions { uprobe_programs::load(&mut ebpf, FUNCTIONS) } else { Ok(FxHashMap::default()) };
    {
        let of_both = tls_programs.there().iter().chain(function_programs.iter().flatten());
        let of_both = later_programs::counted(of_both.filter(|(_, program)| program.is_multi()));
        others.lock().unwrap_or_else(PoisonError::into_inner).extend(of_both);
    }
    arm(&mut ebpf, true)?;
    missing.extend(meter::missing());
    let datagram_exit_at_once = config.has_open_datagram_sockets;
    Ok(Loaded {
        ebpf,
        family,
        missing,
        others,
        tls_programs,
        function_programs,
        python,
        has_datagram_exit,
        datagram_exit_at_once,
    })
}

/// Lets the probes tell what they see, all from the same instant on, or no longer.
fn arm(ebpf: &mut Ebpf, armed: bool) -> Result<(), LoadError> {
    let mut flag: Array<&mut MapData, u32> = array(ebpf, "ARMED")?;
    let failed = |error| LoadError::Map { doing: "arm the probes".to_owned(), reason: chain(&error) };
    flag.set(0, u32::from(armed), 0).map_err(failed)
}

/// The families to try, the best first.
fn families(hooks: Hooks, has_socket_hooks: bool) -> Result<&'static [Family], LoadError> {
    match hooks {
        Hooks::Auto if has_socket_hooks => Ok(&[Family::Socket, Family::Syscall]),
        Hooks::Socket if !has_socket_hooks => Err(LoadError::NoSocketHooks),
        Hooks::Socket => Ok(&[Family::Socket]),
        Hooks::Auto | Hooks::Syscall => Ok(&[Family::Syscall]),
    }
}

/// Attaches the first of `families` whose probes the kernel takes, all of them. One that it refuses is a feature that this
/// run does without, as long as another is left.
fn data_hooks(
    families: &[Family],
    mut attach: impl FnMut(&Probe) -> Result<(), String>,
    missing: &mut Vec<Missing>,
) -> Result<Family, LoadError> {
    let mut refused = None;
    for family in families {
        let probes = family.probes();
        let Some((probe, reason)) =
            probes.iter().find_map(|probe| attach(probe).err().map(|reason| (probe, reason)))
        else {
            if let Some((program, reason)) = refused {
                missing.push(Missing {
                    feature: SOCKET_FEATURE,
                    reason: format!("load probe {program}: {reason}"),
                });
            }
            return Ok(*family);
        };
        // The first refusal is told if no family is left: it is the better one's.
        refused.get_or_insert((probe.program, reason));
    }
    let (program, reason) = refused.unwrap_or(("none", "there is no family of data hooks".to_owned()));
    Err(LoadError::Program { program, reason })
}

/// What a run does without when it falls back on system calls.
const SOCKET_FEATURE: &str = "socket tracepoints (system calls are traced in their place, which costs more)";

/// What the probes are told.
fn settings(
    config: &LoadConfig,
    offsets: &Offsets,
    own_pid: u32,
    kernel: &KernelBtf,
    family: Family,
) -> abi::Settings {
    let targets = &config.targets;
    let by_process = !(config.pids.is_empty()
        && targets.pids.is_empty()
        && targets.comms.is_empty()
        && targets.exes.is_empty()
        && targets.cgroups.is_empty());
    let mut settings = abi::Settings {
        abi_version: abi::ABI_VERSION,
        self_pid: own_pid,
        mode: if by_process { abi::MODE_TARGETS } else { abi::MODE_ALL },
        by_cgroup: u32::from(!targets.cgroups.is_empty()),
        n_comms: targets.comms.len().min(abi::MAX_COMMS as usize) as u32,
        by_exe: u32::from(!targets.exes.is_empty()),
        by_port: u32::from(!targets.ports.is_empty()),
        budget: config.budget,
        ring_bytes: config.ring_bytes,
        // Not measured: an eighth of the ring leaves seven for what arrives while the reader wakes.
        wake_bytes: config.ring_bytes / 8,
        capture: match config.capture {
            Capture::Heads => abi::VERDICT_HEADS,
            Capture::Everything => abi::VERDICT_EVERYTHING,
        },
        datagrams: u32::from(!config.udp_ports.is_empty()),
        tls: match config.tls {
            false => abi::TLS_NOTHING,
            // They came with 6.3.
            true if Family::Socket.is_of(kernel) => abi::TLS_AND_RUSTLS,
            true => abi::TLS_LIBRARIES,
        },
        stacks: match config.stacks {
            None => abi::STACKS_NONE,
            Some(0) => abi::STACKS_ALL,
            Some(_) => abi::STACKS_SLOW,
        },
        stack_ns: config.stacks.unwrap_or(0),
        wait_stack_ns: 0,
        stacks_per_window: 0,
        task_switches: abi::NO_OFFSET,
        anatomy: abi::ANATOMY_NONE,
        switch_has_state: 0,
        has_task_registers: 0,
        hits_in_call: 0,
        task_state: abi::NO_OFFSET,
        task_stack: abi::NO_OFFSET,
        io_wait_byte: abi::NO_OFFSET,
        io_wait_bit: 0,
        reserved: 0,
        offsets: abi::KernelOffsets::from(offsets),
    };
    anatomy::settings(config.anatomy, config.request_stacks, family, kernel, &mut settings);
    settings
}

/// Makes the maps, and the programs ready to be loaded.
fn object(
    settings: &abi::Settings,
    max_conns: u32,
    has_functions: bool,
    btf: &Btf,
) -> Result<Ebpf, LoadError> {
    EbpfLoader::new()
        .btf(Some(btf))
        .override_global("SETTINGS", settings, true)
        .map_max_entries("EVENTS", settings.ring_bytes)
        .map_max_entries("CONNS", max_conns)
        // What nobody fills takes no memory: 8,192 calls and 65,536 handles are 8 MiB.
        .map_max_entries("TLS_CALLS", if settings.tls == 0 { 1 } else { 8192 })
        .map_max_entries("TLS_MOVERS", if settings.tls == 0 { 1 } else { 8192 })
        .map_max_entries("TLS_HANDLES", if settings.tls == 0 { 1 } else { max_conns })
        .map_max_entries("TLS_GOROUTINES", if settings.tls == 0 { 1 } else { 16_384 })
        .map_max_entries("TLS_CARRIED", if settings.tls == 0 { 1 } else { max_conns })
        .map_max_entries("TLS_RUSTLS_THREADS", if settings.tls == 0 { 1 } else { 8192 })
        .map_max_entries("TLS_RUSTLS_PENDING", if settings.tls == 0 { 1 } else { 4096 })
        // Of threads that make records of functions: 1.5 MiB.
        .map_max_entries("FUNCTION_NUMBERS", if has_functions { 16_384 } else { 1 })
        // Of calls that have begun: 1.5 MiB.
        .map_max_entries("THREADS", if settings.anatomy == abi::ANATOMY_NONE { 1 } else { 16_384 })
        .map_max_entries("FUNCTION_OPEN", if settings.stacks == abi::STACKS_NONE { 1 } else { 16_384 })
        .load(OBJECT)
        .map_err(|error| LoadError::Object(chain(&error)))
}

/// A probe of the object, and whether this kernel takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeTrial {
    /// Function in the object.
    pub program: &'static str,
    /// Tracepoint.
    pub tracepoint: &'static str,
    /// What is not known without it; `None` = nothing works without it, or without its family of data hooks.
    pub feature: Option<&'static str>,
    /// Which data hook it is.
    pub family: Option<Family>,
    /// Why not.
    pub outcome: Result<(), String>,
}

/// Loads every probe whose tracepoint this kernel has, with all settings on, and drops it: nothing is attached, but for the trial of probes on
/// functions, to a process of txray's own.
pub fn try_all() -> Result<(Vec<ProbeTrial>, TlsTrial), LoadError> {
    features::raise_memlock();
    let kernel = KernelBtf::running()?;
    let offsets = Offsets::resolve(&kernel)?;
    let btf = Btf::from_sys_fs().map_err(|error| LoadError::Object(error.to_string()))?;
    // Every target is asked for, so that no code is dead to the verifier.
    let settings = abi::Settings {
        mode: abi::MODE_TARGETS,
        by_cgroup: 1,
        n_comms: abi::MAX_COMMS,
        by_exe: 1,
        by_port: 1,
        budget: abi::DEFAULT_BUDGET,
        // The smallest: it is never written to.
        ring_bytes: 64 * 1024,
        ..settings(&LoadConfig::nothing(), &offsets, 0, &kernel, Family::Socket)
    };
    let mut ebpf = object(&settings, 64, false, &btf)?;
    // What goes with hooks that this kernel does not have is not its lack.
    let families = [Family::Socket, Family::Syscall].into_iter().filter(|family| family.is_of(&kernel));
    let datagrams =
        families.clone().flat_map(|family| family.datagrams().iter().chain(family.datagram_exits()));
    let hooks = families.flat_map(|family| family.probes().iter().map(move |probe| (probe, Some(family))));
    let scheduler = anatomy::probes(Anatomy::Calls);
    let probes = LIFE.iter().chain(scheduler).chain(datagrams).map(|probe| (probe, None)).chain(hooks);
    let present: Vec<(&Probe, Option<Family>)> =
        probes.filter(|(probe, _)| kernel.tracepoint(probe.tracepoint).is_some()).collect();
    // The costliest, the data hooks, stand last in the report and are loaded first.
    let order: Vec<&Probe> = present.iter().rev().map(|(probe, _)| *probe).collect();
    let mut loaded = load_together(&mut ebpf, &order, &btf);
    let trial = |(probe, family): (&Probe, Option<Family>)| {
        let Probe { program, tracepoint, feature, place: _ } = *probe;
        let outcome = loaded.remove(program).unwrap_or_else(|| Err("was not tried".to_owned()));
        ProbeTrial { program, tracepoint, feature, family, outcome }
    };
    let mut probes: Vec<ProbeTrial> = present.into_iter().map(trial).collect();
    probes.extend(samples::trials(&mut ebpf, &btf));
    let tls = uprobe_programs::load(&mut ebpf, TLS).and_then(|programs| {
        let program = |name| programs.get(name).ok_or(NO_SUCH_PROGRAM);
        uprobe_trial::run(program("tls_openssl_write")?, program("tls_return")?)
    });
    let tls = match tls {
        Ok(uprobe_trial::Trial { ns_per_call, harms_confined, .. }) => {
            TlsTrial { ns_per_call, harms_confined, refused: None }
        }
        Err(refused) => TlsTrial { refused: Some(refused), ..TlsTrial::default() },
    };
    Ok((probes, tls))
}

impl LoadConfig {
    /// Traces nobody, with all there is to load; a ring and a map of connections have to be given sizes.
    pub fn nothing() -> LoadConfig {
        LoadConfig {
            targets: Targets::default(),
            pids: Vec::new(),
            listening: Vec::new(),
            hooks: Hooks::Auto,
            ring_bytes: 0,
            max_conns: 0,
            budget: 0,
            // More code for the verifier than the other.
            capture: Capture::Everything,
            udp_ports: vec![53],
            tls: true,
            functions: true,
            stacks: None,
            anatomy: Anatomy::Calls,
            request_stacks: true,
            has_open_datagram_sockets: false,
        }
    }
}

/// Adds target processes to a loaded kernel side.
pub fn add_targets(loaded: &mut Loaded, pids: &[u32]) -> Result<(), LoadError> {
    name_targets(&mut loaded.ebpf, pids.iter().copied())
}

/// Makes processes targets.
fn name_targets(ebpf: &mut Ebpf, pids: impl Iterator<Item = u32> + Clone) -> Result<(), LoadError> {
    let failed = |pid: u32, error: &dyn std::error::Error| LoadError::Map {
        doing: format!("name process {pid} as a target"),
        reason: chain(error),
    };
    // First: without its hint a target is not asked for.
    let mut hints: Array<&mut MapData, u64> = array(ebpf, "TARGET_HINTS")?;
    for pid in pids.clone() {
        hints.set(abi::target_hint(pid), 1, 0).map_err(|error| failed(pid, &error))?;
    }
    let mut targets: HashMap<&mut MapData, u32, abi::Target> = map(ebpf, "TARGETS")?;
    for pid in pids {
        targets.insert(pid, abi::Target { follow: 1 }, 0).map_err(|error| failed(pid, &error))?;
    }
    Ok(())
}

/// Fills the maps that say who is traced.
fn fill(ebpf: &mut Ebpf, config: &LoadConfig) -> Result<(), LoadError> {
    let failed = |doing: String| {
        move |error: &dyn std::error::Error| LoadError::Map { doing: doing.clone(), reason: chain(error) }
    };
    name_targets(ebpf, config.targets.pids.iter().chain(&config.pids).copied())?;
    let mut map: HashMap<&mut MapData, u32, u32> = self::map(ebpf, "TARGET_PORTS")?;
    for port in &config.targets.ports {
        map.insert(u32::from(*port), 1, 0)
            .map_err(|error| failed(format!("name port {port} as a target"))(&error))?;
    }
    let mut map: Array<&mut MapData, u64> = array(ebpf, "UDP_PORTS")?;
    let mut words: FxHashMap<u32, u64> = FxHashMap::default();
    for port in &config.udp_ports {
        *words.entry(u32::from(port >> 6)).or_default() |= 1 << (port & 63);
    }
    for (word, bits) in words {
        map.set(word, bits, 0).map_err(|error| failed("name the UDP ports".to_owned())(&error))?;
    }
    let mut map: HashMap<&mut MapData, abi::PortKey, u32> = self::map(ebpf, "LISTENING")?;
    for port in &config.listening {
        // Full: the accept queue of that port is not seen. Nothing else is lost.
        if map.insert(port, 1, 0).is_err() {
            break;
        }
    }
    let mut map: HashMap<&mut MapData, abi::ExeKey, u32> = self::map(ebpf, "TARGET_EXES")?;
    for exe in &config.targets.exes {
        use std::os::unix::fs::MetadataExt as _;
        // A bare name cannot be watched for by inode: processes that run it now are in `pids`.
        if let Ok(metadata) = std::fs::metadata(exe) {
            map.insert(abi::ExeKey { inode: metadata.ino() }, 1, 0)
                .map_err(|error| failed(format!("name {} as a target", exe.display()))(&error))?;
        }
    }
    let mut map: Array<&mut MapData, [u64; 2]> = array(ebpf, "TARGET_COMMS")?;
    for (index, comm) in (0..abi::MAX_COMMS).zip(&config.targets.comms) {
        let mut name = [0u8; 16];
        let n = comm.len().min(15);
        name[..n].copy_from_slice(&comm.as_bytes()[..n]);
        let halves = [
            u64::from_ne_bytes([name[0], name[1], name[2], name[3], name[4], name[5], name[6], name[7]]),
            u64::from_ne_bytes([
                name[8], name[9], name[10], name[11], name[12], name[13], name[14], name[15],
            ]),
        ];
        map.set(index, halves, 0).map_err(|error| failed(format!("name {comm} as a target"))(&error))?;
    }
    let mut map = CgroupArray::try_from(take(ebpf, "TARGET_CGROUPS")?)
        .map_err(|error| failed("open the map TARGET_CGROUPS".to_owned())(&error))?;
    for (index, cgroup) in (0..abi::MAX_CGROUPS).zip(&config.targets.cgroups) {
        let folder = std::fs::File::open(cgroup)
            .map_err(|error| failed(format!("open cgroup {}", cgroup.display()))(&error))?;
        map.set(index, folder.as_fd(), 0)
            .map_err(|error| failed(format!("name cgroup {} as a target", cgroup.display()))(&error))?;
    }
    Ok(())
}

fn take<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut aya::maps::Map, LoadError> {
    ebpf.map_mut(name).ok_or_else(|| LoadError::Object(format!("the object has no map {name}")))
}

fn map<'a, K: aya::Pod, V: aya::Pod>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
) -> Result<HashMap<&'a mut MapData, K, V>, LoadError> {
    HashMap::try_from(take(ebpf, name)?)
        .map_err(|error| LoadError::Map { doing: format!("open the map {name}"), reason: chain(&error) })
}

fn array<'a, V: aya::Pod>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
) -> Result<Array<&'a mut MapData, V>, LoadError> {
    Array::try_from(take(ebpf, name)?)
        .map_err(|error| LoadError::Map { doing: format!("open the map {name}"), reason: chain(&error) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Chooses among the families of `hooks` on a kernel that refuses the programs `refused`.
    fn choose(
        hooks: Hooks,
        refused: &[&str],
    ) -> (Result<Family, LoadError>, Vec<Missing>, Vec<&'static str>) {
        let (mut missing, mut tried) = (Vec::new(), Vec::new());
        let attach = |probe: &Probe| {
            tried.push(probe.program);
            if refused.contains(&probe.program) { Err("too complex".to_owned()) } else { Ok(()) }
        };
        let family = families(hooks, true).and_then(|families| data_hooks(families, attach, &mut missing));
        (family, missing, tried)
    }

    #[test]
    fn socket_probes_that_the_kernel_refuses_cost_the_socket_tracepoints_and_not_the_run() {
        for refused in ["socket_send", "socket_receive"] {
            let (family, missing, tried) = choose(Hooks::Auto, &[refused]);
            assert_eq!(family.unwrap(), Family::Syscall);
            assert_eq!(tried.last(), Some(&"syscall_exit"));
            let [missing] = &missing[..] else { panic!("{missing:?}") };
            assert!(missing.feature.starts_with("socket tracepoints"), "{missing:?}");
            assert_eq!(missing.reason, format!("load probe {refused}: too complex"));
        }
        let (family, missing, tried) = choose(Hooks::Auto, &[]);
        assert_eq!((family.unwrap(), missing), (Family::Socket, Vec::new()));
        assert_eq!(tried, ["socket_receive", "socket_send"]);
    }

    #[test]
    fn hooks_that_were_asked_for_are_not_replaced() {
        let program = |family: Result<Family, LoadError>| match family {
            Err(LoadError::Program { program, .. }) => program,
            other => panic!("{other:?}"),
        };
        let (family, missing, tried) = choose(Hooks::Socket, &["socket_send"]);
        assert_eq!((program(family), missing), ("socket_send", Vec::new()));
        assert_eq!(tried, ["socket_receive", "socket_send"]);
        assert_eq!(program(choose(Hooks::Syscall, &["syscall_exit"]).0), "syscall_exit");
        let (family, missing, _) = choose(Hooks::Auto, &["socket_receive", "syscall_exit"]);
        assert_eq!((program(family), missing), ("socket_receive", Vec::new()));
    }

    #[test]
    fn the_kernel_side_logs_only_where_it_was_built_to() {
        let has_log = OBJECT.windows(8).any(|bytes| bytes == b"AYA_LOG_" || bytes == b"AYA_LOGS");
        assert_eq!(has_log, cfg!(feature = "log"));
        assert!(OBJECT.windows(8).any(|bytes| bytes == b"VERDICTS"), "names of maps are found like this");
    }

    #[test]
    fn a_kernel_without_socket_tracepoints_is_traced_by_system_calls() {
        assert_eq!(families(Hooks::Auto, false).unwrap(), [Family::Syscall]);
        assert!(matches!(families(Hooks::Socket, false), Err(LoadError::NoSocketHooks)));
    }
}
