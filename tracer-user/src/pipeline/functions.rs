//! Calls of probed functions as transactions: what they are called, what they were given and gave, and which request their thread was serving.
//!
//! A thread serves the request whose bytes it received last on a connection where its process is the server, until that is answered. What that was when
//! a call began is certain only when the bytes have been put in order: calls that have ended wait so long. Goroutines move between threads: of their calls
//! only the call around them is told.

use std::{
    borrow::Cow,
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Entry, OpenRequest, Pipeline, Rest, Step};
use crate::{
    event::{ConnId, Data, Direction, FunctionEnter, FunctionFacts, FunctionReturn, Role, Stack, ValueKind},
    metrics::Counter,
    protocol::Operation,
    time::{Anchor, BootTime},
    transaction::{
        Call, CallId, CallStack, Confidence, End, Kind, TimeBasis, Transaction,
        function::{CallCounts, Calls, EndedCall, OpenCall},
        open::Ended,
    },
};

/// Calls that have ended and wait; beyond it the oldest leaves at once, and may lack the request that it belongs to. What a million calls a second make of
/// [`WAIT_WINDOWS`] windows of 20 ms; 65,536 × some 300 bytes.
const MAX_WAITING: usize = 65_536;
/// How long they wait, in windows of the connections' order: bytes wait at most one, and may have come as much too late.
const WAIT_WINDOWS: u64 = 2;
/// Requests of one thread that are remembered: those that it has in flight, and some that were answered just before.
const MAX_SERVED: usize = 8;
/// Threads whose requests are remembered; beyond it all are forgotten, and calls that began before lack theirs.
const MAX_SERVING: usize = 16_384;

/// Threads whose stack waits for the record that it belongs to, which comes right behind it; beyond it all are forgotten, and counted
/// (`functions.stacks_unused`).
const MAX_STACKS: usize = 4_096;

/// What a thread serves or served.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Served {
    id: CallId,
    from: BootTime,
    until: Option<BootTime>,
}

/// The state.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Functions {
    facts: BTreeMap<u32, Arc<FunctionFacts>>,
    calls: Calls,
    /// By end.
    waiting: VecDeque<EndedCall>,
    /// By process and thread, each the newest last.
    serving: BTreeMap<(u32, u32), VecDeque<Served>>,
    /// By process and thread: the stack of the record of this number, which is the next.
    stacks: BTreeMap<(u32, u32), (u64, CallStack)>,
}

impl Functions {
    /// Whether there is anything to do.
    pub(super) fn is_used(&self) -> bool {
        !self.facts.is_empty()
    }

    /// A thread received bytes of a request.
    fn receives(&mut self, pid: u32, tid: u32, id: CallId, at: BootTime) {
        if self.serving.len() >= MAX_SERVING && !self.serving.contains_key(&(pid, tid)) {
            self.serving.clear();
        }
        let served = self.serving.entry((pid, tid)).or_default();
        if served.back().is_some_and(|last| last.id == id) {
            return;
        }
        served.push_back(Served { id, from: at, until: None });
        if served.len() > MAX_SERVED {
            served.pop_front();
        }
    }

    /// A request has ended.
    pub(super) fn answered(&mut self, conn: ConnId, ended: &Ended) {
        let id = CallId { conn, ordinal: ended.open.ordinal };
        for tid in [ended.open.tid, ended.open.tid_last] {
            let served = self.serving.get_mut(&(ended.open.pid, tid)).into_iter().flatten();
            for one in served.filter(|one| one.id == id) {
                one.until.get_or_insert(ended.at);
            }
        }
    }

    /// The request that a thread was serving at an instant, and since when.
    fn request_at(&self, pid: u32, tid: u32, at: BootTime) -> Option<Served> {
        let last = self.serving.get(&(pid, tid))?.iter().rfind(|one| one.from <= at)?;
        last.until.is_none_or(|until| until > at).then_some(*last)
    }

    fn end_process(&mut self, pid: u32, at: BootTime, ended: &mut Vec<EndedCall>) {
        self.calls.end_process(pid, at, ended);
        let threads: Vec<_> = self.serving.range((pid, 0)..=(pid, u32::MAX)).map(|(key, _)| *key).collect();
        threads.into_iter().for_each(|key| drop(self.serving.remove(&key)));
    }

    /// The stack of the record of this number.
    fn stack_of(&mut self, pid: u32, tid: u32, number: u64) -> Option<CallStack> {
        let key = (pid, tid);
        (self.stacks.get(&key)?.0 == number)
            .then(|| self.stacks.remove(&key))
            .flatten()
            .map(|(_, stack)| stack)
    }

    /// Calls that have ended and wait.
    pub(super) fn n_waiting(&self) -> usize {
        self.waiting.len()
    }
}

impl Pipeline {
    pub(super) fn learn_function(&mut self, facts: &FunctionFacts) {
        self.rest.functions.facts.insert(facts.function, Arc::new(facts.clone()));
    }

    pub(super) fn function_enter(&mut self, enter: &FunctionEnter) {
        let functions = &mut self.rest.functions;
        let Some(facts) = functions.facts.get(&enter.function).cloned() else {
            self.rest.metrics.add(Counter::FunctionUnknown, 1);
            return;
        };
        let mut ended = Vec::new();
        functions.calls.enter(enter, &facts, &mut ended);
        if let Some(stack) = functions.stack_of(enter.pid, enter.tid, enter.number) {
            let is_it =
                |one: &EndedCall| one.call.enter.number == enter.number && one.call.enter.tid == enter.tid;
            if let Some(passed) = ended.last_mut().filter(|one| is_it(one)) {
                passed.call.stack = Some(stack);
            } else if !functions.calls.set_stack(enter, &stack) {
                self.rest.metrics.add(Counter::FunctionStackUnused, 1);
            }
        }
        self.rest.take_calls(ended);
    }

    pub(super) fn function_return(&mut self, leave: &FunctionReturn) {
        let mut ended = Vec::new();
        self.rest.functions.calls.leave(leave, &mut ended);
        if let Some(stack) = self.rest.functions.stack_of(leave.pid, leave.tid, leave.number) {
            match ended.last_mut().filter(|one| one.end == End::Answered && one.call.stack.is_none()) {
                Some(one) => one.call.stack = Some(stack),
                None => self.rest.metrics.add(Counter::FunctionStackUnused, 1),
            }
        }
        self.rest.take_calls(ended);
    }

    /// Who called: of the record of its thread that comes next.
    pub(super) fn stack(&mut self, stack: Stack) {
        let Stack { number, pid, tid, frames, end, .. } = stack;
        let stacks = &mut self.rest.functions.stacks;
        let mut unused = 0;
        if stacks.len() >= MAX_STACKS && !stacks.contains_key(&(pid, tid)) {
            unused += stacks.len();
            stacks.clear();
        }
        unused += usize::from(stacks.insert((pid, tid), (number, CallStack { frames, end })).is_some());
        self.rest.metrics.add(Counter::FunctionStackUnused, unused as u64);
    }

    /// Its calls never return.
    pub(super) fn end_calls_of(&mut self, pid: u32, at: BootTime) {
        let mut ended = Vec::new();
        self.rest.functions.end_process(pid, at, &mut ended);
        self.rest.take_calls(ended);
    }

    /// End of the input.
    pub(super) fn end_all_calls(&mut self, at: BootTime) {
        let mut ended = Vec::new();
        self.rest.functions.calls.end_all(at, &mut ended);
        self.rest.take_calls(ended);
        let unused = std::mem::take(&mut self.rest.functions.stacks).len();
        self.rest.metrics.add(Counter::FunctionStackUnused, unused as u64);
        self.rest.release_calls(BootTime(u64::MAX));
    }

    /// Calls in flight.
    pub(super) fn open_calls(&self) -> impl Iterator<Item = &OpenCall> {
        self.rest.functions.calls.open()
    }

    /// What is known of a call at `now`.
    pub(super) fn open_call(&self, open: &OpenCall, now: BootTime, anchor: Anchor) -> OpenRequest {
        let enter = &open.enter;
        let facts = self.rest.functions.facts.get(&enter.function);
        let name = facts.map(|facts| facts.name.as_bytes()).unwrap_or_default();
        let CallId { conn, ordinal } = open.id();
        OpenRequest {
            age_ns: now.0.saturating_sub(enter.time.0),
            step: Step::Waiting,
            kind: Kind::Function,
            role: Role::Unknown,
            service: self.rest.processes.service_of(enter.pid, &enter.comm),
            pid: enter.pid,
            tid: enter.tid,
            comm: enter.comm,
            conn,
            carrier: None,
            ordinal,
            method: "".into(),
            path: Bytes::copy_from_slice(name),
            target: None,
            namespace: None,
            protocol: "",
            start: anchor.wall(enter.time),
            request_end: None,
            response_start: None,
            queue_ns: None,
            status_code: None,
            bytes: [0; 2],
            messages: [None; 2],
            tuple: Default::default(),
            unix_path: Bytes::new(),
            tls: None,
            trace_id: None,
            network: None,
            confidence: Confidence::Complete,
            time_basis: TimeBasis::EntryExit,
        }
    }
}

impl Rest {
    /// A thread received bytes: of which request?
    pub(super) fn note_served(&mut self, entry: &Entry, data: &Data) {
        if data.direction() != Direction::Ingress || entry.exchange.role() != Role::Server {
            return;
        }
        let is_its = |tid: u32, pid: u32| tid == data.tid && pid == data.pid;
        let open = entry
            .exchange
            .open()
            .filter(|open| is_its(open.tid, open.pid) || is_its(open.tid_last, open.pid))
            .max_by_key(|open| open.ordinal);
        if let Some(open) = open {
            let id = CallId { conn: entry.conn.id, ordinal: open.ordinal };
            self.functions.receives(data.pid, data.tid, id, data.time);
        }
    }

    /// Calls have ended.
    fn take_calls(&mut self, ended: Vec<EndedCall>) {
        let CallCounts { calls, unwound, doubtful, blind, unpaired, too_deep, no_stack, late, missing } =
            self.functions.calls.take_counts();
        for (counter, n) in [
            (Counter::FunctionCalls, calls),
            (Counter::FunctionUnwound, unwound),
            (Counter::FunctionDoubtful, doubtful),
            (Counter::FunctionBlind, blind),
            (Counter::FunctionUnpaired, unpaired),
            (Counter::FunctionDepth, too_deep),
            (Counter::FunctionThreads, no_stack),
            (Counter::FunctionLate, late),
            (Counter::FunctionMissing, missing),
        ] {
            self.metrics.add(counter, n);
        }
        for call in ended {
            self.functions.waiting.push_back(call);
        }
        while self.functions.waiting.len() > MAX_WAITING {
            if let Some(call) = self.functions.waiting.pop_front() {
                self.emit_call(call);
            }
        }
    }

    /// Calls that have waited long enough leave.
    pub(super) fn release_calls(&mut self, now: BootTime) {
        let wait = self.config.reorder_window_ns.saturating_mul(WAIT_WINDOWS);
        while let Some(call) =
            self.functions.waiting.pop_front_if(|call| call.at.0.saturating_add(wait) <= now.0)
        {
            self.emit_call(call);
        }
    }

    fn emit_call(&mut self, ended: EndedCall) {
        let EndedCall { call, end, at, returned, parent } = ended;
        let OpenCall { enter, inner_ns, stack, .. } = &call;
        let Some(facts) = self.functions.facts.get(&enter.function).cloned() else { return };
        let request = match enter.goroutine {
            0 => self.functions.request_at(enter.pid, enter.tid, enter.time),
            _ => None,
        };
        // What began last is what it is in.
        let parent = match (parent, &request) {
            (Some((_, since)), Some(request)) if request.from > since => Some(request.id),
            (Some((id, _)), _) => Some(id),
            (None, request) => request.map(|request| request.id),
        };
        let took = at.signed_since(enter.time);
        let stack = self.call_stack(&facts, stack.clone(), took, end);
        let (epoch, anchor) = self.state.line.at(at);
        let CallId { conn, ordinal } = call.id();
        let service = self.processes.service(enter.pid, &enter.comm);
        let transaction = Transaction {
            start_time: anchor.wall(enter.time),
            end_time: anchor.wall(at),
            duration_ns: took,
            time_basis: TimeBasis::EntryExit,
            kind: Kind::Function,
            role: Role::Unknown,
            pid: enter.pid,
            tid: enter.tid,
            comm: self.processes.name(&enter.comm),
            service,
            call: Some(Arc::new(Call {
                function: facts.place.clone(),
                arguments: arguments(&facts, enter).into(),
                returned: returned
                    .zip(facts.returned)
                    .map(|((value, text), kind)| json(kind, value, text.as_deref()).into()),
                parent,
                root: request.map(|request| request.id),
                self_ns: u64::try_from(took).unwrap_or(0).saturating_sub(*inner_ns),
                stack,
            })),
            end,
            conn,
            ordinal,
            ..Transaction::default()
        };
        if !facts.is_mark {
            self.count(&transaction);
        }
        let operation = Operation::Fixed(Cow::Owned((*facts.name).to_owned()));
        self.watermark.push(epoch, transaction, operation);
    }

    /// The stack of a call that has ended. Of a call that did not take as long as those of which the stack was asked for there is none: the kernel
    /// takes two functions of which one jumps to the other for one.
    fn call_stack(
        &self,
        facts: &FunctionFacts,
        stack: Option<CallStack>,
        took: i64,
        end: End,
    ) -> Option<CallStack> {
        let is_wanted = match facts.stack_ns {
            None => false,
            Some(0) => true,
            // Its end is seen at its return alone.
            Some(ns) => end == End::Answered && u64::try_from(took).is_ok_and(|took| took >= ns),
        };
        let counter = match (&stack, is_wanted) {
            (Some(_), true) => Counter::FunctionStacks,
            (Some(_), false) => Counter::FunctionStackUnused,
            (None, true) => Counter::FunctionStackMissing,
            (None, false) => return None,
        };
        self.metrics.add(counter, 1);
        stack.filter(|_| is_wanted)
    }
}

/// The arguments of a call, as a JSON array.
fn arguments(facts: &FunctionFacts, enter: &FunctionEnter) -> String {
    let mut out = vec![b'['];
    for (i, argument) in facts.arguments.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        let text = match argument.kind {
            ValueKind::Text(at) => enter.texts.get(usize::from(at)).and_then(|text| text.as_deref()),
            _ => None,
        };
        let at = usize::from(argument.register);
        match enter.registers.get(at) {
            Some(register) if enter.unread >> at & 1 == 0 => {
                argument.kind.push_json(&mut out, *register, text)
            }
            // It could not be read, or is in none.
            _ => out.extend_from_slice(b"null"),
        }
    }
    out.push(b']');
    String::from_utf8_lossy(&out).into_owned()
}

fn json(kind: ValueKind, value: u64, text: Option<&[u8]>) -> String {
    let mut out = Vec::new();
    kind.push_json(&mut out, value, text);
    String::from_utf8_lossy(&out).into_owned()
}
