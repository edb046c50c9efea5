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

use super::{
    Hooks, machine,
    process::Server,
    tracer::{Capture, Tracer},
    txray_program, workload_program,
};

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

/// Which processes served what was seen, each once.
fn served_by(capture: &Capture) -> Vec<u32> {
    let mut pids: Vec<u32> = capture.transactions.iter().map(|transaction| transaction.pid).collect();
    pids.sort_unstable();
    pids.dedup();
    pids
}

#[rstest]
fn a_name_makes_targets_of_those_that_have_it_and_of_those_that_take_it(
    #[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks,
) {
    let _machine = machine();
    let folder = TempDir::new().unwrap();
    let name = format!("xray{}", std::process::id());
    let program = folder.path().join(&name);
    fs::copy(workload_program(), &program).unwrap();
    let (before, other) = (serve(&program), serve(workload_program()));
    let tracer = Tracer::start_with(hooks, &[], &["--comm", &name]);
    let after = serve(&program);
    for server in [&before, &other, &after] {
        ask(server);
    }
    let capture = tracer.stop();
    let mut wanted = [before.process.pid(), after.process.pid()];
    wanted.sort_unstable();
    assert_eq!(served_by(&capture), wanted, "the other one is {}", other.process.pid());
    assert_eq!(capture.transactions.len(), 2 * N_REQUESTS);
}

/// A cgroup of the unified hierarchy, gone with this value.
struct Cgroup(PathBuf);

impl Cgroup {
    #[track_caller]
    fn make() -> Cgroup {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        // Fields: …, mount point (5th), …, "-", type of the file system (proc_pid_mountinfo(5)).
        let mount = mounts.lines().find_map(|line| {
            let (mount, kind) = line.split_once(" - ")?;
            kind.starts_with("cgroup2 ").then(|| mount.split(' ').nth(4)).flatten()
        });
        let mount = mount.expect("no cgroup2 is mounted: mount -t cgroup2 cgroup /sys/fs/cgroup/unified");
        let path = Path::new(mount).join(format!("txray-test-{}", std::process::id()));
        fs::create_dir_all(path.join("below")).unwrap();
        Cgroup(path)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Its processes have ended before: a group with processes stays.
        let _ = fs::remove_dir(self.0.join("below"));
        let _ = fs::remove_dir(&self.0);
    }
}

#[rstest]
fn a_cgroup_makes_targets_of_its_members_and_of_those_below(
    #[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks,
) {
    let _machine = machine();
    let group = Cgroup::make();
    let servers = [serve(workload_program()), serve(workload_program()), serve(workload_program())];
    let join = |server: &Server, group: &Path| {
        fs::write(group.join("cgroup.procs"), server.process.pid().to_string()).unwrap();
    };
    join(&servers[0], &group.0);
    let tracer = Tracer::start_with(hooks, &[], &["--cgroup", group.0.to_str().unwrap()]);
    // One that comes later, into a group below.
    join(&servers[1], &group.0.join("below"));
    servers.iter().for_each(ask);
    let capture = tracer.stop();
    let mut wanted = [servers[0].process.pid(), servers[1].process.pid()];
    wanted.sort_unstable();
    assert_eq!(served_by(&capture), wanted, "the other one is {}", servers[2].process.pid());
    assert_eq!(capture.transactions.len(), 2 * N_REQUESTS);
    drop(servers);
}

#[rstest]
fn a_port_limits_the_run_to_connections_that_have_it(#[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks) {
    let _machine = machine();
    let server = Server::start("");
    let proxy = Server::start(&format!("--upstream {}", server.address));
    for (of, role) in [(&proxy, "server"), (&server, "client")] {
        let port = of.address.port().to_string();
        let tracer = Tracer::start_with(hooks, &[proxy.process.pid()], &["--port", &port]);
        ask(&proxy);
        let capture = tracer.stop();
        assert_eq!(capture.role(role).len(), N_REQUESTS, "{:#?}", capture.transactions);
        assert_eq!(capture.transactions.len(), N_REQUESTS);
    }
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
