//! Everything that goes missing has a name: with a ring and a queue that are too small and a consumer that is too slow, the
//! counters still add up, to the unit.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use rstest::rstest;
use tracer_user::{
    config::{self, Targets},
    event::{Counters, Event},
    metrics::{Counter, Metrics},
    pipeline::{Pipeline, PipelineConfig},
    source::{
        Source as _,
        live::{LiveConfig, LiveSource},
    },
};
use workload::load::{self, Options};

use super::{Hooks, machine, process::Server};

/// The last reading of the counters, and what the source and the pipeline counted themselves.
struct Account {
    kernel: Counters,
    metrics: Metrics,
    decoded: u64,
}

impl Account {
    fn kernel(&self, name: &str) -> u64 {
        let name = format!("kernel.{name}");
        let found = self.kernel.values.iter().find(|(key, _)| **key == *name);
        found.unwrap_or_else(|| panic!("no counter {name}")).1
    }

    /// The sums that must hold between hook and pipeline.
    #[track_caller]
    fn adds_up(&self) {
        let refused = ["refused_data", "refused_conn", "refused_process"].map(|name| self.kernel(name));
        let refused: u64 = refused.iter().sum();
        assert_eq!(
            self.kernel("events_attempted"),
            self.kernel("events_reserved") + refused,
            "attempted = reserved + refused"
        );
        let user = |counter| self.metrics.get(counter);
        assert_eq!(self.kernel("events_reserved"), user(Counter::RingRead), "every reserved record is read");
        assert_eq!(
            user(Counter::RingRead),
            user(Counter::Decoded)
                + user(Counter::BatchQueueFull)
                + user(Counter::StacksGaveWay)
                + user(Counter::DecodeShort)
                + user(Counter::DecodeUnknownKind),
            "read = decoded + lost by reason"
        );
        assert_eq!(user(Counter::Decoded), self.decoded, "decoded events reach the pipeline");
        assert_eq!(
            self.kernel("events_attempted"),
            self.decoded + refused + user(Counter::BatchQueueFull),
            "attempted = decoded + lost"
        );
    }
}

/// When the consumer sleeps.
#[derive(Clone, Copy)]
enum Nap {
    Never,
    AfterEach(Duration),
    Once(Duration),
}

/// Traces a server under a load with these bounds: a closed loop, or so many requests a second.
fn run(hooks: Hooks, ring_bytes: u32, batch_queue: usize, nap: Nap, rate: Option<f64>) -> Account {
    let server = Server::start("");
    let hooks = match hooks {
        Hooks::Socket => config::Hooks::Socket,
        Hooks::Syscall => config::Hooks::Syscall,
    };
    let targets = Targets { pids: vec![server.process.pid()], ..Targets::default() };
    let config = LiveConfig { targets, hooks, ring_bytes, batch_queue, ..LiveConfig::default() };
    let metrics = Metrics::default();
    let mut source = LiveSource::start(&config, metrics.clone()).unwrap_or_else(|error| panic!("{error}"));
    let stop = source.stop_handle();
    let verdicts = source.verdicts();
    let mut pipeline = Pipeline::new(PipelineConfig::default(), metrics.clone(), verdicts);
    let options = Options {
        connections: 8,
        threads: 1,
        rate,
        ..Options::new(server.address.clone(), "/bytes/600?id={id}", 6000)
    };
    let done = Arc::new(AtomicBool::new(false));
    let load = thread::spawn({
        let done = done.clone();
        move || {
            let rows = load::run(&options).unwrap();
            done.store(true, Ordering::Relaxed);
            stop.stop();
            rows.len()
        }
    });
    let mut kernel = Counters::default();
    let (mut n_events, mut n_pushed) = (0, 0);
    let mut nap = nap;
    while let Some(batch) = source.next_batch().unwrap() {
        for event in &batch.events {
            if let Event::Counters(counters) = event {
                kernel = counters.clone();
            }
            // The source's own are not the kernel's.
            let is_kernels = matches!(
                event,
                Event::Data(_)
                    | Event::Datagram(_)
                    | Event::TlsOpen(_)
                    | Event::FunctionEnter(_)
                    | Event::FunctionReturn(_)
                    | Event::Stack(_)
                    | Event::OffCpu(_)
                    | Event::Retransmit(_)
                    | Event::ConnOpen(_)
                    | Event::ConnShut(_)
                    | Event::ConnClose(_)
                    | Event::Process(_)
            );
            n_events += u64::from(is_kernels);
            n_pushed += 1;
            pipeline.push(event);
        }
        match nap {
            Nap::AfterEach(nap) if !done.load(Ordering::Relaxed) => thread::sleep(nap),
            Nap::Once(long) => {
                nap = Nap::Never;
                thread::sleep(long);
            }
            _ => {}
        }
    }
    assert_eq!(load.join().unwrap(), 6000);
    pipeline.finish();
    assert_eq!(metrics.get(Counter::EventsIn), n_pushed, "an event enters once");
    let left = pipeline.snapshot();
    assert_eq!(
        metrics.get(Counter::RequestsSeen),
        metrics.get(Counter::Transactions)
            + left.n_unended
            + left.n_open
            + left.n_long_lived
            + left.n_waiting,
        "requests seen = transactions + open"
    );
    Account { kernel, metrics, decoded: n_events }
}

#[rstest]
fn a_tiny_ring_and_a_slow_consumer_lose_by_name(#[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks) {
    let _machine = machine();
    let account = run(hooks, 64 * 1024, 1, Nap::AfterEach(Duration::from_millis(20)), None);
    account.adds_up();
    let lost = account.kernel("refused_data")
        + account.kernel("overload_payload")
        + account.metrics.get(Counter::BatchQueueFull);
    assert!(lost > 0, "nothing was lost: this test shows nothing");
}

#[rstest]
fn enough_room_loses_nothing(#[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks) {
    let _machine = machine();
    let account = run(hooks, 64 * 1024 * 1024, 4096, Nap::Never, None);
    account.adds_up();
    assert_eq!(account.kernel("events_attempted"), account.decoded);
    assert_eq!(account.metrics.get(Counter::RequestsSeen), 6000);
}

/// A queue whose room is counted in batches holds what it should: small ones are filled up while the pipeline is behind. Some 250 come a second, and
/// a quarter of a second's would fill this queue.
#[rstest]
fn a_pipeline_that_stands_still_for_a_while_loses_nothing(
    #[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks,
) {
    let _machine = machine();
    let account = run(hooks, 16 * 1024 * 1024, 64, Nap::Once(Duration::from_secs(2)), Some(3000.0));
    account.adds_up();
    assert_eq!(account.kernel("events_attempted"), account.decoded);
    assert_eq!(account.metrics.get(Counter::RequestsSeen), 6000);
}
