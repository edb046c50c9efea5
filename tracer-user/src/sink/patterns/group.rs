//! What is kept of the transactions of one service and role: O(1) for each, bounded.

use std::{collections::VecDeque, sync::Arc};

use super::{horizontal::Levels, sample::Sample, silence::Gaps};
use crate::event::Role;

pub(super) const SECOND_NS: u64 = 1_000_000_000;

/// The newest samples, for what happens at once: of so many ns…
const FINE_NS: u64 = 6 * SECOND_NS;
/// …and no more than so many a second; where there are more, every second, third… is kept, and how many were left out is counted.
const FINE_PER_SECOND: u64 = 2_048;
/// Samples for what takes its time: of so many ns…
const COARSE_NS: u64 = 240 * SECOND_NS;
/// …no more than so many a second…
const COARSE_PER_SECOND: u64 = 64;
/// …and in all. With the fine ones 18,432 × 56 bytes = 1 MB for a busy service; memory grows with use.
const MAX_COARSE: usize = 6_144;
/// A thinned second may have up to twice its share when the rate doubles from one to the next.
const MAX_FINE: usize = 6 * 2 * FINE_PER_SECOND as usize;
/// Seconds of which the number of ends is kept.
const MAX_SECONDS: usize = 64;

/// One in so many of the samples is kept.
#[derive(Clone, Copy, Debug)]
struct Thinning {
    per_second: u64,
    stride: u64,
}

impl Thinning {
    fn takes(&self, number: u64) -> bool {
        number.is_multiple_of(self.stride)
    }

    /// A second with `n` is over.
    fn adapt(&mut self, n: u64) {
        self.stride = n.div_ceil(self.per_second).max(1);
    }
}

/// One service in one role.
#[derive(Debug)]
pub struct Group {
    /// Its service.
    pub service: Arc<str>,
    /// Its part.
    pub role: Role,
    fine: VecDeque<(Sample, u32)>,
    coarse: VecDeque<Sample>,
    thinning: [Thinning; 2],
    /// Seconds of event time with their number of ends, the oldest first; those without any are not there.
    seconds: VecDeque<(u64, u64)>,
    /// How often elapsed times come.
    pub(super) levels: Levels,
    /// Time between ends.
    pub(super) gaps: Gaps,
    /// Samples that were not kept.
    pub(super) thinned: u64,
    /// End of the newest.
    pub(super) last_end: u64,
    n: u64,
}

impl Group {
    /// Without samples.
    pub fn new(service: Arc<str>, role: Role) -> Group {
        let thinning =
            [FINE_PER_SECOND, COARSE_PER_SECOND].map(|per_second| Thinning { per_second, stride: 1 });
        Group {
            service,
            role,
            fine: VecDeque::new(),
            coarse: VecDeque::new(),
            thinning,
            seconds: VecDeque::new(),
            levels: Levels::default(),
            gaps: Gaps::default(),
            thinned: 0,
            last_end: 0,
            n: 0,
        }
    }

    /// Takes one, in the order of their ends.
    pub fn push(&mut self, sample: Sample) {
        let second = sample.end / SECOND_NS;
        match self.seconds.back_mut() {
            Some((last, n)) if *last >= second => *n += 1,
            last => {
                let n = last.map_or(0, |(_, n)| *n);
                self.thinning.iter_mut().for_each(|thinning| thinning.adapt(n));
                self.seconds.push_back((second, 1));
                if self.seconds.len() > MAX_SECONDS {
                    self.seconds.pop_front();
                }
            }
        }
        self.gaps.push(sample.end);
        self.levels.push(sample.end, sample.duration);
        self.n += 1;
        let [fine, coarse] = self.thinning;
        if fine.takes(self.n) {
            let oldest = sample.end.saturating_sub(FINE_NS);
            while self.fine.front().is_some_and(|(first, _)| first.end < oldest)
                || self.fine.len() >= MAX_FINE
            {
                self.fine.pop_front();
            }
            self.fine.push_back((sample, u32::try_from(fine.stride).unwrap_or(u32::MAX)));
        } else {
            self.thinned += 1;
        }
        if coarse.takes(self.n) {
            let oldest = sample.end.saturating_sub(COARSE_NS);
            while self.coarse.front().is_some_and(|first| first.end < oldest)
                || self.coarse.len() >= MAX_COARSE
            {
                self.coarse.pop_front();
            }
            self.coarse.push_back(sample);
        }
        self.last_end = self.last_end.max(sample.end);
    }

    /// Samples for what happens at once, that end in `from..to`, each with the number of transactions that it stands for.
    pub fn fine(&self, from: u64, to: u64) -> impl ExactSizeIterator<Item = &(Sample, u32)> + Clone {
        let start = self.fine.partition_point(|(sample, _)| sample.end < from);
        let end = self.fine.partition_point(|(sample, _)| sample.end < to);
        self.fine.range(start..end.max(start))
    }

    /// Samples for what takes its time, that end in `from..to`.
    pub fn coarse(
        &self,
        from: u64,
        to: u64,
    ) -> impl DoubleEndedIterator<Item = &Sample> + ExactSizeIterator + Clone {
        let start = self.coarse.partition_point(|sample| sample.end < from);
        let end = self.coarse.partition_point(|sample| sample.end < to);
        self.coarse.range(start..end.max(start))
    }

    /// One in so many is among the coarse samples, by the last second.
    pub fn stride(&self) -> u64 {
        self.thinning[1].stride
    }

    /// Ends in the whole seconds of `from..to`, and how many seconds that are since the first one that is known.
    pub fn ends(&self, from: u64, to: u64) -> (u64, u64) {
        let (from, to) = (from / SECOND_NS, to / SECOND_NS);
        let first = self.seconds.front().map_or(to, |(second, _)| (*second).max(from));
        let within = self.seconds.iter().filter(|(second, _)| (from..to).contains(second));
        (within.map(|(_, n)| *n).sum(), to.saturating_sub(first))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::{compliance::transaction, patterns::sample::Names};

    #[test]
    fn a_busy_service_is_thinned_evenly_and_keeps_within_its_bounds() {
        let mut group = Group::new("shop".into(), Role::Server);
        let mut names = Names::default();
        let sample = Sample::of(&transaction(0), 0, &mut names);
        let rate = 10_000;
        for i in 0..rate * 20_u64 {
            group.push(Sample { end: 100 * SECOND_NS + i * (SECOND_NS / rate), ..sample });
        }
        assert!(group.fine.len() <= MAX_FINE && group.coarse.len() <= MAX_COARSE);
        assert_eq!(group.thinning.map(|thinning| thinning.stride), [5, 157]);
        let (from, to) = (115 * SECOND_NS, 116 * SECOND_NS);
        let kept: u64 = group.fine(from, to).map(|(_, stride)| u64::from(*stride)).sum();
        assert!(kept.abs_diff(rate) <= 5, "{kept}");
        assert!(group.thinned > 0);
        assert_eq!(group.ends(from, to), (rate, 1));
        assert_eq!(group.ends(0, to), (rate * 16, 16), "of what is known");
    }
}
