//! Where the time of requests went and what they were doing: how right that is, and what it costs.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;

use super::{
    Bench,
    figures::{Row, median, ratios, spread},
    server::{CLIENT_CPU, SERVER_CPU},
    tracer::Tracer,
};
use crate::shell::{cargo, command, output, run, target_dir, workspace_root};

/// The family of hooks; with the other one only what is not about threads differs.
const HOOKS: &str = "socket";
/// What is traced beside the requests themselves.
const MODES: [(&str, &[&str]); 2] =
    [("spine alone", &["--anatomy", "off", "--stacks", "off"]), ("everything on", &["--stacks", "all"])];
/// How often a token is handed over and back for one request: some 5 ms.
const HANDOVERS: u64 = 200;
/// Threads that serve a request each, at the same time.
const N_THREADS: usize = 10_000;

/// The live test prints the table itself.
pub(super) fn print() -> Result<()> {
    let test = ["test", "--locked", "--package", "tracer-user", "--test", "integration", "--"];
    // With the other family only the bytes come from elsewhere: one is 10,000 requests.
    let wanted = ["server_say::hooks_1_Hooks__Socket", "--test-threads", "1", "--nocapture"];
    run(cargo(test).args(wanted).env("TXRAY_TEST_REQUESTS", "10000"))
}

/// What it costs: switches of threads, a saturated server, memory, and stacks.
pub(super) fn costs(bench: &Bench, built: Option<&Path>) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for kind in ["futex", "pipe"] {
        rows.extend(served_switches(bench, kind)?);
        rows.extend(unserved_switches(bench, kind)?);
    }
    rows.extend(saturated(bench)?);
    for (mode, flags) in MODES {
        rows.extend(memory(bench, mode, flags)?);
    }
    rows.extend(stacks(built)?);
    Ok(rows)
}

/// Untraced, spine, untraced, everything, as often as there are pairs: the rates of each.
struct Rates {
    untraced: [Vec<f64>; 2],
    traced: [Vec<f64>; 2],
}

impl Rates {
    fn of(bench: &Bench, pid: u32, what: &str, mut rate: impl FnMut() -> Result<f64>) -> Result<Rates> {
        let mut rates = Rates { untraced: Default::default(), traced: Default::default() };
        rate()?;
        for round in 1..=bench.n_pairs {
            for (at, (_, flags)) in MODES.iter().enumerate() {
                rates.untraced[at].push(rate()?);
                let tracer = Tracer::start(&bench.txray, pid, HOOKS, &bench.recording(), flags)?;
                rates.traced[at].push(rate()?);
                tracer.stop()?;
            }
            let last =
                |of: &[Vec<f64>; 2]| of.iter().filter_map(|one| one.last().copied()).collect::<Vec<_>>();
            println!(
                "bench: {what}: round {round}: untraced {:.0?}, spine and everything {:.0?}",
                last(&rates.untraced),
                last(&rates.traced)
            );
        }
        Ok(rates)
    }

    fn rows(&self, what: &str, unit: &str, goal: [&'static str; 2]) -> Vec<Row> {
        let around: Vec<f64> = std::iter::zip(&self.untraced[0], &self.untraced[1])
            .map(|(first, second)| f64::midpoint(*first, *second))
            .collect();
        let row = |what: String, goal: &'static str, shares: &[f64], of: &[f64]| Row {
            what,
            hooks: Some(HOOKS.to_owned()),
            value: median(shares),
            unit: "",
            goal,
            met: None,
            note: format!("{}; median {:.0} {unit}", spread(shares), median(of)),
        };
        let mut rows: Vec<Row> = std::iter::zip(MODES, goal)
            .zip(&self.traced)
            .map(|(((mode, _), goal), traced)| {
                row(format!("{what}, {mode} / untraced"), goal, &ratios(traced, &around), traced)
            })
            .collect();
        let more = ratios(&self.traced[1], &self.traced[0]);
        rows.push(row(format!("{what}, everything on / spine alone"), "–", &more, &self.traced[1]));
        let noise = ratios(&self.untraced[1], &self.untraced[0]);
        rows.push(row(format!("{what}, untraced / untraced"), "–", &noise, &around));
        rows
    }
}

/// The program whose threads hand a token to each other, on the server's CPU, ended when dropped.
struct Switching {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Drop for Switching {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Switching {
    fn start(dir: &Path, mode: &str) -> Result<Switching> {
        let program = dir.join("switches");
        let source = workspace_root().join("fixtures/servers/switches.c");
        run(command("gcc", ["-O2", "-pthread", "-o"]).arg(&program).arg(source))?;
        // Before all others on its CPU: what is measured is the switch, and not who else is there.
        let mut command = command("chrt", ["--fifo", "1", "taskset", "-c", SERVER_CPU]);
        command.arg(program).arg(mode).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("starting switches")?;
        let to = child.stdin.take().context("its input")?;
        let from = BufReader::new(child.stdout.take().context("its output")?);
        Ok(Switching { child, to, from })
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.from.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }

    fn port(&mut self) -> Result<u16> {
        let line = self.line()?;
        Ok(line.strip_prefix("port ").with_context(|| format!("it said {line:?}"))?.parse()?)
    }

    /// How often a second the token goes there and back.
    fn rate(&mut self, seconds: u64) -> Result<f64> {
        writeln!(self.to, "{}", 1000 * seconds)?;
        let line = self.line()?;
        let (n, ns) = line.split_once(' ').context("the program ended")?;
        Ok(n.parse::<f64>()? / (ns.parse::<f64>()? / 1e9))
    }
}

/// Each switch is of a thread that serves, or of its partner.
fn served_switches(bench: &Bench, kind: &str) -> Result<Vec<Row>> {
    let mut server = Switching::start(&bench.dir, "serve")?;
    let (port, pid) = (server.port()?, server.pid());
    let request = format!("GET /{kind}/{HANDOVERS} HTTP/1.1\r\nHost: bench\r\n\r\n");
    let rates = Rates::of(bench, pid, &format!("{kind}, serving"), || {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        let (began, mut n) = (Instant::now(), 0);
        let mut answer = [0; 256];
        while began.elapsed() < Duration::from_secs(bench.seconds) {
            stream.write_all(request.as_bytes())?;
            ensure!(stream.read(&mut answer)? > 0, "the server ended");
            n += 1;
        }
        // There and back is two switches.
        Ok((2 * HANDOVERS * n) as f64 / began.elapsed().as_secs_f64())
    })?;
    let what = format!("switches between a thread that serves and its partner ({kind})");
    Ok(rates.rows(&what, "switches/s", ["–", "–"]))
}

/// The process is traced, and serves nothing.
fn unserved_switches(bench: &Bench, kind: &str) -> Result<Vec<Row>> {
    let mut program = Switching::start(&bench.dir, kind)?;
    let pid = program.pid();
    let rates =
        Rates::of(
            bench,
            pid,
            &format!("{kind}, serving nothing"),
            || Ok(2.0 * program.rate(bench.seconds)?),
        )?;
    let what = format!("switches of a traced process that serves nothing ({kind})");
    Ok(rates.rows(&what, "switches/s", ["–", "near 1"]))
}

/// As many requests as nginx can serve.
fn saturated(bench: &Bench) -> Result<Vec<Row>> {
    let server = bench.server()?;
    let rates = Rates::of(bench, server.pid(), "nginx", || Ok(server.saturate(bench.seconds)?.per_second))?;
    Ok(rates.rows("saturated nginx", "requests/s", ["–", "–"]))
}

/// Resident memory and maps of the kernel, with that many threads that serve.
fn memory(bench: &Bench, mode: &str, flags: &[&str]) -> Result<Vec<Row>> {
    allow_files(N_THREADS as u64 + 1000)?;
    let mut server = Switching::start(&bench.dir, "wait")?;
    let port = server.port()?;
    let tracer = Tracer::start(&bench.txray, server.pid(), HOOKS, &bench.recording(), flags)?;
    let resident = |pid: u32| status_bytes(pid, "VmRSS:");
    let before = resident(tracer.pid())?;
    let mut streams = Vec::with_capacity(N_THREADS);
    for n in 0..N_THREADS {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        // In one piece: the server reads once.
        stream.write_all(format!("GET /wait/{n} HTTP/1.1\r\nHost: bench\r\n\r\n").as_bytes())?;
        streams.push(stream);
    }
    thread::sleep(Duration::from_secs(3));
    let (after, maps) = (resident(tracer.pid())?, map_bytes(tracer.pid())?);
    let traced = tracer.stop()?;
    drop(streams);
    let open = traced.summary.open;
    ensure!(open == N_THREADS as u64, "{open} of {N_THREADS} requests are open by its own count");
    let row = |what: &str, bytes: u64, note: String| Row {
        what: format!("{what}, {N_THREADS} threads that serve a request each, {mode}"),
        hooks: Some(HOOKS.to_owned()),
        value: bytes as f64 / 1e6,
        unit: "MB",
        goal: "–",
        met: None,
        note,
    };
    let all: u64 = maps.values().sum();
    let mut largest: Vec<_> = maps.iter().collect();
    largest.sort_by_key(|(_, bytes)| std::cmp::Reverse(**bytes));
    let largest: Vec<String> =
        largest.iter().take(4).map(|(name, bytes)| format!("{name} {:.1}", **bytes as f64 / 1e6)).collect();
    Ok(vec![
        row(
            "txray's resident memory",
            after,
            format!("{:.1} MB before them; {open} open, by its own count", before as f64 / 1e6),
        ),
        row("the kernel's maps", all, largest.join(", ")),
    ])
}

/// Resolving in user space.
fn stacks(built: Option<&Path>) -> Result<Vec<Row>> {
    /// A line of the example `stack_cost`.
    #[derive(Deserialize)]
    struct Cost {
        frames: usize,
        ns: f64,
        p99_ns: f64,
        optimised: bool,
    }
    let program = match built {
        Some(built) => built.join("examples/stack_cost"),
        None => {
            let package = ["build", "--locked", "--release", "--package", "tracer-user"];
            run(cargo(package).args(["--example", "stack_cost"]))?;
            target_dir().join("release/examples/stack_cost")
        }
    };
    let text = output(Command::new("taskset").args(["-c", CLIENT_CPU]).arg(program))?;
    let row = |line: &str| -> Result<Row> {
        let cost: Cost = serde_json::from_str(line).context("stack_cost printed something else")?;
        let build = if cost.optimised { "" } else { "; built without optimisation" };
        Ok(Row {
            what: format!("a stack of {} frames, callers and names, code known", cost.frames),
            hooks: None,
            value: cost.ns,
            unit: "ns",
            goal: "–",
            met: None,
            note: format!("p99 {:.0} ns; {:.0} ns a frame{build}", cost.p99_ns, cost.ns / cost.frames as f64),
        })
    };
    text.lines().map(row).collect()
}

fn status_bytes(pid: u32, name: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib =
        status.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB")?.parse().ok());
    kib.map(|kib: u64| kib * 1024).with_context(|| format!("no {name} in its status"))
}

/// By type and number of entries: what the kernel counts for the maps that a process holds.
fn map_bytes(pid: u32) -> Result<BTreeMap<String, u64>> {
    let (mut seen, mut maps) = (Vec::new(), BTreeMap::<String, u64>::new());
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        let path: PathBuf = entry?.path();
        let Ok(text) = fs::read_to_string(path) else { continue };
        let field = |name: &str| -> Option<u64> {
            text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
        };
        let (Some(id), Some(bytes)) = (field("map_id:"), field("memlock:")) else { continue };
        if seen.contains(&id) {
            continue;
        }
        seen.push(id);
        // As bpf(2) numbers them (linux/bpf.h).
        let kind = match field("map_type:") {
            Some(1) => "hash",
            Some(2) => "array",
            Some(6) => "per-CPU array",
            Some(9) => "LRU hash",
            Some(27) => "ring",
            _ => "other",
        };
        let (size, n) = (field("value_size:").unwrap_or(0), field("max_entries:").unwrap_or(0));
        *maps.entry(format!("{kind} {n} × {size}")).or_default() += bytes;
    }
    if maps.is_empty() {
        bail!("txray holds no map");
    }
    Ok(maps)
}

/// Lets this process hold so many files.
fn allow_files(n: u64) -> Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: fills the struct.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
    limit.rlim_cur = limit.rlim_cur.max(n);
    limit.rlim_max = limit.rlim_max.max(n);
    // SAFETY: reads it.
    let set = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
    ensure!(set == 0, "so many files are not allowed: {}", std::io::Error::last_os_error());
    Ok(())
}
