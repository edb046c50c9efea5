//! Many processes that begin and end: what txray holds for them goes with them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::fd::RawFd,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use rstest::rstest;
use tempfile::TempDir;

use super::{
    Hooks,
    check::check_order_and_sums,
    dns::counted,
    machine,
    process::{PATIENCE, wait_for},
    tls_calls::{Client, Server, compiled},
    tls_harm::{Code, openssl_of, places},
    tls_programs::{inside, n_probes, own_libssl, wait_for_probes},
    tracer::{Capture, Tracer},
};

/// Starts so many programs as each line of its input says, four at a time: every second one has OpenSSL mapped, and of those every tenth asks for a page.
const STARTS: &str = r#"
#include <openssl/ssl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
extern char **environ;
static void reap(void) {
    int status;
    if (wait(&status) < 0 || status != 0) exit(1);
}
int main(int argc, char **argv) {
    char line[64], path[64];
    /* Its own, so that the library is mapped as long as it lives. */
    SSL_CTX *context = SSL_CTX_new(TLS_client_method());
    int begun = 0, n;
    if (argc < 4 || !context) return 2;
    puts("ready"); fflush(stdout);
    while (fgets(line, sizeof line, stdin) && (n = atoi(line)) > 0) {
        int running = 0;
        for (int i = 0; i < n; i++, begun++) {
            snprintf(path, sizeof path, "/starts/%d", begun);
            char *with[] = { argv[1], argv[3], begun % 20 == 0 ? path : NULL, NULL }, *without[] = { argv[2], NULL };
            pid_t pid;
            if (posix_spawn(&pid, argv[1 + begun % 2], NULL, NULL, begun % 2 ? without : with, environ)) return 3;
            if (++running == 4) { reap(); running--; }
        }
        while (running--) reap();
        printf("/begun/%d %d\nend\n", begun, n); fflush(stdout);
    }
    return 0;
}
"#;

/// PORT [PATH].
const WITH: &str = r#"
#include <openssl/ssl.h>
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
int main(int argc, char **argv) {
    SSL_CTX *context = SSL_CTX_new(TLS_client_method());
    if (!context) return 1;
    if (argc < 3) return 0;
    struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(atoi(argv[1])) };
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM, 0), got = 0;
    if (connect(fd, (struct sockaddr *)&to, sizeof to)) return 2;
    SSL *ssl = SSL_new(context);
    SSL_set_fd(ssl, fd);
    if (SSL_connect(ssl) != 1) return 3;
    char text[8192];
    int length = snprintf(text, sizeof text, "GET %s HTTP/1.1\r\nHost: a\r\n\r\n", argv[2]);
    if (SSL_write(ssl, text, length) != length) return 4;
    for (char *end = NULL; !end || got < end + 4 - text + 3000;) {
        int n = SSL_read(ssl, text + got, sizeof text - 1 - got);
        if (n <= 0) return 5;
        text[got += n] = 0;
        end = strstr(text, "\r\n\r\n");
    }
    return 0;
}
"#;

/// Programs whose names nobody else has.
struct Programs {
    folder: TempDir,
    libraries: TempDir,
}

impl Programs {
    const NAMES: [&str; 3] = ["xstarts", "xwith", "xwithout"];

    fn make() -> Programs {
        let folder = TempDir::new().unwrap();
        for (name, source) in Programs::NAMES.into_iter().zip([STARTS, WITH, "int main(void) { return 0; }"])
        {
            let flags: &[&str] = if name == "xwithout" { &["-Wl,--as-needed"] } else { &[] };
            let program = compiled(folder.path(), source, flags);
            fs::rename(program, folder.path().join(name)).unwrap();
        }
        Programs { folder, libraries: own_libssl() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn start(&self, server: &Server) -> Client {
        let [starts, with, without] = Programs::NAMES.map(|name| self.path(name));
        let mut command = Command::new(starts);
        command.args([with, without]).arg(server.port.to_string());
        Client::of(command.env("LD_LIBRARY_PATH", self.libraries.path()))
    }
}

/// What txray has.
#[derive(Debug)]
struct Held {
    resident_kib: u64,
    n_files: usize,
    n_probes: usize,
    /// Entries of its maps that something is put into and taken out of.
    entries: BTreeMap<String, usize>,
}

impl Held {
    fn by(tracer: &Tracer) -> Held {
        let folder = PathBuf::from(format!("/proc/{}", tracer.pid()));
        let status = fs::read_to_string(folder.join("status")).unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        Held {
            resident_kib: resident.trim().split(' ').next().unwrap().parse().unwrap(),
            n_files: fs::read_dir(folder.join("fd")).unwrap().count(),
            n_probes: n_probes(tracer),
            entries: entries(&folder),
        }
    }

    /// Whether nothing is left of what is taken out again, but for what was there. From the others, whatever was used longest ago makes room.
    fn is_empty_but_for(&self, before: &Held) -> bool {
        // One more where a child was so slow to execute its program that it was taken for one that serves: what is on its parent's files.
        [("CONNS", 0), ("OWNERS", 0), ("TARGETS", 0), ("TLS_CALLS", 0), ("TLS_PROCESSES", 1)]
            .iter()
            .all(|(map, more)| self.entries[*map] <= before.entries[*map] + more)
    }
}

fn bpf(command: libc::c_long, attributes: &mut [u64; 16]) -> libc::c_long {
    // SAFETY: a zero-filled attribute block of 128 bytes, as large as these commands read; what it points to outlives the call.
    unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_mut_ptr(), size_of_val(attributes)) }
}

/// How many entries each hash map has that a process has open.
fn entries(process: &Path) -> BTreeMap<String, usize> {
    /// `BPF_MAP_GET_NEXT_KEY`, `BPF_MAP_GET_FD_BY_ID`, `BPF_OBJ_GET_INFO_BY_FD` (include/uapi/linux/bpf.h).
    const GET_NEXT_KEY: libc::c_long = 4;
    const GET_FD_BY_ID: libc::c_long = 14;
    const GET_INFO: libc::c_long = 15;
    /// `BPF_MAP_TYPE_HASH`, `BPF_MAP_TYPE_LRU_HASH`.
    const HASHES: [u32; 2] = [1, 9];
    let ids = fs::read_dir(process.join("fdinfo")).unwrap().flatten().filter_map(|file| {
        let text = fs::read_to_string(file.path()).ok()?;
        text.lines().find_map(|line| line.strip_prefix("map_id:")?.trim().parse::<u64>().ok())
    });
    let mut entries = BTreeMap::new();
    for id in ids {
        let mut attributes = [0; 16];
        attributes[0] = id;
        let fd = bpf(GET_FD_BY_ID, &mut attributes) as RawFd;
        assert!(fd >= 0, "map {id}: {}", std::io::Error::last_os_error());
        // `struct bpf_map_info`: type, id, size of a key, …; the name stands 24 bytes in and has 16.
        let mut info = [0u8; 128];
        let mut attributes = [0; 16];
        attributes[0] = (size_of_val(&info) as u64) << 32 | fd as u64;
        attributes[1] = info.as_mut_ptr() as u64;
        assert_eq!(bpf(GET_INFO, &mut attributes), 0);
        let word = |at: usize| u32::from_ne_bytes(info[at..at + 4].try_into().unwrap());
        if HASHES.contains(&word(0)) {
            assert!(word(8) <= 64);
            let name: Vec<u8> = info[24..40].iter().copied().take_while(|&byte| byte != 0).collect();
            let (mut key, mut next) = ([0u8; 64], [0u8; 64]);
            let mut n = 0;
            loop {
                let mut attributes = [0; 16];
                attributes[0] = fd as u64;
                attributes[1] = if n == 0 { 0 } else { key.as_mut_ptr() as u64 };
                attributes[2] = next.as_mut_ptr() as u64;
                if bpf(GET_NEXT_KEY, &mut attributes) != 0 {
                    break;
                }
                key = next;
                n += 1;
            }
            entries.insert(String::from_utf8(name).unwrap(), n);
        }
        // SAFETY: opened above.
        unsafe { libc::close(fd) };
    }
    entries
}

/// Files that are opened meanwhile: those of the recording, and those that are open for a moment.
const OPENED: usize = 16;

/// So many begin, some at once; and what txray holds after each of `STEPS`.
struct Starts {
    n: usize,
    after: Vec<Held>,
    capture: Capture,
}

impl Starts {
    fn run(follows: bool, flags: &[&str]) -> Starts {
        let steps =
            if std::env::var_os("TXRAY_LONG").is_some() { [1000, 5000, 10_000] } else { [200, 400, 600] };
        let server = Server::start();
        let programs = Programs::make();
        let mut client = programs.start(&server);
        let pid = client.process.pid();
        let library = &openssl_of(pid);
        let code = Code::of(pid, &library.file, &places(library));
        let plain = code.read();
        let pids: &[u32] = if follows { &[pid] } else { &[] };
        let tracer = Tracer::start_with(Hooks::Socket, pids, flags);
        wait_for("the probes of the one that starts them", || (code.read() != plain).then_some(()));
        wait_for_probes(&tracer, 0);
        let (before, mut after) = (Held::by(&tracer), Vec::new());
        let (mut begun, began) = (0, Instant::now());
        for step in steps {
            client.go(&(step - begun).to_string());
            begun = step;
            // Its last end may not have been heard of yet.
            let since = Instant::now();
            let now = wait_for("what it held for them to go", || {
                let now = Held::by(&tracer);
                let is_late = since.elapsed() > PATIENCE / 2;
                assert!(!is_late, "still held: {now:?}");
                // Links that are taken away are files until the kernel has let go of them.
                let has_let_go = now.n_probes <= before.n_probes && now.n_files <= before.n_files + OPENED;
                (has_let_go && now.is_empty_but_for(&before)).then_some(now)
            });
            println!("{step} starts, {:?}: {now:?}", began.elapsed());
            after.push(now);
        }
        let capture = tracer.stop();
        assert_eq!(code.read(), plain);
        client.end();
        Starts { n: begun, after, capture }
    }
}

/// Every second of the programs has OpenSSL mapped. Followed from their parent each gets probes of its own, by their names they meet those on the library's file.
#[rstest]
#[case::by_parent(true, &[])]
#[case::by_name(false, &["--comm", "xstarts", "--comm", "xwith", "--comm", "xwithout"])]
fn what_txray_holds_for_processes_goes_with_them(#[case] follows: bool, #[case] flags: &[&str]) {
    let _machine = machine();
    let Starts { n, after, capture } = Starts::run(follows, &[flags, &["--tls", "clear"]].concat());
    let [first, .., last] = &after[..] else { panic!("{after:?}") };
    // What is known of 8,192 processes is kept, ended ones among them: 0.4 KiB each.
    assert!(last.resident_kib <= first.resident_kib + 6 * 1024, "{first:?}\n{last:?}");
    check_order_and_sums(&capture);
    let summary = &capture.summary;
    // Each was started, executed a program and ended.
    assert!(summary.events >= 3 * n as u64, "{n}: {summary:?}");
    assert_eq!(summary.lost.values().sum::<u64>(), 0, "{:?}\n{}", summary.lost, capture.stderr);
    assert_eq!(counted(&capture, "tls.looks_lost").last(), Some(&0));
    let asked: BTreeSet<String> = (0..n).step_by(20).map(|begun| format!("/starts/{begun}")).collect();
    let seen = inside(&capture, "client");
    let told: BTreeSet<String> = seen.iter().filter_map(|one| one.target.clone()).collect();
    // One that was over before it could be looked at was not seen inside.
    let is_whole = if follows { told.is_subset(&asked) } else { told == asked };
    assert!(is_whole && told.len() == seen.len(), "{told:?}\n{}", capture.stderr);
    println!("{} of {} seen inside", told.len(), asked.len());
}
