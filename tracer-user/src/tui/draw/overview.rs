//! XLog, requests in flight and operations on one screen.

use ratatui::{buffer::Buffer, layout::Rect, style::Style};
use unicode_width::UnicodeWidthStr as _;

use super::{chart, operations, put};
use crate::{
    pipeline::AgeSteps,
    report::format::{Align, count, duration, fit},
    tui::{
        app::App,
        model::Model,
        theme::{Symbols, Theme},
    },
};

/// Services in the in-flight pane.
const MAX_FLIGHTS: u16 = 3;

/// Where the panes lie.
pub(super) struct Panes {
    pub(super) chart: Rect,
    pub(super) flights: Rect,
    pub(super) table: Rect,
}

/// The panes of a body.
pub(super) fn panes(body: Rect) -> Panes {
    let flights = if body.height >= 20 { MAX_FLIGHTS } else { 1 };
    // Title and axis are the chart's. Half for the XLog, the table gets at least five rows.
    let free = body.height.saturating_sub(flights + 2);
    let cells = (free / 2).max(4).min(free.saturating_sub(4)).max(1);
    let mut y = body.y;
    let mut next = |height: u16| {
        let rect = Rect { y, height, ..body }.intersection(body);
        y += height;
        rect
    };
    let (chart, flights) = (next(cells + 2), next(flights));
    let table = next(body.bottom().saturating_sub(flights.bottom()));
    Panes { chart, flights, table }
}

/// Draws it.
pub(super) fn draw(buffer: &mut Buffer, body: Rect, model: &Model, app: &App, theme: Theme) {
    let panes = panes(body);
    chart::draw(buffer, chart::panes(panes.chart, false), model, app, theme);
    flights(buffer, panes.flights, model, theme);
    operations::draw(buffer, panes.table, model, app, theme);
}

/// The ages of the numbers in brackets, in their order.
fn legend(steps: &AgeSteps, theme: Theme) -> String {
    let from = if theme.symbols == Symbols::Ascii { ">=" } else { "≥" };
    let mut ages: Vec<String> =
        steps.ages_ns().iter().rev().map(|ns| format!("{from} {}", age(*ns))).collect();
    ages.push("younger".to_owned());
    format!("({})", ages.join(" / "))
}

/// A round one without the digits that it does not need.
fn age(ns: u64) -> String {
    const SECOND_NS: u64 = 1_000_000_000;
    if ns.is_multiple_of(SECOND_NS) { format!("{}s", ns / SECOND_NS) } else { duration(ns) }
}

/// How many requests are in flight, by service and age.
pub(super) fn flights(buffer: &mut Buffer, area: Rect, model: &Model, theme: Theme) {
    let mut head = format!("in flight {}", count(model.n_open));
    if model.n_long_lived != 0 {
        head.push_str(&format!("  long-lived {}", count(model.n_long_lived)));
    }
    if area.height == 0 {
        return;
    }
    put(buffer, area.x, area.y, area.width, &head, theme.heading());
    let left = head.width() as u16 + 2;
    let room = area.width.saturating_sub(left);
    let shown = model.in_flight.len().min(usize::from(area.height));
    let most = model.in_flight.iter().map(|flight| flight.by_age.iter().sum::<u64>()).max().unwrap_or(0);
    for (i, flight) in model.in_flight.iter().take(shown).enumerate() {
        let total: u64 = flight.by_age.iter().sum();
        let name = fit(&flight.service, 16, Align::Left);
        let counts: Vec<String> = flight.by_age.iter().rev().map(|n| count(*n)).collect();
        let label = format!("{name} {} ({}) ", count(total), counts.join(" / "));
        let y = area.y + i as u16;
        let x = area.x + left;
        put(buffer, x, y, room, &label, Style::new());
        let mut bar = x + (label.width() as u16).min(room);
        let cells = u64::from(area.right().saturating_sub(bar)).min(40);
        // From the left: the oldest first. Every step that is there has at least one cell.
        for (step, &n) in flight.by_age.iter().enumerate().rev() {
            let (symbol, style) = theme.step(step, model.age_steps.n_classes());
            let length = if n == 0 || most == 0 { 0 } else { (n * cells / most.max(cells)).max(1) };
            for _ in 0..length {
                if bar < area.right() {
                    buffer[(bar, y)].set_char(symbol).set_style(style);
                    bar += 1;
                }
            }
        }
        if i == 0 {
            // What the numbers in brackets are, where there is room for it.
            let legend = legend(&model.age_steps, theme);
            let x = area.right().saturating_sub(legend.width() as u16);
            if x >= bar.saturating_add(2) {
                put(buffer, x, y, area.right() - x, &legend, theme.dim());
            }
        }
        if i + 1 == shown && model.in_flight.len() > shown {
            let rest = format!(" and {} more services", model.in_flight.len() - shown);
            put(buffer, bar, y, area.right().saturating_sub(bar), &rest, theme.dim());
        }
    }
}
