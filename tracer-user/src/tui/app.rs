//! What the user chose: window, axis, order, selection. Pure: keys go in, state comes out.

use std::time::Duration;

use super::chart::{Density, Scale};
use crate::{config::Span, event::Role, time::WallTime};

const SECOND_NS: u64 = 1_000_000_000;
const MINUTE_NS: u64 = 60 * SECOND_NS;
/// Shortest and longest window.
const WINDOWS_NS: std::ops::RangeInclusive<u64> = MINUTE_NS..=60 * MINUTE_NS;
/// Lowest and highest top of the elapsed axis.
const TOPS_NS: std::ops::RangeInclusive<u64> = 1_000_000..=3_600 * SECOND_NS;
/// Longest text that is typed into the prompt.
const MAX_PROMPT: usize = 16;

/// A key, as far as the screen knows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// A character.
    Char(char),
    /// Enter.
    Enter,
    /// Escape.
    Escape,
    /// Backspace.
    Backspace,
    /// Tab.
    Tab,
    /// Arrow.
    Up,
    /// Arrow.
    Down,
    /// Arrow.
    Left,
    /// Arrow.
    Right,
    /// Ctrl-C.
    Interrupt,
}

/// What a key means for the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Draw again.
    Draw,
    /// Nothing changed.
    Nothing,
    /// Leave.
    Quit,
    /// Leave as if interrupted.
    Interrupt,
}

/// Which pane the arrows move in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Focus {
    /// The operations table.
    #[default]
    Table,
    /// The XLog.
    Chart,
}

/// Whose dots the XLog shows. A local call has one of each: both together show it twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Roles {
    /// Requests served (and those of unknown role).
    #[default]
    Servers,
    /// Requests made.
    Clients,
    /// All.
    Both,
}

impl Roles {
    /// Whether dots of `role` are shown.
    pub fn shows(self, role: Role) -> bool {
        match self {
            Roles::Servers => role != Role::Client,
            Roles::Clients => role == Role::Client,
            Roles::Both => true,
        }
    }
}

/// Order of the operations table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sort {
    /// Most transactions first.
    #[default]
    Count,
    /// Most errors first.
    Errors,
    /// Longest p99 first.
    P99,
    /// Longest first.
    Max,
    /// By service and name.
    Name,
}

impl Sort {
    /// Heading of the column it sorts by.
    pub fn column(self) -> &'static str {
        match self {
            Sort::Count => "count",
            Sort::Errors => "errors",
            Sort::P99 => "p99",
            Sort::Max => "max",
            Sort::Name => "operation",
        }
    }
}

/// What the user chose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct App {
    /// Time across the XLog, ns.
    pub window_ns: u64,
    /// Elapsed at its top, ns.
    pub y_max_ns: u64,
    /// Elapsed axis.
    pub scale: Scale,
    /// Dots or counts; `None` = what fits.
    pub forced: Option<Density>,
    /// What was shown last.
    pub density: Density,
    /// Whose dots.
    pub roles: Roles,
    /// How far the window's end lies in the past, ns; 0 = it follows.
    pub back_ns: u64,
    /// The instant at which the screen was paused.
    pub paused: Option<WallTime>,
    /// Which pane the arrows move in.
    pub focus: Focus,
    /// Order of the table.
    pub sort: Sort,
    /// Selected row of the table.
    pub selected: usize,
    /// Rows that there are, told by whoever draws.
    pub n_rows: usize,
    /// Whether the help is shown.
    pub help: bool,
    /// What is typed for the top of the axis.
    pub prompt: Option<String>,
    /// What was wrong with what was typed.
    pub complaint: Option<String>,
}

impl Default for App {
    fn default() -> Self {
        App {
            window_ns: 5 * MINUTE_NS,
            y_max_ns: 10 * SECOND_NS,
            scale: Scale::Log,
            forced: None,
            density: Density::Scatter,
            roles: Roles::Servers,
            back_ns: 0,
            paused: None,
            focus: Focus::Table,
            sort: Sort::Count,
            selected: 0,
            n_rows: 0,
            help: false,
            prompt: None,
            complaint: None,
        }
    }
}

impl App {
    /// As at the start, with the window that a run of a known length asks for: whole minutes, within the bounds.
    pub fn with_window(window_ns: Option<u64>) -> App {
        let window_ns = window_ns.map(|ns| clamp(ns.div_ceil(MINUTE_NS) * MINUTE_NS, &WINDOWS_NS));
        let app = App::default();
        App { window_ns: window_ns.unwrap_or(app.window_ns), ..app }
    }

    /// Takes a key at event time `now`.
    pub fn key(&mut self, key: Key, now: WallTime) -> Command {
        if key == Key::Interrupt {
            return Command::Interrupt;
        }
        if self.prompt.is_some() {
            return self.prompt_key(key);
        }
        self.complaint = None;
        if self.help {
            self.help = false;
            return if key == Key::Char('q') { Command::Quit } else { Command::Draw };
        }
        match key {
            Key::Char('q') => return Command::Quit,
            Key::Char('?') => self.help = true,
            Key::Char(' ') => self.paused = if self.paused.is_some() { None } else { Some(now) },
            Key::Char('+' | '=') => {
                self.window_ns = clamp(self.window_ns.saturating_sub(MINUTE_NS), &WINDOWS_NS)
            }
            Key::Char('-' | '_') => self.window_ns = clamp(self.window_ns + MINUTE_NS, &WINDOWS_NS),
            Key::Char('y') => self.prompt = Some(String::new()),
            Key::Char('l') => {
                self.scale = if self.scale == Scale::Log { Scale::Linear } else { Scale::Log };
            }
            Key::Char('H') => {
                self.forced = match self.forced {
                    None => Some(Density::Heat),
                    Some(Density::Heat) => Some(Density::Scatter),
                    Some(Density::Scatter) => None,
                };
            }
            Key::Char('c') => {
                self.roles = match self.roles {
                    Roles::Servers => Roles::Clients,
                    Roles::Clients => Roles::Both,
                    Roles::Both => Roles::Servers,
                };
            }
            Key::Char('s') => {
                self.sort = match self.sort {
                    Sort::Count => Sort::Errors,
                    Sort::Errors => Sort::P99,
                    Sort::P99 => Sort::Max,
                    Sort::Max => Sort::Name,
                    Sort::Name => Sort::Count,
                };
                self.selected = 0;
            }
            Key::Char('L') => (self.back_ns, self.paused) = (0, None),
            Key::Char('0') => {
                *self =
                    App { n_rows: self.n_rows, density: self.density, paused: self.paused, ..App::default() };
            }
            Key::Tab => {
                self.focus = if self.focus == Focus::Table { Focus::Chart } else { Focus::Table };
            }
            Key::Up | Key::Down | Key::Left | Key::Right => return self.arrow(key),
            Key::Char('k') => return self.select(-1),
            Key::Char('j') => return self.select(1),
            Key::Char('g') => self.selected = 0,
            Key::Char('G') => self.selected = self.n_rows.saturating_sub(1),
            Key::Char(_) | Key::Enter | Key::Escape | Key::Backspace | Key::Interrupt => {
                return Command::Nothing;
            }
        }
        Command::Draw
    }

    fn arrow(&mut self, key: Key) -> Command {
        match (self.focus, key) {
            (Focus::Table, Key::Up) => return self.select(-1),
            (Focus::Table, Key::Down) => return self.select(1),
            // A third up or down: 10 s, 7.5 s, 5.6 s …
            (Focus::Chart, Key::Up) => self.y_max_ns = clamp(self.y_max_ns / 3 * 4, &TOPS_NS),
            (Focus::Chart, Key::Down) => self.y_max_ns = clamp(self.y_max_ns / 4 * 3, &TOPS_NS),
            (_, Key::Left) => self.back_ns = self.back_ns.saturating_add(10 * SECOND_NS),
            (_, Key::Right) => self.back_ns = self.back_ns.saturating_sub(10 * SECOND_NS),
            _ => return Command::Nothing,
        }
        Command::Draw
    }

    fn select(&mut self, by: isize) -> Command {
        let last = self.n_rows.saturating_sub(1);
        self.selected = self.selected.saturating_add_signed(by).min(last);
        Command::Draw
    }

    fn prompt_key(&mut self, key: Key) -> Command {
        let Some(text) = &mut self.prompt else { return Command::Nothing };
        match key {
            Key::Char(c) if c.is_ascii_graphic() && text.len() < MAX_PROMPT => text.push(c),
            Key::Backspace => drop(text.pop()),
            Key::Escape => self.prompt = None,
            Key::Enter => {
                let text = self.prompt.take().unwrap_or_default();
                match text.parse::<Span>() {
                    Ok(Span(top)) if top > Duration::ZERO => {
                        let ns = u64::try_from(top.as_nanos()).unwrap_or(u64::MAX);
                        self.y_max_ns = clamp(ns, &TOPS_NS);
                    }
                    _ => self.complaint = Some(format!("'{text}' is not a duration such as 500ms or 9s")),
                }
            }
            _ => return Command::Nothing,
        }
        Command::Draw
    }

    /// Dots or counts, for a chart that fits `fitting` best.
    pub fn shown_density(&self, fitting: Density) -> Density {
        self.forced.unwrap_or(fitting)
    }

    /// Time at the right edge of the XLog when event time is `now`.
    pub fn end(&self, now: WallTime) -> WallTime {
        WallTime(self.paused.unwrap_or(now).0.saturating_sub(self.back_ns))
    }
}

fn clamp(value: u64, range: &std::ops::RangeInclusive<u64>) -> u64 {
    value.clamp(*range.start(), *range.end())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn keys(app: &mut App, text: &str) {
        for c in text.chars() {
            app.key(Key::Char(c), WallTime(100 * SECOND_NS));
        }
    }

    #[test]
    fn the_top_of_the_axis_is_typed() {
        let mut app = App::default();
        keys(&mut app, "y500ms");
        assert_eq!(app.prompt.as_deref(), Some("500ms"));
        app.key(Key::Enter, WallTime(0));
        assert_eq!((app.y_max_ns, app.prompt.is_none()), (500_000_000, true));
        keys(&mut app, "yq");
        app.key(Key::Enter, WallTime(0));
        assert_eq!(app.y_max_ns, 500_000_000);
        assert!(app.complaint.is_some());
        keys(&mut app, "y9");
        app.key(Key::Escape, WallTime(0));
        assert_eq!(app.y_max_ns, 500_000_000);
    }

    #[test]
    fn a_short_run_gets_a_short_window() {
        assert_eq!(App::with_window(Some(20 * SECOND_NS)).window_ns, MINUTE_NS);
        assert_eq!(App::with_window(Some(90 * SECOND_NS)).window_ns, 2 * MINUTE_NS);
        assert_eq!(App::with_window(None).window_ns, 5 * MINUTE_NS);
    }

    #[test]
    fn pausing_holds_the_windows_end_and_the_same_key_lets_it_go() {
        let mut app = App::default();
        app.key(Key::Char(' '), WallTime(7));
        assert_eq!(app.end(WallTime(1_000)), WallTime(7));
        app.key(Key::Char(' '), WallTime(1_000));
        assert_eq!(app.end(WallTime(2_000)), WallTime(2_000));
    }

    #[test]
    fn the_selection_stays_inside_the_table() {
        let mut app = App { n_rows: 3, ..App::default() };
        for _ in 0..10 {
            app.key(Key::Down, WallTime(0));
        }
        assert_eq!(app.selected, 2);
        for _ in 0..10 {
            app.key(Key::Up, WallTime(0));
        }
        assert_eq!(app.selected, 0);
    }

    #[test]
    fn q_leaves_but_is_a_letter_in_the_prompt() {
        let mut app = App::default();
        assert_eq!(app.key(Key::Char('y'), WallTime(0)), Command::Draw);
        assert_eq!(app.key(Key::Char('q'), WallTime(0)), Command::Draw);
        app.key(Key::Escape, WallTime(0));
        assert_eq!(app.key(Key::Char('q'), WallTime(0)), Command::Quit);
        assert_eq!(app.key(Key::Interrupt, WallTime(0)), Command::Interrupt);
    }

    fn any_key() -> impl Strategy<Value = Key> {
        prop_oneof![
            any::<char>().prop_map(Key::Char),
            prop::sample::select("+-=_ylHcsL0?kjgG 123sm".chars().collect::<Vec<_>>()).prop_map(Key::Char),
            prop::sample::select(vec![
                Key::Enter,
                Key::Escape,
                Key::Backspace,
                Key::Tab,
                Key::Up,
                Key::Down,
                Key::Left,
                Key::Right
            ]),
        ]
    }

    proptest! {
        #[test]
        fn no_sequence_of_keys_leaves_the_bounds(keys in prop::collection::vec((any_key(), 1_usize..80), 0..40), n_rows in 0_usize..9) {
            let mut app = App { n_rows, ..App::default() };
            let now = WallTime(1_000 * SECOND_NS);
            // A key held down: single ones cancel out before they reach a bound.
            for key in keys.into_iter().flat_map(|(key, n)| std::iter::repeat_n(key, n)) {
                app.key(key, now);
                prop_assert!(WINDOWS_NS.contains(&app.window_ns));
                prop_assert!(TOPS_NS.contains(&app.y_max_ns));
                prop_assert!(app.end(now) <= now);
                prop_assert!(app.selected <= n_rows.saturating_sub(1));
                prop_assert!(app.prompt.as_ref().is_none_or(|text| text.len() <= MAX_PROMPT));
            }
        }
    }
}
