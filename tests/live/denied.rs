//! Processes that a tracer with few rights may not look into: refused by the kernel, counted, and told with the right that it takes.

use std::{
    fs::Permissions,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use super::{machine, process::wait_for, programs::Nginx, screen::Terminal, tool, txray_program};

/// Debian's `nobody`: another user than nginx's.
const NOBODY: &str = "--reuid=65534 --regid=65534 --clear-groups";
/// The user that nginx runs as, but not with all that nginx may do: the kernel refuses it as well.
const FEWER: &str = "";
/// What tracing takes.
const TRACING: &str = "+bpf,+perfmon";
/// The same with the right to look into any process.
const LOOKING: &str = "+bpf,+perfmon,+sys_ptrace";

/// `setpriv` for a program of a user with these capabilities alone.
fn with_rights(user: &str, capabilities: &str) -> String {
    let sets = ["inh-caps", "ambient-caps", "bounding-set"];
    let sets = sets.map(|set| format!("--{set}=-all,{capabilities}")).join(" ");
    format!("{} {user} --no-new-privs {sets}", tool("setpriv", "util-linux").display())
}

/// A copy of the program that any user may run.
fn public_copy(dir: &Path) -> PathBuf {
    let path = dir.join("txray");
    std::fs::copy(txray_program(), &path).unwrap();
    for path in [dir, &path] {
        std::fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
    }
    path
}

/// Whether the kernel lets such a program see which executable a process runs.
fn may_look(rights: &str, pid: u32) -> bool {
    let mut words = rights.split_whitespace();
    let mut command = Command::new(words.next().unwrap());
    command.args(words).arg("readlink").arg(format!("/proc/{pid}/exe"));
    command.output().unwrap().status.success()
}

/// Requests to nginx over one connection, until it is dropped.
struct Traffic {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Traffic {
    fn start(address: SocketAddr) -> Traffic {
        let stop = Arc::new(AtomicBool::new(false));
        let ended = stop.clone();
        let thread = thread::spawn(move || {
            let mut client = TcpStream::connect(address).unwrap();
            let mut buffer = [0; 4096];
            while !ended.load(Ordering::Relaxed) {
                client.write_all(b"GET /small HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
                assert_ne!(client.read(&mut buffer).unwrap(), 0);
                thread::sleep(Duration::from_millis(10));
            }
        });
        Traffic { stop, thread: Some(thread) }
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().expect("dropped once").join();
        assert!(ended.is_ok() || thread::panicking());
    }
}

#[test]
fn a_process_that_may_not_be_looked_into_is_counted_and_the_screen_names_the_right_that_it_takes() {
    let _machine = machine();
    let folder = tempfile::tempdir().unwrap();
    let program = public_copy(folder.path());
    let nginx = Nginx::start(1);
    let pids = nginx.pids();
    let worker = pids[1];
    let traffic = Traffic::start(nginx.address);
    // It is the port that is traced: of nginx only the worker that has the connection is ever looked at.
    let arguments = format!("live --port {} --comm nginx", nginx.address.port());
    for user in [NOBODY, FEWER] {
        for capabilities in [TRACING, LOOKING] {
            let rights = with_rights(user, capabilities);
            let is_denied = capabilities == TRACING;
            assert_eq!(may_look(&rights, worker), !is_denied, "what the kernel does: {rights}");
            let run = format!("{rights} env LANG=C.UTF-8 XDG_CONFIG_HOME=/nonexistent {}", program.display());
            let terminal = Terminal::start_program(&run, &arguments);
            terminal.shows(&[" LIVE", "GET /small"]);
            terminal.press(&["0"]);
            // Counters come once a second: those that came when it had been looked at.
            let health = wait_for("counters", || {
                let screen = terminal.screen();
                let seen = screen.lines().find_map(|line| line.strip_prefix("requests.seen"))?;
                let n: u64 = seen.split_whitespace().next()?.replace(',', "").parse().ok()?;
                (n > 0).then_some(screen)
            });
            let told = "1 process could not be looked into: CAP_SYS_PTRACE is missing; their services are named by what anyone may see";
            assert_eq!(health.contains(told), is_denied, "{health}");
            assert_eq!(health.contains("looked into"), is_denied, "{health}");
            // On every view, in as many words as there is room for.
            terminal.press(&["4"]);
            let operations = terminal.shows(&["p99.9", "GET /small"]);
            assert_eq!(operations.lines().nth(2).unwrap().contains("looked into"), is_denied, "{operations}");
            // Its service is named all the same.
            let line = operations.lines().find(|line| line.contains("GET /small")).unwrap();
            assert!(line.starts_with("nginx "), "{line}");
            terminal.press(&["q"]);
            terminal.is_as_before(0);
        }
    }
    drop(traffic);
}

#[test]
fn a_replay_tells_that_processes_could_not_be_looked_into_and_blames_no_right_of_its_own() {
    let _machine = machine();
    let nginx = Nginx::start(1);
    let traffic = Traffic::start(nginx.address);
    let rights = with_rights(FEWER, TRACING);
    assert!(!may_look(&rights, nginx.pids()[1]));
    let run = format!("{rights} env LANG=C.UTF-8 XDG_CONFIG_HOME=/nonexistent {}", txray_program().display());
    let arguments = format!("record --port {} --comm nginx --out {{folder}}/recording", nginx.address.port());
    let terminal = Terminal::start_program(&run, &arguments);
    terminal.shows(&[" LIVE", "GET /small"]);
    terminal.press(&["0"]);
    terminal.shows(&["1 process could not be looked into: CAP_SYS_PTRACE is missing"]);
    terminal.press(&["q"]);
    terminal.is_as_before(0);
    drop(traffic);
    let recording = terminal.path().join("recording");
    let run = format!("env LANG=C.UTF-8 XDG_CONFIG_HOME=/nonexistent {}", txray_program().display());
    let replay = Terminal::start_program(&run, &format!("replay {} --speed max", recording.display()));
    replay.shows(&["REPLAY END"]);
    replay.press(&["0"]);
    replay.shows(&["1 process could not be looked into: the system refused"]);
    replay.press(&["q"]);
    replay.is_as_before(0);
}
