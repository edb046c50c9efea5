//! TLS connections and their clear text: each is a connection to everything behind the tracker, and to people they are one.
//!
//! The one on the wire (the carrier) has the bytes, the ends and what is known of its TLS; the clear text inside of it has the transactions. Which
//! carries which is remembered as long as one of them may come back: also when the tracker lets go of one of them, or has never seen the carrier.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tracer_ebpf as abi;

use super::{Entry, Pipeline};
use crate::{
    event::{ConnClose, ConnId, Direction, Role, TlsOpen, tls_library},
    metrics::Counter,
    protocol::TlsFacts,
    time::BootTime,
    transaction::End,
};

/// Links remembered: as many as the kernel tracks connections. Beyond it the oldest is forgotten (`lost.tracker_full`): its clear text is read on,
/// without what is yet to come of its carrier. 65,536 × some 100 bytes.
const MAX_LINKS: usize = 65_536;

/// What a clear text is inside of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Link {
    /// The connection on the wire.
    pub(super) carrier: ConnId,
    /// `abi::TLS_*`.
    library: u16,
    /// That it is this one is likely, and not certain.
    pub(super) is_guess: bool,
}

/// Which connection carries which clear text.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Carriers {
    /// By clear text: the oldest has the smallest id.
    links: BTreeMap<ConnId, Link>,
    /// By carrier: nearly always one, more where a library is started anew on it or TLS runs in TLS. As many as the links.
    inside: BTreeMap<ConnId, Vec<ConnId>>,
}

impl Carriers {
    /// Remembers a link. Says whether another one had to be forgotten.
    fn add(&mut self, clear: ConnId, link: Link) -> bool {
        self.remove(clear);
        let is_full = self.links.len() >= MAX_LINKS;
        if is_full && let Some((&oldest, _)) = self.links.first_key_value() {
            self.remove(oldest);
        }
        self.links.insert(clear, link);
        self.inside.entry(link.carrier).or_default().push(clear);
        is_full
    }

    /// A clear text has ended.
    pub(super) fn remove(&mut self, clear: ConnId) {
        let Some(link) = self.links.remove(&clear) else { return };
        if let Some(inside) = self.inside.get_mut(&link.carrier) {
            inside.retain(|other| *other != clear);
            if inside.is_empty() {
                self.inside.remove(&link.carrier);
            }
        }
    }

    /// Whether a connection is the clear text of another.
    pub(super) fn is_inside(&self, conn: ConnId) -> bool {
        self.links.contains_key(&conn)
    }

    /// The clear texts inside of a connection, the oldest first.
    pub(super) fn inside(&self, carrier: ConnId) -> &[ConnId] {
        self.inside.get(&carrier).map_or(&[], Vec::as_slice)
    }
}

/// What a clear text has of its carrier.
struct Facts {
    opened: bool,
    tuple: abi::Tuple,
    unix_path: Bytes,
    netns: u32,
    role: Role,
    role_by_kernel: bool,
    tls: TlsFacts,
}

impl Facts {
    fn of(carrier: &Entry) -> Facts {
        let conn = &carrier.conn;
        Facts {
            opened: conn.opened,
            tuple: conn.tuple,
            unix_path: conn.unix_path.clone(),
            netns: conn.netns,
            // A guess is no fact: the clear text says itself who asks.
            role: if carrier.exchange.is_guessed() { Role::Unknown } else { conn.role },
            role_by_kernel: conn.role_by_kernel,
            tls: carrier.exchange.tls().cloned().unwrap_or_default(),
        }
    }
}

impl Pipeline {
    /// The clear text of a connection comes into sight.
    pub(super) fn tls_open(&mut self, open: &TlsOpen) {
        let TlsOpen { time, conn, carrier, pid, library, link, flags } = *open;
        // What is not known to be certain is not.
        let link = Link { carrier, library, is_guess: link != abi::TLS_LINK_NESTED };
        let Some((entry, rest)) = self.entry(conn) else { return };
        entry.conn.mid_join = flags & abi::FLAG_MID_JOIN != 0;
        entry.conn.forgotten = false;
        entry.conn.last = entry.conn.last.max(time);
        // What is told of a port is what goes over the wire there.
        entry.port_told = true;
        entry.tally.open_inside(time, pid);
        if rest.carriers.add(conn, link) {
            rest.metrics.add(Counter::TrackerFull, 1);
        }
        self.carry(carrier);
        self.share_path(conn, carrier);
        self.link(conn);
        self.go_on_inside(conn, carrier);
    }

    /// From here on what is on the wire means nothing by itself.
    fn carry(&mut self, carrier: ConnId) {
        let Some(entry) = self.tracker.get_mut(carrier) else { return };
        if !entry.exchange.is_carrier() {
            let n = entry.exchange.carry(&mut entry.conn);
            self.rest.metrics.add(Counter::Carried, n);
            if let Some(verdict) = entry.exchange.verdict(&entry.conn) {
                self.rest.verdicts.set(carrier, verdict);
            }
        }
    }

    /// A clear text has the ends and the TLS of its carrier, as far as they are known.
    fn link(&mut self, clear: ConnId) {
        let Some(&link) = self.rest.carriers.links.get(&clear) else { return };
        let facts = self.tracker.get(link.carrier).map(Facts::of);
        let Some(entry) = self.tracker.get_mut(clear) else { return };
        entry.link = Some(link);
        let mut tls = TlsFacts::default();
        if let Some(facts) = facts {
            let conn = &mut entry.conn;
            (conn.opened, conn.tuple, conn.netns) = (facts.opened, facts.tuple, facts.netns);
            conn.unix_path = facts.unix_path;
            if conn.role == Role::Unknown {
                (conn.role, conn.role_by_kernel) = (facts.role, facts.role_by_kernel);
            }
            tls = facts.tls;
            entry.ends = None;
        }
        tls.library = Some(Cow::Borrowed(tls_library(link.library)));
        entry.exchange.pairs_mut().set_tls(Arc::new(tls));
    }

    /// A clear text that was seen from its start goes on with the protocol that asked for TLS, where inference cannot know it.
    fn go_on_inside(&mut self, clear: ConnId, carrier: ConnId) {
        let is_new = |entry: &Entry| !entry.conn.mid_join && !entry.conn.streams.iter().any(|it| it.started);
        let is_new = self.tracker.get(clear).is_some_and(is_new);
        // Two entries at once: one is taken out of its place for a moment.
        let Some(outer) = self.tracker.get_mut(carrier).filter(|_| is_new) else { return };
        let outer = std::mem::take(&mut outer.exchange);
        if let Some(entry) = self.tracker.get_mut(clear) {
            self.rest.with(entry, |exchange, conn, _| exchange.go_on_inside(conn, &outer));
            self.rest.give_verdict(entry);
        }
        if let Some(entry) = self.tracker.get_mut(carrier) {
            entry.exchange = outer;
        }
    }

    /// A connection is tracked anew: what it carries, and what it is inside of, is remembered.
    pub(super) fn relink(&mut self, id: ConnId) {
        if !self.rest.carriers.inside(id).is_empty() {
            self.carry(id);
        }
        self.link(id);
    }

    /// Tells the clear texts of the connections of which more was told.
    pub(super) fn tell(&mut self) {
        while let Some(carrier) = self.rest.told.pop() {
            for at in 0.. {
                let Some(&clear) = self.rest.carriers.inside(carrier).get(at) else { break };
                self.link(clear);
            }
        }
    }

    /// A connection ends, and with it what is inside of it. The kernel side tells of that first: if it did not, something of it was lost,
    /// and how its requests ended was not seen.
    pub(super) fn end_inside(&mut self, close: &ConnClose) {
        while let Some(&clear) = self.rest.carriers.inside(close.conn).last() {
            self.rest.carriers.remove(clear);
            let Some(entry) = self.tracker.get_mut(clear) else { continue };
            self.rest.flush_held(entry);
            self.rest.with_last(entry, |exchange, _, turnover| {
                exchange.pairs_mut().lose_all(close.time, turnover.fx);
            });
            self.remove(clear, Some(close));
            self.tracker.end(clear, close.time);
        }
    }

    /// A call on a connection failed: what is in flight inside of it will not be answered any more.
    pub(super) fn fail_inside(&mut self, carrier: ConnId, direction: Direction, now: BootTime) {
        if self.rest.carriers.inside(carrier).is_empty() {
            return;
        }
        let Some(outer) = self.tracker.get(carrier) else { return };
        let asks = outer.exchange.requests() == Some(Direction::Egress);
        if !outer.exchange.is_mute() || (asks && direction == Direction::Egress) {
            // The answer to what was sent before may still come.
            return;
        }
        for at in 0.. {
            let Some(&clear) = self.rest.carriers.inside(carrier).get(at) else { break };
            let Some(entry) = self.tracker.get_mut(clear) else { continue };
            self.rest.flush_held(entry);
            self.rest.with(entry, |exchange, _, turnover| {
                exchange.pairs_mut().end_all(End::Reset, now, turnover.fx);
            });
        }
    }

    /// Whether something inside of a connection is in use, though the connection itself is told nothing of.
    pub(super) fn is_used_inside(&self, carrier: ConnId, idle_since: BootTime) -> bool {
        let is_used = |entry: &Entry| entry.conn.last > idle_since || entry.exchange.pairs().n_open() > 0;
        self.inside(carrier).any(is_used)
    }

    /// What is inside of a connection and tracked, the oldest first.
    pub(super) fn inside(&self, carrier: ConnId) -> impl DoubleEndedIterator<Item = &Entry> {
        self.rest.carriers.inside(carrier).iter().filter_map(|clear| self.tracker.get(*clear))
    }

    /// Clear texts that are tracked as well as what carries them: to people, each is one connection with it.
    pub(super) fn n_inside(&self) -> usize {
        let links = self.rest.carriers.links.iter();
        let both = |(clear, link): &(&ConnId, &Link)| {
            self.tracker.get(**clear).is_some() && self.tracker.get(link.carrier).is_some()
        };
        links.filter(both).count()
    }
}

impl Entry {
    /// The connection on the wire, where this is the clear text inside of it.
    pub(super) fn carrier(&self) -> Option<ConnId> {
        self.link.map(|link| link.carrier)
    }

    /// What is known of the two ends, or of who asks, is a guess.
    pub(super) fn is_guessed(&self) -> bool {
        self.exchange.is_guessed() || self.link.is_some_and(|link| link.is_guess)
    }
}
