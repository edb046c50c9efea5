//! How far txray's latencies are from the server's own clock, and what it holds at a rate with many operations.

use std::{
    collections::HashMap,
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use super::{
    Bench,
    figures::{Row, median},
    server::{CLIENT_CPU, SERVER_CPU},
};
use crate::shell::{command, output};

/// Requests a second of the memory row, and their names, as the goal has them.
const RATE: &str = "10000";
const N_OPERATIONS: usize = 1_000;

/// A transaction, as `--json` prints it.
#[derive(Deserialize)]
struct Printed {
    target: String,
    duration_ns: i64,
    end: String,
}

/// The project's own server, ended when dropped.
struct Stamping(Child);

impl Drop for Stamping {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Latency of each transaction against the stamps that the server took around its own calls: from the return of its first read to the
/// return of its last write.
pub(super) fn latency_error(bench: &Bench, hooks: &str) -> Result<Row> {
    let log = bench.dir.join("server.csv");
    let _ = fs::remove_file(&log);
    let mut serve = command("taskset", ["-c", SERVER_CPU]);
    serve
        .arg(&bench.workload)
        .args(["serve", "--listen", "127.0.0.1:0", "--seconds", "120", "--log"])
        .arg(&log);
    let mut server = Stamping(serve.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?);
    let mut line = String::new();
    BufReader::new(server.0.stdout.take().context("the server's output")?).read_line(&mut line)?;
    let address = line.trim().strip_prefix("listening ").context("the server's address")?.to_owned();
    let tracer = bench.tracer(server.0.id(), hooks)?;
    let mut load = command("taskset", ["-c", CLIENT_CPU]);
    load.arg(&bench.workload).args(["load", "--to", &address, "--rate", "2000", "--connections", "8"]);
    load.args([
        "--seconds",
        &bench.seconds.to_string(),
        "--get",
        "/bytes/1000?id={id}",
        "--get",
        "/sleep/1?id={id}",
    ]);
    output(&mut load)?;
    tracer.stop()?;
    let own = own_latencies(&log)?;
    let mut replay = Command::new(&bench.txray);
    let text = output(replay.args(["replay", "--json", "--speed", "max"]).arg(bench.recording()))?;
    let mut errors = Vec::new();
    for line in text.lines() {
        let printed: Printed = serde_json::from_str(line).with_context(|| line.to_owned())?;
        if let (Some(own), "answered") = (own.get(&printed.target), &*printed.end) {
            errors.push((printed.duration_ns - own).unsigned_abs() as f64 / 1e3);
        }
    }
    ensure!(errors.len() * 10 > own.len() * 9, "{} of {} requests compared", errors.len(), own.len());
    errors.sort_by(f64::total_cmp);
    let value = median(&errors);
    let p99 = errors[errors.len() * 99 / 100];
    Ok(Row {
        what: "latency error against the server's own clock, median".into(),
        hooks: Some(hooks.to_owned()),
        value,
        unit: "µs",
        goal: "≤ 50 µs",
        met: Some(value <= 50.0),
        note: format!("p99 {p99:.0} µs; {} requests, 2,000 a second, half of them sleep 1 ms", errors.len()),
    })
}

/// By target: from the return of the first read to the return of the last write, ns.
fn own_latencies(log: &Path) -> Result<HashMap<String, i64>> {
    let text = fs::read_to_string(log).with_context(|| format!("reading {}", log.display()))?;
    let mut lines = text.lines();
    let names: Vec<&str> = lines.next().context("the server's log is empty")?.split(',').collect();
    let column = |name: &str| {
        names.iter().position(|other| *other == name).with_context(|| format!("no column {name}"))
    };
    let (read, written, target) =
        (column("read_after_ns")?, column("write_last_after_ns")?, column("target")?);
    let mut latencies = HashMap::new();
    for line in lines {
        let cells: Vec<&str> = line.split(',').collect();
        let number = |at: usize| -> Result<i64> { Ok(cells.get(at).context("a short row")?.parse()?) };
        let name = *cells.get(target).context("a short row")?;
        latencies.insert(name.to_owned(), number(written)? - number(read)?);
    }
    Ok(latencies)
}

/// Largest resident set at the goal's rate and number of operations.
pub(super) fn memory(bench: &Bench, hooks: &str) -> Result<Row> {
    let server = bench.server()?;
    let tracer = bench.tracer(server.pid(), hooks)?;
    let mut load = command("taskset", ["-c", CLIENT_CPU]);
    load.arg(&bench.workload).args(["load", "--connections", "16", "--rate", RATE]);
    load.args(["--seconds", &bench.seconds.to_string(), "--to", &server.address()]);
    for n in 0..N_OPERATIONS {
        // Letters, ten in each place: numbers, and many words in one place, become a template.
        let letter = |n: usize| char::from(b'a' + (n % 10) as u8);
        load.args(["--get".to_owned(), format!("/{}/{}/{}", letter(n / 100), letter(n / 10), letter(n))]);
    }
    output(&mut load)?;
    let traced = tracer.stop()?;
    let n_operations = traced.summary.operations.len();
    // Of a thousand names of one service, 750 are kept and the others are one (`{other}`).
    ensure!(n_operations > N_OPERATIONS / 2, "the {N_OPERATIONS} names became {n_operations} operations");
    let value = traced.peak_bytes as f64 / 1e6;
    Ok(Row {
        what: "peak resident memory at 10,000 requests/s with 1,000 names, kernel's ring included".into(),
        hooks: Some(hooks.to_owned()),
        value,
        unit: "MB",
        goal: "≤ 100 MB",
        met: Some(value <= 100.0),
        note: format!(
            "{} transactions, {n_operations} operations; no churn of processes",
            traced.summary.transactions
        ),
    })
}
