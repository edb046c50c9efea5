//! A recording played on the screen: what is seen at an instant is what was seen then.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use ratatui::{buffer::Buffer, layout::Rect};
use tracer_user::{
    cli::{
        delivery::{Delivery, Out},
        player::{Begin, FIRST_ROWS, Player, Tape, WHOLE_EVENTS},
    },
    conn::order,
    event::{Counters, Event, EventBatch},
    metrics::Metrics,
    pipeline::{LookedFor, NullVerdicts, Pipeline, PipelineConfig, Snapshot},
    schema::PayloadMode,
    sink::{
        fanout::Inline,
        recent::DEFAULT_ROWS,
        recording::{Recorder, RecordingConfig},
    },
    source::{
        recording::Recording,
        synthetic::{Synthetic, SyntheticConfig},
    },
    time::{BootTime, WallTime},
    transaction::{TransactionBatch, WallRange, watermark::WallLine},
    tui::{
        App, Colours, Feed, Heading, Model, Order, Pace, Palette, Playback, Played, Sought, Symbols, Theme,
        View, draw, layout,
    },
};

const DOTS: usize = 1 << 16;
const THEME: Theme = Theme { colours: Colours::Many, symbols: Symbols::Unicode, palette: Palette::DEFAULT };
const SIZE: Rect = Rect { x: 0, y: 0, width: 120, height: 40 };

/// Numbers as random as a test needs.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n.max(1)
    }
}

pub fn events(seed: u64, n_requests: u64) -> Vec<Event> {
    let config = SyntheticConfig {
        seed,
        n_requests,
        n_conns: 40,
        pipelined: 100,
        broken: 60,
        mid_join: 150,
        lost: 20,
        lost_ends: 20,
        disorder_ns: 2_000_000 / STRETCH,
        ..SyntheticConfig::default()
    };
    stretched(config, STRETCH, usize::MAX)
}

/// The synthetic load, made to last so many times as long; the kernel says that it loses records in the first `lossy` events.
fn stretched(config: SyntheticConfig, by: u64, lossy: usize) -> Vec<Event> {
    let mut events = Synthetic::new(config).all().0;
    let begin = events.iter().map(order::time).filter(|time| time.0 != 0).min().unwrap().0;
    for event in &mut events {
        for time in times(event) {
            time.0 = begin + time.0.saturating_sub(begin) * by;
        }
    }
    with_counters(events, lossy)
}

/// The synthetic source is quick: its load of some hundred milliseconds is made to last so many times as long.
const STRETCH: u64 = 20;

/// The times of an event that are known.
fn times(event: &mut Event) -> Vec<&mut BootTime> {
    let times = match event {
        Event::Data(data) => vec![&mut data.time, &mut data.first, &mut data.arrival],
        Event::ConnOpen(open) => vec![&mut open.time, &mut open.established],
        Event::ConnShut(shut) => vec![&mut shut.time],
        Event::Datagram(datagram) => vec![&mut datagram.time],
        Event::TlsOpen(open) => vec![&mut open.time],
        Event::FunctionEnter(enter) => vec![&mut enter.time],
        Event::FunctionReturn(leave) => vec![&mut leave.time],
        Event::Stack(stack) => vec![&mut stack.time],
        Event::OffCpu(off) => vec![&mut off.time, &mut off.out, &mut off.wake],
        Event::ConnClose(close) => vec![&mut close.time],
        Event::Retransmit(again) => vec![&mut again.time],
        Event::Process(process) => vec![&mut process.time],
        Event::ProcessFacts(facts) => vec![&mut facts.time],
        Event::Counters(counters) => vec![&mut counters.time],
        Event::Tick(time) => vec![time],
        _ => Vec::new(),
    };
    times.into_iter().filter(|time| time.0 != 0).collect()
}

/// Ten times a second the time, and once a second what the kernel and txray count.
fn with_counters(events: Vec<Event>, lossy: usize) -> Vec<Event> {
    let (mut all, mut due, mut latest) = (Vec::new(), 0, 0);
    for event in events {
        // A live source tells the time ten times a second, whatever happens: here for five seconds.
        let next = order::time(&event).0;
        for _ in 0..50 {
            if latest != 0 && next > latest + 100_000_000 {
                latest += 100_000_000;
                all.push(Event::Tick(BootTime(latest)));
            }
        }
        latest = latest.max(next);
        if latest > due {
            let n = all.len() as u64;
            let values = vec![
                ("kernel.data".into(), n),
                ("kernel.refused_data".into(), all.len().min(lossy) as u64 / 700),
                ("txray.cpu_ns".into(), n * 3_000),
                ("gauge.resident_bytes".into(), 40_000_000 + n),
            ];
            all.push(Event::Counters(Counters { time: BootTime(latest), values }));
            due = latest + 1_000_000_000;
        }
        all.push(event);
    }
    all
}

/// As for a screen.
fn pipeline() -> PipelineConfig {
    PipelineConfig { list_connections: true, ..PipelineConfig::default() }
}

/// A run as the live one is put together, without its threads.
struct Run {
    pipeline: Pipeline,
    delivery: Delivery,
    out: Screen,
    feed: Feed,
    metrics: Metrics,
}

struct Screen(Inline);

impl Out for Screen {
    fn take(&mut self, batch: TransactionBatch, snapshot: Option<Arc<Snapshot>>) {
        self.0.send(&batch, snapshot.as_deref());
    }
}

impl Run {
    fn start(recorder: Option<&Recorder>) -> Run {
        let metrics = Metrics::default();
        let feed = Feed::with_room(DOTS, DEFAULT_ROWS);
        let mut sinks = feed.sinks(&metrics);
        if let Some(recorder) = recorder {
            sinks.push(Box::new(recorder.transactions()));
        }
        Run {
            pipeline: Pipeline::new(pipeline(), metrics.clone(), Box::new(NullVerdicts)),
            delivery: Delivery::new(LookedFor::ALL, None, None, metrics.clone()),
            out: Screen(Inline::new(sinks, metrics.clone())),
            feed,
            metrics,
        }
    }

    fn push(&mut self, event: &Event) {
        self.delivery.push(event, &mut self.pipeline, &mut self.out);
    }

    fn look(&mut self) {
        let snapshot = self.delivery.look(&mut self.pipeline, &mut self.out);
        self.feed.status.lock().look(&snapshot, &self.metrics);
    }
}

/// Everything that the views show of a feed now; its end stands for the whole of it.
fn screens(feed: &Feed, view: View, replay: bool) -> Buffer {
    let heading = Heading { title: "shop".to_owned(), replay, ..Heading::default() };
    let mut app = App { view, window_ns: 10_000_000_000, ..App::default() };
    let layout = layout(SIZE, &app);
    let model = Model::read(feed, &heading, &app, &layout, None);
    if let Some(chart) = &model.chart {
        app.density = app.shown_density(chart.density(app.density));
    }
    let mut buffer = Buffer::empty(SIZE);
    draw(&mut buffer, &model, &app, THEME);
    buffer
}

/// Records `events`, in batches of any size, and keeps the screens of some instants.
fn record(
    config: RecordingConfig,
    events: &[Event],
    instants: &[(WallTime, View)],
    random: &mut Random,
) -> Vec<Buffer> {
    record_but(config, events, instants, random, 0..0)
}

/// As [`record`]; batches that begin with one of the events `lost` never reach the recorder.
fn record_but(
    config: RecordingConfig,
    events: &[Event],
    instants: &[(WallTime, View)],
    random: &mut Random,
    lost: std::ops::Range<usize>,
) -> Vec<Buffer> {
    let mut recorder = Recorder::start(config, Metrics::default()).unwrap();
    let mut run = Run::start(Some(&recorder));
    let (mut line, mut shown, mut at) = (WallLine::default(), Vec::new(), 0);
    let mut first = 0;
    while first < events.len() {
        let n = (1 + random.below(700) as usize).min(events.len() - first);
        let batch =
            Arc::new(EventBatch { first_ordinal: first as u64, events: events[first..first + n].to_vec() });
        if first == 0 || recorder.wants_checkpoint() {
            recorder.checkpoint(run.pipeline.checkpoint(), first as u64);
        }
        if !lost.contains(&first) {
            recorder.tap(&batch);
        }
        for event in &batch.events {
            if let Event::Anchor(anchor) = event {
                line.add(*anchor);
            }
            if let Some(time) = Delivery::time_of(event) {
                let wall = line.at(time).1.wall(time);
                while let Some((_, view)) = instants.get(at).filter(|(instant, _)| wall > *instant) {
                    run.look();
                    shown.push(screens(&run.feed, *view, false));
                    at += 1;
                }
            }
            run.push(event);
        }
        run.delivery.batch_is_over(&mut run.pipeline, &mut run.out);
        // As a live source is slow, so that the recorder's wishes are heard.
        std::thread::sleep(Duration::from_micros(300));
        first += n;
    }
    let rest = run.pipeline.finish();
    run.delivery.deliver(rest, None, &mut run.out);
    run.out.0.finish();
    recorder.finish().unwrap();
    assert_eq!(shown.len(), instants.len());
    shown
}

fn tape(dir: &std::path::Path) -> Tape {
    Tape {
        dir: dir.to_owned(),
        pipeline: pipeline(),
        filter: None,
        range: WallRange { from: WallTime(0), to: WallTime(u64::MAX) },
        until: None,
        xlog_dots: DOTS,
        whole_events: WHOLE_EVENTS,
        first_rows: FIRST_ROWS,
        follows: false,
    }
}

/// Waits until it stands still.
fn arrived(player: &Player) -> Played {
    loop {
        let played = player.played();
        if played.seeking.is_none() && played.paused {
            return played;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn goto(player: &Player, at: WallTime) -> Played {
    player.order(Order::Goto { at, window_ns: 10_000_000_000 });
    arrived(player)
}

/// Instants of the load, in order.
fn instants(events: &[Event], n: usize, random: &mut Random) -> Vec<WallTime> {
    let mut line = WallLine::default();
    let mut walls = Vec::new();
    for event in events {
        match event {
            Event::Anchor(anchor) => line.add(*anchor),
            Event::Data(data) => walls.push(line.at(data.time).1.wall(data.time).0),
            _ => {}
        }
    }
    let (first, last) = (*walls.iter().min().unwrap(), *walls.iter().max().unwrap());
    let mut instants: Vec<WallTime> =
        (0..n).map(|_| WallTime(first + (last - first) / 1_000_000 * random.below(1_000_000))).collect();
    instants.sort();
    instants
}

#[test]
fn the_screen_of_a_replay_at_an_instant_is_that_of_the_run_then_in_every_view() {
    let temp = tempfile::tempdir().unwrap();
    let mut random = Random(11);
    let events = events(5, 4_000);
    let instants: Vec<(WallTime, View)> = instants(&events, 100, &mut random)
        .into_iter()
        .enumerate()
        .map(|(i, at)| (at, View::ALL[i % View::ALL.len()]))
        .collect();
    let config = RecordingConfig {
        rotate_rows: 2_000,
        flush_after: Duration::from_millis(2),
        queue_bytes: 1 << 30,
        queue_batches: 1 << 20,
        ..RecordingConfig::new(temp.path().to_owned())
    };
    let shown = record(config, &events, &instants, &mut random);
    let begin = Begin {
        order: Some(Order::Goto { at: instants[0].0, window_ns: 1 }),
        narrowed: None,
        pace: Pace::Max,
    };
    let player = Player::start(tape(temp.path()), begin).unwrap();
    // There and back: an instant must not depend on where one comes from.
    let mut order: Vec<usize> = (0..instants.len()).collect();
    for i in (1..order.len()).rev() {
        order.swap(i, random.below(i as u64 + 1) as usize);
    }
    let mut differing = Vec::new();
    for i in order {
        let (at, view) = instants[i];
        let played = goto(&player, at);
        assert_eq!((played.at, played.fault.1.as_str()), (at, ""));
        let replayed = screens(&player.feed(), view, false);
        if replayed != shown[i] {
            differing.push(format!("{view:?} at {}:\n{}\n{}", at.0, text(&shown[i]), text(&replayed)));
        }
    }
    assert!(differing.is_empty(), "{} differ, the first:\n{}", differing.len(), differing[0]);
    // The screens are of something: dots, tables, losses, counters.
    let all: String = shown.iter().map(text).collect();
    for part in ["errors", "lost", "GET ", "kernel."] {
        assert!(all.contains(part), "no {part:?} on any screen");
    }
}

fn text(buffer: &Buffer) -> String {
    let area = buffer.area;
    let line = |y| (0..area.width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
    (0..area.height).map(|y| line(y).trim_end().to_owned() + "\n").collect()
}

/// A recording of some thousand requests.
fn recorded(seed: u64, payload: PayloadMode) -> (tempfile::TempDir, Vec<Event>) {
    let temp = tempfile::tempdir().unwrap();
    let events = events(seed, 2_000);
    let config = RecordingConfig {
        payload,
        queue_bytes: 1 << 30,
        queue_batches: 1 << 20,
        ..RecordingConfig::new(temp.path().to_owned())
    };
    record(config, &events, &[], &mut Random(seed));
    (temp, events)
}

fn start(dir: &std::path::Path, pace: Pace) -> Player {
    Player::start(tape(dir), Begin { order: None, narrowed: None, pace }).unwrap()
}

fn rows(player: &Player) -> Vec<u64> {
    player.feed().recent.lock().rows(WallTime(0), WallTime(u64::MAX)).map(|row| row.end_time.0).collect()
}

#[test]
fn it_plays_to_the_end_stops_steps_and_goes_back() {
    for payload in [PayloadMode::Heads, PayloadMode::None] {
        let (temp, events) = recorded(6, payload);
        let player = start(temp.path(), Pace::Max);
        let played = arrived(&player);
        assert!(played.ended);
        let all = rows(&player);
        assert!(all.len() > 1_000);
        for at in instants(&events, 20, &mut Random(3)) {
            let played = goto(&player, at);
            assert_eq!((played.at, played.ended), (at, false));
            let seen = rows(&player);
            // All that had left the pipeline by then, in the same order.
            assert_eq!(seen, all[..seen.len()]);
            assert!(seen.iter().all(|end| *end <= at.0));
            if payload == PayloadMode::None {
                assert_eq!(seen.len(), all.iter().filter(|end| **end <= at.0).count());
            }
            let next = goto(&player, WallTime(at.0 + 1_000_000_000));
            assert!(next.at.0 == at.0 + 1_000_000_000 || next.ended);
            assert!(rows(&player).len() >= seen.len());
        }
        player.order(Order::End);
        while !player.played().ended {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(rows(&player), all);
    }
}

#[test]
fn the_next_error_the_one_before_and_the_slowest_are_found() {
    let (temp, events) = recorded(7, PayloadMode::Heads);
    let player = start(temp.path(), Pace::Max);
    arrived(&player);
    let all: Vec<_> = player.feed().recent.lock().rows(WallTime(0), WallTime(u64::MAX)).cloned().collect();
    let window_ns = 3_000_000_000;
    let mut asked = 0;
    let mut ask = |what, from| {
        asked += 1;
        player.order(Order::Find { what, from, window_ns });
        loop {
            let played = player.played();
            if played.found.0 + played.fault.0 == asked && played.seeking.is_none() {
                return played;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    let mut found = [0; 2];
    for from in instants(&events, 12, &mut Random(4)) {
        let errors = || all.iter().filter(|row| row.error);
        let next = errors().find(|row| row.end_time > from);
        let before = errors().rfind(|row| row.end_time < from);
        let slowest = all
            .iter()
            .filter(|row| row.end_time <= from && row.end_time.0 + window_ns >= from.0)
            .map(|row| row.duration_ns)
            .max();
        let faults = player.played().fault.0;
        for (what, want) in [(Sought::NextError, next), (Sought::PreviousError, before)] {
            let played = ask(what, from);
            match want {
                Some(want) => {
                    let row = played.found.1.clone().unwrap();
                    assert_eq!((row.end_time, row.error), (want.end_time, true), "{what:?}");
                    // Its dot is there.
                    assert!(rows(&player).contains(&want.end_time.0));
                    found[usize::from(what == Sought::NextError)] += 1;
                }
                None => assert!(played.fault.0 > faults && played.fault.1.contains("error"), "{what:?}"),
            }
        }
        let before = player.played().found.0;
        let played = ask(Sought::Slowest, from);
        let found = played.found.1.filter(|_| played.found.0 > before);
        assert_eq!(found.map(|row| row.duration_ns), slowest);
    }
    assert!(found.iter().all(|n| *n > 3), "{found:?}");
}

/// Checkpoints each `every` events: of parts so long, or within one part.
fn with_checkpoints(dir: &std::path::Path, every: u64, within: bool) -> RecordingConfig {
    let config = RecordingConfig {
        flush_after: Duration::from_millis(2),
        queue_bytes: 1 << 30,
        queue_batches: 1 << 20,
        checkpoint_share: 0,
        ..RecordingConfig::new(dir.to_owned())
    };
    match within {
        true => RecordingConfig { checkpoint_rows: every, ..config },
        false => RecordingConfig { rotate_rows: every, ..config },
    }
}

/// Parts and checkpoints within them.
fn n_parts(dir: &std::path::Path) -> (usize, usize) {
    let recording = Recording::open(dir).unwrap();
    let parts = &recording.runs[0].events;
    (parts.len(), parts.iter().map(|part| part.meta.checkpoints.len()).sum())
}

#[test]
fn what_is_loaded_from_a_checkpoint_on_is_the_same_window() {
    window_from_a_checkpoint(false);
}

#[test]
fn what_is_loaded_from_a_checkpoint_within_a_part_on_is_the_same_window() {
    window_from_a_checkpoint(true);
}

fn window_from_a_checkpoint(within: bool) {
    let temp = tempfile::tempdir().unwrap();
    let mut random = Random(12);
    let events = events(9, 6_000);
    record(with_checkpoints(temp.path(), 2_000, within), &events, &[], &mut random);
    let (n_parts, n_within) = n_parts(temp.path());
    assert!(!within || n_parts == 1 && n_within > 5, "{n_parts} parts, {n_within} checkpoints within them");
    let whole = start(temp.path(), Pace::Max);
    let cut = Tape { whole_events: 0, ..tape(temp.path()) };
    let cut = Player::start(cut, Begin { order: None, narrowed: None, pace: Pace::Max }).unwrap();
    arrived(&whole);
    arrived(&cut);
    let window_ns = 100_000_000;
    let mut n_cut = 0;
    // The last first: each is behind the one before.
    for at in instants(&events, 30, &mut random).into_iter().rev() {
        let mut seen = Vec::new();
        for player in [&whole, &cut] {
            player.order(Order::Goto { at, window_ns });
            let played = arrived(player);
            n_cut += u64::from(played.is_cut());
            assert!(played.from.0 <= at.0 - window_ns || !played.is_cut(), "the window is loaded");
            let app = App { view: View::Xlog, window_ns, ..App::default() };
            let layout = layout(SIZE, &app);
            let model = Model::read(&player.feed(), &Heading::default(), &app, &layout, None);
            let chart = model.chart.unwrap();
            seen.push((
                chart.cells,
                chart.n,
                chart.n_errors,
                model.open,
                model.n_open,
                model.counters,
                model.now,
            ));
        }
        assert_eq!(seen[0].1, seen[1].1, "dots at {}", at.0);
        assert!(seen[0] == seen[1], "at {}", at.0);
    }
    assert!(n_cut > 10, "{n_cut} were loaded from a checkpoint on");
}

#[test]
fn a_window_is_put_together_of_stored_transactions_and_the_last_events() {
    assert_window(false, 0..0, 8..24);
}

#[test]
fn a_window_is_put_together_of_stored_transactions_and_the_last_events_of_a_part() {
    assert_window(true, 0..0, 8..24);
}

#[test]
fn a_window_in_which_the_recorder_lost_events_comes_from_the_events_alone() {
    assert_window(false, 9_000..11_000, 4..20);
    // Where in a part something is missing is not known.
    assert_window(true, 9_000..11_000, 0..1);
}

#[test]
fn where_stored_transactions_cannot_be_read_a_window_comes_from_the_events() {
    let temp = tempfile::tempdir().unwrap();
    let events = stretched(stored_config(22), 200, 3_000);
    record(with_checkpoints(temp.path(), 1_000, false), &events, &[], &mut Random(14));
    let whole = start(temp.path(), Pace::Max);
    arrived(&whole);
    let window_ns = 5_000_000_000;
    let instants = instants(&events, 3, &mut Random(15));
    let at = *instants.iter().max().unwrap();
    let order = Order::Goto { at, window_ns };
    let play = |damage: bool| {
        if damage {
            for file in files(&temp.path().join("transactions")) {
                let mut bytes = std::fs::read(&file).unwrap();
                // All of the pages, headers among them: a bit alone may only make another value. What says where they are stays.
                let (pages, tail) = bytes.split_at(bytes.len() - 8);
                let footer = u32::from_le_bytes(tail[..4].try_into().unwrap()) as usize;
                let end = pages.len() - footer;
                bytes[4..end].iter_mut().for_each(|byte| *byte ^= 0xff);
                std::fs::write(&file, bytes).unwrap();
            }
        }
        let begin = Begin { order: Some(order), narrowed: None, pace: Pace::REAL };
        let player = Player::start(Tape { whole_events: 0, ..tape(temp.path()) }, begin).unwrap();
        arrived(&player);
        let from = WallTime(at.0 - window_ns);
        let rows = || -> Vec<_> { player.feed().recent.lock().rows(from, at).cloned().collect() };
        // What is before the last checkpoint comes behind the rest, on a slow machine visibly so.
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut n_rows = None;
        while Instant::now() < deadline
            && (n_rows != Some(rows().len()) || player.played().fault.0 < u64::from(damage))
        {
            n_rows = Some(rows().len());
            std::thread::sleep(Duration::from_millis(300));
        }
        (rows(), player.played().fault, player.finish().totals)
    };
    let (rows, fault, totals) = play(false);
    assert!(rows.len() > 100 && fault.0 == 0, "{} rows, {fault:?}", rows.len());
    let (again, fault, by_events) = play(true);
    assert_eq!(again, rows);
    assert!(fault.0 == 1 && fault.1.contains("come from the events"), "{fault:?}");
    assert!(by_events.events > totals.events, "{} and {}", by_events.events, totals.events);
}

/// A load of which windows can be put together of what was stored.
fn stored_config(seed: u64) -> SyntheticConfig {
    SyntheticConfig {
        seed,
        n_requests: 6_000,
        n_conns: 40,
        pipelined: 100,
        disorder_ns: 10_000,
        // Nothing that a parser loses: of that the counters here know nothing.
        long_bodies: 0,
        ..SyntheticConfig::default()
    }
}

/// Files of a dataset.
fn files(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(self::files(&path)) } else { files.push(path) }
    }
    files
}

/// Each window is the same however it is loaded; so many of 24 were read as they were recorded for the most part.
fn assert_window(within: bool, lost: std::ops::Range<usize>, stored: std::ops::Range<u64>) {
    let temp = tempfile::tempdir().unwrap();
    let mut random = Random(13);
    let events = stretched(stored_config(21), 200, 3_000);
    record_but(with_checkpoints(temp.path(), 1_000, within), &events, &[], &mut random, lost.clone());
    let (n_parts, n_within) = n_parts(temp.path());
    assert!(!within || n_parts == 1 && n_within > 5, "{n_parts} parts, {n_within} checkpoints within them");
    let whole = start(temp.path(), Pace::Max);
    arrived(&whole);
    let window_ns = 5_000_000_000;
    let (mut n_stored, mut n_first) = (0, 0);
    for at in instants(&events, 24, &mut random) {
        let order = Order::Goto { at, window_ns };
        whole.order(order);
        arrived(&whole);
        let tape = Tape { whole_events: 0, first_rows: 100, ..tape(temp.path()) };
        let begin = Begin { order: Some(order), narrowed: None, pace: Pace::REAL };
        let part = Player::start(tape, begin).unwrap();
        let first = arrived(&part);
        let rest = loop {
            let played = part.played();
            if !played.is_loading && played.seeking.is_none() {
                break played;
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        n_first +=
            u64::from(first.is_loading && first.from > rest.from && first.generation < rest.generation);
        let seen = [&whole, &part].map(|player| {
            let feed = player.feed();
            let status = feed.status.lock().clone();
            let from = at.0.saturating_sub(window_ns + 1_000_000_000);
            let rows: Vec<_> = feed.recent.lock().rows(WallTime(from), at).cloned().collect();
            let marks = status.marks.into_iter().filter(|(_, to)| to.0 >= from);
            let marks: Vec<_> = marks.map(|(begin, to)| (begin.max(WallTime(from)), to)).collect();
            let screens = [View::Xlog, View::Active, View::Connections, View::Health].map(|view| {
                let app = App { view, window_ns, ..App::default() };
                let model = Model::read(&feed, &Heading::default(), &app, &layout(SIZE, &app), None);
                let chart = model.chart.map(|chart| (chart.cells, chart.lost, chart.n));
                (chart, model.open, model.conns, model.health, model.now)
            });
            (rows, marks, screens)
        });
        assert_eq!(seen[0].0, seen[1].0, "rows at {}", at.0);
        assert_eq!(seen[0].1, seen[1].1, "marks at {}", at.0);
        for (one, other) in seen[0].2.iter().zip(&seen[1].2) {
            assert!(one.0 == other.0, "chart at {}", at.0);
            assert_eq!(one.1, other.1, "in flight at {}", at.0);
            if !lost.is_empty() {
                // What was counted before the window is counted by the whole alone.
                continue;
            }
            assert_eq!(one.2, other.2, "connections at {}", at.0);
            assert_eq!(one.3, other.3, "health at {}", at.0);
            assert_eq!(one.4, other.4, "watermark at {}", at.0);
        }
        let outcome = part.finish();
        // Of the events far fewer than of the window, which holds some hundreds of transactions.
        n_stored += u64::from(outcome.totals.events < 3 * outcome.totals.transactions);
    }
    assert!(stored.contains(&n_stored) && n_first > 5, "{n_stored} and {n_first} of 24");
}

#[test]
fn a_recording_that_goes_on_is_followed_through_the_ends_of_its_parts() {
    let temp = tempfile::tempdir().unwrap();
    let events = events(10, 2_000);
    let config = RecordingConfig {
        rotate_rows: 1_500,
        flush_after: Duration::from_millis(1),
        ..RecordingConfig::new(temp.path().to_owned())
    };
    let mut recorder = Recorder::start(config, Metrics::default()).unwrap();
    let mut run = Run::start(Some(&recorder));
    recorder.checkpoint(Vec::new(), 0);
    let mut player = None;
    let mut shown = 0;
    for (at, chunk) in events.chunks(300).enumerate() {
        let first_ordinal = at as u64 * 300;
        if at > 0 && recorder.wants_checkpoint() {
            recorder.checkpoint(run.pipeline.checkpoint(), first_ordinal);
        }
        let batch = Arc::new(EventBatch { first_ordinal, events: chunk.to_vec() });
        recorder.tap(&batch);
        chunk.iter().for_each(|event| run.push(event));
        run.delivery.batch_is_over(&mut run.pipeline, &mut run.out);
        // It is read as fast as it is written: what was read meanwhile is looked at, and waited for now and then.
        std::thread::sleep(Duration::from_millis(5));
        if at == 3 {
            let tape = Tape { follows: true, ..tape(temp.path()) };
            player =
                Some(Player::start(tape, Begin { order: None, narrowed: None, pace: Pace::Max }).unwrap());
        }
        if let Some(player) = player.as_ref().filter(|_| at % 5 == 0) {
            run.look();
            while rows(player).len() < run.feed.recent.lock().len() {
                std::thread::sleep(Duration::from_millis(5));
            }
            shown += 1;
        }
    }
    let player = player.unwrap();
    run.look();
    while rows(&player).len() < run.feed.recent.lock().len() {
        std::thread::sleep(Duration::from_millis(5));
    }
    let all: Vec<u64> =
        run.feed.recent.lock().rows(WallTime(0), WallTime(u64::MAX)).map(|row| row.end_time.0).collect();
    assert_eq!(rows(&player), all);
    assert!(shown > 3);
    let played = player.played();
    assert!(!played.ended && played.fault.1.is_empty(), "{played:?}");
    assert_eq!(player.finish().n_faults, 0);
    run.out.0.finish();
    recorder.finish().unwrap();
}

#[test]
fn a_paced_playback_takes_orders_while_it_waits() {
    let (temp, events) = recorded(8, PayloadMode::Heads);
    // A thousandth: it would take hours.
    let player = start(temp.path(), Pace::Thousandths(1));
    player.order(Order::Toggle);
    let played = arrived(&player);
    assert!(!played.ended);
    player.order(Order::Toggle);
    let at = instants(&events, 3, &mut Random(5))[1];
    assert_eq!(goto(&player, at).at, at);
    player.order(Order::Pace(Pace::Max));
    player.order(Order::Toggle);
    while !player.played().ended {
        std::thread::sleep(Duration::from_millis(1));
    }
    let outcome = player.finish();
    assert!(outcome.totals.transactions > 1_000);
    assert_eq!(outcome.n_faults, 0);
    assert!(outcome.totals.last > BootTime(0));
}
