//! The clear text of TLS connections: what the kernel would report of both connections, the one on the wire and the one inside of it, told as a
//! story, and what the pipeline makes of it.

use std::sync::Arc;

use bytes::Bytes;
use tracer_ebpf as abi;
use tracer_user::{
    event::{
        ConnClose, ConnId, ConnOpen, Counters, Data, DecodeError, Direction, Event, EventBatch, Role,
        TlsOpen, decode, tls_library,
    },
    metrics::{Counter, Metrics},
    pipeline::{LostRequests, Pipeline, PipelineConfig, Snapshot},
    protocol::{Flow, TlsFacts},
    time::{Anchor, BootTime, WallTime},
    transaction::{Confidence, End, Kind, Transaction, Unpaired},
};
use zerocopy::IntoBytes as _;

use crate::{
    captures::{Line, captures, parse},
    cases::{GET, IN, MS, OK, OUT, Verdicts},
    conversation::tls::{NAME, client_hello, record, server_hello},
};

mod kept;
mod kernel;
mod lists;
mod protocols;

const WIRE: ConnId = ConnId(0x4000);
const CLEAR: ConnId = ConnId(0x4040);
/// Between two happenings: a story takes many times as long as events wait for earlier ones.
const STEP: u64 = 5 * MS;

/// One of the two connections, as the kernel numbers it.
#[derive(Clone)]
struct Side {
    conn: ConnId,
    positions: [u64; 2],
    turn: u32,
    speaking: Option<Direction>,
}

impl Side {
    fn new(conn: ConnId, from: u64) -> Side {
        Side { conn, positions: [from; 2], turn: 0, speaking: None }
    }

    fn data(&mut self, now: u64, direction: Direction, bytes: &[u8]) -> Data {
        let turn_start = self.speaking != Some(direction);
        self.turn += u32::from(turn_start);
        self.speaking = Some(direction);
        let position = self.positions[direction.index()];
        self.positions[direction.index()] += bytes.len() as u64;
        let egress = if direction == OUT { abi::FLAG_EGRESS } else { 0 };
        Data {
            time: BootTime(now),
            first: BootTime(now - MS / 2),
            conn: self.conn,
            position,
            bytes: bytes.len() as u64,
            turn: self.turn,
            flags: egress | if turn_start { abi::FLAG_TURN_START } else { 0 },
            pid: 5,
            tid: 6,
            n_calls: 1,
            comm: *b"worker\0\0\0\0\0\0\0\0\0\0",
            payload: bytes.to_vec().into(),
            ..Data::default()
        }
    }

    fn close(&self, now: u64, reason: u32) -> Event {
        Event::ConnClose(ConnClose {
            time: BootTime(now),
            conn: self.conn,
            position: self.positions,
            turn: self.turn,
            reason,
            ..ConnClose::default()
        })
    }
}

/// What happens, as events.
#[derive(Clone)]
struct Story {
    role: Role,
    wire: Side,
    clear: Side,
    now: u64,
    events: Vec<Event>,
}

impl Story {
    fn new(role: Role) -> Story {
        let anchor = Anchor { boot: BootTime(0), wall: WallTime(0) };
        Story {
            role,
            wire: Side::new(WIRE, 1 << 33),
            clear: Side::new(CLEAR, 0),
            now: 1_000 * MS,
            events: vec![Event::Anchor(anchor)],
        }
    }

    /// The connection on the wire is established.
    fn open(mut self, flags: u16) -> Story {
        let mut tuple = abi::Tuple { family: abi::FAMILY_INET, ..abi::Tuple::default() };
        tuple.local[..4].copy_from_slice(&[10, 0, 0, 1]);
        tuple.remote[..4].copy_from_slice(&[10, 0, 0, 2]);
        (tuple.local_port, tuple.remote_port) =
            if self.role == Role::Client { (40_000, 443) } else { (443, 40_000) };
        self.events.push(Event::ConnOpen(ConnOpen {
            time: BootTime(self.now),
            conn: self.wire.conn,
            role: self.role,
            tuple,
            flags,
            pid: 5,
            ..ConnOpen::default()
        }));
        self
    }

    fn direction(&self, flow: Flow) -> Direction {
        if (flow == Flow::Request) == (self.role == Role::Client) { OUT } else { IN }
    }

    /// Bytes on the wire.
    fn wire(mut self, flow: Flow, bytes: &[u8]) -> Story {
        self.now += STEP;
        let direction = self.direction(flow);
        let data = self.wire.data(self.now, direction, bytes);
        self.events.push(Event::Data(data));
        self
    }

    /// The same, of which only the length is told.
    fn wire_length(self, flow: Flow, n: usize) -> Story {
        let mut story = self.wire(flow, &vec![0; n]);
        if let Some(Event::Data(data)) = story.events.last_mut() {
            data.payload = Default::default();
        }
        story
    }

    /// Bytes of the clear text, which are on the wire as well: before the library's call has sent them, behind what it has received.
    fn clear(self, flow: Flow, bytes: &[u8]) -> Story {
        self.wire(flow, &record(23, &vec![7; bytes.len() + 17])).only_clear(flow, bytes)
    }

    /// Those that the library gave out, of what it had received before.
    fn only_clear(mut self, flow: Flow, bytes: &[u8]) -> Story {
        self.now += STEP;
        let direction = self.direction(flow);
        let data = self.clear.data(self.now, direction, bytes);
        self.events.push(Event::Data(data));
        self
    }

    /// The last event never comes.
    fn lost(mut self) -> Story {
        self.events.pop();
        self
    }

    fn tls_open(self) -> Story {
        self.tls_open_as(abi::TLS_OPENSSL, abi::TLS_LINK_NESTED, 0)
    }

    fn tls_open_as(mut self, library: u16, link: u16, flags: u16) -> Story {
        self.now += STEP;
        let (conn, carrier) = (self.clear.conn, self.wire.conn);
        let time = BootTime(self.now);
        self.events.push(Event::TlsOpen(TlsOpen { time, conn, carrier, pid: 5, library, link, flags }));
        self
    }

    /// The hellos, and the server's answer to the first.
    fn hellos(self) -> Story {
        let (hello, _) = client_hello(Some(NAME), &[1; 20], &[2; 200], &[3; 32], 2000);
        let answer = server_hello(Some(0x0304), None, &[], &[3; 32], 2000);
        let answer = [answer, record(20, &[1]), record(23, &[9; 900])].concat();
        self.wire(Flow::Request, &hello).wire(Flow::Response, &answer)
    }

    /// The handshake of TLS 1.3. Where the process is the server, its tickets come before the first request is given out.
    fn handshake(self) -> Story {
        let finished = [record(20, &[1]), record(23, &[9; 53])].concat();
        let story = self.hellos().wire(Flow::Request, &finished);
        if story.role == Role::Server { story.wire(Flow::Response, &record(23, &[9; 250])) } else { story }
    }

    /// Its first request: the clear text comes into sight when it has been sent, or received.
    fn first(self, bytes: &[u8]) -> Story {
        let story = match self.role {
            Role::Client => self.wire(Flow::Request, &record(23, &vec![7; bytes.len() + 17])),
            // It came with the end of the handshake.
            _ => self,
        };
        story.tls_open().only_clear(Flow::Request, bytes)
    }

    fn exchange(self) -> Story {
        self.clear(Flow::Request, GET.as_bytes()).clear(Flow::Response, OK.as_bytes())
    }

    /// Both end. The clear text first, in the same instant.
    fn close(self, reason: u32) -> Story {
        let wire_only = self.close_wire(reason);
        let mut story = wire_only;
        let at = story.events.len() - 1;
        story.events.insert(at, story.clear.close(story.now, reason));
        story
    }

    fn close_wire(mut self, reason: u32) -> Story {
        self.now += MS;
        self.events.push(self.wire.close(self.now, reason));
        self
    }

    fn wait(mut self, ms: u64) -> Story {
        self.now += ms * MS;
        self.events.push(Event::Tick(BootTime(self.now)));
        self
    }

    /// The kernel has lost so many records.
    fn refused(mut self, n: u64) -> Story {
        self.now += MS;
        let values = vec![("kernel.refused_data".into(), n)];
        self.events.push(Event::Counters(Counters { time: BootTime(self.now), values }));
        self
    }

    /// A client's or server's HTTPS connection with so many requests.
    fn https(role: Role, n: usize) -> Story {
        let story = Story::new(role).open(0).handshake().first(GET.as_bytes());
        (1..n).fold(story.clear(Flow::Response, OK.as_bytes()), |story, _| story.exchange())
    }

    fn run(&self) -> Run {
        Run::of(&self.events, config())
    }
}

fn config() -> PipelineConfig {
    PipelineConfig { list_connections: true, ..PipelineConfig::default() }
}

/// What came of a story.
struct Run {
    transactions: Vec<Transaction>,
    snapshot: Snapshot,
    metrics: Metrics,
    verdicts: Vec<abi::Verdict>,
}

impl Run {
    #[track_caller]
    fn of(events: &[Event], config: PipelineConfig) -> Run {
        let (metrics, verdicts) = (Metrics::default(), Verdicts::default());
        let mut pipeline = Pipeline::new(config, metrics.clone(), Box::new(verdicts.clone()));
        let mut transactions = Vec::new();
        for event in events {
            pipeline.push(event);
            transactions.extend(pipeline.drain().transactions);
            let Snapshot { n_open, n_long_lived, n_waiting, n_unended, .. } = pipeline.snapshot();
            let left = metrics.get(Counter::Transactions) + metrics.get(Counter::Carried);
            assert_eq!(
                metrics.get(Counter::RequestsSeen),
                left + n_unended + n_open + n_long_lived + n_waiting,
                "requests seen = transactions + open + carried, at every instant"
            );
        }
        transactions.extend(pipeline.finish().transactions);
        let verdicts = std::mem::take(&mut *verdicts.0.lock().unwrap());
        Run { transactions, snapshot: pipeline.snapshot(), metrics, verdicts }
    }

    /// Those of the clear text.
    fn inside(&self) -> Vec<&Transaction> {
        self.transactions.iter().filter(|one| one.carrier.is_some()).collect()
    }

    /// Those of the wire.
    fn outside(&self) -> Vec<&Transaction> {
        self.transactions.iter().filter(|one| one.carrier.is_none()).collect()
    }

    /// Nothing is called lost, and nothing has no pair.
    #[track_caller]
    fn lost_nothing(&self) {
        assert_eq!(self.snapshot.lost_requests, LostRequests::default());
        assert!(self.snapshot.unpaired.iter().all(|(_, n)| *n == 0), "{:?}", self.snapshot.unpaired);
        for (counter, n) in self.metrics.all() {
            assert!(n == 0 || !counter.name().starts_with("lost."), "{}: {n}", counter.name());
        }
    }

    fn last_verdict(&self, conn: ConnId) -> Option<u32> {
        self.verdicts.iter().rev().find(|verdict| verdict.conn_id == conn.0).map(|verdict| verdict.mode)
    }
}

fn facts(library: Option<&'static str>) -> TlsFacts {
    TlsFacts {
        library: library.map(Into::into),
        version: Some("TLSv1.3".into()),
        sni: Some(NAME.into()),
        alpn: None,
    }
}

#[test]
fn a_connection_is_told_once_by_its_clear_text() {
    for role in [Role::Client, Role::Server] {
        let run = Story::https(role, 3).close(abi::CLOSE_NORMAL).run();
        run.lost_nothing();
        let (inside, outside) = (run.inside(), run.outside());
        assert_eq!(inside.len(), 3, "{role:?}");
        for (n, one) in inside.iter().enumerate() {
            assert_eq!(
                (one.protocol, &*one.operation, one.status_code),
                ("http1", "GET /user/{id}", Some(200))
            );
            assert_eq!(
                (one.end, one.confidence, one.kind),
                (End::Answered, Confidence::Complete, Kind::Request)
            );
            assert_eq!(
                (one.role, one.request_bytes, one.response_bytes),
                (role, GET.len() as u64, OK.len() as u64)
            );
            assert_eq!((one.server_port, one.client_port), (Some(443), Some(40_000)));
            assert_eq!((one.conn, one.carrier, one.ordinal), (CLEAR, Some(WIRE), n as u64));
            assert_eq!(one.tls.as_deref(), Some(&facts(Some("openssl"))));
        }
        let [handshake] = outside[..] else { panic!("{outside:#?}") };
        assert_eq!(
            (handshake.protocol, &*handshake.operation, handshake.end),
            ("tls", "TLS handshake", End::Answered)
        );
        assert_eq!(handshake.tls.as_deref(), Some(&facts(None)));
        assert_eq!(run.metrics.get(Counter::Carried), 1, "the turn that ended the handshake");
        assert_eq!(run.last_verdict(WIRE), Some(abi::VERDICT_LENGTHS));
        assert_eq!(run.last_verdict(CLEAR), None, "as HTTP/1 is captured anyway");
    }
}

#[test]
fn what_is_on_the_wire_behind_the_clear_text_means_nothing() {
    // As the kernel tells it then: lengths, and whatever comes.
    let mut story = Story::https(Role::Client, 2);
    for n in [30, 5000, 70_000] {
        story = story.wire_length(Flow::Request, n).wire_length(Flow::Response, 2 * n).wait(600);
    }
    let story = story.wire(Flow::Request, &record(21, &[9; 19])).wire(Flow::Response, &record(21, &[9; 19]));
    let run = story.close(abi::CLOSE_RESET).run();
    run.lost_nothing();
    assert_eq!((run.inside().len(), run.outside().len()), (2, 1), "{:#?}", run.transactions);
}

#[test]
fn a_request_in_flight_ends_as_its_connection_does() {
    for (reason, end) in
        [(abi::CLOSE_NORMAL, End::Closed), (abi::CLOSE_RESET, End::Reset), (abi::CLOSE_EXIT, End::Exited)]
    {
        let run = Story::https(Role::Client, 1).clear(Flow::Request, GET.as_bytes()).close(reason).run();
        let ends: Vec<End> = run.inside().iter().map(|one| one.end).collect();
        assert_eq!(ends, [End::Answered, end]);
        run.lost_nothing();
        assert_eq!(run.snapshot.n_conns, 0);
    }
}

#[test]
fn a_call_that_fails_on_the_wire_ends_what_is_in_flight_inside() {
    for (role, flow, end) in [
        (Role::Client, Flow::Response, End::Reset),
        // The answer may still come.
        (Role::Client, Flow::Request, End::Closed),
        (Role::Server, Flow::Response, End::Reset),
        (Role::Server, Flow::Request, End::Reset),
    ] {
        let mut story = Story::https(role, 1).clear(Flow::Request, GET.as_bytes());
        let (turn, speaking) = (story.wire.turn, story.wire.speaking);
        story = story.wire(flow, b"");
        (story.wire.turn, story.wire.speaking) = (turn, speaking);
        let failed = story.now;
        if let Some(Event::Data(data)) = story.events.last_mut() {
            data.turn = turn;
            data.flags = abi::FLAG_ERROR | (data.flags & abi::FLAG_EGRESS);
        }
        let run = story.wait(100).close(abi::CLOSE_NORMAL).run();
        let last = run.inside()[1];
        assert_eq!((last.end, last.end_time.0 == failed), (end, end == End::Reset), "{role:?} {flow:?}");
        run.lost_nothing();
    }
}

#[test]
fn without_its_own_end_a_clear_text_ends_with_its_carrier_and_how_is_not_known() {
    for reason in [abi::CLOSE_NORMAL, abi::CLOSE_RESET, abi::CLOSE_EXIT] {
        let story = Story::https(Role::Client, 1).clear(Flow::Request, GET.as_bytes()).close_wire(reason);
        let run = story.clone().wait(700).run();
        let ends: Vec<(End, Confidence)> = run.inside().iter().map(|one| (one.end, one.confidence)).collect();
        assert_eq!(ends, [(End::Answered, Confidence::Complete), (End::TracerStopped, Confidence::Gap)]);
        assert_eq!((run.snapshot.n_conns, run.snapshot.n_open), (0, 0));
        // What comes of it later makes no new connection.
        let mut story = story;
        story.now += MS;
        story.events.push(story.clear.close(story.now, abi::CLOSE_NORMAL));
        let run = story.run();
        assert_eq!((run.snapshot.n_conns, run.metrics.get(Counter::AfterClose)), (0, 1));
    }
}

#[test]
fn a_clear_text_whose_carrier_was_never_seen_is_not_lost() {
    let mut story = Story::new(Role::Client).tls_open();
    for _ in 0..3 {
        story = story.only_clear(Flow::Request, GET.as_bytes()).only_clear(Flow::Response, OK.as_bytes());
    }
    let run = story.clone().wait(600).run();
    assert_eq!(run.transactions.len(), 3);
    for one in &run.transactions {
        assert_eq!((one.end, one.carrier, &*one.server_addr), (End::Answered, Some(WIRE), ""));
        let library = Some(TlsFacts { library: Some("openssl".into()), ..TlsFacts::default() });
        assert_eq!(one.tls.as_deref(), library.as_ref());
    }
    assert_eq!(run.snapshot.lost_requests, LostRequests::default());
    // Then something of it comes, and means nothing; its open tells of the ends.
    let story = story.wire(Flow::Request, &record(23, &[7; 90])).wire(Flow::Response, &record(23, &[7; 90]));
    let run = story.open(abi::FLAG_MID_JOIN).exchange().close(abi::CLOSE_NORMAL).run();
    assert_eq!((run.inside().len(), run.outside().len()), (4, 0), "{:#?}", run.transactions);
    assert_eq!(run.inside()[3].server_port, Some(443));
    assert_eq!(run.snapshot.lost_requests, LostRequests::default());
}

#[test]
fn joined_in_the_middle_it_is_read_from_the_next_request_on() {
    for role in [Role::Client, Role::Server] {
        let story = Story::new(role).open(abi::FLAG_MID_JOIN);
        // The rest of an answer, of which the wire told before.
        let story = story.wire(Flow::Response, &record(23, &[7; 900]));
        let story = story.tls_open_as(abi::TLS_GO, abi::TLS_LINK_NESTED, abi::FLAG_MID_JOIN);
        // And all of one inside, to what was asked before.
        let answered = story.clone().only_clear(Flow::Response, OK.as_bytes()).exchange().run();
        let unpaired: Vec<_> = answered.snapshot.unpaired.iter().filter(|(_, n)| *n > 0).collect();
        assert_eq!(unpaired, [&(Unpaired::MidJoin, 1)]);
        let run = story
            .only_clear(Flow::Response, &[b'x'; 800])
            .exchange()
            .exchange()
            .close(abi::CLOSE_NORMAL)
            .run();
        let inside = run.inside();
        assert_eq!((inside.len(), run.outside().len()), (2, 0), "{role:?} {:#?}", run.transactions);
        for one in inside {
            assert_eq!((one.end, one.status_code), (End::Answered, Some(200)), "{one:#?}");
            let library = Some(TlsFacts { library: Some("go".into()), ..TlsFacts::default() });
            assert_eq!(one.tls.as_deref(), library.as_ref());
        }
        assert_eq!(run.snapshot.lost_requests.low, 0);
    }
}

#[test]
fn who_asks_on_the_wire_where_that_is_a_guess_says_nothing_of_who_asks_inside() {
    for role in [Role::Client, Role::Server] {
        let mut story = Story::new(role).open(abi::FLAG_MID_JOIN);
        if let Some(Event::ConnOpen(open)) = story.events.last_mut() {
            open.role = Role::Unknown;
        }
        let story =
            story.wire(Flow::Request, &record(23, &[7; 90])).wire(Flow::Response, &record(23, &[7; 90]));
        let story = story.tls_open_as(abi::TLS_OPENSSL, abi::TLS_LINK_NESTED, abi::FLAG_MID_JOIN);
        let run = story.exchange().close(abi::CLOSE_NORMAL).run();
        let inside = run.inside();
        assert_eq!((inside.len(), inside[0].role, inside[0].confidence), (1, role, Confidence::Guessed));
    }
}

#[test]
fn a_link_by_order_is_a_guess() {
    for (link, confidence) in [
        (abi::TLS_LINK_NESTED, Confidence::Complete),
        (abi::TLS_LINK_ORDER, Confidence::Guessed),
        (77, Confidence::Guessed),
    ] {
        let story = Story::new(Role::Server).open(0).handshake().tls_open_as(abi::TLS_GNUTLS, link, 0);
        let story = story.only_clear(Flow::Request, GET.as_bytes()).clear(Flow::Response, OK.as_bytes());
        let story = story.clear(Flow::Request, GET.as_bytes()).wait(1);
        let metrics = Metrics::default();
        let mut pipeline = Pipeline::new(config(), metrics, Box::new(Verdicts::default()));
        story.events.iter().for_each(|event| pipeline.push(event));
        pipeline.settle();
        let open = &pipeline.snapshot().open;
        assert_eq!((open.len(), open[0].confidence, open[0].carrier), (1, confidence, Some(WIRE)));
        assert_eq!(open[0].tls.as_ref().unwrap().library.as_deref(), Some("gnutls"));
        assert_eq!(open[0].so_far().on_wire(), WIRE);
        let run = story.close(abi::CLOSE_NORMAL).run();
        assert_eq!(run.inside()[0].confidence, confidence);
        assert_eq!(run.outside()[0].confidence, Confidence::Complete, "the wire is what it is");
    }
}

#[test]
fn only_what_is_lost_of_the_clear_text_is_a_lost_request() {
    let bytes = record(23, &[7; 90]);
    // A turn of the wire is missing.
    let story = Story::https(Role::Server, 2).wire(Flow::Request, &bytes).lost();
    let story =
        story.only_clear(Flow::Request, GET.as_bytes()).clear(Flow::Response, OK.as_bytes()).exchange();
    let run = story.refused(1).close(abi::CLOSE_NORMAL).run();
    assert_eq!((run.inside().len(), run.outside().len()), (4, 1));
    assert_eq!(run.snapshot.lost_requests.low, 0);
    assert!(run.inside().iter().all(|one| one.confidence == Confidence::Complete));
    // A request of the clear text is missing.
    let story = Story::https(Role::Server, 2).clear(Flow::Request, GET.as_bytes()).lost();
    let run = story.clear(Flow::Response, OK.as_bytes()).exchange().refused(1).close(abi::CLOSE_NORMAL).run();
    assert_eq!(run.inside().len(), 3);
    assert_eq!(run.snapshot.lost_requests, LostRequests { low: 1, high: 1 });
}

#[test]
fn facts_that_come_later_are_those_of_the_clear_text_too() {
    // With early data the first request is sent before the server has said anything.
    let (hello, _) = client_hello(Some(NAME), &[1; 20], &[2; 200], &[3; 32], 2000);
    let early = record(23, &vec![7; GET.len() + 17]);
    let story = Story::new(Role::Client).open(0).wire(Flow::Request, &[hello, early].concat());
    let story = story.tls_open().only_clear(Flow::Request, GET.as_bytes());
    let run = story.clone().wait(30).run();
    assert_eq!(run.last_verdict(WIRE), None, "what the server chooses is yet to come: heads, as before");
    let answer = server_hello(Some(0x0304), None, &[], &[3; 32], 2000);
    let story = story.wire(Flow::Response, &answer).only_clear(Flow::Response, OK.as_bytes());
    let run = story.exchange().close(abi::CLOSE_NORMAL).run();
    run.lost_nothing();
    assert_eq!((run.inside().len(), run.outside().len()), (2, 0));
    assert!(run.inside().iter().all(|one| one.tls.as_deref() == Some(&facts(Some("openssl")))));
    assert_eq!(run.last_verdict(WIRE), Some(abi::VERDICT_LENGTHS));
}

#[test]
fn a_record_of_the_ring_is_what_it_says() {
    let raw = abi::TlsOpen {
        header: abi::Header { time_ns: 12, kind: abi::KIND_TLS_OPEN, flags: abi::FLAG_MID_JOIN, length: 40 },
        conn_id: CLEAR.0,
        carrier: WIRE.0,
        pid: 9,
        library: abi::TLS_RUSTLS,
        link: abi::TLS_LINK_ORDER,
    };
    let bytes = Bytes::copy_from_slice(raw.as_bytes());
    let want = TlsOpen {
        time: BootTime(12),
        conn: CLEAR,
        carrier: WIRE,
        pid: 9,
        library: abi::TLS_RUSTLS,
        link: abi::TLS_LINK_ORDER,
        flags: abi::FLAG_MID_JOIN,
    };
    assert_eq!(decode(&bytes).unwrap(), Event::TlsOpen(want));
    for n in 0..bytes.len() {
        assert!(matches!(decode(&bytes.slice(..n)), Err(DecodeError::Short { .. })), "{n} bytes");
    }
    let names = [1, 2, 3, 4, 5, 6, 7].map(tls_library);
    assert_eq!(names, ["openssl", "boringssl", "gnutls", "nss", "go", "rustls", "unknown"]);
}
