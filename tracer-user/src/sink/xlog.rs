//! The XLog: one compact dot per finished transaction in a ring, numbered; what falls out becomes counts per cell.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{Sink, SinkError};
use crate::{
    event::Role,
    metrics::{Counter, Metrics},
    time::WallTime,
    transaction::{End, Kind, Transaction, TransactionBatch},
};

/// What a dot is painted as, least important first: where dots share a cell the greatest wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Class {
    /// Nothing special.
    Normal = 0,
    /// A tunnel, upgraded connection or stream.
    LongLived = 1,
    /// Answered with a client error (4xx), which is none of the server's.
    ClientError = 2,
    /// Given up as stuck.
    Stuck = 3,
    /// No answer: closed, reset, exited.
    Aborted = 4,
    /// Answered, with an error for its role.
    Error = 5,
}

impl Class {
    /// All, in order.
    pub const ALL: [Class; 6] =
        [Class::Normal, Class::LongLived, Class::ClientError, Class::Stuck, Class::Aborted, Class::Error];

    /// Of a transaction.
    pub fn of(transaction: &Transaction) -> Class {
        match transaction.end {
            End::Stuck => Class::Stuck,
            End::Closed | End::Reset | End::Exited | End::Unwound => Class::Aborted,
            End::Answered | End::Upgraded | End::TracerStopped => {
                if transaction.error {
                    Class::Error
                } else if matches!(transaction.status_code, Some(400..500)) {
                    Class::ClientError
                } else if transaction.kind == Kind::LongLived {
                    Class::LongLived
                } else {
                    Class::Normal
                }
            }
        }
    }

    /// Whether it is counted among the errors of a chart.
    pub fn is_error(self) -> bool {
        self >= Class::Aborted
    }
}

/// One dot: 24 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dot {
    /// End, wall clock.
    end_ns: u64,
    /// Duration in the low 48 bits (78 h, then saturated), class and role above.
    packed: u64,
    /// `Transaction::seq`.
    seq: u64,
}

const DURATION_BITS: u32 = 48;
const DURATION_MASK: u64 = (1 << DURATION_BITS) - 1;

impl Dot {
    fn of(transaction: &Transaction) -> Dot {
        let duration = transaction.duration_ns.max(0).unsigned_abs().min(DURATION_MASK);
        let role = match transaction.role {
            Role::Client => 1_u64,
            Role::Server => 2,
            Role::Unknown => 0,
        };
        let class = Class::of(transaction) as u64;
        Dot {
            end_ns: transaction.end_time.0,
            packed: duration | class << DURATION_BITS | role << (DURATION_BITS + 8),
            seq: transaction.seq,
        }
    }

    /// End.
    pub fn end(self) -> WallTime {
        WallTime(self.end_ns)
    }

    /// Elapsed, ns.
    pub fn duration_ns(self) -> u64 {
        self.packed & DURATION_MASK
    }

    /// How it is painted.
    pub fn class(self) -> Class {
        let number = usize::from((self.packed >> DURATION_BITS) as u8);
        Class::ALL.get(number).copied().unwrap_or(Class::Error)
    }

    /// The traced process's part.
    pub fn role(self) -> Role {
        match (self.packed >> (DURATION_BITS + 8)) as u8 {
            1 => Role::Client,
            2 => Role::Server,
            _ => Role::Unknown,
        }
    }

    /// Number of its transaction in the run.
    pub fn seq(self) -> u64 {
        self.seq
    }
}

const _: () = assert!(size_of::<Dot>() == 24);

/// Rows of an old column: powers of two of the duration from 1 µs (2^10 ns); the last holds everything longer (2^42 ns
/// = 73 min).
pub const OLD_ROWS: usize = 33;
/// Old columns kept, one second each: an hour. 3,600 × 2 roles × 33 × 6 classes × 4 bytes = 5.7 MB.
pub const OLD_COLUMNS: usize = 3_600;

/// Counts per cell of one second that (in part) fell out of the ring.
#[derive(Clone, Debug, PartialEq, Eq)]
struct OldColumn {
    /// Second of event time since the epoch.
    second: u64,
    /// Counts by role (0 = server or not known, 1 = client), row and [`Class`].
    cells: Box<[[[u32; Class::ALL.len()]; OLD_ROWS]; 2]>,
}

/// Dots that fell out of the ring together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OldDots {
    /// About when they ended.
    pub end: WallTime,
    /// About how long they took, ns: known to a power of two.
    pub duration_ns: u64,
    /// How they are painted.
    pub class: Class,
    /// The traced process's part.
    pub role: Role,
    /// How many.
    pub n: u64,
}

/// The duration that stands for an old column's row, ns: the middle of its power of two.
pub fn old_row_duration(row: usize) -> u64 {
    if row == 0 { 512 } else { 3 << (row + 9) }
}

/// The row of an old column that a duration falls into.
pub fn old_row(duration_ns: u64) -> usize {
    ((u64::BITS - duration_ns.leading_zeros()) as usize).saturating_sub(11).min(OLD_ROWS - 1)
}

/// The ring.
#[derive(Debug)]
pub struct Xlog {
    dots: VecDeque<Dot>,
    capacity: usize,
    /// Dots ever pushed: the number of the next dot.
    next: u64,
    old: VecDeque<OldColumn>,
    watermark: WallTime,
}

impl Xlog {
    /// An empty ring of at most `capacity` dots (at least one). Memory grows with use up to 24 bytes each.
    pub fn new(capacity: usize) -> Xlog {
        Xlog {
            dots: VecDeque::new(),
            capacity: capacity.max(1),
            next: 0,
            old: VecDeque::new(),
            watermark: WallTime(0),
        }
    }

    /// Puts a transaction's dot in, if it draws one. Returns how many dots fell out (0 or 1).
    pub fn push(&mut self, transaction: &Transaction) -> u64 {
        if !transaction.is_finished() {
            return 0;
        }
        let mut evicted = 0;
        if self.dots.len() >= self.capacity
            && let Some(dot) = self.dots.pop_front()
        {
            self.retire(dot);
            evicted = 1;
        }
        self.dots.push_back(Dot::of(transaction));
        self.next += 1;
        evicted
    }

    /// Of what ended before this, no dots are kept; 0: none has fallen out yet.
    pub fn kept_from(&self) -> WallTime {
        let has_all = self.dots.len() as u64 == self.next;
        self.dots.front().filter(|_| !has_all).map_or(WallTime(0), |dot| dot.end())
    }

    fn retire(&mut self, dot: Dot) {
        let second = dot.end_ns / 1_000_000_000;
        // Dots leave in the order of their end, so the column is the last one or a new one.
        if self.old.back().is_none_or(|column| column.second != second) {
            if self.old.len() >= OLD_COLUMNS {
                self.old.pop_front();
            }
            self.old.push_back(OldColumn { second, cells: Box::new([[[0; Class::ALL.len()]; OLD_ROWS]; 2]) });
        }
        if let Some(column) = self.old.back_mut() {
            let client = usize::from(dot.role() == Role::Client);
            let count = &mut column.cells[client][old_row(dot.duration_ns())][dot.class() as usize];
            *count = count.saturating_add(1);
        }
    }

    /// The dots whose end lies in `from..to`, in order, without copying them.
    pub fn dots(&self, from: WallTime, to: WallTime) -> impl Iterator<Item = Dot> + '_ {
        let start = self.dots.partition_point(|dot| dot.end_ns < from.0);
        let end = self.dots.partition_point(|dot| dot.end_ns < to.0);
        self.dots.range(start..end.max(start)).copied()
    }

    /// What fell out of the ring in the seconds of `from..to`. Each has no time of its own any more: it is in the middle of its second, or
    /// just before `to`, whichever is earlier.
    pub fn old(&self, from: WallTime, to: WallTime) -> impl Iterator<Item = OldDots> + '_ {
        let last = to.0.saturating_sub(1);
        let seconds = from.0 / 1_000_000_000..=last / 1_000_000_000;
        let columns = self.old.iter().rev().skip_while({
            let to = *seconds.end();
            move |column| column.second > to
        });
        columns.take_while(move |column| seconds.contains(&column.second)).flat_map(move |column| {
            let end = WallTime((column.second * 1_000_000_000 + 500_000_000).min(last));
            let roles = [Role::Server, Role::Client].into_iter().zip(column.cells.iter());
            roles.flat_map(move |(role, rows)| {
                rows.iter().enumerate().flat_map(move |(row, counts)| {
                    let duration_ns = old_row_duration(row);
                    Class::ALL
                        .into_iter()
                        .zip(counts)
                        .filter(|(_, n)| **n != 0)
                        .map(move |(class, n)| OldDots { end, duration_ns, class, role, n: u64::from(*n) })
                })
            })
        })
    }

    /// Numbers of the oldest dot held and of the next to come: `next − oldest` are held, `oldest` fell out.
    pub fn numbers(&self) -> std::ops::Range<u64> {
        self.next - self.dots.len() as u64..self.next
    }

    /// Event time up to which every dot is in.
    pub fn watermark(&self) -> WallTime {
        self.watermark
    }

    /// Moves event time on.
    pub fn advance(&mut self, watermark: WallTime) {
        self.watermark = self.watermark.max(watermark);
    }
}

/// An [`Xlog`] that a sink fills and a screen reads.
#[derive(Clone, Debug)]
pub struct SharedXlog(Arc<Mutex<Xlog>>);

impl SharedXlog {
    /// An empty one.
    pub fn new(capacity: usize) -> SharedXlog {
        SharedXlog(Arc::new(Mutex::new(Xlog::new(capacity))))
    }

    /// Reads; the sink waits meanwhile (its queue takes that up).
    pub fn lock(&self) -> MutexGuard<'_, Xlog> {
        // The ring stays whole if a reader panics, so a poisoned lock is as good as any.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Fills a [`SharedXlog`].
#[derive(Debug)]
pub struct XlogSink {
    xlog: SharedXlog,
    metrics: Metrics,
}

impl XlogSink {
    /// Fills `xlog` and counts in `metrics` what falls out.
    pub fn new(xlog: SharedXlog, metrics: Metrics) -> XlogSink {
        XlogSink { xlog, metrics }
    }
}

impl Sink for XlogSink {
    fn name(&self) -> &'static str {
        "xlog"
    }

    fn write(&mut self, batch: &TransactionBatch) -> Result<(), SinkError> {
        let mut xlog = self.xlog.lock();
        let evicted = batch.transactions.iter().map(|transaction| xlog.push(transaction)).sum();
        self.metrics.add(Counter::XlogEvicted, evicted);
        Ok(())
    }

    fn advance(&mut self, watermark: WallTime) -> Result<(), SinkError> {
        self.xlog.lock().advance(watermark);
        Ok(())
    }

    fn finish(&mut self) -> Result<(), SinkError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::compliance::{self, transaction};

    #[test]
    fn a_dot_says_what_its_transaction_said() {
        let dot = Dot::of(&Transaction { error: true, role: Role::Client, seq: 1 << 50, ..transaction(7) });
        assert_eq!(dot.end(), transaction(7).end_time);
        assert_eq!(dot.duration_ns() as i64, transaction(7).duration_ns);
        assert_eq!((dot.class(), dot.role(), dot.seq()), (Class::Error, Role::Client, 1 << 50));
        for (class, one) in Class::ALL.into_iter().zip(one_of_each_class()) {
            assert_eq!((class, Dot::of(&one).class()), (Class::of(&one), class));
        }
    }

    /// A transaction of each class, in the order of the classes.
    fn one_of_each_class() -> [Transaction; 6] {
        let normal = transaction(0);
        [
            normal.clone(),
            Transaction { kind: Kind::LongLived, end: End::Upgraded, ..normal.clone() },
            Transaction { status_code: Some(404), ..normal.clone() },
            Transaction { end: End::Stuck, error: true, ..normal.clone() },
            Transaction { end: End::Reset, error: true, ..normal.clone() },
            Transaction { status_code: Some(503), error: true, ..normal },
        ]
    }

    #[test]
    fn a_4xx_is_an_error_where_it_is_one_of_its_role_and_a_client_error_elsewhere() {
        let class = |status_code, end, error| {
            Class::of(&Transaction { status_code: Some(status_code), end, error, ..transaction(0) })
        };
        assert_eq!(class(399, End::Answered, false), Class::Normal);
        assert_eq!(class(400, End::Answered, false), Class::ClientError);
        assert_eq!(class(499, End::Answered, false), Class::ClientError);
        assert_eq!(class(500, End::Answered, true), Class::Error);
        // Of the one that asked.
        assert_eq!(class(404, End::Answered, true), Class::Error);
        // The rest of the answer never came.
        assert_eq!(class(404, End::Reset, true), Class::Aborted);
    }

    #[test]
    fn what_falls_out_of_the_ring_keeps_its_class() {
        let mut xlog = Xlog::new(1);
        for (i, one) in one_of_each_class().into_iter().enumerate() {
            for _ in 0..=i {
                xlog.push(&one);
            }
        }
        xlog.push(&transaction(0));
        let old = xlog.old(WallTime(0), WallTime(u64::MAX));
        let counts: Vec<_> = old.map(|old| (old.class, old.n)).collect();
        assert_eq!(counts, Class::ALL.into_iter().zip(1..).collect::<Vec<_>>());
    }

    #[test]
    fn ends_without_an_answer_are_aborted_and_stuck_is_stuck() {
        let class = |end, kind, error| Class::of(&Transaction { end, kind, error, ..transaction(0) });
        for end in [End::Closed, End::Reset, End::Exited] {
            assert_eq!(class(end, Kind::Request, true), Class::Aborted);
        }
        assert_eq!(class(End::Stuck, Kind::Request, true), Class::Stuck);
        assert_eq!(class(End::Upgraded, Kind::LongLived, false), Class::LongLived);
        assert_eq!(class(End::Answered, Kind::LongLived, true), Class::Error);
        assert_eq!(class(End::Answered, Kind::Request, false), Class::Normal);
    }

    #[test]
    fn what_falls_out_is_counted_in_cells_and_nothing_vanishes() {
        let metrics = Metrics::default();
        let shared = SharedXlog::new(100);
        let mut sink = XlogSink::new(shared.clone(), metrics.clone());
        for batch in compliance::batches(9) {
            sink.write(&batch).unwrap();
        }
        let xlog = shared.lock();
        let held = xlog.dots(WallTime(0), WallTime(u64::MAX)).count() as u64;
        let old: u64 = xlog.old(WallTime(0), WallTime(u64::MAX)).map(|old| old.n).sum();
        assert_eq!((held, old), (100, 500));
        assert_eq!(metrics.get(Counter::XlogEvicted), 500);
        assert_eq!(xlog.numbers(), 500..600);
    }

    #[test]
    fn a_window_gives_the_dots_that_end_in_it() {
        let mut xlog = Xlog::new(1_000);
        for i in 0..100 {
            xlog.push(&Transaction { end_time: WallTime(1_000 + i * 10), ..transaction(i) });
        }
        let seqs: Vec<u64> = xlog.dots(WallTime(1_100), WallTime(1_130)).map(Dot::seq).collect();
        assert_eq!(seqs, [10, 11, 12]);
        assert_eq!(xlog.dots(WallTime(5), WallTime(1)).count(), 0);
    }

    #[test]
    fn a_transaction_that_only_the_tracer_ended_draws_no_dot() {
        let mut xlog = Xlog::new(10);
        xlog.push(&Transaction { end: End::TracerStopped, ..transaction(0) });
        assert_eq!(xlog.numbers(), 0..0);
    }

    #[test]
    fn old_rows_are_powers_of_two_from_a_microsecond() {
        assert_eq!(old_row(0), 0);
        assert_eq!(old_row(1_023), 0);
        assert_eq!(old_row(2_048), 1);
        assert_eq!(old_row(u64::MAX), OLD_ROWS - 1);
        assert!((0..OLD_ROWS).all(|row| old_row(old_row_duration(row)) == row));
        assert!((1..60).all(|bits| old_row(1 << bits) >= old_row((1 << bits) - 1)));
    }

    #[test]
    fn the_sink_complies() {
        compliance::check(|| {
            let xlog = SharedXlog::new(150);
            let read = xlog.clone();
            let output = move || {
                let xlog = read.lock();
                let dots = xlog.dots(WallTime(0), WallTime(u64::MAX));
                let text: String = dots.map(|dot| format!("{dot:?}")).collect();
                format!("{text}{:?}{:?}", xlog.numbers(), xlog.watermark()).into_bytes()
            };
            (XlogSink::new(xlog, Metrics::default()), output)
        });
    }
}
