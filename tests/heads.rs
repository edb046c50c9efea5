//! The heads of recorded transactions, held byte for byte against what was sent.

use std::{path::Path, sync::Arc, time::Duration};

use tracer_user::{
    event::EventBatch,
    metrics::Metrics,
    pipeline::{NullVerdicts, Pipeline, PipelineConfig, Step},
    schema::PayloadMode,
    sink::{
        Sink as _,
        recording::{Recorder, RecordingConfig},
    },
    source::{
        Source as _,
        heads::{Head, heads},
        synthetic::{Synthetic, SyntheticConfig},
    },
    transaction::{Confidence, End, Transaction},
};

/// What is said before a body that was asked for.
const CONTINUE: &str = "HTTP/1.1 100 Continue\r\n\r\n";

/// Records what a source gives, in parts of a few thousand rows and with checkpoints within them; returns the transactions.
fn record(config: SyntheticConfig, dir: &Path, payload: PayloadMode) -> Vec<Transaction> {
    let mut source = Synthetic::new(config);
    let recording = RecordingConfig {
        rotate_rows: 6_000,
        checkpoint_rows: 800,
        checkpoint_share: 0,
        flush_after: Duration::from_millis(20),
        payload,
        queue_bytes: 1 << 30,
        queue_batches: 1 << 20,
        ..RecordingConfig::new(dir.to_owned())
    };
    let mut pipeline = Pipeline::new(PipelineConfig::default(), Metrics::default(), Box::new(NullVerdicts));
    let mut recorder = Recorder::start(recording, Metrics::default()).unwrap();
    let mut sink = recorder.transactions();
    let mut transactions = Vec::new();
    let mut next_ordinal = 0;
    while let Some(mut batch) = source.next_batch().unwrap() {
        batch.first_ordinal = next_ordinal;
        next_ordinal += batch.events.len() as u64;
        let batch: Arc<EventBatch> = Arc::new(batch);
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

/// A head whose body makes the message so long.
fn with_length(before: &str, after: &str, message_bytes: u64) -> Option<String> {
    (0..=message_bytes).rev().find_map(|length| {
        let head = format!("{before}{length}{after}");
        // The head has some hundred bytes at most.
        (head.len() as u64 + length == message_bytes).then_some(head)
    })
}

/// The heads that the request may have had: all that differs between them is what it does not say itself.
fn requests(row: &Transaction) -> Vec<String> {
    let target = String::from_utf8(row.target.clone().unwrap().to_vec()).unwrap();
    if row.operation.starts_with("GET") {
        return vec![format!("GET {target} HTTP/1.1\r\nHost: a\r\nUser-Agent: synthetic\r\n\r\n")];
    }
    let post = format!("POST {target} HTTP/1.1\r\nHost: a\r\n");
    ["", "Expect: 100-continue\r\n"]
        .into_iter()
        .filter_map(|expect| {
            with_length(&format!("{post}{expect}Content-Length: "), "\r\n\r\n", row.request_bytes)
        })
        .collect()
}

fn responses(row: &Transaction) -> Vec<String> {
    let status = row.status_code.unwrap();
    let line = format!("HTTP/1.1 {status} X\r\n");
    // An interim response before it counts as its beginning.
    let lengths = [Some(row.response_bytes), row.response_bytes.checked_sub(CONTINUE.len() as u64)];
    let fixed = lengths.into_iter().flatten().filter_map(|length| {
        with_length(&format!("{line}Content-Length: "), "\r\nServer: synthetic\r\n\r\n", length)
    });
    [format!("{line}Transfer-Encoding: chunked\r\n\r\n")].into_iter().chain(fixed).collect()
}

fn is_one_of(head: &Head, known: &[String]) -> bool {
    matches!(head, Head::Whole(bytes) if known.iter().any(|known| known.as_bytes() == bytes))
}

#[test]
fn the_heads_of_every_kind_of_transaction_are_those_that_were_sent() {
    let temp = tempfile::tempdir().unwrap();
    let config = SyntheticConfig {
        seed: 7,
        n_requests: 1_500,
        n_conns: 30,
        pipelined: 300,
        expect: 200,
        mid_join: 100,
        disorder_ns: 2_000_000,
        ..SyntheticConfig::default()
    };
    let rows = record(config, temp.path(), PayloadMode::Full);
    let mut n_pipelined = 0;
    let answered: Vec<&Transaction> = rows.iter().filter(|row| row.end == End::Answered).collect();
    assert!(answered.len() > 1_200, "{}", answered.len());
    for row in answered.iter().step_by(29).chain(answered.last()) {
        let found = heads(temp.path(), row, &PipelineConfig::default()).unwrap();
        assert!(is_one_of(&found.request, &requests(row)), "{row:?}\n{found:?}");
        assert!(is_one_of(&found.response, &responses(row)), "{row:?}\n{found:?}");
        let same = |other: &&&Transaction| (other.conn, other.start_time) == (row.conn, row.start_time);
        n_pipelined += usize::from(answered.iter().filter(same).count() > 1);
    }
    assert!(n_pipelined > 5, "{n_pipelined} were sent together with others");
}

#[test]
fn the_head_of_a_request_in_flight_is_found_as_soon_as_it_is_recorded() {
    let temp = tempfile::tempdir().unwrap();
    let config = SyntheticConfig { seed: 9, n_requests: 600, n_conns: 30, ..SyntheticConfig::default() };
    // The run, asked what is in flight again and again.
    let (events, _) = Synthetic::new(config.clone()).all();
    let mut pipeline = Pipeline::new(PipelineConfig::default(), Metrics::default(), Box::new(NullVerdicts));
    let mut open = Vec::new();
    for events in events.chunks(50) {
        pipeline.push_batch(&EventBatch { first_ordinal: 0, events: events.to_vec() });
        open.extend(pipeline.snapshot().open);
    }
    let rows = record(config, temp.path(), PayloadMode::Full);
    open.retain(|open| open.step == Step::Waiting && open.request_end.is_some());
    assert!(open.len() > 20, "{}", open.len());
    for open in open.iter().step_by(open.len() / 20) {
        let ended = rows.iter().find(|row| (row.conn, row.ordinal) == (open.conn, open.ordinal)).unwrap();
        let found = heads(temp.path(), &open.so_far(), &PipelineConfig::default()).unwrap();
        assert!(is_one_of(&found.request, &requests(ended)), "{open:?}\n{found:?}");
    }
}

#[test]
fn what_was_lost_is_not_made_up() {
    let temp = tempfile::tempdir().unwrap();
    let config = SyntheticConfig {
        seed: 8,
        n_requests: 1_500,
        n_conns: 30,
        pipelined: 200,
        broken: 100,
        lost: 30,
        left_out: 30,
        lost_ends: 20,
        ..SyntheticConfig::default()
    };
    let rows = record(config, temp.path(), PayloadMode::Full);
    let (mut n_gaps, mut n_missing) = (0, 0);
    for row in rows.iter().filter(|row| row.confidence != Confidence::Complete || row.seq % 100 == 0).take(60)
    {
        if row.target.is_none() {
            continue;
        }
        let found = heads(temp.path(), row, &PipelineConfig::default()).unwrap();
        n_gaps += usize::from(row.confidence == Confidence::Gap);
        let target = String::from_utf8(row.target.clone().unwrap().to_vec()).unwrap();
        match &found.request {
            Head::Whole(bytes) | Head::Cut(bytes) => {
                let text = String::from_utf8_lossy(bytes);
                let whole = text.split(' ').nth(1).is_none_or(|found| target.starts_with(found));
                assert!(whole, "{row:?}\n{text}");
            }
            Head::NotFound => n_missing += 1,
        }
        match (&found.response, row.status_code) {
            (Head::Whole(bytes), Some(status)) => {
                assert!(bytes.starts_with(format!("HTTP/1.1 {status} X\r\n").as_bytes()), "{row:?}");
            }
            (Head::Whole(_) | Head::Cut(_), None) => panic!("{row:?}\n{found:?}"),
            (Head::Cut(_), Some(_)) | (Head::NotFound, _) => {}
        }
    }
    assert!(n_gaps > 5, "{n_gaps}");
    assert_eq!(n_missing, 0, "each of these requests was read, so its head is recorded");
}

#[test]
fn a_recording_without_payload_says_so() {
    let temp = tempfile::tempdir().unwrap();
    let config = SyntheticConfig { n_requests: 50, ..SyntheticConfig::default() };
    let rows = record(config, temp.path(), PayloadMode::None);
    let error = heads(temp.path(), &rows[0], &PipelineConfig::default()).unwrap_err();
    assert!(error.to_string().contains("--payload none"), "{error}");
    let gone = heads(&temp.path().join("gone"), &rows[0], &PipelineConfig::default()).unwrap_err();
    assert!(gone.to_string().contains("cannot be read"), "{gone}");
}
