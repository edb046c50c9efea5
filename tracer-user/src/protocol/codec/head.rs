//! HTTP/1 message heads: request line, status line and the few header fields that framing and identity need
//! (RFC 9112 §2–§6, RFC 9110 §5). Field lines are read by `httparse`; lines that it refuses (folded, or with bytes that
//! servers commonly let pass) are mended and read again. Each function looks at each byte a constant number of times.

use std::sync::Arc;

use httparse::{EMPTY_HEADER, Header, Status};
use serde::{Deserialize, Serialize};

use super::trace_id;

/// Longest head: nginx takes 32 KiB, Node 16 KiB, Go 1 MiB.
pub const MAX_HEAD: usize = 256 << 10;
/// Most field lines; more is no head that a server accepts.
const MAX_FIELDS: usize = 1024;
/// Field lines of nearly all heads; read into an array of this size first.
const USUAL_FIELDS: usize = 32;
/// Larger lengths are refused, so that positions never overflow.
pub const MAX_LENGTH: u64 = 1 << 62;

/// What a parser makes of the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parse<T> {
    /// The value, and the bytes it took.
    Done(T, usize),
    /// Right so far.
    Partial,
    /// Cannot become it, whatever follows.
    Bad,
}

/// `GET /path HTTP/1.1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestLine<'a> {
    /// A token of at most [`MAX_METHOD`] bytes.
    pub method: &'a [u8],
    /// Not empty; may hold spaces and any byte above them.
    pub target: &'a [u8],
}

/// Longest method; the longest registered one (`UPDATEREDIRECTREF`) has 17 bytes.
pub const MAX_METHOD: usize = 32;

/// Reads a request line with its line end.
pub fn request_line(buf: &[u8]) -> Parse<RequestLine<'_>> {
    let n_method = buf.iter().position(|&byte| !is_token(byte)).unwrap_or(buf.len());
    if n_method > MAX_METHOD || (n_method == 0 && !buf.is_empty()) {
        return Parse::Bad;
    }
    let Some((&space, rest)) = buf[n_method..].split_first() else { return Parse::Partial };
    if space != b' ' {
        return Parse::Bad;
    }
    let Some(n_text) = rest.iter().position(|&byte| byte < b' ' || byte == 0x7f) else {
        return Parse::Partial;
    };
    let n_end = match rest[n_text..] {
        [b'\n', ..] => 1,
        [b'\r', b'\n', ..] => 2,
        [b'\r'] => return Parse::Partial,
        _ => return Parse::Bad,
    };
    let text = &rest[..n_text];
    let Some((target, [b' ', b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'0'..=b'9'])) =
        text.len().checked_sub(9).and_then(|n_target| text.split_at_checked(n_target))
    else {
        return Parse::Bad;
    };
    if target.is_empty() || target[0] == b' ' {
        return Parse::Bad;
    }
    Parse::Done(RequestLine { method: &buf[..n_method], target }, n_method + 1 + n_text + n_end)
}

/// Reads a status line with its line end; the value is the status code (100 to 999).
pub fn status_line(buf: &[u8]) -> Parse<u16> {
    const START: &[u8] = b"HTTP/1.";
    let n_start = buf.len().min(START.len());
    if buf[..n_start] != START[..n_start] {
        return Parse::Bad;
    }
    // `0 200`, then the end of the line, or a space and the reason.
    for (idx, &byte) in buf.iter().enumerate().take(12).skip(7) {
        let fits = match idx {
            8 => byte == b' ',
            9 => matches!(byte, b'1'..=b'9'),
            _ => byte.is_ascii_digit(),
        };
        if !fits {
            return Parse::Bad;
        }
    }
    let Some(reason) = buf.get(12..).filter(|reason| !reason.is_empty()) else { return Parse::Partial };
    if !matches!(reason[0], b' ' | b'\r' | b'\n') {
        return Parse::Bad;
    }
    let Some(n_reason) =
        reason.iter().position(|&byte| byte == b'\n' || (byte < b' ' && byte != b'\t' && byte != b'\r'))
    else {
        return Parse::Partial;
    };
    if reason[n_reason] != b'\n' {
        return Parse::Bad;
    }
    let status = buf[9..12].iter().fold(0, |status, digit| status * 10 + u16::from(digit - b'0'));
    Parse::Done(status, 12 + n_reason + 1)
}

/// The byte behind the empty line that ends a head, searched from `from` (bytes before it were searched before).
pub fn find_end(buf: &[u8], from: usize) -> Option<usize> {
    let from = from.saturating_sub(2).min(buf.len());
    let mut rest = buf[from..].iter().enumerate();
    while let Some((idx, _)) = rest.find(|(_, byte)| **byte == b'\n') {
        let idx = from + idx;
        match buf[idx + 1..] {
            [b'\n', ..] => return Some(idx + 2),
            [b'\r', b'\n', ..] => return Some(idx + 3),
            _ => {}
        }
    }
    None
}

/// How long a message's body is, as its own head says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Length {
    /// The head says nothing.
    #[default]
    Absent,
    /// `Content-Length`, once or repeated with the same value.
    Fixed(u64),
    /// `Transfer-Encoding` that ends in `chunked`; overrides a `Content-Length`.
    Chunked,
    /// `Transfer-Encoding` that does not end in `chunked`.
    OtherCoding,
    /// `Content-Length` that is no number, or several that differ.
    Invalid,
}

/// What the header fields say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields<'a> {
    /// Framing.
    pub length: Length,
    /// The first `Host`.
    pub host: Option<&'a [u8]>,
    /// The first protocol of `Upgrade`, if `Connection` has the option `upgrade` too.
    pub upgrade: Option<&'a [u8]>,
    /// `Content-Type: text/event-stream`.
    pub event_stream: bool,
    /// The content is coded (`Content-Encoding`, or a `Transfer-Encoding` besides `chunked`): its bytes say nothing as they are.
    pub encoded: bool,
    /// The trace id that it carries.
    pub trace_id: Option<Arc<str>>,
}

/// Reads the field lines of a head up to and with its empty line. `scratch` is used for mending.
pub fn fields<'a>(buf: &'a [u8], strict: bool, scratch: &'a mut Vec<u8>) -> Parse<Fields<'a>> {
    match read_fields(buf) {
        Parse::Bad if !strict => {
            // Only a whole head can be mended: where it ends must not depend on what was mended.
            let end = match buf {
                [b'\n', ..] => 1,
                [b'\r', b'\n', ..] => 2,
                _ => match find_end(buf, 0) {
                    Some(end) => end,
                    None => return Parse::Partial,
                },
            };
            mend(&buf[..end], scratch);
            match read_fields(scratch) {
                Parse::Done(fields, _) => Parse::Done(fields, end),
                Parse::Partial | Parse::Bad => Parse::Bad,
            }
        }
        parse => parse,
    }
}

fn read_fields(buf: &[u8]) -> Parse<Fields<'_>> {
    let mut usual = [EMPTY_HEADER; USUAL_FIELDS];
    match httparse::parse_headers(buf, &mut usual) {
        Ok(Status::Complete((len, headers))) => Parse::Done(interpret(headers), len),
        Ok(Status::Partial) => Parse::Partial,
        Err(httparse::Error::TooManyHeaders) => {
            let mut many = vec![EMPTY_HEADER; MAX_FIELDS];
            match httparse::parse_headers(buf, &mut many) {
                Ok(Status::Complete((len, headers))) => Parse::Done(interpret(headers), len),
                Ok(Status::Partial) => Parse::Partial,
                Err(_) => Parse::Bad,
            }
        }
        Err(_) => Parse::Bad,
    }
}

fn interpret<'a>(headers: &[Header<'a>]) -> Fields<'a> {
    let mut fields = Fields::default();
    let mut content_length = Length::Absent;
    let mut coding = Length::Absent;
    let mut upgrades = false;
    let mut upgrade = None;
    let mut is_traced = false;
    for &Header { name, value } in headers {
        // The length first: most fields are told apart by it.
        match name.len() {
            4 if name.eq_ignore_ascii_case("host") => fields.host = fields.host.or(Some(value)),
            7 if name.eq_ignore_ascii_case("upgrade") => upgrade = upgrade.or(list(value).next()),
            10 if name.eq_ignore_ascii_case("connection") => {
                upgrades |= list(value).any(|option| option.eq_ignore_ascii_case(b"upgrade"));
            }
            12 if name.eq_ignore_ascii_case("content-type") => {
                const EVENTS: &[u8] = b"text/event-stream";
                fields.event_stream |=
                    value.get(..EVENTS.len()).is_some_and(|start| start.eq_ignore_ascii_case(EVENTS));
            }
            14 if name.eq_ignore_ascii_case("content-length") => {
                content_length = join_lengths(content_length, value);
            }
            16 if name.eq_ignore_ascii_case("content-encoding") => {
                fields.encoded |= list(value).any(|name| !name.eq_ignore_ascii_case(b"identity"));
            }
            17 if name.eq_ignore_ascii_case("transfer-encoding") => {
                for name in list(value) {
                    let is_plain =
                        [&b"chunked"[..], b"identity"].iter().any(|plain| name.eq_ignore_ascii_case(plain));
                    fields.encoded |= !is_plain;
                    coding = if name.eq_ignore_ascii_case(b"chunked") {
                        Length::Chunked
                    } else if name.eq_ignore_ascii_case(b"identity") && coding == Length::Absent {
                        Length::Absent
                    } else {
                        Length::OtherCoding
                    };
                }
            }
            _ => is_traced |= trace_id::is_field(name.as_bytes()),
        }
    }
    if is_traced {
        let all = headers.iter().map(|header| (header.name.as_bytes(), header.value));
        fields.trace_id = trace_id::of_fields(all);
    }
    fields.length = if coding == Length::Absent { content_length } else { coding };
    fields.upgrade = upgrade.filter(|_| upgrades);
    fields
}

/// The elements of a comma-separated list, empty ones left out.
fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii).filter(|element| !element.is_empty())
}

/// Repeated lengths (`5, 5`, or two lines) must agree.
fn join_lengths(mut length: Length, value: &[u8]) -> Length {
    for text in value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
        length = match (length, decimal(text)) {
            (Length::Absent, Some(number)) => Length::Fixed(number),
            (Length::Fixed(before), Some(number)) if before == number => length,
            _ => Length::Invalid,
        };
    }
    length
}

/// Digits only: no sign, no space, below [`MAX_LENGTH`].
fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |number, &digit| {
        let digit = char::from(digit).to_digit(10)?;
        number.checked_mul(10)?.checked_add(u64::from(digit)).filter(|&number| number < MAX_LENGTH)
    })
}

/// Copies the field lines of a head, folded lines joined by a space, control bytes in values replaced by spaces, and
/// lines without a name left out.
fn mend(head: &[u8], out: &mut Vec<u8>) {
    out.clear();
    let mut lines = head.split(|&byte| byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let mut has_line = false;
    for line in lines.by_ref().take_while(|line| !line.is_empty()) {
        let plain = |byte: &u8| if *byte < b' ' || *byte == 0x7f { b' ' } else { *byte };
        if matches!(line[0], b' ' | b'\t') {
            if has_line {
                out.truncate(out.len() - 2);
                out.extend(line.iter().map(plain));
                out.extend_from_slice(b"\r\n");
            }
            continue;
        }
        let n_name = line.iter().position(|&byte| !is_token(byte)).unwrap_or(line.len());
        has_line = n_name > 0 && line.get(n_name) == Some(&b':');
        if has_line {
            out.extend(line.iter().map(plain));
            out.extend_from_slice(b"\r\n");
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// `tchar` of RFC 9110 §5.6.2.
pub fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[rstest::rstest]
    #[case::plain(b"GET / HTTP/1.1\r\n", "GET", "/")]
    #[case::bare_lf(b"GET /x HTTP/1.0\n", "GET", "/x")]
    #[case::own_method(b"m-search * HTTP/1.1\r\n", "m-search", "*")]
    #[case::target_with_space(b"GET /a b HTTP/1.1\r\n", "GET", "/a b")]
    fn request_lines(#[case] line: &[u8], #[case] method: &str, #[case] target: &str) {
        let expected = RequestLine { method: method.as_bytes(), target: target.as_bytes() };
        assert_eq!(request_line(line), Parse::Done(expected, line.len()));
        for cut in 0..line.len() {
            assert_eq!(request_line(&line[..cut]), Parse::Partial, "{cut}");
        }
    }

    #[rstest::rstest]
    #[case::http2_preface(b"PRI * HTTP/2.0\r\n")]
    #[case::rtsp(b"OPTIONS rtsp://x/y RTSP/1.0\r\n")]
    #[case::sip(b"OPTIONS sip:a@b SIP/2.0\r\n")]
    #[case::redis_inline(b"GET key\r\n")]
    #[case::no_target(b"GET HTTP/1.1\r\n")]
    #[case::empty_target(b"GET  HTTP/1.1\r\n")]
    #[case::control_byte(b"GET /\x01 HTTP/1.1\r\n")]
    #[case::carriage_return(b"GET / HTTP/1.1\rX")]
    #[case::status(b"HTTP/1.1 200 OK\r\n")]
    #[case::tls(b"\x16\x03\x01\x02\x00")]
    fn other_first_lines_are_no_requests(#[case] line: &[u8]) {
        assert_eq!(request_line(line), Parse::Bad);
    }

    #[rstest::rstest]
    #[case::plain(b"HTTP/1.1 200 OK\r\n", 200)]
    #[case::no_reason(b"HTTP/1.0 404\r\n", 404)]
    #[case::bare_lf(b"HTTP/1.1 500 \n", 500)]
    #[case::high_reason(b"HTTP/1.1 999 \xff\xfe\r\n", 999)]
    fn status_lines(#[case] line: &[u8], #[case] status: u16) {
        assert_eq!(status_line(line), Parse::Done(status, line.len()));
        for cut in 0..line.len() {
            assert_eq!(status_line(&line[..cut]), Parse::Partial, "{cut}");
        }
    }

    #[rstest::rstest]
    #[case::http2(b"HTTP/2.0 200 OK\r\n")]
    #[case::short_code(b"HTTP/1.1 20 OK\r\n")]
    #[case::long_code(b"HTTP/1.1 2000 OK\r\n")]
    #[case::low_code(b"HTTP/1.1 099 OK\r\n")]
    #[case::control_byte(b"HTTP/1.1 200 \x00\r\n")]
    #[case::request(b"GET / HTTP/1.1\r\n")]
    fn other_first_lines_are_no_responses(#[case] line: &[u8]) {
        assert_eq!(status_line(line), Parse::Bad);
    }

    #[rstest::rstest]
    #[case::none("", Length::Absent)]
    #[case::fixed("Content-Length: 12\r\n", Length::Fixed(12))]
    #[case::zero_padded("content-length: 0012 \r\n", Length::Fixed(12))]
    #[case::repeated("Content-Length: 5\r\nContent-Length: 5\r\n", Length::Fixed(5))]
    #[case::listed("Content-Length: 5, 5\r\n", Length::Fixed(5))]
    #[case::conflicting("Content-Length: 5\r\nContent-Length: 6\r\n", Length::Invalid)]
    #[case::conflict_first("Content-Length: 5, 6\r\nContent-Length: 5\r\n", Length::Invalid)]
    #[case::negative("Content-Length: -1\r\n", Length::Invalid)]
    #[case::plus("Content-Length: +1\r\n", Length::Invalid)]
    #[case::empty("Content-Length:\r\n", Length::Invalid)]
    #[case::hex("Content-Length: 0x10\r\n", Length::Invalid)]
    #[case::too_large("Content-Length: 99999999999999999999\r\n", Length::Invalid)]
    #[case::chunked("Transfer-Encoding: chunked\r\n", Length::Chunked)]
    #[case::gzip_chunked("transfer-encoding: gzip, Chunked\r\n", Length::Chunked)]
    #[case::two_lines("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", Length::Chunked)]
    #[case::not_last("Transfer-Encoding: chunked, gzip\r\n", Length::OtherCoding)]
    #[case::identity("Transfer-Encoding: identity\r\nContent-Length: 3\r\n", Length::Fixed(3))]
    #[case::both("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", Length::Chunked)]
    #[case::folded("Transfer-Encoding:\r\n chunked\r\n", Length::Chunked)]
    #[case::beside_a_fold("X: a\r\n\tb\r\nContent-Length: 7\r\n", Length::Fixed(7))]
    #[case::beside_a_bad_line("bad line\r\nContent-Length: 7\r\n", Length::Fixed(7))]
    #[case::beside_a_bad_byte("X: a\x01b\r\nContent-Length: 7\r\n", Length::Fixed(7))]
    #[case::space_before_colon("Content-Length : 7\r\n", Length::Absent)]
    fn framing(#[case] lines: &str, #[case] length: Length) {
        let head = format!("{lines}\r\nbody: \r\n\r\n");
        let mut scratch = Vec::new();
        match fields(head.as_bytes(), false, &mut scratch) {
            Parse::Done(fields, len) => assert_eq!((fields.length, len), (length, lines.len() + 2)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn upgrade_needs_both_fields() {
        let mut scratch = Vec::new();
        let mut upgrade = |text: &str| match fields(text.as_bytes(), false, &mut scratch) {
            Parse::Done(fields, _) => fields.upgrade.map(|name| String::from_utf8_lossy(name).into_owned()),
            other => panic!("{other:?}"),
        };
        assert_eq!(
            upgrade("Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n").as_deref(),
            Some("websocket")
        );
        assert_eq!(upgrade("Upgrade: h2c, x\r\nConnection: upgrade\r\n\r\n").as_deref(), Some("h2c"));
        assert_eq!(upgrade("Upgrade: h2c\r\n\r\n"), None);
    }

    #[test]
    fn many_fields_are_read_and_too_many_refused() {
        let mut scratch = Vec::new();
        for (n_fields, good) in [(32, true), (33, true), (1023, true), (1025, false)] {
            let head = format!("{}Content-Length: 4\r\n\r\n", "X: y\r\n".repeat(n_fields - 1));
            let read = matches!(fields(head.as_bytes(), false, &mut scratch), Parse::Done(fields, _) if fields.length == Length::Fixed(4));
            assert_eq!(read, good, "{n_fields}");
        }
    }

    #[test]
    fn the_end_is_found_from_any_earlier_place() {
        for head in ["GET / HTTP/1.1\r\nA: b\r\n\r\nrest\r\n\r\n", "GET / HTTP/1.1\nA: b\n\nrest\n\n"] {
            let end = head.find("rest").unwrap();
            for from in 0..=end {
                assert_eq!(find_end(head.as_bytes(), from.min(end - 1)), Some(end), "{from}");
            }
            assert_eq!(find_end(&head.as_bytes()[..end - 1], 0), None);
        }
    }
}
