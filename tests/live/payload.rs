//! What of the bytes a recording holds: heads, everything, or none; looked for in every file of it.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use arrow_array::{Array, cast::AsArray as _};
use rstest::rstest;
use tracer_user::{
    event::Event,
    metrics::Metrics,
    schema::file::SealedFile,
    source::{Source as _, recording::Recording, replay::ReplaySource},
    time::WallTime,
    transaction::WallRange,
};

use super::{
    Hooks, machine,
    tracer::{Capture, Tracer},
    txray_program,
};

/// Where a marker stands, and what it is.
const TARGET: &str = "marker-in-the-target-7f3a";
const HEAD: &str = "marker-in-the-head-91bc";
const REQUEST: &str = "marker-at-the-end-of-the-request-body-d20e";
const RESPONSE: &str = "marker-at-the-end-of-the-response-body-55c8";
/// Bytes before the marker in a body: far beyond what is copied of a head.
const FILLING: usize = 60_000;
/// Bytes of a body that no call's copy has room for: its end is counted.
const TOO_MUCH: usize = 300_000;

fn body(filling: usize, marker: &str) -> Vec<u8> {
    // No two pieces are the same: nothing of it is found by chance.
    let mut body: Vec<u8> = (0..filling / 8).flat_map(|i| format!("{i:07} ").into_bytes()).collect();
    body.extend_from_slice(marker.as_bytes());
    body
}

fn message(first: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("{first}\r\nX-Secret: {HEAD}\r\nContent-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// Reads one message whose head and body come whole.
fn read_message(stream: &mut TcpStream) {
    let mut read = Vec::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let n = stream.read(&mut buffer).unwrap();
        assert_ne!(n, 0, "the peer left");
        read.extend_from_slice(&buffer[..n]);
        let Some(head) = read.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let text = String::from_utf8_lossy(&read[..head]);
        let (_, length) = text.split_once("Content-Length: ").unwrap();
        if read.len() >= head + 4 + length.parse::<usize>().unwrap() {
            return;
        }
    }
}

/// Traces this process while it asks itself once, each message written in one call.
#[track_caller]
fn record(hooks: Hooks, payload: &str, filling: usize) -> Capture {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let flags = ["--port", &port.to_string(), "--payload", payload];
    let tracer = Tracer::start_with(hooks, &[std::process::id()], &flags);
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        read_message(&mut stream);
        stream.write_all(&message("HTTP/1.1 200 OK", &body(filling, RESPONSE))).unwrap();
        // Closed by the client first.
        let _ = stream.read(&mut [0]);
    });
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let request = message(&format!("POST /{TARGET} HTTP/1.1\r\nHost: x"), &body(filling, REQUEST));
    stream.write_all(&request).unwrap();
    read_message(&mut stream);
    drop(stream);
    server.join().unwrap();
    let capture = tracer.stop();
    assert_eq!(capture.role("server").len(), 1, "{}", capture.stdout);
    assert_eq!(capture.role("client").len(), 1, "{}", capture.stdout);
    for transaction in &capture.transactions {
        assert_eq!(transaction.end, "answered", "{transaction:?}");
        assert!(transaction.request_bytes > filling as u64 && transaction.response_bytes > filling as u64);
    }
    capture
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

fn holds(bytes: &[u8], marker: &str) -> bool {
    bytes.windows(marker.len()).any(|window| window == marker.as_bytes())
}

/// Looks at the bytes of a column, whatever its type.
fn column_holds(column: &dyn Array, marker: &str) -> bool {
    if let Some(dictionary) = column.as_any_dictionary_opt() {
        return column_holds(dictionary.values().as_ref(), marker);
    }
    let binary = column.as_binary_opt::<i32>().map(|values| values.value_data());
    let text = column.as_string_opt::<i32>().map(|values| values.value_data());
    binary.or(text).is_some_and(|bytes| holds(bytes, marker))
}

/// Whether a marker stands in a dataset: as its files are, or in any column of them once they are unpacked.
#[track_caller]
fn is_in(recording: &Path, dataset: &str, marker: &str) -> bool {
    let all = files(&recording.join(dataset));
    assert!(!all.is_empty(), "no file in {dataset}");
    let unpacked = |path: &PathBuf| {
        let rows = SealedFile::open(path).unwrap().rows(1_000).unwrap();
        rows.into_iter().any(|batch| {
            let batch = batch.unwrap();
            assert_ne!(batch.num_rows(), 0);
            batch.columns().iter().any(|column| column_holds(column.as_ref(), marker))
        })
    };
    all.iter().any(|path| {
        holds(&fs::read(path).unwrap(), marker)
            || (path.extension().is_some_and(|extension| extension == "parquet") && unpacked(path))
    })
}

/// What of the markers stands in `events`: target, head, request body, response body.
fn in_events(capture: &Capture) -> [bool; 4] {
    [TARGET, HEAD, REQUEST, RESPONSE].map(|marker| is_in(&capture.recording(), "events", marker))
}

/// What `txray replay --json` prints of a recording.
pub(super) fn replay(recording: &Path) -> (String, String) {
    let output = Command::new(txray_program()).arg("replay").arg(recording).arg("--json").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
}

/// A kernel counter as it stood at the end of the recording.
#[track_caller]
fn kernel_counter(capture: &Capture, name: &str) -> u64 {
    let recording = Recording::open(&capture.recording()).unwrap();
    let whole = WallRange { from: WallTime(0), to: WallTime(u64::MAX) };
    let mut source = ReplaySource::open(&recording, whole, Metrics::default()).unwrap();
    let mut last = None;
    while let Some(batch) = source.next_batch().unwrap() {
        for event in batch.events {
            if let Event::Counters(counters) = event {
                last = Some(counters);
            }
        }
    }
    let values = last.expect("counters are recorded").values;
    values.iter().find(|(other, _)| **other == *name).expect("the kernel's counter").1
}

/// The printed transactions, without the summary behind them.
pub(super) fn rows(stdout: &str) -> Vec<&str> {
    stdout.lines().filter(|line| !line.contains(r#""type":"summary""#)).collect()
}

#[rstest]
fn a_recording_of_heads_has_the_head_and_not_the_body(#[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks) {
    let _machine = machine();
    let capture = record(hooks, "heads", FILLING);
    assert_eq!(in_events(&capture), [true, true, false, false]);
}

#[rstest]
fn a_full_recording_has_the_bodies(#[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks) {
    let _machine = machine();
    let capture = record(hooks, "full", FILLING);
    assert_eq!(in_events(&capture), [true; 4]);
    assert_eq!(kernel_counter(&capture, "kernel.payload_cut"), 0);
    assert_eq!(rows(&replay(&capture.recording()).0), rows(&capture.stdout));
    // What the transactions say does not come from the bodies.
    assert!(!is_in(&capture.recording(), "transactions", REQUEST));
}

#[rstest]
fn what_a_full_recording_has_no_room_for_is_counted_and_loses_no_request(
    #[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks,
) {
    let _machine = machine();
    let capture = record(hooks, "full", TOO_MUCH);
    assert!(is_in(&capture.recording(), "events", HEAD));
    // Each message was sent in one call. Into how many calls its receiver cuts it is the kernel's business.
    assert!(kernel_counter(&capture, "kernel.payload_cut") >= 2);
    assert_eq!((capture.summary.lost_requests.low, capture.summary.lost_requests.high), (0, 0));
    assert_eq!(rows(&replay(&capture.recording()).0), rows(&capture.stdout));
}

#[rstest]
fn a_recording_without_payload_has_no_byte_of_heads_and_bodies(
    #[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks,
) {
    let _machine = machine();
    let capture = record(hooks, "none", FILLING);
    assert_eq!(in_events(&capture), [false; 4]);
    let recording = capture.recording();
    for marker in [HEAD, REQUEST, RESPONSE] {
        assert!(!is_in(&recording, "transactions", marker), "{marker}");
    }
    // A transaction's target is one of its facts, and kept.
    assert!(is_in(&recording, "transactions", TARGET));
    let (stdout, stderr) = replay(&recording);
    assert_eq!(rows(&stdout), rows(&capture.stdout));
    assert!(stderr.contains("nothing is parsed again"), "{stderr}");
}
