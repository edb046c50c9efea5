//! Patterns of the XLog: a list, and the selected one in sentences; and where they lie in the chart.

use ratatui::{buffer::Buffer, layout::Rect, style::Style};
use unicode_width::UnicodeWidthStr as _;

use super::{nothing, put};
use crate::{
    report::{
        format::{Align, clock, count, duration, fit},
        patterns::{seen, whose, why},
    },
    sink::patterns::{Finding, Pattern},
    tui::{
        app::App,
        chart::Chart,
        model::Model,
        theme::{Symbols, Theme},
    },
};

/// What they are, and the heading.
const ABOVE: u16 = 2;

/// The list above, the sentences below.
fn panes(area: Rect) -> (Rect, Rect) {
    let below = (area.height / 3).clamp(3, 8).min(area.height);
    let above = Rect { height: area.height - below, ..area };
    (above, Rect { y: area.y + above.height, height: below, ..area })
}

/// Rows that fit below the heading.
pub(super) fn n_rows(area: Rect) -> u16 {
    panes(area).0.height.saturating_sub(ABOVE)
}

/// Draws it.
pub(super) fn draw(buffer: &mut Buffer, area: Rect, model: &Model, app: &App, theme: Theme) {
    let (list, below) = panes(area);
    let mut title = "patterns of the XLog".to_owned();
    if model.narrowed.is_some() {
        title.push_str(" of all transactions; filter not applied");
    }
    if !model.patterns_left_out.is_empty() {
        title.push_str(&format!("; {}", model.patterns_left_out));
    }
    put(buffer, list.x, list.y, list.width, &title, theme.dim());
    if model.patterns.is_empty() {
        let text = match model.all {
            0 => nothing(model, ["pattern", "patterns"]),
            _ => "none were found: no lines, bands, ramps, floors that rise, or silences".to_owned(),
        };
        put(buffer, list.x, list.y + 1, list.width, &text, theme.dim());
        return;
    }
    let heading = line(["from", "for", "pattern", "dots", "service and operation"], list.width);
    put(buffer, list.x, list.y + 1, list.width, &heading, theme.heading());
    let room = usize::from(n_rows(area));
    let selected = app.patterns.selected.min(model.patterns.len() - 1);
    let first = (selected + 1).saturating_sub(room);
    for (i, finding) in model.patterns.iter().enumerate().skip(first).take(room) {
        let length = duration(finding.to.0 - finding.from.0);
        let length = if finding.is_open { format!("{length}…") } else { length };
        let figures =
            [&*clock(finding.from), &length, finding.pattern.name(), &count(finding.n), &whose(finding)];
        let mut style = if finding.pattern == Pattern::Unseen { theme.loss() } else { Style::new() };
        if i == selected {
            style = theme.reversed();
        }
        let y = list.y + ABOVE + (i - first) as u16;
        put(buffer, list.x, y, list.width, &line(figures, list.width), style);
    }
    let finding = &model.patterns[selected];
    let text = match why(finding) {
        Some(why) => format!("{} {why}", seen(finding)),
        None => seen(finding),
    };
    // A line apart from the list.
    let rows = below.y + 1..below.bottom();
    for (y, text) in rows.zip(wrap(&text, usize::from(below.width))) {
        put(buffer, below.x, y, below.width, &text, Style::new());
    }
}

fn line([from, length, pattern, dots, whose]: [&str; 5], width: u16) -> String {
    let rest = usize::from(width).saturating_sub(8 + 8 + 15 + 8 + 4);
    format!(
        "{} {} {} {} {}",
        fit(from, 8, Align::Left),
        fit(length, 8, Align::Right),
        fit(pattern, 15, Align::Left),
        fit(dots, 8, Align::Right),
        fit(whose, rest, Align::Left),
    )
}

/// Words into lines of at most this width.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let last = lines.len() - 1;
        let wanted = lines[last].width() + usize::from(!lines[last].is_empty()) + word.width();
        if wanted > width && !lines[last].is_empty() {
            lines.push(word.to_owned());
        } else {
            if !lines[last].is_empty() {
                lines[last].push(' ');
            }
            lines[last].push_str(word);
        }
    }
    lines
}

/// The letter that stands for a pattern in the chart.
fn letter(pattern: Pattern) -> char {
    match pattern {
        Pattern::Vertical => 'V',
        Pattern::Horizontal => 'H',
        Pattern::Floor => 'F',
        Pattern::Bands => 'B',
        Pattern::Ramp => 'R',
        Pattern::Silence => 'S',
        Pattern::Unseen => 'U',
    }
}

/// Marks in the chart's first row, where it is empty, when there were patterns: a letter at the first instant, a rule to the last.
pub(super) fn mark(buffer: &mut Buffer, area: Rect, chart: &Chart, model: &Model, theme: Theme) {
    let geometry = &chart.geometry;
    let column = |ns: u64| (ns.saturating_sub(geometry.start.0) / geometry.column_ns().max(1)) as usize;
    let is_shown = |finding: &&Finding| {
        let shown = geometry.start..geometry.end.min(chart.area.end);
        chart.area.roles.shows(finding.role) && finding.to >= shown.start && finding.from < shown.end
    };
    let rule = if theme.symbols == Symbols::Ascii { '-' } else { '╌' };
    for finding in model.patterns.iter().filter(is_shown) {
        let (first, last) = (column(finding.from.0), column(finding.to.0));
        let columns = first..=last.min(usize::from(area.width).saturating_sub(1));
        for (i, at) in columns.enumerate() {
            let Some(cell) = buffer.cell_mut((area.x.saturating_add(at as u16), area.y)) else { continue };
            let is_free = [' ', rule].iter().any(|free| cell.symbol().starts_with(*free));
            if at >= usize::from(area.width) || !is_free {
                continue;
            }
            let is_first = i == 0 && finding.from >= geometry.start;
            cell.set_char(if is_first { letter(finding.pattern) } else { rule }).set_style(theme.dim());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_wrapped_and_none_is_lost() {
        assert_eq!(wrap("a bb ccc dddddd e", 5), ["a bb", "ccc", "dddddd", "e"]);
        assert_eq!(wrap("", 5), [""]);
    }
}
