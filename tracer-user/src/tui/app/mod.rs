//! What the user chose: view, window, axis, order, selection. Pure: keys go in, state comes out.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    axis::Axis,
    chart::{ChartArea, Density, Geometry, Rectangle, Scale},
    columns::Columns,
    errand::{self, Errand},
    flight::Flight,
    keymap::{Action, Key},
    layouts::SavedLayout,
    link::Template,
    only::Only,
    patterns::SeenPattern,
    playback::{Order, Played, Sought},
    range::{RangePage, SeenRange},
    settings::ScreenSettings,
    stacks::{SeenStacks, StacksPage},
    statements::StatementSort,
    view::{ConnSort, ListSort, Place, Roles, Sort, View},
};
use crate::{
    event::{ConnId, Role},
    report::filter::Filter,
    time::WallTime,
    transaction::{CallId, Transaction},
};

pub(in crate::tui) const SECOND_NS: u64 = 1_000_000_000;
const MINUTE_NS: u64 = 60 * SECOND_NS;
/// Longest window.
pub(in crate::tui) const LONGEST_NS: u64 = 60 * MINUTE_NS;
/// Windows below a minute; above, whole minutes.
pub(in crate::tui) const SHORT_NS: [u64; 6] =
    [SECOND_NS, 2 * SECOND_NS, 5 * SECOND_NS, 10 * SECOND_NS, 20 * SECOND_NS, 30 * SECOND_NS];
/// Shortest and longest window.
pub(in crate::tui) const WINDOWS_NS: std::ops::RangeInclusive<u64> = SHORT_NS[0]..=LONGEST_NS;
/// Zooms that can be taken back.
const MAX_ZOOMS: usize = 32;

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
    /// Ask the playback for something.
    Order(Order),
    /// Draw again, and keep [`App::to_save`].
    Save,
}

/// A rectangle while it is being selected, in cells of the chart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The corner that moves: column, row.
    pub at: (u16, u16),
    /// The fixed corner.
    pub corner: Option<(u16, u16)>,
    /// The screen was not frozen before: dots that wander off under the cursor cannot be selected.
    pub froze: bool,
}

/// What is being typed, and for what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// For what.
    pub purpose: Purpose,
    /// The text.
    pub text: String,
    /// Where the fault is that was found in it: a character, from 0.
    pub fault: Option<usize>,
}

/// What a typed text is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The top of the value axis.
    Top,
    /// A filter.
    Filter,
    /// A command.
    Command,
    /// Number and name of a layout to keep.
    Layout,
    /// A file to export to.
    Export,
}

/// What was shown before a zoom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Zoom {
    window_ns: u64,
    back_ns: u64,
    paused: Option<WallTime>,
    axis: Axis,
    y_max_ns: u64,
}

/// What the last frame showed: what a key refers to.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Event time.
    pub now: WallTime,
    /// Rows of the table that has the arrows.
    pub n_rows: usize,
    /// Rows of it on the screen at once.
    pub page: usize,
    /// The XLog.
    pub chart: Option<Geometry>,
    /// The selected row of a list.
    pub row: Option<Arc<Transaction>>,
    /// The recording that is played; `None`: what happens now is shown.
    pub played: Option<Played>,
    /// There is a recording to go back in.
    pub has_past: bool,
    /// Of what ended before this, dots are no longer kept.
    pub kept_from: WallTime,
    /// What the selected row of a table stands for.
    pub narrow: Option<Narrowing>,
    /// The local call that it is an end of.
    pub call: Option<u64>,
    /// The selected connection.
    pub conn: Option<ConnId>,
    /// The selected pattern.
    pub pattern: Option<SeenPattern>,
    /// The page of counter graphs.
    pub range: SeenRange,
    /// The selected request in flight.
    pub flight: Option<Flight>,
    /// Call stacks: what lies around the selected frame.
    pub stacks: SeenStacks,
}

impl Seen {
    /// The instant that is shown, or that a playback is on the way to.
    pub fn instant(&self) -> WallTime {
        self.played.as_ref().and_then(|played| played.seeking).unwrap_or(self.now)
    }
}

/// The transactions that a row stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Narrowing {
    /// The filter that matches them; `None` = there is none.
    pub filter: Option<String>,
    /// The role they have.
    pub role: Role,
}

/// Rows of one table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    /// The selected one.
    pub selected: usize,
}

impl Rows {
    pub(in crate::tui) fn go(&mut self, action: Action, seen: &Seen) {
        let page = seen.page.max(1);
        self.selected = match action {
            Action::Previous => self.selected.saturating_sub(1),
            Action::Next => self.selected.saturating_add(1),
            Action::PageUp => self.selected.saturating_sub(page),
            Action::PageDown => self.selected.saturating_add(page),
            Action::Last => usize::MAX,
            _ => 0,
        }
        .min(seen.n_rows.saturating_sub(1));
    }
}

/// What the user chose.
#[derive(Clone, Debug)]
pub struct App {
    /// The view.
    pub view: View,
    /// Time across the XLog, ns.
    pub window_ns: u64,
    /// What it shows upwards.
    pub axis: Axis,
    /// The value at its top, in the axis's unit: ns or bytes.
    pub y_max_ns: u64,
    /// The tops of the other axes.
    pub tops: [u64; Axis::ALL.len()],
    /// Logarithmic or linear.
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
    /// Order of the operations.
    pub sort: Sort,
    /// The operations.
    pub operations: Rows,
    /// The requests in flight.
    pub active: Rows,
    /// Who calls whom.
    pub edges: Rows,
    /// It is drawn too, where there is room.
    pub map: bool,
    /// Order of the statements.
    pub statement_sort: StatementSort,
    /// What databases and caches are asked.
    pub statements: Rows,
    /// Call stacks.
    pub stacks: StacksPage,
    /// Order of the connections.
    pub conn_sort: ConnSort,
    /// The connections.
    pub conns: Rows,
    /// The patterns.
    pub patterns: Rows,
    /// A rectangle that is being selected.
    pub cursor: Option<Cursor>,
    /// The rectangle that is listed.
    pub selection: Option<Rectangle>,
    /// Order of the list.
    pub list_sort: ListSort,
    /// The list.
    pub list: Rows,
    /// Local calls in it whose ends have lines of their own; no more than it has lines, forgotten with it.
    pub unfolded: BTreeSet<u64>,
    /// The same of all calls of the detail.
    pub unfold_detail: bool,
    /// The transaction whose profile was asked for.
    pub profile_of: Option<CallId>,
    /// What is selected is compared with the others.
    pub contrast: bool,
    /// Counter graphs over a range.
    pub range: Option<RangePage>,
    /// The transaction that is shown.
    pub detail: Option<Arc<Transaction>>,
    /// The request in flight that is shown; it turns into the transaction above when it ends.
    pub flight: Option<Flight>,
    /// First line of the detail, or of what a view shows line by line.
    pub scroll: u16,
    /// First line of the help, if it is shown.
    pub help: Option<u16>,
    /// What the screen is narrowed to, besides what the run itself lets through.
    pub filter: Option<Filter>,
    /// The same with a key.
    pub only: Only,
    /// What is being typed.
    pub prompt: Option<Prompt>,
    /// What was wrong with what was typed.
    pub complaint: Option<String>,
    /// What was shown before each zoom.
    pub zooms: Vec<Zoom>,
    /// Columns of the tables.
    pub columns: Columns,
    /// A layout that is to be kept.
    pub to_save: Option<SavedLayout>,
    /// What the settings say.
    pub settings: Arc<ScreenSettings>,
    /// What is to be done outside of the screen's state.
    pub errand: Option<Errand>,
    /// How to make a link of a transaction.
    pub template: Option<Template>,
    /// The link that is shown.
    pub url: Option<String>,
    /// The field of the heads that its trace id is from.
    pub url_field: Option<&'static str>,
    /// The transaction whose link waits for its heads. Any key forgets it.
    pub link_of: Option<Arc<Transaction>>,
}

impl Default for App {
    fn default() -> Self {
        App {
            view: View::Overview,
            window_ns: 5 * MINUTE_NS,
            axis: Axis::Elapsed,
            y_max_ns: Axis::Elapsed.first_top(),
            tops: Axis::ALL.map(Axis::first_top),
            scale: Scale::Log,
            forced: None,
            density: Density::Scatter,
            roles: Roles::Servers,
            back_ns: 0,
            paused: None,
            sort: Sort::Count,
            operations: Rows::default(),
            active: Rows::default(),
            edges: Rows::default(),
            map: true,
            statement_sort: StatementSort::Total,
            statements: Rows::default(),
            stacks: StacksPage::default(),
            conn_sort: ConnSort::Idle,
            conns: Rows::default(),
            patterns: Rows::default(),
            cursor: None,
            selection: None,
            list_sort: ListSort::Elapsed,
            list: Rows::default(),
            unfolded: BTreeSet::new(),
            unfold_detail: false,
            profile_of: None,
            contrast: false,
            range: None,
            detail: None,
            flight: None,
            scroll: 0,
            help: None,
            filter: None,
            only: Only::default(),
            prompt: None,
            complaint: None,
            zooms: Vec::new(),
            columns: Columns::default(),
            to_save: None,
            settings: Arc::default(),
            errand: None,
            template: None,
            url: None,
            url_field: None,
            link_of: None,
        }
    }
}

impl App {
    /// As at the start, with the window that a run of a known length asks for: whole minutes, within the bounds.
    pub fn with_window(window_ns: Option<u64>) -> App {
        let window_ns = window_ns.map(|ns| (ns.div_ceil(MINUTE_NS) * MINUTE_NS).clamp(MINUTE_NS, LONGEST_NS));
        let app = App::default();
        App { window_ns: window_ns.unwrap_or(app.window_ns), ..app }
    }

    /// Where the next key is pressed.
    pub fn place(&self) -> Place {
        if self.help.is_some() { Place::Help } else { self.place_below_help() }
    }

    /// The same without the help above it.
    pub fn place_below_help(&self) -> Place {
        if self.opened().is_some() {
            Place::Detail
        } else if self.selection.is_some() && self.contrast {
            Place::Contrast
        } else if self.selection.is_some() {
            Place::List
        } else if self.range.is_some() {
            Place::Range
        } else if self.cursor.is_some() {
            Place::Select
        } else {
            Place::View(self.view)
        }
    }

    /// The transaction whose heads are wanted.
    pub fn heads_of(&self) -> Option<&Arc<Transaction>> {
        self.link_of.as_ref().or_else(|| self.opened())
    }

    /// Takes a key.
    pub fn key(&mut self, key: Key, seen: &Seen) -> Command {
        if key == Key::Interrupt {
            return Command::Interrupt;
        }
        // Whatever is being typed: what is on the screen is what is kept of it.
        let is_typed = matches!(key, Key::Char(_) | Key::Backspace | Key::Enter | Key::Escape);
        if !is_typed && self.settings.keymap.action(self.place(), key) == Some(Action::Dump) {
            return self.act(Action::Dump, seen);
        }
        self.link_of = None;
        if self.url.take().is_some() {
            return Command::Draw;
        }
        if self.prompt.is_some() {
            return self.prompt_key(key, seen);
        }
        self.complaint = None;
        match self.settings.keymap.action(self.place(), key) {
            Some(action) => self.act(action, seen),
            None => Command::Nothing,
        }
    }

    /// Does what a key stands for.
    pub fn act(&mut self, action: Action, seen: &Seen) -> Command {
        if let Some(command) = self.act_on_range(action, seen).or_else(|| self.act_on_stacks(action, seen)) {
            return command;
        }
        match action {
            Action::Quit => return Command::Quit,
            Action::Interrupt => return Command::Interrupt,
            Action::Help => self.help = if self.help.is_some() { None } else { Some(0) },
            Action::View(view) => (self.view, self.scroll) = (view, 0),
            Action::NextView => (self.view, self.scroll) = (self.beside(1), 0),
            Action::PreviousView => (self.view, self.scroll) = (self.beside(View::ALL.len() - 1), 0),
            Action::Pause if seen.played.is_some() => return Command::Order(Order::Toggle),
            Action::Pause => self.paused = if self.paused.is_some() { None } else { Some(seen.now) },
            Action::Live => {
                self.live();
                return if seen.played.is_some() { Command::Order(Order::Live) } else { Command::Draw };
            }
            Action::Earlier => return self.earlier(seen),
            Action::Later if seen.played.is_some() => return self.step(10 * SECOND_NS as i64, seen),
            Action::Later => self.back_ns = self.back_ns.saturating_sub(10 * SECOND_NS),
            Action::StepBack => return self.step(-(SECOND_NS as i64), seen),
            Action::Step => return self.step(SECOND_NS as i64, seen),
            Action::Faster | Action::Slower => {
                let Some(played) = &seen.played else { return self.only_in_a_recording(seen) };
                let pace = if action == Action::Faster { played.pace.faster() } else { played.pace.slower() };
                return Command::Order(Order::Pace(pace));
            }
            Action::NextError => return self.find(Sought::NextError, seen),
            Action::PreviousError => return self.find(Sought::PreviousError, seen),
            Action::Slowest => return self.find(Sought::Slowest, seen),
            Action::TypeCommand => {
                self.prompt = Some(Prompt { purpose: Purpose::Command, text: String::new(), fault: None });
            }
            Action::Shorter => self.window_ns = shorter(self.window_ns),
            Action::Longer => self.window_ns = longer(self.window_ns),
            Action::HigherTop => self.y_max_ns = self.axis.higher(self.y_max_ns),
            Action::LowerTop => self.y_max_ns = self.axis.lower(self.y_max_ns),
            Action::Axis
            | Action::OnlyErrors
            | Action::OnlyLongLived
            | Action::ShowConnection
            | Action::Unfold => return self.limit(action, seen),
            Action::Profile => self.toggle_profile(),
            Action::TypeTop => {
                self.prompt = Some(Prompt { purpose: Purpose::Top, text: String::new(), fault: None });
            }
            Action::TypeFilter => {
                let text = self.filter.as_ref().map_or("", |filter| filter.text()).to_owned();
                self.prompt = Some(Prompt { purpose: Purpose::Filter, text, fault: None });
            }
            Action::ShowPattern => return self.show_pattern(seen),
            Action::Scale => {
                self.scale = if self.scale == Scale::Log { Scale::Linear } else { Scale::Log };
            }
            Action::Density => {
                self.forced = match self.forced {
                    None => Some(Density::Heat),
                    Some(Density::Heat) => Some(Density::Scatter),
                    Some(Density::Scatter) => None,
                };
            }
            Action::Roles => {
                self.roles = match self.roles {
                    Roles::Servers => Roles::Clients,
                    Roles::Clients => Roles::Both,
                    Roles::Both => Roles::Servers,
                };
            }
            Action::Map => self.map = !self.map,
            Action::Reset => {
                let start = App::with_settings(self.settings.clone(), None);
                let template = self.template.take();
                let App { view, density, paused, .. } = *self;
                *self = App { view, density, paused, template, ..start };
            }
            Action::Sort if self.place() == Place::List => {
                (self.list_sort, self.list) = (self.list_sort.next(), Rows::default());
            }
            Action::Sort if self.place() == Place::View(View::Statements) => {
                (self.statement_sort, self.statements) = (self.statement_sort.next(), Rows::default());
            }
            Action::Sort if self.place() == Place::View(View::Connections) => {
                (self.conn_sort, self.conns) = (self.conn_sort.next(), Rows::default());
            }
            Action::Sort => (self.sort, self.operations) = (self.sort.next(), Rows::default()),
            Action::First | Action::Last | Action::PageUp | Action::PageDown if self.scrolls() => {
                let page = u16::try_from(seen.page).unwrap_or(u16::MAX).saturating_sub(1).max(1);
                self.scroll_to(seen, |scroll| match action {
                    Action::First => 0,
                    Action::Last => u16::MAX,
                    Action::PageUp => scroll.saturating_sub(page),
                    _ => scroll.saturating_add(page),
                });
            }
            Action::Previous
            | Action::Next
            | Action::First
            | Action::Last
            | Action::PageUp
            | Action::PageDown => {
                let rows = match self.place() {
                    Place::List => &mut self.list,
                    Place::View(View::Active) => &mut self.active,
                    Place::View(View::Services) => &mut self.edges,
                    Place::View(View::Statements) => &mut self.statements,
                    Place::View(View::Connections) => &mut self.conns,
                    Place::View(View::Patterns) => &mut self.patterns,
                    _ => &mut self.operations,
                };
                rows.go(action, seen);
            }
            Action::Select => {
                let Some(chart) = &seen.chart else { return Command::Nothing };
                let ChartArea { width, height, .. } = chart.area;
                let froze = self.freeze(seen);
                self.cursor = Some(Cursor { at: (width / 2, height / 2), corner: None, froze });
            }
            Action::Corner => {
                if let Some(cursor) = &mut self.cursor {
                    cursor.corner = Some(cursor.at);
                }
            }
            Action::CursorUp | Action::CursorDown | Action::CursorLeft | Action::CursorRight => {
                self.move_cursor(action, seen);
            }
            Action::List => {
                let Some(rectangle) = self.rectangle(seen) else { return Command::Nothing };
                (self.selection, self.list) = (Some(rectangle), Rows::default());
                self.unfolded.clear();
            }
            Action::Zoom => {
                let Some(rectangle) = self.rectangle(seen) else { return Command::Nothing };
                self.zoom(&rectangle, seen.now);
            }
            Action::Contrast => (self.contrast, self.scroll) = (true, 0),
            Action::Open if self.place() == Place::View(View::Active) => {
                let Some(flight) = &seen.flight else { return Command::Nothing };
                (self.flight, self.scroll) = (Some(flight.clone()), 0);
            }
            Action::Open => {
                let Some(row) = &seen.row else { return Command::Nothing };
                (self.detail, self.scroll) = (Some(row.clone()), 0);
            }
            Action::Narrow => {
                let Some(narrow) = &seen.narrow else { return Command::Nothing };
                self.narrow(narrow);
            }
            Action::TypeExport => {
                let text = errand::default_name(seen.now);
                self.prompt = Some(Prompt { purpose: Purpose::Export, text, fault: None });
            }
            Action::Dump => self.errand = Some(Errand::Dump),
            Action::Link => {
                let Some(row) = self.opened().or(seen.row.as_ref()) else { return Command::Nothing };
                self.link(&row.clone());
            }
            // Keys of the page of graphs alone.
            Action::Range | Action::GotoColumn => return Command::Nothing,
            Action::StackParts | Action::StackTable | Action::Sandwich => return Command::Nothing,
            Action::Back => self.back(),
            Action::Preset(number) => self.show_preset(number),
            Action::SaveLayout => self.type_layout(),
            Action::ScrollUp | Action::ScrollDown => {
                self.scroll_to(seen, |scroll| match action {
                    Action::ScrollUp => scroll.saturating_sub(1),
                    _ => scroll.saturating_add(1),
                });
            }
        }
        Command::Draw
    }

    /// Whether what has the arrows is lines, not rows of which one is selected.
    fn scrolls(&self) -> bool {
        matches!(self.place(), Place::Help | Place::Detail | Place::Contrast | Place::View(View::Health))
    }

    fn scroll_to(&mut self, seen: &Seen, to: impl Fn(u16) -> u16) {
        let last = u16::try_from(seen.n_rows).unwrap_or(u16::MAX);
        let scroll = self.help.as_mut().unwrap_or(&mut self.scroll);
        *scroll = to(*scroll).min(last);
    }

    fn beside(&self, by: usize) -> View {
        let at = View::ALL.iter().position(|view| *view == self.view).unwrap_or(0);
        View::ALL[(at + by) % View::ALL.len()]
    }

    fn live(&mut self) {
        if let Some(&Zoom { window_ns, axis, y_max_ns, .. }) = self.zooms.first() {
            self.show_axis(axis);
            (self.window_ns, self.y_max_ns) = (window_ns, y_max_ns);
        }
        self.zooms.clear();
        (self.back_ns, self.paused) = (0, None);
    }

    fn back(&mut self) {
        if self.help.take().is_some() || self.detail.take().is_some() || self.flight.take().is_some() {
            return;
        }
        if std::mem::take(&mut self.contrast) || self.selection.take().is_some() {
            return;
        }
        if let Some(cursor) = self.cursor.take() {
            self.thaw(cursor);
            return;
        }
        if self.view == View::Stacks && self.stacks.back() {
            return;
        }
        if let Some(Zoom { window_ns, back_ns, paused, axis, y_max_ns }) = self.zooms.pop() {
            self.show_axis(axis);
            (self.window_ns, self.back_ns) = (window_ns, back_ns);
            (self.paused, self.y_max_ns) = (paused, y_max_ns);
        } else {
            (self.filter, self.only) = (None, Only::default());
        }
    }

    /// Adds a row's filter to the one that is there, and shows what it matches in the XLog.
    fn narrow(&mut self, narrow: &Narrowing) {
        let Some(wanted) = &narrow.filter else {
            self.complaint = Some("no filter can tell apart what is gathered in this row".to_owned());
            return;
        };
        let text = match &self.filter {
            Some(filter) if filter.text() == wanted => wanted.clone(),
            Some(filter) => format!("({}) and {wanted}", filter.text()),
            None => wanted.clone(),
        };
        match Filter::parse(&text, self.settings.thresholds()) {
            Ok(filter) => {
                (self.filter, self.view, self.scroll) = (Some(filter), View::Xlog, 0);
                (self.operations, self.list) = (Rows::default(), Rows::default());
                if !self.roles.shows(narrow.role) {
                    self.roles = if narrow.role == Role::Client { Roles::Clients } else { Roles::Servers };
                }
            }
            Err(error) => self.complaint = Some(format!("the filter cannot be added: {}", error.message)),
        }
    }

    /// An errand is done, or could not be: what is said of it. What was typed for it comes back, to be mended.
    pub fn done(&mut self, errand: &Errand, result: Result<String, String>) {
        if let (Errand::Export(text), Err(_)) = (errand, &result) {
            self.prompt = Some(Prompt { purpose: Purpose::Export, text: text.clone(), fault: None });
        }
        let (Ok(said) | Err(said)) = result;
        self.complaint = Some(said).filter(|said| !said.is_empty());
    }

    fn move_cursor(&mut self, action: Action, seen: &Seen) {
        let (Some(cursor), Some(chart)) = (&mut self.cursor, &seen.chart) else { return };
        let (column, row) = cursor.at;
        cursor.at = match action {
            Action::CursorUp => (column, row.saturating_sub(1)),
            Action::CursorDown => (column, row.saturating_add(1)),
            Action::CursorLeft => (column.saturating_sub(1), row),
            _ => (column.saturating_add(1), row),
        };
        cursor.at.0 = cursor.at.0.min(chart.area.width.saturating_sub(1));
        cursor.at.1 = cursor.at.1.min(chart.area.height.saturating_sub(1));
    }

    /// The rectangle between the corners, on the chart that was shown.
    fn rectangle(&self, seen: &Seen) -> Option<Rectangle> {
        let (cursor, chart) = (self.cursor?, seen.chart?);
        Some(chart.rectangle(cursor.corner.unwrap_or(cursor.at), cursor.at))
    }

    /// Selects with the mouse: from one cell of the chart to another; `done`: the button was let go.
    pub fn drag(&mut self, from: (u16, u16), to: (u16, u16), done: bool, seen: &Seen) -> Command {
        if !matches!(self.place(), Place::View(View::Overview | View::Xlog) | Place::Select) {
            return Command::Nothing;
        }
        let froze = match self.cursor {
            Some(cursor) => cursor.froze,
            None => self.freeze(seen),
        };
        self.cursor = Some(Cursor { at: to, corner: Some(from), froze });
        if done { self.act(Action::List, seen) } else { Command::Draw }
    }

    /// Stops what is shown while a rectangle is selected in it; whether it was not stopped. A playback stops with its own key.
    fn freeze(&mut self, seen: &Seen) -> bool {
        let freezes = self.paused.is_none() && seen.played.is_none() && seen.now.0 != 0;
        if freezes {
            self.paused = Some(seen.now);
        }
        freezes
    }

    pub(in crate::tui) fn thaw(&mut self, cursor: Cursor) {
        if cursor.froze {
            self.paused = None;
        }
    }

    fn zoom(&mut self, rectangle: &Rectangle, now: WallTime) {
        let end = self.paused.unwrap_or(now);
        // What comes back when it is left again is what was before the selection.
        if let Some(cursor) = self.cursor.take() {
            self.thaw(cursor);
        }
        self.push_zoom();
        let (from, to) = rectangle.times();
        // What is looked at stays, whatever comes.
        self.paused = Some(end);
        self.back_ns = end.0.saturating_sub(to.0);
        self.window_ns = (to.0 - from.0).clamp(SHORT_NS[0], LONGEST_NS);
        self.y_max_ns = self.axis.top(rectangle.top_ns());
    }

    /// Keeps what is shown, to come back to.
    pub(super) fn push_zoom(&mut self) {
        if self.zooms.len() < MAX_ZOOMS {
            let App { window_ns, back_ns, paused, axis, y_max_ns, .. } = *self;
            self.zooms.push(Zoom { window_ns, back_ns, paused, axis, y_max_ns });
        }
    }

    /// Shows a transaction that was found.
    pub fn open(&mut self, row: Option<Arc<Transaction>>) {
        if row.is_some() {
            (self.detail, self.flight, self.scroll, self.help) = (row, None, 0, None);
        }
    }

    /// Whether the window is one that was zoomed to.
    pub fn is_zoomed(&self) -> bool {
        !self.zooms.is_empty()
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

fn shorter(window_ns: u64) -> u64 {
    if window_ns > MINUTE_NS {
        return ((window_ns - 1) / MINUTE_NS * MINUTE_NS).max(MINUTE_NS);
    }
    SHORT_NS.into_iter().rev().find(|short| *short < window_ns).unwrap_or(SHORT_NS[0])
}

fn longer(window_ns: u64) -> u64 {
    let short = SHORT_NS.into_iter().find(|short| *short > window_ns);
    short.unwrap_or((window_ns / MINUTE_NS + 1) * MINUTE_NS).min(LONGEST_NS)
}

#[cfg(test)]
mod tests;
