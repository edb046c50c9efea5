//! What the network does to connections: how long an acknowledgement takes, and what is sent again.
//!
//! The kernel counts both by connection, and tells them with the bytes that move and whenever segments are sent again. What is sent again while requests are in flight
//! is theirs, each one's where there are several. Behind a response nothing but the response is left to be sent again, until another request begins.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::{Entry, Pipeline, Rest};
use crate::{
    event::{ConnId, Retransmit},
    metrics::Counter,
    time::BootTime,
    transaction::{Network, watermark::EndKey},
};

/// How often segments were sent again, that are known one by one. Beyond it the two oldest become one, so that nothing is missing in a request that began before both.
const MAX_RESENT: usize = 64;

/// What is known of a connection's way through the network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Path {
    rtt_us: u32,
    /// Segments sent again, as the kernel counts them; `None`: it has not told yet.
    total: Option<u32>,
    /// When, and how many.
    resent: VecDeque<(BootTime, u32)>,
    /// The last request that was served.
    last: Option<EndKey>,
}

impl Path {
    /// The kernel has told. Gives the segments that were sent again since it did so before.
    fn told(&mut self, time: BootTime, rtt_us: u32, total: u32, is_now: bool) -> u32 {
        if (rtt_us, total) == (0, 0) {
            return 0;
        }
        if rtt_us != 0 {
            self.rtt_us = rtt_us;
        }
        // Of what was before the first time nobody knows when it was.
        let known = self.total.unwrap_or(total.wrapping_sub(u32::from(is_now)));
        let n = total.wrapping_sub(known);
        // Told out of order: it is known.
        if n > u32::MAX / 2 {
            return 0;
        }
        self.total = Some(total);
        if n != 0 {
            self.resent.push_back((time, n));
            if self.resent.len() > MAX_RESENT
                && let Some((_, oldest)) = self.resent.pop_front()
                && let Some((_, next)) = self.resent.front_mut()
            {
                *next = next.saturating_add(oldest);
            }
        }
        n
    }

    /// What it was from `start` to `end`. What the first bytes of a request make known was before them.
    pub(super) fn between(&self, start: BootTime, end: BootTime) -> Option<Network> {
        self.total?;
        let inside = self.resent.iter().filter(|(time, _)| *time > start && *time <= end);
        let retransmits = inside.fold(0_u32, |sum, (_, n)| sum.saturating_add(*n));
        Some(Network { rtt_us: self.rtt_us, retransmits })
    }

    /// A request has been served.
    pub(super) fn served(&mut self, key: EndKey) {
        self.last = Some(key);
    }
}

/// What is still to be told of what is inside of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct OfCarrier {
    conn: ConnId,
    time: BootTime,
    told: (u32, u32),
    is_now: bool,
    /// Segments sent again for no request on the wire.
    n_nobodys: u32,
}

impl Pipeline {
    /// Segments were sent again.
    pub(super) fn retransmit(&mut self, again: &Retransmit) {
        if let Some(entry) = self.tracker.get_mut(again.conn) {
            self.rest.note_network(entry, again.time, (again.rtt_us, again.retransmits), true);
        }
    }

    /// What the network did to a connection it did to what is inside of it.
    pub(super) fn note_inside(&mut self) {
        let Some(OfCarrier { conn, time, told, is_now, mut n_nobodys }) = self.rest.of_carrier.take() else {
            return;
        };
        for at in 0.. {
            let Some(&inside) = self.rest.carriers.inside(conn).get(at) else { break };
            let Some(entry) = self.tracker.get_mut(inside) else { continue };
            let n = entry.path.told(time, told.0, told.1, is_now);
            if n != 0 && self.rest.resent(entry, n) {
                n_nobodys = 0;
            }
        }
        self.rest.metrics.add(Counter::RetransmitsNobodys, n_nobodys.into());
    }

    /// A clear text goes the way of its carrier.
    pub(super) fn share_path(&mut self, clear: ConnId, carrier: ConnId) {
        let Some(path) = self.tracker.get(carrier).map(|entry| entry.path.clone()) else { return };
        if let Some(entry) = self.tracker.get_mut(clear) {
            entry.path = path;
        }
    }
}

impl Rest {
    /// The kernel has told of a connection's way through the network: round trip, and segments sent again so far. `is_now`: some just were.
    pub(super) fn note_network(&mut self, entry: &mut Entry, time: BootTime, told: (u32, u32), is_now: bool) {
        let n = entry.path.told(time, told.0, told.1, is_now);
        let is_carrier = entry.exchange.is_carrier();
        if n == 0 && !is_carrier {
            return;
        }
        self.metrics.add(Counter::Retransmits, n.into());
        let n_nobodys = if n == 0 || self.resent(entry, n) { 0 } else { n };
        if is_carrier {
            self.of_carrier = Some(OfCarrier { conn: entry.conn.id, time, told, is_now, n_nobodys });
        } else {
            self.metrics.add(Counter::RetransmitsNobodys, n_nobodys.into());
        }
    }

    /// Segments were sent again on a connection. Whether it is known for which request.
    fn resent(&mut self, entry: &Entry, n: u32) -> bool {
        if entry.exchange.pairs().n_open() != 0 {
            // They find it when they end.
            return true;
        }
        entry.path.last.is_some_and(|last| self.watermark.resent(last, n))
    }
}
