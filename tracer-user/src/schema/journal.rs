//! Journals: append-only frames, each complete in itself and guarded by its own checksum.
//!
//! A journal is a file header followed by frames. Numbers are little-endian.
//!
//! ```text
//! file header   "TXRAYJ01"  length u32  JSON crc u32  header crc u32  JSON of `length` bytes (the part's facts)
//! frame         "TXF1"  length u32  body crc u32  rows u32  first u64  next u64  last_time u64  lost u64  header crc u32
//!               body: an Arrow IPC stream of `length` bytes with one record batch
//! ```
//!
//! A checkpoint within a part is alone in its frame, whose `first` and `next` are the ordinal of the event that follows: no event or hole has
//! such a frame, so that checkpoints are found without reading a body.
//!
//! A process that is killed leaves whole frames and at most one torn one at the end. A frame whose checksum does not match is left out, and
//! reading goes on behind it; where a frame's header itself is bad, reading goes on at the next good one.

use std::{fs::File, io::Cursor, os::unix::fs::FileExt as _, path::Path};

use arrow_array::RecordBatch;
use arrow_ipc::{reader::StreamReader, writer::StreamWriter};
use bytes::{Buf as _, BufMut as _};

use super::{
    Checkpoint, Dataset, Fault, FormatError, MAX_CHECKPOINTS, PartMeta,
    event_rows::{EventColumns, Row},
    file::{guarded, parse_meta},
};

const FILE_MAGIC: &[u8; 8] = b"TXRAYJ01";
const FRAME_MAGIC: &[u8; 4] = b"TXF1";
const FILE_HEADER: usize = 20;
/// Bytes of a frame before its body.
pub const FRAME_HEADER: usize = 52;
/// The largest body: a batch of rows, or a checkpoint ([`super::event_rows::MAX_ROW_BYTES`]).
const MAX_BODY: usize = (1 << 30) + (1 << 24);

/// Facts about the rows of one frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameMeta {
    /// Rows.
    pub rows: u32,
    /// Ordinal or seq of the first row.
    pub first: u64,
    /// Ordinal or seq behind the last row.
    pub next: u64,
    /// Latest wall time of the rows, ns.
    pub last_time_ns: u64,
    /// Events that the recorder lost within it.
    pub lost: u64,
}

impl FrameMeta {
    /// Whether all that it holds is a checkpoint: events and holes lead on to another ordinal.
    pub fn is_checkpoint(&self) -> bool {
        self.rows > 0 && self.next == self.first && self.lost == 0
    }
}

/// What a journal begins with.
pub fn encode_file_header(meta: &PartMeta) -> Result<Vec<u8>, Fault> {
    let json = serde_json::to_vec(&serde_json::json!({
        "dataset": meta.dataset.as_str(),
        "schema": meta.schema.to_string(),
        "writer": meta.writer,
        "run": meta.run.to_string(),
        "part": serde_json::to_string(meta).map_err(|error| Fault::Damaged(error.to_string()))?,
    }))
    .map_err(|error| Fault::Damaged(error.to_string()))?;
    let mut out = FILE_MAGIC.to_vec();
    out.put_u32_le(json.len() as u32);
    out.put_u32_le(crc32fast::hash(&json));
    let crc = crc32fast::hash(&out);
    out.put_u32_le(crc);
    out.extend_from_slice(&json);
    Ok(out)
}

/// Appends a frame to `out`.
pub fn encode_frame(meta: FrameMeta, batch: &RecordBatch, out: &mut Vec<u8>) -> Result<(), Fault> {
    let start = out.len();
    out.resize(start + FRAME_HEADER, 0);
    let mut writer = StreamWriter::try_new(&mut *out, &batch.schema())?;
    writer.write(batch)?;
    writer.finish()?;
    drop(writer);
    let body = &out[start + FRAME_HEADER..];
    let mut header = Vec::with_capacity(FRAME_HEADER);
    header.put_slice(FRAME_MAGIC);
    header.put_u32_le(body.len() as u32);
    header.put_u32_le(crc32fast::hash(body));
    header.put_u32_le(meta.rows);
    header.put_u64_le(meta.first);
    header.put_u64_le(meta.next);
    header.put_u64_le(meta.last_time_ns);
    header.put_u64_le(meta.lost);
    header.put_u32_le(crc32fast::hash(&header));
    out[start..start + FRAME_HEADER].copy_from_slice(&header);
    Ok(())
}

/// A journal, read. Frames are found by their headers; a body is read when its rows are asked for.
#[derive(Debug)]
pub struct Journal {
    file: File,
    frames: Vec<Frame>,
    /// Facts about the part, brought up to its last whole frame.
    pub meta: PartMeta,
    /// Bytes of the file.
    pub n_bytes: u64,
    /// Bytes that belong to no whole frame: torn by a kill (at the end), or damaged.
    pub n_skipped_bytes: u64,
}

/// A frame: facts, place of its body, checksum of it.
#[derive(Clone, Debug)]
struct Frame {
    meta: FrameMeta,
    body: std::ops::Range<u64>,
    crc: u32,
}

impl Journal {
    /// Reads the headers of a journal.
    pub fn open(path: &Path) -> Result<Journal, FormatError> {
        let read = || -> Result<Journal, Fault> { Self::read(File::open(path)?) };
        read().map_err(|fault| fault.at(path))
    }

    /// Reads the headers of a journal that is open.
    pub fn read(file: File) -> Result<Journal, Fault> {
        let n_bytes = file.metadata()?.len();
        let start = read_at(&file, 0, FILE_HEADER, n_bytes)?;
        if !start.starts_with(FILE_MAGIC) {
            return Err(if FILE_MAGIC.starts_with(&start) {
                Fault::Unbegun
            } else {
                Fault::Foreign("no journal")
            });
        }
        let mut header = start.get(8..FILE_HEADER).ok_or(Fault::Unbegun)?;
        let (length, crc) = (header.get_u32_le() as usize, header.get_u32_le());
        if header.get_u32_le() != crc32fast::hash(&start[..FILE_HEADER - 4]) {
            return Err(Fault::Damaged("the header's checksum does not match".to_owned()));
        }
        let json = read_at(&file, FILE_HEADER as u64, length, n_bytes)?;
        if json.len() < length {
            return Err(Fault::Unbegun);
        }
        if crc32fast::hash(&json) != crc {
            return Err(Fault::Damaged("the header's checksum does not match".to_owned()));
        }
        let mut meta = header_meta(&json)?;
        let (mut frames, mut skipped, mut at) = (Vec::new(), 0, (FILE_HEADER + length) as u64);
        while at < n_bytes {
            if let Some(frame) = frame_at(&read_at(&file, at, FRAME_HEADER, n_bytes)?, at, n_bytes) {
                at = frame.body.end;
                frames.push(frame);
            } else {
                // Torn or damaged: on to the next place that may be a frame.
                let next = next_magic(&file, at + 1, n_bytes)?;
                skipped += next - at;
                at = next;
            }
        }
        for Frame { meta: frame, .. } in &frames {
            meta.next = meta.next.max(frame.next);
            meta.last_time_ns = meta.last_time_ns.max(frame.last_time_ns);
            meta.lost += frame.lost;
        }
        // A kill between the file's header and the first frame leaves a promise that nothing keeps.
        meta.checkpoint &= frames.first().is_some_and(|frame| frame.meta.first == meta.first);
        if meta.dataset == Dataset::Events {
            let frames = frames.iter().map(|frame| frame.meta);
            meta.checkpoints = checkpoints(meta.horizon_ns, frames);
        }
        Ok(Journal { file, frames, meta, n_bytes, n_skipped_bytes: skipped })
    }

    /// Rows, by the frames' headers.
    pub fn n_rows(&self) -> u64 {
        self.frames.iter().map(|frame| u64::from(frame.meta.rows)).sum()
    }

    /// Facts about each frame, in order.
    pub fn frames(&self) -> impl ExactSizeIterator<Item = FrameMeta> + '_ {
        self.frames.iter().map(|frame| frame.meta)
    }

    /// Whether the checkpoint before the event `ordinal` is there and whole.
    pub fn holds_checkpoint(&self, ordinal: u64) -> bool {
        let frames = self.frames().enumerate().filter(|(_, frame)| frame.first == ordinal);
        let mut begun = frames.filter(|(i, frame)| *i == 0 || frame.is_checkpoint());
        begun.any(|(i, _)| {
            self.batch(i).is_ok_and(|batch| batch.is_some_and(|batch| begins_with_checkpoint(&batch)))
        })
    }

    /// The rows of frame `i`, verified. `None` when the frame is damaged.
    pub fn batch(&self, i: usize) -> Result<Option<RecordBatch>, Fault> {
        let Some(Frame { meta, body, crc }) = self.frames.get(i) else { return Ok(None) };
        let body = read_at(&self.file, body.start, (body.end - body.start) as usize, self.n_bytes)?;
        if crc32fast::hash(&body) != *crc {
            return Ok(None);
        }
        let batch = guarded(|| {
            StreamReader::try_new(Cursor::new(body), None)?
                .next()
                .ok_or_else(|| Fault::Damaged("a frame without rows".to_owned()))?
                .map_err(Fault::from)
        });
        Ok(batch.ok().filter(|batch| batch.num_rows() == meta.rows as usize))
    }
}

/// Whether the first of these rows is a checkpoint.
pub fn begins_with_checkpoint(batch: &RecordBatch) -> bool {
    let is_checkpoint = |columns: &EventColumns<'_>| matches!(columns.row(0), Ok(Row::Checkpoint(_)));
    EventColumns::new(batch).is_ok_and(|columns| !columns.is_empty() && is_checkpoint(&columns))
}

/// The checkpoints behind the first frame, by the frames' headers; `horizon_ns`: the part's own.
fn checkpoints(mut horizon_ns: u64, frames: impl Iterator<Item = FrameMeta>) -> Vec<Checkpoint> {
    let mut found: Vec<Checkpoint> = Vec::new();
    for (i, frame) in frames.enumerate() {
        // A checkpoint's own frame too has the latest time before it, which counts where a frame before it is torn.
        horizon_ns = horizon_ns.max(frame.last_time_ns);
        let is_known = i == 0 || found.last().is_some_and(|last| last.ordinal == frame.first);
        if frame.is_checkpoint() && !is_known && found.len() < MAX_CHECKPOINTS {
            found.push(Checkpoint { ordinal: frame.first, horizon_ns });
        }
    }
    found
}

/// Up to `length` bytes at `at`; fewer where the file ends.
fn read_at(file: &File, at: u64, length: usize, n_bytes: u64) -> Result<Vec<u8>, Fault> {
    let mut bytes = vec![0; length.min(n_bytes.saturating_sub(at).try_into().unwrap_or(usize::MAX))];
    file.read_exact_at(&mut bytes, at)?;
    Ok(bytes)
}

/// Where the next frame may begin; the end of the file if nowhere.
fn next_magic(file: &File, mut at: u64, n_bytes: u64) -> Result<u64, Fault> {
    const CHUNK: usize = 1 << 16;
    while at < n_bytes {
        let chunk = read_at(file, at, CHUNK, n_bytes)?;
        if let Some(distance) = chunk.windows(4).position(|window| window == FRAME_MAGIC) {
            return Ok(at + distance as u64);
        }
        if chunk.len() < CHUNK {
            break;
        }
        // A magic that lies across the border begins in the last three bytes.
        at += (CHUNK - 3) as u64;
    }
    Ok(n_bytes)
}

fn frame_at(header: &[u8], at: u64, n_bytes: u64) -> Option<Frame> {
    let mut rest = header.get(..FRAME_HEADER)?;
    if !rest.starts_with(FRAME_MAGIC) {
        return None;
    }
    rest.advance(4);
    let (length, crc) = (rest.get_u32_le(), rest.get_u32_le());
    let meta = FrameMeta {
        rows: rest.get_u32_le(),
        first: rest.get_u64_le(),
        next: rest.get_u64_le(),
        last_time_ns: rest.get_u64_le(),
        lost: rest.get_u64_le(),
    };
    let start = at + FRAME_HEADER as u64;
    let body = start..start + u64::from(length);
    let header_crc = crc32fast::hash(&header[..FRAME_HEADER - 4]);
    (rest.get_u32_le() == header_crc && length as usize <= MAX_BODY && body.end <= n_bytes).then_some(Frame {
        meta,
        body,
        crc,
    })
}

fn header_meta(json: &[u8]) -> Result<PartMeta, Fault> {
    #[derive(serde::Deserialize)]
    struct Header {
        dataset: String,
        schema: String,
        writer: String,
        run: String,
        part: String,
    }
    let header: Header =
        serde_json::from_slice(json).map_err(|error| Fault::Damaged(format!("header: {error}")))?;
    parse_meta(&header.dataset, &header.schema, &header.writer, &header.run, || Ok(&header.part))
}

/// A journal's dataset need not be known to name it: `_part-….journal`.
pub fn is_journal(name: &str) -> bool {
    name.starts_with("_part-") && name.ends_with(".journal")
}
