//! Conversations of PostgreSQL.

use proptest::{collection::vec, prelude::*, sample::select};
use tracer_user::protocol::Flow;

use super::{Conversation, Script};
use crate::wire::{End, Seen};

/// A message: type, length, body.
fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend((body.len() as u32 + 4).to_be_bytes());
    bytes.extend_from_slice(body);
    bytes
}

fn text(kind: u8, text: &str) -> Vec<u8> {
    message(kind, format!("{text}\0").as_bytes())
}

/// Values that tempt a parser: messages, errors, ends.
fn value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(b"Z\0\0\0\x05I".to_vec()),
        Just(b"C\0\0\0\x0dSELECT 9\0".to_vec()),
        Just(b"Q\0\0\0\x0dSELECT 1\0".to_vec()),
        Just(Vec::new()),
        vec(any::<u8>(), 0..40),
        vec(any::<u8>(), 4000..6000),
    ]
}

fn row(value: &[u8]) -> Vec<u8> {
    let mut body = 1u16.to_be_bytes().to_vec();
    body.extend((value.len() as u32).to_be_bytes());
    body.extend_from_slice(value);
    message(b'D', &body)
}

fn columns() -> Vec<u8> {
    let mut body = 1u16.to_be_bytes().to_vec();
    body.extend(b"name\0");
    body.extend([0; 18]);
    message(b'T', &body)
}

fn error(code: &str) -> Vec<u8> {
    message(b'E', format!("SERROR\0VERROR\0C{code}\0Msecret\0\0").as_bytes())
}

const READY: &[u8] = b"Z\0\0\0\x05I";
const SYNC: &[u8] = b"S\0\0\0\x04";

#[derive(Clone, Debug)]
struct Asked {
    statement: (&'static str, &'static str, &'static str),
    parameter: Vec<u8>,
    rows: Vec<Vec<u8>>,
    fails: bool,
    notice: bool,
}

fn asked() -> impl Strategy<Value = Asked> {
    let statements = vec![
        ("SELECT name FROM items WHERE id = 7", "SELECT items", "SELECT name FROM items WHERE id = ?"),
        ("UPDATE items SET name = 'secret'", "UPDATE items", "UPDATE items SET name = ?"),
        ("SELECT a FROM b, c", "SELECT b c", "SELECT a FROM b, c"),
    ];
    let rows = vec(value(), 0..4);
    (select(statements), value(), rows, prop::bool::weighted(0.2), prop::bool::weighted(0.2)).prop_map(
        |(statement, parameter, rows, fails, notice)| Asked { statement, parameter, rows, fails, notice },
    )
}

#[derive(Clone, Debug)]
enum Round {
    Simple(Asked),
    Extended(Asked),
    Pipelined(Vec<Asked>),
    Prepare(Asked),
    /// A portal read in two parts.
    Portal(Asked),
    /// A function call, with its argument and whether it fails.
    Function(Vec<u8>, bool),
}

/// Up to 6 round trips behind a session's beginning.
pub fn conversation() -> impl Strategy<Value = Conversation> {
    let round = prop_oneof![
        3 => asked().prop_map(Round::Simple),
        3 => asked().prop_map(Round::Extended),
        1 => vec(asked(), 2..5).prop_map(Round::Pipelined),
        1 => asked().prop_map(Round::Prepare),
        1 => asked().prop_map(Round::Portal),
        1 => (value(), any::<bool>()).prop_map(|(value, fails)| Round::Function(value, fails)),
    ];
    (any::<bool>(), vec(round, 1..6)).prop_map(|(starts, rounds)| {
        let mut script = Script::default();
        if starts {
            start(&mut script);
        }
        for round in &rounds {
            match round {
                Round::Simple(asked) => simple(&mut script, asked),
                Round::Extended(asked) => extended(&mut script, std::slice::from_ref(asked)),
                Round::Pipelined(asked) => extended(&mut script, asked),
                Round::Prepare(asked) => prepare(&mut script, asked),
                Round::Portal(asked) => portal(&mut script, asked),
                Round::Function(argument, fails) => function(&mut script, argument, *fails),
            }
        }
        script.finish()
    })
}

fn start(script: &mut Script) {
    let mut body = 196_608u32.to_be_bytes().to_vec();
    body.extend(b"user\0secret\0application_name\0x\0\0");
    let mut packet = (body.len() as u32 + 4).to_be_bytes().to_vec();
    packet.extend(body);
    let n = packet.len();
    script.unannounced(Flow::Request, &packet, n, "startup (target -, to -)");
    let mut answer = message(b'R', &[0; 4]);
    answer.extend(message(b'S', b"server_version\x0015\0"));
    answer.extend(message(b'K', &[7; 8]));
    answer.extend(READY);
    let n = answer.len();
    script.unannounced(Flow::Response, &answer, n, "-");
}

fn noticed() -> Vec<u8> {
    message(b'N', b"SNOTICE\0C00000\0Msecret\0\0")
}

/// What comes back for an execution, up to its last message.
fn results(asked: &Asked) -> (Vec<u8>, String) {
    let Asked { rows, fails, notice, .. } = asked;
    let mut bytes = Vec::new();
    if *notice {
        bytes.extend(noticed());
    }
    bytes.extend(rows.iter().flat_map(|value| row(value)));
    if *fails {
        bytes.extend(error("22012"));
        return (bytes, "-, then - error 22012".into());
    }
    bytes.extend(text(b'C', &format!("SELECT {}", rows.len())));
    (bytes, format!("-, then - {} rows", rows.len()))
}

fn simple(script: &mut Script, asked: &Asked) {
    let (sql, summary, target) = asked.statement;
    let bytes = text(b'Q', sql);
    let n = bytes.len();
    script.unannounced(Flow::Request, &bytes, n, format!("{summary} (target {target}, to -)"));
    let (results, outcome) = results(asked);
    let bytes = [columns(), results, READY.to_vec()].concat();
    let n = bytes.len();
    script.unannounced(Flow::Response, &bytes, n, outcome);
}

fn extended(script: &mut Script, all: &[Asked]) {
    for (at, asked) in all.iter().enumerate() {
        let (sql, summary, target) = asked.statement;
        let parse = message(b'P', format!("\0{sql}\0\0\0").as_bytes());
        let mut bind = b"\0\0\0\0\0\x01".to_vec();
        bind.extend((asked.parameter.len() as u32).to_be_bytes());
        bind.extend_from_slice(&asked.parameter);
        bind.extend([0, 0]);
        let bytes = [parse, message(b'B', &bind), message(b'D', b"P\0"), message(b'E', &[0; 5])].concat();
        let n = bytes.len();
        script.unannounced(Flow::Request, &bytes, n, format!("{summary} (target {target}, to -)"));
        if at + 1 == all.len() {
            // No message of its own.
            let was_alone = all.len() == 1;
            script.trailer(Flow::Request, SYNC, was_alone);
        }
    }
    let mut failed = false;
    for (at, asked) in all.iter().enumerate() {
        let is_last = at + 1 == all.len();
        if failed {
            continue;
        }
        let (results, outcome) = results(asked);
        let mut bytes = [&b"1\0\0\0\x04"[..], b"2\0\0\0\x04", &columns(), &results].concat();
        failed = asked.fails;
        let mut skipped = 0;
        if failed {
            skipped = all.len() - at - 1;
        }
        if is_last || failed {
            bytes.extend(READY);
        }
        let n = bytes.len();
        script.unannounced(Flow::Response, &bytes, n, outcome);
        let end = script.position(Flow::Response);
        for _ in 0..skipped {
            script.expect(Seen {
                flow: Flow::Response,
                begin: end - READY.len() as u64,
                end: End::At(end),
                text: "- error pipeline_aborted".into(),
            });
        }
    }
}

fn prepare(script: &mut Script, asked: &Asked) {
    let (sql, summary, target) = asked.statement;
    let bytes = message(b'P', format!("s1\0{sql}\0\0\0").as_bytes());
    let n = bytes.len();
    script.unannounced(Flow::Request, &bytes, n, format!("PREPARE {summary} (target {target}, to -)"));
    script.trailer(Flow::Request, SYNC, true);
    let bytes = [&b"1\0\0\0\x04"[..], READY].concat();
    let n = bytes.len();
    script.unannounced(Flow::Response, &bytes, n, "-");
}

/// What `Execute` of a portal says.
fn execute(portal: &str) -> Vec<u8> {
    message(b'E', format!("{portal}\0\0\0\0\x05").as_bytes())
}

fn portal(script: &mut Script, asked: &Asked) {
    let (sql, summary, target) = asked.statement;
    let parse = message(b'P', format!("\0{sql}\0\0\0").as_bytes());
    let bytes = [parse, message(b'B', b"c1\0\0\0\0\0\0\0\0"), execute("c1")].concat();
    let n = bytes.len();
    let text = format!("{summary} (target {target}, to -)");
    script.unannounced(Flow::Request, &bytes, n, &text);
    script.trailer(Flow::Request, b"H\0\0\0\x04", true);
    let rows: Vec<u8> = asked.rows.iter().flat_map(|value| row(value)).collect();
    let bytes = [&b"1\0\0\0\x04"[..], b"2\0\0\0\x04", &rows, b"s\0\0\0\x04"].concat();
    let n = bytes.len();
    script.unannounced(Flow::Response, &bytes, n, format!("-, then - {} rows", asked.rows.len()));
    let bytes = execute("c1");
    script.unannounced(Flow::Request, &bytes, bytes.len(), text);
    // The portal's statement was lost with it.
    script.less("EXECUTE (target -, to -)");
    script.trailer(Flow::Request, SYNC, true);
    let (results, outcome) = results(asked);
    let bytes = [results, READY.to_vec()].concat();
    let n = bytes.len();
    let begin = script.position(Flow::Response);
    script.unannounced(Flow::Response, &bytes, n, &outcome);
    if asked.notice {
        // A server notices things unasked too: where nothing is known to be asked, a notice is no answer's.
        script.less_from(begin + noticed().len() as u64, outcome);
    }
}

fn function(script: &mut Script, argument: &[u8], fails: bool) {
    let mut body = 957u32.to_be_bytes().to_vec();
    body.extend([0, 1, 0, 1, 0, 1]);
    body.extend((argument.len() as u32).to_be_bytes());
    body.extend_from_slice(argument);
    body.extend([0, 1]);
    let bytes = message(b'F', &body);
    let n = bytes.len();
    script.unannounced(Flow::Request, &bytes, n, "FUNCTION CALL (target -, to -)");
    let (result, outcome) = match fails {
        true => (error("42883"), "-, then - error 42883"),
        false => (message(b'V', &[0, 0, 0, 1, 7]), "-"),
    };
    let bytes = [result, READY.to_vec()].concat();
    let n = bytes.len();
    script.unannounced(Flow::Response, &bytes, n, outcome);
}
