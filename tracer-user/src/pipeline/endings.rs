//! Requests whose connection does not tell that they are over: their process has ended, or they take too long.

use rustc_hash::FxHashMap;

use super::Pipeline;
use crate::{
    event::{Process, ProcessChange},
    time::BootTime,
};

/// How long after a process's end its requests wait for the close of their connections.
const EXIT_GRACE_NS: u64 = 200_000_000;
/// Requests that are stuck are looked for at most this often.
const STUCK_EVERY_NS: u64 = 200_000_000;

impl Pipeline {
    pub(super) fn process(&mut self, process: &Process) {
        if process.change != ProcessChange::Start {
            self.end_calls_of(process.pid, process.time);
        }
        if process.change == ProcessChange::Exit {
            self.rest.processes.end(process.pid, process.time);
            self.rest.threads.end_process(process.pid);
            let due = BootTime(process.time.0.saturating_add(EXIT_GRACE_NS));
            self.rest.state.exits.push_back((due, process.pid, process.time));
        }
    }

    /// Requests of processes that ended and whose connections did not tell.
    pub(super) fn end_exited(&mut self, now: BootTime) {
        if self.rest.state.exits.front().is_none_or(|front| front.0 > now) {
            return;
        }
        let mut due = FxHashMap::default();
        while let Some(&(at, pid, time)) = self.rest.state.exits.front()
            && at <= now
        {
            self.rest.state.exits.pop_front();
            due.insert(pid, time);
        }
        for entry in self.tracker.iter_mut().filter(|entry| entry.exchange.pairs().n_open() > 0) {
            let mut ended: Vec<(u32, BootTime)> = entry
                .exchange
                .open()
                .filter_map(|open| due.get(&open.pid).map(|time| (open.pid, *time)))
                .collect();
            ended.dedup();
            for (pid, time) in ended {
                self.rest.with(entry, |exchange, _, turnover| {
                    exchange.pairs_mut().end_process(pid, time, turnover.fx);
                });
            }
        }
    }

    pub(super) fn end_stuck(&mut self, now: BootTime) {
        let state = &mut self.rest.state;
        let due = state.next_stuck.is_some_and(|due| due <= now);
        if !due || now.0.saturating_sub(state.last_stuck.0) < STUCK_EVERY_NS {
            return;
        }
        state.last_stuck = now;
        let after = self.rest.config.stuck_after_ns;
        let mut next: Option<BootTime> = None;
        for entry in self.tracker.iter_mut() {
            let Some(since) = entry.exchange.pairs().waiting_since() else { continue };
            if since.0.saturating_add(after) <= now.0 {
                self.rest.lose_doubtful(entry);
                self.rest.with(entry, |exchange, _, turnover| {
                    exchange.pairs_mut().end_stuck(now, after, turnover.fx);
                });
            }
            if let Some(since) = entry.exchange.pairs().waiting_since() {
                let due = BootTime(since.0.saturating_add(after));
                next = Some(next.map_or(due, |next| next.min(due)));
            }
        }
        self.rest.state.next_stuck = next;
    }
}
