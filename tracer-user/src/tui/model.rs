//! One frame's data: read from the feed at once, safe to show, nothing left to compute while drawing.

use super::{
    app::{App, Sort},
    chart::{Chart, ChartArea},
    feed::{Feed, Heading},
};
use crate::{
    event::Role,
    pipeline::InFlight,
    report::{loss::Losses, summary::QUANTILES},
    text::screen_text,
    time::WallTime,
};

/// A row of the operations table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Service, safe to show.
    pub service: String,
    /// Its part.
    pub role: Role,
    /// Operation, safe to show.
    pub operation: String,
    /// Transactions of the last completed seconds, 30 at most.
    pub recent: u64,
    /// All transactions.
    pub count: u64,
    /// Errors.
    pub errors: u64,
    /// p50, p90, p99, p99.9, ns.
    pub quantiles_ns: Option<[u64; 4]>,
    /// Longest, ns.
    pub max_ns: u64,
}

/// One frame's data.
#[derive(Clone, Debug)]
pub struct Model {
    /// What runs, safe to show.
    pub title: String,
    /// The filter, safe to show.
    pub filter: Option<String>,
    /// A recording.
    pub replay: bool,
    /// Event time.
    pub now: WallTime,
    /// Nothing more will come.
    pub finished: bool,
    /// The XLog.
    pub chart: Chart,
    /// The table, sorted.
    pub rows: Vec<Row>,
    /// Transactions in the table, all roles.
    pub count: u64,
    /// Errors among them.
    pub errors: u64,
    /// Transactions of the last completed seconds, 30 at most.
    pub recent: u64,
    /// Completed seconds that `recent` covers, here and in the rows.
    pub recent_seconds: u64,
    /// Transactions that the filter left out.
    pub filtered: u64,
    /// Requests in flight.
    pub n_open: u64,
    /// Tunnels and streams.
    pub n_long_lived: u64,
    /// By service, most first.
    pub in_flight: Vec<InFlight>,
    /// Losses.
    pub losses: Losses,
    /// Dots that fell out of the ring and are counts now.
    pub evicted: u64,
    /// Dots that came since the screen was paused.
    pub since_pause: u64,
}

impl Model {
    /// Reads the feed. `width` × `height` are the cells that the XLog has.
    pub fn read(feed: &Feed, heading: &Heading, app: &App, width: u16, height: u16) -> Model {
        let status = feed.status.lock().clone();
        let (mut rows, watermark, recent_seconds) = {
            let histograms = feed.histograms.lock();
            let watermark = histograms.watermark();
            let rows: Vec<Row> = histograms
                .operations()
                .into_iter()
                .map(|row| Row {
                    service: screen_text(row.service).into_owned(),
                    role: row.role,
                    operation: screen_text(row.operation.map_or("", |name| name)).into_owned(),
                    recent: row.series.recent(watermark),
                    count: row.series.count,
                    errors: row.series.errors,
                    quantiles_ns: row.series.quantiles(QUANTILES),
                    max_ns: row.series.max_ns,
                })
                .collect();
            (rows, watermark, histograms.recent_seconds())
        };
        sort(&mut rows, app.sort);
        let now = watermark.max(status.snapshot.watermark);
        let area = ChartArea {
            width,
            height,
            end: app.end(now),
            window_ns: app.window_ns,
            y_max_ns: app.y_max_ns,
            scale: app.scale,
            roles: app.roles,
        };
        let (chart, since_pause) = {
            let xlog = feed.xlog.lock();
            let chart = Chart::build(area, &xlog, status.marks.iter().copied());
            let since = app.paused.map_or(0, |at| xlog.dots(at, WallTime(u64::MAX)).count() as u64);
            (chart, since)
        };
        let mut in_flight: Vec<InFlight> = status
            .snapshot
            .in_flight
            .iter()
            .map(|flight| InFlight { service: screen_text(&flight.service).into(), ..flight.clone() })
            .collect();
        in_flight.sort_by_key(|flight| std::cmp::Reverse(flight.by_age.iter().sum::<u64>()));
        Model {
            title: screen_text(&heading.title).into_owned(),
            filter: heading.filter.as_deref().map(|text| screen_text(text).into_owned()),
            replay: heading.replay,
            now,
            finished: status.finished,
            chart,
            count: rows.iter().map(|row| row.count).sum(),
            errors: rows.iter().map(|row| row.errors).sum(),
            recent: rows.iter().map(|row| row.recent).sum(),
            rows,
            recent_seconds,
            filtered: status.filtered,
            n_open: status.snapshot.n_open,
            n_long_lived: status.snapshot.n_long_lived,
            in_flight,
            losses: status.losses,
            evicted: status.evicted,
            since_pause,
        }
    }

    /// A rate per second over the recent seconds.
    pub fn rate_of(&self, recent: u64) -> String {
        crate::report::format::rate(recent, self.recent_seconds * 1_000_000_000)
    }
}

fn sort(rows: &mut [Row], by: Sort) {
    use std::cmp::Reverse;
    // Stable: rows that are equal stay in the order of service, role and name.
    match by {
        Sort::Count => rows.sort_by_key(|row| Reverse(row.count)),
        Sort::Errors => rows.sort_by_key(|row| Reverse(row.errors)),
        Sort::P99 => rows.sort_by_key(|row| Reverse(row.quantiles_ns.map(|[_, _, p99, _]| p99))),
        Sort::Max => rows.sort_by_key(|row| Reverse(row.max_ns)),
        Sort::Name => {}
    }
}
