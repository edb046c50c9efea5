//! Counter graphs: one below the other over the same columns of time, with the figures of the column that the cursor is in.

use ratatui::{buffer::Buffer, layout::Rect, style::Style};
use unicode_width::UnicodeWidthStr as _;

use super::{put, waiting};
use crate::{
    report::format::{Align, civil, clock, duration, fit},
    sink::xlog::Class,
    time::WallTime,
    tui::{
        app::App,
        graphs::{Column, Graphs, Metric, Recorded, Watched},
        model::Model,
        theme::{Symbols, Theme},
        view::Roles,
    },
};

/// Columns of the labels left of the graphs: a name, the top of its axis.
const LABELS: u16 = 16;
/// The title above them; times and two lines of figures below.
const ABOVE: u16 = 1;
const BELOW: u16 = 3;
/// Ranges that are longer name the days.
const DAY_NS: u64 = 86_400_000_000_000;

/// Cells of all graphs.
pub(super) fn cells(area: Rect) -> Rect {
    let left = LABELS.min(area.width);
    Rect {
        x: area.x + left,
        y: area.y + ABOVE.min(area.height),
        width: area.width - left,
        height: area.height.saturating_sub(ABOVE + BELOW),
    }
}

/// Rows of each graph: as many for each, what is left for the first ones.
fn heights(rows: u16) -> [u16; Metric::ALL.len()] {
    let n = Metric::ALL.len() as u16;
    // The share of the errors and the losses are read as well in few rows.
    let order = [
        Metric::Requests,
        Metric::P99,
        Metric::Errors,
        Metric::P50,
        Metric::InFlight,
        Metric::Share,
        Metric::Lost,
    ];
    let mut heights = [rows / n; Metric::ALL.len()];
    for metric in order.into_iter().take(usize::from(rows % n)) {
        heights[metric as usize] += 1;
    }
    heights
}

/// Draws it.
pub(super) fn draw(buffer: &mut Buffer, area: Rect, model: &Model, app: &App, theme: Theme) {
    let Some(graphs) = &model.graphs else { return };
    let line = |y: u16| Rect { y, height: 1, ..area }.intersection(area);
    title(buffer, line(area.y), model, graphs, theme);
    let all = cells(area);
    let wide = wide(graphs, all.width);
    let mut y = all.y;
    for (metric, height) in Metric::ALL.into_iter().zip(heights(all.height)) {
        let cells = Rect { y, height, ..all };
        graph(buffer, cells, graphs, metric, wide, theme);
        y += height;
    }
    if let Some(text) = nothing(model, graphs) {
        put(buffer, all.x, all.y, all.width, &text, Style::new());
    }
    axis(buffer, Rect { y, height: 1, ..all }, model, graphs, wide, theme);
    if let Some(column) = graphs.columns.get(graphs.cursor) {
        let [first, second] = figures(graphs, column, app);
        put(buffer, area.x, y + 1, area.width, &first, Style::new());
        put(buffer, area.x, y + 2, area.width, &second, Style::new());
    }
}

/// Cells of each column.
fn wide(graphs: &Graphs, width: u16) -> u16 {
    (width / u16::try_from(graphs.columns.len().max(1)).unwrap_or(u16::MAX)).max(1)
}

/// Which range, in which columns, of whom; and what is still to come.
fn title(buffer: &mut Buffer, area: Rect, model: &Model, graphs: &Graphs, theme: Theme) {
    let what = match graphs.roles {
        Roles::Servers => "served",
        Roles::Clients => "made",
        Roles::Both => "served and made",
    };
    // What was recorded is sums over everything.
    let is_filtered = model.narrowed.is_some() || model.filter.is_some() && model.replay;
    let not_applied = match (is_filtered, model.some_protocols && model.replay) {
        (true, true) => "  filter and --protocol not applied",
        (true, false) => "  filter not applied",
        (false, true) => "  --protocol not applied",
        (false, false) => "",
    };
    let (reading, failed) = match &graphs.recorded {
        Recorded::Reading => ("  reading the recording", String::new()),
        Recorded::Failed(error) => ("", format!("  NOT READ: {error}")),
        Recorded::NotNeeded | Recorded::Read | Recorded::HasNone => ("", String::new()),
    };
    let whom = graphs.service.as_deref().unwrap_or("all services");
    // Names may be long: they come behind what must be read.
    let text = format!(
        "{} to {}  column {}{not_applied}{reading}  {what} {whom}{failed}",
        time(graphs, graphs.frame.from),
        time(graphs, graphs.frame.to),
        column_text(graphs),
    );
    put(buffer, area.x, area.y, area.width, &text, theme.heading());
}

/// The intervals of a column: `5×1 s`, or one alone.
fn column_text(graphs: &Graphs) -> String {
    let unit = graphs.resolution.unit();
    match graphs.frame.column_ns / graphs.resolution.ns() {
        1 => format!("1 {unit}"),
        n => format!("{n}×1 {unit}"),
    }
}

/// A time of day; of a long range with its day.
fn time(graphs: &Graphs, at: WallTime) -> String {
    if graphs.frame.to.0.saturating_sub(graphs.frame.from.0) > DAY_NS {
        let (_, month, day) = civil(at);
        let minutes = &clock(at)[..5];
        return format!("{month:02}-{day:02} {minutes}");
    }
    clock(at)
}

/// Why there is nothing.
fn nothing(model: &Model, graphs: &Graphs) -> Option<String> {
    if graphs.is_known() {
        return None;
    }
    Some(match &graphs.recorded {
        Recorded::Reading => "reading the recording …".to_owned(),
        Recorded::HasNone => "this recording has no counters: an older txray wrote it".to_owned(),
        Recorded::Failed(error) => format!("the recording cannot be read: {error}"),
        _ if model.all == 0 && !model.finished && model.played.is_none() => waiting(model),
        _ => "nothing was recorded in this range".to_owned(),
    })
}

fn graph(buffer: &mut Buffer, area: Rect, graphs: &Graphs, metric: Metric, wide: u16, theme: Theme) {
    if area.height == 0 {
        return;
    }
    let top = graphs.tops[metric as usize];
    let text = top.map(|top| metric.top_text(top)).unwrap_or_default();
    let room = usize::from(LABELS) - 1 - metric.name().width();
    let label = format!("{}{} ", metric.name(), fit(&text, room, Align::Right));
    put(buffer, area.x - LABELS, area.y, LABELS, &label, theme.heading());
    if area.height > 1 && top.is_some() {
        let zero = format!("{} ", fit("0", usize::from(LABELS) - 1, Align::Right));
        put(buffer, area.x - LABELS, area.bottom() - 1, LABELS, &zero, theme.dim());
    }
    for (at, column) in graphs.columns.iter().enumerate() {
        let filled = level(column.value(metric), top, area.height);
        for x in (area.x + at as u16 * wide..).take(usize::from(wide)) {
            for row in 0..area.height {
                let (symbol, mut style) = symbol(column, metric, filled, row, theme);
                if at == graphs.cursor {
                    style = style.patch(theme.reversed());
                }
                let y = area.bottom() - 1 - row;
                if x < area.right() {
                    buffer[(x, y)].set_char(symbol).set_style(style);
                }
            }
        }
    }
}

/// Eighths of a row that a value fills: at least one if it is not 0. `None`: there is no value.
fn level(value: Option<f64>, top: Option<f64>, rows: u16) -> Option<u64> {
    let (value, top) = (value?, top?);
    let all = u64::from(rows) * 8;
    let eighths = (value / top * all as f64).ceil() as u64;
    Some(if value > 0.0 { eighths.clamp(1, all) } else { 0 })
}

/// A cell, `row` rows from the bottom.
fn symbol(column: &Column, metric: Metric, filled: Option<u64>, row: u16, theme: Theme) -> (char, Style) {
    let ascii = theme.symbols == Symbols::Ascii;
    let own = match metric {
        Metric::Errors | Metric::Share => theme.class(Class::Error),
        Metric::Lost => theme.loss(),
        _ => theme.class(Class::Normal),
    };
    match (column.watched, filled) {
        (Watched::NotYet, _) => (' ', Style::new()),
        (Watched::Nothing, _) => (if ascii { '/' } else { '╱' }, theme.dim()),
        // Watched, but there is no such value: nothing was measured.
        (_, None) => (' ', Style::new()),
        // Nothing is not the same as no value.
        (_, Some(0)) if row == 0 => (if ascii { '_' } else { '·' }, theme.dim()),
        (watched, Some(filled)) => match (filled.saturating_sub(u64::from(row) * 8).min(8), watched) {
            (0, _) => (' ', Style::new()),
            (_, Watched::Part) => (if ascii { '|' } else { '░' }, own),
            (eighths, _) => (theme.level(eighths as usize), own),
        },
    }
}

/// Times, and where a playback is.
fn axis(buffer: &mut Buffer, area: Rect, model: &Model, graphs: &Graphs, wide: u16, theme: Theme) {
    let width = time(graphs, graphs.frame.from).width() as u16;
    let n = graphs.columns.len() as u16;
    let step = ((width + 2).max(area.width / 6)).div_ceil(wide);
    for at in (0..n).step_by(usize::from(step.max(1))) {
        let x = area.x + at * wide;
        if x + width <= area.right() {
            put(buffer, x, area.y, width, &time(graphs, graphs.frame.start(usize::from(at))), theme.dim());
        }
    }
    let now = model.now;
    if model.played.is_some() && (graphs.frame.from..graphs.frame.to).contains(&now) {
        let x = area.x + graphs.frame.column(now) as u16 * wide;
        if x < area.right() {
            let mark = if theme.symbols == Symbols::Ascii { '^' } else { '▲' };
            buffer[(x, area.y)].set_char(mark).set_style(theme.heading());
        }
    }
}

/// What the column of the cursor says.
fn figures(graphs: &Graphs, column: &Column, app: &App) -> [String; 2] {
    let text = |metric: Metric| metric.text(column.value(metric));
    let from = time(graphs, column.start);
    let watched = match column.watched {
        Watched::Whole => String::new(),
        Watched::Part => {
            format!("  PART: {} of {}", duration(column.recorded_ns), duration(graphs.frame.column_ns))
        }
        Watched::Nothing => "  nothing was recorded".to_owned(),
        Watched::NotYet => "  not yet".to_owned(),
    };
    if matches!(column.watched, Watched::Nothing | Watched::NotYet) {
        return [format!("{from}{watched}"), String::new()];
    }
    // What is of all services is said where one is shown.
    let all = if graphs.service.is_some() && app.range.is_some() { " (all services)" } else { "" };
    [
        format!(
            "{from}  requests {}/s  errors {}/s {}{watched}",
            text(Metric::Requests),
            text(Metric::Errors),
            text(Metric::Share),
        ),
        format!(
            "p50 {}  p99 {}  in flight {}  lost {}{all}",
            text(Metric::P50),
            text(Metric::P99),
            text(Metric::InFlight),
            text(Metric::Lost),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_shared_out_and_none_is_left() {
        for rows in 0..200 {
            let heights = heights(rows);
            assert_eq!(heights.iter().sum::<u16>(), rows);
            assert!(heights.iter().max().unwrap() - heights.iter().min().unwrap() <= 1);
        }
    }

    #[test]
    fn a_value_is_as_high_as_it_is_and_never_none_at_all() {
        assert_eq!(level(Some(50.0), Some(100.0), 2), Some(8));
        assert_eq!(level(Some(100.0), Some(100.0), 2), Some(16));
        assert_eq!(level(Some(0.001), Some(100.0), 2), Some(1));
        assert_eq!((level(Some(0.0), Some(100.0), 2), level(None, Some(1.0), 2)), (Some(0), None));
    }
}
