//! The terminal itself: taking it over, giving it back however the program ends, keys, frames.

use std::{
    io::{self, Write as _},
    sync::{
        Once,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use crossterm::{
    cursor,
    event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers},
    execute, terminal as tty,
};
use ratatui::{Terminal, backend::CrosstermBackend, layout::Rect};

use super::{
    app::{App, Command, Key},
    draw::{chart_size, draw},
    feed::{Feed, Heading},
    model::Model,
    theme::Theme,
};

/// Shortest time between two frames: at most ten a second.
const FRAME: Duration = Duration::from_millis(100);
/// Shortest time between two readings of the feed; four a second keep a million dots below 2 % of a core.
const READ: Duration = Duration::from_millis(250);
/// The same while the terminal does not have the focus.
const READ_UNFOCUSED: Duration = Duration::from_secs(1);

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

/// Gives the terminal back, if it was taken. May be called from anywhere, any number of times.
pub fn restore() {
    if TAKEN.swap(false, Ordering::AcqRel) {
        // There is nothing to be done about a failure: the terminal is gone.
        let _ = execute!(io::stdout(), event::DisableFocusChange, tty::LeaveAlternateScreen, cursor::Show);
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
        execute!(io::stdout(), tty::EnterAlternateScreen, event::EnableFocusChange, cursor::Hide)?;
        Ok(taken)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        restore();
    }
}

/// Shows the screen until the user leaves it or `stopped` says so. A recording that has ended stays on the screen.
pub fn run(feed: &Feed, heading: Heading, stopped: impl Fn() -> bool) -> io::Result<Left> {
    let _taken = Taken::take()?;
    let mut terminal = Terminal::new(CrosstermBackend::new(io::stdout()))?;
    let theme = Theme::detect(|name| std::env::var(name).ok());
    let mut app = App::with_window(heading.window_ns);
    let mut model: Option<Model> = None;
    let (mut dirty, mut focused) = (true, true);
    let (mut last_frame, mut last_read): (Option<Instant>, Option<Instant>) = (None, None);
    let mut seen = None;
    loop {
        if stopped() || (!heading.replay && feed.status.lock().finished) {
            return Ok(Left::Stopped);
        }
        let due = |last: Option<Instant>, every| last.is_none_or(|last: Instant| last.elapsed() >= every);
        if due(last_read, if focused { READ } else { READ_UNFOCUSED }) {
            last_read = Some(Instant::now());
            let now = progress(feed);
            if seen != Some(now) {
                seen = Some(now);
                dirty = true;
            }
        }
        if dirty && due(last_frame, FRAME) {
            let size = terminal.size()?;
            let (width, height) = chart_size(Rect::new(0, 0, size.width, size.height));
            let read = Model::read(feed, &heading, &app, width, height);
            app.n_rows = read.rows.len();
            app.density = app.shown_density(read.chart.density(app.density));
            terminal.draw(|frame| draw(frame.buffer_mut(), &read, &app, theme))?;
            model = Some(read);
            (dirty, last_frame) = (false, Some(Instant::now()));
        }
        if !event::poll(FRAME)? {
            continue;
        }
        match event::read()? {
            Event::Key(key) if key.kind != KeyEventKind::Release => {
                let now = model.as_ref().map(|model| model.now).unwrap_or_default();
                match key_of(key).map_or(Command::Nothing, |key| app.key(key, now)) {
                    Command::Draw => dirty = true,
                    Command::Nothing => {}
                    Command::Quit => return Ok(Left::Quit),
                    Command::Interrupt => return Ok(Left::Interrupted),
                }
            }
            Event::Resize(..) => dirty = true,
            Event::FocusGained => (focused, dirty) = (true, true),
            Event::FocusLost => focused = false,
            Event::Key(_) | Event::Mouse(_) | Event::Paste(_) => {}
        }
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
        KeyCode::Char(_) if key.modifiers.intersects(KeyModifiers::CONTROL | KeyModifiers::ALT) => {
            return None;
        }
        KeyCode::Char(c) => Key::Char(c),
        KeyCode::Enter => Key::Enter,
        KeyCode::Esc => Key::Escape,
        KeyCode::Backspace => Key::Backspace,
        KeyCode::Tab => Key::Tab,
        KeyCode::Up => Key::Up,
        KeyCode::Down => Key::Down,
        KeyCode::Left => Key::Left,
        KeyCode::Right => Key::Right,
        _ => return None,
    })
}
