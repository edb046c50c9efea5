//! HTTP/1.1 between this project's own client and server: every shape of traffic, exact counts.

use std::{
    collections::{HashMap, HashSet},
    thread,
    time::Duration,
};

use rstest::rstest;
use workload::{
    calls::{ReadCall, WriteCall},
    http::Body,
    load::{self, Ending, Options, Outcome, Template},
    serve,
};

use super::{
    Hooks,
    check::{
        Expect, by_stamp, check_client_rows, check_conserved, check_order_and_sums, check_server,
        check_server_inside_client, check_server_rows,
    },
    machine,
    process::{Client, PATIENCE, Server},
    tracer::{Capture, Tracer},
};

/// A target whose answers all have different lengths: an answer given to another request shows.
const TELLING: &str = "/bytes/{n}?id={id}";

/// The first turns of a pipelined connection may be longer than the budget that they are copied with before user space
/// knows what they are: the heads beyond it are counted gaps, and how pairing goes on behind them is a guess that has to be right.
const PIPELINED: Expect =
    Expect { confidence: &["complete", "gap", "guessed"], interim_bytes: 0, nothing_lost: false, gaps: true };

/// Traces the server under a load, then checks everything. Returns both for more.
#[track_caller]
fn trace(hooks: Hooks, server: &Server, options: &Options, expect: Expect) -> (Capture, Vec<load::Row>) {
    let tracer = Tracer::start(hooks, &[server.process.pid()]);
    let asked = load::run(options).unwrap();
    let capture = tracer.stop();
    for row in &asked {
        assert_eq!(row.outcome, Outcome::Ok, "the load itself failed: {row:?}");
    }
    let served = server.rows(asked.len());
    check_order_and_sums(&capture);
    check_server(&capture, &served, expect);
    check_server_inside_client(&by_stamp(&capture.role("server")), &asked, &served);
    (capture, asked)
}

fn load_of(server: &Server, target: &str, count: u64) -> Options {
    Options { connections: 4, threads: 2, ..Options::new(server.address.clone(), target, count) }
}

/// Methods, framings and statuses of all sorts.
fn mixed(server: &Server, count: u64) -> Options {
    let get = |target: &str| Template::get(&format!("{target}?id={{id}}"));
    let post = |body| Template::post("/item/{n}?id={id}", body);
    let mix = vec![
        get("/user/{n}"),
        post(Body::Length(3000)),
        get("/chunked/2500"),
        Template { method: "HEAD".into(), ..get("/bytes/100") },
        post(Body::Chunked(2500)),
        get("/status/404"),
        get("/status/204"),
        get("/status/503"),
        get("/bytes/100000/writev"),
        get("/status/304"),
        post(Body::Length(100_000)),
        get("/bytes/70000/sendfile"),
        get("/bytes/{n}"),
    ];
    Options { mix, ..load_of(server, "/", count) }
}

#[rstest]
fn keep_alive(#[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks) {
    let _machine = machine();
    let server = Server::start("");
    trace(hooks, &server, &load_of(&server, TELLING, 3000), Expect::default());
}

#[rstest]
fn methods_framings_and_statuses(#[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks) {
    let _machine = machine();
    let server = Server::start("");
    trace(hooks, &server, &mixed(&server, 650), Expect::default());
}

#[rstest]
fn sixteen_deep_pipelining(#[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks) {
    let _machine = machine();
    let server = Server::start("");
    let options = Options { pipeline: 16, ..load_of(&server, TELLING, 3000) };
    trace(hooks, &server, &options, PIPELINED);
}

#[rstest]
fn pipelining_with_bodies_beyond_any_budget(#[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks) {
    let _machine = machine();
    let server = Server::start("");
    let options = Options { pipeline: 16, ..mixed(&server, 650) };
    trace(hooks, &server, &options, PIPELINED);
}

#[rstest]
fn single_bytes(#[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks) {
    let _machine = machine();
    let server = Server::start("--read-size 1 --write-size 1");
    let options = Options { write_size: 1, ..load_of(&server, TELLING, 60) };
    trace(hooks, &server, &options, Expect::default());
}

#[rstest]
fn two_hundred_megabytes(
    #[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks,
    #[values("write", "sendfile")] how: &str,
) {
    let _machine = machine();
    let server = Server::start("");
    let options = Options::new(server.address.clone(), &format!("/bytes/200000000/{how}?id={{id}}"), 2);
    let (capture, _) = trace(hooks, &server, &options, Expect::default());
    assert!(capture.summary.events < 2000, "{} events for 2 answers", capture.summary.events);
}

#[rstest]
fn bodies_spliced_between_sockets(#[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks) {
    let _machine = machine();
    let server = Server::start("");
    let proxy = Server::start(&format!("--upstream {}", server.address));
    let mix = vec![
        Template::get("/bytes/300000?id={id}"),
        Template::post("/user/{n}?id={id}", Body::Length(100_000)),
        Template::get(TELLING),
    ];
    let options = Options { mix, connections: 2, ..Options::new(proxy.address.clone(), "/", 90) };
    let tracer = Tracer::start(hooks, &[proxy.process.pid()]);
    let asked = load::run(&options).unwrap();
    let capture = tracer.stop();
    assert!(asked.iter().all(|row| row.outcome == Outcome::Ok), "the load itself failed");
    check_order_and_sums(&capture);
    // The proxy serves each request and makes it again: two roles, two transactions.
    let n_server =
        check_server_rows(&by_stamp(&capture.role("server")), &proxy.rows(asked.len()), Expect::default());
    let n_client = by_stamp(&capture.role("client")).len();
    check_conserved(&capture, n_server + n_client, 2 * asked.len(), true);
}

#[rstest]
fn everything_spliced_between_sockets_is_a_gap_and_never_a_wrong_transaction(
    #[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks,
) {
    let _machine = machine();
    let server = Server::start("");
    let proxy = Server::start(&format!("--upstream {} --splice-all", server.address));
    let options = Options::new(proxy.address.clone(), TELLING, 50);
    let tracer = Tracer::start(hooks, &[proxy.process.pid()]);
    let asked = load::run(&options).unwrap();
    let capture = tracer.stop();
    assert!(asked.iter().all(|row| row.outcome == Outcome::Ok), "the load itself failed");
    check_order_and_sums(&capture);
    for transaction in &capture.transactions {
        assert_eq!((&transaction.target, transaction.status_code), (&None, None), "{transaction:?}");
    }
}

#[rstest]
fn ten_thousand_short_connections(#[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks) {
    let _machine = machine();
    let server = Server::start("");
    let options = Options { keep_alive: false, connections: 8, ..load_of(&server, TELLING, 10_000) };
    let (capture, _) = trace(hooks, &server, &options, Expect::default());
    let connections: HashSet<_> = capture.transactions.iter().map(|t| &t.conn_id).collect();
    assert_eq!(connections.len(), capture.transactions.len(), "a ConnId was used twice");
}

#[rstest]
fn attached_in_the_middle(
    #[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks,
    #[values(1, 16)] pipeline: usize,
) {
    let _machine = machine();
    let server = Server::start("");
    let options = Options {
        rate: Some(400.0),
        count: u64::MAX,
        duration: Duration::from_secs(6),
        pipeline,
        ..load_of(&server, "/bytes/{n}?id={id}&sleep=2", 1)
    };
    let load = thread::spawn(move || load::run(&options).unwrap());
    thread::sleep(Duration::from_millis(800));
    let tracer = Tracer::start(hooks, &[server.process.pid()]);
    let ready_ns = tracer.ready_ns;
    let asked = load.join().unwrap();
    let capture = tracer.stop();
    let served = server.rows(asked.len());
    check_order_and_sums(&capture);
    let captured = by_stamp(&capture.role("server"));
    let expect =
        Expect { confidence: &["complete", "mid_join", "guessed"], gaps: pipeline > 1, ..Expect::default() };
    check_server_rows(&captured, &served, expect);
    // Whatever the server began to read after the tracer was ready must be there; what it began before may be.
    let (before, after): (Vec<_>, Vec<_>) = served.iter().partition(|row| row.read_before_ns < ready_ns);
    assert!(!before.is_empty() && after.len() > 100, "the tracer was not attached in the middle");
    let missing = after.iter().filter(|row| !captured.contains_key(&row.id)).count() as u64;
    let lost = capture.summary.lost_requests;
    assert!(missing <= lost.high, "{missing} of {} missing, {lost:?} known to be lost", after.len());
    assert!(missing <= 4 * pipeline as u64, "more missing ({missing}) than could be in flight at the start");
}

#[rstest]
fn forked_workers_and_passed_descriptors(
    #[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks,
    #[values("fork-workers:2", "fork-connections", "pass-descriptors")] mode: &str,
) {
    let _machine = machine();
    let server = Server::start(&format!("--mode {mode}"));
    let mut options = mixed(&server, 390);
    if mode == "fork-connections" {
        options.keep_alive = false;
    }
    let (capture, _) = trace(hooks, &server, &options, Expect::default());
    assert!(capture.transactions.iter().all(|transaction| transaction.pid != server.process.pid()));
}

#[rstest]
fn workers_forked_after_the_attach_on_kept_connections(
    #[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks,
) {
    let _machine = machine();
    let server = Server::start("--mode fork-connections");
    trace(hooks, &server, &load_of(&server, TELLING, 400), Expect::default());
}

#[rstest]
fn an_event_loop_interleaves_its_connections(#[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks) {
    let _machine = machine();
    let server = Server::start("--mode event-loop");
    let mix = (1..8).map(|ms| Template::get(&format!("/bytes/{{n}}?sleep={ms}&id={{id}}"))).collect();
    let options = Options { mix, connections: 16, ..load_of(&server, "/", 1500) };
    trace(hooks, &server, &options, Expect::default());
}

#[rstest]
fn a_request_that_is_never_answered(#[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks) {
    let _machine = machine();
    let server = Server::start("");
    let tracer = Tracer::start(hooks, &[server.process.pid()]);
    let after = Duration::from_millis(200);
    let mix = vec![Template { ending: Ending::Abandon(after), ..Template::get("/never/{n}?id={id}") }];
    let options = Options { mix, connections: 3, prefix: "left".into(), ..load_of(&server, "/", 3) };
    let asked = load::run(&options).unwrap();
    assert!(asked.iter().all(|row| row.outcome == Outcome::Abandoned));
    // This one is still in flight when the tracer stops.
    let options = Options { prefix: "open".into(), ..load_of(&server, "/never/{n}?id={id}", 1) };
    let open = thread::spawn(move || load::run(&Options { grace: PATIENCE, ..options }));
    let served = server.rows(4);
    let capture = tracer.stop();
    check_order_and_sums(&capture);
    check_server(&capture, &served, Expect::default());
    let ends: HashMap<&str, usize> = capture.transactions.iter().fold(HashMap::new(), |mut ends, one| {
        *ends.entry(one.end.as_str()).or_default() += 1;
        ends
    });
    assert_eq!(ends, HashMap::from([("closed", 3), ("tracer_stopped", 1)]));
    assert!(capture.transactions.iter().all(|transaction| transaction.status_code.is_none()));
    assert_eq!(capture.summary.open, 1);
    drop(server);
    open.join().unwrap().unwrap();
}

#[rstest]
fn a_client_that_resets(#[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks) {
    let _machine = machine();
    let server = Server::start("");
    let tracer = Tracer::start(hooks, &[server.process.pid()]);
    let reset = Ending::Reset(Duration::from_millis(50));
    let mix = vec![
        // More than any server can send in the time.
        Template { ending: reset, ..Template::get("/bytes/1000000000000000?id={id}") },
        Template { ending: reset, ..Template::get("/sleep/300?id={id}") },
        Template::get(TELLING),
    ];
    let asked = load::run(&Options { mix, connections: 3, threads: 1, ..load_of(&server, "/", 30) }).unwrap();
    let served: Vec<serve::Row> = server.rows(30);
    let served: HashMap<&str, &serve::Row> = served.iter().map(|row| (&*row.id, row)).collect();
    let capture = tracer.stop();
    check_order_and_sums(&capture);
    let captured = by_stamp(&capture.role("server"));
    for row in &asked {
        let transaction = captured.get(&row.id).unwrap_or_else(|| panic!("{row:?} was not captured"));
        // Where the server's short answer was out before the reset came, it was an answer.
        let end = match (row.outcome, served[&*row.id].outcome) {
            (Outcome::ClientReset, serve::Outcome::Aborted) => "reset",
            (Outcome::ClientReset | Outcome::Ok, serve::Outcome::Answered) => "answered",
            _ => panic!("the load itself failed: {row:?}"),
        };
        assert_eq!(transaction.end, end, "{row:?} {transaction:?}");
    }
    assert!(capture.transactions.iter().filter(|one| one.end == "reset").count() >= 10, "the endless ones");
    check_conserved(&capture, captured.len(), served.len(), true);
}

#[rstest]
fn both_ends_on_one_host(
    #[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks,
    #[values("", "--close")] keep: &str,
) {
    let _machine = machine();
    let server = Server::start("");
    let arguments = format!(
        "{keep} --connections 4 --threads 2 --count 1500 --body 3000 --get /bytes/{{n}}?id={{id}} \
         --get /status/404?id={{id}} --post /item/{{n}}?id={{id}}"
    );
    let mut client = Client::start(&server.address, &arguments);
    let pid = client.process.pid();
    let tracer = Tracer::start(hooks, &[server.process.pid(), pid]);
    let asked = client.run();
    let capture = tracer.stop();
    assert!(asked.iter().all(|row| row.outcome == Outcome::Ok), "the load itself failed");
    let served = server.rows(asked.len());
    check_order_and_sums(&capture);
    let (servers, clients) = (by_stamp(&capture.role("server")), by_stamp(&capture.role("client")));
    let n_server = check_server_rows(&servers, &served, Expect::default());
    let n_client = check_client_rows(&clients, &asked, pid, Expect::default());
    check_server_inside_client(&servers, &asked, &served);
    check_conserved(&capture, n_server + n_client, 2 * asked.len(), true);
    for (stamp, client) in &clients {
        let Some(server) = servers.get(stamp) else { continue };
        assert_eq!(
            (client.client_port, client.server_port, &client.client_addr, &client.server_addr),
            (server.client_port, server.server_port, &server.client_addr, &server.server_addr)
        );
        assert_ne!(client.conn_id, server.conn_id, "two sockets");
    }
}

#[rstest]
#[case::reader_and_writer_threads("--split")]
#[case::duplicated_descriptor("--duplicate")]
#[case::peek_before_each_read("--peek")]
#[case::bodies_dropped_by_msg_trunc("--discard")]
#[case::eagain("--nonblocking")]
#[case::short_reads("--read-size 7")]
#[case::all_at_once("--peek --nonblocking --split --duplicate --read-size 13 --write-size 999")]
fn habits(#[case] habit: &str, #[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks) {
    let _machine = machine();
    let server = Server::start(habit);
    // Very short reads of 100 kB bodies would be a load of system calls, which is another test's.
    let mut options = mixed(&server, 390);
    if habit.contains("--read-size") {
        options.mix.retain(|template| template.body != Body::Length(100_000));
    }
    trace(hooks, &server, &options, Expect::default());
}

#[rstest]
fn reader_and_writer_threads_with_pipelining(#[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks) {
    let _machine = machine();
    let server = Server::start("--split");
    let options = Options { pipeline: 16, ..mixed(&server, 650) };
    trace(hooks, &server, &options, PIPELINED);
}

#[rstest]
fn every_call(
    #[values("read", "readv", "recv", "recvmsg", "recvmmsg", "preadv2")] read: &str,
    #[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks,
) {
    let _machine = machine();
    // The socket tracepoints do not say which message of a vector they fire for: lengths only, and nothing may be made of them.
    let is_blind = read == "recvmmsg" && hooks == Hooks::Socket;
    let place = ReadCall::ALL.iter().position(|call| call.to_string() == read).unwrap();
    let write = WriteCall::ALL[place];
    let server = Server::start(&format!("--read-call {read} --write-call {write}"));
    // The client by the same calls, traced as well: requests written and answers read by each of them.
    let arguments = format!(
        "--connections 4 --count 260 --read-call {read} --write-call {write} --body 3000 --get {TELLING} \
         --post /item/{{n}}?id={{id}} --get /chunked/2500?id={{id}} --get /bytes/100000/{write}?id={{id}}"
    );
    let mut client = Client::start(&server.address, &arguments);
    let pid = client.process.pid();
    let tracer = Tracer::start(hooks, &[server.process.pid(), pid]);
    let asked = client.run();
    let capture = tracer.stop();
    assert!(asked.iter().all(|row| row.outcome == Outcome::Ok), "the load itself failed");
    let served = server.rows(asked.len());
    check_order_and_sums(&capture);
    if is_blind {
        let n_answered = capture.transactions.iter().filter(|one| one.end == "answered").count();
        assert_eq!(n_answered, 0, "made of nothing: {:#?}", capture.transactions);
        return;
    }
    let n_server = check_server_rows(&by_stamp(&capture.role("server")), &served, Expect::default());
    let n_client = check_client_rows(&by_stamp(&capture.role("client")), &asked, pid, Expect::default());
    check_conserved(&capture, n_server + n_client, 2 * asked.len(), true);
}

#[rstest]
fn ipv6(#[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks) {
    let _machine = machine();
    let server = Server::start("--listen [::1]:0");
    let (capture, _) = trace(hooks, &server, &load_of(&server, TELLING, 400), Expect::default());
    for transaction in &capture.transactions {
        assert_eq!(transaction.server_addr.as_deref(), Some("::1"));
        assert_eq!(transaction.client_addr.as_deref(), Some("::1"));
        assert_eq!(transaction.server_port, Some(server.address.port()));
    }
}

#[rstest]
fn unix_stream(#[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks) {
    let _machine = machine();
    let server = Server::start("--listen unix");
    // Nothing in the kernel's hooks says who accepted a Unix socket: the role may be a guess.
    let expect = Expect { confidence: &["complete", "guessed"], ..Expect::default() };
    let (capture, _) = trace(hooks, &server, &mixed(&server, 390), expect);
    for transaction in &capture.transactions {
        assert_eq!(transaction.server_addr.as_deref(), Some(server.address.to_string().as_str()));
        assert_eq!((transaction.client_port, transaction.server_port), (None, None));
    }
}

#[rstest]
fn the_body_waits_for_the_word_to_go_on(#[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks) {
    let _machine = machine();
    let server = Server::start("");
    let mix = vec![Template { expect: true, ..Template::post("/item/{n}?id={id}", Body::Length(5000)) }];
    let interim = "HTTP/1.1 100 Continue\r\n\r\n".len() as u64;
    let expect = Expect { interim_bytes: interim, ..Expect::default() };
    trace(hooks, &server, &Options { mix, ..load_of(&server, "/", 100) }, expect);
}

#[rstest]
fn answers_until_the_close(#[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks) {
    let _machine = machine();
    let server = Server::start("");
    let mix = vec![Template::get("/close/10000?id={id}"), Template::get(TELLING)];
    trace(hooks, &server, &Options { mix, ..load_of(&server, "/", 90) }, Expect::default());
}

#[rstest]
fn early_answers(#[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks) {
    let _machine = machine();
    let server = Server::start("");
    let early = Template::post("/early?id={id}", Body::Length(200_000));
    let mix = vec![early, Template::get(TELLING), Template::get(TELLING)];
    // The request behind one that was answered early is read together with the last of the first one's body, where nothing is
    // copied any more: a counted loss.
    let expect = Expect { nothing_lost: false, ..Expect::default() };
    let (capture, _) = trace(hooks, &server, &Options { mix, ..load_of(&server, "/", 90) }, expect);
    let is_early = |target: &str| target.starts_with("/early");
    let early: Vec<_> =
        capture.transactions.iter().filter(|one| one.target.as_deref().is_some_and(is_early)).collect();
    assert!(early.len() > 10, "{} early answers", early.len());
    for transaction in early {
        assert_eq!(transaction.ttfb_ns, None, "{transaction:?}");
    }
}

#[rstest]
fn a_slow_reader(#[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks) {
    let _machine = machine();
    let server = Server::start("");
    let options = Options {
        read_pause: Duration::from_millis(2),
        read_size: 128 * 1024,
        ..load_of(&server, "/bytes/8000000?id={id}", 4)
    };
    trace(hooks, &server, &options, Expect::default());
}

#[rstest]
fn saturation(#[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks) {
    let _machine = machine();
    let server = Server::start("--mode event-loop");
    let options = Options {
        count: u64::MAX,
        duration: Duration::from_secs(3),
        connections: 32,
        ..load_of(&server, TELLING, 1)
    };
    // As much as the machine gives: what is lost must be known.
    trace(hooks, &server, &options, Expect { nothing_lost: false, gaps: true, ..Expect::default() });
}

#[rstest]
fn a_tiny_ring_loses_and_knows_how_much(#[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks) {
    let _machine = machine();
    let server = Server::start("--mode event-loop");
    let tracer = Tracer::start_with(hooks, &[server.process.pid()], &["--ring-size", "64K"]);
    let options = Options {
        count: u64::MAX,
        duration: Duration::from_secs(3),
        connections: 32,
        ..load_of(&server, TELLING, 1)
    };
    let asked = load::run(&options).unwrap();
    let capture = tracer.stop();
    let served: Vec<serve::Row> = server.rows(asked.len());
    check_order_and_sums(&capture);
    let confidence = &["complete", "gap", "guessed", "mid_join"];
    let expect = Expect { confidence, gaps: true, ..Expect::default() };
    let captured = by_stamp(&capture.role("server"));
    let n = captured.len();
    let answered: HashMap<_, _> = captured.into_iter().filter(|(_, one)| one.end == "answered").collect();
    check_server_rows(&answered, &served, expect);
    check_conserved(&capture, n, served.len(), false);
}
