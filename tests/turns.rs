//! Protocols that are followed turn by turn, through the whole pipeline: times, sums, losses, ends.

use std::sync::Arc;

use tracer_ebpf as abi;
use tracer_user::{
    event::{Event, Listening, Role},
    metrics::{Counter, Metrics},
    pipeline::{LostRequests, Pipeline, PipelineConfig},
    time::{BootTime, WallTime},
    transaction::{Confidence, End, Kind, Transaction, Unpaired},
};

use crate::cases::{GET, IN, MS, OK, OUT, Script};

fn config() -> PipelineConfig {
    // The ports of both ends, so that the server's is among them in either role.
    PipelineConfig { opaque_ports: vec![80, 40_000], ..PipelineConfig::default() }
}

fn opaque(role: Role) -> Script {
    Script::new(config()).open(role, 0)
}

/// Bytes of a turn, the first ones captured, the rest summed, as the kernel tells it: at most `late` ms behind.
fn summed(mut script: Script, direction: tracer_user::event::Direction, bytes: &str, n_calls: u64) -> Script {
    let mut data = script.data(direction, bytes.as_bytes(), 0);
    let first = data.time.0;
    script.now += (n_calls - 1) * MS;
    (data.first, data.time, data.flags) =
        (BootTime(first), BootTime(script.now), data.flags | abi::FLAG_SUMMED);
    data.n_calls = n_calls as u32;
    script.push(data)
}

fn ends(transactions: &[Transaction]) -> Vec<(End, Confidence)> {
    transactions.iter().map(|one| (one.end, one.confidence)).collect()
}

#[test]
fn a_turn_and_the_one_behind_it_are_a_transaction_with_the_times_of_their_first_and_last_bytes() {
    for role in [Role::Server, Role::Client] {
        let (ask, answer) = if role == Role::Server { (IN, OUT) } else { (OUT, IN) };
        let script = opaque(role).call(ask, "what").call(ask, "ever");
        let asked = script.now;
        let script = summed(script.wait(5).call(answer, "so"), answer, "and so on", 3);
        let end = script.now;
        let (transactions, _) = script.call(ask, "more").call(answer, "no").close(abi::CLOSE_NORMAL).end();
        assert_eq!(ends(&transactions), [(End::Answered, Confidence::Complete); 2]);
        let one = &transactions[0];
        assert_eq!(
            (one.kind, one.protocol, &*one.operation, one.role),
            (Kind::Opaque, "opaque", "turn", role)
        );
        assert_eq!((one.request_bytes, one.response_bytes), (8, 11));
        // A send begins with its call, which was entered half a millisecond before.
        let half = |is_send: bool| if is_send { MS / 2 } else { 0 };
        let start = asked - MS - half(role == Role::Client);
        let answered = asked + 6 * MS - half(role == Role::Server);
        assert_eq!((one.start_time, one.request_end), (WallTime(start), Some(WallTime(asked))));
        assert_eq!((one.response_start, one.end_time), (Some(WallTime(answered)), WallTime(end)));
        assert_eq!((one.ttfb_ns, one.duration_ns), (Some(answered - asked), (end - start) as i64));
        assert!(!one.is_measured(), "turns enter no histogram of requests");
        assert_eq!((one.status_code, one.error, &one.target), (None, false, &None));
    }
}

#[test]
fn only_the_first_bytes_of_a_turn_are_asked_for() {
    let script = opaque(Role::Server).call(IN, "what").call(OUT, "so").wait(30);
    let verdicts = script.verdicts.0.lock().unwrap();
    let told: Vec<_> = verdicts.iter().map(|verdict| (verdict.mode, verdict.budget)).collect();
    assert_eq!(told, [(abi::VERDICT_HEADS, 16)]);
}

#[test]
fn a_greeting_belongs_to_nothing() {
    let script = opaque(Role::Client).call(IN, "220 ready").call(OUT, "HELO").call(IN, "250");
    let script = script.close(abi::CLOSE_NORMAL).end();
    assert_eq!(ends(&script.0), [(End::Answered, Confidence::Complete)]);
    assert_eq!((script.0[0].request_bytes, script.0[0].response_bytes), (4, 3));
    assert_eq!(script.1.unpaired(), []);
}

#[test]
fn a_first_turn_that_could_have_been_another_protocols_counts() {
    for first in ["G", "GET ", "\x16\x03"] {
        for n_pieces in [1, 2] {
            let mut script = opaque(Role::Server);
            for piece in first.as_bytes().chunks(first.len().div_ceil(n_pieces)) {
                script = script.call(IN, str::from_utf8(piece).unwrap());
            }
            let asked = script.now;
            let (transactions, script) =
                script.call(OUT, "no").call(IN, "Q").call(OUT, "no").close(abi::CLOSE_NORMAL).end();
            assert_eq!(ends(&transactions), [(End::Answered, Confidence::Complete); 2], "{first:?}");
            assert_eq!(transactions[0].request_bytes, first.len() as u64);
            assert_eq!(transactions[0].request_end, Some(WallTime(asked)));
            assert_eq!(script.pipeline.snapshot().lost_requests, LostRequests::default());
        }
    }
}

#[test]
fn elsewhere_what_tells_too_little_is_given_up() {
    let mut script = Script::server();
    for _ in 0..4 {
        script = script.call(IN, "G").call(OUT, "H");
    }
    let script = script.wait(30);
    assert_eq!(script.metrics.get(Counter::OpaqueConns), 1);
    assert_eq!(
        script.verdicts.0.lock().unwrap().last().map(|verdict| verdict.mode),
        Some(abi::VERDICT_NOTHING)
    );
    assert_eq!(script.end().0, []);
}

#[test]
fn on_a_port_that_was_not_given_turns_are_only_counted() {
    let config = PipelineConfig { opaque_ports: vec![81, 40_000], ..PipelineConfig::default() };
    let mut script = Script::new(config).open(Role::Server, 0);
    for _ in 0..4 {
        script = script.call(IN, "what").call(OUT, "so");
    }
    let (transactions, script) = script.wait(30).end();
    assert_eq!((transactions, script.metrics.get(Counter::OpaqueConns)), (vec![], 1));
}

#[test]
fn who_asks_is_the_kernels_word_or_a_guess() {
    let script = opaque(Role::Unknown).call(OUT, "what").call(IN, "so").end();
    assert_eq!((script.0[0].role, script.0[0].confidence), (Role::Client, Confidence::Guessed));
    // An old connection: its turns were not seen from the first.
    let mut script = Script::new(config());
    script.pipeline.push(&Event::Listening(Listening { time: BootTime(1), netns: 0, port: 80 }));
    let mut script = script.open(Role::Unknown, abi::FLAG_MID_JOIN).call(OUT, "so");
    for _ in 0..10 {
        script = script.call(IN, "what").call(OUT, "so");
    }
    let (transactions, script) = script.end();
    assert!(transactions.len() >= 2 && transactions.iter().all(|one| one.role == Role::Server));
    assert!(transactions.iter().all(|one| one.confidence == Confidence::Complete), "{transactions:#?}");
    assert_eq!(script.unpaired(), []);
}

#[test]
fn behind_a_lost_answer_turns_are_in_step_again() {
    let script = opaque(Role::Server).call(IN, "one").call(OUT, "1").call(IN, "two").lose(OUT, "2");
    let script = script.call(IN, "three").call(OUT, "3").call(IN, "four").call(OUT, "4");
    let (transactions, script) = script.close(abi::CLOSE_NORMAL).end();
    let told: Vec<_> = transactions.iter().map(|one| (one.request_bytes, one.end, one.confidence)).collect();
    let whole = (End::Answered, Confidence::Complete);
    let (answered, complete) = whole;
    assert_eq!(
        told,
        [
            (3, answered, complete),
            (3, End::TracerStopped, Confidence::Gap),
            (5, answered, complete),
            (4, answered, complete)
        ]
    );
    assert_eq!(script.pipeline.snapshot().lost_requests, LostRequests::default());
    assert_eq!(script.unpaired(), []);
}

#[test]
fn a_lost_question_is_counted_and_its_answer_is_nobodys() {
    let script = opaque(Role::Server).call(IN, "one").call(OUT, "1").lose(IN, "two").call(OUT, "2");
    let (transactions, script) = script.call(IN, "three").call(OUT, "3").close(abi::CLOSE_NORMAL).end();
    assert_eq!(ends(&transactions), [(End::Answered, Confidence::Complete); 2]);
    assert_eq!(transactions.iter().map(|one| one.request_bytes).collect::<Vec<_>>(), [3, 5]);
    assert_eq!(script.unpaired(), [(Unpaired::Gap, 1)]);
    assert_eq!(script.pipeline.snapshot().lost_requests, LostRequests { low: 1, high: 1 });
}

#[test]
fn a_question_of_which_the_beginning_is_lost_is_counted() {
    let script =
        opaque(Role::Server).call(IN, "one").call(OUT, "1").lose(IN, "t").call(IN, "wo").call(OUT, "2");
    let (transactions, script) = script.call(IN, "three").call(OUT, "3").close(abi::CLOSE_NORMAL).end();
    assert_eq!(transactions.iter().map(|one| one.request_bytes).collect::<Vec<_>>(), [3, 5]);
    let lost = script.pipeline.snapshot().lost_requests;
    assert!(lost.low <= 1 && lost.high >= 1, "{lost:?}");
}

#[test]
fn bytes_lost_inside_a_turn_are_a_gap_and_at_its_end_an_end_that_is_not_known() {
    let start = || opaque(Role::Server).call(IN, "one").call(OUT, "1");
    let inside = start().call(IN, "w").lose(IN, "ha").call(IN, "t").call(OUT, "so");
    let (mut transactions, _) = inside.close(abi::CLOSE_NORMAL).end();
    let inside = transactions.remove(1);
    assert_eq!((inside.end, inside.confidence, inside.request_bytes), (End::Answered, Confidence::Gap, 4));
    assert!(inside.request_end.is_some());

    // The close tells how far the answer came.
    let behind =
        opaque(Role::Server).call(IN, "what").call(OUT, "s").lose(OUT, "o").close(abi::CLOSE_NORMAL).one();
    assert_eq!((behind.end, behind.confidence), (End::TracerStopped, Confidence::Gap));

    // So does the next question's answer.
    let script = opaque(Role::Server).call(IN, "what").call(OUT, "s").lose(OUT, "o").call(IN, "more");
    let (transactions, _) = script.call(OUT, "no").close(abi::CLOSE_NORMAL).end();
    assert_eq!(transactions[1].end, End::Answered);
    assert!(transactions.iter().all(|one| one.response_bytes <= 2), "{transactions:#?}");

    // The send says that more of the question was consumed than any record shows.
    let mut script = start().call(IN, "what").lose(IN, "ever");
    let mut answer = script.data(OUT, b"so", usize::MAX);
    (answer.flags, answer.error) = (answer.flags | abi::FLAG_UNSEEN, script.positions[0] as u32);
    let (mut transactions, _) = script.push(answer).close(abi::CLOSE_NORMAL).end();
    let tail = transactions.remove(1);
    assert_eq!((tail.end, tail.confidence, tail.request_end), (End::Answered, Confidence::Gap, None));
    assert_eq!(tail.ttfb_ns, None);
}

#[test]
fn a_quiet_answer_is_over_and_what_comes_later_in_its_turn_is_nobodys() {
    let script = opaque(Role::Server).call(IN, "what").call(OUT, "so");
    let (quiet, conns) = (script.now, script.pipeline.snapshot().n_conns);
    let mut script = script.wait(900);
    let drained = script.pipeline.drain().transactions;
    assert_eq!(ends(&drained), [(End::Answered, Confidence::Guessed)], "of {conns} connections");
    assert_eq!((drained[0].end_time, drained[0].response_bytes), (WallTime(quiet), 2));
    let script = script.call(OUT, "and later").call(IN, "more").call(OUT, "no");
    let (transactions, script) = script.close(abi::CLOSE_NORMAL).end();
    assert_eq!(ends(&transactions), [(End::Answered, Confidence::Complete)]);
    assert_eq!((transactions[0].request_bytes, transactions[0].response_bytes), (4, 2));
    assert_eq!(script.unpaired(), []);
}

#[test]
fn a_sum_that_is_read_late_belongs_to_its_turn() {
    // The kernel sums what comes behind a turn's first bytes; the sum is read up to 250 ms after it began.
    let mut script = opaque(Role::Server).call(IN, "what").call(OUT, "so");
    let begun = script.now;
    let mut sum = script.data(OUT, b"and so on", 0);
    sum.first = BootTime(begun + 60 * MS);
    sum.time = BootTime(begun + 150 * MS);
    sum.flags |= abi::FLAG_SUMMED;
    script.now = begun;
    // Other connections are heard of in the meantime.
    let script = script.wait(310).push(sum).wait(700);
    let one = script.close(abi::CLOSE_NORMAL).one();
    assert_eq!((one.end_time, one.response_bytes), (WallTime(begun + 150 * MS), 11));
}

#[test]
fn a_half_closed_connection_still_answers() {
    let script = opaque(Role::Client).call(OUT, "what").shut(OUT).wait(20).call(IN, "so").call(IN, "and so");
    let one = script.shut(IN).close(abi::CLOSE_NORMAL).one();
    assert_eq!((one.end, one.confidence, one.response_bytes), (End::Answered, Confidence::Complete, 8));
    assert!(one.request_end.is_some());
}

/// A receive that meets the peer's FIN stands one place too far: the FIN has a number of its own.
#[test]
fn the_place_of_a_fin_is_no_lost_byte() {
    for (bytes, more) in [("so", "and so"), ("\x15\x03\x03\x00\x02", "\x02\x28")] {
        let mut script = opaque(Role::Client).call(OUT, "what").call(IN, bytes);
        script.positions[0] += 1;
        let one = script.jump(IN, more).close(abi::CLOSE_NORMAL).one();
        assert_eq!((one.end, one.confidence), (End::Answered, Confidence::Complete));
        assert_eq!(one.response_bytes, (bytes.len() + more.len()) as u64);
    }
    let mut script = opaque(Role::Client).call(OUT, "what");
    script = script.call(IN, "so").call(OUT, "more");
    script.positions[0] += 1;
    let (transactions, _) = script.jump(IN, "and so").close(abi::CLOSE_NORMAL).end();
    assert_eq!(ends(&transactions), [(End::Answered, Confidence::Complete); 2]);
    assert_eq!(transactions[1].response_bytes, 6);

    // Between an interim response and the final one.
    let mut script = Script::client().call(OUT, GET).call(IN, "HTTP/1.1 100 Continue\r\n\r\n");
    script.positions[0] += 1;
    let one = script.jump(IN, OK).close(abi::CLOSE_NORMAL).one();
    assert_eq!((one.end, one.confidence), (End::Answered, Confidence::Complete));
    assert_eq!(one.response_bytes, (OK.len() + 25) as u64);
}

#[test]
fn a_question_that_the_close_answers_is_open_to_the_end_and_no_error() {
    for (reason, end) in
        [(abi::CLOSE_NORMAL, End::Closed), (abi::CLOSE_RESET, End::Reset), (abi::CLOSE_EXIT, End::Exited)]
    {
        let one = opaque(Role::Server).call(IN, "bye").close(reason).one();
        assert_eq!((one.end, one.error, one.request_bytes), (end, false, 3));
    }
}

#[test]
fn a_checkpoint_anywhere_in_a_turn_changes_nothing() {
    let play = |cut: Option<usize>| {
        let mut script = opaque(Role::Server);
        let mut at = 0;
        let mut step = |mut script: Script, act: fn(Script) -> Script| -> Script {
            if cut == Some(at) {
                let bytes = script.pipeline.checkpoint();
                let verdicts = Box::new(script.verdicts.clone());
                script.pipeline = Pipeline::restore(&bytes, config(), Metrics::default(), verdicts).unwrap();
            }
            at += 1;
            act(script)
        };
        let acts: [fn(Script) -> Script; 9] = [
            |script| script.call(IN, "wh"),
            |script| script.call(IN, "at"),
            |script| script.call(OUT, "so").wait(2),
            |script| summed(script, OUT, "and so on", 4),
            |script| script.call(IN, HELLO).wait(2),
            |script| script.call(OUT, "no").wait(600),
            |script| script.call(IN, "bye"),
            |script| script.shut(IN),
            |script| script.call(OUT, "so").close(abi::CLOSE_NORMAL),
        ];
        for act in acts {
            script = step(script, act);
        }
        (script.end().0, at)
    };
    let (whole, n_steps) = play(None);
    assert_eq!(whole.len(), 3);
    for cut in 0..n_steps {
        assert_eq!(play(Some(cut)).0, whole, "cut before step {cut}");
    }
}

/// A ClientHello with a name, short enough for all its lengths to be ASCII.
const HELLO: &str = "\x16\x03\x01\x00\x43\x01\x00\x00\x3f\x03\x0301234567890123456789012345678901\x00\x00\x02\x13\x01\x01\x00\
    \x00\x14\x00\x00\x00\x10\x00\x0e\x00\x00\x0bshop.exampl";
const SERVER_HELLO: &str = "\x16\x03\x03\x00\x2a\x02\x00\x00\x26\x03\x03";
/// Extensions of a whole one.
const CHOSEN_1_3: &str = "\x00\x2b\x00\x02\x03\x04";
const CHOSEN_H2: &str = "\x00\x10\x00\x05\x00\x03\x02h2";
const DATA: &str = "\x17\x03\x03\x00\x1401234567890123456789";

#[test]
fn tls_shows_the_servers_name_on_every_turn_of_its_connection() {
    for role in [Role::Server, Role::Client] {
        let (ask, answer) = if role == Role::Server { (IN, OUT) } else { (OUT, IN) };
        let script = Script::new(PipelineConfig::default()).open(role, 0).call(ask, &HELLO[..30]);
        let script = script.call(ask, &HELLO[30..]).call(answer, SERVER_HELLO);
        let script = script.call(ask, "\x14\x03\x03\x00\x01\x01").call(ask, DATA).call(answer, DATA);
        let script = script.call(ask, DATA).cut(answer, &DATA.repeat(9), 16).call(ask, DATA);
        let (transactions, script) = script.close(abi::CLOSE_NORMAL).end();
        let told: Vec<_> = transactions.iter().map(|one| (&*one.operation, one.kind, one.end)).collect();
        let opaque = Kind::Opaque;
        assert_eq!(
            told,
            [
                ("TLS handshake", opaque, End::Answered),
                ("TLS handshake", opaque, End::Answered),
                ("TLS", opaque, End::Answered),
                ("TLS", opaque, End::Closed)
            ]
        );
        assert_eq!(transactions[0].request_bytes, HELLO.len() as u64);
        assert_eq!(transactions[2].response_bytes, 9 * DATA.len() as u64);
        for one in &transactions {
            assert_eq!(one.target.as_deref(), Some(&b"shop.exampl"[..]));
            assert_eq!((one.protocol, one.role, one.confidence), ("tls", role, Confidence::Complete));
        }
        let verdicts: Vec<_> =
            script.verdicts.0.lock().unwrap().iter().map(|verdict| (verdict.mode, verdict.budget)).collect();
        assert_eq!(verdicts.last(), Some(&(abi::VERDICT_HEADS, 16)));
        assert_eq!(script.pipeline.snapshot().lost_requests, LostRequests::default());
    }
}

/// A ServerHello whose old field says TLS 1.2.
fn server_hello(extensions: &str) -> String {
    // Of the record, the message and the extensions.
    let [record, message, all] = [44, 40, 0].map(|before| char::from(before + extensions.len() as u8));
    let random = "98765432109876543210987654321098";
    format!(
        "\x16\x03\x03\x00{record}\x02\x00\x00{message}\x03\x03{random}\x00\x00\x2f\x00\x00{all}{extensions}"
    )
}

fn facts(one: &Transaction) -> [Option<&str>; 4] {
    let facts = one.tls.as_deref().map(|tls| [&tls.library, &tls.version, &tls.sni, &tls.alpn]);
    facts.map_or([None; 4], |facts| facts.map(|fact| fact.as_deref()))
}

#[test]
fn what_the_hellos_say_is_on_every_transaction_of_their_connection_and_is_kept_once() {
    let name = Some("shop.exampl");
    for (extensions, version, alpn) in [
        (CHOSEN_1_3.to_owned(), "TLSv1.3", None),
        (CHOSEN_H2.to_owned(), "TLSv1.2", Some("h2")),
        (String::new(), "TLSv1.2", None),
    ] {
        let hello = server_hello(&extensions);
        for n_pieces in [1, 2, hello.len()] {
            for role in [Role::Server, Role::Client] {
                let (ask, answer) = if role == Role::Server { (IN, OUT) } else { (OUT, IN) };
                let mut script = Script::new(PipelineConfig::default()).open(role, 0).call(ask, HELLO);
                for piece in hello.as_bytes().chunks(hello.len().div_ceil(n_pieces)) {
                    // As long as it may tell more, everything is asked for.
                    assert_eq!(script.verdicts.0.lock().unwrap().len(), 0, "{n_pieces} pieces");
                    script = script.call(answer, str::from_utf8(piece).unwrap());
                }
                let script = script.call(answer, DATA).call(ask, DATA).call(answer, DATA).call(ask, DATA);
                let (transactions, script) = script.close(abi::CLOSE_NORMAL).end();
                assert_eq!(transactions.len(), 3);
                for one in &transactions {
                    assert_eq!(facts(one), [None, Some(version), name, alpn], "{n_pieces} pieces, {one:#?}");
                    assert_eq!(one.confidence, Confidence::Complete);
                }
                let tls: Vec<_> = transactions.iter().filter_map(|one| one.tls.clone()).collect();
                assert!(
                    tls.windows(2).all(|pair| Arc::ptr_eq(&pair[0], &pair[1])),
                    "one for each transaction"
                );
                let budget = script.verdicts.0.lock().unwrap().last().map(|verdict| verdict.budget);
                assert_eq!(budget, Some(16));
            }
        }
    }
    let plain = Script::server().call(IN, "GET / HTTP/1.1\r\n\r\n").call(OUT, "HTTP/1.1 204 No\r\n\r\n");
    assert_eq!(plain.close(abi::CLOSE_NORMAL).one().tls, None);
}

#[test]
fn a_server_hello_that_is_not_seen_whole_tells_nothing_and_costs_nothing() {
    let whole = server_hello(CHOSEN_1_3);
    let start = || Script::server().call(IN, HELLO);
    let asked = [None, None, Some("shop.exampl"), None];
    let end = |script: Script| script.call(IN, DATA).call(OUT, &whole).close(abi::CLOSE_NORMAL).end().0;
    // Its end was not captured, or lies in a sum.
    let transactions = end(start().cut(OUT, &whole, 20));
    assert_eq!(ends(&transactions), [(End::Answered, Confidence::Complete); 2]);
    assert!(transactions.iter().all(|one| facts(one) == asked), "{transactions:#?}");
    let transactions = end(summed(start().call(OUT, &whole[..20]), OUT, &whole[20..], 3));
    assert!(transactions.iter().all(|one| facts(one) == asked), "{transactions:#?}");
    // A part of it was lost.
    let transactions = end(start().call(OUT, &whole[..20]).lose(OUT, &whole[20..30]).call(OUT, &whole[30..]));
    assert_eq!(ends(&transactions)[0], (End::Answered, Confidence::Gap));
    assert!(transactions.iter().all(|one| facts(one) == asked), "{transactions:#?}");
    // The client does not wait for the rest.
    let transactions = end(start().call(OUT, &whole[..20]));
    assert_eq!(ends(&transactions), [(End::Answered, Confidence::Complete); 2]);
    assert!(transactions.iter().all(|one| facts(one) == asked), "{transactions:#?}");
    // Encrypted bytes that begin as one.
    let mut lie = whole.clone();
    lie.replace_range(52..53, "x");
    let transactions = end(start().call(OUT, &lie));
    assert!(transactions.iter().all(|one| facts(one) == asked), "{transactions:#?}");
}

#[test]
fn what_was_said_before_a_database_switched_to_tls_was_plain() {
    let mut script = Script::server();
    let ask = script.data(IN, b"\0\0\0\x08\x04\xd2\x16\x2f", usize::MAX);
    let script = script.push(ask).call(OUT, "S").call(IN, HELLO).call(OUT, &server_hello(CHOSEN_H2));
    let script = script.call(IN, DATA).call(OUT, DATA);
    let (transactions, _) = script.close(abi::CLOSE_NORMAL).end();
    let known = [None, Some("TLSv1.2"), Some("shop.exampl"), Some("h2")];
    let told: Vec<_> = transactions.iter().map(|one| (one.protocol, facts(one))).collect();
    assert_eq!(told, [("tls", known), ("tls", known)]);
}

#[test]
fn a_checkpoint_anywhere_in_the_hellos_changes_nothing() {
    let hello = server_hello(CHOSEN_H2);
    let pieces = [(IN, &HELLO[..40]), (IN, &HELLO[40..]), (OUT, &hello[..5]), (OUT, &hello[5..30])];
    let pieces: Vec<_> = pieces.into_iter().chain([(OUT, &hello[30..]), (IN, DATA), (OUT, DATA)]).collect();
    let play = |cut: Option<usize>| {
        let mut script = Script::server();
        for (at, (direction, bytes)) in pieces.iter().enumerate() {
            if cut == Some(at) {
                let bytes = script.pipeline.checkpoint();
                let verdicts = Box::new(script.verdicts.clone());
                let config = PipelineConfig::default();
                script.pipeline = Pipeline::restore(&bytes, config, Metrics::default(), verdicts).unwrap();
            }
            script = script.call(*direction, bytes);
        }
        script.close(abi::CLOSE_NORMAL).end().0
    };
    let whole = play(None);
    assert_eq!(facts(&whole[1]), [None, Some("TLSv1.2"), Some("shop.exampl"), Some("h2")]);
    for cut in 0..pieces.len() {
        assert_eq!(play(Some(cut)), whole, "cut before piece {cut}");
    }
}

#[test]
fn an_alert_in_the_clear_fails_what_it_answers_or_is_a_message_of_its_own() {
    let refused = Script::server().call(IN, HELLO).call(OUT, "\x15\x03\x03\x00\x02\x02\x28");
    let refused = refused.close(abi::CLOSE_NORMAL).one();
    assert_eq!((refused.end, refused.error_type.as_deref()), (End::Answered, Some("handshake_failure")));
    assert!(refused.error);

    let script =
        Script::server().call(IN, HELLO).call(OUT, SERVER_HELLO).call(IN, "\x15\x03\x03\x00\x02\x02\x30");
    let (transactions, _) = script.close(abi::CLOSE_NORMAL).end();
    let alert = &transactions[1];
    assert_eq!((&*alert.operation, alert.kind, alert.end), ("TLS alert", Kind::Message, End::Answered));
    assert_eq!((alert.error, alert.error_type.as_deref()), (true, Some("unknown_ca")));
    assert!(!transactions[0].error);

    let leave = "\x15\x03\x03\x00\x02\x01\x00";
    let script = Script::server().call(IN, HELLO).call(OUT, SERVER_HELLO).call(IN, leave).call(OUT, leave);
    let (transactions, script) = script.close(abi::CLOSE_NORMAL).end();
    assert_eq!(ends(&transactions), [(End::Answered, Confidence::Complete)]);
    assert_eq!((transactions[0].error, script.unpaired()), (false, vec![]));
}

#[test]
fn tls_that_was_joined_late_is_known_by_its_records_and_its_role_by_who_listens() {
    let play = |listening: bool| {
        let mut script = Script::new(PipelineConfig::default());
        if listening {
            script.pipeline.push(&Event::Listening(Listening { time: BootTime(1), netns: 0, port: 80 }));
        }
        let script = script.open(Role::Unknown, abi::FLAG_MID_JOIN).call(OUT, DATA).call(IN, DATA);
        script.call(OUT, DATA).call(IN, DATA).call(OUT, DATA).close(abi::CLOSE_NORMAL).end()
    };
    let (transactions, script) = play(true);
    assert_eq!(ends(&transactions), [(End::Answered, Confidence::Complete); 2]);
    assert!(transactions.iter().all(|one| one.role == Role::Server && one.target.is_none()));
    assert_eq!(script.unpaired(), []);
    let (transactions, _) = play(false);
    assert!(transactions.iter().all(|one| one.role == Role::Client));
    assert_eq!(transactions[0].confidence, Confidence::Guessed);
}
