//! The fan-out: each sink on its own thread behind its own bounded queue, so that a slow one slows no other.

use std::{
    io,
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread::{self, JoinHandle},
};

use super::Sink;
use crate::{
    metrics::{Counter, Metrics},
    pipeline::Snapshot,
    time::WallTime,
    transaction::TransactionBatch,
};

/// What happens when a sink's queue is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// The sink loses the batch, counted: a live run never waits.
    Drop,
    /// The caller waits: a replay loses nothing.
    Wait,
}

/// What became of a sink.
#[derive(Debug)]
pub struct SinkReport {
    /// Its name.
    pub name: &'static str,
    /// Transactions it took.
    pub written: u64,
    /// Transactions it never got: its queue was full.
    pub dropped: u64,
    /// Transactions it got and could not write.
    pub failed: u64,
    /// The first failure.
    pub error: Option<anyhow::Error>,
}

#[derive(Clone)]
struct Delivery {
    batch: Arc<TransactionBatch>,
    snapshot: Option<Arc<Snapshot>>,
}

struct Lane {
    name: &'static str,
    queue: SyncSender<Delivery>,
    dropped: u64,
    thread: JoinHandle<SinkReport>,
}

/// Hands batches to sinks.
pub struct FanOut {
    lanes: Vec<Lane>,
    when_full: WhenFull,
    metrics: Metrics,
}

impl FanOut {
    /// Starts a thread for each sink, with a queue of `queue` batches in front of it.
    pub fn start(
        sinks: Vec<Box<dyn Sink>>,
        queue: usize,
        when_full: WhenFull,
        metrics: Metrics,
    ) -> io::Result<FanOut> {
        let lanes = sinks
            .into_iter()
            .map(|sink| {
                let name = sink.name();
                let (sender, receiver) = sync_channel(queue.max(1));
                let metrics = metrics.clone();
                let thread = thread::Builder::new()
                    .name(format!("sink-{name}"))
                    .spawn(move || drain(sink, &receiver, &metrics))?;
                Ok(Lane { name, queue: sender, dropped: 0, thread })
            })
            .collect::<io::Result<_>>()?;
        Ok(FanOut { lanes, when_full, metrics })
    }

    /// Hands a batch to every sink, with what the pipeline held after it if that was asked.
    pub fn send(&mut self, batch: TransactionBatch, snapshot: Option<Arc<Snapshot>>) {
        let n = batch.transactions.len() as u64;
        let delivery = Delivery { batch: Arc::new(batch), snapshot };
        for lane in &mut self.lanes {
            let refused = match self.when_full {
                WhenFull::Wait => lane.queue.send(delivery.clone()).is_err(),
                WhenFull::Drop => match lane.queue.try_send(delivery.clone()) {
                    Ok(()) => false,
                    Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => true,
                },
            };
            if refused {
                lane.dropped += n;
                self.metrics.add(Counter::SinkQueueFull, n);
            }
        }
    }

    /// Lets every sink work off its queue and finish, once.
    pub fn finish(self) -> Vec<SinkReport> {
        // All queues are closed first, so that the sinks finish side by side.
        let closed: Vec<_> = self
            .lanes
            .into_iter()
            .map(|Lane { name, queue, dropped, thread }| {
                drop(queue);
                (name, dropped, thread)
            })
            .collect();
        closed
            .into_iter()
            .map(|(name, dropped, thread)| match thread.join() {
                Ok(report) => SinkReport { dropped, ..report },
                Err(_) => SinkReport {
                    name,
                    written: 0,
                    dropped,
                    failed: 0,
                    error: Some(anyhow::anyhow!("the sink's thread panicked")),
                },
            })
            .collect()
    }
}

fn drain(sink: Box<dyn Sink>, queue: &Receiver<Delivery>, metrics: &Metrics) -> SinkReport {
    let mut fed = Fed::new(sink);
    for Delivery { batch, snapshot } in queue {
        fed.take(&batch, snapshot.as_deref(), metrics);
    }
    fed.finish()
}

/// A sink and what became of it so far.
struct Fed {
    sink: Box<dyn Sink>,
    report: SinkReport,
    watermark: WallTime,
}

impl Fed {
    fn new(sink: Box<dyn Sink>) -> Fed {
        let report = SinkReport { name: sink.name(), written: 0, dropped: 0, failed: 0, error: None };
        Fed { sink, report, watermark: WallTime(0) }
    }

    fn take(&mut self, batch: &TransactionBatch, snapshot: Option<&Snapshot>, metrics: &Metrics) {
        let Fed { sink, report, watermark } = self;
        if let Some(snapshot) = snapshot
            && let Err(error) = sink.observe(snapshot)
        {
            keep_first(report, error);
        }
        let n = batch.transactions.len() as u64;
        match sink.write(batch) {
            Ok(()) => report.written += n,
            Err(error) => {
                report.failed += n;
                metrics.add(Counter::SinkWrite, n);
                keep_first(report, error);
            }
        }
        if batch.watermark > *watermark {
            *watermark = batch.watermark;
            if let Err(error) = sink.advance(*watermark) {
                keep_first(report, error);
            }
        }
    }

    fn finish(mut self) -> SinkReport {
        if let Err(error) = self.sink.finish() {
            keep_first(&mut self.report, error);
        }
        self.report
    }
}

/// Sinks on the caller's own thread: what was handed over has been taken in when the call returns.
pub struct Inline {
    sinks: Vec<Fed>,
    metrics: Metrics,
}

impl Inline {
    /// Over these sinks, in this order.
    pub fn new(sinks: Vec<Box<dyn Sink>>, metrics: Metrics) -> Inline {
        Inline { sinks: sinks.into_iter().map(Fed::new).collect(), metrics }
    }

    /// Hands a batch to every sink, with what the pipeline held after it if that was asked.
    pub fn send(&mut self, batch: &TransactionBatch, snapshot: Option<&Snapshot>) {
        for fed in &mut self.sinks {
            fed.take(batch, snapshot, &self.metrics);
        }
    }

    /// Lets every sink finish, once.
    pub fn finish(self) -> Vec<SinkReport> {
        self.sinks.into_iter().map(Fed::finish).collect()
    }
}

fn keep_first(report: &mut SinkReport, error: super::SinkError) {
    tracing::error!(sink = report.name, %error, "sink failed");
    report.error.get_or_insert_with(|| error.into());
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    };

    use super::*;
    use crate::sink::{SinkError, compliance::batches};

    #[derive(Default)]
    struct Seen {
        transactions: AtomicU64,
        finished: AtomicU64,
    }

    /// Counts; waits in `write` until the gate opens; fails on batch `fail_on`.
    struct Gated {
        seen: Arc<Seen>,
        gate: Arc<Mutex<()>>,
        fail_on: Option<u64>,
        n_batches: u64,
    }

    impl Sink for Gated {
        fn name(&self) -> &'static str {
            "gated"
        }
        fn write(&mut self, batch: &TransactionBatch) -> Result<(), SinkError> {
            let _open = self.gate.lock();
            self.n_batches += 1;
            if self.fail_on == Some(self.n_batches) {
                return Err(SinkError { sink: "gated", doing: "write".into(), source: "no".into() });
            }
            self.seen.transactions.fetch_add(batch.transactions.len() as u64, Ordering::Relaxed);
            Ok(())
        }
        fn finish(&mut self) -> Result<(), SinkError> {
            self.seen.finished.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
    }

    fn gated(fail_on: Option<u64>) -> (Box<dyn Sink>, Arc<Seen>, Arc<Mutex<()>>) {
        let seen = Arc::new(Seen::default());
        let gate = Arc::new(Mutex::new(()));
        let sink = Gated { seen: seen.clone(), gate: gate.clone(), fail_on, n_batches: 0 };
        (Box::new(sink), seen, gate)
    }

    #[test]
    fn a_stuck_sink_loses_its_own_batches_counted_and_the_other_gets_all() {
        let (slow, slow_seen, gate) = gated(None);
        let (quick, quick_seen, _) = gated(None);
        let metrics = Metrics::default();
        let mut fan_out = FanOut::start(vec![slow, quick], 64, WhenFull::Drop, metrics.clone()).unwrap();
        let shut = gate.lock().unwrap();
        let input = batches(300);
        let total: u64 = input.iter().map(|batch| batch.transactions.len() as u64).sum();
        for batch in input {
            // The quick sink's queue must not fill merely because this thread does not give it the processor.
            let before = quick_seen.transactions.load(Ordering::Relaxed);
            let n = batch.transactions.len() as u64;
            fan_out.send(batch, None);
            while quick_seen.transactions.load(Ordering::Relaxed) < before + n {
                thread::yield_now();
            }
        }
        drop(shut);
        let reports = fan_out.finish();
        assert_eq!(quick_seen.transactions.load(Ordering::Relaxed), total);
        assert_eq!(reports[1].written, total);
        assert!(reports[0].dropped > 0);
        assert_eq!(reports[0].written + reports[0].dropped, total);
        assert_eq!(slow_seen.transactions.load(Ordering::Relaxed), reports[0].written);
        assert_eq!(metrics.get(Counter::SinkQueueFull), reports[0].dropped);
        assert_eq!(slow_seen.finished.load(Ordering::Relaxed), 1);
        assert_eq!(quick_seen.finished.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_replay_waits_and_loses_nothing() {
        let (sink, seen, _) = gated(None);
        let mut fan_out = FanOut::start(vec![sink], 1, WhenFull::Wait, Metrics::default()).unwrap();
        for batch in batches(90) {
            fan_out.send(batch, None);
        }
        let reports = fan_out.finish();
        assert_eq!((reports[0].written, reports[0].dropped), (6_000, 0));
        assert_eq!(seen.transactions.load(Ordering::Relaxed), 6_000);
    }

    #[test]
    fn a_failed_write_is_counted_and_the_sink_goes_on() {
        let (sink, seen, _) = gated(Some(2));
        let metrics = Metrics::default();
        let mut fan_out = FanOut::start(vec![sink], 4, WhenFull::Wait, metrics.clone()).unwrap();
        for batch in batches(6) {
            fan_out.send(batch, None);
        }
        let reports = fan_out.finish();
        assert_eq!((reports[0].written, reports[0].failed), (300, 100));
        assert_eq!(metrics.get(Counter::SinkWrite), 100);
        assert!(reports[0].error.is_some());
        assert_eq!(seen.finished.load(Ordering::Relaxed), 1);
    }
}
