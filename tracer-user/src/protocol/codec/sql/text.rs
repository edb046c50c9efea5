//! The text of a fingerprint, written token by token. What it writes, it writes the same when it is read again.

use bytes::Bytes;

use super::{Dialect, MAX_DEPTH, MAX_TEXT, lexer::Kind, lexer::Token, words::Word};

/// What was written last: decides on spaces, and on what the next token can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Prev {
    Start,
    Semicolon,
    Open,
    Close,
    Comma,
    Dot,
    Cast,
    Op,
    /// A keyword behind which an operand comes.
    Key(Word),
    /// A name, or a keyword that may be one.
    Name(Word),
    Literal,
    Param,
}

/// What stands in parentheses.
#[derive(Clone, Copy, Debug)]
struct Frame {
    /// Several elements become one.
    is_list: bool,
    /// The first row of `VALUES`.
    is_row: bool,
    /// Nothing but values and simple lists so far.
    simple: bool,
    /// End of the first element.
    first_end: Option<usize>,
}

/// A sign that belongs to a number, if one follows.
#[derive(Clone, Copy, Debug)]
struct Sign {
    len: usize,
    prev: Prev,
    simple: bool,
}

/// The value that `SET` gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Setting {
    /// The statement sets nothing.
    None,
    /// A name comes first.
    Name,
    /// The value comes.
    Value,
    /// The value was written; its rest is left out.
    Rest,
}

/// Rows of `VALUES`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rows {
    None,
    /// Behind a row.
    Row,
    /// Behind the comma behind it, which is not written yet.
    Comma,
    /// In a row that is left out, so deep.
    Skip(u32),
}

pub(super) struct Text {
    out: Vec<u8>,
    is_mysql: bool,
    /// There is no room.
    full: bool,
    prev: Prev,
    frames: Vec<Frame>,
    /// Parentheses that are open and have no frame.
    too_deep: usize,
    sign: Option<Sign>,
    rows: Rows,
    setting: Setting,
    /// Words of the statement so far, up to 2, and the first of them.
    n_words: u8,
    verb: Word,
    /// What is set here belongs to a role, a database or the server.
    alters_settings: bool,
    /// The next name is a savepoint's.
    savepoint: bool,
    /// A statement has ended.
    semicolon: bool,
}

impl Text {
    pub(super) fn new(dialect: Dialect, len: usize) -> Self {
        Text {
            // What is written can be longer than what was read: spaces.
            out: Vec::with_capacity((len + len / 4 + 8).min(MAX_TEXT)),
            is_mysql: dialect.is_mysql(),
            full: false,
            prev: Prev::Start,
            frames: Vec::new(),
            too_deep: 0,
            sign: None,
            rows: Rows::None,
            setting: Setting::None,
            n_words: 0,
            verb: Word::Name,
            alters_settings: false,
            savepoint: false,
            semicolon: false,
        }
    }

    /// Nothing that comes can change the text.
    pub(super) fn is_over(&self) -> bool {
        self.full && self.frames.is_empty()
    }

    pub(super) fn token(&mut self, token: &Token, raw: &[u8]) {
        if token.kind == Kind::Semicolon {
            return self.end_statement();
        }
        if self.is_left_out(token.kind) {
            return;
        }
        if std::mem::take(&mut self.semicolon) && !matches!(self.prev, Prev::Start | Prev::Semicolon) {
            self.write(b";", false);
            self.prev = Prev::Semicolon;
        }
        if self.setting == Setting::Value {
            self.setting = Setting::Rest;
            self.too_deep = usize::from(matches!(token.kind, Kind::Open(_)));
            return self.literal();
        }
        let sign = self.sign.take();
        match token.kind {
            Kind::Word(word) => self.word(word, raw),
            Kind::Quoted if self.is_secret() => self.literal(),
            Kind::Quoted if std::mem::take(&mut self.savepoint) => self.literal(),
            Kind::Quoted => {
                self.not_simple();
                self.write(raw, self.is_apart());
                self.prev = Prev::Name(Word::Name);
            }
            Kind::Literal => self.literal(),
            Kind::Number => {
                if let Some(sign) = sign {
                    self.take_back(sign);
                }
                self.literal();
            }
            Kind::Param => {
                self.write(raw, self.is_apart());
                self.prev = Prev::Param;
            }
            Kind::Open(bracket) => self.open(bracket, raw),
            Kind::Close(_) => self.close(raw),
            Kind::Comma => {
                self.element_ends();
                self.write(raw, false);
                self.prev = Prev::Comma;
            }
            Kind::Dot => {
                self.not_simple();
                self.write(raw, !self.is_operand() && self.is_apart());
                self.prev = Prev::Dot;
            }
            Kind::Cast => {
                // A cast leaves a value a value.
                self.write(raw, !self.is_operand() && self.is_apart());
                self.prev = Prev::Cast;
            }
            Kind::Op | Kind::Semicolon => self.operator(raw, sign),
        }
    }

    /// The text.
    pub(super) fn finish(mut self) -> (Bytes, bool) {
        if let Some(sign) = self.sign.take() {
            self.take_back(sign);
        }
        // A list that was cut off is a list all the same.
        let simple_from = self.frames.iter().rposition(|frame| !frame.simple).map_or(0, |at| at + 1);
        let list = self.frames[simple_from..].iter().find(|frame| frame.is_list && frame.first_end.is_some());
        if let Some(end) = list.and_then(|frame| frame.first_end) {
            self.out.truncate(end);
        }
        (Bytes::from(self.out), self.full)
    }

    fn end_statement(&mut self) {
        if let Some(sign) = self.sign.take() {
            self.take_back(sign);
        }
        self.semicolon = true;
        self.frames.clear();
        self.too_deep = 0;
        self.rows = Rows::None;
        self.setting = Setting::None;
        (self.n_words, self.verb, self.alters_settings, self.savepoint) = (0, Word::Name, false, false);
    }

    /// Rows behind the first, and the rest of a value that is set.
    fn is_left_out(&mut self, kind: Kind) -> bool {
        match (self.rows, kind) {
            (Rows::None, _) => {}
            (Rows::Row, Kind::Comma) => {
                self.rows = Rows::Comma;
                return true;
            }
            (Rows::Comma, Kind::Open(b'(')) => {
                self.rows = Rows::Skip(1);
                return true;
            }
            (Rows::Comma, _) => {
                self.rows = Rows::None;
                self.element_ends();
                self.write(b",", false);
                self.prev = Prev::Comma;
            }
            (Rows::Row, _) => self.rows = Rows::None,
            (Rows::Skip(depth), Kind::Open(_)) => self.rows = Rows::Skip(depth.saturating_add(1)),
            (Rows::Skip(1), Kind::Close(_)) => self.rows = Rows::Row,
            (Rows::Skip(depth), Kind::Close(_)) => self.rows = Rows::Skip(depth - 1),
            (Rows::Skip(_), _) => {}
        }
        if matches!(self.rows, Rows::Skip(_) | Rows::Row) {
            return true;
        }
        if self.setting == Setting::Rest {
            match kind {
                Kind::Open(_) => self.too_deep += 1,
                Kind::Close(_) => self.too_deep = self.too_deep.saturating_sub(1),
                // MySQL sets several things in one statement; in PostgreSQL, commas are the value's.
                Kind::Comma if self.is_mysql && self.too_deep == 0 => {
                    self.setting = Setting::Name;
                    return false;
                }
                _ => {}
            }
            return true;
        }
        false
    }

    fn word(&mut self, word: Word, raw: &[u8]) {
        if self.n_words < 2 {
            self.n_words += 1;
            self.begin_statement(word);
        }
        match word {
            Word::True | Word::False | Word::Null if self.takes_value() => return self.literal(),
            // SET … TO is no keyword's place but this.
            Word::To if self.setting == Setting::Name => self.setting = Setting::Value,
            Word::Set if self.alters_settings => self.setting = Setting::Name,
            Word::To if self.verb == Word::Rollback => self.savepoint = true,
            Word::Savepoint | Word::Release => {}
            _ if self.savepoint => {
                self.savepoint = false;
                return self.literal();
            }
            _ => {}
        }
        // The type behind a cast is the value's.
        if self.prev != Prev::Cast {
            self.not_simple();
        }
        self.write(raw, self.is_apart());
        self.prev = if takes_operand(word) { Prev::Key(word) } else { Prev::Name(word) };
    }

    fn begin_statement(&mut self, word: Word) {
        if self.n_words == 1 {
            self.verb = word;
            self.setting = if word == Word::Set { Setting::Name } else { Setting::None };
            self.savepoint = matches!(word, Word::Savepoint | Word::Release);
        } else if self.verb == Word::Alter {
            self.alters_settings = matches!(word, Word::Role | Word::User | Word::Database | Word::System);
        }
    }

    fn literal(&mut self) {
        if self.prev == Prev::Literal {
            // Strings side by side are one.
            return;
        }
        self.write(b"?", self.is_apart());
        self.prev = Prev::Literal;
    }

    fn open(&mut self, bracket: u8, raw: &[u8]) {
        let is_apart = match (bracket, self.prev) {
            (_, Prev::Name(_)) => false,
            (b'[', Prev::Close | Prev::Literal | Prev::Param) => false,
            _ => self.is_apart(),
        };
        let is_row = bracket == b'(' && self.prev == Prev::Key(Word::Values);
        let is_list = bracket == b'[' || self.prev == Prev::Key(Word::In);
        self.write(raw, is_apart);
        self.prev = Prev::Open;
        if self.frames.len() >= MAX_DEPTH {
            self.too_deep += 1;
            self.not_simple();
        } else {
            self.frames.push(Frame { is_list, is_row, simple: true, first_end: None });
        }
    }

    fn close(&mut self, raw: &[u8]) {
        if self.too_deep > 0 {
            self.too_deep -= 1;
        } else if let Some(frame) = self.frames.pop() {
            if let Some(end) = frame.first_end.filter(|_| frame.is_list && frame.simple) {
                self.out.truncate(end);
                self.full = false;
            }
            if !frame.simple {
                self.not_simple();
            }
            if frame.is_row {
                self.rows = Rows::Row;
            }
        }
        self.write(raw, false);
        self.prev = Prev::Close;
    }

    fn operator(&mut self, raw: &[u8], sign: Option<Sign>) {
        let is_sign = matches!(raw, b"-" | b"+") && self.takes_value_or_starts();
        if is_sign && !self.full {
            let simple = self.frames.last().is_none_or(|frame| frame.simple);
            // Of several signs the first.
            self.sign = sign.or(Some(Sign { len: self.out.len(), prev: self.prev, simple }));
        }
        self.not_simple();
        self.write(raw, self.is_apart());
        self.prev = Prev::Op;
        if self.setting == Setting::Name && matches!(raw, b"=" | b":=") {
            self.setting = Setting::Value;
        }
    }

    fn take_back(&mut self, sign: Sign) {
        self.out.truncate(sign.len);
        self.full = false;
        self.prev = sign.prev;
        if let Some(frame) = self.frames.last_mut() {
            frame.simple = sign.simple;
        }
    }

    fn element_ends(&mut self) {
        let full = self.full;
        if let Some(frame) = self.frames.last_mut()
            && self.too_deep == 0
            && !full
        {
            frame.first_end.get_or_insert(self.out.len());
        }
    }

    fn not_simple(&mut self) {
        if let Some(frame) = self.frames.last_mut() {
            frame.simple = false;
        }
    }

    /// A name in quotes here would be a mistaken password.
    fn is_secret(&self) -> bool {
        let follows =
            matches!(self.prev, Prev::Name(Word::Password | Word::Identified) | Prev::Key(Word::By));
        follows && matches!(self.verb, Word::Create | Word::Alter | Word::Grant | Word::Set)
    }

    /// A value may stand here, and a word that is one is a value.
    fn takes_value(&self) -> bool {
        match self.prev {
            Prev::Open | Prev::Comma | Prev::Op => true,
            Prev::Key(word) => !matches!(word, Word::Is | Word::Not | Word::Set),
            _ => false,
        }
    }

    fn takes_value_or_starts(&self) -> bool {
        matches!(self.prev, Prev::Start | Prev::Semicolon | Prev::Key(_)) || self.takes_value()
    }

    fn is_operand(&self) -> bool {
        matches!(self.prev, Prev::Close | Prev::Name(_) | Prev::Key(_) | Prev::Literal | Prev::Param)
    }

    /// A space stands before what is no punctuation.
    fn is_apart(&self) -> bool {
        !matches!(self.prev, Prev::Start | Prev::Open | Prev::Dot | Prev::Cast)
    }

    fn write(&mut self, bytes: &[u8], is_apart: bool) {
        if self.full || self.out.len() + usize::from(is_apart) + bytes.len() > MAX_TEXT {
            self.full = true;
            return;
        }
        if is_apart {
            self.out.push(b' ');
        }
        self.out.extend_from_slice(bytes);
    }
}

/// An operand comes behind the word: no name, whose parenthesis would hold arguments and whose minus would subtract.
fn takes_operand(word: Word) -> bool {
    matches!(
        word,
        Word::Key
            | Word::All
            | Word::As
            | Word::By
            | Word::Distinct
            | Word::Except
            | Word::Exists
            | Word::From
            | Word::Having
            | Word::In
            | Word::Intersect
            | Word::Into
            | Word::Is
            | Word::Join
            | Word::Limit
            | Word::Not
            | Word::On
            | Word::Returning
            | Word::Select
            | Word::Set
            | Word::Union
            | Word::Using
            | Word::Values
            | Word::Where
            | Word::With
    )
}
