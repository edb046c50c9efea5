//! Datagrams through the whole pipeline, written as what the kernel would report: conversations, order, losses, ends.

use bytes::Bytes;
use tracer_ebpf as abi;
use tracer_user::{
    event::{ConnClose, ConnId, Datagram, Event, Role},
    metrics::{Counter, Metrics},
    pipeline::{LostRequests, NullVerdicts, Pipeline, PipelineConfig},
    time::{Anchor, BootTime, WallTime},
    transaction::{Confidence, End, Kind, Transaction, Unpaired},
};

const MS: u64 = 1_000_000;
const OUT: bool = true;
const IN: bool = false;

/// A message: id, name, type, and its rcode if it is an answer.
fn message(id: u16, name: &str, kind: u16, answer: Option<u8>) -> Vec<u8> {
    let mut bytes = id.to_be_bytes().to_vec();
    bytes.extend([answer.map_or(1, |_| 0x81), answer.unwrap_or(0), 0, 1, 0, 0, 0, 0, 0, 0]);
    bytes.push(name.len() as u8);
    bytes.extend(name.as_bytes());
    bytes.push(0);
    bytes.extend(kind.to_be_bytes());
    bytes.extend([0, 1]);
    bytes
}

/// One socket, as a script.
struct Script {
    pipeline: Pipeline,
    metrics: Metrics,
    socket: u64,
    numbers: [u64; 2],
    local: u16,
    now: u64,
}

impl Script {
    fn new(local: u16) -> Script {
        let metrics = Metrics::default();
        let mut pipeline = Pipeline::new(PipelineConfig::default(), metrics.clone(), Box::new(NullVerdicts));
        pipeline.push(&Event::Anchor(Anchor { boot: BootTime(0), wall: WallTime(0) }));
        Script { pipeline, metrics, socket: 7, numbers: [0; 2], local, now: 1_000 * MS }
    }

    fn make(&mut self, egress: bool, peer: (u8, u16), payload: &[u8]) -> Datagram {
        let number = &mut self.numbers[usize::from(egress)];
        *number += 1;
        let mut tuple = abi::Tuple {
            local_port: self.local,
            remote_port: peer.1,
            family: abi::FAMILY_INET,
            ..abi::Tuple::default()
        };
        tuple.remote[..4].copy_from_slice(&[192, 0, 2, peer.0]);
        Datagram {
            time: BootTime(self.now),
            conn: ConnId(self.socket),
            number: *number - 1,
            bytes: payload.len() as u32,
            tuple,
            flags: if egress { abi::FLAG_EGRESS } else { 0 },
            pid: 5,
            tid: 6,
            netns: 1,
            comm: *b"resolver\0\0\0\0\0\0\0\0",
            payload: Bytes::copy_from_slice(payload),
        }
    }

    /// A datagram, so many milliseconds after the last one.
    fn moves(mut self, after_ms: u64, egress: bool, peer: (u8, u16), payload: &[u8]) -> Script {
        self.now += after_ms * MS;
        let datagram = self.make(egress, peer, payload);
        self.pipeline.push(&Event::Datagram(datagram));
        self
    }

    fn lost(mut self, egress: bool) -> Script {
        self.numbers[usize::from(egress)] += 1;
        self
    }

    fn close(mut self, after_ms: u64) -> Script {
        self.now += after_ms * MS;
        self.pipeline.push(&Event::ConnClose(ConnClose {
            time: BootTime(self.now),
            conn: ConnId(self.socket),
            position: self.numbers,
            reason: abi::CLOSE_REPLACED,
            ..ConnClose::default()
        }));
        self
    }

    /// What leaves: (operation, target, end, status, ms), in the order of ends.
    fn end(mut self) -> (Vec<Transaction>, LostRequests, u64, Metrics) {
        let batch = self.pipeline.finish();
        let snapshot = self.pipeline.snapshot();
        let unpaired = snapshot.unpaired.iter().map(|(_, n)| n).sum();
        (batch.transactions.clone(), snapshot.lost_requests, unpaired, self.metrics)
    }
}

fn short(transactions: &[Transaction]) -> Vec<(String, String, End, Option<i32>, i64)> {
    let text = |transaction: &Transaction| {
        let target = transaction.target.as_deref().unwrap_or_default();
        (
            transaction.operation.to_string(),
            String::from_utf8_lossy(target).into_owned(),
            transaction.end,
            transaction.status_code,
            transaction.duration_ns / MS as i64,
        )
    };
    transactions.iter().map(text).collect()
}

fn row(
    op: &str,
    target: &str,
    end: End,
    status: Option<i32>,
    ms: i64,
) -> (String, String, End, Option<i32>, i64) {
    (op.to_owned(), target.to_owned(), end, status, ms)
}

const SERVER: (u8, u16) = (53, 53);

#[test]
fn a_pair_of_questions_on_one_socket_is_answered_in_any_order() {
    let (transactions, lost, unpaired, _) = Script::new(40_000)
        .moves(0, OUT, SERVER, &message(1, "Host", 1, None))
        .moves(0, OUT, SERVER, &message(2, "Host", 28, None))
        .moves(3, IN, SERVER, &message(2, "Host", 28, Some(3)))
        .moves(2, IN, SERVER, &message(1, "Host", 1, Some(0)))
        .close(1)
        .end();
    assert_eq!(
        short(&transactions),
        [row("AAAA", "host", End::Answered, Some(3), 3), row("A", "host", End::Answered, Some(0), 5),]
    );
    assert_eq!((lost, unpaired), (LostRequests::default(), 0));
    let first = &transactions[0];
    assert_eq!((first.role, first.protocol, first.kind), (Role::Client, "dns", Kind::Request));
    assert_eq!((first.error, first.error_type.as_deref()), (true, Some("NXDOMAIN")));
    assert_eq!((&*first.server_addr, first.server_port), ("192.0.2.53", Some(53)));
    assert_eq!((first.client_port, first.confidence), (Some(40_000), Confidence::Complete));
    let length = message(2, "Host", 28, None).len() as u64;
    assert_eq!((first.request_bytes, first.response_bytes), (length, length));
    let ids: Vec<_> = transactions.iter().map(|transaction| transaction.id()).collect();
    assert_eq!(ids.len(), 2);
    assert_ne!(ids[0], ids[1]);
}

#[test]
fn a_server_tells_its_clients_apart_though_they_use_the_same_ids() {
    let (transactions, lost, unpaired, _) = Script::new(53)
        .moves(0, IN, (1, 40_000), &message(1, "a", 1, None))
        .moves(1, IN, (2, 40_000), &message(1, "a", 1, None))
        .moves(1, IN, (1, 40_001), &message(1, "a", 1, None))
        .moves(1, OUT, (2, 40_000), &message(1, "a", 1, Some(2)))
        .moves(1, OUT, (1, 40_001), &message(1, "a", 1, Some(5)))
        .moves(1, OUT, (1, 40_000), &message(1, "a", 1, Some(0)))
        .end();
    let told: Vec<_> = transactions
        .iter()
        .map(|it| {
            (it.client_addr.to_string(), it.client_port, it.status_code, it.error, it.duration_ns / MS as i64)
        })
        .collect();
    let expected = [
        ("192.0.2.2", 40_000, 2, true, 2),
        ("192.0.2.1", 40_001, 5, false, 2),
        ("192.0.2.1", 40_000, 0, false, 5),
    ];
    let expected =
        expected.map(|(to, port, code, error, ms)| (to.to_owned(), Some(port), Some(code), error, ms));
    assert_eq!(told, expected);
    assert!(transactions.iter().all(|transaction| transaction.role == Role::Server));
    assert_eq!((lost, unpaired), (LostRequests::default(), 0));
}

#[test]
fn a_socket_that_asks_and_answers_has_two_roles() {
    // A server that asks another from its own port 53.
    let (transactions, ..) = Script::new(53)
        .moves(0, IN, (9, 53), &message(1, "a", 1, None))
        .moves(1, OUT, (9, 53), &message(1, "b", 1, None))
        .moves(1, IN, (9, 53), &message(1, "b", 1, Some(0)))
        .moves(1, OUT, (9, 53), &message(1, "a", 1, Some(0)))
        .end();
    let roles: Vec<_> = transactions.iter().map(|it| (it.role, it.duration_ns / MS as i64)).collect();
    assert_eq!(roles, [(Role::Client, 1), (Role::Server, 3)]);
}

#[test]
fn an_answer_that_is_stamped_before_its_question_waits_for_it() {
    let mut script = Script::new(40_000);
    let early = script.make(IN, SERVER, &message(4, "a", 1, Some(0)));
    script.now += 2 * MS;
    let late = script.make(OUT, SERVER, &message(4, "a", 1, None));
    script.pipeline.push(&Event::Datagram(early));
    script.pipeline.push(&Event::Datagram(late));
    let (transactions, _, unpaired, _) = script.end();
    assert_eq!(short(&transactions), [row("A", "a", End::Answered, Some(0), 0)]);
    assert_eq!(unpaired, 0);
    // Nobody asks for this one within the window.
    let (transactions, _, unpaired, _) = Script::new(40_000)
        .moves(0, IN, SERVER, &message(4, "a", 1, Some(0)))
        .moves(60, OUT, SERVER, &message(5, "a", 1, None))
        .moves(60, IN, SERVER, &message(5, "a", 1, Some(0)))
        .end();
    assert_eq!((transactions.len(), unpaired), (1, 1));
}

#[test]
fn a_question_that_is_asked_again_gets_the_answer_once() {
    let ask = message(1, "a", 1, None);
    let (transactions, lost, unpaired, _) = Script::new(40_000)
        .moves(0, OUT, SERVER, &ask)
        .moves(5_000, OUT, SERVER, &ask)
        .moves(7, IN, SERVER, &message(1, "a", 1, Some(0)))
        .close(1)
        .end();
    assert_eq!(
        short(&transactions),
        [row("A", "a", End::Answered, Some(0), 5_007), row("A", "a", End::Closed, None, 8)]
    );
    assert_eq!(transactions[1].error_type.as_deref(), Some("connection_closed"));
    assert_eq!((lost, unpaired), (LostRequests::default(), 0));
}

#[test]
fn what_is_lost_shows_as_a_gap_in_the_numbers() {
    // A lost question is a lost request.
    let (transactions, lost, unpaired, _) = Script::new(40_000)
        .moves(0, OUT, SERVER, &message(1, "a", 1, None))
        .moves(1, IN, SERVER, &message(1, "a", 1, Some(0)))
        .lost(OUT)
        .moves(60, IN, SERVER, &message(2, "b", 1, Some(0)))
        .moves(1, OUT, SERVER, &message(3, "c", 1, None))
        .moves(1, IN, SERVER, &message(3, "c", 1, Some(0)))
        .lost(OUT)
        .close(1)
        .end();
    assert_eq!((transactions.len(), unpaired), (2, 1));
    assert_eq!(lost, LostRequests { low: 2, high: 2 });
    // A lost answer may have been that of any question before it: none of them is said to be unanswered.
    let (transactions, lost, _, _) = Script::new(40_000)
        .moves(0, OUT, SERVER, &message(1, "a", 1, None))
        .lost(IN)
        .moves(1, OUT, SERVER, &message(2, "b", 1, None))
        .moves(1, IN, SERVER, &message(2, "b", 1, Some(0)))
        .moves(1, OUT, SERVER, &message(3, "c", 1, None))
        .close(1)
        .end();
    assert_eq!(
        short(&transactions),
        [
            row("B", "b", End::Answered, Some(0), 1),
            row("A", "a", End::TracerStopped, None, 4),
            row("C", "c", End::Closed, None, 1),
        ]
        .map(|row| ("A".to_owned(), row.1, row.2, row.3, row.4))
    );
    assert_eq!(transactions[1].confidence, Confidence::Gap);
    assert_eq!(lost, LostRequests::default());
    // The last answer, which only the close tells of.
    let (transactions, ..) =
        Script::new(40_000).moves(0, OUT, SERVER, &message(1, "a", 1, None)).lost(IN).close(1).end();
    assert_eq!(short(&transactions), [row("A", "a", End::TracerStopped, None, 1)]);
}

#[test]
fn datagrams_out_of_the_order_of_their_numbers_are_no_loss() {
    let mut script = Script::new(40_000);
    let first = script.make(OUT, SERVER, &message(1, "a", 1, None));
    let mut second = script.make(OUT, SERVER, &message(2, "b", 1, None));
    second.time = BootTime(first.time.0 - 1_000);
    script.pipeline.push(&Event::Datagram(first));
    script.pipeline.push(&Event::Datagram(second));
    let (transactions, lost, _, _) = script.close(1).end();
    assert_eq!((transactions.len(), lost), (2, LostRequests::default()));
}

#[test]
fn what_is_no_message_costs_nobody_else() {
    let (transactions, lost, unpaired, metrics) = Script::new(40_000)
        .moves(0, OUT, SERVER, &message(1, "a", 1, None))
        .moves(1, IN, SERVER, b"not a message at all")
        .moves(1, IN, SERVER, &message(1, "a", 1, Some(0))[..17])
        .moves(1, IN, SERVER, &message(1, "a", 1, Some(0)))
        .end();
    assert_eq!(short(&transactions), [row("A", "a", End::Answered, Some(0), 3)]);
    assert_eq!((lost, unpaired, metrics.get(Counter::ParserInvalid)), (LostRequests::default(), 0, 2));
}

#[test]
fn a_question_whose_bytes_were_left_out_is_a_lost_request() {
    let mut script = Script::new(53);
    let datagram = script.make(IN, (1, 40_000), &message(1, "a", 1, None));
    script.pipeline.push(&Event::Datagram(Datagram { payload: Bytes::new(), ..datagram }));
    let (transactions, lost, unpaired, metrics) =
        script.moves(60, OUT, (1, 40_000), &message(1, "a", 1, Some(0))).end();
    assert_eq!((transactions.len(), unpaired, metrics.get(Counter::ParserGap)), (0, 1, 1));
    assert_eq!(lost, LostRequests { low: 1, high: 1 });
}

#[test]
fn multicast_questions_and_announcements_stand_alone() {
    let question = [&[0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], b"\x03box\0\0\x01\0\x01"].concat();
    let answer = [
        &[0, 0, 0x84, 0, 0, 0, 0, 1, 0, 0, 0, 0][..],
        b"\x03box\0\0\x01\x80\x01\0\0\0\x78\0\x04\xc0\0\x02\x01",
    ]
    .concat();
    let group = (251, 5353);
    let (transactions, ..) = Script::new(5353)
        .moves(0, OUT, group, &question)
        .moves(1, OUT, group, &answer)
        .moves(1, IN, (7, 5353), &question)
        .moves(1, IN, (7, 5353), &answer)
        .end();
    let told: Vec<_> =
        transactions.iter().map(|it| (it.protocol, it.operation.to_string(), it.kind, it.end)).collect();
    let row = |operation: &str| ("mdns", operation.to_owned(), Kind::Message, End::Answered);
    assert_eq!(told, [row("A"), row("announcement"), row("A"), row("announcement")]);
}

#[test]
fn who_asks_a_group_is_answered_by_others() {
    let group = (252, 5355);
    let (transactions, _, unpaired, _) = Script::new(40_000)
        .moves(0, OUT, group, &[&[0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], b"\x03box\0\0\x01\0\x01"].concat())
        .moves(
            2,
            IN,
            (7, 5355),
            &[&[0, 1, 0x80, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], b"\x03box\0\0\x01\0\x01"].concat(),
        )
        .end();
    assert_eq!(short(&transactions), [row("A", "box", End::Answered, Some(0), 2)]);
    assert_eq!((transactions[0].protocol, unpaired), ("llmnr", 0));
}

#[test]
fn a_conversation_comes_back_after_a_while_and_no_id_is_given_twice() {
    let mut script = Script::new(53);
    for round in 0..4 {
        script = script
            .moves(if round == 0 { 0 } else { 30_000 }, IN, (1, 40_000), &message(round, "a", 1, None))
            .moves(1, OUT, (1, 40_000), &message(round, "a", 1, Some(0)));
        assert!(script.pipeline.snapshot().n_conns <= 1, "an idle one is over");
    }
    let (transactions, ..) = script.end();
    let mut ids: Vec<_> = transactions.iter().map(|it| (it.conn, it.ordinal)).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 4);
}

#[test]
fn many_peers_are_bounded_and_none_of_them_is_a_loss() {
    let mut script = Script::new(53);
    for n in 0..40_000_u32 {
        let peer = ((n >> 14) as u8, 1_024 + (n & 0x3fff) as u16);
        script = script.moves(0, IN, peer, &message(1, "a", 1, None)).moves(
            0,
            OUT,
            peer,
            &message(1, "a", 1, Some(0)),
        );
        script.now += 1_000;
    }
    assert!(script.pipeline.snapshot().n_conns <= 16_384);
    let (transactions, lost, unpaired, metrics) = script.end();
    assert_eq!((transactions.len(), lost, unpaired), (40_000, LostRequests::default(), 0));
    assert_eq!(metrics.get(Counter::TrackerFull), 0);
}

#[test]
fn a_checkpoint_anywhere_changes_nothing() {
    let events: Vec<Event> = {
        let mut script = Script::new(53);
        let mut events = vec![Event::Anchor(Anchor { boot: BootTime(0), wall: WallTime(0) })];
        for n in 0..30_u16 {
            let peer = ((n % 3) as u8, 40_000);
            script.now += 4 * MS;
            if n % 7 == 3 {
                script = script.lost(n % 2 == 0);
            }
            events.push(Event::Datagram(script.make(IN, peer, &message(n, "a", 1, None))));
            script.now += MS;
            if n % 5 != 4 {
                events.push(Event::Datagram(script.make(OUT, peer, &message(n, "a", 1, Some(0)))));
            }
        }
        events.push(Event::ConnClose(ConnClose {
            time: BootTime(script.now + MS),
            conn: ConnId(script.socket),
            position: script.numbers,
            ..ConnClose::default()
        }));
        events
    };
    let run = |cut: Option<usize>| {
        let config = PipelineConfig::default();
        let mut pipeline = Pipeline::new(config.clone(), Metrics::default(), Box::new(NullVerdicts));
        let mut transactions = Vec::new();
        for (at, event) in events.iter().enumerate() {
            if cut == Some(at) {
                let state = pipeline.checkpoint();
                transactions.extend(pipeline.drain().transactions.iter().cloned());
                pipeline =
                    Pipeline::restore(&state, config.clone(), Metrics::default(), Box::new(NullVerdicts))
                        .expect("a checkpoint that is read again");
                // What has left is the old one's.
                let again = pipeline.drain().transactions.len();
                assert!(again <= transactions.len());
            }
            pipeline.push(event);
        }
        transactions.extend(pipeline.finish().transactions.iter().cloned());
        let lost = pipeline.snapshot().lost_requests;
        (transactions.len(), transactions.last().map(|it| (it.conn, it.ordinal, it.end)), lost)
    };
    let whole = run(None);
    assert!(whole.0 >= 25 && whole.2.low > 0, "{whole:?}");
    for cut in 0..events.len() {
        assert_eq!(run(Some(cut)), whole, "cut at {cut}");
    }
    let _ = Unpaired::ALL;
}
