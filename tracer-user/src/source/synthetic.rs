//! A deterministic generator of HTTP/1 traffic as the kernel would report it, with the truth beside it.
//!
//! It plays both ends and the kernel: positions, turns and their numbers go on whether or not a record is lost, refused
//! records are counted in the close and in the counters, payload is captured up to a budget per turn. Every request has
//! an id, which is in its target, and the status of its answer follows from the id, so that a wrong pair is visible.
//! Used by tests, by the comparison of replay with live, and by benches.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    sync::Arc,
};

use bytes::Bytes;
use tracer_ebpf as abi;

use super::{Source, SourceError};
use crate::{
    event::{
        ConnClose, ConnId, ConnOpen, Counters, Data, Direction, Event, EventBatch, Process, ProcessChange,
        ProcessFacts, Role,
    },
    time::{Anchor, BootTime, WallTime},
};

/// What to generate. Probabilities are in thousandths.
#[derive(Clone, Debug)]
pub struct SyntheticConfig {
    /// Same seed, same events.
    pub seed: u64,
    /// Requests to send, about.
    pub n_requests: u64,
    /// Connections open at once.
    pub n_conns: usize,
    /// Requests on one connection, at most.
    pub max_per_conn: u64,
    /// Connections that pipeline.
    pub pipelined: u64,
    /// Connections on which the traced process is the client.
    pub clients: u64,
    /// Responses that are chunked.
    pub chunked: u64,
    /// Messages with a body beyond the capture budget.
    pub long_bodies: u64,
    /// Requests that wait for `100 Continue`.
    pub expect: u64,
    /// Connections that end in the middle of an exchange: reset, closed or with the process.
    pub broken: u64,
    /// Connections that were joined in the middle.
    pub mid_join: u64,
    /// Data records that the ring refuses.
    pub lost: u64,
    /// Data records whose bytes the kernel leaves out, because the ring is nearly full.
    pub left_out: u64,
    /// Opens and closes that the ring refuses.
    pub lost_ends: u64,
    /// By how much a record may come late in the ring, ns.
    pub disorder_ns: u64,
    /// Bytes captured of a turn.
    pub budget: u64,
    /// Pieces into which a message is cut, at most.
    pub pieces: u64,
}

impl Default for SyntheticConfig {
    fn default() -> Self {
        SyntheticConfig {
            seed: 1,
            n_requests: 1_000,
            n_conns: 20,
            max_per_conn: 50,
            pipelined: 0,
            clients: 500,
            chunked: 200,
            long_bodies: 100,
            expect: 0,
            broken: 0,
            mid_join: 0,
            lost: 0,
            left_out: 0,
            lost_ends: 0,
            disorder_ns: 0,
            budget: 4096,
            pieces: 3,
        }
    }
}

/// What really happened, whether or not records tell it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Truth {
    /// Requests whose head was sent whole, on connections that were there to see.
    pub requests: u64,
    /// Of those, answered to the last byte.
    pub answered: u64,
    /// Data records refused.
    pub refused: u64,
    /// Requests by connection.
    pub by_conn: BTreeMap<ConnId, u64>,
}

/// Status of the answer to a request. Never one without a body by the protocol's rules.
pub fn status_of(id: u64) -> i32 {
    205 + (id.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as i32 % 90
}

/// The id in a target.
pub fn id_of(target: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(target).ok()?;
    text.rsplit('=').next()?.parse().ok()
}

/// SplitMix64: small, seeded, the same everywhere.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Less than `n`; 0 for `n` = 0.
    pub fn below(&mut self, n: u64) -> u64 {
        if n == 0 { 0 } else { self.draw() % n }
    }

    /// True so many times in a thousand.
    pub fn chance(&mut self, thousandths: u64) -> bool {
        self.below(1000) < thousandths
    }
}

/// One connection as the kernel sees it.
#[derive(Debug)]
struct Socket {
    id: ConnId,
    role: Role,
    pid: u32,
    position: [u64; 2],
    turn: u32,
    speaking: Option<Direction>,
    in_turn: u64,
    n_refused: u32,
    budget: u64,
    left: u64,
    depth: u64,
    mid_join: bool,
    now: u64,
}

/// An event on its way through the ring.
#[derive(Debug)]
struct InRing(u64, u64, Event);

impl PartialEq for InRing {
    fn eq(&self, other: &Self) -> bool {
        (self.0, self.1) == (other.0, other.1)
    }
}
impl Eq for InRing {}
impl PartialOrd for InRing {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for InRing {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(other.0, other.1))
    }
}

/// The generator.
#[derive(Debug)]
pub struct Synthetic {
    config: SyntheticConfig,
    random: Random,
    sockets: BinaryHeap<Reverse<(u64, u64, usize)>>,
    slots: Vec<Option<Socket>>,
    ring: BinaryHeap<Reverse<InRing>>,
    n_made: u64,
    next_id: u64,
    next_conn: u64,
    next_counters: u64,
    turns_request: u64,
    refused_conn: u64,
    truth: Truth,
    n_out: u64,
    done: bool,
}

/// Time of the first event.
const START_NS: u64 = 1_000_000_000_000;
/// Events in one batch.
const BATCH: usize = 1024;

impl Synthetic {
    /// A generator that has generated nothing yet.
    pub fn new(config: SyntheticConfig) -> Synthetic {
        let mut synthetic = Synthetic {
            random: Random(config.seed),
            sockets: BinaryHeap::new(),
            slots: Vec::new(),
            ring: BinaryHeap::new(),
            n_made: 0,
            next_id: 0,
            next_conn: 1,
            next_counters: START_NS + 1_000_000_000,
            turns_request: 0,
            refused_conn: 0,
            truth: Truth::default(),
            n_out: 0,
            done: false,
            config,
        };
        let boot = BootTime(START_NS);
        synthetic.emit(START_NS, Event::Anchor(Anchor { boot, wall: WallTime(1_700_000_000_000_000_000) }));
        for pid in 100..108_u32 {
            let service: Arc<str> = format!("service-{}", pid % 4).into();
            let facts = ProcessFacts { time: boot, pid, start_ticks: 1, service, ..ProcessFacts::default() };
            synthetic.emit(START_NS, Event::ProcessFacts(facts));
        }
        for slot in 0..synthetic.config.n_conns.max(1) {
            synthetic.slots.push(None);
            synthetic.connect(slot, START_NS + 1_000 * slot as u64 + 1);
        }
        synthetic
    }

    /// What has happened so far; the whole truth once the source has ended.
    pub fn truth(&self) -> &Truth {
        &self.truth
    }

    /// All events at once.
    pub fn all(mut self) -> (Vec<Event>, Truth) {
        let mut events = Vec::new();
        while let Some(batch) = self.make() {
            events.extend(batch);
        }
        (events, self.truth)
    }

    fn emit(&mut self, time: u64, event: Event) {
        let late = match event {
            Event::Data(_) => self.random.below(self.config.disorder_ns),
            _ => 0,
        };
        self.n_made += 1;
        self.ring.push(Reverse(InRing(time + late, self.n_made, event)));
    }

    fn connect(&mut self, slot: usize, now: u64) {
        let config = &self.config;
        let (pipelined, clients, mid_join) = (config.pipelined, config.clients, config.mid_join);
        let (budget, max) = (config.budget, config.max_per_conn);
        let depth = if self.random.chance(pipelined) { 2 + self.random.below(15) } else { 1 };
        let role = if self.random.chance(clients) { Role::Client } else { Role::Server };
        let id = ConnId(abi::conn_id(self.next_conn, self.next_conn as u32));
        self.next_conn += 1;
        let mut socket = Socket {
            id,
            role,
            pid: 100 + self.random.below(8) as u32,
            position: [self.random.draw() >> 32 | 1 << 32, self.random.draw() >> 32 | 1 << 32],
            turn: 0,
            speaking: None,
            in_turn: 0,
            n_refused: 0,
            // The kernel has been told to copy everything where two messages share a turn.
            budget: if depth > 1 { u64::MAX } else { budget },
            left: 1 + self.random.below(max),
            depth,
            mid_join: self.random.chance(mid_join),
            now,
        };
        let mut tuple = abi::Tuple { family: abi::FAMILY_INET, ..abi::Tuple::default() };
        tuple.local[..4].copy_from_slice(&[127, 0, 0, 1]);
        tuple.remote[..4].copy_from_slice(&[127, 0, 0, 2]);
        let ephemeral = 32_768 + (self.next_conn % 28_000) as u16;
        (tuple.local_port, tuple.remote_port) =
            if role == Role::Server { (8080, ephemeral) } else { (ephemeral, 8080) };
        let open = ConnOpen {
            time: BootTime(now),
            conn: id,
            tuple,
            pid: socket.pid,
            role,
            flags: if socket.mid_join { abi::FLAG_MID_JOIN } else { 0 },
            ..ConnOpen::default()
        };
        if self.random.chance(self.config.lost_ends) {
            self.refused_conn += 1;
        } else {
            self.emit(now, Event::ConnOpen(open));
        }
        if socket.mid_join {
            // The rest of a body that began before the tracer looked.
            let body = vec![b'x'; 1 + self.random.below(3000) as usize];
            let direction = if self.random.chance(500) { Direction::Ingress } else { Direction::Egress };
            self.transfer(&mut socket, direction, &body);
            if direction == requests_of(role) {
                self.respond(&mut socket, u64::MAX, false, usize::MAX);
            }
        }
        self.sockets.push(Reverse((socket.now, id.0, slot)));
        self.slots[slot] = Some(socket);
    }

    /// Moves bytes in some pieces.
    fn transfer(&mut self, socket: &mut Socket, direction: Direction, bytes: &[u8]) {
        let n = 1 + self.random.below(self.config.pieces.min(bytes.len() as u64));
        let mut rest = bytes;
        for left in (0..n).rev() {
            let cut =
                if left == 0 { rest.len() } else { (1 + self.random.below(rest.len() as u64)) as usize };
            let (piece, behind) = rest.split_at(cut);
            rest = behind;
            self.call(socket, direction, piece);
            if rest.is_empty() {
                break;
            }
        }
    }

    fn call(&mut self, socket: &mut Socket, direction: Direction, bytes: &[u8]) {
        let entered = socket.now;
        socket.now += 1_000 + self.random.below(20_000);
        let turn_start = socket.speaking != Some(direction);
        if turn_start {
            socket.speaking = Some(direction);
            socket.turn += 1;
            socket.in_turn = 0;
            self.turns_request += u64::from(direction == requests_of(socket.role));
        }
        let mut captured = (socket.budget.saturating_sub(socket.in_turn)).min(bytes.len() as u64) as usize;
        socket.in_turn += bytes.len() as u64;
        let at = direction.index();
        let position = socket.position[at];
        socket.position[at] += bytes.len() as u64;
        if self.random.chance(self.config.lost) {
            socket.n_refused += 1;
            self.truth.refused += 1;
            return;
        }
        let mut flags = if direction == Direction::Egress { abi::FLAG_EGRESS } else { 0 };
        flags |= if turn_start { abi::FLAG_TURN_START } else { 0 };
        if self.config.left_out > 0 && self.random.chance(self.config.left_out) {
            captured = 0;
            flags |= abi::FLAG_OVERLOAD;
        }
        let data = Data {
            time: BootTime(socket.now),
            first: BootTime(entered),
            arrival: BootTime(if direction == Direction::Ingress { entered } else { 0 }),
            conn: socket.id,
            position,
            bytes: bytes.len() as u64,
            turn: socket.turn,
            flags,
            pid: socket.pid,
            tid: socket.pid + 1000,
            n_calls: 1,
            error: 0,
            comm: *b"worker\0\0\0\0\0\0\0\0\0\0",
            payload: Bytes::copy_from_slice(&bytes[..captured]),
            kernel_ns: 0,
            off_cpu: 0,
            goroutine: 0,
            rtt_us: 0,
            retransmits: 0,
        };
        self.emit(socket.now, Event::Data(data));
    }

    fn body(&mut self) -> usize {
        if self.random.chance(self.config.long_bodies) {
            8_000 + self.random.below(60_000) as usize
        } else {
            self.random.below(400) as usize
        }
    }

    fn ask(&mut self, socket: &mut Socket, ids: &[u64]) {
        let mut bytes = Vec::new();
        for id in ids {
            let path = format!("/item/{}?id={id}", id % 100);
            if id % 3 == 0 && ids.len() == 1 && self.random.chance(self.config.expect) {
                let length = 1 + self.body();
                bytes.extend(
                    format!("POST {path} HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n")
                        .bytes(),
                );
                self.transfer(socket, requests_of(socket.role), &bytes);
                socket.now += 10_000;
                let answers = requests_of(socket.role).flip();
                self.transfer(socket, answers, b"HTTP/1.1 100 Continue\r\n\r\n");
                socket.now += 10_000;
                self.transfer(socket, requests_of(socket.role), &vec![b'b'; length]);
                return;
            } else if id % 3 == 0 {
                let length = self.body();
                bytes.extend(
                    format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n").bytes(),
                );
                bytes.resize(bytes.len() + length, b'b');
            } else {
                bytes.extend(
                    format!("GET {path} HTTP/1.1\r\nHost: a\r\nUser-Agent: synthetic\r\n\r\n").bytes(),
                );
            }
        }
        self.transfer(socket, requests_of(socket.role), &bytes);
    }

    /// Sends the answer, or only its first `cut` bytes.
    fn respond(&mut self, socket: &mut Socket, id: u64, chunked: bool, cut: usize) {
        let status = if id == u64::MAX { 200 } else { status_of(id) };
        let length = self.body();
        let mut bytes = if chunked {
            let mut bytes = format!("HTTP/1.1 {status} X\r\nTransfer-Encoding: chunked\r\n\r\n").into_bytes();
            for part in vec![b'r'; length].chunks(997) {
                bytes.extend(format!("{:x}\r\n", part.len()).bytes());
                bytes.extend(part);
                bytes.extend(b"\r\n");
            }
            bytes.extend(b"0\r\n\r\n");
            bytes
        } else {
            let mut bytes =
                format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\nServer: synthetic\r\n\r\n")
                    .into_bytes();
            bytes.resize(bytes.len() + length, b'r');
            bytes
        };
        bytes.truncate(cut);
        if !bytes.is_empty() {
            self.transfer(socket, requests_of(socket.role).flip(), &bytes);
        }
    }

    /// One exchange on the connection in `slot`.
    fn exchange(&mut self, slot: usize) {
        let Some(mut socket) = self.slots.get_mut(slot).and_then(Option::take) else { return };
        let n = socket.depth.min(socket.left);
        let ids: Vec<u64> = (self.next_id..self.next_id + n).collect();
        self.next_id += n;
        socket.left -= n;
        self.ask(&mut socket, &ids);
        self.truth.requests += n;
        *self.truth.by_conn.entry(socket.id).or_default() += n;
        let broken = self.random.chance(self.config.broken);
        let stop = if broken { self.random.below(n) } else { n };
        for (at, &id) in ids.iter().enumerate() {
            socket.now += 5_000 + self.random.below(2_000_000);
            if at as u64 == stop {
                let cut = self.random.below(60) as usize;
                self.respond(&mut socket, id, false, cut);
                break;
            }
            let chunked = self.random.chance(self.config.chunked);
            self.respond(&mut socket, id, chunked, usize::MAX);
            self.truth.answered += 1;
        }
        socket.now += 20_000 + self.random.below(1_000_000);
        if !broken && socket.left > 0 && self.next_id < self.config.n_requests {
            self.sockets.push(Reverse((socket.now, socket.id.0, slot)));
            self.slots[slot] = Some(socket);
            return;
        }
        self.close(&socket, broken);
        if self.next_id < self.config.n_requests {
            self.connect(slot, socket.now + 30_000);
        }
    }

    fn close(&mut self, socket: &Socket, broken: bool) {
        let reason = if broken { 1 + 2 * self.random.below(2) as u32 } else { abi::CLOSE_NORMAL };
        let close = ConnClose {
            time: BootTime(socket.now),
            conn: socket.id,
            position: socket.position,
            turn: socket.turn,
            reason,
            n_refused: socket.n_refused,
            error: 0,
        };
        if self.random.chance(self.config.lost_ends) {
            self.refused_conn += 1;
        } else {
            self.emit(socket.now, Event::ConnClose(close));
        }
        if reason == abi::CLOSE_EXIT {
            // Some other process: pids of the generator serve many connections.
            let process = Process {
                time: BootTime(socket.now),
                change: ProcessChange::Exit,
                pid: 50_000 + self.random.below(1000) as u32,
                parent_pid: 1,
                exit_code: 0,
                comm: [0; 16],
            };
            self.emit(socket.now, Event::Process(process));
        }
    }

    fn counters(&mut self, time: u64) {
        let values = [
            ("kernel.turns_request", self.turns_request),
            ("kernel.refused_data", self.truth.refused),
            ("kernel.refused_conn", self.refused_conn),
        ];
        let values = values.into_iter().map(|(name, n)| (Arc::from(name), n)).collect();
        self.emit(time, Event::Counters(Counters { time: BootTime(time), values }));
    }

    fn make(&mut self) -> Option<Vec<Event>> {
        let mut events = Vec::with_capacity(BATCH);
        while events.len() < BATCH {
            let next = self.sockets.peek().map(|Reverse((now, ..))| *now);
            if let Some(Reverse(InRing(time, ..))) = self.ring.peek()
                && next.is_none_or(|next| *time < next)
            {
                if let Some(Reverse(InRing(.., event))) = self.ring.pop() {
                    events.push(event);
                }
                continue;
            }
            match (self.sockets.pop(), self.done) {
                (Some(Reverse((now, _, slot))), _) => {
                    while now >= self.next_counters {
                        self.counters(self.next_counters);
                        self.next_counters += 1_000_000_000;
                    }
                    self.exchange(slot);
                }
                (None, false) => {
                    self.done = true;
                    // Behind everything: the last counters of a run.
                    self.counters(self.next_counters + 10_000_000_000);
                }
                (None, true) => break,
            }
        }
        (!events.is_empty()).then_some(events)
    }
}

impl Source for Synthetic {
    fn next_batch(&mut self) -> Result<Option<EventBatch>, SourceError> {
        Ok(self.make().map(|events| {
            let batch = EventBatch { first_ordinal: self.n_out, events };
            self.n_out += batch.events.len() as u64;
            batch
        }))
    }
}

fn requests_of(role: Role) -> Direction {
    if role == Role::Client { Direction::Egress } else { Direction::Ingress }
}
