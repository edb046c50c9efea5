//! Each view, and what is opened above it.

use super::*;

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
        // Below, a bar for each column that has dots, and the rate of the busiest: counted by hand.
        let chart = screen.chart();
        let column_ns = chart.geometry.column_ns();
        let mut by_column = vec![0_u64; usize::from(chart.area.width)];
        for served in busy().iter().filter(|t| t.role == Role::Server) {
            by_column[((served.end_time.0 - chart.geometry.start.0) / column_ns) as usize] += 1;
        }
        let most = by_column.iter().max().unwrap();
        let y = screen.layout.chart.bottom();
        let rate = format!("{}/s", tracer_user::report::format::rate(*most, column_ns));
        assert_eq!(screen.lines()[usize::from(y)].split_whitespace().next(), Some(rate.as_str()));
        let levels = [" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"];
        for (x, n) in (screen.layout.chart.x..).zip(&by_column) {
            assert_eq!(screen.buffer[(x, y)].symbol(), levels[(n * 8).div_ceil(*most) as usize], "{n}");
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
pub(super) fn select_columns(screen: &Screen, a: u16, b: u16) -> Vec<Key> {
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
        tls: Some(tls("shop\u{1b}[2J.example")),
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
fn the_heads_of_a_transaction_stand_below_its_waterfall_without_their_secrets() {
    use tracer_user::{
        source::heads::{Head, Heads},
        tui::ShownHeads,
    };
    let shown = |heads: ShownHeads, width: u16| {
        let feed = feed(vec![transaction(0)], &[snapshot()]);
        let mut app = App { detail: Some(transaction(0).into()), ..App::default() };
        let heading = Heading::default();
        let area = Rect::new(0, 0, width, 60);
        let mut screen = screen_after(&feed, area, MANY, &mut app, &heading, None);
        screen.model = screen.model.with_heads(heads);
        screen.buffer = Buffer::empty(area);
        draw(&mut screen.buffer, &screen.model, &app, MANY);
        screen.text()
    };
    let request = "GET http://u:s3cret@h/item/1?sig=s3cret HTTP/1.1\r\nAuthorization: s3cret\r\nX: \u{1b}[2J주문\r\n\r\n";
    let response = format!("HTTP/1.1 200 OK\r\nSet-Cookie: s3cret\r\nServer: {}", "#".repeat(200));
    let heads = Heads { request: Head::Whole(request.into()), response: Head::Cut(response.into()) };
    for width in [80, 120] {
        let text = shown(ShownHeads::Known(heads.clone().into()), width);
        for line in [
            "request head",
            "  GET http://REDACTED:REDACTED@h/item/1?sig=REDACTED HTTP/1.1",
            "  Authorization: REDACTED",
            "  X: \\u{1b}[2J주문",
            "response head  cut: the rest was not captured, or is too long",
            "  HTTP/1.1 200 OK",
            "  Set-Cookie: REDACTED",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line:?} is not in\n{text}");
        }
        assert!(!text.contains("s3cret"), "{text}");
        assert_eq!(text.matches('#').count(), 200, "a long line goes on in the next: {text}");
    }
    let none = shown(ShownHeads::Known(Heads::default().into()), 80);
    assert!(none.contains("request head  the recording does not hold it"), "{none}");
    assert!(shown(ShownHeads::Loading, 80).contains("request head, response head: …"));
    assert!(shown(ShownHeads::NoRecording, 80).contains("txray record --out DIR"));
    assert!(shown(ShownHeads::NotText, 80).contains("is not shown: there are values in it"));
    assert!(shown(ShownHeads::Failed("\u{1b}gone".to_owned()), 80).contains("no heads: \\u{1b}gone"));
}

#[test]
fn what_a_transaction_did_is_told_line_by_line_when_it_is_asked_for() {
    use tracer_user::{
        report::profile::Row,
        tui::{ShownProfile, Steps},
    };
    let one = Transaction { queue_ns: Some(20_000_000), duration_ns: 80_000_000, ..transaction(0) };
    let feed = feed(vec![one.clone()], &[snapshot()]);
    let mut app = App { detail: Some(one.into()), ..App::default() };
    let heading = Heading::default();
    let area = Rect::new(0, 0, 100, 60);
    let mut screen = screen_after(&feed, area, MANY, &mut app, &heading, None);
    let seen = screen.model.seen(&app, &screen.layout);
    let n_rows = seen.n_rows;
    assert!(!screen.text().contains("one thing after the other"));
    app.key(Key::Char('p'), &seen);
    assert!(app.profile_of.is_some(), "the key asks for it");
    let row = |at_ms: u64, ms: u64, cpu_ms: u64, what: &str| Row {
        at_ns: at_ms * 1_000_000,
        ns: ms * 1_000_000,
        cpu_ns: cpu_ms * 1_000_000,
        what: what.to_owned(),
        n: 1,
    };
    let rows = vec![
        row(0, 20, 0, "waiting in the socket until the process reads it"),
        row(20, 0, 0, "has read 120 bytes"),
        row(20, 9, 9, "on a CPU"),
        row(29, 71, 0, "waiting for a lock (0x7f10)"),
        row(100, 0, 0, "has answered"),
    ];
    for (profile, told) in [
        (ShownProfile::Loading, "what it did, one thing after the other: …"),
        (ShownProfile::NoRecording, "is in a recording: txray record --out DIR"),
        (ShownProfile::InFlight, "what it did is told when it has ended"),
        (ShownProfile::Failed("\u{1b}gone".to_owned()), "not known what it did: \\u{1b}gone"),
        (
            ShownProfile::Known(Steps { rows: rows.clone(), is_whole: false }.into()),
            "what it did, one thing after the other  not all of it was seen again",
        ),
        (
            ShownProfile::Known(Steps { rows, is_whole: true }.into()),
            "what it did, one thing after the other",
        ),
    ] {
        screen.model = screen.model.with_profile(profile);
        screen.buffer = Buffer::empty(area);
        draw(&mut screen.buffer, &screen.model, &app, MANY);
        let text = screen.text();
        assert!(text.lines().any(|line| line.contains(told)), "{told:?} is not in\n{text}");
    }
    let text = screen.text();
    let begun = text.lines().position(|line| line == "what it did, one thing after the other").unwrap();
    let lines: Vec<&str> = text.lines().skip(begun + 1).take(6).collect();
    let ends: Vec<&str> = lines.iter().map(|line| line.get(21..).unwrap_or_default()).collect();
    assert_eq!(
        ends,
        [
            "    T-GAP       CPU  CONTENTS",
            "   20.0ms            waiting in the socket until the process reads it",
            "                     has read 120 bytes",
            "   9.00ms    9.00ms  on a CPU",
            "   71.0ms            waiting for a lock (0x7f10)",
            "                     has answered",
        ],
        "{text}"
    );
    let seen = screen.model.seen(&app, &screen.layout);
    assert!(seen.n_rows >= n_rows + 7, "as far as it can be scrolled");
    app.key(Key::Char('p'), &seen);
    assert!(app.profile_of.is_none(), "and closes it");
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
    let idle =
        Snapshot { open: Vec::new(), n_open: 0, n_long_lived: 0, in_flight: Vec::new(), ..super::snapshot() };
    let screen = press(&super::feed(busy(), &[idle]), (80, 24), &mut App::default(), &typed("3"));
    assert!(screen.text().contains("nothing is in flight"));
}

#[test]
fn a_filter_that_is_typed_narrows_dots_table_and_list_to_what_matches() {
    use tracer_user::report::filter::{Filter, Thresholds};
    let feed = feed(busy(), &[snapshot()]);
    for expression in
        ["duration > 300ms and not err", "operation ~ 'POST /**'", "status_code = 200 or err", "slow"]
    {
        let filter = Filter::parse(expression, Thresholds::default()).unwrap();
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

#[test]
fn services_and_who_calls_whom_with_the_figures_of_each_edge() {
    // A shop that is asked by two remote clients, and asks the order service and a database that is not traced.
    let transactions: Vec<Transaction> = (0..900_u64)
        .map(|i| {
            let base = Transaction {
                end_time: WallTime(START + 200 * SECOND + i * SECOND / 9),
                duration_ns: 1_000_000 + i as i64 * 1_000,
                seq: i,
                ..transaction(0)
            };
            let port = Some(41_000 + (i % 3) as u16);
            match i % 5 {
                0 => Transaction { client_addr: "10.1.1.1".into(), ..base },
                1 => Transaction { client_addr: "10.1.1.2".into(), error: i % 2 == 0, ..base },
                2 => Transaction { role: Role::Client, client_port: port, server_port: Some(81), ..base },
                3 => Transaction {
                    service: "주문서비스".into(),
                    client_port: Some(41_000 + ((i - 1) % 3) as u16),
                    server_port: Some(81),
                    ..base
                },
                _ => Transaction {
                    role: Role::Client,
                    service: "주문서비스".into(),
                    server_addr: "fd00::5".into(),
                    server_port: Some(5432),
                    ..base
                },
            }
        })
        .collect();
    let feed = feed(transactions, &[snapshot()]);
    for (width, height) in [(80, 24), (120, 40), (200, 60), (400, 100)] {
        let screen = press(&feed, (width, height), &mut App::default(), &typed("5"));
        insta::assert_snapshot!(format!("services_{width}x{height}"), screen.text());
        for (edge, errors) in [
            ("shop → 주문서비스  http1", "0"),
            ("주문서비스 → [fd00::5]:5432  http1", "0"),
            ("10.1.1.1 → shop  http1", "0"),
            ("10.1.1.2 → shop  http1", "90"),
        ] {
            let line = screen.lines().into_iter().find(|line| line.starts_with(edge));
            let line = line.unwrap_or_else(|| panic!("{edge} is not on the screen:\n{}", screen.text()));
            let figures: Vec<&str> = line[edge.len()..].split_whitespace().collect();
            assert_eq!(&figures[..3], ["1.8", errors, "180"], "{line}");
        }
    }
    assert_eq!(press(&feed, (80, 24), &mut App::default(), &typed("5")).model.edges.len(), 4);
    let empty = press(&super::feed(Vec::new(), &[]), (80, 24), &mut App::default(), &typed("5"));
    assert!(empty.text().contains("waiting for the first transaction"));
}

#[test]
fn what_is_selected_is_compared_with_the_others_field_by_field() {
    let feed = feed(busy(), &[snapshot()]);
    let mut app = App::default();
    let xlog = press(&feed, (120, 40), &mut app, &typed("2"));
    // The slow ones: the upper part of the chart, all columns.
    let area = xlog.layout.chart;
    let corner = area.height / 4;
    let rectangle = xlog.chart().geometry.rectangle((0, 0), (area.width - 1, corner));
    let mut keys = select_columns(&xlog, 0, area.width - 1);
    keys.extend(std::iter::repeat_n(Key::Up, usize::from(area.height - 1 - corner)));
    keys.extend([Key::Enter, Key::Char('b')]);
    let compared = press(&feed, (120, 40), &mut app, &keys);
    insta::assert_snapshot!("contrast_120x40", compared.text());
    let (totals, contrasts) = compared.model.contrast.as_ref().unwrap();
    let served: Vec<Transaction> = busy().into_iter().filter(|t| t.role == Role::Server).collect();
    let (selected, rest): (Vec<_>, Vec<_>) =
        served.iter().partition(|t| rectangle.contains(t.role, t.end_time, t.duration_ns as u64));
    assert_eq!((totals.selected, totals.rest), (selected.len() as u64, rest.len() as u64));
    assert!(totals.selected > 10);
    for contrast in contrasts.iter().filter(|contrast| contrast.field == "service") {
        let n = |rows: &[&Transaction]| rows.iter().filter(|t| *t.service == *contrast.value).count() as u64;
        assert_eq!((contrast.selected, contrast.rest), (n(&selected), n(&rest)), "{contrast:?}");
    }
    assert_eq!(contrasts[0].field, "service", "the slow ones are of one service");
    let back = press(&feed, (120, 40), &mut app, &[Key::Escape]);
    assert!(back.model.list.is_some() && back.model.contrast.is_none());
}

#[test]
fn a_frozen_screen_stays_what_it_was_while_more_comes() {
    let mut app = App::default();
    for view in ["1", "2", "3", "4", "5", "6", "7", "8"] {
        let feed = feed(busy(), &[lossy(150, 5), lossy(151, 9)]);
        app = App { paused: None, ..app };
        let frozen = press(&feed, (120, 40), &mut app, &[typed(view), typed(" ")].concat());
        // More of everything, also in the last column.
        let more: Vec<Transaction> = (0..50_u64)
            .map(|i| Transaction {
                end_time: WallTime(START + 301 * SECOND + i * SECOND / 20),
                operation: "GET /later".into(),
                seq: 5_000 + i,
                ..transaction(0)
            })
            .collect();
        let mut later = lossy(153, 90_000);
        later.open = vec![open(1, 5_000, Step::Waiting)];
        fill(&feed, more, &[later]);
        let heading = Heading { title: "live  whole host".to_owned(), ..Heading::default() };
        let area = Rect::new(0, 0, 120, 40);
        let after = screen_after(&feed, area, MANY, &mut app, &heading, Some(&frozen.model));
        let without_badge = |screen: &Screen| screen.text().replace("PAUSED +50", "PAUSED +0 ");
        assert!(after.lines()[0].contains("PAUSED +50"), "{}", after.text());
        assert_eq!(
            without_badge(&after).split_whitespace().collect::<Vec<_>>(),
            without_badge(&frozen).split_whitespace().collect::<Vec<_>>(),
            "view {view}"
        );
        // What is typed then looks at what was there, too.
        let keys = [typed("/"), typed("operation = 'GET /later'"), vec![Key::Enter]].concat();
        let mut narrowed = app.clone();
        let mut screen = after;
        for key in keys {
            narrowed.key(key, &screen.model.seen(&narrowed, &screen.layout));
            screen = screen_after(&feed, area, MANY, &mut narrowed, &heading, Some(&screen.model));
        }
        assert_eq!(
            screen.model.narrowed.as_ref().map(|narrowed| (narrowed.n, narrowed.of)),
            Some((0, 1_200))
        );
        app.paused = None;
        let live = screen_after(&feed, area, MANY, &mut app, &heading, Some(&screen.model));
        assert_eq!(live.model.count, 1_250);
    }
}

#[test]
fn a_list_counts_what_fell_out_of_the_ring_as_the_chart_does() {
    let transactions: Vec<Transaction> = (0..DOTS as u64 + 20_000)
        .map(|i| Transaction {
            end_time: WallTime(START + 100 * SECOND + i * 1_000_000),
            seq: i,
            ordinal: i,
            ..transaction(0)
        })
        .collect();
    let n = transactions.len() as u64;
    let feed = feed(transactions, &[snapshot()]);
    let mut app = App::default();
    let xlog = press(&feed, (120, 40), &mut app, &typed("2"));
    assert_eq!(xlog.chart().n, n);
    let keys = select_columns(&xlog, 0, xlog.layout.chart.width - 1);
    let list = press(&feed, (120, 40), &mut app, &[keys, vec![Key::Enter]].concat());
    let listed = list.model.list.as_ref().unwrap();
    assert_eq!((listed.n, listed.rows.len()), (n, ROWS));
    let older = tracer_user::report::format::count(n - ROWS as u64);
    assert!(list.lines()[3].contains(&format!("{older} of them are older")), "{}", list.lines()[3]);
}

#[test]
fn the_edges_are_walked_with_the_arrows() {
    let mut transactions = busy();
    for (i, transaction) in transactions.iter_mut().enumerate() {
        transaction.client_addr = format!("10.0.0.{}", i % 9).into();
    }
    let feed = feed(transactions, &[snapshot()]);
    let mut app = App::default();
    let screen = press(&feed, (80, 24), &mut app, &[typed("5"), vec![Key::Down, Key::Down]].concat());
    assert_eq!(app.edges.selected, 2);
    let last = press(&feed, (80, 24), &mut app, &[Key::End]);
    assert_eq!(app.edges.selected, screen.model.edges.len() - 1);
    let reversed = |y: u16| last.buffer[(0, y)].modifier.contains(Modifier::REVERSED);
    assert_eq!((2..23).filter(|&y| reversed(y)).count(), 1, "{}", last.text());
}

#[test]
fn the_end_of_what_is_typed_is_seen_however_wide_it_is() {
    let feed = feed(busy(), &[snapshot()]);
    let text = format!("service = '{}' or comm = 'end'", "주문서비스".repeat(12));
    let screen = press(&feed, (80, 24), &mut App::default(), &[typed("/"), typed(&text)].concat());
    assert!(screen.lines()[23].contains("or comm = 'end'_"), "{}", screen.lines()[23]);
}

#[test]
fn calls_of_functions_stand_as_a_tree_below_their_request_and_a_call_says_what_it_was_given() {
    use std::sync::Arc;
    use tracer_user::{
        event::StackEnd,
        transaction::{Call, CallId, CallStack, End, Kind},
    };
    let request = transaction(0);
    let root = CallId { conn: request.conn, ordinal: request.ordinal };
    let of = |number| CallId::of_call(request.pid, request.tid, number);
    let call = |seq: u64, number, parent, [from, to, own]: [u64; 3], name: &str, end| Transaction {
        kind: Kind::Function,
        role: Role::Unknown,
        protocol: "",
        operation: name.into(),
        target: None,
        status_code: None,
        start_time: WallTime(request.start_time.0 + from),
        end_time: WallTime(request.start_time.0 + to),
        request_end: None,
        response_start: None,
        duration_ns: (to - from) as i64,
        call: Some(Arc::new(Call {
            function: format!("/bin/app:{name}").into(),
            arguments: "[7,\"a\\u001b\"]".into(),
            returned: (end == End::Answered).then(|| "-1".into()),
            parent: Some(parent),
            root: Some(root),
            self_ns: own,
            stack: (name == "handle").then(|| CallStack {
                frames: "[\"shop\\u001b::serve(int)+0x2a (app)\",\"+0x1f0c (libc.so.6)\"]".into(),
                end: StackEnd::UnknownCaller,
            }),
        })),
        end,
        conn: of(0).conn,
        ordinal: number,
        seq,
        ..request.clone()
    };
    let rows = vec![
        request.clone(),
        call(1, 2, of(1), [200_000, 300_000, 100_000], "price", End::Answered),
        call(2, 3, of(1), [310_000, 320_000, 10_000], "check", End::Unwound),
        call(3, 1, root, [100_000, 400_000, 190_000], "handle", End::Answered),
    ];
    let feed = feed(rows.clone(), &[snapshot()]);
    let shown = |row: &Transaction| {
        let mut app = App { detail: Some(row.clone().into()), ..App::default() };
        press(&feed, (120, 50), &mut app, &[]).text()
    };
    let text = shown(&request);
    insta::assert_snapshot!("call_tree_120x50", text);
    assert!(!text.contains('\u{1b}'));
    insta::assert_snapshot!("call_detail_120x50", shown(&rows[3]));
}
