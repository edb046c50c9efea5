//! What is kept of a transaction to look for patterns in, and the names that it refers to.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::transaction::{
    Transaction,
    anatomy::{Anatomy, N_REASONS, Reason},
};

/// Names of operations, peers and the like that are told apart; what comes later is [`Names::OTHER`], and counted.
pub const MAX_NAMES: usize = 4_096;
/// Parts of the anatomy that a sample keeps: the longest.
pub const N_KEPT_PARTS: usize = 3;

/// Texts by number.
#[derive(Debug, Default)]
pub struct Names {
    numbers: FxHashMap<Arc<str>, u16>,
    texts: Vec<Arc<str>>,
    /// Texts for which there was no room.
    pub refused: u64,
}

impl Names {
    /// No name, or none of its own.
    pub const OTHER: u16 = 0;

    /// The number of a text.
    pub fn number(&mut self, text: &str) -> u16 {
        if text.is_empty() {
            return Names::OTHER;
        }
        if let Some(number) = self.numbers.get(text) {
            return *number;
        }
        if self.texts.len() >= MAX_NAMES - 1 {
            self.refused += 1;
            return Names::OTHER;
        }
        let text: Arc<str> = text.into();
        self.texts.push(text.clone());
        let number = self.texts.len() as u16;
        self.numbers.insert(text, number);
        number
    }

    /// The text of a number.
    pub fn text(&self, number: u16) -> Option<&Arc<str>> {
        self.texts.get(usize::from(number).checked_sub(1)?)
    }
}

/// A part of a request's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// On a CPU.
    OnCpu,
    /// Waiting for a CPU.
    RunQueue,
    /// Waiting for something.
    Waiting(Reason),
    /// Waiting for the answers of others.
    Calls,
    /// Waiting until what is being sent is taken.
    Sending,
    /// In the socket's queue, before the program read it.
    Queue,
}

impl Part {
    /// The text in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Part::OnCpu => "oncpu",
            Part::RunQueue => "runq",
            Part::Waiting(reason) => reason.as_str(),
            Part::Calls => "calls",
            Part::Sending => "sending",
            Part::Queue => "queue",
        }
    }

    /// What it is to people.
    pub fn label(self) -> &'static str {
        match self {
            Part::OnCpu => "on a CPU",
            Part::RunQueue => "waiting for a CPU",
            Part::Waiting(reason) => reason.label(),
            Part::Calls => "waiting for calls to others",
            Part::Sending => "sending",
            Part::Queue => "in the socket's queue",
        }
    }

    /// The parts of an anatomy that are known, ns.
    fn of(anatomy: &Anatomy) -> impl Iterator<Item = (Part, u64)> {
        let waits: [(Part, u64); N_REASONS] =
            std::array::from_fn(|i| (Part::Waiting(Reason::ALL[i]), anatomy.off_ns[i]));
        [
            (Part::OnCpu, anatomy.on_cpu_ns()),
            (Part::RunQueue, anatomy.runq_ns),
            (Part::Calls, anatomy.calls_ns),
            (Part::Sending, anatomy.sending_ns),
        ]
        .into_iter()
        .chain(waits)
    }
}

/// A transaction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// End, wall clock, ns.
    pub end: u64,
    /// Elapsed, ns.
    pub duration: u64,
    /// The longest parts of its time, µs, the longest first; `None` = there is no anatomy, or no further part.
    pub parts: [Option<(Part, u32)>; N_KEPT_PARTS],
    /// Name of the operation.
    pub operation: u16,
    /// Name of the other end.
    pub peer: u16,
    /// Name of whom it asked longest.
    pub asked: u16,
    /// Status code; -1 = none.
    pub status: i16,
    /// Whether it is an error.
    pub error: bool,
    /// Whether it has an anatomy.
    pub has_anatomy: bool,
}

// 24,576 of them by service at the very most: see `group.rs`.
const _: () = assert!(size_of::<Sample>() <= 56);

impl Sample {
    /// Of a transaction.
    pub fn of(transaction: &Transaction, operation: u16, names: &mut Names) -> Sample {
        let mut parts = [None; N_KEPT_PARTS];
        let (mut asked, mut has_anatomy) = (Names::OTHER, false);
        if let Some(causes) = transaction.causes.as_deref() {
            if let Some(anatomy) = &causes.anatomy {
                has_anatomy = true;
                for (part, ns) in Part::of(anatomy) {
                    keep_longest(&mut parts, part, ns);
                }
            }
            if let Some(longest) = causes.calls.iter().max_by_key(|calls| calls.ns) {
                asked = names.number(&longest.peer);
            }
        }
        if let Some(ns) = transaction.queue_ns {
            keep_longest(&mut parts, Part::Queue, ns);
        }
        let peer = match transaction.role {
            crate::event::Role::Client => &transaction.server_addr,
            _ => &transaction.client_addr,
        };
        Sample {
            end: transaction.end_time.0,
            duration: transaction.duration_ns.max(0).unsigned_abs(),
            parts,
            operation,
            peer: names.number(peer),
            asked,
            status: transaction.status_code.and_then(|code| i16::try_from(code).ok()).unwrap_or(-1),
            error: transaction.error,
            has_anatomy,
        }
    }

    /// Start, ns.
    pub fn start(&self) -> u64 {
        self.end.saturating_sub(self.duration)
    }
}

fn keep_longest(parts: &mut [Option<(Part, u32)>; N_KEPT_PARTS], part: Part, ns: u64) {
    let us = u32::try_from(ns / 1_000).unwrap_or(u32::MAX);
    if us == 0 {
        return;
    }
    let at = parts.iter().position(|kept| kept.is_none_or(|(_, other)| other < us));
    if let Some(at) = at {
        parts[at..].rotate_right(1);
        parts[at] = Some((part, us));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        sink::compliance::transaction,
        transaction::anatomy::{CallSum, Causes},
    };

    #[test]
    fn a_sample_keeps_the_longest_parts_and_whom_it_asked_longest() {
        let mut anatomy = Anatomy { user_ns: 1_000_000, runq_ns: 2_000_000, ..Anatomy::default() };
        anatomy.off_ns[Reason::Futex.index()] = 9_000_000;
        anatomy.off_ns[Reason::Disk.index()] = 3_000_000;
        let call = |peer: &str, ns| CallSum { kind: "http1", peer: peer.into(), count: 1, ns };
        let causes = Causes {
            anatomy: Some(anatomy),
            calls: vec![call("a:1", 5), call("b:2", 7)],
            ..Causes::default()
        };
        let mut names = Names::default();
        let row = Transaction { causes: Some(Box::new(causes)), queue_ns: Some(2_500_000), ..transaction(1) };
        let sample = Sample::of(&row, 0, &mut names);
        let kept: Vec<_> = sample.parts.iter().flatten().copied().collect();
        let want = [
            (Part::Waiting(Reason::Futex), 9_000),
            (Part::Waiting(Reason::Disk), 3_000),
            (Part::Queue, 2_500),
        ];
        assert_eq!(kept, want);
        assert_eq!(names.text(sample.asked).map(|text| &**text), Some("b:2"));
        assert_eq!(sample.start(), row.start_time.0);
    }

    #[test]
    fn names_beyond_the_bound_are_one_and_counted() {
        let mut names = Names::default();
        for i in 0..MAX_NAMES + 10 {
            names.number(&i.to_string());
        }
        assert_eq!((names.number("no room"), names.refused), (Names::OTHER, 12));
        let first = names.number("0");
        assert_eq!(names.text(first).map(|text| &**text), Some("0"));
        assert_eq!(names.text(Names::OTHER), None);
    }
}
