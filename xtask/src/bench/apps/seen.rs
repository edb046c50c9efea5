//! What txray made of a series: its recording, read back by its own commands as a user would.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::{
    bench::tracer::{errors_of, wait_until_ready},
    shell::{command, output},
};

/// It looks through the programs for TLS first, which takes a debug build long.
const PATIENCE: Duration = Duration::from_secs(240);

/// A running `txray record`, ended when dropped.
#[derive(Debug)]
pub(super) struct Recording {
    child: Child,
    txray: PathBuf,
    out: PathBuf,
    pub(super) started_in: Duration,
}

/// What was recorded.
#[derive(Debug)]
pub(super) struct Seen {
    txray: PathBuf,
    out: PathBuf,
    pub(super) rows: Vec<Row>,
    /// Counters of losses that are not zero.
    pub(super) lost: Vec<(String, u64)>,
}

/// A transaction, the fields that are compared.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Row {
    pub(super) id: String,
    pub(super) role: String,
    pub(super) protocol: String,
    pub(super) operation: String,
    pub(super) target: Option<String>,
    pub(super) status_code: Option<u16>,
    pub(super) start_time_ns: u64,
    pub(super) end_time_ns: u64,
    pub(super) duration_ns: Option<u64>,
    pub(super) queue_ns: Option<u64>,
    pub(super) pid: u32,
    pub(super) client_port: Option<u16>,
    pub(super) server_port: Option<u16>,
    pub(super) end: String,
    pub(super) confidence: String,
    pub(super) parent: Option<String>,
    pub(super) link: Option<Link>,
    pub(super) anatomy: Option<serde_json::Value>,
    pub(super) calls: Option<Vec<Calls>>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Link {
    pub(super) method: String,
    pub(super) confidence: String,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Calls {
    pub(super) kind: String,
    pub(super) ns: u64,
}

impl Recording {
    pub(super) fn start(txray: &Path, pids: &[u32], out: &Path) -> Result<Recording> {
        let began = Instant::now();
        let mut record = command(&txray.to_string_lossy(), ["record", "--summary", "json"]);
        for pid in pids {
            record.arg("--pid").arg(pid.to_string());
        }
        record.arg("--out").arg(out).stdin(Stdio::null());
        record.stdout(fs::File::create(out.with_extension("summary"))?).stderr(Stdio::piped());
        let mut child = record.spawn().context("starting txray")?;
        let errors = errors_of(&mut child)?;
        let mut recording =
            Recording { child, txray: txray.to_owned(), out: out.to_owned(), started_in: Duration::ZERO };
        wait_until_ready(&errors, began, PATIENCE)?;
        recording.started_in = began.elapsed();
        Ok(recording)
    }

    /// Ends it and reads what it has.
    pub(super) fn stop(mut self) -> Result<Seen> {
        // SAFETY: a plain signal to a child that has not been waited for, so the number is still its.
        unsafe { libc::kill(self.child.id() as libc::pid_t, libc::SIGINT) };
        self.child.wait()?;
        let summary = fs::read_to_string(self.out.with_extension("summary"))?;
        let summary: serde_json::Value =
            serde_json::from_str(summary.lines().last().context("txray printed no summary")?)?;
        let lost = summary["lost"].as_object().into_iter().flatten();
        let lost =
            lost.filter_map(|(name, n)| Some((name.clone(), n.as_u64().filter(|n| *n > 0)?))).collect();
        let mut find = command(&self.txray.to_string_lossy(), ["find"]);
        let text = output(find.arg(&self.out).arg("--json"))?;
        let mut rows = Vec::new();
        for line in text.lines() {
            rows.push(serde_json::from_str(line).with_context(|| line.to_owned())?);
        }
        Ok(Seen { txray: self.txray.clone(), out: self.out.clone(), rows, lost })
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Seen {
    /// What a subcommand prints of one transaction.
    pub(super) fn ask(&self, subcommand: &str, id: &str, flags: &[&str]) -> Result<String> {
        let mut ask = command(&self.txray.to_string_lossy(), [subcommand]);
        output(ask.arg(&self.out).arg(id).args(flags))
    }
}
