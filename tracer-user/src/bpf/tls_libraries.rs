//! Which libraries for TLS the running processes use, at a glance: what they encrypt is opaque on the wire. Where in them probes would go,
//! [`crate::uprobe::tls`] finds.
//!
//! Found by the files that processes have mapped; Go programs by a mark in their executable, Java by its virtual
//! machine. Code linked statically into other executables (rustls, a static OpenSSL) cannot be seen this way.

use std::{
    collections::BTreeMap,
    fs,
    io::Read as _,
    path::Path,
    sync::mpsc,
    time::{Duration, Instant},
};

use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

/// Bytes of one process's maps that are read: a JVM has tens of thousands of lines of about 100 bytes.
const MAX_MAPS: u64 = 8 << 20;
/// Different executables that are opened to look for Go's mark.
const MAX_EXECUTABLES: usize = 4096;
/// Bytes at the start of an executable that are searched for the names of its sections or for Go's mark: the mark is
/// in the first page of a section that the linker puts early; where it is not found there, the program is not shown.
const MAX_EXECUTABLE_HEAD: u64 = 4 << 10;
/// Processes named per library.
const MAX_EXAMPLES: usize = 3;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsUse {
    /// By kind and file, in order.
    pub libraries: Vec<TlsLibrary>,
    /// Processes looked at.
    pub n_processes: u64,
    /// Processes whose maps may not be read by the caller.
    pub n_unreadable: u64,
    /// Whether time ran out before all were looked at.
    pub cut_short: bool,
    /// What came of the probes for them; `None`: not tried.
    pub probes: Option<TlsTrial>,
}

/// A trial of probes on functions, in a process of txray's own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsTrial {
    /// What an entry and a return probe add to a call, ns.
    pub ns_per_call: u64,
    /// Why no such probe works here.
    pub refused: Option<String>,
    /// Why programs that confine themselves (seccomp) must be left alone.
    pub harms_confined: Option<String>,
}

/// A library and who uses it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsLibrary {
    /// What it is: `OpenSSL`, `GnuTLS`, `NSS`, `Go`, `Java`, …
    pub kind: String,
    /// The file, as the process sees it.
    pub file: String,
    /// Processes that use it.
    pub n_processes: u64,
    /// Names of some of them.
    pub examples: Vec<String>,
}

impl TlsLibrary {
    /// Whether there are programs for its functions. Whether there is a place for each in this very file, `doctor --pid` says.
    pub fn is_read(&self) -> bool {
        [OPENSSL, OPENSSL_IN_NODE, "GnuTLS", "NSS", "Go"].contains(&self.kind.as_str())
    }
}

/// Looks at all processes, for at most `patience`: maps wait for the target's memory lock, so that the look runs on a
/// thread of its own, which is left behind if it hangs.
pub fn in_use(proc_root: &Path, patience: Duration) -> TlsUse {
    let (send, receive) = mpsc::channel();
    let proc_root = proc_root.to_owned();
    let deadline = Instant::now() + patience;
    let thread = std::thread::Builder::new().name("txray-tls".to_owned()).spawn(move || {
        let mut executables = FxHashMap::default();
        for pid in processes(&proc_root) {
            if send.send(look_at(&proc_root, pid, &mut executables)).is_err() {
                break;
            }
        }
    });
    let mut tls = TlsUse { cut_short: thread.is_err(), ..TlsUse::default() };
    let mut libraries: BTreeMap<(String, String), TlsLibrary> = BTreeMap::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match receive.recv_timeout(left) {
            Ok(Look::Gone) => {}
            Ok(Look::Unreadable) => tls.n_unreadable += 1,
            Ok(Look::Read { comm, found }) => {
                tls.n_processes += 1;
                for (kind, file) in found {
                    let library = libraries.entry((kind.to_owned(), file.clone())).or_insert_with(|| {
                        TlsLibrary { kind: kind.to_owned(), file, ..TlsLibrary::default() }
                    });
                    library.n_processes += 1;
                    if library.examples.len() < MAX_EXAMPLES && !library.examples.contains(&comm) {
                        library.examples.push(comm.clone());
                    }
                }
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {
                tls.cut_short = true;
                break;
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
        }
    }
    tls.libraries = libraries.into_values().collect();
    tls
}

enum Look {
    Gone,
    Unreadable,
    Read { comm: String, found: Vec<(&'static str, String)> },
}

fn look_at(proc_root: &Path, pid: u32, executables: &mut FxHashMap<String, bool>) -> Look {
    let dir = proc_root.join(pid.to_string());
    let mut maps = Vec::new();
    let read = fs::File::open(dir.join("maps")).and_then(|file| file.take(MAX_MAPS).read_to_end(&mut maps));
    if let Err(error) = read {
        let is_denied = error.kind() == std::io::ErrorKind::PermissionDenied;
        return if is_denied { Look::Unreadable } else { Look::Gone };
    }
    let mut comm = Vec::new();
    let _ = fs::File::open(dir.join("comm")).and_then(|file| file.take(64).read_to_end(&mut comm));
    let mut found: Vec<(&'static str, String)> = Vec::new();
    for file in mapped_files(&maps) {
        if let Some(kind) = library_kind(file)
            && !found.iter().any(|(_, other)| other == file)
        {
            found.push((kind, file.to_owned()));
        }
    }
    let exe =
        fs::read_link(dir.join("exe")).map(|exe| exe.to_string_lossy().into_owned()).unwrap_or_default();
    if !exe.is_empty() {
        let is_node = matches!(exe.rsplit('/').next(), Some("node" | "nodejs"));
        // Debian's node uses the shared libssl; others have it inside.
        if is_node && !found.iter().any(|(kind, _)| *kind == OPENSSL) {
            found.push((OPENSSL_IN_NODE, exe.clone()));
        }
        let n_known = executables.len();
        let is_go = match executables.get(&exe) {
            Some(&is_go) => is_go,
            None if n_known < MAX_EXECUTABLES => {
                let is_go = is_go_executable(&dir.join("exe"));
                executables.insert(exe.clone(), is_go);
                is_go
            }
            None => false,
        };
        if is_go {
            found.push(("Go", exe));
        }
    }
    Look::Read { comm: crate::text::data_text(comm.strip_suffix(b"\n").unwrap_or(&comm)).into_owned(), found }
}

fn processes(proc_root: &Path) -> Vec<u32> {
    let entries = fs::read_dir(proc_root).into_iter().flatten();
    let mut pids: Vec<u32> =
        entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    pids
}

/// The files in the text of `/proc/PID/maps`: `START-END PERM OFFSET DEV INODE    PATH`.
fn mapped_files(maps: &[u8]) -> impl Iterator<Item = &str> {
    maps.split(|&byte| byte == b'\n').filter_map(|line| {
        let path = &line[line.iter().position(|&byte| byte == b'/')?..];
        std::str::from_utf8(path).ok()
    })
}

const OPENSSL: &str = "OpenSSL";
const OPENSSL_IN_NODE: &str = "OpenSSL inside Node";

/// What a mapped file is by its name, version numbers and "(deleted)" behind it included.
fn library_kind(path: &str) -> Option<&'static str> {
    let name = path.rsplit('/').next()?;
    // `libssl3.so` is NSS, `libssl.so.3` OpenSSL.
    let kinds = [
        ("libssl.so", OPENSSL),
        ("libssl-", OPENSSL),
        ("libssl3.so", "NSS"),
        ("libgnutls.so", "GnuTLS"),
        ("libmbedtls.so", "mbed TLS"),
        ("libwolfssl.so", "wolfSSL"),
        ("libs2n.so", "s2n"),
        ("libnetty_tcnative", "BoringSSL in Netty"),
        ("libconscrypt", "BoringSSL in Conscrypt"),
        ("libjvm.so", "Java"),
    ];
    kinds.iter().find(|(start, _)| name.starts_with(start)).map(|&(_, kind)| kind)
}

/// Go's linker writes a note named "Go" with the build id into the first page of every executable that it makes.
fn is_go_executable(path: &Path) -> bool {
    let mut head = Vec::new();
    let read = fs::File::open(path).and_then(|file| file.take(MAX_EXECUTABLE_HEAD).read_to_end(&mut head));
    // Note header: name of 4 bytes, any length, type 4; the name is "Go\0\0".
    read.is_ok()
        && head.starts_with(b"\x7fELF")
        && head.windows(8).any(|window| window == b"\x04\0\0\0Go\0\0")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn libraries_are_known_by_their_file_names() {
        for (path, kind) in [
            ("/usr/lib/x86_64-linux-gnu/libssl.so.3", Some("OpenSSL")),
            ("/usr/lib/libssl.so.1.1 (deleted)", Some("OpenSSL")),
            ("/app/libssl-1f2e.so.3", Some("OpenSSL")),
            ("/usr/lib/libssl3.so", Some("NSS")),
            ("/usr/lib/libgnutls.so.30.34.3", Some("GnuTLS")),
            ("/usr/lib/jvm/lib/server/libjvm.so", Some("Java")),
            ("/usr/lib/libcrypto.so.3", None),
            ("/usr/lib/libsslx.so", None),
            ("/tmp/libssl.so/notes", None),
        ] {
            assert_eq!(library_kind(path), kind, "{path}");
        }
    }

    #[test]
    fn users_of_a_library_are_counted_once_each_and_some_are_named() {
        let root = tempfile::tempdir().unwrap();
        let go = root.path().join("gobin");
        fs::write(&go, b"\x7fELF----\x04\0\0\0\x53\0\0\0\x04\0\0\0Go\0\0id").unwrap();
        for pid in 1..=6 {
            let dir = root.path().join(pid.to_string());
            fs::create_dir_all(&dir).unwrap();
            let line = "7f00-7f01 r--p 00000000 fe:00 9                    /lib/libssl.so.3\n";
            fs::write(dir.join("maps"), format!("{line}{line}7f02-7f03 rw-p 0 0:0 0 [heap]\n")).unwrap();
            fs::write(dir.join("comm"), format!("app\u{1b}{pid}\n")).unwrap();
        }
        symlink(&go, root.path().join("6/exe")).unwrap();
        fs::create_dir_all(root.path().join("7")).unwrap();
        let tls = in_use(root.path(), Duration::from_secs(60));
        assert_eq!((tls.n_processes, tls.n_unreadable, tls.cut_short), (6, 0, false));
        assert_eq!(tls.libraries.len(), 2);
        assert_eq!(tls.libraries[0].kind, "Go");
        assert_eq!(tls.libraries[1].n_processes, 6);
        assert_eq!(tls.libraries[1].examples, ["app\u{1b}1", "app\u{1b}2", "app\u{1b}3"]);
    }

    #[test]
    fn a_process_that_hangs_costs_the_rest_and_not_the_caller() {
        let root = tempfile::tempdir().unwrap();
        for pid in [1, 2] {
            fs::create_dir_all(root.path().join(pid.to_string())).unwrap();
        }
        fs::write(root.path().join("1/maps"), "").unwrap();
        let path = std::ffi::CString::new(root.path().join("2/maps").to_str().unwrap()).unwrap();
        // A pipe without a writer blocks whoever opens it.
        // SAFETY: a NUL-terminated path that lives through the call.
        assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
        let tls = in_use(root.path(), Duration::from_millis(200));
        assert_eq!((tls.n_processes, tls.cut_short), (1, true));
        // Lets the thread end.
        drop(fs::OpenOptions::new().write(true).open(root.path().join("2/maps")).unwrap());
    }
}
