//! Probes on the TLS libraries of traced processes: a thread looks which files each has mapped, and attaches programs to the places found in
//! them ([`crate::uprobe::tls`]).
//!
//! A process is looked at when it is named, starts, executes a program or opens its first connection, soon again (its loader maps one library after the other), and
//! then once a second: libraries come later, too. What has not changed costs the reading of its maps. When it ends its probes go.
//!
//! **In one process or all.** With `--pid` a probe is one process's: nobody else's calls pay for it. Where processes become targets by what they
//! execute, or all are, a probe is on the file: it is there before the first call of a process that has just begun. So it is from the first child on of
//! a process that forks to serve (PostgreSQL, a process for each connection): each is handled before anybody could look at it.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, Receiver, RecvTimeoutError, SyncSender},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use aya::maps::{Array, HashMap, MapData};
use rustc_hash::{FxHashMap, FxHashSet};
use tracer_ebpf as abi;

use super::{
    load::Loaded,
    ring::boot_now,
    tls_places::{GO, GO_HANDSHAKE, RETURN, at_return, go_places, is_optional, number_of, place},
    uprobe_link::{self, Place},
    uprobe_trial,
    usual_libraries::{self, Mapped},
};
use crate::{
    config::Targets,
    uprobe::{
        maps::FileId,
        process::Process,
        tls::{self, Library},
    },
};

/// Between two looks at a process that is not new.
pub(super) const PERIOD: Duration = Duration::from_secs(1);
/// When a new process is looked at again: a dynamic loader takes some milliseconds, an interpreter imports its library later.
pub(super) const AGAIN: [Duration; 5] = [
    Duration::from_millis(3),
    Duration::from_millis(10),
    Duration::from_millis(30),
    Duration::from_millis(100),
    Duration::from_millis(300),
];
/// The thread spends at most this part of its time on looking: with many processes each is looked at less often.
const PART: u32 = 20;
/// How long a start waits for the probes of processes that run already: of a whole host's so long, of those that were named until they are there (a
/// statically linked program of 95 MB takes 0.3 s, 3 s in a build without optimisation).
const PATIENCE: Duration = Duration::from_millis(500);
const PATIENCE_WITH_NAMED: Duration = Duration::from_secs(10);
/// Processes that are looked at; beyond it new ones are not (`tls.processes_full`). As many as `TLS_PROCESSES` holds.
const MAX_PROCESSES: usize = 16_384;
/// Files whose plans are remembered: a host's processes have some thousand mapped. Beyond it all are forgotten, and looked into anew.
const MAX_FILES: usize = 8192;
/// Sets of files whose plans are remembered: a host has some hundred. Beyond it all are forgotten.
const MAX_SETS: usize = 1024;
/// Groups of probes that wait to be taken away, each group those of a process. Full: the thread that looks takes them away itself.
const MAX_CLOSING: usize = 64;
/// What waits to be looked at. Full: the process is found by its next event, or not at all (`tls.looks_lost`).
const MAX_COMMANDS: usize = 4096;

/// Whose calls a probe is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Of the one process.
    Each,
    /// Of whoever has the file mapped.
    All,
}

/// What the thread is told.
enum Command {
    /// There is such a process, with news.
    Look(u32),
    /// It was forked from another.
    Forked(u32, u32),
    /// It has ended.
    Ended(u32),
}

/// What has come of it, for the Health view and `--json`.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// Processes with probes.
    pub n_processes: usize,
    /// Places with a probe.
    pub n_places: usize,
    /// Libraries that are left opaque, each with the reason, once.
    pub left_opaque: Vec<String>,
    /// What the two probes of a function cost a call of a process that is no target, ns, by the trial at the start.
    pub ns_per_call: u64,
    /// Looks that were not taken because too many waited.
    pub n_lost: u64,
}

/// The running thread. Dropping it detaches all.
pub struct TlsProbes {
    commands: Option<SyncSender<Command>>,
    thread: Option<JoinHandle<()>>,
    status: Arc<Mutex<Status>>,
}

impl TlsProbes {
    /// Attaches to the TLS libraries of the targets; `None`: nobody asked for it, or the kernel refused the programs, which was told.
    pub fn take(loaded: &mut Loaded, targets: &Targets, pids: &[u32]) -> Result<Option<TlsProbes>, String> {
        let programs = std::mem::take(&mut loaded.tls_programs);
        if programs.is_empty() {
            return Ok(None);
        }
        let map = loaded.ebpf.take_map("TLS_PROCESSES").ok_or("the object has no map TLS_PROCESSES")?;
        let map = HashMap::try_from(map).map_err(|error| error.to_string())?;
        let mut hints = |name| {
            let map = loaded.ebpf.take_map(name).ok_or(format!("the object has no map {name}"))?;
            Array::try_from(map).map_err(|error| error.to_string())
        };
        let maps = Maps {
            processes: map,
            hints: hints("TLS_HINTS")?,
            go_hints: hints("TLS_GO_HINTS")?,
            rustls_hints: hints("TLS_RUSTLS_HINTS")?,
        };
        // Others may become targets by what they execute.
        let is_fixed = targets.comms.is_empty()
            && targets.exes.is_empty()
            && targets.cgroups.is_empty()
            && !targets.pids.is_empty();
        let scope = if is_fixed { Scope::Each } else { Scope::All };
        if !targets.is_whole_host() {
            return TlsProbes::start(programs, maps, scope, Vec::new(), pids).map(Some);
        }
        TlsProbes::start(programs, maps, scope, usual_libraries::map(), &running()).map(Some)
    }

    /// Attaches to `pids` and begins to follow others. What takes too long goes on behind.
    pub fn start(
        programs: FxHashMap<&'static str, OwnedFd>,
        maps: Maps,
        scope: Scope,
        held: Vec<Mapped>,
        pids: &[u32],
    ) -> Result<TlsProbes, String> {
        let status = Arc::new(Mutex::new(Status::default()));
        let program = |name| programs.get(name).map(OwnedFd::as_fd).ok_or(format!("{name} is not loaded"));
        let trial = uprobe_trial::run(program("tls_openssl_write")?, program(RETURN)?)?;
        lock(&status).ns_per_call = trial.ns_per_call;
        let is_named = scope == Scope::Each;
        let patience = if is_named { PATIENCE_WITH_NAMED } else { PATIENCE };
        // What might end programs of others is on no file.
        let scope = if trial.harms_confined.is_some() { Scope::Each } else { scope };
        let (closer, to_close) = mpsc::sync_channel::<Vec<OwnedFd>>(MAX_CLOSING);
        let closes = std::thread::Builder::new().name("txray-tls-end".to_owned());
        // It ends with the last who could give it any.
        let closes = closes.spawn(move || to_close.iter().for_each(drop));
        closes.map_err(|error| format!("start its second thread: {error}"))?;
        let mut worker = Worker {
            closer,
            harms_confined: trial.harms_confined,
            _of_trial: trial.links,
            _held: held,
            programs,
            maps,
            scope,
            known: FxHashMap::default(),
            plans: FxHashMap::default(),
            sets: FxHashMap::default(),
            shared: FxHashMap::default(),
            shared_since_ns: 0,
            status: status.clone(),
        };
        let (commands, queue) = mpsc::sync_channel(MAX_COMMANDS);
        let (done, is_done) = mpsc::sync_channel(1);
        let pids = pids.to_vec();
        let thread = std::thread::Builder::new().name("txray-tls".to_owned()).spawn(move || {
            // Those that are not reached in time are looked at as any others are.
            let began = Instant::now();
            for pid in pids {
                if began.elapsed() < patience {
                    worker.look(pid);
                } else if worker.known.len() < MAX_PROCESSES {
                    worker.known.insert(pid, Known { due: Some(began), ..Known::default() });
                }
            }
            // Nobody may be waiting any more.
            let _ = done.try_send(());
            worker.run(&queue);
        });
        let thread = thread.map_err(|error| format!("start its thread: {error}"))?;
        if is_done.recv_timeout(patience).is_err() && is_named {
            let text =
                "probes are still being attached: what is said inside until then is not shown".to_owned();
            lock(&status).left_opaque.push(text);
        }
        Ok(TlsProbes { commands: Some(commands), thread: Some(thread), status })
    }

    /// A process began, executed a program, or was met for the first time.
    pub fn look(&self, pid: u32) {
        self.send(Command::Look(pid));
    }

    /// A process was forked from `parent`.
    pub fn forked(&self, pid: u32, parent: u32) {
        self.send(Command::Forked(pid, parent));
    }

    /// A process has ended.
    pub fn ended(&self, pid: u32) {
        self.send(Command::Ended(pid));
    }

    fn send(&self, command: Command) {
        let is_taken = self.commands.as_ref().is_some_and(|commands| commands.try_send(command).is_ok());
        if !is_taken {
            lock(&self.status).n_lost += 1;
        }
    }

    /// What has come of it so far.
    pub fn status(&self) -> StatusHandle {
        StatusHandle(self.status.clone())
    }
}

/// Asks what has come of the probes, from any thread.
pub struct StatusHandle(Arc<Mutex<Status>>);

impl StatusHandle {
    /// The state now.
    pub fn get(&self) -> Status {
        lock(&self.0).clone()
    }
}

impl Drop for TlsProbes {
    fn drop(&mut self) {
        // The thread ends with its queue.
        self.commands = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn lock(status: &Mutex<Status>) -> std::sync::MutexGuard<'_, Status> {
    // Whoever panicked left numbers that are still numbers.
    status.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A probe to be attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Probe {
    file: FileId,
    offset: u64,
    program: &'static str,
    at_return: bool,
}

/// All processes: this one, which holds the usual libraries, then the oldest first: servers are older than what comes and goes.
fn running() -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut pids: Vec<u32> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable_by_key(|&pid| (pid != std::process::id(), pid));
    pids
}

/// What files ask for.
#[derive(Clone, Debug, Default)]
struct Plan {
    probes: Vec<Probe>,
    /// A bit for each `TLS_*`.
    libraries: u64,
}

/// The plan for a set of files, and the states of those that it has probes for.
struct Set {
    plan: Arc<Plan>,
    stamps: Vec<(FileId, Stamp)>,
}

/// Which state of a file a plan is for: one that is gone may leave its numbers to another, and one may be written anew in its place. Places of
/// the one would be in the middle of the other's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn in_process(process: &Process, file: FileId) -> Option<Stamp> {
        let mapped = process.files.iter().find(|mapped| mapped.id == file)?;
        Stamp::of(&process.open(mapped).ok()?.file).ok()
    }

    fn of(file: &File) -> io::Result<Stamp> {
        let it = file.metadata()?;
        Ok(Stamp {
            size: it.size(),
            modified: (it.mtime(), it.mtime_nsec()),
            changed: (it.ctime(), it.ctime_nsec()),
        })
    }
}

/// A process that was looked at.
#[derive(Default)]
struct Known {
    /// The files whose code it had mapped.
    files: Vec<FileId>,
    attached: FxHashMap<Probe, Option<OwnedFd>>,
    libraries: u64,
    /// How often it was looked at since its last news.
    n_looks: usize,
    /// The process that it was forked from, until it is clear whether it executes a program of its own.
    parent: Option<u32>,
    due: Option<Instant>,
}

/// What the kernel side is told of processes.
pub struct Maps {
    processes: HashMap<MapData, u32, abi::TlsProcess>,
    hints: Array<MapData, u64>,
    go_hints: Array<MapData, u64>,
    rustls_hints: Array<MapData, u64>,
}

struct Worker {
    /// Why programs that confine themselves are left alone.
    harms_confined: Option<String>,
    _of_trial: Vec<OwnedFd>,
    /// Libraries that txray has mapped itself, so that their probes are there as long as it is.
    _held: Vec<Mapped>,
    programs: FxHashMap<&'static str, OwnedFd>,
    maps: Maps,
    scope: Scope,
    known: FxHashMap<u32, Known>,
    plans: FxHashMap<FileId, (Stamp, Plan)>,
    sets: FxHashMap<Vec<FileId>, Set>,
    /// The probes on files, and how many processes want each.
    shared: FxHashMap<Probe, (OwnedFd, usize)>,
    /// When the last of them was attached, boot ns.
    shared_since_ns: u64,
    status: Arc<Mutex<Status>>,
    /// Takes probes away, one after the other: the kernel waits at each until nobody can be in it, some 90 ms, in which others are to be attached.
    closer: SyncSender<Vec<OwnedFd>>,
}

impl Worker {
    fn run(mut self, queue: &Receiver<Command>) {
        let mut rest_until = Instant::now();
        loop {
            let next = self.known.values().filter_map(|known| known.due).min();
            let wait =
                next.map_or(PERIOD, |due| due.max(rest_until).saturating_duration_since(Instant::now()));
            match queue.recv_timeout(wait) {
                Ok(Command::Look(pid)) => {
                    if let Some(known) = self.known.get_mut(&pid) {
                        known.n_looks = 0;
                    }
                    self.look(pid);
                    continue;
                }
                Ok(Command::Forked(pid, parent)) => {
                    self.look(pid);
                    if let Some(known) = self.known.get_mut(&pid) {
                        known.parent = Some(parent);
                    }
                    continue;
                }
                Ok(Command::Ended(pid)) => {
                    self.end(pid);
                    continue;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            let began = Instant::now();
            let is_due = |known: &Known| known.due.is_some_and(|due| due <= began);
            let due: Vec<u32> =
                self.known.iter().filter(|(_, known)| is_due(known)).map(|(pid, _)| *pid).collect();
            for pid in due {
                self.look(pid);
            }
            // New processes are looked at in any case; this is for the many that do not change.
            rest_until = Instant::now() + began.elapsed() * PART;
        }
    }

    /// Looks at a process: attaches what is new in it.
    fn look(&mut self, pid: u32) {
        if !self.known.contains_key(&pid) && self.known.len() >= MAX_PROCESSES {
            lock(&self.status).n_lost += 1;
            return;
        }
        let Ok(mut process) = Process::read(Path::new("/proc"), pid) else {
            // It has ended, or is none of ours.
            self.end(pid);
            return;
        };
        if pid == std::process::id() {
            // What it holds for others; its own program has the names of all libraries in it.
            let program = std::env::current_exe().unwrap_or_default();
            process.files.retain(|file| Path::new(&file.path) != program);
        }
        let files: Vec<FileId> = process.files.iter().map(|file| file.id).collect();
        let now = Instant::now();
        let known = self.known.entry(pid).or_default();
        known.due = Some(now + AGAIN.get(known.n_looks).copied().unwrap_or(PERIOD));
        known.n_looks += 1;
        if known.files == files {
            // What has not executed anything by now serves.
            if self.harms_confined.is_none()
                && known.n_looks > AGAIN.len() / 2
                && let Some(parent) = known.parent.take()
                && known.libraries != 0
                && self.known.get(&parent).is_some_and(|parent| parent.files == files)
            {
                self.widen(pid, &process);
            }
            return;
        }
        known.files.clone_from(&files);
        known.parent = None;
        if let Some(reason) = &self.harms_confined
            && is_confined(pid)
        {
            let text = format!("pid {pid}: {reason}");
            self.leave_opaque(text);
            return;
        }
        let plan = self.plan(&process, files);
        let missing: Vec<Probe> = {
            let known = self.known.entry(pid).or_default();
            plan.probes.iter().filter(|probe| !known.attached.contains_key(probe)).copied().collect()
        };
        let (there, new): (Vec<Probe>, Vec<Probe>) =
            missing.iter().partition(|probe| self.shared.contains_key(*probe));
        // Until all are there, nothing is told of a library that was not there before: neither of this process nor, where they are on files, of those that
        // nobody has looked at yet.
        if !new.is_empty() {
            let libraries = self.known.get(&pid).map_or(0, |known| known.libraries);
            let _ = self.maps.processes.insert(pid, abi::TlsProcess { since_ns: u64::MAX, libraries }, 0);
        }
        if !new.is_empty() && self.scope == Scope::All {
            let _ = self.maps.processes.insert(0, abi::TlsProcess { since_ns: u64::MAX, libraries: 0 }, 0);
        }
        let known = self.known.entry(pid).or_default();
        for probe in there {
            if let Some((_, n_processes)) = self.shared.get_mut(&probe) {
                *n_processes += 1;
            }
            known.attached.insert(probe, None);
        }
        // An address that is another connection's by now is to be known before anything is linked by it.
        let (first, rest): (Vec<Probe>, Vec<Probe>) =
            new.into_iter().partition(|probe| probe.program == GO_HANDSHAKE);
        let own = (self.scope == Scope::Each).then_some(pid);
        let mut attached = self.attach(&process, &first, own);
        attached.extend(self.attach(&process, &rest, own));
        let mut is_whole = true;
        for (probe, link) in attached {
            let link = match link {
                Ok(link) if self.scope == Scope::All => {
                    self.share(probe, link, 1);
                    None
                }
                Ok(link) => Some(link),
                Err(error) => {
                    is_whole = false;
                    self.leave_opaque(error);
                    continue;
                }
            };
            self.known.entry(pid).or_default().attached.insert(probe, link);
        }
        if !is_whole {
            self.give_up(pid, &missing);
        }
        if plan.libraries != 0 && is_whole {
            let known = self.known.entry(pid).or_default();
            known.libraries |= plan.libraries;
            // What it opens from now on is seen from its first byte.
            let is_shared = known.attached.values().all(Option::is_none);
            let since_ns = if is_shared { self.shared_since_ns } else { boot_now().0 };
            let process = abi::TlsProcess { since_ns, libraries: known.libraries };
            let has = |libraries: u64| known.libraries & libraries != 0;
            let (go, rustls) = (1 << abi::TLS_GO, 1 << abi::TLS_RUSTLS);
            let maps = &mut self.maps;
            for (hints, has) in [
                (&mut maps.hints, has(!(go | rustls))),
                (&mut maps.go_hints, has(go)),
                (&mut maps.rustls_hints, has(rustls)),
            ] {
                if has {
                    let _ = hints.set(abi::target_hint(pid), 1, 0);
                }
            }
            let _ = self.maps.processes.insert(pid, process, 0);
        }
        self.publish();
        self.tell();
    }

    /// What the files of a process ask for. Each is looked into once; of a set that is known only those with probes are opened (a child that was just
    /// forked is not waited for).
    fn plan(&mut self, process: &Process, files: Vec<FileId>) -> Arc<Plan> {
        if let Some(set) = self.sets.get(&files)
            && set.stamps.iter().all(|(file, stamp)| Stamp::in_process(process, *file) == Some(*stamp))
        {
            return set.plan.clone();
        }
        let (mut plan, mut stamps) = (Plan::default(), Vec::new());
        for mapped in &process.files {
            // What cannot be opened, or is none, asks for nothing.
            let Ok(opened) = process.open(mapped) else { continue };
            let Ok(stamp) = Stamp::of(&opened.file) else { continue };
            let one = match self.plans.get(&mapped.id) {
                Some((known, one)) if *known == stamp => one,
                _ => {
                    let one = self.plan_of(&tls::of_file(process, mapped, &opened));
                    // Of what stood there before, whoever begins now must not meet a probe.
                    self.shared.retain(|probe, _| probe.file != mapped.id || one.probes.contains(probe));
                    if self.plans.len() >= MAX_FILES {
                        self.plans.clear();
                    }
                    &self.plans.entry(mapped.id).insert_entry((stamp, one)).into_mut().1
                }
            };
            if !one.probes.is_empty() {
                stamps.push((mapped.id, stamp));
            }
            plan.libraries |= one.libraries;
            plan.probes.extend(&one.probes);
        }
        if self.sets.len() >= MAX_SETS {
            self.sets.clear();
        }
        let plan = Arc::new(plan);
        self.sets.insert(files, Set { plan: plan.clone(), stamps });
        plan
    }

    /// What the libraries of one file ask for.
    fn plan_of(&self, libraries: &[Library]) -> Plan {
        let mut plan = Plan::default();
        // A program of Go without TLS is none of them.
        for library in libraries.iter().filter(|library| library.kind != "Go") {
            match self.probes_of(library) {
                Ok(probes) => {
                    plan.libraries |= 1 << number_of(library.kind).unwrap_or(0);
                    plan.probes.extend(probes);
                }
                Err(reason) => self.leave_opaque(format!("{} ({}): {reason}", library.kind, library.file)),
            }
        }
        let mut seen = FxHashSet::default();
        plan.probes.retain(|probe| seen.insert(*probe));
        plan
    }

    /// The probes of a library, all or none: half of them would show answers without questions.
    fn probes_of(&self, library: &Library) -> Result<Vec<Probe>, String> {
        if let (true, Some(note)) = (library.functions.is_empty(), &library.note) {
            return Err(note.clone());
        }
        let mut places = Vec::new();
        for function in &library.functions {
            if library.kind == GO {
                places.extend(go_places(function)?);
                continue;
            }
            match place(library.kind, function) {
                Ok(place) => places.push(place),
                Err(_) if is_optional(&function.name) => {}
                Err(reason) => return Err(reason),
            }
        }
        let mut probes = Vec::new();
        for (program, site) in places {
            if !self.programs.contains_key(program) {
                return Err(format!("the program {program} is not loaded"));
            }
            let at =
                |program, at_return| Probe { file: library.id, offset: site.file_offset, program, at_return };
            probes.push(at(program, false));
            probes.extend(at_return(library.kind, program).map(|program| at(program, true)));
        }
        Ok(probes)
    }

    /// A probe is on its file.
    fn share(&mut self, probe: Probe, link: OwnedFd, n_processes: usize) {
        self.shared.insert(probe, (link, n_processes));
        self.shared_since_ns = boot_now().0;
    }

    /// Says for processes that nobody has looked at yet which libraries have all their probes on files.
    fn publish(&mut self) {
        let go = 1 << abi::TLS_GO;
        let mut libraries = 0;
        for known in self.known.values() {
            // Where a forking server's probes were put on its files, those of Go stay its own.
            for (is_go, mask) in [(true, go), (false, !go)] {
                let mut links = known.attached.iter().filter(|(probe, _)| is_of_go(probe) == is_go);
                if links.all(|(_, link)| link.is_none()) {
                    libraries |= known.libraries & mask;
                }
            }
        }
        let _ = match libraries {
            0 => self.maps.processes.remove(&0),
            _ => {
                let process = abi::TlsProcess { since_ns: self.shared_since_ns, libraries };
                self.maps.processes.insert(0, process, 0)
            }
        };
    }

    /// Takes back probes of which some were refused: what the others see is not told.
    fn give_up(&mut self, pid: u32, probes: &[Probe]) {
        let Some(known) = self.known.get_mut(&pid) else { return };
        let mut gone = Vec::new();
        for probe in probes {
            if let Some(own) = known.attached.remove(probe) {
                gone.extend(own);
                gone.extend(release(&mut self.shared, probe));
            }
        }
        self.close(gone);
    }

    /// Puts the probes of a process on its files. For a moment a call meets two, of which the second changes nothing.
    fn widen(&mut self, pid: u32, process: &Process) {
        let Some(known) = self.known.get(&pid) else { return };
        // Programs of Go fork only to execute another; and theirs would tell twice what two probes see.
        let is_own = |probe: &&Probe| !self.shared.contains_key(*probe) && !is_of_go(probe);
        let probes: Vec<Probe> = known.attached.keys().filter(is_own).copied().collect();
        let mut replaced = Vec::new();
        for (probe, link) in self.attach(process, &probes, None) {
            match link {
                Ok(link) => {
                    let holders = self.known.values_mut().filter_map(|known| known.attached.get_mut(&probe));
                    let mut n_holders = 0;
                    for holder in holders {
                        n_holders += 1;
                        replaced.extend(holder.take());
                    }
                    self.share(probe, link, n_holders);
                }
                Err(error) => self.leave_opaque(format!("on the file: {error}")),
            }
        }
        self.publish();
        self.close(replaced);
        self.tell();
    }

    /// Attaches to files of `process`; `pid`: in that process alone. Errors say where.
    fn attach(
        &self,
        process: &Process,
        probes: &[Probe],
        pid: Option<u32>,
    ) -> Vec<(Probe, Result<OwnedFd, String>)> {
        let mut paths: FxHashMap<FileId, PathBuf> = FxHashMap::default();
        for probe in probes {
            paths.entry(probe.file).or_insert_with(|| path_of(process, probe.file));
        }
        let places: Vec<_> = probes
            .iter()
            .filter_map(|probe| {
                // There is none without a program: plans are made of these.
                let program = self.programs.get(probe.program)?.as_fd();
                let (path, Probe { offset, at_return, .. }) = (paths.get(&probe.file)?, *probe);
                Some((program, Place { path, offset, at_return, pid }))
            })
            .collect();
        debug_assert_eq!(places.len(), probes.len());
        let links = uprobe_link::attach_all(&places);
        let failed = |place: &Place<'_>, probe: &Probe, error| {
            format!("{}: {}: {error}", place.path.display(), probe.program)
        };
        std::iter::zip(probes, std::iter::zip(&places, links))
            .map(|(probe, ((_, place), link))| (*probe, link.map_err(|error| failed(place, probe, error))))
            .collect()
    }

    fn end(&mut self, pid: u32) {
        let Some(known) = self.known.remove(&pid) else { return };
        // One that served and is gone again before anybody could tell.
        if let Some(parent) = known.parent
            && known.libraries != 0
            && self.harms_confined.is_none()
            && self.known.get(&parent).is_some_and(|parent| parent.files == known.files)
            && let Ok(process) = Process::read(Path::new("/proc"), parent)
        {
            self.widen(parent, &process);
        }
        let mut gone = Vec::new();
        for (probe, link) in known.attached {
            gone.extend(link);
            gone.extend(release(&mut self.shared, &probe));
        }
        let _ = self.maps.processes.remove(&pid);
        self.publish();
        self.close(gone);
        self.tell();
    }

    fn close(&self, links: Vec<OwnedFd>) {
        // If there is no room, or the other thread is gone, they end here.
        let _ = self.closer.try_send(links);
    }

    fn leave_opaque(&self, text: String) {
        /// Reasons that are kept; a host has a handful.
        const MAX_REASONS: usize = 64;
        let mut status = lock(&self.status);
        if status.left_opaque.len() < MAX_REASONS && !status.left_opaque.contains(&text) {
            tracing::info!(%text, "left opaque");
            status.left_opaque.push(text);
        }
    }

    fn tell(&self) {
        let mut status = lock(&self.status);
        status.n_processes = self.known.values().filter(|known| known.libraries != 0).count();
        status.n_places = self.shared.len()
            + self.known.values().map(|known| known.attached.values().flatten().count()).sum::<usize>();
    }
}

fn is_of_go(probe: &Probe) -> bool {
    probe.program.starts_with("tls_go")
}

/// A process does not want a probe on a file any more; when none does, it is given back, to be detached.
fn release(shared: &mut FxHashMap<Probe, (OwnedFd, usize)>, probe: &Probe) -> Option<OwnedFd> {
    let (_, n_processes) = shared.get_mut(probe)?;
    *n_processes -= 1;
    if *n_processes == 0 { shared.remove(probe).map(|(link, _)| link) } else { None }
}

/// Whether a process has given up system calls (seccomp). One that cannot be asked counts as such.
fn is_confined(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().find_map(|line| line.strip_prefix("Seccomp:")).is_none_or(|mode| mode.trim() != "0")
}

/// A path by which the kernel finds a file of a process; empty if it is gone.
fn path_of(process: &Process, file: FileId) -> PathBuf {
    let mapped = process.files.iter().find(|mapped| mapped.id == file);
    mapped.and_then(|mapped| process.open(mapped).ok()).map(|opened| opened.path).unwrap_or_default()
}
