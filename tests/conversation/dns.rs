//! Conversations of DNS over TCP, and of its multicast kin, whose datagrams are shown to parsers in the same frames.

use proptest::{collection::vec, prelude::*, sample::select};
use tracer_user::protocol::Flow;

use super::{Conversation, Script};
use crate::wire::{End, Seen};

/// A question and its answer.
#[derive(Clone, Debug)]
struct Lookup {
    /// Labels of the name.
    labels: Vec<&'static str>,
    kind: (u16, &'static str),
    edns: bool,
    rcode: u16,
    n_answers: u16,
    truncated: bool,
    /// The answer repeats no compression.
    long_names: bool,
}

fn lookup() -> impl Strategy<Value = Lookup> {
    (
        vec(select(vec!["www", "EXAMPLE", "a-b", "_tcp", "x"]), 0..4),
        select(vec![(1, "A"), (28, "AAAA"), (15, "MX"), (12, "PTR"), (65, "HTTPS"), (65_400, "_OTHER")]),
        any::<bool>(),
        select(vec![0, 0, 0, 1, 2, 3, 4, 5, 9, 16, 23]),
        0..20u16,
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(|(labels, kind, edns, rcode, n_answers, truncated, long_names)| Lookup {
            labels,
            kind,
            edns,
            rcode,
            n_answers,
            truncated,
            long_names,
        })
}

fn name(labels: &[&str]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in labels {
        bytes.push(label.len() as u8);
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    bytes
}

impl Lookup {
    fn question(&self) -> Vec<u8> {
        [name(&self.labels), self.kind.0.to_be_bytes().to_vec(), vec![0, 1]].concat()
    }

    /// What names the question among all: FNV-1a over its folded bytes, and the id.
    fn stream(&self, id: u16) -> u64 {
        let mut hash: u32 = 0x811c_9dc5;
        let folded: Vec<u8> = self
            .labels
            .iter()
            .flat_map(|label| {
                let text = label.to_ascii_lowercase();
                std::iter::once(text.len() as u8).chain(text.into_bytes())
            })
            .chain(self.kind.0.to_be_bytes())
            .chain([0, 1])
            .collect();
        for byte in folded {
            hash = (hash ^ u32::from(byte)).wrapping_mul(16_777_619);
        }
        u64::from(hash) << 16 | u64::from(id)
    }

    fn target(&self) -> String {
        if self.labels.is_empty() { ".".to_owned() } else { self.labels.join(".").to_ascii_lowercase() }
    }

    fn query(&self, id: u16) -> Vec<u8> {
        let counts = [1, 0, 0, u16::from(self.edns)];
        let opt = if self.edns { vec![0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0] } else { Vec::new() };
        framed(id, 0x0120, counts, &[self.question(), opt].concat())
    }

    /// The rcode as it can be said: without EDNS it has four bits.
    fn rcode(&self) -> u16 {
        if self.edns { self.rcode } else { self.rcode & 15 }
    }

    fn answer(&self, id: u16) -> Vec<u8> {
        let flags = 0x8180 | if self.truncated { 0x0200 } else { 0 } | self.rcode() & 15;
        let mut records = Vec::new();
        for n in 0..self.n_answers {
            records.extend(if self.long_names { name(&self.labels) } else { vec![0xc0, 12] });
            records.extend([0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, n as u8]);
        }
        if self.edns {
            records.extend([0, 0, 41, 4, 208, (self.rcode() >> 4) as u8, 0, 0, 0, 0, 0]);
        }
        let counts = [1, self.n_answers, 0, u16::from(self.edns)];
        framed(id, flags, counts, &[self.question(), records].concat())
    }

    fn outcome(&self) -> String {
        let error = match self.rcode() {
            0 => "",
            1 => " error for the client FORMERR",
            2 => " error SERVFAIL",
            3 => " error for the client NXDOMAIN",
            4 => " error NOTIMP",
            5 => " error for the client REFUSED",
            7 => " error for the client YXRRSET",
            9 => " error for the client NOTAUTH",
            16 => " error for the client BADVERS",
            23 => " error for the client BADCOOKIE",
            other => panic!("{other}"),
        };
        format!("{}{error} {} rows", self.rcode(), self.n_answers)
    }
}

fn framed(id: u16, flags: u16, counts: [u16; 4], rest: &[u8]) -> Vec<u8> {
    let words = [id, flags, counts[0], counts[1], counts[2], counts[3]];
    let message: Vec<u8> =
        words.iter().flat_map(|word| word.to_be_bytes()).chain(rest.iter().copied()).collect();
    [(message.len() as u16).to_be_bytes().to_vec(), message].concat()
}

/// A zone in so many messages.
fn transfer(script: &mut Script, id: u16, zone: &Lookup, n_messages: usize) {
    let zone = Lookup { kind: (252, "AXFR"), edns: false, ..zone.clone() };
    let stream = zone.stream(id);
    let query = zone.query(id);
    script.message(
        Flow::Request,
        &query,
        query.len(),
        format!("#{stream} AXFR (target {}, to -)", zone.target()),
    );
    let soa = [&[0xc0, 12, 0, 6, 0, 1, 0, 0, 0, 9, 0, 22, 0, 0][..], &[0, 0, 0, 7], &[0; 16]].concat();
    let host = [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 192, 0, 2, 1];
    let mut begin = 0;
    for n in 0..n_messages {
        let (first, last) = (n == 0, n + 1 == n_messages);
        let records = [if first { &soa[..] } else { &[] }, &host, if last { &soa } else { &[] }].concat();
        let n_records = 1 + u16::from(first) + u16::from(last);
        // Only the first message repeats the question (RFC 5936 §2.2.1 allows both); names then point to the root's place.
        let bytes = framed(id, 0x8400, [1, n_records, 0, 0], &[zone.question(), records].concat());
        let at = script.bytes(Flow::Response, &bytes, bytes.len(), first);
        if first {
            begin = at;
        }
    }
    let end = End::At(script.position(Flow::Response));
    let rows = if n_messages == 1 { " 3 rows" } else { "" };
    script.expect(Seen { flow: Flow::Response, begin, end, text: format!("#{stream} 0{rows}") });
}

/// Rounds of one question, of several at once with answers in another order, and transfers.
pub fn conversation() -> impl Strategy<Value = Conversation> {
    let round = prop_oneof![
        4 => vec(lookup(), 1..2).prop_map(|lookups| (lookups, 0, false)),
        2 => (vec(lookup(), 2..6), any::<bool>()).prop_map(|(lookups, reversed)| (lookups, 0, reversed)),
        1 => (vec(lookup(), 1..2), 1..5usize).prop_map(|(lookups, n)| (lookups, n, false)),
    ];
    (vec(round, 1..6), any::<u16>()).prop_map(|(rounds, mut id)| {
        let mut script = Script::default();
        for (lookups, n_messages, reversed) in rounds {
            if n_messages > 0 {
                id = id.wrapping_add(1);
                transfer(&mut script, id, &lookups[0], n_messages);
                continue;
            }
            let mut asked = Vec::new();
            for lookup in &lookups {
                id = id.wrapping_add(1);
                let (bytes, stream) = (lookup.query(id), lookup.stream(id));
                let text = format!("#{stream} {} (target {}, to -)", lookup.kind.1, lookup.target());
                script.message(Flow::Request, &bytes, bytes.len(), text);
                asked.push((id, lookup));
            }
            if reversed {
                asked.reverse();
            }
            for (id, lookup) in asked {
                let bytes = lookup.answer(id);
                let text = format!("#{} {}", lookup.stream(id), lookup.outcome());
                script.message(Flow::Response, &bytes, bytes.len(), text);
            }
        }
        script.finish()
    })
}

/// Questions and announcements, each of them alone.
pub fn mdns() -> impl Strategy<Value = Conversation> {
    vec((lookup(), any::<bool>()), 1..8).prop_map(|messages| {
        let mut script = Script::default();
        for (lookup, is_question) in messages {
            let (kind, target) = (lookup.kind.1, lookup.target());
            if is_question {
                let bytes = framed(0, 0, [1, 0, 0, 0], &lookup.question());
                let text = format!("{kind} (target {target}, to -, one way)");
                script.message(Flow::Request, &bytes, bytes.len(), text);
            } else {
                let record =
                    [name(&lookup.labels), vec![0, 1, 0x80, 1, 0, 0, 0, 120, 0, 4, 192, 0, 2, 1]].concat();
                let bytes = framed(0, 0x8400, [0, 1, 0, 0], &record);
                let text = format!("push announcement (target {target}, to -, one way)");
                script.message(Flow::Response, &bytes, bytes.len(), text);
            }
        }
        script.finish()
    })
}

/// Questions and answers.
pub fn llmnr() -> impl Strategy<Value = Conversation> {
    (vec(lookup(), 1..6), any::<u16>()).prop_map(|(lookups, mut id)| {
        let mut script = Script::default();
        for lookup in lookups {
            let lookup = Lookup { edns: false, rcode: 0, ..lookup };
            id = id.wrapping_add(1);
            let stream = lookup.stream(id);
            let query = framed(id, 0, [1, 0, 0, 0], &lookup.question());
            let text = format!("#{stream} {} (target {}, to -)", lookup.kind.1, lookup.target());
            script.message(Flow::Request, &query, query.len(), text);
            let record = [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 30, 0, 4, 192, 0, 2, 1];
            let answer = framed(id, 0x8000, [1, 1, 0, 0], &[lookup.question(), record.to_vec()].concat());
            script.message(Flow::Response, &answer, answer.len(), format!("#{stream} 0 1 rows"));
        }
        script.finish()
    })
}
