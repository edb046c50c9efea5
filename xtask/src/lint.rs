//! `cargo xtask lint`: formatting, clippy, documentation, licences. Every check runs, then the failures are named.

use anyhow::{Result, bail};

use crate::{
    licences,
    shell::{cargo, run},
};

/// A check and what it is called.
type Check = (&'static str, fn() -> Result<()>);

const CHECKS: &[Check] = &[
    ("rustfmt", rustfmt),
    ("clippy", clippy),
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

fn documentation() -> Result<()> {
    run(cargo(["doc", "--locked", "--workspace", "--no-deps", "--document-private-items"])
        .env("RUSTDOCFLAGS", "-D warnings"))
}
