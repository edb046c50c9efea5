//! What requests were doing when the clock struck, and in what they waited, against programs that do what they are asked for.

mod jvm;
mod python;

use std::{
    io::{BufRead as _, BufReader},
    net::TcpStream,
    path::Path,
    process::{Command, Stdio},
};

use rstest::rstest;
use tempfile::TempDir;

use super::{
    Hooks,
    anatomy::{Server, ask, of},
    functions::compile,
    machine,
    process::Process,
    tool,
    tracer::{Capture, StackSum, Tracer, Transaction},
};

/// CPython's function that runs those of scripts.
const EVALUATES: &str = "_PyEval_EvalFrameDefault";

/// Function and file of a frame.
pub(super) fn parts(frame: &str) -> (&str, &str) {
    let (rest, file) = frame.rsplit_once(" (").unwrap_or_else(|| panic!("{frame}"));
    (rest.rsplit_once('+').map_or(rest, |(function, _)| function), file.trim_end_matches(')'))
}

/// The functions of a program in a stack, the innermost first.
fn own<'a>(stack: &'a StackSum, file: &str) -> Vec<&'a str> {
    stack
        .frames
        .iter()
        .map(|frame| parts(frame))
        .filter(|(_, of)| *of == file)
        .map(|(name, _)| name)
        .collect()
}

pub(super) fn is_kernel(frame: &str) -> bool {
    parts(frame).1.starts_with("kernel")
}

fn stacks<'a>(one: &'a Transaction, kind: &str) -> Vec<&'a StackSum> {
    let stacks: Vec<_> = one.stacks.iter().flatten().filter(|stack| stack.kind == kind).collect();
    assert!(!stacks.is_empty(), "no stack of {kind}: {one:?} {:?} {:?}", one.anatomy, one.stacks);
    stacks
}

/// No stack is of more time than its part of the request, but for samples, of which each stands for a moment.
#[track_caller]
fn check(capture: &Capture) {
    for one in capture.role("server") {
        let Some(anatomy) = &one.anatomy else { continue };
        let mut sums = std::collections::BTreeMap::<&str, u64>::new();
        for stack in one.stacks.iter().flatten().filter(|stack| stack.kind != "oncpu") {
            *sums.entry(&stack.kind).or_default() += stack.ns;
            assert!(stack.count > 0 && !stack.frames.is_empty(), "{stack:?}");
        }
        for (kind, ns) in sums {
            // What it waits for while it has asked somebody is that call, and while it sends its peer.
            let part = anatomy.offcpu_ns.get(kind).copied().unwrap_or(0);
            let more =
                if ["network", "poll"].contains(&kind) { anatomy.calls_ns + anatomy.sending_ns } else { 0 };
            assert!(ns <= part + more + anatomy.unattributed_ns, "{kind} {ns}: {anatomy:?} {:?}", one.stacks);
        }
    }
}

/// The stack of a wait leads from the kernel through the C library and the interpreter to where the thread began.
#[rstest]
fn a_wait_is_told_from_the_kernel_to_where_the_thread_begins(
    #[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks,
) {
    let _machine = machine();
    let server = Server::start();
    let tracer = Tracer::start_with(hooks, &[server.process.pid()], &["--stacks", "all"]);
    let mut stream = server.connect();
    let paths = [
        ("/sleep/31", "timer", "nanosleep", "clock_nanosleep"),
        ("/lock/52", "futex", "futex", "__futex_abstimed_wait_common"),
        ("/pipe/33", "pipe", "pipe_read", "read"),
        ("/disk/40", "disk", "vfs_readv", "preadv"),
        ("/ask/41", "network", "tcp_recvmsg", "recv"),
    ];
    paths.iter().for_each(|(path, ..)| ask(&mut stream, path, None));
    let capture = tracer.stop();
    check(&capture);
    for (path, kind, kernel, library) in paths {
        let request = of(&capture, "server", path);
        if kind == "disk" && request.stacks.iter().flatten().all(|stack| stack.kind != kind) {
            // A disk that never takes a millisecond.
            continue;
        }
        let longest = stacks(request, kind).into_iter().max_by_key(|stack| stack.ns).unwrap();
        let n = longest.frames.iter().take_while(|frame| is_kernel(frame)).count();
        let (of_kernel, rest) = longest.frames.split_at(n);
        assert!(of_kernel.iter().any(|frame| frame.contains(kernel)), "{path}: {longest:?}");
        assert!(rest.iter().all(|frame| !is_kernel(frame)), "{path}: {longest:?}");
        assert!(parts(&rest[0]).0.contains(library), "{path}: {longest:?}");
        assert_eq!(longest.end, "complete", "{path}: {longest:?}");
        let last = parts(rest.last().unwrap());
        assert!(last.0.contains("clone") && last.1.starts_with("libc"), "{path}: {longest:?}");
        // Where the interpreter runs the script, the script's functions stand.
        assert!(rest.iter().any(|frame| parts(frame).1 == "anatomy.py"), "{path}: {longest:?}");
        assert!(!rest.iter().any(|frame| frame.contains(EVALUATES)), "{path}: {longest:?}");
    }
    // Its own thread was asleep meanwhile, and no other's stack is its.
    let request = of(&capture, "server", "/sleep/31");
    let sleeps = stacks(request, "timer");
    assert!(sleeps.iter().all(|stack| stack.ns <= request.duration_ns as u64), "{sleeps:?}");
}

/// A server that was compiled, or runs in Node, and where it listens.
pub(super) struct Served {
    _process: Process,
    pub(super) pid: u32,
    pub(super) port: u16,
}

pub(super) fn serve(mut command: Command) -> Served {
    let mut process = Process::spawn(command.stdout(Stdio::piped()));
    let mut lines = BufReader::new(process.child.stdout.take().unwrap()).lines();
    let port = lines.next().unwrap().unwrap().strip_prefix("port ").unwrap().parse().unwrap();
    Served { pid: process.pid(), _process: process, port }
}

/// The functions of a program in stacks of computing, how many there were and where they end, and in those of waits.
type Found = (Vec<(Vec<String>, u64, String)>, Vec<Vec<String>>);

/// Asks for computing and for sleep; gives the functions of the program in each, samples weighed by their number.
fn traced(served: &Served, file: &str, wait: &str) -> Found {
    let tracer = Tracer::start_with(Hooks::Socket, &[served.pid], &["--stacks", "all"]);
    let mut stream = TcpStream::connect(("127.0.0.1", served.port)).unwrap();
    ask(&mut stream, "/spin/400", None);
    ask(&mut stream, "/rest/60", None);
    let capture = tracer.stop();
    check(&capture);
    let names = |stack: &&StackSum| own(stack, file).into_iter().map(str::to_owned).collect::<Vec<_>>();
    let spins = stacks(of(&capture, "server", "/spin/400"), "oncpu");
    let spins = spins.iter().map(|stack| (names(stack), stack.count, stack.end.clone())).collect();
    let rests = stacks(of(&capture, "server", "/rest/60"), wait).iter().map(names).collect();
    (spins, rests)
}

/// Of at least nineteen of twenty samples the stack is exactly this one, and that of each wait.
#[track_caller]
fn check_chain(found: &Found, chain: &[&str]) {
    let (spins, rests) = found;
    let all: u64 = spins.iter().map(|(_, n, _)| n).sum();
    let right = |names: &[String]| names.len() >= chain.len() && names[..chain.len()] == *chain;
    let n: u64 =
        spins.iter().filter(|(names, _, end)| right(names) && end == "complete").map(|(_, n, _)| n).sum();
    // 400 ms of computing are 38 samples; a machine that stands still tells fewer.
    assert!(all >= 5 && (all - n <= 1 || n * 20 >= all * 19), "{n} of {all}: {spins:#?}");
    // What calls the kernel is the library's, which may be in the program.
    for rest in rests {
        let own = rest.iter().position(|name| name == chain[0]).unwrap_or_else(|| panic!("{rest:?}"));
        assert!(right(&rest[own..]), "{rest:?}");
    }
}

#[rstest]
#[case::c_without_frame_pointers("serves.c", &["-fomit-frame-pointer"], &["inner", "middle", "outer", "serve"])]
#[case::c_with_frame_pointers("serves.c", &["-fno-omit-frame-pointer"], &["inner", "middle", "outer", "serve"])]
#[case::cpp(
    "serves.cc", &["-fomit-frame-pointer"],
    &["shop::inner(int, bool)", "shop::middle(int, bool)",
      "shop::outer(std::__cxx11::basic_string<char, std::char_traits<char>, std::allocator<char> > const&)"]
)]
#[case::rust("serves.rs", &[], &["serves::inner", "serves::middle", "serves::outer", "serves::serve"])]
#[case::rust_with_frame_pointers(
    "serves.rs", &["-C", "force-frame-pointers=yes"],
    &["serves::inner", "serves::middle", "serves::outer", "serves::serve"]
)]
fn code_is_told_by_its_functions(#[case] source: &str, #[case] flags: &[&str], #[case] chain: &[&str]) {
    let _machine = machine();
    let folder = TempDir::new().unwrap();
    let path = compile(&Path::new("stacks").join(source), folder.path(), flags);
    let served = serve(Command::new(path));
    check_chain(&traced(&served, "serves", "timer"), chain);
}

#[test]
fn goroutines_are_told_by_their_functions() {
    let _machine = machine();
    let folder = TempDir::new().unwrap();
    let path = compile(Path::new("stacks/serves.go"), folder.path(), &[]);
    let served = serve(Command::new(path));
    let chain = ["main.inner", "main.middle", "main.outer", "main.serve"];
    check_chain(&traced(&served, "serves", "timer"), &chain);
}

/// Node tells the names of what it compiles while it runs, when it is asked to.
#[test]
fn code_that_is_compiled_at_run_time_is_told_by_the_names_that_its_program_writes() {
    let _machine = machine();
    let program = "
        function inner(ms) { const end = performance.now() + ms; let sum = 0;
            while (performance.now() < end) for (let i = 0; i < 1e6; i++) sum = (sum * 31 + i) % 1000003;
            return sum; }
        const server = require('http').createServer((request, answer) =>
            answer.end(String(inner(Number(request.url.split('/')[2])))));
        server.listen(0, '127.0.0.1', () => console.log('port ' + server.address().port));";
    // Where it logs as well.
    let folder = TempDir::new().unwrap();
    let mut command = Command::new(tool("node", "nodejs"));
    command.current_dir(folder.path());
    command.args(["--perf-basic-prof", "--interpreted-frames-native-stack", "-e", program]);
    let served = serve(command);
    let map = format!("/tmp/perf-{}.map", served.pid);
    let tracer = Tracer::start_with(Hooks::Socket, &[served.pid], &["--stacks", "all"]);
    ask(&mut TcpStream::connect(("127.0.0.1", served.port)).unwrap(), "/spin/400", None);
    let capture = tracer.stop();
    drop(std::fs::remove_file(map));
    let all = stacks(of(&capture, "server", "/spin/400"), "oncpu");
    let n: u64 = all.iter().map(|stack| stack.count).sum();
    let is_inner = |stack: &&&StackSum| {
        stack.frames.iter().any(|frame| frame.contains("inner") && frame.ends_with("(jit)"))
    };
    let inner: u64 = all.iter().filter(is_inner).map(|stack| stack.count).sum();
    assert!(n >= 5 && inner * 10 >= n * 8, "{inner} of {n}: {all:#?}");
}

/// By default requests that are fast and succeed keep their stacks now and then alone.
#[test]
fn slow_requests_keep_their_stacks_and_few_of_the_others() {
    let _machine = machine();
    let server = Server::start();
    let tracer = Tracer::start(Hooks::Socket, &[server.process.pid()]);
    let mut stream = server.connect();
    for n in 0..40 {
        ask(&mut stream, &format!("/sleep/{}", 10 + n), None);
    }
    ask(&mut stream, "/sleep/3050", None);
    let capture = tracer.stop();
    let slow = of(&capture, "server", "/sleep/3050");
    assert!(stacks(slow, "timer")[0].frames.iter().any(|frame| frame.contains("clock_nanosleep")));
    let kept = capture.role("server").iter().filter(|one| one.stacks.is_some()).count();
    assert!(kept < 20, "{kept} of 41");
}
