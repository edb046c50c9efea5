//! TLS in running programs: libraries, under other names and without a name, inside programs, below another root.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;
use tracer_user::uprobe::{
    code::Step,
    elf::Elf,
    go::Functions,
    placement::Site,
    tls::{self, Copy, End, Library, ProcessTls},
};

use super::{LIBSSL, printed};

/// How long a program may take until its library is mapped; a guard, not a measurement.
const PATIENCE: Duration = Duration::from_secs(60);

/// A program that is ended when the test ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    fn new(command: &mut Command) -> Running {
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let name = command.get_program().to_owned();
        Running(
            command
                .spawn()
                .unwrap_or_else(|error| panic!("{name:?} is needed (`cargo xtask setup --tests`): {error}")),
        )
    }

    /// Whether it waits for something outside: what its loader maps one after the other is all there then. A loader that waits for a disk is
    /// in state D.
    fn is_waiting(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0.id())).unwrap();
        // The name before the state may hold anything, also parentheses.
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('S'))
    }

    /// What is found in it, as soon as it waits and there is such a library.
    #[track_caller]
    fn library(&mut self, kind: &str) -> (ProcessTls, Library) {
        let started = Instant::now();
        loop {
            let is_waiting = self.is_waiting();
            let tls = tls::of(Path::new("/proc"), self.0.id()).unwrap();
            if let Some(library) = tls.libraries.iter().find(|library| library.kind == kind).cloned()
                && is_waiting
            {
                return (tls, library);
            }
            assert!(started.elapsed() < PATIENCE, "no {kind}: {tls:#?}, {:?}", self.0.try_wait());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn names(library: &Library) -> Vec<&str> {
    library.functions.iter().map(|function| function.name.as_str()).collect()
}

const PYTHON: &str = "/usr/bin/python3";
const OPENSSL_FUNCTIONS: [&str; 8] = [
    "SSL_read",
    "SSL_read_ex",
    "SSL_write",
    "SSL_write_ex",
    "SSL_write_early_data",
    "SSL_sendfile",
    "SSL_do_handshake",
    "SSL_free",
];

fn python(code: &str) -> Running {
    Running::new(Command::new(PYTHON).args(["-c", code]))
}

/// Debian's own build: nothing but emulated places, and the return probes on what all of them call.
#[track_caller]
fn check_debians_openssl(library: &Library) {
    assert_eq!(names(library), OPENSSL_FUNCTIONS);
    let version = printed("openssl", &["version"]);
    assert_eq!(library.version.as_deref(), version.split_whitespace().nth(1), "{version}");
    let mut inner = Vec::new();
    for function in &library.functions {
        let entry = function.entry.as_ref().unwrap();
        assert_eq!((entry.step, entry.once), (Step::Emulated, true), "{function:?}");
        assert_eq!(function.file_offset + entry.into, entry.file_offset, "{function:?}");
        let (End::Inner(end) | End::InnerWithFlags(end) | End::ReturnProbe(end)) = &function.end else {
            panic!("{function:?}")
        };
        assert_eq!(end.step, Step::Emulated, "{function:?}");
        inner.push(end.file_offset);
    }
    assert_eq!(
        (inner[0], inner[2]),
        (inner[1], inner[3]),
        "both ways to read, and both to write, share a function"
    );
}

#[test]
fn pythons_ssl_is_openssl() {
    let mut python = python("import ssl, time; time.sleep(600)");
    let (tls, library) = python.library("OpenSSL");
    check_debians_openssl(&library);
    assert_eq!(tls.name, "python3");
    assert_eq!(tls.unreadable, Vec::<String>::new());
    assert!(tls.n_files > 5);
    let file = fs::canonicalize(LIBSSL).unwrap();
    assert_eq!(Path::new(&library.file), file);
    let notes = printed("readelf", &["-n", LIBSSL]);
    assert!(notes.contains(library.build_id.as_deref().unwrap()), "{notes}");
}

#[test]
fn a_library_is_found_under_another_name_and_after_it_was_deleted() {
    let folder = TempDir::new().unwrap();
    let (copy, link) = (folder.path().join("plugin.bin"), folder.path().join("link"));
    fs::copy(LIBSSL, &copy).unwrap();
    std::os::unix::fs::symlink(&copy, &link).unwrap();
    let code = format!("import ctypes, time; ctypes.CDLL({:?}); time.sleep(600)", link.to_str().unwrap());
    let mut python = python(&code);
    let (_, library) = python.library("OpenSSL");
    check_debians_openssl(&library);
    assert_eq!((Path::new(&library.file), library.deleted), (copy.as_path(), false));
    // Another file stands there now.
    fs::remove_file(&copy).unwrap();
    fs::write(&copy, "something else").unwrap();
    let (_, library) = python.library("OpenSSL");
    check_debians_openssl(&library);
    assert_eq!((Path::new(&library.file), library.deleted), (copy.as_path(), true));
    assert!(library.path.contains("/map_files/"), "{}", library.path);
}

/// A program with OpenSSL inside.
fn static_program(folder: &Path) -> PathBuf {
    let (source, program) = (folder.join("app.c"), folder.join("app"));
    fs::write(
        &source,
        "#include <openssl/ssl.h>\n#include <unistd.h>\n\
         int main(void) { SSL *s = SSL_new(SSL_CTX_new(TLS_client_method())); char b[1]; size_t n;\n\
         if (OpenSSL_version(0) == NULL) { SSL_read(s, b, 1); SSL_write(s, b, 1); SSL_read_ex(s, b, 1, &n); SSL_write_ex(s, b, 1, &n); }\n\
         for (;;) pause(); }\n",
    )
    .unwrap();
    let (source, out) = (source.to_str().unwrap(), program.to_str().unwrap());
    printed("gcc", &["-w", "-static", "-o", out, source, "-lssl", "-lcrypto"]);
    program
}

#[test]
fn openssl_is_found_inside_a_program_below_another_root() {
    let folder = TempDir::new().unwrap();
    let program = static_program(folder.path());
    let root = folder.path();
    // In its mount namespace paths are its own: those that maps show, too.
    let container = "mount --bind $1 $1 && cd $1 && mkdir old && pivot_root . old && exec /app";
    let mut container =
        Running::new(Command::new("unshare").args(["-m", "sh", "-c", container, "sh"]).arg(root));
    let (_, library) = container.library("OpenSSL");
    assert_eq!((library.file.as_str(), library.deleted), ("/app", false));
    assert_eq!(names(&library), OPENSSL_FUNCTIONS);
    // With another root alone maps show where it lies for who reads them.
    let mut running = Running::new(Command::new("chroot").arg(root).arg("/app"));
    let (_, library) = running.library("OpenSSL");
    assert_eq!((Path::new(&library.file), library.deleted), (program.as_path(), false));
    assert_eq!(names(&library), OPENSSL_FUNCTIONS);
    let by_nm = printed("nm", &[program.to_str().unwrap()]);
    let address = by_nm.lines().find(|line| line.ends_with(" T SSL_read")).unwrap();
    let address = u64::from_str_radix(address.split(' ').next().unwrap(), 16).unwrap();
    // Not position-independent: code is mapped at 0x400000.
    assert_eq!(library.functions[0].file_offset, address - 0x40_0000);
    assert_eq!(library.version.as_deref(), printed("openssl", &["version"]).split_whitespace().nth(1));
}

#[test]
fn a_stripped_program_is_told_to_hold_openssl_and_to_have_no_place() {
    let folder = TempDir::new().unwrap();
    let program = static_program(folder.path());
    let debug = folder.path().join("app.debug");
    let (path, debug) = (program.to_str().unwrap(), debug.to_str().unwrap());
    printed("objcopy", &["--only-keep-debug", path, debug]);
    printed("strip", &[path]);
    let (_, library) = Running::new(&mut Command::new(&program)).library("OpenSSL");
    assert_eq!(library.functions, []);
    assert!(library.note.as_deref().unwrap().contains("stripped"), "{library:?}");
    // Its symbols are beside it, and it says so.
    printed("objcopy", &[&format!("--add-gnu-debuglink={debug}"), path]);
    let (_, library) = Running::new(&mut Command::new(&program)).library("OpenSSL");
    assert_eq!(names(&library), OPENSSL_FUNCTIONS);
    // Another's are not taken.
    fs::write(debug, fs::read("/usr/bin/true").unwrap()).unwrap();
    let (_, library) = Running::new(&mut Command::new(&program)).library("OpenSSL");
    assert_eq!(library.functions, []);
}

#[test]
fn clients_of_gnutls_nss_and_openssl_are_told_apart() {
    // Accepts and says nothing, so that clients wait.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let mut gnutls = Running::new(Command::new("gnutls-cli").args(["-p", &port, "127.0.0.1"]));
    let (_, library) = gnutls.library("GnuTLS");
    assert_eq!(names(&library), ["gnutls_record_recv", "gnutls_record_send2"]);
    let version = printed("gnutls-cli", &["--version"]);
    assert_eq!(
        version.lines().next().unwrap().split(' ').next_back(),
        library.version.as_deref(),
        "{version}"
    );
    for function in &library.functions {
        assert_eq!(function.entry.as_ref().unwrap().step, Step::Emulated, "{function:?}");
    }

    let mut nss = Running::new(Command::new("tstclnt").args(["-D", "-h", "127.0.0.1", "-p", &port]));
    let (tls, library) = nss.library("NSS");
    assert_eq!(names(&library), ["ssl_SecureRecv", "ssl_SecureSend"]);
    assert!(library.file.contains("libssl3.so"), "{library:?}");
    assert!(library.version.as_deref().unwrap().starts_with("3."), "{library:?}");
    assert_eq!(tls.libraries.len(), 1, "{tls:?}");

    let mut curl =
        Running::new(Command::new("/usr/bin/curl").args(["-sk", &format!("https://127.0.0.1:{port}/")]));
    check_debians_openssl(&curl.library("OpenSSL").1);
}

#[test]
fn a_stripped_program_of_go_says_where_it_reads_and_writes() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("rest:http://{}/", listener.local_addr().unwrap());
    let mut restic = Running::new(
        Command::new("/usr/bin/restic").args(["-r", &url, "snapshots"]).env("RESTIC_PASSWORD", "x"),
    );
    let (_, library) = restic.library("Go crypto/tls");
    let version = printed("/usr/bin/restic", &["version"]);
    assert!(version.contains(&format!("with {} ", library.version.as_deref().unwrap())), "{version}");
    let mut expected = ["Read", "Write", "clientHandshake", "serverHandshake"]
        .map(|name| format!("crypto/tls.(*Conn).{name}"))
        .to_vec();
    // A program that serves nobody may lack its half.
    expected.truncate(library.functions.len().max(3));
    assert_eq!(names(&library), expected);
    for function in library.functions.iter().filter(|function| !function.name.ends_with("Write")) {
        assert_eq!(function.entry.as_ref().unwrap().step, Step::Emulated, "{function:?}");
    }
    // No symbols are left: objdump says what stands at the places, and where it leads.
    let file = fs::File::open("/usr/bin/restic").unwrap();
    let elf = Elf::parse(&file).unwrap();
    let functions = Functions::of(&elf).unwrap();
    let check = |site: &Site, called: &str| {
        let start = 0x40_0000 + site.file_offset;
        let range = [format!("--start-address={start}"), format!("--stop-address={}", start + 5)];
        let text = printed("objdump", &["-d", "--no-show-raw-insn", &range[0], &range[1], "/usr/bin/restic"]);
        // `46a360 <_cgo_topofstack@@Base+0xee0>`
        let target = text.lines().find_map(|line| line.split_once("call ")?.1.split_whitespace().next());
        let target = target.and_then(|target| u64::from_str_radix(target.trim_start_matches("0x"), 16).ok());
        let address = functions.named(called).unwrap().address;
        assert_eq!((target, site.step), (Some(address), Step::Emulated), "{text}");
    };
    let End::Copies(copy, Copy::Memmove) = &library.functions[0].end else { panic!("{library:#?}") };
    check(copy, "runtime.memmove");
    let End::Sends(sends) = &library.functions[1].end else { panic!("{library:#?}") };
    assert_eq!(sends.len(), 2);
    for send in sends {
        check(&send.call, "crypto/tls.(*Conn).writeRecordLocked");
        assert!((1..200).contains(&(send.behind.into - send.call.into)), "{send:?}");
        assert_eq!(send.behind.step, Step::Emulated, "{send:?}");
    }
}

#[test]
fn rustls_is_known_by_its_functions_or_by_what_it_left() {
    let folder = TempDir::new().unwrap();
    let (source, program) = (folder.path().join("main.rs"), folder.path().join("app"));
    let (from, out) = (source.to_str().unwrap(), program.to_str().unwrap());
    let build = |version: &str, mangling: &[&str]| {
        // Not rustls, but names as the compiler makes them for it.
        let text = "pub mod crypto { pub mod cipher {\n\
             pub trait MessageEncrypter { fn encrypt(&mut self, m: [u8; 40], n: u64) -> [u8; 40]; }\n\
             pub trait MessageDecrypter { fn decrypt(&mut self, m: [u8; 40], n: u64) -> [u8; 40]; }\n\
             pub struct InvalidMessageEncrypter; impl MessageEncrypter for InvalidMessageEncrypter {\n\
             fn encrypt(&mut self, m: [u8; 40], _: u64) -> [u8; 40] { m } } }\n\
             pub mod ring { use super::cipher::*; pub struct Keys(pub u64);\n\
             impl MessageEncrypter for Keys { fn encrypt(&mut self, mut m: [u8; 40], n: u64) -> [u8; 40] {\n\
             println!(\"{n}\"); m[0] = self.0 as u8; m } }\n\
             impl MessageDecrypter for Keys { fn decrypt(&mut self, mut m: [u8; 40], n: u64) -> [u8; 40] {\n\
             println!(\"{n}\"); m[1] = self.0 as u8; m } } } }\n\
             use crypto::{cipher::*, ring::Keys}; fn main() {\n\
             let mut all: Vec<Box<dyn MessageEncrypter>> = vec![Box::new(Keys(1)), Box::new(InvalidMessageEncrypter)];\n\
             let mut other: Box<dyn MessageDecrypter> = Box::new(Keys(2));\n\
             for (n, one) in all.iter_mut().enumerate() { other.decrypt(one.encrypt([0; 40], n as u64), 1); }\n\
             println!(\"/x/rustls-VERSION/src/check.rs\"); loop { std::thread::park(); } }\n";
        fs::write(&source, text.replace("VERSION", version)).unwrap();
        let flags = ["--edition", "2021", "--crate-name", "rustls", "-Cstrip=none", "-o", out, from];
        printed("rustc", &[&flags, mangling].concat());
    };
    let look = || Running::new(&mut Command::new(&program)).library("rustls").1;
    // Stable compilers have the older mangling of their own accord.
    for mangling in [&[][..], &["-Csymbol-mangling-version=v0"]] {
        build("0.23.37", mangling);
        let library = look();
        assert_eq!(
            names(&library),
            [
                "<rustls::crypto::ring::Keys as rustls::crypto::cipher::MessageEncrypter>::encrypt",
                "<rustls::crypto::ring::Keys as rustls::crypto::cipher::MessageDecrypter>::decrypt"
            ]
        );
        assert_eq!((library.version.as_deref(), &library.note), (Some("0.23.37"), &None));
    }
    printed("strip", &[out]);
    let library = look();
    assert_eq!((names(&library).len(), library.version.as_deref()), (0, Some("0.23.37")));
    assert!(library.note.as_deref().unwrap().contains("stripped"), "{library:?}");
    // Of another version the structures are not known.
    build("0.22.4", &[]);
    let library = look();
    assert_eq!((names(&library).len(), library.version.as_deref()), (0, Some("0.22.4")));
    assert!(library.note.as_deref().unwrap().contains("0.23.*"), "{library:?}");
}

#[test]
fn a_process_without_tls_has_none() {
    let shell = Running::new(Command::new("/bin/sh").args(["-c", "read line"]));
    // Before it has executed it is a copy of this test, and then for a moment a program without its libraries.
    let started = Instant::now();
    let tls = loop {
        let tls = tls::of(Path::new("/proc"), shell.0.id()).unwrap();
        if (tls.name == "sh" && tls.n_files > 1) || started.elapsed() > PATIENCE {
            break tls;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    assert_eq!((tls.libraries, tls.unreadable), (vec![], vec![]));
}
