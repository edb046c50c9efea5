//! Events with patterns in them, recorded: the live run, replays however they are cut, and `txray patterns` find the same.

use std::{path::Path, process::Command, sync::Arc};

use tracer_ebpf as abi;
use tracer_user::{
    cli::{delivery::Delivery, patterns::gather},
    event::{ConnId, ConnOpen, Counters, Data, Event, EventBatch, ProcessFacts, Role},
    metrics::Metrics,
    pipeline::{LookedFor, NullVerdicts, Pipeline, PipelineConfig, Snapshot},
    sink::{
        Sink as _,
        fanout::Inline,
        patterns::{Finding, Pattern, PatternSink, SharedPatterns},
        recording::{Recorder, RecordingConfig},
    },
    source::recording::Recording,
    time::{Anchor, BootTime, WallTime},
    transaction::{Transaction, TransactionBatch, WallRange},
};

use super::synthetic::{BEGIN, SECOND, Scenario, with};

const BOOT: u64 = 7_000 * SECOND;

fn boot(at: WallTime) -> BootTime {
    BootTime(at.0 - BEGIN + BOOT)
}

/// The records that the kernel would give of a request on a connection of its own.
fn exchange(i: u64, row: &Transaction) -> [Event; 3] {
    let (conn, pid) = (ConnId(0x10_000 + i), if &*row.service == "shop" { 5 } else { 6 });
    let mut tuple = abi::Tuple { family: abi::FAMILY_INET, ..abi::Tuple::default() };
    tuple.local[..4].copy_from_slice(&[10, 0, 0, 1]);
    tuple.remote[..4].copy_from_slice(&[10, 0, 0, 9]);
    (tuple.local_port, tuple.remote_port) = (80, 1_024 + (i % 60_000) as u16);
    let open =
        ConnOpen { time: boot(row.start_time), conn, role: Role::Server, tuple, pid, ..ConnOpen::default() };
    let data = |at: WallTime, turn: u32, flags: u16, text: &str| Data {
        time: boot(at),
        first: boot(at),
        conn,
        position: 1 << 33,
        bytes: text.len() as u64,
        turn,
        flags: flags | abi::FLAG_TURN_START,
        pid,
        tid: pid,
        n_calls: 1,
        payload: text.as_bytes().to_vec().into(),
        ..Data::default()
    };
    let target = if row.operation.starts_with("POST") { "POST /order" } else { "GET /item/1" };
    let request = format!("{target} HTTP/1.1\r\nHost: shop\r\nContent-Length: 0\r\n\r\n");
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    [
        Event::ConnOpen(open),
        Event::Data(data(row.start_time, 1, 0, &request)),
        Event::Data(data(row.end_time, 2, abi::FLAG_EGRESS, answer)),
    ]
}

fn events(scenario: &Scenario) -> Vec<Event> {
    let mut timed: Vec<(u64, u64, Event)> = Vec::new();
    for (i, row) in scenario.transactions().iter().enumerate() {
        let [open, request, answer] = exchange(i as u64, row);
        let (start, end) = (boot(row.start_time).0, boot(row.end_time).0);
        timed.extend([(start, 0, open), (start, 1, request), (end, 2, answer)]);
    }
    let last = timed.iter().map(|(at, ..)| *at).max().unwrap();
    // Counters each second, and the clock's beat.
    for at in (BOOT..last).step_by(SECOND as usize / 10) {
        timed.push((at, 3, Event::Tick(BootTime(at))));
        if (at - BOOT).is_multiple_of(SECOND) {
            let n = scenario.lost.map_or(0, |lost| u64::from(at - BOOT >= (lost * 1e9) as u64) * 500);
            let values = vec![("kernel.refused_data".into(), n)];
            timed.push((at, 4, Event::Counters(Counters { time: BootTime(at), values })));
        }
    }
    timed.sort_by_key(|(at, order, _)| (*at, *order));
    let facts = |pid, service: &str| {
        Event::ProcessFacts(ProcessFacts {
            time: BootTime(BOOT),
            pid,
            service: service.into(),
            ..ProcessFacts::default()
        })
    };
    let first = [
        Event::Anchor(Anchor { boot: BootTime(BOOT), wall: WallTime(BEGIN) }),
        facts(5, "shop"),
        facts(6, "stock"),
    ];
    first.into_iter().chain(timed.into_iter().map(|(.., event)| event)).collect()
}

/// Runs events in batches of so many, and records them if there is a folder.
fn run(events: &[Event], at_once: usize, dir: Option<&Path>) -> Vec<Finding> {
    let metrics = Metrics::default();
    let mut pipeline = Pipeline::new(PipelineConfig::default(), metrics.clone(), Box::new(NullVerdicts));
    let shared = SharedPatterns::default();
    let sink = PatternSink::new(shared.clone(), metrics.clone());
    let mut inline = Inline::new(vec![Box::new(sink)], metrics.clone());
    let mut recorder = dir.map(|dir| {
        let config = RecordingConfig {
            queue_bytes: 1 << 30,
            queue_batches: 1 << 20,
            ..RecordingConfig::new(dir.to_owned())
        };
        Recorder::start(config, metrics.clone()).unwrap()
    });
    let mut rows = recorder.as_ref().map(Recorder::transactions);
    let mut delivery = Delivery::new(LookedFor::ALL, None, None, metrics.clone());
    let mut out = |batch: TransactionBatch, snapshot: Option<Arc<Snapshot>>| {
        inline.send(&batch, snapshot.as_deref());
        if let Some(rows) = &mut rows {
            rows.write(&batch).unwrap();
        }
    };
    let mut first_ordinal = 0;
    for chunk in events.chunks(at_once) {
        let batch = Arc::new(EventBatch { events: chunk.to_vec(), first_ordinal });
        first_ordinal += chunk.len() as u64;
        if let Some(recorder) = &mut recorder {
            recorder.tap(&batch);
        }
        for event in &batch.events {
            delivery.push(event, &mut pipeline, &mut out);
        }
        delivery.batch_is_over(&mut pipeline, &mut out);
    }
    pipeline.settle();
    let rest = pipeline.finish();
    let last = Arc::new(pipeline.snapshot());
    delivery.deliver(rest, Some(last), &mut out);
    inline.finish();
    if let Some(mut rows) = rows {
        rows.finish().unwrap();
    }
    if let Some(recorder) = recorder {
        assert_eq!(recorder.finish().unwrap().n_lost, 0);
    }
    let found = shared.lock();
    found.findings().cloned().collect()
}

#[test]
fn a_replay_finds_what_the_live_run_found() {
    for (pattern, seed) in
        [(Pattern::Vertical, 1), (Pattern::Horizontal, 4), (Pattern::Ramp, 9), (Pattern::Unseen, 3)]
    {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("recording");
        let events = events(&with(pattern, seed));
        let live = run(&events, 64, Some(&dir));
        assert!(live.iter().any(|finding| finding.pattern == pattern), "{pattern:?}: {live:?}");
        assert_eq!(run(&events, 1_000, None), live, "{pattern:?}: cut otherwise");
        let recording = Recording::open(&dir).unwrap();
        let (found, faults) = gather(&recording, WallRange::default(), None).unwrap();
        assert_eq!(faults, Vec::<String>::new());
        let replayed: Vec<Finding> = found.lock().findings().cloned().collect();
        assert_eq!(replayed, live, "{pattern:?}");
        // And the program prints them.
        let output = Command::new(env!("CARGO_BIN_EXE_txray"))
            .arg("patterns")
            .arg(&dir)
            .arg("--json")
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let told: Vec<serde_json::Value> = output
            .stdout
            .split(|b| *b == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_slice(line).unwrap())
            .collect();
        let want: Vec<&str> = live.iter().map(|finding| finding.pattern.as_str()).collect();
        assert_eq!(told.iter().map(|value| value["pattern"].as_str().unwrap()).collect::<Vec<_>>(), want);
        let none = Command::new(env!("CARGO_BIN_EXE_txray"))
            .args(["patterns", dir.to_str().unwrap(), "--filter", "service = nobody"])
            .output()
            .unwrap();
        assert_eq!((none.status.code(), none.stdout.len()), (Some(1), 0));
    }
}
