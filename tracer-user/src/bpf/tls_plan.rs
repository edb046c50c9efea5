//! Which probes a set of files asks for: each file is looked into once, as long as it stays what it is.

use std::{fs::File, io, os::unix::fs::MetadataExt as _, sync::Arc};

use rustc_hash::{FxHashMap, FxHashSet};

use super::{
    later_programs::TlsPrograms,
    tls_places::{GO, at_return, go_places, is_optional, number_of, place},
};
use crate::uprobe::{
    maps::FileId,
    process::Process,
    tls::{self, Library},
};

/// Files whose plans are remembered: a host's processes have some thousand mapped. Beyond it all are forgotten, and looked into anew.
const MAX_FILES: usize = 8192;
/// Sets of files whose plans are remembered: a host has some hundred. Beyond it all are forgotten.
const MAX_SETS: usize = 1024;

/// A probe to be attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Probe {
    pub(super) file: FileId,
    pub(super) offset: u64,
    pub(super) program: &'static str,
    pub(super) at_return: bool,
}

/// What files ask for.
#[derive(Clone, Debug, Default)]
pub(super) struct Plan {
    pub(super) probes: Vec<Probe>,
    /// A bit for each `TLS_*`.
    pub(super) libraries: u64,
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

pub(super) fn is_of_go(probe: &Probe) -> bool {
    probe.program.starts_with("tls_go")
}

/// What was found for a process.
#[derive(Default)]
pub(super) struct Planned {
    pub(super) plan: Arc<Plan>,
    /// Files that were looked into now, and what each asks for: of what stood there before, whoever begins now must not meet a probe.
    pub(super) anew: Vec<(FileId, Plan)>,
    /// Libraries without probes, and why.
    pub(super) left_opaque: Vec<String>,
}

/// What is known of files.
#[derive(Default)]
pub(super) struct Plans {
    plans: FxHashMap<FileId, (Stamp, Plan)>,
    sets: FxHashMap<Vec<FileId>, Set>,
}

impl Plans {
    /// What the files of a process ask for. Each is looked into once; of a set that is known only those with probes are opened (a child that was just
    /// forked is not waited for).
    pub(super) fn plan(
        &mut self,
        process: &Process,
        files: Vec<FileId>,
        programs: &mut TlsPrograms,
    ) -> Planned {
        let mut planned = Planned::default();
        if let Some(set) = self.sets.get(&files)
            && set.stamps.iter().all(|(file, stamp)| Stamp::in_process(process, *file) == Some(*stamp))
        {
            planned.plan = set.plan.clone();
            return planned;
        }
        let (mut plan, mut stamps) = (Plan::default(), Vec::new());
        for mapped in &process.files {
            // What cannot be opened, or is none, asks for nothing.
            let Ok(opened) = process.open(mapped) else { continue };
            let Ok(stamp) = Stamp::of(&opened.file) else { continue };
            let one = match self.plans.get(&mapped.id) {
                Some((known, one)) if *known == stamp => one,
                _ => {
                    let libraries = tls::of_file(process, mapped, &opened);
                    let one = plan_of(&libraries, programs, &mut planned.left_opaque);
                    planned.anew.push((mapped.id, one.clone()));
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
        planned.plan = Arc::new(plan);
        self.sets.insert(files, Set { plan: planned.plan.clone(), stamps });
        planned
    }
}

/// What the libraries of one file ask for.
fn plan_of(libraries: &[Library], programs: &mut TlsPrograms, left_opaque: &mut Vec<String>) -> Plan {
    let mut plan = Plan::default();
    // A program of Go without TLS is none of them.
    for library in libraries.iter().filter(|library| library.kind != "Go") {
        match probes_of(library, programs) {
            Ok(probes) => {
                plan.libraries |= 1 << number_of(library.kind).unwrap_or(0);
                plan.probes.extend(probes);
            }
            Err(reason) => left_opaque.push(format!("{} ({}): {reason}", library.kind, library.file)),
        }
    }
    let mut seen = FxHashSet::default();
    plan.probes.retain(|probe| seen.insert(*probe));
    plan
}

/// The probes of a library, all or none: half of them would show answers without questions.
fn probes_of(library: &Library, programs: &mut TlsPrograms) -> Result<Vec<Probe>, String> {
    if let (true, Some(note)) = (library.functions.is_empty(), &library.note) {
        return Err(note.clone());
    }
    programs.want(library.kind)?;
    let mut places = Vec::new();
    for function in &library.functions {
        if library.kind == GO {
            places.extend(go_places(function)?);
            continue;
        }
        match place(library.kind, function) {
            // Without the program, what only it would see is missing.
            Ok((program, _)) if is_optional(&function.name) && programs.get(program).is_none() => {}
            Ok(place) => places.push(place),
            Err(_) if is_optional(&function.name) => {}
            Err(reason) => return Err(reason),
        }
    }
    let mut probes = Vec::new();
    for (program, site) in places {
        if library.kind == "rustls" && programs.get(program).is_none() {
            return Err("reading it takes the tracepoints on sockets (Linux 6.3 and later)".to_owned());
        }
        if programs.get(program).is_none() {
            return Err(format!("the program {program} is not loaded"));
        }
        let at =
            |program, at_return| Probe { file: library.id, offset: site.file_offset, program, at_return };
        probes.push(at(program, false));
        probes.extend(at_return(library.kind, program).map(|program| at(program, true)));
    }
    Ok(probes)
}
