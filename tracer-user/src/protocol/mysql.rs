//! The client/server protocol of MySQL and MariaDB
//! (<https://dev.mysql.com/doc/dev/mysql-server/latest/PAGE_PROTOCOL.html>,
//! <https://mariadb.com/kb/en/clientserver-protocol/>). Both are `mysql` here: what a server calls itself is seen at the start of a
//! connection only, and a connection joined later must not have another name.
//!
//! **Framing.** Packets of a length (3 bytes) and a sequence id; one of 16 MiB − 1 goes on in the next. A command has sequence id 0,
//! the packets of its response go on from there, and a packet with another id than the next is invalid. Of rows and definitions
//! of columns the header and the first bytes are looked at; the rest is announced. Of a statement the first [`ask::MAX_SQL`] bytes name it.
//!
//! **Transactions.** `CONNECT` goes from the client's handshake response to OK or error; what is said in between (switching the
//! authentication, its data) is interim. Authentication data and users are never kept. A statement goes from its packet to the end
//! of its last result; `rows` is the sum over its results: rows returned, or rows affected. `LOAD DATA LOCAL` lasts until the
//! server's OK; the request for the file is interim and the file's bytes are counted nowhere. A prepared statement's name and text go with
//! its `EXECUTE`; those of a statement prepared unseen are not known (`EXECUTE` without a target). `STMT_SEND_LONG_DATA`, `STMT_CLOSE`
//! and `QUIT` are one-way, binlog dumps long-lived. An error's `status_code` is its number, which is `error_type` too; its SQLSTATE
//! says less, its text holds values: neither is kept. Whether backslashes escape in strings is read from the status of OK and EOF
//! packets; until one was seen, or with a change of it under way, what would be a literal in either reading is left out.
//!
//! **Capabilities** are those both sides have, or the client's if the greeting was not seen. Most are read from what they change, so
//! that a connection joined in the middle is read as well: an EOF packet has 5 bytes, and no OK or row that begins like one has; a byte
//! more beside a number of columns says that definitions may be left out; an OK packet's status says whether changes of the session
//! follow. Where it cannot be told (the end of the definitions behind `PREPARE`), the response ends with its turn.
//!
//! **TLS** behind a request for it is another protocol's, if there is one for it, and otherwise not read; where the clear text is seen, this one
//! goes on inside of it, with what the server has offered before. **Compressed** connections are
//! not read: their `CONNECT` is called `CONNECT zlib` or `CONNECT zstd` and becomes a long-lived transaction that lasts as long as the connection.
//!
//! **Joined in the middle**: recognised by a query or preparation that begins like SQL, or by an execution, and by nothing that a server says.
//!
//! **Resync.** Requests go on at a turn's start that is beyond doubt a command. Responses go on at a turn's start with
//! the sequence id that the newest request expects, if it is the only one that may be unanswered or pairing knows which one is answered
//! ([`Parser::in_flight`]). A response to a request that is not known is invalid: what it is framed by is its request.
//!
//! **What was not copied.** Nothing at the beginning of a result says how long it is: every packet's header has to be seen. All bytes of a
//! connection are asked for once its first ones are understood; until the kernel hears of that it copies the first 4 KiB of each turn.
//! A longer result in that time (on a connection of one statement: any) ends with its turn, without rows and as a `gap`, and is counted
//! in `lost.parser_gap`; it is `answered` if the client speaks again within 450 ms, and the next one is framed again. So is a request
//! of several packets in one call. With `--payload full` all is copied from a connection's first byte on.
//!
//! **Bounds.** [`MAX_ASKED`] requests in flight; [`ask::MAX_PREPARED`] statements, of which the oldest goes
//! first. Of a first or last packet at most `MAX_ENDING` bytes are held, of a statement [`ask::MAX_SQL`].
//!
//! Not handled: protocols before 4.1; the X protocol; `COM_MULTI` (MariaDB 10.2 betas). A response to a command that is not known ends with its turn.
//! An error in place of the greeting ("too many connections") is an unsolicited response. Values of attributes are skipped, not kept.

use std::{
    collections::VecDeque,
    mem::{replace, take},
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    Body, Capture, Coverage, ErrorFor, Family, Flow, Inference, Mark, Message, Parser, Protocol, REGISTRY,
    Request, Response, Resync, Step, TLS,
    codec::mysql::{
        self, Capabilities, FULL, HEADER, Header, Seen,
        answer::{Answer, Reading},
        ask::{self, Asked, Asking, Kind, fixed},
        command, handshake,
    },
};

/// Requests in flight that are remembered; beyond it the responses of the connection cannot be told apart until they are all answered.
pub const MAX_ASKED: usize = 1024;
/// Bytes of a packet that ends something, or begins a response: changes of the session may be in it.
const MAX_ENDING: usize = 4096;
/// A column's definition begins with its catalog, which has this name.
const DEFINITION: &[u8] = b"\x03def";

/// MySQL and MariaDB.
pub struct MySql;

impl Protocol for MySql {
    fn name(&self) -> &'static str {
        "mysql"
    }

    fn family(&self) -> Family {
        Family::Database
    }

    fn coverage(&self) -> Coverage {
        Coverage {
            title: "MySQL, MariaDB",
            covers: "both roles; text and prepared statements, several results, LOAD DATA, cursors, bulk execution, binlog dumps, errors, rows, databases; literals of statements are left out",
            lacks: "compressed connections (one long-lived transaction); the X protocol; servers before 4.1; rows of a result over 4 KiB in the first milliseconds of the first connection to a port but 3306, and what follows 16 MiB in one call (gaps, counted in `lost.parser_gap`)",
            tested_with: "MariaDB, its client, sysbench, mariadb-slap, Python",
        }
    }

    fn infer(&self, head: &[u8]) -> Inference {
        let said = [
            (handshake::greeting(head).is(), Inference::Response),
            (handshake::refusal(head), Inference::Response),
            (handshake::login(head, 1, false).is(), Inference::Request),
            (command::certain_command(head, true), Inference::Request),
        ];
        match said.iter().find(|(seen, _)| *seen == Seen::Yes(())) {
            Some((_, inference)) => *inference,
            None if said.iter().any(|(seen, _)| *seen == Seen::Partial) => Inference::NeedMore,
            None => Inference::No,
        }
    }

    fn parser(&self) -> Box<dyn Parser> {
        Box::new(MySqlParser::default())
    }

    fn capture(&self) -> Capture {
        Capture::Everything
    }

    fn tcp_ports(&self) -> &'static [u16] {
        &[3306]
    }

    /// A command without arguments.
    fn shortest_request(&self) -> u64 {
        HEADER as u64 + 1
    }

    fn turns_are_requests(&self) -> bool {
        false
    }
}

/// Reads both flows of one connection.
#[derive(Debug, Default, Serialize, Deserialize)]
struct MySqlParser {
    /// What the server offered.
    offered: Option<Capabilities>,
    client: Asking,
    /// No EOF packets; `None`: not known yet.
    deprecates_eof: Option<bool>,
    /// A command or a handshake response was read: no other handshake can come.
    started: bool,
    /// The client has asked for TLS: inside of it, it goes on with the sequence id behind that.
    in_tls: bool,
    tunnel: Tunnel,
    /// Requests that wait for their responses, oldest first.
    asked: VecDeque<Asked>,
    /// Requests begun, those without responses included.
    n_requests: u64,
    /// The newest request that chooses a database.
    chooses: Option<u64>,
    /// Which of `asked` is answered next is not known.
    unknown_asked: bool,
    /// Requests were lost before the next one.
    requests_lost: bool,
    /// The request in progress goes on in another packet.
    request_goes_on: bool,
    /// The client sends a file.
    in_file: bool,
    /// Bytes shown last were invalid, by flow: what begins there is no boundary.
    refused: [bool; 2],
    answer: Answer,
}

/// Bytes that are not read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
enum Tunnel {
    /// None.
    #[default]
    No,
    /// TLS.
    Tls,
    /// Compressed: they belong to the answer to the handshake response.
    Compressed,
}

/// What a packet of a response did.
enum Did {
    /// The response (or nothing) goes on.
    Go,
    /// It was an interim response, all of it.
    Interim,
    /// The message in progress ends with it.
    End,
    /// The response ends with its turn.
    UntilTurn,
    /// Nothing is read any more.
    UntilClose,
    /// The same packet is read again: it is not of what was expected to come.
    Again,
    Invalid(&'static str),
}

impl Parser for MySqlParser {
    fn step(&mut self, flow: Flow, buf: &[u8], marks: &mut Vec<Mark>) -> Step {
        if self.tunnel != Tunnel::No {
            return Step::UntilClose;
        }
        let step = match flow {
            Flow::Request => self.request(buf, marks),
            Flow::Response => self.response(buf, marks),
        };
        self.refused[flow.index()] = matches!(step, Step::Invalid(_));
        step
    }

    fn resync(&mut self, flow: Flow, missing: u64, buf: &[u8], turn_starts: &[usize]) -> Resync {
        if self.tunnel != Tunnel::No {
            return Resync::At(0);
        }
        let refused = take(&mut self.refused[flow.index()]) && missing == 0;
        // What was not seen may have chosen another database, or how strings are read.
        self.use_database(None);
        self.client.learn_status(None);
        match flow {
            Flow::Request => {
                (self.request_goes_on, self.in_file) = (false, false);
                self.client.forget_last();
                if let Some(asked) = self.asked.back_mut() {
                    asked.seq = None;
                }
                self.requests_lost |= missing > 0;
            }
            Flow::Response => {
                // What was cut is not answered again.
                if take(&mut self.answer).reading != Reading::First {
                    self.asked.pop_front();
                }
                self.unknown_asked |= self.asked.len() > 1;
            }
        }
        for (idx, &start) in turn_starts.iter().enumerate() {
            let end = turn_starts.get(idx + 1).copied();
            let Some(turn) = buf.get(start..end.unwrap_or(buf.len())) else { continue };
            if start == 0 && refused {
                continue;
            }
            let begins = match flow {
                Flow::Request => self.begins_request(turn),
                Flow::Response => self.begins_response(turn),
            };
            match begins {
                Seen::Yes(()) => return Resync::At(start),
                // A packet that is a turn's last goes on into no other.
                Seen::Partial if end.is_none() => return Resync::NotYet { dropped: start },
                Seen::Partial | Seen::No => {}
            }
        }
        Resync::NotYet { dropped: buf.len() }
    }

    fn in_flight(&mut self, n: usize) {
        let first = self.n_requests.wrapping_sub(n as u64);
        while self.asked.front().is_some_and(|asked| asked.number < first) {
            self.asked.pop_front();
        }
        self.unknown_asked = self.asked.front().is_none_or(|asked| asked.number != first);
    }

    fn inside_tls(&self) -> Option<Vec<u8>> {
        self.in_tls.then(|| self.save())
    }

    fn close(&mut self, flow: Flow, marks: &mut Vec<Mark>) {
        match flow {
            Flow::Request if take(&mut self.request_goes_on) => marks.push(Mark::Cut { stream: 0 }),
            Flow::Request => {}
            Flow::Response if self.tunnel == Tunnel::Compressed => marks.push(Mark::End { stream: 0 }),
            Flow::Response => match take(&mut self.answer).reading {
                Reading::First => {}
                Reading::Events => marks.push(Mark::End { stream: 0 }),
                _ => marks.push(Mark::Cut { stream: 0 }),
            },
        }
    }

    fn save(&self) -> Vec<u8> {
        // Plain data into memory: there is no way to fail, and `load` refuses the empty state.
        postcard::to_allocvec(self).unwrap_or_default()
    }

    fn load(&mut self, state: &[u8]) -> bool {
        match postcard::from_bytes::<MySqlParser>(state) {
            Ok(parser) if parser.asked.len() <= MAX_ASKED && parser.client.is_bounded() => {
                *self = parser;
                true
            }
            _ => false,
        }
    }
}

impl MySqlParser {
    /// Sequence id of the client's handshake response.
    fn login_seq(&self) -> u8 {
        1 + u8::from(self.in_tls)
    }

    /// A turn of the client's begins a request.
    fn begins_request(&self, turn: &[u8]) -> Seen<()> {
        match handshake::login(turn, self.login_seq(), true) {
            Seen::Yes(_) | Seen::Partial if self.started => command::certain_command(turn, false),
            Seen::No => command::certain_command(turn, false),
            login => login.is(),
        }
    }

    /// A turn of the server's begins a response, to the newest request.
    fn begins_response(&self, turn: &[u8]) -> Seen<()> {
        let Some(asked) = self.asked.back() else { return Seen::No };
        match Header::of(turn) {
            None => Seen::Partial,
            Some(header) if header.len > 0 && asked.continues(header.seq) => Seen::Yes(()),
            Some(_) => Seen::No,
        }
    }

    /// A packet of the client's at the start of `buf`.
    fn request(&mut self, buf: &[u8], marks: &mut Vec<Mark>) -> Step {
        let Some(header) = Header::of(buf) else { return Step::NeedMore };
        let step = Step::Consume { len: header.packet() };
        if self.request_goes_on {
            self.request_goes_on = header.len == FULL;
            self.expect_response(header.seq);
            if !self.request_goes_on {
                marks.push(Mark::End { stream: 0 });
            }
            return step;
        }
        if self.in_file || header.seq != 0 {
            if !self.started {
                return self.login(buf, marks);
            }
            // Authentication data, or a file: an empty packet is its end.
            if self.asked.is_empty() {
                return Step::Invalid("sequence id of a command");
            }
            self.in_file &= header.len > 0;
            self.expect_response(header.seq);
            return step;
        }
        let payload = &buf[HEADER..buf.len().min(HEADER + header.len)];
        let Some((&code, arguments)) = payload.split_first() else {
            return if header.len == 0 { Step::Invalid("no command") } else { Step::NeedMore };
        };
        if payload.len() < header.len.min(ask::n_needed(code)) {
            return Step::NeedMore;
        }
        self.started = true;
        let (request, kind) = self.client.command(code, arguments, self.asked.is_empty());
        self.ask(request, kind, marks);
        self.request_goes_on = header.len == FULL;
        if !self.request_goes_on {
            marks.push(Mark::End { stream: 0 });
        }
        step
    }

    /// The newest request's response goes on behind a packet of the client's.
    fn expect_response(&mut self, seq: u8) {
        if let Some(asked) = self.asked.back_mut() {
            asked.seq = Some(seq.wrapping_add(1));
        }
    }

    /// The client's first packet.
    fn login(&mut self, buf: &[u8], marks: &mut Vec<Mark>) -> Step {
        let login = match handshake::login(buf, self.login_seq(), true) {
            Seen::Yes(login) => login,
            Seen::Partial => return Step::NeedMore,
            Seen::No => return Step::Invalid("no handshake response"),
        };
        let Some(header) = Header::of(buf) else { return Step::NeedMore };
        if login.tls && !self.in_tls {
            self.in_tls = true;
            if let Some(tls) = REGISTRY.iter().find(|protocol| protocol.name() == TLS) {
                marks.push(Mark::Switch { to: tls.name() });
                return Step::Consume { len: header.packet() };
            }
            self.tunnel = Tunnel::Tls;
            return Step::UntilClose;
        }
        self.started = true;
        let agreed = self.offered.map_or(login.capabilities, |offered| offered.and(login.capabilities));
        self.client.agreed = Some(agreed);
        self.deprecates_eof = Some(agreed.deprecates_eof());
        let compression = agreed.compression();
        let operation = match compression {
            None => "CONNECT",
            Some("zlib") => "CONNECT zlib",
            Some(_) => "CONNECT zstd",
        };
        let request =
            Request { operation: fixed(operation), namespace: login.database.clone(), ..Request::default() };
        let kind = Kind::Login { database: login.database, compressed: compression.is_some() };
        self.ask(request, Some(kind), marks);
        self.expect_response(header.seq);
        marks.push(Mark::End { stream: 0 });
        Step::Consume { len: header.packet() }
    }

    /// Remembers what a response depends on.
    fn ask(&mut self, mut request: Request, kind: Option<Kind>, marks: &mut Vec<Mark>) {
        let number = self.n_requests;
        // Whether an earlier request has chosen another database is not known before its response.
        if self.asked.front().is_some_and(|asked| self.chooses >= Some(asked.number)) {
            request.namespace = None;
        }
        if kind.as_ref().is_some_and(Kind::chooses_database) {
            self.chooses = Some(number);
        }
        marks.push(Mark::Begin(Message { stream: 0, body: Body::Request(request) }));
        self.n_requests = number.wrapping_add(1);
        // Those before the lost ones are answered first, if the client does not wait for responses.
        self.unknown_asked |= take(&mut self.requests_lost) && !self.asked.is_empty();
        let Some(kind) = kind else { return };
        if self.asked.len() >= MAX_ASKED {
            self.asked.clear();
            self.unknown_asked = true;
        }
        self.asked.push_back(Asked { kind, seq: Some(1), number });
    }

    /// Packets of the server's from the start of `buf` on, up to the end of a message.
    fn response(&mut self, buf: &[u8], marks: &mut Vec<Mark>) -> Step {
        let mut off = 0;
        while let Some(header) = buf.get(off..).and_then(Header::of) {
            let rest = &buf[off + HEADER..];
            let payload = &rest[..rest.len().min(header.len)];
            if payload.len() < self.n_needed(header, payload) {
                break;
            }
            let mut did = self.packet(header, payload, marks);
            while let Did::Again = did {
                did = self.packet(header, payload, marks);
            }
            let end = off + HEADER + header.len;
            match did {
                Did::Go | Did::Again => off = end,
                Did::End | Did::Interim => {
                    marks.push(Mark::End { stream: 0 });
                    return Step::Consume { len: end as u64 };
                }
                Did::UntilTurn => return Step::UntilTurn,
                Did::UntilClose => return Step::UntilClose,
                // What came before it stands.
                Did::Invalid(_) if off > 0 => break,
                Did::Invalid(why) => {
                    marks.clear();
                    return Step::Invalid(why);
                }
            }
        }
        if off == 0 { Step::NeedMore } else { Step::Consume { len: off as u64 } }
    }

    /// Bytes of a packet's payload that have to be seen.
    fn n_needed(&self, header: Header, payload: &[u8]) -> usize {
        let first = usize::from(header.len > 0);
        match self.answer.reading {
            _ if self.answer.goes_on => 0,
            Reading::First | Reading::NextResult => header.len.min(MAX_ENDING),
            Reading::Events => first,
            _ if matches!(payload.first(), Some(0xfe | 0xff)) && header.len < FULL => {
                header.len.min(MAX_ENDING)
            }
            Reading::BehindColumns | Reading::Rows => first,
            // As many as tell a definition.
            _ => header.len.min(DEFINITION.len()),
        }
    }

    /// One packet of the server's.
    fn packet(&mut self, header: Header, payload: &[u8], marks: &mut Vec<Mark>) -> Did {
        let Some(asked) = self.asked.front() else { return self.unasked(header, payload, marks) };
        if self.unknown_asked {
            return Did::Invalid("which request is answered");
        }
        if !asked.continues(header.seq) {
            return Did::Invalid("sequence id of a response");
        }
        if replace(&mut self.answer.goes_on, false) {
            return self.passed(header, Did::Go);
        }
        let Some(&first) = payload.first() else { return Did::Invalid("an empty packet") };
        if first == 0xff && self.answer.reading != Reading::Events && !matches!(asked.kind, Kind::Other) {
            return self.failed(header, payload, marks);
        }
        let is_end = first == 0xfe && header.len < FULL;
        let is_eof = first == 0xfe && header.len == 5;
        let definition = payload.starts_with(DEFINITION);
        let did = match self.answer.reading {
            Reading::First => return self.first(header, payload, marks),
            Reading::NextResult => return self.result(header, payload, marks),
            Reading::Columns { left } if definition => {
                let left = left.saturating_sub(1);
                self.answer.reading =
                    if left > 0 { Reading::Columns { left } } else { Reading::BehindColumns };
                Did::Go
            }
            Reading::Definitions { left, then } if definition => {
                let left = left.saturating_sub(1);
                self.answer.reading = match (left, then, self.deprecates_eof) {
                    (1.., ..) => Reading::Definitions { left, then },
                    (0, 0, Some(true)) => return self.passed(header, Did::End),
                    (0, 0, None) if self.asked.len() > 1 => {
                        return Did::Invalid("the end of a prepared statement");
                    }
                    (0, 0, None) => return self.passed(header, Did::UntilTurn),
                    (0, ..) => Reading::BehindDefinitions { then },
                };
                Did::Go
            }
            Reading::Columns { .. } | Reading::Definitions { .. } => {
                Did::Invalid("no definition of a column")
            }
            Reading::BehindColumns => {
                // A row or the end of the rows tells as much as an EOF packet.
                self.deprecates_eof = Some(!is_eof);
                self.answer.reading = Reading::Rows;
                if !is_eof {
                    return Did::Again;
                }
                let eof = mysql::finish(payload, header.len).unwrap_or_default();
                if eof.status & mysql::CURSOR_EXISTS != 0 {
                    return self.finished(header, payload, marks);
                }
                Did::Go
            }
            Reading::BehindDefinitions { then } => {
                self.deprecates_eof = Some(!is_eof);
                self.answer.reading = match then {
                    0 if is_eof => return self.passed(header, Did::End),
                    0 => return Did::Invalid("no end of a prepared statement"),
                    left => Reading::Definitions { left, then: 0 },
                };
                if !is_eof {
                    return Did::Again;
                }
                Did::Go
            }
            Reading::Rows if is_end => return self.finished(header, payload, marks),
            Reading::Rows => {
                self.answer.rows = self.answer.rows.saturating_add(1);
                Did::Go
            }
            Reading::Fields if is_end => Did::End,
            Reading::Fields if definition => Did::Go,
            Reading::Fields => Did::Invalid("no definition of a field"),
            Reading::Events if is_end || first == 0xff => Did::End,
            Reading::Events => Did::Go,
        };
        match did {
            Did::Invalid(_) => did,
            did => self.passed(header, did),
        }
    }

    /// A packet is accounted for.
    fn passed(&mut self, header: Header, did: Did) -> Did {
        let goes_on = header.len == FULL;
        if let Did::End | Did::UntilTurn | Did::UntilClose = did {
            self.answer = Answer::default();
            self.asked.pop_front();
            return did;
        }
        self.answer.goes_on = goes_on;
        if let Some(asked) = self.asked.front_mut() {
            asked.seq = Some(header.seq.wrapping_add(1));
        }
        did
    }

    /// All of an interim response.
    fn interim(&mut self, header: Header, marks: &mut Vec<Mark>) -> Did {
        marks.push(Mark::Begin(Message { stream: 0, body: Body::Interim(Response::default()) }));
        self.passed(header, Did::Interim)
    }

    /// What the server says while nothing is asked.
    fn unasked(&mut self, header: Header, payload: &[u8], marks: &mut Vec<Mark>) -> Did {
        if !self.started && header.seq == 0 && payload.first() == Some(&10) && self.offered.is_none() {
            let whole = [&(header.len as u32).to_le_bytes()[..3], &[0], payload].concat();
            let Seen::Yes(offered) = handshake::greeting(&whole) else { return Did::Invalid("no greeting") };
            self.offered = Some(offered);
            return Did::Go;
        }
        // The server ends a connection with an error that nobody asked for.
        match mysql::errno(payload) {
            Some(errno) => {
                begin(marks, error(errno));
                Did::End
            }
            None => Did::Invalid("a response to nothing"),
        }
    }

    /// An error ends the response, wherever it stands in it; or tells progress (MariaDB).
    fn failed(&mut self, header: Header, payload: &[u8], marks: &mut Vec<Mark>) -> Did {
        let Some(errno) = mysql::errno(payload) else { return Did::Invalid("no error number") };
        let is_first = self.answer.reading == Reading::First;
        if errno == u16::MAX {
            return if is_first { self.interim(header, marks) } else { self.passed(header, Did::Go) };
        }
        if is_first {
            begin(marks, error(errno));
        } else {
            marks.push(Mark::Outcome { stream: 0, response: error(errno) });
        }
        self.passed(header, Did::End)
    }

    /// The first packet of a response.
    fn first(&mut self, header: Header, payload: &[u8], marks: &mut Vec<Mark>) -> Did {
        let Some(asked) = self.asked.front() else { return Did::Invalid("a response to nothing") };
        let first = payload.first().copied().unwrap_or_default();
        let is_end = first == 0 || first == 0xfe && header.len < FULL;
        match &asked.kind {
            Kind::Login { .. } => self.logged_in(header, payload, marks),
            Kind::Simple { .. } if is_end => {
                let Kind::Simple { database } = &asked.kind else { return Did::Invalid("a response") };
                let Some(finish) = mysql::finish(payload, header.len) else {
                    return Did::Invalid("no OK");
                };
                self.client.learn_status(Some(finish.status));
                if let Some(database) = finish.database.or_else(|| database.clone()) {
                    self.use_database(Some(database));
                }
                begin(marks, Response::default());
                self.passed(header, Did::End)
            }
            Kind::Simple { .. } => Did::Invalid("neither OK nor an error"),
            Kind::Query { .. } => self.result(header, payload, marks),
            Kind::Prepare(_) => self.prepared(header, payload, marks),
            Kind::Fetch => {
                begin(marks, Response::default());
                self.answer.reading = Reading::Rows;
                Did::Again
            }
            Kind::Fields => {
                begin(marks, Response::default());
                self.answer.reading = Reading::Fields;
                Did::Again
            }
            Kind::Dump => {
                begin(marks, Response::default());
                self.answer.reading = Reading::Events;
                Did::Again
            }
            Kind::Text => {
                begin(marks, Response::default());
                self.passed(header, Did::End)
            }
            Kind::Other if first == 0xff => {
                let Some(errno) = mysql::errno(payload) else { return Did::Invalid("no error number") };
                begin(marks, error(errno));
                self.passed(header, Did::End)
            }
            // It may be of several packets.
            Kind::Other if self.asked.len() > 1 => Did::Invalid("the end of a response that is not known"),
            Kind::Other => {
                begin(marks, Response::default());
                self.passed(header, Did::UntilTurn)
            }
        }
    }

    /// The server's answers to authentication data.
    fn logged_in(&mut self, header: Header, payload: &[u8], marks: &mut Vec<Mark>) -> Did {
        let Some(Kind::Login { database, compressed }) = self.asked.front().map(|asked| asked.kind.clone())
        else {
            return Did::Invalid("a response");
        };
        match payload.first() {
            Some(0) => {}
            // Another plugin, more data, another factor.
            Some(0xfe | 0x01 | 0x02) => {
                return self.interim(header, marks);
            }
            _ => return Did::Invalid("no answer to authentication data"),
        }
        let Some(finish) = mysql::finish(payload, header.len) else {
            return Did::Invalid("no OK");
        };
        self.client.learn_status(Some(finish.status));
        self.use_database(finish.database.or(database));
        // Of a connection that changes its user the server forgets them.
        self.client.forget_all();
        begin(marks, Response::default());
        if compressed {
            marks.push(Mark::Upgraded { to: None });
            self.tunnel = Tunnel::Compressed;
            return self.passed(header, Did::UntilClose);
        }
        self.passed(header, Did::End)
    }

    /// The first packet of a result.
    fn result(&mut self, header: Header, payload: &[u8], marks: &mut Vec<Mark>) -> Did {
        let is_first = self.answer.reading == Reading::First;
        match payload.first() {
            Some(0) if header.len > 2 => return self.finished(header, payload, marks),
            Some(0xfb) => {
                self.in_file = true;
                return if is_first { self.interim(header, marks) } else { self.passed(header, Did::Go) };
            }
            _ => {}
        }
        let Some((columns, has_definitions)) = mysql::columns(payload) else {
            return Did::Invalid("no number of columns");
        };
        if is_first {
            begin(marks, Response::default());
        }
        self.answer.reading =
            if has_definitions { Reading::Columns { left: columns } } else { Reading::BehindColumns };
        self.passed(header, Did::Go)
    }

    /// OK, or the end of rows.
    fn finished(&mut self, header: Header, payload: &[u8], marks: &mut Vec<Mark>) -> Did {
        let Some(finish) = mysql::finish(payload, header.len) else {
            return Did::Invalid("no OK");
        };
        let Some(asked) = self.asked.front() else { return Did::Invalid("a response to nothing") };
        let named = match &asked.kind {
            Kind::Query { database } => database.clone(),
            _ => None,
        };
        let more = finish.status & mysql::MORE_RESULTS != 0 && asked.kind != Kind::Fetch;
        self.client.learn_status(Some(finish.status));
        if let Some(database) = finish.database.or(named) {
            self.use_database(Some(database));
        }
        let in_rows = self.answer.reading == Reading::Rows;
        let affected = finish.affected.filter(|_| !in_rows).unwrap_or(0);
        self.answer.rows = self.answer.rows.saturating_add(affected);
        let is_first = self.answer.reading == Reading::First;
        if more {
            if is_first {
                begin(marks, Response::default());
            }
            self.answer.reading = Reading::NextResult;
            return self.passed(header, Did::Go);
        }
        let response = Response { rows: Some(self.answer.rows), ..Response::default() };
        match is_first {
            true => begin(marks, response),
            false => marks.push(Mark::Outcome { stream: 0, response }),
        }
        self.passed(header, Did::End)
    }

    /// A statement is prepared.
    fn prepared(&mut self, header: Header, payload: &[u8], marks: &mut Vec<Mark>) -> Did {
        let Some(mysql::Prepared { id, columns, parameters }) = mysql::prepared(payload) else {
            return Did::Invalid("no prepared statement");
        };
        let asked = self.asked.front().map(|asked| asked.kind.clone());
        let Some(Kind::Prepare(prepared)) = asked else { return Did::Invalid("a response") };
        self.client.remember(id, prepared);
        begin(marks, Response::default());
        self.answer.reading = match (parameters, columns) {
            (0, 0) => return self.passed(header, Did::End),
            (0, left) => Reading::Definitions { left, then: 0 },
            (left, then) => Reading::Definitions { left, then },
        };
        self.passed(header, Did::Go)
    }

    fn use_database(&mut self, name: Option<Bytes>) {
        self.client.namespace = name.filter(|name| !name.is_empty());
    }
}

fn begin(marks: &mut Vec<Mark>, response: Response) {
    marks.push(Mark::Begin(Message { stream: 0, body: Body::Response(response) }));
}

/// The number alone: what an error says in words holds values.
fn error(errno: u16) -> Response {
    Response { status_code: Some(errno.into()), error: ErrorFor::Both, ..Response::default() }
}
