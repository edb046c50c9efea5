//! The files of tcpdump, tshark and their like, packet by packet: pcap in both byte orders, with microseconds or nanoseconds, and
//! [pcapng](https://www.ietf.org/archive/id/draft-ietf-opsawg-pcapng-03.html) with several interfaces and sections, as they are or within gzip or
//! zstd. Never more than one packet or block is in memory.
//!
//! Not read: what is no packet (names, secrets, journals); times of simple packets (they have none: that of the packet before counts).

use std::{
    io::{self, BufReader, Read},
    time::Duration,
};

use pcap_parser::pcapng::{Block, parse_block_be, parse_block_le};

use super::waiting::Waiting;

/// A packet or a block that claims to be larger is none: 256 KiB is the longest that libpcap captures (`MAXIMUM_SNAPLEN`), and what is written
/// beside it is short. Secrets and names may take more than that.
const MAX_PACKET: u32 = 256 << 10;
const MAX_BLOCK: u32 = 16 << 20;
/// Interfaces of a section; more are no capture. 65,536 × 24 bytes.
const MAX_INTERFACES: usize = 65_536;
/// The file is read in pieces of so much.
const BUFFER: usize = 256 << 10;

const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const OLD_PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const STATISTICS: u32 = 5;
const PACKET: u32 = 6;
const BYTE_ORDER: u32 = 0x1a2b_3c4d;

/// Why a capture cannot be read (any further).
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The file cannot be opened.
    #[error("{name}: {source}")]
    Open {
        /// File.
        name: String,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// It is something else.
    #[error("{name} is no packet capture: {reason}")]
    Foreign {
        /// File.
        name: String,
        /// What it begins with.
        reason: String,
    },
    /// From `offset` on it cannot be read.
    #[error("{name}: at byte {offset}{}: {reason}", if *.packed { " of what is compressed" } else { "" })]
    Damaged {
        /// File.
        name: String,
        /// Where the record begins that is at fault.
        offset: u64,
        /// Within gzip or zstd: of what comes out of it.
        packed: bool,
        /// What is wrong.
        reason: String,
    },
}

/// A packet, as its link layer has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Nanoseconds since 1970.
    pub time_ns: u64,
    /// Link type, as [tcpdump.org](https://www.tcpdump.org/linktypes.html) numbers them.
    pub link: u32,
    /// Which of the files that are open at once it is from, and of which of its interfaces.
    pub place: (u32, u32),
    /// Bytes that there were; `data` may have fewer.
    pub original: u32,
    /// Bytes that were captured.
    pub data: &'a [u8],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Little,
    Big,
}

impl Order {
    fn u32(self, bytes: &[u8], at: usize) -> u32 {
        let four = bytes.get(at..at + 4).and_then(|four| four.try_into().ok()).unwrap_or_default();
        match self {
            Order::Little => u32::from_le_bytes(four),
            Order::Big => u32::from_be_bytes(four),
        }
    }

    fn u16(self, bytes: &[u8], at: usize) -> u16 {
        let two = bytes.get(at..at + 2).and_then(|two| two.try_into().ok()).unwrap_or_default();
        match self {
            Order::Little => u16::from_le_bytes(two),
            Order::Big => u16::from_be_bytes(two),
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Interface {
    link: u32,
    snaplen: u32,
    /// Ticks in a second, and seconds to be added.
    ticks: u64,
    offset_s: i64,
    dropped: u64,
}

#[derive(Debug)]
enum Format {
    /// `fraction`: nanoseconds in a unit of what is behind the second. `record`: bytes before a packet.
    Pcap {
        order: Order,
        fraction: u64,
        record: usize,
        link: u32,
    },
    Pcapng {
        order: Order,
        interfaces: Vec<Interface>,
    },
}

/// An open capture.
pub struct CaptureFile {
    name: String,
    input: Box<dyn Read + Send>,
    packed: bool,
    format: Format,
    /// Bytes read.
    offset: u64,
    record: Vec<u8>,
    packet: Held,
    last_ns: u64,
    dropped: u64,
    /// Its number among those that are open at once.
    pub(super) number: u32,
    /// It is standard input, which may still be written.
    pub(super) waiting: Option<Waiting>,
}

/// The packet that was read last; its bytes are in `record`.
#[derive(Clone, Copy, Debug, Default)]
struct Held {
    time_ns: u64,
    link: u32,
    interface: u32,
    original: u32,
    begin: usize,
    length: usize,
}

impl CaptureFile {
    /// Looks at the beginning of `input`; `name` is for errors.
    pub fn open(name: &str, input: impl Read + Send + 'static) -> Result<CaptureFile, CaptureError> {
        let opening = |source| CaptureError::Open { name: name.to_owned(), source };
        let mut input = BufReader::with_capacity(BUFFER, input);
        let first = up_to(&mut input, 4).map_err(opening)?;
        let packing = first.clone();
        let input = io::Cursor::new(first).chain(input);
        let (mut input, packed): (Box<dyn Read + Send>, bool) = match &packing[..] {
            [0x1f, 0x8b, ..] => {
                (Box::new(BufReader::with_capacity(BUFFER, flate2::read::MultiGzDecoder::new(input))), true)
            }
            [0x28, 0xb5, 0x2f, 0xfd] => {
                let decoder = zstd::stream::read::Decoder::new(input).map_err(opening)?;
                (Box::new(BufReader::with_capacity(BUFFER, decoder)), true)
            }
            _ => (Box::new(input), false),
        };
        let magic = match up_to(&mut input, 4) {
            Ok(magic) => magic,
            Err(error) if packed => {
                let (name, reason) = (name.to_owned(), error.to_string());
                return Err(CaptureError::Damaged { name, offset: 0, packed, reason });
            }
            Err(error) => return Err(opening(error)),
        };
        let foreign = |reason: String| CaptureError::Foreign { name: name.to_owned(), reason };
        let mut file = CaptureFile {
            name: name.to_owned(),
            input,
            packed,
            format: Format::Pcapng { order: Order::Little, interfaces: Vec::new() },
            offset: 4,
            record: Vec::new(),
            packet: Held::default(),
            last_ns: 0,
            dropped: 0,
            number: 0,
            waiting: None,
        };
        if magic.len() < 4 {
            return Err(foreign(match magic.len() {
                0 => "it is empty".to_owned(),
                n => format!("it has {n} bytes"),
            }));
        }
        let (little, big) = (Order::Little.u32(&magic, 0), Order::Big.u32(&magic, 0));
        if little == SECTION {
            file.section(0)?;
            return Ok(file);
        }
        let kind = |magic| match magic {
            0xa1b2_c3d4 => Some((1_000, 16)),
            0xa1b2_3c4d => Some((1, 16)),
            // Of Alexey Kuznetsov's patched libpcap: eight more bytes before each packet.
            0xa1b2_cd34 => Some((1_000, 24)),
            _ => None,
        };
        let order = if kind(little).is_some() { Order::Little } else { Order::Big };
        let Some((fraction, record)) = kind(little).or_else(|| kind(big)) else {
            let shown: Vec<String> = magic.iter().map(|byte| format!("{byte:02x}")).collect();
            return Err(foreign(format!("it begins with the bytes {}", shown.join(" "))));
        };
        let header = file.exactly(20, 0, "its header")?;
        let (version, link) = (order.u16(header, 0), order.u32(header, 16));
        if version != 2 {
            return Err(foreign(format!("version {version} of pcap is not known")));
        }
        // The high bits tell of checksums behind the packets, which no length of IP counts.
        let link = link & 0xffff;
        file.format = Format::Pcap { order, fraction, record, link };
        Ok(file)
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The one link type of all its packets, if it has but one.
    pub fn link(&self) -> Option<u32> {
        match &self.format {
            Format::Pcap { link, .. } => Some(*link),
            Format::Pcapng { .. } => None,
        }
    }

    /// Packets that whoever captured could not store, by its own account.
    pub fn dropped(&self) -> u64 {
        let Format::Pcapng { interfaces, .. } = &self.format else { return 0 };
        interfaces.iter().fold(self.dropped, |sum, interface| sum.saturating_add(interface.dropped))
    }

    /// Reads the next packet, which is [`CaptureFile::packet`] then; `false` at the end.
    pub fn read_packet(&mut self) -> Result<bool, CaptureError> {
        let packet = match self.format {
            Format::Pcap { order, fraction, record, link } => {
                self.next_of_pcap(order, fraction, record, link)?
            }
            Format::Pcapng { .. } => self.next_of_pcapng()?,
        };
        self.packet = packet.unwrap_or_default();
        Ok(packet.is_some())
    }

    /// Whether the next packet would be waited for, for longer than `most`.
    pub fn is_dry(&self, most: Duration) -> bool {
        !self.packed && self.waiting.as_ref().is_some_and(|waiting| waiting.is_dry(self.offset, most))
    }

    /// The packet that was read last; an empty one before the first and behind the last.
    pub fn packet(&self) -> Frame<'_> {
        let Held { time_ns, link, interface, original, begin, length } = self.packet;
        let data = self.record.get(begin..begin + length).unwrap_or_default();
        Frame { time_ns, link, place: (self.number, interface), original, data }
    }

    fn next_of_pcap(
        &mut self,
        order: Order,
        fraction: u64,
        record: usize,
        link: u32,
    ) -> Result<Option<Held>, CaptureError> {
        let at = self.offset;
        if !self.read(record, at, "the header of a packet")? {
            return Ok(None);
        }
        let [seconds, parts, length, original] = [0, 4, 8, 12].map(|at| order.u32(&self.record, at));
        if length > MAX_PACKET {
            return Err(self.damaged(at, format!("a packet of {length} bytes: longer than any")));
        }
        let ns = u64::from(parts).saturating_mul(fraction);
        if ns >= 1_000_000_000 {
            return Err(self.damaged(at, format!("a time with {parts} parts of a second: more than it has")));
        }
        self.exactly(length as usize, at, "a packet")?;
        let time_ns = u64::from(seconds) * 1_000_000_000 + ns;
        let (original, length) = (original.max(length), length as usize);
        Ok(Some(Held { time_ns, link, interface: 0, original, begin: 0, length }))
    }

    fn next_of_pcapng(&mut self) -> Result<Option<Held>, CaptureError> {
        loop {
            let at = self.offset;
            if !self.read(4, at, "the header of a block")? {
                return Ok(None);
            }
            let Format::Pcapng { order, .. } = self.format else { return Ok(None) };
            let kind = order.u32(&self.record, 0);
            if kind == SECTION {
                self.section(at)?;
                continue;
            }
            let length = order.u32(self.exactly(4, at, "the header of a block")?, 0);
            self.block(kind, length, order, at)?;
            match kind {
                INTERFACE => self.interface(order, at)?,
                STATISTICS => self.statistics(order),
                PACKET | SIMPLE_PACKET | OLD_PACKET => break self.packet_block(kind, order, at).map(Some),
                _ => {}
            }
        }
    }

    /// Reads the rest of a block of which type and length were read, and puts them before it again.
    fn block(&mut self, kind: u32, length: u32, order: Order, at: u64) -> Result<(), CaptureError> {
        if !(12..=MAX_BLOCK).contains(&length) || !length.is_multiple_of(4) {
            return Err(self.damaged(at, format!("a block of {length} bytes: no block has that length")));
        }
        self.exactly(length as usize - 8, at, "a block")?;
        let bytes = |value: u32| match order {
            Order::Little => value.to_le_bytes(),
            Order::Big => value.to_be_bytes(),
        };
        self.record.splice(0..0, [bytes(kind), bytes(length)].concat());
        let behind = order.u32(&self.record, length as usize - 4);
        if behind != length {
            return Err(self.damaged(at, format!("a block of {length} bytes that ends with {behind}")));
        }
        Ok(())
    }

    /// A section begins; its type was read.
    fn section(&mut self, at: u64) -> Result<(), CaptureError> {
        let head = self.exactly(8, at, "the header of a section")?;
        let order = match (Order::Little.u32(head, 4), Order::Big.u32(head, 4)) {
            (BYTE_ORDER, _) => Order::Little,
            (_, BYTE_ORDER) => Order::Big,
            _ => return Err(self.damaged(at, "a section without a byte order".to_owned())),
        };
        let length = order.u32(head, 0);
        if !(28..=MAX_BLOCK).contains(&length) || !length.is_multiple_of(4) {
            return Err(self.damaged(at, format!("a section's header of {length} bytes")));
        }
        let rest = self.exactly(length as usize - 12, at, "the header of a section")?;
        let (version, behind) = (order.u16(rest, 0), order.u32(rest, length as usize - 16));
        if version != 1 {
            return Err(self.damaged(at, format!("version {version} of pcapng is not known")));
        }
        if behind != length {
            return Err(
                self.damaged(at, format!("a section's header of {length} bytes that ends with {behind}"))
            );
        }
        self.dropped = self.dropped();
        self.format = Format::Pcapng { order, interfaces: Vec::new() };
        Ok(())
    }

    fn parsed(&self, order: Order) -> Option<Block<'_>> {
        let parse = if order == Order::Little { parse_block_le } else { parse_block_be };
        parse(&self.record).ok().map(|(_, block)| block)
    }

    fn interface(&mut self, order: Order, at: u64) -> Result<(), CaptureError> {
        let Some(Block::InterfaceDescription(block)) = self.parsed(order) else {
            return Err(self.damaged(at, "the description of an interface cannot be read".to_owned()));
        };
        let resolution = block.if_tsresol;
        let Some(ticks) = ticks(resolution) else {
            return Err(
                self.damaged(at, format!("an interface whose times have the resolution {resolution:#04x}"))
            );
        };
        let (link, snaplen) = (block.linktype.0 as u32, block.snaplen);
        let interface = Interface { link, snaplen, ticks, offset_s: block.if_tsoffset, dropped: 0 };
        match &mut self.format {
            Format::Pcapng { interfaces, .. } if interfaces.len() < MAX_INTERFACES => {
                interfaces.push(interface)
            }
            _ => return Err(self.damaged(at, format!("more than {MAX_INTERFACES} interfaces"))),
        }
        Ok(())
    }

    fn statistics(&mut self, order: Order) {
        let Some(Block::InterfaceStatistics(block)) = self.parsed(order) else { return };
        let (id, dropped) = (block.if_id as usize, block.isb_ifdrop());
        if let (Some(Ok(dropped)), Format::Pcapng { interfaces, .. }) = (dropped, &mut self.format)
            && let Some(interface) = interfaces.get_mut(id)
        {
            interface.dropped = interface.dropped.max(dropped);
        }
    }

    fn packet_block(&mut self, kind: u32, order: Order, at: u64) -> Result<Held, CaptureError> {
        let word = |at: usize| order.u32(&self.record, at);
        // Interface, ticks, captured and original length, where the bytes begin.
        let (id, ticks, length, original, begin) = match kind {
            SIMPLE_PACKET => (0, None, word(8), word(8), 12),
            OLD_PACKET => {
                let id = u32::from(order.u16(&self.record, 8));
                (id, Some((word(12), word(16))), word(20), word(24), 28)
            }
            _ => (word(8), Some((word(12), word(16))), word(20), word(24), 28),
        };
        let Format::Pcapng { interfaces, .. } = &self.format else {
            return Err(self.damaged(at, "a block outside of a section".to_owned()));
        };
        let Some(&Interface { link, snaplen, ticks: per_second, offset_s, .. }) = interfaces.get(id as usize)
        else {
            return Err(self.damaged(at, format!("a packet of interface {id}, which was not described")));
        };
        let length = match kind {
            SIMPLE_PACKET if snaplen != 0 => length.min(snaplen),
            _ => length,
        };
        let room = self.record.len().saturating_sub(begin + 4);
        if length > MAX_PACKET || length as usize > room {
            return Err(
                self.damaged(at, format!("a packet of {length} bytes in a block with room for {room}"))
            );
        }
        if let Some((high, low)) = ticks {
            let ticks = u128::from(high) << 32 | u128::from(low);
            let ns = ticks * 1_000_000_000 / u128::from(per_second);
            let offset = i128::from(offset_s) * 1_000_000_000;
            let ns = i128::try_from(ns).unwrap_or(i128::MAX).saturating_add(offset);
            self.last_ns = u64::try_from(ns.max(0)).unwrap_or(u64::MAX);
        }
        let (original, length) = (original.max(length), length as usize);
        Ok(Held { time_ns: self.last_ns, link, interface: id, original, begin, length })
    }

    /// Reads `n` bytes into `record`; `false` at the end of the file.
    fn read(&mut self, n: usize, at: u64, what: &str) -> Result<bool, CaptureError> {
        self.record.resize(n, 0);
        let mut have = 0;
        while have < n {
            match self.input.read(&mut self.record[have..]) {
                Ok(0) if have == 0 => return Ok(false),
                Ok(0) => {
                    return Err(self.damaged(at, format!("it ends within {what}: {have} of {n} bytes")));
                }
                Ok(more) => have += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.damaged(at, error.to_string())),
            }
        }
        self.offset += n as u64;
        Ok(true)
    }

    fn exactly(&mut self, n: usize, at: u64, what: &str) -> Result<&[u8], CaptureError> {
        if n > 0 && !self.read(n, at, what)? {
            return Err(self.damaged(at, format!("it ends within {what}: 0 of {n} bytes")));
        }
        self.record.truncate(n);
        Ok(&self.record)
    }

    fn damaged(&self, offset: u64, reason: String) -> CaptureError {
        CaptureError::Damaged { name: self.name.clone(), offset, packed: self.packed, reason }
    }
}

/// Ticks in a second: a power of ten, or of two. (What pcap-parser 0.17 has for it takes no power of two.)
fn ticks(resolution: u8) -> Option<u64> {
    let exponent = u32::from(resolution & 0x7f);
    match resolution & 0x80 {
        0 => 10_u64.checked_pow(exponent),
        _ => 1_u64.checked_shl(exponent),
    }
}

/// The first bytes, at most `n`.
fn up_to(input: &mut impl Read, n: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    input.take(n).read_to_end(&mut bytes)?;
    Ok(bytes)
}
