//! One direction of a connection: which position comes next, and where bytes came from.

use serde::{Deserialize, Serialize};

use crate::{
    event::{Data, Direction},
    time::BootTime,
};
use tracer_ebpf as abi;

/// The order of one direction by the kernel's positions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stream {
    /// Bytes were seen.
    pub started: bool,
    /// Position behind the last byte seen or given up.
    pub next: u64,
    /// The direction ended (FIN).
    pub closed: bool,
}

/// Where an event's bytes stand relative to what was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// At the next position (or the first of all).
    Next,
    /// `missing` bytes before it were not seen.
    Ahead {
        /// Bytes.
        missing: u64,
    },
    /// Its first `seen` bytes were seen before; all of them when it has no more.
    Behind {
        /// Bytes.
        seen: u64,
    },
}

impl Stream {
    /// Where bytes at `position` stand. Positions are compared as distances: they may wrap.
    pub fn place(&self, position: u64) -> Place {
        if !self.started {
            return Place::Next;
        }
        let distance = position.wrapping_sub(self.next) as i64;
        match distance {
            0 => Place::Next,
            1.. => Place::Ahead { missing: distance as u64 },
            _ => Place::Behind { seen: distance.unsigned_abs() },
        }
    }

    /// Where an event's bytes stand. A receive that also meets the peer's FIN, or comes behind an urgent byte, stands one place further than
    /// its first byte: no byte of the stream is in that place.
    pub fn place_of(&self, data: &Data) -> Place {
        match self.place(data.position) {
            Place::Ahead { missing: 1 } if skips_a_place(data) => Place::Next,
            place => place,
        }
    }

    /// One place before the event's bytes, which come next, holds none.
    pub fn is_shifted(&self, data: &Data) -> bool {
        skips_a_place(data) && self.place(data.position) == (Place::Ahead { missing: 1 })
    }

    /// Everything before `position` is done with.
    pub fn advance(&mut self, position: u64) {
        self.started = true;
        self.next = position;
    }
}

/// The kernel had seen everything before these bytes but something that no call moved.
fn skips_a_place(data: &Data) -> bool {
    data.has(abi::FLAG_JUMP) && data.direction() == Direction::Ingress
}

/// Who moved some bytes, and when.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// Position of the first byte.
    pub position: u64,
    /// Time of the first byte: entry of the call where known for sends, else its exit.
    pub first: BootTime,
    /// Time of the last byte: exit of the (last) call.
    pub last: BootTime,
    /// Arrival of the first byte in the socket; 0 = not known.
    pub arrival: BootTime,
    /// Turn.
    pub turn: u32,
    /// Process.
    pub pid: u32,
    /// Thread.
    pub tid: u32,
    /// Thread name, zero-padded.
    pub comm: [u8; 16],
    /// `first` is the entry of a send.
    pub entry: bool,
    /// The first byte begins a turn, as the kernel numbers them.
    pub turn_start: bool,
    /// Bytes before it moved without any probe: they may have been of this turn, and of others that have no number.
    pub jump: bool,
}

impl Stamp {
    /// Of an event.
    pub fn of(data: &Data) -> Stamp {
        let summed = data.has(abi::FLAG_SUMMED);
        let egress = data.direction() == Direction::Egress;
        let known = data.first.known().is_some() && data.first <= data.time;
        Stamp {
            position: data.position,
            first: if known && (summed || egress) { data.first } else { data.time },
            last: data.time,
            arrival: if egress { BootTime(0) } else { data.arrival },
            turn: data.turn,
            pid: data.pid,
            tid: data.tid,
            comm: data.comm,
            entry: egress && known && !summed,
            turn_start: data.has(abi::FLAG_TURN_START),
            jump: false,
        }
    }

    /// The first byte begins a turn for certain.
    pub fn begins_turn(&self) -> bool {
        self.turn_start && !self.jump
    }

    /// Between the first and the last byte several calls returned: what lies between has no time of its own.
    pub fn is_of_several_calls(&self) -> bool {
        !self.entry && self.first < self.last
    }

    /// The same without its first `seen` bytes: the rest has no first call of its own.
    pub fn skip(mut self, seen: u64) -> Stamp {
        if seen > 0 {
            self.position = self.position.wrapping_add(seen);
            self.turn_start = false;
            self.arrival = BootTime(0);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_distances_and_survive_a_wrap() {
        let stream = Stream { started: true, next: u64::MAX - 1, closed: false };
        assert_eq!(stream.place(u64::MAX - 1), Place::Next);
        assert_eq!(stream.place(3), Place::Ahead { missing: 5 });
        assert_eq!(stream.place(u64::MAX - 11), Place::Behind { seen: 10 });
        assert_eq!(Stream::default().place(77), Place::Next);
    }

    #[test]
    fn a_send_begins_at_its_entry_and_a_receive_at_its_exit() {
        let mut data =
            Data { time: BootTime(20), first: BootTime(10), flags: abi::FLAG_EGRESS, ..Data::default() };
        assert_eq!((Stamp::of(&data).first.0, Stamp::of(&data).entry), (10, true));
        data.flags = 0;
        assert_eq!((Stamp::of(&data).first.0, Stamp::of(&data).entry), (20, false));
        data.flags = abi::FLAG_SUMMED;
        assert_eq!((Stamp::of(&data).first.0, Stamp::of(&data).last.0), (10, 20));
        data.first = BootTime(99);
        assert_eq!(Stamp::of(&data).first.0, 20, "a first call behind the last one is not believed");
    }
}
