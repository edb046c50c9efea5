//! One connection: what is known of it, the order of its two directions, and what is held back for it.
//!
//! Events come in time order. That is not enough in two cases, and in both the connection holds back what came until
//! the event that it waits for is there or the window has passed:
//!
//! * bytes ahead of the next position of their direction (two threads write or read one socket);
//! * an answer before its question: a send is stamped when it returns, and the peer may have answered by then.

use std::collections::VecDeque;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tracer_ebpf as abi;

use super::{
    stream::{Place, Stream},
    turns::Turns,
};
use crate::{
    event::{ConnId, ConnOpen, Data, Direction, Role, tuple_bytes},
    time::BootTime,
};

/// Events that one connection may hold back; beyond it the first goes on as if the window had passed.
pub const MAX_HELD_EVENTS: usize = 256;

/// A connection.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Connection {
    /// Its name.
    pub id: ConnId,
    /// Its [`ConnOpen`] was seen.
    pub opened: bool,
    /// It is older than the tracer, or its beginning was not seen.
    pub mid_join: bool,
    /// The tracker may have forgotten it before (then lost turns are an interval).
    pub forgotten: bool,
    /// The ends.
    #[serde(with = "tuple_bytes")]
    pub tuple: abi::Tuple,
    /// Path of a Unix socket.
    pub unix_path: Bytes,
    /// Network namespace.
    pub netns: u32,
    /// Role, as far as the kernel or the listening set know.
    pub role: Role,
    /// The kernel itself knew the role: its turns are in the counters `turns_request` and `turns_response`.
    pub role_by_kernel: bool,
    /// Both directions.
    pub streams: [Stream; 2],
    /// The account of turns.
    pub turns: Turns,
    /// Time of the newest event.
    pub last: BootTime,
    held: VecDeque<Data>,
    held_until: BootTime,
}

/// Why an event has to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Bytes of this direction are missing before it.
    Hole(Direction),
    /// It is an answer; the question, in this direction, was not seen.
    Question(Direction),
}

impl Connection {
    /// First sight of a connection.
    pub fn new(id: ConnId) -> Connection {
        Connection { id, mid_join: true, ..Connection::default() }
    }

    /// Takes over what the kernel says of it.
    pub fn open(&mut self, open: &ConnOpen) {
        self.opened = true;
        self.mid_join = open.flags & abi::FLAG_MID_JOIN != 0;
        self.tuple = open.tuple;
        self.unix_path = open.unix_path.clone();
        self.netns = open.netns;
        if open.role != Role::Unknown {
            self.role = open.role;
            self.role_by_kernel = true;
        }
        self.last = self.last.max(open.time);
    }

    /// Why an event cannot be applied yet; `question` = the direction that must speak before this event's does.
    pub fn wait(&self, data: &Data, question: Option<Direction>) -> Option<Wait> {
        let direction = data.direction();
        let stream = &self.streams[direction.index()];
        if !stream.started && data.bytes > 0 && !data.has(abi::FLAG_TURN_START) {
            // Every direction begins with a turn.
            return Some(Wait::Hole(direction));
        }
        match stream.place_of(data) {
            Place::Ahead { .. } => Some(Wait::Hole(direction)),
            Place::Next | Place::Behind { .. } => match question {
                Some(asking) if asking != direction && data.bytes > 0 => Some(Wait::Question(asking)),
                _ => None,
            },
        }
    }

    /// Whether events are held back.
    pub fn is_holding(&self) -> bool {
        !self.held.is_empty()
    }

    /// When the first held event goes on in any case.
    pub fn held_until(&self) -> BootTime {
        self.held_until
    }

    /// Holds an event back, in time order: one that comes late stands where it belongs.
    pub fn hold(&mut self, data: Data, window_ns: u64) {
        let n_later = self.held.iter().rev().take_while(|other| other.time > data.time).count();
        let at = self.held.len() - n_later;
        self.held.insert(at, data);
        if at == 0 {
            self.rearm(window_ns);
        }
    }

    /// The events held back, in order.
    pub fn held(&self) -> impl Iterator<Item = &Data> {
        self.held.iter()
    }

    /// The same, to be completed from a checkpoint.
    pub fn held_mut(&mut self) -> impl Iterator<Item = &mut Data> {
        self.held.iter_mut()
    }

    /// The first event held back.
    pub fn first_held(&self) -> Option<&Data> {
        self.held.front()
    }

    /// Number of events held back.
    pub fn n_held(&self) -> usize {
        self.held.len()
    }

    /// The first held event, whatever it waits for; the window restarts for the one behind it.
    pub fn release_first(&mut self, window_ns: u64) -> Option<Data> {
        let first = self.held.pop_front();
        self.rearm(window_ns);
        first
    }

    /// The held event that can be applied now, if any: the first one, or one behind it that it waits for. `question`
    /// tells, for the state at this moment, which direction must speak first (see [`Connection::wait`]).
    pub fn release(&mut self, question: Option<Direction>, window_ns: u64) -> Option<Data> {
        let first = self.held.front()?;
        let wait = self.wait(first, question);
        let before = first.position;
        let at = match wait {
            None => {
                let data = self.held.pop_front();
                self.rearm(window_ns);
                return data;
            }
            Some(Wait::Hole(direction)) => self.held.iter().position(|data| {
                data.direction() == direction
                    && (data.position.wrapping_sub(before) as i64) < 0
                    && self.wait(data, question).is_none()
            }),
            Some(Wait::Question(direction)) => {
                let asks = |data: &Data| data.direction() == direction && self.wait(data, question).is_none();
                let at = self.held.iter().position(asks)?;
                // What the other side was asked only later it said by itself (a greeting).
                Some(if may_ask(&self.held[at], first) { at } else { 0 })
            }
        }?;
        self.held.remove(at)
    }

    /// The first held event that may go on.
    pub fn release_where(&mut self, window_ns: u64, may: impl Fn(&Data) -> bool) -> Option<Data> {
        let at = self.held.iter().position(may)?;
        let data = self.held.remove(at);
        if at == 0 {
            self.rearm(window_ns);
        }
        data
    }

    fn rearm(&mut self, window_ns: u64) {
        if let Some(first) = self.held.front() {
            self.held_until = BootTime(first.time.0.saturating_add(window_ns));
        }
    }
}

/// Whether `question` may have been asked before `answer` came, though it is stamped later. A send can be answered before it returns, but
/// not before it is entered, nor to the thread that is still sending; what is received returns before anybody answers it.
fn may_ask(question: &Data, answer: &Data) -> bool {
    let is_one_thread = question.tid != 0 && question.tid == answer.tid;
    match question.direction() {
        _ if question.time <= answer.time => true,
        Direction::Egress => !is_one_thread && question.first <= answer.time,
        Direction::Ingress => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(direction: Direction, position: u64, bytes: u64, time: u64) -> Data {
        let flags = if direction == Direction::Egress { abi::FLAG_EGRESS } else { 0 } | abi::FLAG_TURN_START;
        Data { time: BootTime(time), position, bytes, flags, ..Data::default() }
    }

    #[test]
    fn bytes_ahead_wait_for_the_ones_before_them() {
        let mut conn = Connection::new(ConnId(1));
        conn.streams[0].advance(100);
        let ahead = data(Direction::Ingress, 110, 5, 1);
        assert_eq!(conn.wait(&ahead, None), Some(Wait::Hole(Direction::Ingress)));
        conn.hold(ahead, 20);
        conn.hold(data(Direction::Egress, 7, 5, 2), 20);
        assert_eq!(conn.release(None, 20), None, "the other direction waits behind it");
        conn.hold(data(Direction::Ingress, 100, 10, 3), 20);
        assert_eq!(conn.release(None, 20).map(|data| data.position), Some(100));
        conn.streams[0].advance(110);
        assert_eq!(conn.release(None, 20).map(|data| data.position), Some(110));
        conn.streams[0].advance(115);
        assert_eq!(conn.release(None, 20).map(|data| data.position), Some(7));
        assert!(!conn.is_holding());
    }

    #[test]
    fn an_answer_waits_for_its_question() {
        let mut conn = Connection::new(ConnId(1));
        let answer = data(Direction::Ingress, 0, 5, 1);
        assert_eq!(conn.wait(&answer, Some(Direction::Egress)), Some(Wait::Question(Direction::Egress)));
        conn.hold(answer, 20);
        conn.hold(data(Direction::Egress, 0, 9, 4), 20);
        assert_eq!(conn.release(Some(Direction::Egress), 20).map(|data| data.bytes), Some(9));
        assert_eq!(conn.release(None, 20).map(|data| data.bytes), Some(5));
    }

    #[test]
    fn a_greeting_does_not_wait_for_what_is_said_behind_it() {
        for (entered, tid, first) in [(2, 7, 5), (1, 7, 9), (0, 7, 9), (0, 6, 5)] {
            let mut conn = Connection::new(ConnId(1));
            conn.hold(Data { tid: 6, ..data(Direction::Ingress, 0, 5, 1) }, 20);
            conn.hold(Data { first: BootTime(entered), tid, ..data(Direction::Egress, 0, 9, 4) }, 20);
            let released = conn.release(Some(Direction::Egress), 20).map(|data| data.bytes);
            assert_eq!(released, Some(first), "entered at {entered} by {tid}");
        }
        let mut conn = Connection::new(ConnId(1));
        conn.hold(data(Direction::Egress, 0, 5, 1), 20);
        conn.hold(data(Direction::Ingress, 0, 9, 4), 20);
        assert_eq!(conn.release(Some(Direction::Ingress), 20).map(|data| data.bytes), Some(5));
    }
}
