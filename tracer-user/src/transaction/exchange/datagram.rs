//! Datagrams: each is shown to the parser whole and by itself; none waits for another, and a bad one costs no other.

use super::{Exchange, Turnover};
use crate::{
    conn::{connection::Connection, stream::Stamp},
    event::{ConnId, Data, Direction},
    protocol::Flow,
};

/// Bytes before a datagram in what parsers are shown: their number.
pub(super) const FRAME: u64 = 2;

impl Exchange {
    /// It is a conversation over a UDP socket, in which `requests` asks, by the protocol at this place of the registry.
    pub fn converse(&mut self, conn: &mut Connection, at: usize, requests: Direction, socket: ConnId) {
        self.recognised(conn, at, requests);
        self.guessed = false;
        self.socket = Some(socket);
    }

    /// The UDP socket whose datagrams these are.
    pub fn socket(&self) -> Option<ConnId> {
        self.socket
    }

    /// A datagram that answers a question which was not seen: it may be yet to come.
    pub fn lacks_question(&self, data: &Data) -> bool {
        if data.direction() == self.requests || !self.pairs.is_by_stream() {
            return false;
        }
        let Some(protocol) = self.registered() else { return false };
        let mut marks = Vec::new();
        protocol.parser().step(Flow::Response, &data.payload, &mut marks);
        let stream = marks.iter().find_map(|mark| mark.stream());
        !self.pairs.open().any(|open| Some(open.stream) == stream && open.response.is_none())
    }

    /// Applies a datagram; its payload is framed.
    pub fn datagram(&mut self, conn: &mut Connection, data: &Data, turnover: &mut Turnover<'_>) {
        let direction = data.direction();
        let stamp = Stamp { turn_start: true, ..Stamp::of(data) };
        conn.streams[direction.index()].advance(data.end());
        self.flows[direction.index()].last = stamp;
        self.step(conn, direction, &data.payload, data.position, &stamp, turnover);
        // Nothing of it is left for the next one.
        let flow = &mut self.flows[direction.index()];
        flow.held.clear();
        flow.spans.clear();
        flow.ends.clear();
        (flow.skip, flow.missing, flow.resyncing) = (0, 0, false);
    }
}
