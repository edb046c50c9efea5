//! What rollups cost: bytes that an hour of one service adds to a recording, memory, CPU per transaction. Run it in release:
//! `cargo run --release --example rollup_cost [requests per second] [services] [seconds]`.
//!
//! The traffic is made up: durations spread lognormally around 20 ms, one transaction in a hundred an error.

use std::{path::Path, time::Instant};

use bytes::Bytes;
use tracer_user::{
    event::{ConnId, Role},
    metrics::Metrics,
    pipeline::Snapshot,
    schema::file::SealedFile,
    sink::{
        Sink as _,
        recording::{Recorder, RecordingConfig},
        rollup::{RollupSink, SharedRollups},
    },
    time::WallTime,
    transaction::{Confidence, End, Kind, TimeBasis, Transaction, TransactionBatch},
};

const SECOND: u64 = 1_000_000_000;
const START: u64 = 1_795_341_600 * SECOND;

/// A generator of numbers that is the same on every machine (splitmix64).
struct Noise(u64);

impl Noise {
    /// From 0 to 1.
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

fn transaction(end: u64, seq: u64, service: &str, noise: &mut Noise) -> Transaction {
    // The sum of twelve is close to a normal distribution.
    let normal = (0..12).map(|_| noise.next()).sum::<f64>() - 6.0;
    let duration = (20_000_000.0 * (normal * 0.8).exp()) as u64;
    Transaction {
        start_time: WallTime(end - duration),
        request_end: None,
        response_start: None,
        end_time: WallTime(end),
        duration_ns: duration as i64,
        ttfb_ns: None,
        queue_ns: None,
        time_basis: TimeBasis::Exit,
        kind: Kind::Request,
        role: Role::Server,
        protocol: "http1",
        operation: "GET /item/{id}".into(),
        target: Some(Bytes::from_static(b"/item/1")),
        status_code: Some(200),
        error: seq.is_multiple_of(100),
        error_type: None,
        pid: 1,
        tid: 1,
        comm: "shop".into(),
        service: service.into(),
        client_addr: "127.0.0.1".into(),
        client_port: Some(40_000),
        server_addr: "127.0.0.1".into(),
        server_port: Some(80),
        request_bytes: 80 + seq % 50,
        response_bytes: 400 + seq % 5_000,
        end: End::Answered,
        confidence: Confidence::Complete,
        conn: ConnId(1),
        ordinal: seq,
        seq,
        ..Transaction::default()
    }
}

fn cpu_ns() -> u64 {
    // SAFETY: a zeroed timespec is one, and the pointer is valid.
    unsafe {
        let mut time: libc::timespec = std::mem::zeroed();
        libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time);
        time.tv_sec as u64 * SECOND + time.tv_nsec as u64
    }
}

fn bytes_of(dir: &Path, rows: &mut u64) -> u64 {
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            bytes += bytes_of(&path, rows);
        } else if let Ok(file) = SealedFile::open(&path) {
            bytes += file.n_bytes;
            *rows += file.n_rows;
        }
    }
    bytes
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let number = |at: usize, default: u64| std::env::args().nth(at).map_or(Ok(default), |text| text.parse());
    let (per_second, services, seconds) = (number(1, 100)?, number(2, 1)?, number(3, 3_600)?);
    let dir = std::env::temp_dir().join(format!("txray-rollup-cost-{}", std::process::id()));
    let recorder = Recorder::start(RecordingConfig::new(dir.clone()), Metrics::default())?;
    let shared = SharedRollups::default();
    let mut sink = RollupSink::new(shared.clone(), Some(recorder.rollups()));
    let names: Vec<String> = (0..services).map(|i| format!("service-{i}")).collect();
    let mut noise = Noise(7);
    let (mut in_writes, mut in_advances, mut seq) = (0, 0, 0);
    let started = Instant::now();
    for second in 0..seconds {
        let begin = START + second * SECOND;
        let transactions: Vec<Transaction> = (0..per_second * services)
            .map(|i| {
                seq += 1;
                let name = &names[(i % services) as usize];
                transaction(begin + i * SECOND / (per_second * services), seq, name, &mut noise)
            })
            .collect();
        let batch = TransactionBatch { transactions, watermark: WallTime(begin + SECOND) };
        for quarter in 0..4 {
            let wall = WallTime(begin + quarter * SECOND / 4);
            sink.observe(&Snapshot { wall, n_open: seq % 17, ..Snapshot::default() })?;
        }
        let before = cpu_ns();
        sink.write(&batch)?;
        let between = cpu_ns();
        sink.advance(batch.watermark)?;
        in_writes += between - before;
        in_advances += cpu_ns() - between;
    }
    let before = cpu_ns();
    sink.finish()?;
    in_advances += cpu_ns() - before;
    let memory = shared.lock().bytes();
    recorder.finish()?;
    let mut rows = 0;
    let bytes = bytes_of(&dir.join("rollups"), &mut rows);
    println!(
        "{seq} transactions of {services} services in {seconds} s; {:?} of wall time",
        started.elapsed()
    );
    println!("recording: {bytes} bytes, {rows} rows, {} bytes an hour", bytes * 3_600 / seconds);
    println!("memory: {memory} bytes");
    println!(
        "CPU: {} ns a transaction counted, {} ns a second and service closed and written",
        in_writes / seq.max(1),
        in_advances / (seconds * services).max(1)
    );
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}
