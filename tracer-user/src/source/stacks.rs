//! Call stacks: from addresses in a process to names, which are the same wherever they are read.
//!
//! A walk by frame pointers passes over callers that keep none, and goes astray in code that uses the register for something else. So what it found is shown only as far
//! as the tables of the code say that each function keeps a frame pointer where it calls: up to there it is what a debugger shows.

use std::{
    collections::VecDeque,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustc_hash::FxHashMap;

use crate::{
    event::{Stack, StackEnd},
    text::push_json,
    uprobe::{
        maps::{MappedFile, Range},
        process::Process,
        resolve::Code,
        unwind::Caller,
    },
};

/// Processes whose code is known; beyond it the one met first is looked at anew.
const MAX_PROCESSES: usize = 1024;
/// Files whose functions are known: some 40 bytes a function and their names; beyond it all are read anew.
const MAX_FILES: usize = 256;
/// Stacks of one process that are known; beyond it all are resolved anew. At most some 5 KB each.
const MAX_STACKS: usize = 1024;

/// A file as it is: another one may have its number later.
type FileKey = (u64, u64, u64, i64, i64);

/// Which stack: its addresses, whether the first is a place, how the walk ended.
type StackKey = (Vec<u64>, bool, StackEnd);

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
    codes: FxHashMap<usize, Option<Arc<Code>>>,
    stacks: FxHashMap<StackKey, (Arc<str>, StackEnd)>,
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
        // One that is ending has none.
        (!areas.is_empty()).then(|| Known {
            process,
            areas,
            codes: FxHashMap::default(),
            stacks: FxHashMap::default(),
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
    files: FxHashMap<FileKey, Option<Arc<Code>>>,
}

impl Resolver {
    /// Knows nothing yet. `proc_root` is `/proc`.
    pub fn new(proc_root: &Path) -> Resolver {
        Resolver {
            proc_root: proc_root.to_owned(),
            processes: FxHashMap::default(),
            order: VecDeque::new(),
            files: FxHashMap::default(),
        }
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
        let key = (std::mem::take(&mut stack.addresses), stack.is_place, stack.end);
        self.look(stack.pid);
        let is_known = |known: &Known| key.0.iter().all(|address| known.area(*address).is_some());
        match self.processes.get(&stack.pid) {
            Some(known) => {
                if let Some((frames, end)) = known.stacks.get(&key) {
                    (stack.frames, stack.end) = (frames.clone(), *end);
                    return;
                }
                // A library may have been loaded since.
                if !is_known(known)
                    && let Some(now) = Known::read(&self.proc_root, stack.pid)
                {
                    self.processes.insert(stack.pid, now);
                }
            }
            None => {
                let texts = key.0.iter().map(|address| format!("{address:#x}"));
                (stack.frames, stack.end) = (json(texts), StackEnd::Unresolved);
                return;
            }
        }
        let Some(known) = self.processes.get_mut(&stack.pid) else { return };
        let (texts, end) = frames(known, &mut self.files, &key);
        (stack.frames, stack.end) = (json(texts.into_iter()), end);
        if known.stacks.len() >= MAX_STACKS {
            known.stacks.clear();
        }
        known.stacks.insert(key, (stack.frames.clone(), stack.end));
    }
}

/// The frames that are certain, and where they end.
fn frames(
    known: &mut Known,
    files: &mut FxHashMap<FileKey, Option<Arc<Code>>>,
    (addresses, is_place, end): &StackKey,
) -> (Vec<String>, StackEnd) {
    let mut texts = Vec::new();
    for (i, address) in addresses.iter().enumerate() {
        // Where something returns to is behind the call.
        let inside = if i == 0 && *is_place { *address } else { address.saturating_sub(1) };
        let Some(area) = known.area(inside) else {
            // No code: what was taken for a frame pointer was none.
            if i == 0 {
                texts.push(format!("{address:#x} ([unknown])"));
            }
            return (texts, StackEnd::NoFramePointer);
        };
        let (range, what) = &known.areas[area];
        let file = match what {
            What::File(file) => *file,
            What::Other(name) => {
                let name = if name.is_empty() { "[anon]" } else { name };
                texts.push(format!("{address:#x} ({name})"));
                return (texts, StackEnd::NoFramePointer);
            }
        };
        let offset = |at: u64| at - range.start + range.offset;
        let (place, behind) = (offset(inside), address.wrapping_sub(inside));
        let mapped = &known.process.files[file];
        let code = known.codes.entry(file).or_insert_with(|| read(&known.process, mapped, files));
        let inside = code.as_ref().and_then(|code| Some((code, code.address(place)?)));
        let Some((code, inside)) = inside else {
            let name = Path::new(&mapped.path).file_name().unwrap_or_default().to_string_lossy();
            texts.push(format!("+{:#x} ({name})", place + behind));
            return (texts, StackEnd::NoFramePointer);
        };
        texts.push(code.text(inside + behind, inside));
        match code.caller(inside) {
            Caller::FramePointer => {}
            Caller::None => return (texts, StackEnd::Complete),
            Caller::Otherwise | Caller::Unknown => return (texts, StackEnd::NoFramePointer),
        }
    }
    (texts, *end)
}

/// What is known of the code of a process's file.
fn read(
    process: &Process,
    mapped: &MappedFile,
    files: &mut FxHashMap<FileKey, Option<Arc<Code>>>,
) -> Option<Arc<Code>> {
    let opened = process.open(mapped).ok()?;
    let metadata = opened.file.metadata().ok()?;
    let key = (metadata.dev(), metadata.ino(), metadata.len(), metadata.mtime(), metadata.mtime_nsec());
    if files.len() >= MAX_FILES && !files.contains_key(&key) {
        files.clear();
    }
    files
        .entry(key)
        .or_insert_with(|| Code::read(&opened.file, Path::new(&mapped.path)).ok().map(Arc::new))
        .clone()
}

fn json(texts: impl Iterator<Item = String>) -> Arc<str> {
    let mut out = vec![b'['];
    for (i, text) in texts.enumerate() {
        if i > 0 {
            out.push(b',');
        }
        push_json(&mut out, &text);
    }
    out.push(b']');
    String::from_utf8_lossy(&out).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(addresses: &[u64], is_place: bool, end: StackEnd) -> (Vec<String>, StackEnd) {
        let mut resolver = Resolver::new(Path::new("/proc"));
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
        let (frames, _) = resolved(&[address + 1], true, StackEnd::Complete);
        let (name, file) = frames[0].split_once(" (").unwrap();
        assert!(name.ends_with("stacks::tests::function_of_this_test+0x1"), "{frames:?}");
        assert!(file.starts_with("tracer_user"), "{frames:?}");
    }

    #[test]
    fn what_is_no_code_ends_a_stack_and_of_a_process_that_is_gone_addresses_are_told() {
        assert_eq!(
            resolved(&[0x10, 0x20], false, StackEnd::Complete),
            (vec!["0x10 ([unknown])".to_owned()], StackEnd::NoFramePointer)
        );
        let mut stack = Stack { pid: u32::MAX, addresses: vec![0x10, 0x20], ..Stack::default() };
        Resolver::new(Path::new("/proc")).resolve(&mut stack);
        assert_eq!((&*stack.frames, stack.end), ("[\"0x10\",\"0x20\"]", StackEnd::Unresolved));
    }
}
