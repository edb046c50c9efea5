//! What Go's crypto/tls carries: HTTP/1.1, HTTP/2 and gRPC, servers and clients in one process, held against what both sides log.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::fs::FileExt as _,
    path::Path,
    process::{Command, Stdio},
};

use rstest::rstest;
use tempfile::TempDir;
use tracer_user::uprobe::placement::Site;

use super::{
    Hooks,
    check::check_order_and_sums,
    dns::counted,
    machine,
    process::{Process, wait_for},
    tls::certificate,
    tracer::{Capture, Tracer, Transaction},
};
use crate::go::{Https, PLAIN, Row, STRIPPED, places, toolchains};

/// Most bytes that heads, or heads and the headers of frames, add to a body.
const AROUND: u64 = 1500;

/// Two sides of 960 requests with bodies: more than the usual ring takes while a busy processor keeps its reader waiting.
/// Without stacks: these loads are as much as a build without optimisations takes.
pub(super) const FLAGS: &[&str] = &["--tls", "clear", "--ring-size", "64M", "--stacks", "off"];

/// What was read inside.
pub(super) fn inside<'a>(capture: &'a Capture, role: &str) -> Vec<&'a Transaction> {
    capture.role(role).into_iter().filter(|one| one.protocol != "tls").collect()
}

/// Each row is one transaction of its side, and there are no others.
#[track_caller]
pub(super) fn check_rows(
    capture: &Capture,
    rows: &[Row],
    protocol: &str,
    confidences: &[&str],
    (library, what): (&str, &str),
) {
    check_order_and_sums(capture);
    for side in ["server", "client"] {
        let logged: BTreeMap<&str, &Row> =
            rows.iter().filter(|row| row.side == side).map(|row| (row.id.as_str(), row)).collect();
        let seen = inside(capture, side);
        let ids: BTreeSet<&str> = seen.iter().filter_map(|one| one.stamp()).collect();
        let missing: Vec<&&str> = logged.keys().filter(|id| !ids.contains(**id)).collect();
        let why = format!("{what}, {side}: {:?}\n{}", capture.summary, capture.stderr);
        assert!(missing.is_empty(), "{missing:?} are missing; {why}");
        assert_eq!((seen.len(), ids.len()), (logged.len(), logged.len()), "each once; {why}");
        for one in seen {
            let row = one.stamp().and_then(|id| logged.get(id));
            let row = row.unwrap_or_else(|| panic!("nobody asked for it: {one:?}; {why}"));
            let target = format!("/bytes/{}?id={}", row.response, row.id);
            assert_eq!(
                (one.protocol.as_str(), one.target.as_deref(), one.status_code, one.end.as_str()),
                (protocol, Some(&*target), Some(row.status), "answered"),
                "{row:?} {one:?}; {why}"
            );
            assert!(confidences.contains(&one.confidence.as_str()), "{one:?}; {why}");
            for (bytes, body) in [(one.request_bytes, row.request), (one.response_bytes, row.response)] {
                assert!((body..body + AROUND).contains(&bytes), "{row:?} {one:?}; {why}");
            }
            assert_eq!(
                one.tls.as_ref().and_then(|tls| tls.library.as_deref()),
                Some(library),
                "{one:?}; {why}"
            );
        }
    }
    assert_eq!(capture.summary.lost_requests.high, 0, "{what}: {:?}\n{}", capture.summary, capture.stderr);
    assert_eq!(capture.summary.unpaired.values().sum::<u64>(), 0, "{what}: {:?}", capture.summary);
    assert_eq!(counted(capture, "tls.left_opaque").last(), Some(&0), "{what}: {}", capture.stderr);
}

/// Connections on the wire.
pub(super) fn n_conns(capture: &Capture, role: &str) -> usize {
    inside(capture, role).iter().map(|one| &one.conn_id).collect::<BTreeSet<_>>().len()
}

#[rstest]
fn each_request_is_one_on_both_sides(
    #[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks,
    #[values("http1", "http2")] protocol: &str,
) {
    let _machine = machine();
    let folder = TempDir::new().unwrap();
    let (key, certificate) = certificate(folder.path());
    for go in toolchains() {
        // Many connections at once; or 32 requests at once on each of a few, in a program without symbols.
        let (flags, built, n_wires, n): (&[&str], &[&str], _, _) = match protocol {
            "http1" => (&["-conns", "24"], &[], 24, 6),
            _ => (&["-conns", "3", "-streams", "32"], STRIPPED, 3, 3),
        };
        let mut https = Https::start(&go.build("https", built, folder.path()), flags, (&certificate, &key));
        let tracer = Tracer::start_with(hooks, &[https.pid()], FLAGS);
        let rows = https.ask("a", n);
        let capture = tracer.stop();
        assert!(https.end().is_empty());
        check_rows(&capture, &rows, protocol, &["complete"], ("go", &go.version));
        assert_eq!((n_conns(&capture, "server"), n_conns(&capture, "client")), (n_wires, n_wires));
        let others: Vec<_> = capture.transactions.iter().filter(|one| one.protocol == "tls").collect();
        assert!(others.iter().all(|one| one.operation == "TLS handshake"), "{others:?}");
    }
}

/// Connections on which something was said before, and whose goroutines wait in `Read` when the probes come.
#[rstest]
fn connections_that_were_there_before_are_read_from_the_next_request_on(
    #[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks,
    #[values("http1", "http2")] protocol: &str,
) {
    let _machine = machine();
    let folder = TempDir::new().unwrap();
    let (key, certificate) = certificate(folder.path());
    for go in toolchains() {
        let (flags, built, n): (&[&str], &[&str], _) = match protocol {
            "http1" => (&["-conns", "24", "-grow"], STRIPPED, 6),
            _ => (&["-conns", "3", "-streams", "32"], &[], 3),
        };
        let mut https = Https::start(&go.build("https", built, folder.path()), flags, (&certificate, &key));
        https.ask("before", 2);
        let tracer = Tracer::start_with(hooks, &[https.pid()], FLAGS);
        let rows = https.ask("a", n);
        let capture = tracer.stop();
        assert!(https.end().is_empty());
        // On HTTP/2 names that were said before may be missing.
        let confidences: &[&str] = if protocol == "http1" { &["complete"] } else { &["gap"] };
        check_rows(&capture, &rows, protocol, confidences, ("go", &go.version));
    }
}

/// Reads of a few bytes, stacks that grow and move within calls, TLS 1.2, a connection for each request, code that nobody optimised.
#[rstest]
#[case::unoptimised(PLAIN, &["-conns", "8"], 4)]
#[case::few_bytes(&[], &["-conns", "4", "-small", "97", "-grow"], 2)]
#[case::stacks(STRIPPED, &["-conns", "20", "-grow"], 8)]
#[case::one_each(&[], &["-conns", "6", "-fresh", "-old"], 8)]
fn however_it_is_called(#[case] built: &[&str], #[case] flags: &[&str], #[case] n: usize) {
    let _machine = machine();
    let folder = TempDir::new().unwrap();
    let (key, certificate) = certificate(folder.path());
    for go in toolchains() {
        let mut https = Https::start(&go.build("https", built, folder.path()), flags, (&certificate, &key));
        let tracer = Tracer::start_with(Hooks::Socket, &[https.pid()], FLAGS);
        let rows = https.ask("a", n);
        let capture = tracer.stop();
        assert!(https.end().is_empty());
        check_rows(&capture, &rows, "http1", &["complete"], ("go", &go.version));
    }
}

/// Traced by its file: once probes are on it, a process is seen from its first byte on.
#[test]
fn a_program_that_starts_later_is_seen_from_its_first_request_on() {
    let _machine = machine();
    let folder = TempDir::new().unwrap();
    let (key, certificate) = certificate(folder.path());
    for go in toolchains() {
        let program = go.build("https", STRIPPED, folder.path());
        let exe = ["--exe", program.to_str().unwrap()];
        let tracer = Tracer::start_with(Hooks::Socket, &[], &[FLAGS, &exe].concat());
        let mut first = Https::start(&program, &["-conns", "1"], (&certificate, &key));
        // When its probes come is not the matter here. Go's linker puts a program's file at 0x400000.
        first.ask("first", 1);
        let memory = File::open(format!("/proc/{}/mem", first.pid())).unwrap();
        let (_, sites) = places(first.pid());
        let is_probed = |site: &Site| {
            let mut byte = [0];
            memory.read_exact_at(&mut byte, 0x40_0000 + site.file_offset).unwrap();
            byte == [0xcc]
        };
        wait_for("probes on the file", || sites.iter().all(is_probed).then_some(()));
        let mut second = Https::start(&program, &["-conns", "4"], (&certificate, &key));
        let rows = second.ask("second", 5);
        let pid = second.pid();
        let mut capture = tracer.stop();
        first.end();
        second.end();
        capture.transactions.retain(|one| one.pid == pid);
        for side in ["server", "client"] {
            let seen = inside(&capture, side);
            let ids: BTreeSet<&str> = seen.iter().filter_map(|one| one.stamp()).collect();
            let logged: BTreeSet<&str> =
                rows.iter().filter(|row| row.side == side).map(|row| row.id.as_str()).collect();
            let why = format!("{}, {side}: {seen:#?}\n{}", go.version, capture.stderr);
            assert_eq!((&ids, seen.len()), (&logged, logged.len()), "{why}");
            assert!(seen.iter().all(|one| one.confidence == "complete" && one.end == "answered"), "{why}");
        }
    }
}

/// What goes through a connection within another one is the outer one's, and nobody else's.
#[test]
fn tls_within_tls_is_not_mixed_up() {
    let _machine = machine();
    let folder = TempDir::new().unwrap();
    let (key, certificate) = certificate(folder.path());
    for go in toolchains() {
        let program = go.build("https", &[], folder.path());
        for before in [0, 2] {
            let mut https = Https::start(&program, &["-conns", "4", "-twice"], (&certificate, &key));
            https.ask("before", before);
            let tracer = Tracer::start_with(Hooks::Socket, &[https.pid()], FLAGS);
            https.ask("a", 5);
            let capture = tracer.stop();
            assert!(https.end().is_empty());
            let http: Vec<_> = capture.transactions.iter().filter(|one| one.protocol != "tls").collect();
            assert!(http.is_empty(), "{}: {http:#?}", go.version);
            assert!(counted(&capture, "kernel.tls_unlinked").last() > Some(&0), "{}", capture.stderr);
        }
    }
}

/// Calls of gRPC by method and status, as the clients count them.
#[rstest]
fn grpc_calls_are_those_that_were_made(#[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks) {
    let _machine = machine();
    let folder = TempDir::new().unwrap();
    let (key, certificate) = certificate(folder.path());
    for go in toolchains() {
        let program = go.build("grpc", STRIPPED, folder.path());
        let (capture, truth) = grpc(hooks, &program, (&certificate, &key));
        check_order_and_sums(&capture);
        assert_eq!(truth.values().sum::<usize>(), 3 * 8 * 4 * 5, "{truth:?}");
        for role in ["server", "client"] {
            let mut seen: BTreeMap<(String, i32), usize> = BTreeMap::new();
            for one in inside(&capture, role) {
                assert_eq!(
                    (one.protocol.as_str(), one.end.as_str(), one.confidence.as_str()),
                    ("grpc", "answered", "complete"),
                    "{}: {one:?}",
                    go.version
                );
                let method = one.operation.strip_prefix("shop.Orders/").unwrap_or_else(|| panic!("{one:?}"));
                *seen.entry((method.to_owned(), one.status_code.unwrap_or(-1))).or_default() += 1;
            }
            assert_eq!(seen, truth, "{}, {role}", go.version);
        }
        assert_eq!(capture.summary.lost_requests.high, 0, "{}: {}", go.version, capture.stderr);
        assert_eq!(capture.summary.unpaired.values().sum::<u64>(), 0, "{}", go.version);
    }
}

fn grpc(
    hooks: Hooks,
    program: &Path,
    (certificate, key): (&Path, &Path),
) -> (Capture, BTreeMap<(String, i32), usize>) {
    let mut command = Command::new(program);
    command.arg(certificate).arg(key).args(["3", "8"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut process = Process::spawn(&mut command);
    let mut lines = BufReader::new(process.child.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert_eq!(lines.next().as_deref(), Some("ready"));
    let tracer = Tracer::start_with(hooks, &[process.pid()], FLAGS);
    process.child.stdin.as_mut().unwrap().write_all(b"a 4\n").unwrap();
    let mut truth = BTreeMap::new();
    for line in lines.take_while(|line| line != "done a") {
        let cells: Vec<&str> = line.split(' ').collect();
        truth.insert((cells[0].to_owned(), cells[1].parse().unwrap()), cells[2].parse().unwrap());
    }
    let capture = tracer.stop();
    drop(process.child.stdin.take());
    assert_eq!(process.wait("the program"), Some(0));
    (capture, truth)
}
