//! Replay: the events of a recording, in their order, as a source.
//!
//! What is missing (dropped by the recorder, in a file that is damaged or gone) comes as one [`Event::Loss`] in its place; behind it the replay
//! goes on with the events that are there, and with the pipeline's own state from the next checkpoint on.

use std::{collections::VecDeque, path::PathBuf, sync::Arc};

use arrow_array::RecordBatch;
use bytes::Bytes;

use super::{
    Restart, Source, SourceError,
    recording::{Part, PartRows, Recording, Start},
    symbols::Symbols,
};
use crate::{
    event::{ConnId, Event, EventBatch, Loss, LossReason},
    metrics::{Counter, Metrics},
    schema::{
        Fault, FormatError, PayloadMode, RunId,
        event_rows::{EventColumns, Row},
    },
    time::{BootTime, WallTime},
    transaction::WallRange,
};

/// Events that a batch holds at most.
const BATCH_EVENTS: usize = 4_096;
/// Events are read for this long behind the end of the range, so that what the pipeline still holds back comes out as it
/// does in a whole replay. 10 s: far above its delays.
const BEHIND_NS: u64 = 10_000_000_000;
/// Faults that are kept for the report; more are only counted.
const MAX_FAULTS: usize = 100;

/// Why a recording cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// Recorded without payload.
    #[error("recorded with --payload none: parsing cannot be re-run")]
    NoPayload,
    /// There is no event to replay.
    #[error("{}: no events to replay", .0.display())]
    NoEvents(PathBuf),
}

/// Reads the events of a recording.
pub struct ReplaySource {
    metrics: Metrics,
    symbols: Option<Arc<Symbols>>,
    parts: VecDeque<Planned>,
    run: Option<RunId>,
    open: Option<OpenPart>,
    /// Ordinal that comes next in this run, if all is well.
    expected: u64,
    last_time: BootTime,
    /// Only events of these connections, and those of none; the others are passed over.
    only: Option<[ConnId; 3]>,
    /// State to be taken over before the next batch is pushed.
    restart: Option<Restart>,
    /// What was read so far does not lead to what comes: the next checkpoint does.
    astray: bool,
    /// A file behind the last part cannot be read: nobody knows what it held.
    end_missing: bool,
    /// Files that turned out unreadable.
    faults: Vec<FormatError>,
    n_faults: u64,
}

/// A part that is to be read.
struct Planned {
    part: Part,
    /// From this ordinal on; 0 = all of it.
    from: u64,
    /// There stands a checkpoint.
    checkpoint: bool,
}

impl Planned {
    /// All of it.
    fn whole(part: Part) -> Planned {
        Planned { from: 0, checkpoint: part.meta.checkpoint, part }
    }
}

struct OpenPart {
    part: Part,
    rows: PartRows,
    /// What is before this ordinal is passed over.
    from: u64,
    batch: Option<RecordBatch>,
    /// Next row of `batch`.
    next: usize,
}

impl ReplaySource {
    /// Replays what ends within `range`: begins at the last checkpoint that is wholly before it, of a part or within one. Whoever takes the
    /// transactions leaves out those that end outside ([`WallRange`]): with that, the result is the whole replay's, cut.
    pub fn open(recording: &Recording, range: WallRange, metrics: Metrics) -> Result<Self, ReplayError> {
        if recording.payload() == PayloadMode::None {
            return Err(ReplayError::NoPayload);
        }
        let mut parts = VecDeque::new();
        for run in &recording.runs {
            let ends_before = run.events.iter().all(|part| part.meta.last_time_ns < range.from.0);
            if ends_before && range.from > WallTime(0) {
                continue;
            }
            // What left the pipeline before a checkpoint ends no later than the latest event before it.
            let start = run.checkpoints().rev().find(|Start { part, checkpoint }| {
                checkpoint.horizon_ns < range.from.0 && run.events[*part].holds_checkpoint(checkpoint.ordinal)
            });
            let until = range.to.0.saturating_add(BEHIND_NS);
            let begin = start.map_or(0, |start| start.part);
            let rest = run.events[begin..].iter().enumerate();
            parts.extend(rest.filter(|(_, part)| part.meta.first_time_ns < until).map(
                |(i, part)| match start {
                    Some(Start { checkpoint, .. }) if i == 0 => {
                        Planned { part: part.clone(), from: checkpoint.ordinal, checkpoint: true }
                    }
                    _ => Planned::whole(part.clone()),
                },
            ));
        }
        if parts.is_empty() {
            return Err(ReplayError::NoEvents(recording.dir.clone()));
        }
        let end_missing = parts.back().is_some_and(|Planned { part: last, .. }| {
            let unread = format!("part-{}-{:015}", last.meta.run, last.meta.next);
            recording.faults.iter().any(|fault| {
                let name = fault.path.file_name().unwrap_or_default().to_string_lossy();
                fault.path.components().any(|part| part.as_os_str() == "events")
                    && name.trim_start_matches('_').trim_end_matches(".journal").trim_end_matches(".parquet")
                        >= unread.as_str()
                    && name.contains(&last.meta.run.to_string())
            })
        });
        Ok(ReplaySource {
            metrics,
            symbols: recording.symbols.clone(),
            parts,
            end_missing,
            run: None,
            open: None,
            expected: 0,
            last_time: BootTime(0),
            only: None,
            restart: None,
            astray: false,
            faults: Vec::new(),
            n_faults: 0,
        })
    }

    /// Leaves out the events of other connections than these: one, and the one that carries it. What they would have changed is theirs: its
    /// transactions are the same.
    pub fn only(self, conn: ConnId, carrier: Option<ConnId>) -> ReplaySource {
        ReplaySource { only: Some([conn, carrier.unwrap_or(conn), ConnId(0)]), ..self }
    }

    /// Files that could not be read so far (the first hundred), and the number of all.
    pub fn faults(&self) -> (&[FormatError], u64) {
        (&self.faults, self.n_faults)
    }

    /// Takes what was recorded since: for whoever reads a recording that is still being written, when it has come to its end. Of the
    /// runs it reads the one that it is in.
    pub fn follow(&mut self, recording: &Recording) {
        let Some(run) = recording.runs.iter().find(|run| Some(run.id) == self.run) else { return };
        let more = run.events.iter().filter(|part| part.meta.next > self.expected);
        let expected = self.expected;
        self.parts.extend(more.map(|part| match part.meta.first < expected {
            // It was read so far.
            true => Planned { part: part.clone(), from: expected, checkpoint: false },
            false => Planned::whole(part.clone()),
        }));
    }

    fn fault(&mut self, error: FormatError) {
        tracing::warn!(%error, "part of the recording cannot be read");
        self.n_faults += 1;
        if self.faults.len() < MAX_FAULTS {
            self.faults.push(error);
        }
    }

    /// Opens the next part. A part of another run begins anew.
    fn advance(&mut self) -> Option<EventBatch> {
        let Planned { part, from, checkpoint } = self.parts.pop_front()?;
        if self.run != Some(part.meta.run) {
            self.run = Some(part.meta.run);
            self.expected = from.max(part.meta.first);
            self.last_time = BootTime(0);
            self.astray = checkpoint;
            // Without a checkpoint the part begins with an empty pipeline.
            self.restart = Some(Restart::default());
        }
        match part.rows_from(from) {
            Ok(rows) => self.open = Some(OpenPart { part, rows, from, batch: None, next: 0 }),
            Err(error) => {
                self.fault(error);
                return self.rest_is_missing(part.meta.next);
            }
        }
        None
    }

    /// Nothing of this part will come any more, up to the ordinal `next`.
    fn rest_is_missing(&mut self, next: u64) -> Option<EventBatch> {
        (next > self.expected).then(|| self.loss(next, LossReason::Damaged))
    }

    /// A batch that says that everything before the ordinal `next` is missing.
    fn loss(&mut self, next: u64, reason: LossReason) -> EventBatch {
        let (first_ordinal, n) = (self.expected, next - self.expected);
        self.metrics.add(Counter::RecordingMissing, n);
        self.expected = next;
        self.astray = true;
        let loss = Loss { time: self.last_time, first_ordinal, n: Some(n), reason };
        EventBatch { first_ordinal, events: vec![Event::Loss(loss)] }
    }

    /// A batch that says that what came behind this cannot be known.
    fn end_is_missing(&self) -> EventBatch {
        let (first_ordinal, reason) = (self.expected, LossReason::Damaged);
        let loss = Loss { time: self.last_time, first_ordinal, n: None, reason };
        EventBatch { first_ordinal, events: vec![Event::Loss(loss)] }
    }

    /// Events of the open part up to the next thing that is not one.
    fn read(&mut self, open: &mut OpenPart) -> Result<Option<EventBatch>, FormatError> {
        let at_fault = |part: &Part, fault: Fault| {
            fault.at(part.sealed.as_ref().or(part.journal.as_ref()).cloned().unwrap_or_default())
        };
        loop {
            let batch = match &open.batch {
                Some(batch) if open.next < batch.num_rows() => batch,
                _ => {
                    open.next = 0;
                    open.batch = None;
                    match open.rows.next() {
                        None => return Ok(None),
                        Some(batch) => open.batch.insert(batch?),
                    }
                }
            };
            let columns = EventColumns::new(batch).map_err(|fault| at_fault(&open.part, fault))?;
            let end = columns.len();
            while open.next < end && columns.ordinal(open.next) < open.from {
                open.next += 1;
            }
            let mut events = Vec::with_capacity(BATCH_EVENTS.min(end - open.next));
            let first_ordinal = self.expected;
            while open.next < end && events.len() < BATCH_EVENTS {
                let i = open.next;
                let ordinal = columns.ordinal(i);
                let is_other = self.only.is_some_and(|only| !only.contains(&columns.conn(i)));
                if is_other && ordinal == self.expected {
                    self.expected += 1;
                    open.next += 1;
                    continue;
                }
                let row = columns.row(i).map_err(|fault| at_fault(&open.part, fault))?;
                match row {
                    Row::Event(_) if ordinal < self.expected => {}
                    Row::Event(mut event) if ordinal == self.expected => {
                        self.symbols.iter().for_each(|symbols| symbols.name(&mut event));
                        self.last_time = self.last_time.max(columns.time(i));
                        self.expected += 1;
                        events.push(event);
                    }
                    // Anything else ends a batch that has begun, and is looked at again.
                    _ if !events.is_empty() => return Ok(Some(EventBatch { first_ordinal, events })),
                    Row::Event(_) => return Ok(Some(self.loss(ordinal, LossReason::Damaged))),
                    Row::Hole(hole) => {
                        open.next += 1;
                        let next = hole.first_ordinal.saturating_add(hole.n.unwrap_or(0));
                        if next > self.expected {
                            return Ok(Some(self.loss(next, hole.reason)));
                        }
                        continue;
                    }
                    Row::Checkpoint(checkpoint) => {
                        if ordinal > self.expected {
                            return Ok(Some(self.loss(ordinal, LossReason::Damaged)));
                        }
                        if self.astray && ordinal == self.expected {
                            self.astray = false;
                            // Before a run's first event the pipeline is a new one. Saying so keeps a whole replay free of
                            // the checkpoint's layout, which only the version that wrote it reads.
                            let checkpoint = if ordinal == 0 { Bytes::new() } else { checkpoint };
                            self.restart = Some(Restart { checkpoint });
                        }
                    }
                }
                open.next += 1;
            }
            if !events.is_empty() {
                return Ok(Some(EventBatch { first_ordinal, events }));
            }
        }
    }
}

impl Source for ReplaySource {
    fn next_batch(&mut self) -> Result<Option<EventBatch>, SourceError> {
        loop {
            let Some(mut open) = self.open.take() else {
                if self.parts.is_empty() {
                    return Ok(std::mem::take(&mut self.end_missing).then(|| self.end_is_missing()));
                }
                if let Some(loss) = self.advance() {
                    return Ok(Some(loss));
                }
                continue;
            };
            match self.read(&mut open) {
                Ok(Some(batch)) => {
                    self.open = Some(open);
                    return Ok(Some(batch));
                }
                // The part is over. What it should have held by its own account and did not, is missing.
                Ok(None) => {
                    if let Some(loss) = self.rest_is_missing(open.part.meta.next) {
                        return Ok(Some(loss));
                    }
                }
                Err(error) => {
                    self.fault(error);
                    if let Some(loss) = self.rest_is_missing(open.part.meta.next) {
                        return Ok(Some(loss));
                    }
                }
            }
        }
    }

    fn restart(&mut self) -> Option<Restart> {
        self.restart.take()
    }
}
