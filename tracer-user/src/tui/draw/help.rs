//! The keys of a place, written from the key map.

use ratatui::{
    buffer::Buffer,
    layout::Rect,
    style::Style,
    widgets::{Clear, Widget as _},
};
use unicode_width::UnicodeWidthStr as _;

use super::put;
use crate::{
    report::format::{Align, fit},
    text::screen_text,
    tui::{app::App, keymap::Action, theme::Theme},
};

/// Columns of the keys, and of them where the settings want more or longer ones.
const KEYS: usize = 13;
const MAX_KEYS: usize = 30;
/// Widest window.
const WIDTH: u16 = 76;

/// What is said besides the keys.
const NOTES: [&str; 3] = [
    "Rates are of the last 30 completed seconds,",
    "all else is of the whole run.",
    "Where something was lost the XLog shows ▒.",
];

/// The lines of the help.
pub(super) fn lines(app: &App) -> Vec<(String, String)> {
    let bindings = app.settings.keymap.of(app.place_below_help()).filter(|bound| !bound.keys.is_empty());
    let mut lines: Vec<(String, String)> =
        bindings.map(|bound| (bound.keys_text(), bound.what.to_owned())).collect();
    let presets = app.settings.keymap.of(app.place_below_help());
    for bound in presets.filter(|bound| matches!(bound.action, Action::Preset(_))) {
        for (key, number) in bound.keys.iter().zip(1..) {
            if let Some(layout) = app.settings.preset(number) {
                lines.push((key.name(), format!("layout: {}", screen_text(&layout.name))));
            }
        }
    }
    lines.extend(NOTES.map(|note| (String::new(), note.to_owned())));
    lines
}

/// Draws it over the rest; `scroll`: the first line.
pub(super) fn draw(buffer: &mut Buffer, area: Rect, app: &App, scroll: u16, theme: Theme) {
    let lines = lines(app);
    let columns = lines.iter().map(|(keys, _)| keys.width()).max().unwrap_or(0).clamp(KEYS, MAX_KEYS);
    let width = WIDTH.min(area.width);
    let height = (lines.len() as u16 + 2).min(area.height);
    let window =
        Rect { x: area.x + (area.width - width) / 2, y: area.y + (area.height - height) / 2, width, height };
    Clear.render(window, buffer);
    let room = usize::from(height.saturating_sub(2));
    let first = usize::from(scroll).min(lines.len().saturating_sub(room));
    let more = lines.len() - first.min(lines.len()) > room;
    let key = |action| app.settings.keymap.key_name(action);
    let close = key(Action::Back);
    let title = if more || first != 0 {
        format!("Keys   {} {} more   {close} close", key(Action::ScrollUp), key(Action::ScrollDown))
    } else {
        format!("Keys   {close} close")
    };
    put(buffer, window.x + 1, window.y, width - 2, &title, theme.heading());
    for (i, (keys, what)) in lines.iter().skip(first).take(room).enumerate() {
        let y = window.y + 1 + i as u16;
        let (x, what_x) = (window.x + 1, window.x + 2 + columns as u16);
        if keys.is_empty() {
            put(buffer, x, y, width - 2, what, theme.dim());
            continue;
        }
        put(
            buffer,
            x,
            y,
            columns as u16,
            &fit(keys, columns.max(keys.width()), Align::Left),
            theme.heading(),
        );
        put(buffer, what_x, y, width - columns as u16 - 3, what, Style::new());
    }
}
