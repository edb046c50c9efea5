//! `txray demo`: the bundled workload, traced for real.

use std::{io::Write as _, path::PathBuf, time::Duration};

use anyhow::Context as _;
use clap::Args;

use super::{ExitCode, Expected, args::RunArgs, live, stop::Stop};
use crate::config::{Config, Hooks, Settings, Span, SummaryForm};

/// The workload outlives the tracing by so much, so that the end is not quiet.
const TAIL: Duration = Duration::from_secs(5);
/// How the current executable runs the parts of the workload.
const ENTRY: [&str; 1] = ["demo-part"];

/// Start the bundled workload (a shop, its stock and its shoppers on loopback), trace it, and leave a recording.
///
/// Shows the live screen on a terminal, one line a second without one.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// How long
    #[arg(long, value_name = "TIME", default_value = "20s")]
    duration: Span,
    /// Folder of the recording [default: a new one in the temporary folder]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Family of data hooks [default: auto]
    #[arg(long, value_enum)]
    hooks: Option<Hooks>,
    /// Form of the summary at the end [default: text]
    #[arg(long, value_enum, value_name = "FORM")]
    summary: Option<SummaryForm>,
    /// Print one JSON object per transaction and line, and nothing else
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: &DemoArgs) -> anyhow::Result<ExitCode> {
    // The file's targets are not the demo's; how the screen looks is the user's own.
    let screen = RunArgs::default().resolve(Settings::default())?.screen;
    let out = args
        .out
        .clone()
        .unwrap_or_else(|| std::env::temp_dir().join(format!("txray-demo-{}", std::process::id())));
    let demo =
        workload::demo::spawn_demo(args.duration.0 + TAIL, &ENTRY).context("start the demo's workload")?;
    let settings = Settings {
        pid: demo.pids.clone(),
        duration: Some(args.duration),
        out: Some(out.clone()),
        hooks: args.hooks,
        summary: args.summary,
        json: args.json.then_some(true),
        ..Settings::default()
    };
    let config = Config { screen, ..Config::resolve([settings])? };
    let quiet = config.terminal.json || config.terminal.summary == SummaryForm::Json;
    let code = live::trace(config, "demo", Some("a shop, its stock and its shoppers"), Stop::default());
    // It ends here, whatever became of the tracing.
    drop(demo);
    let code = code?;
    let line = super::record::replay_line(&out);
    if quiet {
        // A closed standard error is nobody's loss.
        let _ = std::io::stderr().write_all(format!("txray: {line}").as_bytes());
    } else {
        std::io::stdout().write_all(line.as_bytes())?;
    }
    Ok(code)
}

/// Arguments of the workload's own processes.
#[derive(Debug, Args)]
pub struct DemoPartArgs {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

/// Runs a part of the workload: what the demo's processes do.
pub fn run_part(args: &DemoPartArgs) -> anyhow::Result<ExitCode> {
    workload::demo::demo_main(workload::args::Args::new(args.args.iter().cloned()), &ENTRY).map_err(
        |error| Expected::new(error.to_string(), "this is a part of txray demo, not to be called alone"),
    )?;
    Ok(ExitCode::Ok)
}
