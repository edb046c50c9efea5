//! All connections: a bounded map that forgets the one that was idle longest, and remembers for a while which ones ended.

use std::collections::VecDeque;

use rustc_hash::{FxHashMap, FxHashSet};

use crate::{event::ConnId, time::BootTime};

/// Ended connections remembered, so that a late record of one does not make a new one. At most so many, at most
/// [`REMEMBER_NS`]. 65,536 × 32 bytes = 2 MB.
const MAX_ENDED: usize = 65_536;
/// How long an ended connection is remembered: the kernel's reader delivers sums at most 250 ms late.
const REMEMBER_NS: u64 = 1_000_000_000;
/// End of a list.
const NONE: u32 = u32::MAX;

/// Connections by id, in the order of their last use.
#[derive(Debug)]
pub struct Tracker<C> {
    by_id: FxHashMap<ConnId, u32>,
    slots: Vec<Slot<C>>,
    free: Vec<u32>,
    /// Most and least recently used.
    newest: u32,
    oldest: u32,
    ended: FxHashSet<ConnId>,
    ended_at: VecDeque<(BootTime, ConnId)>,
    max: usize,
}

#[derive(Debug)]
struct Slot<C> {
    conn: Option<Box<C>>,
    newer: u32,
    older: u32,
}

impl<C> Tracker<C> {
    /// For at most `max` connections.
    pub fn new(max: usize) -> Tracker<C> {
        Tracker {
            by_id: FxHashMap::default(),
            slots: Vec::new(),
            free: Vec::new(),
            newest: NONE,
            oldest: NONE,
            ended: FxHashSet::default(),
            ended_at: VecDeque::new(),
            max: max.clamp(1, NONE as usize - 1),
        }
    }

    /// Connections tracked.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Whether one more would be too many.
    pub fn is_full(&self) -> bool {
        self.by_id.len() >= self.max
    }

    /// A connection; it becomes the most recently used.
    pub fn touch(&mut self, id: ConnId) -> Option<&mut C> {
        let at = *self.by_id.get(&id)?;
        if self.newest != at {
            self.unlink(at);
            self.link(at);
        }
        self.slots[at as usize].conn.as_deref_mut()
    }

    /// A connection.
    pub fn get(&self, id: ConnId) -> Option<&C> {
        self.slots.get(*self.by_id.get(&id)? as usize)?.conn.as_deref()
    }

    /// A connection; its place in the order stays.
    pub fn get_mut(&mut self, id: ConnId) -> Option<&mut C> {
        let at = *self.by_id.get(&id)?;
        self.slots[at as usize].conn.as_deref_mut()
    }

    /// Adds one (the caller has made room) and returns it.
    pub fn insert(&mut self, id: ConnId, conn: C) -> &mut C {
        self.remove(id);
        let slot = Slot { conn: None, newer: NONE, older: NONE };
        let at = match self.free.pop() {
            Some(at) => {
                self.slots[at as usize] = slot;
                at
            }
            None => {
                self.slots.push(slot);
                (self.slots.len() - 1) as u32
            }
        };
        self.by_id.insert(id, at);
        self.link(at);
        self.slots[at as usize].conn.insert(Box::new(conn))
    }

    /// Takes one out.
    pub fn remove(&mut self, id: ConnId) -> Option<Box<C>> {
        let at = self.by_id.remove(&id)?;
        self.unlink(at);
        self.free.push(at);
        self.slots[at as usize].conn.take()
    }

    /// The one that was idle longest.
    pub fn idlest(&self) -> Option<&C> {
        self.slots.get(self.oldest as usize)?.conn.as_deref()
    }

    /// All, the one that was idle longest first.
    pub fn iter(&self) -> impl Iterator<Item = &C> {
        let mut at = self.oldest;
        std::iter::from_fn(move || {
            let slot = self.slots.get(at as usize)?;
            at = slot.newer;
            slot.conn.as_deref()
        })
    }

    /// All, the one that was used last first.
    pub fn newest_first(&self) -> impl Iterator<Item = &C> {
        let mut at = self.newest;
        std::iter::from_fn(move || {
            let slot = self.slots.get(at as usize)?;
            at = slot.older;
            slot.conn.as_deref()
        })
    }

    /// All, in no order that means anything but the same in every run.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut C> {
        self.slots.iter_mut().filter_map(|slot| slot.conn.as_deref_mut())
    }

    /// Remembers that `id` ended at `now`.
    pub fn end(&mut self, id: ConnId, now: BootTime) {
        if self.ended.insert(id) {
            self.ended_at.push_back((now, id));
        }
        while let Some(&(at, id)) = self.ended_at.front() {
            if self.ended_at.len() <= MAX_ENDED && at.0.saturating_add(REMEMBER_NS) > now.0 {
                break;
            }
            self.ended_at.pop_front();
            self.ended.remove(&id);
        }
    }

    /// Whether `id` is known to have ended.
    pub fn has_ended(&self, id: ConnId) -> bool {
        self.ended.contains(&id)
    }

    /// Ended connections remembered (checkpoint).
    pub fn ended(&self) -> impl Iterator<Item = (BootTime, ConnId)> {
        self.ended_at.iter().copied()
    }

    /// Remembers what [`Tracker::ended`] told.
    pub fn restore_ended(&mut self, ended: Vec<(BootTime, ConnId)>) {
        self.ended = ended.iter().map(|(_, id)| *id).collect();
        self.ended_at = ended.into();
    }

    fn link(&mut self, at: u32) {
        let before = self.newest;
        let slot = &mut self.slots[at as usize];
        slot.newer = NONE;
        slot.older = before;
        match self.slots.get_mut(before as usize) {
            Some(slot) => slot.newer = at,
            None => self.oldest = at,
        }
        self.newest = at;
    }

    fn unlink(&mut self, at: u32) {
        let Slot { newer, older, .. } = self.slots[at as usize];
        match self.slots.get_mut(newer as usize) {
            Some(slot) => slot.older = older,
            None => self.newest = older,
        }
        match self.slots.get_mut(older as usize) {
            Some(slot) => slot.newer = newer,
            None => self.oldest = newer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_idlest_is_the_one_not_touched() {
        let mut tracker = Tracker::new(3);
        for id in 1..=3 {
            tracker.insert(ConnId(id), id);
        }
        assert!(tracker.is_full());
        tracker.touch(ConnId(1));
        assert_eq!(tracker.idlest(), Some(&2));
        assert_eq!(tracker.remove(ConnId(2)).as_deref(), Some(&2));
        assert_eq!(tracker.iter().copied().collect::<Vec<_>>(), [3, 1]);
        tracker.insert(ConnId(9), 9);
        assert_eq!(tracker.iter().copied().collect::<Vec<_>>(), [3, 1, 9]);
        assert_eq!(tracker.newest_first().copied().collect::<Vec<_>>(), [9, 1, 3]);
        assert_eq!(tracker.slots.len(), 3, "slots are used again");
    }

    #[test]
    fn ended_connections_are_remembered_for_a_while_and_never_too_many() {
        let mut tracker = Tracker::<()>::new(3);
        for n in 0..100_000 {
            tracker.end(ConnId(n), BootTime(n));
        }
        assert!(tracker.has_ended(ConnId(99_999)) && !tracker.has_ended(ConnId(0)));
        assert_eq!(tracker.ended().count(), MAX_ENDED);
        tracker.end(ConnId(1 << 40), BootTime(10 * REMEMBER_NS));
        assert_eq!(tracker.ended().count(), 1);
    }
}
