//! Programs for TLS libraries that few processes have, loaded when the first process has one: the kernel takes 0.7 to 1.0 s to verify those for rustls and 0.15 s
//! for Go's (Linux 6.18, two virtual processors, times of the calls as strace tells them).
//!
//! **Named processes wait for them, others do not.** Where only named processes are traced, the thread that looks into them loads what they ask for. Where any
//! process may come to be traced, a thread of its own begins at once, so that the first call of a process that has just begun is met.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
};

use aya::{Ebpf, maps::Map};

use super::{
    btf::KernelBtf,
    load::{NO_SUCH_PROGRAM, Others},
    probes::{Place, Probe},
    tls_places::GO,
    uprobe_link,
    uprobe_programs::{Relocated, UprobeProgram, UprobePrograms},
};
use crate::uprobe::tls::RUSTLS;

/// The programs for functions of TLS libraries, by name: loaded, or to be loaded.
#[derive(Default)]
pub struct TlsPrograms {
    there: UprobePrograms,
    later: Vec<(Group, State)>,
    /// Where those that are loaded later are counted with all others.
    others: Others,
}

/// Programs that are loaded together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Group {
    /// The kind of library.
    pub(super) kind: &'static str,
    /// The programs for its functions.
    pub(super) programs: &'static [&'static str],
    /// What they need behind a tracepoint.
    pub(super) behind: Option<&'static Probe>,
}

/// A group's.
enum State {
    /// Nobody has asked.
    Waits(Arc<Loader>),
    /// A thread loads them.
    Runs(JoinHandle<Result<Loaded, String>>),
    /// They are there.
    There,
    /// The kernel did not take them.
    Refused(String),
}

/// What is loaded of a group.
struct Loaded {
    programs: UprobePrograms,
    behind: Option<(&'static str, OwnedFd)>,
}

/// Loads programs of the object at any time.
pub(super) struct Loader {
    object: Arc<Relocated>,
    /// Maps of programs that hand over, by name.
    arrays: Vec<(&'static str, OwnedFd)>,
    /// The tracepoints' types in the kernel's BTF.
    tracepoints: Vec<(&'static str, u32)>,
}

impl Loader {
    /// For `groups`, with the maps of `ebpf`, which still has all of them.
    fn of(
        ebpf: &Ebpf,
        object: Arc<Relocated>,
        kernel: &KernelBtf,
        groups: &[Group],
    ) -> Result<Loader, String> {
        let (mut arrays, mut tracepoints) = (Vec::new(), Vec::new());
        for probe in groups.iter().filter_map(|group| group.behind) {
            tracepoints.push((probe.tracepoint, type_of(kernel, probe.tracepoint)?));
            let Place::Behind { array, .. } = probe.place else { continue };
            arrays.push((array, array_of(ebpf, array)?));
        }
        Ok(Loader { object, arrays, tracepoints })
    }

    fn load(&self, group: Group) -> Result<Loaded, String> {
        // Before the others, which count on it.
        let behind = group.behind.map(|probe| Ok::<_, String>((probe.program, self.put_behind(probe)?)));
        let behind = behind.transpose()?;
        let is_multi = uprobe_link::has_multi();
        let load = |name: &&'static str| Ok((*name, self.object.load_uprobe(name, is_multi)?));
        let programs = group.programs.iter().map(load).collect::<Result<_, String>>()?;
        Ok(Loaded { programs, behind })
    }

    /// Loads a program, and has another hand over to it.
    fn put_behind(&self, probe: &Probe) -> Result<OwnedFd, String> {
        let of = self.tracepoints.iter().find(|(name, _)| *name == probe.tracepoint);
        let program = self.object.load_tracepoint(probe.program, of.ok_or(NO_SUCH_PROGRAM)?.1)?;
        if let Place::Behind { array, slot } = probe.place {
            let map = self.arrays.iter().find(|(name, _)| *name == array).ok_or(NO_SUCH_PROGRAM)?;
            hand_over(&map.1, slot, &program).map_err(|error| format!("map {array}: {error}"))?;
        }
        Ok(program)
    }
}

/// The number that a tracepoint's type has in the kernel's BTF.
pub(super) fn type_of(kernel: &KernelBtf, tracepoint: &str) -> Result<u32, String> {
    let no_type = || format!("the kernel's BTF has no tracepoint {tracepoint}");
    kernel.typedef_id(&format!("btf_trace_{tracepoint}")).ok_or_else(no_type)
}

/// A map of programs, whoever takes it.
pub(super) fn array_of(ebpf: &Ebpf, array: &str) -> Result<OwnedFd, String> {
    let Some(Map::ProgramArray(map)) = ebpf.map(array) else {
        return Err(format!("the object has no map {array}"));
    };
    map.fd().as_fd().try_clone_to_owned().map_err(|error| error.to_string())
}

/// `bpf_map_update_elem` of a map of programs.
pub(super) fn hand_over(array: &OwnedFd, slot: u32, program: &OwnedFd) -> io::Result<()> {
    /// `BPF_MAP_UPDATE_ELEM` (include/uapi/linux/bpf.h).
    const MAP_UPDATE_ELEM: libc::c_long = 2;
    /// `union bpf_attr`, the part for elements of maps.
    #[repr(C)]
    struct Attributes {
        map: u64,
        key: u64,
        value: u64,
        flags: u64,
    }
    let program = program.as_raw_fd();
    let attributes = Attributes {
        map: array.as_raw_fd() as u64,
        key: &raw const slot as u64,
        value: &raw const program as u64,
        flags: 0,
    };
    // SAFETY: key and value, four bytes each, outlive the call, which is told the structure's length.
    let done = unsafe {
        libc::syscall(libc::SYS_bpf, MAP_UPDATE_ELEM, &raw const attributes, size_of::<Attributes>())
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

impl TlsPrograms {
    /// Those that are there.
    pub(super) fn new(there: UprobePrograms, others: Others) -> TlsPrograms {
        TlsPrograms { there, later: Vec::new(), others }
    }

    /// Gets `groups` ready to be loaded.
    pub(super) fn add_later(
        &mut self,
        ebpf: &Ebpf,
        object: Arc<Relocated>,
        kernel: &KernelBtf,
        groups: &[Group],
    ) -> Result<(), String> {
        let loader = Arc::new(Loader::of(ebpf, object, kernel, groups)?);
        self.later.extend(groups.iter().map(|group| (*group, State::Waits(loader.clone()))));
        Ok(())
    }

    /// None is there, and none will be.
    pub(super) fn is_empty(&self) -> bool {
        self.there.is_empty()
    }

    /// Those that are there.
    pub fn there(&self) -> &UprobePrograms {
        &self.there
    }

    /// A program that is there.
    pub fn get(&self, name: &str) -> Option<&UprobeProgram> {
        self.there.get(name)
    }

    /// Begins to load all that is not there, on a thread of its own.
    pub(super) fn begin(&mut self) {
        for (group, state) in &mut self.later {
            let State::Waits(loader) = state else { continue };
            let (group, loader) = (*group, loader.clone());
            let thread = thread::Builder::new().name("txray-tls-load".to_owned());
            // Refused, it waits for the first who asks.
            if let Ok(thread) = thread.spawn(move || loader.load(group)) {
                *state = State::Runs(thread);
            }
        }
    }

    /// Sees to it that the programs for a kind of library are there; an error: why they are not.
    pub(super) fn want(&mut self, kind: &str) -> Result<(), String> {
        let Some((group, state)) = self.later.iter_mut().find(|(group, _)| group.kind == kind) else {
            return Ok(());
        };
        let loaded = match std::mem::replace(state, State::There) {
            State::There => return Ok(()),
            State::Refused(reason) => Err(reason),
            State::Waits(loader) => loader.load(*group),
            State::Runs(thread) => thread.join().unwrap_or_else(|_| Err("loading them failed".to_owned())),
        };
        match loaded {
            Ok(Loaded { programs, behind }) => {
                let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
                // Without a descriptor more it is not counted, and runs.
                others.extend(counted(&programs));
                others.extend(behind);
                self.there.extend(programs);
                Ok(())
            }
            Err(reason) => {
                *state = State::Refused(reason.clone());
                Err(reason)
            }
        }
    }
}

/// The programs that only this loader holds, to be counted with all others.
pub(super) fn counted<'a>(
    programs: impl IntoIterator<Item = (&'a &'static str, &'a UprobeProgram)>,
) -> impl Iterator<Item = (&'static str, OwnedFd)> {
    programs.into_iter().filter_map(|(name, program)| Some((*name, program.fd().try_clone_to_owned().ok()?)))
}

/// Go's.
pub(super) const fn go(programs: &'static [&'static str]) -> Group {
    Group { kind: GO, programs, behind: None }
}

/// Those for rustls.
pub(super) const fn rustls(programs: &'static [&'static str], behind: &'static Probe) -> Group {
    Group { kind: RUSTLS, programs, behind: Some(behind) }
}

/// Programs beside those of the object that was loaded first.
pub(super) fn others() -> Others {
    Arc::new(Mutex::new(Vec::new()))
}
