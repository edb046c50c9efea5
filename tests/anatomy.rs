//! Where the time of requests went: threads off the CPU through the pipeline, case by case, and any of them.

use proptest::prelude::*;
use tracer_ebpf as abi;
use tracer_user::{
    event::{ConnId, ConnOpen, Data, Direction, Event, OffCpu, Role, Stack, StackEnd, StackKind},
    metrics::{Counter, Metrics},
    pipeline::{NullVerdicts, Pipeline, PipelineConfig},
    report::profile,
    time::BootTime,
    transaction::{
        CallId, Transaction,
        anatomy::{Anatomy, LinkMethod, Reason},
        profile::{Profile, Watch},
        stacks::StackPart,
    },
};

use crate::cases::{IN, MS, OUT};

/// Numbers of system calls (x86-64).
const FUTEX: u32 = 202;
const NANOSLEEP: u32 = 35;
const RECVFROM: u32 = 45;
const SENDTO: u32 = 44;
const EPOLL_WAIT: u32 = 232;
const FSYNC: u32 = 74;

/// A thread of process 5, as the kernel knows it.
#[derive(Clone, Copy, Default)]
struct Thread {
    number: u32,
    kernel_ns: u64,
}

/// What the kernel tells of some threads and connections. Time passes in milliseconds.
#[derive(Default)]
struct World {
    events: Vec<Event>,
    now: u64,
    threads: [Thread; 4],
    /// Who moves bytes; 0 = no goroutine.
    goroutine: u32,
    /// By connection: positions, turn, direction.
    conns: Vec<([u64; 2], u32, Option<Direction>)>,
}

impl World {
    fn new() -> World {
        World { now: 1_000 * MS, threads: [Thread { number: 1, kernel_ns: 0 }; 4], ..World::default() }
    }

    fn open(&mut self, role: Role) -> usize {
        let n = self.conns.len();
        let mut tuple = abi::Tuple { family: abi::FAMILY_INET, ..abi::Tuple::default() };
        tuple.local[..4].copy_from_slice(&[10, 0, 0, 1]);
        tuple.remote[..4].copy_from_slice(&[10, 0, 0, 2]);
        (tuple.local_port, tuple.remote_port) =
            if role == Role::Server { (80, 40_000 + n as u16) } else { (50_000 + n as u16, 8080) };
        let conn = ConnId(100 + n as u64);
        self.events.push(Event::ConnOpen(ConnOpen {
            time: BootTime(self.now),
            conn,
            role,
            tuple,
            pid: 5,
            ..ConnOpen::default()
        }));
        self.conns.push(([1 << 33, 1 << 34], 0, None));
        n
    }

    /// On a CPU, of which so much in the kernel, µs.
    fn run(&mut self, thread: usize, ms: u64, kernel_us: u64) {
        self.now += ms * MS;
        self.threads[thread].kernel_ns += kernel_us * 1_000;
    }

    /// Off the CPU in a call, and then so long until it got one again.
    fn off(&mut self, thread: usize, call: u32, ms: u64, runq_ms: u64) {
        let event = self.left(thread, call, ms, runq_ms);
        self.events.push(event);
    }

    /// The same, and the record is lost.
    fn lose_off(&mut self, thread: usize, call: u32, ms: u64) {
        self.left(thread, call, ms, 0);
    }

    fn left(&mut self, thread: usize, call: u32, ms: u64, runq_ms: u64) -> Event {
        let out = self.now;
        self.now += (ms + runq_ms) * MS;
        let Thread { number, kernel_ns } = &mut self.threads[thread];
        *number += 1;
        Event::OffCpu(OffCpu {
            time: BootTime(self.now),
            out: BootTime(out),
            wake: BootTime(out + ms * MS),
            kernel_ns: *kernel_ns,
            argument: 1,
            number: *number,
            pid: 5,
            tid: 60 + thread as u32,
            call,
            ..OffCpu::default()
        })
    }

    /// Could have gone on, and had to wait.
    fn preempted(&mut self, thread: usize, ms: u64) {
        if let Event::OffCpu(mut off) = self.left(thread, 0, 0, ms) {
            off.flags = abi::OFF_FLAG_RUNNABLE;
            self.events.push(Event::OffCpu(off));
        }
    }

    fn moved(&mut self, thread: usize, conn: usize, direction: Direction, bytes: &str) {
        let (positions, turn, speaking) = &mut self.conns[conn];
        let turn_start = *speaking != Some(direction);
        if turn_start {
            (*speaking, *turn) = (Some(direction), *turn + 1);
        }
        let mut flags = if direction == OUT { abi::FLAG_EGRESS } else { 0 };
        flags |= if turn_start { abi::FLAG_TURN_START } else { 0 };
        let Thread { number, kernel_ns } = self.threads[thread];
        self.events.push(Event::Data(Data {
            time: BootTime(self.now),
            conn: ConnId(100 + conn as u64),
            position: positions[direction.index()],
            bytes: bytes.len() as u64,
            turn: *turn,
            flags,
            pid: 5,
            tid: 60 + thread as u32,
            n_calls: 1,
            comm: *b"worker\0\0\0\0\0\0\0\0\0\0",
            payload: bytes.to_owned().into(),
            kernel_ns,
            off_cpu: number,
            goroutine: self.goroutine,
            ..Data::default()
        }));
        positions[direction.index()] += bytes.len() as u64;
    }

    fn asked(&mut self, thread: usize, conn: usize) {
        self.moved(thread, conn, IN, "GET /x HTTP/1.1\r\nHost: a\r\n\r\n");
    }

    fn answer(&mut self, thread: usize, conn: usize) {
        self.moved(thread, conn, OUT, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    }

    fn ask(&mut self, thread: usize, conn: usize) {
        self.moved(thread, conn, OUT, "GET /y HTTP/1.1\r\nHost: b\r\n\r\n");
    }

    fn answered(&mut self, thread: usize, conn: usize) {
        self.moved(thread, conn, IN, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    }

    fn by(&mut self, goroutine: u32) -> &mut World {
        self.goroutine = goroutine;
        self
    }

    fn end(self) -> Vec<Transaction> {
        let (out, metrics) = through(&self.events, &[]);
        assert_eq!(metrics.get(Counter::AnatomyInconsistent), 0);
        out
    }
}

/// What comes of the events; behind those at `cuts` the pipeline is saved and restored.
fn through(events: &[Event], cuts: &[usize]) -> (Vec<Transaction>, Metrics) {
    let metrics = Metrics::default();
    let config = PipelineConfig::default;
    let mut pipeline = Pipeline::new(config(), metrics.clone(), Box::new(NullVerdicts));
    let mut out = Vec::new();
    for (i, event) in events.iter().enumerate() {
        pipeline.push(event);
        if cuts.contains(&i) {
            let saved = pipeline.checkpoint();
            pipeline = Pipeline::restore(&saved, config(), metrics.clone(), Box::new(NullVerdicts)).unwrap();
        }
        out.extend(pipeline.drain().transactions);
    }
    out.extend(pipeline.finish().transactions);
    for transaction in out.iter().filter(|transaction| transaction.role == Role::Server) {
        if let Some(anatomy) = anatomy(transaction) {
            assert_eq!(anatomy.total(), transaction.duration_ns as u64, "{transaction:#?}");
        }
    }
    (out, metrics)
}

fn anatomy(transaction: &Transaction) -> Option<Anatomy> {
    transaction.causes.as_ref()?.anatomy
}

/// Parts in ms: user, runq, calls, sending, unattributed, and reasons.
#[track_caller]
fn check(transaction: &Transaction, parts: [u64; 5], reasons: &[(Reason, u64)]) {
    let anatomy = anatomy(transaction).expect("an anatomy");
    let Anatomy { user_ns, kernel_ns, runq_ns, calls_ns, sending_ns, unattributed_ns, .. } = anatomy;
    let found = [user_ns + kernel_ns, runq_ns, calls_ns, sending_ns, unattributed_ns];
    let off: Vec<_> = Reason::ALL.into_iter().zip(anatomy.off_ns).filter(|(_, ns)| *ns > 0).collect();
    let expected: Vec<_> = reasons.iter().map(|(reason, ms)| (*reason, ms * MS)).collect();
    assert_eq!((found, off), (parts.map(|ms| ms * MS), expected));
}

#[test]
fn a_thread_of_its_own_computes_waits_and_asks() {
    let mut world = World::new();
    let (server, client) = (world.open(Role::Server), world.open(Role::Client));
    // A process has to show how it serves.
    for _ in 0..2 {
        world.asked(0, server);
        world.answer(0, server);
    }
    world.asked(0, server);
    world.run(0, 4, 1_500);
    world.off(0, FUTEX, 10, 2);
    world.run(0, 1, 0);
    world.off(0, NANOSLEEP, 20, 0);
    world.preempted(0, 3);
    world.ask(0, client);
    world.off(0, RECVFROM, 30, 1);
    world.answered(0, client);
    world.run(0, 2, 500);
    world.answer(0, server);
    let [.., call, request] = &world.end()[..] else { panic!() };
    check(request, [7, 6, 30, 0, 0], &[(Reason::Futex, 10), (Reason::Timer, 20)]);
    let anatomy = anatomy(request).unwrap();
    assert_eq!((anatomy.kernel_ns, anatomy.user_ns), (2 * MS, 5 * MS));
    assert!(anatomy.is_split && !anatomy.is_shared);
    assert_eq!(anatomy.guesses().count(), 0);
    let link = call.causes.as_ref().unwrap().link.unwrap();
    assert_eq!((link.parent, link.method), (CallId { conn: request.conn, ordinal: 2 }, LinkMethod::Thread));
    let calls = request.causes.as_ref().unwrap().calls().unwrap();
    assert_eq!((calls[0].kind, &*calls[0].peer, calls[0].count), ("http1", "10.0.0.2:8080", 1));
    assert_eq!(calls[0].ns, call.duration_ns as u64);
}

#[test]
fn a_request_that_comes_in_pieces_is_waited_for() {
    let mut world = World::new();
    let server = world.open(Role::Server);
    world.moved(0, server, IN, "GE");
    world.run(0, 1, 0);
    world.off(0, RECVFROM, 40, 2);
    world.moved(0, server, IN, "T /x HTTP/1.1\r\n");
    world.off(0, RECVFROM, 30, 0);
    world.moved(0, server, IN, "Host: a\r\n\r\n");
    world.run(0, 3, 0);
    world.answer(0, server);
    check(&world.end()[0], [4, 2, 0, 0, 0], &[(Reason::Network, 70)]);
}

#[test]
fn between_two_requests_a_threads_time_is_nobodys() {
    let mut world = World::new();
    let server = world.open(Role::Server);
    for wait in [7, 40] {
        world.asked(0, server);
        world.run(0, 5, 0);
        world.answer(0, server);
        world.run(0, 1, 0);
        // The kernel leaves it out.
        world.lose_off(0, RECVFROM, wait);
    }
    for request in world.end() {
        check(&request, [5, 0, 0, 0, 0], &[]);
    }
}

#[test]
fn a_loop_works_for_one_while_others_wait_for_it() {
    let mut world = World::new();
    let (first, second, client) =
        (world.open(Role::Server), world.open(Role::Server), world.open(Role::Client));
    world.asked(0, first);
    world.run(0, 2, 0);
    // For the first one.
    world.ask(0, client);
    world.run(0, 1, 0);
    world.asked(0, second);
    world.run(0, 5, 0);
    world.off(0, EPOLL_WAIT, 10, 0);
    // What it does before it receives is for whom it receives.
    world.run(0, 1, 0);
    world.answered(0, client);
    world.run(0, 3, 0);
    world.answer(0, first);
    world.run(0, 4, 0);
    world.answer(0, second);
    let out = world.end();
    let of = |conn: u64| out.iter().find(|one| one.conn == ConnId(conn)).unwrap();
    check(of(100), [7, 0, 15, 0, 0], &[]);
    // Behind the answer to the first one the second is the only one.
    check(of(101), [9, 0, 0, 0, 0], &[(Reason::Poll, 10), (Reason::Busy, 4)]);
    assert!(anatomy(of(100)).unwrap().is_shared && anatomy(of(101)).unwrap().is_shared);
    // What it waits for is linked by the thread alone; that its thread waited for events is no guess.
    let guesses = |conn| anatomy(of(conn)).unwrap().guesses().collect::<Vec<_>>();
    assert_eq!(guesses(100), ["oncpu_ns", "calls_ns"]);
    assert_eq!(guesses(101), ["oncpu_ns", "offcpu_busy_ns"]);
    let link = of(102).causes.as_ref().unwrap().link.unwrap();
    assert_eq!((link.parent.conn, link.method), (ConnId(100), LinkMethod::Order));
}

#[test]
fn a_peer_that_reads_slowly_is_waited_for_in_sending() {
    let mut world = World::new();
    let server = world.open(Role::Server);
    world.asked(0, server);
    world.run(0, 1, 0);
    world.moved(0, server, OUT, "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nab");
    world.off(0, SENDTO, 50, 1);
    world.moved(0, server, OUT, "cd");
    world.off(0, EPOLL_WAIT, 8, 0);
    world.moved(0, server, OUT, "ef");
    check(&world.end()[0], [1, 1, 0, 58, 0], &[]);
}

/// Bytes are told when the call has moved them: of what a thread waits in it shows then for whom.
#[test]
fn to_whom_a_call_sends_shows_when_it_has_ended() {
    let mut world = World::new();
    let (server, client) = (world.open(Role::Server), world.open(Role::Client));
    // The answer in one call.
    world.asked(0, server);
    world.run(0, 1, 0);
    world.off(0, SENDTO, 30, 1);
    world.off(0, SENDTO, 10, 0);
    world.answer(0, server);
    // A call of its own, whose request is long.
    world.asked(0, server);
    world.off(0, SENDTO, 20, 0);
    world.ask(0, client);
    world.off(0, RECVFROM, 5, 0);
    world.answered(0, client);
    world.answer(0, server);
    // It gives up, and answers at once.
    world.asked(0, server);
    world.off(0, SENDTO, 40, 0);
    world.off(0, NANOSLEEP, 7, 0);
    world.answer(0, server);
    // Only part of it is taken by the first call.
    world.asked(0, server);
    world.off(0, SENDTO, 8, 0);
    world.moved(0, server, OUT, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n");
    world.off(0, SENDTO, 9, 0);
    world.moved(0, server, OUT, "ok");
    let out = world.end();
    let requests: Vec<_> = out.iter().filter(|one| one.role == Role::Server).collect();
    check(requests[0], [1, 1, 0, 40, 0], &[]);
    check(requests[1], [0, 0, 25, 0, 0], &[]);
    check(requests[2], [0, 0, 0, 0, 0], &[(Reason::Network, 40), (Reason::Timer, 7)]);
    check(requests[3], [0, 0, 0, 17, 0], &[]);
}

/// The call with which a request is answered ends behind its last bytes, and then its stack is told.
#[test]
fn the_stack_of_a_wait_in_sending_comes_when_the_request_has_ended() {
    let mut world = World::new();
    let server = world.open(Role::Server);
    world.asked(0, server);
    world.off(0, SENDTO, 30, 0);
    let waited = world.threads[0].number;
    // Too short for a stack.
    world.off(0, SENDTO, 0, 0);
    world.answer(0, server);
    let stack = |number: u32, frame: &str| {
        Event::Stack(Stack {
            time: BootTime(world.now),
            number: u64::from(number),
            pid: 5,
            tid: 60,
            kind: StackKind::Wait,
            is_kept: true,
            frames: format!("[\"{frame}\"]").into(),
            end: StackEnd::Complete,
            ..Stack::default()
        })
    };
    let stacks = [stack(waited, "send (libc)"), stack(waited + 1, "of another wait")];
    world.events.extend(stacks);
    let cuts = [world.events.len() - 3, world.events.len() - 2];
    let (cut, _) = through(&world.events, &cuts);
    let (out, metrics) = through(&world.events, &[]);
    assert_eq!(cut, out);
    let stacks = out[0].causes.as_ref().unwrap().stacks().unwrap();
    assert_eq!(stacks.len(), 1);
    assert_eq!((&*stacks[0].frames, stacks[0].ns), ("[\"send (libc)\"]", 30 * MS));
    assert_eq!(stacks[0].part, StackPart::Off(Reason::Network));
    assert_eq!(metrics.get(Counter::StacksUnowned), 1);
}

#[test]
fn a_moment_behind_the_beginning_of_an_answer_is_of_its_request_and_behind_its_end_nobodys() {
    let mut world = World::new();
    let server = world.open(Role::Server);
    let met = |world: &World, frame: &str| {
        Event::Stack(Stack {
            time: BootTime(world.now),
            number: u64::from(world.threads[0].number),
            pid: 5,
            tid: 60,
            kind: StackKind::Sample,
            is_kept: true,
            frames: format!("[\"{frame}\"]").into(),
            end: StackEnd::Complete,
            ..Stack::default()
        })
    };
    world.asked(0, server);
    world.run(0, 3, 0);
    world.moved(0, server, OUT, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n");
    world.run(0, 20, 0);
    let during = met(&world, "render (shop)");
    world.events.push(during);
    world.run(0, 20, 0);
    world.moved(0, server, OUT, "ok");
    world.run(0, 10, 0);
    let behind = met(&world, "log (shop)");
    world.events.push(behind);
    let (out, metrics) = through(&world.events, &[]);
    let stacks = out[0].causes.as_ref().unwrap().stacks().unwrap();
    assert_eq!(stacks.iter().map(|stack| &*stack.frames).collect::<Vec<_>>(), ["[\"render (shop)\"]"]);
    assert_eq!([Counter::StacksBehind, Counter::StacksUnowned].map(|counter| metrics.get(counter)), [1, 0]);
}

#[test]
fn what_was_lost_is_spread_over_nothing() {
    let mut world = World::new();
    let server = world.open(Role::Server);
    world.asked(0, server);
    world.run(0, 3, 0);
    world.off(0, FUTEX, 5, 0);
    world.run(0, 2, 0);
    world.lose_off(0, NANOSLEEP, 11);
    world.run(0, 1, 0);
    world.off(0, FUTEX, 6, 0);
    world.run(0, 4, 0);
    world.answer(0, server);
    // From the last that is known, the second half of which nobody can tell from the first.
    check(&world.end()[0], [7, 0, 0, 0, 20], &[(Reason::Futex, 5)]);
}

#[test]
fn of_what_another_thread_answers_the_waiting_is_not_known() {
    let mut world = World::new();
    let server = world.open(Role::Server);
    world.asked(0, server);
    world.run(0, 3, 0);
    world.off(0, EPOLL_WAIT, 20, 0);
    world.run(0, 1, 0);
    world.answer(1, server);
    check(&world.end()[0], [3, 0, 0, 0, 21], &[]);
}

/// Request 7 asks, its thread serves another one meanwhile, and it goes on with the answer on thread 1, which is followed or not.
fn goes_on_elsewhere(is_followed: bool) -> Vec<Transaction> {
    let mut world = World::new();
    let [first, second, third] = std::array::from_fn(|_| world.open(Role::Server));
    let client = world.open(Role::Client);
    if is_followed {
        world.by(9).asked(1, third);
    }
    world.by(7).asked(0, first);
    world.run(0, 3, 0);
    world.by(7).ask(0, client);
    world.run(0, 1, 0);
    world.by(8).asked(0, second);
    world.run(0, 5, 0);
    world.by(8).answer(0, second);
    world.off(0, EPOLL_WAIT, 10, 0);
    world.by(7).answered(1, client);
    world.run(1, 2, 0);
    // What its first thread does is not its doing any more.
    world.preempted(0, 1);
    world.by(7).answer(1, first);
    if is_followed {
        world.by(9).answer(1, third);
    }
    world.end().into_iter().filter(|transaction| transaction.role == Role::Server).collect()
}

#[test]
fn a_goroutine_waits_for_what_it_asks_and_its_thread_works_for_others() {
    let out = goes_on_elsewhere(false);
    check(&out[0], [5, 0, 0, 0, 0], &[]);
    check(&out[1], [3, 0, 16, 0, 3], &[]);
}

#[test]
fn a_goroutine_goes_on_with_the_answer_on_any_thread() {
    let out = goes_on_elsewhere(true);
    check(&out[1], [6, 0, 16, 0, 0], &[]);
}

#[test]
fn a_goroutine_that_sleeps_is_not_seen_to_do_so() {
    let mut world = World::new();
    let server = world.open(Role::Server);
    world.by(7).asked(0, server);
    world.run(0, 3, 0);
    world.off(0, EPOLL_WAIT, 20, 0);
    world.run(0, 1, 0);
    world.by(7).answer(0, server);
    check(&world.end()[0], [4, 0, 0, 0, 20], &[]);
}

#[test]
fn a_goroutine_that_waits_for_a_disk_holds_its_thread() {
    let mut world = World::new();
    let server = world.open(Role::Server);
    world.by(7).asked(0, server);
    world.off(0, FSYNC, 20, 0);
    world.run(0, 1, 0);
    world.by(7).answer(0, server);
    check(&world.end()[0], [1, 0, 0, 0, 0], &[(Reason::Disk, 20)]);
}

#[test]
fn a_thread_that_is_not_followed_has_no_anatomy_and_links_all_the_same() {
    let mut world = World::new();
    world.threads = Default::default();
    let (server, client) = (world.open(Role::Server), world.open(Role::Client));
    world.asked(0, server);
    world.ask(0, client);
    world.run(0, 3, 0);
    world.answered(0, client);
    world.run(0, 1, 0);
    world.answer(0, server);
    let [call, request] = &world.end()[..] else { panic!() };
    assert_eq!(anatomy(request), None);
    assert_eq!(request.causes.as_ref().unwrap().calls().unwrap().len(), 1);
    assert!(call.causes.as_ref().unwrap().link.is_some());
}

/// Threads that serve, ask, wait and answer in any order; now and then a record is lost.
fn anything() -> impl Strategy<Value = (World, bool)> {
    let step = (0..10_u32, 0..3_usize, 0..4_usize, 0..40_u64);
    let kinds = (any::<bool>(), any::<bool>());
    (prop::collection::vec(step, 1..120), kinds).prop_map(|(steps, (loses, is_go))| {
        let mut world = World::new();
        let servers: Vec<usize> = (0..4).map(|_| world.open(Role::Server)).collect();
        let clients: Vec<usize> = (0..4).map(|_| world.open(Role::Client)).collect();
        // What is open on each, and by which thread it was asked.
        let (mut open, mut asked) = ([None; 4], [None; 4]);
        for (what, thread, conn, ms) in steps {
            // One for each of both connections, or none at all.
            world.goroutine = if is_go { 1 + conn as u32 } else { 0 };
            match what {
                0 | 1 if open[conn].is_none() => {
                    open[conn] = Some(thread);
                    world.asked(thread, servers[conn]);
                }
                2 | 3 => {
                    if let Some(by) = open[conn].take() {
                        world.answer(if ms == 13 || is_go { thread } else { by }, servers[conn]);
                    }
                }
                4 if asked[conn].is_none() => {
                    asked[conn] = Some(thread);
                    world.ask(thread, clients[conn]);
                }
                5 => {
                    if let Some(by) = asked[conn].take() {
                        world.answered(if is_go { thread } else { by }, clients[conn]);
                    }
                }
                6 => world.preempted(thread, ms),
                7 if loses && ms > 30 => world.lose_off(thread, FUTEX, ms),
                7 | 8 => {
                    let call = [FUTEX, NANOSLEEP, RECVFROM, EPOLL_WAIT, SENDTO][(conn + ms as usize) % 5];
                    world.off(thread, call, ms, ms % 3);
                }
                _ => world.run(thread, ms, ms * 300),
            }
        }
        (world, loses)
    })
}

/// What a request did, step by step; behind the events at `cuts` the pipeline is saved and restored.
fn profile_of(events: &[Event], id: CallId, cuts: &[usize]) -> (Vec<Transaction>, Profile) {
    let (metrics, config) = (Metrics::default(), PipelineConfig::default);
    let mut pipeline = Pipeline::new(config(), metrics.clone(), Box::new(NullVerdicts));
    pipeline.watch(Watch::new(id));
    let mut out = Vec::new();
    for (i, event) in events.iter().enumerate() {
        pipeline.push(event);
        if cuts.contains(&i) {
            let (saved, watch) = (pipeline.checkpoint(), pipeline.take_watch().unwrap());
            pipeline = Pipeline::restore(&saved, config(), metrics.clone(), Box::new(NullVerdicts)).unwrap();
            pipeline.watch(watch);
        }
        out.extend(pipeline.drain().transactions);
    }
    out.extend(pipeline.finish().transactions);
    (out, pipeline.take_watch().unwrap().into_profile())
}

/// The lines of a profile are one behind the other, and as long as the request; what they add up to are its parts.
fn check_profile(transaction: &Transaction, profile: &Profile) {
    let sum = profile.steps.iter().fold(Anatomy::default(), |sum, step| sum.plus(&step.parts));
    assert_eq!(sum.fields(), anatomy(transaction).unwrap().fields(), "{profile:#?}");
    let rows = profile::rows(transaction, profile, &[]);
    let mut at_ns = 0;
    for row in &rows {
        assert_eq!(row.at_ns, at_ns, "{rows:#?}");
        at_ns += row.ns;
    }
    assert_eq!(at_ns, transaction.duration_ns as u64, "{transaction:#?}{rows:#?}");
}

#[test]
fn a_profile_tells_what_was_done_in_its_order() {
    let mut world = World::new();
    let (server, client) = (world.open(Role::Server), world.open(Role::Client));
    world.asked(0, server);
    world.run(0, 3, 0);
    world.off(0, FUTEX, 5, 2);
    world.run(0, 1, 0);
    world.ask(0, client);
    world.run(0, 2, 0);
    world.off(0, RECVFROM, 40, 0);
    world.answered(0, client);
    world.run(0, 4, 0);
    world.answer(0, server);
    let (out, _) = through(&world.events, &[]);
    let request = out.iter().find(|one| one.role == Role::Server).unwrap();
    let (again, profile) =
        profile_of(&world.events, CallId { conn: request.conn, ordinal: request.ordinal }, &[4]);
    assert_eq!(again, out);
    check_profile(request, &profile);
    let rows = profile::rows(request, &profile, &out[..1]);
    let told: Vec<_> =
        rows.iter().map(|row| (row.at_ns / MS, row.ns / MS, row.cpu_ns / MS, &*row.what)).collect();
    let call = format!("asks 10.0.0.2:8080 (http1): GET /y, answered after 42.0ms, {}", out[0].id());
    assert_eq!(
        told,
        [
            (0, 0, 0, "has read 28 bytes"),
            (0, 3, 3, "on a CPU"),
            (3, 5, 0, "waiting for a lock (0x1)"),
            (8, 2, 0, "waiting for a CPU"),
            (10, 1, 1, "on a CPU"),
            (11, 0, 0, &*call),
            (11, 2, 2, "on a CPU"),
            (13, 40, 0, "waiting for answers to its calls"),
            (53, 4, 4, "on a CPU"),
            (57, 0, 0, "has answered"),
        ]
    );
}

proptest! {
    #[test]
    fn a_profile_is_the_request_whoever_looks((world, _) in anything(), cuts in prop::collection::vec(0..120_usize, 0..3)) {
        let (whole, _) = through(&world.events, &[]);
        for served in whole.iter().filter(|one| one.role == Role::Server && anatomy(one).is_some()).take(6) {
            let id = CallId { conn: served.conn, ordinal: served.ordinal };
            let (again, profile) = profile_of(&world.events, id, &cuts);
            prop_assert_eq!(&again, &whole);
            check_profile(served, &profile);
        }
    }

    #[test]
    fn the_parts_add_up_and_a_checkpoint_changes_nothing(
        (world, _) in anything(),
        cuts in prop::collection::vec(0..120_usize, 0..6),
    ) {
        let (whole, metrics) = through(&world.events, &[]);
        prop_assert_eq!(metrics.get(Counter::AnatomyInconsistent), 0);
        let (cut, _) = through(&world.events, &cuts);
        for (whole, cut) in whole.iter().zip(&cut) {
            prop_assert_eq!(whole, cut);
        }
        prop_assert_eq!(whole.len(), cut.len());
        for anatomy in whole.iter().filter_map(anatomy) {
            // Of a thread with nothing else in flight only what it waits for may be linked by a guess.
            prop_assert!(anatomy.is_shared || anatomy.guesses().all(|name| name == "calls_ns"), "{:?}", anatomy);
            let guessed = Anatomy::guessed_from_json(&anatomy.guesses_as_json());
            prop_assert_eq!(Anatomy::from_parts(anatomy.parts(), anatomy.is_shared, guessed), anatomy);
        }
    }
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.events.fmt(f)
    }
}
