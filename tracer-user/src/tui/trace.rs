//! Transactions as a Chrome trace-event file, which Perfetto opens: a track for each connection, below its process. Pure.
//!
//! <https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU>

use std::{collections::BTreeMap, io::Write as _, sync::Arc};

use super::draw::parts;
use crate::{report::edges::address, text::push_json, transaction::Transaction};

/// The file. Times are µs since the first event, which `otherData` names: the format's numbers hold no ns since 1970. Where transactions
/// of a connection overlap (pipelining), it has more than one track.
pub fn chrome_trace(rows: &[Arc<Transaction>]) -> Vec<u8> {
    let mut spans: Vec<Span<'_>> = rows.iter().map(|row| Span::of(row)).collect();
    spans.sort_by_key(|span| (span.from, span.to, span.row.seq));
    let first = spans.first().map_or(0, |span| span.from);
    let mut out = Vec::new();
    // Writing to a Vec cannot fail.
    let _ = write!(
        out,
        "{{\"displayTimeUnit\":\"ns\",\"otherData\":{{\"first_ns\":\"{first}\"}},\"traceEvents\":["
    );
    // When each track of a connection is free again, and its number among those of the process.
    let mut tracks: BTreeMap<(u32, u64), Vec<(u64, usize)>> = BTreeMap::new();
    let mut n_tracks: BTreeMap<u32, usize> = BTreeMap::new();
    let mut is_first = true;
    for span in &spans {
        let row = span.row;
        let of_process = n_tracks.entry(row.pid).or_insert_with(|| {
            event(&mut out, &mut is_first, "M", row.pid, 0, "process_name");
            named(&mut out, &row.service);
            0
        });
        let of_connection = tracks.entry((row.pid, row.on_wire().0)).or_default();
        let at = of_connection.iter().position(|(free, _)| *free <= span.from).unwrap_or_else(|| {
            *of_process += 1;
            event(&mut out, &mut is_first, "M", row.pid, *of_process, "thread_name");
            let ends = [(&row.client_addr, row.client_port), (&row.server_addr, row.server_port)];
            let [client, server] = ends.map(|(text, port)| address(text, port));
            named(&mut out, &format!("{} > {}  {:016x}", client, server, row.on_wire().0));
            of_connection.push((0, *of_process));
            of_connection.len() - 1
        });
        let (free, track) = &mut of_connection[at];
        *free = span.to;
        let name = if row.operation.is_empty() { row.protocol } else { &row.operation };
        event(&mut out, &mut is_first, "X", row.pid, *track, name);
        times(&mut out, span.from - first, span.to - span.from);
        let _ = write!(
            out,
            ",\"cat\":\"{}\",\"args\":{{\"id\":\"{}\",\"role\":\"{}\",\"error\":{},\"end\":\"{}\",\"status_code\":",
            row.protocol,
            row.id(),
            row.role.as_str(),
            row.error,
            row.end.as_str()
        );
        let _ = match row.status_code {
            Some(code) => write!(out, "{code}}}}}"),
            None => write!(out, "null}}}}"),
        };
        for &(name, from, to) in &span.parts {
            event(&mut out, &mut is_first, "X", row.pid, *track, name);
            times(&mut out, from - first, to - from);
            out.push(b'}');
        }
    }
    out.extend_from_slice(b"]}\n");
    out
}

/// A transaction with the parts of its time, from the queue to the end.
struct Span<'a> {
    row: &'a Transaction,
    from: u64,
    to: u64,
    parts: Vec<(&'static str, u64, u64)>,
}

impl Span<'_> {
    fn of(row: &Transaction) -> Span<'_> {
        let parts = parts(row);
        let from = parts.iter().map(|part| part.from).min().unwrap_or(row.start_time).min(row.start_time);
        let (from, to) = (from.0, row.end_time.max(from).0);
        // Parts of one track must not overlap: one that began early is shown from where the one before it ends.
        let mut free = from;
        let parts = parts
            .iter()
            .map(|part| {
                let (from, to) = (part.from.0.clamp(free, to), part.to.0.clamp(free, to));
                free = to.max(from);
                (part.name, from, free)
            })
            .collect();
        Span { row, from, to, parts }
    }
}

fn event(out: &mut Vec<u8>, is_first: &mut bool, form: &str, pid: u32, track: usize, name: &str) {
    let comma = if std::mem::take(is_first) { "" } else { "," };
    // Writing to a Vec cannot fail.
    let _ = write!(out, "{comma}\n{{\"ph\":\"{form}\",\"pid\":{pid},\"tid\":{track},\"name\":");
    push_json(out, name);
}

fn named(out: &mut Vec<u8>, name: &str) {
    out.extend_from_slice(b",\"args\":{\"name\":");
    push_json(out, name);
    out.extend_from_slice(b"}}");
}

fn times(out: &mut Vec<u8>, from_ns: u64, ns: u64) {
    let us = |ns: u64| format!("{}.{:03}", ns / 1_000, ns % 1_000);
    let _ = write!(out, ",\"ts\":{},\"dur\":{}", us(from_ns), us(ns));
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::{event::ConnId, sink::compliance::transaction};

    fn events(rows: Vec<Transaction>) -> Vec<Value> {
        let rows: Vec<Arc<Transaction>> = rows.into_iter().map(Arc::new).collect();
        let value: Value = serde_json::from_slice(&chrome_trace(&rows)).unwrap();
        value["traceEvents"].as_array().unwrap().clone()
    }

    /// Track, name, begin and end in ns of those that have a duration.
    fn spans(events: &[Value]) -> Vec<((u64, u64), String, i64, i64)> {
        let ns = |value: &Value| (value.as_f64().unwrap() * 1_000.0).round() as i64;
        events
            .iter()
            .filter(|event| event["ph"] == "X")
            .map(|event| {
                let track = (event["pid"].as_u64().unwrap(), event["tid"].as_u64().unwrap());
                let from = ns(&event["ts"]);
                (track, event["name"].as_str().unwrap().to_owned(), from, from + ns(&event["dur"]))
            })
            .collect()
    }

    #[test]
    fn every_transaction_is_an_event_with_its_parts_inside_it_one_behind_the_other() {
        let rows: Vec<Transaction> = (0..40)
            .map(|i| Transaction {
                queue_ns: (i % 2 == 0).then_some(3_000),
                conn: ConnId(i % 3),
                ..transaction(i)
            })
            .collect();
        let found = spans(&events(rows.clone()));
        let whole: Vec<_> = found.iter().filter(|(_, name, ..)| name.starts_with("GET")).collect();
        assert_eq!(whole.len(), rows.len());
        for name in ["reading", "waiting", "sending"] {
            assert_eq!(found.iter().filter(|(_, found, ..)| found == name).count(), rows.len());
        }
        assert_eq!(found.iter().filter(|(_, found, ..)| found == "queued").count(), rows.len() / 2);
        let (mut around, mut free) = (None, 0);
        for (track, name, from, to) in &found {
            if name.starts_with("GET") {
                (around, free) = (Some((*track, *from, *to)), *from);
                continue;
            }
            let (its, begin, end) = around.unwrap();
            assert!(*track == its && begin <= *from && from <= to && *to <= end && free <= *from, "{name}");
            free = *to;
        }
    }

    #[test]
    fn what_overlaps_on_a_connection_has_a_track_of_its_own() {
        let rows =
            (0..6).map(|i| Transaction { start_time: transaction(0).start_time, ..transaction(i) }).collect();
        let found = spans(&events(rows));
        let tracks: std::collections::BTreeSet<_> = found.iter().map(|(track, ..)| track).collect();
        assert_eq!(tracks.len(), 6);
        let rows = (0..6).map(|i| Transaction { conn: ConnId(1), ..transaction(i * 10) }).collect();
        let tracks: std::collections::BTreeSet<_> =
            spans(&events(rows)).into_iter().map(|(track, ..)| track).collect();
        assert_eq!(tracks.len(), 1);
        assert!(events(Vec::new()).is_empty());
    }

    #[test]
    fn names_are_told_once_for_each_process_and_track() {
        let rows =
            (0..30).map(|i| Transaction { pid: 7 + (i % 2) as u32, conn: ConnId(i % 4), ..transaction(i) });
        let all = events(rows.collect());
        let named = |kind: &str| all.iter().filter(|event| event["name"] == kind).count();
        assert_eq!((named("process_name"), named("thread_name")), (2, 4));
    }
}
