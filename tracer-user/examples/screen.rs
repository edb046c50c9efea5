//! What `cargo xtask bench screen` measures from inside a process: whole frames, the screen's thread under a load, and a large
//! recording to open. Prints one JSON object on standard error.

use std::{
    collections::VecDeque,
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use ratatui::{Terminal, TerminalOptions, Viewport, backend::CrosstermBackend, layout::Rect};
use tracer_user::{
    cli::delivery::Delivery,
    event::{ConnId, Role},
    metrics::Metrics,
    pipeline::{LookedFor, NullVerdicts, Pipeline, PipelineConfig, Snapshot},
    report::filter::{Filter, Thresholds},
    sink::{
        Sink as _,
        fanout::Inline,
        recent::DEFAULT_ROWS,
        recording::{Recorder, RecordingConfig},
    },
    source::{
        Source as _,
        synthetic::{Random, Synthetic, SyntheticConfig},
    },
    time::WallTime,
    transaction::{Confidence, End, Kind, TimeBasis, Transaction, TransactionBatch},
    tui::{
        self, App, Colours, Feed, Heading, Model, Palette, ScreenSettings, Shows, Symbols, Theme, View, draw,
        layout,
    },
};

/// Dots that a run keeps at most, as its settings have it.
const XLOG_DOTS: usize = 1 << 20;
/// Time across the XLog at first.
const WINDOW_NS: u64 = 300_000_000_000;
const SIZE: Rect = Rect { x: 0, y: 0, width: 200, height: 60 };
/// Batches that the recorder may have in hand while the next is made: far below its queue, so that nothing is lost.
const IN_HAND: usize = 64;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| -> Result<u64> { Ok(args.get(at).context("a number is missing")?.parse()?) };
    let result = match args.first().map(String::as_str) {
        Some("frames") => frames(number(1)?, number(2)?)?,
        Some("load") => load(number(1)?, Duration::from_secs(number(2)?))?,
        Some("record") => {
            let n_conns = usize::try_from(number(2)?)?;
            record(number(1)?, n_conns, Path::new(args.get(3).context("a folder is missing")?))?
        }
        _ => bail!("frames DOTS N | load PER_SECOND SECONDS | record REQUESTS CONNECTIONS DIR"),
    };
    eprintln!("{result}");
    Ok(())
}

/// Transactions of four services with ten operations each, one in a hundred an error.
struct Source {
    random: Random,
    services: Vec<Arc<str>>,
    operations: Vec<Arc<str>>,
    next: u64,
}

impl Source {
    fn new() -> Source {
        Source {
            random: Random(1),
            services: (0..4).map(|n| format!("service-{n}").into()).collect(),
            operations: (0..10).map(|n| format!("GET /operation/{n}/{{id}}").into()).collect(),
            next: 0,
        }
    }

    fn at(&mut self, end_ns: u64) -> Transaction {
        let (seq, random) = (self.next, &mut self.random);
        self.next += 1;
        // From 100 µs to 1 s, short ones as often as long ones in every decade.
        let duration = 100_000 << random.below(13);
        let duration = duration + random.below(duration);
        let error = random.chance(10);
        let service = self.services[random.below(4) as usize].clone();
        let operation = self.operations[random.below(10) as usize].clone();
        Transaction {
            start_time: WallTime(end_ns - duration),
            request_end: Some(WallTime(end_ns - duration)),
            response_start: Some(WallTime(end_ns)),
            end_time: WallTime(end_ns),
            duration_ns: duration as i64,
            ttfb_ns: Some(duration),
            queue_ns: None,
            time_basis: TimeBasis::Exit,
            kind: Kind::Request,
            role: Role::Server,
            protocol: "http1",
            operation,
            target: Some(Bytes::from_static(b"/operation/7/4711")),
            status_code: Some(if error { 500 } else { 200 }),
            error,
            error_type: error.then(|| "500".into()),
            pid: 7,
            tid: 8,
            comm: "service".into(),
            service,
            client_addr: "127.0.0.1".into(),
            client_port: Some(40_000 + (seq % 64) as u16),
            server_addr: "127.0.0.1".into(),
            server_port: Some(80),
            request_bytes: 80,
            response_bytes: 400,
            end: End::Answered,
            confidence: Confidence::Complete,
            conn: ConnId(seq % 64),
            ordinal: seq / 64,
            seq,
            ..Transaction::default()
        }
    }

    /// So many, ending evenly up to `end_ns`.
    fn batch(&mut self, n: u64, from_ns: u64, end_ns: u64) -> TransactionBatch {
        let step = (end_ns - from_ns) / n.max(1);
        let transactions = (1..=n).map(|i| self.at(from_ns + i * step)).collect();
        TransactionBatch { transactions, watermark: WallTime(end_ns) }
    }
}

/// What the screen reads, and the sinks that fill it, as a run has them.
fn feed() -> (Feed, Inline) {
    let metrics = Metrics::default();
    let feed = Feed::with_room(XLOG_DOTS, DEFAULT_ROWS);
    let sinks = Inline::new(feed.sinks(&metrics), metrics);
    (feed, sinks)
}

/// `n` transactions in the window before `end_ns`, in batches.
fn fill(source: &mut Source, sinks: &mut Inline, n: u64, end_ns: u64) {
    const STEPS: u64 = 1_000;
    let step = WINDOW_NS / STEPS;
    for i in 0..STEPS {
        let from = end_ns - WINDOW_NS + i * step;
        sinks.send(&source.batch(n / STEPS, from, from + step), None);
    }
}

fn heading() -> Heading {
    Heading { title: "bench".to_owned(), ..Heading::default() }
}

fn now_ns() -> Result<u64> {
    Ok(u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos())?)
}

/// Time of whole frames, as the terminal's loop makes them, view by view. Between two the feed goes on by a tenth of a second.
fn frames(n_dots: u64, n_frames: u64) -> Result<String> {
    let (mut source, (feed, mut sinks)) = (Source::new(), feed());
    let mut now = 1_700_000_000_000_000_000;
    fill(&mut source, &mut sinks, n_dots, now);
    let theme = Theme { colours: Colours::Many, symbols: Symbols::Unicode, palette: Palette::default() };
    let options = TerminalOptions { viewport: Viewport::Fixed(SIZE) };
    let mut terminal = Terminal::with_options(CrosstermBackend::new(io::sink()), options)?;
    let filter = Filter::parse("duration >= 10ms", Thresholds::default())?;
    let cases = View::ALL.map(|view| (view, None)).into_iter().chain([(View::Overview, Some(filter))]);
    let mut lines = Vec::new();
    for (view, filter) in cases {
        let name = if filter.is_some() { "filtered".to_owned() } else { format!("{view:?}").to_lowercase() };
        let mut app = App { view, filter, ..App::default() };
        let mut model: Option<Model> = None;
        let mut times = Vec::new();
        for _ in 0..n_frames {
            let (before, n) = (now, n_dots / (WINDOW_NS / 100_000_000));
            now += 100_000_000;
            let snapshot = Snapshot { wall: WallTime(now), ..Snapshot::default() };
            sinks.send(&source.batch(n, before, now), Some(&snapshot));
            let began = Instant::now();
            let shown = layout(SIZE, &app);
            let read = Model::read(&feed, &heading(), &app, &shown, model.as_ref()).of(None, false);
            if let Some(chart) = &read.chart {
                app.density = app.shown_density(chart.density(app.density));
            }
            terminal.draw(|frame| draw(frame.buffer_mut(), &read, &app, theme))?;
            drop(read.seen(&app, &shown));
            model = Some(read);
            times.push(began.elapsed().as_secs_f64() * 1e3);
        }
        times.sort_by(f64::total_cmp);
        let (median, max) = (times[times.len() / 2], times[times.len() - 1]);
        lines.push(format!("{{\"view\":\"{name}\",\"median_ms\":{median},\"max_ms\":{max}}}"));
    }
    let kept = feed.xlog.lock().dots(WallTime(now - WINDOW_NS), WallTime(now)).count();
    let rows = feed.recent.lock().len();
    Ok(format!("{{\"dots\":{kept},\"rows\":{rows},\"views\":[{}]}}", lines.join(",")))
}

/// CPU time of a thread of this process, ns.
fn cpu_ns(thread: i32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/self/task/{thread}/schedstat"))?;
    Ok(text.split(' ').next().context("an empty schedstat")?.parse()?)
}

/// The screen itself on this terminal, over a feed into which so many transactions a second are written; a million dots are there
/// from the beginning.
fn load(per_second: u64, time: Duration) -> Result<String> {
    /// Until the first frames, which fill caches, are over.
    const SETTLE: Duration = Duration::from_secs(3);
    const PACE: Duration = Duration::from_millis(20);
    let (mut source, (feed, mut sinks)) = (Source::new(), feed());
    let mut last = now_ns()?;
    fill(&mut source, &mut sinks, 1_000_000, last);
    // SAFETY: no arguments, cannot fail.
    let screen = unsafe { libc::gettid() };
    let over = Arc::new(AtomicBool::new(false));
    let writer = thread::spawn({
        let over = over.clone();
        move || -> Result<(u64, u64, Duration)> {
            let began = Instant::now();
            let (mut measured, mut written, mut observed) = (None, 0_u64, 0);
            let done = loop {
                thread::sleep(PACE);
                let now = now_ns()?;
                // What is due, so that a late turn is made up for.
                let due = began.elapsed().as_nanos() as u64 * per_second / 1_000_000_000;
                let is_due = now - observed >= 250_000_000;
                let snapshot = is_due.then(|| Snapshot { wall: WallTime(now), ..Snapshot::default() });
                if is_due {
                    observed = now;
                }
                sinks.send(&source.batch(due - written, last, now), snapshot.as_ref());
                (written, last) = (due, now);
                match measured {
                    None if began.elapsed() >= SETTLE => {
                        measured = Some((Instant::now(), cpu_ns(screen)?, written));
                    }
                    Some((start, cpu, before)) if start.elapsed() >= time => {
                        break (cpu_ns(screen)? - cpu, written - before, start.elapsed());
                    }
                    _ => {}
                }
            };
            over.store(true, Ordering::Release);
            Ok(done)
        }
    });
    let settings = ScreenSettings::default();
    tui::run(Shows::Live(&feed, None), None, tui::RollupSources::default(), heading(), settings, || {
        over.load(Ordering::Acquire)
    })?;
    let (cpu, written, took) =
        writer.join().map_err(|_| anyhow::anyhow!("the writer's thread panicked"))??;
    let seconds = took.as_secs_f64();
    Ok(format!(
        "{{\"share\":{},\"per_second\":{},\"seconds\":{seconds}}}",
        cpu as f64 / 1e9 / seconds,
        written as f64 / seconds
    ))
}

/// A recording of synthetic traffic, made as a run makes it.
fn record(n_requests: u64, n_conns: usize, dir: &Path) -> Result<String> {
    let metrics = Metrics::default();
    let began = Instant::now();
    let mut recorder = Recorder::start(RecordingConfig::new(PathBuf::from(dir)), metrics.clone())?;
    let mut rows = recorder.transactions();
    let mut pipeline = Pipeline::new(PipelineConfig::default(), metrics.clone(), Box::new(NullVerdicts));
    let mut delivery = Delivery::new(LookedFor::ALL, None, None, metrics);
    let mut source = Synthetic::new(SyntheticConfig { n_requests, n_conns, ..SyntheticConfig::default() });
    let mut in_hand = VecDeque::new();
    let mut failure = None;
    let mut out = |batch: TransactionBatch, _: Option<Arc<Snapshot>>| {
        if let Err(error) = rows.write(&batch) {
            failure.get_or_insert(error);
        }
    };
    recorder.checkpoint(pipeline.checkpoint(), 0);
    while let Some(batch) = source.next_batch()? {
        let batch = Arc::new(batch);
        let next = batch.first_ordinal + batch.events.len() as u64;
        recorder.tap(&batch);
        for event in &batch.events {
            delivery.push(event, &mut pipeline, &mut out);
        }
        delivery.batch_is_over(&mut pipeline, &mut out);
        if recorder.wants_checkpoint() {
            recorder.checkpoint(pipeline.checkpoint(), next);
        }
        in_hand.push_back(batch);
        // Its tap never waits: this does, so that nothing is lost however fast traffic is made.
        while in_hand.len() > IN_HAND {
            match in_hand.front() {
                Some(first) if Arc::strong_count(first) > 1 => thread::sleep(Duration::from_micros(100)),
                _ => drop(in_hand.pop_front()),
            }
        }
    }
    let rest = pipeline.finish();
    delivery.deliver(rest, None, &mut out);
    let totals = delivery.totals;
    rows.finish()?;
    if let Some(failure) = failure {
        return Err(failure.into());
    }
    let summary = recorder.finish()?;
    Ok(format!(
        "{{\"events\":{},\"transactions\":{},\"event_seconds\":{},\"seconds\":{}}}",
        summary.n_events,
        totals.transactions,
        totals.duration_ns() as f64 / 1e9,
        began.elapsed().as_secs_f64()
    ))
}
