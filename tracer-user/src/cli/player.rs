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
    time::{Duration, Instant},
};

use anyhow::Context as _;

use super::delivery::{Delivery, Out, Totals};
use crate::{
    event::{ConnId, Event},
    metrics::Metrics,
    pipeline::{NullVerdicts, Pipeline, PipelineConfig, Snapshot},
    report::filter::Filter,
    schema::PayloadMode,
    sink::{
        fanout::Inline,
        histogram::{HistogramSink, SharedHistograms},
        recent::{DEFAULT_ROWS, RecentSink, SharedRecent},
        xlog::{SharedXlog, XlogSink},
    },
    source::{Source as _, recording::Recording, replay::ReplaySource},
    time::{BootTime, WallTime},
    transaction::{Transaction, TransactionBatch, WallRange, watermark::WallLine},
    tui::{Feed, Order, Pace, Playback, Played, SharedStatus, Sought, StatusSink},
};

/// A paced playback hands over events in slices of so much event time, ns: shorter than a screen's frame.
const SLICE_NS: u64 = 50_000_000;
/// Where no more events than this lie before an instant, going there plays all of them, so that the tables are those of the whole recording:
/// 448,157 of them took half a second of CPU (static build, without a screen). Where more do, what is loaded is the window before the instant, and the screen says so.
pub const WHOLE_EVENTS: u64 = 1_000_000;
/// Rows kept whole: what a list can show. Four times what a live run keeps, some 92 MB when full.
const ROWS: usize = 4 * DEFAULT_ROWS;
/// The window that an instant is shown with is loaded with so much before it, so that a look a little further back has it already.
const MARGIN: u64 = 2;
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
                (*goto, *find) = (Some(Goal { at, window_ns, row: None }), None);
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
    Feed {
        histograms: SharedHistograms::default(),
        xlog: SharedXlog::new(tape.xlog_dots),
        recent: SharedRecent::new(ROWS),
        status: SharedStatus::default(),
    }
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
        let range = WallRange { from: self.beginning(&recording, goal), to: self.tape.range.to };
        let metrics = Metrics::default();
        let feed = empty_feed(&self.tape);
        let sinks = Inline::new(
            vec![
                Box::new(HistogramSink::new(feed.histograms.clone())),
                Box::new(XlogSink::new(feed.xlog.clone(), metrics.clone())),
                Box::new(RecentSink::new(feed.recent.clone())),
                Box::new(StatusSink::new(feed.status.clone(), metrics.clone())),
            ],
            metrics.clone(),
        );
        let mut pass = Pass {
            worker: self,
            out: Screen { sinks, last: Snapshot::default(), awaited: goal.and_then(|goal| goal.row) },
            delivery: Delivery::new(self.tape.filter.clone(), Some(range), metrics.clone()),
            feed,
            metrics: metrics.clone(),
            seen_orders: 0,
            goal: goal.map(|goal| goal.at),
            is_shown: false,
            from: range.from.max(bounds.from),
            n_faults: recording.faults.len() as u64,
            wall: range.from.max(bounds.from),
            slice: None,
        };
        {
            let mut state = self.shared.lock();
            state.played.bounds = (bounds.from, bounds.to);
            state.played.ended = false;
        }
        if goal.is_none() {
            pass.show();
        }
        let next = if recording.payload() == PayloadMode::None {
            pass.feed.status.lock().losses.unknown = true;
            pass.rows(&recording, range)?
        } else {
            pass.events(&recording, range)?
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

    /// Where to begin to get to `goal`.
    fn beginning(&self, recording: &Recording, goal: Option<Goal>) -> WallTime {
        let range = self.tape.range;
        let Some(Goal { at, window_ns, .. }) = goal else { return range.from };
        let parts = recording.runs.iter().flat_map(|run| run.events.iter().chain(&run.transactions));
        let before: u64 = parts
            .filter(|part| part.meta.first_time_ns <= at.0 && part.meta.last_time_ns >= range.from.0)
            .map(|part| part.n_rows)
            .sum();
        if before <= self.tape.whole_events {
            return range.from;
        }
        let window_ns = window_ns.saturating_mul(MARGIN);
        WallTime(at.0.saturating_sub(self.lag_ns()).saturating_sub(window_ns)).max(range.from)
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
                *goto = Some(Goal { at, window_ns, row: Some(key) });
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

/// Sinks of the screen, and what they saw last.
struct Screen {
    sinks: Inline,
    last: Snapshot,
    /// The transaction that is waited for.
    awaited: Option<(ConnId, u64)>,
}

impl Out for Screen {
    fn take(&mut self, batch: TransactionBatch, snapshot: Option<Arc<Snapshot>>) {
        if let Some(key) = self.awaited
            && batch.transactions.iter().any(|row| (row.conn, row.ordinal) == key)
        {
            self.awaited = None;
        }
        self.sinks.send(&batch, snapshot.as_deref());
        if let Some(snapshot) = snapshot {
            self.last = Arc::unwrap_or_clone(snapshot);
        }
    }
}

/// One way through the recording.
struct Pass<'a> {
    worker: &'a Worker,
    out: Screen,
    delivery: Delivery,
    feed: Feed,
    metrics: Metrics,
    seen_orders: u64,
    /// Goes there as fast as it can and stops.
    goal: Option<WallTime>,
    /// The screen shows this pass.
    is_shown: bool,
    from: WallTime,
    n_faults: u64,
    /// How far it has come.
    wall: WallTime,
    /// Paced: the end of the slice that is under way, and when and where the pace was taken up.
    slice: Option<(u64, Instant, WallTime, Pace)>,
}

impl Pass<'_> {
    fn events(&mut self, recording: &Recording, range: WallRange) -> anyhow::Result<Option<Next>> {
        let tape = &self.worker.tape;
        let mut source = ReplaySource::open(recording, range, self.metrics.clone())?;
        let metrics = self.metrics.clone();
        let make = || Pipeline::new(tape.pipeline.clone(), metrics.clone(), Box::new(NullVerdicts));
        let mut pipeline = make();
        let mut line = WallLine::default();
        let mut first: Option<BootTime> = None;
        loop {
            let Some(batch) = source.next_batch()? else {
                if !tape.follows {
                    break;
                }
                if let Some(next) = self.wait_for_more(&mut pipeline) {
                    return Ok(Some(next));
                }
                source.follow(&Recording::open(&tape.dir).context("look at the recording again")?);
                continue;
            };
            if let Some(restart) = source.restart() {
                let next = if restart.checkpoint.is_empty() {
                    make()
                } else {
                    let (config, metrics) = (tape.pipeline.clone(), self.metrics.clone());
                    Pipeline::restore(&restart.checkpoint, config, metrics, Box::new(NullVerdicts))
                        .context("continue from a checkpoint of the recording")?
                };
                // Another run, perhaps after another boot: it begins with an anchor, or in its state is one.
                line = next.line().clone();
                let mut rest = std::mem::replace(&mut pipeline, next).finish();
                rest.transactions.retain(|transaction| transaction.is_finished());
                self.delivery.deliver(rest, None, &mut self.out);
            }
            for event in &batch.events {
                if let Event::Anchor(anchor) = event {
                    line.add(*anchor);
                }
                if let Some(time) = Delivery::time_of(event) {
                    let wall = line.at(time).1.wall(time);
                    let first = *first.get_or_insert(time);
                    let elapsed = Duration::from_nanos(time.0.saturating_sub(first.0));
                    if tape.until.is_some_and(|until| elapsed > until) {
                        return Ok(self.over(&mut pipeline, source.faults().1));
                    }
                    if wall >= self.wall
                        && let Some(next) = self.gate(wall, Some(&mut pipeline))
                    {
                        return Ok(Some(next));
                    }
                    self.wall = self.wall.max(wall);
                }
                self.delivery.push(event, &mut pipeline, &mut self.out);
            }
            self.delivery.batch_is_over(&mut pipeline, &mut self.out);
            self.n_faults = recording.faults.len() as u64 + source.faults().1;
            self.tell();
        }
        Ok(self.over(&mut pipeline, source.faults().1))
    }

    /// The end of what was recorded so far.
    fn wait_for_more(&mut self, pipeline: &mut Pipeline) -> Option<Next> {
        // A goal that is not recorded yet is as far as one can get.
        self.look_at(&mut Some(pipeline));
        if self.goal.is_some() || !self.is_shown {
            let reached = self.wall;
            self.arrive();
            self.wall = reached;
            self.tell();
        }
        self.seen_orders = self.worker.shared.n_orders.load(Ordering::Acquire);
        let state = self.worker.shared.lock();
        if !state.quit && state.goto.is_none() && state.find.is_none() {
            let waited = self.worker.shared.wake.wait_timeout(state, FOLLOW_EVERY);
            drop(waited.unwrap_or_else(PoisonError::into_inner));
        } else {
            drop(state);
        }
        let mut state = self.worker.shared.lock();
        if state.quit {
            return Some(Next::Quit);
        }
        if let Some((what, from, window_ns)) = state.find.take() {
            drop(state);
            self.worker.look(what, from, window_ns);
            state = self.worker.shared.lock();
        }
        state.goto.take().map(Next::Goto)
    }

    /// All of it was played: what is in flight becomes `tracer_stopped`; to who looks at the last instant it is in flight.
    fn over(&mut self, pipeline: &mut Pipeline, n_faults: u64) -> Option<Next> {
        self.n_faults = self.n_faults.max(n_faults);
        let Snapshot { n_open, n_long_lived, in_flight, open, connections, .. } = pipeline.snapshot();
        let rest = pipeline.finish();
        let snapshot = pipeline.snapshot();
        let last = Snapshot { n_open, n_long_lived, in_flight, open, connections, ..snapshot };
        self.delivery.deliver(rest, Some(Arc::new(last)), &mut self.out);
        None
    }

    /// Recorded without payload: the transactions as they were.
    fn rows(&mut self, recording: &Recording, range: WallRange) -> anyhow::Result<Option<Next>> {
        let until = self.worker.tape.until.map(|until| u64::try_from(until.as_nanos()).unwrap_or(u64::MAX));
        let mut first: Option<u64> = None;
        for rows in recording.transactions(range) {
            let mut waiting: Vec<Transaction> = Vec::new();
            for row in rows? {
                let start = row.start_time.0;
                let begin = *first.get_or_insert(start);
                if until.is_some_and(|until| row.end_time.0 > begin.saturating_add(until)) {
                    self.hand_over(&mut waiting);
                    return Ok(None);
                }
                let due = self.goal.is_some_and(|goal| row.end_time > goal)
                    || self.slice.is_some_and(|(end, ..)| row.end_time.0 >= end);
                if due {
                    self.hand_over(&mut waiting);
                }
                if row.end_time >= self.wall
                    && let Some(next) = self.gate(row.end_time, None)
                {
                    return Ok(Some(next));
                }
                self.wall = self.wall.max(row.end_time);
                let totals = &mut self.delivery.totals;
                // Wall time stands for boot time: only differences of it are shown.
                let earliest = totals.first.get_or_insert(BootTime(start));
                *earliest = (*earliest).min(BootTime(start));
                totals.last = totals.last.max(BootTime(row.end_time.0));
                waiting.push(row);
            }
            self.hand_over(&mut waiting);
            self.tell();
        }
        Ok(None)
    }

    fn hand_over(&mut self, waiting: &mut Vec<Transaction>) {
        let Some(last) = waiting.last() else { return };
        let watermark = last.end_time;
        let batch = TransactionBatch { transactions: std::mem::take(waiting), watermark };
        self.delivery.deliver(batch, None, &mut self.out);
    }

    /// Before what happened at `wall`: waits as the pace and the orders say. `Some`: this pass is over.
    fn gate(&mut self, wall: WallTime, mut pipeline: Option<&mut Pipeline>) -> Option<Next> {
        let n_orders = self.worker.shared.n_orders.load(Ordering::Acquire);
        let is_late = |goal: WallTime| wall.0 > goal.0.saturating_add(AWAITED_NS);
        let arrives =
            self.goal.is_some_and(|goal| wall > goal && (self.out.awaited.is_none() || is_late(goal)));
        let due = self.goal.is_none() && self.slice.is_some_and(|(end, ..)| wall.0 >= end);
        if n_orders == self.seen_orders && !arrives && !due && (self.slice.is_some() || self.goal.is_some()) {
            return None;
        }
        if arrives {
            self.look_at(&mut pipeline);
            self.arrive();
        }
        loop {
            self.seen_orders = self.worker.shared.n_orders.load(Ordering::Acquire);
            let mut state = self.worker.shared.lock();
            if state.quit {
                return Some(Next::Quit);
            }
            if let Some(goal) = state.goto.take() {
                let Goal { at, window_ns, row } = goal;
                let wanted = at.0.saturating_sub(self.worker.lag_ns()).saturating_sub(window_ns);
                let wanted = WallTime(wanted).max(state.played.bounds.0);
                // Far ahead the next checkpoint is the shorter way.
                let is_near = at.0.saturating_sub(self.wall.0) <= window_ns.saturating_mul(MARGIN);
                if at < self.wall || self.from > wanted || !is_near {
                    return Some(Next::Goto(goal));
                }
                (self.goal, self.out.awaited) = (Some(at), row);
                drop(state);
                if wall > at && row.is_none() {
                    self.look_at(&mut pipeline);
                    self.arrive();
                    continue;
                }
                return None;
            }
            if let Some((what, from, window_ns)) = state.find.take() {
                drop(state);
                self.look_at(&mut pipeline);
                self.worker.look(what, from, window_ns);
                continue;
            }
            if self.goal.is_some() {
                return None;
            }
            let pace = state.played.pace;
            if state.played.paused {
                drop(state);
                self.look_at(&mut pipeline);
                self.slice = None;
                let state = self.worker.shared.lock();
                let calm = self.worker.shared.n_orders.load(Ordering::Acquire) == self.seen_orders;
                if calm {
                    drop(self.worker.shared.wake.wait(state).unwrap_or_else(PoisonError::into_inner));
                }
                continue;
            }
            let Pace::Thousandths(thousandths) = pace else {
                // No slices: looks up at the next order.
                self.slice = Some((u64::MAX, Instant::now(), wall, pace));
                return None;
            };
            let (started, begun) = match self.slice {
                Some((_, started, begun, paced)) if paced == pace => (started, begun),
                _ => (Instant::now(), wall),
            };
            self.slice = Some((wall.0.saturating_add(SLICE_NS), started, begun, pace));
            let event_ns = u128::from(wall.0.saturating_sub(begun.0));
            let due = Duration::from_nanos(
                u64::try_from(event_ns * 1_000 / u128::from(thousandths.max(1))).unwrap_or(u64::MAX),
            );
            let wait = due.saturating_sub(started.elapsed());
            if wait.is_zero() {
                return None;
            }
            drop(state);
            self.look_at(&mut pipeline);
            let state = self.worker.shared.lock();
            if self.worker.shared.n_orders.load(Ordering::Acquire) == self.seen_orders {
                let waited = self.worker.shared.wake.wait_timeout(state, wait);
                drop(waited.unwrap_or_else(PoisonError::into_inner));
            }
        }
    }

    /// The screen gets to see this very instant.
    fn look_at(&mut self, pipeline: &mut Option<&mut Pipeline>) {
        if let Some(pipeline) = pipeline {
            let snapshot = self.delivery.look(pipeline, &mut self.out);
            self.feed.status.lock().look(&snapshot, &self.metrics);
        }
        self.tell();
    }

    fn tell(&self) {
        if self.is_shown {
            let mut state = self.worker.shared.lock();
            state.played.at = self.wall;
        }
    }

    /// The goal is reached.
    fn arrive(&mut self) {
        if let Some(goal) = self.goal.take() {
            self.wall = self.wall.max(goal);
        }
        self.out.awaited = None;
        self.slice = None;
        self.show();
        let mut state = self.worker.shared.lock();
        if state.goto.is_none() {
            state.played.seeking = None;
        }
    }

    /// Makes this pass what the screen shows.
    fn show(&mut self) {
        let mut state = self.worker.shared.lock();
        let State { feed, played, .. } = &mut *state;
        if !self.is_shown {
            *feed = self.feed.clone();
            played.generation += 1;
            self.is_shown = true;
        }
        (played.at, played.from) = (self.wall, self.from);
    }

    /// Leaves behind what it came to.
    fn keep(&self) {
        let mut state = self.worker.shared.lock();
        if self.is_shown {
            state.outcome = Outcome {
                totals: self.delivery.totals,
                snapshot: self.out.last.clone(),
                metrics: self.metrics.clone(),
                n_faults: self.n_faults,
            };
        }
    }

    /// The end of what is recorded: waits for what is wanted next.
    fn rest(mut self) -> Next {
        self.arrive();
        self.keep();
        self.feed.status.finished();
        loop {
            {
                let mut state = self.worker.shared.lock();
                (state.played.ended, state.played.paused) = (true, true);
            }
            let seen = self.worker.shared.n_orders.load(Ordering::Acquire);
            let mut state = self.worker.shared.lock();
            if state.quit {
                return Next::Quit;
            }
            if let Some(goal) = state.goto.take() {
                if goal.at >= self.wall {
                    // There is nothing behind the end.
                    state.played.seeking = None;
                    continue;
                }
                return Next::Goto(goal);
            }
            if let Some((what, from, window_ns)) = state.find.take() {
                drop(state);
                self.worker.look(what, from, window_ns);
                continue;
            }
            if self.worker.shared.n_orders.load(Ordering::Acquire) == seen {
                drop(self.worker.shared.wake.wait(state).unwrap_or_else(PoisonError::into_inner));
            }
        }
    }
}
