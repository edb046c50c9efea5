//! The binary `txray`: parse, dispatch, exit code.

use std::{io::Write as _, process::ExitCode};

use clap::Parser as _;
use tracer_user::cli;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    match cli::run(cli) {
        Ok(code) => code.into(),
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing is left to do if standard error is closed too.
            let _ = std::io::stderr().write_all(cli::failure_lines(&error).as_bytes());
            cli::ExitCode::Error.into()
        }
    }
}

/// Whether standard output was closed by its reader (`txray … | head`): that ends a run quietly.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<std::io::Error>().is_some_and(|io| io.kind() == std::io::ErrorKind::BrokenPipe)
    })
}
