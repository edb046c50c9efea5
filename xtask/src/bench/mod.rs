//! `cargo xtask bench`: what tracing costs, measured against the same server untraced and against a tracer whose target is
//! another process (the floor), in turns, with the spread of untraced against untraced beside every figure.

mod accuracy;
mod anatomy;
mod apps;
mod captures;
mod figures;
mod https;
mod links;
mod parsers;
mod programs;
mod rows;
mod screen;
mod server;
mod tracer;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Stdio},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use self::{
    figures::{Row, table},
    server::{Load, Server},
    tracer::{Traced, Tracer},
};
use crate::{
    dist, setup,
    shell::{command, is_root, target_dir},
};

#[derive(Args, Debug)]
pub(crate) struct BenchArgs {
    /// Only these rows.
    part: Option<Part>,
    /// Pairs of traced and untraced runs per family of hooks.
    #[arg(long, default_value_t = 10)]
    pairs: usize,
    /// Length of a run.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Only this family of hooks.
    #[arg(long)]
    hooks: Option<String>,
    /// For the rows of the screen, the parsers, captures, HTTPS and the cost of an anatomy: take what was built before from this folder (`target/release`), and build nothing.
    #[arg(long)]
    built: Option<PathBuf>,
}

/// Rows that can be measured alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// What tracing costs.
    Tracing,
    /// What seeing inside TLS costs.
    Https,
    /// What the screen costs, and how soon it shows.
    Screen,
    /// How fast the parsers read.
    Parsers,
    /// How fast packet captures are read.
    Captures,
    /// How many links are found and right; a table of its own, and only when asked for.
    Links,
    /// Where the time of 10,000 requests went and what they were doing, against their server's clocks; a table of its own, and only when asked for.
    Anatomy,
    /// What knowing that costs; only when asked for.
    AnatomyCost,
    /// Real applications against their own logs: a table of its own, and only when asked for; installs them below `target/apps`.
    Apps,
}

/// What every row works with.
#[derive(Debug)]
pub(crate) struct Bench {
    /// The binary that is shipped.
    txray: PathBuf,
    /// The load generator.
    workload: PathBuf,
    /// Scratch folder.
    dir: PathBuf,
    n_pairs: usize,
    seconds: u64,
}

/// The interleaved runs of one family of hooks.
#[derive(Debug, Default)]
pub(crate) struct Rounds {
    hooks: String,
    /// Before and after the traced run of each round.
    untraced: Vec<[Load; 2]>,
    traced: Vec<TracedLoad>,
    /// A tracer whose target is another process.
    floor: Vec<Load>,
}

/// A traced run.
#[derive(Debug)]
pub(crate) struct TracedLoad {
    load: Load,
    tracer: Traced,
    /// Requests that nginx counted while the tracer was attached.
    n_true: u64,
}

pub(crate) fn run(args: &BenchArgs) -> Result<()> {
    if !is_root() {
        bail!("tracing needs root");
    }
    setup::run(&setup::SetupArgs { tests: true })?;
    let dir = target_dir().join("xtask/bench");
    fs::create_dir_all(&dir)?;
    if args.part == Some(Part::Links) {
        return links::print();
    }
    if args.part == Some(Part::Anatomy) {
        println!("{}", host()?);
        return anatomy::print();
    }
    if args.part == Some(Part::Apps) {
        return apps::print(args.built.as_deref());
    }
    let mut rows = Vec::new();
    if args.part.is_none_or(|part| part == Part::Parsers) {
        rows.extend(parsers::rows(args.built.as_deref())?);
    }
    if args.part.is_none_or(|part| part == Part::Captures) {
        rows.push(captures::row(args.built.as_deref())?);
    }
    if args.part.is_none_or(|part| part == Part::Tracing) {
        rows.extend(tracing(args, dir.clone())?);
    }
    let bench = || match &args.built {
        Some(built) => Ok(Bench::of(args, dir.clone(), built.join("txray"), built.join("workload"))),
        None => Bench::build(args, dir.clone()),
    };
    if args.part == Some(Part::AnatomyCost) {
        let bench = bench()?;
        rows.extend(anatomy::costs(&bench, args.built.as_deref())?);
        rows::clean(&bench)?;
    }
    if args.part.is_none_or(|part| part == Part::Https) {
        let bench = bench()?;
        rows.extend(https::rows(&bench, args.built.as_deref())?);
        rows::clean(&bench)?;
    }
    if args.part.is_none_or(|part| part == Part::Screen) {
        rows.extend(screen::rows(&dir, args.seconds, args.built.as_deref())?);
    }
    report(&rows)
}

/// The rows about tracing.
fn tracing(args: &BenchArgs, dir: PathBuf) -> Result<Vec<Row>> {
    let bench = Bench::build(args, dir)?;
    let mut rows = Vec::new();
    let families = match &args.hooks {
        Some(hooks) => vec![hooks.as_str()],
        None => vec!["socket", "syscall"],
    };
    let mut of_recording = Vec::new();
    for hooks in families {
        println!("bench: hooks {hooks}: {} rounds", bench.n_pairs);
        let rounds = bench.rounds(hooks)?;
        // Now: the recording that is there is the last traced run's, and the next tracer replaces it.
        of_recording = rows::sizes(&bench)?;
        of_recording.push(rows::replay(&bench)?);
        rows.push(rows::captured(&rounds));
        rows.push(rows::throughput(&rounds));
        rows.push(rows::floor(&rounds));
        rows.push(rows::untraced_spread(&rounds));
        rows.push(rows::server_cpu(&rounds));
        rows.push(rows::own_cpu(&rounds));
        rows.push(rows::peak_memory(&rounds));
        rows.extend(rows::half_load(&bench, &rounds)?);
        rows.extend(rows::kernel_cost(&bench, hooks)?);
        rows.push(rows::start(&bench, hooks)?);
        rows.push(accuracy::latency_error(&bench, hooks)?);
        rows.push(accuracy::memory(&bench, hooks)?);
    }
    rows.extend(of_recording);
    rows::clean(&bench)?;
    Ok(rows)
}

impl Bench {
    fn build(args: &BenchArgs, dir: PathBuf) -> Result<Bench> {
        Ok(Bench::of(args, dir, dist::dist()?, dist::build("workload", "workload")?))
    }

    fn of(args: &BenchArgs, dir: PathBuf, txray: PathBuf, workload: PathBuf) -> Bench {
        Bench { txray, workload, dir, n_pairs: args.pairs, seconds: args.seconds }
    }

    fn recording(&self) -> PathBuf {
        self.dir.join("recording")
    }

    fn server(&self) -> Result<Server> {
        Server::start(&self.dir)
    }

    fn tracer(&self, target: u32, hooks: &str) -> Result<Tracer> {
        Tracer::start(&self.txray, target, hooks, &self.recording(), &[])
    }

    /// Untraced, traced, untraced, floor; again and again, on one server.
    fn rounds(&self, hooks: &str) -> Result<Rounds> {
        let server = self.server()?;
        let other = Idle::start()?;
        let mut rounds = Rounds { hooks: hooks.to_owned(), ..Rounds::default() };
        // Warms up the caches and the clock of the CPU.
        server.saturate(1)?;
        for round in 1..=self.n_pairs {
            // The floor before the traced run, so that the recording that stays behind is of a traced one.
            let first = server.saturate(self.seconds)?;
            let tracer = self.tracer(other.pid(), hooks)?;
            let floor = server.saturate(self.seconds)?;
            tracer.stop()?;
            let second = server.saturate(self.seconds)?;
            let traced = self.traced(&server, hooks)?;
            println!(
                "bench: hooks {hooks}: round {round}: untraced {:.0} and {:.0}, floor {:.0}, traced {:.0} requests/s",
                first.per_second, second.per_second, floor.per_second, traced.load.per_second
            );
            rounds.untraced.push([first, second]);
            rounds.floor.push(floor);
            rounds.traced.push(traced);
        }
        Ok(rounds)
    }

    fn traced(&self, server: &Server, hooks: &str) -> Result<TracedLoad> {
        let tracer = self.tracer(server.pid(), hooks)?;
        // Its own question is in this count, and is traced as well.
        let before = server.n_requests()? - 1;
        let load = server.saturate(self.seconds)?;
        let n_true = server.n_requests()? - before;
        Ok(TracedLoad { load, tracer: tracer.stop()?, n_true })
    }
}

/// A process that does nothing, to be the target of a tracer that is to find nothing.
struct Idle(Child);

impl Idle {
    fn start() -> Result<Self> {
        let child = command("sleep", ["3600"]).stdin(Stdio::null()).spawn().context("starting sleep")?;
        Ok(Self(child))
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn report(rows: &[Row]) -> Result<()> {
    let host = host()?;
    println!("\n{host}\n\n{}", table(rows));
    let json = serde_json::json!({ "host": host, "rows": rows });
    let text = serde_json::to_string_pretty(&json)?;
    println!("{text}");
    let file = target_dir().join("xtask/bench.json");
    fs::write(&file, text)?;
    println!("bench: written to {}", file.display());
    Ok(())
}

/// CPU, cores, kernel and date, and who runs where.
fn host() -> Result<String> {
    let (server, client) = (server::SERVER_CPU, server::CLIENT_CPU);
    Ok(format!("{}; nginx on CPU {server}, client and txray on CPU {client}", host_line()?))
}

/// CPU, cores, kernel and date.
fn host_line() -> Result<String> {
    let cpus = fs::read_to_string("/proc/cpuinfo")?;
    let model =
        cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ").map(|(_, name)| name));
    let n_cpus = cpus.lines().filter(|line| line.starts_with("processor")).count();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let date = crate::shell::output(&mut command("date", ["-u", "+%Y-%m-%d"]))?;
    let model = model.unwrap_or("unknown CPU");
    Ok(format!("{model}, {n_cpus} CPUs, kernel {}, {}", kernel.trim(), date.trim()))
}

/// Whether a folder holds a recording.
pub(crate) fn is_recording(dir: &Path) -> bool {
    dir.join("events").is_dir()
}
