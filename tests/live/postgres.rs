//! PostgreSQL 15 and its own clients: every statement that it counted or logged is a transaction, with its rows and its SQLSTATE.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fs::{self, File},
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rstest::rstest;
use tempfile::TempDir;

use super::{
    Hooks,
    check::check_order_and_sums,
    machine,
    process::{Process, wait_for},
    template, tool,
    tracer::{Capture, Tracer, Transaction},
};

/// Where Debian keeps the programs themselves: what is in the PATH is a script around them.
const PROGRAMS: &str = "/usr/lib/postgresql/15/bin";
/// A user who needs a password.
const GUEST: &str = "guest";

const INITDB: [&str; 8] = ["-A", "trust", "-U", "postgres", "-N", "--no-locale", "-E", "UTF8"];
const PRELOAD: &str = "shared_preload_libraries=pg_stat_statements";
/// The database, a statement a line; [`GUEST`]'s password is `right`.
const SETUP: &str = "CREATE EXTENSION pg_stat_statements;
CREATE TABLE items (id int PRIMARY KEY, name text);
INSERT INTO items SELECT i, 'item ' || i FROM generate_series(1, 20) i;
CREATE USER guest PASSWORD 'right';
";

/// A server of its own, run by Debian's user for it: it refuses root.
pub(super) struct Postgres {
    process: Process,
    pub(super) port: u16,
    folder: TempDir,
}

impl Postgres {
    #[track_caller]
    pub(super) fn start() -> Postgres {
        Postgres::start_with(|_| Vec::new(), None)
    }

    /// With settings, for which the folder of its data is given, and libraries of its own.
    #[track_caller]
    pub(super) fn start_with(settings: impl Fn(&Path) -> Vec<String>, libraries: Option<&Path>) -> Postgres {
        let programs = PathBuf::from(PROGRAMS);
        assert!(programs.join("postgres").is_file(), "apt-get install postgresql");
        let passwd = fs::read_to_string("/etc/passwd").unwrap();
        let user = passwd.lines().find(|line| line.starts_with("postgres:")).expect("the user postgres");
        let ids: Vec<u32> = user.split(':').skip(2).take(2).map(|id| id.parse().unwrap()).collect();
        let folder = TempDir::new().unwrap();
        std::os::unix::fs::chown(folder.path(), Some(ids[0]), Some(ids[1])).unwrap();
        let data = folder.path().join("data");
        let run = |program: &str, first: &[&str], data: &Path| {
            let mut command = Command::new(programs.join(program));
            let above = data.parent().unwrap();
            command.uid(ids[0]).gid(ids[1]).current_dir(above).env("HOME", above);
            command.stdout(Stdio::null()).args(first).arg("-D").arg(data);
            command
        };
        let version = Command::new(programs.join("postgres")).arg("--version").output().unwrap();
        let recipe = format!("{INITDB:?} {SETUP:?} {}", String::from_utf8_lossy(&version.stdout));
        template::copy("postgres", &recipe, &data, |data| {
            std::os::unix::fs::chown(data.parent().unwrap(), Some(ids[0]), Some(ids[1])).unwrap();
            assert!(run("initdb", &[], data).args(INITDB).status().unwrap().success(), "initdb");
            // Alone, it runs what it is given on its standard input, a statement a line, and ends. It wants `--single` first.
            let mut alone = run("postgres", &["--single"], data);
            alone.args(["-c", "fsync=off", "-c", PRELOAD, "postgres"]).stdin(Stdio::piped());
            let mut alone = alone.spawn().unwrap();
            alone.stdin.take().unwrap().write_all(SETUP.as_bytes()).unwrap();
            assert!(alone.wait().unwrap().success(), "the database was not made");
        });
        // The first line that fits counts.
        let access = fs::read_to_string(data.join("pg_hba.conf")).unwrap();
        let guests = format!("host all {GUEST} 127.0.0.1/32 scram-sha-256\n{access}");
        fs::write(data.join("pg_hba.conf"), guests).unwrap();
        // Free a moment ago: the server cannot be asked to choose one.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = run("postgres", &[], &data);
        command.envs(libraries.map(|libraries| ("LD_LIBRARY_PATH", libraries)));
        for setting in settings(&data) {
            command.args(["-c", &setting]);
        }
        command.args(["-p", &port.to_string(), "-k", folder.path().to_str().unwrap()]);
        command.stderr(File::create(folder.path().join("log")).unwrap());
        let usual = "listen_addresses=127.0.0.1 fsync=off log_statement=all log_replication_commands=on log_connections=on \
                     log_disconnections=on";
        for setting in usual.split_whitespace().chain([PRELOAD, "log_line_prefix=%p %e "]) {
            command.args(["-c", setting]);
        }
        let process = Process::spawn(&mut command);
        wait_for("postgres to listen", || TcpStream::connect(("127.0.0.1", port)).ok());
        let server = Postgres { process, port, folder };
        wait_for("postgres to be ready", || server.psql(&["-c", "SELECT 1"]).0.then_some(()));
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

/// What a client did, and what was seen of it at both ends.
struct Ran {
    capture: Capture,
    log: String,
    said: String,
    code: Option<i32>,
}

impl Postgres {
    fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.folder.path().join("log")).unwrap()).into_owned()
    }

    /// One of PostgreSQL's own programs, as a client of this server.
    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(Path::new(PROGRAMS).join(name));
        command.envs(self.client("psql", false).get_envs().filter_map(|(name, value)| Some((name, value?))));
        command
    }

    /// A scenario of the client that writes messages by hand.
    fn by_hand(&self, scenario: &str) -> Command {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/servers/postgres_client.py");
        let mut command = Command::new(tool("python3", "python3"));
        command.arg(script).args([&self.port.to_string(), scenario]);
        command
    }

    /// A client, ready to be traced; it begins with a line.
    fn waiting(&self, client: &Command) -> Process {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "read go; exec \"$@\"", "sh"]).arg(client.get_program()).args(client.get_args());
        command.envs(client.get_envs().filter_map(|(name, value)| Some((name, value?))));
        Process::spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()))
    }

    /// Runs a client under the tracer, both ends of it; `meanwhile` happens once it runs.
    #[track_caller]
    fn trace(&self, hooks: Hooks, client: &Command, meanwhile: impl FnOnce(&Process)) -> Ran {
        let mut process = self.waiting(client);
        self.settle();
        let from = self.log().len();
        let tracer = Tracer::start(hooks, &[self.process.pid(), process.pid()]);
        process.child.stdin.take().unwrap().write_all(b"go\n").unwrap();
        meanwhile(&process);
        let (mut said, mut complained) = (String::new(), String::new());
        process.child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        process.child.stderr.take().unwrap().read_to_string(&mut complained).unwrap();
        let code = process.wait("the client");
        self.settle();
        let capture = tracer.stop();
        let log = self.log().split_off(from);
        Ran { capture, log, said: said + &complained, code }
    }

    /// Waits until every session has ended.
    #[track_caller]
    fn settle(&self) {
        wait_for("the end of all sessions", || {
            let log = self.log();
            let pids = |what: &str| -> BTreeSet<String> {
                let lines = log.lines().filter(|line| line.contains(what));
                lines.filter_map(|line| Some(line.split_once(' ')?.0.to_owned())).collect()
            };
            // Who is refused although authorized (no such database) is not said to disconnect.
            let ended = &pids(" disconnection: ") | &pids(" FATAL: ");
            pids(" connection authorized: ").is_subset(&ended).then_some(())
        });
    }
}

/// What one server process logged: first words of what it executed, and the SQLSTATEs of its errors.
#[derive(Debug, Default)]
struct Logged {
    executed: VecDeque<String>,
    errors: Vec<String>,
}

impl Ran {
    fn logged(&self) -> BTreeMap<u32, Logged> {
        let mut logged: BTreeMap<u32, Logged> = BTreeMap::new();
        for line in self.log.lines() {
            let mut words = line.splitn(4, ' ');
            let (Some(Ok(pid)), Some(code), Some(level), Some(text)) =
                (words.next().map(str::parse), words.next(), words.next(), words.next())
            else {
                continue;
            };
            let one: &mut Logged = logged.entry(pid).or_default();
            match level {
                "ERROR:" | "FATAL:" => one.errors.push(code.to_owned()),
                "LOG:" => {
                    let text = text.trim_start();
                    let statement = text
                        .strip_prefix("statement: ")
                        .or_else(|| text.strip_prefix("received replication command: "))
                        .or_else(|| {
                            text.strip_prefix("execute ").and_then(|rest| Some(rest.split_once(": ")?.1))
                        })
                        .or_else(|| text.strip_prefix("fastpath ").map(|_| "FUNCTION"));
                    let word = statement.and_then(|text| text.split([' ', ';']).next());
                    one.executed.extend(word.map(str::to_uppercase));
                }
                _ => {}
            }
        }
        logged
    }

    /// Transactions of one role, in the order of their connections and beginnings.
    fn role(&self, role: &str) -> Vec<&Transaction> {
        let mut transactions = self.capture.role(role);
        transactions.sort_by_key(|one| {
            let ordinal = one.id.rsplit('-').next().and_then(|text| text.parse::<u64>().ok());
            (one.client_port, one.conn_id.clone(), ordinal)
        });
        transactions
    }

    /// Both ends tell the same, nothing was lost, and each server process did what it logged, in that order.
    #[track_caller]
    fn check(&self) {
        check_order_and_sums(&self.capture);
        let (servers, clients) = (self.role("server"), self.role("client"));
        let says = |one: &&Transaction| {
            let what = (one.operation.clone(), one.target.clone(), one.namespace.clone(), one.kind.clone());
            let how = (one.error_type.clone(), one.rows, one.request_bytes, one.response_bytes);
            (what, how, one.client_port, one.end.clone(), one.confidence.clone())
        };
        let [server, client] = [&servers, &clients].map(|all| all.iter().map(says).collect::<Vec<_>>());
        assert_eq!(server, client, "server and client");
        let logged = self.logged();
        let mut by_pid: BTreeMap<u32, Vec<&Transaction>> = BTreeMap::new();
        for one in servers {
            assert_eq!((one.protocol.as_str(), one.confidence.as_str()), ("postgres", "complete"), "{one:?}");
            assert!(one.end == "answered" || one.kind != "request", "{one:?}");
            by_pid.entry(one.pid).or_default().push(one);
        }
        for (pid, Logged { executed, errors }) in &logged {
            let seen = by_pid.get(pid).map(Vec::as_slice).unwrap_or_default();
            check_process(seen, executed.clone(), errors.clone());
        }
        assert!(by_pid.keys().all(|pid| logged.contains_key(pid)), "a process that logged nothing");
        assert!(!self.capture.stdout.contains("secret"), "a value is shown");
        let lost = self.capture.summary.lost.values().sum::<u64>();
        assert_eq!((lost, self.capture.summary.lost_requests.high), (0, 0), "{:?}", self.capture.summary);
        assert!(self.capture.summary.unpaired.values().all(|n| *n == 0), "{:?}", self.capture.summary);
    }

    /// Operation, rows and error of each transaction of a role.
    fn outcomes(&self, role: &str) -> Vec<(&str, Option<u64>, Option<&str>)> {
        self.role(role).iter().map(|one| outcome(one)).collect()
    }
}

fn outcome(one: &Transaction) -> (&str, Option<u64>, Option<&str>) {
    (one.operation.as_str(), one.rows, one.error_type.as_deref())
}

/// Each execution that was logged is a transaction, in that order; what is more was refused before it was executed, or is none.
#[track_caller]
fn check_process(seen: &[&Transaction], mut executed: VecDeque<String>, mut errors: Vec<String>) {
    let mut told: Vec<String> = Vec::new();
    for one in seen {
        let operation = one.operation.as_str();
        told.extend(one.error_type.clone().filter(|error| error != "pipeline_aborted"));
        let word = operation.split(' ').next().unwrap_or_default();
        let is_other = matches!(word, "startup" | "PREPARE" | "DESCRIBE" | "CLOSE" | "CANCEL");
        if is_other || one.kind == "message" || one.error_type.as_deref() == Some("pipeline_aborted") {
            continue;
        }
        let is_next = executed.front().is_some_and(|next| next == word || word == "EXECUTE");
        assert!(is_next || one.error, "not what was executed next ({:?}): {one:?}", executed.front());
        if is_next {
            executed.pop_front();
        }
    }
    assert!(executed.is_empty(), "{executed:?} was executed and not seen: {seen:?}");
    told.sort();
    errors.sort();
    assert_eq!(told, errors, "SQLSTATEs");
}

#[rstest]
fn psql_and_the_server_tell_the_same(#[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks) {
    let _machine = machine();
    let server = Postgres::start();
    let rows = server.folder.path().join("rows");
    fs::write(&rows, "300\tsecret\n301\tsecret\n302\tsecret\n").unwrap();
    let bad = server.folder.path().join("bad");
    fs::write(&bad, "303\tsecret\nsecret\tsecret\n").unwrap();
    let mut psql = server.program("psql");
    psql.args(["-X", "-q", "-A", "-t"]);
    for statement in [
        "SELECT name FROM items WHERE id <= 7",
        "SELECT nothing FROM items WHERE name = 'secret'",
        "SELECT 'secret' FROM; SELECT 1",
        "BEGIN",
        "INSERT INTO items VALUES (400, 'secret'), (401, 'secret')",
        "INSERT INTO items VALUES (401, 'secret')",
        "COMMIT",
        &format!("\\copy items FROM '{}'", rows.display()),
        &format!("\\copy items FROM '{}'", bad.display()),
        "\\copy items TO '/dev/null'",
        "DELETE FROM items WHERE id >= 300; SELECT 1 / 0",
    ] {
        psql.args(["-c", statement]);
    }
    let ran = server.trace(hooks, &psql, |_| {});
    let expected = [
        ("startup", None, None),
        ("SELECT items", Some(7), None),
        ("SELECT items", None, Some("42703")),
        ("SELECT; SELECT", None, Some("42601")),
        ("BEGIN", None, None),
        ("INSERT items", Some(2), None),
        ("INSERT items", None, Some("23505")),
        ("COMMIT", None, None),
        ("COPY items", Some(3), None),
        ("COPY items", None, Some("22P02")),
        ("COPY items", Some(23), None),
        // Rolled back, and still what the server said of the first of the two.
        ("DELETE items; SELECT", Some(3), Some("22012")),
    ];
    assert_eq!(ran.outcomes("client"), expected, "{}\n{}", ran.said, ran.log);
    ran.check();
}

#[rstest]
fn pgbench_as_a_client(
    #[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks,
    #[values("simple", "extended", "prepared")] mode: &str,
) {
    let _machine = machine();
    let server = Postgres::start();
    let path = script(
        server.folder.path(),
        "\\set i random(1, 20)\n\\startpipeline\nSELECT name FROM items WHERE id <= :i;\nUPDATE items SET name = 'x' WHERE id = :i;\n\\endpipeline\nSELECT 1 FROM items WHERE id = :i;\n",
    );
    if mode == "simple" {
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace("\\startpipeline\n", "").replace("\\endpipeline\n", "")).unwrap();
    }
    let mut pgbench = server.program("pgbench");
    pgbench.args(["-n", "-M", mode, "-c", "2", "-t", "60", "-f"]).arg(&path);
    let ran = server.trace(hooks, &pgbench, |_| {});
    assert_eq!(ran.code, Some(0), "{}", ran.said);
    ran.check();
    assert_eq!(seen(&ran.capture, "client"), server.counted());
    let n_executed: usize = ran.logged().values().map(|one| one.executed.len()).sum();
    assert_eq!(n_executed, 3 * 2 * 60);
}

#[rstest]
fn errors_in_the_middle_of_pipelines(#[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks) {
    let _machine = machine();
    let server = Postgres::start();
    let ran = server.trace(hooks, &server.by_hand("pipeline"), |_| {});
    assert_eq!(ran.code, Some(0), "{}", ran.said);
    let aborted = Some("pipeline_aborted");
    let expected = [
        ("startup", None, None),
        ("CREATE TABLE later", None, None),
        ("PREPARE INSERT items", None, None),
        ("INSERT items", Some(1), None),
        ("INSERT items", None, Some("23505")),
        ("INSERT items", None, aborted),
        ("SELECT items", None, aborted),
        ("INSERT items", Some(1), None),
        ("INSERT items", Some(1), None),
        ("SELECT items", None, Some("42703")),
        ("INSERT items", None, aborted),
        // The error of the commit, which the Sync is.
        ("INSERT later", Some(2), Some("23505")),
        ("INSERT items", Some(1), None),
        ("DELETE items", Some(2), None),
    ];
    assert_eq!(ran.outcomes("server"), expected, "{}", ran.log);
    ran.check();
}

#[rstest]
fn portals_function_calls_and_copies_by_hand(#[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks) {
    let _machine = machine();
    let server = Postgres::start();
    let of = |scenario: &str, expected: &[(&str, Option<u64>, Option<&str>)]| {
        let ran = server.trace(hooks, &server.by_hand(scenario), |_| {});
        assert_eq!(ran.code, Some(0), "{}", ran.said);
        assert_eq!(ran.outcomes("server"), expected, "{}", ran.log);
        ran.check();
    };
    let startup = ("startup", None, None);
    let portal = [
        startup,
        ("BEGIN", None, None),
        ("SELECT items", Some(5), None),
        ("SELECT items", Some(5), None),
        ("SELECT items", Some(2), None),
        ("CLOSE", None, None),
        ("COMMIT", None, None),
    ];
    of("portal", &portal);
    let function = [
        startup,
        ("BEGIN", None, None),
        ("FUNCTION CALL", None, None),
        ("FUNCTION CALL", None, Some("42883")),
        ("ROLLBACK", None, None),
    ];
    of("function", &function);
    let copy = [
        startup,
        ("COPY items", Some(3), None),
        ("COPY items", None, Some("57014")),
        ("COPY items", None, Some("22P02")),
        ("COPY SELECT items", Some(3), None),
        ("COPY items", Some(1), None),
        ("DELETE items", Some(4), None),
    ];
    of("copy", &copy);
}

#[rstest]
fn a_query_that_is_cancelled(
    #[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks,
    #[values("psql", "by hand")] client: &str,
) {
    let _machine = machine();
    let server = Postgres::start();
    let ran = match client {
        "psql" => {
            let mut psql = server.program("psql");
            psql.args(["-X", "-c", "SELECT pg_sleep(100), 'secret' FROM items", "-c", "SELECT 1 FROM items"]);
            server.trace(hooks, &psql, |process| {
                wait_for("the query to run", || {
                    let running = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
                    (server.psql(&["-c", running]).1 == "1\n").then_some(())
                });
                process.signal(libc::SIGINT);
            })
        }
        _ => server.trace(hooks, &server.by_hand("cancel"), |_| {}),
    };
    for role in ["server", "client"] {
        let all = ran.role(role);
        let cancels: Vec<_> = all.iter().filter(|one| one.operation == "CANCEL").collect();
        let [cancel] = cancels[..] else { panic!("{} cancel requests in {all:?}", cancels.len()) };
        assert_eq!((cancel.kind.as_str(), cancel.request_bytes), ("message", 16), "{cancel:?}");
        let cancelled: Vec<_> = all.iter().filter(|one| one.error).collect();
        let [cancelled] = cancelled[..] else { panic!("{} errors in {all:?}", cancelled.len()) };
        assert_eq!(outcome(cancelled), ("SELECT items", None, Some("57014")));
        assert_eq!(cancelled.target.as_deref(), Some("SELECT pg_sleep(?), ? FROM items"));
        assert_ne!(cancel.conn_id, cancelled.conn_id);
        // The session goes on.
        let next = all.iter().find(|one| {
            one.conn_id == cancelled.conn_id
                && one.start_time_ns > cancelled.start_time_ns
                && one.rows == Some(20)
        });
        assert!(next.is_some() || client == "psql", "{all:?}");
    }
    if client != "psql" {
        // psql's side of the sessions that looked whether it runs is not traced.
        ran.check();
    }
}

#[rstest]
fn notifications_of_another_session(#[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks) {
    let _machine = machine();
    let server = Postgres::start();
    let ran = server.trace(hooks, &server.by_hand("listen"), |_| {});
    assert_eq!(ran.code, Some(0), "{}", ran.said);
    ran.check();
    for role in ["server", "client"] {
        let of_kind = |kind: &str| {
            let all = ran.role(role);
            let operations = all.iter().filter(|one| one.kind == kind).map(|one| one.operation.clone());
            let mut operations: Vec<_> = operations.collect();
            operations.sort();
            operations
        };
        assert_eq!(of_kind("message"), ["NOTIFY jobs"; 3]);
        let notify = "NOTIFY jobs";
        let expected = ["LISTEN jobs", notify, notify, notify, notify, "UNLISTEN jobs", "startup", "startup"];
        assert_eq!(of_kind("request"), expected);
    }
}

#[rstest]
fn attached_in_the_middle(#[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks) {
    let _machine = machine();
    let server = Postgres::start();
    let mut command = server.by_hand("prepared");
    let mut client = Process::spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
    let mut line = String::new();
    BufReader::new(client.child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "half\n");
    let tracer = Tracer::start(hooks, &[server.process.pid(), client.pid()]);
    client.child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    assert_eq!(client.wait("the client"), Some(0));
    server.settle();
    let ran = Ran { capture: tracer.stop(), log: server.log(), said: String::new(), code: None };
    check_order_and_sums(&ran.capture);
    // What was prepared unseen has no name; what is prepared now has.
    let expected: Vec<_> = std::iter::repeat_n(("EXECUTE", Some(1), None), 10)
        .chain([("DESCRIBE", None, None), ("PREPARE UPDATE items", None, None)])
        .chain(std::iter::repeat_n(("UPDATE items", Some(1), None), 5))
        .chain([("EXECUTE", None, Some("26000")), ("SELECT items", Some(1), None)])
        .collect();
    for role in ["server", "client"] {
        assert_eq!(ran.outcomes(role), expected, "{role}: {:?}", ran.capture.summary);
        for one in ran.role(role) {
            assert_eq!((one.end.as_str(), one.namespace.as_deref()), ("answered", None), "{one:?}");
        }
    }
    assert!(!ran.capture.stdout.contains("secret"));
}

#[rstest]
fn sessions_that_are_refused(#[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks) {
    let _machine = machine();
    let server = Postgres::start();
    assert!(server.psql(&["-c", "CREATE USER crowd CONNECTION LIMIT 0"]).0);
    let refused = [
        (GUEST, "wrong-secret", "postgres", Some("28P01"), 2),
        (GUEST, "right", "postgres", None, 0),
        ("nobody", "", "postgres", Some("28000"), 2),
        ("crowd", "", "postgres", Some("53300"), 2),
        ("postgres", "", "nowhere", Some("3D000"), 2),
    ];
    for (user, password, database, error, code) in refused {
        let mut psql = server.program("psql");
        psql.env("PGUSER", user).env("PGPASSWORD", password).env("PGDATABASE", database);
        psql.args(["-X", "-c", "SELECT 'secret'"]);
        let ran = server.trace(hooks, &psql, |_| {});
        assert_eq!(ran.code, Some(code), "{}", ran.said);
        let mut expected = vec![("startup", None, error)];
        expected.extend(error.is_none().then_some(("SELECT", Some(1), None)));
        assert_eq!(ran.outcomes("client"), expected, "{user}: {}", ran.log);
        assert!(ran.role("client").iter().all(|one| one.namespace.as_deref() == Some(database)));
        ran.check();
    }
}

#[rstest]
fn replication_is_long_lived(#[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks) {
    let _machine = machine();
    let server = Postgres::start();
    let folder = TempDir::new().unwrap();
    let mut receiver = server.program("pg_receivewal");
    receiver.args(["--no-loop", "-s", "1", "-D"]).arg(folder.path());
    let ran = server.trace(hooks, &receiver, |process| {
        wait_for("the stream to begin", || {
            let streaming = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'";
            (server.psql(&["-c", streaming]).1 == "1\n").then_some(())
        });
        assert!(server.psql(&["-c", "UPDATE items SET name = 'secret'"]).0);
        process.signal(libc::SIGINT);
    });
    assert_eq!(ran.code, Some(0), "{}", ran.said);
    let logged = |log: &str| -> Vec<String> {
        let commands =
            log.lines().filter_map(|line| Some(line.split_once("received replication command: ")?.1));
        commands.map(|command| command.split(' ').next().unwrap_or_default().to_owned()).collect()
    };
    let expected = logged(&ran.log);
    assert!(expected.contains(&"START_REPLICATION".to_owned()), "{}", ran.log);
    let seen = ran.role("client");
    let operations: Vec<_> = seen.iter().skip(1).map(|one| one.operation.clone()).collect();
    assert_eq!(operations, expected, "{seen:?}");
    for one in &seen {
        let kind = if one.operation == "START_REPLICATION" { "longlived" } else { "request" };
        assert_eq!((one.kind.as_str(), one.end.as_str(), one.error), (kind, "answered", false), "{one:?}");
    }
    let servers: Vec<_> =
        ran.role("server").into_iter().filter(|one| one.client_port == seen[0].client_port).collect();
    assert_eq!(servers.iter().map(|one| outcome(one)).collect::<Vec<_>>(), ran.outcomes("client"));

    let backup = folder.path().join("backup");
    let mut basebackup = server.program("pg_basebackup");
    basebackup.args(["-X", "stream", "-c", "fast", "-D"]).arg(&backup);
    let ran = server.trace(hooks, &basebackup, |_| {});
    assert_eq!(ran.code, Some(0), "{}", ran.said);
    let (mut expected, mut seen) = (logged(&ran.log), Vec::new());
    for one in ran.role("client").iter().filter(|one| one.operation != "startup") {
        let kind = if one.operation == "START_REPLICATION" { "longlived" } else { "request" };
        assert_eq!((one.kind.as_str(), one.error), (kind, false), "{one:?}");
        seen.push(one.operation.clone());
    }
    expected.sort();
    seen.sort();
    assert_eq!(seen, expected);
}

/// A process for each connection, forked when it comes: from the second one on everything is seen.
#[rstest]
fn statements_are_seen_inside_tls(#[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks) {
    const N: usize = 12;
    let _machine = machine();
    let libraries = super::tls::own_openssl();
    let server = Postgres::start_with(super::tls::of_postgres, Some(libraries.path()));
    let (pid, test) = (server.process.pid(), "postgres::statements_are_seen_inside_tls");
    crate::tls_tried::tried(pid, &["OpenSSL"], test, "PostgreSQL, psql");
    // Holds the clients' library, so that its probes are there before the first of them begins.
    let code = format!(
        "import ctypes, sys; ctypes.CDLL('{}/libssl.so.3'); print(flush=True); sys.stdin.read()",
        libraries.path().display()
    );
    let mut holder = Command::new(tool("python3", "python3"));
    let mut holder = Process::spawn(holder.args(["-c", &code]).stdin(Stdio::piped()).stdout(Stdio::piped()));
    let mut line = String::new();
    BufReader::new(holder.child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let tracer = Tracer::start_with(hooks, &[pid, holder.pid()], &["--comm", "psql", "--tls", "clear"]);
    for n in 0..N {
        let mut psql = server.client("psql", false);
        psql.env("PGSSLMODE", "require").env("LD_LIBRARY_PATH", libraries.path());
        let select = format!("SELECT {n}, 'behind' FROM items LIMIT 1");
        let output =
            psql.args(["-X", "-q", "-A", "-t", "-c", &select, "-c", "SELECT no_such"]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{n}|behind\n"));
    }
    let capture = tracer.stop();
    super::check::check_order_and_sums(&capture);
    for role in ["server", "client"] {
        let found: Vec<_> = capture
            .role(role)
            .into_iter()
            .filter(|one| one.tls.as_ref().is_some_and(|tls| tls.library.is_some()))
            .collect();
        let why = format!("{role}: {:#?}\n{}", capture.role(role), capture.stderr);
        let targets = |operation: &str| -> Vec<&str> {
            found
                .iter()
                .filter(|one| one.operation == operation)
                .filter_map(|one| one.target.as_deref())
                .collect()
        };
        assert!(found.iter().all(|one| one.protocol == "postgres" && one.end == "answered"), "{why}");
        assert_eq!(targets("SELECT items").len(), N, "{why}");
        let failed: Vec<_> = found.iter().filter(|one| one.error).collect();
        assert_eq!(failed.len(), N, "{why}");
        assert!(failed.iter().all(|one| one.error_type.as_deref() == Some("42703")), "{why}");
        assert!(
            found
                .iter()
                .all(|one| one.confidence == "complete" && one.namespace.as_deref() == Some("postgres")),
            "{why}"
        );
    }
    assert_eq!(capture.summary.unpaired.values().sum::<u64>(), 0, "{}", capture.stderr);
    assert_eq!(capture.summary.lost_requests.high, 0, "{}", capture.stderr);
}
