//! `cargo xtask test`: set-up, then every test, in layers. Each layer says how many tests ran; the totals come last.
//!
//! * unit: everything that needs neither root nor a kernel, documentation examples included;
//! * live: real programs traced on this host (`live::…` in `tests/`), one at a time, as they share the machine;
//! * vm: the shipped file on other kernels (`cargo xtask vm`).

use std::{
    collections::VecDeque,
    env, fs,
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};

use crate::{
    setup,
    shell::{cargo, output, show, target_dir},
    vm,
};

#[derive(Args, Debug, Default)]
pub(crate) struct TestArgs {
    /// Only these layers (repeatable); all by default.
    #[arg(long, value_enum)]
    layer: Vec<Layer>,
    /// What must hold before a change lands, in the time that this may take: the same cases of the properties each time, in the live layer one family of hooks where a test is about what is said
    /// and not about how it is read, in the VM layer the oldest kernels, and the programs of the tests in place of the shipped file.
    #[arg(long)]
    quick: bool,
    /// Only tests whose name contains this.
    filter: Option<String>,
}

/// What proptest takes its cases from. Whether a change lands must not hang on which cases were drawn: `--quick` draws the same each time, other runs
/// (`PROPTEST_CASES` asks for more) and the fuzzer look for new ones.
const SEED: &str = "PROPTEST_RNG_SEED";

/// Where one family of hooks is enough for `--quick`: what both families read is the same from the connection's bytes on, which is what the other modules
/// hold them to.
const ONE_FAMILY: &[&str] = &[
    "live::grpc::",
    "live::h2c::",
    "live::http2::",
    "live::http2_ends::",
    "live::links::",
    "live::mysql::",
    "live::postgres::",
    "live::redis::",
    "live::websocket::",
];

/// Whether `--quick` leaves a test out.
fn is_left_out(name: &str) -> bool {
    ONE_FAMILY.iter().any(|module| name.starts_with(module)) && name.contains("hooks_2_")
}

/// A layer of tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Layer {
    /// Needs nothing.
    Unit,
    /// Needs root and this host's kernel.
    Live,
    /// Needs qemu and Debian's archive.
    Vm,
}

impl Layer {
    fn name(self) -> &'static str {
        match self {
            Self::Unit => "unit",
            Self::Live => "live",
            Self::Vm => "vm",
        }
    }
}

/// How many tests ran, by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    /// No test may be ignored, so one that is counts as a failure of the layer.
    pub(crate) ignored: u64,
}

impl Counts {
    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
    }

    /// An error if anything failed.
    pub(crate) fn must_pass(self) -> Result<()> {
        let Self { passed, failed, ignored } = self;
        println!("{passed} passed, {failed} failed");
        if failed > 0 || ignored > 0 {
            bail!("{failed} failed, {ignored} ignored");
        }
        Ok(())
    }

    /// Reads one line of the test harness (`test result: ok. 3 passed; 0 failed; 0 ignored; …`).
    fn parse(line: &str) -> Option<Self> {
        let line = line.trim().strip_prefix("test result: ")?;
        let number = |word: &str| {
            line.split(['.', ';'])
                .find_map(|part| part.trim().strip_suffix(word).and_then(|n| n.trim().parse().ok()))
        };
        Some(Self { passed: number("passed")?, failed: number("failed")?, ignored: number("ignored")? })
    }
}

/// What the harness prints of the tests that failed, from its output line by line: their own output, then the list of names.
#[derive(Debug, Default)]
struct Failures {
    text: String,
    is_within: bool,
    /// Lines of the test being told of.
    n_lines: usize,
    /// The latest of them behind the first ones.
    last: VecDeque<String>,
}

impl Failures {
    /// The first lines kept of one test, with its place, and the last, with the two values: a golden screen that differs is longer.
    const FIRST: usize = 40;
    const LAST: usize = 30;

    fn line(&mut self, line: &str) {
        if line.starts_with("test result: ") {
            self.end_test();
            self.is_within = false;
        } else if line == "failures:" {
            self.end_test();
            self.is_within = true;
        } else if self.is_within {
            if line.starts_with("---- ") {
                self.end_test();
            }
            self.n_lines += 1;
            if self.n_lines <= Self::FIRST {
                self.text.push_str(line);
                self.text.push('\n');
                return;
            }
            if self.last.len() == Self::LAST {
                self.last.pop_front();
            }
            self.last.push_back(line.to_owned());
        }
    }

    fn end_test(&mut self) {
        let left_out = self.n_lines.saturating_sub(Self::FIRST + self.last.len());
        if left_out > 0 {
            self.text.push_str(&format!("({left_out} lines left out)\n"));
        }
        for line in self.last.drain(..) {
            self.text.push_str(&line);
            self.text.push('\n');
        }
        self.n_lines = 0;
    }
}

/// How long each test took, where one runs after the other: the time between their lines.
#[derive(Debug)]
struct Times {
    since: Instant,
    took: Vec<(Duration, String)>,
}

impl Times {
    /// Tests named at the end of a layer.
    const SLOWEST: usize = 25;

    fn new() -> Self {
        Self { since: Instant::now(), took: Vec::new() }
    }

    fn line(&mut self, line: &str) {
        if line.starts_with("running ") {
            self.since = Instant::now();
        } else if let Some(name) = line.strip_prefix("test ").filter(|line| !line.starts_with("result: ")) {
            let name = name.split(" ... ").next().unwrap_or(name);
            self.took.push((self.since.elapsed(), name.to_owned()));
            self.since = Instant::now();
        }
    }

    fn show(mut self) {
        self.took.sort_by_key(|(took, _)| std::cmp::Reverse(*took));
        for (took, name) in self.took.iter().take(Self::SLOWEST) {
            println!("test: {:>7.1} s {name}", took.as_secs_f64());
        }
    }
}

/// Runs the layers asked for.
pub(crate) fn run(args: &TestArgs) -> Result<()> {
    setup::run(&setup::SetupArgs { tests: true })?;
    let all = [Layer::Unit, Layer::Live, Layer::Vm];
    let layers = if args.layer.is_empty() { &all[..] } else { &args.layer };
    let mut total = Counts::default();
    let mut red = Vec::new();
    let mut failures = Failures::default();
    for &layer in layers {
        println!("test: layer {}", layer.name());
        let began = Instant::now();
        // A layer that cannot run is a failure, and no reason to leave out the others.
        let (counts, ok) = run_layer(layer, args, &mut failures).unwrap_or_else(|error| {
            let told = format!("test: layer {}: {error:#}\n", layer.name());
            eprint!("{told}");
            failures.text.push_str(&told);
            (Counts { failed: 1, ..Counts::default() }, false)
        });
        let Counts { passed, failed, .. } = counts;
        println!(
            "test: layer {}: {passed} passed, {failed} failed in {} s",
            layer.name(),
            began.elapsed().as_secs()
        );
        if !ok || counts.failed > 0 {
            red.push(layer.name());
        }
        if counts.ignored > 0 {
            println!("test: layer {}: {} ignored: no test may be", layer.name(), counts.ignored);
            red.push(layer.name());
        }
        total.add(counts);
    }
    println!("test: {} passed, {} failed", total.passed, total.failed);
    record(total, &failures.text)?;
    red.dedup();
    if !red.is_empty() {
        bail!("tests failed in: {}", red.join(", "));
    }
    Ok(())
}

fn run_layer(layer: Layer, args: &TestArgs, failures: &mut Failures) -> Result<(Counts, bool)> {
    let mut command = match layer {
        Layer::Vm => {
            let (counts, faults) = vm::run(&vm::VmArgs::all(args.quick))?;
            failures.text.extend(faults.iter().map(|fault| format!("vm: {fault}\n")));
            return Ok((counts, true));
        }
        Layer::Unit => {
            let mut unit = cargo(["test", "--locked", "--workspace", "--no-fail-fast", "--"]);
            unit.args(["--skip", "live::"]).args(args.filter.as_deref());
            if args.quick && env::var_os(SEED).is_none() {
                unit.env(SEED, "1");
            }
            unit
        }
        Layer::Live => live(args)?,
    };
    let mut times = Times::new();
    let counted = count(&mut command, failures, &mut times)?;
    if matches!(layer, Layer::Live) {
        times.show();
    }
    Ok(counted)
}

/// The live layer's tests, one after the other.
fn live(args: &TestArgs) -> Result<Command> {
    let harness = || cargo(["test", "--locked", "--package", "tracer-user", "--test", "integration", "--"]);
    let mut live = harness();
    live.arg("--test-threads=1");
    if !args.quick {
        live.arg("live::").args(args.filter.as_deref());
        return Ok(live);
    }
    let list = output(harness().args(["live::", "--list", "--format", "terse"]))?;
    let filter = args.filter.as_deref().unwrap_or_default();
    let names =
        list.lines().filter_map(|line| line.strip_suffix(": test")).filter(|name| name.contains(filter));
    let (left_out, names): (Vec<&str>, Vec<&str>) = names.partition(|name| is_left_out(name));
    println!("test: --quick leaves out {} tests of the second family of hooks", left_out.len());
    if names.is_empty() {
        // Without a name the harness would run all there are.
        bail!("no test of the live layer has {filter:?} in its name");
    }
    live.arg("--exact").args(names);
    Ok(live)
}

/// Runs a test command, shows what it prints, and sums its results.
fn count(command: &mut Command, failures: &mut Failures, times: &mut Times) -> Result<(Counts, bool)> {
    println!("   $ {}", shortened(&show(command)));
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let stdout = child.stdout.take().context("the child's output")?;
    let mut counts = Counts::default();
    for line in BufReader::new(stdout).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        counts.add(Counts::parse(&line).unwrap_or_default());
        failures.line(&line);
        times.line(&line);
    }
    Ok((counts, child.wait()?.success()))
}

/// A command with hundreds of names, up to where it is read.
fn shortened(command: &str) -> String {
    const LONGEST: usize = 300;
    match command.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{} …", &command[..end]),
        None => command.to_owned(),
    }
}

/// Leaves the totals, and what failed, where `.ci/run` finds them.
fn record(total: Counts, failures: &str) -> Result<()> {
    let dir = target_dir().join("xtask");
    fs::create_dir_all(&dir)?;
    fs::write(dir.join("test-failures"), failures)?;
    fs::write(dir.join("test-counts"), format!("{} {}\n", total.passed, total.failed + total.ignored))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_harness_lines_are_summed() {
        let line = "test result: FAILED. 41 passed; 2 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.1s";
        assert_eq!(Counts::parse(line), Some(Counts { passed: 41, failed: 2, ignored: 1 }));
        assert_eq!(Counts::parse("test cli::help ... ok"), None);
        assert_eq!(Counts::parse("running 3 tests"), None);
    }

    #[test]
    fn quick_leaves_out_the_second_family_of_hooks_where_one_is_enough() {
        assert!(is_left_out("live::redis::a_server::hooks_2_Hooks__Syscall"));
        assert!(is_left_out("live::links::sure::hooks_2_Hooks__Syscall::case_1"));
        assert!(!is_left_out("live::redis::a_server::hooks_1_Hooks__Socket"));
        assert!(!is_left_out("live::http1::unix_stream::hooks_2_Hooks__Syscall"));
    }

    #[test]
    fn what_failed_is_kept_for_the_end() {
        let mut failures = Failures::default();
        let n_long = (Failures::FIRST + Failures::LAST) * 2;
        let long: String = (0..n_long).map(|n| format!("it went on: {n}\n")).collect();
        let printed = format!(
            "running 2 tests\ntest a::b ... FAILED\n\nfailures:\n\n---- a::b stdout ----\n{long}\n---- c::d stdout ----\n\
             one line\n\n\nfailures:\n    a::b\n    c::d\n\ntest result: FAILED. 0 passed; 2 failed; 0 ignored\nrunning 1 test\n"
        );
        printed.lines().for_each(|line| failures.line(line));
        let kept: Vec<&str> = failures.text.lines().filter(|line| !line.is_empty()).collect();
        let went_on: Vec<&&str> = kept.iter().filter(|line| line.starts_with("it went on")).collect();
        // Two of its lines are its name and the empty one behind.
        assert_eq!(went_on.len(), Failures::FIRST + Failures::LAST - 2);
        let last = format!("it went on: {}", n_long - 1);
        assert_eq!((**went_on.first().unwrap(), **went_on.last().unwrap()), ("it went on: 0", last.as_str()));
        let left_out = format!("({} lines left out)", n_long + 2 - Failures::FIRST - Failures::LAST);
        assert_eq!(kept.iter().filter(|line| **line == left_out).count(), 1);
        assert_eq!(kept[kept.len() - 4..], ["---- c::d stdout ----", "one line", "    a::b", "    c::d"]);
    }
}
