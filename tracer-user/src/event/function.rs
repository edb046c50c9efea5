//! Calls of probed functions: what the kernel tells of them, and what a function's values mean.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tracer_ebpf as abi;

use super::DecodeError;
use crate::{text::data_text, text::push_json, time::BootTime};

/// What a probed function is called, and how its values are read. Made by the source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionFacts {
    /// When it was looked up.
    pub time: BootTime,
    /// Its number in this run: what its probes are told apart by.
    pub function: u32,
    /// As its author wrote it: the operation of its calls.
    pub name: Arc<str>,
    /// What is probed: the file, and the name or address in it.
    pub place: Arc<str>,
    /// Its arguments, as far as they were asked for.
    pub arguments: Vec<Argument>,
    /// What it returns, if that was asked for.
    pub returned: Option<ValueKind>,
    /// A place that is passed, and no call with an end.
    pub is_mark: bool,
    /// Its end is seen by a return probe, of which the kernel keeps [`FunctionFacts::MAX_RETURN_PROBES`] for a thread.
    pub by_return_probe: bool,
    /// Its entry is passed again when Go's stack grows.
    pub restarts: bool,
    /// From which duration on its calls have a stack, ns; 0 = all have. `None`: nobody asked.
    #[serde(default)]
    pub stack_ns: Option<u64>,
}

impl FunctionFacts {
    /// `MAX_URETPROBE_DEPTH` (include/linux/uprobes.h): calls deeper than this have no return probe.
    pub const MAX_RETURN_PROBES: usize = 64;
}

/// Where an argument is, and what it means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Argument {
    /// Number of its register in [`FunctionEnter::registers`].
    pub register: u8,
    /// What it means.
    pub kind: ValueKind,
}

/// What a register means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ValueKind {
    /// A number with a sign, of so many bytes.
    Signed(u8),
    /// A number without a sign, of so many bytes.
    Unsigned(u8),
    /// True or false.
    Bool,
    /// An address.
    Pointer,
    /// A text: its place among the texts of the call.
    Text(u8),
}

impl ValueKind {
    /// Appends the value as JSON; `null` for a text that was not read.
    pub fn push_json(self, out: &mut Vec<u8>, register: u64, text: Option<&[u8]>) {
        use std::io::Write as _;
        let shift = |bytes: u8| 64 - 8 * u32::from(bytes.clamp(1, 8));
        // Writing to a Vec cannot fail.
        let _ = match self {
            ValueKind::Signed(bytes) => {
                write!(out, "{}", (register << shift(bytes)).cast_signed() >> shift(bytes))
            }
            ValueKind::Unsigned(bytes) => write!(out, "{}", (register << shift(bytes)) >> shift(bytes)),
            ValueKind::Bool => write!(out, "{}", register & 0xff != 0),
            ValueKind::Pointer => write!(out, "\"{register:#x}\""),
            ValueKind::Text(_) => match text {
                Some(text) => {
                    push_json(out, &data_text(text));
                    Ok(())
                }
                None => write!(out, "null"),
            },
        };
    }
}

/// A probed function begins, or a place in it is passed. See [`tracer_ebpf::FunctionEnter`] for the meaning of each field.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionEnter {
    /// When.
    pub time: BootTime,
    /// Number among the records of its thread.
    pub number: u64,
    /// Where the return address stands.
    pub stack: u64,
    /// Go: the goroutine.
    pub goroutine: u64,
    /// Where it returns to; 0 = not known.
    pub caller: u64,
    /// Registers, in the order of the calling convention.
    pub registers: [u64; abi::FUNCTION_REGISTERS],
    /// A bit for each of them that could not be read.
    pub unread: u16,
    /// Texts; `None`: not read.
    pub texts: Vec<Option<Bytes>>,
    /// Which function.
    pub function: u32,
    /// Process.
    pub pid: u32,
    /// Thread.
    pub tid: u32,
    /// Thread name, zero-padded.
    pub comm: [u8; 16],
}

impl FunctionEnter {
    /// Whether it returns into the kernel's page for return probes, which is the last of a process's memory: another function that has such a probe has
    /// jumped to it.
    pub fn is_jumped_to(&self) -> bool {
        self.caller >= abi::RETURN_PROBES
    }

    pub(super) fn decode(raw: &abi::FunctionEnter, record: &Bytes) -> Result<FunctionEnter, DecodeError> {
        let mut texts = Vec::new();
        let n_texts = (raw.n_texts as usize).min(abi::FUNCTION_TEXTS);
        for (i, length) in raw.text_lengths.iter().take(n_texts).enumerate() {
            let start = size_of::<abi::FunctionEnter>() + i * abi::FUNCTION_TEXT_BYTES;
            texts.push(text_at(record, start, *length)?);
        }
        Ok(FunctionEnter {
            time: BootTime(raw.header.time_ns),
            number: raw.number,
            stack: raw.stack,
            goroutine: raw.goroutine,
            caller: raw.caller,
            registers: raw.registers,
            unread: raw.header.flags,
            texts,
            function: raw.function,
            pid: raw.pid,
            tid: raw.tid,
            comm: raw.comm,
        })
    }
}

/// A probed function returns. See [`tracer_ebpf::FunctionReturn`] for the meaning of each field.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionReturn {
    /// When.
    pub time: BootTime,
    /// Number among the records of its thread.
    pub number: u64,
    /// Where the return address stands or stood.
    pub stack: u64,
    /// Go: the goroutine.
    pub goroutine: u64,
    /// What it returns.
    pub value: u64,
    /// The text that it returns; `None`: it is none, or was not read.
    pub text: Option<Bytes>,
    /// Which function.
    pub function: u32,
    /// Process.
    pub pid: u32,
    /// Thread.
    pub tid: u32,
    /// `abi::FLAG_*`.
    pub flags: u16,
}

impl FunctionReturn {
    pub(super) fn decode(raw: &abi::FunctionReturn, record: &Bytes) -> Result<FunctionReturn, DecodeError> {
        Ok(FunctionReturn {
            time: BootTime(raw.header.time_ns),
            number: raw.number,
            stack: raw.stack,
            goroutine: raw.goroutine,
            value: raw.value,
            text: text_at(record, size_of::<abi::FunctionReturn>(), raw.text_length)?,
            function: raw.function,
            pid: raw.pid,
            tid: raw.tid,
            flags: raw.header.flags,
        })
    }
}

/// A text of a record. Copied: a slice would keep its whole batch in memory for as long as the call lasts.
fn text_at(record: &Bytes, start: usize, length: u16) -> Result<Option<Bytes>, DecodeError> {
    if length == abi::NO_TEXT {
        return Ok(None);
    }
    let end = start + usize::from(length).min(abi::FUNCTION_TEXT_BYTES);
    match record.get(start..end) {
        Some(text) => Ok(Some(Bytes::copy_from_slice(text))),
        None => Err(DecodeError::Short { have: record.len(), need: end }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_wide_as_they_are() {
        let json = |kind: ValueKind, register| {
            let mut out = Vec::new();
            kind.push_json(&mut out, register, Some(b"a\"\xff"));
            String::from_utf8(out).unwrap()
        };
        assert_eq!(json(ValueKind::Signed(4), 0xdead_beef_ffff_ffff), "-1");
        assert_eq!(json(ValueKind::Unsigned(4), 0xdead_beef_ffff_ffff), "4294967295");
        assert_eq!(json(ValueKind::Signed(8), u64::MAX), "-1");
        assert_eq!(json(ValueKind::Unsigned(8), u64::MAX), "18446744073709551615");
        assert_eq!(json(ValueKind::Signed(1), 0x180), "-128");
        assert_eq!(json(ValueKind::Bool, 0xff00), "false");
        assert_eq!(json(ValueKind::Pointer, 0x10), "\"0x10\"");
        assert_eq!(json(ValueKind::Text(0), 0), "\"a\\\"\\\\xff\"");
    }
}
