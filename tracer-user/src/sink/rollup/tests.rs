//! Rollups against the transactions that they are of.

use proptest::prelude::*;

use super::*;
use crate::{
    event::{Counters, Role},
    sink::{
        compliance::{self, transaction},
        histogram::OVERFLOW,
    },
    time::BootTime,
    transaction::{
        End, Kind, Transaction, WallRange,
        rollup::{Interval, Resolution, ServiceSums, Sums},
    },
};

const SECOND: u64 = 1_000_000_000;
/// The last second of an hour.
const START: u64 = (472_223 * 3_600 - 1) * SECOND;

fn snapshot(at: u64, n_open: u64, lost: Option<u64>) -> Snapshot {
    let counters = lost.map(|lost| {
        let values = vec![
            ("kernel.refused_data".into(), lost),
            ("lost.sink_write".into(), 99),
            ("gauge.lost".into(), 7),
        ];
        Counters { time: BootTime(at), values }.into()
    });
    Snapshot { wall: WallTime(at), n_open, counters, ..Snapshot::default() }
}

/// What a run commits, and what is kept of it.
#[derive(Default)]
struct Fed {
    commit: Commit,
    rollups: Rollups,
    closed: Closed,
}

impl Fed {
    fn take(&mut self, closed: Closed) {
        self.rollups.take(&closed);
        self.closed.extend(closed);
    }

    /// Four looks a second from `from` to `to`, with everything that ended in between, as a run has it.
    fn pass(&mut self, from: u64, to: u64, transactions: &[Transaction]) {
        for at in (from..=to).step_by(SECOND as usize / 4) {
            self.commit.observe(&snapshot(at, at / SECOND % 7, None));
            // Half a second behind.
            let mark = at - SECOND / 2;
            let until = if at == to { to } else { mark };
            let before = until.saturating_sub(if at == to { 3 * SECOND / 4 } else { SECOND / 4 });
            for row in transactions.iter().filter(|row| (before..until).contains(&row.end_time.0)) {
                self.commit.record(row);
            }
            let closed = self.commit.close_late();
            self.take(closed);
            let closed = self.commit.advance(WallTime(mark));
            self.take(closed);
        }
    }

    fn finish(&mut self) {
        let closed = self.commit.finish();
        self.take(closed);
    }

    /// Everything of one length that was handed to the recording, merged by `by`.
    fn closed(&self, resolution: Resolution, by: Resolution) -> Vec<Interval> {
        let mut all: Vec<Interval> = Vec::new();
        let mut of_length: Vec<&Interval> =
            self.closed.iter().filter(|(length, _)| *length == resolution).map(|(_, i)| i).collect();
        of_length.sort_by_key(|interval| interval.start);
        for interval in of_length {
            let start = by.begin(interval.start);
            if all.last().is_none_or(|last| last.start != start) {
                all.push(Interval::new(start));
            }
            all.last_mut().unwrap().merge(interval);
        }
        all
    }

    fn kept(&self, resolution: Resolution) -> Vec<Interval> {
        self.rollups.intervals(resolution, WallRange::default()).cloned().collect()
    }
}

/// The sums of the transactions themselves.
fn direct(transactions: &[Transaction], by: Resolution) -> Vec<(WallTime, Vec<ServiceSums>)> {
    let mut all: Vec<(WallTime, Vec<ServiceSums>)> = Vec::new();
    let mut sorted: Vec<&Transaction> = transactions.iter().filter(|row| row.is_finished()).collect();
    sorted.sort_by_key(|row| row.end_time);
    for row in sorted {
        let start = by.begin(row.end_time);
        if all.last().is_none_or(|(last, _)| *last != start) {
            all.push((start, Vec::new()));
        }
        let rows = &mut all.last_mut().unwrap().1;
        let at = match rows.iter().position(|known| known.service == row.service && known.role == row.role) {
            Some(at) => at,
            None => {
                let (service, role) = (row.service.clone(), row.role);
                rows.push(ServiceSums { service, role, sums: Sums::default() });
                rows.len() - 1
            }
        };
        rows[at].sums.record(row);
        rows.sort_by(|a, b| (&a.service, a.role).cmp(&(&b.service, b.role)));
    }
    all
}

/// Intervals in which something ended.
fn busy(intervals: Vec<Interval>) -> Vec<(WallTime, Vec<ServiceSums>)> {
    let busy = intervals.into_iter().filter(|interval| !interval.rows.is_empty());
    busy.map(|interval| (interval.start, interval.rows)).collect()
}

fn random_transaction() -> impl Strategy<Value = Transaction> {
    let parts = (0..200 * SECOND, 0..5_000_000_000_i64, 0..3_usize, 0..3_usize, any::<bool>(), 0..6_usize);
    parts.prop_map(|(at, duration_ns, service, role, error, end)| Transaction {
        end_time: WallTime(START + at),
        duration_ns,
        service: ["cart", "shop", "상점"][service].into(),
        role: [Role::Server, Role::Client, Role::Unknown][role],
        error,
        end: [End::Answered, End::Answered, End::Answered, End::Reset, End::TracerStopped, End::Answered]
            [end],
        kind: if end == 5 { Kind::LongLived } else { Kind::Request },
        ..transaction(at)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn seconds_minutes_and_hours_are_the_sums_of_the_transactions(
        rows in prop::collection::vec(random_transaction(), 0..200),
        step in 1..400_u64,
    ) {
        let mut rows = rows;
        rows.sort_by_key(|row| row.end_time);
        let mut fed = Fed::default();
        // In batches of any length of time, as they leave the watermark.
        let mut mark = START;
        while mark < START + 200 * SECOND {
            let next = mark + step * SECOND / 8;
            for row in rows.iter().filter(|row| (mark..next).contains(&row.end_time.0)) {
                fed.commit.record(row);
            }
            let late = fed.commit.close_late();
            fed.take(late);
            let closed = fed.commit.advance(WallTime(next));
            fed.take(closed);
            mark = next;
        }
        fed.finish();
        for resolution in Resolution::ALL {
            let want = direct(&rows, resolution);
            prop_assert_eq!(&busy(fed.closed(Resolution::Second, resolution)), &want);
            prop_assert_eq!(&busy(fed.closed(resolution, resolution)), &want);
            prop_assert_eq!(&busy(fed.kept(resolution)), &want);
        }
        // What is kept of an hour is what was handed over of it, watched time included.
        prop_assert_eq!(fed.kept(Resolution::Hour), fed.closed(Resolution::Second, Resolution::Hour));
    }
}

#[test]
fn a_hundred_a_second_are_exactly_a_hundred_in_each_whole_second() {
    let rows: Vec<Transaction> = (0..2_000)
        .map(|i| Transaction { end_time: WallTime(START + i * SECOND / 100), ..transaction(i) })
        .collect();
    let mut fed = Fed::default();
    // It begins and ends in the middle of a second.
    fed.pass(START + SECOND / 2, START + 20 * SECOND - SECOND / 4, &rows);
    fed.finish();
    let seconds = fed.kept(Resolution::Second);
    assert_eq!(seconds.len(), 20);
    let whole: Vec<&Interval> = seconds.iter().filter(|second| second.recorded_ns == SECOND).collect();
    assert_eq!(whole.len(), 18, "the first and the last are no whole ones");
    for second in whole {
        assert_eq!(second.rows[0].sums.count, 100);
    }
    assert_eq!((seconds[0].recorded_ns, seconds[19].recorded_ns), (SECOND / 2, SECOND * 3 / 4));
    let hours = fed.closed(Resolution::Hour, Resolution::Hour);
    let watched: Vec<u64> = hours.iter().map(|hour| hour.recorded_ns).collect();
    assert_eq!(watched, [SECOND / 2, 18 * SECOND + SECOND * 3 / 4]);
}

#[test]
fn a_silent_stretch_is_there_and_one_that_nobody_watched_is_not() {
    let mut fed = Fed::default();
    fed.pass(START, START + 5 * SECOND, &[]);
    // The machine slept for an hour.
    fed.pass(START + 3_605 * SECOND, START + 3_608 * SECOND, &[]);
    fed.finish();
    let seconds = fed.kept(Resolution::Second);
    let starts: Vec<(u64, u64)> =
        seconds.iter().map(|second| ((second.start.0 - START) / SECOND, second.recorded_ns)).collect();
    let whole = |at| (at, SECOND);
    assert_eq!(
        starts,
        [
            whole(0),
            whole(1),
            whole(2),
            whole(3),
            whole(4),
            (5, 0),
            whole(3_605),
            whole(3_606),
            whole(3_607),
            (3_608, 0)
        ]
    );
    assert!(seconds.iter().all(|second| second.rows.is_empty() && second.in_flight.is_some()));
    assert_eq!(seconds[2].lost, None, "nobody read the counters");
}

#[test]
fn intervals_are_handed_over_in_the_order_of_their_ends_hour_by_hour() {
    let mut fed = Fed::default();
    fed.pass(START - 2 * SECOND, START + 2 * SECOND, &[]);
    let order: Vec<(Resolution, i64)> = fed
        .closed
        .iter()
        .map(|(length, interval)| (*length, (interval.start.0 as i64 - START as i64) / SECOND as i64))
        .collect();
    use Resolution::{Hour, Minute, Second};
    assert_eq!(order, [(Second, -2), (Second, -1), (Second, 0), (Minute, -59), (Hour, -3_599)]);
}

#[test]
fn what_comes_behind_a_clock_that_was_set_back_is_counted_in_its_second() {
    let row = |at: u64| Transaction { end_time: WallTime(START + at), ..transaction(at) };
    let mut fed = Fed::default();
    fed.pass(START, START + 10 * SECOND, &[row(SECOND), row(2 * SECOND)]);
    // Nine seconds back; the watermark stays where it is.
    for at in [SECOND, SECOND + 5, 2 * SECOND, 3 * SECOND] {
        fed.commit.record(&row(at));
        let closed = fed.commit.close_late();
        fed.take(closed);
    }
    let n_closed = fed.closed.len();
    fed.finish();
    assert!(n_closed > 10, "late seconds are closed as they end");
    let counts = |intervals: Vec<Interval>| -> Vec<u64> {
        busy(intervals).iter().map(|(_, rows)| rows[0].sums.count).collect()
    };
    assert_eq!(counts(fed.kept(Resolution::Second)), [3, 2, 1]);
    assert_eq!(counts(fed.closed(Resolution::Second, Resolution::Second)), [3, 2, 1]);
    assert_eq!(counts(fed.closed(Resolution::Hour, Resolution::Hour)), [6]);
    assert_eq!(counts(fed.kept(Resolution::Hour)), [6]);
}

#[test]
fn losses_belong_to_the_second_in_which_they_were_read_and_those_of_before_to_none() {
    let lost = |readings: &[(u64, Option<u64>)]| -> Vec<Option<u64>> {
        let mut fed = Fed::default();
        for (at, lost) in readings {
            fed.commit.observe(&snapshot(START + at * SECOND, 1, *lost));
        }
        fed.finish();
        fed.kept(Resolution::Second).iter().map(|second| second.lost).collect()
    };
    assert_eq!(
        lost(&[(0, None), (1, Some(3)), (2, Some(3)), (3, Some(10)), (4, Some(10))]),
        [None, Some(3), Some(0), Some(7), Some(0)]
    );
    assert_eq!(lost(&[(0, Some(50)), (1, Some(51))]), [Some(0), Some(1)], "from the middle of a recording");
    assert_eq!(lost(&[(0, None), (1, Some(50)), (2, Some(2))]), [None, Some(50), Some(2)], "another run");
}

#[test]
fn services_beyond_the_bound_share_one_row() {
    let mut fed = Fed::default();
    let n = MAX_SERVICES as u64 + 50;
    for i in (0..n).chain(0..n) {
        let service = format!("service {i:03}").into();
        fed.commit.record(&Transaction { service, end_time: WallTime(START), ..transaction(i) });
    }
    fed.finish();
    let seconds = fed.kept(Resolution::Second);
    let rows = &seconds[0].rows;
    let others: Vec<_> = rows.iter().filter(|row| &*row.service == OVERFLOW).collect();
    assert_eq!((rows.len(), others.len(), others[0].sums.count), (MAX_SERVICES + 1, 1, 100));
    assert_eq!(rows.iter().map(|row| row.sums.count).sum::<u64>(), 2 * n);
}

#[test]
fn a_ring_that_is_full_forgets_the_oldest_and_says_so() {
    let row = |second: u64, i: u64| Transaction {
        end_time: WallTime(START + SECOND + second * SECOND),
        duration_ns: 1_000 + (i * i * 7_919) as i64,
        ..transaction(i)
    };
    let fed = |kept: [usize; 3], max_bytes: usize| {
        let mut fed = Fed { rollups: Rollups::with_bounds(kept, max_bytes), ..Fed::default() };
        for second in 0..120 {
            for i in 0..100 {
                fed.commit.record(&row(second, i));
            }
            let closed = fed.commit.advance(WallTime(START + SECOND + (second + 1) * SECOND));
            fed.take(closed);
        }
        fed.rollups
    };
    let n = |rollups: &Rollups, resolution| rollups.intervals(resolution, WallRange::default()).count();
    let by_number = fed([10, 5, 5], 1 << 20);
    assert_eq!(n(&by_number, Resolution::Second), 10);
    assert_eq!(by_number.kept_from(Resolution::Second), WallTime(START + 111 * SECOND));
    assert_eq!(by_number.kept_from(Resolution::Minute), WallTime(0));
    let by_bytes = fed([1_000, 5, 5], 20_000);
    assert!((5..50).contains(&n(&by_bytes, Resolution::Second)), "{}", n(&by_bytes, Resolution::Second));
    assert!(by_bytes.kept_from(Resolution::Second) > WallTime(START));
    assert!(by_bytes.bytes() <= 3 * 20_000);
}

#[test]
fn the_sink_complies() {
    compliance::check(|| {
        let shared = SharedRollups::default();
        let read = shared.clone();
        let output = move || {
            let rollups = read.lock();
            let intervals = rollups.intervals(Resolution::Second, WallRange::default());
            format!("{:?}", intervals.collect::<Vec<_>>()).into_bytes()
        };
        let output = move || if output() == b"[]" { Vec::new() } else { output() };
        (RollupSink::new(shared, None), output)
    });
}
