//! Floating floor: even the shortest transactions of an operation take longer than before: each pays a constant.
//!
//! The last dots of an operation against those before: far fewer of them than by chance may lie below what were usual elapsed times. A floor stays: where
//! elapsed times still grow within the last dots it is a ramp, or not yet a floor.

use rustc_hash::FxHashMap;

use super::{
    finding::{Candidate, Cause, Figures, Pattern, cause_by},
    group::{Group, SECOND_NS},
    sample::{Names, Part, Sample},
    statistics::{binomial_tail, line, quantile},
};

/// The last dots: at least of so much time…
const RECENT_NS: u64 = 10 * SECOND_NS;
/// …and so many, but no more than of so much time.
const MIN_RECENT: usize = 20;
const MAX_RECENT_NS: u64 = 60 * SECOND_NS;
/// Those before: so many at least, of so much time at most.
const MIN_BEFORE: usize = 30;
const BEFORE_NS: u64 = 90 * SECOND_NS;
/// Operations of a service that are looked at: those with most dots. Others are too rare to have a floor.
const MAX_OPERATIONS: usize = 16;
/// The floor has risen by so much at least, of what it was and ns.
const MIN_RISE: f64 = 1.3;
const MIN_RISE_NS: u64 = 300_000;
/// By how much elapsed times may grow within the last dots, of what they are.
const MAX_GROWTH: f64 = 0.25;
/// Stretches of the last dots, in almost all of which there must be some.
const STRETCHES: usize = 5;
/// Power of ten of the probability by chance.
const LOG10_P: f64 = -9.0;

pub(super) fn look(group: &Group, at: u64, names: &Names) -> Vec<Candidate> {
    let mut by_operation: FxHashMap<u16, Vec<&Sample>> = FxHashMap::default();
    for sample in group.coarse(at.saturating_sub(MAX_RECENT_NS + BEFORE_NS), at) {
        by_operation.entry(sample.operation).or_default().push(sample);
    }
    let mut operations: Vec<_> = by_operation.into_iter().collect();
    operations.sort_by_key(|(operation, dots)| (std::cmp::Reverse(dots.len()), *operation));
    operations.truncate(MAX_OPERATIONS);
    operations.into_iter().filter_map(|(operation, dots)| rise(operation, &dots, at, names)).collect()
}

fn rise(operation: u16, dots: &[&Sample], at: u64, names: &Names) -> Option<Candidate> {
    let by_time = dots.partition_point(|dot| dot.end < at.saturating_sub(RECENT_NS));
    let begin = by_time.min(dots.len().checked_sub(MIN_RECENT)?);
    let (before, recent) = dots.split_at(begin);
    let oldest = recent.first()?.end;
    let newest = recent[recent.len() - 1].end;
    // What came all at once, behind a silence, is no floor.
    if at.saturating_sub(oldest) > MAX_RECENT_NS || newest - oldest < RECENT_NS / 2 {
        return None;
    }
    let before = &before[before.partition_point(|dot| dot.end < oldest.saturating_sub(BEFORE_NS))..];
    if before.len() < MIN_BEFORE {
        return None;
    }
    let sorted = |dots: &[&Sample]| {
        let mut durations: Vec<u64> = dots.iter().map(|dot| dot.duration).collect();
        durations.sort_unstable();
        durations
    };
    let (old, new) = (sorted(before), sorted(recent));
    let [low, high] = [&old, &new].map(|durations| quantile(durations, 0.05));
    if (high as f64) < MIN_RISE * low as f64 || high < low + MIN_RISE_NS {
        return None;
    }
    let log10_p = [0.25, 0.5, 0.75, 0.9]
        .into_iter()
        .map(|q| {
            let level = quantile(&old, q);
            let below = new.partition_point(|duration| *duration <= level) as u64;
            // What is known of the share that should be below is known from so many.
            let share = q - 2.0 * (q * (1.0 - q) / old.len() as f64).sqrt();
            binomial_tail(below, new.len() as u64, share.max(0.01))
        })
        .fold(0.0, f64::min);
    if log10_p > LOG10_P {
        return None;
    }
    let middle = quantile(&new, 0.5) as f64;
    let points: Vec<(f64, f64)> =
        lows(recent, oldest, newest).into_iter().map(|(at, low)| (at as f64, low as f64)).collect();
    // All the time: not only in some of it.
    let lower_quarter = quantile(&old, 0.25) + (high - low) / 2;
    if points.iter().any(|(_, low)| *low < lower_quarter as f64) {
        return None;
    }
    let (slope, _) = line(&points);
    let span = points.last()?.0 - points.first()?.0;
    if points.len() < STRETCHES - 1 || (slope * span).abs() > MAX_GROWTH * middle {
        return None;
    }
    // Where it began: the first of the dots behind which hardly any lies below.
    let level = low + (high - low) / 2;
    let from = dots.iter().rposition(|dot| dot.duration < level).map_or(recent[0].end, |last| {
        let later = dots.get(last + 1).map_or(recent[0].end, |dot| dot.end);
        later.min(recent[0].end)
    });
    Some(Candidate {
        pattern: Pattern::Floor,
        key: u64::from(operation),
        from,
        to: recent[recent.len() - 1].end,
        dots: dots.iter().filter(|dot| dot.end >= from).map(|dot| (dot.end, 1)).collect(),
        operation: Some(operation),
        figures: Figures::Floor {
            before_ns: low,
            after_ns: high,
            medians_ns: [quantile(&old, 0.5), quantile(&new, 0.5)],
            log10_p,
        },
        cause: grown(before, recent, high - low, names),
    })
}

/// The lower quarter of each stretch of the time that has dots, and when the stretch was.
fn lows(dots: &[&Sample], first: u64, last: u64) -> Vec<(u64, u64)> {
    let length = ((last - first) / STRETCHES as u64).max(1);
    dots.chunk_by(|a, b| (a.end - first) / length == (b.end - first) / length)
        .map(|stretch| {
            let mut durations: Vec<u64> = stretch.iter().map(|dot| dot.duration).collect();
            durations.sort_unstable();
            (stretch[0].end - first, quantile(&durations, 0.25))
        })
        .take(STRETCHES)
        .collect()
}

/// The part that grew most in the mean, if that is most of the rise.
fn grown(before: &[&Sample], recent: &[&Sample], rise: u64, names: &Names) -> Cause {
    let sums = |dots: &[&Sample]| {
        let mut sums: FxHashMap<Part, u64> = FxHashMap::default();
        let known = dots.iter().filter(|dot| dot.has_anatomy || dot.parts[0].is_some());
        let mut n = 0;
        for dot in known {
            n += 1;
            for (part, us) in dot.parts.iter().flatten() {
                *sums.entry(*part).or_default() += u64::from(*us) * 1_000;
            }
        }
        (sums, n)
    };
    let ((old, n_old), (new, n_new)) = (sums(before), sums(recent));
    if n_old == 0 || n_new == 0 {
        return Cause::NoAnatomy;
    }
    let mean = |sums: &FxHashMap<Part, u64>, part: &Part, n: u64| sums.get(part).copied().unwrap_or(0) / n;
    let growth = |part: &Part| mean(&new, part, n_new).saturating_sub(mean(&old, part, n_old));
    let most = new.keys().map(|part| (growth(part), *part)).max();
    match most.filter(|(growth, _)| *growth >= rise / 2) {
        Some((growth, part)) => {
            let of_part = cause_by(recent, names, |dot| {
                let kept = dot.parts.iter().flatten().find(|(kept, _)| *kept == part);
                kept.copied()
            });
            match of_part {
                Cause::Part { part, peer, n, of, .. } => Cause::Part { part, peer, median_ns: growth, n, of },
                other => other,
            }
        }
        None => Cause::Mixed { of: n_new },
    }
}
