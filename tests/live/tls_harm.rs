//! No target is harmed by probes: it says and ends as it would without them.

use std::{
    collections::{BTreeMap, VecDeque},
    fs::{self, File},
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::fs::FileExt as _,
    },
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use aya::maps::{HashMap, MapData};
use rstest::rstest;
use tempfile::TempDir;
use tracer_ebpf as abi;
use tracer_user::{
    bpf::{
        later_programs::TlsPrograms,
        load::{LoadConfig, load},
        ring::{Reader, batch_queue},
        uprobe_link::{Place, attach},
        uprobe_programs::UprobeProgram,
    },
    config::Targets,
    metrics::Metrics,
    uprobe::{
        placement::Site,
        tls::{self, End, Library},
    },
};
use workload::clock::boot_ns;

use crate::uprobe::hits::{hits, try_counter};

use super::{
    Hooks,
    dns::counted,
    machine,
    process::{PATIENCE, wait_for},
    tls_calls::{Client, ENDED, Server, check_paths, compiled},
    tls_programs::{check_whole, n_probes},
    tracer::Tracer,
};

/// What a program says, with a tracer or without: the paths that it asked for and the bytes of the answers.
#[rstest]
#[case::plain(&[], &[])]
// It ends at the first system call that it does not know.
#[case::confined(&["confined"], &[])]
#[case::with_address_sanitizer(&[], &["-fsanitize=address", "-g"])]
fn a_program_says_and_ends_as_it_would(#[case] arguments: &[&str], #[case] flags: &[&str]) {
    const N: usize = 200;
    let _machine = machine();
    let server = Server::start();
    let folder = TempDir::new().unwrap();
    let program = compiled(folder.path(), ENDED, flags);
    let start = || {
        let mut command = Command::new(&program);
        command.arg(server.port.to_string()).args(["0", &N.to_string()]).args(arguments);
        // What OpenSSL keeps until the end is no leak of the program.
        Client::of(command.env("ASAN_OPTIONS", "detect_leaks=0").stderr(Stdio::inherit()))
    };
    let mut untraced = start();
    untraced.go("");
    let expected = untraced.end();
    assert_eq!(expected.len(), N);
    let mut client = start();
    let tracer = Tracer::start_with(Hooks::Socket, &[client.process.pid()], &["--tls", "clear"]);
    client.go("");
    assert_eq!(client.end(), expected);
    let capture = tracer.stop();
    // A kernel on which probes would end it is one on which it has none.
    if arguments.is_empty() || counted(&capture, "tls.left_opaque").last() == Some(&0) {
        check_whole(&capture);
        check_paths(&capture, "client", &expected);
    }
}

/// A client that asks until it is told to end, and ends with an error if an answer is not the first one's.
fn endless(program: &Path, server: &Server, confined: &str) -> Client {
    let mut command = Command::new(program);
    command.arg(server.port.to_string()).args(["0", "0", confined, "endless"]);
    // What OpenSSL keeps until the end is no leak of the program.
    Client::of(command.env("ASAN_OPTIONS", "detect_leaks=0").stderr(Stdio::inherit()))
}

/// What it said, and how many requests it made.
fn said(mut paths: BTreeMap<String, u64>) -> (BTreeMap<String, u64>, u64) {
    let n_requests = paths.remove("/endless").unwrap();
    (paths, n_requests)
}

pub(super) fn openssl_of(pid: u32) -> Library {
    let found = tls::of(Path::new("/proc"), pid).unwrap();
    found.libraries.into_iter().find(|library| library.kind == "OpenSSL").unwrap()
}

/// Where its calls to read and to write have their probes.
pub(super) fn places(library: &Library) -> Vec<&Site> {
    let functions = library.functions.iter();
    functions
        .filter(|function| ["SSL_read", "SSL_write"].contains(&function.name.as_str()))
        .map(|function| match &function.end {
            End::ReturnProbe(site) | End::Inner(site) | End::InnerWithFlags(site) => site,
            end => panic!("{end:?}"),
        })
        .collect()
}

/// txray's programs as it loads them for one process, and a reader of what they tell.
struct Loads {
    programs: TlsPrograms,
    /// The kernel counts their runs as long as it is open.
    _statistics: OwnedFd,
    stop: Arc<AtomicBool>,
    reader: thread::JoinHandle<()>,
}

impl Loads {
    fn of(pid: u32) -> Loads {
        /// `BPF_ENABLE_STATS`; its attributes are `BPF_STATS_RUN_TIME`, 0.
        const ENABLE_STATS: libc::c_long = 32;
        const RING_BYTES: u32 = 1 << 20;
        let config = LoadConfig {
            targets: Targets { pids: vec![pid], ..Targets::default() },
            pids: vec![pid],
            ring_bytes: RING_BYTES,
            max_conns: 1024,
            budget: 1024,
            udp_ports: Vec::new(),
            functions: false,
            ..LoadConfig::nothing()
        };
        let mut loaded = load(&config).unwrap();
        let programs = std::mem::take(&mut loaded.tls_programs);
        // What they see is told, whether or not all of them are there.
        let map = loaded.ebpf.take_map("TLS_PROCESSES").unwrap();
        let mut processes: HashMap<MapData, u32, abi::TlsProcess> = HashMap::try_from(map).unwrap();
        let process = abi::TlsProcess { since_ns: boot_ns(), libraries: 1 << abi::TLS_OPENSSL };
        processes.insert(pid, process, 0).unwrap();
        let attributes = 0_u32;
        // SAFETY: the attributes are as long as the call is told.
        let statistics = unsafe { libc::syscall(libc::SYS_bpf, ENABLE_STATS, &raw const attributes, 4) };
        assert!(statistics >= 0, "{}", std::io::Error::last_os_error());
        // SAFETY: given just now, owned by nobody else.
        let statistics = unsafe { OwnedFd::from_raw_fd(statistics as i32) };
        let stop = Arc::new(AtomicBool::new(false));
        let (sender, queue) = batch_queue(64);
        let reader = Reader::new(loaded, RING_BYTES, sender, Metrics::default(), stop.clone()).unwrap();
        let reader = thread::spawn(move || {
            let read = thread::spawn(move || reader.run());
            while queue.recv().is_ok() {}
            read.join().unwrap();
        });
        Loads { programs, _statistics: statistics, stop, reader }
    }

    /// What goes where, as `txray` has it.
    fn places<'a>(&self, library: &'a Library) -> Vec<(&UprobeProgram, Place<'a>)> {
        let mut places = Vec::new();
        for function in &library.functions {
            let (program, site) = match (function.name.as_str(), &function.end, &function.entry) {
                ("SSL_read", End::Inner(site), _) => ("tls_openssl_read_ex", site),
                ("SSL_write", End::Inner(site), _) => ("tls_openssl_write_ex", site),
                ("SSL_do_handshake", End::ReturnProbe(site), _) => ("tls_openssl_handshake", site),
                ("SSL_free", _, Some(site)) => ("tls_free", site),
                _ => continue,
            };
            let at_return = (program != "tls_free").then_some(("tls_return", true));
            for (program, at_return) in [(program, false)].into_iter().chain(at_return) {
                let (path, offset) = (Path::new(&library.path), site.file_offset);
                let place = Place { path, offset, at_return, pid: None };
                places.push((self.programs.get(program).unwrap(), place));
            }
        }
        assert_eq!(places.len(), 7, "{:?}", library.functions);
        places
    }

    /// How often they ran.
    fn n_runs(&self) -> u64 {
        let of = |program: &UprobeProgram| -> u64 {
            let path = format!("/proc/self/fdinfo/{}", program.fd().as_raw_fd());
            let text = fs::read_to_string(path).unwrap();
            text.lines().find_map(|line| line.strip_prefix("run_cnt:")?.trim().parse().ok()).unwrap()
        };
        self.programs.there().values().map(of).sum()
    }

    fn end(self) {
        self.stop.store(true, Relaxed);
        self.reader.join().unwrap();
    }
}

/// A process's code at places of a file.
pub(super) struct Code {
    memory: File,
    addresses: Vec<u64>,
}

impl Code {
    pub(super) fn of(pid: u32, file: &str, sites: &[&Site]) -> Code {
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
        let address_of = |offset: u64| {
            maps.lines().find_map(|line| {
                let fields: Vec<&str> = line.split_ascii_whitespace().collect();
                let [range, "r-xp", from, _, _, path] = fields[..] else { return None };
                let number = |text| u64::from_str_radix(text, 16).unwrap();
                let (start, end) = range.split_once('-')?;
                let (start, end, from) = (number(start), number(end), number(from));
                (path == file && (from..from + end - start).contains(&offset)).then(|| start + offset - from)
            })
        };
        let addresses = sites.iter().map(|site| address_of(site.file_offset).unwrap()).collect();
        Code { memory: File::open(format!("/proc/{pid}/mem")).unwrap(), addresses }
    }

    /// As many bytes at each as the longest instruction has.
    pub(super) fn read(&self) -> Vec<[u8; 15]> {
        let read = |address: &u64| {
            let mut bytes = [0; 15];
            self.memory.read_exact_at(&mut bytes, *address).unwrap();
            bytes
        };
        self.addresses.iter().map(read).collect()
    }
}

/// txray's own programs, which read, link and tell: attached, met, gone from the program's code, and so again.
#[rstest]
#[case::plain("", &[])]
#[case::confined("confined", &[])]
#[case::with_address_sanitizer("", &["-fsanitize=address", "-g"])]
fn txrays_own_probes_come_and_go_under_load(#[case] confined: &str, #[case] flags: &[&str]) {
    /// Probes that are out of the code, for which the kernel still waits until nobody can be in them: they wait together.
    const MAX_GOING: usize = 128;
    let _machine = machine();
    let server = Server::start();
    let folder = TempDir::new().unwrap();
    let program = compiled(folder.path(), ENDED, flags);
    let mut untraced = endless(&program, &server, confined);
    untraced.begin("");
    thread::sleep(Duration::from_millis(300));
    let (expected, n_untraced) = said(untraced.finish());
    assert!(n_untraced > 1 && expected.len() == 1, "{n_untraced} {expected:?}");

    let mut client = endless(&program, &server, confined);
    let pid = client.process.pid();
    let library = &openssl_of(pid);
    let code = Code::of(pid, &library.file, &places(library));
    let plain = code.read();
    let loads = Loads::of(pid);
    let mut wanted = loads.places(library);
    wanted.iter_mut().for_each(|(_, place)| place.pid = Some(pid));
    // Events of perf wait for one another when they go.
    let n_rounds = if wanted.iter().all(|(program, _)| program.is_multi()) { 1000 } else { 20 };
    let wait_until = |what: &str, is_so: &mut dyn FnMut() -> bool| {
        let since = Instant::now();
        while !is_so() {
            assert!(since.elapsed() < PATIENCE, "waited in vain for {what}");
            thread::sleep(Duration::from_micros(100));
        }
    };
    client.begin("");
    let (began, n_before) = (Instant::now(), loads.n_runs());
    thread::scope(|scope| {
        let mut going = VecDeque::new();
        for n in 0..n_rounds {
            let links: Vec<_> =
                wanted.iter().map(|(program, place)| attach(program, *place).unwrap()).collect();
            let attached = code.read();
            assert!(std::iter::zip(&attached, &plain).all(|(one, other)| one != other), "{n}: {attached:x?}");
            let n_runs = loads.n_runs();
            wait_until("a hit", &mut || loads.n_runs() > n_runs);
            going.extend(links.into_iter().map(|link| scope.spawn(move || drop(link))));
            wait_until("its own code again", &mut || code.read() == plain);
            while going.len() > MAX_GOING {
                going.pop_front().into_iter().for_each(|gone| gone.join().unwrap());
            }
        }
    });
    let (took, n_runs) = (began.elapsed(), loads.n_runs() - n_before);
    assert_eq!(code.read(), plain);
    let (paths, n_requests) = said(client.finish());
    loads.end();
    println!("{n_rounds} rounds, {n_runs} hits, {n_requests} requests, {took:?}");
    assert_eq!(paths, expected);
    assert!(n_runs >= n_rounds as u64 && n_requests > 0);
}

/// The same with events of perf, as kernels before 6.10 have, two at a time, that only count. Taking one away waits until nobody can be in it, 50 to
/// 100 ms on a machine with two CPUs at work, and the kernel does one behind the other.
#[test]
fn attached_and_detached_under_load() {
    const N_THREADS: usize = 4;
    /// However long it takes, it ends.
    const PATIENCE: Duration = Duration::from_secs(400);
    let n_times = if std::env::var_os("TXRAY_LONG").is_some() { 500 } else { 20 };
    let _machine = machine();
    let server = Server::start();
    let folder = TempDir::new().unwrap();
    let program = compiled(folder.path(), ENDED, &[]);
    let mut client = endless(&program, &server, "");
    let pid = client.process.pid();
    let library = &openssl_of(pid);
    let places = places(library);
    client.begin("");
    let began = Instant::now();
    let (n_rounds, n_hits) = (AtomicUsize::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        for n in 0..N_THREADS {
            let (n_rounds, n_hits, place) = (&n_rounds, &n_hits, places[n % places.len()]);
            scope.spawn(move || {
                while n_rounds.fetch_add(1, Relaxed) < n_times && began.elapsed() < PATIENCE {
                    // Both attached, then both gone.
                    let probes = [false, true]
                        .map(|is_return| try_counter(&library.file, place, is_return, pid).unwrap());
                    // Each pair has been met before it goes.
                    let met = || probes.iter().map(hits).sum::<u64>();
                    while met() == 0 && began.elapsed() < PATIENCE {
                        thread::sleep(Duration::from_millis(1));
                    }
                    n_hits.fetch_add(met(), Relaxed);
                }
            });
        }
    });
    let n_rounds = n_rounds.into_inner().min(n_times);
    // Its next line is its last.
    let n_requests = client.finish()["/endless"];
    println!(
        "{n_rounds} rounds, {} hits, {n_requests} requests, {:?}",
        n_hits.load(Relaxed),
        began.elapsed()
    );
    assert_eq!(n_rounds, n_times, "in {:?}", began.elapsed());
    assert!(n_hits.into_inner() >= n_rounds as u64 && n_requests > 0);
}

/// The limit is one that it is over at any speed: a request of this program costs it some 100 µs, and four calls.
#[test]
fn who_would_pay_more_than_it_may_is_left_opaque() {
    let _machine = machine();
    let server = Server::start();
    let folder = TempDir::new().unwrap();
    let program = compiled(folder.path(), ENDED, &[]);
    let mut client = endless(&program, &server, "");
    let pid = client.process.pid();
    let flags = ["--tls", "clear", "--tls-limit", "1"];
    let tracer = Tracer::start_with(Hooks::Socket, &[pid], &flags);
    let before = n_probes(&tracer);
    client.begin("");
    wait_for("its probes to go", || (n_probes(&tracer) < before).then_some(()));
    // It goes on, unseen.
    thread::sleep(Duration::from_millis(300));
    let n_requests = client.finish()["/endless"];
    let capture = tracer.stop();
    assert_eq!(counted(&capture, "tls.over_limit").last(), Some(&1), "{}", capture.stderr);
    assert!(capture.stderr.contains("(--tls-limit)"), "{}", capture.stderr);
    let summary = &capture.summary;
    let told = capture.role("client").iter().filter(|one| one.protocol == "http1").count() as u64;
    let why = format!("{told} of {n_requests}, {} {:?}", summary.lost["tls_unlinked"], summary.lost_requests);
    assert!(told > 0 && told < n_requests, "{why}");
    // The one in flight then, if there was one, is known.
    assert!(summary.lost["tls_unlinked"] + 1 >= n_requests - told, "{why}");
    assert!(told + summary.lost_requests.high >= n_requests, "{why}");
    let usual = Tracer::start(Hooks::Socket, &[server.process.pid()]).stop();
    assert_eq!(counted(&usual, "tls.over_limit").last(), Some(&0));
}
