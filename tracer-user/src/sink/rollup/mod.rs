//! Rollups: what happened in each second, minute and hour, kept in bounded rings for the screen and handed to the recording.
//!
//! All three come from one commit: a transaction is counted in the second of its end, a second is added to its minute and its hour when
//! it is over, so that the sums of all three are those of the transactions. A second is over when the watermark has passed it. Who
//! comes later (the wall clock was set back) is counted in a further interval of the same begin: those of one begin add up.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Sink, SinkError, recording::RollupRecorder};
use crate::{pipeline::Snapshot, time::WallTime, transaction::TransactionBatch};

mod ring;
mod rollups;

use self::rollups::{Closed, Commit};
pub use self::rollups::{MAX_SERVICES, Rollups};

/// [`Rollups`] that a sink fills and a screen reads.
#[derive(Clone, Debug, Default)]
pub struct SharedRollups(Arc<Mutex<Rollups>>);

impl SharedRollups {
    /// For a run that nobody looks at: no more than the newest interval of each length.
    pub fn unread() -> SharedRollups {
        SharedRollups(Arc::new(Mutex::new(Rollups::with_bounds([1; 3], 0))))
    }

    /// Reads; the sink waits meanwhile.
    pub fn lock(&self) -> MutexGuard<'_, Rollups> {
        // Sums stay whole if a reader panics, so a poisoned lock is as good as any.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Fills [`SharedRollups`], and the recording if there is one.
#[derive(Debug, Default)]
pub struct RollupSink {
    commit: Commit,
    rollups: SharedRollups,
    recording: Option<RollupRecorder>,
}

impl RollupSink {
    /// Fills `rollups`; what is over goes to `recording` as well.
    pub fn new(rollups: SharedRollups, recording: Option<RollupRecorder>) -> RollupSink {
        RollupSink { commit: Commit::default(), rollups, recording }
    }

    fn hand_over(&mut self, closed: Closed) {
        if closed.is_empty() {
            return;
        }
        self.rollups.lock().take(&closed);
        if let Some(recording) = &self.recording {
            recording.write(&closed);
        }
    }
}

impl Sink for RollupSink {
    fn name(&self) -> &'static str {
        "rollup"
    }

    fn write(&mut self, batch: &TransactionBatch) -> Result<(), SinkError> {
        for transaction in &batch.transactions {
            self.commit.record(transaction);
        }
        let closed = self.commit.close_late();
        self.hand_over(closed);
        Ok(())
    }

    fn observe(&mut self, snapshot: &Snapshot) -> Result<(), SinkError> {
        self.commit.observe(snapshot);
        Ok(())
    }

    fn advance(&mut self, watermark: WallTime) -> Result<(), SinkError> {
        let closed = self.commit.advance(watermark);
        self.hand_over(closed);
        Ok(())
    }

    fn finish(&mut self) -> Result<(), SinkError> {
        let closed = self.commit.finish();
        self.hand_over(closed);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
