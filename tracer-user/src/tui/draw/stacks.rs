//! What requests were met doing: a flame graph (the outermost function on top), and the hottest functions below it.

use ratatui::{
    buffer::Buffer,
    layout::Rect,
    style::Style,
    text::{Line, Span},
};
use unicode_width::UnicodeWidthStr as _;

use super::{looked_at, nothing, put};
use crate::{
    report::{
        format::{Align, count, duration, fit},
        stacks::{
            FrameKind, Function, Parts, Requests, StackTree, Sums,
            text::{What, lines as tree_lines, percent, signed},
        },
    },
    transaction::Transaction,
    tui::{
        app::App,
        model::Model,
        stacks::{Frame, ShownStacks, boxes},
        theme::{Colours, Symbols, Theme},
    },
};

/// Lines above the flame graph, and those between it and the rows of the table.
const ABOVE: u16 = 1;
const BETWEEN: u16 = 2;
/// Calls of less than this share of a transaction's stacks are summed up.
const LEAST: f64 = 0.01;
/// Figures of a row: heading and width.
const FIGURES: [(&str, usize); 5] = [("count", 9), ("internal", 9), ("%", 6), ("external", 9), ("%", 6)];
/// Where two selections are compared.
const DIFFERENCES: [(&str, usize); 3] = [("selected", 9), ("others", 9), ("difference", 11)];

/// Where things are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Panes {
    /// The flame graph.
    pub(super) flame: Rect,
    /// What the selected frame is.
    told: Rect,
    /// The table, with its heading.
    table: Rect,
}

/// The panes of a body: rather more than half is the graph.
pub(super) fn panes(body: Rect) -> Panes {
    let room = body.height.saturating_sub(ABOVE + BETWEEN);
    let flame = room - room * 2 / 5;
    let part = |y: u16, height: u16| Rect { y: body.y.saturating_add(y), height, ..body }.intersection(body);
    Panes {
        flame: part(ABOVE, flame),
        told: part(ABOVE + flame, 1),
        table: part(ABOVE + flame + 1, room - flame + 1),
    }
}

/// Rows of the table.
pub(super) fn n_rows(body: Rect) -> u16 {
    panes(body).table.height.saturating_sub(1)
}

/// Draws it.
pub(super) fn draw(buffer: &mut Buffer, body: Rect, model: &Model, app: &App, theme: Theme) {
    let Some(shown) = &model.stacks else { return };
    let panes = panes(body);
    put(buffer, body.x, body.y, body.width, &heading(model, app, shown), theme.dim());
    if shown.tree.is_empty() {
        for (y, text) in (body.y + 1..body.bottom()).zip(none(model, app, shown)) {
            put(buffer, body.x, y, body.width, &text, theme.dim());
        }
        return;
    }
    match &shown.sandwich {
        Some(sandwich) => {
            // The function itself is in the last row of the upper half.
            let up = panes.flame.height / 2;
            let upper = Rect { height: up, ..panes.flame };
            let lower = Rect { y: panes.flame.y + up, height: panes.flame.height - up, ..panes.flame };
            let is_diff = app.stacks.is_diff;
            flame(
                buffer,
                upper,
                &Flame { tree: &sandwich.callers, top: 0, selected: 0, is_up: true, is_diff },
                theme,
            );
            flame(
                buffer,
                lower,
                &Flame { tree: &sandwich.callees, top: 0, selected: 0, is_up: false, is_diff },
                theme,
            );
        }
        None => {
            let ShownStacks { tree, zoom, selected, .. } = shown;
            let is_diff = app.stacks.is_diff;
            let whole = Flame { tree, top: *zoom, selected: *selected, is_up: false, is_diff };
            flame(buffer, panes.flame, &whole, theme);
        }
    }
    told(buffer, panes.told, app, shown, theme);
    table(buffer, panes.table, app, shown, theme);
}

/// Of what they are.
fn heading(model: &Model, app: &App, shown: &ShownStacks) -> String {
    let [this, other] = shown.requests();
    let parts = app.stacks.parts.label();
    let have = |requests: Requests| format!("{} of {}", count(requests.with_stacks), count(requests.all));
    let [sum, other_sum] = shown.tree.total();
    let mut text = match (&app.stacks.rectangle, app.stacks.is_diff) {
        (None, _) => {
            let (all, n) = (looked_at(model), count(this.with_stacks));
            format!("{all}: {n} have stacks, {} {parts}, {} times", duration(sum.ns), count(sum.count))
        }
        (Some(_), false) => format!(
            "{} selected transactions have stacks, {} {parts}, {} times",
            have(this),
            duration(sum.ns),
            count(sum.count)
        ),
        (Some(_), true) => format!(
            "{parts}, of one transaction: selected {} ({} have stacks), others {} ({})",
            duration(shown.tree.each(sum.ns, 0)),
            have(this),
            duration(shown.tree.each(other_sum.ns, 1)),
            have(other)
        ),
    };
    let [no_room, _] = shown.tree.no_room();
    if no_room.count > 0 {
        text.push_str(&format!("; no room for {}", count(no_room.count)));
    }
    text
}

/// Why there are none.
fn none(model: &Model, app: &App, shown: &ShownStacks) -> Vec<String> {
    let [this, _] = shown.requests();
    if this.all == 0 && app.stacks.rectangle.is_none() {
        return vec![nothing(model, ["transaction", "transactions"])];
    }
    if this.with_stacks > 0 {
        let other = if app.stacks.parts == Parts::On { "on a CPU" } else { "off the CPU" };
        return vec![format!("none of their stacks is of a time {other}")];
    }
    vec![
        "no call stacks".to_owned(),
        "--stacks slow keeps those of slow and failed requests,".to_owned(),
        "and of some others; --stacks all those of all".to_owned(),
    ]
}

/// A tree that is drawn.
struct Flame<'a> {
    tree: &'a StackTree,
    top: u32,
    selected: u32,
    /// The root is in the last row.
    is_up: bool,
    is_diff: bool,
}

fn flame(buffer: &mut Buffer, area: Rect, shown: &Flame<'_>, theme: Theme) {
    let rows = boxes(shown.tree, shown.top, area.width);
    // The selected frame is always to be seen.
    let at = rows.iter().position(|row| row.iter().any(|frame| frame.node == shown.selected)).unwrap_or(0);
    let room = usize::from(area.height);
    let first = (at + 1).saturating_sub(room);
    for (i, row) in rows.iter().skip(first).take(room).enumerate() {
        let i = i as u16;
        let y = if shown.is_up { area.bottom() - 1 - i } else { area.y + i };
        for Frame { node, x, width } in row {
            let style = match (*node == shown.selected, shown.is_diff) {
                (true, _) => theme.reversed(),
                (false, true) => theme.changed(change(shown.tree, &shown.tree.node(*node).all)),
                (false, false) => theme.frame(shown.tree.function_of(*node).kind),
            };
            let text = cells(shown, *node, usize::from(*width), theme);
            buffer.set_stringn(area.x + x, y, text, usize::from(*width), style);
        }
    }
    // What is further in than there are rows.
    let hidden = rows.len().saturating_sub(first + room);
    if hidden > 0 && area.height > 0 && !shown.is_up {
        let text = format!(" +{hidden} rows ");
        let width = (text.width() as u16).min(area.width);
        put(buffer, area.right() - width, area.bottom() - 1, width, &text, theme.heading());
    }
}

/// How much more one of the selected has than one of the others, of the larger of both: -1 to 1.
fn change(tree: &StackTree, sums: &Sums) -> f64 {
    let [this, other] = [0, 1].map(|i| tree.each(sums[i].ns, i) as f64);
    if this.max(other) == 0.0 { 0.0 } else { (this - other) / this.max(other) }
}

/// The text of a frame: an edge, its name, and what shows how far it goes where there are no colours.
fn cells(shown: &Flame<'_>, node: u32, width: usize, theme: Theme) -> String {
    let (edge, fill) = match (theme.symbols, theme.colours) {
        (Symbols::Unicode, Colours::None) => ("▏", "─"),
        (Symbols::Unicode, _) => ("▏", " "),
        (Symbols::Ascii, Colours::None) => ("|", "-"),
        (Symbols::Ascii, _) => ("|", " "),
    };
    let mut name = name(shown.tree.function_of(node), theme);
    if shown.is_diff {
        // Said in words too: not all can tell the colours apart.
        let more = shown.tree.difference(&shown.tree.node(node).all);
        name = format!("{} {name}", signed(more));
    }
    let room = width.saturating_sub(1);
    if name.width() < room {
        return format!("{edge}{name}{}", fill.repeat(room - name.width()));
    }
    if room < 3 {
        return format!("{edge}{}", fill.repeat(room));
    }
    format!("{edge}{}", fit(&name, room, Align::Left))
}

/// A name as the graph shows it. A terminal without `…` gets what it has.
fn name(function: &Function, theme: Theme) -> String {
    let name = function.short();
    if theme.symbols == Symbols::Ascii && !name.is_ascii() {
        return name.chars().map(|c| if c.is_ascii() { c } else { '?' }).collect();
    }
    name
}

/// The selected frame in words: its text in the graph may be cut.
fn told(buffer: &mut Buffer, area: Rect, app: &App, shown: &ShownStacks, theme: Theme) {
    let tree = &shown.tree;
    let (of, function, own, all) = match &shown.sandwich {
        Some(sandwich) => {
            let root = sandwich.callees.node(0);
            let above = "callers above, what it calls below: ";
            (above, sandwich.callees.function_of(0), root.own, root.all)
        }
        None => {
            let node = tree.node(shown.selected);
            let of = if shown.zoom == 0 || shown.zoom != shown.selected { "" } else { "zoomed to " };
            (of, tree.function_of(shown.selected), node.own, node.all)
        }
    };
    let total = tree.total()[0].ns;
    let figures = match app.stacks.is_diff {
        true => {
            let [this, other] = [0, 1].map(|i| duration(tree.each(all[i].ns, i)));
            format!("selected {this}, others {other}, {}", signed(tree.difference(&all)))
        }
        false => format!(
            "{} ({} %), in itself {}, {} times",
            duration(all[0].ns),
            percent(all[0].ns, total),
            duration(own[0].ns),
            count(all[0].count)
        ),
    };
    let style = if app.stacks.in_table { Style::new() } else { theme.heading() };
    put(buffer, area.x, area.y, area.width, &format!("{of}{}  {figures}", function.label()), style);
}

fn table(buffer: &mut Buffer, area: Rect, app: &App, shown: &ShownStacks, theme: Theme) {
    if area.is_empty() {
        return;
    }
    let is_diff = app.stacks.is_diff;
    let mark = if theme.symbols == Symbols::Ascii { "*" } else { "▾" };
    let columns = if is_diff { &DIFFERENCES[..] } else { &FIGURES[..] };
    let mut heading = String::new();
    for (name, width) in columns {
        let is_sorted = *name == app.stacks.sort.column();
        let name = if is_sorted { format!("{mark}{name}") } else { (*name).to_owned() };
        heading.push_str(&fit(&name, *width, Align::Right));
        heading.push(' ');
    }
    let of = if is_diff { format!("function ({})", app.stacks.sort.column()) } else { "function".to_owned() };
    heading.push_str(&format!(" {of}"));
    super::heading(buffer, area, area.y, &heading, 0, theme);
    let room = usize::from(area.height - 1);
    let selected = app.stacks.table.selected.min(shown.functions.len().saturating_sub(1));
    let first = if app.stacks.in_table { (selected + 1).saturating_sub(room) } else { 0 };
    let total = shown.tree.total()[0].ns;
    for (i, row) in shown.functions.iter().enumerate().skip(first).take(room) {
        let function = &shown.tree.functions[row.function as usize];
        let of = if app.stacks.sort == crate::tui::stacks::StackSort::Internal { &row.own } else { &row.all };
        let figures = match is_diff {
            true => {
                let [this, other] = [0, 1].map(|i| duration(shown.tree.each(of[i].ns, i)));
                vec![this, other, signed(shown.tree.difference(of))]
            }
            false => vec![
                count(row.all[0].count),
                duration(row.own[0].ns),
                percent(row.own[0].ns, total),
                duration(row.all[0].ns),
                percent(row.all[0].ns, total),
            ],
        };
        let mut text = String::new();
        for ((_, width), figure) in columns.iter().zip(figures) {
            text.push_str(&fit(&figure, *width, Align::Right));
            text.push(' ');
        }
        text.push_str(&format!(" {}", function.label()));
        let style = match () {
            () if app.stacks.in_table && i == selected => theme.reversed(),
            () if function.kind == FrameKind::Program => Style::new(),
            () => theme.dim(),
        };
        put(buffer, area.x, area.y + 1 + (i - first) as u16, area.width, &text, style);
    }
}

/// The stacks of one transaction as lines.
pub(super) fn lines(shown: &Transaction, theme: Theme) -> Vec<Line<'static>> {
    let tree = StackTree::of(Parts::Both, std::iter::once(shown));
    if tree.is_empty() {
        return Vec::new();
    }
    let total = tree.total()[0];
    let mut lines = vec![Line::from(vec![
        Span::styled("what its thread was met doing", theme.heading()),
        Span::styled(
            format!("  {} in {} samples on a CPU and waits", duration(total.ns), count(total.count)),
            theme.dim(),
        ),
    ])];
    // The root says nothing of one transaction.
    for line in tree_lines(&tree, LEAST, false).into_iter().skip(1) {
        let (ns, name, style) = match line.what {
            What::Node { node, is_branch } => {
                let function = tree.function_of(node);
                let mark = if is_branch { "- " } else { "" };
                let style = match function.kind {
                    FrameKind::Part => theme.heading(),
                    FrameKind::Program => Style::new(),
                    FrameKind::Kernel | FrameKind::Mark => theme.dim(),
                };
                (tree.node(node).all[0].ns, format!("{mark}{}", function.label()), style)
            }
            What::More { n, all, .. } => (all[0].ns, format!("- ({} more)", count(n)), theme.dim()),
        };
        lines.push(Line::from(vec![
            Span::raw(format!(
                "  {} {} %  {}",
                fit(&duration(ns), 8, Align::Right),
                fit(&percent(ns, total.ns), 5, Align::Right),
                " ".repeat(line.indent)
            )),
            Span::styled(name, style),
        ]));
    }
    lines.push(Line::default());
    lines
}
