//! What the guest runs, and what its tracer must have seen: every request once, with nothing lost and nothing left over.

use anyhow::{Context as _, Result, ensure};
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

/// What the whole guest is traced under: both ends of each request are then seen.
const HOST: &[Scenario] = &[
    Scenario {
        name: "host-keep-alive",
        serve: "--mode threads",
        load: "--count 60 --connections 3 --get /user/{n}",
        operations: &[("GET /user/{id}", 60)],
        n_errors: 0,
    },
    Scenario {
        name: "host-posts",
        serve: "--mode fork-workers:2",
        load: "--count 40 --connections 2 --close --body 3000 --post /order",
        operations: &[("POST /order", 40)],
        n_errors: 0,
    },
];

/// What a locked-down kernel must still do, or refuse in clear words.
const LOCKED: &[Scenario] = &[Scenario {
    name: "locked-down",
    serve: "--mode threads",
    load: "--count 50 --connections 2 --get /user/{n}",
    operations: &[("GET /user/{id}", 50)],
    n_errors: 0,
}];

/// Whom a tracer is told to trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    /// The servers, by their pids.
    Servers,
    /// Nobody in particular, which is everybody: servers and clients.
    Host,
}

impl Scope {
    fn name(self) -> &'static str {
        match self {
            Self::Servers => "servers",
            Self::Host => "host",
        }
    }

    /// Transactions of each role (server, client) per request.
    fn roles(self) -> (u64, u64) {
        match self {
            Self::Servers => (1, 0),
            Self::Host => (1, 1),
        }
    }
}

/// One run of the tracer and the replay of what it recorded. All servers of a run share the tracer: emulated, its start is
/// what costs most. The queue behind its ring reader is long: a host with other work may stop the emulator for a while.
#[derive(Clone, Copy, Debug)]
struct Run {
    name: &'static str,
    scope: Scope,
    flags: &'static str,
    scenarios: &'static [Scenario],
}

const SOCKET: Run = Run {
    name: "socket",
    scope: Scope::Servers,
    flags: "--hooks socket --queue-batches 8192",
    scenarios: SCENARIOS,
};
const SYSCALL: Run = Run {
    name: "syscall",
    scope: Scope::Servers,
    flags: "--hooks syscall --queue-batches 8192",
    scenarios: SCENARIOS,
};
/// As somebody types it who wants to see everything.
const WHOLE_HOST: Run = Run { name: "host", scope: Scope::Host, flags: "", scenarios: HOST };
const LOCKED_DOWN: Run = Run { name: "locked", scope: Scope::Servers, flags: "", scenarios: LOCKED };

/// First kernel with the socket tracepoints.
const SOCKET_HOOKS: &str = "6.3";

/// Whether a kernel has both families of hooks, or system calls alone.
pub(super) fn has_socket_hooks(kernel: &Kernel) -> bool {
    kernel.is_at_least(SOCKET_HOOKS)
}

fn runs(kernel: &Kernel) -> &'static [Run] {
    if has_socket_hooks(kernel) { &[SOCKET, SYSCALL, WHOLE_HOST] } else { &[SYSCALL, WHOLE_HOST] }
}

/// The guest's steps for a kernel, as a shell script behind `init.sh`.
pub(super) fn script(kernel: &Kernel) -> String {
    let mut script = String::from("step doctor /txray doctor --quick\n");
    for run in runs(kernel) {
        script.push_str(&run.script());
    }
    script
}

impl Run {
    fn script(&self) -> String {
        let Self { name, scope, flags, scenarios } = self;
        let mut plan = String::new();
        for (at, Scenario { name, serve, load, .. }) in scenarios.iter().enumerate() {
            let port = 8000 + at;
            plan.push_str(&format!("serve {port} {serve} # {name}\nload {port} {load}\n"));
        }
        format!(
            "cat >/tmp/plan <<'PLAN'\n{plan}PLAN\nstep {name} trace {} {flags}\nstep {name}/replay replay\n",
            scope.name()
        )
    }

    /// Checks what the run and its replay printed. That they printed the same lines is the replay's exit code.
    fn check(&self, console: &Console, note: &mut dyn FnMut(&str, Result<String>)) {
        let n_missed = console.step(self.name).map_or(0, |step| missed(&step.output));
        note(self.name, self.check_step(console, self.name, n_missed));
        let replay = format!("{}/replay", self.name);
        note(&replay, self.check_step(console, &replay, n_missed));
    }

    fn check_step(&self, console: &Console, name: &str, n_missed: u64) -> Result<String> {
        let step = console.step(name)?;
        ensure!(step.code == 0, "exit code {}:\n{}", step.code, tail(&step.output, 25));
        self.check_output(&step.output, n_missed).with_context(|| tail(&step.output, 25))
    }
}

/// Calls for which the kernel ran no probe, as `init.sh` prints them.
pub(super) fn missed(output: &str) -> u64 {
    output.lines().find_map(|line| line.strip_prefix("misses: ")?.trim().parse().ok()).unwrap_or(0)
}

/// The guest's steps under `lockdown=confidentiality`.
pub(super) fn script_locked() -> String {
    format!("step doctor /txray doctor --quick\n{}", LOCKED_DOWN.script())
}

/// Under lockdown tracing is exact, or it is refused with a reason that `doctor` gives as well.
pub(super) fn check_locked(console: &Console, note: &mut dyn FnMut(&str, Result<String>)) {
    let doctor = match console.step("doctor") {
        Ok(doctor) => doctor,
        Err(error) => return note("doctor", Err(error)),
    };
    let can_trace = doctor.code == 0;
    note("doctor", names_lockdown(&doctor.output, can_trace));
    if can_trace {
        return LOCKED_DOWN.check(console, note);
    }
    note(
        LOCKED_DOWN.name,
        console.step(LOCKED_DOWN.name).and_then(|step| {
            let is_clear =
                step.code != 0 && step.output.contains("lockdown") && step.output.contains("hint:");
            ensure!(is_clear, "it did not say that lockdown is the reason:\n{}", tail(&step.output, 20));
            Ok("refused, and says that lockdown is the reason".to_owned())
        }),
    );
}

fn names_lockdown(doctor: &str, can_trace: bool) -> Result<String> {
    ensure!(doctor.contains("confidentiality"), "it does not name the lockdown:\n{}", tail(doctor, 40));
    Ok(format!("names the lockdown, and that it can{} trace", if can_trace { "" } else { "not" }))
}

/// The part of a summary that is checked.
#[derive(Debug, Deserialize)]
pub(super) struct Summary {
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

impl Summary {
    /// The last one that is printed there.
    pub(super) fn of(output: &str) -> Result<Summary> {
        let line = output
            .lines()
            .rev()
            .find(|line| line.starts_with('{') && line.contains("\"summary\""))
            .context("it printed no summary")?;
        serde_json::from_str(line).context("its summary is not what it should be")
    }

    /// Transactions of an operation, and how many of them are errors.
    pub(super) fn n_of(&self, name: &str) -> (u64, u64) {
        let rows = self.operations.iter().filter(|row| row.operation == name);
        rows.fold((0, 0), |(n, errors), row| (n + row.count, errors + row.errors))
    }

    /// Requests that may be lost, whose answers were not seen, or of which the answer alone was.
    pub(super) fn most_unknown(&self) -> u64 {
        self.open + self.lost_requests.high + sum(&self.unpaired)
    }

    /// Nothing is lost, left over or left open.
    pub(super) fn lost_nothing(&self) -> Result<()> {
        ensure!(self.open == 0, "{} left open", self.open);
        ensure!(sum(&self.unpaired) == 0, "unpaired: {}", self.unpaired);
        ensure!(sum(&self.lost) == 0, "lost: {}", self.lost);
        let Interval { low, high } = self.lost_requests;
        ensure!(high == 0, "lost requests: {low} to {high}");
        Ok(())
    }
}

/// Checks every step of [`script`].
pub(super) fn check(kernel: &Kernel, console: &Console, note: &mut dyn FnMut(&str, Result<String>)) {
    note(
        "doctor",
        console.step("doctor").and_then(|step| {
            // It ends with 0 where tracing works.
            ensure!(step.code == 0, "exit code {}:\n{}", step.code, tail(&step.output, 40));
            Ok("it can trace".to_owned())
        }),
    );
    for run in runs(kernel) {
        run.check(console, note);
        let whole = format!("{}/features", run.name);
        let step = console.step(run.name);
        note(&whole, step.and_then(|step| nothing_is_missing(&step.output, has_socket_hooks(kernel))));
    }
}

/// Whether the run did without something that this kernel can do: it says so at its start, and goes on.
fn nothing_is_missing(output: &str, has_socket_hooks: bool) -> Result<String> {
    // Its tracepoint came with the others.
    let is_expected = |line: &&str| !has_socket_hooks && line.starts_with("txray: without queue time ");
    let missing: Vec<&str> = output.lines().filter(|line| line.starts_with("txray: without ")).collect();
    let unexpected: Vec<&&str> = missing.iter().filter(|line| !is_expected(line)).collect();
    ensure!(unexpected.is_empty(), "it did {unexpected:?}");
    Ok(format!("{} expected limits", missing.len()))
}

impl Run {
    /// Holds the summary against the scenarios; returns what was counted.
    ///
    /// The counts are exact, unless the kernel itself left out probes: since tracepoints are preemptible (seen on 7.3, not up to
    /// 6.18), a call that meets its own probe preempted on the same processor runs none (`recursion_misses`). What is missing
    /// must then be within what the tracer knows to be lost. A request whose answer was not seen is not missing: it is told, as one that
    /// was in flight at the end.
    fn check_output(&self, output: &str, n_missed: u64) -> Result<String> {
        let summary = Summary::of(output)?;
        let requests: u64 =
            self.scenarios.iter().flat_map(|scenario| scenario.operations).map(|(_, n)| n).sum();
        let (servers, clients) = self.scope.roles();
        let ends = servers + clients;
        let mut counts = Vec::new();
        for scenario in self.scenarios {
            for (name, expected) in scenario.operations {
                let (counted, _) = summary.n_of(name);
                let expected = ends * expected;
                let fits = if n_missed == 0 { counted == expected } else { counted <= expected };
                ensure!(fits, "{}: {counted} of `{name}`, not {expected}", scenario.name);
                counts.push(format!("{name} {counted}"));
            }
        }
        let counts = counts.join(", ");
        let expected = ends * requests;
        let n = summary.transactions;
        let Interval { low, high } = summary.lost_requests;
        if n_missed != 0 {
            let told = n + summary.open;
            let n_lost = expected
                .checked_sub(told)
                .with_context(|| format!("{n} transactions and {} left open of {expected}", summary.open))?;
            ensure!(n_lost <= high, "{n_lost} are missing, {low} to {high} known to be lost");
            return Ok(format!(
                "{n} of {expected}, {} left open, {low} to {high} known to be lost (the kernel ran no probe for {n_missed} calls): {counts}",
                summary.open
            ));
        }
        ensure!(n == expected, "{n} transactions, not {expected}");
        summary.lost_nothing()?;
        let roles = format!("roles: server={} client={}", servers * requests, clients * requests);
        ensure!(output.lines().any(|line| line == roles), "no line `{roles}`");
        let errors: u64 = summary.operations.iter().map(|operation| operation.errors).sum();
        let expected: u64 = self.scenarios.iter().map(|scenario| scenario.n_errors).sum();
        ensure!(errors == expected, "{errors} errors, not {expected}");
        Ok(counts)
    }
}

/// Sum of an object's numbers.
fn sum(object: &serde_json::Value) -> u64 {
    object.as_object().map_or(0, |object| object.values().filter_map(serde_json::Value::as_u64).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCENARIOS: &[Scenario] =
        &[Scenario { name: "x", serve: "", load: "", operations: &[("GET /x", 3)], n_errors: 1 }];

    fn run(scope: Scope) -> Run {
        Run { name: "x", scope, flags: "", scenarios: SCENARIOS }
    }

    fn printed(
        transactions: u64,
        unpaired: &str,
        lost: &str,
        high: u64,
        errors: u64,
        clients: u64,
    ) -> String {
        format!(
            "noise\nroles: server={} client={clients}\n{{\"type\":\"summary\",\"transactions\":{transactions},\"open\":0,\
             \"unpaired\":{unpaired},\"lost\":{lost},\"lost_requests\":{{\"low\":0,\"high\":{high}}},\"operations\":\
             [{{\"operation\":\"GET /x\",\"count\":{transactions},\"errors\":{errors}}}]}}\n",
            transactions - clients
        )
    }

    #[test]
    fn only_the_exact_counts_pass() {
        let run = run(Scope::Servers);
        assert_eq!(run.check_output(&printed(3, "{}", "{}", 0, 1, 0), 0).unwrap(), "GET /x 3");
        for wrong in [
            printed(2, "{}", "{}", 0, 1, 0),
            printed(4, "{}", "{}", 0, 1, 0),
            printed(3, "{\"mid_join\":1}", "{}", 0, 1, 0),
            printed(3, "{}", "{\"ring_full\":1}", 0, 1, 0),
            printed(3, "{}", "{}", 1, 1, 0),
            printed(3, "{}", "{}", 0, 0, 0),
            printed(3, "{}", "{}", 0, 1, 3),
            "nothing".to_owned(),
        ] {
            assert!(run.check_output(&wrong, 0).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_a_kernel_can_do_must_be_done() {
        let printed = |what: &str| format!("txray: tracing pid 1\ntxray: without {what}: refused\n");
        assert!(nothing_is_missing("txray: tracing pid 1\n", true).is_ok());
        let queue = printed("queue time (arrival of requests; kernel 6.3 and later)");
        assert!(nothing_is_missing(&queue, false).is_ok());
        assert!(nothing_is_missing(&queue, true).is_err());
        assert!(nothing_is_missing(&printed("datagrams (DNS over UDP)"), false).is_err());
    }

    #[test]
    fn the_whole_host_is_both_ends() {
        let run = run(Scope::Host);
        assert!(run.check_output(&printed(6, "{}", "{}", 0, 1, 3), 0).is_ok());
        assert!(run.check_output(&printed(6, "{}", "{}", 0, 1, 0), 0).is_err(), "six of one role");
        assert!(run.check_output(&printed(3, "{}", "{}", 0, 1, 0), 0).is_err(), "one end only");
    }

    #[test]
    fn what_the_kernel_left_out_must_be_known_to_be_lost() {
        assert_eq!((missed("a\nmisses: 7\nb"), missed("a")), (7, 0));
        let run = run(Scope::Servers);
        assert!(run.check_output(&printed(2, "{}", "{}", 1, 1, 0), 7).is_ok());
        assert!(
            run.check_output(&printed(2, "{}", "{}", 0, 1, 0), 7).is_err(),
            "one is missing, none is lost"
        );
        assert!(run.check_output(&printed(4, "{}", "{}", 9, 1, 0), 7).is_err(), "one was invented");
    }
}
