//! What it costs to see inside TLS: the throughput of a server of HTTPS, and the calls of OpenSSL.

use std::{path::Path, process::Command};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use super::{
    Bench,
    figures::{Row, median, ratios, spread},
    server::{CLIENT_CPU, Load, SERVER_CPU, Server},
    tracer::Tracer,
};
use crate::shell::{cargo, output, run, target_dir};

/// The family of hooks; with the other one only what is not about TLS differs.
const HOOKS: &str = "socket";

/// A line of the example `tls_call_cost`.
#[derive(Deserialize)]
struct Call {
    placement: String,
    write_ns: f64,
    read_ns: f64,
}

/// Rows about the server, then about calls.
pub(super) fn rows(bench: &Bench, built: Option<&Path>) -> Result<Vec<Row>> {
    let mut rows = throughput(bench)?;
    rows.extend(calls(bench, built)?);
    Ok(rows)
}

/// Untraced, `--tls opaque`, untraced, clear text seen; again and again, on one server.
fn throughput(bench: &Bench) -> Result<Vec<Row>> {
    let server = Server::start_tls(&bench.dir)?;
    let traced = |flags: &[&str]| -> Result<(Load, u64)> {
        let tracer = Tracer::start(&bench.txray, server.pid(), HOOKS, &bench.recording(), flags)?;
        let load = server.saturate(bench.seconds)?;
        Ok((load, tracer.stop()?.summary.transactions))
    };
    server.saturate(1)?;
    let (mut untraced, mut opaque, mut clear) = ([Vec::new(), Vec::new()], Vec::new(), Vec::new());
    let (mut n_seen, mut n_true) = (0, 0);
    for round in 1..=bench.n_pairs {
        untraced[0].push(server.saturate(bench.seconds)?.per_second);
        opaque.push(traced(&["--tls", "opaque"])?.0.per_second);
        untraced[1].push(server.saturate(bench.seconds)?.per_second);
        let (load, n_transactions) = traced(&["--tls", "clear"])?;
        clear.push(load.per_second);
        n_seen += n_transactions;
        n_true += load.n_requests;
        let [first, second] = [&untraced[0], &untraced[1]].map(|runs| runs[round - 1]);
        println!(
            "bench: https: round {round}: untraced {first:.0} and {second:.0}, opaque {:.0}, clear {:.0} requests/s",
            opaque[round - 1],
            clear[round - 1]
        );
    }
    let around: Vec<f64> = std::iter::zip(&untraced[0], &untraced[1])
        .map(|(first, second)| f64::midpoint(*first, *second))
        .collect();
    let row = |what: &str, shares: &[f64], note: String| Row {
        what: what.to_owned(),
        hooks: Some(HOOKS.to_owned()),
        value: median(shares),
        unit: "",
        goal: "–",
        met: None,
        note: format!("{}; {note}", spread(shares)),
    };
    let rate = |of: &[f64]| format!("median {:.0} requests/s", median(of));
    Ok(vec![
        row("saturated nginx, HTTPS, --tls opaque / untraced", &ratios(&opaque, &around), rate(&opaque)),
        row(
            "saturated nginx, HTTPS, clear text seen / untraced",
            &ratios(&clear, &around),
            format!("{}; {n_seen} transactions of {n_true} requests and 32 handshakes a run", rate(&clear)),
        ),
        row("HTTPS, untraced / untraced", &ratios(&untraced[1], &untraced[0]), rate(&around)),
    ])
}

/// What a call takes with probes and without.
fn calls(bench: &Bench, built: Option<&Path>) -> Result<Vec<Row>> {
    let program = match built {
        Some(built) => built.join("examples/tls_call_cost"),
        None => {
            let package = ["build", "--locked", "--release", "--package", "tracer-user"];
            run(cargo(package).args(["--example", "tls_call_cost"]))?;
            target_dir().join("release/examples/tls_call_cost")
        }
    };
    let text =
        output(Command::new("taskset").args(["-c", CLIENT_CPU]).arg(program).arg(bench.n_pairs.to_string()))?;
    let calls: Vec<Call> = text
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()
        .context("tls_call_cost printed something else")?;
    let of = |placement: &str, ns: fn(&Call) -> f64| -> Vec<f64> {
        calls.iter().filter(|call| call.placement == placement).map(ns).collect()
    };
    let mut rows = Vec::new();
    for (name, ns) in
        [("SSL_write", (|call| call.write_ns) as fn(&Call) -> f64), ("SSL_read", |call| call.read_ns)]
    {
        for (placement, what) in [
            ("none", "of a process that is no target"),
            ("sockets", "its sockets traced, no probes on functions"),
            ("inner", "probes where txray puts them"),
            ("first", "the same probes at its first instruction"),
        ] {
            let values = of(placement, ns);
            if values.is_empty() {
                bail!("tls_call_cost measured nothing for {placement}");
            }
            let more: Vec<f64> =
                std::iter::zip(&values, of("sockets", ns)).map(|(ns, plain)| ns - plain).collect();
            rows.push(Row {
                what: format!("a call of {name} with 64 bytes, {what}"),
                hooks: Some(HOOKS.to_owned()),
                value: median(&values),
                unit: "ns",
                goal: "–",
                met: None,
                note: format!(
                    "{}; {:+.0} ns against its sockets alone; CPU {SERVER_CPU}",
                    spread(&values),
                    median(&more)
                ),
            });
        }
    }
    Ok(rows)
}
