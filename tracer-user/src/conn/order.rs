//! Time order: a bounded window in which events wait for earlier ones.
//!
//! Records are written by many processors and threads; between a probe's stamp and its place in the ring lies whatever
//! the scheduler does. Events leave in the order of (time, connection, kind, direction, position), a function of what
//! they are and not of how they came. What comes later than the window allows leaves at once: the streams still order
//! it by position.

use std::collections::VecDeque;

use crate::{event::Event, time::BootTime};

/// Events that wait; beyond it the oldest leaves early. 65,536 × 200 bytes = 13 MB.
pub const MAX_WAITING: usize = 65_536;

/// The window.
#[derive(Debug, Default)]
pub struct Order {
    waiting: VecDeque<Event>,
    frontier: BootTime,
}

impl Order {
    /// Newest time seen.
    pub fn frontier(&self) -> BootTime {
        self.frontier
    }

    /// Time passed.
    pub fn advance(&mut self, time: BootTime) {
        self.frontier = self.frontier.max(time);
    }

    /// Takes an event in.
    pub fn push(&mut self, event: Event) {
        let key = key(&event);
        self.advance(BootTime(key.0));
        // Nearly always the newest: one comparison.
        if self.waiting.back().is_none_or(|last| self::key(last) <= key) {
            self.waiting.push_back(event);
            return;
        }
        let at = self.waiting.partition_point(|other| self::key(other) <= key);
        self.waiting.insert(at, event);
    }

    /// The next event that has waited long enough.
    pub fn pop(&mut self, window_ns: u64) -> Option<Event> {
        let front = self.waiting.front()?;
        let due = key(front).0.saturating_add(window_ns) <= self.frontier.0;
        if due || self.waiting.len() > MAX_WAITING { self.waiting.pop_front() } else { None }
    }

    /// The next event, waited for or not (end of input).
    pub fn pop_any(&mut self) -> Option<Event> {
        self.waiting.pop_front()
    }

    /// What waits, in order (checkpoint).
    pub fn waiting(&self) -> impl Iterator<Item = &Event> {
        self.waiting.iter()
    }

    /// A window in the state that [`Order::waiting`] and [`Order::frontier`] describe.
    pub fn restore(waiting: Vec<Event>, frontier: BootTime) -> Order {
        Order { waiting: waiting.into(), frontier }
    }
}

/// Time of an event.
pub fn time(event: &Event) -> BootTime {
    match event {
        Event::Data(data) => data.time,
        Event::Datagram(datagram) => datagram.time,
        Event::TlsOpen(open) => open.time,
        Event::ConnOpen(open) => open.time,
        Event::ConnShut(shut) => shut.time,
        Event::ConnClose(close) => close.time,
        Event::Process(process) => process.time,
        Event::Anchor(anchor) => anchor.boot,
        Event::ProcessFacts(facts) => facts.time,
        Event::Listening(listening) => listening.time,
        Event::Counters(counters) => counters.time,
        Event::Tick(time) => *time,
        Event::Loss(loss) => loss.time,
        Event::FunctionFacts(facts) => facts.time,
        Event::FunctionEnter(enter) => enter.time,
        Event::FunctionReturn(leave) => leave.time,
        Event::Stack(stack) => stack.time,
        Event::OffCpu(off) => off.time,
        Event::Retransmit(again) => again.time,
    }
}

/// What an event is sorted by. Two events with equal keys keep the order in which they came.
fn key(event: &Event) -> (u64, u64, u8, u64, u32) {
    let time = time(event).0;
    match event {
        Event::Anchor(_) => (time, 0, 0, 0, 0),
        Event::Loss(_) => (time, 0, 1, 0, 0),
        Event::Listening(_) => (time, 0, 2, 0, 0),
        Event::ProcessFacts(facts) => (time, 0, 3, 0, facts.pid),
        Event::ConnOpen(open) => (time, open.conn.0, 4, 0, 0),
        // Behind its carrier's open, whose id is smaller: it was seen before.
        Event::TlsOpen(open) => (time, open.conn.0, 4, 1, 0),
        Event::Data(data) => {
            // Of two with the same stamp: the end of a direction behind its bytes, the earlier turn first.
            let last = u8::from(data.bytes == 0);
            (time, data.conn.0, 5 + last, u64::from(data.turn), data.position as u32)
        }
        Event::Datagram(datagram) => (time, datagram.conn.0, 5, datagram.number, datagram.direction() as u32),
        Event::ConnShut(shut) => (time, shut.conn.0, 7, shut.direction.index() as u64, 0),
        // Behind bytes of the same stamp.
        Event::Retransmit(again) => (time, again.conn.0, 7, 2, again.retransmits),
        Event::FunctionFacts(facts) => (time, 0, 3, 1, facts.function),
        // Behind bytes that its thread has received by then; of one thread by their number.
        Event::FunctionEnter(enter) => (time, u64::MAX, 7, enter.number, enter.tid),
        Event::FunctionReturn(leave) => (time, u64::MAX, 7, leave.number, leave.tid),
        // Before the record that it belongs to.
        Event::Stack(stack) => (time, u64::MAX, 6, stack.number, stack.tid),
        Event::OffCpu(off) => (time, 0, 3, u64::from(off.number), off.tid),
        // Of several the youngest first: what is inside of a connection ends before it does.
        Event::ConnClose(close) => (time, u64::MAX, 8, !close.conn.0, 0),
        Event::Process(process) => (time, u64::MAX, 9, 0, process.pid),
        Event::Tick(_) => (time, u64::MAX, 10, 0, 0),
        Event::Counters(_) => (time, u64::MAX, 11, 0, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{ConnClose, ConnId, ConnOpen, Data, TlsOpen};

    fn data(time: u64, turn: u32) -> Event {
        Event::Data(Data { time: BootTime(time), conn: ConnId(1), turn, bytes: 1, ..Data::default() })
    }

    #[track_caller]
    fn check(input: &[(u64, u32)], window: u64, expect: &[(u64, u32)]) {
        let mut order = Order::default();
        let mut out = Vec::new();
        for &(time, turn) in input {
            order.push(data(time, turn));
            while let Some(Event::Data(data)) = order.pop(window) {
                out.push((data.time.0, data.turn));
            }
        }
        while let Some(Event::Data(data)) = order.pop_any() {
            out.push((data.time.0, data.turn));
        }
        assert_eq!(out, expect);
    }

    #[test]
    fn events_leave_in_time_order_within_the_window() {
        check(&[(10, 1), (30, 2), (20, 3), (60, 4)], 20, &[(10, 1), (20, 3), (30, 2), (60, 4)]);
    }

    #[test]
    fn equal_times_are_ordered_by_turn() {
        check(&[(10, 2), (10, 1)], 5, &[(10, 1), (10, 2)]);
    }

    #[test]
    fn an_event_behind_the_window_leaves_at_once() {
        check(&[(10, 1), (100, 2), (20, 3), (130, 4)], 10, &[(10, 1), (20, 3), (100, 2), (130, 4)]);
        check(&[(100, 1), (120, 2), (20, 3)], 10, &[(100, 1), (20, 3), (120, 2)]);
    }

    #[test]
    fn what_is_inside_of_a_connection_begins_behind_it_and_ends_before_it() {
        let (time, carrier, inside) = (BootTime(10), ConnId(4), ConnId(5));
        let close = |conn| Event::ConnClose(ConnClose { time, conn, ..ConnClose::default() });
        let events = [
            Event::ConnOpen(ConnOpen { time, conn: carrier, ..ConnOpen::default() }),
            Event::TlsOpen(TlsOpen { time, conn: inside, carrier, ..TlsOpen::default() }),
            Event::Data(Data { time, conn: inside, bytes: 1, ..Data::default() }),
            close(inside),
            close(carrier),
        ];
        let mut order = Order::default();
        events.iter().rev().for_each(|event| order.push(event.clone()));
        assert!(order.waiting().eq(&events));
    }

    #[test]
    fn the_window_is_bounded() {
        let mut order = Order::default();
        for n in 0..MAX_WAITING + 10 {
            order.push(data(5, n as u32));
        }
        let mut n = 0;
        while order.pop(1_000).is_some() {
            n += 1;
        }
        assert_eq!((n, order.waiting.len()), (10, MAX_WAITING));
    }
}
