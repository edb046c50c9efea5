//! Sources: where events come from. Live capture, replay and the synthetic generator push into the same pipeline.

use crate::event::EventBatch;

/// A source of events. Pulled by the pipeline's thread.
pub trait Source {
    /// The next batch; `None` at the end. A live source returns at least every 100 ms, with a tick if nothing happened.
    fn next_batch(&mut self) -> Result<Option<EventBatch>, SourceError>;
}

/// Why a source failed.
#[derive(Debug, thiserror::Error)]
#[error("{doing}: {source}")]
pub struct SourceError {
    /// What was being done, with the file if there is one.
    pub doing: String,
    /// Cause.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}
