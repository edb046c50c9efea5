//! Drawing: from a [`Model`] and an [`App`] to cells.

use ratatui::{
    buffer::Buffer,
    layout::Rect,
    style::Style,
    text::{Line, Span},
    widgets::{Clear, Widget as _},
};
use unicode_width::UnicodeWidthStr as _;

use super::{
    app::{App, Focus, Roles, Sort},
    chart::{Cell, Chart, Density, Scale},
    model::{Model, Row},
    theme::{Symbols, Theme},
};
use crate::{
    event::Role,
    report::format::{self, Align, clock, count, duration, fit},
    sink::xlog::Class,
};

/// The smallest terminal that the screen fits.
const SMALLEST: (u16, u16) = (60, 15);
/// Columns of the labels left of the XLog.
const LABELS: u16 = 7;
/// Services in the in-flight pane.
const MAX_FLIGHTS: usize = 3;

/// Where the panes lie.
struct Panes {
    header: Rect,
    loss: Rect,
    chart_title: Rect,
    chart: Rect,
    axis: Rect,
    flights: Rect,
    table: Rect,
    footer: Rect,
}

fn panes(area: Rect) -> Panes {
    let fixed = 2 + 1 + 1 + 1 + 1;
    let free = area.height.saturating_sub(fixed);
    // Half for the XLog, the table gets at least five rows.
    let chart = (free / 2).max(4).min(free.saturating_sub(5)).max(1);
    let flights = if area.height >= 24 { MAX_FLIGHTS as u16 } else { 1 };
    let mut y = area.y;
    let mut next = |height: u16| {
        let rect = Rect { x: area.x, y, width: area.width, height };
        y += height;
        rect.intersection(area)
    };
    let header = next(1);
    let loss = next(1);
    let chart_title = next(1);
    let chart_row = next(chart);
    let axis_row = next(1);
    let flights = next(flights);
    let used = flights.bottom() - area.y;
    let table = next(area.height.saturating_sub(used + 1));
    let footer = next(1);
    let right = |rect: Rect| Rect {
        x: rect.x + LABELS.min(rect.width),
        width: rect.width.saturating_sub(LABELS),
        ..rect
    };
    Panes {
        header,
        loss,
        chart_title,
        chart: right(chart_row),
        axis: right(axis_row),
        flights,
        table,
        footer,
    }
}

/// Cells that the XLog has on a screen of this size: width and height.
pub fn chart_size(area: Rect) -> (u16, u16) {
    let chart = panes(area).chart;
    (chart.width, chart.height)
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
    let panes = panes(area);
    header(buffer, panes.header, model, app, theme);
    let loss_style = if model.losses.any() { theme.loss() } else { theme.dim() };
    put(buffer, panes.loss.x, panes.loss.y, panes.loss.width, &model.losses.line(), loss_style);
    chart_title(buffer, panes.chart_title, model, app, theme);
    chart(buffer, &panes, model, app, theme);
    flights(buffer, panes.flights, model, theme);
    table(buffer, panes.table, model, app, theme);
    footer(buffer, panes.footer, app, theme);
    if app.help {
        help(buffer, area, theme);
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

fn header(buffer: &mut Buffer, area: Rect, model: &Model, app: &App, theme: Theme) {
    let mut right = vec![format!("{}/s", model.rate_of(model.recent))];
    right.push(format!("{} transactions", count(model.count)));
    right.push(format!("{} errors", count(model.errors)));
    let state = if app.paused.is_some() {
        format!("PAUSED +{}", count(model.since_pause))
    } else if model.finished {
        "END".to_owned()
    } else if model.replay {
        "REPLAY".to_owned()
    } else {
        "LIVE".to_owned()
    };
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

fn chart_title(buffer: &mut Buffer, area: Rect, model: &Model, app: &App, theme: Theme) {
    let chart = &model.chart;
    let what = match app.roles {
        Roles::Servers => "served",
        Roles::Clients => "made",
        Roles::Both => "served and made",
    };
    let density = match (app.forced, app.density) {
        (None, Density::Scatter) => "",
        (None, Density::Heat) => "  heat",
        (Some(Density::Scatter), _) => "  dots (kept)",
        (Some(Density::Heat), _) => "  heat (kept)",
    };
    let mut text = format!(
        "XLog  {}  {}{density}  {what} {}",
        minutes(app.window_ns),
        if app.scale == Scale::Log { "log" } else { "linear" },
        count(chart.n),
    );
    let mut note = |n: u64, what: &str| {
        if n != 0 {
            text.push_str(&format!("  {} {what}", count(n)));
        }
    };
    note(chart.n_errors, "errors");
    note(chart.n_clamped, &format!("≥ {}", duration(app.y_max_ns)));
    note(chart.n_hidden, if app.roles == Roles::Servers { "made hidden: c" } else { "served hidden: c" });
    note(model.evicted, "older as counts");
    let style = if app.focus == Focus::Chart { theme.heading() } else { theme.dim() };
    put(buffer, area.x, area.y, area.width, &text, style);
    if let Some(filter) = &model.filter {
        let all = model.count + model.filtered;
        let badge = format!(" filter {filter}  {}/{} ", count(model.count), count(all));
        let used = text.width() as u16 + 2;
        let x = area.x + used.min(area.width);
        put(buffer, x, area.y, area.right().saturating_sub(x), &badge, theme.reversed());
    }
}

fn minutes(ns: u64) -> String {
    format!("{} min", ns / 60_000_000_000)
}

fn chart(buffer: &mut Buffer, panes: &Panes, model: &Model, app: &App, theme: Theme) {
    let chart = &model.chart;
    let area = panes.chart;
    for (row, ns) in chart.area.labels() {
        if row < area.height {
            let text = format!("{} ", fit(&duration(ns), usize::from(LABELS) - 1, Align::Right));
            put(buffer, area.x - LABELS, area.y + row, LABELS, &text, theme.dim());
        }
    }
    for row in 0..area.height.min(chart.area.height) {
        for column in 0..area.width.min(chart.area.width) {
            let cell = chart.cells[usize::from(row) * usize::from(chart.area.width) + usize::from(column)];
            let lost = chart.lost.get(usize::from(column)).copied().unwrap_or(false);
            let (symbol, style) = symbol(chart, cell, lost, app.density, theme);
            buffer[(area.x + column, area.y + row)].set_char(symbol).set_style(style);
        }
    }
    axis(buffer, panes.axis, chart, theme);
}

fn symbol(chart: &Chart, cell: Cell, lost: bool, density: Density, theme: Theme) -> (char, Style) {
    let ascii = theme.symbols == Symbols::Ascii;
    let Some(class) = cell.class else {
        return if lost { (if ascii { '%' } else { '▒' }, theme.loss()) } else { (' ', Style::new()) };
    };
    let style = theme.class(class);
    if class == Class::Error && theme.error_letter() {
        return ('E', style);
    }
    let symbol = match (density, ascii) {
        (Density::Scatter, false) => char::from_u32(0x2800 + u32::from(cell.bits)).unwrap_or('.'),
        (Density::Scatter, true) => '.',
        (Density::Heat, false) => [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'][chart.level(cell)],
        (Density::Heat, true) => [' ', '.', ':', '-', '=', '+', '*', '#', '@'][chart.level(cell)],
    };
    (symbol, style)
}

fn axis(buffer: &mut Buffer, area: Rect, chart: &Chart, theme: Theme) {
    let width = chart.area.width;
    // Before the first event there is no time to write.
    if width == 0 || chart.area.end.0 == 0 {
        return;
    }
    let column_ns = (chart.end.0 - chart.start.0) / u64::from(width);
    // A time every 12 columns or more.
    let mut x = 0;
    while x + 8 <= width {
        let at = crate::time::WallTime(chart.start.0 + column_ns * u64::from(x));
        put(buffer, area.x + x, area.y, 8, &clock(at), theme.dim());
        x += 12.max(width / 6);
    }
}

fn flights(buffer: &mut Buffer, area: Rect, model: &Model, theme: Theme) {
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
        let [young, middle, old] = flight.by_age;
        let name = fit(&flight.service, 16, Align::Left);
        let label =
            format!("{name} {} ({} / {} / {}) ", count(total), count(old), count(middle), count(young));
        let y = area.y + i as u16;
        let x = area.x + left;
        put(buffer, x, y, room, &label, Style::new());
        let mut bar = x + (label.width() as u16).min(room);
        let cells = u64::from(area.right().saturating_sub(bar)).min(40);
        // From the left: the oldest first. Every step that is there has at least one cell.
        for (step, n) in [(2, old), (1, middle), (0, young)] {
            let (symbol, style) = theme.step(step);
            let length = if n == 0 || most == 0 { 0 } else { (n * cells / most.max(cells)).max(1) };
            for _ in 0..length {
                if bar < area.right() {
                    buffer[(bar, y)].set_char(symbol).set_style(style);
                    bar += 1;
                }
            }
        }
        if i + 1 == shown && model.in_flight.len() > shown {
            let rest = format!(" and {} more services", model.in_flight.len() - shown);
            put(buffer, bar, y, area.right().saturating_sub(bar), &rest, theme.dim());
        }
    }
}

/// Columns behind the names: heading, width, and the narrowest screen that shows it (all of them are in the summary).
const FIGURES: [(&str, usize, u16); 8] = [
    ("rate/s", 7, 0),
    ("errors", 7, 0),
    ("count", 9, 100),
    ("p50", 6, 0),
    ("p90", 6, 70),
    ("p99", 6, 0),
    ("p99.9", 6, 76),
    ("max", 6, 0),
];

fn table(buffer: &mut Buffer, area: Rect, model: &Model, app: &App, theme: Theme) {
    if area.height == 0 {
        return;
    }
    let shown = |narrowest: u16| area.width >= narrowest;
    let figures: usize =
        FIGURES.iter().filter(|(_, _, narrowest)| shown(*narrowest)).map(|(_, width, _)| width + 1).sum();
    let names = usize::from(area.width).saturating_sub(figures + 2);
    let service = (names / 3).clamp(4, 24);
    let operation = names.saturating_sub(service + 1);
    let line = |service_text: &str, role: &str, operation_text: &str, cells: &[String]| {
        let mut text = fit(service_text, service, Align::Left);
        text.push(' ');
        text.push_str(&fit(operation_text, operation, Align::Left));
        text.push(' ');
        text.push_str(&fit(role, 1, Align::Left));
        for ((_, width, _), cell) in FIGURES.iter().zip(cells).filter(|(figure, _)| shown(figure.2)) {
            text.push(' ');
            text.push_str(&fit(cell, *width, Align::Right));
        }
        text
    };
    let heading: Vec<String> = FIGURES
        .iter()
        .map(|(name, ..)| if *name == app.sort.column() { format!("▾{name}") } else { (*name).to_owned() })
        .map(|name| if theme.symbols == Symbols::Ascii { name.replace('▾', "*") } else { name })
        .collect();
    let operation_heading = if app.sort == Sort::Name { "operation (sorted)" } else { "operation" };
    let text = line("service", "", operation_heading, &heading);
    let style = if app.focus == Focus::Table { theme.heading() } else { theme.dim() };
    put(buffer, area.x, area.y, area.width, &text, style);
    let room = usize::from(area.height - 1);
    if model.rows.is_empty() {
        let text = match (&model.filter, model.filtered) {
            (Some(filter), n) if n != 0 => {
                format!("no transaction matched {filter}; {} seen", count(n))
            }
            _ if model.finished => "no transactions".to_owned(),
            _ => "no transactions yet".to_owned(),
        };
        put(buffer, area.x, area.y + 1, area.width, &text, theme.dim());
        return;
    }
    let selected = app.selected.min(model.rows.len() - 1);
    let first = (selected + 1).saturating_sub(room);
    for (i, row) in model.rows.iter().enumerate().skip(first).take(room) {
        let y = area.y + 1 + (i - first) as u16;
        let text = line(&row.service, role_letter(row.role), &row.operation, &cells(model, row));
        let mut style =
            if row.errors != 0 && row.errors * 2 >= row.count { theme.error() } else { Style::new() };
        if i == selected && app.focus == Focus::Table {
            style = theme.reversed();
        }
        put(buffer, area.x, y, area.width, &text, style);
    }
}

fn role_letter(role: Role) -> &'static str {
    match role {
        Role::Client => "C",
        Role::Server => "S",
        Role::Unknown => "?",
    }
}

fn cells(model: &Model, row: &Row) -> Vec<String> {
    let mut cells = vec![model.rate_of(row.recent), format::count(row.errors), format::count(row.count)];
    match row.quantiles_ns {
        Some(quantiles) => {
            cells.extend(quantiles.map(duration));
            cells.push(duration(row.max_ns));
        }
        None => cells.extend(["-"; 5].map(str::to_owned)),
    }
    cells
}

fn footer(buffer: &mut Buffer, area: Rect, app: &App, theme: Theme) {
    let text = if let Some(typed) = &app.prompt {
        format!("top of the elapsed axis: {typed}_   Enter takes it, Esc leaves it")
    } else if let Some(complaint) = &app.complaint {
        complaint.clone()
    } else {
        "q quit  ? help  space pause  +/- window  y top  l log  H heat  c role  s sort  Tab pane".to_owned()
    };
    put(buffer, area.x, area.y, area.width, &text, theme.dim());
}

const HELP: [(&str, &str); 16] = [
    ("q, Ctrl-C", "quit, interrupt"),
    ("space", "pause the screen (tracing goes on)"),
    ("L", "back to now"),
    ("+ -", "shorter, longer window"),
    ("← →", "back and forth in time, 10 s"),
    ("y", "type the top of the elapsed axis"),
    ("↑ ↓", "in the XLog: top of the axis; in the table: select"),
    ("l", "logarithmic or linear axis"),
    ("H", "heat map, dots, or what fits"),
    ("c", "requests served, made, or both"),
    ("s", "sort the table by another column"),
    ("g G j k", "first, last, next, previous row"),
    ("Tab", "table or XLog"),
    ("0", "everything as at the start"),
    ("?", "this; any key closes it"),
    ("", "rates are of the last 30 completed seconds, the rest of all"),
];

fn help(buffer: &mut Buffer, area: Rect, theme: Theme) {
    let width = 62.min(area.width);
    let height = (HELP.len() as u16 + 2).min(area.height);
    let window =
        Rect { x: area.x + (area.width - width) / 2, y: area.y + (area.height - height) / 2, width, height };
    Clear.render(window, buffer);
    put(buffer, window.x + 1, window.y, width - 2, "Keys", theme.heading());
    for (i, (keys, what)) in HELP.iter().enumerate() {
        let y = window.y + 1 + i as u16;
        if y >= window.bottom() {
            break;
        }
        let line = Line::from(vec![
            Span::styled(format!(" {} ", fit(keys, 10, Align::Left)), theme.heading()),
            Span::raw(*what),
        ]);
        buffer.set_line(window.x, y, &line, width);
    }
}
