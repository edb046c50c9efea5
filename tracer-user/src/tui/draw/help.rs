//! The keys of a place, written from the key map.

use ratatui::{
    buffer::Buffer,
    layout::Rect,
    text::{Line, Span},
    widgets::{Clear, Widget as _},
};
use unicode_width::UnicodeWidthStr as _;

use super::put;
use crate::{
    report::format::{Align, fit},
    sink::xlog::Class,
    text::screen_text,
    tui::{
        app::App,
        keymap::Action,
        theme::Theme,
        view::{Place, View},
    },
};

/// Columns of the keys, and of them where the settings want more or longer ones.
const KEYS: usize = 13;
const MAX_KEYS: usize = 30;
/// Widest window.
const WIDTH: u16 = 76;

/// What is said besides the keys.
const NOTES: [&str; 6] = [
    "Rates are of the last 30 completed seconds,",
    "all else is of the whole run.",
    "An error is an answer of 500 and above (for who asked: of 400",
    "and above), or none. S served a request, C made it.",
    "Where something was lost the XLog shows ▒. The row below it: how",
    "many ended in each column; beside it, the rate of the fullest.",
];

/// What the colours of dots mean, the least important first.
const DOTS: [(Class, &str); Class::ALL.len()] = [
    (Class::Normal, "fine"),
    (Class::LongLived, "long-lived"),
    (Class::ClientError, "4xx"),
    (Class::Stuck, "stuck"),
    (Class::Aborted, "aborted"),
    (Class::Error, "error"),
];

/// The legend of the dots, each word as its dot.
fn legend(theme: Theme) -> Line<'static> {
    let mut spans = vec![Span::styled("Dots: ", theme.dim())];
    for (i, (class, what)) in DOTS.into_iter().enumerate() {
        if i != 0 {
            spans.push(Span::styled(", ", theme.dim()));
        }
        spans.push(Span::styled(what, theme.class(class)));
        if let Some(letter) = theme.letter(class) {
            spans.push(Span::styled(format!(" {letter}"), theme.dim()));
        }
    }
    Line::from(spans)
}

/// The lines of the help.
fn lines(app: &App, theme: Theme) -> Vec<(String, Line<'static>)> {
    let bindings = app.settings.keymap.of(app.place_below_help()).filter(|bound| !bound.keys.is_empty());
    let mut lines: Vec<(String, Line<'static>)> = Vec::new();
    let said = |what: String| (String::new(), Line::styled(what, theme.dim()));
    for bound in bindings {
        lines.push((bound.keys_text(), bound.what.into()));
        if bound.action == Action::TypeFilter {
            lines.push(said(format!("Words: {}", app.settings.thresholds().words())));
        }
    }
    let presets = app.settings.keymap.of(app.place_below_help());
    for bound in presets.filter(|bound| matches!(bound.action, Action::Preset(_))) {
        for (key, number) in bound.keys.iter().zip(1..) {
            if let Some(layout) = app.settings.preset(number) {
                lines.push((key.name(), format!("layout: {}", screen_text(&layout.name)).into()));
            }
        }
    }
    lines.extend(NOTES.map(|note| said(note.to_owned())));
    // Which key of the settings says which columns a table has.
    let chosen = match app.place_below_help() {
        Place::View(View::Overview | View::Operations) => Some(Some("operations")),
        Place::List => Some(Some("list")),
        Place::View(View::Services | View::Statements | View::Connections) => Some(None),
        _ => None,
    };
    if let Some(key) = chosen {
        let end = if key.is_some() { "," } else { "." };
        lines.push(said(format!(">2 in a heading: for 2 columns a wider screen is needed{end}")));
        lines.extend(key.map(|key| said(format!("or other ones: {key} = […] of the settings' [screen]."))));
    }
    if matches!(app.place_below_help(), Place::View(View::Overview | View::Xlog) | Place::Select) {
        lines.push((String::new(), legend(theme)));
        lines.push(said("Where dots share a cell, the one named last is shown.".to_owned()));
    }
    lines
}

/// Draws it over the rest; `scroll`: the first line.
pub(super) fn draw(buffer: &mut Buffer, area: Rect, app: &App, scroll: u16, theme: Theme) {
    let lines = lines(app, theme);
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
            buffer.set_line(x, y, what, width - 2);
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
        buffer.set_line(what_x, y, what, width - columns as u16 - 3);
    }
}
