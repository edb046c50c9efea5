//! The connect phase of the MySQL protocol: the greeting, what a server says in its place, and what the client answers.

use bytes::Bytes;

use super::{
    CLIENT_MYSQL, CONNECT_WITH_DB, Capabilities, HEADER, Header, PLUGIN_AUTH_LENENC, PROTOCOL_41, Reader,
    SECURE_CONNECTION, SSL, Seen,
};

/// Longest greeting, and longest error in its place (servers send about 100 bytes).
const MAX_GREETING: usize = 1024;
/// Longest handshake response: attributes of a connection may take 64 KiB, drivers send a few hundred bytes.
const MAX_LOGIN: usize = 16 << 10;
/// Bytes of a handshake response up to the user's name, and all of a request for TLS.
const LOGIN_HEAD: usize = 32;

/// The server's greeting: what it is capable of.
pub fn greeting(buf: &[u8]) -> Seen<Capabilities> {
    let Some(header) = Header::of(buf) else {
        return if buf.get(3).is_some_and(|&seq| seq != 0) { Seen::No } else { Seen::Partial };
    };
    if header.seq != 0 || !(40..=MAX_GREETING).contains(&header.len) {
        return Seen::No;
    }
    let payload = &buf[HEADER..buf.len().min(HEADER + header.len)];
    let (Some(&version), rest) = (payload.first(), payload.get(1..).unwrap_or_default()) else {
        return Seen::Partial;
    };
    if version != 10 || rest.first().is_some_and(|byte| !byte.is_ascii_digit()) {
        return Seen::No;
    }
    let n_version = rest.iter().position(|byte| !(b' '..=b'~').contains(byte)).unwrap_or(rest.len());
    let is_whole = payload.len() == header.len;
    let short = if is_whole { Seen::No } else { Seen::Partial };
    match rest.get(n_version) {
        _ if n_version > 128 => return Seen::No,
        None => return short,
        Some(0) => {}
        Some(_) => return Seen::No,
    }
    let mut reader = Reader(&rest[n_version + 1..]);
    let mut fixed = || {
        let (_thread, _salt) = (reader.u32()?, reader.take(8)?);
        let filler = reader.byte()?;
        let low = reader.u16()?;
        let (_charset, _status) = (reader.byte()?, reader.u16()?);
        let high = reader.u16()?;
        let _n_salt = reader.byte()?;
        let zeros = reader.take(6)?;
        let mariadb = reader.u32()?;
        Some((filler, u32::from(low) | u32::from(high) << 16, zeros, mariadb))
    };
    let Some((filler, common, zeros, mariadb)) = fixed() else { return short };
    if filler != 0 || common & PROTOCOL_41 == 0 || zeros.iter().any(|&byte| byte != 0) {
        return Seen::No;
    }
    match common & CLIENT_MYSQL != 0 {
        true if mariadb != 0 => Seen::No,
        _ => Seen::Yes(Capabilities { common }),
    }
}

/// An error in the place of a greeting ("too many connections").
pub fn refusal(buf: &[u8]) -> Seen<()> {
    let Some(header) = Header::of(buf) else { return Seen::Partial };
    if header.seq != 0 || !(8..=MAX_GREETING).contains(&header.len) {
        return Seen::No;
    }
    let payload = &buf[HEADER..buf.len().min(HEADER + header.len)];
    let errno = match *payload {
        [] | [0xff] | [0xff, _] => return Seen::Partial,
        [0xff, low, high, ..] => u16::from_le_bytes([low, high]),
        _ => return Seen::No,
    };
    let is_text = |byte: &u8| (b' '..=b'~').contains(byte) || *byte >= 0x80;
    match payload[3..].iter().all(is_text) && (1000..5000).contains(&errno) {
        true if payload.len() == header.len => Seen::Yes(()),
        true => Seen::Partial,
        false => Seen::No,
    }
}

/// A handshake response, or the request for TLS that comes before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// What the client wants.
    pub capabilities: Capabilities,
    /// TLS comes next.
    pub tls: bool,
    /// The database named.
    pub database: Option<Bytes>,
}

/// The client's first packet, which has this sequence id. `whole`: up to the database; otherwise its fixed part is enough.
pub fn login(buf: &[u8], seq: u8, whole: bool) -> Seen<Login> {
    let Some(header) = Header::of(buf) else {
        return if buf.get(3).is_some_and(|&found| found != seq) { Seen::No } else { Seen::Partial };
    };
    if header.seq != seq || !(LOGIN_HEAD..=MAX_LOGIN).contains(&header.len) {
        return Seen::No;
    }
    let payload = &buf[HEADER..buf.len().min(HEADER + header.len)];
    let is_old = payload.get(1).is_some_and(|byte| byte & (PROTOCOL_41 >> 8) as u8 == 0);
    let filler = payload.get(9..payload.len().min(28)).unwrap_or_default();
    if is_old || filler.iter().any(|&byte| byte != 0) {
        return Seen::No;
    }
    let mut reader = Reader(payload);
    let mut fixed = || {
        let common = reader.u32()?;
        reader.take(24)?;
        Some((common, reader.u32()?))
    };
    let Some((common, further)) = fixed() else { return Seen::Partial };
    let tls = header.len == LOGIN_HEAD;
    let (is_mysql, wants_tls) = (common & CLIENT_MYSQL != 0, common & SSL != 0);
    if tls && !wants_tls || is_mysql && further != 0 || common & (SECURE_CONNECTION | PLUGIN_AUTH_LENENC) == 0
    {
        return Seen::No;
    }
    let capabilities = Capabilities { common };
    let mut database = None;
    if whole && !tls {
        if payload.len() < header.len.min(MAX_GREETING) {
            return Seen::Partial;
        }
        database = named_database(&mut reader, capabilities);
    }
    Seen::Yes(Login { capabilities, tls, database })
}

/// The database in a handshake response, behind user and authentication data.
fn named_database(reader: &mut Reader<'_>, capabilities: Capabilities) -> Option<Bytes> {
    reader.until_nul()?;
    if capabilities.has(PLUGIN_AUTH_LENENC) {
        reader.string()?;
    } else {
        let n_auth = reader.byte()?;
        reader.take(n_auth.into())?;
    }
    let name = if capabilities.has(CONNECT_WITH_DB) { reader.until_nul()? } else { b"" };
    (!name.is_empty()).then(|| Bytes::copy_from_slice(name))
}

/// The database in a request to change the user: user, authentication data, database. Empty: none.
pub fn changed_database(arguments: &[u8]) -> Option<Bytes> {
    let mut reader = Reader(arguments);
    reader.until_nul()?;
    let n_auth = reader.byte()?;
    reader.take(n_auth.into())?;
    reader.until_nul().map(Bytes::copy_from_slice)
}
