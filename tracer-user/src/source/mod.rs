//! Sources: where events come from. Live capture, replay and the synthetic generator push into the same pipeline.

use bytes::Bytes;

use crate::event::EventBatch;

mod code_reader;
pub mod executables;
pub mod heads;
pub mod kernel_names;
pub mod live;
pub mod now;
pub mod pcap;
mod python_frames;
pub mod recording;
pub mod replay;
pub mod rollups;
pub mod stacks;
pub mod symbols;
pub mod synthetic;
pub mod targets;

/// A source of events. Pulled by the pipeline's thread.
pub trait Source {
    /// The next batch; `None` at the end. A live source returns at least every 100 ms, with a tick if nothing happened.
    fn next_batch(&mut self) -> Result<Option<EventBatch>, SourceError>;

    /// Asked after each batch, before it is pushed: `Some` when the pipeline's state so far does not lead to this batch
    /// (replay: the start, another run in the same folder, the first whole file behind a hole). The caller finishes the
    /// pipeline it has, drops what that gives up as `tracer_stopped`, and goes on with one made from the checkpoint.
    fn restart(&mut self) -> Option<Restart> {
        None
    }
}

/// State from which a pipeline continues.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restart {
    /// A checkpoint of the pipeline; empty = a new pipeline.
    pub checkpoint: Bytes,
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
