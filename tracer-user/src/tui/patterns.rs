//! Patterns of the XLog on the screen: what the selected one refers to, and the way to its dots.

use super::{
    app::{App, Command, SECOND_NS, WINDOWS_NS},
    playback::Order,
    view::{Roles, View},
};
use crate::{event::Role, sink::patterns::Finding, time::WallTime};

/// What a selected pattern stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeenPattern {
    /// First instant.
    pub from: WallTime,
    /// Last instant.
    pub to: WallTime,
    /// The part of its service.
    pub role: Role,
}

impl SeenPattern {
    /// Of a finding.
    pub fn of(finding: &Finding) -> SeenPattern {
        SeenPattern { from: finding.from, to: finding.to, role: finding.role }
    }

    /// Its time with some more on both sides: a quarter of it, and a second at least.
    fn window(&self) -> (WallTime, WallTime) {
        let beside = ((self.to.0 - self.from.0) / 4).max(SECOND_NS);
        (WallTime(self.from.0.saturating_sub(beside)), WallTime(self.to.0.saturating_add(beside)))
    }
}

impl App {
    /// Shows the time of the selected pattern in the XLog; Escape leads back. What the ring has no more is gone to in the recording.
    pub(super) fn show_pattern(&mut self, seen: &super::app::Seen) -> Command {
        let Some(pattern) = &seen.pattern else { return Command::Nothing };
        let (from, to) = pattern.window();
        let end = self.paused.unwrap_or(seen.now);
        self.push_zoom();
        if !self.roles.shows(pattern.role) {
            self.roles = if pattern.role == Role::Client { Roles::Clients } else { Roles::Servers };
        }
        (self.view, self.scroll) = (View::Xlog, 0);
        self.window_ns = (to.0 - from.0).clamp(*WINDOWS_NS.start(), *WINDOWS_NS.end());
        if seen.has_past && seen.played.is_none() && from < seen.kept_from {
            return Command::Order(Order::Goto { at: to.min(seen.now), window_ns: self.window_ns });
        }
        self.paused = Some(end);
        self.back_ns = end.0.saturating_sub(to.0);
        Command::Draw
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tui::{app::Seen, keymap::Key};

    const NOW: WallTime = WallTime(1_000 * SECOND_NS);

    fn seen(from: u64, to: u64) -> Seen {
        let at = |seconds: u64| WallTime(seconds * SECOND_NS);
        let pattern = SeenPattern { from: at(from), to: at(to), role: Role::Client };
        Seen { now: NOW, n_rows: 1, page: 10, pattern: Some(pattern), ..Seen::default() }
    }

    #[test]
    fn enter_shows_the_time_of_the_pattern_and_escape_leads_back() {
        let mut app = App { view: View::Patterns, ..App::default() };
        let before = app.window_ns;
        assert_eq!(app.key(Key::Enter, &seen(900, 940)), Command::Draw);
        assert_eq!((app.view, app.window_ns, app.roles), (View::Xlog, 60 * SECOND_NS, Roles::Clients));
        assert_eq!((app.paused, app.end(NOW)), (Some(NOW), WallTime(950 * SECOND_NS)));
        app.key(Key::Escape, &seen(900, 940));
        assert_eq!((app.window_ns, app.paused, app.back_ns), (before, None, 0));
    }

    #[test]
    fn what_the_ring_has_no_more_is_gone_to_in_the_recording() {
        let mut app = App { view: View::Patterns, ..App::default() };
        let seen = Seen { has_past: true, kept_from: WallTime(950 * SECOND_NS), ..seen(900, 940) };
        let order = Order::Goto { at: WallTime(950 * SECOND_NS), window_ns: 60 * SECOND_NS };
        assert_eq!(app.key(Key::Enter, &seen), Command::Order(order));
        let mut app = App { view: View::Patterns, ..App::default() };
        assert_eq!(app.key(Key::Enter, &Seen { pattern: None, ..seen }), Command::Nothing);
    }
}
