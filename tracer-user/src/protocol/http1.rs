//! HTTP/1.0 and 1.1 (RFC 9112, RFC 9110), for clients and servers alike.
//!
//! **Framing.** A message with a known length is one step, however long: its body is never looked at. A chunked body
//! is read size line by size line. What has neither runs until the close. HEAD, 1xx, 204, 304, CONNECT and Upgrade
//! are framed by the request they answer; requests in flight are remembered for that (at most [`MAX_ASKED`]).
//!
//! **Framing that cannot be known** (`Content-Length` that conflicts or is no number, a request whose transfer coding
//! does not end in chunked): the message begins, is cut, and the bytes behind its head are invalid.
//!
//! **A response whose request was not seen** (attached in the middle, request lost) may answer a HEAD request: its head
//! says how long the body would be, and none follows. If the bytes behind its head are no status line, they are its body.
//! If they are one, and a new request came in between, the response had no body; if none came (or the connection
//! pipelines), that cannot be told, and they are invalid. On a connection that pipelines, all responses behind a loss of
//! requests are read like that, until pairing knows again which request a response answers ([`Parser::in_flight`]).
//!
//! **Resync.** Bodies may hold text that looks like a head, so that only a turn's start is taken for a boundary, and
//! only when the bytes there are a whole valid start line with a registered method (and then, in `step`, a strictly valid
//! head, of HTTP/1.1 with a `Host`). It is not taken in the request flow while the last thing the server said was an
//! interim response, or may have been (the turn is then a request's body; of skipped responses no more is read than
//! this, see [`Said`]), nor in the response flow while nothing is unanswered. What remains possible: a message's head is lost, its body goes on in a new turn (the server answered
//! early and the client sends on all the same; the client pipelines; both sides stream at once; the loss of an interim
//! response has not shown yet), and the body holds a whole valid head exactly where that turn starts. What lies
//! before the boundary is lost and counted by the stream.
//!
//! **Bounds.** Heads up to [`head::MAX_HEAD`], chunk lines 16 KiB, trailers 64 KiB; longer ones are invalid. Cost: each
//! byte of a head is looked at 10 times at most (twice in the usual case), of a chunk line twice, of a body never,
//! however small the pieces. A request and its response take 0.26 µs (`wrk` and nginx: 40 and 154 bytes) to 0.37 µs (a
//! browser's, 322 and 248 bytes): best of 3,000 runs of 1,000 pairs on a busy 2-core virtual machine, 2026-11-22.
//!
//! **Event streams.** The events of a chunked body that is not coded are counted, where each chunk was shown with its size: told when the body is
//! over. A chunk that came in pieces, or of which not all was captured, makes the number unknown; so do other framings.
//!
//! Not handled: HTTP/0.9; protocols without a parser after an upgrade (the connection is then a long-lived transaction). A request that
//! waits for `100 Continue` and never sends its body is followed by nothing: the protocol demands the close.

use std::{borrow::Cow, collections::VecDeque};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    Body, Coverage, ErrorFor, Family, Flow, Inference, Mark, Message, Operation, Parser, Protocol, Request,
    Response, Resync, Step,
    codec::{
        chunked::{Chunked, Progress},
        events::Events,
        head::{self, Fields, Length, Parse, RequestLine},
        interim::Said,
    },
    upgraded_to,
};

/// Requests in flight whose method is remembered; beyond it all are forgotten and responses are framed as unknown.
pub const MAX_ASKED: usize = 1024;
/// Bytes kept of the protocol's name in an upgrade.
const MAX_UPGRADE: usize = 64;
/// Start lines searched for in a resync; a request line may be as long as servers accept.
const MAX_RESYNC_LINE: usize = 16 << 10;
/// A target so long with a known method and a path is a request's, without its end.
const LONG_TARGET: usize = 4096;

/// HTTP/1.x.
pub struct Http1;

impl Protocol for Http1 {
    fn name(&self) -> &'static str {
        "http1"
    }

    fn semconv_name(&self) -> &'static str {
        "http"
    }

    fn family(&self) -> Family {
        Family::Http
    }

    fn coverage(&self) -> Coverage {
        Coverage {
            title: "HTTP/1.x",
            covers: "both roles; keep-alive, pipelining, chunked bodies, 1xx, HEAD, CONNECT and Upgrade, bodies until close, event streams and, where they are chunked and captured whole, the number of their events",
            lacks: "content of bodies",
            tested_with: "nginx, curl, wrk, Node, Python",
        }
    }

    fn has_text_heads(&self) -> bool {
        true
    }

    fn infer(&self, head: &[u8]) -> Inference {
        let buf = &head[leading_lines(head).min(4)..];
        match (head::status_line(buf), head::request_line(buf)) {
            (Parse::Done(..), _) => Inference::Response,
            // The reason may be long; the code is enough.
            (Parse::Partial, _) if buf.len() > 12 => Inference::Response,
            (_, Parse::Done(line, _)) if !line.target.contains(&b' ') => Inference::Request,
            (_, Parse::Partial) if starts_request(buf) => Inference::Request,
            (_, Parse::Partial) if !may_be_request(buf) => Inference::No,
            (Parse::Partial, _) | (_, Parse::Partial) => Inference::NeedMore,
            _ => Inference::No,
        }
    }

    fn parser(&self) -> Box<dyn Parser> {
        Box::new(Http1Parser::default())
    }

    /// `GET / HTTP/1.1` and two line feeds.
    fn shortest_request(&self) -> u64 {
        16
    }
}

/// A known method, a path, and more of it than other protocols would send.
fn starts_request(buf: &[u8]) -> bool {
    let Some(n_method) = buf.iter().position(|&byte| byte == b' ') else { return false };
    let rest = &buf[n_method + 1..];
    is_registered(&buf[..n_method])
        && rest.first() == Some(&b'/')
        && rest.len() > LONG_TARGET
        && rest[..LONG_TARGET].iter().all(|&byte| byte > b' ' && byte != 0x7f)
}

/// What a partial line says behind its target must be the version's beginning.
fn may_be_request(buf: &[u8]) -> bool {
    let mut words = buf.splitn(3, |&byte| byte == b' ');
    let (_, target, version) = (words.next(), words.next(), words.next().unwrap_or_default());
    let version = version.strip_suffix(b"\r").unwrap_or(version);
    target.is_none_or(|target| !target.is_empty() || version.is_empty())
        && version.len() <= 8
        && version.iter().zip(b"HTTP/1.").all(|(have, want)| have == want)
}

/// Reads both flows of one connection.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Http1Parser {
    /// By flow.
    flows: [Side; 2],
    /// Requests that have no final response yet, oldest first.
    asked: VecDeque<Asked>,
    /// Requests behind unknown ones: which responses are theirs is not known. With `asked`, at most [`MAX_ASKED`].
    behind: VecDeque<Asked>,
    /// How much was said in the response flow, to tell which requests were sent without waiting.
    n_said: u64,
    /// Requests begun, to tell whether one came between two looks at the response flow.
    n_requests: u64,
    /// Requests may be in flight behind those in `asked` (and before those in `behind`) that are not known.
    unknown_asked: bool,
    /// A response came while a later request was in flight too.
    pipelined: bool,
    /// The last thing in the response flow, as far as heads and skipped bytes tell.
    said: Said,
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Side {
    reading: Reading,
    /// Bytes at the start of the buffer that hold no end of a head.
    scanned: usize,
    /// Bytes that were there when a head was read in vain.
    tried: usize,
    /// Found by a resync: the next head must be beyond doubt.
    strict: bool,
    /// The bytes shown last were invalid: what begins there is no boundary.
    refused: bool,
}

/// What comes next in a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
enum Reading {
    /// A head.
    #[default]
    Head,
    /// The rest of a chunked body.
    Chunked(Chunked),
    /// A body, or the next head: the response's request is not known.
    BodyOrHead {
        /// What the head says.
        length: Length,
        /// [`Http1Parser::n_requests`] at its head.
        n_requests: u64,
    },
    /// The body, until the close.
    UntilClose,
    /// Another protocol.
    Tunnel,
    /// Bytes of unknown framing.
    Unknown,
    /// The rest of a chunked event stream.
    Events(Chunked, Events),
}

/// A request in flight.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Asked {
    kind: AskedKind,
    /// [`Http1Parser::n_said`] when it was sent.
    n_said: u64,
}

/// What a response needs to know about its request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum AskedKind {
    Head,
    Connect,
    Upgrade(Bytes),
    Other,
}

impl Parser for Http1Parser {
    fn step(&mut self, flow: Flow, buf: &[u8], marks: &mut Vec<Mark>) -> Step {
        let side = &mut self.flows[flow.index()];
        match &mut side.reading {
            Reading::Head => {}
            Reading::Chunked(chunked) => {
                return match chunked.advance(buf) {
                    Progress::Passed(len) => Step::Consume { len },
                    Progress::Ended(len) => {
                        side.reading = Reading::Head;
                        marks.push(Mark::End { stream: 0 });
                        Step::Consume { len }
                    }
                    Progress::NeedMore => Step::NeedMore,
                    Progress::Bad(why) => self.give_up(flow, why),
                };
            }
            Reading::Events(chunked, events) => {
                let progress = chunked.advance_through(buf, |data, is_all| {
                    events.seen(data);
                    if !is_all {
                        events.unseen();
                    }
                });
                return match progress {
                    Progress::Passed(len) => Step::Consume { len },
                    Progress::Ended(len) => {
                        let n = events.count();
                        side.reading = Reading::Head;
                        marks.extend(n.map(|n| Mark::Messages { stream: 0, n }));
                        marks.push(Mark::End { stream: 0 });
                        Step::Consume { len }
                    }
                    Progress::NeedMore => Step::NeedMore,
                    Progress::Bad(why) => self.give_up(flow, why),
                };
            }
            &mut Reading::BodyOrHead { length, n_requests } => {
                // Nothing of a body has been seen. A head that begins here follows a response without a body, if a
                // request came in between; or it is text in a body.
                match head::status_line(buf) {
                    Parse::Done(..) if n_requests != self.n_requests && !self.pipelined => {
                        side.reading = Reading::Head;
                        marks.push(Mark::End { stream: 0 });
                        return Step::Consume { len: 0 };
                    }
                    Parse::Done(..) => return self.give_up(flow, "a body or a response"),
                    Parse::Partial if buf.len() < MAX_RESYNC_LINE => return Step::NeedMore,
                    Parse::Partial | Parse::Bad => {}
                }
                if let Length::Fixed(len) = length {
                    side.reading = Reading::Head;
                    marks.push(Mark::End { stream: 0 });
                    return Step::Consume { len };
                }
                side.reading = match length {
                    Length::Chunked => Reading::Chunked(Chunked::default()),
                    _ => Reading::UntilClose,
                };
                return self.step(flow, buf, marks);
            }
            Reading::UntilClose | Reading::Tunnel => return Step::UntilClose,
            Reading::Unknown => return self.give_up(flow, "framing not known"),
        }
        if flow == Flow::Request && self.asked.iter().any(|asked| asked.kind == AskedKind::Connect) {
            // A tunnel or the next request: the answer to CONNECT decides.
            return Step::NeedMore;
        }
        let n_empty = leading_lines(buf);
        if n_empty > 0 && side.scanned == 0 {
            return Step::Consume { len: n_empty as u64 };
        }
        if side.scanned > 0 && head::find_end(buf, side.scanned).is_none() {
            side.scanned = buf.len();
            if buf.len() > head::MAX_HEAD {
                return self.give_up(flow, "head too long");
            }
            // So that bytes that are no head are noticed early, and all of them are read twice at most.
            if buf.len() < 2 * side.tried {
                return Step::NeedMore;
            }
        }
        side.tried = buf.len();
        let step = match flow {
            Flow::Request => self.request(buf, marks),
            Flow::Response => self.response(buf, marks),
        };
        let side = &mut self.flows[flow.index()];
        match step {
            Step::NeedMore if buf.len() > head::MAX_HEAD => self.give_up(flow, "head too long"),
            Step::NeedMore => {
                side.scanned = buf.len();
                step
            }
            Step::Invalid(why) => self.give_up(flow, why),
            Step::Consume { .. } | Step::UntilClose | Step::UntilTurn | Step::LookUntilTurn => {
                (side.scanned, side.tried, side.strict) = (0, 0, false);
                step
            }
        }
    }

    fn resync(&mut self, flow: Flow, missing: u64, buf: &[u8], turn_starts: &[usize]) -> Resync {
        let resync = self.find_turn(flow, missing, buf, turn_starts);
        if flow == Flow::Response {
            // An interim response may have been among what is lost, or be among what is skipped.
            let (Resync::At(dropped) | Resync::NotYet { dropped }) = resync;
            if missing > 0 {
                self.said = Said::LOST;
            }
            self.said.skip(&buf[..dropped]);
        }
        resync
    }

    fn in_flight(&mut self, n: usize) {
        let mut known = std::mem::take(&mut self.asked);
        known.append(&mut self.behind);
        // Fewer: they were too many to remember.
        if let Some(n_answered) = known.len().checked_sub(n) {
            known.drain(..n_answered);
            self.asked = known;
            self.unknown_asked = false;
        } else {
            self.behind = known;
            self.unknown_asked = true;
        }
    }

    fn close(&mut self, flow: Flow, marks: &mut Vec<Mark>) {
        let side = &mut self.flows[flow.index()];
        match std::mem::take(side).reading {
            Reading::Head | Reading::Unknown => {}
            // Whoever reads them goes when it likes.
            Reading::Events(_, events) => {
                marks.extend(events.count().map(|n| Mark::Messages { stream: 0, n }));
                marks.push(Mark::Cut { stream: 0 });
            }
            // A length and no body: the answer to HEAD, or cut off; which of them is not known.
            Reading::Chunked(_) | Reading::BodyOrHead { length: Length::Fixed(_) | Length::Chunked, .. } => {
                marks.push(Mark::Cut { stream: 0 });
            }
            Reading::BodyOrHead { .. } | Reading::UntilClose => marks.push(Mark::End { stream: 0 }),
            Reading::Tunnel => {
                side.reading = Reading::Tunnel;
                if flow == Flow::Response {
                    marks.push(Mark::End { stream: 0 });
                }
            }
        }
    }

    fn save(&self) -> Vec<u8> {
        // Plain data into memory: there is no way to fail, and `load` refuses the empty state.
        postcard::to_allocvec(self).unwrap_or_default()
    }

    fn load(&mut self, state: &[u8]) -> bool {
        match postcard::from_bytes::<Http1Parser>(state) {
            Ok(parser) if parser.asked.len() + parser.behind.len() <= MAX_ASKED => {
                *self = parser;
                true
            }
            _ => false,
        }
    }
}

impl Http1Parser {
    fn give_up(&mut self, flow: Flow, why: &'static str) -> Step {
        let side = &mut self.flows[flow.index()];
        *side = Side { reading: side.reading, strict: side.strict, refused: true, ..Side::default() };
        Step::Invalid(why)
    }

    /// Looks for a turn's start that is a boundary.
    fn find_turn(&mut self, flow: Flow, missing: u64, buf: &[u8], turn_starts: &[usize]) -> Resync {
        let side = &mut self.flows[flow.index()];
        if matches!(side.reading, Reading::Tunnel | Reading::UntilClose) {
            return Resync::At(0);
        }
        let at_refused = std::mem::take(&mut side.refused) && missing == 0;
        *side = Side { strict: true, ..Side::default() };
        match flow {
            // Requests that are known stand before the lost ones.
            Flow::Request => self.unknown_asked = true,
            Flow::Response => self.n_said += 1,
        }
        let refused = match flow {
            Flow::Request => self.said.may_be_interim(),
            Flow::Response => self.asked.is_empty() && self.behind.is_empty() && !self.unknown_asked,
        };
        if refused {
            return Resync::NotYet { dropped: buf.len() };
        }
        for (idx, &start) in turn_starts.iter().enumerate() {
            let end = turn_starts.get(idx + 1).copied();
            let Some(turn) = buf.get(start..end.unwrap_or(buf.len())) else { continue };
            if start == 0 && at_refused {
                continue;
            }
            let n_empty = leading_lines(turn);
            let line = &turn[n_empty..];
            let begins = match flow {
                Flow::Request => match head::request_line(line) {
                    Parse::Done(line, _) if line.target.contains(&b' ') || !is_registered(line.method) => {
                        Parse::Bad
                    }
                    Parse::Done(_, len) => Parse::Done((), len),
                    Parse::Partial => Parse::Partial,
                    Parse::Bad => Parse::Bad,
                },
                Flow::Response => match head::status_line(line) {
                    Parse::Done(_, len) => Parse::Done((), len),
                    Parse::Partial => Parse::Partial,
                    Parse::Bad => Parse::Bad,
                },
            };
            match begins {
                Parse::Done(..) => {
                    if flow == Flow::Response {
                        self.forget_answered();
                    }
                    return Resync::At(start + n_empty);
                }
                // A line goes on into no other turn.
                Parse::Partial if end.is_none() && line.len() <= MAX_RESYNC_LINE => {
                    return Resync::NotYet { dropped: start };
                }
                Parse::Partial | Parse::Bad => {}
            }
        }
        Resync::NotYet { dropped: buf.len() }
    }

    /// A request's head at the start of `buf`.
    fn request(&mut self, buf: &[u8], marks: &mut Vec<Mark>) -> Step {
        let strict = self.flows[Flow::Request.index()].strict;
        let (line, n_line) = match head::request_line(buf) {
            Parse::Done(line, n_line) => (line, n_line),
            Parse::Partial => return Step::NeedMore,
            Parse::Bad => return Step::Invalid("no request line"),
        };
        let mut scratch = Vec::new();
        let (fields, n_fields) = match head::fields(&buf[n_line..], strict, &mut scratch) {
            Parse::Done(fields, n_fields) => (fields, n_fields),
            Parse::Partial => return Step::NeedMore,
            Parse::Bad => return Step::Invalid("no header fields"),
        };
        let is_http_11 = !buf[..n_line].trim_ascii_end().ends_with(b"0");
        if strict && is_http_11 && fields.host.is_none() {
            return Step::Invalid("no host behind a gap");
        }
        if n_line + n_fields > head::MAX_HEAD {
            return Step::Invalid("head too long");
        }
        self.ask(&line, &fields);
        let n_head = (n_line + n_fields) as u64;
        marks.push(Mark::Begin(Message { stream: 0, body: Body::Request(request(&line, &fields)) }));
        let side = &mut self.flows[Flow::Request.index()];
        match fields.length {
            // What follows CONNECT is the tunnel's, whatever the head says.
            _ if line.method == b"CONNECT" => marks.push(Mark::End { stream: 0 }),
            Length::Absent => marks.push(Mark::End { stream: 0 }),
            Length::Fixed(length) => {
                marks.push(Mark::End { stream: 0 });
                return Step::Consume { len: n_head + length };
            }
            Length::Chunked => side.reading = Reading::Chunked(Chunked::default()),
            Length::OtherCoding | Length::Invalid => {
                side.reading = Reading::Unknown;
                marks.push(Mark::Cut { stream: 0 });
            }
        }
        Step::Consume { len: n_head }
    }

    /// A response's head at the start of `buf`.
    fn response(&mut self, buf: &[u8], marks: &mut Vec<Mark>) -> Step {
        let strict = self.flows[Flow::Response.index()].strict;
        let (status, n_line) = match head::status_line(buf) {
            Parse::Done(status, n_line) => (status, n_line),
            Parse::Partial => return Step::NeedMore,
            Parse::Bad => return Step::Invalid("no status line"),
        };
        let mut scratch = Vec::new();
        let (fields, n_fields) = match head::fields(&buf[n_line..], strict, &mut scratch) {
            Parse::Done(fields, n_fields) => (fields, n_fields),
            Parse::Partial => return Step::NeedMore,
            Parse::Bad => return Step::Invalid("no header fields"),
        };
        if n_line + n_fields > head::MAX_HEAD {
            return Step::Invalid("head too long");
        }
        self.n_said += 1;
        let n_head = (n_line + n_fields) as u64;
        let response = response(status, &fields);
        if matches!(status, 100 | 102..=199) {
            self.said = Said::INTERIM;
            marks.push(Mark::Begin(Message { stream: 0, body: Body::Interim(response) }));
            marks.push(Mark::End { stream: 0 });
            return Step::Consume { len: n_head };
        }
        self.said = Said::FINAL;
        let asked = self.asked.pop_front().map(|asked| asked.kind);
        self.pipelined |= !self.asked.is_empty();
        marks.push(Mark::Begin(Message { stream: 0, body: Body::Response(response) }));
        let tunnel = match (status, &asked) {
            (101, Some(AskedKind::Upgrade(to))) => Some(Some(to.clone())),
            (101, _) => {
                Some(fields.upgrade.map(|to| Bytes::copy_from_slice(&to[..to.len().min(MAX_UPGRADE)])))
            }
            (200..=299, Some(AskedKind::Connect)) => Some(None),
            _ => None,
        };
        if let Some(to) = tunnel {
            // The response goes on as the tunnel; it ends with the connection.
            let has_parser = to.as_deref().is_some_and(|to| upgraded_to(to).is_some());
            marks.push(Mark::Upgraded { to });
            for side in &mut self.flows {
                *side = Side { reading: Reading::Tunnel, ..Side::default() };
            }
            return if has_parser { Step::Consume { len: n_head } } else { Step::UntilClose };
        }
        let n_requests = self.n_requests;
        let side = &mut self.flows[Flow::Response.index()];
        let is_head = matches!(asked, Some(AskedKind::Head));
        match fields.length {
            _ if is_head || matches!(status, 204 | 304) => marks.push(Mark::End { stream: 0 }),
            Length::Fixed(0) => marks.push(Mark::End { stream: 0 }),
            Length::Invalid => {
                side.reading = Reading::Unknown;
                marks.push(Mark::Cut { stream: 0 });
            }
            length if asked.is_none() => side.reading = Reading::BodyOrHead { length, n_requests },
            Length::Fixed(length) => {
                marks.push(Mark::End { stream: 0 });
                return Step::Consume { len: n_head + length };
            }
            Length::Chunked if fields.event_stream && !fields.encoded => {
                side.reading = Reading::Events(Chunked::default(), Events::default());
            }
            Length::Chunked => side.reading = Reading::Chunked(Chunked::default()),
            Length::Absent | Length::OtherCoding => {
                // Said with the head, so that a body of which nothing is captured is no gap.
                side.reading = Reading::UntilClose;
                return Step::UntilClose;
            }
        }
        Step::Consume { len: n_head }
    }

    /// Remembers what the response's framing depends on.
    fn ask(&mut self, line: &RequestLine<'_>, fields: &Fields<'_>) {
        self.n_requests += 1;
        if self.unknown_asked && !self.pipelined {
            // Without pipelining a request means that all before it were answered.
            self.asked.clear();
            self.behind.clear();
            self.unknown_asked = false;
        }
        if self.asked.len() + self.behind.len() >= MAX_ASKED {
            self.asked.clear();
            self.behind.clear();
            self.unknown_asked = true;
            self.pipelined = true;
        }
        let kind = match (line.method, fields.upgrade) {
            (b"HEAD", _) => AskedKind::Head,
            (b"CONNECT", _) => AskedKind::Connect,
            (_, Some(to)) => AskedKind::Upgrade(Bytes::copy_from_slice(&to[..to.len().min(MAX_UPGRADE)])),
            _ => AskedKind::Other,
        };
        // Which response answers a request behind unknown ones is not known.
        let queue = if self.unknown_asked { &mut self.behind } else { &mut self.asked };
        queue.push_back(Asked { kind, n_said: self.n_said });
    }

    /// A response begins a turn behind lost ones: it answers what was sent last, if that is one request.
    fn forget_answered(&mut self) {
        let mut known = std::mem::take(&mut self.asked);
        known.append(&mut self.behind);
        let is_alone = match known.len() {
            0 => return,
            1 => !self.pipelined,
            n => !self.pipelined && known[n - 1].n_said != known[n - 2].n_said,
        };
        if is_alone {
            self.asked.extend(known.pop_back());
        } else {
            self.unknown_asked = true;
            self.behind = known;
        }
    }
}

/// Bytes of empty lines, which may stand before a head (RFC 9112 §2.2).
fn leading_lines(buf: &[u8]) -> usize {
    buf.iter().position(|&byte| byte != b'\r' && byte != b'\n').unwrap_or(buf.len())
}

/// The methods that keep their names (OpenTelemetry: RFC 9110, PATCH and QUERY).
pub(super) fn known_method(method: &[u8]) -> Option<&'static str> {
    Some(match method {
        b"GET" => "GET",
        b"POST" => "POST",
        b"PUT" => "PUT",
        b"DELETE" => "DELETE",
        b"HEAD" => "HEAD",
        b"OPTIONS" => "OPTIONS",
        b"PATCH" => "PATCH",
        b"CONNECT" => "CONNECT",
        b"TRACE" => "TRACE",
        b"QUERY" => "QUERY",
        _ => return None,
    })
}

/// Methods of the IANA registry (2026), apart from `PRI`, which is HTTP/2's.
fn is_registered(method: &[u8]) -> bool {
    const OTHERS: &[&[u8]] = &[
        b"ACL",
        b"BASELINE-CONTROL",
        b"BIND",
        b"CHECKIN",
        b"CHECKOUT",
        b"COPY",
        b"LABEL",
        b"LINK",
        b"LOCK",
        b"MERGE",
        b"MKACTIVITY",
        b"MKCALENDAR",
        b"MKCOL",
        b"MKREDIRECTREF",
        b"MKWORKSPACE",
        b"MOVE",
        b"ORDERPATCH",
        b"PROPFIND",
        b"PROPPATCH",
        b"REBIND",
        b"REPORT",
        b"SEARCH",
        b"UNBIND",
        b"UNCHECKOUT",
        b"UNLINK",
        b"UNLOCK",
        b"UPDATE",
        b"UPDATEREDIRECTREF",
        b"VERSION-CONTROL",
    ];
    known_method(method).is_some() || OTHERS.contains(&method)
}

fn request(line: &RequestLine<'_>, fields: &Fields<'_>) -> Request {
    let RequestLine { method, target } = *line;
    let (authority, path) = split_target(target);
    let authority = if method == b"CONNECT" { Some(target) } else { authority.or(fields.host) };
    // One allocation for both.
    let authority = authority.unwrap_or_default();
    let mut both = Vec::with_capacity(target.len() + authority.len());
    both.extend_from_slice(target);
    both.extend_from_slice(authority);
    let both = Bytes::from(both);
    let method = Cow::Borrowed(known_method(method).unwrap_or("_OTHER"));
    let operation = match (&*method, target) {
        ("CONNECT", _) => Operation::Fixed("CONNECT".into()),
        ("OPTIONS", b"*") => Operation::Fixed("OPTIONS *".into()),
        _ => Operation::Path { method, path: both.slice(path) },
    };
    Request {
        operation,
        target: Some(both.slice(..target.len())),
        authority: (!authority.is_empty()).then(|| both.slice(target.len()..)),
        trace_id: fields.trace_id.clone(),
        ..Request::default()
    }
}

/// Authority of an absolute target (without user and password), and where the path stands.
fn split_target(target: &[u8]) -> (Option<&[u8]>, std::ops::Range<usize>) {
    let n_target = target.iter().position(|&byte| byte == b'?' || byte == b'#').unwrap_or(target.len());
    if target.first() == Some(&b'/') {
        return (None, 0..n_target);
    }
    let Some(n_scheme) = target[..n_target].windows(3).position(|window| window == b"://") else {
        return (None, 0..n_target);
    };
    let start = n_scheme + 3;
    let end =
        target[start..n_target].iter().position(|&byte| byte == b'/').map_or(n_target, |idx| start + idx);
    let authority = &target[start..end];
    let host = authority.iter().rposition(|&byte| byte == b'@').map_or(authority, |at| &authority[at + 1..]);
    (Some(host), end..n_target)
}

fn response(status: u16, fields: &Fields<'_>) -> Response {
    Response {
        status_code: Some(i32::from(status)),
        error: match status {
            500.. => ErrorFor::Both,
            400..=499 => ErrorFor::Client,
            _ => ErrorFor::None,
        },
        error_type: None,
        long_lived: status == 101 || fields.event_stream,
        ..Response::default()
    }
}
