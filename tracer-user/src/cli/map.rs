//! `txray map`: who calls whom, of a recording.

use std::{
    io::{self, Write as _},
    path::PathBuf,
};

use anyhow::Context as _;
use clap::{Args, ValueEnum};

use super::{
    ExitCode, Expected,
    args::WordsArgs,
    run::{self},
};
use crate::{
    report::{
        edges::{APART_NS, Calls, Edge},
        filter::Filter,
        map::Map,
    },
    source::recording::Recording,
    time::WallTime,
    transaction::{Transaction, WallRange},
    tui::{self, Graph, picture},
};

/// Width of the picture where there is no terminal to ask.
const WIDTH: u16 = 120;
/// Lines of the picture at most: it is scrolled, but read.
const HEIGHT: u16 = 200;

/// Print who calls whom in a recording: a picture and a table, a graph for graphviz, or JSON. A call of which both ends were
/// traced is one call.
#[derive(Debug, Args)]
#[command(after_help = "EXAMPLES\n  txray map rec\n  txray map rec --filter 'err' --format json\n  \
    txray map rec --format dot | dot -Tsvg > map.svg")]
pub struct MapArgs {
    /// Folder of the recording
    dir: PathBuf,
    /// Only what ended at this time or later (RFC 3339, or ns since 1970)
    #[arg(long, value_name = "TIME")]
    from: Option<WallTime>,
    /// Only what ended before this time
    #[arg(long, value_name = "TIME")]
    to: Option<WallTime>,
    /// Count only transactions that match: 'duration >= 100ms and status_code = 500'
    #[arg(long, value_name = "EXPR")]
    filter: Option<String>,
    /// Form
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    /// Columns of the picture [default: those of the terminal, or 120]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(20..=1_000))]
    width: Option<u16>,
    #[command(flatten)]
    words: WordsArgs,
}

/// The form of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A picture and a table
    Text,
    /// For graphviz
    Dot,
    /// One JSON object
    Json,
}

/// Runs it.
pub fn run(args: &MapArgs) -> anyhow::Result<ExitCode> {
    let filter = match &args.filter {
        Some(text) => Some(run::read_filter(text, args.words.thresholds()?)?),
        None => None,
    };
    let range = run::range(args.from, args.to)?;
    let recording = run::open_recording(&args.dir)?;
    let (map, mut faults) = gather(&recording, range, filter.as_ref());
    let text = match args.format {
        Format::Text => {
            let width = args.width.or_else(tui::columns).unwrap_or(WIDTH);
            text(&map, width).into_bytes()
        }
        Format::Dot => map.dot().into_bytes(),
        Format::Json => map.json(),
    };
    match io::stdout().write_all(&text) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            return Err(error).context("write the map");
        }
        _ => {}
    }
    faults.extend(recording.faults.iter().map(ToString::to_string));
    if !faults.is_empty() {
        let lines: String = faults.iter().map(|fault| format!("txray: {fault}\n")).collect();
        // A closed standard error is nobody's loss.
        let _ = io::stderr().write_all(lines.as_bytes());
        let what = format!("{} files of the recording cannot be read; the map is without them", faults.len());
        return Err(Expected::new(what, "txray recover DIR seals what a kill left open").into());
    }
    Ok(if filter.is_some() && map.transactions == 0 { ExitCode::NothingMatched } else { ExitCode::Ok })
}

/// The map of a recording, and what could not be read. The rows are read twice, so that they need not be held; three times where there are
/// more client connections than are remembered: then they are learned just ahead of what is counted, and those behind it forgotten.
pub fn gather(recording: &Recording, range: WallRange, filter: Option<&Filter>) -> (Map, Vec<String>) {
    gather_with(Calls::default(), recording, range, filter)
}

/// The same with calls whose bounds are others.
pub fn gather_with(
    mut calls: Calls,
    recording: &Recording,
    range: WallRange,
    filter: Option<&Filter>,
) -> (Map, Vec<String>) {
    let (mut transactions, mut span, mut faults) = (0, None::<WallRange>, Vec::new());
    let is_wanted = |row: &Transaction| row.is_finished() && filter.is_none_or(|filter| filter.matches(row));
    let mut fits = true;
    for rows in recording.transactions(range) {
        match rows {
            Ok(rows) => rows.iter().for_each(|row| {
                calls.learn(row);
                fits &= calls.has_room();
                if fits && is_wanted(row) {
                    calls.learn_wanted(row);
                }
            }),
            Err(fault) => faults.push(fault.to_string()),
        }
    }
    let all = || recording.transactions(range).flatten().flatten().filter(is_wanted);
    let mut ahead = None;
    if !fits {
        calls.forget_made();
        ahead = Some(all().peekable());
    }
    // What is at fault has been told.
    for row in all() {
        if let Some(ahead) = &mut ahead {
            let enough = WallTime(row.end_time.0.saturating_add(APART_NS));
            while let Some(next) = ahead.next_if(|next| calls.has_room() || next.end_time <= enough) {
                calls.learn_wanted(&next);
            }
        }
        transactions += 1;
        let span = span.get_or_insert(WallRange { from: row.end_time, to: row.end_time });
        (span.from, span.to) = (span.from.min(row.end_time), span.to.max(row.end_time));
        calls.add(&row, &(WallTime(0)..WallTime(u64::MAX)));
    }
    let given_up = calls.given_up();
    (Map { span, transactions, edges: calls.edges(), given_up }, faults)
}

/// The picture, and the table below it.
pub fn text(map: &Map, width: u16) -> String {
    let graph = Graph::of(&map.edges, |edge: &Edge| map.rate(edge.count));
    let mut text = map.heading();
    if let Some(picture) = picture(&graph, width, HEIGHT) {
        for line in picture.lines(&graph.nodes, tui::symbols()) {
            text.push_str(&line);
            text.push('\n');
        }
        let more = picture.left_out.line(|recent| map.rate(recent));
        if !more.is_empty() {
            text.push_str(&more);
            text.push('\n');
        }
    } else if !graph.nodes.is_empty() {
        text.push_str("no room for a single box\n");
    }
    text.push('\n');
    text.push_str(&map.table());
    text.push_str(&map.given_up_lines());
    text
}
