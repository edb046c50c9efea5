//! The server's side: which reply is whose, and what came of it.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::{Kind, MAX_FIELDS, MAX_NAME, MAX_PENDING, PostgresParser, wire};
use crate::protocol::{Body, ErrorFor, Mark, Message, Operation, REGISTRY, Request, Response, Step};

/// The response in progress.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Reply {
    pub(super) open: bool,
    /// SQLSTATE of the first error.
    pub(super) failed: Option<Cow<'static, str>>,
    pub(super) rows: Option<u64>,
    /// Rows since the last reply of another kind.
    pub(super) n_data: u64,
    pub(super) long_lived: bool,
    /// Which request it answers is not known: what was seen of it.
    pub(super) loose: Loose,
}

/// What was seen of a response whose request is not known.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Loose {
    pub(super) extended: bool,
    pub(super) described: bool,
    pub(super) completed: bool,
    /// It is several: not told any more.
    pub(super) cut: bool,
}

/// The server's side.
impl PostgresParser {
    pub(super) fn response(&mut self, buf: &[u8], marks: &mut Vec<Mark>) -> Result<Step, &'static str> {
        if let Some(kind @ (Kind::Ssl | Kind::Gss)) = self.due.front().map(|due| due.kind) {
            match (kind, buf[0]) {
                (_, b'N') => {
                    self.due.pop_front();
                    return Ok(Step::Consume { len: 1 });
                }
                (Kind::Ssl, b'S') | (Kind::Gss, b'G') => {
                    self.encrypted = true;
                    let Some(to) = tls().filter(|_| kind == Kind::Ssl) else { return Ok(Step::UntilClose) };
                    marks.push(Mark::Switch { to });
                    return Ok(Step::Consume { len: 1 });
                }
                // A server that does not know the question says so, and closes.
                (_, b'E') => drop(self.due.pop_front()),
                _ => return Err("no answer to a request for encryption"),
            }
        }
        if !b"RKSZTDCENA123nsIctGHWdVv".contains(&buf[0]) {
            return Err("no message");
        }
        let Some((kind, len)) = wire::frame(buf).transpose()? else { return Ok(Step::NeedMore) };
        let n_needed = match kind {
            b'Z' if len != 6 => return Err("no state"),
            b'C' if len > MAX_NAME as u64 => return Err("no tag"),
            b'Z' | b'C' => len,
            b'R' => 9,
            b'E' | b'A' | b'S' => MAX_FIELDS + 9,
            _ => 5,
        };
        if (buf.len() as u64) < n_needed.min(len) {
            return Ok(Step::NeedMore);
        }
        if self.reply.open && self.due.front().is_some_and(|due| due.first) && !matches!(kind, b'A' | b'S') {
            // The next one's begins, and no `ReadyForQuery` came.
            self.end(marks);
            return Ok(Step::Consume { len: 0 });
        }
        let body = &buf[5..buf.len().min(usize::try_from(len).unwrap_or(usize::MAX))];
        match kind {
            b'N' => {
                let front = self.due.front().map(|due| due.kind);
                if front.is_some_and(|kind| kind != Kind::Sync && kind != Kind::Startup)
                    && !self.reply.loose.cut
                {
                    self.open(marks);
                }
            }
            b'S' => {
                if let Some((b"standard_conforming_strings", value)) = wire::text(body) {
                    self.escapes = value.starts_with(b"off\0");
                }
            }
            b'A' => {
                let channel = body.get(4..).and_then(wire::text).map(|(channel, _)| channel);
                let operation = match channel.map(str::from_utf8) {
                    Some(Ok(channel)) if !channel.is_empty() => format!("NOTIFY {channel}").into(),
                    _ => Cow::Borrowed("NOTIFY"),
                };
                let request = Request {
                    operation: Operation::Fixed(operation),
                    namespace: self.database.clone(),
                    one_way: true,
                    ..Request::default()
                };
                marks.push(Mark::Begin(Message { stream: 0, body: Body::Push(request) }));
            }
            _ => return self.reply(kind, len, body, buf, marks),
        }
        Ok(Step::Consume { len })
    }

    /// A reply begins, unless it has.
    fn open(&mut self, marks: &mut Vec<Mark>) {
        if let Some(due) = self.due.front_mut() {
            due.first = false;
        }
        if !std::mem::replace(&mut self.reply.open, true) {
            marks.push(Mark::Begin(Message { stream: 0, body: Body::Response(Response::default()) }));
        }
    }

    /// Says what came of the reply, and that it ends.
    fn end(&mut self, marks: &mut Vec<Mark>) {
        let reply = std::mem::take(&mut self.reply);
        if !reply.open {
            return;
        }
        if reply.failed.is_some() || reply.rows.is_some() {
            let outcome = match reply.failed {
                Some(sqlstate) => Response { rows: reply.rows, ..error_response(sqlstate) },
                None => Response { rows: reply.rows, ..Response::default() },
            };
            marks.push(Mark::Outcome {
                stream: 0,
                response: Response { long_lived: reply.long_lived, ..outcome },
            });
        }
        marks.push(Mark::End { stream: 0 });
    }

    /// The server asks for more before it answers.
    fn interim(marks: &mut Vec<Mark>) {
        marks.push(Mark::Begin(Message { stream: 0, body: Body::Interim(Response::default()) }));
        marks.push(Mark::End { stream: 0 });
    }

    fn reply(
        &mut self,
        kind: u8,
        len: u64,
        body: &[u8],
        buf: &[u8],
        marks: &mut Vec<Mark>,
    ) -> Result<Step, &'static str> {
        let front = self.due.front().copied();
        let step = Ok(Step::Consume { len });
        match front.map(|due| due.kind) {
            None | Some(Kind::Unknown) => self.loose(kind, body, marks),
            Some(Kind::Startup) => match kind {
                b'R' if body.starts_with(&[0; 4]) => self.open(marks),
                b'R' if !self.reply.open => Self::interim(marks),
                b'R' | b'K' | b'v' => {}
                b'E' | b'Z' => {
                    self.open(marks);
                    self.note(kind, body);
                    self.due.pop_front();
                    self.end(marks);
                }
                _ => return Err("no reply to a startup"),
            },
            Some(Kind::Query | Kind::Function) => match kind {
                b'G' if !self.reply.open => Self::interim(marks),
                b'Z' => {
                    self.open(marks);
                    self.due.pop_front();
                    self.end(marks);
                }
                b'T' | b'D' | b'C' | b'I' | b'E' | b'G' | b'H' | b'W' | b'd' | b'c' | b'V' => {
                    self.open(marks);
                    self.note(kind, body);
                    if kind == b'W' {
                        marks.push(Mark::LongLived { stream: 0 });
                    } else if kind == b'E' && is_fatal(body) {
                        // Nothing comes behind it but the close.
                        self.due.pop_front();
                        self.end(marks);
                    }
                }
                _ => return Err("no reply to a query"),
            },
            Some(Kind::Sync) => match kind {
                b'Z' => {
                    self.due.pop_front();
                    self.ready(marks);
                }
                b'E' => {
                    // Of the commit: the last one's, if it is still open.
                    self.note(kind, body);
                    if is_fatal(body) {
                        self.end(marks);
                    }
                }
                _ => return Err("no reply to a sync"),
            },
            Some(_) if kind == b'E' => {
                self.open(marks);
                self.note(kind, body);
                self.abort();
                if is_fatal(body) || !self.waits() {
                    self.end(marks);
                }
            }
            Some(due) => {
                let is_over = match (due, kind) {
                    (Kind::Parse, b'1') | (Kind::Bind, b'2') | (Kind::Close, b'3') => true,
                    (Kind::DescribeStatement, b't') => false,
                    (Kind::DescribeStatement | Kind::DescribePortal, b'T' | b'n') => true,
                    (Kind::Execute, b'C' | b'I' | b's') => true,
                    (Kind::Execute, b'D' | b'd' | b'c' | b'G' | b'H' | b'W') => false,
                    _ => return Err("a reply out of order"),
                };
                if due == Kind::Execute && kind == b'G' && !self.reply.open {
                    Self::interim(marks);
                    return step;
                }
                self.open(marks);
                self.note(kind, body);
                if is_over {
                    self.due.pop_front();
                    if front.is_some_and(|due| due.last) && !self.waits() {
                        self.end(marks);
                    }
                }
            }
        }
        if kind == b'D' && self.reply.open {
            Ok(Step::Consume { len: self.more_rows(len, buf) })
        } else {
            step
        }
    }

    /// The last answer before a `Sync` goes on until `ReadyForQuery`; so may one behind which requests were lost.
    fn waits(&mut self) -> bool {
        let next = self.due.front().map(|due| due.kind);
        if matches!(next, None | Some(Kind::Unknown)) {
            (self.reply.loose.extended, self.reply.loose.completed) = (true, true);
        }
        match next {
            Some(next) => matches!(next, Kind::Sync | Kind::Unknown),
            // Without a `Flush` a `Sync` must come: it was lost, or the server was quick.
            None => !self.flushed,
        }
    }

    /// The rows that are there at once: their number is counted, and one step is enough for them.
    fn more_rows(&mut self, first: u64, buf: &[u8]) -> u64 {
        let mut len = first;
        while let Some(Ok((b'D', more))) = buf.get(len as usize..).and_then(wire::frame) {
            self.reply.n_data += 1;
            len += more;
        }
        len
    }

    /// What a message says of the outcome.
    fn note(&mut self, kind: u8, body: &[u8]) {
        let reply = &mut self.reply;
        match kind {
            b'D' => reply.n_data += 1,
            b'C' => {
                let tag = wire::text(body).map_or(body, |(tag, _)| tag);
                if let Some(rows) = wire::rows(tag) {
                    reply.rows = Some(reply.rows.unwrap_or(0).saturating_add(rows));
                }
            }
            // The portal has more.
            b's' => reply.rows = Some(reply.n_data),
            b'W' => reply.long_lived = true,
            b'E' => {
                let sqlstate = wire::field(body, b'C');
                reply.failed.get_or_insert_with(|| match sqlstate.map(str::from_utf8) {
                    Some(Ok(code))
                        if code.len() == 5 && code.bytes().all(|byte| byte.is_ascii_alphanumeric()) =>
                    {
                        Cow::Owned(code.to_owned())
                    }
                    _ => Cow::Borrowed("unknown"),
                });
            }
            _ => {}
        }
    }

    /// After an error the server skips everything up to the next `Sync`.
    fn abort(&mut self) {
        self.due.pop_front();
        while let Some(due) = self.due.front().filter(|due| !matches!(due.kind, Kind::Sync | Kind::Unknown)) {
            self.n_skipped = self.n_skipped.saturating_add(u32::from(due.first)).min(MAX_PENDING as u32);
            self.due.pop_front();
        }
        self.aborting = self.due.front().is_none_or(|due| due.kind != Kind::Sync);
    }

    /// `ReadyForQuery`, which answers a `Sync`: what was skipped ends here too.
    fn ready(&mut self, marks: &mut Vec<Mark>) {
        self.end(marks);
        self.aborting = false;
        for _ in 0..std::mem::take(&mut self.n_skipped) {
            let response = error_response("pipeline_aborted".into());
            marks.push(Mark::Begin(Message { stream: 0, body: Body::Response(response) }));
            marks.push(Mark::End { stream: 0 });
        }
    }

    /// A message of which nobody knows what it replies to.
    fn loose(&mut self, kind: u8, body: &[u8], marks: &mut Vec<Mark>) {
        match kind {
            b'Z' => return self.ready(marks),
            // The end of a session's beginning that was not seen.
            b'R' | b'K' | b'v' => self.reply.loose.cut = true,
            // An error that nobody asked for ends the session.
            b'E' if !self.reply.open && self.due.is_empty() && is_fatal(body) => return,
            _ => {}
        }
        let loose = &mut self.reply.loose;
        loose.extended |= matches!(kind, b'1' | b'2' | b'3' | b't' | b'n' | b's');
        let is_several = (loose.completed && loose.extended) || (loose.described && kind == b'2');
        loose.described |= kind == b't';
        loose.completed |= matches!(kind, b'C' | b'I' | b's' | b'E');
        if loose.cut || is_several {
            loose.cut = true;
            if std::mem::take(&mut self.reply.open) {
                marks.push(Mark::Cut { stream: 0 });
            }
            return;
        }
        if kind == b'G' && !self.reply.open {
            return Self::interim(marks);
        }
        self.open(marks);
        self.note(kind, body);
        if kind == b'E' && is_fatal(body) {
            self.end(marks);
        }
    }
}

/// The session ends with this error.
fn is_fatal(body: &[u8]) -> bool {
    // The severity that is not translated, since 9.6.
    let severity = wire::field(body, b'V').or_else(|| wire::field(body, b'S'));
    matches!(severity, Some(b"FATAL" | b"PANIC"))
}

/// The outcome of an error.
fn error_response(sqlstate: Cow<'static, str>) -> Response {
    Response { error: ErrorFor::Both, error_type: Some(sqlstate), ..Response::default() }
}

/// The registry's protocol of what is encrypted.
fn tls() -> Option<&'static str> {
    REGISTRY.iter().map(|protocol| protocol.name()).find(|name| *name == "tls")
}
