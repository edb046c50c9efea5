//! A PostgreSQL of its own, which logs each statement with its duration, and that log read back.

use std::{
    collections::HashMap,
    fs,
    os::unix::{fs::chown, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};

use super::{
    Statement,
    parts::{Server, free_port},
    texts::shape,
};
use crate::shell::{command, run_quietly};

/// Where Debian keeps the programs themselves: what is in the PATH is a script around them.
const PROGRAMS: &str = "/usr/lib/postgresql";
/// Process, client, time in ms, SQLSTATE, database.
const PREFIX: &str = "log_line_prefix=%p %r %n %e %d|";
/// Its clock's step in the log.
const STEP_NS: u64 = 1_000_000;

#[derive(Debug)]
pub(super) struct Postgres {
    server: Server,
    pub(super) version: String,
}

fn programs() -> Result<PathBuf> {
    let mut versions: Vec<PathBuf> = fs::read_dir(PROGRAMS)
        .context("apt-get install postgresql")?
        .flatten()
        .map(|entry| entry.path())
        .collect();
    versions.sort();
    Ok(versions.pop().context("apt-get install postgresql")?.join("bin"))
}

impl Postgres {
    /// With an empty database of that name.
    pub(super) fn start(dir: &Path, database: &str) -> Result<Postgres> {
        let programs = programs()?;
        let passwd = fs::read_to_string("/etc/passwd")?;
        let user = passwd.lines().find(|line| line.starts_with("postgres:")).context("no user postgres")?;
        let ids: Vec<u32> = user.split(':').skip(2).take(2).flat_map(str::parse).collect();
        let [uid, gid] = ids[..] else { anyhow::bail!("the user postgres has no numbers") };
        let above = dir.join("postgres");
        fs::create_dir_all(&above)?;
        chown(&above, Some(uid), Some(gid))?;
        let data = above.join("data");
        // It refuses root.
        let as_user = |program: &str| {
            let mut command = Command::new(programs.join(program));
            command.uid(uid).gid(gid).current_dir(&above).env("HOME", &above).arg("-D").arg(&data);
            command
        };
        let mut initdb = as_user("initdb");
        initdb.args(["-A", "trust", "-U", "postgres", "-N", "--no-locale", "-E", "UTF8"]);
        run_quietly(initdb.stdout(Stdio::null()))?;
        let port = free_port()?;
        let mut postgres = as_user("postgres");
        postgres.args(["-p", &port.to_string(), "-k"]).arg(&above);
        for setting in [
            "listen_addresses=127.0.0.1",
            "fsync=off",
            "log_min_duration_statement=0",
            "log_timezone=UTC",
            PREFIX,
        ] {
            postgres.args(["-c", setting]);
        }
        // A fast end: it would wait for its clients else.
        let server = Server::start(&mut postgres, port, &dir.join("postgres.log"))?.ended_by(libc::SIGINT);
        let version = super::version(&programs.join("postgres"), &["--version"])?;
        let version = version.split(' ').nth(2).unwrap_or_default().to_owned();
        let postgres = Postgres { server, version };
        postgres.psql("postgres", &format!("CREATE DATABASE {database}"))?;
        Ok(postgres)
    }

    pub(super) fn psql(&self, database: &str, statement: &str) -> Result<()> {
        let mut psql = command("psql", ["-h", "127.0.0.1", "-U", "postgres", "-q", "-d", database]);
        run_quietly(psql.args(["-p", &self.port().to_string(), "-c", statement]).stdout(Stdio::null()))
    }

    pub(super) fn pid(&self) -> u32 {
        self.server.pid()
    }

    pub(super) fn port(&self) -> u16 {
        self.server.port
    }

    /// The statements of one database, in the order of the log.
    pub(super) fn statements(&self, database: &str) -> Result<Vec<Statement>> {
        let text = fs::read(&self.server.log)?;
        Ok(parse(&String::from_utf8_lossy(&text), database))
    }
}

/// Preparations and runs; what binds parameters to them belongs to the run behind it.
fn parse(text: &str, database: &str) -> Vec<Statement> {
    let mut statements: Vec<Statement> = Vec::new();
    // What was told last of each connection: a run, whose parameters come behind it.
    let mut runs: HashMap<u16, usize> = HashMap::new();
    for entry in entries(text) {
        let Some((prefix, message)) = entry.split_once('|') else { continue };
        let fields: Vec<&str> = prefix.split(' ').collect();
        let &[_, client, time, _, of] = &fields[..] else { continue };
        if of != database {
            continue;
        }
        let port = client.rsplit_once('(').and_then(|(_, port)| port.trim_end_matches(')').parse().ok());
        let Some(client_port) = port else { continue };
        if let Some(parameters) = message.strip_prefix("DETAIL:  parameters: ") {
            if let Some(run) = runs.remove(&client_port) {
                statements[run].parameters = values(parameters);
            }
            continue;
        }
        let Some(rest) = message.strip_prefix("LOG:  duration: ") else { continue };
        let Some((duration, rest)) = rest.split_once(" ms  ") else { continue };
        let (kind, statement) = rest.split_once(": ").unwrap_or((rest, ""));
        let prepares = kind.starts_with("parse ");
        runs.remove(&client_port);
        if !prepares && !kind.starts_with("execute ") && kind != "statement" {
            continue;
        }
        let (Ok(duration_ms), Ok(time)) = (duration.parse::<f64>(), time.replace('.', "").parse::<u64>())
        else {
            continue;
        };
        if !prepares {
            runs.insert(client_port, statements.len());
        }
        statements.push(Statement {
            client_port,
            logged_ns: time * STEP_NS,
            step_ns: STEP_NS,
            duration_ns: (duration_ms * 1e6) as u64,
            text: shape(statement),
            raw: statement.to_owned(),
            parameters: Vec::new(),
            prepares,
        });
    }
    statements
}

/// Lines, each with those that go on from it.
fn entries(text: &str) -> Vec<String> {
    let mut entries: Vec<String> = Vec::new();
    for line in text.lines() {
        match (line.strip_prefix('\t'), entries.last_mut()) {
            (Some(more), Some(last)) => {
                last.push('\n');
                last.push_str(more);
            }
            _ => entries.push(line.to_owned()),
        }
    }
    entries
}

/// `$1 = '1', $2 = NULL`.
fn values(text: &str) -> Vec<String> {
    let mut values = Vec::new();
    let mut rest = text;
    while let Some((_, value)) = rest.split_once(" = ") {
        let Some(quoted) = value.strip_prefix('\'') else {
            let end = value.find(", $").unwrap_or(value.len());
            values.push(value[..end].to_owned());
            rest = &value[end..];
            continue;
        };
        let end = quoted.match_indices('\'').map(|(at, _)| at).find(|at| {
            let behind = &quoted[at + 1..];
            behind.is_empty() || behind.starts_with(", $")
        });
        let end = end.unwrap_or(quoted.len());
        values.push(quoted[..end].replace("''", "'"));
        rest = &quoted[end..];
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_have_their_parameters_and_lines_that_go_on_are_one() {
        let log = "7 127.0.0.1(40) 1795825882.497 00000 app|LOG:  duration: 0.200 ms  parse <unnamed>: SELECT $1\n\
                   7 127.0.0.1(40) 1795825882.498 00000 app|LOG:  duration: 0.010 ms  bind <unnamed>: SELECT $1\n\
                   7 127.0.0.1(40) 1795825882.498 00000 app|DETAIL:  parameters: $1 = 'a, $2', $2 = NULL\n\
                   7 127.0.0.1(40) 1795825882.499 00000 app|LOG:  duration: 0.050 ms  execute <unnamed>: SELECT $1,\n\t 2\n\
                   7 127.0.0.1(40) 1795825882.499 00000 app|DETAIL:  parameters: $1 = 'it''s', $2 = NULL\n\
                   7 127.0.0.1(40) 1795825882.500 00000 app|LOG:  duration: 0.010 ms  bind <unnamed>: SELECT $1\n\
                   7 127.0.0.1(40) 1795825882.500 00000 app|DETAIL:  parameters: $1 = 'not its'\n\
                   8 127.0.0.1(41) 1795825882.499 00000 other|LOG:  duration: 0.050 ms  statement: SELECT 1\n";
        let found = parse(log, "app");
        assert_eq!(found.len(), 2);
        assert!(found[0].prepares && !found[1].prepares);
        assert_eq!((&*found[1].text, found[1].duration_ns), ("select$1,?", 50_000));
        assert_eq!(found[1].parameters, ["it's", "NULL"]);
        assert_eq!(found[1].logged_ns, 1_795_825_882_499_000_000);
    }
}
