//! Rollups of a range, read from a recording: from the coarsest intervals that there are, from finer ones where those are missing.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::Path,
};

use super::recording::{Part, Recording, Run};
use crate::{
    schema::{FormatError, HOUR_NS, rollup_rows, transaction_rows::Names},
    time::WallTime,
    transaction::{
        WallRange,
        rollup::{Interval, Resolution},
    },
};

/// What a recording says of a range.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RecordedRollups {
    /// By column, in order; a column of which nothing was recorded is not there.
    pub columns: Vec<Interval>,
    /// What is recorded ends here, so far.
    pub until: WallTime,
    /// The recording has no rollups at all: it was written before there were any.
    pub has_none: bool,
    /// Files that could not be read.
    pub faults: Vec<String>,
}

/// Reads a range, in columns of `column_ns`, a whole number of seconds: the range begins and ends at whole columns since 1970.
pub fn rollups_of(dir: &Path, range: WallRange, column_ns: u64) -> io::Result<RecordedRollups> {
    Ok(read(&Recording::open(dir)?, range, column_ns))
}

/// As [`rollups_of`], of a recording that is open.
pub fn read(recording: &Recording, range: WallRange, column_ns: u64) -> RecordedRollups {
    let mut read = RecordedRollups {
        has_none: recording.runs.iter().all(|run| run.rollups.is_empty()),
        ..RecordedRollups::default()
    };
    let mut columns = BTreeMap::new();
    let mut names = Names::default();
    for run in &recording.runs {
        let last = run.rollups.iter().map(|part| part.meta.last_time_ns).max();
        let until = last.map_or(0, |last| last.saturating_add(Resolution::Second.ns()));
        read.until.0 = read.until.0.max(until);
        for interval in of_run(run, range, Resolution::dividing(column_ns), &mut names, &mut read.faults) {
            let start = WallTime(interval.start.0 / column_ns.max(1) * column_ns);
            columns.entry(start).or_insert_with(|| Interval::new(start)).merge(&interval);
        }
    }
    read.columns = columns.into_values().collect();
    read
}

/// Everything that a run has recorded of a range, each instant once, in intervals of this length or finer ones.
fn of_run(
    run: &Run,
    range: WallRange,
    resolution: Resolution,
    names: &mut Names,
    faults: &mut Vec<String>,
) -> Vec<Interval> {
    let mut intervals = BTreeMap::<(Resolution, WallTime), Interval>::new();
    // What is still looked for; `None`: everything.
    let mut missing: Option<BTreeSet<WallTime>> = None;
    let mut coarser = resolution;
    let mut next = Some(resolution);
    while let Some(resolution) = next {
        let is_wanted = |start: WallTime| {
            (range.from..range.to).contains(&start)
                && missing.as_ref().is_none_or(|missing| missing.contains(&coarser.begin(start)))
        };
        for part in &run.rollups {
            match rows_of(part, range, resolution, &is_wanted, names) {
                Ok(rows) => {
                    for row in rows {
                        let key = (resolution, row.start);
                        intervals.entry(key).or_insert_with(|| Interval::new(row.start)).merge(&row);
                    }
                }
                Err(fault) => {
                    let fault = fault.to_string();
                    if !faults.contains(&fault) {
                        faults.push(fault);
                    }
                }
            }
        }
        // A minute has a row when it is over: the last one of a run that was killed, or goes on, has none.
        let all = extent(run, range, resolution);
        let found = |start: &WallTime| intervals.contains_key(&(resolution, *start));
        let unknown: BTreeSet<WallTime> = all.filter(|start| is_wanted(*start) && !found(start)).collect();
        coarser = resolution;
        next = resolution.finer().filter(|_| !unknown.is_empty());
        missing = Some(unknown);
    }
    intervals.into_values().collect()
}

/// Begins of the intervals of a range in which a run may have recorded something.
fn extent(run: &Run, range: WallRange, resolution: Resolution) -> impl Iterator<Item = WallTime> + use<> {
    let first = run.rollups.iter().map(|part| part.meta.first_time_ns / HOUR_NS * HOUR_NS).min().unwrap_or(0);
    let last = run.rollups.iter().map(|part| part.meta.last_time_ns.saturating_add(1)).max().unwrap_or(0);
    let from = resolution.begin(range.from.max(WallTime(first))).0;
    let to = range.to.0.min(last);
    (from..to.max(from)).step_by(usize::try_from(resolution.ns()).unwrap_or(usize::MAX)).map(WallTime)
}

/// The rows of a part that are of this length, lie in the range and are wanted.
fn rows_of(
    part: &Part,
    range: WallRange,
    resolution: Resolution,
    is_wanted: &dyn Fn(WallTime) -> bool,
    names: &mut Names,
) -> Result<Vec<Interval>, FormatError> {
    // All of a part lies in the hour of its first row.
    let hour = part.meta.first_time_ns / HOUR_NS * HOUR_NS;
    if hour >= range.to.0 || hour.saturating_add(HOUR_NS) <= range.from.0 {
        return Ok(Vec::new());
    }
    let starts = range.from.0..range.to.0;
    let mut found = Vec::new();
    for batch in part.rows_of(&move |group| group.may_hold_rollups(resolution.ns(), &starts))? {
        let rows =
            rollup_rows::decode(&batch?, names, |length, start| length == resolution && is_wanted(start));
        let rows = rows.map_err(|fault| {
            fault.at(part.sealed.as_ref().or(part.journal.as_ref()).cloned().unwrap_or_default())
        })?;
        found.extend(rows.into_iter().map(|(_, interval)| interval));
    }
    Ok(found)
}
