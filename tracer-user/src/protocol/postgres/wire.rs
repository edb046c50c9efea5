//! Messages of PostgreSQL's protocol: their frames, and whether bytes are such messages at all.

use crate::protocol::{
    Inference,
    codec::sql::{self, Dialect},
};

/// Longest message: the server's own bound on what it sends and takes (`PQ_LARGE_MESSAGE_LIMIT`).
const MAX_MESSAGE: u32 = 0x3fff_ffff;
/// Longest packet before a session (`MAX_STARTUP_PACKET_LENGTH`).
const MAX_STARTUP: usize = 10_000;

/// What bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// No such message.
    Bad,
    /// So far they could be one; the rest is not there.
    Partial,
    /// A valid message of so many bytes.
    Whole(usize),
}

enum Stop {
    Bad,
    More,
}

/// A message's body, of which the end may not be there.
struct Body<'a> {
    there: &'a [u8],
    at: usize,
    len: usize,
}

impl<'a> Body<'a> {
    fn bytes(&mut self, n: usize) -> Result<&'a [u8], Stop> {
        let end = self.at.checked_add(n).filter(|end| *end <= self.len).ok_or(Stop::Bad)?;
        let bytes = self.there.get(self.at..end).ok_or(Stop::More)?;
        self.at = end;
        Ok(bytes)
    }

    fn byte(&mut self) -> Result<u8, Stop> {
        Ok(self.bytes(1)?[0])
    }

    fn short(&mut self) -> Result<usize, Stop> {
        let bytes = self.bytes(2)?;
        let number = i16::from_be_bytes([bytes[0], bytes[1]]);
        usize::try_from(number).map_err(|_| Stop::Bad)
    }

    fn int(&mut self) -> Result<i32, Stop> {
        let bytes = self.bytes(4)?;
        Ok(i32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    fn text(&mut self) -> Result<&'a [u8], Stop> {
        let rest = self.there.get(self.at..).unwrap_or_default();
        match rest.iter().position(|&byte| byte == 0) {
            Some(end) => {
                self.at += end + 1;
                Ok(&rest[..end])
            }
            None if self.there.len() < self.len => Err(Stop::More),
            None => Err(Stop::Bad),
        }
    }

    fn formats(&mut self) -> Result<(), Stop> {
        for _ in 0..self.short()? {
            ensure(matches!(self.short()?, 0 | 1))?;
        }
        Ok(())
    }

    /// Values with their lengths; -1 is NULL.
    fn values(&mut self) -> Result<(), Stop> {
        for _ in 0..self.short()? {
            match self.int()? {
                -1 => {}
                len => drop(self.bytes(usize::try_from(len).map_err(|_| Stop::Bad)?)?),
            }
        }
        Ok(())
    }

    fn fields(&mut self) -> Result<(), Stop> {
        let mut has_code = false;
        for n in 0.. {
            match self.byte()? {
                0 => break,
                kind => {
                    ensure(kind.is_ascii_alphabetic() && (n > 0 || kind == b'S'))?;
                    let text = self.text()?;
                    has_code |= kind == b'C' && text.len() == 5;
                }
            }
        }
        ensure(has_code)
    }
}

fn ensure(good: bool) -> Result<(), Stop> {
    if good { Ok(()) } else { Err(Stop::Bad) }
}

/// Type and length (type and all) of the message at the start of `buf`. `None`: too few bytes.
pub fn frame(buf: &[u8]) -> Option<Result<(u8, u64), &'static str>> {
    let [kind, a, b, c, d, ..] = *buf else { return None };
    let len = u32::from_be_bytes([a, b, c, d]);
    Some(if (4..=MAX_MESSAGE).contains(&len) { Ok((kind, u64::from(len) + 1)) } else { Err("no length") })
}

fn check(buf: &[u8], kinds: &[u8], read: impl Fn(u8, &mut Body<'_>) -> Result<(), Stop>) -> Check {
    match buf.first() {
        None => return Check::Partial,
        Some(kind) if !kinds.contains(kind) => return Check::Bad,
        Some(_) => {}
    }
    // A length of 16 MiB and more is one that nobody sends in a message that is to be recognised.
    if buf.get(1).is_some_and(|byte| *byte != 0) {
        return Check::Bad;
    }
    let (kind, len) = match frame(buf) {
        None => return Check::Partial,
        Some(Err(_)) => return Check::Bad,
        Some(Ok((kind, len))) => (kind, len as usize),
    };
    let there = &buf[5..buf.len().min(len)];
    let mut body = Body { there, at: 0, len: len - 5 };
    match read(kind, &mut body) {
        Err(Stop::Bad) => Check::Bad,
        Err(Stop::More) => Check::Partial,
        Ok(()) if body.at != body.len => Check::Bad,
        Ok(()) if buf.len() < len => Check::Partial,
        Ok(()) => Check::Whole(len),
    }
}

/// The client's message at the start of `buf`. `statement` says whether a text may be one.
pub fn request(buf: &[u8], statement: impl Fn(&[u8]) -> bool) -> Check {
    check(buf, b"QPBDECSHXFdcfp", |kind, body| {
        match kind {
            b'Q' => ensure(statement(body.text()?))?,
            b'P' => {
                body.text()?;
                ensure(statement(body.text()?))?;
                let n = body.short()?;
                body.bytes(n * 4)?;
            }
            b'B' => {
                body.text()?;
                body.text()?;
                body.formats()?;
                body.values()?;
                body.formats()?;
            }
            b'E' => {
                body.text()?;
                ensure(body.int()? >= 0)?;
            }
            b'D' | b'C' => {
                ensure(matches!(body.byte()?, b'S' | b'P'))?;
                body.text()?;
            }
            b'F' => {
                body.int()?;
                body.formats()?;
                body.values()?;
                ensure(matches!(body.short()?, 0 | 1))?;
            }
            b'f' => drop(body.text()?),
            b'd' | b'p' => drop(body.bytes(body.len)?),
            _ => {}
        }
        Ok(())
    })
}

/// The server's message at the start of `buf`.
pub fn response(buf: &[u8]) -> Check {
    check(buf, b"RKSZTDCENA123nsIctGHWdVv", |kind, body| {
        match kind {
            b'R' => match body.int()? {
                0 | 2 | 3 | 7 | 9 => {}
                5 => drop(body.bytes(4)?),
                10 => while !body.text()?.is_empty() {},
                8 | 11 | 12 => drop(body.bytes(body.len - body.at)?),
                _ => return Err(Stop::Bad),
            },
            b'K' => {
                ensure((8..=260).contains(&body.len))?;
                body.bytes(body.len)?;
            }
            b'S' => {
                ensure(!body.text()?.is_empty())?;
                body.text()?;
            }
            b'Z' => ensure(matches!(body.byte()?, b'I' | b'T' | b'E'))?,
            b'T' => {
                for _ in 0..body.short()? {
                    body.text()?;
                    body.bytes(18)?;
                }
            }
            b'D' => body.values()?,
            b'C' => {
                let tag = body.text()?;
                let is_tag = |byte: &u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || *byte == b' ';
                ensure(tag.first().is_some_and(u8::is_ascii_uppercase) && tag.iter().all(is_tag))?;
            }
            b'E' | b'N' => body.fields()?,
            b'A' => {
                body.int()?;
                body.text()?;
                body.text()?;
            }
            b't' => {
                let n = body.short()?;
                body.bytes(n * 4)?;
            }
            b'G' | b'H' | b'W' => {
                ensure(matches!(body.byte()?, 0 | 1))?;
                body.formats()?;
            }
            b'd' => drop(body.bytes(body.len)?),
            b'V' => match body.int()? {
                -1 => {}
                len => drop(body.bytes(usize::try_from(len).map_err(|_| Stop::Bad)?)?),
            },
            b'v' => drop(body.bytes(body.len)?),
            _ => {}
        }
        Ok(())
    })
}

/// What comes before an execution.
pub enum Ahead {
    /// It is at this offset.
    Executes(usize),
    /// None comes: the request ends here.
    Ends(usize),
    /// Nobody knows; the first message ends here.
    Long(u64),
    /// Too few bytes.
    More,
}

/// Looks over messages that may come before an execution.
pub fn ahead(buf: &[u8]) -> Result<Ahead, &'static str> {
    let (mut at, mut parses, mut first) = (0usize, false, None);
    loop {
        let Some(&kind) = buf.get(at) else { return Ok(Ahead::More) };
        match kind {
            b'B' | b'E' => return Ok(Ahead::Executes(at)),
            b'P' if !parses => parses = true,
            b'D' | b'C' => {}
            _ => return Ok(Ahead::Ends(at)),
        }
        let Some(next) = frame(&buf[at..]) else { return Ok(Ahead::More) };
        let len = next?.1;
        let first = *first.get_or_insert(len);
        at = at.saturating_add(usize::try_from(len).unwrap_or(usize::MAX));
        if at > super::MAX_AHEAD {
            // Decided by lengths, so that it does not depend on the pieces in which bytes come.
            let enough = first.min((super::MAX_NAME + sql::MAX_READ) as u64);
            return Ok(if (buf.len() as u64) < enough { Ahead::More } else { Ahead::Long(first) });
        }
    }
}

/// A packet before the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Startup<'a> {
    /// Too few bytes.
    Partial,
    /// No such packet.
    Bad,
    /// May the connection be encrypted by TLS?
    Ssl,
    /// The same by GSSAPI.
    Gss,
    /// Cancel what goes on on another connection.
    Cancel {
        /// Bytes.
        len: usize,
    },
    /// A session begins.
    Session {
        /// Bytes.
        len: usize,
        /// The database, if it is named.
        database: Option<&'a [u8]>,
    },
}

/// The packet at the start of `buf`.
pub fn startup(buf: &[u8]) -> Startup<'_> {
    if buf.iter().zip([0, 0]).any(|(byte, zero)| *byte != zero) {
        return Startup::Bad;
    }
    let Some(len) = buf.get(..4).map(|len| u32::from_be_bytes([len[0], len[1], len[2], len[3]]) as usize)
    else {
        return Startup::Partial;
    };
    if !(8..=MAX_STARTUP).contains(&len) {
        return Startup::Bad;
    }
    let code = &buf[4..buf.len().min(8)];
    let is = |full: [u8; 4]| full.starts_with(code);
    let (ssl, gss, cancel) = ([0x04, 0xd2, 0x16, 0x2f], [0x04, 0xd2, 0x16, 0x30], [0x04, 0xd2, 0x16, 0x2e]);
    let is_session = code.iter().zip([0, 3]).all(|(byte, wanted)| *byte == wanted)
        && code.get(2).is_none_or(|minor| *minor <= 0x27);
    match () {
        () if code.len() < 4 && (is_session || is(ssl) || is(gss) || is(cancel)) => Startup::Partial,
        () if code.len() < 4 => Startup::Bad,
        () if is(ssl) && len == 8 => Startup::Ssl,
        () if is(gss) && len == 8 => Startup::Gss,
        () if is(cancel) && (16..=268).contains(&len) && buf.len() >= len => Startup::Cancel { len },
        () if is(cancel) && (16..=268).contains(&len) => Startup::Partial,
        () if is_session => session(&buf[8..buf.len().min(len)], len),
        () => Startup::Bad,
    }
}

/// Names and values behind the version.
fn session(there: &[u8], len: usize) -> Startup<'_> {
    let mut body = Body { there, at: 0, len: len - 8 };
    let mut database = None;
    let mut has_user = false;
    loop {
        let name = match body.text() {
            Ok(name) => name,
            Err(Stop::Bad) => return Startup::Bad,
            Err(Stop::More) => {
                let rest = &there[body.at..];
                let fits = rest.iter().all(|byte| byte.is_ascii_graphic());
                return if fits { Startup::Partial } else { Startup::Bad };
            }
        };
        if name.is_empty() {
            break;
        }
        if !name.iter().all(u8::is_ascii_graphic) {
            return Startup::Bad;
        }
        let value = match body.text() {
            Ok(value) => value,
            Err(Stop::Bad) => return Startup::Bad,
            Err(Stop::More) => return Startup::Partial,
        };
        has_user |= name == b"user";
        if name == b"database" && !value.is_empty() {
            database = Some(value);
        }
    }
    if body.at == body.len && has_user { Startup::Session { len, database } } else { Startup::Bad }
}

/// The field of an error or notice with this type: `S` severity, `C` SQLSTATE. `body` may be cut off behind it.
pub fn field(mut body: &[u8], wanted: u8) -> Option<&[u8]> {
    loop {
        let (&kind, rest) = body.split_first()?;
        let end = rest.iter().position(|&byte| byte == 0)?;
        match kind {
            0 => return None,
            kind if kind == wanted => return Some(&rest[..end]),
            _ => body = &rest[end + 1..],
        }
    }
}

/// Rows by the tag of a completed command: `INSERT 0 5`, `SELECT 5`, `COPY 5`.
pub fn rows(tag: &[u8]) -> Option<u64> {
    let number = tag.rsplit(|&byte| byte == b' ').next()?;
    if number.is_empty() || number.len() == tag.len() || !number.iter().all(u8::is_ascii_digit) {
        return None;
    }
    str::from_utf8(number).ok()?.parse().ok()
}

/// A text that ends with a zero byte, and what comes behind it.
pub fn text(buf: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = buf.iter().position(|&byte| byte == 0)?;
    Some((&buf[..end], &buf[end + 1..]))
}

/// A statement begins with a word that begins one.
fn is_statement(text: &[u8]) -> bool {
    let summary = sql::fingerprint(&text[..text.len().min(1024)], Dialect::Postgres).summary;
    !summary.starts_with("_OTHER") || replication_command(text).is_some()
}

/// Whether these are the client's bytes.
pub fn infer_request(head: &[u8]) -> Inference {
    if head.first() == Some(&0) {
        return match startup(head) {
            Startup::Partial => Inference::NeedMore,
            Startup::Bad => Inference::No,
            _ => Inference::Request,
        };
    }
    let mut at = 0;
    let mut n_whole = 0;
    while at < head.len() {
        let rest = &head[at..];
        match request(rest, is_statement) {
            // Data and passwords may be anything.
            _ if at == 0 && matches!(rest[0], b'd' | b'p' | b'f' | b'X') => return Inference::No,
            Check::Bad => return Inference::No,
            Check::Partial => {
                // As much of a statement as a capture has.
                let text = rest.get(5..).unwrap_or_default();
                let is_text = rest[0] == b'Q' && text.len() >= 64 && !text.contains(&0);
                return match is_text {
                    true if is_statement(text) => Inference::Request,
                    true => Inference::No,
                    false => Inference::NeedMore,
                };
            }
            Check::Whole(len) => {
                n_whole += 1;
                if matches!(rest[0], b'Q' | b'P') || n_whole > 1 {
                    return Inference::Request;
                }
                at += len;
            }
        }
    }
    Inference::NeedMore
}

/// Whether these are the server's bytes.
pub fn infer_response(mut head: &[u8]) -> Inference {
    // Refused encryption, and what comes behind it.
    for _ in 0..2 {
        match head {
            [b'N'] | [b'S'] => return Inference::NeedMore,
            [b'N', b'N' | b'R', ..] => head = &head[1..],
            [b'S', 0x16] => return Inference::NeedMore,
            [b'S', 0x16, 3, ..] => return Inference::Response,
            _ => break,
        }
    }
    let mut at = 0;
    let mut n_whole = 0;
    let mut is_strong = false;
    while at < head.len() {
        let rest = &head[at..];
        if rest[0] == b'd' {
            return Inference::No;
        }
        match response(rest) {
            Check::Bad => return Inference::No,
            Check::Partial if is_strong && rest.len() >= 64 => return Inference::Response,
            Check::Partial => return Inference::NeedMore,
            Check::Whole(len) => {
                n_whole += 1;
                is_strong |= matches!(rest[0], b'T' | b'Z' | b'C' | b'E' | b'N');
                if matches!(rest[0], b'R' | b'E') || (is_strong && n_whole > 1) {
                    return Inference::Response;
                }
                at += len;
            }
        }
    }
    Inference::NeedMore
}

/// Commands of the replication protocol, which are no SQL.
pub fn replication_command(text: &[u8]) -> Option<&'static str> {
    const COMMANDS: &[&str] = &[
        "ALTER_REPLICATION_SLOT",
        "BASE_BACKUP",
        "CREATE_REPLICATION_SLOT",
        "DROP_REPLICATION_SLOT",
        "IDENTIFY_SYSTEM",
        "READ_REPLICATION_SLOT",
        "START_REPLICATION",
        "TIMELINE_HISTORY",
    ];
    let word = text.split(|byte| !byte.is_ascii_alphabetic() && *byte != b'_').next()?;
    COMMANDS.iter().find(|command| command.as_bytes().eq_ignore_ascii_case(word)).copied()
}
