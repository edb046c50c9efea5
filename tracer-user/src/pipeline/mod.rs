//! The pipeline: the one place that composes connections, protocols, pairing, enrichment and the watermark.
//!
//! Live capture, replay and the synthetic generator push events into the same [`Pipeline`]; transactions leave it
//! behind the watermark. It asks the machine nothing and reads no clock: what it computes is a function of the events.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use tracer_ebpf as abi;

pub use self::age::AgeSteps;
pub use crate::conn::turns::LostRequests;
use crate::{
    conn::{
        connection::{Connection, MAX_HELD_EVENTS},
        order::{self, Order},
        role::ListeningSet,
        stream::Place,
        tracker::Tracker,
    },
    enrich::table::ProcessTable,
    event::{ConnClose, ConnId, ConnOpen, Counters, Data, Direction, Event, EventBatch, Role, StackKind},
    metrics::{Counter, Metrics},
    protocol::Mark,
    time::{BootTime, WallTime},
    transaction::{
        End, TransactionBatch, Unpaired,
        exchange::Exchange,
        finish::Ends,
        open::Effects,
        template::Templates,
        watermark::{WallLine, Watermark},
    },
};

/// Bounds and delays. The same configuration and the same events give the same transactions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PipelineConfig {
    /// Connections tracked at once; beyond it the one that was idle longest is forgotten (`lost.tracker_full`).
    /// 65,536 as the kernel's own map.
    pub max_conns: usize,
    /// Requests in flight on one connection; beyond it the oldest is given up (`lost.in_flight_full`). 1,024: above
    /// any pipeline depth or HTTP/2 stream limit in use.
    pub max_in_flight_per_conn: usize,
    /// How long all events wait for earlier ones. What comes later than that is put in order by its connection, or is lost where that has
    /// gone on (`lost.late`). 20 ms, as below. Verdicts wait as long.
    pub order_window_ns: u64,
    /// How far apart in time two records of one connection may come in the wrong order. 20 ms: records of one
    /// connection are written by threads that may be preempted between hook and submission.
    pub reorder_window_ns: u64,
    /// Bytes that one direction of a connection may hold back while it waits for an earlier position or for the rest
    /// of a message. 1 MiB: above the largest head a parser accepts.
    pub max_held_bytes: usize,
    /// How far the watermark stays behind the newest event. 500 ms: above the reorder window and the 250 ms after which
    /// a summed event is read at the latest.
    pub watermark_lag_ns: u64,
    /// In flight longer than this (event time) is `stuck`. 300 s, Scouter's bound for a dead request.
    pub stuck_after_ns: u64,
    /// A connection without an event for this long is forgotten, once nothing is in flight on it. 1 h.
    pub idle_after_ns: u64,
    /// Keep the raw target of each request. Off: only the template name is kept.
    pub keep_target: bool,
    /// Operation names per service before `GET {other}` (templates).
    pub max_operations: usize,
    /// Registry names of the protocols looked for; empty = all. A connection that speaks another one, and none that leads there, is opaque:
    /// counted as such (`connections.opaque`), no longer captured, and nothing of it is lost ([`LookedFor`]).
    pub protocols: Vec<String>,
    /// Ports of servers on which what no parser knows becomes opaque transactions, turn by turn. Elsewhere it is only counted.
    pub opaque_ports: Vec<u16>,
    /// Classes of age in which snapshots count what is in flight: no part of what is computed.
    pub age_steps: AgeSteps,
    /// Snapshots list connections one by one. Changes nothing else.
    pub list_connections: bool,
}

impl Default for PipelineConfig {
    fn default() -> Self {
        PipelineConfig {
            max_conns: 65_536,
            max_in_flight_per_conn: 1_024,
            order_window_ns: 20_000_000,
            reorder_window_ns: 20_000_000,
            max_held_bytes: 1 << 20,
            watermark_lag_ns: 500_000_000,
            stuck_after_ns: 300_000_000_000,
            idle_after_ns: 3_600_000_000_000,
            keep_target: true,
            max_operations: 1_000,
            protocols: Vec::new(),
            opaque_ports: Vec::new(),
            age_steps: AgeSteps::SCOUTER,
            list_connections: false,
        }
    }
}

/// Where verdicts go: the kernel's map live, nowhere in a replay. Never read back: what the pipeline computes does not
/// depend on it.
pub trait VerdictSink {
    /// From now on capture `conn` like this.
    fn set(&mut self, conn: ConnId, verdict: tracer_ebpf::Verdict);

    /// At a server's port a protocol was recognised, of which all has to be captured or not. `true`: it is captured whole in vain as
    /// long as there is no verdict.
    fn learn(&mut self, _port: u16, _is_whole: bool) -> bool {
        false
    }
}

/// Verdicts of a replay: nobody listens.
#[derive(Clone, Copy, Debug, Default)]
pub struct NullVerdicts;

impl VerdictSink for NullVerdicts {
    fn set(&mut self, _: ConnId, _: tracer_ebpf::Verdict) {}
}

/// Requests in flight of one service, by age.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InFlight {
    /// Service.
    pub service: Arc<str>,
    /// How many of each class of age (event time), the youngest first: one for each class of [`Snapshot::age_steps`].
    pub by_age: Vec<u64>,
}

/// How far a request in flight is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Its last byte was not seen yet.
    Reading,
    /// Its answer has not begun.
    Waiting,
    /// Its answer has begun.
    Sending,
}

/// What the pipeline holds at this instant of event time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// Newest event time.
    pub time: BootTime,
    /// The same instant as wall time.
    pub wall: WallTime,
    /// Every transaction that ends before it has left.
    pub watermark: WallTime,
    /// Connections tracked.
    pub n_conns: usize,
    /// The same one by one, where the configuration asks for it.
    pub connections: Arc<Connections>,
    /// Requests in flight, long-lived ones apart.
    pub n_open: u64,
    /// Tunnels, upgraded connections and streams that are open.
    pub n_long_lived: u64,
    /// Requests in flight, long-lived or not, that are of no protocol looked for, as far as they have come: in neither number, nor listed.
    pub n_left_out: u64,
    /// Requests that left as `tracer_stopped`: their end was not seen, and never will be.
    pub n_unended: u64,
    /// Transactions that wait behind the watermark, or have not been drained.
    pub n_waiting: u64,
    /// Classes of age in which the requests in flight are counted.
    pub age_steps: AgeSteps,
    /// Requests in flight by service, in the order of the names.
    pub in_flight: Vec<InFlight>,
    /// Requests in flight (long-lived ones too), the oldest [`MAX_OPEN_LISTED`].
    pub open: Vec<OpenRequest>,
    /// Messages without a pair, by reason; all reasons, in their order.
    pub unpaired: Vec<(Unpaired, u64)>,
    /// Requests known to be lost.
    pub lost_requests: LostRequests,
    /// Last counters that came as an event (live: the kernel's and ours; replay: the recorded ones).
    pub counters: Option<Arc<Counters>>,
}

/// Why a checkpoint cannot be restored.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// Not a checkpoint, or cut off.
    #[error("checkpoint cannot be read: {0}")]
    Corrupt(String),
    /// Made by a build with another layout.
    #[error("checkpoint of version {found}, this build reads {readable}")]
    Version {
        /// In the bytes.
        found: u32,
        /// Of this build.
        readable: u32,
    },
}

/// Version of the checkpoint's layout.
pub const CHECKPOINT_VERSION: u32 = 8;

mod age;
mod carriers;
mod checkpoint;
mod connections;
mod datagrams;
mod endings;
mod functions;
mod goroutines;
mod looked_for;
mod manners;
mod network;
mod open;
mod peers;
mod positions;
mod received;
mod sends;
mod snapshot;
mod step;
mod threads;

use carriers::{Carriers, Link};
use connections::{ClosedConns, Tally};
pub use connections::{ConnRow, ConnState, Connections, MAX_CLOSED_LISTED, MAX_CONNS_LISTED};
use datagrams::Datagrams;
use functions::Functions;
pub use looked_for::LookedFor;
use network::{OfCarrier, Path};
pub use open::{MAX_OPEN_LISTED, OpenRequest};
use peers::Peers;
use positions::Noted;
pub use positions::Positions;
use threads::Threads;

/// Bytes of a turn must follow each other this fast for the turn's end to be known in order. 450 ms: the 250 ms after which a summed
/// event is read at the latest, and 200 ms between two calls; below [`PipelineConfig::watermark_lag_ns`].
const QUIET_NS: u64 = 450_000_000;
/// From events to transactions.
pub struct Pipeline {
    order: Order,
    tracker: Tracker<Entry>,
    rest: Rest,
}

/// One connection: its bytes, and what they mean.
struct Entry {
    conn: Connection,
    exchange: Exchange,
    ends: Option<Ends>,
    /// A timer is set that will look at what is held back.
    hold_armed: bool,
    /// A timer is set that will look at a turn that must end.
    quiet_armed: bool,
    /// What its protocol wants captured was told of its port.
    port_told: bool,
    /// Counted as one whose bytes are not looked at.
    opaque: bool,
    tally: Tally,
    /// It is the clear text inside of another.
    link: Option<Link>,
    /// Its other end is known.
    is_paired: bool,
    /// Requests before this one are known by their other end.
    n_noted: u64,
    path: Path,
}

impl Entry {
    fn new(conn: Connection) -> Entry {
        Entry {
            conn,
            exchange: Exchange::default(),
            ends: None,
            hold_armed: false,
            quiet_armed: false,
            port_told: false,
            opaque: false,
            tally: Tally::default(),
            link: None,
            is_paired: false,
            n_noted: 0,
            path: Path::default(),
        }
    }
}

/// Everything but the connections.
struct Rest {
    config: PipelineConfig,
    looked_for: LookedFor,
    metrics: Metrics,
    verdicts: Box<dyn VerdictSink + Send>,
    state: State,
    processes: ProcessTable,
    listening: ListeningSet,
    templates: Templates,
    watermark: Watermark,
    timers: BinaryHeap<Reverse<(BootTime, ConnId)>>,
    closed: ClosedConns,
    datagrams: Datagrams,
    carriers: Carriers,
    functions: Functions,
    threads: Threads,
    peers: Peers,
    /// Carriers of which more was told in the step in progress.
    told: Vec<ConnId>,
    /// What the network did to a carrier in the step in progress.
    of_carrier: Option<OfCarrier>,
    noted: Option<Noted>,
    marks: Vec<Mark>,
    fx: Effects,
}

/// The plain part of the state, saved as it is.
#[derive(Debug, Default, Serialize, Deserialize)]
struct State {
    line: WallLine,
    /// Event time up to which events were applied.
    now: BootTime,
    /// When the oldest waiting request is stuck.
    next_stuck: Option<BootTime>,
    last_stuck: BootTime,
    /// Processes that ended: when to look, pid, when.
    exits: VecDeque<(BootTime, u32, BootTime)>,
    counters: Option<Arc<Counters>>,
    unpaired: [u64; Unpaired::ALL.len()],
    n_unended: u64,
    overflowed: u64,
    n_late: u64,
    /// Of connections that are no longer tracked.
    lost: LostRequests,
    /// Turns that the kernel counted for requests, on connections that are no longer tracked.
    known_turns: u64,
    /// Turns on such connections whose role the kernel did not know.
    known_unknown: u64,
    /// Most requests seen in one turn.
    most: u32,
    /// A message went over several turns.
    continued: bool,
    /// Connections were forgotten: one that comes without its beginning may be one of them.
    forgotten: bool,
    /// What may have been lost on connections of which nothing was seen.
    residual: u64,
    /// Events known to be lost, and when the newest of them were counted.
    n_lost: u64,
    last_loss: Option<BootTime>,
}

impl Pipeline {
    /// An empty pipeline.
    pub fn new(config: PipelineConfig, metrics: Metrics, verdicts: Box<dyn VerdictSink + Send>) -> Self {
        Pipeline {
            order: Order::default(),
            tracker: Tracker::new(config.max_conns),
            rest: Rest {
                templates: Templates::new(config.max_operations),
                looked_for: LookedFor::new(&config.protocols),
                config,
                metrics,
                verdicts,
                state: State::default(),
                processes: ProcessTable::default(),
                listening: ListeningSet::default(),
                watermark: Watermark::default(),
                timers: BinaryHeap::new(),
                closed: ClosedConns::default(),
                datagrams: Datagrams::default(),
                carriers: Carriers::default(),
                functions: Functions::default(),
                threads: Threads::default(),
                peers: Peers::default(),
                told: Vec::new(),
                of_carrier: None,
                noted: None,
                marks: Vec::new(),
                fx: Effects::default(),
            },
        }
    }

    /// Takes one event.
    pub fn push(&mut self, event: &Event) {
        self.rest.metrics.add(Counter::EventsIn, 1);
        self.take(event);
    }

    /// Takes a batch, in its order.
    pub fn push_batch(&mut self, batch: &EventBatch) {
        self.rest.metrics.add(Counter::EventsIn, batch.events.len() as u64);
        for event in &batch.events {
            self.take(event);
        }
    }

    fn take(&mut self, event: &Event) {
        match event {
            Event::Tick(time) => self.order.advance(*time),
            // What the source found out comes before the events that need it, and its time is later than theirs.
            Event::ProcessFacts(facts) if !self.rest.processes.knows(facts.pid) => {
                self.rest.processes.learn(facts.clone());
            }
            Event::FunctionFacts(facts) => self.learn_function(facts),
            Event::Listening(listening) => self.rest.listening.add(listening.netns, listening.port),
            Event::Anchor(anchor) if self.rest.state.line.is_empty() => self.rest.state.line.add(*anchor),
            Event::Loss(loss) => self.rest.metrics.add(Counter::RecordingMissing, loss.n.unwrap_or(0)),
            event => self.order.push(event.clone()),
        }
        let window = self.rest.config.order_window_ns;
        while let Some(event) = self.order.pop(window) {
            self.apply(event);
        }
        self.pass(BootTime(self.order.frontier().0.saturating_sub(window)));
    }

    /// Applies an event, in time order.
    fn apply(&mut self, event: Event) {
        let time = order::time(&event);
        let is_late = time < self.rest.state.now;
        self.pass(time);
        match event {
            Event::Data(data) => {
                let failed = data.has(abi::FLAG_ERROR).then(|| (data.conn, data.direction()));
                self.data(data, is_late);
                if let Some((conn, direction)) = failed {
                    self.fail_inside(conn, direction, time);
                }
            }
            Event::Datagram(datagram) => self.datagram(&datagram, is_late),
            Event::ConnOpen(open) => self.open(&open),
            Event::TlsOpen(open) => self.tls_open(&open),
            // The peer's FIN has arrived, and says nothing of what is still to be read before it: this direction ends with
            // the call that returns nothing, or with the connection.
            Event::ConnShut(shut) if shut.direction == Direction::Ingress => {}
            Event::ConnShut(shut) => {
                if let Some(entry) = self.tracker.touch(shut.conn) {
                    self.rest.flush_held(entry);
                    self.rest.with(entry, |exchange, conn, turnover| {
                        exchange.shut(conn, shut.direction, shut.time, turnover);
                    });
                }
            }
            Event::ConnClose(close) => self.close(&close),
            Event::Retransmit(again) => self.retransmit(&again),
            Event::Process(process) => self.process(&process),
            Event::ProcessFacts(facts) => self.rest.processes.learn(facts),
            Event::Anchor(anchor) => self.rest.state.line.add(anchor),
            Event::Counters(counters) => self.counters(counters),
            Event::FunctionEnter(enter) => self.function_enter(&enter),
            Event::FunctionReturn(leave) => self.function_return(&leave),
            Event::Stack(stack) if stack.kind == StackKind::Function => self.stack(stack),
            Event::Stack(stack) => self.rest.thread_stack(&stack),
            Event::OffCpu(off) => self.rest.threads.off_cpu(&off, &self.rest.metrics),
            Event::FunctionFacts(_) | Event::Listening(_) | Event::Tick(_) | Event::Loss(_) => {}
        }
        self.note_inside();
        self.tell();
    }

    /// Event time passes: what is due happens, in the order in which it is.
    fn pass(&mut self, time: BootTime) {
        while let Some(&Reverse((due, id))) = self.rest.timers.peek()
            && due <= time
        {
            self.rest.timers.pop();
            self.rest.state.now = self.rest.state.now.max(due);
            if let Some(entry) = self.tracker.get_mut(id) {
                self.rest.timer(entry, due);
                self.tell();
            }
        }
        let now = self.rest.state.now.max(time);
        if now == self.rest.state.now {
            return;
        }
        self.rest.state.now = now;
        self.end_exited(now);
        self.end_stuck(now);
        self.forget_idle(now);
        self.end_conversations(now);
        self.rest.release_calls(now);
        let lag = self.rest.config.watermark_lag_ns;
        let Rest { watermark, state, templates, .. } = &mut self.rest;
        watermark.advance(BootTime(now.0.saturating_sub(lag)), &state.line, templates);
    }

    /// The entry of a connection; makes room and a new one if need be. `None`: it has ended.
    fn entry(&mut self, id: ConnId) -> Option<(&mut Entry, &mut Rest)> {
        if self.tracker.has_ended(id) {
            self.rest.metrics.add(Counter::AfterClose, 1);
            return None;
        }
        if self.tracker.touch(id).is_none() {
            while self.tracker.is_full() {
                let Some(idlest) = self.tracker.idlest().map(|entry| entry.conn.id) else { break };
                self.rest.metrics.add(Counter::TrackerFull, 1);
                self.forget(idlest);
            }
            let mut conn = Connection::new(id);
            conn.forgotten = self.rest.state.forgotten;
            self.tracker.insert(id, Entry::new(conn));
            self.relink(id);
        }
        self.tracker.touch(id).map(|entry| (entry, &mut self.rest))
    }

    fn open(&mut self, open: &ConnOpen) {
        let Some((entry, rest)) = self.entry(open.conn) else { return };
        entry.conn.open(open);
        entry.conn.forgotten = false;
        entry.tally.open(open);
        if entry.conn.role == Role::Unknown {
            entry.conn.role = rest.listening.role(open.netns, &open.tuple);
        }
        entry.ends = None;
        if entry.exchange.is_carrier() {
            rest.told.push(open.conn);
        }
        self.pair_ends(open);
    }

    /// `is_late`: it came behind later events, by more than the window.
    fn data(&mut self, data: Data, is_late: bool) {
        let Some((entry, rest)) = self.entry(data.conn) else { return };
        rest.note_network(entry, data.time, (data.rtt_us, data.retransmits), false);
        if is_late && data.bytes > 0 && data.time < entry.exchange.newest() {
            // Its connection went on without it: what it would have been paired with has gone by. To the streams it is lost, unless
            // it was seen before (a sum that was read out of the kernel, and then came by itself).
            let place = entry.conn.streams[data.direction().index()].place(data.position);
            if !matches!(place, Place::Behind { seen } if seen >= data.bytes) {
                rest.metrics.add(Counter::Late, 1);
            }
            return;
        }
        if entry.conn.forgotten && !entry.conn.opened && data.turn > 1 {
            let first = !entry.conn.streams.iter().any(|stream| stream.started);
            if first {
                // Its earlier requests may have left under the numbers from 0 on.
                entry.exchange.pairs_mut().start_at(u64::from(data.turn) << 16);
            }
        }
        entry.conn.last = entry.conn.last.max(data.time);
        if rest.is_excluded(entry) {
            return;
        }
        let window = rest.config.reorder_window_ns;
        if entry.conn.is_holding()
            || entry.conn.wait(&data, entry.exchange.question(&entry.conn, &data)).is_some()
        {
            entry.conn.hold(data, window);
            if entry.conn.n_held() > MAX_HELD_EVENTS {
                rest.metrics.add(Counter::ReorderFull, 1);
                if let Some(first) = entry.conn.release_first(window) {
                    rest.apply_data(entry, &first);
                }
            }
            rest.settle(entry);
        } else {
            rest.apply_data(entry, &data);
        }
    }

    fn close(&mut self, close: &ConnClose) {
        if self.close_socket(close) {
            return;
        }
        self.end_inside(close);
        let Some((entry, rest)) = self.entry(close.conn) else { return };
        rest.flush_held(entry);
        rest.with_last(entry, |exchange, conn, turnover| exchange.close(conn, close, turnover));
        if close.turn > entry.conn.turns.last() {
            // Nothing was seen that would tell which direction they had.
            entry.conn.turns.close(close.turn, [false; 2], false);
        }
        self.rest.threads.drop_reading(close.conn);
        self.remove(close.conn, Some(close));
        self.rest.carriers.remove(close.conn);
        self.tracker.end(close.conn, close.time);
    }

    /// The tracker lets go of a connection that has not ended, and first of what is inside of it.
    fn forget(&mut self, id: ConnId) {
        for at in 0.. {
            let Some(&clear) = self.rest.carriers.inside(id).get(at) else { break };
            self.forget_one(clear);
        }
        self.forget_one(id);
    }

    fn forget_one(&mut self, id: ConnId) {
        let now = self.rest.state.now;
        if let Some(entry) = self.tracker.get_mut(id) {
            self.rest.flush_held(entry);
            self.rest.with(entry, |exchange, _, turnover| exchange.pairs_mut().lose_all(now, turnover.fx));
        }
        self.rest.state.forgotten = true;
        self.rest.threads.drop_reading(id);
        self.remove(id, None);
    }

    fn remove(&mut self, id: ConnId, close: Option<&ConnClose>) {
        if let Some(entry) = self.tracker.remove(id) {
            let outer = entry.carrier().and_then(|carrier| self.tracker.get_mut(carrier));
            self.rest.note_end(&entry, outer, close);
            self.rest.peers.close(id);
            let lost = self.rest.lost_on(&entry, close.is_some());
            let state = &mut self.rest.state;
            state.lost.add(lost);
            let (requests, unknown) = entry.known_turns();
            state.known_turns += requests;
            state.known_unknown += unknown;
        }
    }

    fn forget_idle(&mut self, now: BootTime) {
        let after = self.rest.config.idle_after_ns;
        let Some(idlest) = self.tracker.idlest() else { return };
        if idlest.conn.last.0.saturating_add(after) > now.0 {
            return;
        }
        let id = idlest.conn.id;
        let is_open = idlest.exchange.pairs().n_open() != 0;
        if !is_open && !self.is_used_inside(id, BootTime(now.0.saturating_sub(after))) {
            self.forget(id);
        } else {
            self.tracker.touch(id);
        }
    }

    /// What ties boot time to wall time, as far as the anchors were applied.
    pub fn line(&self) -> &WallLine {
        &self.rest.state.line
    }

    /// How many transactions [`Pipeline::drain`] would give.
    pub fn n_ready(&self) -> usize {
        self.rest.watermark.n_ready()
    }

    /// What is behind the watermark now, in order.
    pub fn drain(&mut self) -> TransactionBatch {
        let batch = self.rest.watermark.take();
        let finished =
            batch.transactions.iter().filter(|transaction| transaction.is_finished()).count() as u64;
        self.rest.metrics.add(Counter::Transactions, finished);
        let late = self.rest.watermark.n_late();
        self.rest.metrics.add(Counter::OutOfOrder, late.saturating_sub(self.rest.state.n_late));
        self.rest.state.n_late = late;
        let unended = batch.transactions.len() as u64 - finished;
        self.rest.metrics.add(Counter::Unended, unended);
        self.rest.state.n_unended += unended;
        let overflowed = self.rest.templates.overflowed();
        self.rest
            .metrics
            .add(Counter::OperationOverflow, overflowed.saturating_sub(self.rest.state.overflowed));
        self.rest.state.overflowed = overflowed;
        batch
    }

    /// Applies what waits for earlier events, as if none could come any more: the state of this very instant. What is pushed behind it may
    /// be applied in another order than without it.
    pub fn settle(&mut self) {
        while let Some(event) = self.order.pop_any() {
            self.apply(event);
        }
        let frontier = self.order.frontier();
        self.pass(frontier);
    }

    /// End of the input: requests in flight become `tracer_stopped`, everything leaves.
    pub fn finish(&mut self) -> TransactionBatch {
        self.settle();
        let frontier = self.order.frontier();
        // In an order that does not depend on where the pipeline was restored.
        let mut all: Vec<ConnId> = self.tracker.iter().map(|entry| entry.conn.id).collect();
        all.sort_unstable();
        for id in all {
            let Some(entry) = self.tracker.get_mut(id) else { continue };
            self.rest.flush_held(entry);
            let last_loss = self.rest.state.last_loss;
            self.rest.with(entry, |exchange, _, turnover| {
                if let Some(at) = last_loss {
                    exchange.pairs_mut().doubt(at);
                }
                exchange.pairs_mut().end_all(End::TracerStopped, frontier, turnover.fx);
            });
        }
        self.end_all_calls(frontier);
        let Rest { watermark, templates, .. } = &mut self.rest;
        watermark.flush(templates);
        self.drain()
    }

    /// The kernel's own count of turns tells what happened on connections of which nothing was seen, or whose last
    /// records were refused. It bounds `lost_requests` from above only: the turns need not have been requests. And no
    /// more turns can be unseen than records were refused.
    fn counters(&mut self, counters: Counters) {
        let get = |name: &str| counters.values.iter().find(|(key, _)| **key == *name).map_or(0, |(_, n)| *n);
        let refused = get("kernel.refused_data")
            .saturating_add(get("kernel.refused_conn"))
            .saturating_add(get("kernel.datagram_unnamed"))
            .saturating_add(get("kernel.datagram_vector"))
            .saturating_add(get("lost.batch_queue_full"))
            .saturating_add(get("lost.probe_not_run"))
            .saturating_add(get("lost.decode_short"))
            .saturating_add(get("lost.late"))
            .saturating_add(get("lost.recorder_queue_full"))
            .saturating_add(get("lost.capture_gaps"));
        if refused > self.rest.state.n_lost {
            self.rest.state.n_lost = refused;
            self.rest.state.last_loss = Some(counters.time);
        }
        let (mut requests, mut unknown) = (self.rest.state.known_turns, self.rest.state.known_unknown);
        if refused > 0 {
            for entry in self.tracker.iter() {
                let (more_requests, more_unknown) = entry.known_turns();
                requests += more_requests;
                unknown += more_unknown;
            }
        }
        let unseen = get("kernel.turns_request")
            .saturating_sub(requests)
            .saturating_add(get("kernel.turns_unknown").saturating_sub(unknown).div_ceil(2));
        // Turns of a capture that lie in gaps of both directions: nobody numbered them.
        let hidden = get("lost.capture_turns_hidden");
        let most = u64::from(self.rest.state.most.max(1));
        // Calls of which the kernel told nothing, not even a turn.
        let untracked = get("kernel.conn_map_full")
            .saturating_add(get("kernel.conn_race"))
            .saturating_add(get("kernel.tls_unlinked"))
            .saturating_add(get("kernel.tls_calls_full"))
            .saturating_add(get("lost.probe_not_run"));
        self.rest.state.residual =
            (unseen.min(refused).saturating_add(untracked).saturating_add(hidden)).saturating_mul(most);
        self.rest.state.counters = Some(Arc::new(counters));
    }
}
