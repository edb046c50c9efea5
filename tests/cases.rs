//! Single cases through the whole pipeline, written as what the kernel would report.

use std::sync::{Arc, Mutex};

use tracer_ebpf as abi;
use tracer_user::{
    event::{ConnClose, ConnId, ConnOpen, ConnShut, Counters, Data, Direction, Event, Listening, Role},
    metrics::{Counter, Metrics},
    pipeline::{LostRequests, Pipeline, PipelineConfig, VerdictSink},
    time::{Anchor, BootTime, WallTime},
    transaction::{Confidence, End, Kind, TimeBasis, Transaction, Unpaired},
};

pub const MS: u64 = 1_000_000;
pub const IN: Direction = Direction::Ingress;
pub const OUT: Direction = Direction::Egress;

#[derive(Clone, Default)]
pub struct Verdicts(pub Arc<Mutex<Vec<abi::Verdict>>>);

impl VerdictSink for Verdicts {
    fn set(&mut self, _: ConnId, verdict: abi::Verdict) {
        self.0.lock().unwrap().push(verdict);
    }
}

/// One connection, as a script.
pub struct Script {
    pub pipeline: Pipeline,
    pub metrics: Metrics,
    pub verdicts: Verdicts,
    pub conn: ConnId,
    pub positions: [u64; 2],
    pub turn: u32,
    pub speaking: Option<Direction>,
    pub now: u64,
}

impl Script {
    pub fn new(config: PipelineConfig) -> Script {
        let (metrics, verdicts) = (Metrics::default(), Verdicts::default());
        let mut pipeline = Pipeline::new(config, metrics.clone(), Box::new(verdicts.clone()));
        pipeline.push(&Event::Anchor(Anchor { boot: BootTime(0), wall: WallTime(0) }));
        Script {
            pipeline,
            metrics,
            verdicts,
            conn: ConnId(7),
            positions: [1 << 33, 1 << 34],
            turn: 0,
            speaking: None,
            now: 1_000 * MS,
        }
    }

    pub fn server() -> Script {
        Script::new(PipelineConfig::default()).open(Role::Server, 0)
    }

    pub fn client() -> Script {
        Script::new(PipelineConfig::default()).open(Role::Client, 0)
    }

    pub fn open(mut self, role: Role, flags: u16) -> Script {
        let mut tuple = abi::Tuple { family: abi::FAMILY_INET, ..abi::Tuple::default() };
        tuple.local[..4].copy_from_slice(&[10, 0, 0, 1]);
        tuple.remote[..4].copy_from_slice(&[10, 0, 0, 2]);
        (tuple.local_port, tuple.remote_port) = (80, 40_000);
        let open = ConnOpen {
            time: BootTime(self.now),
            conn: self.conn,
            role,
            tuple,
            flags,
            pid: 5,
            ..ConnOpen::default()
        };
        self.pipeline.push(&Event::ConnOpen(open));
        self
    }

    /// The event of a call that moves `bytes`, of which `captured` are copied, 1 ms after the last one.
    pub fn data(&mut self, direction: Direction, bytes: &[u8], captured: usize) -> Data {
        self.now += MS;
        let turn_start = self.speaking != Some(direction);
        if turn_start {
            self.speaking = Some(direction);
            self.turn += 1;
        }
        let position = self.positions[direction.index()];
        self.positions[direction.index()] += bytes.len() as u64;
        let mut flags = if direction == OUT { abi::FLAG_EGRESS } else { 0 };
        flags |= if turn_start { abi::FLAG_TURN_START } else { 0 };
        Data {
            time: BootTime(self.now),
            first: BootTime(self.now - MS / 2),
            conn: self.conn,
            position,
            bytes: bytes.len() as u64,
            turn: self.turn,
            flags,
            pid: 5,
            tid: 6,
            n_calls: 1,
            comm: *b"worker\0\0\0\0\0\0\0\0\0\0",
            payload: bytes[..captured.min(bytes.len())].to_vec().into(),
            ..Data::default()
        }
    }

    pub fn push(mut self, data: Data) -> Script {
        self.pipeline.push(&Event::Data(data));
        self
    }

    pub fn call(mut self, direction: Direction, bytes: &str) -> Script {
        let data = self.data(direction, bytes.as_bytes(), usize::MAX);
        self.push(data)
    }

    pub fn cut(mut self, direction: Direction, bytes: &str, captured: usize) -> Script {
        let data = self.data(direction, bytes.as_bytes(), captured);
        self.push(data)
    }

    pub fn lose(mut self, direction: Direction, bytes: &str) -> Script {
        self.data(direction, bytes.as_bytes(), 0);
        self
    }

    /// The bytes move and no probe runs: no record, and no turn of theirs.
    pub fn unseen(mut self, direction: Direction, bytes: &str) -> Script {
        self.now += MS;
        self.positions[direction.index()] += bytes.len() as u64;
        self
    }

    /// A call behind bytes that were [`Script::unseen`], as the kernel tells it.
    pub fn jump(mut self, direction: Direction, bytes: &str) -> Script {
        let mut data = self.data(direction, bytes.as_bytes(), usize::MAX);
        data.flags |= abi::FLAG_JUMP;
        self.push(data)
    }

    /// A call that fails with a connection error.
    pub fn fail(mut self, direction: Direction) -> Script {
        let (positions, turn, speaking) = (self.positions, self.turn, self.speaking);
        let mut data = self.data(direction, b"", 0);
        (self.positions, self.turn, self.speaking) = (positions, turn, speaking);
        data.flags = abi::FLAG_ERROR | if direction == OUT { abi::FLAG_EGRESS } else { 0 };
        data.turn = turn;
        self.push(data)
    }

    pub fn shut(mut self, direction: Direction) -> Script {
        self.now += MS;
        let shut = ConnShut { time: BootTime(self.now), conn: self.conn, direction };
        self.pipeline.push(&Event::ConnShut(shut));
        self
    }

    pub fn close(mut self, reason: u32) -> Script {
        self.now += MS;
        let close = ConnClose {
            time: BootTime(self.now),
            conn: self.conn,
            position: self.positions,
            turn: self.turn,
            reason,
            ..ConnClose::default()
        };
        self.pipeline.push(&Event::ConnClose(close));
        self
    }

    pub fn wait(mut self, ms: u64) -> Script {
        self.now += ms * MS;
        self.pipeline.push(&Event::Tick(BootTime(self.now)));
        self
    }

    pub fn end(mut self) -> (Vec<Transaction>, Script) {
        let transactions = self.pipeline.finish().transactions;
        (transactions, self)
    }

    #[track_caller]
    pub fn one(self) -> Transaction {
        let (mut transactions, _) = self.end();
        assert_eq!(transactions.len(), 1, "{transactions:#?}");
        transactions.remove(0)
    }

    pub fn unpaired(&self) -> Vec<(Unpaired, u64)> {
        self.pipeline.snapshot().unpaired.into_iter().filter(|(_, n)| *n > 0).collect()
    }
}

pub const GET: &str = "GET /user/1 HTTP/1.1\r\nHost: a\r\n\r\n";
pub const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";

#[test]
fn the_times_of_a_servers_transaction_are_those_of_its_calls() {
    let mut script = Script::server();
    let mut ask = script.data(IN, GET.as_bytes(), usize::MAX);
    ask.arrival = BootTime(ask.time.0 - 300);
    let asked = ask.time.0;
    let transaction = script.push(ask).wait(9).call(OUT, OK).one();
    assert_eq!(transaction.start_time, WallTime(asked));
    assert_eq!(transaction.request_end, Some(WallTime(asked)));
    assert_eq!(transaction.response_start, Some(WallTime(asked + 10 * MS - MS / 2)), "entry of the send");
    assert_eq!(transaction.end_time, WallTime(asked + 10 * MS));
    assert_eq!((transaction.duration_ns, transaction.ttfb_ns), (10 * MS as i64, Some(10 * MS - MS / 2)));
    assert_eq!((transaction.queue_ns, transaction.time_basis), (Some(300), TimeBasis::EntryExit));
    assert_eq!((&*transaction.client_addr, transaction.client_port), ("10.0.0.2", Some(40_000)));
    assert_eq!((&*transaction.server_addr, transaction.server_port), ("10.0.0.1", Some(80)));
    assert_eq!((transaction.request_bytes, transaction.response_bytes), (GET.len() as u64, OK.len() as u64));
    assert_eq!((transaction.confidence, transaction.end), (Confidence::Complete, End::Answered));
    assert_eq!((transaction.pid, transaction.tid, &*transaction.comm), (5, 6, "worker"));
    assert_eq!((&*transaction.operation, transaction.status_code), ("GET /user/{id}", Some(200)));
}

#[test]
fn a_call_that_fails_resets_what_was_not_answered_and_not_what_may_have_been() {
    let reset = Script::server().call(IN, GET).fail(OUT).close(abi::CLOSE_NORMAL).one();
    assert_eq!((reset.end, reset.confidence), (End::Reset, Confidence::Complete));
    let lost = Script::server().call(IN, GET).lose(OUT, OK).fail(IN).close(abi::CLOSE_NORMAL).one();
    assert_eq!((lost.end, lost.confidence), (End::TracerStopped, Confidence::Gap));
}

#[test]
fn a_clients_transaction_begins_when_the_send_is_entered() {
    let transaction = Script::client().call(OUT, GET).call(IN, OK).one();
    assert_eq!(transaction.duration_ns, MS as i64 + MS as i64 / 2);
    assert_eq!((transaction.role, &*transaction.server_addr), (Role::Client, "10.0.0.2"));
}

#[test]
fn an_answer_stamped_before_its_question_waits_for_it() {
    let mut script = Script::client();
    // The peer answers before the sending thread comes back from its call: the kernel numbers them in that order.
    let answer = script.data(IN, OK.as_bytes(), usize::MAX);
    let mut ask = script.data(OUT, GET.as_bytes(), usize::MAX);
    // Another thread than the one that reads; when it began to send is not known.
    (ask.first, ask.tid) = (BootTime(0), 7);
    let transaction = script.push(answer).push(ask).one();
    assert_eq!((transaction.end, transaction.status_code), (End::Answered, Some(200)));
}

#[test]
fn a_body_that_was_never_copied_ends_with_its_last_byte() {
    let body = "x".repeat(100_000);
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n";
    let transaction = Script::server()
        .call(IN, GET)
        .cut(OUT, &format!("{head}{body}"), 4096)
        .cut(OUT, &body, 0)
        .wait(50)
        .cut(OUT, &body, 0)
        .one();
    assert_eq!((transaction.end, transaction.confidence), (End::Answered, Confidence::Complete));
    assert_eq!(transaction.response_bytes, head.len() as u64 + 300_000);
    assert_eq!(transaction.duration_ns, 53 * MS as i64);
}

#[test]
fn a_hole_inside_a_body_costs_no_end_and_a_hole_at_its_end_does() {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\n";
    let script = Script::server().call(IN, GET).call(OUT, head).lose(OUT, "0123456789");
    let transaction = script.call(OUT, "01234567890123456789").close(abi::CLOSE_NORMAL).one();
    assert_eq!((transaction.end, transaction.confidence), (End::Answered, Confidence::Gap));

    let script = Script::server().call(IN, GET).call(OUT, head).lose(OUT, "012345678901234567890123456789");
    let transaction = script.close(abi::CLOSE_NORMAL).one();
    assert_eq!((transaction.end, transaction.confidence), (End::TracerStopped, Confidence::Gap));
    assert!(!transaction.is_measured() && !transaction.is_finished());
}

#[test]
fn a_chunked_answer_beyond_the_budget_ends_with_its_turn() {
    let body = "x".repeat(9_000);
    let answer =
        format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1000\r\n{}\r\n{body}", &body[..4096]);
    let script = Script::server().call(IN, GET).cut(OUT, &answer, 4096).cut(OUT, &body, 0);
    let verdicts = script.verdicts.clone();
    let (transactions, _) = script.call(IN, GET).call(OUT, OK).end();
    assert_eq!(transactions.len(), 2);
    assert_eq!((transactions[0].end, transactions[0].confidence), (End::Answered, Confidence::Gap));
    assert_eq!(transactions[0].duration_ns, 2 * MS as i64);
    assert_eq!(transactions[0].response_bytes, answer.len() as u64 + 9_000);
    assert_eq!((transactions[1].end, transactions[1].confidence), (End::Answered, Confidence::Complete));
    assert_eq!(verdicts.0.lock().unwrap()[0].mode, abi::VERDICT_EVERYTHING);
}

/// MySQL's results do not say how long they are. What comes before the kernel copies all bytes of a connection:
#[test]
fn a_result_beyond_the_budget_is_a_gap_and_the_next_one_is_whole() {
    let result = |n_rows: u8| {
        let mut packets =
            vec![b"\x01".to_vec(), b"\x03def\0\0\0\x01c\0\x0c!\0\x1e\0\0\0\xfd\0\0\0\0\0".to_vec()];
        packets.push(b"\xfe\0\0\x02\0".to_vec());
        packets.extend((0..n_rows).map(|n| [&[120][..], &[b'a' + n % 26; 120]].concat()));
        packets.push(b"\xfe\0\0\x02\0".to_vec());
        let framed = |(at, packet): (usize, &Vec<u8>)| {
            [&[packet.len() as u8, 0, 0, at as u8 + 1][..], packet].concat()
        };
        packets.iter().enumerate().flat_map(framed).collect::<Vec<u8>>()
    };
    let ask = "\x11\0\0\0\x03select c from t;";
    let (long, short) = (result(100), result(3));
    for captured in [4096, 4100] {
        let mut script = Script::server().call(IN, ask);
        let data = script.data(OUT, &long, captured);
        let mut script = script.push(data).call(IN, ask);
        let data = script.data(OUT, &short, usize::MAX);
        let (transactions, script) = script.push(data).end();
        let told: Vec<_> = transactions.iter().map(|one| (one.end, one.confidence, one.rows)).collect();
        let (first, second) = (Confidence::Gap, Confidence::Complete);
        assert_eq!(told, [(End::Answered, first, None), (End::Answered, second, Some(3))], "{captured}");
        let bytes: Vec<_> = transactions.iter().map(|one| one.response_bytes).collect();
        assert_eq!(bytes, [long.len() as u64, short.len() as u64]);
        assert_eq!(script.metrics.get(Counter::ParserGap), 1);
        assert_eq!(script.verdicts.0.lock().unwrap()[0].mode, abi::VERDICT_EVERYTHING);
    }
}

#[test]
fn how_a_connection_ends_is_how_its_request_ends() {
    for (reason, end, error) in [
        (abi::CLOSE_NORMAL, End::Closed, "connection_closed"),
        (abi::CLOSE_RESET, End::Reset, "connection_reset"),
        (abi::CLOSE_EXIT, End::Exited, "process_exited"),
    ] {
        let transaction = Script::server().call(IN, GET).close(reason).one();
        assert_eq!((transaction.end, transaction.error_type.as_deref()), (end, Some(error)));
        assert_eq!((transaction.status_code, transaction.response_start), (None, None));
        assert!(transaction.is_finished() && !transaction.is_measured());
    }
}

#[test]
fn a_request_without_an_answer_is_stuck_and_a_late_answer_is_unpaired() {
    let script = Script::server().call(IN, GET).wait(300_000).wait(600).call(OUT, OK).call(IN, GET);
    let (transactions, script) = script.call(OUT, OK).end();
    assert_eq!(transactions[0].end, End::Stuck);
    assert_eq!(transactions[0].duration_ns, 300_000 * MS as i64);
    assert_eq!((transactions[1].end, transactions[1].ordinal), (End::Answered, 1));
    assert_eq!(script.unpaired(), [(Unpaired::Late, 1)]);
}

#[test]
fn a_tunnel_is_one_long_lived_transaction() {
    let ask = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n";
    let agree = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n";
    let script = Script::server().call(IN, ask).call(OUT, agree).call(IN, "\x01\x02").call(OUT, GET);
    let verdicts = script.verdicts.clone();
    assert_eq!(script.wait(30).pipeline.snapshot().n_long_lived, 1);
    let script = Script::server().call(IN, ask).call(OUT, agree).call(IN, "\x01\x02").call(OUT, GET);
    let transaction = script.close(abi::CLOSE_NORMAL).one();
    assert_eq!((transaction.end, transaction.kind), (End::Upgraded, Kind::LongLived));
    assert_eq!(verdicts.0.lock().unwrap().last().unwrap().mode, abi::VERDICT_LENGTHS);
}

#[test]
fn events_of_a_chunked_stream_are_counted_and_never_guessed() {
    let head = |more: &str| {
        format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n{more}\r\n"
        )
    };
    let event = "8\r\ndata: 1\n\r\n";
    let asked = || Script::server().call(IN, GET);
    // An event over two chunks, two in one, a comment, and the end.
    let chunks = [
        "6\r\ndata: \r\n",
        "3\r\n1\n\n\r\n",
        "14\r\ndata: 2\n\ndata: 3\n\n\n\n\r\n",
        "8\r\n: alive\n\r\n",
        "2\r\n\n\n\r\n",
    ];
    let all = |mut script: Script| {
        for chunk in chunks {
            script = script.call(OUT, chunk);
        }
        script
    };
    let whole = all(asked().call(OUT, &head(""))).call(OUT, "0\r\n\r\n").end().0.remove(0);
    assert_eq!((whole.kind, whole.end, whole.response_messages), (Kind::LongLived, End::Answered, Some(3)));
    // With the head and each other in one call.
    let once = format!("{}{}0\r\n\r\n", head("Content-Encoding: identity\r\n"), chunks.concat());
    assert_eq!(asked().call(OUT, &once).end().0[0].response_messages, Some(3));
    let none = asked().call(OUT, &head("")).call(OUT, "0\r\n\r\n").end().0.remove(0);
    assert_eq!(none.response_messages, Some(0));
    // The client has gone: those that were sent.
    let left = all(asked().call(OUT, &head(""))).close(abi::CLOSE_NORMAL).one();
    assert_eq!(left.response_messages, Some(3));
    // Coded, in two pieces, and captured in part: the length is known and the number is not.
    let unknown = [
        asked().call(OUT, &head("Content-Encoding: gzip\r\n")).call(OUT, event),
        asked().call(OUT, &head("")).call(OUT, &event[..6]).call(OUT, &event[6..]),
        asked().call(OUT, &head("")).cut(OUT, &event[..11], 5).call(OUT, &event[11..]),
    ];
    for (n, script) in unknown.into_iter().enumerate() {
        let (transactions, _) = script.call(OUT, event).call(OUT, "0\r\n\r\n").end();
        let end = (transactions[0].end, transactions[0].response_messages);
        assert_eq!(end, (End::Answered, None), "{n}");
    }
}

#[test]
fn an_early_answer_is_counted_and_has_no_time_to_first_byte() {
    let head = "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n";
    let (transactions, script) = Script::server()
        .call(IN, head)
        .call(OUT, "HTTP/1.1 413 No\r\nContent-Length: 0\r\n\r\n")
        .call(IN, "0123456789")
        .call(IN, GET)
        .call(OUT, OK)
        .end();
    assert_eq!((transactions[0].ttfb_ns, transactions[0].status_code), (None, Some(413)));
    assert_eq!((transactions[1].status_code, transactions[1].end), (Some(200), End::Answered));
    assert_eq!(script.metrics.get(Counter::EarlyResponse), 1);
    assert_eq!(script.pipeline.snapshot().lost_requests, LostRequests::default());
}

#[test]
fn a_connection_joined_in_a_body_is_recognised_at_the_next_turn() {
    let script = Script::new(PipelineConfig::default()).open(Role::Unknown, abi::FLAG_MID_JOIN);
    let (transactions, script) =
        script.call(IN, "the rest of a body").call(OUT, OK).call(IN, GET).call(OUT, OK).end();
    assert_eq!(transactions.len(), 1);
    assert_eq!((transactions[0].role, transactions[0].confidence), (Role::Server, Confidence::Guessed));
    assert_eq!(script.unpaired(), [(Unpaired::MidJoin, 1)]);
    assert_eq!(script.pipeline.snapshot().lost_requests, LostRequests::default());
}

#[test]
fn who_listens_tells_the_role_of_an_old_connection() {
    let mut script = Script::new(PipelineConfig::default());
    script.pipeline.push(&Event::Listening(Listening { time: BootTime(1), netns: 0, port: 80 }));
    let script = script.open(Role::Unknown, abi::FLAG_MID_JOIN);
    let transaction = script.call(IN, GET).call(OUT, OK).one();
    assert_eq!((transaction.role, transaction.confidence), (Role::Server, Confidence::Complete));
}

#[test]
fn data_without_an_open_still_makes_transactions() {
    let transaction = Script::new(PipelineConfig::default()).call(IN, GET).call(OUT, OK).one();
    assert_eq!((transaction.end, &*transaction.client_addr), (End::Answered, ""));
}

#[test]
fn a_lost_request_is_counted_and_nothing_is_paired_with_its_answer() {
    let script = Script::server().call(IN, GET).call(OUT, OK).lose(IN, GET).call(OUT, OK).call(IN, GET);
    let (transactions, script) = script.call(OUT, OK).close(abi::CLOSE_NORMAL).end();
    assert_eq!(transactions.len(), 2);
    assert!(transactions.iter().all(|transaction| transaction.duration_ns < 2 * MS as i64));
    assert_eq!(script.unpaired(), [(Unpaired::Gap, 1)]);
    assert_eq!(script.pipeline.snapshot().lost_requests, LostRequests { low: 1, high: 1 });
}

#[test]
fn an_answer_for_which_no_probe_ran_does_not_give_its_request_the_next_one() {
    // To the kernel, the two requests are of one turn.
    let script = Script::server().call(IN, GET).call(OUT, OK);
    let script = script.call(IN, GET).unseen(OUT, OK).call(IN, GET).jump(OUT, OK);
    let (transactions, script) = script.call(IN, GET).call(OUT, OK).close(abi::CLOSE_NORMAL).end();
    let ends: Vec<_> = transactions.iter().map(|one| (one.end, one.confidence)).collect();
    assert_eq!(ends[1..3], [(End::TracerStopped, Confidence::Gap); 2], "{transactions:#?}");
    // From the next turn on they are in step again, if not beyond doubt.
    assert_eq!((ends.len(), ends[3].0), (4, End::Answered), "{transactions:#?}");
    assert!(transactions[3].duration_ns < 2 * MS as i64);
    assert_eq!(script.unpaired(), [(Unpaired::Gap, 1)]);
}

#[test]
fn calls_for_which_no_probe_ran_may_each_have_been_a_request() {
    let mut script = Script::server().call(IN, GET).call(OUT, OK);
    let counters = Counters { time: BootTime(script.now), values: vec![("lost.probe_not_run".into(), 3)] };
    script.pipeline.push(&Event::Counters(counters));
    let (transactions, script) = script.wait(100).end();
    assert_eq!((transactions.len(), transactions[0].end), (1, End::Answered));
    assert_eq!(script.pipeline.snapshot().lost_requests, LostRequests { low: 0, high: 3 });
}

#[test]
fn a_request_for_which_no_probe_ran_is_lost() {
    // To the kernel, the two answers are of one turn.
    let script = Script::server().call(IN, GET).call(OUT, OK).unseen(IN, GET).call(OUT, OK).jump(IN, GET);
    let (transactions, script) =
        script.call(OUT, OK).call(IN, GET).call(OUT, OK).close(abi::CLOSE_NORMAL).end();
    let lost = script.pipeline.snapshot().lost_requests;
    let n = transactions.len() as u64;
    assert!(lost.low + n <= 4 && 4 <= lost.high + n && lost.high > 0, "{n} and {lost:?}");
    for one in transactions.iter().filter(|one| one.end == End::Answered) {
        assert!(one.duration_ns < 2 * MS as i64, "{one:#?}");
    }
}

/// The answer to a lost HEAD request leaves open where the next one begins. What is skipped then must not keep the
/// request behind it away, though an interim response is among it, nor let a body pass for one that answers such.
#[test]
fn an_interim_response_among_skipped_bytes_counts_only_while_it_is_the_last_thing_said() {
    let ask = "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n";
    let no_body = "HTTP/1.1 200 OK\r\nContent-Length: 38\r\n\r\n";
    let interim = "HTTP/1.1 103 Early\r\n\r\n";
    for first in [false, true] {
        for (pieces, is_last) in [(1, false), (7, false), (1, true), (7, true)] {
            let mut script = Script::server();
            if first {
                script = script.call(IN, GET).call(OUT, OK);
            }
            // Lost: the request and the first byte of the next.
            script = script.lose(IN, ask).call(OUT, no_body).lose(IN, &GET[..1]).call(IN, &GET[1..]);
            for piece in interim.as_bytes().chunks(interim.len().div_ceil(pieces)) {
                script = script.call(OUT, str::from_utf8(piece).unwrap());
            }
            if is_last {
                // A body that looks like a request.
                script = script.call(IN, GET);
            }
            let script = script.call(OUT, OK).call(IN, GET).call(OUT, OK);
            let (transactions, _) = script.close(abi::CLOSE_NORMAL).end();
            let ends: Vec<End> = transactions.iter().map(|transaction| transaction.end).collect();
            let expected = vec![End::Answered; 1 + usize::from(first)];
            assert_eq!(ends, expected, "first {first}, in {pieces} pieces, last {is_last}");
        }
    }
}

#[test]
fn what_is_asked_before_a_loss_in_a_pipeline_is_in_doubt_when_the_connection_ends() {
    // A client's send of three requests, of which one is copied; nothing tells which answers are the first one's.
    let three = format!("{GET}{GET}{GET}");
    for answers in [0, 1, 3] {
        let script = Script::client().call(OUT, &format!("{GET}{GET}")).call(IN, &format!("{OK}{OK}"));
        let script = script.cut(OUT, &three, GET.len() + 5).call(IN, &OK.repeat(answers));
        let (transactions, _) = script.close(abi::CLOSE_NORMAL).end();
        let told: Vec<_> = transactions[2..].iter().map(|one| (one.end, one.confidence)).collect();
        let unanswered = (End::Closed, Confidence::Complete);
        let doubt = (End::TracerStopped, Confidence::Gap);
        assert_eq!(told[0], if answers == 0 { unanswered } else { doubt }, "{answers} answers: {told:?}");
    }
}

#[test]
fn what_is_asked_behind_a_loss_is_in_doubt_until_a_turn_proves_its_place() {
    let lossy = || Script::client().call(OUT, GET).call(IN, OK).lose(OUT, GET).call(IN, OK);
    // A send is numbered when it returns, and by then another thread may have read the answer: it stands in the turn before, unpaired.
    let script = lossy().call(IN, OK).call(OUT, GET).close(abi::CLOSE_NORMAL);
    let (transactions, script) = script.end();
    assert_eq!(script.unpaired(), [(Unpaired::Gap, 2)]);
    let [_, one] = &transactions[..] else { panic!("{transactions:#?}") };
    assert_eq!(
        (one.end, one.confidence, one.error),
        (End::TracerStopped, Confidence::Gap, false),
        "{one:#?}"
    );
    // The answer in the turn behind it is its own, and what is asked then is open without a doubt.
    let script = lossy().call(OUT, GET).call(IN, OK).call(OUT, GET).close(abi::CLOSE_NORMAL);
    let (transactions, _) = script.end();
    let told: Vec<_> = transactions.iter().map(|one| (one.end, one.confidence)).collect();
    let answered = (End::Answered, Confidence::Complete);
    assert_eq!(told, [answered, answered, (End::Closed, Confidence::Complete)], "{transactions:#?}");
}

#[test]
fn a_head_that_was_not_captured_is_a_lost_request() {
    let script = Script::server().call(IN, GET).call(OUT, OK).cut(IN, GET, 0).call(OUT, OK).call(IN, GET);
    let (transactions, script) = script.call(OUT, OK).close(abi::CLOSE_NORMAL).end();
    assert_eq!(transactions.len(), 2);
    assert_eq!(script.pipeline.snapshot().lost_requests, LostRequests { low: 1, high: 1 });
    assert_eq!(script.metrics.get(Counter::ParserGap), 1);
    assert_eq!(script.verdicts.0.lock().unwrap()[0].mode, abi::VERDICT_EVERYTHING);
}

#[test]
fn pipelining_asks_for_everything_but_long_bodies() {
    let post = format!("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 50000\r\n\r\n{}", "x".repeat(100));
    let script = Script::server().call(IN, &format!("{GET}{GET}{post}"));
    let script = script.wait(30);
    let verdict = *script.verdicts.0.lock().unwrap().last().unwrap();
    assert_eq!((verdict.mode, verdict.conn_id), (abi::VERDICT_EVERYTHING, 7));
    assert_eq!(verdict.resume, [script.positions[0] + 49_900, 0]);
}

#[test]
fn what_no_parser_knows_is_no_longer_captured() {
    let unknown = "\x01\x02\x03\x04\x05\x06\x07\x08";
    let script = Script::server().call(IN, unknown).call(OUT, unknown);
    let script = script.call(IN, unknown).call(OUT, unknown).call(IN, unknown).wait(30);
    assert_eq!(script.verdicts.0.lock().unwrap().len(), 1);
    assert_eq!(script.verdicts.0.lock().unwrap()[0].mode, abi::VERDICT_NOTHING);
    assert_eq!(script.pipeline.snapshot().lost_requests, LostRequests::default());
    assert_eq!(script.metrics.get(Counter::OpaqueConns), 1);
}

#[test]
fn a_protocol_that_is_not_looked_for_is_opaque_and_not_lost() {
    let looking_for = |names: &[&str]| {
        let protocols = names.iter().map(|name| (*name).to_owned()).collect();
        let config = PipelineConfig { protocols, ..PipelineConfig::default() };
        // In pieces and pipelined, with a hole where a parser has to look: nothing of it may count.
        let script = Script::new(config).open(Role::Server, 0);
        let script = script.call(IN, &GET[..9]).call(IN, &GET[9..]).call(OUT, OK);
        let script =
            script.call(IN, GET).lose(OUT, OK).call(IN, &format!("{GET}{GET}")).call(OUT, OK).wait(30);
        assert_eq!(script.pipeline.snapshot().n_open > 0, names != ["other"], "{names:?}");
        script.close(abi::CLOSE_NORMAL).wait(30).end()
    };
    for names in [&[][..], &["http1"], &["other", "http1"]] {
        let (transactions, script) = looking_for(names);
        assert!(transactions.len() >= 2, "{names:?}: {transactions:#?}");
        assert_eq!(script.metrics.get(Counter::OpaqueConns), 0);
    }
    let (transactions, script) = looking_for(&["other"]);
    assert_eq!(transactions, []);
    assert_eq!(script.unpaired(), []);
    assert_eq!(script.pipeline.snapshot().lost_requests, LostRequests::default());
    for counter in [Counter::RequestsSeen, Counter::ParserGap, Counter::ParserInvalid, Counter::ReorderFull] {
        assert_eq!(script.metrics.get(counter), 0, "{counter:?}");
    }
    assert_eq!(script.metrics.get(Counter::OpaqueConns), 1);
    let verdicts = script.verdicts.0.lock().unwrap();
    assert_eq!(
        verdicts.iter().map(|verdict| (verdict.conn_id, verdict.mode)).collect::<Vec<_>>(),
        [(7, abi::VERDICT_NOTHING)]
    );
}

#[test]
fn a_body_until_the_close_ends_with_it() {
    let answer = "HTTP/1.0 200 OK\r\n\r\nall of it";
    let transaction = Script::server().call(IN, GET).call(OUT, answer).shut(OUT).wait(5).one();
    assert_eq!((transaction.end, transaction.duration_ns), (End::Answered, MS as i64), "its last byte");
    assert_eq!(transaction.response_bytes, answer.len() as u64);
    let late = Script::server().call(IN, GET).call(OUT, answer).wait(400).shut(OUT).one();
    assert!(late.duration_ns > 400 * MS as i64, "the close, when it came long behind the last byte");
}

#[test]
fn what_is_read_after_the_peer_has_closed_is_still_the_answer() {
    let (transactions, script) = Script::client().call(OUT, GET).shut(IN).wait(5).call(IN, OK).close(0).end();
    assert_eq!(transactions.len(), 1, "{transactions:#?}");
    assert_eq!((transactions[0].end, transactions[0].status_code), (End::Answered, Some(200)));
    assert_eq!(script.unpaired(), []);
}

#[test]
fn two_threads_that_write_one_answer_out_of_order_make_one_answer() {
    let mut script = Script::server().call(IN, GET);
    let (head, body) = OK.split_at(OK.len() - 5);
    let first = script.data(OUT, head.as_bytes(), usize::MAX);
    let second = script.data(OUT, body.as_bytes(), usize::MAX);
    let (mut late, mut soon) = (first, second);
    std::mem::swap(&mut late.time, &mut soon.time);
    let transaction = script.push(soon).push(late).one();
    assert_eq!((transaction.end, transaction.confidence), (End::Answered, Confidence::Complete));
}

#[test]
fn too_many_requests_in_flight_are_given_up_and_counted() {
    let config = PipelineConfig { max_in_flight_per_conn: 4, ..PipelineConfig::default() };
    let script = Script::new(config).open(Role::Server, 0).call(IN, &GET.repeat(10));
    let (transactions, script) = script.call(OUT, &OK.repeat(10)).end();
    let answered: Vec<u64> = transactions
        .iter()
        .filter(|transaction| transaction.end == End::Answered)
        .map(|t| t.ordinal)
        .collect();
    assert_eq!(answered, [6, 7, 8, 9], "the answers to the six before them are not theirs");
    assert_eq!(script.metrics.get(Counter::InFlightFull), 6);
    assert_eq!(script.unpaired(), [(Unpaired::Late, 6)]);
}

#[test]
fn a_wall_clock_that_steps_back_keeps_the_order_and_one_anchor_per_transaction() {
    let mut script = Script::server().call(IN, GET);
    let step = Anchor { boot: BootTime(script.now + MS / 4), wall: WallTime(5) };
    script.pipeline.push(&Event::Anchor(step));
    let (transactions, _) = script.call(OUT, OK).call(IN, GET).call(OUT, OK).end();
    assert_eq!(transactions[0].duration_ns, MS as i64);
    let wall = transactions[0].end_time.0.wrapping_sub(transactions[0].start_time.0);
    assert_eq!(wall, MS);
    assert!(transactions[0].end_time < transactions[1].end_time);
}

#[test]
fn a_million_short_connections_leave_nothing_behind() {
    let config = PipelineConfig { max_conns: 500, ..PipelineConfig::default() };
    let mut script = Script::new(config);
    let mut n = 0;
    for id in 0..100_000 {
        script.conn = ConnId(1_000 + id);
        script.turn = 0;
        script.speaking = None;
        script = script.open(Role::Server, 0).call(IN, GET).call(OUT, OK);
        // Every tenth close is lost: the tracker has to forget those by itself.
        if id % 10 != 0 {
            script = script.close(abi::CLOSE_NORMAL);
        }
        n += script.pipeline.drain().transactions.len();
        assert!(script.pipeline.snapshot().n_conns <= 500);
    }
    let held = script.pipeline.checkpoint().len();
    assert!(held < 2_000_000, "{held} bytes of state");
    n += script.pipeline.finish().transactions.len();
    assert_eq!(n, 100_000);
    assert_eq!(script.pipeline.snapshot().lost_requests, LostRequests::default());
}
