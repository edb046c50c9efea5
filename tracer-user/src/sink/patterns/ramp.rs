//! Ramp: elapsed time grows evenly, and what is in flight with it, until it drops: more comes than is served, and a queue builds up.
//!
//! The dots of the last seconds, in windows of several lengths, are ranked by elapsed time, which must follow time; the medians of ten stretches must
//! lie on a line and end far above where they began. Without growth in flight elapsed times just grow: that is told as nothing. What stays up there when it
//! no longer grows was no queue, and is taken back.

use super::{
    finding::{Candidate, Figures, Pattern, cause_of, operation_of},
    group::{Group, SECOND_NS},
    sample::{Names, Sample},
    statistics::{line, median, quantile, rank_correlation},
};
use crate::time::WallTime;

/// Lengths of what is looked at, ns.
const WINDOWS_NS: [u64; 6] =
    [4 * SECOND_NS, 7 * SECOND_NS, 12 * SECOND_NS, 20 * SECOND_NS, 32 * SECOND_NS, 50 * SECOND_NS];
/// Fewest dots.
const MIN_DOTS: usize = 16;
/// Stretches whose medians are looked at.
const STRETCHES: usize = 8;
/// The median at its top, of that at its beginning.
const MIN_RISE: f64 = 3.0;
/// Share of the medians' variance that a line explains.
const MIN_EVEN: f64 = 0.85;
/// Share of the whole growth that each half of it has, at least: a step has all of it in the middle.
const MIN_HALF: f64 = 0.3;
/// Growth of elapsed time with time at most: of a queue it is less than 1, however much more comes than is served.
const MAX_SLOPE: f64 = 0.8;
/// Time over which the middle of them began, of that over which they ended.
const MIN_BEGAN: f64 = 0.15;
/// Rank correlation in standard deviations, and at least.
const MIN_Z: f64 = 3.3;
const MIN_CORRELATION: f64 = 0.75;
/// In flight at its top, and of that at its beginning.
const MIN_IN_FLIGHT: u64 = 3;
const MIN_GROWTH: f64 = 2.0;
/// Share of its top below which three dots in a row tell that it has dropped.
const DROPPED: f64 = 0.5;
/// Neither growing further nor dropping for so long, and so many dots: it stays.
const STAYS_NS: u64 = 5 * SECOND_NS;
const STAYS_DOTS: usize = 10;
const STAYS: f64 = 0.75;

pub(super) fn look(group: &Group, at: u64, names: &Names) -> Option<Candidate> {
    // The longest that fits: the whole of it.
    WINDOWS_NS.iter().rev().find_map(|window| ramp(group, at, *window, names))
}

fn ramp(group: &Group, at: u64, window: u64, names: &Names) -> Option<Candidate> {
    let from = at.saturating_sub(window);
    let dots: Vec<&Sample> = group.coarse(from, at).collect();
    if dots.len() < MIN_DOTS || dots[dots.len() - 1].end - dots[0].end < window / 2 {
        return None;
    }
    let points: Vec<(f64, f64)> = dots
        .chunks(dots.len().div_ceil(STRETCHES))
        .map(|chunk| {
            let mut durations: Vec<u64> = chunk.iter().map(|dot| dot.duration).collect();
            ((chunk[chunk.len() / 2].end - dots[0].end) as f64, median(&mut durations) as f64)
        })
        .collect();
    let (first, last) = (points[0].1, points[points.len() - 1].1);
    if last < MIN_RISE * first {
        return None;
    }
    let (slope, even) = line(&points);
    let durations: Vec<u64> = dots.iter().map(|dot| dot.duration).collect();
    let correlation = rank_correlation(&durations);
    let z = correlation * ((dots.len() - 1) as f64).sqrt();
    let (early, late) = points.split_at(points.len() / 2);
    let grows_throughout = [early, late].iter().all(|half| line(half).0 >= MIN_HALF * slope);
    // What began at once ends in the order of its elapsed time, which then grows with time itself: no queue does that.
    let mut starts: Vec<u64> = dots.iter().map(|dot| dot.start()).collect();
    starts.sort_unstable();
    let began = quantile(&starts, 0.9) - quantile(&starts, 0.1);
    if slope > MAX_SLOPE || (began as f64) < MIN_BEGAN * (dots[dots.len() - 1].end - dots[0].end) as f64 {
        return None;
    }
    if !grows_throughout || even < MIN_EVEN || correlation < MIN_CORRELATION || z < MIN_Z {
        return None;
    }
    let in_flight = in_flight(&dots, group.stride());
    if in_flight[1] < MIN_IN_FLIGHT || (in_flight[1] as f64) < MIN_GROWTH * in_flight[0] as f64 {
        return None;
    }
    let top = &dots[dots.len() * 2 / 3..];
    Some(Candidate {
        pattern: Pattern::Ramp,
        key: 0,
        from: dots[0].end,
        to: dots[dots.len() - 1].end,
        dots: dots.iter().map(|dot| (dot.end, group.stride())).collect(),
        operation: operation_of(dots.iter().copied()),
        figures: Figures::Ramp {
            slope_ns: (slope * SECOND_NS as f64) as i64,
            medians_ns: [first as u64, last as u64],
            correlation,
            in_flight,
            dropped: None,
        },
        cause: cause_of(top, names),
    })
}

/// In flight when the first of them ended, and at most; of those that finished.
fn in_flight(dots: &[&Sample], stride: u64) -> [u64; 2] {
    let mut starts: Vec<u64> = dots.iter().map(|dot| dot.start()).collect();
    starts.sort_unstable();
    // At each end: what had begun by then, less what had ended.
    let at_ends = dots
        .iter()
        .enumerate()
        .map(|(ended, dot)| starts.partition_point(|start| *start < dot.end).saturating_sub(ended) as u64);
    let all: Vec<u64> = at_ends.collect();
    let first = all.iter().take(all.len().div_ceil(STRETCHES)).sum::<u64>() as f64;
    let early = first / all.len().div_ceil(STRETCHES).max(1) as f64;
    let most = all.iter().copied().max().unwrap_or(0);
    [(early * stride as f64).round() as u64, most * stride]
}

/// What became of a ramp.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum After {
    /// It dropped.
    Dropped(WallTime),
    /// It stays where it is: no queue does that.
    Stays,
    /// Not known yet.
    Open,
}

/// What came behind a ramp that reached `top_ns` at `to`.
pub(super) fn after(group: &Group, to: u64, top_ns: u64, at: u64) -> After {
    let dots: Vec<&Sample> = group.coarse(to + 1, at).collect();
    let low = |dot: &&Sample| (dot.duration as f64) < DROPPED * top_ns as f64;
    if let Some(low) = dots.windows(3).find(|three| three.iter().all(low)) {
        return After::Dropped(WallTime(low[0].end));
    }
    if at.saturating_sub(to) < STAYS_NS || dots.len() < STAYS_DOTS {
        return After::Open;
    }
    let (early, late) = dots.split_at(dots.len() / 2);
    let [early, late] = [early, late].map(|half| {
        let mut durations: Vec<u64> = half.iter().map(|dot| dot.duration).collect();
        median(&mut durations) as f64
    });
    // A queue that is worked off slowly falls.
    let stays = late > STAYS * top_ns as f64 && late > STAYS * early && early > STAYS * late;
    if stays { After::Stays } else { After::Open }
}
