//! Kernel time per program, by samples: for a moment now and then the kernel counts each program's runs and their time
//! (`BPF_ENABLE_STATS`, 5.8). Counting is the whole host's and costs every BPF program on it, so it is not left on.
//!
//! A thread of its own: switching it rewrites kernel code and takes 0.3 ms, 8 ms on a busy host, which the ring's reader must
//! not wait for. The kernel keeps it on as long as the descriptor is open, so that it ends with this process, however that ends.

use std::{
    fs,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
    sync::{
        Arc, PoisonError,
        mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use aya::sys::{Stats, enable_stats};

use super::load::{Loaded, Missing, Others};

/// How long a sample is: a hundredth of [`PERIOD`], so that it costs a hundredth of what counting all the time costs. Measured in
/// turns, six of 10 s each, CPU time of an nginx worker under `wrk -c8` per request (least and median; Linux 6.18, two
/// virtual processors): socket tracepoints 30.1 and 33.2 µs not counted, 32.8 and 35.3 µs counted, 30.2 and 33.9 µs in samples;
/// system calls 32.8 and 36.5, 37.1 and 38.4, 30.7 and 37.6 µs. Counting cost 108 ns a system call that is no target's
/// (`getppid`, median of 60 turns). A server of 1,000 requests a second has 100 in a sample.
pub const SAMPLE: Duration = Duration::from_millis(100);
/// From the beginning of a sample to that of the next. Switching on and switching off take 0.3 ms each (medians of 300; 8 ms at worst
/// beside a build), in which the kernel's code is rewritten under all processors: rarely, then.
pub const PERIOD: Duration = Duration::from_secs(10);

/// What is not known where the kernel does not count.
const FEATURE: &str = "kernel time per program (statistics of BPF programs)";

/// Why the kernel does not count for this process, if it does not.
pub fn missing() -> Option<Missing> {
    let error = enable_stats(Stats::RunTime).err()?;
    // "`bpf_enable_stats` failed" says less than its cause.
    let reason = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
    Some(Missing { feature: FEATURE, reason })
}

/// What a sample says, as counters: of each program `program.NAME.runs` and `program.NAME.ns`, and of the sample its length,
/// how often there is one, and which it is.
pub type Sample = Vec<(Arc<str>, u64)>;

/// Takes samples until it is dropped.
pub struct Meter {
    /// Dropped: no more samples.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
    /// One: the reader looks ten times as often as there is one.
    samples: Receiver<Sample>,
}

impl Meter {
    /// Of all programs that are loaded; `None` where the kernel does not count.
    pub fn of(loaded: &Loaded) -> Option<Meter> {
        if loaded.missing.iter().any(|missing| missing.feature == FEATURE) {
            return None;
        }
        let programs = loaded.programs().filter_map(|(name, fd)| Metered::of(name, fd));
        let mut programs = Programs { all: programs.collect(), n_others: 0, others: loaded.others.clone() };
        let (stop, stopped) = mpsc::channel();
        let (sender, samples) = mpsc::sync_channel(1);
        let body = move || take(&mut programs, &stopped, &sender);
        // A host that refuses this thread refuses the reader's as well, and that is said.
        let thread = thread::Builder::new().name("txray-meter".to_owned()).spawn(body).ok()?;
        Some(Meter { stop: Some(stop), thread: Some(thread), samples })
    }

    /// The newest sample, if there is one that was not asked for yet. Waits for nothing.
    pub fn news(&self) -> Option<Sample> {
        self.samples.try_iter().last()
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // Its panic would cost samples, nothing else.
            let _ = thread.join();
        }
    }
}

struct Metered {
    /// A second descriptor: the loader's own may be closed at any time.
    fd: OwnedFd,
    runs: Arc<str>,
    ns: Arc<str>,
}

/// All programs.
struct Programs {
    /// In the order of their names, from the first sample on.
    all: Vec<Metered>,
    /// How many of the others are among them.
    n_others: usize,
    /// Those that others load, some of them later.
    others: Others,
}

impl Programs {
    /// Those that are loaded now.
    fn now(&mut self) -> &[Metered] {
        let others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        let new = others.iter().skip(self.n_others);
        self.all.extend(new.filter_map(|(name, fd)| Metered::of(name, fd.as_fd())));
        self.n_others = others.len();
        self.all.sort_by(|a, b| a.runs.cmp(&b.runs));
        &self.all
    }
}

impl Metered {
    /// A program; `None`: this process may open no file more.
    fn of(name: &str, fd: BorrowedFd<'_>) -> Option<Metered> {
        let fd = fd.try_clone_to_owned().ok()?;
        Some(Metered {
            fd,
            runs: format!("program.{name}.runs").into(),
            ns: format!("program.{name}.ns").into(),
        })
    }

    /// Runs and nanoseconds since the program was loaded, as far as they were counted.
    fn read(&self) -> Option<(u64, u64)> {
        let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", self.fd.as_raw_fd())).ok()?;
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        Some((field("run_cnt:")?, field("run_time_ns:")?))
    }
}

/// The thread's body. The first sample is taken at once, so that a short run has one.
fn take(programs: &mut Programs, stopped: &Receiver<()>, samples: &SyncSender<Sample>) {
    let mut n_samples = 0;
    loop {
        let begun = Instant::now();
        if let Some((length, mut sample)) = sample(programs.now(), stopped) {
            n_samples += 1;
            sample.push(("program.sample_ns".into(), length.as_nanos() as u64));
            sample.push(("program.period_ns".into(), PERIOD.as_nanos() as u64));
            sample.push(("program.samples".into(), n_samples));
            // Full: the reader has not looked for a whole period, and the next one is newer anyway.
            let _ = samples.try_send(sample);
        }
        if stopped.recv_timeout(PERIOD.saturating_sub(begun.elapsed())) != Err(RecvTimeoutError::Timeout) {
            return;
        }
    }
}

/// What was counted from one reading to another: others may have had the kernel count before, and may go on. `None` if the
/// kernel refuses now, or the run ended meanwhile.
fn sample(programs: &[Metered], stopped: &Receiver<()>) -> Option<(Duration, Sample)> {
    let statistics = enable_stats(Stats::RunTime).ok()?;
    let before: Vec<_> = programs.iter().map(Metered::read).collect();
    // Within both readings of each program: what happened in the sample was counted.
    let from = Instant::now();
    if stopped.recv_timeout(SAMPLE) != Err(RecvTimeoutError::Timeout) {
        return None;
    }
    let length = from.elapsed();
    let after: Vec<_> = programs.iter().map(Metered::read).collect();
    drop(statistics);
    let mut sample = Vec::new();
    for (program, (before, after)) in programs.iter().zip(before.into_iter().zip(after)) {
        let (Some((runs, ns)), Some((all_runs, all_ns))) = (before, after) else { continue };
        sample.push((program.runs.clone(), all_runs - runs));
        sample.push((program.ns.clone(), all_ns - ns));
    }
    Some((length, sample))
}
