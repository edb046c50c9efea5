//! Counter graphs over a range: one value a column, of whole intervals, from memory and from the recording.

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc};

use super::{
    range::{Frame, RangePage, SeenRange},
    view::Roles,
};
use crate::{
    report::format,
    sink::rollup::Rollups,
    text::screen_text,
    time::WallTime,
    transaction::{
        WallRange,
        rollup::{Interval, Resolution, Sums},
    },
};

/// A value that has a graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Metric {
    /// Finished transactions per second of watched time.
    Requests,
    /// Errors per second of watched time.
    Errors,
    /// Errors of a hundred transactions.
    Share,
    /// Median duration, ns.
    P50,
    /// 99th percentile, ns.
    P99,
    /// Requests in flight at once, at most; of all services.
    InFlight,
    /// What was lost in the column; of all services.
    Lost,
}

impl Metric {
    /// All, from the top of the page down.
    pub const ALL: [Metric; 7] = [
        Metric::Requests,
        Metric::Errors,
        Metric::Share,
        Metric::P50,
        Metric::P99,
        Metric::InFlight,
        Metric::Lost,
    ];

    /// Its name on the screen.
    pub fn name(self) -> &'static str {
        match self {
            Metric::Requests => "requests/s",
            Metric::Errors => "errors/s",
            Metric::Share => "errors %",
            Metric::P50 => "p50",
            Metric::P99 => "p99",
            Metric::InFlight => "in flight",
            Metric::Lost => "lost",
        }
    }

    /// Whether it is known of the whole host only.
    pub fn is_of_host(self) -> bool {
        matches!(self, Metric::InFlight | Metric::Lost)
    }

    /// The highest value of an axis that reaches to `most`: 1, 2 or 5 with zeros.
    pub fn top(self, most: f64) -> f64 {
        let most = if most > 0.0 { most } else { 1.0 };
        // Below a thousandth it is as good as nothing, and the steps would be no numbers.
        let ten = 10_f64.powf(most.max(0.001).log10().floor());
        let top = [1.0, 2.0, 5.0, 10.0].map(|step| step * ten).into_iter().find(|top| *top >= most);
        let top = top.unwrap_or(10.0 * ten);
        if self == Metric::Share { top.min(100.0) } else { top }
    }

    /// The top of an axis, in few columns.
    pub fn top_text(self, top: f64) -> String {
        match self {
            Metric::P50 | Metric::P99 => format::duration(top as u64),
            Metric::Share if top < 1.0 => format!("{top}%"),
            Metric::Share => format!("{top:.0}%"),
            _ if top < 1.0 => format!("{top}"),
            _ => match top as u64 {
                n if n >= 1_000_000_000 => format!("{}G", n / 1_000_000_000),
                n if n >= 1_000_000 => format!("{}M", n / 1_000_000),
                n if n >= 1_000 => format!("{}k", n / 1_000),
                n => n.to_string(),
            },
        }
    }

    /// A value in words; `-`: there is none.
    pub fn text(self, value: Option<f64>) -> String {
        let Some(value) = value else { return "-".to_owned() };
        match self {
            Metric::Requests | Metric::Errors => {
                let tenths = (value * 10.0).round() as u64;
                format!("{}.{}", format::count(tenths / 10), tenths % 10)
            }
            Metric::Share => format!("{value:.2}%"),
            Metric::P50 | Metric::P99 => format::duration(value as u64),
            Metric::InFlight | Metric::Lost => format::count(value as u64),
        }
    }
}

/// How much of a column is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watched {
    /// All of it.
    Whole,
    /// A part: it is not over, or nobody watched for a while.
    Part,
    /// Nothing: nobody watched.
    Nothing,
    /// It has not begun.
    NotYet,
}

/// One column of the graphs.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    /// Its begin.
    pub start: WallTime,
    /// How much of it is known.
    pub watched: Watched,
    /// Watched time, ns.
    pub recorded_ns: u64,
    /// What is shown of its transactions, added up.
    pub sums: Sums,
    /// In flight at once, at most.
    pub in_flight: Option<u64>,
    /// Lost.
    pub lost: Option<u64>,
}

impl Column {
    /// A value; `None` where there is none: nobody watched, or nothing was measured.
    pub fn value(&self, metric: Metric) -> Option<f64> {
        let Sums { count, errors, .. } = self.sums;
        let per_second = |n: u64| (self.recorded_ns != 0).then(|| n as f64 * 1e9 / self.recorded_ns as f64);
        match metric {
            Metric::Requests => per_second(count),
            Metric::Errors => per_second(errors),
            Metric::Share => (count != 0).then(|| errors as f64 * 100.0 / count as f64),
            Metric::P50 => self.sums.quantile(0.5).map(|ns| ns as f64),
            Metric::P99 => self.sums.quantile(0.99).map(|ns| ns as f64),
            Metric::InFlight => self.in_flight.map(|n| n as f64),
            Metric::Lost => self.lost.map(|n| n as f64),
        }
    }
}

/// What is to be had of the recording.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Recorded {
    /// There is none, or it is not needed.
    #[default]
    NotNeeded,
    /// It is being read.
    Reading,
    /// It is there.
    Read,
    /// It was written before there were rollups.
    HasNone,
    /// It cannot be read, safe to show.
    Failed(String),
}

/// A page of counter graphs.
#[derive(Clone, Debug, PartialEq)]
pub struct Graphs {
    /// Its columns in time.
    pub frame: Frame,
    /// The columns.
    pub columns: Vec<Column>,
    /// The intervals that they are made of.
    pub resolution: Resolution,
    /// The column that the cursor is in.
    pub cursor: usize,
    /// The only service that is shown, safe to show.
    pub service: Option<String>,
    /// The services that something is known of, as they are, most requests first.
    pub services: Vec<Arc<str>>,
    /// Whose transactions.
    pub roles: Roles,
    /// What is to be had of the recording.
    pub recorded: Recorded,
    /// The tops of the axes, in the order of [`Metric::ALL`]; `None`: no column has a value.
    pub tops: [Option<f64>; Metric::ALL.len()],
}

impl Graphs {
    /// Puts together what is known: `parts` are intervals within columns, each from memory or from the recording.
    pub fn of(
        frame: Frame,
        page: &RangePage,
        roles: Roles,
        now: WallTime,
        parts: impl IntoIterator<Item = Interval>,
        recorded: Recorded,
    ) -> Graphs {
        let mut known = BTreeMap::<WallTime, Interval>::new();
        for part in parts {
            // Of two that know the same column, the one that has watched longer knows more.
            match known.get_mut(&part.start) {
                Some(other) if other.recorded_ns >= part.recorded_ns => {}
                Some(other) => *other = part,
                None => drop(known.insert(part.start, part)),
            }
        }
        let mut by_service = BTreeMap::<Arc<str>, u64>::new();
        let n = usize::try_from(frame.n()).unwrap_or(0);
        let columns: Vec<Column> = (0..n)
            .map(|at| {
                let start = frame.start(at);
                let interval = known.remove(&start).unwrap_or_else(|| Interval::new(start));
                let mut sums = Sums::default();
                for row in interval.rows.iter().filter(|row| roles.shows(row.role)) {
                    *by_service.entry(row.service.clone()).or_default() += row.sums.count;
                    if page.service.as_ref().is_none_or(|service| *service == row.service) {
                        sums.merge(&row.sums);
                    }
                }
                let Interval { recorded_ns, in_flight, lost, rows, .. } = interval;
                // Before its first second is over nothing can be known of it.
                let has_begun = start.0.saturating_add(Resolution::Second.ns()) <= now.0;
                let watched = match recorded_ns {
                    0 if rows.is_empty() && !has_begun => Watched::NotYet,
                    0 if rows.is_empty() => Watched::Nothing,
                    ns if ns >= frame.column_ns => Watched::Whole,
                    _ => Watched::Part,
                };
                Column { start, watched, recorded_ns, sums, in_flight, lost }
            })
            .collect();
        let mut services: Vec<(Arc<str>, u64)> = by_service.into_iter().collect();
        services.sort_by_key(|(_, count)| Reverse(*count));
        let newest = || {
            let last =
                |wanted: &[Watched]| columns.iter().rposition(|column| wanted.contains(&column.watched));
            last(&[Watched::Whole]).or_else(|| last(&[Watched::Part])).unwrap_or(n.saturating_sub(1))
        };
        let tops = Metric::ALL.map(|metric| {
            let values = columns.iter().filter_map(|column| column.value(metric));
            values.reduce(f64::max).map(|most| metric.top(most))
        });
        Graphs {
            cursor: page.cursor.map_or_else(newest, |at| frame.column(at)),
            frame,
            resolution: Resolution::dividing(frame.column_ns),
            service: page.service.as_ref().map(|service| screen_text(service).into_owned()),
            services: services.into_iter().map(|(service, _)| service).collect(),
            roles,
            recorded,
            tops,
            columns,
        }
    }

    /// What keys refer to.
    pub fn seen(&self) -> SeenRange {
        SeenRange { frame: self.frame, cursor: self.cursor, services: self.services.clone() }
    }

    /// Whether anything at all is known of the range.
    pub fn is_known(&self) -> bool {
        self.columns.iter().any(|column| matches!(column.watched, Watched::Whole | Watched::Part))
    }
}

/// What memory holds of the columns of a frame.
pub fn columns_of(rollups: &Rollups, frame: Frame) -> Vec<Interval> {
    let range = WallRange { from: frame.from, to: frame.to };
    let mut columns: Vec<Interval> = Vec::new();
    for interval in rollups.intervals(Resolution::dividing(frame.column_ns), range) {
        let start = frame.start(frame.column(interval.start));
        if columns.last().is_none_or(|last| last.start != start) {
            columns.push(Interval::new(start));
        }
        if let Some(last) = columns.last_mut() {
            last.merge(interval);
        }
    }
    columns
}

/// The finest intervals of which memory has forgotten none since `from`.
pub fn finest_of(rollups: &Rollups, from: WallTime) -> Resolution {
    let keeps = |resolution: &Resolution| rollups.kept_from(*resolution) <= from;
    Resolution::ALL.into_iter().find(keeps).unwrap_or(Resolution::Hour)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_ends_at_the_next_round_value() {
        for (most, top) in
            [(0.0, 1.0), (1.0, 1.0), (1.1, 2.0), (3.0, 5.0), (99.9, 100.0), (100.0, 100.0), (123.0, 200.0)]
        {
            assert_eq!(Metric::Requests.top(most), top, "{most}");
        }
        assert_eq!(Metric::Requests.top(0.3), 0.5);
        assert_eq!((Metric::Share.top(51.0), Metric::Share.top(3.0)), (100.0, 5.0));
        let texts = [0.5, 20.0, 5_000.0, 2e6, 1e9].map(|top| Metric::Requests.top_text(top));
        assert_eq!(texts, ["0.5", "20", "5k", "2M", "1G"]);
        assert_eq!(Metric::P99.top_text(5e7), "50.0ms");
        assert_eq!(
            (Metric::Share.top_text(0.5), Metric::Share.top_text(100.0)),
            ("0.5%".into(), "100%".into())
        );
        assert_eq!(Metric::Requests.text(Some(100.0)), "100.0");
        assert_eq!(Metric::Requests.text(Some(1_234.56)), "1,234.6");
    }
}
