//! What people are shown: both connections are one.

use tracer_user::{
    pipeline::{ConnRow, ConnState},
    report::filter::{Filter, Thresholds},
    sink::jsonl::write_transaction,
};

use super::*;

fn rows(run: &Run) -> &[ConnRow] {
    &run.snapshot.connections.open
}

#[test]
fn both_are_one_row_with_the_bytes_of_the_wire_and_the_protocol_inside() {
    let story = Story::https(Role::Client, 3).clear(Flow::Request, GET.as_bytes());
    let metrics = Metrics::default();
    let mut pipeline = Pipeline::new(config(), metrics, Box::new(Verdicts::default()));
    story.events.iter().for_each(|event| pipeline.push(event));
    pipeline.settle();
    let snapshot = pipeline.snapshot();
    let [row] = &snapshot.connections.open[..] else { panic!("{:#?}", snapshot.connections) };
    assert_eq!(
        (snapshot.n_conns, row.conn, row.protocol, row.state),
        (1, WIRE, Some("http1"), ConnState::Open)
    );
    let moved = |at: usize| story.wire.positions[at] - (1 << 33);
    assert_eq!(row.bytes, [moved(0), moved(1)]);
    assert_eq!((row.requests, row.errors, row.in_flight), (4, 0, 1), "the handshake among them");
    assert_eq!(row.tls.as_deref(), Some(&facts(Some("openssl"))));
    assert_eq!((row.role, row.tuple.remote_port, row.pid, row.capture), (Role::Client, 443, 5, "heads"));
    assert!(row.from_start && row.step.is_some());
    // When the clear text has ended, the wire tells of it.
    let mut ended = story.clone();
    ended.events.push(ended.clear.close(ended.now, abi::CLOSE_NORMAL));
    let run = ended.run();
    let [row] = rows(&run) else { panic!("{:#?}", run.snapshot.connections) };
    assert_eq!((row.protocol, row.requests, row.errors, row.in_flight), (Some("http1"), 5, 1, 0));
    assert_eq!(row.tls.as_deref(), Some(&facts(Some("openssl"))));
    assert_eq!(run.snapshot.connections.n_closed, 0);
    let run = ended.close_wire(abi::CLOSE_NORMAL).run();
    let [row] = &run.snapshot.connections.closed[..] else { panic!("{:#?}", run.snapshot.connections) };
    assert_eq!(
        (row.conn, row.protocol, row.requests, row.state),
        (WIRE, Some("http1"), 5, ConnState::Closed)
    );
    assert_eq!((row.tls.as_deref(), run.snapshot.n_conns), (Some(&facts(Some("openssl"))), 0));
}

#[test]
fn without_its_carrier_a_clear_text_is_a_row_of_its_own() {
    let story = Story::new(Role::Client).tls_open();
    let story = story.only_clear(Flow::Request, GET.as_bytes()).only_clear(Flow::Response, OK.as_bytes());
    let run = story.run();
    let [row] = rows(&run) else { panic!("{:#?}", run.snapshot.connections) };
    assert_eq!((row.conn, row.protocol, row.requests), (WIRE, Some("http1"), 1));
    assert_eq!(run.snapshot.n_conns, 1);
}

#[test]
fn rows_filters_and_json_name_the_connection_on_the_wire() {
    let run = Story::https(Role::Server, 2).close(abi::CLOSE_NORMAL).run();
    let parse = |text: &str| Filter::parse(text, Thresholds::default()).unwrap();
    for (text, n) in [
        ("tls.library = openssl", 2),
        ("tls_library = openssl", 2),
        ("tls.library = null", 1),
        ("conn_id = '0000000000004000'", 3),
        ("conn_id = '0000000000004040'", 0),
        ("id = '0000000000004040-1'", 1),
        ("tls.sni = shop.example", 3),
    ] {
        let filter = parse(text);
        assert_eq!(run.transactions.iter().filter(|one| filter.matches(one)).count(), n, "{text}");
    }
    assert!(run.transactions.iter().all(|one| Filter::conn(WIRE).matches(one)));
    let mut line = Vec::new();
    write_transaction(&mut line, run.inside()[1]);
    let line: serde_json::Value = serde_json::from_slice(&line).unwrap();
    assert_eq!(line["conn_id"], "0000000000004000");
    assert_eq!(line["id"], "0000000000004040-1");
    assert_eq!(line["tls"]["library"], "openssl");
    let mut ids: Vec<String> = run.transactions.iter().map(Transaction::id).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 3);
}

#[test]
fn both_are_forgotten_together_and_come_back_as_what_they_were() {
    let forgetful = PipelineConfig { idle_after_ns: 1_000 * MS, ..config() };
    let story = Story::https(Role::Client, 1).wait(500).wait(3_000).wait(700);
    let run = Run::of(&story.events, forgetful.clone());
    assert_eq!((run.snapshot.n_conns, run.snapshot.connections.n_closed), (0, 1));
    assert_eq!(run.snapshot.connections.closed[0].protocol, Some("http1"));
    let run = Run::of(&story.exchange().exchange().wait(700).events, forgetful.clone());
    assert_eq!((run.inside().len(), run.outside().len()), (3, 1), "{:#?}", run.transactions);
    assert_eq!(run.snapshot.n_conns, 1);
    let ids: std::collections::BTreeSet<String> = run.transactions.iter().map(Transaction::id).collect();
    assert_eq!(ids.len(), 4);
    // What moves inside keeps its carrier, though nothing is told of that.
    let mut story = Story::https(Role::Client, 1);
    for _ in 0..5 {
        story = story
            .wait(600)
            .only_clear(Flow::Request, GET.as_bytes())
            .only_clear(Flow::Response, OK.as_bytes());
    }
    let run = Run::of(&story.events, forgetful);
    assert_eq!((run.snapshot.n_conns, run.snapshot.connections.n_closed), (1, 0));
    assert!(run.inside().iter().all(|one| one.server_port == Some(443)));
}

#[test]
fn the_tracker_keeps_its_bound() {
    let small = PipelineConfig { max_conns: 6, ..config() };
    let mut events = Vec::new();
    for n in 0..40 {
        let mut story = Story::https(Role::Client, 2);
        for event in &mut story.events {
            let shift = |conn: &mut ConnId| conn.0 += n << 16;
            match event {
                Event::Data(data) => shift(&mut data.conn),
                Event::ConnOpen(open) => shift(&mut open.conn),
                Event::TlsOpen(open) => {
                    shift(&mut open.conn);
                    shift(&mut open.carrier);
                }
                _ => {}
            }
        }
        events.extend(story.events);
    }
    let run = Run::of(&events, small);
    assert!(run.snapshot.n_conns <= 6, "{}", run.snapshot.n_conns);
    assert!(run.metrics.get(Counter::TrackerFull) > 0);
}
