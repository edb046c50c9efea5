//! Connections of which both ends are traced: which request at the one end is which at the other.
//!
//! Two connections are the ends of one where the addresses and ports of the one are those of the other, turned round; on loopback in the same network
//! namespace, as each has one. Both ends give a byte the same place in the stream: TCP's sequence number, or within TLS its number since the beginning.
//! So a request that is served is the one that was made whose first byte has the same place, wherever each end was joined and whatever was lost before.
//! Another connection that used the same ports began at another number, chosen at random.
//!
//! A client's send is stamped when it returns, and by then the server may have answered: what is not known when a request ends waits for the client's
//! end as long as the transaction waits behind the watermark.
//!
//! Not matched: Unix sockets (neither end tells anything that the other one knows), datagrams.

use std::{
    collections::{BTreeMap, VecDeque},
    net::Ipv6Addr,
};

use serde::{Deserialize, Serialize};
use tracer_ebpf as abi;

use super::{Entry, Pipeline, Rest};
use crate::{
    event::{ConnId, ConnOpen},
    metrics::{Counter, Metrics},
    transaction::{
        CallId,
        anatomy::{Causes, Link, LinkMethod},
        open::Open,
    },
};

/// Connections that are known here: those that are tracked, and other ends of such. Beyond it the oldest is forgotten (`links.forgotten`). 131,072 × some
/// 200 bytes.
const MAX_ENDS: usize = 131_072;
/// Requests of one connection whose other end has not been seen to end; beyond it the oldest is forgotten (`links.forgotten`). As many as are in flight.
const MAX_MADE: usize = 1_024;
/// Requests served whose client's end has not come yet, of one connection: what a thread may answer while another is between its send and its return.
const MAX_AWAITED: usize = 64;

/// Address and port.
type Place = ([u8; 16], u16);
/// Network namespace on loopback, the own place, the other's.
type Key = (u32, Place, Place);

/// A request by its first byte: whether that is within TLS, and the low bits of its position.
type FirstByte = (bool, u32);

/// One end of a connection.
#[derive(Debug, Serialize, Deserialize)]
struct End {
    key: Key,
    /// The connection at the other end.
    peer: Option<ConnId>,
    /// Requests made at this end, in order: the first byte of each, and what it is called.
    made: VecDeque<(FirstByte, CallId)>,
    /// The same of requests that the other end has served, and this one has not been seen to make.
    awaited: VecDeque<(FirstByte, CallId)>,
    has_ended: bool,
}

/// The state.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Peers {
    by_key: BTreeMap<Key, ConnId>,
    ends: BTreeMap<ConnId, End>,
}

fn place(family: u16, address: &[u8; 16], port: u16) -> Place {
    match family {
        // A socket of IPv6 may have an end of IPv4.
        abi::FAMILY_INET => {
            let [a, b, c, d, ..] = *address;
            (std::net::Ipv4Addr::new(a, b, c, d).to_ipv6_mapped().octets(), port)
        }
        _ => (*address, port),
    }
}

fn is_loopback(place: Place) -> bool {
    Ipv6Addr::from(place.0).to_canonical().is_loopback()
}

fn key(open: &ConnOpen) -> Option<Key> {
    let tuple = &open.tuple;
    let is_known = matches!(tuple.family, abi::FAMILY_INET | abi::FAMILY_INET6)
        && tuple.local_port != 0
        && tuple.remote_port != 0;
    let own = place(tuple.family, &tuple.local, tuple.local_port);
    let other = place(tuple.family, &tuple.remote, tuple.remote_port);
    let netns = if is_loopback(own) { open.netns } else { 0 };
    is_known.then_some((netns, own, other))
}

impl Peers {
    /// A connection comes into sight. Its other end, if that is known.
    fn open(&mut self, open: &ConnOpen, metrics: &Metrics) -> Option<ConnId> {
        let key = key(open)?;
        let (netns, own, other) = key;
        let peer = self.by_key.get(&(netns, other, own)).copied().filter(|peer| *peer != open.conn);
        if self.ends.len() >= MAX_ENDS
            && let Some((_, end)) = self.ends.pop_first()
        {
            self.by_key.remove(&end.key);
            metrics.add(Counter::LinksForgotten, 1);
        }
        self.by_key.insert(key, open.conn);
        let end = self.ends.entry(open.conn).or_insert_with(|| End {
            key,
            peer: None,
            made: VecDeque::new(),
            awaited: VecDeque::new(),
            has_ended: false,
        });
        (end.key, end.peer) = (key, peer);
        let peer = peer?;
        let awaited = self.ends.get_mut(&peer).map(|end| {
            end.peer = Some(open.conn);
            std::mem::take(&mut end.awaited)
        });
        if let (Some(awaited), Some(end)) = (awaited, self.ends.get_mut(&open.conn)) {
            end.awaited.extend(awaited);
        }
        Some(peer)
    }

    /// A connection is let go. What was made at it is known as long as the other end lives.
    pub(super) fn close(&mut self, conn: ConnId) {
        let Some(end) = self.ends.get_mut(&conn) else { return };
        (end.has_ended, end.awaited) = (true, VecDeque::new());
        let (key, peer) = (end.key, end.peer);
        if self.by_key.get(&key) == Some(&conn) {
            self.by_key.remove(&key);
        }
        let is_of_use = |peer: &ConnId| {
            self.ends.get(peer).is_some_and(|other| !other.has_ended && other.peer == Some(conn))
        };
        if peer.filter(is_of_use).is_none() {
            self.ends.remove(&conn);
            if let Some(peer) = peer
                && self.ends.get(&peer).is_some_and(|other| other.has_ended && other.peer == Some(conn))
            {
                self.ends.remove(&peer);
            }
        }
    }

    /// A request was made on a connection. The request that it is at the other end, if that one has ended already.
    fn made(&mut self, wire: ConnId, first: FirstByte, id: CallId, metrics: &Metrics) -> Option<CallId> {
        let end = self.ends.get_mut(&wire)?;
        if let Some(at) = end.awaited.iter().position(|(awaited, _)| *awaited == first) {
            return end.awaited.remove(at).map(|(_, served)| served);
        }
        if end.made.len() >= MAX_MADE {
            end.made.pop_front();
            metrics.add(Counter::LinksForgotten, 1);
        }
        end.made.push_back((first, id));
        None
    }

    /// A request that was served has ended: what it is at its client, if that is known yet.
    fn served(&mut self, wire: ConnId, first: FirstByte, id: CallId) -> Option<CallId> {
        let end = self.ends.get_mut(&wire)?;
        let end = match end.peer {
            Some(peer) => self.ends.get_mut(&peer)?,
            // The other end may come into sight yet, if it is on this host.
            None if end.key.1.0 == end.key.2.0 || is_loopback(end.key.1) => end,
            None => return None,
        };
        if let Some(at) = end.made.iter().position(|(made, _)| *made == first) {
            return end.made.remove(at).map(|(_, made)| made);
        }
        if end.awaited.len() >= MAX_AWAITED {
            end.awaited.pop_front();
        }
        end.awaited.push_back((first, id));
        None
    }

    /// Whether the other end of a connection is known.
    fn is_paired(&self, wire: ConnId) -> bool {
        self.ends.get(&wire).is_some_and(|end| end.peer.is_some())
    }
}

impl Pipeline {
    /// A connection comes into sight, and perhaps it is the other end of one that is known.
    pub(super) fn pair_ends(&mut self, open: &ConnOpen) {
        let Some(peer) = self.rest.peers.open(open, &self.rest.metrics) else { return };
        for conn in [open.conn, peer] {
            if let Some(entry) = self.tracker.get_mut(conn) {
                entry.is_paired = true;
                self.rest.note_made(entry);
            }
        }
    }

    /// Which of the tracked connections have a known other end, after a restore.
    pub(super) fn restore_paired(&mut self) {
        for entry in self.tracker.iter_mut() {
            entry.is_paired = self.rest.peers.is_paired(entry.conn.id);
        }
    }
}

/// What matters of a connection here.
#[derive(Clone, Copy)]
pub(super) struct Here {
    conn: ConnId,
    wire: ConnId,
    /// Within TLS both ends count from its beginning: `false` where that was not seen.
    is_counted: bool,
}

impl Here {
    pub(super) fn of(entry: &Entry) -> Here {
        let conn = entry.conn.id;
        Here {
            conn,
            wire: entry.carrier().unwrap_or(conn),
            is_counted: entry.link.is_none() || !entry.conn.mid_join,
        }
    }

    fn request(self, open: (u64, u64)) -> Option<(FirstByte, CallId)> {
        let (ordinal, from) = open;
        // The kernel's sequence numbers have 32 bits; what is above them is made up.
        let first = (self.conn != self.wire, from as u32);
        self.is_counted.then_some((first, CallId { conn: self.conn, ordinal }))
    }
}

impl Rest {
    /// Remembers the requests that began on a client's connection whose other end is known.
    pub(super) fn note_made(&mut self, entry: &mut Entry) {
        let here = Here::of(entry);
        // Nearly always none or one.
        while let Some(open) = {
            let known = entry.n_noted;
            let may_matter = entry.is_paired || entry.link.is_some();
            let new = entry.exchange.open().rev().take_while(|open| may_matter && open.ordinal >= known);
            new.last().map(|open| (open.ordinal, open.request_from))
        } {
            entry.n_noted = open.0 + 1;
            self.note_one(here, open);
        }
    }

    /// The same of one that has ended at once.
    pub(super) fn note_ended(&mut self, entry: &mut Entry, open: &Open) {
        if (entry.is_paired || entry.link.is_some()) && open.ordinal >= entry.n_noted {
            entry.n_noted = open.ordinal + 1;
            self.note_one(Here::of(entry), (open.ordinal, open.request_from));
        }
    }

    fn note_one(&mut self, here: Here, open: (u64, u64)) {
        if let Some((first, parent)) = here.request(open)
            && let Some(served) = self.peers.made(here.wire, first, parent, &self.metrics)
            && let Some(transaction) = self.watermark.waiting_mut(served)
        {
            let link = Link { parent, method: LinkMethod::Socket };
            transaction.causes.get_or_insert_with(|| Box::new(Causes::default())).link = Some(link);
        }
    }

    /// What a request that was served is at its client.
    pub(super) fn asked_by(&mut self, here: Here, open: &Open) -> Option<Link> {
        let (first, id) = here.request((open.ordinal, open.request_from))?;
        let parent = self.peers.served(here.wire, first, id)?;
        Some(Link { parent, method: LinkMethod::Socket })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(conn: u64, own: u16, other: u16) -> ConnOpen {
        let mut tuple = abi::Tuple {
            family: abi::FAMILY_INET,
            local_port: own,
            remote_port: other,
            ..abi::Tuple::default()
        };
        tuple.local[..4].copy_from_slice(&[127, 0, 0, 1]);
        tuple.remote[..4].copy_from_slice(&[127, 0, 0, 1]);
        ConnOpen { conn: ConnId(conn), tuple, netns: 1, ..ConnOpen::default() }
    }

    fn id(conn: u64, ordinal: u64) -> CallId {
        CallId { conn: ConnId(conn), ordinal }
    }

    #[test]
    fn ends_are_matched_whichever_comes_first_and_forgotten_together() {
        let (mut peers, metrics) = (Peers::default(), Metrics::default());
        assert_eq!(peers.open(&open(1, 4_000, 80), &metrics), None);
        assert_eq!(peers.open(&open(2, 80, 4_000), &metrics), Some(ConnId(1)));
        assert_eq!(peers.made(ConnId(1), (false, 100), id(1, 0), &metrics), None);
        assert_eq!(peers.served(ConnId(2), (false, 100), id(2, 0)), Some(id(1, 0)));
        // Answered before the send returned.
        assert_eq!(peers.served(ConnId(2), (false, 200), id(2, 1)), None);
        assert_eq!(peers.made(ConnId(1), (false, 200), id(1, 1), &metrics), Some(id(2, 1)));
        // The client gives up: what it made is known as long as somebody may have served it.
        assert_eq!(peers.made(ConnId(1), (false, 300), id(1, 2), &metrics), None);
        peers.close(ConnId(1));
        assert_eq!(peers.served(ConnId(2), (false, 300), id(2, 2)), Some(id(1, 2)));
        peers.close(ConnId(2));
        assert!(peers.ends.is_empty() && peers.by_key.is_empty());
    }

    #[test]
    fn a_port_that_is_used_again_is_another_connection() {
        let (mut peers, metrics) = (Peers::default(), Metrics::default());
        peers.open(&open(1, 4_000, 80), &metrics);
        peers.open(&open(2, 80, 4_000), &metrics);
        peers.made(ConnId(1), (false, 100), id(1, 0), &metrics);
        peers.close(ConnId(1));
        // The old server's end is still there.
        assert_eq!(peers.open(&open(3, 4_000, 80), &metrics), Some(ConnId(2)));
        peers.made(ConnId(3), (false, 7_000), id(3, 0), &metrics);
        assert_eq!(peers.served(ConnId(2), (false, 100), id(2, 0)), None);
        assert_eq!(peers.open(&open(4, 80, 4_000), &metrics), Some(ConnId(3)));
        assert_eq!(peers.served(ConnId(4), (false, 7_000), id(4, 0)), Some(id(3, 0)));
        for conn in [2, 3, 4] {
            peers.close(ConnId(conn));
        }
        assert!(peers.by_key.is_empty());
        peers.close(ConnId(1));
        assert!(peers.ends.is_empty(), "{peers:?}");
    }

    #[test]
    fn another_namespace_has_a_loopback_of_its_own_and_an_ipv4_end_may_be_one_of_ipv6() {
        let (mut peers, metrics) = (Peers::default(), Metrics::default());
        peers.open(&open(1, 4_000, 80), &metrics);
        assert_eq!(peers.open(&ConnOpen { netns: 2, ..open(2, 80, 4_000) }, &metrics), None);
        let mut mapped = open(3, 80, 4_000);
        mapped.tuple.family = abi::FAMILY_INET6;
        let address = std::net::Ipv4Addr::LOCALHOST.to_ipv6_mapped().octets();
        (mapped.tuple.local, mapped.tuple.remote) = (address, address);
        assert_eq!(peers.open(&mapped, &metrics), Some(ConnId(1)));
        let unix = abi::Tuple { family: abi::FAMILY_UNIX, ..abi::Tuple::default() };
        assert_eq!(peers.open(&ConnOpen { tuple: unix, ..open(5, 0, 0) }, &metrics), None);
    }
}
