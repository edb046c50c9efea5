//! Made-up traffic with one pattern in it, or none, all of whose parameters are drawn by a seed; and how findings are counted against it. The test and
//! `cargo run --release --example pattern_figures` share it.

use tracer_user::{
    event::{ConnId, Counters, Role},
    pipeline::Snapshot,
    sink::patterns::{Finding, Pattern, Patterns},
    time::{BootTime, WallTime},
    transaction::{
        End, Kind, Transaction,
        anatomy::{Anatomy, CallSum, Causes, Reason},
    },
};

pub const SECOND: u64 = 1_000_000_000;
/// 2023-11-14 22:13:20 UTC.
pub const BEGIN: u64 = 1_700_000_000 * SECOND;
/// Time of the traffic, s.
pub const LENGTH_S: f64 = 180.0;

/// A generator of numbers that is the same on every machine (splitmix64).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0xD134_2543_DE82_EF95) ^ 0x5851_F42D_4C95_7F2D)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// From 0 to 1.
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    pub fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// The same on a logarithmic scale.
    pub fn scale(&mut self, low: f64, high: f64) -> f64 {
        self.between(low.ln(), high.ln()).exp()
    }

    pub fn one_in(&mut self, n: f64) -> bool {
        self.unit() < 1.0 / n
    }

    pub fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[(self.unit() * all.len() as f64) as usize]
    }

    fn exponential(&mut self) -> f64 {
        -(1.0 - self.unit()).ln()
    }

    fn normal(&mut self) -> f64 {
        let radius = (2.0 * self.exponential()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }
}

/// How elapsed times spread, s.
#[derive(Clone, Copy, Debug)]
pub enum Noise {
    LogNormal {
        median: f64,
        sigma: f64,
    },
    Exponential {
        mean: f64,
        least: f64,
    },
    /// Pareto.
    HeavyTail {
        least: f64,
        alpha: f64,
    },
}

impl Noise {
    fn draw(self, random: &mut Random) -> f64 {
        match self {
            Noise::LogNormal { median, sigma } => median * (sigma * random.normal()).exp(),
            Noise::Exponential { mean, least } => least + mean * random.exponential(),
            Noise::HeavyTail { least, alpha } => loop {
                // Cut by drawing again: a limit would be a line.
                let drawn = least * (1.0 - random.unit()).powf(-1.0 / alpha);
                if drawn < 60.0 {
                    return drawn;
                }
            },
        }
    }

    fn median(self) -> f64 {
        match self {
            Noise::LogNormal { median, .. } => median,
            Noise::Exponential { mean, least } => least + mean * std::f64::consts::LN_2,
            Noise::HeavyTail { least, alpha } => least * 2.0_f64.powf(1.0 / alpha),
        }
    }
}

/// One request, times in s from the beginning.
#[derive(Clone, Copy, Debug)]
pub struct Dot {
    start: f64,
    elapsed: f64,
    operation: &'static str,
    service: &'static str,
    role: Role,
    status: i32,
    peer: &'static str,
    /// The part that most of it is, and whom it asks.
    part: Option<(Reason, bool)>,
    asked: &'static str,
}

impl Dot {
    fn new(start: f64, elapsed: f64) -> Dot {
        Dot {
            start,
            elapsed,
            operation: "GET /item/{id}",
            service: "shop",
            role: Role::Server,
            status: 200,
            peer: "10.0.0.9",
            part: None,
            asked: "",
        }
    }

    fn end(&self) -> f64 {
        self.start + self.elapsed
    }
}

/// What is in the traffic.
#[derive(Clone, Debug)]
pub struct Truth {
    pub pattern: Pattern,
    /// From when to when, s.
    pub from: f64,
    pub to: f64,
    /// What else is really there: told, it is no fault.
    pub also: Vec<Pattern>,
}

/// Traffic.
pub struct Scenario {
    pub name: String,
    pub dots: Vec<Dot>,
    pub truth: Option<Truth>,
    /// When records were lost, s.
    pub lost: Option<f64>,
}

/// Steady traffic of one of these kinds.
pub const STEADY: [&str; 5] = ["log-normal", "exponential", "bursts and drift", "low rate", "heavy tail"];
/// Patterns that are made.
pub const MADE: [Pattern; 7] = Pattern::ALL;

/// Times of arrivals as chance brings them, at a rate that may change.
fn arrivals(random: &mut Random, from: f64, to: f64, most: f64, rate: impl Fn(f64) -> f64) -> Vec<f64> {
    let (mut at, mut times) = (from, Vec::new());
    loop {
        at += random.exponential() / most;
        if at >= to {
            return times;
        }
        if random.unit() < rate(at) / most {
            times.push(at);
        }
    }
}

fn noise(random: &mut Random) -> Noise {
    let median = random.scale(0.002, 0.06);
    match random.of(&[0, 0, 1, 2]) {
        0 => Noise::LogNormal { median, sigma: random.between(0.25, 0.9) },
        1 => Noise::Exponential { mean: median, least: median * random.between(0.1, 1.0) },
        _ => Noise::HeavyTail { least: median, alpha: random.between(2.0, 4.0) },
    }
}

/// Traffic of another service, which has nothing to do with it.
fn others(random: &mut Random, dots: &mut Vec<Dot>) {
    let (rate, noise) = (random.scale(1.0, 30.0), noise(random));
    for start in arrivals(random, 0.0, LENGTH_S, rate, |_| rate) {
        dots.push(Dot {
            service: "stock",
            operation: "GET /stock/{id}",
            ..Dot::new(start, noise.draw(random))
        });
    }
}

/// Traffic without a pattern.
pub fn steady(kind: usize, seed: u64) -> Scenario {
    let mut random = Random::new(seed ^ 0x5747_0000 ^ (kind as u64) << 40);
    let random = &mut random;
    let median = random.scale(0.0005, 0.3);
    let rate = random.scale(3.0, 150.0);
    let log_normal = Noise::LogNormal { median, sigma: random.between(0.15, 1.3) };
    let (rate, noise) = match kind {
        0 => (rate, log_normal),
        1 => (rate, Noise::Exponential { mean: median, least: median * random.between(0.0, 1.0) }),
        2 => (rate, log_normal),
        3 => (random.scale(0.1, 2.0), log_normal),
        _ => (rate, Noise::HeavyTail { least: median, alpha: random.between(1.1, 3.0) }),
    };
    let mut dots = Vec::new();
    if kind == 2 {
        // Each arrival is a burst of several, and how many come swings with a period of minutes.
        let (size, breadth) = (random.scale(2.0, 40.0), random.scale(0.001, 0.3));
        let (period, swing) = (random.between(60.0, 400.0), random.between(0.3, 0.9));
        let bursts = (rate / size).max(0.5);
        let swings =
            move |at: f64| bursts * (1.0 - swing * (0.5 - 0.5 * (std::f64::consts::TAU * at / period).cos()));
        for at in arrivals(random, 0.0, LENGTH_S, bursts, swings) {
            for _ in 0..(size * random.exponential()).ceil() as u64 {
                let start = at + breadth * random.exponential();
                dots.push(Dot::new(start, noise.draw(random)));
            }
        }
    } else {
        for start in arrivals(random, 0.0, LENGTH_S, rate, |_| rate) {
            dots.push(Dot::new(start, noise.draw(random)));
        }
    }
    others(random, &mut dots);
    Scenario { name: format!("{} {seed}", STEADY[kind]), dots, truth: None, lost: None }
}

/// Traffic with a pattern.
pub fn with(pattern: Pattern, seed: u64) -> Scenario {
    let mut random = Random::new(seed ^ 0x9A77_0000 ^ (pattern as u64) << 40);
    let mut dots = Vec::new();
    let (truth, lost) = match pattern {
        Pattern::Vertical => (vertical(&mut random, &mut dots), None),
        Pattern::Horizontal => (horizontal(&mut random, &mut dots), None),
        Pattern::Floor => (floor(&mut random, &mut dots), None),
        Pattern::Bands => (bands(&mut random, &mut dots), None),
        Pattern::Ramp => (ramp(&mut random, &mut dots), None),
        Pattern::Silence => (silence(&mut random, &mut dots), None),
        Pattern::Unseen => {
            let truth = Truth { pattern, ..silence(&mut random, &mut dots) };
            let lost = truth.to + 0.3;
            (truth, Some(lost))
        }
    };
    others(&mut random, &mut dots);
    Scenario { name: format!("{} {seed}", pattern.name()), dots, truth: Some(truth), lost }
}

fn part(random: &mut Random) -> Option<(Reason, bool)> {
    (!random.one_in(3.0))
        .then(|| (random.of(&[Reason::Futex, Reason::Disk, Reason::Timer]), random.one_in(3.0)))
}

fn vertical(random: &mut Random, dots: &mut Vec<Dot>) -> Truth {
    let noise = noise(random);
    let held = if random.one_in(4.0) { 1.0 } else { random.between(0.3, 0.9) };
    let n = random.scale(22.0, 200.0);
    let longest = random.scale(0.4, 5.0);
    let rate = (n / longest / held).clamp(3.0, 150.0);
    // So that there are as many, whatever the rate could be.
    let longest = n / rate / held;
    let at = random.between(80.0, 140.0).max(longest + 70.0);
    let jitter = random.scale(0.0001, 0.003);
    let shared = part(random);
    let operations = random.one_in(2.0);
    let mut n_held = 0;
    for start in arrivals(random, 0.0, LENGTH_S, rate, |_| rate) {
        let mut dot = Dot::new(start, noise.draw(random));
        if operations && random.one_in(3.0) {
            dot.operation = "POST /order";
        }
        if start > at - longest && start < at && (random.unit() < held || n_held < 20 && held == 1.0) {
            dot.elapsed = at - start + jitter * random.exponential();
            dot.part = shared;
            n_held += 1;
        }
        dots.push(dot);
    }
    // Fewer than promised by chance: those that are missing come as well.
    while n_held < 20 {
        let start = random.between(at - longest, at);
        dots.push(Dot { part: shared, ..Dot::new(start, at - start + jitter * random.exponential()) });
        n_held += 1;
    }
    let also = if held > 0.85 { vec![Pattern::Silence] } else { Vec::new() };
    Truth { pattern: Pattern::Vertical, from: at - 0.1, to: at + 0.1, also }
}

fn horizontal(random: &mut Random, dots: &mut Vec<Dot>) -> Truth {
    let noise = noise(random);
    let share = random.scale(0.03, 0.4);
    let n = random.scale(24.0, 300.0);
    let length = random.between(15.0, 90.0);
    let rate = (n / length / share).clamp(1.0, 120.0);
    let length = (n / rate / share).clamp(15.0, 110.0);
    let from = 60.0;
    let to = from + length;
    let least = 2.5 * noise.median();
    let usual = [0.04, 0.2, 1.0, 3.0, 5.0];
    let usual: Vec<f64> = usual.into_iter().filter(|level| *level > least).collect();
    let level = if random.one_in(2.0) && !usual.is_empty() {
        random.of(&usual)
    } else {
        random.scale(least.max(0.01), (least * 200.0).min(8.0))
    };
    let (jitter, more) = (random.scale(0.0002, 0.003), random.scale(0.00001, 0.001).min(level * 0.005));
    let multiples = random.one_in(3.0);
    let shared = part(random);
    let mut n_line = 0;
    let line = |random: &mut Random, start: f64, n_line: &mut u32| {
        let times = if multiples && random.one_in(3.0) { random.of(&[2.0, 3.0]) } else { 1.0 };
        *n_line += u32::from(times == 1.0);
        let elapsed = level * times * (1.0 + jitter * random.normal()) + more * random.exponential();
        Dot { part: shared, ..Dot::new(start, elapsed) }
    };
    for start in arrivals(random, 0.0, LENGTH_S, rate, |_| rate) {
        if start > from && start < to && random.unit() < share {
            dots.push(line(random, start, &mut n_line));
        } else {
            dots.push(Dot::new(start, noise.draw(random)));
        }
    }
    while n_line < 20 {
        let start = random.between(from, to);
        dots.push(line(random, start, &mut n_line));
    }
    // Beside so many others it is a band, if a narrow one.
    Truth { pattern: Pattern::Horizontal, from, to: to + level * 3.0, also: Vec::new() }
}

fn floor(random: &mut Random, dots: &mut Vec<Dot>) -> Truth {
    let noise = noise(random);
    let rate = random.scale(1.0, 120.0);
    let from = random.between(70.0, 100.0);
    let constant = (noise.median() * random.scale(1.0, 8.0)).max(0.002);
    let within = if random.one_in(2.0) { 0.01 } else { random.between(1.0, 10.0) };
    let spread = random.between(0.02, 0.15);
    let shared = part(random);
    let untouched = if random.one_in(2.0) { random.between(0.1, 0.5) } else { 0.0 };
    for start in arrivals(random, 0.0, LENGTH_S, rate / (1.0 - untouched), |_| rate / (1.0 - untouched)) {
        let mut dot = Dot::new(start, noise.draw(random));
        if random.unit() < untouched {
            dot.operation = "GET /health";
        } else if start > from {
            let risen = ((start - from) / within).min(1.0);
            dot.elapsed += constant * risen * (1.0 + spread * random.normal()).max(0.3);
            dot.part = shared;
        }
        dots.push(dot);
    }
    // One operation pays and another does not: those are two bands as well. And a constant that hardly varies is a line.
    let mut also = if untouched > 0.0 { vec![Pattern::Bands] } else { Vec::new() };
    if spread < 0.05 {
        also.push(Pattern::Horizontal);
    }
    Truth { pattern: Pattern::Floor, from, to: LENGTH_S, also }
}

fn bands(random: &mut Random, dots: &mut Vec<Dot>) -> Truth {
    let rate = random.scale(2.5, 120.0);
    let median = random.scale(0.002, 0.06);
    let factor: f64 = random.scale(4.0, 40.0);
    let most = (factor.ln() / 5.5).min(0.45);
    let breadths = [random.between(0.08, most), random.between(0.08, most)];
    let share = random.between(0.2, 0.7);
    let from = 0.0;
    let attribute = random.of(&["operation", "status", "peer", "asked", "part", "none"]);
    for start in arrivals(random, 0.0, LENGTH_S, rate, |_| rate) {
        let is_upper = start > from && random.unit() < share;
        let median = if is_upper { median * factor } else { median };
        let mut dot = Dot::new(start, median * (breadths[usize::from(is_upper)] * random.normal()).exp());
        // Most follow it, not all.
        if is_upper != random.one_in(20.0) {
            match attribute {
                "operation" => dot.operation = "POST /order",
                "status" => dot.status = 404,
                "peer" => dot.peer = "10.0.0.77",
                "asked" => (dot.asked, dot.part) = ("10.0.0.5:5432", Some((Reason::Network, true))),
                "part" => dot.part = Some((Reason::Disk, false)),
                _ => {}
            }
        }
        dots.push(dot);
    }
    Truth { pattern: Pattern::Bands, from, to: LENGTH_S, also: Vec::new() }
}

fn ramp(random: &mut Random, dots: &mut Vec<Dot>) -> Truth {
    let noise = noise(random);
    let median = noise.median();
    let length = random.between(6.0, 40.0);
    let n = random.scale(24.0, 1_500.0);
    let rate = (n / length).clamp(1.5, 120.0);
    let length = length.max(24.0 / rate);
    let growth = random.between(0.15, 0.8).max(10.0 * median / length);
    let from = random.between(60.0, 90.0);
    let to = from + length;
    let speed = random.between(2.0, 6.0);
    let beside = if random.one_in(2.0) { random.between(0.0, 0.1) } else { 0.0 };
    let shared = part(random);
    // One server, first come, first served: slower than they come from `from` to `to`, and fast again behind it.
    let mut free = 0.0_f64;
    for start in arrivals(random, 0.0, LENGTH_S, rate, |_| rate) {
        let own = noise.draw(random);
        if random.unit() < beside {
            dots.push(Dot::new(start, own));
            continue;
        }
        let begin = free.max(start);
        let fast = 1.0 / rate / speed;
        let takes = match begin {
            begin if begin > from && begin < to => (1.0 + growth) / rate,
            begin if begin > start => fast,
            _ => fast.min(0.3 * median),
        };
        // Evenly, with some chance.
        free = begin + takes * random.between(0.6, 1.4);
        let waited = (free - start).max(0.0);
        let part = if waited > own { shared } else { None };
        dots.push(Dot { part, ..Dot::new(start, waited + own) });
    }
    Truth { pattern: Pattern::Ramp, from, to: to + 2.0, also: Vec::new() }
}

fn silence(random: &mut Random, dots: &mut Vec<Dot>) -> Truth {
    let noise = noise(random);
    let rate = random.scale(2.0, 120.0);
    let gap = (random.scale(30.0, 200.0) / rate).max(0.5 + 8.0 * noise.median());
    let from = random.between(60.0, 100.0);
    let to = from + gap;
    // Either all stands still, or nothing comes.
    let holds = random.one_in(2.0);
    let (jitter, burst) = (random.scale(0.0005, 0.02), random.between(2.0, 8.0));
    let most = rate * burst;
    let comes = |at: f64| match at {
        at if at > from && at < to => {
            if holds {
                rate
            } else {
                0.0
            }
        }
        at if at >= to && at < to + 1.0 && !holds => most,
        _ => rate,
    };
    for start in arrivals(random, 0.0, LENGTH_S, most, comes) {
        let mut dot = Dot::new(start, noise.draw(random));
        if dot.end() > from && start < to {
            // What was being served stands still as well.
            dot.elapsed =
                (dot.elapsed + jitter * random.exponential()).max(to - start + jitter * random.exponential());
        }
        dots.push(dot);
    }
    Truth { pattern: Pattern::Silence, from, to, also: vec![Pattern::Vertical] }
}

fn transaction(dot: &Dot, ordinal: u64) -> Transaction {
    let ns = |seconds: f64| BEGIN + (seconds * 1e9) as u64;
    let (start, end) = (ns(dot.start), ns(dot.end()).max(ns(dot.start) + 1));
    let causes = dot.part.map(|(reason, is_call)| {
        let mut anatomy = Anatomy { user_ns: (end - start) / 20, is_split: true, ..Anatomy::default() };
        let most = (end - start) / 10 * 9;
        if is_call {
            anatomy.calls_ns = most;
        } else {
            anatomy.off_ns[reason.index()] = most;
        }
        let peer = if dot.asked.is_empty() { "10.0.0.4:6379" } else { dot.asked };
        let calls = CallSum { kind: "redis", peer: peer.into(), count: 1, ns: most };
        let calls = if is_call { vec![calls] } else { Vec::new() };
        Box::new(Causes { anatomy: Some(anatomy), calls, ..Causes::default() })
    });
    Transaction {
        start_time: WallTime(start),
        end_time: WallTime(end),
        duration_ns: (end - start) as i64,
        kind: Kind::Request,
        role: dot.role,
        protocol: "http1",
        operation: dot.operation.into(),
        service: dot.service.into(),
        client_addr: dot.peer.into(),
        server_addr: "10.0.0.1".into(),
        status_code: Some(dot.status),
        error: dot.status >= 500,
        end: End::Answered,
        causes,
        conn: ConnId(1),
        ordinal,
        ..Transaction::default()
    }
}

impl Scenario {
    /// The transactions, in the order of their ends.
    pub fn transactions(&self) -> Vec<Transaction> {
        let mut rows: Vec<Transaction> =
            self.dots.iter().enumerate().map(|(i, dot)| transaction(dot, i as u64)).collect();
        // It is cut there, like a recording.
        rows.retain(|row| row.end_time.0 < BEGIN + LENGTH_S as u64 * SECOND);
        rows.sort_by_key(|row| (row.end_time, row.ordinal));
        rows
    }

    /// What the pipeline held at an instant, s.
    fn snapshot(&self, at: f64) -> Snapshot {
        let n = self.lost.map_or(0, |lost| u64::from(at >= lost) * 500);
        let values = vec![("kernel.refused_data".into(), n)];
        let wall = WallTime(BEGIN + (at * 1e9) as u64);
        let time = BootTime((at * 1e9) as u64 + 1);
        Snapshot { time, wall, counters: Some(Counters { time, values }.into()), ..Snapshot::default() }
    }

    /// What is found in it.
    pub fn findings(&self) -> Vec<Finding> {
        let mut patterns = Patterns::default();
        let mut observed = 0_u64;
        for row in self.transactions() {
            while (row.end_time.0.saturating_sub(BEGIN)) / (SECOND / 4) > observed {
                observed += 1;
                patterns.observe(&self.snapshot(observed as f64 / 4.0));
            }
            patterns.push(&row);
        }
        patterns.finish();
        patterns.findings().cloned().collect()
    }
}

/// How findings compare with what is there, by pattern.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Traffic with the pattern.
    pub there: u64,
    /// Of it, where it was found.
    pub found: u64,
    /// Findings of what is not there.
    pub wrong: u64,
}

impl Count {
    pub fn recall(&self) -> f64 {
        self.found as f64 / self.there.max(1) as f64
    }

    pub fn precision(&self) -> f64 {
        self.found as f64 / (self.found + self.wrong).max(1) as f64
    }
}

/// Counts one scenario in.
pub fn count(scenario: &Scenario, findings: &[Finding], counts: &mut [Count; Pattern::ALL.len()]) {
    let seconds = |time: WallTime| (time.0 as f64 - BEGIN as f64) / 1e9;
    let mut found = false;
    for finding in findings {
        let is_there = scenario.truth.as_ref().is_some_and(|truth| {
            let overlaps = seconds(finding.from) <= truth.to + 2.0 && seconds(finding.to) >= truth.from - 2.0;
            let is_it = finding.pattern == truth.pattern;
            found |= overlaps && is_it && &*finding.service == "shop";
            overlaps && (is_it || truth.also.contains(&finding.pattern)) && &*finding.service == "shop"
        });
        counts[finding.pattern as usize].wrong += u64::from(!is_there);
    }
    if let Some(truth) = &scenario.truth {
        counts[truth.pattern as usize].there += 1;
        counts[truth.pattern as usize].found += u64::from(found);
    }
}

/// Seeds by which thresholds were chosen.
pub const TRAINING: std::ops::Range<u64> = 0..10_000;
/// Seeds by which they were not.
pub const HELD_OUT: std::ops::Range<u64> = 1_000_000..1_010_000;
