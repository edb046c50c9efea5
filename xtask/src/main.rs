//! `cargo xtask`: everything around the build.

mod ansi;
mod bench;
mod demo;
mod dist;
mod fuzz;
mod licences;
mod lint;
mod picture;
mod pty;
mod setup;
mod shell;
mod test;
mod vm;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

/// Set-up, build, tests, measurements.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Install what this machine lacks for building (and, with --tests, testing) txray.
    Setup(setup::SetupArgs),
    /// Build the binary `txray` (set-up first).
    Build(BuildArgs),
    /// Run every test, in layers (set-up first).
    Test(test::TestArgs),
    /// Formatting, clippy, documentation, licences.
    Lint,
    /// Measure what tracing costs (as root).
    Bench(bench::BenchArgs),
    /// Trace the bundled demo (set-up and build first).
    Demo(demo::DemoArgs),
    /// Take the README's picture of the demo's screen (as root).
    Picture(picture::PictureArgs),
    /// Fuzz the parsers for a bounded time.
    Fuzz(fuzz::FuzzArgs),
    /// One static file that runs on a bare host, in target/dist.
    Dist,
    /// The static file on other kernels.
    Vm(vm::VmArgs),
}

#[derive(Args, Debug)]
struct BuildArgs {
    /// Optimised.
    #[arg(long)]
    release: bool,
}

fn build(args: &BuildArgs) -> Result<()> {
    setup::run(&setup::SetupArgs::default())?;
    let mut command = shell::cargo(["build", "--locked"]);
    if args.release {
        command.arg("--release");
    }
    shell::run(&mut command)
}

fn main() -> ExitCode {
    let result = match Cli::parse().task {
        Task::Setup(args) => setup::run(&args),
        Task::Build(args) => build(&args),
        Task::Test(args) => test::run(&args),
        Task::Bench(args) => bench::run(&args),
        Task::Demo(args) => demo::demo(&args),
        Task::Picture(args) => picture::picture(&args),
        Task::Fuzz(args) => fuzz::fuzz(&args),
        Task::Dist => dist::dist().map(drop),
        Task::Vm(args) => vm::run(&args).and_then(|(counts, _)| counts.must_pass()),
        Task::Lint => lint::run_all().map(drop),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}
