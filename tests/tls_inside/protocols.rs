//! What speaks inside: found by its bytes, by what asked for TLS, or by nobody.

use super::*;

/// Says what a capture says, inside.
fn say(mut story: Story, lines: &[Line]) -> Story {
    for line in lines {
        story = match line {
            Line::Bytes(flow, bytes) => story.clear(*flow, bytes),
            Line::Close(_) => story,
            other => panic!("{other:?}"),
        };
    }
    story
}

#[track_caller]
fn capture(protocol: &str, name: &str) -> Vec<Line> {
    let found = captures(protocol).into_iter().find(|(found, _)| found == name);
    parse(&found.expect("a capture").1)
}

/// The same in the clear: operations with what came of them.
fn in_the_clear(lines: &[Line]) -> Vec<String> {
    let mut story = Story::new(Role::Client).open(0);
    for line in lines {
        if let Line::Bytes(flow, bytes) = line {
            story = story.wire(*flow, bytes);
        }
    }
    told(story.close(abi::CLOSE_NORMAL).run().outside())
}

fn told(rows: Vec<&Transaction>) -> Vec<String> {
    let one = |row: &&Transaction| {
        let Transaction { protocol, operation, target, namespace, status_code, error, rows, end, .. } = row;
        format!("{protocol} {operation} {target:?} {namespace:?} {status_code:?} {error} {rows:?} {end:?}")
    };
    rows.iter().map(one).collect()
}

#[test]
fn http2_inside_is_found_by_its_bytes_and_captured_whole() {
    let lines = capture("http2", "h2load_m8");
    let story = Story::new(Role::Client).open(0).handshake().tls_open();
    let run = say(story, &lines).close(abi::CLOSE_NORMAL).run();
    run.lost_nothing();
    let inside = told(run.inside());
    assert!(inside.len() >= 2 && inside.iter().all(|row| row.starts_with("http2 GET")), "{inside:#?}");
    assert_eq!(inside, in_the_clear(&lines));
    assert_eq!(run.outside().len(), 1);
    assert_eq!(run.last_verdict(CLEAR), Some(abi::VERDICT_EVERYTHING));
    assert_eq!(run.last_verdict(WIRE), Some(abi::VERDICT_LENGTHS));
}

/// A request for TLS in the clear, and the handshake behind it.
fn asked(ask: &[(Flow, Vec<u8>)]) -> Story {
    let story = Story::new(Role::Client).open(0);
    let story = ask.iter().fold(story, |story, (flow, bytes)| story.wire(*flow, bytes));
    story.handshake()
}

#[test]
fn postgres_behind_its_request_for_tls_goes_on_inside() {
    let lines = capture("postgres", "simple");
    // Without the request that was refused there.
    let lines = &lines[2..];
    let ask = [(Flow::Request, b"\0\0\0\x08\x04\xd2\x16\x2f".to_vec()), (Flow::Response, b"S".to_vec())];
    let run = say(asked(&ask).tls_open(), lines).close(abi::CLOSE_NORMAL).run();
    run.lost_nothing();
    let inside = told(run.inside());
    assert!(inside.len() > 4 && inside[0].starts_with("postgres startup"), "{inside:#?}");
    assert_eq!(inside, in_the_clear(lines));
    assert_eq!(told(run.outside()).len(), 1, "the handshake");
    assert!(run.inside().iter().all(|one| one.tls.as_deref() == Some(&facts(Some("openssl")))));
}

/// A connection in the clear as it would be behind a request for TLS: the numbers of its first packets are one more.
fn behind_request(lines: &[Line]) -> (Vec<u8>, Vec<u8>, Vec<Line>) {
    let Line::Bytes(Flow::Response, greeting) = &lines[0] else { panic!("no greeting") };
    let mut inside = lines[1..].to_vec();
    let mut request = Vec::new();
    for line in inside.iter_mut().take(2) {
        let Line::Bytes(flow, bytes) = line else { panic!("no packet") };
        assert_eq!(
            u32::from_le_bytes([bytes[0], bytes[1], bytes[2], 0]) as usize + 4,
            bytes.len(),
            "one packet"
        );
        if *flow == Flow::Request {
            request = [&[32, 0, 0, 1], &bytes[4..36]].concat();
            request[5] |= 8;
        }
        bytes[3] += 1;
    }
    (greeting.clone(), request, inside)
}

#[test]
fn mysql_behind_its_request_for_tls_goes_on_inside() {
    let lines = capture("mysql", "client_statements");
    let (greeting, request, inside) = behind_request(&lines);
    let ask = [(Flow::Response, greeting), (Flow::Request, request)];
    let story = asked(&ask).tls_open();
    let run = say(story.clone(), &inside).close(abi::CLOSE_NORMAL).run();
    run.lost_nothing();
    let told_inside = told(run.inside());
    assert!(told_inside.len() > 4 && told_inside[0].starts_with("mysql CONNECT"), "{told_inside:#?}");
    assert_eq!(told_inside, in_the_clear(&lines));
    assert_eq!(told(run.outside()).len(), 1, "the handshake");
    assert_eq!(run.last_verdict(CLEAR), Some(abi::VERDICT_EVERYTHING));
    // It is known before it has said anything.
    let run = story.run();
    assert_eq!(run.last_verdict(CLEAR), Some(abi::VERDICT_EVERYTHING));
    assert_eq!(run.snapshot.connections.open[0].protocol, Some("mysql"));
}

#[test]
fn what_nobody_knows_inside_is_followed_turn_by_turn_as_it_was_from_outside() {
    let mut story = Story::new(Role::Client).open(0).handshake().tls_open();
    for _ in 0..4 {
        story = story.clear(Flow::Request, b"\xd1hullo").clear(Flow::Response, b"\xd2hi");
    }
    let run = story.close(abi::CLOSE_NORMAL).run();
    let inside = told(run.inside());
    // The first turns told that nobody knows it.
    assert_eq!(inside.len(), 2, "{inside:#?}");
    assert!(inside.iter().all(|row| row.starts_with("opaque ")), "{inside:#?}");
    assert_eq!(run.snapshot.lost_requests, LostRequests::default());
    assert_eq!(run.metrics.get(Counter::OpaqueConns), 0);
}

#[test]
fn a_tunnel_through_a_proxy_stays_the_one_transaction_that_it_is() {
    let story = Story::new(Role::Client).open(0);
    let story = story.wire(Flow::Request, b"CONNECT shop.example:443 HTTP/1.1\r\nHost: shop.example\r\n\r\n");
    let story = story.wire(Flow::Response, b"HTTP/1.1 200 OK\r\n\r\n").handshake().first(GET.as_bytes());
    let run = story.clear(Flow::Response, OK.as_bytes()).exchange().close(abi::CLOSE_NORMAL).run();
    run.lost_nothing();
    let (inside, outside) = (run.inside(), run.outside());
    assert_eq!((inside.len(), outside.len()), (2, 1), "{:#?}", run.transactions);
    assert_eq!(
        (outside[0].protocol, outside[0].kind, outside[0].end),
        ("http1", Kind::LongLived, End::Upgraded)
    );
    assert_eq!(inside[0].protocol, "http1");
    assert_eq!(run.metrics.get(Counter::Carried), 0);
}

#[test]
fn what_is_looked_for_may_be_inside() {
    let story = Story::https(Role::Server, 3).close(abi::CLOSE_NORMAL);
    for (protocol, n_inside, n_outside) in [("http1", 3, 0), ("tls", 0, 1), ("redis", 0, 0)] {
        let config = PipelineConfig { protocols: vec![protocol.to_owned()], ..config() };
        let run = Run::of(&story.events, config);
        run.lost_nothing();
        assert_eq!((run.inside().len(), run.outside().len()), (n_inside, n_outside), "{protocol}");
        if protocol == "http1" {
            let sni = run.inside()[0].tls.as_ref().and_then(|facts| facts.sni.clone());
            assert_eq!(sni.as_deref(), Some(NAME));
            assert_eq!(run.last_verdict(WIRE), Some(abi::VERDICT_LENGTHS));
        }
    }
}
