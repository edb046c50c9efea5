//! What a client of the MySQL protocol asks for: the commands it sends, named by the statements that it prepared.

use std::{borrow::Cow, collections::VecDeque};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    Capabilities, NO_BACKSLASH_ESCAPES, Reader,
    command::{self, EXECUTE, PREPARE, QUERY},
    handshake,
};
use crate::protocol::{
    Operation, Request,
    codec::sql::{self, Dialect, Memo},
};

/// Prepared statements remembered on a connection: more than the pools of drivers keep (256 in Connector/J, 100 in Go's).
pub const MAX_PREPARED: usize = 512;
/// Bytes of their names and texts: 65,536 connections could hold 8 GiB at the very worst, 100 statements of 200 bytes hold 20 KB.
pub const MAX_PREPARED_BYTES: usize = 128 << 10;
/// Bytes of a statement that its name and text are made of; longer ones are long by their values.
pub const MAX_SQL: usize = sql::MAX_READ;
/// Bytes of a command other than a statement.
const MAX_ARGUMENTS: usize = 1024;
/// The variable that says, among much else, whether backslashes escape.
const SQL_MODE: &[u8] = b"sql_mode";
/// The id that stands for the statement prepared last (MariaDB).
const LAST_PREPARED: u32 = u32::MAX;

/// A request in flight.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// What its response is framed by.
    pub kind: Kind,
    /// Sequence id of the next packet of its response; `None`: not known, because packets of the request were not seen.
    pub seq: Option<u8>,
    /// Which request of the connection it is.
    pub number: u64,
}

impl Asked {
    /// A packet with this sequence id may come next.
    pub fn continues(&self, seq: u8) -> bool {
        self.seq.map_or(seq != 0, |expected| seq == expected)
    }
}

/// What a response is framed by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// A handshake response, or a change of the user.
    Login {
        /// The default database if it succeeds.
        database: Option<Bytes>,
        /// What follows is compressed.
        compressed: bool,
    },
    /// Results.
    Query {
        /// The default database if it succeeds.
        database: Option<Bytes>,
    },
    /// A statement to prepare.
    Prepare(Statement),
    /// Rows of a cursor.
    Fetch,
    /// Definitions of columns.
    Fields,
    /// OK, EOF or an error.
    Simple {
        /// The default database if it succeeds.
        database: Option<Bytes>,
    },
    /// One packet of text.
    Text,
    /// Events without end.
    Dump,
    /// Not known: ends with its turn.
    Other,
}

impl Kind {
    /// The default database is another one if it succeeds.
    pub fn chooses_database(&self) -> bool {
        match self {
            Kind::Login { .. } => true,
            Kind::Query { database } | Kind::Simple { database } => database.is_some(),
            _ => false,
        }
    }
}

/// A statement that has an id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statement {
    id: u32,
    summary: Cow<'static, str>,
    text: Bytes,
}

impl Statement {
    fn n_bytes(&self) -> usize {
        self.summary.len() + self.text.len()
    }
}

/// What is known of the client's side of a connection.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Asking {
    /// What both sides have, or the client alone if the greeting was not seen.
    pub agreed: Option<Capabilities>,
    /// The default database, if it is known.
    pub namespace: Option<Bytes>,
    /// By id, ascending.
    prepared: VecDeque<Statement>,
    /// The one that was asked to be prepared last.
    last_prepared: Option<Statement>,
    /// Backslashes escape in strings; `None`: not known.
    escapes: Option<bool>,
    /// What statements are called.
    #[serde(skip)]
    memo: Memo,
}

impl Asking {
    /// What the server said last of how it reads strings (the status in OK and EOF packets); `None`: something was lost that may have said.
    pub fn learn_status(&mut self, status: Option<u16>) {
        self.escapes = status.map(|status| status & NO_BACKSLASH_ESCAPES == 0);
    }

    /// How the server will read a statement. `is_alone`: nothing before it is unanswered, which could change that.
    fn dialect(&self, sql: &[u8], is_alone: bool) -> Dialect {
        // Of several statements in one text the first may set how the others are read.
        let sets_mode = || sql.windows(SQL_MODE.len()).any(|window| window.eq_ignore_ascii_case(SQL_MODE));
        match self.escapes {
            _ if !sql.contains(&b'\\') => Dialect::MySql,
            Some(escapes) if is_alone && !sets_mode() => {
                if escapes {
                    Dialect::MySql
                } else {
                    Dialect::MySqlPlain
                }
            }
            _ => Dialect::MySqlEither,
        }
    }

    /// What a command asks for, and what its response is framed by; `None`: it has none. `is_alone`: all before it was answered.
    pub fn command(&mut self, code: u8, arguments: &[u8], is_alone: bool) -> (Request, Option<Kind>) {
        let simple = Some(Kind::Simple { database: None });
        let (name, kind) = match code {
            0x01 => ("QUIT", None),
            0x02 => ("INIT_DB", Some(Kind::Simple { database: Some(Bytes::copy_from_slice(arguments)) })),
            QUERY => return self.query(arguments, is_alone),
            0x04 => ("FIELD_LIST", Some(Kind::Fields)),
            0x05 => ("CREATE_DB", simple),
            0x06 => ("DROP_DB", simple),
            0x07 => ("REFRESH", simple),
            0x08 => ("SHUTDOWN", simple),
            0x09 => ("STATISTICS", Some(Kind::Text)),
            0x0a => ("PROCESS_INFO", Some(Kind::Query { database: None })),
            0x0c => ("PROCESS_KILL", simple),
            0x0d => ("DEBUG", simple),
            0x0e => ("PING", simple),
            0x11 => {
                let database = handshake::changed_database(arguments);
                ("CHANGE_USER", Some(Kind::Login { database, compressed: false }))
            }
            0x12 => ("BINLOG_DUMP", Some(Kind::Dump)),
            0x15 => ("REGISTER_SLAVE", simple),
            PREPARE => return self.prepare(arguments, is_alone),
            EXECUTE => return (self.execute(arguments), Some(Kind::Query { database: None })),
            0x18 => ("STMT_SEND_LONG_DATA", None),
            0x19 => {
                self.forget(statement_id(arguments));
                ("STMT_CLOSE", None)
            }
            0x1a => ("STMT_RESET", simple),
            0x1b => ("SET_OPTION", simple),
            0x1c => ("STMT_FETCH", Some(Kind::Fetch)),
            0x1e => ("BINLOG_DUMP_GTID", Some(Kind::Dump)),
            0x1f => {
                self.forget_all();
                ("RESET_CONNECTION", simple)
            }
            // MariaDB's bulk execution.
            0xfa => return (self.execute(arguments), Some(Kind::Query { database: None })),
            _ => ("_OTHER", Some(Kind::Other)),
        };
        let target = match code {
            0x18 | 0x1a | 0x1c => self.find(statement_id(arguments)).map(|statement| statement.text.clone()),
            _ => None,
        };
        let request = Request {
            operation: fixed(name),
            target: target.filter(|text| !text.is_empty()),
            namespace: self.namespace.clone(),
            one_way: kind.is_none(),
            long_lived: matches!(kind, Some(Kind::Dump)),
            ..Request::default()
        };
        (request, kind)
    }

    /// A statement to run.
    fn query(&mut self, arguments: &[u8], is_alone: bool) -> (Request, Option<Kind>) {
        let has_attributes = self.agreed.is_some_and(Capabilities::has_attributes);
        // Attributes that are not understood leave a statement that is not known.
        let text = command::behind_attributes(arguments, has_attributes).unwrap_or_default();
        let sql = &text[..text.len().min(MAX_SQL)];
        let statement = self.memo.fingerprint(sql, self.dialect(sql, is_alone));
        let database = command::used_database(&text[..text.len().min(MAX_ARGUMENTS)]);
        let request = Request {
            operation: Operation::Fixed(statement.summary),
            target: Some(statement.text).filter(|text| !text.is_empty()),
            namespace: self.namespace.clone(),
            ..Request::default()
        };
        (request, Some(Kind::Query { database }))
    }

    /// A statement to prepare.
    fn prepare(&mut self, arguments: &[u8], is_alone: bool) -> (Request, Option<Kind>) {
        let sql = &arguments[..arguments.len().min(MAX_SQL)];
        let statement = self.memo.fingerprint(sql, self.dialect(sql, is_alone));
        let prepared = Statement { id: LAST_PREPARED, summary: statement.summary, text: statement.text };
        self.last_prepared = Some(prepared.clone());
        let request = Request {
            operation: fixed("PREPARE"),
            target: Some(prepared.text.clone()).filter(|text| !text.is_empty()),
            namespace: self.namespace.clone(),
            ..Request::default()
        };
        (request, Some(Kind::Prepare(prepared)))
    }

    /// A prepared statement to run.
    fn execute(&self, arguments: &[u8]) -> Request {
        let statement = match statement_id(arguments) {
            Some(LAST_PREPARED) => self.last_prepared.as_ref(),
            id => self.find(id),
        };
        let (operation, target) = match statement {
            Some(statement) => (statement.summary.clone(), Some(statement.text.clone())),
            None => (Cow::Borrowed("EXECUTE"), None),
        };
        Request {
            operation: Operation::Fixed(operation),
            target: target.filter(|text| !text.is_empty()),
            namespace: self.namespace.clone(),
            ..Request::default()
        }
    }

    fn find(&self, id: Option<u32>) -> Option<&Statement> {
        let at = self.prepared.binary_search_by_key(&id?, |statement| statement.id).ok()?;
        self.prepared.get(at)
    }

    /// The server forgets them all.
    pub fn forget_all(&mut self) {
        self.prepared.clear();
    }

    /// Another statement may have been prepared since.
    pub fn forget_last(&mut self) {
        self.last_prepared = None;
    }

    /// A state that was saved by this.
    pub fn is_bounded(&self) -> bool {
        self.prepared.len() <= MAX_PREPARED
    }

    fn forget(&mut self, id: Option<u32>) {
        let id = id.map(|id| self.prepared.binary_search_by_key(&id, |statement| statement.id));
        if let Some(Ok(at)) = id {
            self.prepared.remove(at);
        }
    }

    /// A statement has its id: the newest statements stay, which have the greatest ids.
    pub fn remember(&mut self, id: u32, statement: Statement) {
        let prepared = Statement { id, ..statement };
        match self.prepared.binary_search_by_key(&prepared.id, |statement| statement.id) {
            Ok(at) => self.prepared[at] = prepared,
            Err(at) => self.prepared.insert(at, prepared),
        }
        if self.prepared.len() > MAX_PREPARED {
            self.prepared.pop_front();
        }
        let mut n_bytes: usize = self.prepared.iter().map(Statement::n_bytes).sum();
        while n_bytes > MAX_PREPARED_BYTES
            && let Some(oldest) = self.prepared.pop_front()
        {
            n_bytes -= oldest.n_bytes();
        }
    }
}

/// Bytes of a command's payload that have to be seen.
pub fn n_needed(code: u8) -> usize {
    match code {
        QUERY | PREPARE => MAX_SQL,
        _ => MAX_ARGUMENTS,
    }
}

/// The name of a command.
pub fn fixed(name: &'static str) -> Operation {
    Operation::Fixed(Cow::Borrowed(name))
}

fn statement_id(arguments: &[u8]) -> Option<u32> {
    Reader(arguments).u32()
}
