//! Which goroutine serves which request, in programs of Go.
//!
//! Who has received a request on a connection of its own goes on with it (net/http serves each connection so, and drivers of databases write on the goroutine that asks them): what it
//! asks meanwhile is for that one. A goroutine's number is never given twice, so that no other can be meant. It says nothing where it has received several that are not answered, in a
//! process of which one goroutine reads for several connections, on connections with streams beside each other, where one reads and others serve, and where turns are not
//! read as messages: of TLS it is the clear text that counts.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::transaction::CallId;

/// Processes of which it is known that they have loops; beyond it all are forgotten: they show it again.
const MAX_LOOPS: usize = 16_384;

/// The state: as many requests as threads serve.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Goroutines {
    /// What each has received and is not answered, by process and goroutine.
    open: BTreeMap<(u32, u32), Vec<CallId>>,
    /// Who has received it.
    by: BTreeMap<CallId, (u32, u32)>,
    /// Processes in which one goroutine reads for several connections.
    loops: BTreeSet<u32>,
}

impl Goroutines {
    /// A goroutine (0 = none) has received a request. Whether it serves that.
    pub(super) fn begins(&mut self, by: (u32, u32), id: CallId) -> bool {
        if by.1 == 0 || self.loops.contains(&by.0) {
            return false;
        }
        let open = self.open.entry(by).or_default();
        if open.iter().any(|other| other.conn != id.conn) {
            if self.loops.len() >= MAX_LOOPS {
                self.loops.clear();
            }
            self.loops.insert(by.0);
            return false;
        }
        open.push(id);
        self.by.insert(id, by);
        true
    }

    /// What a goroutine serves, and nothing else.
    pub(super) fn serves(&self, by: (u32, u32)) -> Option<CallId> {
        match self.open.get(&by).map(Vec::as_slice) {
            Some(&[id]) if !self.loops.contains(&by.0) => Some(id),
            _ => None,
        }
    }

    /// A request is served no longer.
    pub(super) fn ended(&mut self, id: &CallId) {
        let Some(by) = self.by.remove(id) else { return };
        let Some(open) = self.open.get_mut(&by) else { return };
        open.retain(|other| other != id);
        if open.is_empty() {
            self.open.remove(&by);
        }
    }

    /// A process is gone. Its requests end by themselves.
    pub(super) fn end_process(&mut self, pid: u32) {
        self.loops.remove(&pid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::ConnId;

    fn id(conn: u64, ordinal: u64) -> CallId {
        CallId { conn: ConnId(conn), ordinal }
    }

    #[test]
    fn a_goroutine_serves_what_it_alone_has_received_until_that_has_ended() {
        let mut goroutines = Goroutines::default();
        goroutines.begins((5, 0), id(1, 1));
        assert_eq!(goroutines.serves((5, 0)), None, "none is nobody");
        goroutines.begins((5, 7), id(1, 1));
        goroutines.begins((5, 8), id(2, 1));
        goroutines.begins((6, 7), id(3, 1));
        assert_eq!(goroutines.serves((5, 7)), Some(id(1, 1)));
        assert_eq!(goroutines.serves((6, 7)), Some(id(3, 1)));
        assert_eq!(goroutines.serves((5, 9)), None);
        // A second one behind it, before it is answered.
        goroutines.begins((5, 7), id(1, 2));
        assert_eq!(goroutines.serves((5, 7)), None);
        goroutines.ended(&id(1, 1));
        assert_eq!(goroutines.serves((5, 7)), Some(id(1, 2)));
        for gone in [id(1, 2), id(2, 1), id(3, 1), id(3, 1)] {
            goroutines.ended(&gone);
        }
        assert_eq!(goroutines.serves((5, 7)), None);
        assert!(goroutines.open.is_empty() && goroutines.by.is_empty());
    }

    #[test]
    fn where_one_goroutine_reads_for_several_connections_none_says_anything() {
        let mut goroutines = Goroutines::default();
        // One connection behind the other is no loop.
        goroutines.begins((5, 7), id(1, 1));
        goroutines.ended(&id(1, 1));
        goroutines.begins((5, 7), id(2, 1));
        goroutines.begins((5, 8), id(3, 1));
        assert_eq!(goroutines.serves((5, 7)), Some(id(2, 1)));
        goroutines.begins((5, 7), id(4, 1));
        assert_eq!([(5, 7), (5, 8)].map(|by| goroutines.serves(by)), [None; 2]);
        goroutines.ended(&id(2, 1));
        goroutines.ended(&id(3, 1));
        goroutines.begins((5, 9), id(5, 1));
        assert_eq!(goroutines.serves((5, 9)), None);
        // Another program of the same number.
        goroutines.end_process(5);
        goroutines.begins((5, 9), id(6, 1));
        assert_eq!(goroutines.serves((5, 9)), Some(id(6, 1)));
    }
}
