//! A request and all that belongs to it, through the processes of this host: as a tree, with its critical path. Pure.
//!
//! **The critical path** is what the root waited for, told backwards from its end. At an instant of a span, the path leads into the one of its children
//! that ended last before that instant, at its end; the time between is the span's own. It leaves the child at its beginning, goes on from there in the same
//! way, and ends at the span's beginning. So each instant of the root is one span's own, and all own times are the root's duration. A child that ended behind its span
//! was not waited for, and is not on the path; that of the same request at the other end of a connection is taken to end with its client, which may have its
//! answer before the server's call has returned. Nor is one whose end was not seen.

use std::{collections::BTreeSet, fmt::Write as _, io::Write as _, sync::Arc};

use rustc_hash::FxHashMap;

use super::{
    edges::address,
    format::{Align, count, duration, fit},
};
use crate::{
    event::Role,
    text::{push_json, screen_text},
    time::WallTime,
    transaction::{CallId, Kind, Transaction, anatomy::LinkMethod},
};

/// Spans that are shown; more are counted.
pub const MAX_SPANS: usize = 10_000;
/// Levels below the root; what is deeper is counted with the rest. A chain of that many services is a loop.
pub const MAX_DEPTH: usize = 128;
/// How much later a parent may be stamped than what it made: a send is stamped when it returns. Behind it the transaction has left.
pub const EARLY_NS: u64 = 1_000_000_000;

/// A transaction within a trace.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// The transaction.
    pub row: Arc<Transaction>,
    /// Levels below the root.
    pub depth: usize,
    /// Index of its parent.
    pub parent: Option<usize>,
    /// It is on the critical path, for so long by itself, ns.
    pub critical_ns: Option<u64>,
    /// Of a call: its other end is a span too.
    pub is_answered_here: bool,
    /// Calls that it is known to have made, and that are no spans.
    pub n_missing: u64,
}

/// A trace: the spans, each behind its parent, in the order of their beginnings.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trace {
    /// The spans; the root first.
    pub spans: Vec<Span>,
    /// Which of them was asked for.
    pub shown: usize,
    /// What made the root, where that is known and is not here.
    pub missing_parent: Option<CallId>,
    /// Spans for which there was no room.
    pub n_more: u64,
}

fn id(row: &Transaction) -> CallId {
    CallId { conn: row.conn, ordinal: row.ordinal }
}

impl Trace {
    /// The trace of a transaction among others: `rows` gives those that ended at an instant or later.
    pub fn of<'a, I: Iterator<Item = &'a Arc<Transaction>>>(
        shown: &Arc<Transaction>,
        rows: impl Fn(WallTime) -> I,
    ) -> Trace {
        let early = |row: &Transaction| WallTime(row.start_time.0.saturating_sub(EARLY_NS));
        let (mut root, mut seen) = (shown.clone(), BTreeSet::from([id(shown)]));
        let mut missing_parent = None;
        while let Some(parent) = root.parent() {
            let found = rows(early(&root)).find(|row| id(row) == parent);
            let Some(found) = found.filter(|_| seen.len() < MAX_DEPTH && seen.insert(parent)) else {
                missing_parent = Some(parent);
                break;
            };
            root = found.clone();
        }
        let mut by_parent: FxHashMap<CallId, Vec<Arc<Transaction>>> = FxHashMap::default();
        for row in rows(early(&root)) {
            if let Some(parent) = row.parent().filter(|_| id(row) != id(&root)) {
                by_parent.entry(parent).or_default().push(row.clone());
            }
        }
        let mut trace = Trace { missing_parent, ..Trace::default() };
        let mut waiting = vec![(root, 0, None)];
        while let Some((row, depth, parent)) = waiting.pop() {
            let mut inside = by_parent.remove(&id(&row)).unwrap_or_default();
            if trace.spans.len() >= MAX_SPANS || depth > MAX_DEPTH {
                trace.n_more += 1;
            }
            let at = trace.spans.len();
            let is_room = at < MAX_SPANS && depth <= MAX_DEPTH;
            inside.sort_by_key(|row| std::cmp::Reverse((row.start_time, id(row))));
            if is_room {
                let n_calls = inside.iter().filter(|row| row.role == Role::Client).count() as u64;
                let known: u64 =
                    row.causes.iter().flat_map(|causes| &causes.calls).map(|sum| sum.count).sum();
                if id(&row) == id(shown) {
                    trace.shown = at;
                }
                trace.spans.push(Span {
                    depth,
                    parent,
                    critical_ns: None,
                    is_answered_here: inside.iter().any(|row| is_other_end(row)),
                    n_missing: known.saturating_sub(n_calls),
                    row,
                });
            }
            let around = is_room.then_some(at).or(parent);
            waiting.extend(inside.into_iter().map(|row| (row, depth + 1, around)));
        }
        trace.find_critical();
        trace
    }

    /// Without calls of functions.
    #[must_use]
    pub fn without_functions(mut self) -> Trace {
        if self.spans.iter().any(|span| span.row.kind == Kind::Function) {
            let rows: Vec<_> = self.spans.iter().map(|span| span.row.clone()).collect();
            let requests: Vec<_> = rows.iter().filter(|row| row.kind != Kind::Function).cloned().collect();
            if let Some(shown) = rows.get(self.shown).filter(|row| row.kind != Kind::Function) {
                let missing_parent = self.missing_parent.take();
                let n_more = self.n_more;
                self = Trace::of(shown, |_| requests.iter());
                (self.missing_parent, self.n_more) = (self.missing_parent.or(missing_parent), n_more);
            }
        }
        self
    }

    /// How long the root took, ns.
    pub fn whole_ns(&self) -> u64 {
        self.spans.first().map_or(0, |root| root.row.end_time.0.saturating_sub(root.row.start_time.0))
    }

    fn find_critical(&mut self) {
        let Some(root) = self.spans.first() else { return };
        let mut children: Vec<Vec<usize>> = vec![Vec::new(); self.spans.len()];
        for (at, span) in self.spans.iter().enumerate() {
            if let Some(parent) = span.parent {
                children[parent].push(at);
            }
        }
        let times = (root.row.start_time.0, root.row.end_time.0.max(root.row.start_time.0));
        // What is on the path, from when to when of it, and which child is looked at next.
        let mut waiting = vec![(0, times)];
        while let Some((at, (from, to))) = waiting.pop() {
            let mut candidates: Vec<(u64, u64, usize)> = Vec::new();
            for &child in &children[at] {
                let row = &self.spans[child].row;
                let end = if is_other_end(row) { row.end_time.0.min(to) } else { row.end_time.0 };
                let begin = row.start_time.0.max(from);
                if row.is_finished() && begin < end && end <= to {
                    candidates.push((end, begin, child));
                }
            }
            candidates.sort_unstable_by_key(|(end, begin, child)| (std::cmp::Reverse(*end), *begin, *child));
            let (mut instant, mut own) = (to, 0);
            for (end, begin, child) in candidates {
                if end <= instant {
                    own += instant - end;
                    waiting.push((child, (begin, end)));
                    instant = begin;
                }
            }
            self.spans[at].critical_ns = Some(own + (instant - from));
        }
    }
}

/// Whether it is the same request as its parent, seen at the other end of the connection.
fn is_other_end(row: &Transaction) -> bool {
    link(row) == Some(LinkMethod::Socket)
}

fn link(row: &Transaction) -> Option<LinkMethod> {
    row.causes.as_ref()?.link.map(|link| link.method)
}

/// Columns of what stands before a bar.
const SERVICE: usize = 30;
const OPERATION: usize = 36;
/// Narrowest bar.
const LEAST_BAR: usize = 10;

/// What is drawn with: branch of a link that is sure, of a guess; a bar on the critical path, another one.
#[derive(Clone, Copy, Debug)]
pub struct Marks {
    sure: &'static str,
    guess: &'static str,
    critical: &'static str,
    other: &'static str,
    to: &'static str,
}

impl Marks {
    /// As far as a terminal shows them.
    pub const UNICODE: Marks =
        Marks { sure: "└─", guess: "└?", critical: "█", other: "░", to: "→" };
    /// Plain.
    pub const ASCII: Marks = Marks { sure: "`-", guess: "`?", critical: "#", other: "-", to: ">" };
}

/// A line of the waterfall: the text before the bar, the blanks before and the bar itself, whether it is on the critical path, and how sure its link is.
#[derive(Clone, Debug, PartialEq)]
pub struct WaterfallLine {
    /// Up to the bar.
    pub text: String,
    /// The bar with what stands before it.
    pub bar: String,
    /// It is on the critical path.
    pub is_critical: bool,
    /// Its link is a guess.
    pub is_guess: bool,
}

impl Trace {
    /// The head of the waterfall's columns.
    pub fn heading() -> String {
        let cell = |text, width| fit(text, width, Align::Left);
        let number = |text| fit(text, 8, Align::Right);
        format!(
            "{} {} {} {} {}",
            cell("operation", OPERATION),
            cell("service", SERVICE),
            number("start"),
            number("duration"),
            number("on path")
        )
    }

    /// The lines of the waterfall, so many columns wide.
    pub fn waterfall(&self, width: usize, marks: Marks) -> Vec<WaterfallLine> {
        let Some(root) = self.spans.first() else { return Vec::new() };
        let first = self.spans.iter().map(|span| span.row.start_time.0).min().unwrap_or(0);
        let last = self.spans.iter().map(|span| span.row.end_time.0).max().unwrap_or(0).max(first + 1);
        let zero = root.row.start_time.0;
        let text_width = Trace::heading().len() + 2;
        let room = width.saturating_sub(text_width).max(LEAST_BAR);
        let column = |at: u64| {
            (u128::from(at.saturating_sub(first)) * room as u128 / u128::from(last - first)) as usize
        };
        let line = |(at, span): (usize, &Span)| {
            let row = &span.row;
            let link = link(row);
            let is_guess = link.is_some_and(|method| !method.is_sure());
            let branch = match span.depth {
                0 => String::new(),
                depth => {
                    let branch = if is_guess { marks.guess } else { marks.sure };
                    format!("{}{branch} ", "  ".repeat((depth - 1).min(8)))
                }
            };
            let operation =
                if row.operation.is_empty() { row.protocol.into() } else { screen_text(&row.operation) };
            let shown = if at == self.shown { "*" } else { " " };
            let mut service = screen_text(&row.service).into_owned();
            if row.role == Role::Client && !span.is_answered_here {
                let far = address(&row.server_addr, row.server_port);
                let _ = write!(service, " {} {}", marks.to, screen_text(&far));
            }
            let offset = match row.start_time.0.checked_sub(zero) {
                Some(ns) => duration(ns),
                None => format!("-{}", duration(zero - row.start_time.0)),
            };
            let took = row.end_time.0.saturating_sub(row.start_time.0);
            let took = if row.is_finished() { duration(took) } else { format!(">{}", duration(took)) };
            let own = span.critical_ns.map_or_else(String::new, duration);
            let number = |text: &str| fit(text, 8, Align::Right);
            let text = format!(
                "{} {} {} {} {} {}",
                fit(&format!("{branch}{operation}"), OPERATION, Align::Left),
                fit(&service, SERVICE, Align::Left),
                number(&offset),
                number(&took),
                number(&own),
                shown
            );
            let is_critical = span.critical_ns.is_some();
            let begin = column(row.start_time.0).min(room - 1);
            let end = column(row.end_time.0.max(row.start_time.0)).clamp(begin + 1, room);
            let cell = if is_critical { marks.critical } else { marks.other };
            let bar = format!("{}{}", " ".repeat(begin), cell.repeat(end - begin));
            WaterfallLine { text, bar, is_critical, is_guess }
        };
        self.spans.iter().enumerate().map(line).collect()
    }

    /// What is not here, and what is not sure: a line each.
    pub fn notes(&self, marks: Marks) -> Vec<String> {
        let mut notes = Vec::new();
        if let Some(parent) = self.missing_parent {
            notes.push(format!("missing: what made the first one, {parent}"));
        }
        let is_call = |span: &&Span| span.row.role == Role::Client && span.row.kind != Kind::Function;
        let n_far = self.spans.iter().filter(is_call).filter(|span| !span.is_answered_here).count() as u64;
        if n_far > 0 {
            notes.push(format!("{} the other end is not here: {} calls", marks.to, count(n_far)));
        }
        let n_missing: u64 = self.spans.iter().map(|span| span.n_missing).sum();
        if n_missing > 0 {
            notes.push(format!("missing: {} calls that were counted", count(n_missing)));
        }
        let n_open = self.spans.iter().filter(|span| !span.row.is_finished()).count() as u64;
        if n_open > 0 {
            notes.push(format!("> the end was not seen: {} spans", count(n_open)));
        }
        let guesses = self.spans.iter().filter_map(|span| link(&span.row)).filter(|method| !method.is_sure());
        let n_guesses = guesses.count() as u64;
        if n_guesses > 0 {
            notes.push(format!("{} {}: {} spans", marks.guess, LinkMethod::Order.why(), count(n_guesses)));
        }
        if self.n_more > 0 {
            notes.push(format!("no room for {} more spans", count(self.n_more)));
        }
        notes
    }

    /// All of it as text.
    pub fn text(&self, width: usize, marks: Marks) -> String {
        let services: BTreeSet<&str> = self.spans.iter().map(|span| &*span.row.service).collect();
        let ids: BTreeSet<&str> = self.spans.iter().filter_map(|span| span.row.trace_id.as_deref()).collect();
        let mut out = format!(
            "{} spans of {} services, {}",
            count(self.spans.len() as u64),
            count(services.len() as u64),
            duration(self.whole_ns())
        );
        for id in ids {
            let _ = write!(out, ", trace id {}", screen_text(id));
        }
        let _ = writeln!(out, "\n{}", Trace::heading());
        for line in self.waterfall(width, marks) {
            let _ = writeln!(out, "{} {}", line.text, line.bar);
        }
        for note in self.notes(marks) {
            let _ = writeln!(out, "{note}");
        }
        out
    }

    /// One JSON object on one line.
    pub fn json(&self) -> Vec<u8> {
        let mut out = Vec::new();
        // Writing to a Vec cannot fail.
        let _ = self.write_json(&mut out);
        out
    }

    fn write_json(&self, out: &mut Vec<u8>) -> std::io::Result<()> {
        let zero = self.spans.first().map_or(0, |root| root.row.start_time.0);
        let id_of = |id: Option<CallId>| id.map_or_else(|| "null".to_owned(), |id| format!("\"{id}\""));
        let shown = self.spans.get(self.shown).map(|span| id(&span.row));
        write!(
            out,
            "{{\"type\":\"trace\",\"shown\":{},\"start_time_ns\":{zero},\"duration_ns\":{},\"missing_parent\":{},\"more\":{},\"spans\":[",
            id_of(shown),
            self.whole_ns(),
            id_of(self.missing_parent),
            self.n_more
        )?;
        for (i, span) in self.spans.iter().enumerate() {
            let row = &span.row;
            let comma = if i > 0 { "," } else { "" };
            write!(out, "{comma}{{\"id\":\"{}\",\"parent\":{}", id(row), id_of(row.parent()))?;
            match link(row) {
                Some(method) => write!(
                    out,
                    ",\"link\":{{\"method\":\"{}\",\"confidence\":\"{}\"}}",
                    method.as_str(),
                    method.confidence()
                )?,
                None => out.extend_from_slice(b",\"link\":null"),
            }
            write!(out, ",\"depth\":{},\"role\":\"{}\",\"service\":", span.depth, row.role.as_str())?;
            push_json(out, &row.service);
            out.extend_from_slice(b",\"operation\":");
            push_json(out, &row.operation);
            out.extend_from_slice(b",\"trace_id\":");
            match &row.trace_id {
                Some(trace_id) => push_json(out, trace_id),
                None => out.extend_from_slice(b"null"),
            }
            let offset = i128::from(row.start_time.0) - i128::from(zero);
            write!(
                out,
                ",\"offset_ns\":{offset},\"duration_ns\":{},\"critical_ns\":{},\"error\":{},\"end\":\"{}\",\"calls_missing\":{}",
                row.end_time.0.saturating_sub(row.start_time.0),
                span.critical_ns.map_or_else(|| "null".to_owned(), |ns| ns.to_string()),
                row.error,
                row.end.as_str(),
                span.n_missing
            )?;
            match row.role {
                Role::Client => write!(out, ",\"other_end\":{}}}", span.is_answered_here)?,
                _ => out.extend_from_slice(b",\"other_end\":null}"),
            }
        }
        out.extend_from_slice(b"]}\n");
        Ok(())
    }
}

#[cfg(test)]
mod tests;
