//! Connections and statements: what they are made of, sorted and walked.

use std::sync::Arc;

use tracer_ebpf as abi;
use tracer_user::{
    pipeline::{ConnRow, ConnState, Connections},
    protocol::{Family, TlsFacts},
    tui::{Roles, StatementSort, statements},
};

use super::*;

pub(super) const HOSTILE: &str = "\u{1b}[2J\u{202e}evil\r\n";

fn row(i: u64) -> ConnRow {
    let states =
        [ConnState::Open, ConnState::Open, ConnState::LongLived, ConnState::Opaque, ConnState::Closing];
    let state = states[i as usize % states.len()];
    let mut tuple = abi::Tuple {
        local_port: 80,
        remote_port: 40_000 + i as u16,
        family: abi::FAMILY_INET,
        ..abi::Tuple::default()
    };
    tuple.local[..4].copy_from_slice(&[127, 0, 0, 1]);
    tuple.remote[..4].copy_from_slice(&[10, 0, (i / 256) as u8, i as u8]);
    let mut comm = [0; 16];
    comm[..4].copy_from_slice(b"shop");
    let is_opaque = state == ConnState::Opaque;
    ConnRow {
        conn: ConnId(0xabc0 + i),
        service: if i % 4 == 1 { "주문서비스".into() } else { "shop".into() },
        pid: 1_000 + i as u32,
        comm,
        role: if i.is_multiple_of(3) { Role::Client } else { Role::Server },
        tuple,
        unix_path: Bytes::new(),
        protocol: (!is_opaque).then_some("http1"),
        tls: None,
        age_ns: (i * 37 % 50 + 1) * SECOND,
        from_start: i % 6 != 5,
        requests: i * 7_919 % 2_000,
        errors: i % 5,
        in_flight: i % 2,
        step: (i % 2 == 1).then_some(Step::Waiting),
        bytes: [i * 1_000, i * 150_000],
        idle_ns: (!is_opaque).then_some(i * 20_000_000),
        state,
        capture: if is_opaque { "nothing" } else { "heads" },
    }
}

/// `n` open ones, of `n_conns`, and four that ended.
pub(super) fn with_conns(n: u64, n_conns: usize) -> Snapshot {
    let closed =
        |i: u64, state| ConnRow { state, idle_ns: Some(i * SECOND), in_flight: 0, step: None, ..row(i) };
    let connections = Connections {
        open: (0..n).map(row).collect(),
        closed: vec![
            closed(100, ConnState::Closed),
            closed(101, ConnState::Reset),
            closed(102, ConnState::Exited),
            closed(104, ConnState::Forgotten),
        ],
        n_closed: 12_345,
    };
    Snapshot { connections: Arc::new(connections), n_conns, ..snapshot() }
}

pub(super) fn hostile() -> Snapshot {
    let mut comm = [0; 16];
    comm[..6].copy_from_slice(b"\x1b[2J\xff\n");
    let tuple = abi::Tuple { family: abi::FAMILY_UNIX, ..abi::Tuple::default() };
    let unix_path = Bytes::from_static(b"/run/\x1b[2J\xff\xe2\x80\xae.sock");
    let bad = ConnRow { service: HOSTILE.into(), comm, tuple, unix_path, ..row(1) };
    let connections = Connections { open: vec![bad, row(2)], closed: Vec::new(), n_closed: 0 };
    Snapshot { connections: Arc::new(connections), n_conns: 2, ..snapshot() }
}

pub(super) fn made_up(protocol: &str) -> Option<Family> {
    [("rows", Family::Database), ("keys", Family::Cache)]
        .into_iter()
        .find_map(|(name, family)| (name == protocol).then_some(family))
}

/// What a shop asks a database and a cache that no protocol of the registry speaks.
pub(super) fn asked(service: &'static str, statement: &'static str) -> Vec<Transaction> {
    (0..1_000_u64)
        .map(|i| {
            let base = Transaction {
                end_time: WallTime(START + 100 * SECOND + i * SECOND / 5),
                duration_ns: (i as i64 * 7_919 % 1_000 + 1) * 20_000,
                role: Role::Client,
                protocol: "rows",
                operation: "SELECT item".into(),
                target: Some("SELECT * FROM item WHERE id = ?".into()),
                server_addr: "10.0.0.9".into(),
                server_port: Some(5432),
                error: i % 100 == 0,
                seq: i,
                ..transaction(0)
            };
            match i % 4 {
                0 => Transaction { target: Some(statement.into()), service: service.into(), ..base },
                1 => Transaction {
                    protocol: "keys",
                    operation: "GET".into(),
                    target: Some(format!("GET item:{i}").into()),
                    server_addr: "fd00::7".into(),
                    server_port: Some(6379),
                    duration_ns: base.duration_ns / 50,
                    ..base
                },
                2 => Transaction { protocol: "http1", operation: "GET /".into(), ..base },
                _ => base,
            }
        })
        .collect()
}

/// The frame that [`press`] leaves, with what is asked in a protocol that is made up.
fn with_statements(feed: &Feed, size: (u16, u16), app: &mut App, keys: &[Key]) -> Screen {
    let mut screen = press(feed, size, app, keys);
    let recent = feed.recent.lock();
    let rows: Vec<_> = recent.rows(WallTime(0), WallTime(u64::MAX)).filter(|row| app.wants(row)).collect();
    let last = screen.model.now.0 / SECOND * SECOND;
    let recent = WallTime(last - 30 * SECOND)..WallTime(last);
    screen.model.statements = statements(rows.into_iter(), made_up, recent, app.statement_sort);
    screen.buffer = Buffer::empty(screen.buffer.area);
    draw(&mut screen.buffer, &screen.model, app, MANY);
    screen
}

#[test]
fn without_such_protocols_the_statements_say_what_was_recognised() {
    let shown = |transactions, keys: &[Key]| {
        press(&feed(transactions, &[snapshot()]), (80, 24), &mut App::default(), keys)
    };
    let text = shown(busy(), &typed("6")).text();
    assert!(text.contains("no database or cache traffic has been recognised"), "{text}");
    assert!(text.contains("protocols recognised so far: http1"), "{text}");
    assert!(shown(Vec::new(), &typed("6")).text().contains("waiting for the first transaction"));
}

#[test]
fn statements_have_figures_and_are_sorted_by_each() {
    let feed = feed(asked("cart", "DELETE FROM item"), &[snapshot()]);
    let mut app = App::default();
    let mut screen = with_statements(&feed, (120, 40), &mut app, &typed("6"));
    let line = |screen: &Screen, name: &str| {
        screen
            .lines()
            .into_iter()
            .find(|line| line.contains(name))
            .unwrap_or_else(|| panic!("{}", screen.text()))
    };
    // 250 of 1,000 each; the share is of the time of all three.
    for (name, where_to, share) in [
        ("SELECT * FROM", "10.0.0.9:5432", "49"),
        ("DELETE FROM item", "10.0.0.9:5432", "49"),
        ("GET ", "[fd00::7]:6379", "1."),
    ] {
        let line = line(&screen, name);
        let words: Vec<&str> = line.split_whitespace().collect();
        assert!(words.contains(&"250") && words.contains(&where_to), "{line}");
        assert!(words.last().unwrap().starts_with(share), "{line}");
    }
    for by in [StatementSort::Total, StatementSort::Count, StatementSort::Errors, StatementSort::P99] {
        assert_eq!(app.statement_sort, by);
        assert!(screen.text().contains(&format!("▾{}", by.column())), "{}", screen.text());
        screen = with_statements(&feed, (120, 40), &mut app, &typed("s"));
    }
}

/// The heading of a table in a screen this wide: the line that begins with `first`. `2`: of the list of all dots of the XLog.
fn heading(feed: &Feed, view: &str, width: u16, first: &str) -> String {
    let mut app = App { roles: Roles::Both, ..App::default() };
    let mut screen = with_statements(feed, (width, 40), &mut app, &typed(view));
    if view == "2" {
        app.drag((0, 0), (width, 40), true, &screen.model.seen(&app, &screen.layout));
        screen = press(feed, (width, 40), &mut app, &[]);
    }
    screen
        .lines()
        .into_iter()
        .find(|line| line.starts_with(first))
        .unwrap_or_else(|| panic!("{first}: {}", screen.text()))
}

#[test]
fn every_table_says_how_many_columns_there_is_no_room_for() {
    let rows = asked("cart", "DELETE FROM item").into_iter().take(40).collect();
    let feed = feed(rows, &[with_conns(30, 30)]);
    let operations: &[&str] = &["rate/s", "errors", "count", "p50", "p90", "p99 ", "p99.9", "max"];
    let services: &[&str] = &["rate/s", "errors", "count", "p50", "p99", "max"];
    let statements: &[&str] =
        &["where", "protocol", "rate/s", "count", "errors", "p50", "p99", "max", "total", "share"];
    let connections: &[&str] = &[
        "pid ", "own end", "state", "protocol", "age", "idle", "done", "errors", "now", "step", "in ", "out",
        "copied", "conn_id",
    ];
    let list: &[&str] = &["end", "elapsed", "status", "serv", "oper", "target"];
    let tables = [
        ("1", "serv", operations),
        ("4", "serv", operations),
        ("5", "serv", services),
        ("5", "from → to", services),
        ("6", "serv", statements),
        ("8", "s", connections),
        ("2", "end", list),
    ];
    for (view, first, names) in tables {
        let mut marked = 0;
        for width in (60..=240).step_by(5).chain([69, 71, 76, 99]) {
            let line = heading(&feed, view, width, first);
            let words = format!("{line} ");
            let hidden = names.iter().filter(|name| !words.contains(**name)).count();
            let mark = line.rsplit_once(" >").map_or(0, |(_, n)| n.parse().unwrap());
            assert_eq!(mark, hidden, "{width}: {line:?}");
            marked += usize::from(mark != 0);
        }
        // There is a width at which all have room, and one at which not all do.
        let line = heading(&feed, view, 240, first);
        assert!(marked != 0 && !line.contains('>'), "{line}");
    }
}

#[test]
fn what_is_known_of_tls_has_a_column_where_there_is_any() {
    let rows: Vec<_> = asked("cart", "DELETE FROM item").into_iter().take(40).collect();
    let mut with_tls = with_conns(4, 4);
    let mut connections = (*with_tls.connections).clone();
    let facts =
        |version: Option<&'static str>| TlsFacts { version: version.map(Into::into), ..TlsFacts::default() };
    connections.open[1].tls = Some(Arc::new(facts(Some("TLSv1.3"))));
    connections.open[2].tls = Some(Arc::new(facts(None)));
    with_tls.connections = Arc::new(connections);
    for (snapshot, has_tls) in [(with_tls, true), (with_conns(4, 4), false)] {
        let feed = feed(rows.clone(), &[snapshot]);
        for width in [100, 140, 240] {
            let line = heading(&feed, "8", width, "s");
            assert_eq!(line.contains(" tls "), has_tls && width >= 130, "{width}: {line}");
        }
        let screen = press(&feed, (240, 20), &mut App::default(), &typed("8"));
        let column: Vec<&str> = screen
            .text()
            .lines()
            .filter_map(|line| line.split_whitespace().find(|word| word.starts_with("TLS") || *word == "tls"))
            .map(|word| if word == "tls" { "tls" } else { "version" })
            .collect();
        assert_eq!(column, if has_tls { vec!["tls", "version", "tls"] } else { vec![] }, "{}", screen.text());
    }
}

#[test]
fn the_help_of_a_table_tells_what_the_mark_means_and_how_to_get_at_the_columns() {
    let feed = feed(asked("cart", "DELETE FROM item"), &[with_conns(3, 3)]);
    for (view, key) in [("1", "operations = […]"), ("4", "operations = […]"), ("5", ""), ("6", ""), ("8", "")]
    {
        let keys = typed(&format!("{view}?"));
        let help = press(&feed, (60, 80), &mut App::default(), &keys).text();
        assert!(help.contains(">2 in a heading: for 2 columns a wider screen is needed"), "{view}: {help}");
        assert!(help.contains(key), "{view}: {help}");
    }
    let help = press(&feed, (60, 80), &mut App::default(), &typed("3?")).text();
    assert!(!help.contains("in a heading"), "{help}");
}

#[test]
fn connections_are_counted_walked_sorted_and_lead_to_their_dots() {
    let mut transactions = busy();
    for (i, transaction) in transactions.iter_mut().enumerate() {
        transaction.conn = ConnId(0xabc0 + i as u64 % 30);
    }
    let feed = feed(transactions.clone(), &[with_conns(30, 4_321)]);
    let mut app = App::default();
    let screen = press(&feed, (200, 60), &mut app, &typed("8"));
    let title = &screen.lines()[3];
    assert_eq!(title, "4,321 open: the 30 used last; 12,345 ended: the last 4");
    type Figure = fn(&ConnRow) -> u64;
    let by: [(&str, Figure); 5] = [
        ("done", |row| row.requests),
        ("errors", |row| row.errors),
        ("now", |row| row.in_flight),
        ("out", |row| row.bytes[0] + row.bytes[1]),
        ("age", |row| row.age_ns),
    ];
    for (column, key) in by {
        let sorted = press(&feed, (200, 60), &mut app, &typed("s"));
        assert!(sorted.lines()[4].contains(&format!("▾{column}")), "{}", sorted.lines()[4]);
        assert!(sorted.model.conns.is_sorted_by_key(|row| std::cmp::Reverse(key(row))), "{column}");
        assert_eq!(sorted.model.conns.len(), 34);
    }
    let last = press(&feed, (80, 24), &mut app, &[Key::End]);
    assert_eq!(app.conns.selected, 33);
    let reversed = |y: u16| last.buffer[(0, y)].modifier.contains(Modifier::REVERSED);
    assert_eq!((2..23).filter(|&y| reversed(y)).count(), 1, "{}", last.text());
    // Enter: what went over it, whichever its role.
    let seventh = [typed("s"), vec![Key::Home], vec![Key::Down; 7], vec![Key::Enter]].concat();
    let dots = press(&feed, (200, 60), &mut app, &seventh);
    let own = transactions.iter().filter(|t| t.conn == ConnId(0xabc7)).count() as u64;
    assert_eq!((app.view, dots.chart().n), (View::Xlog, own));
    assert!(dots.lines()[1].contains("match conn_id = '000000000000abc7'"), "{}", dots.lines()[1]);
}

#[test]
fn each_connection_has_its_line_with_what_is_known_of_it() {
    let feed = feed(busy(), &[with_conns(30, 30)]);
    let screen = press(&feed, (200, 60), &mut App::default(), &typed("8"));
    for row in &screen.model.conns {
        let id = format!("{:016x}", row.conn.0);
        let line = screen.lines().into_iter().find(|line| line.ends_with(&id)).unwrap();
        let [_, (peer, port)] = row.ends();
        for part in [row.state.as_str(), &format!("{peer}:{}", port.unwrap()), &format!("{} shop", row.pid)] {
            assert!(line.contains(part), "{part} is not in {line}");
        }
        assert_eq!(line.contains('≥'), !row.from_start || row.idle_ns.is_none(), "{line}");
    }
    let known = Snapshot { n_conns: 0, connections: Arc::default(), ..snapshot() };
    let empty = press(&super::feed(busy(), &[known]), (80, 24), &mut App::default(), &typed("8"));
    assert!(empty.text().contains("no connections yet"), "{}", empty.text());
}
