//! The command line as a user meets it: help, failures with their hints, exit codes. Nothing here needs root.

use std::{
    fs,
    process::{Command, Output, Stdio},
};

fn txray(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_txray"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("TXRAY_")) {
        command.env_remove(name);
    }
    command.args(args).stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The run fails with 2, says `line` and hints at `hint`, and prints nothing else.
#[track_caller]
fn fails(args: &[&str], line: &str, hint: &str) {
    let output = txray(args);
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{args:?}: {errors}");
    assert_eq!(text(&output.stdout), "", "{args:?}");
    assert!(errors.contains(line), "{args:?}: no {line:?} in {errors:?}");
    assert!(errors.lines().any(|l| l.starts_with("hint: ") && l.contains(hint)), "{args:?}: {errors:?}");
}

#[test]
fn help_names_every_subcommand() {
    let help = text(&txray(&["--help"]).stdout);
    for name in ["live", "record", "replay", "recover", "doctor", "demo", "completions", "man"] {
        assert!(
            help.lines().any(|line| line.trim_start().starts_with(&format!("{name} "))),
            "{name}: {help}"
        );
    }
    assert!(!help.contains("demo-part"), "{help}");
}

#[test]
fn every_subcommand_has_help_and_the_manual_page_has_them_all() {
    let page = text(&txray(&["man"]).stdout);
    for name in ["live", "record", "replay", "recover", "doctor", "demo", "completions", "man"] {
        let output = txray(&[name, "--help"]);
        assert_eq!(output.status.code(), Some(0), "{name}");
        assert!(
            page.contains(&format!(".TH txray-{name} ")) || page.contains(&format!("txray\\-{name}")),
            "{name}"
        );
    }
    assert!(!page.contains("demo\\-part"));
}

#[test]
fn every_shell_has_completions() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = txray(&["completions", shell]);
        assert_eq!(output.status.code(), Some(0));
        assert!(text(&output.stdout).contains("replay"), "{shell}");
    }
}

#[test]
fn what_was_typed_wrong_is_found_before_anything_is_traced() {
    for name in ["live", "record", "replay"] {
        let output = txray(&[name, "--no-such-flag"]);
        assert_eq!(output.status.code(), Some(2), "{name}");
        assert!(text(&output.stderr).contains("--no-such-flag"));
    }
    fails(&["live", "--filter", "dration > 1s"], "did you mean 'duration'?", "duration >= 100ms");
    fails(&["record"], "no folder to record into", "--out DIR");
    let output = txray(&["live", "--duration", "soon"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("'soon' is not a duration"), "{}", text(&output.stderr));
    let output = txray(&["live", "--protocol", "gopher"]);
    assert!(text(&output.stderr).contains("http1"), "{}", text(&output.stderr));
}

#[test]
fn a_settings_file_with_an_unknown_key_names_the_key() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("txray.toml");
    fs::write(&file, "rign_size = \"8M\"\n").unwrap();
    let path = file.to_str().unwrap();
    fails(&["live", "--config", path], "rign_size", "long flags");
    fails(&["live", "--config", "/no/such/file"], "/no/such/file", "long flags");
}

#[test]
fn a_folder_without_a_recording_is_no_recording() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    fails(&["replay", path], path, "txray record --out");
    fails(&["replay", "/no/such/folder"], "/no/such/folder", "txray record --out");
    let output = txray(&["replay", path, "--from", "yesterday"]);
    assert_eq!(output.status.code(), Some(2));
    fails(
        &["replay", path, "--from", "2026-01-02T00:00:00Z", "--to", "2026-01-01T00:00:00Z"],
        "--from is not before --to",
        "nothing",
    );
}

#[test]
fn a_closed_pipe_ends_quietly() {
    // The manual page is longer than a pipe's buffer is deep once nobody reads.
    let mut child = Command::new(env!("CARGO_BIN_EXE_txray"))
        .arg("man")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(text(&output.stderr), "");
    assert_eq!(output.status.code(), Some(0));
}
