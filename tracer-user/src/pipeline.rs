//! The pipeline: the one place that composes connections, protocols, pairing, enrichment and the watermark.
//!
//! Live capture, replay and the synthetic generator push events into the same [`Pipeline`]; transactions leave it
//! behind the watermark. It asks the machine nothing and reads no clock: what it computes is a function of the events.

use std::sync::Arc;

pub use crate::conn::turns::LostRequests;
use crate::{
    event::{ConnId, Counters, Event, EventBatch},
    metrics::{Counter, Metrics},
    time::{BootTime, WallTime},
    transaction::{TransactionBatch, Unpaired},
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
    /// Operation names per service before `_OTHER` (templates).
    pub max_operations: usize,
}

impl Default for PipelineConfig {
    fn default() -> Self {
        PipelineConfig {
            max_conns: 65_536,
            max_in_flight_per_conn: 1_024,
            reorder_window_ns: 20_000_000,
            max_held_bytes: 1 << 20,
            watermark_lag_ns: 500_000_000,
            stuck_after_ns: 300_000_000_000,
            idle_after_ns: 3_600_000_000_000,
            keep_target: true,
            max_operations: 1_000,
        }
    }
}

/// Where verdicts go: the kernel's map live, nowhere in a replay. Never read back: what the pipeline computes does not
/// depend on it.
pub trait VerdictSink {
    /// From now on capture `conn` like this.
    fn set(&mut self, conn: ConnId, verdict: tracer_ebpf::Verdict);
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
    /// Younger than 3 s, 3 to 8 s, 8 s and older (event time).
    pub by_age: [u64; 3],
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
    /// Requests in flight, long-lived ones apart.
    pub n_open: u64,
    /// Tunnels, upgraded connections and streams that are open.
    pub n_long_lived: u64,
    /// Requests in flight by service, in the order of the names.
    pub in_flight: Vec<InFlight>,
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
pub const CHECKPOINT_VERSION: u32 = 1;

/// From events to transactions.
pub struct Pipeline {
    #[expect(dead_code, reason = "read by the stages that follow")]
    config: PipelineConfig,
    metrics: Metrics,
    #[expect(dead_code, reason = "written by the stages that follow")]
    verdicts: Box<dyn VerdictSink + Send>,
}

impl Pipeline {
    /// An empty pipeline.
    pub fn new(config: PipelineConfig, metrics: Metrics, verdicts: Box<dyn VerdictSink + Send>) -> Self {
        Pipeline { config, metrics, verdicts }
    }

    /// Takes one event.
    pub fn push(&mut self, event: &Event) {
        let _ = event;
        self.metrics.add(Counter::EventsIn, 1);
    }

    /// Takes a batch, in its order.
    pub fn push_batch(&mut self, batch: &EventBatch) {
        for event in &batch.events {
            self.push(event);
        }
    }

    /// What is behind the watermark now, in order.
    pub fn drain(&mut self) -> TransactionBatch {
        TransactionBatch::default()
    }

    /// End of the input: requests in flight become `tracer_stopped`, everything leaves.
    pub fn finish(&mut self) -> TransactionBatch {
        self.drain()
    }

    /// What is in flight and lost at this instant of event time.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::default()
    }

    /// The whole state, for the start of a file of events.
    pub fn checkpoint(&self) -> Vec<u8> {
        CHECKPOINT_VERSION.to_le_bytes().to_vec()
    }

    /// Continues from a checkpoint.
    pub fn restore(
        bytes: &[u8],
        config: PipelineConfig,
        metrics: Metrics,
        verdicts: Box<dyn VerdictSink + Send>,
    ) -> Result<Pipeline, CheckpointError> {
        let found = bytes
            .first_chunk::<4>()
            .map(|version| u32::from_le_bytes(*version))
            .ok_or_else(|| CheckpointError::Corrupt("no version".to_owned()))?;
        if found != CHECKPOINT_VERSION {
            return Err(CheckpointError::Version { found, readable: CHECKPOINT_VERSION });
        }
        Ok(Pipeline::new(config, metrics, verdicts))
    }
}
