//! What keys do to what the user chose.

use proptest::prelude::*;

use super::*;

fn seen(n_rows: usize) -> Seen {
    let area = ChartArea {
        width: 60,
        height: 10,
        end: WallTime(1_000 * SECOND_NS),
        window_ns: 5 * MINUTE_NS,
        axis: Axis::Elapsed,
        y_max_ns: 10 * SECOND_NS,
        scale: Scale::Log,
        roles: Roles::Servers,
    };
    let row = Arc::new(crate::sink::compliance::transaction(1));
    Seen {
        now: WallTime(1_000 * SECOND_NS),
        n_rows,
        page: 5,
        chart: Some(Geometry::of(area)),
        row: Some(row),
        played: None,
        has_past: false,
        kept_from: WallTime(0),
        narrow: None,
        call: Some(7),
        conn: Some(ConnId(1)),
        pattern: None,
        range: SeenRange::default(),
        flight: None,
        stacks: SeenStacks::default(),
    }
}

fn keys(app: &mut App, text: &str) {
    for c in text.chars() {
        app.key(Key::Char(c), &seen(9));
    }
}

#[test]
fn the_top_of_the_axis_is_typed() {
    let mut app = App::default();
    keys(&mut app, "y500ms");
    assert_eq!(app.prompt.as_ref().map(|prompt| prompt.text.as_str()), Some("500ms"));
    app.key(Key::Enter, &seen(0));
    assert_eq!((app.y_max_ns, app.prompt.is_none()), (500_000_000, true));
    keys(&mut app, "yq");
    app.key(Key::Enter, &seen(0));
    assert_eq!(app.y_max_ns, 500_000_000);
    assert!(app.complaint.is_some());
    keys(&mut app, "y9");
    app.key(Key::Escape, &seen(0));
    assert_eq!(app.y_max_ns, 500_000_000);
}

#[test]
fn a_short_run_gets_a_short_window() {
    assert_eq!(App::with_window(Some(20 * SECOND_NS)).window_ns, MINUTE_NS);
    assert_eq!(App::with_window(Some(90 * SECOND_NS)).window_ns, 2 * MINUTE_NS);
    assert_eq!(App::with_window(None).window_ns, 5 * MINUTE_NS);
}

#[test]
fn pausing_holds_the_windows_end_and_the_same_key_lets_it_go() {
    let mut app = App::default();
    let at = |now| Seen { now: WallTime(now), ..Seen::default() };
    app.key(Key::Char(' '), &at(7));
    assert_eq!(app.end(WallTime(1_000)), WallTime(7));
    app.key(Key::Char(' '), &at(1_000));
    assert_eq!(app.end(WallTime(2_000)), WallTime(2_000));
}

#[test]
fn the_selection_stays_inside_the_table() {
    let mut app = App::default();
    for (key, at) in [(Key::Down, 1), (Key::PageDown, 6), (Key::PageDown, 8), (Key::Home, 0), (Key::End, 8)] {
        app.key(key, &seen(9));
        assert_eq!(app.operations.selected, at, "{key:?}");
    }
    for _ in 0..10 {
        app.key(Key::Up, &seen(9));
    }
    assert_eq!(app.operations.selected, 0);
}

#[test]
fn q_leaves_but_is_a_letter_in_the_prompt() {
    let mut app = App::default();
    assert_eq!(app.key(Key::Char('y'), &seen(0)), Command::Draw);
    assert_eq!(app.key(Key::Char('q'), &seen(0)), Command::Draw);
    app.key(Key::Escape, &seen(0));
    assert_eq!(app.key(Key::Char('q'), &seen(0)), Command::Quit);
    assert_eq!(app.key(Key::Interrupt, &seen(0)), Command::Interrupt);
}

#[test]
fn a_rectangle_is_selected_listed_and_opened_and_each_is_left_by_escape() {
    let mut app = App::default();
    keys(&mut app, "2v");
    assert_eq!(app.place(), Place::Select);
    // Dots do not wander off under the cursor.
    assert!(app.paused.is_some());
    keys(&mut app, "hhv");
    keys(&mut app, "llllj");
    assert_eq!(app.cursor, Some(Cursor { at: (32, 6), corner: Some((28, 5)), froze: true }));
    app.key(Key::Enter, &seen(3));
    assert_eq!(app.place(), Place::List);
    let rectangle = app.selection.expect("something is selected");
    assert!(rectangle.has(28, 5) && rectangle.has(32, 6) && !rectangle.has(33, 6));
    app.key(Key::Enter, &seen(3));
    assert_eq!(app.place(), Place::Detail);
    keys(&mut app, "?");
    assert_eq!(app.place(), Place::Help);
    for place in [Place::Detail, Place::List, Place::Select, Place::View(View::Xlog)] {
        app.key(Key::Escape, &seen(3));
        assert_eq!(app.place(), place);
    }
    assert_eq!((app.paused, app.cursor), (None, None));
    // What was frozen before stays so.
    keys(&mut app, " v");
    app.key(Key::Escape, &seen(3));
    assert!(app.paused.is_some());
}

#[test]
fn a_zoom_shows_the_rectangle_and_is_taken_back() {
    let mut app = App::default();
    keys(&mut app, "2");
    let before = (app.window_ns, app.back_ns, app.paused, app.y_max_ns);
    keys(&mut app, "v");
    app.drag((12, 2), (23, 7), false, &seen(0));
    keys(&mut app, "z");
    // 12 of 60 columns of 5 s each, ending 36 columns before the right edge.
    assert_eq!((app.window_ns, app.back_ns), (60 * SECOND_NS, 180 * SECOND_NS));
    assert_eq!((app.y_max_ns, app.is_zoomed()), (SECOND_NS, true));
    app.key(Key::Escape, &seen(0));
    assert_eq!((app.window_ns, app.back_ns, app.paused, app.y_max_ns), before);
}

#[test]
fn a_filter_that_cannot_be_read_stays_with_its_fault_and_one_that_can_is_taken() {
    let mut app = App::default();
    keys(&mut app, "/duration >> 1s");
    assert_eq!(app.key(Key::Enter, &seen(0)), Command::Draw);
    let prompt = app.prompt.clone().expect("it stays");
    assert_eq!(
        (prompt.text.as_str(), prompt.fault, app.filter.is_none()),
        ("duration >> 1s", Some(10), true)
    );
    assert!(
        app.complaint.as_deref().is_some_and(|text| text.starts_with("column 11: ")),
        "{:?}",
        app.complaint
    );
    for _ in 0..4 {
        app.key(Key::Backspace, &seen(0));
    }
    keys(&mut app, " 1s");
    app.key(Key::Enter, &seen(0));
    assert_eq!(app.filter.as_ref().map(|filter| filter.text()), Some("duration > 1s"));
    keys(&mut app, "/");
    assert_eq!(app.prompt.as_ref().map(|prompt| prompt.text.as_str()), Some("duration > 1s"));
    app.key(Key::Escape, &seen(0));
    assert!(app.prompt.is_none() && app.filter.is_some());
    app.key(Key::Escape, &seen(0));
    assert!(app.filter.is_none());
}

#[test]
fn windows_go_through_the_same_steps_both_ways() {
    let mut window = 5 * MINUTE_NS;
    let down: Vec<u64> = (0..11)
        .map(|_| {
            window = shorter(window);
            window / SECOND_NS
        })
        .collect();
    assert_eq!(down, [240, 180, 120, 60, 30, 20, 10, 5, 2, 1, 1]);
    let up: Vec<u64> = (0..10)
        .map(|_| {
            window = longer(window);
            window / SECOND_NS
        })
        .collect();
    assert_eq!(up, [2, 5, 10, 20, 30, 60, 120, 180, 240, 300]);
    assert_eq!(longer(LONGEST_NS), LONGEST_NS);
}

fn any_key() -> impl Strategy<Value = Key> {
    let bound: Vec<Key> =
        crate::tui::keymap::BINDINGS.iter().flat_map(|binding| binding.keys).copied().collect();
    let typed = "0123456789.msqx ".chars().map(Key::Char).collect::<Vec<_>>();
    prop_oneof![
        any::<char>().prop_map(Key::Char),
        prop::sample::select(typed),
        prop::sample::select(bound),
        Just(Key::Backspace),
    ]
}

proptest! {
    #[test]
    fn no_sequence_of_keys_leaves_the_bounds(
        keys in prop::collection::vec((any_key(), 1_usize..80), 0..60),
        n_rows in 0_usize..9,
    ) {
        let mut app = App::default();
        let seen = seen(n_rows);
        // A key held down: single ones cancel out before they reach a bound.
        for key in keys.into_iter().flat_map(|(key, n)| std::iter::repeat_n(key, n)) {
            app.key(key, &seen);
            prop_assert!((SHORT_NS[0]..=LONGEST_NS).contains(&app.window_ns));
            prop_assert_eq!(app.axis.top(app.y_max_ns), app.y_max_ns);
            prop_assert!(Axis::ALL.iter().all(|axis| axis.top(app.tops[*axis as usize]) == app.tops[*axis as usize]));
            prop_assert!(app.unfolded.len() <= 1);
            prop_assert!(app.conns.selected <= n_rows.saturating_sub(1));
            prop_assert!(app.end(seen.now) <= seen.now);
            prop_assert!(app.operations.selected <= n_rows.saturating_sub(1));
            prop_assert!(app.list.selected <= n_rows.saturating_sub(1));
            prop_assert!(app.active.selected <= n_rows.saturating_sub(1));
            prop_assert!(app.prompt.as_ref().is_none_or(|prompt| prompt.text.len() <= crate::tui::typing::MAX_TYPED[1] + 3));
            prop_assert!(app.zooms.len() <= MAX_ZOOMS);
            prop_assert!(app.cursor.is_none_or(|cursor| cursor.at.0 < 60 && cursor.at.1 < 10));
        }
    }
}
