//! Walking in time: what keys and typed commands ask of a playback.

use super::{
    app::{App, Command, LONGEST_NS, Rows, SECOND_NS, SHORT_NS, Seen},
    command::Typed,
    keymap::Action,
    playback::{Order, Sought},
};
use crate::time::WallTime;

impl App {
    pub(super) fn earlier(&mut self, seen: &Seen) -> Command {
        if seen.played.is_some() {
            return self.step(-10 * SECOND_NS as i64, seen);
        }
        self.back_ns = self.back_ns.saturating_add(10 * SECOND_NS);
        let at = self.end(seen.now);
        // What is not in the ring any more is in the recording.
        if seen.has_past && at.0.saturating_sub(self.window_ns) < seen.kept_from.0 {
            return Command::Order(Order::Goto { at, window_ns: self.window_ns });
        }
        Command::Draw
    }

    /// Moves a playback; what happens now cannot be moved.
    pub(super) fn step(&mut self, by_ns: i64, seen: &Seen) -> Command {
        if seen.played.is_none() {
            return self.only_in_a_recording(seen);
        }
        self.goto(WallTime(seen.instant().0.saturating_add_signed(by_ns)), seen)
    }

    pub(super) fn goto(&mut self, at: WallTime, seen: &Seen) -> Command {
        if seen.played.is_none() && !seen.has_past {
            return self.only_in_a_recording(seen);
        }
        if seen.played.is_none() && at >= seen.now {
            self.complaint = Some("that is not yet: this is now".to_owned());
            return Command::Draw;
        }
        Command::Order(Order::Goto { at, window_ns: self.window_ns })
    }

    pub(super) fn find(&mut self, what: Sought, seen: &Seen) -> Command {
        if seen.played.is_none() && !seen.has_past {
            return self.only_in_a_recording(seen);
        }
        // From the one that is shown to the next.
        let from = self.opened().map_or(seen.instant(), |shown| shown.end_time);
        Command::Order(Order::Find { what, from, window_ns: self.window_ns })
    }

    pub(super) fn only_in_a_recording(&mut self, seen: &Seen) -> Command {
        let text = if seen.has_past {
            "this is now: ← or :goto goes back in the recording"
        } else {
            "nothing is recorded that could be gone back to: start with txray record --out DIR"
        };
        self.complaint = Some(text.to_owned());
        Command::Draw
    }

    pub(super) fn obey(&mut self, typed: Typed, seen: &Seen) -> Command {
        match typed {
            Typed::Goto(at) => return self.goto(at, seen),
            Typed::Range(span) => self.show_range(span),
            Typed::Pace(_) if seen.played.is_none() => return self.only_in_a_recording(seen),
            Typed::Pace(pace) => return Command::Order(Order::Pace(pace)),
            Typed::Filter(filter) => {
                self.filter = filter;
                (self.operations, self.list) = (Rows::default(), Rows::default());
            }
            Typed::Window(ns) => self.window_ns = ns.clamp(SHORT_NS[0], LONGEST_NS),
            Typed::Top(text) => match self.axis.parse(&text) {
                Ok(top) => self.y_max_ns = top,
                Err(complaint) => self.complaint = Some(complaint),
            },
            Typed::View(view) => (self.view, self.scroll) = (view, 0),
            Typed::Live => return self.act(Action::Live, seen),
            Typed::Quit => return Command::Quit,
        }
        Command::Draw
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tui::{
        keymap::Key,
        playback::{Pace, Played},
    };

    const NOW: WallTime = WallTime(1_000 * SECOND_NS);

    fn press(app: &mut App, text: &str, seen: &Seen) -> Command {
        let mut last = Command::Nothing;
        for c in text.chars() {
            last = app.key(if c == '\n' { Key::Enter } else { Key::Char(c) }, seen);
        }
        last
    }

    fn live(has_past: bool) -> Seen {
        Seen { now: NOW, has_past, ..Seen::default() }
    }

    fn played(seeking: Option<WallTime>) -> Seen {
        Seen {
            played: Some(Played { at: NOW, seeking, pace: Pace::REAL, ..Played::default() }),
            ..live(true)
        }
    }

    fn goto(seconds: u64) -> Command {
        Command::Order(Order::Goto { at: WallTime(seconds * SECOND_NS), window_ns: App::default().window_ns })
    }

    #[test]
    fn a_run_that_is_not_recorded_has_no_past_and_says_how_to_have_one() {
        for keys in [",", ".", "[", "]", "n", "N", "W", ":goto -1m\n", ":speed 2\n"] {
            let mut app = App::default();
            assert_eq!(press(&mut app, keys, &live(false)), Command::Draw, "{keys}");
            assert!(app.complaint.is_some_and(|text| text.contains("--out DIR")), "{keys}");
            assert!(app.prompt.is_none());
        }
    }

    #[test]
    fn the_recording_is_opened_where_the_ring_ends() {
        let mut app = App::default();
        // The window of five minutes begins 700 s in; dots are kept from 660 s on.
        let seen = Seen { kept_from: WallTime(660 * SECOND_NS), ..live(true) };
        for _ in 0..4 {
            assert_eq!(app.key(Key::Left, &seen), Command::Draw);
        }
        assert_eq!(app.key(Key::Left, &seen), goto(950));
        // Without a recording it walks on through what is left.
        let mut app = App::default();
        for _ in 0..9 {
            assert_eq!(app.key(Key::Left, &Seen { has_past: false, ..seen.clone() }), Command::Draw);
        }
        assert_eq!(app.back_ns, 90 * SECOND_NS);
    }

    #[test]
    fn what_is_now_is_gone_back_from_by_a_command() {
        let mut app = App::default();
        assert_eq!(press(&mut app, ":goto -90s\n", &live(true)), goto(910));
        assert_eq!(press(&mut app, ":goto +1s\n", &live(true)), Command::Draw);
        assert!(app.complaint.is_some_and(|text| text.contains("not yet")));
    }

    #[test]
    fn a_playback_is_moved_from_where_it_is_or_is_on_its_way_to() {
        let mut app = App::default();
        assert_eq!(press(&mut app, " ", &played(None)), Command::Order(Order::Toggle));
        assert_eq!(app.paused, None);
        assert_eq!(press(&mut app, ",", &played(None)), goto(999));
        assert_eq!(press(&mut app, ",", &played(Some(WallTime(500 * SECOND_NS)))), goto(499));
        assert_eq!(press(&mut app, ".", &played(None)), goto(1_001));
        assert_eq!(app.key(Key::Left, &played(None)), goto(990));
        assert_eq!(app.key(Key::Right, &played(None)), goto(1_010));
        assert_eq!(
            press(&mut app, "]", &played(None)),
            Command::Order(Order::Pace(Pace::Thousandths(2_000)))
        );
        assert_eq!(press(&mut app, ":speed max\n", &played(None)), Command::Order(Order::Pace(Pace::Max)));
        assert_eq!(press(&mut app, "L", &played(None)), Command::Order(Order::Live));
    }

    #[test]
    fn a_command_that_cannot_be_read_stays_with_its_fault() {
        let mut app = App::default();
        assert_eq!(press(&mut app, ":goto soon\n", &live(true)), Command::Draw);
        let prompt = app.prompt.clone().expect("it stays");
        assert_eq!((prompt.text.as_str(), prompt.fault), ("goto soon", Some(5)));
        assert!(app.complaint.as_deref().is_some_and(|text| text.contains("'soon'")));
        app.key(Key::Escape, &live(true));
        assert!(app.prompt.is_none());
        press(&mut app, ":view health\n", &live(true));
        assert_eq!(app.view.name(), "Health");
        press(&mut app, ":filter err\n", &live(true));
        assert_eq!(app.filter.as_ref().map(|filter| filter.text()), Some("err"));
        press(&mut app, ":window 10m\n:top 3s\n", &live(true));
        assert_eq!((app.window_ns, app.y_max_ns), (600 * SECOND_NS, 3 * SECOND_NS));
        assert_eq!(press(&mut app, ":q\n", &live(true)), Command::Quit);
    }
}
