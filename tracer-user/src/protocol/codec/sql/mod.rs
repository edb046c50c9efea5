//! Fingerprints of SQL statements: the text without its literals, and a summary of what it does to which tables
//! (OpenTelemetry's `db.query.summary`, <https://opentelemetry.io/docs/specs/semconv/db/database-spans/>).
//!
//! A lexer and two listeners, in one pass: no grammar, because statements come cut off, in dialects and in error. What the lexer
//! takes for a literal is never copied: strings of all kinds (an unterminated one goes to the end), numbers, hex and bit strings,
//! dollar quotes, and `TRUE`, `FALSE` and `NULL` where they are values. Each becomes `?`; placeholders stay as they are. Comments and
//! hints go, whitespace is as if written by one hand, lists of values become their first element, all rows of
//! `VALUES` the first row. What `SET` sets is a value too, whatever it looks like; so are names of savepoints, which drivers number.
//!
//! Not handled: `ANSI_QUOTES` (MySQL), so that identifiers in double quotes become `?`, and character sets in which a backslash is half of
//! a character (GBK, Shift JIS, Big5). Bodies of MySQL's stored programs are read as if they were statements. A name in the place of a value is kept: that it
//! is not a name is only known to the server.
//!
//! Bounds: [`MAX_READ`] bytes are looked at, [`MAX_TEXT`] and [`MAX_SUMMARY`] kept, [`MAX_DEPTH`] nested parentheses told apart.

mod lexer;
mod memo;
mod summary;
mod text;
mod words;

use std::borrow::Cow;

use bytes::Bytes;
pub use memo::Memo;

use lexer::Lexer;
use summary::Summary;
use text::Text;

/// Bytes of a statement that are looked at. A statement of more is mostly its values; what differs behind this is one fingerprint.
pub const MAX_READ: usize = 16 * 1024;
/// Bytes of a text, cut at whole tokens: twice what PostgreSQL keeps of one (`track_activity_query_size`).
pub const MAX_TEXT: usize = 2048;
/// Bytes of a summary, cut at whole tokens (OpenTelemetry's bound).
pub const MAX_SUMMARY: usize = 255;
/// Nested parentheses that are told apart; deeper ones are copied without a look at what they are. ORMs stay below 20.
pub const MAX_DEPTH: usize = 64;

/// Which lexical rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// PostgreSQL, with `standard_conforming_strings` on (its default since 9.1).
    Postgres,
    /// PostgreSQL with that off: backslashes escape in all strings.
    PostgresEscapes,
    /// MySQL and MariaDB: double quotes are strings, backslashes escape in them, `#` begins a comment.
    MySql,
    /// The same in the mode `NO_BACKSLASH_ESCAPES`: a backslash is a byte like any other.
    MySqlPlain,
    /// The same, and whether backslashes escape is not known. A string that ends in one place if they do and in another if they do
    /// not takes all of the rest: what may be a literal is not shown.
    MySqlEither,
}

impl Dialect {
    fn is_mysql(self) -> bool {
        matches!(self, Dialect::MySql | Dialect::MySqlPlain | Dialect::MySqlEither)
    }

    /// Backslashes escape in strings without a prefix, or may.
    fn escapes(self) -> bool {
        !matches!(self, Dialect::Postgres | Dialect::MySqlPlain)
    }
}

/// A statement's fingerprint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// `db.query.summary`: operations and tables in the order of the text, at most [`MAX_SUMMARY`] bytes, cut at whole tokens: `SELECT
    /// orders items`; several statements with `; ` in between. Empty if there is no statement, `_OTHER` for words that begin none.
    pub summary: Cow<'static, str>,
    /// The statement without its literals, lists collapsed, whitespace and comments normalised; at most [`MAX_TEXT`] bytes.
    pub text: Bytes,
}

/// The fingerprint of a statement, or of several with `;` in between. Deterministic; any bytes are taken.
pub fn fingerprint(sql: &[u8], dialect: Dialect) -> Statement {
    fingerprint_in(&mut Vec::new(), sql, dialect)
}

/// The same, written where there is room: at most [`MAX_TEXT`] bytes and a few.
fn fingerprint_in(room: &mut Vec<u8>, sql: &[u8], dialect: Dialect) -> Statement {
    let (mut statement, mut is_cut) = read(room, &sql[..sql.len().min(MAX_READ)], dialect);
    // What was cut off or taken back may have made a list what is one no longer, or leave a comma or a semicolon at the end: until it is
    // what it would be if it came as it is.
    for _ in 0..3 {
        if !is_cut {
            break;
        }
        let again = read(room, &statement.text, dialect);
        (statement.text, is_cut) = (again.0.text, again.1);
    }
    statement
}

/// One pass; whether another may give something else.
fn read(room: &mut Vec<u8>, sql: &[u8], dialect: Dialect) -> (Statement, bool) {
    let mut lexer = Lexer::new(sql, dialect);
    let mut text = Text::new(sql, dialect, room);
    let mut summary = Summary::new(sql, dialect);
    while let Some(token) = lexer.next_token() {
        summary.token(&token);
        text.token(&token);
        if text.is_over() && summary.is_full() {
            break;
        }
    }
    let (text, is_cut) = text.finish();
    (Statement { summary: summary.finish(), text }, is_cut)
}

#[cfg(test)]
mod oracle;
#[cfg(test)]
mod tests;
