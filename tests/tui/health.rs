//! The Health view: its groups are those of the counters, and its figures theirs.

use tracer_user::{
    metrics::Counter,
    tui::{HealthGroup, HealthLine, ProgramTime},
};

use super::*;

/// What the programs took in a sample: name, runs, nanoseconds.
const PROGRAMS: [(&str, u64, u64); 9] = [
    ("data_ready", 41_201, 5_480_000),
    ("process_exec", 0, 0),
    ("process_exit", 1, 2_950),
    ("process_fork", 1, 1_800),
    ("socket_receive", 20_604, 9_251_000),
    ("socket_send", 20_611, 14_182_000),
    ("task_rename", 0, 0),
    ("tcp_destroy", 12, 9_400),
    ("tcp_state", 61, 17_700),
];

/// Counters as a live run has them, `second` seconds after its start.
fn counters(second: u64, changed: &[(&str, u64)]) -> Snapshot {
    let value = |name: &str, n: u64| (name.into(), n);
    let mut values: Vec<(std::sync::Arc<str>, u64)> = Vec::new();
    for (i, name) in (1..).zip(tracer_ebpf::STAT_NAMES) {
        let counts = name.starts_with("events_") || name.starts_with("turns_") || *name == "payload_cut";
        values.push(value(&format!("kernel.{name}"), if counts { second * 1_000 * i } else { 0 }));
    }
    for (i, counter) in (1..).zip(Counter::ALL) {
        // Nothing lost, and every process could be looked into.
        let counts = !counter.name().starts_with("lost.") && *counter != Counter::ProcessDenied;
        values.push(value(counter.name(), if counts { second * 100 * i } else { 0 }));
    }
    values.push(value("txray.cpu_ns", second * 31_000_000));
    values.push(value("gauge.resident_bytes", 80_000_000));
    values.push(value("gauge.ring_bytes", 16 << 20));
    values.push(value("gauge.ring_used_bytes", 1_234_567));
    values.push(value("gauge.ring_used_most_bytes", 3_456_789));
    for (name, runs, ns) in PROGRAMS {
        values.push(value(&format!("program.{name}.runs"), runs));
        values.push(value(&format!("program.{name}.ns"), ns));
    }
    values.push(value("program.sample_ns", 100_210_000));
    values.push(value("program.period_ns", 10 * SECOND));
    values.push(value("program.samples", 15));
    for (name, n) in changed {
        values.iter_mut().find(|(known, _)| &**known == *name).unwrap().1 = *n;
    }
    Snapshot {
        wall: WallTime(START + second * SECOND),
        counters: Some(Counters { time: BootTime(second * SECOND), values }.into()),
        ..snapshot()
    }
}

fn with_losses() -> Feed {
    feed(
        busy(),
        &[
            counters(150, &[("kernel.refused_data", 5)]),
            counters(
                151,
                &[("kernel.refused_data", 1_234), ("kernel.conn_race", 2), ("lost.batch_queue_full", 70_000)],
            ),
        ],
    )
}

/// The lines of the view's body.
fn body(screen: &Screen) -> Vec<String> {
    let mut lines = screen.lines();
    lines.pop();
    lines.split_off(3)
}

/// The numbers among the words, as they are written.
fn numbers(line: &str) -> Vec<String> {
    let words = line.split(|c: char| c.is_whitespace() || "()+".contains(c));
    let number = |word: &&str| word.starts_with(|c: char| c.is_ascii_digit());
    words.filter(number).map(|word| word.replace(',', "")).collect()
}

#[test]
fn the_groups_are_seen_on_screens_of_every_size() {
    let feed = with_losses();
    for (width, height) in [(80, 24), (120, 40), (200, 60), (400, 100)] {
        let screen = press(&feed, (width, height), &mut App::default(), &typed("0"));
        insta::assert_snapshot!(format!("health_{width}x{height}"), screen.text());
    }
    let ascii = Theme { colours: Colours::None, symbols: Symbols::Ascii, palette: Palette::DEFAULT };
    let app = App { view: View::Health, ..App::default() };
    let screen = screen(&feed, 120, 40, ascii, app);
    let bar = body(&screen).into_iter().find(|line| line.starts_with('[')).unwrap();
    assert!(bar.contains("##") && bar.contains("++") && bar.contains("..]"), "{bar}");
}

#[test]
fn a_small_screen_scrolls_to_every_line_and_no_further() {
    let feed = with_losses();
    let mut app = App::default();
    let mut screen = press(&feed, (80, 24), &mut app, &typed("0"));
    let n_lines = screen.model.health.len();
    let mut seen = body(&screen);
    for _ in seen.len()..n_lines {
        screen = press(&feed, (80, 24), &mut app, &[Key::Down]);
        seen.push(body(&screen).pop().unwrap());
    }
    let tall = press(&feed, (80, n_lines as u16 + 4), &mut App::default(), &typed("0"));
    assert_eq!(seen, body(&tall));
    let end = press(&feed, (80, 24), &mut app, &[Key::Down]);
    assert_eq!(end.text(), screen.text());
    for (name, n) in &feed.status.lock().snapshot.counters.as_ref().unwrap().values {
        let shown = |line: &&String| line.starts_with(&format!("{name} "));
        let line = seen.iter().rfind(shown).unwrap_or_else(|| panic!("{name} is not to be seen"));
        if !name.ends_with("_ns") && !name.ends_with(".ns") {
            assert_eq!(numbers(line)[0], n.to_string(), "{line}");
        }
    }
}

#[test]
fn the_figures_on_the_screen_are_those_of_the_counters() {
    let feed = with_losses();
    let screen = press(&feed, (120, 200), &mut App::default(), &typed("0"));
    let mut n_programs = 0;
    for (line, drawn) in screen.model.health.iter().zip(body(&screen)) {
        let found = numbers(&drawn);
        match line {
            HealthLine::Program(program) => {
                let sample = 100_210_000.0;
                let (runs, ns) = match PROGRAMS.iter().find(|(name, ..)| *name == program.name) {
                    Some((_, runs, ns)) => (*runs, *ns),
                    None => PROGRAMS.iter().fold((0, 0), |sum, (_, runs, ns)| (sum.0 + runs, sum.1 + ns)),
                };
                let mut by_hand = vec![runs.to_string()];
                if runs != 0 {
                    by_hand.push((ns as f64 / runs as f64).round().to_string());
                }
                by_hand.push(format!("{:.2}", ns as f64 * 100.0 / sample));
                assert_eq!(found, by_hand, "{drawn}");
                n_programs += 1;
            }
            HealthLine::Losses(stage) => {
                assert_eq!(found[0], stage.total().to_string(), "{drawn}");
                let counting: Vec<String> = stage
                    .reasons
                    .iter()
                    .filter(|(_, n, _)| *n != 0)
                    .map(|(reason, n, more)| {
                        let more = more.filter(|more| *more != 0).map(tracer_user::report::format::count);
                        let more = more.map_or(String::new(), |more| format!(" (+{more})"));
                        format!("{reason} {}{more}", tracer_user::report::format::count(*n))
                    })
                    .collect();
                assert!(drawn.contains(&counting.join("  ")), "{drawn}");
            }
            HealthLine::Ring(_) => {
                assert!(
                    drawn.ends_with("1.2 MB of 16.8 MB (7.4 %), at most 3.5 MB in the last second"),
                    "{drawn}"
                );
                let cells = |symbol: char| drawn.chars().filter(|c| *c == symbol).count();
                let all = cells('█') + cells('▒') + cells('░');
                let shares = [cells('█'), cells('▒')].map(|n| n as f64 / all as f64);
                assert!((shares[0] - 0.0736).abs() < 1.0 / all as f64, "{drawn}");
                assert!((shares[0] + shares[1] - 0.2060).abs() < 1.0 / all as f64, "{drawn}");
            }
            HealthLine::Cpu(_) => assert_eq!(found, ["3.1", "4.68s"], "{drawn}"),
            HealthLine::Memory(_) => assert_eq!(found, ["80.0"], "{drawn}"),
            _ => {}
        }
    }
    assert_eq!(n_programs, PROGRAMS.len() + 1);
    assert_eq!(
        screen.model.health.len(),
        body(&screen).iter().rposition(|line| !line.is_empty()).unwrap() + 1
    );
}

#[test]
fn what_was_lost_stands_out_and_what_was_not_is_dim() {
    let screen = press(&with_losses(), (120, 40), &mut App::default(), &typed("0"));
    let style = |stage: &str, word: &str| {
        let y = screen.lines().iter().position(|line| line.starts_with(stage)).unwrap();
        let x = screen.lines()[y].find(word).unwrap();
        screen.buffer[(x as u16, y as u16)].fg
    };
    for (stage, word) in
        [("kernel ", "1,234"), ("kernel ", "refused_data"), ("ring reader", "batch_queue_full")]
    {
        assert_eq!(style(stage, word), Color::Red, "{stage} {word}");
    }
    for (stage, word) in [("kernel ", "refused_conn"), ("recorder", "0"), ("sinks", "sink_write")] {
        assert_eq!(style(stage, word), Color::DarkGray, "{stage} {word}");
    }
    // Its length and time are known: it is not lost.
    assert_eq!(style("not copied", "payload_cut"), Color::Reset);
}

#[test]
fn groups_of_which_a_source_says_nothing_say_so() {
    let early = press(&feed(Vec::new(), &[]), (80, 24), &mut App::default(), &typed("0"));
    assert!(early.text().contains("no counters yet"));
    let screen = press(&feed(busy(), &[lossy(150, 5)]), (80, 40), &mut App::default(), &typed("0"));
    for text in ["no sample yet, or the kernel does not count for txray", "how full it is is not known here"]
    {
        assert!(screen.text().contains(text), "{}", screen.text());
    }
    let is_program = |line: &HealthLine| matches!(line, HealthLine::Program(ProgramTime { .. }));
    assert!(!screen.model.health.iter().any(is_program));
    let group = HealthGroup::Programs { sample_ns: 0, period_ns: 0 };
    assert!(screen.model.health.contains(&HealthLine::Heading(group)));
    // Of one reading nobody knows what the last second brought.
    assert!(
        body(&screen).iter().any(|line| line.starts_with("processor    - % of a core")),
        "{}",
        screen.text()
    );
}
