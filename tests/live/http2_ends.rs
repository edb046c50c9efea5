//! How requests of HTTP/2 end other than by an answer: given up by the client, refused by a GOAWAY under load, pushed unasked.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::PathBuf,
    process::{Command, Stdio},
};

use rstest::rstest;

use super::{
    Hooks,
    check::{check_conserved, check_order_and_sums},
    http2::{FILES, Served, files, free_address, nginx_with},
    machine,
    process::{Process, wait_for},
    tool,
    tracer::{Capture, Tracer, Transaction},
};

/// Target and status, and how often.
type Answers = BTreeMap<(String, u64), usize>;

/// Traces a server and a client, which is what the shell becomes once it is traced; also what the client said.
#[track_caller]
fn trace(hooks: Hooks, served: &Served, client: PathBuf, arguments: &[String]) -> (Capture, String) {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "read go; exec \"$@\"", "sh"]).arg(client).args(arguments);
    let mut client = Process::spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
    let tracer = Tracer::start_with(hooks, &[served.process.pid(), client.pid()], &["--payload", "full"]);
    client.child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    let mut said = String::new();
    client.child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    client.wait("the client");
    let capture = tracer.stop();
    check_order_and_sums(&capture);
    for one in &capture.transactions {
        assert_eq!((one.protocol.as_str(), one.confidence.as_str()), ("http2", "complete"), "{one:?}");
    }
    (capture, said)
}

fn of_end<'a>(capture: &'a Capture, role: &str, end: &str) -> Vec<&'a Transaction> {
    capture.role(role).into_iter().filter(|one| one.end == end).collect()
}

fn answers(rows: &[&Transaction]) -> Answers {
    let mut answers = Answers::new();
    for one in rows {
        let status = one.status_code.unwrap_or_default() as u64;
        *answers.entry((one.target.clone().unwrap_or_default(), status)).or_default() += 1;
    }
    answers
}

/// nginx's log, once it has `n` lines.
#[track_caller]
fn logged(served: &Served, n: usize) -> Answers {
    let log = wait_for("nginx's log", || {
        let log = fs::read_to_string(served.folder.path().join("access.log")).ok()?;
        (log.lines().count() == n).then_some(log)
    });
    let mut answers = Answers::new();
    for line in log.lines() {
        let cells: Vec<&str> = line.split(' ').collect();
        *answers.entry((cells[0].to_owned(), cells[1].parse().unwrap())).or_default() += 1;
    }
    answers
}

#[rstest]
fn an_answer_that_takes_too_long_is_given_up_by_the_client(
    #[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks,
) {
    let _machine = machine();
    let nginx = nginx_with("location /slow { limit_rate 2k; }");
    fs::write(nginx.folder.path().join("slow"), "x".repeat(1 << 20)).unwrap();
    let (n, curl) = (5, tool("curl", "curl"));
    let ask = |path: &str, limit: &str| {
        let (curl, address) = (curl.display(), nginx.address);
        format!("{curl} -s --http2-prior-knowledge -o /dev/null -m {limit} http://{address}/{path};")
    };
    let script = [ask("f1", "60"), ask("slow", "0.3")].concat().repeat(n);
    let (capture, _) = trace(hooks, &nginx, "/bin/sh".into(), &["-c".to_owned(), script]);
    let log = logged(&nginx, 2 * n);
    for role in ["server", "client"] {
        // It closes the connection, without a word. The head of the answer had come.
        let (answered, given_up) = (of_end(&capture, role, "answered"), of_end(&capture, role, "closed"));
        let all: Vec<&Transaction> = answered.iter().chain(&given_up).copied().collect();
        assert_eq!(answers(&all), log, "{role}");
        assert_eq!((answered.len(), given_up.len()), (n, n), "{role}");
        for one in given_up {
            assert_eq!(one.target.as_deref(), Some("/slow"), "{one:?}");
            assert!(one.error && one.response_bytes > 0 && one.response_bytes < 1 << 20, "{one:?}");
        }
    }
    check_conserved(&capture, capture.transactions.len(), 4 * n, true);
}

/// A request for a file on a stream: HEADERS with END_STREAM and END_HEADERS, and no fields that a table keeps.
fn get(stream: u8, path: &str) -> Vec<u8> {
    let mut fields = vec![0x82, 0x86, 0x04, path.len() as u8];
    fields.extend(path.as_bytes());
    fields.extend(b"\x01\x04shop");
    let mut frame = vec![0, 0, fields.len() as u8, 1, 5, 0, 0, 0, stream];
    frame.extend(fields);
    frame
}

/// Reads frames until `stream` ends.
fn read_answer(connection: &mut TcpStream, stream: u8) {
    loop {
        let mut header = [0; 9];
        connection.read_exact(&mut header).unwrap();
        let mut payload = vec![0; u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize];
        connection.read_exact(&mut payload).unwrap();
        // DATA or HEADERS with END_STREAM.
        if header[8] == stream && header[3] <= 1 && header[4] & 1 == 1 {
            return;
        }
    }
}

#[rstest]
fn a_stream_that_the_client_cancels_is_reset_and_the_others_go_on(
    #[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks,
) {
    let _machine = machine();
    let nginx = nginx_with("location /slow { limit_rate 2k; }");
    fs::write(nginx.folder.path().join("slow"), "x".repeat(1 << 20)).unwrap();
    let tracer = Tracer::start_with(hooks, &[nginx.process.pid()], &["--payload", "full"]);
    let n = 5;
    for _ in 0..n {
        let mut connection = TcpStream::connect(nginx.address).unwrap();
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
        connection.write_all(&[&preface[..], &get(1, "/slow"), &get(3, "/f1")].concat()).unwrap();
        read_answer(&mut connection, 3);
        let cancel = b"\0\0\x04\x03\0\0\0\0\x01\0\0\0\x08";
        connection.write_all(&[&cancel[..], &get(5, "/f2"), &get(7, "/nothing")].concat()).unwrap();
        read_answer(&mut connection, 5);
        read_answer(&mut connection, 7);
    }
    let log = logged(&nginx, 4 * n);
    let capture = tracer.stop();
    check_order_and_sums(&capture);
    let all: Vec<&Transaction> = capture.transactions.iter().collect();
    assert_eq!(answers(&all), log);
    for one in all {
        assert_eq!((one.protocol.as_str(), one.confidence.as_str()), ("http2", "complete"), "{one:?}");
        let expected = match one.target.as_deref() {
            Some("/slow") => ("reset", Some("CANCEL")),
            // Not there: the client's error.
            _ => ("answered", None),
        };
        assert_eq!((one.end.as_str(), one.error_type.as_deref()), expected, "{one:?}");
    }
    check_conserved(&capture, capture.transactions.len(), 4 * n, true);
}

#[rstest]
fn what_a_goaway_under_load_refuses_was_not_processed(#[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks) {
    const CONNECTIONS: usize = 4;
    const REQUESTS: usize = 20;
    let _machine = machine();
    let nginx = nginx_with(&format!("keepalive_requests {REQUESTS};"));
    let urls: String = (0..FILES).map(|file| format!("http://{}/f{file}\n", nginx.address)).collect();
    let list = nginx.folder.path().join("urls");
    fs::write(&list, urls).unwrap();
    let arguments = ["-n", "400", "-c", &CONNECTIONS.to_string(), "-m", "8", "-i", list.to_str().unwrap()];
    let h2load = tool("h2load", "nghttp2-client");
    let (capture, said) = trace(hooks, &nginx, h2load, &arguments.map(str::to_owned));
    // "requests: 400 total, 108 started, 98 done, 80 succeeded, …": what was refused is not asked for again.
    let said_of = |what: &str| -> usize {
        let at = said.find(what).unwrap_or_else(|| panic!("{what}: {said}"));
        said[..at].trim_end().rsplit(' ').next().unwrap().parse().unwrap()
    };
    let (started, succeeded) = (said_of("started"), said_of("succeeded"));
    assert_eq!(succeeded, CONNECTIONS * REQUESTS, "{said}");
    let log = logged(&nginx, succeeded);
    for role in ["server", "client"] {
        assert_eq!(answers(&of_end(&capture, role, "answered")), log, "{role}");
        for one in capture.role(role).iter().filter(|one| one.end != "answered") {
            assert_eq!(
                (one.end.as_str(), one.error_type.as_deref()),
                ("reset", Some("REFUSED_STREAM")),
                "{one:?}"
            );
            assert_eq!((one.status_code, one.error), (None, true), "{one:?}");
        }
    }
    // The last ones that h2load began may not have been sent, and the last that were sent may not have been read.
    let [asked, read] = ["client", "server"].map(|role| capture.role(role).len());
    assert!(succeeded < asked && asked <= started && read <= asked, "{read} read of {asked}: {said}");
    check_conserved(&capture, asked + read, asked + read, true);
}

#[rstest]
fn what_a_server_pushes_is_a_request_that_it_made_for_the_client(
    #[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks,
) {
    let _machine = machine();
    let (folder, address) = (files(), free_address());
    let mut command = Command::new(tool("nghttpd", "nghttp2-server"));
    command.args(["--no-tls", "--address", "127.0.0.1", "--push=/f0=/f1,/f2", "--htdocs"]).arg(folder.path());
    let process = Process::spawn(command.arg(address.port().to_string()).stdout(Stdio::null()));
    wait_for("nghttpd to listen", || TcpStream::connect(address).ok());
    let served = Served { process, address, folder };
    let arguments: Vec<String> = ["-ns".to_owned()]
        .into_iter()
        .chain(["f0", "f3"].map(|file| format!("http://{address}/{file}")))
        .collect();
    let (capture, said) = trace(hooks, &served, tool("nghttp", "nghttp2-client"), &arguments);
    // ` 13  +682us  +104us  577us  200  100 /f0`, with an asterisk where it was pushed.
    let mut truth = Answers::new();
    for line in said.lines() {
        let cells: Vec<&str> = line.split_whitespace().collect();
        if let [_, .., status, _, path] = &cells[..]
            && path.starts_with("/f")
        {
            *truth.entry(((*path).to_owned(), status.parse().unwrap())).or_default() += 1;
        }
    }
    assert_eq!((truth.len(), said.matches(" * ").count()), (4, 2), "{said}");
    for role in ["server", "client"] {
        assert_eq!(answers(&of_end(&capture, role, "answered")), truth, "{role}");
    }
    check_conserved(&capture, capture.transactions.len(), 2 * truth.len(), true);
}
