//! The newest intervals of one length.

use std::collections::VecDeque;

use crate::{
    time::WallTime,
    transaction::rollup::{Interval, Resolution},
};

/// The newest intervals of one length, in the order of time; those in which nobody watched are not there.
#[derive(Clone, Debug)]
pub(super) struct Ring {
    resolution: Resolution,
    intervals: VecDeque<Interval>,
    capacity: usize,
    max_bytes: usize,
    bytes: usize,
    /// What began before it may have been here once, and is no longer.
    kept_from: WallTime,
}

impl Ring {
    pub(super) fn new(resolution: Resolution, capacity: usize, max_bytes: usize) -> Ring {
        Ring { resolution, intervals: VecDeque::new(), capacity, max_bytes, bytes: 0, kept_from: WallTime(0) }
    }

    pub(super) fn kept_from(&self) -> WallTime {
        self.kept_from
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds a part of the interval that it lies in.
    pub(super) fn merge(&mut self, part: &Interval) {
        let start = self.resolution.begin(part.start);
        if start < self.kept_from {
            return;
        }
        let at = self.intervals.partition_point(|known| known.start < start);
        if self.intervals.get(at).is_none_or(|known| known.start != start) {
            self.intervals.insert(at, Interval::new(start));
            self.bytes += size_of::<Interval>();
        }
        let interval = &mut self.intervals[at];
        let before = interval.bytes();
        interval.merge(part);
        interval.shrink();
        self.bytes = (self.bytes + interval.bytes()).saturating_sub(before);
        // The newest stays, however large it is.
        while self.intervals.len() > 1
            && (self.intervals.len() > self.capacity || self.bytes > self.max_bytes)
        {
            if let Some(oldest) = self.intervals.pop_front() {
                self.bytes = self.bytes.saturating_sub(oldest.bytes());
                self.kept_from = WallTime(oldest.start.0 + self.resolution.ns());
            }
        }
    }

    /// Intervals that begin in `from..to`, in order.
    pub(super) fn range(&self, from: WallTime, to: WallTime) -> impl Iterator<Item = &Interval> {
        let begin = self.intervals.partition_point(|known| known.start < from);
        let end = self.intervals.partition_point(|known| known.start < to);
        self.intervals.range(begin..end.max(begin))
    }
}
