//! The commit, which counts transactions in their seconds and closes those that are over, and the rings that hold what it closed.

use std::{collections::BTreeMap, sync::Arc};

use rustc_hash::FxHashMap;

use super::ring::Ring;
use crate::{
    event::{Counters, Role},
    pipeline::Snapshot,
    sink::histogram::OVERFLOW,
    time::{BootTime, WallTime},
    transaction::{
        Transaction, WallRange,
        rollup::{Interval, Resolution, ServiceSums, Sums},
    },
};

/// Services, each in three roles, before further ones share [`OVERFLOW`].
pub const MAX_SERVICES: usize = 100;
/// Intervals kept of seconds, minutes and hours: ten minutes, a day, 31 days.
const KEPT: [usize; 3] = [600, 1_440, 744];
/// Memory that each of the three rings may take; beyond it the oldest intervals go earlier. An interval of a service takes 8 bytes for each
/// duration that differs by a percent: 1 KB for a second of 100 requests, 4 KB for one of 1,000, 5.5 KB for a minute of 6,000
/// (`examples/rollup_cost`, lognormal durations). One service of 100 a second has all that is kept in 13 MB; ten of 1,000 each have three
/// minutes of seconds, two hours of minutes, five days of hours.
const MAX_RING_BYTES: usize = 8 << 20;
/// Seconds that may be open at once; two are, as the watermark is half a second behind. Beyond it the earliest is closed.
const MAX_OPEN: usize = 64;
/// Minutes and hours that may wait for their end at once. Beyond it the earliest is closed.
const MAX_PENDING: usize = 4;
/// Event time that passed between two looks and is longer than this was not watched, ns: there are four a second, as long as the time is
/// told, which it is ten times a second.
const MAX_SILENCE_NS: u64 = 2_000_000_000;

const ROLES: [Role; 3] = [Role::Client, Role::Server, Role::Unknown];
const SECOND_NS: u64 = 1_000_000_000;

/// What is over, in the order in which it ended.
pub(super) type Closed = Vec<(Resolution, Interval)>;

/// A second that is not over.
#[derive(Debug, Default)]
struct Open {
    /// It was over already when this began.
    is_late: bool,
    recorded_ns: u64,
    in_flight: Option<u64>,
    lost: Option<u64>,
    /// By number of the service, three roles each.
    sums: Vec<Option<Box<Sums>>>,
}

/// Counts transactions and closes seconds, minutes and hours.
#[derive(Debug, Default)]
pub(super) struct Commit {
    numbers: FxHashMap<Arc<str>, usize>,
    services: Vec<Arc<str>>,
    /// By their begin, ns.
    open: BTreeMap<u64, Open>,
    /// Minutes and hours that are not over, by their begin.
    pending: [BTreeMap<u64, Interval>; 2],
    watermark: WallTime,
    /// Event time of the last look. Looks come at instants that the events decide; what batches are cut says nothing.
    seen: Option<WallTime>,
    /// When counters were read last, and what was lost by then; `None`: not since a snapshot without them.
    counted: Option<(BootTime, u64)>,
    has_begun_uncounted: bool,
    closed: Closed,
}

impl Commit {
    pub(super) fn record(&mut self, transaction: &Transaction) {
        if !transaction.is_finished() {
            return;
        }
        let number = self.number(&transaction.service);
        let at = number * ROLES.len()
            + ROLES.iter().position(|role| *role == transaction.role).unwrap_or(ROLES.len() - 1);
        let open = self.second(transaction.end_time);
        if open.sums.len() <= at {
            open.sums.resize_with(at + 1, || None);
        }
        open.sums[at].get_or_insert_default().record(transaction);
    }

    fn number(&mut self, service: &Arc<str>) -> usize {
        if let Some(number) = self.numbers.get(service) {
            return *number;
        }
        let is_full = self.services.len() >= MAX_SERVICES;
        let name: Arc<str> = if is_full { OVERFLOW.into() } else { service.clone() };
        // The last number is that of the others, however many there are.
        *self.numbers.entry(name.clone()).or_insert_with(|| {
            self.services.push(name);
            self.services.len() - 1
        })
    }

    fn second(&mut self, at: WallTime) -> &mut Open {
        let start = Resolution::Second.begin(at).0;
        let is_late = start + SECOND_NS <= self.watermark.0;
        self.open.entry(start).or_insert_with(|| Open { is_late, ..Open::default() })
    }

    /// Time has come to `at`.
    fn see(&mut self, at: WallTime) {
        let Some(last) = self.seen.replace(at) else { return };
        // Behind a step of the clock, back or forth, the watch begins anew.
        if at.0.saturating_sub(last.0) > MAX_SILENCE_NS {
            return;
        }
        let mut from = last.0;
        while from < at.0 {
            let to = (Resolution::Second.begin(WallTime(from)).0 + SECOND_NS).min(at.0);
            self.second(WallTime(from)).recorded_ns += to - from;
            from = to;
        }
    }

    pub(super) fn observe(&mut self, snapshot: &Snapshot) {
        // Before the first anchor there is no wall time.
        if snapshot.wall.0 == snapshot.time.0 || snapshot.wall.0 == 0 {
            self.has_begun_uncounted |= snapshot.counters.is_none();
            return;
        }
        self.see(snapshot.wall);
        let lost = self.newly_lost(snapshot.counters.as_deref());
        let open = self.second(snapshot.wall);
        open.in_flight = open.in_flight.max(Some(snapshot.n_open));
        if let Some(lost) = lost {
            *open.lost.get_or_insert(0) += lost;
        }
    }

    /// What the counters have grown by since they were looked at last; `None`: they are not known.
    fn newly_lost(&mut self, counters: Option<&Counters>) -> Option<u64> {
        let Some(counters) = counters else {
            self.has_begun_uncounted = true;
            return None;
        };
        if self.counted.is_some_and(|(time, _)| time == counters.time) {
            return Some(0);
        }
        let total = counters.lost();
        let before = self.counted.replace((counters.time, total));
        match before {
            // A run whose beginning was not seen has lost what it says at any time before.
            None if !self.has_begun_uncounted => Some(0),
            None => Some(total),
            // Another run counts from nothing.
            Some((_, before)) => Some(if total < before { total } else { total - before }),
        }
    }

    pub(super) fn advance(&mut self, watermark: WallTime) -> Closed {
        self.watermark = self.watermark.max(watermark);
        self.close(|start, _| start + SECOND_NS <= watermark.0)
    }

    /// Closes late seconds behind which later late ones have begun: they come in their order, one batch after the other.
    pub(super) fn close_late(&mut self) -> Closed {
        let newest = self.open.iter().rev().find(|(_, open)| open.is_late).map(|(start, _)| *start);
        let Some(newest) = newest else { return self.close(|_, _| false) };
        self.close(|start, open| open.is_late && start < newest)
    }

    pub(super) fn finish(&mut self) -> Closed {
        let mut closed = self.close(|_, _| true);
        self.end_pending(WallTime(u64::MAX));
        closed.append(&mut self.closed);
        closed
    }

    /// Closes the seconds that are over, and what ends with them.
    fn close(&mut self, is_over: impl Fn(u64, &Open) -> bool) -> Closed {
        let over: Vec<u64> = self
            .open
            .iter()
            .filter(|(start, open)| is_over(**start, open))
            .map(|(start, _)| *start)
            .collect();
        let too_many = self.open.len().saturating_sub(over.len()).saturating_sub(MAX_OPEN);
        let earliest: Vec<u64> =
            self.open.keys().filter(|start| !over.contains(start)).take(too_many).copied().collect();
        let mut starts = [over, earliest].concat();
        starts.sort_unstable();
        for start in starts {
            let Some(open) = self.open.remove(&start) else { continue };
            // What ended before it comes before it.
            self.end_pending(WallTime(start));
            self.close_second(start, open);
        }
        self.end_pending(self.watermark);
        std::mem::take(&mut self.closed)
    }

    fn close_second(&mut self, start: u64, open: Open) {
        let Open { is_late: _, recorded_ns, in_flight, lost, sums } = open;
        let mut rows: Vec<ServiceSums> = sums
            .into_iter()
            .enumerate()
            .filter_map(|(at, sums)| {
                let service = self.services[at / ROLES.len()].clone();
                Some(ServiceSums { service, role: ROLES[at % ROLES.len()], sums: *sums? })
            })
            .collect();
        rows.sort_unstable_by(|a, b| (&a.service, a.role).cmp(&(&b.service, b.role)));
        let mut second = Interval { start: WallTime(start), recorded_ns, in_flight, lost, rows };
        second.shrink();
        for (resolution, pending) in [Resolution::Minute, Resolution::Hour].into_iter().zip(&mut self.pending)
        {
            let begin = resolution.begin(second.start);
            pending.entry(begin.0).or_insert_with(|| Interval::new(begin)).merge(&second);
        }
        self.closed.push((Resolution::Second, second));
    }

    /// Closes minutes and hours that end before `at`, the shorter ones first.
    fn end_pending(&mut self, at: WallTime) {
        for (resolution, pending) in [Resolution::Minute, Resolution::Hour].into_iter().zip(&mut self.pending)
        {
            while let Some((start, _)) = pending.first_key_value()
                && (start + resolution.ns() <= at.0 || pending.len() > MAX_PENDING)
                && let Some((_, interval)) = pending.pop_first()
            {
                self.closed.push((resolution, interval));
            }
        }
    }
}

/// The newest seconds, minutes and hours of a run: those that are over, the last minute and hour as far as they are.
#[derive(Clone, Debug)]
pub struct Rollups {
    rings: [Ring; 3],
    /// Changes when something was added.
    generation: u64,
}

impl Default for Rollups {
    fn default() -> Self {
        Rollups::with_bounds(KEPT, MAX_RING_BYTES)
    }
}

impl Rollups {
    /// None yet; with other bounds than the usual ones: intervals of each length, and bytes of each ring.
    pub fn with_bounds(kept: [usize; 3], max_bytes: usize) -> Rollups {
        let ring = |at: usize| Ring::new(Resolution::ALL[at], kept[at], max_bytes);
        Rollups { rings: std::array::from_fn(ring), generation: 0 }
    }

    pub(super) fn take(&mut self, closed: &Closed) {
        // A minute and an hour are there from their first second on.
        for (_, second) in closed.iter().filter(|(resolution, _)| *resolution == Resolution::Second) {
            self.rings.iter_mut().for_each(|ring| ring.merge(second));
        }
        self.generation += 1;
    }

    /// Changes when there is something new.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// From here on all intervals of this length are kept.
    pub fn kept_from(&self, resolution: Resolution) -> WallTime {
        self.ring(resolution).kept_from()
    }

    /// Intervals of one length that begin in a range, in order.
    pub fn intervals(&self, resolution: Resolution, range: WallRange) -> impl Iterator<Item = &Interval> {
        self.ring(resolution).range(range.from, range.to)
    }

    /// Bytes of memory, names left out.
    pub fn bytes(&self) -> usize {
        self.rings.iter().map(Ring::bytes).sum()
    }

    fn ring(&self, resolution: Resolution) -> &Ring {
        match resolution {
            Resolution::Second => &self.rings[0],
            Resolution::Minute => &self.rings[1],
            Resolution::Hour => &self.rings[2],
        }
    }
}
