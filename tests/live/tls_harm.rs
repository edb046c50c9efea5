//! No target is harmed by probes: it says and ends as it would without them.

use std::{
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use rstest::rstest;
use tempfile::TempDir;
use tracer_user::uprobe::tls::{self, End};

use crate::uprobe::hits::{hits, try_counter};

use super::{
    Hooks,
    dns::counted,
    machine,
    process::wait_for,
    tls_calls::{Client, ENDED, Server, check_paths, compiled},
    tls_programs::{check_whole, n_probes},
    tracer::Tracer,
};

/// What a program says, with a tracer or without: the paths that it asked for and the bytes of the answers.
#[rstest]
#[case::plain(&[], &[])]
// It ends at the first system call that it does not know.
#[case::confined(&["confined"], &[])]
#[case::with_address_sanitizer(&[], &["-fsanitize=address", "-g"])]
fn a_program_says_and_ends_as_it_would(#[case] arguments: &[&str], #[case] flags: &[&str]) {
    const N: usize = 200;
    let _machine = machine();
    let server = Server::start();
    let folder = TempDir::new().unwrap();
    let program = compiled(folder.path(), ENDED, flags);
    let start = || {
        let mut command = Command::new(&program);
        command.arg(server.port.to_string()).args(["0", &N.to_string()]).args(arguments);
        // What OpenSSL keeps until the end is no leak of the program.
        Client::of(command.env("ASAN_OPTIONS", "detect_leaks=0").stderr(Stdio::inherit()))
    };
    let mut untraced = start();
    untraced.go("");
    let expected = untraced.end();
    assert_eq!(expected.len(), N);
    let mut client = start();
    let tracer = Tracer::start_with(Hooks::Socket, &[client.process.pid()], &["--tls", "clear"]);
    client.go("");
    assert_eq!(client.end(), expected);
    let capture = tracer.stop();
    // A kernel on which probes would end it is one on which it has none.
    if arguments.is_empty() || counted(&capture, "tls.left_opaque").last() == Some(&0) {
        check_whole(&capture);
        check_paths(&capture, "client", &expected);
    }
}

/// Probes come and go while the program calls. Taking one away waits until nobody can be in it, 50 to 100 ms on a machine with two CPUs at work, and
/// the kernel does one behind the other.
/// Two probes at a time; with `TXRAY_LONG` a thousand of them, which takes minutes.
#[test]
fn attached_and_detached_under_load() {
    const N_THREADS: usize = 4;
    /// However long it takes, it ends.
    const PATIENCE: Duration = Duration::from_secs(400);
    let n_times = if std::env::var_os("TXRAY_LONG").is_some() { 500 } else { 20 };
    let _machine = machine();
    let server = Server::start();
    let folder = TempDir::new().unwrap();
    let program = compiled(folder.path(), ENDED, &[]);
    let mut command = Command::new(&program);
    let mut client = Client::of(command.arg(server.port.to_string()).args(["0", "0"]).arg("").arg("endless"));
    let pid = client.process.pid();
    let found = tls::of(Path::new("/proc"), pid).unwrap();
    let library = found.libraries.iter().find(|library| library.kind == "OpenSSL").unwrap();
    let places: Vec<_> = library
        .functions
        .iter()
        .filter(|function| ["SSL_read", "SSL_write"].contains(&function.name.as_str()))
        .map(|function| match &function.end {
            End::ReturnProbe(site) | End::Inner(site) | End::InnerWithFlags(site) => site,
            end => panic!("{end:?}"),
        })
        .collect();
    client.begin("");
    let began = Instant::now();
    let (n_rounds, n_hits) = (AtomicUsize::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        for n in 0..N_THREADS {
            let (n_rounds, n_hits, place) = (&n_rounds, &n_hits, places[n % places.len()]);
            scope.spawn(move || {
                while n_rounds.fetch_add(1, Relaxed) < n_times && began.elapsed() < PATIENCE {
                    // Both attached, then both gone.
                    let probes = [false, true]
                        .map(|is_return| try_counter(&library.file, place, is_return, pid).unwrap());
                    // Each pair has been met before it goes.
                    let met = || probes.iter().map(hits).sum::<u64>();
                    while met() == 0 && began.elapsed() < PATIENCE {
                        thread::sleep(Duration::from_millis(1));
                    }
                    n_hits.fetch_add(met(), Relaxed);
                }
            });
        }
    });
    let n_rounds = n_rounds.into_inner().min(n_times);
    // Its next line is its last.
    let n_requests = client.finish()["/endless"];
    println!(
        "{n_rounds} rounds, {} hits, {n_requests} requests, {:?}",
        n_hits.load(Relaxed),
        began.elapsed()
    );
    assert_eq!(n_rounds, n_times, "in {:?}", began.elapsed());
    assert!(n_hits.into_inner() >= n_rounds as u64 && n_requests > 0);
}

/// The limit is one that it is over at any speed: a request of this program costs it some 100 µs, and four calls.
#[test]
fn who_would_pay_more_than_it_may_is_left_opaque() {
    let _machine = machine();
    let server = Server::start();
    let folder = TempDir::new().unwrap();
    let program = compiled(folder.path(), ENDED, &[]);
    let mut command = Command::new(&program);
    let mut client = Client::of(command.arg(server.port.to_string()).args(["0", "0"]).arg("").arg("endless"));
    let pid = client.process.pid();
    let flags = ["--tls", "clear", "--tls-limit", "1"];
    let tracer = Tracer::start_with(Hooks::Socket, &[pid], &flags);
    let before = n_probes(&tracer);
    client.begin("");
    wait_for("its probes to go", || (n_probes(&tracer) < before).then_some(()));
    // It goes on, unseen.
    thread::sleep(Duration::from_millis(300));
    let n_requests = client.finish()["/endless"];
    let capture = tracer.stop();
    assert_eq!(counted(&capture, "tls.over_limit").last(), Some(&1), "{}", capture.stderr);
    assert!(capture.stderr.contains("(--tls-limit)"), "{}", capture.stderr);
    let summary = &capture.summary;
    let told = capture.role("client").iter().filter(|one| one.protocol == "http1").count() as u64;
    let why = format!("{told} of {n_requests}, {} {:?}", summary.lost["tls_unlinked"], summary.lost_requests);
    assert!(told > 0 && told < n_requests, "{why}");
    // The one in flight then, if there was one, is known.
    assert!(summary.lost["tls_unlinked"] + 1 >= n_requests - told, "{why}");
    assert!(told + summary.lost_requests.high >= n_requests, "{why}");
    let usual = Tracer::start(Hooks::Socket, &[server.process.pid()]).stop();
    assert_eq!(counted(&usual, "tls.over_limit").last(), Some(&0));
}
