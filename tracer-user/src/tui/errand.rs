//! What a key asks for outside of the screen's state: files and the terminal's clipboard.

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use ratatui::{buffer::Buffer, layout::Rect};
use serde_json::json;
use unicode_width::UnicodeWidthStr as _;

use super::{
    app::App,
    draw::{draw, layout},
    export::{Form, Table, Value, export, table},
    feed::{Feed, Heading},
    file::write_new,
    link::clipboard,
    model::{Model, Row},
    theme::Theme,
    view::{Place, View},
};
use crate::{report::format::count, text::screen_text, time::WallTime};

/// Names that are tried for a screen's files, when those before are taken.
const MAX_NAMES: usize = 99;

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Errand {
    /// Export the rows of the place to a file of this name.
    Export(String),
    /// Put a text into the terminal's clipboard.
    Copy(String),
    /// Write the screen to files.
    Dump,
}

/// Where an errand is done.
#[derive(Clone, Copy, Debug)]
pub struct Here<'a> {
    /// The data.
    pub feed: &'a Feed,
    /// What the screen is called.
    pub heading: &'a Heading,
    /// How it looks.
    pub theme: Theme,
    /// Its size.
    pub area: Rect,
    /// Where files go that are named without a folder.
    pub dir: &'a Path,
}

/// Does it. `Ok`: what is to be said of it; empty = nothing.
pub fn run(errand: &Errand, here: &Here<'_>, app: &App, before: Option<&Model>) -> Result<String, String> {
    if let Errand::Copy(text) = errand {
        let mut out = io::stdout();
        let written = out.write_all(&clipboard(text)).and_then(|()| out.flush());
        return written.map(|()| String::new()).map_err(|error| error.to_string());
    }
    // The frame on the screen may be older than the keys.
    let Here { feed, heading, theme, area, dir } = *here;
    let model = Model::read(feed, heading, app, &layout(area, app), before);
    match errand {
        Errand::Export(name) => export_to(dir, name.trim(), feed, app, &model),
        _ => dump(dir, app, &model, theme, area),
    }
}

/// The name of a file that is offered: of the time on the screen.
pub fn default_name(now: WallTime) -> String {
    format!("txray-{}.jsonl", stamp(now))
}

/// Exports to a file that must not be there.
fn export_to(dir: &Path, name: &str, feed: &Feed, app: &App, model: &Model) -> Result<String, String> {
    let shown = screen_text(name);
    let Some(form) = Form::of(name) else {
        return Err(format!("'{shown}' does not end in .jsonl, .csv, .txt or .json (Chrome trace)"));
    };
    let exported = export(form, feed, app, model);
    write_new(&dir.join(name), &exported.content).map_err(|error| fault(&shown, &error))?;
    Ok(format!("{} rows exported to {shown}{}", count(exported.n_rows as u64), exported.missing))
}

fn fault(shown: &str, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AlreadyExists => format!("{shown} exists already; nothing was written"),
        _ => format!("{shown}: {error}"),
    }
}

/// Writes the frame as text, and the model's figures as JSON.
fn dump(dir: &Path, app: &App, model: &Model, theme: Theme, area: Rect) -> Result<String, String> {
    let mut buffer = Buffer::empty(area);
    draw(&mut buffer, model, app, theme);
    let files = [("txt", frame_text(&buffer).into_bytes()), ("json", figures(model, app).into_bytes())];
    let stem = format!("txray-screen-{}", stamp(model.now));
    let paths = |n: usize| -> Vec<PathBuf> {
        let suffix = if n == 1 { String::new() } else { format!("-{n}") };
        files.iter().map(|(ending, _)| dir.join(format!("{stem}{suffix}.{ending}"))).collect()
    };
    let free =
        (1..=MAX_NAMES).map(paths).find(|paths| !paths.iter().any(|path| path.symlink_metadata().is_ok()));
    let paths = free.ok_or_else(|| format!("{stem}.txt and {MAX_NAMES} names after it exist already"))?;
    for (path, (_, content)) in paths.iter().zip(&files) {
        write_new(path, content).map_err(|error| fault(&screen_text(&path.to_string_lossy()), &error))?;
    }
    let name = paths[0].file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(format!("screen written to {name} and .json"))
}

/// The cells of a frame, line by line.
fn frame_text(buffer: &Buffer) -> String {
    let area = buffer.area;
    let mut text = String::new();
    for y in area.y..area.bottom() {
        let (mut line, mut x) = (String::new(), area.x);
        while x < area.right() {
            let symbol = buffer[(x, y)].symbol();
            line.push_str(symbol);
            // A wide character takes the next cell too.
            x += symbol.width().max(1) as u16;
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// The figures of a frame as one JSON object. Names are as on the screen.
fn figures(model: &Model, app: &App) -> String {
    let rows = |rows: &[Row]| -> Vec<serde_json::Value> {
        rows.iter()
            .map(|row| {
                let Row { service, role, operation, names: _, recent, count, errors, quantiles_ns, max_ns } =
                    row;
                json!({
                    "service": service, "role": role.as_str(), "operation": operation, "recent": recent,
                    "count": count, "errors": errors, "p50_p90_p99_p99_9_ns": quantiles_ns, "max_ns": max_ns,
                })
            })
            .collect()
    };
    let in_flight: Vec<_> = model
        .in_flight
        .iter()
        .map(|flight| json!({ "service": *flight.service, "below_3s_below_8s_older": flight.by_age }))
        .collect();
    let narrowed = model.narrowed.as_ref().map(|narrowed| {
        json!({ "filter": narrowed.text, "match": narrowed.n, "of": narrowed.of, "older": narrowed.older })
    });
    let list = model.list.as_ref().map(|list| json!({ "transactions": list.n, "kept": list.rows.len() }));
    let chart = model.chart.as_ref().map(|chart| json!({ "dots": chart.n, "clamped": chart.n_clamped }));
    let detail = app.opened().map(|shown| shown.id());
    let lost: serde_json::Map<_, _> =
        model.losses.lost.iter().map(|(reason, n)| (screen_text(reason).into_owned(), json!(n))).collect();
    let missing: Vec<_> = model
        .missing
        .iter()
        .map(|[feature, reason]| json!({ "feature": feature, "reason": reason }))
        .collect();
    let figures = json!({
        "type": "screen",
        "view": app.view.name(),
        "place": format!("{:?}", app.place_below_help()),
        "title": model.title,
        "whom": model.whom,
        "missing": missing,
        "processes_denied": model.denied,
        "now_ns": model.now.0,
        "paused": app.paused.is_some(),
        "replay": model.replay,
        "finished": model.finished,
        "run_filter": model.filter,
        "narrowed": narrowed,
        "transactions": model.count,
        "errors": model.errors,
        "recent": model.recent,
        "recent_s": model.recent_seconds,
        "all": model.all,
        "filtered": model.filtered,
        "in_flight": model.n_open,
        "long_lived": model.n_long_lived,
        "in_flight_by_service": in_flight,
        "requests": objects(&table(Place::View(View::Active), model)),
        "operations": rows(&model.rows),
        "services": rows(&model.services),
        "edges": objects(&table(Place::View(View::Services), model)),
        "counters": objects(&table(Place::View(View::Health), model)),
        "lost": lost,
        "lost_requests": { "low": model.losses.requests.low, "high": model.losses.requests.high },
        "kept": model.kept,
        "dots_evicted": model.evicted,
        "chart": chart,
        "list": list,
        "detail": detail,
    });
    format!("{figures:#}\n")
}

/// A table as objects, with text as on the screen.
fn objects(table: &Table) -> Vec<serde_json::Value> {
    let value = |value: &Value| match value {
        Value::Null => serde_json::Value::Null,
        Value::Number(n) => u64::try_from(*n).map_or_else(|_| json!(*n as i64), |n| json!(n)),
        Value::Boolean(value) => json!(value),
        Value::Text(text) => json!(screen_text(text)),
    };
    let object = |row: &Vec<Value>| {
        let pairs = table.headings.iter().zip(row);
        serde_json::Value::Object(pairs.map(|(name, cell)| ((*name).to_owned(), value(cell))).collect())
    };
    table.rows.iter().map(object).collect()
}

/// Date and time for file names, UTC: `20261126-140300`.
fn stamp(at: WallTime) -> String {
    let (days, second) = (at.0 / 86_400_000_000_000, at.0 / 1_000_000_000 % 86_400);
    // Days since 0000-03-01, in eras of 400 years: the calendar repeats.
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}{month:02}{day:02}-{:02}{:02}{:02}", second / 3_600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files_have_date_and_time() {
        for (text, name) in [
            ("1970-01-01T00:00:00Z", "19700101-000000"),
            ("2026-11-26T14:03:00Z", "20261126-140300"),
            ("2024-02-29T23:59:59Z", "20240229-235959"),
            ("2100-03-01T00:00:01Z", "21000301-000001"),
            ("2000-12-31T12:00:00Z", "20001231-120000"),
        ] {
            assert_eq!(stamp(text.parse().unwrap()), name);
        }
        assert_eq!(default_name("2026-11-26T14:03:00Z".parse().unwrap()), "txray-20261126-140300.jsonl");
    }
}
