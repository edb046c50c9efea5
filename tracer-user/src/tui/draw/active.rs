//! Requests in flight: how many of each age by service, and which, the oldest first.

use ratatui::{buffer::Buffer, layout::Rect, style::Style};

use super::{operations::role_letter, overview, put, waiting};
use crate::{
    report::format::{Align, count, duration, fit},
    source::now::Doing,
    text::{screen_bytes, screen_text},
    transaction::Kind,
    tui::{app::App, model::Model, theme::Theme},
};

/// Bars above, table below.
fn panes(area: Rect) -> (Rect, Rect) {
    let bars = (area.height / 3).max(1);
    let above = Rect { height: bars, ..area };
    let below = Rect { y: area.y + bars, height: area.height.saturating_sub(bars), ..area };
    (above, below)
}

/// Rows that fit below the heading.
pub(super) fn n_rows(area: Rect) -> u16 {
    panes(area).1.height.saturating_sub(1)
}

/// Draws it.
pub(super) fn draw(buffer: &mut Buffer, area: Rect, model: &Model, app: &App, theme: Theme) {
    let (bars, table) = panes(area);
    overview::flights(buffer, bars, model, theme);
    // Where it is now, of what is live.
    let now_width = if model.threads.is_some() { 8 } else { 0 };
    let names = usize::from(area.width).saturating_sub(8 + 8 + 1 + 16 + 5 + now_width);
    let service = (names / 3).clamp(4, 24);
    let operation = names.saturating_sub(service);
    let line = |age: &str,
                step: &str,
                now: &str,
                role: &str,
                service_text: &str,
                operation_text: &str,
                thread: &str| {
        format!(
            "{} {} {}{} {} {} {}",
            fit(age, 8, Align::Right),
            fit(step, 8, Align::Left),
            fit(now, now_width, Align::Left),
            fit(role, 1, Align::Left),
            fit(service_text, service, Align::Left),
            fit(operation_text, operation, Align::Left),
            fit(thread, 16, Align::Left),
        )
    };
    // A filter speaks of transactions: what is in flight is none yet.
    let request = if model.narrowed.is_some() { "request; filter not applied" } else { "request" };
    let heading = line("age", "step", "now", "", "service", request, "pid/tid");
    put(buffer, table.x, table.y, table.width, &heading, theme.heading());
    let hidden = (model.n_open + model.n_long_lived).saturating_sub(model.open.len() as u64);
    // What is not listed has the last line.
    let room = usize::from(n_rows(area)).saturating_sub(usize::from(hidden != 0));
    if model.open.is_empty() {
        // Before the first event there is nothing that could be known not to be.
        let is_loading = model.all == 0 && model.filtered == 0 && !model.finished;
        let text = if is_loading { waiting(model) } else { "nothing is in flight".to_owned() };
        put(buffer, table.x, table.y + 1, table.width, &text, theme.dim());
        return;
    }
    let selected = app.active.selected.min(model.open.len() - 1);
    let first = (selected + 1).saturating_sub(room);
    for (i, open) in model.open.iter().enumerate().skip(first).take(room) {
        let text = line(
            &duration(open.age_ns),
            open.step_name(),
            model
                .threads
                .as_ref()
                .and_then(|now| now.doing.get(&(open.pid, open.tid)))
                .map_or("", Doing::word),
            role_letter(open.role),
            &screen_text(&open.service),
            &screen_bytes(&open.request()),
            &format!("{}/{}", open.pid, open.tid),
        );
        let class = model.age_steps.class(open.age_ns);
        let mut style = match (open.kind, class) {
            // Meant to be open for long.
            (Kind::LongLived, _) => theme.dim(),
            (_, 0) => Style::new(),
            (_, class) => theme.step(class, model.age_steps.n_classes()).1,
        };
        if i == selected {
            style = theme.reversed();
        }
        put(buffer, table.x, table.y + 1 + (i - first) as u16, table.width, &text, style);
    }
    if hidden != 0 {
        let text = format!("and {} younger ones", count(hidden));
        put(buffer, table.x, table.bottom() - 1, table.width, &text, theme.dim());
    }
}
