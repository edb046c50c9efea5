//! What the selected transactions have that the others have not.

use ratatui::{buffer::Buffer, layout::Rect, style::Style};

use super::put;
use crate::{
    report::format::{Align, count, fit},
    tui::{
        app::App,
        contrast::{Contrast, share},
        model::Model,
        theme::Theme,
    },
};

/// Columns of the field's name, of a count and of a share.
const FIELD: usize = 12;
const COUNT: usize = 10;
const SHARE: usize = 7;

/// Draws it.
pub(super) fn draw(buffer: &mut Buffer, area: Rect, model: &Model, app: &App, theme: Theme) {
    let Some((totals, contrasts)) = &model.contrast else { return };
    let title = format!(
        "{} selected transactions against the {} others of the window, of those that are kept",
        count(totals.selected),
        count(totals.rest)
    );
    put(buffer, area.x, area.y, area.width, &title, theme.heading());
    let figures = 2 * (COUNT + SHARE + 2);
    let value = usize::from(area.width).saturating_sub(FIELD + 1 + figures);
    let line = |cells: [&str; 6]| {
        let [field, text, selected, selected_share, rest, rest_share] = cells;
        format!(
            "{} {} {} {} {} {}",
            fit(field, FIELD, Align::Left),
            fit(text, value, Align::Left),
            fit(selected, COUNT, Align::Right),
            fit(selected_share, SHARE, Align::Right),
            fit(rest, COUNT, Align::Right),
            fit(rest_share, SHARE, Align::Right),
        )
    };
    let heading = line(["field", "value", "selected", "share", "others", "share"]);
    put(buffer, area.x, area.y + 1, area.width, &heading, theme.heading());
    let room = usize::from(area.height).saturating_sub(2);
    let first = usize::from(app.scroll).min(contrasts.len().saturating_sub(room));
    for (i, contrast) in contrasts.iter().skip(first).take(room).enumerate() {
        let Contrast { field, value, selected, rest } = contrast;
        let percent = |n: u64, of: u64| format!("{:.1}%", share(n, of) * 100.0);
        let (mine, theirs) = (share(*selected, totals.selected), share(*rest, totals.rest));
        let text = line([
            field,
            value,
            &count(*selected),
            &percent(*selected, totals.selected),
            &count(*rest),
            &percent(*rest, totals.rest),
        ]);
        // What stands out: half of the one and not of the other.
        let style = match (mine - theirs).abs() >= 0.5 {
            true => theme.heading(),
            false if mine == theirs => theme.dim(),
            false => Style::new(),
        };
        put(buffer, area.x, area.y + 2 + i as u16, area.width, &text, style);
    }
}
