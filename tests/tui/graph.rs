//! The picture of who calls whom: whatever calls whom, boxes and lines are where they can be told apart.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use tracer_user::tui::{Graph, Link, Node, Owner, Path, Picture, picture};
use unicode_width::UnicodeWidthStr as _;

use super::*;

/// Nodes by number, and links `(from, to, calls)`.
fn graph(names: &[&str], calls: &[(usize, usize, u64)]) -> Graph {
    Graph {
        nodes: names
            .iter()
            .map(|name| Node { name: (*name).to_owned(), unseen: name.contains('.') })
            .collect(),
        links: calls
            .iter()
            .map(|&(from, to, calls)| Link {
                from,
                to,
                calls,
                recent: calls / 2,
                labels: [format!("{calls}/s p99 1.20ms"), format!("{calls}/s")],
                errors: Default::default(),
            })
            .collect(),
    }
}

fn sides(graph: &Graph, path: &Path) -> [usize; 2] {
    let Link { from, to, .. } = graph.links[path.link];
    if path.reversed { [to, from] } else { [from, to] }
}

/// A line in a cell, and whether it comes and goes across.
type Taken = (usize, bool, bool);

fn is_across(a: (u16, u16), b: (u16, u16)) -> bool {
    a.1 == b.1
}

fn check(graph: &Graph, picture: &Picture, width: u16, height: u16) {
    assert!(picture.width <= width && picture.height <= height);
    let placed: BTreeMap<usize, _> = picture.boxes.iter().map(|placed| (placed.node, placed)).collect();
    assert_eq!(placed.len(), picture.boxes.len(), "a box twice");
    for (i, a) in picture.boxes.iter().enumerate() {
        assert!(a.x + a.width <= picture.width && a.y + a.height <= picture.height, "{a:?}");
        for b in &picture.boxes[i + 1..] {
            let apart = a.x + a.width <= b.x
                || b.x + b.width <= a.x
                || a.y + a.height <= b.y
                || b.y + b.height <= a.y;
            assert!(apart, "{a:?} {b:?}");
        }
    }
    // Every line goes cell by cell from the border of one box to that of the other, and through none.
    let mut taken: BTreeMap<(u16, u16), Vec<Taken>> = BTreeMap::new();
    for path in &picture.paths {
        let [left, right] = sides(graph, path).map(|node| placed[&node]);
        let (first, last) = (path.cells[0], *path.cells.last().unwrap());
        assert_eq!(first.0, left.x + left.width, "{path:?}");
        assert_eq!(last.0 + 1, right.x, "{path:?}");
        assert!((left.y + 1..left.y + left.height - 1).contains(&first.1), "{path:?}");
        assert!((right.y + 1..right.y + right.height - 1).contains(&last.1), "{path:?}");
        for pair in path.cells.windows(2) {
            assert_eq!(pair[0].0.abs_diff(pair[1].0) + pair[0].1.abs_diff(pair[1].1), 1, "{path:?}");
        }
        for (i, &cell) in path.cells.iter().enumerate() {
            assert!(cell.0 < picture.width && cell.1 < picture.height);
            assert!(picture.boxes.iter().all(|placed| !placed.has(cell)), "{path:?} {cell:?}");
            let before = i.checked_sub(1).is_none_or(|i| is_across(path.cells[i], cell));
            let behind = path.cells.get(i + 1).is_none_or(|next| is_across(cell, *next));
            taken.entry(cell).or_default().push((path.link, before, behind));
        }
    }
    for (cell, lines) in &taken {
        match lines.as_slice() {
            [_] => {}
            // Two share a cell where one goes straight across and the other straight down.
            [(a, a0, a1), (b, b0, b1)] => {
                assert!(a != b && a0 == a1 && b0 == b1 && a0 != b0, "{cell:?} {lines:?}")
            }
            more => panic!("{cell:?} {more:?}"),
        }
    }
    // Every text lies in its box, or on its line, and nothing else lies there.
    for text in &picture.texts {
        for x in text.at.0..text.at.0 + text.text.width() as u16 {
            let cell = (x, text.at.1);
            let within = picture.boxes.iter().find(|placed| placed.has(cell));
            let on_border = |p: &&tracer_user::tui::Placed| {
                cell.0 == p.x || cell.0 == p.x + p.width - 1 || cell.1 == p.y || cell.1 == p.y + p.height - 1
            };
            assert!(!within.as_ref().is_some_and(on_border), "{text:?}");
            let inside = within.map(|placed| placed.node);
            match text.owner {
                Owner::Node(node) => assert_eq!(inside, Some(node), "{text:?}"),
                Owner::Link(link) if picture.own.contains(&link) => {
                    assert_eq!(inside, Some(graph.links[link].from), "{text:?}");
                }
                Owner::Link(link) => {
                    let lines: Vec<usize> = taken[&cell].iter().map(|line| line.0).collect();
                    assert_eq!(lines, [link], "{text:?}");
                }
            }
        }
    }
    // Nothing is lost without being counted.
    let drawn: BTreeSet<usize> =
        picture.paths.iter().map(|path| path.link).chain(picture.own.clone()).collect();
    let sum = |f: fn(&Link) -> u64| drawn.iter().map(|&link| f(&graph.links[link])).sum::<u64>();
    assert_eq!(sum(|l| l.calls) + picture.left_out.calls, graph.links.iter().map(|l| l.calls).sum::<u64>());
    assert_eq!(
        sum(|l| l.recent) + picture.left_out.recent,
        graph.links.iter().map(|l| l.recent).sum::<u64>()
    );
    assert_eq!(picture.boxes.len() as u64 + picture.left_out.nodes, graph.nodes.len() as u64);
    for (i, link) in graph.links.iter().enumerate() {
        let both = placed.contains_key(&link.from) && placed.contains_key(&link.to);
        assert_eq!(both, drawn.contains(&i), "link {i}");
        assert_eq!(
            picture.texts.iter().filter(|text| text.owner == Owner::Link(i)).count(),
            usize::from(both)
        );
    }
}

fn any_graph() -> impl Strategy<Value = Graph> {
    (1_usize..14).prop_flat_map(|n| {
        let calls = prop::collection::vec((0..n, 0..n, 1_u64..99_999), 0..24);
        let names = prop::collection::vec("[a-z.주문]{1,40}", n);
        (names, calls)
            .prop_map(|(names, calls)| graph(&names.iter().map(String::as_str).collect::<Vec<_>>(), &calls))
    })
}

proptest! {
    #[test]
    fn boxes_and_lines_of_any_calls_can_be_told_apart(graph in any_graph(), width in 20_u16..300, height in 3_u16..80) {
        let found = picture(&graph, width, height);
        prop_assert_eq!(&found, &picture(&graph, width, height));
        if let Some(picture) = found {
            check(&graph, &picture, width, height);
            for symbols in [Symbols::Unicode, Symbols::Ascii] {
                for line in picture.lines(&graph.nodes, symbols) {
                    prop_assert!(line.width() <= usize::from(picture.width), "{}", line);
                }
            }
        }
    }
}

#[test]
fn a_chain_with_a_cycle_a_call_to_itself_and_a_far_end_is_drawn_from_left_to_right() {
    let graph = graph(
        &["shop", "stock", "10.0.0.9:5432", "192.168.7.7", "cart"],
        &[(0, 1, 100), (3, 0, 400), (1, 2, 31), (0, 2, 20), (4, 4, 6), (0, 4, 10), (1, 0, 2)],
    );
    let picture = picture(&graph, 140, 30).unwrap();
    check(&graph, &picture, 140, 30);
    assert_eq!(picture.left_out.nodes, 0);
    insta::assert_snapshot!("graph_unicode", picture.lines(&graph.nodes, Symbols::Unicode).join("\n"));
    let ascii = picture.lines(&graph.nodes, Symbols::Ascii).join("\n");
    assert!(ascii.is_ascii(), "{ascii}");
    insta::assert_snapshot!("graph_ascii", ascii);
}

#[test]
fn the_busiest_are_drawn_and_the_others_are_counted() {
    let names: Vec<String> = (0..200).map(|i| format!("10.0.0.{i}")).chain(["shop".to_owned()]).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let calls: Vec<(usize, usize, u64)> = (0..200).map(|i| (i, 200, 1_000 - i as u64)).collect();
    let graph = graph(&names, &calls);
    let picture = picture(&graph, 80, 20).unwrap();
    check(&graph, &picture, 80, 20);
    let drawn: BTreeSet<usize> = picture.boxes.iter().map(|placed| placed.node).collect();
    assert!(drawn.len() > 3 && drawn.contains(&200), "{drawn:?}");
    assert!((0..drawn.len() - 1).all(|node| drawn.contains(&node)), "{drawn:?}");
    assert_eq!(picture.left_out.nodes, 201 - drawn.len() as u64);
}

#[test]
fn the_map_stands_between_the_tables_where_there_is_room_and_m_takes_it_away() {
    let hostile = "\u{1b}[2J\u{202e}x";
    let transactions: Vec<Transaction> = (0..2_000_u64)
        .map(|i| Transaction {
            end_time: WallTime(START + 200 * SECOND + i * SECOND / 20),
            client_addr: format!("10.0.{}.{}", i % 7, (i * i) % 50).into(),
            service: if i % 4 == 0 { hostile.into() } else { "shop".into() },
            error: i % 3 == 0,
            seq: i,
            ..transaction(0)
        })
        .collect();
    let feed = feed(transactions, &[snapshot()]);
    let mut app = App::default();
    let with = press(&feed, (120, 40), &mut app, &typed("5"));
    assert!(!with.text().contains(['\u{1b}', '\u{202e}']), "{}", with.text());
    let (graph, picture) = with.model.map.as_ref().unwrap();
    let picture = picture.as_ref().unwrap();
    check(graph, picture, 120, 40);
    let line = with.lines().into_iter().find(|line| line.starts_with("+ ")).expect("some have no room");
    assert_eq!(with.number_before(&line, " more"), picture.left_out.nodes);
    assert!(
        line.contains(&format!("({} calls, ", tracer_user::report::format::count(picture.left_out.calls)))
    );
    // Errors are red, and nothing else in a label is.
    let red: Vec<(u16, u16)> = (10..28)
        .flat_map(|y| (0..120).map(move |x| (x, y)))
        .filter(|&at| with.buffer[at].style().fg == Some(Color::Red))
        .collect();
    assert!(!red.is_empty());
    for at in red {
        assert!(" er0123456789,".contains(with.buffer[at].symbol()), "{at:?} {}", with.text());
    }
    let ascii = Theme { colours: Colours::None, symbols: Symbols::Ascii, ..MANY };
    let plain = screen(&feed, 120, 40, ascii, app.clone()).text();
    assert!(plain.contains("->|") && !plain.contains(['─', '▶', '╌']), "{plain}");
    let without = press(&feed, (120, 40), &mut app, &typed("m"));
    assert!(without.model.map.is_none() && without.layout.rows > with.layout.rows);
    let back = press(&feed, (120, 40), &mut app, &typed("m"));
    assert_eq!(back.text(), with.text());
    let narrow = press(&feed, (80, 24), &mut app, &[]);
    assert!(narrow.model.map.is_none() && narrow.text().contains("no room for the map"));
}
