//! Conversations of gRPC, on HTTP/2's streams.

use proptest::{collection::vec, prelude::*, sample::select};
use tracer_user::protocol::Flow;

use super::{
    Conversation,
    http2::{Act, Role, dress, is_part, owned, padding, written},
};

/// How a call is answered.
#[derive(Clone, Debug)]
enum Answer {
    Trailers(u32),
    TrailersOnly(u32),
    /// DATA ends it.
    Missing,
}

fn answer() -> impl Strategy<Value = Answer> {
    let status = || select(vec![0u32, 0, 0, 5, 14]);
    prop_oneof![
        4 => status().prop_map(Answer::Trailers),
        2 => status().prop_map(Answer::TrailersOnly),
        1 => Just(Answer::Missing),
    ]
}

/// What is said of a status, with its words where they were sent.
fn outcome(status: u32, words: bool) -> String {
    let words = if words && status != 0 { " (no such key)" } else { "" };
    match status {
        5 => format!("5 error for the client NOT_FOUND{words}"),
        14 => format!("14 error UNAVAILABLE{words}"),
        _ => "0".to_owned(),
    }
}

/// Messages, and into how many frames they are cut.
fn messages() -> impl Strategy<Value = (Vec<Vec<u8>>, usize)> {
    let message = prop_oneof![vec(any::<u8>(), 0..50), Just(vec![0; 300])];
    (prop_oneof![2 => vec(message.clone(), 1..2), 1 => vec(message, 0..5)], 1..4usize)
}

/// The frames of one direction; ends with the last if `end`.
fn data(
    acts: &mut Vec<Act>,
    flow: Flow,
    (messages, n_frames): &(Vec<Vec<u8>>, usize),
    end: bool,
    padding: Option<u8>,
) {
    let mut bytes = Vec::new();
    for message in messages {
        bytes.push(0);
        bytes.extend((message.len() as u32).to_be_bytes());
        bytes.extend(message);
    }
    let size = bytes.len().div_ceil(*n_frames).max(1);
    let mut pieces: Vec<Vec<u8>> = bytes.chunks(size).map(<[u8]>::to_vec).collect();
    if pieces.is_empty() {
        pieces.push(Vec::new());
    }
    let n = pieces.len();
    for (at, bytes) in pieces.into_iter().enumerate() {
        acts.push(Act::Data { flow, bytes, end: end && at + 1 == n, padding, split: false, seen: true });
    }
}

fn call() -> impl Strategy<Value = Vec<Act>> {
    (
        select(vec!["shop.Orders/Get", "shop.Orders/List", "a.B/C"]),
        messages(),
        messages(),
        answer(),
        any::<bool>(),
        padding(),
    )
        .prop_map(|(method, asked, told, answer, words, padding)| {
            let mut acts = Vec::new();
            let target = format!("/{method}");
            let fields = owned(&[
                (":method", "POST"),
                (":scheme", "http"),
                (":path", &target),
                (":authority", "shop.example"),
                ("content-type", "application/grpc+proto"),
                ("te", "trailers"),
            ]);
            let n = |messages: &[Vec<u8>]| match messages.len() {
                0 => String::new(),
                n => format!(" +{n} messages"),
            };
            let is_stream = |messages: &[Vec<u8>]| messages.len() > 1;
            let note = if is_stream(&asked.0) { " turns out long-lived" } else { "" };
            let n_asked = n(&asked.0);
            let text = format!("{method} (target {target}, to shop.example, by grpc){note}{n_asked}");
            acts.push(Act::Fields { flow: Flow::Request, fields, end: false, role: Role::Begin(text) });
            data(&mut acts, Flow::Request, &asked, true, padding);
            let head = [(":status", "200"), ("content-type", "application/grpc+proto")];
            let status = |status: u32| {
                let mut fields = owned(&[("grpc-status", &status.to_string())]);
                if words {
                    fields.extend(owned(&[("grpc-message", "no%20such key")]));
                }
                fields
            };
            let flow = Flow::Response;
            if let Answer::TrailersOnly(code) = answer {
                let fields = [owned(&head), status(code)].concat();
                let role = Role::Begin(outcome(code, words));
                acts.push(Act::Fields { flow, fields, end: true, role });
                return acts;
            }
            let note = if is_stream(&told.0) && !is_stream(&asked.0) { " turns out long-lived" } else { "" };
            let then = match answer {
                Answer::Trailers(code) => outcome(code, words),
                _ => "- error missing_grpc_status".to_owned(),
            };
            let text = format!("-{note}, then {then}{}", n(&told.0));
            acts.push(Act::Fields { flow, fields: owned(&head), end: false, role: Role::Begin(text) });
            let is_missing = matches!(answer, Answer::Missing);
            data(&mut acts, flow, &told, is_missing, padding);
            if let Answer::Trailers(code) = answer {
                acts.push(Act::Fields { flow, fields: status(code), end: true, role: Role::Trailers });
            }
            acts
        })
}

/// Up to 3 rounds of up to 5 calls at once.
pub fn conversation() -> impl Strategy<Value = Conversation> {
    (vec(vec(call(), 1..6), 1..4), vec(dress(), 1..6), vec(any::<prop::sample::Index>(), 20..60))
        .prop_map(|(rounds, dress, order)| written(rounds, &dress, &order, is_part))
}
