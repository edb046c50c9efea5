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
#[derive(Clone, Copy, Debug, Default)]
struct Frame {
    /// Several elements become one.
    is_list: bool,
    /// The first row of `VALUES`.
    is_row: bool,
    /// Nothing but values and simple lists so far.
    simple: bool,
    /// End of the first element; 0 before it is there. A text is shorter than this can say.
    first_end: u16,
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

/// Bytes that are copied at once, whatever a token's length is.
const CHUNK: usize = 16;

pub(super) struct Text<'a> {
    sql: &'a [u8],
    /// The text, and room for more: `len` bytes of it count.
    out: &'a mut Vec<u8>,
    len: usize,
    is_mysql: bool,
    /// There is no room.
    full: bool,
    prev: Prev,
    frames: [Frame; MAX_DEPTH],
    /// So many of them count.
    depth: usize,
    /// Parentheses that are open and have no frame.
    too_deep: usize,
    sign: Option<Sign>,
    /// A sign was taken back at the end of a statement.
    lost_sign: bool,
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

impl<'a> Text<'a> {
    /// `out` is where it is written, whatever is there.
    pub(super) fn new(sql: &'a [u8], dialect: Dialect, out: &'a mut Vec<u8>) -> Self {
        Text {
            sql,
            out,
            len: 0,
            is_mysql: dialect.is_mysql(),
            full: false,
            prev: Prev::Start,
            frames: [Frame::default(); MAX_DEPTH],
            depth: 0,
            too_deep: 0,
            sign: None,
            lost_sign: false,
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
        self.full && self.depth == 0
    }

    #[inline]
    pub(super) fn token(&mut self, token: &Token) {
        let is_plain = self.rows == Rows::None && self.setting == Setting::None && !self.savepoint;
        if token.kind == Kind::Word(Word::Name) && is_plain && self.n_words >= 2 && !self.semicolon {
            // Most words: columns and the like. What follows says the same of all tokens.
            self.sign = None;
            if self.prev != Prev::Cast {
                self.not_simple();
            }
            self.copy(token, self.is_apart());
            self.prev = Prev::Name(Word::Name);
            return;
        }
        if token.kind == Kind::Semicolon {
            return self.end_statement();
        }
        let may_be_left_out = self.rows != Rows::None || self.setting == Setting::Rest;
        if may_be_left_out && self.is_left_out(token.kind) {
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
            Kind::Word(word) => self.word(word, token),
            Kind::Quoted if self.is_secret() => self.literal(),
            Kind::Quoted if std::mem::take(&mut self.savepoint) => self.literal(),
            Kind::Quoted => {
                self.not_simple();
                self.copy(token, self.is_apart());
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
                self.copy(token, self.is_apart());
                self.prev = Prev::Param;
            }
            Kind::Open(bracket) => self.open(bracket, token),
            Kind::Close(_) => self.close(token),
            Kind::Comma => {
                self.element_ends();
                self.copy(token, false);
                self.prev = Prev::Comma;
            }
            Kind::Dot => {
                self.not_simple();
                self.copy(token, !self.is_operand() && self.is_apart());
                self.prev = Prev::Dot;
            }
            Kind::Cast => {
                // A cast leaves a value a value.
                self.copy(token, !self.is_operand() && self.is_apart());
                self.prev = Prev::Cast;
            }
            Kind::Op | Kind::Semicolon => self.operator(token, sign),
        }
    }

    /// The text, and whether it may be another's when it is read again: there was no room, or a sign was left without its number.
    pub(super) fn finish(mut self) -> (Bytes, bool) {
        self.take_last_sign_back();
        self.cut_open_list();
        (Bytes::copy_from_slice(&self.out[..self.len]), self.full || self.lost_sign)
    }

    /// A list that was cut off, by the end of all or of its statement, is a list all the same. Returns whether there is one.
    fn cut_open_list(&mut self) -> bool {
        let frames = &self.frames[..self.depth];
        let simple_from = frames.iter().rposition(|frame| !frame.simple).map_or(0, |at| at + 1);
        let list = frames[simple_from..].iter().find(|frame| frame.is_list && frame.first_end > 0);
        let Some(end) = list.map(|frame| usize::from(frame.first_end)) else { return false };
        self.len = end;
        true
    }

    /// What stood before it may now be the end: a comma, a semicolon.
    fn take_last_sign_back(&mut self) {
        if let Some(sign) = self.sign.take() {
            self.take_back(sign);
            self.lost_sign = true;
        }
    }

    fn end_statement(&mut self) {
        self.take_last_sign_back();
        if self.cut_open_list() {
            // What there was no room for was the list's.
            self.full = false;
        }
        self.semicolon = true;
        self.depth = 0;
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

    #[inline]
    fn word(&mut self, word: Word, token: &Token) {
        // A value is none of a statement's first words, whatever it looks like.
        if matches!(word, Word::True | Word::False | Word::Null) && self.takes_value() {
            return self.literal();
        }
        if self.n_words < 2 {
            self.n_words += 1;
            self.begin_statement(word);
        }
        match word {
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
        self.copy(token, self.is_apart());
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

    fn open(&mut self, bracket: u8, token: &Token) {
        let is_apart = match (bracket, self.prev) {
            (_, Prev::Name(_)) => false,
            (b'[', Prev::Close | Prev::Literal | Prev::Param) => false,
            _ => self.is_apart(),
        };
        let is_row = bracket == b'(' && self.prev == Prev::Key(Word::Values);
        let is_list = bracket == b'[' || self.prev == Prev::Key(Word::In);
        self.copy(token, is_apart);
        self.prev = Prev::Open;
        match self.frames.get_mut(self.depth) {
            Some(frame) => {
                *frame = Frame { is_list, is_row, simple: true, first_end: 0 };
                self.depth += 1;
            }
            None => {
                self.too_deep += 1;
                self.not_simple();
            }
        }
    }

    fn close(&mut self, token: &Token) {
        if self.too_deep > 0 {
            self.too_deep -= 1;
        } else if let Some(&mut frame) = self.top() {
            self.depth -= 1;
            if frame.first_end > 0 && frame.is_list && frame.simple {
                self.len = usize::from(frame.first_end);
                self.full = false;
            }
            if !frame.simple {
                self.not_simple();
            }
            if frame.is_row {
                self.rows = Rows::Row;
            }
        }
        self.copy(token, false);
        self.prev = Prev::Close;
    }

    fn operator(&mut self, token: &Token, sign: Option<Sign>) {
        let raw = &self.sql[token.start..token.end];
        let is_sign = matches!(raw, b"-" | b"+") && self.takes_value_or_starts();
        if is_sign && !self.full {
            let simple = self.top().is_none_or(|frame| frame.simple);
            // Of several signs the first.
            self.sign = sign.or(Some(Sign { len: self.len, prev: self.prev, simple }));
        }
        self.not_simple();
        self.copy(token, self.is_apart());
        self.prev = Prev::Op;
        if self.setting == Setting::Name && matches!(raw, b"=" | b":=") {
            self.setting = Setting::Value;
        }
    }

    fn take_back(&mut self, sign: Sign) {
        self.len = sign.len;
        self.full = false;
        self.prev = sign.prev;
        if let Some(frame) = self.top() {
            frame.simple = sign.simple;
        }
    }

    fn top(&mut self) -> Option<&mut Frame> {
        self.frames[..self.depth].last_mut()
    }

    fn element_ends(&mut self) {
        // INVARIANT: [`MAX_TEXT`] is less than 64 Ki.
        let len = self.len as u16;
        if self.too_deep == 0
            && !self.full
            && let Some(frame) = self.top()
            && frame.first_end == 0
        {
            frame.first_end = len;
        }
    }

    fn not_simple(&mut self) {
        if let Some(frame) = self.top() {
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

    /// A place for so many bytes, behind a space if they stand apart.
    #[inline(always)]
    fn room(&mut self, n: usize, is_apart: bool) -> Option<usize> {
        let at = self.len + usize::from(is_apart);
        if self.full || at + n > MAX_TEXT {
            self.full = true;
            return None;
        }
        if at + n.max(CHUNK) > self.out.len() {
            let enough = (2 * self.sql.len()).clamp(at + n + CHUNK, MAX_TEXT + CHUNK);
            self.out.resize(enough, 0);
        }
        // Written over where nothing stands apart.
        self.out[self.len] = b' ';
        self.len = at + n;
        Some(at)
    }

    fn write(&mut self, bytes: &[u8], is_apart: bool) {
        if let Some(at) = self.room(bytes.len(), is_apart) {
            self.out[at..at + bytes.len()].copy_from_slice(bytes);
        }
    }

    /// Writes a token as it stands in the statement.
    #[inline]
    fn copy(&mut self, token: &Token, is_apart: bool) {
        let n = token.end - token.start;
        let Some(at) = self.room(n, is_apart) else { return };
        if n <= CHUNK
            && let Some(from) = self.sql.get(token.start..).and_then(|rest| rest.first_chunk::<CHUNK>())
            && let Some(to) = self.out.get_mut(at..).and_then(|rest| rest.first_chunk_mut::<CHUNK>())
        {
            *to = *from;
            return;
        }
        self.out[at..at + n].copy_from_slice(&self.sql[token.start..token.end]);
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
