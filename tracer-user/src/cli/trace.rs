//! `txray trace`: a recorded request with all that belongs to it, through the processes of the host.

use std::{
    io::{self, Write as _},
    path::PathBuf,
    sync::Arc,
};

use anyhow::Context as _;
use clap::Args;
use rustc_hash::FxHashMap;

use super::{ExitCode, Expected, run::open_recording};
use crate::{
    report::{
        filter::Filter,
        trace::{EARLY_NS, MAX_DEPTH, MAX_SPANS, Marks, Trace},
    },
    schema::groups::{ColumnFacts, Group, Values},
    source::recording::Recording,
    time::WallTime,
    transaction::{CallId, Transaction, WallRange},
    tui,
};

/// Width where there is no terminal to ask.
const WIDTH: u16 = 150;

/// Print a recorded request with all that belongs to it: what it was made for, and what was made for it, in all traced processes.
///
/// A line for each, with a bar for its time; the full bars are the critical path, what the first one waited for. Links that are guessed are marked, and what is
/// missing is said. Exits with 1 if the recording has no such transaction.
#[derive(Debug, Args)]
#[command(
    after_help = "EXAMPLES\n  txray find rec slow                            the slow ones, with their numbers\n  \
    txray trace rec 4711                           one of them, by its seq\n  \
    txray find rec \"trace_id = '4bf92f35…'\"        by the id that another tool shows\n  \
    txray trace rec 000e990e5010f3c0-6 --json"
)]
pub struct TraceArgs {
    /// Folder of the recording
    dir: PathBuf,
    /// The transaction: its seq (which each run of the recording counts from 0) or its id
    #[arg(value_name = "SEQ_OR_ID", value_parser = super::find::one)]
    id: Filter,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Columns of the text [default: those of the terminal, or 150]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(20..=1_000))]
    width: Option<u16>,
}

/// Runs it.
pub fn run(args: &TraceArgs) -> anyhow::Result<ExitCode> {
    let recording = open_recording(&args.dir)?;
    let pruning = args.id.clone();
    let wanted = move |group: &Group<'_>| pruning.may_match(&|name| group.column(name));
    let shown = rows(&recording, WallTime(0), wanted, |row| args.id.matches(row))?;
    if shown.is_empty() {
        return Ok(ExitCode::NothingMatched);
    }
    let marks = if tui::symbols() == tui::Symbols::Ascii { Marks::ASCII } else { Marks::UNICODE };
    let width = args.width.or_else(tui::columns).unwrap_or(WIDTH);
    let mut out = Vec::new();
    for (i, shown) in shown.iter().enumerate() {
        let trace = gather(&recording, shown)?;
        if args.json {
            out.extend(trace.json());
        } else {
            out.extend_from_slice(if i > 0 { b"\n" } else { b"" });
            out.extend_from_slice(trace.text(usize::from(width), marks).as_bytes());
        }
    }
    match io::stdout().write_all(&out) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error).context("write the trace"),
        _ => Ok(ExitCode::Ok),
    }
}

/// The trace of a recorded transaction. The recording is read once for each level, up and down, as far as it reaches into the time in question: all rows that may
/// belong to it need not be held.
pub fn gather(recording: &Recording, shown: &Arc<Transaction>) -> anyhow::Result<Trace> {
    let early = |row: &Transaction| WallTime(row.start_time.0.saturating_sub(EARLY_NS));
    let mut found: FxHashMap<CallId, Arc<Transaction>> = FxHashMap::default();
    let id = |row: &Transaction| CallId { conn: row.conn, ordinal: row.ordinal };
    found.insert(id(shown), shown.clone());
    let mut root = shown.clone();
    while let Some(parent) = root.parent().filter(|parent| !found.contains_key(parent))
        && found.len() <= MAX_DEPTH
    {
        let filter = Filter::id(&parent.to_string());
        let pruning = filter.clone();
        let wanted = move |group: &Group<'_>| pruning.may_match(&|name| group.column(name));
        let above = rows(recording, early(&root), wanted, |row| filter.matches(row))?;
        let Some(above) = above.into_iter().next() else { break };
        root = above;
        found.insert(parent, root.clone());
    }
    // What was made for a request began before that ended.
    let mut last = root.end_time;
    let mut level: Vec<CallId> = found.keys().copied().collect();
    while !level.is_empty() && found.len() <= MAX_SPANS {
        let until = last.0.saturating_add(EARLY_NS);
        let begins = move |group: &Group<'_>| may_begin(&group.column("start_time_ns"), until);
        let below = rows(recording, early(&root), begins, |row| {
            row.start_time.0 <= until && row.parent().is_some_and(|parent| level.contains(&parent))
        })?;
        level = Vec::new();
        for row in below {
            last = last.max(row.end_time);
            if found.insert(id(&row), row.clone()).is_none() {
                level.push(id(&row));
            }
        }
        level.sort_unstable();
    }
    Ok(Trace::of(shown, |from| found.values().filter(move |row| row.end_time >= from)))
}

/// Whether a group of rows may hold one that began by then.
fn may_begin(facts: &ColumnFacts, until: u64) -> bool {
    let by_then = |at: i64| u64::try_from(at).is_ok_and(|at| at <= until);
    match &facts.values {
        Values::Integers(range) => by_then(*range.start()),
        Values::IntegerSet(set) => set.iter().copied().any(by_then),
        _ => true,
    }
}

/// All that are meant and ended at an instant or later, up to a bound.
fn rows(
    recording: &Recording,
    from: WallTime,
    wanted: impl Fn(&Group<'_>) -> bool + Send + 'static,
    is_meant: impl Fn(&Transaction) -> bool,
) -> anyhow::Result<Vec<Arc<Transaction>>> {
    let range = WallRange { from, ..WallRange::default() };
    let mut found = Vec::new();
    for batch in recording.transactions_of(range, Box::new(wanted)) {
        let batch = batch.map_err(|fault| {
            Expected::new(
                fault.to_string(),
                "txray recover DIR seals what a kill left open and verifies every file",
            )
        })?;
        found.extend(batch.into_iter().filter(&is_meant).map(Arc::new));
        if found.len() > MAX_SPANS {
            break;
        }
    }
    Ok(found)
}
