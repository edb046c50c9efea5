//! The ends of connections that no hook tells.

use std::{thread, time::Duration};

use rstest::rstest;
use tracer_user::{
    event::Event,
    metrics::Metrics,
    source::{Source as _, recording::Recording, replay::ReplaySource},
};
use workload::load::{self, Options, Outcome};

use super::{
    Hooks,
    check::{Expect, check_server},
    machine,
    process::Server,
    tracer::Tracer,
};

#[rstest]
fn unix_sockets_that_nobody_holds_any_more_end(#[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks) {
    const N: u64 = 40;
    let _machine = machine();
    let server = Server::start("--listen unix");
    let tracer = Tracer::start(hooks, &[server.process.pid()]);
    let options =
        Options { keep_alive: false, ..Options::new(server.address.clone(), "/bytes/{n}?id={id}", N) };
    let asked = load::run(&options).unwrap();
    assert!(asked.iter().all(|row| row.outcome == Outcome::Ok), "the load itself failed");
    // They are looked for every 5 seconds, and must be missed twice.
    thread::sleep(Duration::from_secs(16));
    let capture = tracer.stop();
    let confidence = &["complete", "guessed"];
    check_server(&capture, &server.rows(asked.len()), Expect { confidence, ..Expect::default() });

    let recording = Recording::open(&capture.recording()).unwrap();
    let mut source = ReplaySource::open(&recording, Default::default(), Metrics::default()).unwrap();
    let (mut n_opens, mut n_closes) = (0, 0);
    while let Some(batch) = source.next_batch().unwrap() {
        for event in batch.events {
            n_opens += u64::from(matches!(event, Event::ConnOpen(_)));
            n_closes += u64::from(matches!(event, Event::ConnClose(_)));
        }
    }
    // Where a socket's memory is used again, the new one's first use tells the end of the old.
    assert_eq!((n_opens, n_closes), (N, N));
}
