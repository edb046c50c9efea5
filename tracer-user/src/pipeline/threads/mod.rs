//! Which thread serves which request, what it does meanwhile, and whom it asks.
//!
//! A thread serves the requests whose first bytes it received, on connections where its process is the server, until they have ended. Its time is cut where
//! it moves bytes and where it leaves a CPU; each stretch belongs to the request for which it received something last (its owner), and is added up
//! there and then, so that a request costs the same whatever happens meanwhile. A request of which the thread is not the owner waits: for the
//! answers of others, for its own to be taken, for events, or for the thread itself.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};
use tracer_ebpf as abi;

pub(super) use self::served::Unit;
use self::stacks::Late;
use super::{
    goroutines::Goroutines,
    manners::Manners,
    received::{Next, Received},
    sends::Sends,
};
use crate::{
    config::WAIT_STACK_NS,
    event::{ConnId, Data, Direction, OffCpu},
    metrics::{Counter, Metrics},
    time::BootTime,
    transaction::{
        CallId, CallStack, End, Kind, ProtocolName,
        anatomy::{
            Anatomy, CALLS, CallSum, Causes, Link, LinkMethod, Lock, Reason, SENDING, is_send, of_reason,
            reason,
        },
        open::{Ended, Open},
        profile::{Seen, Watch},
        stacks::{StackPart, StackSum},
    },
};

mod profile;
mod served;
mod stacks;

/// Threads that are known; beyond it those that serve nothing are forgotten, and then all (`anatomy.forgotten`).
const MAX_THREADS: usize = 16_384;
/// Requests in flight of which this is known; more are without (`anatomy.forgotten`). As many as connections are tracked.
const MAX_SERVING: usize = 65_536;
/// Number of a request of which the first bytes have come, and nothing is known but that.
const READING: u64 = u64::MAX;
/// Requests of one connection that are looked at when bytes move on it: streams beside each other.
const MAX_LOOKED_AT: usize = 64;

/// A thread that serves.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Thread {
    /// Up to when its time is known.
    last: BootTime,
    /// Number of its last time off the CPU.
    number: u32,
    /// Its time within system calls by then.
    kernel_ns: u64,
    /// What it has received and is not answered, the oldest first.
    open: Vec<CallId>,
    /// For which it works.
    owner: Option<CallId>,
    /// What it did, added up: for events, for nothing known, for all else.
    idle_ns: u64,
    unknown_ns: u64,
    busy_ns: u64,
    /// What it did since it last waited for events, and nobody's yet: that of the request for which it receives next.
    pending: Spent,
    pending_since: BootTime,
    /// For which it worked before, and until when.
    before: Option<(CallId, BootTime)>,
    /// Its last wait that is long enough to have a stack.
    waited: Option<Waited>,
    /// The stack of the wait that comes next.
    stack: Option<Early>,
}

/// A stack that is told before its wait.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Early {
    number: u64,
    stack: CallStack,
    is_kept: bool,
}

/// A time off the CPU that was waiting.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Waited {
    number: u32,
    ns: u64,
    reason: Reason,
    of: Option<CallId>,
}

/// Time on a CPU and waiting for one.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Spent {
    user_ns: u64,
    kernel_ns: u64,
    runq_ns: u64,
}

impl Spent {
    fn whole(self) -> u64 {
        self.user_ns + self.kernel_ns + self.runq_ns
    }
}

/// What a request waits for while its thread does not work for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
enum Mode {
    /// Its thread.
    #[default]
    Waiting,
    /// The peer, which takes the answer.
    Sending,
}

/// A request that is being served.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Served {
    thread: (u32, u32),
    /// From when on its thread's time is added up.
    since: BootTime,
    /// What of it is known.
    parts: Anatomy,
    mode: Mode,
    /// Calls that are not answered.
    n_asked: u32,
    /// Whether that one of them is its own is a guess.
    asks_guessed: bool,
    /// What its thread had done when that was last looked at, for events, for nothing known, for all else.
    base: [u64; 3],
    /// What it did for this request since.
    owned_ns: u64,
    /// The parts when bytes of its answer last moved.
    answered: Option<(BootTime, Anatomy)>,
    /// Its thread was followed when it began.
    is_followed: bool,
    /// Another thread moved bytes of its answer.
    is_handed_over: bool,
    calls: Vec<CallSum>,
    stacks: Vec<StackSum>,
    locks: Vec<Lock>,
    /// All of its stacks are kept, whatever becomes of it.
    keeps: bool,
    /// The goroutine that serves it. Apart as well.
    #[serde(skip)]
    unit: Unit,
}

/// The state.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Threads {
    threads: BTreeMap<(u32, u32), Thread>,
    served: BTreeMap<CallId, Served>,
    /// Calls in flight, and what they are made for.
    asked: BTreeMap<CallId, Link>,
    /// Stacks of all requests that are served.
    n_stacks: usize,
    /// Who moved bytes last, where, and when.
    mover: ((u32, u32), ConnId, BootTime),
    /// How sure what threads say is. What checkpoints hold apart.
    #[serde(skip)]
    manners: Manners,
    /// Whose turn it is on each thread. Apart as well.
    #[serde(skip)]
    received: Received,
    /// Waits in calls that send. Apart as well.
    #[serde(skip)]
    sends: Sends,
    /// What the thread that moves bytes had waited in the call that has moved them, and for which request.
    #[serde(skip)]
    sent: Option<(CallId, u64)>,
    /// Which goroutine serves what. Apart as well.
    #[serde(skip)]
    goroutines: Goroutines,
    /// The request whose steps are kept: somebody looks at it again.
    #[serde(skip)]
    watch: Option<Box<Watch>>,
}

impl Thread {
    /// A stretch on a CPU ends.
    fn ran(&mut self, until: BootTime, kernel_ns: u64, served: &mut BTreeMap<CallId, Served>) {
        let whole = until.0.saturating_sub(self.last.0);
        let kernel = kernel_ns.saturating_sub(self.kernel_ns).min(whole);
        self.kernel_ns = kernel_ns;
        let from = self.last;
        self.last = from.max(until);
        self.spend(Spent { user_ns: whole - kernel, kernel_ns: kernel, runq_ns: 0 }, from, served);
    }

    /// A stretch that began at `from`.
    fn spend(&mut self, spent: Spent, from: BootTime, served: &mut BTreeMap<CallId, Served>) {
        match self.owner.and_then(|id| served.get_mut(&id)) {
            Some(request) => {
                self.busy_ns += spent.whole();
                request.spend(spent, from, self.open.len() > 1);
            }
            None => {
                self.pending.user_ns += spent.user_ns;
                self.pending.kernel_ns += spent.kernel_ns;
                self.pending.runq_ns += spent.runq_ns;
            }
        }
    }

    /// Nothing is known of a stretch.
    fn lost(&mut self, until: BootTime) {
        self.unknown_ns += until.0.saturating_sub(self.last.0);
        self.last = self.last.max(until);
        self.forget_pending();
    }

    fn forget_pending(&mut self) {
        self.busy_ns += std::mem::take(&mut self.pending).whole();
        self.pending_since = self.last;
    }

    /// It has waited since the end of what is known of it.
    fn waited(&mut self, ns: u64, reason: Reason, served: &mut BTreeMap<CallId, Served>) {
        if reason == Reason::Poll && (self.open.len() != 1 || self.owner.is_none()) {
            // For whom shows when it receives something.
            self.idle_ns += ns;
            self.owner = None;
            self.forget_pending();
            return;
        }
        self.busy_ns += ns;
        match self.owner.and_then(|id| served.get_mut(&id)) {
            Some(request) if request.unit.leaves(reason) => {
                self.owner = None;
                self.forget_pending();
            }
            Some(request) => {
                request.wait(ns, reason, self.last, self.open.len() > 1);
                request.owned_ns += ns;
            }
            // It waits for a lock or a disk before it receives: that is the business of all.
            None => self.forget_pending(),
        }
    }

    /// It works for a request from now on, and did so since it last waited for events.
    fn owned_by(&mut self, id: Option<CallId>, served: &mut BTreeMap<CallId, Served>) {
        if self.owner.is_none()
            && let Some(request) = id.and_then(|id| served.get_mut(&id))
            && request.since <= self.pending_since
            && (!request.unit.is_known || self.open.len() == 1)
        {
            request.spend(self.pending, self.pending_since, self.open.len() > 1);
        }
        if id != self.owner {
            self.before = self.owner.map(|owner| (owner, self.last)).or(self.before);
            self.owner = id;
            self.forget_pending();
        }
    }

    /// For which it worked at an instant that is not long past.
    fn owner_at(&self, at: BootTime) -> Option<CallId> {
        self.before.filter(|(_, until)| at <= *until).map(|(id, _)| id).or(self.owner)
    }

    fn sums(&self) -> [u64; 3] {
        [self.idle_ns, self.unknown_ns, self.busy_ns]
    }
}

impl Threads {
    /// Bytes moved: a thread's time is known up to here.
    pub(super) fn moved(&mut self, data: &Data) {
        self.mover = ((data.pid, data.tid), data.conn, data.time);
        self.sent = None;
        let Some(thread) = self.threads.get_mut(&(data.pid, data.tid)) else { return };
        if data.time < thread.last || data.off_cpu < thread.number {
            // A sum, told when more has happened.
            return;
        }
        let sent = self.sends.ended((data.pid, data.tid));
        if data.off_cpu == 0 || data.off_cpu != thread.number {
            thread.lost(data.time);
            (thread.number, thread.kernel_ns) = (data.off_cpu, data.kernel_ns);
        } else {
            thread.ran(data.time, data.kernel_ns, &mut self.served);
            self.sent = sent.filter(|_| data.direction() == Direction::Egress);
        }
    }

    /// What the thread had waited in the call that has moved these bytes for a request is this part of its time (`is_guess`: which request's is a guess).
    fn sent(&mut self, id: CallId, part: usize, is_guess: bool) {
        if let Some((_, ns)) = self.sent.take_if(|(of, _)| *of == id)
            && let Some(Served { parts, .. }) = self.served.get_mut(&id)
        {
            parts.take_over(of_reason(Reason::Network), part, ns, is_guess);
        }
    }

    /// A thread runs again.
    pub(super) fn off_cpu(&mut self, off: &OffCpu, metrics: &Metrics) {
        self.runs_again(off, metrics);
        if self.watch.is_some() {
            self.seen(off.time, Seen::waited(off));
        }
    }

    fn runs_again(&mut self, off: &OffCpu, metrics: &Metrics) {
        let Some(thread) = self.threads.get_mut(&(off.pid, off.tid)) else { return };
        if off.time < thread.last || off.number <= thread.number {
            return;
        }
        if !thread.open.is_empty() {
            self.manners.waited(off);
            if reason(off) == Some(Reason::Poll) {
                self.received.idle((off.pid, off.tid));
            }
        }
        let is_next = off.number == thread.number + 1 && off.out >= thread.last && off.out <= off.time;
        thread.number = off.number;
        if !is_next {
            thread.lost(off.time);
            thread.kernel_ns = off.kernel_ns;
            self.sends.ended((off.pid, off.tid));
            return;
        }
        thread.ran(off.out, off.kernel_ns, &mut self.served);
        let woken = if off.wake.0 == 0 { off.time } else { off.wake.clamp(off.out, off.time) };
        let (of, mut lock) = (thread.owner, None);
        if let Some(reason) = reason(off) {
            let ns = woken.0 - off.out.0;
            thread.waited(ns, reason, &mut self.served);
            thread.last = woken;
            if ns >= WAIT_STACK_NS {
                thread.waited = Some(Waited { number: off.number, ns, reason, of });
            }
            // Otherwise it is told as what it is.
            let is_untold = |served: &Served| served.mode == Mode::Waiting && served.n_asked == 0;
            match of.filter(|id| is_send(off) && self.served.get(id).is_some_and(is_untold)) {
                Some(of) => {
                    let n_forgotten = self.sends.waited((off.pid, off.tid), of, ns);
                    metrics.add(Counter::AnatomyForgotten, n_forgotten as u64);
                }
                None => drop(self.sends.ended((off.pid, off.tid))),
            }
            lock = of.filter(|_| reason == Reason::Futex).map(|of| (of, ns));
        }
        let runq_ns = off.time.0 - thread.last.0;
        let from = std::mem::replace(&mut thread.last, off.time);
        thread.spend(Spent { runq_ns, ..Spent::default() }, from, &mut self.served);
        let (early, waited) = (thread.stack.take(), thread.waited);
        if let Some((of, ns)) = lock {
            let waker = Some(off.waker).filter(|tid| *tid != 0 && off.has(abi::OFF_FLAG_FUTEX_WAKE));
            let by = waker.and_then(|tid| self.threads.get(&(off.pid, tid))?.owner_at(woken));
            if let Some(served) = self.served.get_mut(&of) {
                Lock::add(&mut served.locks, off.argument, waker, by.filter(|by| *by != of), ns);
            }
        }
        let Some(early) = early else { return };
        match waited {
            Some(Waited { number, ns, reason, of: Some(of) }) if u64::from(number) == early.number => {
                let Early { stack, is_kept, .. } = early;
                let late = Late { of, part: StackPart::Off(reason), ns, stack, is_kept };
                let is_late = self.add_stack(late, metrics).is_some();
                metrics.add(Counter::StacksUnowned, u64::from(is_late));
            }
            _ => metrics.add(Counter::StacksUnowned, 1),
        }
    }

    /// A request is not served any more.
    fn take_served(&mut self, id: &CallId) -> Option<Served> {
        let served = self.served.remove(id)?;
        self.goroutines.ended(id);
        self.n_stacks = self.n_stacks.saturating_sub(served.stacks.len());
        Some(served)
    }

    /// What came of bytes that a server received or sent. `goroutine`: who moved them, if that says for whom it acts.
    pub(super) fn serves<'a>(
        &mut self,
        conn: ConnId,
        data: &Data,
        goroutine: u32,
        open: impl Iterator<Item = &'a Open>,
        metrics: &Metrics,
    ) {
        let key = (data.pid, data.tid);
        let mut first = None;
        if data.direction() == Direction::Egress {
            self.drop_reading(conn);
        }
        self.unit_acts((data.pid, goroutine), key, data.time);
        let reading = self.served.get(&CallId { conn, ordinal: READING }).map(|one| one.since);
        let mut is_nothing = true;
        for open in open.take(MAX_LOOKED_AT) {
            let id = CallId { conn, ordinal: open.ordinal };
            let is_oldest = std::mem::take(&mut is_nothing);
            match data.direction() {
                Direction::Ingress => {
                    let begins = open.start == data.time || open.start == data.first;
                    if !is_oldest && !begins && reading != Some(open.start) {
                        // One of many streams, known since it began.
                        continue;
                    }
                    if !self.served.contains_key(&id) {
                        if !self.is_read(id, open) && !self.begin(id, (open.pid, open.tid), data, metrics) {
                            continue;
                        }
                        if open.kind == Kind::Request {
                            // It has received what was missing of the head. Of the rest anyone may receive something.
                            let is_known = self.goroutines.begins((data.pid, goroutine), id);
                            if let Some(served) = self.served.get_mut(&id) {
                                served.unit.is_known = is_known;
                            }
                        }
                        if let (Some(trace_id), Some(served)) = (&open.more.trace_id, self.served.get(&id)) {
                            self.manners.carries(served.thread.0, trace_id, id, metrics);
                        }
                    }
                    // The oldest that this thread has received, or the one that begins.
                    let is_new = open.start == data.time;
                    if self.served.get(&id).is_some_and(|served| served.thread == key)
                        && (first.is_none() || is_new)
                    {
                        first = Some(id);
                    }
                }
                Direction::Egress if open.response_start.or(open.interim).is_none() => {}
                Direction::Egress => self.answers(id, data),
            }
        }
        if is_nothing && data.direction() == Direction::Ingress {
            let id = CallId { conn, ordinal: READING };
            if self.served.contains_key(&id) || self.begin(id, key, data, metrics) {
                first = Some(id).filter(|id| self.served.get(id).is_some_and(|one| one.thread == key));
            }
        }
        if let Some(thread) = self.threads.get_mut(&key)
            && data.direction() == Direction::Ingress
            && first.is_some()
        {
            thread.owned_by(first, &mut self.served);
            self.received.got(key, first);
        }
        if self.watch.as_ref().is_some_and(|watch| watch.id.conn == conn) {
            self.seen(data.time, Seen::Moved { direction: data.direction(), bytes: data.bytes });
        }
    }

    /// A request is known by now whose first bytes have come before.
    fn is_read(&mut self, id: CallId, open: &Open) -> bool {
        let reading = CallId { ordinal: READING, ..id };
        if self.served.get(&reading).is_none_or(|one| one.since != open.start) {
            return false;
        }
        if let Some(served) = self.served.remove(&reading) {
            if let Some(thread) = self.threads.get_mut(&served.thread) {
                let of_thread = thread.open.iter_mut().chain(&mut thread.owner);
                of_thread.filter(|other| **other == reading).for_each(|other| *other = id);
            }
            self.served.insert(id, served);
        }
        true
    }

    /// What has come of a connection was no request, or is none any more.
    pub(super) fn drop_reading(&mut self, conn: ConnId) {
        let id = CallId { conn, ordinal: READING };
        let Some(served) = self.take_served(&id) else { return };
        self.manners.end(served.thread.0, false);
        if let Some(thread) = self.threads.get_mut(&served.thread) {
            thread.open.retain(|other| *other != id);
            if thread.owner == Some(id) {
                thread.owned_by(None, &mut self.served);
            }
        }
    }

    /// A request begins to be served.
    fn begin(&mut self, id: CallId, key: (u32, u32), data: &Data, metrics: &Metrics) -> bool {
        if self.served.len() >= MAX_SERVING || key.0 == 0 {
            metrics.add(Counter::AnatomyForgotten, u64::from(key.0 != 0));
            return false;
        }
        if self.threads.len() >= MAX_THREADS && !self.threads.contains_key(&key) {
            self.threads.retain(|_, thread| !thread.open.is_empty());
            if self.threads.len() >= MAX_THREADS {
                metrics.add(Counter::AnatomyForgotten, 1);
                return false;
            }
        }
        let own = key == (data.pid, data.tid);
        let thread = self.threads.entry(key).or_insert_with(|| Thread {
            last: data.time,
            number: if own { data.off_cpu } else { 0 },
            kernel_ns: if own { data.kernel_ns } else { 0 },
            ..Thread::default()
        });
        if thread.open.is_empty() {
            // What it did meanwhile is nobody's.
            thread.owner = None;
            self.received.idle(key);
            thread.last = thread.last.max(data.time);
            if own {
                (thread.number, thread.kernel_ns) = (data.off_cpu, data.kernel_ns);
            }
            thread.forget_pending();
        }
        if thread.owner.is_none() {
            // What it did before it received this is not this one's.
            thread.forget_pending();
        }
        let is_shared = !thread.open.is_empty();
        let served = Served {
            thread: key,
            since: data.time,
            is_followed: own && data.off_cpu != 0,
            base: thread.sums(),
            parts: Anatomy { is_shared, ..Anatomy::default() },
            ..Served::default()
        };
        self.manners.begin(key.0);
        if thread.open.iter().any(|other| other.conn != id.conn) {
            self.manners.mixed(key.0);
        }
        for other in &thread.open {
            if let Some(other) = self.served.get_mut(other) {
                other.parts.is_shared = true;
            }
        }
        thread.open.push(id);
        self.served.insert(id, served);
        true
    }

    /// Bytes of an answer moved, perhaps of this request's.
    fn answers(&mut self, id: CallId, data: &Data) {
        self.sent(id, SENDING, false);
        let Some(served) = self.served.get_mut(&id) else { return };
        self.received.acted((data.pid, data.tid), id);
        if served.thread != (data.pid, data.tid) {
            served.is_handed_over = true;
            self.manners.mixed(data.pid);
            self.manners.mixed(served.thread.0);
        }
        let thread = self.threads.get(&served.thread);
        if thread.map_or(served.unit.is_known, |thread| thread.last <= data.time) {
            if let Some(thread) = thread {
                served.look(thread);
            }
            served.answered = Some((data.time, served.parts));
        }
        served.mode = Mode::Sending;
    }

    /// What a thread asks for now is for, as far as the thread says.
    fn serves_now(&mut self, key: (u32, u32)) -> Option<Link> {
        // One that serves nothing may go on with what another has begun (Go).
        let thread = self.threads.get(&key);
        let sole = thread.filter(|thread| thread.open.len() == 1).map(|thread| thread.open[0]);
        let parent = match self.received.next(key, |id| self.served.contains_key(id)) {
            Next::One(id) => id,
            Next::Nobody => return None,
            Next::Unknown => thread?.owner.or(sole)?,
        };
        let is_followed = self.served.get(&parent).is_some_and(|served| served.is_followed);
        let is_sure = sole == Some(parent) && is_followed && self.manners.is_believed(key.0);
        Some(Link { parent, method: if is_sure { LinkMethod::Thread } else { LinkMethod::Order } })
    }

    /// A thread sent bytes as a client: what it asks for, it asks for the request that it serves.
    pub(super) fn asks<'a>(
        &mut self,
        conn: ConnId,
        data: &Data,
        open: impl Iterator<Item = &'a Open>,
        metrics: &Metrics,
    ) {
        let key = (data.pid, data.tid);
        match data.direction() {
            Direction::Egress => {
                let is_known = self.threads.contains_key(&key) || self.received.is_known(key);
                let by_goroutine = self.goroutines.serves((data.pid, data.goroutine));
                if !is_known && self.manners.is_untraced() && by_goroutine.is_none() {
                    return;
                }
                let by_goroutine = by_goroutine.map(|parent| Link { parent, method: LinkMethod::Goroutine });
                let newest = open.filter(|open| open.start >= data.first.min(data.time)).take(MAX_LOOKED_AT);
                for open in newest.filter(|open| (open.pid, open.tid) == key) {
                    let id = CallId { conn, ordinal: open.ordinal };
                    if self.asked.contains_key(&id) {
                        continue;
                    }
                    let by_thread = by_goroutine.or_else(|| self.serves_now(key));
                    let link = self.manners.link(key.0, open, by_thread, metrics);
                    match link {
                        Some(Link { parent, method: LinkMethod::Header | LinkMethod::Goroutine }) => {
                            self.received.acted(key, parent);
                        }
                        _ => self.received.asked(key),
                    }
                    // What comes later than it, it was not made for: at the end of a run the order is anyone's.
                    let began = |link: &Link| self.served.get(&link.parent).map(|served| served.since);
                    let Some(link) = link.filter(|link| began(link).is_some_and(|since| since <= open.start))
                    else {
                        continue;
                    };
                    if self.asked.len() >= MAX_SERVING {
                        metrics.add(Counter::AnatomyForgotten, 1);
                    } else {
                        self.asked.insert(id, link);
                        self.sent(link.parent, CALLS, !link.method.is_sure());
                        if link.method == LinkMethod::Goroutine {
                            self.unit_acts((data.pid, data.goroutine), key, data.time);
                            self.unit_asks(link.parent, open.start);
                            continue;
                        }
                        // What its own thread does not ask, it does not wait for.
                        if let Some(served) = self.served.get_mut(&link.parent)
                            && served.thread == key
                            && let Some(thread) = self.threads.get(&key)
                        {
                            served.look(thread);
                            served.n_asked += 1;
                            served.asks_guessed |= !link.method.is_sure();
                        }
                    }
                }
            }
            Direction::Ingress => {
                self.unit_acts((data.pid, data.goroutine), key, data.time);
                // What comes is for the one that asked.
                let Some(oldest) = open.take(1).next() else { return };
                if (oldest.pid, oldest.tid) != key {
                    // Others answer for it.
                    self.manners.mixed(oldest.pid);
                }
                let parent =
                    self.asked.get(&CallId { conn, ordinal: oldest.ordinal }).map(|link| link.parent);
                let thread = self.threads.get_mut(&key);
                let is_serving = thread.is_some();
                if let Some(thread) = thread.filter(|_| parent.is_some()) {
                    thread.owned_by(parent, &mut self.served);
                }
                let whose = parent.filter(|id| self.served.contains_key(id));
                self.received.heard(key, whose, is_serving);
            }
        }
    }

    /// A call has ended: what it was made for.
    pub(super) fn asked(
        &mut self,
        conn: ConnId,
        ended: &Ended,
        kind: ProtocolName,
        peer: impl FnOnce() -> Arc<str>,
    ) -> Option<Link> {
        let link = self.asked.remove(&CallId { conn, ordinal: ended.open.ordinal });
        let (mover, of, then) = self.mover;
        if (of, then) == (conn, ended.at) {
            let whose = link.map(|link| link.parent).filter(|id| self.served.contains_key(id));
            self.received.heard(mover, whose, self.threads.contains_key(&mover));
        }
        let link = link?;
        if ended.end == End::TracerStopped {
            // Of those that are in flight at the end of a run the order is anyone's.
            return Some(link);
        }
        if let Some(served) = self.served.get_mut(&link.parent)
            && let Some(thread) = self.threads.get_mut(&served.thread)
        {
            served.look(thread);
            // The thread that waited for it goes on with what it asked for.
            if thread.last == ended.at {
                thread.owned_by(Some(link.parent), &mut self.served);
            }
        }
        if let Some(served) = self.served.get_mut(&link.parent) {
            if link.method == LinkMethod::Goroutine {
                served.is_told(ended.at);
            } else {
                let is_own = served.thread == (ended.open.pid, ended.open.tid);
                served.n_asked = served.n_asked.saturating_sub(u32::from(is_own));
                served.asks_guessed &= served.n_asked > 0;
            }
            let ns = ended.at.0.saturating_sub(ended.open.start.0);
            CallSum::add(&mut served.calls, kind, peer(), ns);
        }
        Some(link)
    }

    /// A request has ended: where its time went, and whether its stacks are kept whatever it was.
    pub(super) fn ended(&mut self, conn: ConnId, ended: &Ended, metrics: &Metrics) -> (Causes, bool) {
        let id = CallId { conn, ordinal: ended.open.ordinal };
        self.is_read(id, &ended.open);
        let Some(key) = self.served.get(&id).map(|served| served.thread) else { return Default::default() };
        if let Some(thread) = self.threads.get_mut(&key)
            && thread.owner.is_none()
            && thread.last == ended.at
            && ended.end == End::Answered
        {
            // It has just answered, and had received nothing since it last waited for events: a timer was due.
            thread.owned_by(Some(id), &mut self.served);
        }
        let (mover, of, then) = self.mover;
        if (of, then) == (conn, ended.at) && mover == key {
            self.sent(id, SENDING, false);
        }
        let Some(mut served) = self.take_served(&id) else { return Default::default() };
        served.is_handed_over |= (of, then) == (conn, ended.at) && mover != served.thread;
        if let Some(trace_id) = &ended.open.more.trace_id {
            self.manners.carried(key.0, trace_id, id);
        }
        if served.is_handed_over {
            self.manners.mixed(key.0);
        }
        if (of, then) == (conn, ended.at) {
            self.received.acted(mover, id);
        }
        let is_clean = served.is_followed && !served.parts.is_shared && ended.end == End::Answered;
        let is_clean = is_clean && !served.unit.has_moved;
        self.manners.end(key.0, is_clean && !served.is_handed_over);
        let thread = self.threads.get_mut(&served.thread);
        let duration_ns = ended.at.0.saturating_sub(ended.open.start.0);
        let anatomy = served.anatomy(thread.as_deref(), ended.at, duration_ns);
        metrics.add(Counter::AnatomyInconsistent, u64::from(anatomy.is_none()));
        if let Some(thread) = thread {
            thread.open.retain(|other| *other != id);
            // As above.
            if thread.owner == Some(id) && ended.end != End::TracerStopped {
                // It goes on with the next of the same connection, or with the only one that is left.
                let next = thread.open.iter().find(|other| other.conn == conn).copied();
                let sole = (thread.open.len() == 1).then(|| thread.open[0]);
                thread.owned_by(next.or(sole), &mut self.served);
            }
        }
        let anatomy = anatomy.unwrap_or(Anatomy { unattributed_ns: duration_ns, ..Anatomy::default() });
        self.seen_end(id, served.since, ended.at, &anatomy);
        let anatomy = Some(anatomy).filter(|_| served.is_followed);
        let Served { calls, stacks, locks, keeps, .. } = served;
        (Causes { anatomy, calls, stacks, locks, link: None }, keeps)
    }

    /// A process has ended, and all its threads with it.
    pub(super) fn end_process(&mut self, pid: u32) {
        let gone: Vec<_> = self.threads.range((pid, 0)..=(pid, u32::MAX)).map(|(key, _)| *key).collect();
        for key in gone {
            self.threads.remove(&key);
        }
        self.manners.end_process(pid);
        self.received.end_process(pid);
        self.goroutines.end_process(pid);
    }

    /// What a checkpoint holds apart.
    pub(super) fn more(&self) -> (&Manners, &Received) {
        (&self.manners, &self.received)
    }

    /// The same, since it is known.
    pub(super) fn sends(&self) -> &Sends {
        &self.sends
    }

    /// The same.
    pub(super) fn goroutines(&self) -> &Goroutines {
        &self.goroutines
    }

    /// Takes it over.
    pub(super) fn restore_more(
        &mut self,
        (manners, received): (Manners, Received),
        sends: Sends,
        goroutines: Goroutines,
    ) {
        (self.manners, self.received) = (manners, received);
        (self.sends, self.goroutines) = (sends, goroutines);
    }
}
