//! The strip: one line per second of event time, for when there is no terminal.
//!
//! Sixty buckets of elapsed time on a logarithmic axis from 100 µs to 10 s, twelve a decade; shorter and longer ones
//! are in the first and the last. `#` is a transaction, `E` one with an error (it wins), then figures of that second.

use std::{
    fmt::Write as _,
    io::{self, Write},
};

use hdrhistogram::Histogram;

use super::{format, loss::Losses};
use crate::{
    pipeline::Snapshot,
    sink::{Sink, SinkError, histogram::HIGHEST_NS, xlog::Class},
    time::WallTime,
    transaction::{Transaction, TransactionBatch},
};

/// Buckets of elapsed time.
pub const BUCKETS: usize = 60;
const PER_DECADE: f64 = 12.0;
const SHORTEST_NS: f64 = 100_000.0;
/// After so many lines the axis is printed again.
const LINES_PER_AXIS: u64 = 30;
/// Longer pauses are not filled with empty lines one by one.
const MAX_EMPTY: u64 = 5;

/// Prints the strip.
pub struct Strip<W> {
    writer: W,
    on_closed: Box<dyn Fn() + Send>,
    closed: bool,
    second: Option<Second>,
    snapshot: Snapshot,
    losses_unknown: bool,
    lines: u64,
}

struct Second {
    second: u64,
    cells: [Option<Class>; BUCKETS],
    count: u64,
    errors: u64,
    latency: Histogram<u64>,
    max_ns: u64,
}

impl Second {
    fn new(second: u64) -> Option<Second> {
        let latency = Histogram::new_with_bounds(8, HIGHEST_NS, 2).ok()?;
        Some(Second { second, cells: [None; BUCKETS], count: 0, errors: 0, latency, max_ns: 0 })
    }

    fn record(&mut self, transaction: &Transaction) {
        self.count += 1;
        self.errors += u64::from(transaction.error);
        let class = Class::of(transaction);
        let cell = &mut self.cells[bucket(transaction.duration_ns.max(0).unsigned_abs())];
        *cell = (*cell).max(Some(class));
        if transaction.is_measured() {
            let duration = transaction.duration_ns.unsigned_abs();
            self.latency.saturating_record(duration);
            self.max_ns = self.max_ns.max(duration);
        }
    }

    fn line(&self, snapshot: &Snapshot, losses_unknown: bool) -> String {
        let cells: String = self
            .cells
            .iter()
            .map(|cell| match cell {
                None => ' ',
                Some(Class::Normal | Class::LongLived | Class::ClientError) => '#',
                Some(Class::Stuck | Class::Aborted | Class::Error) => 'E',
            })
            .collect();
        let quantile = |q: f64| {
            if self.latency.is_empty() {
                "-".to_owned()
            } else {
                format::duration(self.latency.value_at_quantile(q).min(self.max_ns))
            }
        };
        format!(
            "{} |{cells}| {:>7}/s  p50 {:>6}  p99 {:>6}  errors {}  in flight {}  {}\n",
            format::clock(WallTime(self.second * 1_000_000_000)),
            format::count(self.count),
            quantile(0.5),
            quantile(0.99),
            format::count(self.errors),
            format::count(snapshot.n_open),
            Losses { unknown: losses_unknown, ..Losses::of_events(snapshot) }.line(),
        )
    }
}

/// The bucket of an elapsed time.
pub fn bucket(duration_ns: u64) -> usize {
    let decades = (duration_ns.max(1) as f64 / SHORTEST_NS).log10();
    ((decades * PER_DECADE).floor().max(0.0) as usize).min(BUCKETS - 1)
}

/// The line above the buckets.
fn axis() -> String {
    let mut line = format!("{:9}|", "UTC");
    for label in ["100us", "1ms", "10ms", "100ms", "1s"] {
        let _ = write!(line, "{label:.<12}");
    }
    line.push_str("10s\n");
    line
}

impl<W: Write + Send> Strip<W> {
    /// Lines go to `writer`. `losses_unknown`: no counters come along, so nothing may be said of losses. When its reader closes the pipe `on_closed` is called, once, and the rest goes nowhere.
    pub fn new(writer: W, losses_unknown: bool, on_closed: impl Fn() + Send + 'static) -> Strip<W> {
        Strip {
            writer,
            on_closed: Box::new(on_closed),
            closed: false,
            second: None,
            snapshot: Snapshot::default(),
            losses_unknown,
            lines: 0,
        }
    }

    /// Prints every second before `second` that is still open.
    fn close_before(&mut self, second: u64) -> Result<(), SinkError> {
        while let Some(open) = self.second.take_if(|open| open.second < second) {
            let line = open.line(&self.snapshot, self.losses_unknown);
            self.print(&line)?;
            let next = open.second + 1;
            if second.saturating_sub(next) > MAX_EMPTY {
                self.print(&format!("{} seconds without a transaction\n", second - next))?;
                self.second = Second::new(second);
            } else {
                self.second = Second::new(next);
            }
        }
        Ok(())
    }

    fn print(&mut self, line: &str) -> Result<(), SinkError> {
        if self.closed {
            return Ok(());
        }
        let mut text = String::new();
        if self.lines.is_multiple_of(LINES_PER_AXIS) {
            text.push_str(&axis());
        }
        self.lines += 1;
        text.push_str(line);
        match self.writer.write_all(text.as_bytes()).and_then(|()| self.writer.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.closed = true;
                (self.on_closed)();
                Ok(())
            }
            result => result.map_err(|source| SinkError {
                sink: "strip",
                doing: "write to standard output".to_owned(),
                source: Box::new(source),
            }),
        }
    }
}

impl<W: Write + Send> Sink for Strip<W> {
    fn name(&self) -> &'static str {
        "strip"
    }

    fn observe(&mut self, snapshot: &Snapshot) -> Result<(), SinkError> {
        self.snapshot.clone_from(snapshot);
        Ok(())
    }

    fn write(&mut self, batch: &TransactionBatch) -> Result<(), SinkError> {
        for transaction in batch.transactions.iter().filter(|transaction| transaction.is_finished()) {
            let second = transaction.end_time.0 / 1_000_000_000;
            self.close_before(second)?;
            if self.second.is_none() {
                self.second = Second::new(second);
            }
            if let Some(open) = &mut self.second {
                open.record(transaction);
            }
        }
        Ok(())
    }

    fn advance(&mut self, watermark: WallTime) -> Result<(), SinkError> {
        let second = watermark.0 / 1_000_000_000;
        self.close_before(second)?;
        if self.second.is_none() && second != 0 {
            self.second = Second::new(second);
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), SinkError> {
        match self.second.take_if(|open| open.count != 0) {
            Some(open) => {
                let line = open.line(&self.snapshot, self.losses_unknown);
                self.print(&line)
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::{
        event::Counters,
        sink::compliance::{self, transaction},
        time::BootTime,
    };

    #[derive(Clone, Default)]
    struct SharedVec(Arc<Mutex<Vec<u8>>>);
    impl Write for SharedVec {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_buckets_are_twelve_a_decade_and_clamped() {
        assert_eq!(bucket(0), 0);
        assert_eq!(bucket(100_000), 0);
        assert_eq!(bucket(1_000_000), 12);
        assert_eq!(bucket(999_999_999), 47);
        assert_eq!(bucket(1_000_000_001), 48);
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn the_lines_are_exactly_these() {
        let out = SharedVec::default();
        let mut strip = Strip::new(out.clone(), false, || ());
        let at = |ms: u64| WallTime(1_700_000_000_000_000_000 + ms * 1_000_000);
        let end = |i, ms, duration_ns, error| Transaction {
            end_time: at(ms),
            duration_ns,
            error,
            ..transaction(i)
        };
        // An error and a normal one in the same bucket, in either order; one clamped.
        let transactions = vec![
            end(0, 100, 5_000_000, true),
            end(1, 200, 5_000_000, false),
            end(2, 300, 300_000, false),
            end(3, 400, 60_000_000_000, false),
            end(4, 1_500, 200_000_000, false),
        ];
        strip.write(&TransactionBatch { transactions, watermark: at(1_600) }).unwrap();
        strip.advance(at(1_600)).unwrap();
        let counters = Counters { time: BootTime(1), values: vec![("kernel.refused_data".into(), 12)] };
        let snapshot = Snapshot { n_open: 7, counters: Some(Arc::new(counters)), ..Snapshot::default() };
        strip.observe(&snapshot).unwrap();
        strip.advance(at(3_000)).unwrap();
        strip.advance(at(60_000)).unwrap();
        strip
            .write(&TransactionBatch {
                transactions: vec![end(5, 60_100, 1_000_000, false)],
                ..Default::default()
            })
            .unwrap();
        strip.finish().unwrap();
        insta::assert_snapshot!(String::from_utf8(out.0.lock().unwrap().clone()).unwrap());
    }

    #[test]
    fn the_sink_complies() {
        compliance::check(|| {
            let out = SharedVec::default();
            let read = out.clone();
            (Strip::new(out, false, || ()), move || read.0.lock().unwrap().clone())
        });
    }
}
