//! What the XLog shows upwards, what it is narrowed to, and local calls in lists: against a scan of all transactions.

use tracer_user::tui::{Axis, Only};

use super::*;

/// As [`busy`], with all parts of the time and sizes, some of them not known.
fn timed() -> Vec<Transaction> {
    let mut transactions = busy();
    for (i, transaction) in transactions.iter_mut().enumerate() {
        let (i, end) = (i as u64, transaction.end_time.0);
        let sending = i * 7_919 % 1_000 * 300_000;
        transaction.response_start = (i % 7 != 0).then_some(WallTime(end - sending));
        transaction.ttfb_ns = (i % 5 != 0).then_some(i * 104_729 % 1_000 * 20_000_000);
        transaction.queue_ns = (i % 3 == 0).then_some(i % 50 * 1_000_000);
        transaction.request_bytes = 80 + i % 100;
        transaction.response_bytes = if i % 7 == 0 { 0 } else { 1 << (i % 26) };
        transaction.kind = if i % 40 == 3 { Kind::LongLived } else { Kind::Request };
    }
    transactions
}

fn is_served(transaction: &Transaction) -> bool {
    transaction.role != Role::Client
}

/// Keys to an axis from the first.
fn keys_to(axis: Axis) -> Vec<Key> {
    vec![Key::Char('Y'); axis as usize]
}

#[test]
fn each_axis_shows_its_values_and_counts_the_transactions_without() {
    let feed = feed(timed(), &[snapshot()]);
    for axis in Axis::ALL {
        let keys = [typed("2"), keys_to(axis)].concat();
        let screen = press(&feed, (120, 40), &mut App::default(), &keys);
        let own = || timed().into_iter().filter(is_served);
        let values: Vec<u64> = own().filter_map(|t| axis.value(&t)).collect();
        let chart = screen.chart();
        assert_eq!(
            (chart.n, chart.n_without),
            (values.len() as u64, own().count() as u64 - chart.n),
            "{axis:?}"
        );
        let top = axis.first_top();
        assert_eq!(chart.n_clamped, values.iter().filter(|value| **value >= top).count() as u64);
        let title = &screen.lines()[3];
        assert!(title.starts_with(&format!("XLog {}  5 min", axis.name())), "{title}");
        if chart.n_without != 0 {
            assert_eq!(screen.number_before(title, " without"), chart.n_without, "{title}");
        }
        assert!(screen.lines()[4].trim_start().starts_with(&axis.text(top)), "{}", screen.lines()[4]);
        let badge = format!(" Y: {}", axis.name());
        assert_eq!(screen.lines()[1].contains(&badge), axis != Axis::Elapsed, "{}", screen.lines()[1]);
    }
    let bytes = [typed("2"), keys_to(Axis::ResponseBytes)].concat();
    for (width, height) in [(80, 24), (120, 40), (200, 60), (400, 100)] {
        let screen = press(&feed, (width, height), &mut App::default(), &bytes);
        insta::assert_snapshot!(format!("response_bytes_{width}x{height}"), screen.text());
    }
}

#[test]
fn any_rectangle_of_any_axis_holds_exactly_the_dots_that_are_drawn_in_it() {
    let feed = feed(timed(), &[snapshot()]);
    for axis in Axis::ALL {
        for (size, more) in [((80, 24), ""), ((120, 40), "l"), ((61, 17), "c"), ((200, 60), "ccl")] {
            let keys = [typed("2"), keys_to(axis), typed(more)].concat();
            let screen = press(&feed, size, &mut App::default(), &keys);
            let chart = screen.chart();
            let (width, height) = (chart.area.width, chart.area.height);
            for (a, b) in
                [((0, 0), (width - 1, height - 1)), ((3, 0), (9, 0)), ((width / 2, 2), (5, height - 1))]
            {
                let rectangle = chart.geometry.rectangle(a, b);
                let drawn: u64 = (0..chart.cells.len())
                    .filter(|&i| rectangle.has(i as u16 % width, i as u16 / width))
                    .map(|i| chart.cells[i].count)
                    .sum();
                let inside = timed().iter().filter(|t| rectangle.holds(t)).count() as u64;
                assert_eq!(inside, drawn, "{axis:?} {size:?} {a:?} {b:?}");
            }
        }
    }
}

#[test]
fn a_rectangle_of_an_axis_is_listed_with_those_above_the_top_and_a_zoom_keeps_the_axis() {
    let feed = feed(timed(), &[snapshot()]);
    for axis in [Axis::Ttfb, Axis::ResponseBytes] {
        let mut app = App::default();
        let xlog = press(&feed, (120, 40), &mut app, &[typed("2"), keys_to(axis)].concat());
        let width = xlog.layout.chart.width;
        // The first row alone: what lies at the top or above.
        let row = [vec![Key::Char('v')], vec![Key::Left; 120], vec![Key::Up; 40], typed("v")].concat();
        let row = [row, vec![Key::Right; usize::from(width)]].concat();
        let list = press(&feed, (120, 40), &mut app, &[row, vec![Key::Enter]].concat());
        let rectangle = app.selection.unwrap();
        let mut by_hand: Vec<Transaction> = timed()
            .into_iter()
            .filter(|t| is_served(t) && axis.value(t).is_some_and(|value| value >= rectangle.bottom_ns()))
            .collect();
        assert!(by_hand.iter().any(|t| axis.value(t).unwrap() > axis.first_top()), "some lie above the top");
        by_hand.sort_by_key(|t| std::cmp::Reverse(t.duration_ns));
        let listed = list.model.list.as_ref().unwrap();
        let seqs: Vec<u64> = by_hand.iter().map(|t| t.seq).collect();
        assert_eq!(listed.rows.iter().map(|row| row.seq).collect::<Vec<_>>(), seqs, "{axis:?}");
        let title = &list.lines()[3];
        assert_eq!(list.number_before(title, " transactions"), seqs.len() as u64);
        assert!(title.ends_with(&format!(" and more, {}", axis.name())), "{title}");
        let zoomed = press(&feed, (120, 40), &mut app, &[Key::Escape, Key::Char('z')]);
        assert_eq!((zoomed.app.axis, zoomed.chart().area.axis, zoomed.app.is_zoomed()), (axis, axis, true));
    }
}

#[test]
fn what_is_older_than_the_rows_kept_is_counted_as_such() {
    let n_older = 700;
    let transactions: Vec<Transaction> = (0..ROWS as u64 + n_older)
        .map(|i| Transaction {
            end_time: WallTime(START + 200 * SECOND + i * 1_000_000),
            role: if i % 10 == 0 { Role::Client } else { Role::Server },
            ttfb_ns: Some(5_000_000),
            seq: i,
            ordinal: i,
            ..transaction(0)
        })
        .collect();
    let feed = feed(transactions, &[snapshot()]);
    let keys = [typed("2"), keys_to(Axis::Ttfb)].concat();
    let screen = press(&feed, (120, 40), &mut App::default(), &keys);
    let title = &screen.lines()[3];
    assert!(title.contains("  older 630 not kept"), "{title}");
    // A ring that holds less than the rows: what fell out of it has its values all the same.
    let small = Feed { xlog: SharedXlog::new(100), recent: SharedRecent::new(ROWS), ..feed };
    let few = (0..5_000).map(|i| Transaction {
        end_time: WallTime(START + 200 * SECOND + i * 1_000_000),
        ttfb_ns: Some(5_000_000),
        seq: i,
        ordinal: i,
        ..transaction(0)
    });
    fill(&small, few.collect(), &[]);
    let screen = press(&small, (120, 40), &mut App::default(), &keys);
    assert_eq!((screen.chart().n, screen.chart().n_older), (5_000, 0));
}

#[test]
fn errors_and_long_lived_ones_are_toggled_together_with_the_filter() {
    let feed = feed(timed(), &[snapshot()]);
    for (keys, only) in [
        ("E", Only { errors: true, long_lived: false }),
        ("A", Only { errors: false, long_lived: true }),
        ("EA", Only { errors: true, long_lived: true }),
        ("EE", Only::default()),
    ] {
        for filter in ["", "duration > 50ms"] {
            let wants = |t: &Transaction| {
                (!only.errors || t.error)
                    && (!only.long_lived || t.kind == Kind::LongLived)
                    && (filter.is_empty() || t.duration_ns > 50_000_000)
            };
            let typed_filter = if filter.is_empty() {
                vec![]
            } else {
                [typed("/"), typed(filter), vec![Key::Enter]].concat()
            };
            let mut app = App::default();
            let screen = press(&feed, (200, 60), &mut app, &[typed(keys), typed_filter].concat());
            let n = timed().iter().filter(|t| wants(t)).count() as u64;
            let line = &screen.lines()[1];
            if only == Only::default() && filter.is_empty() {
                assert!(!line.contains("match"), "{line}");
            } else {
                assert_eq!(screen.number_before(line, " of 1,200 match"), n, "{line}");
                assert_eq!(line.contains("only errors"), only.errors, "{line}");
                assert_eq!(line.contains("only long-lived"), only.long_lived, "{line}");
                assert!(line.contains(filter), "{line}");
            }
            let served = timed().iter().filter(|t| is_served(t) && wants(t)).count() as u64;
            assert_eq!(screen.chart().n, served, "{keys} {filter}");
            assert_eq!(screen.model.rows.iter().map(|row| row.count).sum::<u64>(), n);
            press(&feed, (200, 60), &mut app, &[Key::Escape]);
            assert!(!app.is_narrowed(), "Esc shows all again");
        }
    }
    let only_errors = press(&feed, (80, 24), &mut App::default(), &typed("E"));
    insta::assert_snapshot!("only_errors_80x24", only_errors.text());
}

/// Calls from a shop to an order service on the same host, seen from both ends, and what others ask the shop.
fn calls() -> Vec<Transaction> {
    (0..300_u64)
        .map(|i| {
            let start = START + 100 * SECOND + i / 3 * SECOND;
            let at = |us: u64| WallTime(start + us * 1_000);
            let base = Transaction {
                start_time: at(0),
                end_time: at(900 + i),
                duration_ns: (900 + i as i64) * 1_000,
                seq: i,
                ordinal: i / 3,
                conn: ConnId(1 + i % 3),
                ..transaction(0)
            };
            let call = Transaction { client_port: Some(41_000), server_port: Some(81), ..base.clone() };
            match i % 3 {
                0 => Transaction { client_addr: "10.1.1.1".into(), ..base },
                1 => Transaction {
                    role: Role::Client,
                    operation: "POST /order/{id}".into(),
                    target: Some(Bytes::from(format!("/order/{}", i / 3))),
                    ..call
                },
                _ => Transaction {
                    service: "주문서비스".into(),
                    operation: "POST /order/{id}".into(),
                    target: Some(Bytes::from(format!("/order/{}", i / 3))),
                    start_time: at(100),
                    end_time: at(800),
                    duration_ns: 700_000,
                    ..call
                },
            }
        })
        .collect()
}

#[test]
fn both_ends_of_a_local_call_are_one_line_of_a_list_that_opens_to_two() {
    // In the order in which they leave the pipeline.
    let mut transactions = calls();
    transactions.sort_by_key(|t| t.end_time);
    for (seq, transaction) in transactions.iter_mut().enumerate() {
        transaction.seq = seq as u64;
    }
    let feed = feed(transactions, &[snapshot()]);
    let mut app = App::default();
    let xlog = press(&feed, (120, 40), &mut app, &typed("2cc"));
    let width = usize::from(xlog.layout.chart.width);
    let all = [vec![Key::Char('v')], vec![Key::Left; 120], vec![Key::Up; 40], typed("v")].concat();
    let all = [all, vec![Key::Right; width], vec![Key::Down; 40], vec![Key::Enter]].concat();
    let list = press(&feed, (120, 40), &mut app, &all);
    insta::assert_snapshot!("calls_120x40", list.text());
    let listed = list.model.list.as_ref().unwrap();
    assert_eq!((listed.rows.len(), listed.lines.len(), listed.n_calls), (300, 200, 100));
    assert!(list.lines()[3].starts_with("300 transactions (200 calls)"), "{}", list.lines()[3]);
    // Down to the first call, and open it.
    let at = listed.lines.iter().position(|line| line.is_call()).unwrap();
    let call = listed.lines[at].clone();
    let line = &list.lines()[5 + at];
    let [client, server] = [&call.row, call.other.as_ref().unwrap()];
    let difference = tracer_user::report::format::duration((client.duration_ns - server.duration_ns) as u64);
    assert!(line.contains("⇄ shop ⇄ 주문서비스") && line.contains(&format!("±{difference} ")), "{line}");
    let open = press(&feed, (120, 40), &mut app, &[vec![Key::Down; at], typed("x")].concat());
    let opened = open.model.list.as_ref().unwrap();
    assert_eq!(opened.lines.len(), 201);
    assert_eq!([opened.lines[at].row.seq, opened.lines[at + 1].row.seq], [client.seq, server.seq]);
    insta::assert_snapshot!("calls_opened_120x40", open.text());
    // Closed again from the other one of the two.
    let closed = press(&feed, (120, 40), &mut app, &[Key::Down, Key::Char('x')]);
    assert_eq!(closed.model.list.as_ref().unwrap().lines.len(), 200);
    // In the detail, the other ends of what went over the connection.
    let detail = press(&feed, (120, 40), &mut app, &[Key::Up, Key::Enter]);
    assert!(detail.text().contains("⇄ 주문서비스 ±"), "{}", detail.text());
    let n_lines = |screen: &Screen| screen.text().matches("POST /order/{id}").count();
    let unfolded = press(&feed, (120, 40), &mut app, &typed("x"));
    assert!(n_lines(&unfolded) > n_lines(&detail) + 4, "{}", unfolded.text());
    insta::assert_snapshot!("calls_detail_120x40", unfolded.text());
}

#[test]
fn a_list_shows_the_value_that_it_was_selected_by() {
    let feed = feed(timed(), &[snapshot()]);
    for axis in Axis::ALL {
        for size in [(80, 24), (120, 40)] {
            let keys = [typed("2"), keys_to(axis), vec![Key::Char('v'), Key::Char('v')]].concat();
            let keys = [keys, vec![Key::Left; 100], vec![Key::Down; 40], vec![Key::Enter]].concat();
            let list = press(&feed, size, &mut App::default(), &keys);
            let rows = &list.model.list.as_ref().unwrap().rows;
            let lines = list.lines();
            assert!(!rows.is_empty());
            assert!(lines[4].contains(axis.name()), "{}", lines[4]);
            for (row, line) in rows.iter().zip(&lines[5..23]) {
                let elapsed = tracer_user::report::format::duration(row.duration_ns as u64);
                let value = axis.text(axis.value(row).unwrap());
                let words: Vec<&str> = line.split_whitespace().collect();
                let want = if axis == Axis::Elapsed { vec![&*elapsed] } else { vec![&*elapsed, &*value] };
                assert_eq!(words[1..=want.len()], want, "{axis:?}: {line}");
            }
        }
    }
}
