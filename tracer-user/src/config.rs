//! Settings: defaults → file → environment → flags, resolved into one documented struct.
//!
//! [`Settings`] is one layer with holes (a TOML file, or what was typed); [`Config`] is the result without holes.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Deserializer, de::Error as _};

/// Which processes and ports are traced. All lists empty = the whole host. A process is a target when one of the
/// lists names it; ports narrow that down to connections with one of the ports at either end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Targets {
    /// Processes, with the children they start from now on.
    pub pids: Vec<u32>,
    /// Thread-group leader's names, as in `/proc/PID/comm` (15 bytes at most).
    pub comms: Vec<String>,
    /// Executables: a path, or a bare file name.
    pub exes: Vec<PathBuf>,
    /// Cgroups, as a path below the cgroup mount or in full.
    pub cgroups: Vec<PathBuf>,
    /// TCP ports, local or remote.
    pub ports: Vec<u16>,
}

impl Targets {
    /// Whether nothing narrows the run down.
    pub fn is_whole_host(&self) -> bool {
        let Targets { pids, comms, exes, cgroups, ports } = self;
        pids.is_empty() && comms.is_empty() && exes.is_empty() && cgroups.is_empty() && ports.is_empty()
    }

    /// Whether only processes are traced that are named by their ids: none becomes a target later by what it executes.
    pub fn are_pids(&self) -> bool {
        self.comms.is_empty() && self.exes.is_empty() && self.cgroups.is_empty() && !self.pids.is_empty()
    }
}

/// The family of data hooks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Hooks {
    /// The best that this kernel has.
    #[default]
    Auto,
    /// Socket tracepoints (kernel 6.3 and later).
    Socket,
    /// System call tracepoints.
    Syscall,
}

/// What is shown of a connection of TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Tls {
    /// What is said in it, by probes on the functions of TLS libraries.
    #[default]
    Clear,
    /// Turns, from outside: nothing is attached to a program.
    Opaque,
}

/// From how long on a wait has a stack, ns. A request that is looked at waits for tens of milliseconds; shorter waits are told with their reason.
pub const WAIT_STACK_NS: u64 = 1_000_000;

/// What is told of threads that serve requests, so that a request says where its time went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Anatomy {
    /// Nothing.
    Off,
    /// When they were not on a CPU, why, and who woke them.
    Threads,
    /// And how much of their time on a CPU was the kernel's, by two probes on every system call of the host.
    #[default]
    Calls,
}

/// Of which requests the call stacks are kept: of moments on a CPU and of waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum RequestStacks {
    /// Of none: none are taken.
    Off,
    /// Of slow ones (3 s), failed ones, and some of the others: 30 of 100 from 1 s on, 10 from 100 ms on, 3 below.
    #[default]
    Slow,
    /// Of all.
    All,
}

/// What of the captured bytes a recording keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Payload {
    /// The first bytes of each message: its head
    #[default]
    Heads,
    /// Bodies too
    Full,
    /// Nothing: a replay shows the recorded transactions and cannot parse again
    None,
}

/// How fast a replay runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
pub enum Speed {
    /// As it happened.
    #[value(name = "1")]
    #[serde(rename = "1")]
    Real,
    /// Ten times as fast.
    #[value(name = "10")]
    #[serde(rename = "10")]
    Tenfold,
    /// As fast as the machine can.
    #[default]
    #[value(name = "max")]
    #[serde(rename = "max")]
    Max,
}

/// The form of the summary at the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum SummaryForm {
    /// The operations table.
    #[default]
    Text,
    /// One JSON object on one line.
    Json,
}

/// A number of bytes: `4096`, `64K`, `64KiB`, `8M`, `2G` (powers of 1,024 all).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl std::str::FromStr for Size {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let (number, unit) = split_unit(text);
        let factor: u64 = match unit.to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "k" | "kb" | "kib" => 1 << 10,
            "m" | "mb" | "mib" => 1 << 20,
            "g" | "gb" | "gib" => 1 << 30,
            "t" | "tb" | "tib" => 1 << 40,
            _ => return Err(ParseError::new(text, "a size such as 4096, 64K, 8M or 2G")),
        };
        let number: u64 =
            number.parse().map_err(|_| ParseError::new(text, "a size such as 4096, 64K, 8M or 2G"))?;
        number.checked_mul(factor).map(Size).ok_or_else(|| ParseError::new(text, "a size below 16 EiB"))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (shift, unit) in [(40, "T"), (30, "G"), (20, "M"), (10, "K")] {
            if self.0 != 0 && self.0.trailing_zeros() >= shift {
                return write!(f, "{}{unit}", self.0 >> shift);
            }
        }
        write!(f, "{}", self.0)
    }
}

/// A span of time: `500ms`, `20s`, `5m`, `2h`, `7d`; a bare number is seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

impl std::str::FromStr for Span {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let fail = || ParseError::new(text, "a duration such as 500ms, 20s, 5m, 2h or 7d");
        let (number, unit) = split_unit(text);
        let nanos: u64 = match unit {
            "ns" => 1,
            "us" => 1_000,
            "ms" => 1_000_000,
            "" | "s" => 1_000_000_000,
            "m" | "min" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            "d" => 86_400_000_000_000,
            _ => return Err(fail()),
        };
        let number: f64 = number.parse().map_err(|_| fail())?;
        let total = number * nanos as f64;
        // 2^63 ns is 292 years.
        if !(total.is_finite() && (0.0..9.2e18).contains(&total)) {
            return Err(fail());
        }
        Ok(Span(Duration::from_nanos(total as u64)))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ns = self.0.as_nanos();
        let units = [
            (3_600_000_000_000, "h"),
            (60_000_000_000, "m"),
            (1_000_000_000, "s"),
            (1_000_000, "ms"),
            (1_000, "us"),
        ];
        // In the largest unit that leaves nothing over: it reads back as the same.
        let unit = units.into_iter().find(|(unit, _)| ns != 0 && ns.is_multiple_of(*unit));
        let (unit, name) = unit.unwrap_or((1, "ns"));
        write!(f, "{}{name}", ns / unit)
    }
}

fn split_unit(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    (&text[..end], text[end..].trim_start())
}

/// A value that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{value}' is not {wanted}")]
pub struct ParseError {
    value: String,
    wanted: &'static str,
}

impl ParseError {
    /// `value` should have been `wanted`.
    pub fn new(value: &str, wanted: &'static str) -> ParseError {
        ParseError { value: value.to_owned(), wanted }
    }
}

/// Of which calls of functions the stack is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stacks {
    /// Of slow ones, as filters mean it.
    Slow,
    /// Of all.
    All,
    /// Of those that take so long or longer.
    From(Span),
}

impl std::str::FromStr for Stacks {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let fail = || ParseError::new(text, "slow, all or a duration such as 10ms");
        match text {
            "slow" => Ok(Stacks::Slow),
            "all" => Ok(Stacks::All),
            // A number alone would be seconds, of which nobody thinks here.
            text if text.bytes().all(|byte| byte.is_ascii_digit()) => Err(fail()),
            text => {
                let span: Span = text.parse().map_err(|_| fail())?;
                if span.0.is_zero() { Err(fail()) } else { Ok(Stacks::From(span)) }
            }
        }
    }
}

macro_rules! deserialize_from_text_or_number {
    ($($name:ident),*) => {$(
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                #[derive(Deserialize)]
                #[serde(untagged)]
                enum Raw { Number(u64), Text(String) }
                let text = match Raw::deserialize(deserializer)? {
                    Raw::Number(number) => number.to_string(),
                    Raw::Text(text) => text,
                };
                text.parse().map_err(D::Error::custom)
            }
        }
    )*};
}
deserialize_from_text_or_number!(Size, Span, Stacks);

/// One layer of settings: a configuration file, or what the environment and the flags say. `None` and empty lists
/// leave it to the layer below.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Processes.
    pub pid: Vec<u32>,
    /// Names of processes.
    pub comm: Vec<String>,
    /// Executables.
    pub exe: Vec<PathBuf>,
    /// Cgroups.
    pub cgroup: Vec<PathBuf>,
    /// Ports.
    pub port: Vec<u16>,
    /// UDP ports whose datagrams are DNS, beside the usual ones.
    pub udp_port: Vec<u16>,
    /// Family of hooks.
    pub hooks: Option<Hooks>,
    /// What is shown of connections of TLS.
    pub tls: Option<Tls>,
    /// The share of its processor time, in percent, that probes on its TLS library may take of a process.
    pub tls_limit: Option<u32>,
    /// What is told of threads that serve requests.
    pub anatomy: Option<Anatomy>,
    /// Of which requests the stacks are kept.
    pub stacks: Option<RequestStacks>,
    /// Functions whose calls are transactions.
    pub uprobe: Vec<String>,
    /// Of which of these calls the stack is taken.
    pub stack: Option<Stacks>,
    /// Protocols looked for, by registry name; empty = all.
    pub protocol: Vec<String>,
    /// Ports on which what no parser knows is followed turn by turn.
    pub opaque_port: Vec<u16>,
    /// Rows wanted.
    pub filter: Option<String>,
    /// Length of the run.
    pub duration: Option<Span>,
    /// One JSON object per transaction.
    pub json: Option<bool>,
    /// Form of the summary.
    pub summary: Option<SummaryForm>,
    /// Bytes of the kernel's ring.
    pub ring_size: Option<Size>,
    /// Batches between ring reader and pipeline.
    pub queue_batches: Option<usize>,
    /// Batches in front of each sink.
    pub queue_sink: Option<usize>,
    /// Batches in front of the recorder.
    pub queue_recorder: Option<usize>,
    /// Dots of the XLog.
    pub xlog_dots: Option<usize>,
    /// Template of the links to another tool.
    pub open_url: Option<String>,
    /// Folder of the recording.
    pub out: Option<PathBuf>,
    /// Payload kept.
    pub payload: Option<Payload>,
    /// Byte budget of the recording.
    pub max_bytes: Option<Size>,
    /// Age budget of the recording.
    pub max_age: Option<Span>,
    /// Layout of the screen at the start.
    pub layout: Option<String>,
    /// The screen's own section: read by the screen, which knows its words.
    pub screen: Option<serde::de::IgnoredAny>,
    /// The file that was read.
    #[serde(skip)]
    pub file: Option<SettingsFile>,
}

/// A settings file as it was read: its faults have a line and a column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingsFile {
    /// Its path, for messages.
    pub path: PathBuf,
    /// What it says.
    pub text: String,
}

impl Settings {
    /// Reads a TOML file. Unknown keys are errors.
    pub fn read(path: &Path) -> Result<Settings, FileError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| FileError::Read { path: path.to_owned(), source })?;
        let settings: Settings = toml::from_str(&text)
            .map_err(|source| FileError::Parse { path: path.to_owned(), source: Box::new(source) })?;
        Ok(Settings { file: Some(SettingsFile { path: path.to_owned(), text }), ..settings })
    }

    /// Puts `upper` over `self`.
    #[must_use]
    pub fn overlay(self, upper: Settings) -> Settings {
        fn list<T>(lower: Vec<T>, upper: Vec<T>) -> Vec<T> {
            if upper.is_empty() { lower } else { upper }
        }
        Settings {
            pid: list(self.pid, upper.pid),
            comm: list(self.comm, upper.comm),
            exe: list(self.exe, upper.exe),
            cgroup: list(self.cgroup, upper.cgroup),
            port: list(self.port, upper.port),
            udp_port: list(self.udp_port, upper.udp_port),
            hooks: upper.hooks.or(self.hooks),
            tls: upper.tls.or(self.tls),
            tls_limit: upper.tls_limit.or(self.tls_limit),
            anatomy: upper.anatomy.or(self.anatomy),
            stacks: upper.stacks.or(self.stacks),
            uprobe: list(self.uprobe, upper.uprobe),
            stack: upper.stack.or(self.stack),
            protocol: list(self.protocol, upper.protocol),
            opaque_port: list(self.opaque_port, upper.opaque_port),
            filter: upper.filter.or(self.filter),
            duration: upper.duration.or(self.duration),
            json: upper.json.or(self.json),
            summary: upper.summary.or(self.summary),
            ring_size: upper.ring_size.or(self.ring_size),
            queue_batches: upper.queue_batches.or(self.queue_batches),
            queue_sink: upper.queue_sink.or(self.queue_sink),
            queue_recorder: upper.queue_recorder.or(self.queue_recorder),
            xlog_dots: upper.xlog_dots.or(self.xlog_dots),
            open_url: upper.open_url.or(self.open_url),
            out: upper.out.or(self.out),
            payload: upper.payload.or(self.payload),
            max_bytes: upper.max_bytes.or(self.max_bytes),
            max_age: upper.max_age.or(self.max_age),
            layout: upper.layout.or(self.layout),
            screen: upper.screen.or(self.screen),
            file: upper.file.or(self.file),
        }
    }
}

/// A configuration file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("cannot read the configuration file {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It says something else than settings.
    #[error("configuration file {}: {source}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: Box<toml::de::Error>,
    },
}

/// What probes on its TLS library may take of a process before it is left opaque, percent of its processor time. A server that answers short requests pays
/// some 8 % (reckoned: three calls of 2.7 µs in 100 µs), one that moves a few bytes with each call much more.
pub const DEFAULT_TLS_LIMIT: u32 = 30;

/// The resolved settings of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// What is traced.
    pub targets: Targets,
    /// How.
    pub hooks: Hooks,
    /// What is shown of connections of TLS.
    pub tls: Tls,
    /// The share of its processor time, in percent, that probes on its TLS library may take of a process.
    pub tls_limit: u32,
    /// What is told of threads that serve requests.
    pub anatomy: Anatomy,
    /// Of which requests the stacks are kept. Without a word on it they are where system calls are timed.
    pub request_stacks: RequestStacks,
    /// Functions whose calls are transactions, as typed.
    pub uprobes: Vec<String>,
    /// Of which of these calls the stack is taken; `None` = of none.
    pub stacks: Option<Stacks>,
    /// Protocols looked for, by registry name; empty = all.
    pub protocols: Vec<String>,
    /// UDP ports whose datagrams are DNS, beside the usual ones.
    pub udp_ports: Vec<u16>,
    /// Ports on which what no parser knows is followed turn by turn.
    pub opaque_ports: Vec<u16>,
    /// Bounds of what stands between the kernel and the sinks.
    pub capture: Capture,
    /// Rows wanted, as typed.
    pub filter: Option<String>,
    /// Length of the run, by the wall clock of a live run and by event time of a replay; `None` = until interrupted.
    pub duration: Option<Duration>,
    /// What goes to standard output.
    pub terminal: Terminal,
    /// The recording.
    pub record: Record,
    /// Where the screen's settings are.
    pub screen: Screen,
}

/// Where the screen's settings are: the screen reads them itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Screen {
    /// The settings file; it may have a section `[screen]`.
    pub file: Option<SettingsFile>,
    /// Where layouts are kept that were saved on the screen; `None` = nowhere.
    pub folder: Option<PathBuf>,
    /// Layout at the start, by name.
    pub layout: Option<String>,
}

/// Bounds between the kernel and the sinks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capture {
    /// Bytes of the kernel's ring, rounded up to a power of two; 64 KiB to 1 GiB. 16 MiB: half a second of 100,000 events
    /// a second with 256 bytes each.
    pub ring_bytes: u32,
    /// Batches (256 KiB at most) between the ring reader and the pipeline; beyond it events are lost (`lost.batch_queue_full`).
    pub batch_queue: usize,
    /// Batches in front of each sink; beyond it the sink loses them (`lost.sink_queue_full`).
    pub sink_queue: usize,
    /// Batches in front of the recorder; beyond it events are lost to the recording (`lost.recorder_queue_full`).
    pub recorder_queue: usize,
}

impl Capture {
    /// So many times the usual room is behind the ring: whoever gives it more expects larger bursts, which go through all queues.
    pub fn times(&self) -> usize {
        (self.ring_bytes / Capture::USUAL_RING).max(1) as usize
    }

    /// Bytes of the ring if nobody says.
    const USUAL_RING: u32 = 16 << 20;
}

/// What goes to standard output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terminal {
    /// One JSON object per transaction and line.
    pub json: bool,
    /// Nothing but one table at the end, without a screen.
    pub once: bool,
    /// Form of the summary.
    pub summary: SummaryForm,
    /// Dots that the XLog holds. 1 M × 24 bytes = 24 MB.
    pub xlog_dots: usize,
    /// Template of the links to another tool, as typed.
    pub open_url: Option<String>,
}

/// The recording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Folder; `None` = none.
    pub out: Option<PathBuf>,
    /// What is kept of the payload.
    pub payload: Payload,
    /// Byte budget: beyond it the oldest hours go.
    pub max_bytes: Option<u64>,
    /// Age budget: hours older than it go.
    pub max_age: Option<Duration>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            targets: Targets::default(),
            hooks: Hooks::Auto,
            tls: Tls::Clear,
            tls_limit: DEFAULT_TLS_LIMIT,
            anatomy: Anatomy::default(),
            request_stacks: RequestStacks::default(),
            uprobes: Vec::new(),
            stacks: None,
            protocols: Vec::new(),
            udp_ports: Vec::new(),
            opaque_ports: Vec::new(),
            capture: Capture {
                ring_bytes: Capture::USUAL_RING,
                batch_queue: 256,
                sink_queue: 256,
                recorder_queue: 1_024,
            },
            filter: None,
            duration: None,
            terminal: Terminal {
                json: false,
                once: false,
                summary: SummaryForm::Text,
                xlog_dots: 1 << 20,
                open_url: None,
            },
            record: Record { out: None, payload: Payload::Heads, max_bytes: None, max_age: None },
            screen: Screen::default(),
        }
    }
}

impl Config {
    /// Resolves layers, lowest first, over the defaults.
    pub fn resolve(layers: impl IntoIterator<Item = Settings>) -> Result<Config, ParseError> {
        let settings = layers.into_iter().fold(Settings::default(), Settings::overlay);
        let default = Config::default();
        let queue = |value: Option<usize>, default: usize| match value {
            Some(0) => Err(ParseError::new("0", "a queue length (1 or more)")),
            Some(n) => Ok(n),
            None => Ok(default),
        };
        let percent = |value: Option<u32>, default: u32| match value {
            Some(n @ 1..=100) => Ok(n),
            Some(n) => Err(ParseError::new(&n.to_string(), "a share in percent (1 to 100)")),
            None => Ok(default),
        };
        Ok(Config {
            targets: Targets {
                pids: settings.pid,
                comms: settings.comm,
                exes: settings.exe,
                cgroups: settings.cgroup,
                ports: settings.port,
            },
            hooks: settings.hooks.unwrap_or(default.hooks),
            tls: settings.tls.unwrap_or(default.tls),
            tls_limit: percent(settings.tls_limit, default.tls_limit)?,
            anatomy: settings.anatomy.unwrap_or(default.anatomy),
            request_stacks: settings.stacks.unwrap_or(match settings.anatomy {
                None | Some(Anatomy::Calls) => default.request_stacks,
                Some(Anatomy::Off | Anatomy::Threads) => RequestStacks::Off,
            }),
            uprobes: settings.uprobe,
            stacks: settings.stack,
            protocols: settings.protocol,
            udp_ports: settings.udp_port,
            opaque_ports: settings.opaque_port,
            capture: {
                let ring = settings.ring_size.map_or(Ok(default.capture.ring_bytes), ring_bytes)?;
                let room = Capture { ring_bytes: ring, ..default.capture };
                Capture {
                    batch_queue: queue(settings.queue_batches, room.batch_queue * room.times())?,
                    sink_queue: queue(settings.queue_sink, room.sink_queue)?,
                    recorder_queue: queue(settings.queue_recorder, room.recorder_queue * room.times())?,
                    ..room
                }
            },
            filter: settings.filter,
            duration: settings.duration.map(|span| span.0),
            terminal: Terminal {
                json: settings.json.unwrap_or(default.terminal.json),
                once: default.terminal.once,
                summary: settings.summary.unwrap_or(default.terminal.summary),
                xlog_dots: queue(settings.xlog_dots, default.terminal.xlog_dots)?,
                open_url: settings.open_url,
            },
            record: Record {
                out: settings.out,
                payload: settings.payload.unwrap_or(default.record.payload),
                max_bytes: settings.max_bytes.map(|size| size.0),
                max_age: settings.max_age.map(|span| span.0),
            },
            screen: Screen { file: settings.file, folder: None, layout: settings.layout },
        })
    }
}

fn ring_bytes(size: Size) -> Result<u32, ParseError> {
    u32::try_from(size.0)
        .ok()
        .filter(|bytes| (64 << 10..=1 << 30).contains(bytes))
        .ok_or_else(|| ParseError::new(&size.to_string(), "a ring size: a power of two from 64K to 1G"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn size(text: &str, bytes: Option<u64>) {
        assert_eq!(text.parse::<Size>().ok().map(|size| size.0), bytes, "{text}");
    }

    #[test]
    fn sizes_have_binary_units_and_refuse_the_rest() {
        size("4096", Some(4096));
        size("64K", Some(65_536));
        size("64KiB", Some(65_536));
        size("8 MB", Some(8 << 20));
        size("2G", Some(2 << 30));
        for bad in ["", "K", "-1", "1.5M", "1X", "99999999999T"] {
            size(bad, None);
        }
        assert_eq!(Size(64 << 20).to_string(), "64M");
        assert_eq!(Size(1000).to_string(), "1000");
    }

    #[test]
    fn spans_have_units_and_refuse_the_rest() {
        let span = |text: &str| text.parse::<Span>().ok().map(|span| span.0.as_millis());
        assert_eq!(span("500ms"), Some(500));
        assert_eq!(span("20"), Some(20_000));
        assert_eq!(span("1.5s"), Some(1_500));
        assert_eq!(span("5m"), Some(300_000));
        assert_eq!(span("7d"), Some(604_800_000));
        for text in ["3s", "1500ms", "90s", "10m", "2h", "7us", "1001ns", "0ns"] {
            assert_eq!(text.parse::<Span>().map(|span| span.to_string()).as_deref(), Ok(text));
        }
        for bad in ["", "s", "-1s", "1y", "1e99", "999999999999d"] {
            assert_eq!(span(bad), None, "{bad}");
        }
    }

    #[test]
    fn stacks_are_of_slow_calls_of_all_or_from_a_duration_on() {
        let stacks = |text: &str| text.parse::<Stacks>().ok();
        assert_eq!((stacks("slow"), stacks("all")), (Some(Stacks::Slow), Some(Stacks::All)));
        assert_eq!(stacks("10ms"), Some(Stacks::From(Span(Duration::from_millis(10)))));
        for bad in ["", "10", "0ms", "fast", "-1ms"] {
            assert_eq!(stacks(bad), None, "{bad}");
        }
        let file: Settings = toml::from_str("stack = \"all\"").unwrap();
        assert_eq!(Config::resolve([file]).unwrap().stacks, Some(Stacks::All));
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_the_defaults() {
        let file: Settings =
            toml::from_str("pid = [1, 2]\nring_size = \"8M\"\nduration = 5\nhooks = \"syscall\"").unwrap();
        let flags =
            Settings { pid: vec![7], duration: Some(Span(Duration::from_secs(9))), ..Settings::default() };
        let config = Config::resolve([file, flags]).unwrap();
        assert_eq!(config.targets.pids, [7]);
        assert_eq!(config.duration, Some(Duration::from_secs(9)));
        assert_eq!(config.capture.ring_bytes, 8 << 20);
        assert_eq!(config.hooks, Hooks::Syscall);
        assert_eq!(config.capture.sink_queue, Config::default().capture.sink_queue);
    }

    #[test]
    fn queues_grow_with_the_ring_unless_they_are_given() {
        let usual = Config::default().capture;
        let of = |text: &str| Config::resolve([toml::from_str(text).unwrap()]).unwrap().capture;
        let queues = |capture: &Capture| (capture.batch_queue, capture.recorder_queue, capture.sink_queue);
        assert_eq!(queues(&of("ring_size = \"64M\"")), (1_024, 4_096, usual.sink_queue));
        assert_eq!(queues(&of("ring_size = \"64K\"")), queues(&usual));
        assert_eq!(queues(&of("ring_size = \"64M\"\nqueue_batches = 7")), (7, 4_096, usual.sink_queue));
    }

    #[test]
    fn unknown_keys_in_the_file_are_errors() {
        let error = toml::from_str::<Settings>("rign_size = 1").unwrap_err();
        assert!(error.to_string().contains("rign_size"), "{error}");
    }

    #[test]
    fn a_queue_of_length_zero_is_refused() {
        let settings = Settings { queue_sink: Some(0), ..Settings::default() };
        assert!(Config::resolve([settings]).is_err());
    }

    #[test]
    fn a_ring_that_the_kernel_would_refuse_is_refused_first() {
        for (size, ok) in [(4096, false), (64 << 10, true), (1 << 30, true), (1 << 40, false)] {
            let settings = Settings { ring_size: Some(Size(size)), ..Settings::default() };
            assert_eq!(Config::resolve([settings]).is_ok(), ok, "{size}");
        }
    }
}
