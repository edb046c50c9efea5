//! Connections: who has which open, with whom, how much went over them, and which ended of late.

use ratatui::{buffer::Buffer, layout::Rect, style::Style};

use super::{operations::role_letter, put, waiting};
use crate::{
    pipeline::ConnRow,
    report::format::{Align, count, duration, fit},
    text::screen_text,
    tui::{
        app::App,
        axis::Axis,
        columns,
        edges::address,
        model::Model,
        theme::{Symbols, Theme},
    },
};

/// What is listed of how many, and the heading.
const ABOVE: u16 = 2;
/// Figures of a line: heading, width, alignment, and the narrowest screen that shows it.
const FIGURES: [(&str, usize, Align, u16); 13] = [
    ("state", 12, Align::Left, 0),
    ("protocol", 8, Align::Left, 130),
    (TLS, 7, Align::Left, 130),
    ("age", 7, Align::Right, 66),
    ("idle", 6, Align::Right, 0),
    ("done", 7, Align::Right, 0),
    ("errors", 7, Align::Right, 90),
    ("now", 4, Align::Right, 90),
    ("step", 7, Align::Left, 150),
    ("in", 7, Align::Right, 80),
    ("out", 7, Align::Right, 80),
    ("copied", 10, Align::Left, 150),
    ("conn_id", 16, Align::Left, 170),
];
/// The column that is there where one of the connections has it.
const TLS: &str = "tls";
/// An address and a port of IPv4: what tells connections apart, and so the last that is cut.
const PEER: usize = 21;
/// The shortest name of a service.
const SERVICE: usize = 6;
/// Narrowest screens that show process and thread, and the process's own end.
const WITH_THREAD: u16 = 110;
const WITH_OWN_END: u16 = 150;

/// Rows that fit below the heading.
pub(super) fn n_rows(area: Rect) -> u16 {
    area.height.saturating_sub(ABOVE)
}

/// Draws it.
pub(super) fn draw(buffer: &mut Buffer, area: Rect, model: &Model, app: &App, theme: Theme) {
    put(buffer, area.x, area.y, area.width, &title(model), theme.dim());
    if model.conns.is_empty() {
        let text = match (model.losses.unknown, model.finished) {
            (true, _) => "this recording holds transactions only: its connections are not known".to_owned(),
            (_, true) => "no connections".to_owned(),
            _ if model.all == 0 => waiting(model),
            _ => "no connections yet".to_owned(),
        };
        put(buffer, area.x, area.y + 1, area.width, &text, theme.dim());
        return;
    }
    let mark = if theme.symbols == Symbols::Ascii { "*" } else { "▾" };
    let heading = |name: &str| {
        if name == app.conn_sort.column() { format!("{mark}{name}") } else { name.to_owned() }
    };
    let names = ["service", "pid comm", "", "own end", "peer"].map(str::to_owned);
    let shown = Shown { width: area.width, with_tls: model.conns.iter().any(|row| row.tls.is_some()) };
    let text = shown.line(names, FIGURES.map(|(name, ..)| heading(name)));
    super::heading(buffer, area, area.y + 1, &text, shown.hidden(), theme);
    let room = usize::from(n_rows(area));
    let selected = app.conns.selected.min(model.conns.len() - 1);
    let first = (selected + 1).saturating_sub(room);
    for (i, row) in model.conns.iter().enumerate().skip(first).take(room) {
        let mut style = if row.state.is_over() { theme.dim() } else { Style::new() };
        if i == selected {
            style = theme.reversed();
        }
        let text = shown.line(names_of(row), figures_of(row));
        put(buffer, area.x, area.y + ABOVE + (i - first) as u16, area.width, &text, style);
    }
}

/// How many there are, and how many of them are listed.
fn title(model: &Model) -> String {
    let n_over = model.conns.iter().filter(|row| row.state.is_over()).count();
    let listed = [model.conns.len() - n_over, n_over];
    let [open, ended] = std::array::from_fn(|i| {
        let (n, shown) = (model.n_conns[i], listed[i] as u64);
        let what = ["open", "ended"][i];
        if shown < n {
            let which = [format!("the {} used last", count(shown)), format!("the last {}", count(shown))];
            format!("{} {what}: {}", count(n), which[i])
        } else {
            format!("{} {what}", count(n))
        }
    });
    let filter = if model.narrowed.is_some() { "; filter not applied" } else { "" };
    format!("{open}; {ended}{filter}")
}

fn names_of(row: &ConnRow) -> [String; 5] {
    let [own, peer] = row.ends().map(|(text, port)| screen_text(&address(&text, port)).into_owned());
    [
        screen_text(&row.service).into_owned(),
        format!("{} {}", row.pid, screen_text(&row.thread())),
        role_letter(row.role).to_owned(),
        own,
        peer,
    ]
}

fn figures_of(row: &ConnRow) -> [String; 13] {
    let or_none = |text: Option<&str>| text.unwrap_or("-").to_owned();
    // Older than what was seen of it, and no longer told by the kernel.
    let age = if row.from_start { "" } else { "≥" };
    let moved = if row.idle_ns.is_none() { "≥" } else { "" };
    let [bytes_in, bytes_out] = row.bytes.map(|n| format!("{moved}{}", Axis::ResponseBytes.text(n)));
    [
        row.state.as_str().to_owned(),
        or_none(row.protocol),
        or_none(row.tls.as_deref().map(|facts| facts.version.as_deref().unwrap_or(TLS))),
        format!("{age}{}", duration(row.age_ns)),
        row.idle_ns.map_or("-".to_owned(), duration),
        count(row.requests),
        count(row.errors),
        count(row.in_flight),
        or_none(row.step.map(|step| step.as_str())),
        bytes_in,
        bytes_out,
        row.capture.to_owned(),
        format!("{:016x}", row.conn.0),
    ]
}

/// Which columns are shown.
#[derive(Clone, Copy)]
struct Shown {
    width: u16,
    with_tls: bool,
}

impl Shown {
    fn has(self, (name, .., narrowest): &(&str, usize, Align, u16)) -> bool {
        self.width >= *narrowest && (self.with_tls || *name != TLS)
    }

    /// Columns that a screen of this width has no room for.
    fn hidden(self) -> usize {
        let figures = FIGURES.iter().filter(|(name, ..)| self.with_tls || *name != TLS);
        let narrowest = figures.map(|(.., narrowest)| *narrowest).chain([WITH_THREAD, WITH_OWN_END]);
        narrowest.filter(|narrowest| self.width < *narrowest).count()
    }

    fn line(self, [service, thread, role, own, peer]: [String; 5], figures: [String; 13]) -> String {
        let width = self.width;
        let used: usize =
            FIGURES.iter().filter(|figure| self.has(figure)).map(|(_, cells, ..)| cells + 1).sum();
        let room = usize::from(columns::beside_mark(width, self.hidden())).saturating_sub(used);
        let mut text = String::new();
        let mut cell = |content: &str, cells: usize, align: Align| {
            text.push_str(&fit(content, cells, align));
            text.push(' ');
        };
        let (with_thread, with_own) = (width >= WITH_THREAD, width >= WITH_OWN_END);
        // The role, and blanks between the names; what ends the line is cut.
        let blanks = 4 + usize::from(with_thread) + usize::from(with_own);
        let room = room.saturating_sub(blanks);
        let first = if with_thread {
            (room / 4).min(24)
        } else {
            (room / 3).min(room.saturating_sub(PEER)).max(SERVICE).min(room)
        };
        let second = if with_thread { (room / 4).min(24) } else { 0 };
        let own_end = if with_own { (room - first - second) / 2 } else { 0 };
        cell(&service, first, Align::Left);
        if with_thread {
            cell(&thread, second, Align::Left);
        }
        cell(&role, 1, Align::Left);
        if with_own {
            cell(&own, own_end, Align::Left);
        }
        cell(&peer, room - first - second - own_end, Align::Left);
        for (shown, figure) in FIGURES.iter().zip(figures).filter(|(shown, _)| self.has(shown)) {
            let (_, cells, align, _) = shown;
            cell(&figure, *cells, *align);
        }
        text.truncate(text.trim_end().len());
        text
    }
}
