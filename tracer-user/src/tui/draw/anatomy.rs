//! Where the time of one request went, whom it asked, and what it was made for.

use ratatui::{
    style::Style,
    text::{Line, Span},
};

use crate::{
    report::{
        format::{Align, count, duration, fit},
        why::{Part, parts, why_guessed},
    },
    text::screen_text,
    transaction::{
        Transaction,
        anatomy::{CallSum, LinkMethod},
    },
    tui::theme::{Symbols, Theme},
};

/// Columns of the longest bar.
const BAR: u64 = 20;

/// The lines; none where nothing is known.
pub(super) fn lines(shown: &Transaction, theme: Theme) -> Vec<Line<'static>> {
    let Some(causes) = &shown.causes else { return Vec::new() };
    let mut lines = Vec::new();
    if let Some(anatomy) = &causes.anatomy {
        let guessed = why_guessed(anatomy).map(|why| format!("  (~: {why})")).unwrap_or_default();
        lines.push(Line::from(vec![
            Span::styled("where the time went", theme.heading()),
            Span::styled(guessed, theme.dim()),
        ]));
        let elapsed = u128::from(shown.duration_ns.max(1).unsigned_abs());
        let bar = match theme.symbols {
            Symbols::Ascii => "#",
            _ => "█",
        };
        let mut parts = parts(anatomy);
        let is_small = |part: &Part| u128::from(part.ns) * 100 < elapsed;
        let small: Vec<Part> = parts.extract_if(.., |part| is_small(part)).collect();
        let ns = small.iter().map(|part| part.ns).sum();
        let is_guess = small.iter().any(|part| part.is_guess);
        parts.extend((ns > 0).then_some(Part { name: "all else", ns, is_guess }));
        for Part { name, ns, is_guess } in parts {
            let guess = if is_guess { '~' } else { ' ' };
            let share = (u128::from(ns) * 100 + elapsed / 2) / elapsed;
            let length = (u128::from(ns) * u128::from(BAR) + elapsed / 2) / elapsed;
            let bar = bar.repeat(usize::try_from(length).unwrap_or(0).min(BAR as usize));
            lines.push(Line::from(vec![
                Span::raw(format!(
                    " {guess}{} {} %  {}  ",
                    fit(&duration(ns), 8, Align::Right),
                    fit(&share.to_string(), 3, Align::Right),
                    fit(name, 34, Align::Left)
                )),
                Span::styled(bar, if share > 50 { theme.heading() } else { Style::new() }),
            ]));
        }
    }
    if !causes.calls.is_empty() {
        lines.push(Line::from(Span::styled("asked", theme.heading())));
    }
    for CallSum { kind, peer, count: n, ns } in &causes.calls {
        let peer = if &**peer == "*" { "others".into() } else { screen_text(peer) };
        lines.push(Line::from(format!(
            "  {} {}  {kind} {peer}",
            fit(&duration(*ns), 8, Align::Right),
            fit(&format!("{} ×", count(*n)), 6, Align::Right),
        )));
    }
    if let Some(link) = &causes.link {
        let what = if link.method == LinkMethod::Socket { "asked by" } else { "made for request" };
        lines.push(Line::from(vec![
            Span::raw(format!("{what} {}", link.parent)),
            Span::styled(format!("  ({})", link.method.why()), theme.dim()),
        ]));
    }
    lines.push(Line::default());
    lines
}
