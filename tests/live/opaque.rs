//! Turns of a protocol that nobody knows: netcat on both ends.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::TcpListener,
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
    tracer::{Capture, Tracer},
};

/// Netcat asks netcat `n` times, with the tracer told of the port or not.
fn converse(hooks: Hooks, n: u64, is_given: bool) -> (Capture, Vec<(u64, u64)>) {
    let folder = TempDir::new().unwrap();
    let nc = tool("nc", "netcat-openbsd");
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    // What it is asked comes back with a prefix.
    let script = "read go; mkfifo \"$1/answers\"; \"$2\" -l 127.0.0.1 \"$3\" <\"$1/answers\" | \
                  while read -r line; do echo \"you said $line\"; done >\"$1/answers\"";
    let mut server = Command::new("/bin/sh");
    server.args(["-c", script, "sh"]).arg(folder.path()).arg(&nc).arg(port.to_string());
    let mut server = Process::spawn(server.stdin(Stdio::piped()));
    let mut client = Command::new("/bin/sh");
    client.args(["-c", "read go; exec \"$@\"", "sh"]).arg(&nc).args(["-N", "127.0.0.1", &port.to_string()]);
    let mut client = Process::spawn(client.stdin(Stdio::piped()).stdout(Stdio::piped()));
    let given = port.to_string();
    let flags: &[&str] = if is_given { &["--opaque-port", &given] } else { &[] };
    let tracer = Tracer::start_with(hooks, &[server.pid(), client.pid()], flags);

    server.child.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
    wait_for("netcat to listen", || {
        let listening = std::fs::read_to_string("/proc/net/tcp").ok()?;
        listening.contains(&format!("0100007F:{port:04X} 00000000:0000 0A")).then_some(())
    });
    let mut stdin = client.child.stdin.take().unwrap();
    let mut stdout = BufReader::new(client.child.stdout.take().unwrap());
    stdin.write_all(b"go\n").unwrap();
    let mut lengths = Vec::new();
    for at in 0..n {
        // The first is as short as can be.
        let line = format!("{}\n", "G".repeat(1 + at as usize * 7));
        stdin.write_all(line.as_bytes()).unwrap();
        let mut answer = String::new();
        stdout.read_line(&mut answer).unwrap();
        assert_eq!(answer, format!("you said {line}"), "the load itself failed");
        lengths.push((line.len() as u64, answer.len() as u64));
    }
    drop(stdin);
    client.wait("the client");
    server.wait("the server");
    (tracer.stop(), lengths)
}

#[rstest]
fn on_a_given_port_turns_are_counted_exactly(#[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks) {
    let _machine = machine();
    let (capture, lengths) = converse(hooks, 60, true);
    check_order_and_sums(&capture);
    assert_eq!(
        (capture.summary.lost_requests.low, capture.summary.lost_requests.high),
        (0, 0),
        "{}",
        capture.stderr
    );
    assert_eq!(capture.summary.unpaired.values().sum::<u64>(), 0, "{:?}", capture.summary.unpaired);
    for role in ["server", "client"] {
        let turns = capture.role(role);
        let told: Vec<_> = turns.iter().map(|one| (one.request_bytes, one.response_bytes)).collect();
        assert_eq!(told, lengths, "{role}");
        for one in turns {
            assert_eq!(
                (one.protocol.as_str(), one.kind.as_str(), one.operation.as_str()),
                ("opaque", "opaque", "turn")
            );
            assert_eq!((one.end.as_str(), one.confidence.as_str()), ("answered", "complete"), "{one:?}");
            assert_eq!((one.comm.as_str(), one.error), ("nc", false), "{one:?}");
            assert!(one.duration_ns > 0 && one.ttfb_ns.is_some(), "{one:?}");
        }
    }
}

#[rstest]
fn on_other_ports_they_are_only_counted_as_connections(
    #[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks,
) {
    let _machine = machine();
    let (capture, _) = converse(hooks, 20, false);
    check_order_and_sums(&capture);
    assert_eq!(capture.transactions.len(), 0, "{:#?}", capture.transactions);
    assert_eq!(capture.summary.lost_requests.high, 0, "{}", capture.stderr);
}
