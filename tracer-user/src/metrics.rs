//! txray's own counters: everything that came in, went out or was lost, by name. One enum names every loss in user
//! space; the kernel's are `tracer_ebpf::Stat`. The same numbers show in the terminal, in summaries and in recordings.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

macro_rules! user_counters {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// A user-space counter.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(usize)]
        pub enum Counter { $($(#[$doc])* $name,)* }

        impl Counter {
            /// All, in index order.
            pub const ALL: &[Counter] = &[$(Counter::$name),*];

            /// Label in metrics, JSON and recordings. `lost.` ones are losses.
            pub fn name(self) -> &'static str {
                match self { $(Counter::$name => $text,)* }
            }
        }

        const N_COUNTERS: usize = [$($text),*].len();
    };
}

user_counters! {
    /// Records read from the ring.
    RingRead = "ring.read",
    /// Records decoded into events.
    Decoded = "events.decoded",
    /// Events that entered the pipeline (decoded ones and those the source made).
    EventsIn = "events.in",
    /// Records shorter than their struct.
    DecodeShort = "lost.decode_short",
    /// Records of an unknown kind.
    DecodeUnknownKind = "lost.decode_unknown_kind",
    /// Records that the ring reader dropped because the batch queue was full.
    BatchQueueFull = "lost.batch_queue_full",
    /// Calls for which the kernel ran no probe, because the same probe was preempted on that processor (kernel 5.12 and later
    /// tell their number). What they moved shows as a gap.
    ProbeNotRun = "lost.probe_not_run",
    /// Arrivals for which the kernel ran no probe, for the same reason: a queue time may lack its beginning. No request is lost.
    ArrivalNotRun = "arrivals.probe_not_run",
    /// Events that the ring reader made itself (clocks, counters) and for which the batch queue had no room.
    OwnEventsFull = "lost.own_events_full",
    /// Events that the recorder dropped because its queue was full.
    RecorderQueueFull = "lost.recorder_queue_full",
    /// Events that the recorder could not write.
    RecorderWrite = "lost.recorder_write",
    /// Events that a replayed recording should hold and does not, as far as their number is known.
    RecordingMissing = "lost.recording_missing",
    /// Transactions that a sink dropped because its queue was full.
    SinkQueueFull = "lost.sink_queue_full",
    /// Transactions that a sink could not write.
    SinkWrite = "lost.sink_write",
    /// Connections forgotten because the tracker was full.
    TrackerFull = "lost.tracker_full",
    /// Stream bytes dropped because a reorder window was full.
    ReorderFull = "lost.reorder_full",
    /// Records that came so late that their connection had gone on without them: their bytes are a gap.
    Late = "lost.late",
    /// Requests given up because too many were in flight on one connection.
    InFlightFull = "lost.in_flight_full",
    /// Parser give-ups: bytes that were not the protocol's.
    ParserInvalid = "lost.parser_invalid",
    /// Gaps that made a parser look for the next boundary.
    ParserGap = "lost.parser_gap",
    /// Requests seen by the parsers. `requests seen + functions.calls = transactions + unended + open + carried`.
    RequestsSeen = "requests.seen",
    /// Transactions that left behind the watermark, with an end.
    Transactions = "transactions.out",
    /// Requests whose end was not seen: they left as `tracer_stopped`.
    Unended = "transactions.unended",
    /// Transactions whose end became known when the watermark had passed it: they left out of order.
    OutOfOrder = "transactions.out_of_order",
    /// Data records that came after their connection's end: their bytes were accounted for by the close.
    AfterClose = "lost.after_close",
    /// Connections whose bytes are not looked at: no protocol recognised them, or one that `--protocol` leaves out. Not lost.
    OpaqueConns = "connections.opaque",
    /// Records of processes that run another file than `--exe` names, of the same inode number on another device. Not lost.
    OtherExecutable = "events.other_executable",
    /// Processes of which the system refused to tell the executable and the environment: the name of their service is guessed
    /// from less. One that executes another program is looked into again, and counted again. Not lost.
    ProcessDenied = "processes.denied",
    /// Transactions that a `--filter` left out of a sink's rows. Not lost.
    Filtered = "transactions.filtered",
    /// Zero or negative durations: counted, never recorded.
    DurationNotPositive = "transactions.duration_not_positive",
    /// Responses that began before their request ended.
    EarlyResponse = "transactions.early_response",
    /// Transactions called `{other}` because their service had used up its operation names.
    OperationOverflow = "transactions.operation_overflow",
    /// Dots that fell out of the XLog ring.
    XlogEvicted = "xlog.evicted",
    /// Calls of probed functions that were seen to begin, and probed places that were passed.
    FunctionCalls = "functions.calls",
    /// Calls left without a return: an exception, a panic or `longjmp` went over them. They leave as `unwound`.
    FunctionUnwound = "functions.unwound",
    /// Calls whose end is not known because records of their thread are missing: they leave as `tracer_stopped`.
    FunctionDoubtful = "functions.doubtful",
    /// Calls within more than 64 others with return probes, for which the kernel sets none: they leave as `tracer_stopped`.
    FunctionBlind = "functions.blind",
    /// Returns of calls that were not seen to begin. No call is made of them.
    FunctionUnpaired = "functions.unpaired",
    /// Records of functions that are missing among those of their threads.
    FunctionMissing = "functions.missing",
    /// Call stacks of calls.
    FunctionStacks = "functions.stacks",
    /// Call stacks that belong to no call that asks for one: it turned out not to be slow, or its records are missing. `stacks + unused` = told.
    FunctionStackUnused = "functions.stacks_unused",
    /// Call stacks of which the process's code could not be read any more: its addresses are told as they are.
    StackUnresolved = "functions.stacks_unresolved",
    /// Calls that should have a stack and have none: its record was refused or lost, or their beginning was forgotten.
    FunctionStackMissing = "functions.stacks_missing",
    /// Call stacks of requests: moments on a CPU and waits.
    Stacks = "stacks.taken",
    /// Call stacks of threads of which no request was known at that moment, or no wait of that number.
    StacksUnowned = "stacks.unowned",
    /// Moments on a CPU of threads that had answered all that they served: they are nobody's.
    StacksBehind = "stacks.behind",
    /// Call stacks for which there was no room: too many are kept of requests in flight. Their requests say so (`[]`).
    StacksForgotten = "stacks.forgotten",
    /// The kernel's part of call stacks whose program's part did not come: their thread ended, or its record was refused.
    StacksParted = "stacks.parted",
    /// Call stacks that were not read because the pipeline was behind with what requests are made of.
    StacksGaveWay = "stacks.gave_way",
    /// Processes, or looks at them, whose stacks are not told by the functions of their scripts if they are programs of Python: too many.
    StacksPythonProcesses = "stacks.python_processes",
    /// Segments that traced connections sent again.
    Retransmits = "retransmits.seen",
    /// Segments sent again while no request was in flight on their connection, and none that had just been answered: of no transaction.
    RetransmitsNobodys = "retransmits.nobodys",
    /// Calls that are not followed: their thread has too many open.
    FunctionDepth = "lost.function_depth",
    /// Calls that are not followed: too many threads have open ones.
    FunctionThreads = "lost.function_threads",
    /// Records of functions that came too late for their place among those of their thread.
    FunctionLate = "lost.function_late",
    /// Records of functions of which nothing is known: the recording has lost what they are called.
    FunctionUnknown = "lost.function_unknown",
    /// Processes, or looks at them, without probes on functions that were asked for: too many, or the kernel refused them.
    FunctionProcesses = "lost.function_processes",
    /// Requests of which nothing is known but their messages: too many are in flight, or too many threads serve; and waits in calls that send, of
    /// which it is not known to whom.
    AnatomyForgotten = "anatomy.forgotten",
    /// Requests whose parts would add up to more than they took: told as not known.
    AnatomyInconsistent = "anatomy.inconsistent",
    /// Requests, or connections, whose other end is not looked for any more: too many are known.
    LinksForgotten = "links.forgotten",
    /// Processes, or looks at them, of which goroutines are not told if they are programs of Go: too many.
    LinksGoProcesses = "links.go_processes",
    /// Requests whose trace id says that they were made for another one than their thread does.
    LinksOverruled = "links.overruled",
    /// Those among them of which the thread was taken to be sure.
    LinksContradicted = "links.contradicted",
    /// Transactions in which no pattern is looked for: more services have some than are looked at.
    PatternServices = "patterns.services_full",
    /// Transactions that the samples for patterns are without: more came in a second than are kept.
    PatternThinned = "patterns.thinned",
    /// Transactions that came when patterns had been looked for in their second.
    PatternLate = "patterns.late",
    /// Transactions whose operation or peer is not told apart in patterns: there are too many of them.
    PatternNames = "patterns.names_full",
    /// Patterns that fell out of the list.
    PatternFindings = "patterns.findings_evicted",
    /// Turns of TLS that were taken for requests until their clear text was seen, which tells what they are. Not lost.
    Carried = "requests.carried",
}

/// All counters of a run. Cheap to clone; relaxed atomics: a reading is not one instant, but each count is exact.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<[AtomicU64; N_COUNTERS]>);

impl Default for Metrics {
    fn default() -> Self {
        Metrics(Arc::new([const { AtomicU64::new(0) }; N_COUNTERS]))
    }
}

impl Metrics {
    /// Adds.
    pub fn add(&self, counter: Counter, n: u64) {
        if n != 0 {
            self.0[counter as usize].fetch_add(n, Ordering::Relaxed);
        }
    }

    /// Reads.
    pub fn get(&self, counter: Counter) -> u64 {
        self.0[counter as usize].load(Ordering::Relaxed)
    }

    /// All of them, in index order.
    pub fn all(&self) -> impl Iterator<Item = (Counter, u64)> + '_ {
        Counter::ALL.iter().map(|&counter| (counter, self.get(counter)))
    }
}
