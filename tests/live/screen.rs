//! The screen in a real terminal (tmux): typed at, read back, left in every way; the terminal afterwards is as before.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::Path,
    process::Command,
};

use tempfile::TempDir;

use super::{anatomy::Server, machine, process::wait_for, txray_program};

/// A terminal in which a shell runs txray, tells its exit code and then waits.
pub(super) struct Terminal {
    folder: TempDir,
}

impl Terminal {
    /// Runs `txray` with these arguments in a terminal of 120×40 (`{folder}`: one of its own); `env` as a shell writes it.
    #[track_caller]
    fn start(env: &str, arguments: &str) -> Terminal {
        Terminal::start_program(&format!("{env} LANG=C.UTF-8 {}", txray_program().display()), arguments)
    }

    /// The same with what stands before the arguments.
    #[track_caller]
    pub(super) fn start_program(program: &str, arguments: &str) -> Terminal {
        let folder = TempDir::new().unwrap();
        let terminal = Terminal { folder };
        let script = format!(
            "stty -g > {folder}/before; {program} {arguments}; code=$?; stty -g > {folder}/after; \
             echo EXIT $code; sleep 300",
            folder = terminal.path().display(),
            arguments = arguments.replace("{folder}", &terminal.path().display().to_string()),
        );
        terminal.tmux(&["-u", "new-session", "-d", "-s", "t", "-x", "120", "-y", "40", &script]);
        terminal
    }

    pub(super) fn path(&self) -> &Path {
        self.folder.path()
    }

    #[track_caller]
    fn tmux(&self, arguments: &[&str]) -> String {
        let socket = self.path().join("socket");
        let output = Command::new("tmux")
            .arg("-f")
            .arg("/dev/null")
            .arg("-S")
            .arg(socket)
            .args(arguments)
            .output()
            .expect("tmux is installed (`cargo xtask setup --tests`)");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "tmux {arguments:?}: {said}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    pub(super) fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p", "-t", "t"])
    }

    /// Waits until the screen shows all of these.
    #[track_caller]
    pub(super) fn shows(&self, words: &[&str]) -> String {
        let mut last = Last(String::new());
        wait_for(&format!("{words:?} on the screen"), || {
            last.0 = self.screen();
            words.iter().all(|word| last.0.contains(word)).then(|| last.0.clone())
        })
    }

    /// Presses keys, by tmux's names.
    #[track_caller]
    pub(super) fn press(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys", "-t", "t"], keys].concat());
    }

    /// Presses Esc, and waits until this is no longer shown. Two of them that come together would be one.
    #[track_caller]
    fn escapes(&self, gone: &str) {
        self.press(&["Escape"]);
        let mut last = Last(String::new());
        wait_for(&format!("{gone:?} to go"), || {
            last.0 = self.screen();
            (!last.0.contains(gone)).then_some(())
        });
    }

    /// Types text.
    #[track_caller]
    fn types(&self, text: &str) {
        self.tmux(&["send-keys", "-t", "t", "-l", text]);
    }

    /// The process of txray.
    fn pid(&self) -> i32 {
        let shell = self.tmux(&["display-message", "-p", "-t", "t", "#{pane_pid}"]);
        let shell = shell.trim();
        wait_for("txray's process", || {
            let children = fs::read_to_string(format!("/proc/{shell}/task/{shell}/children")).ok()?;
            children.split_whitespace().find_map(|pid| {
                let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
                (name.trim() == "txray").then(|| pid.parse().ok())?
            })
        })
    }

    /// It has ended with this code, and the terminal is as it was.
    #[track_caller]
    pub(super) fn is_as_before(&self, code: i32) {
        self.shows(&[&format!("EXIT {code}")]);
        let flags = "#{alternate_on} #{cursor_flag} #{mouse_any_flag}";
        let flags = self.tmux(&["display-message", "-p", "-t", "t", flags]);
        assert_eq!(flags.trim(), "0 1 0", "alternate screen, cursor, mouse");
        let [before, after] =
            ["before", "after"].map(|name| fs::read_to_string(self.path().join(name)).unwrap());
        assert_eq!(before, after, "modes of the terminal");
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let socket = self.path().join("socket");
        // What runs in it ends with it. There may be nothing left to end.
        let _ = Command::new("tmux").arg("-S").arg(socket).arg("kill-server").output();
    }
}

/// What was on the screen, for whoever finds out why something else was not.
struct Last(String);

impl Drop for Last {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.0);
        }
    }
}

/// `txray demo`, long enough for a test.
fn demo(env: &str) -> Terminal {
    Terminal::start(env, "demo --duration 250s --out {folder}/recording")
}

#[test]
fn a_live_demo_is_frozen_selected_opened_filtered_and_left() {
    let _machine = machine();
    let terminal = demo("");
    terminal.shows(&["txray demo", " LIVE", "1 Overview", "GET /product/{id}", "in flight"]);
    // Enough to select from.
    wait_for("200 transactions", || {
        let screen = terminal.screen();
        let header = screen.lines().next()?;
        let before = header.split(" transactions").next()?.rsplit(' ').next()?.replace(',', "");
        (before.parse::<u64>().ok()? > 200).then_some(())
    });
    terminal.press(&["Space"]);
    terminal.shows(&["PAUSED +"]);
    // All columns from the middle to now, all rows.
    terminal.press(&["2", "v"]);
    terminal.shows(&["Enter list"]);
    for (keys, n) in [(["Right"; 10], 6), (["Up"; 10], 3)] {
        for _ in 0..n {
            terminal.press(&keys);
        }
    }
    terminal.press(&["v"]);
    for (keys, n) in [(["Left"; 10], 6), (["Down"; 10], 4)] {
        for _ in 0..n {
            terminal.press(&keys);
        }
    }
    terminal.press(&["Enter"]);
    terminal.shows(&["▾elapsed", "and longer"]);
    // The terminal may still be drawing.
    wait_for("a list of ten", || {
        let screen = terminal.screen();
        (screen.lines().filter(|line| line.contains(" S ")).count() > 10).then_some(())
    });
    terminal.press(&["Down", "Enter"]);
    terminal.shows(&["served by", "where the time went", " % "]);
    terminal.press(&["?"]);
    terminal.shows(&["Keys", "scroll up"]);
    terminal.escapes("scroll up");
    terminal.escapes("where the time went");
    terminal.shows(&["▾elapsed"]);
    terminal.escapes("▾elapsed");
    terminal.escapes("Enter list");
    terminal.shows(&["/ filter"]);
    terminal.press(&["/"]);
    terminal.types("durration > 1ms");
    terminal.press(&["Enter"]);
    terminal.shows(&["filter: durration > 1ms_", "column 1: "]);
    // Together with what follows, the byte of Esc would be Alt.
    terminal.press(&["Escape"]);
    terminal.shows(&["/ filter"]);
    terminal.press(&["/"]);
    terminal.types("err and service = 'shop'");
    terminal.press(&["Enter"]);
    terminal.shows(&[" match err and service = 'shop'"]);
    // Back in time, and to now.
    terminal.press(&["Left", "Left", "L"]);
    terminal.shows(&[" LIVE"]);
    // Into the recording, while the capture goes on.
    terminal.press(&[":"]);
    terminal.types("goto soon");
    terminal.press(&["Enter"]);
    terminal.shows(&[": goto soon_", "'soon' is no time"]);
    terminal.press(&["Escape"]);
    terminal.shows(&["/ filter"]);
    terminal.press(&["Escape"]);
    wait_for("no filter", || (!terminal.screen().contains(" match ")).then_some(()));
    terminal.press(&[":"]);
    terminal.types("goto -1s");
    terminal.press(&["Enter"]);
    terminal.shows(&[" PAST STOPPED"]);
    terminal.press(&["W"]);
    terminal.shows(&["waiting"]);
    terminal.press(&["Escape"]);
    terminal.shows(&["/ filter"]);
    terminal.press(&["Space"]);
    terminal.shows(&[" PAST 1×"]);
    terminal.press(&["]"]);
    terminal.shows(&[" PAST 2×"]);
    terminal.press(&[","]);
    terminal.shows(&[" PAST STOPPED"]);
    terminal.press(&["L"]);
    terminal.shows(&[" LIVE"]);
    terminal.press(&["q"]);
    terminal.is_as_before(0);
    let last = terminal.screen();
    assert!(last.contains("to see it again: txray replay"), "{last}");
}

#[test]
fn a_recording_is_played_stopped_and_searched() {
    let _machine = machine();
    let made = Terminal::start("", "demo --duration 5s --out {folder}/recording");
    made.is_as_before(0);
    let recording = made.path().join("recording");
    let terminal = Terminal::start("", &format!("replay {}", recording.display()));
    terminal.shows(&["txray replay", " REPLAY END", "GET /product/{id}"]);
    let whole = terminal.screen().lines().next().unwrap().to_owned();
    terminal.press(&["N"]);
    terminal.shows(&["waiting"]);
    terminal.press(&["Escape"]);
    terminal.shows(&["/ filter"]);
    terminal.press(&[","]);
    terminal.shows(&[" REPLAY STOPPED"]);
    // As slow as it gets, so that the end is far.
    terminal.press(&["["; 9]);
    terminal.press(&["Space"]);
    terminal.shows(&[" REPLAY 0.1×"]);
    terminal.press(&["L"]);
    let end = terminal.shows(&[" REPLAY END"]);
    assert_eq!(end.lines().next().unwrap(), whole, "all of it again");
    terminal.press(&["q"]);
    terminal.is_as_before(0);
    assert!(terminal.screen().contains("transactions in"), "the summary");
}

#[test]
fn a_capture_is_played_stopped_at_an_instant_and_searched() {
    let _machine = machine();
    let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/captures/real-vxlan-any.pcap.gz");
    // Where its path is short enough to be shown whole.
    let place = TempDir::new().unwrap();
    let file = place.path().join("real-vxlan.pcap.gz");
    fs::copy(fixture, &file).unwrap();
    let file = file.to_str().unwrap();
    let output = Command::new(txray_program()).args(["replay", file, "--json"]).output().unwrap();
    let rows: Vec<serde_json::Value> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    // A transaction is shown half a second after its end, when a packet or a tick comes that is not of the last 20 ms; between the second and the
    // third there is that and a little more.
    let behind = |at: usize, ms: u64| rows[at]["end_time_ns"].as_u64().unwrap() + ms * 1_000_000;
    let room = TempDir::new().unwrap();
    let env = format!("TMPDIR={}", room.path().display());
    let terminal = Terminal::start(&env, &format!("replay {file} --speed 1 --at {}", behind(1, 750)));
    let screen = terminal.shows(&["txray replay", "real-vxlan", " REPLAY STOPPED", "GET /page.html"]);
    assert!(!screen.contains("GET /nothing"), "it is not there yet: {screen}");
    terminal.press(&[":"]);
    terminal.types(&format!("goto {}", behind(4, 1_000)));
    terminal.press(&["Enter"]);
    terminal.shows(&[" REPLAY STOPPED", "GET /nothing"]);
    terminal.press(&[":"]);
    terminal.types(&format!("goto {}", behind(1, 750)));
    terminal.press(&["Enter"]);
    terminal.shows(&[" REPLAY STOPPED", "GET /say"]);
    // As fast as it was; the rest takes two seconds.
    terminal.press(&["Space"]);
    terminal.shows(&[" REPLAY 1×"]);
    terminal.press(&["L"]);
    terminal.shows(&[" REPLAY END", "GET /nothing"]);
    terminal.press(&["q"]);
    terminal.is_as_before(0);
    assert!(terminal.screen().contains("5 transactions in"), "{}", terminal.screen());
    assert_eq!(fs::read_dir(room.path()).unwrap().count(), 0, "the folder that it was recorded into is gone");
}

#[test]
fn a_layout_is_kept_in_the_users_folder_and_shown_by_its_number_and_at_the_next_start() {
    let _machine = machine();
    let folder = tempfile::tempdir().unwrap();
    let own = folder.path().join("txray");
    fs::create_dir(&own).unwrap();
    let settings = "# mine\n[screen.keys]\npause = ['p']\nview-xlog = ['x']\n";
    fs::write(own.join("config.toml"), settings).unwrap();
    let environment = format!("XDG_CONFIG_HOME={}", folder.path().display());
    let terminal = demo(&environment);
    terminal.shows(&[" LIVE", "x XLog", "p pause"]);
    terminal.press(&["x", "l", "S"]);
    terminal.shows(&["keep as: 1 _"]);
    terminal.types("straight");
    terminal.press(&["Enter"]);
    terminal.shows(&["kept as preset 1 in", "linear"]);
    terminal.press(&["R", "1"]);
    terminal.shows(&["5 min  log", "rate/s"]);
    terminal.press(&["M-1"]);
    terminal.shows(&["min  linear", "v select"]);
    terminal.press(&["q"]);
    terminal.is_as_before(0);
    let kept = fs::read_to_string(own.join("layouts.toml")).unwrap();
    assert!(kept.contains("name = \"straight\"") && kept.contains("scale = \"linear\""), "{kept}");
    assert_eq!(fs::read_to_string(own.join("config.toml")).unwrap(), settings);
    fs::write(own.join("config.toml"), format!("layout = 'straight'\n{settings}")).unwrap();
    let terminal = demo(&environment);
    terminal.shows(&["min  linear", "v select"]);
    terminal.press(&["q"]);
    terminal.is_as_before(0);
}

#[test]
fn a_request_in_flight_is_opened_and_becomes_its_transaction_when_it_is_answered() {
    let _machine = machine();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    let arguments =
        format!("record --pid {} --port {port} --tls opaque --out {{folder}}/recording", std::process::id());
    let terminal = Terminal::start("XDG_CONFIG_HOME=/nonexistent", &arguments);
    terminal.shows(&[" LIVE"]);
    let mut buffer = [0; 1024];
    client.write_all(b"GET /item/7?token=s3cret HTTP/1.1\r\nHost: x\r\nCookie: s3cret\r\n\r\n").unwrap();
    assert_ne!(server.read(&mut buffer).unwrap(), 0);
    terminal.press(&["3"]);
    terminal.shows(&["GET /item/7", "waiting"]);
    terminal.press(&["Enter"]);
    let open = terminal.shows(&["waiting: the answer has not begun", "GET /item/7?token=REDACTED HTTP/1.1"]);
    assert!(open.contains("so far") && open.contains('▸'), "{open}");
    assert!(open.contains("Cookie: REDACTED") && !open.contains("s3cret"), "{open}");
    server.write_all(b"HTTP/1.1 204 No Content\r\nX-Answer: here\r\n\r\n").unwrap();
    assert_ne!(client.read(&mut buffer).unwrap(), 0);
    let ended = terminal.shows(&["GET /item/{id}  204", "outcome", "X-Answer: here"]);
    assert!(!ended.contains("so far"), "{ended}");
    terminal.press(&["Escape"]);
    terminal.shows(&["nothing is in flight"]);
    terminal.press(&["q"]);
    terminal.is_as_before(0);
}

/// Where a request is while nobody knows how it will end.
#[test]
fn a_request_in_flight_says_what_its_thread_waits_for_and_where() {
    let _machine = machine();
    let server = Server::start();
    let terminal =
        Terminal::start("XDG_CONFIG_HOME=/nonexistent", &format!("live --pid {}", server.process.pid()));
    terminal.shows(&[" LIVE"]);
    let mut client = server.connect();
    client.write_all(b"GET /sleep/20000 HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    terminal.press(&["3"]);
    terminal.shows(&["GET /sleep/20000", "timer"]);
    terminal.press(&["Enter"]);
    terminal.shows(&["now", "sleeping", "hrtimer_nanosleep", "clock_nanosleep"]);
    terminal.press(&["q"]);
    terminal.is_as_before(0);
}

#[test]
fn a_small_and_a_growing_terminal_are_no_trouble() {
    let _machine = machine();
    let terminal = demo("TERM=screen NO_COLOR=1");
    terminal.shows(&[" LIVE"]);
    for (width, height, words) in [
        ("40", "10", "txray needs 60×15, this is 40×10"),
        ("60", "15", "1 Overview"),
        ("200", "50", "0 Health"),
    ] {
        terminal.tmux(&["resize-window", "-t", "t", "-x", width, "-y", height]);
        terminal.shows(&[words]);
    }
    terminal.press(&["C-c"]);
    terminal.is_as_before(130);
}

#[test]
fn a_terminal_that_is_gone_ends_the_run() {
    let _machine = machine();
    let terminal = demo("");
    terminal.shows(&[" LIVE", "in flight"]);
    let pid = terminal.pid();
    terminal.tmux(&["kill-server"]);
    wait_for("the end of txray", || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        (stat.is_empty() || stat.contains(") Z ")).then_some(())
    });
}

#[test]
fn a_signal_and_a_panic_give_the_terminal_back() {
    let _machine = machine();
    for signal in [libc::SIGTERM, libc::SIGHUP] {
        let terminal = demo("");
        terminal.shows(&[" LIVE", "in flight"]);
        // SAFETY: no pointers; a process that this test started.
        let sent = unsafe { libc::kill(terminal.pid(), signal) };
        assert_eq!(sent, 0, "{}", std::io::Error::last_os_error());
        terminal.is_as_before(130);
    }
    let terminal = demo("TXRAY_TEST_PANIC=1");
    terminal.is_as_before(2);
    assert!(terminal.screen().contains("asked for by TXRAY_TEST_PANIC"));
}
