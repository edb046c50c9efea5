//! Redis Commander, a page on what is in a Redis, in Node: one loop, one connection to Redis. Each request asks for a key of its own.

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::{
    AT_ONCE, App, CLIENTS, Logged, OF_EACH, SERIAL, Statement, Truth,
    drive::{Ask, Asked},
    http::Client,
    installed,
    parts::{Server, free_port},
};
use crate::shell::{command, output, run};

const VERSION: &str = "0.9.0";
/// Its log has seconds.
const SECOND_NS: u64 = 1_000_000_000;
/// They are those of a clock that goes on once a tick, and may be late by one.
const STEP_NS: u64 = SECOND_NS + 10_000_000;

pub(super) struct Commander {
    server: Server,
    redis: Server,
    version: String,
    token: String,
}

fn program() -> Result<PathBuf> {
    let dir = installed()?.join("node");
    let program = dir.join("node_modules/redis-commander/bin/redis-commander.js");
    if !program.is_file() {
        fs::create_dir_all(&dir)?;
        let mut install = command("npm", ["install", "--no-audit", "--no-fund", "--silent"]);
        run(install.arg(format!("redis-commander@{VERSION}")).current_dir(&dir))?;
    }
    Ok(program)
}

/// The key that a request is about.
fn key(number: u32) -> String {
    format!("key{number}:")
}

impl Commander {
    pub(super) fn start(dir: &Path) -> Result<Commander> {
        let program = program()?;
        let port = free_port()?;
        let mut redis =
            command("redis-server", ["--bind", "127.0.0.1", "--save", "", "--port", &port.to_string()]);
        redis.args(["--slowlog-log-slower-than", "0", "--slowlog-max-len", "1000000"]).current_dir(dir);
        let redis = Server::start(&mut redis, port, &dir.join("redis.log"))?;
        let version = super::version(Path::new("redis-server"), &["--version"])?;
        let version =
            version.split("v=").nth(1).and_then(|rest| rest.split(' ').next()).unwrap_or("").to_owned();
        let numbers = (1..=3).chain(100..100 + SERIAL).chain(AT_ONCE..AT_ONCE + CLIENTS * OF_EACH);
        for number in numbers {
            let mut cli = command(
                "redis-cli",
                ["-p", &port.to_string(), "hset", &format!("{}h", key(number)), "a", "1", "b", "2"],
            );
            output(&mut cli)?;
        }
        let http = free_port()?;
        let mut node = Command::new("node");
        node.arg(program).args(["-a", "127.0.0.1", "-p", &http.to_string(), "--redis-host", "127.0.0.1"]);
        node.args(["--redis-port", &port.to_string(), "--noload", "--nosave"]).current_dir(dir);
        node.env("DEBUG", "express:router").env("DEBUG_COLORS", "no");
        let server = Server::start(&mut node, http, &dir.join("commander.log"))?;
        Ok(Commander { server, redis, version, token: String::new() })
    }
}

impl App for Commander {
    fn name(&self) -> String {
        let node = output(&mut command("node", ["--version"])).unwrap_or_default();
        format!(
            "Redis Commander {VERSION} (Node {}, one loop), ioredis, Redis {}",
            node.trim().trim_start_matches('v'),
            self.version
        )
    }

    fn pids(&self) -> [u32; 2] {
        [self.server.pid(), self.redis.pid()]
    }

    fn port(&self) -> u16 {
        self.server.port
    }

    fn store_port(&self) -> u16 {
        self.redis.port
    }

    fn renew(&mut self) -> Result<()> {
        // Good for a minute.
        let ask = Ask { method: "POST", target: "/signin".to_owned(), ..Ask::default() };
        let answer = Client::open(self.port())?.ask(&ask)?;
        let answer: serde_json::Value = serde_json::from_slice(&answer.body)?;
        self.token = answer["bearerToken"].as_str().context("no token")?.to_owned();
        Ok(())
    }

    fn ask(&self, number: u32, _client: u32) -> Ask {
        let (key, at) = (key(number), format!("R:127.0.0.1:{}:0", self.redis.port));
        let target = match number % 4 {
            0 => format!("/apiv2/keystree/{at}/{key}?rid={number}"),
            1 => format!("/apiv2/keys/{at}/{key}*?rid={number}"),
            _ => format!("/apiv2/key/{at}/{key}h?rid={number}"),
        };
        Ask {
            method: "GET",
            target,
            headers: vec![("Authorization", format!("Bearer {}", self.token))],
            body: String::new(),
        }
    }

    fn requests(&self) -> Result<Vec<Logged>> {
        let (mut requests, mut told) = (Vec::new(), HashSet::new());
        for line in fs::read_to_string(&self.server.log)?.lines() {
            let Some((_, rest)) = line.split_once("express:router dispatching ") else { continue };
            let Some((method, target)) = rest.split_once(' ') else { continue };
            // Routers within routers tell it again, also with what is left of the path.
            let is_again = !target.starts_with("/apiv2/") || !told.insert(format!("{method} {target}"));
            if !is_again {
                requests.push(Logged {
                    method: method.to_owned(),
                    target: target.to_owned(),
                    status: None,
                    duration_ns: None,
                });
            }
        }
        Ok(requests)
    }

    fn statements(&self) -> Result<Vec<Statement>> {
        let port = self.redis.port.to_string();
        let text = output(&mut command("redis-cli", ["-p", &port, "--json", "slowlog", "get", "-1"]))?;
        let entries: Vec<(u64, u64, u64, Vec<String>, String, String)> = serde_json::from_str(&text)?;
        let mut statements = Vec::new();
        // The newest first.
        for (_, seconds, micros, words, client, name) in entries.into_iter().rev() {
            if name != "redis-commander" {
                continue;
            }
            let client_port =
                client.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).context("no port")?;
            statements.push(Statement {
                client_port,
                logged_ns: seconds * SECOND_NS,
                step_ns: STEP_NS,
                duration_ns: micros * 1000,
                text: shown(&words),
                raw: words.join(" "),
                parameters: words,
                prepares: false,
            });
        }
        Ok(statements)
    }

    fn truths(&self, statements: &[Statement], _asked: &[Asked]) -> Result<Vec<Truth>> {
        Ok(statements
            .iter()
            .map(|statement| {
                let number = statement
                    .raw
                    .split_once("key")
                    .and_then(|(_, rest)| rest.split(':').next()?.parse().ok());
                number.map_or(Truth::Unknown, Truth::For)
            })
            .collect())
    }

    fn how(&self) -> &'static str {
        "each request asks for a key of its own, which stands in each of its commands in Redis' log"
    }
}

/// A command with its key; of `SCAN` the words are left out, none of which is a key.
fn shown(words: &[String]) -> String {
    let mut shown = words.first().map(|word| word.to_lowercase()).unwrap_or_default();
    if shown == "scan" {
        shown.push_str(&"?".repeat(words.len() - 1));
    } else {
        words.iter().skip(1).take(1).for_each(|word| shown.push_str(&word.to_lowercase()));
    }
    shown
}
