//! The ring reader: one thread that copies records into batches and waits for nothing downstream; and, because it is the
//! thread that owns the kernel's maps, the one that reads counters, clocks and sums that no event has carried.

use std::{
    os::fd::AsRawFd as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use aya::maps::{HashMap, MapData, PerCpuArray, RingBuf};
use bytes::{Bytes, BytesMut};
use crossbeam_channel::{Sender, TrySendError};
use tracer_ebpf as abi;
use zerocopy::FromBytes as _;

use crate::{
    bpf::load::Loaded,
    event::{ConnId, Counters, Data, Event},
    metrics::{Counter, Metrics},
    time::{Anchor, BootTime, WallTime},
};

/// Bytes copied into one batch before it is handed on. 256 KiB hold about 1,500 records of small requests.
const BATCH_BYTES: usize = 256 * 1024;
/// How long the reader sleeps when the ring is empty and nobody wakes it. Probes wake it only from an eighth of the ring
/// on: a wake-up costs the traced process far more than a record (1.4 µs against 25 ns in a published measurement).
const POLL: Duration = Duration::from_millis(5);
/// Age at which a sum is read out of the kernel.
const SUM_PERIOD: Duration = Duration::from_millis(250);
/// Counters become an event this often.
const COUNTER_PERIOD: Duration = Duration::from_secs(1);
/// Both clocks are read this often, and when the wall clock is found to have stepped.
const ANCHOR_PERIOD: Duration = Duration::from_secs(60);
/// Difference between two readings that is a step of the wall clock, not its slewing (500 ppm of a second is 0.5 ms).
const STEP_NS: u64 = 1_000_000;

/// What the reader hands on.
pub enum RawBatch {
    /// Whole records, each padded to 8 bytes; [`records`] takes them apart.
    Records(Bytes),
    /// Events that the reader made itself.
    Events(Vec<Event>),
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
    ring: RingBuf<MapData>,
    stats: PerCpuArray<MapData, u64>,
    conns: HashMap<MapData, u64, abi::Conn>,
    queue: Sender<RawBatch>,
    metrics: Metrics,
    stop: Arc<AtomicBool>,
    names: Vec<Arc<str>>,
    batch: BytesMut,
    n_records: u64,
    ring_bytes: u64,
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
        queue: Sender<RawBatch>,
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
        let ring = take(&mut loaded, "EVENTS")?;
        let stats = take(&mut loaded, "STATS")?;
        let conns = take(&mut loaded, "CONNS")?;
        let names = abi::STAT_NAMES.iter().map(|name| format!("kernel.{name}").into()).collect();
        Ok(Reader {
            loaded: Some(loaded),
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
        })
    }

    /// Runs until `stop`.
    pub fn run(mut self) {
        let mut anchor = read_anchor();
        self.hand_on(RawBatch::Events(vec![Event::Anchor(anchor)]), 0);
        let mut last_sums = Instant::now();
        let mut last_counters = Instant::now();
        let mut last_anchor = Instant::now();
        let mut stopping = false;
        loop {
            if self.stop.load(Ordering::Relaxed) && !stopping {
                stopping = true;
                // Detaches every program; what they wrote is still in the ring.
                self.loaded = None;
            }
            let drained = self.drain();
            if stopping && drained == 0 {
                break;
            }
            if last_sums.elapsed() >= SUM_PERIOD {
                last_sums = Instant::now();
                self.read_sums();
            }
            if last_counters.elapsed() >= COUNTER_PERIOD {
                last_counters = Instant::now();
                self.read_counters();
                let now = read_anchor();
                let stepped = now.wall.0.abs_diff(anchor.wall(now.boot).0) > STEP_NS;
                if stepped || last_anchor.elapsed() >= ANCHOR_PERIOD {
                    last_anchor = Instant::now();
                    anchor = now;
                    self.hand_on(RawBatch::Events(vec![Event::Anchor(anchor)]), 0);
                }
            }
            if drained == 0 {
                self.wait();
            }
        }
        self.read_sums();
        self.read_counters();
        self.hand_on(RawBatch::Events(vec![Event::Tick(boot_now())]), 0);
    }

    /// Copies what is in the ring; returns how many records.
    fn drain(&mut self) -> u64 {
        let mut n = 0;
        // Bounded, so that the clocks and counters are served however fast the ring fills.
        let limit = self.ring_bytes as usize;
        let mut copied = 0;
        while copied < limit {
            let Some(record) = self.ring.next() else { break };
            let length = match abi::Header::read_from_prefix(&record) {
                Ok((header, _)) => (header.length as usize).clamp(size_of::<abi::Header>(), record.len()),
                Err(_) => record.len(),
            };
            self.batch.extend_from_slice(&record[..length]);
            drop(record);
            let padded = self.batch.len().next_multiple_of(8);
            self.batch.resize(padded, 0);
            self.n_records += 1;
            n += 1;
            copied += length;
            if self.batch.len() >= BATCH_BYTES {
                self.flush();
            }
        }
        self.flush();
        n
    }

    fn flush(&mut self) {
        if self.n_records == 0 {
            return;
        }
        let n_records = std::mem::take(&mut self.n_records);
        self.metrics.add(Counter::RingRead, n_records);
        let batch = self.batch.split().freeze();
        self.batch.reserve(BATCH_BYTES * 2);
        self.hand_on(RawBatch::Records(batch), n_records);
    }

    /// Hands on without waiting; a full queue costs the batch, counted.
    fn hand_on(&mut self, batch: RawBatch, n_records: u64) {
        match self.queue.try_send(batch) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => self.metrics.add(Counter::BatchQueueFull, n_records),
            // The pipeline is gone: the run is over.
            Err(TrySendError::Disconnected(_)) => self.stop.store(true, Ordering::Relaxed),
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
            return;
        }
        let mut events = Vec::new();
        for entry in self.conns.iter() {
            let Ok((_, conn)) = entry else { break };
            for (direction, sum) in conn.sum.iter().enumerate() {
                if sum.bytes == 0 || conn.opened == 0 {
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
                    error: 0,
                    comm: [0; 16],
                    payload: Bytes::new(),
                }));
            }
        }
        if !events.is_empty() {
            self.hand_on(RawBatch::Events(events), 0);
        }
    }

    /// All counters of this instant as one event.
    fn read_counters(&mut self) {
        let mut values: Vec<(Arc<str>, u64)> =
            self.names.iter().zip(0u32..).map(|(name, index)| (name.clone(), self.stat(index))).collect();
        values.extend(self.metrics.all().map(|(counter, value)| (counter.name().into(), value)));
        let counters = Counters { time: boot_now(), values };
        self.hand_on(RawBatch::Events(vec![Event::Counters(counters)]), 0);
    }
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
