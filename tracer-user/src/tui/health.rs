//! What the Health view says, line by line: the counters in groups, from one reading and the one before it.

use super::model::CounterRow;
use crate::report::loss::{LOST_IN_KERNEL, NOT_COPIED};

/// A line of the Health view, its figures not yet text.
#[derive(Clone, Debug, PartialEq)]
pub enum HealthLine {
    /// Nothing.
    Blank,
    /// The beginning of a group.
    Heading(HealthGroup),
    /// Why a group has no figures.
    Unknown(&'static str),
    /// A counter.
    Counter(CounterRow),
    /// Losses at one place of an event's way.
    Losses(Stage),
    /// A kernel program in the last sample.
    Program(ProgramTime),
    /// How full the ring is.
    Ring(Ring),
    /// What txray takes of the processors.
    Cpu(Cpu),
    /// Resident memory of txray, bytes.
    Memory(u64),
}

/// The groups, in the order in which they stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthGroup {
    /// What came in and went out.
    Events,
    /// What did not.
    Losses,
    /// What the probes take, by samples.
    Programs {
        /// Length of the last sample; 0 = there is none.
        sample_ns: u64,
        /// From one to the next.
        period_ns: u64,
    },
    /// The ring.
    Ring,
    /// txray itself.
    Own,
    /// Every counter.
    All,
}

/// Losses by reason at one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// Where.
    pub name: &'static str,
    /// Whether anything is gone: what was merely not copied has its length and time.
    pub is_loss: bool,
    /// Each reason's counter without its prefix; those that count first.
    pub reasons: Vec<CounterRow>,
}

impl Stage {
    /// All reasons added up.
    pub fn total(&self) -> u64 {
        self.reasons.iter().fold(0, |sum, (_, n, _)| sum.saturating_add(*n))
    }
}

/// What a kernel program took in a sample.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramTime {
    /// Its function; empty = all programs together.
    pub name: String,
    /// Hits in the sample.
    pub runs: u64,
    /// Nanoseconds in the sample, of all processors.
    pub ns: u64,
    /// Length of the sample.
    pub sample_ns: u64,
}

impl ProgramTime {
    /// Nanoseconds per hit.
    pub fn mean_ns(&self) -> Option<u64> {
        (self.ns + self.runs / 2).checked_div(self.runs)
    }

    /// Share of one processor, if the sample was like the rest of the time.
    pub fn share(&self) -> f64 {
        self.ns as f64 / self.sample_ns.max(1) as f64
    }
}

/// The ring, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ring {
    /// Its size.
    pub size: u64,
    /// Not yet read when the counters were read.
    pub used: u64,
    /// The most that the reader found since the reading before.
    pub most: u64,
}

/// What txray takes of the processors.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cpu {
    /// Since it started.
    pub total_ns: u64,
    /// Share of one processor since the reading before.
    pub share: Option<f64>,
}

/// What tells that events flow, from the probes to the end.
const EVENTS: [&str; 6] = [
    "kernel.events_attempted",
    "kernel.events_reserved",
    "ring.read",
    "events.in",
    "requests.seen",
    "transactions.out",
];

/// Where what txray itself counts as lost was lost.
const STAGES: [(&str, &[&str]); 7] = [
    ("ring reader", &["probe_not_run", "batch_queue_full", "own_events_full"]),
    ("decoder", &["decode_short", "decode_unknown_kind"]),
    ("connections", &["tracker_full", "reorder_full", "late", "after_close"]),
    ("parsers", &["in_flight_full", "parser_invalid", "parser_gap"]),
    (
        "functions",
        &["function_depth", "function_threads", "function_late", "function_unknown", "function_processes"],
    ),
    ("recorder", &["recorder_queue_full", "recorder_write", "recording_missing"]),
    ("sinks", &["sink_queue_full", "sink_write"]),
];

/// All lines; none without counters. `elapsed_ns`: between the two readings.
pub fn lines(counters: &[CounterRow], elapsed_ns: Option<u64>) -> Vec<HealthLine> {
    if counters.is_empty() {
        return Vec::new();
    }
    let find = |name: &str| counters.iter().find(|(known, ..)| known == name);
    let total = |name: &str| find(name).map(|(_, n, _)| *n);
    let mut lines = vec![HealthLine::Heading(HealthGroup::Events)];
    lines.extend(EVENTS.iter().filter_map(|name| find(name)).cloned().map(HealthLine::Counter));

    lines.extend([HealthLine::Blank, HealthLine::Heading(HealthGroup::Losses)]);
    let mut stage = |name, is_loss, prefix: &str, reasons: &[&str]| {
        let named = reasons.iter().filter_map(|reason| {
            find(&format!("{prefix}{reason}")).map(|(_, n, more)| ((*reason).to_owned(), *n, *more))
        });
        let mut reasons: Vec<CounterRow> = named.collect();
        // As they are listed, otherwise.
        reasons.sort_by_key(|(_, n, _)| *n == 0);
        // A source that has no such place says nothing of it.
        if !reasons.is_empty() {
            lines.push(HealthLine::Losses(Stage { name, is_loss, reasons }));
        }
    };
    stage("kernel", true, "kernel.", &LOST_IN_KERNEL);
    stage("not copied", false, "kernel.", &NOT_COPIED);
    for (name, reasons) in STAGES {
        stage(name, true, "lost.", reasons);
    }

    let sample_ns = total("program.sample_ns").unwrap_or(0);
    let period_ns = total("program.period_ns").unwrap_or(0);
    let group = HealthGroup::Programs { sample_ns, period_ns };
    lines.extend([HealthLine::Blank, HealthLine::Heading(group)]);
    let mut programs: Vec<ProgramTime> = counters
        .iter()
        .filter_map(|(name, runs, _)| {
            let name = name.strip_prefix("program.")?.strip_suffix(".runs")?.to_owned();
            let ns = total(&format!("program.{name}.ns"))?;
            Some(ProgramTime { name, runs: *runs, ns, sample_ns })
        })
        .collect();
    if programs.is_empty() {
        lines.push(HealthLine::Unknown(
            "not known here: no sample yet, or the kernel does not count for txray",
        ));
    } else {
        // Those that cost most first; the order of equals is that of the counters.
        programs.sort_by_key(|program| std::cmp::Reverse(program.ns));
        let sum = |of: fn(&ProgramTime) -> u64| programs.iter().map(of).fold(0, u64::saturating_add);
        let (runs, ns) = (sum(|program| program.runs), sum(|program| program.ns));
        let all = ProgramTime { name: String::new(), runs, ns, sample_ns };
        lines.extend(programs.into_iter().chain([all]).map(HealthLine::Program));
    }

    lines.extend([HealthLine::Blank, HealthLine::Heading(HealthGroup::Ring)]);
    lines.push(
        match ["gauge.ring_bytes", "gauge.ring_used_bytes", "gauge.ring_used_most_bytes"].map(total) {
            [Some(size), Some(used), Some(most)] => HealthLine::Ring(Ring { size, used, most }),
            _ => HealthLine::Unknown("how full it is is not known here"),
        },
    );

    lines.extend([HealthLine::Blank, HealthLine::Heading(HealthGroup::Own)]);
    let n = lines.len();
    if let Some((_, total_ns, more)) = find("txray.cpu_ns") {
        let elapsed = elapsed_ns.filter(|ns| *ns != 0);
        let share = more.zip(elapsed).map(|(ns, elapsed)| ns as f64 / elapsed as f64);
        lines.push(HealthLine::Cpu(Cpu { total_ns: *total_ns, share }));
    }
    lines.extend(total("gauge.resident_bytes").map(HealthLine::Memory));
    if lines.len() == n {
        lines.push(HealthLine::Unknown("what txray itself takes is not known here"));
    }

    lines.extend([HealthLine::Blank, HealthLine::Heading(HealthGroup::All)]);
    lines.extend(counters.iter().cloned().map(HealthLine::Counter));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Counter;

    #[test]
    fn every_loss_that_txray_counts_stands_at_one_place() {
        let mut placed: Vec<&str> = STAGES.iter().flat_map(|(_, reasons)| *reasons).copied().collect();
        placed.sort_unstable();
        let mut known: Vec<&str> =
            Counter::ALL.iter().filter_map(|counter| counter.name().strip_prefix("lost.")).collect();
        known.sort_unstable();
        assert_eq!(placed, known);
    }

    #[test]
    fn every_counter_of_the_first_group_exists() {
        let kernel = tracer_ebpf::STAT_NAMES.iter().map(|name| format!("kernel.{name}"));
        let known: Vec<String> =
            kernel.chain(Counter::ALL.iter().map(|counter| counter.name().to_owned())).collect();
        for name in EVENTS {
            assert!(known.iter().any(|known| known == name), "{name}");
        }
    }

    #[test]
    fn a_share_is_of_the_time_between_the_two_readings_and_unknown_without_it() {
        let counters = [("txray.cpu_ns".to_owned(), 900, Some(300))];
        let cpu =
            |elapsed| lines(&counters, elapsed).into_iter().find(|line| matches!(line, HealthLine::Cpu(_)));
        assert_eq!(cpu(Some(1_200)), Some(HealthLine::Cpu(Cpu { total_ns: 900, share: Some(0.25) })));
        for elapsed in [None, Some(0)] {
            assert_eq!(cpu(elapsed), Some(HealthLine::Cpu(Cpu { total_ns: 900, share: None })));
        }
    }

    #[test]
    fn a_program_without_hits_has_no_mean() {
        let program = |runs, ns| ProgramTime { name: String::new(), runs, ns, sample_ns: 1_000 };
        assert_eq!((program(0, 0).mean_ns(), program(3, 100).mean_ns()), (None, Some(33)));
        assert!((program(3, 100).share() - 0.1).abs() < 1e-9);
    }
}
