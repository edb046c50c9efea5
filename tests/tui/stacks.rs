//! Call stacks on the screen: the flame graph is walked, zoomed into and compared; figures are those that a scan finds.

use tracer_user::{
    event::StackEnd,
    report::stacks::{Parts, StackTree, folded},
    transaction::{
        anatomy::{Anatomy, Causes, Reason},
        stacks::{StackPart, StackSum, frames_text},
    },
};

use super::{views::select_columns, *};

/// The transactions of a busy shop with what they were met doing: all compute, every third one waits for a lock in `lock`, every seventh reads a disk.
pub(super) fn with_stacks(lock: &str, file: &str) -> Vec<Transaction> {
    let own = |name: &str| format!("{name}+0x12 ({file})");
    let main = ["handle", "serve", "main"].map(own);
    let stack = |part, ns: u64, count, inner: &[String], end| {
        let frames: Vec<&String> = inner.iter().chain(&main).collect();
        StackSum { part, ns, count, frames: frames_text(&frames), end }
    };
    let libc = |name: &str| format!("{name}+0x7 (libc.so.6)");
    let kernel = |name: &str| format!("{name}+0x9 (kernel)");
    busy()
        .into_iter()
        .enumerate()
        .map(|(i, row)| {
            let i = i as u64;
            let whole = row.duration_ns as u64;
            let mut stacks = vec![
                stack(StackPart::OnCpu, whole / 4, 3, &[own("render")], StackEnd::Complete),
                stack(StackPart::OnCpu, whole / 10, 1, &[libc("memcpy"), own("render")], StackEnd::Complete),
            ];
            if i.is_multiple_of(3) {
                let inner = [kernel("futex_wait"), libc("pthread_mutex_lock"), own(lock)];
                stacks.push(stack(
                    StackPart::Off(Reason::Futex),
                    whole / 2,
                    1,
                    &inner,
                    StackEnd::UnknownCaller,
                ));
            }
            if i.is_multiple_of(7) {
                let inner = [kernel("io_schedule"), libc("pread64"), own("load")];
                stacks.push(stack(StackPart::Off(Reason::Disk), whole / 8, 2, &inner, StackEnd::Truncated));
            }
            // Every fifth one keeps none.
            let stacks = if i.is_multiple_of(5) { Vec::new() } else { stacks };
            let anatomy = Anatomy { user_ns: whole / 3, unattributed_ns: whole / 3, ..Anatomy::default() };
            let causes = Causes { anatomy: Some(anatomy), stacks, ..Causes::default() };
            Transaction { causes: Some(Box::new(causes)), ..row }
        })
        .collect()
}

const SIZE: (u16, u16) = (120, 40);

fn shop() -> Feed {
    feed(with_stacks("cart::lock", "shop"), &[snapshot()])
}

#[test]
fn stacks_of_all_that_is_kept_are_a_flame_graph_and_a_table() {
    let feed = shop();
    let mut app = App::default();
    let screen = press(&feed, SIZE, &mut app, &typed("7"));
    let shown = screen.model.stacks.as_ref().unwrap();
    let rows = with_stacks("cart::lock", "shop");
    let by_hand = StackTree::of(Parts::Both, rows.iter());
    assert_eq!(shown.tree.total(), by_hand.total());
    assert_eq!(folded::lines(&shown.tree, false), folded::lines(&by_hand, false));
    for (key, parts) in [("c", Parts::On), ("c", Parts::Off), ("c", Parts::Both)] {
        let screen = press(&feed, SIZE, &mut app, &typed(key));
        let by_hand = StackTree::of(parts, rows.iter());
        assert_eq!(screen.model.stacks.as_ref().unwrap().tree.total(), by_hand.total(), "{parts:?}");
        read_back::check(&screen, "parts");
        if parts == Parts::Off {
            insta::assert_snapshot!("stacks_off_120x40", screen.text());
        }
    }
}

#[test]
fn a_frame_is_walked_to_zoomed_into_and_left_again() {
    let feed = shop();
    let mut app = App::default();
    let first = press(&feed, SIZE, &mut app, &typed("7"));
    assert_eq!(selected(&first), "all");
    // The widest first; to its neighbour on the right, and back; down.
    let beside = press(&feed, SIZE, &mut app, &[Key::Down, Key::Right]);
    assert_eq!(path(&beside), ["[on a CPU]"]);
    let lock = press(&feed, SIZE, &mut app, &[Key::Left, Key::Down, Key::Down]);
    assert_eq!(path(&lock), ["[waiting for a lock]", "[unknown caller]", "main (shop)"]);
    let zoomed = press(&feed, SIZE, &mut app, &[Key::Enter]);
    insta::assert_snapshot!("stacks_zoomed_120x40", zoomed.text());
    let line = &zoomed.lines()[usize::from(zoomed.layout.flame.y)];
    assert!(line.starts_with("▏main"), "{line}");
    // Above what was zoomed to there is nothing to go to.
    let still = press(&feed, SIZE, &mut app, &[Key::Up]);
    assert_eq!(path(&still), path(&zoomed));
    let deeper = press(&feed, SIZE, &mut app, &[Key::Down, Key::Down, Key::Enter]);
    assert_eq!(path(&deeper).last().unwrap(), "handle (shop)");
    for expected in [path(&zoomed), Vec::new()] {
        let out = press(&feed, SIZE, &mut app, &[Key::Escape]);
        let zoom = out.model.stacks.as_ref().unwrap().zoom;
        assert_eq!(names(&out, zoom), expected);
    }
    // Then as everywhere: what was narrowed to is left.
    press(&feed, SIZE, &mut app, &typed("E"));
    assert!(app.is_narrowed());
    press(&feed, SIZE, &mut app, &[Key::Escape]);
    assert!(!app.is_narrowed());
}

#[test]
fn a_function_is_shown_between_its_callers_and_what_it_calls() {
    let feed = shop();
    let mut app = App::default();
    let table = press(&feed, SIZE, &mut app, &typed("7t"));
    let nth = table.model.stacks.as_ref().unwrap();
    let at = nth
        .functions
        .iter()
        .position(|row| &*nth.tree.functions[row.function as usize].name == "handle")
        .unwrap();
    let mut keys = vec![Key::Home];
    keys.extend(std::iter::repeat_n(Key::Down, at));
    keys.push(Key::Enter);
    let screen = press(&feed, SIZE, &mut app, &keys);
    insta::assert_snapshot!("stacks_between_120x40", screen.text());
    let shown = screen.model.stacks.as_ref().unwrap();
    let sandwich = shown.sandwich.as_ref().unwrap();
    assert_eq!(sandwich.callers.total(), sandwich.callees.total());
    // The function stands in the middle, once as the callers' and once as the callees'.
    let (flame, lines) = (screen.layout.flame, screen.lines());
    let middle = usize::from(flame.y + flame.height / 2);
    assert!(
        lines[middle - 1].starts_with("▏handle") && lines[middle].starts_with("▏handle"),
        "{}",
        screen.text()
    );
    let left = press(&feed, SIZE, &mut app, &[Key::Escape]);
    assert!(left.model.stacks.as_ref().unwrap().sandwich.is_none());
}

#[test]
fn the_table_is_walked_and_sorted() {
    let feed = shop();
    let mut app = App::default();
    for (key, column) in [("7", "internal"), ("s", "external"), ("s", "count")] {
        let screen = press(&feed, SIZE, &mut app, &typed(key));
        assert!(screen.text().contains(&format!("▾{column}")), "{}", screen.text());
        let shown = screen.model.stacks.as_ref().unwrap();
        let figures: Vec<u64> = shown
            .functions
            .iter()
            .map(|row| match column {
                "internal" => row.own[0].ns,
                "external" => row.all[0].ns,
                _ => row.all[0].count,
            })
            .collect();
        assert!(figures.is_sorted_by(|a, b| a >= b), "{column}: {figures:?}");
    }
    let last = press(&feed, SIZE, &mut app, &[Key::Char('t'), Key::End]);
    let n = last.model.stacks.as_ref().unwrap().functions.len();
    assert_eq!(app.stacks.table.selected, n - 1);
    read_back::header(&last, "last");
}

/// A rectangle of the XLog, opened from its list, holds the requests that are listed; the others are those of the same chart.
#[test]
fn stacks_of_a_rectangle_are_compared_with_those_of_the_other_requests() {
    let feed = shop();
    let mut app = App::default();
    let xlog = press(&feed, SIZE, &mut app, &typed("2"));
    let mut keys = select_columns(&xlog, 20, 39);
    keys.push(Key::Enter);
    let list = press(&feed, SIZE, &mut app, &keys);
    let rows = list.model.list.as_ref().unwrap().rows.clone();
    let screen = press(&feed, SIZE, &mut app, &typed("7"));
    let rectangle = app.stacks.rectangle.unwrap();
    let shown = screen.model.stacks.as_ref().unwrap();
    let by_hand = StackTree::of(Parts::Both, rows.iter().map(|row| &**row));
    assert_eq!((shown.requests()[0].all, shown.tree.total()), (rows.len() as u64, by_hand.total()));
    assert_eq!(app.paused, None, "what was frozen for the selection goes on");
    let compared = press(&feed, SIZE, &mut app, &typed("b"));
    insta::assert_snapshot!("stacks_compared_120x40", compared.text());
    let all = with_stacks("cart::lock", "shop");
    let others =
        all.iter().filter(|row| rectangle.is_on_chart(row.role, row.end_time) && !rectangle.holds(row));
    let by_hand = StackTree::of(Parts::Both, others);
    let shown = compared.model.stacks.as_ref().unwrap();
    assert_eq!(
        (shown.requests()[1].with_stacks, shown.tree.total()[1]),
        (by_hand.requests[0].with_stacks, by_hand.total()[0])
    );
    // Out again: the comparison, the rectangle.
    press(&feed, SIZE, &mut app, &[Key::Escape]);
    assert!(!app.stacks.is_diff && app.stacks.rectangle.is_some());
    press(&feed, SIZE, &mut app, &[Key::Escape]);
    assert_eq!(app.stacks.rectangle, None);
    press(&feed, SIZE, &mut app, &typed("b"));
    assert!(app.complaint.as_ref().unwrap().contains("select a rectangle"), "{:?}", app.complaint);
}

#[test]
fn a_terminal_without_colours_or_with_ascii_alone_sees_the_frames_too() {
    let feed = shop();
    for (name, colours, symbols) in
        [("plain", Colours::None, Symbols::Unicode), ("ascii", Colours::None, Symbols::Ascii)]
    {
        let theme = Theme { colours, symbols, palette: Palette::DEFAULT };
        let app = App { view: View::Stacks, ..App::default() };
        let screen = screen(&feed, 80, 24, theme, app);
        insta::assert_snapshot!(format!("stacks_{name}_80x24"), screen.text());
        let flame = screen.layout.flame;
        let cells = (flame.y..flame.bottom()).flat_map(|y| (flame.x..flame.right()).map(move |x| (x, y)));
        for at in cells.filter(|_| symbols == Symbols::Ascii) {
            // What does not fit ends with the one sign that all of the screen's texts end with.
            let symbol = screen.buffer[at].symbol();
            assert!(symbol.is_ascii() || symbol == "…", "{symbol:?}");
        }
    }
}

#[test]
fn where_there_are_no_stacks_it_says_how_to_have_some() {
    let screen = press(&feed(busy(), &[snapshot()]), (80, 24), &mut App::default(), &typed("7"));
    let text = screen.text();
    assert!(text.contains("no call stacks") && text.contains("--stacks all"), "{text}");
}

#[test]
fn the_tree_is_made_once_a_second_of_the_seconds_that_are_over() {
    let feed = shop();
    let mut app = App::default();
    let first = press(&feed, SIZE, &mut app, &typed("7"));
    let next = press(&feed, SIZE, &mut app, &[Key::Down]);
    let again =
        screen_after(&feed, Rect::new(0, 0, 120, 40), MANY, &mut app, &Heading::default(), Some(&next.model));
    let tree = |screen: &Screen| screen.model.stacks.as_ref().unwrap().tree.clone();
    assert!(Arc::ptr_eq(&tree(&next), &tree(&again)), "the same second, the same tree");
    let more: Vec<Transaction> = with_stacks("cart::lock", "shop")
        .into_iter()
        .take(3)
        .map(|row| Transaction {
            end_time: WallTime(START + 309 * SECOND + SECOND * 9 / 10),
            seq: row.seq + 10_000,
            ..row
        })
        .collect();
    fill(&feed, more, &[snapshot()]);
    let later =
        screen_after(&feed, Rect::new(0, 0, 120, 40), MANY, &mut app, &Heading::default(), Some(&next.model));
    assert!(tree(&later).total()[0].ns > tree(&first).total()[0].ns);
    assert_eq!(selected(&later), "[waiting for a lock]", "what is selected stays, by its name");
}

#[test]
fn the_detail_of_a_transaction_shows_its_stacks_below_where_its_time_went() {
    let rows = with_stacks("cart::lock", "shop");
    let row = rows.iter().find(|row| row.seq == 21).unwrap().clone();
    let feed = feed(rows, &[snapshot()]);
    let app = App { detail: Some(row.into()), ..App::default() };
    let screen = screen(&feed, 100, 70, MANY, app);
    let lines = screen.lines();
    let at = |what: &str| {
        lines.iter().position(|line| line.contains(what)).unwrap_or_else(|| panic!("{}", screen.text()))
    };
    assert!(at("where the time went") < at("what its thread was met doing"));
    assert!(at("what its thread was met doing") < at("- [on a CPU]"));
    let text = lines[at("what its thread was met doing")..at("id ")].join("\n");
    insta::assert_snapshot!("detail_stacks", text);
}

fn names(screen: &Screen, node: u32) -> Vec<String> {
    let tree = &screen.model.stacks.as_ref().unwrap().tree;
    tree.path(node).iter().map(|function| tree.functions[*function as usize].label().into_owned()).collect()
}

fn path(screen: &Screen) -> Vec<String> {
    names(screen, screen.model.stacks.as_ref().unwrap().selected)
}

fn selected(screen: &Screen) -> String {
    let shown = screen.model.stacks.as_ref().unwrap();
    shown.tree.function_of(shown.selected).label().into_owned()
}

#[test]
fn frames_have_colours_by_what_they_are_and_compared_ones_by_what_is_more() {
    let feed = shop();
    let mut app = App::default();
    let screen = press(&feed, SIZE, &mut app, &typed("7"));
    let flame = screen.layout.flame;
    let looks = |screen: &Screen| {
        let mut looks = Vec::new();
        for y in flame.y + 1..flame.bottom() {
            let cell = &screen.buffer[(0, y)];
            if cell.symbol() == "▏" && !looks.contains(&(cell.fg, cell.modifier)) {
                looks.push((cell.fg, cell.modifier));
            }
        }
        looks
    };
    // A part, a mark, functions of the program, functions of the kernel.
    assert_eq!(looks(&screen).len(), 4, "{:?}", looks(&screen));
    assert!(looks(&screen).iter().all(|(_, modifier)| modifier.contains(Modifier::REVERSED)));
    // Of a chart with one slow request that waits, and others that do not.
    let own = ["lock+0x1 (shop)", "main+0x1 (shop)"];
    let rows: Vec<Transaction> = (0..20)
        .map(|i| {
            let (ns, frames) = if i == 10 { (900_000_000, &own[..]) } else { (1_000_000, &own[1..]) };
            let frames = frames_text(frames);
            let part = StackPart::OnCpu;
            let stacks = vec![StackSum { part, ns, count: 1, frames, end: StackEnd::Complete }];
            let causes = Causes { stacks, ..Causes::default() };
            Transaction {
                // In a second that is over.
                end_time: WallTime(START + (99 + 10 * i) * SECOND + SECOND * 9 / 10),
                duration_ns: ns as i64,
                causes: Some(Box::new(causes)),
                seq: i,
                ..transaction(0)
            }
        })
        .collect();
    let feed = super::feed(rows, &[snapshot()]);
    let mut app = App::default();
    let xlog = press(&feed, SIZE, &mut app, &typed("2"));
    let slow = xlog.chart().row_of(900_000_000).unwrap();
    // All columns of the upper rows.
    let area = xlog.layout.chart;
    let mut keys = vec![Key::Char('v')];
    keys.extend(std::iter::repeat_n(Key::Left, usize::from(area.width)));
    keys.extend(std::iter::repeat_n(Key::Up, usize::from(area.height)));
    keys.push(Key::Char('v'));
    keys.extend(std::iter::repeat_n(Key::Right, usize::from(area.width)));
    keys.extend(std::iter::repeat_n(Key::Down, usize::from(slow + 1)));
    keys.extend([Key::Enter, Key::Char('7'), Key::Char('b')]);
    let screen = press(&feed, SIZE, &mut app, &keys);
    let shown = screen.model.stacks.as_ref().unwrap();
    assert_eq!(shown.requests().map(|requests| requests.all), [1, 19]);
    let lines = screen.lines();
    let at = lines.iter().position(|line| line.starts_with("▏+900ms lock")).unwrap() as u16;
    assert_eq!(screen.buffer[(0, at)].fg, Color::Rgb(0xff, 84, 84), "only the selected one has it");
}

#[test]
fn all_functions_are_exported_with_their_sums() {
    let feed = shop();
    let mut app = App::default();
    let screen = press(&feed, SIZE, &mut app, &typed("7"));
    let shown = screen.model.stacks.as_ref().unwrap().clone();
    let dir = tempfile::tempdir().unwrap();
    actions::export(&feed, dir.path(), &mut app, "functions.jsonl");
    let text = std::fs::read_to_string(dir.path().join("functions.jsonl")).unwrap();
    let rows: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows.len(), shown.functions.len());
    assert_eq!((&rows[0]["function"], &rows[0]["file"]), (&"futex_wait".into(), &"kernel".into()));
    for (row, function) in rows.iter().zip(&*shown.functions) {
        assert_eq!(row["internal_ns"], function.own[0].ns);
        assert_eq!(row["external_ns"], function.all[0].ns);
        assert_eq!(row["other_external_ns"], 0);
    }
}
