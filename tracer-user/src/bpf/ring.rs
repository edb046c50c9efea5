//! The ring reader: one thread that copies records into batches and waits for nothing downstream; and, because it is the
//! thread that owns the kernel's maps, the one that reads counters, clocks and sums that no event has carried.

use std::{
    os::fd::{AsFd as _, AsRawFd as _},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc::{self, Receiver, RecvError, SyncSender, TrySendError},
    },
    time::{Duration, Instant},
};

use aya::maps::{HashMap, MapData, PerCpuArray, RingBuf};
use bytes::{Bytes, BytesMut};
use rustc_hash::FxHashMap;
use tracer_ebpf as abi;
use zerocopy::FromBytes as _;

use crate::{
    bpf::{
        datagram_exit::DatagramExit,
        kernel_log::KernelLog,
        load::Loaded,
        meter::{Meter, Sample},
        not_run::NotRun,
        ring_fill::RingFill,
        sweep::Sweep,
        tls_probes::StatusHandle,
    },
    event::{ConnClose, ConnId, Counters, Data, Event},
    metrics::{Counter, Metrics},
    time::{Anchor, BootTime, WallTime},
};

/// Bytes copied into one batch before it is handed on. 256 KiB hold about 1,500 records of small requests.
const BATCH_BYTES: usize = 256 * 1024;
/// How long the reader sleeps when the ring is empty and nobody wakes it. Probes wake it only from an eighth of the ring
/// on: a wake-up costs the traced process far more than a record (1.4 µs against 25 ns in a published measurement).
const POLL: Duration = Duration::from_millis(5);
/// Pause after a round that found little: records gather meanwhile, and fewer batches are paid for: each wakes the pipeline, the recorder and
/// their queues (of a saturated server's tracer, a quarter of the CPU samples were in `sched_yield` and the switch behind it with
/// 1 ms). Not taken with rings so small that it would matter ([`PAUSE_RING_BYTES`]): 4 ms of 100,000 events a second are 140 KiB.
const PAUSE: Duration = Duration::from_millis(4);
/// Rings from this size on have room for a [`PAUSE`] at any rate that a host can make.
const PAUSE_RING_BYTES: u64 = 4 << 20;
/// Bytes that are little.
const LITTLE: usize = 64 * 1024;
/// Batches that wait for the pipeline from which on small ones are filled up before they are handed on: it has enough to do, and a queue whose room is
/// counted in batches holds its bytes only when they are whole. Handed on as they come, every 4 ms, 256 were there after a second in which the
/// pipeline stood still.
const BEHIND: usize = 8;
/// From which on stacks give way: with up to 17 KB each they take more of the queue than the requests whose they are. 8 MiB that wait, of 64.
const FAR_BEHIND: usize = 32;
/// Events of the reader's own that wait for room in the queue. At most two a second, and sums, which come again.
const MAX_WAITING: usize = 4096;
/// How long the last batches wait for a slow pipeline, once nothing is traced any more.
const LAST_PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks at whether there is room for them.
const LAST_PAUSE: Duration = Duration::from_millis(1);
/// Age at which a sum is read out of the kernel.
const SUM_PERIOD: Duration = Duration::from_millis(250);
/// Counters become an event this often.
const COUNTER_PERIOD: Duration = Duration::from_secs(1);
/// The longest that the pipeline goes without hearing what time it is.
const TICK_PERIOD: Duration = Duration::from_millis(100);
/// Both clocks are read this often, and when the wall clock is found to have stepped.
const ANCHOR_PERIOD: Duration = Duration::from_secs(60);
/// Difference between two readings that is a step of the wall clock, not its slewing (500 ppm of a second is 0.5 ms).
const STEP_NS: u64 = 1_000_000;

/// Connections looked at for sums, or for dead ones, in one round.
const MAX_SUMS_READ: usize = 262_144;
/// Dead Unix sockets are looked for this often: a look at 65,536 connections takes some 100 ms.
const SWEEP_PERIOD: Duration = Duration::from_secs(5);

/// What the reader hands on.
pub enum RawBatch {
    /// Whole records, each padded to 8 bytes; [`records`] takes them apart.
    Records(Bytes),
    /// Events that the reader made itself.
    Events(Vec<Event>),
}

/// The reader's end of the queue of batches.
pub struct BatchSender {
    queue: SyncSender<RawBatch>,
    n_waiting: Arc<AtomicUsize>,
}

/// The pipeline's end.
pub struct BatchReceiver {
    queue: Receiver<RawBatch>,
    n_waiting: Arc<AtomicUsize>,
}

/// A queue of so many batches.
pub fn batch_queue(n: usize) -> (BatchSender, BatchReceiver) {
    let (sender, receiver) = mpsc::sync_channel(n);
    let n_waiting = Arc::new(AtomicUsize::new(0));
    let sender = BatchSender { queue: sender, n_waiting: n_waiting.clone() };
    (sender, BatchReceiver { queue: receiver, n_waiting })
}

impl BatchSender {
    fn try_send(&self, batch: RawBatch) -> Result<(), TrySendError<RawBatch>> {
        // Before it is sent: what counts down must not be first.
        self.n_waiting.fetch_add(1, Ordering::Relaxed);
        let sent = self.queue.try_send(batch);
        if sent.is_err() {
            self.n_waiting.fetch_sub(1, Ordering::Relaxed);
        }
        sent
    }

    fn n_waiting(&self) -> usize {
        self.n_waiting.load(Ordering::Relaxed)
    }
}

impl BatchReceiver {
    /// Waits for the next one.
    pub fn recv(&self) -> Result<RawBatch, RecvError> {
        let batch = self.queue.recv()?;
        self.n_waiting.fetch_sub(1, Ordering::Relaxed);
        Ok(batch)
    }
}

/// Splits a batch into its records without copying.
pub fn records(batch: &Bytes) -> impl Iterator<Item = Bytes> + '_ {
    let mut at = 0;
    std::iter::from_fn(move || {
        let (header, _) = abi::Header::read_from_prefix(batch.get(at..)?).ok()?;
        let length = (header.length as usize).clamp(size_of::<abi::Header>(), batch.len() - at);
        let record = batch.slice(at..at + length);
        at += length.next_multiple_of(8).min(batch.len() - at);
        Some(record)
    })
}

/// The reader's thread body. Ends, with the probes detached and the ring drained, after `stop` is set.
pub struct Reader {
    loaded: Option<Loaded>,
    /// Until the probes are detached. `None` where there is nothing for it to do.
    datagram_exit: Option<DatagramExit>,
    kernel_log: KernelLog,
    ring: RingBuf<MapData>,
    /// `None` where its pages cannot be mapped: the gauges are absent.
    fill: Option<RingFill>,
    /// Until the probes are detached. `None` where the kernel does not count.
    meter: Option<Meter>,
    /// Its last sample; empty before the first.
    sample: Sample,
    stats: PerCpuArray<MapData, u64>,
    conns: HashMap<MapData, u64, abi::Conn>,
    queue: BatchSender,
    metrics: Metrics,
    stop: Arc<AtomicBool>,
    names: Vec<Arc<str>>,
    batch: BytesMut,
    n_records: u64,
    ring_bytes: u64,
    /// Events of the reader's own for which the queue had no room yet. At most [`MAX_WAITING`].
    waiting: Vec<Event>,
    /// Sums handed on and not grown since: (connection, direction) → end. At most two per connection in the kernel's map.
    told: FxHashMap<(u64, usize), u64>,
    sweep: Sweep,
    /// What came of the probes on TLS libraries.
    tls: Option<StatusHandle>,
    /// Until when a full queue is waited for; set when the probes are detached.
    last_wait: Option<Instant>,
}

/// A map of the object could not be taken.
#[derive(Debug, thiserror::Error)]
#[error("open the map {name}: {reason}")]
pub struct MapError {
    name: &'static str,
    reason: String,
}

impl Reader {
    /// Takes the reader's maps out of the loaded object.
    pub fn new(
        mut loaded: Loaded,
        ring_bytes: u32,
        queue: BatchSender,
        metrics: Metrics,
        stop: Arc<AtomicBool>,
    ) -> Result<Reader, MapError> {
        fn take<T: TryFrom<aya::maps::Map, Error = aya::maps::MapError>>(
            loaded: &mut Loaded,
            name: &'static str,
        ) -> Result<T, MapError> {
            let map = loaded
                .ebpf
                .take_map(name)
                .ok_or(MapError { name, reason: "the object has none of that name".to_owned() })?;
            T::try_from(map).map_err(|error| MapError { name, reason: error.to_string() })
        }
        let ring: RingBuf<MapData> = take(&mut loaded, "EVENTS")?;
        let stats = take(&mut loaded, "STATS")?;
        let conns = take(&mut loaded, "CONNS")?;
        let names = abi::STAT_NAMES.iter().map(|name| format!("kernel.{name}").into()).collect();
        let kernel_log = KernelLog::take(&mut loaded.ebpf);
        let datagram_exit = DatagramExit::take(&mut loaded);
        Ok(Reader {
            meter: Meter::of(&loaded),
            sample: Vec::new(),
            loaded: Some(loaded),
            datagram_exit,
            kernel_log,
            fill: RingFill::new(ring.as_fd()).ok(),
            ring,
            stats,
            conns,
            queue,
            metrics,
            stop,
            names,
            batch: BytesMut::with_capacity(BATCH_BYTES * 2),
            n_records: 0,
            ring_bytes: u64::from(ring_bytes),
            waiting: Vec::new(),
            told: FxHashMap::default(),
            sweep: Sweep::default(),
            tls: None,
            last_wait: None,
        })
    }

    /// Tells what comes of the probes on TLS libraries too.
    #[must_use]
    pub fn with_tls(self, tls: Option<StatusHandle>) -> Reader {
        Reader { tls, ..self }
    }

    /// Runs until `stop`.
    pub fn run(mut self) {
        let mut anchor = read_anchor();
        self.hand_on_own(Event::Anchor(anchor));
        let mut last_sums = Instant::now();
        let mut last_counters = Instant::now();
        let mut last_sweep = Instant::now();
        let mut last_tick = Instant::now();
        let mut last_anchor = Instant::now();
        // Rounds that found nothing since the probes were detached.
        let mut n_empty = 0;
        loop {
            if self.stop.load(Ordering::Relaxed) && self.last_wait.is_none() {
                if let Some(Err(error)) = self.loaded.as_mut().map(Loaded::disarm) {
                    tracing::warn!(%error, "the run does not end at one instant");
                }
                self.count_not_run();
                // Detaches every program; what they wrote is still in the ring.
                self.datagram_exit.as_mut().map(DatagramExit::stop);
                self.loaded = None;
                // Waits for a sample to be broken off, which now costs nobody anything.
                self.meter = None;
                self.last_wait = Some(Instant::now() + LAST_PATIENCE);
            }
            let drained = self.drain();
            self.hand_on_waiting();
            self.kernel_log.drain();
            if let (Some(exit), Some(loaded)) = (&mut self.datagram_exit, &mut self.loaded) {
                exit.look(loaded, Instant::now());
            }
            if self.last_wait.is_some() {
                n_empty = if drained == 0 { n_empty + 1 } else { 0 };
                // A program that was running when it was detached may still be writing: one more look after a pause.
                if n_empty == 2 {
                    break;
                }
            }
            if last_sums.elapsed() >= SUM_PERIOD {
                last_sums = Instant::now();
                self.read_sums();
            }
            if last_sweep.elapsed() >= SWEEP_PERIOD && self.last_wait.is_none() {
                last_sweep = Instant::now();
                self.sweep();
            }
            if last_counters.elapsed() >= COUNTER_PERIOD {
                last_counters = Instant::now();
                self.read_counters();
                let now = read_anchor();
                let stepped = now.wall.0.abs_diff(anchor.wall(now.boot).0) > STEP_NS;
                if stepped || last_anchor.elapsed() >= ANCHOR_PERIOD {
                    last_anchor = Instant::now();
                    anchor = now;
                    self.tell(Event::Anchor(anchor));
                }
            }
            if last_tick.elapsed() >= TICK_PERIOD {
                last_tick = Instant::now();
                self.tell(Event::Tick(boot_now()));
            }
            if drained == 0 {
                self.wait();
            } else if drained < LITTLE && self.ring_bytes >= PAUSE_RING_BYTES {
                std::thread::sleep(PAUSE);
            }
        }
        self.read_sums();
        self.read_counters();
        self.tell(Event::Tick(boot_now()));
    }

    /// Hands on an event of the reader's own, behind every record that is older: those that the ring holds by now. A time that
    /// overtook them would make them late, and what is late is not put in order.
    fn tell(&mut self, event: Event) {
        self.drain();
        self.hand_on_own(event);
    }

    /// Copies what is in the ring; returns how many bytes.
    fn drain(&mut self) -> usize {
        // Here it is fullest.
        if let Some(fill) = &mut self.fill {
            fill.used();
        }
        // Bounded, so that the clocks and counters are served however fast the ring fills.
        let limit = self.ring_bytes as usize;
        let mut copied = 0;
        while copied < limit {
            let Some(record) = self.ring.next() else { break };
            let (kind, length) = match abi::Header::read_from_prefix(&record) {
                Ok((header, _)) => {
                    (header.kind, (header.length as usize).clamp(size_of::<abi::Header>(), record.len()))
                }
                Err(_) => (0, record.len()),
            };
            if kind == abi::KIND_STACK && self.queue.n_waiting() >= FAR_BEHIND {
                self.metrics.add(Counter::RingRead, 1);
                self.metrics.add(Counter::StacksGaveWay, 1);
                copied += length;
                continue;
            }
            self.batch.extend_from_slice(&record[..length]);
            drop(record);
            let padded = self.batch.len().next_multiple_of(8);
            self.batch.resize(padded, 0);
            self.n_records += 1;
            copied += length;
            if self.batch.len() >= BATCH_BYTES {
                self.flush();
            }
        }
        if !self.gathers() {
            self.flush();
        }
        copied
    }

    /// Whether the pipeline has enough to do, so that small batches and the reader's own events are kept until there are more.
    fn gathers(&self) -> bool {
        self.queue.n_waiting() >= BEHIND && self.last_wait.is_none()
    }

    fn flush(&mut self) {
        if self.n_records == 0 {
            return;
        }
        let n_records = std::mem::take(&mut self.n_records);
        self.metrics.add(Counter::RingRead, n_records);
        let batch = self.batch.split().freeze();
        if self.batch.capacity() < BATCH_BYTES {
            // In the memory of batches that are done with, if there are some.
            self.batch.reserve(BATCH_BYTES * 2);
        }
        self.hand_on(RawBatch::Records(batch), n_records);
    }

    /// Hands on without waiting; a full queue costs the batch, counted. Once the probes are detached, waiting costs nobody
    /// anything.
    fn hand_on(&mut self, batch: RawBatch, n_records: u64) {
        match self.offer(batch) {
            Ok(()) => {}
            Err(Some(_)) => self.metrics.add(Counter::BatchQueueFull, n_records),
            // The pipeline is gone: the run is over.
            Err(None) => self.stop.store(true, Ordering::Relaxed),
        }
    }

    /// Hands on an event of the reader's own, with those that wait. They are never dropped for a full queue while there are
    /// fewer than [`MAX_WAITING`]: clocks and counters are what losses are told by.
    fn hand_on_own(&mut self, event: Event) {
        if let (Event::Tick(_), Some(last @ Event::Tick(_))) = (&event, self.waiting.last_mut()) {
            *last = event;
        } else if self.waiting.len() < MAX_WAITING {
            self.waiting.push(event);
        } else {
            self.metrics.add(Counter::OwnEventsFull, 1);
        }
        self.hand_on_waiting();
    }

    fn hand_on_waiting(&mut self) {
        if self.waiting.is_empty() || (self.gathers() && self.waiting.len() < MAX_WAITING / 2) {
            return;
        }
        // What was drained before goes before.
        self.flush();
        let events = std::mem::take(&mut self.waiting);
        match self.offer(RawBatch::Events(events)) {
            Ok(()) | Err(Some(RawBatch::Records(_))) => {}
            Err(Some(RawBatch::Events(events))) => self.waiting = events,
            Err(None) => self.stop.store(true, Ordering::Relaxed),
        }
    }

    /// Gives back what the queue has no room for, `None` if nobody reads it any more.
    fn offer(&self, batch: RawBatch) -> Result<(), Option<RawBatch>> {
        let mut batch = batch;
        loop {
            match self.queue.try_send(batch) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Disconnected(_)) => return Err(None),
                Err(TrySendError::Full(refused)) => batch = refused,
            }
            if self.last_wait.is_none_or(|last_wait| Instant::now() >= last_wait) {
                return Err(Some(batch));
            }
            std::thread::sleep(LAST_PAUSE);
        }
    }

    fn wait(&self) {
        let mut poll = libc::pollfd { fd: self.ring.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one valid pollfd; the descriptor is owned by `ring`.
        unsafe { libc::poll(&raw mut poll, 1, POLL.as_millis() as libc::c_int) };
    }

    fn stat(&self, index: u32) -> u64 {
        self.stats.get(&index, 0).map_or(0, |values| values.iter().sum())
    }

    /// Bytes that were summed and whose connection had no event since: as events with the kernel's times. The kernel keeps
    /// its sum; when it sends it later, the stream drops by position what it has already.
    fn read_sums(&mut self) {
        let begun = self.stat(abi::Stat::SumsBegun as u32);
        let sent = self.stat(abi::Stat::SumsSent as u32);
        if begun <= sent {
            self.told.clear();
            return;
        }
        // Half of the room is kept for clocks and counters; sums that find none come again.
        let room = (MAX_WAITING / 2).saturating_sub(self.waiting.len());
        // Sums of before that are still there; the others are forgotten with the old map.
        let mut told = FxHashMap::default();
        let mut events = Vec::new();
        // The map changes while it is read: a key that vanishes sends the iteration back to the start.
        for entry in self.conns.iter().take(MAX_SUMS_READ) {
            let Ok((_, conn)) = entry else { break };
            for (direction, sum) in conn.sum.iter().enumerate() {
                if sum.bytes == 0 || conn.opened == 0 {
                    continue;
                }
                // An idle connection's sum stays where it is, for hours perhaps: once is enough.
                let end = sum.position.wrapping_add(sum.bytes);
                let is_told = self.told.get(&(conn.id, direction)) == Some(&end);
                if !is_told && events.len() == room {
                    continue;
                }
                let is_repeated = told.insert((conn.id, direction), end) == Some(end);
                if is_told || is_repeated {
                    continue;
                }
                let egress = if direction == usize::from(abi::EGRESS) { abi::FLAG_EGRESS } else { 0 };
                events.push(Event::Data(Data {
                    time: BootTime(sum.last_ns),
                    first: BootTime(sum.first_ns),
                    arrival: BootTime(0),
                    conn: ConnId(conn.id),
                    position: sum.position,
                    bytes: sum.bytes,
                    turn: sum.turn,
                    flags: abi::FLAG_SUMMED | egress,
                    pid: sum.pid,
                    tid: sum.tid,
                    n_calls: sum.n_calls,
                    kernel_ns: sum.kernel_ns,
                    // What another thread moved first says nothing of this one's time.
                    off_cpu: if sum.tid == sum.tid_last { sum.off_cpu } else { 0 },
                    goroutine: 0,
                    rtt_us: conn.rtt_us,
                    retransmits: conn.retransmits,
                    error: 0,
                    comm: [0; 16],
                    payload: Bytes::new(),
                }));
            }
        }
        self.told = told;
        // What their connections did before is in the ring by now: it goes first.
        self.drain();
        self.waiting.append(&mut events);
        self.hand_on_waiting();
    }

    /// Takes dead Unix sockets out of the kernel's map and tells their end.
    fn sweep(&mut self) {
        let Reader { conns, sweep, .. } = self;
        let dead = sweep.dead(conns.iter().take(MAX_SUMS_READ).map_while(Result::ok));
        for (key, conn) in dead {
            // The memory may belong to another socket by now.
            if !self.conns.get(&key, 0).is_ok_and(|now| now.id == conn.id) || self.conns.remove(&key).is_err()
            {
                continue;
            }
            if conn.opened != 0 {
                self.tell(Event::ConnClose(ConnClose {
                    time: boot_now(),
                    conn: ConnId(conn.id),
                    position: conn.position,
                    turn: conn.turn,
                    reason: abi::CLOSE_REPLACED,
                    n_refused: conn.n_refused,
                    error: conn.error,
                }));
            }
        }
    }

    fn count_not_run(&mut self) {
        let n = self.loaded.as_ref().map_or(NotRun::default(), Loaded::not_run);
        for (counter, n) in [(Counter::ProbeNotRun, n.others), (Counter::ArrivalNotRun, n.arrivals)] {
            self.metrics.add(counter, n.saturating_sub(self.metrics.get(counter)));
        }
    }

    /// All counters of this instant as one event.
    fn read_counters(&mut self) {
        self.count_not_run();
        let mut values: Vec<(Arc<str>, u64)> =
            self.names.iter().zip(0u32..).map(|(name, index)| (name.clone(), self.stat(index))).collect();
        values.extend(self.metrics.all().map(|(counter, value)| (counter.name().into(), value)));
        values.push(("txray.cpu_ns".into(), clock(libc::CLOCK_PROCESS_CPUTIME_ID)));
        values.extend(resident_bytes().map(|bytes| ("gauge.resident_bytes".into(), bytes)));
        values.push(("gauge.ring_bytes".into(), self.ring_bytes));
        if let Some(exit) = &self.datagram_exit {
            values.push(("datagram_exit.attached".into(), exit.n_attached()));
        }
        if let Some(tls) = &self.tls {
            let status = tls.get();
            values.extend([
                ("tls.processes".into(), status.n_processes as u64),
                ("tls.places".into(), status.n_places as u64),
                ("tls.left_opaque".into(), status.left_opaque.len() as u64),
                ("tls.over_limit".into(), status.n_over_limit),
                ("tls.looks_lost".into(), status.n_lost),
                ("tls.ns_per_call".into(), status.ns_per_call),
            ]);
        }
        if let Some(fill) = &mut self.fill {
            values.push(("gauge.ring_used_bytes".into(), fill.used()));
            values.push(("gauge.ring_used_most_bytes".into(), fill.most()));
        }
        if let Some(sample) = self.meter.as_ref().and_then(Meter::news) {
            self.sample = sample;
        }
        // Behind the others: they come later, and a counter keeps its place.
        values.extend(self.sample.iter().cloned());
        let counters = Counters { time: boot_now(), values };
        self.tell(Event::Counters(counters));
    }
}

/// Resident memory of this process; `None` where `/proc` does not say (proc(5), `statm`).
fn resident_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split_ascii_whitespace().nth(1)?.parse().ok()?;
    // SAFETY: no pointers; the page size always exists.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    Some(pages * u64::try_from(page).ok()?)
}

fn clock(id: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a valid pointer; both clocks exist on every kernel that runs BPF ring buffers.
    unsafe { libc::clock_gettime(id, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Boot time now.
pub fn boot_now() -> BootTime {
    BootTime(clock(libc::CLOCK_BOOTTIME))
}

/// Reads both clocks: the wall clock between two readings of the boot clock, the closest of five tries.
pub fn read_anchor() -> Anchor {
    let mut best = (u64::MAX, Anchor::default());
    for _ in 0..5 {
        let before = clock(libc::CLOCK_BOOTTIME);
        let wall = clock(libc::CLOCK_REALTIME);
        let after = clock(libc::CLOCK_BOOTTIME);
        let width = after - before;
        if width < best.0 {
            best = (width, Anchor { boot: BootTime(before + width / 2), wall: WallTime(wall) });
        }
    }
    best.1
}
