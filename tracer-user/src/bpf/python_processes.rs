//! Tells the kernel side which processes are programs of Python, and where their interpreter keeps what its threads run; and whoever gives stacks their names, how to read it.
//!
//! A process is looked at when it is named, is met for the first time, or executes a program, and again when a stack shows that it has an interpreter by now: one that has just begun to
//! run has not set it up.

use std::{
    fs::File,
    os::fd::OwnedFd,
    path::Path,
    sync::{Arc, PoisonError},
};

use aya::{
    Btf, Ebpf,
    maps::{HashMap, MapData},
    programs::Program,
};
use tracer_ebpf as abi;

use super::{
    btf::KernelBtf,
    later_programs,
    load::{Loaded, NO_SUCH_PROGRAM, Others, ProbeTrial},
    lookout::{Files, Lookout, Looks},
    refusal::{chain, shortened},
    uprobe_programs::Relocated,
};
use crate::{
    metrics::{Counter, Metrics},
    uprobe::{
        elf::Elf,
        process::Process,
        python::{self, Python, Pythons, Symbols},
    },
};

/// What a run without the programs does without.
pub(super) const FEATURE: &str = "functions of Python in stacks";
/// The programs, and where each is put: the map, the place in it. A tracepoint's has its name.
const PROGRAMS: [(&str, &str, u32, Option<&str>); 2] = [
    ("python_sample", "PYTHON_SAMPLE", 0, None),
    ("python_call", "SYS_EXIT", abi::SYS_EXIT_PYTHON, Some("sys_exit")),
];

/// Whether the kernel takes the programs.
pub(super) fn trials(ebpf: &mut Ebpf, btf: &Btf) -> Vec<ProbeTrial> {
    let trial = |(program, _, _, tracepoint): (&'static str, _, _, Option<&'static str>)| {
        let outcome = load(ebpf, program, tracepoint, btf);
        let tracepoint = tracepoint.unwrap_or("cpu-clock");
        ProbeTrial { program, tracepoint, feature: Some(FEATURE), family: None, outcome }
    };
    PROGRAMS.map(trial).into()
}

fn load(ebpf: &mut Ebpf, program: &str, tracepoint: Option<&str>, btf: &Btf) -> Result<(), String> {
    let loaded = match (ebpf.program_mut(program).ok_or(NO_SUCH_PROGRAM)?, tracepoint) {
        (Program::PerfEvent(program), None) => program.load(),
        (Program::BtfTracePoint(program), Some(tracepoint)) => program.load(tracepoint, btf),
        _ => return Err(NO_SUCH_PROGRAM.to_owned()),
    };
    loaded.map_err(|error| shortened(&chain(&error)))
}

/// The programs, until the first process runs Python: the kernel takes 0.13 s for the two (Linux 6.18), and most hosts' processes run none.
pub struct PythonPrograms {
    object: Arc<Relocated>,
    /// Maps of the programs that hand over to them, in the order of [`PROGRAMS`].
    arrays: Vec<OwnedFd>,
    /// The tracepoints' types in the kernel's BTF, in the same order; 0 = none.
    types: Vec<u32>,
    /// Where they are counted with all others.
    others: Others,
}

impl PythonPrograms {
    /// From `object`, with the maps of `ebpf`, which still has all of them.
    pub(super) fn of(
        ebpf: &Ebpf,
        object: Arc<Relocated>,
        kernel: &KernelBtf,
        others: Others,
    ) -> Result<PythonPrograms, String> {
        let arrays = PROGRAMS.iter().map(|(_, array, _, _)| later_programs::array_of(ebpf, array));
        let types = PROGRAMS.iter().map(|(_, _, _, tracepoint)| match tracepoint {
            Some(tracepoint) => later_programs::type_of(kernel, tracepoint),
            None => Ok(0),
        });
        Ok(PythonPrograms {
            object,
            arrays: arrays.collect::<Result<_, _>>()?,
            types: types.collect::<Result<_, _>>()?,
            others,
        })
    }

    /// Loads them and puts them behind those that take stacks.
    fn load(&self) -> Result<(), String> {
        for (((program, array, slot, tracepoint), map), of) in
            PROGRAMS.iter().zip(&self.arrays).zip(&self.types)
        {
            let fd = match tracepoint {
                Some(_) => self.object.load_tracepoint(program, *of)?,
                None => self.object.load_perf_event(program)?,
            };
            later_programs::hand_over(map, *slot, &fd).map_err(|error| format!("map {array}: {error}"))?;
            self.others.lock().unwrap_or_else(PoisonError::into_inner).push((program, fd));
        }
        Ok(())
    }
}

/// Whether they are there.
enum State {
    Waits(PythonPrograms),
    There,
    /// The run does without them, which was told.
    Refused,
}

/// The running thread. Dropping it ends it.
pub struct PythonProcesses {
    lookout: Lookout,
    pythons: Pythons,
}

impl PythonProcesses {
    /// Looks at `pids`, and then at whoever is named to it. Where any process may come to be traced (not `is_named`), the programs are loaded at
    /// once, so that the first stack of one that has just begun is met.
    pub fn start(
        loaded: &mut Loaded,
        pids: &[u32],
        is_named: bool,
        metrics: Metrics,
    ) -> Result<PythonProcesses, String> {
        let name = "PYTHON_PROCESSES";
        let map = loaded.ebpf.take_map(name).ok_or(format!("the object has no map {name}"))?;
        let pythons = Pythons::default();
        let worker = Worker {
            programs: loaded.python.take().map_or(State::Refused, State::Waits),
            is_named,
            processes: HashMap::try_from(map).map_err(|error| error.to_string())?,
            pythons: pythons.clone(),
            files: Files::default(),
            metrics: metrics.clone(),
        };
        Ok(PythonProcesses { lookout: Lookout::start(worker, pids, metrics)?, pythons })
    }

    /// The interpreters that were found.
    pub fn pythons(&self) -> &Pythons {
        &self.pythons
    }

    /// A process was met for the first time, executes a program, or has set up its interpreter.
    pub fn look(&self, pid: u32) {
        self.lookout.look(pid);
    }

    /// A process has ended.
    pub fn ended(&self, pid: u32) {
        self.lookout.ended(pid);
    }
}

struct Worker {
    programs: State,
    is_named: bool,
    processes: HashMap<MapData, u32, abi::PythonProcess>,
    pythons: Pythons,
    /// What files export of the interpreter.
    files: Files<Option<Symbols>>,
    metrics: Metrics,
}

impl Looks for Worker {
    const THREAD: &'static str = "txray-python";
    const MISSED: Counter = Counter::StacksPythonProcesses;

    fn look(&mut self, pid: u32) {
        let Some(python) = self.python_of(pid) else {
            // It may have been one before it executed this.
            return self.forget(pid);
        };
        if !self.want() {
            self.metrics.add(Counter::StacksPythonProcesses, 1);
            return;
        }
        let told = python.told();
        // What the kernel side tells from then on can be read.
        self.pythons.set(pid, Some(python));
        if self.processes.insert(pid, told, 0).is_err() {
            self.metrics.add(Counter::StacksPythonProcesses, 1);
            // No more than the map has room for.
            self.pythons.set(pid, None);
        }
    }

    fn forget(&mut self, pid: u32) {
        // Most were never in it.
        let _ = self.processes.remove(&pid);
        self.pythons.set(pid, None);
    }

    fn begun(&mut self) {
        if !self.is_named {
            self.want();
        }
    }
}

impl Worker {
    /// Sees to it that the programs are there; whether they are.
    fn want(&mut self) -> bool {
        if let State::Waits(programs) = &self.programs {
            self.programs = match programs.load() {
                Ok(()) => State::There,
                Err(reason) => {
                    tracing::warn!(%reason, "{FEATURE}: not in this run");
                    State::Refused
                }
            };
        }
        matches!(self.programs, State::There)
    }

    /// The interpreter of a process. One that cannot be read is none.
    fn python_of(&mut self, pid: u32) -> Option<Python> {
        let process = Process::read(Path::new("/proc"), pid).ok()?;
        let memory = File::open(process.dir.join("mem")).ok()?;
        python::candidates(&process).find_map(|mapped| {
            let file = process.open(mapped).ok()?.file;
            let read = |file: &File| Elf::parse(file).ok().and_then(|elf| python::symbols(&elf));
            let symbols = self.files.of(&file, read)??;
            python::find(&memory, &Elf::parse(&file).ok()?, symbols, &mapped.ranges)
        })
    }
}
