//! Tracing without root: three capabilities are enough, also for processes of other users.

use std::{
    fs::Permissions,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::fs::{PermissionsExt as _, chown},
    path::Path,
    process::{Command, Stdio},
};

/// Capabilities that tracing needs where the kernel has them apart from root's.
const CAPABILITIES: &str = "+bpf,+perfmon,+sys_ptrace";
/// Debian's `nobody`.
const NOBODY: u32 = 65534;
const N_REQUESTS: usize = 5;

/// Answers requests one by one until the listener's owner goes.
fn serve(listener: TcpListener) {
    while let Ok((mut stream, _)) = listener.accept() {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|n| n == 1) {
            head.push(byte[0]);
        }
        if stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").is_err() {
            return;
        }
    }
}

fn get(port: u16) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(b"GET /item/7 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

fn public_copy(dir: &Path) -> std::path::PathBuf {
    let path = dir.join("txray");
    std::fs::copy(env!("CARGO_BIN_EXE_txray"), &path).unwrap();
    for path in [dir, &path] {
        std::fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
    }
    path
}

#[test]
fn a_user_with_three_capabilities_records_a_process_of_root() {
    let dir = tempfile::tempdir().unwrap();
    let program = public_copy(dir.path());
    let own = tempfile::tempdir().unwrap();
    chown(own.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    let out = own.path().join("recording");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || serve(listener));

    // This process is the target: both ends of its connections are, so that each request is seen twice.
    let mut tracer = Command::new("setpriv")
        .args([
            &format!("--reuid={NOBODY}"),
            &format!("--regid={NOBODY}"),
            "--clear-groups",
            "--no-new-privs",
        ])
        .args([&format!("--inh-caps={CAPABILITIES}"), &format!("--ambient-caps={CAPABILITIES}")])
        .arg(format!("--bounding-set=-all,{CAPABILITIES}"))
        .arg(&program)
        .args(["record", "--json", "--summary", "json", "--out", out.to_str().unwrap()])
        .args(["--pid", &std::process::id().to_string(), "--port", &port.to_string()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut errors = BufReader::new(tracer.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("tracing") {
        line.clear();
        assert_ne!(errors.read_line(&mut line).unwrap(), 0, "it ended before it traced");
        assert!(!line.contains("nothing can be traced"), "{line}");
    }
    for _ in 0..N_REQUESTS {
        get(port);
    }
    // SAFETY: no pointers; the process is a child that was not waited for.
    assert_eq!(unsafe { libc::kill(tracer.id() as i32, libc::SIGINT) }, 0);
    let mut rows = String::new();
    tracer.stdout.take().unwrap().read_to_string(&mut rows).unwrap();
    let mut rest = String::new();
    errors.read_to_string(&mut rest).unwrap();
    let status = tracer.wait().unwrap();

    let rows: Vec<serde_json::Value> = rows.lines().map(|row| serde_json::from_str(row).unwrap()).collect();
    let of_role = |role: &str| rows.iter().filter(|row| row["role"] == role).collect::<Vec<_>>();
    assert_eq!(of_role("server").len(), N_REQUESTS, "{status}: {rows:#?}\n{rest}");
    assert_eq!(of_role("client").len(), N_REQUESTS, "{rows:#?}");
    for row in of_role("server") {
        assert_eq!(row["status_code"], 200, "{row:#}");
        assert_eq!(row["pid"], std::process::id(), "{row:#}");
        // Another user's executable: it takes CAP_SYS_PTRACE to be read.
        assert!(row["service"].as_str().unwrap().starts_with("integration"), "{row:#}");
    }
    let summary = rows.last().unwrap();
    assert_eq!(summary["type"], "summary", "{summary:#}");
    assert_eq!(summary["lost_requests"], serde_json::json!({"low": 0, "high": 0}), "{summary:#}");
    assert!(out.join("transactions").is_dir() && out.join("events").is_dir());
}
