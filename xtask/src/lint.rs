//! `cargo xtask lint`: formatting, clippy, documentation, licences. Every check runs, then the failures are named.

use anyhow::{Result, bail};

use crate::{
    licences, setup,
    shell::{cargo, command, run, target_dir, workspace_root},
};

/// A check and what it is called.
type Check = (&'static str, fn() -> Result<()>);

const CHECKS: &[Check] = &[
    ("rustfmt", rustfmt),
    ("clippy", clippy),
    ("clippy, kernel side", clippy_kernel_side),
    ("documentation", documentation),
    ("licences", licences::check),
];

/// Runs all checks; returns how many there were.
pub(crate) fn run_all() -> Result<usize> {
    let mut failed = Vec::new();
    for (name, check) in CHECKS {
        println!("lint: {name}");
        if let Err(error) = check() {
            eprintln!("lint: {name}: {error:#}");
            failed.push(*name);
        }
    }
    if !failed.is_empty() {
        bail!("lint: {} of {} checks failed: {}", failed.len(), CHECKS.len(), failed.join(", "));
    }
    println!("lint: {} checks passed", CHECKS.len());
    Ok(CHECKS.len())
}

fn rustfmt() -> Result<()> {
    run(&mut cargo(["fmt", "--all", "--check"]))
}

fn clippy() -> Result<()> {
    run(&mut cargo(["clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"]))
}

fn clippy_kernel_side() -> Result<()> {
    let toolchain = setup::kernel_side_clippy()?;
    let mut clippy =
        command("rustup", ["run", &toolchain, "cargo", "clippy", "--locked", "--package", "tracer-ebpf"]);
    clippy.args(["--bins", "--no-default-features", "--features", "bpf", "--target", "bpfel-unknown-none"]);
    clippy.args(["-Z", "build-std=core", "--target-dir"]).arg(target_dir().join("xtask/clippy-bpf"));
    clippy.args(["--", "-D", "warnings"]).current_dir(workspace_root());
    // As the build script builds it.
    clippy.env("RUSTC_BOOTSTRAP", "1").env("CARGO_ENCODED_RUSTFLAGS", "--cfg=bpf_target_arch=\"x86_64\"");
    // Set by the cargo that started this program, for its own toolchain.
    for name in ["RUSTUP_TOOLCHAIN", "CARGO", "RUSTC", "RUSTC_WORKSPACE_WRAPPER"] {
        clippy.env_remove(name);
    }
    run(&mut clippy)
}

fn documentation() -> Result<()> {
    run(cargo(["doc", "--locked", "--workspace", "--no-deps", "--document-private-items"])
        .env("RUSTDOCFLAGS", "-D warnings"))
}
