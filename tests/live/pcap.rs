//! One load seen twice: by the probes, and by tcpdump, whose captures are replayed. Both have nginx's log, or BIND's.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use workload::load::{self, Options, Outcome, Template};

use super::{
    Hooks,
    check::{by_stamp, check_order_and_sums},
    dns::{NameServer, udp_port},
    machine,
    process::{Process, wait_for},
    programs::Nginx,
    tool,
    tracer::{Summary, Tracer, Transaction},
    txray_program,
};

/// tcpdump of what `filter` names, once it listens.
#[track_caller]
fn tcpdump(file: &Path, filter: &str, flags: &[&str]) -> Process {
    let mut command = Command::new(tool("tcpdump", "tcpdump"));
    // `-Z root`: the folder is root's. The buffer is above what the load sends.
    command.args(["-U", "-Z", "root", "-B", "65536", "-w"]).arg(file).args(flags);
    command.arg(filter).stdout(Stdio::null()).stderr(Stdio::null());
    let process = Process::spawn(&mut command);
    // It writes the file's header when it listens.
    wait_for("tcpdump to listen", || {
        std::fs::metadata(file).ok().filter(|file| file.len() >= 24).map(|_| ())
    });
    process
}

/// What `txray replay` prints of a capture.
#[track_caller]
pub(super) fn replay(file: &Path, flags: &[&str]) -> (Vec<Transaction>, Summary, String) {
    replay_all(&[file.to_owned()], flags)
}

#[track_caller]
fn replay_all(files: &[PathBuf], flags: &[&str]) -> (Vec<Transaction>, Summary, String) {
    let mut command = Command::new(txray_program());
    let output =
        command.arg("replay").args(files).args(flags).args(["--json", "--summary", "json"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{:?}: {said}", output.status);
    let text = String::from_utf8(output.stdout).unwrap();
    let mut lines: Vec<&str> = text.lines().collect();
    let summary = serde_json::from_str(lines.pop().unwrap()).unwrap();
    (lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect(), summary, said)
}

type Seen = BTreeMap<String, (String, Option<i32>, u64, u64, Option<u16>, bool)>;

fn seen(transactions: &[&Transaction]) -> Seen {
    let seen = by_stamp(transactions).into_iter().map(|(id, row)| {
        let operation = row.operation.clone();
        let outcome = (row.status_code, row.request_bytes, row.response_bytes, row.client_port, row.error);
        (id, (operation, outcome.0, outcome.1, outcome.2, outcome.3, outcome.4))
    });
    seen.collect()
}

#[test]
fn a_capture_of_the_same_traffic_has_the_same_requests() {
    let _machine = machine();
    let nginx = Nginx::start(2);
    let folder = tempfile::TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name);
    let filter = format!("tcp port {}", nginx.address.port());
    let mix = vec![
        Template::get("/small/{n}?id={id}"),
        Template::get("/page.html?id={id}"),
        Template::get("/gone?id={id}"),
        Template { method: "HEAD".into(), ..Template::get("/page.html?id={id}") },
        Template::get("/broken?id={id}"),
    ];
    let address = nginx.address.to_string().parse().unwrap();
    let options = Options { mix, connections: 6, threads: 1, ..Options::new(address, "/", 2_000) };
    let captures = [
        ("lo.pcap", &["-i", "lo"][..]),
        ("any.pcap", &["-i", "any", "--time-stamp-precision=nano", "-s", "1000"]),
        ("short.pcap", &["-i", "lo", "-s", "96"]),
        // A new file after each million bytes.
        ("rotated", &["-i", "lo", "-C", "1"]),
    ];
    let mut dumps: Vec<Process> =
        captures.iter().map(|(name, flags)| tcpdump(&path(name), &filter, flags)).collect();
    let tracer = Tracer::start(Hooks::Syscall, &nginx.pids());
    let asked = load::run(&options).unwrap();
    let capture = tracer.stop();
    assert!(asked.len() == 2_000 && asked.iter().all(|row| row.outcome == Outcome::Ok));
    // The last packets are the ends of the connections.
    let rotated = || -> Vec<PathBuf> {
        let files = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
        let is_one = |path: &PathBuf| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("rotated"))
        };
        files.filter(is_one).collect()
    };
    wait_for("tcpdump to have them all", || {
        let read = |files: &[PathBuf]| replay_all(files, &[]).0.len() >= 2_000;
        (read(&[path("lo.pcap")]) && read(&[path("any.pcap")]) && rotated().len() > 1 && read(&rotated()))
            .then_some(())
    });
    for dump in &mut dumps {
        dump.signal(libc::SIGINT);
        dump.wait("tcpdump");
    }
    check_order_and_sums(&capture);
    let traced = seen(&capture.role("server"));
    assert_eq!(traced.len(), 2_000, "{}", capture.stderr);
    let mut rotated = rotated();
    assert!(rotated.len() > 1, "{rotated:?}");
    // By name the tenth is before the second, and the last may be named first.
    rotated.sort();
    rotated.reverse();
    for (name, files) in
        [("lo.pcap", vec![path("lo.pcap")]), ("any.pcap", vec![path("any.pcap")]), ("rotated", rotated)]
    {
        let (transactions, summary, said) = replay_all(&files, &[]);
        assert_eq!((summary.lost_requests.low, summary.lost_requests.high), (0, 0), "{name}: {said}");
        assert_eq!((transactions.len(), summary.open), (2_000, 0), "{name}: {said}");
        let all: Vec<&Transaction> = transactions.iter().collect();
        assert!(all.iter().all(|row| row.role == "server" && row.time_basis == "packet" && row.pid == 0));
        assert!(all.iter().all(|row| row.confidence == "complete" && row.duration_ns > 0));
        assert!(all.iter().all(|row| row.service == nginx.address.to_string()));
        assert!(seen(&all) == traced, "{name}: not the same requests");
    }
    // Of each head 30 bytes: too few to be read, and none may go by uncounted.
    let (transactions, summary, said) = replay(&path("short.pcap"), &[]);
    let lost = summary.lost_requests;
    let known = transactions.len() as u64;
    assert!(known + lost.low <= 2_000 && 2_000 <= known + lost.high, "{known} {lost:?}: {said}");
    assert!(said.contains("captured in part"), "{said}");
}

/// What both say of a lookup.
fn lookups(transactions: &[&Transaction]) -> BTreeMap<String, usize> {
    let mut lookups = BTreeMap::new();
    for it in transactions {
        let outcome = (it.status_code, it.rows, it.error, &it.error_type, &it.end, &it.confidence);
        let ends = (&it.client_addr, it.client_port, it.server_port, &it.protocol);
        let bytes = (it.request_bytes, it.response_bytes);
        let row = format!("{} {:?} {outcome:?} {ends:?} {bytes:?}", it.operation, it.target);
        *lookups.entry(row).or_default() += 1;
    }
    lookups
}

/// Over UDP, truncated and then over TCP, several questions of one connection.
#[test]
fn a_capture_of_the_same_questions_has_the_same_answers() {
    const ROUNDS: usize = 20;
    let _machine = machine();
    let server = NameServer::bind();
    let folder = tempfile::TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name);
    let flag = udp_port(server.port);
    let filter = format!("port {}", server.port);
    let captures =
        [("lo.pcap", &["-i", "lo"][..]), ("any.pcap", &["-i", "any", "--time-stamp-precision=nano"])];
    let mut dumps: Vec<Process> =
        captures.iter().map(|(name, flags)| tcpdump(&path(name), &filter, flags)).collect();
    let tracer = Tracer::start_with(Hooks::Syscall, &[server.process.pid()], &[&flag]);
    for _ in 0..ROUNDS {
        server.dig("www.example.test A mail.example.test MX");
        server.dig("WWW.example.test AAAA nothere.example.test A +noedns");
        server.dig("www.example.org A +edns=0 +nocookie");
        server.dig("big.example.test TXT");
        server.dig("+tcp +keepopen www.example.test A nothere.example.test AAAA example.test SOA");
    }
    let n = 10 * ROUNDS;
    let asked = server.asked(n);
    assert_eq!(asked.values().sum::<usize>(), n);
    let capture = tracer.stop();
    wait_for("tcpdump to have them all", || {
        captures.iter().all(|(name, _)| replay(&path(name), &[&flag]).0.len() >= n).then_some(())
    });
    for dump in &mut dumps {
        dump.signal(libc::SIGINT);
        dump.wait("tcpdump");
    }
    let traced = lookups(&capture.role("server"));
    assert_eq!(traced.values().sum::<usize>(), n, "{}", capture.stderr);
    for (name, _) in captures {
        let (transactions, summary, said) = replay(&path(name), &[&flag]);
        assert_eq!((summary.lost_requests.low, summary.lost_requests.high), (0, 0), "{name}: {said}");
        assert_eq!((summary.open, summary.unpaired.values().sum::<u64>()), (0, 0), "{name}: {said}");
        let all: Vec<&Transaction> = transactions.iter().collect();
        assert!(all.iter().all(|row| row.role == "server" && row.time_basis == "packet" && row.pid == 0));
        assert!(all.iter().all(|row| row.service == format!("127.0.0.1:{}", server.port)));
        assert_eq!(lookups(&all), traced, "{name}");
        // tcpdump counts as many packets of UDP: a question and an answer each.
        let mut count = Command::new(tool("tcpdump", "tcpdump"));
        let count = count.args(["-nn", "-r"]).arg(path(name)).arg("udp").output().unwrap();
        let n_udp = String::from_utf8_lossy(&count.stdout).lines().count();
        assert_eq!(n_udp, 2 * 6 * ROUNDS, "{name}");
        assert!(said.contains(&format!(", {n_udp} of UDP\n")), "{name}: {said}");
    }
}
