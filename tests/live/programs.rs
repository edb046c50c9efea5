//! Servers and clients that others wrote, as Debian ships them: nginx, Python's and Node's servers, wrk and curl.

use std::{
    collections::HashMap,
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rstest::rstest;
use tempfile::TempDir;
use workload::{
    csv::Record,
    http::Body,
    load::{self, Options, Outcome, Template},
    record,
};

use super::{
    Hooks,
    check::{Clocks, by_stamp, check_conserved, check_order_and_sums},
    machine,
    process::{Process, Server, wait_for},
    tool,
    tracer::{Capture, Tracer, Transaction},
};

record! {
    /// A request in nginx's access log.
    pub struct NginxRow {
        /// Which worker.
        pub pid: u32,
        /// The client's port.
        pub client_port: u16,
        /// Method.
        pub method: String,
        /// Status.
        pub status: u16,
        /// Bytes of the request, head included.
        pub request_bytes: u64,
        /// Bytes sent, head included.
        pub response_bytes: u64,
        /// Target.
        pub target: String,
    }
}

record! {
    /// A request as a handler in Python or Node saw it; boot times, ns.
    pub struct AnswerRow {
        /// Its id.
        pub id: String,
        /// Method.
        pub method: String,
        /// Status.
        pub status: u16,
        /// When the handler began.
        pub begin_ns: u64,
        /// Before the last write.
        pub write_ns: u64,
        /// Target.
        pub target: String,
    }
}

/// nginx with its own configuration, folder and port.
pub(super) struct Nginx {
    process: Process,
    pub(super) address: SocketAddr,
    folder: TempDir,
    n_workers: usize,
}

impl Nginx {
    #[track_caller]
    pub(super) fn start(workers: u32) -> Nginx {
        let folder = TempDir::new().unwrap();
        let root = folder.path();
        // Free a moment ago: nginx cannot be asked to choose one.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        fs::create_dir(root.join("www")).unwrap();
        fs::write(root.join("www/page.html"), "x".repeat(3000)).unwrap();
        fs::File::create(root.join("www/big.bin")).unwrap().set_len(200_000_000).unwrap();
        let configuration = format!(
            r#"
daemon off;
user root;
worker_processes {workers};
pid {root}/nginx.pid;
error_log {root}/error.log;
events {{ worker_connections 1024; }}
http {{
    log_format rows '$pid,$remote_port,$request_method,$status,$request_length,$bytes_sent,$request_uri';
    access_log {root}/access.csv rows;
    client_body_temp_path {root}/body;
    proxy_temp_path {root}/proxy;
    fastcgi_temp_path {root}/fastcgi;
    uwsgi_temp_path {root}/uwsgi;
    scgi_temp_path {root}/scgi;
    sendfile on;
    keepalive_requests 1000000;
    server {{
        listen {address};
        root {root}/www;
        add_header X-Request-Id $http_x_request_id always;
        location /small {{ return 200 "hello from nginx\n"; }}
        location /gone {{ return 410 "gone\n"; }}
        location /broken {{ return 500 "broken\n"; }}
    }}
}}
"#,
            root = root.display()
        );
        fs::write(root.join("nginx.conf"), configuration).unwrap();
        let mut command = Command::new(tool("nginx", "nginx-light"));
        command
            .arg("-p")
            .arg(root)
            .arg("-c")
            .arg(root.join("nginx.conf"))
            .arg("-e")
            .arg(root.join("error.log"));
        let process = Process::spawn(&mut command);
        wait_for("nginx to listen", || TcpStream::connect(address).ok());
        Nginx { process, address, folder, n_workers: workers as usize }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Its access log, once it has `n_rows`.
    #[track_caller]
    fn rows(&self, n_rows: usize) -> Vec<NginxRow> {
        let log = self.path("access.csv");
        wait_for(&format!("{n_rows} rows in nginx's log"), || {
            let text = fs::read_to_string(&log).ok()?;
            let rows: Vec<NginxRow> = text
                .split_inclusive('\n')
                .filter(|line| line.ends_with('\n'))
                .map(|line| NginxRow::parse_line(line).unwrap_or_else(|| panic!("not a row: {line}")))
                .collect();
            (rows.len() >= n_rows).then_some(rows)
        })
    }

    /// The master, and the workers that it had before the tracer came.
    pub(super) fn pids(&self) -> Vec<u32> {
        let master = self.process.pid();
        let mut pids = vec![master];
        pids.extend(wait_for("nginx's workers", || {
            let children = fs::read_to_string(format!("/proc/{master}/task/{master}/children")).ok()?;
            let children: Vec<u32> = children.split_whitespace().filter_map(|pid| pid.parse().ok()).collect();
            (children.len() == self.n_workers).then_some(children)
        }));
        pids
    }
}

/// Every transaction of nginx is a line of its access log, and captured + lost = the lines.
#[track_caller]
fn check_nginx(capture: &Capture, rows: &[NginxRow], nothing_lost: bool) {
    check_order_and_sums(capture);
    let captured = by_stamp(&capture.role("server"));
    let logged: HashMap<&str, &NginxRow> = rows.iter().map(|row| (stamp(&row.target), row)).collect();
    assert_eq!(logged.len(), rows.len(), "an id twice in nginx's log");
    for (id, &transaction) in &captured {
        let row = *logged.get(id.as_str()).unwrap_or_else(|| panic!("not in nginx's log: {transaction:?}"));
        let said = (
            transaction.pid,
            transaction.client_port,
            transaction.status_code,
            transaction.request_bytes,
            transaction.response_bytes,
            transaction.target.as_deref(),
        );
        let logged = (
            row.pid,
            Some(row.client_port),
            Some(row.status.into()),
            row.request_bytes,
            row.response_bytes,
            Some(row.target.as_str()),
        );
        if !nothing_lost && transaction.confidence == "gap" {
            // Its response was in a gap that is counted: what was seen of it is right.
            assert_eq!((said.0, said.1, said.3), (logged.0, logged.1, logged.3), "{transaction:?}");
            continue;
        }
        assert_eq!(said, logged, "{transaction:?}");
        // Behind a counted gap, how pairing goes on is a guess that has to be right.
        let is_sure =
            transaction.confidence == "complete" || (!nothing_lost && transaction.confidence == "guessed");
        assert!(transaction.end == "answered" && is_sure, "{transaction:?}");
        assert!(transaction.duration_ns > 0, "{transaction:?}");
    }
    check_conserved(capture, captured.len(), rows.len(), nothing_lost);
}

fn stamp(target: &str) -> &str {
    target.split_once("?id=").map_or("", |(_, id)| id)
}

#[rstest]
fn nginx_and_the_generator(
    #[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks,
    #[values(1, 2)] workers: u32,
    #[values(1, 16)] pipeline: usize,
) {
    let _machine = machine();
    let nginx = Nginx::start(workers);
    let mix = vec![
        Template::get("/small/{n}?id={id}"),
        Template::get("/page.html?id={id}"),
        Template::get("/gone?id={id}"),
        Template { method: "HEAD".into(), ..Template::get("/page.html?id={id}") },
        Template::get("/nothing/{n}?id={id}"),
        Template::get("/broken?id={id}"),
    ];
    let address = nginx.address.to_string().parse().unwrap();
    let options = Options { mix, connections: 8, threads: 2, pipeline, ..Options::new(address, "/", 3000) };
    let tracer = Tracer::start(hooks, &nginx.pids());
    let asked = load::run(&options).unwrap();
    let capture = tracer.stop();
    assert!(asked.iter().all(|row| row.outcome == Outcome::Ok), "the load itself failed");
    let rows = nginx.rows(asked.len());
    // The first pipelined turns of a connection can be longer than what is copied before a verdict: counted gaps.
    check_nginx(&capture, &rows, pipeline == 1);
    // The status and length that came back under an id are those that txray has under it.
    let captured = by_stamp(&capture.role("server"));
    for row in &asked {
        if let Some(transaction) = captured.get(&row.id).filter(|transaction| transaction.confidence != "gap")
        {
            assert_eq!(
                (transaction.status_code, transaction.response_bytes),
                (Some(row.status.into()), row.response_bytes)
            );
        }
    }
}

#[rstest]
fn nginx_and_wrk_at_saturation(#[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks) {
    let _machine = machine();
    let nginx = Nginx::start(1);
    let script = nginx.path("ids.lua");
    let text = r#"
local threads = 0
function setup(thread)
  thread:set("no", threads)
  threads = threads + 1
end
local n = 0
function request()
  n = n + 1
  return wrk.format("GET", "/small/" .. n .. "?id=w" .. no .. "-" .. n)
end
"#;
    fs::write(&script, text).unwrap();
    let tracer = Tracer::start(hooks, &nginx.pids());
    let output = Command::new(tool("wrk", "wrk"))
        .args(["--threads", "1", "--connections", "32", "--duration", "3s", "--script"])
        .arg(&script)
        .arg(format!("http://{}/", nginx.address))
        .output()
        .unwrap();
    assert!(output.status.success(), "wrk: {}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let n_answers = said.lines().find_map(|line| line.trim().split_once(" requests in "));
    let n_answers: usize = n_answers.and_then(|(n, _)| n.parse().ok()).expect("wrk's count");
    let rows = nginx.rows(n_answers);
    let capture = tracer.stop();
    // wrk leaves with answers on their way, which nginx has logged: its log is the truth.
    let rows = if rows.len() < n_answers + 32 { nginx.rows(rows.len()) } else { rows };
    check_nginx(&capture, &rows, false);
}

#[rstest]
fn nginx_and_curl_seen_from_both_ends(#[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks) {
    let _machine = machine();
    let nginx = Nginx::start(1);
    let mut urls = String::new();
    for n in 0..100 {
        let path = ["small/1", "page.html", "gone", "nothing"][n % 4];
        urls.push_str(&format!(
            "url = \"http://{}/{path}?id=c-{n}\"\noutput = \"/dev/null\"\n",
            nginx.address
        ));
    }
    urls.push_str(&format!("url = \"http://{}/big.bin?id=c-big\"\noutput = \"/dev/null\"\n", nginx.address));
    fs::write(nginx.path("urls"), urls).unwrap();
    // The shell waits to be traced and then becomes curl.
    let mut command = Command::new("/bin/sh");
    command.arg("-c").arg("read go; exec \"$@\"").arg("sh").arg(tool("curl", "curl"));
    command.args(["--silent", "--show-error", "--noproxy", "*", "--config"]).arg(nginx.path("urls"));
    command.args([
        "--write-out",
        "%{url_effective},%{http_code},%{size_request},%{size_header},%{size_download}\n",
    ]);
    let mut curl = Process::spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
    let mut pids = nginx.pids();
    pids.push(curl.pid());
    let tracer = Tracer::start(hooks, &pids);
    curl.child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    let mut said = String::new();
    curl.child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(curl.wait("curl"), Some(0));
    let rows = nginx.rows(101);
    let capture = tracer.stop();
    check_order_and_sums(&capture);
    let (servers, clients) = (by_stamp(&capture.role("server")), by_stamp(&capture.role("client")));
    assert_eq!((servers.len(), clients.len(), rows.len()), (101, 101, 101), "{}", capture.stderr);
    check_conserved(&capture, servers.len() + clients.len(), 202, true);
    for line in said.lines() {
        let cells: Vec<&str> = line.split(',').collect();
        let number = |place: usize| cells[place].parse::<u64>().unwrap();
        let client = clients[stamp(cells[0])];
        assert_eq!(client.status_code.map(|code| code as u64), Some(number(1)), "{client:?}");
        assert_eq!(client.request_bytes, number(2), "{client:?}");
        assert_eq!(client.response_bytes, number(3) + number(4), "{client:?}");
        assert_eq!((client.pid, client.comm.as_str()), (curl.pid(), "curl"));
        assert_eq!(client.error, number(1) >= 400);
    }
}

/// Every transaction of a handler's server is what the handler logged and the client got.
#[track_caller]
fn check_answers(capture: &Capture, handled: &[AnswerRow], asked: &[load::Row]) {
    check_order_and_sums(capture);
    let captured: HashMap<String, &Transaction> = by_stamp(&capture.role("server"));
    let handled: HashMap<&str, &AnswerRow> = handled.iter().map(|row| (row.id.as_str(), row)).collect();
    let mut clocks = Clocks::new();
    for client in asked {
        assert_eq!(client.outcome, Outcome::Ok, "the load itself failed: {client:?}");
        let Some(&transaction) = captured.get(&client.id) else { continue };
        let row = handled[client.id.as_str()];
        let describe = || format!("\n  {transaction:?}\n  {row:?}\n  {client:?}");
        assert_eq!(
            (transaction.status_code, transaction.request_bytes, transaction.response_bytes),
            (Some(client.status.into()), client.request_bytes, client.response_bytes),
            "{}",
            describe()
        );
        assert_eq!((transaction.client_port, row.status), (Some(client.local_port), client.status));
        assert_eq!((transaction.end.as_str(), transaction.confidence.as_str()), ("answered", "complete"));
        clocks.between(transaction.start_time_ns, client.send_ns, row.begin_ns, describe);
        clocks.between(transaction.end_time_ns, row.write_ns, 0, describe);
        let inner = row.write_ns as i64 - row.begin_ns as i64;
        assert!(transaction.duration_ns >= inner, "shorter than the handler took ({inner}){}", describe());
    }
    clocks.finish();
    check_conserved(capture, captured.len(), asked.len(), true);
}

fn answer_load(server: &Server, count: u64) -> Options {
    let mix = vec![
        Template::get("/user/{n}?id={id}"),
        Template::get("/bytes/{n}?id={id}"),
        Template::post("/item/{n}?id={id}", Body::Length(3000)),
        Template::get("/status/404?id={id}"),
        Template { method: "HEAD".into(), ..Template::get("/bytes/500?id={id}") },
        Template::get("/sleep/3?id={id}"),
        Template::get("/bytes/300000?id={id}"),
    ];
    Options { mix, connections: 8, threads: 2, ..Options::new(server.address.clone(), "/", count) }
}

#[track_caller]
fn trace_answers(hooks: Hooks, server: &Server, keep_alive: bool) {
    let tracer = Tracer::start(hooks, &[server.process.pid()]);
    let asked = load::run(&Options { keep_alive, ..answer_load(server, 700) }).unwrap();
    let capture = tracer.stop();
    let handled: Vec<AnswerRow> = server.rows(asked.len());
    check_answers(&capture, &handled, &asked);
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/servers").join(name)
}

#[rstest]
fn python_threads(
    #[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks,
    #[values(true, false)] keep_alive: bool,
) {
    let _machine = machine();
    let folder = TempDir::new().unwrap();
    let log = folder.path().join("python.csv");
    let mut command = Command::new(tool("python3", "python3"));
    command.arg(fixture("threads.py")).arg(&log);
    trace_answers(hooks, &Server::announced(&mut command, log, folder), keep_alive);
}

#[rstest]
fn node_event_loop(
    #[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks,
    #[values(true, false)] keep_alive: bool,
) {
    let _machine = machine();
    let folder = TempDir::new().unwrap();
    let log = folder.path().join("node.csv");
    let mut command = Command::new(tool("node", "nodejs"));
    command.arg(fixture("event-loop.js")).arg(&log).arg(boot_minus_monotonic_ns().to_string());
    trace_answers(hooks, &Server::announced(&mut command, log, folder), keep_alive);
}

/// Time asleep since boot: what the boot clock has and the monotonic clock has not.
fn boot_minus_monotonic_ns() -> i64 {
    let mut best = (u64::MAX, 0);
    for _ in 0..5 {
        let before = workload::clock::boot_ns();
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `time` is valid for writing.
        unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
        let monotonic = time.tv_sec * 1_000_000_000 + time.tv_nsec;
        let width = workload::clock::boot_ns() - before;
        if width < best.0 {
            best = (width, (before + width / 2) as i64 - monotonic);
        }
    }
    best.1
}

#[rstest]
fn the_heads_of_a_recorded_request_are_what_curl_sent_and_got_without_the_secret(
    #[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks,
) {
    use tracer_user::{
        pipeline::PipelineConfig,
        report::head::lines,
        source::{
            heads::{Head, heads},
            recording::Recording,
        },
        transaction::WallRange,
    };
    let _machine = machine();
    let nginx = Nginx::start(1);
    let tracer = Tracer::start(hooks, &nginx.pids());
    let output = Command::new(tool("curl", "curl"))
        .args(["-sv", "-H", "Authorization: Bearer s3cret-token", "-H", "X-Request-Id: 7"])
        .arg(format!("http://{}/small?id=1&sig=s3cret-signature", nginx.address))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let capture = tracer.stop();
    // What curl says of both heads, line by line.
    let said = String::from_utf8(output.stderr).unwrap();
    let head = |mark: &str| -> String {
        let lines = said.lines().filter_map(|line| line.strip_prefix(mark));
        lines.map(|line| format!("{}\r\n", line.trim_end())).collect()
    };
    let recording = Recording::open(&capture.recording()).unwrap();
    let rows: Vec<_> = recording.transactions(WallRange::default()).flat_map(|rows| rows.unwrap()).collect();
    let row = rows.iter().find(|row| row.status_code == Some(200)).unwrap();
    let found = heads(&capture.recording(), row, &PipelineConfig::default()).unwrap();
    for (found, mark) in [(&found.request, "> "), (&found.response, "< ")] {
        let Head::Whole(bytes) = found else { panic!("{found:?}") };
        assert_eq!(String::from_utf8_lossy(bytes), head(mark));
    }
    let Head::Whole(request) = &found.request else { panic!("{found:?}") };
    let shown = lines(request);
    assert!(shown.contains(&"Authorization: REDACTED".to_owned()), "{shown:?}");
    assert_eq!(shown[0], "GET /small?id=1&sig=REDACTED HTTP/1.1");
    assert!(shown.iter().all(|line| !line.contains("s3cret")), "{shown:?}");
}
