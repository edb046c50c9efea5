//! HTTP/2 by others: nghttpd and nginx under h2load, with many streams at once on several connections, seen from both ends.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Command, Stdio},
};

use rstest::rstest;
use tempfile::TempDir;

use super::{
    Hooks,
    check::{check_conserved, check_order_and_sums},
    machine,
    process::{Process, wait_for},
    tool,
    tracer::{Capture, Tracer, Transaction},
};

/// Files, and how much longer each is than the one before: more than heads and frames add.
pub(super) const FILES: usize = 24;
const STEP: u64 = 1000;
/// Most bytes that heads and the headers of frames add to a body.
const AROUND: u64 = 500;

/// A folder with the files, and a server for them.
pub(super) struct Served {
    pub(super) process: Process,
    pub(super) address: SocketAddr,
    pub(super) folder: TempDir,
}

pub(super) fn length(file: usize) -> u64 {
    100 + STEP * file as u64
}

pub(super) fn files() -> TempDir {
    let folder = TempDir::new().unwrap();
    for file in 0..FILES {
        fs::write(folder.path().join(format!("f{file}")), "x".repeat(length(file) as usize)).unwrap();
    }
    folder
}

/// Free a moment ago: the servers cannot be asked to choose one.
pub(super) fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn nghttpd() -> Served {
    let (folder, address) = (files(), free_address());
    let mut command = Command::new(tool("nghttpd", "nghttp2-server"));
    command.args(["--no-tls", "--address", "127.0.0.1", "--htdocs"]).arg(folder.path());
    let process = Process::spawn(command.arg(address.port().to_string()).stdout(Stdio::null()));
    wait_for("nghttpd to listen", || TcpStream::connect(address).ok());
    Served { process, address, folder }
}

pub(super) fn nginx() -> Served {
    nginx_with("keepalive_requests 1000000;")
}

/// With more settings of the server.
pub(super) fn nginx_with(settings: &str) -> Served {
    let (folder, address) = (files(), free_address());
    let root = folder.path().display();
    let configuration = format!(
        "daemon off; user root; master_process off; pid {root}/pid; error_log {root}/error.log;
        events {{ worker_connections 256; }}
        http {{
            log_format rows '$request_uri $status $bytes_sent'; access_log {root}/access.log rows;
            client_body_temp_path {root}/body; proxy_temp_path {root}/proxy; fastcgi_temp_path {root}/fastcgi;
            uwsgi_temp_path {root}/uwsgi; scgi_temp_path {root}/scgi;
            server {{ listen {address} http2; root {root}; {settings} }}
        }}"
    );
    fs::write(folder.path().join("nginx.conf"), configuration).unwrap();
    let mut command = Command::new(tool("nginx", "nginx-light"));
    command.arg("-p").arg(folder.path()).arg("-c").arg(folder.path().join("nginx.conf"));
    let process = Process::spawn(command.arg("-e").arg(folder.path().join("error.log")));
    wait_for("nginx to listen", || TcpStream::connect(address).ok());
    Served { process, address, folder }
}

/// A load.
struct Load {
    connections: usize,
    streams: usize,
    /// Requests for each file on each connection.
    rounds: usize,
    /// Files asked for, the shortest first.
    files: usize,
}

/// Traces both ends while h2load makes the requests.
#[track_caller]
fn trace(hooks: Hooks, served: &Served, asked: &Load) -> Capture {
    let &Load { connections, streams, rounds, files } = asked;
    let n = files * rounds * connections;
    let urls: String = (0..files).map(|file| format!("http://{}/f{file}\n", served.address)).collect();
    let list = served.folder.path().join("urls");
    fs::write(&list, urls).unwrap();
    // The shell waits to be traced and then becomes h2load.
    let mut command = Command::new("/bin/sh");
    command.arg("-c").arg("read go; exec \"$@\"").arg("sh").arg(tool("h2load", "nghttp2-client"));
    command.args(["-n", &n.to_string(), "-c", &connections.to_string(), "-m", &streams.to_string(), "-i"]);
    let mut load = Process::spawn(command.arg(&list).stdin(Stdio::piped()).stdout(Stdio::piped()));
    // What the first turns hold beyond what is copied before a verdict would be counted gaps. Both ends together move some 20 MB within
    // 50 ms: more than the usual ring takes while a busy processor keeps its reader waiting (seen; payload is left out then, and counted).
    let flags = &["--payload", "full", "--ring-size", "64M"];
    let tracer = Tracer::start_with(hooks, &[served.process.pid(), load.pid()], flags);
    load.child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    let mut said = String::new();
    load.child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(load.wait("h2load"), Some(0), "{said}");
    assert!(said.contains(&format!("{n} succeeded, 0 failed")), "{said}");
    let capture = tracer.stop();
    check_order_and_sums(&capture);
    for role in ["server", "client"] {
        check_rows(&capture.role(role), asked, role);
    }
    check_conserved(&capture, capture.transactions.len(), 2 * n, true);
    assert!(capture.summary.unpaired.values().all(|&n| n == 0), "{:?}", capture.summary.unpaired);
    capture
}

/// Each file was asked for as often as it was, and each answer is as long as the file that was asked for.
#[track_caller]
fn check_rows(transactions: &[&Transaction], load: &Load, role: &str) {
    let mut by_file: BTreeMap<usize, usize> = BTreeMap::new();
    for one in transactions {
        assert_eq!((one.protocol.as_str(), one.kind.as_str()), ("http2", "request"), "{one:?}");
        assert_eq!((one.end.as_str(), one.confidence.as_str()), ("answered", "complete"), "{one:?}");
        assert_eq!(one.status_code, Some(200), "{one:?}");
        let file = one.target.as_deref().and_then(|target| target.strip_prefix("/f")?.parse().ok());
        let file: usize = file.unwrap_or_else(|| panic!("not a file: {one:?}"));
        let bytes = one.response_bytes;
        assert!((length(file)..length(file) + AROUND).contains(&bytes), "another one's answer: {one:?}");
        *by_file.entry(file).or_default() += 1;
    }
    let times = load.connections * load.rounds;
    let expected: BTreeMap<usize, usize> = (0..load.files).map(|file| (file, times)).collect();
    assert_eq!(by_file, expected, "{role}");
}

#[rstest]
fn nghttpd_and_h2load_seen_from_both_ends(
    #[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks,
    #[values(1, 2, 8, 32)] streams: usize,
) {
    let _machine = machine();
    trace(hooks, &nghttpd(), &Load { connections: 4, streams, rounds: 8, files: FILES });
}

#[rstest]
fn nginx_and_h2load_seen_from_both_ends(
    #[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks,
    #[values(1, 8, 32)] streams: usize,
) {
    let _machine = machine();
    let nginx = nginx();
    let load = Load { connections: 3, streams, rounds: 8, files: FILES };
    let capture = trace(hooks, &nginx, &load);
    // One line of its log is one transaction.
    let log = wait_for("nginx's log", || {
        let log = fs::read_to_string(nginx.folder.path().join("access.log")).ok()?;
        (log.lines().count() == 3 * 8 * FILES).then_some(log)
    });
    let mut logged: BTreeMap<(String, u64), usize> = BTreeMap::new();
    for line in log.lines() {
        let cells: Vec<&str> = line.split(' ').collect();
        *logged.entry((cells[0].to_owned(), cells[1].parse().unwrap())).or_default() += 1;
    }
    let mut seen: BTreeMap<(String, u64), usize> = BTreeMap::new();
    for one in capture.role("server") {
        let status = one.status_code.unwrap_or_default() as u64;
        *seen.entry((one.target.clone().unwrap_or_default(), status)).or_default() += 1;
    }
    assert_eq!(seen, logged);
}
