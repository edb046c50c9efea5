//! `txray live` as a command: how it ends, and with which code.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use rstest::rstest;

use super::{machine, tracer::TEST_PROGRAM, txray_program};

/// Requests of this process to itself, one after the other on each connection, until it is dropped.
struct Traffic {
    port: u16,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Traffic {
    fn start() -> Traffic {
        Traffic::over(1)
    }

    /// On so many connections, each with a thread of its own.
    fn over(n_conns: usize) -> Traffic {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let stop = Arc::new(AtomicBool::new(false));
        let pairs: Vec<_> = (0..n_conns)
            .map(|_| (TcpStream::connect(("127.0.0.1", port)).unwrap(), listener.accept().unwrap().0))
            .collect();
        let threads = pairs.into_iter().map(|(mut client, mut server)| {
            let ended = stop.clone();
            thread::spawn(move || {
                let mut buffer = [0; 1024];
                while !ended.load(Ordering::Relaxed) {
                    client.write_all(b"GET /item/7 HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
                    assert_ne!(server.read(&mut buffer).unwrap(), 0);
                    server.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
                    assert_ne!(client.read(&mut buffer).unwrap(), 0);
                    thread::sleep(Duration::from_millis(2));
                }
            })
        });
        Traffic { port, stop: stop.clone(), threads: threads.collect() }
    }

    /// `txray live` on it.
    fn live(&self, flags: &[&str]) -> Child {
        Command::new(txray_program())
            .args(["live", "--pid", &std::process::id().to_string(), "--port", &self.port.to_string()])
            .args(TEST_PROGRAM)
            .args(flags)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            assert!(thread.join().is_ok() || thread::panicking());
        }
    }
}

/// Standard output, standard error and code.
fn end(child: Child) -> (String, String, Option<i32>) {
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (text(output.stdout), text(output.stderr), output.status.code())
}

#[test]
fn a_live_run_ends_when_its_time_is_over_and_its_code_says_whether_anything_matched() {
    let _machine = machine();
    let traffic = Traffic::start();
    let run = |flags: &[&str]| end(traffic.live(&[&["--duration", "1500ms", "--json"], flags].concat()));
    let (rows, errors, code) = run(&["--filter", "operation = 'GET /item/{id}'"]);
    assert_eq!(code, Some(0), "{errors}");
    assert!(rows.lines().count() > 1, "{errors}");
    let (rows, errors, code) = run(&["--filter", "status_code = 404"]);
    assert_eq!((&*rows, code), ("", Some(1)), "{errors}");
}

#[test]
fn one_look_at_what_happens_ends_by_itself_with_one_table() {
    let _machine = machine();
    let traffic = Traffic::start();
    let (table, errors, code) = end(traffic.live(&["--once"]));
    assert_eq!(code, Some(0), "{errors}");
    let row = |role: &str| table.lines().filter(|line| line.contains(role)).count();
    assert!(table.starts_with("service"), "{table}");
    assert_eq!((row(" server "), row(" client ")), (1, 1), "{table}");
    assert!(table.contains("GET /item/{id}") && table.contains("in flight"), "{table}");
    let lost = table.lines().last().unwrap_or_default();
    assert!(lost == "nothing lost" || lost.starts_with("LOST "), "{table}");
    let (json, errors, _) = end(traffic.live(&["--once", "--json", "--duration", "1500ms"]));
    assert!(json.starts_with(r#"{"type":"summary","#) && json.lines().count() == 1, "{json}{errors}");
}

/// What is left over at the ends of a run is explained by its ends: an answer at the start may have been asked for before, and at the
/// end a question may be open. That an answer was never asked for, or a connection closed under a request, is true of neither.
#[rstest]
fn a_run_in_the_middle_of_keep_alive_traffic_ends_at_one_instant(#[values("socket", "syscall")] hooks: &str) {
    let _machine = machine();
    let traffic = Traffic::over(60);
    // Probes that were detached one after the other left some of these without their request in one of three runs.
    for round in 0..6 {
        let (json, errors, _) =
            end(traffic.live(&["--hooks", hooks, "--once", "--json", "--duration", "300ms"]));
        let summary: serde_json::Value =
            serde_json::from_str(&json).unwrap_or_else(|_| panic!("{json}{errors}"));
        assert!(summary["transactions"].as_u64().unwrap() > 100, "{json}");
        assert_eq!(summary["unpaired"]["unsolicited"], 0, "round {round}: {json}");
        let errors: u64 =
            summary["operations"].as_array().unwrap().iter().map(|row| row["errors"].as_u64().unwrap()).sum();
        assert_eq!(errors, 0, "round {round}: {json}");
    }
}

#[test]
fn an_interrupted_live_run_ends_with_130() {
    let _machine = machine();
    let traffic = Traffic::start();
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        let mut child = traffic.live(&["--json", "--summary", "json"]);
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut first = String::new();
        out.read_line(&mut first).unwrap();
        assert!(first.contains(r#""end":"answered""#), "{first}");
        // SAFETY: no pointers; the child has not been waited for, so that the number is its own.
        assert_eq!(unsafe { libc::kill(child.id() as i32, signal) }, 0);
        let mut rest = String::new();
        out.read_to_string(&mut rest).unwrap();
        let (_, errors, code) = end(child);
        assert_eq!(code, Some(130), "{signal}: {errors}");
        assert!(rest.lines().last().unwrap().starts_with(r#"{"type":"summary","#), "{rest}");
    }
}

#[test]
fn a_live_run_whose_reader_goes_away_ends_quietly() {
    let _machine = machine();
    let traffic = Traffic::start();
    for flags in [&["--json"][..], &[]] {
        let mut child = traffic.live(flags);
        let mut first = String::new();
        BufReader::with_capacity(64, child.stdout.take().unwrap()).read_line(&mut first).unwrap();
        assert!(!first.is_empty());
        let (_, errors, code) = end(child);
        assert_eq!(code, Some(0), "{errors}");
        // Only what it says at its start.
        assert!(errors.lines().all(|line| line.starts_with("txray: tracing ")), "{errors}");
    }
}
