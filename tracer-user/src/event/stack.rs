//! Call stacks: who called what a thread runs.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tracer_ebpf as abi;

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
    /// Where it ends.
    pub end: StackEnd,
    /// As the kernel found them; empty when they are resolved.
    #[serde(skip)]
    pub addresses: Vec<u64>,
    /// The first address is a place and not one to which a call returns.
    #[serde(skip)]
    pub is_place: bool,
    /// The stack pointer, and the frame pointer, where the first address is reached.
    #[serde(skip)]
    pub pointers: [u64; 2],
    /// The stack from there on. Never recorded.
    #[serde(skip)]
    pub copy: Bytes,
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
        let n = (raw.n_addresses as usize).min(abi::STACK_FRAMES);
        let start = size_of::<abi::Stack>();
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
            end: match raw.end {
                abi::STACK_END_WHOLE => StackEnd::Complete,
                abi::STACK_END_LIMIT => StackEnd::Truncated,
                abi::STACK_END_FAULT => StackEnd::Unreadable,
                _ => StackEnd::UnknownCaller,
            },
            addresses: words.iter().map(|word| u64::from_le_bytes(*word)).collect(),
            is_place: raw.header.flags & abi::STACK_FLAG_PLACE != 0,
            pointers: [raw.stack, raw.frame],
            copy,
        })
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
        // With a copy of the stack, which stands behind the room for all addresses.
        let raw = abi::Stack { n_bytes: 3, ..raw };
        assert!(Stack::decode(&raw, &record.clone().into()).is_err());
        record.resize(size_of::<abi::Stack>() + 8 * abi::STACK_FRAMES, 0);
        record.extend_from_slice(b"abc");
        assert_eq!(Stack::decode(&raw, &record.into()).unwrap().copy, "abc");
    }

    #[test]
    fn ends_are_read_as_they_are_written() {
        for end in StackEnd::ALL {
            assert_eq!(StackEnd::parse(end.as_str()), Some(end));
            assert_eq!(StackEnd::from_number(end.number()), Some(end));
        }
        assert_eq!(StackEnd::from_number(99), None);
    }
}
