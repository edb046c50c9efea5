//! Golden tests: each capture in `fixtures/<protocol>/*.txt` (`tests/captures.rs` has their format) gives the messages in the `.snap`
//! beside it.

use std::{collections::BTreeSet, fs, path::Path};

use tracer_user::protocol::{Flow, Inference, Protocol, REGISTRY};

use crate::{
    captures::{Line, captures, fixtures, parse},
    wire::{End, Wire, choice, tls_text},
};

/// Lets a capture happen; after each line the parser is saved and loaded into a fresh one.
pub fn play(wire: &mut Wire, lines: &[Line]) {
    let mut side = None;
    for line in lines {
        match line {
            Line::Bytes(flow, bytes) => wire.bytes(*flow, bytes, side.replace(*flow) != Some(*flow)),
            Line::Uncaptured(flow, n_bytes) => {
                side = Some(*flow);
                wire.missing(*flow, *n_bytes);
            }
            Line::Lost(flow, n_bytes) => {
                side = Some(*flow);
                wire.lost(*flow, *n_bytes);
            }
            Line::Close(flow) => wire.close(*flow),
        }
        wire.reload();
    }
}

#[test]
fn captures_give_their_messages() {
    for protocol in REGISTRY {
        let captures = captures(protocol.name());
        assert!(!captures.is_empty(), "{} has no captures", protocol.name());
        for (name, capture) in captures {
            assert!(capture.starts_with("# "), "{name} does not say where it comes from");
            let mut wire = Wire::new(*protocol);
            play(&mut wire, &parse(&capture));
            let (n_invalid, tls) = (wire.n_invalid, wire.tls.clone());
            let mut text = String::new();
            for seen in wire.finish() {
                let side = if seen.flow == Flow::Request { '>' } else { '<' };
                let end = match seen.end {
                    End::At(end) => end.to_string(),
                    End::Cut => "cut".to_owned(),
                    End::Open => "open".to_owned(),
                };
                text += &format!("{side} {}..{end} {}\n", seen.begin, seen.text);
            }
            if let Some(facts) = tls {
                text += &format!("tls: {}\n", tls_text(&facts));
            }
            text += &format!("invalid: {n_invalid}\n");
            insta::with_settings!({
                snapshot_path => fixtures().join(protocol.name()),
                prepend_module_to_snapshot => false,
                omit_expression => true,
            }, { insta::assert_snapshot!(name, text) });
        }
    }
}

#[test]
fn registry_files_and_fixture_folders_name_the_same_protocols() {
    let names: BTreeSet<String> = REGISTRY.iter().map(|protocol| protocol.name().to_owned()).collect();
    assert_eq!(names.len(), REGISTRY.len(), "a name twice");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/protocol");
    let files: BTreeSet<String> = fs::read_dir(source)
        .expect("src/protocol")
        .map(|entry| entry.expect("a folder's entry").path())
        // A protocol of several files is a folder.
        .filter(|path| path.is_file() || path.join("mod.rs").is_file())
        .map(|path| path.file_stem().expect("a name").to_string_lossy().into_owned())
        .filter(|name| name != "mod" && name != "codec")
        .collect();
    assert_eq!(files, names, "files in src/protocol, and REGISTRY");
    for name in &names {
        assert!(fixtures().join(name).is_dir(), "fixtures/{name} is missing");
    }
}

/// The walk through adding a protocol leads along what is there.
#[test]
fn contributing_names_the_places_of_a_protocol() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let text = fs::read_to_string(root.join("CONTRIBUTING.md")).expect("CONTRIBUTING.md");
    let (_, walk) = text.split_once("## Add a protocol").expect("the walk");
    let (walk, _) = walk.split_once("\n## ").expect("its end");
    let named: Vec<&str> = walk.split('`').skip(1).step_by(2).collect();
    for (at, path) in named.iter().enumerate() {
        let is_path = path.contains('/') && !path.contains(' ');
        assert!(!is_path || root.join(path).exists(), "{path} (number {at}) is not there");
    }
    for place in ["tracer-user/src/protocol/http1.rs", "tracer-user/src/protocol/mod.rs", "fixtures/http1/"] {
        assert!(named.contains(&place), "{place} is not named");
    }
}

/// No protocol may take another's bytes for its own.
#[test]
fn inference_claims_no_foreign_bytes() {
    let foreign: &[(&str, &[u8])] = &[
        ("http2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x12\x04\0\0\0\0\0"),
        ("http2", b"\0\0\x12\x04\0\0\0\0\0\0\x03\0\0\0\x64"),
        ("http2", b"\0\0\x05\x01\x05\0\0\0\x07\x82\x86\x84\xbf\xbe"),
        ("http2", b"\0\0\x01\x01\x05\0\0\0\x07\x88"),
        ("rtsp", b"OPTIONS rtsp://camera/stream RTSP/1.0\r\nCSeq: 1\r\n\r\n"),
        ("rtsp", b"RTSP/1.0 200 OK\r\nCSeq: 1\r\n\r\n"),
        ("sip", b"INVITE sip:bob@example.org SIP/2.0\r\nVia: SIP/2.0/UDP a\r\n\r\n"),
        ("sip", b"SIP/2.0 200 OK\r\n\r\n"),
        ("icecast", b"ICY 200 OK\r\n\r\n"),
        ("http0.9", b"GET /\r\n"),
        ("redis", b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n"),
        ("redis", b"GET key\r\n"),
        ("redis", b"PING\r\n"),
        ("redis", b"+OK\r\n"),
        ("redis", b"*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n"),
        ("redis", b"%1\r\n$6\r\nserver\r\n$5\r\nredis\r\n"),
        ("pop3", b"+OK POP3 server ready\r\n"),
        ("memcached", b"get key1 key2\r\n"),
        ("memcached", b"set key 0 0 5\r\nhello\r\n"),
        ("smtp", b"EHLO mail.example.org\r\n"),
        ("smtp", b"220 mail.example.org ESMTP\r\n"),
        ("ftp", b"USER anonymous\r\n"),
        ("ssh", b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n"),
        ("tls", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
        ("tls", b"\x16\x03\x03\0\x7a\x02\0\0\x76\x03\x03"),
        ("tls", b"\x17\x03\x03\0\x13\x01\x02\x03\x04\x05\x06"),
        ("tls", b"\x14\x03\x03\0\x01\x01\x17\x03\x03\0\x35\x9c"),
        ("tls", b"\x15\x03\x03\0\x02\x02\x28"),
        ("postgres", b"\0\0\0\x08\x04\xd2\x16\x2f"),
        ("postgres", b"Q\0\0\0\x0dSELECT 1\0"),
        ("mysql", b"\x4a\0\0\0\x0a8.0.36\0"),
        (
            "mysql",
            b"\x68\0\0\0\n5.5.5-10.11.19-MariaDB-0+deb12u1-log\0\x07\0\0\0.y8LS?}|\0\xfe\xf7\x08\x02\0\xff\x81\x15\0\0\0\0\0\0\x1d\0\0\0",
        ),
        ("mysql", b"\x17\0\0\0\xff\x10\x04Too many connections"),
        ("mysql", b"\x20\0\0\x01\x8c\xaa\xbf\0\0\0\x10\0!\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x1d\0\0\0"),
        ("mysql", b"\x09\0\0\0\x03select 1"),
        ("mysql", b"\x01\0\0\0\x0e"),
        ("mysql", b"\x07\0\0\x01\0\0\0\x02\0\0\0"),
        ("mongodb", b"\x3a\0\0\0\x01\0\0\0\0\0\0\0\xdd\x07\0\0"),
        ("kafka", b"\0\0\0\x17\0\x12\0\x03\0\0\0\x01\0\x04test"),
        ("amqp", b"AMQP\0\0\x09\x01"),
        ("nats", b"CONNECT {\"verbose\":false}\r\n"),
        ("dns", b"\0\x1d\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x07example\x03org\0\0\x01\0\x01"),
        ("dns", b"\0\x1d\x12\x34\x81\x83\0\x01\0\0\0\0\0\0\x07example\x03org\0\0\x01\0\x01"),
        ("websocket", b"\x81\x05hello"),
        ("websocket", b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58"),
    ];
    for protocol in REGISTRY {
        for (owner, bytes) in foreign.iter().filter(|(owner, _)| *owner != protocol.name()) {
            assert_eq!(protocol.infer(bytes), Inference::No, "{} takes {owner} for itself", protocol.name());
            for cut in 0..bytes.len() {
                let inference = protocol.infer(&bytes[..cut]);
                assert!(matches!(inference, Inference::No | Inference::NeedMore), "{owner} cut at {cut}");
            }
        }
    }
}

/// The first bytes of every capture are recognised, and no start of them is taken for something else.
#[test]
fn inference_knows_the_first_bytes_of_captures() {
    for protocol in REGISTRY.iter().filter(|protocol| protocol.is_inferred()) {
        for (name, capture) in captures(protocol.name()) {
            // Captures of connections joined in the middle begin with anything.
            if capture.contains("# joined in the middle") {
                continue;
            }
            for (flow, expected) in
                [(Flow::Request, Inference::Request), (Flow::Response, Inference::Response)]
            {
                let mut head = Vec::new();
                for line in parse(&capture) {
                    match line {
                        Line::Bytes(side, bytes) if side == flow => head.extend(bytes),
                        Line::Uncaptured(side, _) | Line::Lost(side, _) if side == flow => break,
                        _ => {}
                    }
                }
                if head.is_empty() {
                    continue;
                }
                if flow == Flow::Response && !protocol.responses_are_inferred() {
                    continue;
                }
                // Or it is known, and which side asks is not said.
                let is_known = |inference: Inference| inference == expected || inference == Inference::Either;
                assert!(is_known(protocol.infer(&head)), "{name}");
                for cut in 0..head.len() {
                    let inference = protocol.infer(&head[..cut]);
                    assert!(is_known(inference) || inference == Inference::NeedMore, "{name} cut at {cut}");
                }
            }
        }
    }
}

/// A capture as input of the fuzz target (see there).
fn seed(protocol: &dyn Protocol, lines: &[Line]) -> Vec<u8> {
    let mut seed = vec![choice(protocol)];
    let mut side = None;
    let bit = |flow: Flow| if flow == Flow::Request { 0 } else { 8 };
    for line in lines {
        match line {
            Line::Bytes(flow, bytes) => {
                for piece in bytes.chunks(255) {
                    let turn_start = side.replace(*flow) != Some(*flow);
                    seed.extend([bit(*flow) | if turn_start { 16 } else { 0 }, piece.len() as u8]);
                    seed.extend_from_slice(piece);
                }
            }
            Line::Uncaptured(flow, len) | Line::Lost(flow, len) => {
                side = Some(*flow);
                let what = if matches!(line, Line::Lost(..)) { 5 } else { 4 };
                seed.extend([bit(*flow) | what, (len / 16).min(255) as u8]);
            }
            Line::Close(flow) => seed.extend([bit(*flow) | 7, 0]),
        }
    }
    seed
}

/// `TXRAY_BLESS=1` writes them.
#[test]
fn every_capture_is_a_seed_of_the_fuzz_target() {
    let folder = fixtures().join("../tests/fuzz/corpus/protocol");
    let choices: BTreeSet<u8> = REGISTRY.iter().map(|protocol| choice(*protocol)).collect();
    assert_eq!(choices.len(), REGISTRY.len(), "two protocols have one byte");
    for protocol in REGISTRY {
        for (name, capture) in captures(protocol.name()) {
            let path = folder.join(format!("{}-{name}", protocol.name()));
            let seed = seed(*protocol, &parse(&capture));
            if std::env::var_os("TXRAY_BLESS").is_some() {
                fs::create_dir_all(&folder).expect("a folder for seeds");
                fs::write(&path, &seed).expect("a seed");
            }
            assert!(
                fs::read(&path).is_ok_and(|kept| kept == seed),
                "{} is not what the capture gives",
                path.display()
            );
        }
    }
}
