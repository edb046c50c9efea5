//! `txray man`: the manual page, subcommands included.

use std::io::Write as _;

use clap::{Args, CommandFactory as _};

use super::{Cli, ExitCode};

/// Arguments.
#[derive(Debug, Args)]
pub struct ManArgs {}

/// Prints the page in roff: `txray man | man -l -`.
pub fn run(_: &ManArgs) -> anyhow::Result<ExitCode> {
    let mut command = Cli::command();
    command.build();
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut page)?;
    for subcommand in command
        .get_subcommands()
        .filter(|subcommand| subcommand.get_name() != "help" && !subcommand.is_hide_set())
    {
        clap_mangen::Man::new(subcommand.clone()).render(&mut page)?;
    }
    std::io::stdout().write_all(&page)?;
    Ok(ExitCode::Ok)
}
