//! Where the time of requests went, against programs that do what they are asked for, and log it.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    path::PathBuf,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use rstest::rstest;
use tempfile::TempDir;

use super::{
    Hooks,
    functions::kernel,
    machine,
    process::Process,
    tls_programs::fixture,
    tool,
    tracer::{Anatomy, Capture, Tracer, Transaction},
    txray_program,
};

/// The server, and where it logs.
pub(super) struct Server {
    pub(super) process: Process,
    port: u16,
    log: PathBuf,
    _folder: TempDir,
}

/// What a handler logged.
#[derive(Debug)]
struct Handled {
    tid: u32,
    begin_ns: u64,
    end_ns: u64,
}

impl Server {
    pub(super) fn start() -> Server {
        // Beside the build: where temporary files are kept in memory, none is read past the page cache.
        let folder = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let (log, file) = (folder.path().join("log.csv"), folder.path().join("file"));
        fs::write(&file, vec![7; 4 << 20]).unwrap();
        fs::File::open(&file).unwrap().sync_all().unwrap();
        let mut command = Command::new(tool("python3", "python3"));
        command.arg(fixture("anatomy.py")).arg(&log).arg(&file).stdout(Stdio::piped());
        let mut process = Process::spawn(&mut command);
        let mut port = String::new();
        BufReader::new(process.child.stdout.take().unwrap()).read_line(&mut port).unwrap();
        Server { process, port: port.trim().parse().unwrap(), log, _folder: folder }
    }

    pub(super) fn connect(&self) -> TcpStream {
        TcpStream::connect(("127.0.0.1", self.port)).unwrap()
    }

    /// Path → what its handler logged. Every path is asked for once.
    fn handled(&self) -> BTreeMap<String, Handled> {
        let text = fs::read_to_string(&self.log).unwrap();
        let rows = text.lines().skip(1).map(|line| {
            let fields: Vec<&str> = line.split(',').collect();
            let number = |i: usize| fields[i].parse::<u64>().unwrap();
            let handled = Handled { tid: number(1) as u32, begin_ns: number(2), end_ns: number(3) };
            (fields[0].to_owned(), handled)
        });
        rows.collect()
    }
}

/// Asks for a path and reads the answer, of which so many bytes at first and the rest when `pause` has passed.
pub(super) fn ask(stream: &mut TcpStream, path: &str, pause: Option<Duration>) {
    // In one piece: some servers read once.
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).unwrap();
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if line == "\r\n" {
            break;
        }
    }
    pause.into_iter().for_each(thread::sleep);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
}

pub(super) fn of<'a>(capture: &'a Capture, role: &str, path: &str) -> &'a Transaction {
    let mut found = capture
        .transactions
        .iter()
        .filter(|one| one.role == role && one.target.as_deref() == Some(path) && one.end == "answered");
    let first = found.next().unwrap_or_else(|| panic!("no {role} of {path}: {:#?}", capture.transactions));
    assert!(found.next().is_none(), "{path} is there twice");
    first
}

const MS: u64 = 1_000_000;

/// Traces until the kernel has shown each time that a thread left its CPU. On a busy machine one is missing now and then: that is counted, and the time is
/// nobody's.
fn undisturbed(trace: impl Fn() -> (Server, Capture)) -> (Server, Capture) {
    for _ in 0..4 {
        let (server, capture) = trace();
        match kernel(&capture)["kernel.switches_missed"] {
            0 => return (server, capture),
            n => println!("{n} times a thread left its CPU unseen"),
        }
    }
    panic!("in each of four runs a thread left its CPU unseen");
}

fn calls_peer(request: &Transaction) -> &str {
    &request.calls.as_ref().unwrap()[0].peer
}

/// `txray profile` tells what a request did: these among it, in this order, and its lines are one behind the other, and all of it.
#[track_caller]
fn check_profile(capture: &Capture, request: &Transaction, told: &[&str]) {
    let mut command = Command::new(txray_program());
    command.arg("profile").arg(capture.folder.path().join("recording")).args([&request.id, "--json"]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let rows: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let queue = request.queue_ns.unwrap_or(0);
    let mut at = request.start_time_ns - queue;
    for row in &rows {
        assert_eq!(row["start_time_ns"], at, "{text}");
        at += row["gap_ns"].as_u64().unwrap();
    }
    assert_eq!(at, request.start_time_ns + request.duration_ns as u64, "{text}");
    let on_cpu: u64 = rows.iter().map(|row| row["cpu_ns"].as_u64().unwrap()).sum();
    assert_eq!(on_cpu, request.anatomy.as_ref().unwrap().oncpu_ns, "{text}");
    let mut rest = rows.iter();
    for line in told {
        assert!(rest.any(|row| row["contents"].as_str().unwrap().contains(line)), "{line}: {text}");
    }
}

/// Each request's time is where its handler left it: as much as it says at least, in no more than it took, and all parts are the whole (`check`).
#[rstest]
fn what_a_handler_does_is_where_its_time_went(#[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks) {
    let _machine = machine();
    let (server, capture) = undisturbed(|| {
        let server = Server::start();
        let tracer = Tracer::start(hooks, &[server.process.pid()]);
        let mut stream = server.connect();
        for path in ["/spin/11", "/sleep/31", "/lock/52", "/disk/23", "/pipe/33", "/ask/41"] {
            ask(&mut stream, path, None);
            // What lies between two requests is nobody's.
            thread::sleep(Duration::from_millis(20));
        }
        (server, tracer.stop())
    });
    let handled = server.handled();
    for (path, part) in [
        ("/spin/11", "oncpu"),
        ("/sleep/31", "timer"),
        ("/lock/52", "futex"),
        ("/disk/23", "disk"),
        ("/pipe/33", "pipe"),
        ("/ask/41", "calls"),
    ] {
        let request = of(&capture, "server", path);
        let anatomy = request.anatomy.as_ref().unwrap_or_else(|| panic!("{path} has no anatomy"));
        let found = match part {
            "oncpu" => anatomy.oncpu_ns,
            "calls" => anatomy.calls_ns,
            reason => anatomy.offcpu_ns.get(reason).copied().unwrap_or(0),
        };
        let handled = &handled[path];
        assert_eq!(request.tid, handled.tid, "{path}");
        let asked_for: u64 = path.rsplit('/').next().unwrap().parse().unwrap();
        let whole = handled.end_ns - handled.begin_ns;
        println!("{path}: {part} {found} of {whole}: {anatomy:?}");
        match part {
            // Reads end when the time has passed, and are not all of it.
            "disk" => assert!(found > 0 && found <= whole, "{path}: {anatomy:?}"),
            // What surrounds the handler computes too.
            "oncpu" => assert!(found > asked_for * MS / 2, "{path}: {anatomy:?}"),
            // A lock is taken before it is waited for, a clock runs before its thread has left the CPU, and on a virtual CPU that
            // stands still the scheduler's clock and the host's differ.
            _ => assert!(found > asked_for * MS / 2 && found <= whole, "{path}: {anatomy:?}"),
        }
        assert!(anatomy.unattributed_ns == 0 && !anatomy.shared, "{path}: {anatomy:?}");
        assert!(anatomy.guessed.is_empty(), "{path}: {anatomy:?}");
        let (user, kernel) = (anatomy.oncpu_user_ns.unwrap(), anatomy.oncpu_kernel_ns.unwrap());
        assert_eq!(user + kernel, anatomy.oncpu_ns);
    }
    let (call, request) = (of(&capture, "client", "/sleep/41"), of(&capture, "server", "/ask/41"));
    assert_eq!(call.parent.as_ref(), Some(&request.id));
    assert_eq!(call.link.as_ref().unwrap().method, "thread");
    let why = Command::new(txray_program())
        .arg("why")
        .args([&capture.folder.path().join("recording"), &PathBuf::from(&request.id)])
        .output()
        .unwrap();
    let why = String::from_utf8(why.stdout).unwrap();
    for line in ["waiting for answers to its calls", "(http1) 1 times", &call.id] {
        assert!(why.contains(line), "{line}:\n{why}");
    }
    check_profile(
        &capture,
        request,
        &[&format!("asks {} (http1)", calls_peer(request)), "waiting for answers to its calls"],
    );
    for (path, line) in
        [("/sleep/31", "sleeping"), ("/lock/52", "waiting for a lock (0x"), ("/pipe/33", "pipe")]
    {
        check_profile(&capture, of(&capture, "server", path), &[line]);
    }
    let [calls] = &request.calls.as_ref().unwrap()[..] else { panic!("{:?}", request.calls) };
    assert_eq!((&*calls.kind, calls.count, calls.ns), ("http1", 1, call.duration_ns as u64));
    assert_eq!(calls.peer, format!("127.0.0.1:{}", server.port));
}

/// Who let go of the lock that a request waited for, and for which request that thread worked.
#[rstest]
fn a_lock_is_told_with_the_request_that_held_it(#[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks) {
    let _machine = machine();
    let server = Server::start();
    let tracer = Tracer::start(hooks, &[server.process.pid()]);
    thread::scope(|scope| {
        scope.spawn(|| ask(&mut server.connect(), "/hold/300", None));
        // It holds it when its handler sleeps: some milliseconds after it was asked.
        thread::sleep(Duration::from_millis(100));
        ask(&mut server.connect(), "/take/0", None);
    });
    let capture = tracer.stop();
    let (holds, takes) = (of(&capture, "server", "/hold/300"), of(&capture, "server", "/take/0"));
    let locks = takes.locks.as_ref().unwrap_or_else(|| panic!("{:?}", takes.anatomy));
    let longest = locks.iter().max_by_key(|lock| lock.ns).unwrap();
    assert_eq!((longest.tid, longest.id.as_ref()), (Some(holds.tid), Some(&holds.id)), "{locks:?}");
    assert!(longest.address.starts_with("0x") && longest.count >= 1, "{locks:?}");
    let waited: u64 = locks.iter().map(|lock| lock.ns).sum();
    assert!(waited <= takes.anatomy.as_ref().unwrap().offcpu_ns["futex"], "{locks:?}");
    let recording = capture.folder.path().join("recording");
    let why = Command::new(txray_program()).arg("why").args([&recording, &PathBuf::from(&takes.id)]).output();
    let why = String::from_utf8(why.unwrap().stdout).unwrap();
    let line = format!("until thread {}, serving request {}, let go of it", holds.tid, holds.id);
    assert!(why.contains(&line), "{why}");
}

/// A client that reads late is waited for while the answer is being sent.
#[rstest]
fn a_slow_reader_is_waited_for_in_sending(#[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks) {
    const PAUSE: Duration = Duration::from_millis(120);
    let _machine = machine();
    // More than the buffers of both ends hold.
    let path = "/big/40000000";
    let (_, capture) = undisturbed(|| {
        let server = Server::start();
        let tracer = Tracer::start(hooks, &[server.process.pid()]);
        ask(&mut server.connect(), path, Some(PAUSE));
        (server, tracer.stop())
    });
    let anatomy = of(&capture, "server", path).anatomy.as_ref().unwrap();
    assert!(anatomy.sending_ns >= PAUSE.as_nanos() as u64 / 2, "{anatomy:?}");
    assert_eq!(anatomy.unattributed_ns, 0, "{anatomy:?}");
}

/// Without it no request has one, and nothing of the scheduler is attached.
#[rstest]
fn without_an_anatomy_requests_are_as_before(#[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks) {
    let _machine = machine();
    let server = Server::start();
    let tracer = Tracer::start_with(hooks, &[server.process.pid()], &["--anatomy", "off"]);
    ask(&mut server.connect(), "/ask/5", None);
    let capture = tracer.stop();
    let request = of(&capture, "server", "/ask/5");
    assert!(request.anatomy.is_none());
    assert_eq!(of(&capture, "client", "/sleep/5").parent.as_ref(), Some(&request.id));
}

/// Waiting is told without system calls as well; only what the kernel did on a CPU is not told apart.
#[test]
fn without_calls_time_on_a_cpu_is_one() {
    let _machine = machine();
    let server = Server::start();
    let tracer = Tracer::start_with(Hooks::Socket, &[server.process.pid()], &["--anatomy", "threads"]);
    // A virtual CPU that stands still longer than that leaves nothing to sleep for, and its thread on it: one of several is enough.
    let paths = ["/sleep/30", "/sleep/31", "/sleep/32", "/sleep/33"];
    paths.iter().for_each(|path| ask(&mut server.connect(), path, None));
    let capture = tracer.stop();
    let anatomies = paths.map(|path| of(&capture, "server", path).anatomy.as_ref().unwrap());
    let slept = |anatomy: &Anatomy| anatomy.offcpu_ns.get("timer").copied().unwrap_or(0) > 15 * MS;
    let anatomy =
        anatomies.into_iter().find(|anatomy| slept(anatomy)).unwrap_or_else(|| panic!("{anatomies:?}"));
    assert!(anatomy.oncpu_ns > 0, "{anatomy:?}");
    assert_eq!((anatomy.oncpu_user_ns, anatomy.oncpu_kernel_ns), (None, None));
}
