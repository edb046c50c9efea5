//! The state at one instant: what was in flight then, and all that had finished by then. A table for people, one JSON object for
//! machines.

use std::{
    fmt::{Display, Write as _},
    io::Write as _,
    time::Duration,
};

use super::{
    format::{self, Align},
    loss::Losses,
    summary::{self, QUANTILES, Summary, comma},
};
use crate::{
    config::Span,
    pipeline::{ConnRow, Connections, OpenRequest, Snapshot},
    sink::histogram::Histograms,
    text::{data_text, push_json, screen_bytes, screen_text},
    time::WallTime,
};

/// Requests in flight in the text; the rest is counted in a last line.
const TABLE_ROWS: usize = 40;

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

    /// What was in flight, the operations, the losses.
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
        text.push('\n');
        text.push_str(&summary::table(&summary::operations(&self.histograms), None));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::{AgeSteps, InFlight};

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
