//! BIND and dnsmasq, asked by dig, by glibc and by plain sockets, held against what the servers counted and logged themselves.
//!
//! Needs bind9, bind9-dnsutils, dnsmasq-base, libc-bin, python3, python3-zeroconf, tcpdump and unshare.

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    net::{TcpListener, UdpSocket},
    path::Path,
    process::{Command, Stdio},
};

use rstest::rstest;
use tempfile::TempDir;
use tracer_user::{
    event::Event,
    metrics::Metrics,
    pipeline::{NullVerdicts, Pipeline, PipelineConfig},
    source::{Source as _, recording::Recording, replay::ReplaySource},
};

use super::{
    Hooks, machine,
    process::{Process, wait_for},
    tool,
    tracer::{Capture, Tracer, Transaction},
};

/// A server with a zone of its own.
pub(super) struct NameServer {
    pub(super) process: Process,
    pub(super) port: u16,
    folder: TempDir,
}

/// A port that is free over UDP and TCP.
fn free_port() -> u16 {
    wait_for("a port", || {
        let tcp = TcpListener::bind("127.0.0.1:0").ok()?;
        let port = tcp.local_addr().ok()?.port();
        UdpSocket::bind(("127.0.0.1", port)).ok().map(|_| port)
    })
}

const ZONE: &str = r#"$TTL 300
@ IN SOA ns admin 7 3600 600 86400 60
@ IN NS ns
ns IN A 127.0.0.1
www IN A 192.0.2.1
www IN AAAA 2001:db8::1
mail IN MX 10 www
"#;

impl NameServer {
    /// BIND, as an authority for `example.test`; each question is in its log. Answers over UDP have at most 512 bytes.
    pub(super) fn bind() -> NameServer {
        let (folder, port) = (TempDir::new().unwrap(), free_port());
        let root = folder.path();
        let mut zone = ZONE.to_owned();
        for n in 0..9 {
            zone += &format!("big IN TXT \"{}\"\n", format!("t{n}").repeat(60));
        }
        fs::write(root.join("zone"), zone).unwrap();
        let configuration = format!(
            r#"
options {{
  directory "{root}"; pid-file none; session-keyfile none; listen-on-v6 {{ none; }};
  listen-on port {port} {{ 127.0.0.1; }};
  recursion no; allow-transfer {{ any; }}; dnssec-validation no; notify no; max-udp-size 512;
}};
controls {{ }};
logging {{
  channel asked {{ file "{root}/asked"; severity debug; }}; channel all {{ file "{root}/log"; severity info; }};
  category default {{ all; }}; category queries {{ asked; }};
}};
zone "example.test" {{ type primary; file "{root}/zone"; }};
"#,
            root = root.display()
        );
        fs::write(root.join("named.conf"), configuration).unwrap();
        let mut command = Command::new(tool("named", "bind9"));
        command.args(["-f", "-n", "2", "-c"]).arg(root.join("named.conf"));
        let process = Process::spawn(command.stdin(Stdio::null()));
        let server = NameServer { process, port, folder };
        wait_for("named", || server.said("log").contains("running").then_some(()));
        server
    }

    /// dnsmasq with a few names; each question and answer is in its log.
    fn dnsmasq(more: &[&str]) -> NameServer {
        NameServer::dnsmasq_on(free_port(), more)
    }

    fn dnsmasq_on(port: u16, more: &[&str]) -> NameServer {
        let folder = TempDir::new().unwrap();
        let root = folder.path();
        let mut command = Command::new(tool("dnsmasq", "dnsmasq-base"));
        command
            .args([
                "--keep-in-foreground",
                "--no-resolv",
                "--no-hosts",
                "--user=root",
                "--conf-file=/dev/null",
            ])
            .args(["--bind-interfaces", "--listen-address=127.0.0.1", "--log-queries=extra", "--pid-file="])
            .args(["--address=/host.test/192.0.2.7", "--address=/host.test/2001:db8::7", "--local=/test/"])
            .arg(format!("--port={port}"))
            .arg(format!("--log-facility={}", root.join("log").display()))
            .args(more);
        let process = Process::spawn(command.stdin(Stdio::null()));
        let server = NameServer { process, port, folder };
        wait_for("dnsmasq", || server.said("log").contains("started").then_some(()));
        server
    }

    fn said(&self, file: &str) -> String {
        fs::read_to_string(self.folder.path().join(file)).unwrap_or_default()
    }

    /// Questions in BIND's log, by type and transport (`A` over UDP, `A T` over TCP).
    pub(super) fn asked(&self, n: usize) -> BTreeMap<String, usize> {
        wait_for(&format!("{n} questions in the log"), || {
            let log = self.said("asked");
            (log.lines().count() >= n).then_some(())
        });
        let mut asked = BTreeMap::new();
        for line in self.said("asked").lines() {
            // … query: www.example.test IN AAAA +E(0)T (127.0.0.1)
            let mut words = line.split(" query: ").nth(1).unwrap_or_default().split(' ').skip(2);
            let (kind, flags) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            *asked.entry(format!("{kind}{}", if flags.contains('T') { " T" } else { "" })).or_default() += 1;
        }
        asked
    }

    pub(super) fn dig(&self, arguments: &str) -> String {
        let mut dig = Command::new(tool("dig", "bind9-dnsutils"));
        dig.args(["@127.0.0.1", "-p", &self.port.to_string(), "+tries=1", "+time=20"]);
        let out = dig.args(arguments.split_whitespace()).output().unwrap();
        assert!(out.status.success(), "dig {arguments}: {}", String::from_utf8_lossy(&out.stdout));
        String::from_utf8_lossy(&out.stdout).into_owned()
    }
}

/// Transactions by operation, name and outcome.
fn told<'a>(transactions: impl IntoIterator<Item = &'a Transaction>) -> BTreeMap<String, usize> {
    let mut told = BTreeMap::new();
    for it in transactions {
        let outcome = match (&it.error_type, it.status_code) {
            (Some(error), _) => error.clone(),
            (None, Some(code)) => code.to_string(),
            (None, None) => "-".to_owned(),
        };
        let name = it.target.as_deref().unwrap_or("-");
        *told.entry(format!("{} {name} {outcome} {}", it.operation, it.end)).or_default() += 1;
    }
    told
}

fn map<const N: usize>(rows: [(&str, usize); N]) -> BTreeMap<String, usize> {
    rows.into_iter().map(|(row, n)| (row.to_owned(), n)).collect()
}

/// Nothing lost, nothing unpaired, and a replay of the recording gives the same.
fn check_whole(capture: &Capture) {
    let summary = &capture.summary;
    assert_eq!((summary.lost_requests.low, summary.lost_requests.high), (0, 0), "{:?}", summary.lost);
    assert_eq!(summary.unpaired.values().sum::<u64>(), 0, "{:?}", summary.unpaired);
    assert!(capture.transactions.iter().all(|it| it.confidence == "complete" && it.protocol == "dns"));
    let recording = Recording::open(&capture.recording()).unwrap();
    let mut source = ReplaySource::open(&recording, Default::default(), Metrics::default()).unwrap();
    let mut pipeline = Pipeline::new(PipelineConfig::default(), Metrics::default(), Box::new(NullVerdicts));
    let mut replayed = Vec::new();
    while let Some(batch) = source.next_batch().unwrap() {
        pipeline.push_batch(&batch);
        replayed.extend(pipeline.drain().transactions.iter().map(|it| it.id().to_string()));
    }
    replayed.extend(pipeline.finish().transactions.iter().map(|it| it.id().to_string()));
    let live: Vec<String> = capture.transactions.iter().map(|it| it.id.clone()).collect();
    assert_eq!(replayed, live);
}

pub(super) fn udp_port(port: u16) -> String {
    format!("--udp-port={port}")
}

#[rstest]
fn a_server_is_asked_over_udp_and_tcp(#[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks) {
    let _machine = machine();
    let server = NameServer::bind();
    let tracer = Tracer::start_with(hooks, &[server.process.pid()], &[&udp_port(server.port)]);
    for _ in 0..5 {
        server.dig("www.example.test A mail.example.test MX");
        server.dig("WWW.example.test AAAA nothere.example.test A +noedns");
        server.dig("www.example.org A +edns=0 +nocookie");
        server.dig("+tcp +keepopen www.example.test A nothere.example.test AAAA example.test SOA");
        // The answer does not fit: again over TCP.
        let big = server.dig("big.example.test TXT");
        assert!(big.contains("retrying in TCP mode"), "{big}");
        server.dig("example.test AXFR");
    }
    let asked = server.asked(55);
    let capture = tracer.stop();
    check_whole(&capture);
    assert_eq!(
        asked,
        map([
            ("A", 15),
            ("MX", 5),
            ("AAAA", 5),
            ("TXT", 5),
            ("A T", 5),
            ("AAAA T", 5),
            ("SOA T", 5),
            ("TXT T", 5),
            ("AXFR T", 5),
        ])
    );
    assert_eq!(
        told(&capture.transactions),
        map([
            ("A www.example.test 0 answered", 10),
            ("AAAA www.example.test 0 answered", 5),
            ("MX mail.example.test 0 answered", 5),
            // Errors of whoever asks, not of the server.
            ("A nothere.example.test 3 answered", 5),
            ("AAAA nothere.example.test 3 answered", 5),
            ("A www.example.org 5 answered", 5),
            ("SOA example.test 0 answered", 5),
            ("TXT big.example.test 0 answered", 10),
            ("AXFR example.test 0 answered", 5),
        ])
    );
    assert!(capture.transactions.iter().all(|it| it.role == "server" && it.server_port == Some(server.port)));
}

/// dig asks from connected sockets, as itself.
#[rstest]
fn a_client_asks_over_udp_and_tcp(#[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks) {
    let _machine = machine();
    let server = NameServer::bind();
    let tracer = Tracer::start_with(hooks, &[std::process::id()], &[&udp_port(server.port)]);
    for _ in 0..5 {
        server.dig("www.example.test A nothere.example.test A");
        server.dig("www.example.org A");
        server.dig("big.example.test TXT");
    }
    let asked = server.asked(25);
    let capture = tracer.stop();
    check_whole(&capture);
    assert_eq!(asked, map([("A", 15), ("TXT", 5), ("TXT T", 5)]));
    assert_eq!(
        told(capture.role("client")),
        map([
            ("A www.example.test 0 answered", 5),
            ("A nothere.example.test NXDOMAIN answered", 5),
            ("A www.example.org REFUSED answered", 5),
            ("TXT big.example.test 0 answered", 10),
        ])
    );
    // The server is a child of the same process, and seen from its side too.
    assert_eq!(capture.role("server").len(), 25);
}

/// A program that asks through glibc, whose two questions of a lookup go out in one sendmmsg, to the server that a private
/// /etc/resolv.conf names: on port 53 of another loopback address.
#[rstest]
fn glibc_asks_for_both_families_at_once(#[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks) {
    const N: usize = 20;
    let _machine = machine();
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("resolv.conf"), "nameserver 127.0.0.77\noptions timeout:20 attempts:1\n")
        .unwrap();
    fs::write(folder.path().join("nsswitch.conf"), "hosts: dns\n").unwrap();
    let log = folder.path().join("log");
    let mut command = Command::new(tool("dnsmasq", "dnsmasq-base"));
    command
        .args(["--keep-in-foreground", "--no-resolv", "--no-hosts", "--user=root", "--conf-file=/dev/null"])
        .args(["--bind-interfaces", "--listen-address=127.0.0.77", "--except-interface=none", "--port=53"])
        .args(["--address=/host.test/192.0.2.7", "--address=/host.test/2001:db8::7", "--local=/test/"])
        .args(["--log-queries=extra", "--pid-file="])
        .arg(format!("--log-facility={}", log.display()));
    let server = Process::spawn(command.stdin(Stdio::null()));
    wait_for("dnsmasq", || fs::read_to_string(&log).ok()?.contains("started").then_some(()));
    let tracer = Tracer::start(hooks, &[server.pid(), std::process::id()]);
    let script = format!(
        "mount --bind {0}/resolv.conf /etc/resolv.conf && mount --bind {0}/nsswitch.conf /etc/nsswitch.conf && \
         for n in $(seq {N}); do getent ahosts host.test && ! getent ahosts nothere.test; done",
        folder.path().display()
    );
    let out =
        Command::new(tool("unshare", "util-linux")).args(["--mount", "sh", "-c", &script]).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let capture = tracer.stop();
    let logged = fs::read_to_string(&log).unwrap();
    let count = |what: &str| logged.lines().filter(|line| line.contains(what)).count();
    let asked = [
        "query[A] host.test ",
        "query[AAAA] host.test ",
        "query[A] nothere.test ",
        "query[AAAA] nothere.test ",
    ];
    assert_eq!(asked.map(count), [N; 4], "{logged}");
    check_whole(&capture);
    let of = |role: &str| told(capture.role(role));
    assert_eq!(
        of("client"),
        map([
            ("A host.test 0 answered", N),
            ("AAAA host.test 0 answered", N),
            ("A nothere.test NXDOMAIN answered", N),
            ("AAAA nothere.test NXDOMAIN answered", N),
        ])
    );
    assert_eq!(
        of("server"),
        map([
            ("A host.test 0 answered", N),
            ("AAAA host.test 0 answered", N),
            ("A nothere.test 3 answered", N),
            ("AAAA nothere.test 3 answered", N),
        ])
    );
}

/// Unconnected sockets, several questions in flight, one that nobody answers, and every call there is.
const SOCKETS: &str = r#"
import socket, struct, sys
port = int(sys.argv[1])
def ask(id, name, kind=1):
    labels = b"".join(bytes([len(l)]) + l for l in name.split(b"."))
    return struct.pack(">HHHHHH", id, 0x100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">HH", kind, 1)
server = ("127.0.0.1", port)
open_socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for n in range(10):
    open_socket.sendto(ask(n, b"a%d.host.test" % n), server)
    open_socket.sendmsg([ask(100 + n, b"b%d.host.test" % n)], [], 0, server)
for n in range(20):
    data, peer = open_socket.recvfrom(2000) if n % 2 else open_socket.recvmsg(2000)[::3]
    assert peer == server, peer
connected = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
connected.connect(server)
for n in range(10):
    connected.send(ask(200 + n, b"c%d.host.test" % n))
    connected.recv(2000)
file = connected.detach()
import os
for n in range(10):
    os.write(file, ask(300 + n, b"d%d.host.test" % n))
    os.read(file, 2000)
    os.writev(file, [ask(400 + n, b"e%d.host.test" % n)])
    os.readv(file, [bytearray(2000)])
six = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
for n in range(10):
    six.sendto(ask(500 + n, b"f%d.host.test" % n), ("::ffff:127.0.0.1", port))
    assert six.recvfrom(2000)[1][:2] == ("::ffff:127.0.0.1", port)
# Nobody listens there.
silent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
silent.bind(("127.0.0.1", 0))
quiet = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
quiet.sendto(ask(7, b"silence.test"), ("127.0.0.1", port))
connected = socket.socket(fileno=file)
for s in (open_socket, connected, six, quiet, silent):
    s.close()
"#;

#[rstest]
fn any_call_on_any_socket_asks(#[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks) {
    let _machine = machine();
    let server = NameServer::dnsmasq(&[]);
    let script = server.folder.path().join("sockets.py");
    fs::write(&script, SOCKETS).unwrap();
    let tracer =
        Tracer::start_with(hooks, &[server.process.pid(), std::process::id()], &[&udp_port(server.port)]);
    run(&script, server.port);
    wait_for("the last question", || server.said("log").contains("silence.test").then_some(()));
    let capture = tracer.stop();
    let n_asked = server.said("log").lines().filter(|line| line.contains(" query[")).count();
    assert_eq!(n_asked, 61);
    let (mut answered, mut others) = (BTreeMap::new(), Vec::new());
    for it in capture.role("client") {
        if it.end == "answered" && it.status_code == Some(0) {
            let first: String = it.target.as_deref().unwrap_or_default().chars().take(1).collect();
            *answered.entry(first).or_insert(0) += 1;
        } else {
            others.push((it.target.clone().unwrap_or_default(), it.end.clone()));
        }
    }
    assert_eq!(answered, map([("a", 10), ("b", 10), ("c", 10), ("d", 10), ("e", 10), ("f", 10)]));
    // It was answered, and the socket closed before anybody read it.
    let [(name, end)] = &others[..] else { panic!("{others:?}") };
    assert_eq!(name, "silence.test");
    assert!(["closed", "exited", "tracer_stopped"].contains(&end.as_str()), "{end}");
    assert_eq!(capture.role("server").len(), 61);
    assert!(capture.role("server").iter().all(|it| it.end == "answered" && it.confidence == "complete"));
    assert_eq!(capture.summary.unpaired.values().sum::<u64>(), 0);
    assert_eq!(capture.summary.lost_requests.high, 0);
}

/// Sockets with a peer, and vectors that are sent: the socket tracepoints tell all of it, and no other call of the host pays for a probe at its
/// exit.
const CONNECTED: &str = r#"
import ctypes, os, socket, struct, sys
port = int(sys.argv[1])
def ask(id, name, kind=1):
    labels = b"".join(bytes([len(l)]) + l for l in name.split(b"."))
    return struct.pack(">HHHHHH", id, 0x100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">HH", kind, 1)
class Iovec(ctypes.Structure): _fields_ = [("base", ctypes.c_char_p), ("length", ctypes.c_size_t)]
class Header(ctypes.Structure):
    _fields_ = [("name", ctypes.c_void_p), ("name_length", ctypes.c_uint), ("iovecs", ctypes.POINTER(Iovec)),
                ("n", ctypes.c_size_t), ("control", ctypes.c_void_p), ("control_length", ctypes.c_size_t),
                ("flags", ctypes.c_int), ("unused", ctypes.c_int), ("sent", ctypes.c_uint),
                ("behind", ctypes.c_int)]
libc = ctypes.CDLL(None, use_errno=True)
sys.stdin.readline()
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.connect(("127.0.0.1", port))
for round in range(10):
    # Of different lengths, one in two pieces, one alone, and always in the same memory.
    for n in (7, 1):
        questions = [ask(round * 10 + i, b"v%d%s.host.test" % (n, b"x" * i)) for i in range(n)]
        vector = (Header * n)()
        for header, question in zip(vector, questions):
            pieces = [question[:12], question[12:]] if len(question) % 2 else [question]
            header.iovecs = (Iovec * 2)(*[Iovec(piece, len(piece)) for piece in pieces])
            header.n = len(pieces)
        assert libc.sendmmsg(s.fileno(), vector, n, 0) == n, ctypes.get_errno()
        for _ in range(n):
            s.recvfrom(2000) if round % 2 else s.recv(2000)
"#;

#[test]
fn sockets_with_a_peer_cost_no_probe_at_the_exit_of_calls() {
    let _machine = machine();
    let server = NameServer::dnsmasq(&[]);
    let script = server.folder.path().join("connected.py");
    fs::write(&script, CONNECTED).unwrap();
    let mut command = Command::new(tool("python3", "python3"));
    command.arg(&script).arg(server.port.to_string()).stdin(Stdio::piped());
    let mut client = Process::spawn(&mut command);
    let tracer = Tracer::start_with(Hooks::Socket, &[client.pid()], &[&udp_port(server.port)]);
    client.child.stdin.take().unwrap().write_all(b"\n").unwrap();
    assert_eq!(client.wait("the client"), Some(0));
    let capture = tracer.stop();
    check_whole(&capture);
    let expected = ["", "x", "xx", "xxx", "xxxx", "xxxxx", "xxxxxx"]
        .map(|end| (format!("A v7{end}.host.test 0 answered"), 10))
        .into_iter()
        .chain([("A v1.host.test 0 answered".to_owned(), 10)]);
    assert_eq!(told(&capture.transactions), expected.collect());
    let attached = counted(&capture, "datagram_exit.attached");
    assert!(!attached.is_empty() && attached.iter().all(|attached| *attached == 0), "{attached:?}");
    assert_eq!(counted(&capture, "kernel.no_buffer_message_vector").last(), Some(&0));
}

/// One call that receives more messages than any resolver takes at once: all are told.
const VECTOR: &str = r#"
import ctypes, socket, struct, sys
port, n = int(sys.argv[1]), 150
class Iovec(ctypes.Structure): _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]
class Header(ctypes.Structure):
    _fields_ = [("name", ctypes.c_void_p), ("name_length", ctypes.c_uint), ("iovecs", ctypes.POINTER(Iovec)),
                ("n", ctypes.c_size_t), ("control", ctypes.c_void_p), ("control_length", ctypes.c_size_t),
                ("flags", ctypes.c_int), ("unused", ctypes.c_int), ("received", ctypes.c_uint),
                ("behind", ctypes.c_int)]
libc = ctypes.CDLL(None, use_errno=True)
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for i in range(n):
    name = b"x%d" % i
    s.sendto(struct.pack(">HHHHHH", i, 0x100, 1, 0, 0, 0) + bytes([len(name)]) + name + b"\4host\4test\0\0\1\0\1",
             ("127.0.0.1", port))
buffers = [ctypes.create_string_buffer(512) for _ in range(n)]
vector = (Header * n)()
names = [ctypes.create_string_buffer(16) for _ in range(n)]
for header, buffer, name in zip(vector, buffers, names):
    header.name, header.name_length = ctypes.addressof(name), 16
    header.iovecs = (Iovec * 1)(Iovec(ctypes.addressof(buffer), 512))
    header.n = 1
# Returns when as many have come.
assert libc.recvmmsg(s.fileno(), vector, n, 0, None) == n, ctypes.get_errno()
"#;

#[test]
fn a_call_that_receives_150_messages_tells_all() {
    let _machine = machine();
    let server = NameServer::dnsmasq(&[]);
    let script = server.folder.path().join("vector.py");
    fs::write(&script, VECTOR).unwrap();
    let tracer = Tracer::start_with(
        Hooks::Socket,
        &[server.process.pid(), std::process::id()],
        &[&udp_port(server.port)],
    );
    run(&script, server.port);
    let capture = tracer.stop();
    for role in ["client", "server"] {
        let n_whole = capture
            .role(role)
            .iter()
            .filter(|it| it.end == "answered" && it.confidence == "complete")
            .count();
        assert_eq!((role, capture.role(role).len(), n_whole), (role, 150, 150));
    }
    assert_eq!(counted(&capture, "kernel.datagram_vector").last(), Some(&0));
    assert_eq!((capture.summary.lost_requests.high, capture.summary.unpaired.values().sum::<u64>()), (0, 0));
}

/// The probe at the exit of calls comes with the first socket that needs it: what that one received before is lost, and counted.
#[test]
fn a_server_that_starts_later_is_seen_from_its_first_questions_on() {
    const N: usize = 200;
    let _machine = machine();
    let port = free_port();
    let tracer = Tracer::start_with(Hooks::Socket, &[std::process::id()], &[&udp_port(port)]);
    let server = NameServer::dnsmasq_on(port, &[]);
    // The test itself asks, one after the other, from a socket with a peer.
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(("127.0.0.1", port)).unwrap();
    let mut buffer = [0; 2000];
    for n in 0..N {
        let mut question = vec![0, n as u8, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        question.extend_from_slice(b"\x01a\x04host\x04test\0\0\x01\0\x01");
        socket.send(&question).unwrap();
        socket.recv(&mut buffer).unwrap();
    }
    let capture = tracer.stop();
    let n_asked = server.said("log").lines().filter(|line| line.contains(" query[")).count();
    assert_eq!(n_asked, N);
    assert_eq!(capture.role("client").len(), N);
    let seen = capture.role("server").len();
    let lost = counted(&capture, "kernel.datagram_unnamed").last().copied().unwrap_or_default() as usize;
    assert!(lost >= 1 && seen >= 1, "{seen} seen, {lost} lost");
    // A call in progress while the probe is being attached may be counted and told.
    assert!((N..=N + 1).contains(&(seen + lost)), "{seen} seen, {lost} lost");
    assert_eq!(
        (capture.summary.lost_requests.low, capture.summary.lost_requests.high),
        (lost as u64, lost as u64)
    );
    assert_eq!(counted(&capture, "datagram_exit.attached").last(), Some(&1));
}

/// A responder and a browser of python-zeroconf, in a network of their own.
const ZEROCONF: &str = r#"
import socket
from zeroconf import ServiceInfo, Zeroconf
zeroconf = Zeroconf(interfaces=["127.0.0.1"])
info = ServiceInfo("_txray._tcp.local.", "one._txray._tcp.local.", addresses=[socket.inet_aton("127.0.0.1")], port=80,
                   server="one.local.")
zeroconf.register_service(info)
assert zeroconf.get_service_info("_txray._tcp.local.", "one._txray._tcp.local.", timeout=2000)
assert not zeroconf.get_service_info("_txray._tcp.local.", "two._txray._tcp.local.", timeout=1000)
zeroconf.unregister_service(info)
zeroconf.close()
"#;

/// Everybody asks all and tells all: each message is sent once and received once, as tcpdump saw them go by.
#[rstest]
fn multicast_dns_has_questions_and_announcements(#[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks) {
    let _machine = machine();
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("responder.py"), ZEROCONF).unwrap();
    // tcpdump says "listening on" when it does.
    let script = r#"
        ip link set lo up; ip link set lo multicast on; ip route add 224.0.0.0/4 dev lo
        tcpdump --immediate-mode -i lo -U -w seen.pcap udp port 5353 2> log & dump=$!
        until grep -q listening log; do sleep 0.05; done
        read go; "$PYTHON" responder.py; code=$?
        kill $dump; wait $dump; tcpdump -nn -r seen.pcap > seen 2> /dev/null; exit $code
    "#;
    let mut command = Command::new(tool("unshare", "util-linux"));
    command.args(["--net", "sh", "-c", script]).env("PYTHON", tool("python3", "python3-zeroconf"));
    command.current_dir(folder.path()).stdin(Stdio::piped());
    let mut network = Process::spawn(&mut command);
    let tracer = Tracer::start(hooks, &[network.pid()]);
    network.child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    assert_eq!(network.wait("zeroconf"), Some(0));
    let capture = tracer.stop();
    let seen = fs::read_to_string(folder.path().join("seen")).unwrap();
    // `0*- [0q] 4/0/0 …` answers, `0 [4q] SRV (QU)? …` asks.
    let n_told = seen.lines().filter(|line| line.contains("*-")).count();
    let n_asked = seen.lines().count() - n_told;
    assert!(n_told >= 3 && n_asked >= 4, "{seen}");
    assert!(capture.transactions.iter().all(|it| it.protocol == "mdns" && it.error_type.is_none()));
    // Before the probe at the exit of calls was there: lost, and counted.
    let unnamed = counted(&capture, "kernel.datagram_unnamed").last().copied().unwrap_or_default() as usize;
    for (role, lost) in [("client", 0), ("server", unnamed)] {
        let (told, asked): (Vec<_>, Vec<_>) =
            capture.role(role).into_iter().partition(|it| it.operation == "announcement");
        assert_eq!(told.len() + asked.len() + lost, n_told + n_asked, "{role}: {seen}");
        assert!(told.len() <= n_told && asked.len() <= n_asked, "{role}: {seen}");
        assert!(told.iter().all(|it| it.target.as_deref() == Some("_txray._tcp.local")), "{told:?}");
    }
    // What tcpdump has stored of it: questions are the group's, announcements the announcer's.
    let (stored, summary, said) = super::pcap::replay(&folder.path().join("seen.pcap"), &[]);
    let n_stored = |operation: fn(&str) -> bool| stored.iter().filter(|it| operation(&it.operation)).count();
    assert_eq!(n_stored(|it| it == "announcement"), n_told, "{said}");
    assert_eq!(n_stored(|it| it != "announcement"), n_asked, "{said}");
    assert!(stored.iter().all(|it| it.role == "server" && it.protocol == "mdns"), "{stored:?}");
    for it in &stored {
        let service = if it.operation == "announcement" { "127.0.0.1:5353" } else { "224.0.0.251:5353" };
        assert_eq!(it.service, service, "{it:?}");
    }
    assert_eq!(summary.lost_requests.high, 0);
    let lost = &capture.summary.lost_requests;
    assert!(lost.low <= unnamed as u64 && lost.high == unnamed as u64, "{unnamed}: {lost:?}");
    assert!(hooks == Hooks::Socket || unnamed == 0);
}

/// The values of a counter in the recording, in order of time.
pub(super) fn counted(capture: &Capture, name: &str) -> Vec<u64> {
    let recording = Recording::open(&capture.recording()).unwrap();
    let mut source = ReplaySource::open(&recording, Default::default(), Metrics::default()).unwrap();
    let mut values = Vec::new();
    while let Some(batch) = source.next_batch().unwrap() {
        for event in batch.events {
            if let Event::Counters(counters) = event {
                values.extend(counters.values.iter().filter(|(key, _)| **key == *name).map(|(_, n)| *n));
            }
        }
    }
    values
}

#[track_caller]
fn run(script: &Path, port: u16) {
    let out = Command::new(tool("python3", "python3")).arg(script).arg(port.to_string()).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}
