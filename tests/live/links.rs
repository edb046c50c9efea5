//! Links against the truth: programs whose calls carry in their paths the request for which they were made, or say that there is none.
//!
//! `TXRAY_LINKS=all` runs each program with 1, 10 and 100 requests at once (`cargo xtask bench links`), `TXRAY_LINKS=go,node` these; otherwise all with 10. The table of what was found goes to standard output.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt::Write as _,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
    thread,
};

use rstest::rstest;
use tempfile::TempDir;

use super::{
    Hooks,
    dns::counted,
    machine,
    payload::{replay, rows},
    postgres::Postgres,
    process::Process,
    tls::{certificate, of_postgres},
    tls_programs::fixture,
    tool,
    tracer::{Capture, TEST_PROGRAM, Tracer, Transaction},
    txray_program,
};
use crate::go;

/// Requests of each scenario, at least.
const N: usize = 120;
/// Calls that each makes.
const CALLS: usize = 2;

/// The programs of Go and Rust, built once.
struct Built {
    go: PathBuf,
    go_sql: PathBuf,
    /// The same by the oldest Go that is there.
    go_sql_old: PathBuf,
    tokio: PathBuf,
    _folder: TempDir,
}

fn built() -> &'static Built {
    static BUILT: OnceLock<Built> = OnceLock::new();
    BUILT.get_or_init(|| {
        let folder = TempDir::new().unwrap();
        let toolchains = go::toolchains();
        let go = toolchains.last().unwrap().build("links", &[], folder.path());
        let go_sql = toolchains.last().unwrap().build("links-sql", &[], folder.path());
        let go_sql_old = toolchains[0].build("links-sql", &[], folder.path());
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("rustls-https");
        let mut command = Command::new(env!("CARGO"));
        command
            .args(["build", "--quiet", "--locked", "--release", "--bin", "links", "--target-dir"])
            .arg(&target);
        command
            .current_dir(fixture("rustls/https"))
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .env("RUSTFLAGS", "");
        let output = command.output().unwrap();
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        Built { go, go_sql, go_sql_old, tokio: target.join("release/links"), _folder: folder }
    })
}

/// How a program serves.
const PROGRAMS: [(&str, &str); 9] = [
    ("threads", "a thread for each connection (Python)"),
    ("handover", "one thread reads, eight work (Python)"),
    ("equals", "eight threads that take what any of them has read (Python)"),
    ("asyncio", "one loop (Python)"),
    ("node", "one loop (Node)"),
    ("go", "goroutines, and others that ask for them (Go, net/http)"),
    ("go-sql", "goroutines that ask themselves (Go, lib/pq)"),
    ("go-beside", "goroutines that start others, which ask (Go, lib/pq)"),
    ("tokio", "tasks on four threads (Rust)"),
];

/// A program at work.
struct Program {
    process: Process,
    port: u16,
}

impl Program {
    #[track_caller]
    fn start(command: &mut Command) -> Program {
        let mut process = Process::spawn(command.stdout(Stdio::piped()));
        let mut port = String::new();
        BufReader::new(process.child.stdout.take().unwrap()).read_line(&mut port).unwrap();
        let port = port.trim().parse().unwrap_or_else(|_| panic!("{command:?} said {port:?}"));
        Program { process, port }
    }

    fn front(kind: &str, back: u16) -> Program {
        let mut command = match kind {
            "node" => Command::new(tool("node", "nodejs")),
            "go" => Command::new(&built().go),
            "go-sql" | "go-beside" => Command::new(&built().go_sql),
            "tokio" => Command::new(&built().tokio),
            _ => Command::new(tool("python3", "python3")),
        };
        match kind {
            "node" => command.arg(fixture("links.js")),
            "go" => command.arg("front").env("GOMAXPROCS", "4"),
            "tokio" | "go-sql" | "go-beside" => command.env("GOMAXPROCS", "4"),
            mode => command.arg(fixture("links.py")).arg(mode),
        };
        if kind == "go-beside" {
            command.arg("-beside");
        }
        Program::start(command.arg(back.to_string()))
    }
}

/// Whether a program asks a database. That carries no trace ids.
fn asks_postgres(kind: usize) -> bool {
    ["go-sql", "go-beside"].contains(&PROGRAMS[kind].0)
}

/// A program with so many requests at once, with trace ids or without.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Scenario {
    kind: usize,
    n_at_once: usize,
    traced: bool,
}

/// Asks for `/r/ID` over so many connections, each again and again.
fn ask_all(port: u16, name: &str, n_at_once: usize, traced: bool) {
    let n_each = N.div_ceil(n_at_once);
    thread::scope(|scope| {
        for at in 0..n_at_once {
            scope.spawn(move || {
                let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
                for i in 0..n_each {
                    let id = format!("{name}-{}", at * n_each + i);
                    // An id of its own for each.
                    let number = at * n_each + i + 1;
                    let trace = if traced {
                        format!("traceparent: 00-{number:016x}{:016x}-00f067aa0ba902b7-01\r\n", port)
                    } else {
                        String::new()
                    };
                    // At once: what comes in pieces waits for an acknowledgement.
                    let request = format!("GET /r/{id} HTTP/1.1\r\nHost: front\r\n{trace}\r\n");
                    stream.write_all(request.as_bytes()).unwrap();
                    let answer = read_answer(&mut stream);
                    assert!(answer.starts_with("HTTP/1.1 200"), "{name}: {answer}");
                }
            });
        }
    });
}

/// A head with a length, or Node's chunks.
fn read_answer(stream: &mut TcpStream) -> String {
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let n = stream.read(&mut buffer).unwrap();
        assert!(n > 0, "closed behind {:?}", String::from_utf8_lossy(&bytes));
        bytes.extend_from_slice(&buffer[..n]);
        let text = String::from_utf8_lossy(&bytes);
        if text.ends_with("\r\n\r\nok") || text.ends_with("\r\nok\r\n0\r\n\r\n") {
            return text.into_owned();
        }
    }
}

/// Links of one sort: made, and right.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    made: usize,
    right: usize,
}

/// What was found of a scenario.
#[derive(Debug, Default)]
struct Found {
    /// Calls that were made for a request.
    n_calls: usize,
    /// By method and confidence: what requests were made for.
    made_for: BTreeMap<(String, String), Tally>,
    /// Requests that the other program served, and those that are linked to their client's end.
    n_served: usize,
    other_ends: Tally,
    /// Links that are sure and wrong.
    wrong: Vec<String>,
}

impl Found {
    fn of(capture: &Capture, front: u32, back: u32) -> Found {
        let by_id: HashMap<&str, &Transaction> =
            capture.transactions.iter().map(|one| (&*one.id, one)).collect();
        let parent = |one: &Transaction| one.parent.as_deref().and_then(|id| by_id.get(id)).copied();
        // A statement's column is called so.
        let path = |one: &Transaction| {
            let target = one.target.clone().unwrap_or_default();
            target.split('"').nth(1).map(str::to_owned).unwrap_or(target)
        };
        let mut found = Found::default();
        let of_front = |one: &&Transaction| one.pid == front && one.role == "client" && one.end == "answered";
        for call in capture.transactions.iter().filter(of_front) {
            let target = path(call);
            if target.is_empty() {
                // A session with a database begins, on whichever goroutine opens it: that does not say what for.
                continue;
            }
            // The id, where it was made for one.
            let id = target.strip_prefix("/c/").and_then(|rest| rest.split('/').next());
            found.n_calls += usize::from(id.is_some());
            let Some(link) = &call.link else { continue };
            let tally = found.made_for.entry((link.method.clone(), link.confidence.clone())).or_default();
            tally.made += 1;
            let made_for = parent(call).map(path);
            let is_right = id.is_some_and(|id| made_for.as_deref() == Some(&format!("/r/{id}")));
            tally.right += usize::from(is_right);
            if !is_right && link.confidence == "high" {
                found.wrong.push(format!("{target} for {made_for:?} by {}", link.method));
            }
        }
        let of_back = |one: &&Transaction| one.pid == back && one.role == "server" && one.end == "answered";
        // What was asked before the tracer looked has no other end, nor have others' calls.
        let clients = capture.transactions.iter().filter(|one| one.pid == front && one.role == "client");
        let asked: HashSet<_> = clients.map(|one| (one.client_port, &one.target)).collect();
        let is_of_front = |one: &&Transaction| asked.contains(&(one.client_port, &one.target));
        for served in capture.transactions.iter().filter(of_back).filter(is_of_front) {
            found.n_served += 1;
            let Some(link) = &served.link else { continue };
            found.other_ends.made += 1;
            let call = parent(served);
            let is_right = link.method == "socket"
                && call.is_some_and(|call| {
                    call.role == "client"
                        && call.target == served.target
                        && call.client_port == served.client_port
                });
            found.other_ends.right += usize::from(is_right);
            if !is_right {
                found.wrong.push(format!("{:?} from {:?}", served, call));
            }
        }
        found
    }
}

fn percent(part: usize, whole: usize) -> String {
    if whole == 0 { "-".to_owned() } else { format!("{:.1} %", 100.0 * part as f64 / whole as f64) }
}

/// Runs the scenarios under one tracer; what was found of each.
fn run(hooks: Hooks, scenarios: &[Scenario]) -> Vec<(Scenario, Found)> {
    let back = Program::start(Command::new(&built().go).arg("back"));
    let postgres = scenarios.iter().any(|one| asks_postgres(one.kind)).then(Postgres::start);
    let asks = |kind| postgres.as_ref().filter(|_| asks_postgres(kind)).map_or(back.port, |one| one.port);
    // Each has processes of its own: what one has shown of itself is no help to another.
    let fronts: Vec<Program> =
        scenarios.iter().map(|one| Program::front(PROGRAMS[one.kind].0, asks(one.kind))).collect();
    let mut found = Vec::new();
    for (at, (scenario, front)) in scenarios.iter().zip(fronts).enumerate() {
        let pids = [front.process.pid(), back.process.pid()];
        let tracer = Tracer::start_with(hooks, &pids, &TEST_PROGRAM);
        ask_all(
            front.port,
            &format!("{}-{at}", PROGRAMS[scenario.kind].0),
            scenario.n_at_once,
            scenario.traced,
        );
        let capture = tracer.stop();
        let lost: Vec<_> = capture.summary.lost.iter().filter(|(_, n)| **n > 0).collect();
        assert!(lost.is_empty(), "{scenario:?}: {lost:?}");
        if scenario.traced {
            check_trace(&capture, pids[0]);
        }
        if asks_postgres(scenario.kind) {
            assert_eq!(rows(&replay(&capture.recording()).0), rows(&capture.stdout), "{scenario:?}");
        }
        if PROGRAMS[scenario.kind].0 == "go-sql" {
            check_waits(&capture, pids[0]);
        }
        found.push((*scenario, Found::of(&capture, pids[0], pids[1])));
    }
    found
}

/// A goroutine that asks one thing after the other waits for as long as they take, whichever threads it runs on, and how many there are beside it.
#[track_caller]
fn check_waits(capture: &Capture, front: u32) {
    let mut took: HashMap<&str, u64> = HashMap::new();
    let calls = capture.transactions.iter().filter(|one| one.pid == front && one.role == "client");
    for call in calls.filter(|one| one.link.as_ref().is_some_and(|link| link.method == "goroutine")) {
        *took.entry(call.parent.as_deref().unwrap()).or_default() += call.duration_ns as u64;
    }
    let served = capture.transactions.iter().filter(|one| one.pid == front && one.role == "server");
    let served: Vec<_> = served.filter(|one| one.end == "answered").collect();
    let (mut unattributed, mut whole) = (0, 0);
    for request in &served {
        let anatomy = request.anatomy.as_ref().unwrap_or_else(|| panic!("{request:?} has no anatomy"));
        assert_eq!(Some(&anatomy.calls_ns), took.get(&*request.id), "{request:?}");
        unattributed += anatomy.unattributed_ns;
        whole += request.duration_ns as u64;
    }
    println!("unattributed: {} of {} requests", percent(unattributed as usize, whole as usize), served.len());
}

/// `txray trace` prints one request with its two calls and both ends of each, whichever of them it is asked for.
#[track_caller]
fn check_trace(capture: &Capture, front: u32) {
    let is_last = |one: &&Transaction| one.pid == front && one.role == "server" && one.end == "answered";
    let root = capture.transactions.iter().rfind(is_last).unwrap();
    let path = root.target.as_deref().unwrap().replace("/r/", "/c/");
    let is_part = |one: &&Transaction| {
        one.target.as_deref().is_some_and(|target| target.starts_with(&format!("{path}/")))
    };
    let parts: Vec<&Transaction> = capture.transactions.iter().filter(is_part).collect();
    assert_eq!(parts.len(), 4, "{parts:?}");
    let print = |id: &str, flags: &[&str]| {
        let mut command = Command::new(txray_program());
        command.arg("trace").arg(capture.folder.path().join("recording")).arg(id).args(flags);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    for shown in [root, parts[0], parts[3]] {
        let trace: serde_json::Value = serde_json::from_str(&print(&shown.id, &["--json"])).unwrap();
        let spans = trace["spans"].as_array().unwrap();
        let depths: Vec<_> = spans.iter().map(|span| span["depth"].as_u64().unwrap()).collect();
        assert_eq!((depths, &trace["shown"]), (vec![0, 1, 2, 1, 2], &shown.id.clone().into()), "{trace:#}");
        assert!(spans.iter().skip(1).all(|span| span["link"]["confidence"] == "high"), "{trace:#}");
        let own: u64 = spans.iter().filter_map(|span| span["critical_ns"].as_u64()).sum();
        assert_eq!(Some(own), trace["duration_ns"].as_u64());
        // One behind the other: all are waited for.
        assert!(spans.iter().all(|span| span["critical_ns"].is_u64()), "{trace:#}");
    }
    println!("{}", print(&root.id, &["--width", "150"]));
}

/// The rows of the README.
fn table(found: &[(Scenario, Found)]) -> String {
    let mut out = "| program | at once | trace ids | found | sure and right | by trace id | by goroutine | by thread | guessed | other ends |\n\
                   | --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n"
        .to_owned();
    for (Scenario { kind, n_at_once, traced }, found) in found {
        let of = |method: &str| {
            let tallies = found.made_for.iter().filter(|((name, _), _)| name == method);
            tallies.fold(Tally::default(), |sum, (_, tally)| Tally {
                made: sum.made + tally.made,
                right: sum.right + tally.right,
            })
        };
        let sure = found.made_for.iter().filter(|((_, confidence), _)| confidence == "high");
        let sure: usize = sure.map(|(_, tally)| tally.right).sum();
        let right: usize = found.made_for.values().map(|tally| tally.right).sum();
        let short = |tally: Tally| match tally.made {
            0 => "-".to_owned(),
            made => format!("{} of {made}", tally.right),
        };
        let _ = writeln!(
            out,
            "| {} | {n_at_once} | {} | {} | {} | {} | {} | {} | {} | {} |",
            PROGRAMS[*kind].1,
            if *traced { "yes" } else { "no" },
            percent(right, found.n_calls),
            percent(sure, found.n_calls),
            short(of("header")),
            short(of("goroutine")),
            short(of("thread")),
            short(of("order")),
            percent(found.other_ends.right, found.n_served),
        );
    }
    out
}

/// What is said to be sure is so; what is a guess is marked; with trace ids, and at the other ends, all are found.
#[rstest]
fn links_that_are_sure_are_right(#[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks) {
    let _machine = machine();
    let wanted = std::env::var("TXRAY_LINKS").unwrap_or_default();
    let is_all = !wanted.is_empty();
    let at_once: &[usize] = if is_all { &[1, 10, 100] } else { &[10] };
    let mut scenarios = Vec::new();
    let is_wanted = |name: &str| !is_all || wanted.split(',').any(|one| one == "all" || one == name);
    for kind in (0..PROGRAMS.len()).filter(|kind| is_wanted(PROGRAMS[*kind].0)) {
        for &n_at_once in at_once {
            let traced = if asks_postgres(kind) { &[false][..] } else { &[false, true] };
            scenarios.extend(traced.iter().map(|&traced| Scenario { kind, n_at_once, traced }));
        }
    }
    let found = run(hooks, &scenarios);
    println!("{}", table(&found));
    for (scenario, found) in &found {
        println!("{scenario:?}: {:?}", found.made_for);
        assert!(found.wrong.is_empty(), "{scenario:?}: {:#?}", found.wrong);
        assert!(found.n_calls >= CALLS * N, "{scenario:?}: {found:?}");
        assert_eq!(
            (found.other_ends.made, found.other_ends.right),
            (found.n_served, found.n_served),
            "{scenario:?}"
        );
        for (method, confidence) in found.made_for.keys() {
            assert_eq!(
                confidence == "high",
                ["thread", "header", "goroutine"].contains(&&**method),
                "{method} {confidence}"
            );
        }
        if scenario.traced {
            let by_header = found.made_for.get(&("header".to_owned(), "high".to_owned()));
            assert_eq!(by_header.map(|tally| tally.right), Some(found.n_calls), "{scenario:?}");
        }
        let by_goroutine = found.made_for.get(&("goroutine".to_owned(), "high".to_owned()));
        let by_goroutine = by_goroutine.map_or(0, |tally| tally.right);
        // Who asks itself is known by that; net/http's client, and whoever is started for it, are others.
        let expected = if PROGRAMS[scenario.kind].0 == "go-sql" { found.n_calls } else { 0 };
        assert_eq!(by_goroutine, expected, "{scenario:?}: {found:?}");
    }
    // Where each thread serves one request from beginning to end that is seen, and links are sure without any trace id.
    let is_plain = |one: &&(Scenario, Found)| PROGRAMS[one.0.kind].0 == "threads" && !one.0.traced;
    for (scenario, found) in found.iter().filter(is_plain).filter(|one| one.0.n_at_once <= 10) {
        let sure =
            found.made_for.get(&("thread".to_owned(), "high".to_owned())).map_or(0, |tally| tally.right);
        assert!(2 * sure > found.n_calls, "{scenario:?}: {found:?}");
    }
}

/// A server of Go and its database, both inside TLS: the goroutine that a handler runs on is known as well. With HTTP/2 another one has read the request, and none is.
#[rstest]
fn inside_tls_goroutines_are_known_too_and_one_that_reads_for_many_streams_is_nobodys(
    #[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks,
    #[values("http1", "http2")] protocol: &str,
) {
    let _machine = machine();
    let folder = TempDir::new().unwrap();
    let (key, cert) = certificate(folder.path());
    let postgres = Postgres::start_with(of_postgres, None);
    let mut command = Command::new(&built().go_sql_old);
    command.arg("-cert").arg(&cert).arg("-key").arg(&key).env("GOMAXPROCS", "4");
    let front = Program::start(command.arg(postgres.port.to_string()));
    let tracer = Tracer::start(hooks, &[front.process.pid()]);
    let mut ask = Command::new(&built().go_sql);
    if protocol == "http2" {
        ask.arg("-h2");
    }
    let asked = ask.arg("ask").arg(format!("https://127.0.0.1:{}", front.port)).args([&N.to_string(), "10"]);
    assert!(asked.status().unwrap().success());
    let capture = tracer.stop();
    assert_eq!(counted(&capture, "tls.left_opaque").last(), Some(&0), "{}", capture.stderr);
    let served = capture.transactions.iter().filter(|one| one.role == "server" && one.protocol == protocol);
    assert_eq!(served.count(), N);
    let found = Found::of(&capture, front.process.pid(), 0);
    println!("{protocol}: {found:?}");
    assert!(found.wrong.is_empty(), "{found:#?}");
    assert_eq!(found.n_calls, CALLS * N, "{found:?}");
    let by_goroutine = found.made_for.get(&("goroutine".to_owned(), "high".to_owned()));
    let expected = if protocol == "http1" { CALLS * N } else { 0 };
    assert_eq!(by_goroutine.map_or(0, |tally| tally.right), expected, "{found:?}");
    assert_eq!(rows(&replay(&capture.recording()).0), rows(&capture.stdout));
}
