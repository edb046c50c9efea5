//! The pipeline against the synthetic source: what comes out is what happened, or it is counted as lost.

use tracer_user::{
    conn::order,
    event::{ConnClose, ConnId, ConnOpen, Data, Event, EventBatch, Role},
    metrics::{Counter, Metrics},
    pipeline::{
        AgeSteps, ConnState, Connections, MAX_CLOSED_LISTED, MAX_CONNS_LISTED, NullVerdicts, Pipeline,
        PipelineConfig, Snapshot,
    },
    source::synthetic::{Random, Synthetic, SyntheticConfig, Truth, id_of, status_of},
    time::{BootTime, WallTime},
    transaction::{Confidence, End, Transaction, Unpaired},
};

struct Run {
    transactions: Vec<Transaction>,
    snapshot: Snapshot,
    metrics: Metrics,
    /// Most requests that were ever told to be lost.
    most_lost: u64,
}

fn listing() -> PipelineConfig {
    PipelineConfig { list_connections: true, ..PipelineConfig::default() }
}

fn new(metrics: &Metrics) -> Pipeline {
    Pipeline::new(listing(), metrics.clone(), Box::new(NullVerdicts))
}

/// Pushes events in batches of `batch`, draining after each, and checks what must hold of every run.
#[track_caller]
fn run(events: &[Event], batch: usize) -> Run {
    let metrics = Metrics::default();
    let mut pipeline = new(&metrics);
    let mut transactions = Vec::new();
    let mut most_lost = 0;
    for events in events.chunks(batch) {
        pipeline.push_batch(&EventBatch { first_ordinal: 0, events: events.to_vec() });
        let drained = pipeline.drain();
        assert!(drained.transactions.iter().all(|transaction| transaction.end_time < drained.watermark));
        transactions.extend(drained.transactions);
        let Snapshot { n_open, n_long_lived, n_waiting, n_unended, lost_requests, .. } = pipeline.snapshot();
        most_lost = most_lost.max(lost_requests.high);
        assert_eq!(
            metrics.get(Counter::RequestsSeen),
            metrics.get(Counter::Transactions) + n_unended + n_open + n_long_lived + n_waiting,
            "requests seen = transactions + open, at every instant"
        );
    }
    transactions.extend(pipeline.finish().transactions);
    let snapshot = pipeline.snapshot();
    check_run(&transactions, &metrics);
    Run { transactions, snapshot, metrics, most_lost }
}

#[track_caller]
fn check_run(transactions: &[Transaction], metrics: &Metrics) {
    assert_eq!(metrics.get(Counter::RequestsSeen), transactions.len() as u64);
    assert_eq!(metrics.get(Counter::EventsIn) == 0, transactions.is_empty());
    for (seq, transaction) in transactions.iter().enumerate() {
        assert_eq!(transaction.seq, seq as u64);
        let Some(id) = transaction.target.as_deref().and_then(id_of) else {
            panic!("a target without an id: {transaction:?}");
        };
        if let Some(status) = transaction.status_code {
            assert_eq!(status, status_of(id), "a wrong pair: {transaction:?}");
        }
        if transaction.end == End::Answered && transaction.confidence != Confidence::Gap {
            assert!(transaction.status_code.is_some(), "{transaction:?}");
        }
    }
    let key = |transaction: &Transaction| (transaction.end_time, transaction.conn, transaction.ordinal);
    assert!(transactions.is_sorted_by_key(key), "in the order of their ends");
}

fn answered(run: &Run) -> u64 {
    run.transactions.iter().filter(|transaction| transaction.end == End::Answered).count() as u64
}

fn seeds() -> impl Iterator<Item = u64> {
    1..=4
}

/// Everything but loss.
fn rich(seed: u64) -> SyntheticConfig {
    SyntheticConfig {
        seed,
        n_requests: 1_000,
        pipelined: 300,
        expect: 200,
        broken: 50,
        mid_join: 200,
        ..SyntheticConfig::default()
    }
}

#[track_caller]
fn check_lossless(run: &Run, truth: &Truth, seed: u64) {
    assert_eq!(run.transactions.len() as u64, truth.requests, "seed {seed}");
    assert_eq!((run.snapshot.lost_requests.low, run.snapshot.lost_requests.high), (0, 0), "seed {seed}");
    assert_eq!(run.most_lost, 0, "seed {seed}: nothing is called lost on the way");
    let cut = run.transactions.iter().filter(|transaction| transaction.end == End::TracerStopped).count();
    // A chunked response beyond the budget that nothing followed in time: its end was not seen.
    assert!(answered(run) + cut as u64 >= truth.answered && answered(run) <= truth.answered, "seed {seed}");
    assert_eq!(run.metrics.get(Counter::OutOfOrder), 0);
}

#[test]
fn without_loss_every_request_is_a_transaction() {
    for seed in seeds() {
        let (events, truth) = Synthetic::new(rich(seed)).all();
        let run = run(&events, 100);
        check_lossless(&run, &truth, seed);
        let unsolicited = run.snapshot.unpaired.iter().find(|(reason, _)| *reason == Unpaired::Unsolicited);
        assert_eq!(unsolicited, Some(&(Unpaired::Unsolicited, 0)));
    }
}

#[test]
fn with_everything_captured_every_answer_is_complete() {
    for seed in seeds() {
        let config = SyntheticConfig { budget: u64::MAX, broken: 0, mid_join: 0, ..rich(seed) };
        let (events, truth) = Synthetic::new(config).all();
        let run = run(&events, 1000);
        assert_eq!((run.transactions.len() as u64, answered(&run)), (truth.requests, truth.answered));
        assert!(run.transactions.iter().all(|transaction| transaction.confidence == Confidence::Complete));
        assert!(run.transactions.iter().all(|transaction| transaction.duration_ns > 0));
    }
}

#[test]
fn any_batching_gives_the_same_transactions() {
    let config = SyntheticConfig { lost: 20, lost_ends: 20, disorder_ns: 3_000_000, ..rich(3) };
    let (events, _) = Synthetic::new(config).all();
    let whole = run(&events, usize::MAX);
    for batch in [1, 7, 4096] {
        let other = run(&events, batch);
        assert!(whole.transactions == other.transactions, "batches of {batch}");
        assert_eq!(whole.snapshot, other.snapshot);
    }
}

#[test]
fn disorder_within_the_window_changes_nothing() {
    for seed in seeds() {
        let (events, _) = Synthetic::new(SyntheticConfig { lost: 10, ..rich(seed) }).all();
        let straight = run(&events, 64);
        let shuffled = run(&delayed(&events, 15_000_000, seed), 64);
        assert!(straight.transactions == shuffled.transactions, "seed {seed}");
    }
}

/// Puts each event up to `lateness_ns` behind its place.
fn delayed(events: &[Event], lateness_ns: u64, seed: u64) -> Vec<Event> {
    let mut random = Random(seed);
    let mut late: Vec<(u64, &Event)> =
        events.iter().map(|event| (order::time(event).0 + random.below(lateness_ns), event)).collect();
    late.sort_by_key(|(time, _)| *time);
    late.into_iter().map(|(_, event)| event.clone()).collect()
}

#[test]
fn what_comes_later_than_the_window_is_lost_and_paired_with_nothing_wrongly() {
    let mut n_late = 0;
    for seed in seeds() {
        let half_duplex = SyntheticConfig { seed, n_requests: 1_000, ..SyntheticConfig::default() };
        for config in [
            SyntheticConfig { pieces: 2, long_bodies: 50, ..half_duplex.clone() },
            SyntheticConfig { lost: 10, mid_join: 200, ..half_duplex },
            rich(seed),
        ] {
            let (events, truth) = Synthetic::new(config).all();
            for lateness_ns in [25_000_000, 40_000_000, 100_000_000, 400_000_000] {
                let metrics = Metrics::default();
                let mut pipeline = new(&metrics);
                let events = delayed(&events, lateness_ns, seed);
                pipeline.push_batch(&EventBatch { first_ordinal: 0, events });
                let mut transactions = pipeline.drain().transactions;
                transactions.extend(pipeline.finish().transactions);
                for transaction in &transactions {
                    let id = transaction.target.as_deref().and_then(id_of).expect("a target with an id");
                    if let Some(status) = transaction.status_code {
                        assert_eq!(status, status_of(id), "seed {seed}: a wrong pair: {transaction:?}");
                    }
                }
                let (captured, lost) = (transactions.len() as u64, pipeline.snapshot().lost_requests);
                assert!(
                    captured + lost.low <= truth.requests && truth.requests <= captured + lost.high,
                    "seed {seed}: {captured} + {lost:?} is not {}",
                    truth.requests
                );
                n_late += metrics.get(Counter::Late);
            }
        }
    }
    assert!(n_late > 100, "{n_late}");
}

#[test]
fn captured_and_lost_is_what_happened_on_half_duplex_connections() {
    let mut n_lost = 0;
    for seed in seeds() {
        let config = SyntheticConfig {
            seed,
            n_requests: 2_000,
            lost: 30,
            broken: 30,
            long_bodies: 50,
            pieces: 2,
            ..SyntheticConfig::default()
        };
        let (events, truth) = Synthetic::new(config).all();
        let run = run(&events, 512);
        let captured = run.transactions.len() as u64;
        let lost = run.snapshot.lost_requests;
        assert!(
            captured + lost.low <= truth.requests && truth.requests <= captured + lost.high,
            "seed {seed}: {captured} + {lost:?} is not {}",
            truth.requests
        );
        n_lost += truth.requests - captured;
    }
    assert!(n_lost > 50, "{n_lost}");
}

#[test]
fn captured_and_lost_is_what_happened_when_the_ring_is_full_from_before_the_load_until_after_it() {
    for seed in seeds() {
        let half_duplex = SyntheticConfig { seed, n_requests: 2_000, ..SyntheticConfig::default() };
        let whole = SyntheticConfig { long_bodies: 0, budget: u64::MAX, ..half_duplex.clone() };
        for config in
            [half_duplex, whole, rich(seed), SyntheticConfig { disorder_ns: 3_000_000, ..rich(seed) }]
        {
            for (lost, left_out) in [(10, 0), (200, 0), (0, 100), (10, 300), (200, 300)] {
                let config = SyntheticConfig { lost, left_out, max_per_conn: 10, ..config.clone() };
                let (mut events, truth) = Synthetic::new(config).all();
                for closes in [true, false] {
                    // Some connections begin with heads that are left out, some end with an answer to nothing, some with half a
                    // question; and then nobody tells that they end.
                    events.retain(|event| closes || !matches!(event, Event::ConnClose(_)));
                    let run = run(&events, 512);
                    let (captured, lost) = (run.transactions.len() as u64, run.snapshot.lost_requests);
                    assert!(
                        captured + lost.low <= truth.requests && truth.requests <= captured + lost.high,
                        "seed {seed}: {captured} + {lost:?} is not {}",
                        truth.requests
                    );
                }
            }
        }
    }
}

#[test]
fn captured_and_lost_is_what_happened_on_all_connections() {
    for seed in seeds() {
        let config = SyntheticConfig { lost: 30, lost_ends: 50, ..rich(seed) };
        let (events, truth) = Synthetic::new(config).all();
        let run = run(&events, 512);
        let captured = run.transactions.len() as u64;
        let lost = run.snapshot.lost_requests;
        assert!(
            captured + lost.low <= truth.requests && truth.requests <= captured + lost.high,
            "seed {seed}: {captured} + {lost:?} is not {}",
            truth.requests
        );
    }
}

#[test]
fn a_checkpoint_in_the_middle_changes_nothing() {
    let config = SyntheticConfig { lost: 10, lost_ends: 10, disorder_ns: 1_000_000, ..rich(5) };
    let (events, _) = Synthetic::new(config).all();
    let whole = run(&events, 50);
    for at in [0, 1, 777, events.len() / 2, events.len() - 3] {
        let metrics = Metrics::default();
        let mut first = new(&metrics);
        for event in &events[..at] {
            first.push(event);
        }
        let mut transactions = first.drain().transactions;
        let saved = first.checkpoint();
        let mut second = Pipeline::restore(&saved, listing(), metrics.clone(), Box::new(NullVerdicts))
            .expect("a good checkpoint");
        for event in &events[at..] {
            second.push(event);
        }
        transactions.extend(second.finish().transactions);
        assert!(whole.transactions == transactions, "at {at}");
        assert_eq!(whole.snapshot, second.snapshot());
        assert_eq!(whole.metrics.all().collect::<Vec<_>>(), metrics.all().collect::<Vec<_>>());
    }
}

#[test]
fn other_steps_of_age_count_the_same_requests_in_other_classes_and_change_nothing_else() {
    let (events, _) = Synthetic::new(rich(1)).all();
    let run = |age_steps: AgeSteps| {
        let config = PipelineConfig { age_steps, ..PipelineConfig::default() };
        let mut pipeline = Pipeline::new(config, Metrics::default(), Box::new(NullVerdicts));
        let (mut transactions, mut checkpoints, mut open) = (Vec::new(), Vec::new(), Vec::new());
        for events in events.chunks(events.len() / 7) {
            pipeline.push_batch(&EventBatch { first_ordinal: 0, events: events.to_vec() });
            transactions.extend(pipeline.drain().transactions);
            checkpoints.push(pipeline.checkpoint());
            let snapshot = pipeline.snapshot();
            assert!(snapshot.in_flight.iter().all(|flight| flight.by_age.len() == age_steps.n_classes()));
            let by_service = snapshot.in_flight.iter();
            open.push((by_service.flat_map(|flight| &flight.by_age).sum::<u64>(), snapshot.n_open));
        }
        transactions.extend(pipeline.finish().transactions);
        (transactions, checkpoints, open)
    };
    let scouter = run(AgeSteps::SCOUTER);
    assert!(
        scouter.2.iter().all(|(counted, open)| counted == open) && scouter.2.iter().any(|(n, _)| *n != 0)
    );
    for steps in [AgeSteps::JENNIFER, AgeSteps::new(&[1]).unwrap()] {
        assert!(run(steps) == scouter, "{steps:?}");
    }
}

#[test]
fn what_is_known_of_a_request_in_flight_is_what_its_transaction_says_later() {
    let mut n_by_step = [0; 3];
    for seed in seeds() {
        let (events, _) = Synthetic::new(rich(seed)).all();
        let mut pipeline = new(&Metrics::default());
        let (mut transactions, mut open) = (Vec::new(), Vec::new());
        for events in events.chunks(31) {
            pipeline.push_batch(&EventBatch { first_ordinal: 0, events: events.to_vec() });
            open.extend(pipeline.snapshot().open);
            transactions.extend(pipeline.drain().transactions);
        }
        transactions.extend(pipeline.finish().transactions);
        let ended: std::collections::HashMap<_, _> =
            transactions.iter().map(|ended| ((ended.conn, ended.ordinal), ended)).collect();
        for open in &open {
            let (so_far, ended) = (open.so_far(), ended[&(open.conn, open.ordinal)]);
            assert_eq!(so_far.id(), ended.id());
            // Their clocks are set by anchors that may differ by what the wall clock was set in between.
            let is_same = |a: WallTime, b: WallTime| a.0.abs_diff(b.0) < 1_000_000;
            assert!(is_same(so_far.start_time, ended.start_time), "{open:?} {ended:?}");
            assert_eq!(so_far.end_time, open.now());
            assert_eq!((so_far.pid, so_far.tid), (ended.pid, ended.tid));
            let ends = |row: &Transaction| {
                let Transaction { client_addr, client_port, server_addr, server_port, .. } = row.clone();
                (client_addr, client_port, server_addr, server_port)
            };
            assert_eq!((so_far.comm.clone(), ends(&so_far)), (ended.comm.clone(), ends(ended)));
            assert_eq!((so_far.target.clone(), so_far.queue_ns), (ended.target.clone(), ended.queue_ns));
            assert_eq!((so_far.protocol, so_far.role), (ended.protocol, ended.role));
            // What was known stays known.
            for (then, later) in
                [(so_far.request_end, ended.request_end), (so_far.response_start, ended.response_start)]
            {
                assert!(
                    then.is_none_or(|then| later.is_some_and(|later| is_same(then, later))),
                    "{open:?} {ended:?}"
                );
            }
            assert!(
                so_far.request_bytes <= ended.request_bytes && so_far.response_bytes <= ended.response_bytes
            );
            n_by_step[open.step as usize] += 1;
        }
    }
    assert!(n_by_step.iter().all(|n| *n > 5), "{n_by_step:?}");
}

#[test]
fn every_connection_is_listed_with_what_was_done_on_it() {
    for seed in seeds() {
        let config = SyntheticConfig { n_requests: 2_000, n_conns: 40, lost: 0, lost_ends: 0, ..rich(seed) };
        let (events, _) = Synthetic::new(config).all();
        let run = run(&events, 64);
        let conns = &run.snapshot.connections;
        assert_eq!(conns.open.len(), run.snapshot.n_conns);
        let n_closed = events.iter().filter(|event| matches!(event, Event::ConnClose(_))).count() as u64;
        assert_eq!(conns.n_closed, n_closed);
        assert_eq!(conns.closed.len() as u64, n_closed.min(MAX_CLOSED_LISTED as u64));
        let mut n_checked = 0;
        for row in conns.open.iter().chain(&conns.closed) {
            let own = || run.transactions.iter().filter(|t| t.conn == row.conn && t.is_finished());
            let n = (own().count() as u64, own().filter(|t| t.error).count() as u64);
            assert_eq!((row.requests, row.errors), n, "seed {seed}: {row:?}");
            let bytes = own().map(|t| t.request_bytes + t.response_bytes).sum::<u64>();
            let moved: u64 = row.bytes.iter().sum();
            assert!(moved >= bytes || own().any(|t| t.confidence != Confidence::Complete), "{row:?}");
            assert_eq!(row.state.is_over(), conns.closed.iter().any(|closed| closed.conn == row.conn));
            if let Some(transaction) = own().next() {
                assert_eq!(
                    (row.role, row.protocol, row.ends()),
                    (
                        transaction.role,
                        Some(transaction.protocol),
                        if row.role == Role::Client { ends(transaction) } else { flipped(ends(transaction)) }
                    )
                );
                n_checked += 1;
            }
        }
        assert!(n_checked > 30, "{n_checked}");
        assert!(conns.open.is_sorted_by_key(|row| row.idle_ns), "the last used first");
    }
}

/// What comes of events when a checkpoint that says it is of `version`, taken behind `at` of them, is restored. One of an older version
/// ends where what was added since would begin, and a reader of such a one reads no further.
fn resumed(events: &[Event], at: usize, version: u32) -> (Vec<Transaction>, Snapshot) {
    let metrics = Metrics::default();
    let mut first = new(&metrics);
    for event in &events[..at] {
        first.push(event);
    }
    let mut transactions = first.drain().transactions;
    let mut saved = first.checkpoint();
    saved[..4].copy_from_slice(&version.to_le_bytes());
    let mut second = Pipeline::restore(&saved, listing(), metrics, Box::new(NullVerdicts)).unwrap();
    for event in &events[at..] {
        second.push(event);
    }
    transactions.extend(second.finish().transactions);
    (transactions, second.snapshot())
}

#[test]
fn a_checkpoint_of_before_connections_were_counted_is_read_and_they_count_from_there() {
    let (events, _) = Synthetic::new(rich(7)).all();
    let whole = run(&events, 50);
    let (transactions, snapshot) = resumed(&events, events.len() / 2, 2);
    assert!(bare(whole.transactions) == bare(transactions));
    let (all, counted) = (whole.snapshot.connections, snapshot.connections);
    assert_eq!(all.open.len(), counted.open.len());
    assert!(counted.n_closed < all.n_closed);
    assert!(all.open.iter().zip(&counted.open).all(|(all, counted)| counted.requests <= all.requests));
}

#[test]
fn a_checkpoint_of_before_other_protocols_came_goes_on_the_same() {
    let (events, _) = Synthetic::new(rich(8)).all();
    let whole = run(&events, 50);
    for at in [events.len() / 3, events.len() / 2] {
        let (transactions, snapshot) = resumed(&events, at, 3);
        assert!(bare(whole.transactions.clone()) == bare(transactions), "at {at}");
        assert_eq!(whole.snapshot, snapshot);
    }
}

/// Without what those checkpoints did not know: which thread served what.
fn bare(mut transactions: Vec<Transaction>) -> Vec<Transaction> {
    transactions.iter_mut().for_each(|transaction| transaction.causes = None);
    transactions
}

type Ends = [(std::sync::Arc<str>, Option<u16>); 2];

/// Client and server.
fn ends(transaction: &Transaction) -> Ends {
    let Transaction { client_addr, client_port, server_addr, server_port, .. } = transaction;
    [(client_addr.clone(), *client_port), (server_addr.clone(), *server_port)]
}

fn flipped([a, b]: Ends) -> Ends {
    [b, a]
}

#[test]
fn connections_that_are_not_asked_for_are_counted_only() {
    let (events, _) = Synthetic::new(rich(9)).all();
    let mut pipeline = Pipeline::new(PipelineConfig::default(), Metrics::default(), Box::new(NullVerdicts));
    for event in &events[..events.len() / 2] {
        pipeline.push(event);
    }
    let snapshot = pipeline.snapshot();
    assert!(snapshot.n_conns > 0);
    assert_eq!(*snapshot.connections, Connections::default());
}

#[test]
fn what_is_listed_is_bounded_and_the_rest_is_counted() {
    let mut pipeline = new(&Metrics::default());
    let n = 10_000_u64;
    for id in 1..=n {
        pipeline.push(&Event::ConnOpen(ConnOpen {
            conn: ConnId(id),
            time: BootTime(id * 1_000),
            established: BootTime(id * 1_000),
            ..ConnOpen::default()
        }));
    }
    pipeline.settle();
    let snapshot = pipeline.snapshot();
    assert_eq!((snapshot.n_conns, snapshot.connections.open.len()), (n as usize, MAX_CONNS_LISTED));
    let newest = (n - MAX_CONNS_LISTED as u64 + 1..=n).rev();
    assert!(snapshot.connections.open.iter().map(|row| row.conn.0).eq(newest));
    assert!(snapshot.connections.open.iter().all(|row| row.state == ConnState::Opening));
    for id in 1..=n {
        pipeline.push(&Event::ConnClose(ConnClose {
            conn: ConnId(id),
            time: BootTime((n + id) * 1_000),
            position: [0; 2],
            turn: 0,
            reason: u32::from(id % 2 == 0),
            n_refused: 0,
            error: 0,
        }));
    }
    pipeline.settle();
    let Snapshot { n_conns, connections, .. } = pipeline.snapshot();
    assert_eq!((n_conns, connections.n_closed, connections.closed.len()), (0, n, MAX_CLOSED_LISTED));
    assert_eq!(connections.closed[0].conn, ConnId(n));
    for row in &connections.closed {
        let state = if row.conn.0 % 2 == 0 { ConnState::Reset } else { ConnState::Closed };
        assert_eq!((row.state, row.age_ns), (state, n * 1_000));
    }
}

#[test]
fn a_damaged_checkpoint_is_an_error_and_no_panic() {
    let (events, _) = Synthetic::new(SyntheticConfig { n_requests: 60, ..rich(6) }).all();
    let mut pipeline = new(&Metrics::default());
    for event in &events[..events.len() / 2] {
        pipeline.push(event);
    }
    let saved = pipeline.checkpoint();
    let restore = |bytes: &[u8]| {
        Pipeline::restore(bytes, PipelineConfig::default(), Metrics::default(), Box::new(NullVerdicts))
    };
    for len in 0..saved.len() {
        assert!(restore(&saved[..len]).is_err(), "cut to {len} of {}", saved.len());
    }
    let mut random = Random(1);
    for _ in 0..2_000 {
        let mut bytes = saved.clone();
        let at = random.below(bytes.len() as u64) as usize;
        bytes[at] ^= 1 << random.below(8);
        if let Ok(mut pipeline) = restore(&bytes) {
            for event in &events[events.len() / 2..] {
                pipeline.push(event);
            }
            pipeline.finish();
        }
    }
}

#[test]
fn hostile_events_never_panic() {
    for seed in 0..20 {
        let mut random = Random(seed);
        let (events, _) = Synthetic::new(SyntheticConfig { n_requests: 200, ..rich(seed) }).all();
        let metrics = Metrics::default();
        let mut pipeline = new(&metrics);
        for event in &events {
            let mut event = event.clone();
            if random.chance(100) {
                spoil(&mut event, &mut random);
            }
            pipeline.push(&event);
        }
        pipeline.finish();
        assert_eq!(metrics.get(Counter::EventsIn), events.len() as u64);
    }
}

fn spoil(event: &mut Event, random: &mut Random) {
    let wild = match random.below(4) {
        0 => 0,
        1 => u64::MAX,
        2 => random.below(100),
        _ => random.draw(),
    };
    match event {
        Event::Data(Data { time, first, arrival, conn, position, bytes, turn, flags, payload, .. }) => {
            match random.below(9) {
                0 => time.0 = wild,
                1 => first.0 = wild,
                2 => arrival.0 = wild,
                3 => conn.0 = wild,
                4 => *position = wild,
                5 => *bytes = wild,
                6 => *turn = wild as u32,
                7 => *flags = wild as u16,
                _ => *payload = vec![wild as u8; 300].into(),
            }
        }
        Event::ConnOpen(open) => open.conn.0 = wild,
        Event::ConnClose(close) => match random.below(3) {
            0 => close.position = [wild, random.draw()],
            1 => close.turn = wild as u32,
            _ => close.reason = wild as u32,
        },
        _ => {}
    }
}
