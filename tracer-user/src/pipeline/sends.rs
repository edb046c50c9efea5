//! To whom a call sends, which shows only when it has ended.
//!
//! The call with which an answer begins may wait until the peer takes it, and bytes are told when a call has moved them: while it waits nobody knows whether it
//! answers, asks another one, or moves nothing. So such a wait is one for a peer, and another part of the time when the bytes come.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::transaction::CallId;

/// Threads in such calls that are known; beyond it all are forgotten, counted (`anatomy.forgotten`), and their waits stay those for a peer.
const MAX_SENDING: usize = 16_384;

/// By process and thread: for which request it works, and how long it has waited in the call in which it is.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Sends(BTreeMap<(u32, u32), (CallId, u64)>);

impl Sends {
    /// A thread waited in a call that sends, for a request that is not being answered yet as far as is known. Gives how many were forgotten.
    pub(super) fn waited(&mut self, thread: (u32, u32), of: CallId, ns: u64) -> usize {
        let mut n_forgotten = 0;
        if self.0.len() >= MAX_SENDING && !self.0.contains_key(&thread) {
            n_forgotten = self.0.len();
            self.0.clear();
        }
        let (known, sum) = self.0.entry(thread).or_insert((of, 0));
        if *known != of {
            (*known, *sum) = (of, 0);
        }
        *sum = sum.saturating_add(ns);
        n_forgotten
    }

    /// The call has ended; what it had waited for, and for whom.
    pub(super) fn ended(&mut self, thread: (u32, u32)) -> Option<(CallId, u64)> {
        self.0.remove(&thread)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::ConnId;

    #[test]
    fn what_is_forgotten_for_want_of_room_is_told() {
        let mut sends = Sends::default();
        let id = CallId { conn: ConnId(1), ordinal: 1 };
        let n = (0..MAX_SENDING as u32).map(|tid| sends.waited((1, tid), id, 5)).sum::<usize>();
        assert_eq!((n, sends.waited((1, 0), id, 2)), (0, 0), "one that is known takes no room");
        assert_eq!(sends.waited((2, 0), id, 7), MAX_SENDING);
        assert_eq!([(2, 0), (1, 0)].map(|thread| sends.ended(thread)), [Some((id, 7)), None]);
    }
}
