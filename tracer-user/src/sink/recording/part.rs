//! The part that is being written: one dataset's open journal.

use std::{
    fs::File,
    os::unix::fs::FileExt as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::Sender,
    },
};

use arrow_array::RecordBatch;

use super::{Folder, RecordingConfig, seal::SealJob};
use crate::{
    metrics::Metrics,
    schema::{
        Dataset, Fault, HOUR_NS, PartMeta, RunId, VERSION,
        journal::{FrameMeta, encode_file_header, encode_frame},
    },
};

/// What both datasets of a run share.
#[derive(Debug)]
pub(in crate::sink) struct Shared {
    pub(in crate::sink) config: RecordingConfig,
    pub(in crate::sink) metrics: Metrics,
    pub(in crate::sink) root: Folder,
    pub(in crate::sink) run: RunId,
    /// Wall time of the run's first event, ns; 0 = none came yet.
    run_start_ns: AtomicU64,
}

impl Shared {
    pub(super) fn new(config: RecordingConfig, metrics: Metrics, root: Folder, run: RunId) -> Self {
        Shared { config, metrics, root, run, run_start_ns: AtomicU64::new(0) }
    }

    /// Wall time of the run's first event; set by whoever knows a time first.
    fn run_start_ns(&self, now_ns: u64) -> u64 {
        match self.run_start_ns.compare_exchange(0, now_ns, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => now_ns,
            Err(start) => start,
        }
    }
}

/// Writes the parts of one dataset, one after the other.
#[derive(Debug)]
pub(in crate::sink) struct PartWriter {
    shared: Arc<Shared>,
    dataset: Dataset,
    sealer: Sender<SealJob>,
    open: Option<OpenPart>,
    /// Latest wall time of all rows so far, ns.
    horizon_ns: u64,
    /// Bytes of all frames so far.
    n_bytes: u64,
    /// The frame being made; kept for its memory.
    frame: Vec<u8>,
}

#[derive(Debug)]
struct OpenPart {
    file: File,
    folder: Arc<Folder>,
    meta: PartMeta,
    rows: u64,
    /// Bytes of whole frames.
    length: u64,
}

impl PartWriter {
    pub(super) fn new(shared: Arc<Shared>, dataset: Dataset, sealer: Sender<SealJob>) -> Self {
        PartWriter { shared, dataset, sealer, open: None, horizon_ns: 0, n_bytes: 0, frame: Vec::new() }
    }

    /// Appends rows; begins a part if none is open. After an error nothing of them is there.
    pub(super) fn append(
        &mut self,
        frame: FrameMeta,
        first_time_ns: u64,
        checkpoint: bool,
        batch: &RecordBatch,
    ) -> Result<(), Fault> {
        self.frame.clear();
        encode_frame(frame, batch, &mut self.frame)?;
        if self.open.is_none() {
            self.open = Some(self.begin(frame.first, first_time_ns, checkpoint)?);
        }
        let Some(part) = &mut self.open else { return Ok(()) };
        if let Err(error) = part.file.write_all_at(&self.frame, part.length) {
            // What was written of the frame goes, so that the space it took is free again. Should that fail too, the next
            // frame is written over it.
            let _ = part.file.set_len(part.length);
            if part.rows == 0 {
                // Not one row: the part begins when there is room, at the rows that come then.
                let _ = part.folder.remove_file(&part.meta.journal_name());
                self.open = None;
            }
            return Err(error.into());
        }
        part.length += self.frame.len() as u64;
        part.rows += u64::from(frame.rows);
        part.meta.next = frame.next;
        part.meta.last_time_ns = part.meta.last_time_ns.max(frame.last_time_ns);
        self.horizon_ns = self.horizon_ns.max(frame.last_time_ns);
        self.n_bytes += self.frame.len() as u64;
        if self.frame.capacity() > 64 << 20 {
            // A large checkpoint went through: do not keep its memory.
            self.frame = Vec::new();
        }
        Ok(())
    }

    fn begin(&self, first: u64, first_time_ns: u64, checkpoint: bool) -> Result<OpenPart, Fault> {
        let meta = PartMeta {
            dataset: self.dataset,
            run: self.shared.run,
            schema: VERSION,
            writer: env!("CARGO_PKG_VERSION").to_owned(),
            run_start_ns: self.shared.run_start_ns(first_time_ns),
            first,
            next: first,
            first_time_ns,
            last_time_ns: first_time_ns,
            horizon_ns: self.horizon_ns,
            lost: 0,
            checkpoint,
            checkpoints: Vec::new(),
            payload: self.shared.config.payload,
        };
        let [date, hour] = meta.partition();
        let folder = self.shared.root.sub(self.dataset.as_str())?.sub(&date)?.sub(&hour)?;
        let name = meta.journal_name();
        let header = encode_file_header(&meta)?;
        let file = folder.create_file(&name)?;
        if let Err(error) = file.write_all_at(&header, 0) {
            let _ = folder.remove_file(&name);
            return Err(error.into());
        }
        Ok(OpenPart { file, folder: Arc::new(folder), meta, rows: 0, length: header.len() as u64 })
    }

    /// Whether the part is as long as it should be: `1` = cut at the next occasion, `2` and more = overdue.
    pub(super) fn fullness(&self) -> u64 {
        let Some(OpenPart { meta, rows, length, .. }) = &self.open else { return 0 };
        let config = &self.shared.config;
        let span = meta.last_time_ns.saturating_sub(meta.first_time_ns);
        let share = |value: u64, limit: u64| value / limit.max(1);
        let rotate_after = u64::try_from(config.rotate_after.as_nanos()).unwrap_or(u64::MAX);
        let hour = u64::from(meta.last_time_ns / HOUR_NS != meta.first_time_ns / HOUR_NS);
        share(*rows, config.rotate_rows)
            .max(share(*length, config.rotate_bytes))
            .max(share(span, rotate_after))
            .max(hour)
    }

    /// Bytes of all frames of the run so far.
    pub(super) fn n_bytes(&self) -> u64 {
        self.n_bytes
    }

    /// The hour in which the open part began, since 1970.
    pub(super) fn hour(&self) -> Option<u64> {
        self.open.as_ref().map(|part| part.meta.first_time_ns / HOUR_NS)
    }

    /// Ends the part: it is handed to the sealer. The next rows begin another one.
    pub(super) fn end(&mut self) {
        if let Some(OpenPart { file, folder, meta, .. }) = self.open.take() {
            drop(file);
            // The sealer lives longer than the writers; without it the journal stays, which readers take as it is.
            let _ =
                self.sealer.send(SealJob { folder, journal: meta.journal_name(), now_ns: self.horizon_ns });
        }
    }
}
