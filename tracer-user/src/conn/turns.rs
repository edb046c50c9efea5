//! How many requests were lost on one connection, without asking the load generator.
//!
//! The kernel numbers the turns of a connection (changes of direction), whether or not the ring had room, and gives
//! the last number with the close. A turn's direction follows from its number's parity. So, for each direction, three
//! kinds of turns exist: *seen* from the first byte, *unseen* (no record, or its first bytes are missing), and
//! *continued* (its first byte lies inside a message whose length was announced, so that no request begins there).
//!
//! 1. **Half-duplex** (never two requests in one turn, never a message over several turns; what HTTP/1 without
//!    pipelining is): one request per turn of the request direction, so `lost = unseen turns` exactly.
//! 2. **Continued turns** (`Expect: 100-continue`, responses before the request's end): an unseen turn may have been such a
//!    continuation. `high` = unseen turns; `low` = the stretches of missing bytes that began where a request had to begin.
//! 3. **Pipelined** (two requests in one turn): an unseen turn may have held any number. `low` as in 2; `high` = missing
//!    bytes divided by the shortest request there is, or the unseen
//!    turns times the most requests seen in one, whichever is more.
//!
//! Where a turn was seen but the parser cannot tell whether a message begins there (an interim response may have been lost,
//! and the turn be a body), it counts in `high` only.
//!
//! A connection that shows no request at all may be in any class: as many requests as were seen in one turn anywhere may
//! have been in each of its unseen turns. And once messages went over several turns anywhere, an unseen turn may have
//! been such a one on every connection.
//!
//! Until the close, turns that only the other direction's numbers tell of, half a head whose rest was not seen and, once anything was
//! lost, what a pipelining client may have sent behind the last request seen count in `high` only: the close may itself be lost, and then
//! nothing else would account for them.
//!
//! A connection that was joined in the middle may begin with the rest of a request that started before: its first turn,
//! when unseen, counts in `high` only. Which class a connection is in is known from what was seen of it; a connection of
//! which nothing was seen is accounted for by the kernel's global counters (in `pipeline`).

use serde::{Deserialize, Serialize};

use crate::event::Direction;

/// The shortest request, as long as no protocol says otherwise: HTTP/1's.
pub const SHORTEST_REQUEST: u64 = 16;
/// More missing bytes at once than a connection can move between two records are a broken position, not a number of
/// requests.
const MOST_MISSING: u64 = 1 << 40;

/// Requests lost, as an interval: exact (`low == high`) for half-duplex protocols.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostRequests {
    /// At least so many.
    pub low: u64,
    /// At most so many.
    pub high: u64,
}

impl LostRequests {
    /// Adds another interval.
    pub fn add(&mut self, other: LostRequests) {
        self.low = self.low.saturating_add(other.low);
        self.high = self.high.saturating_add(other.high);
    }
}

/// Bytes of a direction that were not seen, between two stretches that were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// None.
    Nothing,
    /// All of them belong to a message of announced length (or to one that runs until the close).
    Inside,
    /// More than that; or nothing was seen of the direction before.
    Outside,
}

/// What the account of one connection's turns does not hold itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Around {
    /// Most requests seen in one turn anywhere: for connections that show no request of their own.
    pub most: u32,
    /// Messages went over several turns anywhere.
    pub continued: bool,
    /// No turn is a request any more.
    pub tunnel: bool,
    /// The head of a request was seen in part, and events were lost: its rest may be among them.
    pub half_a_head: bool,
    /// Events were lost somewhere, and no close has told how far this connection came.
    pub open_end: bool,
}

/// The account of one connection's turns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turns {
    /// Last turn of each direction of which anything was seen.
    seen: [u32; 2],
    /// Turns known to have happened.
    last: u32,
    /// Turns whose beginning was not seen and was no continuation.
    unseen: [u64; 2],
    /// Of those, ones that may have begun before the tracer looked.
    maybe: [u64; 2],
    /// Last turn counted in `unseen`, so that it counts once.
    blind: [u32; 2],
    /// Turn in which the newest request began, and how many did.
    begun: (u32, u32),
    /// The same of responses.
    answered: (u32, u32),
    /// A request was seen to begin.
    any: bool,
    /// Most requests or responses that began in one turn.
    most: u32,
    /// A message went over several turns of its direction.
    continued: bool,
    /// Stretches of missing bytes that began where a request had to begin.
    blind_low: u64,
    /// Requests for which the missing bytes have room.
    blind_high: u64,
    /// What the protocol says; given anew with a restored connection's protocol.
    #[serde(skip)]
    rules: Rules,
}

/// What a protocol says of its turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rules {
    shortest_request: u64,
    /// A turn of the client is a request.
    turns_are_requests: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Rules { shortest_request: SHORTEST_REQUEST, turns_are_requests: true }
    }
}

impl Turns {
    /// Bytes of turn `turn` were seen. `from_start`: its first byte is among them; `missing`: what was not seen between
    /// them and the bytes of this direction seen before; `continues`: their first byte belongs to a message that began
    /// earlier.
    pub fn observe(
        &mut self,
        direction: Direction,
        turn: u32,
        from_start: bool,
        missing: Missing,
        continues: bool,
        mid_join: bool,
    ) {
        let at = direction.index();
        self.last = self.last.max(turn);
        let before = self.seen[at];
        if turn <= before {
            return;
        }
        self.seen[at] = turn;
        // What is missing before the first byte of the next turn is of the turn before: no message went on.
        let is_rest = from_start && turn == before.saturating_add(2);
        self.continued |= before != 0 && (continues || (missing == Missing::Inside && !is_rest));
        match missing {
            Missing::Nothing | Missing::Inside => {}
            Missing::Outside => {
                self.unsee(at, before, turn, mid_join);
                if !from_start {
                    self.unseen[at] += 1;
                    self.blind[at] = turn;
                    self.maybe[at] += u64::from(mid_join && turn <= 2);
                }
            }
        }
    }

    /// Counts the turns of a direction strictly between two of its turns.
    fn unsee(&mut self, at: usize, before: u32, turn: u32, mid_join: bool) {
        let between = match before {
            0 => turn.saturating_sub(1) / 2,
            _ => (turn.saturating_sub(before) / 2).saturating_sub(1),
        };
        self.unseen[at] += u64::from(between);
        if before == 0 && between > 0 && mid_join {
            self.maybe[at] += 1;
        }
    }

    /// The last turn's number is known: the connection ended. `inside` = by direction, what is missing at its end
    /// belongs to a message of announced length.
    pub fn close(&mut self, turn: u32, inside: [bool; 2], mid_join: bool) {
        for direction in Direction::BOTH {
            let (at, other) = (direction.index(), direction.flip().index());
            // Turns of this direction have this parity; unknown when nothing was seen of either.
            let parity = match (self.seen[at], self.seen[other]) {
                (0, 0) => continue,
                (0, theirs) => (theirs ^ 1) % 2,
                (ours, _) => ours % 2,
            };
            let end = if turn % 2 == parity { turn } else { turn.saturating_sub(1) };
            if end > self.seen[at] && !inside[at] {
                self.unsee(at, self.seen[at], end, mid_join);
                self.unseen[at] += 1;
                if self.seen[at] == 0 && end <= 2 && mid_join {
                    self.maybe[at] += 1;
                }
            }
            // Accounted for.
            self.seen[at] = self.seen[at].max(end);
        }
        self.last = self.last.max(turn);
    }

    /// The first bytes of a message in `turn` were not seen, or not to their end.
    pub fn head_not_seen(&mut self, direction: Direction, turn: u32, mid_join: bool) {
        let at = direction.index();
        if self.blind[at] != turn && !(self.begun.0 == turn && self.begun.1 > 0) {
            self.blind[at] = turn;
            self.unseen[at] += 1;
            self.maybe[at] += u64::from(mid_join && turn <= 2);
        }
    }

    /// A turn was seen from its first byte, but nothing before it tells whether a message begins there.
    pub fn turn_not_understood(&mut self, direction: Direction, turn: u32) {
        let at = direction.index();
        let before = self.unseen[at];
        self.head_not_seen(direction, turn, false);
        self.maybe[at] += self.unseen[at] - before;
    }

    /// `missing` bytes of the request direction could not be looked at; `head` = a request had to begin there (or had
    /// begun and was not complete).
    pub fn requests_not_seen(&mut self, missing: u64, head: bool) {
        // What began there may have been no request.
        self.blind_low += u64::from(head && self.rules.turns_are_requests);
        if missing < MOST_MISSING {
            let n = missing / self.rules.shortest_request.max(1);
            self.blind_high = self.blind_high.saturating_add(n + u64::from(head));
        }
    }

    /// A final response began in `turn`. Two in one turn answer two requests of one turn.
    pub fn response_begun(&mut self, turn: u32) {
        if self.answered.0 == turn {
            self.answered.1 += 1;
        } else {
            self.answered = (turn, 1);
        }
        self.most = self.most.max(self.answered.1);
    }

    /// A request began in `turn`.
    pub fn request_begun(&mut self, direction: Direction, turn: u32) {
        self.any = true;
        if self.begun.0 == turn {
            self.begun.1 += 1;
        } else {
            self.begun = (turn, 1);
        }
        if self.blind[direction.index()] == turn {
            // Something before it in the same turn was not seen: that was one more.
            self.most = self.most.max(2);
        }
        self.most = self.most.max(self.begun.1);
    }

    /// The protocol is known: bytes of its shortest request, and whether a turn of the client is a request.
    pub fn set_protocol(&mut self, shortest_request: u64, turns_are_requests: bool) {
        self.rules = Rules { shortest_request, turns_are_requests };
    }

    /// A message went on in a later turn of its direction.
    pub fn continued(&mut self) {
        self.continued = true;
    }

    /// Nothing is known to be missing.
    pub fn is_intact(&self) -> bool {
        self.unseen == [0; 2] && self.blind_low == 0 && self.blind_high == 0
    }

    /// The beginning of a turn of this direction was not seen.
    pub fn has_unseen(&self, direction: Direction) -> bool {
        self.unseen[direction.index()] > 0
    }

    /// Two requests shared a turn.
    pub fn is_pipelined(&self) -> bool {
        self.most > 1
    }

    /// A message went over several turns.
    pub fn is_continued(&self) -> bool {
        self.continued
    }

    /// Most requests seen in one turn.
    pub fn most(&self) -> u32 {
        self.most
    }

    /// What was lost, given which direction carries the requests.
    pub fn lost(&self, requests: Direction, around: &Around) -> LostRequests {
        let at = requests.index();
        let unseen = self.unseen[at];
        let since = if around.tunnel { 0 } else { self.since_seen(requests) } + u64::from(around.half_a_head);
        let most = if self.any { self.most } else { self.most.max(around.most) };
        let continued = self.continued || around.continued || !self.rules.turns_are_requests;
        if most > 1 {
            // More requests may have been in the last turn seen.
            let turns = unseen + since + u64::from(around.open_end);
            let high = self.blind_high.max(turns.saturating_mul(u64::from(most)));
            let certain = if self.is_pipelined() || !self.rules.turns_are_requests {
                self.blind_low
            } else {
                unseen - self.maybe[at].min(unseen)
            };
            LostRequests { low: certain.min(high), high }
        } else if continued {
            LostRequests { low: self.blind_low.min(unseen), high: unseen + since }
        } else {
            LostRequests { low: unseen - self.maybe[at].min(unseen), high: unseen + since }
        }
    }

    /// Turns of a direction that have begun since the last of which anything was seen, as far as the other direction's
    /// turns tell. They are unseen as long as nothing of them comes, or for good where the close was lost too. What would have been in
    /// them is not known yet (the rest of a body?): they count in `high` only.
    fn since_seen(&self, direction: Direction) -> u64 {
        let seen = self.seen[direction.index()];
        let known = self.known(direction).unwrap_or(0);
        known.saturating_sub(u64::from(seen).div_ceil(2))
    }

    /// Turns of a direction known to have happened; `None` when nothing was seen that tells the parity.
    pub fn known(&self, direction: Direction) -> Option<u64> {
        let (at, other) = (direction.index(), direction.flip().index());
        let parity = match (self.seen[at], self.seen[other]) {
            (0, 0) => return None,
            (0, theirs) => (theirs ^ 1) % 2,
            (ours, _) => ours % 2,
        };
        Some((u64::from(self.last) + u64::from(parity)) / 2)
    }

    /// Unseen turns of a connection on which no requests were recognised: at most so many of them were requests.
    pub fn unseen_of_unknown(&self) -> u64 {
        match self.seen {
            [0, 0] => u64::from(self.last).div_ceil(2),
            _ => Direction::BOTH
                .map(|one| self.unseen[one.index()] + self.since_seen(one))
                .into_iter()
                .max()
                .unwrap_or(0),
        }
    }

    /// Turns known to have happened, in both directions.
    pub fn last(&self) -> u32 {
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IN: Direction = Direction::Ingress;
    const OUT: Direction = Direction::Egress;
    const ALONE: Around =
        Around { most: 1, continued: false, tunnel: false, half_a_head: false, open_end: false };

    /// Turns seen (number; requests are the odd ones) and the last one; the interval of lost requests.
    #[track_caller]
    fn check(seen: &[u32], last: u32, mid_join: bool, expect: (u64, u64)) {
        let mut turns = Turns::default();
        for &turn in seen {
            let direction = if turn % 2 == 1 { IN } else { OUT };
            turns.observe(direction, turn, true, Missing::Outside, false, mid_join);
            if direction == IN {
                turns.request_begun(IN, turn);
            }
        }
        turns.close(last, [false; 2], mid_join);
        assert_eq!(turns.lost(IN, &ALONE), LostRequests { low: expect.0, high: expect.1 });
    }

    #[test]
    fn a_missing_turn_is_a_lost_request() {
        check(&[1, 2, 3, 4], 4, false, (0, 0));
        check(&[1, 2, 5, 6], 6, false, (1, 1));
        check(&[1, 2, 4, 6, 8, 9, 10], 10, false, (3, 3));
        check(&[2, 4], 4, false, (2, 2));
        check(&[7], 7, false, (3, 3));
    }

    #[test]
    fn turns_missing_at_the_end_are_known_from_the_close() {
        check(&[1, 2], 9, false, (4, 4));
        check(&[1, 2], 8, false, (3, 3));
        check(&[2], 4, false, (2, 2));
        check(&[], 8, false, (0, 0));
    }

    #[test]
    fn the_first_turn_of_a_connection_joined_in_the_middle_may_be_the_rest_of_an_old_request() {
        check(&[2, 3], 4, true, (0, 1));
        check(&[2, 3], 4, false, (1, 1));
        check(&[2, 7, 8], 8, true, (2, 3));
        check(&[2], 2, true, (0, 1));
    }

    #[test]
    fn a_pipelined_connection_has_an_interval() {
        let mut turns = Turns::default();
        turns.observe(IN, 1, true, Missing::Outside, false, false);
        turns.request_begun(IN, 1);
        turns.request_begun(IN, 1);
        turns.observe(OUT, 2, true, Missing::Outside, false, false);
        turns.requests_not_seen(100, true);
        turns.observe(IN, 5, true, Missing::Outside, false, false);
        assert_eq!(turns.lost(IN, &ALONE), LostRequests { low: 1, high: 7 });
    }

    #[test]
    fn a_turn_that_continues_a_message_is_no_lost_request() {
        let mut turns = Turns::default();
        turns.observe(IN, 1, true, Missing::Outside, false, false);
        turns.request_begun(IN, 1);
        turns.observe(OUT, 2, true, Missing::Outside, false, false);
        turns.observe(IN, 3, true, Missing::Nothing, true, false);
        turns.observe(IN, 5, true, Missing::Outside, false, false);
        turns.close(6, [false; 2], false);
        assert_eq!(turns.lost(IN, &ALONE), LostRequests { low: 0, high: 0 });
        turns.observe(IN, 9, true, Missing::Outside, false, false);
        assert_eq!(turns.lost(IN, &ALONE), LostRequests { low: 0, high: 1 });
    }

    #[test]
    fn the_missing_rest_of_an_answer_is_no_message_over_several_turns() {
        let mut turns = Turns::default();
        for turn in [1, 5] {
            turns.observe(IN, turn, true, Missing::Outside, false, false);
            turns.request_begun(IN, turn);
        }
        turns.observe(OUT, 2, true, Missing::Outside, false, false);
        turns.observe(OUT, 4, true, Missing::Inside, false, false);
        assert_eq!(turns.lost(IN, &ALONE), LostRequests { low: 1, high: 1 });
        turns.observe(OUT, 6, false, Missing::Inside, false, false);
        assert_eq!(
            turns.lost(IN, &ALONE),
            LostRequests { low: 0, high: 1 },
            "began inside of the one before"
        );
    }

    #[test]
    fn turns_that_only_the_other_direction_tells_of_count_before_the_close_as_after_it() {
        let mut turns = Turns::default();
        turns.observe(IN, 1, true, Missing::Outside, false, false);
        turns.request_begun(IN, 1);
        turns.observe(OUT, 6, true, Missing::Outside, false, false);
        assert_eq!(turns.lost(IN, &ALONE), LostRequests { low: 0, high: 2 });
        assert_eq!(
            turns.lost(IN, &Around { tunnel: true, ..ALONE }),
            LostRequests { low: 0, high: 0 },
            "bytes of a tunnel"
        );
        turns.close(6, [false; 2], false);
        assert_eq!(turns.lost(IN, &ALONE), LostRequests { low: 2, high: 2 });
        let mut turns = Turns::default();
        turns.observe(OUT, 6, true, Missing::Outside, false, true);
        assert_eq!((turns.unseen_of_unknown(), turns.known(IN)), (3, Some(3)));
    }

    #[test]
    fn known_turns_follow_from_parity() {
        let mut turns = Turns::default();
        assert_eq!(turns.known(IN), None);
        turns.observe(OUT, 2, true, Missing::Outside, false, false);
        assert_eq!((turns.known(IN), turns.known(OUT)), (Some(1), Some(1)));
        turns.close(5, [false; 2], false);
        assert_eq!((turns.known(IN), turns.known(OUT)), (Some(3), Some(2)));
    }
}
