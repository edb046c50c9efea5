//! The measured server and its clients: one nginx process pinned to one CPU, the load on the other.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::shell::{command, output};

/// CPU of the server alone.
pub(crate) const SERVER_CPU: &str = "0";
/// CPU of the client and of the tracer, which so compete with each other and not with the server.
pub(crate) const CLIENT_CPU: &str = "1";
/// Connections that the client keeps open.
const CONNECTIONS: &str = "32";

/// A running nginx, ended when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    port: u16,
    /// Where it speaks TLS.
    tls_port: Option<u16>,
}

/// What a load made of it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Load {
    pub(crate) n_requests: u64,
    pub(crate) per_second: f64,
    /// CPU time of the server, in nanoseconds.
    pub(crate) server_cpu_ns: u64,
}

impl Load {
    /// The server's CPU time for one request, in microseconds.
    pub(crate) fn cpu_us_per_request(&self) -> f64 {
        self.server_cpu_ns as f64 / 1e3 / (self.n_requests as f64).max(1.0)
    }
}

impl Server {
    /// Starts it in a folder of its own, on a port that was free.
    pub(crate) fn start(dir: &Path) -> Result<Self> {
        Self::start_with(dir, None)
    }

    /// The same with another port for HTTPS, which then has the load.
    pub(crate) fn start_tls(dir: &Path) -> Result<Self> {
        let mut openssl = command("openssl", ["req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=bench"]);
        openssl.args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]);
        openssl.arg("-keyout").arg(dir.join("key.pem")).arg("-out").arg(dir.join("certificate.pem"));
        output(openssl.stderr(Stdio::null()))?;
        Self::start_with(dir, Some(free_port()?))
    }

    fn start_with(dir: &Path, tls_port: Option<u16>) -> Result<Self> {
        let port = free_port()?;
        let tls = tls_port.map_or_else(String::new, |port| {
            let dir = dir.display();
            format!("listen 127.0.0.1:{port} ssl;\n    ssl_certificate {dir}/certificate.pem; ssl_certificate_key {dir}/key.pem;")
        });
        let dir = dir.join("nginx");
        fs::create_dir_all(&dir)?;
        fs::write(dir.join("nginx.conf"), settings(&dir, port, &tls))?;
        let child = command("taskset", ["-c", SERVER_CPU, "nginx", "-p"])
            .arg(&dir)
            .arg("-c")
            .arg(dir.join("nginx.conf"))
            .stdin(Stdio::null())
            .spawn()
            .context("starting nginx")?;
        let server = Self { child, port, tls_port };
        let deadline = Instant::now() + Duration::from_secs(10);
        while server.n_requests().is_err() {
            if Instant::now() > deadline {
                bail!("nginx did not answer within 10 s");
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(server)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Requests since it started, by its own count, the one that asks included.
    pub(crate) fn n_requests(&self) -> Result<u64> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"GET /status HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        // The line below `server accepts handled requests`.
        let counts = answer.lines().skip_while(|line| !line.starts_with("server accepts")).nth(1);
        counts
            .and_then(|line| line.split_whitespace().nth(2)?.parse().ok())
            .with_context(|| format!("nginx's status has no count of requests: {answer}"))
    }

    fn url(&self) -> String {
        match self.tls_port {
            Some(port) => format!("https://127.0.0.1:{port}/"),
            None => format!("http://127.0.0.1:{}/", self.port),
        }
    }

    /// As many requests as it can serve, for so long.
    pub(crate) fn saturate(&self, seconds: u64) -> Result<Load> {
        let before = cpu_ns(self.pid())?;
        let mut wrk = command("taskset", ["-c", CLIENT_CPU, "wrk", "-t1", "-c", CONNECTIONS]);
        wrk.args([format!("-d{seconds}s"), self.url()]);
        let text = output(&mut wrk)?;
        let server_cpu_ns = cpu_ns(self.pid())? - before;
        parse_wrk(&text, server_cpu_ns)
    }

    /// Median and 99th percentile, in microseconds, at a fixed rate (`chrt` is in Debian's `util-linux`); time counts from when a request was due.
    pub(crate) fn at_rate(&self, workload: &Path, rate: f64, seconds: u64) -> Result<(f64, f64)> {
        // Before the tracer on their CPU: what is measured is the server's latency, and not the client's wait for the CPU.
        let mut load = command("chrt", ["--fifo", "1", "taskset", "-c", CLIENT_CPU]);
        load.arg(workload).args(["load", "--connections", "16", "--get", "/"]);
        load.args(["--to".into(), self.address()]);
        load.args(["--seconds".into(), seconds.to_string(), "--rate".into(), format!("{rate:.0}")]);
        let text = output(&mut load)?;
        let field = |name: &str| {
            let mut words = text.split_whitespace().skip_while(|word| *word != name);
            words.nth(1).and_then(|value| value.parse::<f64>().ok())
        };
        match (field("p50_us"), field("p99_us")) {
            // The generator counts only answers that carry its ids.
            (Some(p50), Some(p99)) if p50 > 0.0 => Ok((p50, p99)),
            _ => bail!("the load generator has no percentiles: {text}"),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// One process, no logs, an answer of half a kilobyte in one write: two data events for each request.
fn settings(dir: &Path, port: u16, tls: &str) -> String {
    let body = "x".repeat(512);
    let dir = dir.display();
    format!(
        "daemon off;\nmaster_process off;\nworker_processes 1;\npid {dir}/pid;\nerror_log {dir}/error.log;\n\
         events {{ worker_connections 1024; }}\n\
         http {{\n  access_log off;\n  keepalive_requests 1000000000;\n  keepalive_timeout 600s;\n\
         client_body_temp_path {dir}/body;\n  proxy_temp_path {dir}/proxy;\n  fastcgi_temp_path {dir}/fastcgi;\n\
         uwsgi_temp_path {dir}/uwsgi;\n  scgi_temp_path {dir}/scgi;\n\
         server {{\n    listen 127.0.0.1:{port};\n    {tls}\n    location = /status {{ stub_status; }}\n\
         add_header X-Request-Id $http_x_request_id;\n\
         location / {{ return 200 \"{body}\"; }}\n  }}\n}}\n"
    )
}

fn parse_wrk(text: &str, server_cpu_ns: u64) -> Result<Load> {
    if let Some(line) = text.lines().find(|line| line.contains("Non-2xx") || line.contains("Socket errors")) {
        bail!("wrk met errors: {}", line.trim());
    }
    let n_requests = text
        .lines()
        .find_map(|line| line.trim().split_once(" requests in ")?.0.parse().ok())
        .with_context(|| format!("wrk printed no count: {text}"))?;
    let per_second = text
        .lines()
        .find_map(|line| line.strip_prefix("Requests/sec:")?.trim().parse().ok())
        .with_context(|| format!("wrk printed no rate: {text}"))?;
    Ok(Load { n_requests, per_second, server_cpu_ns })
}

/// CPU time of a process and all its threads, in nanoseconds, as the scheduler counts it.
pub(crate) fn cpu_ns(pid: u32) -> Result<u64> {
    let mut total = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let file: PathBuf = task?.path().join("schedstat");
        // A thread may end between the listing and the reading.
        let Ok(text) = fs::read_to_string(file) else { continue };
        total += text.split(' ').next().and_then(|ns| ns.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_of_wrk_is_read_and_its_errors_are_errors() {
        let text = "Running 1s test\n  1 threads and 32 connections\n  51234 requests in 1.01s, 9.9MB read\nRequests/sec:  50727.12\nTransfer/sec: 9MB\n";
        let load = parse_wrk(text, 512_340_000).unwrap();
        assert_eq!(load.n_requests, 51_234);
        assert_eq!(load.per_second, 50_727.12);
        assert_eq!(load.cpu_us_per_request(), 10.0);
        assert!(parse_wrk(&format!("{text}  Non-2xx or 3xx responses: 3\n"), 1).is_err());
        assert!(parse_wrk("", 1).is_err());
    }
}
