//! The newest transactions whole, for the screen's lists and details; older ones are in the recording.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;

use super::{Sink, SinkError};
use crate::{
    time::WallTime,
    transaction::{Transaction, TransactionBatch},
};

/// Rows kept by default: 65,536 × some 350 bytes (names are shared) = 23 MB.
pub const DEFAULT_ROWS: usize = 65_536;

/// The newest finished transactions, in the order in which they left the pipeline.
#[derive(Debug)]
pub struct Recent {
    rows: VecDeque<Arc<Transaction>>,
    capacity: usize,
    evicted: u64,
}

impl Recent {
    /// Room for `capacity` rows (at least one).
    pub fn new(capacity: usize) -> Recent {
        Recent { rows: VecDeque::new(), capacity: capacity.max(1), evicted: 0 }
    }

    /// Takes one in, if it is finished; the oldest goes when there is no room.
    pub fn push(&mut self, transaction: &Transaction) {
        if !transaction.is_finished() {
            return;
        }
        if self.rows.len() >= self.capacity {
            self.rows.pop_front();
            self.evicted += 1;
        }
        // A slice of a captured batch would keep the whole batch in memory.
        let target = transaction.target.as_deref().map(Bytes::copy_from_slice);
        self.rows.push_back(Arc::new(Transaction { target, ..transaction.clone() }));
    }

    /// Rows whose end lies in `from..to`, in order.
    pub fn rows(
        &self,
        from: WallTime,
        to: WallTime,
    ) -> impl DoubleEndedIterator<Item = &Arc<Transaction>> + ExactSizeIterator {
        let start = self.rows.partition_point(|row| row.end_time < from);
        let end = self.rows.partition_point(|row| row.end_time < to);
        self.rows.range(start..end.max(start))
    }

    /// The row with this number, if it is still kept.
    pub fn get(&self, seq: u64) -> Option<&Arc<Transaction>> {
        self.rows.binary_search_by_key(&seq, |row| row.seq).ok().and_then(|at| self.rows.get(at))
    }

    /// Rows that were kept once and are no longer.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

/// A [`Recent`] that a sink fills and the screen reads.
#[derive(Clone, Debug)]
pub struct SharedRecent(Arc<Mutex<Recent>>);

impl SharedRecent {
    /// An empty one.
    pub fn new(capacity: usize) -> SharedRecent {
        SharedRecent(Arc::new(Mutex::new(Recent::new(capacity))))
    }

    /// Reads; the sink waits meanwhile (its queue takes that up).
    pub fn lock(&self) -> MutexGuard<'_, Recent> {
        // The rows stay whole if a reader panics, so a poisoned lock is as good as any.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Fills a [`SharedRecent`].
#[derive(Debug)]
pub struct RecentSink(SharedRecent);

impl RecentSink {
    /// Fills `recent`.
    pub fn new(recent: SharedRecent) -> RecentSink {
        RecentSink(recent)
    }
}

impl Sink for RecentSink {
    fn name(&self) -> &'static str {
        "recent"
    }

    fn write(&mut self, batch: &TransactionBatch) -> Result<(), SinkError> {
        let mut recent = self.0.lock();
        for transaction in &batch.transactions {
            recent.push(transaction);
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), SinkError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        sink::compliance::{self, transaction},
        transaction::End,
    };

    #[test]
    fn the_newest_are_kept_and_found_by_time_and_number() {
        let shared = SharedRecent::new(250);
        let mut sink = RecentSink::new(shared.clone());
        for batch in compliance::batches(6) {
            sink.write(&batch).unwrap();
        }
        let recent = shared.lock();
        assert_eq!((recent.len(), recent.evicted()), (250, 150));
        let all = recent.rows(WallTime(0), WallTime(u64::MAX));
        assert!(all.is_sorted_by_key(|row| (row.end_time, row.seq)));
        let last = recent.rows(WallTime(0), WallTime(u64::MAX)).next_back().unwrap();
        assert_eq!(recent.get(last.seq), Some(last));
        assert_eq!(recent.get(0), None, "fell out");
        let from = transaction(410).end_time;
        assert!(recent.rows(from, WallTime(u64::MAX)).all(|row| row.end_time >= from));
    }

    #[test]
    fn what_has_not_finished_is_no_row() {
        let mut recent = Recent::new(8);
        recent.push(&Transaction { end: End::TracerStopped, ..transaction(1) });
        assert!(recent.is_empty());
    }
}
