//! `cargo xtask demo`: set-up, build, and the demo that is bundled in the binary, traced for real.

use anyhow::Result;
use clap::Args;

use crate::{
    setup,
    shell::{cargo, command, is_root, run, target_dir},
};

#[derive(Args, Debug)]
pub(crate) struct DemoArgs {
    /// Passed on to `txray demo`.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

pub(crate) fn demo(args: &DemoArgs) -> Result<()> {
    setup::run(&setup::SetupArgs::default())?;
    run(&mut cargo(["build", "--locked", "--release", "--package", "tracer-user"]))?;
    let program = target_dir().join("release/txray");
    let program = program.to_string_lossy();
    let mut demo = if is_root() {
        command(&program, ["demo"])
    } else {
        // Tracing needs root; the build does not, and its files stay the user's.
        command("sudo", [&*program, "demo"])
    };
    run(demo.args(&args.args))
}
