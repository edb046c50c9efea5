//! Services, and who calls whom.

use ratatui::{buffer::Buffer, layout::Rect, style::Style};
use unicode_width::UnicodeWidthStr as _;

use super::{looked_at, nothing, operations::role_letter, put};
use crate::{
    report::format::{Align, count, duration, fit},
    tui::{
        app::App,
        columns,
        edges::Edge,
        graph::{Owner, Text},
        model::{Model, Row},
        theme::{Symbols, Theme},
    },
};

/// Figures of a line: heading, width, and the narrowest screen that shows it.
const FIGURES: [(&str, usize, u16); 6] =
    [("rate/s", 7, 0), ("errors", 7, 0), ("count", 9, 0), ("p50", 6, 100), ("p99", 6, 0), ("max", 6, 100)];

/// The narrowest and lowest area that has room for the map beside the tables.
const MAP: (u16, u16) = (100, 26);

/// Where things are.
struct Panes {
    services: Rect,
    map: Rect,
    edges: Rect,
}

/// Services above, the map in the middle if there is one, edges below.
fn panes(area: Rect, app: &App) -> Panes {
    let has_map = app.map && area.width >= MAP.0 && area.height >= MAP.1;
    let above = if has_map { area.height / 5 } else { (area.height / 3).max(3).min(area.height) };
    let map = if has_map { area.height / 2 } else { 0 };
    let services = Rect { height: above, ..area };
    let map = Rect { y: services.bottom(), height: map, ..area };
    let edges = Rect { y: map.bottom(), height: area.height.saturating_sub(above + map.height), ..area };
    Panes { services, map, edges }
}

/// Edges that fit below their heading.
pub(super) fn n_rows(area: Rect, app: &App) -> u16 {
    panes(area, app).edges.height.saturating_sub(2)
}

/// Cells of the map, without the line above it and the one below it.
pub(super) fn map_cells(area: Rect, app: &App) -> Rect {
    let map = panes(area, app).map;
    Rect { y: map.y + 1, height: map.height.saturating_sub(2), ..map }
}

/// Columns that a screen of this width has no room for.
fn hidden(width: u16) -> usize {
    FIGURES.iter().filter(|(.., narrowest)| width < *narrowest).count()
}

fn line(names: &str, width: u16, figures: [String; 6]) -> String {
    let shown = || FIGURES.iter().filter(|(.., narrowest)| width >= *narrowest);
    let used: usize = shown().map(|(_, cells, _)| cells + 1).sum();
    let room = usize::from(columns::beside_mark(width, hidden(width)));
    let mut text = fit(names, room.saturating_sub(used), Align::Left);
    for ((_, cells, narrowest), figure) in FIGURES.iter().zip(figures) {
        if width >= *narrowest {
            text.push(' ');
            text.push_str(&fit(&figure, *cells, Align::Right));
        }
    }
    text
}

fn figures(rate: String, errors: u64, n: u64, quantiles: Option<[u64; 4]>, max: u64) -> [String; 6] {
    let [p50, p99, max] = match quantiles {
        Some([p50, _, p99, _]) => [p50, p99, max].map(duration),
        None => ["-"; 3].map(str::to_owned),
    };
    [rate, count(errors), count(n), p50, p99, max]
}

/// Draws it.
pub(super) fn draw(buffer: &mut Buffer, area: Rect, model: &Model, app: &App, theme: Theme) {
    let Panes { services: top, map: middle, edges: below } = panes(area, app);
    let headings = FIGURES.map(|(name, ..)| name.to_owned());
    let text = line("service", top.width, headings.clone());
    super::heading(buffer, top, top.y, &text, hidden(top.width), theme);
    if model.services.is_empty() {
        let text = nothing(model, ["transaction", "transactions"]);
        put(buffer, top.x, top.y + 1, top.width, &text, theme.dim());
    }
    let room = usize::from(top.height.saturating_sub(2));
    for (i, row) in model.services.iter().take(room).enumerate() {
        let Row { service, role, recent, errors, count: n, quantiles_ns, max_ns, .. } = row;
        let names = format!("{} {service}", role_letter(*role));
        let rate = model.rate_of(*recent);
        let text = line(&names, top.width, figures(rate, *errors, *n, *quantiles_ns, *max_ns));
        put(buffer, top.x, top.y + 1 + i as u16, top.width, &text, Style::new());
    }
    if model.services.len() > room {
        let text = format!("and {} more services", count((model.services.len() - room) as u64));
        put(buffer, top.x, top.bottom() - 1, top.width, &text, theme.dim());
    }
    map(buffer, middle, map_cells(area, app), model, app, theme);
    if below.height < 2 {
        return;
    }
    let mut kept = format!("who calls whom, of {}", looked_at(model));
    // Where the map would be.
    if app.map && middle.is_empty() {
        kept.push_str("; no room for the map");
    }
    put(buffer, below.x, below.y, below.width, &kept, theme.dim());
    let text = line("from → to", below.width, headings);
    super::heading(buffer, below, below.y + 1, &text, hidden(below.width), theme);
    if model.edges.is_empty() && !model.services.is_empty() && below.height > 2 {
        let text = nothing(model, ["call", "calls"]);
        put(buffer, below.x, below.y + 2, below.width, &text, theme.dim());
    }
    let room = usize::from(n_rows(area, app));
    let selected = app.edges.selected.min(model.edges.len().saturating_sub(1));
    let first = (selected + 1).saturating_sub(room);
    let arrow = if theme.symbols == Symbols::Ascii { "->" } else { "→" };
    for (i, edge) in model.edges.iter().enumerate().skip(first).take(room) {
        let Edge { from, to, protocol, recent, errors, count: n, quantiles_ns, max_ns, .. } = edge;
        let rate = model.rate_of(*recent);
        let names = format!("{} {arrow} {}  {protocol}", from.name(), to.name());
        let text = line(&names, below.width, figures(rate, *errors, *n, *quantiles_ns, *max_ns));
        let mut style = if *errors * 2 >= *n { theme.error() } else { Style::new() };
        if i == selected {
            style = theme.reversed();
        }
        put(buffer, below.x, below.y + 2 + (i - first) as u16, below.width, &text, style);
    }
}

/// Draws the map.
fn map(buffer: &mut Buffer, pane: Rect, cells: Rect, model: &Model, app: &App, theme: Theme) {
    let Some((graph, picture)) = model.map.as_ref().filter(|_| !pane.is_empty()) else { return };
    let heading = "map: rate, errors and p99 of each call; a dashed end is not traced";
    put(buffer, pane.x, pane.y, pane.width, heading, theme.dim());
    let Some(picture) = picture else {
        let text = if graph.nodes.is_empty() { "no calls yet" } else { "no room for a single box" };
        put(buffer, cells.x, cells.y, cells.width, text, theme.dim());
        return;
    };
    // The links are in the order of the edges.
    let selected = app.edges.selected.min(model.edges.len().saturating_sub(1));
    let style = |owner: Owner| match owner {
        Owner::Link(link) if link == selected => theme.heading(),
        Owner::Link(_) => theme.dim(),
        Owner::Node(_) => Style::new(),
    };
    for ((x, y), c, owner) in picture.strokes(&graph.nodes, theme.symbols) {
        put(buffer, cells.x + x, cells.y + y, 1, c.encode_utf8(&mut [0; 4]), style(owner));
    }
    for Text { at: (x, y), text, owner } in &picture.texts {
        let (x, y) = (cells.x + x, cells.y + y);
        let room = cells.right().saturating_sub(x);
        let Owner::Link(link) = *owner else {
            put(buffer, x, y, room, text, theme.heading());
            continue;
        };
        let plain = if link == selected { theme.reversed() } else { Style::new() };
        put(buffer, x, y, room, text, plain);
        let errors = &graph.links[link].errors[picture.form];
        if let Some(at) = text.find(errors.as_str()).filter(|_| !errors.is_empty()) {
            let x = x + text[..at].width() as u16;
            put(buffer, x, y, cells.right().saturating_sub(x), errors, plain.patch(theme.error()));
        }
    }
    let more = picture.left_out.line(|recent| model.rate_of(recent));
    put(buffer, pane.x, pane.bottom() - 1, pane.width, &more, theme.dim());
}
