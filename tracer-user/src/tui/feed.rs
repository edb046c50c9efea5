//! What the screen reads: histograms, dots, and what the pipeline holds.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::link::Template;
use crate::{
    event::Counters,
    metrics::{Counter, Metrics},
    pipeline::Snapshot,
    report::loss::Losses,
    sink::{
        Sink, SinkError,
        histogram::{HistogramSink, SharedHistograms},
        patterns::{PatternSink, SharedPatterns},
        recent::{RecentSink, SharedRecent},
        xlog::{SharedXlog, XlogSink},
    },
    time::WallTime,
    transaction::TransactionBatch,
};

/// Stretches of event time with losses that are remembered; beyond it the oldest is forgotten on the chart (its counts
/// stay in the loss line). More than an hour of losses in every other second.
const MAX_MARKS: usize = 2_000;

/// Where a screen's data come from. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Feed {
    /// Tables.
    pub histograms: SharedHistograms,
    /// Dots.
    pub xlog: SharedXlog,
    /// The newest transactions whole.
    pub recent: SharedRecent,
    /// What was found in the dots.
    pub patterns: SharedPatterns,
    /// In flight, lost.
    pub status: SharedStatus,
}

impl Feed {
    /// An empty one, with room for so many dots and whole transactions.
    pub fn with_room(dots: usize, rows: usize) -> Feed {
        Feed {
            histograms: SharedHistograms::default(),
            xlog: SharedXlog::new(dots),
            recent: SharedRecent::new(rows),
            patterns: SharedPatterns::default(),
            status: SharedStatus::default(),
        }
    }

    /// The sinks that fill it; `metrics` are the run's own counters.
    pub fn sinks(&self, metrics: &Metrics) -> Vec<Box<dyn Sink>> {
        vec![
            Box::new(HistogramSink::new(self.histograms.clone())),
            Box::new(XlogSink::new(self.xlog.clone(), metrics.clone())),
            Box::new(RecentSink::new(self.recent.clone())),
            Box::new(PatternSink::new(self.patterns.clone(), metrics.clone())),
            Box::new(StatusSink::new(self.status.clone(), metrics.clone())),
        ]
    }
}

/// What the screen is called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heading {
    /// What runs.
    pub title: String,
    /// What is traced; empty = the title says it.
    pub whom: String,
    /// What this run does without, each with the reason: features that did not load.
    pub missing: Vec<(String, String)>,
    /// Rights that this run lacks and that some processes cannot be looked into without.
    pub lacks: Vec<String>,
    /// The filter's expression.
    pub filter: Option<String>,
    /// A recording is shown, not the present.
    pub replay: bool,
    /// Of what was recorded, some protocols only.
    pub some_protocols: bool,
    /// Time across the XLog at first, ns; `None` = the screen's own choice.
    pub window_ns: Option<u64>,
    /// How to make a link of a transaction.
    pub template: Option<Template>,
}

/// What the pipeline holds, as the screen shows it.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// In flight and lost.
    pub snapshot: Snapshot,
    /// Losses by name.
    pub losses: Losses,
    /// Stretches of event time, `from..to`, in which something was lost, oldest first.
    pub marks: VecDeque<(WallTime, WallTime)>,
    /// Transactions that the filter left out.
    pub filtered: u64,
    /// Dots that fell out of the ring.
    pub evicted: u64,
    /// Nothing more will come.
    pub finished: bool,
    /// The counters that came before the last ones.
    pub counters_before: Option<Arc<Counters>>,
    /// When it was observed last; the most that was lost by then, by name and requests for certain.
    observed: (WallTime, u64, u64),
}

impl Status {
    /// Takes a newer snapshot: where more was lost than before, the time between the two is marked.
    pub fn observe(&mut self, snapshot: &Snapshot, metrics: &Metrics) {
        self.look(snapshot, metrics);
        let (last, total, low) = self.observed;
        let now = (self.losses.total(), self.losses.requests.low);
        self.observed = (snapshot.wall, now.0.max(total), now.1.max(low));
        // The upper bound of requests is no sign: once something was lost it goes up and down with what is in flight.
        if now.0 > total || now.1 > low {
            // Counters come once a second, so a loss may be as old as that.
            let before = snapshot.wall.0.saturating_sub(1_000_000_000);
            let from = WallTime(last.0.min(before).max(before.saturating_sub(1_000_000_000)));
            match self.marks.back_mut() {
                Some((_, to)) if *to >= from => *to = snapshot.wall,
                _ => {
                    if self.marks.len() >= MAX_MARKS {
                        self.marks.pop_front();
                    }
                    self.marks.push_back((from, snapshot.wall));
                }
            }
        }
    }

    /// Goes on from a snapshot: what was lost before it is not marked.
    pub fn resume(&mut self, snapshot: &Snapshot, metrics: &Metrics) {
        self.look(snapshot, metrics);
        self.observed = (snapshot.wall, self.losses.total(), self.losses.requests.low);
    }

    /// Takes a snapshot of an instant at which the run itself does not look: what is marked must not depend on where somebody stopped.
    pub fn look(&mut self, snapshot: &Snapshot, metrics: &Metrics) {
        self.losses = Losses { unknown: self.losses.unknown, ..Losses::collect(snapshot, metrics) };
        let times = [&self.snapshot, snapshot].map(|s| s.counters.as_ref().map(|counters| counters.time));
        if times[0] != times[1] {
            self.counters_before = self.snapshot.counters.take();
        }
        self.snapshot.clone_from(snapshot);
        self.filtered = metrics.get(Counter::Filtered);
        self.evicted = metrics.get(Counter::XlogEvicted);
    }
}

/// A [`Status`] that a sink fills and the screen reads.
#[derive(Clone, Debug, Default)]
pub struct SharedStatus(Arc<Mutex<Status>>);

impl SharedStatus {
    /// Reads.
    pub fn lock(&self) -> MutexGuard<'_, Status> {
        // What is in there is shown, not computed with: a poisoned lock is as good as any.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing more will come.
    pub fn finished(&self) {
        self.lock().finished = true;
    }
}

/// Fills a [`SharedStatus`].
#[derive(Debug)]
pub struct StatusSink {
    status: SharedStatus,
    metrics: Metrics,
}

impl StatusSink {
    /// Fills `status`; `metrics` are this run's own counters.
    pub fn new(status: SharedStatus, metrics: Metrics) -> StatusSink {
        StatusSink { status, metrics }
    }
}

impl Sink for StatusSink {
    fn name(&self) -> &'static str {
        "screen"
    }

    fn write(&mut self, _: &TransactionBatch) -> Result<(), SinkError> {
        Ok(())
    }

    fn observe(&mut self, snapshot: &Snapshot) -> Result<(), SinkError> {
        self.status.lock().observe(snapshot, &self.metrics);
        Ok(())
    }

    fn finish(&mut self) -> Result<(), SinkError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::LostRequests;

    #[test]
    fn time_in_which_more_was_lost_is_marked_and_quiet_time_is_not() {
        let metrics = Metrics::default();
        let mut status = Status::default();
        let second = 1_000_000_000;
        let mut at = |s: u64, low: u64| {
            let requests = LostRequests { low, high: low + s % 7 };
            let snapshot =
                Snapshot { wall: WallTime(s * second), lost_requests: requests, ..Snapshot::default() };
            status.observe(&snapshot, &metrics);
        };
        at(100, 0);
        at(101, 0);
        at(102, 5);
        at(103, 5);
        at(104, 5);
        at(110, 6);
        let marks: Vec<_> = status.marks.iter().map(|(from, to)| (from.0 / second, to.0 / second)).collect();
        assert_eq!(marks, [(101, 102), (108, 110)]);
        assert!(status.losses.any());
    }
}
