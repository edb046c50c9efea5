//! What a place shows, as rows: all of them, not only those on the screen. Pure: bytes come out.

use std::{io::Write as _, sync::Arc};

use super::{
    app::App,
    draw::detail_text,
    feed::Feed,
    model::Model,
    trace::chrome_trace,
    view::{Place, View},
};
use crate::{
    report::{
        format::{self, Align, count},
        head,
    },
    schema::transaction_rows::COLUMNS,
    sink::jsonl::write_transaction,
    text::{push_json, screen_bytes, screen_text},
    time::WallTime,
    transaction::Transaction,
};

/// Widest column of the text form: beyond it text is cut with `…`, so that one long target does not widen every row. The other forms
/// cut nothing.
const WIDEST: usize = 120;

/// A form of a file, told by the ending of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One JSON object for each row and line.
    JsonLines,
    /// Comma-separated values, RFC 4180.
    Csv,
    /// A Chrome trace of the transactions.
    Trace,
    /// The table as text.
    Text,
}

impl Form {
    /// That of a file name.
    pub fn of(name: &str) -> Option<Form> {
        let (before, ending) = name.rsplit_once('.')?;
        let form = match ending {
            "jsonl" => Form::JsonLines,
            "csv" => Form::Csv,
            "json" => Form::Trace,
            "txt" => Form::Text,
            _ => return None,
        };
        Some(form).filter(|_| !before.is_empty() && !before.ends_with('/'))
    }
}

/// A cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Not known.
    Null,
    /// A number.
    Number(i128),
    /// True or false.
    Boolean(bool),
    /// A text as it is: not safe to show.
    Text(String),
}

impl From<u64> for Value {
    fn from(n: u64) -> Value {
        Value::Number(n.into())
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::Text(text.to_owned())
    }
}

impl From<&serde_json::Value> for Value {
    fn from(value: &serde_json::Value) -> Value {
        match value {
            serde_json::Value::Null => Value::Null,
            serde_json::Value::Bool(value) => Value::Boolean(*value),
            serde_json::Value::String(text) => Value::Text(text.clone()),
            other => other.to_string().parse().map_or_else(|_| Value::Text(other.to_string()), Value::Number),
        }
    }
}

/// Rows with their headings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Names of the columns.
    pub headings: Vec<&'static str>,
    /// Rows.
    pub rows: Vec<Vec<Value>>,
}

impl Table {
    /// One JSON object for each row and line.
    pub fn json_lines(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for row in &self.rows {
            for (i, (name, value)) in self.headings.iter().zip(row).enumerate() {
                out.extend_from_slice(if i == 0 { b"{" } else { b"," });
                push_json(&mut out, name);
                out.push(b':');
                match value {
                    Value::Null => out.extend_from_slice(b"null"),
                    // Writing to a Vec cannot fail.
                    Value::Number(n) => drop(write!(out, "{n}")),
                    Value::Boolean(value) => drop(write!(out, "{value}")),
                    Value::Text(text) => push_json(&mut out, text),
                }
            }
            out.extend_from_slice(b"}\n");
        }
        out
    }

    /// RFC 4180, with a line of headings. Text is as on the screen (what a terminal would obey is spelled out), and one that a
    /// spreadsheet would take for a formula begins with an apostrophe.
    pub fn csv(&self) -> Vec<u8> {
        let mut out = self.headings.join(",").into_bytes();
        out.extend_from_slice(b"\r\n");
        for row in &self.rows {
            for (i, value) in row.iter().enumerate() {
                if i != 0 {
                    out.push(b',');
                }
                match value {
                    Value::Null => {}
                    // Writing to a Vec cannot fail.
                    Value::Number(n) => drop(write!(out, "{n}")),
                    Value::Boolean(value) => drop(write!(out, "{value}")),
                    Value::Text(text) => push_csv(&mut out, &screen_text(text)),
                }
            }
            out.extend_from_slice(b"\r\n");
        }
        out
    }

    /// Columns for people.
    pub fn text(&self) -> Vec<u8> {
        let mut rows = vec![self.headings.iter().map(|&name| name.to_owned()).collect::<Vec<_>>()];
        rows.extend(self.rows.iter().map(|row| {
            let cell = |value: &Value| match value {
                Value::Null => "-".to_owned(),
                Value::Number(n) => n.to_string(),
                Value::Boolean(value) => value.to_string(),
                Value::Text(text) => screen_text(text).into_owned(),
            };
            row.iter().map(cell).collect()
        }));
        let is_number = |i: usize| self.rows.iter().any(|row| matches!(row.get(i), Some(Value::Number(_))));
        let align = |i: usize| if is_number(i) { Align::Right } else { Align::Left };
        let columns: Vec<_> = (0..self.headings.len()).map(|i| (align(i), WIDEST)).collect();
        format::table(&rows, &columns).into_bytes()
    }
}

fn push_csv(out: &mut Vec<u8>, text: &str) {
    let is_formula = text.starts_with(['=', '+', '-', '@']);
    let is_quoted = text.contains(['"', ',']);
    if is_quoted {
        out.push(b'"');
    }
    if is_formula {
        out.push(b'\'');
    }
    out.extend_from_slice(text.replace('"', "\"\"").as_bytes());
    if is_quoted {
        out.push(b'"');
    }
}

/// A file's content, how many rows it has, and what of the selection is not among them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Export {
    /// The content.
    pub content: Vec<u8>,
    /// Rows.
    pub n_rows: usize,
    /// What is missing; empty = nothing.
    pub missing: String,
}

/// All that the place shows, in a form. `model` is of the same state of `app`.
pub fn export(form: Form, feed: &Feed, app: &App, model: &Model) -> Export {
    let place = app.place_below_help();
    let has_transactions = matches!(place, Place::List | Place::Detail | Place::View(View::Xlog));
    if form != Form::Trace && !has_transactions {
        let table = table(place, model);
        let content = match form {
            Form::JsonLines => table.json_lines(),
            Form::Csv => table.csv(),
            Form::Text | Form::Trace => table.text(),
        };
        return Export { content, n_rows: table.rows.len(), missing: missing_rows(place, model) };
    }
    let rows = transactions(place, feed, app, model);
    let content = match (form, place) {
        (Form::JsonLines, _) => json_lines(&rows),
        (Form::Csv, _) => whole(&rows).csv(),
        (Form::Trace, _) => chrome_trace(&rows),
        (Form::Text, Place::Detail) => {
            rows.iter().flat_map(|row| detail_text(model, app, row).into_bytes()).collect()
        }
        (Form::Text, _) => listed(&rows).text(),
    };
    Export { content, n_rows: rows.len(), missing: missing_transactions(place, feed, model) }
}

/// The transactions of a place.
fn transactions(place: Place, feed: &Feed, app: &App, model: &Model) -> Vec<Arc<Transaction>> {
    let is_wanted = |row: &&Arc<Transaction>| app.filter.as_ref().is_none_or(|filter| filter.matches(row));
    match (place, app.opened(), &model.list, &app.selection) {
        (Place::Detail, Some(shown), ..) => vec![shown.clone()],
        (Place::List, _, Some(list), _) => list.rows.clone(),
        (Place::Contrast, _, _, Some(rectangle)) => {
            let (from, to) = rectangle.times();
            let holds = |row: &&Arc<Transaction>| {
                rectangle.contains(row.role, row.end_time, row.duration_ns.max(0).unsigned_abs())
            };
            feed.recent.lock().rows(from, to).filter(holds).filter(is_wanted).cloned().collect()
        }
        _ => {
            // What came since the screen was frozen is not on it.
            let until = if app.paused.is_some() { model.now } else { WallTime(u64::MAX) };
            feed.recent.lock().rows(WallTime(0), until).filter(is_wanted).cloned().collect()
        }
    }
}

fn missing_transactions(place: Place, feed: &Feed, model: &Model) -> String {
    let n = match (place, &model.list) {
        (Place::Detail, _) => 0,
        (Place::List, Some(list)) => list.n.saturating_sub(list.rows.len() as u64),
        _ => feed.recent.lock().evicted(),
    };
    if n == 0 { String::new() } else { format!("; {} older ones are no longer kept", count(n)) }
}

fn missing_rows(place: Place, model: &Model) -> String {
    let all = model.n_open + model.n_long_lived;
    match all.saturating_sub(model.open.len() as u64) {
        n if n != 0 && place == Place::View(View::Active) => {
            format!("; {} younger ones are not known", count(n))
        }
        _ => String::new(),
    }
}

/// The rows as `--json` prints them.
fn json_lines(rows: &[Arc<Transaction>]) -> Vec<u8> {
    let mut out = Vec::new();
    rows.iter().for_each(|row| write_transaction(&mut out, row));
    out
}

/// The same as a table.
fn whole(rows: &[Arc<Transaction>]) -> Table {
    let mut line = Vec::new();
    let rows = rows.iter().map(|row| {
        line.clear();
        write_transaction(&mut line, row);
        let object: serde_json::Value = serde_json::from_slice(&line).unwrap_or_default();
        COLUMNS.iter().map(|name| Value::from(cell(&object, name))).collect()
    });
    Table { rows: rows.collect(), headings: COLUMNS.to_vec() }
}

/// A column of a row; those of an object within it are spelled with its name in front.
fn cell<'a>(row: &'a serde_json::Value, column: &str) -> &'a serde_json::Value {
    match column.split_once('_').filter(|(object, _)| row[object].is_object()) {
        Some((object, key)) => {
            let reason = key.strip_prefix("offcpu_").and_then(|key| key.strip_suffix("_ns"));
            match reason {
                Some(reason) => &row[object]["offcpu_ns"][reason],
                None => &row[object][key],
            }
        }
        None => &row[column],
    }
}

/// What the list shows of them.
fn listed(rows: &[Arc<Transaction>]) -> Table {
    let rows = rows.iter().map(|row| {
        let ms = row.end_time.0 / 1_000_000 % 1_000;
        let status = row.status_code.map_or(Value::Null, |code| Value::Number(code.into()));
        vec![
            Value::Text(format!("{}.{ms:03}", format::clock(row.end_time))),
            Value::Text(format::duration(row.duration_ns.max(0).unsigned_abs())),
            status,
            row.end.as_str().into(),
            row.role.as_str().into(),
            (&*row.service).into(),
            (&*row.operation).into(),
            Value::Text(row.target.as_deref().map(head::target).unwrap_or_default()),
        ]
    });
    let headings = vec!["end", "elapsed", "status", "end_seen", "role", "service", "operation", "target"];
    Table { rows: rows.collect(), headings }
}

/// The rows of a table.
pub fn table(place: Place, model: &Model) -> Table {
    let quantiles = |quantiles: Option<[u64; 4]>, max_ns: u64| match quantiles {
        Some(quantiles) => quantiles.into_iter().chain([max_ns]).map(Value::from).collect(),
        None => vec![Value::Null; 5],
    };
    match place {
        Place::Contrast => {
            let rows = model.contrast.iter().flat_map(|(_, rows)| rows);
            let rows = rows.map(|row| {
                vec![row.field.into(), row.value.as_str().into(), row.selected.into(), row.rest.into()]
            });
            Table { headings: vec!["field", "value", "selected", "rest"], rows: rows.collect() }
        }
        Place::View(View::Health) => {
            let rows = model.counters.iter().map(|(name, total, more)| {
                vec![name.as_str().into(), (*total).into(), more.map_or(Value::Null, Value::from)]
            });
            Table { headings: vec!["counter", "total", "last_second"], rows: rows.collect() }
        }
        Place::View(View::Active) => {
            let rows = model.open.iter().map(|open| {
                vec![
                    Value::Text(format!("{:016x}-{}", open.conn.0, open.ordinal)),
                    (&*open.service).into(),
                    open.role.as_str().into(),
                    Value::Text(screen_bytes(&open.request())),
                    open.step_name().into(),
                    open.age_ns.into(),
                    u64::from(open.pid).into(),
                    u64::from(open.tid).into(),
                ]
            });
            let headings = vec!["id", "service", "role", "request", "step", "age_ns", "pid", "tid"];
            Table { headings, rows: rows.collect() }
        }
        Place::View(View::Stacks) => {
            let rows = model.stacks.iter().flat_map(|shown| {
                shown.functions.iter().map(|row| {
                    let function = &shown.tree.functions[row.function as usize];
                    let mut cells: Vec<Value> = vec![(&*function.name).into(), (&*function.file).into()];
                    cells.extend(
                        (0..2)
                            .flat_map(|i| [row.all[i].count, row.own[i].ns, row.all[i].ns].map(Value::from)),
                    );
                    cells
                })
            });
            let headings = vec![
                "function",
                "file",
                "count",
                "internal_ns",
                "external_ns",
                "other_count",
                "other_internal_ns",
                "other_external_ns",
            ];
            Table { headings, rows: rows.collect() }
        }
        Place::View(View::Services) => {
            let rows = model.edges.iter().map(|edge| {
                let mut row: Vec<Value> =
                    vec![edge.from.raw().into(), edge.to.raw().into(), edge.protocol.into()];
                row.extend([edge.recent, model.recent_seconds, edge.count, edge.errors].map(Value::from));
                row.extend(quantiles(edge.quantiles_ns, edge.max_ns));
                row.extend([edge.bytes, edge.seen].concat().into_iter().map(Value::from));
                row
            });
            let headings = vec![
                "from",
                "to",
                "protocol",
                "recent",
                "recent_s",
                "count",
                "errors",
                "p50_ns",
                "p90_ns",
                "p99_ns",
                "p99_9_ns",
                "max_ns",
                "request_bytes",
                "response_bytes",
                "seen_by_client",
                "seen_by_server",
            ];
            Table { headings, rows: rows.collect() }
        }
        _ => {
            let rows = model.rows.iter().map(|row| {
                let [service, operation] = &row.names;
                let mut cells: Vec<Value> =
                    vec![(&**service).into(), row.role.as_str().into(), (&**operation).into()];
                cells.extend([row.recent, model.recent_seconds, row.count, row.errors].map(Value::from));
                cells.extend(quantiles(row.quantiles_ns, row.max_ns));
                cells
            });
            let headings = vec![
                "service",
                "role",
                "operation",
                "recent",
                "recent_s",
                "count",
                "errors",
                "p50_ns",
                "p90_ns",
                "p99_ns",
                "p99_9_ns",
                "max_ns",
            ];
            Table { headings, rows: rows.collect() }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        Table {
            headings: vec!["a", "n", "ok"],
            rows: vec![
                vec!["x,\"y\"".into(), 7_u64.into(), Value::Boolean(true)],
                vec!["=1+1\u{1b}[2J\n".into(), Value::Null, Value::Null],
                vec!["주문".into(), Value::Number(-3), Value::Null],
            ],
        }
    }

    #[test]
    fn csv_quotes_what_it_must_and_is_no_formula() {
        let csv = String::from_utf8(table().csv()).unwrap();
        assert_eq!(csv, "a,n,ok\r\n\"x,\"\"y\"\"\",7,true\r\n'=1+1\\u{1b}[2J\\n,,\r\n주문,-3,\r\n");
    }

    #[test]
    fn json_lines_come_back_from_a_reader_and_text_moves_no_terminal() {
        let lines = String::from_utf8(table().json_lines()).unwrap();
        let read: Vec<serde_json::Value> =
            lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(read[1]["a"], "=1+1\u{1b}[2J\n");
        assert_eq!((&read[0]["n"], &read[0]["ok"], &read[1]["n"]), (&7.into(), &true.into(), &().into()));
        let text = String::from_utf8(table().text()).unwrap();
        assert_eq!(text.lines().count(), 4);
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
    }

    #[test]
    fn the_form_is_told_by_the_ending() {
        assert_eq!(Form::of("a/b.jsonl"), Some(Form::JsonLines));
        assert_eq!(Form::of("b.csv"), Some(Form::Csv));
        assert_eq!(Form::of("b.json"), Some(Form::Trace));
        assert_eq!(Form::of("b.txt"), Some(Form::Text));
        for bad in ["", "b", ".csv", "a/.csv", "b.parquet", "b.", "b.CSV"] {
            assert_eq!(Form::of(bad), None, "{bad}");
        }
    }
}
