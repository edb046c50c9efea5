//! `txray record` as a process: started on targets, stopped by a signal, its output read.

use std::{
    collections::BTreeMap,
    fmt,
    io::{BufRead as _, BufReader, Read as _},
    path::PathBuf,
    process::{Command, Stdio},
    sync::mpsc,
    thread::{self, JoinHandle},
};

use serde::Deserialize;
use tempfile::TempDir;
use workload::clock::boot_ns;

use super::{
    Hooks,
    process::{PATIENCE, Process},
    txray_program,
};

/// What txray says on standard error once it sees everything that its targets do.
const READY: &str = "txray: tracing";

/// A transaction as printed: all keys of the contract, and no other.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "the keys are the contract, whether or not a test looks at each")]
pub(super) struct Transaction {
    pub(super) start_time_ns: u64,
    pub(super) request_end_ns: Option<u64>,
    pub(super) response_start_ns: Option<u64>,
    pub(super) end_time_ns: u64,
    pub(super) duration_ns: i64,
    pub(super) ttfb_ns: Option<u64>,
    pub(super) queue_ns: Option<u64>,
    pub(super) time_basis: String,
    pub(super) kind: String,
    pub(super) role: String,
    /// Empty: none, of a function's call.
    #[serde(deserialize_with = "none_is_empty")]
    pub(super) protocol: String,
    pub(super) operation: String,
    pub(super) target: Option<String>,
    pub(super) namespace: Option<String>,
    pub(super) status_code: Option<i32>,
    pub(super) error: bool,
    pub(super) error_type: Option<String>,
    pub(super) error_message: Option<String>,
    pub(super) rows: Option<u64>,
    pub(super) pid: u32,
    pub(super) tid: u32,
    pub(super) comm: String,
    pub(super) service: String,
    pub(super) client_addr: Option<String>,
    pub(super) client_port: Option<u16>,
    pub(super) server_addr: Option<String>,
    pub(super) server_port: Option<u16>,
    pub(super) tls: Option<Tls>,
    pub(super) request_bytes: u64,
    pub(super) response_bytes: u64,
    pub(super) request_messages: Option<u64>,
    pub(super) response_messages: Option<u64>,
    pub(super) rtt_ns: Option<u64>,
    pub(super) retransmits: Option<u32>,
    pub(super) function: Option<String>,
    pub(super) arguments: Option<serde_json::Value>,
    #[serde(rename = "return")]
    pub(super) returned: Option<serde_json::Value>,
    pub(super) parent_id: Option<String>,
    pub(super) root_id: Option<String>,
    pub(super) self_ns: Option<u64>,
    pub(super) stack: Option<Vec<String>>,
    pub(super) stack_end: Option<String>,
    pub(super) anatomy: Option<Anatomy>,
    pub(super) calls: Option<Vec<CallSum>>,
    pub(super) parent: Option<String>,
    pub(super) link: Option<Link>,
    pub(super) trace_id: Option<String>,
    pub(super) stacks: Option<Vec<StackSum>>,
    pub(super) locks: Option<Vec<Lock>>,
    pub(super) end: String,
    pub(super) confidence: String,
    pub(super) conn_id: String,
    pub(super) id: String,
    pub(super) seq: u64,
}

/// One line: what a failed test prints is read by people, some of it in a log that is cut.
impl fmt::Debug for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { start_time_ns, duration_ns, role, protocol, operation, pid, tid, comm, end, .. } = self;
        let (target, status) = (self.target.as_deref().unwrap_or("-"), self.status_code.unwrap_or(-1));
        write!(f, "{start_time_ns} +{duration_ns} {role} {protocol} {operation} {target} {status}")?;
        let port = |port: Option<u16>| port.unwrap_or(0);
        write!(f, " {comm} {pid}/{tid} {}>{}", port(self.client_port), port(self.server_port))?;
        write!(f, " {}+{} B {end} {}", self.request_bytes, self.response_bytes, self.confidence)?;
        if let Some(error) = &self.error_type {
            write!(f, " error {error}")?;
        }
        if let Some(tls) = &self.tls {
            write!(f, " tls {}", tls.library.as_deref().unwrap_or("?"))?;
        }
        Ok(())
    }
}

fn none_is_empty<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.unwrap_or_default())
}

/// What is known of a connection's TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tls {
    pub(super) library: Option<String>,
    pub(super) version: Option<String>,
    pub(super) sni: Option<String>,
    pub(super) alpn: Option<String>,
}

/// Where its time went.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Anatomy {
    pub(super) queued_ns: Option<u64>,
    pub(super) oncpu_ns: u64,
    pub(super) oncpu_user_ns: Option<u64>,
    pub(super) oncpu_kernel_ns: Option<u64>,
    pub(super) runq_ns: u64,
    pub(super) offcpu_ns: BTreeMap<String, u64>,
    pub(super) calls_ns: u64,
    pub(super) sending_ns: u64,
    pub(super) unattributed_ns: u64,
    pub(super) shared: bool,
    pub(super) guessed: Vec<String>,
}

/// Calls to one peer.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CallSum {
    pub(super) kind: String,
    pub(super) peer: String,
    pub(super) count: u64,
    pub(super) ns: u64,
}

/// How it is known what made it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "the keys are the contract, whether or not a test looks at each")]
pub(super) struct Link {
    pub(super) method: String,
    pub(super) confidence: String,
}

/// What it waited for, and who let it go on.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Lock {
    pub(super) address: String,
    pub(super) tid: Option<u32>,
    pub(super) id: Option<String>,
    pub(super) count: u64,
    pub(super) ns: u64,
}

/// What a thread was met doing.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StackSum {
    pub(super) kind: String,
    pub(super) ns: u64,
    pub(super) count: u64,
    pub(super) end: String,
    pub(super) frames: Vec<String>,
}

impl Anatomy {
    /// All parts are the whole.
    #[track_caller]
    fn check(&self, transaction: &Transaction) {
        let parts = [self.oncpu_ns, self.runq_ns, self.calls_ns, self.sending_ns, self.unattributed_ns];
        let sum: u64 = parts.iter().chain(self.offcpu_ns.values()).sum();
        assert_eq!(sum as i64, transaction.duration_ns, "{transaction:?}: {self:?}");
        assert_eq!(self.queued_ns, transaction.queue_ns);
        if let (Some(user), Some(kernel)) = (self.oncpu_user_ns, self.oncpu_kernel_ns) {
            assert_eq!(user + kernel, self.oncpu_ns, "{transaction:?}");
        }
    }
}

impl Transaction {
    /// The id that the load generator put into the target (`…?id=ID`).
    pub(super) fn stamp(&self) -> Option<&str> {
        let query = self.target.as_deref()?.split_once('?')?.1;
        query.split('&').find_map(|pair| pair.strip_prefix("id="))
    }
}

/// An interval of lost requests.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) struct Lost {
    pub(super) low: u64,
    pub(super) high: u64,
}

/// The last object.
#[derive(Clone, Debug, Deserialize)]
#[allow(dead_code, reason = "the keys are the contract, whether or not a test looks at each")]
pub(super) struct Summary {
    pub(super) events: u64,
    pub(super) transactions: u64,
    pub(super) open: u64,
    pub(super) unpaired: BTreeMap<String, u64>,
    pub(super) lost: BTreeMap<String, u64>,
    pub(super) lost_requests: Lost,
    pub(super) filtered: u64,
    pub(super) duration_s: f64,
    pub(super) operations: Vec<Operation>,
}

/// A row of the summary.
#[derive(Clone, Debug, Deserialize)]
#[allow(dead_code, reason = "the keys are the contract, whether or not a test looks at each")]
pub(super) struct Operation {
    pub(super) service: String,
    pub(super) operation: String,
    pub(super) count: u64,
    pub(super) errors: u64,
}

/// A running tracer.
pub(super) struct Tracer {
    process: Process,
    stdout: Option<JoinHandle<String>>,
    stderr: Option<JoinHandle<String>>,
    /// Boot time at which it said that it traces.
    pub(super) ready_ns: u64,
    pub(super) folder: TempDir,
}

/// What a run gave.
#[derive(Debug)]
pub(super) struct Capture {
    pub(super) transactions: Vec<Transaction>,
    pub(super) summary: Summary,
    pub(super) stdout: String,
    pub(super) stderr: String,
    /// The recording; gone with this value.
    pub(super) folder: TempDir,
}

/// Flags for the test program as the target: it speaks no TLS, and has the names of all libraries in it, and so many symbols that a build
/// without optimisation reads them for seconds.
pub(super) const TEST_PROGRAM: [&str; 2] = ["--tls", "opaque"];

impl Tracer {
    /// Traces `pids` (and the children that they start from now on).
    #[track_caller]
    pub(super) fn start(hooks: Hooks, pids: &[u32]) -> Tracer {
        Tracer::start_with(hooks, pids, &[])
    }

    /// With more flags.
    #[track_caller]
    pub(super) fn start_with(hooks: Hooks, pids: &[u32], flags: &[&str]) -> Tracer {
        let is_scoped = flags.iter().any(|flag| ["--exe", "--comm", "--cgroup"].contains(flag));
        assert!(!pids.is_empty() || is_scoped, "a test traces its own processes only");
        let mut folder = TempDir::new().unwrap();
        // For whoever has to find out why a test failed.
        folder.disable_cleanup(std::env::var_os("TXRAY_KEEP").is_some());
        let mut command = Command::new(txray_program());
        command.arg("record").arg("--out").arg(recording(&folder));
        command.args(["--json", "--summary", "json", "--hooks", hooks.flag()]).args(flags);
        // Probes that are not one process's are on a library's file: others on this machine would meet them.
        let opaque = is_scoped && !flags.contains(&"--tls");
        if opaque || pids.contains(&std::process::id()) {
            command.args(TEST_PROGRAM);
        }
        for pid in pids {
            command.args(["--pid", &pid.to_string()]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = Process::spawn(&mut command);
        let mut out = process.child.stdout.take().expect("stdout is piped");
        let err = process.child.stderr.take().expect("stderr is piped");
        let stdout = thread::spawn(move || {
            let mut text = String::new();
            out.read_to_string(&mut text).expect("standard output is UTF-8");
            text
        });
        let (sender, receiver) = mpsc::channel();
        let stderr = thread::spawn(move || {
            let mut text = String::new();
            for line in BufReader::new(err).lines() {
                let line = line.expect("standard error is UTF-8");
                if line.contains(READY) {
                    // Nobody may be waiting any more.
                    let _ = sender.send(boot_ns());
                }
                text.push_str(&line);
                text.push('\n');
            }
            text
        });
        match receiver.recv_timeout(PATIENCE) {
            Ok(ready_ns) => Tracer { process, stdout: Some(stdout), stderr: Some(stderr), ready_ns, folder },
            Err(_) => {
                process.signal(libc::SIGKILL);
                let said = stderr.join().unwrap_or_default();
                panic!("txray did not say {READY:?}; it said:\n{said}\ncommand: {command:?}");
            }
        }
    }

    pub(super) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Ends it by a signal, whatever that does to it.
    #[track_caller]
    pub(super) fn end_by(mut self, signal: libc::c_int) {
        self.process.signal(signal);
        self.process.wait("txray");
    }

    /// Stops it by SIGINT and reads everything it printed.
    #[track_caller]
    pub(super) fn stop(mut self) -> Capture {
        self.process.signal(libc::SIGINT);
        let code = self.process.wait("txray");
        let stdout = self.stdout.take().expect("stopped once").join().expect("the reader of standard output");
        let stderr = self.stderr.take().expect("stopped once").join().expect("the reader of standard error");
        assert!(matches!(code, Some(0 | 130)), "txray ended with {code:?}:\n{stderr}");
        let mut lines: Vec<&str> = stdout.lines().collect();
        let last = lines.pop().unwrap_or_else(|| panic!("no summary; standard error:\n{stderr}"));
        let value: serde_json::Value = parse(last);
        assert_eq!(value["type"], "summary", "the last line: {last}");
        let summary: Summary = parse(last);
        let transactions: Vec<Transaction> = lines.into_iter().map(parse).collect();
        for transaction in &transactions {
            transaction.anatomy.iter().for_each(|anatomy| anatomy.check(transaction));
        }
        let folder = self.folder;
        Capture { transactions, summary, stdout, stderr, folder }
    }
}

/// Where a tracer records.
fn recording(folder: &TempDir) -> PathBuf {
    folder.path().join("recording")
}

#[track_caller]
fn parse<T: for<'a> Deserialize<'a>>(line: &str) -> T {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

impl Capture {
    /// Transactions of one role.
    pub(super) fn role(&self, role: &str) -> Vec<&Transaction> {
        self.transactions.iter().filter(|transaction| transaction.role == role).collect()
    }

    /// Where the recording is.
    pub(super) fn recording(&self) -> PathBuf {
        recording(&self.folder)
    }
}
