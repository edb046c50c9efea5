//! Journals: append-only frames, each complete in itself and guarded by its own checksum.
//!
//! A journal is a file header followed by frames. Numbers are little-endian.
//!
//! ```text
//! file header   "TXRAYJ01"  length u32  crc u32  JSON of `length` bytes (the part's facts)
//! frame         "TXF1"  length u32  body crc u32  rows u32  first u64  next u64  last_time u64  lost u64  header crc u32
//!               body: an Arrow IPC stream of `length` bytes with one record batch
//! ```
//!
//! A process that is killed leaves whole frames and at most one torn one at the end. A frame whose checksum does not match is left out, and
//! reading goes on behind it; where a frame's header itself is bad, reading goes on at the next good one.

use std::{io::Cursor, path::Path};

use arrow_array::RecordBatch;
use arrow_ipc::{reader::StreamReader, writer::StreamWriter};
use bytes::{Buf as _, BufMut as _};

use super::{
    Fault, FormatError, PartMeta,
    file::{guarded, parse_meta},
};

const FILE_MAGIC: &[u8; 8] = b"TXRAYJ01";
const FRAME_MAGIC: &[u8; 4] = b"TXF1";
const FILE_HEADER: usize = 16;
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

/// A journal, read. Only the frames' headers are looked at until rows are asked for.
#[derive(Debug)]
pub struct Journal {
    bytes: Vec<u8>,
    frames: Vec<(FrameMeta, std::ops::Range<usize>, u32)>,
    /// Facts about the part, brought up to its last whole frame.
    pub meta: PartMeta,
    /// Bytes that belong to no whole frame: torn by a kill (at the end), or damaged.
    pub n_skipped_bytes: u64,
}

impl Journal {
    /// Reads a journal. A part is cut long before it is too large for memory.
    pub fn open(path: &Path) -> Result<Journal, FormatError> {
        let read = || -> Result<Journal, Fault> { Self::parse(std::fs::read(path)?) };
        read().map_err(|fault| fault.at(path))
    }

    /// Takes the bytes of a journal apart.
    pub fn parse(bytes: Vec<u8>) -> Result<Journal, Fault> {
        if !bytes.starts_with(FILE_MAGIC) {
            return Err(if FILE_MAGIC.starts_with(&bytes) {
                Fault::Damaged("cut off before its first row".to_owned())
            } else {
                Fault::Foreign("no journal")
            });
        }
        let cut = || Fault::Damaged("cut off before its first row".to_owned());
        let mut header = bytes.get(8..FILE_HEADER).ok_or_else(cut)?;
        let (length, crc) = (header.get_u32_le() as usize, header.get_u32_le());
        let json = bytes.get(FILE_HEADER..FILE_HEADER.saturating_add(length)).ok_or_else(cut)?;
        if crc32fast::hash(json) != crc {
            return Err(Fault::Damaged("the header's checksum does not match".to_owned()));
        }
        let mut meta = header_meta(json)?;
        let body_start = FILE_HEADER + length;
        let (mut frames, mut skipped, mut at) = (Vec::new(), 0, body_start);
        while at < bytes.len() {
            match frame_at(&bytes, at) {
                Some((frame, body, crc)) => {
                    at = body.end;
                    frames.push((frame, body, crc));
                }
                None => {
                    // Torn or damaged: on to the next place that may be a frame.
                    let next = bytes[at + 1..]
                        .windows(4)
                        .position(|window| window == FRAME_MAGIC)
                        .map_or(bytes.len(), |distance| at + 1 + distance);
                    skipped += (next - at) as u64;
                    at = next;
                }
            }
        }
        for (frame, ..) in &frames {
            meta.next = meta.next.max(frame.next);
            meta.last_time_ns = meta.last_time_ns.max(frame.last_time_ns);
            meta.lost += frame.lost;
        }
        Ok(Journal { bytes, frames, meta, n_skipped_bytes: skipped })
    }

    /// Rows, by the frames' headers.
    pub fn n_rows(&self) -> u64 {
        self.frames.iter().map(|(frame, ..)| u64::from(frame.rows)).sum()
    }

    /// Bytes of the file.
    pub fn n_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Number of frames.
    pub fn n_frames(&self) -> usize {
        self.frames.len()
    }

    /// The rows of frame `i`, verified. `None` when the frame is damaged.
    pub fn batch(&self, i: usize) -> Option<RecordBatch> {
        let (frame, body, crc) = self.frames.get(i)?;
        let body = &self.bytes[body.clone()];
        if crc32fast::hash(body) != *crc {
            return None;
        }
        let batch = guarded(|| {
            StreamReader::try_new(Cursor::new(body), None)?
                .next()
                .ok_or_else(|| Fault::Damaged("a frame without rows".to_owned()))?
                .map_err(Fault::from)
        })
        .ok()?;
        (batch.num_rows() == frame.rows as usize).then_some(batch)
    }
}

fn frame_at(bytes: &[u8], at: usize) -> Option<(FrameMeta, std::ops::Range<usize>, u32)> {
    let mut header = bytes.get(at..at + FRAME_HEADER)?;
    let header_crc = crc32fast::hash(&header[..FRAME_HEADER - 4]);
    if !header.starts_with(FRAME_MAGIC) {
        return None;
    }
    header.advance(4);
    let (length, crc) = (header.get_u32_le() as usize, header.get_u32_le());
    let frame = FrameMeta {
        rows: header.get_u32_le(),
        first: header.get_u64_le(),
        next: header.get_u64_le(),
        last_time_ns: header.get_u64_le(),
        lost: header.get_u64_le(),
    };
    let body = at + FRAME_HEADER..(at + FRAME_HEADER).checked_add(length)?;
    (header.get_u32_le() == header_crc && length <= MAX_BODY && body.end <= bytes.len())
        .then_some((frame, body, crc))
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
