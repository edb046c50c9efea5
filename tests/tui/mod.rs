//! The live screen, drawn into memory: golden screens, and figures read back from the cells.

mod actions;
mod axes;
mod connections;
mod flight;
mod graph;
mod health;
mod overview;
mod patterns;
mod range;
mod read_back;
mod settings;
mod stacks;
mod states;
mod views;

use std::sync::Arc;

use bytes::Bytes;
use ratatui::{
    buffer::Buffer,
    layout::Rect,
    style::{Color, Modifier},
};
use tracer_ebpf as abi;
use tracer_user::{
    event::{ConnId, Counters, Role},
    metrics::Metrics,
    pipeline::{InFlight, LostRequests, OpenRequest, Snapshot, Step},
    protocol::TlsFacts,
    sink::{
        Sink as _,
        histogram::{HistogramSink, SharedHistograms},
        patterns::{PatternSink, SharedPatterns},
        recent::{RecentSink, SharedRecent},
        xlog::{SharedXlog, XlogSink},
    },
    time::{BootTime, WallTime},
    transaction::{Confidence, End, Kind, TimeBasis, Transaction, TransactionBatch},
    tui::{
        App, Chart, Colours, Density, Feed, Heading, Key, Layout, Model, Palette, SharedStatus, Symbols,
        Theme, View, draw, layout,
    },
};

const SECOND: u64 = 1_000_000_000;
/// 2023-11-14 22:13:20 UTC.
const START: u64 = 1_700_000_000 * SECOND;
/// Dots that are kept.
const DOTS: usize = 1 << 16;
/// Rows that are kept.
const ROWS: usize = 1 << 15;
const MANY: Theme = Theme { colours: Colours::Many, symbols: Symbols::Unicode, palette: Palette::DEFAULT };

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
        ..Transaction::default()
    }
}

/// Of a server with this name.
fn tls(name: &str) -> Arc<TlsFacts> {
    let (version, alpn) = (Some("TLSv1.3".into()), Some("h2".into()));
    Arc::new(TlsFacts { library: None, version, sni: Some(name.to_owned().into()), alpn })
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
    let flight =
        |service: &str, by_age: [u64; 3]| InFlight { service: service.into(), by_age: by_age.to_vec() };
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

/// A request in flight, so old at the end of [`snapshot`].
fn open(i: u64, age_ms: u64, step: Step) -> OpenRequest {
    let start = START + 300 * SECOND - age_ms * 1_000_000;
    let mut comm = [0; 16];
    comm[..4].copy_from_slice(b"shop");
    let mut tuple =
        abi::Tuple { local_port: 80, remote_port: 40_000, family: abi::FAMILY_INET, ..Default::default() };
    tuple.local[..4].copy_from_slice(&[127, 0, 0, 1]);
    tuple.remote[..4].copy_from_slice(&[10, 0, 0, 7]);
    OpenRequest {
        age_ns: age_ms * 1_000_000,
        step,
        kind: Kind::Request,
        role: Role::Server,
        service: if i.is_multiple_of(2) { "shop".into() } else { "주문서비스".into() },
        pid: 100,
        tid: 101 + i as u32,
        conn: ConnId(i),
        carrier: None,
        ordinal: i,
        method: "GET".into(),
        path: Bytes::from(format!("/item/{i}")),
        target: Some(Bytes::from(format!("/item/{i}?q=1"))),
        namespace: None,
        protocol: "http1",
        start: WallTime(start),
        request_end: (step != Step::Reading).then_some(WallTime(start + age_ms * 100_000)),
        response_start: (step == Step::Sending).then_some(WallTime(start + age_ms * 750_000)),
        queue_ns: Some(age_ms * 200_000),
        status_code: (step == Step::Sending).then_some(200),
        comm,
        bytes: [80, if step == Step::Sending { 4_321 } else { 0 }],
        messages: [None; 2],
        tuple,
        unix_path: Bytes::new(),
        tls: None,
        trace_id: None,
        network: None,
        confidence: Confidence::Complete,
        time_basis: TimeBasis::Exit,
    }
}

fn lossy(at: u64, refused: u64) -> Snapshot {
    let values = vec![
        ("kernel.refused_data".into(), refused),
        ("kernel.payload_fault".into(), 7),
        ("txray.cpu_ns".into(), at * 31_000_000),
        ("gauge.resident_bytes".into(), 80_000_000),
    ];
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
        xlog: SharedXlog::new(DOTS),
        recent: SharedRecent::new(ROWS),
        patterns: SharedPatterns::default(),
        status: SharedStatus::default(),
    };
    fill(&feed, transactions, snapshots);
    feed
}

/// More of both for a feed.
fn fill(feed: &Feed, transactions: Vec<Transaction>, snapshots: &[Snapshot]) {
    let metrics = Metrics::default();
    let watermark =
        transactions.last().map_or(WallTime(0), |transaction| WallTime(transaction.end_time.0 + SECOND / 4));
    let batch = TransactionBatch { transactions, watermark };
    let mut histograms = HistogramSink::new(feed.histograms.clone());
    let mut xlog = XlogSink::new(feed.xlog.clone(), metrics.clone());
    histograms.write(&batch).unwrap();
    RecentSink::new(feed.recent.clone()).write(&batch).unwrap();
    PatternSink::new(feed.patterns.clone(), metrics.clone()).write(&batch).unwrap();
    histograms.advance(watermark).unwrap();
    xlog.write(&batch).unwrap();
    xlog.advance(watermark).unwrap();
    for snapshot in snapshots {
        feed.status.lock().observe(snapshot, &metrics);
    }
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
    screen_after(feed, Rect::new(0, 0, width, height), theme, app, heading, None)
}

/// The screen that follows another.
fn screen_after(
    feed: &Feed,
    area: Rect,
    theme: Theme,
    app: &mut App,
    heading: &Heading,
    before: Option<&Model>,
) -> Screen {
    app.follow(feed);
    let layout = layout(area, app);
    let model = Model::read(feed, heading, app, &layout, before);
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
        screen =
            screen_after(feed, Rect::new(0, 0, size.0, size.1), MANY, app, &heading, Some(&screen.model));
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
