//! What a transaction did, one thing after the other.

use ratatui::{
    style::Style,
    text::{Line, Span},
};

use crate::{
    report::profile::{self, HEADING},
    text::screen_text,
    transaction::Transaction,
    tui::{profile::ShownProfile, theme::Theme},
};

/// The lines; none where nobody has asked.
pub(super) fn lines(shown: &Transaction, profile: &ShownProfile, theme: Theme) -> Vec<Line<'static>> {
    let said = |text: String| vec![Line::from(Span::styled(text, theme.dim())), Line::default()];
    let steps = match profile {
        ShownProfile::Closed => return Vec::new(),
        ShownProfile::NoRecording => return said(ShownProfile::HOW_TO_HAVE_IT.to_owned()),
        ShownProfile::InFlight => return said("what it did is told when it has ended".to_owned()),
        ShownProfile::Loading => return said("what it did, one thing after the other: …".to_owned()),
        ShownProfile::Failed(why) => return said(format!("not known what it did: {}", screen_text(why))),
        ShownProfile::Known(steps) => steps,
    };
    let note = if steps.is_whole { "" } else { "  not all of it was seen again" };
    let mut lines = vec![
        Line::from(vec![
            Span::styled("what it did, one thing after the other", theme.heading()),
            Span::styled(note, theme.dim()),
        ]),
        Line::from(Span::styled(HEADING, theme.dim())),
    ];
    let whole = shown.queue_ns.unwrap_or(0) + shown.duration_ns.max(0).unsigned_abs();
    for (n, row) in steps.rows.iter().enumerate() {
        let style = profile::share(row.ns, whole).map_or_else(Style::new, |share| theme.share(share));
        let [number, clock, gap, cpu] = profile::cells(shown, n, row);
        lines.push(Line::from(vec![
            Span::raw(format!("{number} {clock} ")),
            Span::styled(gap, style),
            // It is safe to show: peers and operations in it were made so.
            Span::raw(format!(" {cpu}  {}", row.what)),
        ]));
    }
    lines.push(Line::default());
    lines
}
