//! A command of Redis as it is shown: its name, keys and fields as sent, a `?` for everything else (`SET user:1 ?`). Only what the
//! command's specification says are keys or fields is kept.

use std::borrow::Cow;

use bytes::Bytes;

use super::{
    head::Parse,
    redis_commands::{Act, Command, Keys, find, find_sub, may_begin},
    resp,
};

/// Longest text; the rest is cut off.
pub const MAX_TEXT: usize = 256;
/// What stands for what was cut off.
const ELLIPSIS: &[u8] = b"...";
/// Longest name of a command that is not in the table.
const MAX_UNKNOWN: usize = 24;
/// Arguments that are remembered.
const N_FIRST: usize = 3;

/// A command whose arguments come one by one.
pub struct Statement<'a> {
    n_args: usize,
    /// Arguments so far.
    n_seen: usize,
    /// The command, once it is known; of a container command, itself until its second word is there.
    pub command: Option<&'static Command>,
    first: [Option<&'a [u8]>; N_FIRST],
    text: Vec<u8>,
    /// Which arguments are keys, for those commands that say it on the way.
    counted: std::ops::Range<usize>,
    /// Options of a command on streams: the next argument is a value of one.
    in_option: bool,
    in_streams: bool,
    /// It says that it waits.
    blocks: bool,
    is_cut: bool,
}

impl<'a> Statement<'a> {
    /// Of so many arguments, the name included.
    pub fn new(n_args: usize) -> Self {
        Statement {
            n_args,
            n_seen: 0,
            command: None,
            first: [None; N_FIRST],
            text: Vec::new(),
            counted: 0..0,
            in_option: false,
            in_streams: false,
            blocks: false,
            is_cut: false,
        }
    }

    /// What the next argument says has to be known.
    pub fn wants(&self) -> bool {
        let at = self.n_seen;
        let Some(command) = self.command else { return at == 0 };
        match command.act {
            Act::Container if at == 1 => return true,
            Act::Select | Act::Hello | Act::Replconf if at == 1 => return true,
            Act::Reply if at == 2 => return true,
            _ => {}
        }
        match command.keys {
            Keys::Counted { at: number, .. } if at == number => true,
            Keys::Streams { from } => (at >= from && !self.in_streams) || self.is_key(at),
            _ => self.is_key(at),
        }
    }

    /// No further argument would change anything.
    pub fn is_full(&self) -> bool {
        self.is_cut || (self.text.len() > MAX_TEXT && self.n_seen >= N_FIRST)
    }

    /// The next argument; `None`: it is not known. Only what was wanted is looked at.
    pub fn push(&mut self, argument: Option<&'a [u8]>) {
        let at = self.n_seen;
        if let Some(first) = self.first.get_mut(at) {
            *first = argument;
        }
        if at == 0 {
            self.command = argument.and_then(find);
            if !self.awaits_name() {
                self.name();
            }
            self.n_seen = 1;
            return;
        }
        if at == 1 && self.awaits_name() {
            let sub = self.command.zip(argument).and_then(|(container, name)| find_sub(container, name));
            self.command = sub.or(self.command);
            self.name();
            self.n_seen = 2;
            if sub.is_none() {
                self.word(b"?");
            }
            return;
        }
        let is_key = self.is_key(at);
        if let Some(command) = self.command {
            self.find_keys(command, at, argument);
        }
        match argument {
            Some(key) if is_key => self.word(key),
            None if is_key => self.cut(),
            _ => self.word(b"?"),
        }
        self.n_seen = at + 1;
    }

    /// What follows is not looked at.
    pub fn cut(&mut self) {
        self.is_cut = true;
    }

    /// An argument, if it is one of the first.
    pub fn argument(&self, at: usize) -> &'a [u8] {
        self.first.get(at).copied().flatten().unwrap_or_default()
    }

    /// Its channels, keys and other arguments, without the name.
    pub fn n_arguments(&self) -> usize {
        self.n_args.saturating_sub(1)
    }

    /// It waits for others by its nature, or because it says so.
    pub fn waits(&self) -> bool {
        self.blocks || self.command.is_some_and(|command| command.act == Act::Blocks)
    }

    /// Name of the operation: in upper case, with its subcommand; `_OTHER` if it is unknown and not letters only.
    pub fn operation(&self) -> Cow<'static, str> {
        match self.command {
            Some(command) => Cow::Borrowed(command.name),
            None => unknown(self.argument(0)).map_or(Cow::Borrowed("_OTHER"), Cow::Owned),
        }
    }

    /// The text, in at most [`MAX_TEXT`] bytes.
    pub fn text(mut self) -> Vec<u8> {
        if self.text.len() > MAX_TEXT || self.is_cut {
            self.text.truncate(MAX_TEXT - ELLIPSIS.len());
            self.text.extend_from_slice(ELLIPSIS);
        }
        self.text
    }

    fn awaits_name(&self) -> bool {
        self.n_args > 1 && self.command.is_some_and(|command| command.act == Act::Container)
    }

    fn name(&mut self) {
        let name = self.operation();
        self.text.reserve(name.len() + 24);
        self.text.extend_from_slice(name.as_bytes());
    }

    fn word(&mut self, word: &[u8]) {
        if self.text.len() <= MAX_TEXT {
            self.text.push(b' ');
            self.text.extend_from_slice(&word[..word.len().min(MAX_TEXT)]);
        }
    }

    fn is_key(&self, at: usize) -> bool {
        match self.command.map_or(Keys::None, |command| command.keys) {
            Keys::None => false,
            Keys::Range { first, last, step } => {
                let end = match usize::try_from(last) {
                    Ok(last) => last,
                    Err(_) => match self.n_args.checked_sub(last.unsigned_abs()) {
                        Some(last) => last,
                        None => return false,
                    },
                };
                (first..=end).contains(&at) && (at - first).is_multiple_of(step)
            }
            Keys::Fields => at == 1 || (at >= 2 && at.is_multiple_of(2)),
            Keys::Counted { destination, .. } => (destination && at == 1) || self.counted.contains(&at),
            Keys::Streams { .. } => self.counted.contains(&at),
        }
    }

    /// Numbers and words that say where keys stand.
    fn find_keys(&mut self, command: &Command, at: usize, argument: Option<&[u8]>) {
        match command.keys {
            Keys::Counted { at: number, .. } if at == number => {
                let n_keys = argument.and_then(|text| str::from_utf8(text).ok()?.parse().ok()).unwrap_or(0);
                self.counted = at + 1..(at + 1).saturating_add(n_keys).min(self.n_args);
            }
            Keys::Streams { from } if at >= from && !self.in_streams => {
                let word = argument.unwrap_or_default();
                if std::mem::take(&mut self.in_option) {
                    return;
                }
                if word.eq_ignore_ascii_case(b"STREAMS") {
                    self.in_streams = true;
                    self.counted = at + 1..at + 1 + (self.n_args - at - 1) / 2;
                } else {
                    let blocks = word.eq_ignore_ascii_case(b"BLOCK");
                    self.blocks |= blocks;
                    self.in_option = blocks || word.eq_ignore_ascii_case(b"COUNT");
                }
            }
            _ => {}
        }
    }
}

/// The bytes begin a request that is beyond doubt: an array of strings, the first of which is a known command.
pub fn begins_request(buf: &[u8]) -> Parse<()> {
    if buf.first().is_some_and(|&byte| byte != b'*') {
        return Parse::Bad;
    }
    let (n_args, n_line) = match resp::number(buf) {
        Parse::Done(n_args @ 1..=resp::MAX_COUNT, n_line) => (n_args, n_line),
        Parse::Partial => return Parse::Partial,
        Parse::Done(..) | Parse::Bad => return Parse::Bad,
    };
    let rest = &buf[n_line..];
    let (total, n_name) = match resp::argument(rest) {
        Parse::Done(total, n_name) => (total, n_name),
        Parse::Partial => return Parse::Partial,
        Parse::Bad => return Parse::Bad,
    };
    let end = usize::try_from(total).unwrap_or(usize::MAX);
    let Some(name) = rest.get(n_name..end - 2) else {
        let may_be = may_begin(&rest[n_name..], end - 2 - n_name);
        return if may_be { Parse::Partial } else { Parse::Bad };
    };
    let Some(command) = find(name) else { return Parse::Bad };
    if rest.len() < end {
        return Parse::Partial;
    }
    // A confirmation begins with the same word as the request; its last element is a number.
    let is_confirmed = matches!(command.act, Act::Subscribe(_) | Act::Unsubscribe(_)) && n_args == 3;
    let mut at = end as u64;
    for _ in 1..n_args.min(3) {
        let rest = usize::try_from(at).ok().and_then(|at| rest.get(at..)).unwrap_or_default();
        match resp::argument(rest) {
            Parse::Done(total, _) => at += total,
            Parse::Partial if is_confirmed => return Parse::Partial,
            Parse::Partial => break,
            Parse::Bad => return Parse::Bad,
        }
    }
    Parse::Done((), n_line + end)
}

/// The number of a database.
pub fn database(text: &[u8]) -> Option<u16> {
    str::from_utf8(text).ok()?.parse().ok()
}

/// The name of a database.
pub fn namespace(db: u16) -> Bytes {
    // A server has 16 unless it is told otherwise.
    const NAMES: [&[u8]; 16] = [
        b"0", b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"8", b"9", b"10", b"11", b"12", b"13", b"14", b"15",
    ];
    NAMES.get(usize::from(db)).map_or_else(|| db.to_string().into(), |name| Bytes::from_static(name))
}

/// The command with which a turn of inline commands begins: a whole line, and its first word a known name.
pub fn begins_inline(turn: &[u8]) -> Option<&'static Command> {
    let line = &turn[..turn.iter().position(|&byte| byte == b'\n')?];
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let is_text = |byte: &u8| *byte >= b' ' || *byte == b'\t';
    let n_word = line.iter().position(u8::is_ascii_whitespace).unwrap_or(line.len());
    if !line.iter().all(is_text) {
        return None;
    }
    find(&line[..n_word])
}

/// Words of an inline command; `None`: its quotes do not close.
pub fn words(mut line: &[u8]) -> Option<usize> {
    let mut n_words = 0;
    while let Some((word, rest)) = next_word(line) {
        n_words += 1;
        line = rest;
        // A quote that does not close takes all there is.
        if rest.is_empty() && matches!(word.first(), Some(b'"' | b'\'')) {
            return None;
        }
    }
    Some(n_words)
}

/// The next word of an inline command, without the quotes around it, and what is behind.
pub fn next_word(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let start = line.iter().position(|byte| !byte.is_ascii_whitespace())?;
    let line = &line[start..];
    let quote = line[0];
    if quote == b'"' || quote == b'\'' {
        let mut escaped = false;
        for (at, &byte) in line.iter().enumerate().skip(1) {
            if byte == quote && !escaped {
                return Some((&line[1..at], &line[at + 1..]));
            }
            escaped = byte == b'\\' && !escaped;
        }
        return Some((line, &[]));
    }
    let end = line.iter().position(u8::is_ascii_whitespace).unwrap_or(line.len());
    Some(line.split_at(end))
}

/// A command that is not in the table: as sent, in upper case, if it is a word of letters.
fn unknown(name: &[u8]) -> Option<String> {
    let is_word = (1..=MAX_UNKNOWN).contains(&name.len()) && name.iter().all(u8::is_ascii_alphabetic);
    is_word.then(|| String::from_utf8_lossy(name).to_ascii_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(line: &str) -> String {
        let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let mut statement = Statement::new(words.len());
        for word in words {
            let known = statement.wants().then_some(word);
            statement.push(known);
        }
        format!(
            "{}{} | {}",
            statement.operation(),
            if statement.waits() { " waits" } else { "" },
            String::from_utf8(statement.text()).unwrap()
        )
    }

    #[test]
    fn only_keys_and_fields_are_shown() {
        for (line, expected) in [
            ("set user:1 secret EX 10", "SET | SET user:1 ? ? ?"),
            ("MSET a 1 b 2", "MSET | MSET a ? b ?"),
            ("HMSET h f1 v1 f2 v2", "HMSET | HMSET h f1 ? f2 ?"),
            ("HGET h f", "HGET | HGET h f"),
            ("HDEL h f g", "HDEL | HDEL h f g"),
            ("DEL a b", "DEL | DEL a b"),
            ("BLPOP a b 0", "BLPOP waits | BLPOP a b ?"),
            ("AUTH user secret", "AUTH | AUTH ? ?"),
            ("HELLO 3 AUTH user secret", "HELLO | HELLO ? ? ? ?"),
            ("EVAL return 2 k1 k2 arg", "EVAL | EVAL ? ? k1 k2 ?"),
            ("ZUNIONSTORE d 2 a b WEIGHTS 1 2", "ZUNIONSTORE | ZUNIONSTORE d ? a b ? ? ?"),
            ("config get dir", "CONFIG GET | CONFIG GET ?"),
            ("CONFIG", "CONFIG | CONFIG"),
            ("CONFIG secret x", "CONFIG | CONFIG ? ?"),
            ("XINFO STREAM s", "XINFO STREAM | XINFO STREAM s"),
            ("XREAD COUNT 2 STREAMS a b 0 0", "XREAD | XREAD ? ? ? a b ? ?"),
            ("XREAD BLOCK 0 STREAMS a 0", "XREAD waits | XREAD ? ? ? a ?"),
            ("XREADGROUP GROUP block me STREAMS a >", "XREADGROUP | XREADGROUP ? ? ? ? a ?"),
            ("nosuch secret", "NOSUCH | NOSUCH ?"),
            ("no-such secret", "_OTHER | _OTHER ?"),
            ("EVAL s 99999999999999999999 a", "EVAL | EVAL ? ? ?"),
        ] {
            assert_eq!(show(line), expected);
        }
    }

    #[test]
    fn texts_are_bounded() {
        let long = show(&format!("DEL {}", "key ".repeat(200).trim_end()));
        assert_eq!(long.split_once(" | ").unwrap().1.len(), MAX_TEXT);
        assert!(long.ends_with("..."));
    }
}
