//! Redis and its own programs, held against what the server counted (`INFO commandstats`) and what the client knows of each reply.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::net::UnixStream,
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use rstest::rstest;
use tempfile::TempDir;

use super::{
    Hooks,
    check::check_order_and_sums,
    machine,
    process::{PATIENCE, Process, wait_for},
    tool,
    tracer::{Capture, Tracer, Transaction},
};

/// A server on a free loopback port and a socket of its own.
struct Server {
    process: Process,
    port: u16,
    folder: TempDir,
}

impl Server {
    fn start() -> Server {
        let folder = TempDir::new().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = Command::new(tool("redis-server", "redis-server"));
        command.args(["--bind", "127.0.0.1", "--save", "", "--port", &port.to_string(), "--dir"]);
        command.arg(folder.path()).arg("--unixsocket").arg(folder.path().join("socket"));
        let process = Process::spawn(command.stdin(Stdio::null()).stdout(Stdio::null()));
        let server = Server { process, port, folder };
        wait_for("redis-server", || {
            UnixStream::connect(server.socket()).ok()?;
            TcpStream::connect(("127.0.0.1", port)).ok()
        });
        server
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    /// Asks once, on a connection of its own.
    fn ask(&self, words: &[&str]) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(&command(words)).unwrap();
        stream.write_all(&command(&["QUIT"])).unwrap();
        let mut reply = Vec::new();
        stream.read_to_end(&mut reply).unwrap();
        String::from_utf8_lossy(&reply).into_owned()
    }

    /// Calls and errors by command, in the names of transactions.
    fn stats(&self) -> BTreeMap<String, (u64, u64)> {
        let mut stats = BTreeMap::new();
        for line in self.ask(&["INFO", "commandstats"]).lines() {
            let Some((name, fields)) = line.strip_prefix("cmdstat_").and_then(|rest| rest.split_once(':'))
            else {
                continue;
            };
            let field = |name: &str| -> u64 {
                let mut fields = fields.split(',').filter_map(|field| field.split_once('='));
                fields.find(|(key, _)| *key == name).unwrap().1.parse().unwrap()
            };
            let counts =
                (field("calls") + field("rejected_calls"), field("failed_calls") + field("rejected_calls"));
            stats.insert(name.replace('|', " ").to_uppercase(), counts);
        }
        stats
    }
}

fn command(words: &[&str]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len());
    for word in words {
        bytes += &format!("${}\r\n{word}\r\n", word.len());
    }
    bytes.into_bytes()
}

/// Calls and errors by operation, of what one side saw. What was pushed is nobody's command.
fn counts(capture: &Capture, role: &str) -> BTreeMap<String, (u64, u64)> {
    let mut counts = BTreeMap::new();
    for transaction in requests(capture, role) {
        let (calls, errors) = counts.entry(transaction.operation.clone()).or_insert((0, 0));
        *calls += 1;
        *errors += u64::from(transaction.error);
    }
    counts
}

fn requests<'a>(capture: &'a Capture, role: &str) -> Vec<&'a Transaction> {
    let pushes = ["message", "pmessage", "smessage", "invalidate"];
    let is_request = |transaction: &&Transaction| !pushes.contains(&transaction.operation.as_str());
    capture.role(role).into_iter().filter(is_request).collect()
}

/// What was asked behind the statistics was not counted there.
fn without_the_last(mut counts: BTreeMap<String, (u64, u64)>) -> BTreeMap<String, (u64, u64)> {
    for name in ["INFO", "QUIT"] {
        counts.remove(name);
    }
    counts
}

#[rstest]
fn every_call_of_the_benchmark_is_counted(
    #[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks,
    #[values(1, 16)] pipeline: usize,
) {
    let _machine = machine();
    let server = Server::start();
    let tracer = Tracer::start(hooks, &[server.process.pid()]);
    server.ask(&["CONFIG", "RESETSTAT"]);
    for to in [["-p".into(), server.port.to_string()], ["-s".into(), server.socket().display().to_string()]] {
        let mut benchmark = Command::new(tool("redis-benchmark", "redis-tools"));
        benchmark.args(to).args(["-q", "-n", "400", "-c", "4", "-P", &pipeline.to_string()]);
        benchmark.args(["-t", "ping_mbulk,set,get,incr,lpush,rpop,sadd,hset,zadd,lrange_100"]);
        let said = benchmark.output().unwrap();
        assert!(said.status.success(), "{said:?}");
    }
    let stats = without_the_last(server.stats());
    let capture = tracer.stop();
    check_order_and_sums(&capture);
    assert!(stats["GET"].0 >= 800 && stats["LRANGE"].0 >= 800, "{stats:?}");
    assert_eq!(capture.summary.lost_requests.high, 0, "{:?}", capture.summary);
    assert_eq!(without_the_last(counts(&capture, "server")), stats);
    for transaction in &capture.transactions {
        assert_eq!(transaction.protocol, "redis", "{transaction:?}");
    }
    // One at a time, each is whole; of a pipeline, what is beyond the first budget of a connection is not.
    if pipeline == 1 {
        let whole = |transaction: &&Transaction| {
            transaction.end == "answered" && transaction.confidence == "complete"
        };
        assert_eq!(capture.transactions.iter().filter(whole).count(), capture.transactions.len());
        assert_eq!(capture.summary.unpaired.values().sum::<u64>(), 0, "{:?}", capture.summary);
    }
}

/// A verdict comes some 20 ms late, and by then a pipeline of 11 KiB is over. From the second connection on, its port is known.
#[rstest]
fn deep_pipelines_are_whole_where_the_port_is_known(#[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks) {
    let _machine = machine();
    let server = Server::start();
    let tracer = Tracer::start_with(hooks, &[server.process.pid()], &["--comm", "redis-benchmark"]);
    server.ask(&["CONFIG", "RESETSTAT"]);
    // Until the tracer has recognised it.
    std::thread::sleep(Duration::from_secs(1));
    let mut benchmark = Command::new(tool("redis-benchmark", "redis-tools"));
    benchmark.args(["-p", &server.port.to_string(), "-q", "-n", "5120", "-c", "4", "-P", "256"]);
    let said = benchmark.args(["-t", "set,get,incr"]).output().unwrap();
    assert!(said.status.success(), "{said:?}");
    let stats = without_the_last(server.stats());
    let capture = tracer.stop();
    check_order_and_sums(&capture);
    assert!(stats["GET"].0 >= 5120 && stats["SET"].0 >= 5120, "{stats:?}");
    assert_eq!(without_the_last(counts(&capture, "server")), stats);
    let client = counts(&capture, "client");
    for name in ["GET", "SET", "INCR"] {
        assert_eq!(client[name], stats[name], "{name}");
    }
    let whole = |one: &&Transaction| one.end == "answered" && one.confidence == "complete";
    assert_eq!(capture.transactions.iter().filter(whole).count(), capture.transactions.len());
    assert_eq!(capture.summary.unpaired.values().sum::<u64>(), 0, "{:?}", capture.summary);
    assert_eq!(capture.summary.lost_requests.high, 0, "{:?}", capture.summary);
}

/// A client that pipelines as many GETs as it likes; the value of `k<n>` has `n` bytes.
const PIPELINES: &str = r#"
import random, socket, sys, time
def command(*words):
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)
def connect(to):
    if to.startswith("/"):
        one = socket.socket(socket.AF_UNIX); one.connect(to); return one
    return socket.create_connection(("127.0.0.1", int(to)))
def read(file):
    line = file.readline()
    if line[:1] == b"$" and line != b"$-1\r\n":
        return file.read(int(line[1:]) + 2)[:-2]
    if line[:1] in b"*>~":
        return [read(file) for _ in range(int(line[1:]))]
    return line
sys.stdin.readline()
random.seed(7)
for to in sys.argv[1:]:
    one = connect(to); file = one.makefile("rb")
    small = list(range(120)) + [1000]; large = [5000, 20000, 70000]
    for n in small + large:
        one.sendall(command(b"SET", b"k%d" % n, b"v" * n)); assert read(file) == b"+OK\r\n"
    # Until the tracer has asked for more than the first bytes of each turn.
    time.sleep(1)
    # The server gathers some 64 KiB in one call, more if the last one is larger.
    for depth in [1, 2, 16, 40] * 10:
        asked = [random.choice(small if random.random() < 0.9 else large) for _ in range(depth)]
        one.sendall(b"".join(command(b"GET", b"k%d" % n) for n in asked))
        for n in asked:
            assert read(file) == b"v" * n
    one.close()
"#;

/// A client in a process of its own, which waits for a line before it begins.
fn python(program: &str, arguments: &[String]) -> Process {
    let mut command = Command::new(tool("python3", "python3"));
    command.args(["-c", program]).args(arguments);
    Process::spawn(command.stdin(Stdio::piped()))
}

fn run(mut client: Process) {
    client.child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    assert_eq!(client.wait("the client"), Some(0));
}

#[rstest]
fn every_reply_of_a_pipeline_is_its_request_s(#[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks) {
    let _machine = machine();
    let server = Server::start();
    let client = python(PIPELINES, &[server.port.to_string(), server.socket().display().to_string()]);
    let tracer = Tracer::start(hooks, &[server.process.pid(), client.pid()]);
    run(client);
    let capture = tracer.stop();
    check_order_and_sums(&capture);
    let per_connection = 124 + 10 * (1 + 2 + 16 + 40);
    for role in ["server", "client"] {
        let mut n_whole = 0;
        let transactions = requests(&capture, role);
        assert_eq!(transactions.len(), 2 * per_connection, "{role}: {:?}", capture.summary);
        for transaction in transactions {
            let target = transaction.target.as_deref().unwrap();
            let key = target.split(' ').nth(1).unwrap();
            let n: u64 = key.strip_prefix('k').unwrap().parse().unwrap();
            let value = format!("${n}\r\n").len() as u64 + n + 2;
            let (request, response) = if transaction.operation == "SET" {
                assert_eq!(target, format!("SET {key} ?"));
                (format!("*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n", key.len()).len() as u64 + value, 5)
            } else {
                assert_eq!(target, format!("GET {key}"));
                (command(&["GET", key]).len() as u64, value)
            };
            assert_eq!(transaction.request_bytes, request, "{transaction:?}");
            if transaction.end == "answered" {
                assert_eq!(transaction.response_bytes, response, "{transaction:?}");
                n_whole += 1;
            }
        }
        assert_eq!(n_whole, 2 * per_connection, "{role}: {:?}", capture.summary);
    }
}

/// Everything that is not one request and one reply.
const ODD: &str = r#"
import socket, sys, time
def command(*words):
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)
def connect():
    one = socket.create_connection(("127.0.0.1", int(sys.argv[1]))); one.settimeout(60)
    return one, one.makefile("rb")
def read(file):
    line = file.readline()
    if line[:1] == b"$" and line != b"$-1\r\n":
        return file.read(int(line[1:]) + 2)[:-2]
    if line[:1] in b"*>~%":
        return [read(file) for _ in range(int(line[1:]) * (2 if line[:1] == b"%" else 1))]
    return line
sys.stdin.readline()
(a, fa), (b, fb), (c, fc) = connect(), connect(), connect()
def ask(*words):
    a.sendall(command(*words)); return read(fa)
for version in [b"2", b"3"]:
    b.sendall(command(b"HELLO", version)); read(fb)
    b.sendall(command(b"SUBSCRIBE", b"news", b"sport")); read(fb); read(fb)
    for n in range(20):
        assert ask(b"PUBLISH", b"news", b"secret %d" % n) == b":1\r\n"
        assert read(fb)[2] == b"secret %d" % n
        b.sendall(command(b"PING")); read(fb)
    b.sendall(command(b"UNSUBSCRIBE")); read(fb); read(fb)
for n in range(10):
    a.sendall(command(b"MULTI") + command(b"SET", b"n", b"secret") + command(b"LPUSH", b"n", b"secret") + command(b"EXEC"))
    for _ in range(4): read(fa)
    c.sendall(command(b"BLPOP", b"queue", b"0")); time.sleep(0.02)
    ask(b"RPUSH", b"queue", b"secret"); read(fc)
    ask(b"LPUSH", b"n", b"secret")
    ask(b"NOSUCH", b"secret")
    ask(b"AUTH", b"secret", b"secret")
    ask(b"EVAL", b"return redis.call('get', KEYS[1])", b"1", b"n")
    a.sendall(command(b"CLIENT", b"REPLY", b"SKIP") + command(b"SET", b"skipped", b"1") + command(b"GET", b"skipped")); read(fa)
    ask(b"SELECT", b"%d" % (n % 3)); ask(b"GET", b"where"); ask(b"SELECT", b"0")
a.sendall(b"PING\r\n"); read(fa)
"#;

#[rstest]
fn subscriptions_transactions_waits_and_errors(#[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks) {
    let _machine = machine();
    let server = Server::start();
    let client = python(ODD, &[server.port.to_string()]);
    let tracer = Tracer::start(hooks, &[server.process.pid(), client.pid()]);
    server.ask(&["CONFIG", "RESETSTAT"]);
    run(client);
    let mut stats = without_the_last(server.stats());
    let capture = tracer.stop();
    check_order_and_sums(&capture);
    // What the server counts at its execution within EXEC is an error of the EXEC here.
    let in_exec = stats.get_mut("LPUSH").unwrap();
    assert_eq!(*in_exec, (20, 20));
    in_exec.1 -= 10;
    stats.get_mut("EXEC").unwrap().1 += 10;
    // A call of a script's; a command that does not exist is counted nowhere.
    stats.get_mut("GET").unwrap().0 -= 10;
    stats.insert("NOSUCH".into(), (10, 10));
    let mut seen = without_the_last(counts(&capture, "server"));
    assert_eq!(seen, stats);
    seen.remove("CONFIG RESETSTAT");
    assert_eq!(without_the_last(counts(&capture, "client")), seen);
    for role in ["server", "client"] {
        let rows = |operation: &str| -> Vec<&Transaction> {
            capture.role(role).into_iter().filter(|row| row.operation == operation).collect()
        };
        assert_eq!(rows("message").len(), 40);
        assert!(
            rows("message").iter().all(|row| row.kind == "message" && row.target.as_deref() == Some("news"))
        );
        assert!(rows("SUBSCRIBE").iter().all(|row| row.target.as_deref() == Some("SUBSCRIBE news sport")));
        // Two confirmations: one answer.
        assert!(rows("SUBSCRIBE").iter().all(|row| row.response_bytes == 67), "{:?}", rows("SUBSCRIBE"));
        assert!(rows("BLPOP").iter().all(|row| row.kind == "longlived" && row.end == "answered"));
        let error = |row: &&&Transaction| row.error_type.as_deref() == Some("WRONGTYPE");
        assert_eq!(rows("EXEC").iter().filter(error).count(), 10);
        let databases: Vec<_> = rows("GET").iter().filter_map(|row| row.namespace.clone()).collect();
        assert_eq!(databases.iter().filter(|db| *db == "2").count(), 3, "{databases:?}");
        for row in capture.role(role) {
            assert_eq!((row.end.as_str(), row.confidence.as_str()), ("answered", "complete"), "{row:?}");
        }
    }
    assert_eq!(capture.summary.unpaired.values().sum::<u64>(), 0, "{:?}", capture.summary);
    assert!(!capture.stdout.contains("secret"), "values are shown");
}

/// Benchmarks begun before the tracer: what is understood of it is right.
#[rstest]
fn attached_in_the_middle(#[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks) {
    let _machine = machine();
    let server = Server::start();
    let mut benchmark = Command::new(tool("redis-benchmark", "redis-tools"));
    benchmark.args(["-p", &server.port.to_string(), "-q", "-n", "100000000", "-c", "2", "-t", "get"]);
    let benchmark = Process::spawn(benchmark.stdout(Stdio::null()));
    wait_for("calls", || (server.stats().get("GET")?.0 > 500).then_some(()));
    let tracer = Tracer::start(hooks, &[server.process.pid()]);
    let before = server.stats()["GET"].0;
    wait_for("more calls", || (server.stats()["GET"].0 > before + 2000).then_some(()));
    let after = server.stats()["GET"].0;
    std::thread::sleep(Duration::from_millis(50));
    let capture = tracer.stop();
    drop(benchmark);
    check_order_and_sums(&capture);
    let gets: Vec<_> = capture.transactions.iter().filter(|row| row.operation == "GET").collect();
    let seen = gets.len() as u64 + capture.summary.lost_requests.high + capture.summary.open;
    assert!(seen >= after - before, "{seen} of {before}..{after}: {:?}", capture.summary);
    for row in gets.iter().filter(|row| row.end == "answered") {
        assert_eq!((row.request_bytes, row.response_bytes), (36, 5), "{row:?}");
    }
    let n_whole = gets.iter().filter(|row| row.end == "answered" && row.confidence == "complete").count();
    assert!(n_whole as u64 * 10 > (after - before) * 9, "{n_whole} of {before}..{after}");
    let _ = fs::remove_file(server.socket());
}

/// Connections that begin with lines, as people type them: a turn each, and all at once by netcat.
const LINES: &str = r#"
import socket, sys
sys.stdin.readline()
for first in [b"PING", b"set typed secret", b"GET typed", b"incr n", b"hgetall nothing", b"lpush n secret", b"quit"]:
    one = socket.create_connection(("127.0.0.1", int(sys.argv[1]))); one.settimeout(60)
    for line in [first, b"GET typed", b"QUIT"][:1 if first == b"quit" else 3]:
        one.sendall(line + b"\r\n"); assert one.recv(65536)
    one.close()
"#;

#[rstest]
fn connections_that_begin_with_a_line(#[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks) {
    let _machine = machine();
    let server = Server::start();
    let client = python(LINES, &[server.port.to_string()]);
    let mut netcat = Command::new("/bin/sh");
    netcat.args(["-c", "read go; exec \"$@\"", "sh"]).arg(tool("nc", "netcat-openbsd"));
    netcat.args(["-N", "127.0.0.1", &server.port.to_string()]);
    let mut netcat = Process::spawn(netcat.stdin(Stdio::piped()).stdout(Stdio::null()));
    let tracer = Tracer::start(hooks, &[server.process.pid(), client.pid(), netcat.pid()]);
    server.ask(&["CONFIG", "RESETSTAT"]);
    run(client);
    netcat.child.stdin.take().unwrap().write_all(b"go\nPING\r\nSET typed secret\r\nGET typed\r\n").unwrap();
    assert_eq!(netcat.wait("netcat"), Some(0));
    let stats = without_the_last(server.stats());
    let capture = tracer.stop();
    check_order_and_sums(&capture);
    // What `QUIT` is answered could be POP3's: that connection is not known.
    assert_eq!(stats["GET"], (8, 0), "{stats:?}");
    let seen = without_the_last(counts(&capture, "server"));
    assert_eq!(seen, stats);
    let clients = without_the_last(counts(&capture, "client"));
    let mut expected = stats;
    expected.remove("CONFIG RESETSTAT");
    assert_eq!(clients, expected);
    for one in &capture.transactions {
        let told = (one.protocol.as_str(), one.end.as_str(), one.confidence.as_str());
        assert_eq!(told, ("redis", "answered", "complete"), "{one:?}");
    }
    assert!(!capture.stdout.contains("secret"), "values are shown");
}
