//! The places against the kernel: a probe that only counts, on a process of the test's own, is hit once for each call.

use std::{
    ffi::CString,
    fs,
    fs::File,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    os::fd::{AsRawFd as _, FromRawFd as _},
    path::Path,
    process::{Child, Command, Stdio},
};

use rstest::rstest;
use tracer_user::uprobe::{
    placement::Site,
    tls::{self, End},
};

use super::{LIBGNUTLS, LIBSSL, printed};
use crate::go::{Https, STRIPPED, places, toolchains};

/// Calls of each function.
const N: u64 = 200;

/// A counter of hits at one place, in one process; return probes with `is_return`.
fn counter(path: &str, site: &Site, is_return: bool, pid: u32) -> File {
    try_counter(path, site, is_return, pid).unwrap_or_else(|error| panic!("{site:?}: {error}"))
}

/// The same, of a process that may have ended.
pub(crate) fn try_counter(path: &str, site: &Site, is_return: bool, pid: u32) -> io::Result<File> {
    let kind: u32 =
        fs::read_to_string("/sys/bus/event_source/devices/uprobe/type").unwrap().trim().parse().unwrap();
    let name = CString::new(path).unwrap();
    // struct perf_event_attr of 72 bytes: type, size, config, …, the path, the offset.
    let mut attributes = [0_u64; 9];
    attributes[0] = u64::from(kind) | 72 << 32;
    attributes[1] = u64::from(is_return);
    attributes[7] = name.as_ptr() as u64;
    attributes[8] = site.file_offset;
    // SAFETY: the structure is as long as it says, and the path lives through the call.
    let fd = unsafe {
        libc::syscall(libc::SYS_perf_event_open, attributes.as_ptr(), pid as libc::pid_t, -1, -1, 0)
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor that the kernel has just given, owned by nobody else.
    Ok(unsafe { File::from_raw_fd(fd as i32) })
}

pub(crate) fn hits(mut counter: &File) -> u64 {
    let mut count = [0; 8];
    counter.read_exact(&mut count).unwrap_or_else(|error| panic!("{}: {error}", counter.as_raw_fd()));
    u64::from_le_bytes(count)
}

struct Python(Child);

impl Drop for Python {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[rstest]
#[case::openssl(
    "OpenSSL",
    LIBSSL,
    "l.SSL_CTX_new.restype = l.SSL_new.restype = l.TLS_client_method.restype = P\n\
     c = P(l.SSL_CTX_new(P(l.TLS_client_method()))); s = P(l.SSL_new(c))\n",
    "l.SSL_read(s, b, 1); l.SSL_read_ex(s, b, 1, b); l.SSL_write(s, b, 1); l.SSL_write_ex(s, b, 1, b); \
     l.SSL_write_early_data(s, b, 1, b); l.SSL_sendfile(s, 0, P(0), P(1), 0); \
     l.SSL_do_handshake(s); l.SSL_free(P(l.SSL_new(c)))",
    2
)]
#[case::gnutls(
    "GnuTLS",
    LIBGNUTLS,
    "s = P(); l.gnutls_init(ctypes.byref(s), 2)\n",
    // Before the handshake the first ends at once; what it shares with the second is hit for that one.
    "l.gnutls_record_recv(s, b, P(1)); l.gnutls_record_recv_seq(s, b, P(1), b); l.gnutls_record_send(s, b, P(1))",
    1
)]
fn each_call_is_one_hit(
    #[case] kind: &str,
    #[case] library: &str,
    #[case] begin: &str,
    #[case] calls: &str,
    #[case] n_sharing: u64,
) {
    let code = format!(
        "import ctypes\nP = ctypes.c_void_p\nl = ctypes.CDLL({library:?})\nb = (ctypes.c_char * 64)()\n{begin}\
         print(flush=True); input()\nfor i in range({N}): {calls}\nprint(flush=True); input()\n"
    );
    let mut python = Command::new("/usr/bin/python3");
    let python =
        python.args(["-c", &code]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut python = Python(python.spawn().unwrap());
    let pid = python.0.id();
    let mut lines = BufReader::new(python.0.stdout.take().unwrap()).lines();
    lines.next().unwrap().unwrap();

    let found = tls::of(Path::new("/proc"), pid).unwrap();
    let found = found.libraries.iter().find(|library| library.kind == kind).unwrap();
    assert!(found.functions.len() >= 2, "{found:?}");
    let mut counters = Vec::new();
    for function in &found.functions {
        let entry = function.entry.as_ref().unwrap();
        assert!(entry.once, "{function:?}");
        counters.push((N, format!("arguments: {function:?}"), counter(&found.path, entry, false, pid)));
        // What the calls to read, and those to write, have in common is hit for both.
        let (site, n) = match &function.end {
            End::ReturnProbe(site) => (site, N),
            End::Inner(site) | End::InnerWithFlags(site) => (site, n_sharing * N),
            end => panic!("{end:?}"),
        };
        counters.push((n, format!("end: {function:?}"), counter(&found.path, site, true, pid)));
    }
    python.0.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    // It lives, and its calls came back.
    lines.next().unwrap().unwrap();
    for (expected, what, counter) in &counters {
        assert_eq!(hits(counter), *expected, "{what}");
    }
}

/// Probes come and go on all places while goroutines are in them, change threads and move their stacks: nothing that the program does differs.
#[test]
fn a_program_of_go_lives_while_probes_come_and_go() {
    /// Of each toolchain's. (300 were tried as well; a time takes 0.3 s, which the kernel waits for its grace periods.)
    const TIMES: usize = 40;
    let folder = tempfile::TempDir::new().unwrap();
    let [key, certificate] = ["key.pem", "cert.pem"].map(|name| folder.path().join(name));
    let [key_text, certificate_text] = [&key, &certificate].map(|path| path.to_str().unwrap());
    let subject = ["-subj", "/CN=shop.example", "-addext", "subjectAltName=DNS:shop.example"];
    let request =
        ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key_text, "-out", certificate_text];
    printed("openssl", &[&request[..], &subject].concat());
    for go in toolchains() {
        let program = go.build("https", STRIPPED, folder.path());
        let mut https = Https::start(&program, &["-conns", "20", "-grow"], (&certificate, &key));
        let pid = https.pid();
        let (path, sites) = places(pid);
        assert_eq!(sites.len(), 8, "{}: {sites:?}", go.version);
        // As many as last beyond the probes, in rounds: each is whole, or the program ends with an error.
        let (mut n_rounds, mut n_times) = (0, 0);
        while n_times < TIMES {
            https.begin(&format!("a{n_rounds}"), 150);
            for _ in 0..20 {
                let counters: Vec<File> = sites.iter().map(|site| counter(&path, site, false, pid)).collect();
                std::thread::sleep(std::time::Duration::from_millis(2));
                n_times += 1;
                // The kernel waits at each: all at once.
                std::thread::scope(|scope| {
                    for counter in counters {
                        scope.spawn(move || drop(counter));
                    }
                });
            }
            let rows = https.finish(&format!("a{n_rounds}"));
            assert_eq!(rows.len(), 2 * 20 * 150, "{}", go.version);
            n_rounds += 1;
        }
        assert!(https.end().is_empty());
        println!("{}: {n_times} times, {n_rounds} rounds", go.version);
    }
}
