//! What a call of `SSL_write` and of `SSL_read` takes, ns, as root: of a process that is no target, of one whose sockets alone are traced, and with txray's programs in
//! it, at the places that txray finds and where everybody else puts them (the function's first instruction). One line of JSON for each round:
//! `cargo run --release --example tls_call_cost [ROUNDS]`. Needs a C compiler and OpenSSL's headers. Traces a program of its own.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::fd::OwnedFd,
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{Arc, atomic::AtomicBool},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use aya::maps::{HashMap, MapData};
use tracer_ebpf as abi;
use tracer_user::{
    bpf::{
        load::{LoadConfig, load},
        ring::{Reader, batch_queue, boot_now},
        uprobe_link::{Place, attach},
    },
    config::Targets,
    metrics::Metrics,
    uprobe::tls::{self, End},
};

/// Both ends of a connection in one thread: 64 bytes at a time, 100 of them, are written and then read; as many such rounds as each line says.
const PROGRAM: &str = r#"
#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
static long now(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * 1000000000L + at.tv_nsec;
}
int main(void) {
    enum { CALLS = 100, BYTES = 64 };
    SSL_CTX *contexts[] = { SSL_CTX_new(TLS_server_method()), SSL_CTX_new(TLS_client_method()) };
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *certificate = X509_new();
    X509_gmtime_adj(X509_getm_notBefore(certificate), 0);
    X509_gmtime_adj(X509_getm_notAfter(certificate), 86400);
    X509_set_pubkey(certificate, key);
    X509_sign(certificate, key, EVP_sha256());
    if (!SSL_CTX_use_certificate(contexts[0], certificate) || !SSL_CTX_use_PrivateKey(contexts[0], key)) return 1;
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair)) return 2;
    SSL *ends[2];
    for (int i = 0; i < 2; i++) {
        fcntl(pair[i], F_SETFL, O_NONBLOCK);
        ends[i] = SSL_new(contexts[i]);
        SSL_set_fd(ends[i], pair[i]);
        if (i) SSL_set_connect_state(ends[i]); else SSL_set_accept_state(ends[i]);
    }
    for (int i = 0; SSL_in_init(ends[0]) || SSL_in_init(ends[1]); i ^= 1) SSL_do_handshake(ends[i]);
    char line[64], bytes[BYTES] = { 0 };
    /* What follows the handshake is read. */
    SSL_read(ends[1], bytes, BYTES);
    puts("ready"); fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        long rounds = atol(line), writing = 0, reading = 0;
        for (long n = 0; n < rounds; n++) {
            long began = now();
            for (int i = 0; i < CALLS; i++) if (SSL_write(ends[1], bytes, BYTES) != BYTES) return 3;
            long written = now();
            for (int i = 0; i < CALLS; i++) if (SSL_read(ends[0], bytes, BYTES) != BYTES) return 4;
            writing += written - began;
            reading += now() - written;
        }
        printf("%.1f %.1f\n", (double)writing / CALLS / rounds, (double)reading / CALLS / rounds);
        fflush(stdout);
    }
    return 0;
}
"#;

/// The CPU of the program; whoever starts this has it on another one.
const CPU: &str = "0";
/// Rounds of 100 calls of each in one measurement: 0.1 s without probes.
const CALLS: &str = "200";

struct Program {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Program {
    fn start(file: &Path) -> Result<Program> {
        let mut command = Command::new("taskset");
        command.args(["-c", CPU]).arg(file).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("taskset")?;
        let to = child.stdin.take().context("its input")?;
        let from = BufReader::new(child.stdout.take().context("its output")?);
        let mut program = Program { child, to, from };
        ensure!(program.line()? == "ready", "the program did not come to itself");
        Ok(program)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.from.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }

    /// Nanoseconds of a call to write, and of one to read.
    fn calls(&mut self) -> Result<(f64, f64)> {
        writeln!(self.to, "{CALLS}")?;
        let line = self.line()?;
        let (write, read) = line.split_once(' ').context("the program ended")?;
        Ok((write.parse()?, read.parse()?))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn main() -> Result<()> {
    // All that is told in one measurement, 40,000 calls, whether or not it is read meanwhile.
    const RING_BYTES: u32 = 64 << 20;
    let n_rounds: usize = std::env::args().nth(1).map_or(Ok(10), |text| text.parse())?;
    let folder = tempfile::TempDir::new()?;
    let (source, file) = (folder.path().join("program.c"), folder.path().join("program"));
    std::fs::write(&source, PROGRAM)?;
    let made =
        Command::new("cc").arg("-O2").arg("-o").arg(&file).arg(&source).args(["-lssl", "-lcrypto"]).status();
    ensure!(made.context("cc")?.success(), "gcc and libssl-dev are needed");
    let (mut other, mut program) = (Program::start(&file)?, Program::start(&file)?);
    let pid = program.child.id();

    let config = LoadConfig {
        targets: Targets { pids: vec![pid], ..Targets::default() },
        pids: vec![pid],
        ring_bytes: RING_BYTES,
        max_conns: 1024,
        budget: 4096,
        capture: Default::default(),
        udp_ports: Vec::new(),
        functions: false,
        ..LoadConfig::nothing()
    };
    let mut loaded = load(&config)?;
    let programs = std::mem::take(&mut loaded.tls_programs);
    let map = loaded.ebpf.take_map("TLS_PROCESSES").context("no map TLS_PROCESSES")?;
    let mut processes: HashMap<MapData, u32, abi::TlsProcess> = HashMap::try_from(map)?;
    let process = abi::TlsProcess { since_ns: boot_now().0, libraries: 1 << abi::TLS_OPENSSL };
    processes.insert(pid, process, 0)?;
    let stop = Arc::new(AtomicBool::new(false));
    let (sender, queue) = batch_queue(64);
    let reader = Reader::new(loaded, RING_BYTES, sender, Metrics::default(), stop.clone())?;
    thread::spawn(move || reader.run());
    thread::spawn(move || while queue.recv().is_ok() {});

    let found = tls::of(Path::new("/proc"), pid).map_err(|error| anyhow::anyhow!("{error}"))?;
    let library = found.libraries.iter().find(|library| library.kind == "OpenSSL").context("no OpenSSL")?;
    let at = |is_ours: bool| -> Result<Vec<OwnedFd>> {
        let mut links = Vec::new();
        for (name, plain, inner) in [
            ("SSL_write", "tls_openssl_write", "tls_openssl_write_ex"),
            ("SSL_read", "tls_openssl_read", "tls_openssl_read_ex"),
        ] {
            let function = library.functions.iter().find(|one| one.name == name).context("no function")?;
            let (program, offset) = match &function.end {
                End::Inner(site) if is_ours => (inner, site.file_offset),
                End::ReturnProbe(site) if is_ours => (plain, site.file_offset),
                end if is_ours => bail!("{name}: {end:?}"),
                _ => (plain, function.file_offset),
            };
            for (program, at_return) in [(program, false), ("tls_return", true)] {
                let place = Place { path: Path::new(&library.path), offset, at_return, pid: Some(pid) };
                links.push(attach(programs.get(program).context("not loaded")?, place)?);
            }
        }
        Ok(links)
    };
    // Warms up both.
    other.calls()?;
    program.calls()?;
    for _ in 0..n_rounds {
        let say = |what: &str, (write, read): (f64, f64)| {
            println!(r#"{{"placement":"{what}","write_ns":{write},"read_ns":{read}}}"#);
            // What is in the ring is read meanwhile.
            thread::sleep(Duration::from_millis(100));
        };
        say("none", other.calls()?);
        say("sockets", program.calls()?);
        let links = at(true)?;
        say("inner", program.calls()?);
        drop(links);
        let links = at(false)?;
        say("first", program.calls()?);
        drop(links);
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    Ok(())
}
