//! The tree as text, and the table of the hottest functions.

use super::{
    frame::{FrameKind, Function},
    tree::{FunctionRow, NO_ROOM, Node, Sandwich, StackTree, Sums},
};
use crate::report::format::{Align, count, duration, fit};

/// What is told.
#[derive(Clone, Copy, Debug)]
pub struct Shown {
    /// Two selections are compared.
    pub is_diff: bool,
    /// Nodes below this share of the whole are summed up, percent.
    pub min_percent: f64,
    /// Functions in the table.
    pub top: usize,
}

/// Columns of figures: heading and width.
const FIGURES: [(&str, usize); 5] = [("count", 9), ("internal", 9), ("%", 6), ("external", 9), ("%", 6)];
/// The same where two selections are compared: times are of one request.
const DIFFERENCES: [(&str, usize); 3] = [("this/req", 9), ("other/req", 9), ("difference", 11)];

/// Of how many requests it is, and what is missing. `parts`: what was asked for.
pub fn heading(tree: &StackTree, parts: &str, is_diff: bool) -> String {
    let of = |i: usize| {
        let requests = tree.requests[i];
        let sum = tree.total()[i];
        format!(
            "{} of {} requests have stacks: met {} times {parts}, {} in all",
            count(requests.with_stacks),
            count(requests.all),
            count(sum.count),
            duration(sum.ns)
        )
    };
    let mut text = match is_diff {
        true => format!("this:  {}\nother: {}\n", of(0), of(1)),
        false => format!("{}\n", of(0)),
    };
    let [no_room, other] = tree.no_room();
    if no_room.count + other.count > 0 {
        text.push_str(&format!(
            "{} of them are {NO_ROOM}: a tree has {} nodes at most\n",
            count(no_room.count + other.count),
            count(super::MAX_NODES as u64)
        ));
    }
    text
}

/// The tree. Where only one function is called, it stands below its caller; where there are several, each begins with `-`, two columns further in.
pub fn tree(tree: &StackTree, shown: Shown) -> String {
    let mut out = headings(shown.is_diff, "function");
    let lines = lines(tree, shown.min_percent / 100.0, shown.is_diff);
    for Line { indent, what } in lines {
        let (node, name) = match what {
            What::Node { node, is_branch } => {
                let mark = if is_branch { "- " } else { "" };
                (*tree.node(node), format!("{mark}{}", tree.function_of(node).label()))
            }
            What::More { n, own, all } => {
                let node = Node { function: 0, parent: 0, own, all };
                (node, format!("- ({} more)", count(n)))
            }
        };
        out.push_str(&figures(tree, &node.own, &node.all, shown.is_diff));
        out.push_str(&" ".repeat(indent));
        out.push_str(&name);
        out.push('\n');
    }
    out
}

/// A line of the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Columns before it.
    pub indent: usize,
    /// What it is about.
    pub what: What,
}

/// What a line is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A node; it is one of several.
    Node {
        /// The node.
        node: u32,
        /// Whether it is one of several.
        is_branch: bool,
    },
    /// Those that are too small, together.
    More {
        /// How many nodes are not shown, those below them not counted.
        n: u64,
        /// Always nothing: it is the external time that is hidden.
        own: Sums,
        /// Their external sums.
        all: Sums,
    },
}

/// The lines of a tree; nodes of less than a share of the whole are summed up.
pub fn lines(tree: &StackTree, least: f64, is_diff: bool) -> Vec<Line> {
    let total = tree.total();
    let is_small = |node: u32| {
        let all = tree.node(node).all;
        (0..if is_diff { 2 } else { 1 }).all(|i| (all[i].ns as f64) < least * total[i].ns as f64)
            || all.iter().all(|sum| sum.count == 0)
    };
    let mut lines = Vec::new();
    // From the last to the first, as they are taken from the end.
    let mut waiting = vec![Line { indent: 0, what: What::Node { node: 0, is_branch: false } }];
    while let Some(line) = waiting.pop() {
        let Line { indent, what: What::Node { node, is_branch } } = line else {
            lines.push(line);
            continue;
        };
        lines.push(line);
        let children = tree.children(node);
        let (small, shown): (Vec<u32>, Vec<u32>) = children.iter().partition(|child| is_small(**child));
        let below = indent + if is_branch { 2 } else { 0 };
        if !small.is_empty() {
            let mut all = Sums::default();
            for child in &small {
                all.iter_mut().zip(tree.node(*child).all).for_each(|(sum, more)| sum.add(more));
            }
            let what = What::More { n: small.len() as u64, own: Sums::default(), all };
            waiting.push(Line { indent: below, what });
        }
        let is_branch = shown.len() + usize::from(!small.is_empty()) > 1;
        waiting.extend(
            shown.into_iter().rev().map(|node| Line { indent: below, what: What::Node { node, is_branch } }),
        );
    }
    lines
}

/// The table of the hottest functions.
pub fn functions(tree: &StackTree, shown: Shown) -> String {
    let mut rows = tree.functions();
    if shown.is_diff {
        rows.sort_by_key(|row| std::cmp::Reverse(tree.difference(&row.own).unsigned_abs()));
    }
    let mut out = headings(shown.is_diff, "hottest function");
    for FunctionRow { function, own, all } in rows.iter().take(shown.top) {
        let sums = if shown.is_diff { own } else { all };
        out.push_str(&figures(tree, own, sums, shown.is_diff));
        out.push_str(&tree.functions[*function as usize].label());
        out.push('\n');
    }
    if rows.len() > shown.top {
        out.push_str(&format!("and {} more\n", count((rows.len() - shown.top) as u64)));
    }
    out
}

/// A function's callers, the nearest below it, and what it calls.
pub fn sandwich(sandwich: &Sandwich, shown: Shown) -> String {
    let mut out = "callers\n".to_owned();
    out.push_str(&tree(&sandwich.callers, shown));
    out.push_str("\ncallees\n");
    out.push_str(&tree(&sandwich.callees, shown));
    out
}

fn headings(is_diff: bool, last: &str) -> String {
    let columns = if is_diff { &DIFFERENCES[..] } else { &FIGURES[..] };
    let mut out: String = columns.iter().map(|(name, width)| fit(name, *width, Align::Right) + " ").collect();
    out.push_str(&format!(" {last}\n"));
    out
}

fn figures(tree: &StackTree, own: &Sums, all: &Sums, is_diff: bool) -> String {
    let total = tree.total()[0].ns;
    let cells: Vec<String> = match is_diff {
        true => {
            let [this, other] = [0, 1].map(|i| tree.each(all[i].ns, i));
            vec![duration(this), duration(other), signed(tree.difference(all))]
        }
        false => vec![
            count(all[0].count),
            duration(own[0].ns),
            percent(own[0].ns, total),
            duration(all[0].ns),
            percent(all[0].ns, total),
        ],
    };
    let columns = if is_diff { &DIFFERENCES[..] } else { &FIGURES[..] };
    let mut out: String =
        columns.iter().zip(cells).map(|((_, width), cell)| fit(&cell, *width, Align::Right) + " ").collect();
    out.push(' ');
    out
}

/// A share with one decimal.
pub fn percent(n: u64, of: u64) -> String {
    if of == 0 { "-".to_owned() } else { format!("{:.1}", n as f64 * 100.0 / of as f64) }
}

/// A duration with its sign.
pub fn signed(ns: i64) -> String {
    let sign = match ns {
        0 => "",
        1.. => "+",
        _ => "-",
    };
    format!("{sign}{}", duration(ns.unsigned_abs()))
}

/// Functions that a text means: those of this name or label, else those whose name holds it.
pub fn matching<'a>(tree: &'a StackTree, text: &str) -> Vec<&'a Function> {
    let is_function = |function: &&Function| matches!(function.kind, FrameKind::Program | FrameKind::Kernel);
    let all = || tree.functions.iter().filter(is_function);
    let exact: Vec<&Function> =
        all().filter(|function| &*function.name == text || function.label() == text).collect();
    if exact.is_empty() { all().filter(|function| function.name.contains(text)).collect() } else { exact }
}
