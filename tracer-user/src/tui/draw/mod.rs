//! Drawing: from a [`Model`] and an [`App`] to cells. One file for each thing that is drawn.

mod active;
mod anatomy;
mod chart;
mod connections;
mod contrast;
mod detail;
mod gaps;
mod health;
mod help;
mod list;
mod operations;
mod overview;
mod patterns;
mod profile;
mod range;
mod services;
mod stacks;
mod statements;
mod url;

use ratatui::{buffer::Buffer, layout::Rect, style::Style};
use unicode_width::UnicodeWidthStr as _;

pub(in crate::tui) use self::detail::{detail_text, parts};
use super::{
    app::{App, Purpose},
    axis::Axis,
    columns, command,
    keymap::Action,
    model::{Model, Narrowed},
    playback::Played,
    theme::Theme,
    view::{Place, View},
};
use crate::{
    report::format::{Align, clock, count, fit},
    text::screen_text,
};

/// The smallest terminal that the screen fits.
const SMALLEST: (u16, u16) = (60, 15);

/// Where things are on a screen of some size: what keys and the mouse refer to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// Cells of the XLog.
    pub chart: Rect,
    /// Rows of the table that has the arrows.
    pub rows: u16,
    /// Cells of the map.
    pub map: Rect,
    /// Cells of the counter graphs, all of them together.
    pub graphs: Rect,
    /// Cells of the flame graph.
    pub flame: Rect,
}

/// Header, tabs and losses above, footer below.
const ABOVE: u16 = 3;

fn body(area: Rect) -> Rect {
    Rect { y: area.y.saturating_add(ABOVE), height: area.height.saturating_sub(ABOVE + 1), ..area }
        .intersection(area)
}

/// The layout of a screen of this size.
pub fn layout(area: Rect, app: &App) -> Layout {
    let body = body(area);
    let chart = match app.view {
        View::Overview => chart::panes(overview::panes(body).chart, false).cells,
        View::Xlog => chart::panes(body, true).cells,
        View::Active | View::Operations | View::Services | View::Health => Rect::default(),
        View::Statements | View::Stacks | View::Connections | View::Patterns => Rect::default(),
    };
    let rows = match app.place_below_help() {
        Place::List => list::n_rows(body),
        Place::View(View::Overview) => operations::n_rows(overview::panes(body).table),
        Place::View(View::Active) => active::n_rows(body),
        Place::View(View::Operations) => operations::n_rows(body),
        Place::View(View::Services) => services::n_rows(body, app),
        Place::View(View::Statements) => statements::n_rows(body),
        Place::View(View::Stacks) => stacks::n_rows(body),
        Place::View(View::Connections) => connections::n_rows(body),
        Place::View(View::Patterns) => patterns::n_rows(body),
        _ => body.height,
    };
    let flame = stacks::panes(body).flame;
    Layout { chart, rows, map: services::map_cells(body, app), graphs: range::cells(body), flame }
}

/// Draws one frame.
pub fn draw(buffer: &mut Buffer, model: &Model, app: &App, theme: Theme) {
    let area = buffer.area;
    if area.width < SMALLEST.0 || area.height < SMALLEST.1 {
        let text =
            format!("txray needs {}×{}, this is {}×{}", SMALLEST.0, SMALLEST.1, area.width, area.height);
        put(buffer, area.x, area.y, area.width, &text, Style::new());
        return;
    }
    let line = |y: u16| Rect { y, height: 1, ..area };
    header(buffer, line(area.y), model, app, theme);
    tabs(buffer, line(area.y + 1), model, app, theme);
    losses(buffer, line(area.y + 2), model, theme);
    let body = body(area);
    match (app.place_below_help(), app.view) {
        (Place::Detail, _) => detail::draw(buffer, body, model, app, theme),
        (Place::Contrast, _) => contrast::draw(buffer, body, model, app, theme),
        (Place::List, _) => list::draw(buffer, body, model, app, theme),
        (Place::Range, _) => range::draw(buffer, body, model, app, theme),
        (_, View::Overview) => overview::draw(buffer, body, model, app, theme),
        (_, View::Xlog) => chart::draw(buffer, chart::panes(body, true), model, app, theme),
        (_, View::Active) => active::draw(buffer, body, model, app, theme),
        (_, View::Services) => services::draw(buffer, body, model, app, theme),
        (_, View::Statements) => statements::draw(buffer, body, model, app, theme),
        (_, View::Stacks) => stacks::draw(buffer, body, model, app, theme),
        (_, View::Connections) => connections::draw(buffer, body, model, app, theme),
        (_, View::Health) => health::draw(buffer, body, model, app, theme),
        (_, View::Patterns) => patterns::draw(buffer, body, model, app, theme),
        (_, View::Operations) => operations::draw(buffer, body, model, app, theme),
    }
    footer(buffer, line(area.bottom() - 1), app, theme);
    if let Some(scroll) = app.help {
        // The line below says how to leave.
        let above = Rect { height: area.height - 1, ..area };
        help::draw(buffer, above, app, scroll, theme);
    }
    if let Some(link) = &app.url {
        url::draw(buffer, area, link, app.url_field, theme);
    }
}

/// Text into one line, cut with `…` where it is too long.
fn put(buffer: &mut Buffer, x: u16, y: u16, width: u16, text: &str, style: Style) {
    if text.width() > usize::from(width) {
        buffer.set_stringn(x, y, fit(text, usize::from(width), Align::Left), usize::from(width), style);
    } else {
        buffer.set_stringn(x, y, text, usize::from(width), style);
    }
}

/// The heading of a table, and at its right end how many columns there is no room for.
fn heading(buffer: &mut Buffer, area: Rect, y: u16, text: &str, hidden: usize, theme: Theme) {
    let width = columns::beside_mark(area.width, hidden);
    put(buffer, area.x, y, width, text, theme.heading());
    if let Some(mark) = columns::mark(hidden) {
        let x = area.right().saturating_sub(mark.width() as u16).max(area.x);
        put(buffer, x, y, area.right() - x, &mark, theme.heading());
    }
}

fn header(buffer: &mut Buffer, area: Rect, model: &Model, app: &App, theme: Theme) {
    let mut right = vec![format!("{}/s", model.rate_of(model.recent))];
    right.push(format!("{} transactions", count(model.count)));
    right.push(format!("{} errors", count(model.errors)));
    let state = if let Some(played) = &model.played {
        playing(played, model.replay)
    } else if app.paused.is_some() {
        format!("PAUSED +{}", count(model.since_pause))
    } else if model.finished {
        "END".to_owned()
    } else if model.replay {
        "REPLAY".to_owned()
    } else {
        "LIVE".to_owned()
    };
    if let Some(played) = model.played.as_ref().filter(|played| played.is_cut()) {
        // What lies before was not loaded: no figure holds it.
        let more = if played.is_loading { ", loading more" } else { "" };
        right.push(format!("since {}{more}", clock(played.from)));
    }
    let time = if model.now.0 == 0 { "--:--:--".to_owned() } else { clock(model.now) };
    right.push(format!("{time} UTC"));
    let right = right.join("  ");
    let left = format!("txray {}", model.title);
    let tail = right.width() + 2 + state.width() + 2;
    let room = usize::from(area.width).saturating_sub(tail);
    put(buffer, area.x, area.y, room as u16, &left, theme.heading());
    let x = area.x + room as u16 + 1;
    put(buffer, x, area.y, area.right().saturating_sub(x), &right, Style::new());
    let x = x + right.width() as u16 + 1;
    let style = if app.paused.is_some() { theme.reversed() } else { theme.heading() };
    put(buffer, x, area.y, area.right().saturating_sub(x), &format!(" {state} "), style);
}

/// Where a playback is, in a few words; `replay`: a recording, not the past of a run that goes on.
fn playing(played: &Played, replay: bool) -> String {
    let name = if replay { "REPLAY" } else { "PAST" };
    match played.seeking {
        Some(at) => format!("{name} → {}", clock(at)),
        None if played.ended => format!("{name} END"),
        None if played.paused => format!("{name} STOPPED"),
        None => format!("{name} {}", played.pace),
    }
}

/// The views, and behind them the filter with what it lets through.
fn tabs(buffer: &mut Buffer, area: Rect, model: &Model, app: &App, theme: Theme) {
    let mut badge = String::new();
    if let Some(narrowed) = &model.narrowed {
        let Narrowed { text, n, of, older } = narrowed;
        let rest = if *older == 0 { String::new() } else { format!(" kept, {} older", count(*older)) };
        badge.push_str(&format!(" {} of {}{rest} match {text} ", count(*n), count(*of)));
    }
    if let Some(filter) = &model.filter {
        let all = model.all + model.filtered;
        badge.push_str(&format!(" {} of {} match {filter} ", count(model.all), count(all)));
    }
    if app.axis != Axis::Elapsed {
        badge.push_str(&format!(" Y: {} ", app.axis.name()));
    }
    let badge = Some(badge).filter(|badge| !badge.is_empty());
    let name = |view: View, short: bool| {
        let key = app.settings.keymap.key_name(Action::View(view));
        if short && view != app.view { format!(" {key} ") } else { format!(" {key} {} ", view.name()) }
    };
    let wanted = badge.as_ref().map_or(0, |badge| badge.width() + 1);
    let whole: usize = View::ALL.iter().map(|view| name(*view, false).width()).sum();
    // The filter is always to be seen.
    let short = whole + wanted > usize::from(area.width);
    let mut x = area.x;
    for view in View::ALL {
        let text = name(view, short);
        let style = if view == app.view { theme.reversed() } else { theme.dim() };
        put(buffer, x, area.y, area.right().saturating_sub(x), &text, style);
        x = x.saturating_add(text.width() as u16);
    }
    if let Some(badge) = badge {
        let x = x.saturating_add(1);
        put(buffer, x, area.y, area.right().saturating_sub(x), &badge, theme.reversed());
    }
}

/// What was lost; at the right edge what could not be known to begin with, in as many words as there is room for.
fn losses(buffer: &mut Buffer, area: Rect, model: &Model, theme: Theme) {
    let text = model.losses.line();
    let badge = gaps::badge(model, usize::from(area.width).saturating_sub(text.width() + 1));
    let room = usize::from(area.width).saturating_sub(badge.width() + usize::from(!badge.is_empty()));
    let style = if model.losses.any() { theme.loss() } else { theme.dim() };
    put(buffer, area.x, area.y, room as u16, &text, style);
    let x = area.right().saturating_sub(badge.width() as u16).max(area.x);
    put(buffer, x, area.y, area.right() - x, &badge, theme.reversed());
}

/// Why there is nothing: it is still to come, a filter leaves it out, or there was none. `what` it is, in singular and plural.
fn nothing(model: &Model, what: [&str; 2]) -> String {
    let seen = model.all + model.filtered;
    match (&model.narrowed, &model.filter) {
        (Some(narrowed), _) if narrowed.of != 0 => {
            format!("no {} matched {}; {} seen", what[0], narrowed.text, count(narrowed.of))
        }
        (_, Some(filter)) if model.all == 0 && seen != 0 => {
            format!("no transaction matched {filter}; {} seen", count(seen))
        }
        _ if model.finished => format!("no {}", what[1]),
        _ if model.all == 0 => waiting(model),
        _ => format!("no {} yet", what[1]),
    }
}

/// The transactions that a view of whole rows tells of.
fn looked_at(model: &Model) -> String {
    match &model.narrowed {
        Some(narrowed) => format!("the {} transactions that match", count(narrowed.n)),
        None => format!("the {} transactions that are kept", count(model.kept)),
    }
}

/// Nothing has come yet.
fn waiting(model: &Model) -> String {
    let whom = if model.whom.is_empty() { String::new() } else { format!(" of {}", model.whom) };
    format!("waiting for the first transaction{whom}")
}

fn footer(buffer: &mut Buffer, area: Rect, app: &App, theme: Theme) {
    let Some(prompt) = &app.prompt else {
        let text = app.complaint.clone().unwrap_or_else(|| hints(app, usize::from(area.width)));
        put(buffer, area.x, area.y, area.width, &text, theme.dim());
        return;
    };
    let (name, help) = match prompt.purpose {
        Purpose::Top if app.axis != Axis::Elapsed => {
            ("top of the axis: ", format!("   of {}; Enter takes it, Esc leaves it", app.axis.name()))
        }
        Purpose::Top => ("top of the axis: ", "   Enter takes it, Esc leaves it".to_owned()),
        Purpose::Command => {
            let complaint = app.complaint.as_ref().map(|complaint| format!("   {complaint}"));
            (": ", complaint.unwrap_or_else(|| format!("   {}", command::HELP)))
        }
        Purpose::Layout => {
            let complaint = app.complaint.as_deref().unwrap_or("a number from 1 to 9, then a name");
            ("keep as: ", format!("   {complaint}"))
        }
        Purpose::Filter => {
            let complaint = app.complaint.as_ref().map(|complaint| format!("   {complaint}"));
            (
                "filter: ",
                complaint.unwrap_or_else(|| "   such as duration > 100ms and err; Tab: fields".to_owned()),
            )
        }
        Purpose::Export => {
            let complaint = app.complaint.as_ref().map(|complaint| format!("   {complaint}"));
            (
                "export to: ",
                complaint.unwrap_or_else(|| "   .jsonl .csv .txt, .json: Chrome trace".to_owned()),
            )
        }
    };
    // The end of what is typed is always to be seen, and so is a fault in it.
    let room = usize::from(area.width).saturating_sub(name.width() + 2);
    let typed: Vec<String> =
        prompt.text.chars().map(|c| screen_text(c.encode_utf8(&mut [0; 4])).into_owned()).collect();
    let fault = prompt.fault.map(|fault| fault.min(typed.len()));
    let width = |from: usize, to: usize| typed[from..to].iter().map(|text| text.width()).sum::<usize>();
    let mut first = 0;
    while width(first, fault.map_or(typed.len(), |fault| (fault + 1).min(typed.len()))) > room {
        first += 1;
    }
    let line = format!("{name}{}_{help}", typed[first..].concat());
    put(buffer, area.x, area.y, area.width, &line, theme.heading());
    if let Some(fault) = fault {
        let x = area.x + (name.width() + width(first, fault)) as u16;
        if x < area.right() {
            buffer[(x, area.y)].set_style(theme.reversed());
        }
    }
}

/// The keys of a place in a word each, as many as there is room for; help is always among them.
fn hints(app: &App, width: usize) -> String {
    let mut text = String::new();
    let keymap = &app.settings.keymap;
    for binding in keymap.of(app.place()).filter(|binding| !binding.hint.is_empty()) {
        let Some(key) = binding.keys.first().map(|key| key.name()) else { continue };
        let hint = format!("{key} {}", binding.hint);
        let gap = if text.is_empty() { 0 } else { 2 };
        if text.width() + gap + hint.width() > width {
            break;
        }
        text.push_str(&" ".repeat(gap));
        text.push_str(&hint);
    }
    text
}
