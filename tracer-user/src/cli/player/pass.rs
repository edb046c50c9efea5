//! One way through the recording, from where it begins for an instant on.

use std::{
    sync::{Arc, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use anyhow::Context as _;

use super::{
    AWAITED_NS, FOLLOW_EVERY, Goal, Next, Outcome, SLICE_NS, State, Worker, empty_feed,
    load::{Extent, Load, MARGIN},
};
use crate::{
    cli::delivery::{Delivery, Out},
    event::{ConnId, Event},
    metrics::Metrics,
    pipeline::{LookedFor, NullVerdicts, Pipeline, Snapshot},
    sink::fanout::Inline,
    source::{Source as _, recording::Recording, replay::ReplaySource},
    time::{BootTime, WallTime},
    transaction::{Transaction, TransactionBatch, WallRange, watermark::WallLine},
    tui::{Feed, Pace},
};

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
pub(super) struct Pass<'a> {
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
    load: Load,
    /// The goal that it was begun for.
    asked: Option<Goal>,
    /// The goal of which more of the window can be loaded.
    unfinished: Option<Goal>,
    /// What ends before this was not loaded.
    from: WallTime,
    n_faults: u64,
    /// How far it has come.
    wall: WallTime,
    /// Paced: the end of the slice that is under way, and when and where the pace was taken up.
    slice: Option<(u64, Instant, WallTime, Pace)>,
}

impl<'a> Pass<'a> {
    pub(super) fn new(worker: &'a Worker, recording: &Recording, goal: Option<Goal>, load: Load) -> Pass<'a> {
        let tape = &worker.tape;
        let metrics = Metrics::default();
        let feed = empty_feed(tape);
        let sinks = Inline::new(feed.sinks(&metrics), metrics.clone());
        let range = WallRange { from: load.from, to: tape.range.to };
        let from = load.from.max(recording.summary().range.unwrap_or_default().from);
        Pass {
            worker,
            out: Screen { sinks, last: Snapshot::default(), awaited: goal.and_then(|goal| goal.row) },
            delivery: Delivery::new(
                LookedFor::new(&tape.pipeline.protocols),
                tape.filter.clone(),
                Some(range),
                metrics.clone(),
            ),
            feed,
            metrics,
            seen_orders: 0,
            goal: goal.map(|goal| goal.at),
            is_shown: false,
            load,
            unfinished: goal.filter(|_| load.is_first),
            asked: goal,
            from,
            n_faults: recording.faults.len() as u64,
            wall: from,
            slice: None,
        }
    }

    /// Plays what is loaded, and on from there.
    pub(super) fn play(&mut self, recording: &Recording) -> anyhow::Result<Option<Next>> {
        let Load { from, events_from, .. } = self.load;
        let to = self.worker.tape.range.to;
        if events_from > from {
            match self.stored(recording, WallRange { from, to: events_from }) {
                Ok(None) => {}
                Ok(Some(next)) => return Ok(Some(next)),
                Err(error) => return Ok(Some(self.without_stored(&error))),
            }
        }
        self.delivery.cut_to(WallRange { from: events_from, to });
        self.events(recording, WallRange { from: events_from, to })
    }

    /// Takes the transactions of `range` as they were recorded. `Some`: something else is wanted.
    fn stored(&mut self, recording: &Recording, range: WallRange) -> anyhow::Result<Option<Next>> {
        for rows in recording.transactions(range) {
            let mut rows = rows?;
            rows.retain(Transaction::is_finished);
            self.hand_over(&mut rows);
            if let Some(next) = self.is_abandoned() {
                return Ok(Some(next));
            }
        }
        Ok(None)
    }

    /// Transactions could not be read: the events have them too.
    fn without_stored(&self, error: &anyhow::Error) -> Next {
        let mut state = self.worker.shared.lock();
        let State { played, goto, quit, .. } = &mut *state;
        played.fault = (played.fault.0 + 1, format!("{error:#}; its transactions come from the events"));
        match (*quit, goto.take(), self.asked) {
            (false, Some(goal), _) => Next::Goto(goal),
            (false, None, Some(goal)) => Next::Goto(Goal { extent: Extent::Events, ..goal }),
            _ => Next::Quit,
        }
    }

    /// While it loads: whether something else is wanted.
    fn is_abandoned(&mut self) -> Option<Next> {
        let n_orders = self.worker.shared.n_orders.load(Ordering::Acquire);
        if n_orders == self.seen_orders {
            return None;
        }
        self.seen_orders = n_orders;
        self.ordered()
    }

    /// Where the orders lead, if it is away from here.
    fn ordered(&self) -> Option<Next> {
        let mut state = self.worker.shared.lock();
        if state.quit {
            return Some(Next::Quit);
        }
        if let Some((what, from, window_ns)) = state.find.take() {
            drop(state);
            self.worker.look(what, from, window_ns);
            state = self.worker.shared.lock();
        }
        // While the rest of a window loads: it goes on from what is shown, which is there sooner.
        let goes_on = self.rest_of().filter(|_| !self.is_shown && !state.played.paused);
        let goal = state.goto.take().or(goes_on.map(|goal| Goal { extent: Extent::FirstOnly, ..goal }));
        goal.map(Next::Goto)
    }

    /// Until this pass is shown, another one's smaller part of the same window is: the goal of both.
    fn rest_of(&self) -> Option<Goal> {
        self.asked.filter(|goal| goal.extent == Extent::Whole)
    }

    /// Once it stands still at its goal: the way to the rest of the window.
    fn rest_of_window(&mut self) -> Option<Next> {
        let goal = self.unfinished.take()?;
        Some(Next::Goto(Goal { extent: Extent::Whole, ..goal }))
    }

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
                if first.is_none() && self.load.events_from > self.load.from {
                    // What was lost before was not lost now.
                    self.feed.status.lock().resume(&next.snapshot(), &self.metrics);
                }
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
                    // What was read as it was recorded is a part of the time that was loaded.
                    let stored_ns = self.load.events_from.0 - self.load.from.0;
                    self.delivery.totals.first.get_or_insert(BootTime(first.0.saturating_sub(stored_ns)));
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
            if self.worker.shared.lock().played.paused
                && let Some(next) = self.rest_of_window()
            {
                return Some(next);
            }
        }
        self.seen_orders = self.worker.shared.n_orders.load(Ordering::Acquire);
        let state = self.worker.shared.lock();
        if !state.quit && state.goto.is_none() && state.find.is_none() {
            let waited = self.worker.shared.wake.wait_timeout(state, FOLLOW_EVERY);
            drop(waited.unwrap_or_else(PoisonError::into_inner));
        } else {
            drop(state);
        }
        self.ordered()
    }

    /// All of it was played: what is in flight becomes `tracer_stopped`; to who looks at the last instant it is in flight.
    fn over(&mut self, pipeline: &mut Pipeline, n_faults: u64) -> Option<Next> {
        self.n_faults = self.n_faults.max(n_faults);
        pipeline.settle();
        let Snapshot { n_open, n_long_lived, n_left_out, in_flight, open, connections, .. } =
            pipeline.snapshot();
        let rest = pipeline.finish();
        let snapshot = pipeline.snapshot();
        let last = Snapshot { n_open, n_long_lived, n_left_out, in_flight, open, connections, ..snapshot };
        self.delivery.deliver(rest, Some(Arc::new(last)), &mut self.out);
        None
    }

    /// Recorded without payload: the transactions as they were.
    pub(super) fn rows(&mut self, recording: &Recording) -> anyhow::Result<Option<Next>> {
        // The counters that would tell are among the events.
        self.feed.status.lock().losses.unknown = true;
        let range = WallRange { from: self.load.from, to: self.worker.tape.range.to };
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
        if self.rest_of().is_some()
            && !self.is_shown
            && !arrives
            && let Some(next) = self.is_abandoned()
        {
            return Some(next);
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
                let Goal { at, window_ns, row, .. } = goal;
                let wanted = at.0.saturating_sub(self.worker.lag_ns()).saturating_sub(window_ns);
                let wanted = WallTime(wanted).max(state.played.bounds.0);
                // Far ahead the next checkpoint is the shorter way.
                let is_near = at.0.saturating_sub(self.wall.0) <= window_ns.saturating_mul(MARGIN);
                if at < self.wall || self.from > wanted || !is_near {
                    return Some(Next::Goto(goal));
                }
                (self.goal, self.out.awaited) = (Some(at), row);
                self.unfinished = self.unfinished.map(|_| goal);
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
                if let Some(next) = self.rest_of_window() {
                    return Some(next);
                }
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
    pub(super) fn show(&mut self) {
        let mut state = self.worker.shared.lock();
        let State { feed, played, .. } = &mut *state;
        if !self.is_shown {
            *feed = self.feed.clone();
            played.generation += 1;
            self.is_shown = true;
        }
        (played.at, played.from, played.is_loading) = (self.wall, self.from, self.unfinished.is_some());
    }

    /// Leaves behind what it came to.
    pub(super) fn keep(&self) {
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
    pub(super) fn rest(mut self) -> Next {
        self.arrive();
        self.keep();
        self.feed.status.finished();
        loop {
            {
                let mut state = self.worker.shared.lock();
                (state.played.ended, state.played.paused) = (true, true);
                if state.goto.is_none()
                    && let Some(next) = self.rest_of_window()
                {
                    return next;
                }
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
