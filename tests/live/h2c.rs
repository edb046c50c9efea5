//! HTTP/2 that begins as HTTP/1.1 and asks for the upgrade (h2c): nghttp and curl against nghttpx, which asks nginx.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    process::{Command, Stdio},
};

use rstest::rstest;

use super::{
    Hooks,
    check::{check_conserved, check_order_and_sums},
    http2::{FILES, free_address, length, nginx},
    machine,
    process::{Process, wait_for},
    tool,
    tracer::{Tracer, Transaction},
};

/// Connections of each client.
const ROUNDS: usize = 4;

/// How often each file was answered with each status.
fn answers<'a>(transactions: impl Iterator<Item = &'a Transaction>) -> BTreeMap<(String, u64), usize> {
    let mut answers = BTreeMap::new();
    for one in transactions {
        let status = one.status_code.unwrap_or_default() as u64;
        *answers.entry((one.target.clone().unwrap_or_default(), status)).or_default() += 1;
    }
    answers
}

#[rstest]
fn what_asks_for_the_upgrade_is_the_first_request_of_http2(
    #[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks,
    #[values(None, Some("http2"), Some("http1"))] looked_for: Option<&str>,
) {
    let _machine = machine();
    let (origin, front) = (nginx(), free_address());
    let mut command = Command::new(tool("nghttpx", "nghttp2-proxy"));
    command.args(["--single-process", "--no-ocsp", "--conf=/dev/null", "--errorlog-file=/dev/null"]);
    command.arg(format!("--frontend=127.0.0.1,{};no-tls", front.port()));
    command.arg(format!("--backend=127.0.0.1,{};;proto=h2", origin.address.port()));
    let proxy = Process::spawn(command.stdout(Stdio::null()).stderr(Stdio::null()));
    wait_for("nghttpx to listen", || TcpStream::connect(front).ok());
    // Requests of nghttp's run beside each other, curl's one behind the other on a connection. One file is not there.
    let urls: Vec<String> = (0..=FILES).map(|file| format!("http://{front}/f{file}")).collect();
    let script = format!(
        "read go; for round in {}; do {} -nu $*; {} -s --http2 $(for url in $*; do echo -o /dev/null $url; done); done",
        (0..ROUNDS).map(|round| round.to_string()).collect::<Vec<_>>().join(" "),
        tool("nghttp", "nghttp2-client").display(),
        tool("curl", "curl").display(),
    );
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", &script, "sh"]).args(&urls).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut client = Process::spawn(&mut shell);
    let mut flags = vec!["--payload", "full"];
    flags.extend(looked_for.into_iter().flat_map(|name| ["--protocol", name]));
    let tracer = Tracer::start_with(hooks, &[proxy.pid(), client.pid()], &flags);
    client.child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    let mut said = String::new();
    client.child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(client.wait("the clients"), Some(0), "{said}");
    let capture = tracer.stop();
    let n = 2 * ROUNDS * urls.len();
    let log = wait_for("nginx's log", || {
        let log = fs::read_to_string(origin.folder.path().join("access.log")).ok()?;
        (log.lines().count() == n).then_some(log)
    });
    if looked_for == Some("http1") {
        assert!(capture.transactions.is_empty(), "{:?}", capture.transactions);
        return;
    }
    if looked_for.is_none() {
        check_order_and_sums(&capture);
    }
    let mut logged: BTreeMap<(String, u64), usize> = BTreeMap::new();
    for line in log.lines() {
        let cells: Vec<&str> = line.split(' ').collect();
        *logged.entry((cells[0].to_owned(), cells[1].parse().unwrap())).or_default() += 1;
    }
    for one in &capture.transactions {
        assert_eq!((one.protocol.as_str(), one.kind.as_str()), ("http2", "request"), "{one:?}");
        assert_eq!((one.end.as_str(), one.confidence.as_str()), ("answered", "complete"), "{one:?}");
        let file: usize = one.target.as_deref().unwrap()[2..].parse().unwrap();
        assert!(file == FILES || one.response_bytes > length(file), "another one's answer: {one:?}");
    }
    let of = |role: &str, comm: &str| {
        let rows = capture.transactions.iter();
        answers(rows.filter(|one| one.role == role && one.comm == comm))
    };
    assert_eq!(of("server", "nghttpx"), logged, "what was asked of the proxy");
    assert_eq!(of("client", "nghttpx"), logged, "what it asked for");
    let half: BTreeMap<_, _> = logged.into_iter().map(|(what, n)| (what, n / 2)).collect();
    assert_eq!((of("client", "nghttp"), of("client", "curl")), (half.clone(), half));
    check_conserved(&capture, capture.transactions.len(), 3 * n, true);
}
