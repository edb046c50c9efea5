//! What a page of counter graphs is made of: memory at once, the recording on a thread of its own where memory does not reach.

use std::{
    sync::{
        Arc,
        mpsc::{self, Receiver, TryRecvError},
    },
    thread,
    time::{Duration, Instant},
};

use super::{
    app::App,
    draw::Layout,
    graphs::{Graphs, Recorded, columns_of, finest_of},
    model::Model,
    range::Frame,
};
use crate::{
    sink::rollup::SharedRollups,
    source::rollups::RecordedRollups,
    text::screen_text,
    time::WallTime,
    transaction::{WallRange, rollup::Resolution},
};

/// Reads the columns of a range from a recording; may take seconds.
pub type FetchRollups = Arc<dyn Fn(WallRange, u64) -> std::io::Result<RecordedRollups> + Send + Sync>;

/// Where rollups come from.
#[derive(Clone, Default)]
pub struct RollupSources {
    /// Those of the run that goes on.
    pub memory: Option<SharedRollups>,
    /// A recording: what is played, or what the run makes.
    pub fetch: Option<FetchRollups>,
}

/// A recording that did not reach far enough is looked at again after this: it is being written.
const AGAIN_AFTER: Duration = Duration::from_secs(10);

/// What was asked of the recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Asked {
    from: WallTime,
    to: WallTime,
    column_ns: u64,
}

/// What has come of it.
enum Answer {
    Read(RecordedRollups),
    Failed(String),
}

/// Makes the page, and reads the recording for it.
pub struct RangeDesk {
    sources: RollupSources,
    asked: Option<(Asked, Instant)>,
    answer: Option<Answer>,
    pending: Option<Receiver<Answer>>,
}

impl RangeDesk {
    /// Over these sources.
    pub fn new(sources: RollupSources) -> RangeDesk {
        RangeDesk { sources, asked: None, answer: None, pending: None }
    }

    /// Whether something has come that was asked for.
    pub fn look(&mut self) -> bool {
        let answer = match self.pending.as_ref().map(Receiver::try_recv) {
            Some(Ok(answer)) => answer,
            Some(Err(TryRecvError::Disconnected)) => {
                Answer::Failed("the thread that read it ended early".to_owned())
            }
            Some(Err(TryRecvError::Empty)) | None => return false,
        };
        (self.answer, self.pending) = (Some(answer), None);
        true
    }

    /// The frame with the page of graphs, if it is open.
    pub fn fill(&mut self, mut model: Model, app: &App, layout: &Layout) -> Model {
        let Some(page) = &app.range else { return model };
        let now = model.now;
        let (from, _) = page.span.ends(now);
        let least = match (&self.sources.memory, &self.sources.fetch) {
            // What is no longer kept second by second is not recorded either: whole minutes, or hours, are what is left.
            (Some(memory), None) => finest_of(&memory.lock(), from),
            _ => Resolution::Second,
        };
        let frame = Frame::of(page.span, now, layout.graphs.width, least.ns());
        let mut parts = match &self.sources.memory {
            Some(memory) => columns_of(&memory.lock(), frame),
            None => Vec::new(),
        };
        let recorded = self.recorded(frame, now, page.span.length_ns());
        if let Some(Answer::Read(read)) = &self.answer
            && self.asked.is_some_and(|(asked, _)| asked.column_ns == frame.column_ns)
        {
            parts.extend(read.columns.iter().cloned());
        }
        let graphs = Graphs::of(frame, page, app.roles, now, parts, recorded);
        model.graphs = Some(graphs);
        model
    }

    /// What is to be had of the recording for this frame; asks for it where it is wanted.
    fn recorded(&mut self, frame: Frame, now: WallTime, length_ns: u64) -> Recorded {
        let Some(fetch) = self.sources.fetch.clone() else { return Recorded::NotNeeded };
        // Up to here it is wanted, and so far it makes sense to ask.
        let (need, to) = match &self.sources.memory {
            Some(memory) => {
                let rollups = memory.lock();
                let resolution = Resolution::dividing(frame.column_ns);
                let all = WallRange::default();
                let first = rollups.intervals(resolution, all).next().map_or(now, |first| first.start);
                (frame.to.min(first.max(rollups.kept_from(resolution))), frame.to)
            }
            // A playback that goes on finds what comes next there.
            None => {
                let ahead = length_ns / frame.column_ns.max(1) * frame.column_ns;
                (frame.to, WallTime(frame.to.0.saturating_add(ahead)))
            }
        };
        if need <= frame.from {
            return Recorded::NotNeeded;
        }
        let reaches = |asked: &Asked, until: WallTime| {
            asked.column_ns == frame.column_ns && asked.from <= frame.from && need <= asked.to.min(until)
        };
        let wanted = Asked { from: frame.from, to, column_ns: frame.column_ns };
        let is_due = match (&self.asked, &self.answer) {
            (None, _) => true,
            (Some((asked, at)), answer) => {
                // Only what is still written can reach further than it did.
                let until = match (answer, &self.sources.memory) {
                    (Some(Answer::Read(read)), Some(_)) => read.until,
                    _ => WallTime(u64::MAX),
                };
                let moved = !reaches(asked, WallTime(u64::MAX));
                moved || (!reaches(asked, until) && at.elapsed() >= AGAIN_AFTER)
            }
        };
        // One at a time: who changes the range quickly waits for the last one only.
        if is_due && self.pending.is_none() {
            let (send, receive) = mpsc::sync_channel(1);
            let thread = thread::Builder::new().name("rollups".to_owned()).spawn(move || {
                let range = WallRange { from: wanted.from, to: wanted.to };
                let answer = match fetch(range, wanted.column_ns) {
                    Ok(read) => Answer::Read(read),
                    Err(error) => Answer::Failed(error.to_string()),
                };
                // If nobody waits for it any more, it was read in vain.
                let _ = send.send(answer);
            });
            if self.asked.is_none_or(|(asked, _)| asked.column_ns != wanted.column_ns) {
                self.answer = None;
            }
            self.asked = Some((wanted, Instant::now()));
            match thread {
                Ok(_) => self.pending = Some(receive),
                Err(error) => self.answer = Some(Answer::Failed(error.to_string())),
            }
        }
        match &self.answer {
            _ if self.pending.is_some() => Recorded::Reading,
            Some(Answer::Read(read)) if read.has_none => Recorded::HasNone,
            Some(Answer::Read(RecordedRollups { faults, .. })) if !faults.is_empty() => {
                Recorded::Failed(screen_text(&faults[0]).into_owned())
            }
            Some(Answer::Read(_)) => Recorded::Read,
            Some(Answer::Failed(error)) => Recorded::Failed(screen_text(error).into_owned()),
            None => Recorded::NotNeeded,
        }
    }
}
