//! `--protocol` over all captures at once: the rows of a run that looks for one protocol are those of the whole run that are of it.

use std::collections::BTreeSet;

use tracer_ebpf as abi;
use tracer_user::{
    cli::delivery::{Delivery, Out, Totals},
    event::{ConnId, ConnShut, Event, Role},
    metrics::Counter,
    pipeline::{LookedFor, PipelineConfig, Snapshot},
    protocol::{Flow, REGISTRY},
    report::filter::{Filter, Thresholds},
    sink::jsonl::write_transaction,
    time::BootTime,
    transaction::{Kind, Transaction, TransactionBatch},
};

use crate::{
    captures::{Line, captures, parse},
    cases::{IN, OUT, Script},
};

/// What comes before the captures of what only begins as another protocol.
const SOCKET: [&[u8]; 2] = [
    b"GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
];
/// A plain request on the connection that is upgraded later: no part of the socket.
const PLAIN: [&[u8]; 2] =
    [b"GET /login HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"];
/// h2c's answer to the request that asked for it, then a call of gRPC's and a plain request, which are answered the other way round.
const H2C: [&[u8]; 4] = [
    b"GET /asks_for_h2c HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n\
      \0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0d\0\0\x01\x01\x05\0\0\0\x01\x88",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\
      \0\0\x2f\x01\x04\0\0\0\x03\x83\x86D\x06/a.B/CA\x04shop@\x0ccontent-type\x10application/grpc\
      \0\0\x06\0\x01\0\0\0\x03\0\0\0\0\x01x\0\0\x03\x01\x05\0\0\0\x05\x82\x86\x84",
    b"\0\0\x01\x01\x05\0\0\0\x05\x88\0\0\x20\x01\x05\0\0\0\x03\x88@\x0ccontent-type\x10application/grpc",
];
/// PostgreSQL's request for TLS, and the agreement.
const ASK_TLS: [&[u8]; 2] = [b"\0\0\0\x08\x04\xd2\x16\x2f", b"S"];

struct Run {
    /// As JSON lines, without the number that depends on what else there was; and each one's protocol.
    rows: Vec<(&'static str, String)>,
    /// The same as they are.
    transactions: Vec<Transaction>,
    totals: Totals,
    last: Snapshot,
}

fn turns(turns: &[&[u8]]) -> Vec<Line> {
    let flows = [Flow::Request, Flow::Response].into_iter().cycle();
    turns.iter().zip(flows).map(|(bytes, flow)| Line::Bytes(flow, bytes.to_vec())).collect()
}

/// All captures, each a connection.
pub fn conversations() -> Vec<Vec<Line>> {
    let mut all =
        vec![turns(&H2C), [turns(&PLAIN), turns(&H2C)].concat(), [turns(&PLAIN), turns(&SOCKET)].concat()];
    // The last plain answer and the agreement come in one piece.
    let [ask, agree] = [[PLAIN[0], H2C[0]].concat(), [PLAIN[1], H2C[1]].concat()];
    all.push(turns(&[&ask, &agree, H2C[2], H2C[3]]));
    for protocol in REGISTRY {
        for (_, capture) in captures(protocol.name()) {
            let lines = parse(&capture);
            if protocol.name() == "websocket" {
                all.push([turns(&PLAIN), turns(&SOCKET), lines.clone()].concat());
            }
            if protocol.name() == "tls" {
                all.push([turns(&ASK_TLS), lines.clone()].concat());
            }
            all.push(lines);
        }
    }
    all
}

fn run(names: &[&str]) -> Run {
    let protocols: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let looked_for = LookedFor::new(&protocols);
    // The port of all servers here.
    let config = PipelineConfig { protocols, opaque_ports: vec![80], ..PipelineConfig::default() };
    let mut script = Script::new(config);
    let mut delivery = Delivery::new(looked_for, None, None, script.metrics.clone());
    let (mut rows, mut transactions) = (Vec::new(), Vec::new());
    let mut out = |batch: TransactionBatch, _| {
        for mut one in batch.transactions {
            one.seq = 0;
            let mut line = Vec::new();
            write_transaction(&mut line, &one);
            rows.push((one.protocol, String::from_utf8(line).unwrap()));
            transactions.push(one);
        }
    };
    for (idx, lines) in conversations().into_iter().enumerate() {
        script.conn = ConnId(100 + idx as u64);
        (script.turn, script.speaking) = (0, None);
        let is_server = idx % 2 == 0;
        script = script.open(if is_server { Role::Server } else { Role::Client }, 0);
        let direction = |flow| if (flow == Flow::Request) == is_server { IN } else { OUT };
        for line in lines {
            let (flow, bytes, captured) = match line {
                Line::Bytes(flow, bytes) => (flow, bytes, usize::MAX),
                Line::Uncaptured(flow, n) => (flow, vec![0; n as usize], 0),
                Line::Lost(flow, n) => {
                    script.data(direction(flow), &vec![0; n as usize], 0);
                    continue;
                }
                Line::Close(flow) => {
                    script.now += 1;
                    let (time, conn) = (BootTime(script.now), script.conn);
                    script.pipeline.push(&Event::ConnShut(ConnShut {
                        time,
                        conn,
                        direction: direction(flow),
                    }));
                    continue;
                }
            };
            let mut data = script.data(direction(flow), &bytes, captured);
            // A service of its own: what names are learned is not shared.
            data.pid = 1000 + idx as u32;
            data.comm[..8].copy_from_slice(format!("{idx:08}").as_bytes());
            script = script.push(data);
        }
        check_sums(&mut delivery, &mut script, &mut out);
        script = script.close(abi::CLOSE_NORMAL).wait(700);
        check_sums(&mut delivery, &mut script, &mut out);
    }
    script.pipeline.settle();
    let last = script.pipeline.snapshot();
    delivery.deliver(script.pipeline.finish(), None, &mut out);
    let (totals, metrics) = (delivery.totals, &script.metrics);
    assert_eq!(metrics.get(Counter::Transactions), totals.transactions);
    assert_eq!(metrics.get(Counter::Filtered), totals.filtered);
    assert_eq!(
        metrics.get(Counter::RequestsSeen),
        metrics.get(Counter::Transactions) + metrics.get(Counter::Unended),
        "{names:?}"
    );
    Run { rows, transactions, totals, last }
}

/// Requests seen = transactions + open, at this instant.
fn check_sums(delivery: &mut Delivery, script: &mut Script, out: &mut impl Out) {
    let Snapshot { n_open, n_long_lived, n_left_out, n_unended, n_waiting, .. } =
        delivery.look(&mut script.pipeline, out);
    let metrics = &script.metrics;
    let sum = metrics.get(Counter::Transactions) + n_unended + n_open + n_long_lived + n_left_out + n_waiting;
    assert_eq!(metrics.get(Counter::RequestsSeen), sum);
}

#[test]
fn looking_for_a_protocol_gives_the_rows_that_are_of_it() {
    let whole = run(&[]);
    assert_eq!(whole.totals.filtered, 0);
    let found: BTreeSet<&str> = whole.rows.iter().map(|row| row.0).collect();
    let datagrams = ["mdns", "llmnr"];
    for protocol in REGISTRY.iter().filter(|protocol| !datagrams.contains(&protocol.name())) {
        assert!(found.contains(protocol.name()), "nothing of {}: {found:?}", protocol.name());
    }
    let mut sets: Vec<Vec<&str>> = found.iter().map(|name| vec![*name]).collect();
    sets.extend([vec!["http1", "grpc"], vec!["websocket", "http2"], found.iter().copied().collect()]);
    for names in sets {
        let limited = run(&names);
        let expected: Vec<_> = whole.rows.iter().filter(|row| names.contains(&row.0)).collect();
        assert!(!expected.is_empty(), "{names:?}");
        assert_eq!(limited.rows.iter().collect::<Vec<_>>(), expected, "{names:?}");
        let Totals { transactions, filtered, .. } = limited.totals;
        assert!(filtered <= transactions && transactions <= whole.totals.transactions, "{names:?}");
        let (lost, all) = (limited.last.lost_requests, whole.last.lost_requests);
        assert!(lost.low <= all.low && lost.high <= all.high, "{names:?}: {lost:?} of {all:?}");
    }
    for name in &found {
        let filter = Filter::parse(&format!("protocol = {name}"), Thresholds::default()).unwrap();
        assert!(
            whole.transactions.iter().all(|one| filter.matches(one) == (one.protocol == *name)),
            "{name}"
        );
    }
    let first: Vec<_> =
        whole.transactions.iter().filter(|one| &*one.operation == "GET /asks_for_h2c").collect();
    assert_eq!(first.len(), 3);
    for one in first {
        assert_eq!((one.protocol, one.kind, one.status_code), ("http2", Kind::Request, Some(200)), "{one:?}");
    }
    let grpc = run(&["grpc"]);
    assert!(grpc.totals.filtered > 0, "plain HTTP/2 on the same connections is left out, and counted");
}
