//! The list of what was selected.

use ratatui::{buffer::Buffer, layout::Rect};

use super::{operations::role_letter, put};
use crate::{
    report::{
        format::{Align, count, duration, fit},
        head,
    },
    text::screen_text,
    transaction::{End, Transaction},
    tui::{
        app::App,
        axis::Axis,
        calls::Line,
        columns::{self, ListColumn},
        model::{Listed, Model},
        theme::{Symbols, Theme},
    },
};

/// Title and heading.
const ABOVE: u16 = 2;
/// Least columns of a target: fewer tell nothing.
const TARGET: usize = 6;
/// Widths and alignments of the columns, in the order of [`ListColumn`]; those of names are the least they need where columns were chosen.
const WIDTHS: [(usize, Align); 7] = [
    (12, Align::Left),
    (8, Align::Right),
    (8, Align::Right),
    (1, Align::Left),
    (8, Align::Left),
    (12, Align::Left),
    (12, Align::Left),
];

/// The columns that are shown with their widths, and how many are not: of the chosen ones, where some were chosen.
fn columns(app: &App, width: u16) -> (Vec<(ListColumn, usize)>, usize) {
    let least = |column: ListColumn| WIDTHS[column as usize].0;
    let is_name = |column| matches!(column, ListColumn::Service | ListColumn::Operation | ListColumn::Target);
    let Some(chosen) = &app.columns.list else {
        let all = ListColumn::ALL.map(|(column, _)| column);
        let figures: usize = all.into_iter().filter(|c| !is_name(*c)).map(|column| least(column) + 1).sum();
        let of_width = |width: u16| -> Vec<_> {
            let names = usize::from(width).saturating_sub(figures + 1);
            let service = (names / 4).clamp(4, 24);
            let operation =
                names.saturating_sub(service + 1).min(40).min((names - service.min(names)) / 2 + 8);
            let target = Some(names.saturating_sub(service + operation + 2)).filter(|n| *n >= TARGET);
            let width = |column| match column {
                ListColumn::Service => service,
                ListColumn::Operation => operation,
                ListColumn::Target => target.unwrap_or(0),
                figure => least(figure),
            };
            let all = all.into_iter().map(|column| (column, width(column)));
            all.filter(|(_, width)| *width != 0).collect()
        };
        let n_hidden = |shown: &[_]| all.len() - shown.len();
        let hidden = n_hidden(&of_width(width));
        let shown = of_width(columns::beside_mark(width, hidden));
        let hidden = n_hidden(&shown);
        return (shown, hidden);
    };
    let n = columns::fitting(chosen.iter().map(|column| least(*column)), width.into());
    let hidden = chosen.len() - n;
    let mut shown: Vec<_> = chosen[..n].iter().map(|column| (*column, least(*column))).collect();
    let used: usize = shown.iter().map(|(_, width)| width + 1).sum();
    let rest = usize::from(columns::beside_mark(width, hidden)).saturating_sub(used);
    // What is left is the names', in equal parts.
    let names = shown.iter().filter(|(column, _)| is_name(*column)).count();
    for (_, width) in shown.iter_mut().filter(|(column, _)| is_name(*column)) {
        *width += rest / names;
    }
    (shown, hidden)
}

/// Columns of the value on the axis; the elapsed time has its own anyway.
fn axis_width(axis: Axis) -> Option<u16> {
    let heading = u16::try_from(axis.name().len()).unwrap_or(u16::MAX);
    (axis != Axis::Elapsed).then_some(heading.max(8))
}

/// Rows that fit below the heading.
pub(super) fn n_rows(area: Rect) -> u16 {
    area.height.saturating_sub(ABOVE)
}

/// Draws it.
pub(super) fn draw(buffer: &mut Buffer, area: Rect, model: &Model, app: &App, theme: Theme) {
    let Some(list) = &model.list else { return };
    put(buffer, area.x, area.y, area.width, &title(list), theme.heading());
    let axis = list.rectangle.axis();
    let axis_width = axis_width(axis);
    let (columns, hidden) = columns(app, area.width.saturating_sub(axis_width.map_or(0, |width| width + 1)));
    // The value that the rectangle was selected by stands beside the elapsed time, or first.
    let beside = columns.iter().position(|(column, _)| *column == ListColumn::Elapsed);
    let line = |cell: &dyn Fn(ListColumn) -> String, value: &str| {
        let mut cells: Vec<String> = columns
            .iter()
            .map(|&(column, width)| fit(&cell(column), width, WIDTHS[column as usize].1))
            .collect();
        if let Some(width) = axis_width {
            let at = beside.map_or(0, |at| at + 1);
            cells.insert(at, fit(value, width.into(), Align::Right));
        }
        cells.join(" ") + " "
    };
    let mark = if theme.symbols == Symbols::Ascii { "*" } else { "▾" };
    let heading = |column| match ListColumn::ALL[column as usize].1 {
        "role" => String::new(),
        name if name == app.list_sort.column() => format!("{mark}{name}"),
        name => name.to_owned(),
    };
    super::heading(buffer, area, area.y + 1, &line(&heading, axis.name()), hidden, theme);
    let room = usize::from(n_rows(area));
    if list.rows.is_empty() {
        put(buffer, area.x, area.y + ABOVE, area.width, "no transaction ends there", theme.dim());
        return;
    }
    let selected = app.list.selected.min(list.lines.len().saturating_sub(1));
    let first = (selected + 1).saturating_sub(room);
    for (i, shown) in list.lines.iter().enumerate().skip(first).take(room) {
        let row = &shown.row;
        let (mark, service, operation) = call(shown, theme);
        let cell = |column| match column {
            ListColumn::End => clock_ms(row),
            ListColumn::Elapsed => duration(row.duration_ns.max(0).unsigned_abs()),
            ListColumn::Status => status(row),
            ListColumn::Role => mark.to_owned(),
            ListColumn::Service => service.clone(),
            ListColumn::Operation => operation.clone(),
            ListColumn::Target => row.target.as_deref().map(head::target).unwrap_or_default(),
        };
        let text = line(&cell, &axis.value(row).map_or("-".to_owned(), |value| axis.text(value)));
        let mut style = theme.line(row);
        if i == selected {
            style = theme.reversed();
        }
        put(buffer, area.x, area.y + ABOVE + (i - first) as u16, area.width, &text, style);
    }
}

/// Mark, service and operation; of a local call both services, and by how much its ends differ.
fn call(line: &Line, theme: Theme) -> (&'static str, String, String) {
    let [service, operation] =
        [&line.row.service, &line.row.operation].map(|text| screen_text(text).into_owned());
    let (mark, difference) = if theme.symbols == Symbols::Ascii { ("=", "+-") } else { ("⇄", "±") };
    match (&line.other, line.difference_ns()) {
        (Some(other), Some(ns)) if line.is_call() => {
            let both = format!("{service} {mark} {}", screen_text(&other.service));
            (mark, both, format!("{difference}{} {operation}", duration(ns)))
        }
        (Some(_), _) => (role_letter(line.row.role), service, format!("{mark} {operation}")),
        _ => (role_letter(line.row.role), service, operation),
    }
}

/// How many, where, and how many of them cannot be listed.
fn title(list: &Listed) -> String {
    let (from, to) = list.rectangle.times();
    let (low, high) = (list.rectangle.bottom_ns(), list.rectangle.top_ns());
    let axis = list.rectangle.axis();
    let more =
        if axis == Axis::Elapsed { " and longer".to_owned() } else { format!(" and more, {}", axis.name()) };
    let open = match (list.rectangle.is_open(), axis) {
        (true, _) => more,
        (false, Axis::Elapsed) => String::new(),
        (false, axis) => format!(" {}", axis.name()),
    };
    let mut text = format!(
        "{} transactions{}  {} to {}  {} to {}{open}",
        count(list.n),
        // Both ends of a call are two transactions.
        match list.n_calls {
            0 => String::new(),
            n => format!(" ({} calls)", count(list.n.saturating_sub(n))),
        },
        crate::report::format::clock(from),
        crate::report::format::clock(to),
        list.rectangle.axis().text(low),
        list.rectangle.axis().text(high),
    );
    let missing = list.n.saturating_sub(list.rows.len() as u64);
    if missing != 0 {
        text.push_str(&format!("; {} of them are older than the rows that are kept", count(missing)));
    }
    if list.older != 0 {
        text.push_str(&format!("; {} older ones of that time are not kept", count(list.older)));
    }
    text
}

/// End with milliseconds.
fn clock_ms(row: &Transaction) -> String {
    let ms = row.end_time.0 / 1_000_000 % 1_000;
    format!("{}.{ms:03}", crate::report::format::clock(row.end_time))
}

/// Status, or what stands for it.
pub(super) fn status(row: &Transaction) -> String {
    match (row.status_code, row.end) {
        (Some(code), End::Answered) => code.to_string(),
        (_, End::Answered) => row.error_type.as_deref().unwrap_or("-").to_owned(),
        (_, end) => end.as_str().to_owned(),
    }
}
