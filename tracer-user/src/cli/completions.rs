//! `txray completions SHELL`.

use std::io::Write as _;

use clap::{Args, CommandFactory as _};

use super::{Cli, ExitCode};

/// Arguments.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

/// Prints the script.
pub fn run(args: &CompletionsArgs) -> anyhow::Result<ExitCode> {
    // The generator panics on a write error (a closed pipe), so it writes to memory.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "txray", &mut script);
    std::io::stdout().write_all(&script)?;
    Ok(ExitCode::Ok)
}
