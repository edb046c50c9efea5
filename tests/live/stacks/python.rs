//! Stacks of programs of Python, by the functions of their scripts.

use std::{
    env,
    net::TcpStream,
    path::{Path, PathBuf},
    process::Command,
};

use rstest::rstest;

use super::{
    super::{
        Hooks,
        anatomy::{ask, of},
        machine, tool,
        tracer::{Capture, StackSum, Tracer},
    },
    EVALUATES, Served, check, own, parts, serve, stacks,
};

/// The script.
const FILE: &str = "serves.py";

/// An interpreter of this version: the distribution's, or one of pyenv's. Which there are differs from machine to machine.
fn interpreter(version: &str) -> Option<PathBuf> {
    let name = format!("python{version}");
    let of_pyenv = env::var_os("PYENV_ROOT").map(PathBuf::from);
    let of_pyenv = of_pyenv.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".pyenv")))?;
    let folders = std::fs::read_dir(of_pyenv.join("versions")).into_iter().flatten().flatten();
    let of_pyenv = folders.map(|folder| folder.path().join("bin"));
    let folders = [PathBuf::from("/usr/bin"), PathBuf::from("/usr/local/bin")].into_iter().chain(of_pyenv);
    folders.map(|folder| folder.join(&name)).find(|file| file.is_file())
}

fn serve_script(interpreter: &Path) -> Served {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/live/stacks").join(FILE);
    let mut command = Command::new(interpreter);
    command.arg(script);
    serve(command)
}

/// In at least nineteen of twenty stacks the script's functions are these, and the interpreter's own is in none of them. Gives how many are right, of how many.
#[track_caller]
fn check_chain(capture: &Capture, path: &str, kind: &str, chain: &[&str]) -> [u64; 2] {
    let all = stacks(of(capture, "server", path), kind);
    let is_right = |stack: &&&StackSum| {
        let script = own(stack, FILE);
        // Where the stack of C is lost, in a library's jump to another's function, they stand all the same.
        script.get(..chain.len()) == Some(chain)
            && !stack.frames.iter().any(|frame| frame.contains(EVALUATES))
    };
    let n: u64 = all.iter().map(|stack| stack.count).sum();
    let n_right: u64 = all.iter().filter(is_right).map(|stack| stack.count).sum();
    println!("{path} {kind}: {n_right} of {n}");
    assert!(n - n_right <= 1 || n_right * 20 >= n * 19, "{path}: {n_right} of {n}: {all:#?}");
    [n_right, n]
}

const CHAIN: [&str; 4] = ["inner", "middle", "outer", "Handler.do_GET"];
const BY: [&str; 6] =
    ["inner", "Shop.steps", "Shop.total", "by_callback.<locals>.<lambda>", "by_callback", "Handler.do_GET"];

#[track_caller]
fn check_script(hooks: Hooks, interpreter: &Path) {
    let _machine = machine();
    let served = serve_script(interpreter);
    let tracer = Tracer::start_with(hooks, &[served.pid], &["--stacks", "all"]);
    let mut stream = TcpStream::connect(("127.0.0.1", served.port)).unwrap();
    let paths = ["/spin/400", "/spin/300/by", "/rest/60", "/rest/50/by", "/spin/350/late"];
    paths.iter().for_each(|path| ask(&mut stream, path, None));
    let capture = tracer.stop();
    check(&capture);
    for (path, chain) in [("/spin/400", &CHAIN[..]), ("/spin/300/by", &BY), ("/spin/350/late", &CHAIN)] {
        let [_, n] = check_chain(&capture, path, "oncpu", chain);
        // 400 ms are 38; a machine that stands still tells fewer.
        assert!(n >= 5, "{path}: {n}");
    }
    check_chain(&capture, "/rest/60", "timer", &CHAIN);
    check_chain(&capture, "/rest/50/by", "timer", &BY);
    // From what the thread waits in to where it began, and the functions of C that are between those of the script are there.
    let stack = stacks(of(&capture, "server", "/rest/50/by"), "timer")[0];
    let at = |name: &str| stack.frames.iter().position(|frame| parts(frame) == (name, FILE)).unwrap();
    assert!(at("inner") > 0, "{stack:?}");
    for [before, behind] in [["Shop.steps", "Shop.total"], [BY[3], "by_callback"]] {
        assert!(at(behind) > at(before) + 1, "{stack:?}");
    }
    let is_library = |frame: &String| parts(frame).1.ends_with("/threading.py");
    let began = stack.frames.iter().rposition(is_library).unwrap_or_else(|| panic!("{stack:?}"));
    assert!(began > at("Handler.do_GET") && began < stack.frames.len() - 1, "{stack:?}");
}

/// The distribution's.
#[rstest]
fn a_script_is_told_by_its_functions(#[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks) {
    check_script(hooks, &tool("python3", "python3"));
}

/// Others, in libraries, where they are installed.
#[rstest]
fn versions_of_python_are_told_apart(#[values("3.11", "3.12", "3.13")] version: &str) {
    match interpreter(version) {
        Some(interpreter) => check_script(Hooks::Socket, &interpreter),
        None => println!("Python {version} is not installed: left out"),
    }
}
