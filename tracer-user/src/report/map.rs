//! Who calls whom in a recording: a table for people, a graph for graphviz, one JSON object for machines.

use std::{collections::BTreeMap, fmt::Write as _, io::Write as _};

use super::{
    edges::{Edge, GivenUp, Peer},
    format::{self, Align},
    summary::comma,
};
use crate::{text::push_json, transaction::WallRange};

/// The calls of a recording, or of a part of it.
#[derive(Clone, Debug, Default)]
pub struct Map {
    /// From the first end to the last.
    pub span: Option<WallRange>,
    /// Transactions that were counted. A call of which both ends were traced has two.
    pub transactions: u64,
    /// Edges, most calls first.
    pub edges: Vec<Edge>,
    /// What there was no room to tell apart.
    pub given_up: GivenUp,
}

/// An end with its sums.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    calls_in: u64,
    errors_in: u64,
    calls_out: u64,
    errors_out: u64,
}

impl Map {
    /// A number of calls as a rate over the time that the map covers.
    pub fn rate(&self, n: u64) -> String {
        format::rate(n, self.span.map_or(0, |span| span.to.0 - span.from.0))
    }

    /// The ends in the order in which the edges name them, each with its number and sums.
    fn nodes(&self) -> (Vec<(&Peer, Sums)>, BTreeMap<&Peer, usize>) {
        let (mut nodes, mut numbers) = (Vec::<(&Peer, Sums)>::new(), BTreeMap::new());
        for edge in &self.edges {
            let [from, to] = [&edge.from, &edge.to].map(|peer| {
                *numbers.entry(peer).or_insert_with(|| {
                    nodes.push((peer, Sums::default()));
                    nodes.len() - 1
                })
            });
            nodes[from].1.calls_out += edge.count;
            nodes[from].1.errors_out += edge.errors;
            nodes[to].1.calls_in += edge.count;
            nodes[to].1.errors_in += edge.errors;
        }
        (nodes, numbers)
    }

    /// How many, and of when.
    pub fn heading(&self) -> String {
        let Some(span) = self.span else { return "no transactions\n".to_owned() };
        let calls: u64 = self.edges.iter().map(|edge| edge.count).sum();
        format!(
            "{} calls in {} transactions, {} to {} UTC; rate, errors and p99 of each call; a dashed end was not traced\n\n",
            format::count(calls),
            format::count(self.transactions),
            format::clock(span.from),
            format::clock(span.to),
        )
    }

    /// The edges as a table.
    pub fn table(&self) -> String {
        let heading = [
            "from",
            "to",
            "protocol",
            "rate/s",
            "errors",
            "count",
            "p50",
            "p90",
            "p99",
            "max",
            "request bytes",
            "response bytes",
            "seen by",
        ];
        let mut rows = vec![heading.map(str::to_owned).to_vec()];
        rows.extend(self.edges.iter().map(|edge| {
            let times = match edge.quantiles_ns {
                Some([p50, p90, p99, _]) => [p50, p90, p99, edge.max_ns].map(format::duration),
                None => ["-"; 4].map(str::to_owned),
            };
            let seen = match edge.seen {
                [_, 0] => "client",
                [0, _] => "server",
                _ => "both",
            };
            let mut row = vec![edge.from.name(), edge.to.name(), edge.protocol.to_owned()];
            row.extend([self.rate(edge.count), format::count(edge.errors), format::count(edge.count)]);
            row.extend(times);
            row.extend(edge.bytes.map(format::count));
            row.push(seen.to_owned());
            row
        }));
        let columns: Vec<(Align, usize)> = (0..heading.len())
            .map(|i| if i < 3 || i + 1 == heading.len() { (Align::Left, 40) } else { (Align::Right, 20) })
            .collect();
        format::table(&rows, &columns)
    }

    /// What there was no room to tell apart, if anything.
    pub fn given_up_lines(&self) -> String {
        let GivenUp { connections, listeners } = self.given_up;
        let mut lines = String::new();
        if connections != 0 {
            lines.push_str(&format!(
                "{} client connections were forgotten too early: calls on them may count twice, once as an address's\n",
                format::count(connections)
            ));
        }
        if listeners != 0 {
            lines.push_str(&format!(
                "{} transactions were served on addresses beyond those that are remembered: calls to them are calls to an address\n",
                format::count(listeners)
            ));
        }
        lines
    }

    /// A directed graph in the DOT language. Ends that were not traced are dashed, edges with errors red.
    pub fn dot(&self) -> String {
        let (nodes, numbers) = self.nodes();
        let mut dot = String::from("digraph txray {\n  rankdir=LR;\n  node [shape=box];\n");
        for (i, (peer, _)) in nodes.iter().enumerate() {
            let style = if peer.is_unseen() { ", style=dashed" } else { "" };
            // Writing to a String cannot fail.
            let _ = writeln!(dot, "  n{i} [label={}{style}];", dot_text(&peer.name()));
        }
        for edge in &self.edges {
            let p99 = edge.quantiles_ns.map(|[_, _, p99, _]| format!(" p99 {}", format::duration(p99)));
            let (errors, colour) = match edge.errors {
                0 => (String::new(), ""),
                n => (format!(" {} err", format::count(n)), ", color=red, fontcolor=red"),
            };
            let rate = self.rate(edge.count);
            let label = format!("{} {rate}/s{errors}{}", edge.protocol, p99.unwrap_or_default());
            let (from, to) = (numbers[&edge.from], numbers[&edge.to]);
            let _ = writeln!(dot, "  n{from} -> n{to} [label={}{colour}];", dot_text(&label));
        }
        dot.push_str("}\n");
        dot
    }

    /// One JSON object on one line, `"type":"map"`. Times and counts are integers; edges name their ends by the nodes' ids.
    pub fn json(&self) -> Vec<u8> {
        let mut out = Vec::new();
        // Writing to a Vec cannot fail.
        let _ = self.write_json(&mut out);
        out
    }

    fn write_json(&self, out: &mut Vec<u8>) -> std::io::Result<()> {
        let (nodes, numbers) = self.nodes();
        write!(out, "{{\"type\":\"map\",\"transactions\":{}", self.transactions)?;
        match self.span {
            Some(span) => write!(out, ",\"first_end_ns\":{},\"last_end_ns\":{}", span.from.0, span.to.0)?,
            None => out.extend_from_slice(b",\"first_end_ns\":null,\"last_end_ns\":null"),
        }
        out.extend_from_slice(b",\"nodes\":[");
        for (i, (peer, sums)) in nodes.iter().enumerate() {
            write!(out, "{}{{\"id\":{i},\"name\":", comma(i))?;
            push_json(out, peer.raw());
            let kind = if peer.is_unseen() { "address" } else { "service" };
            let Sums { calls_in, errors_in, calls_out, errors_out } = sums;
            write!(
                out,
                ",\"kind\":\"{kind}\",\"calls_in\":{calls_in},\"errors_in\":{errors_in},\
                 \"calls_out\":{calls_out},\"errors_out\":{errors_out}}}"
            )?;
        }
        out.extend_from_slice(b"],\"edges\":[");
        for (i, edge) in self.edges.iter().enumerate() {
            let Edge { count, errors, max_ns, bytes: [request, response], seen: [client, server], .. } = edge;
            let (from, to) = (numbers[&edge.from], numbers[&edge.to]);
            write!(out, "{}{{\"from\":{from},\"to\":{to},\"protocol\":", comma(i))?;
            push_json(out, edge.protocol);
            write!(out, ",\"count\":{count},\"errors\":{errors}")?;
            match edge.quantiles_ns {
                Some([p50, p90, p99, _]) => {
                    write!(out, ",\"p50_ns\":{p50},\"p90_ns\":{p90},\"p99_ns\":{p99},\"max_ns\":{max_ns}")?
                }
                None => {
                    out.extend_from_slice(
                        b",\"p50_ns\":null,\"p90_ns\":null,\"p99_ns\":null,\"max_ns\":null",
                    );
                }
            }
            write!(
                out,
                ",\"request_bytes\":{request},\"response_bytes\":{response},\
                 \"seen_by_client\":{client},\"seen_by_server\":{server}}}"
            )?;
        }
        let GivenUp { connections, listeners } = self.given_up;
        writeln!(out, "],\"forgotten_connections\":{connections},\"forgotten_listeners\":{listeners}}}")?;
        Ok(())
    }
}

/// A text as a quoted string of the DOT language, in which graphviz finds nothing but the text. What is safe to show has no line feed.
fn dot_text(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            // Graphviz reads entities.
            '&' => out.push_str("&amp;"),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_inside_their_quotes_in_dot() {
        assert_eq!(dot_text("shop"), "\"shop\"");
        assert_eq!(dot_text("a\"]; x [label=\"b\\"), r#""a\"]; x [label=\"b\\""#);
        assert_eq!(dot_text("&lt;\\N"), r#""&amp;lt;\\N""#);
    }
}
