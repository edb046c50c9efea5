//! Every view in every state of the screen, at every size: a golden file for each view and size, and the figures on each screen read
//! back and held against the model.

use tracer_user::{
    report::filter::Filter,
    tui::{Played, statements},
};

use super::{
    connections::{HOSTILE, asked, hostile, made_up, with_conns},
    read_back, *,
};

const SIZES: [(u16, u16); 4] = [(80, 24), (120, 40), (200, 60), (400, 100)];
const WHOM: &str = "the whole host";

fn live() -> Heading {
    Heading { title: format!("live  {WHOM}"), whom: WHOM.to_owned(), ..Heading::default() }
}

/// A view in one of the states of the screen.
struct State<'a> {
    feed: Feed,
    heading: Heading,
    keys: &'a str,
    played: Option<Played>,
}

impl State<'_> {
    fn of(transactions: &[Transaction], snapshots: &[Snapshot]) -> State<'static> {
        let feed = feed(transactions.to_vec(), snapshots);
        State { feed, heading: live(), keys: "", played: None }
    }

    /// Its screen. No protocol of the registry is a database's: what is asked of one is made up.
    fn screen(&self, view: View, (width, height): (u16, u16)) -> Screen {
        let area = Rect::new(0, 0, width, height);
        let mut app = App { view, ..App::default() };
        let mut screen = screen_after(&self.feed, area, MANY, &mut app, &self.heading, None);
        for key in self.keys.chars().map(|c| if c == '\n' { Key::Enter } else { Key::Char(c) }) {
            app.key(key, &screen.model.seen(&app, &screen.layout));
            screen = screen_after(&self.feed, area, MANY, &mut app, &self.heading, Some(&screen.model));
        }
        if view == View::Statements {
            let recent = self.feed.recent.lock();
            let rows: Vec<_> = recent
                .rows(WallTime(0), WallTime(u64::MAX))
                .filter(|row| app.filter.as_ref().is_none_or(|filter: &Filter| filter.matches(row)))
                .collect();
            let last = screen.model.now.0 / SECOND * SECOND;
            let recent = WallTime(last.saturating_sub(30 * SECOND))..WallTime(last);
            screen.model.statements = statements(rows.into_iter(), made_up, recent, app.statement_sort);
        }
        screen.model = screen.model.of(self.played.clone(), self.played.is_some());
        screen.buffer = Buffer::empty(area);
        draw(&mut screen.buffer, &screen.model, &app, MANY);
        screen
    }
}

/// Everything at once: connections, requests in flight, counters.
fn whole(at: u64, refused: u64, denied: u64) -> Snapshot {
    let mut counters = lossy(at, refused);
    counters.open = vec![
        OpenRequest { kind: Kind::LongLived, ..open(0, 500_000, Step::Sending) },
        open(1, 12_000, Step::Waiting),
        open(2, 5_000, Step::Sending),
        open(3, 20, Step::Reading),
    ];
    let mut read = (**counters.counters.as_ref().unwrap()).clone();
    if refused == 0 {
        // Nothing that was left out, either.
        read.values.retain(|(name, _)| !name.starts_with("kernel.payload"));
    }
    read.values.push(("processes.denied".into(), denied));
    Snapshot {
        counters: Some(read.into()),
        open: counters.open,
        lost_requests: counters.lost_requests,
        wall: counters.wall,
        ..with_conns(30, 4_321)
    }
}

fn of_a_view(view: View) -> Vec<Transaction> {
    match view {
        View::Statements => asked("주문서비스", "UPDATE 주문 SET x = ?"),
        View::Stacks => stacks::with_stacks("cart::lock", "shop"),
        _ => busy(),
    }
}

fn hostile_rows(view: View) -> Vec<Transaction> {
    match view {
        View::Statements => asked(HOSTILE, "SELECT '\u{1b}[2J\u{202e}주문'"),
        View::Stacks => stacks::with_stacks(&format!("주문::{HOSTILE}"), HOSTILE),
        _ => busy()
            .into_iter()
            .enumerate()
            .map(|(i, row)| match i % 3 {
                0 => Transaction { service: HOSTILE.into(), ..row },
                1 => Transaction {
                    operation: format!("GET /{HOSTILE}").into(),
                    service: "결제서비스-운영-서울-첫번째".into(),
                    client_addr: HOSTILE.into(),
                    ..row
                },
                _ => row,
            })
            .collect(),
    }
}

fn states(view: View) -> Vec<(&'static str, State<'static>)> {
    let rows = of_a_view(view);
    let normal = || State::of(&rows, &[whole(150, 0, 0), whole(299, 0, 0)]);
    let missing = vec![
        ("queue times".to_owned(), "the kernel has no tracepoint tcp_probe".to_owned()),
        (format!("주문 {HOSTILE}"), format!("파일이 없다 {HOSTILE}")),
    ];
    let loading = Snapshot { wall: WallTime(START), watermark: WallTime(START), ..Snapshot::default() };
    let mut hostile = hostile();
    hostile.open =
        vec![OpenRequest { path: Bytes::from_static(b"/\x1b[2J\xff"), ..open(1, 1, Step::Waiting) }];
    hostile.in_flight[0].service = HOSTILE.into();
    hostile.counters =
        Some(Counters { time: BootTime(1), values: vec![(HOSTILE.into(), 5), ("주문".into(), 7)] }.into());
    let none = State::of(&[], &[whole(150, 0, 0), whole(299, 0, 0)]);
    none.feed.status.lock().filtered = 1_204;
    let ended = normal();
    ended.feed.status.finished();
    let played = Played {
        generation: 1,
        at: WallTime(START + 300 * SECOND),
        from: WallTime(START + 60 * SECOND),
        bounds: (WallTime(START), WallTime(START + 400 * SECOND)),
        ..Played::default()
    };
    vec![
        ("loading", State::of(&[], &[loading])),
        ("normal", normal()),
        ("empty under a filter that was typed", State { keys: "/duration > 1h\n", ..normal() }),
        (
            "empty under the run's filter",
            State { heading: Heading { filter: Some("service = '주문'".to_owned()), ..live() }, ..none },
        ),
        (
            "no permission",
            State {
                heading: Heading { lacks: vec!["CAP_SYS_PTRACE".to_owned()], ..live() },
                ..State::of(&rows, &[whole(150, 0, 0), whole(299, 0, 1_012)])
            },
        ),
        ("degraded", State { heading: Heading { missing: missing.clone(), ..live() }, ..normal() }),
        ("lossy", State::of(&rows, &[whole(150, 0, 0), whole(160, 1_234, 0)])),
        (
            "degraded, without permission and lossy",
            State {
                heading: Heading { missing, ..live() },
                ..State::of(&rows, &[whole(150, 0, 1), whole(160, 1_234, 1)])
            },
        ),
        ("paused", State { keys: " ", ..normal() }),
        (
            "replay",
            State {
                heading: Heading { title: "replay  rec".to_owned(), replay: true, ..Heading::default() },
                played: Some(played),
                ..normal()
            },
        ),
        ("finished", ended),
        (
            "hostile",
            State {
                heading: Heading {
                    title: HOSTILE.to_owned(),
                    whom: HOSTILE.to_owned(),
                    ..Heading::default()
                },
                ..State::of(&hostile_rows(view), &[hostile])
            },
        ),
    ]
}

fn assert_safe(screen: &Screen, what: &str) {
    for cell in &screen.buffer.content {
        let bad = |c: char| c.is_control() || "\u{202e}\u{200b}\u{feff}".contains(c);
        assert!(!cell.symbol().chars().any(bad), "{what}: {:?}", cell.symbol());
    }
}

/// One golden file a size, with the view in each of the states; what is on each screen is what is in its model.
fn check(view: View) {
    let states = states(view);
    for (width, height) in SIZES {
        let mut text = String::new();
        for (name, state) in &states {
            let screen = state.screen(view, (width, height));
            let what = format!("{} {name} {width}x{height}", view.name());
            assert_safe(&screen, &what);
            read_back::check(&screen, &what);
            check_state(name, &screen, &what);
            text.push_str(&format!("──── {name}\n{}\n", screen.text()));
        }
        let small = states[1].1.screen(view, (59, 14));
        text.push_str(&format!("──── too small\n{}\n", small.text()));
        let name = view.name().to_lowercase();
        insta::assert_snapshot!(format!("{name}_{width}x{height}"), text);
    }
}

/// What each state must say, in every view.
fn check_state(name: &str, screen: &Screen, what: &str) {
    let (text, view) = (screen.text(), screen.app.view);
    let lines = screen.lines();
    let says = |words: &str| assert!(text.contains(words), "{what} does not say {words:?}:\n{text}");
    match name {
        "loading" => says("waiting for the first transaction of the whole host"),
        "empty under a filter that was typed" => match view {
            View::Active | View::Connections | View::Patterns => says("filter not applied"),
            View::Health => says(" 0 of "),
            _ => says(&format!(
                "matched duration > 1h; {} seen",
                if view == View::Statements { "1,000" } else { "1,200" }
            )),
        },
        "empty under the run's filter" => {
            says(" 0 of 1,204 match");
            if !matches!(view, View::Active | View::Connections | View::Health) {
                says("no transaction matched service = '주문'; 1,204 seen");
            }
        }
        "no permission" => {
            assert!(
                lines[2].contains(" not looked into 1,012")
                    || lines[2]
                        .contains(" 1,012 processes could not be looked into: CAP_SYS_PTRACE is missing"),
                "{text}"
            );
            if view == View::Health {
                says("1,012 processes could not be looked into: CAP_SYS_PTRACE is missing");
            }
        }
        "degraded" => {
            assert!(lines[2].contains(" degraded"), "{text}");
            if view == View::Health {
                says("without queue times: the kernel has no tracepoint tcp_probe");
                says("파일이 없다");
            }
        }
        "degraded, without permission and lossy" => {
            assert!(lines[2].contains("degraded") && lines[2].contains("looked into"), "{text}");
            assert!(lines[2].starts_with("LOST "), "{text}");
            if view == View::Health {
                says("1 process could not be looked into: the system refused");
            }
        }
        "lossy" => assert!(lines[2].starts_with("LOST refused_data 1,234"), "{text}"),
        "paused" => assert!(lines[0].contains(" PAUSED +0"), "{text}"),
        "replay" => {
            assert!(lines[0].contains(" REPLAY max") && lines[0].contains("since 22:14:20"), "{text}")
        }
        "finished" => assert!(lines[0].ends_with(" END"), "{text}"),
        _ => assert!(lines[0].contains(" LIVE"), "{text}"),
    }
}

#[test]
fn the_overview_in_every_state() {
    check(View::Overview);
}

#[test]
fn the_xlog_in_every_state() {
    check(View::Xlog);
}

#[test]
fn requests_in_flight_in_every_state() {
    check(View::Active);
}

#[test]
fn operations_in_every_state() {
    check(View::Operations);
}

#[test]
fn services_in_every_state() {
    check(View::Services);
}

#[test]
fn statements_in_every_state() {
    check(View::Statements);
}

#[test]
fn stacks_in_every_state() {
    check(View::Stacks);
}

#[test]
fn connections_in_every_state() {
    check(View::Connections);
}

#[test]
fn health_in_every_state() {
    check(View::Health);
}

#[test]
fn patterns_in_every_state() {
    check(View::Patterns);
}
