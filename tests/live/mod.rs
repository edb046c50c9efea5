//! Live layer: real programs, traced by the built `txray` on this host's kernel, held against what they logged themselves.
//!
//! Needs root. A test that cannot run fails and says what is missing. `http1` needs nothing but this project's own
//! programs and so runs in a bare virtual machine too (`TXRAY_BIN` and `TXRAY_WORKLOAD` name the programs there);
//! `dns` needs BIND, dig and dnsmasq, `llmnr` systemd-resolved (the program alone) and dig,
//! `programs` needs nginx, wrk, curl, Python and Node, `anatomy` Python, `anatomy_script` gcc and PostgreSQL, `tls` nginx, curl and OpenSSL, `tls_clear` gnutls-serv and Node too, `tls_programs` NSS' tools,
//! libcurl on NSS and on GnuTLS, Redis, MariaDB and h2load, `starts`, `tls_calls`, `tls_files` and `tls_harm` a C compiler, OpenSSL's headers and pip (older and
//! other libraries are in packages of PyPI), `opaque` netcat, `websocket` Python's `websockets` and `hypercorn`, nghttpx, Node and curl,
//! `postgres`, `mysql` and `redis` those servers and their clients (`postgres` Python too, `mysql` sysbench and Python),
//! `http2` nghttp2 and nginx, `links` Python, Node, Go and crates of crates.io, `grpc` Python's grpcio, `tls_go` Go, `tls_rustls` crates of crates.io, `functions` and `stacks` gcc, g++, rustc and Go (`stacks` Node and a JDK too),
//! `network` Python, iproute2 and unshare, `pcap` tcpdump and bind9 with its tools, `screen` tmux, `denied` nginx, tmux and setpriv. Test names end in the family of hooks (`Hooks__Socket`,
//! `Hooks__Syscall`), so that a kernel without the socket tracepoints can run the others alone.

mod anatomy;
mod anatomy_script;
mod check;
mod command;
mod conservation;
mod denied;
mod detach;
mod dns;
mod ends;
mod functions;
mod gathered;
mod grpc;
mod h2c;
mod http1;
mod http2;
mod http2_ends;
mod links;
mod llmnr;
mod mysql;
mod network;
mod odd_calls;
mod opaque;
mod payload;
mod pcap;
mod postgres;
mod process;
mod program_time;
mod programs;
mod redis;
mod replay;
mod screen;
mod stacks;
mod starts;
mod symbols;
mod targets;
mod template;
mod tls;
mod tls_calls;
mod tls_clear;
mod tls_files;
mod tls_go;
mod tls_harm;
mod tls_programs;
mod tls_rustls;
mod tracer;
mod websocket;

use std::{
    fs::File,
    os::fd::AsRawFd as _,
    path::PathBuf,
    process::Command,
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
};

/// Which family of hooks a test forces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hooks {
    Socket,
    Syscall,
}

impl Hooks {
    fn flag(self) -> &'static str {
        match self {
            Hooks::Socket => "socket",
            Hooks::Syscall => "syscall",
        }
    }
}

/// The machine, for one test at a time: among the threads of this process and among processes that run this file.
struct Machine {
    _file: File,
    _guard: MutexGuard<'static, ()>,
}

/// Waits for the machine, and fails if live tests cannot run on it.
fn machine() -> Machine {
    static ONE: Mutex<()> = Mutex::new(());
    let guard = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    // SAFETY: no arguments, cannot fail.
    let user = unsafe { libc::geteuid() };
    assert_eq!(user, 0, "live tests load BPF programs: run them as root (`sudo -E cargo xtask test`)");
    let file = File::open("/proc/self/exe").unwrap();
    // SAFETY: no pointers; the descriptor is open.
    let locked = unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX) };
    assert_eq!(locked, 0, "lock: {}", std::io::Error::last_os_error());
    Machine { _file: file, _guard: guard }
}

/// The program under test.
fn txray_program() -> PathBuf {
    std::env::var_os("TXRAY_BIN").map_or_else(|| env!("CARGO_BIN_EXE_txray").into(), Into::into)
}

/// The load generator and server; built if this is a build tree.
fn workload_program() -> &'static PathBuf {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        if let Some(program) = std::env::var_os("TXRAY_WORKLOAD") {
            return program.into();
        }
        let program = PathBuf::from(env!("CARGO_BIN_EXE_txray")).with_file_name("workload");
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--package", "workload", "--bin", "workload", "--manifest-path"]);
        build.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"));
        if program.components().any(|part| part.as_os_str() == "release") {
            build.arg("--release");
        }
        let built = build.status();
        assert!(
            built.as_ref().is_ok_and(|status| status.success()) && program.exists(),
            "cannot build the workload ({built:?}); or set TXRAY_WORKLOAD to a built one"
        );
        program
    })
}

/// A program of a Debian package; without it the test fails and names the package.
fn tool(name: &str, package: &str) -> PathBuf {
    // Debian's own first: what comes before it in a PATH may be a script that only looks like the program.
    let path = std::env::var_os("PATH").unwrap_or_default();
    let debian: [PathBuf; 2] = ["/usr/sbin".into(), "/usr/bin".into()];
    debian
        .into_iter()
        .chain(std::env::split_paths(&path))
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
        .unwrap_or_else(|| panic!("{name} is not installed: apt-get install {package}"))
}
