//! The kernel's own TLS: programs give it clear text, and a file to send with `SSL_sendfile`; it encrypts.

use std::path::Path;

use anyhow::{Context as _, Result, anyhow, ensure};
use serde::Deserialize;

use super::{
    guest::{Console, tail},
    image::Image,
    kernels::Kernel,
    live::{add_libraries, libraries_of},
    scenarios::{Summary, missed},
};

/// Connections of each version of TLS to each server.
const N: u64 = 2;
const VERSIONS: u64 = 2;
const SERVERS: u64 = 3;
/// The file that is asked for: more than the 64 KiB that one pass of sendfile takes.
const FILE_BYTES: u64 = 200_000;

/// What is asked for, how often on a connection, and how many bytes lead the file in the answer where that is known.
const ASKED: [(&str, u64, Option<u64>); 3] = [
    // `HTTP/1.0 200 ok` and `Content-type: text/plain`.
    ("GET /written", 1, Some(45)),
    ("GET /sent", 1, Some(45)),
    ("GET /kept", 3, None),
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
    let content: Vec<u8> = (b'a'..=b'z').cycle().take(FILE_BYTES as usize).collect();
    for name in ["written", "sent", "kept"] {
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
fn is_tried(kernel: &Kernel) -> bool {
    kernel.is_at_least("6.3")
}

/// The guest's steps.
pub(super) fn script(kernel: &Kernel) -> String {
    if kernel.modules.is_empty() || !is_tried(kernel) {
        return String::new();
    }
    format!(
        "step ktls ktls {N}\nstep ktls/replay replay\nstep ktls-opaque ktls {N} --tls opaque\nstep ktls-opaque/replay replay\n"
    )
}

/// Each request was seen once at each end, inside, with all its bytes; from outside, none by another name than that of turns of TLS.
pub(super) fn check(kernel: &Kernel, console: &Console, note: &mut dyn FnMut(&str, Result<String>)) {
    if kernel.modules.is_empty() || !is_tried(kernel) {
        if is_tried(kernel) {
            note("ktls", Err(anyhow!("the kernel's modules could not be had")));
        }
        return;
    }
    for (name, is_inside) in [("ktls", true), ("ktls-opaque", false)] {
        let n_missed =
            u64::from(kernel.is_at_least("7.0")) + console.step(name).map_or(0, |step| missed(&step.output));
        let outcome = console.step(name).and_then(|step| {
            ensure!(step.code == 0, "exit code {}:\n{}", step.code, tail(&step.output, 25));
            let counts = (if is_inside { check_inside } else { check_outside })(&step.output, n_missed)?;
            Ok(format!("{counts}, {}", used(&step.output, is_inside)?))
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

fn check_inside(output: &str, n_missed: u64) -> Result<String> {
    let (rows, summary) = (rows(output)?, Summary::of(output)?);
    let inside: Vec<&Row> = rows
        .iter()
        .filter(|row| row.tls.as_ref().and_then(|tls| tls.library.as_deref()) == Some("openssl"))
        .collect();
    let mut told = 0;
    let mut wanted = 0;
    for (operation, n_on_each, head) in ASKED {
        let mut by_role = Vec::new();
        for role in ["server", "client"] {
            let found: Vec<&&Row> =
                inside.iter().filter(|row| row.operation == operation && row.role == role).collect();
            for row in &found {
                let whole =
                    row.status_code == Some(200) && row.end == "answered" && row.confidence == "complete";
                ensure!(whole || n_missed != 0, "{row:?}");
                let least = FILE_BYTES + head.unwrap_or(100);
                let most = FILE_BYTES + head.unwrap_or(500);
                ensure!(n_missed != 0 || (least..=most).contains(&row.response_bytes), "{row:?}");
            }
            by_role.push(found.len() as u64);
        }
        let n = N * VERSIONS * n_on_each;
        let is_right =
            if n_missed == 0 { by_role == [n, n] } else { by_role.iter().all(|found| *found <= n) };
        ensure!(is_right, "{by_role:?} of `{operation}`, not {n} at each end");
        told += by_role.iter().sum::<u64>();
        wanted += 2 * n;
    }
    ensure!(told == inside.len() as u64, "something else inside: {inside:#?}");
    turns_only(rows.iter().filter(|row| row.tls.as_ref().is_none_or(|tls| tls.library.is_none())))?;
    if n_missed != 0 {
        let most = summary.most_unknown();
        ensure!(wanted <= told + most, "{told} of {wanted}, {most} at most are known to be lost");
        return Ok(format!(
            "{told} of {wanted}, at most {most} lost (the kernel ran no probe for {n_missed} calls)"
        ));
    }
    summary.lost_nothing()?;
    Ok(format!("{told} requests inside"))
}

fn check_outside(output: &str, n_missed: u64) -> Result<String> {
    let (rows, summary) = (rows(output)?, Summary::of(output)?);
    turns_only(rows.iter())?;
    let n = 2 * N * VERSIONS * SERVERS;
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
fn used(output: &str, is_first: bool) -> Result<String> {
    let n_of = |name: &str| {
        let mut lines = output.lines().filter_map(|line| line.split_once(char::is_whitespace));
        let value =
            lines.find(|(key, _)| *key == name).and_then(|(_, value)| value.trim().parse::<u64>().ok());
        value.with_context(|| format!("no {name} in /proc/net/tls_stat"))
    };
    let (sent, received, failed) = (n_of("TlsTxSw")?, n_of("TlsRxSw")?, n_of("TlsDecryptError")?);
    // It counts from the boot on.
    let n_runs = if is_first { 1 } else { 2 };
    let least = n_runs * 2 * N * SERVERS;
    let all = VERSIONS * least;
    ensure!(
        sent == all && (least..=all).contains(&received) && failed == 0,
        "the kernel encrypted for {sent} ends, not {all}, and decrypted for {received}, not {least} to {all}; {failed} errors"
    );
    Ok(format!("the kernel encrypted for {sent} ends and decrypted for {received}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a guest prints: rows of what is inside, as often as each is asked for but for `spare` of the last, and the summary.
    fn printed(spare: u64, bytes: u64, operation: &str, high: u64) -> String {
        let mut text = String::new();
        let mut count = 0;
        let mut row = |role: &str, operation: &str, library: &str, bytes: u64| {
            text += &format!(
                "{{\"start_time_ns\":1,\"role\":\"{role}\",\"operation\":\"{operation}\",\"status_code\":200,\
                 \"tls\":{{\"library\":{library}}},\"response_bytes\":{bytes},\"end\":\"answered\",\"confidence\":\"complete\"}}\n"
            );
            count += 1;
        };
        for (operation, n_on_each, head) in ASKED {
            let spare = if operation == "GET /kept" { spare } else { 0 };
            for role in ["server", "client"] {
                for _ in spare..N * VERSIONS * n_on_each {
                    row(role, operation, "\"openssl\"", bytes + head.unwrap_or(240));
                }
            }
        }
        row("server", operation, "null", 600);
        text + &format!(
            "{{\"type\":\"summary\",\"transactions\":{count},\"open\":0,\"lost_requests\":{{\"low\":0,\"high\":{high}}}}}\n"
        )
    }

    #[test]
    fn each_end_of_each_request_must_be_there_with_all_its_bytes() {
        let whole = printed(0, FILE_BYTES, "TLS handshake", 0);
        check_inside(&whole, 0).unwrap();
        let twice = whole.replacen("\"library\":null", "\"library\":\"openssl\"", 1);
        for wrong in [
            printed(1, FILE_BYTES, "TLS handshake", 0),
            printed(0, FILE_BYTES - 1, "TLS handshake", 0),
            printed(0, FILE_BYTES, "GET /kept", 0),
            printed(0, FILE_BYTES, "TLS handshake", 1),
            twice,
        ] {
            assert!(check_inside(&wrong, 0).is_err(), "{wrong}");
        }
        check_inside(&printed(1, FILE_BYTES, "TLS", 2), 3).unwrap();
        assert!(check_inside(&printed(1, FILE_BYTES, "TLS", 1), 3).is_err());
        assert!(check_outside(&whole, 0).is_err(), "a request by its name");
        assert!(super::super::INIT.contains("cmp - /written"));
    }

    #[test]
    fn the_kernel_must_have_encrypted_for_both_ends() {
        let all = 2 * N * SERVERS * VERSIONS;
        let stat = |sent: u64, received: u64| {
            format!(
                "TlsCurrTxSw                     \t0\nTlsTxSw    \t{sent}\nTlsRxSw\t{received}\nTlsDecryptError \t0\n"
            )
        };
        used(&stat(all, all / 2), true).unwrap();
        used(&stat(2 * all, all), false).unwrap();
        for (sent, received) in [(all - 1, all / 2), (all, 0), (0, 0)] {
            assert!(used(&stat(sent, received), true).is_err(), "{sent} {received}");
        }
        assert!(used("", true).is_err());
    }
}
