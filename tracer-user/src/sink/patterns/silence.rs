//! Silence: nothing of a service ends for far longer than by chance; and what came behind it. If records were lost meanwhile it is the tracer that saw
//! nothing: that is told first, and nothing is said of the service.
//!
//! What is usual are the longest gaps of each two seconds: the greatest of many chances, which fall off as Gumbel's distribution says, however the
//! requests come (evenly, by chance, in bursts).

use std::collections::VecDeque;

use super::{
    finding::{Candidate, Cause, Figures, Pattern, cause_of, operation_of},
    group::{Group, SECOND_NS},
    sample::{Names, Sample},
};

/// Time of which the longest gap is kept, ns.
const BLOCK_NS: u64 = 2 * SECOND_NS;
/// How many of them are kept, and how many are needed.
const BLOCKS: usize = 60;
const MIN_BLOCKS: usize = 10;
/// Shorter gaps are none, ns.
const MIN_GAP_NS: u64 = 300_000_000;
/// Of the longest one that is kept.
const MIN_OF_LONGEST: f64 = 2.0;
/// Power of ten of the probability by chance.
const LOG10_P: f64 = -8.0;
/// Gaps that wait until it is known what came behind them.
const MAX_WAITING: usize = 8;
/// Time behind a gap in which a burst is looked for, ns.
const BURST_NS: u64 = SECOND_NS;
/// A silence is one if it goes on behind it: so many at least, in the time of so many. Otherwise it is an end with stragglers.
const MIN_BEHIND: u64 = 3;
const BEHIND: f64 = 12.0;
/// The longest time that is waited for them, ns.
const MAX_BEHIND_NS: u64 = 30 * SECOND_NS;

/// Time between the ends of a service.
#[derive(Debug, Default)]
pub struct Gaps {
    last: Option<u64>,
    /// The block that is being filled, and its longest gap.
    block: (u64, u64),
    longest: VecDeque<u64>,
    waiting: VecDeque<Gap>,
    n_recent: u64,
}

/// A gap that is no chance.
#[derive(Clone, Copy, Debug)]
struct Gap {
    from: u64,
    to: u64,
    usual_ns: u64,
    log10_p: f64,
    /// Ends just behind it.
    burst: u64,
}

impl Gaps {
    /// Takes the end of a transaction.
    pub fn push(&mut self, end: u64) {
        let Some(last) = self.last.replace(end) else { return };
        let gap = end.saturating_sub(last);
        for waiting in self.waiting.iter_mut().filter(|waiting| end < waiting.to + BURST_NS) {
            waiting.burst += 1;
        }
        if gap >= MIN_GAP_NS
            && let Some((usual_ns, log10_p)) = self.chance(gap)
        {
            if self.waiting.len() < MAX_WAITING {
                self.waiting.push_back(Gap { from: last, to: end, usual_ns, log10_p, burst: 1 });
            }
            // It says nothing of what is usual.
            return;
        }
        let block = end / BLOCK_NS;
        if block != self.block.0 {
            if self.n_recent > 1 {
                self.longest.push_back(self.block.1);
                if self.longest.len() > BLOCKS {
                    self.longest.pop_front();
                }
            }
            (self.block, self.n_recent) = ((block, 0), 0);
        }
        self.n_recent += 1;
        self.block.1 = self.block.1.max(gap);
    }

    /// The usual longest gap, and the power of ten of the probability of one so long, if it is no chance.
    fn chance(&self, gap: u64) -> Option<(u64, f64)> {
        if self.longest.len() < MIN_BLOCKS {
            return None;
        }
        let n = self.longest.len() as f64;
        let longest = self.longest.iter().copied().max().unwrap_or(0).max(self.block.1);
        if (gap as f64) < MIN_OF_LONGEST * longest as f64 {
            return None;
        }
        let mean = self.longest.iter().map(|gap| *gap as f64).sum::<f64>() / n;
        let deviation =
            (self.longest.iter().map(|gap| (*gap as f64 - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt();
        // Scale and place of Gumbel's distribution by its moments; wider, as it is known from so few.
        let scale = deviation * 6.0_f64.sqrt() / std::f64::consts::PI * (1.0 + 1.5 / n.sqrt());
        let place = mean - 0.5772 * scale;
        let log10_p = -(gap as f64 - place) / scale.max(1.0) / std::f64::consts::LN_10;
        (log10_p < LOG10_P).then_some((longest, log10_p))
    }
}

/// Gaps behind which enough has come by `at`. `lost`: records lost in a time, if that is known.
pub(super) fn look(
    group: &mut Group,
    at: u64,
    names: &Names,
    lost: impl Fn(u64, u64) -> Option<u64>,
) -> Vec<Candidate> {
    let mut found = Vec::new();
    while let Some(gap) = group.gaps.waiting.front().copied() {
        let (before, seconds) = group.ends(gap.from.saturating_sub(30 * SECOND_NS), gap.from);
        let rate = before as f64 / seconds.max(1) as f64;
        let wait = (BEHIND / rate.max(0.1) * SECOND_NS as f64) as u64;
        let until = gap.to + wait.clamp(BURST_NS, MAX_BEHIND_NS);
        if until > at {
            break;
        }
        group.gaps.waiting.pop_front();
        let behind = group.coarse(gap.to, until).len() as u64;
        if behind < MIN_BEHIND {
            continue;
        }
        let lost = lost(gap.from, gap.to);
        let behind: Vec<&Sample> = group.coarse(gap.to, gap.to + BURST_NS).collect();
        let began_before = |dot: &&Sample| dot.start() < gap.to.saturating_sub(MIN_GAP_NS / 10);
        let held: Vec<&Sample> = behind.iter().copied().filter(began_before).collect();
        // Of those that are kept of a busy service.
        let burst_held = (gap.burst * held.len() as u64).div_ceil(behind.len().max(1) as u64);
        let pattern = if lost.is_some_and(|lost| lost != 0) { Pattern::Unseen } else { Pattern::Silence };
        let cause = match pattern {
            // What is not known of the service has no cause in it.
            Pattern::Unseen => Cause::NoAnatomy,
            _ => cause_of(&held, names),
        };
        found.push(Candidate {
            pattern,
            key: gap.from,
            from: gap.from,
            to: gap.to,
            dots: vec![(gap.to, gap.burst)],
            operation: operation_of(behind.iter().copied()),
            figures: Figures::Silence {
                gap_ns: gap.to - gap.from,
                rate,
                usual_ns: gap.usual_ns,
                log10_p: gap.log10_p,
                burst: gap.burst,
                burst_held,
                lost,
            },
            cause,
        });
    }
    found
}
