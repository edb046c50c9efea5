//! The pipeline's whole state as bytes, and back.

use std::{cmp::Reverse, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{
    CHECKPOINT_VERSION, Carriers, CheckpointError, ClosedConns, Datagrams, Entry, Functions, Link, Path,
    Peers, Pipeline, PipelineConfig, State, Tally, Threads, VerdictSink, connections::TallyMore,
    goroutines::Goroutines, manners::Manners, received::Received, sends::Sends, threads::Unit,
};
use crate::{
    conn::{connection::Connection, order::Order, role::ListeningSet},
    enrich::table::ProcessTable,
    event::{ConnId, Data, Event, StackKind},
    metrics::Metrics,
    protocol::TlsFacts,
    time::BootTime,
    transaction::{
        CallId, Network,
        anatomy::Causes,
        exchange::{Exchange, ExchangeMore},
        template::Templates,
        watermark::{self, Watermark, WatermarkMore},
    },
};

/// A connection in a checkpoint, with its parser's name and state.
type SavedEntry = (Connection, Exchange, Option<(String, Vec<u8>)>, bool, bool);

/// What a checkpoint holds last: of each connection, and of what lies between them.
type More = (Vec<EntryMore>, WatermarkMore, Datagrams, (Carriers, Vec<Option<Arc<TlsFacts>>>), Functions);
/// The same of one connection.
type EntryMore = (ExchangeMore, TallyMore, Option<Link>);

/// Version without what is counted by connection; all else is the same.
const VERSION_WITHOUT_TALLIES: u32 = 2;
/// First version with more about requests: what other protocols than HTTP/1 need.
const VERSION_WITH_MORE: u32 = 4;
/// First version with what threads do, and with what belongs together. Version 5 told some of the former otherwise: it is passed over.
const VERSION_WITH_THREADS: u32 = 6;
const VERSION_WITH_LINKS: u32 = VERSION_WITH_THREADS;
/// First version with waits in calls that send, and goroutines.
const VERSION_WITH_SENDS: u32 = 7;
/// First version with what the network does.
const VERSION_WITH_NETWORK: u32 = 8;

/// What a checkpoint holds last since then: of all bytes that wait, in the order in which they stand, then of the transactions.
type OfThreads = (Threads, Vec<(u64, u32)>, Vec<Option<Box<Causes>>>);

/// What a checkpoint holds last since then: how sure threads are, the ends of connections and how far each connection's requests are known by them, and
/// the trace ids, of all requests in flight and then of the transactions.
type OfLinks = ((Manners, Received), Peers, Vec<u64>, Vec<Option<Arc<str>>>, Vec<Option<Arc<str>>>);

/// What a checkpoint holds behind all that: waits in calls that send, the goroutines of all bytes that wait, in the order in which they stand, which serves
/// what, and what is known of those.
type OfGoroutines = (Sends, Vec<u32>, Goroutines, Vec<(CallId, Unit)>);

/// What a checkpoint holds behind all that: what the kernel told of the network, with all bytes that wait, in the order in which they stand; of each connection's way, and
/// of the transactions.
type OfNetwork = (Vec<(u32, u32)>, Vec<Path>, Vec<Option<Network>>);

/// What a checkpoint holds behind its version.
#[derive(Serialize, Deserialize)]
struct Saved {
    waiting: Vec<Event>,
    frontier: BootTime,
    conns: Vec<SavedEntry>,
    ended: Vec<(BootTime, ConnId)>,
    state: State,
    processes: ProcessTable,
    listening: ListeningSet,
    templates: Vec<u8>,
    watermark: watermark::Saved,
    timers: Vec<(BootTime, ConnId)>,
}

impl Pipeline {
    /// The whole state, for the start of a file of events.
    pub fn checkpoint(&self) -> Vec<u8> {
        let rest = &self.rest;
        // Borrowed parts, in the order of [`Saved`]: postcard writes a tuple as it writes a struct.
        let conns: Vec<_> = self
            .tracker
            .iter()
            .map(|entry| {
                let parser = entry.exchange.protocol().map(str::to_owned).zip(entry.exchange.parser_state());
                (&entry.conn, &entry.exchange, parser, entry.hold_armed, entry.quiet_armed)
            })
            .collect();
        let mut timers: Vec<_> = rest.timers.iter().map(|Reverse(timer)| *timer).collect();
        timers.sort_unstable();
        let waiting: Vec<_> = self.order.waiting().collect();
        let ended: Vec<_> = self.tracker.ended().collect();
        let saved = (
            (waiting, self.order.frontier(), conns, ended),
            (
                &rest.state,
                &rest.processes,
                &rest.listening,
                rest.templates.save(),
                rest.watermark.save(),
                timers,
            ),
        );
        let mut bytes = CHECKPOINT_VERSION.to_le_bytes().to_vec();
        // Plain data into memory: there is no way to fail; and `restore` refuses a checkpoint without a state.
        bytes.extend(postcard::to_allocvec(&saved).unwrap_or_default());
        // In the order of the connections.
        let tallies: Vec<&Tally> = self.tracker.iter().map(|entry| &entry.tally).collect();
        bytes.extend(postcard::to_allocvec(&(tallies, &rest.closed)).unwrap_or_default());
        let more: Vec<_> = self
            .tracker
            .iter()
            .map(|entry| (entry.exchange.more(), entry.tally.more(), entry.link))
            .collect();
        bytes.extend(
            postcard::to_allocvec(&(
                more,
                rest.watermark.more(),
                &rest.datagrams,
                (&rest.carriers, rest.closed.tls()),
                &rest.functions,
            ))
            .unwrap_or_default(),
        );
        let waiting = self.order.waiting().filter_map(|event| match event {
            Event::Data(data) => Some(data),
            _ => None,
        });
        let held = self.tracker.iter().flat_map(|entry| entry.conn.held());
        let bytes_that_wait: Vec<&Data> = waiting.chain(held).collect();
        let times: Vec<_> = bytes_that_wait.iter().map(|data| (data.kernel_ns, data.off_cpu)).collect();
        let goroutines: Vec<_> = bytes_that_wait.iter().map(|data| data.goroutine).collect();
        let causes: Vec<_> = rest.watermark.all().map(|transaction| &transaction.causes).collect();
        let stacks = self.order.waiting().filter_map(|event| match event {
            Event::Stack(stack) => Some((stack.kind, stack.is_kept)),
            _ => None,
        });
        let stacks: Vec<_> = stacks.collect();
        bytes.extend(postcard::to_allocvec(&(&rest.threads, times, causes)).unwrap_or_default());
        let n_noted: Vec<u64> = self.tracker.iter().map(|entry| entry.n_noted).collect();
        let open = self.tracker.iter().flat_map(|entry| entry.exchange.open());
        let open: Vec<_> = open.map(|open| open.more.trace_id.clone()).collect();
        let ended: Vec<_> = rest.watermark.all().map(|transaction| transaction.trace_id.clone()).collect();
        let links = (rest.threads.more(), &rest.peers, n_noted, open, ended);
        bytes.extend(postcard::to_allocvec(&links).unwrap_or_default());
        bytes.extend(postcard::to_allocvec(&stacks).unwrap_or_default());
        let last = (rest.threads.sends(), goroutines, rest.threads.goroutines(), rest.threads.units());
        bytes.extend(postcard::to_allocvec(&last).unwrap_or_default());
        let told: Vec<_> = bytes_that_wait.iter().map(|data| (data.rtt_us, data.retransmits)).collect();
        let paths: Vec<&Path> = self.tracker.iter().map(|entry| &entry.path).collect();
        let ended: Vec<_> = rest.watermark.all().map(|transaction| transaction.network).collect();
        bytes.extend(postcard::to_allocvec(&(told, paths, ended)).unwrap_or_default());
        bytes
    }

    /// Continues from a checkpoint, with the same configuration as before.
    pub fn restore(
        bytes: &[u8],
        config: PipelineConfig,
        metrics: Metrics,
        verdicts: Box<dyn VerdictSink + Send>,
    ) -> Result<Pipeline, CheckpointError> {
        let corrupt = |why: &str| CheckpointError::Corrupt(why.to_owned());
        let (version, bytes) = bytes.split_first_chunk::<4>().ok_or_else(|| corrupt("no version"))?;
        let found = u32::from_le_bytes(*version);
        if !(VERSION_WITHOUT_TALLIES..=CHECKPOINT_VERSION).contains(&found) {
            return Err(CheckpointError::Version { found, readable: CHECKPOINT_VERSION });
        }
        let fault = |error: postcard::Error| CheckpointError::Corrupt(error.to_string());
        let (saved, bytes): (Saved, &[u8]) = postcard::take_from_bytes(bytes).map_err(fault)?;
        let ((tallies, closed), bytes): ((Vec<Tally>, ClosedConns), &[u8]) = match found {
            VERSION_WITHOUT_TALLIES => Default::default(),
            _ => postcard::take_from_bytes(bytes).map_err(fault)?,
        };
        let (more, bytes): (More, &[u8]) = match found {
            ..VERSION_WITH_MORE => (Default::default(), bytes),
            _ => postcard::take_from_bytes(bytes).map_err(fault)?,
        };
        let (more, of_watermark, datagrams, (carriers, of_closed), functions) = more;
        let ((threads, times, causes), bytes): (OfThreads, &[u8]) = match found {
            ..VERSION_WITH_THREADS => (Default::default(), bytes),
            _ => postcard::take_from_bytes(bytes).map_err(fault)?,
        };
        let mut stacks: Vec<(StackKind, bool)> = Vec::new();
        let (mut sends, mut goroutines, mut of_goroutines, mut units): OfGoroutines = Default::default();
        let (mut told, mut paths, mut networks): OfNetwork = Default::default();
        let (manners, peers, n_noted, open, ended): OfLinks = match found {
            ..VERSION_WITH_LINKS => Default::default(),
            _ => {
                let (links, bytes) = postcard::take_from_bytes(bytes).map_err(fault)?;
                let (of_stacks, bytes) = postcard::take_from_bytes(bytes).map_err(fault)?;
                stacks = of_stacks;
                if found >= VERSION_WITH_SENDS {
                    let (of_sends, bytes) = postcard::take_from_bytes(bytes).map_err(fault)?;
                    (sends, goroutines, of_goroutines, units) = of_sends;
                    if found >= VERSION_WITH_NETWORK {
                        (told, paths, networks) = postcard::from_bytes(bytes).map_err(fault)?;
                    }
                }
                links
            }
        };
        let (mut n_noted, mut open) = (n_noted.into_iter(), open.into_iter());
        let (mut times, mut stacks) = (times.into_iter(), stacks.into_iter());
        let (mut goroutines, mut told) = (goroutines.into_iter(), told.into_iter());
        let mut paths = paths.into_iter();
        let mut restore_times = |data: &mut Data| {
            (data.kernel_ns, data.off_cpu) = times.next().unwrap_or_default();
            data.goroutine = goroutines.next().unwrap_or_default();
            (data.rtt_us, data.retransmits) = told.next().unwrap_or_default();
        };
        let (mut tallies, mut more) = (tallies.into_iter(), more.into_iter());
        let mut pipeline = Pipeline::new(config, metrics, verdicts);
        let mut waiting = saved.waiting;
        for event in &mut waiting {
            match event {
                Event::Data(data) => restore_times(data),
                Event::Stack(stack) => {
                    (stack.kind, stack.is_kept) = stacks.next().unwrap_or_default();
                }
                _ => {}
            }
        }
        pipeline.order = Order::restore(waiting, saved.frontier);
        for (mut conn, mut exchange, parser, hold_armed, quiet_armed) in saved.conns {
            if let Some((protocol, state)) = parser
                && !exchange.restore_parser(&protocol, &state)
            {
                return Err(CheckpointError::Corrupt(format!("no state of protocol {protocol:?}")));
            }
            conn.held_mut().for_each(&mut restore_times);
            let (of_exchange, of_tally, link) = more.next().unwrap_or_default();
            exchange.restore_more(of_exchange);
            for (request, trace_id) in exchange.pairs_mut().open_mut().zip(&mut open) {
                request.more.trace_id = trace_id;
            }
            exchange.restore_rules(&mut conn);
            let opaque = exchange.is_opaque();
            let mut tally = tallies.next().unwrap_or_default();
            tally.restore_more(of_tally);
            let port_told = link.is_some();
            let entry = Entry {
                exchange,
                hold_armed,
                quiet_armed,
                port_told,
                opaque,
                tally,
                link,
                n_noted: n_noted.next().unwrap_or(0),
                path: paths.next().unwrap_or_default(),
                ..Entry::new(conn)
            };
            pipeline.tracker.insert(entry.conn.id, entry);
        }
        pipeline.tracker.restore_ended(saved.ended);
        let rest = &mut pipeline.rest;
        rest.state = saved.state;
        rest.processes = saved.processes;
        rest.listening = saved.listening;
        rest.templates = Templates::load(&saved.templates).ok_or_else(|| corrupt("operation names"))?;
        rest.watermark = Watermark::load(saved.watermark);
        rest.watermark.restore_more(of_watermark);
        for (transaction, causes) in rest.watermark.all_mut().zip(causes) {
            transaction.causes = causes;
        }
        for (transaction, trace_id) in rest.watermark.all_mut().zip(ended) {
            transaction.trace_id = trace_id;
        }
        for (transaction, network) in rest.watermark.all_mut().zip(networks) {
            transaction.network = network;
        }
        rest.threads = threads;
        rest.threads.restore_more(manners, sends, of_goroutines);
        rest.threads.restore_units(units);
        rest.peers = peers;
        rest.timers = saved.timers.into_iter().map(Reverse).collect();
        rest.closed = closed;
        rest.closed.restore_tls(of_closed);
        rest.datagrams = datagrams;
        rest.carriers = carriers;
        rest.functions = functions;
        pipeline.restore_paired();
        Ok(pipeline)
    }
}
