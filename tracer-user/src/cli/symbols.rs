//! `txray symbols`: better names for the stacks of a recording, from symbols and debug information that were found since, or elsewhere.

use std::{
    io::{self, Write as _},
    path::PathBuf,
};

use anyhow::Context as _;
use clap::Args;
use serde_json::json;

use super::{ExitCode, Expected, run::open_recording};
use crate::{
    event::CodeFile,
    report::format::count,
    source::symbols::{self, Finder, Found, Places, Symbols},
    text::screen_text,
};

/// Find better names for the call stacks of a recording: of functions of stripped programs, and of functions that were inlined.
///
/// Files are known by their build ids. Looked at are those named here (programs, libraries, debug files, folders of such), those at the recorded paths and the debug
/// information installed on this host. What is found is kept beside the recording (symbols.json; deleted, all is as it was recorded), and whatever reads
/// the recording from then on shows it; what was found before stays where nothing better is found. Exits with 1 if nothing is.
#[derive(Debug, Args)]
#[command(after_help = "EXAMPLES\n  txray symbols rec                       what this host knows\n  \
    txray symbols rec target/release/shop   the program as it was before it was stripped\n  \
    txray symbols rec ~/debug /mnt/image    all of two folders that has one of the build ids")]
pub struct SymbolsArgs {
    /// Folder of the recording
    dir: PathBuf,
    /// Programs, libraries and files of debug information, or folders of such
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: &SymbolsArgs) -> anyhow::Result<ExitCode> {
    let recording = open_recording(&args.dir)?;
    let mut finder = Finder::default();
    for path in &args.paths {
        finder.look(path).map_err(|error| {
            let hint = "name programs, libraries, files of debug information, or folders of such";
            Expected::new(format!("{}: {error}", path.display()), hint)
        })?;
    }
    let (places, faults) = Places::of(&recording);
    let (found, files) = symbols::find(&places, &finder);
    let is_empty = found.is_empty();
    // A file of before that cannot be read is replaced.
    let before = recording.symbols.as_deref().cloned().unwrap_or_default();
    let n_frames = found.len();
    let written = if is_empty {
        None
    } else {
        let path = found.over(before).write(&args.dir);
        Some(path.with_context(|| format!("write {} in {}", Symbols::NAME, args.dir.display()))?)
    };
    let out = if args.json {
        as_json(&files, &places, &finder, n_frames)
    } else {
        let mut out: String = files.iter().map(|(file, found)| line(file, found)).collect();
        out.push_str(&notes(&places, &finder));
        match &written {
            Some(path) => out.push_str(&format!(
                "{} of {} places have better names: {}\n",
                count(n_frames as u64),
                count(files.iter().map(|(_, found)| found.n_frames as u64).sum()),
                path.display()
            )),
            None => out.push_str("no better names were found; nothing is changed\n"),
        }
        out
    };
    match io::stdout().write_all(out.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            return Err(error).context("write what was found");
        }
        _ => {}
    }
    if !faults.is_empty() {
        let lines: String = faults.iter().map(|fault| format!("txray: {fault}\n")).collect();
        // A closed standard error is nobody's loss.
        let _ = io::stderr().write_all(lines.as_bytes());
        let what =
            format!("{} files of the recording cannot be read; their stacks stay as they are", faults.len());
        return Err(Expected::new(what, "txray recover DIR seals what a kill left open").into());
    }
    Ok(if is_empty { ExitCode::NothingMatched } else { ExitCode::Ok })
}

/// A file, for people.
fn line(file: &CodeFile, found: &Found) -> String {
    let mut out = format!(
        "{} (build id {}): {} places",
        screen_text(&file.path),
        file.build_id.as_deref().map_or("unknown".into(), screen_text),
        count(found.n_frames as u64)
    );
    for (n, what) in [
        (found.n_named, "named now"),
        (found.n_nameless, "without a name"),
        (found.n_inlined, "with inlined functions"),
        (found.n_ambiguous, "left alone, as their text is that of two"),
    ] {
        if n > 0 {
            out.push_str(&format!(", {} {what}", count(n as u64)));
        }
    }
    let read: Vec<String> = found.read.iter().map(|path| path.display().to_string()).collect();
    match (&read[..], &file.build_id) {
        ([], Some(_)) => out.push_str("; no file with this build id was found"),
        ([], None) => out.push_str("; without a build id only a file that is named here is read"),
        (read, _) => out.push_str(&format!("; read {}", read.join(", "))),
    }
    out.push('\n');
    out
}

/// What was not looked up, and why.
fn notes(places: &Places, finder: &Finder) -> String {
    let mut out = String::new();
    if places.n_without > 0 {
        out.push_str(&format!(
            "{} of {} stacks do not say where they are (of processes that were gone, or recorded by a txray of before)\n",
            count(places.n_without),
            count(places.n_stacks)
        ));
    }
    if places.n_beyond > 0 {
        out.push_str(&format!(
            "{} stacks were not looked at: more than {} places\n",
            count(places.n_beyond),
            count(symbols::MAX_FRAMES as u64)
        ));
    }
    if finder.is_cut {
        out.push_str(&format!(
            "not all files were looked at: more than {}\n",
            count(finder.n_looked_at as u64)
        ));
    }
    out
}

fn as_json(files: &[(CodeFile, Found)], places: &Places, finder: &Finder, n_frames: usize) -> String {
    let files: Vec<_> = files
        .iter()
        .map(|(file, found)| {
            json!({
                "path": file.path,
                "build_id": file.build_id,
                "read": found.read.iter().map(|path| path.display().to_string()).collect::<Vec<_>>(),
                "places": found.n_frames,
                "named": found.n_named,
                "nameless": found.n_nameless,
                "inlined": found.n_inlined,
                "ambiguous": found.n_ambiguous,
            })
        })
        .collect();
    let all = json!({
        "better": n_frames,
        "stacks": places.n_stacks,
        "stacks_without_places": places.n_without,
        "stacks_beyond": places.n_beyond,
        "looked_at_all": !finder.is_cut,
        "files": files,
    });
    format!("{all}\n")
}
