//! One function for each row of the table.

use std::{
    fs,
    process::Stdio,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use super::{
    Bench, Rounds, TracedLoad,
    figures::{Row, median, ratios, spread},
    is_recording,
    programs::{Statistics, costs_of},
    server::{CLIENT_CPU, Load},
    tracer::dataset_bytes,
};
use crate::shell::command;

/// Captured and counted as lost, of what nginx itself counted.
pub(super) fn captured(rounds: &Rounds) -> Row {
    let (mut captured, mut low, mut high, mut n_true) = (0, 0, 0, 0);
    for TracedLoad { tracer, n_true: of_run, .. } in &rounds.traced {
        captured += tracer.summary.transactions + tracer.summary.open;
        low += tracer.summary.lost_requests.low;
        high += tracer.summary.lost_requests.high;
        n_true += of_run;
    }
    let accounted = captured + low <= n_true && n_true <= captured + high;
    Row {
        what: "captured / true, HTTP/1.1 keep-alive at saturation".into(),
        hooks: Some(rounds.hooks.clone()),
        value: captured as f64 / n_true as f64,
        unit: "",
        goal: "1.000, or captured + lost = true",
        met: Some(accounted),
        note: format!("{captured} captured, {low} to {high} counted as lost, {n_true} true"),
    }
}

fn per_second(loads: &[Load]) -> Vec<f64> {
    loads.iter().map(|load| load.per_second).collect()
}

/// Mean of the two untraced runs around a traced one.
fn untraced(rounds: &Rounds, of: impl Fn(&Load) -> f64) -> Vec<f64> {
    rounds.untraced.iter().map(|[first, second]| f64::midpoint(of(first), of(second))).collect()
}

fn floors(rounds: &Rounds) -> Vec<f64> {
    ratios(&per_second(&rounds.floor), &untraced(rounds, |load| load.per_second))
}

/// Throughput of the saturated server, traced and recorded.
pub(super) fn throughput(rounds: &Rounds) -> Row {
    let traced: Vec<f64> = rounds.traced.iter().map(|run| run.load.per_second).collect();
    let shares = ratios(&traced, &untraced(rounds, |load| load.per_second));
    let (value, floor) = (median(&shares), median(&floors(rounds)));
    Row {
        what: "saturated nginx throughput, traced and recorded / untraced".into(),
        hooks: Some(rounds.hooks.clone()),
        value,
        unit: "",
        goal: "≥ 0.85 with socket hooks",
        met: (rounds.hooks == "socket").then_some(value >= 0.85),
        note: format!("{}; {:.3} below the floor", spread(&shares), floor - value),
    }
}

/// The same with a tracer that looks for another process.
pub(super) fn floor(rounds: &Rounds) -> Row {
    let shares = floors(rounds);
    Row {
        what: "the floor: a tracer whose filter matches nothing / untraced".into(),
        hooks: Some(rounds.hooks.clone()),
        value: median(&shares),
        unit: "",
        goal: "–",
        met: None,
        note: spread(&shares),
    }
}

/// How much two untraced runs differ: what the other figures have to be seen against.
pub(super) fn untraced_spread(rounds: &Rounds) -> Row {
    let [first, second]: [Vec<f64>; 2] =
        [0, 1].map(|at| rounds.untraced.iter().map(|pair| pair[at].per_second).collect());
    let shares = ratios(&second, &first);
    Row {
        what: "untraced / untraced".into(),
        hooks: Some(rounds.hooks.clone()),
        value: median(&shares),
        unit: "",
        goal: "–",
        met: None,
        note: format!(
            "{}; median {:.0} requests/s",
            spread(&shares),
            median(&untraced(rounds, |l| l.per_second))
        ),
    }
}

/// CPU time of the server for one request.
pub(super) fn server_cpu(rounds: &Rounds) -> Row {
    let traced: Vec<f64> = rounds.traced.iter().map(|run| run.load.cpu_us_per_request()).collect();
    let untraced = untraced(rounds, Load::cpu_us_per_request);
    let shares = ratios(&traced, &untraced);
    let value = median(&shares);
    Row {
        what: "target CPU per request, traced / untraced".into(),
        hooks: Some(rounds.hooks.clone()),
        value,
        unit: "",
        goal: "≤ 1.10",
        met: Some(value <= 1.10),
        note: format!("{}; {:.2} µs against {:.2} µs", spread(&shares), median(&traced), median(&untraced)),
    }
}

/// CPU time of txray for one event, recording included.
pub(super) fn own_cpu(rounds: &Rounds) -> Row {
    let costs: Vec<f64> = rounds
        .traced
        .iter()
        .map(|run| run.tracer.cpu_ns as f64 / 1e3 / (run.tracer.summary.events as f64).max(1.0))
        .collect();
    let value = median(&costs);
    Row {
        what: "txray's own CPU per event, live and recording".into(),
        hooks: Some(rounds.hooks.clone()),
        value,
        unit: "µs",
        goal: "≤ 0.8 µs",
        met: Some(value <= 0.8),
        note: format!("{} runs of {} events (median)", costs.len(), {
            let events: Vec<f64> = rounds.traced.iter().map(|run| run.tracer.summary.events as f64).collect();
            median(&events)
        }),
    }
}

/// Largest resident set of txray.
pub(super) fn peak_memory(rounds: &Rounds) -> Row {
    let peaks: Vec<f64> = rounds.traced.iter().map(|run| run.tracer.peak_bytes as f64 / 1e6).collect();
    let value = median(&peaks);
    Row {
        what: "txray's peak resident memory at saturation, ring included".into(),
        hooks: Some(rounds.hooks.clone()),
        value,
        unit: "MB",
        goal: "–",
        met: None,
        note: "one operation; the goal is for a tenth of the rate, below".into(),
    }
}

/// Percentiles of the client's own clock at half of what server, client and tracer can do together here: with the tracer on the
/// client's CPU, half of what the untraced server can do would be a load that the client itself cannot make in time.
pub(super) fn half_load(bench: &Bench, rounds: &Rounds) -> Result<Vec<Row>> {
    let together: Vec<f64> = rounds.traced.iter().map(|run| run.load.per_second).collect();
    let rate = median(&together) / 2.0;
    let server = bench.server()?;
    let (mut untraced, mut traced) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    for _ in 0..bench.n_pairs {
        let (p50, p99) = server.at_rate(&bench.workload, rate, bench.seconds)?;
        untraced[0].push(p50);
        untraced[1].push(p99);
        let tracer = bench.tracer(server.pid(), &rounds.hooks)?;
        let (p50, p99) = server.at_rate(&bench.workload, rate, bench.seconds)?;
        tracer.stop()?;
        traced[0].push(p50);
        traced[1].push(p99);
    }
    let row = |name: &str, at: usize| {
        let shares = ratios(&traced[at], &untraced[at]);
        let value = median(&shares);
        Row {
            what: format!("{name} at half of the traced load ({rate:.0} requests/s), traced / untraced"),
            hooks: Some(rounds.hooks.clone()),
            value,
            unit: "",
            goal: "≤ 1.05, or within noise",
            met: Some(value <= 1.05),
            note: format!(
                "{}; {:.0} µs against {:.0} µs",
                spread(&shares),
                median(&traced[at]),
                median(&untraced[at])
            ),
        }
    };
    Ok(vec![row("p50", 0), row("p99", 1)])
}

/// Time in each of txray's programs per hit, by the kernel's statistics.
pub(super) fn kernel_cost(bench: &Bench, hooks: &str) -> Result<Vec<Row>> {
    let server = bench.server()?;
    let _statistics = Statistics::on()?;
    let mut rows = Vec::new();
    let other = super::Idle::start()?;
    for (target, what, goal, limit) in
        [(server.pid(), "captured", "≤ 500 ns", 500.0), (other.pid(), "filtered out", "≤ 150 ns", 150.0)]
    {
        let tracer = bench.tracer(target, hooks)?;
        let before = costs_of(tracer.pid())?;
        server.saturate(bench.seconds)?;
        let after = costs_of(tracer.pid())?;
        tracer.stop()?;
        for (name, cost) in after {
            let start = before.get(&name).cloned().unwrap_or_default();
            let n_runs = cost.n_runs - start.n_runs;
            // What runs a few times (a connection's opening) says nothing about the cost of data.
            if n_runs < 10_000 {
                continue;
            }
            let value = (cost.total_ns - start.total_ns) as f64 / n_runs as f64;
            rows.push(Row {
                what: format!("`{name}` per hit, {what}"),
                hooks: Some(hooks.to_owned()),
                value,
                unit: "ns",
                goal,
                met: Some(value <= limit),
                note: format!("{n_runs} hits; the statistics' own clock reads included"),
            });
        }
    }
    Ok(rows)
}

/// From the start of the program to the end of the first transaction it saw, on a busy server.
pub(super) fn start(bench: &Bench, hooks: &str) -> Result<Row> {
    #[derive(Deserialize)]
    struct First {
        end_time_ns: u64,
    }
    let server = bench.server()?;
    let mut delays = Vec::new();
    for _ in 0..bench.n_pairs {
        let mut load = command("taskset", ["-c", CLIENT_CPU]);
        load.arg(&bench.workload).args([
            "load",
            "--rate",
            "2000",
            "--connections",
            "4",
            "--seconds",
            "4",
            "--get",
            "/",
        ]);
        load.args(["--to".into(), server.address()]);
        let mut load = load.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
        std::thread::sleep(Duration::from_millis(300));
        let began = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos();
        let mut live = command("taskset", ["-c", CLIENT_CPU]);
        live.arg(&bench.txray).args(["live", "--json", "--duration", "2s", "--hooks", hooks]);
        live.args(["--pid".into(), server.pid().to_string()]);
        let text = crate::shell::output(&mut live);
        load.wait()?;
        let text = text?;
        let first: First =
            serde_json::from_str(text.lines().next().context("txray live saw no transaction")?)?;
        delays.push((u128::from(first.end_time_ns).saturating_sub(began)) as f64 / 1e9);
    }
    let value = median(&delays);
    Ok(Row {
        what: "start to first transaction seen".into(),
        hooks: Some(hooks.to_owned()),
        value,
        unit: "s",
        goal: "≤ 1 s",
        met: Some(value <= 1.0),
        note: format!("{} starts", delays.len()),
    })
}

/// Bytes on disk of the last traced run.
pub(super) fn sizes(bench: &Bench) -> Result<Vec<Row>> {
    let recording = bench.recording();
    ensure!(is_recording(&recording), "there is no recording in {}", recording.display());
    let summary = replay_summary(bench)?.0;
    let row = |dataset: &str, what: &str, limit: f64, goal: &'static str| -> Result<Row> {
        let bytes = dataset_bytes(&recording, dataset)?;
        let value = bytes as f64 / (summary.transactions as f64).max(1.0);
        Ok(Row {
            what: what.into(),
            hooks: None,
            value,
            unit: "bytes",
            goal,
            met: Some(value <= limit),
            note: format!("{bytes} bytes, {} transactions of one operation", summary.transactions),
        })
    };
    Ok(vec![
        row("transactions", "bytes per transaction in `transactions`", 40.0, "≤ 40")?,
        row("events", "bytes per request in `events`, heads captured", 150.0, "≤ 150")?,
    ])
}

/// Events per second that a replay gets through.
pub(super) fn replay(bench: &Bench) -> Result<Row> {
    let mut rates = Vec::new();
    for _ in 0..bench.n_pairs.min(5) {
        let (summary, took) = replay_summary(bench)?;
        rates.push(summary.events as f64 / took.as_secs_f64() / 1e6);
    }
    let value = median(&rates);
    Ok(Row {
        what: "replay, events per second on one CPU".into(),
        hooks: None,
        value,
        unit: "M/s",
        goal: "≥ 1.5 M/s",
        met: Some(value >= 1.5),
        note: format!("{} replays pinned to one CPU, start and end of the program included", rates.len()),
    })
}

fn replay_summary(bench: &Bench) -> Result<(super::tracer::Summary, Duration)> {
    let mut replay = command("taskset", ["-c", CLIENT_CPU]);
    replay.arg(&bench.txray).arg("replay").arg(bench.recording());
    replay.args(["--speed", "max", "--summary", "json"]);
    let began = Instant::now();
    let text = crate::shell::output(&mut replay)?;
    let took = began.elapsed();
    let line = text.lines().last().context("the replay printed no summary")?;
    Ok((serde_json::from_str(line)?, took))
}

/// Removes what the rows leave behind.
pub(super) fn clean(bench: &Bench) -> Result<()> {
    Ok(fs::remove_dir_all(bench.recording())?)
}
