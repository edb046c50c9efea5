//! The command line: one file per subcommand, each `pub fn run(args) -> anyhow::Result<ExitCode>`.

pub mod args;
pub mod capture;
pub mod completions;
pub mod delivery;
pub mod demo;
pub mod doctor;
pub mod find;
pub mod live;
pub mod log;
pub mod man;
pub mod map;
pub mod patterns;
pub mod player;
pub mod profile;
pub mod record;
pub mod recover;
pub mod replay;
pub mod run;
pub mod snapshot;
pub mod stacks;
pub mod stop;
pub mod symbols;
pub mod trace;
pub mod why;

use clap::{Parser, Subcommand};

/// How txray ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// Fine.
    Ok = 0,
    /// Nothing matched, or a threshold was breached where one was given.
    NothingMatched = 1,
    /// Something failed.
    Error = 2,
    /// Interrupted by a signal.
    Interrupted = 130,
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        std::process::ExitCode::from(code as u8)
    }
}

/// An X-ray of every transaction on this host.
#[derive(Debug, Parser)]
#[command(
    name = "txray",
    version,
    max_term_width = 100,
    after_help = "Tracing needs root, or the capabilities that `txray doctor` names.\n\nTO BEGIN WITH\n  \
        txray doctor                    what this host allows\n  \
        txray demo                      a look at a workload of its own\n  \
        txray live --comm nginx         what nginx serves and asks for, now; ? lists the keys\n  \
        txray record rec --pid 4711     the same, kept\n  \
        txray replay rec                what was kept"
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Trace, and show every transaction as it happens
    Live(Box<live::LiveArgs>),
    /// Trace, show and store
    Record(Box<record::RecordArgs>),
    /// Show a recording as if it happened now
    Replay(Box<replay::ReplayArgs>),
    /// Print the transactions of a recording that match
    Find(find::FindArgs),
    /// Print why one request of a recording took as long as it did
    Why(why::WhyArgs),
    /// Print what one request of a recording did, one thing after the other
    Profile(profile::ProfileArgs),
    /// Print what the requests of a recording were met doing: call stacks as a tree, or for another tool
    Stacks(stacks::StacksArgs),
    /// Find better names for the call stacks of a recording
    Symbols(symbols::SymbolsArgs),
    /// Print one request of a recording with all that belongs to it
    Trace(trace::TraceArgs),
    /// Print the state at one instant of a recording
    Snapshot(snapshot::SnapshotArgs),
    /// Print who calls whom in a recording
    Map(map::MapArgs),
    /// Print the patterns in the XLog of a recording, explained
    Patterns(patterns::PatternsArgs),
    /// Seal what a killed run left open and verify a recording
    Recover(recover::RecoverArgs),
    /// Say what this host can and cannot do
    Doctor(doctor::DoctorArgs),
    /// Trace a bundled workload
    Demo(demo::DemoArgs),
    /// The demo's own processes
    #[command(hide = true)]
    DemoPart(demo::DemoPartArgs),
    /// Print the shell's completion script
    Completions(completions::CompletionsArgs),
    /// Print the manual page
    Man(man::ManArgs),
}

/// Runs what was asked for.
pub fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::Live(args) => live::run(&args),
        Command::Record(args) => record::run(&args),
        Command::Replay(args) => replay::run(&args),
        Command::Find(args) => find::run(&args),
        Command::Why(args) => why::run(&args),
        Command::Profile(args) => profile::run(&args),
        Command::Stacks(args) => stacks::run(&args),
        Command::Symbols(args) => symbols::run(&args),
        Command::Trace(args) => trace::run(&args),
        Command::Snapshot(args) => snapshot::run(&args),
        Command::Map(args) => map::run(&args),
        Command::Patterns(args) => patterns::run(&args),
        Command::Recover(args) => recover::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::DemoPart(args) => demo::run_part(&args),
        Command::Completions(args) => completions::run(&args),
        Command::Man(args) => man::run(&args),
    }
}

/// An expected failure: one clear line, and one that says what to do about it.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct Expected {
    what: String,
    hint: String,
}

impl Expected {
    /// `what` was being done and failed; `hint` is what helps.
    pub fn new(what: impl Into<String>, hint: impl Into<String>) -> Expected {
        Expected { what: what.into(), hint: hint.into() }
    }
}

/// The lines that a failed run prints: the error with its causes, and the hint if there is one.
pub fn failure_lines(error: &anyhow::Error) -> String {
    let mut text = format!("txray: {error:#}\n");
    if let Some(hint) = error.chain().find_map(|cause| cause.downcast_ref::<Expected>()) {
        text.push_str(&format!("hint: {}\n", hint.hint));
    }
    text
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn an_expected_failure_has_a_line_and_a_hint() {
        let error = anyhow::Error::new(Expected::new("not root", "run it with sudo")).context("cannot trace");
        assert_eq!(failure_lines(&error), "txray: cannot trace: not root\nhint: run it with sudo\n");
        assert_eq!(failure_lines(&anyhow::anyhow!("odd")), "txray: odd\n");
    }
}
