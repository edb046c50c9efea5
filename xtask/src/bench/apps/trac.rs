//! Trac with its own server `tracd`: a thread for each connection. Its log says on which thread a request and each statement was.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};

use super::{
    App, Logged, Statement, Truth,
    drive::{Ask, Asked},
    installed,
    parts::{Server, free_port},
    postgres::Postgres,
    texts::shape,
};
use crate::shell::{command, run, run_quietly};

const PACKAGES: [&str; 3] = ["Trac==1.6", "psycopg2-binary==2.9.12", "setuptools==80.9.0"];
const DATABASE: &str = "trac";
/// Tickets that are there to be looked at.
const TICKETS: u32 = 20;
/// Clocks are read one after the other, and the database's log has milliseconds.
const EARLY_NS: u64 = 2_000_000;

pub(super) struct Trac {
    server: Server,
    database: Postgres,
}

fn python() -> Result<PathBuf> {
    let dir = installed()?.join("python");
    if !dir.join("bin/tracd").is_file() {
        run(&mut command("python3", ["-m".as_ref(), "venv".as_ref(), dir.as_os_str()]))?;
        let pip = dir.join("bin/pip");
        run(command(&pip.to_string_lossy(), ["install", "--quiet"]).args(PACKAGES))?;
    }
    Ok(dir.join("bin"))
}

impl Trac {
    pub(super) fn start(dir: &Path) -> Result<Trac> {
        let bin = python()?;
        let database = Postgres::start(dir, DATABASE)?;
        let env = dir.join("env");
        let admin = |arguments: &[&str]| {
            let mut admin = Command::new(bin.join("trac-admin"));
            run_quietly(admin.arg(&env).args(arguments).stdout(Stdio::null()))
        };
        let url = format!("postgres://postgres@127.0.0.1:{}/{DATABASE}", database.port());
        admin(&["initenv", "apps", &url])?;
        admin(&["permission", "add", "anonymous", "TRAC_ADMIN"])?;
        let tickets = format!(
            "INSERT INTO ticket (type, time, changetime, component, priority, owner, reporter, status, summary, description) \
             SELECT 'defect', 1795825848559972, 1795825848559972, 'component1', 'major', 'somebody', 'somebody', 'new', \
             'Ticket ' || i, 'What it says ' || i FROM generate_series(1, {TICKETS}) i"
        );
        database.psql(DATABASE, &tickets)?;
        let settings = env.join("conf/trac.ini");
        let mut text = fs::read_to_string(&settings)?;
        for (key, value) in [
            ("log_type", "stderr"),
            ("log_level", "DEBUG"),
            ("log_format", "%(created).6f %(thread)d %(message)s"),
            ("debug_sql", "enabled"),
        ] {
            let line = text.lines().find(|line| line.starts_with(&format!("{key} ="))).map(str::to_owned);
            text = text.replace(
                &line.with_context(|| format!("no {key} in trac.ini"))?,
                &format!("{key} = {value}"),
            );
        }
        fs::write(&settings, text)?;
        let port = free_port()?;
        let mut tracd = Command::new(bin.join("python3"));
        tracd
            .arg(bin.join("tracd"))
            .args(["-s", "--http11", "-b", "127.0.0.1", "-p", &port.to_string()])
            .arg(&env);
        let server = Server::start(&mut tracd, port, &dir.join("trac.log"))?;
        Ok(Trac { server, database })
    }

    fn log(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(&fs::read(&self.server.log)?).into_owned())
    }
}

impl App for Trac {
    fn name(&self) -> String {
        format!("Trac 1.6 (Python, threads), psycopg2 2.9.12, PostgreSQL {}", self.database.version)
    }

    fn pids(&self) -> [u32; 2] {
        [self.server.pid(), self.database.pid()]
    }

    fn port(&self) -> u16 {
        self.server.port
    }

    fn store_port(&self) -> u16 {
        self.database.port()
    }

    fn ask(&self, number: u32, _client: u32) -> Ask {
        let ticket = number % TICKETS + 1;
        let target = match number % 8 {
            0 => format!("/wiki?rid={number}"),
            1 | 2 => format!("/ticket/{ticket}?rid={number}"),
            3 => format!("/report/1?rid={number}"),
            4 => format!("/query?status=new&rid={number}"),
            5 => format!("/timeline?rid={number}"),
            6 => format!("/roadmap?rid={number}"),
            _ => format!("/search?q=says&rid={number}"),
        };
        Ask { method: "GET", target, ..Ask::default() }
    }

    fn requests(&self) -> Result<Vec<Logged>> {
        let mut requests = Vec::new();
        for line in self.log()?.lines() {
            // `127.0.0.1 - - [28/Nov/2026 00:31:15] "GET /wiki HTTP/1.1" 200 -`
            let Some((_, rest)) = line.split_once(" - - [") else { continue };
            let Some((request, status)) =
                rest.split_once("] \"").and_then(|(_, rest)| rest.split_once("\" "))
            else {
                continue;
            };
            let mut words = request.split(' ');
            let (Some(method), Some(target)) = (words.next(), words.next()) else { continue };
            let status = status.split(' ').next().and_then(|status| status.parse().ok());
            requests.push(Logged {
                method: method.to_owned(),
                target: target.to_owned(),
                status,
                duration_ns: None,
            });
        }
        Ok(requests)
    }

    fn statements(&self) -> Result<Vec<Statement>> {
        self.database.statements(DATABASE)
    }

    fn truths(&self, statements: &[Statement], _asked: &[Asked]) -> Result<Vec<Truth>> {
        Ok(truths(statements, &told(&self.log()?)))
    }

    fn how(&self) -> &'static str {
        "Trac's log has the thread of each request and statement; a transaction of the database is that of the only thread that told just its statements then"
    }
}

/// A statement in Trac's log.
#[derive(Clone, Debug)]
struct Told {
    ns: u64,
    number: Option<u32>,
    text: String,
    /// What stands in it for `%s`, as Python shows it.
    arguments: String,
    /// It was told with the one before it.
    is_again: bool,
}

/// The statements of each thread, in order.
fn told(log: &str) -> Vec<Vec<Told>> {
    let mut threads: HashMap<u64, (Option<u32>, Vec<Told>)> = HashMap::new();
    let mut entries: Vec<(u64, u64, String)> = Vec::new();
    for line in log.lines() {
        if line.contains(" - - [") {
            continue;
        }
        let start = line.split_once(' ').and_then(|(time, rest)| {
            let (thread, message) = rest.split_once(' ')?;
            let (seconds, micros) = time.split_once('.')?;
            let ns = seconds.parse::<u64>().ok()? * 1_000_000_000 + micros.parse::<u64>().ok()? * 1_000;
            Some((ns, thread.parse().ok()?, message.to_owned()))
        });
        match (start, entries.last_mut()) {
            (Some(entry), _) => entries.push(entry),
            (None, Some((_, _, last))) => {
                last.push('\n');
                last.push_str(line);
            }
            (None, None) => {}
        }
    }
    for (ns, thread, message) in entries {
        let (number, told) = threads.entry(thread).or_default();
        if message.starts_with("Dispatching ") {
            let digits =
                message.rsplit_once("rid=").map(|(_, rest)| rest.trim_matches(|c: char| !c.is_ascii_digit()));
            *number = digits.and_then(|digits| digits.parse().ok());
        } else if let Some(statement) = message.strip_prefix("SQL: ") {
            // Many at once are shown as Python writes a text.
            let is_shown = statement.starts_with('\'') || statement.starts_with('"');
            let unshown = || statement.trim_matches(['\'', '"']).replace("\\n", "\n");
            let statement = if is_shown { unshown() } else { statement.to_owned() };
            told.push(Told {
                ns,
                number: *number,
                text: shape(&statement),
                arguments: String::new(),
                is_again: false,
            });
        } else if let (Some(arguments), Some(last)) = (message.strip_prefix("args: "), told.last_mut()) {
            last.arguments = arguments.to_owned();
            if arguments.starts_with('[') {
                // Each is a statement of its own to the database.
                let n = arguments.matches("), (").count();
                let one = Told { is_again: true, ..last.clone() };
                told.extend(std::iter::repeat_n(one, n));
            }
        }
    }
    threads.into_values().map(|(_, told)| told).collect()
}

/// What the driver says on its own around Trac's statements.
fn is_own(text: &str) -> bool {
    ["begin", "commit", "rollback", "select?"].contains(&text)
}

/// A transaction of the database is one thread's: the one that told just these statements, one behind the other, each when the one before it on that
/// connection was over. What is told so takes its lines out of the others' way.
fn truths(statements: &[Statement], threads: &[Vec<Told>]) -> Vec<Truth> {
    let mut truths = vec![Truth::Unknown; statements.len()];
    let mut used: Vec<Vec<bool>> = threads.iter().map(|told| vec![false; told.len()]).collect();
    let mut blocks = blocks(statements);
    loop {
        let before = blocks.len();
        blocks.retain(|block| {
            let found = candidates(statements, block, threads, &used);
            let mut numbers: Vec<_> =
                found.iter().map(|(thread, first)| threads[*thread][*first].number).collect();
            numbers.dedup();
            let ([Some(number)], Some((thread, first))) = (&numbers[..], found.first()) else { return true };
            used[*thread][*first..*first + block.inner.len()].fill(true);
            block.all.iter().for_each(|at| truths[*at] = Truth::For(*number));
            false
        });
        if blocks.len() == before {
            return truths;
        }
    }
}

/// The statements of a transaction.
#[derive(Debug, Default)]
struct Block {
    all: Vec<usize>,
    /// Trac's own, each with the one before it on the connection.
    inner: Vec<(usize, Option<usize>)>,
}

fn blocks(statements: &[Statement]) -> Vec<Block> {
    let mut open: HashMap<u16, (Block, Option<usize>)> = HashMap::new();
    let mut blocks = Vec::new();
    for (at, statement) in statements.iter().enumerate() {
        let (block, last) = open.entry(statement.client_port).or_default();
        block.all.push(at);
        if !is_own(&statement.text) {
            block.inner.push((at, *last));
        }
        *last = Some(at);
        if statement.text == "commit" || statement.text == "rollback" {
            blocks.push(std::mem::take(block));
        }
    }
    blocks.retain(|block| !block.inner.is_empty());
    blocks
}

/// Where these statements can have been told.
fn candidates(
    statements: &[Statement],
    block: &Block,
    threads: &[Vec<Told>],
    used: &[Vec<bool>],
) -> Vec<(usize, usize)> {
    let fits = |told: &Told, (at, before): (usize, Option<usize>)| {
        let statement = &statements[at];
        told.text == statement.text
            && told.ns <= statement.ended().1 + EARLY_NS
            && (told.is_again
                || before.is_none_or(|before| told.ns + EARLY_NS >= statements[before].ended().0))
            && words(&told.arguments).all(|word| statement.raw.contains(word))
    };
    let n = block.inner.len();
    let mut found = Vec::new();
    for (thread, told) in threads.iter().enumerate() {
        for first in 0..(told.len() + 1).saturating_sub(n) {
            let is_free = !used[thread][first..first + n].contains(&true);
            if is_free && told[first..].iter().zip(&block.inner).all(|(told, inner)| fits(told, *inner)) {
                found.push((thread, first));
            }
        }
    }
    found
}

/// Words of arguments that stand in the statement as they are: numbers and plain texts.
fn words(arguments: &str) -> impl Iterator<Item = &str> {
    // Of many at once it is not known which one it was.
    let arguments = if arguments.starts_with('[') { "" } else { arguments };
    let words = arguments.trim_matches(['(', ')']).split([',', ' ', '\'']);
    words
        .filter(|word| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric()))
        .filter(|word| !["None", "True", "False"].contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statement(port: u16, ms: u64, raw: &str) -> Statement {
        Statement {
            client_port: port,
            logged_ns: ms * 1_000_000,
            step_ns: 1_000_000,
            duration_ns: 0,
            text: shape(raw),
            raw: raw.to_owned(),
            parameters: Vec::new(),
            prepares: false,
        }
    }

    #[test]
    fn a_transaction_belongs_to_the_thread_that_told_its_statements() {
        let log = "1.000000 7 Dispatching <RequestWithSession \"GET '/wiki?rid=100'\">\n\
                   1.000000 8 Dispatching <RequestWithSession \"GET '/ticket/3?rid=101'\">\n\
                   1.001000 7 SQL: SELECT a\n FROM t WHERE id=%s\n1.001100 7 args: (5,)\n\
                   1.001000 8 SQL: SELECT a FROM t WHERE id=%s\n1.001100 8 args: (6,)\n\
                   1.002000 7 SQL: SELECT x FROM y\n1.002000 8 SQL: SELECT x FROM y\n";
        let mut statements = Vec::new();
        for (port, text) in
            [(50, "SELECT a FROM t WHERE id=6"), (51, "SELECT a FROM t WHERE id=5"), (52, "SELECT x FROM y")]
        {
            statements.extend(["BEGIN", text, "ROLLBACK"].map(|text| statement(port, 1002, text)));
        }
        let of = truths(&statements, &told(log));
        assert_eq!(of[..3], [Truth::For(101); 3]);
        assert_eq!(of[3..6], [Truth::For(100); 3]);
        // Both threads told it, then.
        assert_eq!(of[6..], [Truth::Unknown; 3]);
    }
}
