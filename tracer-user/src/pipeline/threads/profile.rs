//! The profile of one request, in a replay: after each thing that was seen, what it had done by then.

use super::{READING, Threads};
use crate::{
    pipeline::Pipeline,
    time::BootTime,
    transaction::{
        CallId,
        anatomy::Anatomy,
        profile::{Seen, Watch},
    },
};

impl Pipeline {
    /// Keeps the steps of one request. Costs every event a look: for a replay.
    pub fn watch(&mut self, watch: Watch) {
        self.rest.threads.watch(watch);
    }

    /// What was kept: for another pipeline that goes on from a checkpoint, or at the end.
    pub fn take_watch(&mut self) -> Option<Watch> {
        self.rest.threads.take_watch()
    }
}

impl Threads {
    /// Steps are kept from now on, for this one.
    pub(in crate::pipeline) fn watch(&mut self, watch: Watch) {
        self.watch = Some(Box::new(watch));
    }

    /// No longer.
    pub(in crate::pipeline) fn take_watch(&mut self) -> Option<Watch> {
        self.watch.take().map(|watch| *watch)
    }

    /// Something of a call was seen, whoever made it.
    pub(in crate::pipeline) fn seen_call(&mut self, at: BootTime) {
        if self.watch.is_some() {
            self.seen(at, Seen::Called);
        }
    }

    /// Something was seen that may belong to it.
    pub(super) fn seen(&mut self, at: BootTime, seen: Seen) {
        let Some(watch) = &mut self.watch else { return };
        // Before its head is there, its connection is being read.
        let reading = CallId { ordinal: READING, ..watch.id };
        let id = if self.served.contains_key(&watch.id) { watch.id } else { reading };
        let Some(served) = self.served.get_mut(&id) else { return };
        // Its parts are known as far as its thread is.
        let known = self.threads.get(&served.thread).map(|thread| {
            served.look(thread);
            thread.last
        });
        watch.look(served.since, known.unwrap_or(at), &served.parts, seen);
    }

    /// A request has ended.
    pub(super) fn seen_end(&mut self, id: CallId, since: BootTime, at: BootTime, anatomy: &Anatomy) {
        if let Some(watch) = self.watch.as_mut().filter(|watch| watch.id == id) {
            watch.end(since, at, anatomy);
        }
    }
}
