//! What the network does to connections, through the pipeline.

use tracer_ebpf as abi;
use tracer_user::{
    event::{ConnId, ConnOpen, Data, Direction, Event, Retransmit, Role, TlsOpen},
    metrics::{Counter, Metrics},
    pipeline::{NullVerdicts, Pipeline, PipelineConfig},
    time::BootTime,
    transaction::{Network, Transaction},
};

const IN: Direction = Direction::Ingress;
const OUT: Direction = Direction::Egress;
const MS: u64 = 1_000_000;
/// A connection on the wire, and a clear text.
const WIRE: u64 = 100;
const CLEAR: u64 = 200;

/// What the kernel tells of a process's connections. Time passes in milliseconds.
struct World {
    events: Vec<Event>,
    now: u64,
    positions: [u64; 2],
    turn: u32,
    speaking: Option<Direction>,
    /// Whose bytes move.
    conn: u64,
    /// Round trip, and segments sent again, as the kernel counts them.
    told: (u32, u32),
}

impl World {
    fn new(role: Role) -> World {
        let mut tuple = abi::Tuple { family: abi::FAMILY_INET, ..abi::Tuple::default() };
        (tuple.local_port, tuple.remote_port) =
            if role == Role::Server { (80, 40_000) } else { (40_000, 80) };
        let now = 1_000 * MS;
        let open =
            ConnOpen { time: BootTime(now), conn: ConnId(WIRE), role, tuple, pid: 5, ..ConnOpen::default() };
        World {
            events: vec![Event::ConnOpen(open)],
            now,
            positions: [1 << 33, 1 << 34],
            turn: 0,
            speaking: None,
            conn: WIRE,
            told: (250, 0),
        }
    }

    fn pass(&mut self, ms: u64) -> &mut World {
        self.now += ms * MS;
        self
    }

    fn moved(&mut self, direction: Direction, bytes: &str) -> &mut World {
        let turn_start = self.speaking != Some(direction);
        if turn_start {
            (self.speaking, self.turn) = (Some(direction), self.turn + 1);
        }
        let mut flags = if direction == OUT { abi::FLAG_EGRESS } else { 0 };
        flags |= if turn_start { abi::FLAG_TURN_START } else { 0 };
        // What is inside has no socket of its own.
        let (rtt_us, retransmits) = if self.conn == WIRE { self.told } else { (0, 0) };
        self.events.push(Event::Data(Data {
            time: BootTime(self.now),
            conn: ConnId(self.conn),
            position: self.positions[direction.index()],
            bytes: bytes.len() as u64,
            turn: self.turn,
            flags,
            pid: 5,
            tid: 6,
            n_calls: 1,
            comm: *b"worker\0\0\0\0\0\0\0\0\0\0",
            payload: bytes.to_owned().into(),
            rtt_us,
            retransmits,
            ..Data::default()
        }));
        self.positions[direction.index()] += bytes.len() as u64;
        self
    }

    fn request(&mut self, direction: Direction) -> &mut World {
        self.moved(direction, "GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
    }

    fn response(&mut self, direction: Direction) -> &mut World {
        self.moved(direction, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    }

    /// The kernel sends so many segments again.
    fn again(&mut self, n: u32) -> &mut World {
        self.again_unseen(n);
        let (rtt_us, retransmits) = self.told;
        let (time, conn) = (BootTime(self.now), ConnId(WIRE));
        self.events.push(Event::Retransmit(Retransmit { time, conn, rtt_us, retransmits }));
        self
    }

    /// The same, and its record is lost.
    fn again_unseen(&mut self, n: u32) -> &mut World {
        self.told.1 = self.told.1.wrapping_add(n);
        self
    }

    /// What became of it: by transaction, round trip and segments sent again; then those that the kernel sent again, and those of nobody. The same whether or not the
    /// pipeline is saved and restored behind each event.
    #[track_caller]
    fn check(&self, transactions: &[(u32, u32)], seen: [u64; 2]) {
        let of = |one: &Transaction| one.network.map(|Network { rtt_us, retransmits }| (rtt_us, retransmits));
        let (out, metrics) = through(&self.events, false);
        assert_eq!(
            out.iter().map(of).collect::<Vec<_>>(),
            transactions.iter().copied().map(Some).collect::<Vec<_>>()
        );
        assert_eq!([metrics.get(Counter::Retransmits), metrics.get(Counter::RetransmitsNobodys)], seen);
        assert_eq!(through(&self.events, true).0, out);
    }
}

fn through(events: &[Event], is_cut: bool) -> (Vec<Transaction>, Metrics) {
    let (config, metrics) = (PipelineConfig::default, Metrics::default());
    let mut pipeline = Pipeline::new(config(), metrics.clone(), Box::new(NullVerdicts));
    let mut out = Vec::new();
    for event in events {
        pipeline.push(event);
        if is_cut {
            let saved = pipeline.checkpoint();
            pipeline = Pipeline::restore(&saved, config(), metrics.clone(), Box::new(NullVerdicts)).unwrap();
        }
        out.extend(pipeline.drain().transactions);
    }
    out.extend(pipeline.finish().transactions);
    (out, metrics)
}

#[test]
fn what_is_sent_again_is_of_the_request_in_flight_or_just_answered() {
    let mut world = World::new(Role::Server);
    world.request(IN).pass(5).response(OUT);
    world.pass(20).request(IN).pass(1).moved(OUT, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nok");
    world.pass(30).again(2).pass(10).moved(OUT, "ok");
    // Its last bytes were lost too.
    world.pass(200).again(1).told.0 = 900;
    world.pass(90).request(IN).pass(3).response(OUT);
    world.check(&[(250, 0), (250, 3), (900, 0)], [3, 0]);
}

#[test]
fn what_is_sent_again_later_than_transactions_wait_is_nobodys() {
    let mut world = World::new(Role::Server);
    world.request(IN).pass(5).response(OUT);
    world.pass(200).again(1).pass(400).again(1).pass(800).again(1);
    world.pass(90).request(IN).pass(3).response(OUT);
    world.check(&[(250, 1), (250, 0)], [3, 2]);
}

#[test]
fn of_a_request_that_was_made_only_what_was_sent_again_before_its_answer_counts() {
    let mut world = World::new(Role::Client);
    world.request(OUT).pass(200).again(1).pass(400).again(1).pass(50).response(IN);
    world.pass(10).again(1).pass(10).request(OUT).pass(1).response(IN);
    world.check(&[(250, 2), (250, 0)], [3, 1]);
}

#[test]
fn a_lost_record_is_made_up_for_by_the_next_one_of_its_connection() {
    let mut world = World::new(Role::Client);
    world.request(OUT).pass(200).again_unseen(1).pass(400).again(1).pass(50).response(IN);
    world.pass(9).request(OUT).pass(300).again_unseen(3).pass(1).response(IN);
    world.check(&[(250, 2), (250, 3)], [5, 0]);
}

#[test]
fn what_the_first_bytes_of_a_request_make_known_is_not_its() {
    let mut world = World::new(Role::Server);
    world.request(IN).pass(5).response(OUT);
    world.pass(200).again_unseen(2).pass(100).request(IN).pass(3).response(OUT);
    world.check(&[(250, 2), (250, 0)], [2, 0]);
}

#[test]
fn however_often_segments_are_sent_again_a_request_has_them_all() {
    let mut world = World::new(Role::Client);
    world.request(OUT);
    for _ in 0..500 {
        world.pass(10).again(3);
    }
    world.pass(1).response(IN);
    world.check(&[(250, 1_500)], [1_500, 0]);
}

#[test]
fn what_was_sent_again_before_it_was_looked_at_is_not_counted_and_the_count_may_begin_anew() {
    let mut world = World::new(Role::Client);
    world.told.1 = u32::MAX - 1;
    world.request(OUT).pass(200).again(1).pass(200).again(2).pass(50).response(IN);
    world.check(&[(250, 3)], [3, 0]);
    // The first that is told of it is that something was sent again.
    let mut world = World::new(Role::Client);
    world.told.1 = 7;
    world.again(1).pass(5).request(OUT).pass(1).response(IN);
    world.check(&[(250, 0)], [1, 1]);
}

#[test]
fn a_clear_text_goes_the_way_of_its_carrier() {
    let mut world = World::new(Role::Server);
    world.moved(IN, "\x16\x03\x01").pass(1).moved(OUT, "\x16\x03\x03").pass(1);
    let (time, conn, carrier) = (BootTime(world.now), ConnId(CLEAR), ConnId(WIRE));
    let (library, link) = (abi::TLS_OPENSSL, abi::TLS_LINK_NESTED);
    world.events.push(Event::TlsOpen(TlsOpen { time, conn, carrier, pid: 5, library, link, flags: 0 }));
    let wire = (world.positions, world.turn, world.speaking);
    (world.conn, world.positions, world.turn, world.speaking) = (CLEAR, [0; 2], 0, None);
    world.request(IN).pass(100).again(1).pass(1).response(OUT);
    world.pass(200).again(1);
    (world.conn, world.positions, world.turn, world.speaking) = (WIRE, wire.0, wire.1, wire.2);
    world.told.0 = 800;
    world.pass(1).moved(IN, "\x17\x03\x03");
    (world.conn, world.positions, world.turn, world.speaking) = (CLEAR, [27, 40], 2, Some(OUT));
    world.request(IN).pass(1).response(OUT);
    world.check(&[(250, 2), (800, 0)], [2, 0]);
}
