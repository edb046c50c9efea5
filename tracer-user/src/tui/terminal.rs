//! The terminal itself: taking it over, giving it back however the program ends, keys, frames.

use std::{
    io::{self, IsTerminal as _, Write as _},
    path::Path,
    sync::{
        Once,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use crossterm::{
    cursor,
    event::{
        self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers, MouseButton, MouseEvent, MouseEventKind,
    },
    execute, terminal as tty,
};
use ratatui::{Terminal, backend::CrosstermBackend, layout::Rect};

use super::{
    app::{App, Command, Seen},
    draw::{Layout, draw, layout},
    errand::{self, Here},
    feed::{Feed, Heading},
    heads::{Fetches, HeadsDesk},
    keymap::Key,
    layouts,
    model::Model,
    now::NowDesk,
    playback::{OpenPast, Order, Playback, Played},
    profile::ProfileDesk,
    range_desk::{RangeDesk, RollupSources},
    settings::ScreenSettings,
    table::Fault,
    theme::{Symbols, Theme},
};

/// Shortest time between two frames: at most ten a second.
const FRAME: Duration = Duration::from_millis(100);
/// Shortest time between two readings of the feed; four a second keep a million dots below 2 % of a core.
const READ: Duration = Duration::from_millis(250);
/// The same while the terminal does not have the focus.
const READ_UNFOCUSED: Duration = Duration::from_secs(1);

/// Room for a frame: every cell of 400×100 with a colour of its own is 800 KB, what changes between two is a fraction.
const FRAME_BYTES: usize = 256 << 10;

/// Why the screen was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// The user quit.
    Quit,
    /// The user pressed Ctrl-C.
    Interrupted,
    /// The run ended.
    Stopped,
}

static TAKEN: AtomicBool = AtomicBool::new(false);

/// Whether this terminal can show a screen.
pub fn usable() -> bool {
    std::env::var_os("TERM").is_some_and(|term| term != "dumb" && !term.is_empty())
}

/// Columns of the terminal on standard output, if there is one.
pub fn columns() -> Option<u16> {
    io::stdout().is_terminal().then(|| tty::size().ok()).flatten().map(|(columns, _)| columns)
}

/// The characters that this terminal can show.
pub fn symbols() -> Symbols {
    Theme::detect(|name| std::env::var(name).ok()).symbols
}

/// Gives the terminal back, if it was taken. May be called from anywhere, any number of times.
pub fn restore() {
    if TAKEN.swap(false, Ordering::AcqRel) {
        // There is nothing to be done about a failure: the terminal is gone.
        let _ = execute!(
            io::stdout(),
            event::DisableMouseCapture,
            event::DisableFocusChange,
            tty::LeaveAlternateScreen,
            cursor::Show
        );
        let _ = tty::disable_raw_mode();
        let _ = io::stdout().flush();
    }
}

/// Gives the terminal back when it goes.
struct Taken;

impl Taken {
    fn take() -> io::Result<Taken> {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let before = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                let was_taken = TAKEN.load(Ordering::Acquire);
                restore();
                before(panic);
                if was_taken {
                    // A screen in front of a run of which a thread is missing would lie.
                    std::process::exit(2);
                }
            }));
        });
        TAKEN.store(true, Ordering::Release);
        let taken = Taken;
        tty::enable_raw_mode()?;
        execute!(
            io::stdout(),
            tty::EnterAlternateScreen,
            event::EnableFocusChange,
            event::EnableMouseCapture,
            cursor::Hide
        )?;
        Ok(taken)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        restore();
    }
}

/// What the screen shows.
pub enum Shows<'a> {
    /// A run that goes on; and what plays its recording, if it makes one.
    Live(&'a Feed, Option<OpenPast>),
    /// A recording.
    Recording(&'a dyn Playback),
}

/// Where this frame's data come from.
struct Source<'a> {
    shows: Shows<'a>,
    /// The past of a run that goes on, while it is looked at.
    past: Option<Box<dyn Playback>>,
    /// What was found or went wrong last, as far as it was told.
    told: (u64, u64),
}

impl Source<'_> {
    fn playback(&self) -> Option<&dyn Playback> {
        match (&self.past, &self.shows) {
            (Some(past), _) => Some(&**past),
            (None, Shows::Recording(playback)) => Some(*playback),
            (None, Shows::Live(..)) => None,
        }
    }

    /// What is played, and the feed of it. Until the past has arrived, what happens now stays on the screen.
    fn look(&self) -> (Feed, Option<Played>) {
        let played = self.playback().map(|playback| (playback.feed(), playback.played()));
        match (played, &self.shows) {
            (Some((_, played)), Shows::Live(feed, _)) if played.generation == 0 => {
                ((*feed).clone(), Some(played))
            }
            (Some((feed, played)), _) => (feed, Some(played)),
            (None, Shows::Live(feed, _)) => ((*feed).clone(), None),
            (None, Shows::Recording(playback)) => (playback.feed(), Some(playback.played())),
        }
    }

    fn has_past(&self) -> bool {
        matches!(self.shows, Shows::Live(_, Some(_)) | Shows::Recording(_))
    }

    fn has_ended(&self) -> bool {
        // A recording that has ended stays on the screen.
        matches!(self.shows, Shows::Live(feed, _) if feed.status.lock().finished)
    }

    fn order(&mut self, order: Order, app: &mut App) {
        match (order, &self.shows) {
            (Order::Live, Shows::Live(..)) => self.past = None,
            (Order::Live, Shows::Recording(playback)) => playback.order(Order::End),
            (order, Shows::Live(_, Some(open))) if self.past.is_none() => {
                match open(order, app.filter.as_ref()) {
                    Ok(past) => {
                        // What is looked at is the end of what is played.
                        (app.back_ns, app.paused) = (0, None);
                        app.zooms.clear();
                        (self.past, self.told) = (Some(past), (0, 0));
                    }
                    Err(error) => app.complaint = Some(format!("the recording cannot be read: {error}")),
                }
            }
            (order, _) => {
                if let Some(playback) = self.playback() {
                    playback.narrow(app.filter.as_ref());
                    playback.order(order);
                }
            }
        }
    }

    /// Shows what was found, and says what went wrong, once.
    fn tell(&mut self, played: &Played, app: &mut App) {
        if played.found.0 > self.told.0 && played.seeking.is_none() {
            self.told.0 = played.found.0;
            app.open(played.found.1.clone());
        }
        if played.fault.0 > self.told.1 {
            self.told.1 = played.fault.0;
            app.complaint = Some(crate::text::screen_text(&played.fault.1).into_owned());
        }
    }
}

/// Shows the screen until the user leaves it or `stopped` says so. A recording that has ended stays on the screen.
pub fn run(
    shows: Shows<'_>,
    fetches: Option<Fetches>,
    rollups: RollupSources,
    heading: Heading,
    settings: ScreenSettings,
    stopped: impl Fn() -> bool,
) -> io::Result<Left> {
    let _taken = Taken::take()?;
    // A frame goes out in one piece: standard output itself would cut it at each line.
    let out = io::BufWriter::with_capacity(FRAME_BYTES, io::stdout());
    let mut terminal = Terminal::new(CrosstermBackend::new(out))?;
    let theme = Theme { palette: settings.palette, ..Theme::detect(|name| std::env::var(name).ok()) };
    let mut app =
        App { template: heading.template.clone(), ..App::with_settings(settings.into(), heading.window_ns) };
    let (mut seen, mut shown) = (Seen::default(), Layout::default());
    let mut pressed = None;
    let (mut dirty, mut focused) = (true, true);
    let (mut last_frame, mut last_read): (Option<Instant>, Option<Instant>) = (None, None);
    let mut cost = Duration::ZERO;
    let (mut last_progress, mut last_state) = (None, None);
    let mut model: Option<Model> = None;
    let (heads, profile) = fetches.map(|Fetches { heads, profile }| (heads, profile)).unzip();
    let (mut desk, mut profiles) = (HeadsDesk::new(heads), ProfileDesk::new(profile));
    let mut ranges = RangeDesk::new(rollups);
    let mut now = NowDesk::new(!heading.replay);
    let mut source = Source { shows, past: None, told: (0, 0) };
    // What was typed and not looked at yet.
    let (mut held, mut more) = (None, false);
    loop {
        if stopped() || source.has_ended() {
            return Ok(Left::Stopped);
        }
        let (feed, played) = source.look();
        if let Some(played) = &played {
            source.tell(played, &mut app);
        }
        dirty |= desk.look(&app) | profiles.look(&app);
        dirty |= ranges.look();
        if app.link_of.is_some() {
            dirty |= app.link_with(&desk.shown(&app));
        }
        if let Some(errand) = app.errand.take() {
            let size = terminal.size()?;
            let area = Rect::new(0, 0, size.width, size.height);
            let done = errand::run(
                &errand,
                &Here { feed: &feed, heading: &heading, theme, area, dir: Path::new(".") },
                &app,
                model.as_ref(),
            );
            app.done(&errand, done);
            dirty = true;
        }
        // What was asked for is seen when it is there, however long a frame takes.
        let state = played.as_ref().map(Played::state);
        if state != last_state {
            (last_state, dirty) = (state, true);
        }
        let due = |last: Option<Instant>, every| last.is_none_or(|last: Instant| last.elapsed() >= every);
        // However much there is to read: at most a fiftieth of the time.
        let every = if focused { READ } else { READ_UNFOCUSED }.max(cost * 50);
        if due(last_read, every) {
            last_read = Some(Instant::now());
            let progress = progress(&feed);
            if last_progress != Some(progress) {
                last_progress = Some(progress);
                dirty = true;
            }
        }
        if dirty && (held.is_some() || due(last_frame, FRAME)) {
            let started = Instant::now();
            app.follow(&feed);
            let size = terminal.size()?;
            shown = layout(Rect::new(0, 0, size.width, size.height), &app);
            let generation = played.as_ref().map(|played| played.generation);
            // Another feed: nothing of the last frame stays.
            let before = model
                .as_ref()
                .filter(|model| model.played.as_ref().map(|played| played.generation) == generation);
            let read = Model::read(&feed, &heading, &app, &shown, before)
                .of(played, source.has_past())
                .with_heads(desk.shown(&app))
                .with_profile(profiles.shown(&app));
            let read = ranges.fill(read, &app, &shown);
            let read = now.fill(read, &app);
            if let Some(chart) = &read.chart {
                app.density = app.shown_density(chart.density(app.density));
            }
            terminal.draw(|frame| draw(frame.buffer_mut(), &read, &app, theme))?;
            #[cfg(debug_assertions)]
            if std::env::var_os("TXRAY_TEST_PANIC").is_some_and(|_| read.count > 0) {
                panic!("asked for by TXRAY_TEST_PANIC");
            }
            seen = read.seen(&app, &shown);
            model = Some(read);
            (dirty, last_frame) = (false, Some(Instant::now()));
            cost = started.elapsed();
        }
        let event = match held.take() {
            Some(event) => event,
            None => {
                // What was typed in one go was read in one go: there is more of it, of which the terminal knows nothing any more.
                let most = if more { Duration::ZERO } else { FRAME };
                if wait_for_input(most)? {
                    // The terminal is gone: nobody can see or say anything any more.
                    return Ok(Left::Interrupted);
                }
                more = event::poll(Duration::ZERO)?;
                if !more {
                    continue;
                }
                let event = event::read()?;
                // A key means what is on the screen: that first. What is being typed needs no screen.
                if dirty && app.prompt.is_none() && matches!(event, Event::Key(_) | Event::Mouse(_)) {
                    held = Some(event);
                    continue;
                }
                event
            }
        };
        let command = match event {
            Event::Key(key) if key.kind != KeyEventKind::Release => {
                key_of(key).map_or(Command::Nothing, |key| app.key(key, &seen))
            }
            Event::Mouse(mouse) => drag(&mut app, &mut pressed, mouse, shown.chart, &seen),
            Event::Resize(..) => Command::Draw,
            Event::FocusGained => {
                focused = true;
                Command::Draw
            }
            Event::FocusLost => {
                focused = false;
                Command::Nothing
            }
            Event::Key(_) | Event::Paste(_) => Command::Nothing,
        };
        match command {
            Command::Draw => dirty = true,
            Command::Save => {
                dirty = true;
                save(&mut app);
            }
            Command::Nothing => {}
            Command::Quit => return Ok(Left::Quit),
            Command::Interrupt => return Ok(Left::Interrupted),
            Command::Order(order) => {
                source.order(order, &mut app);
                // What is asked next refers to where this one leads.
                seen.played = source.playback().map(|playback| playback.played());
                dirty = true;
            }
        }
    }
}

/// Waits until something was typed, at most so long; returns whether the terminal has hung up. crossterm's own wait never returns
/// then: it reads the end of the input over and over.
fn wait_for_input(most: Duration) -> io::Result<bool> {
    let mut input = libc::pollfd { fd: libc::STDIN_FILENO, events: libc::POLLIN, revents: 0 };
    let most = i32::try_from(most.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: one valid entry.
    let n = unsafe { libc::poll(&raw mut input, 1, most) };
    if n < 0 {
        let error = io::Error::last_os_error();
        // A signal: a resize, perhaps.
        return if error.kind() == io::ErrorKind::Interrupted { Ok(false) } else { Err(error) };
    }
    Ok(input.revents & (libc::POLLHUP | libc::POLLERR | libc::POLLNVAL) != 0)
}

/// Keeps the layout that is to be kept.
fn save(app: &mut App) {
    let Some(layout) = app.to_save.take() else { return };
    let saved = match &app.settings.folder {
        Some(folder) => layouts::save(folder, &layout),
        None => Err(Fault {
            place: None,
            what: "there is no folder to keep it in: neither HOME nor XDG_CONFIG_HOME is set".to_owned(),
            way_out: "name a settings file: --config FILE".to_owned(),
        }),
    };
    app.saved(layout, saved);
}

/// The left button selects a rectangle of the XLog, from where it is pressed to where it is let go.
fn drag(
    app: &mut App,
    pressed: &mut Option<(u16, u16)>,
    mouse: MouseEvent,
    chart: Rect,
    seen: &Seen,
) -> Command {
    if chart.is_empty() {
        return Command::Nothing;
    }
    let cell = (
        mouse.column.clamp(chart.x, chart.right() - 1) - chart.x,
        mouse.row.clamp(chart.y, chart.bottom() - 1) - chart.y,
    );
    match (mouse.kind, *pressed) {
        (MouseEventKind::Down(MouseButton::Left), _) => {
            let is_inside = chart.contains((mouse.column, mouse.row).into());
            *pressed = is_inside.then_some(cell);
            Command::Nothing
        }
        (MouseEventKind::Drag(MouseButton::Left), Some(from)) => app.drag(from, cell, false, seen),
        (MouseEventKind::Up(MouseButton::Left), Some(from)) => {
            *pressed = None;
            // A click alone selects nothing.
            if from == cell { Command::Nothing } else { app.drag(from, cell, true, seen) }
        }
        _ => Command::Nothing,
    }
}

/// Something that differs when there is something new to draw.
fn progress(feed: &Feed) -> (u64, u64, u64, bool) {
    let status = feed.status.lock();
    let state = (status.snapshot.wall.0, status.finished);
    drop(status);
    let xlog = feed.xlog.lock();
    (xlog.numbers().end, xlog.watermark().0, state.0, state.1)
}

fn key_of(key: KeyEvent) -> Option<Key> {
    Some(match key.code {
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Key::Interrupt,
        KeyCode::Char(c) if key.modifiers == KeyModifiers::CONTROL => Key::Ctrl(c.to_ascii_lowercase()),
        KeyCode::Char(_) if key.modifiers.contains(KeyModifiers::CONTROL) => return None,
        KeyCode::Char(c) if key.modifiers.contains(KeyModifiers::ALT) => Key::Alt(c),
        KeyCode::Char(c) => Key::Char(c),
        KeyCode::Enter => Key::Enter,
        KeyCode::Esc => Key::Escape,
        KeyCode::Backspace => Key::Backspace,
        KeyCode::Tab => Key::Tab,
        KeyCode::BackTab => Key::BackTab,
        KeyCode::PageUp => Key::PageUp,
        KeyCode::PageDown => Key::PageDown,
        KeyCode::Home => Key::Home,
        KeyCode::End => Key::End,
        KeyCode::Up => Key::Up,
        KeyCode::Down => Key::Down,
        KeyCode::Left => Key::Left,
        KeyCode::Right => Key::Right,
        _ => return None,
    })
}
