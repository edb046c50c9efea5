//! Programs of `fixtures/servers/go/`, built by each Go toolchain that is there: Debian's, which has to be, and the one that others install.

use std::{
    io::{BufRead as _, BufReader, Lines, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use tracer_user::uprobe::{
    placement::Site,
    tls::{self, End},
};

/// Where toolchains are: Debian's `golang-go`, and where Go's own installation puts one.
const PLACES: [&str; 2] = ["/usr/bin/go", "/usr/local/go/bin/go"];

/// A toolchain.
#[derive(Debug)]
pub(super) struct Toolchain {
    program: PathBuf,
    /// Such as `go1.19.8`.
    pub(super) version: String,
}

/// Those of this machine, each once. The tests' output says which.
#[track_caller]
pub(super) fn toolchains() -> Vec<Toolchain> {
    let mut found: Vec<Toolchain> = Vec::new();
    for program in PLACES.map(PathBuf::from) {
        let Ok(output) = Command::new(&program).arg("version").env("GOTOOLCHAIN", "local").output() else {
            continue;
        };
        let text = String::from_utf8_lossy(&output.stdout);
        let version = text.split(' ').nth(2).unwrap_or_else(|| panic!("{program:?}: {text}")).to_owned();
        if found.iter().all(|other| other.version != version) {
            found.push(Toolchain { program, version });
        }
    }
    assert!(!found.is_empty(), "no Go is installed: apt-get install golang-go");
    println!("toolchains: {}", found.iter().map(|go| &*go.version).collect::<Vec<_>>().join(", "));
    found
}

/// Without symbols.
pub(super) const STRIPPED: &[&str] = &["-ldflags", "-s -w"];
/// Nothing put in place, nothing optimised.
pub(super) const PLAIN: &[&str] = &["-gcflags", "all=-N -l"];

impl Toolchain {
    /// Builds a program of the fixtures into a folder. What is compiled once is kept among the build's own files.
    #[track_caller]
    pub(super) fn build(&self, program: &str, flags: &[&str], folder: &Path) -> PathBuf {
        let source = format!("{}/../fixtures/servers/go/{program}", env!("CARGO_MANIFEST_DIR"));
        let out = folder.join(format!("{program}-{}", self.version));
        let mut command = Command::new(&self.program);
        command.args(["build", "-buildvcs=false"]).args(flags).arg("-o").arg(&out).arg(".");
        command.current_dir(source).env("GOCACHE", concat!(env!("CARGO_TARGET_TMPDIR"), "/go-build"));
        command.env("GOTOOLCHAIN", "local").env("GO111MODULE", "on").env("GOWORK", "off").env("GOFLAGS", "");
        let output = command.output().unwrap();
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        out
    }
}

/// Where probes go in a process's program of Go, and its path.
#[track_caller]
pub(super) fn places(pid: u32) -> (String, Vec<Site>) {
    let found = tls::of(Path::new("/proc"), pid).unwrap();
    let library = found.libraries.into_iter().find(|library| library.kind == "Go crypto/tls").unwrap();
    let mut sites: Vec<Site> = Vec::new();
    for function in library.functions {
        sites.extend(function.entry);
        match function.end {
            End::Copies(site, _) => sites.push(site),
            End::Sends(sends) => sites.extend(sends.into_iter().flat_map(|send| [send.call, send.behind])),
            End::Unneeded => {}
            end => panic!("{end:?}"),
        }
    }
    (library.path, sites)
}

/// A line of what a program says: side, id, status, bytes of the request's body and of the response's.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) side: String,
    pub(super) id: String,
    pub(super) status: i32,
    pub(super) request: u64,
    pub(super) response: u64,
}

/// The fixtures' program `https` at work; it ends with its standard input.
pub(super) struct Https {
    pub(super) child: Child,
    stdin: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Drop for Https {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Https {
    /// Server and clients in one process, on four threads at once.
    #[track_caller]
    pub(super) fn start(program: &Path, flags: &[&str], (certificate, key): (&Path, &Path)) -> Https {
        let mut command = Command::new(program);
        command.args(flags).arg("both").arg(certificate).arg(key).env("GOMAXPROCS", "4");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let stdin = child.stdin.take();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = lines.next().expect("it begins").unwrap();
        assert_eq!(line, "ready");
        Https { child, stdin, lines }
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks for `n` requests of each worker, and does not wait for them.
    pub(super) fn begin(&mut self, prefix: &str, n: usize) {
        let stdin = self.stdin.as_mut().expect("it was not ended");
        writeln!(stdin, "{prefix} {n}").unwrap();
    }

    /// The rows until the last request of [`Https::begin`] is answered.
    #[track_caller]
    pub(super) fn finish(&mut self, prefix: &str) -> Vec<Row> {
        let mut rows = Vec::new();
        for line in self.lines.by_ref() {
            let line = line.unwrap();
            if line == format!("done {prefix}") {
                return rows;
            }
            rows.push(row(&line));
        }
        panic!("it ended with {:?}", self.child.wait());
    }

    /// Both.
    #[track_caller]
    pub(super) fn ask(&mut self, prefix: &str, n: usize) -> Vec<Row> {
        self.begin(prefix, n);
        self.finish(prefix)
    }

    /// Lets it end; returns what it had left to say, and fails if it did not end well.
    #[track_caller]
    pub(super) fn end(&mut self) -> Vec<Row> {
        self.stdin = None;
        let rest = self.lines.by_ref().map(|line| row(&line.unwrap())).collect();
        assert!(self.child.wait().unwrap().success());
        rest
    }
}

#[track_caller]
fn row(line: &str) -> Row {
    let cells: Vec<&str> = line.split(' ').collect();
    let number =
        |at: usize| cells.get(at).and_then(|cell| cell.parse().ok()).unwrap_or_else(|| panic!("{line}"));
    Row {
        side: cells[0].to_owned(),
        id: cells[1].to_owned(),
        status: number(2) as i32,
        request: number(3),
        response: number(4),
    }
}
