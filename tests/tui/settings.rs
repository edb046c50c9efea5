//! The screen as the settings want it: faults with their place, colours, thresholds, columns, keys, layouts.

use std::fmt::Write as _;

use proptest::prelude::*;
use ratatui::style::Color;
use tracer_user::{
    config::{self, SettingsFile},
    pipeline::{AgeSteps, InFlight, Snapshot},
    tui::{
        Action, BINDINGS, Colours, Columns, Command, ListColumn, ListSort, OperationColumn, Place, Roles,
        SavedLayout, Scale, ScreenSettings, Sort, save,
    },
};

use super::*;

/// What a settings file with this text says.
fn read(text: &str) -> Result<ScreenSettings, tracer_user::tui::Fault> {
    read_at(text, None, None)
}

fn read_at(
    text: &str,
    folder: Option<&std::path::Path>,
    layout: Option<&str>,
) -> Result<ScreenSettings, tracer_user::tui::Fault> {
    ScreenSettings::read(&config::Screen {
        file: Some(SettingsFile { path: "txray.toml".into(), text: text.to_owned() }),
        folder: folder.map(Into::into),
        layout: layout.map(str::to_owned),
    })
}

fn app(text: &str) -> App {
    App::with_settings(read(text).unwrap().into(), None)
}

fn theme(text: &str) -> Theme {
    Theme { palette: read(text).unwrap().palette, ..MANY }
}

#[test]
fn a_bad_setting_is_told_with_its_place_its_cause_and_the_way_out() {
    let cases = [
        ("screen = 1", "1:10: `screen` cannot be a value of type integer", "[screen]"),
        ("[screen]\npallete = 'x'", "2:1: there is no key of [screen] 'pallete'", "palette"),
        (
            "[screen]\npalette = 'sepia'",
            "2:11: there is no palette 'sepia'",
            "default, papercraft, colour-blind",
        ),
        ("[screen]\npalette = 3", "2:11: `palette` cannot be a value of type integer", "write a text"),
        (
            "[screen]\ncolours = []",
            "2:11: `screen.colours` cannot be a value of type array",
            "[screen.colours]",
        ),
        ("[screen.colours]\nerorr = 1", "2:1: there is no colour to set 'erorr'", "error"),
        ("[screen.colours]\nerror = 256", "2:9: `error`: '256' is no colour", "#rrggbb"),
        ("[screen.colours]\n  error = '#ff00'", "2:11: `error`: '#ff00' is no colour", "0 to 255"),
        ("[screen.colours]\nerror = true", "2:9: `error` cannot be a value of type boolean", "light-red"),
        (
            "[screen]\nactive_steps = 'fast'",
            "2:16: there is no active_steps 'fast'",
            "scouter, pinpoint, jennifer",
        ),
        (
            "[screen]\nactive_steps = 3",
            "2:16: `active_steps` cannot be a value of type integer",
            "[\"3s\", \"8s\"]",
        ),
        (
            "[screen]\nactive_steps = [8, 3]",
            "2:16: `active_steps` are not one to three ages",
            "\"1s\", \"3s\", \"8s\"",
        ),
        (
            "[screen]\nactive_steps = [1, 2, 3, 4]",
            "2:16: `active_steps` are not one to three ages",
            "for example",
        ),
        (
            "[screen]\nactive_steps = [1, '3 eons']",
            "2:20: `active_steps` is no duration above zero: '3 eons'",
            "\"500ms\"",
        ),
        ("[screen]\nslow = 0", "2:8: `slow` is no duration above zero: '0'", "\"3s\""),
        ("[screen]\nslow = 'on'", "2:8: `slow` is no duration above zero: 'on'", "\"3s\""),
        (
            "[screen]\noperations = ['count', 'p95']",
            "2:24: there is no operations 'p95'",
            "rate, errors, count, p50, p90, p99, p99.9, max",
        ),
        ("[screen]\noperations = []", "2:14: `operations` is empty", "leave the key out"),
        ("[screen]\nlist = ['end', 'end']", "2:16: `list` has 'end' twice", "leave one of them out"),
        (
            "[screen]\nlist = ['when']",
            "2:9: there is no list 'when'",
            "end, elapsed, status, role, service, operation, target",
        ),
        ("[screen.keys]\npuase = ['p']", "2:1: there is no action 'puase'", "the nearest are: pause"),
        (
            "[screen.keys]\npause = 'p'",
            "2:9: `pause` cannot be a value of type string",
            "pause = [\"x\", \"PgUp\"]",
        ),
        ("[screen.keys]\npause = ['F99']", "2:10: `pause`: there is no key 'F99'", "Alt- and a character"),
        ("[screen.keys]\npause = ['q']", "2:1: the key q is both `quit` and `pause`", "another key"),
        ("[screen.keys]\nsort = ['u']\npause = ['u']", "the key u is both `sort` and `pause`", "another key"),
        ("[screen.keys]\nquit = []", "2:1: `quit` is left without a key", "give it a key"),
        ("[screen.keys]\nhelp = []", "2:1: `help` is left without a key", "give it a key"),
        (
            "[screen.keys]\npause = ['Ctrl-C']",
            "2:1: `pause` takes or gives away Ctrl-C",
            "leave Ctrl-C to `interrupt`",
        ),
        ("[screen.keys]\npause = ['1']", "2:1: the key 1 is both `pause` and `view-overview`", "another key"),
        ("[screen.keys]\npause = ['A', 'B', 'C', 'D', 'E']", "2:1: `pause` has too many keys", "at most 4"),
        ("[screen]\nlayout = 'x'", "2:10: `layout` cannot be a value of type string", "[[screen.layout]]"),
        ("[[screen.layout]]\nview = 'xlog'", "1:1: a layout has no name", "name = \"errors\""),
        ("[[screen.layout]]\nname = ''", "2:8: '' is no name of a layout", "1 to 32 characters"),
        ("[[screen.layout]]\nname = 'a'\npreset = 10", "3:10: '10' is no number of a preset", "1 to 9"),
        (
            "[[screen.layout]]\nname = 'a'\nview = 'graph'",
            "3:8: there is no view 'graph'",
            "overview, xlog, active",
        ),
        ("[[screen.layout]]\nname = 'a'\nwindow = '2h'", "3:10: `window` is out of bounds", "1s to 1h"),
        ("[[screen.layout]]\nname = 'a'\ntop = '1us'", "3:7: `top` is out of bounds", "1ms to 1h"),
        (
            "[[screen.layout]]\nname = 'a'\nfilter = 'duration >> 1'",
            "3:10: `filter`, at its column 11: ",
            "--filter",
        ),
        (
            "[[screen.layout]]\nname = 'a'\nsort = 'p90'",
            "3:8: there is no sort 'p90'",
            "count, errors, p99, max, operation",
        ),
        (
            "[[screen.layout]]\nname = 'a'\nzoom = 1",
            "3:1: there is no key of a layout 'zoom'",
            "name, preset",
        ),
        (
            "[[screen.layout]]\nname = 'a'\n[[screen.layout]]\nname = 'a'",
            "3:1: two layouts are called 'a'",
            "change or delete",
        ),
        (
            "[[screen.layout]]\nname = 'a'\npreset = 1\n[[screen.layout]]\nname = 'b'\npreset = 1",
            "4:1: two layouts are preset 1",
            "change or delete",
        ),
        ("[screen]\npalette = '\u{1b}[2J'", "1", "TOML"),
    ];
    for (text, cause, way_out) in cases {
        let fault = read(text).expect_err(text);
        let line = fault.to_string();
        assert!(line.starts_with("txray.toml:"), "{text}: {line}");
        assert!(line.contains(cause), "{text}: {line}");
        assert!(fault.way_out.contains(way_out), "{text}: {}", fault.way_out);
        assert!(!line.contains('\u{1b}') && !line.contains('\n'), "{line:?}");
    }
}

#[test]
fn a_file_without_a_section_and_an_empty_one_change_nothing() {
    for text in ["", "ring_size = '64M'", "[screen]", "[screen.colours]\n[screen.keys]\n"] {
        let settings = read(text).unwrap();
        assert_eq!(settings.palette, Palette::DEFAULT);
        assert_eq!((settings.age_steps, settings.slow_ns), (AgeSteps::SCOUTER, None));
        assert_eq!((settings.columns, settings.layouts), (Columns::default(), Vec::new()));
    }
}

/// The text of a screen, and below it a letter for the colour of each cell that has one.
fn coloured(screen: &Screen) -> String {
    let mut text = screen.text();
    let mut known: Vec<Color> = Vec::new();
    let mut grid = String::new();
    let area = screen.buffer.area;
    for y in 0..area.height {
        let mut line = String::new();
        for x in 0..area.width {
            let cell = &screen.buffer[(x, y)];
            if cell.symbol() == " " && !cell.modifier.contains(Modifier::REVERSED) || cell.fg == Color::Reset
            {
                line.push(' ');
                continue;
            }
            let at = known.iter().position(|colour| *colour == cell.fg).unwrap_or_else(|| {
                known.push(cell.fg);
                known.len() - 1
            });
            line.push(char::from(b'a' + at as u8));
        }
        grid.push_str(line.trim_end());
        grid.push('\n');
    }
    text.push_str("\n----\n");
    text.push_str(&grid);
    for (at, colour) in known.iter().enumerate() {
        writeln!(text, "{}: {colour:?}", char::from(b'a' + at as u8)).unwrap();
    }
    text
}

#[test]
fn the_colour_blind_palette_is_used_wherever_a_meaning_has_a_colour() {
    let feed = feed(busy(), &[lossy(150, 0), lossy(151, 1_234)]);
    let theme = theme("[screen]\npalette = 'colour-blind'");
    insta::assert_snapshot!("colour_blind_80x24", coloured(&screen(&feed, 80, 24, theme, App::default())));
    let none = Theme { colours: Colours::None, ..theme };
    let screen = screen(&feed, 80, 24, none, App::default());
    assert!(
        screen.buffer.content.iter().all(|cell| cell.fg == Color::Reset),
        "no colour where there are none"
    );
}

#[test]
fn a_single_colour_goes_over_the_palette_and_down_to_what_the_terminal_has() {
    let text = "[screen]\npalette = 'papercraft'\n[screen.colours]\nerror = 200\nselected = '#00ff00'";
    let theme = theme(text);
    let class = |theme: Theme, class| theme.class(class).fg;
    use tracer_user::sink::xlog::Class;
    assert_eq!(class(theme, Class::Normal), Some(Color::Rgb(0, 0x62, 0xb1)));
    assert_eq!(class(theme, Class::Error), Some(Color::Indexed(200)));
    assert_eq!(theme.reversed().fg, Some(Color::Rgb(0, 255, 0)));
    let sixteen = Theme { colours: Colours::Sixteen, ..theme };
    assert_eq!(class(sixteen, Class::Error), Some(Color::LightMagenta));
    assert_eq!(sixteen.reversed().fg, Some(Color::LightGreen));
    let none = Theme { colours: Colours::None, ..theme };
    assert_eq!((class(none, Class::Error), none.reversed().fg), (None, None));
}

#[test]
fn a_heat_ramp_colours_cells_without_errors_by_how_full_they_are() {
    let crowd: Vec<Transaction> = (0..40_000)
        .map(|i| Transaction {
            end_time: WallTime(START + 12 * SECOND + i * SECOND * 6 / 1_000),
            duration_ns: 1_000_000 * (1 + (i * i % 977) as i64),
            ..transaction(0)
        })
        .collect();
    let feed = feed(crowd, &[snapshot()]);
    let theme = theme("[screen.colours]\nheat_low = '#000010'\nheat_high = '#0000f0'");
    let app = App { forced: Some(Density::Heat), ..App::default() };
    let screen = screen(&feed, 80, 24, theme, app);
    let mut blues: Vec<u8> = screen
        .buffer
        .content
        .iter()
        .filter_map(|cell| match cell.fg {
            Color::Rgb(0, 0, blue) => Some(blue),
            _ => None,
        })
        .collect();
    blues.sort_unstable();
    blues.dedup();
    assert!(blues.len() >= 3 && blues.last() == Some(&0xf0), "{blues:?}");
}

#[test]
fn requests_in_flight_are_counted_in_as_many_classes_as_the_settings_have() {
    for (setting, steps, by_age, counts) in [
        ("'scouter'", AgeSteps::SCOUTER, vec![20, 4, 1], "25 (1 / 4 / 20)"),
        ("'pinpoint'", AgeSteps::PINPOINT, vec![10, 10, 4, 1], "25 (1 / 4 / 10 / 10)"),
        ("['1s', '3s', '8s']", AgeSteps::JENNIFER, vec![10, 0, 0, 15], "25 (15 / 0 / 0 / 10)"),
        ("['500ms']", AgeSteps::new(&[500_000_000]).unwrap(), vec![20, 5], "25 (5 / 20)"),
    ] {
        assert_eq!(read(&format!("[screen]\nactive_steps = {setting}")).unwrap().age_steps, steps);
        let snapshot = Snapshot {
            age_steps: steps,
            in_flight: vec![InFlight { service: "shop".into(), by_age: by_age.clone() }],
            open: vec![open(1, 12_000, Step::Waiting), open(2, 1, Step::Reading)],
            ..snapshot()
        };
        let feed = feed(busy(), &[snapshot]);
        let screen = press(&feed, (120, 40), &mut App::default(), &typed("3"));
        assert!(screen.text().contains(counts), "{counts}: {}", screen.text());
        // Every class that is there has a look of its own.
        let line = screen.lines().into_iter().find(|line| line.contains(counts)).unwrap();
        // Behind it: which ages they are.
        let behind = line.split_once(counts).unwrap().1;
        let (bar, ages) = behind.rsplit_once('(').unwrap_or((behind, ""));
        assert!(ages.is_empty() || ages.split(" / ").count() == by_age.len(), "{ages}");
        let bar = bar.trim();
        let mut looks: Vec<char> = bar.chars().collect();
        looks.dedup();
        assert_eq!(looks.len(), by_age.iter().filter(|n| **n != 0).count(), "{bar}");
    }
}

#[test]
fn what_counts_as_slow_is_a_line_in_the_xlog_unless_it_is_off() {
    let feed = feed(vec![transaction(100)], &[snapshot()]);
    let dashes = |text: &str, theme: Theme| {
        let screen = screen(&feed, 120, 40, theme, App { view: View::Xlog, ..app(text) });
        let row = screen.chart().row_of(3_000_000_000).unwrap();
        let y = screen.layout.chart.y + row;
        let symbol = if theme.symbols == Symbols::Ascii { "=" } else { "╌" };
        let n = (0..120).filter(|x| screen.buffer[(*x, y)].symbol() == symbol).count();
        (n, screen.lines()[usize::from(y)].contains("3.00s"))
    };
    let ascii = Theme { symbols: Symbols::Ascii, ..MANY };
    let (n, labelled) = dashes("[screen]\nslow = '3s'", MANY);
    assert!(n > 80 && labelled, "{n}");
    assert_eq!(dashes("[screen]\nslow = 3", ascii).0, n);
    assert_eq!(dashes("[screen]\nslow = 'off'", MANY), (0, false));
    assert_eq!(dashes("", MANY), (0, false));
}

#[test]
fn slow_in_a_filter_is_what_the_settings_call_slow_wherever_it_is_typed() {
    let rows = (1..=5).map(|i| Transaction { duration_ns: i as i64 * 1_000_000_000, ..transaction(i * 20) });
    let feed = feed(rows.collect(), &[snapshot()]);
    let of = |text: &str, keys: &[Key]| {
        let screen = press(&feed, (120, 40), &mut app(text), keys);
        (screen.model.narrowed.as_ref().map(|narrowed| narrowed.n), screen.text())
    };
    let enter = |keys: &str| [typed(keys), vec![Key::Enter]].concat();
    let layout = "\n[[screen.layout]]\nname = 'late'\npreset = 4\nfilter = 'not slow'";
    for (slow, n, words) in [
        ("", 3, "slow (duration >= 3s)"),
        ("slow = 'off'", 3, "slow (duration >= 3s)"),
        ("slow = '2500ms'", 3, "slow (duration >= 2500ms)"),
        ("slow = '5s'", 1, "slow (duration >= 5s)"),
        ("slow = 1", 5, "slow (duration >= 1s)"),
        ("slow = '1m'", 0, "slow (duration >= 1m)"),
    ] {
        let text = format!("[screen]\n{slow}{layout}");
        assert_eq!(of(&text, &enter("/slow")).0, Some(n), "{slow}");
        assert_eq!(of(&text, &enter(":filter slow")).0, Some(n), "{slow}");
        assert_eq!(of(&text, &[Key::Alt('4')]).0, Some(5 - n), "{slow}");
        let start = read_at(&text, None, Some("late")).unwrap();
        let mut app = App::with_settings(start.into(), None);
        assert_eq!(press(&feed, (120, 40), &mut app, &[]).model.narrowed.unwrap().n, 5 - n, "{slow}");
        // Whoever asks is told.
        assert!(of(&text, &enter("/foobar or x")).1.contains(words), "{slow}");
        assert!(of(&text, &typed("?")).1.contains(words), "{slow}");
    }
    // A row that is narrowed to keeps the meaning of what was typed before.
    let mut keys = enter("/slow");
    keys.push(Key::Enter);
    assert_eq!(of("[screen]\nslow = '4s'", &keys).0, Some(2));
}

#[test]
fn columns_are_those_that_were_chosen_and_what_does_not_fit_is_counted() {
    let feed = feed(busy(), &[snapshot()]);
    let text = "[screen]\noperations = ['max', 'count', 'p99.9', 'errors', 'p50', 'p90', 'p99', 'rate']\n\
                list = ['status', 'target', 'elapsed', 'end', 'service', 'operation']";
    let heading = |width: u16, keys: &[Key], y: usize| {
        let mut app = app(text);
        let screen = press(&feed, (width, 30), &mut app, &typed("4"));
        let screen = if keys.is_empty() { screen } else { press(&feed, (width, 30), &mut app, keys) };
        screen.lines()[y].split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(
        heading(120, &[], 3),
        ["service", "operation", "max", "▾count", "p99.9", "errors", "p50", "p90", "p99", "rate/s"]
    );
    assert_eq!(heading(60, &[], 3), ["service", "operation", "max", "▾count", "p99.9", ">5"]);
    let mut keys = vec![Key::Char('2'), Key::Char('v'), Key::Char('v')];
    keys.extend([Key::Up; 40]);
    keys.extend([Key::Left; 100]);
    keys.push(Key::Enter);
    assert_eq!(heading(120, &keys, 4), ["status", "target", "▾elapsed", "end", "service", "operation"]);
    assert_eq!(heading(60, &keys, 4), ["status", "target", "▾elapsed", "end", "service", ">1"]);
}

#[test]
fn the_help_the_footer_and_the_tabs_show_the_keys_of_the_settings() {
    let feed = feed(busy(), &[snapshot()]);
    let text = "[screen.keys]\nview-xlog = ['x', 'Alt-x']\npause = ['p', 'PgUp', 'F', 'Shift-Tab']\nprevious-view = []\n\
                sort = ['space']\n[[screen.layout]]\nname = 'errors'\npreset = 3";
    let fault = read(text).unwrap_err();
    assert!(fault.to_string().contains("PgUp is both"), "{fault}");
    let text = text.replace("'PgUp', ", "");
    let mut app = app(&text);
    let screen = press(&feed, (80, 40), &mut app, &[Key::Char('x'), Key::Char('?')]);
    assert_eq!(app.view, View::Xlog);
    insta::assert_snapshot!("help_changed_80x40", screen.text());
    let mut app = App { help: None, ..app };
    let screen = press(&feed, (120, 40), &mut app, &[Key::Char('p')]);
    assert!(app.paused.is_some());
    assert!(screen.lines()[1].contains(" x XLog "), "{}", screen.lines()[1]);
    assert!(screen.lines()[39].contains("p pause"), "{}", screen.lines()[39]);
    // The old keys are free.
    let before = app.clone();
    press(&feed, (120, 40), &mut app, &[Key::Char('2'), Key::BackTab]);
    assert_eq!((app.view, app.paused.is_some()), (before.view, false), "Shift-Tab lets it go");
}

#[test]
fn a_preset_shows_its_layout_and_one_that_is_free_says_how_to_fill_it() {
    let feed = feed(busy(), &[snapshot()]);
    let mut app = app(
        "[[screen.layout]]\nname = 'errors'\npreset = 1\nview = 'xlog'\nfilter = 'err'\nwindow = '10m'\n\
                       scale = 'linear'\ntop = '2s'\nroles = 'both'\ndensity = 'heat'\noperations = ['max']",
    );
    let screen = press(&feed, (120, 40), &mut app, &[Key::Alt('1')]);
    assert_eq!((app.view, app.window_ns, app.y_max_ns), (View::Xlog, 600 * SECOND, 2 * SECOND));
    assert_eq!((app.scale, app.roles, app.forced), (Scale::Linear, Roles::Both, Some(Density::Heat)));
    assert_eq!(app.columns.operations, Some(vec![OperationColumn::Max]));
    assert!(screen.lines()[1].contains("match err"), "{}", screen.lines()[1]);
    let screen = press(&feed, (120, 40), &mut app, &[Key::Alt('2')]);
    assert!(screen.lines()[39].contains("preset 2 is free: S keeps"), "{}", screen.lines()[39]);
    assert_eq!(app.view, View::Xlog);
}

#[test]
fn the_start_layout_is_shown_at_the_start_and_again_after_a_reset() {
    let text = "[[screen.layout]]\nname = 'ops'\nview = 'operations'\nsort = 'p99'";
    let settings = read_at(text, None, Some("ops")).unwrap();
    let mut app = App::with_settings(settings.into(), None);
    assert_eq!((app.view, app.sort), (View::Operations, Sort::P99));
    let feed = feed(busy(), &[snapshot()]);
    press(&feed, (80, 24), &mut app, &typed("sR"));
    assert_eq!(app.sort, Sort::P99);
    let fault = read_at(text, None, Some("opps")).unwrap_err();
    assert_eq!(
        (fault.to_string(), fault.way_out),
        ("there is no layout 'opps'".into(), "known are: ops".into())
    );
    assert!(read_at("", None, Some("x")).unwrap_err().way_out.contains("S on the screen keeps one"));
}

#[test]
fn what_is_shown_is_kept_under_a_number_and_a_name_that_are_typed() {
    let feed = feed(busy(), &[snapshot()]);
    let mut app = app("");
    press(&feed, (80, 24), &mut app, &[typed("2l+/err"), vec![Key::Enter], typed("S")].concat());
    assert_eq!(app.prompt.as_ref().map(|prompt| prompt.text.as_str()), Some("1 "));
    let seen = tracer_user::tui::Seen::default();
    for bad in ["0 x", "10 x", "x", "1 12345678901234567890123456789012345"] {
        app.prompt.as_mut().unwrap().text = bad.to_owned();
        assert_eq!(app.key(Key::Enter, &seen), Command::Draw, "{bad}");
        assert!(app.prompt.is_some() && app.complaint.is_some() && app.to_save.is_none(), "{bad}");
    }
    app.prompt.as_mut().unwrap().text = "4 ".to_owned();
    let screen = press(&feed, (80, 24), &mut app, &typed("오류"));
    assert!(screen.lines()[23].starts_with("keep as: 4 오류_"), "{}", screen.lines()[23]);
    assert_eq!(app.key(Key::Enter, &seen), Command::Save);
    let layout = app.to_save.take().unwrap();
    assert_eq!(
        (layout.preset, layout.name.as_str(), layout.filter.as_deref()),
        (Some(4), "오류", Some("err"))
    );
    let shown = SavedLayout::of(&app, 4, "오류");
    assert_eq!(layout, shown);
    app.saved(layout, Ok("/f/layouts.toml".into()));
    assert_eq!(app.complaint.as_deref(), Some("kept as preset 4 in /f/layouts.toml"));
    press(&feed, (80, 24), &mut app, &[typed("R"), vec![Key::Alt('4')]].concat());
    assert_eq!(SavedLayout::of(&app, 4, "오류"), shown);
}

#[test]
fn a_layout_that_is_kept_takes_the_place_of_the_one_with_its_number_or_name_and_of_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("a/txray");
    let layout = |preset, name: &str| SavedLayout::of(&App::default(), preset, name);
    for (preset, name) in [(1, "one"), (2, "two"), (1, "uno"), (3, "two")] {
        let file = save(&folder, &layout(preset, name)).unwrap();
        assert_eq!(file, folder.join("layouts.toml"));
    }
    let written =
        "[[screen.layout]]\nname = 'mine'\npreset = 1\n[[screen.layout]]\nname = 'two'\nview = 'health'";
    let settings = read_at(written, Some(&folder), None).unwrap();
    let all: Vec<_> = settings.layouts.iter().map(|layout| (layout.preset, layout.name.as_str())).collect();
    assert_eq!(all, [(None, "mine"), (Some(1), "uno"), (Some(3), "two")]);
    let names: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["layouts.toml"], "nothing is left of writing it");
    std::fs::write(folder.join("layouts.toml"), "[[screen.layout]]\nname = 1").unwrap();
    let fault = save(&folder, &layout(1, "x")).unwrap_err().to_string();
    assert!(fault.contains("layouts.toml:2:8: "), "{fault}");
    std::fs::write(folder.join("layouts.toml"), "[screen]\nslow = 1").unwrap();
    let fault = read_at("", Some(&folder), None).unwrap_err().to_string();
    assert!(fault.contains("layouts.toml:2:1: there is no key of this file 'slow'"), "{fault}");
}

#[test]
fn under_root_the_file_belongs_to_whoever_owns_its_folder() {
    use std::os::unix::fs::MetadataExt as _;
    let dir = tempfile::tempdir().unwrap();
    let own = std::fs::metadata(dir.path()).unwrap().uid();
    // Only root can give a folder away; for others the file is theirs anyway.
    let owner = if own == 0 { 65_534 } else { own };
    std::os::unix::fs::chown(dir.path(), Some(owner), None).unwrap();
    let folder = dir.path().join(".config/txray");
    for _ in 0..2 {
        save(&folder, &SavedLayout::of(&App::default(), 1, "mine")).unwrap();
        for path in [folder.join("layouts.toml"), folder.clone(), dir.path().join(".config")] {
            assert_eq!(std::fs::metadata(&path).unwrap().uid(), owner, "{}", path.display());
        }
    }
}

fn any_layout() -> impl Strategy<Value = SavedLayout> {
    let some = |words: Vec<&'static str>| prop::option::of(prop::sample::select(words));
    let filters = vec!["err", "duration > 1s and not (service = \"주문\")", "operation ~ 'GET \\x/**'"];
    let looks = (
        prop::option::of(prop::sample::select(View::ALL.to_vec())),
        prop::option::of(SECOND..=3_600 * SECOND),
        prop::option::of(prop::sample::select(vec![Scale::Log, Scale::Linear])),
        prop::option::of(1_000_000..=3_600 * SECOND),
        prop::option::of(prop::sample::select(vec![Roles::Servers, Roles::Clients, Roles::Both])),
    );
    let orders = (
        prop::option::of(prop::sample::select(vec![Sort::Count, Sort::P99, Sort::Name])),
        prop::option::of(prop::sample::select(vec![ListSort::Elapsed, ListSort::Operation])),
        some(filters),
        prop::option::of(prop::option::of(prop::sample::select(vec![Density::Heat, Density::Scatter]))),
        prop::option::of(prop::sample::subsequence(OperationColumn::ALL.map(|(c, _)| c).to_vec(), 1..8)),
        prop::option::of(prop::sample::subsequence(ListColumn::ALL.map(|(c, _)| c).to_vec(), 1..7)),
    );
    ("[^\\p{Cc}]{1,32}", prop::option::of(1_u8..=9), looks, orders).prop_map(
        |(name, preset, looks, orders)| {
            let (view, window_ns, scale, top_ns, roles) = looks;
            let (sort, list_sort, filter, density, operations, list) = orders;
            let filter = filter.map(str::to_owned);
            let columns = Columns { operations, list };
            SavedLayout {
                name,
                preset,
                view,
                window_ns,
                scale,
                top_ns,
                roles,
                sort,
                list_sort,
                filter,
                density,
                columns,
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn layouts_that_are_kept_are_read_back_equal(layouts in prop::collection::vec(any_layout(), 1..4)) {
        let dir = tempfile::tempdir().unwrap();
        let mut kept: Vec<SavedLayout> = Vec::new();
        for layout in layouts {
            save(dir.path(), &layout).unwrap();
            kept.retain(|other| {
                other.name != layout.name && (other.preset != layout.preset || layout.preset.is_none())
            });
            kept.push(layout);
        }
        kept.sort_by_key(|layout| layout.preset);
        prop_assert_eq!(read_at("", Some(dir.path()), None).unwrap().layouts, kept);
    }
}

proptest! {
    #[test]
    fn a_spoilt_settings_file_is_read_or_is_a_fault_on_one_line(
        edits in prop::collection::vec((any::<prop::sample::Index>(), "[\\PC\\n\u{1b}\"'=#\\[\\]]{0,3}", 0..4_usize), 1..4),
    ) {
        let readme = include_str!("../../README.md");
        let example = readme.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
        let mut text: Vec<char> = example.chars().collect();
        for (at, new, cut) in edits {
            let at = at.index(text.len());
            let end = (at + cut).min(text.len());
            text.splice(at..end, new.chars());
        }
        let text: String = text.into_iter().collect();
        if let Err(fault) = read(&text) {
            let line = fault.to_string();
            prop_assert!(line.starts_with("txray.toml:") && !line.chars().any(char::is_control), "{line:?}");
            prop_assert!(!fault.way_out.is_empty());
        }
    }
}

#[test]
fn every_action_can_be_named_in_the_settings() {
    for (action, name) in Action::all() {
        let result = read(&format!("[screen.keys]\n{name} = ['Alt-z']"));
        let place = |place: &Place| BINDINGS.iter().any(|b| b.action == action && b.places.contains(place));
        match result {
            Ok(settings) => {
                let bound = BINDINGS.iter().find(|b| b.action == action).unwrap().places[0];
                assert!(settings.keymap.action(bound, Key::Alt('z')).is_some(), "{name}");
            }
            Err(fault) => assert!(name == "interrupt" && place(&Place::Help), "{fault}"),
        }
    }
}

#[test]
fn the_readme_names_every_action_column_colour_and_palette() {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md")).unwrap();
    let section = readme.split("### Settings").nth(1).and_then(|rest| rest.split("\n## ").next()).unwrap();
    let missing: Vec<String> = Action::all()
        .into_iter()
        .map(|(_, name)| format!("`{name}`"))
        .filter(|name| !section.contains(name))
        .collect();
    assert!(missing.is_empty(), "actions that the settings of README.md do not name: {}", missing.join(", "));
    let words = OperationColumn::ALL.map(|(_, name)| name).to_vec();
    let words = [words, ListColumn::ALL.map(|(_, name)| name).to_vec(), Palette::NAMES.to_vec()].concat();
    for word in words {
        assert!(section.contains(word), "{word}");
    }
    for (_, name) in tracer_user::tui::Tone::ALL {
        assert!(section.contains(name) || name == "step_3", "{name}");
    }
    // What it shows can be read, with nothing left over.
    let example = section.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let settings = read_at(example, None, Some("errors")).unwrap();
    assert_eq!((settings.age_steps, settings.layouts.len()), (AgeSteps::JENNIFER, 1));
    assert!(toml_of_the_run(example));
}

/// Whether the rest of the program takes it too.
fn toml_of_the_run(text: &str) -> bool {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    std::fs::write(&file, text).unwrap();
    config::Settings::read(&file).is_ok_and(|settings| settings.layout.as_deref() == Some("errors"))
}
