//! Skipped bytes of HTTP responses: whether they may end with an interim response's head (RFC 9110 §15.2). Whoever
//! reads such a head may answer it with a request's body, so that what comes next is no boundary.
//!
//! Nothing else is known of the bytes: they may be heads, bodies or both, from their middle on. So a status line of an
//! interim response counts wherever it stands, and a head that may have begun in lost bytes counts as well. What no
//! body can pretend is the end: behind an empty line stands no byte of the same head. Each byte is looked at once,
//! however it arrives.

use serde::{Deserialize, Serialize};

/// How an interim response begins: `#` stands for any digit.
const START: &[u8] = b"HTTP/1.# 1";

/// What the response flow said last. Saved as one byte; 0 and 1 are what recordings of any age may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "u8", into = "u8")]
pub enum Said {
    /// No interim response; so many bytes of `START` last.
    Other(u8),
    /// Maybe an interim response's head, up to inside a line of it.
    Line,
    /// The same, up to the start of a line.
    LineStart,
    /// Maybe an interim response's whole head; behind it, so many bytes of `START`.
    Head(u8),
}

impl Said {
    /// A whole interim response.
    pub const INTERIM: Said = Said::Head(0);
    /// A final response, and maybe some of its body.
    pub const FINAL: Said = Said::Other(0);
    /// Bytes that are lost: an interim response's head may have begun in them.
    pub const LOST: Said = Said::Line;

    /// The last thing said is an interim response, or may be one.
    pub fn may_be_interim(self) -> bool {
        !matches!(self, Said::Other(_))
    }

    /// `bytes` are skipped, behind what was said before.
    pub fn skip(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            *self = self.behind(byte);
        }
    }

    fn behind(self, byte: u8) -> Said {
        let n_seen = match (self, byte) {
            (Said::Line, b'\n') | (Said::LineStart, b'\r') => return Said::LineStart,
            (Said::LineStart, b'\n') => return Said::Head(0),
            (Said::Line | Said::LineStart, _) => return Said::Line,
            // More empty lines may stand between two heads.
            (Said::Head(0), b'\r' | b'\n') => return self,
            (Said::Other(n_seen) | Said::Head(n_seen), _) => n_seen,
        };
        let is_next = START.get(usize::from(n_seen)).is_some_and(|&want| match want {
            b'#' => byte.is_ascii_digit(),
            want => byte == want,
        });
        match (self, n_seen + 1) {
            (_, n_seen) if is_next && usize::from(n_seen) == START.len() => Said::Line,
            // It may yet be the next interim response that follows.
            (Said::Head(_), n_seen) if is_next => Said::Head(n_seen),
            (_, n_seen) if is_next => Said::Other(n_seen),
            // Only a start's first byte is an H, so that none begins inside a part of another.
            _ => Said::Other(u8::from(byte == START[0])),
        }
    }
}

impl Default for Said {
    fn default() -> Self {
        Said::FINAL
    }
}

impl From<Said> for u8 {
    fn from(said: Said) -> u8 {
        match said {
            Said::Other(n_seen) => 2 * n_seen,
            Said::Line => 1,
            Said::LineStart => 3,
            Said::Head(n_seen) => 5 + 2 * n_seen,
        }
    }
}

impl From<u8> for Said {
    fn from(byte: u8) -> Said {
        let n_seen = |n_seen: u8| n_seen.min(START.len() as u8 - 1);
        match byte {
            1 => Said::Line,
            3 => Said::LineStart,
            byte if byte % 2 == 0 => Said::Other(n_seen(byte / 2)),
            byte => Said::Head(n_seen((byte - 5) / 2)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERIM: &[u8] = b"HTTP/1.1 103 Wait\r\nLink: </s.css>\r\n\r\n";
    const FINAL: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

    /// Skips the parts in one go, and byte by byte with the state saved in between.
    fn behind(mut said: Said, parts: &[&[u8]]) -> bool {
        let bytes = parts.concat();
        let mut bytewise = said;
        for byte in &bytes {
            bytewise.skip(&[*byte]);
            assert_eq!(bytewise, Said::from(u8::from(bytewise)));
        }
        said.skip(&bytes);
        assert_eq!(said, bytewise);
        said.may_be_interim()
    }

    #[test]
    fn an_interim_response_is_found_wherever_it_begins() {
        assert!(behind(Said::FINAL, &[INTERIM]));
        assert!(behind(Said::FINAL, &[b"a body", INTERIM]));
        assert!(behind(Said::FINAL, &[b"HTTP/1.HTTP/1", INTERIM]));
        assert!(behind(Said::FINAL, &[FINAL, INTERIM, b"\r\n\r\n", INTERIM]));
        assert!(behind(Said::FINAL, &[b"\r\nHTTP/1.0 100 \n\n"]));
        assert!(behind(Said::INTERIM, &[INTERIM]));
        assert!(behind(Said::LOST, &[b"P/1.1 100 Continue\r\n\r\n"]));
        assert!(behind(Said::LOST, &[b"\r\n"]), "its last bytes");
    }

    #[test]
    fn what_stands_behind_its_empty_line_was_said_behind_it() {
        assert!(!behind(Said::FINAL, &[INTERIM, FINAL]));
        assert!(!behind(Said::INTERIM, &[b"HTTP/1.1 2"]));
        assert!(behind(Said::INTERIM, &[b"HTTP/1.1 "]), "it may go on as another");
        assert!(!behind(Said::LOST, &[INTERIM, FINAL]));
        assert!(behind(Said::LOST, &[FINAL]), "the end of an interim response's head, by what is known");
        assert!(!behind(Said::LOST, &[FINAL, b"x"]));
    }

    #[test]
    fn fields_of_its_head_do_not_end_it() {
        assert!(behind(Said::FINAL, &[b"HTTP/1.1 103 Wait\r\nX: HTTP/1.1 200 OK\r\nHTTP/1.1 200 OK\r\n"]));
        assert!(behind(Said::FINAL, &[b"HTTP/1.1 103 Wait\r\nX: a\r\n \r\nb"]));
    }

    #[test]
    fn a_byte_that_was_never_written_is_read_as_some_state() {
        assert_eq!([Said::from(0), Said::from(1)].map(Said::may_be_interim), [false, true]);
        for byte in 0..=u8::MAX {
            let said = Said::from(byte);
            assert_eq!(Said::from(u8::from(said)), said);
        }
    }
}
