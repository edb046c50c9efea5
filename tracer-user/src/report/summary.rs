//! The summary at the end of a run: a table for people, one JSON object for machines.

use std::{fmt::Write as _, io::Write as _, time::Duration};

use super::{
    format::{self, Align},
    loss::Losses,
};
use crate::{
    config::Span,
    event::Role,
    pipeline::{AgeSteps, InFlight, Snapshot},
    sink::histogram::Histograms,
    text::{push_json, screen_text},
    transaction::Unpaired,
};

/// Rows of the text table; further operations are counted in a last line.
const TABLE_ROWS: usize = 40;

/// What a run saw.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// Events that entered the pipeline.
    pub events: u64,
    /// Finished transactions, those that the filter left out included.
    pub transactions: u64,
    /// Requests that were in flight when the run ended. `requests seen = transactions + open`.
    pub open: u64,
    /// Messages without a pair.
    pub unpaired: Vec<(Unpaired, u64)>,
    /// Losses.
    pub losses: Losses,
    /// Finished transactions that the filter left out.
    pub filtered: u64,
    /// Event time from the first event to the last, ns.
    pub duration_ns: u64,
    /// Operations, in the order of service, role and name.
    pub operations: Vec<Operation>,
}

/// One row of the operations table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Service.
    pub service: String,
    /// The service's part.
    pub role: Role,
    /// Name.
    pub operation: String,
    /// Finished transactions.
    pub count: u64,
    /// Errors among them.
    pub errors: u64,
    /// p50, p90, p99, p99.9 of the measured ones, ns; `None` if there are none.
    pub quantiles_ns: Option<[u64; 4]>,
    /// The longest measured, ns.
    pub max_ns: u64,
}

/// The quantiles of the table.
pub const QUANTILES: [f64; 4] = [0.5, 0.9, 0.99, 0.999];

/// The rows of [`Histograms`], finished for reading.
pub fn operations(histograms: &Histograms) -> Vec<Operation> {
    histograms
        .operations()
        .into_iter()
        .map(|row| Operation {
            service: row.service.to_string(),
            role: row.role,
            operation: row.operation.map(|name| name.to_string()).unwrap_or_default(),
            count: row.series.count,
            errors: row.series.errors,
            quantiles_ns: row.series.quantiles(QUANTILES),
            max_ns: row.series.max_ns,
        })
        .collect()
}

impl Summary {
    /// Unpaired messages as the pipeline counted them, every reason present.
    pub fn unpaired(snapshot: &Snapshot) -> Vec<(Unpaired, u64)> {
        Unpaired::ALL
            .iter()
            .map(|&reason| {
                let n = snapshot.unpaired.iter().filter(|(r, _)| *r == reason).map(|(_, n)| n).sum();
                (reason, n)
            })
            .collect()
    }

    /// One JSON object on one line, `"type":"summary"`.
    pub fn json(&self) -> Vec<u8> {
        let mut out = Vec::new();
        // Writing to a Vec cannot fail.
        let _ = self.write_json(&mut out);
        out
    }

    fn write_json(&self, out: &mut Vec<u8>) -> std::io::Result<()> {
        let Summary { events, transactions, open, unpaired, losses, filtered, duration_ns, operations } =
            self;
        write!(
            out,
            "{{\"type\":\"summary\",\"events\":{events},\"transactions\":{transactions},\"open\":{open}"
        )?;
        out.extend_from_slice(b",\"unpaired\":{");
        for (i, (reason, n)) in unpaired.iter().enumerate() {
            write!(out, "{}\"{}\":{n}", comma(i), reason.as_str())?;
        }
        out.extend_from_slice(b"},\"lost\":{");
        for (i, (reason, n)) in losses.lost.iter().enumerate() {
            out.extend_from_slice(comma(i).as_bytes());
            push_json(out, reason);
            write!(out, ":{n}")?;
        }
        let requests = losses.requests;
        write!(out, "}},\"lost_requests\":{{\"low\":{},\"high\":{}}}", requests.low, requests.high)?;
        let seconds = duration_ns.saturating_add(500_000_000) / 1_000_000_000;
        write!(out, ",\"filtered\":{filtered},\"duration_s\":{seconds},\"operations\":[")?;
        for (i, row) in operations.iter().enumerate() {
            out.extend_from_slice(comma(i).as_bytes());
            out.extend_from_slice(b"{\"service\":");
            push_json(out, &row.service);
            out.extend_from_slice(b",\"operation\":");
            push_json(out, &row.operation);
            write!(out, ",\"count\":{},\"errors\":{}", row.count, row.errors)?;
            match row.quantiles_ns {
                Some([p50, p90, p99, _]) => write!(
                    out,
                    ",\"p50_ns\":{p50},\"p90_ns\":{p90},\"p99_ns\":{p99},\"max_ns\":{}}}",
                    row.max_ns
                )?,
                None => out
                    .extend_from_slice(b",\"p50_ns\":null,\"p90_ns\":null,\"p99_ns\":null,\"max_ns\":null}"),
            }
        }
        out.extend_from_slice(b"]}\n");
        Ok(())
    }

    /// The table and the totals.
    pub fn text(&self) -> String {
        self.with(None)
    }

    /// The same with what was in flight at the end, by service and age; an error says why that is not known.
    pub fn once(&self, in_flight: Result<&[InFlight], &str>, steps: &AgeSteps) -> String {
        self.with(Some(match in_flight {
            Ok(flights) => in_flight_table(flights, steps),
            Err(reason) => format!("in flight: not known: {reason}\n"),
        }))
    }

    fn with(&self, in_flight: Option<String>) -> String {
        let mut text = match (self.operations.is_empty(), self.filtered) {
            (true, 1..) => "no transaction matched the filter\n".to_owned(),
            _ => table(&self.operations, Some(self.duration_ns)),
        };
        if let Some(in_flight) = in_flight {
            let _ = write!(text, "\n{in_flight}");
        }
        text.push('\n');
        text.push_str(&self.totals());
        text
    }

    /// What of the totals somebody who gets the transactions alone has to know: that some are missing; `None`: none are.
    pub fn warning(&self) -> Option<String> {
        let is_whole = !self.losses.any() && self.unpaired.iter().all(|(_, n)| *n == 0);
        (!is_whole).then(|| self.totals())
    }

    /// Two lines: sums, and what was lost.
    fn totals(&self) -> String {
        let mut text = format!(
            "{} transactions in {}, {} open, {} events",
            format::count(self.transactions),
            format::duration(self.duration_ns),
            format::count(self.open),
            format::count(self.events),
        );
        if self.filtered != 0 {
            let _ = write!(text, "; {} filtered out", format::count(self.filtered));
        }
        let unpaired: Vec<String> = self
            .unpaired
            .iter()
            .filter(|(_, n)| *n != 0)
            .map(|(reason, n)| format!("{} {} ({})", reason.as_str(), format::count(*n), reason.why()))
            .collect();
        if !unpaired.is_empty() {
            let _ = write!(text, "; unpaired answers: {}", unpaired.join(", "));
        }
        let _ = writeln!(text, "\n{}", self.losses.line());
        text
    }
}

/// Requests in flight by service and age, most first.
fn in_flight_table(flights: &[InFlight], steps: &AgeSteps) -> String {
    if flights.is_empty() {
        return "nothing in flight\n".to_owned();
    }
    let ages = steps.ages_ns();
    let mut heading = vec!["in flight".to_owned(), "all".to_owned()];
    heading.extend(ages.iter().map(|age| format!("< {}", Span(Duration::from_nanos(*age)))));
    heading.push("older".to_owned());
    let all = |flight: &InFlight| flight.by_age.iter().sum::<u64>();
    let mut order: Vec<&InFlight> = flights.iter().collect();
    // Stable: equal ones stay in the order of their names.
    order.sort_by_key(|flight| std::cmp::Reverse(all(flight)));
    let mut rows = vec![heading];
    rows.extend(order.iter().take(TABLE_ROWS).map(|flight| {
        let mut cells = vec![screen_text(&flight.service).into_owned(), format::count(all(flight))];
        cells.extend(flight.by_age.iter().take(ages.len() + 1).map(|n| format::count(*n)));
        cells
    }));
    let mut columns = vec![(Align::Left, 24)];
    columns.extend(vec![(Align::Right, 16); ages.len() + 2]);
    let mut text = format::table(&rows, &columns);
    if let Some(rest) = order.get(TABLE_ROWS..).filter(|rest| !rest.is_empty()) {
        let n: u64 = rest.iter().map(|flight| all(flight)).sum();
        // Writing to a String cannot fail.
        let _ = writeln!(text, "… and {} more services with {} requests", rest.len(), format::count(n));
    }
    text
}

/// The operations, most transactions first; `over_ns`: with their rate over so long a time.
pub(super) fn table(operations: &[Operation], over_ns: Option<u64>) -> String {
    if operations.is_empty() {
        return "no transactions\n".to_owned();
    }
    let mut heading =
        ["service", "role", "operation", "count", "rate/s", "errors", "p50", "p90", "p99", "p99.9", "max"]
            .map(str::to_owned)
            .to_vec();
    let mut order: Vec<&Operation> = operations.iter().collect();
    // Stable: equal counts stay in the order of their names.
    order.sort_by_key(|row| std::cmp::Reverse(row.count));
    let mut rows: Vec<Vec<String>> = order
        .iter()
        .take(TABLE_ROWS)
        .map(|row| {
            let mut cells = vec![
                screen_text(&row.service).into_owned(),
                row.role.as_str().to_owned(),
                screen_text(&row.operation).into_owned(),
                format::count(row.count),
                over_ns.map(|over_ns| format::rate(row.count, over_ns)).unwrap_or_default(),
                format::count(row.errors),
            ];
            match row.quantiles_ns {
                Some(quantiles) => {
                    cells.extend(quantiles.map(format::duration));
                    cells.push(format::duration(row.max_ns));
                }
                None => cells.extend(["-"; 5].map(str::to_owned)),
            }
            cells
        })
        .collect();
    let mut columns = vec![(Align::Left, 24), (Align::Left, 7), (Align::Left, 48)];
    columns.extend([(Align::Right, 16); 8]);
    if over_ns.is_none() {
        const RATE: usize = 4;
        heading.remove(RATE);
        columns.remove(RATE);
        for row in &mut rows {
            row.remove(RATE);
        }
    }
    rows.insert(0, heading);
    let mut text = format::table(&rows, &columns);
    if let Some(rest) = order.get(TABLE_ROWS..).filter(|rest| !rest.is_empty()) {
        let n: u64 = rest.iter().map(|row| row.count).sum();
        // Writing to a String cannot fail.
        let _ = writeln!(text, "… and {} more operations with {} transactions", rest.len(), format::count(n));
    }
    text
}

pub(super) fn comma(i: usize) -> &'static str {
    if i == 0 { "" } else { "," }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::{
        metrics::{Counter, Metrics},
        sink::compliance::transaction,
        transaction::{End, Transaction},
    };

    fn summary() -> Summary {
        let mut histograms = Histograms::default();
        for i in 0..1_000 {
            histograms.record(&Transaction {
                error: i % 100 == 0,
                operation: if i % 4 == 0 { "POST /주문/{id}".into() } else { "GET /a\u{1b}[2J".into() },
                ..transaction(i)
            });
        }
        histograms.record(&Transaction {
            operation: "GET /cut".into(),
            end: End::Reset,
            ..transaction(1_000)
        });
        let metrics = Metrics::default();
        metrics.add(Counter::ParserGap, 2);
        Summary {
            events: 4_242,
            transactions: 1_001,
            open: 3,
            unpaired: Summary::unpaired(&Snapshot {
                unpaired: vec![(Unpaired::Gap, 1)],
                ..Snapshot::default()
            }),
            losses: Losses::collect(&Snapshot::default(), &metrics),
            filtered: 0,
            duration_ns: 10_012_000_000,
            operations: operations(&histograms),
        }
    }

    #[test]
    fn what_was_in_flight_stands_by_service_and_age_most_first() {
        let flight =
            |service: &str, by_age: &[u64]| InFlight { service: service.into(), by_age: by_age.to_vec() };
        let flights = [flight("a\u{1b}[2J", &[1, 0, 0]), flight("shop", &[1_200, 30, 4])];
        let text = in_flight_table(&flights, &AgeSteps::SCOUTER);
        assert_eq!(
            text,
            "in flight     all   < 3s  < 8s  older\n\
             shop        1,234  1,200    30      4\n\
             a\\u{1b}[2J      1      1     0      0\n"
        );
        assert_eq!(in_flight_table(&[], &AgeSteps::SCOUTER), "nothing in flight\n");
        let text = summary().once(Err("no payload"), &AgeSteps::SCOUTER);
        assert!(text.contains("\nin flight: not known: no payload\n"), "{text}");
    }

    #[test]
    fn the_text_is_exactly_this() {
        insta::assert_snapshot!(summary().text());
    }

    #[test]
    fn the_object_has_the_keys_of_the_contract_and_integers() {
        let json = summary().json();
        let text = String::from_utf8(json).unwrap();
        assert_eq!(text.matches('\n').count(), 1);
        let value: Value = serde_json::from_str(&text).unwrap();
        let keys = |value: &Value| {
            let Value::Object(object) = value else { panic!("no object") };
            object.keys().cloned().collect::<Vec<_>>()
        };
        // serde_json sorts keys.
        assert_eq!(
            keys(&value),
            [
                "duration_s",
                "events",
                "filtered",
                "lost",
                "lost_requests",
                "open",
                "operations",
                "transactions",
                "type",
                "unpaired"
            ]
        );
        assert_eq!(value["type"], "summary");
        assert_eq!(value["duration_s"], 10);
        assert_eq!(value["unpaired"]["gap"], 1);
        assert_eq!(value["unpaired"]["late"], 0);
        assert_eq!(value["lost"]["parser_gap"], 2);
        assert_eq!(value["lost"]["refused_data"], 0);
        assert_eq!(value["lost_requests"]["low"], 0);
        let row = &value["operations"][0];
        assert_eq!(
            keys(row),
            ["count", "errors", "max_ns", "operation", "p50_ns", "p90_ns", "p99_ns", "service"]
        );
        assert_eq!(row["operation"], "GET /a\u{1b}[2J");
        assert_eq!(row["count"], 750);
        assert!(row["p50_ns"].as_u64().is_some_and(|p50| (5_000_000..7_000_000).contains(&p50)));
        assert_eq!(value["operations"][1]["p50_ns"], Value::Null);
    }

    #[test]
    fn operations_beyond_the_table_are_counted_not_dropped() {
        let mut summary = summary();
        let row = summary.operations[0].clone();
        summary.operations = (0..50)
            .map(|i| Operation { operation: format!("op {i}"), count: 100 - i, ..row.clone() })
            .collect();
        let text = summary.text();
        assert!(text.contains("… and 10 more operations with 555 transactions"), "{text}");
    }
}
