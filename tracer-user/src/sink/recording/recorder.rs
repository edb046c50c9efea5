//! The recorder: a tap that never waits, and the thread that writes what it takes.

use std::{
    fs::File,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::{
    Folder, Owner, PartWriter, RecordError, RecordingConfig, RollupRecorder, Shared, lock, seal::Sealer,
};
use crate::{
    conn::order,
    event::{Event, EventBatch, Loss, LossReason},
    metrics::{Counter, Metrics},
    schema::{Dataset, PayloadMode, RunId, event_rows::EventRows, journal::FrameMeta, transaction_rows},
    sink::parquet::ParquetSink,
    time::{Anchor, BootTime},
    transaction::Transaction,
};

/// Memory that an event takes in the queue beside its payload.
const EVENT_BYTES: u64 = 160;
/// After a hole the recorder asks for a checkpoint, so that a replay can go on exactly; not more often than this.
const CHECKPOINT_AFTER_HOLE: Duration = Duration::from_secs(5);
/// After a quiet minute a checkpoint is written only if this share of the rows came that call for one otherwise: 8,192 events are played
/// in 16 ms.
const WORTHWHILE: u64 = 16;
/// A part that is this many times as long as it should be ends without a checkpoint.
const OVERDUE: u64 = 2;

/// Stores what the pipeline consumes. Lives on the pipeline's thread; see [`crate::sink::recording`].
///
/// ```text
/// recorder.checkpoint(pipeline.checkpoint(), first ordinal)   before the first batch
/// loop: recorder.tap(&batch); pipeline.push_batch(&batch);
///       if recorder.wants_checkpoint() { recorder.checkpoint(pipeline.checkpoint(), next ordinal) }
/// recorder.finish()
/// ```
#[derive(Debug)]
pub struct Recorder {
    queue: SyncSender<Item>,
    queued_bytes: Arc<AtomicU64>,
    max_queued_bytes: u64,
    wants_checkpoint: Arc<AtomicBool>,
    /// What did not fit since the last item that did.
    hole: Option<Loss>,
    last_time: BootTime,
    shared: Arc<Shared>,
    transactions: Arc<Mutex<TransactionWriter>>,
    rollups: RollupRecorder,
    thread: JoinHandle<RecorderSummary>,
    sealer: Sealer,
    /// Held until the end: one writer per folder.
    _lock: File,
}

/// What a recording came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecorderSummary {
    /// Events stored.
    pub n_events: u64,
    /// Events lost between the tap and the disk.
    pub n_lost: u64,
    /// Journals that could not be sealed (disk full): readable as they are, `recover` seals them.
    pub n_unsealed: u64,
}

#[derive(Debug)]
enum Item {
    Batch(Arc<EventBatch>),
    Hole(Loss),
    Checkpoint { state: Vec<u8>, ordinal: u64 },
}

impl Item {
    fn bytes(&self) -> u64 {
        match self {
            Item::Batch(batch) => batch.events.iter().fold(0, |sum, event| {
                let payload = if let Event::Data(data) = event { data.payload.len() as u64 } else { 0 };
                sum + EVENT_BYTES + payload
            }),
            Item::Hole(_) => EVENT_BYTES,
            Item::Checkpoint { state, .. } => state.len() as u64,
        }
    }
}

impl Recorder {
    /// Opens the recording: makes its folder, takes its lock, tries whether it can be written. Call it before anything is
    /// attached, so that a folder that cannot be used is known in the first instant.
    pub fn start(config: RecordingConfig, metrics: Metrics) -> Result<Recorder, RecordError> {
        let dir = config.dir.clone();
        let failed = |source| RecordError::Folder { dir: dir.clone(), source };
        let root = Folder::create(&dir, Owner::behind_sudo()).map_err(failed)?;
        let held = lock(&root).map_err(|source| match source.kind() {
            std::io::ErrorKind::WouldBlock => RecordError::Locked { dir: dir.clone() },
            _ => failed(source),
        })?;
        try_to_write(&root).map_err(failed)?;
        for dataset in Dataset::ALL {
            root.sub(dataset.as_str()).map_err(failed)?;
        }
        let run = RunId(draw().map_err(failed)?);
        let shared = Arc::new(Shared::new(config, metrics, root, run));
        let (sealer, jobs) = Sealer::start(shared.clone()).map_err(RecordError::Thread)?;
        let transactions = Arc::new(Mutex::new(TransactionWriter::new(
            PartWriter::new(shared.clone(), Dataset::Transactions, jobs.clone()),
            shared.clone(),
        )));
        let part = PartWriter::new(shared.clone(), Dataset::Rollups, jobs.clone());
        let rollups = RollupRecorder::new(part, shared.clone());
        let (queue, items) = sync_channel(shared.config.queue_batches.max(1));
        let queued_bytes = Arc::new(AtomicU64::new(0));
        let wants_checkpoint = Arc::new(AtomicBool::new(true));
        let writer = EventWriter {
            rows: EventRows::new(shared.config.payload, 4_096),
            part: PartWriter::new(shared.clone(), Dataset::Events, jobs),
            anchor: None,
            last_time: BootTime(0),
            next: 0,
            frame: FrameState::default(),
            checkpoint_first: false,
            since: None,
            is_owed: false,
            // The first one comes without being asked for.
            is_asked: true,
            last: LastCheckpoint::default(),
            wants_checkpoint: wants_checkpoint.clone(),
            summary: RecorderSummary::default(),
            shared: shared.clone(),
        };
        let (ticking, counted) = (transactions.clone(), queued_bytes.clone());
        let thread = thread::Builder::new()
            .name("txray-recorder".to_owned())
            .spawn(move || writer.run(&items, &ticking, &counted))
            .map_err(RecordError::Thread)?;
        Ok(Recorder {
            queue,
            queued_bytes,
            max_queued_bytes: shared.config.queue_bytes,
            wants_checkpoint,
            hole: None,
            last_time: BootTime(0),
            shared,
            transactions,
            rollups,
            thread,
            sealer,
            _lock: held,
        })
    }

    /// The sink for the transactions of the same recording.
    pub fn transactions(&self) -> ParquetSink {
        ParquetSink::new(self.transactions.clone())
    }

    /// Where the sink that sums them up writes to.
    pub fn rollups(&self) -> RollupRecorder {
        self.rollups.clone()
    }

    /// Takes a batch. Never waits: what does not fit is counted and listed in the recording by its place and time.
    pub fn tap(&mut self, batch: &Arc<EventBatch>) {
        let Some(last) = batch.events.last() else { return };
        if !self.send(Item::Batch(batch.clone())) {
            let n = batch.events.len() as u64;
            self.shared.metrics.add(Counter::RecorderQueueFull, n);
            let time = self.last_time;
            let hole = self.hole.get_or_insert(Loss {
                time,
                first_ordinal: batch.first_ordinal,
                n: Some(0),
                reason: LossReason::QueueFull,
            });
            hole.n = Some((batch.first_ordinal + n).saturating_sub(hole.first_ordinal));
        }
        self.last_time = self.last_time.max(order::time(last));
    }

    /// Takes a batch, and waits until there is room: for a source that can wait.
    pub fn tap_waiting(&mut self, batch: &Arc<EventBatch>) {
        let item = Item::Batch(batch.clone());
        let bytes = item.bytes();
        let is_full = |queued: u64| queued != 0 && queued + bytes > self.max_queued_bytes;
        while is_full(self.queued_bytes.load(Ordering::Relaxed)) && !self.thread.is_finished() {
            thread::sleep(Duration::from_millis(1));
        }
        self.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        match self.queue.send(item) {
            Ok(()) => {
                let last = batch.events.last().map_or(BootTime(0), order::time);
                self.last_time = self.last_time.max(last);
            }
            // The thread is gone: counted as a batch that had no room.
            Err(_) => {
                self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
                self.tap(batch);
            }
        }
    }

    /// Whether a checkpoint is due: the pipeline's state is wanted, at any moment between two batches.
    pub fn wants_checkpoint(&self) -> bool {
        self.wants_checkpoint.load(Ordering::Relaxed)
    }

    /// Takes the pipeline's state before the event `ordinal` (the one that the next batch begins with). Never waits; where
    /// there is no room, it is asked for again.
    pub fn checkpoint(&mut self, state: Vec<u8>, ordinal: u64) {
        // The recorder asks again when it has this one at the earliest: that must not be taken back.
        self.wants_checkpoint.store(false, Ordering::Relaxed);
        if !self.send(Item::Checkpoint { state, ordinal }) {
            self.wants_checkpoint.store(true, Ordering::Relaxed);
        }
    }

    /// Queues an item, and what is known of a hole before it. `false` when there is no room.
    fn send(&mut self, item: Item) -> bool {
        let bytes = item.bytes();
        let queued = self.queued_bytes.load(Ordering::Relaxed);
        // An item that is larger than the whole queue goes alone.
        if queued != 0 && queued + bytes > self.max_queued_bytes {
            return false;
        }
        if let Some(hole) = self.hole {
            match self.queue.try_send(Item::Hole(hole)) {
                Ok(()) => self.queued_bytes.fetch_add(EVENT_BYTES, Ordering::Relaxed),
                Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => return false,
            };
            self.hole = None;
        }
        self.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        match self.queue.try_send(item) {
            Ok(()) => true,
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
                false
            }
        }
    }

    /// Writes what is queued, seals what is open, and ends. The sinks of [`Recorder::transactions`] and [`Recorder::rollups`] must have
    /// finished.
    pub fn finish(self) -> Result<RecorderSummary, RecordError> {
        let Recorder { queue, hole, transactions, rollups, thread, sealer, .. } = self;
        if let Some(hole) = hole {
            // Waits: nothing else is coming. Fails only when the thread is gone, which the join below reports.
            let _ = queue.send(Item::Hole(hole));
        }
        drop(queue);
        let mut summary = thread.join().map_err(|_| RecordError::Stopped)?;
        // They drop the last senders of the sealer's queue.
        lock_transactions(&transactions).close();
        rollups.close();
        summary.n_unsealed = sealer.finish().ok_or(RecordError::Stopped)?;
        Ok(summary)
    }
}

/// A lock is poisoned when its holder panicked, which ends the run anyway.
pub(in crate::sink) fn lock_transactions(
    writer: &Mutex<TransactionWriter>,
) -> std::sync::MutexGuard<'_, TransactionWriter> {
    writer.lock().unwrap_or_else(PoisonError::into_inner)
}

fn try_to_write(root: &Folder) -> std::io::Result<()> {
    use std::io::Write as _;
    let name = format!("_try-{}", std::process::id());
    root.remove_file(&name)?;
    let written = root.create_file(&name)?.write_all(&[0; 4096]);
    root.remove_file(&name)?;
    written
}

/// A random number from the kernel: names the run.
fn draw() -> std::io::Result<u64> {
    let mut bytes = [0_u8; 8];
    // SAFETY: the buffer is valid for its length.
    let n = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    if n == 8 { Ok(u64::from_le_bytes(bytes)) } else { Err(std::io::Error::last_os_error()) }
}

/// The recorder's thread.
struct EventWriter {
    shared: Arc<Shared>,
    rows: EventRows,
    part: PartWriter,
    /// Ties boot time to the hours of the partitions.
    anchor: Option<Anchor>,
    /// Latest event time.
    last_time: BootTime,
    /// Ordinal behind the last event or hole.
    next: u64,
    frame: FrameState,
    /// The rows begin with a checkpoint.
    checkpoint_first: bool,
    /// When the oldest row that was not handed to the kernel came.
    since: Option<Instant>,
    /// A hole was written behind which no checkpoint stands yet, or one could not be written.
    is_owed: bool,
    /// A checkpoint was asked for and is not there yet: it is asked for once, because making it takes the pipeline's time.
    is_asked: bool,
    last: LastCheckpoint,
    wants_checkpoint: Arc<AtomicBool>,
    summary: RecorderSummary,
}

/// What the next checkpoint's time depends on.
#[derive(Clone, Copy, Debug, Default)]
struct LastCheckpoint {
    at: Option<Instant>,
    ordinal: u64,
    /// Event time before it; 0 = there was none yet.
    time: BootTime,
    n_bytes: u64,
    /// Bytes of the journals when it came.
    written: u64,
}

/// What is known of the rows that were not handed to the kernel.
#[derive(Clone, Copy, Debug, Default)]
struct FrameState {
    first: Option<u64>,
    next: u64,
    first_time: BootTime,
    n_events: u64,
    n_lost: u64,
}

impl FrameState {
    /// A row was added; `time` is 0 for a checkpoint, which has none of its own.
    fn add(&mut self, ordinal: u64, next: u64, time: BootTime) {
        self.first.get_or_insert(ordinal);
        if self.first_time == BootTime(0) {
            self.first_time = time;
        }
        self.next = self.next.max(next);
    }
}

impl EventWriter {
    fn run(
        mut self,
        items: &Receiver<Item>,
        transactions: &Mutex<TransactionWriter>,
        queued_bytes: &AtomicU64,
    ) -> RecorderSummary {
        // The machine's clock decides only when rows are handed to the kernel, never what they hold.
        let flush_after = self.shared.config.flush_after;
        loop {
            let wait = self.since.map_or(flush_after, |since| flush_after.saturating_sub(since.elapsed()));
            // Never without a pause, whatever is due.
            let wait = wait.max(Duration::from_micros(100));
            match items.recv_timeout(wait) {
                Ok(item) => {
                    let bytes = item.bytes();
                    self.take(item);
                    queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            // A checkpoint before the first anchor has no hour yet: it waits for the events that it stands before.
            let has_time = self.anchor.is_some() || self.frame.n_events + self.frame.n_lost != 0;
            if has_time && self.since.is_some_and(|since| since.elapsed() >= flush_after) {
                self.flush();
            }
            lock_transactions(transactions).flush_if_due();
        }
        self.flush();
        self.part.end();
        self.summary
    }

    fn take(&mut self, item: Item) {
        match item {
            Item::Batch(batch) => {
                for (ordinal, event) in (batch.first_ordinal..).zip(&batch.events) {
                    if let Event::Anchor(anchor) = event {
                        self.set_anchor(*anchor);
                    }
                    let time = order::time(event);
                    self.last_time = self.last_time.max(time);
                    self.add(ordinal, ordinal + 1, time);
                    self.frame.n_events += 1;
                    self.rows.push(ordinal, event);
                    if self.rows.is_full() {
                        self.flush();
                    }
                }
                self.ask_if_due();
            }
            Item::Hole(hole) => {
                self.summary.n_lost += hole.n.unwrap_or(0);
                self.push_hole(hole);
            }
            Item::Checkpoint { state, ordinal } => {
                if self.begins_part() || self.is_owed || self.is_due() {
                    self.take_checkpoint(&state, ordinal);
                }
                self.is_asked = false;
            }
        }
        if self.since.is_none() && !self.rows.is_empty() {
            self.since = Some(Instant::now());
        }
    }

    /// A row is added.
    fn add(&mut self, ordinal: u64, next: u64, time: BootTime) {
        self.frame.add(ordinal, next, time);
        self.next = self.next.max(next);
        if self.last.time == BootTime(0) {
            self.last.time = time;
        }
    }

    /// Whether a checkpoint that comes now begins a part.
    fn begins_part(&self) -> bool {
        self.part.fullness() >= 1 || self.part.hour().is_none()
    }

    /// Whether so much came since the last checkpoint that whoever goes to an instant should not have to play it.
    fn is_due(&self) -> bool {
        let config = &self.shared.config;
        if config.payload == PayloadMode::None {
            // Nothing can be replayed.
            return false;
        }
        let n_events = self.next.saturating_sub(self.last.ordinal);
        let span = Duration::from_nanos(self.last_time.0.saturating_sub(self.last.time.0));
        let n_bytes = self.part.n_bytes().saturating_sub(self.last.written);
        let is_long = span >= config.checkpoint_after && n_events >= config.checkpoint_rows / WORTHWHILE;
        (is_long || n_events >= config.checkpoint_rows)
            && n_bytes >= self.last.n_bytes.saturating_mul(config.checkpoint_share)
    }

    fn ask_if_due(&mut self) {
        if self.is_asked {
            return;
        }
        let rested = || self.last.at.is_none_or(|last| last.elapsed() >= CHECKPOINT_AFTER_HOLE);
        if self.part.fullness() >= 1 || self.is_due() || (self.is_owed && rested()) {
            self.is_asked = true;
            self.wants_checkpoint.store(true, Ordering::Relaxed);
        }
    }

    fn take_checkpoint(&mut self, state: &[u8], ordinal: u64) {
        // What is known of the frames before it is its horizon.
        self.flush();
        let begins = self.begins_part();
        if begins {
            self.part.end();
            self.checkpoint_first = self.rows.is_empty();
        }
        self.is_owed = false;
        self.add(ordinal, ordinal, BootTime(0));
        self.rows.push_checkpoint(ordinal, self.last_time, state);
        self.last = LastCheckpoint {
            at: Some(Instant::now()),
            ordinal,
            time: self.last_time,
            n_bytes: state.len() as u64,
            written: self.part.n_bytes() + state.len() as u64,
        };
        if !begins {
            // Alone in its frame: so readers find it.
            self.flush();
        }
    }

    /// Time is told by this anchor from now on.
    fn set_anchor(&mut self, anchor: Anchor) {
        if self.anchor.is_some() {
            // The frame before it tells its latest time by the anchor before: where the clock is set back, that is later than all that
            // follows, and counts for the horizon of checkpoints.
            self.last_time = self.last_time.max(anchor.boot);
            self.flush();
        }
        self.anchor = Some(anchor);
    }

    fn push_hole(&mut self, hole: Loss) {
        let n = hole.n.unwrap_or(0);
        self.add(hole.first_ordinal, hole.first_ordinal + n, hole.time);
        self.frame.n_lost += n;
        self.rows.push_hole(&hole);
        self.is_owed = true;
    }

    /// Hands the rows to the kernel. What cannot be written is lost, and a hole stands in its place: it is tried again with the
    /// next rows, until there is room.
    fn flush(&mut self) {
        let frame = std::mem::take(&mut self.frame);
        let Some(first) = frame.first else { return };
        self.since = None;
        let checkpoint = std::mem::take(&mut self.checkpoint_first);
        let batch = self.rows.finish();
        let wall = |time: BootTime| self.anchor.map_or(0, |anchor| anchor.wall(time).0);
        let meta = FrameMeta {
            rows: batch.num_rows() as u32,
            first,
            next: frame.next,
            last_time_ns: wall(self.last_time),
            lost: frame.n_lost,
        };
        let first_time_ns = wall(frame.first_time.known().unwrap_or(self.last_time));
        match self.part.append(meta, first_time_ns, checkpoint, &batch) {
            Ok(()) => self.summary.n_events += frame.n_events,
            // A checkpoint alone: nothing is missing without it.
            Err(_) if frame.next == first => self.is_owed = true,
            Err(_) => {
                self.shared.metrics.add(Counter::RecorderWrite, frame.n_events);
                self.summary.n_lost += frame.n_events;
                self.push_hole(Loss {
                    time: frame.first_time,
                    first_ordinal: first,
                    n: Some(frame.next - first),
                    reason: LossReason::Write,
                });
                self.since = Some(Instant::now());
            }
        }
        self.ask_if_due();
        if self.part.fullness() >= OVERDUE {
            self.part.end();
        }
    }
}

/// Writes the transactions. Shared between their sink, which fills it, and the recorder's thread, which sees to it that
/// nothing waits.
#[derive(Debug)]
pub(in crate::sink) struct TransactionWriter {
    part: Option<PartWriter>,
    shared: Arc<Shared>,
    rows: Vec<Transaction>,
    since: Option<Instant>,
}

/// Transactions of one frame.
const MAX_FRAME_TRANSACTIONS: usize = 8_192;

impl TransactionWriter {
    fn new(part: PartWriter, shared: Arc<Shared>) -> Self {
        TransactionWriter { part: Some(part), shared, rows: Vec::new(), since: None }
    }

    /// Takes transactions; gives the number that could not be written.
    pub(in crate::sink) fn write(&mut self, transactions: &[Transaction]) -> u64 {
        let mut n_lost = 0;
        for transaction in transactions {
            let hour = transaction.end_time.0 / crate::schema::HOUR_NS;
            let open = match self.rows.first() {
                Some(first) => Some(first.end_time.0 / crate::schema::HOUR_NS),
                None => self.part.as_ref().and_then(PartWriter::hour),
            };
            if open.is_some_and(|open| open != hour) {
                n_lost += self.flush();
                if let Some(part) = &mut self.part {
                    part.end();
                }
            }
            self.rows.push(transaction.clone());
            if self.rows.len() >= MAX_FRAME_TRANSACTIONS {
                n_lost += self.flush();
            }
        }
        if self.since.is_none() && !self.rows.is_empty() {
            self.since = Some(Instant::now());
        }
        n_lost
    }

    fn flush_if_due(&mut self) {
        if self.since.is_some_and(|since| since.elapsed() >= self.shared.config.flush_after) {
            self.flush();
        }
    }

    /// Hands the rows to the kernel; gives the number that could not be written.
    pub(in crate::sink) fn flush(&mut self) -> u64 {
        self.since = None;
        let (Some(first), Some(last)) = (self.rows.first(), self.rows.last()) else { return 0 };
        let n_rows = self.rows.len() as u64;
        let Some(part) = &mut self.part else {
            // The recording was finished before its sink.
            self.shared.metrics.add(Counter::SinkWrite, n_rows);
            self.rows.clear();
            return n_rows;
        };
        let frame = FrameMeta {
            rows: self.rows.len() as u32,
            first: first.seq,
            next: last.seq + 1,
            last_time_ns: last.end_time.0,
            lost: 0,
        };
        let written = part.append(frame, first.end_time.0, false, &transaction_rows::encode(&self.rows));
        if part.fullness() >= 1 {
            part.end();
        }
        let n_lost = if written.is_ok() { 0 } else { n_rows };
        self.shared.metrics.add(Counter::SinkWrite, n_lost);
        self.rows.clear();
        n_lost
    }

    /// Ends the dataset.
    pub(in crate::sink) fn close(&mut self) {
        self.flush();
        if let Some(mut part) = self.part.take() {
            part.end();
        }
    }
}
