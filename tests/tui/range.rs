//! The page of counter graphs: golden screens in every state at every size, and the figures and bars on each held against the columns
//! that they are of.

use std::sync::Arc;

use tracer_user::{
    report::format::clock,
    sink::rollup::{RollupSink, SharedRollups},
    source::rollups::RecordedRollups,
    transaction::{WallRange, rollup::Interval},
    tui::{Column, FetchRollups, Graphs, Metric, Played, RangeDesk, Recorded, RollupSources, Watched},
};

use super::{connections::HOSTILE, read_back, *};

const SIZES: [(u16, u16); 4] = [(80, 24), (120, 40), (200, 60), (400, 100)];
const ASCII: Theme = Theme { colours: Colours::None, symbols: Symbols::Ascii, palette: Palette::DEFAULT };

/// Five minutes as they were watched: requests of three services, a minute in which nothing came, half a minute in which nobody
/// watched, and what was lost.
struct Watch {
    rows: Vec<Transaction>,
    /// Seconds from [`START`] in which it was watched.
    watched: Vec<(u64, u64)>,
    lost: u64,
}

impl Watch {
    fn busy() -> Watch {
        let watched = vec![(0, 120), (150, 300)];
        let rows = busy().into_iter().filter(|row| {
            let second = (row.end_time.0 - START) / SECOND;
            !(120..210).contains(&second)
        });
        Watch { rows: rows.collect(), watched, lost: 0 }
    }

    /// As a run counts them; what is not over is not there.
    fn rollups(&self) -> SharedRollups {
        let shared = SharedRollups::default();
        let mut sink = RollupSink::new(shared.clone(), None);
        let mut next = 0;
        for (from, to) in &self.watched {
            for quarter in from * 4..=to * 4 {
                let at = START + quarter * SECOND / 4;
                let values =
                    vec![("kernel.refused_data".into(), if quarter >= 250 * 4 { self.lost } else { 0 })];
                let counters = Some(Counters { time: BootTime(at), values }.into());
                let n_open = quarter % 13;
                sink.observe(&Snapshot { wall: WallTime(at), n_open, counters, ..Snapshot::default() })
                    .unwrap();
                let mark = at - SECOND / 4;
                let end = next + self.rows[next..].partition_point(|row| row.end_time.0 < mark);
                let transactions = self.rows[next..end].to_vec();
                next = end;
                sink.write(&TransactionBatch { transactions, watermark: WallTime(mark) }).unwrap();
                sink.advance(WallTime(mark)).unwrap();
            }
        }
        shared
    }

    fn feed(&self) -> Feed {
        let seen = if self.lost == 0 { snapshot() } else { lossy(299, self.lost) };
        feed(self.rows.clone(), &[seen])
    }
}

/// A page in one of the states of the screen.
struct State {
    feed: Feed,
    heading: Heading,
    sources: RollupSources,
    keys: &'static str,
    played: Option<Played>,
    theme: Theme,
    /// What was asked of the recording has come.
    is_read: bool,
}

const OPEN: &str = ":range 5m\n";

impl State {
    fn of(watch: &Watch) -> State {
        let sources = RollupSources { memory: Some(watch.rollups()), fetch: None };
        let heading = Heading {
            title: "live  the whole host".to_owned(),
            whom: "the whole host".to_owned(),
            ..Heading::default()
        };
        State { feed: watch.feed(), heading, sources, keys: "", played: None, theme: MANY, is_read: true }
    }

    /// Of a recording alone.
    fn recorded(read: impl Fn() -> std::io::Result<RecordedRollups> + Send + Sync + 'static) -> State {
        let fetch: FetchRollups = Arc::new(move |range: WallRange, column_ns| {
            assert_eq!((range.from.0 % column_ns, range.to.0 % column_ns), (0, 0), "whole columns");
            let read = read()?;
            let columns = by_column(&read.columns, range, column_ns);
            Ok(RecordedRollups { columns, ..read })
        });
        let heading = Heading { title: "replay  rec".to_owned(), replay: true, ..Heading::default() };
        let played = Played {
            generation: 1,
            at: WallTime(START + 300 * SECOND),
            paused: true,
            bounds: (WallTime(START), WallTime(START + 400 * SECOND)),
            ..Played::default()
        };
        State {
            sources: RollupSources { memory: None, fetch: Some(fetch) },
            heading,
            played: Some(played),
            ..State::of(&Watch::busy())
        }
    }

    fn screen(&self, (width, height): (u16, u16)) -> Screen {
        let area = Rect::new(0, 0, width, height);
        let mut app = App::default();
        let mut desk = RangeDesk::new(self.sources.clone());
        let mut screen = screen_after(&self.feed, area, self.theme, &mut app, &self.heading, None);
        for key in OPEN.chars().chain(self.keys.chars()) {
            let key = match key {
                '\n' => Key::Enter,
                '←' => Key::Left,
                '→' => Key::Right,
                '↓' => Key::Down,
                '\u{1b}' => Key::Escape,
                key => Key::Char(key),
            };
            app.key(key, &screen.model.seen(&app, &screen.layout));
            screen = screen_after(&self.feed, area, self.theme, &mut app, &self.heading, Some(&screen.model));
            screen.model = screen.model.of(self.played.clone(), self.played.is_some());
            screen.model = desk.fill(screen.model, &app, &screen.layout);
        }
        if self.is_read {
            let is_reading = |screen: &Screen| {
                let graphs = screen.model.graphs.as_ref();
                graphs.is_some_and(|graphs| graphs.recorded == Recorded::Reading)
            };
            while is_reading(&screen) {
                std::thread::yield_now();
                desk.look();
                screen.model = desk.fill(screen.model, &app, &screen.layout);
            }
        }
        screen.buffer = Buffer::empty(area);
        draw(&mut screen.buffer, &screen.model, &app, self.theme);
        screen
    }
}

fn by_column(intervals: &[Interval], range: WallRange, column_ns: u64) -> Vec<Interval> {
    let mut columns: Vec<Interval> = Vec::new();
    for interval in intervals.iter().filter(|interval| (range.from..range.to).contains(&interval.start)) {
        let start = WallTime(interval.start.0 / column_ns * column_ns);
        if columns.last().is_none_or(|last| last.start != start) {
            columns.push(Interval::new(start));
        }
        columns.last_mut().unwrap().merge(interval);
    }
    columns
}

fn all_of(rollups: &SharedRollups) -> Vec<Interval> {
    let second = tracer_user::transaction::rollup::Resolution::Second;
    rollups.lock().intervals(second, WallRange::default()).cloned().collect()
}

fn graphs(screen: &Screen) -> &Graphs {
    screen.model.graphs.as_ref().expect("the page is open")
}

/// What is on the screen is what is in its columns.
fn check(screen: &Screen, theme: Theme, what: &str) {
    read_back::header(screen, what);
    read_back::losses(screen, what);
    let (lines, graphs, area) = (screen.lines(), graphs(screen), screen.layout.graphs);
    let frame = graphs.frame;
    let ends = format!("{} to {}", clock(frame.from), clock(frame.to));
    assert!(lines[3].starts_with(&ends), "{what}: {}", lines[3]);
    assert_eq!(graphs.columns.len() as u64, frame.n(), "{what}");
    assert!(frame.n() <= u64::from(area.width), "{what}");
    // Bars, cell by cell.
    let wide = area.width / frame.n() as u16;
    let begin = |metric: Metric| {
        let found = (area.y..area.bottom()).find(|y| lines[usize::from(*y)].starts_with(metric.name()));
        found.unwrap_or_else(|| panic!("{what}: no {}\n{}", metric.name(), screen.text()))
    };
    let text_of_nothing = !graphs.is_known();
    for (i, metric) in Metric::ALL.into_iter().enumerate() {
        let (top, bottom) =
            (begin(metric), Metric::ALL.get(i + 1).map_or(area.bottom(), |next| begin(*next)));
        let values: Vec<Option<f64>> = graphs.columns.iter().map(|column| column.value(metric)).collect();
        let most = values.iter().flatten().copied().reduce(f64::max);
        let height = u64::from(bottom - top);
        let mut label =
            lines[usize::from(top)].chars().skip(metric.name().len()).take(16 - metric.name().len());
        let label: String = label.by_ref().collect();
        if let Some(most) = most {
            let axis = metric.top(most);
            assert_eq!(label.trim(), metric.top_text(axis), "{what} {metric:?}");
            assert!(
                axis >= most && (axis <= most * 2.5 || most < 1.0 || metric == Metric::Share),
                "{what} {axis} {most}"
            );
        }
        if text_of_nothing {
            continue;
        }
        for (at, (column, value)) in graphs.columns.iter().zip(&values).enumerate() {
            let want = bar(column, *value, most.map(|most| metric.top(most)), height, theme);
            for x in area.x + at as u16 * wide..area.x + (at as u16 + 1) * wide {
                let found: String = (top..bottom).rev().map(|y| screen.buffer[(x, y)].symbol()).collect();
                assert_eq!(
                    found, want,
                    "{what} {metric:?} column {at}: {value:?} of {most:?}, {:?}",
                    column.watched
                );
            }
        }
    }
    figures(screen, &lines, what);
}

/// The symbols of a bar, from the bottom up.
fn bar(column: &Column, value: Option<f64>, top: Option<f64>, height: u64, theme: Theme) -> String {
    let ascii = theme.symbols == Symbols::Ascii;
    let repeat = |symbol: &str| symbol.repeat(height as usize);
    match column.watched {
        Watched::NotYet => return repeat(" "),
        Watched::Nothing => return repeat(if ascii { "/" } else { "╱" }),
        Watched::Whole | Watched::Part => {}
    }
    let (Some(value), Some(top)) = (value, top) else { return repeat(" ") };
    if value == 0.0 {
        return format!("{}{}", if ascii { "_" } else { "·" }, " ".repeat(height as usize - 1));
    }
    let eighths = ((value / top * (height * 8) as f64).ceil() as u64).max(1);
    let levels = if ascii { " .:-=+*#@" } else { " ▁▂▃▄▅▆▇█" };
    (0..height)
        .map(|row| match eighths.saturating_sub(row * 8).min(8) as usize {
            0 => ' ',
            _ if column.watched == Watched::Part => {
                if ascii {
                    '|'
                } else {
                    '░'
                }
            }
            level => levels.chars().nth(level).unwrap(),
        })
        .collect()
}

/// The two lines of the column that the cursor is in.
fn figures(screen: &Screen, lines: &[String], what: &str) {
    let graphs = graphs(screen);
    let column = &graphs.columns[graphs.cursor];
    let [first, second] = [&lines[lines.len() - 3], &lines[lines.len() - 2]];
    assert!(first.starts_with(&clock(column.start)), "{what}: {first}");
    match column.watched {
        Watched::Nothing => return assert!(first.ends_with("nothing was recorded"), "{what}: {first}"),
        Watched::NotYet => return assert!(first.ends_with("not yet"), "{what}: {first}"),
        Watched::Part => assert!(first.contains("  PART: "), "{what}: {first}"),
        Watched::Whole => assert!(!first.contains("PART"), "{what}: {first}"),
    }
    let behind = |line: &str, word: &str| -> String {
        let rest = line.split(word).nth(1).unwrap_or_else(|| panic!("{what}: no {word:?} in {line:?}"));
        rest.split_whitespace().next().unwrap().to_owned()
    };
    let ns = column.recorded_ns;
    let rate = |n: u64, word: &str| {
        let shown = behind(first, word);
        let shown: f64 = shown.trim_end_matches("/s").replace(',', "").parse().unwrap();
        let want = n as f64 * 1e9 / ns as f64;
        assert!((shown - want).abs() <= 0.050_001, "{what}: {shown} is not {want}: {first}");
    };
    rate(column.sums.count, "requests ");
    rate(column.sums.errors, "errors ");
    let share = behind(first, &format!("errors {} ", behind(first, "errors ")));
    match column.sums.count {
        0 => assert_eq!(share, "-", "{what}: {first}"),
        n => {
            let want = column.sums.errors as f64 / n as f64;
            read_back::same(&share, &read_back::Figure::Share(want), what, first);
        }
    }
    for (word, quantile) in [("p50 ", 0.5), ("p99 ", 0.99)] {
        let want = column.sums.quantile(quantile).map_or(read_back::Figure::None, read_back::Figure::Ns);
        read_back::same(&behind(second, word), &want, what, second);
    }
    for (word, n) in [("in flight ", column.in_flight), ("lost ", column.lost)] {
        let want = n.map_or(read_back::Figure::None, read_back::Figure::Count);
        read_back::same(&behind(second, word), &want, what, second);
    }
}

/// A recording that is played through a filter.
fn filtered() -> State {
    let columns = all_of(&Watch::busy().rollups());
    let mut state = State::recorded(move || {
        Ok(RecordedRollups { columns: columns.clone(), ..RecordedRollups::default() })
    });
    state.heading.filter = Some("service = '주문'".to_owned());
    state
}

fn states() -> Vec<(&'static str, State)> {
    let normal = || State::of(&Watch::busy());
    let nobody = Watch { rows: Vec::new(), watched: Vec::new(), lost: 0 };
    let loading = State {
        feed: feed(
            Vec::new(),
            &[Snapshot { wall: WallTime(START), watermark: WallTime(START), ..Snapshot::default() }],
        ),
        ..State::of(&nobody)
    };
    let whole = all_of(&Watch::busy().rollups());
    let ended = normal();
    ended.feed.status.finished();
    let hostile = Watch {
        rows: busy().into_iter().map(|row| Transaction { service: HOSTILE.into(), ..row }).collect(),
        watched: vec![(0, 300)],
        lost: 0,
    };
    let forgotten = {
        // Memory has the last two minutes, the recording the rest.
        let late = Watch { watched: vec![(180, 300)], ..Watch::busy() };
        let rows = late.rows.iter().filter(|row| row.end_time.0 >= START + 180 * SECOND).cloned().collect();
        let columns = whole.clone();
        let fetch = State::recorded(move || {
            Ok(RecordedRollups {
                columns: columns.clone(),
                until: WallTime(START + 300 * SECOND),
                ..RecordedRollups::default()
            })
        });
        let memory = State::of(&Watch { rows, ..late }).sources.memory;
        State { sources: RollupSources { memory, fetch: fetch.sources.fetch }, ..normal() }
    };
    vec![
        ("loading", loading),
        ("normal", normal()),
        ("of one service, made", State { keys: "c↓", ..normal() }),
        (
            "the cursor in what nobody watched",
            State {
                keys: "g→→→→→→→→→→→→→→→→→→→→→→→→→→→→", ..normal()
            },
        ),
        ("a filter that was typed", State { keys: "\u{1b}/duration > 1h\n:range 5m\n", ..normal() }),
        ("the run's filter in a replay", filtered()),
        ("lossy", State::of(&Watch { lost: 1_234, ..Watch::busy() })),
        ("paused", State { keys: " ", ..normal() }),
        ("replay", State { heading: Heading { filter: None, ..filtered().heading }, ..filtered() }),
        ("from the recording where memory does not reach", forgotten),
        (
            "reading",
            State {
                is_read: false,
                ..State::recorded(|| {
                    loop {
                        std::thread::park()
                    }
                })
            },
        ),
        (
            "a recording without",
            State::recorded(|| Ok(RecordedRollups { has_none: true, ..RecordedRollups::default() })),
        ),
        ("a recording that cannot be read", State::recorded(|| Err(std::io::Error::other(HOSTILE)))),
        ("finished", ended),
        ("hostile", State { keys: "↓", ..State::of(&hostile) }),
        ("without colours and symbols", State { theme: ASCII, ..normal() }),
    ]
}

#[test]
fn counter_graphs_in_every_state() {
    let states = states();
    for size in SIZES {
        let mut text = String::new();
        for (name, state) in &states {
            let screen = state.screen(size);
            let what = format!("{name} {size:?}");
            for cell in &screen.buffer.content {
                let bad = |c: char| c.is_control() || "\u{202e}\u{200b}\u{feff}".contains(c);
                assert!(!cell.symbol().chars().any(bad), "{what}: {:?}", cell.symbol());
            }
            check(&screen, state.theme, &what);
            says(name, &screen, &what);
            text.push_str(&format!("──── {name}\n{}\n", screen.text()));
        }
        text.push_str(&format!("──── too small\n{}\n", states[1].1.screen((59, 14)).text()));
        insta::assert_snapshot!(format!("range_{}x{}", size.0, size.1), text);
    }
    // The smallest screen that there is has all of them.
    let screen = states[1].1.screen((60, 15));
    check(&screen, MANY, "60x15");
    insta::assert_snapshot!("range_60x15", screen.text());
}

#[test]
fn the_title_says_what_does_not_narrow_recorded_sums() {
    for (filter, some_protocols, says) in [
        (None, false, "  column 1 s  served all services"),
        (None, true, "  column 1 s  --protocol not applied  served all services"),
        (Some("err"), false, "  column 1 s  filter not applied  served all services"),
        (Some("err"), true, "  column 1 s  filter and --protocol not applied  served all services"),
    ] {
        let heading = Heading { filter: filter.map(str::to_owned), some_protocols, ..filtered().heading };
        let title = State { heading, ..filtered() }.screen((400, 100)).lines()[3].clone();
        assert!(title.contains(says), "{says}: {title}");
    }
}

/// What each state must say.
fn says(name: &str, screen: &Screen, what: &str) {
    let (text, title) = (screen.text(), screen.lines()[3].clone());
    let says = |words: &str| assert!(text.contains(words), "{what} does not say {words:?}:\n{text}");
    match name {
        "loading" => says("waiting for the first transaction of the whole host"),
        "of one service, made" => {
            assert!(title.contains("  made shop"), "{title}");
            says("(all services)");
        }
        "the cursor in what nobody watched" if screen.buffer.area.width == 80 => says("nothing was recorded"),
        "a filter that was typed" | "the run's filter in a replay" => {
            assert!(title.contains("  filter not applied  served all services"), "{title}");
        }
        "paused" => says(" PAUSED +0"),
        "replay" => says(" REPLAY STOPPED"),
        "reading" => {
            says("reading the recording …");
            assert!(title.contains("  reading the recording  served"), "{title}");
        }
        "a recording without" => says("this recording has no counters: an older txray wrote it"),
        "a recording that cannot be read" => says("the recording cannot be read: "),
        "finished" => assert!(screen.lines()[0].ends_with(" END"), "{text}"),
        _ => {}
    }
}

#[test]
fn a_constant_rate_is_shown_as_it_is_and_what_is_not_over_not_as_if_it_were() {
    let rows: Vec<Transaction> = (0..30_000)
        .map(|i| Transaction { end_time: WallTime(START + i * SECOND / 100), ..transaction(0) })
        .collect();
    let steady = Watch { rows, watched: vec![(0, 300)], lost: 0 };
    let state = State::of(&steady);
    for (size, column) in [((400, 100), "1 s"), ((80, 24), "5×1 s"), ((60, 15), "10×1 s")] {
        let screen = state.screen(size);
        let graphs = graphs(&screen);
        assert!(screen.lines()[3].contains(&format!("  column {column}")), "{}", screen.lines()[3]);
        let whole = graphs.columns.iter().filter(|column| column.watched == Watched::Whole);
        assert!(whole.clone().count() > 20);
        for column in whole {
            assert_eq!(column.value(Metric::Requests), Some(100.0));
        }
        let line = &screen.lines()[usize::from(size.1) - 3];
        assert!(line.contains("requests 100.0/s"), "{line}");
        // Minutes: the last one is not over.
        let screen = State { keys: "-------", ..State::of(&steady) }.screen(size);
        let graphs = screen.model.graphs.as_ref().unwrap();
        let last = graphs.columns.iter().rfind(|column| column.watched != Watched::NotYet).unwrap();
        assert_eq!(last.watched, Watched::Part, "{:?}", graphs.frame);
    }
}

#[test]
fn memory_alone_shows_minutes_where_its_seconds_are_forgotten() {
    let rollups = Watch { rows: Vec::new(), watched: vec![(0, 1_300)], lost: 0 }.rollups();
    let sources = RollupSources { memory: Some(rollups.clone()), fetch: None };
    let seen = Snapshot { watermark: WallTime(START + 1_299 * SECOND), ..snapshot() };
    let state = State { feed: feed(Vec::new(), &[seen]), sources, ..State::of(&Watch::busy()) };
    // Ten minutes of seconds are kept, and a day of minutes.
    assert!(screen_columns(&state).starts_with("1 s  "));
    let minutes = State { keys: ":range 20m\n", ..state };
    assert!(screen_columns(&minutes).starts_with("1 min  "), "{}", screen_columns(&minutes));
    let screen = minutes.screen((400, 100));
    let whole = graphs(&screen).columns.iter().filter(|column| column.watched == Watched::Whole).count();
    assert_eq!(whole, 20, "all of them, but the last");
    check(&screen, MANY, "minutes");
}

fn screen_columns(state: &State) -> String {
    let screen = state.screen((400, 100));
    screen.lines()[3].split("  column ").nth(1).unwrap().to_owned()
}
