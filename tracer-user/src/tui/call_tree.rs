//! Calls of functions, and of others, within a request or another call, as a tree: what called what, when, for how long. Pure.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::transaction::{CallId, Transaction};

/// Calls that are shown one by one; of the others their number and the sum of what they took themselves.
pub const MAX_SHOWN: usize = 200;

/// One call.
#[derive(Clone, Debug, PartialEq)]
pub struct TreeStep {
    /// The call.
    pub row: Arc<Transaction>,
    /// How deep it is below what is shown: 1 = called by it.
    pub depth: usize,
    /// Number of the call around it among the steps, from 1; 0 = what is shown.
    pub parent: usize,
    /// From the end of the call before it in the same one, or the beginning of that one, to its own beginning, ns.
    pub gap_ns: u64,
}

/// All that is kept of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CallTree {
    /// Outer ones first, in the order of their beginnings.
    pub steps: Vec<TreeStep>,
    /// Calls that are not among the steps.
    pub n_more: u64,
    /// What those took without calls within them, ns.
    pub more_self_ns: u64,
}

impl CallTree {
    /// What is below `shown` among `rows`.
    pub fn of<'a>(shown: &Transaction, rows: impl Iterator<Item = &'a Arc<Transaction>>) -> CallTree {
        let mut by_parent: FxHashMap<CallId, Vec<&Arc<Transaction>>> = FxHashMap::default();
        for row in rows.filter(|row| row.pid == shown.pid && row.start_time >= shown.start_time) {
            if let Some(parent) = row.parent() {
                by_parent.entry(parent).or_default().push(row);
            }
        }
        let mut tree = CallTree::default();
        let mut open = vec![(id(shown), 0, 0, shown.start_time.0)];
        // Depth first, each level in the order of beginnings: what is to come is on the stack, the next one last.
        let mut waiting: Vec<(&Arc<Transaction>, usize, usize, u64)> = Vec::new();
        while let Some((parent, depth, number, mut before)) = open.pop() {
            let mut inside = by_parent.remove(&parent).unwrap_or_default();
            inside.sort_by_key(|row| (row.start_time, row.ordinal));
            let mut level = Vec::with_capacity(inside.len());
            for row in inside {
                let gap_ns = row.start_time.0.saturating_sub(before);
                before = row.end_time.0;
                level.push((row, depth + 1, number, gap_ns));
            }
            waiting.extend(level.into_iter().rev());
            if let Some((row, depth, parent, gap_ns)) = waiting.pop() {
                let number = if tree.steps.len() < MAX_SHOWN {
                    tree.steps.push(TreeStep { row: row.clone(), depth, parent, gap_ns });
                    tree.steps.len()
                } else {
                    tree.n_more += 1;
                    let whole = row.duration_ns.max(0).unsigned_abs();
                    tree.more_self_ns += row.call.as_ref().map_or(whole, |call| call.self_ns);
                    0
                };
                open.push((id(row), depth, number, row.start_time.0));
            }
        }
        tree
    }
}

fn id(row: &Transaction) -> CallId {
    CallId { conn: row.conn, ordinal: row.ordinal }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        sink::compliance::transaction,
        time::WallTime,
        transaction::{Call, Kind},
    };

    fn call(number: u64, parent: CallId, from: u64, to: u64, self_ns: u64) -> Arc<Transaction> {
        let request = transaction(0);
        let CallId { conn, ordinal } = CallId::of_call(request.pid, request.tid, number);
        Arc::new(Transaction {
            kind: Kind::Function,
            start_time: WallTime(request.start_time.0 + from),
            end_time: WallTime(request.start_time.0 + to),
            duration_ns: (to - from) as i64,
            call: Some(Arc::new(Call { parent: Some(parent), self_ns, ..Call::default() })),
            conn,
            ordinal,
            ..request
        })
    }

    #[test]
    fn calls_stand_below_what_called_them_with_what_lies_between() {
        let request = transaction(0);
        let of = |number| CallId::of_call(request.pid, request.tid, number);
        let root = CallId { conn: request.conn, ordinal: request.ordinal };
        let rows = [
            call(2, of(1), 120, 150, 30),
            call(3, of(1), 160, 190, 30),
            call(1, root, 100, 200, 40),
            call(7, of(9), 0, 10, 10),
            call(4, root, 300, 301, 1),
        ];
        let tree = CallTree::of(&request, rows.iter());
        let short: Vec<_> =
            tree.steps.iter().map(|one| (one.row.ordinal, one.depth, one.parent, one.gap_ns)).collect();
        assert_eq!(short, [(1, 1, 0, 100), (2, 2, 1, 20), (3, 2, 1, 10), (4, 1, 0, 100)]);
        assert_eq!((tree.n_more, tree.more_self_ns), (0, 0));
    }

    #[test]
    fn what_has_no_room_is_summed() {
        let request = transaction(0);
        let root = CallId { conn: request.conn, ordinal: request.ordinal };
        let rows: Vec<_> = (0..MAX_SHOWN as u64 + 7).map(|n| call(n, root, 10 * n, 10 * n + 5, 5)).collect();
        let tree = CallTree::of(&request, rows.iter());
        assert_eq!((tree.steps.len(), tree.n_more, tree.more_self_ns), (MAX_SHOWN, 7, 35));
    }
}
