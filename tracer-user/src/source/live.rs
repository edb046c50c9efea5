//! Live capture as a source: the ring reader's batches, decoded, with what the machine says about a process before the
//! first event that needs it.

use std::{
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::RecvError,
    },
    thread::JoinHandle,
};

use rustc_hash::FxHashSet;
use tracer_ebpf as abi;

use super::{
    Source, SourceError,
    executables::{Answer, Executables},
    stacks::Resolver,
    targets::{self, TargetError},
};
use crate::{
    bpf::{
        function_probes::{self, FunctionProbes},
        go_processes::GoProcesses,
        load::{self, Capture, Family, LoadConfig, LoadError, Missing},
        python_processes::PythonProcesses,
        ring::{BatchReceiver, MapError, RawBatch, Reader, batch_queue, boot_now, records},
        targets::LiveTargets,
        tls_probes::TlsProbes,
        verdicts::LiveVerdicts,
    },
    config::{Anatomy, DEFAULT_TLS_LIMIT, Hooks, RequestStacks, Targets},
    enrich::process::FactsReader,
    event::{ConnId, DecodeError, Event, EventBatch, ProcessChange, decode},
    metrics::{Counter, Metrics},
    pipeline::VerdictSink,
    protocol::{udp_ports, whole_ports},
    uprobe::functions::{FunctionError, Spec},
};

/// Processes whose facts are remembered; beyond that they are read anew.
const MAX_FACTS: usize = 8192;

/// What a live capture needs to know.
#[derive(Clone, Debug)]
pub struct LiveConfig {
    /// Who is traced.
    pub targets: Targets,
    /// Family of data hooks.
    pub hooks: Hooks,
    /// Ring size, bytes; rounded up to a power of two of at least 64 KiB.
    pub ring_bytes: u32,
    /// Most connections tracked in the kernel at once.
    pub max_conns: u32,
    /// Batches (up to 256 KiB each) between the ring reader and the pipeline. Full: batches are dropped and counted.
    pub batch_queue: usize,
    /// Bytes copied per turn before a verdict.
    pub budget: u32,
    /// Whether bodies are copied too.
    pub capture: Capture,
    /// Ports whose datagrams are told: by default those of all protocols.
    pub udp_ports: Vec<u16>,
    /// Probes on TLS libraries show what connections carry in clear text.
    pub tls: bool,
    /// The share of its own processor time, in percent, that its probes may take of a process.
    pub tls_limit: u32,
    /// Functions whose calls are told.
    pub functions: Vec<Spec>,
    /// From which duration on the stacks of these calls are told, ns; 0 = of all.
    pub stacks: Option<u64>,
    /// What is told of threads that serve requests.
    pub anatomy: Anatomy,
    /// Of which requests the stacks are kept.
    pub request_stacks: RequestStacks,
}

impl Default for LiveConfig {
    fn default() -> Self {
        LiveConfig {
            targets: Targets::default(),
            hooks: Hooks::Auto,
            // 16 MiB hold about half a second of 100,000 events a second with 256 bytes each.
            ring_bytes: 16 * 1024 * 1024,
            max_conns: 65_536,
            // 256 batches of 256 KiB: 64 MiB at worst, two seconds of the same load.
            batch_queue: 256,
            budget: abi::DEFAULT_BUDGET,
            capture: Capture::Heads,
            udp_ports: udp_ports().collect(),
            tls: false,
            tls_limit: DEFAULT_TLS_LIMIT,
            functions: Vec::new(),
            stacks: None,
            anatomy: Anatomy::Off,
            request_stacks: RequestStacks::Off,
        }
    }
}

/// Why live capture could not start.
#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    /// The probes.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A map.
    #[error(transparent)]
    Map(#[from] MapError),
    /// The targets.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The functions that were asked for.
    #[error(transparent)]
    Function(#[from] FunctionError),
    /// The reader's thread.
    #[error("start the ring reader: {0}")]
    Thread(#[source] io::Error),
}

impl LiveError {
    /// What to do about it.
    pub fn hint(&self) -> &str {
        match self {
            LiveError::Load(error) => error.hint(),
            LiveError::Function(error) => &error.hint,
            LiveError::Map(_) => "this is a defect of this build: the kernel side and txray do not match",
            LiveError::Target(TargetError::Thread { .. }) => "name the process: all its threads are traced",
            LiveError::Target(TargetError::Pid(_)) => {
                "--pid takes a process number as ps shows it where txray runs: a container's own numbers are not those"
            }
            LiveError::Target(_) => "check --pid, --comm, --exe, --cgroup and --port",
            LiveError::Thread(_) => "the system refuses new threads: check its limits",
        }
    }
}

/// Ends a live capture from any thread or signal.
#[derive(Clone, Debug)]
pub struct StopHandle(Arc<AtomicBool>);

impl StopHandle {
    /// Detach the probes, drain the ring, and let the source end.
    pub fn stop(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Asks the kernel for all bytes of every connection that the pipeline wants bytes of: what no parser knows and what runs
/// through a tunnel stays out. What the pipeline computes does not depend on it.
struct Everything<V>(V);

impl<V: VerdictSink> VerdictSink for Everything<V> {
    fn set(&mut self, conn: ConnId, verdict: abi::Verdict) {
        let verdict = match verdict.mode {
            abi::VERDICT_HEADS | abi::VERDICT_EVERYTHING => {
                abi::Verdict { mode: abi::VERDICT_EVERYTHING, resume: [0, 0], ..verdict }
            }
            _ => verdict,
        };
        self.0.set(conn, verdict);
    }
}

/// A running capture.
pub struct LiveSource {
    queue: BatchReceiver,
    verdicts: Option<LiveVerdicts>,
    capture: Capture,
    stop: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
    metrics: Metrics,
    next_ordinal: u64,
    family: Family,
    missing: Vec<Missing>,
    /// Events known before the first batch.
    first: Vec<Event>,
    facts: FactsReader,
    /// `--exe` by path: the files that are meant, and the kernel's list of targets.
    executables: Option<(Executables, LiveTargets)>,
    /// The probes on TLS libraries; `None`: not wanted, or not to be had.
    tls: Option<TlsProbes>,
    /// The probes on functions that were asked for.
    functions: Option<FunctionProbes>,
    /// Which processes are programs of Go.
    go: GoProcesses,
    /// Which are programs of Python; `None`: nobody asked for stacks of requests.
    python: Option<PythonProcesses>,
    /// Who calls functions; `None`: nobody asked.
    resolver: Option<Resolver>,
    /// Processes whose facts were given, so that each event costs one lookup. Bounded as `facts` is.
    known: FxHashSet<u32>,
}

impl LiveSource {
    /// Loads the probes, attaches them and starts the reader. When this returns, traffic is being seen.
    pub fn start(config: &LiveConfig, metrics: Metrics) -> Result<LiveSource, LiveError> {
        let ring_bytes = config.ring_bytes.max(64 * 1024).next_power_of_two();
        let now = boot_now();
        let resolved = targets::resolve(&config.targets, &config.udp_ports, now)?;
        let port_keys = resolved
            .listening
            .iter()
            .map(|listening| abi::PortKey { netns: listening.netns, port: u32::from(listening.port) });
        let executables = Executables::new(&config.targets, &resolved.pids);
        let pids = resolved.pids.clone();
        // What is wrong with them is told before anything is loaded.
        function_probes::find(&config.functions, &pids, true)?;
        let wants_stacks = config.stacks.is_some() || config.request_stacks != RequestStacks::Off;
        let mut resolver = wants_stacks.then(|| {
            let mut resolver = Resolver::new(Path::new("/proc"), config.request_stacks == RequestStacks::All);
            // While probes are loaded.
            resolver.prepare(&pids);
            resolver
        });
        let mut loaded = load::load(&LoadConfig {
            targets: Targets { cgroups: resolved.cgroups, ..config.targets.clone() },
            pids: resolved.pids,
            listening: port_keys.collect(),
            hooks: config.hooks,
            ring_bytes,
            max_conns: config.max_conns,
            budget: config.budget,
            capture: config.capture,
            udp_ports: config.udp_ports.clone(),
            tls: config.tls,
            functions: !config.functions.is_empty(),
            stacks: config.stacks,
            anatomy: config.anatomy,
            request_stacks: config.request_stacks != RequestStacks::Off,
            has_open_datagram_sockets: resolved.has_open_datagram_sockets,
        })?;
        // Children forked while the probes were being attached. A target that ended meanwhile is no error now.
        load::add_targets(&mut loaded, &targets::pids(&config.targets).unwrap_or_default())?;
        let family = loaded.family;
        let mut missing = loaded.missing.clone();
        let verdicts = loaded
            .ebpf
            .take_map("VERDICTS")
            .zip(loaded.ebpf.take_map("PORT_MODES"))
            .and_then(|(verdicts, port_modes)| LiveVerdicts::new(verdicts, port_modes, whole_ports()).ok())
            .ok_or_else(|| LoadError::Object("the object has no maps VERDICTS and PORT_MODES".to_owned()))?;
        let executables = match executables {
            Some(executables) => {
                let map = loaded.ebpf.take_map("TARGETS").and_then(|map| LiveTargets::new(map).ok());
                let map = map.ok_or_else(|| LoadError::Object("the object has no map TARGETS".to_owned()))?;
                Some((executables, map))
            }
            None => None,
        };
        let tls = match TlsProbes::take(&mut loaded, &config.targets, &pids, config.tls_limit) {
            Ok(tls) => tls,
            Err(reason) => {
                missing.push(Missing { feature: "clear text of TLS", reason });
                None
            }
        };
        let functions = match &config.functions[..] {
            [] => None,
            specs => {
                let (targets, stacks, metrics) = (&config.targets, config.stacks, metrics.clone());
                Some(FunctionProbes::start(&mut loaded, specs, targets, &pids, stacks, metrics)?)
            }
        };
        let go = GoProcesses::start(&mut loaded, &pids, metrics.clone()).map_err(LoadError::Object)?;
        let python = match (&mut resolver, config.request_stacks) {
            (Some(resolver), RequestStacks::Slow | RequestStacks::All) => {
                let started =
                    PythonProcesses::start(&mut loaded, &pids, config.targets.are_pids(), metrics.clone());
                let python = started.map_err(LoadError::Object)?;
                resolver.know_pythons(python.pythons().clone());
                Some(python)
            }
            _ => None,
        };
        let (sender, queue) = batch_queue(config.batch_queue.max(1));
        let stop = Arc::new(AtomicBool::new(false));
        let left_opaque = tls.iter().flat_map(|tls| tls.status().get().left_opaque);
        missing.extend(left_opaque.map(|reason| Missing { feature: "clear text of TLS", reason }));
        let reader = Reader::new(loaded, ring_bytes, sender, metrics.clone(), stop.clone())?
            .with_tls(tls.as_ref().map(TlsProbes::status));
        let reader = std::thread::Builder::new()
            .name("txray-ring".to_owned())
            .spawn(move || reader.run())
            .map_err(LiveError::Thread)?;
        Ok(LiveSource {
            queue,
            verdicts: Some(verdicts),
            capture: config.capture,
            stop,
            reader: Some(reader),
            metrics,
            next_ordinal: 0,
            family,
            missing,
            first: resolved
                .listening
                .into_iter()
                .map(Event::Listening)
                .chain(
                    functions
                        .iter()
                        .flat_map(|probes| probes.facts.iter().cloned().map(Event::FunctionFacts)),
                )
                .collect(),
            facts: FactsReader::new(MAX_FACTS),
            executables,
            tls,
            functions,
            go,
            python,
            resolver,
            known: FxHashSet::default(),
        })
    }

    /// Ends the capture from elsewhere.
    pub fn stop_handle(&self) -> StopHandle {
        StopHandle(self.stop.clone())
    }

    /// Where the pipeline's verdicts go. Once; afterwards they go nowhere.
    pub fn verdicts(&mut self) -> Box<dyn VerdictSink + Send> {
        match (self.verdicts.take(), self.capture) {
            (Some(verdicts), Capture::Heads) => Box::new(verdicts),
            (Some(verdicts), Capture::Everything) => Box::new(Everything(verdicts)),
            (None, _) => Box::new(crate::pipeline::NullVerdicts),
        }
    }

    /// Which data hooks run.
    pub fn family(&self) -> Family {
        self.family
    }

    /// What else whoever started it has to know.
    pub fn notes(&self) -> &[String] {
        self.functions.as_ref().map_or(&[], |functions| &functions.notes)
    }

    /// What this run does without.
    pub fn missing(&self) -> &[Missing] {
        &self.missing
    }

    fn batch(&mut self, events: Vec<Event>) -> EventBatch {
        let first_ordinal = self.next_ordinal;
        self.next_ordinal += events.len() as u64;
        EventBatch { first_ordinal, events }
    }

    /// Puts what the machine says about an event's process before the event, when it has not been said yet.
    fn tell_facts(&mut self, event: &Event, events: &mut Vec<Event>) {
        let (pid, time) = match event {
            Event::Data(data) => (data.pid, data.time),
            Event::Datagram(datagram) => (datagram.pid, datagram.time),
            Event::ConnOpen(open) => (open.pid, open.time),
            Event::FunctionEnter(enter) => (enter.pid, enter.time),
            // What was known stays true of the late events of a process that has ended.
            Event::Process(process) if process.change == ProcessChange::Exit => {
                if let Some(tls) = &self.tls {
                    tls.ended(process.pid);
                }
                if let Some(functions) = &self.functions {
                    functions.ended(process.pid);
                }
                self.go.ended(process.pid);
                self.python.iter().for_each(|python| python.ended(process.pid));
                return;
            }
            Event::Process(process) => {
                match (&self.tls, process.change) {
                    (Some(tls), ProcessChange::Start) => tls.forked(process.pid, process.parent_pid),
                    (Some(tls), _) => tls.executed(process.pid),
                    (None, _) => {}
                }
                if let Some(functions) = &self.functions {
                    functions.look(process.pid);
                }
                self.go.look(process.pid);
                self.python.iter().for_each(|python| python.look(process.pid));
                // Another program, or another process of the same number: what was known is void.
                self.facts.forget(process.pid);
                if let Some(resolver) = &mut self.resolver {
                    resolver.forget(process.pid);
                }
                self.known.remove(&process.pid);
                if process.change == ProcessChange::Start {
                    return;
                }
                (process.pid, process.time)
            }
            _ => return,
        };
        if pid == 0 || self.known.contains(&pid) {
            return;
        }
        if self.known.len() >= MAX_FACTS {
            self.known.clear();
        }
        self.known.insert(pid);
        if let Some(tls) = &self.tls {
            tls.look(pid);
        }
        self.go.look(pid);
        self.python.iter().for_each(|python| python.look(pid));
        if let Some(resolver) = &mut self.resolver {
            // While it lives: its calls may be told when it has ended.
            resolver.look(pid);
        }
        // Of a process that is gone nothing is known: the names in its events have to do.
        let n_denied = self.facts.n_denied();
        if let Some(facts) = self.facts.news(pid, time).filter(|facts| facts.start_ticks != 0) {
            events.push(Event::ProcessFacts((*facts).clone()));
        }
        self.metrics.add(Counter::ProcessDenied, self.facts.n_denied() - n_denied);
    }

    /// Whether an event is a target's, as far as its executable says. The kernel hears of one that is not.
    fn is_wanted(&mut self, event: &Event) -> bool {
        let Some((executables, targets)) = &mut self.executables else { return true };
        let answer = executables.answer(event);
        if let Answer::Remove(pid) = answer {
            targets.remove(pid);
        }
        if answer != Answer::Keep {
            self.metrics.add(Counter::OtherExecutable, 1);
        }
        answer == Answer::Keep
    }

    fn decode(&mut self, batch: &bytes::Bytes, events: &mut Vec<Event>) {
        let mut n_decoded = 0;
        for record in records(batch) {
            match decode(&record) {
                Ok(mut event) => {
                    n_decoded += 1;
                    if !self.is_wanted(&event) {
                        continue;
                    }
                    self.tell_facts(&event, events);
                    let is_whole = match &mut self.resolver {
                        Some(resolver) => resolver.take(&mut event, &self.metrics),
                        None => true,
                    };
                    if is_whole {
                        events.push(event);
                    }
                    let new = self.resolver.as_mut().and_then(Resolver::new_python);
                    new.zip(self.python.as_ref()).into_iter().for_each(|(pid, python)| python.look(pid));
                }
                Err(DecodeError::Short { .. }) => self.metrics.add(Counter::DecodeShort, 1),
                Err(DecodeError::UnknownKind(_)) => self.metrics.add(Counter::DecodeUnknownKind, 1),
            }
        }
        self.metrics.add(Counter::Decoded, n_decoded);
    }
}

impl Source for LiveSource {
    fn next_batch(&mut self) -> Result<Option<EventBatch>, SourceError> {
        let mut events = std::mem::take(&mut self.first);
        // The reader says at least what time it is, ten times a second.
        match self.queue.recv() {
            Ok(RawBatch::Records(batch)) => {
                // A small record takes about 170 bytes.
                events.reserve(batch.len() / 128);
                self.decode(&batch, &mut events);
            }
            Ok(RawBatch::Events(made)) => events.extend(made),
            Err(RecvError) => {
                if let Some(reader) = self.reader.take()
                    && reader.join().is_err()
                {
                    return Err(SourceError {
                        doing: "read the ring".to_owned(),
                        source: "the ring reader's thread panicked".into(),
                    });
                }
                if events.is_empty() {
                    return Ok(None);
                }
            }
        }
        Ok(Some(self.batch(events)))
    }
}

impl Drop for LiveSource {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Nobody reads any more: the reader must not wait for room for its last batches.
        drop(std::mem::replace(&mut self.queue, batch_queue(1).1));
        if let Some(reader) = self.reader.take() {
            // Its own panic was already reported, or does not matter now.
            let _ = reader.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::TcpListener,
        process::{Child, Command, Stdio},
        time::Duration,
    };

    use super::*;

    #[test]
    fn everything_raises_verdicts_about_bytes_and_leaves_the_others() {
        struct Kept(Vec<abi::Verdict>);
        impl VerdictSink for Kept {
            fn set(&mut self, _: ConnId, verdict: abi::Verdict) {
                self.0.push(verdict);
            }
        }
        let verdict = |mode, resume| abi::Verdict { conn_id: 7, resume, mode, budget: 4096 };
        let mut sink = Everything(Kept(Vec::new()));
        for mode in [abi::VERDICT_HEADS, abi::VERDICT_EVERYTHING, abi::VERDICT_LENGTHS, abi::VERDICT_NOTHING]
        {
            sink.set(ConnId(7), verdict(mode, [5, 9]));
        }
        let all = verdict(abi::VERDICT_EVERYTHING, [0, 0]);
        let rest = [verdict(abi::VERDICT_LENGTHS, [5, 9]), verdict(abi::VERDICT_NOTHING, [5, 9])];
        assert_eq!(sink.0.0, [all, all, rest[0], rest[1]]);
    }

    /// A process that connects to `listener`, waits for a line and sends 4,096 bytes, then 1,904, and then nothing.
    fn sender(listener: &TcpListener) -> Child {
        let port = listener.local_addr().unwrap().port();
        let script = format!(
            "exec 3<>/dev/tcp/127.0.0.1/{port}; read line; printf %4096s x >&3; printf %1904s y >&3; read line"
        );
        Command::new("bash").args(["-c", &script]).stdin(Stdio::piped()).spawn().unwrap()
    }

    fn start(child: &Child, batch_queue: usize) -> LiveSource {
        let targets = Targets { pids: vec![child.id()], ..Targets::default() };
        let config = LiveConfig { targets, batch_queue, ..LiveConfig::default() };
        LiveSource::start(&config, Metrics::default()).unwrap()
    }

    #[test]
    fn a_sum_on_an_idle_connection_is_told_once() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut child = sender(&listener);
        let (mut stream, _) = listener.accept().unwrap();
        let mut source = start(&child, 64);
        child.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
        stream.read_exact(&mut [0; 6000]).unwrap();
        let mut data = Vec::new();
        // Sums are looked at four times between two readings of the counters.
        let mut n_counters = 0;
        while n_counters < 3 {
            for event in source.next_batch().unwrap().unwrap().events {
                match event {
                    Event::Data(moved) => {
                        data.push((moved.has(abi::FLAG_SUMMED), moved.bytes, moved.payload.len()))
                    }
                    Event::Counters(_) => n_counters += 1,
                    _ => {}
                }
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(data, [(false, 4096, 4096), (true, 1904, 0)]);
    }

    #[test]
    fn clocks_and_counters_survive_a_full_queue_and_the_end_waits_for_them() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut child = sender(&listener);
        let _stream = listener.accept().unwrap();
        // Room for one batch: the anchor takes it, and nobody looks for a while.
        let mut source = start(&child, 1);
        let metrics = source.metrics.clone();
        child.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
        std::thread::sleep(Duration::from_millis(2500));
        source.stop_handle().stop();
        let (mut n_anchors, mut n_counters, mut n_data) = (0, 0, 0u64);
        let mut last = None;
        while let Some(batch) = source.next_batch().unwrap() {
            for event in batch.events {
                match event {
                    Event::Anchor(_) => n_anchors += 1,
                    Event::Counters(counters) => {
                        n_counters += 1;
                        last = Some(counters);
                    }
                    Event::Data(moved) => n_data += u64::from(!moved.has(abi::FLAG_SUMMED)),
                    _ => {}
                }
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(n_anchors, 1);
        assert!(n_counters >= 3, "two while nobody looked, one at the end: {n_counters}");
        let last = last.unwrap().values;
        let value =
            |name: &str| last.iter().find(|(other, _)| &**other == name).map_or(0, |(_, value)| *value);
        let n_read = metrics.get(Counter::RingRead);
        assert!(n_read > 0);
        assert_eq!(value("kernel.events_reserved"), n_read, "{last:?}");
        assert_eq!(n_read, metrics.get(Counter::Decoded) + metrics.get(Counter::BatchQueueFull));
        assert!(n_data <= 1);
    }

    #[test]
    fn a_source_that_is_dropped_with_a_full_queue_ends_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut child = sender(&listener);
        let _stream = listener.accept().unwrap();
        let source = start(&child, 1);
        child.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
        std::thread::sleep(Duration::from_millis(1200));
        let (send, receive) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            drop(source);
            send.send(()).unwrap();
        });
        // Well below the patience with which a source that is still read ends.
        let ended = receive.recv_timeout(Duration::from_secs(8));
        child.kill().unwrap();
        child.wait().unwrap();
        ended.unwrap();
    }
}
