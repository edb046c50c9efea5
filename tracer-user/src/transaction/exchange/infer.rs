//! Which protocol a connection speaks, and who asks: what its first bytes say.

use tracer_ebpf as abi;

use super::{Blind, Exchange, Known, Turnover};
use crate::{
    conn::{connection::Connection, stream::Stamp},
    event::{Direction, Role},
    protocol::{Inference, OPAQUE, Protocol, REGISTRY},
};

/// Bytes of a turn that inference may ask for.
const INFER_BYTES: usize = 4096;
/// Turns that may pass without a protocol being recognised.
const INFER_TURNS: u32 = 3;
/// The same on a connection that was joined in the middle: its first turns may be the rest of long bodies.
const INFER_TURNS_MID_JOIN: u32 = 16;

/// Whether what no parser knows is followed turn by turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByTurn {
    /// It is not.
    Never,
    /// From where it is known that no parser knows it: what is inside TLS, which was followed by turn from outside.
    Unrecognised,
    /// From its first turn on, which decides: on ports that were asked for.
    FromStart,
}

impl Exchange {
    /// Bytes of a direction whose protocol is not known yet.
    #[expect(clippy::too_many_arguments, reason = "one call; the arguments are one event's parts")]
    pub(super) fn infer(
        &mut self,
        conn: &mut Connection,
        direction: Direction,
        payload: &[u8],
        hole: (u64, Blind),
        stamp: &Stamp,
        mut turns: u32,
        turnover: &mut Turnover<'_>,
    ) {
        if self.infer_answered(conn, direction, payload, turnover)
            || self.infer_by_turn(conn, direction.flip(), turnover)
        {
            return self.parse(conn, direction, payload, hole, stamp, turnover);
        }
        let flow = &mut self.flows[direction.index()];
        if stamp.turn_start {
            if !flow.held.is_empty() {
                // A whole turn that was too short to tell.
                turns += 1;
                self.known = Known::No { turns };
            }
            flow.held.clear();
            flow.spans.clear();
            flow.skip_turn = false;
        }
        if !stamp.turn_start && flow.held.is_empty() {
            // The middle of something.
            flow.skip_turn = true;
        }
        if flow.skip_turn {
            return;
        }
        if payload.is_empty() {
            if hole.0 > 0 {
                // Nor can the rest of the turn be joined with what came before.
                flow.held.clear();
                flow.spans.clear();
                flow.skip_turn = true;
                not_inferred(conn, direction, stamp.turn);
            }
            return;
        }
        let joined;
        let head = if flow.held.is_empty() {
            payload
        } else {
            joined = [&flow.held, payload].concat();
            &joined
        };
        let mut need_more = false;
        for (at, protocol) in REGISTRY.iter().enumerate() {
            let requests = match protocol.infer(head) {
                Inference::Request => direction,
                Inference::Response => direction.flip(),
                Inference::Either => asking(conn, direction, stamp),
                Inference::NeedMore => {
                    need_more = true;
                    continue;
                }
                Inference::No => continue,
            };
            let role = if requests == Direction::Ingress { Role::Server } else { Role::Client };
            if conn.role_by_kernel && conn.role != role {
                continue;
            }
            self.recognised(conn, at, requests);
            if conn.turns.has_unseen(requests) {
                // Some of what is answered from here on was asked before anybody understood it.
                let turn = self.flows[requests.index()].last.turn;
                self.pairs.requests_missing(turn, direction == requests, true);
            }
            // What the other direction said before told nothing: the rest of something older.
            self.drop_unrecognised(conn, direction.flip());
            self.parse(conn, direction, payload, hole, stamp, turnover);
            return;
        }
        need_more |= is_first(conn, stamp)
            && REGISTRY.iter().any(|protocol| protocol.infer_answered(head, &[]) == Inference::NeedMore);
        let most = if conn.mid_join { INFER_TURNS_MID_JOIN } else { INFER_TURNS };
        if need_more && hole.0 == 0 && head.len() < INFER_BYTES && turns < most {
            let flow = &mut self.flows[direction.index()];
            flow.spans.push((stamp.position, *stamp));
            flow.held.extend_from_slice(payload);
            return;
        }
        self.known = if turns + 1 >= most { Known::Opaque } else { Known::No { turns: turns + 1 } };
        // The first turn decides only where it was seen from its start.
        let is_by_turn = match turnover.limits.by_turn {
            ByTurn::Never => false,
            ByTurn::Unrecognised => self.known == Known::Opaque,
            ByTurn::FromStart => self.known == Known::Opaque || !conn.mid_join,
        };
        if is_by_turn && let Some(at) = REGISTRY.iter().position(|protocol| protocol.name() == OPAQUE) {
            let first = flow.spans.first().map_or(*stamp, |(_, first)| *first);
            self.recognised(conn, at, asking(conn, direction, stamp));
            if first.begins_turn() {
                return self.parse(conn, direction, payload, hole, stamp, turnover);
            }
            need_more = false;
        }
        let flow = &mut self.flows[direction.index()];
        if need_more {
            not_inferred(conn, direction, flow.spans.first().map_or(stamp.turn, |(_, first)| first.turn));
        }
        flow.held.clear();
        flow.spans.clear();
        flow.skip_turn = true;
    }

    /// The connection's first turn is over, and `answer` begins the turn that answers it, in direction `answers`: together they may
    /// tell what neither does. Says whether they did.
    fn infer_answered(
        &mut self,
        conn: &mut Connection,
        answers: Direction,
        answer: &[u8],
        turnover: &mut Turnover<'_>,
    ) -> bool {
        let asks = answers.flip();
        let role = if asks == Direction::Ingress { Role::Server } else { Role::Client };
        let flow = &mut self.flows[asks.index()];
        let is_asked = flow.spans.first().is_some_and(|(_, stamp)| is_first(conn, stamp));
        if !is_asked || answer.is_empty() || (conn.role_by_kernel && conn.role != role) {
            return false;
        }
        let is_this =
            |protocol: &&dyn Protocol| protocol.infer_answered(&flow.held, answer) == Inference::Request;
        let Some(at) = REGISTRY.iter().position(is_this) else { return false };
        let (held, spans) = (std::mem::take(&mut flow.held), std::mem::take(&mut flow.spans));
        self.recognised(conn, at, asks);
        let base = spans.first().map_or(0, |span| span.0);
        for (idx, (from, stamp)) in spans.iter().enumerate() {
            let end = spans.get(idx + 1).map_or(held.len(), |next| next.0.wrapping_sub(base) as usize);
            let bytes = held.get(from.wrapping_sub(base) as usize..end).unwrap_or_default();
            self.parse(conn, asks, bytes, (0, Blind::NotCaptured), stamp, turnover);
        }
        true
    }

    /// The first turn of the connection, `first`'s, is over and was too short to tell what it is: on a port that is followed by turn it is
    /// what no parser knows. Says whether that was so.
    pub(super) fn infer_by_turn(
        &mut self,
        conn: &mut Connection,
        first: Direction,
        turnover: &mut Turnover<'_>,
    ) -> bool {
        let flow = &mut self.flows[first.index()];
        let Some(&(_, stamp)) = flow.spans.first() else { return false };
        if turnover.limits.by_turn != ByTurn::FromStart || conn.mid_join || !stamp.begins_turn() {
            return false;
        }
        let Some(at) = REGISTRY.iter().position(|protocol| protocol.name() == OPAQUE) else { return false };
        let held = std::mem::take(&mut flow.held);
        flow.spans.clear();
        self.recognised(conn, at, asking(conn, first, &stamp));
        self.parse(conn, first, &held, (0, Blind::NotCaptured), &stamp, turnover);
        self.turn_over(conn, first, true, turnover);
        true
    }

    /// The protocol is known, and which direction asks.
    pub(super) fn recognised(&mut self, conn: &mut Connection, at: usize, requests: Direction) {
        let role = if requests == Direction::Ingress { Role::Server } else { Role::Client };
        self.guessed = conn.role != role;
        conn.role = role;
        self.parser = self.speak(conn, at);
        self.requests = requests;
    }

    /// The beginning of something whose rest was not seen.
    pub(super) fn drop_unrecognised(&mut self, conn: &mut Connection, direction: Direction) {
        let flow = &mut self.flows[direction.index()];
        if let Some((_, stamp)) = flow.spans.first() {
            conn.turns.head_not_seen(direction, stamp.turn, conn.mid_join || conn.forgotten);
        }
        flow.held.clear();
        flow.spans.clear();
    }
}

/// Bytes of a connection's first turn, which was seen from its start.
fn is_first(conn: &Connection, stamp: &Stamp) -> bool {
    stamp.turn == 1 && !conn.mid_join && !conn.forgotten
}

/// The direction that asks, where the bytes of `direction` do not tell.
fn asking(conn: &Connection, direction: Direction, stamp: &Stamp) -> Direction {
    match conn.role {
        Role::Client => Direction::Egress,
        Role::Server => Direction::Ingress,
        // Servers among the old connections are known by their ports: what is left asks. A guess, and marked as one.
        Role::Unknown if conn.mid_join && conn.tuple.family != abi::FAMILY_UNIX => Direction::Egress,
        // Who speaks first asks.
        Role::Unknown if stamp.turn % 2 == 1 => direction,
        Role::Unknown => direction.flip(),
    }
}

/// The head of a turn could not be looked at, and which direction asks is not known yet.
fn not_inferred(conn: &mut Connection, direction: Direction, turn: u32) {
    if turn <= 2 {
        conn.turns.head_not_seen(direction, turn, conn.mid_join || conn.forgotten);
    } else {
        // It may be the rest of a message that began before.
        conn.turns.turn_not_understood(direction, turn);
    }
}
