//! The command line as a user meets it: help, failures with their hints, exit codes. Nothing here needs root.

use std::{
    fs,
    process::{Command, Output, Stdio},
};

use bytes::Bytes;
use tracer_user::{
    event::{ConnId, Role},
    metrics::Metrics,
    schema::PayloadMode,
    sink::{
        Sink as _,
        jsonl::write_transaction,
        recording::{Recorder, RecordingConfig},
    },
    time::WallTime,
    transaction::{Confidence, End, Kind, TimeBasis, Transaction, TransactionBatch},
};

use crate::recording;

fn txray(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_txray"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("TXRAY_")) {
        command.env_remove(name);
    }
    // Nobody's own settings take part.
    command.env("XDG_CONFIG_HOME", "/nonexistent");
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
    for name in [
        "live",
        "record",
        "replay",
        "find",
        "stacks",
        "recover",
        "map",
        "patterns",
        "doctor",
        "demo",
        "completions",
        "man",
    ] {
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
    for name in [
        "live",
        "record",
        "replay",
        "find",
        "stacks",
        "recover",
        "map",
        "doctor",
        "demo",
        "completions",
        "man",
    ] {
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
    let template = "https://traces.example/{span_id}";
    fails(&["live", "--open-url", template], "there is no '{span_id}'", "{service}&start={from_ms}");
    fails(&["record"], "no folder to record into", "record DIR");
    let output = txray(&["live", "--duration", "soon"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("'soon' is not a duration"), "{}", text(&output.stderr));
}

#[test]
fn an_unknown_protocol_is_an_error_that_names_the_known_ones_wherever_it_stands() {
    let output = txray(&["live", "--protocol", "http1", "--protocol", "gopher"]);
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    assert!(errors.contains("'gopher'") && errors.contains("possible values: http2, http1"), "{errors}");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("txray.toml");
    fs::write(&file, "protocol = [\"http1\", \"gopher\"]\n").unwrap();
    let recording = recorded(100);
    let path = recording.path().to_str().unwrap();
    let config = file.to_str().unwrap();
    fails(&["replay", path, "--config", config], "there is no protocol 'gopher'", "known are: http2, http1");
    // A list that is given replaces the file's.
    let output = txray(&["replay", path, "--config", file.to_str().unwrap(), "--protocol", "http1"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
}

#[test]
fn a_process_that_cannot_be_meant_is_named_with_the_reason() {
    for text in ["nginx", "-1", "0", "4294967296"] {
        let output = txray(&["live", &format!("--pid={text}")]);
        let errors = self::text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(errors.contains(&format!("'{text}' is not a process number")), "{errors}");
    }
    // Above pid_max of every kernel (2^22).
    fails(&["live", "--pid", "4194305"], "there is no process 4194305", "as ps shows it where txray runs");
    let (sender, receiver) = std::sync::mpsc::channel();
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        // SAFETY: no arguments, cannot fail.
        sender.send(unsafe { libc::gettid() }).unwrap();
        // Ends when the sender goes.
        let _ = ended.recv();
    });
    let tid = receiver.recv().unwrap();
    let line = format!("{tid} is a thread of process {}", std::process::id());
    fails(&["live", "--pid", &tid.to_string()], &line, "name the process");
    drop(end);
    thread.join().unwrap();
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

const SECOND: u64 = 1_000_000_000;

/// Transaction `i`, ten a second; every tenth is an error and slow.
fn transaction(i: u64) -> Transaction {
    let end = recording::START_NS + i * SECOND / 10;
    let bad = i.is_multiple_of(10);
    let duration = if bad { 2 * SECOND } else { 1_000_000 + i * 1_000 };
    Transaction {
        start_time: WallTime(end - duration),
        request_end: Some(WallTime(end - duration)),
        response_start: None,
        end_time: WallTime(end),
        duration_ns: duration as i64,
        ttfb_ns: None,
        queue_ns: None,
        time_basis: TimeBasis::Exit,
        kind: Kind::Request,
        role: Role::Server,
        protocol: "http1",
        operation: if bad { "POST /order".into() } else { "GET /item/{id}".into() },
        target: Some(Bytes::from(format!("/item/{i}?\u{1b}[2J"))),
        status_code: Some(if bad { 500 } else { 200 }),
        error: bad,
        error_type: bad.then_some("500".into()),
        pid: 7,
        tid: 8,
        comm: "shop".into(),
        service: "shop".into(),
        client_addr: "127.0.0.1".into(),
        client_port: Some(40_000),
        server_addr: "127.0.0.1".into(),
        server_port: Some(80),
        request_bytes: 80,
        response_bytes: 400,
        end: End::Answered,
        confidence: Confidence::Complete,
        conn: ConnId(0xabc),
        ordinal: i,
        seq: i,
        ..Transaction::default()
    }
}

/// A recording of `n` transactions without payload: a replay shows the rows as they are.
fn recorded(n: u64) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let config = RecordingConfig { payload: PayloadMode::None, ..recording::config(dir.path()) };
    let mut recorder = Recorder::start(config, Metrics::default()).unwrap();
    let mut rows = recorder.transactions();
    recorder.checkpoint(recording::state(0), 0);
    recorder.tap(&recording::batch(0..100, 1_000));
    for first in (0..n).step_by(100) {
        let transactions: Vec<_> = (first..n.min(first + 100)).map(transaction).collect();
        let watermark = transactions[transactions.len() - 1].end_time;
        rows.write(&TransactionBatch { transactions, watermark }).unwrap();
    }
    rows.finish().unwrap();
    recorder.finish().unwrap();
    dir
}

#[test]
fn a_replay_prints_exactly_the_recorded_rows_and_a_summary_that_agrees() {
    let dir = recorded(1_000);
    let output = txray(&["replay", dir.path().to_str().unwrap(), "--json", "--summary", "json"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let printed = text(&output.stdout);
    let mut expected = Vec::new();
    for i in 0..1_000 {
        write_transaction(&mut expected, &transaction(i));
    }
    let (rows, summary) = printed.trim_end().rsplit_once('\n').unwrap();
    assert_eq!(format!("{rows}\n"), text(&expected));
    let summary: serde_json::Value = serde_json::from_str(summary).unwrap();
    assert_eq!(summary["type"], "summary");
    assert_eq!(summary["transactions"], 1_000);
    assert_eq!(summary["operations"][0]["operation"], "GET /item/{id}");
    assert_eq!(summary["operations"][0]["count"], 900);
    assert_eq!(summary["operations"][1]["errors"], 100);
    assert!(!printed.contains('\u{1b}'));
}

#[test]
fn a_filter_leaves_rows_out_counts_them_and_matches_nothing_with_one() {
    let dir = recorded(1_000);
    let path = dir.path().to_str().unwrap();
    let output =
        txray(&["replay", path, "--json", "--summary", "json", "--filter", "err and duration >= 2s"]);
    let printed = text(&output.stdout);
    assert_eq!(printed.lines().count(), 101);
    let summary: serde_json::Value = serde_json::from_str(printed.lines().last().unwrap()).unwrap();
    assert_eq!((&summary["transactions"], &summary["filtered"]), (&1_000.into(), &900.into()));
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(txray(&["replay", path, "--filter", "status_code = 404"]).status.code(), Some(1));
}

#[test]
fn a_replay_is_cut_at_from_and_to() {
    let dir = recorded(1_000);
    let (from, to) = (transaction(300).end_time.0.to_string(), transaction(310).end_time.0.to_string());
    let output = txray(&["replay", dir.path().to_str().unwrap(), "--json", "--from", &from, "--to", &to]);
    let mut expected = Vec::new();
    for i in 300..310 {
        write_transaction(&mut expected, &transaction(i));
    }
    assert_eq!(text(&output.stdout), text(&expected));
}

#[test]
fn defaults_yield_to_the_file_the_file_to_the_environment_and_that_to_the_flags() {
    let recording = recorded(1_000);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("txray.toml");
    fs::write(&file, "filter = \"status_code = 500\"\njson = true\n").unwrap();
    let rows = |file_in: Option<&str>, environment: Option<&str>, flag: Option<&str>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_txray"));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("TXRAY_")) {
            command.env_remove(name);
        }
        command.env("XDG_CONFIG_HOME", "/nonexistent");
        command.arg("replay").arg(recording.path());
        match file_in {
            Some("flag") => drop(command.arg("--config").arg(&file)),
            Some(_) => drop(command.env("TXRAY_CONFIG", &file)),
            None => drop(command.arg("--json")),
        }
        command.args(flag.map(|filter| ["--filter", filter]).into_iter().flatten());
        command.envs(environment.map(|filter| ("TXRAY_FILTER", filter)));
        let output = command.stdin(Stdio::null()).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        text(&output.stdout).lines().count()
    };
    let (environment, flag) = (Some("status_code = 200"), Some("duration >= 1900us and not err"));
    assert_eq!(rows(None, None, None), 1_000);
    for place in ["flag", "variable"] {
        assert_eq!(rows(Some(place), None, None), 100, "{place}");
        assert_eq!(rows(Some(place), environment, None), 900, "{place}");
        assert_eq!(rows(Some(place), environment, flag), 90, "{place}");
        assert_eq!(rows(Some(place), None, flag), 90, "{place}");
    }
    assert_eq!(rows(None, environment, flag), 90);
}

#[test]
fn a_replay_ends_after_its_duration_of_recorded_time() {
    let dir = recorded(1_000);
    let path = dir.path().to_str().unwrap();
    let output = txray(&["replay", path, "--json", "--duration", "10s"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    // The first one begins two seconds before it ends; then there are ten a second.
    assert_eq!(text(&output.stdout).lines().count(), 81);
}

#[test]
fn a_signal_ends_a_run_with_130_and_its_summary() {
    use std::io::Read as _;
    // Far more than a pipe holds: the run is not over when the signal comes.
    let dir = recorded(20_000);
    let mut child = Command::new(env!("CARGO_BIN_EXE_txray"))
        .args(["replay", dir.path().to_str().unwrap(), "--json", "--summary", "json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut printed = vec![0];
    stdout.read_exact(&mut printed).unwrap();
    // SAFETY: no pointers; the child has not been waited for, so that the number is its own.
    assert_eq!(unsafe { libc::kill(child.id() as i32, libc::SIGTERM) }, 0);
    stdout.read_to_end(&mut printed).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(text(&printed).lines().last().unwrap().starts_with(r#"{"type":"summary","#));
}

#[test]
fn without_a_terminal_there_is_the_strip_and_the_summary() {
    let dir = recorded(35);
    let output = txray(&["replay", dir.path().to_str().unwrap()]);
    insta::assert_snapshot!("strip", text(&output.stdout));
}

#[test]
fn one_look_at_a_recording_is_one_table() {
    // Some requests are unanswered where the range ends.
    let temp = recording::synthetic(2_000);
    let path = temp.path().to_str().unwrap();
    let whole = txray(&["replay", path, "--once"]);
    assert_eq!(whole.status.code(), Some(0), "{}", text(&whole.stderr));
    insta::assert_snapshot!("once", text(&whole.stdout));
    let cut = txray(&["replay", path, "--once", "--to", "1700000000020000000"]);
    insta::assert_snapshot!("once_range", text(&cut.stdout));
    let json = txray(&["replay", path, "--once", "--json"]);
    let summary: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(summary["type"], "summary");
    assert_eq!(json.stdout, txray(&["replay", path, "--once", "--summary", "json"]).stdout);
    // Rows alone do not tell what was in flight.
    let rows = recorded(35);
    insta::assert_snapshot!(
        "once_rows",
        text(&txray(&["replay", rows.path().to_str().unwrap(), "--once"]).stdout)
    );
}

#[test]
fn what_is_in_flight_at_the_end_is_as_much_as_is_open() {
    let temp = recording::synthetic(2_000);
    let path = temp.path().to_str().unwrap();
    let mut most = 0;
    // What came in the last 20 ms still waits for what could be before it. Behind a loss it waits for longer, and is not open.
    for time in ["1ms", "3ms", "5ms"] {
        let output = txray(&["replay", path, "--once", "--duration", time]);
        let shown = text(&output.stdout);
        assert!(shown.contains("nothing lost"), "{shown}");
        let number = |word: &str| word.replace(',', "").parse::<u64>().unwrap();
        let open = shown.split(" open,").next().and_then(|before| before.split(' ').next_back()).map(number);
        let rows = shown.lines().skip_while(|line| !line.starts_with("in flight ")).skip(1);
        let rows = rows.take_while(|line| !line.is_empty());
        let in_flight: u64 = rows.map(|row| number(row.split_whitespace().nth(1).unwrap())).sum();
        assert_eq!(Some(in_flight), open, "{shown}");
        most = most.max(in_flight);
    }
    assert!(most > 2, "{most}: this test shows nothing");
}

#[test]
fn one_look_that_contradicts_itself_is_an_error() {
    let dir = recorded(10);
    let path = dir.path().to_str().unwrap();
    let both = ["--once", "--json", "--summary", "text"];
    for first in [&["live"][..], &["replay", path]] {
        fails(&[first, &both].concat(), "--once prints one thing", "leave one of the two out");
    }
    let at = ["replay", path, "--once", "--at", "1700000000000000000"];
    fails(&at, "--once has no screen", "`txray snapshot DIR --at TIME`");
    let output = txray(&["record", "--once", "--out", "/nowhere"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("'--once'"), "{}", text(&output.stderr));
}

#[test]
fn a_reader_that_goes_away_ends_the_run_quietly() {
    use std::io::{BufRead as _, BufReader};
    let dir = recorded(20_000);
    for flags in [&["--json"][..], &[]] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_txray"))
            .args(["replay", dir.path().to_str().unwrap()])
            .args(flags)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::with_capacity(64, child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(!line.is_empty());
        let output = child.wait_with_output().unwrap();
        let errors: Vec<String> = text(&output.stderr)
            .lines()
            .filter(|line| !line.contains("--payload none"))
            .map(str::to_owned)
            .collect();
        assert!(errors.is_empty(), "{errors:?}");
        assert_eq!(output.status.code(), Some(0));
    }
}

/// Runs `txray replay` on a terminal of its own, does `act` once the screen shows the end of the recording, and returns
/// what it wrote, its exit code, and whether the terminal's mode is what it was.
fn on_a_terminal(
    dir: &std::path::Path,
    act: impl FnOnce(&std::process::Child, &mut fs::File),
) -> (String, i32, bool) {
    use std::{
        io::Read as _,
        os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    };
    let (mut main, mut side) = (0, 0);
    let size = libc::winsize { ws_row: 30, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the pointers are to live integers and a live struct; the two others may be null.
    let opened =
        unsafe { libc::openpty(&mut main, &mut side, std::ptr::null_mut(), std::ptr::null(), &size) };
    assert_eq!(opened, 0, "{}", std::io::Error::last_os_error());
    // SAFETY: openpty has just returned both, and nobody else owns them.
    let (mut main, side) = unsafe { (fs::File::from_raw_fd(main), OwnedFd::from_raw_fd(side)) };
    let mode = |fd: &OwnedFd| {
        // SAFETY: all zeros is a value of this struct of integers, and the call fills it in.
        let mut mode: libc::termios = unsafe { std::mem::zeroed() };
        // SAFETY: `fd` is open and `mode` is live.
        assert_eq!(unsafe { libc::tcgetattr(fd.as_raw_fd(), &mut mode) }, 0);
        (mode.c_lflag, mode.c_iflag, mode.c_oflag)
    };
    let before = mode(&side);
    let state = tempfile::tempdir().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_txray"))
        .args(["replay", dir.to_str().unwrap()])
        .env("TERM", "xterm-256color")
        .env("XDG_STATE_HOME", state.path())
        .stdin(side.try_clone().unwrap())
        .stdout(side.try_clone().unwrap())
        .stderr(side.try_clone().unwrap())
        .spawn()
        .unwrap();
    let mut reader = main.try_clone().unwrap();
    let (sender, written) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        // Reading fails once both ends of the other side are closed.
        while let Ok(n @ 1..) = reader.read(&mut buffer) {
            if sender.send(buffer[..n].to_vec()).is_err() {
                return;
            }
        }
    });
    let mut output = Vec::new();
    while !String::from_utf8_lossy(&output).contains("END") {
        output.extend(written.recv_timeout(std::time::Duration::from_secs(60)).expect("the screen appears"));
    }
    act(&child, &mut main);
    let code = child.wait().unwrap().code().unwrap();
    let same = mode(&side) == before;
    drop(side);
    drop(main);
    output.extend(written.iter().flatten());
    (String::from_utf8_lossy(&output).into_owned(), code, same)
}

#[test]
fn the_screen_gives_the_terminal_back_however_it_is_left() {
    use std::io::Write as _;
    let dir = recorded(200);
    let kill = |child: &std::process::Child, signal| {
        // SAFETY: the child has not been waited for, so the number is still its own.
        assert_eq!(unsafe { libc::kill(child.id() as i32, signal) }, 0);
    };
    type Act<'a> = Box<dyn FnOnce(&std::process::Child, &mut fs::File) + 'a>;
    let ways: [(&str, i32, Act<'_>); 4] = [
        ("q", 0, Box::new(|_, keys| keys.write_all(b"q").unwrap())),
        ("ctrl-c", 130, Box::new(|_, keys| keys.write_all(b"\x03").unwrap())),
        ("SIGINT", 130, Box::new(|child, _| kill(child, libc::SIGINT))),
        ("SIGTERM", 130, Box::new(|child, _| kill(child, libc::SIGTERM))),
    ];
    for (way, expected, act) in ways {
        let (output, code, same_mode) = on_a_terminal(dir.path(), act);
        assert_eq!(code, expected, "{way}");
        assert!(same_mode, "{way} leaves the terminal in another mode");
        let (entered, left) = (output.rfind("\x1b[?1049h"), output.rfind("\x1b[?1049l"));
        assert!(entered.is_some() && entered < left, "{way}: the other screen stays");
        let after = &output[left.unwrap()..];
        assert!(after.contains("\x1b[?25h"), "{way}: the cursor stays hidden");
        // The summary stands on the ordinary screen.
        assert!(after.contains("200 transactions in"), "{way}: {after:?}");
    }
}

#[test]
fn a_snapshot_that_cannot_be_taken_says_why() {
    let temp = recorded(20);
    let dir = temp.path().to_str().unwrap();
    fails(
        &["snapshot", dir, "--at", "1700000000000000000"],
        "recorded with --payload none: what was in flight cannot be known",
        "`txray replay` shows the transactions of such a recording",
    );
    fails(
        &["snapshot", "/nowhere/at/all", "--at", "1"],
        "recording /nowhere/at/all",
        "name the folder that txray record --out has written",
    );
    let odd = txray(&["snapshot", dir, "--at", "noon"]);
    assert_eq!(odd.status.code(), Some(2));
    assert!(text(&odd.stderr).contains("'noon' is not a time such as 2026-08-21T14:03:07Z"));
}

/// A settings file with this text, in a folder of its own.
fn settings_file(text: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("txray.toml");
    fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap().to_owned();
    (folder, file)
}

#[test]
fn a_bad_setting_of_the_screen_is_told_with_its_place_before_anything_runs() {
    let dir = recorded(10);
    let path = dir.path().to_str().unwrap();
    let (folder, file) = settings_file("ring_size = '64M'\n\n[screen.keys]\npause = ['q']\n");
    for command in ["live", "record"] {
        let line = format!("{file}:4:1: the key q is both `quit` and `pause`");
        let out = folder.path().join("out");
        let out: &[&str] = if command == "record" { &["--out", out.to_str().unwrap()] } else { &[] };
        fails(&[&[command, "--config", &file], out].concat(), &line, "give one of them another key");
        assert!(!folder.path().join("out").exists());
    }
    fails(&["replay", path, "--config", &file], "txray.toml:4:1: ", "give one of them another key");
    let (folder, file) = settings_file("[[screen.layout]]\nname = 'errors'\n");
    fails(&["replay", path, "--config", &file, "--layout", "erors"], "there is no layout 'erors'", "errors");
    fs::write(folder.path().join("layouts.toml"), "odd").unwrap();
    fails(&["replay", path, "--config", &file], "layouts.toml:1:", "TOML");
    fails(&["replay", path, "--layout", "x"], "there is no layout 'x'", "S on the screen keeps one");
}

#[test]
fn how_the_screen_looks_changes_no_row() {
    let dir = recorded(200);
    let path = dir.path().to_str().unwrap();
    let plain = txray(&["replay", path, "--json"]);
    let (_folder, file) = settings_file(
        "layout = 'errors'\n[screen]\npalette = 'colour-blind'\nactive_steps = 'jennifer'\nslow = '3s'\n\
         [[screen.layout]]\nname = 'errors'\nfilter = 'err'\n",
    );
    let other = txray(&["replay", path, "--json", "--config", &file]);
    assert_eq!((plain.status.code(), other.status.code()), (Some(0), Some(0)), "{}", text(&other.stderr));
    assert_eq!(text(&plain.stdout), text(&other.stdout));
}

#[test]
fn without_a_file_that_is_named_the_users_own_is_read() {
    let dir = recorded(100);
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("txray");
    fs::create_dir(&folder).unwrap();
    let rows = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_txray"));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("TXRAY_")) {
            command.env_remove(name);
        }
        command.env("XDG_CONFIG_HOME", home.path()).arg("replay").arg(dir.path()).arg("--json");
        let output = command.args(arguments).stdin(Stdio::null()).output().unwrap();
        let rows = text(&output.stdout).lines().count();
        (output.status.code(), rows, text(&output.stderr))
    };
    let n_rows = |arguments: &[&str]| {
        let (code, rows, errors) = rows(arguments);
        assert_eq!(code, Some(0), "{errors}");
        rows
    };
    assert_eq!(n_rows(&[]), 100);
    fs::write(folder.join("config.toml"), "filter = \"status_code = 500\"\n").unwrap();
    assert_eq!(n_rows(&[]), 10);
    let (_folder, other) = settings_file("");
    assert_eq!(n_rows(&["--config", &other]), 100);
    fs::write(folder.join("config.toml"), "[screen]\nslow = 'x'\n").unwrap();
    let (code, _, errors) = rows(&[]);
    assert!(code == Some(2) && errors.contains("txray/config.toml:2:8: `slow`"), "{errors}");
}
