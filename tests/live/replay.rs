//! The past, exactly: a live recording replayed prints what the live run printed.

use std::{fs, path::Path, process::Command, thread, time::Duration};

use rstest::rstest;
use workload::{
    http::Body,
    load::{self, Ending, Options, Template},
    serve,
};

use super::{
    Hooks,
    check::check_order_and_sums,
    machine,
    process::Server,
    tracer::{Capture, Tracer},
    txray_program,
};

/// Everything that a replay prints on standard output.
#[track_caller]
pub(super) fn replay(recording: &Path) -> String {
    let mut command = Command::new(txray_program());
    command.arg("replay").arg(recording).args(["--speed", "max", "--json", "--summary", "json"]);
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{:?}: {stderr}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// The summary may differ in what a replay has not got (its own run's time); the transactions may not.
#[track_caller]
pub(super) fn check_same(capture: &Capture, replayed: &str) {
    let lines = |text: &str| -> Vec<String> { text.lines().map(str::to_owned).collect() };
    let (mut live, mut again) = (lines(&capture.stdout), lines(replayed));
    let (live_summary, again_summary) = (live.pop().unwrap_or_default(), again.pop().unwrap_or_default());
    assert_eq!(live.len(), again.len(), "live: {live_summary}\nreplayed: {again_summary}");
    for (live, again) in live.iter().zip(&again) {
        assert_eq!(live, again);
    }
    let parse = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap();
    let (live, again) = (parse(&live_summary), parse(&again_summary));
    for key in ["transactions", "open", "unpaired", "lost_requests", "operations"] {
        assert_eq!(live[key], again[key], "{key}");
    }
}

#[rstest]
fn a_recording_replays_to_the_same_lines(#[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks) {
    let _machine = machine();
    let server = Server::start("");
    let address = server.address.clone();
    let mix = vec![
        Template::get("/bytes/{n}?id={id}"),
        Template::post("/item/{n}?id={id}", Body::Chunked(2500)),
        Template::get("/status/503?id={id}"),
        Template::get("/bytes/300000/sendfile?id={id}"),
        Template { ending: Ending::Reset(Duration::from_millis(20)), ..Template::get("/sleep/60?id={id}") },
        Template { ending: Ending::Abandon(Duration::from_millis(20)), ..Template::get("/never?id={id}") },
    ];
    let options = Options {
        mix,
        connections: 8,
        threads: 2,
        rate: Some(600.0),
        duration: Duration::from_secs(4),
        ..Options::new(address, "/", u64::MAX)
    };
    // Mid-joins too: the load runs before the tracer does.
    let load = thread::spawn(move || load::run(&options).unwrap());
    thread::sleep(Duration::from_millis(500));
    let tracer = Tracer::start(hooks, &[server.process.pid()]);
    let asked = load.join().unwrap();
    let served: Vec<serve::Row> = server.rows(asked.len() / 2);
    let capture = tracer.stop();
    check_order_and_sums(&capture);
    assert!(!capture.transactions.is_empty() && !served.is_empty());
    check_same(&capture, &replay(&capture.recording()));
    // The events alone give the same.
    fs::remove_dir_all(capture.recording().join("transactions")).unwrap();
    check_same(&capture, &replay(&capture.recording()));
}
