//! RESP, the wire format of Redis: where strings and nested replies end, not what they hold. A reply of any depth is a number of
//! elements counted down: nothing of it is kept, and nothing recurses.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::{chunked::Progress, head::Parse, redis_commands::Which};

/// Longest string. Servers take 512 MiB unless they are told otherwise.
pub const MAX_BULK: u64 = 4 << 30;
/// Most elements of one aggregate, and arguments of one command: what servers count with.
pub const MAX_COUNT: i64 = i32::MAX as i64;
/// A line with a number: type, sign, 19 digits, carriage return, line feed.
const MAX_NUMBER: usize = 23;
/// Longest first word of an error that is kept.
const MAX_ERROR: usize = 32;
/// Longest channel that is looked at in a message; a longer one has no name here, and no count behind it.
const MAX_CHANNEL: usize = 1024;
/// Longest word that begins a push.
const MAX_PUSH_NAME: usize = 24;

/// A number behind the type byte at the start of `buf`, up to the end of its line.
pub fn number(buf: &[u8]) -> Parse<i64> {
    let (mut value, mut negative, mut n_digits) = (0i64, false, 0);
    for (idx, &byte) in buf.iter().enumerate().take(MAX_NUMBER).skip(1) {
        match byte {
            b'-' if idx == 1 => negative = true,
            b'0'..=b'9' => {
                let digit = i64::from(byte - b'0');
                match value.checked_mul(10).and_then(|value| value.checked_add(digit)) {
                    Some(next) => value = next,
                    None => return Parse::Bad,
                }
                n_digits += 1;
            }
            b'\r' if n_digits > 0 => {
                return match buf.get(idx + 1) {
                    Some(b'\n') => Parse::Done(if negative { -value } else { value }, idx + 2),
                    Some(_) => Parse::Bad,
                    None => Parse::Partial,
                };
            }
            _ => return Parse::Bad,
        }
    }
    if buf.len() >= MAX_NUMBER { Parse::Bad } else { Parse::Partial }
}

/// An argument of a command at the start of `buf`: where its bytes begin, and where it ends, line end included. It need not be
/// there in full.
pub fn argument(buf: &[u8]) -> Parse<u64> {
    match buf.first() {
        None => return Parse::Partial,
        Some(b'$') => {}
        Some(_) => return Parse::Bad,
    }
    match number(buf) {
        Parse::Done(len @ 0.., n_line) if len as u64 <= MAX_BULK => ended(buf, n_line, len as u64),
        Parse::Done(..) | Parse::Bad => Parse::Bad,
        Parse::Partial => Parse::Partial,
    }
}

/// A string of `len` bytes behind a line of `n_line`, if its line end, as far as it is there, is one.
fn ended(buf: &[u8], n_line: usize, len: u64) -> Parse<u64> {
    let total = n_line as u64 + len + 2;
    let end = usize::try_from(total - 2).ok().and_then(|end| buf.get(end..)).unwrap_or_default();
    match end {
        [] | [b'\r'] | [b'\r', b'\n', ..] => Parse::Done(total, n_line),
        _ => Parse::Bad,
    }
}

/// What an element of a reply is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Element {
    /// A string, or nothing, of so many bytes with its line; they need not be there.
    Whole(u64),
    /// So many elements follow.
    Aggregate(u64),
    /// So many elements follow, and none of them is this one.
    Attribute(u64),
    /// All up to the end of the line.
    Line,
}

/// The element at the start of `buf` (not empty), and the bytes of its line. `Bad` for the streamed types of RESP3 as well, which no
/// server sends.
fn element(buf: &[u8]) -> Parse<Element> {
    let kind = buf[0];
    if matches!(kind, b'+' | b'-' | b':' | b',' | b'#' | b'(' | b'_') {
        return Parse::Done(Element::Line, 1);
    }
    if !matches!(kind, b'$' | b'=' | b'!' | b'*' | b'~' | b'>' | b'%' | b'|') {
        return Parse::Bad;
    }
    let (n, n_line) = match number(buf) {
        Parse::Done(n, n_line) => (n, n_line),
        Parse::Partial => return Parse::Partial,
        Parse::Bad => return Parse::Bad,
    };
    match (kind, n) {
        (b'$' | b'*', -1) => Parse::Done(Element::Whole(n_line as u64), n_line),
        (_, ..0) => Parse::Bad,
        (b'$' | b'=' | b'!', _) if n as u64 <= MAX_BULK => match ended(buf, n_line, n as u64) {
            Parse::Done(total, n_line) => Parse::Done(Element::Whole(total), n_line),
            Parse::Partial | Parse::Bad => Parse::Bad,
        },
        (b'*' | b'~' | b'>', ..=MAX_COUNT) => Parse::Done(Element::Aggregate(n as u64), n_line),
        (b'%', ..=MAX_COUNT) => Parse::Done(Element::Aggregate(2 * n as u64), n_line),
        (b'|', ..=MAX_COUNT) => Parse::Done(Element::Attribute(2 * n as u64), n_line),
        _ => Parse::Bad,
    }
}

/// Bytes that could begin a reply: a whole first line that is valid for its type. For a place behind a loss.
pub fn begins_reply(buf: &[u8]) -> Parse<()> {
    let Some(&kind) = buf.first() else { return Parse::Partial };
    match element(buf) {
        Parse::Bad => return Parse::Bad,
        Parse::Partial => return Parse::Partial,
        Parse::Done(Element::Line, _) => {}
        Parse::Done(_, n_line) => return Parse::Done((), n_line),
    }
    if kind == b':' {
        return match number(buf) {
            Parse::Done(_, n_line) => Parse::Done((), n_line),
            Parse::Partial => Parse::Partial,
            Parse::Bad => Parse::Bad,
        };
    }
    let line = &buf[1..buf.iter().position(|&byte| byte == b'\r').unwrap_or(buf.len()).max(1)];
    let fits = match kind {
        b'_' => line.is_empty(),
        b'#' => matches!(line, [] | [b't' | b'f']),
        b'(' => line.iter().all(|byte| byte.is_ascii_digit() || *byte == b'-'),
        b',' => line.iter().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(byte)),
        _ => line.iter().all(|byte| *byte >= b' ' && *byte != 0x7f),
    };
    match buf.get(1 + line.len()..1 + line.len() + 2) {
        _ if !fits => Parse::Bad,
        Some(b"\r\n") => Parse::Done((), line.len() + 3),
        Some(_) => Parse::Bad,
        // A status is no longer than this.
        None if buf.len() > MAX_CHANNEL => Parse::Bad,
        None => Parse::Partial,
    }
}

/// Bytes that answer a command and are no other protocol's: a whole first line of a type that has a number, a status that this command
/// has, or an error with a word that Redis has. Not what POP3 says to `AUTH` and `QUIT`, and NATS to all that it is told: `+OK`, `-ERR`.
pub fn certainly_answers(command: &str, buf: &[u8]) -> bool {
    let Parse::Done((), n_line) = begins_reply(buf) else { return false };
    let line = &buf[..n_line - 2];
    let is_shared = matches!(command, "AUTH" | "QUIT");
    match line {
        b"+PONG" => command == "PING",
        b"+OK" => !is_shared && command != "PING",
        [b'-', text @ ..] => match error_word(text) {
            Some(Cow::Borrowed("ERR")) => !is_shared && text.get(4).is_some_and(u8::is_ascii_alphabetic),
            Some(Cow::Borrowed(word)) => KNOWN_ERRORS.contains(&word),
            Some(Cow::Owned(_)) | None => false,
        },
        [b'$' | b'*' | b':' | b'%', ..] => true,
        _ => false,
    }
}

/// The first word of an error, behind its type byte: `_OTHER` if it is not one of those that programs send.
fn error_word(text: &[u8]) -> Option<Cow<'static, str>> {
    const OTHER: Cow<'static, str> = Cow::Borrowed("_OTHER");
    let is_word = |byte: &u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || *byte == b'_';
    let n_word = text.iter().take(MAX_ERROR + 1).take_while(|byte| is_word(byte)).count();
    let word = &text[..n_word];
    match text.get(n_word) {
        _ if n_word > MAX_ERROR => Some(OTHER),
        None => None,
        Some(b' ' | b'\r') if word.first().is_some_and(u8::is_ascii_uppercase) => {
            let known = KNOWN_ERRORS.iter().find(|known| known.as_bytes() == word);
            Some(match known {
                Some(known) => Cow::Borrowed(*known),
                None => Cow::Owned(String::from_utf8_lossy(word).into_owned()),
            })
        }
        Some(_) => Some(OTHER),
    }
}

const KNOWN_ERRORS: &[&str] = &[
    "ERR",
    "WRONGTYPE",
    "MOVED",
    "ASK",
    "NOAUTH",
    "NOSCRIPT",
    "BUSY",
    "BUSYGROUP",
    "BUSYKEY",
    "CLUSTERDOWN",
    "CROSSSLOT",
    "DENIED",
    "EXECABORT",
    "INPROG",
    "LOADING",
    "MASTERDOWN",
    "MISCONF",
    "NOGOODSLAVE",
    "NOGROUP",
    "NOMASTERLINK",
    "NOPERM",
    "NOPROTO",
    "NOREPLICAS",
    "NOTBUSY",
    "NOTREADY",
    "OOM",
    "READONLY",
    "TRYAGAIN",
    "UNBLOCKED",
    "UNKILLABLE",
    "WRONGPASS",
];

/// The error at the start of `buf`, if one is there; `Partial`: its first word is not there in full.
pub fn error(buf: &[u8]) -> Parse<Option<Cow<'static, str>>> {
    let text = match buf.first() {
        None => return Parse::Partial,
        Some(b'-') => &buf[1..],
        Some(b'!') => match number(buf) {
            Parse::Done(_, n_line) => &buf[n_line..],
            Parse::Partial => return Parse::Partial,
            Parse::Bad => return Parse::Bad,
        },
        Some(_) => return Parse::Done(None, 0),
    };
    error_word(text).map_or(Parse::Partial, |word| Parse::Done(Some(word), 0))
}

/// A reply being read: so many elements to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Countdown {
    left: u64,
    /// In the middle of an element that is a line.
    in_line: bool,
    /// Nobody wants to know of errors any more.
    failed: bool,
}

impl Countdown {
    /// At the first byte of a reply. `failed`: that it is an error is known.
    pub fn new(failed: bool) -> Self {
        Countdown { left: 1, in_line: false, failed }
    }

    /// Passes over as much of `buf` as it can; the first error on the way goes into `failure`. After [`Progress::NeedMore`] the same
    /// bytes must be shown again, with more. Cost: each byte that is not in a string is looked at twice at most.
    pub fn advance(&mut self, buf: &[u8], failure: &mut Option<Cow<'static, str>>) -> Progress {
        let mut off = 0u64;
        loop {
            let rest = usize::try_from(off).ok().and_then(|off| buf.get(off..)).unwrap_or_default();
            let need_more = if off == 0 { Progress::NeedMore } else { Progress::Passed(off) };
            if rest.is_empty() {
                return need_more;
            }
            let mut is_over = true;
            if self.in_line {
                let Some(at) = rest.iter().position(|&byte| byte == b'\n') else {
                    return Progress::Passed(buf.len() as u64);
                };
                off += at as u64 + 1;
                self.in_line = false;
            } else {
                let (element, n_line) = match element(rest) {
                    Parse::Done(element, n_line) => (element, n_line),
                    Parse::Partial => return need_more,
                    Parse::Bad => return Progress::Bad("no RESP value"),
                };
                if !self.failed {
                    match error(rest) {
                        Parse::Done(None, _) => {}
                        Parse::Done(error, _) => {
                            *failure = error;
                            self.failed = true;
                        }
                        Parse::Partial => return need_more,
                        Parse::Bad => return Progress::Bad("no RESP error"),
                    }
                }
                let (n_passed, n_more) = match element {
                    Element::Whole(total) => (total, 0),
                    Element::Aggregate(n) => (n_line as u64, n),
                    Element::Attribute(n) => {
                        is_over = false;
                        (n_line as u64, n)
                    }
                    Element::Line => {
                        self.in_line = true;
                        is_over = false;
                        (1, 0)
                    }
                };
                off += n_passed;
                match self.left.checked_add(n_more) {
                    Some(left) => self.left = left,
                    None => return Progress::Bad("too many elements"),
                }
            }
            if is_over {
                self.left = self.left.saturating_sub(1);
                if self.left == 0 {
                    return Progress::Ended(off);
                }
            }
        }
    }
}

/// What an array or a push is, by its first elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape<'a> {
    /// A message of a channel.
    Message {
        /// `message`, `pmessage`, `smessage`.
        name: &'static str,
        /// Its name.
        channel: &'a [u8],
    },
    /// A (un)subscription is confirmed.
    Confirmation {
        /// Of what.
        which: Which,
        /// It is one more.
        adds: bool,
        /// Its name, if there is one and it is not too long.
        channel: Option<&'a [u8]>,
        /// How many there are now.
        count: Option<u64>,
    },
    /// Something else: what a push says first.
    Other(&'static str),
}

/// Words that begin a push and are no message and no confirmation.
const PUSHES: &[&str] = &["invalidate", "tracking-redir-broken", "monitor", "pubsub", "server-cpu-usage"];

/// The shape of an array or a push at the start of `buf`.
pub fn shape(buf: &[u8]) -> Parse<Shape<'_>> {
    const OTHER: Parse<Shape<'static>> = Parse::Done(Shape::Other("push"), 0);
    let (n, mut at) = match number(buf) {
        Parse::Done(n, n_line) => (n, n_line),
        Parse::Partial => return Parse::Partial,
        Parse::Bad => return Parse::Bad,
    };
    if n < 1 {
        return OTHER;
    }
    let name = match text(&buf[at..], MAX_PUSH_NAME) {
        Parse::Done(Some(name), n_text) => {
            at += n_text;
            name
        }
        Parse::Partial => return Parse::Partial,
        Parse::Done(None, _) | Parse::Bad => return OTHER,
    };
    let (which, adds) = match (name, n) {
        (b"message", 3) => return message(buf, at, "message"),
        (b"smessage", 3) => return message(buf, at, "smessage"),
        (b"pmessage", 4) => {
            // The pattern, then the channel.
            return match text(&buf[at..], MAX_CHANNEL) {
                Parse::Done(_, n_text) => message(buf, at + n_text, "pmessage"),
                Parse::Partial => Parse::Partial,
                Parse::Bad => Parse::Done(Shape::Message { name: "pmessage", channel: &[] }, 0),
            };
        }
        (b"subscribe", 3) => (Which::Channels, true),
        (b"psubscribe", 3) => (Which::Patterns, true),
        (b"ssubscribe", 3) => (Which::Shards, true),
        (b"unsubscribe", 3) => (Which::Channels, false),
        (b"punsubscribe", 3) => (Which::Patterns, false),
        (b"sunsubscribe", 3) => (Which::Shards, false),
        _ => {
            let known = PUSHES.iter().find(|known| known.as_bytes() == name);
            return Parse::Done(Shape::Other(known.copied().unwrap_or("push")), 0);
        }
    };
    let (channel, count) = match text(&buf[at..], MAX_CHANNEL) {
        Parse::Partial => return Parse::Partial,
        Parse::Bad => (None, None),
        Parse::Done(channel, n_text) => match (buf.get(at + n_text), &buf[(at + n_text).min(buf.len())..]) {
            (None, _) => return Parse::Partial,
            (Some(b':'), rest) => match number(rest) {
                Parse::Done(count @ 0.., _) => (channel, Some(count as u64)),
                Parse::Partial => return Parse::Partial,
                _ => return OTHER,
            },
            // Such arrays are something else.
            (Some(_), _) => return OTHER,
        },
    };
    Parse::Done(Shape::Confirmation { which, adds, channel, count }, 0)
}

fn message<'a>(buf: &'a [u8], at: usize, name: &'static str) -> Parse<Shape<'a>> {
    match text(buf.get(at..).unwrap_or_default(), MAX_CHANNEL) {
        Parse::Done(channel, _) => {
            Parse::Done(Shape::Message { name, channel: channel.unwrap_or_default() }, 0)
        }
        Parse::Partial => Parse::Partial,
        Parse::Bad => Parse::Done(Shape::Message { name, channel: &[] }, 0),
    }
}

/// A string of at most `max` bytes (or none, a null), with its line end. `Bad`: it is longer, or something else.
fn text(buf: &[u8], max: usize) -> Parse<Option<&[u8]>> {
    match buf.first() {
        None => return Parse::Partial,
        Some(b'_') if buf.len() < 3 => return Parse::Partial,
        Some(b'_') => return if buf.starts_with(b"_\r\n") { Parse::Done(None, 3) } else { Parse::Bad },
        Some(b'$') => {}
        Some(_) => return Parse::Bad,
    }
    match number(buf) {
        Parse::Done(-1, n_line) => Parse::Done(None, n_line),
        Parse::Done(len @ 0.., n_line) if len as u64 <= max as u64 => {
            let end = n_line + len as usize;
            match buf.get(end..end + 2) {
                None => Parse::Partial,
                Some(b"\r\n") => Parse::Done(buf.get(n_line..end), end + 2),
                Some(_) => Parse::Bad,
            }
        }
        Parse::Done(..) | Parse::Bad => Parse::Bad,
        Parse::Partial => Parse::Partial,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(bytes: &[u8]) -> Progress {
        Countdown::new(false).advance(bytes, &mut None)
    }

    #[test]
    fn values_of_every_type_end_where_they_end() {
        let values: &[&[u8]] = &[
            b"+OK\r\n",
            b"-ERR no\r\n",
            b":-12\r\n",
            b"$5\r\na\r\nb\n\r\n",
            b"$-1\r\n",
            b"*-1\r\n",
            b"*0\r\n",
            b"*2\r\n*1\r\n:1\r\n$0\r\n\r\n",
            b"%1\r\n+a\r\n~2\r\n#t\r\n_\r\n",
            b"|1\r\n+ttl\r\n:3\r\n*1\r\n,1.5\r\n",
            b"=7\r\ntxt:a b\r\n",
            b"!5\r\nERR a\r\n",
            b"(3492890328409238509324850943850943825024385\r\n",
            b">2\r\n+invalidate\r\n_\r\n",
        ];
        for value in values {
            let more = [value, &b"+rest"[..]].concat();
            assert_eq!(passed(&more), Progress::Ended(value.len() as u64), "{}", value.escape_ascii());
        }
    }

    #[test]
    fn what_no_server_sends_is_no_value() {
        for bytes in
            [&b"$?\r\n"[..], b"*?\r\n", b"$-2\r\n", b"~-1\r\n", b"x", b"$3\r\nabcd\r\n", b"$99999999999\r\n"]
        {
            assert!(matches!(passed(bytes), Progress::Bad(_)), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn a_million_nested_arrays_take_no_memory_and_end() {
        let mut bytes = b"*1\r\n".repeat(1_000_000);
        bytes.extend_from_slice(b":1\r\n");
        assert_eq!(passed(&bytes), Progress::Ended(bytes.len() as u64));
    }

    #[test]
    fn counts_that_overflow_are_refused() {
        let bytes = b"*2147483647\r\n".repeat(5);
        assert!(matches!(passed(&bytes), Progress::Passed(_)));
        let mut countdown = Countdown { left: u64::MAX, in_line: false, failed: false };
        assert!(matches!(countdown.advance(b"*9\r\n", &mut None), Progress::Bad(_)));
    }

    #[test]
    fn errors_are_known_by_their_first_word() {
        let word = |bytes: &[u8]| match error(bytes) {
            Parse::Done(word, _) => word.unwrap().into_owned(),
            other => format!("{other:?}"),
        };
        assert_eq!(word(b"-WRONGTYPE Operation\r\n"), "WRONGTYPE");
        assert_eq!(word(b"-MYERR\r\n"), "MYERR");
        assert_eq!(word(b"-secret word\r\n"), "_OTHER");
        assert_eq!(word(b"-\r\n"), "_OTHER");
        assert_eq!(word(b"-9LIVES x\r\n"), "_OTHER");
        assert_eq!(word(b"!7\r\nERR abc\r\n"), "ERR");
        assert_eq!(word(&[&b"-"[..], &[b'A'; 33]].concat()), "_OTHER");
        assert_eq!(error(b"-ERR"), Parse::Partial);
    }
}
