//! The page of counter graphs: which range it shows, in which columns, of whom, and what keys do to it.

use std::sync::Arc;

use super::{
    app::{App, Command, SECOND_NS, Seen},
    keymap::Action,
    view::Place,
};
use crate::time::WallTime;

const MINUTE_NS: u64 = 60 * SECOND_NS;
const HOUR_NS: u64 = 60 * MINUTE_NS;
const DAY_NS: u64 = 24 * HOUR_NS;
/// What a column stands for: a whole number of seconds, minutes, hours or days that its next larger unit is a multiple of.
const COLUMNS_NS: [u64; 22] = [
    SECOND_NS,
    2 * SECOND_NS,
    5 * SECOND_NS,
    10 * SECOND_NS,
    15 * SECOND_NS,
    20 * SECOND_NS,
    30 * SECOND_NS,
    MINUTE_NS,
    2 * MINUTE_NS,
    5 * MINUTE_NS,
    10 * MINUTE_NS,
    15 * MINUTE_NS,
    20 * MINUTE_NS,
    30 * MINUTE_NS,
    HOUR_NS,
    2 * HOUR_NS,
    3 * HOUR_NS,
    4 * HOUR_NS,
    6 * HOUR_NS,
    8 * HOUR_NS,
    12 * HOUR_NS,
    DAY_NS,
];
/// Lengths that a key changes between.
const LENGTHS_NS: [u64; 14] = [
    MINUTE_NS,
    2 * MINUTE_NS,
    5 * MINUTE_NS,
    10 * MINUTE_NS,
    20 * MINUTE_NS,
    30 * MINUTE_NS,
    HOUR_NS,
    2 * HOUR_NS,
    4 * HOUR_NS,
    8 * HOUR_NS,
    DAY_NS,
    2 * DAY_NS,
    7 * DAY_NS,
    31 * DAY_NS,
];
/// Shortest and longest range: ten seconds, a year.
const RANGES_NS: std::ops::RangeInclusive<u64> = 10 * SECOND_NS..=366 * DAY_NS;
/// The range that a key alone opens.
const FIRST: Span = Span::Last(30 * MINUTE_NS);

/// A range of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// So much before the instant that is shown, ns: it moves on with it.
    Last(u64),
    /// From one instant to another.
    Fixed(WallTime, WallTime),
}

impl Span {
    /// Its ends when `now` is shown.
    pub fn ends(self, now: WallTime) -> (WallTime, WallTime) {
        match self {
            Span::Last(ns) => (WallTime(now.0.saturating_sub(ns)), now),
            Span::Fixed(from, to) => (from, to),
        }
    }

    /// Its length, ns.
    pub fn length_ns(self) -> u64 {
        match self {
            Span::Last(ns) => ns,
            Span::Fixed(from, to) => to.0.saturating_sub(from.0),
        }
    }

    /// The same within the bounds.
    pub fn bounded(self) -> Span {
        let ns = self.length_ns().clamp(*RANGES_NS.start(), *RANGES_NS.end());
        match self {
            Span::Last(_) => Span::Last(ns),
            Span::Fixed(_, to) => Span::Fixed(WallTime(to.0.saturating_sub(ns)), to),
        }
    }

    fn of_length(self, ns: u64) -> Span {
        match self {
            Span::Last(_) => Span::Last(ns),
            Span::Fixed(_, to) => Span::Fixed(WallTime(to.0.saturating_sub(ns)), to),
        }
        .bounded()
    }

    fn shorter(self) -> Span {
        let shorter = LENGTHS_NS.into_iter().rev().find(|ns| *ns < self.length_ns());
        self.of_length(shorter.unwrap_or(LENGTHS_NS[0]))
    }

    fn longer(self) -> Span {
        let longer = LENGTHS_NS.into_iter().find(|ns| *ns > self.length_ns());
        self.of_length(longer.unwrap_or(*RANGES_NS.end()))
    }
}

/// The page, while it is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangePage {
    /// What it shows.
    pub span: Span,
    /// Begin of the column that the cursor is in; `None` = the newest that is over.
    pub cursor: Option<WallTime>,
    /// Of this service alone.
    pub service: Option<Arc<str>>,
}

/// The columns of a page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// Begin of the first: a whole number of columns since 1970.
    pub from: WallTime,
    /// End of the last.
    pub to: WallTime,
    /// Time of each, ns.
    pub column_ns: u64,
}

impl Frame {
    /// The columns that show a span best where there is room for so many, none shorter than `least_ns`.
    pub fn of(span: Span, now: WallTime, room: u16, least_ns: u64) -> Frame {
        let (from, to) = span.ends(now);
        let room = u64::from(room.max(1));
        let days = (2..).map(|days| days * DAY_NS);
        COLUMNS_NS
            .into_iter()
            .chain(days)
            .filter(|column_ns| *column_ns >= least_ns)
            .map(|column_ns| Frame {
                from: WallTime(from.0 / column_ns * column_ns),
                to: WallTime(to.0.div_ceil(column_ns) * column_ns),
                column_ns,
            })
            .find(|frame| frame.n() <= room)
            // There is no longest column.
            .unwrap_or_default()
    }

    /// Number of columns.
    pub fn n(&self) -> u64 {
        (self.to.0 - self.from.0).checked_div(self.column_ns).unwrap_or(0)
    }

    /// Begin of a column.
    pub fn start(&self, column: usize) -> WallTime {
        WallTime(self.from.0.saturating_add(self.column_ns.saturating_mul(column as u64)))
    }

    /// The column that an instant lies in, or is next to.
    pub fn column(&self, at: WallTime) -> usize {
        let column = at.0.saturating_sub(self.from.0).checked_div(self.column_ns).unwrap_or(0);
        usize::try_from(column.min(self.n().saturating_sub(1))).unwrap_or(usize::MAX)
    }
}

/// What the last frame showed of the page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SeenRange {
    /// Its columns.
    pub frame: Frame,
    /// The column that the cursor is in.
    pub cursor: usize,
    /// The services that something is known of, most requests first.
    pub services: Vec<Arc<str>>,
}

impl App {
    /// Opens the page.
    pub(super) fn show_range(&mut self, span: Span) {
        self.range = Some(RangePage { span: span.bounded(), cursor: None, service: None });
    }

    /// Does what a key stands for on the page; `None`: the same as elsewhere.
    pub(super) fn act_on_range(&mut self, action: Action, seen: &Seen) -> Option<Command> {
        if action == Action::Range {
            self.show_range(FIRST);
            return Some(Command::Draw);
        }
        if self.place() != Place::Range {
            return None;
        }
        let page = self.range.as_mut()?;
        let SeenRange { frame, cursor, services } = &seen.range;
        let last = usize::try_from(frame.n()).unwrap_or(usize::MAX).saturating_sub(1);
        match action {
            Action::CursorLeft => page.cursor = Some(frame.start(cursor.saturating_sub(1))),
            Action::CursorRight => page.cursor = Some(frame.start((cursor + 1).min(last))),
            Action::First => page.cursor = Some(frame.start(0)),
            Action::Last => page.cursor = None,
            Action::Previous | Action::Next => {
                let at = page.service.as_ref().and_then(|shown| services.iter().position(|s| s == shown));
                page.service = match (action, at) {
                    (Action::Next, None) => services.first(),
                    (Action::Next, Some(at)) => services.get((at + 1).min(services.len().saturating_sub(1))),
                    (_, at) => at.and_then(|at| at.checked_sub(1)).and_then(|at| services.get(at)),
                }
                .cloned();
            }
            Action::Shorter => page.span = page.span.shorter(),
            Action::Longer => page.span = page.span.longer(),
            Action::GotoColumn => {
                // What happened in the column is what is on the screen at its end.
                let end = WallTime(frame.start(*cursor).0.saturating_add(frame.column_ns));
                let command = self.goto(end, seen);
                if matches!(command, Command::Order(_)) {
                    self.range = None;
                }
                return Some(command);
            }
            Action::Back => self.range = None,
            _ => return None,
        }
        Some(Command::Draw)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tui::{keymap::Key, playback::Order};

    const NOW: WallTime = WallTime(1_700_000_000 * SECOND_NS);

    #[test]
    fn columns_are_whole_numbers_of_seconds_minutes_or_hours_and_hold_the_range() {
        for length in [10 * SECOND_NS, 90 * SECOND_NS, 30 * MINUTE_NS, 2 * HOUR_NS, 7 * DAY_NS, 366 * DAY_NS]
        {
            for room in [1, 44, 64, 104, 384, 5_000] {
                let frame = Frame::of(Span::Last(length), NOW, room, SECOND_NS);
                assert!((1..=u64::from(room)).contains(&frame.n()) || room == 1, "{length} {room} {frame:?}");
                assert!(frame.from.0 <= NOW.0 - length && frame.to >= NOW, "{length} {room} {frame:?}");
                assert_eq!((frame.from.0 % frame.column_ns, frame.to.0 % frame.column_ns), (0, 0));
                let unit = [DAY_NS, HOUR_NS, MINUTE_NS, SECOND_NS].map(|unit| frame.column_ns % unit);
                assert!(unit.contains(&0));
            }
        }
        assert_eq!(Frame::of(Span::Last(2 * HOUR_NS), NOW, 64, SECOND_NS).column_ns, 2 * MINUTE_NS);
        assert_eq!(Frame::of(Span::Last(5 * MINUTE_NS), NOW, 400, SECOND_NS).column_ns, SECOND_NS);
        assert_eq!(Frame::of(Span::Last(5 * MINUTE_NS), NOW, 400, MINUTE_NS).column_ns, MINUTE_NS);
    }

    fn seen(has_past: bool) -> Seen {
        let frame = Frame::of(Span::Last(10 * MINUTE_NS), NOW, 64, SECOND_NS);
        let cursor = frame.column(NOW);
        let services = ["shop".into(), "cart".into()].into();
        Seen { now: NOW, has_past, range: SeenRange { frame, cursor, services }, ..Seen::default() }
    }

    #[test]
    fn a_key_opens_it_arrows_move_the_cursor_and_enter_goes_there() {
        let (mut app, mut at) = (App::default(), seen(true));
        app.key(Key::Char('r'), &at);
        assert_eq!(app.place(), Place::Range);
        for _ in 0..3 {
            app.key(Key::Left, &at);
            at.range.cursor = at.range.frame.column(app.range.as_ref().unwrap().cursor.unwrap());
        }
        app.key(Key::Right, &at);
        let cursor = app.range.as_ref().unwrap().cursor.unwrap();
        at.range.cursor = at.range.frame.column(cursor);
        let end = WallTime(cursor.0 + at.range.frame.column_ns);
        assert_eq!(at.range.frame.column(NOW) - at.range.cursor, 2);
        let order = Order::Goto { at: end, window_ns: app.window_ns };
        assert_eq!(app.key(Key::Enter, &at), Command::Order(order));
        assert_eq!(app.range, None);
        // Where nothing is recorded it stays, and says why.
        app.key(Key::Char('r'), &seen(false));
        assert_eq!(app.key(Key::Enter, &seen(false)), Command::Draw);
        assert!(app.range.is_some() && app.complaint.is_some_and(|text| text.contains("--out DIR")));
        let mut app = App::default();
        app.key(Key::Char('r'), &at);
        app.key(Key::Escape, &at);
        assert_eq!((app.range.is_none(), app.place()), (true, Place::View(app.view)));
    }

    #[test]
    fn services_are_gone_through_and_the_range_is_made_longer_and_shorter() {
        let (mut app, at) = (App::default(), seen(true));
        app.key(Key::Char('r'), &at);
        let service = |app: &App| app.range.as_ref().unwrap().service.as_deref().map(str::to_owned);
        let mut names = Vec::new();
        for key in [Key::Down, Key::Down, Key::Down, Key::Up, Key::Up, Key::Up] {
            app.key(key, &at);
            names.push(service(&app).unwrap_or_default());
        }
        assert_eq!(names, ["shop", "cart", "cart", "shop", "", ""]);
        let length = |app: &App| app.range.as_ref().unwrap().span.length_ns();
        let mut lengths = vec![length(&app)];
        for key in ['-', '-', '+', '+', '+', '+'] {
            app.key(Key::Char(key), &at);
            lengths.push(length(&app));
        }
        let minutes: Vec<u64> = lengths.iter().map(|ns| ns / MINUTE_NS).collect();
        assert_eq!(minutes, [30, 60, 120, 60, 30, 20, 10]);
    }

    #[test]
    fn a_range_is_typed_as_a_length_or_as_two_instants() {
        let typed = |text: &str| {
            let (mut app, at) = (App::default(), seen(true));
            for c in text.chars() {
                app.key(if c == '\n' { Key::Enter } else { Key::Char(c) }, &at);
            }
            app.range.map(|page| page.span)
        };
        assert_eq!(typed(":range 2h\n"), Some(Span::Last(2 * HOUR_NS)));
        assert_eq!(typed(":range 1s\n"), Some(Span::Last(10 * SECOND_NS)));
        let day = NOW.0 / DAY_NS * DAY_NS;
        let at = |hour: u64| WallTime(day + hour * HOUR_NS);
        assert_eq!(typed(":range 14:00 16:00\n"), Some(Span::Fixed(at(14), at(16))));
    }
}
