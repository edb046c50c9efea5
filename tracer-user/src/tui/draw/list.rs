//! The list of what was selected.

use ratatui::{buffer::Buffer, layout::Rect, style::Style};

use super::{operations::role_letter, put};
use crate::{
    report::format::{Align, count, duration, fit},
    sink::xlog::Class,
    text::{screen_bytes, screen_text},
    transaction::{End, Transaction},
    tui::{
        app::App,
        model::{Listed, Model},
        theme::{Symbols, Theme},
    },
};

/// Title and heading.
const ABOVE: u16 = 2;
/// Columns before the names: heading, width, alignment.
const FIGURES: [(&str, usize, Align); 4] = [
    ("end", 12, Align::Left),
    ("elapsed", 8, Align::Right),
    ("status", 8, Align::Right),
    ("", 1, Align::Left),
];

/// Rows that fit below the heading.
pub(super) fn n_rows(area: Rect) -> u16 {
    area.height.saturating_sub(ABOVE)
}

/// Draws it.
pub(super) fn draw(buffer: &mut Buffer, area: Rect, model: &Model, app: &App, theme: Theme) {
    let Some(list) = &model.list else { return };
    put(buffer, area.x, area.y, area.width, &title(list), theme.heading());
    let figures: usize = FIGURES.iter().map(|(_, width, _)| width + 1).sum();
    let names = usize::from(area.width).saturating_sub(figures + 1);
    let service = (names / 4).clamp(4, 24);
    let operation = names.saturating_sub(service + 1).min(40).min((names - service.min(names)) / 2 + 8);
    let target = names.saturating_sub(service + operation + 2);
    let line = |cells: [&str; 4], names: [&str; 3]| {
        let mut text = String::new();
        for ((_, width, align), cell) in FIGURES.iter().zip(cells) {
            text.push_str(&fit(cell, *width, *align));
            text.push(' ');
        }
        for (width, name) in [service, operation, target].into_iter().zip(names) {
            if width != 0 {
                text.push_str(&fit(name, width, Align::Left));
                text.push(' ');
            }
        }
        text
    };
    let mark = if theme.symbols == Symbols::Ascii { "*" } else { "▾" };
    let heading = |name: &str| {
        if name == app.list_sort.column() { format!("{mark}{name}") } else { name.to_owned() }
    };
    let headings = FIGURES.map(|(name, ..)| heading(name));
    let text = line(headings.each_ref().map(String::as_str), ["service", &heading("operation"), "target"]);
    put(buffer, area.x, area.y + 1, area.width, &text, theme.heading());
    let room = usize::from(n_rows(area));
    if list.rows.is_empty() {
        put(buffer, area.x, area.y + ABOVE, area.width, "no transaction ends there", theme.dim());
        return;
    }
    let selected = app.list.selected.min(list.rows.len() - 1);
    let first = (selected + 1).saturating_sub(room);
    for (i, row) in list.rows.iter().enumerate().skip(first).take(room) {
        let target = row.target.as_deref().map(screen_bytes).unwrap_or_default();
        let cells = [&clock_ms(row), &duration(row.duration_ns.max(0).unsigned_abs()), &status(row)];
        let [end, elapsed, status] = cells.map(String::as_str);
        let names = [&*screen_text(&row.service), &*screen_text(&row.operation), &*target];
        let text = line([end, elapsed, status, role_letter(row.role)], names);
        let mut style = match Class::of(row) {
            Class::Normal => Style::new(),
            class => theme.class(class),
        };
        if i == selected {
            style = theme.reversed();
        }
        put(buffer, area.x, area.y + ABOVE + (i - first) as u16, area.width, &text, style);
    }
}

/// How many, where, and how many of them cannot be listed.
fn title(list: &Listed) -> String {
    let (from, to) = list.rectangle.times();
    let (low, high) = (list.rectangle.bottom_ns(), list.rectangle.top_ns());
    let open = if list.rectangle.is_open() { " and longer" } else { "" };
    let mut text = format!(
        "{} transactions  {} to {}  {} to {}{open}",
        count(list.n),
        crate::report::format::clock(from),
        crate::report::format::clock(to),
        duration(low),
        duration(high),
    );
    let missing = list.n.saturating_sub(list.rows.len() as u64);
    if missing != 0 {
        text.push_str(&format!("; {} of them are older than the rows that are kept", count(missing)));
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
