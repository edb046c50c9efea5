//! The kernel's own TLS: programs give it clear text, and a file to send with `SSL_sendfile`; it encrypts.

use std::path::Path;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use serde::Deserialize;

use super::{
    guest::{Console, tail},
    image::Image,
    kernels::Kernel,
    live::{add_libraries, libraries_of},
    scenarios::{Summary, missed},
    tls::UNCOUNTED,
};

/// Connections of each version of TLS to each server, for the file.
const N: u64 = 1;
const VERSIONS: u64 = 2;
const SERVERS: u64 = 3;
/// Connections of a run: those, and of each version of TLS one to each server for what is big, and one that gives it to nginx.
const CONNECTIONS: u64 = VERSIONS * (N * SERVERS + SERVERS + 1);
/// The file that is asked for: more than the 64 KiB that one pass of sendfile takes.
const FILE_BYTES: u64 = 200_000;
/// The big one: more than nginx asks one call of `SSL_sendfile` for (2 MiB), and no number of whole records.
const BIG_BYTES: u64 = 3_000_001;

/// What is asked for.
struct Asked {
    operation: &'static str,
    /// How often, on all connections.
    n: u64,
    status_code: u16,
    /// 0: not always the same.
    request_bytes: u64,
    /// Of the answer, those that are the file's.
    file_bytes: u64,
    /// Before them, those of the servers' heads: at least and at most.
    head_bytes: (u64, u64),
}

/// `HTTP/1.0 200 ok` and `Content-type: text/plain`.
const PLAIN_HEAD: (u64, u64) = (45, 45);
/// nginx'.
const NGINX_HEAD: (u64, u64) = (100, 500);

/// Three times on a connection, the last time in other words.
const KEPT: Asked = Asked {
    operation: "GET /kept",
    n: 3 * N * VERSIONS,
    status_code: 200,
    request_bytes: 0,
    file_bytes: FILE_BYTES,
    head_bytes: NGINX_HEAD,
};

const ASKED: [Asked; 5] = [
    Asked {
        operation: "GET /written",
        n: N * VERSIONS,
        status_code: 200,
        request_bytes: "GET /written HTTP/1.0\r\n\r\n".len() as u64,
        file_bytes: FILE_BYTES,
        head_bytes: PLAIN_HEAD,
    },
    Asked {
        operation: "GET /sent",
        n: N * VERSIONS,
        status_code: 200,
        request_bytes: "GET /sent HTTP/1.0\r\n\r\n".len() as u64,
        file_bytes: FILE_BYTES,
        head_bytes: PLAIN_HEAD,
    },
    KEPT,
    // Of all servers.
    Asked {
        operation: "GET /big",
        n: SERVERS * VERSIONS,
        status_code: 200,
        request_bytes: "GET /big HTTP/1.0\r\n\r\n".len() as u64,
        file_bytes: BIG_BYTES,
        head_bytes: (PLAIN_HEAD.0, NGINX_HEAD.1),
    },
    Asked {
        operation: "PUT /up/big",
        n: VERSIONS,
        status_code: 201,
        request_bytes: "PUT /up/big HTTP/1.0\r\nContent-Length: 3000001\r\n\r\n".len() as u64 + BIG_BYTES,
        file_bytes: 0,
        head_bytes: NGINX_HEAD,
    },
];

const CONFIGURATION: &[u8] = b"openssl_conf = init\n[init]\nssl_conf = ssl\n[ssl]\nsystem_default = default\n[default]\nOptions = KTLS\n";

const NGINX: &[u8] = b"user root;
daemon off;
worker_processes 1;
pid /tmp/nginx.pid;
error_log stderr notice;
events { }
http {
    access_log off;
    sendfile on;
    keepalive_timeout 900;
    client_body_temp_path /tmp/nginx.1;
    proxy_temp_path /tmp/nginx.2;
    fastcgi_temp_path /tmp/nginx.3;
    uwsgi_temp_path /tmp/nginx.4;
    scgi_temp_path /tmp/nginx.5;
    server {
        listen 127.0.0.1:4436 ssl;
        ssl_certificate /certificate.pem;
        ssl_certificate_key /key.pem;
        ssl_protocols TLSv1.2 TLSv1.3;
        ssl_conf_command Options KTLS;
        root /;
        location /up/ {
            root /tmp;
            client_max_body_size 8m;
            dav_methods PUT;
            create_full_put_path on;
        }
    }
}
";

/// The modules, the file, nginx, and what tells OpenSSL to let the kernel encrypt.
pub(super) fn add_to(image: &mut Image, kernel: &Kernel) -> Result<()> {
    if kernel.modules.is_empty() {
        return Ok(());
    }
    image.directory("modules")?;
    for module in &kernel.modules {
        let name = module.file_name().context("a module's name")?.to_string_lossy();
        image.copy(&format!("modules/{name}"), module)?;
    }
    for (name, n) in [("written", FILE_BYTES), ("sent", FILE_BYTES), ("kept", FILE_BYTES), ("big", BIG_BYTES)]
    {
        let content: Vec<u8> = (b'a'..=b'z').cycle().take(n as usize).collect();
        image.file(name, 0o644, &content)?;
    }
    image.file("ktls.cnf", 0o644, CONFIGURATION)?;
    image.file("nginx.conf", 0o644, NGINX)?;
    image.directory("etc")?;
    image.file("etc/passwd", 0o644, b"root:x:0:0::/:\n")?;
    image.file("etc/group", 0o644, b"root:x:0:\n")?;
    let nginx = Path::new("/usr/sbin/nginx");
    image.copy("nginx", nginx)?;
    add_libraries(image, &libraries_of(nginx)?)
}

/// Whether it is tried: where the hooks of sockets ask what sits on top of TCP.
pub(super) fn is_tried(kernel: &Kernel) -> bool {
    kernel.is_at_least("6.3")
}

/// Names, and what the guest runs.
fn steps() -> Vec<(&'static str, String)> {
    vec![
        ("ktls", format!("ktls {N}")),
        ("ktls-opaque", format!("ktls {N} --tls opaque")),
        ("ktls-middle", "ktls_middle".to_owned()),
        ("ktls-syscall", format!("ktls {N} --hooks syscall")),
    ]
}

/// The guest's steps.
pub(super) fn script(kernel: &Kernel) -> String {
    if kernel.modules.is_empty() || !is_tried(kernel) {
        return String::new();
    }
    let all = steps().into_iter();
    all.map(|(name, what)| format!("step {name} {what}\nstep {name}/replay replay\n")).collect()
}

/// Each request was seen once at each end, inside, with all its bytes; from outside, none by another name than that of turns of TLS.
pub(super) fn check(kernel: &Kernel, console: &Console, note: &mut dyn FnMut(&str, Result<String>)) {
    if kernel.modules.is_empty() || !is_tried(kernel) {
        if is_tried(kernel) {
            note("ktls", Err(anyhow!("the kernel's modules could not be had")));
        }
        return;
    }
    for (name, _) in steps() {
        let n_uncounted = if kernel.is_at_least("7.0") { UNCOUNTED } else { 0 };
        let n_missed = n_uncounted + console.step(name).map_or(0, |step| missed(&step.output));
        let outcome = console.step(name).and_then(|step| {
            ensure!(step.code == 0, "exit code {}:\n{}", step.code, tail(&step.output, 25));
            let output = &step.output;
            match name {
                "ktls-middle" => check_middle(output, n_missed, n_uncounted),
                "ktls-opaque" => Ok(format!("{}, {}", check_outside(output, n_missed)?, used(output, 2)?)),
                // On the wire there are gaps, which are counted: what calls move is no part of the sequence numbers.
                "ktls-syscall" => check_inside(output, &ASKED, n_missed, n_uncounted, false),
                _ => {
                    let counts = check_inside(output, &ASKED, n_missed, n_uncounted, true)?;
                    Ok(format!("{counts}, {}", used(output, 1)?))
                }
            }
        });
        note(name, outcome);
        let replay = format!("{name}/replay");
        let outcome = console.step(&replay).and_then(|step| {
            ensure!(step.code == 0, "exit code {}:\n{}", step.code, tail(&step.output, 25));
            Ok("the same".to_owned())
        });
        note(&replay, outcome);
    }
}

#[derive(Debug, Deserialize)]
struct Row {
    role: String,
    operation: String,
    status_code: Option<u16>,
    request_bytes: u64,
    response_bytes: u64,
    end: String,
    confidence: String,
    tls: Option<Tls>,
}

#[derive(Debug, Deserialize)]
struct Tls {
    library: Option<String>,
}

fn rows(output: &str) -> Result<Vec<Row>> {
    let lines = output.lines().filter(|line| line.starts_with("{\"start_time_ns\""));
    lines.map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
}

impl Asked {
    /// Whether all of it is told, as it was.
    fn is_whole(&self, row: &Row) -> bool {
        let (least, most) = self.head_bytes;
        row.status_code == Some(self.status_code)
            && row.end == "answered"
            && row.confidence == "complete"
            && (row.request_bytes == self.request_bytes || self.request_bytes == 0)
            && (self.file_bytes + least..=self.file_bytes + most).contains(&row.response_bytes)
    }
}

fn check_inside(
    output: &str,
    all: &[Asked],
    n_missed: u64,
    n_uncounted: u64,
    is_lossless: bool,
) -> Result<String> {
    let (rows, summary) = (rows(output)?, Summary::of(output)?);
    let inside: Vec<&Row> = rows
        .iter()
        .filter(|row| row.tls.as_ref().and_then(|tls| tls.library.as_deref()) == Some("openssl"))
        .collect();
    let (mut told, mut wanted) = (0, 0);
    for asked in all {
        let Asked { operation, n, .. } = *asked;
        // What each end says that an answer had.
        let mut by_role = Vec::new();
        for role in ["server", "client"] {
            let found = inside.iter().filter(|row| row.operation == operation && row.role == role);
            let found: Vec<&Row> = found.copied().collect();
            if let (0, Some(row)) = (n_missed, found.iter().find(|row| !asked.is_whole(row))) {
                bail!("{row:?}");
            }
            let mut bytes: Vec<u64> = found.iter().map(|row| row.response_bytes).collect();
            bytes.sort_unstable();
            by_role.push(bytes);
        }
        let n_found = by_role.iter().map(|found| found.len() as u64);
        let is_right = match n_missed {
            0 => n_found.clone().all(|found| found == n) && by_role[0] == by_role[1],
            _ => n_found.clone().all(|found| found <= n),
        };
        ensure!(is_right, "{by_role:?} bytes of `{operation}`, not {n} at each end, the same");
        told += n_found.sum::<u64>();
        wanted += 2 * n;
    }
    ensure!(told == inside.len() as u64, "something else inside: {inside:#?}");
    turns_only(rows.iter().filter(|row| row.tls.as_ref().is_none_or(|tls| tls.library.is_none())))?;
    if n_missed != 0 {
        let most = summary.most_unknown() + n_uncounted;
        ensure!(wanted <= told + most, "{told} of {wanted}, {most} at most are known to be lost");
        return Ok(format!(
            "{told} of {wanted}, at most {most} lost (the kernel ran no probe for {n_missed} calls)"
        ));
    }
    if is_lossless {
        summary.lost_nothing()?;
    }
    Ok(format!("{told} requests inside"))
}

/// Of connections that were there before, each request behind the tracer's start, and nothing else.
fn check_middle(output: &str, n_missed: u64, n_uncounted: u64) -> Result<String> {
    let kept = Asked { n: 2 * VERSIONS, ..KEPT };
    let n = rows(output)?.len() as u64;
    ensure!(n <= 2 * kept.n, "{n} rows, not {}", 2 * kept.n);
    check_inside(output, &[kept], n_missed, n_uncounted, true)
}

fn check_outside(output: &str, n_missed: u64) -> Result<String> {
    let (rows, summary) = (rows(output)?, Summary::of(output)?);
    turns_only(rows.iter())?;
    let n = 2 * CONNECTIONS;
    let found = summary.n_of("TLS handshake").0;
    ensure!(found >= n || n_missed != 0, "{found} turns of handshakes, not {n}");
    if n_missed == 0 {
        summary.lost_nothing()?;
    }
    Ok(format!("{} turns", rows.len()))
}

/// What is told of the wire is turns of TLS.
fn turns_only<'a>(mut rows: impl Iterator<Item = &'a Row>) -> Result<()> {
    match rows.find(|row| !["TLS", "TLS handshake"].contains(&row.operation.as_str())) {
        Some(row) => Err(anyhow!("no turn of TLS: {row:?}")),
        None => Ok(()),
    }
}

/// The kernel did encrypt, for both ends of each connection, and decrypt at least for those of TLS 1.2 (OpenSSL 3.0 leaves it no more).
fn used(output: &str, n_runs: u64) -> Result<String> {
    let n_of = |name: &str| {
        let mut lines = output.lines().filter_map(|line| line.split_once(char::is_whitespace));
        let value =
            lines.find(|(key, _)| *key == name).and_then(|(_, value)| value.trim().parse::<u64>().ok());
        value.with_context(|| format!("no {name} in /proc/net/tls_stat"))
    };
    let (sent, received, failed) = (n_of("TlsTxSw")?, n_of("TlsRxSw")?, n_of("TlsDecryptError")?);
    // It counts from the boot on.
    let all = n_runs * 2 * CONNECTIONS;
    let least = all / VERSIONS;
    ensure!(
        sent == all && (least..=all).contains(&received) && failed == 0,
        "the kernel encrypted for {sent} ends, not {all}, and decrypted for {received}, not {least} to {all}; {failed} errors"
    );
    Ok(format!("the kernel encrypted for {sent} ends and decrypted for {received}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a guest prints: rows of what is inside, as often as each is asked for but for `spare` of one, with `short` bytes too few where the server tells
    /// an answer, a row of the wire, and the summary.
    fn printed(spare: u64, short: u64, operation: &str, high: u64) -> String {
        let mut text = String::new();
        let mut count = 0;
        let mut row = |role: &str, operation: &str, library: &str, status: u16, bytes: [u64; 2]| {
            let [request, response] = bytes;
            text += &format!(
                "{{\"start_time_ns\":1,\"role\":\"{role}\",\"operation\":\"{operation}\",\"status_code\":{status},\
                 \"tls\":{{\"library\":{library}}},\"request_bytes\":{request},\"response_bytes\":{response},\
                 \"end\":\"answered\",\"confidence\":\"complete\"}}\n"
            );
            count += 1;
        };
        for asked in &ASKED {
            let spare = if asked.operation == "GET /kept" { spare } else { 0 };
            for (role, short) in [("server", short), ("client", 0)] {
                for _ in spare..asked.n {
                    let bytes = [asked.request_bytes, asked.file_bytes + asked.head_bytes.1 - short];
                    row(role, asked.operation, "\"openssl\"", asked.status_code, bytes);
                }
            }
        }
        row("server", operation, "null", 200, [600, 600]);
        text + &format!(
            "{{\"type\":\"summary\",\"transactions\":{count},\"open\":0,\"lost_requests\":{{\"low\":0,\"high\":{high}}}}}\n"
        )
    }

    #[test]
    fn each_end_of_each_request_must_be_there_with_all_its_bytes() {
        let whole = printed(0, 0, "TLS handshake", 0);
        check_inside(&whole, &ASKED, 0, 0, true).unwrap();
        let twice = whole.replacen("\"library\":null", "\"library\":\"openssl\"", 1);
        let put = &ASKED[4];
        let gave = |bytes: u64| format!("\"request_bytes\":{bytes},");
        let unread = whole.replacen(&gave(put.request_bytes), &gave(put.request_bytes - 1), 1);
        // The head of one answer has another length for its server than for its client.
        let big = |bytes: u64| format!("\"response_bytes\":{bytes},");
        let most = BIG_BYTES + NGINX_HEAD.1;
        let uneven = whole.replacen(&big(most), &big(most - 1), 1);
        for wrong in [
            printed(1, 0, "TLS handshake", 0),
            printed(0, 1, "TLS handshake", 0),
            printed(0, 0, "GET /kept", 0),
            printed(0, 0, "TLS handshake", 1),
            twice,
            unread,
            uneven,
        ] {
            assert!(check_inside(&wrong, &ASKED, 0, 0, true).is_err(), "{wrong}");
        }
        check_inside(&printed(1, 0, "TLS", 2), &ASKED, 3, 0, true).unwrap();
        check_inside(&printed(1, 0, "TLS", 0), &ASKED, 4, 4, true).unwrap();
        assert!(check_inside(&printed(1, 0, "TLS", 1), &ASKED, 3, 0, true).is_err());
        assert!(check_outside(&whole, 0).is_err(), "a request by its name");
        assert!(super::super::INIT.contains("cmp - \"$1\""));
    }

    #[test]
    fn of_a_connection_in_the_middle_nothing_but_its_requests_is_told() {
        let whole = printed(0, 0, "TLS handshake", 0);
        let kept: Vec<&str> = whole.lines().filter(|line| line.contains("GET /kept")).collect();
        let summary = whole.lines().last().unwrap();
        let half = kept.len() / 2;
        let n = 2 * VERSIONS as usize;
        let told = |server: usize, client: usize| {
            [&kept[..server], &kept[half..half + client], &[summary]].concat().join("\n")
        };
        check_middle(&told(n, n), 0, 0).unwrap();
        assert!(check_middle(&told(n, n - 1), 0, 0).is_err());
        assert!(check_middle(&told(n + 1, n), 0, 0).is_err());
        let wire = whole.lines().find(|line| line.contains("TLS handshake")).unwrap();
        assert!(check_middle(&format!("{wire}\n{}", told(n, n)), 0, 0).is_err());
    }

    #[test]
    fn the_kernel_must_have_encrypted_for_both_ends() {
        let all = 2 * CONNECTIONS;
        let stat = |sent: u64, received: u64| {
            format!(
                "TlsCurrTxSw                     \t0\nTlsTxSw    \t{sent}\nTlsRxSw\t{received}\nTlsDecryptError \t0\n"
            )
        };
        used(&stat(all, all / 2), 1).unwrap();
        used(&stat(2 * all, all), 2).unwrap();
        for (sent, received) in [(all - 1, all / 2), (all, 0), (0, 0)] {
            assert!(used(&stat(sent, received), 1).is_err(), "{sent} {received}");
        }
        assert!(used("", 1).is_err());
    }
}
