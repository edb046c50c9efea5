//! WebSocket between Python's servers and client, on HTTP/1 and (behind nghttpx) on HTTP/2, and server-sent events from Node on both, against
//! what they counted themselves.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rstest::rstest;

use super::{
    Hooks,
    check::check_order_and_sums,
    http2::free_address,
    machine,
    process::{Process, wait_for},
    tool,
    tracer::Tracer,
};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/servers").join(name)
}

/// A server that says where it listens, and what it says behind that.
fn server(command: &mut Command) -> (Process, String, impl Iterator<Item = String> + use<>) {
    let mut process = Process::spawn(command.stdout(Stdio::piped()));
    let mut lines = BufReader::new(process.child.stdout.take().unwrap()).lines().map(|line| line.unwrap());
    let line = lines.next().expect("the server's address");
    let address = line.strip_prefix("listening ").expect("the server's address").to_owned();
    (process, address, lines)
}

/// A client that waits to be traced before it begins; its output is read to the end.
fn client(command: &Command) -> Process {
    let mut shell = Command::new("/bin/sh");
    shell.arg("-c").arg("read go; exec \"$@\"").arg("sh").arg(command.get_program()).args(command.get_args());
    Process::spawn(shell.stdin(Stdio::piped()).stdout(Stdio::piped()))
}

fn run(client: &mut Process) -> String {
    client.child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    output(client)
}

fn output(client: &mut Process) -> String {
    let mut said = String::new();
    client.child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(client.wait("the client"), Some(0), "{said}");
    said
}

/// `sent 1 received 2 out 3 in 4`.
fn counts(line: &str) -> [u64; 4] {
    let words: Vec<&str> = line.split_whitespace().collect();
    [1, 3, 5, 7]
        .map(|at| words.get(at).and_then(|word| word.parse().ok()).unwrap_or_else(|| panic!("{line}")))
}

#[rstest]
fn messages_and_bytes_are_those_that_both_ends_counted(
    #[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks,
    #[values("none", "deflate")] compression: &str,
    #[values(1000, 4001)] code: u16,
) {
    const N: u64 = 60;
    let _machine = machine();
    let python = tool("python3", "python3");
    let script = fixture("websocket.py");
    let mut command = Command::new(&python);
    let (server, address, mut told) = server(command.arg(&script).args(["serve", compression]));
    let mut command = Command::new(&python);
    command.arg(&script).args(["ask", compression, &address, &N.to_string(), &code.to_string()]);
    let mut client = client(&command);
    let tracer = Tracer::start(hooks, &[server.pid(), client.pid()]);
    let asked = counts(&run(&mut client));
    let served = counts(&told.next().expect("the server's counts"));
    let capture = tracer.stop();
    check_order_and_sums(&capture);
    assert_eq!(capture.summary.lost_requests.high, 0, "{}", capture.stderr);
    assert_eq!((asked[0], asked[1]), (N, 2 * N + 1), "the load itself failed");
    assert_eq!([served[1], served[0], served[3], served[2]], asked, "the two ends disagree");
    for role in ["server", "client"] {
        let [one] = capture.role(role)[..] else { panic!("{:#?}", capture.transactions) };
        assert_eq!((one.protocol.as_str(), one.kind.as_str()), ("websocket", "longlived"), "{one:?}");
        assert_eq!((one.end.as_str(), one.confidence.as_str()), ("upgraded", "complete"), "{one:?}");
        assert_eq!((one.target.as_deref(), one.status_code), (Some("/chat"), Some(101)), "{one:?}");
        assert_eq!(
            [one.request_messages, one.response_messages],
            [Some(asked[0]), Some(asked[1])],
            "{one:?}"
        );
        assert_eq!([one.request_bytes, one.response_bytes], [asked[2], asked[3]], "{one:?}");
        let error = (code == 4001).then_some("4xxx");
        assert_eq!((one.error, one.error_type.as_deref()), (error.is_some(), error), "{one:?}");
    }
}

/// Python's client asks nghttpx by HTTP/1's upgrade, which asks hypercorn by HTTP/2's CONNECT: all sockets on one connection.
#[rstest]
fn sockets_on_streams_of_http2_are_those_that_both_ends_counted(
    #[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks,
    #[values(1000, 4001)] code: u16,
) {
    const MESSAGES: [u64; 3] = [20, 40, 60];
    let _machine = machine();
    let python = tool("python3", "python3");
    let mut command = Command::new(&python);
    command.arg(fixture("websocket_http2.py")).arg(MESSAGES.len().to_string()).stderr(Stdio::null());
    let (server, address, told) = server(&mut command);
    let (host, port) = address.split_once(':').unwrap();
    let front = free_address();
    let mut command = Command::new(tool("nghttpx", "nghttp2-proxy"));
    command.args(["--single-process", "--no-ocsp", "--conf=/dev/null", "--errorlog-file=/dev/null"]);
    command.arg(format!("--frontend=127.0.0.1,{};no-tls", front.port()));
    command.arg(format!("--backend={host},{port};;proto=h2"));
    let proxy = Process::spawn(command.stdout(Stdio::null()).stderr(Stdio::null()));
    wait_for("nghttpx to listen", || TcpStream::connect(front).ok());
    let mut clients = MESSAGES.map(|n| {
        let mut command = Command::new(&python);
        command.arg(fixture("websocket.py"));
        command.args(["ask", "none", &front.to_string(), &n.to_string(), &code.to_string()]);
        client(&command)
    });
    let tracer = Tracer::start_with(hooks, &[server.pid(), proxy.pid()], &["--payload", "full"]);
    for client in &mut clients {
        client.child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    }
    let asked = clients.each_mut().map(|client| counts(&output(client)));
    let served: Vec<[u64; 4]> = told.map(|line| counts(&line)).collect();
    let capture = tracer.stop();
    check_order_and_sums(&capture);
    assert_eq!(capture.summary.lost_requests.high, 0, "{}", capture.stderr);
    for (n, [sent, received, ..]) in MESSAGES.iter().zip(asked) {
        assert_eq!([sent, received], [*n, 2 * n + 1], "the load itself failed");
    }
    assert_eq!(served.len(), MESSAGES.len(), "{served:?}");
    let rows = |role: &str, comm: &str| {
        let mut rows = capture.role(role);
        rows.retain(|one| one.comm == comm);
        rows.sort_by_key(|one| one.request_messages);
        assert_eq!(rows.len(), MESSAGES.len(), "{role} {comm}: {:#?}", capture.transactions);
        rows
    };
    // What nghttpx was asked, by HTTP/1.
    for (one, asked) in rows("server", "nghttpx").iter().zip(asked) {
        let [sent, received, bytes_out, bytes_in] = asked;
        assert_eq!((one.end.as_str(), one.status_code), ("upgraded", Some(101)), "{one:?}");
        assert_eq!([one.request_messages, one.response_messages], [Some(sent), Some(received)], "{one:?}");
        assert_eq!([one.request_bytes, one.response_bytes], [bytes_out, bytes_in], "{one:?}");
    }
    // What it asked, by HTTP/2, and what hypercorn was asked.
    let (asks, answers) = (rows("client", "nghttpx"), rows("server", "python3"));
    for (one, told) in asks.iter().zip(&served).chain(answers.iter().zip(&served)) {
        let [sent, received, bytes_out, bytes_in] = *told;
        assert_eq!((one.protocol.as_str(), one.kind.as_str()), ("websocket", "longlived"), "{one:?}");
        // Neither of the two ends a stream whose socket was closed.
        assert_eq!((one.end.as_str(), one.confidence.as_str()), ("closed", "complete"), "{one:?}");
        assert_eq!((one.target.as_deref(), one.status_code), (Some("/chat"), Some(200)), "{one:?}");
        assert_eq!([one.request_messages, one.response_messages], [Some(received), Some(sent)], "{one:?}");
        assert_eq!([one.request_bytes, one.response_bytes], [bytes_in, bytes_out], "{one:?}");
        let error = (code == 4001).then_some("4xxx");
        assert_eq!((one.error, one.error_type.as_deref()), (error.is_some(), error), "{one:?}");
        assert_eq!(
            one.conn_id,
            if one.role == "client" { &asks } else { &answers }[0].conn_id,
            "one connection"
        );
    }
}

#[rstest]
fn server_sent_events_on_a_stream_of_http2_are_counted(
    #[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks,
) {
    const N: u64 = 100;
    let _machine = machine();
    let mut command = Command::new(tool("node", "nodejs"));
    command.arg(fixture("event-stream.js")).args([&N.to_string(), "http2"]);
    let (server, address, _) = server(&mut command);
    let mut command = Command::new(tool("curl", "curl"));
    command.args(["--silent", "--show-error", "--no-buffer", "--noproxy", "*", "--output", "/dev/null"]);
    command.args(["--http2-prior-knowledge", "--write-out", "%{size_download}"]);
    command.arg(format!("http://{address}/events"));
    let mut client = client(&command);
    let tracer = Tracer::start_with(hooks, &[server.pid(), client.pid()], &["--payload", "full"]);
    let said: u64 = run(&mut client).parse().unwrap();
    let capture = tracer.stop();
    check_order_and_sums(&capture);
    let length = |at: u64| 4 + at.to_string().len() as u64 + 1 + 6 + at + 2;
    assert_eq!(said, (0..N).map(length).sum::<u64>(), "the load itself failed");
    let [Some(told), Some(read)] = ["server", "client"].map(|role| capture.role(role).first().copied())
    else {
        panic!("{:#?}", capture.transactions)
    };
    for one in [told, read] {
        assert_eq!((one.protocol.as_str(), one.kind.as_str()), ("http2", "longlived"), "{one:?}");
        assert_eq!((one.end.as_str(), one.confidence.as_str()), ("answered", "complete"), "{one:?}");
        assert_eq!([one.request_messages, one.response_messages], [None, Some(N)], "{one:?}");
        // Nine bytes before each event, at least.
        assert!(one.response_bytes > said + 9 * N, "{one:?}");
    }
    assert_eq!(capture.transactions.len(), 2);
    assert_eq!([told.request_bytes, told.response_bytes], [read.request_bytes, read.response_bytes]);
}

#[rstest]
fn server_sent_events_are_one_long_lived_request_and_are_counted(
    #[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks,
) {
    const N: u64 = 100;
    let _machine = machine();
    let mut command = Command::new(tool("node", "nodejs"));
    let (server, address, _) = server(command.arg(fixture("event-stream.js")).args([&N.to_string(), "http"]));
    let mut command = Command::new(tool("curl", "curl"));
    command.args(["--silent", "--show-error", "--no-buffer", "--noproxy", "*", "--output", "/dev/null"]);
    command
        .args(["--write-out", "%{size_request} %{size_header} %{size_download}"])
        .arg(format!("http://{address}/events"));
    let mut client = client(&command);
    let tracer = Tracer::start(hooks, &[server.pid(), client.pid()]);
    let said = run(&mut client);
    let capture = tracer.stop();
    check_order_and_sums(&capture);
    let said: Vec<u64> = said.split(' ').map(|number| number.parse().unwrap()).collect();
    let length = |at: u64| 4 + at.to_string().len() as u64 + 1 + 6 + at + 2;
    let chunks: u64 = (0..N).map(|at| format!("{:x}", length(at)).len() as u64 + 4).sum();
    assert_eq!(said[2], (0..N).map(length).sum::<u64>(), "the load itself failed");
    for role in ["server", "client"] {
        let [one] = capture.role(role)[..] else { panic!("{:#?}", capture.transactions) };
        assert_eq!((one.protocol.as_str(), one.kind.as_str()), ("http1", "longlived"), "{one:?}");
        assert_eq!((one.end.as_str(), one.confidence.as_str()), ("answered", "complete"), "{one:?}");
        assert_eq!([one.request_messages, one.response_messages], [None, Some(N)], "{one:?}");
        // The head, the events in chunks, and the last chunk.
        assert_eq!(
            [one.request_bytes, one.response_bytes],
            [said[0], said[1] + said[2] + chunks + 5],
            "{one:?}"
        );
    }
}
