//! What a row leads to: its filter and its dots, files, links.

use std::{collections::BTreeSet, fs, os::unix::fs::MetadataExt as _, path::Path};

use tracer_user::{
    report::filter::{Filter, Thresholds},
    schema::transaction_rows::COLUMNS,
    sink::jsonl::write_transaction,
    source::heads::{Head, Heads},
    tui::{Errand, Here, Place, ShownHeads, Template, run_errand},
};

use super::*;

const SIZE: (u16, u16) = (120, 40);

fn heading() -> Heading {
    Heading { title: "live  whole host".to_owned(), ..Heading::default() }
}

/// Does what the last key asked for, as the terminal does.
fn run(feed: &Feed, dir: &Path, screen: &Screen, app: &mut App) -> Errand {
    let errand = app.errand.take().expect("something to do");
    let area = Rect::new(0, 0, SIZE.0, SIZE.1);
    let heading = heading();
    let here = Here { feed, heading: &heading, theme: MANY, area, dir };
    let done = run_errand(&errand, &here, app, Some(&screen.model));
    app.done(&errand, done);
    errand
}

/// Exports what is on the screen to a file of this name.
pub(super) fn export(feed: &Feed, dir: &Path, app: &mut App, name: &str) {
    let prompt = press(feed, SIZE, app, &typed("e"));
    assert!(prompt.lines()[39].starts_with("export to: txray-20231114-22"), "{}", prompt.lines()[39]);
    let n = app.prompt.as_ref().unwrap().text.chars().count();
    let keys = [vec![Key::Backspace; n], typed(name), vec![Key::Enter]].concat();
    let screen = press(feed, SIZE, app, &keys);
    run(feed, dir, &screen, app);
}

fn calls() -> Vec<Transaction> {
    (0..600_u64)
        .map(|i| {
            let base = Transaction {
                end_time: WallTime(START + 100 * SECOND + i * SECOND / 4),
                start_time: WallTime(START + 100 * SECOND + i * SECOND / 4 - 1_000_000),
                conn: ConnId(i % 7),
                seq: i,
                ordinal: i,
                ..transaction(0)
            };
            match i % 3 {
                0 => Transaction { service: "it's \\ \"x\" or err".into(), error: i % 2 == 0, ..base },
                1 => Transaction {
                    role: Role::Client,
                    client_port: Some(41_000),
                    server_port: Some(5_432),
                    operation: "SELECT '\u{1b}[2J".into(),
                    ..base
                },
                _ => Transaction { client_addr: "10.0.0.7".into(), ..base },
            }
        })
        .collect()
}

#[test]
fn enter_on_a_row_filters_to_what_it_stands_for_and_shows_its_dots() {
    let feed = feed(calls(), &[snapshot()]);
    for view in ["1", "4", "5"] {
        let model = press(&feed, SIZE, &mut App::default(), &typed(view)).model;
        let n_rows = if view == "5" { model.edges.len() } else { model.rows.len() };
        assert!(n_rows >= 3, "{view}");
        for i in 0..n_rows {
            let mut app = App::default();
            let table = press(&feed, SIZE, &mut app, &[typed(view), vec![Key::Down; i]].concat());
            let (count, errors) = match view {
                "5" => (table.model.edges[i].count, table.model.edges[i].errors),
                _ => (table.model.rows[i].count, table.model.rows[i].errors),
            };
            let dots = press(&feed, SIZE, &mut app, &[Key::Enter]);
            assert_eq!(app.place(), Place::View(View::Xlog), "{:?}", app.complaint);
            let filter = app.filter.clone().unwrap();
            let by_hand: Vec<Transaction> = calls().into_iter().filter(|t| filter.matches(t)).collect();
            assert_eq!(by_hand.len() as u64, count, "{}", filter.text());
            assert_eq!(by_hand.iter().filter(|t| t.error).count() as u64, errors);
            assert_eq!((dots.chart().n, dots.model.count), (count, count), "{}", filter.text());
            assert!(!dots.text().contains('\u{1b}'));
            if view == "5" {
                // An edge that is filtered to is the same edge, its ends known by the same names.
                let ends = |screen: &Screen, i: usize| {
                    let edge = &screen.model.edges[i];
                    (edge.from.clone(), edge.to.clone(), edge.count)
                };
                let alone = press(&feed, SIZE, &mut app, &typed("5"));
                assert_eq!((ends(&alone, 0), alone.model.edges.len()), (ends(&table, i), 1));
            }
            press(&feed, SIZE, &mut app, &[Key::Escape]);
            assert!(app.filter.is_none());
        }
    }
}

#[test]
fn a_rows_filter_is_added_to_the_one_that_is_there() {
    let feed = feed(calls(), &[snapshot()]);
    let mut app = App::default();
    let keys = [typed("4/err or slow"), vec![Key::Enter, Key::Enter]].concat();
    let screen = press(&feed, SIZE, &mut app, &keys);
    let text = app.filter.as_ref().unwrap().text();
    assert!(text.starts_with("(err or slow) and role = server"), "{text}");
    let by_hand = Filter::parse("err and role = server", Thresholds::default()).unwrap();
    let n = calls().iter().filter(|t| by_hand.matches(t)).count() as u64;
    assert_eq!((screen.model.count, n), (100, 100));
    // The same once more changes nothing; a filter that grows too long is refused and the old one stays.
    for _ in 0..200 {
        press(&feed, SIZE, &mut app, &[typed("4"), vec![Key::Enter]].concat());
    }
    let complaint = app.complaint.clone().unwrap_or_default();
    assert!(complaint.contains("cannot be added"), "{complaint}");
    assert_eq!(press(&feed, SIZE, &mut app, &[]).model.count, 100);
}

#[test]
fn a_list_is_exported_whole_in_every_form_and_never_over_a_file() {
    let feed = feed(calls(), &[snapshot()]);
    let dir = tempfile::tempdir().unwrap();
    let mut app = App::default();
    let xlog = press(&feed, SIZE, &mut app, &typed("2"));
    app.drag((0, 0), (93, 40), true, &xlog.model.seen(&app, &xlog.layout));
    let list = press(&feed, SIZE, &mut app, &[]);
    let rows = list.model.list.as_ref().unwrap().rows.clone();
    assert!(rows.len() > 300, "more than a screen: {}", rows.len());
    for name in ["x.jsonl", "x.csv", "x.json", "x.txt"] {
        export(&feed, dir.path(), &mut app, name);
        let said = app.complaint.clone().unwrap();
        assert_eq!(said, format!("{} rows exported to {name}", rows.len()));
        assert_eq!(fs::metadata(dir.path().join(name)).unwrap().mode() & 0o777, 0o600);
    }
    let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
    let mut expected = Vec::new();
    rows.iter().for_each(|row| write_transaction(&mut expected, row));
    assert_eq!(read("x.jsonl").into_bytes(), expected);
    assert_eq!(read("x.csv").lines().count(), rows.len() + 1);
    assert_eq!(read("x.csv").lines().next().unwrap().split(',').collect::<Vec<_>>(), COLUMNS);
    assert_eq!(read("x.txt").lines().count(), rows.len() + 1);
    for name in ["x.csv", "x.txt"] {
        assert!(read(name).chars().all(|c| matches!(c, '\r' | '\n') || !c.is_control()), "{name}");
    }
    let trace: serde_json::Value = serde_json::from_str(&read("x.json")).unwrap();
    let ids: BTreeSet<&str> =
        trace["traceEvents"].as_array().unwrap().iter().filter_map(|e| e["args"]["id"].as_str()).collect();
    assert_eq!(ids, rows.iter().map(|row| row.id()).collect::<Vec<_>>().iter().map(String::as_str).collect());
    // A file that is there stays what it is, and the name can be mended.
    export(&feed, dir.path(), &mut app, "x.csv");
    assert_eq!(app.complaint.as_deref(), Some("x.csv exists already; nothing was written"));
    assert_eq!(app.prompt.as_ref().map(|prompt| prompt.text.as_str()), Some("x.csv"));
    let again = press(&feed, SIZE, &mut app, &[]);
    assert!(again.lines()[39].contains("x.csv_   x.csv exists already"), "{}", again.lines()[39]);
    assert_eq!(read("x.csv").lines().count(), rows.len() + 1);
    for bad in ["x", "no/x.csv", "x.parquet", "\u{202e}.xyz"] {
        app.prompt = None;
        export(&feed, dir.path(), &mut app, bad);
        assert!(app.prompt.is_some() && !app.complaint.clone().unwrap().contains('\u{202e}'), "{bad}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 4);
}

#[test]
fn tables_are_exported_with_all_their_rows() {
    let mut snapshot = snapshot();
    snapshot.open = vec![open(1, 12_000, Step::Waiting), open(2, 5_000, Step::Sending)];
    let feed = feed(calls(), &[lossy(150, 5), lossy(151, 9), snapshot]);
    for (view, n) in [("1", 3), ("3", 2), ("4", 3), ("5", 3), ("2", 600)] {
        let dir = tempfile::tempdir().unwrap();
        let mut app = App::default();
        press(&feed, SIZE, &mut app, &typed(view));
        for name in ["t.csv", "t.jsonl", "t.txt"] {
            export(&feed, dir.path(), &mut app, name);
            let text = fs::read_to_string(dir.path().join(name)).unwrap();
            assert_eq!(text.lines().count(), n + usize::from(name != "t.jsonl"), "{view} {name}");
            let said = app.complaint.clone().unwrap();
            assert!(said.starts_with(&format!("{n} rows exported to {name}")), "{said}");
            assert_eq!(said.contains("31 younger ones are not known"), view == "3", "{said}");
        }
        // A trace is of the transactions behind the table.
        export(&feed, dir.path(), &mut app, "t.json");
        assert_eq!(app.complaint.as_deref(), Some("600 rows exported to t.json"));
    }
}

#[test]
fn a_transaction_is_exported_as_it_is_shown() {
    let feed = feed(calls(), &[snapshot()]);
    let dir = tempfile::tempdir().unwrap();
    let mut app = App::default();
    let xlog = press(&feed, SIZE, &mut app, &typed("2"));
    app.drag((0, 0), (93, 40), true, &xlog.model.seen(&app, &xlog.layout));
    let detail = press(&feed, SIZE, &mut app, &[Key::Enter]);
    assert_eq!(app.place(), Place::Detail);
    export(&feed, dir.path(), &mut app, "d.txt");
    let text = fs::read_to_string(dir.path().join("d.txt")).unwrap();
    for line in detail.lines()[3..39].iter().filter(|line| !line.contains('█')) {
        assert!(text.contains(line.as_str()), "{line:?}\n{text}");
    }
    export(&feed, dir.path(), &mut app, "d.jsonl");
    assert_eq!(app.complaint.as_deref(), Some("1 rows exported to d.jsonl"));
}

#[test]
fn secrets_in_targets_are_neither_in_the_list_nor_in_text_that_is_written_and_data_has_them() {
    let rows = (0..3).map(|i| Transaction {
        target: Some(Bytes::from_static(b"/a?token=s3cret&id=7")),
        tls: Some(tls("shop.example")),
        ..transaction(100 + i)
    });
    let feed = feed(rows.collect(), &[snapshot()]);
    let dir = tempfile::tempdir().unwrap();
    let mut app = App::default();
    let xlog = press(&feed, SIZE, &mut app, &typed("2"));
    app.drag((0, 0), (93, 40), true, &xlog.model.seen(&app, &xlog.layout));
    let list = press(&feed, SIZE, &mut app, &[]).text();
    assert_eq!(app.place(), Place::List);
    assert_eq!(list.matches("/a?token=REDACTED&id=7").count(), 3, "{list}");
    assert!(!list.contains("s3cret"), "{list}");
    for (name, has_secret) in [("s.txt", false), ("s.jsonl", true), ("s.csv", true)] {
        export(&feed, dir.path(), &mut app, name);
        let text = fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!(text.contains("s3cret"), has_secret, "{name}: {text}");
        assert_eq!(text.contains("token=REDACTED"), !has_secret, "{name}: {text}");
        // What is an object in JSON has a column for each part.
        assert_eq!(text.contains(",80,,TLSv1.3,shop.example,h2,80,"), name == "s.csv", "{name}: {text}");
    }
    let detail = press(&feed, SIZE, &mut app, &[Key::Enter]).text();
    assert!(detail.contains("/a?token=REDACTED&id=7") && !detail.contains("s3cret"), "{detail}");
}

#[test]
fn ctrl_s_writes_the_screen_as_text_and_its_figures_as_json_wherever_it_is_pressed() {
    let feed = feed(calls(), &[lossy(150, 5), lossy(151, 1_234)]);
    let dir = tempfile::tempdir().unwrap();
    let mut n = 0;
    for keys in ["1", "2", "3", "4", "5", "8", "?", "/err", "2v"] {
        let mut app = App::default();
        let screen = press(&feed, SIZE, &mut app, &typed(keys));
        let before = screen.text();
        app.key(Key::Ctrl('s'), &screen.model.seen(&app, &screen.layout));
        run(&feed, dir.path(), &screen, &mut app);
        n += 1;
        let stem = if n == 1 {
            "txray-screen-20231114-221820".to_owned()
        } else {
            format!("txray-screen-20231114-221820-{n}")
        };
        assert_eq!(app.complaint, Some(format!("screen written to {stem}.txt and .json")), "{keys}");
        let text = fs::read_to_string(dir.path().join(format!("{stem}.txt"))).unwrap();
        assert_eq!(text.trim_end(), before.trim_end(), "{keys}");
        let json = fs::read_to_string(dir.path().join(format!("{stem}.json"))).unwrap();
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["transactions"], screen.model.count);
        assert_eq!(json["operations"].as_array().unwrap().len(), screen.model.rows.len());
        assert_eq!(json["edges"].as_array().unwrap().len(), screen.model.edges.len());
        assert!(json.to_string().contains("refused_data"), "{json}");
    }
}

#[test]
fn the_link_of_a_transaction_is_shown_whole_and_any_key_closes_it() {
    let feed = feed(calls(), &[snapshot()]);
    let mut app = App::default();
    let xlog = press(&feed, SIZE, &mut app, &typed("2"));
    app.drag((0, 0), (93, 40), true, &xlog.model.seen(&app, &xlog.layout));
    let without = press(&feed, SIZE, &mut app, &typed("o"));
    assert!(without.lines()[39].contains("no link is set: --open-url"), "{}", without.lines()[39]);
    assert!(app.errand.is_none() && app.url.is_none());
    let template = format!("https://t.example/{}?s={{service}}&o={{operation}}", "long/".repeat(40));
    app.template = Some(Template::parse(&template).unwrap());
    for place in [Place::List, Place::Detail] {
        assert_eq!(app.place(), place);
        let shown = press(&feed, SIZE, &mut app, &typed("o"));
        let url = app.url.clone().unwrap();
        assert_eq!(app.errand.take(), Some(Errand::Copy(url.clone())));
        assert!(url.bytes().all(|byte| byte.is_ascii_graphic()));
        assert!(shown.lines().concat().contains(&url), "{}", shown.text());
        press(&feed, SIZE, &mut app, &typed("q"));
        assert!(app.url.is_none() && app.place() == place);
        press(&feed, SIZE, &mut app, &[Key::Enter]);
    }
    app.template = Some(Template::parse("https://t.example/{trace_id}").unwrap());
    let waiting = press(&feed, SIZE, &mut app, &typed("o"));
    assert!(waiting.lines()[39].contains("trace id"), "{}", waiting.lines()[39]);
    assert!(app.heads_of().is_some() && app.link_of.is_some());
    let traced = "GET / HTTP/1.1\r\nX-B3-TraceId: 48485a3953bb6124\r\n\r\n";
    let heads = Heads { request: Head::Whole(traced.into()), ..Heads::default() };
    assert!(app.link_with(&ShownHeads::Known(heads.into())));
    assert_eq!(app.url.as_deref(), Some("https://t.example/48485a3953bb6124"));
    let shown = press(&feed, SIZE, &mut app, &[]);
    assert!(shown.text().contains("trace id: X-B3-TraceId"), "{}", shown.text());
    // Any key closes it, and any key forgets one that is on its way.
    press(&feed, SIZE, &mut app, &typed("ooj"));
    assert!(app.link_of.is_none() && app.url.is_none());
    // What was chosen at the start outlives a reset.
    press(&feed, SIZE, &mut app, &[Key::Escape, Key::Escape, Key::Escape, Key::Char('R')]);
    assert!(app.template.is_some());
}
