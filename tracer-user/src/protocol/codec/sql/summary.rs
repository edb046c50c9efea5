//! What a statement does to which tables: OpenTelemetry's `db.query.summary`.
//!
//! Operations and tables in the order of the text: `SELECT` wherever it stands, what changes tables where a statement may begin. A
//! table is a name behind `FROM`, `JOIN`, `INTO`, `UPDATE` and the like that is no function and no common table expression.

use std::borrow::Cow;

use super::{
    Dialect, MAX_DEPTH, MAX_SUMMARY,
    lexer::{Kind, Token},
    words::Word,
};

/// Names of common table expressions that are told apart from tables, of one text.
const MAX_CTES: usize = 32;
/// Parts of a name: catalog, schema, table.
const MAX_PARTS: usize = 3;
/// Bytes of a summary that need one allocation.
const USUAL_SUMMARY: usize = 48;
/// Words between `CREATE` and what is created.
const MAX_MODIFIERS: u8 = 6;

/// The list of common table expressions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Cte {
    #[default]
    None,
    /// A name comes.
    Name,
    /// Behind a name.
    Definition,
}

/// What stands between two parentheses.
#[derive(Clone, Copy, Debug, Default)]
struct Frame {
    /// It has a `FROM` of its own.
    query: bool,
    /// In the list behind it: tables stand behind commas.
    list: bool,
    /// A table comes.
    expect: bool,
    /// `USING` names tables.
    using: bool,
    cte: Cte,
}

/// Where the statement is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing was said.
    Start,
    /// Its operations and tables are told.
    Open,
    /// Behind `CREATE` and the like: what is created comes, so many words ago.
    Object(&'static str, u8),
    /// An index was named: its table comes behind `ON`.
    On,
    /// The rest is of no interest.
    Rest,
}

pub(super) struct Summary<'a> {
    sql: &'a [u8],
    dialect: Dialect,
    out: String,
    /// What there is, if it is one piece that is always the same.
    only: Option<&'static str>,
    full: bool,
    phase: Phase,
    verb: Word,
    /// An operation may begin here.
    at_start: bool,
    frames: [Frame; MAX_DEPTH],
    /// The innermost of them.
    depth: usize,
    too_deep: usize,
    /// Parts of the name in progress, and whether a dot came behind them.
    name: [(usize, usize); MAX_PARTS],
    n_parts: usize,
    dot: bool,
    /// The name in progress is a table's even if a parenthesis follows.
    keep: bool,
    after_dot: bool,
    after_distinct: bool,
    ctes: Vec<(usize, usize)>,
    separate: bool,
}

impl<'a> Summary<'a> {
    pub(super) fn new(sql: &'a [u8], dialect: Dialect) -> Self {
        Summary {
            sql,
            dialect,
            out: String::new(),
            only: None,
            full: false,
            phase: Phase::Start,
            verb: Word::Name,
            at_start: true,
            frames: [Frame::default(); MAX_DEPTH],
            depth: 0,
            too_deep: 0,
            name: [(0, 0); MAX_PARTS],
            n_parts: 0,
            dot: false,
            keep: false,
            after_dot: false,
            after_distinct: false,
            ctes: Vec::new(),
            separate: false,
        }
    }

    /// Nothing that comes can change the summary.
    pub(super) fn is_full(&self) -> bool {
        self.full
    }

    pub(super) fn finish(mut self) -> Cow<'static, str> {
        self.name_ends(false);
        match self.only {
            Some(only) => Cow::Borrowed(only),
            None => Cow::Owned(self.out),
        }
    }

    #[inline]
    pub(super) fn token(&mut self, token: &Token) {
        if self.n_parts > 0 && self.goes_on(token) {
            return;
        }
        if self.n_parts > 0 {
            self.name_ends(matches!(token.kind, Kind::Open(b'(')));
        }
        if token.kind == Kind::Semicolon {
            return self.end_statement();
        }
        if self.phase == Phase::Rest {
            return;
        }
        let after_dot = std::mem::replace(&mut self.after_dot, token.kind == Kind::Dot);
        let after_distinct = std::mem::take(&mut self.after_distinct);
        match token.kind {
            Kind::Word(_) if after_dot => {}
            Kind::Word(word) => self.word(word, token, after_distinct),
            Kind::Quoted if after_dot => {}
            Kind::Quoted => self.name(token),
            Kind::Open(_) => self.open(),
            Kind::Close(_) => self.close(),
            Kind::Comma => self.comma(),
            _ if self.phase == Phase::Start => self.other(),
            _ => self.top().expect = false,
        }
    }

    #[inline]
    fn top(&mut self) -> &mut Frame {
        &mut self.frames[self.depth]
    }

    fn end_statement(&mut self) {
        self.separate |= !self.out.is_empty() || self.only.is_some();
        self.phase = Phase::Start;
        self.verb = Word::Name;
        self.at_start = true;
        self.depth = 0;
        *self.top() = Frame::default();
        self.too_deep = 0;
        self.ctes.clear();
        (self.after_dot, self.after_distinct) = (false, false);
    }

    /// Words that begin no statement.
    fn other(&mut self) {
        self.add("_OTHER");
        self.phase = Phase::Rest;
    }

    fn open(&mut self) {
        let expect = std::mem::take(&mut self.top().expect);
        match self.frames.get_mut(self.depth + 1) {
            Some(frame) => {
                *frame = Frame { list: expect, expect, ..Frame::default() };
                self.depth += 1;
            }
            None => self.too_deep += 1,
        }
    }

    fn close(&mut self) {
        if self.too_deep > 0 {
            self.too_deep -= 1;
        } else {
            self.depth = self.depth.saturating_sub(1);
        }
        // Behind the last definition the statement itself begins.
        self.at_start = self.top().cte == Cte::Definition;
    }

    fn comma(&mut self) {
        let frame = self.top();
        match frame.cte {
            Cte::Definition => frame.cte = Cte::Name,
            _ => frame.expect = frame.list,
        }
        self.at_start = false;
    }

    fn word(&mut self, word: Word, token: &Token, after_distinct: bool) {
        let Frame { expect, cte, .. } = *self.top();
        if word == Word::Name && !expect && cte != Cte::Name && matches!(self.phase, Phase::Open | Phase::On)
        {
            // Most words: columns and the like.
            self.at_start &= matches!(self.verb, Word::Explain | Word::Desc | Word::Describe);
            return;
        }
        match self.top().cte {
            Cte::Name if word == Word::Recursive => return,
            Cte::Name => return self.name(token),
            _ => {}
        }
        if self.phase == Phase::Start {
            return self.begin(word);
        }
        if let Phase::Object(verb, n) = self.phase {
            return self.object(verb, n, word);
        }
        let at_start = self.at_start;
        // What a definition says of itself, and what EXPLAIN is told.
        let stays = matches!(word, Word::Not | Word::Materialized | Word::As)
            || matches!(self.verb, Word::Explain | Word::Desc | Word::Describe);
        self.at_start &= stays;
        match word {
            Word::Select => self.select(),
            Word::With if at_start => self.with(),
            Word::Insert | Word::Update | Word::Delete | Word::Merge if at_start => self.change(word),
            Word::Values | Word::Table if self.top().expect && !self.skips(word) => self.top().expect = false,
            _ if self.top().expect && self.skips(word) => {}
            Word::From if self.top().query && !after_distinct => self.expect_list(),
            Word::Join | Word::StraightJoin if self.top().query || self.top().list => {
                self.top().using = false;
                self.expect_list();
            }
            Word::Using if self.top().using => self.expect_list(),
            Word::Into => self.into(),
            Word::On if self.phase == Phase::On => {
                self.phase = Phase::Open;
                self.top().expect = true;
                self.keep = true;
            }
            Word::As => {
                let defines = self.top().cte == Cte::Definition;
                self.at_start = defines || matches!(self.verb, Word::Prepare | Word::Create);
            }
            Word::For if self.verb == Word::Declare => self.at_start = true,
            Word::Where
            | Word::Group
            | Word::Order
            | Word::Limit
            | Word::Having
            | Word::Returning
            | Word::Window
            | Word::Set
            | Word::For
            | Word::Fetch => self.list_ends(),
            Word::Union | Word::Except | Word::Intersect => {
                self.list_ends();
                self.at_start = true;
            }
            Word::Distinct => self.after_distinct = true,
            Word::Key | Word::On => self.top().expect = false,
            _ => self.name(token),
        }
    }

    /// Words between an operation and its table.
    fn skips(&self, word: Word) -> bool {
        match word {
            Word::Only | Word::Lateral | Word::If | Word::Not | Word::Exists | Word::Concurrently => true,
            Word::Into | Word::Ignore => matches!(self.verb, Word::Insert | Word::Replace | Word::Update),
            Word::Temp | Word::Temporary | Word::Unlogged => self.verb == Word::Select,
            Word::Table | Word::Tables => {
                matches!(
                    self.verb,
                    Word::Truncate | Word::Lock | Word::Load | Word::Optimize | Word::Analyze | Word::Select
                )
            }
            Word::Analyze => self.verb == Word::Vacuum,
            _ => false,
        }
    }

    /// The first word of a statement.
    fn begin(&mut self, word: Word) {
        self.verb = word;
        self.phase = Phase::Open;
        match word {
            Word::Select => self.select(),
            Word::With => self.with(),
            Word::Insert | Word::Update | Word::Delete | Word::Merge => self.change(word),
            Word::Replace if self.dialect.is_mysql() => self.change(word),
            Word::Create | Word::Drop | Word::Alter | Word::Refresh | Word::Reindex => {
                self.phase = Phase::Object(word.text(), 0);
            }
            Word::Explain => self.add("EXPLAIN"),
            Word::Desc | Word::Describe => {
                self.add("DESCRIBE");
                self.top().expect = true;
            }
            Word::Prepare | Word::Declare | Word::Load => {
                self.add(word.text());
                self.at_start = false;
            }
            Word::Truncate
            | Word::Lock
            | Word::Copy
            | Word::Table
            | Word::Vacuum
            | Word::Analyze
            | Word::Optimize
            | Word::Cluster
            | Word::Call
            | Word::Execute
            | Word::Listen
            | Word::Unlisten
            | Word::Notify => {
                self.add(word.text());
                self.at_start = word == Word::Copy;
                let list = matches!(word, Word::Truncate | Word::Lock | Word::Vacuum | Word::Analyze);
                let frame = self.top();
                (frame.expect, frame.list) = (true, list);
                self.keep = true;
            }
            Word::Start => {
                self.add("START TRANSACTION");
                self.phase = Phase::Rest;
            }
            word if is_statement(word) => {
                self.add(word.text());
                self.phase = Phase::Rest;
            }
            _ => self.other(),
        }
    }

    fn select(&mut self) {
        self.add("SELECT");
        self.at_start = false;
        let frame = self.top();
        *frame = Frame { query: true, ..Frame::default() };
    }

    fn with(&mut self) {
        self.top().cte = Cte::Name;
        self.at_start = false;
    }

    /// What changes tables.
    fn change(&mut self, word: Word) {
        self.add(word.text());
        self.at_start = false;
        self.keep = true;
        if self.verb == Word::With || self.verb == Word::Explain {
            self.verb = word;
        }
        let using = matches!(word, Word::Delete | Word::Merge);
        let expect = matches!(word, Word::Insert | Word::Replace | Word::Update);
        *self.top() = Frame {
            query: matches!(word, Word::Update | Word::Delete),
            list: word == Word::Update,
            expect,
            using,
            cte: Cte::None,
        };
    }

    fn expect_list(&mut self) {
        let frame = self.top();
        (frame.expect, frame.list) = (true, true);
        self.keep = false;
    }

    fn list_ends(&mut self) {
        let frame = self.top();
        (frame.expect, frame.list) = (false, false);
    }

    fn into(&mut self) {
        let is_table = match self.verb {
            Word::Merge | Word::Load => true,
            // A new table; in MySQL a variable or a file.
            _ => self.top().query && !self.dialect.is_mysql(),
        };
        if is_table {
            self.top().expect = true;
            self.keep = true;
        }
    }

    /// What is created, dropped, altered.
    fn object(&mut self, verb: &'static str, n: u8, word: Word) {
        let kind = match word {
            Word::Table | Word::View | Word::Index | Word::Sequence => word,
            Word::Database | Word::Domain | Word::Event | Word::Extension | Word::Function => word,
            Word::Procedure | Word::Role | Word::Schema | Word::System | Word::Trigger => word,
            Word::Type | Word::User => word,
            _ if n < MAX_MODIFIERS => {
                self.phase = Phase::Object(verb, n + 1);
                return;
            }
            _ => {
                self.add(verb);
                self.phase = Phase::Rest;
                return;
            }
        };
        self.add(verb);
        self.add_more(kind.text());
        self.at_start = false;
        self.phase = match kind {
            Word::Table | Word::View => {
                let frame = self.top();
                (frame.expect, frame.list) = (true, verb == "DROP");
                self.keep = true;
                Phase::Open
            }
            Word::Index => Phase::On,
            _ => Phase::Rest,
        };
    }

    /// A name stands here: a table's, if one comes.
    fn name(&mut self, token: &Token) {
        if self.phase == Phase::Start {
            return self.other();
        }
        let frame = self.top();
        if frame.cte == Cte::Name {
            frame.cte = Cte::Definition;
            if self.ctes.len() < MAX_CTES {
                self.ctes.push((token.start, token.end));
            }
            return;
        }
        if std::mem::take(&mut frame.expect) && !self.is_noise(token) {
            self.name[0] = (token.start, token.end);
            self.n_parts = 1;
            self.dot = false;
        }
    }

    /// Options that stand where a name does, of a few operations.
    fn is_noise(&mut self, token: &Token) -> bool {
        let words: &[&[u8]] = match self.verb {
            Word::Insert | Word::Replace | Word::Update => {
                &[b"LOW_PRIORITY", b"HIGH_PRIORITY", b"DELAYED", b"QUICK"]
            }
            Word::Vacuum | Word::Analyze | Word::Optimize => {
                &[b"FULL", b"FREEZE", b"VERBOSE", b"LOCAL", b"NO_WRITE_TO_BINLOG"]
            }
            _ => return false,
        };
        let text = &self.sql[token.start..token.end];
        let is_noise = words.iter().any(|word| word.eq_ignore_ascii_case(text));
        self.top().expect |= is_noise;
        is_noise
    }

    /// Whether the token belongs to the name in progress.
    fn goes_on(&mut self, token: &Token) -> bool {
        match token.kind {
            Kind::Dot if !self.dot => {
                self.dot = true;
                true
            }
            Kind::Word(_) | Kind::Quoted if self.dot => {
                self.dot = false;
                if self.n_parts < MAX_PARTS {
                    self.name[self.n_parts] = (token.start, token.end);
                    self.n_parts += 1;
                }
                true
            }
            _ => false,
        }
    }

    fn name_ends(&mut self, by_parenthesis: bool) {
        let n_parts = std::mem::take(&mut self.n_parts);
        if n_parts == 0 || (by_parenthesis && !self.keep) {
            return;
        }
        let parts = self.name;
        let parts = &parts[..n_parts];
        let bare = |&(start, end): &(usize, usize)| unquoted(&self.sql[start..end]);
        if let [name] = parts
            && self.ctes.iter().any(|cte| bare(cte).eq_ignore_ascii_case(bare(name)))
        {
            return;
        }
        let texts = [0, 1, 2].map(|at| parts.get(at).map(|part| String::from_utf8_lossy(bare(part))));
        let texts = texts.iter().flatten();
        let len = texts.clone().map(|text| text.len() + 1).sum::<usize>() - 1;
        if self.begin_piece(len, true) {
            for (at, text) in texts.enumerate() {
                if at > 0 {
                    self.out.push('.');
                }
                self.out.push_str(text);
            }
        }
    }

    fn add(&mut self, text: &'static str) {
        if self.out.is_empty() && self.only.is_none() && !self.full {
            self.only = Some(text);
        } else {
            self.add_more(text);
        }
    }

    fn add_more(&mut self, text: &'static str) {
        if self.begin_piece(text.len(), true) {
            self.out.push_str(text);
        }
    }

    /// Makes room for another piece.
    fn begin_piece(&mut self, len: usize, space: bool) -> bool {
        if let Some(only) = self.only.take() {
            self.out.reserve(USUAL_SUMMARY);
            self.out.push_str(only);
        }
        let between = match (self.out.is_empty(), self.separate, space) {
            (true, ..) => "",
            (_, true, _) => "; ",
            (_, false, true) => " ",
            (_, false, false) => "",
        };
        if self.full || self.out.len() + between.len() + len > MAX_SUMMARY {
            self.full = true;
            return false;
        }
        self.separate = false;
        self.out.push_str(between);
        true
    }
}

/// What is between the quotes of a name that needs none; otherwise all of it.
fn unquoted(name: &[u8]) -> &[u8] {
    let [quote @ (b'"' | b'`'), inner @ .., end] = name else { return name };
    let needs_none = quote == end
        && !inner.is_empty()
        && inner.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | 0x80..));
    if needs_none { inner } else { name }
}

/// Words that begin a statement of which no more is told.
fn is_statement(word: Word) -> bool {
    matches!(
        word,
        Word::Abort
            | Word::Begin
            | Word::Checkpoint
            | Word::Close
            | Word::Comment
            | Word::Commit
            | Word::Deallocate
            | Word::Discard
            | Word::Do
            | Word::End
            | Word::Fetch
            | Word::Flush
            | Word::Grant
            | Word::Handler
            | Word::Kill
            | Word::Move
            | Word::Reassign
            | Word::Release
            | Word::Rename
            | Word::Reset
            | Word::Revoke
            | Word::Rollback
            | Word::Savepoint
            | Word::Set
            | Word::Show
            | Word::Unlock
            | Word::Use
            | Word::Values
            | Word::Xa
    )
}
