//! gRPC by others: Python's grpcio as server and client, all four kinds of methods and errors, from several threads at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead as _, BufReader, Read as _, Write as _},
    process::{Command, Stdio},
};

use rstest::rstest;
use tempfile::TempDir;

use super::{
    Hooks,
    check::{check_conserved, check_order_and_sums},
    machine,
    process::Process,
    tls::certificate,
    tls_calls::package,
    tls_programs::{check_whole, inside},
    tool,
    tracer::Tracer,
};
use crate::tls_tried::tried;

/// A script of fixtures/servers/, by Debian's Python (for python3-grpcio).
fn python(script: &str) -> Command {
    let mut command = Command::new(tool("python3", "python3-grpcio"));
    command.arg(format!("{}/../fixtures/servers/{script}", env!("CARGO_MANIFEST_DIR")));
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    command
}

/// Names, statuses, messages and bytes of every call; what grpcio gathers from tens of buffers in one call is copied whole.
#[rstest]
fn grpcio_seen_from_both_ends(
    #[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks,
    #[values(1, 4)] threads: usize,
) {
    let _machine = machine();
    let mut server = Process::spawn(&mut python("grpc_server.py"));
    let mut line = String::new();
    BufReader::new(server.child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim_end().strip_prefix("listening ").expect("python3-grpcio is not installed");
    let mut client = Process::spawn(python("grpc_client.py").args([address, &threads.to_string()]));
    // A first turn longer than what is copied before a verdict would cost the names: see http2.rs's header.
    let tracer = Tracer::start_with(hooks, &[server.pid(), client.pid()], &["--payload", "full"]);
    client.child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    let mut said = String::new();
    client.child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(client.wait("the client"), Some(0), "{said}");
    let capture = tracer.stop();
    check_order_and_sums(&capture);
    // Method, status's name, and how often, as the client counted.
    let mut truth: BTreeMap<(String, String), usize> = BTreeMap::new();
    for line in said.lines() {
        let cells: Vec<&str> = line.split(' ').collect();
        truth.insert((format!("shop.Orders/{}", cells[0]), cells[1].to_owned()), cells[2].parse().unwrap());
    }
    let n: usize = truth.values().sum();
    assert_eq!((n, truth.len()), (threads * 20 * 7, 7), "{said}");
    let codes = [(0, "OK"), (5, "NOT_FOUND"), (12, "UNIMPLEMENTED"), (14, "UNAVAILABLE")];
    for role in ["server", "client"] {
        let mut seen: BTreeMap<(String, String), usize> = BTreeMap::new();
        for one in capture.role(role) {
            assert_eq!((one.protocol.as_str(), one.end.as_str()), ("grpc", "answered"), "{one:?}");
            assert_eq!(one.confidence, "complete", "{one:?}");
            let (_, name) = codes
                .iter()
                .find(|(code, _)| Some(*code) == one.status_code)
                .unwrap_or_else(|| panic!("no status: {one:?}"));
            // A missing key is the client's error.
            let is_error = *name != "OK" && (role == "client" || *name != "NOT_FOUND");
            assert_eq!(
                (one.error, one.error_type.as_deref()),
                (is_error, is_error.then_some(*name)),
                "{one:?}"
            );
            let is_stream = ["Tell", "Hear", "Chat"].iter().any(|method| one.operation.ends_with(method));
            assert_eq!(one.kind, if is_stream { "longlived" } else { "request" }, "{one:?}");
            let messages = match (one.operation.rsplit('/').next(), *name) {
                (Some("Tell"), _) => (1, Some(3)),
                (Some("Hear"), _) => (2, Some(1)),
                (Some("Chat"), _) => (2, Some(2)),
                (_, "OK") => (1, Some(1)),
                // Trailers only.
                _ => (1, None),
            };
            assert_eq!(
                (one.request_messages, one.response_messages),
                (Some(messages.0), messages.1),
                "{one:?}"
            );
            let words = (*name == "NOT_FOUND").then_some("no such key: café");
            assert!(words.is_none_or(|words| one.error_message.as_deref() == Some(words)), "{one:?}");
            if one.operation.ends_with("Echo") {
                // The answer is the message: as long as it, but for heads.
                assert!(
                    one.request_bytes.abs_diff(one.response_bytes) < 300,
                    "another one's answer: {one:?}"
                );
            }
            *seen.entry((one.operation.clone(), (*name).to_owned())).or_default() += 1;
        }
        assert_eq!(seen, truth, "{role}");
    }
    check_conserved(&capture, capture.transactions.len(), 2 * n, true);
}

/// Of PyPI, with BoringSSL inside and its symbols stripped; its records lie in memory, and threads of its own move them, here the one and there another. Each call
/// is known by its service's name: exactly once at each end, on the connection that is its thread's.
#[rstest]
#[case::newest("1.85.3", Hooks::Socket, 1, 1)]
#[case::newest_syscall("1.85.3", Hooks::Syscall, 4, 1)]
#[case::newest_many("1.85.3", Hooks::Socket, 6, 3)]
#[case::newest_one_by_one("1.85.3", Hooks::Socket, 7, 0)]
#[case::older("1.66.2", Hooks::Syscall, 1, 1)]
#[case::older_one("1.66.2", Hooks::Socket, 4, 1)]
#[case::older_many("1.66.2", Hooks::Socket, 7, 7)]
fn grpcio_with_boringssl_inside_is_seen_from_both_ends(
    #[case] version: &str,
    #[case] hooks: Hooks,
    #[case] threads: usize,
    // 0: of each thread one, one after the other: what the library kept in memory for one is another's then.
    #[case] connections: usize,
) {
    const METHODS: [(&str, i32); 7] =
        [("Echo", 0), ("Missing", 5), ("Down", 14), ("Nothing", 12), ("Tell", 0), ("Hear", 0), ("Chat", 0)];
    let _machine = machine();
    let library = package(&format!("grpcio=={version}"), &[]);
    let folder = TempDir::new().unwrap();
    let (key, certificate) = certificate(folder.path());
    let mut command = python("grpc_server.py");
    let mut server = Process::spawn(command.env("PYTHONPATH", &library).arg(&key).arg(&certificate));
    let mut line = String::new();
    BufReader::new(server.child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim_end().strip_prefix("listening ").expect("grpcio of PyPI");
    let mut command = python("grpc_client.py");
    command.env("PYTHONPATH", &library).args([address, &threads.to_string()]).arg(&certificate);
    let mut client = Process::spawn(command.arg(connections.to_string()));
    let programs = format!("Python (grpcio {version})");
    let test = "grpc::grpcio_with_boringssl_inside_is_seen_from_both_ends";
    tried(server.pid(), &["BoringSSL"], test, &programs);
    let tracer =
        Tracer::start_with(hooks, &[server.pid(), client.pid()], &["--payload", "full", "--tls", "clear"]);
    client.child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    let mut said = String::new();
    client.child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(client.wait("the client"), Some(0), "{said}");
    let capture = tracer.stop();
    check_whole(&capture);
    let mut truth: BTreeMap<String, i32> = BTreeMap::new();
    for thread in 0..threads {
        for n in 0..20 {
            let named = |(method, code)| (format!("/shop.Orders.{thread}.{n}/{method}"), code);
            truth.extend(METHODS.map(named));
        }
    }
    let mut ports: Vec<BTreeMap<String, u16>> = Vec::new();
    for role in ["server", "client"] {
        let seen = inside(&capture, role);
        for one in &seen {
            let facts = (one.protocol.as_str(), one.end.as_str(), one.confidence.as_str());
            assert_eq!(facts, ("grpc", "answered", "complete"), "{one:?}");
            assert_eq!(one.tls.as_ref().unwrap().library.as_deref(), Some("boringssl"), "{one:?}");
        }
        let target = |one: &&super::tracer::Transaction| one.target.clone().unwrap_or_default();
        let told: BTreeMap<String, i32> =
            seen.iter().map(|one| (target(one), one.status_code.unwrap_or(-1))).collect();
        assert_eq!((seen.len(), &told), (truth.len(), &truth), "{role}");
        ports.push(seen.iter().map(|one| (target(one), one.client_port.unwrap())).collect());
    }
    assert_eq!(ports[0], ports[1]);
    let connections = if connections == 0 { threads } else { connections };
    let mut of_connection: BTreeMap<usize, BTreeSet<u16>> = BTreeMap::new();
    for (target, port) in &ports[0] {
        let thread: usize = target.split('.').nth(2).unwrap().parse().unwrap();
        of_connection.entry(thread % connections).or_default().insert(*port);
    }
    let different: BTreeSet<&BTreeSet<u16>> = of_connection.values().collect();
    assert!(of_connection.values().all(|ports| ports.len() == 1), "{of_connection:?}");
    assert_eq!((of_connection.len(), different.len()), (connections, connections), "{of_connection:?}");
}
