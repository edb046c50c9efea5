//! The sink for the dataset `transactions` of a recording.

use std::sync::{Arc, Mutex};

use super::{
    Sink, SinkError,
    recording::{TransactionWriter, lock_transactions},
};
use crate::transaction::TransactionBatch;

/// Writes transactions beside the events of the same recording; made by
/// [`Recorder::transactions`](super::recording::Recorder::transactions). What cannot be written is counted
/// (`lost.sink_write`) and is never an error: the run goes on, and shows as a gap in `seq`.
#[derive(Debug)]
pub struct ParquetSink {
    writer: Arc<Mutex<TransactionWriter>>,
}

impl ParquetSink {
    pub(super) fn new(writer: Arc<Mutex<TransactionWriter>>) -> Self {
        ParquetSink { writer }
    }
}

impl Sink for ParquetSink {
    fn name(&self) -> &'static str {
        "parquet"
    }

    fn write(&mut self, batch: &TransactionBatch) -> Result<(), SinkError> {
        // The writer counts what it loses.
        lock_transactions(&self.writer).write(&batch.transactions);
        Ok(())
    }

    fn finish(&mut self) -> Result<(), SinkError> {
        lock_transactions(&self.writer).flush();
        Ok(())
    }
}
