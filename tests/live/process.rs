//! Processes of a test: started, waited for, ended by their ids.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;
use workload::{
    address::Address,
    csv::{Record, read_rows},
    load,
};

use super::workload_program;

/// How long anything is waited for. A virtual machine without hardware support is slow; success does not wait.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);

/// Waits until `done` gives something.
#[track_caller]
pub(super) fn wait_for<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = done() {
            return value;
        }
        assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A process that ends with the test.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) child: Child,
}

impl Drop for Process {
    fn drop(&mut self) {
        // Asked first: a server with workers (nginx) ends them only then, and what they inherited stays open as long as they live.
        if let Ok(None) = self.child.try_wait() {
            self.signal(libc::SIGTERM);
            let start = Instant::now();
            while start.elapsed() < Duration::from_secs(3) {
                if !matches!(self.child.try_wait(), Ok(None)) {
                    return;
                }
                thread::sleep(Duration::from_millis(5));
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Process {
    /// Starts it, to die with the test's thread.
    #[track_caller]
    pub(super) fn spawn(command: &mut Command) -> Process {
        // SAFETY: prctl is async-signal-safe, and nothing else happens between fork and exec.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        let child = command.spawn();
        Process { child: child.unwrap_or_else(|error| panic!("start {command:?}: {error}")) }
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub(super) fn signal(&self, signal: libc::c_int) {
        // SAFETY: no pointers; the child has not been waited for, so that its id is its own.
        unsafe { libc::kill(self.child.id() as libc::pid_t, signal) };
    }

    /// Waits for its end by itself; returns its exit code.
    #[track_caller]
    pub(super) fn wait(&mut self, what: &str) -> Option<i32> {
        wait_for(&format!("the end of {what}"), || self.child.try_wait().unwrap()).code()
    }

    fn stdout(&mut self) -> BufReader<ChildStdout> {
        BufReader::new(self.child.stdout.take().expect("stdout is piped"))
    }
}

/// The project's own server.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) process: Process,
    pub(super) address: Address,
    log: PathBuf,
    _folder: TempDir,
}

impl Server {
    /// Starts `workload serve` with more arguments.
    #[track_caller]
    pub(super) fn start(arguments: &str) -> Server {
        let folder = TempDir::new().unwrap();
        let log = folder.path().join("server.csv");
        let socket = folder.path().join("socket");
        let listen = match arguments {
            _ if arguments.contains("--listen unix") => format!("--listen unix:{}", socket.display()),
            _ if arguments.contains("--listen") => String::new(),
            _ => "--listen 127.0.0.1:0".into(),
        };
        let arguments = arguments.replace("--listen unix", "");
        let mut command = Command::new(workload_program());
        command.args(["serve", "--seconds", "300", "--log"]).arg(&log);
        command.args(format!("{listen} {arguments}").split_whitespace());
        Server::announced(&mut command, log, folder)
    }

    /// Starts another server that prints `listening ADDRESS` and writes a log.
    #[track_caller]
    pub(super) fn announced(command: &mut Command, log: PathBuf, folder: TempDir) -> Server {
        let mut process = Process::spawn(command.stdout(Stdio::piped()));
        let mut line = String::new();
        process.stdout().read_line(&mut line).unwrap();
        let address =
            line.trim_end().strip_prefix("listening ").expect("the server's address").parse().unwrap();
        Server { process, address, log, _folder: folder }
    }

    /// Its log, once it has at least `n_rows`.
    #[track_caller]
    pub(super) fn rows<R: Record>(&self, n_rows: usize) -> Vec<R> {
        rows_of(&self.log, n_rows)
    }
}

#[track_caller]
fn rows_of<R: Record>(path: &Path, n_rows: usize) -> Vec<R> {
    wait_for(&format!("{n_rows} rows in {}", path.display()), || {
        let rows = read_rows(path).ok()?;
        (rows.len() >= n_rows).then_some(rows)
    })
}

/// The project's own client, as a process: traced before it sends anything.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) process: Process,
    csv: PathBuf,
    _folder: TempDir,
}

impl Client {
    /// Starts `workload load` with more arguments; it waits for [`Client::run`].
    pub(super) fn start(to: &Address, arguments: &str) -> Client {
        let folder = TempDir::new().unwrap();
        let csv = folder.path().join("client.csv");
        let mut command = Command::new(workload_program());
        command.args(["load", "--wait", "--to", &to.to_string(), "--csv"]).arg(&csv);
        command.args(arguments.split_whitespace()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Process::spawn(&mut command);
        let mut out = process.stdout();
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        // Its last line fits in the pipe: nobody has to read it.
        process.child.stdout = Some(out.into_inner());
        Client { process, csv, _folder: folder }
    }

    /// Lets it go and waits for its rows.
    #[track_caller]
    pub(super) fn run(&mut self) -> Vec<load::Row> {
        self.process.child.stdin.take().expect("stdin is piped").write_all(b"go\n").unwrap();
        let code = self.process.wait("the client");
        let mut said = String::new();
        if let Some(mut out) = self.process.child.stdout.take() {
            out.read_to_string(&mut said).unwrap();
        }
        assert_eq!(code, Some(0), "{said}");
        read_rows(&self.csv).unwrap()
    }
}
