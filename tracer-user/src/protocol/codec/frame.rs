//! The frames of HTTP/2 (RFC 9113 §4, §6): headers, and whether bytes are frames at all.

/// Bytes of a frame's header.
pub const HEADER: usize = 9;
/// Longest payload until a setting says otherwise.
pub const DEFAULT_MAX: u32 = 16 << 10;
/// Longest payload that a setting can allow.
pub const LARGEST: u32 = (1 << 24) - 1;
/// What a client sends first.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Longest list of header fields that is put together, encoded: more than servers accept.
pub const MAX_BLOCK: usize = 64 << 10;
/// Frames that one list may be spread over, so that many empty ones cannot hold a reader up.
const MAX_CONTINUATIONS: usize = 64;

/// Last frame of a message: DATA, HEADERS.
pub const END_STREAM: u8 = 0x1;
/// Acknowledges: SETTINGS, PING.
pub const ACK: u8 = 0x1;
/// Last frame of a list of header fields: HEADERS, PUSH_PROMISE, CONTINUATION.
pub const END_HEADERS: u8 = 0x4;
/// Padding follows: DATA, HEADERS, PUSH_PROMISE.
pub const PADDED: u8 = 0x8;
/// Five bytes of priority stand before the fields: HEADERS.
pub const PRIORITY: u8 = 0x20;

/// What sort of frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the RFC's")]
pub enum Kind {
    Data,
    Headers,
    Priority,
    RstStream,
    Settings,
    PushPromise,
    Ping,
    Goaway,
    WindowUpdate,
    Continuation,
    /// Of an extension: skipped.
    Other,
}

/// A frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What sort.
    pub kind: Kind,
    /// As sent.
    pub code: u8,
    /// As sent.
    pub flags: u8,
    /// Stream; 0 = the connection.
    pub stream: u32,
    /// Bytes of payload.
    pub len: u32,
}

impl Frame {
    /// The header at the start of `buf`; `None`: too few bytes.
    pub fn read(buf: &[u8]) -> Option<Frame> {
        let &[l2, l1, l0, code, flags, s3, s2, s1, s0] = buf.first_chunk::<HEADER>()?;
        let kind = match code {
            0 => Kind::Data,
            1 => Kind::Headers,
            2 => Kind::Priority,
            3 => Kind::RstStream,
            4 => Kind::Settings,
            5 => Kind::PushPromise,
            6 => Kind::Ping,
            7 => Kind::Goaway,
            8 => Kind::WindowUpdate,
            9 => Kind::Continuation,
            _ => Kind::Other,
        };
        let stream = u32::from_be_bytes([s3 & 0x7f, s2, s1, s0]);
        Some(Frame { kind, code, flags, stream, len: u32::from_be_bytes([0, l2, l1, l0]) })
    }

    /// Has a flag.
    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Bytes, header included.
    pub fn whole(&self) -> usize {
        HEADER + self.len as usize
    }

    /// The beginning of a frame's header, too short to be read, may go on as one of a known sort.
    pub fn may_begin(buf: &[u8]) -> bool {
        let mut header = [0; HEADER];
        header[..buf.len().min(HEADER)].copy_from_slice(&buf[..buf.len().min(HEADER)]);
        let Some(frame) = Frame::read(&header) else { return false };
        let is_known = match frame.kind {
            Kind::Other => false,
            Kind::Headers => frame.len > 0,
            _ => true,
        };
        // What is not there yet is taken for zeros, which the stream may not be.
        let whole = Frame { stream: u32::from(frame.is_of_stream()), ..frame };
        let flags = frame.flags & !whole.plain_flags();
        buf.first().is_none_or(|&byte| byte == 0)
            && buf.get(1).is_none_or(|&byte| byte <= 0x40)
            && (buf.len() < 4 || (is_known && whole.is_valid(DEFAULT_MAX)))
            && (buf.len() < 5 || flags == 0)
    }

    /// It is never about the connection.
    fn is_of_stream(&self) -> bool {
        !matches!(self.kind, Kind::Settings | Kind::Ping | Kind::Goaway | Kind::WindowUpdate | Kind::Other)
    }

    /// The flags that its sort has.
    fn plain_flags(&self) -> u8 {
        match self.kind {
            Kind::Data => END_STREAM | PADDED,
            Kind::Headers => END_STREAM | END_HEADERS | PADDED | PRIORITY,
            Kind::Settings | Kind::Ping => ACK,
            Kind::PushPromise => END_HEADERS | PADDED,
            Kind::Continuation => END_HEADERS,
            Kind::Priority | Kind::RstStream | Kind::Goaway | Kind::WindowUpdate | Kind::Other => 0,
        }
    }

    /// What its receiver must accept: lengths and streams are as they must be for its sort.
    pub fn is_valid(&self, max: u32) -> bool {
        let of_stream = self.stream != 0;
        let fits = match self.kind {
            Kind::Data | Kind::Headers | Kind::Continuation => of_stream,
            Kind::PushPromise => of_stream && self.len >= 4,
            Kind::Priority => of_stream && self.len == 5,
            Kind::RstStream => of_stream && self.len == 4,
            Kind::Settings if self.has(ACK) => !of_stream && self.len == 0,
            Kind::Settings => !of_stream && self.len.is_multiple_of(6),
            Kind::Ping => !of_stream && self.len == 8,
            Kind::Goaway => !of_stream && self.len >= 8,
            Kind::WindowUpdate => self.len == 4,
            Kind::Other => true,
        };
        fits && self.len <= max
    }

    /// A frame of a known sort, with no flag and no bit that does not belong there: what searching for frames goes by. `buf`
    /// begins with it; what of its payload is there must fit too.
    pub fn is_plain(&self, buf: &[u8], max: u32) -> bool {
        let payload = &buf[HEADER.min(buf.len())..self.whole().min(buf.len())];
        let word = payload.first_chunk().map(|word| u32::from_be_bytes(*word));
        let fits = match (self.kind, word) {
            (Kind::WindowUpdate, Some(step)) => step != 0 && step >> 31 == 0,
            (Kind::RstStream, Some(code)) => code <= 0xff,
            (Kind::Goaway, Some(last)) => last >> 31 == 0,
            (Kind::Settings, _) => payload.chunks_exact(6).all(is_setting),
            _ => true,
        };
        let is_known = self.kind != Kind::Other && (self.kind != Kind::Headers || self.len > 0);
        let reserved = buf.get(5).is_some_and(|byte| byte & 0x80 != 0);
        self.is_valid(max) && is_known && self.flags & !self.plain_flags() == 0 && fits && !reserved
    }
}

/// A setting that is registered (IANA, 2026), gRPC's own (0xfe03), or one that is reserved to be ignored, with a value that it
/// may have.
fn is_setting(setting: &[u8]) -> bool {
    let &[i1, i0, v3, v2, v1, v0] = setting else { return false };
    let value = u32::from_be_bytes([v3, v2, v1, v0]);
    match u16::from_be_bytes([i1, i0]) {
        2 | 8 | 9 | 0xfe03 => value <= 1,
        4 => value >> 31 == 0,
        5 => (DEFAULT_MAX..=LARGEST).contains(&value),
        1 | 3 | 6 => true,
        other => other & 0x0f0f == 0x0a0a,
    }
}

/// Names of errors (RFC 9113 §7).
pub fn error_name(code: u32) -> &'static str {
    const NAMES: [&str; 14] = [
        "NO_ERROR",
        "PROTOCOL_ERROR",
        "INTERNAL_ERROR",
        "FLOW_CONTROL_ERROR",
        "SETTINGS_TIMEOUT",
        "STREAM_CLOSED",
        "FRAME_SIZE_ERROR",
        "REFUSED_STREAM",
        "CANCEL",
        "COMPRESSION_ERROR",
        "CONNECT_ERROR",
        "ENHANCE_YOUR_CALM",
        "INADEQUATE_SECURITY",
        "HTTP_1_1_REQUIRED",
    ];
    NAMES.get(code as usize).copied().unwrap_or("_OTHER")
}

/// The settings in a frame's payload, in order.
pub fn settings(payload: &[u8]) -> impl Iterator<Item = (u16, u32)> {
    payload.chunks_exact(6).map(|setting| {
        let mut bytes = [0; 6];
        bytes.copy_from_slice(setting);
        let [i1, i0, v3, v2, v1, v0] = bytes;
        (u16::from_be_bytes([i1, i0]), u32::from_be_bytes([v3, v2, v1, v0]))
    })
}

/// A list of header fields, as far as it is there.
#[derive(Debug, PartialEq, Eq)]
pub enum Block<'a> {
    /// All of it, and how many bytes its frames take.
    Whole {
        /// Encoded.
        block: std::borrow::Cow<'a, [u8]>,
        /// Bytes of all its frames.
        len: usize,
    },
    /// More is needed.
    Partial,
    /// It is none.
    Bad(&'static str),
}

/// The list that begins with the HEADERS or PUSH_PROMISE frame at the start of `buf`. `skip`: bytes of its own that stand
/// before the fields, behind the length of padding.
pub fn block<'a>(buf: &'a [u8], first: &Frame, skip: usize, max: u32) -> Block<'a> {
    let Some(payload) = buf.get(HEADER..first.whole()) else { return Block::Partial };
    let Some(fields) = unpadded(payload, first.has(PADDED)).and_then(|fields| fields.get(skip..)) else {
        return Block::Bad("padding");
    };
    if first.has(END_HEADERS) && fields.len() <= MAX_BLOCK {
        return Block::Whole { block: fields.into(), len: first.whole() };
    }
    let mut block = fields.to_vec();
    let mut at = first.whole();
    for _ in 0..MAX_CONTINUATIONS {
        if block.len() > MAX_BLOCK {
            break;
        }
        let Some(next) = Frame::read(&buf[at..]) else { return Block::Partial };
        if next.kind != Kind::Continuation || next.stream != first.stream || !next.is_valid(max) {
            return Block::Bad("no continuation");
        }
        let Some(payload) = buf.get(at + HEADER..at + next.whole()) else {
            // The whole of it is not wanted, should it be too long.
            return if next.len as usize > MAX_BLOCK {
                Block::Bad("too many fields")
            } else {
                Block::Partial
            };
        };
        block.extend_from_slice(payload);
        at += next.whole();
        if next.has(END_HEADERS) && block.len() <= MAX_BLOCK {
            return Block::Whole { block: block.into(), len: at };
        }
    }
    Block::Bad("too many fields")
}

/// A payload without its padding.
fn unpadded(payload: &[u8], is_padded: bool) -> Option<&[u8]> {
    if !is_padded {
        return Some(payload);
    }
    let (&n_padding, rest) = payload.split_first()?;
    rest.get(..rest.len().checked_sub(usize::from(n_padding))?)
}

/// The first four bytes.
pub fn word(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |word| u32::from_be_bytes(*word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_and_checked() {
        let frame = Frame::read(b"\0\0\x04\x08\0\0\0\0\x05\0\0\x10\0").unwrap();
        assert_eq!((frame.kind, frame.stream, frame.len), (Kind::WindowUpdate, 5, 4));
        assert!(frame.is_plain(b"\0\0\x04\x08\0\0\0\0\x05\0\0\x10\0", DEFAULT_MAX));
        assert!(!frame.is_plain(b"\0\0\x04\x08\0\0\0\0\x05\0\0\0\0", DEFAULT_MAX), "no step");
        let settings = b"\0\0\x06\x04\0\0\0\0\0\0\x05\0\0\x40\0";
        assert!(Frame::read(settings).unwrap().is_plain(settings, DEFAULT_MAX));
        let unknown = b"\0\0\x06\x04\0\0\0\0\0\0\x77\0\0\x40\0";
        assert!(!Frame::read(unknown).unwrap().is_plain(unknown, DEFAULT_MAX));
    }

    #[test]
    fn fields_are_put_together_from_frames_without_priority_and_padding() {
        let bytes = b"\0\0\x09\x01\x28\0\0\0\x01\x02\0\0\0\0\x10a\0\0\0\0\x01\x09\x04\0\0\0\x01b";
        let first = Frame::read(bytes).unwrap();
        let whole = Block::Whole { block: b"ab".into(), len: bytes.len() };
        assert_eq!(block(bytes, &first, 5, DEFAULT_MAX), whole);
        for cut in HEADER..bytes.len() {
            assert_eq!(block(&bytes[..cut], &first, 5, DEFAULT_MAX), Block::Partial, "{cut}");
        }
        let mut flood = b"\0\0\0\x01\0\0\0\0\x01".to_vec();
        flood.extend(b"\0\0\0\x09\0\0\0\0\x01".repeat(100));
        let first = Frame::read(&flood).unwrap();
        assert_eq!(block(&flood, &first, 0, DEFAULT_MAX), Block::Bad("too many fields"));
    }
}
