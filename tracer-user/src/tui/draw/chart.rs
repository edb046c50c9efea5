//! The XLog: title, cells, axes; where there is room, how many dots each row and each column has and where the percentiles lie.

use ratatui::{buffer::Buffer, layout::Rect, style::Style};

use super::{nothing, patterns, put};
use crate::{
    report::format::{Align, clock, count, duration, fit, rate},
    sink::xlog::Class,
    time::WallTime,
    tui::{
        app::App,
        axis::Axis,
        chart::{Cell, Chart, Density, Scale},
        keymap::Action,
        model::Model,
        theme::{Symbols, Theme},
        view::{Roles, View},
    },
};

/// Columns of the labels left of the XLog.
const LABELS: u16 = 7;
/// Columns right of it: a bar, a percentile.
const SIDE: u16 = 20;
/// Columns of the bar.
const BAR: u16 = 7;
/// Narrowest screen that has them.
const WIDE: u16 = 90;

/// Lowest chart that has a row of rates below it.
const HIGH: u16 = 20;

/// Where the parts of the chart lie.
#[derive(Clone, Copy)]
pub(super) struct Panes {
    title: Rect,
    /// Its cells.
    pub(super) cells: Rect,
    axis: Rect,
    side: Rect,
    /// How many ended in each column.
    rates: Rect,
}

/// The parts of a chart in `area`; `side`: with what stands right of it, if the screen is wide enough.
pub(super) fn panes(area: Rect, side: bool) -> Panes {
    let left = LABELS.min(area.width);
    let right = if side && area.width >= WIDE { SIDE } else { 0 };
    let width = area.width.saturating_sub(left + right);
    let x = area.x + left;
    let below = u16::from(side && area.height >= HIGH);
    let height = area.height.saturating_sub(2 + below);
    let cells = Rect { x, y: area.y + 1, width, height }.intersection(area);
    let rates = Rect { y: cells.bottom(), height: below, ..cells }.intersection(area);
    Panes {
        title: Rect { height: area.height.min(1), ..area },
        cells,
        axis: Rect { y: cells.bottom() + below, height: 1, ..cells }.intersection(area),
        side: Rect { x: cells.right(), width: right, ..cells },
        rates,
    }
}

/// Draws it.
pub(super) fn draw(buffer: &mut Buffer, panes: Panes, model: &Model, app: &App, theme: Theme) {
    let Some(chart) = &model.chart else { return };
    title(buffer, panes.title, model, chart, app, theme);
    let area = panes.cells;
    for (row, ns) in chart.area.labels() {
        if row < area.height {
            let text = format!("{} ", fit(&app.axis.text(ns), usize::from(LABELS) - 1, Align::Right));
            put(buffer, area.x - LABELS, area.y + row, LABELS, &text, theme.dim());
        }
    }
    let lines = side(buffer, panes.side, chart, theme);
    let slow = slow(buffer, panes, chart, app, theme);
    let rectangle = app
        .cursor
        .map(|cursor| (cursor, chart.geometry.rectangle(cursor.corner.unwrap_or(cursor.at), cursor.at)));
    for row in 0..area.height.min(chart.area.height) {
        for column in 0..area.width.min(chart.area.width) {
            let cell = chart.cells[usize::from(row) * usize::from(chart.area.width) + usize::from(column)];
            let lost = chart.lost.get(usize::from(column)).copied().unwrap_or(false);
            let (mut symbol, mut style) = symbol(chart, cell, lost, app.density, theme);
            if symbol == ' ' && lines.contains(&row) {
                (symbol, style) = (theme.rule(), theme.dim());
            }
            if symbol == ' ' && slow == Some(row) {
                (symbol, style) = theme.slow();
            }
            if let Some((cursor, rectangle)) = rectangle {
                if rectangle.has(column, row) {
                    style = style.patch(theme.reversed());
                }
                if cursor.at == (column, row) && symbol == ' ' {
                    symbol = '+';
                }
            }
            buffer[(area.x + column, area.y + row)].set_char(symbol).set_style(style);
        }
    }
    patterns::mark(buffer, area, chart, model, theme);
    rates(buffer, panes.rates, chart, theme);
    axis(buffer, panes.axis, chart, theme);
    if app.view == View::Xlog && model.count == 0 {
        let text = nothing(model, ["transaction", "transactions"]);
        put(buffer, area.x + 1, area.y, area.width.saturating_sub(1), &text, theme.dim());
    }
}

fn title(buffer: &mut Buffer, area: Rect, model: &Model, chart: &Chart, app: &App, theme: Theme) {
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
        "XLog{}  {}  {}{density}  {what} {}",
        // What it shows upwards at first need not be said where there is little room.
        if app.axis == Axis::Elapsed && area.width < WIDE {
            String::new()
        } else {
            format!(" {}", app.axis.name())
        },
        window(app.window_ns),
        if app.scale == Scale::Log { "log" } else { "linear" },
        count(chart.n),
    );
    let note = |text: &mut String, n: u64, what: &str| {
        if n != 0 {
            text.push_str(&format!("  {} {what}", count(n)));
        }
    };
    note(&mut text, chart.n_errors, "errors");
    // What has no dot comes before what has one.
    note(&mut text, chart.n_without, "without");
    if chart.n_older != 0 {
        text.push_str(&format!("  older {} not kept", count(chart.n_older)));
    }
    note(&mut text, chart.n_clamped, &format!("≥ {}", app.axis.text(app.y_max_ns)));
    let key = |action| app.settings.keymap.key_name(action);
    let hidden = if app.roles == Roles::Servers { "made" } else { "served" };
    note(&mut text, chart.n_hidden, &format!("{hidden} hidden: {}", key(Action::Roles)));
    // They are dots of elapsed time only.
    note(&mut text, if app.axis == Axis::Elapsed { model.evicted } else { 0 }, "older as counts");
    if app.back_ns != 0 && !app.is_zoomed() {
        text.push_str(&format!("  until {} ago: {}", duration(app.back_ns), key(Action::Live)));
    }
    if app.is_zoomed() {
        text.push_str(&format!("  zoomed: {}", key(Action::Back)));
    }
    put(buffer, area.x, area.y, area.width, &text, theme.heading());
}

fn window(ns: u64) -> String {
    const MINUTE_NS: u64 = 60_000_000_000;
    if ns.is_multiple_of(MINUTE_NS) { format!("{} min", ns / MINUTE_NS) } else { duration(ns) }
}

fn symbol(chart: &Chart, cell: Cell, lost: bool, density: Density, theme: Theme) -> (char, Style) {
    let ascii = theme.symbols == Symbols::Ascii;
    let Some(class) = cell.class else {
        return if lost { (if ascii { '%' } else { '▒' }, theme.loss()) } else { (' ', Style::new()) };
    };
    let style = theme.class(class);
    if let Some(letter) = theme.letter(class) {
        return (letter, style);
    }
    let symbol = match (density, ascii) {
        // A dot that has no shape to lose.
        (Density::Scatter, true) if class == Class::ClientError => '4',
        (Density::Scatter, false) => char::from_u32(0x2800 + u32::from(cell.bits)).unwrap_or('.'),
        (Density::Scatter, true) => '.',
        (Density::Heat, _) => theme.level(chart.level(cell)),
    };
    if density == Density::Heat && class == Class::Normal {
        return (symbol, theme.heat(chart.level(cell)));
    }
    (symbol, style)
}

/// The row of what counts as slow, named where nothing else has a label.
fn slow(buffer: &mut Buffer, panes: Panes, chart: &Chart, app: &App, theme: Theme) -> Option<u16> {
    let ns = app.settings.slow_ns?;
    let area = panes.cells;
    let row = chart.row_of(ns).filter(|row| *row < area.height)?;
    if chart.area.labels().iter().all(|(other, _)| *other != row) {
        let text = format!("{} ", fit(&duration(ns), usize::from(LABELS) - 1, Align::Right));
        put(buffer, area.x - LABELS, area.y + row, LABELS, &text, theme.slow().1);
    }
    Some(row)
}

/// A bar for each row, and the percentiles of what is shown. Returns the rows in which those lie.
fn side(buffer: &mut Buffer, area: Rect, chart: &Chart, theme: Theme) -> Vec<u16> {
    let mut lines = Vec::new();
    if area.width == 0 {
        return lines;
    }
    let most = chart.by_row.iter().copied().max().unwrap_or(0);
    for (row, &n) in chart.by_row.iter().enumerate().take(usize::from(area.height)) {
        let cells = (u64::from(BAR) * n).div_ceil(most.max(1)).min(u64::from(BAR));
        let bar: String = std::iter::repeat_n(theme.level(8), cells as usize).collect();
        put(buffer, area.x + 1, area.y + row as u16, BAR, &bar, theme.dim());
    }
    let Some(quantiles) = chart.quantiles([0.99, 0.9, 0.5]) else { return lines };
    for (name, ns) in ["p99", "p90", "p50"].into_iter().zip(quantiles) {
        // The first of two in one row stands for both.
        let row = chart.row_of(ns).unwrap_or(0);
        if row < area.height && !lines.contains(&row) {
            lines.push(row);
            let about = if chart.is_coarse { "~" } else { "" };
            let text = format!("{name} {about}{}", chart.area.axis.text(ns));
            let width = area.width.saturating_sub(BAR + 2);
            put(buffer, area.x + BAR + 2, area.y + row, width, &text, theme.heading());
        }
    }
    lines
}

/// How many transactions ended in each column, the busiest column being the highest; its rate stands on the left.
fn rates(buffer: &mut Buffer, area: Rect, chart: &Chart, theme: Theme) {
    if area.height == 0 {
        return;
    }
    let columns = chart.by_column();
    let most = columns.iter().map(|(n, _)| *n).max().unwrap_or(0);
    if most == 0 {
        return;
    }
    let busiest = format!("{}/s", rate(most, chart.geometry.column_ns()));
    let label = format!("{} ", fit(&busiest, usize::from(LABELS) - 1, Align::Right));
    put(buffer, area.x - LABELS, area.y, LABELS, &label, theme.dim());
    for (x, &(n, has_error)) in (area.x..area.right()).zip(&columns) {
        if n != 0 {
            let style = if has_error { theme.class(Class::Error) } else { theme.dim() };
            let eighths = (n * 8).div_ceil(most).clamp(1, 8);
            buffer[(x, area.y)].set_char(theme.level(eighths as usize)).set_style(style);
        }
    }
}

fn axis(buffer: &mut Buffer, area: Rect, chart: &Chart, theme: Theme) {
    let width = chart.area.width;
    // Before the first event there is no time to write.
    if width == 0 || area.height == 0 || chart.area.end.0 == 0 {
        return;
    }
    let column_ns = (chart.geometry.end.0 - chart.geometry.start.0) / u64::from(width);
    // A time every 12 columns or more.
    let mut x = 0;
    while x + 8 <= width {
        let at = WallTime(chart.geometry.start.0 + column_ns * u64::from(x));
        put(buffer, area.x + x, area.y, 8, &clock(at), theme.dim());
        x += 12.max(width / 6);
    }
}
