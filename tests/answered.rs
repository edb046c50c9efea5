//! Requests that could be several protocols', and are known by their answers: Redis' inline commands.

use tracer_ebpf as abi;
use tracer_user::{
    event::Role,
    pipeline::PipelineConfig,
    protocol::{Inference, REGISTRY},
    transaction::{Confidence, End, Transaction},
};

use crate::cases::{IN, OUT, Script};

/// The first turns of connections of line protocols that a Redis command could be taken for.
const FOREIGN: &[(&str, &str, &str)] = &[
    ("nats", "PING\r\n", "PONG\r\n"),
    ("nats", "SUB a 1\r\nPING\r\n", "+OK\r\nPONG\r\n"),
    ("nats", "PING\r\n", "+OK\r\n"),
    ("nats", "PING\r\n", "-ERR 'Authorization Violation'\r\n"),
    ("nats", "INFO\r\n", "-ERR 'Unknown Protocol Operation'\r\n"),
    ("memcached", "get key\r\n", "END\r\n"),
    ("memcached", "get key\r\n", "VALUE key 0 5\r\nhello\r\nEND\r\n"),
    ("memcached", "set key 0 0 5\r\nhello\r\n", "STORED\r\n"),
    ("memcached", "incr n 1\r\n", "5\r\n"),
    ("memcached", "append key 0 0 1\r\na\r\n", "NOT_STORED\r\n"),
    ("memcached", "touch key 1\r\n", "TOUCHED\r\n"),
    ("memcached", "quit\r\n", "ERROR\r\n"),
    ("pop3", "QUIT\r\n", "+OK bye\r\n"),
    ("pop3", "QUIT\r\n", "+OK\r\n"),
    ("pop3", "AUTH PLAIN\r\n", "+ \r\n"),
    ("pop3", "AUTH\r\n", "+OK\r\nPLAIN\r\n.\r\n"),
    ("pop3", "AUTH x\r\n", "-ERR not here\r\n"),
    ("smtp", "QUIT\r\n", "221 bye\r\n"),
    ("smtp", "AUTH PLAIN\r\n", "334 \r\n"),
    ("ftp", "TYPE I\r\n", "200 switched\r\n"),
    ("http0.9", "GET /\r\n", "<html>\r\n"),
    ("http1", "GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n"),
    ("irc", "PING a\r\n", ":server PONG server :a\r\n"),
    ("irc", "INFO\r\n", ":irc.example.org 371 me :text\r\n"),
    ("gopher", "info\r\n", "iWelcome\tfake\t(NULL)\t0\r\n"),
    ("finger", "monitor\r\n", "Login: monitor\r\n"),
    ("clamd", "PING\n", "PONG\n"),
    ("mpd", "ping\n", "OK\n"),
    ("echo", "PING\r\n", "PING\r\n"),
    ("nobody", "GET key\r\n", "$x\r\n"),
    ("nobody", "GET key\r\n", "+value\r\n"),
    ("nobody", "NOSUCH key\r\n", "$-1\r\n"),
    ("nobody", "GET \x01\r\n", "$-1\r\n"),
    ("nobody", "GET key", "$-1\r\n"),
];

#[test]
fn no_answer_makes_another_protocols_line_a_command() {
    for (owner, asked, answered) in FOREIGN {
        for protocol in REGISTRY {
            for cut in 0..=answered.len() {
                let inference = protocol.infer_answered(asked.as_bytes(), &answered.as_bytes()[..cut]);
                let fits = inference == Inference::No || cut == 0 && inference == Inference::NeedMore;
                assert!(fits, "{} takes {owner}'s {asked:?}, {:?}", protocol.name(), &answered[..cut]);
            }
        }
    }
}

fn commands(script: Script) -> Vec<(String, End, Confidence)> {
    let (transactions, _) = script.end();
    let told = |one: &Transaction| (one.operation.to_string(), one.end, one.confidence);
    assert!(transactions.iter().all(|one| one.protocol == "redis"), "{transactions:#?}");
    transactions.iter().map(told).collect()
}

fn whole(operations: &[&str]) -> Vec<(String, End, Confidence)> {
    operations.iter().map(|name| ((*name).to_owned(), End::Answered, Confidence::Complete)).collect()
}

#[test]
fn a_line_and_its_answer_begin_a_connection() {
    for (asked, operation, answered) in [
        ("PING\r\n", "PING", "+PONG\r\n"),
        ("ping\n", "PING", "+PONG\r\n"),
        ("GET key\r\n", "GET", "$5\r\nhello\r\n"),
        ("set key 'secret'\r\n", "SET", "+OK\r\n"),
        ("config get maxmemory\r\n", "CONFIG GET", "*2\r\n$9\r\nmaxmemory\r\n$1\r\n0\r\n"),
        ("INCR n\r\n", "INCR", ":1\r\n"),
        ("INCR n\r\n", "INCR", "-WRONGTYPE Operation against a key\r\n"),
        ("GET\r\n", "GET", "-ERR wrong number of arguments for 'get' command\r\n"),
        ("PING\r\n", "PING", "-NOAUTH Authentication required.\r\n"),
    ] {
        let script = Script::server().call(IN, asked).call(OUT, answered);
        let script = script.call(IN, "get key\r\n").call(OUT, "$-1\r\n").close(abi::CLOSE_NORMAL);
        assert_eq!(commands(script), whole(&[operation, "GET"]), "{asked}");
        let script = Script::client().call(OUT, asked).call(IN, answered);
        assert_eq!(commands(script), whole(&[operation]), "{asked}");
    }
}

#[test]
fn several_lines_at_once_are_answered_in_their_order() {
    let script = Script::server().call(IN, "PING\r\nSET a secret\r\n").call(IN, "GET a\r\n");
    let script = script.call(OUT, "+PONG\r\n+OK\r\n$6\r\nsecret\r\n");
    assert_eq!(commands(script), whole(&["PING", "SET", "GET"]));
}

/// Nothing is claimed where a turn before was not seen, nor from what was not whole.
#[test]
fn lines_in_the_middle_are_nobodys() {
    let joined = Script::new(PipelineConfig::default()).open(Role::Server, abi::FLAG_MID_JOIN);
    let later = Script::server().call(IN, "hello\r\n").call(OUT, "welcome\r\n");
    let uncaptured = Script::server().cut(IN, "PING\r\n", 3);
    for script in [joined, later, uncaptured] {
        let (transactions, _) = script.call(IN, "PING\r\n").call(OUT, "+PONG\r\n").end();
        assert!(transactions.is_empty(), "{transactions:#?}");
    }
}
