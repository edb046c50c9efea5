//! For whom a thread has received something and not acted yet: what a loop does next is for the one for which something came last.
//!
//! So do loops that act on what they have received before they receive for another one (Node). Others take what has come on all sockets and then go through
//! it in that order (asyncio); there this is poor. Where nothing is left, a call is for the same as the one before. An answer tells for certain where the
//! loop is, and before it waits for events again it is through with all. That is a guess, and is told as one.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use crate::transaction::CallId;

/// Threads of which this is known; beyond it all are forgotten, and guessed otherwise.
const MAX_THREADS: usize = 16_384;
/// Requests for which a thread may have received something at once; beyond it the oldest is forgotten.
const MAX_WAITING: usize = 256;

/// For whom a thread acts next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// It has received nothing for anyone that is known.
    Unknown,
    /// For nobody: what came was the answer to a call that no request is known to have made.
    Nobody,
    /// For this one.
    One(CallId),
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Waiting {
    /// The oldest first; `None`: for nobody.
    queue: VecDeque<Option<CallId>>,
    /// For whom it acted last.
    last: Option<Option<CallId>>,
}

/// The state, by process and thread.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Received(BTreeMap<(u32, u32), Waiting>);

impl Received {
    /// A thread received something for a request, or (`None`) for nobody known.
    pub(super) fn got(&mut self, thread: (u32, u32), whose: Option<CallId>) {
        if self.0.len() >= MAX_THREADS && !self.0.contains_key(&thread) {
            self.0.clear();
        }
        let waiting = self.0.entry(thread).or_default();
        if waiting.queue.len() >= MAX_WAITING {
            waiting.queue.pop_front();
        }
        // The next piece of the same.
        if waiting.queue.back() != Some(&whose) {
            waiting.queue.push_back(whose);
        }
    }

    /// A thread received the answer to a call. One that serves nothing counts from the first answer on that is for somebody: what another thread had begun goes on there.
    pub(super) fn heard(&mut self, thread: (u32, u32), whose: Option<CallId>, is_serving: bool) {
        if whose.is_some() || is_serving || self.is_known(thread) {
            self.got(thread, whose);
        }
    }

    /// Whether it has received anything.
    pub(super) fn is_known(&self, thread: (u32, u32)) -> bool {
        self.0.contains_key(&thread)
    }

    /// For whom a thread acts next; not for one that is not `open` any more.
    pub(super) fn next(&mut self, thread: (u32, u32), open: impl Fn(&CallId) -> bool) -> Next {
        let Some(waiting) = self.0.get_mut(&thread) else { return Next::Unknown };
        waiting.queue.retain(|whose| whose.is_none_or(|id| open(&id)));
        match waiting.queue.back().copied().or(waiting.last) {
            Some(None) => Next::Nobody,
            Some(Some(id)) if open(&id) => Next::One(id),
            None | Some(Some(_)) => Next::Unknown,
        }
    }

    /// It has asked something, for the next one.
    pub(super) fn asked(&mut self, thread: (u32, u32)) {
        let Some(waiting) = self.0.get_mut(&thread) else { return };
        let whose = waiting.queue.pop_back();
        waiting.last = whose.or(waiting.last);
    }

    /// It has acted for a request, and that is certain: it is through with those before.
    pub(super) fn acted(&mut self, thread: (u32, u32), id: CallId) {
        if let Some(waiting) = self.0.get_mut(&thread)
            && let Some(at) = waiting.queue.iter().position(|whose| *whose == Some(id))
        {
            waiting.queue.drain(..=at);
            waiting.last = Some(Some(id));
        }
    }

    /// It waits for events.
    pub(super) fn idle(&mut self, thread: (u32, u32)) {
        if let Some(waiting) = self.0.get_mut(&thread) {
            waiting.queue.clear();
            waiting.last = None;
        }
    }

    /// A process is gone.
    pub(super) fn end_process(&mut self, pid: u32) {
        self.0.retain(|(process, _), _| *process != pid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::ConnId;

    const THREAD: (u32, u32) = (5, 50);

    fn id(ordinal: u64) -> CallId {
        CallId { conn: ConnId(1), ordinal }
    }

    fn next(received: &mut Received) -> Next {
        received.next(THREAD, |id| id.ordinal != 9)
    }

    #[test]
    fn who_came_last_is_next_and_an_answer_tells_where_the_thread_is() {
        let mut received = Received::default();
        for ordinal in 1..=4 {
            received.got(THREAD, Some(id(ordinal)));
        }
        assert_eq!(next(&mut received), Next::One(id(4)));
        received.asked(THREAD);
        assert_eq!(next(&mut received), Next::One(id(3)));
        // It answers the second: the first had nothing to ask.
        received.acted(THREAD, id(2));
        received.asked(THREAD);
        assert_eq!(next(&mut received), Next::One(id(3)), "one more for the same");
    }

    #[test]
    fn what_is_nobodys_is_that_and_who_has_ended_is_not_next() {
        let mut received = Received::default();
        assert_eq!(next(&mut received), Next::Unknown);
        for whose in [Some(id(1)), Some(id(1)), None, Some(id(9))] {
            received.got(THREAD, whose);
        }
        assert_eq!(next(&mut received), Next::Nobody);
        received.asked(THREAD);
        assert_eq!(next(&mut received), Next::One(id(1)));
        received.asked(THREAD);
        assert_eq!(next(&mut received), Next::One(id(1)), "one more for the same");
        received.idle(THREAD);
        assert_eq!(next(&mut received), Next::Unknown);
    }
}
