//! Vertical line: many transactions end at one instant with elapsed times from 0 up: what they waited for was given to all at once.
//!
//! Within the last second, the densest cluster of ends, in windows of several widths, must hold far more ends than come in such a time otherwise
//! (there and in the half minute before), and their elapsed times must be spread over many times its width, and evenly. Requests that *began*
//! together end together as well, but have no such spread: that is what tells a burst of arrivals from a release.

use super::{
    finding::{Candidate, Figures, Pattern, cause_of, operation_of},
    group::{Group, SECOND_NS},
    sample::{Names, Sample},
    statistics::{distance_from_even, poisson_tail, quantile},
};

/// Widths of the cluster, ns: what is released takes its time to end, more so on few processors.
const WIDTHS_NS: [u64; 3] = [4_000_000, 20_000_000, 60_000_000];
/// Fewest dots of a line. Patterns are promised from 20 on; some of those may end beside the window.
const MIN_DOTS: usize = 15;
/// Its elapsed times go over at least so many widths.
const MIN_SPREAD: u64 = 6;
/// Distance from an even spread at most: 20 evenly spread ones have 0.3 at most in 95 of 100 cases.
const MAX_UNEVEN: f64 = 0.45;
/// Power of ten of the probability by chance.
const LOG10_P: f64 = -9.0;

pub(super) fn look(group: &Group, at: u64, names: &Names) -> Option<Candidate> {
    let widest = WIDTHS_NS[WIDTHS_NS.len() - 1];
    // What ended at the border of two seconds is looked at whole in one of them.
    let (from, to) = (at.saturating_sub(SECOND_NS + 2 * widest), at);
    let dots: Vec<&(Sample, u32)> = group.fine(from, to).collect();
    let best = WIDTHS_NS.iter().filter_map(|width| cluster(group, &dots, at, *width)).min_by(|a, b| {
        // The least probable one; of equal ones the narrowest.
        a.log10_p.total_cmp(&b.log10_p)
    })?;
    let dots: Vec<&Sample> = dots[best.range.clone()].iter().map(|(sample, _)| sample).collect();
    let (first, last) = (dots[0].end, dots[dots.len() - 1].end);
    let figures = Figures::Vertical {
        width_ns: last - first,
        longest_ns: dots.iter().map(|dot| dot.duration).max().unwrap_or(0),
        expected: best.expected,
        z: best.z,
        log10_p: best.log10_p,
        uneven: best.uneven,
    };
    Some(Candidate {
        pattern: Pattern::Vertical,
        key: 0,
        from: first,
        to: last,
        dots: vec![(last, best.n)],
        operation: operation_of(dots.iter().copied()),
        figures,
        cause: cause_of(&dots, names),
    })
}

struct Cluster {
    range: std::ops::Range<usize>,
    n: u64,
    expected: f64,
    z: f64,
    log10_p: f64,
    uneven: f64,
}

fn cluster(group: &Group, dots: &[&(Sample, u32)], at: u64, width: u64) -> Option<Cluster> {
    // The densest window of this width.
    let (mut best, mut first) = (0..0, 0);
    for last in 0..dots.len() {
        while dots[last].0.end - dots[first].0.end > width {
            first += 1;
        }
        if last + 1 - first > best.len() {
            best = first..last + 1;
        }
    }
    if best.len() < MIN_DOTS {
        return None;
    }
    let cluster = &dots[best.clone()];
    let stride = cluster.iter().map(|(_, stride)| u64::from(*stride)).max().unwrap_or(1);
    let n: u64 = cluster.iter().map(|(_, stride)| u64::from(*stride)).sum();
    let mut durations: Vec<u64> = cluster.iter().map(|(dot, _)| dot.duration).collect();
    durations.sort_unstable();
    let spread = quantile(&durations, 0.9).saturating_sub(quantile(&durations, 0.1));
    let uneven = distance_from_even(&durations, quantile(&durations, 0.95));
    let mut starts: Vec<u64> = cluster.iter().map(|(dot, _)| dot.start()).collect();
    starts.sort_unstable();
    let began = quantile(&starts, 0.9).saturating_sub(quantile(&starts, 0.1));
    if spread.min(began) < MIN_SPREAD * width || uneven > MAX_UNEVEN {
        return None;
    }
    // How many end in such a time otherwise: in the half minute before, and just around.
    let (before, seconds) = group.ends(at.saturating_sub(31 * SECOND_NS), at.saturating_sub(SECOND_NS));
    let usual = before as f64 / (seconds.max(1) * SECOND_NS) as f64;
    let (start, end) = (cluster[0].0.end, cluster[cluster.len() - 1].0.end);
    let near = 4 * width;
    let around = group.fine(start.saturating_sub(near), end + near);
    let others = around.map(|(_, stride)| u64::from(*stride)).sum::<u64>().saturating_sub(n);
    let local = others as f64 / (2 * near) as f64;
    let expected = usual.max(local) * width as f64 / stride as f64;
    let kept = cluster.len() as u64;
    let z = (kept as f64 - expected) / (expected + 1.0).sqrt();
    // There are as many windows to choose from as there are widths in a second.
    let log10_p = poisson_tail(kept, expected + 0.5) + ((SECOND_NS / width) as f64).log10();
    (log10_p < LOG10_P).then_some(Cluster {
        range: best,
        n,
        expected: expected * stride as f64,
        z,
        log10_p,
        uneven,
    })
}
