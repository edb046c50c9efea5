//! What txray recorded of an application against what the application and its database logged, as figures and as a table.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fmt::Write as _,
};

use anyhow::Result;

use super::{
    AT_ONCE, App, Logged, Statement, Truth,
    drive::Asked,
    seen::{Row, Seen},
    texts::shape,
};

/// A call begins, for txray, when its system call returns: the database may have been told before, and have logged it.
const EARLY_NS: u64 = 2_000_000;
/// Longer statements are shown cut.
const CUT: usize = 2_000;
/// How many of what does not match are shown.
const SHOWN: usize = 6;

/// An application's figures: one request at a time, and several at once.
#[derive(Debug)]
pub(super) struct Compared {
    name: String,
    how: &'static str,
    series: [Series; 2],
    lost: Vec<(String, u64)>,
}

/// So many of so many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Of {
    n: usize,
    of: usize,
}

impl Of {
    fn add(&mut self, fits: bool) {
        self.n += usize::from(fits);
        self.of += 1;
    }
}

impl std::fmt::Display for Of {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.of == 0 { f.write_str("–") } else { write!(f, "{} of {}", self.n, self.of) }
    }
}

/// Links of one sort.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    made: usize,
    right: usize,
    /// Of those, the truth is not known.
    unknown: usize,
}

#[derive(Debug, Default)]
struct Series {
    /// Requests: in the application's log, seen, and matched in method, path and status.
    logged: usize,
    seen: usize,
    matched: usize,
    has_status: bool,
    /// Rows that are marked as having a gap.
    gaps: usize,
    /// The duration that the application logged is no longer than txray's.
    durations: Of,
    /// Statements, likewise.
    statements: usize,
    calls: usize,
    texts: usize,
    /// The database's duration and time lie within the call.
    within: Of,
    /// Calls whose other end, in the database, is linked to them.
    other_ends: Of,
    links: BTreeMap<(String, String), Tally>,
    unlinked: usize,
    /// Of those, made for a request by what is known.
    missed: usize,
    /// Statements of which it is known for which request they were.
    known: usize,
    /// Calls to others than the database, and those rightly linked.
    others: Of,
    /// Requests whose parts add up.
    exact: Of,
    /// Waiting for answers is no longer than the calls are.
    waits: Of,
    /// What the database says of its statements is no longer than the calls.
    sums: Of,
    unattributed_ns: u64,
    whole_ns: u64,
}

/// The number that a request carries.
fn number(target: Option<&str>) -> Option<u32> {
    let (_, rest) = target?.split_once("rid=")?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok().filter(|number| *number >= 100)
}

fn say(what: &str, list: &[String]) {
    for one in list.iter().take(SHOWN) {
        println!("   {what}: {one}");
    }
    if list.len() > SHOWN {
        println!("   {what}: and {} more", list.len() - SHOWN);
    }
}

/// What is looked at again and again.
struct Both<'a> {
    app: u32,
    store_port: u16,
    seen: &'a Seen,
    by_id: HashMap<&'a str, &'a Row>,
    asked: &'a [Asked],
    requests: Vec<Logged>,
    statements: Vec<Statement>,
    truths: Vec<Truth>,
    /// The call of each statement, by place in the rows.
    calls: Vec<Option<usize>>,
}

pub(super) fn compare(app: &dyn App, seen: &Seen, asked: &[Asked], from: u64, to: u64) -> Result<Compared> {
    let border = asked.iter().filter(|one| one.number >= AT_ONCE).map(|one| one.from_ns).min().unwrap_or(to);
    let mut statements = app.statements()?;
    statements.retain(|one| one.ended().1 >= from && one.ended().0 <= to);
    let truths = app.truths(&statements, asked)?;
    let by_id = seen.rows.iter().map(|row| (&*row.id, row)).collect();
    let calls = calls_of(&statements, seen, app.pids()[0], app.store_port());
    let requests = app.requests()?;
    let both = Both {
        app: app.pids()[0],
        store_port: app.store_port(),
        seen,
        by_id,
        asked,
        requests,
        statements,
        truths,
        calls,
    };
    let series = [both.series(false, (from, border)), both.series(true, (border, to))];
    both.look_at_slowest()?;
    Ok(Compared { name: app.name(), how: app.how(), series, lost: seen.lost.clone() })
}

/// Its place on its connection, from its id.
fn ordinal(row: &Row) -> u64 {
    row.id.rsplit_once('-').and_then(|(_, ordinal)| ordinal.parse().ok()).unwrap_or(0)
}

/// Which call is which statement: on each connection both stand in order.
fn calls_of(statements: &[Statement], seen: &Seen, app: u32, store_port: u16) -> Vec<Option<usize>> {
    let mut by_port: HashMap<u16, Vec<usize>> = HashMap::new();
    let is_call = |row: &Row| {
        row.pid == app
            && row.role == "client"
            && row.server_port == Some(store_port)
            && row.operation != "startup"
    };
    for (at, row) in seen.rows.iter().enumerate().filter(|(_, row)| is_call(row)) {
        by_port.entry(row.client_port.unwrap_or(0)).or_default().push(at);
    }
    for rows in by_port.values_mut() {
        rows.sort_by_key(|at| (seen.rows[*at].start_time_ns, ordinal(&seen.rows[*at])));
    }
    let mut next: HashMap<u16, usize> = HashMap::new();
    statements
        .iter()
        .map(|statement| {
            let rows = by_port.get(&statement.client_port)?;
            let next = next.entry(statement.client_port).or_default();
            let fits = |at: &usize| {
                let row = &seen.rows[*at];
                let shown = row.target.as_deref().unwrap_or(&row.operation);
                let (text, is_cut) = (shape(shown), shown.len() >= CUT);
                (text == statement.text || is_cut && statement.text.starts_with(&text))
                    && row.operation.starts_with("PREPARE ") == statement.prepares
                    && row.start_time_ns <= statement.ended().1 + EARLY_NS
                    && statement.ended().0 <= row.end_time_ns + EARLY_NS
            };
            let found = (*next..rows.len()).find(|place| fits(&rows[*place]))?;
            *next = found + 1;
            Some(rows[found])
        })
        .collect()
}

impl Both<'_> {
    fn series(&self, at_once: bool, (from, to): (u64, u64)) -> Series {
        let mut series = Series::default();
        self.requests(&mut series, at_once);
        self.statements(&mut series, at_once, from, to);
        self.anatomy(&mut series, at_once);
        series
    }

    /// The requests that the application served, by their numbers.
    fn served(&self, at_once: bool) -> impl Iterator<Item = (u32, &Row)> {
        let served = self.seen.rows.iter().filter(|row| row.pid == self.app && row.role == "server");
        served
            .filter_map(|row| Some((number(row.target.as_deref())?, row)))
            .filter(move |(number, _)| (*number >= AT_ONCE) == at_once)
    }

    fn requests(&self, series: &mut Series, at_once: bool) {
        let rows: HashMap<u32, &Row> = self.served(at_once).collect();
        let asked: HashMap<u32, &Asked> = self.asked.iter().map(|one| (one.number, one)).collect();
        series.seen = self.served(at_once).count();
        series.gaps = rows.values().filter(|row| row.confidence != "complete").count();
        let mut different = Vec::new();
        for logged in &self.requests {
            let Some(number) = number(Some(&logged.target)).filter(|number| (*number >= AT_ONCE) == at_once)
            else {
                continue;
            };
            series.logged += 1;
            series.has_status = logged.status.is_some();
            let status = logged.status.or(asked.get(&number).map(|one| one.status));
            let Some(row) = rows.get(&number) else {
                different.push(format!("{logged:?} is not seen"));
                continue;
            };
            let fits = row.operation.split(' ').next() == Some(&*logged.method)
                && row.target.as_deref() == Some(&*logged.target)
                && row.status_code == status
                && row.end == "answered"
                && asked.get(&number).is_some_and(|one| {
                    (one.method, &one.target) == (&*logged.method, &logged.target)
                        && Some(one.client_port) == row.client_port
                });
            series.matched += usize::from(fits);
            if !fits {
                different.push(format!("{logged:?} against {row:?}"));
            }
            if let (Some(logged), Some(duration)) = (logged.duration_ns, row.duration_ns) {
                series.durations.add(logged <= duration);
            }
        }
        say("request", &different);
    }

    /// Which request a row was made for, as txray says.
    fn parent(&self, row: &Row) -> Option<u32> {
        number(self.by_id.get(row.parent.as_deref()?)?.target.as_deref())
    }

    /// The request that was alone then.
    fn alone(&self, row: &Row) -> Truth {
        let mut of = self
            .asked
            .iter()
            .filter(|one| one.from_ns <= row.start_time_ns && row.start_time_ns <= one.to_ns);
        of.next().map_or(Truth::Nobody, |one| Truth::For(one.number))
    }

    fn statements(&self, series: &mut Series, at_once: bool, from: u64, to: u64) {
        let is_then = |row: &Row| row.start_time_ns >= from && row.start_time_ns < to;
        let of_app = || {
            self.seen.rows.iter().filter(|row| row.pid == self.app && row.role == "client" && is_then(row))
        };
        let mut truth_of: HashMap<&str, Truth> = HashMap::new();
        let mut missing = Vec::new();
        for (statement, (call, truth)) in self.statements.iter().zip(self.calls.iter().zip(&self.truths)) {
            let Some(row) = call.map(|at| &self.seen.rows[at]) else {
                let (earliest, latest) = statement.ended();
                if earliest < to && latest >= from && (at_once || latest < to) {
                    series.statements += 1;
                    missing.push(format!("{statement:?}"));
                }
                continue;
            };
            if !is_then(row) {
                continue;
            }
            series.statements += 1;
            series.texts += 1;
            truth_of.insert(&row.id, *truth);
            // What is logged as one thing has been bound before, within the same call.
            let is_within = row.duration_ns.is_some_and(|duration| statement.duration_ns <= duration)
                && statement.ended().1 + EARLY_NS >= row.start_time_ns
                && statement.ended().0 <= row.end_time_ns;
            series.within.add(is_within);
        }
        say("statement without its call", &missing);
        let linked: HashSet<&str> = self
            .seen
            .rows
            .iter()
            .filter(|row| row.role == "server")
            .filter_map(|row| row.parent.as_deref())
            .collect();
        let mut others = Vec::new();
        let (mut wrong, mut extra, mut unknown) = (Vec::new(), Vec::new(), BTreeSet::new());
        for row in of_app() {
            if row.server_port != Some(self.store_port) {
                let is_right = self.alone(row) == self.parent(row).map_or(Truth::Nobody, Truth::For);
                if !at_once {
                    series.others.add(is_right);
                    if !is_right {
                        others.push(format!("{:?}, not {:?}: {row:?}", self.alone(row), self.parent(row)));
                    }
                }
                continue;
            }
            if row.operation == "startup" {
                // The connection's own, in no log of statements.
                continue;
            }
            series.calls += 1;
            series.other_ends.add(linked.contains(&*row.id));
            if !truth_of.contains_key(&*row.id) {
                extra.push(format!("{} {:?} {}", row.operation, row.target, row.end));
            }
            let truth = match at_once {
                false => self.alone(row),
                true => truth_of.get(&*row.id).copied().unwrap_or(Truth::Unknown),
            };
            series.known += usize::from(truth != Truth::Unknown);
            if truth == Truth::Unknown {
                unknown.insert(format!("{} {:?}", row.operation, row.target));
            }
            let Some(link) = &row.link else {
                series.unlinked += 1;
                series.missed += usize::from(matches!(truth, Truth::For(_)));
                continue;
            };
            let tally = series.links.entry((link.method.clone(), link.confidence.clone())).or_default();
            tally.made += 1;
            let is_right = self.parent(row).map(Truth::For) == Some(truth);
            match truth {
                Truth::Unknown => tally.unknown += 1,
                _ => tally.right += usize::from(is_right),
            }
            if !is_right && truth != Truth::Unknown && link.confidence == "high" {
                wrong.push(format!("{truth:?}, not {:?}: {row:?}", self.parent(row)));
            }
        }
        say("other call", &others);
        say("call that no log has", &extra);
        say("sure and wrong", &wrong);
        say("truth not known", &unknown.into_iter().collect::<Vec<_>>());
    }

    fn anatomy(&self, series: &mut Series, at_once: bool) {
        // What the database says of the statements that txray gives to each request.
        let mut said: HashMap<&str, (usize, u64)> = HashMap::new();
        for (statement, call) in self.statements.iter().zip(&self.calls) {
            if let Some(parent) = call.and_then(|at| self.seen.rows[at].parent.as_deref()) {
                let (n, sum) = said.entry(parent).or_default();
                *n += 1;
                *sum += statement.duration_ns;
            }
        }
        for (_, row) in self.served(at_once) {
            let Some(parts) = row.anatomy.as_ref().and_then(|anatomy| anatomy.as_object()) else { continue };
            let ns = |name: &str| parts.get(name).and_then(serde_json::Value::as_u64).unwrap_or(0);
            let waited: u64 = parts
                .get("offcpu_ns")
                .and_then(|off| off.as_object())
                .into_iter()
                .flatten()
                .filter_map(|(_, ns)| ns.as_u64())
                .sum();
            let names = ["queued_ns", "oncpu_ns", "runq_ns", "calls_ns", "sending_ns", "unattributed_ns"];
            let sum = waited + names.iter().map(|name| ns(name)).sum::<u64>();
            let whole = row.queue_ns.unwrap_or(0) + row.duration_ns.unwrap_or(0);
            series.exact.add(sum == whole);
            series.unattributed_ns += ns("unattributed_ns");
            series.whole_ns += whole;
            let calls: u64 = row.calls.iter().flatten().map(|calls| calls.ns).sum();
            series.waits.add(ns("calls_ns") <= calls);
            if let Some((_, said)) = said.get(&*row.id) {
                let stores: u64 = row
                    .calls
                    .iter()
                    .flatten()
                    .filter(|calls| calls.kind != "http1")
                    .map(|calls| calls.ns)
                    .sum();
                series.sums.add(*said <= stores);
            }
        }
    }

    /// `why` and `trace` of the slowest request of the second series, and whether the trace has what the rows say.
    fn look_at_slowest(&self) -> Result<()> {
        let slowest = self.served(true).max_by_key(|(_, row)| row.duration_ns);
        let Some((_, row)) = slowest else { return Ok(()) };
        println!("\n   $ txray why recording {}\n{}", row.id, self.seen.ask("why", &row.id, &[])?);
        let trace = self.seen.ask("trace", &row.id, &["--width", "130"])?;
        println!("   $ txray trace recording {}", row.id);
        trace.lines().take(16).for_each(|line| println!("{line}"));
        println!("   … {} lines", trace.lines().count());
        let trace: serde_json::Value =
            serde_json::from_str(&self.seen.ask("trace", &row.id, &["--json"])?)?;
        let spans = trace["spans"].as_array().map_or(0, Vec::len);
        let calls: Vec<&Row> =
            self.seen.rows.iter().filter(|one| one.parent.as_deref() == Some(&*row.id)).collect();
        let ends = self
            .seen
            .rows
            .iter()
            .filter(|one| calls.iter().any(|call| one.parent.as_deref() == Some(&*call.id)))
            .count();
        let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
        calls.iter().for_each(|call| *kinds.entry(&call.protocol).or_default() += 1);
        println!("   {spans} spans: 1 + {kinds:?} + {ends} at the other end\n");
        Ok(())
    }
}

/// Applications side by side, one column for each series.
pub(super) fn table(compared: &[Compared]) -> String {
    type Cell = fn(&Series) -> String;
    let rows: [(&str, Cell); 20] = [
        ("requests in its log / seen", |one| format!("{} / {}", one.logged, one.seen)),
        ("matched in method, path, status, client's port", |one| {
            format!("{}{}", one.matched, if one.has_status { "" } else { " (status: the client's)" })
        }),
        ("marked as having a gap", |one| one.gaps.to_string()),
        ("its duration no longer than txray's", |one| one.durations.to_string()),
        ("statements in the database's log / calls seen", |one| {
            format!("{} / {}", one.statements, one.calls)
        }),
        ("matched in connection, order and text", |one| one.texts.to_string()),
        ("the database's time and duration within the call", |one| one.within.to_string()),
        ("calls whose other end is linked", |one| one.other_ends.to_string()),
        ("calls of which the truth is known", |one| format!("{} of {}", one.known, one.calls)),
        ("right by trace id, sure", |one| tally(one, "header")),
        ("right by thread, sure", |one| tally(one, "thread")),
        ("right by goroutine, sure", |one| tally(one, "goroutine")),
        ("right by order, guessed", |one| tally(one, "order")),
        ("no link (of these made for a request)", |one| format!("{} ({})", one.unlinked, one.missed)),
        ("other calls (HTTP, DNS), right", |one| one.others.to_string()),
        ("parts add up to the whole", |one| one.exact.to_string()),
        ("waiting for answers ≤ its calls", |one| one.waits.to_string()),
        ("the database's durations ≤ its calls", |one| one.sums.to_string()),
        ("time not attributed", |one| percent(one.unattributed_ns, one.whole_ns)),
        ("sure and wrong", |one| {
            let sure = one.links.iter().filter(|((_, confidence), _)| confidence == "high");
            sure.map(|(_, tally)| tally.made - tally.unknown - tally.right).sum::<usize>().to_string()
        }),
    ];
    let mut out = "| |".to_owned();
    for one in compared {
        let short = one.name.split(" (").next().unwrap_or(&one.name);
        let _ = write!(out, " {short}, one at a time | at once |");
    }
    out.push_str(&format!("\n| --- |{}\n", " ---: | ---: |".repeat(compared.len())));
    for (what, cell) in rows {
        let _ = write!(out, "| {what} |");
        compared.iter().flat_map(|one| &one.series).for_each(|series| {
            let _ = write!(out, " {} |", cell(series));
        });
        out.push('\n');
    }
    for one in compared {
        let _ = writeln!(out, "\n{}: {}; lost: {:?}", one.name, one.how, one.lost);
    }
    out
}

fn percent(part: u64, whole: u64) -> String {
    if whole == 0 { "–".to_owned() } else { format!("{:.1} %", 100.0 * part as f64 / whole as f64) }
}

/// Right, of those made of which the truth is known.
fn tally(series: &Series, method: &str) -> String {
    let tallies = series.links.iter().filter(|((name, _), _)| name == method);
    let sum = tallies.fold(Tally::default(), |sum, (_, one)| Tally {
        made: sum.made + one.made,
        right: sum.right + one.right,
        unknown: sum.unknown + one.unknown,
    });
    match (sum.made, sum.unknown) {
        (0, _) => "–".to_owned(),
        (made, 0) => format!("{} of {made}", sum.right),
        (made, unknown) => format!("{} of {} (+ {unknown} not known)", sum.right, made - unknown),
    }
}
