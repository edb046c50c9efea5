//! Two bands: elapsed times of two kinds at the same time, with little between them; and which recorded attribute tells them apart.
//!
//! On a logarithmic scale the dots of the last minute are cut in two where that explains most. Of a spread with one summit the middle between the two
//! means is never less dense than both of them; of two bands it is. Both must be there all the time: what comes after the other is a change, not a band.

use super::{
    finding::{Candidate, Figures, Pattern, Split, cause_of, most_common, operation_of},
    group::{Group, SECOND_NS},
    sample::{Names, Sample},
    statistics::{binomial_tail, quantile},
};

/// Time that is looked at, ns.
const WINDOW_NS: u64 = 60 * SECOND_NS;
/// Fewest dots in all, and in a band.
const MIN_DOTS: usize = 60;
const MIN_BAND: usize = 18;
/// Share of the smaller band at least.
const MIN_SHARE: f64 = 0.08;
/// Distance of the means at least, as a factor of elapsed time.
const MIN_FACTOR: f64 = 1.8;
/// How dense it may be between them, of the less dense band.
const MAX_VALLEY: f64 = 0.25;
/// Share of a band's dots that may lie within 2 %: where more do it is a line, or some.
const MAX_WITHIN: f64 = 0.3;
const NARROW: f64 = 0.02;
/// Stretches of the time, in which both must be.
const STRETCHES: usize = 6;
/// Power of ten of the probability by chance.
const LOG10_P: f64 = -5.0;
/// Share of what there is to tell that an attribute must tell to be named.
const MIN_TOLD: f64 = 0.3;

pub(super) fn look(group: &Group, at: u64, names: &Names) -> Option<Candidate> {
    let dots: Vec<&Sample> =
        group.coarse(at.saturating_sub(WINDOW_NS), at).filter(|dot| dot.duration != 0).collect();
    if dots.len() < MIN_DOTS {
        return None;
    }
    let mut logs: Vec<f64> = dots.iter().map(|dot| (dot.duration as f64).ln()).collect();
    logs.sort_unstable_by(f64::total_cmp);
    let cut = cut(&logs)?;
    let (low, high) = logs.split_at(cut);
    let share = high.len() as f64 / logs.len() as f64;
    if low.len().min(high.len()) < MIN_BAND || share.min(1.0 - share) < MIN_SHARE {
        return None;
    }
    let mean = |logs: &[f64]| logs.iter().sum::<f64>() / logs.len() as f64;
    let (low_mean, apart) = (mean(low), mean(high) - mean(low));
    if apart < MIN_FACTOR.ln() || within_most(low).max(within_most(high)) > MAX_WITHIN {
        return None;
    }
    // As wide a window at each mean and in the middle between them.
    let reach = 0.15 * apart;
    let within = |centre: f64| {
        let from = logs.partition_point(|log| *log < centre - reach);
        (logs.partition_point(|log| *log <= centre + reach) - from) as u64
    };
    let middle = within(low_mean + apart / 2.0);
    let least = within(low_mean).min(within(low_mean + apart));
    let valley = middle as f64 / least.max(1) as f64;
    let log10_p = binomial_tail(middle, middle + least, 0.5);
    if valley > MAX_VALLEY || log10_p > LOG10_P {
        return None;
    }
    let border = ((low[low.len() - 1] + high[0]) / 2.0).exp() as u64;
    let is_upper = |dot: &Sample| dot.duration > border;
    if !are_mixed(&dots, is_upper, share) {
        return None;
    }
    let band = |upper: bool| {
        let mut durations: Vec<u64> =
            dots.iter().filter(|dot| is_upper(dot) == upper).map(|dot| dot.duration).collect();
        durations.sort_unstable();
        quantile(&durations, 0.5)
    };
    let upper: Vec<&Sample> = dots.iter().copied().filter(|dot| is_upper(dot)).collect();
    Some(Candidate {
        pattern: Pattern::Bands,
        key: 0,
        from: dots[0].end,
        to: dots[dots.len() - 1].end,
        dots: dots.iter().map(|dot| (dot.end, 1)).collect(),
        operation: operation_of(dots.iter().copied()),
        figures: Figures::Bands {
            medians_ns: [band(false), band(true)],
            upper_share: share,
            valley,
            log10_p,
            split: split(&dots, is_upper, names),
        },
        cause: cause_of(&upper, names),
    })
}

/// The greatest share of sorted values that lie within [`NARROW`].
fn within_most(sorted: &[f64]) -> f64 {
    let most = sorted
        .iter()
        .enumerate()
        .map(|(i, first)| sorted.partition_point(|value| *value <= first + NARROW) - i);
    most.max().unwrap_or(0) as f64 / sorted.len().max(1) as f64
}

/// Where sorted values are cut in two so that the means of both differ most (Otsu).
fn cut(sorted: &[f64]) -> Option<usize> {
    let n = sorted.len();
    let all: f64 = sorted.iter().sum();
    let (mut sum, mut best) = (0.0, (0.0, None));
    for (i, value) in sorted.iter().enumerate().take(n - 1) {
        sum += value;
        let (below, above) = ((i + 1) as f64, (n - i - 1) as f64);
        let difference = (all - sum) / above - sum / below;
        let between = below * above * difference * difference;
        if between > best.0 {
            best = (between, Some(i + 1));
        }
    }
    best.1
}

/// Whether both are there all the time.
fn are_mixed(dots: &[&Sample], is_upper: impl Fn(&Sample) -> bool, share: f64) -> bool {
    let rare_is_upper = share <= 0.5;
    let rare = share.min(1.0 - share);
    dots.chunks(dots.len().div_ceil(STRETCHES)).all(|chunk| {
        let n = chunk.iter().filter(|dot| is_upper(dot) == rare_is_upper).count() as f64;
        let expected = chunk.len() as f64 * rare;
        // Neither none, nor all of them at once.
        n >= (0.25 * expected).floor().max(if expected >= 4.0 { 1.0 } else { 0.0 })
            && n <= 2.5 * expected + 4.0
    })
}

/// The attribute that tells most of which band a dot is in.
fn split(dots: &[&Sample], is_upper: impl Fn(&Sample) -> bool, names: &Names) -> Option<Split> {
    let bands: Vec<bool> = dots.iter().map(|dot| is_upper(dot)).collect();
    let n_upper = bands.iter().filter(|upper| **upper).count();
    let all = entropy(&[n_upper, bands.len() - n_upper]);
    let part = |dot: &Sample| dot.parts[0].map_or(u32::MAX, |(part, _)| part_number(part));
    let attributes: [(&'static str, Vec<u32>); 6] = [
        ("operation", dots.iter().map(|dot| u32::from(dot.operation)).collect()),
        ("status_code", dots.iter().map(|dot| dot.status as u32).collect()),
        ("error", dots.iter().map(|dot| u32::from(dot.error)).collect()),
        ("asked", dots.iter().map(|dot| u32::from(dot.asked)).collect()),
        ("peer", dots.iter().map(|dot| u32::from(dot.peer)).collect()),
        ("part", dots.iter().map(|dot| part(dot)).collect()),
    ];
    let mut best: Option<(f64, &'static str, Vec<u32>)> = None;
    for (name, values) in attributes {
        let bits = information(&values, &bands);
        if best.as_ref().is_none_or(|(most, ..)| bits > most + 1e-9) {
            best = Some((bits, name, values));
        }
    }
    let (bits, attribute, values) = best?;
    let share = bits / all.max(1e-9);
    if share < MIN_TOLD {
        return None;
    }
    let text = |upper: bool| {
        let of_band = values.iter().zip(&bands).filter(|(_, band)| **band == upper).map(|(value, _)| *value);
        let value = most_common(of_band).map_or(0, |(value, ..)| value);
        match attribute {
            "error" => (value != 0).to_string(),
            "status_code" if value as i16 == -1 => "none".to_owned(),
            "status_code" => value.to_string(),
            "part" => {
                let dot = dots.iter().find(|dot| part(dot) == value).and_then(|dot| dot.parts[0]);
                dot.map_or("not known", |(part, _)| part.as_str()).to_owned()
            }
            _ => names.text(value as u16).map_or("none", |text| text).to_owned(),
        }
    };
    Some(Split { attribute, lower: text(false), upper: text(true), bits, share })
}

fn part_number(part: super::sample::Part) -> u32 {
    use super::sample::Part;
    match part {
        Part::OnCpu => 0,
        Part::RunQueue => 1,
        Part::Calls => 2,
        Part::Sending => 3,
        Part::Queue => 4,
        Part::Waiting(reason) => 5 + reason.index() as u32,
    }
}

fn entropy(counts: &[usize]) -> f64 {
    let n: usize = counts.iter().sum();
    let of = |count: &usize| {
        let share = *count as f64 / n.max(1) as f64;
        if *count == 0 { 0.0 } else { -share * share.log2() }
    };
    counts.iter().map(of).sum()
}

/// Mutual information of an attribute and the band, bits; less what so many values would tell by chance (Miller and Madow).
fn information(values: &[u32], bands: &[bool]) -> f64 {
    let mut pairs: Vec<(u32, bool)> = values.iter().copied().zip(bands.iter().copied()).collect();
    pairs.sort_unstable();
    let n = pairs.len();
    let (mut left, mut n_values) = (0.0, 0);
    for run in pairs.chunk_by(|a, b| a.0 == b.0) {
        let upper = run.iter().filter(|(_, upper)| *upper).count();
        left += run.len() as f64 / n as f64 * entropy(&[upper, run.len() - upper]);
        n_values += 1;
    }
    let n_upper = bands.iter().filter(|upper| **upper).count();
    let chance = f64::from(n_values - 1) / (2.0 * n as f64 * std::f64::consts::LN_2);
    (entropy(&[n_upper, n - n_upper]) - left - chance).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_attribute_tells_is_its_mutual_information() {
        let bands: Vec<bool> = (0..1_000).map(|i| i % 4 == 0).collect();
        let all = entropy(&[250, 750]);
        let same: Vec<u32> = bands.iter().map(|upper| u32::from(*upper)).collect();
        assert!((information(&same, &bands) - all).abs() < 0.01);
        assert_eq!(information(&[7; 1_000], &bands), 0.0);
        let unrelated: Vec<u32> = (0..1_000).map(|i| i % 5).collect();
        assert!(information(&unrelated, &bands) < 0.01);
        let own: Vec<u32> = (0..1_000).collect();
        assert!(information(&own, &bands) < all, "a value of its own for each tells less than it seems to");
    }

    #[test]
    fn the_cut_is_between_two_heaps() {
        assert_eq!(cut(&[1.0, 1.1, 1.2, 5.0, 5.1]), Some(3));
        assert_eq!(cut(&[1.0, 1.0]), None, "no difference");
    }
}
