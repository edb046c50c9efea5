//! Sinks: where transactions go. One file each; nothing to the left of here knows which exist.

use crate::{pipeline::Snapshot, time::WallTime, transaction::TransactionBatch};

#[cfg(test)]
pub(crate) mod compliance;
pub mod fanout;
pub mod histogram;
pub mod jsonl;
pub mod parquet;
pub mod patterns;
pub mod recent;
pub mod recording;
pub mod rollup;
pub mod xlog;

/// A sink. Takes time only from the data: the same batches in give the same bytes out.
pub trait Sink: Send {
    /// Label of its counters.
    fn name(&self) -> &'static str;

    /// Takes a batch. May block (it runs on its own thread behind a bounded queue); a slow sink loses its own data.
    fn write(&mut self, batch: &TransactionBatch) -> Result<(), SinkError>;

    /// What the pipeline held (in flight, lost) at an instant of event time; comes now and then, before a batch.
    fn observe(&mut self, snapshot: &Snapshot) -> Result<(), SinkError> {
        let _ = snapshot;
        Ok(())
    }

    /// Event time has passed `watermark`: windows before it may close.
    fn advance(&mut self, watermark: WallTime) -> Result<(), SinkError> {
        let _ = watermark;
        Ok(())
    }

    /// Last call, once, also after an interrupt: flush, write footers.
    fn finish(&mut self) -> Result<(), SinkError>;
}

/// Why a sink failed. The run goes on without what it lost; the loss is counted.
#[derive(Debug, thiserror::Error)]
#[error("{sink}: {doing}: {source}")]
pub struct SinkError {
    /// Which sink.
    pub sink: &'static str,
    /// What was being done.
    pub doing: String,
    /// Cause.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}
