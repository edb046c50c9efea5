//! A link in full, to be copied.

use ratatui::{
    buffer::Buffer,
    layout::Rect,
    style::Style,
    widgets::{Clear, Widget as _},
};
use unicode_width::UnicodeWidthChar as _;

use super::put;
use crate::tui::theme::Theme;

/// Draws it over the rest; `field`: that its trace id is from. Its lines hold nothing but the link, so that they can be marked with the mouse.
pub(super) fn draw(buffer: &mut Buffer, area: Rect, link: &str, field: Option<&str>, theme: Theme) {
    let mut lines = vec![String::new()];
    let mut used = 0;
    for c in link.chars() {
        let width = c.width().unwrap_or(0);
        if used + width > usize::from(area.width) {
            lines.push(String::new());
            used = 0;
        }
        used += width;
        if let Some(line) = lines.last_mut() {
            line.push(c);
        }
    }
    // Those of the longest link on the smallest screen do not all fit: its end is cut, the clipboard has it whole.
    let height = (lines.len() as u16 + 2).min(area.height);
    let window = Rect { y: area.y + (area.height - height) / 2, height, ..area };
    Clear.render(window, buffer);
    let trace = field.map(|field| format!("   trace id: {field}")).unwrap_or_default();
    let title = format!("Link, also in the clipboard (OSC 52)   any key closes{trace}");
    put(buffer, window.x, window.y, window.width, &title, theme.heading());
    for (line, y) in lines.iter().zip(window.y + 1..window.bottom()) {
        put(buffer, window.x, y, window.width, line, Style::new());
    }
}
