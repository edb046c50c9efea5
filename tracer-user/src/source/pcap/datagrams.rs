//! UDP datagrams of a capture, to the events that the probes would have sent: which socket each belongs to, which way it went, and
//! whether it was seen before.
//!
//! As for TCP, each conversation comes once, as its server sees it. A socket is an end that serves, and its datagrams are numbered as they
//! are seen: what the capture lacks of a conversation cannot be known.
//!
//! * **Who serves** is what the message says of itself ([`crate::protocol::Protocol::infer_datagram`]): a request was sent to a server, a
//!   response by one. Where it says nothing (too little of it was captured), the end whose port is wanted serves, and of two such the lower.
//! * **Everybody asks all and tells all** (mDNS): a question was sent to the group, and is the group's; an announcement is the announcer's.
//! * **Asked of a group, answered from anywhere** (LLMNR): all who may answer are one socket.
//! * **Seen twice** (on several interfaces, inside and outside of a tunnel, in two files): the same bytes between the same ends within
//!   `COPY_NS`, with IP's identification where there is one. IPv6 has none, nor has IPv4 where it is not to be fragmented and the
//!   sender leaves it at 0: there a datagram is a copy of one that was seen at another place (file, interface, link header, tunnel, hops),
//!   and what comes twice at one place was sent twice. A question that is asked again has another identification, and is another datagram.

use std::{
    collections::VecDeque,
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

use bytes::{BufMut as _, Bytes, BytesMut};
use rustc_hash::FxHashMap;
use tracer_ebpf as abi;

use crate::{
    conn::{reassembly::Endpoint, tracker::Tracker},
    event::{ConnClose, ConnId, Datagram, Direction, Event},
    protocol::{Inference, REGISTRY, of_ports},
    time::BootTime,
};

/// Sockets at once; beyond it the one that was idle longest is forgotten. As many as the pipeline keeps.
const MAX_SOCKETS: usize = 65_536;
/// Copies come so soon: what two hosts whose clocks agree to some ms see of a packet on its way between them. glibc, dig and musl ask again, with
/// the same bytes, after 1 to 5 s; the probes of python-zeroconf come every 173 ms.
const COPY_NS: u64 = 100_000_000;
/// Datagrams of which copies are known: 655,360 a second; beyond it the oldest is let go, and copies of it count again. 65,536 × some 100 bytes.
const MAX_SEEN: usize = 65_536;
/// Places at which one datagram is seen; beyond it each is told as another.
const MAX_PLACES: usize = 64;
/// Bytes of a message's length before it, as parsers want it.
const PREFIX: usize = 2;

/// A captured datagram.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UdpDatagram {
    time: BootTime,
    family: u16,
    source: Endpoint,
    destination: Endpoint,
    /// Length, bytes.
    bytes: u32,
    /// The number of those that were captured, in two bytes, and they.
    framed: Bytes,
    /// IP's identification; 0: it has none.
    id: u32,
    /// A hash of where it was captured.
    place: u64,
}

impl UdpDatagram {
    /// One of `bytes` bytes, of which the first were captured. `seen`: IP's identification or 0, and a hash of where it was captured.
    pub fn new(
        time: BootTime,
        family: u16,
        source: Endpoint,
        destination: Endpoint,
        bytes: u32,
        captured: &[u8],
        seen: (u32, u64),
    ) -> UdpDatagram {
        let mut framed = BytesMut::with_capacity(PREFIX + captured.len());
        // INVARIANT: no datagram has more than 65,527 bytes.
        framed.put_u16(captured.len() as u16);
        framed.put_slice(captured);
        let (id, place) = seen;
        UdpDatagram { time, family, source, destination, bytes, framed: framed.freeze(), id, place }
    }

    fn payload(&self) -> Bytes {
        self.framed.slice(PREFIX..)
    }
}

/// What was seen and left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DatagramCounts {
    /// Datagrams that were told.
    pub told: u64,
    /// Of these such as the capture has not all bytes of (snaplen).
    pub cut: u64,
    /// Copies of datagrams that were told.
    pub repeated: u64,
    /// Datagrams of which copies are no longer known, because there were too many at once.
    pub copies_full: u64,
    /// Sockets forgotten because there were too many.
    pub sockets_full: u64,
}

impl DatagramCounts {
    /// Names of counters, with their counts.
    pub fn named(&self) -> [(&'static str, u64); 5] {
        let DatagramCounts { told, cut, repeated, copies_full, sockets_full } = *self;
        [
            ("capture.udp_datagrams", told),
            ("capture.udp_cut", cut),
            ("capture.udp_repeated", repeated),
            ("capture.udp_copies_full", copies_full),
            ("lost.capture_sockets_full", sockets_full),
        ]
    }
}

/// The end that serves.
type Key = (u16, Endpoint);

#[derive(Debug)]
struct Socket {
    id: ConnId,
    key: Key,
    /// Number of the next datagram, by direction.
    next: [u64; 2],
    /// Time of the last one, by direction: in the order of the numbers it never goes backwards.
    last: [BootTime; 2],
}

/// All sockets of a capture.
#[derive(Debug)]
pub struct Datagrams {
    by_key: FxHashMap<Key, ConnId>,
    sockets: Tracker<Socket>,
    seen: Seen,
    udp_ports: Vec<u16>,
    counts: DatagramCounts,
}

impl Datagrams {
    /// Without sockets. `udp_ports`: those that are wanted.
    pub fn new(udp_ports: Vec<u16>) -> Datagrams {
        Datagrams::with_room(udp_ports, MAX_SOCKETS)
    }

    fn with_room(udp_ports: Vec<u16>, max_sockets: usize) -> Datagrams {
        Datagrams {
            by_key: FxHashMap::default(),
            sockets: Tracker::new(max_sockets),
            seen: Seen::default(),
            udp_ports,
            counts: DatagramCounts::default(),
        }
    }

    /// What was seen so far.
    pub fn counts(&self) -> DatagramCounts {
        DatagramCounts { copies_full: self.seen.forgotten, ..self.counts }
    }

    /// Takes a datagram in; what it makes known is appended to `out`. `new_id` names a socket.
    pub fn take(
        &mut self,
        datagram: &UdpDatagram,
        new_id: impl FnOnce(BootTime) -> ConnId,
        out: &mut Vec<Event>,
    ) {
        if self.seen.is_copy(datagram) {
            self.counts.repeated += 1;
            return;
        }
        let UdpDatagram { time, family, source, destination, bytes, .. } = *datagram;
        let (direction, key) = self.served(datagram);
        let (server, client) = match direction {
            Direction::Ingress => (destination, source),
            Direction::Egress => (source, destination),
        };
        let payload = datagram.payload();
        self.counts.told += 1;
        self.counts.cut += u64::from((payload.len() as u64) < u64::from(bytes));
        let id = self.socket(key, time, new_id, out);
        let Some(socket) = self.sockets.touch(id) else { return };
        let last = &mut socket.last[direction.index()];
        *last = (*last).max(time);
        let number = &mut socket.next[direction.index()];
        let conn = socket.id;
        out.push(Event::Datagram(Datagram {
            time: *last,
            conn,
            number: *number,
            bytes,
            tuple: abi::Tuple {
                local: server.address,
                remote: client.address,
                local_port: server.port,
                remote_port: client.port,
                family,
                reserved: 0,
            },
            flags: if direction == Direction::Egress { abi::FLAG_EGRESS } else { 0 },
            payload,
            ..Datagram::default()
        }));
        *number += 1;
    }

    /// Which way a datagram went, as its server sees it, and the socket that serves.
    fn served(&self, datagram: &UdpDatagram) -> (Direction, Key) {
        let UdpDatagram { family, source, destination, .. } = *datagram;
        let Some(at) = of_ports(destination.port, source.port) else {
            return (Direction::Ingress, (family, destination));
        };
        let protocol = REGISTRY[at];
        let direction = match protocol.infer_datagram(&datagram.framed) {
            Inference::Request => Direction::Ingress,
            Inference::Response => Direction::Egress,
            _ => self.by_port(source.port, destination.port),
        };
        let server = if direction == Direction::Ingress { destination } else { source };
        if protocol.asks_a_group() {
            return (direction, (family, Endpoint { address: [0; 16], ..server }));
        }
        (direction, (family, server))
    }

    fn by_port(&self, source: u16, destination: u16) -> Direction {
        let [sends, receives] = [source, destination].map(|port| self.udp_ports.contains(&port));
        match (sends, receives) {
            (true, false) => Direction::Egress,
            (false, true) => Direction::Ingress,
            _ if source < destination => Direction::Egress,
            _ => Direction::Ingress,
        }
    }

    fn socket(
        &mut self,
        key: Key,
        time: BootTime,
        new_id: impl FnOnce(BootTime) -> ConnId,
        out: &mut Vec<Event>,
    ) -> ConnId {
        if let Some(id) = self.by_key.get(&key) {
            return *id;
        }
        while self.sockets.is_full() {
            let Some(idlest) = self.sockets.idlest().map(|socket| socket.id) else { break };
            self.forget(idlest, time, out);
        }
        let id = new_id(time);
        self.by_key.insert(key, id);
        self.sockets.insert(id, Socket { id, key, next: [0; 2], last: [BootTime(0); 2] });
        id
    }

    /// Lets go of a socket; nothing more of it is awaited.
    fn forget(&mut self, id: ConnId, now: BootTime, out: &mut Vec<Event>) {
        let Some(socket) = self.sockets.remove(id) else { return };
        self.by_key.remove(&socket.key);
        self.counts.sockets_full += 1;
        out.push(Event::ConnClose(ConnClose {
            time: now.max(socket.last[0]).max(socket.last[1]),
            conn: id,
            position: socket.next,
            reason: abi::CLOSE_REPLACED,
            ..ConnClose::default()
        }));
    }
}

/// Datagrams of the last [`COPY_NS`], by a hash of what they are.
#[derive(Debug, Default)]
struct Seen {
    by_hash: FxHashMap<u64, Sightings>,
    told: VecDeque<(BootTime, u64)>,
    now: BootTime,
    forgotten: u64,
}

/// Where equal datagrams were seen.
#[derive(Debug)]
struct Sightings {
    /// When the last of them was told that is no copy.
    told_at: BootTime,
    n_told: usize,
    first: u64,
    more: Vec<u64>,
}

impl Seen {
    fn is_copy(&mut self, datagram: &UdpDatagram) -> bool {
        self.now = self.now.max(datagram.time);
        let (now, place) = (self.now, datagram.place);
        while let Some((at, _)) = self.told.front()
            && at.0.saturating_add(COPY_NS) <= now.0
        {
            self.let_go();
        }
        // Always the same keys: what a capture gives is the same in every run.
        let mut hasher = DefaultHasher::new();
        let UdpDatagram { family, source, destination, bytes, framed, id, .. } = datagram;
        (family, source, destination, bytes, framed, id).hash(&mut hasher);
        let hash = hasher.finish();
        if let Some(known) = self.by_hash.get_mut(&hash) {
            let n_here =
                usize::from(known.first == place) + known.more.iter().filter(|it| **it == place).count();
            let is_copy = *id != 0 || n_here < known.n_told;
            if known.more.len() < MAX_PLACES {
                known.more.push(place);
            }
            if is_copy {
                return true;
            }
            known.n_told += 1;
            known.told_at = now;
        } else {
            if self.told.len() >= MAX_SEEN {
                self.forgotten += 1;
                self.let_go();
            }
            self.by_hash.insert(hash, Sightings { told_at: now, n_told: 1, first: place, more: Vec::new() });
        }
        self.told.push_back((now, hash));
        false
    }

    /// The oldest is no longer known, unless it was told once more.
    fn let_go(&mut self) {
        let Some((at, hash)) = self.told.pop_front() else { return };
        if self.by_hash.get(&hash).is_some_and(|known| known.told_at == at) {
            self.by_hash.remove(&hash);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(address: u8, port: u16) -> Endpoint {
        let mut bytes = [0; 16];
        bytes[0] = address;
        Endpoint { address: bytes, port }
    }

    /// A question, so many nanoseconds after the start.
    fn question(at: u64, server: u8, id: u32, place: u64) -> UdpDatagram {
        let payload = [&[0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1][..], b"a\0\0\x01\0\x01"].concat();
        let (client, server) = (end(1, 40_000), end(server, 53));
        let n = payload.len() as u32;
        UdpDatagram::new(BootTime(1 + at), abi::FAMILY_INET, client, server, n, &payload, (id, place))
    }

    /// Takes questions to these servers, each with an id of its own.
    fn ask(datagrams: &mut Datagrams, servers: &[u8], out: &mut Vec<Event>) {
        let mut ids = 0;
        for (n, server) in servers.iter().enumerate() {
            let new_id = |_| {
                ids += 1;
                ConnId(out.len() as u64 * 100 + ids)
            };
            let mut more = Vec::new();
            datagrams.take(&question(n as u64, *server, n as u32 + 1, 0), new_id, &mut more);
            out.extend(more);
        }
    }

    #[test]
    fn the_socket_that_was_idle_longest_makes_room_and_is_counted() {
        let mut datagrams = Datagrams::with_room(vec![53], 2);
        let mut out = Vec::new();
        ask(&mut datagrams, &[1, 2, 1, 3, 2], &mut out);
        let told: Vec<_> = out
            .iter()
            .map(|event| match event {
                Event::Datagram(datagram) => (datagram.tuple.local[0], datagram.number),
                Event::ConnClose(close) => (0, close.position[Direction::Ingress.index()]),
                other => panic!("{other:?}"),
            })
            .collect();
        // 2 was idle longest when 3 came, then 1, which had two questions. A new socket counts from 0.
        assert_eq!(told, [(1, 0), (2, 0), (1, 1), (0, 1), (3, 0), (0, 2), (2, 0)]);
        assert_eq!((datagrams.counts().told, datagrams.counts().sockets_full), (5, 2));
        assert_eq!((datagrams.sockets.len(), datagrams.by_key.len()), (2, 2));
    }

    #[test]
    fn copies_are_known_for_a_time_and_up_to_a_number_and_let_go_of_with_all() {
        let mut seen = Seen::default();
        for n in 0..MAX_SEEN as u32 {
            assert!(!seen.is_copy(&question(0, 9, n + 1, 0)));
        }
        assert!(seen.is_copy(&question(1, 9, 1, 0)));
        assert_eq!((seen.by_hash.len(), seen.forgotten), (MAX_SEEN, 0));
        // One more: the first is no longer known.
        assert!(!seen.is_copy(&question(1, 9, u32::MAX, 0)));
        assert!(!seen.is_copy(&question(1, 9, 1, 0)));
        assert_eq!((seen.by_hash.len(), seen.told.len(), seen.forgotten), (MAX_SEEN, MAX_SEEN, 2));
        assert!(!seen.is_copy(&question(COPY_NS + 1, 9, u32::MAX, 0)));
        assert_eq!((seen.by_hash.len(), seen.told.len()), (1, 1));
    }

    #[test]
    fn one_datagram_at_more_places_than_are_kept_takes_no_more_room() {
        let mut seen = Seen::default();
        for place in 0..10 * MAX_PLACES as u64 {
            let is_copy = seen.is_copy(&question(place, 9, 0, place));
            assert_eq!(is_copy, place != 0);
        }
        assert_eq!(seen.by_hash.values().map(|known| known.more.len()).sum::<usize>(), MAX_PLACES);
    }
}
