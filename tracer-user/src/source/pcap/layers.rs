//! From a captured packet to the TCP segment in it: link layer, tunnels (`tunnel`), IP and its extension headers, fragments.
//!
//! Of what is in a tunnel the innermost connection is told, between its own addresses; a packet that was captured outside and inside of the
//! tunnel is the same segment twice ([`crate::conn::reassembly`]). What tells two tunnels apart (a network's number, a key) is not looked
//! at: where two of them have the same addresses and ports at once, their connections are mixed.
//!
//! Checksums are not looked at: packets that a host sends itself are captured before the network card fills them in. Not read: PPPoE,
//! encrypted IP. Of UDP the datagrams are told that go from or to a port that is wanted.

use std::{
    collections::VecDeque,
    hash::{Hash as _, Hasher as _},
};

use bytes::Bytes;
use etherparse::{
    EtherType, IpFragOffset, IpNumber, Ipv6ExtensionSlice, LaxNetSlice, LaxSlicedPacket, LenSource, TcpSlice,
    UdpSlice, defrag::IpDefragBuf,
};
use rustc_hash::FxHasher;
use tracer_ebpf as abi;

use super::{
    datagrams::UdpDatagram,
    file::Frame,
    tunnel::{self, Inside},
};
use crate::{
    conn::reassembly::{Endpoint, Segment},
    time::BootTime,
};

/// Datagrams whose fragments wait for the rest; beyond it the oldest is given up. At most 64 KiB each.
const MAX_DATAGRAMS: usize = 256;
/// How long they wait: as Linux (`ipfrag_time`).
const FRAGMENT_NS: u64 = 30_000_000_000;
/// Copies of fragments come so soon behind the datagram that they were part of (captured on several interfaces), and are not the
/// beginning of another: its number is free again much later.
const COPY_NS: u64 = 10_000_000;
/// Datagrams that were whole within that time; of more, copies count as lost.
const MAX_JOINED: usize = 64;
/// Bytes of UDP's header.
const UDP_HEADER: usize = 8;
/// Tunnels within each other: as many as RFC 2473 allows by default.
const MAX_TUNNELS: usize = 4;

/// Link types that are read, with their names.
const LINKS: [(u32, &str); 11] = [
    (0, "BSD loopback (NULL)"),
    (1, "Ethernet"),
    (12, "raw IP"),
    (14, "raw IP"),
    (101, "raw IP"),
    (108, "OpenBSD loopback (LOOP)"),
    (113, "Linux cooked (SLL)"),
    (228, "IPv4"),
    (229, "IPv6"),
    (276, "Linux cooked v2 (SLL2)"),
    (109, "OpenBSD encapsulated IP (ENC)"),
];
/// Some that are not, for whoever meets them.
const OTHER_LINKS: [(u32, &str); 10] = [
    (9, "PPP"),
    (50, "PPP over serial"),
    (51, "PPPoE"),
    (105, "802.11"),
    (127, "802.11 with radiotap"),
    (147, "private use"),
    (189, "USB"),
    (220, "USB"),
    (195, "802.15.4"),
    (187, "Bluetooth"),
];

/// Whether packets of a link type are read.
pub fn is_known(link: u32) -> bool {
    LINKS.iter().any(|(number, _)| *number == link)
}

/// A link type for people.
pub fn link_name(link: u32) -> String {
    let known = LINKS.iter().chain(&OTHER_LINKS).find(|(number, _)| *number == link);
    known.map_or_else(|| link.to_string(), |(_, name)| format!("{link} ({name})"))
}

/// What was seen and left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LayerCounts {
    /// Packets.
    pub packets: u64,
    /// Packets of a link type that is not read.
    pub other_link: u64,
    /// Neither IPv4 nor IPv6.
    pub not_ip: u64,
    /// UDP, tunnels apart.
    pub udp: u64,
    /// Of it what goes between ports that are not wanted.
    pub udp_other_port: u64,
    /// Of it what says to be shorter than its header, or longer than what IP says: no kernel takes it.
    pub udp_bad_length: u64,
    /// IP, and neither TCP nor UDP.
    pub other_ip: u64,
    /// Packets of which not even the headers are there, or whose headers are none.
    pub headers_cut: u64,
    /// Fragments of IP.
    pub fragments: u64,
    /// Fragments that never became whole, or were captured in part.
    pub fragments_lost: u64,
    /// Packets of tunnels, whatever is in them.
    pub tunnelled: u64,
    /// Packets with more tunnels within each other than are read.
    pub too_deep: u64,
}

impl LayerCounts {
    /// Names of counters, with their counts.
    pub fn named(&self) -> [(&'static str, u64); 12] {
        let LayerCounts {
            packets,
            other_link,
            not_ip,
            udp,
            udp_other_port,
            udp_bad_length,
            other_ip,
            headers_cut,
            fragments,
            fragments_lost,
            tunnelled,
            too_deep,
        } = *self;
        [
            ("capture.packets", packets),
            ("capture.other_link", other_link),
            ("capture.not_ip", not_ip),
            ("capture.udp", udp),
            ("capture.udp_not_looked_at", udp_other_port),
            ("capture.udp_bad_length", udp_bad_length),
            ("capture.other_ip", other_ip),
            ("lost.capture_headers_cut", headers_cut),
            ("capture.ip_fragments", fragments),
            ("lost.capture_fragments", fragments_lost),
            ("capture.tunnelled", tunnelled),
            ("lost.capture_too_deep", too_deep),
        ]
    }
}

/// Addresses of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ends {
    family: u16,
    source: [u8; 16],
    destination: [u8; 16],
}

type DatagramKey = (Ends, u32, IpNumber);

#[derive(Debug)]
struct Datagram {
    key: DatagramKey,
    since: u64,
    n: u64,
    buf: IpDefragBuf,
}

/// What a packet holds that is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Held {
    /// Of TCP.
    Segment(Segment),
    /// Of UDP.
    Datagram(UdpDatagram),
}

/// Reads packets. Holds fragments.
#[derive(Debug)]
pub struct Layers {
    counts: LayerCounts,
    /// Whose datagrams are wanted, in order.
    udp_ports: Vec<u16>,
    datagrams: VecDeque<Datagram>,
    joined: VecDeque<(DatagramKey, u64)>,
}

/// What IP's header tells one datagram from another by.
#[derive(Clone, Copy, Debug)]
struct Name {
    ends: Ends,
    /// 0: it has none.
    id: u32,
    hops: u8,
}

/// A packet on its way through its layers.
#[derive(Clone, Copy, Debug)]
struct Way<'a> {
    /// Where it was captured, and its link layer there.
    place: (u32, u32),
    outermost: &'a [u8],
    time: BootTime,
    /// As it was captured.
    time_ns: u64,
    /// Bytes at its end that were not captured.
    missing: usize,
    /// Tunnels that it came out of.
    depth: usize,
}

impl Layers {
    /// For datagrams of these ports.
    pub fn new(mut udp_ports: Vec<u16>) -> Layers {
        udp_ports.sort_unstable();
        Layers {
            counts: LayerCounts::default(),
            udp_ports,
            datagrams: VecDeque::new(),
            joined: VecDeque::new(),
        }
    }

    /// What was seen so far.
    pub fn counts(&self) -> LayerCounts {
        self.counts
    }

    /// Fragments that wait are given up.
    pub fn finish(&mut self) {
        for datagram in self.datagrams.drain(..) {
            self.counts.fragments_lost += datagram.n;
        }
    }

    /// The segment or datagram that a packet holds, or makes whole.
    pub fn read(&mut self, packet: &Frame<'_>, time: BootTime) -> Option<Held> {
        self.counts.packets += 1;
        if !is_known(packet.link) {
            self.counts.other_link += 1;
            return None;
        }
        let Some((ether_type, begin)) = network(packet.link, packet.data) else {
            self.counts.headers_cut += 1;
            return None;
        };
        let (outermost, data) = packet.data.split_at_checked(begin).unwrap_or((packet.data, &[]));
        let missing = (packet.original as usize).saturating_sub(packet.data.len());
        let (place, time_ns) = (packet.place, packet.time_ns);
        self.network(Way { place, outermost, time, time_ns, missing, depth: 0 }, ether_type, data)
    }

    fn network(&mut self, way: Way<'_>, ether_type: u16, data: &[u8]) -> Option<Held> {
        let sliced = LaxSlicedPacket::from_ether_type(EtherType(ether_type), data);
        let Some(net) = &sliced.net else {
            // Behind tags of VLANs, if there are some.
            let (ether_type, data) = sliced
                .ether_payload()
                .map_or((ether_type, data), |tagged| (tagged.ether_type.0, tagged.payload));
            return match tunnel::behind(ether_type, data) {
                Inside::Nothing => {
                    let is_ip = matches!(ether_type, 0x0800 | 0x86dd);
                    *(if is_ip { &mut self.counts.headers_cut } else { &mut self.counts.not_ip }) += 1;
                    None
                }
                inside => self.within(way, inside),
            };
        };
        let (ends, hops, header, payload, declared, fragment) = match net {
            LaxNetSlice::Ipv4(ip) => {
                let header = ip.header();
                let ends = Ends {
                    family: abi::FAMILY_INET,
                    source: v4(header.source()),
                    destination: v4(header.destination()),
                };
                let fragment =
                    (u32::from(header.identification()), header.fragments_offset(), header.more_fragments());
                let all = usize::from(header.total_len());
                (ends, header.ttl(), header.slice().as_ptr(), ip.payload(), all, Some(fragment))
            }
            LaxNetSlice::Ipv6(ip) => {
                let header = ip.header();
                let ends = Ends {
                    family: abi::FAMILY_INET6,
                    source: header.source(),
                    destination: header.destination(),
                };
                let fragment = ip.extensions().clone().into_iter().find_map(|extension| match extension {
                    Ipv6ExtensionSlice::Fragment(header) => {
                        Some((header.identification(), header.fragment_offset(), header.more_fragments()))
                    }
                    _ => None,
                });
                let all = 40 + usize::from(header.payload_length());
                (ends, header.hop_limit(), header.slice().as_ptr(), ip.payload(), all, fragment)
            }
            LaxNetSlice::Arp(_) => {
                self.counts.not_ip += 1;
                return None;
            }
        };
        let bytes = payload.payload;
        let name = Name { ends, id: fragment.map_or(0, |(id, ..)| id), hops };
        let whole = if payload.incomplete {
            declared.saturating_sub((bytes.as_ptr() as usize).saturating_sub(header as usize))
        } else if payload.len_source == LenSource::Slice {
            // The card cuts it into packets and writes their lengths (TSO): this one is as long as the capture says.
            bytes.len() + way.missing
        } else {
            bytes.len()
        };
        if payload.fragmented {
            self.counts.fragments += 1;
            let Some((id, offset, more)) = fragment.filter(|_| whole == bytes.len()) else {
                self.counts.fragments_lost += 1;
                return None;
            };
            let joined = self.join((ends, id, payload.ip_number), way.time_ns, offset, more, bytes)?;
            return self.transport(way, name, payload.ip_number, &joined, joined.len());
        }
        // Those two are looked at once more below.
        let is_seen_again = matches!(payload.ip_number, IpNumber::TCP | IpNumber::UDP);
        if sliced.stop_err.is_some() && !is_seen_again {
            self.counts.headers_cut += 1;
            return None;
        }
        self.transport(way, name, payload.ip_number, bytes, whole)
    }

    /// What came out of a tunnel.
    fn within(&mut self, way: Way<'_>, inside: Inside<'_>) -> Option<Held> {
        self.counts.tunnelled += u64::from(way.depth == 0);
        match inside {
            Inside::Packet(..) if way.depth >= MAX_TUNNELS => self.counts.too_deep += 1,
            Inside::Packet(ether_type, data) => {
                return self.network(Way { depth: way.depth + 1, ..way }, ether_type, data);
            }
            Inside::Cut | Inside::Nothing => self.counts.headers_cut += 1,
        }
        None
    }

    fn transport(
        &mut self,
        way: Way<'_>,
        name: Name,
        number: IpNumber,
        bytes: &[u8],
        whole: usize,
    ) -> Option<Held> {
        let ends = name.ends;
        match number {
            IpNumber::TCP => {}
            IpNumber::UDP => {
                let Ok(udp) = UdpSlice::from_slice_lax(bytes) else {
                    self.counts.headers_cut += 1;
                    return None;
                };
                let inside = tunnel::in_udp(udp.destination_port(), udp.payload());
                if inside != Inside::Nothing {
                    return self.within(way, inside);
                }
                return self.datagram(way, name, bytes, whole).map(Held::Datagram);
            }
            _ => match tunnel::in_ip(number.0, bytes) {
                Inside::Nothing => {
                    self.counts.other_ip += 1;
                    return None;
                }
                inside => return self.within(way, inside),
            },
        }
        let Ok(tcp) = TcpSlice::from_slice(bytes) else {
            self.counts.headers_cut += 1;
            return None;
        };
        let length = whole.saturating_sub(tcp.header_slice().len());
        let captured = &tcp.payload()[..tcp.payload().len().min(length)];
        Some(Held::Segment(Segment {
            time: way.time,
            family: ends.family,
            source: Endpoint { address: ends.source, port: tcp.source_port() },
            destination: Endpoint { address: ends.destination, port: tcp.destination_port() },
            sequence: tcp.sequence_number(),
            acknowledged: tcp.ack().then(|| tcp.acknowledgment_number()),
            syn: tcp.syn(),
            fin: tcp.fin(),
            reset: tcp.rst(),
            bytes: u32::try_from(length).unwrap_or(u32::MAX),
            payload: Bytes::copy_from_slice(captured),
        }))
    }

    /// The datagram of a packet of UDP, if it is wanted. `bytes`: from its header on; `whole`: what IP says that there are.
    fn datagram(&mut self, way: Way<'_>, name: Name, bytes: &[u8], whole: usize) -> Option<UdpDatagram> {
        let half = |at: usize| Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
        let (source, destination, length) = (half(0)?, half(2)?, usize::from(half(4)?));
        self.counts.udp += 1;
        if !(UDP_HEADER..=whole).contains(&length) {
            self.counts.udp_bad_length += 1;
            return None;
        }
        if ![source, destination].iter().any(|port| self.udp_ports.binary_search(port).is_ok()) {
            self.counts.udp_other_port += 1;
            return None;
        }
        let captured = bytes.get(UDP_HEADER..bytes.len().min(length)).unwrap_or_default();
        let mut place = FxHasher::default();
        (way.place, way.outermost, way.depth, name.hops).hash(&mut place);
        Some(UdpDatagram::new(
            way.time,
            name.ends.family,
            Endpoint { address: name.ends.source, port: source },
            Endpoint { address: name.ends.destination, port: destination },
            (length - UDP_HEADER) as u32,
            captured,
            (name.id, place.finish()),
        ))
    }

    /// Takes a fragment in; returns the datagram that it makes whole.
    fn join(
        &mut self,
        key: DatagramKey,
        now: u64,
        offset: IpFragOffset,
        more: bool,
        bytes: &[u8],
    ) -> Option<Vec<u8>> {
        while let Some(first) = self.datagrams.front()
            && first.since.saturating_add(FRAGMENT_NS) <= now
        {
            self.counts.fragments_lost += self.datagrams.pop_front().map_or(0, |first| first.n);
        }
        while self.joined.len() > MAX_JOINED
            || self.joined.front().is_some_and(|(_, at)| at.saturating_add(COPY_NS) <= now)
        {
            self.joined.pop_front();
        }
        if self.joined.iter().any(|(joined, _)| *joined == key) {
            return None;
        }
        let at = match self.datagrams.iter().position(|datagram| datagram.key == key) {
            Some(at) => at,
            None => {
                if self.datagrams.len() >= MAX_DATAGRAMS {
                    self.counts.fragments_lost += self.datagrams.pop_front().map_or(0, |first| first.n);
                }
                let buf = IpDefragBuf::new(key.2, Vec::new(), Vec::new());
                self.datagrams.push_back(Datagram { key, since: now, n: 0, buf });
                self.datagrams.len() - 1
            }
        };
        let datagram = &mut self.datagrams[at];
        datagram.n += 1;
        if datagram.buf.add(offset, more, bytes).is_err() {
            let n = self.datagrams.remove(at).map_or(0, |datagram| datagram.n);
            self.counts.fragments_lost += n;
            return None;
        }
        if !datagram.buf.is_complete() {
            return None;
        }
        self.joined.push_back((key, now));
        self.datagrams.remove(at).map(|datagram| datagram.buf.take_bufs().0)
    }
}

fn v4(address: [u8; 4]) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&address);
    bytes
}

/// The type of what the link layer carries, as Ethernet numbers it, and where that begins.
fn network(link: u32, data: &[u8]) -> Option<(u16, usize)> {
    let word = |at: usize| Some(u16::from_be_bytes([*data.get(at)?, *data.get(at + 1)?]));
    let by_version = |at: usize| {
        Some(match data.get(at)? >> 4 {
            4 => (0x0800, at),
            6 => (0x86dd, at),
            _ => (0, at),
        })
    };
    match link {
        1 => tunnel::ethernet(data),
        113 => Some((word(14)?, 16)),
        276 => Some((word(0)?, 20)),
        // The family in the byte order of whoever captured, and of the network: what is behind it tells as well.
        0 | 108 => by_version(4),
        109 => by_version(12),
        _ => by_version(0),
    }
}
