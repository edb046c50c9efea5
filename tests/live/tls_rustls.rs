//! What rustls carries: HTTP/1.1 and HTTP/2 by hyper over tokio-rustls, HTTP/1.1 by threads over rustls alone; servers and clients in one process, held against
//! what both sides log.

use std::{fs, process::Command};

use rstest::rstest;
use tempfile::TempDir;
use tracer_user::uprobe::tls;

use super::{
    Hooks,
    check::check_order_and_sums,
    dns::counted,
    machine,
    tls::certificate,
    tls_go::{FLAGS, check_rows, inside, n_conns},
    tool,
    tracer::Tracer,
    txray_program,
};
use crate::{go::Https, rustls::Build, tls_tried::tried};

const RUSTLS: &str = "rustls";

#[rstest]
fn each_request_is_one_on_both_sides(
    #[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks,
    #[values("http1", "http2")] protocol: &str,
) {
    let _machine = machine();
    let folder = TempDir::new().unwrap();
    let (key, certificate) = certificate(folder.path());
    // Many connections at once; or 32 requests at once on each of a few.
    let (flags, n_wires, n): (&[&str], _, _) = match protocol {
        "http1" => (&["-conns", "24"], 24, 8),
        _ => (&["-conns", "3", "-streams", "32"], 3, 2),
    };
    let mut https = Https::start(&Build::Optimised.program(), flags, (&certificate, &key));
    let test = "tls_rustls::each_request_is_one_on_both_sides";
    tried(https.pid(), &[RUSTLS], test, "hyper by tokio-rustls");
    let tracer = Tracer::start_with(hooks, &[https.pid()], FLAGS);
    let rows = https.ask("a", n);
    let capture = tracer.stop();
    assert!(https.end().is_empty());
    check_rows(&capture, &rows, protocol, &["complete"], (RUSTLS, protocol));
    assert_eq!((n_conns(&capture, "server"), n_conns(&capture, "client")), (n_wires, n_wires));
    assert_eq!(counted(&capture, "kernel.tls_unlinked").last(), Some(&0), "{}", capture.stderr);
    let others: Vec<_> = capture.transactions.iter().filter(|one| one.protocol == "tls").collect();
    assert!(others.iter().all(|one| one.operation == "TLS handshake"), "{others:?}");
}

/// Connections on which something was said before. The threads' are in other places of memory each time, where others were before.
#[rstest]
#[case::http1(&["-conns", "24"], 6, "http1")]
#[case::http2(&["-conns", "3", "-streams", "32"], 2, "http2")]
#[case::threads(&["-conns", "8", "-blocking"], 8, "http1")]
fn connections_that_were_there_before_are_read_from_the_next_request_on(
    #[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks,
    #[case] flags: &[&str],
    #[case] n: usize,
    #[case] protocol: &str,
) {
    let _machine = machine();
    let folder = TempDir::new().unwrap();
    let (key, certificate) = certificate(folder.path());
    let mut https = Https::start(&Build::Optimised.program(), flags, (&certificate, &key));
    https.ask("before", 2);
    let tracer = Tracer::start_with(hooks, &[https.pid()], FLAGS);
    let mut rows = https.ask("a", n);
    rows.extend(https.ask("b", 1));
    let capture = tracer.stop();
    assert!(https.end().is_empty());
    // On HTTP/2 names that were said before may be missing.
    let confidences: &[&str] = if protocol == "http1" { &["complete"] } else { &["gap"] };
    check_rows(&capture, &rows, protocol, confidences, (RUSTLS, protocol));
}

/// A thread for each connection, writes that are sent in parts, one thread for all connections, TLS 1.2, a connection for each request, code that nobody
/// optimised of another version with names of another form.
#[rstest]
#[case::threads(Build::Optimised, &["-conns", "8", "-blocking"], 8)]
#[case::threads_one_each(Build::Optimised, &["-conns", "4", "-blocking", "-fresh", "-old"], 8)]
#[case::in_parts(Build::Optimised, &["-conns", "4", "-buffer", "4096"], 8)]
#[case::one_thread(Build::Optimised, &["-conns", "12", "-threads", "1"], 6)]
#[case::one_each(Build::Optimised, &["-conns", "6", "-fresh", "-old"], 8)]
#[case::unoptimised(Build::Plain, &["-conns", "8"], 8)]
#[case::unoptimised_threads(Build::Plain, &["-conns", "4", "-blocking", "-old"], 6)]
fn however_it_is_called(#[case] build: Build, #[case] flags: &[&str], #[case] n: usize) {
    let _machine = machine();
    let folder = TempDir::new().unwrap();
    let (key, certificate) = certificate(folder.path());
    let mut https = Https::start(&build.program(), flags, (&certificate, &key));
    let programs = if flags.contains(&"-blocking") { "threads" } else { "hyper by tokio-rustls" };
    tried(https.pid(), &[RUSTLS], "tls_rustls::however_it_is_called", programs);
    let tracer = Tracer::start_with(Hooks::Socket, &[https.pid()], FLAGS);
    let rows = https.ask("a", n);
    let capture = tracer.stop();
    assert!(https.end().is_empty());
    check_rows(&capture, &rows, "http1", &["complete"], (RUSTLS, &format!("{build:?} {flags:?}")));
}

/// Where records do not lie in memory where they are received and sent, nothing says whose they are.
#[test]
fn records_that_are_copied_are_counted_and_not_told_in_part() {
    let _machine = machine();
    let folder = TempDir::new().unwrap();
    let (key, certificate) = certificate(folder.path());
    let flags = ["-conns", "4", "-copies"];
    let mut https = Https::start(&Build::Optimised.program(), &flags, (&certificate, &key));
    let tracer = Tracer::start_with(Hooks::Socket, &[https.pid()], FLAGS);
    https.ask("a", 8);
    let capture = tracer.stop();
    assert!(https.end().is_empty());
    check_order_and_sums(&capture);
    let told: Vec<_> = ["server", "client"].iter().flat_map(|role| inside(&capture, role)).collect();
    assert!(told.is_empty(), "{told:#?}\n{}", capture.stderr);
    assert!(counted(&capture, "kernel.tls_unlinked").last() > Some(&0), "{}", capture.stderr);
}

#[test]
fn a_stripped_program_stays_opaque_and_is_told_why() {
    let _machine = machine();
    let folder = TempDir::new().unwrap();
    let (key, certificate) = certificate(folder.path());
    let program = folder.path().join("https");
    fs::copy(Build::Optimised.program(), &program).unwrap();
    assert!(Command::new(tool("strip", "binutils")).arg(&program).status().unwrap().success());
    let mut https = Https::start(&program, &["-conns", "4"], (&certificate, &key));
    let found = tls::of(std::path::Path::new("/proc"), https.pid()).unwrap();
    let [library] = &found.libraries[..] else { panic!("{found:?}") };
    assert_eq!((library.kind, library.functions.len()), (RUSTLS, 0));
    assert!(library.version.as_deref().is_some_and(|version| version.starts_with("0.23.")), "{library:?}");
    let doctor = Command::new(txray_program())
        .args(["doctor", "--quick", "--pid", &https.pid().to_string()])
        .output()
        .unwrap();
    let doctor = String::from_utf8(doctor.stdout).unwrap();
    assert!(doctor.contains("limit  rustls 0.23.") && doctor.contains("strip = \"debuginfo\""), "{doctor}");
    let tracer = Tracer::start_with(Hooks::Socket, &[https.pid()], FLAGS);
    https.ask("a", 4);
    let capture = tracer.stop();
    assert!(https.end().is_empty());
    check_order_and_sums(&capture);
    assert!(!capture.transactions.is_empty(), "{}", capture.stderr);
    assert!(
        capture
            .transactions
            .iter()
            .all(|one| one.protocol == "tls" && one.tls.as_ref().is_none_or(|tls| tls.library.is_none())),
        "{:#?}",
        capture.transactions
    );
    assert!(counted(&capture, "tls.left_opaque").last() > Some(&0), "{}", capture.stderr);
    assert!(capture.stderr.contains("rustls") && capture.stderr.contains("stripped"), "{}", capture.stderr);
}
