//! Where the time of one request went, whom it asked, and what it was made for.

use ratatui::{
    style::Style,
    text::{Line, Span},
};

use crate::{
    report::format::{Align, count, duration, fit},
    text::screen_text,
    transaction::{
        Transaction,
        anatomy::{Anatomy, CallSum, LinkMethod, Reason},
    },
    tui::theme::{Symbols, Theme},
};

/// Columns of the longest bar.
const BAR: u64 = 20;

/// The parts with their names, the largest first; those that are nothing are left out.
pub(in crate::tui) fn parts(anatomy: &Anatomy) -> Vec<(&'static str, u64)> {
    let on_cpu: &[(&str, u64)] = match anatomy.is_split {
        true => {
            &[("on a CPU, in the program", anatomy.user_ns), ("on a CPU, in the kernel", anatomy.kernel_ns)]
        }
        false => &[("on a CPU", anatomy.user_ns)],
    };
    let reasons = Reason::ALL.into_iter().zip(anatomy.off_ns).map(|(reason, ns)| (reason.label(), ns));
    let others = [
        ("waiting for a CPU", anatomy.runq_ns),
        ("waiting for answers to its calls", anatomy.calls_ns),
        ("waiting until its answer is taken", anatomy.sending_ns),
        ("not known", anatomy.unattributed_ns),
    ];
    let mut parts: Vec<_> = on_cpu.iter().copied().chain(reasons).chain(others).collect();
    parts.retain(|(_, ns)| *ns > 0);
    parts.sort_by_key(|(_, ns)| std::cmp::Reverse(*ns));
    parts
}

/// The lines; none where nothing is known.
pub(super) fn lines(shown: &Transaction, theme: Theme) -> Vec<Line<'static>> {
    let Some(causes) = &shown.causes else { return Vec::new() };
    let mut lines = Vec::new();
    if let Some(anatomy) = &causes.anatomy {
        let shared = if anatomy.is_shared {
            "  (its thread had others in flight: whose time it was follows from the order of what it received)"
        } else {
            ""
        };
        lines.push(Line::from(vec![
            Span::styled("where the time went", theme.heading()),
            Span::styled(shared, theme.dim()),
        ]));
        let elapsed = u128::from(shown.duration_ns.max(1).unsigned_abs());
        let bar = match theme.symbols {
            Symbols::Ascii => "#",
            _ => "█",
        };
        for (name, ns) in parts(anatomy) {
            let share = (u128::from(ns) * 100 + elapsed / 2) / elapsed;
            let length = (u128::from(ns) * u128::from(BAR) + elapsed / 2) / elapsed;
            let bar = bar.repeat(usize::try_from(length).unwrap_or(0).min(BAR as usize));
            lines.push(Line::from(vec![
                Span::raw(format!(
                    "  {} {} %  {}  ",
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
        let how = match link.method {
            LinkMethod::Thread => "its thread was serving that, and nothing else",
            LinkMethod::Order => {
                "a guess: its thread had several in flight, and had received something for that last"
            }
        };
        lines.push(Line::from(vec![
            Span::raw(format!("made for request {}", link.parent)),
            Span::styled(format!("  ({how})"), theme.dim()),
        ]));
    }
    lines.push(Line::default());
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_named_and_the_largest_comes_first() {
        let mut anatomy =
            Anatomy { user_ns: 5, kernel_ns: 3, calls_ns: 40, is_split: true, ..Anatomy::default() };
        anatomy.off_ns[Reason::Futex.index()] = 7;
        assert_eq!(
            parts(&anatomy),
            [
                ("waiting for answers to its calls", 40),
                ("waiting for a lock", 7),
                ("on a CPU, in the program", 5),
                ("on a CPU, in the kernel", 3),
            ]
        );
        anatomy = Anatomy { user_ns: 8, is_split: false, ..Anatomy::default() };
        assert_eq!(parts(&anatomy), [("on a CPU", 8)]);
    }
}
