//! What reaches the sinks of a run, and when: decided by the events alone, so that a live run and a replay of its recording hand
//! over the same at the same instants.

use std::sync::Arc;

use crate::{
    conn::order,
    event::Event,
    metrics::{Counter, Metrics},
    pipeline::{LookedFor, Pipeline, Snapshot},
    report::filter::Filter,
    time::BootTime,
    transaction::{TransactionBatch, WallRange},
};

/// Sinks hear of what the pipeline holds at the first event of each such stretch of event time, ns: at the same instants, wherever
/// a replay began.
const OBSERVE_EVERY_NS: u64 = 250_000_000;
/// Transactions go to the sinks this often (event time), or when so many are ready: a batch costs each sink a wake-up and a place
/// in its queue, however few it holds.
const DELIVER_EVERY_NS: u64 = 20_000_000;
const DELIVER_AT: usize = 1024;

/// Takes what the sinks get.
pub trait Out {
    /// Transactions, and what the pipeline held behind them if that is due.
    fn take(&mut self, batch: TransactionBatch, snapshot: Option<Arc<Snapshot>>);
}

impl<F: FnMut(TransactionBatch, Option<Arc<Snapshot>>)> Out for F {
    fn take(&mut self, batch: TransactionBatch, snapshot: Option<Arc<Snapshot>>) {
        self(batch, snapshot);
    }
}

/// What a run came to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    /// Events, ticks left out.
    pub events: u64,
    /// Finished transactions, also those that the filter or `--protocol` left out.
    pub transactions: u64,
    /// Requests in flight at the end.
    pub open: u64,
    /// Transactions that the filter or `--protocol` left out.
    pub filtered: u64,
    /// First event of the run's own time.
    pub first: Option<BootTime>,
    /// Latest event.
    pub last: BootTime,
}

impl Totals {
    /// From the first event to the last.
    pub fn duration_ns(&self) -> u64 {
        self.first.map_or(0, |first| self.last.0.saturating_sub(first.0))
    }
}

/// Hands on what leaves a pipeline.
#[derive(Debug)]
pub struct Delivery {
    filter: Option<Filter>,
    looked_for: LookedFor,
    /// What is outside is no part of the run.
    range: Option<WallRange>,
    metrics: Metrics,
    /// Sums so far.
    pub totals: Totals,
    /// Stretch of the last snapshot that was handed on.
    observed: u64,
    /// Event time of the last batch.
    delivered: u64,
}

impl Delivery {
    /// Lets through what is of a protocol that is looked for, and what `filter` and `range` do; what the first two leave out is counted.
    pub fn new(
        looked_for: LookedFor,
        filter: Option<Filter>,
        range: Option<WallRange>,
        metrics: Metrics,
    ) -> Delivery {
        Delivery { filter, looked_for, range, metrics, totals: Totals::default(), observed: 0, delivered: 0 }
    }

    /// From now on what ends outside of `range` is left out.
    pub fn cut_to(&mut self, range: WallRange) {
        self.range = Some(range);
    }

    /// Event time that an event brings; `None` for what the machine said before the first probe was attached, which is no part of
    /// the run's time.
    pub fn time_of(event: &Event) -> Option<BootTime> {
        let is_fact = matches!(event, Event::Listening(_) | Event::ProcessFacts(_));
        order::time(event).known().filter(|_| !is_fact)
    }

    /// Pushes an event. What the sinks are to see of the time before it they see first: the pipeline is looked at between the same two events, however
    /// the events were cut into batches.
    pub fn push(&mut self, event: &Event, pipeline: &mut Pipeline, out: &mut impl Out) {
        if let Some(time) = Delivery::time_of(event) {
            self.totals.first.get_or_insert(time);
            if time.0 / OBSERVE_EVERY_NS > self.observed {
                self.observed = time.0 / OBSERVE_EVERY_NS;
                self.observe(pipeline, out);
            }
            self.totals.last = self.totals.last.max(time);
        }
        self.totals.events += u64::from(!matches!(event, Event::Tick(_)));
        pipeline.push(event);
    }

    /// A batch of events has been pushed: hands on what is ready, if it is time.
    pub fn batch_is_over(&mut self, pipeline: &mut Pipeline, out: &mut impl Out) {
        let now = self.totals.last.0;
        if now >= self.delivered.saturating_add(DELIVER_EVERY_NS) || pipeline.n_ready() >= DELIVER_AT {
            self.delivered = now;
            self.deliver(pipeline.drain(), None, out);
        }
    }

    /// Hands on what is ready at an instant at which somebody looks. What the pipeline holds then is for them alone: the sinks of a
    /// run hear of it at the same instants wherever one looks.
    pub fn look(&mut self, pipeline: &mut Pipeline, out: &mut impl Out) -> Snapshot {
        self.deliver(pipeline.drain(), None, out);
        pipeline.snapshot()
    }

    /// Hands on what is ready, and what the pipeline holds.
    fn observe(&mut self, pipeline: &mut Pipeline, out: &mut impl Out) {
        self.delivered = self.totals.last.0;
        let ready = pipeline.drain();
        let snapshot = Arc::new(pipeline.snapshot());
        self.deliver(ready, Some(snapshot), out);
    }

    /// Hands on a batch.
    pub fn deliver(
        &mut self,
        mut batch: TransactionBatch,
        snapshot: Option<Arc<Snapshot>>,
        out: &mut impl Out,
    ) {
        if let Some(range) = self.range {
            batch.transactions.retain(|transaction| {
                // A request that was in flight when a cut replay ended is in the whole one a finished one behind the cut.
                let is_inside = (range.from..range.to).contains(&transaction.end_time);
                is_inside && (transaction.is_finished() || range.to == crate::time::WallTime(u64::MAX))
            });
        }
        let n_all = batch.transactions.len();
        let n_open = batch.transactions.iter().filter(|transaction| !transaction.is_finished()).count();
        self.totals.open += n_open as u64;
        self.totals.transactions += (n_all - n_open) as u64;
        if self.filter.is_some() || self.looked_for != LookedFor::ALL {
            let mut filtered = 0;
            batch.transactions.retain(|transaction| {
                let keep = self.looked_for.keeps(transaction.protocol)
                    && self.filter.as_ref().is_none_or(|filter| filter.matches(transaction));
                filtered += u64::from(!keep && transaction.is_finished());
                keep
            });
            self.totals.filtered += filtered;
            self.metrics.add(Counter::Filtered, filtered);
        }
        if n_all != 0 || snapshot.is_some() || batch.watermark != crate::time::WallTime(0) {
            out.take(batch, snapshot);
        }
    }
}
