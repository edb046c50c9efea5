//! PostgreSQL's protocol, versions 3.0 and 3.2 (<https://www.postgresql.org/docs/current/protocol.html>).
//!
//! **Transactions.** A simple query is one, whatever statements it holds, until `ReadyForQuery`; its first error is its outcome, its rows
//! are the sum. In the extended protocol each `Execute` is one, with the `Parse`, `Bind`, `Describe` and `Close` before it; a round trip without one
//! is `PREPARE …`, `DESCRIBE …` or `CLOSE`. A `Bind` counts as an execution although none may follow. The answer to the last one before a `Sync` goes
//! on until `ReadyForQuery`, so that an error of the commit is its outcome. After an error the server skips what is left up to the `Sync`: those end
//! with it, as errors of the type `pipeline_aborted` (the name that libpq gives them). `COPY` data belongs to its statement: a request that says
//! `COPY … FROM STDIN` ends with `CopyDone` or `CopyFail`. A session's beginning is `startup`, authentication within; `CancelRequest` and
//! notifications are one-way. `Sync` alone, `Terminate`, `ParameterStatus` and notices are none. `START_REPLICATION` is long-lived.
//!
//! **Names.** Operation and target are the statement's fingerprint ([`sql`]); values, users, passwords and messages of errors are never
//! looked at. A statement that was prepared out of sight is `EXECUTE`. The namespace is the database that the session asked
//! for by name, known only where its beginning was seen.
//!
//! **Encryption.** Behind an accepted `SSLRequest` the registry's `tls` goes on, if there is one; otherwise, and behind GSSAPI, the rest is
//! nobody's.
//!
//! **Behind a loss** a boundary is a turn's start where a whole valid message stands. Which replies are due is then not known: what
//! comes until `ReadyForQuery` is taken for one response, and cut when it turns out to be several, until pairing knows how many
//! requests are in flight ([`Parser::in_flight`]). Prepared statements are forgotten with lost requests: their names may mean others.
//! What remains possible is a boundary that lies in the middle of `COPY` data.
//!
//! **Bounds.** [`sql::MAX_READ`] bytes of a statement, `MAX_AHEAD` of what has to be seen before a request can be named, `MAX_PENDING`
//! messages in flight, `MAX_STATEMENTS` prepared statements of `MAX_STATEMENT_BYTES` in all. Rows are jumped over by their lengths.
//!
//! Not handled: protocol 2; function calls have no name; what replication sends is not read.

use std::{borrow::Cow, collections::VecDeque, sync::Arc};

mod names;
mod reply;
mod wire;

use bytes::Bytes;
use names::{Names, Prepared};
use reply::Reply;
use serde::{Deserialize, Serialize};
use wire::{Ahead, Check, Startup};

use super::{
    Body, Capture, Coverage, Family, Flow, Inference, Mark, Message, Operation, Parser, Protocol, Request,
    Resync, Step,
    codec::sql::{self, Dialect, Memo},
};

/// Bytes of messages before an execution that are looked at to name it; behind longer ones an execution is taken for granted.
const MAX_AHEAD: usize = 64 * 1024;
/// Messages in flight whose replies are told apart: libpq and JDBC send some thousand before a `Sync` at most. 3 bytes each.
const MAX_PENDING: usize = 8192;
/// Prepared statements and portals remembered. JDBC keeps 256 on a connection.
const MAX_STATEMENTS: usize = 512;
/// Bytes of their texts.
const MAX_STATEMENT_BYTES: usize = 128 * 1024;
/// Bytes of the names of statements and portals.
const MAX_NAME: usize = 256;
/// Bytes of a message that are enough to believe it.
const MAX_CHECK: usize = 4096;
/// Bytes of an error or a notice in which its SQLSTATE stands: behind two severities.
const MAX_FIELDS: u64 = 256;

/// PostgreSQL's protocol.
pub struct Postgres;

impl Protocol for Postgres {
    fn name(&self) -> &'static str {
        "postgres"
    }

    fn semconv_name(&self) -> &'static str {
        "postgresql"
    }

    fn family(&self) -> Family {
        Family::Database
    }

    fn coverage(&self) -> Coverage {
        Coverage {
            title: "PostgreSQL (3.0, 3.2)",
            covers: "both roles; simple and extended queries, prepared statements, portals, pipelines, COPY, notifications, errors by SQLSTATE, rows, databases; literals of statements are left out",
            lacks: "protocol 2; names of function calls; contents of replication; sessions encrypted by GSSAPI",
            tested_with: "PostgreSQL, psql, pgbench",
        }
    }

    fn infer(&self, head: &[u8]) -> Inference {
        let request = wire::infer_request(head);
        if request == Inference::Request {
            return request;
        }
        match (wire::infer_response(head), request) {
            (Inference::No, request) => request,
            (response, _) => response,
        }
    }

    fn parser(&self) -> Box<dyn Parser> {
        Box::new(PostgresParser::default())
    }

    fn capture(&self) -> Capture {
        Capture::Everything
    }

    fn tcp_ports(&self) -> &'static [u16] {
        &[5432]
    }

    /// An empty query.
    fn shortest_request(&self) -> u64 {
        6
    }

    fn turns_are_requests(&self) -> bool {
        false
    }
}

/// What a reply is due to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Kind {
    Ssl,
    Gss,
    Startup,
    Query,
    Function,
    Parse,
    Bind,
    DescribeStatement,
    DescribePortal,
    Execute,
    Close,
    Sync,
    /// Behind lost requests: how many of which is not known.
    Unknown,
}

/// A message whose reply is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Due {
    kind: Kind,
    /// A request begins with it.
    first: bool,
    /// Its request ends with it.
    last: bool,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct PostgresParser {
    database: Option<Bytes>,
    /// A typed message was seen: no packet of the session's beginning comes any more.
    typed: bool,
    encrypted: bool,
    /// Backslashes escape in all strings (`standard_conforming_strings` is off).
    escapes: bool,
    statements: Names,
    portals: Names,
    due: VecDeque<Due>,
    /// A request was begun that ends with its `Execute`.
    unit: bool,
    /// The next message in flight is the first of a request.
    first: bool,
    /// The statement of the request in progress is `COPY … FROM STDIN`.
    copies: bool,
    /// The request in progress ends with the data it sends.
    copying: bool,
    /// After an error, until `Sync`; so many requests were skipped.
    aborting: bool,
    n_skipped: u32,
    /// The client asked for what there is, without a `Sync`.
    flushed: bool,
    reply: Reply,
    /// The bytes shown to `resync` are refused ones.
    refused: [bool; 2],
    #[serde(skip)]
    memo: Memo,
}

impl Parser for PostgresParser {
    fn step(&mut self, flow: Flow, buf: &[u8], marks: &mut Vec<Mark>) -> Step {
        if self.encrypted {
            return Step::UntilClose;
        }
        let step = match flow {
            Flow::Request => self.request(buf, marks),
            Flow::Response => self.response(buf, marks),
        };
        step.unwrap_or_else(|why| {
            marks.clear();
            self.refused[flow.index()] = true;
            Step::Invalid(why)
        })
    }

    fn resync(&mut self, flow: Flow, missing: u64, buf: &[u8], turn_starts: &[usize]) -> Resync {
        if self.encrypted {
            return Resync::At(0);
        }
        let at_refused = std::mem::take(&mut self.refused[flow.index()]) && missing == 0;
        self.lose(flow);
        for (idx, &start) in turn_starts.iter().enumerate() {
            let end = turn_starts.get(idx + 1).copied();
            let Some(turn) = buf.get(start..end.unwrap_or(buf.len())) else { continue };
            if start == 0 && at_refused {
                continue;
            }
            let check = match flow {
                Flow::Request => wire::request(turn, |_| true),
                Flow::Response => wire::response(turn),
            };
            match check {
                Check::Whole(_) => return Resync::At(start),
                Check::Partial if turn.len() >= MAX_CHECK => return Resync::At(start),
                // A message goes on into no other turn.
                Check::Partial if end.is_none() => return Resync::NotYet { dropped: start },
                Check::Partial | Check::Bad => {}
            }
        }
        Resync::NotYet { dropped: buf.len() }
    }

    fn in_flight(&mut self, n: usize) {
        if n == 0 || self.reply.open {
            return;
        }
        let firsts = self.due.iter().enumerate().rev().filter(|(_, due)| due.first);
        let from = match firsts.map(|(at, _)| at).nth(n - 1) {
            Some(at) => at,
            // Older ones were skipped by the server, or are not of this parser.
            None => self.due.iter().rposition(|due| due.kind == Kind::Unknown).map_or(0, |at| at + 1),
        };
        if self.due.iter().skip(from).all(|due| due.kind != Kind::Unknown) {
            self.due.drain(..from);
        }
    }

    fn close(&mut self, _: Flow, _: &mut Vec<Mark>) {}

    fn save(&self) -> Vec<u8> {
        // Plain data into memory: there is no way to fail, and `load` refuses the empty state.
        postcard::to_allocvec(self).unwrap_or_default()
    }

    fn load(&mut self, state: &[u8]) -> bool {
        match postcard::from_bytes::<PostgresParser>(state) {
            Ok(parser)
                if parser.due.len() <= MAX_PENDING
                    && parser.n_skipped as usize <= MAX_PENDING
                    && [&parser.statements, &parser.portals].iter().all(|names| names.is_bounded()) =>
            {
                *self = parser;
                true
            }
            _ => false,
        }
    }
}

impl PostgresParser {
    /// Bytes of a flow were lost.
    fn lose(&mut self, flow: Flow) {
        let unknown = Due { kind: Kind::Unknown, first: false, last: false };
        match flow {
            Flow::Request => {
                self.typed = true;
                (self.unit, self.copying, self.first) = (false, false, false);
                self.statements.clear();
                self.portals.clear();
                if self.due.back() != Some(&unknown) {
                    self.push(unknown);
                }
            }
            Flow::Response => {
                self.reply = Reply::default();
                (self.aborting, self.n_skipped) = (false, 0);
                if self.due.front() != Some(&unknown) {
                    self.due.push_front(unknown);
                }
            }
        }
    }

    fn dialect(&self) -> Dialect {
        if self.escapes { Dialect::PostgresEscapes } else { Dialect::Postgres }
    }

    fn prepared(&mut self, text: &[u8]) -> Prepared {
        let statement = self.memo.fingerprint(&text[..text.len().min(sql::MAX_READ)], self.dialect());
        let copies = statement.summary.contains("COPY")
            && statement.text.windows(10).any(|window| window.eq_ignore_ascii_case(b"FROM STDIN"));
        let summary = match &*statement.summary {
            "" => Cow::Borrowed("EMPTY"),
            "_OTHER" => Cow::Borrowed(wire::replication_command(text).unwrap_or("_OTHER")),
            _ => statement.summary,
        };
        Prepared { summary, text: statement.text, copies }
    }

    fn begin(
        &self,
        marks: &mut Vec<Mark>,
        operation: Cow<'static, str>,
        target: Option<Bytes>,
        one_way: bool,
    ) {
        let request = Request {
            operation: Operation::Fixed(operation),
            target: target.filter(|target| !target.is_empty()),
            namespace: self.database.clone(),
            one_way,
            ..Request::default()
        };
        marks.push(Mark::Begin(Message { stream: 0, body: Body::Request(request) }));
    }

    /// A message whose reply is due.
    fn push(&mut self, due: Due) {
        self.flushed = false;
        if due.kind == Kind::Sync {
            // Ends what the server skips.
            self.aborting = false;
        } else if self.aborting && due.kind != Kind::Unknown {
            self.n_skipped = self.n_skipped.saturating_add(u32::from(due.first)).min(MAX_PENDING as u32);
            return;
        }
        if self.due.len() >= MAX_PENDING {
            // Which reply is whose is not known any more.
            self.due.clear();
            self.due.push_back(Due { kind: Kind::Unknown, first: false, last: false });
        }
        self.due.push_back(due);
    }

    fn ask(&mut self, kind: Kind) {
        let first = std::mem::take(&mut self.first);
        self.push(Due { kind, first, last: false });
    }

    /// The request in progress ends with the message asked last.
    fn ask_no_more(&mut self) {
        (self.unit, self.first) = (false, false);
        if let Some(due) = self.due.back_mut().filter(|due| due.kind != Kind::Sync) {
            due.last = true;
        }
    }

    /// The client's message at the start of `buf`.
    fn request(&mut self, buf: &[u8], marks: &mut Vec<Mark>) -> Result<Step, &'static str> {
        if buf[0] == 0 && !self.typed {
            return self.startup(buf, marks);
        }
        let Some(frame) = wire::frame(buf) else {
            return if b"QPBDECSHXFdcfp".contains(&buf[0]) { Ok(Step::NeedMore) } else { Err("no message") };
        };
        let (kind, len) = frame?;
        let ends_unit = self.unit && !matches!(kind, b'D' | b'E' | b'C' | b'd' | b'c' | b'f');
        if ends_unit || (self.copying && !matches!(kind, b'd' | b'c' | b'f' | b'H' | b'S')) {
            // What was begun goes no further.
            if ends_unit {
                self.ask_no_more();
            }
            self.copying = false;
            marks.push(Mark::End { stream: 0 });
            return Ok(Step::Consume { len: 0 });
        }
        let n_there = buf.len() as u64;
        match kind {
            b'Q' => {
                if n_there < len.min(5 + sql::MAX_READ as u64) {
                    return Ok(Step::NeedMore);
                }
                let body = &buf[5..len.min(n_there) as usize];
                let text = wire::text(body).map_or(body, |(text, _)| text);
                let prepared = self.prepared(text);
                self.begin(marks, prepared.summary, Some(prepared.text), false);
                self.push(Due { kind: Kind::Query, first: true, last: true });
                self.copying = prepared.copies;
                if !self.copying {
                    marks.push(Mark::End { stream: 0 });
                }
            }
            b'F' => {
                self.begin(marks, "FUNCTION CALL".into(), None, false);
                marks.push(Mark::End { stream: 0 });
                self.push(Due { kind: Kind::Function, first: true, last: true });
            }
            b'P' | b'B' | b'D' | b'E' | b'C' => return self.extended(buf, marks),
            // The server takes no notice of it while it waits for data.
            b'S' if len == 5 && self.copying => {}
            b'S' if len == 5 => self.push(Due { kind: Kind::Sync, first: false, last: false }),
            b'H' if len == 5 => self.flushed = true,
            b'X' if len == 5 => {}
            b'c' | b'f' => {
                if std::mem::take(&mut self.copying) {
                    marks.push(Mark::End { stream: 0 });
                }
            }
            b'd' | b'p' => {}
            _ => return Err("no message"),
        }
        self.typed = true;
        Ok(Step::Consume { len })
    }

    /// A packet before the session.
    fn startup(&mut self, buf: &[u8], marks: &mut Vec<Mark>) -> Result<Step, &'static str> {
        let (kind, len) = match wire::startup(buf) {
            Startup::Partial => return Ok(Step::NeedMore),
            Startup::Bad => return Err("no startup"),
            Startup::Ssl => (Kind::Ssl, 8),
            Startup::Gss => (Kind::Gss, 8),
            Startup::Cancel { len } => {
                self.begin(marks, "CANCEL".into(), None, true);
                marks.push(Mark::End { stream: 0 });
                return Ok(Step::Consume { len: len as u64 });
            }
            Startup::Session { len, database } => {
                self.database = database.map(Bytes::copy_from_slice);
                self.begin(marks, "startup".into(), None, false);
                marks.push(Mark::End { stream: 0 });
                self.typed = true;
                (Kind::Startup, len)
            }
        };
        self.push(Due { kind, first: kind == Kind::Startup, last: true });
        Ok(Step::Consume { len: len as u64 })
    }

    /// Messages of the extended protocol: one, or all those that come before an execution.
    fn extended(&mut self, buf: &[u8], marks: &mut Vec<Mark>) -> Result<Step, &'static str> {
        self.typed = true;
        if self.unit {
            let Some((kind, len)) = wire::frame(buf).transpose()? else { return Ok(Step::NeedMore) };
            if (buf.len() as u64) < len.min(5 + MAX_NAME as u64) {
                return Ok(Step::NeedMore);
            }
            self.apply(buf)?;
            if kind == b'E' {
                self.executed(marks);
            }
            return Ok(Step::Consume { len });
        }
        let (end, executes) = match wire::ahead(buf)? {
            Ahead::More => return Ok(Step::NeedMore),
            Ahead::Executes(at) => {
                // The names that it begins with.
                let Some((_, len)) = wire::frame(&buf[at..]).transpose()? else {
                    return Ok(Step::NeedMore);
                };
                let there = &buf[at + 5..];
                let names = wire::text(there).and_then(|(_, rest)| wire::text(rest));
                let enough = len.min(5 + 2 * MAX_NAME as u64);
                let is_bind = buf[at] == b'B';
                if ((buf.len() - at) as u64) < enough && !(is_bind && names.is_some()) {
                    return Ok(Step::NeedMore);
                }
                (at as u64 + len, true)
            }
            Ahead::Ends(at) => (at as u64, false),
            Ahead::Long(len) => (len, true),
        };
        let (begin, mut at) = (marks.len(), 0);
        self.first = true;
        self.copies = false;
        let mut named: Option<Arc<Prepared>> = None;
        let (mut verb, mut last) = ("CLOSE", 0);
        while (at as u64) < end && at < buf.len() {
            let message = &buf[at..];
            last = message[0];
            let prepared = self.apply(message)?;
            named = prepared.or(named);
            verb = match (last, verb) {
                (b'P', _) => "PREPARE",
                (b'D', "CLOSE") => "DESCRIBE",
                (_, verb) => verb,
            };
            at = at.saturating_add(
                wire::frame(message).transpose()?.map_or(usize::MAX, |(_, len)| len as usize),
            );
        }
        let (operation, target) = match named {
            Some(prepared) if executes => {
                self.copies = prepared.copies;
                (prepared.summary.clone(), Some(prepared.text.clone()))
            }
            Some(prepared) if verb != "CLOSE" => {
                (format!("{verb} {}", prepared.summary).into(), Some(prepared.text.clone()))
            }
            _ if executes => ("EXECUTE".into(), None),
            _ => (verb.into(), None),
        };
        self.begin(marks, operation, target, false);
        debug_assert_eq!(marks.len(), begin + 1);
        self.unit = true;
        if last == b'E' {
            self.executed(marks);
        } else if !executes {
            self.ask_no_more();
            marks.push(Mark::End { stream: 0 });
        }
        Ok(Step::Consume { len: end })
    }

    /// The execution of the request in progress was asked for.
    fn executed(&mut self, marks: &mut Vec<Mark>) {
        self.ask_no_more();
        self.copying = std::mem::take(&mut self.copies);
        if !self.copying {
            marks.push(Mark::End { stream: 0 });
        }
    }

    /// Takes note of one message of the extended protocol; the statement it is about.
    fn apply(&mut self, message: &[u8]) -> Result<Option<Arc<Prepared>>, &'static str> {
        let Some((kind, len)) = wire::frame(message).transpose()? else { return Ok(None) };
        let body = &message[5..message.len().min(usize::try_from(len).unwrap_or(usize::MAX))];
        // What is longer than this is cut off: names are not, unless they are longer than any name.
        match kind {
            b'P' => {
                let (name, rest) = wire::text(body).ok_or("no name")?;
                let text = wire::text(rest).map_or(rest, |(text, _)| text);
                let prepared = Arc::new(self.prepared(text));
                self.statements.insert(name, prepared.clone());
                self.ask(Kind::Parse);
                Ok(Some(prepared))
            }
            b'B' => {
                let names = wire::text(body).and_then(|(portal, rest)| Some((portal, wire::text(rest)?.0)));
                let (portal, name) = names.ok_or("no names")?;
                let prepared = self.statements.get(name).cloned();
                match &prepared {
                    Some(prepared) => self.portals.insert(portal, prepared.clone()),
                    None => self.portals.remove(portal),
                }
                self.ask(Kind::Bind);
                Ok(prepared)
            }
            b'E' => {
                let (portal, _) = wire::text(body).ok_or("no portal")?;
                self.ask(Kind::Execute);
                Ok(self.portals.get(portal).cloned())
            }
            _ => {
                let (&what, rest) = body.split_first().ok_or("no name")?;
                let (name, _) = wire::text(rest).ok_or("no name")?;
                let names = match what {
                    b'S' => &mut self.statements,
                    b'P' => &mut self.portals,
                    _ => return Err("neither statement nor portal"),
                };
                let prepared = names.get(name).cloned();
                if kind == b'C' {
                    names.remove(name);
                    self.ask(Kind::Close);
                    return Ok(None);
                }
                let kind = if what == b'S' { Kind::DescribeStatement } else { Kind::DescribePortal };
                self.ask(kind);
                Ok(prepared)
            }
        }
    }
}
