//! TLS connections whose clear text is seen: their bytes are counted, and what they mean is told by the clear text alone.

use serde::{Deserialize, Serialize};

use super::{Exchange, Known};
use crate::{
    conn::connection::Connection,
    event::{Direction, Role},
    protocol::{Capture, REGISTRY, TLS, TlsFacts},
};

/// What the clear text of a connection goes on with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Inside {
    /// Registry name.
    protocol: String,
    /// As [`Parser::inside_tls`](crate::protocol::Parser::inside_tls) gave it.
    parser: Vec<u8>,
    requests: Direction,
    guessed: bool,
}

impl Exchange {
    /// The clear text of this connection is seen from here on. What was taken for requests are none, as far as they are not answered:
    /// the number of those.
    pub fn carry(&mut self, conn: &mut Connection) -> u64 {
        self.carries = true;
        let tls = REGISTRY.iter().position(|protocol| protocol.name() == TLS);
        if let (Known::No { .. }, Role::Client | Role::Server, Some(at)) = (self.known, conn.role, tls) {
            let requests = if conn.role == Role::Client { Direction::Egress } else { Direction::Ingress };
            self.recognised(conn, at, requests);
        } else if let Some(at) = tls.filter(|_| self.was_read_as_clear_text(conn)) {
            let guessed = self.guessed;
            self.recognised(conn, at, self.requests);
            self.guessed = guessed;
            for direction in [Direction::Ingress, Direction::Egress] {
                self.not_looked_at(direction);
                self.flows[direction.index()].until_close = false;
            }
        }
        if self.is_mute() { self.pairs.take_back() } else { 0 }
    }

    /// The kernel encrypts: on the socket the clear text itself is seen, and where the handshake was over before that, it is taken for what it says.
    /// (Elsewhere TLS within another protocol is within a tunnel.)
    fn was_read_as_clear_text(&self, conn: &Connection) -> bool {
        let is_read = self.known == Known::Yes && self.captures() != Capture::Turns;
        is_read && !self.is_tunnel() && (conn.mid_join || conn.forgotten)
    }

    /// Its clear text is seen.
    pub fn is_carrier(&self) -> bool {
        self.carries
    }

    /// What is on the wire means nothing by itself. A tunnel through a proxy stays the one transaction that it is.
    pub fn is_mute(&self) -> bool {
        self.carries && (self.known != Known::Yes || self.captures() == Capture::Turns)
    }

    /// The facts of its TLS may still come: in what is being looked at, or from a server that has said nothing yet (early data).
    pub(super) fn awaits_hello(&self, conn: &Connection) -> bool {
        let is_seen = self.known == Known::Yes && !conn.mid_join && !conn.forgotten;
        let is_unanswered = !conn.streams[self.requests.flip().index()].started;
        self.flows.iter().any(|flow| flow.more.look.is_some()) || (is_seen && is_unanswered)
    }

    /// The connection turns to TLS, and what its clear text goes on with was told.
    pub(super) fn set_inside(&mut self, parser: Option<Vec<u8>>) {
        let protocol = self.protocol().unwrap_or_default().to_owned();
        let (requests, guessed) = (self.requests, self.guessed);
        self.inside = parser.map(|parser| Inside { protocol, parser, requests, guessed });
    }

    /// This is the clear text of `carrier` from its start on: it goes on with the protocol that asked for TLS, where that was told.
    pub fn go_on_inside(&mut self, conn: &mut Connection, carrier: &Exchange) {
        let Some(Inside { protocol, parser, requests, guessed }) = &carrier.inside else { return };
        let Some(at) = REGISTRY.iter().position(|known| known.name() == protocol) else { return };
        let mut own = REGISTRY[at].parser();
        if own.load(parser) {
            self.recognised(conn, at, *requests);
            self.parser = Some(own);
            self.guessed = *guessed;
        }
    }

    /// What is known of its TLS.
    pub fn tls(&self) -> Option<&TlsFacts> {
        self.pairs.tls().map(|facts| &**facts)
    }

    /// Bytes of a carrier that cannot be looked at: nothing is lost but what they would have told of its TLS.
    pub(super) fn not_looked_at(&mut self, direction: Direction) {
        let flow = &mut self.flows[direction.index()];
        flow.resyncing |= !flow.more.until_turn;
        flow.more.look = None;
        flow.skip = 0;
        flow.ends.clear();
        flow.held.clear();
        flow.spans.clear();
    }
}
