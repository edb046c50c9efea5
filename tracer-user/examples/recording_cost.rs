//! What recording and replay cost: CPU per event, bytes per event and per transaction. Run it in release:
//! `cargo run --release --example recording_cost [requests] [folder]`.
//!
//! The traffic is made up: 200 keep-alive connections of an nginx that serves 20,000 paths, heads of the usual size, times with
//! realistic noise. CPU is that of all threads of the process, as the kernel counts it.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use tracer_ebpf as abi;
use tracer_user::{
    event::{ConnId, ConnOpen, Data, Event, EventBatch, Role},
    metrics::{Counter, Metrics},
    sink::{
        Sink as _,
        recording::{Recorder, RecordingConfig},
    },
    source::{Source as _, recording::Recording, replay::ReplaySource},
    time::{Anchor, BootTime, WallTime},
    transaction::{Confidence, End, Kind, TimeBasis, Transaction, TransactionBatch, WallRange},
};

const CONNS: usize = 200;
const START: WallTime = WallTime(1_795_341_600_000_000_000);
const BATCH: usize = 1_024;

/// A generator of numbers that is the same on every machine (splitmix64).
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

fn traffic(requests: usize) -> (Vec<Arc<EventBatch>>, Vec<TransactionBatch>) {
    let mut noise = Noise(7);
    let mut events = vec![Event::Anchor(Anchor { boot: BootTime(1_000_000_000), wall: START })];
    let mut transactions = Vec::with_capacity(requests);
    let mut now = 1_000_000_000_u64;
    let mut state: Vec<(ConnId, [u64; 2], u32, u64)> = (0..CONNS)
        .map(|i| {
            (ConnId(abi::conn_id(900_000_000 + i as u64 * 31_337, i as u32 % 4)), [1 << 32, 1 << 32], 0, 0)
        })
        .collect();
    let tuple = |i: usize| abi::Tuple {
        local_port: 80,
        remote_port: 40_000 + i as u16,
        family: abi::FAMILY_INET,
        ..abi::Tuple::default()
    };
    for (i, (conn, ..)) in state.iter().enumerate() {
        let open = ConnOpen {
            time: BootTime(now),
            conn: *conn,
            tuple: tuple(i),
            pid: 4711,
            role: Role::Server,
            ..ConnOpen::default()
        };
        events.push(Event::ConnOpen(open));
    }
    for seq in 0..requests as u64 {
        let i = noise.below(CONNS as u64) as usize;
        let (conn, positions, turn, ordinal) = &mut state[i];
        now += 5_000 + noise.below(20_000);
        let worker = 4712 + (i % 4) as u32;
        let item = noise.below(20_000);
        let request = format!(
            "GET /api/item/{item}?page={} HTTP/1.1\r\nHost: shop.example:8080\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\nAccept: */*\r\nCookie: session={:016x}\r\n\r\n",
            noise.below(9),
            conn.0 ^ 0x5555
        );
        let size = 300 + noise.below(3_000);
        let response = format!(
            "HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Sun, 22 Nov 2026 10:{:02}:{:02} GMT\r\nContent-Type: application/json\r\nContent-Length: {size}\r\nConnection: keep-alive\r\nETag: \"{item:x}-{size:x}\"\r\n\r\n",
            (now / 60_000_000_000) % 60,
            (now / 1_000_000_000) % 60,
        );
        let (took, entry) = (20_000 + noise.below(200_000), 900 + noise.below(4_000));
        let mut data = |time: u64, egress: bool, head: String, bytes: u64, arrival: u64| {
            *turn += 1;
            let position = &mut positions[usize::from(egress)];
            events.push(Event::Data(Data {
                time: BootTime(time),
                first: BootTime(time - entry - (bytes & 255)),
                arrival: BootTime(arrival),
                conn: *conn,
                position: *position,
                bytes,
                turn: *turn,
                flags: abi::FLAG_TURN_START | if egress { abi::FLAG_EGRESS } else { 0 },
                pid: 4711,
                tid: worker,
                n_calls: 1,
                comm: *b"nginx\0\0\0\0\0\0\0\0\0\0\0",
                payload: Bytes::from(head),
                ..Data::default()
            }));
            *position += bytes;
        };
        let length = request.len() as u64;
        data(now, false, request, length, now - 3_000 - took % 9_000);
        let head = response.len() as u64;
        data(now + took, true, response, head + size, 0);
        let wall = |boot: u64| WallTime(START.0 + boot - 1_000_000_000);
        transactions.push(Transaction {
            start_time: wall(now),
            request_end: Some(wall(now)),
            response_start: Some(wall(now + took)),
            end_time: wall(now + took),
            duration_ns: took as i64,
            ttfb_ns: Some(took),
            queue_ns: Some(3_000 + took % 9_000),
            time_basis: TimeBasis::Exit,
            kind: Kind::Request,
            role: Role::Server,
            protocol: "http1",
            operation: "GET /api/item/{id}".into(),
            target: Some(Bytes::from(format!("/api/item/{item}?page=1"))),
            status_code: Some(200),
            error: false,
            error_type: None,
            pid: 4711,
            tid: worker,
            comm: "nginx".into(),
            service: "nginx".into(),
            client_addr: "10.0.0.7".into(),
            client_port: Some(40_000 + i as u16),
            server_addr: "10.0.0.1".into(),
            server_port: Some(80),
            request_bytes: length,
            response_bytes: head + size,
            end: End::Answered,
            confidence: Confidence::Complete,
            conn: *conn,
            ordinal: *ordinal,
            seq,
            ..Transaction::default()
        });
        *ordinal += 1;
    }
    transactions.sort_by_key(|transaction| (transaction.end_time, transaction.conn, transaction.ordinal));
    for (seq, transaction) in (0..).zip(&mut transactions) {
        transaction.seq = seq;
    }
    let mut batches = Vec::new();
    let mut first_ordinal = 0;
    let mut rest = events.into_iter().peekable();
    while rest.peek().is_some() {
        let events: Vec<Event> = rest.by_ref().take(BATCH).collect();
        let n = events.len() as u64;
        batches.push(Arc::new(EventBatch { first_ordinal, events }));
        first_ordinal += n;
    }
    let transactions = transactions
        .chunks(BATCH / 2)
        .map(|chunk| TransactionBatch { transactions: chunk.to_vec(), watermark: WallTime(0) })
        .collect();
    (batches, transactions)
}

/// CPU time of the whole process so far, ns.
fn cpu_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let requests: usize = args.next().map_or(Ok(500_000), |text| text.parse())?;
    let dir = args.next().map_or_else(
        || std::env::temp_dir().join(format!("recording-cost-{}", std::process::id())),
        Into::into,
    );
    let (batches, transactions) = traffic(requests);
    let n_events: usize = batches.iter().map(|batch| batch.events.len()).sum();
    let payload: usize = batches
        .iter()
        .flat_map(|batch| &batch.events)
        .map(|event| if let Event::Data(data) = event { data.payload.len() } else { 0 })
        .sum();
    println!("{n_events} events, {requests} requests, {} payload bytes per event", payload / n_events);

    let metrics = Metrics::default();
    let mut recorder = Recorder::start(
        RecordingConfig { queue_bytes: 1 << 30, queue_batches: 1 << 20, ..RecordingConfig::new(dir.clone()) },
        metrics.clone(),
    )?;
    let (cpu, wall) = (cpu_ns(), Instant::now());
    let mut tap_ns = 0;
    for batch in &batches {
        let before = Instant::now();
        if recorder.wants_checkpoint() {
            recorder.checkpoint(Vec::new(), batch.first_ordinal);
        }
        recorder.tap(batch);
        tap_ns += before.elapsed().as_nanos();
    }
    let mut sink = recorder.transactions();
    let after_events = recorder.finish()?;
    report("record events, sealed", cpu_ns() - cpu, wall, n_events);
    println!("  of it on the pipeline's thread: {:.1} ns per event", tap_ns as f64 / n_events as f64);
    println!("  {after_events:?}, {} lost in the queue", metrics.get(Counter::RecorderQueueFull));
    let _ = sink.finish();

    let rows_dir = dir.join("rows");
    let recorder = Recorder::start(RecordingConfig::new(rows_dir.clone()), metrics.clone())?;
    let mut sink = recorder.transactions();
    let (cpu, wall) = (cpu_ns(), Instant::now());
    for batch in &transactions {
        sink.write(batch)?;
    }
    sink.finish()?;
    recorder.finish()?;
    report("record transactions, sealed", cpu_ns() - cpu, wall, requests);

    let recording = Recording::open(&dir)?;
    let bytes: u64 = recording.runs.iter().flat_map(|run| &run.events).map(|part| part.n_bytes).sum();
    println!(
        "events: {:.1} bytes per event, {:.1} per request",
        bytes as f64 / n_events as f64,
        bytes as f64 / requests as f64
    );
    let rows = Recording::open(&rows_dir)?;
    let bytes: u64 = rows.runs.iter().flat_map(|run| &run.transactions).map(|part| part.n_bytes).sum();
    println!("transactions: {:.1} bytes per transaction", bytes as f64 / requests as f64);

    let (cpu, wall) = (cpu_ns(), Instant::now());
    let mut source = ReplaySource::open(&recording, WallRange::default(), metrics.clone())?;
    let mut read = 0;
    while let Some(batch) = source.next_batch()? {
        read += batch.events.len();
    }
    report("replay (events made, no pipeline)", cpu_ns() - cpu, wall, read);
    anyhow::ensure!(read == n_events, "{read} of {n_events} events came back");
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}

fn report(what: &str, cpu_ns: u64, wall: Instant, n: usize) {
    let (cpu, wall) = (cpu_ns as f64 / n as f64, wall.elapsed().as_nanos() as f64 / n as f64);
    println!("{what}: {cpu:.0} ns CPU each, {wall:.0} ns wall each");
}
