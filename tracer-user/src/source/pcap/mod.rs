//! Packet captures as a source: what tcpdump has written, as the events that the probes would have sent ([`crate::conn::reassembly`]).
//!
//! Time is that of the packets. There are no processes: pid 0 and no name stand for them, and a service is called by its server's
//! address. Everything a capture has is passed on, so that the events hold what the file holds of its TCP connections, and of its UDP what goes
//! over ports that are wanted ([`datagrams`]).
//!
//! Of a file the events are the same each time. Of what is being written on standard input while it is read time passes without packets too: it is
//! shown when nothing more comes, and the wall clock ticks, some time behind (`LAG_NS`).

use std::{
    io::Read,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

pub mod datagrams;
pub mod file;
mod files;
pub mod layers;
mod tunnel;
mod waiting;

pub use self::file::CaptureError;
use self::{
    datagrams::{DatagramCounts, Datagrams},
    files::{Faults, Files},
    layers::{Held, LayerCounts, Layers, is_known, link_name},
};
use super::{Source, SourceError};
use crate::{
    conn::reassembly::{Counts, Reassembly, Speech},
    event::{Counters, Event, EventBatch},
    protocol::{Inference, REGISTRY, udp_ports},
    time::{Anchor, BootTime, WallTime},
};

/// A batch ends with the packet that brings its events to this number.
const BATCH_EVENTS: usize = 1_024;
/// A batch ends after so much packet time: a capture that is still being written is shown as it comes.
const BATCH_NS: u64 = 100_000_000;
/// Counters come so often, packet time.
const COUNTERS_NS: u64 = 1_000_000_000;
/// Where no packet comes for so long, packet time, ticks stand for the time that passes, so that what has ended leaves the pipeline. More than
/// the reassembly keeps a segment that it cannot place yet (200 ms): a tick does not overtake one.
const QUIET_NS: u64 = 250_000_000;
/// The first ticks are so far apart; later ones by an n-th of the time that has passed since the packet. A capture of two packets 50 years apart has
/// 356 ticks.
const TICK_NS: u64 = 100_000_000;
const TICK_SHARE: u64 = 16;
/// Standard input is looked at so often while it has no packets.
const DRY: Duration = Duration::from_millis(250);
/// A capture is being written now if its last packet is not older than this, or newer, when the next has to be waited for.
const NOW_NS: u64 = 5_000_000_000;
/// Its time ticks so much behind the wall clock: the kernel hands packets to tcpdump up to a second later, where it was not told to be immediate.
const LAG_NS: u64 = 2_000_000_000;
/// Link types that are named when the capture is over; more are only counted.
const MAX_LINKS: usize = 16;
/// Times behind this (2116) are no times: schema and files hold ns in 63 bits.
const MAX_TIME_NS: u64 = 1 << 62;

/// What is known of a capture when it is over; while it is read, of what was read.
#[derive(Clone, Debug, Default)]
pub struct Report(Arc<Mutex<ReportState>>);

#[derive(Debug, Default)]
struct ReportState {
    faults: Faults,
    layers: LayerCounts,
    counts: Counts,
    datagrams: DatagramCounts,
    dropped: u64,
    links: Vec<u32>,
}

impl Report {
    fn lock(&self) -> std::sync::MutexGuard<'_, ReportState> {
        // Plain numbers: whoever panicked left none half written.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What could not be read, and where; link types that were left out.
    pub fn fault(&self) -> Option<String> {
        let state = self.lock();
        let links = (!state.links.is_empty()).then(|| {
            let names: Vec<String> = state.links.iter().map(|link| link_name(*link)).collect();
            format!("{} packets of link type {} were left out", state.layers.other_link, names.join(", "))
        });
        match (state.faults.text(), links) {
            (Some(fault), Some(links)) => Some(format!("{fault}; {links}")),
            (fault, links) => fault.or(links),
        }
    }

    /// Packets read so far.
    pub fn packets(&self) -> u64 {
        self.lock().layers.packets
    }

    /// What was in it and what was left out, in one line.
    pub fn line(&self) -> String {
        let ReportState { layers, counts, datagrams, dropped, .. } = &*self.lock();
        let mut line = format!("{} packets, {} of TCP", layers.packets, counts.segments);
        let more = [
            (layers.tunnelled, "out of tunnels"),
            (layers.too_deep, "within too many tunnels"),
            (layers.udp, "of UDP"),
            (layers.udp_other_port, "of UDP on other ports, not looked at"),
            (layers.udp_bad_length, "of UDP with impossible lengths"),
            (layers.other_ip, "of other protocols of IP"),
            (layers.not_ip, "not of IP"),
            (layers.headers_cut, "with headers cut"),
            (layers.fragments_lost, "fragments lost"),
            (counts.cut + datagrams.cut, "captured in part"),
            (counts.repeated + datagrams.repeated, "seen before"),
            (counts.gaps, "gaps"),
            (*dropped, "dropped by whoever captured"),
        ];
        for (n, what) in more.into_iter().filter(|(n, _)| *n > 0) {
            line.push_str(&format!(", {n} {what}"));
        }
        line
    }
}

/// Reads captures.
pub struct PcapSource {
    files: Files,
    layers: Layers,
    reassembly: Reassembly,
    datagrams: Datagrams,
    report: Report,
    next_ordinal: u64,
    begun: bool,
    newest: BootTime,
    counted: BootTime,
    /// Up to which time the wall clock has ticked.
    ticked: BootTime,
    over: bool,
}

impl PcapSource {
    /// Opens files, which are read as one; `-` is standard input.
    pub fn open(paths: &[PathBuf]) -> Result<PcapSource, CaptureError> {
        Ok(PcapSource::of(Files::open(paths)?))
    }

    /// Reads from `input`; `name` is for errors.
    pub fn new(name: &str, input: impl Read + Send + 'static) -> Result<PcapSource, CaptureError> {
        Ok(PcapSource::of(Files::one(name, input)?))
    }

    /// Looks for datagrams on these ports, in place of those of the protocols that are known.
    #[must_use]
    pub fn with_udp_ports(self, udp_ports: Vec<u16>) -> PcapSource {
        PcapSource { layers: Layers::new(udp_ports.clone()), datagrams: Datagrams::new(udp_ports), ..self }
    }

    fn of(files: Files) -> PcapSource {
        PcapSource {
            files,
            layers: Layers::new(udp_ports().collect()),
            reassembly: Reassembly::new(recognise),
            datagrams: Datagrams::new(udp_ports().collect()),
            report: Report::default(),
            next_ordinal: 0,
            begun: false,
            newest: BootTime(0),
            counted: BootTime(0),
            ticked: BootTime(0),
            over: false,
        }
    }

    /// What is known of it, also when the source is gone.
    pub fn report(&self) -> Report {
        self.report.clone()
    }

    /// Reads a packet; `false`: there are no more.
    fn packet(&mut self, events: &mut Vec<Event>) -> bool {
        let Some(packet) = self.files.next_packet() else { return false };
        // 0 means that a time is not known.
        let time = BootTime(packet.time_ns.clamp(1, MAX_TIME_NS));
        if !is_known(packet.link) {
            let links = &mut self.report.lock().links;
            if links.len() < MAX_LINKS && !links.contains(&packet.link) {
                links.push(packet.link);
            }
        }
        if !self.begun {
            self.begun = true;
            self.counted = time;
            // Both clocks are the packets'.
            events.push(Event::Anchor(Anchor { boot: time, wall: WallTime(time.0) }));
        }
        if self.newest.0 > 0 {
            pass_quiet(self.newest.max(self.ticked), time, &mut self.reassembly, events);
        }
        match self.layers.read(&packet, time) {
            Some(Held::Segment(segment)) => self.reassembly.take(segment, events),
            Some(Held::Datagram(datagram)) => {
                self.reassembly.pass(time, events);
                self.datagrams.take(&datagram, |time| self.reassembly.new_id(time), events);
            }
            None => self.reassembly.pass(time, events),
        }
        self.newest = self.newest.max(time);
        if self.newest.0 >= self.counted.0.saturating_add(COUNTERS_NS) {
            self.count(events);
        }
        true
    }

    /// Whether there is nothing to be read now, so that what was read is to be shown. While it is waited for, the clock ticks.
    fn waits(&mut self, events: &mut Vec<Event>) -> bool {
        if !events.is_empty() {
            return self.files.is_dry(Duration::ZERO);
        }
        if !self.begun || !self.files.is_dry(Duration::ZERO) {
            return false;
        }
        let now = || {
            let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
        };
        // Later it has been waited for already.
        let is_of_now = self.ticked > self.newest || self.newest.0.abs_diff(now()) < NOW_NS;
        while is_of_now && self.files.is_dry(DRY) {
            let time = BootTime(now().saturating_sub(LAG_NS));
            if time > self.newest.max(self.ticked) {
                self.ticked = time;
                self.reassembly.pass(time, events);
                events.push(Event::Tick(time));
                return true;
            }
        }
        false
    }

    fn count(&mut self, events: &mut Vec<Event>) {
        self.counted = self.newest;
        let dropped = ("lost.capture_dropped", self.files.dropped());
        let named = self.layers.counts().named().into_iter();
        let named = named.chain(self.reassembly.counts().named()).chain(self.datagrams.counts().named());
        let values = named.chain([dropped]).map(|(name, n)| (name.into(), n)).collect();
        events.push(Event::Counters(Counters { time: self.newest, values }));
        self.tell();
    }

    fn tell(&self) {
        let mut state = self.report.lock();
        state.layers = self.layers.counts();
        state.counts = self.reassembly.counts();
        state.datagrams = self.datagrams.counts();
        state.dropped = self.files.dropped();
        state.faults.clone_from(self.files.faults());
    }
}

impl Source for PcapSource {
    fn next_batch(&mut self) -> Result<Option<EventBatch>, SourceError> {
        let mut events = Vec::new();
        let begin = self.newest;
        while !self.over
            && events.len() < BATCH_EVENTS
            && (events.is_empty() || self.newest.0.saturating_sub(begin.0) < BATCH_NS)
        {
            if self.waits(&mut events) {
                break;
            }
            if !self.packet(&mut events) {
                self.over = true;
                self.layers.finish();
                self.reassembly.finish(&mut events);
                if self.begun {
                    self.count(&mut events);
                }
            }
        }
        self.tell();
        if events.is_empty() {
            return Ok(None);
        }
        let first_ordinal = self.next_ordinal;
        self.next_ordinal += events.len() as u64;
        Ok(Some(EventBatch { first_ordinal, events }))
    }
}

/// Tells of the time between two packets.
fn pass_quiet(from: BootTime, until: BootTime, reassembly: &mut Reassembly, events: &mut Vec<Event>) {
    let mut passed = QUIET_NS;
    while let at = BootTime(from.0.saturating_add(passed))
        && at < until
    {
        reassembly.pass(at, events);
        events.push(Event::Tick(at));
        passed += TICK_NS.max(passed / TICK_SHARE);
    }
}

/// Tells by the protocols that are known which way a message goes.
fn recognise(bytes: &[u8]) -> Option<Speech> {
    if bytes.is_empty() {
        return None;
    }
    REGISTRY.iter().filter(|protocol| protocol.is_inferred()).find_map(|protocol| {
        match protocol.infer(bytes) {
            Inference::Request => Some(Speech::Asks),
            Inference::Response => Some(Speech::Answers),
            Inference::Either | Inference::NeedMore | Inference::No => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_without_packets_passes_in_ticks_few_however_long_it_is() {
        let fifty_years_ns = 50 * 365 * 86_400 * 1_000_000_000;
        for (quiet_ns, n) in
            [(0, 0), (QUIET_NS, 0), (QUIET_NS + 1, 1), (1_000_000_000, 8), (fifty_years_ns, 356)]
        {
            let from = BootTime(1_000);
            let until = BootTime(from.0 + quiet_ns);
            let mut events = Vec::new();
            pass_quiet(from, until, &mut Reassembly::new(recognise), &mut events);
            let times: Vec<BootTime> = events.iter().map(crate::conn::order::time).collect();
            assert_eq!(times.len(), n, "{quiet_ns} ns");
            assert!(times.is_sorted() && times.iter().all(|time| from < *time && *time < until));
        }
    }
}
