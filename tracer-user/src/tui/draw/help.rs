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
    tui::{keymap, theme::Theme, view::Place},
};

/// Columns of the keys.
const KEYS: usize = 13;
/// Widest window.
const WIDTH: u16 = 76;

/// What is said besides the keys.
const NOTES: [&str; 3] = [
    "Rates are of the last 30 completed seconds,",
    "all else is of the whole run.",
    "Where something was lost the XLog shows ▒.",
];

/// The lines of the help.
pub(super) fn lines(place: Place) -> Vec<(String, String)> {
    let mut lines: Vec<(String, String)> = keymap::of(place)
        .map(|binding| {
            let keys: Vec<String> = binding.keys.iter().map(|key| key.name()).collect();
            (keys.join(" "), binding.what.to_owned())
        })
        .collect();
    lines.extend(NOTES.map(|note| (String::new(), note.to_owned())));
    lines
}

/// Draws it over the rest; `scroll`: the first line.
pub(super) fn draw(buffer: &mut Buffer, area: Rect, place: Place, scroll: u16, theme: Theme) {
    let lines = lines(place);
    let width = WIDTH.min(area.width);
    let height = (lines.len() as u16 + 2).min(area.height);
    let window =
        Rect { x: area.x + (area.width - width) / 2, y: area.y + (area.height - height) / 2, width, height };
    Clear.render(window, buffer);
    let room = usize::from(height.saturating_sub(2));
    let first = usize::from(scroll).min(lines.len().saturating_sub(room));
    let more = lines.len() - first.min(lines.len()) > room;
    let title = if more || first != 0 { "Keys   ↑ ↓ more   Esc close" } else { "Keys   Esc close" };
    put(buffer, window.x + 1, window.y, width - 2, title, theme.heading());
    for (i, (keys, what)) in lines.iter().skip(first).take(room).enumerate() {
        let y = window.y + 1 + i as u16;
        let (x, what_x) = (window.x + 1, window.x + 2 + KEYS as u16);
        if keys.is_empty() {
            put(buffer, x, y, width - 2, what, theme.dim());
            continue;
        }
        put(buffer, x, y, KEYS as u16, &fit(keys, KEYS.max(keys.width()), Align::Left), theme.heading());
        put(buffer, what_x, y, width - KEYS as u16 - 3, what, Style::new());
    }
}
