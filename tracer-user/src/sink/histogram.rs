//! Histograms: HDR, per service and per operation, by outcome. Mergeable; no percentile is ever averaged.
//!
//! A `q`-quantile is the smallest recorded value `v` with `count(≤ v) ≥ ceil(q·n)`, given as the highest value of its
//! HDR bucket (never above the exact maximum). Prometheus interpolates inside its buckets, so its figures differ.
//! txray sees what the service saw: requests held up in front of a blocked server are in the queue time, not here, and
//! nothing is "corrected".

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hdrhistogram::{
    Histogram,
    serialization::{Serializer as _, V2Serializer},
};
use rustc_hash::FxHashMap;

use super::{Sink, SinkError};
pub use crate::transaction::latency::HIGHEST_NS;
use crate::{
    event::Role,
    time::WallTime,
    transaction::{Transaction, TransactionBatch, latency::empty_histogram as empty},
};

/// Series (service × role × operation) before further ones share [`OVERFLOW`]. A histogram is 4,096 counters = 32 KiB,
/// created on first use, so 2,000 series with both outcomes are 130 MB at the very worst.
pub const MAX_SERIES: usize = 2_000;
/// Services before further ones share [`OVERFLOW`].
pub const MAX_SERVICES: usize = 500;
/// Service and operation name of what came after the bound.
pub const OVERFLOW: &str = "(others)";
/// Completed seconds of event time over which the recent rate is taken.
pub const RECENT_SECONDS: u64 = 30;

/// Which of the two histograms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Not an error.
    Ok,
    /// An error for this role.
    Error,
}

/// Durations and counts of one service or operation.
#[derive(Clone, Debug, Default)]
pub struct Series {
    /// Finished transactions.
    pub count: u64,
    /// Those that are errors.
    pub errors: u64,
    /// Finished, but without a duration that may be measured (no answer, long-lived, not positive).
    pub unmeasured: u64,
    /// Measured ones longer than [`HIGHEST_NS`].
    pub saturated: u64,
    /// The longest measured, exact.
    pub max_ns: u64,
    latency: [Option<Box<Histogram<u64>>>; 2],
    recent: Recent,
}

impl Series {
    fn record(&mut self, transaction: &Transaction) {
        self.count += 1;
        self.errors += u64::from(transaction.error);
        self.recent.record(transaction.end_time);
        if !transaction.is_measured() {
            self.unmeasured += 1;
            return;
        }
        let duration = transaction.duration_ns.unsigned_abs();
        self.saturated += u64::from(duration > HIGHEST_NS);
        self.max_ns = self.max_ns.max(duration);
        let outcome = if transaction.error { Outcome::Error } else { Outcome::Ok };
        self.latency[outcome as usize].get_or_insert_with(|| Box::new(empty())).saturating_record(duration);
    }

    /// Adds what `other` counted. The same as if its transactions had been recorded here.
    pub fn merge(&mut self, other: &Series) {
        let Series { count, errors, unmeasured, saturated, max_ns, latency, recent } = other;
        self.count += count;
        self.errors += errors;
        self.unmeasured += unmeasured;
        self.saturated += saturated;
        self.max_ns = self.max_ns.max(*max_ns);
        self.recent.merge(recent);
        for (mine, theirs) in self.latency.iter_mut().zip(latency) {
            if let Some(theirs) = theirs {
                add(mine.get_or_insert_with(|| Box::new(empty())), theirs);
            }
        }
    }

    /// Durations of one outcome, if there were any.
    pub fn latency(&self, outcome: Outcome) -> Option<&Histogram<u64>> {
        self.latency[outcome as usize].as_deref()
    }

    /// Measured transactions.
    pub fn measured(&self) -> u64 {
        self.latency.iter().flatten().map(|histogram| histogram.len()).sum()
    }

    /// Quantiles over both outcomes, ns; `None` if nothing was measured.
    pub fn quantiles<const N: usize>(&self, quantiles: [f64; N]) -> Option<[u64; N]> {
        let merged;
        let histogram = match &self.latency {
            [None, None] => return None,
            [Some(one), None] | [None, Some(one)] => one.as_ref(),
            [Some(ok), Some(error)] => {
                let mut both = ok.as_ref().clone();
                add(&mut both, error);
                merged = both;
                &merged
            }
        };
        Some(quantiles.map(|quantile| histogram.value_at_quantile(quantile).min(self.max_ns)))
    }

    /// The V2 serialisation of one outcome's histogram, for stores and for tests of equality; empty if there is none.
    pub fn serialize(&self, outcome: Outcome) -> Vec<u8> {
        let mut bytes = Vec::new();
        if let Some(histogram) = self.latency(outcome) {
            // INVARIANT: a histogram of these bounds encodes into less than usize::MAX bytes, and a Vec takes them all.
            let _ = V2Serializer::new().serialize(histogram, &mut bytes);
        }
        bytes
    }

    /// Finished transactions in each of the last [`RECENT_SECONDS`] completed seconds before `watermark`, added up.
    pub fn recent(&self, watermark: WallTime) -> u64 {
        self.recent.sum(watermark)
    }
}

fn add(sum: &mut Histogram<u64>, other: &Histogram<u64>) {
    // INVARIANT: all histograms here have the same bounds, so nothing is out of range.
    let _ = sum.add(other);
}

/// A ring of counts by second of event time.
#[derive(Clone, Debug)]
struct Recent {
    counts: [u32; RECENT_SECONDS as usize + 2],
    /// The newest second counted; older slots than the ring is long are stale.
    newest: u64,
}

impl Default for Recent {
    fn default() -> Self {
        Recent { counts: [0; RECENT_SECONDS as usize + 2], newest: 0 }
    }
}

impl Recent {
    const LEN: u64 = RECENT_SECONDS + 2;

    fn slot(&mut self, second: u64) -> Option<&mut u32> {
        if second + Self::LEN <= self.newest {
            return None;
        }
        if second > self.newest {
            for stale in (self.newest + 1..=second).rev().take(Self::LEN as usize) {
                self.counts[(stale % Self::LEN) as usize] = 0;
            }
            self.newest = second;
        }
        Some(&mut self.counts[(second % Self::LEN) as usize])
    }

    fn record(&mut self, at: WallTime) {
        if let Some(count) = self.slot(at.0 / 1_000_000_000) {
            *count = count.saturating_add(1);
        }
    }

    fn merge(&mut self, other: &Recent) {
        for second in other.newest.saturating_sub(Self::LEN - 1)..=other.newest {
            let n = other.counts[(second % Self::LEN) as usize];
            if n != 0
                && let Some(count) = self.slot(second)
            {
                *count = count.saturating_add(n);
            }
        }
    }

    fn sum(&self, watermark: WallTime) -> u64 {
        let now = watermark.0 / 1_000_000_000;
        (now.saturating_sub(RECENT_SECONDS)..now)
            .filter(|&second| second <= self.newest && second + Self::LEN > self.newest)
            .map(|second| u64::from(self.counts[(second % Self::LEN) as usize]))
            .sum()
    }
}

/// One row of the operations table, or of the services table.
#[derive(Clone, Debug)]
pub struct Row<'a> {
    /// Service.
    pub service: &'a Arc<str>,
    /// The traced process's part. Rows of different roles are never added: a local call is in both.
    pub role: Role,
    /// Operation; `None` in rows of services.
    pub operation: Option<&'a Arc<str>>,
    /// What was measured.
    pub series: &'a Series,
}

#[derive(Clone, Debug, Default)]
struct Service {
    total: Series,
    operations: FxHashMap<Arc<str>, Series>,
}

/// All series of a run.
#[derive(Clone, Debug)]
pub struct Histograms {
    roles: [FxHashMap<Arc<str>, Service>; 3],
    n_services: usize,
    n_series: usize,
    max_series: usize,
    overflowed: u64,
    /// End of the first transaction counted.
    first: Option<WallTime>,
    watermark: WallTime,
}

impl Default for Histograms {
    fn default() -> Self {
        Histograms::with_max_series(MAX_SERIES)
    }
}

impl Histograms {
    /// None yet, with another bound than [`MAX_SERIES`].
    pub fn with_max_series(max_series: usize) -> Histograms {
        Histograms {
            roles: Default::default(),
            n_services: 0,
            n_series: 0,
            max_series,
            overflowed: 0,
            first: None,
            watermark: WallTime(0),
        }
    }

    /// Counts a transaction, if it is finished.
    pub fn record(&mut self, transaction: &Transaction) {
        if !transaction.is_finished() {
            return;
        }
        self.first.get_or_insert(transaction.end_time);
        let services = &mut self.roles[role_index(transaction.role)];
        let mut service_name = &transaction.service;
        let overflow: Arc<str>;
        let mut overflowed = false;
        if !services.contains_key(service_name.as_ref()) {
            if self.n_services >= MAX_SERVICES.min(self.max_series) {
                overflow = Arc::from(OVERFLOW);
                service_name = &overflow;
                overflowed = true;
                services.entry(overflow.clone()).or_default();
            } else {
                self.n_services += 1;
                services.insert(service_name.clone(), Service::default());
            }
        }
        let Some(service) = services.get_mut(service_name.as_ref()) else { return };
        service.total.record(transaction);
        match service.operations.get_mut(transaction.operation.as_ref()) {
            Some(series) if !overflowed => series.record(transaction),
            _ if !overflowed && self.n_series < self.max_series => {
                self.n_series += 1;
                let mut series = Series::default();
                series.record(transaction);
                service.operations.insert(transaction.operation.clone(), series);
            }
            _ => {
                self.overflowed += 1;
                service.operations.entry(Arc::from(OVERFLOW)).or_default().record(transaction);
            }
        }
    }

    /// Rows of the operations table, in the order of service, role and operation.
    pub fn operations(&self) -> Vec<Row<'_>> {
        let mut rows: Vec<Row<'_>> = self
            .services_unsorted()
            .flat_map(|(role, name, service)| {
                service.operations.iter().map(move |(operation, series)| Row {
                    service: name,
                    role,
                    operation: Some(operation),
                    series,
                })
            })
            .collect();
        rows.sort_unstable_by(|a, b| (a.service, a.role, a.operation).cmp(&(b.service, b.role, b.operation)));
        rows
    }

    /// One row per service and role, in that order.
    pub fn services(&self) -> Vec<Row<'_>> {
        let mut rows: Vec<Row<'_>> = self
            .services_unsorted()
            .map(|(role, name, service)| Row { service: name, role, operation: None, series: &service.total })
            .collect();
        rows.sort_unstable_by(|a, b| (a.service, a.role).cmp(&(b.service, b.role)));
        rows
    }

    /// All of one role, merged.
    pub fn total(&self, role: Role) -> Series {
        let mut total = Series::default();
        for service in self.roles[role_index(role)].values() {
            total.merge(&service.total);
        }
        total
    }

    fn services_unsorted(&self) -> impl Iterator<Item = (Role, &Arc<str>, &Service)> {
        [Role::Client, Role::Server, Role::Unknown].into_iter().flat_map(|role| {
            self.roles[role_index(role)].iter().map(move |(name, service)| (role, name, service))
        })
    }

    /// Moves event time on.
    pub fn advance(&mut self, watermark: WallTime) {
        self.watermark = self.watermark.max(watermark);
    }

    /// Transactions that share the [`OVERFLOW`] series.
    pub fn overflowed(&self) -> u64 {
        self.overflowed
    }

    /// Event time up to which everything is in.
    pub fn watermark(&self) -> WallTime {
        self.watermark
    }

    /// Completed seconds that [`Series::recent`] covers: fewer than [`RECENT_SECONDS`] while the run is young.
    pub fn recent_seconds(&self) -> u64 {
        let second = |time: WallTime| time.0 / 1_000_000_000;
        let age = self.first.map_or(0, |first| second(self.watermark).saturating_sub(second(first)));
        age.clamp(1, RECENT_SECONDS)
    }
}

fn role_index(role: Role) -> usize {
    match role {
        Role::Client => 0,
        Role::Server => 1,
        Role::Unknown => 2,
    }
}

/// [`Histograms`] that a sink fills and a screen reads.
#[derive(Clone, Debug, Default)]
pub struct SharedHistograms(Arc<Mutex<Histograms>>);

impl SharedHistograms {
    /// Reads; the sink waits meanwhile.
    pub fn lock(&self) -> MutexGuard<'_, Histograms> {
        // Counts stay whole if a reader panics, so a poisoned lock is as good as any.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Fills [`SharedHistograms`].
#[derive(Debug, Default)]
pub struct HistogramSink(SharedHistograms);

impl HistogramSink {
    /// Fills `histograms`.
    pub fn new(histograms: SharedHistograms) -> HistogramSink {
        HistogramSink(histograms)
    }
}

impl Sink for HistogramSink {
    fn name(&self) -> &'static str {
        "histogram"
    }

    fn write(&mut self, batch: &TransactionBatch) -> Result<(), SinkError> {
        let mut histograms = self.0.lock();
        for transaction in &batch.transactions {
            histograms.record(transaction);
        }
        Ok(())
    }

    fn advance(&mut self, watermark: WallTime) -> Result<(), SinkError> {
        self.0.lock().advance(watermark);
        Ok(())
    }

    fn finish(&mut self) -> Result<(), SinkError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::compliance::{self, transaction};

    const MS: i64 = 1_000_000;

    fn series(durations_ns: impl IntoIterator<Item = i64>) -> Series {
        let mut series = Series::default();
        for (i, duration_ns) in durations_ns.into_iter().enumerate() {
            series.record(&Transaction { duration_ns, ..transaction(i as u64) });
        }
        series
    }

    #[track_caller]
    fn p90(durations_ns: impl IntoIterator<Item = i64>, expect_ms: f64) {
        let [p90] = series(durations_ns).quantiles([0.9]).unwrap();
        let p90_ms = p90 as f64 / 1e6;
        assert!((p90_ms - expect_ms).abs() <= expect_ms * 0.01, "{p90_ms} ms, not {expect_ms} ms");
    }

    // The five cases in which the mean of per-second percentiles over 200 ms bins goes wrong.

    #[test]
    fn p90_of_a_burst_among_quiet_seconds_is_the_bursts() {
        p90([10 * MS; 58].into_iter().chain([5_000 * MS; 1_000]), 5_000.0);
    }

    #[test]
    fn p90_of_a_slow_trickle_is_not_zero() {
        p90([4_000 * MS; 30], 4_000.0);
    }

    #[test]
    fn p90_with_eight_percent_slow_is_the_fast_value() {
        p90((0..600).map(|i| if i % 100 < 8 { 9_000 * MS } else { 50 * MS }), 50.0);
    }

    #[test]
    fn p90_below_the_bin_width_is_not_zero() {
        // Close to a lognormal of median 40 ms (its quantile function with a logistic in the normal's place); the oracle is
        // the sorted array.
        let mut durations: Vec<i64> = (1..=6_000)
            .map(|i| {
                let u = f64::from(i) / 6_001.0;
                (40.0 * (0.58 * (u / (1.0 - u)).ln() / 1.702).exp() * MS as f64) as i64
            })
            .collect();
        let oracle = durations[5_399] as f64 / 1e6;
        // Order must not matter.
        durations.reverse();
        p90(durations, oracle);
    }

    #[test]
    fn p90_above_the_last_bin_is_not_capped() {
        p90([30_000 * MS; 150], 30_000.0);
    }

    #[test]
    fn quantiles_are_within_one_percent_of_the_sorted_array_from_a_microsecond_up() {
        let mut state = 7_u64;
        let mut durations: Vec<i64> = (0..20_000)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (1_000.0 * ((state >> 11) as f64 / (1_u64 << 53) as f64 * 21.0).exp()) as i64
            })
            .collect();
        let series = series(durations.iter().copied());
        durations.sort_unstable();
        for q in [0.001, 0.5, 0.9, 0.99, 0.999, 1.0] {
            let exact = durations[((q * durations.len() as f64).ceil() as usize).max(1) - 1] as f64;
            let [got] = series.quantiles([q]).unwrap();
            assert!(((got as f64) - exact).abs() <= exact * 0.01, "q {q}: {got} for {exact}");
        }
    }

    #[test]
    fn no_quantile_is_above_the_exact_maximum() {
        let series = series([123_456_789]);
        assert_eq!(series.quantiles([0.5, 0.999]), Some([123_456_789; 2]));
    }

    #[test]
    fn merged_series_equal_one_series_to_the_byte() {
        let all: Vec<Transaction> = (0..1_000)
            .map(|i| Transaction { error: i % 7 == 0, duration_ns: 1 + i as i64 * 997_331, ..transaction(i) })
            .collect();
        let mut whole = Series::default();
        let mut parts = [Series::default(), Series::default()];
        for (i, transaction) in all.iter().enumerate() {
            whole.record(transaction);
            parts[usize::from(i % 3 == 0)].record(transaction);
        }
        let [mut merged, other] = parts;
        merged.merge(&other);
        for outcome in [Outcome::Ok, Outcome::Error] {
            assert!(!whole.serialize(outcome).is_empty());
            assert_eq!(merged.serialize(outcome), whole.serialize(outcome));
        }
        assert_eq!((merged.count, merged.errors, merged.max_ns), (whole.count, whole.errors, whole.max_ns));
        let end = all.last().unwrap().end_time;
        assert_eq!(merged.recent(WallTime(end.0 + 1)), whole.recent(WallTime(end.0 + 1)));
    }

    #[test]
    fn only_answered_positive_durations_are_measured_and_an_open_one_is_not_even_counted() {
        use crate::transaction::{End, Kind};
        let mut series = Series::default();
        let base = transaction(0);
        series.record(&Transaction { end: End::Reset, ..base.clone() });
        series.record(&Transaction { duration_ns: 0, ..base.clone() });
        series.record(&Transaction { kind: Kind::LongLived, ..base.clone() });
        series.record(&base);
        assert_eq!((series.count, series.unmeasured, series.measured()), (4, 3, 1));
        let mut histograms = Histograms::default();
        histograms.record(&Transaction { end: End::TracerStopped, ..base });
        assert!(histograms.operations().is_empty());
    }

    #[test]
    fn durations_beyond_the_hour_saturate_and_are_counted() {
        let series = series([2 * HIGHEST_NS as i64, 5 * MS]);
        assert_eq!((series.saturated, series.max_ns), (1, 2 * HIGHEST_NS));
    }

    #[test]
    fn series_beyond_the_bound_share_one_that_says_so() {
        let mut histograms = Histograms::with_max_series(3);
        for i in 0..10 {
            histograms.record(&Transaction { operation: format!("GET /{i}").into(), ..transaction(i) });
        }
        let rows = histograms.operations();
        let overflow: Vec<_> =
            rows.iter().filter(|row| row.operation.is_some_and(|name| name.as_ref() == OVERFLOW)).collect();
        assert_eq!(rows.len(), 4);
        assert_eq!(overflow.len(), 1);
        assert_eq!((overflow[0].series.count, histograms.overflowed()), (7, 7));
        assert_eq!(rows.iter().map(|row| row.series.count).sum::<u64>(), 10);
    }

    #[test]
    fn roles_are_never_added() {
        let mut histograms = Histograms::default();
        histograms.record(&Transaction { role: Role::Client, ..transaction(0) });
        histograms.record(&Transaction { role: Role::Server, ..transaction(1) });
        assert_eq!(histograms.operations().len(), 2);
        assert_eq!(histograms.total(Role::Server).count, 1);
    }

    #[test]
    fn the_recent_rate_counts_completed_seconds_only() {
        let mut series = Series::default();
        let second = 1_000_000_000;
        // 100 a second for 60 seconds.
        for i in 0..6_000_u64 {
            series.record(&Transaction {
                end_time: WallTime(1_000 * second + i * second / 100),
                ..transaction(i)
            });
        }
        assert_eq!(series.recent(WallTime(1_060 * second)), 3_000);
        assert_eq!(series.recent(WallTime(1_059 * second + second / 2)), 3_000);
        assert_eq!(series.recent(WallTime(1_070 * second)), 2_000);
        assert_eq!(series.recent(WallTime(2_000 * second)), 0);
    }

    #[test]
    fn a_young_run_has_a_shorter_recent_time() {
        let mut sink = HistogramSink::default();
        let second = 1_000_000_000;
        let at = |s: u64| WallTime(1_700_000_000 * second + s * second);
        let transactions = (0..9).map(|i| Transaction { end_time: at(i), ..transaction(i) }).collect();
        sink.write(&TransactionBatch { transactions, watermark: at(9) }).unwrap();
        for (now, seconds) in [(0, 1), (9, 9), (30, 30), (300, 30)] {
            sink.advance(at(now)).unwrap();
            assert_eq!(sink.0.lock().recent_seconds(), seconds, "after {now} s");
        }
    }

    #[test]
    fn the_sink_complies() {
        compliance::check(|| {
            let shared = SharedHistograms::default();
            let read = shared.clone();
            let output = move || {
                read.lock()
                    .operations()
                    .iter()
                    .flat_map(|row| [row.series.serialize(Outcome::Ok), row.series.serialize(Outcome::Error)])
                    .flatten()
                    .collect()
            };
            (HistogramSink::new(shared), output)
        });
    }
}
