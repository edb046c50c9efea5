//! Services, and who calls whom.

use ratatui::{buffer::Buffer, layout::Rect, style::Style};

use super::{operations::role_letter, put};
use crate::{
    report::format::{Align, count, duration, fit},
    tui::{
        app::App,
        edges::Edge,
        model::{Model, Row},
        theme::{Symbols, Theme},
    },
};

/// Figures of a line: heading, width, and the narrowest screen that shows it.
const FIGURES: [(&str, usize, u16); 6] =
    [("rate/s", 7, 0), ("errors", 7, 0), ("count", 9, 0), ("p50", 6, 100), ("p99", 6, 0), ("max", 6, 100)];

/// Services above, edges below.
fn panes(area: Rect) -> (Rect, Rect) {
    let above = (area.height / 3).max(3).min(area.height);
    let top = Rect { height: above, ..area };
    (top, Rect { y: top.bottom(), height: area.height.saturating_sub(above), ..area })
}

/// Edges that fit below their heading.
pub(super) fn n_rows(area: Rect) -> u16 {
    panes(area).1.height.saturating_sub(2)
}

fn line(names: &str, width: u16, figures: [String; 6]) -> String {
    let shown = || FIGURES.iter().filter(|(.., narrowest)| width >= *narrowest);
    let used: usize = shown().map(|(_, cells, _)| cells + 1).sum();
    let mut text = fit(names, usize::from(width).saturating_sub(used), Align::Left);
    for ((_, cells, narrowest), figure) in FIGURES.iter().zip(figures) {
        if width >= *narrowest {
            text.push(' ');
            text.push_str(&fit(&figure, *cells, Align::Right));
        }
    }
    text
}

fn figures(
    model: &Model,
    recent: u64,
    errors: u64,
    n: u64,
    quantiles: Option<[u64; 4]>,
    max: u64,
) -> [String; 6] {
    let [p50, p99, max] = match quantiles {
        Some([p50, _, p99, _]) => [p50, p99, max].map(duration),
        None => ["-"; 3].map(str::to_owned),
    };
    [model.rate_of(recent), count(errors), count(n), p50, p99, max]
}

/// Draws it.
pub(super) fn draw(buffer: &mut Buffer, area: Rect, model: &Model, app: &App, theme: Theme) {
    let (top, below) = panes(area);
    let headings = FIGURES.map(|(name, ..)| name.to_owned());
    put(buffer, top.x, top.y, top.width, &line("service", top.width, headings.clone()), theme.heading());
    if model.services.is_empty() {
        put(buffer, top.x, top.y + 1, top.width, "no transactions yet", theme.dim());
    }
    let room = usize::from(top.height.saturating_sub(2));
    for (i, row) in model.services.iter().take(room).enumerate() {
        let Row { service, role, recent, errors, count: n, quantiles_ns, max_ns, .. } = row;
        let names = format!("{} {service}", role_letter(*role));
        let text = line(&names, top.width, figures(model, *recent, *errors, *n, *quantiles_ns, *max_ns));
        put(buffer, top.x, top.y + 1 + i as u16, top.width, &text, Style::new());
    }
    if model.services.len() > room {
        let text = format!("and {} more services", count((model.services.len() - room) as u64));
        put(buffer, top.x, top.bottom() - 1, top.width, &text, theme.dim());
    }
    if below.height < 2 {
        return;
    }
    let kept = format!("who calls whom, of the {} transactions that are kept", count(model.kept));
    put(buffer, below.x, below.y, below.width, &kept, theme.dim());
    put(
        buffer,
        below.x,
        below.y + 1,
        below.width,
        &line("from → to", below.width, headings),
        theme.heading(),
    );
    let room = usize::from(n_rows(area));
    let selected = app.edges.selected.min(model.edges.len().saturating_sub(1));
    let first = (selected + 1).saturating_sub(room);
    let arrow = if theme.symbols == Symbols::Ascii { "->" } else { "→" };
    for (i, edge) in model.edges.iter().enumerate().skip(first).take(room) {
        let Edge { from, to, protocol, recent, errors, count: n, quantiles_ns, max_ns } = edge;
        let names = format!("{} {arrow} {}  {protocol}", from.name(), to.name());
        let text = line(&names, below.width, figures(model, *recent, *errors, *n, *quantiles_ns, *max_ns));
        let mut style = if *errors * 2 >= *n { theme.error() } else { Style::new() };
        if i == selected {
            style = theme.reversed();
        }
        put(buffer, below.x, below.y + 2 + (i - first) as u16, below.width, &text, style);
    }
}
