//! Stacks of programs that run in a Java virtual machine.

use std::{net::TcpStream, path::Path, process::Command};

use tempfile::TempDir;

use super::{
    super::{
        Hooks,
        anatomy::{ask, of},
        machine, tool,
        tracer::{StackSum, Tracer},
    },
    check, is_kernel, parts, serve, stacks,
};

/// The package that has `java`, `javac` and `jcmd`.
const PACKAGE: &str = "default-jdk-headless";

/// A virtual machine writes down what it has compiled when it is asked to, and keeps frame pointers when it was told so at its start.
#[test]
fn methods_that_were_compiled_are_told_by_their_names_from_where_the_thread_begins() {
    let _machine = machine();
    let folder = TempDir::new().unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/live/stacks/Serves.java");
    let compiled =
        Command::new(tool("javac", PACKAGE)).arg("-d").arg(folder.path()).arg(source).status().unwrap();
    assert!(compiled.success());
    let mut command = Command::new(tool("java", PACKAGE));
    command.args(["-XX:+PreserveFramePointer", "-Xmx64m", "-cp"]).arg(folder.path()).arg("Serves");
    let served = serve(command);
    let mut stream = TcpStream::connect(("127.0.0.1", served.port)).unwrap();
    // Until all that is called often is compiled, and what leads to functions of the machine as well.
    ["/spin/300", "/rest/1", "/spin/301", "/rest/2", "/spin/302"]
        .iter()
        .for_each(|path| ask(&mut stream, path, None));
    let map = format!("/tmp/perf-{}.map", served.pid);
    let jcmd = Command::new(tool("jcmd", PACKAGE))
        .args([&served.pid.to_string(), "Compiler.perfmap"])
        .output()
        .unwrap();
    assert!(jcmd.status.success() && Path::new(&map).exists(), "{jcmd:?}");
    let tracer = Tracer::start_with(Hooks::Socket, &[served.pid], &["--stacks", "all"]);
    ask(&mut stream, "/spin/400", None);
    ask(&mut stream, "/rest/60", None);
    let capture = tracer.stop();
    drop(std::fs::remove_file(map));
    check(&capture);
    let all = stacks(of(&capture, "server", "/spin/400"), "oncpu");
    let is_own = |frame: &String| frame.contains("Serves.") && frame.ends_with("(jit)");
    let is_right = |stack: &&&StackSum| {
        // From the method that computes to the thread's beginning, in the C library.
        let last = parts(stack.frames.last().unwrap()).1;
        stack.end == "complete" && stack.frames.iter().any(is_own) && last.starts_with("libc")
    };
    let n: u64 = all.iter().map(|stack| stack.count).sum();
    let n_right: u64 = all.iter().filter(is_right).map(|stack| stack.count).sum();
    println!("{n_right} of {n}");
    assert!(n >= 5 && (n - n_right <= 1 || n_right * 20 >= n * 19), "{n_right} of {n}: {all:#?}");
    // `Thread.sleep` waits for a lock that nobody lets go of.
    for rest in stacks(of(&capture, "server", "/rest/60"), "futex") {
        assert!(is_kernel(&rest.frames[0]) && rest.end == "complete", "{rest:?}");
        assert!(parts(rest.frames.last().unwrap()).1.starts_with("libc"), "{rest:?}");
        assert!(rest.frames.iter().any(|frame| parts(frame).1 == "libjvm.so"), "{rest:?}");
        // Also through what was compiled behind the list.
        assert!(rest.frames.iter().any(|frame| frame.ends_with("(jit)")), "{rest:?}");
    }
}
