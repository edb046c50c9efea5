//! Durations as an HDR histogram holds them, in little room: the buckets that hold something, and no others.
//!
//! A whole histogram is 4,224 counters = 33 KiB whatever is in it; a second of one service fills as many buckets as it has different
//! durations. Bounds and digits are the same everywhere in txray, so that all histograms can be added.

use std::io::Cursor;

use hdrhistogram::{
    Histogram,
    serialization::{Deserializer, Serializer as _, V2DeflateSerializer},
};

/// Smallest duration told from its neighbours: with 2 digits the error is below 1 % from 1 µs up.
pub const LOWEST_NS: u64 = 8;
/// Longest duration told from longer ones; those count as this.
pub const HIGHEST_NS: u64 = 3_600_000_000_000;
/// Significant decimal digits.
pub const DIGITS: u8 = 2;

/// Counters of a whole histogram of these bounds.
const N_BUCKETS: u64 = 4_224;
/// Buckets that are one [`LOWEST_NS`] wide, as a power of two; a half of them is as many as each further doubling has.
const LINEAR_BITS: u32 = 8;
/// A bucket and its count in one number, so that their order is the buckets' and a bucket takes 8 bytes. A count stays below
/// 2^48: a million a second for nine years.
const COUNT_BITS: u32 = 48;
const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;

/// A whole histogram, empty.
pub fn empty_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(LOWEST_NS, HIGHEST_NS, DIGITS)
        // INVARIANT: low ≥ 1, high ≥ 2·low, digits ≤ 5: the bounds are constants, and a test makes one.
        .unwrap_or_else(|_| unreachable!("constant bounds"))
}

/// Durations, counted by the buckets of an HDR histogram.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Latency {
    /// Bucket and count of those that are not empty, in the order of the buckets: [`N_BUCKETS`] at most.
    buckets: Vec<u64>,
}

impl Latency {
    /// Counts a duration. One beyond the histogram's range counts as [`HIGHEST_NS`].
    pub fn record(&mut self, duration_ns: u64) {
        let bucket = bucket_of(duration_ns);
        self.add(if bucket < N_BUCKETS { bucket } else { bucket_of(HIGHEST_NS) }, 1);
    }

    fn add(&mut self, bucket: u64, n: u64) {
        let at = self.buckets.partition_point(|known| known >> COUNT_BITS < bucket);
        match self.buckets.get_mut(at) {
            Some(known) if *known >> COUNT_BITS == bucket => {
                let count = (*known & COUNT_MASK).saturating_add(n).min(COUNT_MASK);
                *known = bucket << COUNT_BITS | count;
            }
            _ => self.buckets.insert(at, bucket << COUNT_BITS | n.min(COUNT_MASK)),
        }
    }

    /// Adds what `other` counted: the same as if its durations had been recorded here.
    pub fn merge(&mut self, other: &Latency) {
        if self.buckets.is_empty() {
            self.buckets.clone_from(&other.buckets);
            return;
        }
        let mut merged = Vec::with_capacity(self.buckets.len() + other.buckets.len());
        let (mut mine, mut theirs) = (self.buckets.iter().peekable(), other.buckets.iter().peekable());
        loop {
            let next = match (mine.peek(), theirs.peek()) {
                (Some(a), Some(b)) if **a >> COUNT_BITS == **b >> COUNT_BITS => {
                    let n = (**a & COUNT_MASK) + (**b & COUNT_MASK);
                    let bucket = **a & !COUNT_MASK;
                    theirs.next();
                    mine.next().map(|_| bucket | n.min(COUNT_MASK))
                }
                (Some(a), Some(b)) if b < a => theirs.next().copied(),
                (Some(_), _) => mine.next().copied(),
                (None, _) => theirs.next().copied(),
            };
            let Some(next) = next else { break };
            merged.push(next);
        }
        self.buckets = merged;
    }

    fn counts(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.buckets.iter().map(|known| (known >> COUNT_BITS, known & COUNT_MASK))
    }

    /// Durations counted.
    pub fn len(&self) -> u64 {
        self.counts().map(|(_, n)| n).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.buckets.is_empty()
    }

    /// Bytes of memory beside the struct itself.
    pub fn heap_bytes(&self) -> usize {
        self.buckets.capacity() * size_of::<u64>()
    }

    /// Gives back memory that is not used.
    pub fn shrink(&mut self) {
        self.buckets.shrink_to_fit();
    }

    /// The smallest recorded value `v` with `count(≤ v) ≥ ceil(q·n)`, given as the highest value of its bucket, for a quantile above 0;
    /// `None` if nothing was recorded.
    pub fn quantile(&self, quantile: f64) -> Option<u64> {
        let wanted = ((quantile * self.len() as f64).ceil() as u64).max(1);
        let mut seen = 0;
        self.counts()
            .find(|(_, n)| {
                seen += n;
                seen >= wanted
            })
            .or(self.counts().last())
            .map(|(bucket, _)| lowest_of(bucket + 1) - 1)
    }

    /// The same as a whole histogram.
    pub fn histogram(&self) -> Histogram<u64> {
        let mut histogram = empty_histogram();
        for (bucket, n) in self.counts() {
            // A value of the histogram's own buckets is within its range.
            histogram.saturating_record_n(lowest_of(bucket), n);
        }
        histogram
    }

    /// HdrHistogram's V2 encoding, deflated, which other programs read too; empty if nothing was recorded.
    pub fn serialize(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        if !self.is_empty() {
            // INVARIANT: a histogram of these bounds encodes into less than usize::MAX bytes, and a Vec takes them all.
            let _ = V2DeflateSerializer::new().serialize(&self.histogram(), &mut bytes);
        }
        bytes
    }

    /// Reads what [`Latency::serialize`] has written; `None` when it is something else.
    pub fn deserialize(bytes: &[u8]) -> Option<Latency> {
        if bytes.is_empty() {
            return Some(Latency::default());
        }
        let histogram: Histogram<u64> = Deserializer::new().deserialize(&mut Cursor::new(bytes)).ok()?;
        if (histogram.low(), histogram.high(), histogram.sigfig()) != (LOWEST_NS, HIGHEST_NS, DIGITS) {
            return None;
        }
        let mut latency = Latency::default();
        for value in histogram.iter_recorded() {
            latency.add(bucket_of(value.value_iterated_to()), value.count_at_value());
        }
        latency.shrink();
        Some(latency)
    }
}

/// The bucket of a value, numbered as HdrHistogram numbers them: linear up to 256 units, then 128 for each doubling.
fn bucket_of(value_ns: u64) -> u64 {
    let units = value_ns / LOWEST_NS;
    let doublings = (u64::BITS - units.leading_zeros()).saturating_sub(LINEAR_BITS);
    (u64::from(doublings) << (LINEAR_BITS - 1)) + (units >> doublings)
}

/// The lowest value of a bucket.
fn lowest_of(bucket: u64) -> u64 {
    let doublings = (bucket >> (LINEAR_BITS - 1)).saturating_sub(1);
    ((bucket - (doublings << (LINEAR_BITS - 1))) << doublings) * LOWEST_NS
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Durations of every size that there is.
    fn durations() -> impl Strategy<Value = Vec<u64>> {
        let one = (0..52_u32, any::<u64>()).prop_map(|(bits, noise)| noise & ((2 << bits) - 1));
        prop::collection::vec(one, 0..300)
    }

    fn of(durations: &[u64]) -> (Latency, Histogram<u64>) {
        let (mut latency, mut histogram) = (Latency::default(), empty_histogram());
        for &duration in durations {
            latency.record(duration);
            // Below 8 ns is one bucket; of values in it the library remembers besides whether all were 0.
            histogram.saturating_record(if duration < 8 { 0 } else { duration });
        }
        (latency, histogram)
    }

    #[test]
    fn buckets_are_those_of_the_library() {
        let histogram = empty_histogram();
        assert_eq!(histogram.distinct_values() as u64, N_BUCKETS);
        for bucket in 0..N_BUCKETS {
            let (lowest, next) = (lowest_of(bucket), lowest_of(bucket + 1));
            assert_eq!((bucket_of(lowest), bucket_of(next - 1)), (bucket, bucket));
            assert_eq!(histogram.lowest_equivalent(next - 1), lowest);
            assert_eq!(histogram.highest_equivalent(lowest), next - 1);
        }
    }

    #[test]
    fn what_is_no_histogram_of_ours_is_not_read() {
        let other = Histogram::<u64>::new_with_bounds(1, 1_000_000, 3).unwrap();
        let mut bytes = Vec::new();
        V2DeflateSerializer::new().serialize(&other, &mut bytes).unwrap();
        assert_eq!(Latency::deserialize(&bytes), None);
        let (latency, _) = of(&[1_000_000, 5]);
        let bytes = latency.serialize();
        assert_eq!(Latency::deserialize(&bytes), Some(latency));
        assert_eq!(Latency::deserialize(&bytes[..bytes.len() / 2]), None);
        assert_eq!(Latency::deserialize(b"something else"), None);
        assert_eq!(Latency::deserialize(b""), Some(Latency::default()));
    }

    proptest! {
        #[test]
        fn it_is_the_librarys_histogram(durations in durations()) {
            let (latency, histogram) = of(&durations);
            prop_assert_eq!(latency.len(), histogram.len());
            prop_assert!(latency.histogram() == histogram, "{:?}", durations);
            for quantile in [0.001, 0.5, 0.9, 0.99, 1.0] {
                let want = (!durations.is_empty()).then(|| histogram.value_at_quantile(quantile));
                prop_assert_eq!(latency.quantile(quantile), want, "{}", quantile);
            }
            prop_assert_eq!(Latency::deserialize(&latency.serialize()), Some(latency));
        }

        #[test]
        fn merged_ones_are_one(durations in durations(), at in 0..300_usize) {
            let (first, second) = durations.split_at(at.min(durations.len()));
            let (mut merged, _) = of(first);
            merged.merge(&of(second).0);
            prop_assert_eq!(merged, of(&durations).0);
        }
    }
}
