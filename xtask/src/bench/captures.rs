//! How fast packet captures are read.

use std::{path::Path, process::Command};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use super::figures::{Row, median};
use crate::shell::{cargo, output, run, target_dir};

/// Size of the capture. Of 100 MB a run takes about a second, and it stays in the page cache.
const MEGABYTES: &str = "100";
/// Runs of which the median counts.
const RUNS: &str = "5";

/// A line of the example `capture_speed`.
#[derive(Deserialize)]
struct Speed {
    mb_per_second: f64,
    packets_per_second: f64,
    bytes: u64,
    packets: u64,
    requests: u64,
}

/// One row.
pub(super) fn row(built: Option<&Path>) -> Result<Row> {
    let program = match built {
        Some(built) => built.join("examples/capture_speed"),
        None => {
            let package = ["build", "--locked", "--release", "--package", "tracer-user"];
            run(cargo(package).args(["--example", "capture_speed"]))?;
            target_dir().join("release/examples/capture_speed")
        }
    };
    let text = output(Command::new(&program).args([MEGABYTES, RUNS]))?;
    let runs: Vec<Speed> = text
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()
        .context("capture_speed printed something else")?;
    let Some(first) = runs.first() else { bail!("capture_speed printed nothing") };
    let of = |value: fn(&Speed) -> f64| median(&runs.iter().map(value).collect::<Vec<_>>());
    Ok(Row {
        what: "a packet capture of HTTP/1 with keep-alive".into(),
        hooks: None,
        value: of(|speed| speed.mb_per_second),
        unit: "MB/s",
        goal: "–",
        met: None,
        note: format!(
            "{:.2} M packets/s; {} bytes, {} packets, {} requests, to transactions on one CPU; median of {RUNS} runs",
            of(|speed| speed.packets_per_second) / 1e6,
            first.bytes,
            first.packets,
            first.requests
        ),
    })
}
