//! What the columns of `events` do not hold: the `payload` of the kinds other than `data`, little-endian or JSON.

use std::sync::Arc;

use arrow_array::{ArrayRef, BinaryArray, RecordBatch};
use arrow_buffer::{Buffer, OffsetBuffer, ScalarBuffer};
use bytes::{Buf as _, BufMut as _, Bytes};
use tracer_ebpf as abi;
use zerocopy::{FromBytes as _, IntoBytes as _};

use super::Fault;
use crate::{
    event::{
        ConnId, Data, Datagram, FunctionEnter, FunctionReturn, OffCpu, ProcessChange, Retransmit, Role, Stack,
    },
    time::BootTime,
};

/// A blob that does not hold what its kind says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BadBlob;

/// The part of an open that has no column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OpenBlob {
    pub role: Role,
    pub netns: u32,
    pub inode: u64,
    pub tuple: abi::Tuple,
    pub unix_path: Bytes,
}

impl OpenBlob {
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.put_u8(match self.role {
            Role::Unknown => abi::ROLE_UNKNOWN,
            Role::Client => abi::ROLE_CLIENT,
            Role::Server => abi::ROLE_SERVER,
        });
        out.put_u32_le(self.netns);
        out.put_u64_le(self.inode);
        out.put_slice(self.tuple.as_bytes());
        out.put_slice(&self.unix_path);
    }

    pub(super) fn read(mut bytes: Bytes) -> Result<OpenBlob, BadBlob> {
        let role = match bytes.try_get_u8().map_err(|_| BadBlob)? {
            abi::ROLE_UNKNOWN => Role::Unknown,
            abi::ROLE_CLIENT => Role::Client,
            abi::ROLE_SERVER => Role::Server,
            _ => return Err(BadBlob),
        };
        let netns = bytes.try_get_u32_le().map_err(|_| BadBlob)?;
        let inode = bytes.try_get_u64_le().map_err(|_| BadBlob)?;
        let (tuple, _) = abi::Tuple::read_from_prefix(&bytes).map_err(|_| BadBlob)?;
        bytes.advance(size_of::<abi::Tuple>());
        Ok(OpenBlob { role, netns, inode, tuple, unix_path: bytes })
    }
}

/// The part of a datagram that has no column, before its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DatagramBlob {
    pub tuple: abi::Tuple,
    pub netns: u32,
}

impl DatagramBlob {
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.put_slice(self.tuple.as_bytes());
        out.put_u32_le(self.netns);
    }

    /// And the payload behind it.
    pub(super) fn read(mut bytes: Bytes) -> Result<(DatagramBlob, Bytes), BadBlob> {
        let (tuple, _) = abi::Tuple::read_from_prefix(&bytes).map_err(|_| BadBlob)?;
        bytes.advance(size_of::<abi::Tuple>());
        let netns = bytes.try_get_u32_le().map_err(|_| BadBlob)?;
        Ok((DatagramBlob { tuple, netns }, bytes))
    }
}

/// The part of an open of clear text that has no column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TlsBlob {
    pub carrier: ConnId,
    pub library: u16,
    pub link: u16,
}

impl TlsBlob {
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.put_u64_le(self.carrier.0);
        out.put_u16_le(self.library);
        out.put_u16_le(self.link);
    }

    pub(super) fn read(mut bytes: &[u8]) -> Result<TlsBlob, BadBlob> {
        if bytes.len() != 12 {
            return Err(BadBlob);
        }
        Ok(TlsBlob {
            carrier: ConnId(bytes.get_u64_le()),
            library: bytes.get_u16_le(),
            link: bytes.get_u16_le(),
        })
    }
}

/// The texts of a stack: its frames and, behind a zero, where they are in files; without both in recordings of before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StackBlob {
    pub frames: Arc<str>,
    pub code: Arc<str>,
}

impl StackBlob {
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.put_slice(self.frames.as_bytes());
        if !self.code.is_empty() {
            out.put_u8(0);
            out.put_slice(self.code.as_bytes());
        }
    }

    pub(super) fn read(bytes: &[u8]) -> Result<StackBlob, BadBlob> {
        let text = std::str::from_utf8(bytes).map_err(|_| BadBlob)?;
        // JSON has no zero of its own.
        let (frames, code) = text.split_once('\0').unwrap_or((text, ""));
        Ok(StackBlob { frames: frames.into(), code: code.into() })
    }
}

/// The part of a function's entry that has no column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct EnterBlob {
    pub goroutine: u64,
    pub caller: u64,
    pub registers: [u64; abi::FUNCTION_REGISTERS],
    pub texts: Vec<Option<Bytes>>,
}

impl EnterBlob {
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.put_u64_le(self.goroutine);
        out.put_u64_le(self.caller);
        self.registers.iter().for_each(|register| out.put_u64_le(*register));
        self.texts.iter().for_each(|text| put_text(out, text.as_ref()));
    }

    pub(super) fn read(mut bytes: Bytes) -> Result<EnterBlob, BadBlob> {
        let goroutine = bytes.try_get_u64_le().map_err(|_| BadBlob)?;
        let caller = bytes.try_get_u64_le().map_err(|_| BadBlob)?;
        let mut registers = [0; abi::FUNCTION_REGISTERS];
        for register in &mut registers {
            *register = bytes.try_get_u64_le().map_err(|_| BadBlob)?;
        }
        let mut texts = Vec::new();
        while !bytes.is_empty() {
            texts.push(get_text(&mut bytes)?);
        }
        Ok(EnterBlob { goroutine, caller, registers, texts })
    }
}

/// The part of a function's return that has no column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ReturnBlob {
    pub goroutine: u64,
    pub value: u64,
    pub text: Option<Bytes>,
}

impl ReturnBlob {
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.put_u64_le(self.goroutine);
        out.put_u64_le(self.value);
        put_text(out, self.text.as_ref());
    }

    pub(super) fn read(mut bytes: Bytes) -> Result<ReturnBlob, BadBlob> {
        let goroutine = bytes.try_get_u64_le().map_err(|_| BadBlob)?;
        let value = bytes.try_get_u64_le().map_err(|_| BadBlob)?;
        Ok(ReturnBlob { goroutine, value, text: get_text(&mut bytes)? })
    }
}

/// A length, [`abi::NO_TEXT`] for none, and the text.
fn put_text(out: &mut Vec<u8>, text: Option<&Bytes>) {
    match text {
        Some(text) => {
            let length = text.len().min(abi::FUNCTION_TEXT_BYTES);
            out.put_u16_le(length as u16);
            out.put_slice(&text[..length]);
        }
        None => out.put_u16_le(abi::NO_TEXT),
    }
}

fn get_text(bytes: &mut Bytes) -> Result<Option<Bytes>, BadBlob> {
    match bytes.try_get_u16_le().map_err(|_| BadBlob)? {
        abi::NO_TEXT => Ok(None),
        length if bytes.len() >= usize::from(length) => Ok(Some(bytes.split_to(usize::from(length)))),
        _ => Err(BadBlob),
    }
}

/// The part of a close that has no column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CloseBlob {
    pub position: [u64; 2],
    pub reason: u32,
    pub n_refused: u32,
}

impl CloseBlob {
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.put_u64_le(self.position[0]);
        out.put_u64_le(self.position[1]);
        out.put_u32_le(self.reason);
        out.put_u32_le(self.n_refused);
    }

    pub(super) fn read(mut bytes: &[u8]) -> Result<CloseBlob, BadBlob> {
        if bytes.len() != 24 {
            return Err(BadBlob);
        }
        Ok(CloseBlob {
            position: [bytes.get_u64_le(), bytes.get_u64_le()],
            reason: bytes.get_u32_le(),
            n_refused: bytes.get_u32_le(),
        })
    }
}

/// The part of a process event that has no column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ProcessBlob {
    pub change: ProcessChange,
    pub parent_pid: u32,
    pub exit_code: u32,
}

impl ProcessBlob {
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.put_u8(match self.change {
            ProcessChange::Start => 0,
            ProcessChange::Exec => 1,
            ProcessChange::Exit => 2,
        });
        out.put_u32_le(self.parent_pid);
        out.put_u32_le(self.exit_code);
    }

    pub(super) fn read(mut bytes: &[u8]) -> Result<ProcessBlob, BadBlob> {
        if bytes.len() != 9 {
            return Err(BadBlob);
        }
        Ok(ProcessBlob {
            change: match bytes.get_u8() {
                0 => ProcessChange::Start,
                1 => ProcessChange::Exec,
                2 => ProcessChange::Exit,
                _ => return Err(BadBlob),
            },
            parent_pid: bytes.get_u32_le(),
            exit_code: bytes.get_u32_le(),
        })
    }
}

/// A column of bytes that is being built.
#[derive(Debug)]
pub(super) struct BytesColumn {
    pub(super) ends: Vec<i32>,
    /// All values so far, and the beginning of the next.
    pub(super) bytes: Vec<u8>,
}

impl BytesColumn {
    pub(super) fn with_capacity(rows: usize, bytes: usize) -> Self {
        let mut ends = Vec::with_capacity(rows + 1);
        ends.push(0);
        BytesColumn { ends, bytes: Vec::with_capacity(bytes) }
    }

    /// Ends a value whose bytes were appended.
    pub(super) fn end(&mut self) {
        // INVARIANT: `EventRows::is_full` keeps a batch below `MAX_BATCH_BYTES` plus one value, far below 2^31.
        self.ends.push(self.bytes.len() as i32);
    }

    pub(super) fn finish(self) -> BinaryArray {
        // INVARIANT: `ends` begins with 0 and never falls.
        BinaryArray::new(OffsetBuffer::new(ScalarBuffer::from(self.ends)), Buffer::from_vec(self.bytes), None)
    }
}

/// Memory of a column, shared with the payloads that are slices of it.
pub(super) struct Shared(pub(super) Buffer);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        self.0.as_slice()
    }
}

/// Appends a plain value as JSON.
pub(super) fn push_json(out: &mut Vec<u8>, value: &impl serde::Serialize) {
    // INVARIANT: the types are plain structs of numbers and strings, and a Vec takes every write.
    serde_json::to_writer(out, value).expect("plain structs serialise");
}

/// A column by name.
pub(super) fn column<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a ArrayRef, Fault> {
    let array =
        batch.column_by_name(name).ok_or_else(|| Fault::Damaged(format!("column {name} is missing")))?;
    Ok(array)
}

/// The fault of a column that holds something else.
pub(super) fn wrong_type(name: &str) -> Fault {
    Fault::Damaged(format!("column {name} is of another type"))
}

/// What a row has in its columns; all else 0.
#[derive(Clone, Copy, Default)]
pub(super) struct Cells {
    pub(super) conn: u64,
    pub(super) entry: Option<i64>,
    pub(super) waited: Option<i64>,
    pub(super) position: u64,
    pub(super) bytes: u64,
    pub(super) turn: u32,
    pub(super) flags: u16,
    pub(super) pid: u32,
    pub(super) tid: u32,
    pub(super) n_calls: u32,
    pub(super) error: u32,
    pub(super) comm: [u8; 16],
    /// Time in the kernel and number off the CPU of a thread that is followed.
    pub(super) followed: Option<(u64, u32)>,
    /// 0 = none.
    pub(super) goroutine: u32,
    /// Time to an acknowledgement, µs, and segments sent again.
    pub(super) network: [u32; 2],
}

impl Cells {
    pub(super) fn of_data(data: &Data) -> Cells {
        Cells {
            conn: data.conn.0,
            entry: before(data.time, data.first),
            waited: before(data.time, data.arrival),
            position: data.position,
            bytes: data.bytes,
            turn: data.turn,
            flags: data.flags,
            pid: data.pid,
            tid: data.tid,
            n_calls: data.n_calls,
            error: data.error,
            comm: data.comm,
            followed: (data.off_cpu != 0).then_some((data.kernel_ns, data.off_cpu)),
            goroutine: data.goroutine,
            network: [data.rtt_us, data.retransmits],
        }
    }

    pub(super) fn of_retransmit(again: &Retransmit) -> Cells {
        let network = [again.rtt_us, again.retransmits];
        Cells { conn: again.conn.0, network, ..Cells::default() }
    }

    pub(super) fn of_off_cpu(off: &OffCpu) -> Cells {
        let &OffCpu { time, out, wake, kernel_ns, argument, number, pid, tid, call, waker, file, flags } =
            off;
        Cells {
            entry: before(time, out),
            waited: before(time, wake),
            position: u64::from(number),
            bytes: argument,
            turn: call,
            flags,
            pid,
            tid,
            n_calls: waker,
            error: u32::from(file),
            followed: Some((kernel_ns, number)),
            ..Cells::default()
        }
    }

    pub(super) fn of_datagram(datagram: &Datagram) -> Cells {
        let &Datagram { conn, number, bytes, flags, pid, tid, comm, .. } = datagram;
        let (conn, bytes) = (conn.0, u64::from(bytes));
        Cells { conn, position: number, bytes, flags, pid, tid, n_calls: 1, comm, ..Cells::default() }
    }
}

impl Cells {
    pub(super) fn of_enter(enter: &FunctionEnter) -> Cells {
        let &FunctionEnter { number, stack, unread: flags, function, pid, tid, comm, .. } = enter;
        Cells { position: number, bytes: stack, turn: function, flags, pid, tid, comm, ..Cells::default() }
    }

    pub(super) fn of_return(leave: &FunctionReturn) -> Cells {
        let &FunctionReturn { number, stack, function, pid, tid, flags, .. } = leave;
        Cells { position: number, bytes: stack, turn: function, flags, pid, tid, ..Cells::default() }
    }

    pub(super) fn of_stack(stack: &Stack) -> Cells {
        let &Stack { number, pid, tid, end, kind, is_kept, .. } = stack;
        let (turn, n_calls) = (kind.number(), u32::from(is_kept));
        Cells { position: number, flags: end.number(), turn, n_calls, pid, tid, ..Cells::default() }
    }
}

/// How long before `time` an instant was; `None` when it is not known.
pub(super) fn before(time: BootTime, instant: BootTime) -> Option<i64> {
    instant.known().map(|instant| time.signed_since(instant))
}
