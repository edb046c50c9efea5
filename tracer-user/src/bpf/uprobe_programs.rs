//! Programs for functions of other programs, loaded so that each may be attached by itself, from any thread.
//!
//! **Two kinds of link.** A link of many uprobes (`BPF_TRACE_UPROBE_MULTI`, from Linux 6.6 on, right about processes since 6.10) takes no lock of tracing: those
//! that are taken away at once wait for one grace period of RCU, where events of perf wait one after the other (18 functions: 4.4 s). And the kernel leaves none
//! of its runs out, whatever runs on the processor at that time. A program is of one kind from when it is loaded on, which aya does not know of: such programs are
//! relocated by its own crate and loaded here.

use std::{
    collections::HashSet,
    ffi::CStr,
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

use aya::{Ebpf, maps::Map, programs::Program};
use aya_obj::{Object, generated::bpf_insn};
use rustc_hash::FxHashMap;

use super::{
    load::{NO_SUCH_PROGRAM, OBJECT, chain, shortened},
    uprobe_link,
};

/// `BPF_PROG_LOAD`, `BPF_PROG_TYPE_KPROBE`, `BPF_PROG_TYPE_PERF_EVENT`, `BPF_PROG_TYPE_TRACING`, `BPF_TRACE_RAW_TP` (include/uapi/linux/bpf.h).
const PROG_LOAD: libc::c_long = 5;
const KPROBE: u32 = 2;
const PERF_EVENT: u32 = 7;
const TRACING: u32 = 26;
const TRACE_RAW_TP: u32 = 23;

/// A loaded program, attached to nothing.
#[derive(Debug)]
pub struct UprobeProgram {
    fd: OwnedFd,
    /// Its links are of many uprobes; the kernel takes no other.
    is_multi: bool,
}

impl UprobeProgram {
    /// Its descriptor.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Whether it is attached by a link of many uprobes.
    pub fn is_multi(&self) -> bool {
        self.is_multi
    }
}

/// The programs by their names.
pub type UprobePrograms = FxHashMap<&'static str, UprobeProgram>;

/// Loads the programs `names`, all or none.
pub fn load(ebpf: &mut Ebpf, names: &[&'static str]) -> Result<UprobePrograms, String> {
    if uprobe_link::has_multi() {
        match load_multi(ebpf, names) {
            Ok(programs) => return Ok(programs),
            // What is wrong with the programs themselves is said below.
            Err(reason) => tracing::debug!(%reason, "links of many uprobes"),
        }
    }
    let load = |name: &&'static str| {
        let Some(Program::UProbe(program)) = ebpf.program_mut(name) else {
            return Err(NO_SUCH_PROGRAM.to_owned());
        };
        let loaded = program.load().and_then(|()| Ok(program.fd()?.as_fd().try_clone_to_owned()?));
        match loaded {
            Ok(fd) => Ok((*name, UprobeProgram { fd, is_multi: false })),
            Err(error) => Err(format!("load probe {name}: {}", shortened(&chain(&error)))),
        }
    };
    names.iter().map(load).collect()
}

/// The same for links of many uprobes.
fn load_multi(ebpf: &Ebpf, names: &[&'static str]) -> Result<UprobePrograms, String> {
    let object = Relocated::of(ebpf)?;
    names.iter().map(|name| Ok((*name, object.load_uprobe(name, true)?))).collect()
}

/// The object once more, with the maps of a loaded one in its instructions: programs can be loaded from it at any time, whoever has taken the maps.
pub(super) struct Relocated {
    object: Object,
    /// The maps' descriptors, whose numbers are in the instructions.
    _maps: Vec<OwnedFd>,
}

impl Relocated {
    /// With the maps of `ebpf`, which still has all of them.
    pub(super) fn of(ebpf: &Ebpf) -> Result<Relocated, String> {
        let mut object = Object::parse(OBJECT).map_err(|error| chain(&error))?;
        let sections: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
        let maps = std::mem::take(&mut object.maps);
        let own = |(name, map)| Some((name, fd_of(map)?.try_clone_to_owned().ok()?));
        let fds: FxHashMap<&str, OwnedFd> = ebpf.maps().filter_map(own).collect();
        if let Some(name) = maps.keys().find(|name| !fds.contains_key(name.as_str())) {
            // Without it, relocating would not return.
            return Err(format!("the map {name} is not there"));
        }
        let in_place = maps
            .iter()
            .filter_map(|(name, map)| Some((name.as_str(), fds.get(name.as_str())?.as_raw_fd(), map)));
        object.relocate_maps(in_place, &sections).map_err(|error| chain(&error))?;
        object.relocate_calls(&sections).map_err(|error| chain(&error))?;
        Ok(Relocated { object, _maps: fds.into_values().collect() })
    }

    /// Loads a program for functions; `is_multi`: for links of many uprobes.
    pub(super) fn load_uprobe(&self, name: &str, is_multi: bool) -> Result<UprobeProgram, String> {
        let attach_type = if is_multi { uprobe_link::TRACE_UPROBE_MULTI } else { 0 };
        Ok(UprobeProgram { fd: self.load(name, Kind { program: KPROBE, attach_type, of: 0 })?, is_multi })
    }

    /// Loads a program for the tracepoint whose type has the number `of` in the kernel's BTF.
    pub(super) fn load_tracepoint(&self, name: &str, of: u32) -> Result<OwnedFd, String> {
        self.load(name, Kind { program: TRACING, attach_type: TRACE_RAW_TP, of })
    }

    /// Loads a program for events of perf.
    pub(super) fn load_perf_event(&self, name: &str) -> Result<OwnedFd, String> {
        self.load(name, Kind { program: PERF_EVENT, attach_type: 0, of: 0 })
    }

    fn load(&self, name: &str, kind: Kind) -> Result<OwnedFd, String> {
        let program = self.object.programs.get(name).ok_or(NO_SUCH_PROGRAM)?;
        let function = self.object.functions.get(&program.function_key()).ok_or(NO_SUCH_PROGRAM)?;
        load_one(name, kind, &function.instructions, &program.license)
            .map_err(|error| format!("load probe {name}: {error}"))
    }
}

/// What a program is loaded as.
#[derive(Clone, Copy)]
struct Kind {
    /// `BPF_PROG_TYPE_*`.
    program: u32,
    /// `BPF_TRACE_*`; 0 = none.
    attach_type: u32,
    /// A type's number in the kernel's BTF; 0 = none.
    of: u32,
}

/// A map's descriptor; `None`: of a kind that the object has none of.
fn fd_of(map: &Map) -> Option<BorrowedFd<'_>> {
    match map {
        Map::Array(map)
        | Map::CgroupArray(map)
        | Map::HashMap(map)
        | Map::LruHashMap(map)
        | Map::LpmTrie(map)
        | Map::PerCpuArray(map)
        | Map::PerCpuHashMap(map)
        | Map::PerfEventArray(map)
        | Map::ProgramArray(map)
        | Map::RingBuf(map) => Some(map.fd().as_fd()),
        _ => None,
    }
}

/// A program that does nothing, to try links with.
pub(super) fn nothing() -> io::Result<OwnedFd> {
    let instruction = |code| bpf_insn {
        code,
        _bitfield_align_1: [],
        _bitfield_1: bpf_insn::new_bitfield_1(0, 0),
        off: 0,
        imm: 0,
    };
    /// `BPF_ALU64 | BPF_MOV | BPF_K` of register 0, `BPF_JMP | BPF_EXIT`.
    const RETURN_ZERO: [u8; 2] = [0xb7, 0x95];
    let kind = Kind { program: KPROBE, attach_type: uprobe_link::TRACE_UPROBE_MULTI, of: 0 };
    load_one("nothing", kind, &RETURN_ZERO.map(instruction), c"GPL")
}

/// Loads one program. An error: what the kernel or its verifier said.
fn load_one(name: &str, kind: Kind, instructions: &[bpf_insn], license: &CStr) -> io::Result<OwnedFd> {
    /// `union bpf_attr`, the part for loading a program up to what is set here.
    #[repr(C)]
    #[derive(Default)]
    struct Attributes {
        kind: u32,
        n_instructions: u32,
        instructions: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        kernel_version: u32,
        flags: u32,
        name: [u8; 16],
        interface: u32,
        attach_type: u32,
        /// A program's own types, functions and lines.
        unused: [u64; 4],
        n_unused: u32,
        attach_btf_id: u32,
    }
    let mut attributes = Attributes {
        kind: kind.program,
        n_instructions: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        license: license.as_ptr() as u64,
        attach_type: kind.attach_type,
        attach_btf_id: kind.of,
        ..Attributes::default()
    };
    // The last one stays 0.
    for (to, from) in attributes.name.iter_mut().take(15).zip(name.bytes()) {
        *to = from;
    }
    // SAFETY: the instructions and the license outlive the call, which is told the structure's length.
    let made =
        unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, &raw const attributes, size_of::<Attributes>()) };
    if made < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has just made it, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(made as i32) })
}
