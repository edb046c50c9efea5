//! `txray stacks`: what the requests of a recording were met doing.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, ValueEnum};

use super::{
    ExitCode, Expected,
    args::WordsArgs,
    run::{open_recording, range, read_filter},
};
use crate::{
    report::{
        filter::Filter,
        stacks::{
            Function, Gatherer, Parts, StackTree, folded, json, pprof, speedscope,
            text::{self, Shown},
        },
    },
    source::recording::Recording,
    time::WallTime,
    transaction::WallRange,
};

/// Functions that are named where a text means several.
const MAX_NAMED: usize = 5;

/// Print what the threads of requests were met doing: the call stacks of a recording (--stacks), as one tree of calls.
///
/// Exits with 1 if no request that matches has stacks. Times are of samples on a CPU, each for its period, and of waits.
#[derive(Debug, Args)]
#[command(after_help = "EXAMPLES\n  txray stacks rec --filter \"operation = 'GET /cart'\"\n  \
    txray stacks rec --part on --format folded | flamegraph.pl > cpu.svg\n  \
    txray stacks rec --format pprof > rec.pb.gz; go tool pprof -top rec.pb.gz\n  \
    txray stacks rec --filter 'duration >= 1s' --diff 'duration < 1s'\n  \
    txray stacks rec --sandwich lock_cart")]
pub struct StacksArgs {
    /// Folder of the recording
    dir: PathBuf,
    /// Only requests that ended at this time or later (RFC 3339, or ns since 1970)
    #[arg(long, value_name = "TIME")]
    from: Option<WallTime>,
    /// Only those that ended before this time
    #[arg(long, value_name = "TIME")]
    to: Option<WallTime>,
    /// Only requests that match: 'duration >= 100ms and status_code = 500'
    #[arg(long, value_name = "EXPR")]
    filter: Option<String>,
    /// Compare with the requests of the same time that match this: times are of one request then. With --format folded two columns, the other
    /// first, as difffolded.pl writes them
    #[arg(long, value_name = "EXPR", conflicts_with = "sandwich")]
    diff: Option<String>,
    /// Who calls this function, and what it calls: its name, or a part of one
    #[arg(long, value_name = "FUNCTION")]
    sandwich: Option<String>,
    /// Which stacks: of moments on a CPU, of waits, or both
    #[arg(long, value_enum, default_value = "both")]
    part: Part,
    /// Form
    #[arg(long, value_enum, default_value = "tree")]
    format: Format,
    /// Functions in the table of the hottest
    #[arg(long, value_name = "N", default_value = "20")]
    top: usize,
    /// Sum up calls of less than this share of the whole, percent
    #[arg(long, value_name = "PERCENT", default_value = "1", value_parser = percent)]
    min_percent: f64,
    #[command(flatten)]
    words: WordsArgs,
}

/// Which stacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// On a CPU
    On,
    /// Off it
    Off,
    /// Both, by what was waited for
    Both,
}

/// The form of a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A tree and a table, for people
    Tree,
    /// A line for each stack: for flamegraph.pl
    Folded,
    /// For speedscope (www.speedscope.app)
    Speedscope,
    /// For pprof, packed
    Pprof,
    /// One JSON object
    Json,
}

/// Runs it.
pub fn run(args: &StacksArgs) -> anyhow::Result<ExitCode> {
    let unfit = match args.format {
        Format::Speedscope | Format::Pprof => args.diff.is_some() || args.sandwich.is_some(),
        Format::Folded => args.sandwich.is_some(),
        Format::Tree | Format::Json => false,
    };
    if unfit {
        return Err(Expected::new(
            "this form cannot say that: --diff has the forms tree, folded and json, --sandwich tree and json",
            "leave out --format; the tools themselves compare two profiles, and show callers and callees",
        )
        .into());
    }
    if args.format == Format::Pprof && io::stdout().is_terminal() {
        return Err(Expected::new("pprof's format is not for a terminal", "add > profile.pb.gz").into());
    }
    let read = |text: &Option<String>| {
        text.as_deref().map(|text| read_filter(text, args.words.thresholds()?)).transpose()
    };
    let (filter, other) = (read(&args.filter)?, read(&args.diff)?);
    let range = range(args.from, args.to)?;
    let recording = open_recording(&args.dir)?;
    let parts = match args.part {
        Part::On => Parts::On,
        Part::Off => Parts::Off,
        Part::Both => Parts::Both,
    };
    let Gathered { tree, span, mut faults } =
        gather(&recording, range, parts, filter.as_ref(), other.as_ref());
    let output = told(args, parts, &tree, span)?;
    match io::stdout().write_all(&output) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            return Err(error).context("write the stacks");
        }
        _ => {}
    }
    if args.format != Format::Tree {
        // A closed standard error is nobody's loss.
        let heading = text::heading(&tree, parts.label(), args.diff.is_some());
        let _ = io::stderr().write_all(heading.as_bytes());
    }
    faults.extend(recording.faults.iter().map(ToString::to_string));
    if !faults.is_empty() {
        let lines: String = faults.iter().map(|fault| format!("txray: {fault}\n")).collect();
        let _ = io::stderr().write_all(lines.as_bytes());
        let what =
            format!("{} files of the recording cannot be read; the stacks are without them", faults.len());
        return Err(Expected::new(what, "txray recover DIR seals what a kill left open").into());
    }
    Ok(if tree.is_empty() { ExitCode::NothingMatched } else { ExitCode::Ok })
}

/// What is printed.
fn told(
    args: &StacksArgs,
    parts: Parts,
    tree: &StackTree,
    span: Option<(WallTime, WallTime)>,
) -> anyhow::Result<Vec<u8>> {
    let is_diff = args.diff.is_some();
    let shown = Shown { is_diff, min_percent: args.min_percent, top: args.top };
    if let Some(name) = &args.sandwich {
        let wanted = wanted(tree, name)?;
        let sandwich = tree.sandwich(|function| wanted.contains(function));
        let Some(sandwich) = sandwich else { return Ok(Vec::new()) };
        return Ok(match args.format {
            Format::Json => json::sandwich(&sandwich),
            _ => {
                let heading = text::heading(tree, parts.label(), false);
                format!("{heading}\n{}", text::sandwich(&sandwich, shown)).into_bytes()
            }
        });
    }
    Ok(match args.format {
        Format::Tree => {
            let mut out = text::heading(tree, parts.label(), is_diff);
            if !tree.is_empty() {
                out.push_str(&format!("\n{}", text::tree(tree, shown)));
                if args.top > 0 {
                    out.push_str(&format!("\n{}", text::functions(tree, shown)));
                }
            }
            out.into_bytes()
        }
        Format::Folded => folded::lines(tree, is_diff).into_bytes(),
        Format::Speedscope => {
            let name = args.filter.as_deref().map_or_else(String::new, |filter| format!(", {filter}"));
            speedscope::file(tree, &format!("requests {}{name}", parts.label()))
        }
        Format::Pprof => pprof::file(tree, span).context("pack the profile")?,
        Format::Json => json::tree(tree, is_diff, args.top),
    })
}

/// The functions of one name, wherever they are.
fn wanted(tree: &StackTree, name: &str) -> Result<Vec<Function>, Expected> {
    let found = text::matching(tree, name);
    let mut names: Vec<&str> = found.iter().map(|function| &*function.name).collect();
    names.sort_unstable();
    names.dedup();
    match names[..] {
        // Nothing to complain of where there are no stacks at all.
        [] if tree.is_empty() => Ok(Vec::new()),
        [] => Err(Expected::new(
            format!("no stack has a function '{}'", crate::text::screen_text(name)),
            "txray stacks DIR --top 100 lists them",
        )),
        [_] => Ok(found.into_iter().cloned().collect()),
        _ => {
            let more = if names.len() > MAX_NAMED { ", …" } else { "" };
            let named = names[..names.len().min(MAX_NAMED)].join(", ");
            Err(Expected::new(
                format!(
                    "'{}' is a part of {} names: {named}{more}",
                    crate::text::screen_text(name),
                    names.len()
                ),
                "write the whole name of one of them",
            ))
        }
    }
}

/// What was read.
struct Gathered {
    tree: StackTree,
    /// From when to when the requests of it ended.
    span: Option<(WallTime, WallTime)>,
    faults: Vec<String>,
}

/// The stacks of the requests that match; `other`: of those that they are compared with. One that matches both counts in both.
fn gather(
    recording: &Recording,
    range: WallRange,
    parts: Parts,
    filter: Option<&Filter>,
    other: Option<&Filter>,
) -> Gathered {
    let mut gatherer = Gatherer::new(parts);
    let (mut span, mut faults) = (None::<(WallTime, WallTime)>, Vec::new());
    let pruning = [filter.cloned(), other.cloned()];
    let has_other = other.is_some();
    let batches = recording.transactions_of(
        range,
        Box::new(move |group| {
            let [filter, other] = pruning
                .each_ref()
                .map(|filter| filter.as_ref().map(|filter| filter.may_match(&|name| group.column(name))));
            filter.unwrap_or(true) || (has_other && other.unwrap_or(true))
        }),
    );
    for batch in batches {
        let batch = match batch {
            Ok(batch) => batch,
            Err(fault) => {
                faults.push(fault.to_string());
                continue;
            }
        };
        for row in &batch {
            let is_wanted = filter.is_none_or(|filter| filter.matches(row));
            if is_wanted {
                gatherer.add(row, 0);
                let span = span.get_or_insert((row.end_time, row.end_time));
                *span = (span.0.min(row.end_time), span.1.max(row.end_time));
            }
            if other.is_some_and(|other| other.matches(row)) {
                gatherer.add(row, 1);
            }
        }
    }
    Gathered { tree: gatherer.finish(), span, faults }
}

fn percent(text: &str) -> Result<f64, String> {
    let percent: f64 = text.trim_end_matches('%').parse().map_err(|_| format!("'{text}' is no number"))?;
    if (0.0..=100.0).contains(&percent) { Ok(percent) } else { Err("it is from 0 to 100".to_owned()) }
}
