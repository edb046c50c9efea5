//! A recording as a playback: a thread that runs its events through a pipeline of its own to the screen's sinks, goes on, stops and starts
//! over as it is told.

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::Context as _;

mod load;
mod pass;

use self::{
    load::{Extent, Load},
    pass::Pass,
};
use super::delivery::Totals;
use crate::{
    event::ConnId,
    metrics::Metrics,
    pipeline::{PipelineConfig, Snapshot},
    report::filter::Filter,
    schema::PayloadMode,
    sink::recent::DEFAULT_ROWS,
    source::recording::Recording,
    time::WallTime,
    transaction::{Transaction, WallRange},
    tui::{Feed, Order, Pace, Playback, Played, Sought},
};

/// A paced playback hands over events in slices of so much event time, ns: shorter than a screen's frame.
const SLICE_NS: u64 = 50_000_000;
/// Where no more events than this lie before an instant, going there plays all of them, so that the tables are those of the whole recording:
/// 448,157 of them took half a second of CPU (static build, without a screen). Where more do, what is loaded is the window before the instant, and the screen says so.
pub const WHOLE_EVENTS: u64 = 1_000_000;
/// Recorded transactions that are read before an instant is shown; where its window has more, they are read when it is. With twice as
/// many an instant of a recording of 45,000 events a second appeared after 2.0 s (release build, both CPUs busy with other things).
pub const FIRST_ROWS: u64 = 200_000;
/// Rows kept whole: what a list can show. Four times what a live run keeps, some 92 MB when full.
const ROWS: usize = 4 * DEFAULT_ROWS;
/// The watermark moves with the events: there may be none for so long, ns. Ticks come ten times a second.
const BEHIND_NS: u64 = 250_000_000;
/// A transaction that is gone to is waited for at most so long behind its end, ns: the time a pipeline gives those that somebody else ends.
const AWAITED_NS: u64 = 10_000_000_000;
/// How often a recording that is still being written is looked at for more.
const FOLLOW_EVERY: Duration = Duration::from_millis(500);
/// An error before an instant is looked for in stretches that double from this, ns.
const BACK_NS: u64 = 60_000_000_000;

/// What is played.
#[derive(Clone, Debug)]
pub struct Tape {
    /// Folder of the recording.
    pub dir: PathBuf,
    /// The pipeline's settings.
    pub pipeline: PipelineConfig,
    /// What is shown of it.
    pub filter: Option<Filter>,
    /// Only what ends in it.
    pub range: WallRange,
    /// Event time after which it ends.
    pub until: Option<Duration>,
    /// Dots that are kept.
    pub xlog_dots: usize,
    /// Events before an instant that are all played to get there; [`WHOLE_EVENTS`] but in tests.
    pub whole_events: u64,
    /// Recorded transactions that are read before an instant is shown; [`FIRST_ROWS`] but in tests.
    pub first_rows: u64,
    /// It is still being recorded: what comes is played too.
    pub follows: bool,
}

/// Where it begins, and how.
#[derive(Clone, Debug)]
pub struct Begin {
    /// The first order; `None`: from the first event on.
    pub order: Option<Order>,
    /// What is looked for must match it.
    pub narrowed: Option<Filter>,
    /// Speed.
    pub pace: Pace,
}

/// What a playback came to.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Sums of what is loaded.
    pub totals: Totals,
    /// What the pipeline held when it was looked at last.
    pub snapshot: Snapshot,
    /// Counters of the run.
    pub metrics: Metrics,
    /// Files that could not be read.
    pub n_faults: u64,
}

/// Plays a recording.
pub struct Player {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    wake: Condvar,
    /// Rises with every order: what the thread looks at between two events.
    n_orders: AtomicU64,
}

/// Where to go.
#[derive(Clone, Copy, Debug)]
struct Goal {
    at: WallTime,
    /// So much before it is wanted too, ns.
    window_ns: u64,
    /// It is not reached before this transaction has left the pipeline: one that was ended by what came later may take its time.
    row: Option<(ConnId, u64)>,
    /// How much of the window is loaded.
    extent: Extent,
}

#[derive(Debug)]
struct State {
    feed: Feed,
    played: Played,
    goto: Option<Goal>,
    find: Option<(Sought, WallTime, u64)>,
    /// What is looked for must match it too.
    narrowed: Option<Filter>,
    quit: bool,
    outcome: Outcome,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // What is in there is shown, not computed with: a poisoned lock is as good as any.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Player {
    /// Begins to play. What cannot be read at all is an error here; what turns out unreadable later is told on the screen.
    pub fn start(tape: Tape, begin: Begin) -> io::Result<Player> {
        let recording = Recording::open(&tape.dir)?;
        let bounds = recording.summary().range.unwrap_or_default();
        let played = Played { pace: begin.pace, bounds: (bounds.from, bounds.to), ..Played::default() };
        let state = State {
            feed: empty_feed(&tape),
            played,
            goto: None,
            find: None,
            narrowed: begin.narrowed,
            quit: false,
            outcome: Outcome::default(),
        };
        let shared =
            Arc::new(Shared { state: Mutex::new(state), wake: Condvar::new(), n_orders: AtomicU64::new(0) });
        let mut player = Player { shared: shared.clone(), thread: None };
        if let Some(order) = begin.order {
            player.order(order);
        }
        let worker = Worker { tape, shared };
        player.thread = Some(thread::Builder::new().name("player".to_owned()).spawn(move || worker.run())?);
        Ok(player)
    }

    /// Ends it, and tells what became of it.
    pub fn finish(mut self) -> Outcome {
        self.end();
        std::mem::take(&mut self.shared.lock().outcome)
    }

    fn end(&mut self) {
        self.shared.lock().quit = true;
        self.shared.n_orders.fetch_add(1, Ordering::Release);
        self.shared.wake.notify_all();
        if let Some(thread) = self.thread.take() {
            // It told on the screen what it had to.
            let _ = thread.join();
        }
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        self.end();
    }
}

impl Playback for Player {
    fn feed(&self) -> Feed {
        self.shared.lock().feed.clone()
    }

    fn played(&self) -> Played {
        self.shared.lock().played.clone()
    }

    fn narrow(&self, filter: Option<&Filter>) {
        self.shared.lock().narrowed = filter.cloned();
    }

    fn order(&self, order: Order) {
        let mut state = self.shared.lock();
        let State { played, goto, find, .. } = &mut *state;
        match order {
            Order::Toggle => played.paused = !played.paused,
            Order::Pace(pace) => played.pace = pace,
            Order::Goto { at, window_ns } => {
                let at = at.clamp(played.bounds.0, played.bounds.1.max(at));
                (*goto, *find) = (Some(Goal { at, window_ns, row: None, extent: Extent::First }), None);
                (played.seeking, played.paused) = (Some(at), true);
            }
            Order::Find { what, from, window_ns } => *find = Some((what, from, window_ns)),
            Order::End => (played.pace, played.paused) = (Pace::Max, false),
            Order::Live => {}
        }
        drop(state);
        self.shared.n_orders.fetch_add(1, Ordering::Release);
        self.shared.wake.notify_all();
    }
}

fn empty_feed(tape: &Tape) -> Feed {
    Feed::with_room(tape.xlog_dots, ROWS)
}

/// Why a pass over the recording ended.
enum Next {
    /// It goes on elsewhere.
    Goto(Goal),
    Quit,
}

/// What the thread has.
struct Worker {
    tape: Tape,
    shared: Arc<Shared>,
}

impl Worker {
    fn run(self) {
        let mut goto = self.shared.lock().goto.take();
        loop {
            let next = self.pass(goto).unwrap_or_else(|error| {
                self.fault(format!("{error:#}"));
                self.wait_for_goto()
            });
            match next {
                Next::Goto(goal) => goto = Some(goal),
                Next::Quit => return,
            }
        }
    }

    fn fault(&self, text: String) {
        let mut state = self.shared.lock();
        let State { played, .. } = &mut *state;
        played.fault = (played.fault.0 + 1, text);
        (played.seeking, played.paused) = (None, true);
    }

    fn wait_for_goto(&self) -> Next {
        let mut state = self.shared.lock();
        loop {
            if state.quit {
                return Next::Quit;
            }
            if let Some(goal) = state.goto.take() {
                return Next::Goto(goal);
            }
            state = self.shared.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Plays from the beginning that fits the goal, until something else is wanted.
    fn pass(&self, goal: Option<Goal>) -> anyhow::Result<Next> {
        let recording = Recording::open(&self.tape.dir).context("open the recording")?;
        let bounds = recording.summary().range.unwrap_or_default();
        let load = Load::of(&self.tape, &recording, goal, self.lag_ns());
        let mut pass = Pass::new(self, &recording, goal, load);
        {
            let mut state = self.shared.lock();
            state.played.bounds = (bounds.from, bounds.to);
            state.played.ended = false;
        }
        if goal.is_none() {
            pass.show();
        }
        let next = if recording.payload() == PayloadMode::None {
            pass.rows(&recording)?
        } else {
            pass.play(&recording)?
        };
        match next {
            Some(next) => {
                pass.keep();
                Ok(next)
            }
            // The end of what is recorded.
            None => Ok(pass.rest()),
        }
    }

    /// A transaction leaves the pipeline so long after its end, ns: the newest dots of an instant are so old.
    fn lag_ns(&self) -> u64 {
        self.tape.pipeline.watermark_lag_ns + BEHIND_NS
    }

    /// Looks for something in the recorded transactions.
    fn find(&self, what: Sought, from: WallTime, window_ns: u64) -> anyhow::Result<Option<Transaction>> {
        let recording = Recording::open(&self.tape.dir).context("open the recording")?;
        let bounds = recording.summary().range.unwrap_or_default();
        let WallRange { from: first, to: last } = self.tape.range;
        let narrowed = self.shared.lock().narrowed.clone();
        let filters = [self.tape.filter.as_ref(), narrowed.as_ref()];
        let fits = |row: &Transaction| {
            row.is_finished() && filters.iter().flatten().all(|filter| filter.matches(row))
        };
        let rows = |from: WallTime, to: WallTime| recording.transactions(WallRange { from, to });
        match what {
            Sought::NextError => {
                for rows in rows(WallTime(from.0.saturating_add(1)).max(first), last) {
                    if let Some(row) = rows?.into_iter().find(|row| row.error && fits(row)) {
                        return Ok(Some(row));
                    }
                    if self.shared.lock().quit {
                        break;
                    }
                }
            }
            Sought::PreviousError => {
                let (mut to, mut step) = (from.min(last), BACK_NS);
                let first = first.max(bounds.from);
                while to > first && !self.shared.lock().quit {
                    let begin = WallTime(to.0.saturating_sub(step)).max(first);
                    let mut found = None;
                    for rows in rows(begin, to) {
                        found = rows?.into_iter().rfind(|row| row.error && fits(row)).or(found);
                    }
                    if found.is_some() {
                        return Ok(found);
                    }
                    (to, step) = (begin, step.saturating_mul(2));
                }
            }
            Sought::Slowest => {
                let begin = WallTime(from.0.saturating_sub(window_ns)).max(first);
                let mut found: Option<Transaction> = None;
                for rows in rows(begin, WallTime(from.0.saturating_add(1)).min(last)) {
                    for row in rows?.into_iter().filter(|row| fits(row)) {
                        if found.as_ref().is_none_or(|found| row.duration_ns > found.duration_ns) {
                            found = Some(row);
                        }
                    }
                }
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// Looks for something and goes there.
    fn look(&self, what: Sought, from: WallTime, window_ns: u64) {
        match self.find(what, from, window_ns) {
            Ok(Some(row)) => {
                // Where its dot is there.
                let key = (row.conn, row.ordinal);
                let at = WallTime(row.end_time.0.saturating_add(self.lag_ns()));
                let mut state = self.shared.lock();
                let State { played, goto, .. } = &mut *state;
                played.found = (played.found.0 + 1, Some(Arc::new(row)));
                (played.seeking, played.paused) = (Some(at), true);
                *goto = Some(Goal { at, window_ns, row: Some(key), extent: Extent::First });
            }
            Ok(None) => {
                let mut state = self.shared.lock();
                let State { played, .. } = &mut *state;
                played.fault = (played.fault.0 + 1, format!("no {} in the recording", what.what()));
            }
            Err(error) => self.fault(format!("{error:#}")),
        }
    }
}
