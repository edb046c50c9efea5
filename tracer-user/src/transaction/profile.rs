//! The profile of a request: what its time went to, in the order in which it did.
//!
//! The steps of one request that is looked at again, in a replay: they are the differences of its anatomy ([`super::anatomy`]) from one thing that was seen to the next, so
//! that they are the same parts, and the same sum.

use super::anatomy::{Anatomy, N_FIELDS, Reason};
use crate::{
    event::{Direction, OffCpu},
    time::BootTime,
    transaction::{CallId, anatomy},
};

/// Steps that are kept of a request; those behind are added up.
pub const MAX_STEPS: usize = 10_000;

/// What was seen at the end of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Bytes of the request, or of its answer.
    Moved {
        /// Which of both.
        direction: Direction,
        /// How many.
        bytes: u64,
    },
    /// Its thread has waited.
    Waited {
        /// For what; `None` = for a CPU alone.
        reason: Option<Reason>,
        /// A futex's address; 0 = none.
        address: u64,
    },
    /// Something of a call that was made for it.
    Called,
    /// It has ended.
    Ended,
}

impl Seen {
    /// A time off the CPU.
    pub fn waited(off: &OffCpu) -> Seen {
        let reason = anatomy::reason(off);
        let address = if reason == Some(Reason::Futex) { off.argument } else { 0 };
        Seen::Waited { reason, address }
    }
}

/// What a request did from the step before to an instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The instant.
    pub until: BootTime,
    /// The time since, by what it went to.
    pub parts: Anatomy,
    /// What was seen then.
    pub seen: Seen,
}

/// The steps of one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    /// When its first bytes were read.
    pub since: BootTime,
    /// In order of time.
    pub steps: Vec<Step>,
    /// How many more there were, and what they are together.
    pub more: (u64, Anatomy),
    /// All of it was seen.
    pub is_whole: bool,
}

/// Looks at one request.
#[derive(Clone, Debug)]
pub struct Watch {
    /// Which.
    pub id: CallId,
    /// What it had done at the end of the last step.
    last: Anatomy,
    profile: Profile,
}

impl Watch {
    /// Nothing was seen yet.
    pub fn new(id: CallId) -> Watch {
        Watch { id, last: Anatomy::default(), profile: Profile::default() }
    }

    /// It is being served since `since`, and has done this so far.
    pub fn look(&mut self, since: BootTime, at: BootTime, parts: &Anatomy, seen: Seen) {
        if self.profile.is_whole {
            return;
        }
        if self.profile.since != since {
            // What came before was another one's.
            (self.profile, self.last) = (Profile { since, ..Profile::default() }, Anatomy::default());
        }
        let mut added = parts.since(&self.last).fields();
        self.retell(&self.last.since(parts).fields(), &mut added);
        let step = Step { until: at, parts: parts.with_fields(added), seen };
        self.last = *parts;
        if step.parts.total() == 0 && !matches!(seen, Seen::Moved { .. } | Seen::Ended) {
            return;
        }
        if self.profile.steps.len() < MAX_STEPS {
            self.profile.steps.push(step);
        } else {
            self.profile.more.0 += 1;
            self.profile.more.1 = self.profile.more.1.plus(&step.parts);
        }
    }

    /// What was told as one thing and turns out to be another (a wait in a call that sends, when it shows to whom; what another thread did, at the end) is that from
    /// where it was told on. `taken`: parts that are less now; `added`: parts that are more, less what is put back there.
    fn retell(&mut self, taken: &[u64; N_FIELDS], added: &mut [u64; N_FIELDS]) {
        for (field, taken) in taken.iter().enumerate().filter(|(_, taken)| **taken > 0) {
            let mut left = *taken;
            for step in self.profile.steps.iter_mut().rev() {
                let mut fields = step.parts.fields();
                let mut freed = fields[field].min(left);
                left -= freed;
                fields[field] -= freed;
                for (to, added) in fields.iter_mut().zip(added.iter_mut()) {
                    let put = freed.min(*added);
                    (*to, *added, freed) = (*to + put, *added - put, freed - put);
                }
                step.parts = step.parts.with_fields(fields);
                if left == 0 {
                    break;
                }
            }
        }
    }

    /// It has ended, and these are its parts.
    pub fn end(&mut self, since: BootTime, at: BootTime, parts: &Anatomy) {
        self.look(since, at, parts, Seen::Ended);
        self.profile.is_whole = true;
    }

    /// The steps.
    pub fn into_profile(self) -> Profile {
        self.profile
    }
}
