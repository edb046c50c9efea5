//! The anatomy and the stacks of a mix of requests against what their server's own clocks said of each: threads' CPU time, the clock of the wall around what was done, and the
//! scheduler's own account of waiting for a CPU.
//!
//! `TXRAY_TEST_REQUESTS=10000` asks for so many requests (`cargo xtask bench anatomy`); otherwise 300. The table of what was found goes to standard output.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt::Write as _,
    fs,
    io::{BufRead as _, BufReader},
    net::TcpStream,
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use rstest::rstest;
use tempfile::TempDir;

use super::{
    Hooks,
    anatomy::ask,
    functions::{compile, kernel},
    machine,
    postgres::Postgres,
    process::Process,
    stacks::{is_kernel, parts},
    tracer::{Anatomy, Capture, Tracer, Transaction},
};

/// Connections, each with a thread of the server on one CPU.
const CONNECTIONS: usize = 4;
/// How late the slow reader reads on.
const PAUSE: Duration = Duration::from_millis(30);
/// The program's frames of a stack, from the innermost, among which the function must be: what it calls of the C library is above it.
const TOP_FRAMES: usize = 6;
/// What may be between a part and the server's own clocks: so much, or one in [`ERROR_SHARE`] of it.
const ERROR_NS: u64 = 2_000_000;
const ERROR_SHARE: u64 = 20;

/// What a request is asked for: its part of the time, and the function that does it.
struct Kind {
    name: &'static str,
    what: &'static str,
    /// The part it is in, as the anatomy names it.
    part: &'static str,
    function: &'static str,
}

const KINDS: [Kind; 8] = [
    Kind { name: "compute", what: "computes: 10 ms of CPU time", part: "oncpu", function: "compute" },
    Kind { name: "rest", what: "sleeps 30 ms", part: "timer", function: "rest" },
    Kind { name: "lock", what: "waits for a lock that is held 50 ms", part: "futex", function: "take_lock" },
    Kind { name: "disk", what: "reads past the page cache for 20 ms", part: "disk", function: "read_disk" },
    Kind { name: "query", what: "asks PostgreSQL for `pg_sleep` of 40 ms", part: "calls", function: "query" },
    Kind {
        name: "compete",
        what: "10 ms of CPU time beside a busy process",
        part: "runq",
        function: "compete",
    },
    Kind {
        name: "much",
        what: "sends 1 MB to a client that reads late",
        part: "sending",
        function: "send_much",
    },
    Kind {
        name: "apart",
        what: "the same, its head by a call of its own",
        part: "sending",
        function: "send_apart",
    },
];

/// What the clocks of a thread said from one moment to another, ns.
#[derive(Debug)]
struct Clocks {
    wall: u64,
    on_cpu: u64,
    for_a_cpu: u64,
}

impl Clocks {
    /// Neither on a CPU nor able to be.
    fn waited(&self) -> u64 {
        self.wall.saturating_sub(self.on_cpu + self.for_a_cpu)
    }
}

/// What the server logged of a request.
#[derive(Debug)]
struct Row {
    tid: u32,
    helper: u32,
    /// From when its read has returned until its write has.
    handler: Clocks,
    /// What it did.
    act: Clocks,
}

impl Row {
    /// What the server's own clocks say of a part, at least and at most.
    fn measured(&self, part: &str) -> [u64; 2] {
        // The request ends within the write of its answer: what its thread does there is partly its.
        let of = |clocks: &Clocks| match part {
            "oncpu" => clocks.on_cpu,
            // It never waits for anything else, so that this needs no account of the scheduler's.
            "runq" => clocks.wall.saturating_sub(clocks.on_cpu),
            _ => self.act.waited(),
        };
        [of(&self.act), of(&self.handler)]
    }

    /// Neither on a CPU nor waiting for one, of a handler that waits for nothing else: the hypervisor's.
    fn stolen(&self) -> u64 {
        self.handler.waited()
    }
}

fn part_of(anatomy: &Anatomy, part: &str) -> u64 {
    match part {
        "oncpu" => anatomy.oncpu_ns,
        "runq" => anatomy.runq_ns,
        "calls" => anatomy.calls_ns,
        "sending" => anatomy.sending_ns,
        reason => anatomy.offcpu_ns.get(reason).copied().unwrap_or(0),
    }
}

/// The server, and where it logs.
struct Server {
    process: Process,
    port: u16,
    log: PathBuf,
    _postgres: Postgres,
    _folder: TempDir,
}

impl Server {
    fn start() -> Server {
        let postgres = Postgres::start();
        // Beside the build: where temporary files are kept in memory, none is read past the page cache.
        let folder = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let program = compile(Path::new("../../fixtures/servers/script.c"), folder.path(), &[]);
        let (log, file) = (folder.path().join("log.csv"), folder.path().join("file"));
        fs::write(&file, vec![7; 4 << 20]).unwrap();
        fs::File::open(&file).unwrap().sync_all().unwrap();
        let mut command = Command::new(program);
        command.arg(&log).arg(&file).arg(postgres.port.to_string()).arg(CONNECTIONS.to_string());
        let mut process = Process::spawn(command.stdout(Stdio::piped()));
        let mut port = String::new();
        BufReader::new(process.child.stdout.take().unwrap()).read_line(&mut port).unwrap();
        let port = port.trim().strip_prefix("port ").unwrap().parse().unwrap();
        Server { process, port, log, _postgres: postgres, _folder: folder }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        // Otherwise what it has room for grows, and nobody waits for it.
        let small: libc::c_int = 64 << 10;
        let length = size_of_val(&small) as libc::socklen_t;
        // SAFETY: the option is as long as said.
        let set = unsafe {
            let value = std::ptr::from_ref(&small).cast();
            libc::setsockopt(stream.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVBUF, value, length)
        };
        assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
        stream
    }

    /// Path → what was logged of it.
    fn rows(&self) -> HashMap<String, Row> {
        let text = fs::read_to_string(&self.log).unwrap();
        let row = |line: &str| {
            let fields: Vec<&str> = line.split(',').collect();
            let number = |i: usize| fields[i].parse::<u64>().unwrap();
            let clocks = |i: usize| Clocks {
                wall: number(i + 1) - number(i),
                on_cpu: number(i + 2),
                for_a_cpu: number(i + 3),
            };
            let (tid, helper) = (number(1) as u32, number(2) as u32);
            (fields[0].to_owned(), Row { tid, helper, handler: clocks(3), act: clocks(7) })
        };
        text.lines().map(row).collect()
    }
}

/// So many requests, of all kinds as often, in an order that is the same each time.
fn script(n: usize) -> Vec<(usize, String)> {
    let mut script: Vec<_> =
        (0..n).map(|i| (i % KINDS.len(), format!("/{}/{i}", KINDS[i % KINDS.len()].name))).collect();
    // Fisher-Yates by the numbers of Knuth's MMIX generator.
    let mut state = 20_261_128_u64;
    for i in (1..n).rev() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        script.swap(i, ((state >> 33) % (i as u64 + 1)) as usize);
    }
    script
}

fn ask_all(server: &Server, script: &[(usize, String)]) {
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..CONNECTIONS {
            scope.spawn(|| {
                let mut stream = server.connect();
                while let Some((kind, path)) = script.get(next.fetch_add(1, Ordering::Relaxed)) {
                    ask(&mut stream, path, (KINDS[*kind].part == "sending").then_some(PAUSE));
                }
            });
        }
    });
}

/// What was found of the requests of one kind.
#[derive(Debug, Default)]
struct Found {
    n: usize,
    /// By the server's clocks.
    measured: Vec<u64>,
    /// The part less what the server measured.
    errors: Vec<i64>,
    n_within: usize,
    /// Those that are not, and would be if they may differ by what the hypervisor took from them.
    n_stolen: usize,
    /// Those of which something is known to be nobody's.
    n_unattributed: usize,
    /// It is the largest part of those that are of its sort.
    n_largest: usize,
    /// Those that have stacks of its kind, and those whose heaviest one has the function on top.
    n_stacks: usize,
    n_function: usize,
    /// Those whose longest lock was let go of by the helper.
    n_helper: usize,
    /// More of its part than the request's handler, or what it did, took.
    too_much: Vec<String>,
    /// Stacks without the function.
    astray: Vec<String>,
}

impl Found {
    fn add(&mut self, kind: &Kind, one: &Transaction, anatomy: &Anatomy, row: &Row) {
        self.n += 1;
        let (found, [least, most]) = (part_of(anatomy, kind.part), row.measured(kind.part));
        let measured = found.clamp(least, most.max(least));
        let is_within = |error: u64| error <= ERROR_NS.max(measured / ERROR_SHARE);
        self.measured.push(least);
        self.errors.push(found as i64 - measured as i64);
        let error = found.abs_diff(measured);
        self.n_within += usize::from(is_within(error));
        if ["oncpu", "runq"].contains(&kind.part) && !is_within(error) {
            self.n_stolen += usize::from(is_within(error.saturating_sub(row.stolen())));
        }
        self.n_unattributed += usize::from(anatomy.unattributed_ns > 0);
        // The waits of what it did are within what it did, on one clock. Where it was on a CPU or waited for one is not told by one function.
        let whole =
            if ["oncpu", "runq"].contains(&kind.part) { one.duration_ns as u64 } else { row.act.wall };
        if found > whole {
            self.too_much.push(format!("{one:?}: {found} of {whole}: {anatomy:?} {row:?}"));
        }
        let waits = anatomy.offcpu_ns.values().copied().chain([anatomy.calls_ns, anatomy.sending_ns]);
        let largest = match kind.part {
            // How long another one takes the CPU is not up to them.
            "oncpu" | "runq" => waits.max().unwrap_or(0) < anatomy.oncpu_ns + anatomy.runq_ns,
            _ => waits.max() == Some(found),
        };
        self.n_largest += usize::from(largest && found > 0);
        let locks = one.locks.iter().flatten().max_by_key(|lock| lock.ns);
        self.n_helper += usize::from(locks.is_some_and(|lock| lock.tid == Some(row.helper)));
        let Some(heaviest) = one.stacks.iter().flatten().max_by_key(|stack| stack.ns) else { return };
        self.n_stacks += 1;
        let mut top = heaviest.frames.iter().filter(|frame| !is_kernel(frame)).take(TOP_FRAMES);
        if top.any(|frame| parts(frame) == (kind.function, "script")) {
            self.n_function += 1;
        } else {
            self.astray.push(format!("{one:?}: {heaviest:?}"));
        }
    }
}

fn percent(part: usize, whole: usize) -> String {
    if whole == 0 { "–".to_owned() } else { format!("{:.2} %", 100.0 * part as f64 / whole as f64) }
}

/// The value below which so many of a hundred are.
fn quantile<T: Copy + Ord>(values: impl Iterator<Item = T>, percent: usize) -> Option<T> {
    let mut values: Vec<T> = values.collect();
    values.sort_unstable();
    values.get(values.len().saturating_sub(1) * percent / 100).copied()
}

/// The rows of the README.
fn table(found: &[Found]) -> String {
    let mut out = "| the handler | part | requests | by its clocks, median | within ±2 ms or 5 % | error, median | error, p99 | with stacks | function on top |\n\
                   | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n"
        .to_owned();
    for (kind, one) in KINDS.iter().zip(found) {
        let _ = writeln!(
            out,
            "| {} | `{}` | {} | {:.2} ms | {} | {:+.3} ms | {:.3} ms | {} | {} of {} ({}) |",
            kind.what,
            kind.part,
            one.n,
            quantile(one.measured.iter().copied(), 50).unwrap_or(0) as f64 / 1e6,
            percent(one.n_within, one.n),
            quantile(one.errors.iter().copied(), 50).unwrap_or(0) as f64 / 1e6,
            quantile(one.errors.iter().map(|error| error.unsigned_abs()), 99).unwrap_or(0) as f64 / 1e6,
            percent(one.n_stacks, one.n),
            one.n_function,
            one.n_stacks,
            percent(one.n_function, one.n_stacks),
        );
    }
    out
}

/// What of the recorder's counters has to do with it.
fn losses(capture: &Capture) -> BTreeMap<String, u64> {
    let mut counters = kernel(capture);
    counters.retain(|name, n| {
        *n > 0 && ["switches_missed", "stack", "refused"].iter().any(|part| name.contains(part))
    });
    counters.extend(capture.summary.lost.iter().filter(|(_, n)| **n > 0).map(|(name, n)| (name.clone(), *n)));
    counters
}

/// Every request is there, once, with an anatomy whose parts are the whole; its part is in what its handler took, and the function that did it is the one
/// that stacks tell.
#[rstest]
fn parts_are_what_the_clocks_of_the_server_say(#[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks) {
    let _machine = machine();
    let n = std::env::var("TXRAY_TEST_REQUESTS").map_or(300, |n| n.parse().unwrap());
    let script = script(n);
    let server = Server::start();
    let tracer = Tracer::start_with(hooks, &[server.process.pid()], &["--stacks", "all"]);
    ask_all(&server, &script);
    let capture = tracer.stop();
    let rows = server.rows();
    let mut found: Vec<Found> = KINDS.iter().map(|_| Found::default()).collect();
    let kinds: HashMap<&str, usize> = script.iter().map(|(kind, path)| (&**path, *kind)).collect();
    let (mut seen, mut exact) = (HashSet::new(), 0);
    for one in capture.role("server") {
        let path = one.target.as_deref().unwrap();
        assert!(seen.insert(path), "{path} is there twice");
        let (kind, row) = (kinds[path], &rows[path]);
        assert_eq!((&*one.end, one.tid), ("answered", row.tid), "{one:?}");
        let anatomy = one.anatomy.as_ref().unwrap_or_else(|| panic!("{one:?} has no anatomy"));
        let parts = [anatomy.oncpu_ns, anatomy.runq_ns, anatomy.calls_ns, anatomy.sending_ns];
        let sum: u64 = parts.iter().chain(anatomy.offcpu_ns.values()).sum();
        let whole = one.duration_ns + one.queue_ns.unwrap_or(0) as i64;
        exact +=
            usize::from((sum + anatomy.unattributed_ns + anatomy.queued_ns.unwrap_or(0)) as i64 == whole);
        found[kind].add(&KINDS[kind], one, anatomy, row);
    }
    println!("{hooks:?}: {exact} of {n} sums are exact; {:?}\n{}", losses(&capture), table(&found));
    let helpers: usize = found.iter().map(|one| one.n_helper).sum();
    println!("the lock's holder is told: {helpers} of {}\n", found[2].n);
    for (kind, one) in KINDS.iter().zip(&found) {
        println!(
            "{}: {} with time that is nobody's, {} beyond by what the hypervisor took",
            kind.name, one.n_unattributed, one.n_stolen
        );
        one.astray.iter().take(3).for_each(|stack| println!("astray: {stack}"));
    }
    assert_eq!((seen.len(), exact), (n, n));
    for (kind, one) in KINDS.iter().zip(&found) {
        assert!(one.too_much.is_empty(), "{}: {:#?}", kind.name, one.too_much);
        // A disk that answers at once is none to wait for.
        let is_sure = kind.part != "disk" || quantile(one.measured.iter().copied(), 50) > Some(ERROR_NS);
        if is_sure {
            assert!(one.n_largest * 10 >= one.n * 9, "{}: {} of {} largest", kind.name, one.n_largest, one.n);
        }
        // One moment in a request of 10 ms may be one of receiving or answering.
        let right = if ["oncpu", "runq", "disk"].contains(&kind.part) { 75 } else { 95 };
        assert!(one.n_function * 100 >= one.n_stacks * right, "{}: {:#?}", kind.name, one.astray);
        // A wait of 30 ms and more is told, unless too many are at once.
        if !["oncpu", "runq", "disk"].contains(&kind.part) {
            assert!(one.n_stacks * 2 >= one.n, "{}: {} of {} have stacks", kind.name, one.n_stacks, one.n);
        }
    }
    assert!(helpers * 10 >= found[2].n * 9, "{helpers} of {}", found[2].n);
}
