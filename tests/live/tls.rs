//! TLS from outside: nginx and curl, OpenSSL's server and client.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rstest::rstest;
use tempfile::TempDir;

use super::{
    Hooks,
    check::check_order_and_sums,
    machine,
    process::{Process, wait_for},
    tool,
    tracer::{Capture, Tls, Tracer, Transaction},
};

pub(super) const NAME: &str = "shop.example";
/// Bytes of the page: more than any turn of a handshake has.
pub(super) const PAGE: u64 = 30_000;

pub(super) fn free_address() -> SocketAddr {
    // Free a moment ago: none of these servers can be asked to choose one.
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// A folder with a library that nobody else uses: probes on its file are the test's own.
pub(super) fn own_openssl() -> TempDir {
    let libraries = TempDir::new().unwrap();
    // Servers run as other users.
    fs::set_permissions(libraries.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::copy("/usr/lib/x86_64-linux-gnu/libssl.so.3", libraries.path().join("libssl.so.3")).unwrap();
    libraries
}

/// Settings of a PostgreSQL that speaks TLS, with a key of its own beside its data.
pub(super) fn of_postgres(data: &Path) -> Vec<String> {
    let owner = fs::metadata(data).unwrap();
    let (key, certificate) = certificate(data);
    for file in [&key, &certificate] {
        std::os::unix::fs::chown(file, Some(owner.uid()), Some(owner.gid())).unwrap();
        fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
    }
    let file = |name, path: &Path| format!("{name}={}", path.display());
    vec!["ssl=on".to_owned(), file("ssl_key_file", &key), file("ssl_cert_file", &certificate)]
}

/// A key and a certificate signed with it, in a folder.
pub(super) fn certificate(folder: &Path) -> (PathBuf, PathBuf) {
    let (key, certificate) = (folder.join("key.pem"), folder.join("cert.pem"));
    let output = Command::new(tool("openssl", "openssl"))
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "9",
        ])
        .args(["-subj", &format!("/CN={NAME}"), "-addext", &format!("subjectAltName=DNS:{NAME}")])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output()
        .unwrap();
    assert!(output.status.success(), "openssl: {}", String::from_utf8_lossy(&output.stderr));
    (key, certificate)
}

/// A client that waits to be traced before it begins.
fn client(command: &Command) -> Process {
    let mut shell = Command::new("/bin/sh");
    shell.arg("-c").arg("read go; exec \"$@\"").arg("sh").arg(command.get_program()).args(command.get_args());
    Process::spawn(shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()))
}

/// Waits until a process has mapped a library.
pub(super) fn wait_for_library(pid: u32, name: &str) {
    wait_for(name, || fs::read_to_string(format!("/proc/{pid}/maps")).ok()?.contains(name).then_some(()));
}

#[track_caller]
fn check_turns(capture: &Capture, role: &str) {
    for one in capture.role(role) {
        assert_eq!((one.protocol.as_str(), one.target.as_deref()), ("tls", Some(NAME)), "{one:?}");
        assert!(["TLS", "TLS handshake", "TLS alert"].contains(&one.operation.as_str()), "{one:?}");
        assert_eq!(one.confidence, "complete", "{one:?}");
        assert!(one.kind == "opaque" || one.operation == "TLS alert", "{one:?}");
    }
}

/// All transactions of a role have these facts.
#[track_caller]
fn check_facts(capture: &Capture, role: &str, version: Option<&str>, sni: Option<&str>, alpn: Option<&str>) {
    let own = |text: Option<&str>| text.map(str::to_owned);
    let facts = Tls { library: None, version: own(version), sni: own(sni), alpn: own(alpn) };
    let facts = (facts != Tls::default()).then_some(facts);
    assert!(!capture.role(role).is_empty());
    for one in capture.role(role) {
        assert_eq!(one.tls, facts, "{one:?}");
    }
}

fn answered<'a>(capture: &'a Capture, role: &str) -> Vec<&'a Transaction> {
    capture.role(role).into_iter().filter(|one| one.end == "answered").collect()
}

#[rstest]
fn each_request_that_nginx_logs_is_a_turn(
    #[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks,
    #[values("TLSv1.2", "TLSv1.3")] version: &str,
) {
    const N: usize = 40;
    let _machine = machine();
    let folder = TempDir::new().unwrap();
    let root = folder.path();
    let (capture, rows) = curl_of_nginx(hooks, root, version, "--http1.1", N, "opaque");
    check_order_and_sums(&capture);
    assert_eq!(capture.summary.lost_requests.high, 0, "{}", capture.stderr);
    let plain: Vec<(u64, u64)> = rows
        .lines()
        .map(|row| {
            let cells: Vec<&str> = row.split(',').collect();
            assert_eq!(cells[2..], [NAME, version, "http/1.1"], "the load itself failed");
            (cells[0].parse().unwrap(), cells[1].parse().unwrap())
        })
        .collect();
    assert_eq!(plain.len(), N);
    for role in ["server", "client"] {
        check_turns(&capture, role);
        check_facts(&capture, role, Some(version), Some(NAME), (version != "TLSv1.3").then_some("http/1.1"));
        let answered = answered(&capture, role);
        let pages: Vec<_> = answered.iter().filter(|one| one.response_bytes > PAGE).collect();
        let why = format!("{version} {role}: {:#?}", capture.role(role));
        assert_eq!(pages.len(), N, "{why}");
        // The rest are the turns of the handshake, of which the last may hold the first request.
        let n_handshake = answered.iter().filter(|one| one.operation == "TLS handshake").count();
        assert_eq!(n_handshake, 2, "{why}");
        assert!((N + 1..=N + 2).contains(&answered.len()), "{why}");
        for (page, (asked, sent)) in pages.iter().zip(&plain) {
            assert!(
                page.request_bytes > *asked && page.request_bytes < asked + 400,
                "{page:?}, {asked} in the clear"
            );
            // 22 to 29 bytes for each record of up to 16 KiB; with the first, tickets.
            assert!(
                page.response_bytes > *sent && page.response_bytes < sent + 1200,
                "{page:?}, {sent} in the clear"
            );
            assert!(page.duration_ns > 0 && page.ttfb_ns.is_some(), "{page:?}");
        }
        // In TLS 1.3 the client's leave looks like a question, which nobody answers.
        let others: Vec<_> = capture.role(role).into_iter().filter(|one| one.end != "answered").collect();
        assert_eq!(others.len(), usize::from(version == "TLSv1.3"), "{why}");
        assert!(
            others.iter().all(|one| one.end == "closed" && !one.error && one.request_bytes == 24),
            "{why}"
        );
    }
}

#[rstest]
fn with_http2_the_facts_are_those_that_nginx_logs(
    #[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks,
    #[values("TLSv1.2", "TLSv1.3")] version: &str,
) {
    let _machine = machine();
    let folder = TempDir::new().unwrap();
    let (capture, rows) = curl_of_nginx(hooks, folder.path(), version, "--http2", 3, "opaque");
    check_order_and_sums(&capture);
    for row in rows.lines() {
        assert!(row.ends_with(&format!(",{NAME},{version},h2")), "the load itself failed: {row}");
    }
    for role in ["server", "client"] {
        check_facts(&capture, role, Some(version), Some(NAME), (version != "TLSv1.3").then_some("h2"));
    }
}

/// So many pages that curl asks nginx for, one behind the other, and nginx's log of them.
pub(super) fn curl_of_nginx(
    hooks: Hooks,
    root: &Path,
    version: &str,
    http: &str,
    n_pages: usize,
    tls: &str,
) -> (Capture, String) {
    let (key, certificate) = certificate(root);
    let address = free_address();
    fs::create_dir(root.join("www")).unwrap();
    fs::write(root.join("www/page.html"), "x".repeat(PAGE as usize)).unwrap();
    let configuration = format!(
        r#"
daemon off;
user root;
worker_processes 1;
pid {root}/nginx.pid;
error_log {root}/error.log;
events {{ worker_connections 64; }}
http {{
    log_format rows '$request_length,$bytes_sent,$ssl_server_name,$ssl_protocol,$ssl_alpn_protocol';
    access_log {root}/access.csv rows;
    server {{
        listen {address} ssl{http2};
        ssl_certificate {certificate};
        ssl_certificate_key {key};
        ssl_protocols {version};
        root {root}/www;
    }}
}}
"#,
        root = root.display(),
        certificate = certificate.display(),
        key = key.display(),
        http2 = if http == "--http2" { " http2" } else { "" },
    );
    fs::write(root.join("nginx.conf"), configuration).unwrap();
    let mut command = Command::new(tool("nginx", "nginx-light"));
    command.arg("-p").arg(root).arg("-c").arg(root.join("nginx.conf")).arg("-e").arg(root.join("error.log"));
    let nginx = Process::spawn(&mut command);
    wait_for("nginx to listen", || TcpStream::connect(address).ok());
    let master = nginx.pid();
    let worker: u32 = wait_for("nginx's worker", || {
        let children = fs::read_to_string(format!("/proc/{master}/task/{master}/children")).ok()?;
        children.split_whitespace().next()?.parse().ok()
    });

    let urls = format!("url = \"https://{NAME}:{}/page.html\"\noutput = \"/dev/null\"\n", address.port());
    let mut command = Command::new(tool("curl", "curl"));
    command.args(["--silent", "--show-error", "--noproxy", "*", http, "--cacert"]).arg(&certificate);
    command
        .args(["--resolve", &format!("{NAME}:{}:127.0.0.1", address.port()), "--config", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped());
    // It has loaded its libraries, and waits for the addresses.
    let mut curl = Process::spawn(&mut command);
    wait_for_library(curl.pid(), "libssl");
    let tracer = Tracer::start_with(hooks, &[master, worker, curl.pid()], &["--tls", tls]);
    curl.child.stdin.take().unwrap().write_all(urls.repeat(n_pages).as_bytes()).unwrap();
    let mut said = String::new();
    curl.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(curl.wait("curl"), Some(0), "{said}");
    let rows = wait_for("nginx's log", || {
        let text = fs::read_to_string(root.join("access.csv")).ok()?;
        (text.lines().count() >= n_pages).then_some(text)
    });
    (tracer.stop(), rows)
}

/// OpenSSL's server; it turns what it is told about.
fn openssl_server(folder: &Path, flags: &[&str]) -> (Process, SocketAddr) {
    let (key, certificate) = certificate(folder);
    let address = free_address();
    let mut command = Command::new(tool("openssl", "openssl"));
    command
        .args(["s_server", "-accept", &address.to_string(), "-quiet", "-rev", "-cert"])
        .arg(&certificate)
        .arg("-key");
    command.arg(&key).args(flags).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let server = Process::spawn(&mut command);
    wait_for("s_server to listen", || {
        // Not by a connection: it would serve that.
        let listening = fs::read_to_string("/proc/net/tcp").ok()?;
        listening.contains(&format!("0100007F:{:04X} 00000000:0000 0A", address.port())).then_some(())
    });
    (server, address)
}

/// OpenSSL's server and client, traced both. What the client says is `said`, if it gets that far.
fn openssl(hooks: Hooks, server: &[&str], client_flags: &[&str], said: &str) -> Capture {
    let folder = TempDir::new().unwrap();
    let (server, address) = openssl_server(folder.path(), server);
    let mut command = Command::new(tool("openssl", "openssl"));
    command
        .args(["s_client", "-connect", &address.to_string(), "-quiet", "-no_ign_eof", "-servername", NAME])
        .args(client_flags);
    let mut client = client(&command);
    let tracer = Tracer::start_with(hooks, &[server.pid(), client.pid()], &["--tls", "opaque"]);
    let mut stdin = client.child.stdin.take().unwrap();
    stdin.write_all(b"go\n").unwrap();
    let mut stdout = client.child.stdout.take().unwrap();
    for line in said.lines() {
        stdin.write_all(format!("{line}\n").as_bytes()).unwrap();
        let mut answer = vec![0; line.len() + 1];
        stdout.read_exact(&mut answer).unwrap();
        assert_eq!(answer[..line.len()], *line.bytes().rev().collect::<Vec<_>>(), "the load itself failed");
    }
    drop(stdin);
    client.wait("s_client");
    tracer.stop()
}

#[rstest]
fn what_openssl_says_in_turns_is_counted_under_the_servers_name(
    #[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks,
    #[values("-tls1_2", "-tls1_3")] version: &str,
) {
    let _machine = machine();
    let capture = openssl(
        hooks,
        &[version, "-alpn", "h2,http/1.1"],
        &[version, "-alpn", "http/1.1"],
        "one\ntwo, longer\nthree\n",
    );
    check_order_and_sums(&capture);
    for role in ["server", "client"] {
        check_turns(&capture, role);
        let answered = answered(&capture, role);
        let why = format!("{version} {role}: {:#?}", capture.role(role));
        let n = |name: &str| answered.iter().filter(|one| one.operation == name).count();
        assert_eq!((n("TLS handshake"), n("TLS alert")), (2, 0), "{why}");
        // The client says nothing before it has been answered, so that each line is a turn; the first may be in the handshake's last (TLS 1.3).
        let lines: Vec<_> =
            answered.iter().filter(|one| one.operation == "TLS" && one.request_bytes != 24).collect();
        let n_merged = usize::from(version == "-tls1_3" && lines.len() == 2);
        assert_eq!(lines.len() + n_merged, 3, "{why}");
        for (line, length) in lines.iter().zip(&[4, 12, 6][n_merged..]) {
            // Header, tag, and the type or the nonce.
            let more = if version == "-tls1_3" { 22 } else { 29 };
            assert_eq!((line.request_bytes, line.response_bytes), (length + more, length + more), "{why}");
        }
        assert!(capture.role(role).iter().all(|one| !one.error), "{why}");
    }
}

#[rstest]
fn version_name_and_protocol_are_those_that_openssl_prints(
    #[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks,
    #[values("-tls1_2", "-tls1_3")] version: &str,
    #[values(true, false)] offers: bool,
) {
    let _machine = machine();
    let named: &[&str] = if offers { &["-servername", NAME] } else { &["-noservername"] };
    let alpn: &[&str] = if offers { &["-alpn", "h2,http/1.1"] } else { &[] };
    let server = [&[version][..], if offers { &["-alpn", "http/1.1"] } else { &[] }].concat();
    let (capture, printed) = openssl_prints(hooks, &server, &[&[version], named, alpn].concat());
    check_order_and_sums(&capture);
    let after = |name: &str| printed.lines().find_map(|line| line.trim().strip_prefix(name));
    let agreed = after("New, ").and_then(|rest| rest.split(',').next()).expect("the load itself failed");
    let alpn = after("ALPN protocol: ");
    assert_eq!(
        (agreed.contains("1.3"), alpn),
        (version == "-tls1_3", offers.then_some("http/1.1")),
        "{printed}"
    );
    for role in ["server", "client"] {
        let visible = alpn.filter(|_| version == "-tls1_2");
        check_facts(&capture, role, Some(agreed), offers.then_some(NAME), visible);
    }
}

#[rstest]
fn without_a_protocol_in_common_nothing_was_agreed_on(
    #[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks,
    #[values("-tls1_2", "-tls1_3")] version: &str,
) {
    let _machine = machine();
    let client = [version, "-servername", NAME, "-alpn", "http/1.1"];
    let (capture, printed) = openssl_prints(hooks, &[version, "-alpn", "h2"], &client);
    assert!(printed.contains("No ALPN negotiated"), "{printed}");
    for role in ["server", "client"] {
        check_facts(&capture, role, None, Some(NAME), None);
        let [one] = capture.role(role)[..] else { panic!("{:#?}", capture.transactions) };
        assert_eq!(
            (one.error, one.error_type.as_deref()),
            (true, Some("no_application_protocol")),
            "{one:?}"
        );
    }
}

/// OpenSSL's server and client, traced both, with the flags given alone, and what the client prints of the connection.
fn openssl_prints(hooks: Hooks, server: &[&str], flags: &[&str]) -> (Capture, String) {
    let folder = TempDir::new().unwrap();
    let (server, address) = openssl_server(folder.path(), server);
    let mut command = Command::new(tool("openssl", "openssl"));
    command.args(["s_client", "-connect", &address.to_string(), "-no_ign_eof"]).args(flags);
    let mut client = client(&command);
    let tracer = Tracer::start(hooks, &[server.pid(), client.pid()]);
    let mut stdin = client.child.stdin.take().unwrap();
    stdin.write_all(b"go\nover and out\n").unwrap();
    let (mut stdout, mut printed) = (client.child.stdout.take().unwrap(), String::new());
    // What it says turned round, or its end.
    let mut byte = [0];
    while !printed.contains("tuo dna revo") && stdout.read(&mut byte).unwrap() > 0 {
        printed.push(char::from(byte[0]));
    }
    drop(stdin);
    client.wait("s_client");
    (tracer.stop(), printed)
}

#[rstest]
fn a_refused_handshake_says_why(#[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks) {
    let _machine = machine();
    // No version in common.
    let capture = openssl(hooks, &["-tls1_3"], &["-tls1_2"], "");
    check_order_and_sums(&capture);
    for role in ["server", "client"] {
        check_turns(&capture, role);
        let [one] = capture.role(role)[..] else { panic!("{:#?}", capture.transactions) };
        assert_eq!((one.operation.as_str(), one.end.as_str()), ("TLS handshake", "answered"), "{one:?}");
        assert_eq!((one.error, one.error_type.as_deref()), (true, Some("protocol_version")), "{one:?}");
        assert_eq!(one.response_bytes, 7, "{one:?}");
    }
    // The client does not know who signed.
    let capture = openssl(hooks, &["-tls1_2"], &["-tls1_2", "-verify_return_error"], "");
    for role in ["server", "client"] {
        check_turns(&capture, role);
        let [hello, alert] = capture.role(role)[..] else { panic!("{:#?}", capture.transactions) };
        assert_eq!(
            (hello.operation.as_str(), hello.end.as_str(), hello.error),
            ("TLS handshake", "answered", false)
        );
        assert_eq!((alert.operation.as_str(), alert.kind.as_str()), ("TLS alert", "message"), "{alert:?}");
        assert_eq!((alert.error, alert.error_type.as_deref()), (true, Some("unknown_ca")), "{alert:?}");
    }
}
