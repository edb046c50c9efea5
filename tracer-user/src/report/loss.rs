//! Losses by name: from the kernel's counters and txray's own, live or recorded. Never "none" while one of them counts.

use std::{collections::BTreeMap, fmt::Write as _};

use super::format;
pub use crate::event::LOST_IN_KERNEL;
use crate::{
    event::{Counters, LOST_BY_SINKS},
    metrics::{Counter, Metrics},
    pipeline::{LostRequests, Snapshot},
};

/// Kernel counters of bytes that were seen and not copied: length and time are there, a head may not be.
pub const NOT_COPIED: [&str; 5] =
    ["overload_payload", "overload_summed", "payload_fault", "iovecs_cut", "payload_cut"];

/// What was lost, by reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// Count by reason; all reasons that this build knows, zeros included.
    pub lost: BTreeMap<String, u64>,
    /// Counts of what was seen without its bytes; only those that are not 0.
    pub not_copied: BTreeMap<String, u64>,
    /// Requests known to be lost.
    pub requests: LostRequests,
    /// The counters that would tell were not read (rows of a recording without payload).
    pub unknown: bool,
}

impl Losses {
    /// Puts together the counters that came with the events (the kernel's, and in a replay the recorded ones) and this
    /// run's own. Where both have a reason the greater counts: a replay counts again what its pipeline loses again.
    pub fn collect(snapshot: &Snapshot, metrics: &Metrics) -> Losses {
        let mut losses = Losses::of_events(snapshot);
        for (counter, n) in metrics.all() {
            let Some(reason) = counter.name().strip_prefix("lost.") else { continue };
            let lost = losses.lost.entry(reason.to_owned()).or_default();
            *lost = if LOST_BY_SINKS.contains(&counter) { n } else { n.max(*lost) };
        }
        losses
    }

    /// Of the counters that came with the events alone: the same in each replay, at each instant of event time.
    pub fn of_events(snapshot: &Snapshot) -> Losses {
        let mut losses = Losses { requests: snapshot.lost_requests, ..Losses::default() };
        let known = Counter::ALL.iter().filter_map(|counter| counter.name().strip_prefix("lost."));
        for reason in known.chain(LOST_IN_KERNEL) {
            losses.lost.insert(reason.to_owned(), 0);
        }
        if let Some(counters) = snapshot.counters.as_deref() {
            losses.read(counters);
        }
        losses
    }

    fn read(&mut self, counters: &Counters) {
        for (name, n) in &counters.values {
            if let Some(name) = name.strip_prefix("kernel.") {
                if LOST_IN_KERNEL.contains(&name) {
                    self.lost.insert(name.to_owned(), *n);
                } else if NOT_COPIED.contains(&name) && *n != 0 {
                    self.not_copied.insert(name.to_owned(), *n);
                }
            } else if let Some(name) = name.strip_prefix("lost.")
                && LOST_BY_SINKS.iter().all(|counter| counter.name() != format!("lost.{name}"))
            {
                self.lost.insert(name.to_owned(), *n);
            }
        }
    }

    /// Whether anything at all was lost.
    pub fn any(&self) -> bool {
        self.total() != 0 || self.requests.high != 0
    }

    /// All reasons added up: for telling whether more was lost, not a figure to print (the units differ).
    pub fn total(&self) -> u64 {
        self.lost.values().fold(0, |sum, n| sum.saturating_add(*n))
    }

    /// `nothing lost`, or what was, by name.
    pub fn line(&self) -> String {
        let mut line = String::new();
        let mut item = |n: u64, name: &str| {
            let separator = if line.is_empty() { "LOST " } else { ", " };
            // Writing to a String cannot fail.
            let _ = write!(line, "{separator}{name} {}", format::count(n));
        };
        for (reason, &n) in self.lost.iter().filter(|(_, n)| **n != 0) {
            item(n, reason);
        }
        let LostRequests { low, high } = self.requests;
        if high != 0 {
            let range = if low == high {
                format::count(low)
            } else {
                format!("{} to {}", format::count(low), format::count(high))
            };
            let separator = if line.is_empty() { "LOST " } else { "; " };
            let _ = write!(line, "{separator}requests {range}");
        }
        if self.unknown {
            line.push_str(if line.is_empty() { "losses are not known" } else { "; others are not known" });
        } else if line.is_empty() {
            line.push_str("nothing lost");
        }
        for (i, (reason, n)) in self.not_copied.iter().enumerate() {
            let separator = if i == 0 { "; not copied: " } else { ", " };
            let _ = write!(line, "{separator}{reason} {}", format::count(*n));
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::time::BootTime;

    fn snapshot(values: &[(&str, u64)]) -> Snapshot {
        let values = values.iter().map(|&(name, n)| (name.into(), n)).collect();
        Snapshot { counters: Some(Arc::new(Counters { time: BootTime(1), values })), ..Snapshot::default() }
    }

    #[test]
    fn the_kernel_counters_named_here_exist() {
        for name in LOST_IN_KERNEL.iter().chain(&NOT_COPIED) {
            assert!(tracer_ebpf::STAT_NAMES.contains(name), "{name}");
        }
    }

    #[test]
    fn any_single_loss_shows_and_none_says_so() {
        let metrics = Metrics::default();
        assert_eq!(Losses::collect(&Snapshot::default(), &metrics).line(), "nothing lost");
        for name in LOST_IN_KERNEL {
            let losses = Losses::collect(&snapshot(&[(&format!("kernel.{name}"), 1_234)]), &metrics);
            assert_eq!(losses.line(), format!("LOST {name} 1,234"));
            assert!(losses.any());
        }
        for &counter in Counter::ALL {
            let Some(reason) = counter.name().strip_prefix("lost.") else { continue };
            let metrics = Metrics::default();
            metrics.add(counter, 3);
            let losses = Losses::collect(&Snapshot::default(), &metrics);
            assert_eq!(losses.line(), format!("LOST {reason} 3"));
        }
        let requests = LostRequests { low: 0, high: 2 };
        let losses = Losses { requests, ..Losses::default() };
        assert_eq!(losses.line(), "LOST requests 0 to 2");
    }

    #[test]
    fn losses_that_nobody_read_are_not_called_none() {
        let mut losses = Losses { unknown: true, ..Losses::default() };
        assert_eq!(losses.line(), "losses are not known");
        losses.lost.insert("sink_write".to_owned(), 1);
        assert_eq!(losses.line(), "LOST sink_write 1; others are not known");
    }

    #[test]
    fn bytes_not_copied_are_named_apart() {
        let losses = Losses::of_events(&snapshot(&[("kernel.payload_fault", 5), ("kernel.refused_data", 2)]));
        assert_eq!(losses.line(), "LOST refused_data 2; not copied: payload_fault 5");
    }

    #[test]
    fn a_replay_takes_the_recorded_losses_but_not_the_live_runs_sinks() {
        let metrics = Metrics::default();
        metrics.add(Counter::ParserGap, 2);
        metrics.add(Counter::SinkWrite, 1);
        let recorded = snapshot(&[
            ("lost.batch_queue_full", 7),
            ("lost.parser_gap", 2),
            ("lost.sink_queue_full", 99),
            ("gauge.ring", 5),
        ]);
        let losses = Losses::collect(&recorded, &metrics);
        assert_eq!(losses.line(), "LOST batch_queue_full 7, parser_gap 2, sink_write 1");
        // The counters alone add up to the same as the losses that they tell.
        let counters = recorded.counters.as_deref().unwrap();
        assert_eq!((counters.lost(), Losses::of_events(&recorded).total()), (9, 9));
    }
}
