//! `txray find`: the transactions of a recording that match, from the rows as they were stored.

use std::{
    io::{self, BufWriter, Write as _},
    path::PathBuf,
};

use anyhow::Context as _;
use clap::Args;

use super::{
    ExitCode, Expected,
    args::WordsArgs,
    run::{open_recording, range, read_filter},
};
use crate::{
    event::Role,
    report::{
        filter::Filter,
        format::{Align, count, date_clock, duration, fit},
        head,
    },
    sink::jsonl::write_transaction,
    source::recording::{Reach, Recording},
    text::screen_text,
    time::WallTime,
    transaction::{End, Transaction, WallRange},
};

/// Columns before the target, which is as long as it is: heading, width, alignment. Widths are fixed, so that the first row is printed
/// when it is found.
const COLUMNS: [(&str, usize, Align); 7] = [
    ("seq", 9, Align::Right),
    ("end", 24, Align::Left),
    ("elapsed", 8, Align::Right),
    ("status", 8, Align::Right),
    ("", 1, Align::Left),
    ("service", 16, Align::Left),
    ("operation", 32, Align::Left),
];
/// Output is written through whenever so much has gathered, bytes.
const BUFFER_BYTES: usize = 256 << 10;

/// Print the transactions of a recording that match an expression, all of them, in the order in which they ended.
///
/// Reads the stored transactions, also of a recording that is still being written or was killed. Parts of files that cannot hold
/// a match are not read. Exits with 1 if nothing matched.
#[derive(Debug, Args)]
#[command(after_help = "EXAMPLES\n  txray find rec 'slow or status_code in (500, 503)'\n  \
    txray find rec \"target ~ '/api/**'\" --from 2026-08-21T23:55:00Z --to 2026-08-22T00:05:00Z\n  \
    txray find rec --id 4711 --json")]
pub struct FindArgs {
    /// Folder of the recording
    dir: PathBuf,
    /// What to find, in the language of --filter [default: everything]
    #[arg(value_name = "EXPR")]
    filter: Option<String>,
    /// Only what ended at this time or later (RFC 3339, or ns since 1970)
    #[arg(long, value_name = "TIME")]
    from: Option<WallTime>,
    /// Only what ended before this time
    #[arg(long, value_name = "TIME")]
    to: Option<WallTime>,
    /// Only this one: its seq (which each run of the recording counts from 0) or its id
    #[arg(long, value_name = "SEQ_OR_ID", value_parser = one)]
    id: Option<Filter>,
    /// Stop after so many
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Print one JSON object per transaction and line, as `replay --json` does
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    words: WordsArgs,
}

/// Runs it.
pub fn run(args: &FindArgs) -> anyhow::Result<ExitCode> {
    let filter = match &args.filter {
        Some(text) => Some(read_filter(text, args.words.thresholds()?)?),
        None => None,
    };
    let filter = match (filter, args.id.clone()) {
        (Some(filter), Some(one)) => Some(filter.and(one)),
        (filter, one) => filter.or(one),
    };
    let range = range(args.from, args.to)?;
    let recording = open_recording(&args.dir)?;
    let transactions = args.dir.join("transactions");
    let mut n_faults = 0;
    let mut tell = |fault: &dyn std::fmt::Display| {
        n_faults += 1;
        // A closed standard error is nobody's loss.
        let _ = io::stderr().write_all(format!("txray: {fault}\n").as_bytes());
    };
    // What is wrong with events is not looked for here.
    recording
        .faults
        .iter()
        .filter(|fault| fault.path.starts_with(&transactions))
        .for_each(|fault| tell(fault));
    let found = find(&recording, range, filter.as_ref(), args, &mut tell)?;
    let _ = io::stderr().write_all(found.line().as_bytes());
    match n_faults {
        0 if found.n == 0 => Ok(ExitCode::NothingMatched),
        0 => Ok(ExitCode::Ok),
        n => Err(Expected::new(
            format!("{n} files of the recording cannot be read; what was good is above"),
            "txray recover DIR seals what a kill left open and verifies every file",
        )
        .into()),
    }
}

/// What came of it.
struct Found {
    n: u64,
    /// It stopped because of the limit.
    is_cut: bool,
    reach: Reach,
}

impl Found {
    /// The last line, for standard error.
    fn line(&self) -> String {
        let Found { n, is_cut, reach } = self;
        let Reach { n_groups_read, n_groups, n_rows, n_journals } = reach;
        let matched = if *is_cut { "found, then stopped at --limit" } else { "matched" };
        let mut line = format!(
            "{} of {} {matched}; {} of {} row groups read",
            count(*n),
            count(*n_rows),
            count(*n_groups_read as u64),
            count(*n_groups as u64),
        );
        match n_journals {
            0 => {}
            1 => line.push_str(", and 1 file that is not sealed yet"),
            n => line.push_str(&format!(", and {n} files that are not sealed yet")),
        }
        line.push('\n');
        line
    }
}

fn find(
    recording: &Recording,
    range: WallRange,
    filter: Option<&Filter>,
    args: &FindArgs,
    tell: &mut dyn FnMut(&dyn std::fmt::Display),
) -> anyhow::Result<Found> {
    let mut out = BufWriter::with_capacity(BUFFER_BYTES, io::stdout().lock());
    let mut line = Vec::new();
    let mut found = Found { n: 0, is_cut: false, reach: Reach::default() };
    let pruning = filter.cloned();
    let mut batches = recording.transactions_of(
        range,
        Box::new(move |group| {
            pruning.as_ref().is_none_or(|filter| filter.may_match(&|name| group.column(name)))
        }),
    );
    'all: for batch in &mut batches {
        let batch = match batch {
            Ok(batch) => batch,
            Err(fault) => {
                tell(&fault);
                continue;
            }
        };
        for transaction in batch.iter().filter(|row| filter.is_none_or(|filter| filter.matches(row))) {
            line.clear();
            if args.json {
                write_transaction(&mut line, transaction);
            } else {
                if found.n == 0 {
                    line.extend_from_slice(row(COLUMNS.map(|(heading, ..)| heading), "target").as_bytes());
                }
                line.extend_from_slice(text(transaction).as_bytes());
            }
            out.write_all(&line).context("write to standard output")?;
            found.n += 1;
            if args.limit == Some(found.n) {
                found.is_cut = true;
                break 'all;
            }
        }
        // What was found is seen while the rest is looked for.
        out.flush().context("write to standard output")?;
    }
    out.flush().context("write to standard output")?;
    found.reach = batches.reach();
    Ok(found)
}

/// A transaction as a row of the table. What came from outside cannot move a terminal, and secrets in the target are left out: `--json`
/// has it as it was sent.
fn text(transaction: &Transaction) -> String {
    let Transaction { seq, end_time, duration_ns, role, service, operation, target, .. } = transaction;
    let status = match (transaction.status_code, transaction.end) {
        (Some(code), End::Answered) => code.to_string(),
        (_, End::Answered) => transaction.error_type.as_deref().unwrap_or("-").to_owned(),
        (_, end) => end.as_str().to_owned(),
    };
    let role = match role {
        Role::Client => "c",
        Role::Server => "s",
        Role::Unknown => "?",
    };
    let cells = [
        &*seq.to_string(),
        &*date_clock(*end_time),
        &*duration(duration_ns.max(&0).unsigned_abs()),
        &*screen_text(&status),
        role,
        &*screen_text(service),
        &*screen_text(operation),
    ];
    row(cells, &target.as_deref().map(head::target).unwrap_or_default())
}

fn row(cells: [&str; COLUMNS.len()], target: &str) -> String {
    let mut line = String::new();
    for ((_, width, align), cell) in COLUMNS.iter().zip(cells) {
        line.push_str(&fit(cell, *width, *align));
        line.push(' ');
    }
    line.push_str(target);
    line.truncate(line.trim_end().len());
    line.push('\n');
    line
}

/// A `seq` or an `id`.
pub(super) fn one(text: &str) -> Result<Filter, String> {
    if let Ok(seq) = text.parse() {
        return Ok(Filter::seq(seq));
    }
    let is_id = text.split_once('-').is_some_and(|(conn, ordinal)| {
        let digits = |text: &str, of: &dyn Fn(u8) -> bool| !text.is_empty() && text.bytes().all(of);
        digits(conn, &|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
            && conn.len() == 16
            && digits(ordinal, &|b| b.is_ascii_digit())
    });
    if is_id {
        Ok(Filter::id(text))
    } else {
        Err("neither a seq such as 4711 nor an id such as 000000000000abcd-7".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::sink::compliance::transaction;

    #[test]
    fn a_row_of_the_table_is_aligned_and_cannot_move_a_terminal() {
        let heading = row(COLUMNS.map(|(heading, ..)| heading), "target");
        let plain = text(&transaction(7));
        let hostile = text(&Transaction {
            service: "주문\u{1b}[2J".into(),
            target: Some(Bytes::from_static(b"/a?token=s3cret&b=\n\x1b]0;x\x07\xff")),
            ..transaction(123_456_789)
        });
        assert_eq!(
            format!("{heading}{plain}{hostile}"),
            "      seq end                       elapsed   status   service          operation                        target\n        \
             7 2023-11-14T22:13:20.072Z   2.40ms      200 s shop             GET /item/{id}                   /item/7\n\
             123456789 2023-11-29T05:09:27.898Z   8.80ms      200 s 주문\\u{1b}[2J    GET /item/{id}                   \
             /a?token=REDACTED&b=\\n\\u{1b}]0;x\\u{7}\\xff\n"
        );
    }

    #[test]
    fn a_seq_is_a_number_and_an_id_has_a_connection_and_a_number() {
        let told = |text: &str| one(text).map(|filter| filter.text().to_owned());
        assert_eq!(told("4711"), Ok("seq = 4711".to_owned()));
        assert_eq!(told("000000000000abcd-7"), Ok("id = '000000000000abcd-7'".to_owned()));
        for bad in ["", "-7", "abcd-7", "000000000000abcd-", "000000000000ABCD-7", "000000000000abcd-x"] {
            assert!(told(bad).is_err(), "{bad}");
        }
    }
}
