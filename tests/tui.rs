//! The live screen, drawn into memory: golden screens, and figures read back from the cells.

use bytes::Bytes;
use ratatui::{
    buffer::Buffer,
    layout::Rect,
    style::{Color, Modifier},
};
use tracer_user::{
    event::{ConnId, Counters, Role},
    metrics::Metrics,
    pipeline::{InFlight, LostRequests, OpenRequest, Snapshot, Step},
    sink::{
        Sink as _,
        histogram::{HistogramSink, SharedHistograms},
        recent::{RecentSink, SharedRecent},
        xlog::{SharedXlog, XlogSink},
    },
    time::{BootTime, WallTime},
    transaction::{Confidence, End, Kind, TimeBasis, Transaction, TransactionBatch},
    tui::{
        App, Chart, Colours, Density, Feed, Heading, Key, Layout, Model, SharedStatus, Symbols, Theme, View,
        draw, layout,
    },
};

const SECOND: u64 = 1_000_000_000;
/// 2023-11-14 22:13:20 UTC.
const START: u64 = 1_700_000_000 * SECOND;
/// Rows that are kept.
const ROWS: usize = 1 << 15;
const MANY: Theme = Theme { colours: Colours::Many, symbols: Symbols::Unicode };

fn transaction(i: u64) -> Transaction {
    Transaction {
        start_time: WallTime(START),
        request_end: None,
        response_start: None,
        end_time: WallTime(START + i * SECOND),
        duration_ns: 1_000_000,
        ttfb_ns: None,
        queue_ns: None,
        time_basis: TimeBasis::Exit,
        kind: Kind::Request,
        role: Role::Server,
        protocol: "http1",
        operation: "GET /item/{id}".into(),
        target: Some(Bytes::from_static(b"/item/1")),
        status_code: Some(200),
        error: false,
        error_type: None,
        pid: 1,
        tid: 1,
        comm: "shop".into(),
        service: "shop".into(),
        client_addr: "127.0.0.1".into(),
        client_port: Some(40_000),
        server_addr: "127.0.0.1".into(),
        server_port: Some(80),
        request_bytes: 80,
        response_bytes: 400,
        end: End::Answered,
        confidence: Confidence::Complete,
        conn: ConnId(1),
        ordinal: i,
        seq: i,
    }
}

/// Almost five minutes of three operations: one steady, one slow with errors, one of a client; some beyond the top.
fn busy() -> Vec<Transaction> {
    let mut transactions: Vec<Transaction> = (0..1_200_u64)
        .map(|i| {
            // A cheap spread over three decades.
            let spread = 1.0 + ((i * 7_919) % 1_000) as f64;
            let base = Transaction {
                end_time: WallTime(START + 12 * SECOND + i * SECOND * 6 / 25),
                duration_ns: (spread * 300_000.0) as i64,
                seq: i,
                ..transaction(0)
            };
            match i % 12 {
                0 => Transaction {
                    operation: "POST /주문/{id}".into(),
                    service: "주문서비스".into(),
                    error: i % 24 == 0,
                    status_code: Some(503),
                    duration_ns: base.duration_ns * 20,
                    ..base
                },
                1 => Transaction {
                    role: Role::Client,
                    operation: "GET /stock/{id}".into(),
                    duration_ns: base.duration_ns / 3,
                    ..base
                },
                _ => base,
            }
        })
        .collect();
    for i in [100, 700] {
        transactions[i].duration_ns = 12_000_000_000;
    }
    transactions
}

fn snapshot() -> Snapshot {
    let flight = |service: &str, by_age| InFlight { service: service.into(), by_age };
    Snapshot {
        wall: WallTime(START + 300 * SECOND),
        watermark: WallTime(START + 300 * SECOND),
        n_open: 31,
        n_long_lived: 2,
        in_flight: vec![
            flight("cart", [1, 0, 0]),
            flight("shop", [20, 4, 1]),
            flight("stock", [3, 0, 0]),
            flight("주문서비스", [1, 1, 0]),
        ],
        ..Snapshot::default()
    }
}

/// A request in flight, so old.
fn open(i: u64, age_ms: u64, step: Step) -> OpenRequest {
    OpenRequest {
        age_ns: age_ms * 1_000_000,
        step,
        kind: Kind::Request,
        role: Role::Server,
        service: if i.is_multiple_of(2) { "shop".into() } else { "주문서비스".into() },
        pid: 100,
        tid: 101 + i as u32,
        conn: ConnId(i),
        ordinal: i,
        method: "GET".into(),
        path: Bytes::from(format!("/item/{i}")),
    }
}

fn lossy(at: u64, refused: u64) -> Snapshot {
    let values = vec![("kernel.refused_data".into(), refused), ("kernel.payload_fault".into(), 7)];
    Snapshot {
        wall: WallTime(START + at * SECOND),
        lost_requests: LostRequests { low: refused / 2, high: refused },
        counters: Some(Counters { time: BootTime(at), values }.into()),
        ..snapshot()
    }
}

fn feed(transactions: Vec<Transaction>, snapshots: &[Snapshot]) -> Feed {
    let feed = Feed {
        histograms: SharedHistograms::default(),
        xlog: SharedXlog::new(1 << 16),
        recent: SharedRecent::new(ROWS),
        status: SharedStatus::default(),
    };
    let metrics = Metrics::default();
    let watermark =
        transactions.last().map_or(WallTime(0), |transaction| WallTime(transaction.end_time.0 + SECOND / 4));
    let batch = TransactionBatch { transactions, watermark };
    let mut histograms = HistogramSink::new(feed.histograms.clone());
    let mut xlog = XlogSink::new(feed.xlog.clone(), metrics.clone());
    histograms.write(&batch).unwrap();
    RecentSink::new(feed.recent.clone()).write(&batch).unwrap();
    histograms.advance(watermark).unwrap();
    xlog.write(&batch).unwrap();
    xlog.advance(watermark).unwrap();
    for snapshot in snapshots {
        feed.status.lock().observe(snapshot, &metrics);
    }
    feed
}

struct Screen {
    buffer: Buffer,
    model: Model,
    app: App,
    layout: Layout,
}

fn screen(feed: &Feed, width: u16, height: u16, theme: Theme, mut app: App) -> Screen {
    let heading = Heading { title: "live  whole host".to_owned(), ..Heading::default() };
    screen_with(feed, width, height, theme, &mut app, &heading)
}

fn screen_with(
    feed: &Feed,
    width: u16,
    height: u16,
    theme: Theme,
    app: &mut App,
    heading: &Heading,
) -> Screen {
    let area = Rect::new(0, 0, width, height);
    let layout = layout(area, app);
    let model = Model::read(feed, heading, app, &layout);
    if let Some(chart) = &model.chart {
        app.density = app.shown_density(chart.density(app.density));
    }
    let mut buffer = Buffer::empty(area);
    draw(&mut buffer, &model, app, theme);
    Screen { buffer, model, app: app.clone(), layout }
}

/// The screen after these keys, each pressed on the screen that the one before left.
fn press(feed: &Feed, size: (u16, u16), app: &mut App, keys: &[Key]) -> Screen {
    let heading = Heading { title: "live  whole host".to_owned(), ..Heading::default() };
    let mut screen = screen_with(feed, size.0, size.1, MANY, app, &heading);
    for &key in keys {
        app.key(key, &screen.model.seen(app, &screen.layout));
        screen = screen_with(feed, size.0, size.1, MANY, app, &heading);
    }
    screen
}

/// Characters as keys.
fn typed(text: &str) -> Vec<Key> {
    text.chars().map(Key::Char).collect()
}

impl Screen {
    fn chart(&self) -> &Chart {
        self.model.chart.as_ref().expect("a view with an XLog")
    }

    /// The lines as a terminal shows them.
    fn lines(&self) -> Vec<String> {
        use unicode_width::UnicodeWidthStr as _;
        let area = self.buffer.area;
        (0..area.height)
            .map(|y| {
                let (mut line, mut x) = (String::new(), 0);
                while x < area.width {
                    let symbol = self.buffer[(x, y)].symbol();
                    line.push_str(symbol);
                    x += symbol.width().max(1) as u16;
                }
                line.trim_end().to_owned()
            })
            .collect()
    }

    fn text(&self) -> String {
        self.lines().join("\n")
    }

    /// The whole number before `word`.
    fn number_before(&self, line: &str, word: &str) -> u64 {
        let before = line.split(word).next().unwrap().trim_end();
        let digits = before.rsplit([' ', '+']).next().unwrap();
        digits.replace(',', "").parse().unwrap_or_else(|_| panic!("no number before {word:?} in {line:?}"))
    }
}

#[test]
fn screens_of_a_busy_host() {
    let feed = feed(busy(), &[snapshot()]);
    for (width, height) in [(80, 24), (120, 40), (200, 60), (60, 15)] {
        insta::assert_snapshot!(
            format!("busy_{width}x{height}"),
            screen(&feed, width, height, MANY, App::default()).text()
        );
    }
}

#[test]
fn a_terminal_that_is_too_small_is_told_so() {
    let feed = feed(busy(), &[snapshot()]);
    insta::assert_snapshot!("too_small_40x10", screen(&feed, 40, 10, MANY, App::default()).text());
    for (width, height) in [(0, 0), (1, 1), (59, 15), (60, 14), (300, 3)] {
        screen(&feed, width, height, MANY, App::default());
    }
}

#[test]
fn no_size_panics() {
    let feed = feed(busy(), &[snapshot(), lossy(299, 5)]);
    for width in (1..220).step_by(13) {
        for height in 1..70 {
            let app = App {
                help: (height % 2 == 0).then_some(height / 9),
                view: View::ALL[usize::from(height) % View::ALL.len()],
                ..App::default()
            };
            screen(&feed, width, height, MANY, app);
        }
    }
}

#[test]
fn a_screen_without_data() {
    let feed = feed(Vec::new(), &[]);
    insta::assert_snapshot!("empty_80x24", screen(&feed, 80, 24, MANY, App::default()).text());
}

#[test]
fn a_filter_that_matches_nothing_says_what_was_seen() {
    let feed = feed(Vec::new(), &[]);
    feed.status.lock().filtered = 1_204;
    let heading =
        Heading { title: "live".to_owned(), filter: Some("duration > 1h".to_owned()), ..Heading::default() };
    let screen = screen_with(&feed, 80, 24, MANY, &mut App::default(), &heading);
    assert!(screen.text().contains("no transaction matched duration > 1h; 1,204 seen"), "{}", screen.text());
    assert!(screen.lines()[1].contains(" 0 of 1,204 match duration > 1h"), "{}", screen.text());
}

#[test]
fn losses_are_named_in_red_and_mark_their_columns() {
    let feed = feed(busy(), &[lossy(150, 0), lossy(160, 12), lossy(299, 12)]);
    let screen = screen(&feed, 80, 24, MANY, App::default());
    insta::assert_snapshot!("lossy_80x24", screen.text());
    assert_eq!(screen.buffer[(0, 2)].style().fg, Some(Color::Red));
    let marked = (0..80).filter(|&x| (4..13).any(|y| screen.buffer[(x, y)].symbol() == "▒")).count();
    let lost = screen.chart().lost.iter().filter(|lost| **lost).count();
    assert!(lost != 0 && marked == lost, "{marked} columns marked, {lost} with losses");
}

#[test]
fn hostile_bytes_and_wide_characters_stay_inside_their_cells() {
    let hostile = "\u{1b}[2J\u{1b}]0;x\u{7}\u{9b}31m\u{202e}txt\u{200b}\u{feff}\r\n\0";
    let transactions: Vec<Transaction> = (0..20)
        .map(|i| Transaction {
            operation: format!("GET /{hostile}").into(),
            service: if i % 2 == 0 { hostile.into() } else { "결제서비스-운영".into() },
            ..transaction(i)
        })
        .collect();
    let mut snapshot = snapshot();
    snapshot.in_flight[0].service = hostile.into();
    let feed = feed(transactions, &[snapshot]);
    let heading = Heading {
        title: hostile.to_owned(),
        filter: Some(hostile.to_owned()),
        replay: true,
        window_ns: None,
    };
    let screen = screen_with(&feed, 120, 40, MANY, &mut App::default(), &heading);
    insta::assert_snapshot!("hostile_120x40", screen.text());
    for cell in &screen.buffer.content {
        let bad = |c: char| c.is_control() || "\u{202e}\u{200b}\u{feff}".contains(c);
        assert!(!cell.symbol().chars().any(bad), "{:?}", cell.symbol());
    }
}

#[test]
fn an_error_that_shares_its_cell_is_painted_as_one() {
    let error = Transaction { error: true, status_code: Some(500), ..transaction(290) };
    for transactions in [vec![error.clone(), transaction(290)], vec![transaction(290), error]] {
        let feed = feed(transactions, &[snapshot()]);
        let many = screen(&feed, 80, 24, MANY, App::default());
        let red = Some(Color::Rgb(0xff, 0x54, 0x54));
        let painted: Vec<_> = many
            .buffer
            .content
            .iter()
            .filter(|cell| cell.symbol().starts_with(|c| ('\u{2801}'..='\u{28ff}').contains(&c)))
            .map(|cell| cell.style().fg)
            .collect();
        assert_eq!(painted, [red]);
        let none = Theme { colours: Colours::None, symbols: Symbols::Unicode };
        let plain = screen(&feed, 80, 24, none, App::default());
        let letters: Vec<_> = (4..13)
            .flat_map(|y| (7..80).map(move |x| (x, y)))
            .filter(|&at| plain.buffer[at].symbol() == "E")
            .collect();
        assert_eq!(letters.len(), 1, "{}", plain.text());
        assert!(plain.buffer[letters[0]].modifier.contains(Modifier::REVERSED));
    }
}

#[test]
fn ascii_terminals_get_ascii() {
    let theme = Theme { colours: Colours::Sixteen, symbols: Symbols::Ascii };
    let transactions =
        busy().into_iter().filter(|t| t.service.is_ascii() && t.operation.is_ascii()).collect();
    let mut snapshot = lossy(160, 12);
    snapshot.in_flight.truncate(3);
    let screen = screen(&feed(transactions, &[lossy(100, 0), snapshot]), 80, 24, theme, App::default());
    let lines = screen.lines();
    for (y, line) in lines.iter().enumerate() {
        // The clamp's sign and the cut mark are all that is left.
        let odd: String = line.chars().filter(|c| !c.is_ascii() && !matches!(c, '≥' | '…')).collect();
        assert!(odd.is_empty(), "line {y}: {odd:?} in {line:?}");
    }
}

#[test]
fn the_figures_on_the_screen_are_the_models() {
    let feed = feed(busy(), &[lossy(150, 0), lossy(160, 1_234)]);
    for (width, height) in [(120, 40), (200, 60)] {
        let screen = screen(&feed, width, height, MANY, App::default());
        let lines = screen.lines();
        assert_eq!(screen.number_before(&lines[0], " transactions"), 1_200);
        assert_eq!(screen.number_before(&lines[0], " errors"), screen.model.errors);
        assert_eq!(lines[2], screen.model.losses.line());
        assert!(lines[2].contains("refused_data 1,234"));
        assert!(lines[3].contains("served 1,100 "), "{}", lines[3]);
        assert_eq!(screen.number_before(&lines[3], " ≥ 10.0s"), screen.chart().n_clamped);
        assert_eq!(screen.number_before(&lines[3], " made hidden"), 100);
        // The dots themselves: every cell of the model that holds some is on the screen, and no other.
        let dots = (0..screen.chart().cells.len())
            .filter(|&i| {
                let (x, y) = (i as u16 % screen.chart().area.width, i as u16 / screen.chart().area.width);
                let cells = screen.layout.chart;
                let symbol = screen.buffer[(cells.x + x, cells.y + y)].symbol().chars().next().unwrap();
                ('\u{2801}'..='\u{28ff}').contains(&symbol)
            })
            .count();
        assert_eq!(screen.app.density, Density::Scatter);
        assert_eq!(dots, screen.chart().cells.iter().filter(|cell| cell.count != 0).count());
        // The table: the counts of its rows add up to the header's.
        let counts: u64 = screen.model.rows.iter().map(|row| row.count).sum();
        assert_eq!(counts, 1_200);
        for row in &screen.model.rows {
            let line = lines
                .iter()
                .find(|line| line.starts_with(&row.service) && line.contains(&row.operation))
                .unwrap_or_else(|| panic!("{} {} is not on the screen", row.service, row.operation));
            let shown = line.split_whitespace().any(|word| word.replace(',', "") == row.count.to_string());
            assert!(shown, "{} in {line:?}", row.count);
        }
        let flights: Vec<&String> = lines.iter().filter(|line| line.contains("(1 / 4 / 20)")).collect();
        assert_eq!(flights.len(), 1, "{}", screen.text());
        assert!(flights[0].contains("25 (1 / 4 / 20)"));
    }
}

#[test]
fn keys_change_what_is_drawn() {
    let feed = feed(busy(), &[snapshot()]);
    let after = |keys: &[Key]| press(&feed, (80, 24), &mut App::default(), keys);
    let title = |screen: &Screen| screen.lines()[3].clone();
    assert!(title(&after(&[])).contains("5 min  log  served 1,100"));
    assert!(title(&after(&[Key::Char('l')])).contains("linear"));
    assert!(title(&after(&[Key::Char('H')])).contains("heat (kept)"));
    assert!(title(&after(&[Key::Char('c')])).contains("made 100"));
    assert!(title(&after(&[Key::Char('+')])).contains("4 min"));
    let top = [typed("y9s"), vec![Key::Enter]].concat();
    assert!(title(&after(&top)).contains("≥ 9.00s"));
    assert!(after(&[Key::Char(' ')]).lines()[0].contains("PAUSED +0"));
    assert!(after(&[Key::Char('?')]).text().contains("type the top of the axis"));
    assert!(after(&[Key::Char('y'), Key::Char('9')]).lines()[23].contains("axis: 9_"));
    let by_p99 = after(&[Key::Char('s'), Key::Char('s')]);
    assert_eq!(by_p99.model.rows[0].service, "주문서비스");
    assert!(by_p99.text().contains("▾p99"));
    let second = after(&[Key::Down]);
    let selected: Vec<u16> =
        (2..24).filter(|&y| second.buffer[(0, y)].modifier.contains(Modifier::REVERSED)).collect();
    let heading = second.lines().iter().position(|line| line.starts_with("service")).unwrap() as u16;
    assert_eq!(selected, [heading + 2]);
}

#[test]
fn a_crowd_turns_into_a_heat_map_by_itself() {
    let crowd: Vec<Transaction> = (0..60_000_u64)
        .map(|i| Transaction {
            end_time: WallTime(START + i * SECOND / 200),
            duration_ns: 1_000_000 + (i as i64 % 40) * 10_000,
            error: i % 9_999 == 0,
            ..transaction(0)
        })
        .collect();
    let screen = screen(&feed(crowd, &[snapshot()]), 80, 24, MANY, App::default());
    assert_eq!(screen.app.density, Density::Heat);
    insta::assert_snapshot!("heat_80x24", screen.text());
}

#[test]
fn the_xlog_alone_has_rows_and_percentiles_beside_it() {
    let feed = feed(busy(), &[lossy(150, 0), lossy(160, 12)]);
    for (width, height) in [(80, 24), (120, 40), (200, 60), (400, 100)] {
        let screen = press(&feed, (width, height), &mut App::default(), &typed("2"));
        insta::assert_snapshot!(format!("xlog_{width}x{height}"), screen.text());
        if width < 90 {
            continue;
        }
        let [p50, p99] = screen.chart().quantiles([0.5, 0.99]).unwrap();
        for (name, ns) in [("p50", p50), ("p99", p99)] {
            let shown = tracer_user::report::format::duration(ns);
            let row = screen.chart().row_of(ns).unwrap();
            let line = &screen.lines()[usize::from(screen.layout.chart.y + row)];
            assert!(line.ends_with(&format!("{name} {shown}")), "{line:?}");
        }
        // The smallest value that a hundredth are not below, counted by hand.
        let mut durations: Vec<i64> =
            busy().iter().filter(|t| t.role == Role::Server).map(|t| t.duration_ns).collect();
        durations.sort_unstable();
        let exact = durations[(durations.len() * 99).div_ceil(100) - 1] as f64;
        assert!((p99 as f64 / exact - 1.0).abs() < 0.01, "{p99} is not {exact}");
    }
}

/// Keys that select columns `a..=b` of the XLog from the middle, in all rows.
fn select_columns(screen: &Screen, a: u16, b: u16) -> Vec<Key> {
    let area = screen.layout.chart;
    let mut keys = vec![Key::Char('v')];
    let (middle, up) = (area.width / 2, area.height / 2);
    let step = |from: u16, to: u16| {
        let key = if to < from { Key::Left } else { Key::Right };
        std::iter::repeat_n(key, usize::from(from.abs_diff(to)))
    };
    keys.extend(step(middle, a));
    keys.extend(std::iter::repeat_n(Key::Up, usize::from(up)));
    keys.push(Key::Char('v'));
    keys.extend(step(a, b));
    keys.extend(std::iter::repeat_n(Key::Down, usize::from(area.height)));
    keys
}

#[test]
fn a_selected_rectangle_is_listed_without_a_cap_and_its_rows_are_those_that_a_scan_finds() {
    let feed = feed(busy(), &[snapshot()]);
    let mut app = App::default();
    let xlog = press(&feed, (120, 40), &mut app, &typed("2"));
    let mut keys = select_columns(&xlog, 20, 59);
    keys.push(Key::Enter);
    let list = press(&feed, (120, 40), &mut app, &keys);
    insta::assert_snapshot!("list_120x40", list.text());
    let (from, to) = app.selection.unwrap().times();
    let by_hand: Vec<u64> = {
        let mut rows: Vec<Transaction> = busy()
            .into_iter()
            .filter(|t| t.role == Role::Server && t.end_time >= from && t.end_time < to)
            .collect();
        rows.sort_by_key(|t| std::cmp::Reverse(t.duration_ns));
        rows.iter().map(|t| t.seq).collect()
    };
    let listed = list.model.list.as_ref().unwrap();
    assert!(by_hand.len() > 400, "{}", by_hand.len());
    assert_eq!(listed.rows.iter().map(|row| row.seq).collect::<Vec<_>>(), by_hand);
    assert_eq!(list.number_before(&list.lines()[3], " transactions"), by_hand.len() as u64);
    // The whole list can be walked to its end.
    let last = press(&feed, (120, 40), &mut app, &[Key::End]);
    let shortest = listed.rows.last().unwrap();
    let line = last.lines()[38].clone();
    assert!(line.contains(&tracer_user::report::format::duration(shortest.duration_ns as u64)), "{line}");
}

#[test]
fn any_rectangle_holds_exactly_the_dots_that_are_drawn_in_it() {
    let feed = feed(busy(), &[snapshot()]);
    for (size, scale) in [((80, 24), ""), ((120, 40), "l"), ((61, 17), "c"), ((200, 60), "cc")] {
        let screen = press(&feed, size, &mut App::default(), &typed(&format!("2{scale}")));
        let chart = screen.chart();
        let (width, height) = (chart.area.width, chart.area.height);
        for (a, b) in [((0, 0), (width - 1, height - 1)), ((3, 0), (9, 0)), ((width / 2, 2), (5, height - 1))]
        {
            let rectangle = chart.geometry.rectangle(a, b);
            let drawn: u64 = (0..chart.cells.len())
                .filter(|&i| rectangle.has(i as u16 % width, i as u16 / width))
                .map(|i| chart.cells[i].count)
                .sum();
            let inside = busy()
                .iter()
                .filter(|t| rectangle.contains(t.role, t.end_time, t.duration_ns as u64))
                .count() as u64;
            assert_eq!(inside, drawn, "{size:?} {a:?} {b:?}");
        }
    }
}

#[test]
fn a_transaction_is_opened_from_the_list_and_shows_where_its_time_went() {
    let base = WallTime(START + 100 * SECOND);
    let at = |ms: u64| WallTime(base.0 + ms * 1_000_000);
    let mut transactions: Vec<Transaction> = (0..20)
        .map(|i| Transaction {
            ordinal: i,
            seq: i,
            start_time: at(i * 50),
            end_time: at(i * 50 + 1),
            ..transaction(i)
        })
        .collect();
    transactions.push(Transaction {
        start_time: at(2_000),
        request_end: Some(at(2_100)),
        response_start: Some(at(2_900)),
        end_time: at(3_000),
        duration_ns: 1_000_000_000,
        ttfb_ns: Some(800_000_000),
        queue_ns: Some(250_000_000),
        target: Some(Bytes::from_static(b"/item/7?q=\xff\x1b[2J")),
        status_code: Some(503),
        error: true,
        error_type: Some("503".into()),
        ordinal: 20,
        seq: 20,
        ..transaction(0)
    });
    let feed = feed(transactions, &[snapshot()]);
    let mut app = App::default();
    let xlog = press(&feed, (120, 40), &mut app, &typed("2"));
    let mut keys = select_columns(&xlog, 0, 93);
    keys.extend([Key::Enter, Key::Enter]);
    let detail = press(&feed, (120, 40), &mut app, &keys);
    insta::assert_snapshot!("detail_120x40", detail.text());
    assert!(detail.text().contains("503") && !detail.text().contains('\u{1b}'));
    for (name, shown) in
        [("queued", "250ms"), ("reading", "100ms"), ("waiting", "800ms"), ("sending", "100ms")]
    {
        let line = detail.lines().into_iter().find(|line| line.starts_with(name)).unwrap();
        assert!(line.contains(shown), "{line}");
    }
}

#[test]
fn what_is_older_than_the_rows_kept_is_counted_in_the_list() {
    let transactions: Vec<Transaction> = (0..ROWS as u64 + 500)
        .map(|i| Transaction {
            end_time: WallTime(START + 200 * SECOND + i * 1_000_000),
            seq: i,
            ordinal: i,
            ..transaction(0)
        })
        .collect();
    let feed = feed(transactions, &[snapshot()]);
    let mut app = App::default();
    let xlog = press(&feed, (120, 40), &mut app, &typed("2"));
    let keys = select_columns(&xlog, 0, xlog.layout.chart.width - 1);
    let list = press(&feed, (120, 40), &mut app, &[keys, vec![Key::Enter]].concat());
    let title = &list.lines()[3];
    let listed = list.model.list.as_ref().unwrap();
    assert_eq!((listed.n, listed.rows.len()), (ROWS as u64 + 500, ROWS));
    assert!(title.contains("500 of them are older than the rows that are kept"), "{title}");
}

#[test]
fn the_help_of_every_place_lists_all_its_keys() {
    let feed = feed(busy(), &[snapshot()]);
    for size in [(120, 60), (60, 15)] {
        let mut app = App::default();
        let mut seen_text = String::new();
        let mut screen = press(&feed, size, &mut app, &typed("2?"));
        for _ in 0..40 {
            seen_text.push_str(&screen.text());
            screen = press(&feed, size, &mut app, &[Key::Down]);
        }
        for binding in tracer_user::tui::BINDINGS {
            if binding.places.contains(&tracer_user::tui::Place::View(View::Xlog)) {
                assert!(seen_text.contains(binding.what), "{size:?}: {}", binding.what);
            }
        }
    }
}

#[test]
fn requests_in_flight_are_listed_with_their_step_the_oldest_first() {
    let mut snapshot = snapshot();
    snapshot.open = vec![
        OpenRequest { kind: Kind::LongLived, ..open(0, 900_000, Step::Sending) },
        open(1, 12_000, Step::Waiting),
        open(2, 5_000, Step::Sending),
        open(3, 20, Step::Reading),
        OpenRequest { path: Bytes::from_static(b"/\x1b[2J\xff"), ..open(4, 1, Step::Waiting) },
    ];
    let feed = feed(busy(), &[snapshot]);
    for (width, height) in [(80, 24), (120, 40), (200, 60), (400, 100)] {
        let screen = press(&feed, (width, height), &mut App::default(), &typed("3"));
        insta::assert_snapshot!(format!("active_{width}x{height}"), screen.text());
        for (step, age) in
            [("open", "15.0min"), ("waiting", "12.0s"), ("sending", "5.00s"), ("reading", "20.0ms")]
        {
            let line = screen.lines().into_iter().find(|line| line.contains(&format!(" {step} "))).unwrap();
            assert!(step == "open" || line.trim_start().starts_with(age), "{line:?}");
        }
        assert!(screen.text().contains("and 28 younger ones"), "{}", screen.text());
    }
    let idle = Snapshot {
        open: Vec::new(),
        n_open: 0,
        n_long_lived: 0,
        in_flight: Vec::new(),
        ..crate::tui::snapshot()
    };
    let screen = press(&self::feed(busy(), &[idle]), (80, 24), &mut App::default(), &typed("3"));
    assert!(screen.text().contains("nothing is in flight"));
}

#[test]
fn txrays_own_counters_have_totals_and_what_the_last_second_brought() {
    let feed = feed(busy(), &[lossy(150, 5), lossy(151, 1_234)]);
    for (width, height) in [(80, 24), (120, 40)] {
        let screen = press(&feed, (width, height), &mut App::default(), &typed("8"));
        insta::assert_snapshot!(format!("health_{width}x{height}"), screen.text());
        let line = screen.lines().into_iter().find(|line| line.starts_with("kernel.refused_data")).unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words, ["kernel.refused_data", "1,234", "1,229"]);
    }
    let early = press(&self::feed(Vec::new(), &[]), (80, 24), &mut App::default(), &typed("8"));
    assert!(early.text().contains("no counters yet"));
}

#[test]
fn a_filter_that_is_typed_narrows_dots_table_and_list_to_what_matches() {
    use tracer_user::report::filter::Filter;
    let feed = feed(busy(), &[snapshot()]);
    for expression in
        ["duration > 300ms and not err", "operation ~ 'POST /**'", "status_code = 200 or err", "slow"]
    {
        let filter = Filter::parse(expression).unwrap();
        let by_hand: Vec<Transaction> = busy().into_iter().filter(|t| filter.matches(t)).collect();
        let mut app = App::default();
        let keys = [typed("/"), typed(expression), vec![Key::Enter]].concat();
        let screen = press(&feed, (120, 40), &mut app, &keys);
        let n = by_hand.len() as u64;
        assert_eq!(screen.number_before(&screen.lines()[1], " of 1,200 match"), n, "{expression}");
        let served = by_hand.iter().filter(|t| t.role == Role::Server).count() as u64;
        assert_eq!(screen.chart().n, served);
        assert_eq!(screen.model.rows.iter().map(|row| row.count).sum::<u64>(), n);
        let mut keys = select_columns(&press(&feed, (120, 40), &mut app, &typed("2")), 0, 200);
        keys.push(Key::Enter);
        let list = press(&feed, (120, 40), &mut app, &keys);
        let listed = list.model.list.as_ref().unwrap();
        assert_eq!((listed.n, listed.rows.len() as u64), (served, served));
        assert!(listed.rows.iter().all(|row| filter.matches(row)));
    }
    let mut app = App::default();
    let keys = [typed("/operation ~ 'POST /**' and err"), vec![Key::Enter]].concat();
    insta::assert_snapshot!("filtered_80x24", press(&feed, (80, 24), &mut app, &keys).text());
    let cleared = press(&feed, (80, 24), &mut app, &[Key::Escape]);
    assert!(cleared.model.narrowed.is_none());
    let keys = [typed("/duration > 1h"), vec![Key::Enter]].concat();
    let none = press(&feed, (80, 24), &mut app, &keys);
    assert!(none.text().contains("no transaction matched duration > 1h; 1,200 seen"), "{}", none.text());
}

#[test]
fn a_fault_in_a_filter_is_pointed_at_where_it_stands() {
    let feed = feed(busy(), &[snapshot()]);
    for (size, expression) in [
        ((80, 24), "duration >> 1s".to_owned()),
        // Longer than the screen is wide.
        ((60, 15), format!("{} or durration > 1s", ["pid = 1"; 9].join(" or "))),
        ((80, 24), "service = '주문' or durration > 1s".to_owned()),
    ] {
        let keys = [typed("/"), typed(&expression), vec![Key::Enter]].concat();
        let screen = press(&feed, size, &mut App::default(), &keys);
        let y = size.1 - 1;
        let marked: Vec<u16> =
            (0..size.0).filter(|&x| screen.buffer[(x, y)].modifier.contains(Modifier::REVERSED)).collect();
        let fault = screen.app.prompt.as_ref().unwrap().fault.unwrap();
        let symbol: String = expression.chars().skip(fault).take(1).collect();
        assert_eq!(marked.len(), 1, "{}", screen.text());
        assert_eq!(screen.buffer[(marked[0], y)].symbol(), symbol, "{}", screen.lines()[usize::from(y)]);
    }
}
