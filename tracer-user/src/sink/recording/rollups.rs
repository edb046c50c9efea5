//! The dataset `rollups` of a recording: what is over is written at once, a frame a second.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{PartWriter, Shared};
use crate::{
    metrics::Counter,
    schema::{HOUR_NS, journal::FrameMeta, rollup_rows},
    transaction::rollup::{Interval, Resolution},
};

/// Intervals of one frame: a run that is fed faster than time passes closes many at once.
const MAX_FRAME_INTERVALS: usize = 1_024;

/// Takes the rollups of a run; made by [`Recorder::rollups`](super::Recorder::rollups). What cannot be written is counted
/// (`lost.sink_write`), as rows, and is never an error: the run goes on, and the time shows as not recorded.
#[derive(Clone, Debug)]
pub struct RollupRecorder(Arc<Mutex<RollupWriter>>);

#[derive(Debug)]
struct RollupWriter {
    part: Option<PartWriter>,
    shared: Arc<Shared>,
    /// Number of the next row.
    next: u64,
}

impl RollupRecorder {
    pub(super) fn new(part: PartWriter, shared: Arc<Shared>) -> RollupRecorder {
        RollupRecorder(Arc::new(Mutex::new(RollupWriter { part: Some(part), shared, next: 0 })))
    }

    fn lock(&self) -> MutexGuard<'_, RollupWriter> {
        // A lock is poisoned when its holder panicked, which ends the run anyway.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands what is over to the kernel.
    pub(in crate::sink) fn write(&self, closed: &[(Resolution, Interval)]) {
        let mut writer = self.lock();
        // The hour of an interval's begin is the partition: a frame lies in one.
        for hour in closed.chunk_by(|(_, a), (_, b)| a.start.0 / HOUR_NS == b.start.0 / HOUR_NS) {
            hour.chunks(MAX_FRAME_INTERVALS).for_each(|intervals| writer.append(intervals));
        }
    }

    /// Ends the dataset.
    pub(super) fn close(&self) {
        if let Some(mut part) = self.lock().part.take() {
            part.end();
        }
    }
}

impl RollupWriter {
    fn append(&mut self, intervals: &[(Resolution, Interval)]) {
        let Some((_, first)) = intervals.first() else { return };
        let n_rows = intervals.iter().map(|(_, interval)| rollup_rows::n_rows(interval) as u64).sum::<u64>();
        let last = intervals.iter().map(|(_, interval)| interval.start.0).max().unwrap_or(0);
        let frame = FrameMeta {
            rows: n_rows as u32,
            first: self.next,
            next: self.next + n_rows,
            last_time_ns: last,
            lost: 0,
        };
        self.next = frame.next;
        // The recording may have been finished before its sink.
        let written = self.part.as_mut().is_some_and(|part| {
            if part.hour().is_some_and(|hour| hour != first.start.0 / HOUR_NS) {
                part.end();
            }
            let written = part.append(frame, first.start.0, false, &rollup_rows::encode(intervals));
            if part.fullness() >= 1 {
                part.end();
            }
            written.is_ok()
        });
        if !written {
            self.shared.metrics.add(Counter::SinkWrite, n_rows);
        }
    }
}
