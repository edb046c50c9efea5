//! Who calls whom, against a count by hand: `txray map` over a recording, its forms, and the filter of each edge.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::{Command, Output, Stdio},
    sync::Arc,
};

use proptest::prelude::*;
use serde_json::Value;
use tracer_user::{
    cli::map::{gather, gather_with},
    event::{ConnId, Role},
    metrics::Metrics,
    report::{
        edges::{Calls, edges},
        filter::{Filter, Thresholds, quoted},
    },
    schema::PayloadMode,
    sink::{
        Sink as _,
        recording::{Recorder, RecordingConfig},
    },
    source::{recording::Recording, synthetic::Random},
    time::WallTime,
    transaction::{Confidence, End, Kind, TimeBasis, Transaction, TransactionBatch, WallRange},
};

use crate::recording;

/// Services with their ports; the last is called and calls, but is not traced.
const SERVICES: [(&str, u16); 5] =
    [("shop", 80), ("sto'ck\\", 81), ("\u{1b}[2J\"결제\" or err", 82), ("10.0.0.9:5432", 83), ("far", 84)];
const FAR: usize = 4;

fn row(seq: u64, role: Role, service: &str, client: (&str, u16), server: (&str, u16)) -> Transaction {
    let end = recording::START_NS + seq * 1_000_000;
    Transaction {
        start_time: WallTime(end - 1_000),
        request_end: None,
        response_start: None,
        end_time: WallTime(end),
        duration_ns: 1_000,
        ttfb_ns: None,
        queue_ns: None,
        time_basis: TimeBasis::Exit,
        kind: Kind::Request,
        role,
        protocol: "http1",
        operation: "GET /".into(),
        target: None,
        status_code: Some(200),
        error: false,
        error_type: None,
        pid: 7,
        tid: 8,
        comm: "x".into(),
        service: service.into(),
        client_addr: client.0.into(),
        client_port: Some(client.1),
        server_addr: server.0.into(),
        server_port: Some(server.1),
        request_bytes: 0,
        response_bytes: 0,
        end: End::Answered,
        confidence: Confidence::Complete,
        conn: ConnId(u64::from(client.1)),
        ordinal: seq,
        seq,
        ..Transaction::default()
    }
}

/// What one edge should say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Truth {
    count: u64,
    errors: u64,
    bytes: [u64; 2],
    max_ns: u64,
    seen: [u64; 2],
    /// The rows that tell of it.
    rows: BTreeSet<u64>,
}

type Truths = BTreeMap<(String, String), Truth>;

/// Calls among services, of remote clients and to a far server, with a row for each end that is traced.
fn calls(seed: u64, n: usize) -> (Vec<Transaction>, Truths) {
    let mut random = Random(seed);
    let (mut rows, mut truths) = (Vec::new(), Truths::new());
    for i in 0..n {
        let to = random.below(SERVICES.len() as u64) as usize;
        let from = random.below(SERVICES.len() as u64 + 2) as usize;
        let (server_name, server_port) = SERVICES[to];
        let server_addr = if to == FAR { "10.0.0.4" } else { "127.0.0.1" };
        let remote = ["192.168.0.1", "fd00::7", "10.0.0.4"][from.saturating_sub(FAR).min(2)];
        let client_addr = if from < FAR { "127.0.0.1" } else { remote };
        if from >= FAR && to == FAR {
            continue;
        }
        // A client's connections have ports of their own.
        let client = (client_addr, 40_000 + (from * 100 + to * 10) as u16 + (i % 3) as u16);
        let (error, size, duration) = (random.chance(100), random.below(5_000), 1 + random.below(90_000_000));
        let tell = |rows: &mut Vec<Transaction>, role, service: &str, extra: u64| {
            let seq = rows.len() as u64;
            rows.push(Transaction {
                error,
                request_bytes: size,
                response_bytes: size * 2,
                duration_ns: (duration + extra) as i64,
                ..row(seq, role, service, client, (server_addr, server_port))
            });
            seq
        };
        let from_name = if from < FAR { SERVICES[from].0 } else { remote };
        let to_name = if to == FAR { "10.0.0.4:84" } else { server_name };
        let truth = truths.entry((from_name.to_owned(), to_name.to_owned())).or_default();
        let is_local = from < FAR;
        if is_local {
            truth.rows.insert(tell(&mut rows, Role::Client, SERVICES[from].0, 500));
            truth.seen[0] += 1;
            truth.max_ns = truth.max_ns.max(duration + 500);
        }
        if to != FAR {
            let seq = tell(&mut rows, Role::Server, server_name, 0);
            truth.seen[1] += 1;
            if !is_local {
                truth.rows.insert(seq);
                truth.max_ns = truth.max_ns.max(duration);
            }
        }
        truth.count += 1;
        truth.errors += u64::from(error);
        truth.bytes = [truth.bytes[0] + size, truth.bytes[1] + size * 2];
    }
    (rows, truths)
}

fn recorded(rows: &[Transaction]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let config = RecordingConfig { payload: PayloadMode::None, ..recording::config(dir.path()) };
    let mut recorder = Recorder::start(config, Metrics::default()).unwrap();
    let mut sink = recorder.transactions();
    recorder.checkpoint(recording::state(0), 0);
    recorder.tap(&recording::batch(0..100, 1_000));
    for part in rows.chunks(100) {
        let watermark = part[part.len() - 1].end_time;
        sink.write(&TransactionBatch { transactions: part.to_vec(), watermark }).unwrap();
    }
    sink.finish().unwrap();
    recorder.finish().unwrap();
    dir
}

fn map(dir: &tempfile::TempDir, flags: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_txray"));
    command.arg("map").arg(dir.path()).args(flags).env("LANG", "C.UTF-8").env_remove("LC_ALL");
    command.stdin(Stdio::null()).output().unwrap()
}

fn stdout(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn every_call_is_in_one_edge_whichever_of_its_ends_were_traced() {
    for seed in 0..4 {
        let (rows, truths) = calls(seed, 2_000);
        let dir = recorded(&rows);
        let json: Value = serde_json::from_str(&stdout(&map(&dir, &["--format", "json"]))).unwrap();
        assert_eq!((&json["type"], &json["transactions"]), (&"map".into(), &rows.len().into()));
        let (nodes, edges) = (json["nodes"].as_array().unwrap(), json["edges"].as_array().unwrap());
        let name = |id: &Value| nodes[id.as_u64().unwrap() as usize]["name"].as_str().unwrap().to_owned();
        let n = |edge: &Value, key: &str| edge[key].as_u64().unwrap();
        let found: Truths = edges
            .iter()
            .map(|edge| {
                let ends = (name(&edge["from"]), name(&edge["to"]));
                let truth = Truth {
                    count: n(edge, "count"),
                    errors: n(edge, "errors"),
                    bytes: [n(edge, "request_bytes"), n(edge, "response_bytes")],
                    max_ns: n(edge, "max_ns"),
                    seen: [n(edge, "seen_by_client"), n(edge, "seen_by_server")],
                    rows: truths[&ends].rows.clone(),
                };
                assert!(n(edge, "p50_ns") <= n(edge, "p90_ns") && n(edge, "p99_ns") <= n(edge, "max_ns"));
                (ends, truth)
            })
            .collect();
        assert_eq!(found, truths);
        for (id, node) in nodes.iter().enumerate() {
            let of = |key: &str| {
                edges.iter().filter(|edge| edge[key] == id).map(|edge| n(edge, "count")).sum::<u64>()
            };
            assert_eq!((n(node, "calls_out"), n(node, "calls_in")), (of("from"), of("to")), "{node}");
        }
    }
}

#[test]
fn the_filter_of_an_edge_matches_the_rows_that_tell_of_it_and_no_other() {
    let (rows, truths) = calls(7, 3_000);
    let rows: Vec<Arc<Transaction>> = rows.into_iter().map(Arc::new).collect();
    let found = edges(rows.iter(), WallTime(0)..WallTime(0));
    assert_eq!(found.len(), truths.len());
    for edge in &found {
        let text = edge.filter().unwrap();
        let filter = Filter::parse(&text, Thresholds::default()).unwrap_or_else(|error| panic!("{error}"));
        let matched: BTreeSet<u64> =
            rows.iter().filter(|row| filter.matches(row)).map(|row| row.seq).collect();
        let truth = &truths[&(edge.from.raw().to_owned(), edge.to.raw().to_owned())];
        assert_eq!(matched, truth.rows, "{text}");
    }
}

#[test]
fn a_part_and_a_filter_narrow_the_map_and_matching_nothing_is_told_by_the_exit_code() {
    let (rows, _) = calls(3, 2_000);
    let dir = recorded(&rows);
    let (from, to) = (rows[500].end_time.0, rows[1_500].end_time.0);
    let flags = ["--from", &from.to_string(), "--to", &to.to_string(), "--filter", "err", "--format", "json"];
    let json: Value = serde_json::from_str(&stdout(&map(&dir, &flags))).unwrap();
    let n = rows[500..1_500].iter().filter(|row| row.error).count();
    assert_eq!(json["transactions"], n);
    let edges = json["edges"].as_array().unwrap();
    assert!(edges.iter().all(|edge| edge["count"] == edge["errors"]));
    // Who is asked is known by its name, though no row of its own is wanted.
    let clients = map(&dir, &["--filter", "role = client", "--format", "json"]);
    let json: Value = serde_json::from_str(&stdout(&clients)).unwrap();
    let addresses: Vec<&Value> =
        json["nodes"].as_array().unwrap().iter().filter(|node| node["kind"] == "address").collect();
    assert_eq!(addresses.len(), 1, "{addresses:?}");
    let none = map(&dir, &["--filter", "duration > 1h"]);
    assert_eq!(none.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&none.stdout).starts_with("no transactions"));
    assert_eq!(map(&dir, &["--filter", "err and"]).status.code(), Some(2));
    assert_eq!(map(&dir, &["--from", "2", "--to", "1"]).status.code(), Some(2));
}

#[test]
fn the_text_has_the_picture_and_the_table_and_obeys_no_name() {
    let (rows, truths) = calls(1, 400);
    let dir = recorded(&rows);
    for width in ["200", "70"] {
        let text = stdout(&map(&dir, &["--width", width]));
        assert!(text.contains("┌") && (width == "70" || text.contains("▶")), "{text}");
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
        let table = text.split("\n\n").last().unwrap();
        assert_eq!(table.lines().count(), truths.len() + 1, "{table}");
        let picture = text.split("\n\n").nth(1).unwrap();
        use unicode_width::UnicodeWidthStr as _;
        assert!(picture.lines().all(|line| line.width() <= width.parse().unwrap()), "{picture}");
    }
}

/// The tokens of a DOT text: quoted strings (unquoted again), and what stands between them.
/// Calls of connections of one call each, one a second; the client is done five seconds after the server.
fn short_connections(n: u64) -> Vec<Transaction> {
    let mut rows: Vec<Transaction> = (0..n)
        .flat_map(|i| {
            let (client, server) = (("127.0.0.1", 10_000 + i as u16), ("127.0.0.1", 81));
            let end = |row: Transaction, seconds: u64| Transaction {
                end_time: WallTime(recording::START_NS + seconds * 1_000_000_000),
                ..row
            };
            [
                end(row(0, Role::Server, "stock", client, server), i),
                end(row(0, Role::Client, "shop", client, server), i + 5),
            ]
        })
        .collect();
    rows.sort_by_key(|row| (row.end_time, row.role == Role::Client));
    (0..).zip(&mut rows).for_each(|(seq, row)| row.seq = seq);
    rows
}

#[test]
fn the_map_remembers_no_more_connections_than_its_bound_and_says_which_it_forgot_too_early() {
    const N: u64 = 600;
    let dir = recorded(&short_connections(N));
    let recording = Recording::open(dir.path()).unwrap();
    let all = WallRange { from: WallTime(0), to: WallTime(u64::MAX) };
    let of = |max_made: usize, max_servers: usize| {
        let (map, faults) = gather_with(Calls::bounded(max_made, max_servers), &recording, all, None);
        assert_eq!(faults, Vec::<String>::new());
        map
    };
    let whole = gather(&recording, all, None).0;
    let counts = |edges: &[tracer_user::tui::Edge]| -> Vec<(String, String, u64, [u64; 2])> {
        edges.iter().map(|edge| (edge.from.name(), edge.to.name(), edge.count, edge.seen)).collect()
    };
    assert_eq!(counts(&whole.edges), [("shop".to_owned(), "stock".to_owned(), N, [N, N])]);
    // Room for those whose other end may still come: ten seconds on either side.
    let windowed = of(64, 8);
    assert_eq!((counts(&windowed.edges), windowed.transactions), (counts(&whole.edges), 2 * N));
    assert_eq!((windowed.given_up, windowed.given_up_lines()), (Default::default(), String::new()));
    // Room for fewer: what is counted twice is no more than what is told.
    let cramped = of(4, 8);
    let told = cramped.given_up.connections;
    let edges = counts(&cramped.edges);
    assert_eq!(edges.iter().find(|edge| edge.0 == "shop").map(|edge| edge.2), Some(N));
    let twice = edges.iter().find(|edge| edge.0 == "127.0.0.1").map_or(0, |edge| edge.2);
    assert!(0 < twice && twice <= told && told <= N, "{twice} twice, {told} told");
    assert!(cramped.given_up_lines().starts_with(&format!("{told} client connections")));
    let json: Value = serde_json::from_slice(&cramped.json()).unwrap();
    assert_eq!(json["forgotten_connections"], told);
    // Nobody is known to listen anywhere.
    let nobody = of(64, 0);
    assert_eq!((nobody.given_up.listeners, nobody.edges[0].to.name()), (N, "127.0.0.1:81".to_owned()));
}

fn dot_tokens(text: &str) -> Vec<Result<String, String>> {
    let (mut tokens, mut chars, mut between) = (Vec::new(), text.chars(), String::new());
    while let Some(c) = chars.next() {
        if c != '"' {
            between.push(c);
            continue;
        }
        tokens.push(Err(std::mem::take(&mut between)));
        let mut inside = String::new();
        loop {
            match chars.next().expect("a quote is not closed") {
                '"' => break,
                '\\' => inside.extend(chars.next()),
                c => inside.push(c),
            }
        }
        tokens.push(Ok(inside.replace("&amp;", "&")));
    }
    tokens.push(Err(between));
    tokens
}

#[test]
fn the_dot_form_has_each_end_and_edge_once_and_names_end_no_quote() {
    let (rows, truths) = calls(2, 2_000);
    let dir = recorded(&rows);
    let dot = stdout(&map(&dir, &["--format", "dot"]));
    let tokens = dot_tokens(&dot);
    let between: String = tokens.iter().filter_map(|token| token.as_ref().err()).cloned().collect();
    let plain = |c: char| c.is_ascii_alphanumeric() || "_=->[]{}; ,\n".contains(c);
    assert!(between.chars().all(plain), "{between}");
    assert_eq!(between.matches("->").count(), truths.len());
    let names: BTreeSet<String> = truths.keys().flat_map(|(from, to)| [from, to]).cloned().collect();
    let labels: Vec<&String> = tokens.iter().filter_map(|token| token.as_ref().ok()).collect();
    for name in &names {
        let shown = tracer_user::text::screen_text(name).into_owned();
        assert!(labels.contains(&&shown), "{shown:?}");
    }
    assert!(dot.starts_with("digraph txray {\n") && dot.ends_with("}\n"));
}

proptest! {
    #[test]
    fn a_filter_of_any_name_matches_exactly_that_name(name in ".*", other in ".*", hostile in "['\"\\\\() =or,]{0,12}") {
        for (name, other) in [(&name, &other), (&hostile, &name), (&name, &hostile)] {
            let of = |service: &str| row(0, Role::Server, service, ("1.1.1.1", 1), ("2.2.2.2", 2));
            let filter = Filter::parse(&format!("service = {} and pid = 7", quoted(name)), Thresholds::default()).unwrap();
            prop_assert!(filter.matches(&of(name)));
            prop_assert_eq!(filter.matches(&of(other)), name == other);
        }
    }
}
