//! Real programs over TLS, each against its own log: libraries by libcurl, NSS' own programs, Redis, MariaDB, nginx over HTTP/2.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use rstest::rstest;
use tempfile::TempDir;

use crate::tls_tried::tried;

use super::{
    Hooks,
    check::check_order_and_sums,
    machine,
    mysql::{MariaDb, PASSWORD, USER},
    process::{Process, wait_for},
    tls::{NAME, certificate, free_address},
    tool,
    tracer::{Capture, Tracer, Transaction},
};

pub(super) const LIBSSL: &str = "/usr/lib/x86_64-linux-gnu/libssl.so.3";

/// The transactions of a role that were seen inside TLS.
pub(super) fn inside<'a>(capture: &'a Capture, role: &str) -> Vec<&'a Transaction> {
    let mut seen = capture.role(role);
    seen.retain(|one| one.tls.as_ref().is_some_and(|tls| tls.library.is_some()));
    seen
}

/// Nothing was lost, and nothing stands alone.
#[track_caller]
pub(super) fn check_whole(capture: &Capture) {
    check_order_and_sums(capture);
    let summary = &capture.summary;
    assert_eq!(summary.unpaired.values().sum::<u64>(), 0, "{:?}\n{}", summary.unpaired, capture.stderr);
    assert_eq!(summary.lost.values().sum::<u64>(), 0, "{:?}\n{}", summary.lost, capture.stderr);
    assert_eq!(summary.lost_requests.high, 0, "{}", capture.stderr);
}

/// A library that nobody else uses: probes on its file are the test's own.
pub(super) fn own_libssl() -> TempDir {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = TempDir::new().unwrap();
    // Servers run as other users.
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::copy(LIBSSL, folder.path().join("libssl.so.3")).unwrap();
    folder
}

/// Waits until there are more probes than so many, or fewer (those on a file take the place of several processes' own), and no more come: a process
/// was looked at.
#[track_caller]
pub(super) fn wait_for_probes(tracer: &Tracer, before: usize) -> usize {
    let mut last = (0, 0);
    wait_for("probes", || {
        let n = n_probes(tracer);
        last = if n == last.0 { (n, last.1 + 1) } else { (n, 0) };
        thread::sleep(Duration::from_millis(10));
        (n != before && last.1 > 15).then_some(n)
    })
}

pub(super) fn n_probes(tracer: &Tracer) -> usize {
    let files = fs::read_dir(format!("/proc/{}/fd", tracer.pid())).unwrap().flatten();
    let is_probe = |file: &fs::DirEntry| {
        // A link of many uprobes, or an event of perf. Links of tracepoints are files of the same sort, as many all the time.
        fs::read_link(file.path()).is_ok_and(|name| {
            let name = name.to_string_lossy();
            name.contains("perf_event") || name.contains("bpf_link") || name.contains("bpf-link")
        })
    };
    files.filter(is_probe).count()
}

/// The next line of a program that says what it has done.
#[track_caller]
pub(super) fn line(said: &mut impl std::io::BufRead) -> String {
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}

pub(super) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/servers").join(name)
}

/// nginx with one worker, and its log of what it answered.
pub(super) struct Nginx {
    process: Process,
    pub(super) address: SocketAddr,
    folder: TempDir,
}

impl Nginx {
    pub(super) const PAGE: usize = 3000;

    /// `listen`: what stands behind the address, `more`: directives of the server.
    #[track_caller]
    pub(super) fn start(listen: &str, more: &str, libraries: Option<&Path>) -> Nginx {
        let folder = TempDir::new().unwrap();
        let root = folder.path();
        let (key, certificate) = certificate(root);
        let address = free_address();
        fs::create_dir(root.join("www")).unwrap();
        fs::write(root.join("www/page.html"), "x".repeat(Nginx::PAGE)).unwrap();
        let configuration = format!(
            "daemon off; user root; worker_processes 1; pid {root}/pid; error_log {root}/error.log;
             events {{ worker_connections 128; }}
             http {{
                 log_format rows '$request_uri $status $ssl_early_data';
                 access_log {root}/access.log rows;
                 keepalive_requests 100000;
                 server {{ listen {address} ssl {listen}; ssl_certificate {certificate}; ssl_certificate_key {key};
                     root {root}/www; {more} }}
             }}",
            root = root.display(),
            certificate = certificate.display(),
            key = key.display(),
        );
        fs::write(root.join("nginx.conf"), configuration).unwrap();
        let mut command = Command::new(tool("nginx", "nginx"));
        command
            .arg("-p")
            .arg(root)
            .arg("-c")
            .arg(root.join("nginx.conf"))
            .arg("-e")
            .arg(root.join("error.log"));
        if let Some(libraries) = libraries {
            command.env("LD_LIBRARY_PATH", libraries);
        }
        let process = Process::spawn(&mut command);
        wait_for("nginx to listen", || TcpStream::connect(address).ok());
        Nginx { process, address, folder }
    }

    /// The master and its worker.
    pub(super) fn pids(&self) -> [u32; 2] {
        let master = self.process.pid();
        let worker = wait_for("nginx's worker", || {
            let children = fs::read_to_string(format!("/proc/{master}/task/{master}/children")).ok()?;
            children.split_whitespace().next()?.parse().ok()
        });
        [master, worker]
    }

    /// What it has logged, once that is `n` rows.
    #[track_caller]
    pub(super) fn rows(&self, n: usize) -> Vec<String> {
        wait_for("nginx's log", || {
            let text = fs::read_to_string(self.folder.path().join("access.log")).ok()?;
            (text.lines().count() >= n).then(|| text.lines().map(str::to_owned).collect())
        })
    }
}

/// Keep-alive connections of three libraries in one process, in turn.
#[rstest]
fn three_libraries_in_one_process_are_told_apart(#[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks) {
    const N: usize = 12;
    let _machine = machine();
    let nginx = Nginx::start("", "", None);
    let mut command = Command::new(tool("python3", "python3"));
    command.arg(fixture("tls_libraries.py")).arg(nginx.address.port().to_string()).arg(N.to_string());
    let mut client = Process::spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
    let mut said = BufReader::new(client.child.stdout.take().unwrap());
    assert_eq!(line(&mut said), "ready", "libcurl3-nss and libcurl3-gnutls are needed");
    tried(
        client.pid(),
        &["OpenSSL", "GnuTLS", "NSS"],
        "tls_programs::three_libraries_in_one_process_are_told_apart",
        "libcurl, Python",
    );
    let [master, worker] = nginx.pids();
    let tracer = Tracer::start_with(hooks, &[master, worker, client.pid()], &["--tls", "clear"]);
    client.child.stdin.take().unwrap().write_all(b"\n").unwrap();
    assert_eq!(line(&mut said), "end");
    assert_eq!(client.wait("the client"), Some(0));
    let rows = nginx.rows(3 * N);
    let capture = tracer.stop();
    check_whole(&capture);
    let logged: BTreeSet<String> = rows.iter().map(|row| row.split(' ').next().unwrap().to_owned()).collect();
    assert_eq!((rows.len(), logged.len()), (3 * N, 3 * N));
    for role in ["server", "client"] {
        let seen = inside(&capture, role);
        let why = format!("{role}: {:#?}\n{}", capture.role(role), capture.stderr);
        let targets: BTreeSet<String> = seen.iter().filter_map(|one| one.target.clone()).collect();
        assert_eq!((seen.len(), &targets), (3 * N, &logged), "{why}");
        for one in &seen {
            let told = (one.end.as_str(), one.confidence.as_str(), one.status_code);
            assert_eq!(told, ("answered", "complete", Some(200)), "{why}");
            let library = one.tls.as_ref().unwrap().library.as_deref().unwrap();
            let is_own = one.target.as_deref().unwrap().contains(&format!("?{library}"));
            assert_eq!(is_own, role == "client" || library == "openssl" && is_own, "{why}");
        }
        let conns: BTreeSet<&str> = seen.iter().map(|one| one.conn_id.as_str()).collect();
        assert_eq!(conns.len(), 3, "{why}");
    }
}

/// NSS' own server and client: a connection for each request.
#[test]
fn nss_own_server_and_clients() {
    const N_CLIENTS: usize = 6;
    let _machine = machine();
    // A library that nobody else uses, as elsewhere.
    let libraries = TempDir::new().unwrap();
    fs::copy("/usr/lib/x86_64-linux-gnu/libssl3.so", libraries.path().join("libssl3.so")).unwrap();
    let folder = TempDir::new().unwrap();
    let root = folder.path();
    let database = format!("sql:{}", root.display());
    let run = |program: &str, arguments: &[&str]| {
        let output = Command::new(tool(program, "libnss3-tools")).args(arguments).output().unwrap();
        assert!(output.status.success(), "{program}: {output:?}");
    };
    let (key, certificate) = certificate(root);
    let archive = root.join("both.p12");
    let mut openssl = Command::new(tool("openssl", "openssl"));
    openssl.args(["pkcs12", "-export", "-name", "shop", "-passout", "pass:", "-out"]).arg(&archive);
    assert!(openssl.arg("-in").arg(&certificate).arg("-inkey").arg(&key).status().unwrap().success());
    run("certutil", &["-N", "-d", &database, "--empty-password"]);
    run("pk12util", &["-i", archive.to_str().unwrap(), "-d", &database, "-W", ""]);
    let port = free_address().port().to_string();
    let mut command = Command::new(tool("selfserv", "libnss3-tools"));
    command.args(["-d", &database, "-n", "shop", "-e", "shop", "-p", &port, "-V", "tls1.2:tls1.3"]);
    command.env("LD_LIBRARY_PATH", libraries.path());
    let server = Process::spawn(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()));
    wait_for("selfserv to listen", || {
        let listening =
            fs::read_to_string("/proc/net/tcp6").ok()? + &fs::read_to_string("/proc/net/tcp").ok()?;
        let port: u16 = port.parse().unwrap();
        listening
            .lines()
            .any(|line| line.contains(&format!(":{port:04X} ")) && line.contains(" 0A "))
            .then_some(())
    });
    tried(server.pid(), &["NSS"], "tls_programs::nss_own_server_and_clients", "selfserv, tstclnt");
    let tracer = Tracer::start_with(Hooks::Socket, &[server.pid()], &["--comm", "tstclnt", "--tls", "clear"]);
    wait_for_probes(&tracer, 0);
    let mut asked = Vec::new();
    for n in 0..N_CLIENTS {
        let (path, request) = (format!("/nss/{n}"), root.join("request"));
        fs::write(&request, format!("GET {path} HTTP/1.0\r\nHost: {NAME}\r\n\r\n")).unwrap();
        let mut command = Command::new(tool("tstclnt", "libnss3-tools"));
        command.args(["-d", &database, "-h", "127.0.0.1", "-p", &port, "-o", "-A"]).arg(&request);
        command.args(["-V", if n % 2 == 0 { "tls1.3:tls1.3" } else { "tls1.2:tls1.2" }]);
        let output = command.env("LD_LIBRARY_PATH", libraries.path()).output().unwrap();
        // The server sends back what it was asked.
        assert!(
            String::from_utf8_lossy(&output.stdout).contains(&path),
            "the load itself failed: {output:?}"
        );
        asked.push(path);
    }
    let capture = tracer.stop();
    check_whole(&capture);
    for role in ["server", "client"] {
        let seen = inside(&capture, role);
        let why = format!("{role}: {:#?}\n{}", capture.role(role), capture.stderr);
        let targets: Vec<&str> = seen.iter().filter_map(|one| one.target.as_deref()).collect();
        assert_eq!(targets, asked, "{why}");
        for one in &seen {
            let library = one.tls.as_ref().unwrap().library.as_deref();
            let told = (one.end.as_str(), one.confidence.as_str(), one.status_code, library);
            assert_eq!(told, ("answered", "complete", Some(200), Some("nss")), "{why}");
        }
    }
}

/// Each command that Redis counted, sixteen in a pipeline.
#[rstest]
fn every_call_of_redis_benchmark(#[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks) {
    let _machine = machine();
    let libraries = own_libssl();
    let folder = TempDir::new().unwrap();
    let (key, certificate) = certificate(folder.path());
    let port = free_address().port().to_string();
    let socket = folder.path().join("socket");
    let mut command = Command::new(tool("redis-server", "redis-server"));
    command.args(["--bind", "127.0.0.1", "--save", "", "--port", "0", "--tls-port", &port]);
    command
        .args(["--tls-auth-clients", "no", "--tls-cert-file"])
        .arg(&certificate)
        .arg("--tls-key-file")
        .arg(&key);
    command.arg("--dir").arg(folder.path()).arg("--unixsocket").arg(&socket);
    command.env("LD_LIBRARY_PATH", libraries.path());
    let server = Process::spawn(command.stdin(Stdio::null()).stdout(Stdio::null()));
    let ask = |words: &[&str]| {
        let output =
            Command::new(tool("redis-cli", "redis-tools")).arg("-s").arg(&socket).args(words).output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    };
    wait_for("redis-server", || (ask(&["PING"]) == "PONG\n").then_some(()));
    tried(
        server.pid(),
        &["OpenSSL"],
        "tls_programs::every_call_of_redis_benchmark",
        "redis-server, redis-benchmark",
    );
    let tracer = Tracer::start_with(hooks, &[server.pid()], &["--comm", "redis-benchmark", "--tls", "clear"]);
    wait_for_probes(&tracer, 0);
    ask(&["CONFIG", "RESETSTAT"]);
    let mut benchmark = Command::new(tool("redis-benchmark", "redis-tools"));
    benchmark.args(["-p", &port, "--tls", "--insecure", "-q", "-n", "400", "-c", "4", "-P", "16"]);
    benchmark.args(["-t", "ping_mbulk,set,get,incr,lpush,rpop,sadd,hset,zadd,lrange_100"]);
    let output = benchmark.env("LD_LIBRARY_PATH", libraries.path()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let stats = ask(&["INFO", "commandstats"]);
    let capture = tracer.stop();
    check_whole(&capture);
    let counted: BTreeMap<String, usize> = stats
        .lines()
        .filter_map(|line| {
            let (name, fields) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
            Some((name.replace('|', " ").to_uppercase(), fields.split(',').next()?.parse().unwrap()))
        })
        // On the socket without TLS.
        .filter(|(name, _)| name != "CONFIG RESETSTAT")
        .collect();
    assert!(counted["GET"] == 400 && counted["LRANGE"] == 400, "{counted:?}");
    for role in ["server", "client"] {
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        for one in inside(&capture, role) {
            assert_eq!((one.protocol.as_str(), one.end.as_str()), ("redis", "answered"), "{one:?}");
            assert_eq!((one.confidence.as_str(), one.error), ("complete", false), "{one:?}");
            *seen.entry(one.operation.clone()).or_default() += 1;
        }
        assert_eq!(seen, counted, "{role}: {}", capture.stderr);
    }
}

/// TLS begins in the middle of a plain connection.
#[rstest]
fn each_statement_that_mariadb_logs(#[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks) {
    const N_CLIENTS: usize = 3;
    let _machine = machine();
    let libraries = own_libssl();
    let server = MariaDb::start_with(Some(libraries.path()));
    tried(server.pid(), &["OpenSSL"], "tls_programs::each_statement_that_mariadb_logs", "mariadbd, mariadb");
    let from = server.log_size();
    let tracer = Tracer::start_with(hooks, &[server.pid()], &["--comm", "mariadb", "--tls", "clear"]);
    wait_for_probes(&tracer, 0);
    let sql = "USE shop; SELECT name FROM orders WHERE id = 1; SELECT no_such; SELECT REPEAT('x', 30000); \
               INSERT INTO orders(name) VALUES('secret'); SHOW STATUS LIKE 'Ssl_version'; CALL two();";
    for _ in 0..N_CLIENTS {
        let mut command = Command::new(tool("mariadb", "mariadb-client"));
        command.args([
            "--no-defaults",
            "--ssl",
            "--skip-ssl-verify-server-cert",
            "--force",
            "--host=127.0.0.1",
        ]);
        command.args([
            format!("--user={USER}"),
            format!("--password={PASSWORD}"),
            format!("--port={}", server.port()),
        ]);
        command.env("LD_LIBRARY_PATH", libraries.path()).stdin(Stdio::piped());
        let mut client = Process::spawn(command.stdout(Stdio::piped()).stderr(Stdio::null()));
        client.child.stdin.take().unwrap().write_all(sql.as_bytes()).unwrap();
        let mut said = String::new();
        client.child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        assert!(said.contains("TLSv1.3"), "the load itself failed: {said}");
        client.wait("mariadb");
    }
    let logged = wait_for("the server to log the end", || {
        let logged = server.logged(from);
        (logged.get("Quit") == Some(&N_CLIENTS)).then_some(logged)
    });
    let capture = tracer.stop();
    check_whole(&capture);
    assert!(!capture.stdout.contains("secret"), "a value is shown");
    for role in ["server", "client"] {
        let seen = inside(&capture, role);
        let why = format!("{role}: {logged:?} {:#?}\n{}", capture.role(role), capture.stderr);
        for one in &seen {
            let told = (one.protocol.as_str(), one.end.as_str(), one.confidence.as_str());
            assert_eq!(told, ("mysql", "answered", "complete"), "{why}");
        }
        let n_of = |names: &[&str]| seen.iter().filter(|one| names.contains(&one.operation.as_str())).count();
        let told = [n_of(&["CONNECT"]), n_of(&["QUIT"]), n_of(&["INIT_DB"])];
        assert_eq!(told, ["Connect", "Quit", "Init DB"].map(|name| logged[name]), "{why}");
        assert_eq!(seen.len() - told.iter().sum::<usize>(), logged["Query"], "{why}");
        let failed: Vec<_> = seen.iter().filter(|one| one.error).map(|one| one.status_code).collect();
        assert_eq!(failed, [Some(1054); N_CLIENTS], "{why}");
        assert_eq!(n_of(&["CALL two"]), N_CLIENTS, "{why}");
    }
}

/// Many streams at once on each connection.
#[rstest]
fn each_stream_that_nginx_logs(#[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks) {
    const N: usize = 640;
    let _machine = machine();
    let libraries = own_libssl();
    let nginx = Nginx::start("http2", "", Some(libraries.path()));
    let [master, worker] = nginx.pids();
    tried(worker, &["OpenSSL"], "tls_programs::each_stream_that_nginx_logs", "nginx, h2load");
    let tracer = Tracer::start_with(hooks, &[master, worker], &["--comm", "h2load", "--tls", "clear"]);
    wait_for_probes(&tracer, 0);
    let mut load = Command::new(tool("h2load", "nghttp2-client"));
    load.args(["-n", &N.to_string(), "-c", "2", "-m", "32", &format!("https://{}/page.html", nginx.address)]);
    let output = load.env("LD_LIBRARY_PATH", libraries.path()).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains(&format!("{N} succeeded")), "{output:?}");
    nginx.rows(N);
    let capture = tracer.stop();
    check_whole(&capture);
    assert_eq!(nginx.rows(N).len(), N);
    for role in ["server", "client"] {
        let seen = inside(&capture, role);
        assert_eq!(seen.len(), N, "{role}: {}", capture.stderr);
        for one in seen {
            let told = (one.protocol.as_str(), one.operation.as_str(), one.status_code);
            assert_eq!(told, ("http2", "GET /page.html", Some(200)), "{one:?}");
            assert_eq!((one.end.as_str(), one.confidence.as_str()), ("answered", "complete"), "{one:?}");
            assert!(one.response_bytes > Nginx::PAGE as u64, "{one:?}");
        }
    }
}
