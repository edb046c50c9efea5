//! The state at one instant: what was in flight then, and all that had finished by then. A table for people, one JSON object for
//! machines.

use std::{
    fmt::{Display, Write as _},
    io::Write as _,
    time::Duration,
};

use super::{
    edges::address,
    format::{self, Align},
    loss::Losses,
    summary::{self, QUANTILES, Summary, comma},
};
use crate::{
    config::Span,
    pipeline::{ConnRow, Connections, OpenRequest, Snapshot},
    sink::{histogram::Histograms, jsonl::push_tls},
    text::{data_text, push_json, screen_bytes, screen_text},
    time::WallTime,
};

/// Requests in flight in the text, and open connections; the rest is counted.
const TABLE_ROWS: usize = 40;
/// Connections that ended in the text, the last ones.
const ENDED_ROWS: usize = 10;

/// The state at an instant.
#[derive(Clone, Debug)]
pub struct Instant {
    /// When.
    pub at: WallTime,
    /// What the pipeline held.
    pub snapshot: Snapshot,
    /// What had finished.
    pub histograms: Histograms,
    /// Losses known by then.
    pub losses: Losses,
}

/// Finished transactions, errors among them, and those of the last completed seconds.
fn totals(histograms: &Histograms) -> [u64; 3] {
    let watermark = histograms.watermark();
    let mut totals = [0; 3];
    for row in histograms.operations() {
        totals[0] += row.series.count;
        totals[1] += row.series.errors;
        totals[2] += row.series.recent(watermark);
    }
    totals
}

/// A member of an object behind others; `null` without a value.
fn write_or_null(out: &mut Vec<u8>, name: &str, value: Option<impl Display>) -> std::io::Result<()> {
    match value {
        Some(value) => write!(out, ",\"{name}\":{value}"),
        None => write!(out, ",\"{name}\":null"),
    }
}

impl Instant {
    /// One JSON object on one line, `"type":"snapshot"`. Times and counts are integers.
    pub fn json(&self) -> Vec<u8> {
        let mut out = Vec::new();
        // Writing to a Vec cannot fail.
        let _ = self.write_json(&mut out);
        out
    }

    fn write_json(&self, out: &mut Vec<u8>) -> std::io::Result<()> {
        let Snapshot { n_open, n_long_lived, in_flight, open, .. } = &self.snapshot;
        let [count, errors, recent] = totals(&self.histograms);
        write!(
            out,
            "{{\"type\":\"snapshot\",\"at_ns\":{},\"transactions\":{count},\"errors\":{errors},\
             \"recent\":{recent},\"recent_s\":{},\"in_flight\":{n_open},\"long_lived\":{n_long_lived}",
            self.at.0,
            self.histograms.recent_seconds(),
        )?;
        out.extend_from_slice(b",\"in_flight_by_service\":[");
        for (i, flight) in in_flight.iter().enumerate() {
            out.extend_from_slice(comma(i).as_bytes());
            out.extend_from_slice(b"{\"service\":");
            push_json(out, &flight.service);
            let below = self
                .snapshot
                .age_steps
                .ages_ns()
                .iter()
                .map(|age| format!("below_{}", Span(Duration::from_nanos(*age))));
            for (class, n) in below.chain(["older".to_owned()]).zip(&flight.by_age) {
                write!(out, ",\"{class}\":{n}")?;
            }
            out.push(b'}');
        }
        out.extend_from_slice(b"],\"requests\":[");
        for (i, open) in open.iter().enumerate() {
            out.extend_from_slice(comma(i).as_bytes());
            let OpenRequest { age_ns, pid, tid, conn, ordinal, .. } = open;
            write!(out, "{{\"id\":\"{:016x}-{ordinal}\",\"service\":", conn.0)?;
            push_json(out, &open.service);
            write!(out, ",\"role\":\"{}\",\"method\":", open.role.as_str())?;
            push_json(out, &open.method);
            out.extend_from_slice(b",\"path\":");
            push_json(out, &data_text(&open.path));
            write!(
                out,
                ",\"step\":\"{}\",\"age_ns\":{age_ns},\"pid\":{pid},\"tid\":{tid}}}",
                open.step_name()
            )?;
        }
        out.extend_from_slice(b"],\"unpaired\":{");
        for (i, (reason, n)) in Summary::unpaired(&self.snapshot).iter().enumerate() {
            out.extend_from_slice(comma(i).as_bytes());
            write!(out, "\"{}\":{n}", reason.as_str())?;
        }
        out.extend_from_slice(b"},\"lost\":{");
        for (i, (reason, n)) in self.losses.lost.iter().enumerate() {
            out.extend_from_slice(comma(i).as_bytes());
            push_json(out, reason);
            write!(out, ":{n}")?;
        }
        let lost = self.losses.requests;
        write!(out, "}},\"lost_requests\":{{\"low\":{},\"high\":{}}},\"operations\":[", lost.low, lost.high)?;
        let watermark = self.histograms.watermark();
        for (i, row) in self.histograms.operations().iter().enumerate() {
            out.extend_from_slice(comma(i).as_bytes());
            out.extend_from_slice(b"{\"service\":");
            push_json(out, row.service);
            write!(out, ",\"role\":\"{}\",\"operation\":", row.role.as_str())?;
            push_json(out, row.operation.map_or("", |name| name));
            let series = row.series;
            write!(
                out,
                ",\"count\":{},\"errors\":{},\"recent\":{}",
                series.count,
                series.errors,
                series.recent(watermark)
            )?;
            match series.quantiles(QUANTILES) {
                Some([p50, p90, p99, p999]) => write!(
                    out,
                    ",\"p50_ns\":{p50},\"p90_ns\":{p90},\"p99_ns\":{p99},\"p99_9_ns\":{p999},\"max_ns\":{}}}",
                    series.max_ns
                )?,
                None => out.extend_from_slice(
                    b",\"p50_ns\":null,\"p90_ns\":null,\"p99_ns\":null,\"p99_9_ns\":null,\"max_ns\":null}",
                ),
            }
        }
        out.extend_from_slice(b"]");
        self.write_connections(out)?;
        out.extend_from_slice(b"}\n");
        Ok(())
    }

    /// Those that are open and those that ended, each with the count of all: the lists are bounded.
    fn write_connections(&self, out: &mut Vec<u8>) -> std::io::Result<()> {
        let Connections { open, closed, n_closed } = &*self.snapshot.connections;
        let n_open = self.snapshot.n_conns;
        write!(out, ",\"connections_open\":{n_open},\"connections_closed\":{n_closed},\"connections\":[")?;
        for (i, row) in open.iter().chain(closed).enumerate() {
            out.extend_from_slice(comma(i).as_bytes());
            let ConnRow { conn, pid, requests, errors, in_flight, age_ns, from_start, .. } = row;
            write!(out, "{{\"conn_id\":\"{:016x}\",\"service\":", conn.0)?;
            push_json(out, &row.service);
            write!(out, ",\"pid\":{pid},\"comm\":")?;
            push_json(out, &row.thread());
            write!(out, ",\"role\":\"{}\"", row.role.as_str())?;
            for (name, (address, port)) in ["local", "peer"].into_iter().zip(row.ends()) {
                write!(out, ",\"{name}_addr\":")?;
                match &*address {
                    "" => out.extend_from_slice(b"null"),
                    address => push_json(out, address),
                }
                write_or_null(out, &format!("{name}_port"), port)?;
            }
            let [bytes_in, bytes_out] = row.bytes;
            write_or_null(out, "protocol", row.protocol.map(|name| format!("\"{name}\"")))?;
            push_tls(out, row.tls.as_deref());
            write!(out, ",\"state\":\"{}\",\"capture\":\"{}\"", row.state.as_str(), row.capture)?;
            write!(out, ",\"age_ns\":{age_ns},\"from_start\":{from_start}")?;
            write_or_null(out, "idle_ns", row.idle_ns)?;
            write!(out, ",\"requests\":{requests},\"errors\":{errors},\"in_flight\":{in_flight}")?;
            write_or_null(out, "step", row.step.map(|step| format!("\"{}\"", step.as_str())))?;
            write!(out, ",\"bytes_in\":{bytes_in},\"bytes_out\":{bytes_out}}}")?;
        }
        out.extend_from_slice(b"]");
        Ok(())
    }

    /// The connections of the text; nothing where there were none.
    fn connections_text(&self) -> String {
        let Connections { open, closed, n_closed } = &*self.snapshot.connections;
        let n_open = self.snapshot.n_conns as u64;
        if n_open + n_closed == 0 {
            return String::new();
        }
        let shown = [open.len().min(TABLE_ROWS), closed.len().min(ENDED_ROWS)];
        let [n_shown, n_ended] = shown.map(|n| n as u64);
        // Of how many, and which, if not all are there.
        let of = |shown: u64, all: u64, which: &str| {
            if shown < all {
                format!("{} of {} {which}", format::count(shown), format::count(all))
            } else {
                format::count(all)
            }
        };
        let mut text = format!(
            "connections open: {}; ended: {}\n",
            of(n_shown, n_open, "(used last)"),
            of(n_ended, *n_closed, "(the last)"),
        );
        let headings = [
            "state", "role", "service", "pid", "own end", "peer", "protocol", "age", "idle", "done",
            "errors", "now", "in", "out",
        ];
        let mut rows = vec![headings.map(str::to_owned).to_vec()];
        rows.extend(open.iter().take(shown[0]).chain(closed.iter().take(shown[1])).map(|row| {
            let [own, peer] = row.ends().map(|(text, port)| screen_text(&address(&text, port)).into_owned());
            // Older than what was seen of it.
            let age = if row.from_start { "" } else { "≥" };
            vec![
                row.state.as_str().to_owned(),
                row.role.as_str().to_owned(),
                screen_text(&row.service).into_owned(),
                row.pid.to_string(),
                own,
                peer,
                row.protocol.unwrap_or("-").to_owned(),
                format!("{age}{}", format::duration(row.age_ns)),
                row.idle_ns.map_or("-".to_owned(), format::duration),
                format::count(row.requests),
                format::count(row.errors),
                format::count(row.in_flight),
                format::count(row.bytes[0]),
                format::count(row.bytes[1]),
            ]
        }));
        let (left, right) = (Align::Left, Align::Right);
        let columns = [
            (left, 12),
            (left, 7),
            (left, 24),
            (right, 8),
            (left, 48),
            (left, 48),
            (left, 10),
            (right, 9),
            (right, 8),
            (right, 12),
            (right, 12),
            (right, 8),
            (right, 16),
            (right, 16),
        ];
        text.push_str(&format::table(&rows, &columns));
        text
    }

    /// What was in flight, the connections, the operations, the losses.
    pub fn text(&self) -> String {
        let Snapshot { n_open, n_long_lived, open, .. } = &self.snapshot;
        let [count, errors, recent] = totals(&self.histograms);
        let seconds = self.histograms.recent_seconds();
        let mut text = format!(
            "{} UTC: {} in flight, {} long-lived; {} transactions, {} errors, {}/s in the last {seconds} s\n{}\n",
            format::clock(self.at),
            format::count(*n_open),
            format::count(*n_long_lived),
            format::count(count),
            format::count(errors),
            format::rate(recent, seconds * 1_000_000_000),
            self.losses.line(),
        );
        if !open.is_empty() {
            let mut rows = vec![["age", "step", "role", "service", "request"].map(str::to_owned).to_vec()];
            rows.extend(open.iter().take(TABLE_ROWS).map(|open| {
                vec![
                    format::duration(open.age_ns),
                    open.step_name().to_owned(),
                    open.role.as_str().to_owned(),
                    screen_text(&open.service).into_owned(),
                    screen_bytes(&open.request()),
                ]
            }));
            let columns =
                [(Align::Right, 8), (Align::Left, 8), (Align::Left, 7), (Align::Left, 24), (Align::Left, 60)];
            text.push('\n');
            text.push_str(&format::table(&rows, &columns));
            let all = n_open + n_long_lived;
            let rest = all.saturating_sub(open.len().min(TABLE_ROWS) as u64);
            if rest != 0 {
                // Writing to a String cannot fail.
                let _ = writeln!(text, "… and {} younger ones", format::count(rest));
            }
        }
        for part in [self.connections_text()].iter().filter(|part| !part.is_empty()) {
            text.push('\n');
            text.push_str(part);
        }
        text.push('\n');
        text.push_str(&summary::table(&summary::operations(&self.histograms), None));
        text
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tracer_ebpf as abi;

    use super::*;
    use crate::{
        event::{ConnId, Role},
        pipeline::{AgeSteps, ConnState, InFlight, MAX_CLOSED_LISTED},
    };

    fn conn(i: u64, state: ConnState) -> ConnRow {
        let mut tuple = abi::Tuple {
            local_port: 80,
            remote_port: 40_000 + i as u16,
            family: abi::FAMILY_INET,
            ..abi::Tuple::default()
        };
        tuple.local[..4].copy_from_slice(&[127, 0, 0, 1]);
        tuple.remote[..4].copy_from_slice(&[10, 0, 0, 7]);
        ConnRow {
            conn: ConnId(i),
            service: "shop\u{1b}[2J".into(),
            pid: 4_711,
            comm: [0; 16],
            role: Role::Server,
            tuple,
            unix_path: Default::default(),
            protocol: Some("http1"),
            tls: None,
            age_ns: 90_000_000_000,
            from_start: i != 1,
            requests: 1_000 + i,
            errors: 3,
            in_flight: 1,
            step: None,
            bytes: [12_345, 678_900],
            idle_ns: (i != 2).then_some(20_000_000),
            state,
            capture: "heads",
        }
    }

    fn with_connections(n_listed: u64, n_open: usize, n_ended: u64, n_closed: u64) -> Instant {
        let connections = Connections {
            open: (0..n_listed).map(|i| conn(i, ConnState::Open)).collect(),
            closed: (500..500 + n_ended).map(|i| conn(i, ConnState::Reset)).collect(),
            n_closed,
        };
        Instant {
            at: WallTime(1),
            snapshot: Snapshot { n_conns: n_open, connections: Arc::new(connections), ..Snapshot::default() },
            histograms: Histograms::default(),
            losses: Losses::default(),
        }
    }

    #[test]
    fn connections_are_a_table_and_what_it_leaves_out_is_counted() {
        let text = with_connections(3, 3, 1, 1).text();
        let lines: Vec<&str> =
            text.lines().skip_while(|line| !line.starts_with("connections")).take(6).collect();
        assert_eq!(lines.join("\n"), "\
connections open: 3; ended: 1
state  role    service         pid  own end       peer            protocol     age    idle   done  errors  now      in      out
open   server  shop\\u{1b}[2J  4711  127.0.0.1:80  10.0.0.7:40000  http1      90.0s  20.0ms  1,000       3    1  12,345  678,900
open   server  shop\\u{1b}[2J  4711  127.0.0.1:80  10.0.0.7:40001  http1     ≥90.0s  20.0ms  1,001       3    1  12,345  678,900
open   server  shop\\u{1b}[2J  4711  127.0.0.1:80  10.0.0.7:40002  http1      90.0s       -  1,002       3    1  12,345  678,900
reset  server  shop\\u{1b}[2J  4711  127.0.0.1:80  10.0.0.7:40500  http1      90.0s  20.0ms  1,500       3    1  12,345  678,900");
        let n_rows = |text: &str| text.lines().filter(|line| line.contains("10.0.0.7:")).count();
        for (listed, all, ended, closed, heading) in [
            (40, 40, 10, 10, "connections open: 40; ended: 10\n"),
            (41, 41, 11, 11, "connections open: 40 of 41 (used last); ended: 10 of 11 (the last)\n"),
            (
                1_000,
                65_000,
                MAX_CLOSED_LISTED as u64,
                12_345,
                "connections open: 40 of 65,000 (used last); ended: 10 of 12,345 (the last)\n",
            ),
        ] {
            let text = with_connections(listed, all, ended, closed).text();
            assert!(text.contains(heading), "{text}");
            assert_eq!(n_rows(&text), 50);
        }
        assert!(!with_connections(0, 0, 0, 0).text().contains("connections"));
    }

    #[test]
    fn classes_of_age_are_called_by_their_bounds() {
        for (age_steps, by_age, keys) in [
            (AgeSteps::SCOUTER, vec![5, 2, 1], "\"below_3s\":5,\"below_8s\":2,\"older\":1}"),
            (
                AgeSteps::PINPOINT,
                vec![5, 0, 2, 1],
                "\"below_1s\":5,\"below_3s\":0,\"below_5s\":2,\"older\":1}",
            ),
        ] {
            let in_flight = vec![InFlight { service: "shop".into(), by_age }];
            let instant = Instant {
                at: WallTime(1),
                snapshot: Snapshot { age_steps, in_flight, ..Snapshot::default() },
                histograms: Histograms::default(),
                losses: Losses::default(),
            };
            let json = String::from_utf8(instant.json()).unwrap();
            assert!(json.contains(&format!("[{{\"service\":\"shop\",{keys}]")), "{json}");
        }
    }
}
