//! gRPC by others: Python's grpcio as server and client, all four kinds of methods and errors, from several threads at once.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    process::{Command, Stdio},
};

use rstest::rstest;

use super::{
    Hooks,
    check::{check_conserved, check_order_and_sums},
    machine,
    process::Process,
    tool,
    tracer::Tracer,
};

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
