//! Which key does what, where. The only table: the screen obeys it, and help and footer are written from it.

use super::view::{Place, View};

/// A key, as far as the screen knows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    /// A character.
    Char(char),
    /// Alt and a character.
    Alt(char),
    /// Enter.
    Enter,
    /// Escape.
    Escape,
    /// Backspace.
    Backspace,
    /// Tab.
    Tab,
    /// Shift and Tab.
    BackTab,
    /// Arrow.
    Up,
    /// Arrow.
    Down,
    /// Arrow.
    Left,
    /// Arrow.
    Right,
    /// A page up.
    PageUp,
    /// A page down.
    PageDown,
    /// First.
    Home,
    /// Last; now.
    End,
    /// Ctrl-C.
    Interrupt,
    /// Ctrl and another letter.
    Ctrl(char),
}

impl Key {
    /// What it is called in the help.
    pub fn name(self) -> String {
        match self {
            Key::Char(' ') => "space".to_owned(),
            Key::Char(c) => c.to_string(),
            Key::Alt(c) => format!("Alt-{c}"),
            Key::Enter => "Enter".to_owned(),
            Key::Escape => "Esc".to_owned(),
            Key::Backspace => "Backspace".to_owned(),
            Key::Tab => "Tab".to_owned(),
            Key::BackTab => "Shift-Tab".to_owned(),
            Key::Up => "↑".to_owned(),
            Key::Down => "↓".to_owned(),
            Key::Left => "←".to_owned(),
            Key::Right => "→".to_owned(),
            Key::PageUp => "PgUp".to_owned(),
            Key::PageDown => "PgDn".to_owned(),
            Key::Home => "Home".to_owned(),
            Key::End => "End".to_owned(),
            Key::Interrupt => "Ctrl-C".to_owned(),
            Key::Ctrl(c) => format!("Ctrl-{}", c.to_ascii_uppercase()),
        }
    }
}

/// What a key makes happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Leave.
    Quit,
    /// Leave as if interrupted.
    Interrupt,
    /// Show the keys.
    Help,
    /// Show a view.
    View(View),
    /// Show the next view.
    NextView,
    /// Show the view before.
    PreviousView,
    /// Freeze the screen, or let it go.
    Pause,
    /// Back to now.
    Live,
    /// Ten seconds back.
    Earlier,
    /// Ten seconds forth.
    Later,
    /// A shorter window.
    Shorter,
    /// A longer window.
    Longer,
    /// A higher top of the value axis.
    HigherTop,
    /// A lower top.
    LowerTop,
    /// Type the top.
    TypeTop,
    /// Type a filter.
    TypeFilter,
    /// Another value upwards.
    Axis,
    /// Only errors, or all.
    OnlyErrors,
    /// Only long-lived ones, or all.
    OnlyLongLived,
    /// The transactions of a connection.
    ShowConnection,
    /// The time of a pattern.
    ShowPattern,
    /// Both ends of a local call, or one line.
    Unfold,
    /// What the transaction did, one thing after the other.
    Profile,
    /// Logarithmic or linear.
    Scale,
    /// Heat map, dots, or what fits.
    Density,
    /// Requests served, made, or both.
    Roles,
    /// The picture of who calls whom, or not.
    Map,
    /// Everything as at the start.
    Reset,
    /// Another order of the table.
    Sort,
    /// Row before.
    Previous,
    /// Next row.
    Next,
    /// First row.
    First,
    /// Last row.
    Last,
    /// A page of rows up.
    PageUp,
    /// A page of rows down.
    PageDown,
    /// Begin to select a rectangle of dots.
    Select,
    /// Fix a corner of the rectangle.
    Corner,
    /// Move the other corner one cell.
    CursorUp,
    /// Move the other corner one cell.
    CursorDown,
    /// Move the other corner one cell.
    CursorLeft,
    /// Move the other corner one cell.
    CursorRight,
    /// List what is selected.
    List,
    /// Make the window what is selected.
    Zoom,
    /// Compare what is selected with the others.
    Contrast,
    /// Call stacks of moments on a CPU, of waits, or both.
    StackParts,
    /// Move in the table of functions, or in the flame graph.
    StackTable,
    /// Who calls the function, and what it calls.
    Sandwich,
    /// Show the row.
    Open,
    /// Narrow the screen to the row, and show its dots.
    Narrow,
    /// Type where to export to.
    TypeExport,
    /// Show the link of the transaction.
    Link,
    /// Write the screen to a file.
    Dump,
    /// Leave what was opened last.
    Back,
    /// Scroll up.
    ScrollUp,
    /// Scroll down.
    ScrollDown,
    /// A second back in a recording.
    StepBack,
    /// A second on in a recording.
    Step,
    /// Play it faster.
    Faster,
    /// Play it slower.
    Slower,
    /// To the next error of the recording.
    NextError,
    /// To the error before.
    PreviousError,
    /// To the slowest transaction of the window.
    Slowest,
    /// Type a command.
    TypeCommand,
    /// Open counter graphs over a range.
    Range,
    /// Go to the instant of the cursor in them.
    GotoColumn,
    /// Show a layout that is kept, by the number of its preset, from 1.
    Preset(u8),
    /// Keep what is shown as a layout.
    SaveLayout,
}

/// Keys that do one thing in some places.
#[derive(Clone, Copy, Debug)]
pub struct Binding {
    /// The keys.
    pub keys: &'static [Key],
    /// Where.
    pub places: &'static [Place],
    /// What they do.
    pub action: Action,
    /// The same in words, for the help.
    pub what: &'static str,
    /// In a word, for the footer; empty = not there.
    pub hint: &'static str,
}

const fn bind(
    keys: &'static [Key],
    places: &'static [Place],
    action: Action,
    what: &'static str,
    hint: &'static str,
) -> Binding {
    Binding { keys, places, action, what, hint }
}

use Action as A;
use Key::{Alt, Char};

/// Everywhere.
const ALL: &[Place] = &[
    Place::View(View::Overview),
    Place::View(View::Xlog),
    Place::View(View::Active),
    Place::View(View::Operations),
    Place::View(View::Services),
    Place::View(View::Statements),
    Place::View(View::Stacks),
    Place::View(View::Connections),
    Place::View(View::Health),
    Place::View(View::Patterns),
    Place::Select,
    Place::List,
    Place::Contrast,
    Place::Detail,
    Place::Range,
    Place::Help,
];
/// In every view.
const VIEWS: &[Place] = &[
    Place::View(View::Overview),
    Place::View(View::Xlog),
    Place::View(View::Active),
    Place::View(View::Operations),
    Place::View(View::Services),
    Place::View(View::Statements),
    Place::View(View::Stacks),
    Place::View(View::Connections),
    Place::View(View::Health),
    Place::View(View::Patterns),
];
/// In every view, and where ranges are shown.
const COMMANDS: &[Place] = &[
    Place::View(View::Overview),
    Place::View(View::Xlog),
    Place::View(View::Active),
    Place::View(View::Operations),
    Place::View(View::Services),
    Place::View(View::Statements),
    Place::View(View::Stacks),
    Place::View(View::Connections),
    Place::View(View::Health),
    Place::View(View::Patterns),
    Place::Range,
];
/// Where the XLog is.
const CHARTS: &[Place] = &[Place::View(View::Overview), Place::View(View::Xlog)];
/// Where the XLog has the arrows.
const XLOG: &[Place] = &[Place::View(View::Xlog)];
/// Where a table has them.
const TABLES: &[Place] = &[
    Place::View(View::Overview),
    Place::View(View::Active),
    Place::View(View::Operations),
    Place::View(View::Services),
    Place::View(View::Statements),
    Place::View(View::Stacks),
    Place::View(View::Connections),
    Place::View(View::Patterns),
    Place::List,
];
/// Where it has more than one order.
const SORTED: &[Place] = &[
    Place::View(View::Overview),
    Place::View(View::Operations),
    Place::View(View::Statements),
    Place::View(View::Stacks),
    Place::View(View::Connections),
    Place::List,
];
const CONNECTIONS: &[Place] = &[Place::View(View::Connections)];
const STACKS: &[Place] = &[Place::View(View::Stacks)];
/// Where some transactions are selected.
const SELECTED: &[Place] = &[Place::List, Place::Contrast];
/// In every view, and where one transaction is shown.
const FOUND: &[Place] = &[
    Place::View(View::Overview),
    Place::View(View::Xlog),
    Place::View(View::Active),
    Place::View(View::Operations),
    Place::View(View::Services),
    Place::View(View::Statements),
    Place::View(View::Stacks),
    Place::View(View::Connections),
    Place::View(View::Health),
    Place::View(View::Patterns),
    Place::Detail,
];
const PATTERNS: &[Place] = &[Place::View(View::Patterns)];
const SELECT: &[Place] = &[Place::Select];
const RANGE: &[Place] = &[Place::Range];
/// Where a row stands for some transactions.
const NARROWING: &[Place] =
    &[Place::View(View::Overview), Place::View(View::Operations), Place::View(View::Services)];
/// Where there is something to export.
const EXPORTED: &[Place] = &[
    Place::View(View::Overview),
    Place::View(View::Xlog),
    Place::View(View::Active),
    Place::View(View::Operations),
    Place::View(View::Services),
    Place::View(View::Stacks),
    Place::View(View::Health),
    Place::List,
    Place::Contrast,
    Place::Detail,
];
/// Where a row is one transaction, finished or in flight.
const OPENING: &[Place] = &[Place::View(View::Active), Place::List];
/// Where a transaction is selected.
const LINKED: &[Place] = &[Place::List, Place::Detail];
const OPENED: &[Place] =
    &[Place::Select, Place::List, Place::Contrast, Place::Detail, Place::Range, Place::Help];
const SCROLLED: &[Place] = &[Place::View(View::Health), Place::Contrast, Place::Detail, Place::Help];

/// The nth shows the nth preset.
const PRESET_KEYS: &[Key] =
    &[Alt('1'), Alt('2'), Alt('3'), Alt('4'), Alt('5'), Alt('6'), Alt('7'), Alt('8'), Alt('9')];

/// All bindings, in the order of the help; those of a place with a hint, in the order of its footer.
pub const BINDINGS: &[Binding] = &[
    bind(&[Char('q')], ALL, A::Quit, "quit", "quit"),
    bind(&[Key::Interrupt], ALL, A::Interrupt, "interrupt: quit with exit code 130", ""),
    bind(&[Char('?')], ALL, A::Help, "the keys of this place", "help"),
    bind(&[Key::Escape], OPENED, A::Back, "back", "back"),
    bind(&[Char('/')], VIEWS, A::TypeFilter, "type a filter; empty: no filter", "filter"),
    bind(&[Char('E')], VIEWS, A::OnlyErrors, "only errors, or all", "errors"),
    bind(&[Char('A')], VIEWS, A::OnlyLongLived, "only long-lived (async) ones, or all", ""),
    bind(&[Key::Escape], VIEWS, A::Back, "back from a zoom; then no filter, no 'only'", ""),
    bind(&[Char('v')], XLOG, A::Select, "select a rectangle (or drag the mouse)", "select"),
    bind(&[Char('v'), Char(' ')], SELECT, A::Corner, "fix this corner, then move the other", "corner"),
    bind(&[Key::Enter], SELECT, A::List, "list what is in the rectangle", "list"),
    bind(&[Char('z')], SELECT, A::Zoom, "zoom to the rectangle", "zoom"),
    bind(&[Key::Up, Char('k')], SELECT, A::CursorUp, "move up", "↓ ← → move"),
    bind(&[Key::Down, Char('j')], SELECT, A::CursorDown, "move down", ""),
    bind(&[Key::Left, Char('h')], SELECT, A::CursorLeft, "move left", ""),
    bind(&[Key::Right, Char('l')], SELECT, A::CursorRight, "move right", ""),
    bind(&[Char('r')], VIEWS, A::Range, "counter graphs over time (:range 2h)", ""),
    bind(&[Key::Enter], RANGE, A::GotoColumn, "to this instant, in the recording", "go there"),
    bind(&[Key::Left, Char('h')], RANGE, A::CursorLeft, "a column back", ""),
    bind(&[Key::Right, Char('l')], RANGE, A::CursorRight, "a column forth", ""),
    bind(&[Char('g'), Key::Home], RANGE, A::First, "first column", ""),
    bind(&[Char('G'), Key::End], RANGE, A::Last, "last column that is over", ""),
    bind(&[Key::Up, Char('k')], RANGE, A::Previous, "service before, or all", ""),
    bind(&[Key::Down, Char('j')], RANGE, A::Next, "of one service; next service", "service"),
    bind(&[Char('+'), Char('=')], RANGE, A::Shorter, "a shorter range", "range"),
    bind(&[Char('-'), Char('_')], RANGE, A::Longer, "a longer range", ""),
    bind(&[Char('c')], RANGE, A::Roles, "requests served, made, or both", "role"),
    bind(&[Char('b')], &[Place::List], A::Contrast, "what they have that the others have not", "compare"),
    bind(&[Char('7')], SELECTED, A::View(View::Stacks), "call stacks of what is selected", "stacks"),
    bind(&[Key::Enter], STACKS, A::Open, "zoom into the frame; of a row: between", "zoom"),
    bind(&[Char('c')], STACKS, A::StackParts, "on a CPU, off it, or both", "cpu"),
    bind(&[Char('t')], STACKS, A::StackTable, "arrows: in the table, or in the graph", "table"),
    bind(&[Char('i')], STACKS, A::Sandwich, "between its callers and what it calls", "between"),
    bind(&[Char('b')], STACKS, A::Contrast, "what was selected against all others", "compare"),
    bind(&[Key::Left, Char('h')], STACKS, A::CursorLeft, "frame to the left", ""),
    bind(&[Key::Right, Char('l')], STACKS, A::CursorRight, "frame to the right", ""),
    bind(&[Key::Enter], OPENING, A::Open, "open the transaction", "open"),
    bind(&[Key::Enter], NARROWING, A::Narrow, "filter to the row, and show its dots", ""),
    bind(&[Char('o')], LINKED, A::Link, "the link to another tool (--open-url)", ""),
    bind(&[Char('e')], EXPORTED, A::TypeExport, "export all rows to a file", ""),
    bind(&[Key::Ctrl('s')], ALL, A::Dump, "write the screen to a file, text and JSON", ""),
    bind(
        &[Char('x')],
        &[Place::List, Place::Detail],
        A::Unfold,
        "both ends of a local call, or one line",
        "",
    ),
    bind(&[Char('p')], &[Place::Detail], A::Profile, "what it did, one thing after the other", "profile"),
    bind(&[Key::Enter], CONNECTIONS, A::ShowConnection, "its transactions, in the XLog", "its dots"),
    bind(&[Key::Enter], PATTERNS, A::ShowPattern, "its time, in the XLog", "its time"),
    bind(&[Key::Up, Char('k')], TABLES, A::Previous, "previous row", ""),
    bind(&[Key::Down, Char('j')], TABLES, A::Next, "next row", ""),
    bind(&[Char('g'), Key::Home], TABLES, A::First, "first row", ""),
    bind(&[Char('G'), Key::End], TABLES, A::Last, "last row", ""),
    bind(&[Key::PageUp], TABLES, A::PageUp, "a page up", ""),
    bind(&[Key::PageDown], TABLES, A::PageDown, "a page down", ""),
    bind(&[Char('s')], SORTED, A::Sort, "sort by another column", "sort"),
    bind(&[Key::Up, Char('k')], SCROLLED, A::ScrollUp, "scroll up", ""),
    bind(&[Key::Down, Char('j')], SCROLLED, A::ScrollDown, "scroll down", ""),
    bind(&[Key::PageUp], SCROLLED, A::PageUp, "a page up", ""),
    bind(&[Key::PageDown], SCROLLED, A::PageDown, "a page down", ""),
    bind(&[Char('g'), Key::Home], SCROLLED, A::First, "first line", ""),
    bind(&[Char('G'), Key::End], SCROLLED, A::Last, "last line", ""),
    bind(&[Char(' ')], COMMANDS, A::Pause, "stop, go on; capture goes on either way", "pause"),
    bind(&[Char('L')], VIEWS, A::Live, "back to now, not frozen, not zoomed", "now"),
    bind(&[Char(':')], COMMANDS, A::TypeCommand, "type a command: goto, range, speed …", "go to"),
    bind(&[Key::Left], CHARTS, A::Earlier, "10 s back, into the recording too", ""),
    bind(&[Key::Right], CHARTS, A::Later, "10 s forth", ""),
    bind(&[Char(',')], VIEWS, A::StepBack, "in a recording: a second back", ""),
    bind(&[Char('.')], VIEWS, A::Step, "in a recording: a second on, then stop", ""),
    bind(&[Char(']')], VIEWS, A::Faster, "in a recording: faster", ""),
    bind(&[Char('[')], VIEWS, A::Slower, "in a recording: slower", ""),
    bind(&[Char('n')], FOUND, A::NextError, "in a recording: to the next error", ""),
    bind(&[Char('N')], FOUND, A::PreviousError, "in a recording: to the error before", ""),
    bind(&[Char('W')], FOUND, A::Slowest, "in a recording: the window's slowest", ""),
    bind(&[Char('+'), Char('=')], CHARTS, A::Shorter, "a shorter window", "window"),
    bind(&[Char('-'), Char('_')], CHARTS, A::Longer, "a longer window", ""),
    bind(&[Key::Up, Char('k')], XLOG, A::HigherTop, "a higher top of the axis", ""),
    bind(&[Key::Down, Char('j')], XLOG, A::LowerTop, "a lower top of the axis", ""),
    bind(&[Char('y')], CHARTS, A::TypeTop, "type the top of the axis", "top"),
    bind(&[Char('Y')], CHARTS, A::Axis, "elapsed, first byte, queue, sending, bytes", "axis"),
    bind(&[Char('l')], CHARTS, A::Scale, "logarithmic or linear axis", "log"),
    bind(&[Char('H')], CHARTS, A::Density, "heat map, dots, or what fits", "heat"),
    bind(&[Char('c')], CHARTS, A::Roles, "requests served, made, or both", "role"),
    bind(&[Char('m')], &[Place::View(View::Services)], A::Map, "the map, or the tables alone", "map"),
    bind(&[Char('R')], VIEWS, A::Reset, "everything as at the start", ""),
    bind(&[Char('1')], VIEWS, A::View(View::Overview), "overview", ""),
    bind(&[Char('2')], VIEWS, A::View(View::Xlog), "XLog: one dot per transaction", ""),
    bind(&[Char('3')], VIEWS, A::View(View::Active), "requests in flight", ""),
    bind(&[Char('4')], VIEWS, A::View(View::Operations), "operations", ""),
    bind(&[Char('5')], VIEWS, A::View(View::Services), "services, and who calls whom", ""),
    bind(&[Char('6')], VIEWS, A::View(View::Statements), "what databases and caches are asked", ""),
    bind(&[Char('7')], VIEWS, A::View(View::Stacks), "call stacks: what requests were doing", ""),
    bind(&[Char('8')], VIEWS, A::View(View::Connections), "connections", ""),
    bind(&[Char('9')], VIEWS, A::View(View::Patterns), "patterns of the XLog, explained", ""),
    bind(&[Char('0')], VIEWS, A::View(View::Health), "txray itself: events, losses, cost", ""),
    bind(&[Key::Tab], VIEWS, A::NextView, "next view", ""),
    bind(&[Key::BackTab], VIEWS, A::PreviousView, "view before", ""),
    bind(PRESET_KEYS, VIEWS, A::Preset(0), "a layout that is kept, by its number", ""),
    bind(&[Char('S')], VIEWS, A::SaveLayout, "keep this layout: number and name", ""),
];

/// The bindings of a place, as in the table.
#[cfg(test)]
pub fn of(place: Place) -> impl Iterator<Item = &'static Binding> {
    BINDINGS.iter().filter(move |binding| binding.places.contains(&place))
}

/// What a key does in a place, by the table.
#[cfg(test)]
pub fn action(place: Place, key: Key) -> Option<Action> {
    of(place).find(|binding| binding.keys.contains(&key)).map(|binding| binding.action)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn no_key_has_two_meanings_in_one_place() {
        for &place in ALL {
            let mut meanings: HashMap<Key, Action> = HashMap::new();
            for binding in of(place) {
                for &key in binding.keys {
                    let before = meanings.insert(key, binding.action);
                    assert_eq!(before, None, "{key:?} in {place:?} is {:?} too", binding.action);
                }
            }
        }
    }

    #[test]
    fn every_place_can_be_left_and_explained() {
        for &place in ALL {
            assert_eq!(action(place, Char('q')), Some(A::Quit), "{place:?}");
            assert_eq!(action(place, Char('?')), Some(A::Help), "{place:?}");
            assert!(
                matches!(place, Place::View(_)) || action(place, Key::Escape) == Some(A::Back),
                "{place:?}"
            );
        }
    }

    #[test]
    fn every_binding_fits_the_help_of_the_narrowest_screen() {
        for binding in BINDINGS {
            let keymap = crate::tui::Keymap::default();
            let mut texts = keymap.of(binding.places[0]).filter(|bound| bound.what == binding.what);
            let keys = texts.next().map_or(0, |bound| bound.keys_text().chars().count() + 1);
            assert!((1..=14).contains(&keys) && (1..=44).contains(&binding.what.len()), "{binding:?}");
        }
    }

    #[test]
    fn every_view_has_its_digit_and_can_be_moved_in() {
        for view in View::ALL {
            assert!(VIEWS.contains(&Place::View(view)) && ALL.contains(&Place::View(view)), "{view:?}");
            for &place in VIEWS {
                assert_eq!(action(place, Char(char::from(view.digit()))), Some(A::View(view)));
            }
            assert!(action(Place::View(view), Key::Down).is_some(), "{view:?}");
        }
    }
}
