//! What a list of HTTP/2's fields says: the pseudo-header fields (RFC 9113 §8.3) and the few others that matter.

use std::borrow::Cow;

use bytes::Bytes;

use super::{
    hpack::{Decoder, Field},
    trace_id,
};
use crate::protocol::{
    ErrorFor, Operation, Request, Response,
    grpc::{self, Status},
    http1::known_method,
    upgraded_to, websocket,
};

/// What a list of fields says, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// `GET`; `_OTHER` for unknown ones.
    method: Option<&'static str>,
    path: Option<Bytes>,
    authority: Option<Bytes>,
    host: Option<Bytes>,
    has_scheme: bool,
    /// What CONNECT goes to within HTTP (RFC 8441), by the names that `Upgrade` has.
    connects_to: Option<Bytes>,
    /// A response's status.
    pub status: Option<u16>,
    /// The content type is gRPC's.
    pub grpc: bool,
    /// The content type is that of an event stream.
    pub event_stream: bool,
    /// The content is coded (`content-encoding`).
    encoded: bool,
    status_of_call: Option<Bytes>,
    /// `grpc-message`, as sent.
    pub grpc_message: Option<Bytes>,
    /// Fields that may hold a trace id: which, and what.
    traced: Vec<(Bytes, Bytes)>,
    /// There are fields of which nothing is known.
    pub unknown: bool,
}

/// The names whose values are kept in dynamic tables.
fn is_of_interest(name: &[u8]) -> bool {
    let is_pseudo =
        matches!(name, b":method" | b":scheme" | b":path" | b":authority" | b":status" | b":protocol");
    is_pseudo
        || matches!(name, b"host" | b"content-type" | b"content-encoding" | b"grpc-status" | b"grpc-message")
        || trace_id::is_field(name)
}

impl Head {
    /// Decodes a whole list; `None`: it is none.
    pub fn read(decoder: &mut Decoder, block: &[u8]) -> Option<Head> {
        let mut head = Head::default();
        decoder.decode(block, is_of_interest, |field| head.take(&field)).then_some(head)
    }

    fn take(&mut self, field: &Field<'_>) {
        let Field::Known { name, value, shared } = *field else {
            self.unknown = true;
            return;
        };
        let keep = || shared.cloned().unwrap_or_else(|| Bytes::copy_from_slice(value));
        match name {
            b":method" => self.method = Some(known_method(value).unwrap_or("_OTHER")),
            b":path" => self.path = Some(keep()),
            b":authority" => self.authority = Some(keep()),
            b"host" => self.host = Some(keep()),
            b":scheme" => self.has_scheme = true,
            b":protocol" => self.connects_to = Some(keep()),
            b":status" => self.status = status(value),
            b"content-type" => {
                self.grpc = grpc::is_content_type(value);
                self.event_stream = is_event_stream(value);
            }
            b"content-encoding" => self.encoded |= !value.eq_ignore_ascii_case(b"identity"),
            b"grpc-status" => self.status_of_call = Some(keep()),
            b"grpc-message" => self.grpc_message = Some(keep()),
            _ if trace_id::is_field(name) => self.traced.push((Bytes::copy_from_slice(name), keep())),
            _ => {}
        }
    }

    /// It is known to be a request's.
    pub fn is_request(&self) -> bool {
        self.method.is_some() || self.path.is_some() || self.authority.is_some() || self.has_scheme
    }

    /// It asks for a tunnel.
    pub fn is_connect(&self) -> bool {
        self.method == Some("CONNECT")
    }

    /// It asks for a WebSocket (RFC 8441).
    pub fn is_socket(&self) -> bool {
        self.named() == Some(websocket::NAME)
    }

    /// What follows is an event stream that can be read as it is: none of the fields that are not known says that it is coded.
    pub fn has_plain_events(&self) -> bool {
        self.event_stream && !self.encoded && !self.unknown
    }

    /// Registry name of what CONNECT goes to.
    fn named(&self) -> Option<&'static str> {
        let (_, protocol) = self.connects_to.as_deref().and_then(upgraded_to)?;
        protocol.upgraded_stream().is_none().then(|| protocol.name())
    }

    /// The status of a call that ends with it.
    pub(in crate::protocol) fn grpc_status(&self) -> Status {
        let Some(text) = &self.status_of_call else {
            return if self.unknown { Status::Unknown } else { Status::Missing };
        };
        str::from_utf8(text).ok().and_then(|text| text.parse().ok()).map_or(Status::Missing, Status::Code)
    }

    /// The request that it is; `is_call`: a gRPC call.
    pub fn request(&self, is_call: bool) -> Request {
        let authority = self.authority.as_ref().or(self.host.as_ref());
        let authority = authority.map(|name| {
            let host = name.iter().rposition(|&byte| byte == b'@').map_or(0, |at| at + 1);
            name.slice(host..)
        });
        let name = self.path.as_deref().filter(|_| is_call).and_then(grpc::operation);
        let operation = match (self.method, &self.path) {
            _ if let Some(name) = name => name,
            (Some("CONNECT"), _) if self.connects_to.is_none() => Operation::Fixed(Cow::Borrowed("CONNECT")),
            (Some("OPTIONS"), Some(path)) if &path[..] == b"*" => {
                Operation::Fixed(Cow::Borrowed("OPTIONS *"))
            }
            (method, Some(path)) => {
                let end = path.iter().position(|&byte| byte == b'?' || byte == b'#').unwrap_or(path.len());
                Operation::Path { method: Cow::Borrowed(method.unwrap_or("_OTHER")), path: path.slice(..end) }
            }
            (Some(method), None) if !is_call => Operation::Fixed(Cow::Borrowed(method)),
            (_, None) => Operation::Fixed(Cow::Borrowed("_OTHER")),
        };
        let is_tunnel = self.is_connect() && self.connects_to.is_none();
        Request {
            operation,
            target: if is_tunnel { authority.clone() } else { self.path.clone() },
            authority: authority.filter(|name| !name.is_empty()),
            protocol: if is_call { Some("grpc") } else { self.named() },
            trace_id: trace_id::of_fields(self.traced.iter().map(|(name, value)| (&name[..], &value[..]))),
            ..Request::default()
        }
    }
}

/// A response with a status, as far as it is known. `long_lived`: of an event stream, or a tunnel.
pub fn response(status: Option<u16>, long_lived: bool) -> Response {
    Response {
        status_code: status.map(i32::from),
        error: match status {
            Some(500..) => ErrorFor::Both,
            Some(400..=499) => ErrorFor::Client,
            _ => ErrorFor::None,
        },
        long_lived,
        ..Response::default()
    }
}

/// Three digits.
fn status(value: &[u8]) -> Option<u16> {
    let &[b'1'..=b'9', b'0'..=b'9', b'0'..=b'9'] = value else { return None };
    Some(value.iter().fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0')))
}

fn is_event_stream(value: &[u8]) -> bool {
    let name = value.split(|&byte| byte == b';').next().unwrap_or_default();
    name.trim_ascii().eq_ignore_ascii_case(b"text/event-stream")
}
