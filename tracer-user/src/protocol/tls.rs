//! TLS as it is seen from outside: the record layer of RFC 8446 §5 and RFC 5246 §6.2, turn by turn. What the client says until the
//! server speaks is a request, what the server says until the client speaks again its response; what they say is not read.
//!
//! **What is shown.** `target` of every transaction is the name of the server (SNI, RFC 6066) in the connection's first ClientHello. The
//! operation is `TLS handshake` for turns that begin with a handshake or a change of cipher, `TLS` for all others. The last turn of the client's
//! handshake may hold its first request (TLS 1.3), and with early data the first turn does.
//!
//! **Facts of the connection** ([`TlsFacts`]): the name as soon as the client asks for it, and from the first ServerHello (or
//! HelloRetryRequest) what the server chose: the version (`supported_versions`, else the one in the old field), and in TLS 1.2 and before
//! the ALPN protocol. In TLS 1.3 that is encrypted: what the client offers is no fact, and is not shown. A ServerHello that was not captured
//! whole tells nothing, and changes nothing of its transaction. All of a ServerHello's lengths have to fit, so that encrypted bytes are not taken for one.
//!
//! **Errors.** A turn that begins with an alert in the clear fails, with the alert's name as `error_type`: the server's is the answer to
//! the client's turn, the client's (`unknown_ca`) a message of its own, `TLS alert`, since what it answers was answered. `close_notify` and
//! `user_canceled` are no errors. In TLS 1.2 and before, an encrypted alert shows its type: the client's is no request (it is nearly always
//! `close_notify`). In TLS 1.3 it looks as any other record: the client's `close_notify` is one more transaction, `TLS` with 24 bytes, which ends
//! `closed`.
//!
//! **Turns are all that counts.** A turn that does not begin with a record (both sides spoke at once; the kernel encrypts, and the turn is
//! in the clear) is a `TLS` turn like the others. Attached in the middle, a connection is recognised by a chain of record headers in one
//! turn, whose lengths lead from one to the next.
//!
//! **Bounds.** A ClientHello is looked at up to [`MAX_HELLO`], also when it comes in several records or pieces; a name behind that, or behind
//! the part that was captured, is not found. The same of a ServerHello. Cost: once per connection each field of both is walked over, once
//! more for each piece that brings a new one; of every other turn at most 7 bytes are looked at.
//!
//! Not handled: with Encrypted Client Hello the name is the outer one; SSL 2 and its ClientHello for later versions; DTLS; what a server
//! says unasked (tickets, renegotiation) belongs to the turn in which it comes or to no transaction; requests that were sent without
//! waiting for the answers (pipelining, HTTP/2) are one turn, streams that go on for long end when they first pause.

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    Body, Capture, Coverage, ErrorFor, Family, Flow, Inference, Mark, Message, Operation, Parser, Protocol,
    Request, Response, Resync, Step, TlsFacts,
};
use crate::text::data_text;

/// Bytes of a ClientHello that are looked at: what is captured of a turn. With a post-quantum key share it has 1.8 KB.
pub const MAX_HELLO: usize = 4096;
/// Longest content of a record: 2^14 bytes, and what encryption adds.
const MAX_RECORD: usize = (1 << 14) + 256;
/// Longest name kept (RFC 1035).
const MAX_NAME: usize = 255;
/// Shortest encrypted record: the type or a few bytes, and an authentication tag.
const MIN_ENCRYPTED: usize = 17;
/// Bytes of a record's header.
const HEADER: usize = 5;

const CHANGE_CIPHER_SPEC: u8 = 20;
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;
const CLIENT_HELLO: u8 = 1;
const SERVER_HELLO: u8 = 2;
/// Numbers of extensions.
const ALPN: usize = 16;
const SUPPORTED_VERSIONS: usize = 43;

/// TLS 1.0 to 1.3.
pub struct Tls;

impl Protocol for Tls {
    fn name(&self) -> &'static str {
        "tls"
    }

    fn family(&self) -> Family {
        Family::Other
    }

    fn coverage(&self) -> Coverage {
        Coverage {
            title: "TLS",
            covers: "turn by turn from outside: when, how many bytes, the server's name (SNI), version, ALPN up to TLS 1.2, alerts in the clear; also behind a plain connection's request for it",
            lacks: "what is said; in TLS 1.3 the ALPN protocol, which is encrypted; with Encrypted Client Hello the inner name",
            tested_with: "openssl, curl, nginx",
        }
    }

    fn infer(&self, head: &[u8]) -> Inference {
        let len = match header(head) {
            Header::Whole(len) => len,
            Header::Partial => return Inference::NeedMore,
            Header::Bad => return Inference::No,
        };
        match header(head.get(HEADER + len..).unwrap_or_default()) {
            Header::Bad => return Inference::No,
            Header::Whole(_) | Header::Partial => {}
        }
        let content = &head[HEADER..head.len().min(HEADER + len)];
        // All of the record is here, as far as it matters.
        let is_whole = |n: usize| content.len() >= n.min(len);
        match (head[0], content) {
            (HANDSHAKE, [kind @ (CLIENT_HELLO | SERVER_HELLO), rest @ ..]) => {
                let fits = |at: usize, test: fn(u8) -> bool| rest.get(at).is_none_or(|byte| test(*byte));
                // A length below 2^17, then the version.
                if !fits(0, |byte| byte <= 1) || !fits(3, |byte| byte == 3) || !fits(4, |byte| byte <= 4) {
                    Inference::No
                } else if !is_whole(6) {
                    Inference::NeedMore
                } else if *kind == CLIENT_HELLO {
                    Inference::Request
                } else {
                    Inference::Response
                }
            }
            (HANDSHAKE, []) => Inference::NeedMore,
            // The server's, or encrypted.
            (HANDSHAKE, _) if len >= 4 => Inference::Either,
            (CHANGE_CIPHER_SPEC, []) if len == 1 => Inference::NeedMore,
            (CHANGE_CIPHER_SPEC, [1]) if len == 1 => Inference::Either,
            (ALERT, [] | [1 | 2]) if len == 2 => Inference::NeedMore,
            // Before anything is encrypted either side may refuse.
            (ALERT, [1 | 2, name]) if len == 2 && alert(*name) != OTHER => Inference::Either,
            (ALERT | APPLICATION_DATA, _) if len >= MIN_ENCRYPTED => Inference::Either,
            _ => Inference::No,
        }
    }

    fn parser(&self) -> Box<dyn Parser> {
        Box::new(TlsParser::default())
    }

    fn capture(&self) -> Capture {
        Capture::Turns
    }

    /// The shortest encrypted record.
    fn shortest_request(&self) -> u64 {
        (HEADER + MIN_ENCRYPTED) as u64
    }

    /// The client's alerts are none.
    fn turns_are_requests(&self) -> bool {
        false
    }

    /// Behind a request for it.
    fn carriers(&self) -> &'static [&'static str] {
        &["postgres", "mysql"]
    }
}

/// What the bytes at a record's beginning say.
enum Header {
    /// A header; bytes of its content.
    Whole(usize),
    /// The beginning of one, or nothing.
    Partial,
    /// None.
    Bad,
}

fn header(buf: &[u8]) -> Header {
    let fits = |at: usize, test: fn(u8) -> bool| buf.get(at).is_none_or(|byte| test(*byte));
    let fits = fits(0, |kind| (CHANGE_CIPHER_SPEC..=APPLICATION_DATA).contains(&kind))
        && fits(1, |major| major == 3)
        && fits(2, |minor| (1..=4).contains(&minor));
    match buf.get(3..HEADER) {
        _ if !fits => Header::Bad,
        None => Header::Partial,
        Some(len) => match usize::from(len[0]) << 8 | usize::from(len[1]) {
            len @ 1..=MAX_RECORD => Header::Whole(len),
            _ => Header::Bad,
        },
    }
}

/// Reads both flows of one connection.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct TlsParser {
    /// The name of the server in the first ClientHello; at most [`MAX_NAME`] bytes.
    name: Option<Bytes>,
    /// The client's first turn was looked at.
    greeted: bool,
    /// What the server says answers something.
    asked: bool,
    /// Bytes of the ClientHello that must be there before it tells more.
    wanted: u32,
    /// The server's first turn was looked at.
    answered: bool,
    /// Bytes of the ServerHello that must be there before it tells more.
    wanted_of_server: u32,
}

impl Parser for TlsParser {
    fn step(&mut self, flow: Flow, buf: &[u8], marks: &mut Vec<Mark>) -> Step {
        let alert = match clear_alert(buf) {
            ClearAlert::NeedMore => return Step::NeedMore,
            ClearAlert::No => None,
            ClearAlert::Yes(alert) => Some(alert),
        };
        let body = match flow {
            Flow::Response => {
                let looks = !std::mem::replace(&mut self.answered, true);
                if self.asked {
                    let response = alert.flatten().map(failed).unwrap_or_default();
                    marks.push(Mark::Begin(Message { stream: 0, body: Body::Response(response) }));
                }
                return if looks { Step::LookUntilTurn } else { Step::UntilTurn };
            }
            Flow::Request if buf[0] == ALERT => {
                self.asked = false;
                if let Some(error) = alert.flatten() {
                    let request = Request { one_way: true, ..self.request("TLS alert") };
                    marks.push(Mark::Begin(Message { stream: 0, body: Body::Request(request) }));
                    marks.push(Mark::Outcome { stream: 0, response: failed(error) });
                }
                return Step::UntilTurn;
            }
            Flow::Request => {
                if !self.greeted && buf[0] == HANDSHAKE {
                    match self.hello(buf) {
                        Hello::Partial if buf.len() < MAX_HELLO => return Step::NeedMore,
                        Hello::Partial | Hello::NoName => {}
                        Hello::Name(name) => {
                            self.name = Some(name);
                            marks.push(Mark::Tls(self.facts(None, None)));
                        }
                    }
                }
                (self.greeted, self.asked, self.wanted) = (true, true, 0);
                let is_handshake = matches!(buf[0], HANDSHAKE | CHANGE_CIPHER_SPEC);
                Body::Request(self.request(if is_handshake { "TLS handshake" } else { "TLS" }))
            }
        };
        marks.push(Mark::Begin(Message { stream: 0, body }));
        Step::UntilTurn
    }

    fn resync(&mut self, flow: Flow, _: u64, buf: &[u8], turn_starts: &[usize]) -> Resync {
        match flow {
            Flow::Request => self.wanted = 0,
            // A ServerHello is the first that the server says.
            Flow::Response => self.answered = true,
        }
        match turn_starts.first() {
            Some(start) => Resync::At(*start),
            None => Resync::NotYet { dropped: buf.len() },
        }
    }

    fn look(&mut self, flow: Flow, buf: &[u8], marks: &mut Vec<Mark>) -> bool {
        if flow == Flow::Request {
            return false;
        }
        // Servers of TLS 1.2 may warn of the name first.
        let is_warning = matches!(clear_alert(buf), ClearAlert::Yes(None));
        let hello = if is_warning { &buf[HEADER + 2..] } else { buf };
        if hello.len() < self.wanted_of_server as usize && !is_broken(hello) {
            return true;
        }
        let (content, is_bad) = handshake(hello);
        let mut reader = Reader { rest: &content, missing: 0 };
        match chosen(&mut reader) {
            Some(Chosen { version, alpn }) => {
                let alpn = alpn.map(|name| Cow::Owned(data_text(name).into_owned()));
                marks.push(Mark::Tls(self.facts(Some(version_name(version)), alpn)));
                false
            }
            None if is_bad || reader.missing == 0 || buf.len() >= MAX_HELLO => false,
            None => {
                self.wanted_of_server = (hello.len() + reader.missing) as u32;
                true
            }
        }
    }

    fn close(&mut self, _: Flow, _: &mut Vec<Mark>) {}

    fn save(&self) -> Vec<u8> {
        // Plain data into memory: there is no way to fail, and `load` refuses the empty state.
        postcard::to_allocvec(self).unwrap_or_default()
    }

    fn load(&mut self, state: &[u8]) -> bool {
        match postcard::from_bytes::<TlsParser>(state) {
            Ok(parser) if parser.name.as_ref().is_none_or(|name| name.len() <= MAX_NAME) => {
                *self = parser;
                true
            }
            _ => false,
        }
    }
}

impl TlsParser {
    fn request(&self, operation: &'static str) -> Request {
        Request {
            operation: Operation::Fixed(Cow::Borrowed(operation)),
            target: self.name.clone(),
            authority: self.name.clone(),
            ..Request::default()
        }
    }

    fn facts(&self, version: Option<Cow<'static, str>>, alpn: Option<Cow<'static, str>>) -> Arc<TlsFacts> {
        let sni = self.name.as_deref().map(|name| Cow::Owned(data_text(name).into_owned()));
        Arc::new(TlsFacts { library: None, version, sni, alpn })
    }

    /// Looks for the name in a ClientHello of which `buf` is the beginning.
    fn hello(&mut self, buf: &[u8]) -> Hello {
        if buf.len() < self.wanted as usize && !is_broken(buf) {
            return Hello::Partial;
        }
        let (content, is_bad) = handshake(buf);
        let mut reader = Reader { rest: &content, missing: 0 };
        match server_name(&mut reader) {
            Some(Some(name)) if !name.is_empty() && name.len() <= MAX_NAME => {
                Hello::Name(Bytes::copy_from_slice(name))
            }
            Some(_) => Hello::NoName,
            None if is_bad || reader.missing == 0 => Hello::NoName,
            None => {
                self.wanted = (buf.len() + reader.missing) as u32;
                Hello::Partial
            }
        }
    }
}

/// What a ClientHello says of the server's name.
enum Hello {
    Name(Bytes),
    /// None, or no ClientHello.
    NoName,
    /// Nothing yet.
    Partial,
}

/// Something else than records of a handshake is among the bytes.
fn is_broken(mut buf: &[u8]) -> bool {
    loop {
        match header(buf) {
            Header::Whole(_) if buf[0] != HANDSHAKE => return true,
            Header::Whole(len) => buf = buf.get(HEADER + len..).unwrap_or_default(),
            Header::Partial => return false,
            Header::Bad => return true,
        }
    }
}

/// The handshake's bytes in the records at the beginning of `buf`, and whether something else follows them.
fn handshake(buf: &[u8]) -> (Cow<'_, [u8]>, bool) {
    let mut rest = buf;
    let mut all = Cow::Borrowed(&[][..]);
    while let Header::Whole(len) = header(rest) {
        if rest[0] != HANDSHAKE {
            return (all, true);
        }
        let content = &rest[HEADER..rest.len().min(HEADER + len)];
        if all.is_empty() {
            all = Cow::Borrowed(content);
        } else {
            all.to_mut().extend_from_slice(content);
        }
        rest = rest.get(HEADER + len..).unwrap_or_default();
    }
    let is_bad = matches!(header(rest), Header::Bad);
    (all, is_bad)
}

/// Walks over fields with lengths in front.
struct Reader<'a> {
    rest: &'a [u8],
    /// Bytes that the field read in vain needs beyond those that are there; 0: it does not fit its place.
    missing: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let Some((field, rest)) = self.rest.split_at_checked(len) else {
            self.missing = len - self.rest.len();
            return None;
        };
        self.rest = rest;
        Some(field)
    }

    fn number(&mut self, n_bytes: usize) -> Option<usize> {
        Some(self.take(n_bytes)?.iter().fold(0, |number, byte| number << 8 | usize::from(*byte)))
    }

    fn field(&mut self, n_bytes: usize) -> Option<&'a [u8]> {
        let len = self.number(n_bytes)?;
        self.take(len)
    }
}

/// The name in the `server_name` extension of a ClientHello (RFC 8446 §4.1.2, RFC 6066 §3): `Some(None)` without one, `None` as long as
/// it is not all there.
fn server_name<'a>(hello: &mut Reader<'a>) -> Option<Option<&'a [u8]>> {
    if hello.number(1)? != usize::from(CLIENT_HELLO) {
        return Some(None);
    }
    // Its length; version and random; session, cipher suites, compression methods.
    let mut left = hello.number(3)?.saturating_sub(34);
    hello.take(34)?;
    for n_bytes in [1, 2, 1] {
        left = left.saturating_sub(n_bytes + hello.field(n_bytes)?.len());
    }
    if left < 2 {
        return Some(None);
    }
    let mut left = hello.number(2)?;
    while left >= 4 {
        let (kind, len) = (hello.number(2)?, hello.number(2)?);
        let Some(after) = left.checked_sub(4 + len) else { return Some(None) };
        left = after;
        let extension = hello.take(len)?;
        if kind == 0 {
            let mut list = Reader { rest: extension, missing: 0 };
            let name = (|| {
                list.number(2)?;
                (list.number(1)? == 0).then_some(())?;
                list.field(2)
            })();
            return Some(name);
        }
    }
    Some(None)
}

/// What the server chose.
struct Chosen<'a> {
    /// As in the record: 0x0303 for TLS 1.2.
    version: u16,
    /// The protocol, where it is not encrypted.
    alpn: Option<&'a [u8]>,
}

/// What a ServerHello says (RFC 8446 §4.1.3, RFC 5246 §7.4.1.3): `None` as long as it is not all there, and where it is none.
fn chosen<'a>(hello: &mut Reader<'a>) -> Option<Chosen<'a>> {
    (hello.number(1)? == usize::from(SERVER_HELLO)).then_some(())?;
    let hello_len = hello.number(3)?;
    // Version, random, the shortest session, cipher suite, compression method.
    let mut left = hello_len.checked_sub(34 + 1 + 3)?;
    let mut version = hello.number(2)?;
    if !(0x0300..=0x0303).contains(&version) {
        return None;
    }
    hello.take(32)?;
    let n_session = hello.number(1)?;
    left = left.checked_sub(n_session).filter(|_| n_session <= 32)?;
    hello.take(n_session + 2)?;
    // Nobody compresses: any other value, and it is no hello.
    (hello.number(1)? == 0).then_some(())?;
    let mut alpn = None;
    if left > 0 {
        left = left.checked_sub(2)?;
        (hello.number(2)? == left).then_some(())?;
    }
    while left > 0 {
        left = left.checked_sub(4)?;
        let (kind, len) = (hello.number(2)?, hello.number(2)?);
        left = left.checked_sub(len)?;
        let mut extension = Reader { rest: hello.take(len)?, missing: 0 };
        match kind {
            SUPPORTED_VERSIONS => version = extension.number(2)?,
            // A list of one.
            ALPN => {
                let mut list = Reader { rest: extension.field(2)?, missing: 0 };
                alpn = list.field(1).filter(|name| !name.is_empty());
            }
            _ => {}
        }
    }
    // In TLS 1.3 it has no place here.
    let alpn = alpn.filter(|_| version <= 0x0303);
    u16::try_from(version).ok().map(|version| Chosen { version, alpn })
}

/// The name of a version, as OpenSSL and nginx have it; drafts and what is to come by their number.
fn version_name(version: u16) -> Cow<'static, str> {
    match version {
        0x0300 => "SSLv3".into(),
        0x0301 => "TLSv1".into(),
        0x0302 => "TLSv1.1".into(),
        0x0303 => "TLSv1.2".into(),
        0x0304 => "TLSv1.3".into(),
        other => format!("{other:#06x}").into(),
    }
}

/// Whether bytes begin with an alert in the clear.
enum ClearAlert {
    No,
    /// The alert's name if it is an error.
    Yes(Option<&'static str>),
    NeedMore,
}

fn clear_alert(buf: &[u8]) -> ClearAlert {
    const START: [u8; 5] = [ALERT, 3, 0, 0, 2];
    // The minor version is any.
    let fits = buf.iter().zip(START).enumerate().all(|(at, (have, want))| at == 2 || *have == want);
    match buf.get(HEADER..HEADER + 2) {
        _ if !fits => ClearAlert::No,
        None => ClearAlert::NeedMore,
        // Warnings fail nothing; `close_notify` and `user_canceled` neither, whatever their level.
        Some(&[2, description]) if !matches!(description, 0 | 90) => {
            ClearAlert::Yes(Some(alert(description)))
        }
        Some(_) => ClearAlert::Yes(None),
    }
}

fn failed(error: &'static str) -> Response {
    Response { error: ErrorFor::Both, error_type: Some(Cow::Borrowed(error)), ..Response::default() }
}

/// Alerts that the registry does not have.
const OTHER: &str = "_OTHER";

/// An alert's name (IANA's registry of TLS alerts, 2026).
fn alert(description: u8) -> &'static str {
    match description {
        0 => "close_notify",
        10 => "unexpected_message",
        20 => "bad_record_mac",
        21 => "decryption_failed",
        22 => "record_overflow",
        30 => "decompression_failure",
        40 => "handshake_failure",
        41 => "no_certificate",
        42 => "bad_certificate",
        43 => "unsupported_certificate",
        44 => "certificate_revoked",
        45 => "certificate_expired",
        46 => "certificate_unknown",
        47 => "illegal_parameter",
        48 => "unknown_ca",
        49 => "access_denied",
        50 => "decode_error",
        51 => "decrypt_error",
        52 => "too_many_cids_requested",
        60 => "export_restriction",
        70 => "protocol_version",
        71 => "insufficient_security",
        80 => "internal_error",
        86 => "inappropriate_fallback",
        90 => "user_canceled",
        100 => "no_renegotiation",
        109 => "missing_extension",
        110 => "unsupported_extension",
        111 => "certificate_unobtainable",
        112 => "unrecognized_name",
        113 => "bad_certificate_status_response",
        114 => "bad_certificate_hash_value",
        115 => "unknown_psk_identity",
        116 => "certificate_required",
        117 => "general_error",
        120 => "no_application_protocol",
        121 => "ech_required",
        _ => OTHER,
    }
}
