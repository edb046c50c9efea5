//! Call stacks: from addresses in a process to names, which are the same wherever they are read.
//!
//! What the kernel found by frame pointers passes over callers that keep none, and goes astray in code that uses the register for something else. So each caller is
//! looked for where the tables of the code (`.eh_frame`) say, in what the kernel found or in its copy of the stack. What is shown is what a debugger shows.

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use rustc_hash::FxHashMap;
use tracer_ebpf as abi;

use crate::{
    event::{CodeFile, CodePlaces, Event, FunctionEnter, Stack, StackEnd, StackKind},
    metrics::{Counter, Metrics},
    source::{
        code_reader::{CodeReader, Slot},
        kernel_names::KernelNames,
        python_frames::{Script, runs_script},
    },
    transaction::stacks::frames_text,
    uprobe::{
        jit_map::JitMap,
        maps::{MappedFile, Range},
        process::Process,
        python::Pythons,
        unwind::{Caller, Place},
        vdso,
    },
};

/// Processes whose code is known; beyond it the one met first is looked at anew.
const MAX_PROCESSES: usize = 1024;
/// Places of one process that are known; beyond it all are resolved anew.
const MAX_PLACES: usize = 16_384;
/// How often the maps of a process are read: libraries are loaded a few times in its life, and what is no code is met again and again.
const MAX_READS: u32 = 64;
/// Return addresses that the kernel has replaced and that are known; beyond it all are forgotten, and stacks end there (`truncated`).
const MAX_REPLACED: usize = 16_384;
/// Stacks whose text is shared; beyond it all are forgotten, and written anew.
const MAX_TEXTS: usize = 4096;
/// Threads of whose stack the kernel's part waits for the program's, which comes when the call ends; beyond it all are forgotten (`stacks.parted`).
const MAX_PARTED: usize = 16_384;

/// How often a process is asked for the interpreter that its stacks show: it may be one that is not known.
const MAX_ASKED: u32 = 8;

/// Where a return address stands that the kernel has replaced: process, thread, address.
type Return = (u32, u32, u64);

/// A frame: its text, and where it is in which file.
#[derive(Clone, Debug)]
struct Frame {
    text: Arc<str>,
    code: Option<CodePlace>,
}

/// A file, and the address of an instruction in it.
type CodePlace = (Arc<CodeFile>, u64);
/// Where the frames of a stack are, and as text.
type Places = (Vec<Option<CodePlace>>, Arc<str>);

impl AsRef<str> for Frame {
    fn as_ref(&self) -> &str {
        &self.text
    }
}

impl From<Arc<str>> for Frame {
    fn from(text: Arc<str>) -> Frame {
        Frame::nowhere(text)
    }
}

impl Frame {
    /// In no file.
    fn nowhere(text: impl Into<Arc<str>>) -> Frame {
        Frame { text: text.into(), code: None }
    }
}

/// Code of a process, by addresses.
#[derive(Debug)]
enum What {
    File(usize),
    Other(String),
}

#[derive(Debug)]
struct Known {
    process: Process,
    /// By address.
    areas: Vec<(Range, What)>,
    /// By the process's file. `None`: not to be read.
    codes: FxHashMap<usize, Option<Arc<Slot>>>,
    /// What stands at addresses, of places themselves or of those behind a call.
    places: FxHashMap<(u64, bool), (Frame, Caller)>,
    /// How often its maps were read.
    n_reads: u32,
    /// What it says of code that it has written itself.
    jit: Option<JitMap>,
    /// What is known of its script.
    script: Option<Script>,
    /// How often its interpreter was asked for.
    n_asked: u32,
}

impl Known {
    fn read(proc_root: &Path, pid: u32) -> Option<Known> {
        let process = Process::read(proc_root, pid).ok()?;
        let mut areas: Vec<(Range, What)> = Vec::new();
        for (at, MappedFile { ranges, .. }) in process.files.iter().enumerate() {
            areas.extend(ranges.iter().map(|range| (*range, What::File(at))));
        }
        areas.extend(process.others.iter().map(|(range, name)| (*range, What::Other(name.clone()))));
        areas.sort_by_key(|(range, _)| range.start);
        let jit = JitMap::of(&process.dir);
        // One that is ending has none.
        (!areas.is_empty()).then(|| Known {
            process,
            areas,
            codes: FxHashMap::default(),
            places: FxHashMap::default(),
            n_reads: 1,
            jit,
            script: None,
            n_asked: 0,
        })
    }

    fn area(&self, address: u64) -> Option<usize> {
        let at = self.areas.partition_point(|(range, _)| range.start <= address).checked_sub(1)?;
        (address < self.areas[at].0.end).then_some(at)
    }
}

/// Resolves.
#[derive(Debug)]
pub struct Resolver {
    proc_root: PathBuf,
    processes: FxHashMap<u32, Known>,
    /// In the order in which they were met.
    order: VecDeque<u32>,
    files: CodeReader,
    replaced: FxHashMap<Return, u64>,
    texts: FxHashMap<Arc<str>, Places>,
    kernel: KernelNames,
    /// By process and thread: the kernel's part of a wait, whose number it is, and which the program's part follows.
    parted: FxHashMap<(u32, u32), (u64, Vec<u64>)>,
    /// Interpreters of Python that were found.
    pythons: Pythons,
    /// A process whose stack shows that it has one.
    new_python: Option<u32>,
    /// Stacks of requests are all kept.
    keeps_all: bool,
}

impl Resolver {
    /// Knows nothing yet. `proc_root` is `/proc`. `keeps_all`: every request keeps its stacks.
    pub fn new(proc_root: &Path, keeps_all: bool) -> Resolver {
        Resolver {
            proc_root: proc_root.to_owned(),
            processes: FxHashMap::default(),
            order: VecDeque::new(),
            files: CodeReader::default(),
            replaced: FxHashMap::default(),
            texts: FxHashMap::default(),
            kernel: KernelNames::default(),
            parted: FxHashMap::default(),
            pythons: Pythons::default(),
            new_python: None,
            keeps_all,
        }
    }

    /// Has read what takes long, of the kernel and of processes that will be traced, before anything is asked.
    pub fn prepare(&mut self, pids: &[u32]) {
        self.kernel.prepare();
        pids.iter().for_each(|pid| self.look(*pid));
    }

    /// Knows the interpreters of Python that somebody else finds.
    pub fn know_pythons(&mut self, pythons: Pythons) {
        self.pythons = pythons;
    }

    /// A process that was just seen to have an interpreter of Python of which nothing is known.
    pub fn new_python(&mut self) -> Option<u32> {
        self.new_python.take()
    }

    /// An event comes by: a stack gets its names. Whether it goes on: a part of a stack waits for the other.
    pub fn take(&mut self, event: &mut Event, metrics: &Metrics) -> bool {
        match event {
            Event::FunctionEnter(enter) if enter.caller != 0 => self.note(enter),
            Event::Stack(stack) => {
                if stack.kind == StackKind::Wait && !self.join(stack, metrics) {
                    return false;
                }
                stack.is_kept = self.keeps_all;
                self.resolve(stack);
                metrics.add(Counter::StackUnresolved, u64::from(stack.end == StackEnd::Unresolved));
            }
            _ => {}
        }
        true
    }

    /// A part of a wait's stack: that of the kernel comes first, that of the program completes it.
    fn join(&mut self, stack: &mut Stack, metrics: &Metrics) -> bool {
        let thread = (stack.pid, stack.tid);
        if stack.addresses.is_empty() && stack.end == StackEnd::Truncated {
            if self.parted.len() >= MAX_PARTED {
                metrics.add(Counter::StacksParted, self.parted.len() as u64);
                self.parted.clear();
            }
            let before = self.parted.insert(thread, (stack.number, std::mem::take(&mut stack.kernel)));
            metrics.add(Counter::StacksParted, u64::from(before.is_some()));
            return false;
        }
        if !stack.addresses.is_empty() {
            match self.parted.remove(&thread) {
                Some((number, kernel)) if number == stack.number => stack.kernel = kernel,
                other => metrics.add(Counter::StacksParted, u64::from(other.is_some())),
            }
        }
        true
    }

    /// A function begins whose return address the kernel replaces.
    fn note(&mut self, enter: &FunctionEnter) {
        // Another one that has jumped here returns where it would.
        if enter.is_jumped_to() {
            return;
        }
        if self.replaced.len() >= MAX_REPLACED {
            self.replaced.clear();
        }
        self.replaced.insert((enter.pid, enter.tid, enter.stack), enter.caller);
    }

    /// Notes what a process runs, unless that is known.
    pub fn look(&mut self, pid: u32) {
        if self.processes.contains_key(&pid) {
            return;
        }
        let Some(known) = Known::read(&self.proc_root, pid) else { return };
        if self.processes.len() >= MAX_PROCESSES
            && let Some(first) = self.order.pop_front()
        {
            self.processes.remove(&first);
        }
        self.files.prepare(&known.process);
        self.order.push_back(pid);
        self.processes.insert(pid, known);
    }

    /// It runs another program, or is another process.
    pub fn forget(&mut self, pid: u32) {
        if self.processes.remove(&pid).is_some() {
            self.order.retain(|other| *other != pid);
        }
    }

    /// Gives the names of a stack's addresses.
    pub fn resolve(&mut self, stack: &mut Stack) {
        let addresses = std::mem::take(&mut stack.addresses);
        let kernel = std::mem::take(&mut stack.kernel);
        let mut told: Vec<Frame> =
            kernel.iter().map(|address| Frame::nowhere(self.kernel.text(*address))).collect();
        if addresses.is_empty() {
            // Where the program was is not known.
            (stack.frames, stack.end) = (self.share(&told).0, StackEnd::UnknownCaller);
            return;
        }
        self.look(stack.pid);
        let Some(known) = self.processes.get_mut(&stack.pid) else {
            told.extend(addresses.iter().map(|at| Frame::nowhere(format!("{at:#x}"))));
            (stack.frames, stack.end) = (frames_text(&told), StackEnd::Unresolved);
            return;
        };
        let [top, frame] = stack.pointers;
        let walk = || Walk {
            stack,
            addresses: &addresses,
            by_kernel: Some(1),
            top: Some(top),
            frame: Some(frame),
            replaced: &self.replaced,
        };
        let (mut found, mut end, is_lost) = frames(known, &mut self.files, walk());
        // A library may have been loaded since.
        if is_lost
            && known.n_reads < MAX_READS
            && let Some(now) = Known::read(&self.proc_root, stack.pid)
        {
            let (script, n_asked) = (known.script.take(), known.n_asked);
            *known = Known { n_reads: known.n_reads + 1, script, n_asked, ..now };
            (found, end, _) = frames(known, &mut self.files, walk());
        }
        self.new_python = script(known, stack, end, &self.pythons, &mut found);
        told.extend(found);
        (stack.frames, stack.code) = self.share(&told);
        stack.end = end;
        (stack.copy, stack.pointers, stack.is_place) = (Bytes::new(), [0; 2], false);
        (stack.python, stack.python_end) = (Vec::new(), StackEnd::default());
    }
}

impl Resolver {
    /// The texts of frames and of where they are, the same ones where they were met before.
    fn share(&mut self, frames: &[Frame]) -> (Arc<str>, Arc<str>) {
        let text = frames_text(frames);
        let is_there = |known: &[Option<CodePlace>]| {
            // As many of the same texts: the places are those, but for files of one name.
            let same = |(frame, place): (&Frame, &Option<CodePlace>)| match (&frame.code, place) {
                (Some((file, address)), Some((other, at))) => Arc::ptr_eq(file, other) && address == at,
                (None, None) => true,
                _ => false,
            };
            known.len() == frames.len() && frames.iter().zip(known).all(same)
        };
        if let Some((shared, (places, code))) = self.texts.get_key_value(&text)
            && is_there(places)
        {
            return (shared.clone(), code.clone());
        }
        if self.texts.len() >= MAX_TEXTS {
            self.texts.clear();
        }
        let code = places_text(frames);
        let places = frames.iter().map(|frame| frame.code.clone()).collect();
        self.texts.insert(text.clone(), (places, code.clone()));
        (text, code)
    }
}

/// Where frames are, as it is recorded; empty if none is in a file.
fn places_text(frames: &[Frame]) -> Arc<str> {
    let mut files: Vec<&Arc<CodeFile>> = Vec::new();
    let mut at = Vec::with_capacity(frames.len());
    for frame in frames {
        at.push(frame.code.as_ref().map(|(file, address)| {
            let known = files.iter().position(|known| Arc::ptr_eq(known, file));
            let number = known.unwrap_or_else(|| {
                files.push(file);
                files.len() - 1
            });
            (number as u32, *address)
        }));
    }
    if files.is_empty() {
        return "".into();
    }
    let places = CodePlaces { files: files.into_iter().map(|file| CodeFile::clone(file)).collect(), at };
    serde_json::to_string(&places).unwrap_or_default().into()
}

/// Puts the functions of a script into the frames of a stack. Gives the process if they show an interpreter of which the kernel side does not know.
fn script(
    known: &mut Known,
    stack: &Stack,
    end: StackEnd,
    pythons: &Pythons,
    found: &mut Vec<Frame>,
) -> Option<u32> {
    if stack.python.is_empty() {
        let is_new = stack.kind != StackKind::Function
            && known.script.is_none()
            && known.n_asked < MAX_ASKED
            && found.iter().any(|frame| runs_script(frame.as_ref()));
        known.n_asked += u32::from(is_new);
        return is_new.then_some(stack.pid);
    }
    if known.script.is_none() {
        known.script = pythons.get(stack.pid).map(|python| Script::of(&known.process.dir, python));
    }
    if let Some(script) = &mut known.script {
        script.join(stack, end, found);
    }
    None
}

/// A walk from frame to frame.
struct Walk<'a> {
    stack: &'a Stack,
    addresses: &'a [u64],
    /// As long as all frames so far have frame pointers: the place of the next one's address among those that the kernel found by them.
    by_kernel: Option<usize>,
    /// The stack pointer and the frame pointer; `None`: not known, because it is beyond the copy.
    top: Option<u64>,
    frame: Option<u64>,
    replaced: &'a FxHashMap<Return, u64>,
}

impl Walk<'_> {
    /// What the copy of the stack holds at an address.
    fn word(&self, address: u64) -> Option<u64> {
        let at = usize::try_from(address.checked_sub(self.stack.pointers[0])?).ok()?;
        let bytes = self.stack.copy.get(at..at.checked_add(8)?)?;
        Some(u64::from_le_bytes(bytes.try_into().ok()?))
    }

    /// Where a function returns to whose return address stands there.
    fn returns_to(&self, address: u64) -> Option<u64> {
        let found = self.word(address)?;
        match found {
            abi::RETURN_PROBES.. => self.replaced.get(&(self.stack.pid, self.stack.tid, address)).copied(),
            found => Some(found),
        }
    }

    /// Goes on to the caller; gives where it goes on, or where the stack ends.
    fn step(&mut self, caller: Caller) -> Result<u64, StackEnd> {
        match caller {
            Caller::None => Err(StackEnd::Complete),
            Caller::Unknown => Err(StackEnd::UnknownCaller),
            Caller::FramePointer => {
                let frame = self.frame;
                self.top = frame.and_then(|frame| frame.checked_add(16));
                let found = frame.and_then(|frame| self.returns_to(frame.checked_add(8)?));
                self.frame = frame.and_then(|frame| self.word(frame));
                let Some(at) = self.by_kernel else { return found.ok_or(StackEnd::Truncated) };
                self.by_kernel = Some(at + 1);
                self.addresses.get(at).copied().ok_or(self.stack.end)
            }
            Caller::Below(Place { by_frame, offset, saved_frame }) => {
                self.by_kernel = None;
                let from = if by_frame { self.frame } else { self.top };
                let top = from.ok_or(StackEnd::Truncated)?.wrapping_add_signed(offset);
                let found = self.returns_to(top.wrapping_sub(8)).ok_or(StackEnd::Truncated)?;
                if let Some(saved) = saved_frame {
                    self.frame = self.word(top.wrapping_add_signed(saved));
                }
                self.top = Some(top);
                Ok(found)
            }
        }
    }
}

/// The frames, and where they end: each caller is where the tables of the code say. The flag: at an address that is no code.
fn frames(known: &mut Known, files: &mut CodeReader, mut walk: Walk<'_>) -> (Vec<Frame>, StackEnd, bool) {
    known.jit.iter_mut().for_each(JitMap::look_again);
    let mut found = Vec::new();
    let mut next = walk.addresses.first().copied().ok_or(StackEnd::UnknownCaller);
    let mut is_place = walk.stack.is_place;
    loop {
        let address = match next {
            Ok(address) => address,
            Err(end) => return (found, end, false),
        };
        if found.len() == abi::STACK_FRAMES {
            return (found, StackEnd::Truncated, false);
        }
        let Some((frame, caller)) = place(known, files, address, is_place) else {
            if found.is_empty() {
                found.push(Frame::nowhere(format!("{address:#x} ([unknown])")));
            }
            return (found, StackEnd::UnknownCaller, true);
        };
        found.push(frame);
        next = walk.step(caller);
        is_place = false;
    }
}

/// What stands at an address, and how that finds its caller; `None`: no code.
fn place(known: &mut Known, files: &mut CodeReader, address: u64, is_place: bool) -> Option<(Frame, Caller)> {
    if let Some((frame, caller)) = known.places.get(&(address, is_place)) {
        return Some((frame.clone(), *caller));
    }
    // Where something returns to is behind the call.
    let inside = if is_place { address } else { address.checked_sub(1)? };
    let area = known.area(inside)?;
    if let What::Other(name) = &known.areas[area].1
        && name != vdso::NAME
        && let Some(jit) = &mut known.jit
    {
        // Never remembered here: other code may stand there soon. What writes code keeps frame pointers.
        let text = match jit.around(inside) {
            Some((function, offset)) => Some(format!("{function}+{:#x} (jit)", offset + (address - inside))),
            // Compiled behind what was said last.
            None => (name.is_empty() && jit.has_said()).then(|| format!("{address:#x} (jit)")),
        };
        if let Some(text) = text {
            return Some((Frame::nowhere(text), Caller::FramePointer));
        }
    }
    let (range, what) = &known.areas[area];
    let mut at = None;
    let (text, caller) = match what {
        What::Other(name) if name == vdso::NAME => {
            let (place, behind) = (inside - range.start, address - inside);
            match vdso::code().and_then(|code| Some((code, code.address(place)?))) {
                Some((code, inside)) => (code.text(inside + behind, inside), code.caller(inside)),
                None => (format!("{address:#x} ({name})"), Caller::Unknown),
            }
        }
        What::Other(name) => {
            let name = if name.is_empty() { "[anon]" } else { name };
            (format!("{address:#x} ({name})"), Caller::Unknown)
        }
        What::File(file) => {
            let (place, behind) = (inside - range.start + range.offset, address - inside);
            let mapped = &known.process.files[*file];
            let code = known.codes.entry(*file).or_insert_with(|| files.slot(&known.process, mapped));
            let code = code.as_ref().and_then(|slot| slot.code());
            match code.and_then(|code| Some((code, code.address(place)?))) {
                Some((code, inside)) => {
                    at = Some((code.file.clone(), inside));
                    (code.text(inside + behind, inside), code.caller(inside))
                }
                None => {
                    let name = Path::new(&mapped.path).file_name().unwrap_or_default().to_string_lossy();
                    (format!("+{:#x} ({name})", place + behind), Caller::Unknown)
                }
            }
        }
    };
    if known.places.len() >= MAX_PLACES {
        known.places.clear();
    }
    let frame = Frame { text: text.into(), code: at };
    known.places.insert((address, is_place), (frame.clone(), caller));
    Some((frame, caller))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::uprobe::resolve::Code;

    fn resolved(addresses: &[u64], is_place: bool, end: StackEnd) -> (Vec<String>, StackEnd) {
        let mut resolver = Resolver::new(Path::new("/proc"), false);
        let pid = std::process::id();
        let stack = Stack { pid, addresses: addresses.to_vec(), is_place, end, ..Stack::default() };
        let [mut once, mut again] = [stack.clone(), stack];
        resolver.resolve(&mut once);
        resolver.resolve(&mut again);
        assert_eq!(once, again, "what is known is what was found");
        (serde_json::from_str(&once.frames).unwrap(), once.end)
    }

    #[inline(never)]
    fn function_of_this_test(n: u64) -> u64 {
        std::hint::black_box(n) + 1
    }

    #[test]
    fn a_place_has_the_name_of_its_function_and_its_file() {
        let address = function_of_this_test as fn(u64) -> u64 as usize as u64;
        let (frames, _) = resolved(&[address], true, StackEnd::Complete);
        let (name, file) = frames[0].split_once(" (").unwrap();
        assert!(name.ends_with("stacks::tests::function_of_this_test+0x0"), "{frames:?}");
        assert!(file.starts_with("tracer_user"), "{frames:?}");
    }

    #[test]
    fn what_is_no_code_ends_a_stack_and_of_a_process_that_is_gone_addresses_are_told() {
        assert_eq!(
            resolved(&[0x10, 0x20], false, StackEnd::Complete),
            (vec!["0x10 ([unknown])".to_owned()], StackEnd::UnknownCaller)
        );
        let mut stack = Stack { pid: u32::MAX, addresses: vec![0x10, 0x20], ..Stack::default() };
        Resolver::new(Path::new("/proc"), false).resolve(&mut stack);
        assert_eq!((&*stack.frames, stack.end), ("[\"0x10\",\"0x20\"]", StackEnd::Unresolved));
        assert_eq!(&*stack.code, "");
    }

    #[test]
    fn where_a_frame_is_in_its_file_is_told_beside_its_name() {
        let address = function_of_this_test as fn(u64) -> u64 as usize as u64;
        let pid = std::process::id();
        let mut stack = Stack { pid, addresses: vec![address], is_place: true, ..Stack::default() };
        stack.kernel = vec![u64::MAX];
        Resolver::new(Path::new("/proc"), false).resolve(&mut stack);
        let places: CodePlaces = serde_json::from_str(&stack.code).unwrap();
        let frames: Vec<String> = serde_json::from_str(&stack.frames).unwrap();
        assert_eq!((places.files.len(), places.at.len()), (1, frames.len()), "{frames:?} {places:?}");
        assert_eq!(places.at[0], None, "the kernel is no file");
        let own = std::env::current_exe().unwrap();
        assert_eq!(places.files[0].path, own.to_str().unwrap());
        // The same file says the same of the same address.
        let code = Code::read(&std::fs::File::open(&own).unwrap(), &own).unwrap();
        let (_, at) = places.at[1].unwrap();
        assert_eq!((code.text(at, at), &code.file.build_id), (frames[1].clone(), &places.files[0].build_id));
    }
}
