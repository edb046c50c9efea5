//! Facts about processes, read from `/proc` by the live source: identity, executable, service, container.
//!
//! A process is read once and again when it may have changed (exec, a reused number). Reading takes 50 to 150 µs.
//! What may block for long is read by a thread of its own: `environ` and `cmdline` wait for the target's memory lock,
//! which a process in trouble can hold for minutes; the caller waits at most `PATIENCE` and goes on without them.

use std::{
    collections::VecDeque,
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    time::Duration,
};

use rustc_hash::FxHashMap;

use super::{container, service};
use crate::{event::ProcessFacts, text::data_text, time::BootTime};

/// Environment bytes searched for the service's name. Linux allows megabytes; real ones take a few KiB.
const MAX_ENVIRON: u64 = 256 << 10;
/// Command line bytes read: a Java class path can take tens of KiB.
const MAX_CMDLINE: u64 = 64 << 10;
/// Bytes of a small file of `/proc` (`stat`, `comm`, `cgroup`).
const MAX_SMALL: u64 = 64 << 10;
/// Longest service name kept, bytes.
const MAX_NAME: usize = 128;
/// How long the caller waits for `environ` and `cmdline`.
const PATIENCE: Duration = Duration::from_millis(20);
/// A cached process is believed for this long; then its start time and name are compared (one small read), in case
/// its end and the start of a namesake were not seen. Event time, nanoseconds.
const TRUST_NS: u64 = 1_000_000_000;

/// Reads and remembers [`ProcessFacts`]. One per live source; holds at most `cap` processes, the oldest leave first.
pub struct FactsReader {
    proc_root: PathBuf,
    /// Where the container runtimes' files are (`/`).
    host_root: PathBuf,
    cap: usize,
    known: FxHashMap<u32, Entry>,
    /// In order of insertion; entries that were forgotten since stay until they reach the front. At most 2 × `cap`.
    order: VecDeque<(u32, u64)>,
    n_inserted: u64,
    n_denied: u64,
    slow: SlowReader,
}

struct Entry {
    facts: Arc<ProcessFacts>,
    checked: BootTime,
    inserted: u64,
    /// Given out by [`FactsReader::news`].
    told: bool,
}

/// What `/proc/PID/stat` says.
struct Stat {
    comm: Vec<u8>,
    start_ticks: u64,
}

impl FactsReader {
    /// Reads from `/proc`, and remembers at most `cap` processes (about 300 bytes each).
    pub fn new(cap: usize) -> FactsReader {
        FactsReader::at(Path::new("/proc"), Path::new("/"), cap)
    }

    /// Reads from other roots: a container's view of the host, or a test's files.
    pub fn at(proc_root: &Path, host_root: &Path, cap: usize) -> FactsReader {
        FactsReader {
            proc_root: proc_root.to_owned(),
            host_root: host_root.to_owned(),
            cap: cap.max(1),
            known: FxHashMap::default(),
            order: VecDeque::new(),
            n_inserted: 0,
            n_denied: 0,
            slow: SlowReader::new(proc_root.to_owned()),
        }
    }

    /// The facts about a process. Costs a hash lookup when it was read less than a second of `now` ago.
    ///
    /// Of a process that is gone nothing but its number is known: `start_ticks` is 0 and the texts are empty. The
    /// consumer falls back on the name that came with the event.
    pub fn facts(&mut self, pid: u32, now: BootTime) -> Arc<ProcessFacts> {
        let known = self.known.get(&pid).map(|entry| (Arc::clone(&entry.facts), entry.checked));
        if let Some((facts, checked)) = &known
            && now.signed_since(*checked).unsigned_abs() < TRUST_NS
        {
            return Arc::clone(facts);
        }
        let stat = self.stat(pid);
        if let Some((facts, _)) = known {
            let same = match &stat {
                Some(stat) => facts.start_ticks == stat.start_ticks && *facts.comm == *data_text(&stat.comm),
                // Gone: what was known of it is still true of its late events.
                None => true,
            };
            if same {
                if let Some(entry) = self.known.get_mut(&pid) {
                    entry.checked = now;
                }
                return facts;
            }
        }
        let facts = Arc::new(match stat {
            Some(stat) => self.read(pid, &stat, now),
            None => ProcessFacts { time: now, pid, ..ProcessFacts::default() },
        });
        self.insert(pid, Arc::clone(&facts), now);
        facts
    }

    /// The facts, once after each time that they were read: what a source turns into an event.
    pub fn news(&mut self, pid: u32, now: BootTime) -> Option<Arc<ProcessFacts>> {
        let facts = self.facts(pid, now);
        let entry = self.known.get_mut(&pid)?;
        (!std::mem::replace(&mut entry.told, true)).then_some(facts)
    }

    /// Drops what is known: the process has ended, or executes another program.
    pub fn forget(&mut self, pid: u32) {
        self.known.remove(&pid);
    }

    /// Number of processes remembered.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// How often a process that is there could not be looked into for lack of rights.
    pub fn n_denied(&self) -> u64 {
        self.n_denied
    }

    /// How often `environ` and `cmdline` were not waited for any longer.
    pub fn n_impatient(&self) -> u64 {
        self.slow.n_impatient
    }

    fn insert(&mut self, pid: u32, facts: Arc<ProcessFacts>, now: BootTime) {
        self.n_inserted += 1;
        let inserted = self.n_inserted;
        self.known.insert(pid, Entry { facts, checked: now, inserted, told: false });
        self.order.push_back((pid, inserted));
        while self.known.len() > self.cap {
            let Some((oldest, inserted)) = self.order.pop_front() else { break };
            if self.known.get(&oldest).is_some_and(|entry| entry.inserted == inserted) {
                self.known.remove(&oldest);
            }
        }
        if self.order.len() > 2 * self.cap {
            // Those forgotten since are dropped; at least `cap` insertions lie between two such passes.
            let known = &self.known;
            self.order
                .retain(|(pid, inserted)| known.get(pid).is_some_and(|entry| entry.inserted == *inserted));
        }
    }

    fn stat(&self, pid: u32) -> Option<Stat> {
        parse_stat(&read_up_to(&self.proc_root.join(format!("{pid}/stat")), MAX_SMALL)?)
    }

    fn read(&mut self, pid: u32, stat: &Stat, now: BootTime) -> ProcessFacts {
        let link = fs::read_link(self.proc_root.join(format!("{pid}/exe")));
        // The same right opens the environment and the command line.
        self.n_denied += u64::from(is_denied(&link));
        let exe = link.map(bytes_of).unwrap_or_default();
        let cgroups =
            read_up_to(&self.proc_root.join(format!("{pid}/cgroup")), MAX_SMALL).unwrap_or_default();
        let membership = container::membership(&String::from_utf8_lossy(&cgroups));
        let slow = self.slow.read(pid).unwrap_or_default();

        let container = membership.container;
        let service = service_in_environ(&slow.environ)
            .or_else(|| membership.unit.map(String::into_bytes))
            .or_else(|| {
                let container = container.as_ref()?;
                let name = container::container_name(&self.host_root, container);
                // An id is cut as its runtime's own tools show it.
                Some(name.unwrap_or_else(|| container.id.chars().take(12).collect()).into_bytes())
            })
            .or_else(|| {
                Some(service::executable_name(&exe, &slow.cmdline, &stat.comm))
                    .filter(|name| !name.is_empty())
            })
            .unwrap_or_else(|| stat.comm.clone());
        ProcessFacts {
            time: now,
            pid,
            start_ticks: stat.start_ticks,
            comm: data_text(&stat.comm).into(),
            exe: data_text(&exe).into(),
            service: data_text(cut(&service, MAX_NAME)).into(),
            container: container.map(|container| container.id).unwrap_or_default().into(),
        }
    }
}

/// Path of a process's executable; empty if it cannot be read (another user's, a kernel thread).
pub(crate) fn exe_of(proc_root: &Path, pid: u32) -> Vec<u8> {
    fs::read_link(proc_root.join(format!("{pid}/exe"))).map(bytes_of).unwrap_or_default()
}

fn bytes_of(path: PathBuf) -> Vec<u8> {
    std::os::unix::ffi::OsStringExt::into_vec(path.into_os_string())
}

/// Whether the system refused: a process that is gone and a kernel thread have no executable, and are not meant.
fn is_denied(link: &io::Result<PathBuf>) -> bool {
    link.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
}

/// `OTEL_SERVICE_NAME`, or `service.name` of `OTEL_RESOURCE_ATTRIBUTES`, which it overrides.
fn service_in_environ(environ: &[u8]) -> Option<Vec<u8>> {
    let value_of = |key: &[u8]| {
        let found = environ.split(|&byte| byte == 0).find_map(|variable| variable.strip_prefix(key));
        found.filter(|value| !value.is_empty())
    };
    if let Some(name) = value_of(b"OTEL_SERVICE_NAME=") {
        return Some(name.to_vec());
    }
    let attributes = value_of(b"OTEL_RESOURCE_ATTRIBUTES=")?;
    let name = attributes
        .split(|&byte| byte == b',')
        .find_map(|attribute| attribute.trim_ascii().strip_prefix(b"service.name="))?;
    (!name.is_empty()).then(|| name.to_vec())
}

/// `PID (COMM) STATE …`: the name may hold anything, parentheses and line ends included, so its end is the last `)`.
fn parse_stat(stat: &[u8]) -> Option<Stat> {
    let open = stat.iter().position(|&byte| byte == b'(')?;
    let close = stat.iter().rposition(|&byte| byte == b')')?;
    let comm = stat.get(open + 1..close)?.to_vec();
    let rest = std::str::from_utf8(stat.get(close + 1..)?).ok()?;
    // Field 22, counted from field 3 behind the name.
    let start_ticks = rest.split_ascii_whitespace().nth(19)?.parse().ok()?;
    Some(Stat { comm, start_ticks })
}

/// Parent's number by `/proc/PID/stat`.
pub(crate) fn parent_in_stat(stat: &[u8]) -> Option<u32> {
    let close = stat.iter().rposition(|&byte| byte == b')')?;
    let rest = std::str::from_utf8(stat.get(close + 1..)?).ok()?;
    rest.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// The first `limit` bytes of a file, `None` if it cannot be opened or read.
pub(crate) fn read_up_to(path: &Path, limit: u64) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path).ok()?.take(limit).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// At most `limit` bytes, not cut inside a character.
fn cut(bytes: &[u8], limit: usize) -> &[u8] {
    if bytes.len() <= limit {
        return bytes;
    }
    // A byte 10xxxxxx continues a character.
    let end = (0..=limit).rev().find(|&end| bytes[end] & 0xc0 != 0x80).unwrap_or(limit);
    &bytes[..end]
}

/// What only the target's memory knows.
#[derive(Default)]
struct Slow {
    environ: Vec<u8>,
    cmdline: Vec<u8>,
}

/// Questions to the reading thread and its answers.
type Channels = (SyncSender<u32>, Receiver<(u32, Slow)>);

/// A thread that reads `environ` and `cmdline`: one question at a time, and none while it hangs.
struct SlowReader {
    proc_root: PathBuf,
    channels: Option<Channels>,
    hangs: bool,
    n_impatient: u64,
}

impl SlowReader {
    fn new(proc_root: PathBuf) -> SlowReader {
        SlowReader { proc_root, channels: None, hangs: false, n_impatient: 0 }
    }

    fn read(&mut self, pid: u32) -> Option<Slow> {
        if self.channels.is_none() {
            self.channels = Some(start_thread(self.proc_root.clone())?);
        }
        let (questions, answers) = self.channels.as_ref()?;
        if self.hangs {
            // Whose answer it is matters no more: its process went on without.
            match answers.try_recv() {
                Ok(_) => self.hangs = false,
                Err(_) => {
                    self.n_impatient += 1;
                    return None;
                }
            }
        }
        // The thread waits for exactly this question, so that the queue of one has room.
        questions.try_send(pid).ok()?;
        match answers.recv_timeout(PATIENCE) {
            Ok((answered, slow)) => (answered == pid).then_some(slow),
            Err(RecvTimeoutError::Timeout) => {
                self.hangs = true;
                self.n_impatient += 1;
                None
            }
            Err(RecvTimeoutError::Disconnected) => {
                self.channels = None;
                None
            }
        }
    }
}

/// The thread ends when its questions do. `None` if the system has no room for one more.
fn start_thread(proc_root: PathBuf) -> Option<Channels> {
    let (questions, asked) = sync_channel::<u32>(1);
    let (answer, answers) = sync_channel(1);
    let thread = std::thread::Builder::new().name("txray-facts".to_owned()).spawn(move || {
        while let Ok(pid) = asked.recv() {
            let file = |name: &str, limit| {
                read_up_to(&proc_root.join(format!("{pid}/{name}")), limit).unwrap_or_default()
            };
            let slow = Slow { environ: file("environ", MAX_ENVIRON), cmdline: file("cmdline", MAX_CMDLINE) };
            if answer.send((pid, slow)).is_err() {
                break;
            }
        }
    });
    thread.is_ok().then_some((questions, answers))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    const T0: BootTime = BootTime(50_000_000_000);
    const LATER: BootTime = BootTime(52_000_000_000);

    /// A made-up `/proc` with one process, 42.
    struct Fixture {
        root: tempfile::TempDir,
    }

    impl Fixture {
        fn new() -> Fixture {
            let fixture = Fixture { root: tempfile::tempdir().unwrap() };
            fixture.process(42, "python3", 1000);
            fixture
        }

        fn process(&self, pid: u32, comm: &str, start: u64) {
            let zeros = "0 ".repeat(18);
            self.file(pid, "stat", format!("{pid} ({comm}) S {zeros}{start} 0 0").as_bytes());
            let exe = self.root.path().join(format!("{pid}/exe"));
            let _ = fs::remove_file(&exe);
            std::os::unix::fs::symlink("/usr/bin/python3.11", exe).unwrap();
        }

        fn file(&self, pid: u32, name: &str, content: &[u8]) {
            let dir = self.root.path().join(pid.to_string());
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join(name), content).unwrap();
        }

        fn reader(&self, cap: usize) -> FactsReader {
            FactsReader::at(self.root.path(), self.root.path(), cap)
        }

        fn service(&self) -> String {
            self.reader(8).facts(42, T0).service.to_string()
        }
    }

    #[test]
    fn a_service_is_named_by_environment_then_unit_then_container_then_executable() {
        let fixture = Fixture::new();
        assert_eq!(fixture.service(), "python3", "nothing but the executable");
        fixture.file(42, "cmdline", b"python3\0/srv/app.py\0");
        assert_eq!(fixture.service(), "python3 app.py");
        fixture.file(42, "cgroup", format!("0::/system.slice/docker-{ID}.scope\n").as_bytes());
        assert_eq!(fixture.service(), "0123456789ab", "a container without a known name");
        let docker = fixture.root.path().join(format!("var/lib/docker/containers/{ID}"));
        fs::create_dir_all(&docker).unwrap();
        fs::write(docker.join("config.v2.json"), r#"{"Name":"/shop"}"#).unwrap();
        assert_eq!(fixture.service(), "shop");
        fixture.file(42, "cgroup", b"0::/system.slice/shop-api.service\n");
        assert_eq!(fixture.service(), "shop-api");
        fixture.file(42, "environ", b"A=1\0OTEL_RESOURCE_ATTRIBUTES=a=b, service.name=checkout,c=d\0");
        assert_eq!(fixture.service(), "checkout");
        fixture.file(
            42,
            "environ",
            b"OTEL_RESOURCE_ATTRIBUTES=service.name=x\0OTEL_SERVICE_NAME=cart\0Z=1\0",
        );
        assert_eq!(fixture.service(), "cart");
        fixture.file(42, "environ", b"XOTEL_SERVICE_NAME=no\0OTEL_SERVICE_NAME=\0");
        assert_eq!(fixture.service(), "shop-api", "an empty name is none");
    }

    #[test]
    fn all_facts_are_read() {
        let fixture = Fixture::new();
        fixture.process(42, "we) (ird\n", 77);
        fixture.file(42, "cgroup", format!("0::/docker/{ID}\n").as_bytes());
        let facts = fixture.reader(8).facts(42, T0);
        assert_eq!(
            *facts,
            ProcessFacts {
                time: T0,
                pid: 42,
                start_ticks: 77,
                comm: "we) (ird\n".into(),
                exe: "/usr/bin/python3.11".into(),
                service: "0123456789ab".into(),
                container: ID.into(),
            }
        );
    }

    #[test]
    fn a_process_that_is_gone_has_a_number_and_nothing_else_and_is_looked_for_again_later() {
        let fixture = Fixture::new();
        let mut reader = fixture.reader(8);
        let gone = reader.facts(7, T0);
        assert_eq!(*gone, ProcessFacts { time: T0, pid: 7, ..ProcessFacts::default() });
        fixture.process(7, "late", 5);
        assert!(Arc::ptr_eq(&gone, &reader.facts(7, T0)), "not looked for again at once");
        assert_eq!(&*reader.facts(7, LATER).comm, "late");
    }

    #[test]
    fn a_known_process_is_not_read_again_until_it_changes() {
        let fixture = Fixture::new();
        let mut reader = fixture.reader(8);
        let first = reader.facts(42, T0);
        fixture.file(42, "environ", b"OTEL_SERVICE_NAME=other\0");
        assert!(Arc::ptr_eq(&first, &reader.facts(42, LATER)), "same start, same name: same process");
        fixture.process(42, "python3", 2000);
        assert!(Arc::ptr_eq(&first, &reader.facts(42, LATER)), "believed for a second");
        let reused = reader.facts(42, BootTime(LATER.0 + TRUST_NS));
        assert_eq!((reused.start_ticks, &*reused.service), (2000, "other"));
        reader.forget(42);
        fixture.file(42, "environ", b"OTEL_SERVICE_NAME=third\0");
        assert_eq!(&*reader.facts(42, BootTime(LATER.0 + TRUST_NS)).service, "third");
    }

    #[test]
    fn the_end_of_a_process_does_not_erase_what_was_known() {
        let fixture = Fixture::new();
        let mut reader = fixture.reader(8);
        let first = reader.facts(42, T0);
        fs::remove_dir_all(fixture.root.path().join("42")).unwrap();
        assert!(Arc::ptr_eq(&first, &reader.facts(42, LATER)));
    }

    #[test]
    fn news_are_told_once_and_again_after_a_change() {
        let fixture = Fixture::new();
        let mut reader = fixture.reader(8);
        assert_eq!(reader.news(42, T0).map(|facts| facts.start_ticks), Some(1000));
        assert_eq!(reader.news(42, T0), None);
        reader.facts(42, LATER);
        assert_eq!(reader.news(42, LATER), None);
        fixture.process(42, "python3", 2000);
        let later = BootTime(LATER.0 + TRUST_NS);
        reader.facts(42, later);
        assert_eq!(reader.news(42, later).map(|facts| facts.start_ticks), Some(2000));
    }

    #[test]
    fn no_more_than_the_cap_is_remembered_and_the_oldest_leaves() {
        let fixture = Fixture::new();
        let mut reader = fixture.reader(3);
        for pid in 100..110 {
            fixture.process(pid, "x", 1);
            reader.facts(pid, T0);
            // Forgotten ones must not pile up either.
            reader.facts(1000 + pid, T0);
            reader.forget(1000 + pid);
        }
        // The last of three made room for a process that was forgotten at once.
        let mut left: Vec<u32> = reader.known.keys().copied().collect();
        left.sort_unstable();
        assert_eq!(left, [108, 109]);
        assert!(reader.order.len() <= 6);
    }

    #[test]
    fn a_target_whose_memory_is_locked_costs_its_name_and_a_short_wait() {
        let fixture = Fixture::new();
        fixture.file(42, "cmdline", b"python3\0app.py\0");
        // A pipe without a writer blocks whoever opens it, as a locked memory does.
        let stuck = fixture.root.path().join("42/environ");
        let path = std::ffi::CString::new(stuck.to_str().unwrap()).unwrap();
        // SAFETY: a NUL-terminated path that lives through the call.
        assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
        let mut reader = fixture.reader(8);
        assert_eq!(&*reader.facts(42, T0).service, "python3", "the command line was not waited for");
        fixture.process(43, "other", 1);
        fixture.file(43, "environ", b"OTEL_SERVICE_NAME=cart\0");
        assert_eq!(&*reader.facts(43, T0).service, "python3", "not asked while it hangs");
        assert_eq!(reader.n_impatient(), 2);
        // Freed: opening the other end lets the thread go on.
        drop(fs::OpenOptions::new().write(true).open(&stuck).unwrap());
        for _ in 0..500 {
            reader.forget(43);
            if &*reader.facts(43, T0).service == "cart" {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("the thread did not come back");
    }

    #[test]
    fn this_process_is_described() {
        let mut reader = FactsReader::new(4);
        let facts = reader.facts(std::process::id(), T0);
        assert!(facts.start_ticks > 0);
        assert!(facts.exe.contains("tracer_user"), "{}", facts.exe);
        assert!(!facts.service.is_empty());
    }

    #[test]
    fn long_and_foreign_names_are_cut_and_spelled_out() {
        let fixture = Fixture::new();
        let long = "가".repeat(100);
        fixture.file(42, "environ", format!("OTEL_SERVICE_NAME={long}\0").as_bytes());
        assert_eq!(fixture.service(), "가".repeat(42), "126 bytes: no character is cut");
        fixture.file(42, "environ", b"OTEL_SERVICE_NAME=a\xffb\0");
        assert_eq!(fixture.service(), "a\\xffb");
    }

    #[test]
    fn broken_stat_lines_are_no_process() {
        for stat in ["", "42", "42 (x", "42 (x) S 1 2", "42 )x( S", "42 (x) S a b"] {
            assert!(parse_stat(stat.as_bytes()).is_none(), "{stat}");
        }
    }
}
