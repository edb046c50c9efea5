//! DNS messages (RFC 1035 §4): header, question, records as far as they tell something. Shared by DNS, mDNS and LLMNR.
//!
//! Names are read with a bound of 255 bytes; a pointer must point before the name that holds it, so that no name loops.

use std::borrow::Cow;

/// Bytes of a header.
pub const HEADER: usize = 12;
/// Bytes of the shortest record: the root's name, type, class, lifetime, length.
const SHORTEST_RECORD: usize = 11;
/// Bytes of the shortest question: the root's name, type, class.
const SHORTEST_QUESTION: usize = 5;
/// Longest name on the wire (RFC 1035 §2.3.4).
const MAX_NAME: usize = 255;

/// Type of the pseudo-record of EDNS (RFC 6891).
const OPT: u16 = 41;
/// Start of a zone's authority.
pub const SOA: u16 = 6;
/// Zone transfers (RFC 1995, RFC 5936).
pub const IXFR: u16 = 251;
/// See [`IXFR`].
pub const AXFR: u16 = 252;

/// Opcodes (IANA): standard query, status, notify (RFC 1996), update (RFC 2136).
pub const QUERY: u8 = 0;
/// See [`QUERY`].
pub const STATUS: u8 = 2;
/// See [`QUERY`].
pub const NOTIFY: u8 = 4;
/// See [`QUERY`].
pub const UPDATE: u8 = 5;

/// The fixed part of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Chosen by who asks.
    pub id: u16,
    /// QR, opcode, AA, TC, RD, RA, Z, AD, CD, rcode.
    pub flags: u16,
    /// Entries: questions, answers, authority, additional.
    pub counts: [u16; 4],
}

impl Header {
    /// The first 12 bytes of a message.
    pub fn read(message: &[u8]) -> Option<Header> {
        let word = |at: usize| message.get(at..at + 2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
        Some(Header { id: word(0)?, flags: word(2)?, counts: [word(4)?, word(6)?, word(8)?, word(10)?] })
    }

    /// QR.
    pub fn is_response(&self) -> bool {
        self.flags & 0x8000 != 0
    }

    /// What is asked for.
    pub fn opcode(&self) -> u8 {
        (self.flags >> 11) as u8 & 15
    }

    /// TC: the answer did not fit.
    pub fn is_truncated(&self) -> bool {
        self.flags & 0x0200 != 0
    }

    /// The low 4 bits of the outcome.
    pub fn rcode(&self) -> u16 {
        self.flags & 15
    }

    /// A message of `length` bytes can hold the entries announced.
    pub fn fits(&self, length: usize) -> bool {
        let [questions, rest @ ..] = self.counts;
        let n_records: usize = rest.iter().map(|n| usize::from(*n)).sum();
        HEADER + usize::from(questions) * SHORTEST_QUESTION + n_records * SHORTEST_RECORD <= length
    }
}

/// Why an entry cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The bytes end within it.
    Short,
    /// It is no such entry.
    Bad,
}

/// One question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// Where its name begins.
    pub name: usize,
    /// Type asked for.
    pub kind: u16,
    /// Class, as sent.
    pub class: u16,
    /// Offset behind it.
    pub end: usize,
}

/// One record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where its name begins.
    pub name: usize,
    /// Type.
    pub kind: u16,
    /// Lifetime; of the pseudo-record of EDNS: the extended rcode's high bits, version, flags.
    pub lifetime: u32,
    /// Where its data begin, and end.
    pub data: (usize, usize),
}

fn word(message: &[u8], at: usize) -> Result<u16, Fault> {
    let pair = message.get(at..at + 2).ok_or(Fault::Short)?;
    Ok(u16::from_be_bytes([pair[0], pair[1]]))
}

/// Shows the labels of the name at `at`, following pointers; gives the offset behind the name where it stands.
fn labels(message: &[u8], at: usize, mut show: impl FnMut(&[u8])) -> Result<usize, Fault> {
    let (mut at, mut limit, mut end, mut length) = (at, at, None, 1);
    loop {
        let n = *message.get(at).ok_or(Fault::Short)?;
        match n {
            0 => return Ok(end.unwrap_or(at + 1)),
            1..=63 => {
                let label = message.get(at + 1..at + 1 + usize::from(n)).ok_or(Fault::Short)?;
                length += 1 + usize::from(n);
                if length > MAX_NAME {
                    return Err(Fault::Bad);
                }
                show(label);
                at += 1 + usize::from(n);
            }
            0xc0.. => {
                let to = usize::from(word(message, at)? & 0x3fff);
                // Each pointer leads further towards the front: there is an end.
                if !(HEADER..limit).contains(&to) {
                    return Err(Fault::Bad);
                }
                end.get_or_insert(at + 2);
                (at, limit) = (to, to);
            }
            64..0xc0 => return Err(Fault::Bad),
        }
    }
}

/// The name at `at` in presentation format (RFC 1035 §5.1), folded to lower case; the root is `.`.
pub fn name(message: &[u8], at: usize) -> Option<Vec<u8>> {
    let mut text = Vec::with_capacity(64);
    labels(message, at, |label| {
        if !text.is_empty() {
            text.push(b'.');
        }
        for &byte in label {
            match byte {
                b'.' | b'\\' => text.extend([b'\\', byte]),
                0x21..=0x7e => text.push(byte.to_ascii_lowercase()),
                _ => text.extend([b'\\', b'0' + byte / 100, b'0' + byte / 10 % 10, b'0' + byte % 10]),
            }
        }
    })
    .ok()?;
    if text.is_empty() {
        text.push(b'.');
    }
    Some(text)
}

/// The question at `at`.
pub fn question(message: &[u8], at: usize) -> Result<Question, Fault> {
    let end = labels(message, at, |_| {})?;
    let (kind, class) = (word(message, end)?, word(message, end + 2)?);
    // IN, CH, HS, NONE, ANY; the highest bit of mDNS is the caller's affair.
    if kind == 0 || !matches!(class & 0x7fff, 1 | 3 | 4 | 254 | 255) {
        return Err(Fault::Bad);
    }
    Ok(Question { name: at, kind, class, end: end + 4 })
}

/// The record at `at`.
pub fn record(message: &[u8], at: usize) -> Result<Record, Fault> {
    let end = labels(message, at, |_| {})?;
    let (kind, length) = (word(message, end)?, usize::from(word(message, end + 8)?));
    let lifetime = u32::from(word(message, end + 4)?) << 16 | u32::from(word(message, end + 6)?);
    let data = end + 10;
    if message.len() < data + length {
        return Err(Fault::Short);
    }
    Ok(Record { name: at, kind, lifetime, data: (data, data + length) })
}

/// A number that differs between questions: FNV-1a over the folded name, type and class.
pub fn question_hash(message: &[u8], question: &Question) -> u32 {
    let mut hash = 0x811c_9dc5_u32;
    let mut add = |byte: u8| hash = (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    // The name was read before.
    let _ = labels(message, question.name, |label| {
        add(label.len() as u8);
        label.iter().for_each(|byte| add(byte.to_ascii_lowercase()));
    });
    for byte in question.kind.to_be_bytes().into_iter().chain(question.class.to_be_bytes()) {
        add(byte);
    }
    hash
}

/// What the records behind the question say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Records {
    /// Start-of-authority records among the answers.
    pub soas: u32,
    /// Those of them with the serial number looked for.
    pub closing: u32,
    /// That number.
    pub serial: Option<u32>,
    /// The first answer is one, and the second.
    pub begins: [bool; 2],
    /// High bits of the rcode (EDNS).
    pub extended: u16,
    /// All records were read, and nothing stands behind them.
    pub whole: bool,
}

/// Reads all records, from `at` on. What cannot be read ends it. `serial`: the one looked for, `None` = the first one's.
pub fn records(message: &[u8], header: &Header, mut at: usize, serial: Option<u32>) -> Records {
    let mut records = Records { serial, ..Records::default() };
    let [_, answers, authority, additional] = header.counts.map(u32::from);
    for n in 0..answers + authority + additional {
        let Ok(record) = record(message, at) else { return records };
        at = record.data.1;
        if n < answers && record.kind == SOA {
            if let Some(first) = records.begins.get_mut(n as usize) {
                *first = true;
            }
            records.soas += 1;
            let own = self::serial(message, &record);
            records.serial = records.serial.or(own);
            records.closing += u32::from(own.is_some() && own == records.serial);
        } else if n >= answers + authority && record.kind == OPT {
            records.extended = (record.lifetime >> 24) as u16;
        }
    }
    records.whole = at == message.len();
    records
}

/// Serial number of a start of authority: behind two names.
pub fn serial(message: &[u8], record: &Record) -> Option<u32> {
    let names = labels(message, record.data.0, |_| {}).ok()?;
    let at = labels(message, names, |_| {}).ok()?;
    Some(u32::from(word(message, at).ok()?) << 16 | u32::from(word(message, at + 2).ok()?))
}

/// Name of a type; those that have none in use are one.
pub fn type_name(kind: u16) -> &'static str {
    match kind {
        1 => "A",
        2 => "NS",
        5 => "CNAME",
        SOA => "SOA",
        12 => "PTR",
        13 => "HINFO",
        15 => "MX",
        16 => "TXT",
        17 => "RP",
        18 => "AFSDB",
        24 => "SIG",
        25 => "KEY",
        28 => "AAAA",
        29 => "LOC",
        33 => "SRV",
        35 => "NAPTR",
        37 => "CERT",
        39 => "DNAME",
        43 => "DS",
        44 => "SSHFP",
        45 => "IPSECKEY",
        46 => "RRSIG",
        47 => "NSEC",
        48 => "DNSKEY",
        49 => "DHCID",
        50 => "NSEC3",
        51 => "NSEC3PARAM",
        52 => "TLSA",
        53 => "SMIMEA",
        55 => "HIP",
        59 => "CDS",
        60 => "CDNSKEY",
        61 => "OPENPGPKEY",
        62 => "CSYNC",
        63 => "ZONEMD",
        64 => "SVCB",
        65 => "HTTPS",
        99 => "SPF",
        108 => "EUI48",
        109 => "EUI64",
        249 => "TKEY",
        250 => "TSIG",
        IXFR => "IXFR",
        AXFR => "AXFR",
        255 => "ANY",
        256 => "URI",
        257 => "CAA",
        _ => "_OTHER",
    }
}

/// Name of an rcode (IANA); the number where it has none.
pub fn rcode_name(rcode: u16) -> Cow<'static, str> {
    Cow::Borrowed(match rcode {
        0 => "NOERROR",
        1 => "FORMERR",
        2 => "SERVFAIL",
        3 => "NXDOMAIN",
        4 => "NOTIMP",
        5 => "REFUSED",
        6 => "YXDOMAIN",
        7 => "YXRRSET",
        8 => "NXRRSET",
        9 => "NOTAUTH",
        10 => "NOTZONE",
        11 => "DSOTYPENI",
        16 => "BADVERS",
        17 => "BADKEY",
        18 => "BADTIME",
        19 => "BADMODE",
        20 => "BADNAME",
        21 => "BADALG",
        22 => "BADTRUNC",
        23 => "BADCOOKIE",
        other => return Cow::Owned(other.to_string()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(labels: &[&[u8]]) -> Vec<u8> {
        let mut message = vec![0; HEADER];
        for label in labels {
            message.push(label.len() as u8);
            message.extend_from_slice(label);
        }
        message.push(0);
        message
    }

    #[test]
    fn names_are_folded_and_escaped() {
        for (labels, text) in [
            (&[b"WWW".as_slice(), b"Example", b"org"][..], "www.example.org"),
            (&[], "."),
            (&[b"a.b", b"c\\d"], "a\\.b.c\\\\d"),
            (&[b"\x1b[2J", b"\xff "], "\\027[2j.\\255\\032"),
        ] {
            let name = name(&named(labels), HEADER).unwrap();
            assert_eq!(String::from_utf8(name).unwrap(), text);
        }
    }

    #[test]
    fn pointers_lead_to_the_front_and_no_name_is_endless() {
        let mut message = named(&[b"org"]);
        let at = message.len();
        message.extend(b"\x03www\xc0\x0c");
        assert_eq!(name(&message, at).unwrap(), b"www.org");
        assert_eq!(labels(&message, at, |_| {}), Ok(message.len()));
        for bad in [b"\xc0\x12".as_slice(), b"\x01a\xc0\x12", b"\xc0\x00", b"\xc0\xff", b"\x40a", b"\x80"] {
            let mut message = named(&[b"org"]);
            message.push(0);
            assert_eq!(message.len(), 18, "where the bad names stand");
            message.extend(bad);
            assert_eq!(name(&message, 18), None, "{bad:?}");
        }
        let long = vec![b'a'; 63];
        assert!(name(&named(&[&long, &long, &long, &long[..61]]), HEADER).is_some());
        assert_eq!(name(&named(&[&long, &long, &long, &long[..62]]), HEADER), None);
    }
}
