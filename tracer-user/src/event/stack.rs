//! Call stacks: who called what a thread runs.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tracer_ebpf as abi;

pub use crate::uprobe::resolve::CodeFile;

use super::DecodeError;
use crate::time::BootTime;

/// A call stack. The kernel tells addresses, the source resolves them: only names are recorded, which are the same
/// wherever they are read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stack {
    /// That of the record that it belongs to.
    pub time: BootTime,
    /// Number of that record among those of its thread.
    pub number: u64,
    /// Process.
    pub pid: u32,
    /// Thread.
    pub tid: u32,
    /// What was called from where, the innermost first, as a JSON array of texts: `function+0x12 (file)`, `+0x1234 (file)` where no function is known.
    pub frames: Arc<str>,
    /// Where in which files those of `frames` are that are in files, as [`CodePlaces`]; empty if none is. So that names can be found later, elsewhere.
    #[serde(skip)]
    pub code: Arc<str>,
    /// Where it ends.
    pub end: StackEnd,
    /// What it belongs to.
    #[serde(skip)]
    pub kind: StackKind,
    /// Every request keeps its stacks, and not only those that are slow, failed or among some of the others.
    #[serde(skip)]
    pub is_kept: bool,
    /// Of the kernel, as it found them; empty when they are resolved.
    #[serde(skip)]
    pub kernel: Vec<u64>,
    /// As the kernel found them; empty when they are resolved.
    #[serde(skip)]
    pub addresses: Vec<u64>,
    /// The first address is a place and not one to which a call returns.
    #[serde(skip)]
    pub is_place: bool,
    /// The stack pointer, and the frame pointer, where the first address is reached.
    #[serde(skip)]
    pub pointers: [u64; 2],
    /// Heads of frames of Python; empty when they are resolved.
    #[serde(skip)]
    pub python: Vec<[u64; abi::PYTHON_FRAME_WORDS]>,
    /// Where those end.
    #[serde(skip)]
    pub python_end: StackEnd,
    /// The stack from there on. Never recorded.
    #[serde(skip)]
    pub copy: Bytes,
}

/// Where the frames of a stack are: recorded as JSON, `{"files":[{"path":"/usr/bin/app","build_id":"1f…"}],"at":[null,[0,4660]]}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CodePlaces {
    /// The files that they are in.
    pub files: Vec<CodeFile>,
    /// Of each frame the number of its file, and the address of the instruction that was met there (of a caller: of the last byte of its call), as the file
    /// has it, before relocation. None: in no file.
    pub at: Vec<Option<(u32, u64)>>,
}

/// What a stack belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum StackKind {
    /// A call of a function.
    #[default]
    Function,
    /// A moment ([`abi::SAMPLE_PERIOD_NS`]) of a thread that serves, on a CPU.
    Sample,
    /// A time off the CPU, by its number ([`super::OffCpu::number`]).
    Wait,
}

impl StackKind {
    const ALL: [StackKind; 3] = [StackKind::Function, StackKind::Sample, StackKind::Wait];

    /// The number in recordings.
    pub fn number(self) -> u32 {
        self as u32
    }

    /// The reverse of [`StackKind::number`].
    pub fn from_number(number: u32) -> Option<StackKind> {
        StackKind::ALL.into_iter().find(|kind| kind.number() == number)
    }
}

/// Where a stack ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum StackEnd {
    /// At the beginning of the thread or goroutine.
    Complete,
    /// Behind as many frames as are told, or where the copy of the stack ends.
    Truncated,
    /// At code of which nothing says how it finds its caller.
    #[default]
    UnknownCaller,
    /// Where memory could not be read.
    Unreadable,
    /// Nowhere: what the process runs could not be read any more. Its addresses are told as they are.
    Unresolved,
}

impl StackEnd {
    const ALL: [StackEnd; 5] = [
        StackEnd::Complete,
        StackEnd::Truncated,
        StackEnd::UnknownCaller,
        StackEnd::Unreadable,
        StackEnd::Unresolved,
    ];

    /// The text in JSON, Parquet and filters.
    pub fn as_str(self) -> &'static str {
        match self {
            StackEnd::Complete => "complete",
            StackEnd::Truncated => "truncated",
            StackEnd::UnknownCaller => "unknown_caller",
            StackEnd::Unreadable => "unreadable",
            StackEnd::Unresolved => "unresolved",
        }
    }

    /// The reverse of [`StackEnd::as_str`].
    pub fn parse(text: &str) -> Option<StackEnd> {
        StackEnd::ALL.into_iter().find(|end| end.as_str() == text)
    }

    /// The number in recordings.
    pub fn number(self) -> u16 {
        self as u16
    }

    /// The reverse of [`StackEnd::number`].
    pub fn from_number(number: u16) -> Option<StackEnd> {
        StackEnd::ALL.into_iter().find(|end| end.number() == number)
    }
}

impl Stack {
    pub(super) fn decode(raw: &abi::Stack, record: &Bytes) -> Result<Stack, DecodeError> {
        let kind = match raw.header.flags {
            flags if flags & abi::STACK_FLAG_SAMPLE != 0 => StackKind::Sample,
            flags if flags & abi::STACK_FLAG_WAIT != 0 => StackKind::Wait,
            _ => StackKind::Function,
        };
        let start = size_of::<abi::Stack>();
        let room = if raw.header.flags & abi::STACK_FLAG_PYTHON != 0 { abi::PYTHON_FRAMES } else { 0 };
        let need = start + PYTHON_HEAD * (raw.n_python as usize).min(room);
        let python = record.get(start..need).ok_or(DecodeError::Short { have: record.len(), need })?;
        let python = python.as_chunks::<PYTHON_HEAD>().0.iter().map(head).collect();
        let start = start + PYTHON_HEAD * room;
        let room = if kind == StackKind::Function { 0 } else { 8 * abi::STACK_KERNEL_FRAMES };
        let need = start + 8 * (raw.n_kernel as usize).min(room / 8);
        let kernel =
            record.get(start..need).ok_or(DecodeError::Short { have: record.len(), need })?.as_chunks::<8>();
        let kernel = kernel.0.iter().map(|word| u64::from_le_bytes(*word)).collect();
        let n = (raw.n_addresses as usize).min(abi::STACK_FRAMES);
        let start = start + room;
        let need = start + 8 * n;
        let bytes = record.get(start..need).ok_or(DecodeError::Short { have: record.len(), need })?;
        let (words, _) = bytes.as_chunks::<8>();
        let start = start + 8 * abi::STACK_FRAMES;
        let need = start + (raw.n_bytes as usize).min(abi::STACK_BYTES);
        let copy = match raw.n_bytes {
            0 => Bytes::new(),
            // A slice of its batch: it is read at once.
            _ if record.len() >= need => record.slice(start..need),
            _ => return Err(DecodeError::Short { have: record.len(), need }),
        };
        Ok(Stack {
            time: BootTime(raw.header.time_ns),
            number: raw.number,
            pid: raw.pid,
            tid: raw.tid,
            frames: "[]".into(),
            code: "".into(),
            end: end(raw.end),
            kind,
            is_kept: false,
            kernel,
            addresses: words.iter().map(|word| u64::from_le_bytes(*word)).collect(),
            is_place: raw.header.flags & abi::STACK_FLAG_PLACE != 0,
            pointers: [raw.stack, raw.frame],
            python,
            python_end: end(raw.python_end),
            copy,
        })
    }
}

/// Bytes of the head of a frame of Python.
const PYTHON_HEAD: usize = 8 * abi::PYTHON_FRAME_WORDS;

fn head(bytes: &[u8; PYTHON_HEAD]) -> [u64; abi::PYTHON_FRAME_WORDS] {
    let (words, _) = bytes.as_chunks::<8>();
    std::array::from_fn(|at| u64::from_le_bytes(words[at]))
}

fn end(raw: u32) -> StackEnd {
    match raw {
        abi::STACK_END_WHOLE => StackEnd::Complete,
        abi::STACK_END_LIMIT => StackEnd::Truncated,
        abi::STACK_END_FAULT => StackEnd::Unreadable,
        _ => StackEnd::UnknownCaller,
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::IntoBytes as _;

    use super::*;

    #[test]
    fn a_record_holds_as_many_addresses_as_it_says_and_a_short_one_none() {
        let mut raw = abi::Stack { n_addresses: 2, end: abi::STACK_END_WHOLE, ..abi::Stack::default() };
        raw.header.flags = abi::STACK_FLAG_PLACE;
        let mut record = raw.as_bytes().to_vec();
        record.extend_from_slice(&7_u64.to_le_bytes());
        assert!(Stack::decode(&raw, &record.clone().into()).is_err());
        record.extend_from_slice(&9_u64.to_le_bytes());
        let stack = Stack::decode(&raw, &record.clone().into()).unwrap();
        assert_eq!((stack.addresses, stack.end, stack.is_place), (vec![7, 9], StackEnd::Complete, true));
        // With those of the kernel, whose room stands before.
        let raw = abi::Stack { n_kernel: 1, ..raw };
        let mut sample = abi::Stack { n_addresses: 1, ..raw };
        sample.header.flags |= abi::STACK_FLAG_SAMPLE;
        let mut with_kernel = sample.as_bytes().to_vec();
        with_kernel.extend_from_slice(&5_u64.to_le_bytes());
        with_kernel.resize(size_of::<abi::Stack>() + 8 * abi::STACK_KERNEL_FRAMES, 0);
        assert!(Stack::decode(&sample, &with_kernel.clone().into()).is_err());
        with_kernel.extend_from_slice(&7_u64.to_le_bytes());
        let stack = Stack::decode(&sample, &with_kernel.clone().into()).unwrap();
        assert_eq!((stack.kind, stack.kernel, stack.addresses), (StackKind::Sample, vec![5], vec![7]));
        // With frames of Python, whose room stands before both.
        let mut python = abi::Stack { n_python: 1, python_end: abi::STACK_END_WHOLE, ..sample };
        python.header.flags |= abi::STACK_FLAG_PYTHON;
        let mut with_python = python.as_bytes().to_vec();
        (1..=9_u64).for_each(|word| with_python.extend_from_slice(&word.to_le_bytes()));
        with_python.resize(size_of::<abi::Stack>() + PYTHON_HEAD * abi::PYTHON_FRAMES, 0);
        assert!(Stack::decode(&python, &with_python.clone().into()).is_err());
        with_python.extend_from_slice(&with_kernel[size_of::<abi::Stack>()..]);
        let stack = Stack::decode(&python, &with_python.into()).unwrap();
        assert_eq!((stack.python, stack.python_end), (vec![[1, 2, 3, 4, 5, 6, 7, 8, 9]], StackEnd::Complete));
        assert_eq!((stack.kernel, stack.addresses), (vec![5], vec![7]));
        // With a copy of the stack, which stands behind the room for all addresses.
        let raw = abi::Stack { n_bytes: 3, ..raw };
        assert!(Stack::decode(&raw, &record.clone().into()).is_err());
        record.resize(size_of::<abi::Stack>() + 8 * abi::STACK_FRAMES, 0);
        record.extend_from_slice(b"abc");
        assert_eq!(Stack::decode(&raw, &record.into()).unwrap().copy, "abc");
    }

    #[test]
    fn ends_are_read_as_they_are_written() {
        assert!(StackKind::ALL.into_iter().all(|kind| StackKind::from_number(kind.number()) == Some(kind)));
        assert_eq!(StackKind::from_number(3), None);
        for end in StackEnd::ALL {
            assert_eq!(StackEnd::parse(end.as_str()), Some(end));
            assert_eq!(StackEnd::from_number(end.number()), Some(end));
        }
        assert_eq!(StackEnd::from_number(99), None);
    }
}
