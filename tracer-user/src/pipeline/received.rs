//! For whom a thread has received something and not acted yet: what a loop does next is mostly for the one that has waited longest.
//!
//! A loop takes what has come on all its sockets and then goes through it in that order. A call that it makes is for the first of those for which something
//! has come; further ones, where nothing is left, are for the same. An answer tells for certain where the loop is. Before it waits for events again it is
//! through with all. That is a guess, and is told as one.

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

    /// For whom a thread acts next; not for one that is not `open` any more.
    pub(super) fn next(&mut self, thread: (u32, u32), open: impl Fn(&CallId) -> bool) -> Next {
        let Some(waiting) = self.0.get_mut(&thread) else { return Next::Unknown };
        while waiting.queue.front().is_some_and(|whose| whose.is_some_and(|id| !open(&id))) {
            waiting.queue.pop_front();
        }
        match waiting.queue.front().copied().or(waiting.last) {
            Some(None) => Next::Nobody,
            Some(Some(id)) if open(&id) => Next::One(id),
            None | Some(Some(_)) => Next::Unknown,
        }
    }

    /// It has asked something, for the next one.
    pub(super) fn asked(&mut self, thread: (u32, u32)) {
        if let Some(waiting) = self.0.get_mut(&thread)
            && let Some(whose) = waiting.queue.pop_front()
        {
            waiting.last = Some(whose);
        }
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
        self.0.remove(&thread);
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

    #[test]
    fn who_has_waited_longest_is_next_and_an_answer_tells_where_the_thread_is() {
        let (mut received, thread) = (Received::default(), (5, 50));
        let id = |ordinal| CallId { conn: ConnId(1), ordinal };
        let next = |received: &mut Received| received.next(thread, |id| id.ordinal != 9);
        assert_eq!(next(&mut received), Next::Unknown);
        for whose in [Some(id(9)), Some(id(1)), Some(id(1)), None, Some(id(2)), Some(id(3)), Some(id(4))] {
            received.got(thread, whose);
        }
        for want in [Next::One(id(1)), Next::Nobody] {
            assert_eq!(next(&mut received), want);
            received.asked(thread);
        }
        // It answers the third: the second had nothing to ask.
        received.acted(thread, id(3));
        assert_eq!(next(&mut received), Next::One(id(4)));
        received.asked(thread);
        assert_eq!(next(&mut received), Next::One(id(4)), "one more for the same");
        received.idle(thread);
        assert_eq!(next(&mut received), Next::Unknown);
    }
}
