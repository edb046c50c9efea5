//! What belongs together: requests followed through processes by their connections and trace ids, case by case and in any order.

use std::{collections::BTreeMap, sync::Arc};

use proptest::prelude::*;
use tracer_ebpf as abi;
use tracer_user::{
    event::{ConnClose, ConnId, ConnOpen, Data, Direction, Event, Role},
    metrics::{Counter, Metrics},
    pipeline::{NullVerdicts, Pipeline, PipelineConfig},
    report::{
        edges::edges,
        trace::{Marks, Trace},
    },
    time::{BootTime, WallTime},
    transaction::{CallId, Transaction, anatomy::LinkMethod},
};

use crate::cases::{IN, MS, OUT};

const ANSWER: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// One end of a connection, as its process's calls move bytes.
#[derive(Clone)]
struct End {
    conn: u64,
    pid: u32,
    positions: [u64; 2],
    turn: u32,
    speaking: Option<Direction>,
}

/// What the kernel tells of some processes. Time passes by a millisecond with each event.
#[derive(Default)]
struct Host {
    events: Vec<Event>,
    now: u64,
    ends: Vec<End>,
    /// Who moves bytes from here on; 0 = no goroutine.
    goroutine: u32,
}

impl Host {
    fn new() -> Host {
        Host { now: 1_000 * MS, ..Host::default() }
    }

    /// A connection comes into sight; sequence numbers begin at `first` (the client's, the server's).
    fn open(
        &mut self,
        pid: u32,
        role: Role,
        (client, server): ([u8; 4], [u8; 4]),
        (port, listens): (u16, u16),
        first: [u32; 2],
    ) -> usize {
        let n = self.ends.len();
        let conn = 100 + n as u64;
        let mut tuple = abi::Tuple { family: abi::FAMILY_INET, ..abi::Tuple::default() };
        let (local, remote) = if role == Role::Client { (client, server) } else { (server, client) };
        tuple.local[..4].copy_from_slice(&local);
        tuple.remote[..4].copy_from_slice(&remote);
        (tuple.local_port, tuple.remote_port) =
            if role == Role::Client { (port, listens) } else { (listens, port) };
        self.now += MS;
        self.events.push(Event::ConnOpen(ConnOpen {
            time: BootTime(self.now),
            conn: ConnId(conn),
            role,
            tuple,
            pid,
            netns: 1,
            ..ConnOpen::default()
        }));
        let [client, server] = first.map(|first| u64::from(first) + ((1 + n as u64) << 32));
        let positions = if role == Role::Client { [server, client] } else { [client, server] };
        self.ends.push(End { conn, pid, positions, turn: 0, speaking: None });
        n
    }

    /// Both ends of one on loopback: the client's, the server's.
    fn pair(&mut self, client: u32, server: u32, port: u16) -> (usize, usize) {
        // Chosen at random by real ones.
        let n = self.ends.len() as u32;
        let (local, first) = ([127, 0, 0, 1], [1, 2].map(|end| (2 * n + end).wrapping_mul(0x9e37_79b9)));
        let ports = (port, 8_000 + server as u16);
        let made = self.open(client, Role::Client, (local, local), ports, first);
        (made, self.open(server, Role::Server, (local, local), ports, first))
    }

    /// A connection from another host.
    fn starts_afar(&mut self, server: u32, port: u16) -> usize {
        self.open(server, Role::Server, ([10, 0, 0, 9], [10, 0, 0, 1]), (port, 80), [5, 6])
    }

    fn data(&mut self, end: usize, tid: u32, direction: Direction, bytes: &[u8]) -> Event {
        let End { conn, pid, positions, turn, speaking } = &mut self.ends[end];
        let turn_start = *speaking != Some(direction);
        if turn_start {
            (*speaking, *turn) = (Some(direction), *turn + 1);
        }
        let mut flags = if direction == OUT { abi::FLAG_EGRESS } else { 0 };
        flags |= if turn_start { abi::FLAG_TURN_START } else { 0 };
        let position = positions[direction.index()];
        positions[direction.index()] += bytes.len() as u64;
        self.now += MS;
        Event::Data(Data {
            time: BootTime(self.now),
            conn: ConnId(*conn),
            position,
            bytes: bytes.len() as u64,
            turn: *turn,
            flags,
            pid: *pid,
            tid,
            n_calls: 1,
            // A service each.
            comm: std::array::from_fn(|at| if at < *pid as usize { b'w' } else { 0 }),
            payload: bytes.to_owned().into(),
            goroutine: self.goroutine,
            ..Data::default()
        })
    }

    fn moved(&mut self, end: usize, tid: u32, direction: Direction, bytes: impl AsRef<[u8]>) {
        let event = self.data(end, tid, direction, bytes.as_ref());
        self.events.push(event);
    }

    fn by(&mut self, goroutine: u32) -> &mut Host {
        self.goroutine = goroutine;
        self
    }

    /// A request moves at an end: out of a client's, into a server's.
    fn asks(&mut self, end: usize, tid: u32, direction: Direction, path: &str, trace: Option<u32>) {
        self.moved(end, tid, direction, request(path, trace));
    }

    fn close(&mut self, end: usize) {
        let End { conn, positions: position, turn, .. } = self.ends[end];
        self.now += MS;
        let time = BootTime(self.now);
        self.events.push(Event::ConnClose(ConnClose {
            time,
            conn: ConnId(conn),
            position,
            turn,
            ..ConnClose::default()
        }));
    }

    /// The transactions, the same whether or not the pipeline is saved and restored behind each event.
    #[track_caller]
    fn end(self) -> (Vec<Transaction>, Metrics) {
        let (whole, metrics) = through(&self.events, &[]);
        let all: Vec<usize> = (0..self.events.len()).collect();
        assert_eq!(through(&self.events, &all).0, whole);
        (whole, metrics)
    }
}

fn request(path: &str, trace: Option<u32>) -> String {
    let trace = trace
        .map_or_else(String::new, |trace| format!("traceparent: 00-{trace:032x}-00f067aa0ba902b7-01\r\n"));
    format!("GET {path} HTTP/1.1\r\nHost: a\r\n{trace}\r\n")
}

fn through(events: &[Event], cuts: &[usize]) -> (Vec<Transaction>, Metrics) {
    let metrics = Metrics::default();
    let config = PipelineConfig::default;
    let mut pipeline = Pipeline::new(config(), metrics.clone(), Box::new(NullVerdicts));
    let mut out = Vec::new();
    for (i, event) in events.iter().enumerate() {
        pipeline.push(event);
        if cuts.contains(&i) {
            let saved = pipeline.checkpoint();
            pipeline = Pipeline::restore(&saved, config(), metrics.clone(), Box::new(NullVerdicts)).unwrap();
        }
        out.extend(pipeline.drain().transactions);
    }
    out.extend(pipeline.finish().transactions);
    (out, metrics)
}

/// The one of a role with a path; what made it and how that is known.
#[track_caller]
fn of<'a>(out: &'a [Transaction], role: Role, path: &str) -> &'a Transaction {
    let is_it = |one: &&Transaction| one.role == role && one.target.as_deref() == Some(path.as_bytes());
    let mut found = out.iter().filter(is_it);
    let first = found.next().unwrap_or_else(|| panic!("no {role:?} of {path}: {out:#?}"));
    assert!(found.next().is_none(), "{path} is there twice");
    first
}

fn id(one: &Transaction) -> CallId {
    CallId { conn: one.conn, ordinal: one.ordinal }
}

fn link(one: &Transaction) -> Option<(CallId, LinkMethod)> {
    one.causes.as_ref()?.link.map(|link| (link.parent, link.method))
}

#[test]
fn a_request_is_followed_through_the_processes_of_a_host() {
    let mut host = Host::new();
    let from = host.starts_afar(5, 40_000);
    let (to_back, back) = host.pair(5, 6, 40_001);
    let (to_store, store) = host.pair(6, 7, 40_002);
    for i in 0..3 {
        let path = |what: &str| format!("/{what}/{i}");
        host.asks(from, 50, IN, &path("front"), None);
        host.asks(to_back, 50, OUT, &path("back"), None);
        host.asks(back, 60, IN, &path("back"), None);
        host.asks(to_store, 60, OUT, &path("store"), None);
        host.asks(store, 70, IN, &path("store"), None);
        host.moved(store, 70, OUT, ANSWER);
        host.moved(to_store, 60, IN, ANSWER);
        host.moved(back, 60, OUT, ANSWER);
        host.moved(to_back, 50, IN, ANSWER);
        host.moved(from, 50, OUT, ANSWER);
    }
    let (out, _) = host.end();
    for i in 0..3 {
        let chain = [
            of(&out, Role::Server, &format!("/front/{i}")),
            of(&out, Role::Client, &format!("/back/{i}")),
            of(&out, Role::Server, &format!("/back/{i}")),
            of(&out, Role::Client, &format!("/store/{i}")),
            of(&out, Role::Server, &format!("/store/{i}")),
        ];
        assert_eq!(link(chain[0]), None, "its client is not traced");
        for pair in chain.windows(2) {
            let method = if pair[1].role == Role::Server { LinkMethod::Socket } else { LinkMethod::Order };
            assert_eq!(link(pair[1]), Some((id(pair[0]), method)));
        }
    }
    // A map of them has each call once, between the services that the links tie together.
    let rows: Vec<_> = out.iter().cloned().map(Arc::new).collect();
    let edges = edges(rows.iter(), WallTime(0)..WallTime(u64::MAX));
    let mut by_map: Vec<_> =
        edges.iter().map(|edge| (edge.from.name(), edge.to.name(), edge.count)).collect();
    by_map.sort();
    let mut by_links: BTreeMap<(String, String), u64> = BTreeMap::new();
    for served in rows.iter().filter(|row| row.role == Role::Server) {
        let client = link(served).map(|(client, _)| rows.iter().find(|row| id(row) == client).unwrap());
        let from = client.map_or_else(|| served.client_addr.to_string(), |client| client.service.to_string());
        *by_links.entry((from, served.service.to_string())).or_default() += 1;
    }
    let by_links: Vec<_> = by_links.into_iter().map(|((from, to), n)| (from, to, n)).collect();
    assert_eq!(by_map, by_links);
    assert_eq!(by_map.len(), 3);
    assert!(edges.iter().all(|edge| edge.from.is_unseen() || edge.seen == [3, 3]), "{edges:#?}");
    // And as a trace, from any of them.
    for shown in &rows {
        let trace = Trace::of(shown, |from| rows.iter().filter(move |row| row.end_time >= from));
        let roles: Vec<_> = trace.spans.iter().map(|span| (span.depth, span.row.role)).collect();
        let (served, made) = (Role::Server, Role::Client);
        assert_eq!(roles, [(0, served), (1, made), (2, served), (3, made), (4, served)]);
        assert!(trace.spans.iter().all(|span| span.critical_ns.is_some_and(|ns| ns >= MS)));
        assert_eq!(trace.notes(Marks::ASCII).len(), 1, "two guesses: {:?}", trace.notes(Marks::ASCII));
    }
}

#[test]
fn a_server_may_answer_before_the_clients_send_returns() {
    let mut host = Host::new();
    let (made, served) = host.pair(5, 6, 40_001);
    let asked = host.data(made, 50, OUT, request("/x", None).as_bytes());
    host.asks(served, 60, IN, "/x", None);
    host.moved(served, 60, OUT, ANSWER);
    let Event::Data(mut asked) = asked else { panic!() };
    asked.time = BootTime(host.now + MS);
    host.now += 2 * MS;
    host.events.push(Event::Data(asked));
    host.moved(made, 50, IN, ANSWER);
    let (out, _) = host.end();
    let (call, request) = (of(&out, Role::Client, "/x"), of(&out, Role::Server, "/x"));
    assert!(call.start_time > request.end_time);
    assert_eq!(link(request), Some((id(call), LinkMethod::Socket)));
}

#[test]
fn an_end_that_is_joined_later_counts_otherwise_and_is_matched_all_the_same() {
    let mut host = Host::new();
    let local = ([127, 0, 0, 1], [127, 0, 0, 1]);
    let made = host.open(5, Role::Client, local, (40_001, 8_006), [9, 90]);
    for i in 0..3 {
        host.asks(made, 50, OUT, &format!("/{i}"), None);
        host.moved(made, 50, IN, ANSWER);
    }
    let first = [1, 0].map(|at| host.ends[made].positions[at] as u32);
    let served = host.open(6, Role::Server, local, (40_001, 8_006), first);
    for i in 3..6 {
        host.asks(made, 50, OUT, &format!("/{i}"), None);
        host.asks(served, 60, IN, &format!("/{i}"), None);
        host.moved(served, 60, OUT, ANSWER);
        host.moved(made, 50, IN, ANSWER);
    }
    let (out, _) = host.end();
    for i in 3..6 {
        let (call, request) =
            (of(&out, Role::Client, &format!("/{i}")), of(&out, Role::Server, &format!("/{i}")));
        assert_eq!((call.ordinal, request.ordinal), (i, i - 3));
        assert_eq!(link(request), Some((id(call), LinkMethod::Socket)));
    }
}

#[test]
fn a_port_used_again_is_another_connection() {
    let mut host = Host::new();
    let (made, served) = host.pair(5, 6, 40_001);
    host.asks(made, 50, OUT, "/old", None);
    host.asks(served, 60, IN, "/old", None);
    // The client gives up, and uses the port again before the server has noticed.
    host.close(made);
    let local = ([127, 0, 0, 1], [127, 0, 0, 1]);
    let again = host.open(5, Role::Client, local, (40_001, 8_006), [77_000, 88_000]);
    host.asks(again, 50, OUT, "/new", None);
    let new = host.open(6, Role::Server, local, (40_001, 8_006), [77_000, 88_000]);
    host.asks(new, 61, IN, "/new", None);
    host.moved(new, 61, OUT, ANSWER);
    host.moved(again, 50, IN, ANSWER);
    host.moved(served, 60, OUT, ANSWER);
    let (out, _) = host.end();
    let end = |role, path| of(&out, role, path);
    let (old, new) = (end(Role::Server, "/old"), end(Role::Server, "/new"));
    assert_eq!(link(new), Some((id(end(Role::Client, "/new")), LinkMethod::Socket)));
    assert!(link(old).is_none_or(|link| link == (id(end(Role::Client, "/old")), LinkMethod::Socket)));
}

#[test]
fn what_the_other_end_did_not_see_is_not_made_up() {
    let mut host = Host::new();
    let (made, served) = host.pair(5, 6, 40_001);
    // The record of what the client sent is lost.
    let _ = host.data(made, 50, OUT, request("/lost", None).as_bytes());
    host.asks(served, 60, IN, "/lost", None);
    host.moved(served, 60, OUT, ANSWER);
    host.moved(made, 50, IN, ANSWER);
    host.asks(made, 50, OUT, "/seen", None);
    host.asks(served, 60, IN, "/seen", None);
    host.moved(served, 60, OUT, ANSWER);
    host.moved(made, 50, IN, ANSWER);
    let (out, _) = host.end();
    assert_eq!(link(of(&out, Role::Server, "/lost")), None);
    let call = of(&out, Role::Client, "/seen");
    assert_eq!(link(of(&out, Role::Server, "/seen")), Some((id(call), LinkMethod::Socket)));
}

/// A loop that serves two at once: its thread says too little, and in one case something wrong.
#[test]
fn a_trace_id_tells_whom_a_loop_asks_for() {
    for (traced, swapped) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut host = Host::new();
        let (first, second) = (host.starts_afar(5, 40_000), host.starts_afar(5, 40_001));
        let (a, b) = (host.pair(5, 6, 40_002).0, host.pair(5, 6, 40_003).0);
        let of_request = |trace: u32| traced.then_some(trace);
        host.asks(first, 50, IN, "/first", of_request(1));
        host.asks(second, 50, IN, "/second", of_request(2));
        let mut calls = [(a, "/for/first", 1), (b, "/for/second", 2)];
        if swapped {
            calls.reverse();
        }
        for (end, path, trace) in calls {
            host.asks(end, 50, OUT, path, of_request(trace));
        }
        for end in [b, a] {
            host.moved(end, 50, IN, ANSWER);
        }
        for end in [second, first] {
            host.moved(end, 50, OUT, ANSWER);
        }
        let (out, metrics) = host.end();
        let ids = ["/first", "/second"].map(|path| id(of(&out, Role::Server, path)));
        let links = ["/for/first", "/for/second"].map(|path| link(of(&out, Role::Client, path)).unwrap());
        let method = if traced { LinkMethod::Header } else { LinkMethod::Order };
        // Without, for the one that came last at first: right where it does ask for the second first.
        let (first, second) = if swapped || traced { (0, 1) } else { (1, 0) };
        assert_eq!(links, [(ids[first], method), (ids[second], method)]);
        assert_eq!(metrics.get(Counter::LinksOverruled), u64::from(traced));
        let trace = of(&out, Role::Server, "/first").trace_id.clone();
        assert_eq!(trace.as_deref(), traced.then_some("00000000000000000000000000000001"));
    }
}

#[test]
fn a_worker_that_was_handed_a_request_is_known_by_the_trace_id_alone() {
    let mut host = Host::new();
    let from = host.starts_afar(5, 40_000);
    let (made, _) = host.pair(5, 6, 40_002);
    host.asks(from, 50, IN, "/front", Some(7));
    host.asks(made, 51, OUT, "/back", Some(7));
    host.moved(made, 51, IN, ANSWER);
    host.asks(made, 51, OUT, "/untraced", None);
    host.moved(made, 51, IN, ANSWER);
    host.moved(from, 51, OUT, ANSWER);
    host.asks(made, 51, OUT, "/late", Some(7));
    host.moved(made, 51, IN, ANSWER);
    let (out, _) = host.end();
    let parent = id(of(&out, Role::Server, "/front"));
    assert_eq!(link(of(&out, Role::Client, "/back")), Some((parent, LinkMethod::Header)));
    assert_eq!(link(of(&out, Role::Client, "/untraced")), None);
    assert_eq!(link(of(&out, Role::Client, "/late")), None, "nothing is in flight any more");
    let calls = of(&out, Role::Server, "/front").causes.as_ref().unwrap().calls().unwrap();
    assert_eq!(calls.iter().map(|sum| sum.count).sum::<u64>(), 1);
}

/// As goroutines do: the answer to a call comes to another thread, which has served nothing, and that one goes on.
#[test]
fn what_goes_on_where_the_answer_to_a_call_came_is_for_the_same_request() {
    let mut host = Host::new();
    let from = host.starts_afar(5, 40_000);
    let (a, b) = (host.pair(5, 6, 40_002).0, host.pair(5, 6, 40_003).0);
    host.asks(from, 50, IN, "/front", None);
    host.asks(a, 50, OUT, "/one", None);
    host.moved(a, 51, IN, ANSWER);
    for path in ["/two", "/three"] {
        host.asks(a, 51, OUT, path, None);
        host.moved(a, 51, IN, ANSWER);
    }
    // Nobody knows what this one does.
    host.asks(b, 52, OUT, "/other", None);
    host.moved(b, 52, IN, ANSWER);
    host.moved(from, 51, OUT, ANSWER);
    host.asks(a, 51, OUT, "/late", None);
    host.moved(a, 51, IN, ANSWER);
    let (out, _) = host.end();
    let parent = id(of(&out, Role::Server, "/front"));
    for path in ["/one", "/two", "/three"] {
        assert_eq!(link(of(&out, Role::Client, path)), Some((parent, LinkMethod::Order)), "{path}");
    }
    for path in ["/other", "/late"] {
        assert_eq!(link(of(&out, Role::Client, path)), None, "{path}");
    }
}

#[test]
fn two_requests_with_one_trace_id_are_told_apart_by_their_threads_or_not_at_all() {
    let mut host = Host::new();
    let (first, second) = (host.starts_afar(5, 40_000), host.starts_afar(5, 40_001));
    let (a, b) = (host.pair(5, 6, 40_002).0, host.pair(5, 6, 40_003).0);
    host.asks(first, 50, IN, "/first", Some(7));
    host.asks(second, 51, IN, "/second", Some(7));
    host.asks(a, 50, OUT, "/for/first", Some(7));
    host.asks(b, 52, OUT, "/for/either", Some(7));
    let (out, _) = host.end();
    let parent = id(of(&out, Role::Server, "/first"));
    assert_eq!(link(of(&out, Role::Client, "/for/first")), Some((parent, LinkMethod::Order)));
    assert_eq!(link(of(&out, Role::Client, "/for/either")), None);
}

#[test]
fn what_a_goroutine_asks_is_for_what_it_has_received_whatever_threads_it_ran_on() {
    let mut host = Host::new();
    let (first, second) = (host.starts_afar(5, 40_000), host.starts_afar(5, 40_001));
    let [a, b, c] = [40_002, 40_003, 40_004].map(|port| host.pair(5, 6, port).0);
    host.by(7).asks(first, 50, IN, "/first", None);
    host.by(8).asks(second, 51, IN, "/second", None);
    host.by(7).asks(a, 51, OUT, "/for/first", None);
    host.by(8).asks(b, 52, OUT, "/for/second", None);
    host.by(9).asks(c, 50, OUT, "/for/either", None);
    host.by(9).moved(c, 50, IN, ANSWER);
    host.by(0).asks(c, 50, OUT, "/for/any", None);
    host.by(8).moved(b, 50, IN, ANSWER);
    host.by(7).moved(a, 50, IN, ANSWER);
    host.by(7).moved(first, 52, OUT, ANSWER);
    host.by(7).asks(a, 52, OUT, "/late", None);
    host.by(7).moved(a, 52, IN, ANSWER);
    // While a handler is at work another goroutine of net/http waits for one byte, which may be the next request's first.
    host.by(10).moved(first, 53, IN, "G");
    host.by(7).moved(first, 52, IN, &request("/again", None)[1..]);
    host.by(10).asks(b, 53, OUT, "/for/nobody", None);
    host.by(7).asks(a, 53, OUT, "/for/again", None);
    let (out, metrics) = host.end();
    let [first, second, again] = ["/first", "/second", "/again"].map(|path| id(of(&out, Role::Server, path)));
    let made = |path| link(of(&out, Role::Client, path));
    assert_eq!(made("/for/first"), Some((first, LinkMethod::Goroutine)));
    assert_eq!(made("/for/second"), Some((second, LinkMethod::Goroutine)));
    assert_eq!(made("/for/again"), Some((again, LinkMethod::Goroutine)));
    for path in ["/for/either", "/for/any", "/late", "/for/nobody"] {
        assert_ne!(made(path).map(|(_, method)| method), Some(LinkMethod::Goroutine), "{path}");
    }
    assert_eq!(metrics.get(Counter::AnatomyInconsistent), 0);
}

#[test]
fn a_trace_id_overrules_a_goroutine() {
    let mut host = Host::new();
    let (first, second) = (host.starts_afar(5, 40_000), host.starts_afar(5, 40_001));
    let a = host.pair(5, 6, 40_002).0;
    host.by(7).asks(first, 50, IN, "/first", Some(1));
    host.by(8).asks(second, 51, IN, "/second", Some(2));
    host.by(8).asks(a, 51, OUT, "/back", Some(1));
    let (out, metrics) = host.end();
    let first = id(of(&out, Role::Server, "/first"));
    assert_eq!(link(of(&out, Role::Client, "/back")), Some((first, LinkMethod::Header)));
    let counters = [Counter::LinksOverruled, Counter::LinksContradicted];
    assert_eq!(counters.map(|counter| metrics.get(counter)), [1, 1]);
}

/// A frame of HTTP/2: its type, flags, stream.
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let head = [0, 0, payload.len() as u8, kind, flags, 0, 0, 0, stream];
    [&head[..], payload].concat()
}

#[test]
fn a_goroutine_that_reads_for_many_is_nobodys() {
    const GET: [u8; 3] = [0x82, 0x84, 0x86];
    // A loop, one connection with several requests, and streams beside each other.
    for case in 0..3 {
        let mut host = Host::new();
        let (first, second) = (host.starts_afar(5, 40_000), host.starts_afar(5, 40_001));
        let a = host.pair(5, 6, 40_002).0;
        host.by(7);
        match case {
            0 => {
                host.asks(first, 50, IN, "/first", None);
                host.asks(second, 50, IN, "/second", None);
                host.moved(second, 50, OUT, ANSWER);
            }
            1 => host.moved(first, 50, IN, request("/first", None) + &request("/second", None)),
            _ => {
                let preface = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(4, 0, 0, &[])].concat();
                host.moved(first, 50, IN, preface);
                host.moved(first, 50, IN, frame(1, 5, 1, &GET));
            }
        }
        host.asks(a, 51, OUT, "/back", None);
        let (out, _) = host.end();
        assert!(out.iter().any(|one| one.role == Role::Server), "{case}: {out:#?}");
        let method = link(of(&out, Role::Client, "/back")).map(|(_, method)| method);
        assert_ne!(method, Some(LinkMethod::Goroutine), "{case}");
    }
}

/// Requests between three processes, over connections of which both ends, one or none are seen, with and without ids, in any order.
fn anything() -> impl Strategy<Value = Host> {
    let step = (0..8_u32, 0..4_usize, 50..53_u32, any::<bool>(), prop::option::of(0..3_u32));
    prop::collection::vec(step, 1..80).prop_map(|steps| {
        let mut host = Host::new();
        let mut pairs: Vec<(usize, usize)> =
            (0..4).map(|i| host.pair([5, 5, 6, 7][i], [6, 6, 7, 5][i], 40_000 + i as u16)).collect();
        let mut asked = [false; 4];
        for (i, (what, at, tid, is_lost, trace)) in steps.into_iter().enumerate() {
            let (made, served) = pairs[at];
            // Some of them in programs of Go.
            host.goroutine = if is_lost { 0 } else { tid % 2 + 1 };
            match what {
                0..3 if !asked[at] => {
                    asked[at] = true;
                    let bytes = request(&format!("/{i}"), trace);
                    let event = host.data(made, tid, OUT, bytes.as_bytes());
                    host.events.extend((!is_lost || what > 0).then_some(event));
                    host.moved(served, tid + 10, IN, &bytes);
                }
                3..7 if asked[at] => {
                    asked[at] = false;
                    host.moved(served, tid + 10, OUT, ANSWER);
                    let event = host.data(made, tid, IN, ANSWER.as_bytes());
                    host.events.extend((!is_lost || what > 3).then_some(event));
                }
                7 => {
                    host.close(if is_lost { made } else { served });
                    if is_lost {
                        host.close(served);
                    }
                    asked[at] = false;
                    pairs[at] = host.pair([5, 5, 6, 7][at], [6, 6, 7, 5][at], 40_000 + at as u16 + i as u16);
                }
                _ => {}
            }
        }
        host
    })
}

proptest! {
    #[test]
    fn the_end_of_a_connection_is_never_taken_for_another_and_a_checkpoint_changes_nothing(
        host in anything(),
        cuts in prop::collection::vec(0..160_usize, 0..6),
    ) {
        let (whole, _) = through(&host.events, &[]);
        let (cut, _) = through(&host.events, &cuts);
        prop_assert_eq!(&whole, &cut);
        for one in &whole {
            let Some((parent, LinkMethod::Socket)) = link(one) else { continue };
            let parent = whole.iter().find(|other| id(other) == parent).unwrap();
            prop_assert_eq!(&parent.target, &one.target);
            prop_assert_eq!((parent.role, one.role), (Role::Client, Role::Server));
        }
    }
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.events.fmt(f)
    }
}
