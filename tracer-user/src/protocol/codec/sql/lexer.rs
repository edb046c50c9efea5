//! Tokens of SQL, by the lexical rules of PostgreSQL or MySQL. Every byte belongs to a token or is skipped; nothing is an error.

use memchr::{memchr, memchr2};

use super::{
    Dialect,
    words::{Word, word},
};

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A word: a keyword, if it is one that matters here, or a name.
    Word(Word),
    /// A name in quotes.
    Quoted,
    /// A string or a number: its bytes go nowhere.
    Literal,
    /// A number that may have a sign before it.
    Number,
    /// `?`, `$1` or `:name`.
    Param,
    /// `(` or `[`.
    Open(u8),
    /// `)` or `]`.
    Close(u8),
    Comma,
    Semicolon,
    Dot,
    /// `::`.
    Cast,
    /// Anything else.
    Op,
}

/// A token and where it stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) start: usize,
    pub(super) end: usize,
}

/// Reads tokens.
pub(super) struct Lexer<'a> {
    sql: &'a [u8],
    at: usize,
    dialect: Dialect,
    /// Where the last word or quoted name ended: a dot right behind it belongs to it.
    name_end: usize,
}

/// What a byte may begin.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Class {
    Space,
    Letter,
    Digit,
    Quote,
    DoubleQuote,
    Backtick,
    Dollar,
    Colon,
    Question,
    Dot,
    Open,
    Close,
    Comma,
    Semicolon,
    At,
    Hash,
    Op,
    Other,
}

static CLASSES: [Class; 256] = {
    let mut classes = [Class::Other; 256];
    let mut byte = 0;
    while byte < 256 {
        classes[byte] = match byte as u8 {
            0..=b' ' | 0x7f => Class::Space,
            b'a'..=b'z' | b'A'..=b'Z' | b'_' | 0x80..=0xff => Class::Letter,
            b'0'..=b'9' => Class::Digit,
            b'\'' => Class::Quote,
            b'"' => Class::DoubleQuote,
            b'`' => Class::Backtick,
            b'$' => Class::Dollar,
            b':' => Class::Colon,
            b'?' => Class::Question,
            b'.' => Class::Dot,
            b'(' | b'[' => Class::Open,
            b')' | b']' => Class::Close,
            b',' => Class::Comma,
            b';' => Class::Semicolon,
            b'@' => Class::At,
            b'#' => Class::Hash,
            b'+' | b'-' | b'*' | b'/' | b'<' | b'>' | b'=' | b'~' | b'!' | b'%' | b'^' | b'&' | b'|' => {
                Class::Op
            }
            _ => Class::Other,
        };
        byte += 1;
    }
    classes
};

fn class(byte: u8) -> Class {
    CLASSES[byte as usize]
}

/// A letter, a digit or a dollar; in a form that is computed for 16 bytes at once.
#[inline]
fn is_word(byte: u8) -> bool {
    ((byte | 0x20).wrapping_sub(b'a') < 26)
        | (byte.wrapping_sub(b'0') < 10)
        | (byte == b'_')
        | (byte == b'$')
        | (byte >= 0x80)
}

/// Whether what stands directly behind a number is the prefix of a string: what is escaped in the string depends on it.
fn ends_in_a_prefix(number: &[u8]) -> bool {
    let [digits @ .., last @ (b'0'..=b'9' | b'.'), b'e' | b'E'] = number else { return false };
    let is_of_a_number = |byte: &u8| matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-');
    digits.iter().chain([last]).all(is_of_a_number)
}

/// How many of the bytes go on, up to the first that does not.
#[inline]
fn run(bytes: &[u8; 16], goes_on: impl Fn(u8) -> bool) -> usize {
    let mut stops = [0; 16];
    // Compiled to a few instructions for all of them.
    for (stop, &byte) in stops.iter_mut().zip(bytes) {
        *stop = if goes_on(byte) { 0 } else { 0xff };
    }
    u128::from_le_bytes(stops).trailing_zeros() as usize / 8
}

/// Where a byte that does not go on stands first, from `at` on; or the end.
#[inline]
fn run_end(sql: &[u8], mut at: usize, goes_on: impl Fn(u8) -> bool) -> usize {
    while let Some(bytes) = sql.get(at..).and_then(|rest| rest.first_chunk()) {
        let n = run(bytes, &goes_on);
        at += n;
        if n < bytes.len() {
            return at;
        }
    }
    while sql.get(at).is_some_and(|&byte| goes_on(byte)) {
        at += 1;
    }
    at
}

/// Where one of two bytes stands first, from `at` on; or the end. Most strings are short: those are not worth a call.
#[inline]
fn find(sql: &[u8], mut at: usize, one: u8, other: u8) -> usize {
    let Some(rest) = sql.get(at..) else { return sql.len() };
    if let Some(bytes) = rest.first_chunk() {
        let n = run(bytes, |byte| (byte != one) & (byte != other));
        if n < bytes.len() {
            return at + n;
        }
        at += n;
    }
    memchr2(one, other, &sql[at..]).map_or(sql.len(), |n| at + n)
}

impl<'a> Lexer<'a> {
    pub(super) fn new(sql: &'a [u8], dialect: Dialect) -> Self {
        Lexer { sql, at: 0, dialect, name_end: usize::MAX }
    }

    fn is_mysql(&self) -> bool {
        self.dialect.is_mysql()
    }

    fn peek(&self, ahead: usize) -> u8 {
        self.sql.get(self.at + ahead).copied().unwrap_or(0)
    }

    /// The next token.
    #[inline]
    pub(super) fn next_token(&mut self) -> Option<Token> {
        self.skip_space();
        let start = self.at;
        let first = *self.sql.get(start)?;
        let kind = match class(first) {
            Class::Letter => self.word(),
            Class::Digit => self.number(),
            Class::Quote => self.string(start, b'\'', self.dialect.escapes()),
            Class::DoubleQuote if self.is_mysql() => self.string(start, b'"', self.dialect.escapes()),
            Class::DoubleQuote => self.quoted(start, b'"'),
            Class::Backtick if self.is_mysql() => self.quoted(start, b'`'),
            Class::Dollar => self.dollar(),
            Class::Colon => self.colon(),
            Class::Question => self.single(Kind::Param),
            Class::Dot if class(self.peek(1)) == Class::Digit && self.name_end != start => self.number(),
            Class::Dot => self.single(Kind::Dot),
            Class::Open => self.single(Kind::Open(first)),
            Class::Close => self.single(Kind::Close(first)),
            Class::Comma => self.single(Kind::Comma),
            Class::Semicolon => self.single(Kind::Semicolon),
            Class::At if self.is_mysql() => self.variable(),
            Class::Op | Class::At | Class::Hash | Class::Backtick => self.operator(),
            Class::Space | Class::Other => self.single(Kind::Op),
        };
        if matches!(kind, Kind::Word(_) | Kind::Quoted) {
            self.name_end = self.at;
        }
        Some(Token { kind, start, end: self.at })
    }

    fn single(&mut self, kind: Kind) -> Kind {
        self.at += 1;
        kind
    }

    /// Whitespace and comments.
    #[inline]
    fn skip_space(&mut self) {
        while let Some(&byte) = self.sql.get(self.at) {
            match byte {
                0..=b' ' | 0x7f => self.at += 1,
                b'-' | b'/' | b'#' | b'*' => match self.comment() {
                    0 => return,
                    len => self.at += len,
                },
                _ => return,
            }
        }
    }

    /// Bytes of the comment here; 0 if there is none.
    fn comment(&self) -> usize {
        let rest = &self.sql[self.at..];
        let line = || memchr(b'\n', rest).map_or(rest.len(), |end| end + 1);
        match (rest[0], rest.get(1)) {
            // MySQL takes `--` for a comment only with whitespace behind it.
            (b'-', Some(b'-')) if !self.is_mysql() || rest.get(2).is_none_or(|byte| *byte <= b' ') => line(),
            (b'#', _) if self.is_mysql() => line(),
            (b'/', Some(b'*')) if self.is_mysql() => {
                let is_maria = rest.get(2) == Some(&b'M') && rest.get(3) == Some(&b'!');
                if rest.get(2) == Some(&b'!') || is_maria {
                    // Its contents are executed, from a version on: they are no comment.
                    let from = if is_maria { 4 } else { 3 };
                    return from + rest[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
                }
                let end = rest[2..].windows(2).position(|window| window == b"*/");
                end.map_or(rest.len(), |end| end + 4)
            }
            (b'/', Some(b'*')) => nested(rest),
            // The end of contents that were executed.
            (b'*', Some(b'/')) if self.is_mysql() => 2,
            _ => 0,
        }
    }

    #[inline]
    fn word(&mut self) -> Kind {
        let start = self.at;
        let at = run_end(self.sql, start + 1, is_word);
        self.at = at;
        let next = self.peek(0);
        if at == start + 1 && matches!(next, b'\'' | b'&') {
            // A prefix belongs to the string behind it.
            match (self.sql[start] | 0x20, next) {
                (b'e', b'\'') if !self.is_mysql() => return self.string(at, b'\'', true),
                (b'b' | b'x' | b'n', b'\'') => {
                    return self.string(at, b'\'', self.dialect.escapes());
                }
                (b'u', b'&') if !self.is_mysql() && self.peek(1) == b'\'' => {
                    return self.string(at + 1, b'\'', self.dialect.escapes());
                }
                (b'u', b'&') if !self.is_mysql() && self.peek(1) == b'"' => {
                    return self.quoted(at + 1, b'"');
                }
                _ => {}
            }
        }
        Kind::Word(word(self.sql, start, at))
    }

    /// A string whose opening quote is at `open`, to its end or the end of all.
    #[inline]
    fn string(&mut self, open: usize, quote: u8, escapes: bool) -> Kind {
        let end = self.string_end(open, quote, escapes);
        // Each reading passes over a string once: what is read twice is no more than the text.
        let is_certain =
            self.dialect != Dialect::MySqlEither || !escapes || self.string_end(open, quote, false) == end;
        self.at = if is_certain { end } else { self.sql.len() };
        Kind::Literal
    }

    /// Where the string ends whose opening quote is at `open`.
    #[inline]
    fn string_end(&self, open: usize, quote: u8, escapes: bool) -> usize {
        let escape = if escapes { b'\\' } else { quote };
        let mut at = open + 1;
        loop {
            at = find(self.sql, at, quote, escape);
            // What is behind a backslash, and the second of two quotes, belong to the string.
            match self.sql.get(at) {
                Some(&byte) if byte != quote => at += 2,
                Some(_) if self.sql.get(at + 1) == Some(&quote) => at += 2,
                Some(_) => {
                    at += 1;
                    break;
                }
                None => break,
            }
        }
        at.min(self.sql.len())
    }

    fn quoted(&mut self, open: usize, quote: u8) -> Kind {
        self.string(open, quote, false);
        Kind::Quoted
    }

    /// A number, and whatever stands directly behind it.
    #[inline]
    fn number(&mut self) -> Kind {
        let start = self.at;
        let end = run_end(self.sql, start, |byte| byte.wrapping_sub(b'0') < 10);
        if end > start && self.sql.get(end).is_none_or(|&byte| !is_word(byte) && byte != b'.') {
            self.at = end;
            return Kind::Number;
        }
        self.odd_number()
    }

    fn odd_number(&mut self) -> Kind {
        let start = self.at;
        let is_hex = self.peek(0) == b'0' && self.peek(1) | 0x20 == b'x';
        let mut at = start;
        while let Some(&byte) = self.sql.get(at) {
            let is_exponent = !is_hex && at > start && self.sql[at - 1] | 0x20 == b'e';
            let is_sign = matches!(byte, b'+' | b'-')
                && is_exponent
                && self.sql.get(at + 1).is_some_and(u8::is_ascii_digit);
            // `1..2` is a range.
            let is_point = byte == b'.' && self.sql.get(at + 1) != Some(&b'.');
            // PostgreSQL's parameters and strings in dollar quotes begin there.
            let is_word = is_word(byte) && (byte != b'$' || self.is_mysql());
            if !(is_word || is_sign || is_point) {
                break;
            }
            at += 1;
        }
        if !self.is_mysql() && self.sql.get(at) == Some(&b'\'') && ends_in_a_prefix(&self.sql[start..at]) {
            at -= 1;
        }
        self.at = at.max(start + 1);
        Kind::Number
    }

    /// `$1`, or a string in dollar quotes.
    fn dollar(&mut self) -> Kind {
        if self.is_mysql() {
            return self.word();
        }
        let rest = &self.sql[self.at..];
        let n_digits = rest[1..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        if n_digits > 0 {
            self.at += 1 + n_digits;
            return Kind::Param;
        }
        let n_tag = rest[1..].iter().take_while(|&&byte| is_word(byte) && byte != b'$').count();
        if rest.get(1 + n_tag) != Some(&b'$') {
            // Half a tag, of a text that was cut off: nothing of it is shown.
            self.at += 1 + n_tag;
            return Kind::Literal;
        }
        let tag = &rest[..n_tag + 2];
        let mut from = tag.len();
        // Bounded by the text: each byte is a candidate once, and a tag is compared only where a dollar stands.
        self.at = loop {
            let Some(dollar) = memchr(b'$', &rest[from..]) else {
                break self.sql.len();
            };
            from += dollar;
            if rest[from..].starts_with(tag) {
                break self.at + from + tag.len();
            }
            from += 1;
        };
        Kind::Literal
    }

    /// `::`, `:name`, or a colon.
    fn colon(&mut self) -> Kind {
        if self.peek(1) == b':' {
            self.at += 2;
            return Kind::Cast;
        }
        if class(self.peek(1)) == Class::Letter {
            let end = run_end(self.sql, self.at + 2, is_word);
            let rest = &self.sql[end..];
            // A string's prefix is no parameter's name: what is escaped in the string depends on it.
            if rest.starts_with(b"'") || rest.starts_with(b"&'") {
                return self.single(Kind::Op);
            }
            self.at = end;
            return Kind::Param;
        }
        self.at += if self.peek(1) == b'=' { 2 } else { 1 };
        Kind::Op
    }

    /// `@name`, `@@name`, or an at sign.
    fn variable(&mut self) -> Kind {
        let n_at = if self.peek(1) == b'@' { 2 } else { 1 };
        if !is_word(self.peek(n_at)) {
            return self.single(Kind::Op);
        }
        self.at = run_end(self.sql, self.at + n_at, is_word);
        Kind::Word(Word::Name)
    }

    #[inline]
    fn operator(&mut self) -> Kind {
        if !matches!(class(self.peek(1)), Class::Op | Class::Backtick | Class::At | Class::Hash) {
            return self.single(Kind::Op);
        }
        self.long_operator()
    }

    fn long_operator(&mut self) -> Kind {
        let start = self.at;
        let mut at = start;
        let mut has_special = false;
        while let Some(&byte) = self.sql.get(at) {
            let next = self.sql.get(at + 1).copied();
            match class(byte) {
                Class::Op | Class::Backtick | Class::At | Class::Hash => {}
                _ => break,
            }
            if self.is_mysql() && !matches!(class(byte), Class::Op) {
                break;
            }
            // Comments begin wherever they stand.
            let begins_comment =
                matches!((byte, next), (b'-', Some(b'-')) | (b'/', Some(b'*'))) && !self.is_mysql();
            if at > start && (begins_comment || (self.is_mysql() && matches!(byte, b'-' | b'/' | b'*'))) {
                break;
            }
            has_special |= matches!(byte, b'~' | b'!' | b'@' | b'#' | b'%' | b'^' | b'&' | b'|' | b'`');
            at += 1;
            if self.is_mysql() && matches!(byte, b'+' | b'*' | b'/') {
                break;
            }
            if self.is_mysql() && byte == b'-' {
                while self.sql.get(at) == Some(&b'>') && at < start + 3 {
                    at += 1;
                }
                break;
            }
        }
        // A sign at the end of an operator belongs to what follows, by PostgreSQL's rule.
        while at > start + 1 && !has_special && matches!(self.sql[at - 1], b'+' | b'-') {
            at -= 1;
        }
        self.at = at.max(start + 1);
        Kind::Op
    }
}

/// Bytes of a comment that may hold others.
fn nested(rest: &[u8]) -> usize {
    let mut depth = 0u32;
    let mut at = 0;
    while at < rest.len() {
        match (rest[at], rest.get(at + 1)) {
            (b'/', Some(b'*')) => {
                depth += 1;
                at += 2;
            }
            (b'*', Some(b'/')) => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    rest.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_go_on_with_the_bytes_of_their_classes() {
        for byte in 0..=u8::MAX {
            let is_of_class = matches!(class(byte), Class::Letter | Class::Digit | Class::Dollar);
            assert_eq!(is_word(byte), is_of_class, "{byte:#x}");
            for place in [0, 1, 15, 16, 17, 40] {
                let mut text = [b'a'; 41];
                text[place] = byte;
                let expected = if is_of_class { 41 } else { place };
                assert_eq!(run_end(&text, 0, is_word), expected, "{byte:#x} at {place}");
                let first = if byte == b'a' { 0 } else { place };
                assert_eq!(find(&text, 0, byte, byte), first, "{byte:#x} at {place}");
            }
        }
    }
}
