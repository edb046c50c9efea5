//! Patterns of the XLog: what an engineer sees in its dots, found, with the figures and the recorded facts that explain it. One file each.
//!
//! A sink like the others: O(1) for each transaction, and a look each second of event time. What a look says depends on the transactions that end before
//! its second and on the losses that the counters tell up to [`BEHIND_NS`] behind it, however they came in batches: so live and replay find the same.

mod bands;
mod finding;
mod floor;
mod group;
mod horizontal;
mod ramp;
mod sample;
mod silence;
mod statistics;
mod vertical;

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustc_hash::FxHashMap;

use self::{
    finding::Candidate,
    group::{Group, SECOND_NS},
    sample::{Names, Sample},
};
pub use self::{
    finding::{Cause, Figures, Finding, Pattern, Split},
    sample::Part,
};
use super::{Sink, SinkError};
use crate::{
    event::Role,
    metrics::{Counter, Metrics},
    pipeline::Snapshot,
    time::WallTime,
    transaction::{End, Kind, Transaction, TransactionBatch},
};

/// Services (by role) that are looked at; those of further ones are counted. 64 × 1.2 MB when all are busy.
pub const MAX_SERVICES: usize = 64;
/// Findings kept: the newest.
pub const MAX_FINDINGS: usize = 1_024;
/// A second is looked at when a transaction ends so long behind it: what ended in it has come by then, and so have the counters of losses.
pub const BEHIND_NS: u64 = 2 * SECOND_NS;
/// What takes its time is looked at so often, ns.
const SLOW_LOOK_NS: u64 = horizontal::SLICE_NS;
/// Stretches of event time with losses that are kept: an hour of losses in every second.
const MAX_LOSSES: usize = 3_600;
/// A service without a transaction for so long gives its place to another, ns: nothing of it is kept then.
const IDLE_NS: u64 = 240 * SECOND_NS;
/// A step back of the wall clock by more than this: what is kept is of another time, and is dropped.
const STEP_NS: u64 = 10 * SECOND_NS;

/// Bounds that were met.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// Transactions of services beyond [`MAX_SERVICES`].
    pub services: u64,
    /// Transactions that were left out of the samples because more came in a second than are kept.
    pub thinned: u64,
    /// Transactions that came when their second had been looked at.
    pub late: u64,
    /// Texts beyond the names that are told apart.
    pub names: u64,
    /// Findings that fell out of the list.
    pub findings: u64,
}

/// Finds patterns.
#[derive(Debug, Default)]
pub struct Patterns {
    groups: Vec<Group>,
    by_service: [FxHashMap<Arc<str>, usize>; 3],
    names: Names,
    findings: VecDeque<Finding>,
    next_number: u64,
    /// The end of the second that is looked at next; 0: nothing has come.
    next_look: u64,
    newest: u64,
    /// Losses: from the reading before to the reading that told, and how many.
    losses: VecDeque<(u64, u64, u64)>,
    reading: Option<(u64, u64)>,
    /// Whether losses would be told.
    knows_losses: bool,
    bounds: Bounds,
}

impl Patterns {
    /// Takes a transaction: O(1).
    pub fn push(&mut self, transaction: &Transaction) {
        // What the tracer gave up ends at a bound of its own, and what is meant to be open long has no elapsed time to speak of.
        let is_dot = transaction.kind == Kind::Request
            && !matches!(transaction.end, End::TracerStopped | End::Stuck | End::Upgraded);
        if !is_dot || transaction.duration_ns <= 0 {
            return;
        }
        let end = transaction.end_time.0;
        if end.saturating_add(STEP_NS) < self.newest {
            self.begin_anew();
        }
        if self.next_look == 0 {
            self.next_look = (end / SECOND_NS + 1) * SECOND_NS;
        }
        self.newest = self.newest.max(end);
        while self.next_look + BEHIND_NS <= self.newest {
            self.look(self.next_look);
            self.next_look += SECOND_NS;
            // A long pause is not looked at second by second.
            let idle = self.newest.saturating_sub(BEHIND_NS + 120 * SECOND_NS) / SECOND_NS * SECOND_NS;
            if self.next_look < idle && self.groups.iter().all(|group| group.last_end < self.next_look) {
                self.next_look = idle;
            }
        }
        if end + SECOND_NS < self.next_look {
            self.bounds.late += 1;
            return;
        }
        let role = match transaction.role {
            Role::Client => 1,
            Role::Server => 2,
            Role::Unknown => 0,
        };
        let at = match self.by_service[role].get(&transaction.service) {
            Some(at) => *at,
            None => match self.place() {
                Some(at) => {
                    self.groups[at] = Group::new(transaction.service.clone(), transaction.role);
                    self.by_service[role].insert(transaction.service.clone(), at);
                    at
                }
                None => {
                    self.bounds.services += 1;
                    return;
                }
            },
        };
        let operation = self.names.number(&transaction.operation);
        let mut sample = Sample::of(transaction, operation, &mut self.names);
        // Those that came late by less than a look stand with the last one.
        sample.end = sample.end.max(self.groups[at].last_end);
        self.groups[at].push(sample);
    }

    /// Takes what the pipeline held at an instant: what was lost by then.
    pub fn observe(&mut self, snapshot: &Snapshot) {
        self.observe_with(snapshot, 0);
    }

    /// The same, and so many did not reach this sink.
    fn observe_with(&mut self, snapshot: &Snapshot, dropped: u64) {
        self.knows_losses = true;
        let counted = snapshot.counters.as_deref().map_or(0, crate::event::Counters::lost);
        let lost = counted.saturating_add(snapshot.lost_requests.low).saturating_add(dropped);
        let now = (snapshot.wall.0, lost);
        if let Some((before, lost)) = self.reading
            && now.1 > lost
        {
            if self.losses.len() >= MAX_LOSSES {
                self.losses.pop_front();
            }
            // Counters are read once a second: what they tell may be as old.
            self.losses.push_back((before.saturating_sub(SECOND_NS), now.0, now.1 - lost));
        }
        self.reading = Some((now.0, self.reading.map_or(now.1, |(_, lost)| lost.max(now.1))));
    }

    /// Looks at what has not been looked at yet: nothing more comes.
    pub fn finish(&mut self) {
        if self.next_look == 0 {
            return;
        }
        let last = self.newest.saturating_add(BEHIND_NS + SECOND_NS);
        while self.next_look <= last {
            self.look(self.next_look);
            self.next_look += SECOND_NS;
        }
    }

    /// What was found, the oldest first.
    pub fn findings(&self) -> impl DoubleEndedIterator<Item = &Finding> + ExactSizeIterator {
        self.findings.iter()
    }

    /// Bounds that were met.
    pub fn bounds(&self) -> Bounds {
        let thinned = self.groups.iter().map(|group| group.thinned).sum::<u64>();
        Bounds { thinned: self.bounds.thinned + thinned, names: self.names.refused, ..self.bounds }
    }

    /// A place for a service: a new one, or that of one whose samples are all too old.
    fn place(&mut self) -> Option<usize> {
        if self.groups.len() < MAX_SERVICES {
            self.groups.push(Group::new("".into(), Role::Unknown));
            return Some(self.groups.len() - 1);
        }
        let newest = self.newest;
        let at = self.groups.iter().position(|group| group.last_end.saturating_add(IDLE_NS) < newest)?;
        self.bounds.thinned += self.groups[at].thinned;
        self.by_service.iter_mut().for_each(|places| places.retain(|_, place| *place != at));
        Some(at)
    }

    fn begin_anew(&mut self) {
        self.bounds = self.bounds();
        self.groups.clear();
        self.by_service.iter_mut().for_each(FxHashMap::clear);
        self.losses.clear();
        (self.reading, self.next_look, self.newest) = (None, 0, 0);
        self.findings.iter_mut().for_each(|finding| finding.is_open = false);
    }

    /// Looks at everything that ended before `at`, a whole second.
    fn look(&mut self, at: u64) {
        let Patterns { groups, names, losses, knows_losses, .. } = self;
        let is_slow = at.is_multiple_of(SLOW_LOOK_NS);
        // By that time: what later counters tell may or may not have come.
        let until = at.saturating_add(BEHIND_NS);
        let lost = |from: u64, to: u64| {
            let told = losses.iter().filter(|(begin, end, _)| *begin <= to && *end >= from && *end <= until);
            knows_losses.then(|| told.map(|(.., n)| n).sum())
        };
        let mut found: Vec<(usize, Candidate)> = Vec::new();
        for (i, group) in groups.iter_mut().enumerate() {
            found.extend(silence::look(group, at, names, lost).into_iter().map(|it| (i, it)));
            if group.last_end.saturating_add(2 * SECOND_NS) < at {
                continue;
            }
            found.extend(vertical::look(group, at, names).map(|it| (i, it)));
            found.extend(ramp::look(group, at, names).map(|it| (i, it)));
            if is_slow {
                found.extend(horizontal::look(group, at, names).into_iter().map(|it| (i, it)));
                found.extend(floor::look(group, at, names).into_iter().map(|it| (i, it)));
                found.extend(bands::look(group, at, names).map(|it| (i, it)));
            }
        }
        for (group, candidate) in found {
            self.keep(group, candidate);
        }
        self.close(at);
    }

    /// How long a pattern may pause and still be the same, ns.
    fn pause(pattern: Pattern) -> u64 {
        match pattern {
            Pattern::Vertical => 20_000_000,
            Pattern::Silence | Pattern::Unseen => 0,
            Pattern::Ramp => 3 * SECOND_NS,
            Pattern::Horizontal | Pattern::Floor | Pattern::Bands => 60 * SECOND_NS,
        }
    }

    /// Whether most of a candidate's time is that of a ramp, which has a floor and lines of its own.
    fn is_of_ramp(&self, group: &Group, candidate: &Candidate) -> bool {
        let is_ramp = |finding: &&Finding| {
            finding.pattern == Pattern::Ramp && finding.role == group.role && finding.service == group.service
        };
        self.findings.iter().rev().take(MAX_SERVICES * 8).filter(is_ramp).any(|ramp| {
            let of_ramp = |(end, _): &&(u64, u64)| {
                *end + 2 * SECOND_NS >= ramp.from.0 && *end <= ramp.to.0 + 5 * SECOND_NS
            };
            let n: u64 = candidate.dots.iter().filter(of_ramp).map(|(_, n)| n).sum();
            let all: u64 = candidate.dots.iter().map(|(_, n)| n).sum();
            // Bands are there all the time: a quarter of it may be one of them.
            if candidate.pattern == Pattern::Bands { 4 * n > all } else { 2 * n > all }
        })
    }

    /// A ramp explains what seemed to be a floor, a line or a band while too little of it was there.
    fn take_back(&mut self, group: usize, ramp: &Candidate) {
        let Patterns { groups, findings, .. } = self;
        let group = &groups[group];
        findings.retain(|finding| {
            let may_be = matches!(finding.pattern, Pattern::Floor | Pattern::Horizontal | Pattern::Bands);
            let is_its = finding.role == group.role && finding.service == group.service;
            let is_within = finding.from.0 + 2 * SECOND_NS >= ramp.from && finding.from.0 <= ramp.to;
            !(finding.is_open && may_be && is_its && is_within)
        });
    }

    fn keep(&mut self, group: usize, candidate: Candidate) {
        if matches!(candidate.pattern, Pattern::Floor | Pattern::Horizontal | Pattern::Bands)
            && self.is_of_ramp(&self.groups[group], &candidate)
        {
            return;
        }
        if candidate.pattern == Pattern::Ramp {
            self.take_back(group, &candidate);
        }
        let Group { service, role, .. } = &self.groups[group];
        let Candidate { pattern, key, from, to, dots, operation, figures, cause } = candidate;
        let pause = Patterns::pause(pattern);
        // A line of half a percent may be seen in the bin beside it.
        let near = u64::from(pattern == Pattern::Horizontal);
        let same = self.findings.iter_mut().rev().take(MAX_SERVICES * 8).find(|finding| {
            finding.is_open
                && finding.pattern == pattern
                && finding.key.abs_diff(key) <= near
                && finding.role == *role
                && finding.service == *service
                && from <= finding.to.0.saturating_add(pause)
        });
        let operation = operation.and_then(|operation| self.names.text(operation).cloned());
        if let Some(finding) = same {
            let more = dots.iter().filter(|(end, _)| *end > finding.to.0);
            finding.n += more.map(|(_, n)| n).sum::<u64>();
            (finding.from, finding.to) = (finding.from.min(WallTime(from)), finding.to.max(WallTime(to)));
            if finding.operation != operation {
                finding.operation = None;
            }
            // The first figures of a floor tell what it rose from: later ones have it among what was before.
            if pattern != Pattern::Floor {
                (finding.figures, finding.cause) = (figures, cause);
            }
            return;
        }
        if self.findings.len() >= MAX_FINDINGS {
            self.findings.pop_front();
            self.bounds.findings += 1;
        }
        self.findings.push_back(Finding {
            number: self.next_number,
            pattern,
            from: WallTime(from),
            to: WallTime(to),
            service: service.clone(),
            role: *role,
            operation,
            n: dots.iter().map(|(_, n)| n).sum(),
            figures,
            cause,
            is_open: true,
            key,
        });
        self.next_number += 1;
    }

    /// What was not seen again for long is over. A ramp drops, or it was none.
    fn close(&mut self, at: u64) {
        let Patterns { groups, findings, .. } = self;
        findings.retain_mut(|finding| {
            if !finding.is_open {
                return true;
            }
            let to = finding.to.0;
            if let Figures::Ramp { medians_ns, dropped, .. } = &mut finding.figures {
                let is_its = |group: &&Group| group.role == finding.role && group.service == finding.service;
                let after = groups.iter().find(is_its).map(|group| ramp::after(group, to, medians_ns[1], at));
                match after {
                    Some(ramp::After::Dropped(when)) => {
                        (*dropped, finding.is_open) = (Some(when), false);
                        return true;
                    }
                    Some(ramp::After::Stays) => return false,
                    // Until it is known, or long enough.
                    _ => {
                        finding.is_open = to.saturating_add(60 * SECOND_NS) >= at;
                        return true;
                    }
                }
            }
            let pause = Patterns::pause(finding.pattern).max(2 * SECOND_NS);
            finding.is_open = to.saturating_add(pause) + SLOW_LOOK_NS >= at;
            true
        });
    }
}

/// [`Patterns`] that a sink fills and a screen reads.
#[derive(Clone, Debug, Default)]
pub struct SharedPatterns(Arc<Mutex<Patterns>>);

impl SharedPatterns {
    /// Reads; the sink waits meanwhile (its queue takes that up).
    pub fn lock(&self) -> MutexGuard<'_, Patterns> {
        // What was found stays found if a reader panics, so a poisoned lock is as good as any.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Fills [`SharedPatterns`].
#[derive(Debug)]
pub struct PatternSink {
    patterns: SharedPatterns,
    metrics: Metrics,
    told: Bounds,
}

impl PatternSink {
    /// Fills `patterns` and counts in `metrics` the bounds that are met.
    pub fn new(patterns: SharedPatterns, metrics: Metrics) -> PatternSink {
        PatternSink { patterns, metrics, told: Bounds::default() }
    }

    fn count(&mut self, bounds: Bounds) {
        let told = std::mem::replace(&mut self.told, bounds);
        let more = |counter, now: u64, before: u64| self.metrics.add(counter, now.saturating_sub(before));
        more(Counter::PatternServices, bounds.services, told.services);
        more(Counter::PatternThinned, bounds.thinned, told.thinned);
        more(Counter::PatternLate, bounds.late, told.late);
        more(Counter::PatternNames, bounds.names, told.names);
        more(Counter::PatternFindings, bounds.findings, told.findings);
    }
}

impl Sink for PatternSink {
    fn name(&self) -> &'static str {
        "patterns"
    }

    fn write(&mut self, batch: &TransactionBatch) -> Result<(), SinkError> {
        let bounds = {
            let mut patterns = self.patterns.lock();
            batch.transactions.iter().for_each(|transaction| patterns.push(transaction));
            patterns.bounds()
        };
        self.count(bounds);
        Ok(())
    }

    fn observe(&mut self, snapshot: &Snapshot) -> Result<(), SinkError> {
        // A sink that is too slow loses what it has no room for: that is no silence either.
        let dropped = self.metrics.get(Counter::SinkQueueFull);
        self.patterns.lock().observe_with(snapshot, dropped);
        Ok(())
    }

    fn finish(&mut self) -> Result<(), SinkError> {
        let bounds = {
            let mut patterns = self.patterns.lock();
            patterns.finish();
            patterns.bounds()
        };
        self.count(bounds);
        Ok(())
    }
}
