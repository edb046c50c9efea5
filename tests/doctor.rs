//! `txray doctor` on this host: as root, as nobody, and with three capabilities.

use std::{
    fs::Permissions,
    io::Read as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

/// Capabilities that tracing needs where the kernel has them apart from root's.
const CAPABILITIES: &str = "+bpf,+perfmon,+sys_ptrace";
/// Debian's `nobody`.
const NOBODY: &str = "65534";

/// The program where every user may execute it.
fn public_copy(dir: &Path) -> PathBuf {
    let path = dir.join("txray");
    std::fs::copy(env!("CARGO_BIN_EXE_txray"), &path).unwrap();
    for path in [dir, &path] {
        std::fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
    }
    path
}

/// Runs as nobody, with capabilities for setpriv(1) or none.
fn as_nobody(program: &Path, capabilities: Option<&str>, args: &[&str]) -> Output {
    let mut command = Command::new("setpriv");
    command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "--no-new-privs"]);
    if let Some(capabilities) = capabilities {
        command.args(["--inh-caps", capabilities, "--ambient-caps", capabilities]);
        command.args(["--bounding-set", &format!("-all,{capabilities}")]);
    }
    command.arg(program).args(args).output().unwrap()
}

fn report(output: &Output) -> serde_json::Value {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    assert_eq!(text.lines().count(), 1, "one object and nothing else: {text}");
    serde_json::from_str(&text).unwrap()
}

fn severities(report: &serde_json::Value, area: &str) -> Vec<String> {
    let checks = report["checks"].as_array().unwrap().iter().filter(|check| check["area"] == area);
    checks.map(|check| check["severity"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn root_can_trace_this_host() {
    let output = Command::new(env!("CARGO_BIN_EXE_txray")).args(["doctor", "--json"]).output().unwrap();
    let report = report(&output);
    assert_eq!(output.status.code(), Some(0), "{report:#}");
    assert_eq!(output.stderr, b"");
    assert_eq!(report["type"], "doctor");
    assert_eq!(report["can_trace"], true);
    assert_eq!(report["hooks"]["syscall"], true);
    assert!(report["features"]["btf"]["n_types"].as_u64().unwrap() > 10_000);
    assert!(report["features"]["tls"]["n_processes"].as_u64().unwrap() > 0);

    let text = Command::new(env!("CARGO_BIN_EXE_txray")).arg("doctor").output().unwrap();
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.lines().nth(1).unwrap().starts_with("This host can be traced"), "{text}");
}

#[test]
fn nobody_is_told_what_is_missing_and_what_was_not_checked() {
    let dir = tempfile::tempdir().unwrap();
    let program = public_copy(dir.path());
    let output = as_nobody(&program, None, &["doctor"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert_eq!(output.stderr, b"");
    assert!(
        text.contains("\nThis user cannot trace: user 65534 without CAP_BPF and CAP_PERFMON.\n"),
        "{text}"
    );
    assert!(text.contains("what loads was not checked"), "{text}");
    assert!(text.contains("setcap cap_bpf,cap_perfmon"), "{text}");
}

#[test]
fn three_capabilities_are_enough_without_root() {
    let dir = tempfile::tempdir().unwrap();
    let program = public_copy(dir.path());
    let output = as_nobody(&program, Some(CAPABILITIES), &["doctor", "--json"]);
    let report = report(&output);
    assert_eq!(output.status.code(), Some(0), "{report:#}");
    assert_eq!(report["features"]["uid"], 65534);
    assert!(severities(&report, "hooks").iter().all(|severity| severity != "fatal"), "{report:#}");
    // Containers' names are in root's files.
    assert_eq!(severities(&report, "privileges"), ["ok", "limit"]);
}

#[test]
fn nobody_cannot_record_and_hears_why_and_what_helps() {
    let dir = tempfile::tempdir().unwrap();
    let program = public_copy(dir.path());
    let out = tempfile::tempdir().unwrap();
    std::fs::set_permissions(out.path(), Permissions::from_mode(0o777)).unwrap();
    let recording = out.path().join("recording");
    let output = as_nobody(&program, None, &["record", "--out", recording.to_str().unwrap()]);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{errors}");
    assert_eq!(output.stdout, b"");
    assert!(
        errors.contains("txray: nothing can be traced: user 65534 without CAP_BPF and CAP_PERFMON\n"),
        "{errors}"
    );
    assert!(errors.contains("hint: run as root, or: setcap cap_bpf,"), "{errors}");
}

#[test]
fn the_tls_of_a_process_is_told_as_far_as_the_caller_may_look() {
    let dir = tempfile::tempdir().unwrap();
    let program = public_copy(dir.path());
    let library = dir.path().join("plugin");
    std::fs::copy("/usr/lib/x86_64-linux-gnu/libssl.so.3", &library).unwrap();
    let code =
        format!("import ctypes; ctypes.CDLL({library:?}); print(flush=True); import sys; sys.stdin.read()");
    let mut python = Command::new("/usr/bin/python3");
    let mut python = python.args(["-c", &code]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    // It has its library when it says something.
    python.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    let pid = python.id().to_string();
    let args = ["doctor", "--quick", "--pid", &pid];

    let text = Command::new(&program).args(args).output().unwrap();
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains(&format!("\nTLS of process {pid} (python3)\n  ok     OpenSSL 3.")), "{text}");
    assert!(text.contains("SSL_write"), "{text}");
    // Nobody may not look, with a right may look, and needs another one for what was deleted.
    let text = String::from_utf8(as_nobody(&program, None, &args).stdout).unwrap();
    assert!(
        text.contains("  limit  its maps may not be read: it takes being its user, or CAP_SYS_PTRACE\n"),
        "{text}"
    );
    let found = report(&as_nobody(&program, Some("+sys_ptrace"), &[&args[..], &["--json"]].concat()));
    assert_eq!(found["process"]["libraries"][0]["kind"], "OpenSSL", "{found:#}");
    std::fs::remove_file(&library).unwrap();
    let found = report(&as_nobody(&program, Some("+sys_ptrace"), &[&args[..], &["--json"]].concat()));
    assert_eq!(found["process"]["libraries"], serde_json::json!([]), "{found:#}");
    let unreadable = found["process"]["unreadable"].to_string();
    assert!(unreadable.contains("CAP_CHECKPOINT_RESTORE"), "{unreadable}");

    drop(python.stdin.take());
    python.wait().unwrap();
    let output = Command::new(&program).args(args).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.starts_with(&format!("txray: there is no process {pid}\nhint: ")), "{errors}");
}

#[test]
fn a_reader_that_leaves_early_ends_it_quietly() {
    let command = format!("{} doctor | head -n 1", env!("CARGO_BIN_EXE_txray"));
    let output = Command::new("bash").args(["-o", "pipefail", "-c", &command]).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(output.stderr, b"");
    assert!(output.stdout.starts_with(b"txray "));
}
