//! WebSocket behind HTTP/1's upgrade, through the whole pipeline.

use tracer_ebpf as abi;
use tracer_user::{
    event::{Direction, Role},
    pipeline::{LostRequests, PipelineConfig},
    transaction::{Confidence, End, Kind, Transaction},
};

use crate::cases::{IN, OUT, Script};

const ASK: &str = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
const AGREE: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
/// A message of the client and one of the server.
const SAY: &[u8] = b"\x81\x82abcdxx";
const TELL: &[u8] = b"\x81\x02ok";

fn upgraded(protocols: &[&str]) -> Script {
    let protocols = protocols.iter().map(|name| (*name).to_owned()).collect();
    let config = PipelineConfig { protocols, ..PipelineConfig::default() };
    Script::new(config).open(Role::Server, 0).call(IN, ASK).call(OUT, AGREE)
}

fn frames(mut script: Script, direction: Direction, bytes: &[u8], captured: usize) -> Script {
    let data = script.data(direction, bytes, captured);
    script.push(data)
}

fn both(script: Script) -> Script {
    frames(frames(script, IN, SAY, usize::MAX), OUT, TELL, usize::MAX)
}

fn messages(one: &Transaction) -> [Option<u64>; 2] {
    [one.request_messages, one.response_messages]
}

#[test]
fn messages_and_bytes_of_both_sides_are_counted_until_the_close() {
    for protocols in [&[][..], &["websocket"], &["http1"]] {
        let mut script = upgraded(protocols);
        for _ in 0..4 {
            script = both(script);
        }
        let verdicts = script.verdicts.clone();
        let script = frames(script, IN, b"\x88\x82abcd\x62\x8a", usize::MAX);
        let end = script.now;
        let one = script.wait(700).close(abi::CLOSE_NORMAL).one();
        assert_eq!((one.protocol, one.kind, one.end), ("websocket", Kind::LongLived, End::Upgraded));
        assert_eq!((messages(&one), one.status_code, one.error), ([Some(4); 2], Some(101), false));
        assert_eq!(one.request_bytes, (ASK.len() + 4 * SAY.len() + 8) as u64);
        assert_eq!(one.response_bytes, (AGREE.len() + 4 * TELL.len()) as u64);
        assert_eq!((&*one.operation, one.confidence), ("GET /chat", Confidence::Complete));
        assert!(one.end_time.0 > end && !one.is_measured());
        assert_eq!(verdicts.0.lock().unwrap().last().unwrap().mode, abi::VERDICT_EVERYTHING);
    }
}

#[test]
fn the_first_close_says_how_it_went() {
    for (close, error) in [
        (&b"\x88\x02\x03\xe8"[..], None),
        (b"\x88\x02\x03\xe9", None),
        (b"\x88\x00", None),
        (b"\x88\x02\x03\xf3", Some("1011")),
        (b"\x88\x03\x0f\xa1x", Some("4xxx")),
    ] {
        let script = frames(both(upgraded(&[])), OUT, close, usize::MAX);
        let script = frames(script, IN, b"\x88\x82abcd\x62\x91", usize::MAX);
        let one = script.close(abi::CLOSE_NORMAL).one();
        assert_eq!((one.error, one.error_type.as_deref(), one.end), (error.is_some(), error, End::Upgraded));
        assert_eq!((one.status_code, messages(&one)), (Some(101), [Some(1); 2]));
    }
}

#[test]
fn what_is_lost_of_a_socket_is_a_gap_in_it_and_no_lost_request() {
    for direction in [IN, OUT] {
        let bytes = if direction == IN { "abcdefgh" } else { "abcd" };
        let script = both(upgraded(&[])).lose(direction, bytes);
        let (transactions, script) = both(both(script)).close(abi::CLOSE_NORMAL).end();
        let [one] = &transactions[..] else { panic!("{transactions:#?}") };
        assert_eq!((one.end, one.confidence), (End::Upgraded, Confidence::Gap));
        assert!(messages(one).iter().all(|n| (2..=3).contains(&n.unwrap_or(0))), "{one:#?}");
        assert_eq!(script.pipeline.snapshot().lost_requests, LostRequests::default());
        assert_eq!(script.unpaired(), []);
    }
}

#[test]
fn bytes_that_are_no_frames_are_a_gap() {
    let script = frames(both(upgraded(&[])), OUT, b"\xff\xff", usize::MAX);
    let (transactions, script) = both(script).close(abi::CLOSE_NORMAL).end();
    assert_eq!((transactions.len(), transactions[0].end), (1, End::Upgraded));
    assert_eq!((transactions[0].confidence, messages(&transactions[0])), (Confidence::Gap, [Some(2); 2]));
    assert_eq!(script.pipeline.snapshot().lost_requests, LostRequests::default());
}

#[test]
fn a_long_message_is_passed_over_by_its_length() {
    let mut long = b"\x82\x7f\x00\x00\x00\x00\x00\x01\x11\x70".to_vec();
    long.resize(10 + 70_000, b'x');
    let mut script = frames(both(upgraded(&[])), OUT, &long[..300], usize::MAX).wait(30);
    let resume = script.verdicts.0.lock().unwrap().last().unwrap().resume;
    assert_eq!(resume[OUT.index()], script.positions[OUT.index()] + 70_010 - 300);
    script = frames(script, OUT, &long[300..], 0);
    let one = both(script).close(abi::CLOSE_NORMAL).one();
    assert_eq!((messages(&one), one.confidence), ([Some(2), Some(3)], Confidence::Complete));
}
