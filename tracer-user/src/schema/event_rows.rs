//! Rows of `events`: every event without loss, checkpoints, and holes, as Arrow columns and back.
//!
//! | column | meaning |
//! | --- | --- |
//! | `ordinal` | place in the pipeline's order; of a checkpoint or a hole: of the event that follows or is missing first |
//! | `kind` | [`Kind`] |
//! | `time_ns` | boot time of the event |
//! | `conn_id` | connection, 0 where none |
//! | `entry_ns` | data: `time_ns` − entry of the call; open: `time_ns` − establishment; null = not known |
//! | `waited_ns` | data: `time_ns` − arrival of the first byte; null = not known |
//! | `position` `bytes` `turn` `flags` `pid` `tid` `n_calls` `error` | as in [`Data`]; 0 where the kind has none |
//! | `comm` | thread name without the zeros behind it; bytes, because names need not be UTF-8 |
//! | `payload` | data: captured bytes; datagram: ends (40 bytes), namespace (4), captured bytes; `position` is its number; other kinds: what has no column; checkpoint: the pipeline's state |
//!
//! Of a function's call `position` is the record's number, `bytes` the frame, `turn` the function.
//!
//! | `kernel_ns` `off_cpu` | as in [`Data`]; null where the thread is not followed, and in recordings of before |
//! | `goroutine` | as in [`Data`]; null where there is none, and in recordings of before |
//! | `rtt_us` `retransmits` | as in [`Data`]; both null where both are 0, and in recordings of before |
//!
//! Of a time off the CPU `entry_ns` is how long it was, `waited_ns` how long ago it was woken, `position` its number, `bytes` the call's argument, `turn` the call,
//! `n_calls` the waker, `error` the type of the file.
//!
//! Unsigned numbers of the kernel are stored as the signed ones of the same bits: every reader of Parquet has those.

use std::sync::{Arc, LazyLock};

use arrow_array::{
    Array, ArrayRef, BinaryArray, Int32Array, Int64Array, RecordBatch, UInt8Array, UInt16Array,
    cast::AsArray as _, types,
};
use arrow_buffer::{NullBuffer, NullBufferBuilder};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use bytes::{Buf as _, Bytes};
use tracer_ebpf as abi;

pub use super::event_kind::Kind;
use super::{
    Fault, PayloadMode,
    event_blob::{
        BytesColumn, Cells, CloseBlob, DatagramBlob, EnterBlob, OpenBlob, ProcessBlob, ReturnBlob, Shared,
        StackBlob, TlsBlob, before, column, push_json, wrong_type,
    },
};
use crate::{
    event::{
        ConnClose, ConnId, ConnOpen, ConnShut, Data, Datagram, Direction, Event, FunctionEnter,
        FunctionReturn, Listening, Loss, OffCpu, Process, Retransmit, Stack, StackEnd, StackKind, TlsOpen,
    },
    time::{Anchor, BootTime, WallTime},
};

/// A row, read.
#[derive(Clone, Debug, PartialEq)]
pub enum Row {
    /// An event.
    Event(Event),
    /// State of the pipeline; empty = that of a new one.
    Checkpoint(Bytes),
    /// Events that are missing.
    Hole(Loss),
}

/// The columns, version 1.
pub static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    let field = |name, data_type, nullable| Field::new(name, data_type, nullable);
    Arc::new(Schema::new(vec![
        field("ordinal", DataType::Int64, false),
        field("kind", DataType::UInt8, false),
        field("time_ns", DataType::Int64, false),
        field("conn_id", DataType::Int64, false),
        field("entry_ns", DataType::Int64, true),
        field("waited_ns", DataType::Int64, true),
        field("position", DataType::Int64, false),
        field("bytes", DataType::Int64, false),
        field("turn", DataType::Int32, false),
        field("flags", DataType::UInt16, false),
        field("pid", DataType::Int32, false),
        field("tid", DataType::Int32, false),
        field("n_calls", DataType::Int32, false),
        field("error", DataType::Int32, false),
        field("comm", DataType::Binary, false),
        field("payload", DataType::Binary, false),
        field("kernel_ns", DataType::Int64, true),
        field("off_cpu", DataType::Int32, true),
        field("goroutine", DataType::Int32, true),
        field("rtt_us", DataType::Int32, true),
        field("retransmits", DataType::Int32, true),
    ]))
});

/// Builds rows. One allocation per column and batch; none per event but for the rare kinds.
#[derive(Debug)]
pub struct EventRows {
    payload_mode: PayloadMode,
    ordinal: Vec<i64>,
    kind: Vec<u8>,
    time: Vec<i64>,
    conn: Vec<i64>,
    entry: Vec<i64>,
    entry_known: NullBufferBuilder,
    waited: Vec<i64>,
    waited_known: NullBufferBuilder,
    position: Vec<i64>,
    bytes: Vec<i64>,
    turn: Vec<i32>,
    flags: Vec<u16>,
    pid: Vec<i32>,
    tid: Vec<i32>,
    n_calls: Vec<i32>,
    error: Vec<i32>,
    comm: BytesColumn,
    payload: BytesColumn,
    kernel: Vec<i64>,
    off_cpu: Vec<i32>,
    followed: NullBufferBuilder,
    goroutine: Vec<i32>,
    has_goroutine: NullBufferBuilder,
    rtt: Vec<i32>,
    retransmits: Vec<i32>,
    has_network: NullBufferBuilder,
}

/// Bytes of payload after which a batch is full.
pub const MAX_BATCH_BYTES: usize = 8 << 20;
/// Rows after which a batch is full: 16,384 rows are a tenth of a second at full load, and few enough for the cache.
pub const MAX_BATCH_ROWS: usize = 16_384;
/// The largest payload that a row may carry (a checkpoint: bounded by the tracker's own bounds).
pub const MAX_ROW_BYTES: usize = 1 << 30;

impl EventRows {
    /// Empty rows, with room for `rows`.
    pub fn new(payload_mode: PayloadMode, rows: usize) -> Self {
        let rows = rows.min(MAX_BATCH_ROWS);
        EventRows {
            payload_mode,
            ordinal: Vec::with_capacity(rows),
            kind: Vec::with_capacity(rows),
            time: Vec::with_capacity(rows),
            conn: Vec::with_capacity(rows),
            entry: Vec::with_capacity(rows),
            entry_known: NullBufferBuilder::new(rows),
            waited: Vec::with_capacity(rows),
            waited_known: NullBufferBuilder::new(rows),
            position: Vec::with_capacity(rows),
            bytes: Vec::with_capacity(rows),
            turn: Vec::with_capacity(rows),
            flags: Vec::with_capacity(rows),
            pid: Vec::with_capacity(rows),
            tid: Vec::with_capacity(rows),
            n_calls: Vec::with_capacity(rows),
            error: Vec::with_capacity(rows),
            comm: BytesColumn::with_capacity(rows, rows * 8),
            payload: BytesColumn::with_capacity(rows, rows * 128),
            kernel: Vec::with_capacity(rows),
            off_cpu: Vec::with_capacity(rows),
            followed: NullBufferBuilder::new(rows),
            goroutine: Vec::with_capacity(rows),
            has_goroutine: NullBufferBuilder::new(rows),
            rtt: Vec::with_capacity(rows),
            retransmits: Vec::with_capacity(rows),
            has_network: NullBufferBuilder::new(rows),
        }
    }

    /// Rows so far.
    pub fn len(&self) -> usize {
        self.ordinal.len()
    }

    /// None so far.
    pub fn is_empty(&self) -> bool {
        self.ordinal.is_empty()
    }

    /// No room for more: [`EventRows::finish`] is due.
    pub fn is_full(&self) -> bool {
        self.len() >= MAX_BATCH_ROWS || self.payload.bytes.len() >= MAX_BATCH_BYTES
    }

    /// Appends an event.
    pub fn push(&mut self, ordinal: u64, event: &Event) {
        let out = &mut self.payload.bytes;
        let (kind, time, cells) = match event {
            Event::Data(data) => {
                if self.payload_mode != PayloadMode::None {
                    out.extend_from_slice(&data.payload);
                }
                (Kind::Data, data.time, Cells::of_data(data))
            }
            Event::Datagram(datagram) => {
                DatagramBlob { tuple: datagram.tuple, netns: datagram.netns }.write(out);
                if self.payload_mode != PayloadMode::None {
                    out.extend_from_slice(&datagram.payload);
                }
                (Kind::Datagram, datagram.time, Cells::of_datagram(datagram))
            }
            Event::ConnOpen(open) => {
                OpenBlob {
                    role: open.role,
                    netns: open.netns,
                    inode: open.inode,
                    tuple: open.tuple,
                    unix_path: open.unix_path.clone(),
                }
                .write(out);
                let cells = Cells {
                    conn: open.conn.0,
                    entry: before(open.time, open.established),
                    flags: open.flags,
                    pid: open.pid,
                    ..Cells::default()
                };
                (Kind::ConnOpen, open.time, cells)
            }
            Event::TlsOpen(open) => {
                let TlsOpen { time, conn, carrier, pid, library, link, flags } = *open;
                TlsBlob { carrier, library, link }.write(out);
                (Kind::TlsOpen, time, Cells { conn: conn.0, flags, pid, ..Cells::default() })
            }
            Event::FunctionFacts(facts) => {
                push_json(out, facts);
                (Kind::FunctionFacts, facts.time, Cells::default())
            }
            Event::FunctionEnter(enter) => {
                let hides = self.payload_mode == PayloadMode::None;
                let texts = enter.texts.iter().map(|text| text.clone().filter(|_| !hides)).collect();
                EnterBlob {
                    goroutine: enter.goroutine,
                    caller: enter.caller,
                    registers: enter.registers,
                    texts,
                }
                .write(out);
                (Kind::FunctionEnter, enter.time, Cells::of_enter(enter))
            }
            Event::FunctionReturn(leave) => {
                let text = leave.text.clone().filter(|_| self.payload_mode != PayloadMode::None);
                ReturnBlob { goroutine: leave.goroutine, value: leave.value, text }.write(out);
                (Kind::FunctionReturn, leave.time, Cells::of_return(leave))
            }
            Event::Stack(stack) => {
                StackBlob { frames: stack.frames.clone(), code: stack.code.clone() }.write(out);
                (Kind::Stack, stack.time, Cells::of_stack(stack))
            }
            Event::OffCpu(off) => (Kind::OffCpu, off.time, Cells::of_off_cpu(off)),
            Event::Retransmit(again) => (Kind::Retransmit, again.time, Cells::of_retransmit(again)),
            Event::ConnShut(shut) => {
                let flags = match shut.direction {
                    Direction::Egress => abi::FLAG_EGRESS,
                    Direction::Ingress => 0,
                };
                (Kind::ConnShut, shut.time, Cells { conn: shut.conn.0, flags, ..Cells::default() })
            }
            Event::ConnClose(close) => {
                CloseBlob { position: close.position, reason: close.reason, n_refused: close.n_refused }
                    .write(out);
                let cells =
                    Cells { conn: close.conn.0, turn: close.turn, error: close.error, ..Cells::default() };
                (Kind::ConnClose, close.time, cells)
            }
            Event::Process(process) => {
                ProcessBlob {
                    change: process.change,
                    parent_pid: process.parent_pid,
                    exit_code: process.exit_code,
                }
                .write(out);
                (
                    Kind::Process,
                    process.time,
                    Cells { pid: process.pid, comm: process.comm, ..Cells::default() },
                )
            }
            Event::Anchor(anchor) => {
                out.extend_from_slice(&anchor.wall.0.to_le_bytes());
                (Kind::Anchor, anchor.boot, Cells::default())
            }
            Event::ProcessFacts(facts) => {
                push_json(out, facts);
                (Kind::ProcessFacts, facts.time, Cells { pid: facts.pid, ..Cells::default() })
            }
            Event::Listening(listening) => {
                out.extend_from_slice(&listening.netns.to_le_bytes());
                out.extend_from_slice(&listening.port.to_le_bytes());
                (Kind::Listening, listening.time, Cells::default())
            }
            Event::Counters(counters) => {
                push_json(out, counters);
                (Kind::Counters, counters.time, Cells::default())
            }
            Event::Tick(time) => (Kind::Tick, *time, Cells::default()),
            Event::Loss(loss) => {
                push_json(out, loss);
                (Kind::Loss, loss.time, Cells::default())
            }
        };
        self.push_row(ordinal, kind, time, cells);
    }

    /// Appends the state of the pipeline before the event `ordinal`. Without payload nothing of it is kept: it may hold
    /// bytes of a request in progress.
    pub fn push_checkpoint(&mut self, ordinal: u64, time: BootTime, state: &[u8]) {
        if self.payload_mode != PayloadMode::None {
            self.payload.bytes.extend_from_slice(state);
        }
        self.push_row(ordinal, Kind::Checkpoint, time, Cells::default());
    }

    /// Appends a hole.
    pub fn push_hole(&mut self, hole: &Loss) {
        push_json(&mut self.payload.bytes, hole);
        self.push_row(hole.first_ordinal, Kind::Hole, hole.time, Cells::default());
    }

    fn push_row(&mut self, ordinal: u64, kind: Kind, time: BootTime, cells: Cells) {
        self.payload.end();
        self.ordinal.push(ordinal as i64);
        self.kind.push(kind as u8);
        self.time.push(time.0 as i64);
        let Cells {
            conn,
            entry,
            waited,
            position,
            bytes,
            turn,
            flags,
            pid,
            tid,
            n_calls,
            error,
            comm,
            followed,
            goroutine,
            network: [rtt_us, retransmits],
        } = cells;
        let (kernel_ns, off_cpu) = followed.unwrap_or_default();
        self.kernel.push(kernel_ns as i64);
        self.off_cpu.push(off_cpu as i32);
        self.followed.append(followed.is_some());
        self.goroutine.push(goroutine as i32);
        self.has_goroutine.append(goroutine != 0);
        self.rtt.push(rtt_us as i32);
        self.retransmits.push(retransmits as i32);
        self.has_network.append([rtt_us, retransmits] != [0; 2]);
        self.conn.push(conn as i64);
        self.entry.push(entry.unwrap_or(0));
        self.entry_known.append(entry.is_some());
        self.waited.push(waited.unwrap_or(0));
        self.waited_known.append(waited.is_some());
        self.position.push(position as i64);
        self.bytes.push(bytes as i64);
        self.turn.push(turn as i32);
        self.flags.push(flags);
        self.pid.push(pid as i32);
        self.tid.push(tid as i32);
        self.n_calls.push(n_calls as i32);
        self.error.push(error as i32);
        let length = comm.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        self.comm.bytes.extend_from_slice(&comm[..length]);
        self.comm.end();
    }

    /// The rows as columns; the builder is empty again.
    pub fn finish(&mut self) -> RecordBatch {
        let rows = self.len();
        let full = std::mem::replace(self, EventRows::new(self.payload_mode, rows));
        fn int64(values: Vec<i64>, nulls: Option<NullBuffer>) -> ArrayRef {
            Arc::new(Int64Array::new(values.into(), nulls))
        }
        fn int32(values: Vec<i32>) -> ArrayRef {
            int32_or_null(values, None)
        }
        fn int32_or_null(values: Vec<i32>, nulls: Option<NullBuffer>) -> ArrayRef {
            Arc::new(Int32Array::new(values.into(), nulls))
        }
        let EventRows { mut entry_known, mut waited_known, mut followed, mut has_goroutine, .. } = full;
        let (followed, has_network) = (followed.finish(), { full.has_network }.finish());
        let columns: Vec<ArrayRef> = vec![
            int64(full.ordinal, None),
            Arc::new(UInt8Array::new(full.kind.into(), None)),
            int64(full.time, None),
            int64(full.conn, None),
            int64(full.entry, entry_known.finish()),
            int64(full.waited, waited_known.finish()),
            int64(full.position, None),
            int64(full.bytes, None),
            int32(full.turn),
            Arc::new(UInt16Array::new(full.flags.into(), None)),
            int32(full.pid),
            int32(full.tid),
            int32(full.n_calls),
            int32(full.error),
            Arc::new(full.comm.finish()),
            Arc::new(full.payload.finish()),
            int64(full.kernel, followed.clone()),
            int32_or_null(full.off_cpu, followed),
            int32_or_null(full.goroutine, has_goroutine.finish()),
            int32_or_null(full.rtt, has_network.clone()),
            int32_or_null(full.retransmits, has_network),
        ];
        // INVARIANT: as many columns as fields, each of its field's type, all of `rows` rows: `push_row` appends to all.
        RecordBatch::try_new(SCHEMA.clone(), columns).expect("columns match the schema")
    }
}

/// The columns of a batch that was read.
#[derive(Debug)]
pub struct EventColumns<'a> {
    rows: usize,
    ordinal: &'a [i64],
    kind: &'a [u8],
    time: &'a [i64],
    conn: &'a [i64],
    entry: &'a Int64Array,
    waited: &'a Int64Array,
    position: &'a [i64],
    bytes: &'a [i64],
    turn: &'a [i32],
    flags: &'a [u16],
    pid: &'a [i32],
    tid: &'a [i32],
    n_calls: &'a [i32],
    error: &'a [i32],
    comm: &'a BinaryArray,
    payload_ends: &'a [i32],
    /// All payloads of the batch, shared: a row's payload is a slice of it, nothing is copied.
    payload: Bytes,
    /// Not in recordings of before.
    followed: Option<(&'a Int64Array, &'a Int32Array)>,
    goroutine: Option<&'a Int32Array>,
    network: [Option<&'a Int32Array>; 2],
}

impl<'a> EventColumns<'a> {
    /// Finds the columns of version 1 by name.
    pub fn new(batch: &'a RecordBatch) -> Result<Self, Fault> {
        let int64 = |name| -> Result<&'a Int64Array, Fault> {
            column(batch, name)?.as_primitive_opt::<types::Int64Type>().ok_or_else(|| wrong_type(name))
        };
        let int32 = |name| -> Result<&'a [i32], Fault> {
            let array = column(batch, name)?
                .as_primitive_opt::<types::Int32Type>()
                .ok_or_else(|| wrong_type(name))?;
            Ok(array.values())
        };
        let later_int32 = |name| -> Result<Option<&'a Int32Array>, Fault> {
            let column = batch.column_by_name(name);
            let of_type = column.map(|column| column.as_primitive_opt::<types::Int32Type>());
            of_type.map(|column| column.ok_or_else(|| wrong_type(name))).transpose()
        };
        let payload =
            column(batch, "payload")?.as_binary_opt::<i32>().ok_or_else(|| wrong_type("payload"))?;
        Ok(EventColumns {
            rows: batch.num_rows(),
            ordinal: int64("ordinal")?.values(),
            kind: column(batch, "kind")?
                .as_primitive_opt::<types::UInt8Type>()
                .ok_or_else(|| wrong_type("kind"))?
                .values(),
            time: int64("time_ns")?.values(),
            conn: int64("conn_id")?.values(),
            entry: int64("entry_ns")?,
            waited: int64("waited_ns")?,
            position: int64("position")?.values(),
            bytes: int64("bytes")?.values(),
            turn: int32("turn")?,
            flags: column(batch, "flags")?
                .as_primitive_opt::<types::UInt16Type>()
                .ok_or_else(|| wrong_type("flags"))?
                .values(),
            pid: int32("pid")?,
            tid: int32("tid")?,
            n_calls: int32("n_calls")?,
            error: int32("error")?,
            comm: column(batch, "comm")?.as_binary_opt::<i32>().ok_or_else(|| wrong_type("comm"))?,
            payload_ends: payload.value_offsets(),
            payload: Bytes::from_owner(Shared(payload.values().clone())),
            followed: match (batch.column_by_name("kernel_ns"), later_int32("off_cpu")?) {
                (Some(kernel), Some(off_cpu)) => Some((
                    kernel.as_primitive_opt::<types::Int64Type>().ok_or_else(|| wrong_type("kernel_ns"))?,
                    off_cpu,
                )),
                _ => None,
            },
            goroutine: later_int32("goroutine")?,
            network: [later_int32("rtt_us")?, later_int32("retransmits")?],
        })
    }

    /// Rows of the batch.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Ordinal of row `i` (less than [`EventColumns::len`]).
    pub fn ordinal(&self, i: usize) -> u64 {
        self.ordinal[i] as u64
    }

    /// Boot time of row `i`.
    pub fn time(&self, i: usize) -> BootTime {
        BootTime(self.time[i] as u64)
    }

    /// Connection of row `i`; 0 = it is none's.
    pub fn conn(&self, i: usize) -> ConnId {
        ConnId(self.conn[i] as u64)
    }

    /// Whether a row is of this kind.
    pub fn is(&self, i: usize, kind: Kind) -> bool {
        self.kind[i] == kind as u8
    }

    /// Row `i`. Fails when the row does not hold what its kind says.
    pub fn row(&self, i: usize) -> Result<Row, Fault> {
        let bad = || Fault::Damaged(format!("event {} holds no {:?}", self.ordinal[i], self.kind[i]));
        let kind = Kind::from_number(self.kind[i]).ok_or_else(|| {
            Fault::Damaged(format!("event {} is of unknown kind {}", self.ordinal[i], self.kind[i]))
        })?;
        let time = self.time(i);
        let conn = self.conn(i);
        let payload = || self.payload.slice(self.payload_ends[i] as usize..self.payload_ends[i + 1] as usize);
        let comm = || {
            let value = self.comm.value(i);
            let mut comm = [0; 16];
            comm.iter_mut().zip(value).for_each(|(to, from)| *to = *from);
            comm
        };
        let after = |array: &Int64Array| {
            BootTime(if array.is_valid(i) { time.0.wrapping_sub(array.value(i) as u64) } else { 0 })
        };
        let (kernel_ns, off_cpu) = match self.followed {
            Some((kernel, off_cpu)) if kernel.is_valid(i) && off_cpu.is_valid(i) => {
                (kernel.value(i) as u64, off_cpu.value(i) as u32)
            }
            _ => (0, 0),
        };
        let or_0 = |column: Option<&Int32Array>| {
            column.filter(|column| column.is_valid(i)).map_or(0, |column| column.value(i) as u32)
        };
        let [rtt_us, retransmits] = self.network.map(or_0);
        let event = match kind {
            Kind::Data => Event::Data(Data {
                kernel_ns,
                off_cpu,
                goroutine: or_0(self.goroutine),
                rtt_us,
                retransmits,
                time,
                first: after(self.entry),
                arrival: after(self.waited),
                conn,
                position: self.position[i] as u64,
                bytes: self.bytes[i] as u64,
                turn: self.turn[i] as u32,
                flags: self.flags[i],
                pid: self.pid[i] as u32,
                tid: self.tid[i] as u32,
                n_calls: self.n_calls[i] as u32,
                error: self.error[i] as u32,
                comm: comm(),
                payload: payload(),
            }),
            Kind::Datagram => {
                let (blob, payload) = DatagramBlob::read(payload()).map_err(|_| bad())?;
                Event::Datagram(Datagram {
                    time,
                    conn,
                    number: self.position[i] as u64,
                    bytes: self.bytes[i] as u32,
                    tuple: blob.tuple,
                    flags: self.flags[i],
                    pid: self.pid[i] as u32,
                    tid: self.tid[i] as u32,
                    netns: blob.netns,
                    comm: comm(),
                    payload,
                })
            }
            Kind::ConnOpen => {
                let OpenBlob { role, netns, inode, tuple, unix_path } =
                    OpenBlob::read(payload()).map_err(|_| bad())?;
                Event::ConnOpen(ConnOpen {
                    time,
                    conn,
                    established: after(self.entry),
                    inode,
                    tuple,
                    pid: self.pid[i] as u32,
                    netns,
                    role,
                    flags: self.flags[i],
                    unix_path,
                })
            }
            Kind::TlsOpen => {
                let TlsBlob { carrier, library, link } = TlsBlob::read(&payload()).map_err(|_| bad())?;
                let (pid, flags) = (self.pid[i] as u32, self.flags[i]);
                Event::TlsOpen(TlsOpen { time, conn, carrier, pid, library, link, flags })
            }
            Kind::FunctionFacts => {
                Event::FunctionFacts(serde_json::from_slice(&payload()).map_err(|_| bad())?)
            }
            Kind::FunctionEnter => {
                let EnterBlob { goroutine, caller, registers, texts } =
                    EnterBlob::read(payload()).map_err(|_| bad())?;
                Event::FunctionEnter(FunctionEnter {
                    time,
                    number: self.position[i] as u64,
                    stack: self.bytes[i] as u64,
                    goroutine,
                    caller,
                    registers,
                    unread: self.flags[i],
                    texts,
                    function: self.turn[i] as u32,
                    pid: self.pid[i] as u32,
                    tid: self.tid[i] as u32,
                    comm: comm(),
                })
            }
            Kind::FunctionReturn => {
                let ReturnBlob { goroutine, value, text } = ReturnBlob::read(payload()).map_err(|_| bad())?;
                Event::FunctionReturn(FunctionReturn {
                    time,
                    number: self.position[i] as u64,
                    stack: self.bytes[i] as u64,
                    goroutine,
                    value,
                    text,
                    function: self.turn[i] as u32,
                    pid: self.pid[i] as u32,
                    tid: self.tid[i] as u32,
                    flags: self.flags[i],
                })
            }
            Kind::Stack => {
                let StackBlob { frames, code } = StackBlob::read(&payload()).map_err(|_| bad())?;
                Event::Stack(Stack {
                    time,
                    number: self.position[i] as u64,
                    pid: self.pid[i] as u32,
                    tid: self.tid[i] as u32,
                    frames,
                    code,
                    end: StackEnd::from_number(self.flags[i]).ok_or_else(bad)?,
                    kind: StackKind::from_number(self.turn[i] as u32).ok_or_else(bad)?,
                    is_kept: self.n_calls[i] != 0,
                    ..Stack::default()
                })
            }
            Kind::OffCpu => Event::OffCpu(OffCpu {
                time,
                out: after(self.entry),
                wake: after(self.waited),
                kernel_ns,
                argument: self.bytes[i] as u64,
                number: self.position[i] as u32,
                pid: self.pid[i] as u32,
                tid: self.tid[i] as u32,
                call: self.turn[i] as u32,
                waker: self.n_calls[i] as u32,
                file: self.error[i] as u16,
                flags: self.flags[i],
            }),
            Kind::Retransmit => Event::Retransmit(Retransmit { time, conn, rtt_us, retransmits }),
            Kind::ConnShut => Event::ConnShut(ConnShut {
                time,
                conn,
                direction: if self.flags[i] & abi::FLAG_EGRESS != 0 {
                    Direction::Egress
                } else {
                    Direction::Ingress
                },
            }),
            Kind::ConnClose => {
                let CloseBlob { position, reason, n_refused } =
                    CloseBlob::read(&payload()).map_err(|_| bad())?;
                Event::ConnClose(ConnClose {
                    time,
                    conn,
                    position,
                    turn: self.turn[i] as u32,
                    reason,
                    n_refused,
                    error: self.error[i] as u32,
                })
            }
            Kind::Process => {
                let ProcessBlob { change, parent_pid, exit_code } =
                    ProcessBlob::read(&payload()).map_err(|_| bad())?;
                Event::Process(Process {
                    time,
                    change,
                    pid: self.pid[i] as u32,
                    parent_pid,
                    exit_code,
                    comm: comm(),
                })
            }
            Kind::Anchor => {
                let wall = payload().try_get_u64_le().map_err(|_| bad())?;
                Event::Anchor(Anchor { boot: time, wall: WallTime(wall) })
            }
            Kind::ProcessFacts => Event::ProcessFacts(serde_json::from_slice(&payload()).map_err(|_| bad())?),
            Kind::Listening => {
                let mut payload = payload();
                Event::Listening(Listening {
                    time,
                    netns: payload.try_get_u32_le().map_err(|_| bad())?,
                    port: payload.try_get_u16_le().map_err(|_| bad())?,
                })
            }
            Kind::Counters => Event::Counters(serde_json::from_slice(&payload()).map_err(|_| bad())?),
            Kind::Tick => Event::Tick(time),
            Kind::Loss => Event::Loss(serde_json::from_slice(&payload()).map_err(|_| bad())?),
            Kind::Checkpoint => return Ok(Row::Checkpoint(payload())),
            Kind::Hole => return Ok(Row::Hole(serde_json::from_slice(&payload()).map_err(|_| bad())?)),
        };
        Ok(Row::Event(event))
    }
}

#[cfg(test)]
#[path = "event_rows_tests.rs"]
mod tests;
