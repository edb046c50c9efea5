//! Calls of functions: which return belongs to which entry.
//!
//! A call is known by its thread (in Go its goroutine), its function and its frame: where on the stack its return address stands. Stacks grow down, so that
//! calls within it have lower frames, and what is still on the stack is above whatever happens now:
//!
//! * a return ends the call of the same function and frame;
//! * calls whose frames are below it were left without a return: an exception, a panic or `longjmp` went over them. So were those at or below the
//!   frame of a new entry. They end as `unwound` when that is seen;
//! * what fits no open call is counted, and ends nothing.
//!
//! A thread's records are numbered. Where some are missing (the ring was full), what is open on that thread may have ended in them, and begun again:
//! it is given up as `tracer_stopped` rather than paired with another call's return.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tracer_ebpf as abi;

use super::{CallId, CallStack, End};
use crate::{
    event::{FunctionEnter, FunctionFacts, FunctionReturn},
    time::BootTime,
};

/// Calls within each other that are followed; beyond it they are counted (`lost.function_depth`). Deeper than programs nest but for recursion without a
/// bound, which a stack of 8 MiB ends at some 100,000.
pub const MAX_DEPTH: usize = 1_024;
/// Threads and goroutines with open calls; beyond it calls of others are counted (`lost.function_threads`). 16,384 × some 250 bytes a call.
pub const MAX_STACKS: usize = 16_384;
/// Threads whose numbers are known; beyond it all begin anew, and what is open is given up. As many as the kernel side numbers.
pub const MAX_NUMBERED: usize = 16_384;

/// An open call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenCall {
    /// How it began.
    pub enter: FunctionEnter,
    /// What calls within it took, ns: those that have ended.
    pub inner_ns: u64,
    /// Who called it.
    pub stack: Option<CallStack>,
    /// The kernel has no return probe left for it.
    is_blind: bool,
    by_return_probe: bool,
}

impl OpenCall {
    /// Its id.
    pub fn id(&self) -> CallId {
        CallId::of_call(self.enter.pid, self.enter.tid, self.enter.number)
    }
}

/// A call that has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndedCall {
    /// The call.
    pub call: OpenCall,
    /// How it ended.
    pub end: End,
    /// When, or when that was seen.
    pub at: BootTime,
    /// What it returned: the register, and the text.
    pub returned: Option<(u64, Option<Bytes>)>,
    /// The call around it, and when that began.
    pub parent: Option<(CallId, BootTime)>,
}

/// What records brought about, for counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallCounts {
    /// Calls that began, and places that were passed.
    pub calls: u64,
    /// Calls left without a return.
    pub unwound: u64,
    /// Calls whose end is not known because records are missing.
    pub doubtful: u64,
    /// Calls whose end no probe sees: deeper than return probes go.
    pub blind: u64,
    /// Returns of calls that were not seen to begin.
    pub unpaired: u64,
    /// Calls that are not followed: too deep.
    pub too_deep: u64,
    /// Calls that are not followed: on too many threads.
    pub no_stack: u64,
    /// Records that came too late for their place.
    pub late: u64,
    /// Records that are missing.
    pub missing: u64,
}

/// A thread, or a goroutine, of a process. Addresses of goroutines are none that a thread has as its number.
type StackKey = (u32, u64);

/// All open calls.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Calls {
    /// Outermost first. Stacks without open calls are not kept.
    stacks: BTreeMap<StackKey, Vec<OpenCall>>,
    /// The number of the last record of each thread.
    numbers: BTreeMap<(u32, u32), u64>,
    #[serde(skip)]
    counts: CallCounts,
}

impl Calls {
    /// A function begins. Calls that turn out to have ended are appended to `ended`.
    pub fn enter(&mut self, enter: &FunctionEnter, facts: &FunctionFacts, ended: &mut Vec<EndedCall>) {
        if !self.number(enter.pid, enter.tid, enter.goroutine, enter.number, enter.time, ended) {
            return;
        }
        let key = key(enter.pid, enter.tid, enter.goroutine);
        self.counts.calls += 1;
        let mut call = OpenCall {
            enter: enter.clone(),
            inner_ns: 0,
            stack: None,
            is_blind: false,
            by_return_probe: facts.by_return_probe,
        };
        if let Some(stack) = self.stacks.get_mut(&key) {
            let is_gone = |open: &OpenCall| {
                if facts.is_mark {
                    // Somewhere in the innermost of them.
                    open.enter.stack < enter.stack
                } else {
                    // Another function at the same frame may have jumped to this one: both return there.
                    let has_jumped = open.by_return_probe && enter.is_jumped_to();
                    open.enter.stack < enter.stack || (open.enter.stack == enter.stack && !has_jumped)
                }
            };
            let top = stack.last();
            if facts.restarts
                && top
                    .is_some_and(|top| top.enter.function == enter.function && top.enter.stack == enter.stack)
            {
                // The same call again, behind a stack that has grown.
                self.counts.calls -= 1;
                return;
            }
            while stack.last().is_some_and(is_gone) {
                unwind(stack, enter.time, &mut self.counts, ended);
            }
            if facts.is_mark {
                let parent = stack.last().map(|open| (open.id(), open.enter.time));
                ended.push(passed(call, parent));
                if stack.is_empty() {
                    self.stacks.remove(&key);
                }
                return;
            }
            if stack.len() >= MAX_DEPTH {
                self.counts.calls -= 1;
                self.counts.too_deep += 1;
                return;
            }
            let n_probes = stack.iter().filter(|open| open.by_return_probe).count();
            call.is_blind = facts.by_return_probe && n_probes >= FunctionFacts::MAX_RETURN_PROBES;
            stack.push(call);
            return;
        }
        if facts.is_mark {
            ended.push(passed(call, None));
        } else if self.stacks.len() >= MAX_STACKS {
            self.counts.calls -= 1;
            self.counts.no_stack += 1;
        } else {
            self.stacks.insert(key, vec![call]);
        }
    }

    /// A function returns.
    pub fn leave(&mut self, leave: &FunctionReturn, ended: &mut Vec<EndedCall>) {
        if !self.number(leave.pid, leave.tid, leave.goroutine, leave.number, leave.time, ended) {
            return;
        }
        let key = key(leave.pid, leave.tid, leave.goroutine);
        let Some(stack) = self.stacks.get_mut(&key) else {
            self.counts.unpaired += 1;
            return;
        };
        while stack.last().is_some_and(|open| open.enter.stack < leave.stack) {
            unwind(stack, leave.time, &mut self.counts, ended);
        }
        let is_it =
            |open: &OpenCall| open.enter.stack == leave.stack && open.enter.function == leave.function;
        if stack.iter().rev().take_while(|open| open.enter.stack == leave.stack).any(is_it) {
            while stack.last().is_some_and(|open| !is_it(open)) {
                unwind(stack, leave.time, &mut self.counts, ended);
            }
            let hands_over = leave.flags & abi::FLAG_HANDS_OVER != 0;
            let returned = (!hands_over).then(|| (leave.value, leave.text.clone()));
            ended.extend(pop(stack, End::Answered, leave.time, returned));
        } else {
            self.counts.unpaired += 1;
        }
        if stack.is_empty() {
            self.stacks.remove(&key);
        }
    }

    /// Who called a call that has just begun. `false`: there is none such open.
    pub fn set_stack(&mut self, enter: &FunctionEnter, stack: &CallStack) -> bool {
        let key = key(enter.pid, enter.tid, enter.goroutine);
        let top = self.stacks.get_mut(&key).and_then(|stack| stack.last_mut());
        match top.filter(|open| open.enter.number == enter.number && open.enter.tid == enter.tid) {
            Some(open) => open.stack = Some(stack.clone()),
            None => return false,
        }
        true
    }

    /// A process ended, or runs another program: its calls never return.
    pub fn end_process(&mut self, pid: u32, at: BootTime, ended: &mut Vec<EndedCall>) {
        let keys: Vec<StackKey> =
            self.stacks.range((pid, 0)..=(pid, u64::MAX)).map(|(key, _)| *key).collect();
        for key in keys {
            self.end_stack(key, End::Exited, at, ended);
        }
    }

    /// End of the input.
    pub fn end_all(&mut self, at: BootTime, ended: &mut Vec<EndedCall>) {
        let keys: Vec<StackKey> = self.stacks.keys().copied().collect();
        for key in keys {
            self.end_stack(key, End::TracerStopped, at, ended);
        }
    }

    /// Open calls, thread by thread.
    pub fn open(&self) -> impl Iterator<Item = &OpenCall> {
        self.stacks.values().flatten()
    }

    /// What has been counted since the last time.
    pub fn take_counts(&mut self) -> CallCounts {
        std::mem::take(&mut self.counts)
    }

    fn end_stack(&mut self, key: StackKey, end: End, at: BootTime, ended: &mut Vec<EndedCall>) {
        let mut stack = self.stacks.remove(&key).unwrap_or_default();
        while !stack.is_empty() {
            ended.extend(pop(&mut stack, end, at, None));
        }
    }

    /// Notes the number of a record. `false`: it has come behind later ones of its thread.
    fn number(
        &mut self,
        pid: u32,
        tid: u32,
        goroutine: u64,
        number: u64,
        at: BootTime,
        ended: &mut Vec<EndedCall>,
    ) -> bool {
        let last = self.numbers.get(&(pid, tid)).copied().unwrap_or(0);
        if last != 0 && number != 1 && number <= last {
            self.counts.late += 1;
            return false;
        }
        if last == 0 && self.numbers.len() >= MAX_NUMBERED {
            self.numbers.clear();
            let open = self.open().count() as u64;
            self.counts.doubtful += open;
            self.end_all(at, ended);
        }
        self.numbers.insert((pid, tid), number);
        if number != last + 1 {
            // 1 behind others: the kernel side has forgotten the thread meanwhile, and how many there were.
            self.counts.missing += number.saturating_sub(last + 1).max(1);
            self.doubt(pid, tid, goroutine != 0, at, ended);
        }
        true
    }

    /// Records of a thread are missing. Of which goroutine they were nobody knows.
    fn doubt(&mut self, pid: u32, tid: u32, is_go: bool, at: BootTime, ended: &mut Vec<EndedCall>) {
        let before = ended.len();
        if is_go {
            let keys: Vec<StackKey> =
                self.stacks.range((pid, 0)..=(pid, u64::MAX)).map(|(key, _)| *key).collect();
            for key in keys {
                self.end_stack(key, End::TracerStopped, at, ended);
            }
        } else {
            self.end_stack((pid, u64::from(tid)), End::TracerStopped, at, ended);
        }
        self.counts.doubtful += (ended.len() - before) as u64;
    }
}

fn key(pid: u32, tid: u32, goroutine: u64) -> StackKey {
    (pid, if goroutine == 0 { u64::from(tid) } else { goroutine })
}

/// The innermost call was left without a return.
fn unwind(stack: &mut Vec<OpenCall>, at: BootTime, counts: &mut CallCounts, ended: &mut Vec<EndedCall>) {
    let is_blind = stack.last().is_some_and(|open| open.is_blind);
    if is_blind {
        counts.blind += 1;
    } else {
        counts.unwound += 1;
    }
    ended.extend(pop(stack, if is_blind { End::TracerStopped } else { End::Unwound }, at, None));
}

/// The innermost call has ended.
fn pop(
    stack: &mut Vec<OpenCall>,
    end: End,
    at: BootTime,
    returned: Option<(u64, Option<Bytes>)>,
) -> Option<EndedCall> {
    let call = stack.pop()?;
    let mut parent = None;
    if let Some(outer) = stack.last_mut() {
        outer.inner_ns += at.0.saturating_sub(call.enter.time.0);
        parent = Some((outer.id(), outer.enter.time));
    }
    Some(EndedCall { call, end, at, returned, parent })
}

/// A place that was passed: it begins and ends at once.
fn passed(call: OpenCall, parent: Option<(CallId, BootTime)>) -> EndedCall {
    let at = call.enter.time;
    EndedCall { call, end: End::Answered, at, returned: None, parent }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// One thread's records, numbered, and what came of them.
    struct Thread {
        calls: Calls,
        now: u64,
        number: u64,
        facts: FunctionFacts,
        ended: Vec<EndedCall>,
    }

    impl Thread {
        fn new(by_return_probe: bool) -> Thread {
            let facts = FunctionFacts { by_return_probe, ..FunctionFacts::default() };
            Thread { calls: Calls::default(), now: 0, number: 0, facts, ended: Vec::new() }
        }

        fn tick(&mut self) {
            self.now += 10;
            self.number += 1;
        }

        fn enter(&mut self, function: u32, stack: u64) {
            self.enter_from(function, stack, 0x1000);
        }

        fn enter_from(&mut self, function: u32, stack: u64, caller: u64) {
            self.tick();
            let (time, number) = (BootTime(self.now), self.number);
            let enter = FunctionEnter {
                time,
                number,
                stack,
                caller,
                function,
                pid: 1,
                tid: 2,
                ..FunctionEnter::default()
            };
            self.calls.enter(&enter, &self.facts, &mut self.ended);
        }

        fn leave(&mut self, function: u32, stack: u64) {
            self.tick();
            let (time, number) = (BootTime(self.now), self.number);
            let leave =
                FunctionReturn { time, number, stack, function, pid: 1, tid: 2, ..FunctionReturn::default() };
            self.calls.leave(&leave, &mut self.ended);
        }

        /// Number, function, end, how long, self, number of the parent.
        fn rows(&self) -> Vec<(u64, u32, End, u64, u64, Option<u64>)> {
            let row = |one: &EndedCall| {
                let EndedCall { call, end, at, parent, .. } = one;
                let took = at.0 - call.enter.time.0;
                let parent = parent.map(|(id, _)| id.ordinal);
                (call.enter.number, call.enter.function, *end, took, took - call.inner_ns, parent)
            };
            self.ended.iter().map(row).collect()
        }
    }

    #[test]
    fn calls_nest_and_each_has_its_own_time() {
        let mut thread = Thread::new(false);
        thread.enter(1, 100);
        thread.enter(2, 80);
        thread.leave(2, 80);
        thread.enter(2, 80);
        thread.enter(3, 60);
        thread.leave(3, 60);
        thread.leave(2, 80);
        thread.leave(1, 100);
        let answered = End::Answered;
        assert_eq!(
            thread.rows(),
            [
                (2, 2, answered, 10, 10, Some(1)),
                (5, 3, answered, 10, 10, Some(4)),
                (4, 2, answered, 30, 20, Some(1)),
                (1, 1, answered, 70, 30, None)
            ]
        );
        assert_eq!(thread.calls.take_counts(), CallCounts { calls: 4, ..CallCounts::default() });
        assert_eq!(thread.calls.open().count(), 0);
    }

    #[test]
    fn what_an_exception_passed_over_is_unwound_and_the_others_pair() {
        let mut thread = Thread::new(false);
        thread.enter(1, 100);
        thread.enter(2, 80);
        thread.enter(2, 60);
        // The outermost catches, and calls again.
        thread.enter(3, 90);
        thread.leave(3, 90);
        thread.enter(2, 80);
        thread.leave(1, 100);
        let rows: Vec<_> = thread.rows().into_iter().map(|(number, _, end, ..)| (number, end)).collect();
        let (unwound, answered) = (End::Unwound, End::Answered);
        assert_eq!(rows, [(3, unwound), (2, unwound), (4, answered), (6, unwound), (1, answered)]);
        assert_eq!(thread.calls.take_counts().unwound, 3);
    }

    #[test]
    fn recursion_pairs_by_its_frames() {
        let mut thread = Thread::new(true);
        (0..100).for_each(|depth| thread.enter(1, 10_000 - depth * 16));
        // The kernel has no return probe for the deeper ones.
        (0..64).rev().for_each(|depth| thread.leave(1, 10_000 - depth * 16));
        let n = |end| thread.ended.iter().filter(|one| one.end == end).count();
        assert_eq!((n(End::Answered), n(End::TracerStopped), n(End::Unwound)), (64, 36, 0));
        assert_eq!(thread.calls.take_counts().blind, 36);
    }

    #[test]
    fn a_function_that_jumps_to_another_returns_with_it() {
        let mut thread = Thread::new(true);
        thread.enter(1, 100);
        thread.enter_from(2, 100, 0x7fff_ffff_f000);
        thread.leave(2, 100);
        thread.leave(1, 100);
        // Left by `longjmp`, and another one called in its place.
        thread.enter(1, 100);
        thread.enter(2, 100);
        thread.leave(2, 100);
        let rows: Vec<_> = thread.rows().into_iter().map(|(number, _, end, ..)| (number, end)).collect();
        let answered = End::Answered;
        assert_eq!(rows, [(2, answered), (1, answered), (5, End::Unwound), (6, answered)]);
    }

    #[test]
    fn a_lost_record_gives_up_what_is_open_and_pairs_nothing_wrongly() {
        let mut thread = Thread::new(false);
        thread.enter(1, 100);
        // Its return, and the entry of the next.
        thread.number += 2;
        thread.leave(1, 100);
        assert_eq!(thread.rows(), [(1, 1, End::TracerStopped, 10, 10, None)]);
        let counts = thread.calls.take_counts();
        assert_eq!((counts.missing, counts.doubtful, counts.unpaired), (2, 1, 1));
        // And goes on.
        thread.enter(1, 100);
        thread.leave(1, 100);
        assert_eq!(thread.ended.last().unwrap().end, End::Answered);
    }

    #[test]
    fn threads_and_depth_are_bounded_and_counted() {
        let mut thread = Thread::new(false);
        (0..MAX_DEPTH as u64 + 5).for_each(|depth| thread.enter(1, 1 << 40 | (100_000 - depth)));
        let counts = thread.calls.take_counts();
        assert_eq!((counts.calls, counts.too_deep), (MAX_DEPTH as u64, 5));
        let mut calls = Calls::default();
        let mut ended = Vec::new();
        for tid in 0..MAX_STACKS as u32 + 3 {
            let enter = FunctionEnter { number: 1, pid: 1, tid, stack: 8, ..FunctionEnter::default() };
            calls.enter(&enter, &FunctionFacts::default(), &mut ended);
        }
        // The numbers of all threads are forgotten with the first that is too many: what is open then is given up.
        let counts = calls.take_counts();
        assert_eq!((counts.calls, counts.doubtful), (MAX_STACKS as u64 + 3, MAX_STACKS as u64));
        assert_eq!(ended.len() as u64, counts.doubtful);
    }

    #[derive(Clone, Debug)]
    enum Act {
        Call(u32),
        Return,
        Throw(usize),
        Lose(bool),
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            4 => (1..4_u32).prop_map(Act::Call),
            4 => Just(Act::Return),
            1 => (1..6_usize).prop_map(Act::Throw),
            1 => any::<bool>().prop_map(Act::Lose),
        ]
    }

    proptest! {
        /// Against a stack that knows: whatever happens, an answered call has the times of its own entry and return.
        #[test]
        fn no_pair_is_ever_wrong(acts in prop::collection::vec(act(), 0..200)) {
            let mut thread = Thread::new(false);
            // Function, frame, number of the entry.
            let mut stack: Vec<(u32, u64, u64)> = Vec::new();
            let mut truth: BTreeMap<u64, u64> = BTreeMap::new();
            for act in acts {
                match act {
                    Act::Call(function) => {
                        let frame = stack.last().map_or(1 << 20, |(_, frame, _)| frame - 16);
                        thread.enter(function, frame);
                        stack.push((function, frame, thread.number));
                    }
                    Act::Return => {
                        if let Some((function, frame, number)) = stack.pop() {
                            thread.leave(function, frame);
                            truth.insert(number, thread.now);
                        }
                    }
                    Act::Throw(n) => stack.truncate(stack.len().saturating_sub(n)),
                    Act::Lose(is_entry) => {
                        thread.tick();
                        if is_entry {
                            let frame = stack.last().map_or(1 << 20, |(_, frame, _)| frame - 16);
                            stack.push((1, frame, thread.number));
                        } else if let Some((_, _, number)) = stack.pop() {
                            truth.insert(number, thread.now);
                        }
                    }
                }
            }
            for one in thread.ended.iter().filter(|one| one.end == End::Answered) {
                prop_assert_eq!(truth.get(&one.call.enter.number), Some(&one.at.0));
            }
            let counts = thread.calls.take_counts();
            prop_assert_eq!(counts.calls, thread.ended.len() as u64 + thread.calls.open().count() as u64);
        }
    }
}
