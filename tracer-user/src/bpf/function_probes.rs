//! Probes on functions that somebody named: which programs go where, and in which processes.
//!
//! On the file where it is one program's own, or where processes become targets by what they are: from the first call of a process that has just begun.
//! On a shared library with `--pid` in each of the processes that were named and their children, so that nobody else's calls pay.

use std::{
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender},
    thread::JoinHandle,
    time::Instant,
};

use aya::maps::Array;
use rustc_hash::{FxHashMap, FxHashSet};
use tracer_ebpf as abi;

use super::{
    load::Loaded,
    marks,
    ring::boot_now,
    tls_probes::{AGAIN, PERIOD},
    uprobe_link::{self, Place},
    uprobe_programs::UprobePrograms,
    uprobe_trial,
};
use crate::{
    config::Targets,
    event::{Argument, FunctionFacts, ValueKind},
    metrics::{Counter, Metrics},
    uprobe::{
        functions::{self, End, Found, FunctionError, Language, Spec, Type, n_registers},
        maps::FileId,
        process::Process,
    },
};

/// What waits to be looked at. Full: counted (`lost.function_processes`).
const MAX_COMMANDS: usize = 4096;
/// Probes from which on it is told how long the end takes where they are taken away one by one.
const MANY_PROBES: usize = 50;
/// Processes with probes of their own; beyond it others have none (`lost.function_processes`).
const MAX_PROCESSES: usize = 4096;

/// Finds what is asked for, all of it, within the bound of a run.
pub fn find(specs: &[Spec], pids: &[u32], may_use_return_probes: bool) -> Result<Vec<Found>, FunctionError> {
    let mut all: Vec<Found> = Vec::new();
    for spec in specs {
        let room = abi::MAX_FUNCTIONS as usize - all.len();
        let found = functions::find(spec, pids, room, may_use_return_probes)?;
        let is_new = |one: &Found| {
            !all.iter()
                .any(|other| other.path == one.path && other.entry.file_offset == one.entry.file_offset)
        };
        let found: Vec<Found> = found.into_iter().filter(is_new).collect();
        all.extend(found);
    }
    Ok(all)
}

/// A probe to be attached.
#[derive(Clone, Debug)]
struct Probe {
    program: &'static str,
    offset: u64,
    at_return: bool,
    semaphore: Option<u64>,
    function: u32,
}

/// The probes of one file.
#[derive(Clone, Debug)]
struct OnFile {
    path: PathBuf,
    id: Option<FileId>,
    probes: Vec<Probe>,
}

/// What is told to the thread that follows processes.
enum Command {
    Look(u32),
    Ended(u32),
}

/// The attached probes. Dropping it detaches all.
pub struct FunctionProbes {
    commands: Option<SyncSender<Command>>,
    thread: Option<JoinHandle<()>>,
    /// On files, and those of the trial: what is attached behind the end of one would wait for it.
    links: Vec<OwnedFd>,
    metrics: Metrics,
    /// What they are called, to come before their calls.
    pub facts: Vec<FunctionFacts>,
    /// What a call costs more than it should, and what is not seen.
    pub notes: Vec<String>,
}

impl FunctionProbes {
    /// Attaches to what `specs` ask for.
    pub fn start(
        loaded: &mut Loaded,
        specs: &[Spec],
        targets: &Targets,
        pids: &[u32],
        stacks: Option<u64>,
        metrics: Metrics,
    ) -> Result<FunctionProbes, FunctionError> {
        let failed = |what: String| {
            FunctionError {
            what,
            hint: "functions need a kernel from 5.15 on with uprobes (CONFIG_UPROBES); `txray doctor` says what this one has"
                .to_owned(),
        }
        };
        let programs = std::mem::replace(&mut loaded.function_programs, Ok(FxHashMap::default()));
        let programs = programs.map_err(failed)?;
        let program = |name| programs.get(name).ok_or(failed(format!("{name} is not loaded")));
        let trial =
            uprobe_trial::run(program("function_enter")?, program("function_return")?).map_err(failed)?;
        let mut notes = Vec::new();
        let may_use_return_probes = trial.harms_confined.is_none();
        let found = find(specs, pids, may_use_return_probes)?;
        let map = loaded.ebpf.take_map("FUNCTIONS").and_then(|map| Array::try_from(map).ok());
        let mut map: Array<_, abi::FunctionSpec> =
            map.ok_or_else(|| failed("the object has no map FUNCTIONS".to_owned()))?;
        let now = boot_now();
        let (mut facts, mut files): (Vec<FunctionFacts>, Vec<OnFile>) = (Vec::new(), Vec::new());
        for (function, one) in (1..).zip(&found) {
            let (spec, own) = describe(function, one);
            map.set(function, spec, 0).map_err(|error| failed(format!("fill the map FUNCTIONS: {error}")))?;
            facts.push(FunctionFacts { time: now, stack_ns: stacks.filter(|_| one.mark.is_none()), ..own });
            let on_file = match files.iter_mut().find(|file| file.path == one.path) {
                Some(file) => file,
                None => {
                    files.push(OnFile { path: one.path.clone(), id: id_of(&one.path), probes: Vec::new() });
                    // INVARIANT: pushed just now.
                    let last = files.len() - 1;
                    &mut files[last]
                }
            };
            on_file.probes.extend(probes_of(function, one));
        }
        let n_probes: usize = files.iter().map(|file| file.probes.len()).sum();
        if n_probes > MANY_PROBES && !uprobe_link::has_multi() {
            notes
                .push(format!("{n_probes} probes: to take them away again takes the kernel some 0.1 s each"));
        }
        let n_slow = found.iter().filter(|one| one.is_single_stepped()).count();
        if n_slow > 0 {
            let first = found.iter().find(|one| one.is_single_stepped());
            notes.push(format!(
                "{n_slow} of {} functions have no place that the kernel emulates for a probe, such as {}: each call costs some 12 µs more (seen in a virtual machine)",
                found.len(),
                first.map_or("", |one| &one.name)
            ));
        }
        let is_fixed = targets.are_pids();
        let shared: FxHashSet<PathBuf> =
            found.iter().filter(|one| one.is_shared && is_fixed).map(|one| one.path.clone()).collect();
        let (each, whole): (Vec<OnFile>, Vec<OnFile>) =
            files.into_iter().partition(|file| shared.contains(&file.path) && file.id.is_some());
        let mut links = trial.links;
        for file in &whole {
            attach_all(&programs, file, &file.path, None, &mut links).map_err(|(place, error)| {
                failed(format!("attach to {} at {place:#x}: {error}", file.path.display()))
            })?;
        }
        let (mut commands, mut thread) = (None, None);
        if !each.is_empty() {
            let mut worker =
                Worker { programs, files: each, known: FxHashMap::default(), metrics: metrics.clone() };
            for pid in pids {
                worker.look(*pid);
            }
            let (sender, queue) = mpsc::sync_channel(MAX_COMMANDS);
            let started = std::thread::Builder::new()
                .name("txray-functions".to_owned())
                .spawn(move || worker.run(&queue));
            thread = Some(started.map_err(|error| failed(format!("start a thread: {error}")))?);
            commands = Some(sender);
        }
        Ok(FunctionProbes { commands, thread, links, metrics, facts, notes })
    }

    /// A process began, or executed a program.
    pub fn look(&self, pid: u32) {
        self.send(Command::Look(pid));
    }

    /// A process has ended.
    pub fn ended(&self, pid: u32) {
        self.send(Command::Ended(pid));
    }

    fn send(&self, command: Command) {
        if let Some(commands) = &self.commands
            && commands.try_send(command).is_err()
        {
            self.metrics.add(Counter::FunctionProcesses, 1);
        }
    }
}

impl Drop for FunctionProbes {
    fn drop(&mut self) {
        self.commands = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        uprobe_link::close_all(std::mem::take(&mut self.links));
    }
}

/// What the kernel side, and what the pipeline has to know of a function.
fn describe(function: u32, found: &Found) -> (abi::FunctionSpec, FunctionFacts) {
    let no_text = abi::TextAt { address: abi::NO_REGISTER, length: abi::NO_REGISTER };
    let mut spec = abi::FunctionSpec {
        convention: match found.language {
            _ if found.mark.is_some() => abi::CALL_MARK,
            Language::Go => abi::CALL_GO,
            Language::C | Language::Rust => abi::CALL_C,
        },
        returned: no_text,
        by_return_probe: u8::from(found.end == End::ReturnProbe),
        is_place: u8::from(found.end == End::None),
        texts: [no_text; abi::FUNCTION_TEXTS],
        ..abi::FunctionSpec::default()
    };
    let mut types = found.arguments.clone();
    if let Some(mark) = &found.mark {
        let places = marks::places(&mark.arguments);
        for (to, from) in spec.places.iter_mut().zip(&places) {
            *to = *from;
        }
        if types.is_empty() {
            types = places.iter().map(marks::type_of).collect();
        }
    }
    let mut arguments = Vec::new();
    let mut register = 0_u8;
    for kind in types {
        let own = register;
        register += n_registers(kind, found.language) as u8;
        let value = match kind {
            Type::Skip => continue,
            Type::Text | Type::CText => {
                let at = usize::from(spec.n_texts);
                if at == abi::FUNCTION_TEXTS {
                    continue;
                }
                let is_pair = kind == Type::Text && found.language != Language::C;
                let length = if is_pair { own + 1 } else { abi::NO_REGISTER };
                spec.texts[at] = abi::TextAt { address: own, length };
                spec.n_texts += 1;
                ValueKind::Text(at as u8)
            }
            other => plain(other, found.language),
        };
        arguments.push(Argument { register: own, kind: value });
    }
    let returned = found.returned.map(|kind| match kind {
        Type::Text | Type::CText => {
            let is_pair = kind == Type::Text && found.language != Language::C;
            spec.returned = abi::TextAt { address: 0, length: if is_pair { 1 } else { abi::NO_REGISTER } };
            ValueKind::Text(0)
        }
        other => plain(other, found.language),
    });
    let facts = FunctionFacts {
        function,
        name: found.name.as_str().into(),
        place: found.place.as_str().into(),
        arguments,
        returned,
        is_mark: found.end == End::None,
        by_return_probe: found.end == End::ReturnProbe,
        restarts: found.language == Language::Go && !found.entry.once,
        ..FunctionFacts::default()
    };
    (spec, facts)
}

/// A type that is no text.
fn plain(kind: Type, language: Language) -> ValueKind {
    let word = if language == Language::Go { 8 } else { 4 };
    match kind {
        Type::Signed(bytes) => ValueKind::Signed(bytes),
        Type::Unsigned(bytes) => ValueKind::Unsigned(bytes),
        Type::Int => ValueKind::Signed(word),
        Type::Uint => ValueKind::Unsigned(word),
        Type::Bool => ValueKind::Bool,
        Type::Pointer | Type::Text | Type::CText | Type::Skip => ValueKind::Pointer,
    }
}

/// Programs at the beginning of a call, or at a mark.
const ENTRIES: [&str; 2] = ["function_enter", "function_mark"];

/// The probes of a function.
fn probes_of(function: u32, found: &Found) -> Vec<Probe> {
    let probe = |program, offset, at_return| Probe { program, offset, at_return, semaphore: None, function };
    let mut probes = match &found.end {
        End::ReturnProbe => vec![probe("function_return", found.entry.file_offset, true)],
        End::Places { returns, tails } => {
            let returns = returns.iter().map(|site| probe("function_end", site.file_offset, false));
            returns.chain(tails.iter().map(|site| probe("function_tail", site.file_offset, false))).collect()
        }
        End::None => Vec::new(),
    };
    let program = if found.mark.is_some() { "function_mark" } else { "function_enter" };
    let semaphore = found.mark.as_ref().and_then(|mark| mark.semaphore);
    probes.push(Probe { semaphore, ..probe(program, found.entry.file_offset, false) });
    probes
}

/// Attaches all probes of a file, or none. An error names the place.
fn attach_all(
    programs: &UprobePrograms,
    file: &OnFile,
    path: &Path,
    pid: Option<u32>,
    links: &mut Vec<OwnedFd>,
) -> Result<(), (u64, io::Error)> {
    let before = links.len();
    let attach = |probe: &Probe| {
        let Probe { program, offset, at_return, semaphore, function } = probe;
        let program = programs.get(program).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        let place = Place { path, offset: *offset, at_return: *at_return, pid };
        uprobe_link::attach_with_cookie(program, place, *semaphore, u64::from(*function))
    };
    // A return without its entry is only counted, an entry without its return would be taken for one that was left by an exception.
    let (ends, entries): (Vec<Probe>, Vec<Probe>) =
        file.probes.iter().cloned().partition(|probe| !ENTRIES.contains(&probe.program));
    for probes in [ends, entries] {
        for (probe, link) in std::iter::zip(&probes, uprobe_link::at_once(&probes, attach)) {
            match link {
                Ok(link) => links.push(link),
                Err(error) => {
                    uprobe_link::close_all(links.split_off(before));
                    return Err((probe.offset, error));
                }
            }
        }
    }
    Ok(())
}

/// Which file a path names, as maps name it.
fn id_of(path: &Path) -> Option<FileId> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = std::fs::metadata(path).ok()?;
    let device = metadata.dev();
    Some(FileId { device: (libc::major(device), libc::minor(device)), inode: metadata.ino() })
}

/// A process that was looked at.
struct Known {
    /// Its probes, by file.
    links: FxHashMap<usize, Vec<OwnedFd>>,
    n_looks: usize,
    due: Instant,
}

/// Follows processes.
struct Worker {
    programs: UprobePrograms,
    files: Vec<OnFile>,
    known: FxHashMap<u32, Known>,
    metrics: Metrics,
}

impl Drop for Worker {
    fn drop(&mut self) {
        let links = self.known.drain().flat_map(|(_, known)| known.links.into_values()).flatten();
        uprobe_link::close_all(links.collect());
    }
}

impl Worker {
    fn run(mut self, queue: &Receiver<Command>) {
        loop {
            let next = self.known.values().map(|known| known.due).min();
            let wait = next.map_or(PERIOD, |due| due.saturating_duration_since(Instant::now()));
            match queue.recv_timeout(wait) {
                Ok(Command::Look(pid)) => {
                    if let Some(known) = self.known.get_mut(&pid) {
                        known.n_looks = 0;
                    }
                    self.look(pid);
                }
                Ok(Command::Ended(pid)) => {
                    let gone = self.known.remove(&pid).into_iter();
                    uprobe_link::close_all(
                        gone.flat_map(|known| known.links.into_values()).flatten().collect(),
                    );
                }
                Err(RecvTimeoutError::Timeout) => {
                    let now = Instant::now();
                    let due: Vec<u32> = self
                        .known
                        .iter()
                        .filter(|(_, known)| known.due <= now)
                        .map(|(pid, _)| *pid)
                        .collect();
                    due.into_iter().for_each(|pid| self.look(pid));
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn look(&mut self, pid: u32) {
        let Ok(process) = Process::read(Path::new("/proc"), pid) else {
            self.known.remove(&pid);
            return;
        };
        if self.known.len() >= MAX_PROCESSES && !self.known.contains_key(&pid) {
            self.metrics.add(Counter::FunctionProcesses, 1);
            return;
        }
        let now = Instant::now();
        let known =
            self.known.entry(pid).or_insert(Known { links: FxHashMap::default(), n_looks: 0, due: now });
        known.due = now + AGAIN.get(known.n_looks).copied().unwrap_or(PERIOD);
        known.n_looks += 1;
        for (at, file) in self.files.iter().enumerate() {
            if known.links.contains_key(&at) {
                continue;
            }
            let mapped = process.files.iter().find(|mapped| {
                // On btrfs and overlayfs stat(2) and maps disagree about the device.
                let has_name = Path::new(&mapped.path).file_name() == file.path.file_name();
                file.id.is_some_and(|id| mapped.id == id || (mapped.id.inode == id.inode && has_name))
            });
            let Some(opened) = mapped.and_then(|mapped| process.open(mapped).ok()) else { continue };
            let mut links = Vec::new();
            if let Err((place, error)) = attach_all(&self.programs, file, &opened.path, Some(pid), &mut links)
            {
                self.metrics.add(Counter::FunctionProcesses, 1);
                tracing::warn!(pid, place, %error, "no probes on its functions");
            }
            known.links.insert(at, links);
        }
    }
}
