//! A profile for pprof: `profile.proto` (<https://github.com/google/pprof/blob/main/proto/profile.proto>), packed with gzip.
//!
//! Written by hand: of protocol buffers only numbers and length-delimited fields are needed. In which part of its time a request was met is a label
//! (`part`), by which `pprof -tagroot part` puts it on top. What is not there: addresses and lines, because names are what is recorded.

use std::io::{self, Write as _};

use flate2::{Compression, write::GzEncoder};
use rustc_hash::{FxHashMap, FxHashSet};

use super::{frame::FrameKind, tree::StackTree};
use crate::{time::WallTime, transaction::stacks::SAMPLE_NS};

/// Fields of `Profile`.
mod profile {
    pub(super) const SAMPLE_TYPE: u64 = 1;
    pub(super) const SAMPLE: u64 = 2;
    pub(super) const MAPPING: u64 = 3;
    pub(super) const LOCATION: u64 = 4;
    pub(super) const FUNCTION: u64 = 5;
    pub(super) const STRING_TABLE: u64 = 6;
    pub(super) const TIME_NANOS: u64 = 9;
    pub(super) const DURATION_NANOS: u64 = 10;
    pub(super) const PERIOD_TYPE: u64 = 11;
    pub(super) const PERIOD: u64 = 12;
    pub(super) const DEFAULT_SAMPLE_TYPE: u64 = 14;
}

/// A message of protocol buffers while it is written.
#[derive(Debug, Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut n: u64) {
        loop {
            let low = (n & 0x7f) as u8;
            n >>= 7;
            if n == 0 {
                return self.0.push(low);
            }
            self.0.push(low | 0x80);
        }
    }

    /// A number; 0 is what is not there.
    fn number(&mut self, field: u64, n: u64) -> &mut Message {
        if n != 0 {
            self.varint(field << 3);
            self.varint(n);
        }
        self
    }

    fn bytes(&mut self, field: u64, bytes: &[u8]) -> &mut Message {
        self.varint(field << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
        self
    }

    fn message(&mut self, field: u64, message: &Message) -> &mut Message {
        self.bytes(field, &message.0)
    }

    fn packed(&mut self, field: u64, numbers: impl Iterator<Item = u64>) -> &mut Message {
        let mut packed = Message::default();
        numbers.for_each(|n| packed.varint(n));
        self.message(field, &packed)
    }
}

/// The table of texts; the first is empty.
#[derive(Default)]
struct Texts<'a> {
    known: FxHashMap<&'a str, u64>,
    all: Vec<&'a str>,
}

impl<'a> Texts<'a> {
    fn get(&mut self, text: &'a str) -> u64 {
        if self.all.is_empty() {
            self.all.push("");
            self.known.insert("", 0);
        }
        *self.known.entry(text).or_insert_with(|| {
            self.all.push(text);
            self.all.len() as u64 - 1
        })
    }
}

/// The file. `span`: from when to when the requests of it ended.
pub fn file(tree: &StackTree, span: Option<(WallTime, WallTime)>) -> io::Result<Vec<u8>> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(&message(tree, span).0)?;
    gzip.finish()
}

fn message(tree: &StackTree, span: Option<(WallTime, WallTime)>) -> Message {
    let mut texts = Texts::default();
    let mut out = Message::default();
    let value_type = |texts: &mut Texts<'_>, name, unit| {
        let mut value_type = Message::default();
        value_type.number(1, texts.get(name)).number(2, texts.get(unit));
        value_type
    };
    let [count, time, cpu] = [("samples", "count"), ("time", "nanoseconds"), ("cpu", "nanoseconds")]
        .map(|(name, unit)| value_type(&mut texts, name, unit));
    out.message(profile::SAMPLE_TYPE, &count).message(profile::SAMPLE_TYPE, &time);
    let is_called = |function: u32| tree.functions[function as usize].kind != FrameKind::Part;
    for (i, node) in tree.nodes.iter().enumerate().filter(|(_, node)| node.own[0].count > 0) {
        let path = tree.path(i as u32);
        let mut sample = Message::default();
        // The innermost first; ids begin with 1.
        let functions = path.iter().rev().filter(|function| is_called(**function));
        sample.packed(1, functions.map(|function| u64::from(*function) + 1));
        sample.packed(2, [node.own[0].count, node.own[0].ns].into_iter());
        if let Some(part) = path.first().filter(|function| !is_called(**function)) {
            let mut label = Message::default();
            let name = tree.functions[*part as usize].name.trim_matches(['[', ']']);
            label.number(1, texts.get("part")).number(2, texts.get(name));
            sample.message(3, &label);
        }
        out.message(profile::SAMPLE, &sample);
    }
    let files = files(tree);
    for (id, function) in (1..).zip(tree.functions.iter()) {
        if function.kind == FrameKind::Part {
            continue;
        }
        let file = files.iter().position(|file| *file == &*function.file).map_or(0, |at| at as u64 + 1);
        let mut line = Message::default();
        line.number(1, id);
        let mut location = Message::default();
        location.number(1, id).number(2, file).message(4, &line);
        out.message(profile::LOCATION, &location);
        let name = texts.get(&function.name);
        let mut told = Message::default();
        told.number(1, id).number(2, name).number(3, name);
        out.message(profile::FUNCTION, &told);
    }
    for (id, file) in (1..).zip(files) {
        let mut mapping = Message::default();
        // Names are known: nobody has to look for them.
        mapping.number(1, id).number(5, texts.get(file)).number(7, 1);
        out.message(profile::MAPPING, &mapping);
    }
    if let Some((from, to)) = span {
        out.number(profile::TIME_NANOS, from.0);
        out.number(profile::DURATION_NANOS, to.0.saturating_sub(from.0));
    }
    out.message(profile::PERIOD_TYPE, &cpu).number(profile::PERIOD, SAMPLE_NS);
    let default = texts.get("time");
    out.number(profile::DEFAULT_SAMPLE_TYPE, default);
    for text in &texts.all {
        out.bytes(profile::STRING_TABLE, text.as_bytes());
    }
    out
}

/// The files. The first is taken for the program's own: one that is no library, if there is such.
fn files(tree: &StackTree) -> Vec<&str> {
    let mut known = FxHashSet::default();
    let all = tree.functions.iter().map(|function| &*function.file);
    let mut files: Vec<&str> = all.filter(|file| !file.is_empty() && known.insert(*file)).collect();
    let is_program = |file: &&str| {
        !file.contains(".so") && !file.starts_with('[') && *file != "kernel" && !file.starts_with("kernel ")
    };
    if let Some(at) = files.iter().position(is_program) {
        files.swap(0, at);
    }
    files
}
