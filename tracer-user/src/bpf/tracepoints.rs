//! Programs on tracepoints, and those behind them: loaded together, put in their places, and taken back.

use std::{
    sync::{Mutex, PoisonError},
    thread,
};

use aya::{
    Btf, Ebpf,
    maps::ProgramArray,
    programs::{Program, ProgramError},
};
use rustc_hash::FxHashMap;

use super::{
    probes::{Place, Probe},
    refusal::{chain, shortened},
};

pub(super) const NO_SUCH_PROGRAM: &str = "the object has no such program";

/// Hands the programs of `probes` to the kernel, as many at a time as there are CPUs, in their order: it verifies each by
/// itself, which is what a start consists of. Gives each one's outcome by the program's name.
pub(super) fn load_together(
    ebpf: &mut Ebpf,
    probes: &[&Probe],
    btf: &Btf,
) -> FxHashMap<&'static str, Result<(), String>> {
    let mut programs: FxHashMap<String, &mut Program> =
        ebpf.programs_mut().map(|(name, program)| (name.to_owned(), program)).collect();
    let (mut queue, mut outcomes) = (Vec::new(), FxHashMap::default());
    for probe in probes.iter().rev() {
        match programs.remove(probe.program) {
            Some(program) => queue.push((*probe, program)),
            None => drop(outcomes.insert(probe.program, Err(NO_SUCH_PROGRAM.to_owned()))),
        }
    }
    let n_threads = thread::available_parallelism().map_or(1, usize::from).min(queue.len());
    let (queue, outcomes) = (Mutex::new(queue), Mutex::new(outcomes));
    let work = || {
        loop {
            // A lock is poisoned when another thread panicked, which the scope passes on.
            let Some((probe, program)) = queue.lock().unwrap_or_else(PoisonError::into_inner).pop() else {
                return;
            };
            let outcome = match program {
                Program::BtfTracePoint(program) => program.load(probe.tracepoint, btf),
                Program::RawTracePoint(program) => program.load(),
                _ => Err(ProgramError::UnexpectedProgramType),
            };
            let outcome = outcome.map_err(|error| shortened(&chain(&error)));
            outcomes.lock().unwrap_or_else(PoisonError::into_inner).insert(probe.program, outcome);
        }
    };
    thread::scope(|scope| {
        for _ in 1..n_threads {
            scope.spawn(work);
        }
        work();
    });
    outcomes.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Puts a loaded program where it belongs: on its tracepoint, or behind the program that hands over to it.
pub(super) fn attach(ebpf: &mut Ebpf, probe: &Probe) -> Result<(), String> {
    if let Place::Behind { array, slot } = probe.place {
        let refused = |error: &dyn std::error::Error| shortened(&chain(error));
        let program = match ebpf.program(probe.program) {
            Some(Program::BtfTracePoint(program)) => program.fd().and_then(|fd| Ok(fd.try_clone()?)),
            _ => return Err(NO_SUCH_PROGRAM.to_owned()),
        };
        let program = program.map_err(|error| refused(&error))?;
        let map = ebpf.map_mut(array).ok_or_else(|| format!("the object has no map {array}"))?;
        let mut array = ProgramArray::try_from(map).map_err(|error| refused(&error))?;
        return array.set(slot, &program, 0).map_err(|error| refused(&error));
    }
    match ebpf.program_mut(probe.program) {
        Some(Program::BtfTracePoint(program)) => {
            program.attach().map(|_| ()).map_err(|error| shortened(&chain(&error)))
        }
        Some(Program::RawTracePoint(program)) => {
            program.attach(probe.tracepoint).map(|_| ()).map_err(|error| shortened(&chain(&error)))
        }
        _ => Err(NO_SUCH_PROGRAM.to_owned()),
    }
}

/// Takes a probe from its place, if it is there, and gives its program back to the kernel.
pub(super) fn detach(ebpf: &mut Ebpf, probe: &Probe) {
    if let Place::Behind { array, slot } = probe.place
        && let Some(Ok(mut array)) = ebpf.map_mut(array).map(ProgramArray::try_from)
    {
        // An empty slot has nothing to clear.
        let _ = array.clear_index(&slot);
    }
    // One that was never loaded has nothing to give back.
    let _ = match ebpf.program_mut(probe.program) {
        Some(Program::BtfTracePoint(program)) => program.unload(),
        Some(Program::RawTracePoint(program)) => program.unload(),
        _ => Ok(()),
    };
}
