//! How programs call TLS libraries: looks, pieces, calls tried again, new keys, early data, connections and processes that are older than the tracer,
//! threads that end within a call.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufReader, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{ChildStdin, ChildStdout, Command, Stdio},
};

use rstest::rstest;
use tempfile::TempDir;
use tracer_user::uprobe::tls;

use crate::tls_tried::tried;

use super::{
    Hooks,
    check::check_order_and_sums,
    dns::counted,
    machine,
    process::{Process, wait_for},
    tls::{certificate, free_address},
    tls_programs::{Nginx, check_whole, fixture, inside, line, n_probes, wait_for_probes},
    tool,
    tracer::{Capture, Tracer},
};

/// A server of HTTPS with a thread for each connection.
pub(super) struct Server {
    pub(super) process: Process,
    pub(super) port: u16,
    _folder: TempDir,
}

impl Server {
    pub(super) fn start() -> Server {
        let folder = TempDir::new().unwrap();
        let (key, certificate) = certificate(folder.path());
        let port = free_address().port();
        let mut command = Command::new("/usr/bin/python3");
        command.arg(fixture("https.py")).arg(&certificate).arg(&key).arg(port.to_string());
        let process = Process::spawn(command.stdin(Stdio::null()));
        wait_for("the server to listen", || TcpStream::connect(("127.0.0.1", port)).ok());
        Server { process, port, _folder: folder }
    }
}

/// A client that calls the library itself.
pub(super) struct Client {
    pub(super) process: Process,
    stdin: Option<ChildStdin>,
    said: BufReader<ChildStdout>,
    /// Each path that it asked for, and the bytes of the answer.
    pub(super) paths: BTreeMap<String, u64>,
}

impl Client {
    /// `python`: how Python is started.
    #[track_caller]
    pub(super) fn start(mut python: Command, mode: &str, port: u16, library: &Path, name: &str) -> Client {
        python.arg(fixture("tls_calls.py")).arg(mode).arg(port.to_string()).arg(library).arg(name);
        Client::of(&mut python)
    }

    #[track_caller]
    pub(super) fn of(command: &mut Command) -> Client {
        let mut process = Process::spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
        let stdin = process.child.stdin.take();
        let mut said = BufReader::new(process.child.stdout.take().unwrap());
        let first = wait_for("its first words", || {
            let said = line(&mut said);
            // One request before, on a connection that says no more then.
            (!said.starts_with("/before ")).then_some(said)
        });
        assert_eq!(first, "ready", "{command:?}");
        Client { process, stdin, said, paths: BTreeMap::new() }
    }

    /// Tells it to go on until it says that it is done.
    #[track_caller]
    pub(super) fn go(&mut self, with: &str) {
        self.begin(with);
        self.hear();
    }

    /// Tells it to go on.
    pub(super) fn begin(&mut self, with: &str) {
        writeln!(self.stdin.as_mut().unwrap(), "{with}").unwrap();
    }

    #[track_caller]
    fn hear(&mut self) {
        loop {
            let said = line(&mut self.said);
            if said == "end" {
                break;
            }
            let (path, n) = said.split_once(' ').expect("a path and a number, or its end");
            assert_eq!(self.paths.insert(path.to_owned(), n.parse().unwrap()), None, "{path}");
        }
    }

    /// Tells it nothing more, hears what it says to that, and waits for its end.
    #[track_caller]
    pub(super) fn finish(mut self) -> BTreeMap<String, u64> {
        self.stdin = None;
        self.hear();
        self.end()
    }

    #[track_caller]
    pub(super) fn end(mut self) -> BTreeMap<String, u64> {
        drop(self.stdin);
        assert_eq!(self.process.wait("the client"), Some(0));
        self.paths
    }
}

/// A role has exactly these paths, each once, with so many bytes.
#[track_caller]
pub(super) fn check_paths(capture: &Capture, role: &str, paths: &BTreeMap<String, u64>) {
    let seen = inside(capture, role);
    let why = format!("{role}: {:#?}\n{}", capture.role(role), capture.stderr);
    let told: Vec<(&str, u64)> =
        seen.iter().map(|one| (one.target.as_deref().unwrap_or_default(), one.response_bytes)).collect();
    let told_once: BTreeMap<String, u64> = told.iter().map(|(path, n)| ((*path).to_owned(), *n)).collect();
    assert_eq!((&told_once, told.len()), (paths, paths.len()), "{why}");
    for one in seen {
        let facts = (one.protocol.as_str(), one.end.as_str(), one.confidence.as_str(), one.status_code);
        assert_eq!(facts, ("http1", "answered", "complete", Some(200)), "{why}");
    }
}

fn python() -> Command {
    Command::new("/usr/bin/python3")
}

/// A package of PyPI in a folder of its own, made the first time.
#[track_caller]
pub(super) fn package(name: &str, more: &[&str]) -> PathBuf {
    let folder = Path::new(env!("CARGO_BIN_EXE_txray")).ancestors().nth(2).unwrap().join("tools").join(name);
    if !folder.is_dir() {
        let work = folder.with_extension("partial");
        let _ = fs::remove_dir_all(&work);
        let mut pip = Command::new("/usr/bin/python3");
        pip.args(["-m", "pip", "install", "--quiet", "--only-binary", ":all:", "--target"]).arg(&work);
        let got = pip.args(more).arg(name).output().unwrap();
        assert!(got.status.success(), "python3-pip, and PyPI: {got:?}");
        fs::rename(work, &folder).unwrap();
    }
    folder
}

/// OpenSSL 1.1.1, which Debian has no more: it comes with an older `psycopg2-binary`.
pub(super) fn openssl_1_1() -> PathBuf {
    libssl(
        &package("psycopg2-binary==2.9.3", &["--no-deps", "--python-version", "3.9"])
            .join("psycopg2_binary.libs"),
    )
}

/// OpenSSL 3.5, of which an inner function that writes has flags.
fn openssl_3_5() -> PathBuf {
    libssl(&package("psycopg-binary==3.3.9", &["--no-deps"]).join("psycopg_binary.libs"))
}

fn libssl(folder: &Path) -> PathBuf {
    let files = fs::read_dir(folder).unwrap().flatten();
    let mut paths = files.map(|file| file.path());
    paths.find(|path| path.to_string_lossy().contains("libssl-")).expect("libssl in the package")
}

const CURL_CFFI: (&str, &str) = (
    "curl_cffi==0.17.0",
    r#"
from curl_cffi import requests
session = requests.Session(verify=False, http_version="v1")
ask = lambda url: session.get(url).content
"#,
);
const RNET: (&str, &str) = (
    "rnet==2.4.2",
    r#"
import rnet
client = rnet.BlockingClient(verify=False, http1_only=True, no_proxy=True)
ask = lambda url: client.get(url).bytes()
"#,
);

/// Asks for eight pages when it is told to.
fn asking(folder: &Path, code: &str, port: u16) -> Client {
    let code = format!(
        r#"
import sys
sys.path.insert(0, sys.argv[2])
{code}
print("ready", flush=True)
sys.stdin.readline()
for n in range(8):
    print(f"/page/{{n}} {{len(ask(f'https://127.0.0.1:{{sys.argv[1]}}/page/{{n}}'))}}", flush=True)
print("end", flush=True)
sys.stdin.readline()
"#
    );
    let mut command = python();
    command.arg("-c").arg(code).arg(port.to_string()).arg(folder);
    Client::of(&mut command)
}

/// The same package with its libraries' symbols taken away.
fn stripped(package: &Path) -> TempDir {
    let folder = TempDir::new().unwrap();
    let mut copy = Command::new("cp");
    assert!(copy.arg("-r").arg(package.join(".")).arg(folder.path()).status().unwrap().success());
    let library = folder.path().join("curl_cffi/_wrapper.abi3.so");
    let mut strip = Command::new(tool("strip", "binutils"));
    assert!(strip.arg("--strip-all").arg(library).status().unwrap().success());
    folder
}

/// Where BoringSSL's functions are in a process' file.
fn places(pid: u32) -> BTreeMap<String, u64> {
    let found = tls::of(Path::new("/proc"), pid).unwrap();
    let library = found.libraries.iter().find(|library| library.kind == "BoringSSL");
    let functions = &library.unwrap_or_else(|| panic!("{found:?}")).functions;
    functions.iter().map(|function| (function.name.clone(), function.file_offset)).collect()
}

/// Libraries with BoringSSL inside: one whose functions are known by local symbols, the same without them, and one that was built without.
#[rstest]
#[case::named(CURL_CFFI, false, "Python's curl_cffi")]
#[case::stripped(CURL_CFFI, true, "Python's curl_cffi (stripped)")]
#[case::built_stripped(RNET, false, "Python's rnet (stripped)")]
fn boringssl_inside_a_library_is_seen(
    #[case] (name, code): (&str, &str),
    #[case] is_stripped: bool,
    #[case] program: &str,
) {
    const N: usize = 8;
    let _machine = machine();
    let named = package(name, &[]);
    let without = is_stripped.then(|| stripped(&named));
    let folder = without.as_ref().map_or(named.as_path(), TempDir::path);
    let server = Server::start();
    let mut client = asking(folder, code, server.port);
    let pid = client.process.pid();
    if is_stripped {
        let truth = places(asking(&named, code, server.port).process.pid());
        let found = places(pid);
        for name in ["SSL_read", "SSL_write", "SSL_do_handshake"] {
            assert_eq!(found.get(name), truth.get(name), "{name}: {found:x?} {truth:x?}");
        }
        // What this one's records go through is the newer one of the two.
        assert_eq!(found.get("BIO_write"), truth.get("BIO_write_ex"), "{found:x?} {truth:x?}");
    }
    tried(pid, &["BoringSSL"], "tls_calls::boringssl_inside_a_library_is_seen", program);
    let tracer = Tracer::start_with(Hooks::Socket, &[server.process.pid(), pid], &["--tls", "clear"]);
    client.go("");
    let mut paths = client.end();
    let capture = tracer.stop();
    check_whole(&capture);
    assert_eq!(paths.len(), N);
    for (role, library) in [("client", "boringssl"), ("server", "openssl")] {
        let seen = inside(&capture, role);
        for one in &seen {
            assert_eq!(one.tls.as_ref().unwrap().library.as_deref(), Some(library), "{one:?}");
            // The head as well, of which the client says nothing.
            paths.insert(one.target.clone().unwrap(), one.response_bytes);
            assert!(one.response_bytes > 3000, "{one:?}");
        }
        check_paths(&capture, role, &paths);
    }
}

/// Looks, pieces, calls tried again, pipelines, renegotiation and new keys: each request once, with its bytes.
#[rstest]
#[case::openssl_3(Hooks::Socket, "3")]
#[case::openssl_3_syscall(Hooks::Syscall, "3")]
#[case::openssl_1_1(Hooks::Socket, "1.1.1")]
#[case::openssl_3_5(Hooks::Socket, "3.5")]
fn odd_calls_are_told_once(#[case] hooks: Hooks, #[case] version: &str) {
    let _machine = machine();
    let server = Server::start();
    let library = match version {
        "3" => "libssl.so.3".into(),
        "3.5" => openssl_3_5(),
        _ => openssl_1_1(),
    };
    let mut python = python();
    if let Some(folder) = library.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        // Its own other half is there.
        python.env("LD_LIBRARY_PATH", folder);
    }
    let mut client = Client::start(python, "calls", server.port, &library, "-");
    tried(client.process.pid(), &["OpenSSL"], "tls_calls::odd_calls_are_told_once", "Python by ctypes");
    let pids = [server.process.pid(), client.process.pid()];
    let tracer = Tracer::start_with(hooks, &pids, &["--tls", "clear"]);
    client.go("");
    let paths = client.end();
    let capture = tracer.stop();
    check_whole(&capture);
    assert_eq!(paths.len(), 19);
    for role in ["server", "client"] {
        check_paths(&capture, role, &paths);
        let posted: Vec<u64> = inside(&capture, role)
            .iter()
            .filter(|one| one.operation.starts_with("POST"))
            .map(|one| one.request_bytes)
            .collect();
        assert!(posted.len() == 2 && posted.iter().all(|n| (400_000..400_100).contains(n)), "{posted:?}");
    }
    assert_eq!(counted(&capture, "kernel.tls_call_left").last(), Some(&0));
}

/// Connections that are older than the tracer. What a thread of the server waits for within a call that began before the probes came is missed, and its
/// answer is counted.
#[test]
fn connections_in_the_middle_are_seen_from_the_next_call_on() {
    let _machine = machine();
    let server = Server::start();
    let mut client = Client::start(python(), "middle", server.port, Path::new("libssl.so.3"), "-");
    let pids = [server.process.pid(), client.process.pid()];
    let tracer = Tracer::start_with(Hooks::Socket, &pids, &["--tls", "clear"]);
    client.go("");
    let paths = client.end();
    let capture = tracer.stop();
    check_order_and_sums(&capture);
    assert_eq!(paths.len(), 12);
    check_paths(&capture, "client", &paths);
    let missed = ["/old0/1", "/old1/1", "/old2/1", "/waiting/1", "/silent/1"];
    let seen = paths.into_iter().filter(|(path, _)| !missed.contains(&path.as_str())).collect();
    check_paths(&capture, "server", &seen);
    assert_eq!(capture.summary.unpaired["mid_join"], missed.len() as u64, "{:?}", capture.summary);
    // The client's answer that waited in the library when the probes came.
    assert_eq!(capture.summary.lost["tls_unlinked"], 1, "{:?}", capture.summary);
    assert_eq!(capture.summary.lost_requests.high, 1, "{:?}", capture.summary);
}

/// Requests that are sent before the handshake is over.
#[test]
fn early_data_is_told_once() {
    let _machine = machine();
    let nginx = Nginx::start("", "ssl_protocols TLSv1.3; ssl_early_data on;", None);
    let mut client = Client::start(python(), "early", nginx.address.port(), Path::new("libssl.so.3"), "-");
    let [master, worker] = nginx.pids();
    let tracer =
        Tracer::start_with(Hooks::Socket, &[master, worker, client.process.pid()], &["--tls", "clear"]);
    client.go("");
    let paths = client.end();
    let rows = nginx.rows(paths.len());
    let capture = tracer.stop();
    check_whole(&capture);
    assert!(rows.iter().any(|row| row.ends_with(" 1")), "no early data: {rows:?}");
    for role in ["server", "client"] {
        check_paths(&capture, role, &paths);
    }
}

/// A program whose threads are ended within `SSL_read`, again and again, on a connection that says nothing; then a connection that does.
pub(super) const ENDED: &str = r#"
#include <openssl/ssl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
static SSL_CTX *context;
static SSL *open_one(int port) {
    struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(port) };
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(fd, (struct sockaddr *)&to, sizeof to)) exit(1);
    SSL *ssl = SSL_new(context);
    SSL_set_fd(ssl, fd);
    if (SSL_connect(ssl) != 1) exit(2);
    return ssl;
}
static void ask(SSL *ssl, const char *path, int say) {
    char text[8192];
    int length = snprintf(text, sizeof text, "GET %s HTTP/1.1\r\nHost: a\r\n\r\n", path), got = 0;
    if (SSL_write(ssl, text, length) != length) exit(3);
    for (char *end = NULL; !end || got < end + 4 - text + 3000;) {
        int n = SSL_read(ssl, text + got, sizeof text - 1 - got);
        if (n <= 0) exit(4);
        text[got += n] = 0;
        end = strstr(text, "\r\n\r\n");
    }
    if (say) printf("%s %d\n", path, got);
}
static void *wait_for_nothing(void *ssl) {
    char byte;
    SSL_read(ssl, &byte, 1);
    return NULL;
}
/* All that it calls from here on; whatever else ends it. */
static void confine(void) {
    static const int allowed[] = {
        SYS_read, SYS_write, SYS_close, SYS_mmap, SYS_mprotect, SYS_munmap, SYS_brk, SYS_rt_sigprocmask, SYS_rt_sigaction, SYS_ioctl,
        SYS_madvise, SYS_getpid, SYS_socket, SYS_connect, SYS_sendto, SYS_recvfrom, SYS_exit, SYS_futex, SYS_exit_group, SYS_getrandom,
        SYS_clock_gettime, SYS_gettimeofday, SYS_time, SYS_newfstatat, SYS_fstat, SYS_lseek,
    };
    enum { N = sizeof allowed / sizeof *allowed };
    struct sock_filter filter[2 * N + 2] = { BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0) };
    for (int i = 0; i < N; i++) {
        filter[1 + 2 * i] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, allowed[i], 0, 1);
        filter[2 + 2 * i] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    }
    filter[2 * N + 1] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
    struct sock_fprog program = { 2 * N + 2, filter };
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program)) exit(7);
}
int main(int argc, char **argv) {
    int port = atoi(argv[1]), n = atoi(argv[2]), n_after = argc > 3 ? atoi(argv[3]) : 20;
    char path[32];
    context = SSL_CTX_new(TLS_client_method());
    SSL *silent = open_one(port);
    ask(silent, "/before", 1);
    if (argc > 4 && *argv[4]) confine();
    puts("ready"); fflush(stdout); getchar();
    for (int i = 0; i < n; i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, wait_for_nothing, silent)) exit(5);
        // Taken within its first wait: the read of SSL_read.
        pthread_cancel(thread);
        void *end;
        pthread_join(thread, &end);
        if (end != PTHREAD_CANCELED) exit(6);
    }
    SSL *after = open_one(port);
    if (argc > 5) {
        /* Until there is no more to hear. */
        struct pollfd in = { .fd = 0, .events = POLLIN };
        for (n_after = 0; poll(&in, 1, 0) == 0; n_after++) ask(after, "/endless", 0);
        printf("/endless %d\n", n_after);
        n_after = 0;
    }
    for (int i = 0; i < n_after; i++) {
        snprintf(path, sizeof path, "/after/%d", i);
        ask(after, path, 1);
    }
    puts("end"); fflush(stdout); getchar();
    return 0;
}
"#;

/// Compiles a program that uses OpenSSL.
#[track_caller]
pub(super) fn compiled(folder: &Path, source: &str, flags: &[&str]) -> PathBuf {
    let (text, program) = (folder.join("program.c"), folder.join("program"));
    fs::write(&text, source).unwrap();
    let mut command = Command::new(tool("cc", "gcc"));
    command.args(["-O1", "-pthread", "-o"]).arg(&program).arg(&text).args(flags).args(["-lssl", "-lcrypto"]);
    let made = command.output().unwrap();
    assert!(made.status.success(), "libssl-dev: {made:?}");
    program
}

/// Calls in progress are kept by thread, 8,192 of them.
#[test]
fn threads_that_end_within_a_call_leave_no_call() {
    const N_THREADS: usize = 10_000;
    let _machine = machine();
    let server = Server::start();
    let folder = TempDir::new().unwrap();
    let program = compiled(folder.path(), ENDED, &[]);
    let mut command = Command::new(program);
    let mut client = Client::of(command.arg(server.port.to_string()).arg(N_THREADS.to_string()));
    let tracer = Tracer::start_with(Hooks::Socket, &[client.process.pid()], &["--tls", "clear"]);
    client.go("");
    let paths = client.end();
    let capture = tracer.stop();
    check_whole(&capture);
    assert_eq!(paths.len(), 20);
    check_paths(&capture, "client", &paths);
    assert_eq!(counted(&capture, "kernel.tls_call_left").last(), Some(&0));
}

/// A child goes on with its parent's connection, and the parent becomes another program.
#[test]
fn a_child_and_the_program_that_it_becomes_are_seen() {
    const N: usize = 5;
    let _machine = machine();
    let server = Server::start();
    let code = r#"
import os, ssl, sys, http.client
port = int(sys.argv[1])
def ask(connection, path):
    connection.request("GET", path)
    return len(connection.getresponse().read())
connection = http.client.HTTPSConnection("127.0.0.1", port, context=ssl._create_unverified_context())
print("ready", flush=True)
os.read(0, 100)
ask(connection, "/parent")
if os.fork() == 0:
    for n in range(3):
        ask(connection, f"/at-once/{n}")
    print("end", flush=True)
    os.read(0, 100)
    for n in range(5):
        ask(connection, f"/child/{n}")
    os._exit(0)
os.wait()
print("end", flush=True)
os.execv("/usr/bin/curl", ["curl", "-sk", "--http1.1", "-K", "-"])
"#;
    let mut command = python();
    command.args(["-c", code]).arg(server.port.to_string());
    let mut client = Client::of(&mut command);
    let pids = [server.process.pid(), client.process.pid()];
    let tracer = Tracer::start_with(Hooks::Socket, &pids, &["--tls", "clear"]);
    let before = n_probes(&tracer);
    client.go("");
    wait_for_probes(&tracer, before);
    client.go("");
    let pages = format!("url = \"https://127.0.0.1:{}/page/[1-{N}]\"\noutput = \"/dev/null\"\n", server.port);
    client.stdin.as_mut().unwrap().write_all(pages.as_bytes()).unwrap();
    drop(client.stdin);
    assert_eq!(client.process.wait("curl"), Some(0));
    let capture = tracer.stop();
    check_order_and_sums(&capture);
    let why = format!("{:#?}\n{:?}\n{}", capture.transactions, capture.summary, capture.stderr);
    for role in ["server", "client"] {
        let seen = inside(&capture, role);
        let n_of = |prefix: &str, comm: &str| {
            let is_one = |one: &&&super::tracer::Transaction| {
                one.target.as_deref().is_some_and(|path| path.starts_with(prefix))
                    && (role == "server" || one.comm == comm)
            };
            seen.iter().filter(is_one).count()
        };
        let found = [n_of("/parent", "python3"), n_of("/child/", "python3"), n_of("/page/", "curl")];
        assert_eq!(found, [1, N, N], "{role}: {why}");
        let at_once = n_of("/at-once/", "python3");
        assert_eq!(seen.len(), 2 * N + 1 + at_once, "{role}: {why}");
        // What a child says before it was looked at, on a connection of which the clear text is told, is known to be missing.
        let summary = &capture.summary;
        if role == "server" {
            assert_eq!(at_once, 3, "{why}");
        } else if at_once < 3 {
            assert!(summary.lost["tls_unlinked"] >= 3 - at_once as u64, "{summary:?}");
            assert!(summary.lost_requests.high >= 3 - at_once as u64, "{summary:?}");
        }
    }
}
