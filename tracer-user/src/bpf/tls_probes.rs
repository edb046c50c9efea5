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
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TrySendError},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use aya::maps::{Array, HashMap, MapData};
use rustc_hash::FxHashMap;
use tracer_ebpf as abi;

use super::{
    later_programs::TlsPrograms,
    load::Loaded,
    ring::boot_now,
    tls_cost::{self, Cost},
    tls_places::{GO_HANDSHAKE, RETURN},
    tls_plan::{Planned, Plans, Probe, is_of_go},
    uprobe_link::{self, Place},
    uprobe_trial,
    usual_libraries::{self, Mapped},
};
use crate::{
    config::Targets,
    uprobe::{maps::FileId, process::Process},
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
    /// It executes a program of its own.
    Executed(u32),
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
    /// Processes that are left opaque because they would have paid too much.
    pub n_over_limit: u64,
    /// Looks that were not taken because too many waited.
    pub n_lost: u64,
}

/// The running threads. Dropping it detaches all.
pub struct TlsProbes {
    commands: Option<SyncSender<Command>>,
    /// The one that looks, then the one that takes probes away, which ends behind it.
    threads: Vec<JoinHandle<()>>,
    status: Arc<Mutex<Status>>,
}

impl TlsProbes {
    /// Attaches to the TLS libraries of the targets; `None`: nobody asked for it, or the kernel refused the programs, which was told.
    /// `limit`: the share of its processor time, in percent, that a process may pay.
    pub fn take(
        loaded: &mut Loaded,
        targets: &Targets,
        pids: &[u32],
        limit: u32,
    ) -> Result<Option<TlsProbes>, String> {
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
            limit,
        };
        let scope = if targets.are_pids() { Scope::Each } else { Scope::All };
        if !targets.is_whole_host() {
            return TlsProbes::start(programs, maps, scope, Vec::new(), pids).map(Some);
        }
        TlsProbes::start(programs, maps, scope, usual_libraries::map(), &running()).map(Some)
    }

    /// Attaches to `pids` and begins to follow others. What takes too long goes on behind.
    pub fn start(
        mut programs: TlsPrograms,
        maps: Maps,
        scope: Scope,
        held: Vec<Mapped>,
        pids: &[u32],
    ) -> Result<TlsProbes, String> {
        let status = Arc::new(Mutex::new(Status::default()));
        let program = |name| programs.get(name).ok_or(format!("{name} is not loaded"));
        let trial = uprobe_trial::run(program("tls_openssl_write")?, program(RETURN)?)?;
        lock(&status).ns_per_call = trial.ns_per_call;
        let is_named = scope == Scope::Each;
        if !is_named {
            programs.begin();
        }
        let patience = if is_named { PATIENCE_WITH_NAMED } else { PATIENCE };
        // What might end programs of others is on no file.
        let scope = if trial.harms_confined.is_some() { Scope::Each } else { scope };
        let (closer, to_close) = mpsc::sync_channel::<Vec<OwnedFd>>(MAX_CLOSING);
        let closes = std::thread::Builder::new().name("txray-tls-end".to_owned());
        // It ends with the last who could give it any.
        let closes = closes.spawn(move || {
            for mut links in &to_close {
                // What has come meanwhile waits for the same grace period.
                links.extend(to_close.try_iter().flatten());
                uprobe_link::close_all(links);
            }
        });
        let closes = closes.map_err(|error| format!("start its second thread: {error}"))?;
        let mut worker = Worker {
            closer,
            harms_confined: trial.harms_confined,
            of_trial: trial.links,
            _held: held,
            programs,
            maps,
            scope,
            known: FxHashMap::default(),
            plans: Plans::default(),
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
        Ok(TlsProbes { commands: Some(commands), threads: vec![thread, closes], status })
    }

    /// A process was met for the first time.
    pub fn look(&self, pid: u32) {
        self.send(Command::Look(pid));
    }

    /// A process was forked from `parent`.
    pub fn forked(&self, pid: u32, parent: u32) {
        self.send(Command::Forked(pid, parent));
    }

    /// A process executes a program.
    pub fn executed(&self, pid: u32) {
        self.send(Command::Executed(pid));
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
        // They end with their queues. What was still attached then, the kernel would take away one by one.
        self.commands = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn lock(status: &Mutex<Status>) -> std::sync::MutexGuard<'_, Status> {
    // Whoever panicked left numbers that are still numbers.
    status.lock().unwrap_or_else(PoisonError::into_inner)
}

/// All processes: this one, which holds the usual libraries, then the oldest first: servers are older than what comes and goes.
fn running() -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut pids: Vec<u32> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable_by_key(|&pid| (pid != std::process::id(), pid));
    pids
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
    /// It was not there any more, and its end was not heard of.
    is_gone: bool,
    cost: Option<Cost>,
    /// It would have paid too much: the program that it then was.
    left: Option<PathBuf>,
}

/// What the kernel side is told of processes.
pub struct Maps {
    processes: HashMap<MapData, u32, abi::TlsProcess>,
    hints: Array<MapData, u64>,
    go_hints: Array<MapData, u64>,
    rustls_hints: Array<MapData, u64>,
    /// The share of its processor time, in percent, that a process may pay.
    limit: u32,
}

impl Maps {
    /// Calls of TLS libraries by a process so far, and those of others whose number leads to the same place.
    fn n_calls(&self, pid: u32) -> u64 {
        let of =
            |hints: &Array<MapData, u64>| hints.get(&abi::target_hint(pid), 0).unwrap_or(0) & !abi::TLS_HINT;
        [&self.hints, &self.go_hints, &self.rustls_hints].into_iter().map(of).fold(0, u64::saturating_add)
    }
}

struct Worker {
    /// Why programs that confine themselves are left alone.
    harms_confined: Option<String>,
    of_trial: Vec<OwnedFd>,
    /// Libraries that txray has mapped itself, so that their probes are there as long as it is.
    _held: Vec<Mapped>,
    programs: TlsPrograms,
    maps: Maps,
    scope: Scope,
    known: FxHashMap<u32, Known>,
    plans: Plans,
    /// The probes on files, and how many processes want each.
    shared: FxHashMap<Probe, (OwnedFd, usize)>,
    /// When the last of them was attached, boot ns.
    shared_since_ns: u64,
    status: Arc<Mutex<Status>>,
    /// Takes probes away: the kernel waits until nobody can be in them, some 90 ms, in which others are to be attached.
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
                Ok(Command::Executed(pid)) => {
                    if let Some(known) = self.known.get_mut(&pid) {
                        known.n_looks = 0;
                        // Gone before it could be looked at, it did not serve as its parent does.
                        known.parent = None;
                    }
                    self.look(pid);
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
            match self.known.get_mut(&pid) {
                // What it did may not have been heard of yet.
                Some(known) if known.parent.is_some() && !known.is_gone => {
                    known.is_gone = true;
                    known.due = Some(Instant::now() + PERIOD);
                }
                _ => self.end(pid),
            }
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
            if let Some(share) = self.share_over_limit(pid, now) {
                self.leave(pid, share);
                return;
            }
            let Some(known) = self.known.get_mut(&pid) else { return };
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
        // It is left alone for as long as it is that program.
        if known.left.is_some() && known.left == program_of(pid) {
            return;
        }
        known.left = None;
        if let Some(reason) = &self.harms_confined
            && is_confined(pid)
        {
            let text = format!("pid {pid}: {reason}");
            self.leave_opaque(text);
            return;
        }
        let Planned { plan, anew, left_opaque } = self.plans.plan(&process, files, &mut self.programs);
        for (file, one) in anew {
            self.shared.retain(|probe, _| probe.file != file || one.probes.contains(probe));
        }
        left_opaque.into_iter().for_each(|reason| self.leave_opaque(reason));
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
                let slot = abi::target_hint(pid);
                if has && hints.get(&slot, 0).is_ok_and(|hint| hint == 0) {
                    let _ = hints.set(slot, abi::TLS_HINT, 0);
                }
            }
            let _ = self.maps.processes.insert(pid, process, 0);
        }
        self.publish();
        self.tell();
    }

    /// What the probes cost a process, percent of its own processor time, if it is more than it may pay.
    fn share_over_limit(&mut self, pid: u32, now: Instant) -> Option<u64> {
        let known = self.known.get_mut(&pid).filter(|known| known.libraries != 0)?;
        let so_far = (self.maps.n_calls(pid), tls_cost::cpu_ns(Path::new("/proc"), pid)?);
        let Some(cost) = &mut known.cost else {
            known.cost = Some(Cost::begin(now, so_far.0, so_far.1));
            return None;
        };
        cost.look(now, so_far, lock(&self.status).ns_per_call, self.maps.limit)
    }

    /// Leaves a process opaque. What it says on connections that are open is counted as lost; later ones are shown turn by turn.
    fn leave(&mut self, pid: u32, share: u64) {
        let Some(known) = self.known.get_mut(&pid) else { return };
        let attached = std::mem::take(&mut known.attached);
        known.libraries = 0;
        known.cost = None;
        known.parent = None;
        known.left = program_of(pid);
        let is_on_file = attached.values().any(Option::is_none);
        // Where others keep the probes on its file, it still meets them, and nothing is told of it.
        let _ = self.maps.processes.insert(pid, abi::TlsProcess { since_ns: u64::MAX, libraries: 0 }, 0);
        let mut gone = Vec::new();
        for (probe, link) in attached {
            gone.extend(link);
            gone.extend(release(&mut self.shared, &probe));
        }
        let also =
            if is_on_file { "; it still meets those that others keep on its library's file" } else { "" };
        let text = format!(
            "pid {pid}: probes on its TLS library take some {share} % of its processor time, and it may pay {} % (--tls-limit){also}",
            self.maps.limit
        );
        tracing::warn!(%text, "left opaque");
        lock(&self.status).n_over_limit += 1;
        self.leave_opaque(text);
        self.publish();
        // A call whose return was not seen any more would be taken for one that goes on: nothing says any more that this process may be in one.
        uprobe_link::close_all(gone);
        for hints in [&mut self.maps.hints, &mut self.maps.go_hints, &mut self.maps.rustls_hints] {
            let _ = hints.set(abi::target_hint(pid), 0, 0);
        }
        self.tell();
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
                let program = self.programs.get(probe.program)?;
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
        if links.is_empty() {
            return;
        }
        // If there is no room, or the other thread is gone, they end here.
        if let Err(TrySendError::Full(links) | TrySendError::Disconnected(links)) =
            self.closer.try_send(links)
        {
            uprobe_link::close_all(links);
        }
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

impl Drop for Worker {
    fn drop(&mut self) {
        let of_processes = self.known.drain().flat_map(|(_, known)| known.attached.into_values().flatten());
        let on_files = self.shared.drain().map(|(_, (link, _))| link);
        uprobe_link::close_all(of_processes.chain(on_files).chain(self.of_trial.drain(..)).collect());
    }
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

/// The program that a process runs.
fn program_of(pid: u32) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/{pid}/exe")).ok()
}

/// A path by which the kernel finds a file of a process; empty if it is gone.
fn path_of(process: &Process, file: FileId) -> PathBuf {
    let mapped = process.files.iter().find(|mapped| mapped.id == file);
    mapped.and_then(|mapped| process.open(mapped).ok()).map(|opened| opened.path).unwrap_or_default()
}
