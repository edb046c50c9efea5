//! The kernel encrypts: what is on the wire behind the handshake is, as the socket's calls show it, the clear text itself.

use tracer_ebpf as abi;
use tracer_user::{
    event::{Event, Role},
    metrics::Counter,
    protocol::Flow,
    transaction::{Confidence, End},
};

use super::{CLEAR, Run, Story, WIRE};
use crate::cases::{GET, MS, OK};

/// Bytes that a call of the process moves, told twice: for the socket, and for the library, behind it.
fn both(story: Story, flow: Flow, bytes: &[u8]) -> Story {
    story.wire(flow, bytes).only_clear(flow, bytes)
}

#[track_caller]
fn check(run: &Run, n: usize, confidence: Confidence) {
    run.lost_nothing();
    let inside = run.inside();
    assert_eq!(inside.len(), n, "{:#?}", run.transactions);
    for one in inside {
        assert_eq!((one.protocol, &*one.operation, one.status_code), ("http1", "GET /user/{id}", Some(200)));
        assert_eq!((one.end, one.confidence), (End::Answered, confidence));
        assert_eq!((one.request_bytes, one.response_bytes), (GET.len() as u64, OK.len() as u64));
        assert_eq!((one.conn, one.carrier), (CLEAR, Some(WIRE)));
    }
}

#[test]
fn a_request_in_the_clear_on_the_wire_is_told_once() {
    for role in [Role::Client, Role::Server] {
        let story = Story::new(role).open(0).handshake().wire(Flow::Request, GET.as_bytes());
        let story = story.tls_open().only_clear(Flow::Request, GET.as_bytes());
        let story = both(story, Flow::Response, OK.as_bytes());
        let story = both(story, Flow::Request, GET.as_bytes());
        let run = both(story, Flow::Response, OK.as_bytes()).close(abi::CLOSE_NORMAL).run();
        check(&run, 2, Confidence::Complete);
        let outside: Vec<&str> = run.outside().iter().map(|one| &*one.operation).collect();
        assert!(outside.iter().all(|operation| *operation == "TLS handshake"), "{outside:?}");
        assert!(run.metrics.get(Counter::Carried) >= 1, "{role:?}: the request on the wire");
    }
}

/// Nothing of a handshake was seen: what is on the wire is taken for what it says, until the library's call says whose it is.
#[test]
fn a_request_that_was_read_on_the_wire_is_taken_back() {
    for role in [Role::Client, Role::Server] {
        let story = Story::new(role).open(abi::FLAG_MID_JOIN).wire(Flow::Request, GET.as_bytes());
        let story = story.tls_open_as(abi::TLS_OPENSSL, abi::TLS_LINK_NESTED, abi::FLAG_MID_JOIN);
        let story = story.only_clear(Flow::Request, GET.as_bytes());
        let story = both(story, Flow::Response, OK.as_bytes());
        let story = both(story, Flow::Request, GET.as_bytes());
        let run = both(story, Flow::Response, OK.as_bytes()).close(abi::CLOSE_NORMAL).run();
        check(&run, 2, run.inside()[0].confidence);
        assert_eq!(run.outside().len(), 0, "{:#?}", run.outside());
        assert_eq!(run.metrics.get(Counter::Carried), 1);
    }
}

/// The head is in the process's memory, the file is not: `SSL_sendfile` tells how much of it went.
#[test]
fn a_file_that_the_kernel_sends_has_its_bytes() {
    const FILE: usize = 200_000;
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {FILE}\r\n\r\n");
    let mut story = Story::https(Role::Server, 1);
    for _ in 0..2 {
        story = both(story, Flow::Request, GET.as_bytes());
        story = both(story, Flow::Response, head.as_bytes());
        for part in [131_072, FILE - 131_072] {
            story = story.wire_length(Flow::Response, part);
            let direction = story.direction(Flow::Response);
            story.now += MS;
            let mut data = story.clear.data(story.now, direction, &vec![0; part]);
            data.payload = Default::default();
            data.flags |= abi::FLAG_NO_BUFFER;
            story.events.push(Event::Data(data));
        }
    }
    let run = story.close(abi::CLOSE_NORMAL).run();
    run.lost_nothing();
    let bytes: Vec<u64> = run.inside().iter().map(|one| one.response_bytes).collect();
    let sent = (head.len() + FILE) as u64;
    assert_eq!(bytes, [OK.len() as u64, sent, sent]);
    assert!(
        run.inside().iter().all(|one| one.end == End::Answered && one.confidence == Confidence::Complete)
    );
}
