//! What the screen costs and how soon it shows: whole frames, its thread under a load, from a response to its dot, a large recording
//! opened. The program runs on a terminal of its own, which is read back.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use super::{
    figures::{Row, median},
    server::Server,
};
use crate::{
    ansi,
    pty::OnTerminal,
    shell::{cargo, output, run, target_dir},
};

/// Size of the terminal in all rows.
const SIZE: (u16, u16) = (200, 60);
/// Longest that anything may take to appear.
const PATIENCE: Duration = Duration::from_secs(120);
/// Transactions a second of the row about the screen's thread.
const LOAD: u64 = 50_000;
/// Requests of the recordings that are opened, some four events each, and connections: each makes some 480 requests a second. Two
/// sizes tell whether opening depends on the size; the last has twenty times the rate, on which going to an instant depends.
const RECORDED: [(u64, u64); 3] = [(1_000_000, 1), (5_000_000, 1), (1_000_000, 20)];

/// The programs that are measured.
struct Programs {
    txray: PathBuf,
    /// The example `screen`: the library's own parts, driven.
    inside: PathBuf,
}

/// All rows of the screen.
pub(super) fn rows(dir: &Path, seconds: u64, built: Option<&Path>) -> Result<Vec<Row>> {
    let programs = match built {
        Some(built) => Programs::of(built),
        None => build()?,
    };
    let mut rows = vec![said(frames(&programs)?)];
    rows.push(said(share(&programs, seconds * 5)?));
    rows.push(said(delay(&programs, dir, seconds * 10)?));
    rows.extend(open(&programs, dir)?);
    Ok(rows)
}

/// The whole takes minutes: each row is told as it is there.
fn said(row: Row) -> Row {
    println!("bench: screen: {}: {:.3} {} ({})", row.what, row.value, row.unit, row.note);
    row
}

impl Programs {
    fn of(built: &Path) -> Self {
        Self { txray: built.join("txray"), inside: built.join("examples/screen") }
    }
}

fn build() -> Result<Programs> {
    let package = ["build", "--locked", "--release", "--package", "tracer-user"];
    run(cargo(package).args(["--bin", "txray", "--example", "screen"]))?;
    Ok(Programs::of(&target_dir().join("release")))
}

fn inside<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T> {
    let line = text.lines().last().context("it printed nothing")?;
    serde_json::from_str(line).with_context(|| line.to_owned())
}

/// Time of a whole frame with a million dots in the window.
fn frames(programs: &Programs) -> Result<Row> {
    #[derive(Deserialize)]
    struct Frames {
        dots: u64,
        rows: u64,
        views: Vec<View>,
    }
    #[derive(Deserialize)]
    struct View {
        view: String,
        median_ms: f64,
        max_ms: f64,
    }
    const FRAMES: u64 = 100;
    let ran = Command::new(&programs.inside)
        .args(["frames".to_owned(), "1000000".to_owned(), FRAMES.to_string()])
        .stdin(Stdio::null())
        .output()?;
    let text = String::from_utf8(ran.stderr)?;
    let Frames { dots, rows, views } = inside(&text)?;
    let value = views.iter().find(|view| view.view == "overview").context("no overview")?.median_ms;
    let max = views.iter().map(|view| view.max_ms).fold(0.0, f64::max);
    let each: Vec<String> = views
        .iter()
        .map(|View { view, median_ms, max_ms }| format!("{view} {median_ms:.1} ({max_ms:.1})"))
        .collect();
    Ok(Row {
        what: "a whole frame of 200×60 with a million dots in the window, overview, median".into(),
        hooks: None,
        value,
        unit: "ms",
        goal: "< 100 ms, the longest of any view too",
        met: Some(value < 100.0 && max < 100.0),
        note: format!(
            "{dots} dots, {rows} rows; {FRAMES} frames a view, read, drawn and written; median (longest), ms: {}",
            each.join(", ")
        ),
    })
}

/// CPU time of the screen's thread while many transactions come.
fn share(programs: &Programs, seconds: u64) -> Result<Row> {
    #[derive(Deserialize)]
    struct Share {
        share: f64,
        per_second: f64,
        seconds: f64,
    }
    let (mut shares, mut frames) = (Vec::new(), Vec::new());
    let mut last = None;
    for _ in 0..3 {
        let mut load = Command::new(&programs.inside);
        load.args(["load".to_owned(), LOAD.to_string(), seconds.to_string()]).stderr(Stdio::piped());
        let mut terminal = OnTerminal::start(&mut load, SIZE.0, SIZE.1)?;
        let mut errors = terminal.child.stderr.take().context("its errors")?;
        // Its terminal is read by a thread; nothing here waits for what is on it.
        let mut text = String::new();
        errors.read_to_string(&mut text)?;
        let ran: Share = inside(&text)?;
        // A thread that draws nothing costs nothing.
        let (mut n, mut before) = (0, None);
        while terminal.next(Instant::now()).is_some() {
            let now = counted(&terminal.screen);
            n += u64::from(now != before);
            before = now;
        }
        frames.push(n);
        shares.push(ran.share * 100.0);
        last = Some(ran);
    }
    let last = last.context("it did not run")?;
    let value = median(&shares);
    Ok(Row {
        what: format!("the screen's thread while {LOAD} transactions/s come, of one CPU"),
        hooks: None,
        value,
        unit: "%",
        goal: "≤ 3 %",
        met: Some(value <= 3.0 && frames.iter().all(|n| *n > 5)),
        note: format!(
            "{}; {frames:?} frames; {:.0} s each at {:.0}/s, a million dots, CPU time of the thread that reads and draws",
            shares.iter().map(|share| format!("{share:.2}")).collect::<Vec<_>>().join(", "),
            last.seconds,
            last.per_second
        ),
    })
}

/// The number before ` transactions` in the first line of the screen.
fn counted(screen: &ansi::Screen) -> Option<u64> {
    let line = screen.line(0);
    let number = line.split(" transactions").next()?.rsplit(' ').next()?.replace(',', "");
    number.parse().ok()
}

/// From the end of a response, by the client's clock, to the frame that counts its transaction among its dots: one request after the
/// other on one connection, so that the n-th to end is the n-th to be counted.
fn delay(programs: &Programs, dir: &Path, seconds: u64) -> Result<Row> {
    const EVERY: Duration = Duration::from_millis(20);
    let server = Server::start(dir)?;
    let mut live = Command::new(&programs.txray);
    live.args(["live".to_owned(), "--pid".to_owned(), server.pid().to_string()]).stderr(Stdio::piped());
    let mut terminal = OnTerminal::start(&mut live, SIZE.0, SIZE.1)?;
    let mut errors = BufReader::new(terminal.child.stderr.take().context("its errors")?);
    let mut line = String::new();
    errors.read_line(&mut line)?;
    ensure!(line.contains("txray: tracing"), "txray says: {line}");
    terminal.wait_for("its header", PATIENCE, |screen| counted(screen) == Some(0))?;
    let address = server.address();
    let client = thread::spawn(move || -> Result<Vec<Instant>> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        let (began, mut ends) = (Instant::now(), Vec::new());
        while began.elapsed() < Duration::from_secs(seconds) {
            stream.write_all(b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n")?;
            read_response(&mut stream)?;
            ends.push(Instant::now());
            thread::sleep(EVERY);
        }
        Ok(ends)
    });
    // When so many were counted first.
    let mut seen: Vec<(Instant, u64)> = Vec::new();
    let most = Instant::now() + Duration::from_secs(seconds) + Duration::from_secs(5);
    while let Some(time) = terminal.next(most) {
        if let Some(n) = counted(&terminal.screen)
            && n > seen.last().map_or(0, |(_, n)| *n)
        {
            seen.push((time, n));
        }
    }
    let ends = client.join().map_err(|_| anyhow::anyhow!("the client panicked"))??;
    let mut delays = Vec::new();
    let mut frames = seen.iter().peekable();
    for (n, end) in (1_u64..).zip(&ends) {
        while frames.next_if(|(_, counted)| *counted < n).is_some() {}
        let (time, _) = frames.peek().with_context(|| format!("{n} of {} were seen", ends.len()))?;
        delays.push(time.saturating_duration_since(*end).as_secs_f64());
    }
    delays.sort_by(f64::total_cmp);
    let p99 = delays[delays.len() * 99 / 100];
    Ok(Row {
        what: "from a response to its dot on the screen, p99".into(),
        hooks: None,
        value: p99,
        unit: "s",
        goal: "≤ 1 s",
        met: Some(p99 <= 1.0),
        note: format!(
            "p50 {:.2} s, longest {:.2} s; {} requests of one client to nginx, 50 a second, to the frame read off the terminal",
            median(&delays),
            delays[delays.len() - 1],
            delays.len()
        ),
    })
}

/// Reads one response with a `Content-Length`.
fn read_response(stream: &mut TcpStream) -> Result<()> {
    let mut read = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&read);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
            let length: usize = length.context("a response without a length")?.parse()?;
            if body.len() >= length {
                return Ok(());
            }
        }
        let n = stream.read(&mut buffer)?;
        ensure!(n != 0, "nginx closed the connection");
        read.extend_from_slice(&buffer[..n]);
    }
}

/// A recording of synthetic traffic.
#[derive(Deserialize)]
struct Recorded {
    events: u64,
    transactions: u64,
    event_seconds: f64,
    seconds: f64,
}

/// A recording to its first frame with dots, and to the screen of an instant in its middle.
fn open(programs: &Programs, dir: &Path) -> Result<Vec<Row>> {
    let folder = dir.join("large");
    let mut rows = Vec::new();
    for (n_requests, n_conns) in RECORDED {
        let _ = fs::remove_dir_all(&folder);
        let measured = open_one(programs, &folder, n_requests, n_conns);
        fs::remove_dir_all(&folder)?;
        rows.extend(measured?.into_iter().map(said));
    }
    Ok(rows)
}

fn open_one(programs: &Programs, folder: &Path, n_requests: u64, n_conns: u64) -> Result<Vec<Row>> {
    const TIMES: usize = 5;
    let ran = Command::new(&programs.inside)
        .args(["record", &n_requests.to_string(), &n_conns.to_string()])
        .arg(folder)
        .stdin(Stdio::null())
        .output()?;
    let recorded: Recorded = inside(&String::from_utf8(ran.stderr)?)?;
    let bytes: u64 = output(Command::new("du").arg("-sb").arg(folder))?
        .split_whitespace()
        .next()
        .context("du printed nothing")?
        .parse()?;
    let middle = 1_700_000_000_000_000_000 + (recorded.event_seconds / 2.0 * 1e9) as u64;
    println!(
        "bench: screen: recorded {} events and {} transactions, {bytes} bytes, in {:.0} s",
        recorded.events, recorded.transactions, recorded.seconds
    );
    let (mut first, mut instant) = (Vec::new(), Vec::new());
    for _ in 0..TIMES {
        first.push(appears(programs, folder, &[], |screen| counted(screen).is_some_and(|n| n > 0))?);
        // The recording's own state, not the one on the way there.
        let there = |screen: &ansi::Screen| screen.line(0).contains("STOPPED") && counted(screen) > Some(0);
        instant.push(appears(programs, folder, &["--at", &middle.to_string()], there)?);
    }
    let row = |what: &str, times: &[f64]| {
        let value = median(times);
        Row {
            what: format!(
                "{what}, {:.1} M events and {:.1} M transactions",
                recorded.events as f64 / 1e6,
                recorded.transactions as f64 / 1e6
            ),
            hooks: None,
            value,
            unit: "s",
            goal: "< 2 s",
            met: Some(value < 2.0),
            note: format!(
                "{TIMES} starts, longest {:.2} s; {:.2} GB, {:.0} events/s of recorded time; files in the page cache",
                times.iter().copied().fold(0.0, f64::max),
                bytes as f64 / 1e9,
                recorded.events as f64 / recorded.event_seconds
            ),
        }
    };
    Ok(vec![
        row("`replay` to its first frame with dots", &first),
        row("`replay --at` the middle to its whole screen", &instant),
    ])
}

/// Seconds from the start of `txray replay` until its screen is as wanted.
fn appears(
    programs: &Programs,
    folder: &Path,
    flags: &[&str],
    wanted: impl Fn(&ansi::Screen) -> bool,
) -> Result<f64> {
    let mut replay = Command::new(&programs.txray);
    replay.arg("replay").arg(folder).args(flags).stderr(Stdio::null());
    let began = Instant::now();
    let mut terminal = OnTerminal::start(&mut replay, SIZE.0, SIZE.1)?;
    let there = terminal.wait_for("the recording", PATIENCE, wanted)?;
    Ok(there.duration_since(began).as_secs_f64())
}
