//! The chunked transfer coding (RFC 9112 §7.1): where it ends, not what it holds. Chunk data is passed over by its
//! length, whether it was captured or not; size lines, extensions and trailers are read. Each byte of a line is looked
//! at once, however it arrives.

use serde::{Deserialize, Serialize};

use super::head::MAX_LENGTH;

/// Longest size line, extensions included (nginx and Node take 16 KiB at most).
const MAX_LINE: usize = 16 << 10;
/// Longest trailer section.
const MAX_TRAILER: u32 = 64 << 10;

/// A chunked body being read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunked {
    place: Place,
    /// Bytes at the start of what is shown that hold no line end.
    scanned: u32,
    /// Bytes of trailers so far.
    trailer: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
enum Place {
    /// At a size line.
    #[default]
    Size,
    /// Behind the data, at its line end.
    DataEnd,
    /// At a trailer line, or the empty line that ends everything.
    Trailer,
}

/// What the bytes shown say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// So many bytes are passed (may be more than were shown), and the body goes on.
    Passed(u64),
    /// The body ends behind so many bytes.
    Ended(u64),
    /// Show more.
    NeedMore,
    /// Not the coding.
    Bad(&'static str),
}

impl Chunked {
    /// Passes over as much of `buf` as it can. After [`Progress::NeedMore`] the same bytes must be shown again, with more.
    pub fn advance(&mut self, buf: &[u8]) -> Progress {
        self.advance_through(buf, |_, _| ())
    }

    /// The same; `data` is called with each chunk's data that is passed over, as far as it is shown, and whether all of it is.
    pub fn advance_through(&mut self, buf: &[u8], mut data: impl FnMut(&[u8], bool)) -> Progress {
        let mut passed = 0u64;
        loop {
            let rest = usize::try_from(passed).ok().and_then(|passed| buf.get(passed..)).unwrap_or_default();
            let scanned = if passed == 0 { (self.scanned as usize).min(rest.len()) } else { 0 };
            let line = match self.place {
                Place::DataEnd => match rest {
                    [b'\n', ..] => Some(1),
                    [b'\r', b'\n', ..] => Some(2),
                    [] | [b'\r'] => None,
                    _ => return Progress::Bad("chunk data without its line end"),
                },
                Place::Size | Place::Trailer => {
                    rest[scanned..].iter().position(|&byte| byte == b'\n').map(|idx| scanned + idx + 1)
                }
            };
            let Some(n_line) = line else {
                if rest.len() > MAX_LINE {
                    return Progress::Bad("chunk line too long");
                }
                if self.place == Place::Size && !starts_size(rest) {
                    return Progress::Bad("no chunk size");
                }
                self.scanned = rest.len() as u32;
                return if passed == 0 { Progress::NeedMore } else { Progress::Passed(passed) };
            };
            match self.place {
                Place::Size => {
                    let Some(size) = size(&rest[..n_line]) else { return Progress::Bad("no chunk size") };
                    passed += n_line as u64;
                    if size == 0 {
                        self.place = Place::Trailer;
                    } else {
                        let shown = &rest[n_line..];
                        let n = usize::try_from(size).unwrap_or(usize::MAX).min(shown.len());
                        data(&shown[..n], n as u64 == size);
                        self.place = Place::DataEnd;
                        passed = passed.saturating_add(size);
                    }
                }
                Place::DataEnd => {
                    self.place = Place::Size;
                    passed += n_line as u64;
                }
                Place::Trailer => {
                    passed += n_line as u64;
                    if matches!(&rest[..n_line], b"\n" | b"\r\n") {
                        return Progress::Ended(passed);
                    }
                    self.trailer = self.trailer.saturating_add(n_line as u32);
                    if self.trailer > MAX_TRAILER {
                        return Progress::Bad("trailers too long");
                    }
                }
            }
        }
    }
}

/// Whether an unfinished line may still become a size line. Empty is fine.
fn starts_size(line: &[u8]) -> bool {
    line.first().is_none_or(u8::is_ascii_hexdigit)
}

/// The number on a size line.
fn size(line: &[u8]) -> Option<u64> {
    let n_digits = line.iter().position(|byte| !byte.is_ascii_hexdigit())?;
    if n_digits == 0 || !matches!(line[n_digits], b';' | b' ' | b'\t' | b'\r' | b'\n') {
        return None;
    }
    line[..n_digits].iter().try_fold(0u64, |size, &digit| {
        let digit = char::from(digit).to_digit(16)?;
        size.checked_mul(16).map(|size| size | u64::from(digit)).filter(|&size| size < MAX_LENGTH)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The end, when everything is shown in pieces of `n` bytes.
    fn end_of(body: &[u8], n: usize) -> Result<u64, &'static str> {
        let mut chunked = Chunked::default();
        let (mut from, mut shown) = (0u64, 0usize);
        loop {
            shown = (shown + n).min(body.len());
            let buf = body.get(from as usize..shown).unwrap_or_default();
            if !buf.is_empty() {
                match chunked.advance(buf) {
                    Progress::Passed(len) => from += len,
                    Progress::Ended(len) => return Ok(from + len),
                    Progress::NeedMore => {}
                    Progress::Bad(why) => return Err(why),
                }
            }
            if shown == body.len() && body.get(from as usize..).unwrap_or_default().is_empty() {
                return Err("no end");
            }
        }
    }

    #[rstest::rstest]
    #[case::empty("0\r\n\r\n")]
    #[case::one("5\r\nhello\r\n0\r\n\r\n")]
    #[case::extension("5;name=\"v\"\r\nhello\r\n0;x\r\n\r\n")]
    #[case::space("5 \r\nhello\r\n0\r\n\r\n")]
    #[case::trailers("A\r\n0123456789\r\n0\r\nDigest: x\r\nB: c\r\n\r\n")]
    #[case::bare_lf("5\nhello\n0\n\n")]
    #[case::looks_like_the_end("7\r\n0\r\n\r\nxx\r\n0\r\n\r\n")]
    #[case::leading_zeros("0005\r\nhello\r\n000\r\n\r\n")]
    fn any_pieces_give_the_same_end(#[case] body: &str) {
        let text = format!("{body}HTTP/1.1 200 OK\r\n");
        for n in 1..=text.len() {
            assert_eq!(end_of(text.as_bytes(), n), Ok(body.len() as u64), "{n}");
        }
    }

    #[rstest::rstest]
    #[case::no_number("\r\n")]
    #[case::minus("-5\r\nhello\r\n0\r\n\r\n")]
    #[case::long_data("5\r\nhello!\r\n0\r\n\r\n")]
    #[case::letter("5g\r\nhello\r\n0\r\n\r\n")]
    #[case::huge("FFFFFFFFFFFFFFFF\r\n")]
    #[case::text("HTTP/1.1 200 OK\r\n")]
    fn other_bytes_are_bad(#[case] body: &str) {
        for n in 1..=body.len() {
            assert!(matches!(end_of(body.as_bytes(), n), Err(why) if why != "no end"), "{n}");
        }
    }

    #[test]
    fn data_that_was_not_captured_is_passed_by_its_length() {
        let mut chunked = Chunked::default();
        assert_eq!(chunked.advance(b"100000\r\nabc"), Progress::Passed(8 + 0x10_0000));
        assert_eq!(chunked.advance(b"\r\n0\r\n\r\n"), Progress::Ended(7));
    }

    #[test]
    fn endless_lines_and_trailers_are_bad() {
        let mut chunked = Chunked::default();
        let line = [b"5;".as_slice(), &[b'x'; MAX_LINE]].concat();
        assert_eq!(chunked.advance(&line), Progress::Bad("chunk line too long"));
        let mut chunked = Chunked::default();
        let trailers = format!("0\r\n{}", "A: b\r\n".repeat(MAX_TRAILER as usize / 6 + 1));
        assert_eq!(chunked.advance(trailers.as_bytes()), Progress::Bad("trailers too long"));
    }
}
