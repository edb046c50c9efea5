//! Rollups: what happened in an interval of wall time, in sums that can be added. A minute is the sum of its seconds, an hour that of
//! its minutes; nothing is averaged.

use std::sync::Arc;

use super::{Transaction, latency::Latency};
use crate::{event::Role, time::WallTime};

/// Length of an interval that is summed up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resolution {
    /// 1 s.
    Second,
    /// 60 s.
    Minute,
    /// 3,600 s.
    Hour,
}

impl Resolution {
    /// All, the finest first.
    pub const ALL: [Resolution; 3] = [Resolution::Second, Resolution::Minute, Resolution::Hour];

    /// Its length, ns.
    pub fn ns(self) -> u64 {
        match self {
            Resolution::Second => 1_000_000_000,
            Resolution::Minute => 60_000_000_000,
            Resolution::Hour => 3_600_000_000_000,
        }
    }

    /// The one of this length.
    pub fn of_ns(ns: u64) -> Option<Resolution> {
        Resolution::ALL.into_iter().find(|resolution| resolution.ns() == ns)
    }

    /// The next finer one.
    pub fn finer(self) -> Option<Resolution> {
        match self {
            Resolution::Second => None,
            Resolution::Minute => Some(Resolution::Second),
            Resolution::Hour => Some(Resolution::Minute),
        }
    }

    /// The coarsest one of which `ns` is a whole number; a second if there is none.
    pub fn dividing(ns: u64) -> Resolution {
        let divides = |resolution: &Resolution| ns.is_multiple_of(resolution.ns());
        Resolution::ALL.into_iter().rev().find(divides).unwrap_or(Resolution::Second)
    }

    /// Begin of the interval that holds an instant.
    pub fn begin(self, at: WallTime) -> WallTime {
        WallTime(at.0 / self.ns() * self.ns())
    }

    /// In a word, as after a number.
    pub fn unit(self) -> &'static str {
        match self {
            Resolution::Second => "s",
            Resolution::Minute => "min",
            Resolution::Hour => "h",
        }
    }
}

/// Sums over transactions: finished ones, by the time of their end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// Finished transactions.
    pub count: u64,
    /// Those that are errors.
    pub errors: u64,
    /// Durations of the measured ones ([`Transaction::is_measured`]), ns, added up.
    pub duration_sum_ns: u64,
    /// The longest of them, exact.
    pub duration_max_ns: u64,
    /// Bytes of the requests.
    pub request_bytes: u64,
    /// Bytes of the responses.
    pub response_bytes: u64,
    /// Durations of the measured ones.
    pub latency: Latency,
}

impl Sums {
    /// Counts a transaction that is finished.
    pub fn record(&mut self, transaction: &Transaction) {
        self.count += 1;
        self.errors += u64::from(transaction.error);
        self.request_bytes = self.request_bytes.saturating_add(transaction.request_bytes);
        self.response_bytes = self.response_bytes.saturating_add(transaction.response_bytes);
        if transaction.is_measured() {
            let duration = transaction.duration_ns.unsigned_abs();
            self.duration_sum_ns = self.duration_sum_ns.saturating_add(duration);
            self.duration_max_ns = self.duration_max_ns.max(duration);
            self.latency.record(duration);
        }
    }

    /// Adds what `other` counted: the same as if its transactions had been recorded here.
    pub fn merge(&mut self, other: &Sums) {
        let Sums { count, errors, duration_sum_ns, duration_max_ns, request_bytes, response_bytes, latency } =
            other;
        self.count += count;
        self.errors += errors;
        self.duration_sum_ns = self.duration_sum_ns.saturating_add(*duration_sum_ns);
        self.duration_max_ns = self.duration_max_ns.max(*duration_max_ns);
        self.request_bytes = self.request_bytes.saturating_add(*request_bytes);
        self.response_bytes = self.response_bytes.saturating_add(*response_bytes);
        self.latency.merge(latency);
    }

    /// A quantile of the measured durations, ns, never above the longest.
    pub fn quantile(&self, quantile: f64) -> Option<u64> {
        self.latency.quantile(quantile).map(|ns| ns.min(self.duration_max_ns))
    }
}

/// Sums of one service in one role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceSums {
    /// Service.
    pub service: Arc<str>,
    /// Its part. Roles are never added: a local call is in both.
    pub role: Role,
    /// The sums.
    pub sums: Sums,
}

impl ServiceSums {
    fn key(&self) -> (&str, Role) {
        (&self.service, self.role)
    }
}

/// What happened in an interval.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interval {
    /// Its begin: a whole number of its length since 1970.
    pub start: WallTime,
    /// So much of it was watched, ns: less than its length where a run began, ended or was asleep, more where the wall clock was set
    /// back and time passed twice.
    pub recorded_ns: u64,
    /// Requests that were in flight at once, at most, of all services; `None`: nobody looked.
    pub in_flight: Option<u64>,
    /// What was lost, of all reasons and services; `None`: not known.
    pub lost: Option<u64>,
    /// By service and role, in that order; who did nothing is not there.
    pub rows: Vec<ServiceSums>,
}

impl Interval {
    /// Nothing, from here on.
    pub fn new(start: WallTime) -> Interval {
        Interval { start, ..Interval::default() }
    }

    /// Adds what happened in `other`, a part of this interval.
    pub fn merge(&mut self, other: &Interval) {
        let Interval { start: _, recorded_ns, in_flight, lost, rows } = other;
        self.recorded_ns += recorded_ns;
        self.in_flight = self.in_flight.max(*in_flight);
        if let Some(lost) = lost {
            *self.lost.get_or_insert(0) += lost;
        }
        for row in rows {
            match self.rows.binary_search_by(|known| known.key().cmp(&row.key())) {
                Ok(at) => self.rows[at].sums.merge(&row.sums),
                Err(at) => self.rows.insert(at, row.clone()),
            }
        }
    }

    /// Bytes of memory, names (which are shared) left out.
    pub fn bytes(&self) -> usize {
        let rows = self.rows.iter().map(|row| row.sums.latency.heap_bytes()).sum::<usize>();
        size_of::<Interval>() + self.rows.capacity() * size_of::<ServiceSums>() + rows
    }

    /// Gives back memory that is not used.
    pub fn shrink(&mut self) {
        self.rows.shrink_to_fit();
        self.rows.iter_mut().for_each(|row| row.sums.latency.shrink());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_is_summed_up_from_the_coarsest_interval_that_divides_it() {
        let second = Resolution::Second.ns();
        for (seconds, resolution) in [
            (1, Resolution::Second),
            (90, Resolution::Second),
            (120, Resolution::Minute),
            (3_600, Resolution::Hour),
            (5_400, Resolution::Minute),
            (86_400, Resolution::Hour),
        ] {
            assert_eq!(Resolution::dividing(seconds * second), resolution, "{seconds}");
        }
        assert_eq!(Resolution::of_ns(60 * second), Some(Resolution::Minute));
        assert_eq!(Resolution::of_ns(61 * second), None);
    }

    #[test]
    fn what_nobody_knows_of_a_part_does_not_become_nothing() {
        let of = |in_flight, lost| Interval { recorded_ns: 1, in_flight, lost, ..Interval::default() };
        let mut sum = of(None, None);
        sum.merge(&of(None, None));
        assert_eq!((sum.recorded_ns, sum.in_flight, sum.lost), (2, None, None));
        sum.merge(&of(Some(3), Some(0)));
        sum.merge(&of(Some(2), Some(5)));
        sum.merge(&of(None, None));
        assert_eq!((sum.recorded_ns, sum.in_flight, sum.lost), (5, Some(3), Some(5)));
    }
}
