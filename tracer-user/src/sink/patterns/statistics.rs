//! The statistics that the patterns are told by. Pure.

/// Natural logarithm of the gamma function (Lanczos, g = 7, n = 9): error below 1e-13 for what is counted here.
fn ln_gamma(x: f64) -> f64 {
    const COEFFICIENTS: [f64; 8] = [
        676.520_368_121_885_1,
        -1_259.139_216_722_402_8,
        771.323_428_777_653_1,
        -176.615_029_162_140_6,
        12.507_343_278_686_905,
        -0.138_571_095_265_720_12,
        9.984_369_578_019_572e-6,
        1.505_632_735_149_311_6e-7,
    ];
    let x = x - 1.0;
    let mut sum = 0.999_999_999_999_809_9;
    for (i, coefficient) in COEFFICIENTS.iter().enumerate() {
        sum += coefficient / (x + i as f64 + 1.0);
    }
    let t = x + 7.5;
    0.5 * (2.0 * std::f64::consts::PI).ln() + (x + 0.5) * t.ln() - t + sum.ln()
}

/// log10 of the probability that a Poisson variable of mean `mu` is `n` or more; 0 where that is nothing unusual (`n` ≤ `mu`).
pub fn poisson_tail(n: u64, mu: f64) -> f64 {
    if n == 0 || n as f64 <= mu {
        return 0.0;
    }
    let mu = mu.max(1e-9);
    // The first term, and the rest as a series in it, which falls from the beginning on.
    let first = n as f64 * mu.ln() - mu - ln_gamma(n as f64 + 1.0);
    let (mut sum, mut term, mut k) = (1.0, 1.0, n as f64 + 1.0);
    while term > 1e-12 * sum {
        term *= mu / k;
        sum += term;
        k += 1.0;
    }
    ((first + f64::ln(sum)) / std::f64::consts::LN_10).min(0.0)
}

/// log10 of the probability that of `n` trials of probability `p` no more than `k` succeed; 0 where that is nothing unusual.
pub fn binomial_tail(k: u64, n: u64, p: f64) -> f64 {
    let p = p.clamp(1e-12, 1.0 - 1e-12);
    if k as f64 >= n as f64 * p {
        return 0.0;
    }
    let (kf, nf) = (k as f64, n as f64);
    let choose = ln_gamma(nf + 1.0) - ln_gamma(kf + 1.0) - ln_gamma(nf - kf + 1.0);
    let first = choose + kf * p.ln() + (nf - kf) * (1.0 - p).ln();
    let (mut sum, mut term, mut i) = (1.0, 1.0, kf);
    while i > 0.0 && term > 1e-12 * sum {
        term *= i / (nf - i + 1.0) * (1.0 - p) / p;
        sum += term;
        i -= 1.0;
    }
    ((first + f64::ln(sum)) / std::f64::consts::LN_10).min(0.0)
}

/// The `q`-quantile of sorted values: the smallest with at least that share at or below it; 0 of none.
pub fn quantile(sorted: &[u64], q: f64) -> u64 {
    let at = ((sorted.len() as f64 * q).ceil() as usize).saturating_sub(1);
    sorted.get(at.min(sorted.len().saturating_sub(1))).copied().unwrap_or(0)
}

/// The median of values in any order; 0 of none.
pub fn median(values: &mut [u64]) -> u64 {
    if values.is_empty() {
        return 0;
    }
    let at = values.len() / 2;
    *values.select_nth_unstable(at).1
}

/// Rank correlation (Spearman) of values with their own order, from -1 to 1. Equal values stand in the order in which they came.
pub fn rank_correlation(values: &[u64]) -> f64 {
    let n = values.len();
    if n < 3 {
        return 0.0;
    }
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by_key(|&i| values[i]);
    let mut squares = 0.0;
    for (rank, &i) in order.iter().enumerate() {
        let distance = rank as f64 - i as f64;
        squares += distance * distance;
    }
    let n = n as f64;
    1.0 - 6.0 * squares / (n * (n * n - 1.0))
}

/// A straight line through points, by least squares: slope, and the share of the variance that it explains.
pub fn line(points: &[(f64, f64)]) -> (f64, f64) {
    let n = points.len() as f64;
    let (mean_x, mean_y) =
        points.iter().fold((0.0, 0.0), |(sum_x, sum_y), (x, y)| (sum_x + x / n, sum_y + y / n));
    let (mut xx, mut xy, mut yy) = (0.0, 0.0, 0.0);
    for (x, y) in points {
        let (dx, dy) = (x - mean_x, y - mean_y);
        (xx, xy, yy) = (xx + dx * dx, xy + dx * dy, yy + dy * dy);
    }
    if xx == 0.0 || yy == 0.0 { (0.0, 0.0) } else { (xy / xx, xy * xy / (xx * yy)) }
}

/// Greatest distance between the distribution of sorted values and an even one from 0 to `top` (Kolmogorov and Smirnov).
pub fn distance_from_even(sorted: &[u64], top: u64) -> f64 {
    let (n, top) = (sorted.len() as f64, top.max(1) as f64);
    let steps = sorted.iter().enumerate().map(|(i, value)| {
        let even = (*value as f64 / top).min(1.0);
        (even - i as f64 / n).abs().max(((i + 1) as f64 / n - even).abs())
    });
    steps.fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tails_are_the_sums_of_their_terms() {
        // Of the Poisson distribution: 1 - Σ_{k<5} e^-2 2^k / k!.
        let sum: f64 = [1.0, 2.0, 2.0, 4.0 / 3.0, 2.0 / 3.0].iter().sum();
        let want = (1.0 - sum * (-2.0_f64).exp()).log10();
        assert!((poisson_tail(5, 2.0) - want).abs() < 1e-9, "{} {want}", poisson_tail(5, 2.0));
        assert_eq!(poisson_tail(2, 3.0), 0.0);
        assert!(poisson_tail(20_000, 1e-12) < -1_000.0, "no overflow");
        // Of the binomial: 0.5^20, and that with one success.
        assert!((binomial_tail(0, 20, 0.5) - 0.5_f64.powi(20).log10()).abs() < 1e-9);
        assert!((binomial_tail(1, 20, 0.5) - (21.0 * 0.5_f64.powi(20)).log10()).abs() < 1e-9);
        assert_eq!(binomial_tail(10, 20, 0.5), 0.0);
    }

    #[test]
    fn ranks_lines_and_distances_are_what_they_are_by_hand() {
        assert_eq!(rank_correlation(&[1, 2, 3, 4]), 1.0);
        assert_eq!(rank_correlation(&[4, 3, 2, 1]), -1.0);
        let (slope, share) = line(&[(0.0, 1.0), (1.0, 3.0), (2.0, 5.0)]);
        assert!((slope - 2.0).abs() < 1e-12 && (share - 1.0).abs() < 1e-12);
        assert_eq!(line(&[(1.0, 1.0), (1.0, 2.0)]), (0.0, 0.0));
        assert!((distance_from_even(&[25, 50, 75, 100], 100) - 0.25).abs() < 1e-12);
        assert!(distance_from_even(&[99, 99, 99, 99], 100) > 0.9);
        assert_eq!(
            (quantile(&[1, 2, 3, 4], 0.5), quantile(&[1, 2, 3, 4], 1.0), quantile(&[], 0.5)),
            (2, 4, 0)
        );
        assert_eq!(median(&mut [5, 1, 9]), 5);
    }
}
