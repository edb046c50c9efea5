//! The figures on a screen, read from its cells and held against the model that it was drawn from.

use tracer_user::report::format::{clock, duration};

use super::*;

/// A figure of a row, as the model has it.
pub(super) enum Figure {
    /// Exactly.
    Count(u64),
    /// To the last digit that is shown.
    Ns(u64),
    /// A rate over so many seconds.
    Rate(u64, u64),
    /// Bytes.
    Bytes(u64),
    /// A share of 1.
    Share(f64),
    /// There is none.
    None,
}

/// Reads everything that the view shows.
pub(super) fn check(screen: &Screen, what: &str) {
    header(screen, what);
    losses(screen, what);
    match screen.app.view {
        View::Overview => {
            chart(screen, what);
            flights(screen, what);
            operations(screen, what);
        }
        View::Xlog => {
            chart(screen, what);
            percentiles(screen, what);
        }
        View::Active => {
            flights(screen, what);
            active(screen, what);
        }
        View::Operations => operations(screen, what),
        View::Services => services(screen, what),
        View::Statements => statements(screen, what),
        View::Stacks => stacks(screen, what),
        View::Connections => connections(screen, what),
        View::Health => health(screen, what),
        View::Patterns => patterns(screen, what),
    }
}

/// Totals and rate of the first line.
pub(super) fn header(screen: &Screen, what: &str) {
    let (line, model) = (&screen.lines()[0], &screen.model);
    assert_eq!(screen.number_before(line, " transactions"), model.count, "{what}");
    assert_eq!(screen.number_before(line, " errors"), model.errors, "{what}");
    let rate = line.split("/s").next().unwrap().rsplit(' ').next().unwrap();
    same(rate, &Figure::Rate(model.recent, model.recent_seconds), what, line);
    if model.now.0 != 0 {
        assert!(line.contains(&format!("{} UTC", clock(model.now))), "{what}: {line}");
    }
}

/// Each loss by its name; what is missing behind a cut is not looked for.
pub(super) fn losses(screen: &Screen, what: &str) {
    let (line, losses) = (&screen.lines()[2], &screen.model.losses);
    let lost: Vec<(&String, &u64)> = losses.lost.iter().filter(|(_, n)| **n != 0).collect();
    if !losses.any() {
        assert!(line.starts_with("nothing lost"), "{what}: {line}");
        return;
    }
    let (read, is_cut) = match line.split_once('…') {
        Some((before, _)) => (before.rsplit_once([',', ';']).map_or(before, |(whole, _)| whole), true),
        None => (&line[..], false),
    };
    let mut found = 0;
    for part in read.trim_start_matches("LOST ").split([';', '\u{2502}']).flat_map(|part| part.split(", ")) {
        let words: Vec<&str> = part.split_whitespace().collect();
        match words[..] {
            ["requests", low, "to", high, ..] => {
                assert_eq!(
                    (number(low), number(high)),
                    (losses.requests.low, losses.requests.high),
                    "{what}"
                );
            }
            [name, n, ..] => {
                if let Some((_, known)) = lost.iter().find(|(known, _)| known.as_str() == name) {
                    assert_eq!(number(n), **known, "{what}: {line}");
                    found += 1;
                }
            }
            _ => {}
        }
    }
    assert!(is_cut || found == lost.len(), "{what}: {found} of {lost:?} in {line}");
    assert!(found != 0, "{what}: {line}");
}

/// Title and cells of the XLog.
fn chart(screen: &Screen, what: &str) {
    let (lines, chart) = (screen.lines(), screen.chart());
    let title = lines[3].split('…').next().unwrap();
    let behind = |word: &str| {
        let rest = title.split(word).nth(1)?;
        Some(number(rest.split_whitespace().next()?))
    };
    assert_eq!(behind(" served "), Some(chart.n), "{what}: {title}");
    for (word, n) in [(" errors", chart.n_errors), (" ≥ ", chart.n_clamped), (" made hidden", chart.n_hidden)]
    {
        if title.contains(word) {
            assert_eq!(screen.number_before(title, word), n, "{what}: {title}");
        } else {
            assert!(n == 0 || lines[3].contains('…'), "{what}: {title}");
        }
    }
    assert_eq!(screen.app.density, Density::Scatter, "{what}");
    let cells = screen.layout.chart;
    let mut differ = 0;
    for (i, cell) in chart.cells.iter().enumerate() {
        let (x, y) = (i as u16 % chart.area.width, i as u16 / chart.area.width);
        let symbol = screen.buffer[(cells.x + x, cells.y + y)].symbol().chars().next().unwrap();
        differ += usize::from(('\u{2801}'..='\u{28ff}').contains(&symbol) != (cell.count != 0));
    }
    assert_eq!(differ, 0, "{what}: cells");
    let marked = (0..cells.width)
        .filter(|x| (0..cells.height).any(|y| screen.buffer[(cells.x + x, cells.y + y)].symbol() == "▒"))
        .count();
    // A column that is full of dots shows no mark; none of these is.
    let n_lost = chart.lost.iter().filter(|lost| **lost).count();
    assert_eq!(marked, n_lost, "{what}: columns with losses");
}

/// The percentiles right of the XLog.
fn percentiles(screen: &Screen, what: &str) {
    let Some(quantiles) = screen.chart().quantiles([0.99, 0.9, 0.5]) else { return };
    if screen.buffer.area.width < 90 {
        return;
    }
    let mut rows = Vec::new();
    for (name, ns) in ["p99", "p90", "p50"].into_iter().zip(quantiles) {
        let row = screen.chart().row_of(ns).unwrap_or(0);
        if rows.contains(&row) {
            continue;
        }
        rows.push(row);
        let line = &screen.lines()[usize::from(screen.layout.chart.y + row)];
        let shown =
            line.split(&format!(" {name} ")).nth(1).unwrap_or_else(|| panic!("{what}: {name} in {line:?}"));
        same(shown.trim_start_matches('~'), &Figure::Ns(ns), what, line);
    }
    assert!(!rows.is_empty(), "{what}");
}

fn flights(screen: &Screen, what: &str) {
    let lines = screen.lines();
    let line = lines.iter().find(|line| line.starts_with("in flight ")).unwrap();
    let model = &screen.model;
    assert_eq!(number(line.split_whitespace().nth(2).unwrap()), model.n_open, "{what}: {line}");
    if let Some(rest) = line.split("long-lived ").nth(1) {
        assert_eq!(number(rest.split_whitespace().next().unwrap()), model.n_long_lived, "{what}: {line}");
    }
    let first = lines.iter().position(|other| other == line).unwrap();
    if let Some(flight) = model.in_flight.first() {
        let counts: Vec<String> = flight.by_age.iter().rev().map(u64::to_string).collect();
        let total: u64 = flight.by_age.iter().sum();
        let want = format!(" {total} ({}) ", counts.join(" / "));
        assert!(lines[first].contains(&want), "{what}: {:?} in {}", want, lines[first]);
    }
}

fn active(screen: &Screen, what: &str) {
    let rows = screen.model.open.iter().map(|open| vec![("age", Figure::Ns(open.age_ns))]);
    table(screen, what, |line| line.trim_start().starts_with("age "), rows.collect(), &["age"]);
}

fn operations(screen: &Screen, what: &str) {
    let seconds = screen.model.recent_seconds;
    let rows = screen.model.rows.iter().map(|row| {
        let mut figures = vec![
            ("rate/s", Figure::Rate(row.recent, seconds)),
            ("errors", Figure::Count(row.errors)),
            ("count", Figure::Count(row.count)),
        ];
        figures.extend(times(row.quantiles_ns, row.max_ns));
        figures
    });
    table(
        screen,
        what,
        |line| line.starts_with("service "),
        rows.collect(),
        &["rate/s", "errors", "p50", "p99"],
    );
}

fn times(quantiles_ns: Option<[u64; 4]>, max_ns: u64) -> Vec<(&'static str, Figure)> {
    let Some(quantiles) = quantiles_ns else { return Vec::new() };
    let mut times: Vec<_> =
        ["p50", "p90", "p99", "p99.9"].into_iter().zip(quantiles.map(Figure::Ns)).collect();
    times.push(("max", Figure::Ns(max_ns)));
    times
}

fn services(screen: &Screen, what: &str) {
    let figures = |seconds, recent, errors, count, quantiles, max| {
        let mut figures = vec![
            ("rate/s", Figure::Rate(recent, seconds)),
            ("errors", Figure::Count(errors)),
            ("count", Figure::Count(count)),
        ];
        figures.extend(times(quantiles, max));
        figures
    };
    let known = ["rate/s", "errors", "count", "p99"];
    let rows = screen.model.services.iter();
    let rows = rows.map(|row| {
        figures(screen.model.recent_seconds, row.recent, row.errors, row.count, row.quantiles_ns, row.max_ns)
    });
    table(screen, what, |line| line.starts_with("service "), rows.collect(), &known);
    let rows = screen.model.edges.iter();
    let rows = rows.map(|row| {
        figures(screen.model.recent_seconds, row.recent, row.errors, row.count, row.quantiles_ns, row.max_ns)
    });
    table(screen, what, |line| line.starts_with("from → to "), rows.collect(), &known);
    let line = screen.lines().into_iter().find(|line| line.starts_with("who calls whom")).unwrap();
    looked_at(screen, &line, what);
}

/// Of how many transactions a line says that it tells.
fn looked_at(screen: &Screen, line: &str, what: &str) {
    let (words, n) = match &screen.model.narrowed {
        Some(narrowed) => (" transactions that match", narrowed.n),
        None => (" transactions that are kept", screen.model.kept),
    };
    assert_eq!(screen.number_before(line, words), n, "{what}");
}

fn statements(screen: &Screen, what: &str) {
    let model = &screen.model;
    let title = &screen.lines()[3];
    looked_at(screen, title, what);
    let rows = model.statements.iter().map(|row| {
        let own = model.statements.iter().filter(|other| other.role == row.role);
        let all: u64 = own.map(|other| other.total_ns).sum();
        let mut figures = vec![
            ("rate/s", Figure::Rate(row.recent, model.recent_seconds)),
            ("count", Figure::Count(row.count)),
            ("errors", Figure::Count(row.errors)),
            ("total", Figure::Ns(row.total_ns)),
            ("share", Figure::Share(row.total_ns as f64 / all as f64)),
        ];
        if let Some(times) = row.times_ns {
            figures.extend(["p50", "p99", "max"].into_iter().zip(times.map(Figure::Ns)));
        }
        figures
    });
    table(
        screen,
        what,
        |line| line.starts_with("service "),
        rows.collect(),
        &["count", "errors", "p99", "total", "share"],
    );
}

fn stacks(screen: &Screen, what: &str) {
    let shown = screen.model.stacks.as_ref().unwrap();
    let title = &screen.lines()[3];
    looked_at(screen, title, what);
    let [requests, _] = shown.requests();
    assert_eq!(screen.number_before(title, " have stacks"), requests.with_stacks, "{what}: {title}");
    if requests.with_stacks == 0 {
        return;
    }
    let total = shown.tree.total()[0];
    assert!(title.contains(&duration(total.ns)), "{what}: {title}");
    let rows = shown.functions.iter().map(|row| {
        vec![
            ("count", Figure::Count(row.all[0].count)),
            ("internal", Figure::Ns(row.own[0].ns)),
            ("external", Figure::Ns(row.all[0].ns)),
        ]
    });
    let is_heading = |line: &str| line.contains("internal") && line.ends_with("function");
    table(screen, what, is_heading, rows.collect(), &["count", "internal", "external"]);
    // The first row of the graph is all, and each frame is as wide as its share.
    let flame = screen.layout.flame;
    assert!(screen.lines()[usize::from(flame.y)].contains("all"), "{what}");
    let mut x = 0;
    for node in shown.tree.children(0) {
        let name: String = shown.tree.function_of(*node).short();
        let width = shown.tree.node(*node).all[0].ns as f64 * f64::from(flame.width) / total.ns as f64;
        if width >= name.chars().count() as f64 + 2.0 {
            let cells: String = (0..name.chars().count() as u16)
                .map(|i| screen.buffer[(flame.x + x + 1 + i, flame.y + 1)].symbol())
                .collect();
            assert_eq!(cells, name, "{what}");
        }
        let end = shown.tree.children(0).iter().take_while(|other| *other != node).chain([node]);
        let ns: u64 = end.map(|node| shown.tree.node(*node).all[0].ns).sum();
        x = (u128::from(ns) * u128::from(flame.width) / u128::from(total.ns)) as u16;
    }
}

fn connections(screen: &Screen, what: &str) {
    let model = &screen.model;
    let title = &screen.lines()[3];
    for (i, word) in [" open", " ended"].into_iter().enumerate() {
        assert_eq!(screen.number_before(title, word), model.n_conns[i], "{what}: {title}");
    }
    let rows = model.conns.iter().map(|row| {
        vec![
            ("age", Figure::Ns(row.age_ns)),
            ("idle", row.idle_ns.map_or(Figure::None, Figure::Ns)),
            ("done", Figure::Count(row.requests)),
            ("errors", Figure::Count(row.errors)),
            ("now", Figure::Count(row.in_flight)),
            ("in", Figure::Bytes(row.bytes[0])),
            ("out", Figure::Bytes(row.bytes[1])),
        ]
    });
    table(
        screen,
        what,
        |line| line.contains(" peer ") && line.contains(" state "),
        rows.collect(),
        if screen.buffer.area.width < 90 {
            &["age", "idle", "done", "in", "out"]
        } else {
            &["age", "idle", "done", "errors", "now", "in", "out"]
        },
    );
}

/// Each row's number of dots, the newest first.
fn patterns(screen: &Screen, what: &str) {
    let rows = screen.model.patterns.iter().map(|finding| vec![("dots", Figure::Count(finding.n))]);
    table(
        screen,
        what,
        |line| line.contains(" pattern ") && line.contains(" dots "),
        rows.collect(),
        &["dots"],
    );
}

fn health(screen: &Screen, what: &str) {
    let lines = screen.lines();
    let mut found = 0;
    for (name, n, more) in &screen.model.counters {
        let Some(line) = lines.iter().find(|line| line.starts_with(&format!("{name} "))) else { continue };
        found += 1;
        let words: Vec<&str> = line[name.len()..].split_whitespace().collect();
        let figure = |n: u64| if name.ends_with("_ns") { Figure::Ns(n) } else { Figure::Count(n) };
        same(words[0], &figure(*n), what, line);
        if let (Some(more), false) = (more, name.starts_with("gauge.")) {
            same(words[1], &figure(*more), what, line);
        }
    }
    assert!(found == screen.model.counters.len() || screen.buffer.area.height < 30, "{what}: {found}");
}

/// The rows below the heading: as many as there is room for, each with its figures. `known`: headings that are there at any width.
fn table(
    screen: &Screen,
    what: &str,
    is_heading: impl Fn(&str) -> bool,
    rows: Vec<Vec<(&'static str, Figure)>>,
    known: &[&str],
) {
    if rows.is_empty() {
        return;
    }
    let lines = screen.lines();
    let heading = lines
        .iter()
        .position(|line| is_heading(line))
        .unwrap_or_else(|| panic!("{what}: no heading:\n{}", screen.text()));
    for name in known {
        assert!(column(screen, heading as u16, name).is_some(), "{what}: no {name} in {}", lines[heading]);
    }
    let mut read = 0;
    for (i, row) in rows.iter().enumerate() {
        let y = heading + 1 + i;
        // Below it stands what else there is, or the hints.
        let is_over = y + 1 >= lines.len()
            || lines[y].is_empty()
            || ["and ", "map: ", "who calls whom"].iter().any(|word| lines[y].starts_with(word));
        if is_over {
            break;
        }
        read += 1;
        for (name, figure) in row {
            if let Some(end) = column(screen, heading as u16, name) {
                same(&before(screen, y as u16, end), figure, what, &format!("{name} of {}", lines[y]));
            }
        }
    }
    assert!(read != 0, "{what}: no row below {}", lines[heading]);
}

/// Column behind a heading.
fn column(screen: &Screen, y: u16, name: &str) -> Option<u16> {
    let symbol = |x: u16| screen.buffer[(x, y)].symbol();
    let width = screen.buffer.area.width;
    (0..width.saturating_sub(name.len() as u16 - 1)).find_map(|x| {
        let end = x + name.len() as u16;
        let begins = x == 0 || [" ", "▾"].contains(&symbol(x - 1));
        let ends = end == width || symbol(end) == " ";
        let same = name.chars().zip(x..).all(|(c, x)| symbol(x) == c.encode_utf8(&mut [0; 4]));
        (begins && ends && same).then_some(end)
    })
}

/// What ends before a column.
fn before(screen: &Screen, y: u16, end: u16) -> String {
    let mut symbols: Vec<&str> =
        (0..end).rev().map(|x| screen.buffer[(x, y)].symbol()).take_while(|symbol| *symbol != " ").collect();
    symbols.reverse();
    symbols.concat()
}

fn number(text: &str) -> u64 {
    text.trim_matches([',', ';']).replace(',', "").parse().unwrap_or_else(|_| panic!("{text:?} is no number"))
}

/// A number with its unit, and half of its last digit.
fn measured(text: &str, units: &[(&str, f64)]) -> Option<(f64, f64)> {
    let digits: String = text.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
    let (_, unit) = units.iter().find(|(name, _)| *name == &text[digits.len()..])?;
    let decimals = digits.split_once('.').map_or(0, |(_, decimals)| decimals.len());
    let value: f64 = digits.parse().ok()?;
    Some((value * unit, 10_f64.powi(-(decimals as i32)) * unit))
}

#[track_caller]
pub(super) fn same(shown: &str, figure: &Figure, what: &str, place: &str) {
    let shown = shown.trim_start_matches('≥');
    let near = |units: &[(&str, f64)], value: f64, digits: f64| {
        let (read, digit) =
            measured(shown, units).unwrap_or_else(|| panic!("{what}: {shown:?} is no figure: {place}"));
        assert!(
            (read - value).abs() <= digit * digits + value * 1e-12,
            "{what}: {shown} is not {value}: {place}"
        );
    };
    // Half of the last digit, and what a float leaves of it.
    const ROUNDED: f64 = 0.500_001;
    match *figure {
        Figure::Count(n) => assert_eq!(number(shown), n, "{what}: {place}"),
        Figure::Ns(ns) => {
            let units = [("ns", 1.0), ("us", 1e3), ("ms", 1e6), ("s", 1e9)];
            if let Some((hours, minutes)) = shown.trim_end_matches('m').split_once('h') {
                let read = (number(hours) * 60 + number(minutes)) * 60 * SECOND;
                assert!(read.abs_diff(ns) <= 30 * SECOND, "{what}: {shown} is not {ns}: {place}");
            } else {
                near(&units, ns as f64, ROUNDED);
            }
        }
        Figure::Rate(_, 0) => assert_eq!(shown, "-", "{what}: {place}"),
        Figure::Rate(n, seconds) => near(&[("", 1.0)], n as f64 / seconds as f64, ROUNDED),
        Figure::Share(share) => near(&[("%", 0.01)], share, ROUNDED),
        Figure::Bytes(n) => {
            let kib = 1024.0_f64;
            let units =
                [("B", 1.0), ("KB", kib), ("MB", kib * kib), ("GB", kib.powi(3)), ("TB", kib.powi(4))];
            // Cut, not rounded.
            near(&units, n as f64, 1.0);
        }
        Figure::None => assert_eq!(shown, "-", "{what}: {place}"),
    }
}
