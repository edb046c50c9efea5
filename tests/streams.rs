//! Streams on one connection through the whole pipeline: interleaved, lost in part, closed early, answered before they were asked.

use httlib_hpack::Encoder;
use tracer_ebpf as abi;
use tracer_user::{
    event::{ConnClose, ConnId, ConnOpen, Data, Direction, Event, Role},
    metrics::Metrics,
    pipeline::{Pipeline, PipelineConfig, VerdictSink},
    time::{Anchor, BootTime, WallTime},
    transaction::{Confidence, End, Kind, Transaction},
};

const MS: u64 = 1_000_000;
const IN: Direction = Direction::Ingress;
const OUT: Direction = Direction::Egress;
/// The preface and empty settings, one of them with a value.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const SETTINGS: &[u8] = b"\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0\x64";

struct Nowhere;

impl VerdictSink for Nowhere {
    fn set(&mut self, _: ConnId, _: abi::Verdict) {}
}

/// Writes what each side says.
struct Peer(Encoder<'static>);

impl Peer {
    fn new() -> Peer {
        Peer(Encoder::default())
    }

    fn fields(&mut self, stream: u32, end: bool, fields: &[(&str, &str)]) -> Vec<u8> {
        let mut block = Vec::new();
        for (name, value) in fields {
            let flags = Encoder::WITH_INDEXING | Encoder::BEST_FORMAT | Encoder::HUFFMAN_VALUE;
            let field = (name.as_bytes().to_vec(), value.as_bytes().to_vec(), flags);
            self.0.encode(field, &mut block).unwrap();
        }
        frame(1, 4 | u8::from(end), stream, &block)
    }

    fn get(&mut self, stream: u32) -> Vec<u8> {
        let path = format!("/page?n={stream}");
        self.fields(
            stream,
            true,
            &[(":method", "GET"), (":scheme", "http"), (":path", &path), (":authority", "a")],
        )
    }

    fn ok(&mut self, stream: u32) -> Vec<u8> {
        let length = (stream * 10).to_string();
        self.fields(stream, false, &[(":status", "200"), ("server", "x"), ("content-length", &length)])
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// The body of a stream's answer: as long as its number says.
fn body(stream: u32) -> Vec<u8> {
    frame(0, 1, stream, &vec![b'x'; stream as usize * 10])
}

/// One connection, as a script; events that are pushed and, for a second run, kept.
struct Script {
    pipeline: Pipeline,
    positions: [u64; 2],
    turn: u32,
    speaking: Option<Direction>,
    now: u64,
    events: Vec<Event>,
}

fn pipeline() -> Pipeline {
    Pipeline::new(PipelineConfig::default(), Metrics::default(), Box::new(Nowhere))
}

impl Script {
    fn open(role: Role) -> Script {
        let mut script = Script {
            pipeline: pipeline(),
            positions: [1 << 33, 1 << 34],
            turn: 0,
            speaking: None,
            now: 1_000 * MS,
            events: Vec::new(),
        };
        script.event(Event::Anchor(Anchor { boot: BootTime(0), wall: WallTime(0) }));
        let mut tuple = abi::Tuple { family: abi::FAMILY_INET, ..abi::Tuple::default() };
        (tuple.local_port, tuple.remote_port) = (80, 40_000);
        let time = BootTime(script.now);
        let open = ConnOpen { time, conn: ConnId(7), role, tuple, pid: 5, ..ConnOpen::default() };
        script.event(Event::ConnOpen(open));
        script
    }

    fn event(&mut self, event: Event) {
        self.pipeline.push(&event);
        self.events.push(event);
    }

    fn data(&mut self, direction: Direction, bytes: &[u8]) -> Data {
        self.now += MS;
        let turn_start = self.speaking != Some(direction);
        if turn_start {
            self.speaking = Some(direction);
            self.turn += 1;
        }
        let position = self.positions[direction.index()];
        self.positions[direction.index()] += bytes.len() as u64;
        let flags = if direction == OUT { abi::FLAG_EGRESS } else { 0 };
        Data {
            time: BootTime(self.now),
            first: BootTime(self.now - MS / 2),
            conn: ConnId(7),
            position,
            bytes: bytes.len() as u64,
            turn: self.turn,
            flags: flags | if turn_start { abi::FLAG_TURN_START } else { 0 },
            pid: 5,
            tid: 6,
            n_calls: 1,
            payload: bytes.to_vec().into(),
            ..Data::default()
        }
    }

    fn call(&mut self, direction: Direction, bytes: &[u8]) {
        let data = self.data(direction, bytes);
        self.event(Event::Data(data));
    }

    fn lose(&mut self, direction: Direction, bytes: &[u8]) {
        self.data(direction, bytes);
    }

    fn close(&mut self) {
        self.now += MS;
        let close = ConnClose {
            time: BootTime(self.now),
            conn: ConnId(7),
            position: self.positions,
            turn: self.turn,
            reason: abi::CLOSE_NORMAL,
            ..ConnClose::default()
        };
        self.event(Event::ConnClose(close));
    }

    /// What came of it, by the stream that the target names; and how many responses had no request.
    fn end(mut self) -> (Vec<(u32, Transaction)>, u64) {
        let transactions = self.pipeline.finish().transactions;
        let unpaired = self.pipeline.snapshot().unpaired.iter().map(|(_, n)| n).sum();
        (by_stream(transactions), unpaired)
    }
}

fn by_stream(transactions: Vec<Transaction>) -> Vec<(u32, Transaction)> {
    let number = |one: &Transaction| {
        let target = one.target.as_deref().map(|target| String::from_utf8_lossy(target).into_owned());
        target.and_then(|target| target.strip_prefix("/page?n=")?.parse().ok()).unwrap_or(0)
    };
    let mut all: Vec<_> = transactions.into_iter().map(|one| (number(&one), one)).collect();
    all.sort_by_key(|(stream, _)| *stream);
    all
}

/// An answer is its own request's: its length says which.
#[track_caller]
fn check_answered((stream, one): &(u32, Transaction), confidence: Confidence) {
    assert_eq!((one.end, one.confidence), (End::Answered, confidence), "{stream}: {one:#?}");
    assert_eq!((one.status_code, one.protocol, &*one.operation), (Some(200), "http2", "GET /page"));
    let n_body = u64::from(*stream) * 10 + 9;
    let n_head = one.response_bytes - n_body;
    assert!((10..50).contains(&n_head), "{stream}: {one:#?}");
}

/// Requests on streams 1, 3, …, each in a call of its own.
fn ask(script: &mut Script, client: &mut Peer, direction: Direction, n: u32) {
    for at in 0..n {
        script.call(direction, &client.get(2 * at + 1));
    }
}

#[test]
fn interleaved_answers_are_paired_and_their_bytes_are_counted_by_stream() {
    let mut script = Script::open(Role::Server);
    let (mut client, mut server) = (Peer::new(), Peer::new());
    script.call(IN, PREFACE);
    script.call(OUT, SETTINGS);
    ask(&mut script, &mut client, IN, 8);
    let heads: Vec<u8> = (0..8).rev().flat_map(|at| server.ok(2 * at + 1)).collect();
    script.call(OUT, &heads);
    for at in [3, 0, 7, 1, 6, 2, 5, 4] {
        let body = body(2 * at + 1);
        let (one, two) = body.split_at(body.len() / 2);
        script.call(OUT, one);
        script.call(OUT, two);
    }
    script.close();
    let (all, unpaired) = script.end();
    assert_eq!((all.len(), unpaired), (8, 0));
    for one in &all {
        check_answered(one, Confidence::Complete);
    }
    let order: Vec<u64> = all.iter().map(|(_, one)| one.ordinal).collect();
    assert_eq!(order, (0..8).collect::<Vec<u64>>());
    assert!(all[3].1.end_time < all[0].1.end_time, "the answers' own order");
}

#[test]
fn what_a_loss_of_answers_may_have_held_leaves_open_and_no_pair_is_wrong() {
    let mut script = Script::open(Role::Server);
    let (mut client, mut server) = (Peer::new(), Peer::new());
    script.call(IN, PREFACE);
    script.call(OUT, SETTINGS);
    ask(&mut script, &mut client, IN, 4);
    script.call(OUT, &[server.ok(1), body(1)].concat());
    script.lose(OUT, &[server.ok(3), body(3), server.ok(5)].concat());
    // In a new turn, frames are found again; the rest of stream 5's answer, all of 7's and of a later one.
    script.call(IN, &client.get(9));
    script.call(OUT, &[body(5), server.ok(7), body(7), server.ok(9), body(9)].concat());
    script.close();
    let (all, unpaired) = script.end();
    assert_eq!((all.len(), unpaired), (5, 0));
    check_answered(&all[0], Confidence::Complete);
    for lost in &all[1..3] {
        assert_eq!((lost.1.end, lost.1.confidence), (End::TracerStopped, Confidence::Gap), "{lost:?}");
        assert_eq!(lost.1.status_code, None, "{lost:?}");
    }
    check_answered(&all[3], Confidence::Gap);
    check_answered(&all[4], Confidence::Gap);
}

#[test]
fn behind_a_loss_of_requests_an_answer_without_one_is_unpaired_and_names_are_not_invented() {
    let mut script = Script::open(Role::Server);
    let (mut client, mut server) = (Peer::new(), Peer::new());
    script.call(IN, PREFACE);
    script.call(OUT, SETTINGS);
    script.call(IN, &client.get(1));
    script.call(OUT, &[server.ok(1), body(1)].concat());
    script.lose(IN, &client.get(3));
    script.call(OUT, &[server.ok(3), body(3)].concat());
    // Its path is the one of stream 1, which is an entry of the table that is not known any more.
    let again = client.fields(
        5,
        true,
        &[(":method", "GET"), (":scheme", "http"), (":path", "/page?n=1"), (":authority", "a")],
    );
    script.call(IN, &again);
    script.call(OUT, &[server.ok(5), body(5)].concat());
    script.call(IN, &client.get(7));
    script.call(OUT, &[server.ok(7), body(7)].concat());
    script.close();
    let (all, unpaired) = script.end();
    assert_eq!((all.len(), unpaired), (3, 1));
    let (_, unnamed) = &all[0];
    assert_eq!((&*unnamed.operation, &unnamed.target), ("GET", &None));
    assert_eq!((unnamed.status_code, unnamed.response_bytes > 59), (Some(200), true));
    check_answered(&all[1], Confidence::Complete);
    // Its authority is such an entry too.
    check_answered(&all[2], Confidence::Gap);
}

#[test]
fn streams_in_flight_end_with_their_connection() {
    let mut script = Script::open(Role::Server);
    let (mut client, mut server) = (Peer::new(), Peer::new());
    script.call(IN, PREFACE);
    script.call(OUT, SETTINGS);
    ask(&mut script, &mut client, IN, 3);
    script.call(OUT, &[server.ok(3), body(3), server.ok(5)].concat());
    script.close();
    let (all, _) = script.end();
    let ends: Vec<_> = all.iter().map(|(_, one)| (one.end, one.error_type.as_deref())).collect();
    let closed = (End::Closed, Some("connection_closed"));
    assert_eq!(ends, [closed, (End::Answered, None), closed]);
}

#[test]
fn streams_that_are_given_up_and_refused_say_why() {
    let mut script = Script::open(Role::Server);
    let (mut client, mut server) = (Peer::new(), Peer::new());
    script.call(IN, PREFACE);
    script.call(OUT, SETTINGS);
    ask(&mut script, &mut client, IN, 4);
    script.call(IN, &frame(3, 0, 1, b"\0\0\0\x08"));
    script.call(OUT, &[server.ok(3), body(3), frame(3, 0, 3, b"\0\0\0\0")].concat());
    script.call(OUT, &frame(7, 0, 0, b"\0\0\0\x05\0\0\0\0"));
    script.call(OUT, &[server.ok(5), body(5)].concat());
    script.close();
    let (all, unpaired) = script.end();
    let ends: Vec<_> = all.iter().map(|(_, one)| (one.end, one.error_type.as_deref())).collect();
    let answered = (End::Answered, None);
    let reset = |name| (End::Reset, Some(name));
    assert_eq!(ends, [reset("CANCEL"), answered, answered, reset("REFUSED_STREAM")]);
    assert_eq!(unpaired, 0);
}

#[test]
fn answers_that_are_stamped_before_their_questions_find_them_while_others_are_in_flight() {
    let mut script = Script::open(Role::Client);
    let (mut client, mut server) = (Peer::new(), Peer::new());
    script.call(OUT, &[PREFACE, &client.get(1)].concat());
    script.call(IN, SETTINGS);
    // The sending thread comes back from its call only when another one has read the answer.
    let sent = script.now;
    let mut ask = script.data(OUT, &client.get(3));
    ask.first = BootTime(sent + 1);
    script.call(IN, &[server.ok(3), body(3)].concat());
    script.now += MS;
    ask.time = BootTime(script.now);
    script.event(Event::Data(ask));
    script.call(IN, &[server.ok(1), body(1)].concat());
    script.close();
    let (all, unpaired) = script.end();
    assert_eq!((all.len(), unpaired), (2, 0));
    for one in &all {
        check_answered(one, Confidence::Complete);
    }
    assert!(all[1].1.end_time < all[0].1.end_time && all[1].1.start_time == WallTime(sent + 1));
}

#[test]
fn an_answer_that_nobody_asked_for_waits_for_the_window_and_is_unpaired_then() {
    let mut script = Script::open(Role::Client);
    let (mut client, mut server) = (Peer::new(), Peer::new());
    script.call(OUT, &[PREFACE, &client.get(1)].concat());
    script.call(IN, SETTINGS);
    script.call(IN, &[server.ok(9), body(9)].concat());
    script.now += 50 * MS;
    // A request on that stream that began behind the answer is another's.
    script.call(OUT, &client.get(9));
    script.call(IN, &[server.ok(1), body(1)].concat());
    script.close();
    let (all, unpaired) = script.end();
    assert_eq!((all.len(), unpaired), (2, 1));
    check_answered(&all[0], Confidence::Complete);
    assert_eq!((all[1].1.end, all[1].1.status_code), (End::Closed, None));
}

#[test]
fn calls_are_counted_and_end_with_their_trailers() {
    let mut script = Script::open(Role::Server);
    let (mut client, mut server) = (Peer::new(), Peer::new());
    script.call(IN, PREFACE);
    script.call(OUT, SETTINGS);
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/shop.Orders/List"),
        ("content-type", "application/grpc"),
    ];
    let ask = [client.fields(1, false, &fields), frame(0, 1, 1, b"\0\0\0\0\x02ab")].concat();
    script.call(IN, &ask);
    script.call(OUT, &server.fields(1, false, &[(":status", "200"), ("content-type", "application/grpc")]));
    script.call(OUT, &frame(0, 0, 1, b"\0\0\0\0\x01a\0\0\0\0"));
    script.call(OUT, &frame(0, 0, 1, b"\x01b\0\0\0\0\0"));
    let end = server.fields(1, true, &[("grpc-status", "14"), ("grpc-message", "gone%20away")]);
    script.call(OUT, &end);
    let ended = script.now;
    script.close();
    let one = script.end().0.remove(0).1;
    assert_eq!((one.protocol, &*one.operation, one.kind), ("grpc", "shop.Orders/List", Kind::LongLived));
    assert_eq!((one.request_messages, one.response_messages), (Some(1), Some(3)));
    assert_eq!(
        (one.status_code, one.error, one.error_type.as_deref()),
        (Some(14), true, Some("UNAVAILABLE"))
    );
    assert_eq!(one.error_message.as_deref(), Some(&b"gone away"[..]));
    assert_eq!((one.end, one.end_time), (End::Answered, WallTime(ended)));
    assert_eq!(one.request_bytes, ask.len() as u64);
}

/// A request for an event stream, and its answer's head.
fn events(client: &mut Peer, server: &mut Peer, stream: u32, coding: &str) -> [Vec<u8>; 2] {
    let path = format!("/page?n={stream}");
    let asked = [(":method", "GET"), (":scheme", "http"), (":path", &path), (":authority", "a")];
    let told = [
        (":status", "200"),
        ("content-type", "text/event-stream; charset=utf-8"),
        ("content-encoding", coding),
    ];
    [client.fields(stream, true, &asked), server.fields(stream, false, &told)]
}

/// A request for a WebSocket, and its answer's head.
fn socket(client: &mut Peer, server: &mut Peer, stream: u32) -> [Vec<u8>; 2] {
    let path = format!("/page?n={stream}");
    let asked = [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "http"),
        (":path", &path),
        (":authority", "a"),
    ];
    [client.fields(stream, false, &asked), server.fields(stream, false, &[(":status", "200")])]
}

fn messages(one: &Transaction) -> [Option<u64>; 2] {
    [one.request_messages, one.response_messages]
}

#[test]
fn events_are_counted_while_other_streams_go_on() {
    let mut script = Script::open(Role::Server);
    let (mut client, mut server) = (Peer::new(), Peer::new());
    script.call(IN, PREFACE);
    script.call(OUT, SETTINGS);
    let mut heads = Vec::new();
    for (stream, coding) in [(1, "identity"), (3, "gzip"), (5, "identity")] {
        let [asked, told] = events(&mut client, &mut server, stream, coding);
        script.call(IN, &asked);
        heads.extend(told);
    }
    script.call(OUT, &heads);
    script.call(IN, &client.get(7));
    let text = b"data: a\n\n: alive\n\ndata: b\r\n\r\ndata: c";
    let (one, two) = text.split_at(12);
    let padded = [&[3][..], one, b"\n\n\n"].concat();
    script.call(OUT, &[frame(0, 8, 1, &padded), frame(0, 0, 3, text), server.ok(7)].concat());
    let rest = frame(0, 1, 1, two);
    for piece in [&rest[..5], &rest[5..10], &rest[10..]] {
        script.call(OUT, piece);
    }
    script.call(OUT, &[body(7), frame(0, 1, 3, b""), frame(0, 1, 5, b"")].concat());
    script.close();
    let (all, unpaired) = script.end();
    assert_eq!((all.len(), unpaired), (4, 0));
    check_answered(&all[3], Confidence::Complete);
    for ((stream, one), n) in all.iter().zip([Some(2), None, Some(0)]) {
        assert_eq!(
            (one.kind, one.end, one.confidence),
            (Kind::LongLived, End::Answered, Confidence::Complete)
        );
        assert_eq!(messages(one), [None, n], "{stream}");
    }
}

#[test]
fn a_socket_on_a_stream_counts_its_messages_and_says_how_it_was_closed() {
    for (close, code) in
        [(&b"\x88\x02\x03\xe8"[..], None), (b"\x88\x02\x03\xf3", Some("1011")), (b"\x88\x00", None)]
    {
        let mut script = Script::open(Role::Server);
        let (mut client, mut server) = (Peer::new(), Peer::new());
        script.call(IN, PREFACE);
        script.call(OUT, SETTINGS);
        let [asked, told] = socket(&mut client, &mut server, 1);
        script.call(IN, &asked);
        script.call(OUT, &told);
        let said = b"\x81\x82abcdxx\x01\x81abcdx\x89\x80abcd\x80\x81abcdx";
        let in_frames: Vec<u8> = said.chunks(7).flat_map(|piece| frame(0, 0, 1, piece)).collect();
        script.call(IN, &in_frames);
        script.call(OUT, &frame(0, 0, 1, b"\x81\x02ok"));
        script.call(OUT, &frame(0, 0, 1, close));
        script.call(IN, &frame(0, 1, 1, b"\x88\x82abcd\x62\x91"));
        script.call(OUT, &frame(0, 1, 1, b""));
        script.close();
        let one = script.end().0.remove(0).1;
        assert_eq!(
            (one.protocol, &*one.operation, one.kind),
            ("websocket", "CONNECT /page", Kind::LongLived)
        );
        assert_eq!(
            (one.end, one.confidence, one.status_code),
            (End::Answered, Confidence::Complete, Some(200))
        );
        assert_eq!((messages(&one), one.error), ([Some(2), Some(1)], code.is_some()));
        assert_eq!(one.error_type.as_deref(), code);
        let n_frames = said.len().div_ceil(7) + 1;
        assert_eq!(one.request_bytes, (asked.len() + said.len() + 8 + 9 * n_frames) as u64);
        assert_eq!(one.response_bytes, (told.len() + 4 + close.len() + 3 * 9) as u64);
    }
}

#[test]
fn a_frame_that_its_side_may_not_send_leaves_no_number_and_disturbs_no_other_stream() {
    let mut script = Script::open(Role::Server);
    let (mut client, mut server) = (Peer::new(), Peer::new());
    script.call(IN, PREFACE);
    script.call(OUT, SETTINGS);
    let [asked, told] = socket(&mut client, &mut server, 1);
    script.call(IN, &asked);
    script.call(OUT, &told);
    script.call(IN, &[frame(0, 0, 1, b"\x81\x82abcdxx"), client.get(3)].concat());
    // Only clients mask.
    script.call(
        OUT,
        &[frame(0, 0, 1, b"\x81\x02ok"), frame(0, 0, 1, b"\x81\x82abcdxx"), server.ok(3)].concat(),
    );
    script.call(OUT, &[body(3), frame(0, 0, 1, b"\x81\x02ok"), frame(0, 1, 1, b"")].concat());
    script.close();
    let (all, _) = script.end();
    let [(1, one), (3, _)] = &all[..] else { panic!("{all:#?}") };
    assert_eq!(
        (messages(one), one.end, one.confidence),
        ([Some(1), None], End::Answered, Confidence::Complete)
    );
    check_answered(&all[1], Confidence::Complete);
}

/// What is lost of a stream: where the numbers are gone, and what is known all the same.
#[test]
fn behind_a_loss_there_is_no_number_of_messages_and_what_the_loss_did_not_touch_is_known() {
    let said = b"\x81\x82abcdxx";
    let told = b"\x81\x02ok";
    // Lost is a part of a frame's content, all of it, a frame's head, a whole frame; of the client, of the server.
    for direction in [IN, OUT] {
        let frame_lost = frame(0, 0, 1, if direction == IN { said } else { told });
        for lost in [10..12, 9..frame_lost.len(), 3..10, 0..frame_lost.len()] {
            let mut script = Script::open(Role::Server);
            let (mut client, mut server) = (Peer::new(), Peer::new());
            script.call(IN, PREFACE);
            script.call(OUT, SETTINGS);
            let [asked, agreed] = socket(&mut client, &mut server, 1);
            script.call(IN, &asked);
            script.call(OUT, &agreed);
            let [ask_events, tell_events] = events(&mut client, &mut server, 3, "identity");
            script.call(IN, &ask_events);
            script.call(OUT, &[tell_events, frame(0, 0, 3, b"data: a\n\n")].concat());
            for _ in 0..2 {
                script.call(IN, &frame(0, 0, 1, said));
                script.call(OUT, &frame(0, 0, 1, told));
            }
            let seen = |script: &mut Script, bytes: &[u8]| {
                if !bytes.is_empty() {
                    script.call(direction, bytes);
                }
            };
            seen(&mut script, &frame_lost[..lost.start]);
            script.lose(direction, &frame_lost[lost.clone()]);
            seen(&mut script, &frame_lost[lost.end..]);
            for _ in 0..2 {
                script.call(if direction == IN { OUT } else { IN }, &frame(6, 0, 0, b"12345678"));
                script.call(IN, &frame(0, 0, 1, said));
                script.call(OUT, &[frame(0, 0, 1, told), frame(0, 0, 3, b"data: b\n\n")].concat());
            }
            script.call(IN, &[client.get(5), frame(0, 1, 1, b"")].concat());
            script.call(OUT, &[server.ok(5), body(5), frame(0, 1, 1, b""), frame(0, 1, 3, b"")].concat());
            script.close();
            let (all, _) = script.end();
            let at = format!("{lost:?} of {direction:?}: {all:#?}");
            let find = |stream| all.iter().find(|(on, _)| *on == stream).map(|(_, one)| one);
            let (Some(socket), Some(events)) = (find(1), find(3)) else { panic!("{at}") };
            let expected = if direction == IN { [None, Some(4)] } else { [Some(4), None] };
            let n_events = if direction == IN { Some(3) } else { None };
            assert_eq!((messages(socket), messages(events)), (expected, [None, n_events]), "{at}");
            assert_eq!(socket.confidence, Confidence::Gap, "{at}");
            // The dynamic tables are whole where only content was lost.
            if lost.start >= 9 {
                assert_eq!((socket.end, events.end), (End::Answered, End::Answered), "{at}");
                check_answered(&(5, find(5).cloned().unwrap()), Confidence::Complete);
            }
        }
    }
}

#[test]
fn a_checkpoint_anywhere_gives_the_same_transactions() {
    let mut script = Script::open(Role::Client);
    let (mut client, mut server) = (Peer::new(), Peer::new());
    script.call(OUT, PREFACE);
    script.call(IN, SETTINGS);
    ask(&mut script, &mut client, OUT, 6);
    let sent = script.now;
    let mut late = script.data(OUT, &client.get(13));
    late.first = BootTime(sent + 1);
    for stream in [5, 13, 1] {
        script.call(IN, &server.ok(stream));
    }
    script.call(IN, &body(13));
    script.now += MS;
    late.time = BootTime(script.now);
    script.event(Event::Data(late));
    script.lose(IN, &server.ok(7));
    script.call(OUT, &client.get(15));
    for stream in [15, 3, 11] {
        script.call(IN, &[server.ok(stream), body(stream)].concat());
    }
    script.call(IN, &[body(5), body(1)].concat());
    script.close();
    let events = std::mem::take(&mut script.events);
    let whole = script.pipeline.finish().transactions;
    assert_eq!(whole.len(), 8);
    for cut in 0..=events.len() {
        let mut first = pipeline();
        events[..cut].iter().for_each(|event| first.push(event));
        let mut transactions = first.drain().transactions;
        let saved = first.checkpoint();
        let mut second =
            Pipeline::restore(&saved, PipelineConfig::default(), Metrics::default(), Box::new(Nowhere))
                .unwrap();
        events[cut..].iter().for_each(|event| second.push(event));
        transactions.extend(second.finish().transactions);
        assert_eq!(transactions, whole, "cut at {cut}");
    }
}
