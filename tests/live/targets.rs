//! Who is traced: processes by the file that they execute, and by their number.

use std::{
    ffi::CString,
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
    process::Command,
};

use rstest::rstest;
use tempfile::TempDir;
use workload::address::Address;

use super::{Hooks, machine, process::Server, tracer::Tracer, txray_program, workload_program};

const N_REQUESTS: usize = 5;

/// A file system in memory, gone with this value.
struct Memory(TempDir);

impl Memory {
    #[track_caller]
    fn mount() -> Memory {
        let folder = TempDir::new().unwrap();
        let target = CString::new(folder.path().as_os_str().as_bytes()).unwrap();
        // SAFETY: all strings end with a zero and live through the call; no data is given.
        let failed = unsafe {
            libc::mount(c"txray-test".as_ptr(), target.as_ptr(), c"tmpfs".as_ptr(), 0, std::ptr::null())
        } != 0;
        assert!(!failed, "mount tmpfs: {}", std::io::Error::last_os_error());
        Memory(folder)
    }

    /// The workload as the first file on it.
    fn program(&self) -> PathBuf {
        let path = self.0.path().join("server");
        fs::copy(workload_program(), &path).unwrap();
        path
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let target = CString::new(self.0.path().as_os_str().as_bytes()).unwrap();
        // SAFETY: the string ends with a zero. Lazily: a process that still runs from it keeps it until it ends.
        unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) };
    }
}

#[track_caller]
fn serve(program: &Path) -> Server {
    let folder = TempDir::new().unwrap();
    let log = folder.path().join("server.csv");
    let mut command = Command::new(program);
    command.args(["serve", "--seconds", "120", "--listen", "127.0.0.1:0", "--log"]).arg(&log);
    Server::announced(&mut command, log, folder)
}

#[track_caller]
fn ask(server: &Server) {
    let Address::Tcp(address) = &server.address else { panic!("{:?}", server.address) };
    for _ in 0..N_REQUESTS {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(b"GET /bytes/10 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

#[rstest]
fn an_executable_is_not_taken_for_one_of_the_same_inode_number(
    #[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks,
) {
    let _machine = machine();
    let (one, other) = (Memory::mount(), Memory::mount());
    let (wanted, lookalike) = (one.program(), other.program());
    let [wanted_id, lookalike_id] = [&wanted, &lookalike].map(|path| fs::metadata(path).unwrap());
    assert_eq!(wanted_id.ino(), lookalike_id.ino(), "the first files of two new file systems");
    assert_ne!(wanted_id.dev(), lookalike_id.dev());
    let tracer = Tracer::start_with(hooks, &[], &["--exe", wanted.to_str().unwrap()]);
    let wrong = serve(&lookalike);
    let right = serve(&wanted);
    ask(&wrong);
    ask(&right);
    let capture = tracer.stop();
    let pids: Vec<u32> = capture.transactions.iter().map(|transaction| transaction.pid).collect();
    assert_eq!(pids, [right.process.pid(); N_REQUESTS], "the other one is {}", wrong.process.pid());
    assert_eq!((capture.summary.lost_requests.low, capture.summary.lost_requests.high), (0, 0));
}

/// Runs `txray` with arguments in a pid namespace of its own.
fn in_own_namespace(flags: &[&str], arguments: &[&str]) -> std::process::Output {
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork"]).args(flags).arg(txray_program()).args(arguments);
    command.output().unwrap()
}

#[test]
fn in_a_pid_namespace_of_its_own_it_says_so_and_traces_nothing() {
    let _machine = machine();
    let output = in_own_namespace(&["--mount-proc"], &["live", "--pid", "1", "--duration", "1s"]);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{errors}");
    assert!(errors.contains("txray runs in a pid namespace of its own"), "{errors}");
    assert!(errors.contains("hint: start it in the host's pid namespace"), "{errors}");
    let output = in_own_namespace(&["--mount-proc"], &["doctor", "--quick"]);
    let report = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(2), "{report}");
    assert!(report.contains("cannot be traced: txray runs in a pid namespace of its own"), "{report}");
}

#[test]
fn with_the_hosts_proc_numbers_are_the_hosts_whatever_namespace_txray_is_in() {
    let _machine = machine();
    let server = serve(workload_program());
    let pid = server.process.pid().to_string();
    let traced = std::thread::spawn(move || {
        in_own_namespace(&[], &["live", "--pid", &pid, "--json", "--duration", "3s"])
    });
    // Until one is seen: when it begins to trace is not told here.
    while !traced.is_finished() {
        ask(&server);
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let output = traced.join().unwrap();
    let rows = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let numbered = format!(r#""pid":{},"#, server.process.pid());
    assert!(!rows.is_empty() && rows.lines().all(|row| row.contains(&numbered)), "{rows}");
}
