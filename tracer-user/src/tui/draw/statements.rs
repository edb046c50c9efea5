//! What databases and caches are asked: statements, where their time goes.

use ratatui::{buffer::Buffer, layout::Rect, style::Style};

use super::{looked_at, nothing, operations::role_letter, put};
use crate::{
    report::format::{Align, count, duration, fit},
    tui::{
        app::App,
        columns,
        contrast::share,
        model::Model,
        statements::Statement,
        theme::{Symbols, Theme},
    },
};

/// What they are made of, and the heading.
const ABOVE: u16 = 2;
/// Figures of a line: heading, width, and the narrowest screen that shows it.
const FIGURES: [(&str, usize, u16); 8] = [
    ("rate/s", 7, 100),
    ("count", 8, 0),
    ("errors", 7, 0),
    ("p50", 6, 90),
    ("p99", 6, 0),
    ("max", 6, 100),
    ("total", 6, 0),
    ("share", 6, 0),
];
/// Narrowest screen that shows where they go.
const WIDE: u16 = 100;

/// Rows that fit below the heading.
pub(super) fn n_rows(area: Rect) -> u16 {
    area.height.saturating_sub(ABOVE)
}

/// Draws it.
pub(super) fn draw(buffer: &mut Buffer, area: Rect, model: &Model, app: &App, theme: Theme) {
    let kept = format!("statements, of {}", looked_at(model));
    put(buffer, area.x, area.y, area.width, &kept, theme.dim());
    if model.statements.is_empty() {
        for (y, text) in (area.y + 1..area.bottom()).zip(none(model)) {
            put(buffer, area.x, y, area.width, &text, theme.dim());
        }
        return;
    }
    let mark = if theme.symbols == Symbols::Ascii { "*" } else { "▾" };
    let heading = |name: &str| {
        if name == app.statement_sort.column() { format!("{mark}{name}") } else { name.to_owned() }
    };
    let headings = FIGURES.map(|(name, ..)| heading(name));
    let text = line(["service", "", "statement", "where", "protocol"], headings, area.width);
    super::heading(buffer, area, area.y + 1, &text, hidden(area.width), theme);
    let room = usize::from(n_rows(area));
    let selected = app.statements.selected.min(model.statements.len() - 1);
    let first = (selected + 1).saturating_sub(room);
    for (i, row) in model.statements.iter().enumerate().skip(first).take(room) {
        let names = [&*row.service, role_letter(row.role), &*row.digest, &*row.target, row.protocol];
        let text = line(names, figures(model, row), area.width);
        let mut style = if row.errors * 2 >= row.count { theme.error() } else { Style::new() };
        if i == selected {
            style = theme.reversed();
        }
        put(buffer, area.x, area.y + ABOVE + (i - first) as u16, area.width, &text, style);
    }
}

/// Why there are none.
fn none(model: &Model) -> Vec<String> {
    let is_narrowed = model.narrowed.as_ref().is_some_and(|narrowed| narrowed.of != 0);
    if is_narrowed || (model.all == 0 && !model.finished) {
        return vec![nothing(model, ["statement", "statements"])];
    }
    let protocols = match &model.protocols[..] {
        [] => "none".to_owned(),
        protocols => protocols.join(", "),
    };
    vec![
        "no database or cache traffic has been recognised".to_owned(),
        format!("protocols recognised so far: {protocols}"),
    ]
}

fn figures(model: &Model, row: &Statement) -> [String; 8] {
    // Both ends of a local call have their time: they are never added up.
    let all = model.statements.iter().filter(|other| other.role == row.role);
    let all: u64 = all.map(|other| other.total_ns).sum();
    let [p50, p99, max] = row.times_ns.map_or(["-"; 3].map(str::to_owned), |times| times.map(duration));
    [
        model.rate_of(row.recent),
        count(row.count),
        count(row.errors),
        p50,
        p99,
        max,
        duration(row.total_ns),
        format!("{:.1}%", share(row.total_ns, all) * 100.0),
    ]
}

/// Columns that a screen of this width has no room for: where they go and the protocol are two.
fn hidden(width: u16) -> usize {
    let figures = FIGURES.iter().map(|(.., narrowest)| *narrowest);
    figures.chain([WIDE, WIDE]).filter(|narrowest| width < *narrowest).count()
}

fn line([service, role, digest, target, protocol]: [&str; 5], figures: [String; 8], width: u16) -> String {
    let shown = || FIGURES.iter().filter(|(.., narrowest)| width >= *narrowest);
    let used: usize = shown().map(|(_, cells, _)| cells + 1).sum();
    let room = usize::from(columns::beside_mark(width, hidden(width))).saturating_sub(used);
    let mut text = String::new();
    let mut name = |content: &str, cells: usize| {
        text.push_str(&fit(content, cells, Align::Left));
        text.push(' ');
    };
    if width >= WIDE {
        let room = room.saturating_sub(2 + 4 + 9);
        let (first, last) = ((room / 5).min(24), (room / 3).min(40));
        name(service, first);
        name(role, 1);
        name(digest, room - first - last);
        name(target, last);
        name(protocol, 8);
    } else {
        let room = room.saturating_sub(4);
        let first = (room / 3).max(4).min(room);
        name(service, first);
        name(role, 1);
        name(digest, room - first);
    }
    for ((_, cells, narrowest), figure) in FIGURES.iter().zip(figures) {
        if width >= *narrowest {
            text.push_str(&fit(&figure, *cells, Align::Right));
            text.push(' ');
        }
    }
    text.truncate(text.trim_end().len());
    text
}
