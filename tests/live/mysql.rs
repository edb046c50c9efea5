//! MariaDB as Debian ships it, and its clients: exact counts against its general log, every pair right, both roles.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rstest::rstest;
use tempfile::TempDir;
use tracer_ebpf::DEFAULT_BUDGET;

use super::{
    Hooks,
    check::{check_conserved, check_order_and_sums},
    machine,
    process::{Process, wait_for},
    template, tool,
    tracer::{Capture, Tracer, Transaction},
};

pub(super) const USER: &str = "alice";
pub(super) const PASSWORD: &str = "wonder-77";

/// The database: its user is [`USER`], with [`PASSWORD`].
const SHOP: &str = "CREATE DATABASE shop; USE shop;
    CREATE TABLE orders(id INT PRIMARY KEY AUTO_INCREMENT, name VARCHAR(100), price INT);
    INSERT INTO orders(name, price) VALUES('tea', 3), ('coffee', 5), ('bread', 2);
    DELIMITER //
    CREATE PROCEDURE two() BEGIN SELECT id FROM orders WHERE id <= 2; SELECT name FROM orders; END//
    DELIMITER ;
    CREATE USER alice@'%' IDENTIFIED BY 'wonder-77'; GRANT ALL ON *.* TO alice@'%';";
const INSTALL: [&str; 4] =
    ["--no-defaults", "--user=mysql", "--skip-test-db", "--auth-root-authentication-method=normal"];
/// What every server of these files is told.
const SERVER: [&str; 4] =
    ["--no-defaults", "--user=mysql", "--innodb-buffer-pool-size=32M", "--innodb-log-file-size=16M"];

/// Makes the files of a server with [`SHOP`].
#[track_caller]
fn make_shop(data: &Path) {
    fs::create_dir(data).unwrap();
    let mut install = Command::new(tool("mariadb-install-db", "mariadb-server"));
    let made = install.args(INSTALL).arg(format!("--datadir={}", data.display())).output().unwrap();
    assert!(made.status.success(), "mariadb-install-db: {}", String::from_utf8_lossy(&made.stderr));
    let socket = data.join("socket");
    let mut command = Command::new(tool("mariadbd", "mariadb-server"));
    command.args(SERVER).args(["--skip-networking=1", "--skip-name-resolve"]);
    command.arg(format!("--datadir={}", data.display())).arg(format!("--socket={}", socket.display()));
    command.arg(format!("--tmpdir={}", data.display()));
    let mut server = Process::spawn(command.stdout(Stdio::null()).stderr(Stdio::null()));
    wait_for("MariaDB's socket", || std::os::unix::net::UnixStream::connect(&socket).ok());
    let mut command = Command::new(tool("mariadb", "mariadb-client"));
    command.args(["--no-defaults", "--user=root"]).arg(format!("--socket={}", socket.display()));
    let mut client = command.stdin(Stdio::piped()).spawn().unwrap();
    client.stdin.take().unwrap().write_all(SHOP.as_bytes()).unwrap();
    assert!(client.wait().unwrap().success(), "the database was not made");
    server.signal(libc::SIGTERM);
    assert_eq!(server.wait("MariaDB"), Some(0));
}

/// A server with its own folder, port and socket.
pub(super) struct MariaDb {
    process: Process,
    port: u16,
    folder: TempDir,
}

impl MariaDb {
    #[track_caller]
    fn start() -> MariaDb {
        MariaDb::start_with(None)
    }

    /// With libraries of its own.
    #[track_caller]
    pub(super) fn start_with(libraries: Option<&Path>) -> MariaDb {
        let folder = TempDir::new().unwrap();
        let data = folder.path().join("data");
        // The server runs as another user.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let program = tool("mariadbd", "mariadb-server");
        let version = Command::new(&program).arg("--version").output().unwrap();
        let recipe = format!("{SHOP} {INSTALL:?} {SERVER:?} {}", String::from_utf8_lossy(&version.stdout));
        template::copy("mariadb", &recipe, &data, make_shop);
        // Free a moment ago: the server cannot be asked to choose one.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = Command::new(program);
        command.args(SERVER).arg(format!("--tmpdir={}", data.display()));
        command.args(["--bind-address=127.0.0.1", "--skip-networking=0"]);
        command.args(["--local-infile=1", "--general-log=1", "--skip-name-resolve"]);
        command.envs(libraries.map(|libraries| ("LD_LIBRARY_PATH", libraries)));
        command.args(["--max-allowed-packet=64M", "--innodb-flush-log-at-trx-commit=0"]);
        command.arg(format!("--port={port}")).arg(format!("--datadir={}", data.display()));
        let (key, certificate) = super::tls::certificate(folder.path());
        // The server runs as another user, and reads its key as that.
        fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
        command.arg(format!("--ssl-key={}", key.display()));
        command.arg(format!("--ssl-cert={}", certificate.display()));
        for (flag, file) in
            [("socket", "socket"), ("general-log-file", "general.log"), ("log-error", "error.log")]
        {
            command.arg(format!("--{flag}={}", data.join(file).display()));
        }
        if let Some(libraries) = libraries {
            command.env("LD_LIBRARY_PATH", libraries);
        }
        let process = Process::spawn(command.stdout(Stdio::null()).stderr(Stdio::null()));
        let server = MariaDb { process, port, folder };
        wait_for("MariaDB to listen", || TcpStream::connect(("127.0.0.1", port)).ok());
        server
    }

    pub(super) fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("data/socket")
    }

    /// How often each command stands in the general log, from `from` bytes on.
    pub(super) fn logged(&self, from: u64) -> BTreeMap<String, usize> {
        let text = fs::read(self.folder.path().join("data/general.log")).unwrap();
        let mut counts = BTreeMap::new();
        for line in String::from_utf8_lossy(&text[from as usize..]).lines() {
            let id_and_command = |cell: &&str| {
                let (id, command) = cell.trim_start().split_once(' ')?;
                id.parse::<u64>().ok().map(|_| command.trim().to_owned())
            };
            let command = line.split('\t').skip(1).take(2).collect::<Vec<_>>();
            if let Some(command) = command.iter().find_map(id_and_command) {
                *counts.entry(command).or_default() += 1;
            }
        }
        counts
    }

    pub(super) fn log_size(&self) -> u64 {
        fs::metadata(self.folder.path().join("data/general.log")).unwrap().len()
    }

    /// Runs a client under the tracer, both ends of it, until the client ends and the server has logged its last command.
    #[track_caller]
    fn trace(&self, hooks: Hooks, client: &Command, input: &str) -> Ran {
        self.trace_with(hooks, client, input, &[])
    }

    /// The same, with more flags of the tracer's.
    #[track_caller]
    fn trace_with(&self, hooks: Hooks, client: &Command, input: &str, flags: &[&str]) -> Ran {
        let from = self.log_size();
        // The shell waits to be traced and then becomes the client.
        let mut command = Command::new("/bin/sh");
        command
            .arg("-c")
            .arg("read go; exec \"$@\"")
            .arg("sh")
            .arg(client.get_program())
            .args(client.get_args())
            .envs(client.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let mut process =
            Process::spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()));
        let tracer = Tracer::start_with(hooks, &[self.process.pid(), process.pid()], flags);
        let mut stdin = process.child.stdin.take().unwrap();
        stdin.write_all(b"go\n").unwrap();
        stdin.write_all(input.as_bytes()).unwrap();
        drop(stdin);
        let (mut said, mut complained) = (String::new(), String::new());
        process.child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        process.child.stderr.take().unwrap().read_to_string(&mut complained).unwrap();
        let code = process.wait("the client");
        let logged = wait_for("the server to log its last command", || {
            let logged = self.logged(from);
            (logged.get("Quit") == logged.get("Connect")).then_some(logged)
        });
        let capture = tracer.stop();
        Ran { capture, logged, said: said + &complained, code }
    }
}

/// What a client did.
struct Ran {
    capture: Capture,
    logged: BTreeMap<String, usize>,
    said: String,
    code: Option<i32>,
}

impl Ran {
    /// Transactions of one role, in the order of their connections and beginnings.
    fn role(&self, role: &str) -> Vec<&Transaction> {
        let mut transactions = self.capture.role(role);
        transactions.sort_by_key(|transaction| (transaction.client_port, transaction.start_time_ns));
        transactions
    }

    /// As many transactions as the server logged commands, in both roles, and each the same in both.
    #[track_caller]
    fn check(&self) {
        self.check_all(false);
    }

    /// `is_early`: answers of more than the first bytes of a turn may come before the tracer has asked for all bytes of their
    /// connection. Those alone are then gaps: when they ended is known, and how many rows they have is not.
    #[track_caller]
    fn check_all(&self, is_early: bool) {
        check_order_and_sums(&self.capture);
        let is_gap = |one: &Transaction| {
            is_early && one.response_bytes > u64::from(DEFAULT_BUDGET) && one.confidence == "gap"
        };
        let logged = |name: &str| self.logged.get(name).copied().unwrap_or(0);
        let n_statements = logged("Query") + logged("Execute");
        let (servers, clients) = (self.role("server"), self.role("client"));
        for transactions in [&servers, &clients] {
            let n_of = |operation: &str| {
                transactions.iter().filter(|transaction| transaction.operation.starts_with(operation)).count()
            };
            let told = [n_of("CONNECT"), n_of("QUIT"), n_of("PREPARE"), n_of("STMT_CLOSE")];
            let said = [logged("Connect"), logged("Quit"), logged("Prepare"), logged("Close stmt")];
            assert_eq!(told, said, "{:?}", self.logged);
            let others = ["STMT_RESET", "STMT_FETCH", "STMT_SEND_LONG_DATA", "INIT_DB"]
                .map(n_of)
                .iter()
                .sum::<usize>();
            assert_eq!(
                transactions.len() - told.iter().sum::<usize>() - others,
                n_statements,
                "{:?}",
                self.logged
            );
            for transaction in transactions.iter() {
                let told = (transaction.end.as_str(), transaction.protocol.as_str());
                assert_eq!(told, ("answered", "mysql"), "{transaction:?}");
                assert!(is_gap(transaction) || transaction.confidence == "complete", "{transaction:?}");
                assert!(!is_gap(transaction) || transaction.rows.is_none(), "{transaction:?}");
            }
        }
        assert_eq!(servers.len(), clients.len());
        for (server, client) in servers.iter().zip(&clients) {
            let rows = |one: &Transaction| one.rows.filter(|_| !is_gap(server) && !is_gap(client));
            let says = |one: &Transaction| {
                let sizes =
                    (one.request_bytes, one.response_bytes, rows(one), one.status_code, one.client_port);
                (one.operation.clone(), one.target.clone(), one.namespace.clone(), sizes)
            };
            assert_eq!(says(server), says(client));
            // The client's call goes around the server's, as far as one clock can tell two calls apart.
            assert!(server.duration_ns <= client.duration_ns + 2_000_000, "{server:?}\n{client:?}");
        }
        assert!(!self.capture.stdout.contains("secret"), "a value is shown");
        check_conserved(&self.capture, servers.len() + clients.len(), 2 * servers.len(), false);
        let lost = self.capture.summary.lost.values().sum::<u64>();
        let n_gaps = servers.iter().chain(&clients).filter(|one| is_gap(one)).count() as u64;
        assert_eq!(lost, n_gaps, "{:?}", self.capture.summary);
        if is_early {
            println!("{n_gaps} gaps in {} transactions", servers.len() + clients.len());
            assert_eq!(self.capture.summary.lost.get("parser_gap").copied().unwrap_or(0), n_gaps);
        }
    }
}

/// The flags that all of MariaDB's programs take.
fn connected(program: &Path, server: &MariaDb, by_socket: bool) -> Command {
    let mut command = Command::new(program);
    command.args([
        "--no-defaults",
        &format!("--user={USER}"),
        &format!("--password={PASSWORD}"),
        "--skip-ssl",
    ]);
    match by_socket {
        true => command.arg(format!("--socket={}", server.socket().display())),
        false => command.args(["--host=127.0.0.1".to_owned(), format!("--port={}", server.port)]),
    };
    command
}

fn by_hand(server: &MariaDb, scenario: &[&str]) -> Command {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/servers/mysql_client.py");
    let mut command = Command::new(tool("python3", "python3"));
    command.arg(script).args([&server.port.to_string(), USER, PASSWORD, "shop"]).args(scenario);
    command
}

/// Operation, rows and status of each.
fn outcomes<'a>(transactions: &[&'a Transaction]) -> Vec<(&'a str, Option<u64>, Option<i32>)> {
    transactions.iter().map(|one| (one.operation.as_str(), one.rows, one.status_code)).collect()
}

#[rstest]
fn the_mariadb_client(
    #[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks,
    #[values(false, true)] by_socket: bool,
) {
    let _machine = machine();
    let server = MariaDb::start();
    let file = server.folder.path().join("rows.csv");
    fs::write(&file, "10,secret-a\n11,secret-b\n").unwrap();
    let mut client = connected(&tool("mariadb", "mariadb-client"), &server, by_socket);
    client.args(["--force", "--skip-auto-rehash", "--local-infile=1", "shop"]);
    let input = format!(
        "select id, name from orders where id <= 2;
         insert into orders(name) values('secret-1'), ('secret-2');
         select * from nothing_here where name = 'secret-3';
         insert into orders(id) values(1);
         load data local infile '{}' into table orders fields terminated by ',' (id, name);
         call two();
         delete from orders where id > 3;
         use mysql
         select 'secret-4';
        ",
        file.display()
    );
    let ran = server.trace(hooks, &client, &input);
    ran.check();
    let seen = ran.role("server");
    let numbers: Vec<_> = seen.iter().map(|one| (one.rows, one.status_code)).collect();
    let expected = [
        (None, None),
        (Some(2), None),
        (Some(2), None),
        (None, Some(1146)),
        (None, Some(1062)),
        (Some(2), None),
        // Two results, and then OK.
        (Some(2 + 7), None),
        (Some(4), None),
        // The client asks which database it is in, before it changes that.
        (Some(1), None),
        (None, None),
        (Some(1), None),
        (None, None),
    ];
    assert_eq!(numbers, expected, "{:?}\n{}", outcomes(&seen), ran.said);
    let errors: Vec<_> = seen.iter().filter(|one| one.error).map(|one| one.error_type.as_deref()).collect();
    assert_eq!(errors, [Some("1146"), Some("1062")]);
    let namespaces: Vec<_> = seen.iter().rev().take(2).map(|one| one.namespace.as_deref()).collect();
    assert_eq!(namespaces, [Some("mysql"), Some("mysql")]);
    assert_eq!(seen[0].namespace.as_deref(), Some("shop"));
}

#[rstest]
fn every_answer_is_the_one_that_was_asked_for(
    #[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks,
    #[values("numbered", "numbered+deprecate_eof")] scenario: &str,
) {
    let _machine = machine();
    let server = MariaDb::start();
    let ran = server.trace(hooks, &by_hand(&server, &[scenario, "600"]), "");
    assert_eq!(ran.code, Some(0), "{}", ran.said);
    ran.check();
    check_numbers(&ran.role("server"), 1..601);
    check_numbers(&ran.role("client"), 1..601);
}

/// The statements with these numbers, each with the answer that has as many bytes more as its number says.
#[track_caller]
fn check_numbers(transactions: &[&Transaction], numbers: std::ops::Range<u64>) {
    let statements: Vec<_> = transactions.iter().filter(|one| one.rows.is_some()).collect();
    assert_eq!(statements.len() as u64, numbers.end - numbers.start);
    let mut bases = [None; 2];
    for (n, transaction) in numbers.zip(statements) {
        let base = transaction.response_bytes - n % 200 - n.to_string().len() as u64;
        assert_eq!(
            *bases[n as usize % 2].get_or_insert(base),
            base,
            "the answer to another: {n} {transaction:?}"
        );
        assert_eq!(transaction.rows, Some(1));
    }
}

#[rstest]
fn attached_in_the_middle(#[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks) {
    let _machine = machine();
    let server = MariaDb::start();
    let mut command = by_hand(&server, &["numbered+pause", "400"]);
    let mut client = Process::spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
    let mut said = BufReader::new(client.child.stdout.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    assert_eq!(line, "half\n");
    let from = server.log_size();
    let tracer = Tracer::start(hooks, &[server.process.pid(), client.pid()]);
    client.child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    assert_eq!(client.wait("the client"), Some(0));
    wait_for("the client's end in the log", || server.logged(from).get("Quit").copied());
    let capture = tracer.stop();
    check_order_and_sums(&capture);
    for role in ["server", "client"] {
        let mut seen = capture.role(role);
        seen.sort_by_key(|one| one.start_time_ns);
        check_numbers(&seen, 201..401);
        // It was prepared unseen: what it says is not known.
        let unknown: Vec<_> = seen.iter().filter(|one| one.operation == "EXECUTE").collect();
        assert_eq!(unknown.len(), 100);
        assert!(unknown.iter().all(|one| one.target.is_none()));
        assert!(seen.iter().all(|one| one.namespace.is_none()), "a database that nobody saw named");
        assert_eq!(outcomes(&seen[200..]), [("STMT_CLOSE", None, None), ("QUIT", None, None)]);
    }
}

#[rstest]
fn prepared_statements_by_hand(
    #[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks,
    #[values("statements", "statements+deprecate_eof")] scenario: &str,
) {
    let _machine = machine();
    let server = MariaDb::start();
    let ran = server.trace(hooks, &by_hand(&server, &[scenario]), "");
    assert_eq!(ran.code, Some(0), "{}", ran.said);
    let seen = ran.role("server");
    let numbers: Vec<_> = seen.iter().map(|one| (one.rows, one.status_code)).collect();
    let (none, ok) = ((None, None), |rows| (Some(rows), None));
    let expected = [
        none,
        // Prepared, run twice, reset.
        none,
        ok(2),
        ok(3),
        none,
        // Prepared, long data, too long for its column.
        none,
        none,
        (None, Some(1406)),
        // A cursor, a row at a time.
        ok(0),
        ok(1),
        ok(0),
        (None, Some(1146)),
        none,
        none,
        ok(3),
        none,
        ok(2 + 3),
        none,
        ok(0),
        (None, Some(1243)),
        none,
        none,
        ok(2),
        none,
    ];
    assert_eq!(numbers, expected, "{:?}\n{}", outcomes(&seen), ran.said);
    assert_eq!((seen[1].operation.as_str(), seen[2].target.is_some()), ("PREPARE", seen[1].target.is_some()));
    assert_eq!(seen[2].target, seen[1].target);
}

#[rstest]
fn preparation_and_execution_at_once(#[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks) {
    let _machine = machine();
    let server = MariaDb::start();
    let ran = server.trace(hooks, &by_hand(&server, &["mariadb"]), "");
    assert_eq!(ran.code, Some(0), "{}", ran.said);
    check_order_and_sums(&ran.capture);
    for role in ["server", "client"] {
        let seen = ran.role(role);
        let numbers: Vec<_> = seen.iter().map(|one| (one.rows, one.status_code)).collect();
        let (none, one) = ((None, None), (Some(1), None));
        let five = (Some(5), None);
        assert_eq!(
            numbers,
            [none, none, one, none, one, none, one, none, five, five, none],
            "{:?}",
            outcomes(&seen)
        );
        assert_eq!(seen[2].target, seen[1].target);
    }
}

#[rstest]
fn statements_and_rows_of_several_packets(#[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks) {
    let _machine = machine();
    let server = MariaDb::start();
    let ran = server.trace(hooks, &by_hand(&server, &["large"]), "");
    assert_eq!(ran.code, Some(0), "{}", ran.said);
    let large = 17 << 20;
    for role in ["server", "client"] {
        let seen = ran.role(role);
        assert_eq!(seen.len(), 5, "{:#?}\n{:?}", ran.capture.transactions, ran.capture.summary);
        assert_eq!(seen[1].request_bytes, large + 2 * 4 + 1 + "select length('')".len() as u64);
        assert!((large + 60..large + 200).contains(&seen[2].response_bytes), "{:?}", seen[2]);
        // Where the second packet begins in the middle of a call, its header is not captured: a gap, and never another's answer.
        for one in &seen[1..3] {
            assert!(one.rows == Some(1) || one.confidence == "gap", "{one:?}");
        }
        assert_eq!((seen[3].rows, seen[3].end.as_str()), (Some(1), "answered"), "{:?}", seen[3]);
        assert_eq!(seen[4].operation, "QUIT");
    }
    assert!(ran.capture.summary.events < 4000, "{} events", ran.capture.summary.events);
}

#[rstest]
fn mariadb_slap(#[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks) {
    let _machine = machine();
    let server = MariaDb::start();
    let mut client = connected(&tool("mariadb-slap", "mariadb-client"), &server, false);
    client.args([
        "--concurrency=4",
        "--number-of-queries=600",
        "--create-schema=shop",
        "--no-drop",
        "--delimiter=;",
    ]);
    client.arg("--query=select name from orders where id = 2;insert into orders(name) values('secret-5');select 1 from nothing");
    // It stops at the first error: a statement for it stands in the last place.
    let query = client.get_args().last().unwrap().to_string_lossy().replace(";select 1 from nothing", "");
    let mut without = Command::new(client.get_program());
    without.args(client.get_args().take(client.get_args().count() - 1)).arg(query);
    let ran = server.trace(hooks, &without, "");
    assert_eq!(ran.code, Some(0), "{}", ran.said);
    ran.check();
    let inserts = ran.role("server").iter().filter(|one| one.operation.starts_with("INSERT")).count();
    assert!(inserts >= 300, "{inserts} of {:?}", ran.logged);
}

#[rstest]
fn sysbench_with_prepared_statements(
    #[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks,
    #[values("heads", "full")] payload: &str,
) {
    let _machine = machine();
    let server = MariaDb::start();
    let bench = |what: &str| {
        let mut command = Command::new(tool("sysbench", "sysbench"));
        command.args(["--db-driver=mysql", "--mysql-host=127.0.0.1", "--mysql-db=shop", "--mysql-ssl=off"]);
        command.args([&format!("--mysql-port={}", server.port), &format!("--mysql-user={USER}")]);
        command.args([&format!("--mysql-password={PASSWORD}"), "--tables=1", "--table-size=100"]);
        command.args(["--threads=2", "--events=60", "--time=0", "oltp_read_write", what]);
        command
    };
    let made = bench("prepare").output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stdout));
    wait_for("its end in the log", || {
        let logged = server.logged(0);
        (logged.get("Quit") == logged.get("Connect")).then_some(())
    });
    let ran = server.trace_with(hooks, &bench("run"), "", &["--payload", payload]);
    assert_eq!(ran.code, Some(0), "{}", ran.said);
    ran.check_all(payload == "heads");
    let n_executed = ran.logged["Execute"];
    assert!(n_executed >= 60 * 18, "{:?}", ran.logged);
    let unknown = ran.role("server").iter().filter(|one| one.operation == "EXECUTE").count();
    assert_eq!(unknown, 0, "a statement's preparation was seen and not its name");
}

#[rstest]
fn a_compressed_connection_is_one_long_transaction(#[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks) {
    let _machine = machine();
    let server = MariaDb::start();
    let mut client = connected(&tool("mariadb", "mariadb-client"), &server, false);
    client.args(["--compress", "--skip-auto-rehash", "shop", "--execute=select 1; select name from orders"]);
    let ran = server.trace(hooks, &client, "");
    assert_eq!(ran.code, Some(0), "{}", ran.said);
    for role in ["server", "client"] {
        let seen = ran.role(role);
        assert_eq!(outcomes(&seen), [("CONNECT zlib", None, None)]);
        assert_eq!((seen[0].kind.as_str(), seen[0].end.as_str()), ("longlived", "upgraded"));
    }
}

#[rstest]
fn several_statements_in_one_text(#[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks) {
    let _machine = machine();
    let server = MariaDb::start();
    let mut client = connected(&tool("mariadb", "mariadb-client"), &server, false);
    client.args(["--force", "--skip-auto-rehash", "--delimiter=//", "shop"]);
    let input = "select 1; insert into orders(name) values('secret-1'), ('secret-2'); select id from orders where id <= 3//
         select 1; select * from nothing_here; select 2//
         set sql_mode = 'NO_BACKSLASH_ESCAPES'//
         select 'it\\' or 'secret-3', id from orders where id = 1//
         set sql_mode = ''; select 'it\\' or 'secret-4', id from orders//
         select 'it\\'s' or 'secret-5', id from orders where id = 2//
        ";
    let ran = server.trace(hooks, &client, input);
    check_order_and_sums(&ran.capture);
    let some = |rows| (Some(rows), None);
    let expected = [
        (None, None),
        some(1 + 2 + 3),
        // Of what came before the error, the rows are not told.
        (None, Some(1146)),
        some(0),
        some(1),
        // The mode is the old one until the first of the two statements was run: not `'it\'`.
        (None, Some(1064)),
        some(1),
        (None, None),
    ];
    for role in ["server", "client"] {
        let seen = ran.role(role);
        let numbers: Vec<_> = seen.iter().map(|one| (one.rows, one.status_code)).collect();
        assert_eq!(numbers, expected, "{:?}\n{}", outcomes(&seen), ran.said);
        let targets: Vec<_> = seen.iter().skip(4).take(3).filter_map(|one| one.target.as_deref()).collect();
        let whole = "select ? or ?, id from orders where id = ?";
        assert_eq!(targets, [whole, "set sql_mode = ?; select ?", whole]);
    }
    assert!(!ran.capture.stdout.contains("secret"), "a value is shown");
}

#[rstest]
fn what_another_session_kills(#[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks) {
    let _machine = machine();
    let server = MariaDb::start();
    // A query that is killed is told of, a connection that is killed is closed.
    for (what, end, error) in [("query", "answered", "1317"), ("connection", "closed", "connection_closed")] {
        let mut client = connected(&tool("mariadb", "mariadb-client"), &server, false);
        client.args(["--skip-auto-rehash", "shop"]);
        client.arg("--execute=select id from orders where id = 1; select sleep(300); select 2");
        let mut waits = Command::new("/bin/sh");
        waits.args(["-c", "read go; exec \"$@\"", "sh"]).arg(client.get_program()).args(client.get_args());
        let mut client =
            Process::spawn(waits.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()));
        let tracer = Tracer::start(hooks, &[server.process.pid(), client.pid()]);
        client.child.stdin.take().unwrap().write_all(b"go\n").unwrap();
        let root = |sql: &str| {
            let mut command = Command::new(tool("mariadb", "mariadb-client"));
            command.args(["--no-defaults", "--user=root", "--skip-column-names", "--batch"]);
            command.arg(format!("--socket={}", server.socket().display())).args(["--execute", sql]);
            String::from_utf8(command.output().unwrap().stdout).unwrap()
        };
        let id = wait_for("the client to sleep", || {
            let said = root("select id from information_schema.processlist where info like 'select sleep%'");
            said.trim().parse::<u64>().ok()
        });
        root(&format!("kill {what} {id}"));
        client.wait("the client");
        let capture = tracer.stop();
        check_order_and_sums(&capture);
        for role in ["server", "client"] {
            let mut seen = capture.role(role);
            seen.retain(|one| one.client_port.is_some());
            seen.sort_by_key(|one| one.start_time_ns);
            let at = seen.iter().position(|one| one.target.as_deref() == Some("select sleep(?)")).unwrap();
            let (before, killed) = (seen[at - 1], seen[at]);
            assert_eq!((before.rows, before.end.as_str()), (Some(1), "answered"), "{before:?}");
            let told = (killed.end.as_str(), killed.error_type.as_deref(), killed.error);
            assert_eq!(told, (end, Some(error), true), "{killed:?}");
            // The client gives up.
            let rest: Vec<_> = seen[at + 1..].iter().map(|one| one.operation.as_str()).collect();
            assert_eq!(rest, if what == "query" { &["QUIT"][..] } else { &[] });
            for one in seen {
                assert_eq!(one.confidence, "complete", "{one:?}");
            }
        }
    }
}

#[rstest]
fn a_connection_that_asks_for_tls_is_tls(#[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks) {
    let _machine = machine();
    let server = MariaDb::start();
    let mut client = connected(&tool("mariadb", "mariadb-client"), &server, false);
    client.args(["--ssl", "--skip-auto-rehash", "shop", "--execute=select name from orders; select 2"]);
    let ran = server.trace_with(hooks, &client, "", &["--tls", "opaque"]);
    assert_eq!(ran.code, Some(0), "{}", ran.said);
    check_order_and_sums(&ran.capture);
    for role in ["server", "client"] {
        let seen = ran.role(role);
        assert!(seen.iter().all(|one| one.protocol == "tls"), "{:?}", outcomes(&seen));
        assert!(seen.len() >= 3, "{:?}", outcomes(&seen));
    }
    assert_eq!(ran.capture.summary.unpaired.values().sum::<u64>(), 0, "{:?}", ran.capture.summary);
}

/// MariaDB's own client begins each packet with a call of its own: no statement is a gap. The server sends a row's packets in one call.
#[rstest]
fn statements_and_rows_of_several_packets_by_the_client(
    #[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks,
) {
    let _machine = machine();
    let server = MariaDb::start();
    let mut client = connected(&tool("mariadb", "mariadb-client"), &server, false);
    client.args(["--max-allowed-packet=64M", "--skip-auto-rehash", "--skip-column-names", "shop"]);
    let input = format!(
        "select length('{}');\nselect repeat('a', {LARGE});\nselect name from orders where id = 1;\n",
        "s".repeat(LARGE)
    );
    let ran = server.trace(hooks, &client, &input);
    assert_eq!(ran.code, Some(0));
    check_order_and_sums(&ran.capture);
    for role in ["server", "client"] {
        let seen = ran.role(role);
        let told: Vec<_> =
            seen.iter().map(|one| (one.rows, one.end.as_str(), one.confidence.as_str())).collect();
        let one = (Some(1), "answered", "complete");
        let none = (None, "answered", "complete");
        assert_eq!(
            [&told[..2], &told[3..]].concat(),
            [none, one, one, none],
            "{role}: {:?}",
            outcomes(&seen)
        );
        assert!(told[2] == one || (told[2].0, told[2].2) == (None, "gap"), "{role}: {:?}", seen[2]);
        assert!(seen[1].request_bytes > LARGE as u64 && seen[2].response_bytes > LARGE as u64);
    }
}

/// Bytes of more than one packet.
const LARGE: usize = 17 << 20;
