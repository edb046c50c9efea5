//! gRPC over HTTP/2 (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>): what it adds to the streams of [`super::http2`].
//!
//! A stream whose request has a content type of `application/grpc` (or below it: `+proto`, `+json`) is a call. Its operation is
//! `package.Service/Method`, its outcome the status in the trailers, or in the only header fields there are. Messages
//! are counted by the five bytes before each, wherever the frames cut them. A call with more than one message in a direction is a
//! stream, and long-lived. An answer that ends without a status has failed under a name of its own
//! (`missing_grpc_status`), one of a proxy with an HTTP status other than 200 as `http_502`; an answer of
//! which some was not seen has no status at all.
//!
//! Not handled: gRPC-Web (it is plain HTTP), the fields within messages, `grpc-timeout`. A single message on a call that was meant as
//! a stream makes it no stream: what the method's definition says is not on the wire.
//!
//! **Bounds.** `grpc-message` up to [`MAX_WORDS`]; what counts the messages is [`super::codec::messages`].

use std::borrow::Cow;

use bytes::Bytes;

use super::{Coverage, ErrorFor, Family, Inference, Operation, Pairing, Parser, Protocol, Response, http2};

/// Bytes kept of `grpc-message`.
pub const MAX_WORDS: usize = 256;

/// gRPC, on the streams of HTTP/2.
pub struct Grpc;

impl Protocol for Grpc {
    fn name(&self) -> &'static str {
        "grpc"
    }

    fn family(&self) -> Family {
        Family::Rpc
    }

    fn coverage(&self) -> Coverage {
        Coverage {
            title: "gRPC",
            covers: "on HTTP/2: unary calls and streams, status and message, messages of both sides counted",
            lacks: "gRPC-Web; the fields within messages",
            tested_with: "Python (grpcio)",
        }
    }

    /// Its connections are HTTP/2's.
    fn is_inferred(&self) -> bool {
        false
    }

    fn infer(&self, _: &[u8]) -> Inference {
        Inference::No
    }

    fn parser(&self) -> Box<dyn Parser> {
        http2::Http2.parser()
    }

    fn pairing(&self) -> Pairing {
        Pairing::ByStreamId
    }

    fn shortest_request(&self) -> u64 {
        http2::Http2.shortest_request()
    }

    fn turns_are_requests(&self) -> bool {
        false
    }

    fn carriers(&self) -> &'static [&'static str] {
        &["http2"]
    }
}

/// Whether a content type is gRPC's.
pub(super) fn is_content_type(value: &[u8]) -> bool {
    let Some(name) = value.get(..16) else { return false };
    name.eq_ignore_ascii_case(b"application/grpc") && matches!(value.get(16), None | Some(b'+' | b';' | b' '))
}

/// `/package.Service/Method` as the operation's name.
pub(super) fn operation(path: &[u8]) -> Option<Operation> {
    let name = str::from_utf8(path).ok()?.strip_prefix('/')?;
    let (service, method) = name.split_once('/')?;
    let is_name = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
    };
    (is_name(service) && is_name(method)).then(|| Operation::Fixed(Cow::Owned(name.to_owned())))
}

/// What a call was answered. `http`: the response's own status, where it is known; `words`: `grpc-message` as sent.
pub(super) fn response(status: Status, http: Option<u16>, words: Option<&[u8]>) -> Response {
    match status {
        Status::Code(code) => {
            let (error, name) = classify(code);
            Response {
                status_code: i32::try_from(code).ok(),
                error,
                error_type: name.map(Cow::Borrowed),
                error_message: words.filter(|words| code != 0 && !words.is_empty()).map(decode_words),
                ..Response::default()
            }
        }
        Status::Unknown => Response::default(),
        Status::Missing => {
            let name = match http {
                None | Some(200) => Cow::Borrowed("missing_grpc_status"),
                Some(http) => Cow::Owned(format!("http_{http}")),
            };
            Response { error: ErrorFor::Both, error_type: Some(name), ..Response::default() }
        }
    }
}

/// A call's status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    /// As sent.
    Code(u32),
    /// Some fields are not known: it may be among them.
    Unknown,
    /// There is none, or it is no number.
    Missing,
}

/// For whom a status is an error, and its name (<https://grpc.github.io/grpc/core/md_doc_statuscodes.html>).
fn classify(code: u32) -> (ErrorFor, Option<&'static str>) {
    let name = match code {
        0 => return (ErrorFor::None, None),
        1 => "CANCELLED",
        2 => "UNKNOWN",
        3 => "INVALID_ARGUMENT",
        4 => "DEADLINE_EXCEEDED",
        5 => "NOT_FOUND",
        6 => "ALREADY_EXISTS",
        7 => "PERMISSION_DENIED",
        8 => "RESOURCE_EXHAUSTED",
        9 => "FAILED_PRECONDITION",
        10 => "ABORTED",
        11 => "OUT_OF_RANGE",
        12 => "UNIMPLEMENTED",
        13 => "INTERNAL",
        14 => "UNAVAILABLE",
        15 => "DATA_LOSS",
        16 => "UNAUTHENTICATED",
        _ => "_OTHER",
    };
    // What a server answers for (OpenTelemetry); to a client everything but OK is an error.
    let for_both = matches!(code, 2 | 4 | 12 | 13 | 14 | 15);
    (if for_both { ErrorFor::Both } else { ErrorFor::Client }, Some(name))
}

/// Percent-decoded, at most [`MAX_WORDS`] bytes; what is no valid escape stays as it is.
fn decode_words(words: &[u8]) -> Bytes {
    let hex = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let mut out = Vec::with_capacity(words.len().min(MAX_WORDS));
    let mut rest = words;
    while let [first, behind @ ..] = rest
        && out.len() < MAX_WORDS
    {
        let escaped = match rest {
            [b'%', high, low, ..] => hex(*high).zip(hex(*low)),
            _ => None,
        };
        match escaped {
            Some((high, low)) => {
                out.push(high << 4 | low);
                rest = &rest[3..];
            }
            None => {
                out.push(*first);
                rest = behind;
            }
        }
    }
    Bytes::from(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_decoded_and_bounded() {
        assert_eq!(&decode_words(b"no%20such%2")[..], b"no such%2");
        assert_eq!(&decode_words("caf%C3%A9".as_bytes())[..], "café".as_bytes());
        assert_eq!(decode_words(&b"%41".repeat(1000)).len(), MAX_WORDS);
    }

    #[test]
    fn a_status_is_an_error_for_whom_it_is_one() {
        let said = |code| {
            let said = response(Status::Code(code), Some(200), Some(b"x"));
            (said.error, said.error_type, said.error_message.is_some())
        };
        assert_eq!(said(0), (ErrorFor::None, None, false));
        assert_eq!(said(5), (ErrorFor::Client, Some("NOT_FOUND".into()), true));
        assert_eq!(said(14), (ErrorFor::Both, Some("UNAVAILABLE".into()), true));
        assert_eq!(said(99), (ErrorFor::Client, Some("_OTHER".into()), true));
        assert_eq!(response(Status::Missing, Some(502), None).error_type.as_deref(), Some("http_502"));
        assert_eq!(response(Status::Unknown, Some(200), None), Response::default());
    }

    #[test]
    fn an_operation_is_a_service_and_a_method() {
        assert_eq!(operation(b"/a.B/C"), Some(Operation::Fixed("a.B/C".into())));
        assert_eq!(operation(b"/a/b/c"), None);
        assert_eq!(operation(b"/a.B/C?x"), None);
        assert!(is_content_type(b"application/grpc+proto") && !is_content_type(b"application/grpc-web"));
    }
}
