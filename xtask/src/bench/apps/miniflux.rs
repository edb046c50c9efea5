//! Miniflux, a reader of feeds in Go. Each client is a user of its own, whose number or token most statements carry.

use std::{
    collections::HashMap,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use anyhow::{Context as _, Result};

use super::{
    App, CLIENTS, Logged, Statement, Truth,
    drive::{Ask, Asked},
    http::Client,
    installed,
    parts::{Server, free_port},
    postgres::Postgres,
};
use crate::shell::{command, run};

const MODULE: &str = "miniflux.app/v2";
const VERSION: &str = "v2.3.5";
const DATABASE: &str = "miniflux";
const PASSWORD: &str = "test1234";

/// A user, one for each client.
#[derive(Debug)]
struct User {
    id: u64,
    token: String,
    category: u64,
    feed: u64,
}

pub(super) struct Miniflux {
    server: Server,
    database: Postgres,
    users: Vec<User>,
    /// Where its feeds come from: this process.
    feeds: u16,
}

fn program() -> Result<PathBuf> {
    let dir = installed()?.join("go-bin");
    let program = dir.join("miniflux.app");
    if !program.is_file() {
        let mut install = command("go", ["install", &format!("{MODULE}@{VERSION}")]);
        run(install.env("GOBIN", &dir).current_dir(installed()?))?;
    }
    Ok(program)
}

/// Serves one feed at any path, one connection after the other.
fn serve_feeds() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    let feed = "<?xml version=\"1.0\"?><rss version=\"2.0\"><channel><title>News</title><link>http://127.0.0.1/</link>\
                <description>d</description><item><title>One</title><link>http://127.0.0.1/1</link><guid>1</guid>\
                <description>text</description></item></channel></rss>";
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
            // The head ends with an empty line.
            let _ = lines.find(String::is_empty);
            let _ = write!(
                &stream,
                "HTTP/1.1 200 OK\r\nContent-Type: application/rss+xml\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{feed}",
                feed.len()
            );
        }
    });
    Ok(port)
}

/// A question to its interface whose answer is JSON.
fn json(
    client: &mut Client,
    header: (&'static str, String),
    method: &'static str,
    target: &str,
    body: String,
) -> Result<serde_json::Value> {
    let ask = Ask { method, target: target.to_owned(), headers: vec![header], body };
    let answer = client.ask(&ask)?;
    let text = String::from_utf8_lossy(&answer.body);
    serde_json::from_str(&text).with_context(|| format!("{method} {target}: {} {text}", answer.status))
}

/// Of HTTP's basic authentication.
fn base64(text: &str) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for three in text.as_bytes().chunks(3) {
        let bits = (0..3).fold(0_u32, |bits, at| bits << 8 | u32::from(three.get(at).copied().unwrap_or(0)));
        for at in 0..4_usize {
            let letter = LETTERS[(bits >> (18 - 6 * at)) as usize & 63];
            out.push(if at <= three.len() { char::from(letter) } else { '=' });
        }
    }
    out
}

impl Miniflux {
    pub(super) fn start(dir: &Path) -> Result<Miniflux> {
        let program = program()?;
        let database = Postgres::start(dir, DATABASE)?;
        let port = free_port()?;
        let mut miniflux = Command::new(program);
        let url = format!("postgres://postgres@127.0.0.1:{}/{DATABASE}?sslmode=disable", database.port());
        miniflux.envs([
            ("DATABASE_URL", url.as_str()),
            ("LISTEN_ADDR", &format!("127.0.0.1:{port}")),
            ("RUN_MIGRATIONS", "1"),
            ("CREATE_ADMIN", "1"),
            ("ADMIN_USERNAME", "admin"),
            ("ADMIN_PASSWORD", PASSWORD),
            ("LOG_LEVEL", "debug"),
            ("LOG_FORMAT", "json"),
            ("DISABLE_SCHEDULER_SERVICE", "1"),
            ("FETCHER_ALLOW_PRIVATE_NETWORKS", "1"),
        ]);
        let server = Server::start(&mut miniflux, port, &dir.join("miniflux.log"))?;
        let mut miniflux = Miniflux { server, database, users: Vec::new(), feeds: serve_feeds()? };
        miniflux.add_users()?;
        Ok(miniflux)
    }

    fn add_users(&mut self) -> Result<()> {
        let mut client = Client::open(self.port())?;
        let basic =
            |name: &str| ("Authorization", format!("Basic {}", base64(&format!("{name}:{PASSWORD}"))));
        for at in 0..CLIENTS {
            let name = format!("client{at}");
            let body = format!("{{\"username\":\"{name}\",\"password\":\"{PASSWORD}\"}}");
            let user = json(&mut client, basic("admin"), "POST", "/v1/users", body)?;
            let key = json(
                &mut client,
                basic(&name),
                "POST",
                "/v1/api-keys",
                "{\"description\":\"bench\"}".to_owned(),
            )?;
            let categories = json(&mut client, basic(&name), "GET", "/v1/categories", String::new())?;
            let category = categories[0]["id"].as_u64().context("no category")?;
            let body = format!(
                "{{\"feed_url\":\"http://127.0.0.1:{}/{at}.xml\",\"category_id\":{category}}}",
                self.feeds
            );
            let feed = json(&mut client, basic(&name), "POST", "/v1/feeds", body)?;
            self.users.push(User {
                id: user["id"].as_u64().with_context(|| format!("{user}"))?,
                token: key["token"].as_str().with_context(|| format!("{key}"))?.to_owned(),
                category,
                feed: feed["feed_id"].as_u64().with_context(|| format!("{feed}"))?,
            });
        }
        Ok(())
    }
}

impl App for Miniflux {
    fn name(&self) -> String {
        format!(
            "Miniflux {} (Go, goroutines), lib/pq, PostgreSQL {}",
            VERSION.trim_start_matches('v'),
            self.database.version
        )
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

    fn ask(&self, number: u32, client: u32) -> Ask {
        let user = &self.users[client as usize];
        let (method, target, body) = match number % 10 {
            0 => ("GET", format!("/v1/me?rid={number}"), String::new()),
            1 => ("GET", format!("/v1/categories?rid={number}"), String::new()),
            2 => ("GET", format!("/v1/feeds?rid={number}"), String::new()),
            3 | 4 => ("GET", format!("/v1/entries?limit=10&rid={number}"), String::new()),
            5 => ("GET", format!("/v1/feeds/counters?rid={number}"), String::new()),
            6 => ("GET", format!("/v1/feeds/{}/entries?rid={number}", user.feed), String::new()),
            7 => (
                "PUT",
                format!("/v1/categories/{}?rid={number}", user.category),
                format!("{{\"title\":\"All {number}\"}}"),
            ),
            8 => ("GET", format!("/v1/categories/{}/entries?rid={number}", user.category), String::new()),
            // It asks the feed's server itself.
            _ => (
                "POST",
                format!("/v1/discover?rid={number}"),
                format!("{{\"url\":\"http://127.0.0.1:{}/{number}.xml\"}}", self.feeds),
            ),
        };
        Ask { method, target, headers: vec![("X-Auth-Token", user.token.clone())], body }
    }

    fn requests(&self) -> Result<Vec<Logged>> {
        let mut requests = Vec::new();
        for line in fs::read_to_string(&self.server.log)?.lines() {
            let Ok(line) = serde_json::from_str::<serde_json::Value>(line) else { continue };
            if line["msg"] != "Incoming request" {
                continue;
            }
            let text = |key: &str| line["request"][key].as_str().unwrap_or_default().to_owned();
            requests.push(Logged {
                method: text("method"),
                target: text("uri"),
                status: None,
                duration_ns: line["request"]["execution_time"].as_u64(),
            });
        }
        Ok(requests)
    }

    fn statements(&self) -> Result<Vec<Statement>> {
        self.database.statements(DATABASE)
    }

    fn truths(&self, statements: &[Statement], asked: &[Asked]) -> Result<Vec<Truth>> {
        let by_token: HashMap<&str, u32> =
            (0..).zip(&self.users).map(|(at, user)| (&*user.token, at)).collect();
        let by_id: HashMap<String, u32> =
            (0..).zip(&self.users).map(|(at, user)| (user.id.to_string(), at)).collect();
        let mut truths: Vec<Truth> = statements
            .iter()
            .map(|statement| {
                let client = client_of(statement, &by_token, &by_id);
                let (earliest, latest) = statement.ended();
                let mut of = asked.iter().filter(|one| {
                    Some(one.client) == client && one.from_ns <= latest && earliest <= one.to_ns
                });
                match (of.next(), of.next()) {
                    (Some(one), None) => Truth::For(one.number),
                    _ => Truth::Unknown,
                }
            })
            .collect();
        // What is prepared is what is run next on that connection; it has no parameters yet.
        for at in 0..statements.len() {
            let one = &statements[at];
            if one.prepares {
                let next =
                    (at + 1..statements.len()).find(|next| statements[*next].client_port == one.client_port);
                truths[at] = next
                    .filter(|next| statements[*next].text == one.text)
                    .map_or(Truth::Unknown, |next| truths[next]);
            }
        }
        Ok(truths)
    }

    fn how(&self) -> &'static str {
        "each client is a user, whose number or token stands in the statement's parameters in the database's log; its requests are one after the other"
    }
}

/// The client whose user a statement names.
fn client_of(
    statement: &Statement,
    by_token: &HashMap<&str, u32>,
    by_id: &HashMap<String, u32>,
) -> Option<u32> {
    let token = statement.parameters.iter().find_map(|value| by_token.get(&**value));
    if let Some(client) = token {
        return Some(*client);
    }
    let mut keys = vec!["user_id=$", "u.id=$"];
    if statement.text.contains("users") {
        keys.push("whereid=$");
    }
    let number = keys.iter().find_map(|key| {
        let (_, rest) = statement.text.split_once(key)?;
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse::<usize>().ok()
    })?;
    by_id.get(statement.parameters.get(number.checked_sub(1)?)?).copied()
}

#[cfg(test)]
mod tests {
    use super::base64;

    #[test]
    fn letters_stand_for_six_bits_each() {
        for (text, coded) in
            [("", ""), ("M", "TQ=="), ("Ma", "TWE="), ("Man", "TWFu"), ("admin:x", "YWRtaW46eA==")]
        {
            assert_eq!(base64(text), coded);
        }
    }
}
