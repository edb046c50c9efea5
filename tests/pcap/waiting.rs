//! Standard input that is still being written: what has ended is shown while nothing more comes, and a file gives what it gives at any pace.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::{Form, Link, Wire, frames, text, txray};

/// How long a row is waited for before the test gives up.
const PATIENCE: Duration = Duration::from_secs(60);

fn replay_of_stdin() -> (Child, ChildStdin, mpsc::Receiver<String>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_txray"));
    command.env("XDG_CONFIG_HOME", "/nonexistent").args(["replay", "-", "--json"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let (sender, rows) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    (child, stdin, rows)
}

#[test]
fn what_has_ended_is_shown_while_the_next_packet_is_waited_for() {
    let (mut child, mut stdin, rows) = replay_of_stdin();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    // Three requests, and nothing behind them: not even the ends of the connection.
    let mut packets = frames(&Wire::new(false).conversation(), Link::Ethernet);
    packets.truncate(packets.len() - 3);
    let first = packets[0].0;
    for (time, _) in &mut packets {
        *time = now + (*time - first);
    }
    stdin.write_all(&Form::LittleNs.write(1, &packets)).unwrap();
    stdin.flush().unwrap();
    let shown: Vec<String> = (0..3)
        .map(|n| rows.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("row {n} is not shown")))
        .collect();
    assert!(shown.iter().all(|row| row.contains("\"end\":\"answered\"")), "{shown:?}");
    assert_eq!(child.try_wait().unwrap(), None, "it waits for more");
    drop(stdin);
    assert!(child.wait().unwrap().success());
    assert_eq!(rows.iter().count(), 0, "each row once");
}

#[test]
fn a_file_that_comes_slowly_gives_what_it_gives_at_once() {
    let dir = tempfile::TempDir::new().unwrap();
    let file = dir.path().join("old.pcap");
    let packets = frames(&Wire::new(false).conversation(), Link::Ethernet);
    let bytes = Form::LittleNs.write(1, &packets);
    fs::write(&file, &bytes).unwrap();
    let direct = txray(&["replay", file.to_str().unwrap(), "--json"], None);
    assert_eq!(text(&direct.stdout).lines().count(), 3);
    let (mut child, mut stdin, rows) = replay_of_stdin();
    // Up to a question that is not answered yet, whose time was long ago.
    let begun = Form::LittleNs.write(1, &packets[..4]).len();
    for piece in [&bytes[..begun], &bytes[begun..]] {
        stdin.write_all(piece).unwrap();
        // Long enough for it to find that nothing comes.
        thread::sleep(Duration::from_millis(700));
    }
    drop(stdin);
    assert!(child.wait().unwrap().success());
    let rows: String = rows.iter().map(|row| row + "\n").collect();
    assert_eq!(rows, text(&direct.stdout));
}
