//! Redis and what speaks like it (Valkey, KeyDB, Dragonfly), RESP2 and RESP3
//! (<https://redis.io/docs/latest/develop/reference/protocol-spec/>), for clients and servers alike.
//!
//! **Framing.** Requests are arrays of strings, or lines (inline commands). The head of a request is what of it decides its name and
//! its text: [`MAX_HEAD`] bytes at most; arguments behind are passed over by their lengths. Of a reply, elements are counted
//! down ([`resp::Countdown`]): its depth costs nothing, and nothing of it is kept. The n-th reply answers the n-th request.
//!
//! **Names.** A request is named as sent, in upper case, container commands with their subcommand; its target is the command
//! with its keys ([`Statement`]). Values, scripts, patterns, user names and passwords are never shown. Each command of a pipeline
//! or of a MULTI is a transaction of its own (those that are queued are answered `+QUEUED`). The namespace is the database, once the
//! answer to a SELECT or RESET was seen; before it nobody knows which one a connection is in that was joined in the middle.
//!
//! **Errors.** A reply that begins with `-` or `!`, redirections (MOVED, ASK) among them; the type is its first word. An error inside a
//! reply (of a command that failed within EXEC) makes the whole reply one, since `+QUEUED` was no error.
//!
//! **Subscriptions.** The response to SUBSCRIBE is all of its confirmations, one a channel. Messages and other pushes are
//! transactions of their own ([`Body::Push`]), one-way, named by their first word, with the channel as target. In RESP2 they are
//! arrays, and taken for pushes only by their shape, and only while the client listens or has asked nothing. Behind lost
//! replies, confirmations find their request by the first channel; those that find none belong to nothing.
//!
//! **Waiting.** Commands that wait by their nature (BLPOP and the like, WAIT, XREAD with BLOCK) are long-lived: how long they take
//! says when data came and not how fast the server is. MONITOR and replication (SYNC, PSYNC) make the connection a tunnel: one long-lived
//! transaction, of which nothing is read any more. What is not answered (CLIENT REPLY OFF and SKIP, REPLCONF ACK) is one-way.
//!
//! **Recognised** by requests alone: an array whose first string is a known command. Replies could be another protocol's (`+OK` is
//! POP3's), and so could inline commands (`PING` is NATS', `get` memcached's): where a connection begins with them, what was asked and
//! what was answered first are looked at together ([`Protocol::infer_answered`]).
//!
//! **Resync.** At a turn's start only: for requests on a whole array head with a known command, for replies on a whole first line that is
//! valid for its type. What remains possible: a value that goes on in a new turn (both sides sent at once) holds such bytes exactly there.
//! Behind a loss, what a reply answers is known again when pairing says so, or when a request begins on a connection that does
//! not pipeline; until then replies are framed by themselves, which all are but the ones above.
//!
//! **Bounds.** Per connection [`MAX_SPECIAL`](super::codec::redis_flight::MAX_SPECIAL) requests in flight that need their reply read in another way (the others are
//! only counted); strings of [`resp::MAX_BULK`]. Cost: each byte of a head is looked at once in the usual case; where a head comes in pieces, once
//! more for each argument that was not whole. A byte of a string that is no key is never looked at.
//!
//! Not handled: streamed strings and aggregates of RESP3 (no server sends them); SUBSCRIBE within MULTI; the cluster bus; inline commands
//! on a connection joined in the middle, or with an answer that another protocol could give as well. On a connection that was joined in the middle, what a replica is sent, and an array of
//! strings that begins with a command's name (`COMMAND LIST`), look like requests unless the kernel knows who called whom. A server that sends
//! more than 256 KiB of pipelined replies in one gathering call (`writev`), or more than 512 buffers, is not captured whole: those replies are gaps on its side.

use std::borrow::Cow;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    Body, Capture, Coverage, ErrorFor, Family, Flow, Inference, Mark, Message, Operation, Parser, Protocol,
    Request, Response, Resync, Step,
    codec::{
        chunked::Progress,
        head::Parse,
        redis_commands::{Act, Which},
        redis_flight::{Asked, InFlight, SpecialKind, hash},
        redis_statement::{Statement, begins_inline, begins_request, database, namespace, next_word, words},
        resp::{self, Countdown, Shape},
    },
};

/// Most bytes of a message that are looked at together: what is captured of a turn anyway before its protocol is known.
pub const MAX_HEAD: usize = 4096;
/// Longest inline command, as servers have it (`PROTO_INLINE_MAX_SIZE`).
const MAX_INLINE: usize = 64 << 10;
/// Bytes of a channel that are shown.
const MAX_CHANNEL: usize = 256;

/// Redis.
pub struct Redis;

impl Protocol for Redis {
    fn name(&self) -> &'static str {
        "redis"
    }

    fn family(&self) -> Family {
        Family::Cache
    }

    fn coverage(&self) -> Coverage {
        Coverage {
            title: "Redis (RESP2, RESP3)",
            covers: "both roles; pipelines, keys of commands, errors, MULTI, subscriptions and other pushes, databases, commands that wait, inline commands, MONITOR and replication as one long-lived transaction",
            lacks: "values, scripts and passwords; streamed types of RESP3, which no server sends; the cluster bus",
            tested_with: "redis-server, redis-cli, redis-benchmark, Python",
        }
    }

    /// `+OK` is POP3's too.
    fn responses_are_inferred(&self) -> bool {
        false
    }

    fn infer(&self, head: &[u8]) -> Inference {
        match begins_request(head) {
            Parse::Done(..) => Inference::Request,
            Parse::Partial => Inference::NeedMore,
            Parse::Bad => Inference::No,
        }
    }

    /// Inline commands, by their answers.
    fn infer_answered(&self, asked: &[u8], answered: &[u8]) -> Inference {
        match (begins_inline(asked), answered) {
            (None, _) => Inference::No,
            (Some(_), []) => Inference::NeedMore,
            (Some(command), _) if resp::certainly_answers(command.name, answered) => Inference::Request,
            _ => Inference::No,
        }
    }

    fn parser(&self) -> Box<dyn Parser> {
        Box::new(RedisParser::default())
    }

    /// Replies do not say at their beginning how long they are, and pipelines are usual.
    fn capture(&self) -> Capture {
        Capture::Everything
    }

    fn tcp_ports(&self) -> &'static [u16] {
        &[6379]
    }

    /// An inline command of two letters and a line feed. No command is shorter.
    fn shortest_request(&self) -> u64 {
        3
    }
}

/// Reads both flows of one connection.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct RedisParser {
    asking: Asking,
    answering: Answering,
    /// Of the request that is held: bytes that must be there before it is worth another look.
    need: usize,
    /// Bytes at the start of an inline command that hold no line end.
    scanned: usize,
    /// By flow: the bytes shown last were invalid, and what begins there is no boundary.
    refused: [bool; 2],
    in_flight: InFlight,
    /// Pushes have a type of their own.
    is_resp3: bool,
    silence: Silence,
    in_multi: bool,
    /// Database, once it is known.
    db: Option<u16>,
    /// The EXEC to come may change it.
    db_queued: bool,
    /// RESP2: messages may come at any time.
    listens: bool,
    /// Channels, patterns and channels of shards that are subscribed to, as far as confirmations told.
    subscribed: [u64; 3],
    /// Channels and patterns, as the last confirmation told.
    n_subscribed: u64,
}

/// Where the request flow is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
enum Asking {
    /// At a request.
    #[default]
    Head,
    /// Behind a request's head: so many arguments to come.
    Arguments(u64),
    /// Nothing is read any more.
    Tunnel,
}

/// Where the response flow is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
enum Answering {
    /// At a reply.
    #[default]
    Head,
    /// In a reply.
    Reply(Countdown),
    /// In the rest of a push, which belongs to nothing.
    Rest(Countdown),
    /// Between confirmations of one request: so many to come.
    Confirmations(u64),
    /// Nothing is read any more.
    Tunnel,
}

/// CLIENT REPLY.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
enum Silence {
    /// All are answered.
    #[default]
    No,
    /// The next one is not.
    Next,
    /// None is.
    Yes,
}

impl Parser for RedisParser {
    fn step(&mut self, flow: Flow, buf: &[u8], marks: &mut Vec<Mark>) -> Step {
        let step = match flow {
            Flow::Request => self.request(buf, marks),
            Flow::Response => self.response(buf, marks),
        };
        if matches!(step, Step::Invalid(_)) {
            marks.clear();
            self.refused[flow.index()] = true;
        }
        step
    }

    fn resync(&mut self, flow: Flow, missing: u64, buf: &[u8], turn_starts: &[usize]) -> Resync {
        let refused = std::mem::take(&mut self.refused[flow.index()]) && missing == 0;
        let tunnel = match flow {
            Flow::Request => self.asking == Asking::Tunnel,
            Flow::Response => self.answering == Answering::Tunnel,
        };
        if tunnel {
            return Resync::At(0);
        }
        match flow {
            Flow::Request => {
                (self.asking, self.need, self.scanned) = (Asking::Head, 0, 0);
                self.in_flight.requests_lost();
                // What was lost may have changed them.
                (self.in_multi, self.silence) = (false, Silence::No);
                (self.db, self.db_queued) = (None, false);
            }
            Flow::Response => {
                self.answering = Answering::Head;
                self.in_flight.replies_lost();
            }
        }
        for (idx, &start) in turn_starts.iter().enumerate() {
            let end = turn_starts.get(idx + 1).copied();
            let Some(turn) = buf.get(start..end.unwrap_or(buf.len())) else { continue };
            if start == 0 && refused {
                continue;
            }
            let begins = match flow {
                Flow::Request => begins_request(turn),
                Flow::Response => resp::begins_reply(turn),
            };
            match begins {
                Parse::Done(..) => return Resync::At(start),
                // A head goes on into no other turn.
                Parse::Partial if end.is_none() => return Resync::NotYet { dropped: start },
                Parse::Partial | Parse::Bad => {}
            }
        }
        Resync::NotYet { dropped: buf.len() }
    }

    fn in_flight(&mut self, n: usize) {
        self.in_flight.known(n);
    }

    fn close(&mut self, flow: Flow, marks: &mut Vec<Mark>) {
        match flow {
            Flow::Request => {
                (self.need, self.scanned) = (0, 0);
                if let Asking::Arguments(_) = self.asking {
                    self.asking = Asking::Head;
                    marks.push(Mark::Cut { stream: 0 });
                }
            }
            Flow::Response => match self.answering {
                Answering::Head | Answering::Rest(_) => self.answering = Answering::Head,
                Answering::Reply(_) | Answering::Confirmations(_) => {
                    self.answering = Answering::Head;
                    marks.push(Mark::Cut { stream: 0 });
                }
                Answering::Tunnel => marks.push(Mark::End { stream: 0 }),
            },
        }
    }

    fn save(&self) -> Vec<u8> {
        // Plain data into memory: there is no way to fail, and `load` refuses the empty state.
        postcard::to_allocvec(self).unwrap_or_default()
    }

    fn load(&mut self, state: &[u8]) -> bool {
        match postcard::from_bytes::<RedisParser>(state) {
            Ok(parser) if parser.in_flight.is_bounded() => {
                *self = parser;
                true
            }
            _ => false,
        }
    }
}

/// Requests.
impl RedisParser {
    fn request(&mut self, buf: &[u8], marks: &mut Vec<Mark>) -> Step {
        match self.asking {
            Asking::Head if buf.len() < self.need => Step::NeedMore,
            Asking::Head if buf.first() == Some(&b'*') => self.array(buf, marks),
            Asking::Head => self.inline(buf, marks),
            Asking::Arguments(left) => self.arguments(left, buf, marks),
            Asking::Tunnel => Step::UntilClose,
        }
    }

    /// A request at the start of `buf`.
    fn array(&mut self, buf: &[u8], marks: &mut Vec<Mark>) -> Step {
        let (n_args, n_line) = match resp::number(buf) {
            // Servers pass over these in silence.
            Parse::Done(..=0, n_line) => return Step::Consume { len: n_line as u64 },
            Parse::Done(n_args @ 1..=resp::MAX_COUNT, n_line) => (n_args as u64, n_line),
            Parse::Partial => return Step::NeedMore,
            Parse::Done(..) | Parse::Bad => return Step::Invalid("no number of arguments"),
        };
        let mut statement = Statement::new(usize::try_from(n_args).unwrap_or(usize::MAX));
        let mut end = n_line as u64;
        let mut left = n_args;
        while left > 0 && !statement.is_full() {
            let Some(rest) = usize::try_from(end).ok().and_then(|end| buf.get(end..)) else {
                // Behind an argument that nobody has to see; the next one is.
                self.need = usize::try_from(end).unwrap_or(usize::MAX);
                return Step::NeedMore;
            };
            let (total, n_length) = match resp::argument(rest) {
                Parse::Done(total, n_length) => (total, n_length),
                Parse::Partial => {
                    self.need = buf.len() + 1;
                    return Step::NeedMore;
                }
                Parse::Bad => return Step::Invalid("no argument"),
            };
            left -= 1;
            let is_far = end + total > MAX_HEAD as u64;
            let wanted = statement.wants();
            if wanted && !is_far {
                // Its line end is no part of it: what ends with it can be known before.
                let Some(text) = rest.get(n_length..total as usize - 2) else {
                    self.need = (end + total) as usize - 2;
                    return Step::NeedMore;
                };
                statement.push(Some(text));
            } else {
                statement.push(None);
            }
            end += total;
            if is_far {
                break;
            }
        }
        if left > 0 {
            statement.cut();
        }
        self.need = 0;
        self.ask(statement, marks);
        if left > 0 {
            self.asking = Asking::Arguments(left);
        } else {
            marks.push(Mark::End { stream: 0 });
        }
        Step::Consume { len: end }
    }

    /// Arguments behind the head.
    fn arguments(&mut self, mut left: u64, buf: &[u8], marks: &mut Vec<Mark>) -> Step {
        let mut end = 0u64;
        while left > 0 {
            let Some(rest) = usize::try_from(end).ok().and_then(|end| buf.get(end..)) else { break };
            match resp::argument(rest) {
                Parse::Done(total, _) => end += total,
                Parse::Partial if end == 0 => return Step::NeedMore,
                Parse::Partial => break,
                Parse::Bad => return Step::Invalid("no argument"),
            }
            left -= 1;
        }
        self.asking = Asking::Arguments(left);
        if left == 0 {
            self.asking = Asking::Head;
            marks.push(Mark::End { stream: 0 });
        }
        Step::Consume { len: end }
    }

    /// An inline command: a line of words.
    fn inline(&mut self, buf: &[u8], marks: &mut Vec<Mark>) -> Step {
        let is_text = |byte: &u8| *byte >= b' ' || matches!(byte, b'\t' | b'\r' | b'\n');
        let scanned = self.scanned.min(buf.len());
        let n_new = buf[scanned..].iter().position(|&byte| byte == b'\n');
        let n_seen = n_new.map_or(buf.len(), |at| scanned + at + 1);
        if n_seen > MAX_INLINE || !buf[scanned..n_seen].iter().all(is_text) {
            return Step::Invalid("no command");
        }
        if n_new.is_none() {
            self.scanned = buf.len();
            return Step::NeedMore;
        }
        let Some(n_words) = words(&buf[..n_seen]) else { return Step::Invalid("quotes that do not close") };
        self.scanned = 0;
        if n_words > 0 {
            let mut statement = Statement::new(n_words);
            let mut rest = &buf[..n_seen];
            while let Some((word, behind)) = next_word(rest) {
                let known = statement.wants().then_some(word);
                statement.push(known);
                rest = behind;
            }
            self.ask(statement, marks);
            marks.push(Mark::End { stream: 0 });
        }
        Step::Consume { len: n_seen as u64 }
    }

    /// A request begins.
    fn ask(&mut self, statement: Statement<'_>, marks: &mut Vec<Mark>) {
        self.in_flight.synchronize();
        let act = statement.command.map_or(Act::None, |command| command.act);
        let is_queued = self.in_multi && !matches!(act, Act::Exec | Act::Discard | Act::Multi | Act::Reset);
        let db = self.db;
        let special = if is_queued { self.queue(act) } else { self.act(act, &statement) };
        let special = self.silent(act, is_queued, &statement, special);
        let request = Request {
            operation: Operation::Fixed(statement.operation()),
            namespace: db.map(namespace),
            one_way: special == Some(SpecialKind::Silent),
            long_lived: !is_queued && (statement.waits() || special == Some(SpecialKind::Tunnel)),
            target: Some(Bytes::from(statement.text())),
            ..Request::default()
        };
        self.in_flight.begin(special);
        marks.push(Mark::Begin(Message { stream: 0, body: Body::Request(request) }));
    }

    /// A command within MULTI.
    fn queue(&mut self, act: Act) -> Option<SpecialKind> {
        if act == Act::Select {
            self.db_queued = true;
        }
        None
    }

    /// What a command does to the connection.
    fn act(&mut self, act: Act, statement: &Statement<'_>) -> Option<SpecialKind> {
        match act {
            Act::None | Act::Container | Act::Blocks | Act::Reply => None,
            Act::Multi => {
                self.in_multi = true;
                None
            }
            Act::Exec | Act::Discard => {
                self.in_multi = false;
                if std::mem::take(&mut self.db_queued) && act == Act::Exec {
                    // Whether it was carried out is not looked for.
                    self.db = None;
                }
                None
            }
            Act::Select => {
                let (before, now) = (self.db.take(), database(statement.argument(1)));
                Some(SpecialKind::Select { before, now })
            }
            Act::Hello => {
                let is_resp3 = match statement.argument(1) {
                    b"2" => false,
                    b"3" => true,
                    _ => return None,
                };
                Some(SpecialKind::Hello { is_resp3 })
            }
            Act::Reset => {
                (self.in_multi, self.db, self.db_queued) = (false, None, false);
                Some(SpecialKind::Reset)
            }
            Act::Replconf => {
                let word = statement.argument(1);
                let silent = word.eq_ignore_ascii_case(b"ACK") || word.eq_ignore_ascii_case(b"GETACK");
                silent.then_some(SpecialKind::Silent)
            }
            Act::Subscribe(_) => {
                self.listens = true;
                Some(SpecialKind::Subscribe {
                    n: statement.n_arguments().max(1) as u64,
                    channel: hash(statement.argument(1)),
                })
            }
            Act::Unsubscribe(which) => Some(match statement.n_arguments() {
                0 => SpecialKind::UnsubscribeAll { which: index(which) as u8 },
                n => SpecialKind::Subscribe { n: n as u64, channel: hash(statement.argument(1)) },
            }),
            Act::Monitor | Act::Sync => Some(SpecialKind::Tunnel),
        }
    }

    /// Whether the request is answered at all.
    fn silent(
        &mut self,
        act: Act,
        is_queued: bool,
        statement: &Statement<'_>,
        special: Option<SpecialKind>,
    ) -> Option<SpecialKind> {
        let word = statement.argument(2);
        if act == Act::Reply && !is_queued {
            let is = |name: &[u8]| word.eq_ignore_ascii_case(name);
            match self.silence {
                _ if is(b"ON") => self.silence = Silence::No,
                _ if is(b"OFF") => self.silence = Silence::Yes,
                Silence::No | Silence::Next if is(b"SKIP") => self.silence = Silence::Next,
                _ => {}
            }
            return if is(b"OFF") || is(b"SKIP") { Some(SpecialKind::Silent) } else { special };
        }
        // Confirmations are pushes, which are sent in any case.
        let confirms =
            matches!(special, Some(SpecialKind::Subscribe { .. } | SpecialKind::UnsubscribeAll { .. }));
        match self.silence {
            Silence::No => special,
            Silence::Next => {
                self.silence = Silence::No;
                if confirms { special } else { Some(SpecialKind::Silent) }
            }
            Silence::Yes if act == Act::Reset => {
                self.silence = Silence::No;
                special
            }
            Silence::Yes if confirms => special,
            Silence::Yes => Some(SpecialKind::Silent),
        }
    }
}

/// Replies.
impl RedisParser {
    fn response(&mut self, buf: &[u8], marks: &mut Vec<Mark>) -> Step {
        match self.answering {
            Answering::Head => self.reply(buf, marks),
            Answering::Confirmations(left) => match resp::shape(buf) {
                _ if !matches!(buf.first(), Some(b'*' | b'>')) => self.confirmations_missing(marks),
                Parse::Partial => Step::NeedMore,
                Parse::Done(shape @ Shape::Message { .. }, _) => self.push(shape, buf, marks),
                Parse::Done(shape @ Shape::Other(_), _) if buf[0] == b'>' => self.push(shape, buf, marks),
                Parse::Done(shape @ Shape::Confirmation { .. }, _) => {
                    let step = self.pass(buf);
                    if let Step::Consume { .. } = step {
                        self.confirmed(shape);
                        self.confirmations(left.saturating_sub(1), marks);
                    }
                    step
                }
                Parse::Done(Shape::Other(_), _) | Parse::Bad => self.confirmations_missing(marks),
            },
            Answering::Reply(mut countdown) => {
                let mut failure = None;
                let progress = countdown.advance(buf, &mut failure);
                if failure.is_some() && !matches!(progress, Progress::NeedMore | Progress::Bad(_)) {
                    marks.push(Mark::Outcome { stream: 0, response: response(failure) });
                }
                self.go_on(progress, countdown, Answering::Reply, marks)
            }
            Answering::Rest(mut countdown) => {
                let progress = countdown.advance(buf, &mut None);
                let step = self.go_on(progress, countdown, Answering::Rest, marks);
                marks.clear();
                step
            }
            Answering::Tunnel => Step::UntilClose,
        }
    }

    fn go_on(
        &mut self,
        progress: Progress,
        countdown: Countdown,
        state: fn(Countdown) -> Answering,
        marks: &mut Vec<Mark>,
    ) -> Step {
        match progress {
            Progress::Passed(len) => {
                self.answering = state(countdown);
                Step::Consume { len }
            }
            Progress::Ended(len) => {
                self.answering = Answering::Head;
                marks.push(Mark::End { stream: 0 });
                Step::Consume { len }
            }
            Progress::NeedMore => Step::NeedMore,
            Progress::Bad(why) => Step::Invalid(why),
        }
    }

    /// A reply or a push at the start of `buf`.
    fn reply(&mut self, buf: &[u8], marks: &mut Vec<Mark>) -> Step {
        let kind = buf[0];
        if kind == b'\n' {
            // A master says so that it is there while it prepares what a replica asked for.
            return Step::Consume { len: 1 };
        }
        let asked = self.in_flight.oldest();
        let may_be_push = match kind {
            b'>' => true,
            b'*' if self.is_resp3 => false,
            b'*' => self.listens || asked != Asked::Plain,
            _ => false,
        };
        if may_be_push {
            match resp::shape(buf) {
                Parse::Partial => return Step::NeedMore,
                Parse::Bad => return Step::Invalid("no RESP value"),
                Parse::Done(shape @ Shape::Message { .. }, _)
                    if kind == b'>' || self.listens || asked == Asked::Nothing =>
                {
                    return self.push(shape, buf, marks);
                }
                Parse::Done(shape @ Shape::Other(_), _) if kind == b'>' => {
                    return self.push(shape, buf, marks);
                }
                Parse::Done(shape @ Shape::Confirmation { .. }, _)
                    if kind == b'>' || asked != Asked::Plain =>
                {
                    return self.confirmation(shape, asked, buf, marks);
                }
                Parse::Done(..) => {}
            }
        }
        if let Asked::Special(SpecialKind::Tunnel) = asked
            && !matches!(kind, b'-' | b'!')
        {
            self.in_flight.answered();
            // The answer goes on as the tunnel; it ends with the connection.
            marks.push(Mark::Begin(Message { stream: 0, body: Body::Response(Response::default()) }));
            marks.push(Mark::Upgraded { to: None });
            (self.asking, self.answering) = (Asking::Tunnel, Answering::Tunnel);
            return Step::UntilClose;
        }
        let error = match resp::error(buf) {
            Parse::Done(error, _) => error,
            Parse::Partial => return Step::NeedMore,
            Parse::Bad => return Step::Invalid("no RESP error"),
        };
        let is_error = error.is_some();
        let mut countdown = Countdown::new(is_error);
        let mut failure = None;
        let progress = countdown.advance(buf, &mut failure);
        if let Progress::Passed(_) | Progress::Ended(_) = progress {
            self.in_flight.answered();
            self.learn(asked, is_error);
            let body = Body::Response(response(error));
            marks.push(Mark::Begin(Message { stream: 0, body }));
            if failure.is_some() {
                marks.push(Mark::Outcome { stream: 0, response: response(failure) });
            }
        }
        self.go_on(progress, countdown, Answering::Reply, marks)
    }

    /// What the server says unasked. One that is longer than [`MAX_HEAD`] ends before: the rest belongs to nothing.
    fn push(&mut self, shape: Shape<'_>, buf: &[u8], marks: &mut Vec<Mark>) -> Step {
        let before = self.answering;
        let step = self.pass(buf);
        if let Step::Consume { .. } = step {
            if let (Answering::Confirmations(_), Answering::Rest(_)) = (before, self.answering) {
                marks.push(Mark::Cut { stream: 0 });
            }
            let (name, channel) = match shape {
                Shape::Message { name, channel } => (name, Some(channel)),
                Shape::Other(name) => (name, None),
                Shape::Confirmation { channel, .. } => ("push", channel),
            };
            let request = Request {
                operation: Operation::Fixed(Cow::Borrowed(name)),
                target: channel.map(|name| Bytes::copy_from_slice(&name[..name.len().min(MAX_CHANNEL)])),
                one_way: true,
                ..Request::default()
            };
            self.in_flight.begin(Some(SpecialKind::Silent));
            marks.push(Mark::Begin(Message { stream: 0, body: Body::Push(request) }));
        }
        step
    }

    /// Passes over a whole value, or the first [`MAX_HEAD`] bytes of it: its rest then belongs to nothing.
    fn pass(&mut self, buf: &[u8]) -> Step {
        let head = &buf[..buf.len().min(MAX_HEAD)];
        let mut countdown = Countdown::new(true);
        match countdown.advance(head, &mut None) {
            Progress::Ended(len) => Step::Consume { len },
            Progress::Passed(len) if head.len() == MAX_HEAD => {
                self.answering = Answering::Rest(countdown);
                Step::Consume { len }
            }
            Progress::Passed(_) | Progress::NeedMore => Step::NeedMore,
            Progress::Bad(why) => Step::Invalid(why),
        }
    }

    /// A confirmation, the first of its request or one that nobody asked for.
    fn confirmation(&mut self, shape: Shape<'_>, asked: Asked, buf: &[u8], marks: &mut Vec<Mark>) -> Step {
        let step = self.pass(buf);
        let (Step::Consume { .. }, Shape::Confirmation { channel, .. }) = (step, shape) else { return step };
        let n = match asked {
            Asked::Special(SpecialKind::Subscribe { n, .. }) => Some(n),
            Asked::Special(SpecialKind::UnsubscribeAll { which }) => {
                Some(self.subscribed.get(usize::from(which)).copied().unwrap_or(0).max(1))
            }
            Asked::Unknown => channel.and_then(|channel| self.in_flight.find_subscription(channel)),
            _ => None,
        };
        self.confirmed(shape);
        if let Some(n) = n {
            self.in_flight.answered();
            marks.push(Mark::Begin(Message { stream: 0, body: Body::Response(Response::default()) }));
            self.confirmations(n.saturating_sub(1), marks);
        }
        step
    }

    /// So many confirmations are still to come.
    fn confirmations(&mut self, left: u64, marks: &mut Vec<Mark>) {
        // The rest of an endless channel name comes first; what it confirms was counted.
        if let Answering::Rest(_) = self.answering {
            marks.push(Mark::Cut { stream: 0 });
        } else if left == 0 {
            self.answering = Answering::Head;
            marks.push(Mark::End { stream: 0 });
        } else {
            self.answering = Answering::Confirmations(left);
        }
    }

    /// Something else came: how many there are was not known.
    fn confirmations_missing(&mut self, marks: &mut Vec<Mark>) -> Step {
        self.answering = Answering::Head;
        marks.push(Mark::Cut { stream: 0 });
        Step::Consume { len: 0 }
    }

    /// What a confirmation says of the subscriptions there are.
    fn confirmed(&mut self, shape: Shape<'_>) {
        let Shape::Confirmation { which, adds, count: Some(count), .. } = shape else { return };
        let of_kind = &mut self.subscribed[index(which)];
        if which == Which::Shards {
            *of_kind = count;
        } else {
            let change = count.abs_diff(self.n_subscribed);
            match (adds, count > self.n_subscribed, count < self.n_subscribed) {
                (true, true, _) => *of_kind = of_kind.saturating_add(change),
                (false, _, true) => *of_kind = of_kind.saturating_sub(change),
                _ => {}
            }
            self.n_subscribed = count;
            if count == 0 {
                self.subscribed[0] = 0;
                self.subscribed[1] = 0;
            }
        }
        self.listens = self.n_subscribed > 0 || self.subscribed[2] > 0;
    }

    /// What the reply means for the connection.
    fn learn(&mut self, asked: Asked, is_error: bool) {
        let Asked::Special(kind) = asked else { return };
        match kind {
            SpecialKind::Select { before, now } if self.in_flight.is_last_select() => {
                self.db = if is_error { before } else { now };
            }
            SpecialKind::Hello { is_resp3 } if !is_error => self.is_resp3 = is_resp3,
            SpecialKind::Reset if !is_error => {
                self.db = self.in_flight.is_last_select().then_some(0);
                (self.is_resp3, self.listens) = (false, false);
                (self.subscribed, self.n_subscribed) = ([0; 3], 0);
            }
            SpecialKind::Subscribe { .. } => {
                self.listens = self.n_subscribed > 0 || self.subscribed[2] > 0;
            }
            _ => {}
        }
    }
}

fn index(which: Which) -> usize {
    match which {
        Which::Channels => 0,
        Which::Patterns => 1,
        Which::Shards => 2,
    }
}

fn response(error: Option<Cow<'static, str>>) -> Response {
    Response {
        error: if error.is_some() { ErrorFor::Both } else { ErrorFor::None },
        error_type: error,
        ..Response::default()
    }
}
