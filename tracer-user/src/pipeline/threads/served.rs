//! What is known of a request while it is served: by its thread, or by its goroutine.
//!
//! **A goroutine is not its thread.** Where it waits, its thread runs others, and it may go on elsewhere. Which thread it is on shows when it moves bytes. From then on, what that thread does is
//! its doing, until the thread waits for events or for work, or the goroutine moves bytes on another one. From what it asks to the answer it waits for that. What it does otherwise is not known.

use serde::{Deserialize, Serialize};

use super::{Mode, Served, Spent, Thread, Threads};
use crate::{
    time::BootTime,
    transaction::{
        CallId,
        anatomy::{Anatomy, CALLS, KERNEL, RUNQ, Reason, SENDING, USER, of_reason},
    },
};

/// The goroutine that serves a request.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(in crate::pipeline) struct Unit {
    /// There is one.
    pub(super) is_known: bool,
    /// It was on several threads.
    pub(super) has_moved: bool,
    /// What it has asked and is not answered.
    n_asked: u32,
    /// Since when.
    since: BootTime,
    /// What a thread began before this instant is not its doing.
    not_before: BootTime,
}

impl Unit {
    /// Whether it is not what its thread does, in a stretch that began at `from`.
    fn is_elsewhere(&self, from: BootTime) -> bool {
        self.is_known && (self.n_asked > 0 || from < self.not_before)
    }

    /// Whether it waits for what it has asked.
    pub(super) fn asks_now(&self) -> bool {
        self.is_known && self.n_asked > 0
    }

    /// Whether it has left its thread when that waits so: the runtime has nothing to run there, or a timer of its own.
    pub(super) fn leaves(&self, reason: Reason) -> bool {
        self.is_known && matches!(reason, Reason::Poll | Reason::Futex | Reason::Timer)
    }
}

impl Served {
    /// Its thread worked for it, which is a guess where it has others in flight (`among_others`) and no goroutine says so.
    pub(super) fn spend(&mut self, spent: Spent, from: BootTime, among_others: bool) {
        if self.unit.is_elsewhere(from) {
            return;
        }
        let is_guess = among_others && !self.unit.is_known;
        self.parts.add(USER, spent.user_ns, is_guess);
        self.parts.add(KERNEL, spent.kernel_ns, is_guess);
        self.parts.add(RUNQ, spent.runq_ns, is_guess);
        self.owned_ns += spent.whole();
    }

    /// Its thread waited, for it, which is a guess as above.
    pub(super) fn wait(&mut self, ns: u64, reason: Reason, from: BootTime, among_others: bool) {
        if self.unit.is_elsewhere(from) {
            return;
        }
        let on_peer = matches!(reason, Reason::Network | Reason::Poll);
        let is_call = on_peer && self.n_asked > 0;
        let part = match self.mode {
            _ if is_call => CALLS,
            Mode::Sending if on_peer => SENDING,
            _ => of_reason(reason),
        };
        let is_guess = (among_others && !self.unit.is_known) || (is_call && self.asks_guessed);
        self.parts.add(part, ns, is_guess);
    }

    /// What its thread did for others since the last look.
    pub(super) fn look(&mut self, thread: &Thread) {
        let sums = thread.sums();
        let [idle, unknown, busy] = std::array::from_fn(|i| sums[i].saturating_sub(self.base[i]));
        let busy = busy.saturating_sub(self.owned_ns);
        (self.base, self.owned_ns) = (sums, 0);
        if self.unit.is_known {
            // What the thread does is not what it does.
            return;
        }
        self.parts.unattributed_ns += unknown;
        // That it waited while its thread waited for events is certain; that its thread worked for others is not.
        let is_guess = busy > 0 && self.parts.is_shared;
        match self.mode {
            _ if self.n_asked > 0 => self.parts.add(CALLS, idle + busy, is_guess || self.asks_guessed),
            Mode::Sending => self.parts.add(SENDING, idle + busy, is_guess),
            Mode::Waiting => {
                self.parts.add(of_reason(Reason::Poll), idle, false);
                self.parts.add(of_reason(Reason::Busy), busy, is_guess);
            }
        }
    }

    /// The parts of a request that took so long, up to an instant.
    pub(super) fn anatomy(
        &mut self,
        thread: Option<&Thread>,
        at: BootTime,
        duration_ns: u64,
    ) -> Option<Anatomy> {
        self.is_told_all(at);
        let mut parts = match thread {
            Some(thread) if thread.last <= at => {
                self.look(thread);
                self.parts
            }
            None if self.unit.is_known => self.parts,
            // Its thread went on meanwhile.
            _ => match self.answered {
                Some((then, parts)) if then <= at => parts,
                _ => Anatomy::default(),
            },
        };
        if self.is_handed_over || self.unit.is_known {
            // What a thread waited for is not what the request did.
            for reason in [Reason::Poll, Reason::Busy, Reason::Futex, Reason::Network] {
                std::mem::take(&mut parts.off_ns[reason.index()]);
            }
            parts.sending_ns = 0;
        }
        parts.is_shared = self.parts.is_shared;
        parts.is_split = parts.kernel_ns > 0;
        parts.unattributed_ns = 0;
        parts.unattributed_ns = duration_ns.checked_sub(parts.total())?;
        Some(parts.settled())
    }

    /// Its goroutine asks, from this instant on.
    fn asks(&mut self, at: BootTime) {
        if self.unit.n_asked == 0 {
            self.unit.since = at;
        }
        self.unit.n_asked += 1;
    }

    /// What its goroutine has asked is answered.
    pub(super) fn is_told(&mut self, at: BootTime) {
        self.unit.n_asked = self.unit.n_asked.saturating_sub(1);
        if self.unit.n_asked == 0 {
            self.parts.calls_ns += at.0.saturating_sub(self.unit.since.0);
            self.unit.not_before = at;
        }
    }

    /// The same of all that is left.
    fn is_told_all(&mut self, at: BootTime) {
        if self.unit.n_asked > 0 {
            self.unit.n_asked = 1;
            self.is_told(at);
        }
    }
}

impl Threads {
    /// A goroutine moves bytes on a thread: that works for what it serves from now on, and no other does.
    pub(super) fn unit_acts(&mut self, goroutine: (u32, u32), key: (u32, u32), at: BootTime) {
        let Some(id) = self.goroutines.serves(goroutine) else { return };
        let Some(served) = self.served.get_mut(&id).filter(|served| served.unit.is_known) else { return };
        let before = std::mem::replace(&mut served.thread, key);
        if before != key {
            (served.unit.has_moved, served.unit.not_before) = (true, at);
            self.manners.mixed(key.0);
            if let Some(thread) = self.threads.get_mut(&before) {
                thread.open.retain(|other| *other != id);
                if thread.owner == Some(id) {
                    thread.owned_by(None, &mut self.served);
                }
            }
        }
        // Of one that is not followed, or has gone on, it is not known what it does next.
        let Some(thread) = self.threads.get_mut(&key).filter(|thread| thread.last == at) else { return };
        if before != key {
            thread.open.push(id);
        }
        thread.owned_by(Some(id), &mut self.served);
    }

    /// And it asks.
    pub(super) fn unit_asks(&mut self, id: CallId, at: BootTime) {
        if let Some(served) = self.served.get_mut(&id) {
            served.asks(at);
        }
    }

    /// The goroutines of requests, which checkpoints hold apart.
    pub(in crate::pipeline) fn units(&self) -> Vec<(CallId, Unit)> {
        let known = self.served.iter().filter(|(_, served)| served.unit.is_known);
        known.map(|(id, served)| (*id, served.unit)).collect()
    }

    /// Takes them over.
    pub(in crate::pipeline) fn restore_units(&mut self, units: Vec<(CallId, Unit)>) {
        for (id, unit) in units {
            if let Some(served) = self.served.get_mut(&id) {
                served.unit = unit;
            }
        }
    }
}
