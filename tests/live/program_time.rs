//! Kernel time per program: a sample counts at least the hits that gave an event, and a replay shows what the run showed.

use std::{sync::Arc, thread, time::Duration};

use rstest::rstest;
use tempfile::TempDir;
use tracer_user::{
    config::{self, Targets},
    event::{Counters, Event, EventBatch},
    metrics::Metrics,
    pipeline::{NullVerdicts, Pipeline, PipelineConfig},
    sink::recording::{Recorder, RecordingConfig},
    source::{
        Source as _,
        live::{LiveConfig, LiveSource},
        recording::Recording,
        replay::ReplaySource,
    },
    tui::{App, Feed, Heading, HealthLine, Layout, Model, View},
};
use workload::load::{self, Options};

use super::{Hooks, machine, process::Server};

/// What the Health view shows after each reading of the counters.
struct Screen {
    pipeline: Pipeline,
    metrics: Metrics,
    feed: Feed,
    shown: Vec<Vec<HealthLine>>,
}

impl Screen {
    fn new(pipeline: Pipeline, metrics: Metrics) -> Screen {
        let feed = Feed::with_room(64, 64);
        Screen { pipeline, metrics, feed, shown: Vec::new() }
    }

    fn push(&mut self, batch: &EventBatch) {
        for event in &batch.events {
            self.pipeline.push(event);
            self.pipeline.drain();
            if matches!(event, Event::Counters(_)) {
                self.feed.status.lock().observe(&self.pipeline.snapshot(), &self.metrics);
                let app = App { view: View::Health, ..App::default() };
                let layout = Layout::default();
                let model = Model::read(&self.feed, &Heading::default(), &app, &layout, None);
                self.shown.push(model.health);
            }
        }
    }
}

fn value(counters: &Counters, name: &str) -> Option<u64> {
    counters.values.iter().find(|(known, _)| **known == *name).map(|(_, n)| *n)
}

/// The fewest of `times` within any stretch of `length` that begins from `first` to `last`.
fn fewest(times: &[u64], length: u64, first: u64, last: u64) -> usize {
    let within = |from: u64| times.iter().filter(|&&time| time >= from && time < from + length).count();
    // The number changes only where a stretch begins just behind a time, or ends just at one.
    let begins = times.iter().flat_map(|time| [time + 1, time.saturating_sub(length)]);
    begins.filter(|begin| (first..=last).contains(begin)).chain([first, last]).map(within).min().unwrap()
}

#[rstest]
fn a_sample_counts_every_hit_that_gave_an_event_and_a_replay_shows_the_same(
    #[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks,
) {
    let _machine = machine();
    let server = Server::start("");
    let (hooks, programs): (_, &[&str]) = match hooks {
        Hooks::Socket => (config::Hooks::Socket, &["socket_receive", "socket_send"]),
        Hooks::Syscall => (config::Hooks::Syscall, &["syscall_exit"]),
    };
    let targets = Targets { pids: vec![server.process.pid()], ..Targets::default() };
    let live = LiveConfig { targets, hooks, ..LiveConfig::default() };
    let metrics = Metrics::default();
    let mut source = LiveSource::start(&live, metrics.clone()).unwrap_or_else(|error| panic!("{error}"));
    let stop = source.stop_handle();
    let folder = TempDir::new().unwrap();
    let recording = folder.path().join("recording");
    let mut recorder = Recorder::start(RecordingConfig::new(recording.clone()), metrics.clone()).unwrap();
    let pipeline = Pipeline::new(PipelineConfig::default(), metrics.clone(), source.verdicts());
    let mut screen = Screen::new(pipeline, metrics);
    // The second sample begins 10 seconds after the first.
    let options = Options {
        rate: Some(500.0),
        duration: Duration::from_secs(13),
        ..Options::new(server.address.clone(), "/bytes/600?id={id}", u64::MAX)
    };
    let load = thread::spawn(move || {
        let n = load::run(&options).unwrap().len();
        stop.stop();
        n
    });
    let (mut times, mut readings) = (Vec::new(), Vec::<Counters>::new());
    while let Some(batch) = source.next_batch().unwrap() {
        for event in &batch.events {
            match event {
                Event::Data(data) if data.n_calls == 1 => times.push(data.time.0),
                Event::Counters(counters) => readings.push(counters.clone()),
                _ => {}
            }
        }
        screen.push(&batch);
        recorder.tap(&Arc::new(batch));
    }
    recorder.finish().unwrap();
    assert!(load.join().unwrap() > 1_000, "the load itself failed");

    let number = |counters: &Counters| value(counters, "program.samples").unwrap_or(0);
    let at = readings.iter().position(|counters| number(counters) == 2).expect("a second sample");
    let (before, after) = (&readings[at - 1], &readings[at]);
    assert_eq!(number(before), 1, "the first is taken at the start");
    let length = value(after, "program.sample_ns").unwrap();
    // Somewhere between the readings; it may have waited for a moment to be handed on.
    let (first, last) = (before.time.0 - 2_000_000_000, after.time.0 - length);
    let n_events = fewest(&times, length, first, last) as u64;
    let of = |what: &str| -> u64 {
        programs.iter().map(|name| value(after, &format!("program.{name}.{what}")).unwrap()).sum()
    };
    assert!(n_events > 10, "{n_events} events in a sample: this test shows nothing");
    assert!(of("runs") >= n_events, "{} runs gave {n_events} events", of("runs"));
    assert!(of("ns") >= of("runs"), "a run takes a nanosecond at least: {after:?}");
    let used = value(after, "gauge.ring_used_bytes").unwrap();
    let most = readings.iter().map(|counters| value(counters, "gauge.ring_used_most_bytes").unwrap()).max();
    assert!(used <= value(after, "gauge.ring_bytes").unwrap());
    assert!(most > Some(0), "a ring that was never seen filled: {after:?}");

    let recording = Recording::open(&recording).unwrap();
    let metrics = Metrics::default();
    let mut replay = ReplaySource::open(&recording, Default::default(), metrics.clone()).unwrap();
    let pipeline = Pipeline::new(PipelineConfig::default(), metrics.clone(), Box::new(NullVerdicts));
    let mut again = Screen::new(pipeline, metrics);
    while let Some(batch) = replay.next_batch().unwrap() {
        again.push(&batch);
    }
    assert_eq!(again.shown.len(), readings.len());
    for (live, again) in screen.shown.iter().zip(&again.shown) {
        assert_eq!(live, again);
    }
    let is_program = |line: &&HealthLine| matches!(line, HealthLine::Program(_));
    assert!(again.shown.last().unwrap().iter().filter(is_program).count() > programs.len());
}
