//! CPU per event of decode and pipeline, over a synthetic load. `cargo run --release --example pipeline_bench [requests]`.
//!
//! Prints ns per event for each kind of load, the best of five passes: on a shared machine the least disturbed one.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tracer_ebpf as abi;
use tracer_user::{
    event::{Event, decode},
    metrics::Metrics,
    pipeline::{NullVerdicts, Pipeline, PipelineConfig},
    source::synthetic::{Synthetic, SyntheticConfig},
};
use zerocopy::IntoBytes as _;

fn main() {
    let n_requests = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(200_000);
    let loads = [
        (
            "keep-alive, whole messages",
            SyntheticConfig { pieces: 1, long_bodies: 0, chunked: 0, ..base(n_requests) },
        ),
        ("chunked, long bodies, pieces", base(n_requests)),
        ("pipelined 2 to 16 deep", SyntheticConfig { pipelined: 1000, long_bodies: 0, ..base(n_requests) }),
        ("short connections", SyntheticConfig { max_per_conn: 1, long_bodies: 0, ..base(n_requests) }),
    ];
    for (name, config) in loads {
        let (events, truth) = Synthetic::new(config).all();
        let records: Vec<Option<Bytes>> = events.iter().map(record).collect();
        let mut best = Duration::MAX;
        let mut n_transactions = 0;
        for _ in 0..5 {
            let started = Instant::now();
            let mut pipeline =
                Pipeline::new(PipelineConfig::default(), Metrics::default(), Box::new(NullVerdicts));
            n_transactions = 0;
            for (at, (record, event)) in records.iter().zip(&events).enumerate() {
                match record {
                    Some(record) => {
                        if let Ok(event) = decode(record) {
                            pipeline.push(&event);
                        }
                    }
                    None => pipeline.push(event),
                }
                if at % 1024 == 0 {
                    n_transactions += black_box(pipeline.drain()).transactions.len();
                }
            }
            n_transactions += black_box(pipeline.finish()).transactions.len();
            best = best.min(started.elapsed());
        }
        let per_event = best.as_nanos() as f64 / events.len() as f64;
        let per_request = best.as_nanos() as f64 / truth.requests as f64;
        println!(
            "{name:30} {:9} events {n_transactions:8} transactions {per_event:7.0} ns/event {per_request:7.0} ns/request",
            events.len()
        );
    }
}

fn base(n_requests: u64) -> SyntheticConfig {
    SyntheticConfig { n_requests, n_conns: 200, max_per_conn: 1_000, ..SyntheticConfig::default() }
}

/// A data event as the ring holds it.
fn record(event: &Event) -> Option<Bytes> {
    let Event::Data(data) = event else { return None };
    let raw = abi::Data {
        header: abi::Header {
            time_ns: data.time.0,
            kind: abi::KIND_DATA,
            flags: data.flags,
            length: (size_of::<abi::Data>() + data.payload.len()) as u32,
        },
        conn_id: data.conn.0,
        first_ns: data.first.0,
        arrival_ns: data.arrival.0,
        position: data.position,
        bytes: data.bytes,
        turn: data.turn,
        captured: data.payload.len() as u32,
        pid: data.pid,
        tid: data.tid,
        n_calls: data.n_calls,
        error: data.error,
        comm: data.comm,
        kernel_ns: 0,
        off_cpu: 0,
        goroutine: 0,
        rtt_us: 180,
        retransmits: 0,
    };
    let mut bytes = raw.as_bytes().to_vec();
    bytes.extend_from_slice(&data.payload);
    Some(bytes.into())
}
