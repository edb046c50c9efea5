//! Packets of the MySQL protocol: headers, integers, capabilities, the packets that end a result.

pub mod answer;
pub mod ask;
pub mod command;
pub mod handshake;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Bytes of a packet's header: three of length, one of sequence id.
pub const HEADER: usize = 4;
/// A payload of so many bytes goes on in the next packet.
pub const FULL: usize = 0xff_ffff;

/// Most columns that a table or a result has.
const MAX_COLUMNS: u64 = 4096;

/// Client asks for a database in its handshake response.
const CONNECT_WITH_DB: u32 = 1 << 3;
/// zlib compression.
const COMPRESS: u32 = 1 << 5;
/// The protocol of MySQL 4.1 and later.
const PROTOCOL_41: u32 = 1 << 9;
/// TLS.
const SSL: u32 = 1 << 11;
/// Authentication data has its length before it.
const SECURE_CONNECTION: u32 = 1 << 15;
/// The same, with a length-encoded integer.
const PLUGIN_AUTH_LENENC: u32 = 1 << 21;
/// No EOF packets: OK packets with another first byte take their place.
const DEPRECATE_EOF: u32 = 1 << 24;
/// zstd compression.
const ZSTD: u32 = 1 << 26;
/// Queries carry attributes.
const QUERY_ATTRIBUTES: u32 = 1 << 27;
/// Unset by MariaDB's, whose further capabilities stand in the filler.
const CLIENT_MYSQL: u32 = 1;

/// More results follow this one.
pub const MORE_RESULTS: u16 = 0x0008;
/// The rows wait in a cursor.
pub const CURSOR_EXISTS: u16 = 0x0040;
/// Backslashes do not escape in strings.
pub const NO_BACKSLASH_ESCAPES: u16 = 0x0200;
/// The OK packet tells changes of the session.
const SESSION_STATE_CHANGED: u16 = 0x4000;
/// Such a change: the default database.
const TRACK_SCHEMA: u64 = 1;

/// A packet's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Bytes of the payload.
    pub len: usize,
    /// Sequence id.
    pub seq: u8,
}

impl Header {
    /// The header at the start of `buf`.
    pub fn of(buf: &[u8]) -> Option<Header> {
        let [a, b, c, seq] = *buf.first_chunk()?;
        Some(Header { len: u32::from_le_bytes([a, b, c, 0]) as usize, seq })
    }

    /// Bytes of the packet.
    pub fn packet(self) -> u64 {
        (HEADER + self.len) as u64
    }
}

/// What a packet (or the first bytes of a connection) is, as far as its bytes go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen<T> {
    /// This.
    Yes(T),
    /// Too few bytes to tell.
    Partial,
    /// Something else.
    No,
}

impl<T> Seen<T> {
    /// Without what it says.
    pub fn is(self) -> Seen<()> {
        match self {
            Seen::Yes(_) => Seen::Yes(()),
            Seen::Partial => Seen::Partial,
            Seen::No => Seen::No,
        }
    }
}

/// Reads a payload from its start; what is not there is `None`.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    /// `n` bytes.
    pub fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(taken)
    }

    /// A byte.
    pub fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    /// Two bytes.
    pub fn u16(&mut self) -> Option<u16> {
        self.take(2).map(|bytes| u16::from_le_bytes([bytes[0], bytes[1]]))
    }

    /// Four bytes.
    pub fn u32(&mut self) -> Option<u32> {
        self.take(4).map(|bytes| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    /// A length-encoded integer. NULL (`0xfb`) and an error's first byte (`0xff`) are none.
    pub fn integer(&mut self) -> Option<u64> {
        let n_bytes = match self.byte()? {
            small @ ..=0xfa => return Some(u64::from(small)),
            0xfc => 2,
            0xfd => 3,
            0xfe => 8,
            0xfb | 0xff => return None,
        };
        let mut bytes = [0; 8];
        bytes[..n_bytes].copy_from_slice(self.take(n_bytes)?);
        Some(u64::from_le_bytes(bytes))
    }

    /// Bytes behind their length.
    pub fn string(&mut self) -> Option<&'a [u8]> {
        let len = usize::try_from(self.integer()?).ok()?;
        self.take(len)
    }

    /// Bytes up to a NUL, which is taken too.
    pub fn until_nul(&mut self) -> Option<&'a [u8]> {
        let len = self.0.iter().position(|&byte| byte == 0)?;
        let bytes = self.take(len);
        self.take(1)?;
        bytes
    }
}

/// What both sides have agreed on, as far as parsing needs it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    common: u32,
}

impl Capabilities {
    /// What is not among `others`' is not agreed on.
    pub fn and(self, others: Capabilities) -> Capabilities {
        Capabilities { common: self.common & others.common }
    }

    fn has(self, common: u32) -> bool {
        self.common & common != 0
    }

    /// No EOF packets.
    pub fn deprecates_eof(self) -> bool {
        self.has(DEPRECATE_EOF)
    }

    /// Statements have attributes before them.
    pub fn has_attributes(self) -> bool {
        self.has(QUERY_ATTRIBUTES)
    }

    /// The compression that begins behind the connect phase.
    pub fn compression(self) -> Option<&'static str> {
        match (self.has(COMPRESS), self.has(ZSTD)) {
            (true, _) => Some("zlib"),
            (false, true) => Some("zstd"),
            (false, false) => None,
        }
    }
}

/// A result's number of columns, and whether definitions of them follow. Both may leave definitions out that the client has, and
/// then say so in one more byte: MariaDB behind the number, MySQL before it. Which of them it is shows: no result has 0 columns.
pub fn columns(payload: &[u8]) -> Option<(u64, bool)> {
    let number = |bytes: &[u8]| {
        let mut reader = Reader(bytes);
        let columns = reader.integer().filter(|columns| (1..=MAX_COLUMNS).contains(columns))?;
        reader.0.is_empty().then_some(columns)
    };
    if let Some(columns) = number(payload) {
        return Some((columns, true));
    }
    if let [columns @ .., follow @ (0 | 1)] = payload
        && let Some(columns) = number(columns)
    {
        return Some((columns, *follow == 1));
    }
    let [follow @ (0 | 1), columns @ ..] = payload else { return None };
    number(columns).map(|columns| (columns, *follow == 1))
}

/// What an OK packet, or the EOF packet in its place, says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Finish {
    /// Rows affected; an EOF packet does not say.
    pub affected: Option<u64>,
    /// Status flags.
    pub status: u16,
    /// The default database from here on, if it says that this changed.
    pub database: Option<Bytes>,
}

/// Reads an OK packet (first byte 0 or 0xfe) or an EOF packet (0xfe, 5 bytes). `payload` may be cut short: then changes of the
/// session are not found.
pub fn finish(payload: &[u8], len: usize) -> Option<Finish> {
    let mut reader = Reader(payload);
    let first = reader.byte()?;
    if first == 0xfe && len == 5 {
        let _warnings = reader.u16()?;
        return Some(Finish { status: reader.u16()?, ..Finish::default() });
    }
    let affected = reader.integer()?;
    let _id = reader.integer()?;
    let (status, _warnings) = (reader.u16()?, reader.u16()?);
    let mut database = || {
        if status & SESSION_STATE_CHANGED == 0 {
            return None;
        }
        let _info = reader.string()?;
        let mut changes = Reader(reader.string()?);
        let mut found = None;
        while !changes.0.is_empty() {
            let kind = changes.integer()?;
            let mut change = Reader(changes.string()?);
            if kind == TRACK_SCHEMA {
                found = change.string().map(Bytes::copy_from_slice);
            }
        }
        found
    };
    Some(Finish { affected: Some(affected), status, database: database() })
}

/// Number of an error packet (first byte 0xff).
pub fn errno(payload: &[u8]) -> Option<u16> {
    let mut reader = Reader(payload);
    (reader.byte()? == 0xff).then(|| reader.u16())?
}

/// What a prepared statement is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prepared {
    /// Its id.
    pub id: u32,
    /// Definitions of columns that follow.
    pub columns: u64,
    /// Definitions of parameters that follow, before those.
    pub parameters: u64,
}

/// The first packet of the response to a preparation. A byte more says whether definitions follow (MySQL).
pub fn prepared(payload: &[u8]) -> Option<Prepared> {
    let mut reader = Reader(payload);
    let first = reader.byte()?;
    let (id, columns, parameters) = (reader.u32()?, reader.u16()?, reader.u16()?);
    let (_filler, _warnings) = (reader.byte()?, reader.u16()?);
    let follow = if reader.byte() == Some(0) { 0 } else { 1 };
    let (columns, parameters) = (u64::from(columns) * follow, u64::from(parameters) * follow);
    (first == 0).then_some(Prepared { id, columns, parameters })
}
