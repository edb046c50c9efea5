//! What of a recording is loaded to show an instant: all of it where it is small. Of a large one, the recorded transactions of the
//! window, and the events from the last checkpoint that leads to the instant.

use super::{Goal, Tape};
use crate::{
    metrics::Metrics,
    pipeline::{NullVerdicts, Pipeline},
    report::loss::Losses,
    schema::{Checkpoint, PayloadMode},
    source::{
        Source as _,
        recording::{Part, Recording, Run, Start},
        replay::ReplaySource,
    },
    time::WallTime,
    transaction::WallRange,
};

/// The window that an instant is shown with is loaded with so much before it, so that a look a little further back has it already.
pub(super) const MARGIN: u64 = 2;
/// The events of so long before an instant are played in any case, ns: the counters come once a second, and two of them make a rate.
const SETTLE_NS: u64 = 3_000_000_000;
/// Of a recording that goes on, what is younger than this may not be in both datasets yet, ns: each is handed to the kernel four
/// times a second.
const WRITTEN_NS: u64 = 2_000_000_000;

/// How much of a window is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    /// What can be shown soon; then the rest.
    First,
    /// What can be shown soon.
    FirstOnly,
    /// The whole window.
    Whole,
    /// The whole window, by the events alone: what was stored of it cannot be read.
    Events,
}

/// What is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Load {
    /// What ends before this is left out.
    pub(super) from: WallTime,
    /// What ends before this is read as it was recorded; the rest comes from the events.
    pub(super) events_from: WallTime,
    /// The window has more.
    pub(super) is_first: bool,
}

impl Load {
    /// All of it, by the events.
    fn all(range: WallRange) -> Load {
        Load { from: range.from, events_from: range.from, is_first: false }
    }

    /// For `goal`; `lag_ns`: the newest dots of an instant are so old.
    pub(super) fn of(tape: &Tape, recording: &Recording, goal: Option<Goal>, lag_ns: u64) -> Load {
        let range = tape.range;
        let Some(Goal { at, window_ns, extent, .. }) = goal else { return Load::all(range) };
        let parts = recording.runs.iter().flat_map(|run| run.events.iter().chain(&run.transactions));
        let before: u64 = parts
            .filter(|part| part.meta.first_time_ns <= at.0 && part.meta.last_time_ns >= range.from.0)
            .map(|part| part.n_rows)
            .sum();
        if before <= tape.whole_events {
            return Load::all(range);
        }
        let newest = at.0.saturating_sub(lag_ns);
        let from = WallTime(newest.saturating_sub(window_ns.saturating_mul(MARGIN))).max(range.from);
        let by_events = Load { from, events_from: from, is_first: false };
        let way = Way::find(recording, from, newest).filter(|_| extent != Extent::Events);
        let Some(way) = way else { return by_events };
        let is_first = extent == Extent::First;
        if !way.can_be_read(tape, recording, from) {
            return match extent {
                Extent::Whole => by_events,
                // The events that are played in any case.
                _ => Load { from: way.events_from, events_from: way.events_from, is_first },
            };
        }
        let (events_from, first) = (way.events_from, first_rows(recording, way.events_from, tape.first_rows));
        if extent == Extent::Whole || first <= from {
            return Load { from, events_from, is_first: false };
        }
        Load { from: first, events_from, is_first }
    }
}

/// Where the events of an instant begin, and those of its window.
struct Way<'a> {
    run: &'a Run,
    /// The last checkpoint that leads to the instant, and the one that leads to the window.
    end: Start,
    begin: Start,
    events_from: WallTime,
}

impl Way<'_> {
    /// `None`: they are the same.
    fn find(recording: &Recording, from: WallTime, newest: u64) -> Option<Way<'_>> {
        if recording.payload() == PayloadMode::None {
            return None;
        }
        let written = recording.summary().range?.to.0.saturating_sub(WRITTEN_NS);
        let latest = newest.saturating_sub(SETTLE_NS).min(written);
        let last = |run: &Run| run.last_checkpoint(WallTime(latest));
        let (run, end) = recording.runs.iter().rev().find_map(|run| Some((run, last(run)?)))?;
        let begin = run.last_checkpoint(from).or_else(|| first_row(run))?;
        let events_from = WallTime(end.checkpoint.horizon_ns + 1);
        (begin.checkpoint.ordinal < end.checkpoint.ordinal && events_from > from).then_some(Way {
            run,
            end,
            begin,
            events_from,
        })
    }

    /// Whether the transactions before `events_from` can be read as they were recorded: all of them are there, and nothing was lost
    /// meanwhile, the marks of which only the events have.
    fn can_be_read(&self, tape: &Tape, recording: &Recording, from: WallTime) -> bool {
        let Way { run, end, begin, .. } = *self;
        let lost_before = |start: Start| {
            let losses = losses_before(tape, recording, run, start)?;
            Some((losses.total(), losses.requests.low))
        };
        // Another run's part of the window would come from elsewhere.
        let is_alone =
            run.start_ns <= from.0 || recording.runs.first().is_some_and(|first| first.id == run.id);
        is_alone
            && recording.faults.is_empty()
            && is_whole(&run.events[begin.part..=end.part], end.checkpoint)
            && holds_all(&run.transactions, from, self.events_from)
            && lost_before(end).is_some_and(|lost| lost_before(begin) == Some(lost))
    }
}

/// The first row that is left of a run.
fn first_row(run: &Run) -> Option<Start> {
    let meta = &run.events.first()?.meta;
    Some(Start { part: 0, checkpoint: Checkpoint { ordinal: meta.first, horizon_ns: meta.horizon_ns } })
}

/// No event is missing in these parts before `end`, which lies in the last of them.
fn is_whole(events: &[Part], end: Checkpoint) -> bool {
    let has_all = |part: &Part| part.meta.lost == 0 && part.n_rows >= part.meta.next - part.meta.first;
    let Some((last, before)) = events.split_last() else { return false };
    // Where in a part something is missing is not known.
    (end.ordinal == last.meta.first || has_all(last))
        && before.iter().all(has_all)
        && events.windows(2).all(|pair| pair[0].meta.next == pair[1].meta.first)
}

/// Every transaction that ends in `from..to` is there, in the order of time. A filter of the run, or a queue that was full, may have left
/// out some: then numbers are missing.
fn holds_all(transactions: &[Part], from: WallTime, to: WallTime) -> bool {
    let is_whole = |part: &Part| part.n_rows == part.meta.next - part.meta.first;
    let begin = transactions.iter().rposition(|part| part.meta.first_time_ns <= from.0);
    let Some(rows) = transactions.get(begin.unwrap_or(0)..) else { return false };
    let has_begin = begin.is_some() || rows.first().is_some_and(|part| part.meta.first == 0);
    let follow = |pair: &[Part]| {
        pair[0].meta.next == pair[1].meta.first && pair[0].meta.last_time_ns <= pair[1].meta.last_time_ns
    };
    // Numbers that are missing at the end show by what comes behind them.
    let has_end = rows.last().is_some_and(|last| last.meta.last_time_ns >= to.0);
    has_begin && has_end && rows.iter().all(is_whole) && rows.windows(2).all(follow)
}

/// What was lost before a checkpoint; `None`: it cannot be told.
fn losses_before(tape: &Tape, recording: &Recording, run: &Run, start: Start) -> Option<Losses> {
    let Start { part, checkpoint } = start;
    if checkpoint.ordinal == 0 {
        return Some(Losses::default());
    }
    let mut part = run.events[part].clone();
    // Those behind it may have the same horizon, where the clock was set back.
    part.meta.checkpoints.retain(|other| other.ordinal <= checkpoint.ordinal);
    let alone = Recording {
        runs: vec![Run { events: vec![part], transactions: Vec::new(), rollups: Vec::new(), ..*run }],
        ..Recording { dir: recording.dir.clone(), ..Recording::default() }
    };
    let metrics = Metrics::default();
    let from = WallTime(checkpoint.horizon_ns + 1);
    let mut source = ReplaySource::open(&alone, WallRange { from, ..tape.range }, metrics.clone()).ok()?;
    source.next_batch().ok()??;
    let restart = source.restart()?;
    let config = tape.pipeline.clone();
    let pipeline = Pipeline::restore(&restart.checkpoint, config, metrics, Box::new(NullVerdicts)).ok()?;
    Some(Losses::of_events(&pipeline.snapshot()))
}

/// So early begin the last `n` transactions before `end`, by what is known of the parts as wholes.
fn first_rows(recording: &Recording, end: WallTime, n: u64) -> WallTime {
    let mut left = n;
    for part in recording.runs.iter().flat_map(|run| &run.transactions).rev() {
        let (first, last) = (part.meta.first_time_ns, part.meta.last_time_ns.max(part.meta.first_time_ns));
        if first >= end.0 {
            continue;
        }
        // As if they were spread evenly.
        let length = u128::from(last - first).max(1);
        let reaches = u128::from(last.min(end.0) - first);
        let rows = u64::try_from(u128::from(part.n_rows) * reaches / length).unwrap_or(u64::MAX);
        if rows >= left {
            let share = length * u128::from(left) / u128::from(part.n_rows.max(1));
            return WallTime(last.min(end.0).saturating_sub(u64::try_from(share).unwrap_or(u64::MAX)));
        }
        left -= rows;
    }
    WallTime(0)
}
