//! Commands of the MySQL protocol: what certainly is one, and what stands in a query.

use bytes::Bytes;

use super::{HEADER, Header, Reader, Seen};

/// `COM_QUERY`.
pub const QUERY: u8 = 0x03;
/// `COM_STMT_PREPARE`.
pub const PREPARE: u8 = 0x16;
/// `COM_STMT_EXECUTE`.
pub const EXECUTE: u8 = 0x17;
/// Bytes of a query's attributes behind which its text is looked for.
const MAX_ATTRIBUTES: usize = 1024;

/// A statement's text behind its attributes, if there are any. `None`: their values are not understood, or not all there.
pub fn behind_attributes(arguments: &[u8], known: bool) -> Option<&[u8]> {
    // No statement begins with such a byte: a client that says so, or was not heard to say, sends attributes.
    let begins = |byte: &u8| *byte < b' ' && !byte.is_ascii_whitespace();
    if !known && !arguments.first().is_some_and(begins) {
        return Some(arguments);
    }
    let mut reader = Reader(arguments);
    let (n_parameters, _n_sets) = (reader.integer()?, reader.integer()?);
    if n_parameters == 0 {
        return Some(reader.0);
    }
    // More are no query's: the attributes of MySQL's own clients are at most 32.
    let n_parameters = usize::try_from(n_parameters).ok().filter(|n| *n <= 1024)?;
    let nulls = reader.take(n_parameters.div_ceil(8))?;
    if reader.byte()? != 1 {
        return None;
    }
    let mut kinds = Vec::with_capacity(n_parameters);
    for _ in 0..n_parameters {
        kinds.push(reader.u16()? as u8);
        reader.string()?;
    }
    for (at, kind) in kinds.into_iter().enumerate() {
        if nulls[at / 8] >> (at % 8) & 1 == 1 {
            continue;
        }
        match kind {
            1 => reader.take(1)?,
            2 | 13 => reader.take(2)?,
            3 | 4 | 9 => reader.take(4)?,
            5 | 8 => reader.take(8)?,
            6 => &[],
            7 | 10..=12 => {
                let len = reader.byte()?;
                reader.take(len.into())?
            }
            _ => reader.string()?,
        };
    }
    Some(reader.0)
}

/// The database that a `USE` statement names.
pub fn used_database(sql: &[u8]) -> Option<Bytes> {
    let (word, rest) = sql.trim_ascii_start().split_at_checked(3)?;
    if !word.eq_ignore_ascii_case(b"USE")
        || !rest.first()?.is_ascii_whitespace() && rest.first() != Some(&b'`')
    {
        return None;
    }
    let rest = rest.trim_ascii();
    let rest = rest.strip_suffix(b";").unwrap_or(rest).trim_ascii_end();
    let quoted = rest.strip_prefix(b"`").and_then(|rest| rest.strip_suffix(b"`"));
    let name = quoted.unwrap_or(rest);
    let is_plain =
        |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | b'-') || *byte >= 0x80;
    // An identifier has 64 characters at most.
    (!name.is_empty() && name.len() <= 256 && name.iter().all(is_plain)).then(|| Bytes::copy_from_slice(name))
}

/// Words with which statements begin.
const FIRST_WORDS: &[&str] = &[
    "ALTER",
    "ANALYZE",
    "BEGIN",
    "BINLOG",
    "CACHE",
    "CALL",
    "CHANGE",
    "CHECK",
    "CHECKSUM",
    "COMMIT",
    "CREATE",
    "DEALLOCATE",
    "DELETE",
    "DESC",
    "DESCRIBE",
    "DO",
    "DROP",
    "EXECUTE",
    "EXPLAIN",
    "FLUSH",
    "GRANT",
    "HANDLER",
    "HELP",
    "INSERT",
    "INSTALL",
    "KILL",
    "LOAD",
    "LOCK",
    "OPTIMIZE",
    "PREPARE",
    "PURGE",
    "RELEASE",
    "RENAME",
    "REPAIR",
    "REPLACE",
    "RESET",
    "REVOKE",
    "ROLLBACK",
    "SAVEPOINT",
    "SELECT",
    "SET",
    "SHOW",
    "SHUTDOWN",
    "SIGNAL",
    "START",
    "STOP",
    "TABLE",
    "TRUNCATE",
    "UNINSTALL",
    "UNLOCK",
    "UPDATE",
    "USE",
    "VALUES",
    "WITH",
    "XA",
];

/// Whether a text begins like a statement: comments, parentheses, a known word. `is_whole`: nothing follows.
fn begins_like_sql(text: &[u8], is_whole: bool) -> Seen<()> {
    let short = if is_whole { Seen::No } else { Seen::Partial };
    let mut rest = text;
    loop {
        rest = rest.trim_ascii_start();
        if let Some(inner) = rest.strip_prefix(b"(") {
            rest = inner;
        } else if let Some(inner) = rest.strip_prefix(b"/*") {
            let Some(end) = inner.windows(2).position(|two| two == b"*/") else { return short };
            rest = &inner[end + 2..];
        } else if rest.starts_with(b"-- ") || rest.starts_with(b"#") {
            let Some(end) = rest.iter().position(|&byte| byte == b'\n') else { return short };
            rest = &rest[end..];
        } else {
            break;
        }
    }
    if matches!(rest, b"/" | b"-" | b"--") {
        return short;
    }
    let n_word = rest.iter().position(|byte| !byte.is_ascii_alphabetic()).unwrap_or(rest.len());
    let word = &rest[..n_word];
    let is_first = |first: &&str| first.as_bytes().eq_ignore_ascii_case(word);
    let may_be =
        |first: &&str| first.len() >= n_word && first.as_bytes()[..n_word].eq_ignore_ascii_case(word);
    match rest.get(n_word) {
        None if is_whole && FIRST_WORDS.iter().any(&is_first) => Seen::Yes(()),
        None if !is_whole && FIRST_WORDS.iter().any(may_be) => Seen::Partial,
        Some(b' ' | b'\t' | b'\r' | b'\n' | b';' | b'(' | b'`' | b'*' | b'/' | b'@')
            if FIRST_WORDS.iter().any(&is_first) =>
        {
            Seen::Yes(())
        }
        _ => Seen::No,
    }
}

/// A command that is beyond doubt at a place where one may begin. `alone`: nothing says that one may: only what no other
/// protocol could send is taken for one.
pub fn certain_command(buf: &[u8], alone: bool) -> Seen<()> {
    let Some(header) = Header::of(buf) else { return Seen::Partial };
    if header.seq != 0 || header.len == 0 {
        return Seen::No;
    }
    let payload = &buf[HEADER..buf.len().min(HEADER + header.len)];
    let Some((&command, arguments)) = payload.split_first() else { return Seen::Partial };
    let is_whole = payload.len() == header.len;
    let by_length = |fits: bool| if fits && !alone { Seen::Yes(()) } else { Seen::No };
    match (command, header.len) {
        (QUERY, 2..) => match behind_attributes(arguments, false) {
            Some(text) => begins_like_sql(text, is_whole),
            None if is_whole || arguments.len() > MAX_ATTRIBUTES => Seen::No,
            None => Seen::Partial,
        },
        (PREPARE, 2..) => begins_like_sql(arguments, is_whole),
        (EXECUTE, 10..) => match arguments {
            // Statement, flags, and an iteration count that is always 1.
            [_, _, _, _, ..=0x0f, 1, 0, 0, 0, ..] => Seen::Yes(()),
            _ if arguments.get(4).is_some_and(|flags| *flags > 0x0f) => Seen::No,
            _ if arguments.len() < 9 => Seen::Partial,
            _ => Seen::No,
        },
        // QUIT, STATISTICS, PROCESS_INFO, DEBUG, PING, RESET_CONNECTION; INIT_DB, FIELD_LIST, CREATE_DB, DROP_DB,
        // CHANGE_USER; REFRESH, SHUTDOWN; KILL, STMT_CLOSE, STMT_RESET; STMT_FETCH; SET_OPTION.
        (0x01 | 0x09 | 0x0a | 0x0d | 0x0e | 0x1f, len) => by_length(len == 1),
        (0x02 | 0x04 | 0x05 | 0x06, len) => by_length((2..=1024).contains(&len)),
        (0x11, len) => by_length((3..=4096).contains(&len)),
        (0x07 | 0x08, len) => by_length(len <= 2),
        (0x0c | 0x19 | 0x1a, len) => by_length(len == 5),
        (0x1c, len) => by_length(len == 9),
        (0x1b, len) => by_length(len == 3),
        // BINLOG_DUMP, REGISTER_SLAVE, BINLOG_DUMP_GTID; STMT_SEND_LONG_DATA and MariaDB's STMT_BULK_EXECUTE.
        (0x12 | 0x15 | 0x1e, len) => by_length((11..=4096).contains(&len)),
        (0x18 | 0xfa, len) => by_length(len >= 7),
        _ => Seen::No,
    }
}
