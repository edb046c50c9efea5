//! A run of `txray record`, measured from outside.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use super::server::{CLIENT_CPU, cpu_ns};
use crate::shell::command;

/// What the tracer prints on standard error once traffic is seen.
const READY: &str = "txray: tracing";
/// Longest it may take to start, and to stop.
const PATIENCE: Duration = Duration::from_secs(120);

/// A running tracer, ended when dropped.
#[derive(Debug)]
pub(crate) struct Tracer {
    child: Child,
    errors: mpsc::Receiver<String>,
    cpu_ns_at_start: u64,
    /// From its start until it said that it records.
    pub(crate) started_in: Duration,
}

/// What it made of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Traced {
    pub(crate) summary: Summary,
    /// CPU time of the tracer from when it was ready until it was told to stop, in nanoseconds.
    pub(crate) cpu_ns: u64,
    /// Largest resident set, in bytes.
    pub(crate) peak_bytes: u64,
}

/// The part of its summary that is used here.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Summary {
    pub(crate) events: u64,
    pub(crate) transactions: u64,
    #[serde(default)]
    pub(crate) open: u64,
    #[serde(default)]
    pub(crate) lost_requests: Interval,
    /// One for each name; what they hold is not used here.
    #[serde(default)]
    pub(crate) operations: Vec<serde::de::IgnoredAny>,
}

/// Lost requests are known exactly or as an interval.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub(crate) struct Interval {
    pub(crate) low: u64,
    pub(crate) high: u64,
}

/// What a tracer says on standard error, line by line.
pub(super) fn errors_of(child: &mut Child) -> Result<mpsc::Receiver<String>> {
    let stderr = child.stderr.take().context("txray's errors")?;
    let (sender, errors) = mpsc::sync_channel(1024);
    thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            // Once nobody listens, the lines are read and dropped, so that it never waits for us.
            let _ = sender.try_send(line);
        }
    });
    Ok(errors)
}

/// Waits until it sees traffic; what it says before is in the error.
pub(super) fn wait_until_ready(
    errors: &mpsc::Receiver<String>,
    began: Instant,
    patience: Duration,
) -> Result<()> {
    let mut said = String::new();
    loop {
        match errors.recv_timeout(patience.saturating_sub(began.elapsed())) {
            Ok(line) if line.contains(READY) => return Ok(()),
            Ok(line) => {
                said.push_str(&line);
                said.push('\n');
            }
            Err(_) => bail!("txray did not say `{READY}` on standard error; it said:\n{said}"),
        }
    }
}

impl Tracer {
    /// Starts it on one target with more flags, recording into `out`.
    pub(crate) fn start(
        program: &Path,
        target: u32,
        hooks: &str,
        out: &Path,
        flags: &[&str],
    ) -> Result<Self> {
        let _ = fs::remove_dir_all(out);
        let began = Instant::now();
        let mut record = command("taskset", ["-c", CLIENT_CPU]);
        record.arg(program).args(["record", "--hooks", hooks, "--summary", "json"]);
        record.args(["--pid".into(), target.to_string()]).arg("--out").arg(out).args(flags);
        let mut child = record
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("starting txray")?;
        let errors = errors_of(&mut child)?;
        let mut tracer = Self { child, errors, cpu_ns_at_start: 0, started_in: Duration::ZERO };
        wait_until_ready(&tracer.errors, began, PATIENCE)?;
        tracer.started_in = began.elapsed();
        tracer.cpu_ns_at_start = cpu_ns(tracer.pid())?;
        Ok(tracer)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Tells it to stop and reads its summary.
    pub(crate) fn stop(mut self) -> Result<Traced> {
        let cpu_ns = cpu_ns(self.pid())? - self.cpu_ns_at_start;
        let peak_bytes = peak_bytes(self.pid())?;
        // SAFETY: a plain signal to a child that has not been waited for, so the number is still its.
        unsafe { libc::kill(self.child.id() as libc::pid_t, libc::SIGINT) };
        let mut text = String::new();
        self.child.stdout.take().context("txray's output")?.read_to_string(&mut text)?;
        self.child.wait()?;
        let line = text.lines().last().context("txray printed no summary")?;
        let summary = serde_json::from_str(line).with_context(|| format!("txray's summary: {line}"))?;
        Ok(Traced { summary, cpu_ns, peak_bytes })
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn peak_bytes(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok())
        .map(|kib| kib * 1024)
        .context("no VmHWM in its status")
}

/// Bytes of the Parquet files of one dataset of a recording.
pub(crate) fn dataset_bytes(recording: &Path, dataset: &str) -> Result<u64> {
    fn walk(dir: &PathBuf, total: &mut u64) -> Result<()> {
        for entry in fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                walk(&entry.path(), total)?;
            } else if entry.path().extension().is_some_and(|extension| extension == "parquet") {
                *total += entry.metadata()?.len();
            }
        }
        Ok(())
    }
    let mut total = 0;
    walk(&recording.join(dataset), &mut total)?;
    Ok(total)
}
