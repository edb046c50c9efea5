//! Calls of functions, in programs made for it: exactly what each wrote down of its own calls.

mod stack;

pub(super) use stack::kernel;

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::{ChildStdout, Command, Stdio},
};

use rstest::rstest;
use tempfile::TempDir;
use tracer_user::uprobe::{
    functions::{Found, Spec, find},
    process::Process as Inside,
};

use super::{
    Hooks, machine,
    process::Process,
    replay::{check_same, replay},
    tool,
    tracer::{Capture, Tracer, Transaction},
    txray_program,
};

/// A program that does its work when it reads a line, and writes down its calls.
struct Program {
    process: Process,
    lines: std::io::Lines<BufReader<ChildStdout>>,
    path: PathBuf,
    /// Where it was compiled: gone with this value.
    _folder: Option<TempDir>,
}

/// Compiles one of the programs beside this file.
fn compiled(source: &str, folder: &Path) -> PathBuf {
    compiled_with(source, folder, &[])
}

fn compiled_with(source: &str, folder: &Path, flags: &[&str]) -> PathBuf {
    compile(&Path::new("functions").join(source), folder, flags)
}

/// The same of one below `tests/live`.
pub(super) fn compile(source: &Path, folder: &Path, flags: &[&str]) -> PathBuf {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/live").join(source);
    let kind = source.extension().unwrap().to_str().unwrap();
    let path = folder.join(source.file_stem().unwrap());
    let mut command = match kind {
        "c" => Command::new(tool("gcc", "gcc")),
        "cc" => Command::new(tool("g++", "g++")),
        "rs" => Command::new("rustc"),
        "go" => {
            let own = PathBuf::from("/usr/local/go/bin/go");
            let go = if own.is_file() { own } else { tool("go", "golang-go") };
            let mut command = Command::new(go);
            command.arg("build").env("GOCACHE", folder.join("cache")).env("HOME", folder);
            command
        }
        other => panic!("no compiler for {other}"),
    };
    match kind {
        "c" | "cc" => drop(command.args(["-O2", "-pthread"])),
        "rs" => drop(command.args(["-O", "--edition", "2024"])),
        _ => {}
    }
    let output = command.arg("-o").arg(&path).arg(from).args(flags).output().unwrap();
    assert!(output.status.success(), "{source:?}: {}", String::from_utf8_lossy(&output.stderr));
    path
}

impl Program {
    fn start(source: &str) -> Program {
        Program::start_with(source, &[])
    }

    fn start_with(source: &str, flags: &[&str]) -> Program {
        let folder = TempDir::new().unwrap();
        let path = compiled_with(source, folder.path(), flags);
        Program { _folder: Some(folder), ..Program::run(path) }
    }

    fn run(path: PathBuf) -> Program {
        let mut command = Command::new(&path);
        let mut process = Process::spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
        let lines = BufReader::new(process.child.stdout.take().unwrap()).lines();
        let mut program = Program { process, lines, path, _folder: None };
        assert!(program.line().starts_with(['r', 'p']), "ready, or a port");
        program
    }

    fn line(&mut self) -> String {
        self.lines.next().unwrap().unwrap()
    }

    /// Lets it work once; gives what it wrote down.
    fn works(&mut self) -> Vec<String> {
        self.process.child.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
        let mut calls = Vec::new();
        loop {
            match self.line() {
                line if line == "done" => return calls,
                line => calls.push(line),
            }
        }
    }

    /// It goes on to live, and ends in order.
    fn ends(mut self) {
        drop(self.process.child.stdin.take());
        assert_eq!(self.process.wait("the program"), Some(0));
    }

    fn pid(&self) -> u32 {
        self.process.pid()
    }

    fn flags(&self, functions: &[&str]) -> Vec<String> {
        let path = self.path.display();
        functions.iter().flat_map(|one| ["--uprobe".to_owned(), format!("{path}:{one}")]).collect()
    }
}

fn calls(capture: &Capture) -> Vec<&Transaction> {
    capture.transactions.iter().filter(|one| one.kind == "function").collect()
}

/// A call as the programs write it down.
fn written(one: &Transaction) -> String {
    let json = |value: &Option<serde_json::Value>| serde_json::to_string(value).unwrap();
    format!("{}|{}|{}|{}", one.operation, json(&one.arguments), json(&one.returned), one.end)
}

#[track_caller]
fn check_calls(capture: &Capture, mut truth: Vec<String>) {
    let mut found: Vec<String> = calls(capture).into_iter().map(written).collect();
    found.sort_unstable();
    truth.sort_unstable();
    assert!(truth.len() > 10);
    assert_eq!(found, truth, "{}", capture.stderr);
    for one in calls(capture) {
        assert!(one.duration_ns > 0 && one.self_ns.unwrap() <= one.duration_ns.cast_unsigned(), "{one:?}");
        assert_eq!((one.protocol.as_str(), one.role.as_str()), ("", "unknown"));
        assert_eq!(one.end_time_ns - one.start_time_ns, one.duration_ns.cast_unsigned());
    }
    check_tree(capture);
}

/// Each call lies within the one around it, on the same thread or goroutine, and the parts make the whole.
#[track_caller]
fn check_tree(capture: &Capture) {
    let all = calls(capture);
    for one in &all {
        let inside: Vec<_> =
            all.iter().filter(|other| other.parent_id.as_deref() == Some(one.id.as_str())).collect();
        let sum: i64 = inside.iter().map(|other| other.duration_ns).sum();
        assert_eq!(one.self_ns.unwrap().cast_signed(), one.duration_ns - sum, "{one:?}");
        for other in inside {
            assert!(other.start_time_ns >= one.start_time_ns && other.end_time_ns <= one.end_time_ns);
        }
    }
}

/// What it recorded gives the same again, its events alone too.
#[track_caller]
fn check_replay(capture: &Capture) {
    check_same(capture, &replay(&capture.recording()));
    fs::remove_dir_all(capture.recording().join("transactions")).unwrap();
    check_same(capture, &replay(&capture.recording()));
}

#[track_caller]
fn trace(program: &mut Program, functions: &[&str], rounds: usize) -> (Capture, Vec<String>) {
    let flags = program.flags(functions);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let tracer = Tracer::start_with(Hooks::Socket, &[program.pid()], &flags);
    let mut truth = Vec::new();
    (0..rounds).for_each(|_| truth.extend(program.works()));
    let capture = tracer.stop();
    // Untraced it does what it did.
    program.works();
    (capture, truth)
}

#[test]
fn each_call_in_c_is_one_through_recursion_tail_calls_and_longjmp() {
    let _machine = machine();
    let mut program = Program::start("calls.c");
    let functions = [
        "leaf(int,str)->int",
        "middle(long)->long",
        "factorial(int)->int",
        "jumps(int)->int",
        "target(int)->int",
        "leaves(int)",
        "name(int)->str",
        "deep(int)->int",
        "all(int)->int",
    ];
    let (capture, mut truth) = trace(&mut program, &functions, 3);
    // The kernel keeps 64 return probes of a thread: one is of what is around them.
    for depth in (0..=100).flat_map(|depth| [depth; 3]) {
        truth.push(match depth {
            38.. => format!("deep|[{depth}]|{depth}|answered"),
            _ => format!("deep|[{depth}]|null|tracer_stopped"),
        });
    }
    check_calls(&capture, truth);
    check_replay(&capture);
    program.ends();
}

/// Where a function is, as `nm` shows it.
fn address_of(path: &Path, function: &str) -> String {
    let output = Command::new(tool("nm", "binutils")).arg(path).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text.lines().find(|line| line.ends_with(&format!(" {function}"))).unwrap();
    format!("0x{}", line.split(' ').next().unwrap().trim_start_matches('0'))
}

#[test]
fn a_place_in_a_function_is_one_and_an_address_in_a_stripped_program_is_a_function() {
    let _machine = machine();
    let mut program = Program::start("calls.c");
    let address = address_of(&program.path, "middle");
    // Behind its first instruction, wherever that ends.
    let text = format!("{}:middle+0x1", program.path.display());
    let offset = match find(&Spec::parse(&text, Path::exists).unwrap(), &[], 9, true) {
        Ok(_) => "+0x1".to_owned(),
        Err(error) => error.hint.rsplit(' ').next().unwrap().to_owned(),
    };
    let (capture, truth) = trace(&mut program, &[&format!("middle{offset}"), "middle(long)->long"], 1);
    let n = |name: &str| calls(&capture).into_iter().filter(|one| one.operation == name).count();
    let made = truth.iter().filter(|line| line.starts_with("middle|")).count();
    let told = (made, n("middle"), n(&format!("middle{offset}")));
    assert_eq!(told, (5, 5, 5), "{offset} {}", capture.stderr);

    let path = program.path.with_file_name("stripped");
    let mut strip = Command::new(tool("strip", "binutils"));
    assert!(strip.arg("-o").arg(&path).arg(&program.path).status().unwrap().success());
    let mut stripped = Program::run(path);
    let (capture, truth) = trace(&mut stripped, &[&format!("{address}(long)->long")], 1);
    let found: Vec<String> =
        calls(&capture).into_iter().map(|one| written(one).replace(&address, "middle")).collect();
    let made: Vec<String> = truth.into_iter().filter(|line| line.starts_with("middle|")).collect();
    assert_eq!(found, made, "{}", capture.stderr);
    stripped.ends();
}

#[test]
fn exceptions_through_probed_functions_find_their_way_and_are_told() {
    let _machine = machine();
    let mut program = Program::start("throws.cc");
    let functions = [
        "shop::check(int)->int",
        "shop::Cart::add(_,int,str)->int",
        "shop::sinks(int)->long",
        "shop::recurses(int)->int",
        "shop::all(int)->int",
    ];
    let (capture, truth) = trace(&mut program, &functions, 2);
    check_calls(&capture, truth);
    check_replay(&capture);
    program.ends();
}

#[test]
fn panics_through_probed_functions_are_caught_and_told() {
    let _machine = machine();
    let mut program = Program::start("panics.rs");
    let functions = ["panics::parse(str,i64)->i64", "panics::handle(str,i64)->i64", "panics::all(i64)->bool"];
    let (capture, truth) = trace(&mut program, &functions, 2);
    check_calls(&capture, truth);
    program.ends();
}

#[test]
fn calls_of_goroutines_are_told_apart_whatever_thread_runs_them_and_however_their_stacks_grow() {
    let _machine = machine();
    let mut program = Program::start("goroutines.go");
    let functions = [
        "main.work(int,str)->int",
        "main.safe(int,str)->int",
        "main.name(int)->str",
        "main.deep(int)->int",
        "main.all(int)->int",
    ];
    let (capture, truth) = trace(&mut program, &functions, 2);
    check_calls(&capture, truth);
    check_replay(&capture);
    program.ends();
}

#[rstest]
fn a_call_belongs_to_the_request_that_its_thread_is_serving(
    #[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks,
) {
    const CONNECTIONS: usize = 3;
    const REQUESTS: usize = 5;
    let _machine = machine();
    let folder = TempDir::new().unwrap();
    let path = compiled("serves.c", folder.path());
    let mut process = Process::spawn(Command::new(&path).stdout(Stdio::piped()));
    let mut lines = BufReader::new(process.child.stdout.take().unwrap()).lines();
    let port: u16 = lines.next().unwrap().unwrap().strip_prefix("port ").unwrap().parse().unwrap();
    let own: Vec<String> = ["price(int)->int", "handle(str)->int", "idle(int)->int"]
        .iter()
        .flat_map(|one| ["--uprobe".to_owned(), format!("{}:{one}", path.display())])
        .collect();
    let own: Vec<&str> = own.iter().map(String::as_str).collect();
    let tracer = Tracer::start_with(hooks, &[process.pid()], &own);
    let mut streams: Vec<TcpStream> =
        (0..CONNECTIONS).map(|_| TcpStream::connect(("127.0.0.1", port)).unwrap()).collect();
    for n in 0..REQUESTS {
        for (i, stream) in streams.iter_mut().enumerate() {
            // In one piece: the server reads once.
            let request = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", 100 * i + n);
            stream.write_all(request.as_bytes()).unwrap();
        }
        for stream in &mut streams {
            let mut answer = [0; 256];
            assert!(stream.read(&mut answer).unwrap() > 0);
        }
    }
    drop(streams);
    let n_calls = CONNECTIONS * REQUESTS * 4;
    let truth: Vec<String> = lines.take(n_calls).map(Result::unwrap).collect();
    let capture = tracer.stop();
    check_calls(&capture, truth);
    let requests: Vec<_> = capture.role("server");
    assert_eq!(requests.len(), CONNECTIONS * REQUESTS, "{}", capture.stderr);
    for one in calls(&capture) {
        let parent = one.parent_id.as_deref();
        match one.operation.as_str() {
            "handle" => {
                let request = requests.iter().find(|request| Some(request.id.as_str()) == parent).unwrap();
                let target = request.target.as_deref().unwrap();
                assert_eq!(one.arguments.as_ref().unwrap()[0], target);
                assert_eq!((one.root_id.as_deref(), one.tid), (parent, request.tid));
            }
            "price" => {
                let all = calls(&capture);
                let outer = all.iter().find(|other| Some(other.id.as_str()) == parent).unwrap();
                assert_eq!((outer.operation.as_str(), &one.root_id), ("handle", &outer.root_id));
            }
            // Its answer has gone.
            _ => assert_eq!((parent, one.root_id.as_deref()), (None, None), "{one:?}"),
        }
    }
    check_replay(&capture);
}

#[test]
fn marks_are_told_with_their_arguments_and_know_that_somebody_looks() {
    let _machine = machine();
    let mut program = Program::start("marks.c");
    let (capture, truth) =
        trace(&mut program, &["usdt:shop:sold(int,str,int)", "usdt:shop:l*", "counts(int)->int"], 2);
    let mut found: Vec<String> = calls(&capture).into_iter().map(written).collect();
    let mut truth = truth;
    found.sort_unstable();
    truth.sort_unstable();
    assert_eq!(found, truth, "{}", capture.stderr);
    assert_eq!(truth.len(), 2 * 6 * 3, "the counter was raised");
    let all = calls(&capture);
    for one in all.iter().filter(|one| one.operation != "counts") {
        let outer = all.iter().find(|other| Some(&other.id) == one.parent_id.as_ref()).unwrap();
        assert_eq!((outer.operation.as_str(), one.duration_ns), ("counts", 0));
    }
    program.ends();
}

/// Whether a probe is in a process's memory, at the place of a function.
fn is_probed(pid: u32, found: &Found) -> bool {
    let process = Inside::read(Path::new("/proc"), pid).unwrap();
    let name = found.path.file_name();
    let file = process.files.iter().find(|file| Path::new(&file.path).file_name() == name).unwrap();
    let offset = found.entry.file_offset;
    let range = file
        .ranges
        .iter()
        .find(|range| (range.offset..).contains(&offset) && range.end > range.start)
        .unwrap();
    let mut byte = [0];
    let memory = fs::File::open(format!("/proc/{pid}/mem")).unwrap();
    memory.read_exact_at(&mut byte, range.start + (offset - range.offset)).unwrap();
    byte[0] == 0xcc
}

#[test]
fn a_librarys_functions_are_probed_in_the_named_process_and_its_children_alone() {
    let _machine = machine();
    let folder = TempDir::new().unwrap();
    let library =
        compiled_with("library.c", folder.path(), &["-shared", "-fPIC", "-Wl,-soname,liblibrary.so"]);
    let named = folder.path().join("liblibrary.so");
    fs::rename(library, &named).unwrap();
    let run = format!("-Wl,-rpath,{}", folder.path().display());
    let mut program = Program::start_with("uses.c", &[&run, named.to_str().unwrap()]);
    let mut other = Program::start_with("uses.c", &[&run, named.to_str().unwrap()]);
    let text = format!("{}:library_call(int)->int", named.display());
    let found = find(&Spec::parse(&text, Path::exists).unwrap(), &[], 9, true).unwrap();
    let tracer = Tracer::start_with(Hooks::Socket, &[program.pid()], &["--uprobe", &text]);
    assert_eq!([program.pid(), other.pid()].map(|pid| is_probed(pid, &found[0])), [true, false]);
    let truth = program.works();
    other.works();
    let capture = tracer.stop();
    assert!(!is_probed(program.pid(), &found[0]), "nothing is left");
    let pids: BTreeSet<u32> = calls(&capture).into_iter().map(|one| one.pid).collect();
    assert_eq!((pids.len(), pids.contains(&other.pid())), (2, false), "it and its child");
    check_calls(&capture, truth);
}

#[test]
fn what_the_ring_has_no_room_for_is_counted_and_makes_no_wrong_pair() {
    let _machine = machine();
    let mut program = Program::start("hot.c");
    let function = format!("{}:next(int)->int", program.path.display());
    let flags = ["--uprobe", &function, "--ring-size", "64K", "--queue-batches", "2"];
    let tracer = Tracer::start_with(Hooks::Socket, &[program.pid()], &flags);
    for _ in 0..2 {
        program.works();
    }
    let capture = tracer.stop();
    let lost = capture.summary.lost["refused_function"] + capture.summary.lost["batch_queue_full"];
    let all = calls(&capture);
    assert!(lost > 0 && !all.is_empty(), "{lost} {}", all.len());
    // Each record is an entry, a return, or one whose entry was lost.
    let n_ends = all.iter().filter(|one| one.end == "answered").count() as u64;
    assert!(all.len() as u64 + n_ends + 2 * lost >= 400_000, "{} calls, {lost} lost", all.len());
    check_pairs(&all);
    // The recorder may have lost some more, which makes no wrong pair either.
    let replayed = replay(&capture.recording());
    let lines = replayed.lines().filter(|line| line.contains("\"kind\":\"function\""));
    let rows: Vec<Transaction> = lines.map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(!rows.is_empty());
    check_pairs(&rows.iter().collect::<Vec<_>>());
}

/// Each call of `next` is told once, and returned one more than it was given.
#[track_caller]
fn check_pairs(all: &[&Transaction]) {
    let mut seen = BTreeSet::new();
    for one in all {
        let n = one.arguments.as_ref().unwrap()[0].as_i64().unwrap();
        assert!(seen.insert(n), "told once: {one:?}");
        match one.end.as_str() {
            "answered" => assert_eq!(one.returned, Some((n + 1).into()), "{one:?}"),
            other => assert_eq!((other, &one.returned), ("tracer_stopped", &None), "{one:?}"),
        }
    }
}

/// What is said when a function cannot be probed: its cause, and a way out.
#[rstest]
#[case("/no/such/file:f", "No such file", "check the path")]
#[case("no-such-program:f", "there is no file no-such-program", "PATH")]
#[case("{}:leef", "has no function leef", "there is leaf")]
#[case("{}:nothing_like_it_at_all", "has no function", "inlined")]
#[case("{}:*", "functions, and a run takes 3 at most", "write more of the name")]
#[case("{}:leaf(int,string)", "'string' is no type", "types are int")]
#[case("{}:leaf+0x3fff", "no instruction begins at leaf+0x3fff", "around it")]
#[case("{}:0x1", "no address of code", "nm")]
#[case("{}:usdt:a:b", "has no mark a:b", "none at all")]
#[case("stripped:leaf", "stripped", "-dbgsym")]
#[case("/etc/passwd:f", "not an ELF file", "interpreter")]
fn what_cannot_be_probed_is_told_with_the_way_out(
    #[case] function: &str,
    #[case] what: &str,
    #[case] hint: &str,
) {
    let folder = TempDir::new().unwrap();
    let path = compiled("calls.c", folder.path());
    let mut text = function.replace("{}", path.to_str().unwrap());
    if let Some(name) = text.strip_prefix("stripped:") {
        assert!(Command::new(tool("strip", "binutils")).arg(&path).status().unwrap().success());
        text = format!("{}:{name}", path.display());
    }
    let found = Spec::parse(&text, Path::exists).and_then(|spec| find(&spec, &[], 3, true));
    let error = found.unwrap_err();
    assert!(error.what.contains(what) && error.hint.contains(hint), "{text}: {error:?}");
    // On the command line before anything is traced.
    if !function.contains('*') {
        let flags = ["live", "--uprobe", &text, "--duration", "1s", "--comm", "no-such-process"];
        let output = Command::new(txray_program()).args(flags).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(what) && said.contains(hint), "{said}");
    }
}
