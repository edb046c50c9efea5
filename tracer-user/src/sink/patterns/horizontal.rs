//! Horizontal line: a constant elapsed time, between others that spread: a timeout, a retry, a sleep, and their multiples.
//!
//! Elapsed times are counted in bins of half a percent, in slices of five seconds. In the last 10, 30 and 120 s a narrow window of bins must hold far
//! more than those on both sides of it let expect. What spreads smoothly, however little, has no such window.

use std::collections::VecDeque;

use super::{
    finding::{Candidate, Figures, Pattern, cause_by, operation_of},
    group::{Group, SECOND_NS},
    sample::{Names, Sample},
    statistics::poisson_tail,
};

/// Elapsed times below it are not looked at: there the clock and the scheduler make lines of their own.
const SHORTEST_NS: u64 = 1_000_000;
/// Bins of half a percent from there on: to 128 s.
const BINS: usize = 2_360;
const BIN: f64 = 0.005;
/// Time of a slice, ns.
pub(super) const SLICE_NS: u64 = 5 * SECOND_NS;
/// Slices kept: 24 × 2,360 × 2 bytes = 113 KB for a service that always has something to count.
const SLICES: usize = 24;
/// Slices that are looked at together.
const WINDOWS: [usize; 3] = [2, 6, SLICES];
/// Widths of the line, bins.
const WIDTHS: [usize; 3] = [1, 2, 4];
/// Fewest dots of a line.
const MIN_DOTS: u64 = 15;
/// A line has so many times the dots that are expected.
const MIN_PROMINENCE: f64 = 2.5;
/// Power of ten of the probability by chance. Some 7,000 windows are looked at each time.
const LOG10_P: f64 = -10.0;
/// A line without a dot for so long is over, ns: it is not told again.
const GOES_ON_NS: u64 = 30 * SECOND_NS;
/// How far a multiple may be from being one.
const MULTIPLE: f64 = 0.015;

/// How often elapsed times came.
#[derive(Debug, Default)]
pub struct Levels {
    slices: VecDeque<Slice>,
}

#[derive(Debug)]
struct Slice {
    number: u64,
    bins: Box<[u16; BINS]>,
    /// All, those that have no bin too.
    n: u64,
}

fn bin_of(duration: u64) -> Option<usize> {
    if duration < SHORTEST_NS {
        return None;
    }
    let bin = ((duration as f64 / SHORTEST_NS as f64).ln() / BIN) as usize;
    (bin < BINS).then_some(bin)
}

/// Lower edge of a bin, ns.
fn edge(bin: usize) -> u64 {
    (SHORTEST_NS as f64 * (bin as f64 * BIN).exp()) as u64
}

impl Levels {
    /// Counts one.
    pub fn push(&mut self, end: u64, duration: u64) {
        let number = end / SLICE_NS;
        if self.slices.back().is_none_or(|last| last.number < number) {
            // The one that goes is used again.
            let mut bins = match self.slices.len() {
                SLICES => self.slices.pop_front().map(|slice| slice.bins),
                _ => None,
            }
            .unwrap_or_else(|| Box::new([0; BINS]));
            bins.fill(0);
            self.slices.push_back(Slice { number, bins, n: 0 });
        }
        if let Some(last) = self.slices.back_mut() {
            last.n += 1;
            if let Some(bin) = bin_of(duration) {
                last.bins[bin] = last.bins[bin].saturating_add(1);
            }
        }
    }
}

/// A window of bins with too many in it.
#[derive(Clone, Copy, Debug)]
struct Peak {
    first: usize,
    width: usize,
    n: u64,
    expected: f64,
    log10_p: f64,
}

impl Peak {
    fn level(&self) -> f64 {
        SHORTEST_NS as f64 * ((self.first as f64 + self.width as f64 / 2.0) * BIN).exp()
    }
}

fn peaks(counts: &[u64]) -> Vec<Peak> {
    let sums: Vec<u64> = std::iter::once(0)
        .chain(counts.iter().scan(0, |sum, n| {
            *sum += n;
            Some(*sum)
        }))
        .collect();
    let sum = |from: usize, to: usize| sums[to.min(BINS)] - sums[from.min(BINS)];
    let mut found: Vec<Peak> = Vec::new();
    for width in WIDTHS {
        // Beside a window of this width a part as wide is left out; the next three on each side tell what to expect.
        for first in 0..BINS - width {
            let n = sum(first, first + width);
            if n < MIN_DOTS {
                continue;
            }
            let (skip, side) = (width.max(2), 3 * width.max(2));
            let above = sum(first + width + skip, first + width + skip + side);
            let below = sum(first.saturating_sub(skip + side), first.saturating_sub(skip));
            let side_mean = above.max(below) as f64 * width as f64 / side as f64;
            let expected = side_mean + 1.5 * (side_mean * width as f64 / side as f64).sqrt() + 0.3;
            if (n as f64) < MIN_PROMINENCE * expected {
                continue;
            }
            let log10_p = poisson_tail(n, expected);
            if log10_p < LOG10_P {
                found.push(Peak { first, width, n, expected: side_mean, log10_p });
            }
        }
    }
    // Of those that overlap the least probable one.
    found.sort_by(|a, b| a.log10_p.total_cmp(&b.log10_p));
    let mut apart: Vec<Peak> = Vec::new();
    for peak in found {
        let near = |other: &Peak| {
            peak.first < other.first + other.width + 8 && other.first < peak.first + peak.width + 8
        };
        if !apart.iter().any(near) {
            apart.push(peak);
        }
    }
    apart
}

pub(super) fn look(group: &Group, at: u64, names: &Names) -> Vec<Candidate> {
    let last = at / SLICE_NS;
    let mut best: Vec<(Peak, u64, usize)> = Vec::new();
    for window in WINDOWS {
        let mut counts = vec![0_u64; BINS];
        let within = |slice: &&Slice| slice.number < last && slice.number + window as u64 >= last;
        let mut n_all = 0;
        for slice in group.levels.slices.iter().filter(within) {
            n_all += slice.n;
            counts.iter_mut().zip(slice.bins.iter()).for_each(|(sum, n)| *sum += u64::from(*n));
        }
        for peak in peaks(&counts) {
            let near = |other: &Peak| (other.level() / peak.level()).ln().abs() < 0.04;
            match best.iter_mut().find(|(other, ..)| near(other)) {
                Some(kept) if kept.0.log10_p > peak.log10_p => *kept = (peak, n_all, window),
                Some(_) => {}
                None => best.push((peak, n_all, window)),
            }
        }
    }
    best.sort_by_key(|(peak, ..)| peak.first);
    let mut candidates: Vec<Candidate> = Vec::new();
    for (peak, n_all, window) in best {
        let level = peak.level();
        // A multiple of a lower line is a part of it.
        let base = candidates.iter_mut().find_map(|base| match &mut base.figures {
            Figures::Horizontal { level_ns, multiples, .. } => {
                let ratio = level / *level_ns as f64;
                let whole = ratio.round();
                let is_multiple = (2.0..=20.0).contains(&whole) && (ratio / whole - 1.0).abs() < MULTIPLE;
                is_multiple.then_some((multiples, whole as u64))
            }
            _ => None,
        });
        if let Some((multiples, whole)) = base {
            multiples.push(whole);
            continue;
        }
        candidates.extend(candidate(group, &peak, n_all, window, last, names));
    }
    candidates
}

fn candidate(
    group: &Group,
    peak: &Peak,
    n_all: u64,
    window: usize,
    last: u64,
    names: &Names,
) -> Option<Candidate> {
    let bins = peak.first..peak.first + peak.width;
    let within = |slice: &&Slice| slice.number < last && slice.number + window as u64 >= last;
    let by_time: Vec<(u64, u64)> = group
        .levels
        .slices
        .iter()
        .filter(within)
        .map(|slice| (slice.number, slice.bins[bins.clone()].iter().map(|n| u64::from(*n)).sum::<u64>()))
        .filter(|(_, n)| *n != 0)
        .map(|(number, n)| ((number + 1) * SLICE_NS - 1, n))
        .collect();
    // What happened once is no line.
    let (first, newest) = (by_time.first()?.0, by_time.last()?.0);
    if newest + GOES_ON_NS < last * SLICE_NS {
        return None;
    }
    let (low, high) = (edge(bins.start), edge(bins.end));
    let is_in = |dot: &&Sample| (low..=high).contains(&dot.duration);
    let from = first + 1 - SLICE_NS;
    let mut dots: Vec<&Sample> = group.coarse(from, newest + 1).filter(is_in).collect();
    if dots.is_empty() {
        dots = group.fine(from, newest + 1).map(|(sample, _)| sample).filter(is_in).collect();
    }
    let (start, end) = (dots.first().map_or(from, |dot| dot.end), dots.last().map_or(newest, |dot| dot.end));
    if by_time.len() < 2 && end.saturating_sub(start) < 2 * SECOND_NS {
        return None;
    }
    let level = peak.level();
    // The part that makes up the constant: at least half of it.
    let cause =
        cause_by(&dots, names, |dot| dot.parts[0].filter(|(_, us)| f64::from(*us) * 1_000.0 >= level / 2.0));
    Some(Candidate {
        pattern: Pattern::Horizontal,
        // The same line again may have its window a bin or two further.
        key: (peak.first / 8) as u64,
        from: start,
        to: end,
        dots: by_time,
        operation: operation_of(dots.iter().copied()),
        figures: Figures::Horizontal {
            level_ns: level as u64,
            multiples: Vec::new(),
            expected: peak.expected,
            share: peak.n as f64 / n_all.max(1) as f64,
            log10_p: peak.log10_p,
        },
        cause,
    })
}
