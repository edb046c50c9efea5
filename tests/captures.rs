//! Captures of protocols, as text: `fixtures/<protocol>/*.txt`.
//!
//! A capture is text, one happening per line, the client's with `>` and the server's with `<`:
//!
//! ```text
//! # comment; the first ones say where the capture comes from; `# joined in the middle` and `# holds: tls` (within a tunnel) tell what
//! # recognisers may say of it
//! > GET / HTTP/1.1\r\n\r\n      bytes, escaped as in Rust (without the newline of the line itself)
//! <+ 5000                       so many bytes went by uncaptured
//! <! 5000                       so many bytes are lost, which shows when the next ones come
//! <x                            this end closes
//! ```
//!
//! A turn begins where the side changes; if it begins with such bytes, its start is not known.

use std::{fs, path::Path};

use tracer_user::protocol::Flow;

/// One line of a capture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    Bytes(Flow, Vec<u8>),
    Uncaptured(Flow, u64),
    Lost(Flow, u64),
    Close(Flow),
}

/// Reads a capture.
pub fn parse(capture: &str) -> Vec<Line> {
    let lines = capture.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let (side, rest) = line.split_at(1);
            let flow = match side {
                ">" => Flow::Request,
                "<" => Flow::Response,
                _ => panic!("no side: {line}"),
            };
            match rest.split_at_checked(1) {
                Some((" ", text)) => Line::Bytes(flow, unescape(text)),
                Some(("+", n_bytes)) => Line::Uncaptured(flow, n_bytes.trim().parse().expect("a number")),
                Some(("!", n_bytes)) => Line::Lost(flow, n_bytes.trim().parse().expect("a number")),
                Some(("x", "")) => Line::Close(flow),
                _ => panic!("neither bytes, +, ! nor x: {line}"),
            }
        })
        .collect()
}

fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes().iter();
    while let Some(&byte) = rest.next() {
        bytes.push(match byte {
            b'\\' => match rest.next() {
                Some(b'r') => b'\r',
                Some(b'n') => b'\n',
                Some(b't') => b'\t',
                Some(b'0') => 0,
                Some(b'\\') => b'\\',
                Some(b'"') => b'"',
                Some(b'x') => {
                    let digits = [*rest.next().expect("a digit"), *rest.next().expect("two digits")];
                    u8::from_str_radix(str::from_utf8(&digits).expect("ASCII"), 16).expect("hex")
                }
                other => panic!("escape {other:?} in {text}"),
            },
            byte => byte,
        });
    }
    bytes
}

/// The folder of them all.
pub fn fixtures() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures"))
}

/// The captures of a protocol, by name.
pub fn captures(protocol: &str) -> Vec<(String, String)> {
    let folder = fixtures().join(protocol);
    let mut captures: Vec<_> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.expect("a folder's entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .map(|path| {
            let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
            (name, fs::read_to_string(&path).expect("a text file"))
        })
        .collect();
    captures.sort();
    captures
}
