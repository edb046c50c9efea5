//! Real applications against their own logs: three that others wrote, as their registries serve them, each asked a scripted series of
//! pages while txray records it and its database. What txray says is held against what the application and the database logged.

mod commander;
mod compare;
mod drive;
mod http;
mod miniflux;
mod parts;
mod postgres;
mod seen;
mod texts;
mod trac;

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result};

use self::{
    compare::{Compared, compare},
    drive::{Ask, Asked},
    seen::Recording,
};
use crate::{
    dist,
    shell::{command, output, target_dir},
};

/// Requests one after the other.
const SERIAL: u32 = 240;
/// Clients at once, and requests of each.
const CLIENTS: u32 = 8;
const OF_EACH: u32 = 30;
/// Numbers of requests from here on were asked beside others.
const AT_ONCE: u32 = 10_000;

/// An application at work with its database.
trait App {
    /// What it is, with the versions.
    fn name(&self) -> String;
    /// The application's process, and its database's.
    fn pids(&self) -> [u32; 2];
    fn port(&self) -> u16;
    /// The port of its database.
    fn store_port(&self) -> u16;
    /// The request of a number, from one of the clients.
    fn ask(&self, number: u32, client: u32) -> Ask;
    /// Before each series: what has to be new then.
    fn renew(&mut self) -> Result<()> {
        Ok(())
    }
    /// What its own log has of requests.
    fn requests(&self) -> Result<Vec<Logged>>;
    /// What its database's log has of statements, in its order.
    fn statements(&self) -> Result<Vec<Statement>>;
    /// For which request each of the statements was made that were made while several were in flight, by what was logged.
    fn truths(&self, statements: &[Statement], asked: &[Asked]) -> Result<Vec<Truth>>;
    /// How that is known.
    fn how(&self) -> &'static str;
}

/// A request in the application's log.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Logged {
    method: String,
    target: String,
    status: Option<u16>,
    duration_ns: Option<u64>,
}

/// A statement in the database's log.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Statement {
    client_port: u16,
    /// When it was logged, since 1970; the clock's step is beside it.
    logged_ns: u64,
    step_ns: u64,
    duration_ns: u64,
    /// Comparable with what txray shows.
    text: String,
    raw: String,
    parameters: Vec<String>,
    /// A preparation: a statement that is not run yet.
    prepares: bool,
}

impl Statement {
    /// The earliest and the latest instant at which it can have ended.
    fn ended(&self) -> (u64, u64) {
        (self.logged_ns, self.logged_ns + self.step_ns)
    }
}

/// For which request a statement was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Truth {
    For(u32),
    Nobody,
    Unknown,
}

/// Runs all three, or those named in `TXRAY_APPS`, and prints the tables.
pub(super) fn print(built: Option<&Path>) -> Result<()> {
    let txray = match built {
        Some(built) => built.join("txray"),
        None => dist::dist()?,
    };
    let wanted = std::env::var("TXRAY_APPS").unwrap_or_default();
    let is_wanted = |name: &str| wanted.is_empty() || wanted.split(',').any(|one| one == name);
    // The database's own user has to be able to go there.
    let scratch = PathBuf::from(format!("/tmp/txray-apps-{}", std::process::id()));
    let mut compared = Vec::new();
    for name in ["trac", "miniflux", "commander"].into_iter().filter(|name| is_wanted(name)) {
        let dir = scratch.join(name);
        fs::create_dir_all(&dir)?;
        let mut app: Box<dyn App> = match name {
            "trac" => Box::new(trac::Trac::start(&dir)?),
            "miniflux" => Box::new(miniflux::Miniflux::start(&dir)?),
            _ => Box::new(commander::Commander::start(&dir)?),
        };
        compared.push(run(app.as_mut(), &txray, &dir)?);
    }
    if std::env::var_os("TXRAY_KEEP").is_none() {
        fs::remove_dir_all(&scratch)?;
    } else {
        println!("bench: kept in {}", scratch.display());
    }
    println!("\n{}\n\n{}", super::host_line()?, compare::table(&compared));
    Ok(())
}

/// Where the applications are put: they stay, so that the next run has them.
fn installed() -> Result<PathBuf> {
    let dir = target_dir().join("apps");
    fs::create_dir_all(&dir)?;
    Ok(dir)
}

/// One application: the series of requests, recorded, and what came of it.
fn run(app: &mut dyn App, txray: &Path, dir: &Path) -> Result<Compared> {
    println!("bench: {}", app.name());
    // Connections to the database that are there before the tracer are the rule.
    app.renew()?;
    let mut client = http::Client::open(app.port())?;
    for number in 1..=3 {
        client.ask(&app.ask(number, 0))?;
    }
    drop(client);
    let recording = Recording::start(txray, &app.pids(), &dir.join("recording"))?;
    println!(
        "bench: {}: traced from {:.1} s after its start on",
        app.name(),
        recording.started_in.as_secs_f64()
    );
    thread::sleep(Duration::from_millis(500));
    let from = now_ns()?;
    app.renew()?;
    let mut asked = drive::serial(app, 100, SERIAL)?;
    app.renew()?;
    asked.extend(drive::at_once(app, AT_ONCE, CLIENTS, OF_EACH)?);
    thread::sleep(Duration::from_secs(1));
    let to = now_ns()?;
    let seen = recording.stop()?;
    compare(app, &seen, &asked, from, to).with_context(|| app.name())
}

fn now_ns() -> Result<u64> {
    Ok(u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos())?)
}

/// The first line that a program prints for its version.
fn version(program: &Path, arguments: &[&str]) -> Result<String> {
    let text = output(&mut command(&program.to_string_lossy(), arguments))?;
    Ok(text.lines().next().unwrap_or_default().trim().to_owned())
}
