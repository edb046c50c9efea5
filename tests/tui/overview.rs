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

/// One transaction of each look, a minute apart, the least important first.
fn one_of_each() -> Vec<Transaction> {
    let ends = [
        Transaction { status_code: Some(200), ..transaction(30) },
        Transaction { status_code: Some(404), ..transaction(90) },
        Transaction { status_code: None, end: End::Stuck, error: true, ..transaction(150) },
        Transaction { status_code: None, end: End::Reset, error: true, ..transaction(210) },
        Transaction { status_code: Some(500), error: true, ..transaction(270) },
    ];
    ends.into_iter().zip(0..).map(|(one, seq)| Transaction { seq, ..one }).collect()
}

/// Symbol, colour and modifier of the cells of the XLog that are not empty, column by column.
fn painted(screen: &Screen) -> Vec<(String, Option<Color>, Modifier)> {
    let area = screen.layout.chart;
    let cells = (area.x..area.right()).flat_map(|x| (area.y..area.bottom()).map(move |y| (x, y)));
    let cells = cells.map(|at| &screen.buffer[at]).filter(|cell| cell.symbol() != " ");
    cells.map(|cell| (cell.symbol().to_owned(), cell.style().fg, cell.modifier)).collect()
}

#[test]
fn a_4xx_an_aborted_and_a_failed_transaction_each_have_their_dot_and_their_line() {
    let feed = feed(one_of_each(), &[snapshot()]);
    let xlog = App { view: View::Xlog, ..App::default() };
    let of = |theme: Theme| painted(&screen(&feed, 80, 24, theme, xlog.clone()));
    let colours: Vec<_> = of(MANY).into_iter().map(|(_, colour, _)| colour.unwrap()).collect();
    let [blue, yellow, pink, magenta, red] = [
        Color::Rgb(0x5c, 0xa8, 0xff),
        Color::Rgb(0xf2, 0xcb, 0x61),
        Color::Rgb(0xff, 0x82, 0xc1),
        Color::Rgb(0xd0, 0x60, 0xff),
        Color::Rgb(0xff, 0x54, 0x54),
    ];
    assert_eq!(colours, [blue, yellow, pink, magenta, red]);
    // Fewer colours: letters too. None: letters, and a line below a dot.
    let symbols = |theme: Theme| of(theme).into_iter().map(|(symbol, ..)| symbol).collect::<String>();
    let sixteen = Theme { colours: Colours::Sixteen, ..MANY };
    let none = Theme { colours: Colours::None, ..MANY };
    let dots: String = symbols(MANY).chars().take(2).collect();
    assert_eq!([symbols(sixteen), symbols(none)], [format!("{dots}SAE"), format!("{dots}SAE")]);
    let underlined: Vec<bool> =
        of(none).iter().map(|(_, _, modifier)| modifier.contains(Modifier::UNDERLINED)).collect();
    assert_eq!(underlined, [false, true, false, false, false]);
    assert_eq!(symbols(Theme { symbols: Symbols::Ascii, ..none }), ".4SAE");
    // The title counts what failed, and the list paints its lines as the dots.
    let title = screen(&feed, 80, 24, MANY, xlog).lines()[3].clone();
    assert!(title.contains("served 5  2 errors"), "{title}");
    let all =
        [typed("2v"), vec![Key::Left; 80], vec![Key::Up; 40], typed("v"), vec![Key::Right; 80]].concat();
    let keys = [all, vec![Key::Down; 40], vec![Key::Enter], typed("ss")].concat();
    let list = press(&feed, (80, 24), &mut App::default(), &keys);
    // By class, the worst first; the first line is the selected one.
    let shown: Vec<_> = (6..10).map(|y| list.buffer[(0, y)].style().fg.unwrap()).collect();
    assert_eq!(shown, [magenta, pink, yellow, Color::Reset], "{}", list.text());
}

#[test]
fn where_dots_share_a_cell_the_worst_is_shown_and_the_help_says_so() {
    let together: Vec<_> = one_of_each()
        .into_iter()
        .map(|one| Transaction { end_time: WallTime(START + 60 * SECOND), ..one })
        .collect();
    let xlog = App { view: View::Xlog, ..App::default() };
    for n in 1..=together.len() {
        let alone = painted(&screen(&feed(one_of_each(), &[]), 80, 24, MANY, xlog.clone()));
        let mut some = together[..n].to_vec();
        for _ in 0..2 {
            let shared = painted(&screen(&feed(some.clone(), &[]), 80, 24, MANY, xlog.clone()));
            assert_eq!(shared.iter().map(|cell| cell.1).collect::<Vec<_>>(), [alone[n - 1].1], "{n}");
            some.reverse();
        }
    }
    let help = press(&feed(one_of_each(), &[]), (80, 80), &mut App::default(), &typed("2?"));
    let line = help.lines().iter().position(|line| line.contains("Dots: ")).expect("a legend");
    assert!(help.lines()[line].contains("Dots: fine, long-lived, 4xx, stuck, aborted, error"));
    let text = help.lines()[line].clone();
    let colour = |word: &str| help.buffer[(text.find(word).unwrap() as u16, line as u16)].style().fg;
    assert_eq!(colour("4xx"), Some(Color::Rgb(0xf2, 0xcb, 0x61)));
    assert_eq!(colour("aborted"), Some(Color::Rgb(0xd0, 0x60, 0xff)));
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
    assert!(after(&typed("?jjjjjjjjjjjjjjjj")).text().contains("type the top of the axis"));
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
