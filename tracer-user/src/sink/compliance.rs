//! What every sink must hold to, as one check that each sink's tests call, and transactions to feed it.

use bytes::Bytes;

use super::Sink;
use crate::{
    event::{ConnId, Role},
    time::WallTime,
    transaction::{Confidence, End, Kind, TimeBasis, Transaction, TransactionBatch},
};

/// A plain transaction, one of many: `i` makes ids, times and a little variety.
pub(crate) fn transaction(i: u64) -> Transaction {
    let start = 1_700_000_000_000_000_000 + i * 10_000_000;
    let duration = 1_000_000 + (i % 50) * 200_000;
    Transaction {
        start_time: WallTime(start),
        request_end: Some(WallTime(start + 10_000)),
        response_start: Some(WallTime(start + duration - 10_000)),
        end_time: WallTime(start + duration),
        duration_ns: duration as i64,
        ttfb_ns: Some(duration - 20_000),
        queue_ns: None,
        time_basis: TimeBasis::Exit,
        kind: Kind::Request,
        role: Role::Server,
        protocol: "http1",
        operation: "GET /item/{id}".into(),
        target: Some(Bytes::from(format!("/item/{i}"))),
        status_code: Some(200),
        error: false,
        error_type: None,
        pid: 100,
        tid: 101,
        comm: "shop".into(),
        service: "shop".into(),
        client_addr: "127.0.0.1".into(),
        client_port: Some(40_000),
        server_addr: "127.0.0.1".into(),
        server_port: Some(80),
        request_bytes: 80,
        response_bytes: 400,
        end: End::Answered,
        confidence: Confidence::Complete,
        conn: ConnId(0xabcd),
        ordinal: i,
        seq: i,
        ..Transaction::default()
    }
}

/// `n` batches of 100 transactions, every third one empty.
pub(crate) fn batches(n: u64) -> Vec<TransactionBatch> {
    (0..n)
        .map(|b| {
            let range = if b % 3 == 2 { 0..0 } else { b * 100..b * 100 + 100 };
            TransactionBatch {
                transactions: range.map(transaction).collect(),
                watermark: transaction(b * 100 + 100).start_time,
            }
        })
        .collect()
}

/// Empty batches and an early end are survived, `finish` may come at once, and the same batches give the same bytes
/// whenever they come: nothing is taken from the wall clock.
pub(crate) fn check<S: Sink, O: Fn() -> Vec<u8>>(make: impl Fn() -> (S, O)) {
    let run = |batches: &[TransactionBatch], pause: std::time::Duration| {
        let (mut sink, output) = make();
        assert!(!sink.name().is_empty());
        for batch in batches {
            sink.write(batch).unwrap();
            sink.advance(batch.watermark).unwrap();
            std::thread::sleep(pause);
        }
        sink.finish().unwrap();
        output()
    };
    let input = batches(9);
    let quick = run(&input, std::time::Duration::ZERO);
    let slow = run(&input, std::time::Duration::from_millis(3));
    assert!(!quick.is_empty(), "the sink shows nothing of 600 transactions");
    assert!(quick == slow, "the output depends on when the batches came");
    run(&[TransactionBatch::default()], std::time::Duration::ZERO);
    run(&[], std::time::Duration::ZERO);
}
