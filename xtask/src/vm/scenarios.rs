//! What the guest runs, and what its tracer must have seen: every request once, with nothing lost and nothing left over.

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;

use super::{
    guest::{Console, tail},
    kernels::Kernel,
};

/// A server, a load on it, and how many requests that makes.
#[derive(Clone, Copy, Debug)]
struct Scenario {
    name: &'static str,
    /// Arguments of `workload serve`.
    serve: &'static str,
    /// Arguments of `workload load`.
    load: &'static str,
    /// Requests by operation.
    operations: &'static [(&'static str, u64)],
    /// Of those, answered with a status that is a server's error.
    n_errors: u64,
}

const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "keep-alive",
        serve: "--mode threads",
        load: "--count 400 --connections 4 --get /user/{n} --get /status/503",
        operations: &[("GET /user/{id}", 200), ("GET /status/{id}", 200)],
        n_errors: 200,
    },
    Scenario {
        name: "pipelined",
        serve: "--mode event-loop",
        load: "--count 320 --connections 2 --pipeline 16 --get /item/{n}",
        operations: &[("GET /item/{id}", 320)],
        n_errors: 0,
    },
    Scenario {
        name: "one-byte-writes",
        serve: "--mode threads --write-call send",
        load: "--count 20 --connections 1 --write-size 1 --get /slow",
        operations: &[("GET /slow", 20)],
        n_errors: 0,
    },
    Scenario {
        name: "short-connections",
        serve: "--mode fork-workers:2",
        load: "--count 200 --connections 2 --close --get /one",
        operations: &[("GET /one", 200)],
        n_errors: 0,
    },
    Scenario {
        name: "sendfile",
        serve: "--mode threads --read-call recvmsg",
        load: "--count 10 --connections 1 --get /bytes/1000000/sendfile --get /bytes/1000000/writev",
        operations: &[("GET /bytes/{id}/sendfile", 5), ("GET /bytes/{id}/writev", 5)],
        n_errors: 0,
    },
    Scenario {
        name: "posts",
        serve: "--mode threads --read-call readv --write-call sendmsg",
        load: "--count 100 --connections 2 --body 5000 --post /order",
        operations: &[("POST /order", 100)],
        n_errors: 0,
    },
];

/// First kernel with the socket tracepoints.
const SOCKET_HOOKS: &str = "6.3";

/// The families of hooks that a kernel has.
fn families(kernel: &Kernel) -> &'static [&'static str] {
    if kernel.is_at_least(SOCKET_HOOKS) { &["socket", "syscall"] } else { &["syscall"] }
}

/// The guest's steps for a kernel, as a shell script behind `init.sh`. One tracer watches all servers: emulated, each of its
/// starts takes the better part of a minute.
pub(super) fn script(kernel: &Kernel) -> String {
    let mut script = String::from("step doctor /txray doctor --quick\n");
    for family in families(kernel) {
        script.push_str(&trace(family, SCENARIOS));
    }
    script
}

fn trace(family: &str, scenarios: &[Scenario]) -> String {
    let mut script = String::new();
    for (at, Scenario { name, serve, load, .. }) in scenarios.iter().enumerate() {
        let port = 8000 + at;
        script.push_str(&format!("serve {port} {serve} # {name}\nload {port} {load}\n"));
    }
    format!(
        "cat >/tmp/plan <<'PLAN'\n{script}PLAN\nstep {family} trace {family}\nstep {family}/replay replay\n"
    )
}

/// What a locked-down kernel must still do, or refuse in clear words.
const LOCKED: Scenario = Scenario {
    name: "locked-down",
    serve: "--mode threads",
    load: "--count 50 --connections 2 --get /user/{n}",
    operations: &[("GET /user/{id}", 50)],
    n_errors: 0,
};

/// The guest's steps under `lockdown=confidentiality`.
pub(super) fn script_locked() -> String {
    format!("step doctor /txray doctor --quick\n{}", trace("auto", &[LOCKED]))
}

/// Under lockdown tracing is exact, or it is refused with a reason that `doctor` gives as well.
pub(super) fn check_locked(console: &Console) -> Result<usize> {
    let doctor = console.step("doctor")?;
    ensure!(
        doctor.output.contains("confidentiality"),
        "doctor does not name the lockdown:\n{}",
        tail(&doctor.output, 40)
    );
    let can_trace = doctor.code == 0;
    println!(
        "vm: under lockdown=confidentiality doctor says that it can{} trace",
        if can_trace { "" } else { "not" }
    );
    if can_trace {
        check_step(console, "auto", &[LOCKED])?;
    } else {
        let step = console.step("auto")?;
        let is_clear = step.output.contains("lockdown") && step.output.contains("hint:");
        ensure!(is_clear, "it did not say that lockdown is the reason:\n{}", tail(&step.output, 20));
    }
    Ok(2)
}

/// The part of a summary that is checked.
#[derive(Debug, Deserialize)]
struct Summary {
    transactions: u64,
    open: u64,
    #[serde(default)]
    unpaired: serde_json::Value,
    #[serde(default)]
    lost: serde_json::Value,
    lost_requests: Interval,
    #[serde(default)]
    operations: Vec<Operation>,
}

#[derive(Debug, Deserialize)]
struct Interval {
    low: u64,
    high: u64,
}

#[derive(Debug, Deserialize)]
struct Operation {
    operation: String,
    count: u64,
    errors: u64,
}

/// Checks every step; returns how many there were, or all that is wrong.
pub(super) fn check(kernel: &Kernel, console: &Console) -> Result<usize> {
    let mut faults = Vec::new();
    let mut n_checks = 0;
    let mut note = |name: &str, result: Result<()>| {
        n_checks += 1;
        match result {
            Ok(()) => println!("vm: {}: {name}: passed", kernel.version),
            Err(error) => faults.push(format!("{name}: {error:#}")),
        }
    };
    note(
        "doctor",
        console.step("doctor").and_then(|step| {
            // It ends with 0 where tracing works.
            ensure!(step.code == 0, "exit code {}:\n{}", step.code, tail(&step.output, 40));
            Ok(())
        }),
    );
    for family in families(kernel) {
        note(family, check_step(console, family, SCENARIOS));
        let replay = format!("{family}/replay");
        note(&replay, check_step(console, &replay, SCENARIOS));
    }
    if !faults.is_empty() {
        bail!("{} of {n_checks} checks failed:\n    {}", faults.len(), faults.join("\n    "));
    }
    Ok(n_checks)
}

fn check_step(console: &Console, name: &str, scenarios: &[Scenario]) -> Result<()> {
    let step = console.step(name)?;
    check_summary(&step.output, scenarios)
        .with_context(|| format!("exit code {}:\n{}", step.code, tail(&step.output, 25)))
}

fn check_summary(output: &str, scenarios: &[Scenario]) -> Result<()> {
    let line = output
        .lines()
        .rev()
        .find(|line| line.starts_with('{') && line.contains("\"summary\""))
        .context("it printed no summary")?;
    let summary: Summary = serde_json::from_str(line).context("its summary is not what it should be")?;
    let expected: u64 = scenarios.iter().flat_map(|scenario| scenario.operations).map(|(_, n)| n).sum();
    ensure!(summary.transactions == expected, "{} transactions, {expected} requests", summary.transactions);
    ensure!(summary.open == 0, "{} left open", summary.open);
    ensure!(sum(&summary.unpaired) == 0, "unpaired: {}", summary.unpaired);
    ensure!(sum(&summary.lost) == 0, "lost: {}", summary.lost);
    let Interval { low, high } = summary.lost_requests;
    ensure!(high == 0, "lost requests: {low} to {high}");
    for scenario in scenarios {
        for (name, expected) in scenario.operations {
            let rows = summary.operations.iter().filter(|row| row.operation == *name);
            let counted: u64 = rows.map(|row| row.count).sum();
            ensure!(counted == *expected, "{}: {counted} of `{name}`, not {expected}", scenario.name);
        }
    }
    let errors: u64 = summary.operations.iter().map(|operation| operation.errors).sum();
    let expected: u64 = scenarios.iter().map(|scenario| scenario.n_errors).sum();
    ensure!(errors == expected, "{errors} errors, not {expected}");
    Ok(())
}

/// Sum of an object's numbers.
fn sum(object: &serde_json::Value) -> u64 {
    object.as_object().map_or(0, |object| object.values().filter_map(serde_json::Value::as_u64).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCENARIO: Scenario =
        Scenario { name: "x", serve: "", load: "", operations: &[("GET /x", 3)], n_errors: 1 };

    fn summary(transactions: u64, unpaired: &str, lost: &str, high: u64, errors: u64) -> String {
        format!(
            "noise\n{{\"type\":\"summary\",\"transactions\":{transactions},\"open\":0,\"unpaired\":{unpaired},\"lost\":{lost},\
             \"lost_requests\":{{\"low\":0,\"high\":{high}}},\"operations\":[{{\"operation\":\"GET /x\",\"count\":{transactions},\"errors\":{errors}}}]}}\n"
        )
    }

    #[test]
    fn only_the_exact_counts_pass() {
        assert!(check_summary(&summary(3, "{}", "{}", 0, 1), &[SCENARIO]).is_ok());
        for wrong in [
            summary(2, "{}", "{}", 0, 1),
            summary(4, "{}", "{}", 0, 1),
            summary(3, "{\"mid_join\":1}", "{}", 0, 1),
            summary(3, "{}", "{\"ring_full\":1}", 0, 1),
            summary(3, "{}", "{}", 1, 1),
            summary(3, "{}", "{}", 0, 0),
            "nothing".to_owned(),
        ] {
            assert!(check_summary(&wrong, &[SCENARIO]).is_err(), "{wrong}");
        }
    }
}
