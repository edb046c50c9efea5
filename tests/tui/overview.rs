//! The overview, and what all views share.

use super::*;

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
        ..Heading::default()
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
        let none = Theme { colours: Colours::None, ..MANY };
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
    let theme = Theme { colours: Colours::Sixteen, symbols: Symbols::Ascii, ..MANY };
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
    assert!(after(&typed("?jjjjjjjjjjjj")).text().contains("type the top of the axis"));
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
