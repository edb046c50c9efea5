//! What TLS connections carry, by probes on the libraries of both ends.

use std::{
    collections::BTreeSet,
    fs,
    io::Write as _,
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rstest::rstest;
use tempfile::TempDir;

use crate::tls_tried::tried;

use super::{
    Hooks,
    check::check_order_and_sums,
    dns::counted,
    machine,
    process::{Process, wait_for},
    tls::{NAME, PAGE, certificate, curl_of_nginx, free_address, wait_for_library},
    tool,
    tracer::{Capture, Tls, Tracer, Transaction},
};

/// The transactions of a role that are not the handshake's.
fn inside<'a>(capture: &'a Capture, role: &str) -> Vec<&'a Transaction> {
    capture.role(role).into_iter().filter(|one| one.protocol != "tls").collect()
}

fn own(text: &str) -> Option<String> {
    Some(text.to_owned())
}

#[rstest]
fn each_request_that_nginx_logs_is_one(
    #[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks,
    #[values("TLSv1.2", "TLSv1.3")] version: &str,
    #[values("--http1.1", "--http2")] http: &str,
) {
    const N: usize = 40;
    let _machine = machine();
    let folder = TempDir::new().unwrap();
    let (capture, rows) = curl_of_nginx(hooks, folder.path(), version, http, N, "clear");
    check_order_and_sums(&capture);
    assert_eq!(rows.lines().count(), N);
    let (protocol, alpn) = if http == "--http2" { ("http2", "h2") } else { ("http1", "http/1.1") };
    for role in ["server", "client"] {
        let why = format!("{role}: {:#?}\n{}", capture.role(role), capture.stderr);
        let found = inside(&capture, role);
        assert_eq!(found.len(), N, "{why}");
        for one in &found {
            assert_eq!(
                (one.protocol.as_str(), one.operation.as_str(), one.target.as_deref(), one.status_code),
                (protocol, "GET /page.html", Some("/page.html"), Some(200)),
                "{why}"
            );
            assert_eq!((one.end.as_str(), one.confidence.as_str()), ("answered", "complete"), "{why}");
            assert!(one.response_bytes > PAGE && one.response_bytes < PAGE + 1000, "{why}");
            let facts = Tls {
                library: own("openssl"),
                version: own(version),
                sni: own(NAME),
                alpn: (version != "TLSv1.3").then(|| alpn.to_owned()),
            };
            assert_eq!(one.tls.as_ref(), Some(&facts), "{why}");
            assert_eq!(one.conn_id, found[0].conn_id, "one connection: {why}");
        }
        // The handshake's first turn was over before anything was said in it.
        let others: Vec<_> = capture.role(role).into_iter().filter(|one| one.protocol == "tls").collect();
        assert!(others.iter().all(|one| one.operation == "TLS handshake" && one.end == "answered"), "{why}");
        assert!((1..=2).contains(&others.len()), "{why}");
    }
    assert_eq!(capture.summary.unpaired.values().sum::<u64>(), 0, "{}", capture.stderr);
    assert_eq!(capture.summary.lost_requests.high, 0, "{}", capture.stderr);
}

/// Requests of one client in the tests of servers.
const N: usize = 25;
/// Bytes of each answer's body.
const BODY: usize = 3000;
/// What the servers are.
const SERVERS: [(&str, &str); 4] =
    [("threads", "Python"), ("asyncio", "asyncio"), ("node", "Node.js"), ("gnutls", "gnutls-serv")];

/// A server of HTTPS, and what tells that it listens.
struct Server {
    process: Process,
    port: u16,
    certificate: PathBuf,
    /// The library of its own.
    library: &'static str,
    /// What its links are worth.
    confidence: &'static str,
}

impl Server {
    fn start(name: &str, folder: &Path) -> Server {
        let (key, certificate) = certificate(folder);
        let port = free_address().port();
        let (mut command, library, confidence) = match name {
            "threads" => (python(folder, THREADS), "openssl", "complete"),
            // An event loop: the library only sees memory.
            "asyncio" => (python(folder, ASYNCIO), "openssl", "guessed"),
            "node" => {
                fs::write(folder.join("server.js"), NODE).unwrap();
                let mut node = Command::new(tool("node", "nodejs"));
                node.arg(folder.join("server.js"));
                (node, "openssl", "guessed")
            }
            "gnutls" => {
                let mut command = Command::new(tool("gnutls-serv", "gnutls-bin"));
                command.args(["--http", "--quiet", "--port", &port.to_string(), "--x509keyfile"]).arg(&key);
                command.arg("--x509certfile").arg(&certificate);
                (command, "gnutls", "complete")
            }
            other => panic!("no server {other}"),
        };
        if name != "gnutls" {
            command.arg(&certificate).arg(&key).arg(port.to_string());
        }
        let process =
            Process::spawn(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()));
        wait_for("the server to listen", || TcpStream::connect(("127.0.0.1", port)).ok());
        Server { process, port, certificate, library, confidence }
    }
}

fn python(folder: &Path, code: &str) -> Command {
    fs::write(folder.join("server.py"), code).unwrap();
    let mut command = Command::new(tool("python3", "python3"));
    command.arg(folder.join("server.py"));
    command
}

const THREADS: &str = r#"
import http.server, ssl, sys
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "3000")
        self.end_headers()
        self.wfile.write(b"x" * 3000)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1], sys.argv[2])
server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[3])), Handler)
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"#;

const ASYNCIO: &str = r#"
import asyncio, ssl, sys
async def serve(reader, writer):
    try:
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 3000\r\n\r\n" + b"y" * 3000)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()
async def main():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[1], sys.argv[2])
    server = await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[3]), ssl=context)
    await server.serve_forever()
asyncio.run(main())
"#;

const NODE: &str = r#"
const [certificate, key, port] = process.argv.slice(2), read = require("fs").readFileSync;
require("https").createServer({ key: read(key), cert: read(certificate) }, (request, response) => {
    response.end("z".repeat(3000));
}).listen(+port, "127.0.0.1");
"#;

/// curl with its libraries loaded, waiting for what to fetch.
fn curl(certificate: &Path, port: u16) -> Process {
    let mut command = Command::new(tool("curl", "curl"));
    command.args(["--silent", "--show-error", "--noproxy", "*", "--http1.1", "--cacert"]).arg(certificate);
    command
        .args(["--resolve", &format!("{NAME}:{port}:127.0.0.1"), "--config", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null());
    let curl = Process::spawn(&mut command);
    wait_for_library(curl.pid(), "libssl");
    curl
}

/// Fetches [`N`] pages of these numbers.
fn fetch(curl: &mut Process, port: u16, from: usize) {
    let url = |n: usize| format!("url = \"https://{NAME}:{port}/page/{n}\"\noutput = \"/dev/null\"\n");
    let urls: String = (from..from + N).map(url).collect();
    curl.child.stdin.take().unwrap().write_all(urls.as_bytes()).unwrap();
}

/// Two clients at once, keep-alive: each request once on each side, by the number in its path.
#[rstest]
fn servers_and_clients_of_https(
    #[values("threads", "asyncio", "node", "gnutls")] name: &str,
    #[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks,
) {
    let _machine = machine();
    let folder = TempDir::new().unwrap();
    let server = Server::start(name, folder.path());
    let mut curls = [curl(&server.certificate, server.port), curl(&server.certificate, server.port)];
    let pids = [server.process.pid(), curls[0].pid(), curls[1].pid()];
    let kind = if server.library == "gnutls" { "GnuTLS" } else { "OpenSSL" };
    let test = "tls_clear::servers_and_clients_of_https";
    tried(server.process.pid(), &[kind], test, SERVERS.iter().find(|one| one.0 == name).unwrap().1);
    tried(curls[0].pid(), &["OpenSSL"], test, "curl");
    let tracer = Tracer::start_with(hooks, &pids, &["--tls", "clear"]);
    for (n, curl) in curls.iter_mut().enumerate() {
        fetch(curl, server.port, n * N);
    }
    for curl in &mut curls {
        assert_eq!(curl.wait("curl"), Some(0));
    }
    let capture = tracer.stop();
    check_order_and_sums(&capture);
    let all: BTreeSet<String> = (0..2 * N).map(|n| format!("/page/{n}")).collect();
    for (role, library, confidence) in
        [("server", server.library, server.confidence), ("client", "openssl", "complete")]
    {
        let found = inside(&capture, role);
        let why = format!("{name}, {role}: {found:#?}\n{}", capture.stderr);
        let targets: BTreeSet<String> = found.iter().filter_map(|one| one.target.clone()).collect();
        assert_eq!((found.len(), &targets), (2 * N, &all), "{why}");
        for one in &found {
            assert_eq!((one.protocol.as_str(), one.status_code), ("http1", Some(200)), "{why}");
            assert_eq!((one.end.as_str(), one.confidence.as_str()), ("answered", confidence), "{why}");
            assert_eq!(one.tls.as_ref().and_then(|tls| tls.library.as_deref()), Some(library), "{why}");
            assert!(name == "gnutls" || one.response_bytes > BODY as u64, "{why}");
        }
        let conns: BTreeSet<&str> = found.iter().map(|one| one.conn_id.as_str()).collect();
        assert!(name == "gnutls" || conns.len() == 2, "{why}");
    }
    let last = |name| counted(&capture, name).last().copied();
    assert_eq!(last("tls.left_opaque"), Some(0), "{}", capture.stderr);
    assert!(last("tls.ns_per_call") > Some(0), "a trial was made");
    assert_eq!(last("kernel.tls_call_left"), Some(0));
    assert_eq!(capture.summary.unpaired.values().sum::<u64>(), 0, "{}", capture.stderr);
    assert_eq!(capture.summary.lost_requests.high, 0, "{}", capture.stderr);
}

/// A server that forks for each connection: it is traced by its number alone. Once its first child was met, all later ones are seen from their
/// first byte on; what the second one begins with may come before that.
#[test]
fn children_that_serve_are_seen_from_the_third_on() {
    const N_CHILDREN: usize = 6;
    let _machine = machine();
    let folder = TempDir::new().unwrap();
    // A library that nobody else uses: probes on its file are the test's own.
    fs::copy("/usr/lib/x86_64-linux-gnu/libssl.so.3", folder.path().join("libssl.so.3")).unwrap();
    let code = THREADS
        .replace("import http.server, ssl, sys", "import http.server, socketserver, ssl, sys")
        .replace(
            "server = http.server.ThreadingHTTPServer(",
            "class Server(socketserver.ForkingMixIn, http.server.HTTPServer): pass\nserver = Server(",
        )
        // A handshake in the child, as servers do that fork.
        .replace("server_side=True", "server_side=True, do_handshake_on_connect=False");
    let (key, certificate) = certificate(folder.path());
    let port = free_address().port();
    let mut command = python(folder.path(), &code);
    command.env("LD_LIBRARY_PATH", folder.path()).arg(&certificate).arg(&key).arg(port.to_string());
    let server = Process::spawn(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()));
    wait_for("the server to listen", || TcpStream::connect(("127.0.0.1", port)).ok());
    let tracer = Tracer::start_with(Hooks::Socket, &[server.pid()], &["--tls", "clear"]);
    for child in 0..N_CHILDREN {
        let mut curl = curl(&certificate, port);
        fetch(&mut curl, port, child * N);
        assert_eq!(curl.wait("curl"), Some(0));
    }
    let capture = tracer.stop();
    check_order_and_sums(&capture);
    let found = inside(&capture, "server");
    let why = format!("{found:#?}\n{}", capture.stderr);
    let targets: BTreeSet<&str> = found.iter().filter_map(|one| one.target.as_deref()).collect();
    for n in 2 * N..N_CHILDREN * N {
        assert!(targets.contains(format!("/page/{n}").as_str()), "{n}: {why}");
    }
    let complete = found.iter().filter(|one| one.confidence == "complete").count();
    assert!(complete >= (N_CHILDREN - 2) * N, "{complete}: {why}");
    assert_eq!(targets.len(), found.len(), "each once: {why}");
}
