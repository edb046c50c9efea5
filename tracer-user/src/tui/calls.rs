//! Local calls: the two ends of one request, seen by two traced processes of this host, as one line that opens to two. Pure.
//!
//! Two transactions are the ends of one call when they have both ends of the connection (addresses and ports), its protocol and
//! their number on it in common, were asked the same and answered the same, overlap in time, and no third one could be meant. Unix
//! sockets have no ports to tell them apart; where two network namespaces use the same addresses at the same time, it cannot be told
//! either: such ends stay two.

use std::{collections::BTreeSet, sync::Arc};

use rustc_hash::FxHashMap;

use crate::{event::Role, transaction::Transaction};

/// Clients or servers that may share a key (one port used again and again); beyond it they stay two lines each, so that no list
/// takes long.
const MAX_ALIKE: usize = 256;

/// A line of a list.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// The transaction that is shown, and opened; of a call its client's, as who waited for it saw it.
    pub row: Arc<Transaction>,
    /// The call's other end.
    pub other: Option<Arc<Transaction>>,
    /// Both ends have lines of their own.
    pub unfolded: bool,
}

impl Line {
    /// Both ends in one.
    pub fn is_call(&self) -> bool {
        self.other.is_some() && !self.unfolded
    }

    /// What identifies the call that it is of, whichever of its lines it is.
    pub fn call(&self) -> Option<u64> {
        self.other.as_ref().map(|other| if self.row.role == Role::Client { self.row.seq } else { other.seq })
    }

    /// How much longer the one end took than the other, ns.
    pub fn difference_ns(&self) -> Option<u64> {
        self.other.as_ref().map(|other| self.row.duration_ns.abs_diff(other.duration_ns))
    }
}

type Ends<'a> = (&'a str, u16, &'a str, u16, &'a str, u64);

/// What both ends have in common; `None` where it cannot tell connections apart.
fn key(row: &Transaction) -> Option<Ends<'_>> {
    let (client, server) = (row.client_port?, row.server_port?);
    let known = !row.client_addr.is_empty() && !row.server_addr.is_empty() && row.role != Role::Unknown;
    known.then_some((&*row.client_addr, client, &*row.server_addr, server, row.protocol, row.ordinal))
}

/// Whether two transactions, with equal keys, may be the ends of one call.
fn may_be_ends(client: &Transaction, server: &Transaction) -> bool {
    client.start_time <= server.end_time
        && server.start_time <= client.end_time
        && client.target == server.target
        && (client.status_code == server.status_code
            || client.status_code.is_none()
            || server.status_code.is_none())
}

/// The other end of each, by `seq`, where it is among them and there is no doubt.
pub fn other_ends<'a>(
    rows: impl Iterator<Item = &'a Arc<Transaction>>,
) -> FxHashMap<u64, &'a Arc<Transaction>> {
    // Clients and servers with one key: hardly ever more than one each.
    let mut by_key: FxHashMap<Ends<'a>, [Vec<&'a Arc<Transaction>>; 2]> = FxHashMap::default();
    for row in rows {
        if let Some(key) = key(row) {
            by_key.entry(key).or_default()[usize::from(row.role == Role::Server)].push(row);
        }
    }
    let mut others = FxHashMap::default();
    for [clients, servers] in by_key.values().filter(|ends| ends.iter().all(|rows| rows.len() <= MAX_ALIKE)) {
        for client in clients {
            let mut candidates = servers.iter().filter(|server| may_be_ends(client, server));
            let (Some(server), None) = (candidates.next(), candidates.next()) else { continue };
            // It must be the only one for that one, too.
            if clients.iter().filter(|client| may_be_ends(client, server)).count() == 1 {
                others.insert(client.seq, *server);
                others.insert(server.seq, *client);
            }
        }
    }
    others
}

/// The other end of each of some rows, where it is among `all`: looked for on the same address pairs only.
pub fn ends_of<'a>(
    rows: &[Arc<Transaction>],
    all: impl Iterator<Item = &'a Arc<Transaction>>,
) -> Vec<Option<Arc<Transaction>>> {
    let pair = |row: &Transaction| (row.client_port, row.server_port);
    let (Some(first), Some(lowest), Some(highest)) =
        (rows.first(), rows.iter().map(|row| row.ordinal).min(), rows.iter().map(|row| row.ordinal).max())
    else {
        return Vec::new();
    };
    let may_matter = all.filter(|row| pair(row) == pair(first) && (lowest..=highest).contains(&row.ordinal));
    let others = other_ends(may_matter);
    rows.iter().map(|row| others.get(&row.seq).map(|other| (*other).clone())).collect()
}

/// The lines of a list in its order. A call stands where the first of its ends would; `unfolded`: the calls whose ends have lines of
/// their own. Also the number of calls.
pub fn lines(rows: &[Arc<Transaction>], unfolded: &BTreeSet<u64>) -> (Vec<Line>, u64) {
    let others = other_ends(rows.iter());
    let mut lines = Vec::with_capacity(rows.len());
    let (mut told, mut n_calls) = (BTreeSet::new(), 0);
    for row in rows {
        let Some(other) = others.get(&row.seq).copied() else {
            lines.push(Line { row: row.clone(), other: None, unfolded: false });
            continue;
        };
        let (client, server) = if row.role == Role::Client { (row, other) } else { (other, row) };
        if !told.insert(client.seq) {
            continue;
        }
        n_calls += 1;
        let line = |row: &Arc<Transaction>, other: &Arc<Transaction>, unfolded| Line {
            row: row.clone(),
            other: Some(other.clone()),
            unfolded,
        };
        if unfolded.contains(&client.seq) {
            lines.extend([line(client, server, true), line(server, client, true)]);
        } else {
            lines.push(line(client, server, false));
        }
    }
    (lines, n_calls)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{sink::compliance::transaction, time::WallTime};

    fn end(seq: u64, role: Role, port: u16, ordinal: u64, from: u64, to: u64) -> Arc<Transaction> {
        Arc::new(Transaction {
            role,
            client_port: Some(port),
            ordinal,
            start_time: WallTime(from),
            end_time: WallTime(to),
            duration_ns: to as i64 - from as i64,
            target: None,
            seq,
            ..transaction(seq)
        })
    }

    #[test]
    fn both_ends_of_a_call_are_one_line_that_opens_to_two() {
        let rows = [
            end(1, Role::Server, 1, 0, 20, 80),
            end(2, Role::Client, 1, 0, 10, 90),
            end(3, Role::Client, 2, 0, 10, 90),
        ];
        let seqs =
            |lines: &[Line]| lines.iter().map(|line| (line.row.seq, line.is_call())).collect::<Vec<_>>();
        let (folded, n) = lines(&rows, &BTreeSet::new());
        assert_eq!((seqs(&folded), n), (vec![(2, true), (3, false)], 1));
        assert_eq!((folded[0].difference_ns(), folded[0].call()), (Some(20), Some(2)));
        let (unfolded, n) = lines(&rows, &BTreeSet::from([2]));
        assert_eq!((seqs(&unfolded), n), (vec![(2, false), (1, false), (3, false)], 1));
        assert_eq!(unfolded[1].call(), Some(2));
    }

    #[test]
    fn where_it_cannot_be_told_they_stay_two() {
        let client = end(1, Role::Client, 1, 0, 10, 90);
        let server = end(2, Role::Server, 1, 0, 20, 80);
        let is_pair = |a: &Arc<Transaction>, b: &Arc<Transaction>| !other_ends([a, b].into_iter()).is_empty();
        assert!(is_pair(&client, &server));
        let with = |change: &dyn Fn(&mut Transaction)| {
            let mut row = (*server).clone();
            change(&mut row);
            Arc::new(row)
        };
        for (what, other) in [
            ("another request on it", with(&|row| row.ordinal = 1)),
            (
                "an earlier use of the port",
                with(&|row| (row.start_time, row.end_time) = (WallTime(1), WallTime(9))),
            ),
            ("another target", with(&|row| row.target = Some("/x".into()))),
            ("another answer", with(&|row| row.status_code = Some(500))),
            ("a Unix socket", with(&|row| row.client_port = None)),
            ("no address", with(&|row| row.client_addr = "".into())),
            ("both clients", with(&|row| row.role = Role::Client)),
            ("another protocol", with(&|row| row.protocol = "other")),
        ] {
            assert!(!is_pair(&client, &other), "{what}");
        }
        // The same addresses in another network namespace, at the same time.
        let twin = with(&|row| row.seq = 3);
        assert!(other_ends([&client, &server, &twin].into_iter()).is_empty());
    }

    proptest! {
        #[test]
        fn the_pairs_are_those_that_a_comparison_of_all_with_all_finds(
            rows in prop::collection::vec((any::<bool>(), 0_u16..3, 0_u64..3, 0_u64..40, 0_u64..12), 0..40),
        ) {
            let rows: Vec<_> = rows
                .into_iter()
                .enumerate()
                .map(|(i, (server, port, ordinal, from, took))| {
                    let role = if server { Role::Server } else { Role::Client };
                    end(i as u64, role, port, ordinal, from, from + took)
                })
                .collect();
            let meant = |a: &Transaction, b: &Transaction| {
                let overlap = a.start_time.max(b.start_time) <= a.end_time.min(b.end_time);
                a.role != b.role && a.client_port == b.client_port && a.ordinal == b.ordinal && overlap
            };
            let others = other_ends(rows.iter());
            let mut n_pairs = 0;
            for row in &rows {
                let found: Vec<u64> = rows.iter().filter(|other| meant(row, other)).map(|other| other.seq).collect();
                let want = match found[..] {
                    [only] if rows.iter().filter(|other| meant(other, &rows[only as usize])).count() == 1 => Some(only),
                    _ => None,
                };
                n_pairs += usize::from(want.is_some());
                prop_assert_eq!(others.get(&row.seq).map(|other| other.seq), want);
            }
            let (lines, n_calls) = lines(&rows, &BTreeSet::new());
            prop_assert_eq!((lines.len(), n_calls as usize), (rows.len() - n_pairs / 2, n_pairs / 2));
            let (all, _) = super::lines(&rows, &(0..40).collect());
            let mut seqs: Vec<u64> = all.iter().map(|line| line.row.seq).collect();
            seqs.sort_unstable();
            prop_assert_eq!(seqs, (0..rows.len() as u64).collect::<Vec<_>>(), "unfolded, each has one line");
        }
    }
}
