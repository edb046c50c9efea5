//! Which request was served when a stack was taken.
//!
//! The stack of a wait is told when its call ends. For the call with which a request is answered that is behind the last bytes of the answer: by then the
//! request waits behind the watermark.

use super::{Early, Threads, Waited};
use crate::{
    event::{Stack, StackKind},
    metrics::{Counter, Metrics},
    pipeline::Rest,
    transaction::{
        CallId, CallStack,
        anatomy::Causes,
        stacks::{self, SAMPLE_NS, StackPart},
    },
};

/// Stacks of all requests in flight: some 70 bytes each, and their texts, of which the same are one. What finds no room is counted (`stacks.forgotten`).
const MAX_SERVED_STACKS: usize = 262_144;

/// A stack of a request that has ended.
#[derive(Debug)]
pub(super) struct Late {
    pub(super) of: CallId,
    pub(super) part: StackPart,
    pub(super) ns: u64,
    pub(super) stack: CallStack,
    pub(super) is_kept: bool,
}

impl Threads {
    /// What a thread was met doing: it belongs to the request for which it worked, or waited, then. Given back if that has ended.
    fn stack(&mut self, stack: &Stack, metrics: &Metrics) -> Option<Late> {
        metrics.add(Counter::Stacks, 1);
        let Stack { number, pid, tid, kind, is_kept, frames, end, .. } = stack;
        let (number, is_kept) = (*number, *is_kept);
        let stack = CallStack { frames: frames.clone(), end: *end };
        let Some(thread) = self.threads.get_mut(&(*pid, *tid)) else {
            metrics.add(Counter::StacksUnowned, 1);
            return None;
        };
        let found = match (kind, thread.waited) {
            (StackKind::Sample, _) if thread.owner.is_none() && thread.open.is_empty() => {
                metrics.add(Counter::StacksBehind, 1);
                return None;
            }
            (StackKind::Sample, _) => {
                let sole = (thread.open.len() == 1).then(|| thread.open[0]);
                // While a goroutine waits for what it has asked, its thread runs others.
                let asks = |of: &CallId| self.served.get(of).is_some_and(|served| served.unit.asks_now());
                let of = thread.owner.or(sole).filter(|of| !asks(of));
                of.map(|of| (of, StackPart::OnCpu, SAMPLE_NS))
            }
            (_, Some(Waited { number: last, ns, reason, of })) if u64::from(last) == number => {
                of.map(|of| (of, StackPart::Off(reason), ns))
            }
            // That of a wait outside of a call is told before the wait.
            _ if number == u64::from(thread.number) + 1 => {
                let before = thread.stack.replace(Early { number, stack, is_kept });
                metrics.add(Counter::StacksUnowned, u64::from(before.is_some()));
                return None;
            }
            _ => None,
        };
        match found {
            Some((of, part, ns)) => self.add_stack(Late { of, part, ns, stack, is_kept }, metrics),
            None => {
                metrics.add(Counter::StacksUnowned, 1);
                None
            }
        }
    }

    /// Gives back what is of a request that has ended.
    pub(super) fn add_stack(&mut self, late: Late, metrics: &Metrics) -> Option<Late> {
        let Some(served) = self.served.get_mut(&late.of) else { return Some(late) };
        let Late { part, ns, stack, is_kept, .. } = late;
        let before = served.stacks.len();
        served.keeps |= is_kept;
        if self.n_stacks < MAX_SERVED_STACKS {
            stacks::add(&mut served.stacks, part, ns, &stack.frames, stack.end);
        } else {
            metrics.add(Counter::StacksForgotten, 1);
        }
        self.n_stacks += served.stacks.len() - before;
        None
    }
}

impl Rest {
    /// What a thread that serves was met doing.
    pub(in crate::pipeline) fn thread_stack(&mut self, stack: &Stack) {
        let Some(Late { of, part, ns, stack, is_kept }) = self.threads.stack(stack, &self.metrics) else {
            return;
        };
        let Some(transaction) = self.watermark.waiting_mut(of) else {
            self.metrics.add(Counter::StacksUnowned, 1);
            return;
        };
        if is_kept || stacks::is_sampled(of, transaction.duration_ns, transaction.error) {
            let causes = transaction.causes.get_or_insert_with(|| Box::new(Causes::default()));
            stacks::add(&mut causes.stacks, part, ns, &stack.frames, stack.end);
        }
    }
}
