//! Calls that move no bytes of a stream, or move them oddly, and the wait before anyone accepts.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    os::fd::AsRawFd as _,
    path::Path,
    process::{Command, Stdio},
};

use rstest::rstest;
use workload::clock::{boot_ns, wall_minus_boot_ns};

use super::{Hooks, check::check_order_and_sums, machine, process::Process, tool, tracer::Tracer};

/// Most that a printed wall time may be off from this process's reading of the clocks, ns.
const ANCHOR_SLACK_NS: i64 = 1_000_000;

fn get(stream: &mut TcpStream, target: &str) {
    stream.write_all(format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).unwrap();
}

fn answer(stream: &mut TcpStream) {
    let mut answer = [0; 40];
    stream.read_exact(&mut answer).unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200") && answer.ends_with(b"ok"), "{answer:?}");
}

/// One byte outside the stream, with a place in it.
fn urgent(stream: &TcpStream) {
    // SAFETY: one byte, on an open socket.
    let sent = unsafe { libc::send(stream.as_raw_fd(), b"!".as_ptr().cast(), 1, libc::MSG_OOB) };
    assert_eq!(sent, 1, "{}", std::io::Error::last_os_error());
}

#[rstest]
fn urgent_bytes_and_error_queues_are_no_part_of_the_stream(
    #[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks,
) {
    const N: usize = 6;
    let _machine = machine();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/servers/odd_calls.py");
    let mut command = Command::new(tool("python3", "python3"));
    command.arg(script).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut server = Process::spawn(&mut command);
    let mut go = server.child.stdin.take().unwrap();
    let mut said = BufReader::new(server.child.stdout.take().unwrap()).lines().map(|line| line.unwrap());
    let address = said.next().unwrap().strip_prefix("listening ").unwrap().to_owned();
    let tracer = Tracer::start(hooks, &[server.pid()]);

    // The connection and its first request wait until the server is told to accept.
    let mut stream = TcpStream::connect(&address).unwrap();
    let asked_ns = boot_ns();
    get(&mut stream, "/0");
    go.write_all(b"go\n").unwrap();
    let accept_ns: u64 = said.next().unwrap().strip_prefix("accept ").unwrap().parse().unwrap();
    answer(&mut stream);
    for n in 1..N {
        if n % 2 == 0 {
            urgent(&stream);
        }
        get(&mut stream, &format!("/{n}"));
        answer(&mut stream);
    }
    for _ in 0..N {
        let n_stamped: u64 = said.next().unwrap().strip_prefix("errqueue ").unwrap().parse().unwrap();
        assert!(n_stamped >= 40, "the error queue held {n_stamped} bytes: nothing was tried");
    }
    drop(stream);
    let capture = tracer.stop();

    check_order_and_sums(&capture);
    let answered: Vec<_> = capture.transactions.iter().filter(|one| one.end == "answered").collect();
    let targets: Vec<_> = answered.iter().map(|one| one.target.clone().unwrap()).collect();
    assert_eq!(targets, (0..N).map(|n| format!("/{n}")).collect::<Vec<_>>(), "{:#?}", capture.transactions);
    for one in &answered {
        assert_eq!((one.status_code, one.response_bytes), (Some(200), 40), "{one:?}");
    }
    assert_eq!((capture.summary.lost_requests.low, capture.summary.lost_requests.high), (0, 0));
    // Time in the accept queue is part of the first one's.
    let first = answered[0];
    let start_ns = first.start_time_ns as i64 - wall_minus_boot_ns();
    let arrival_ns = start_ns - first.queue_ns.expect("the first request waited") as i64;
    assert!(
        asked_ns as i64 - ANCHOR_SLACK_NS <= arrival_ns && arrival_ns <= accept_ns as i64 + ANCHOR_SLACK_NS,
        "it arrived at {arrival_ns}, was sent at {asked_ns} and accepted at {accept_ns}"
    );
}
