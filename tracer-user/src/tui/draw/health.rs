//! txray itself: what flows, what was lost where, what the probes take, how full the ring is; below, every counter.

use ratatui::{buffer::Buffer, layout::Rect, style::Style};
use unicode_width::UnicodeWidthStr as _;

use super::{gaps, put, waiting};
use crate::{
    report::{
        format::{Align, count, duration, fit},
        loss::LOST_IN_KERNEL,
    },
    tui::{
        app::App,
        health::{Cpu, HealthGroup, HealthLine, ProgramTime, Ring, Stage},
        model::{CounterRow, Model},
        theme::{Symbols, Theme},
    },
};

/// Columns of a counter: name, total, per second.
const NAME: usize = 34;
const TOTAL: usize = 16;
const RATE: usize = 12;
/// Columns of a program, with the last one of a counter 80: name, hits, nanoseconds of each.
const PROGRAM: usize = 48;
const HITS: usize = 10;
const MEAN: usize = 10;
/// Columns of a stage's name, and of its sum.
const STAGE: usize = 13;
const SUM: usize = 11;
/// The widest bar of the ring.
const BAR: usize = 64;

/// Draws it.
pub(super) fn draw(buffer: &mut Buffer, area: Rect, model: &Model, app: &App, theme: Theme) {
    let area = gaps(buffer, area, model, theme);
    if model.health.is_empty() {
        let text = if model.losses.unknown {
            "this recording holds transactions only: its counters are not known"
        } else {
            "no counters yet: they come once a second"
        };
        put(buffer, area.x, area.y, area.width, text, theme.dim());
        if model.all == 0 && !model.finished && area.height > 1 {
            put(buffer, area.x, area.y + 1, area.width, &waiting(model), theme.dim());
        }
        return;
    }
    let room = usize::from(area.height);
    let first = usize::from(app.scroll).min(model.health.len().saturating_sub(room));
    for (line, y) in model.health.iter().skip(first).zip(area.y..area.bottom()) {
        draw_line(buffer, Rect { y, height: 1, ..area }, line, theme);
    }
}

/// What this run does without, each with its reason, at the top; returns what is left of the area.
fn gaps(buffer: &mut Buffer, area: Rect, model: &Model, theme: Theme) -> Rect {
    let lines = gaps::lines(model);
    // Half of it at most.
    let room = usize::from(area.height / 2);
    let cut = lines.len() > room;
    let shown = if cut { room.saturating_sub(1) } else { lines.len() };
    let mut text: Vec<String> = lines[..shown].to_vec();
    if cut && room != 0 {
        text.push(format!("and {} more", count((lines.len() - shown) as u64)));
    }
    for (y, text) in (area.y..).zip(&text) {
        put(buffer, area.x, y, area.width, text, theme.loss());
    }
    let used = text.len() as u16;
    Rect { y: area.y + used, height: area.height - used, ..area }
}

fn draw_line(buffer: &mut Buffer, area: Rect, line: &HealthLine, theme: Theme) {
    let mut whole = |text: &str, style| put(buffer, area.x, area.y, area.width, text, style);
    match line {
        HealthLine::Blank => {}
        HealthLine::Heading(group) => whole(&heading(*group), theme.heading()),
        HealthLine::Unknown(why) => whole(why, theme.dim()),
        HealthLine::Counter(row) => whole(&counter(row), counter_style(row, theme)),
        HealthLine::Program(program) => {
            let style = if program.runs == 0 { theme.dim() } else { Style::new() };
            whole(&program_text(program), style);
        }
        HealthLine::Losses(stage) => draw_stage(buffer, area, stage, theme),
        HealthLine::Ring(ring) => whole(&ring_text(*ring, usize::from(area.width), theme), Style::new()),
        HealthLine::Cpu(cpu) => whole(&cpu_text(*cpu), Style::new()),
        HealthLine::Memory(bytes) => {
            whole(&format!("{}{}", fit("memory", STAGE, Align::Left), megabytes(*bytes)), Style::new())
        }
    }
}

fn columns(name: &str, figures: [&str; 2]) -> String {
    let [total, rate] = figures;
    format!(
        "{}{}{}",
        fit(name, NAME, Align::Left),
        fit(total, TOTAL, Align::Right),
        fit(rate, RATE, Align::Right)
    )
}

fn heading(group: HealthGroup) -> String {
    match group {
        HealthGroup::Events => columns("Events", ["total", "last second"]),
        HealthGroup::Losses => {
            format!(
                "{}{}  by reason (in the last second)",
                fit("Losses", STAGE, Align::Left),
                fit("total", SUM, Align::Right)
            )
        }
        HealthGroup::Programs { sample_ns: 0, .. } => "Kernel programs".to_owned(),
        HealthGroup::Programs { sample_ns, period_ns } => {
            let from = format!("{} every {}", duration(sample_ns), duration(period_ns));
            program_columns(
                &format!("Kernel programs, estimate from {from}"),
                ["hits", "ns a hit", "% of a CPU"],
            )
        }
        HealthGroup::Ring => "Ring".to_owned(),
        HealthGroup::Own => "txray itself".to_owned(),
        HealthGroup::All => columns("counter", ["total", "last second"]),
    }
}

fn counter((name, n, more): &CounterRow) -> String {
    let value = |n: u64| if name.ends_with("_ns") || name.ends_with(".ns") { duration(n) } else { count(n) };
    let rate = match more {
        // A gauge has no rate, nor has a sample.
        _ if name.starts_with("gauge.") || name.starts_with("program.") => String::new(),
        Some(more) => value(*more),
        None => "-".to_owned(),
    };
    columns(name, [&value(*n), &rate])
}

fn counter_style((name, n, _): &CounterRow, theme: Theme) -> Style {
    let is_loss = name.starts_with("lost.")
        || name.strip_prefix("kernel.").is_some_and(|name| LOST_IN_KERNEL.contains(&name));
    match (is_loss, *n) {
        (_, 0) => theme.dim(),
        (true, _) => theme.loss(),
        _ => Style::new(),
    }
}

fn program_columns(name: &str, [hits, mean, share]: [&str; 3]) -> String {
    format!(
        "{}{}{}{}",
        fit(name, PROGRAM, Align::Left),
        fit(hits, HITS, Align::Right),
        fit(mean, MEAN, Align::Right),
        fit(share, RATE, Align::Right)
    )
}

fn program_text(program: &ProgramTime) -> String {
    let name = if program.name.is_empty() { "all" } else { &program.name };
    let mean = program.mean_ns().map_or("-".to_owned(), count);
    let share = format!("{:.2}", program.share() * 100.0);
    program_columns(name, [&count(program.runs), &mean, &share])
}

/// The reasons that count come first, so that what the screen has no room for is the zeros.
fn draw_stage(buffer: &mut Buffer, area: Rect, stage: &Stage, theme: Theme) {
    let counts = if stage.is_loss { theme.loss() } else { Style::new() };
    let style = |n: u64| if n == 0 { theme.dim() } else { counts };
    let total = stage.total();
    let text = format!("{}{}", fit(stage.name, STAGE, Align::Left), fit(&count(total), SUM, Align::Right));
    put(buffer, area.x, area.y, area.width, &text, style(total));
    let mut x = area.x.saturating_add((STAGE + SUM) as u16);
    for (reason, n, more) in &stage.reasons {
        let more = more.filter(|more| *more != 0).map(|more| format!(" (+{})", count(more)));
        let text = format!("  {reason} {}{}", count(*n), more.unwrap_or_default());
        put(buffer, x, area.y, area.right().saturating_sub(x), &text, style(*n));
        x = x.saturating_add(text.width() as u16);
    }
}

/// A bar of what is used, with the most of the last second as a paler one behind it, and the figures.
fn ring_text(ring: Ring, width: usize, theme: Theme) -> String {
    let figures = format!(
        "  {} of {} ({:.1} %), at most {} in the last second",
        megabytes(ring.used),
        megabytes(ring.size),
        ring.used as f64 * 100.0 / ring.size.max(1) as f64,
        megabytes(ring.most),
    );
    let cells = width.saturating_sub(figures.width() + 2).min(BAR);
    // Anything at all is seen.
    let filled = |bytes: u64| {
        let cells = u128::from(bytes) * cells as u128;
        (cells.div_ceil(u128::from(ring.size.max(1))) as usize).min(width)
    };
    let (used, most) = (filled(ring.used), filled(ring.most));
    let [full, pale, empty] = match theme.symbols {
        Symbols::Unicode => ['█', '▒', '░'],
        Symbols::Ascii => ['#', '+', '.'],
    };
    let bar: String = (0..cells)
        .map(|cell| match cell {
            cell if cell < used => full,
            cell if cell < most => pale,
            _ => empty,
        })
        .collect();
    format!("[{bar}]{figures}")
}

fn cpu_text(cpu: Cpu) -> String {
    let name = fit("processor", STAGE, Align::Left);
    let share = cpu.share.map_or("-".to_owned(), |share| format!("{:.1}", share * 100.0));
    format!("{name}{share} % of a core in the last second, {} in all", duration(cpu.total_ns))
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}
