//! Requests in flight: how many of each age by service, and which, the oldest first.

use ratatui::{buffer::Buffer, layout::Rect, style::Style};

use super::{operations::role_letter, overview, put};
use crate::{
    pipeline::{OpenRequest, Step},
    report::format::{Align, count, duration, fit},
    text::{screen_bytes, screen_text},
    transaction::Kind,
    tui::{app::App, model::Model, theme::Theme},
};

/// Ages from which a request counts as slower: the steps of the bars.
const STEPS_NS: [u64; 2] = [3_000_000_000, 8_000_000_000];

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
    let names = usize::from(area.width).saturating_sub(8 + 8 + 1 + 16 + 5);
    let service = (names / 3).clamp(4, 24);
    let operation = names.saturating_sub(service);
    let line = |age: &str, step: &str, role: &str, service_text: &str, operation_text: &str, thread: &str| {
        format!(
            "{} {} {} {} {} {}",
            fit(age, 8, Align::Right),
            fit(step, 8, Align::Left),
            fit(role, 1, Align::Left),
            fit(service_text, service, Align::Left),
            fit(operation_text, operation, Align::Left),
            fit(thread, 16, Align::Left),
        )
    };
    let heading = line("age", "step", "", "service", "request", "pid/tid");
    put(buffer, table.x, table.y, table.width, &heading, theme.heading());
    let room = usize::from(n_rows(area));
    if model.open.is_empty() {
        put(buffer, table.x, table.y + 1, table.width, "nothing is in flight", theme.dim());
        return;
    }
    let selected = app.active.selected.min(model.open.len() - 1);
    let first = (selected + 1).saturating_sub(room);
    for (i, open) in model.open.iter().enumerate().skip(first).take(room) {
        let step = match (open.kind, open.step) {
            (Kind::LongLived, _) => "open",
            (_, Step::Reading) => "reading",
            (_, Step::Waiting) => "waiting",
            (_, Step::Sending) => "sending",
        };
        let text = line(
            &duration(open.age_ns),
            step,
            role_letter(open.role),
            &screen_text(&open.service),
            &screen_bytes(&request(open)),
            &format!("{}/{}", open.pid, open.tid),
        );
        let step = STEPS_NS.iter().filter(|step| open.age_ns >= **step).count();
        let mut style = if open.kind == Kind::LongLived { theme.dim() } else { Style::new() };
        if step > 0 {
            style = theme.step(step).1;
        }
        if i == selected {
            style = theme.reversed();
        }
        put(buffer, table.x, table.y + 1 + (i - first) as u16, table.width, &text, style);
    }
    let all = model.n_open + model.n_long_lived;
    let hidden = all.saturating_sub(model.open.len() as u64);
    if hidden != 0 && table.height > 1 {
        let text = format!("and {} younger ones", count(hidden));
        put(
            buffer,
            table.x,
            table.bottom() - 1,
            table.width,
            &fit(&text, usize::from(table.width), Align::Left),
            theme.dim(),
        );
    }
}

/// Method and target.
fn request(open: &OpenRequest) -> Vec<u8> {
    let mut text = open.method.as_bytes().to_vec();
    if !text.is_empty() {
        text.push(b' ');
    }
    text.extend_from_slice(&open.path);
    text
}
