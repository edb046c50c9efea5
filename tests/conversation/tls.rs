//! Conversations in TLS, as they look from outside.

use proptest::{collection::vec, prelude::*, sample::select};
use tracer_user::protocol::{Flow, TlsFacts};

use super::{Conversation, Script};

pub const NAME: &str = "shop.example";

/// A record with `content` behind its header.
pub fn record(kind: u8, content: &[u8]) -> Vec<u8> {
    let mut record = vec![kind, 3, 3];
    record.extend((content.len() as u16).to_be_bytes());
    record.extend_from_slice(content);
    record
}

/// A ClientHello in records of `n_record` bytes each, and how much of it tells the name.
pub fn client_hello(
    name: Option<&str>,
    before: &[u8],
    behind: &[u8],
    session: &[u8],
    n_record: usize,
) -> (Vec<u8>, usize) {
    let extension = |kind: u16, content: &[u8]| {
        [&kind.to_be_bytes(), &(content.len() as u16).to_be_bytes(), content].concat()
    };
    let mut extensions = extension(0x2a2a, before);
    if let Some(name) = name {
        let len = name.len() as u16;
        let list = [&(len + 3).to_be_bytes()[..], &[0], &len.to_be_bytes(), name.as_bytes()].concat();
        extensions.extend(extension(0, &list));
    }
    let n_told = extensions.len();
    extensions.extend(extension(51, behind));
    let mut hello = vec![3, 3];
    hello.extend([7; 32]);
    hello.push(session.len() as u8);
    hello.extend_from_slice(session);
    hello.extend([0, 4, 0x0a, 0x0a, 0x13, 0x01, 1, 0]);
    hello.extend((extensions.len() as u16).to_be_bytes());
    let n_told = 4 + hello.len() + if name.is_some() { n_told } else { extensions.len() };
    hello.extend(extensions);
    let mut message = vec![1, 0];
    message.extend((hello.len() as u16).to_be_bytes());
    message.extend(hello);
    let bytes = message.chunks(n_record).flat_map(|part| record(22, part)).collect();
    (bytes, n_told + 5 * n_told.div_ceil(n_record))
}

/// A ServerHello in records of `n_record` bytes each: the old field says TLS 1.2 whatever `version` says in its extension.
pub fn server_hello(
    version: Option<u16>,
    alpn: Option<&str>,
    filler: &[u8],
    session: &[u8],
    n_record: usize,
) -> Vec<u8> {
    let extension = |kind: u16, content: &[u8]| {
        [&kind.to_be_bytes(), &(content.len() as u16).to_be_bytes(), content].concat()
    };
    let mut extensions = extension(0xff01, filler);
    if let Some(version) = version {
        extensions.extend(extension(43, &version.to_be_bytes()));
    }
    if let Some(alpn) = alpn {
        let list =
            [&(alpn.len() as u16 + 1).to_be_bytes()[..], &[alpn.len() as u8], alpn.as_bytes()].concat();
        extensions.extend(extension(16, &list));
    }
    let mut hello = [&[3, 3][..], &[9; 32], &[session.len() as u8], session, &[0xc0, 0x2c, 0]].concat();
    hello.extend((extensions.len() as u16).to_be_bytes());
    hello.extend(extensions);
    let message = [&[2, 0][..], &(hello.len() as u16).to_be_bytes(), &hello].concat();
    message.chunks(n_record).flat_map(|part| record(22, part)).collect()
}

fn some(n: std::ops::Range<usize>) -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), n)
}

/// A turn of encrypted records.
fn encrypted() -> impl Strategy<Value = Vec<u8>> {
    vec((select(vec![20u8, 22, 23, 23, 23]), some(17..200)), 1..4).prop_map(|records| {
        let records = records.iter().map(|(kind, content)| match kind {
            20 => record(20, &[1]),
            kind => record(*kind, content),
        });
        records.collect::<Vec<_>>().concat()
    })
}

pub fn conversation() -> impl Strategy<Value = Conversation> {
    let hello = (some(0..100), some(0..600), some(0..33), select(vec![60usize, 300, 2000]));
    // Behind a loss of the ClientHello nobody knows the name: only what has no second turn has one.
    let rest = prop_oneof![Just(Vec::new()), vec((encrypted(), encrypted()), 1..6)];
    let alert = prop_oneof![3 => Just(None), 1 => select(vec![0u8, 40, 48, 200]).prop_map(Some)];
    let chosen =
        (select(vec![None, Some(0x0304), Some(0x7f17)]), select(vec![None, Some("h2"), Some("http/1.1")]));
    (hello, rest, encrypted(), alert, chosen, any::<bool>()).prop_map(
        |((before, behind, session, n_record), rest, answer, alert, (version, alpn), is_hello)| {
            let mut script = Script::default();
            let text = |text: &str| Some(text.to_owned().into());
            let name = rest.is_empty().then_some(NAME);
            let target = name.unwrap_or("-");
            let (bytes, n_told) = client_hello(name, &before, &behind, &session, n_record);
            let says = format!("TLS handshake (target {target}, to {target})");
            script.unannounced(Flow::Request, &bytes, n_told, says);
            let asked = TlsFacts { sni: name.and_then(text), ..TlsFacts::default() };
            if asked.sni.is_some() {
                script.tls(asked.clone());
            }
            let hello = if is_hello {
                server_hello(version, alpn, &before, &session, n_record)
            } else {
                record(22, &[2, 0, 0, 70])
            };
            let answer = [hello, answer].concat();
            if let (Some(alert), true) = (alert, rest.is_empty()) {
                let text = match alert {
                    0 => "-",
                    40 => "- error handshake_failure",
                    48 => "- error unknown_ca",
                    _ => "- error _OTHER",
                };
                script.unannounced(Flow::Response, &record(21, &[2, alert]), 7, text);
                return script.finish();
            }
            script.unannounced(Flow::Response, &answer, 7, "-");
            if is_hello {
                let alpn = alpn.filter(|_| version.is_none());
                let version = match version {
                    None => "TLSv1.2",
                    Some(0x0304) => "TLSv1.3",
                    Some(_) => "0x7f17",
                };
                script.tls(TlsFacts { version: text(version), alpn: alpn.and_then(text), ..asked });
            }
            for (request, response) in rest {
                let operation = if request[0] == 23 { "TLS" } else { "TLS handshake" };
                script.unannounced(Flow::Request, &request, 7, format!("{operation} (target -, to -)"));
                script.unannounced(Flow::Response, &response, 7, "-");
            }
            match alert {
                Some(0) => {
                    script.bytes(Flow::Request, &record(21, &[1, 0]), 7, false);
                }
                Some(48) => {
                    let text =
                        format!("TLS alert (target {target}, to {target}, one way), then - error unknown_ca");
                    script.unannounced(Flow::Request, &record(21, &[2, 48]), 7, text);
                }
                _ => {}
            }
            script.finish()
        },
    )
}
