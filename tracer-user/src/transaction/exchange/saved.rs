//! What a checkpoint holds of an exchange, apart from its plain layout.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Exchange, Known, SideMore, carrier::Inside};
use crate::{
    conn::connection::Connection,
    event::ConnId,
    protocol::{Capture, Pairing, REGISTRY, TlsFacts},
    transaction::{multiplexed::Early, open::More},
};

/// What checkpoints hold of an exchange behind its old layout, since version 4.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ExchangeMore {
    sides: [SideMore; 2],
    tls: Option<Arc<TlsFacts>>,
    open: Vec<More>,
    early: Vec<Early>,
    socket: Option<ConnId>,
    unpaired_turn: u32,
    carries: bool,
    inside: Option<Inside>,
}

impl Exchange {
    /// How much of a connection its protocol wants captured, if that was recognised.
    pub fn wants_captured(&self) -> Option<Capture> {
        (self.known == Known::Yes).then(|| self.captures())
    }

    /// The parser's state (checkpoint).
    pub fn parser_state(&self) -> Option<Vec<u8>> {
        self.parser.as_ref().map(|parser| parser.save())
    }

    /// Takes over a parser's state. `false`: no such protocol, or no such state.
    pub fn restore_parser(&mut self, protocol: &str, state: &[u8]) -> bool {
        let Some(at) = REGISTRY.iter().position(|candidate| candidate.name() == protocol) else {
            return false;
        };
        let mut parser = REGISTRY[at].parser();
        let good = parser.load(state);
        self.protocol = at;
        self.pairs.pair_by_stream(REGISTRY[at].pairing() == Pairing::ByStreamId);
        self.parser = Some(parser);
        good
    }

    /// What a checkpoint holds apart.
    pub fn more(&self) -> ExchangeMore {
        ExchangeMore {
            sides: self.flows.each_ref().map(|flow| flow.more.clone()),
            tls: self.pairs.tls().cloned(),
            open: self.pairs.open().map(|open| open.more.clone()).collect(),
            early: self.pairs.early().cloned().collect(),
            socket: self.socket,
            unpaired_turn: self.pairs.unpaired_turn,
            carries: self.carries,
            inside: self.inside.clone(),
        }
    }

    /// Takes over what a checkpoint holds apart.
    pub fn restore_more(&mut self, more: ExchangeMore) {
        for (flow, more) in self.flows.iter_mut().zip(more.sides) {
            flow.more = more;
        }
        for (open, saved) in self.pairs.open_mut().zip(more.open) {
            open.more = saved;
            // Shared again.
            if open.more.tls == more.tls {
                open.more.tls.clone_from(&more.tls);
            }
        }
        self.pairs.restore_tls(more.tls);
        self.pairs.restore_early(more.early);
        self.socket = more.socket;
        self.pairs.unpaired_turn = more.unpaired_turn;
        (self.carries, self.inside) = (more.carries, more.inside);
    }

    /// A restored connection's account of turns knows the rules of its protocol again.
    pub fn restore_rules(&self, conn: &mut Connection) {
        if let Some(protocol) = self.registered() {
            conn.turns.set_protocol(protocol.shortest_request(), protocol.turns_are_requests());
        }
    }
}
