//! Server-sent events ([WHATWG HTML §9.2](https://html.spec.whatwg.org/multipage/server-sent-events.html)): how many there are, not what
//! they say. An event is a block of lines that ends with an empty one and has a field `data`; comments and blocks without data are none,
//! as for a browser. A byte order mark hides the first line. Each byte is looked at once.

use serde::{Deserialize, Serialize};

const DATA: &[u8] = b"data";

/// The events of a body, as far as it was seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Events {
    /// Events that are over.
    n: u64,
    line: Line,
    /// The block in progress has data.
    has_data: bool,
    /// The last byte was CR: an LF ends no other line.
    after_cr: bool,
    /// Some of the body was not seen.
    incomplete: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Line {
    /// So many bytes of it, which begin like the field's name.
    Name(u8),
    /// The rest tells nothing.
    Rest,
}

impl Default for Line {
    fn default() -> Line {
        Line::Name(0)
    }
}

impl Events {
    /// The next bytes of the body. Returns how many events are over in them.
    pub fn seen(&mut self, mut bytes: &[u8]) -> u64 {
        let before = self.n;
        while let Some((&byte, rest)) = bytes.split_first() {
            bytes = rest;
            let after_cr = std::mem::take(&mut self.after_cr);
            match (byte, self.line) {
                (b'\n', _) if after_cr => {}
                (b'\r' | b'\n', line) => {
                    self.after_cr = byte == b'\r';
                    self.line = Line::Name(0);
                    match line {
                        // Empty: the block is over.
                        Line::Name(0) => self.n += u64::from(std::mem::take(&mut self.has_data)),
                        // A name without a value.
                        Line::Name(4) => self.has_data = true,
                        Line::Name(_) | Line::Rest => {}
                    }
                }
                (b':', Line::Name(4)) => {
                    self.has_data = true;
                    self.line = Line::Rest;
                }
                (byte, Line::Name(n)) => {
                    let is_next = DATA.get(usize::from(n)) == Some(&byte);
                    self.line = if is_next { Line::Name(n + 1) } else { Line::Rest };
                }
                (_, Line::Rest) => {
                    let end = bytes.iter().position(|byte| matches!(byte, b'\r' | b'\n'));
                    bytes = &bytes[end.unwrap_or(bytes.len())..];
                }
            }
        }
        self.n - before
    }

    /// Bytes of the body that are not there.
    pub fn unseen(&mut self) {
        self.incomplete = true;
    }

    /// Number of events; `None` where not all of the body was seen.
    pub fn count(&self) -> Option<u64> {
        (!self.incomplete).then_some(self.n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[rstest::rstest]
    #[case::none("", 0)]
    #[case::one("data: 1\n\n", 1)]
    #[case::with_other_fields("id: 7\nevent: tick\ndata: 1\ndata: 2\nretry: 5\n\n", 1)]
    #[case::cr_lf("data: 1\r\n\r\ndata: 2\r\n\r\n", 2)]
    #[case::cr("data: 1\r\rdata: 2\r\r", 2)]
    #[case::no_space_no_value("data:\n\ndata\n\n", 2)]
    #[case::comments_and_empty_lines(": alive\n\n\n\nevent: x\n\n: alive\n\n", 0)]
    #[case::other_names("dat: 1\n\ndatax: 1\n\n data: 1\n\ndatadata: 2\n\n", 0)]
    #[case::not_over("data: 1\n\ndata: 2\n", 1)]
    #[case::data_in_data("data: a\\n\\ndata: b\ndata: data:\n\n", 1)]
    fn events_are_counted_as_a_browser_does_in_any_pieces(#[case] body: &str, #[case] n: u64) {
        for size in 1..=body.len().max(1) {
            let mut events = Events::default();
            let told: u64 = body.as_bytes().chunks(size).map(|piece| events.seen(piece)).sum();
            assert_eq!((events.count(), told), (Some(n), n), "{size}");
            events.unseen();
            assert_eq!(events.count(), None);
        }
    }
}
