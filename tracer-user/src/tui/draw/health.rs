//! txray itself: every counter, what it was worth in the last second, and what was lost.

use ratatui::{buffer::Buffer, layout::Rect, style::Style};

use super::put;
use crate::{
    report::format::{Align, count, duration, fit},
    tui::{app::App, model::Model, theme::Theme},
};

/// Columns of a counter: name, total, per second.
const NAME: usize = 34;
const TOTAL: usize = 16;
const RATE: usize = 12;

/// Draws it.
pub(super) fn draw(buffer: &mut Buffer, area: Rect, model: &Model, app: &App, theme: Theme) {
    if model.counters.is_empty() {
        let text = if model.losses.unknown {
            "this recording holds transactions only: its counters are not known"
        } else {
            "no counters yet: they come once a second"
        };
        put(buffer, area.x, area.y, area.width, text, theme.dim());
        return;
    }
    put(buffer, area.x, area.y, area.width, &cost(model), Style::new());
    let area = Rect { y: area.y + 1, height: area.height.saturating_sub(1), ..area };
    let heading = format!(
        "{}{}{}",
        fit("counter", NAME, Align::Left),
        fit("total", TOTAL, Align::Right),
        fit("last second", RATE, Align::Right),
    );
    put(buffer, area.x, area.y, area.width, &heading, theme.heading());
    let room = usize::from(area.height).saturating_sub(1);
    let first = usize::from(app.scroll).min(model.counters.len().saturating_sub(room));
    for (i, (name, n, more)) in model.counters.iter().skip(first).take(room).enumerate() {
        let value = |n: u64| if name.ends_with("_ns") { duration(n) } else { count(n) };
        let rate = match more {
            // A gauge has no rate.
            _ if name.starts_with("gauge.") => String::new(),
            Some(more) => value(*more),
            None => "-".to_owned(),
        };
        let text = format!(
            "{}{}{}",
            fit(name, NAME, Align::Left),
            fit(&value(*n), TOTAL, Align::Right),
            fit(&rate, RATE, Align::Right),
        );
        let is_loss = name.starts_with("lost.")
            || name
                .strip_prefix("kernel.")
                .is_some_and(|name| crate::report::loss::LOST_IN_KERNEL.contains(&name));
        let style = match (is_loss && *n != 0, *n == 0) {
            (true, _) => theme.loss(),
            (_, true) => theme.dim(),
            _ => Style::new(),
        };
        put(buffer, area.x, area.y + 1 + i as u16, area.width, &text, style);
    }
}

/// What txray itself takes, where the counters say it.
fn cost(model: &Model) -> String {
    let find = |name: &str| model.counters.iter().find(|(known, ..)| known == name);
    let mut parts = Vec::new();
    if let Some((_, total, more)) = find("txray.cpu_ns") {
        // Counters come once a second.
        let share = more.map(|ns| format!(", {:.1} % of one in the last second", ns as f64 / 1e7));
        parts.push(format!("{} of a processor{}", duration(*total), share.unwrap_or_default()));
    }
    for (name, what) in [("gauge.resident_bytes", "resident"), ("gauge.ring_bytes", "ring")] {
        if let Some((_, bytes, _)) = find(name) {
            parts.push(format!("{what} {:.1} MB", *bytes as f64 / 1e6));
        }
    }
    if parts.is_empty() { "what txray itself takes is not known here".to_owned() } else { parts.join("   ") }
}
