//! How fast each parser reads its captures.

use std::{path::Path, process::Command};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::figures::{Row, median};
use crate::shell::{cargo, output, run, target_dir};

/// Runs of which the median counts.
const RUNS: usize = 5;

/// A line of the example `parser_speed`.
#[derive(Deserialize)]
struct Speed {
    protocol: String,
    mb_per_second: f64,
    messages_per_second: f64,
    captures: usize,
    bytes: usize,
}

/// A row for each protocol.
pub(super) fn rows(built: Option<&Path>) -> Result<Vec<Row>> {
    let program = match built {
        Some(built) => built.join("examples/parser_speed"),
        None => {
            let package = ["build", "--locked", "--release", "--package", "tracer-user"];
            run(cargo(package).args(["--example", "parser_speed"]))?;
            target_dir().join("release/examples/parser_speed")
        }
    };
    let mut runs: Vec<Vec<Speed>> = Vec::new();
    for _ in 0..RUNS {
        let text = output(Command::new(&program).arg("0.3"))?;
        let lines = text.lines().map(serde_json::from_str).collect::<Result<_, _>>();
        runs.push(lines.context("parser_speed printed something else")?);
    }
    let Some(first) = runs.first() else { return Ok(Vec::new()) };
    let row = |(at, speed): (usize, &Speed)| {
        let of = |value: fn(&Speed) -> f64| -> Vec<f64> {
            runs.iter().filter_map(|run| run.get(at)).map(value).collect()
        };
        let (bytes, messages) = (of(|speed| speed.mb_per_second), of(|speed| speed.messages_per_second));
        let (value, messages) = (median(&bytes), median(&messages));
        Row {
            what: format!("parser of {}", speed.protocol),
            hooks: None,
            value,
            unit: "MB/s",
            goal: "≥ 500 MB/s or 1 M messages/s",
            met: Some(value >= 500.0 || messages >= 1e6),
            note: format!(
                "{:.2} M messages/s; its {} whole captures, {} bytes, on one CPU; median of {RUNS} runs",
                messages / 1e6,
                speed.captures,
                speed.bytes
            ),
        }
    };
    Ok(first.iter().enumerate().map(row).collect())
}
