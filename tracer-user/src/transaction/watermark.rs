//! The watermark: transactions wait here until nothing earlier can come, and leave in the order of their ends.
//!
//! Order is (end, connection, ordinal) in wall time, as the sinks see it. Wall time may step back; then everything
//! before the step leaves before anything behind it. A number (`seq`) and a name (operation templates) are given on
//! the way out, so that both depend on this order alone.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::{CallId, Transaction, TransactionBatch, record::TransactionMore, template::Templates};
use crate::{
    protocol::Operation,
    time::{Anchor, BootTime, WallTime},
};

/// Anchors kept. One a minute and one per step: the watermark is less than a second behind.
const MAX_ANCHORS: usize = 8;
/// A step back by more than this begins a new epoch. Below the watermark's lag, above what slewing does in a minute.
const STEP_NS: u64 = 100_000_000;

/// Boot time to wall time, piece by piece.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WallLine {
    anchors: VecDeque<(u32, Anchor)>,
}

impl WallLine {
    /// No anchor yet.
    pub fn is_empty(&self) -> bool {
        self.anchors.is_empty()
    }

    /// Takes an anchor; it counts from its own boot time on.
    pub fn add(&mut self, anchor: Anchor) {
        let epoch = match self.anchors.back() {
            None => 0,
            Some(&(epoch, last)) => {
                let back = last.wall(anchor.boot).0.saturating_sub(anchor.wall.0) > STEP_NS;
                epoch + u32::from(back)
            }
        };
        self.anchors.push_back((epoch, anchor));
        if self.anchors.len() > MAX_ANCHORS {
            self.anchors.pop_front();
        }
    }

    /// The anchor in force at `at`, and its epoch. Without any anchor wall time is boot time.
    pub fn at(&self, at: BootTime) -> (u32, Anchor) {
        let found = self.anchors.iter().rev().find(|(_, anchor)| anchor.boot <= at);
        found.or(self.anchors.front()).copied().unwrap_or_default()
    }
}

/// Where a transaction stands in the order: epoch of its end, end, connection, ordinal.
pub type EndKey = (u32, WallTime, u64, u64);

/// Where a transaction stands that ended in `epoch`.
pub fn end_key(epoch: u32, transaction: &Transaction) -> EndKey {
    let Transaction { end_time, conn, ordinal, .. } = transaction;
    (epoch, *end_time, conn.0, *ordinal)
}

/// A transaction without its name and number.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Waiting {
    epoch: u32,
    transaction: Transaction,
    operation: Operation,
}

impl Waiting {
    fn key(&self) -> EndKey {
        end_key(self.epoch, &self.transaction)
    }
}

/// The transactions that wait, and those that may leave.
#[derive(Debug, Default)]
pub struct Watermark {
    waiting: VecDeque<Waiting>,
    ready: Vec<Transaction>,
    next_seq: u64,
    /// Nothing before it may come any more.
    passed: (u32, WallTime),
    reached: WallTime,
    /// Transactions that came too late for their place.
    n_late: u64,
}

/// What a checkpoint holds of it.
#[derive(Serialize, Deserialize)]
pub struct Saved {
    waiting: Vec<Waiting>,
    ready: Vec<Transaction>,
    next_seq: u64,
    passed: (u32, WallTime),
    reached: WallTime,
    n_late: u64,
}

/// What a checkpoint holds of the transactions apart, since version 4: of those that wait, then of those that may leave.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct WatermarkMore(Vec<TransactionMore>);

impl Watermark {
    /// Takes a transaction that ended in `epoch`.
    pub fn push(&mut self, epoch: u32, transaction: Transaction, operation: Operation) {
        let waiting = Waiting { epoch, transaction, operation };
        let key = waiting.key();
        self.n_late += u64::from((key.0, key.1) < self.passed);
        if self.waiting.back().is_none_or(|last| last.key() <= key) {
            self.waiting.push_back(waiting);
            return;
        }
        let at = self.waiting.partition_point(|other| other.key() <= key);
        self.waiting.insert(at, waiting);
    }

    /// Segments were sent again behind a transaction that may still wait here. Whether it does.
    pub fn resent(&mut self, key: EndKey, n: u32) -> bool {
        let at = self.waiting.partition_point(|other| other.key() < key);
        let Some(waiting) = self.waiting.get_mut(at).filter(|waiting| waiting.key() == key) else {
            return false;
        };
        let network = waiting.transaction.network.get_or_insert_default();
        network.retransmits = network.retransmits.saturating_add(n);
        true
    }

    /// Event time has passed `boot`: what ends before it leaves.
    pub fn advance(&mut self, boot: BootTime, line: &WallLine, templates: &mut Templates) {
        let (epoch, anchor) = line.at(boot);
        let passed = (epoch, anchor.wall(boot));
        self.passed = self.passed.max(passed);
        self.reached = self.reached.max(self.passed.1);
        while self
            .waiting
            .front()
            .is_some_and(|front| (front.epoch, front.transaction.end_time) < self.passed)
        {
            self.leave(templates);
        }
    }

    /// End of the input: everything leaves.
    pub fn flush(&mut self, templates: &mut Templates) {
        while let Some(end) = self.waiting.front().map(|front| front.transaction.end_time) {
            self.reached = self.reached.max(WallTime(end.0.saturating_add(1)));
            self.leave(templates);
        }
    }

    fn leave(&mut self, templates: &mut Templates) {
        if let Some(Waiting { mut transaction, operation, .. }) = self.waiting.pop_front() {
            transaction.operation = templates.name(&transaction.service, &operation);
            transaction.seq = self.next_seq;
            self.next_seq += 1;
            self.ready.push(transaction);
        }
    }

    /// What has left since the last call.
    pub fn take(&mut self) -> TransactionBatch {
        // The next batch is about as large: its room need not grow step by step.
        let room = Vec::with_capacity(self.ready.len());
        TransactionBatch { transactions: std::mem::replace(&mut self.ready, room), watermark: self.reached }
    }

    /// Every transaction that ends before it has left.
    pub fn reached(&self) -> WallTime {
        self.reached
    }

    /// Transactions that have left and were not taken.
    pub fn n_ready(&self) -> usize {
        self.ready.len()
    }

    /// Transactions that wait or have not been taken.
    pub fn n_waiting(&self) -> usize {
        self.waiting.len() + self.ready.len()
    }

    /// Transactions whose end was behind the watermark when it became known.
    pub fn n_late(&self) -> u64 {
        self.n_late
    }

    /// For a checkpoint.
    pub fn save(&self) -> Saved {
        Saved {
            waiting: self.waiting.iter().cloned().collect(),
            ready: self.ready.clone(),
            next_seq: self.next_seq,
            passed: self.passed,
            reached: self.reached,
            n_late: self.n_late,
        }
    }

    /// For a checkpoint, behind its old layout.
    pub fn more(&self) -> WatermarkMore {
        WatermarkMore(self.all().map(Transaction::more).collect())
    }

    /// Those that wait, then those that may leave.
    pub fn all(&self) -> impl Iterator<Item = &Transaction> {
        self.waiting.iter().map(|waiting| &waiting.transaction).chain(&self.ready)
    }

    /// One that waits; those that ended last are looked at first.
    pub fn waiting_mut(&mut self, id: CallId) -> Option<&mut Transaction> {
        let CallId { conn, ordinal } = id;
        let mut newest = self.waiting.iter_mut().rev().map(|waiting| &mut waiting.transaction);
        newest.find(|transaction| (transaction.conn, transaction.ordinal) == (conn, ordinal))
    }

    /// The same, to be completed from a checkpoint.
    pub fn all_mut(&mut self) -> impl Iterator<Item = &mut Transaction> {
        self.waiting.iter_mut().map(|waiting| &mut waiting.transaction).chain(&mut self.ready)
    }

    /// From a checkpoint, behind [`Watermark::load`].
    pub fn restore_more(&mut self, more: WatermarkMore) {
        for (transaction, more) in self.all_mut().zip(more.0) {
            transaction.restore_more(more);
        }
    }

    /// From a checkpoint.
    pub fn load(saved: Saved) -> Watermark {
        let Saved { waiting, ready, next_seq, passed, reached, n_late } = saved;
        Watermark { waiting: waiting.into(), ready, next_seq, passed, reached, n_late }
    }
}
