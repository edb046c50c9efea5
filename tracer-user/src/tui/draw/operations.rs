//! The table of operations.

use ratatui::{buffer::Buffer, layout::Rect, style::Style};

use super::{nothing, put};
use crate::{
    event::Role,
    report::format::{self, Align, duration, fit},
    tui::{
        app::App,
        columns,
        model::{Model, Row},
        theme::{Symbols, Theme},
        view::Sort,
    },
};

/// Rows that fit below the heading.
pub(super) fn n_rows(area: Rect) -> u16 {
    area.height.saturating_sub(1)
}

/// Columns behind the names, in the order of [`columns::OperationColumn`]: heading, width, and the narrowest screen that shows it unless it was chosen
/// (all of them are in the summary).
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

/// Least room for the names where columns were chosen.
const NAMES: usize = 24;

/// Which figures are shown, and how many are not: of the chosen ones, where some were chosen.
fn shown(app: &App, width: u16) -> (Vec<usize>, usize) {
    let Some(chosen) = &app.columns.operations else {
        let shown: Vec<usize> = (0..FIGURES.len()).filter(|at| width >= FIGURES[*at].2).collect();
        let hidden = FIGURES.len() - shown.len();
        return (shown, hidden);
    };
    let mut chosen: Vec<usize> = chosen.iter().map(|column| *column as usize).collect();
    let room = usize::from(width).saturating_sub(NAMES + 2);
    let n = columns::fitting(chosen.iter().map(|at| FIGURES[*at].1), room);
    let hidden = chosen.len() - n;
    chosen.truncate(n);
    (chosen, hidden)
}

/// Draws it.
pub(super) fn draw(buffer: &mut Buffer, area: Rect, model: &Model, app: &App, theme: Theme) {
    if area.height == 0 {
        return;
    }
    let (shown, hidden) = shown(app, area.width);
    let figures: usize = shown.iter().map(|at| FIGURES[*at].1 + 1).sum();
    let names = usize::from(columns::beside_mark(area.width, hidden)).saturating_sub(figures + 2);
    let service = (names / 3).clamp(4, 24);
    let operation = names.saturating_sub(service + 1);
    let line = |service_text: &str, role: &str, operation_text: &str, cells: &[String]| {
        let mut text = fit(service_text, service, Align::Left);
        text.push(' ');
        text.push_str(&fit(operation_text, operation, Align::Left));
        text.push(' ');
        text.push_str(&fit(role, 1, Align::Left));
        for &at in &shown {
            text.push(' ');
            text.push_str(&fit(&cells[at], FIGURES[at].1, Align::Right));
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
    super::heading(buffer, area, area.y, &text, hidden, theme);
    let room = usize::from(area.height - 1);
    if model.rows.is_empty() {
        let text = nothing(model, ["transaction", "transactions"]);
        put(buffer, area.x, area.y + 1, area.width, &text, theme.dim());
        return;
    }
    let selected = app.operations.selected.min(model.rows.len() - 1);
    let first = (selected + 1).saturating_sub(room);
    for (i, row) in model.rows.iter().enumerate().skip(first).take(room) {
        let y = area.y + 1 + (i - first) as u16;
        let text = line(&row.service, role_letter(row.role), &row.operation, &cells(model, row));
        let mut style =
            if row.errors != 0 && row.errors * 2 >= row.count { theme.error() } else { Style::new() };
        if i == selected {
            style = theme.reversed();
        }
        put(buffer, area.x, y, area.width, &text, style);
    }
}

/// One letter for a role.
pub(super) fn role_letter(role: Role) -> &'static str {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_column_that_can_be_chosen_is_the_figure_of_its_name() {
        let names = columns::OperationColumn::ALL.map(|(column, name)| (column as usize, name));
        for ((at, name), (heading, ..)) in names.into_iter().zip(FIGURES) {
            assert_eq!(heading.trim_end_matches("/s"), name);
            assert_eq!(FIGURES[at].0, heading);
        }
    }
}
