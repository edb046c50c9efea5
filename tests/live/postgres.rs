//! PostgreSQL 15 and its own clients: every statement that it counted is a transaction, with its rows.

use std::{
    collections::BTreeMap,
    fs,
    net::{TcpListener, TcpStream},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rstest::rstest;
use tempfile::TempDir;

use super::{
    Hooks, machine,
    process::{Process, wait_for},
    tool,
    tracer::{Capture, Tracer},
};

/// A server of its own, run by Debian's user for it: it refuses root.
struct Postgres {
    process: Process,
    port: u16,
    folder: TempDir,
}

impl Postgres {
    #[track_caller]
    fn start() -> Postgres {
        let programs = PathBuf::from("/usr/lib/postgresql/15/bin");
        assert!(programs.join("postgres").is_file(), "apt-get install postgresql");
        let passwd = fs::read_to_string("/etc/passwd").unwrap();
        let user = passwd.lines().find(|line| line.starts_with("postgres:")).expect("the user postgres");
        let ids: Vec<u32> = user.split(':').skip(2).take(2).map(|id| id.parse().unwrap()).collect();
        let folder = TempDir::new().unwrap();
        std::os::unix::fs::chown(folder.path(), Some(ids[0]), Some(ids[1])).unwrap();
        let data = folder.path().join("data");
        let run = |program: &str| {
            let mut command = Command::new(programs.join(program));
            command.uid(ids[0]).gid(ids[1]).current_dir(folder.path()).env("HOME", folder.path());
            command.stdout(Stdio::null()).arg("-D").arg(&data);
            command
        };
        let made =
            run("initdb").args(["-A", "trust", "-U", "postgres", "-N", "--no-locale", "-E", "UTF8"]).status();
        assert!(made.unwrap().success(), "initdb");
        // Free a moment ago: the server cannot be asked to choose one.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = run("postgres");
        command.args(["-p", &port.to_string(), "-k", folder.path().to_str().unwrap()]);
        command.stderr(Stdio::null());
        for setting in
            ["listen_addresses=127.0.0.1", "fsync=off", "shared_preload_libraries=pg_stat_statements"]
        {
            command.args(["-c", setting]);
        }
        let process = Process::spawn(&mut command);
        wait_for("postgres to listen", || TcpStream::connect(("127.0.0.1", port)).ok());
        let server = Postgres { process, port, folder };
        wait_for("postgres to be ready", || server.psql(&["-c", "SELECT 1"]).0.then_some(()));
        assert!(server.psql(&["-c", "CREATE EXTENSION pg_stat_statements"]).0);
        assert!(server.psql(&["-c", "CREATE TABLE items (id int PRIMARY KEY, name text)"]).0);
        assert!(
            server.psql(&["-c", "INSERT INTO items SELECT i, 'item ' || i FROM generate_series(1, 20) i"]).0
        );
        assert!(server.psql(&["-c", "SELECT pg_stat_statements_reset()"]).0);
        server
    }

    fn client(&self, program: &str, socket: bool) -> Command {
        let mut command = Command::new(tool(program, "postgresql-client-15"));
        let host = if socket { self.folder.path().to_str().unwrap() } else { "127.0.0.1" };
        command.env("PGHOST", host).env("PGPORT", self.port.to_string()).env("PGUSER", "postgres");
        command.env("PGDATABASE", "postgres").stderr(Stdio::null()).stdin(Stdio::null());
        command
    }

    fn psql(&self, arguments: &[&str]) -> (bool, String) {
        let output =
            self.client("psql", false).args(["-X", "-q", "-A", "-t"]).args(arguments).output().unwrap();
        (output.status.success(), String::from_utf8(output.stdout).unwrap())
    }

    /// Calls and rows by the first word of the statement, as the server counted them.
    fn counted(&self) -> BTreeMap<String, (u64, u64)> {
        let (_, text) = self.psql(&[
            "-c",
            "SELECT upper(split_part(query, ' ', 1)), sum(calls), sum(rows) FROM pg_stat_statements \
             WHERE query LIKE '%items%' GROUP BY 1",
        ]);
        text.lines()
            .map(|line| {
                let fields: Vec<&str> = line.split('|').collect();
                (fields[0].to_owned(), (fields[1].parse().unwrap(), fields[2].parse().unwrap()))
            })
            .collect()
    }
}

/// Calls and rows of one role by the first word of the operation.
fn seen(capture: &Capture, role: &str) -> BTreeMap<String, (u64, u64)> {
    let mut seen: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for transaction in capture.role(role) {
        if !transaction.target.as_deref().is_some_and(|target| target.contains("items"))
            || transaction.operation.starts_with("PREPARE")
        {
            continue;
        }
        assert_eq!(transaction.protocol, "postgres");
        assert_eq!(
            (&*transaction.end, &*transaction.confidence),
            ("answered", "complete"),
            "{transaction:?}"
        );
        assert_eq!(transaction.namespace.as_deref(), Some("postgres"), "{transaction:?}");
        assert!(!transaction.error, "{transaction:?}");
        let verb = transaction.operation.split(' ').next().unwrap_or_default().to_owned();
        let sums = seen.entry(verb).or_default();
        sums.0 += 1;
        sums.1 += transaction.rows.unwrap_or(0);
    }
    seen
}

fn script(folder: &Path, text: &str) -> PathBuf {
    let path = folder.join("script.sql");
    fs::write(&path, text).unwrap();
    path
}

#[rstest]
fn pgbench_and_the_servers_own_counts_agree(
    #[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks,
    #[values("simple", "extended", "prepared", "pipelined")] mode: &str,
) {
    let _machine = machine();
    let server = Postgres::start();
    let statements = "SELECT name FROM items WHERE id <= :i;\nUPDATE items SET name = 'x' WHERE id = :i;\n";
    let text = match mode {
        "pipelined" => format!("\\set i random(1, 20)\n\\startpipeline\n{statements}\\endpipeline\n"),
        _ => format!("\\set i random(1, 20)\n{statements}"),
    };
    let path = script(server.folder.path(), &text);
    let tracer = Tracer::start(hooks, &[server.process.pid()]);
    let mut pgbench = server.client("pgbench", mode == "prepared");
    let protocol = if mode == "pipelined" { "extended" } else { mode };
    pgbench.args(["-n", "-M", protocol, "-c", "2", "-t", "100", "-f"]).arg(&path).stdout(Stdio::null());
    assert!(pgbench.status().unwrap().success(), "pgbench");
    let capture = tracer.stop();
    let counted = server.counted();
    assert_eq!(counted.get("SELECT").map(|sums| sums.0), Some(200), "{counted:?}");
    assert_eq!(seen(&capture, "server"), counted, "{:?}", capture.summary);
}

#[rstest]
fn errors_have_their_sqlstate_and_copies_their_rows(#[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks) {
    let _machine = machine();
    let server = Postgres::start();
    let tracer = Tracer::start(hooks, &[server.process.pid()]);
    server.psql(&[
        "-c",
        "SELECT 1/0",
        "-c",
        "SELECT 'secret' FROM nowhere",
        "-c",
        "COPY items TO STDOUT",
        "-c",
        "LISTEN jobs",
        "-c",
        "NOTIFY jobs",
    ]);
    let capture = tracer.stop();
    let found: Vec<_> = capture
        .role("server")
        .iter()
        .map(|transaction| (transaction.operation.clone(), transaction.error_type.clone(), transaction.rows))
        .collect();
    let expected: Vec<(String, Option<String>, Option<u64>)> = [
        ("startup", None, None),
        ("SELECT", Some("22012"), None),
        ("SELECT nowhere", Some("42P01"), None),
        ("COPY items", None, Some(20)),
        ("LISTEN jobs", None, None),
        ("NOTIFY jobs", None, None),
        ("NOTIFY jobs", None, None),
    ]
    .map(|(operation, error, rows)| (operation.to_owned(), error.map(str::to_owned), rows))
    .to_vec();
    let sorted = |mut rows: Vec<_>| {
        rows.sort();
        rows
    };
    assert_eq!(sorted(found), sorted(expected));
    assert!(!capture.stdout.contains("secret"));
}
