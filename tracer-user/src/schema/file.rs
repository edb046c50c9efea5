//! Sealed files: Parquet with a checksum of its own, written once, verified before anything in them is parsed.
//!
//! The seal is the last entry of the footer's key-value metadata:
//! `txray.seal = "txray-seal-1 footer=xxxxxxxx file=xxxxxxxx"`, two CRC-32 (IEEE) in hexadecimal, computed with all sixteen
//! digits as `0`: one over the footer (metadata, its length, the closing `PAR1`), one over the whole file. The first lets the facts
//! about a part be read without reading the part; the second is checked before a row is decoded. A CRC-32 finds every
//! change of up to 32 neighbouring bits; one in 4 billion of larger ones goes unnoticed.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom, Write},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
};

use arrow_array::RecordBatch;
use arrow_schema::{DataType, SchemaRef};
use bytes::Bytes;
use parquet::{
    arrow::{
        ArrowWriter,
        arrow_reader::{
            ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader,
            ParquetRecordBatchReaderBuilder,
        },
        arrow_writer::ArrowWriterOptions,
    },
    basic::{Compression, Encoding, ZstdLevel},
    file::{
        metadata::{KeyValue, ParquetMetaData, ParquetMetaDataReader},
        properties::{EnabledStatistics, WriterProperties},
    },
    schema::types::ColumnPath,
};

use super::{
    Dataset, Fault, FormatError, PartMeta, RunId, VERSION, event_rows,
    groups::{Group, GroupTest},
    key, rollup_rows, transaction_rows,
};

const MAGIC: &[u8; 4] = b"PAR1";
const SEAL_OPEN: &str = "txray-seal-1 footer=00000000 file=00000000";
const SEAL_PREFIX: &[u8] = b"txray-seal-1 footer=";
const SEAL_MIDDLE: &[u8] = b" file=";
/// The largest footer that is read: a part of a million rows has 160 KiB.
const MAX_FOOTER: u64 = 16 << 20;
/// The largest sealed file that is read (it is held in memory while it is): parts are cut far below.
const MAX_FILE: u64 = 2 << 30;
/// Rows of a row group of events: the unit in which dictionaries are built; readers hold one in memory. Whoever
/// begins at a checkpoint leaves out those before it, and reads the rest one after the other.
const EVENT_GROUP_ROWS: usize = 131_072;
/// Rows of a row group of transactions: what a reader that looks for some of them can leave out. Rows lie in the order of their
/// ends, so that ranges of time are narrow in a group of any size; what is rare is in every group that is large.
///
/// 600,000 made-up transactions of five minutes, 14 of them slow, errors in four bursts of a second each; file, and row groups
/// read by `txray find` (with its user time, unoptimised build):
///
/// | rows | file, bytes | `slow` | `status_code = 503` |
/// | --- | --- | --- | --- |
/// | 131,072 | 24,753,894 | 5 of 5 (2.9 s) | 3 of 5 (2.1 s) |
/// | 65,536 | + 1.2 % | 8 of 10 (2.6 s) | 5 of 10 (1.7 s) |
/// | 32,768 | + 4.1 % | 10 of 19 (1.7 s) | 7 of 19 (1.2 s) |
/// | 16,384 | + 5.9 % | 12 of 37 (1.0 s) | 8 of 37 (0.7 s) |
/// | 8,192 | + 8.5 % | 13 of 74 (0.6 s) | 8 of 74 (0.4 s) |
///
/// Also small enough that the dictionary of connections (20 bytes each) never exceeds the library's 1 MiB, behind which it
/// would say nothing.
pub const TRANSACTION_GROUP_ROWS: usize = 16_384;

/// The Arrow schema of a dataset, version [`VERSION`].
pub fn schema(dataset: Dataset) -> SchemaRef {
    match dataset {
        Dataset::Events => event_rows::SCHEMA.clone(),
        Dataset::Transactions => transaction_rows::SCHEMA.clone(),
        Dataset::Rollups => rollup_rows::SCHEMA.clone(),
    }
}

/// How a dataset's columns are stored.
///
/// Times and ordinals, which mostly grow, as differences; names and other values that repeat through dictionaries (the
/// library's default); the rest plain; all of it through zstd.
fn properties(dataset: Dataset) -> WriterProperties {
    let mut builder = WriterProperties::builder()
        // INVARIANT: 1 to 22 are zstd's levels.
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1).expect("a level of zstd")))
        .set_max_row_group_row_count(Some(match dataset {
            Dataset::Events => EVENT_GROUP_ROWS,
            // A part of five minutes of rollups has 300 rows, and 300 more for each service: it is left out as a whole, or read.
            Dataset::Transactions | Dataset::Rollups => TRANSACTION_GROUP_ROWS,
        }))
        .set_created_by(concat!("txray ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_statistics_enabled(EnabledStatistics::None)
        .set_offset_index_disabled(true);
    let delta: &[&str] = match dataset {
        Dataset::Events => &["ordinal", "time_ns", "entry_ns", "waited_ns"],
        Dataset::Transactions => &[
            "start_time_ns",
            "request_end_ns",
            "response_start_ns",
            "end_time_ns",
            "duration_ns",
            "ttfb_ns",
            "queue_ns",
            "seq",
        ],
        Dataset::Rollups => &["interval_start_ns"],
    };
    for name in delta {
        builder = builder
            .set_column_encoding(ColumnPath::from(*name), Encoding::DELTA_BINARY_PACKED)
            .set_column_dictionary_enabled(ColumnPath::from(*name), false);
    }
    let (front, lengths): (&[&str], &[&str]) = match dataset {
        Dataset::Events => (&[], &["payload"]),
        Dataset::Transactions => (&["id"], &[]),
        Dataset::Rollups => (&[], &["hdr"]),
    };
    for (names, encoding) in
        [(front, Encoding::DELTA_BYTE_ARRAY), (lengths, Encoding::DELTA_LENGTH_BYTE_ARRAY)]
    {
        for name in names {
            builder = builder
                .set_column_encoding(ColumnPath::from(*name), encoding)
                .set_column_dictionary_enabled(ColumnPath::from(*name), false);
        }
    }
    // Ranges by which readers skip row groups. Of transactions every number has one; texts have their dictionaries, but for ids.
    let ranges: Vec<&str> = match dataset {
        Dataset::Events => vec!["ordinal", "time_ns"],
        Dataset::Rollups => vec!["interval_start_ns", "interval_ns"],
        Dataset::Transactions => {
            let fields = transaction_rows::SCHEMA.fields().iter();
            fields
                .filter(|field| *field.data_type() != DataType::Utf8 || field.name() == "id")
                .map(|field| field.name().as_str())
                .collect()
        }
    };
    for name in ranges {
        builder = builder.set_column_statistics_enabled(ColumnPath::from(name), EnabledStatistics::Chunk);
    }
    builder.build()
}

/// Writes a sealed file.
pub struct SealedWriter {
    writer: ArrowWriter<Checked>,
}

/// A file and the checksum of what went into it.
struct Checked {
    file: io::BufWriter<File>,
    crc: crc32fast::Hasher,
}

impl Write for Checked {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.file.write(bytes)?;
        self.crc.update(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl SealedWriter {
    /// Begins. `file` is empty, to read and write (`File::options().read(true)`, not `File::create`).
    pub fn new(file: File, dataset: Dataset) -> Result<Self, Fault> {
        let checked =
            Checked { file: io::BufWriter::with_capacity(1 << 18, file), crc: crc32fast::Hasher::new() };
        let options = ArrowWriterOptions::new().with_properties(properties(dataset));
        Ok(SealedWriter { writer: ArrowWriter::try_new_with_options(checked, schema(dataset), options)? })
    }

    /// Appends rows.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), Fault> {
        Ok(self.writer.write(batch)?)
    }

    /// Writes the footer and the seal, and syncs the file.
    pub fn finish(mut self, meta: &PartMeta) -> Result<(), Fault> {
        let part = serde_json::to_string(meta).map_err(|error| Fault::Damaged(error.to_string()))?;
        for (key, value) in [
            (key::DATASET, meta.dataset.as_str().to_owned()),
            (key::SCHEMA, meta.schema.to_string()),
            (key::WRITER, meta.writer.clone()),
            (key::RUN, meta.run.to_string()),
            (key::PART, part),
            (key::SEAL, SEAL_OPEN.to_owned()),
        ] {
            self.writer.append_key_value_metadata(KeyValue::new(key.to_owned(), value));
        }
        let Checked { file, crc } = self.writer.into_inner()?;
        let mut file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
        let (start, footer) = read_footer(&mut file)?;
        let at = find_seal(&footer).ok_or_else(|| Fault::Damaged("the seal was not written".to_owned()))?;
        let seal =
            format!("txray-seal-1 footer={:08x} file={:08x}", crc32fast::hash(&footer), crc.finalize());
        file.seek(SeekFrom::Start(start + at as u64))?;
        file.write_all(seal.as_bytes())?;
        file.sync_all()?;
        Ok(())
    }
}

/// Offset and bytes of the footer: metadata, its length, the closing magic.
fn read_footer(file: &mut File) -> Result<(u64, Vec<u8>), Fault> {
    let length = file.seek(SeekFrom::End(0))?;
    let mut magic = [0; 4];
    file.seek(SeekFrom::Start(0))?;
    let whole = length >= 12;
    if !whole || file.read_exact(&mut magic).is_err() || &magic != MAGIC {
        return Err(if length == 0 {
            Fault::Damaged("the file is empty".to_owned())
        } else if whole {
            Fault::Foreign("no Parquet file")
        } else {
            Fault::Damaged("cut off".to_owned())
        });
    }
    let mut tail = [0; 8];
    file.seek(SeekFrom::End(-8))?;
    file.read_exact(&mut tail)?;
    let [a, b, c, d, magic @ ..] = tail;
    if &magic != MAGIC {
        return Err(Fault::Damaged("cut off, or overwritten at its end".to_owned()));
    }
    let footer = u64::from(u32::from_le_bytes([a, b, c, d])) + 8;
    if footer > MAX_FOOTER || footer + 4 > length {
        return Err(Fault::Damaged("the footer's length is wrong".to_owned()));
    }
    let start = length - footer;
    let mut bytes = vec![0; footer as usize];
    file.seek(SeekFrom::Start(start))?;
    file.read_exact(&mut bytes)?;
    Ok((start, bytes))
}

/// Where the seal stands in the footer. The last place that looks like one: nothing that comes from outside stands
/// behind it (statistics, which may hold such text, come before).
fn find_seal(footer: &[u8]) -> Option<usize> {
    let last = footer.len().checked_sub(SEAL_OPEN.len())?;
    (0..=last).rev().find(|&at| {
        let seal = &footer[at..at + SEAL_OPEN.len()];
        seal.starts_with(SEAL_PREFIX) && seal[SEAL_PREFIX.len() + 8..].starts_with(SEAL_MIDDLE)
    })
}

/// The two checksums' digits, as they stand in the file; the footer gets `0` in their places.
fn take_seal(footer: &mut [u8]) -> Result<([u8; 8], [u8; 8]), Fault> {
    let at = find_seal(footer).ok_or(Fault::Foreign("a Parquet file without a txray seal"))?;
    let mut take = |from: usize| {
        let mut digits = [b'0'; 8];
        digits.swap_with_slice(&mut footer[at + from..at + from + 8]);
        digits
    };
    Ok((take(SEAL_PREFIX.len()), take(SEAL_PREFIX.len() + 8 + SEAL_MIDDLE.len())))
}

/// A sealed file whose footer was verified.
#[derive(Debug)]
pub struct SealedFile {
    path: PathBuf,
    /// Facts about the part.
    pub meta: PartMeta,
    /// Rows.
    pub n_rows: u64,
    /// Bytes of the file.
    pub n_bytes: u64,
    file: File,
    metadata: Arc<ParquetMetaData>,
    footer_start: u64,
    /// With `0` for the digits of the seal.
    footer: Vec<u8>,
    file_digits: [u8; 8],
}

impl SealedFile {
    /// Opens a file and verifies its footer; the rows are neither read nor verified yet.
    pub fn open(path: &Path) -> Result<Self, FormatError> {
        Self::open_at(path).map_err(|fault| fault.at(path))
    }

    fn open_at(path: &Path) -> Result<Self, Fault> {
        let mut file = File::open(path)?;
        let (footer_start, mut footer) = read_footer(&mut file)?;
        let n_bytes = footer_start + footer.len() as u64;
        let (footer_digits, file_digits) = take_seal(&mut footer)?;
        if footer_digits != digits(crc32fast::hash(&footer)) {
            return Err(Fault::Damaged("the footer's checksum does not match".to_owned()));
        }
        let metadata = guarded(|| Ok(ParquetMetaDataReader::decode_metadata(&footer[..footer.len() - 8])?))?;
        let meta = part_meta(&metadata)?;
        let n_rows = metadata.file_metadata().num_rows().max(0) as u64;
        Ok(SealedFile {
            path: path.to_owned(),
            meta,
            n_rows,
            n_bytes,
            file,
            metadata: Arc::new(metadata),
            footer_start,
            footer,
            file_digits,
        })
    }

    /// Row groups.
    pub fn n_groups(&self) -> usize {
        self.metadata.num_row_groups()
    }

    /// Reads the whole file, verifies it, and gives its rows in batches of at most `batch_rows`.
    pub fn rows(self, batch_rows: usize) -> Result<Rows, FormatError> {
        self.rows_of(batch_rows, &|_| true)
    }

    /// As [`SealedFile::rows`], without the row groups that are not `wanted`. Where the footer tells that none is, nothing else is
    /// read or verified.
    pub fn rows_of(self, batch_rows: usize, wanted: &GroupTest) -> Result<Rows, FormatError> {
        let path = self.path.clone();
        self.rows_at(batch_rows, wanted).map_err(|fault| fault.at(path))
    }

    /// Reads and verifies the whole file, without looking at its rows.
    pub fn verify(mut self) -> Result<PartMeta, FormatError> {
        match self.verified() {
            Ok(_) => Ok(self.meta),
            Err(fault) => Err(fault.at(self.path)),
        }
    }

    fn rows_at(mut self, batch_rows: usize, wanted: &GroupTest) -> Result<Rows, Fault> {
        let metadata = self.metadata.clone();
        let mut groups: Vec<usize> = (0..metadata.num_row_groups()).collect();
        groups.retain(|&i| wanted(&Group::new(metadata.row_group(i), None)));
        let mut reader = None;
        if !groups.is_empty() {
            let bytes = self.verified()?;
            let file = Arc::new(bytes.clone());
            groups.retain(|&i| wanted(&Group::new(metadata.row_group(i), Some(&file))));
            reader = Some(guarded(|| {
                let metadata = ArrowReaderMetadata::try_new(metadata.clone(), ArrowReaderOptions::new())?;
                let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(bytes, metadata);
                Ok(builder.with_batch_size(batch_rows).with_row_groups(groups.clone()).build()?)
            })?);
        }
        Ok(Rows {
            path: self.path,
            meta: self.meta,
            n_groups: groups.len(),
            n_all_groups: metadata.num_row_groups(),
            n_all_rows: self.n_rows,
            reader,
        })
    }

    fn verified(&mut self) -> Result<Bytes, Fault> {
        if self.n_bytes > MAX_FILE {
            return Err(Fault::Damaged("larger than any file of a recording".to_owned()));
        }
        let mut bytes = Vec::with_capacity(self.n_bytes as usize);
        self.file.seek(SeekFrom::Start(0))?;
        (&mut self.file).take(self.n_bytes).read_to_end(&mut bytes)?;
        if bytes.len() as u64 != self.n_bytes {
            return Err(Fault::Damaged("cut off while it was read".to_owned()));
        }
        let mut crc = crc32fast::Hasher::new();
        crc.update(&bytes[..self.footer_start as usize]);
        crc.update(&self.footer);
        if digits(crc.finalize()) != self.file_digits {
            return Err(Fault::Damaged("the checksum does not match".to_owned()));
        }
        Ok(Bytes::from(bytes))
    }
}

/// Verified rows of a sealed file.
pub struct Rows {
    path: PathBuf,
    /// Facts about the part.
    pub meta: PartMeta,
    /// Row groups that they are from.
    pub n_groups: usize,
    /// Row groups of the file.
    pub n_all_groups: usize,
    /// Rows of the file.
    pub n_all_rows: u64,
    /// `None`: no row is wanted.
    reader: Option<ParquetRecordBatchReader>,
}

impl Iterator for Rows {
    type Item = Result<RecordBatch, FormatError>;

    fn next(&mut self) -> Option<Self::Item> {
        let reader = self.reader.as_mut()?;
        let next = guarded(|| Ok(reader.next().transpose()?));
        next.map_err(|fault| fault.at(&self.path)).transpose()
    }
}

fn digits(crc: u32) -> [u8; 8] {
    std::array::from_fn(|i| b"0123456789abcdef"[(crc >> (28 - 4 * i)) as usize & 15])
}

fn part_meta(metadata: &ParquetMetaData) -> Result<PartMeta, Fault> {
    let entries = metadata.file_metadata().key_value_metadata();
    let value = |key: &str| {
        entries
            .and_then(|entries| entries.iter().find(|entry| entry.key == key))
            .and_then(|entry| entry.value.as_deref())
            .ok_or_else(|| Fault::Damaged(format!("metadata {key} is missing")))
    };
    parse_meta(value(key::DATASET)?, value(key::SCHEMA)?, value(key::WRITER)?, value(key::RUN)?, || {
        value(key::PART)
    })
}

/// Puts a part's facts together. The version is looked at first: nothing else need mean the same in a later one.
pub(super) fn parse_meta<'a>(
    dataset: &str,
    schema: &str,
    writer: &str,
    run: &str,
    part: impl FnOnce() -> Result<&'a str, Fault>,
) -> Result<PartMeta, Fault> {
    let schema: u32 = schema.parse().map_err(|_| Fault::Damaged(format!("version {schema} is no number")))?;
    if schema > VERSION {
        return Err(Fault::Future { found: schema });
    }
    let mut meta: PartMeta =
        serde_json::from_str(part()?).map_err(|error| Fault::Damaged(format!("metadata: {error}")))?;
    meta.dataset = Dataset::ALL
        .into_iter()
        .find(|known| known.as_str() == dataset)
        .ok_or_else(|| Fault::Damaged(format!("unknown dataset {dataset}")))?;
    meta.run = run.parse::<RunId>().map_err(|_| Fault::Damaged("the run's id is no number".to_owned()))?;
    meta.schema = schema;
    meta.writer = writer.to_owned();
    Ok(meta)
}

/// Runs code of the Parquet and Arrow libraries on bytes from outside. A checksum keeps accidents out, but whoever makes
/// a file can make its checksum too, and those libraries panic on some malformed input: here a panic is a bad file.
pub(super) fn guarded<T>(read: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
    catch_unwind(AssertUnwindSafe(read))
        .unwrap_or_else(|_| Err(Fault::Damaged("its contents make no sense".to_owned())))
}
