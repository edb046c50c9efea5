//! Requests of Redis in flight, as far as their replies need it: the plain ones are only counted.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// Requests in flight that are remembered because their reply is read in another way; beyond it nobody
/// knows which reply is whose.
pub const MAX_SPECIAL: usize = 1024;

/// The requests in flight on a connection, oldest first.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct InFlight {
    /// Requests and pushes so far, as pairing counts them.
    n_begun: u64,
    /// Those among them that are not in flight any more.
    n_over: u64,
    /// From this one on nobody knows which reply is whose.
    barrier: Option<u64>,
    /// Those in flight whose reply is read in another way, in their order.
    special: VecDeque<Special>,
    /// A reply came while a later request was in flight too.
    pipelined: bool,
}

/// Requests in flight whose reply is read in another way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Special {
    /// Number of the first.
    first: u64,
    /// How many.
    n: u64,
    kind: SpecialKind,
}

/// How the reply to a request is read, where that is not as usual.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SpecialKind {
    /// Never answered.
    Silent,
    /// So many confirmations; a hash of the first channel.
    Subscribe {
        /// Number.
        n: u64,
        /// Hash ([`hash`]).
        channel: u32,
    },
    /// As many confirmations as there are subscriptions of that sort (its index).
    UnsubscribeAll {
        /// Index.
        which: u8,
    },
    /// The answer never ends.
    Tunnel,
    /// Another database: which one before, and now.
    Select {
        /// Its number, if known.
        before: Option<u16>,
        /// Its number, if it is one.
        now: Option<u16>,
    },
    /// Another version.
    Hello {
        /// RESP3.
        is_resp3: bool,
    },
    /// The connection is as new.
    Reset,
}

/// What a reply answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Nothing is in flight.
    Nothing,
    /// A request like most.
    Plain,
    /// One whose reply is read in another way.
    Special(SpecialKind),
    /// Behind a loss.
    Unknown,
}

/// Names a channel.
pub fn hash(channel: &[u8]) -> u32 {
    crc32fast::hash(channel)
}

impl InFlight {
    /// Within its bounds: a saved one may be anything.
    pub fn is_bounded(&self) -> bool {
        self.special.len() <= MAX_SPECIAL
    }

    /// One more is in flight, or was never meant to be.
    pub fn begin(&mut self, special: Option<SpecialKind>) {
        let at = self.n_begun;
        self.n_begun = self.n_begun.saturating_add(1);
        let Some(kind) = special else { return };
        if kind == SpecialKind::Silent && self.n_over == at {
            self.n_over = self.n_begun;
            return;
        }
        if let Some(last) = self.special.back_mut()
            && kind == SpecialKind::Silent
            && last.kind == kind
            && last.first.saturating_add(last.n) == at
        {
            last.n = last.n.saturating_add(1);
            return;
        }
        if self.special.len() >= MAX_SPECIAL {
            self.barrier = Some(self.barrier.unwrap_or(at));
            self.pipelined = true;
            return;
        }
        self.special.push_back(Special { first: at, n: 1, kind });
    }

    /// No other request in flight changes the database, and none was lost.
    pub fn is_last_select(&self) -> bool {
        let selects = |kind: SpecialKind| matches!(kind, SpecialKind::Select { .. } | SpecialKind::Reset);
        self.barrier.is_none() && !self.special.iter().any(|special| selects(special.kind))
    }

    /// Requests were lost behind those that are known.
    pub fn requests_lost(&mut self) {
        self.barrier = Some(self.barrier.unwrap_or(self.n_begun));
    }

    /// Replies were lost.
    pub fn replies_lost(&mut self) {
        self.barrier = Some(0);
    }

    /// A request begins: without pipelining that means that all before it were answered.
    pub fn synchronize(&mut self) {
        if self.barrier.is_some() && !self.pipelined {
            self.n_over = self.n_begun;
            self.barrier = None;
            self.special.clear();
        }
    }

    /// The next reply answers the oldest of the newest `n`.
    pub fn known(&mut self, n: usize) {
        self.n_over = self.n_begun.saturating_sub(n as u64);
        self.barrier = None;
        self.forget_over();
    }

    /// Behind a loss: the request whose first channel this is. All before it are over.
    pub fn find_subscription(&mut self, channel: &[u8]) -> Option<u64> {
        let hash = hash(channel);
        let (first, n) = self.special.iter().find_map(|special| match special.kind {
            SpecialKind::Subscribe { n, channel } if channel == hash && special.first >= self.n_over => {
                Some((special.first, n))
            }
            _ => None,
        })?;
        self.n_over = first;
        self.barrier = None;
        self.forget_over();
        Some(n)
    }

    /// What the next reply answers.
    pub fn oldest(&mut self) -> Asked {
        self.forget_over();
        if self.barrier.is_some_and(|barrier| self.n_over >= barrier) {
            return Asked::Unknown;
        }
        match self.special.front() {
            _ if self.n_over >= self.n_begun => Asked::Nothing,
            Some(special) if special.first <= self.n_over => Asked::Special(special.kind),
            _ => Asked::Plain,
        }
    }

    /// A reply has begun.
    pub fn answered(&mut self) {
        if self.barrier.is_some_and(|barrier| self.n_over >= barrier) {
            return;
        }
        self.n_over = self.n_over.saturating_add(1).min(self.n_begun);
        self.forget_over();
        self.pipelined |= self.n_over < self.n_begun;
    }

    /// Forgets what is not in flight any more, and steps over what is never answered.
    fn forget_over(&mut self) {
        while let Some(front) = self.special.front() {
            let end = front.first.saturating_add(front.n);
            if end <= self.n_over {
                self.special.pop_front();
            } else if front.kind == SpecialKind::Silent && front.first <= self.n_over {
                self.n_over = end;
                self.special.pop_front();
            } else {
                break;
            }
        }
    }
}
