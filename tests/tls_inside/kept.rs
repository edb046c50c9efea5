//! What is kept of both: recordings, checkpoints, the heads of what was said inside.

use std::{path::Path, process::Command};

use proptest::prelude::*;
use tracer_user::{
    pipeline::NullVerdicts,
    sink::{
        Sink as _,
        recording::{Recorder, RecordingConfig},
    },
    source::{
        Source as _,
        heads::{Head, heads},
        recording::Recording,
        replay::ReplaySource,
    },
    transaction::WallRange,
};

use super::*;

/// Several connections, of all sorts.
fn many() -> Vec<Event> {
    let mysql = b"\x20\0\0\x01";
    let stories = [
        Story::https(Role::Client, 3).close(abi::CLOSE_NORMAL),
        Story::https(Role::Server, 2).clear(Flow::Request, GET.as_bytes()).close(abi::CLOSE_RESET),
        Story::https(Role::Server, 2).clear(Flow::Request, GET.as_bytes()).close_wire(abi::CLOSE_NORMAL),
        Story::new(Role::Client)
            .open(abi::FLAG_MID_JOIN)
            .tls_open_as(6, 2, abi::FLAG_MID_JOIN)
            .exchange()
            .exchange(),
        Story::new(Role::Client).tls_open().only_clear(Flow::Request, GET.as_bytes()),
        Story::new(Role::Client).open(0).wire(Flow::Request, mysql).handshake(),
        Story::https(Role::Client, 2).wait(900),
    ];
    let mut events = Vec::new();
    for (n, story) in (0..).zip(stories) {
        let shift = |conn: &mut ConnId| conn.0 += n << 16;
        events.extend(story.events.into_iter().map(|mut event| {
            match &mut event {
                Event::Data(data) => shift(&mut data.conn),
                Event::ConnOpen(open) => shift(&mut open.conn),
                Event::ConnClose(close) => shift(&mut close.conn),
                Event::TlsOpen(open) => {
                    shift(&mut open.conn);
                    shift(&mut open.carrier);
                }
                _ => {}
            }
            event
        }));
    }
    events.sort_by_key(tracer_user::conn::order::time);
    events
}

fn new() -> Pipeline {
    Pipeline::new(config(), Metrics::default(), Box::new(NullVerdicts))
}

/// Transactions and the last snapshot, through checkpoints behind the events with these numbers.
fn through(events: &[Event], cuts: &[usize]) -> (Vec<Transaction>, Snapshot) {
    let mut pipeline = new();
    let mut transactions = Vec::new();
    for (n, event) in events.iter().enumerate() {
        if cuts.contains(&n) {
            let bytes = pipeline.checkpoint();
            pipeline =
                Pipeline::restore(&bytes, config(), Metrics::default(), Box::new(NullVerdicts)).unwrap();
        }
        pipeline.push(event);
        transactions.extend(pipeline.drain().transactions);
    }
    transactions.extend(pipeline.finish().transactions);
    (transactions, pipeline.snapshot())
}

#[test]
fn a_checkpoint_anywhere_changes_nothing() {
    let events = many();
    let whole = through(&events, &[]);
    assert!(whole.0.len() > 12 && whole.0.iter().filter(|one| one.carrier.is_some()).count() > 10);
    for cut in 0..events.len() {
        let found = through(&events, &[cut]);
        assert_eq!(found.0, whole.0, "behind {cut}");
        assert_eq!(found.1, whole.1, "behind {cut}");
    }
    let every: Vec<usize> = (0..events.len()).collect();
    assert!(through(&events, &every) == whole);
}

proptest! {
    #[test]
    fn any_batches_and_any_order_within_the_window_give_the_same(
        late in proptest::collection::vec(0..15 * MS, 200),
        sizes in proptest::collection::vec(1..40_usize, 1..30),
    ) {
        let events = many();
        let (whole, _) = through(&events, &[]);
        let mut shuffled: Vec<(u64, Event)> = events
            .iter()
            .zip(late.iter().cycle())
            .map(|(event, late)| (tracer_user::conn::order::time(event).0 + late, event.clone()))
            .collect();
        shuffled.sort_by_key(|(time, _)| *time);
        let mut pipeline = new();
        let mut transactions = Vec::new();
        let mut rest: &[(u64, Event)] = &shuffled;
        for size in sizes.iter().cycle() {
            let (batch, left) = rest.split_at((*size).min(rest.len()));
            rest = left;
            let events = batch.iter().map(|(_, event)| event.clone()).collect();
            pipeline.push_batch(&EventBatch { first_ordinal: 0, events });
            transactions.extend(pipeline.drain().transactions);
            if rest.is_empty() {
                break;
            }
        }
        transactions.extend(pipeline.finish().transactions);
        prop_assert_eq!(transactions, whole);
    }
}

/// Anything that could be read from a ring or a file: links to connections that are not there, to oneself, in circles.
fn anything() -> impl Strategy<Value = Vec<Event>> {
    let step = (0..9_u8, 0..5_u64, 0..5_u64, any::<bool>(), 0..6_usize, 0..9_u64);
    proptest::collection::vec(step, 1..150).prop_map(|steps| {
        let mut sides: Vec<Side> = (0..5).map(|n| Side::new(ConnId(0x4000 + 0x40 * n), 0)).collect();
        let mut now = 1_000 * MS;
        let mut events = Vec::new();
        for (what, one, other, egress, say, wait) in steps {
            now += wait * wait * wait * MS / 8;
            let (conn, carrier) = (ConnId(0x4000 + 0x40 * one), ConnId(0x4000 + 0x40 * other));
            let side = &mut sides[one as usize];
            let time = BootTime(now);
            let said: [&[u8]; 6] = [
                GET.as_bytes(),
                OK.as_bytes(),
                &record(23, &[7; 40]),
                b"\xd1",
                &record(22, &[1; 50]),
                b"+OK\r\n",
            ];
            let direction = if egress { OUT } else { IN };
            events.push(match what {
                0 => {
                    let (link, flags) = (say as u16, if egress { abi::FLAG_MID_JOIN } else { 0 });
                    Event::TlsOpen(TlsOpen { time, conn, carrier, pid: 5, library: 1, link, flags })
                }
                1 => {
                    let role = if egress { Role::Client } else { Role::Server };
                    Event::ConnOpen(ConnOpen { time, conn, role, ..ConnOpen::default() })
                }
                2 if say == 0 => side.close(now, abi::CLOSE_NORMAL),
                3 if say == 0 => {
                    let mut data = side.clone().data(now, direction, b"");
                    data.flags |= abi::FLAG_ERROR;
                    Event::Data(data)
                }
                4 => {
                    // It never comes.
                    side.data(now, direction, said[say]);
                    Event::Tick(time)
                }
                5 => {
                    let mut data = side.data(now, direction, said[say]);
                    data.payload = Bytes::new();
                    Event::Data(data)
                }
                _ => Event::Data(side.data(now, direction, said[say])),
            });
        }
        events
    })
}

proptest! {
    #[test]
    fn whatever_is_linked_to_whatever_the_account_is_right_and_a_checkpoint_changes_nothing(
        events in anything(),
        cuts in proptest::collection::vec(0..150_usize, 3),
        max_conns in 1..6_usize,
    ) {
        // Says at every instant that the account is right.
        let small = PipelineConfig { max_conns, idle_after_ns: 500 * MS, ..config() };
        let run = Run::of(&events, small);
        prop_assert!(run.snapshot.n_conns <= max_conns);
        let whole = through(&events, &[]);
        prop_assert!(through(&events, &cuts) == whole);
    }
}

/// Records events, with checkpoints among them; gives the transactions.
fn record_all(events: &[Event], dir: &Path) -> Vec<Transaction> {
    let recording = RecordingConfig {
        rotate_rows: 60,
        checkpoint_rows: 20,
        checkpoint_share: 0,
        ..RecordingConfig::new(dir.to_owned())
    };
    let mut pipeline = new();
    let mut recorder = Recorder::start(recording, Metrics::default()).unwrap();
    let mut sink = recorder.transactions();
    let mut transactions = Vec::new();
    let mut first_ordinal = 0;
    for events in events.chunks(7) {
        let batch = Arc::new(EventBatch { first_ordinal, events: events.to_vec() });
        first_ordinal += events.len() as u64;
        if recorder.wants_checkpoint() {
            recorder.checkpoint(pipeline.checkpoint(), batch.first_ordinal);
        }
        recorder.tap(&batch);
        pipeline.push_batch(&batch);
        let ready = pipeline.drain();
        transactions.extend(ready.transactions.iter().cloned());
        sink.write(&ready).unwrap();
    }
    let rest = pipeline.finish();
    transactions.extend(rest.transactions.iter().cloned());
    sink.write(&rest).unwrap();
    sink.finish().unwrap();
    recorder.finish().unwrap();
    transactions
}

#[test]
fn a_recording_gives_back_the_same_transactions_stored_and_replayed() {
    let temp = tempfile::tempdir().unwrap();
    let events = many();
    let told = record_all(&events, temp.path());
    let recording = Recording::open(temp.path()).unwrap();
    let stored: Vec<Transaction> =
        recording.transactions(WallRange::default()).flat_map(Result::unwrap).collect();
    assert_eq!(stored, told);
    let mut source = ReplaySource::open(&recording, WallRange::default(), Metrics::default()).unwrap();
    let mut pipeline = new();
    let (mut replayed, mut read) = (Vec::new(), Vec::new());
    while let Some(batch) = source.next_batch().unwrap() {
        pipeline.push_batch(&batch);
        read.extend(batch.events.iter().cloned());
        replayed.extend(pipeline.drain().transactions);
    }
    replayed.extend(pipeline.finish().transactions);
    assert_eq!(read, events);
    assert_eq!(replayed, told);
    // Each is found by its id, and nothing is read for one that cannot be there.
    let find = |id: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_txray"));
        command.env("XDG_CONFIG_HOME", "/nonexistent").arg("find").arg(temp.path());
        let output = command.args(["--id", id, "--json"]).output().unwrap();
        [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap())
    };
    for one in told.iter().filter(|one| one.is_finished()) {
        let [rows, _] = find(&one.id());
        assert_eq!(rows.lines().count(), 1, "{}", one.id());
        assert!(rows.contains(&format!("\"id\":\"{}\"", one.id())), "{rows}");
    }
    let [rows, read] = find("ffffffffffffffff-0");
    assert!(rows.is_empty() && read.contains("0 of 1 row groups read"), "{read}");
}

#[test]
fn the_heads_of_what_was_said_inside_are_found() {
    let temp = tempfile::tempdir().unwrap();
    let told = record_all(&many(), temp.path());
    // They come from the events of both connections, and of no other.
    let recording = Recording::open(temp.path()).unwrap();
    let source = ReplaySource::open(&recording, WallRange::default(), Metrics::default()).unwrap();
    let mut source = source.only(CLEAR, Some(WIRE));
    let mut seen = std::collections::BTreeSet::new();
    while let Some(batch) = source.next_batch().unwrap() {
        seen.extend(batch.events.iter().filter_map(|event| match event {
            Event::Data(data) => Some(data.conn),
            _ => None,
        }));
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), [WIRE, CLEAR]);
    let answered =
        |one: &&Transaction| one.carrier.is_some() && one.end == End::Answered && one.server_port.is_some();
    let rows: Vec<&Transaction> = told.iter().filter(answered).collect();
    assert!(rows.len() >= 8);
    for row in rows {
        let found = heads(temp.path(), row, &config()).unwrap();
        assert_eq!(found.request, Head::Whole(GET.as_bytes().into()), "{row:#?}");
        let head = OK.split("hello").next().unwrap();
        assert_eq!(found.response, Head::Whole(head.as_bytes().into()), "{row:#?}");
    }
}
