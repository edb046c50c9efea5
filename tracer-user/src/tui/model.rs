//! One frame's data: read from the feed at once, safe to show, nothing left to compute while drawing.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, VecDeque},
    sync::Arc,
};

use super::{
    app::{App, Narrowing, Rows, Seen},
    axis::Axis,
    call_tree::CallTree,
    calls::{self, Line},
    chart::{Chart, ChartArea, Geometry, Rectangle},
    contrast::{Contrast, Totals, contrast},
    draw::Layout,
    edges::{Edge, edges, edges_among},
    feed::{Feed, Heading, Status},
    flight::Flight,
    graph::{Graph, Picture, picture},
    graphs::Graphs,
    heads::ShownHeads,
    health::{self, HealthLine},
    now::Now,
    patterns::SeenPattern,
    playback::Played,
    profile::ShownProfile,
    stacks::{self, ShownStacks},
    statements::{Statement, family, statements},
    view::{ConnSort, ListSort, Place, Sort, View},
};
use crate::{
    event::{Counters, Role},
    metrics::Counter,
    pipeline::{AgeSteps, ConnRow, InFlight, OpenRequest},
    report::{
        filter::quoted, format::rate, loss::Losses, patterns::bounds_line, summary::QUANTILES, trace::Trace,
    },
    sink::{
        histogram::{self, Histograms},
        patterns::Finding,
        recent::Recent,
        xlog::{Class, Xlog},
    },
    text::screen_text,
    time::WallTime,
    transaction::Transaction,
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
    /// Service and operation as they are.
    pub names: [Arc<str>; 2],
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
    /// What is traced, safe to show; empty = not known.
    pub whom: String,
    /// What the run does without, and why: both safe to show.
    pub missing: Vec<[String; 2]>,
    /// Processes that could not be looked into.
    pub denied: u64,
    /// The rights that they would have taken, as far as they are known.
    pub lacks: Vec<String>,
    /// The run's own filter, safe to show.
    pub filter: Option<String>,
    /// What the screen's filter does.
    pub narrowed: Option<Narrowed>,
    /// A recording.
    pub replay: bool,
    /// Of what was recorded, some protocols only.
    pub some_protocols: bool,
    /// The recording that is played.
    pub played: Option<Played>,
    /// There is a recording to go back in.
    pub has_past: bool,
    /// Of what ended before this, dots are no longer kept.
    pub kept_from: WallTime,
    /// Event time.
    pub now: WallTime,
    /// Nothing more will come.
    pub finished: bool,
    /// The XLog, where it is shown.
    pub chart: Option<Chart>,
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
    /// Transactions of the run, whatever is typed on the screen.
    pub all: u64,
    /// Transactions that the run's filter left out.
    pub filtered: u64,
    /// Requests in flight.
    pub n_open: u64,
    /// Tunnels and streams.
    pub n_long_lived: u64,
    /// Classes of age in which they are counted.
    pub age_steps: AgeSteps,
    /// By service, most first.
    pub in_flight: Vec<InFlight>,
    /// Requests in flight, the oldest first; not all where there are very many.
    pub open: Vec<OpenRequest>,
    /// Services of the run, most transactions first; where they are shown.
    pub services: Vec<Row>,
    /// Who calls whom, of the rows that are kept; where it is shown.
    pub edges: Vec<Edge>,
    /// The same as a picture; where there is room for it.
    pub map: Option<(Graph, Option<Picture>)>,
    /// What databases and caches are asked, of the rows that are kept; where it is shown.
    pub statements: Vec<Statement>,
    /// What they were met doing; where it is shown.
    pub stacks: Option<ShownStacks>,
    /// Protocols of the rows that are kept, in the order of their names; where it matters.
    pub protocols: Vec<&'static str>,
    /// Patterns of the dots, the newest first.
    pub patterns: Vec<Finding>,
    /// What was left out in looking for them; empty: nothing.
    pub patterns_left_out: String,
    /// Connections, sorted: open ones and those that ended of late; where they are shown.
    pub conns: Vec<ConnRow>,
    /// Connections that are open, and that ended: all of them.
    pub n_conns: [u64; 2],
    /// Rows that are kept.
    pub kept: u64,
    /// Counters: name, total, and how much more it was in the last second that is known.
    pub counters: Vec<CounterRow>,
    /// The same in groups; where they are shown.
    pub health: Vec<HealthLine>,
    /// Losses.
    pub losses: Losses,
    /// Dots that fell out of the ring and are counts now.
    pub evicted: u64,
    /// Dots that came since the screen was paused.
    pub since_pause: u64,
    /// What was selected, where it is listed.
    pub list: Option<Listed>,
    /// What was selected against the others, where they are compared.
    pub contrast: Option<(Totals, Vec<Contrast>)>,
    /// Transactions on the connection of the one that is shown, itself included, in the order of their start.
    pub neighbours: Vec<Arc<Transaction>>,
    /// There are more of them.
    pub neighbours_cut: bool,
    /// Calls of functions within the one that is shown.
    pub call_tree: CallTree,
    /// The one that is shown with all requests that belong to it.
    pub trace: Trace,
    /// Heads of the one that is shown.
    pub heads: ShownHeads,
    /// What it did, where that was asked for.
    pub profile: ShownProfile,
    /// Where the threads of requests in flight are; `None`: what is shown was recorded.
    pub threads: Option<Now>,
    /// Counter graphs; where they are shown.
    pub graphs: Option<Graphs>,
    /// The other end of each neighbour that is a local call, where it is kept.
    pub neighbours_ends: Vec<Option<Arc<Transaction>>>,
    base: Arc<Base>,
}

/// What tables and counts are made of: read together, and kept while the screen is frozen.
#[derive(Debug)]
struct Base {
    status: Status,
    watermark: WallTime,
    recent_seconds: u64,
    operations: Vec<Row>,
    services: Vec<Row>,
    patterns: Vec<Finding>,
    patterns_left_out: String,
}

impl Base {
    fn read(feed: &Feed) -> Base {
        let status = feed.status.lock().clone();
        let (patterns, patterns_left_out) = {
            let patterns = feed.patterns.lock();
            (patterns.findings().rev().cloned().collect(), bounds_line(&patterns.bounds()))
        };
        let histograms = feed.histograms.lock();
        Base {
            status,
            watermark: histograms.watermark(),
            recent_seconds: histograms.recent_seconds(),
            operations: operations(&histograms),
            services: service_rows(&histograms),
            patterns,
            patterns_left_out,
        }
    }
}

/// What a filter that was typed on the screen lets through, of the rows that are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Narrowed {
    /// The expression, safe to show.
    pub text: String,
    /// Rows that match.
    pub n: u64,
    /// Rows that were looked at.
    pub of: u64,
    /// Older transactions, of which only dots are left.
    pub older: u64,
}

/// The transactions of a rectangle.
#[derive(Clone, Debug)]
pub struct Listed {
    /// The rectangle.
    pub rectangle: Rectangle,
    /// Those that are kept, sorted.
    pub rows: Vec<Arc<Transaction>>,
    /// All of which there are dots.
    pub n: u64,
    /// Those of the same time whose value on the axis is not kept: some may lie in the rectangle.
    pub older: u64,
    /// The rows as they are shown: both ends of a local call in one line, or two.
    pub lines: Vec<Line>,
    /// Local calls both of whose ends are among the rows.
    pub n_calls: u64,
}

impl Listed {
    fn new(rectangle: Rectangle, rows: Vec<Arc<Transaction>>) -> Listed {
        Listed { rectangle, n: rows.len() as u64, rows, older: 0, lines: Vec::new(), n_calls: 0 }
    }
}

const SECOND_NS: u64 = 1_000_000_000;
/// Neighbours that are shown on each side.
const NEIGHBOURS: usize = 5;

impl Model {
    /// Reads the feed for a screen with this layout. `before`: the last frame; a frozen screen stays what it was.
    pub fn read(feed: &Feed, heading: &Heading, app: &App, layout: &Layout, before: Option<&Model>) -> Model {
        let base = match (app.paused, before) {
            (Some(_), Some(before)) => before.base.clone(),
            _ => Arc::new(Base::read(feed)),
        };
        let (status, watermark) = (&base.status, base.watermark);
        // Rows that came since the screen was frozen are not looked at.
        let until = if app.paused.is_some() { watermark } else { WallTime(u64::MAX) };
        let matching = app.is_narrowed().then(|| Matching::find(app, &feed.recent.lock(), until));
        let all = base.operations.iter().map(|row| row.count).sum();
        let (mut rows, services, recent_seconds) = match &matching {
            None => (base.operations.clone(), base.services.clone(), base.recent_seconds),
            Some(matching) => {
                let mut narrowed = Histograms::default();
                for row in &matching.rows {
                    narrowed.record(row);
                }
                narrowed.advance(watermark);
                (operations(&narrowed), service_rows(&narrowed), narrowed.recent_seconds())
            }
        };
        sort(&mut rows, app.sort);
        let now = watermark.max(status.snapshot.watermark);
        let area = ChartArea {
            width: layout.chart.width,
            height: layout.chart.height,
            end: app.end(now),
            window_ns: app.window_ns,
            axis: app.axis,
            y_max_ns: app.y_max_ns,
            scale: app.scale,
            roles: app.roles,
        };
        let place = app.place_below_help();
        let has_chart = match place {
            Place::View(view) => matches!(view, View::Overview | View::Xlog),
            place => place == Place::Select,
        };
        let marks = status.marks.iter().copied();
        let listed = app.selection.filter(|_| place == Place::List);
        let (chart, since_pause, list, kept_from) = {
            let xlog = feed.xlog.lock();
            let kept_from = xlog.kept_from();
            let since = app.paused.map_or(0, |at| xlog.dots(at, WallTime(u64::MAX)).count() as u64);
            match &matching {
                None if app.axis != Axis::Elapsed => {
                    let recent = feed.recent.lock();
                    let geometry = Geometry::of(area);
                    let chart = has_chart.then(|| {
                        let rows = recent.rows(geometry.start, geometry.end).map(|row| &**row);
                        let mut chart = Chart::of_rows(area, rows, marks);
                        chart.n_older = not_kept(&area, area_times(&geometry), &xlog, &recent);
                        chart
                    });
                    let list = listed.map(|rectangle| {
                        let older = not_kept(&area, rectangle.times(), &xlog, &recent);
                        Listed { older, ..Listed::new(rectangle, rows_in(&rectangle, &recent)) }
                    });
                    (chart, since, list, kept_from)
                }
                None => {
                    let chart = has_chart.then(|| Chart::build(area, &xlog, marks));
                    let n = listed.map(|rectangle| (rectangle, dots_in(&rectangle, &xlog)));
                    drop(xlog);
                    let list = n.map(|(rectangle, n)| Listed {
                        n,
                        ..Listed::new(rectangle, rows_in(&rectangle, &feed.recent.lock()))
                    });
                    (chart, since, list, kept_from)
                }
                Some(matching) => {
                    drop(xlog);
                    let rows = || matching.rows.iter().map(|row| &**row);
                    let chart = has_chart.then(|| Chart::of_rows(area, rows(), marks));
                    let list = listed.map(|rectangle| {
                        let rows: Vec<_> =
                            matching.rows.iter().filter(|row| rectangle.holds(row)).cloned().collect();
                        Listed::new(rectangle, rows)
                    });
                    (chart, since, list, kept_from)
                }
            }
        };
        let list = list.map(|mut list| {
            sort_list(&mut list.rows, app.list_sort);
            (list.lines, list.n_calls) = calls::lines(&list.rows, &app.unfolded);
            list
        });
        let compared = app.selection.filter(|_| place == Place::Contrast);
        let contrast = compared.map(|rectangle| {
            let rows = match &matching {
                Some(matching) => matching.rows.clone(),
                None => {
                    let (from, to) = rectangle.chart_times();
                    feed.recent.lock().rows(from, to).cloned().collect()
                }
            };
            let shown = |row: &&Arc<Transaction>| rectangle.is_on_chart(row.role, row.end_time);
            let (selected, rest): (Vec<_>, Vec<_>) =
                rows.iter().filter(shown).partition(|row| rectangle.holds(row));
            contrast(selected.into_iter().map(|row| &**row), rest.into_iter().map(|row| &**row))
        });
        let (neighbours, neighbours_cut, neighbours_ends, call_tree, trace) = match app.opened() {
            Some(shown) => {
                let recent = feed.recent.lock();
                let (rows, cut) = neighbours(shown, &recent);
                let ends = calls::ends_of(&rows, recent.rows(WallTime(0), WallTime(u64::MAX)));
                let tree = CallTree::of(shown, recent.rows(shown.start_time, WallTime(u64::MAX)));
                let trace = Trace::of(shown, |from| recent.rows(from, WallTime(u64::MAX)));
                (rows, cut, ends, tree, trace.without_functions())
            }
            None => Default::default(),
        };
        let counters = counters(status);
        let health = match place {
            Place::View(View::Health) => health::lines(&counters, counters_apart_ns(status)),
            _ => Vec::new(),
        };
        let mut calls = Vec::new();
        if place == Place::View(View::Services) {
            let second = watermark.0 / SECOND_NS * SECOND_NS;
            let recent = WallTime(second.saturating_sub(recent_seconds * SECOND_NS))..WallTime(second);
            let rows: Vec<_> = feed.recent.lock().rows(WallTime(0), until).cloned().collect();
            calls = match &matching {
                Some(matching) => edges_among(rows.iter(), matching.rows.iter(), recent),
                None => edges(rows.iter(), recent),
            };
        }
        let map = (place == Place::View(View::Services) && !layout.map.is_empty()).then(|| {
            let rate = |edge: &Edge| rate(edge.recent, recent_seconds * SECOND_NS);
            let graph = Graph::of(&calls, rate);
            let picture = picture(&graph, layout.map.width, layout.map.height);
            (graph, picture)
        });
        let (mut asked, mut protocols) = (Vec::new(), Vec::new());
        if place == Place::View(View::Statements) {
            let second = watermark.0 / SECOND_NS * SECOND_NS;
            let recent = WallTime(second.saturating_sub(recent_seconds * SECOND_NS))..WallTime(second);
            let rows: Vec<_> = match &matching {
                Some(matching) => matching.rows.clone(),
                None => feed.recent.lock().rows(WallTime(0), until).cloned().collect(),
            };
            asked = statements(rows.iter(), family, recent, app.statement_sort);
            protocols.extend(rows.iter().map(|row| row.protocol).collect::<BTreeSet<_>>());
        }
        let stacks = (place == Place::View(View::Stacks)).then(|| {
            let before = before.and_then(|before| before.stacks.as_ref());
            let until = stacks::until(watermark, status.finished);
            let (recent, matching) = (feed.recent.lock(), &matching);
            // Older rows may come while a playback stands still. Where old ones go, their number says nothing.
            let n = (recent.evicted() == 0).then(|| recent.rows(WallTime(0), until).len());
            ShownStacks::read(app, (until, n), before, move || match matching {
                Some(matching) => matching.rows.iter().filter(|row| row.end_time < until).cloned().collect(),
                // Looked through when others can have them.
                None => recent.rows(WallTime(0), until).cloned().collect(),
            })
        });
        let connections = &status.snapshot.connections;
        let mut conns: Vec<ConnRow> = Vec::new();
        if place == Place::View(View::Connections) {
            conns.extend(connections.open.iter().chain(&connections.closed).cloned());
            sort_conns(&mut conns, app.conn_sort);
        }
        let kept = feed.recent.lock().rows(WallTime(0), until).len() as u64;
        let mut in_flight: Vec<InFlight> = status
            .snapshot
            .in_flight
            .iter()
            .map(|flight| InFlight { service: screen_text(&flight.service).into(), ..flight.clone() })
            .collect();
        in_flight.sort_by_key(|flight| Reverse(flight.by_age.iter().sum::<u64>()));
        Model {
            title: screen_text(&heading.title).into_owned(),
            whom: screen_text(&heading.whom).into_owned(),
            missing: heading
                .missing
                .iter()
                .map(|(feature, reason)| [feature, reason].map(|text| screen_text(text).into_owned()))
                .collect(),
            denied: denied(status),
            lacks: heading.lacks.iter().map(|right| screen_text(right).into_owned()).collect(),
            filter: heading.filter.as_deref().map(|text| screen_text(text).into_owned()),
            narrowed: matching.map(|matching| Narrowed {
                text: screen_text(&app.narrowed_to()).into_owned(),
                n: matching.rows.len() as u64,
                of: matching.of,
                older: matching.older,
            }),
            replay: heading.replay,
            some_protocols: heading.some_protocols,
            played: None,
            has_past: false,
            kept_from,
            now,
            finished: status.finished,
            chart,
            count: rows.iter().map(|row| row.count).sum(),
            errors: rows.iter().map(|row| row.errors).sum(),
            recent: rows.iter().map(|row| row.recent).sum(),
            rows,
            recent_seconds,
            all,
            filtered: status.filtered,
            n_open: status.snapshot.n_open,
            n_long_lived: status.snapshot.n_long_lived,
            age_steps: status.snapshot.age_steps,
            in_flight,
            open: status.snapshot.open.clone(),
            services,
            edges: calls,
            map,
            statements: asked,
            stacks,
            protocols,
            patterns: base.patterns.clone(),
            patterns_left_out: base.patterns_left_out.clone(),
            conns,
            n_conns: [status.snapshot.n_conns as u64, connections.n_closed],
            kept,
            counters,
            health,
            losses: status.losses.clone(),
            evicted: status.evicted,
            since_pause,
            list,
            contrast,
            neighbours,
            heads: ShownHeads::default(),
            profile: ShownProfile::default(),
            threads: None,
            // Made beside the feed; whoever reads again shows what was there.
            graphs: before.and_then(|before| before.graphs.clone()).filter(|_| app.range.is_some()),
            neighbours_cut,
            call_tree,
            trace,
            neighbours_ends,
            base,
        }
    }

    /// What a key refers to while this frame is on the screen.
    pub fn seen(&self, app: &App, layout: &Layout) -> Seen {
        let n_rows = match (app.place(), &self.list) {
            (Place::List, Some(list)) => list.lines.len(),
            // More than there are lines: scrolling stops by itself.
            (Place::Detail, _) => {
                64 + self.heads.n_lines()
                    + self.profile.n_lines()
                    + app.opened().map_or(0, |shown| stacks::n_lines(shown))
                    + self.trace.spans.len()
                    + self.call_tree.steps.len()
            }
            (Place::Help, _) => 64,
            (Place::Contrast, _) => self.contrast.as_ref().map_or(0, |(_, rows)| rows.len()),
            (Place::View(View::Health), _) => self.health.len(),
            (Place::View(View::Active), _) => self.open.len(),
            (Place::View(View::Services), _) => self.edges.len(),
            (Place::View(View::Statements), _) => self.statements.len(),
            (Place::View(View::Stacks), _) => self.stacks.as_ref().map_or(0, |stacks| stacks.functions.len()),
            (Place::View(View::Connections), _) => self.conns.len(),
            (Place::View(View::Patterns), _) => self.patterns.len(),
            _ => self.rows.len(),
        };
        let line = self
            .list
            .as_ref()
            .and_then(|list| list.lines.get(app.list.selected.min(list.lines.len().saturating_sub(1))));
        // As it is drawn: rows may have gone.
        let at = |rows: &Rows, n: usize| rows.selected.min(n.saturating_sub(1));
        let conn = self.conns.get(at(&app.conns, self.conns.len()));
        let flight = match app.place() {
            Place::View(View::Active) => self.open.get(at(&app.active, self.open.len())).map(Flight::of),
            _ => None,
        };
        let narrow = match app.place() {
            Place::View(View::Overview | View::Operations) => {
                self.rows.get(at(&app.operations, self.rows.len())).map(narrowing_of_row)
            }
            Place::View(View::Services) => {
                self.edges.get(at(&app.edges, self.edges.len())).map(narrowing_of_edge)
            }
            _ => None,
        };
        Seen {
            now: self.now,
            n_rows,
            page: usize::from(layout.rows),
            chart: self.chart.as_ref().map(|chart| chart.geometry),
            played: self.played.clone(),
            has_past: self.has_past,
            kept_from: self.kept_from,
            narrow,
            row: line.map(|line| line.row.clone()),
            call: line.and_then(Line::call),
            conn: conn.map(|row| row.conn),
            pattern: match app.place() {
                Place::View(View::Patterns) => {
                    self.patterns.get(at(&app.patterns, self.patterns.len())).map(SeenPattern::of)
                }
                _ => None,
            },
            range: self.graphs.as_ref().map(Graphs::seen).unwrap_or_default(),
            flight,
            stacks: self.stacks.as_ref().map(|stacks| stacks.seen(app, layout)).unwrap_or_default(),
        }
    }

    /// The same, of a recording that is played, or of a run whose recording could be.
    pub fn of(self, played: Option<Played>, has_past: bool) -> Model {
        Model { played, has_past, ..self }
    }

    /// The same, with the heads of the transaction that is shown.
    pub fn with_heads(self, heads: ShownHeads) -> Model {
        Model { heads, ..self }
    }

    /// The same, with its profile.
    pub fn with_profile(self, profile: ShownProfile) -> Model {
        Model { profile, ..self }
    }

    /// A rate per second over the recent seconds.
    pub fn rate_of(&self, recent: u64) -> String {
        crate::report::format::rate(recent, self.recent_seconds * 1_000_000_000)
    }
}

/// What an operation stands for.
fn narrowing_of_row(row: &Row) -> Narrowing {
    let [service, operation] = &row.names;
    let is_gathered = [service, operation].iter().any(|name| &***name == histogram::OVERFLOW);
    let (role, service, operation) = (row.role.as_str(), quoted(service), quoted(operation));
    let filter = format!("role = {role} and service = {service} and operation = {operation}");
    Narrowing { filter: (!is_gathered).then_some(filter), role: row.role }
}

/// What an edge stands for.
fn narrowing_of_edge(edge: &Edge) -> Narrowing {
    let role = if edge.is_told_by_client() { Role::Client } else { Role::Server };
    Narrowing { filter: edge.filter(), role }
}

/// The kept rows that a filter lets through.
struct Matching {
    rows: Vec<Arc<Transaction>>,
    of: u64,
    older: u64,
}

impl Matching {
    fn find(app: &App, recent: &Recent, until: WallTime) -> Matching {
        let all = recent.rows(WallTime(0), until);
        let of = all.len() as u64;
        let rows = all.filter(|row| app.wants(row)).cloned().collect();
        Matching { rows, of, older: recent.evicted() }
    }
}

fn operations(histograms: &Histograms) -> Vec<Row> {
    let watermark = histograms.watermark();
    histograms.operations().iter().map(|row| figures(row, watermark)).collect()
}

fn service_rows(histograms: &Histograms) -> Vec<Row> {
    let watermark = histograms.watermark();
    let mut rows: Vec<Row> = histograms.services().iter().map(|row| figures(row, watermark)).collect();
    // Stable: equal ones stay in the order of their names.
    rows.sort_by_key(|row| Reverse(row.count));
    rows
}

fn figures(row: &histogram::Row<'_>, watermark: WallTime) -> Row {
    Row {
        service: screen_text(row.service).into_owned(),
        role: row.role,
        operation: screen_text(row.operation.map_or("", |name| name)).into_owned(),
        names: [row.service.clone(), row.operation.cloned().unwrap_or_default()],
        recent: row.series.recent(watermark),
        count: row.series.count,
        errors: row.series.errors,
        quantiles_ns: row.series.quantiles(QUANTILES),
        max_ns: row.series.max_ns,
    }
}

/// A counter: name, total, and how much more it was than at the reading before.
pub type CounterRow = (String, u64, Option<u64>);

/// Processes that could not be looked into, live or recorded.
fn denied(status: &Status) -> u64 {
    let counters = status.snapshot.counters.as_ref();
    let find = |counters: &Arc<Counters>| {
        counters.values.iter().find(|(name, _)| **name == *Counter::ProcessDenied.name()).map(|(_, n)| *n)
    };
    counters.and_then(find).unwrap_or(0)
}

/// All counters of the last reading, beside what they grew by since the one before.
fn counters(status: &Status) -> Vec<CounterRow> {
    let Some(last) = &status.snapshot.counters else { return Vec::new() };
    let before = status.counters_before.as_ref().filter(|before| before.time < last.time);
    last.values
        .iter()
        .enumerate()
        .map(|(at, (name, n))| {
            // The same names in the same order in every reading of a run.
            let old = before.and_then(|before| before.values.get(at)).filter(|(old, _)| old == name);
            (screen_text(name).into_owned(), *n, old.map(|(_, old)| n.saturating_sub(*old)))
        })
        .collect()
}

/// Time between the last two readings.
fn counters_apart_ns(status: &Status) -> Option<u64> {
    let last = status.snapshot.counters.as_ref()?;
    last.time.0.checked_sub(status.counters_before.as_ref()?.time.0)
}

/// Dots that are drawn in a rectangle, those that fell out of the ring included.
fn dots_in(rectangle: &Rectangle, xlog: &Xlog) -> u64 {
    let (from, to) = rectangle.times();
    let dots = xlog.dots(from, to);
    let n = dots.filter(|dot| rectangle.contains(dot.role(), dot.end(), dot.duration_ns())).count() as u64;
    let (start, end) = rectangle.chart_times();
    let old = xlog.old(start, end).filter(|old| rectangle.contains(old.role, old.end, old.duration_ns));
    n + old.map(|old| old.n).sum::<u64>()
}

/// Rows in a rectangle, in the order of their end.
fn rows_in(rectangle: &Rectangle, recent: &Recent) -> Vec<Arc<Transaction>> {
    let (from, to) = rectangle.times();
    recent.rows(from, to).filter(|row| rectangle.holds(row)).cloned().collect()
}

/// Time at the left edge of a chart, and the end of what is shown.
fn area_times(geometry: &Geometry) -> (WallTime, WallTime) {
    (geometry.start, geometry.area.end)
}

/// Transactions of which only dots are left, so that no value but the elapsed time is known: of these roles, that ended in `from..to`.
fn not_kept(area: &ChartArea, (from, to): (WallTime, WallTime), xlog: &Xlog, recent: &Recent) -> u64 {
    if recent.evicted() == 0 {
        return 0;
    }
    let all = || recent.rows(WallTime(0), WallTime(u64::MAX));
    let oldest = all().next().map_or(u64::MAX, |row| row.seq);
    let dots =
        xlog.dots(from, to).filter(|dot| area.roles.shows(dot.role()) && dot.seq() < oldest).count() as u64;
    let old: u64 = xlog.old(from, to).filter(|old| area.roles.shows(old.role)).map(|old| old.n).sum();
    // A ring that holds less than the rows: what fell out of it may be kept.
    let first_dot = xlog.dots(WallTime(0), WallTime(u64::MAX)).next().map_or(u64::MAX, |dot| dot.seq());
    let still = recent.rows(from, to).filter(|row| row.seq < first_dot && area.roles.shows(row.role)).count();
    dots + old.saturating_sub(still as u64)
}

fn sort_conns(rows: &mut [ConnRow], by: ConnSort) {
    // Stable: equal ones stay in the order in which they were used last, open ones before those that ended.
    match by {
        ConnSort::Idle => {}
        ConnSort::Requests => rows.sort_by_key(|row| Reverse(row.requests)),
        ConnSort::Errors => rows.sort_by_key(|row| Reverse(row.errors)),
        ConnSort::InFlight => rows.sort_by_key(|row| Reverse(row.in_flight)),
        ConnSort::Bytes => rows.sort_by_key(|row| Reverse(row.bytes[0].saturating_add(row.bytes[1]))),
        ConnSort::Age => rows.sort_by_key(|row| Reverse(row.age_ns)),
    }
}

fn sort_list(rows: &mut [Arc<Transaction>], by: ListSort) {
    // Stable: equal ones stay in the order of their end.
    match by {
        ListSort::Elapsed => rows.sort_by_key(|row| Reverse(row.duration_ns)),
        ListSort::End => rows.reverse(),
        ListSort::Errors => rows.sort_by_key(|row| (Reverse(Class::of(row)), Reverse(row.end_time))),
        ListSort::Operation => rows.sort_by(|a, b| {
            let key =
                |row: &Transaction| (row.service.clone(), row.operation.clone(), Reverse(row.duration_ns));
            key(a).cmp(&key(b))
        }),
    }
}

/// What is kept of a transaction's connection around it, and whether there is more.
fn neighbours(shown: &Transaction, recent: &Recent) -> (Vec<Arc<Transaction>>, bool) {
    // What was on the wire came before what is inside of it, whose number is the later one.
    let place = |row: &Transaction| (row.conn, row.ordinal);
    let (mut before, mut after) = (VecDeque::new(), Vec::new());
    let mut n = 0;
    for row in recent.rows(WallTime(0), WallTime(u64::MAX)).filter(|row| row.on_wire() == shown.on_wire()) {
        n += 1;
        if place(row) <= place(shown) {
            before.push_back(row.clone());
            if before.len() > NEIGHBOURS + 1 {
                before.pop_front();
            }
        } else if after.len() < NEIGHBOURS {
            after.push(row.clone());
        }
    }
    let mut rows: Vec<Arc<Transaction>> = before.into_iter().chain(after).collect();
    rows.sort_by_key(|row| place(row));
    let cut = rows.len() < n;
    (rows, cut)
}

fn sort(rows: &mut [Row], by: Sort) {
    // Stable: rows that are equal stay in the order of service, role and name.
    match by {
        Sort::Count => rows.sort_by_key(|row| Reverse(row.count)),
        Sort::Errors => rows.sort_by_key(|row| Reverse(row.errors)),
        Sort::P99 => rows.sort_by_key(|row| Reverse(row.quantiles_ns.map(|[_, _, p99, _]| p99))),
        Sort::Max => rows.sort_by_key(|row| Reverse(row.max_ns)),
        Sort::Name => {}
    }
}
