//! Conversations cut, shuffled, repeated and thinned out: the bytes that are told are those that were sent, and gaps are where some were lost.

use proptest::prelude::*;

use super::*;
use crate::event::{ConnClose, ConnOpen, Data, Direction, Role};

const CLIENT: u16 = 40_000;
const SERVER: u16 = 80;
const STEP: u64 = 1_000_000;

fn endpoint(port: u16) -> Endpoint {
    Endpoint {
        address: [10, 0, 0, if port == SERVER { 1 } else { 2 }, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        port,
    }
}

/// A request begins with `?`, a response with `!`.
fn recognise(bytes: &[u8]) -> Option<Speech> {
    match bytes.first() {
        Some(b'?') => Some(Speech::Asks),
        Some(b'!') => Some(Speech::Answers),
        _ => None,
    }
}

/// Writes the segments of one connection.
#[derive(Clone)]
struct Talk {
    /// Next sequence number of the client and of the server.
    next: [u32; 2],
    client: u16,
    time: u64,
    segments: Vec<Segment>,
}

impl Talk {
    fn joined(client: u32, server: u32) -> Talk {
        Talk { next: [client, server], client: CLIENT, time: 1_000 * STEP, segments: Vec::new() }
    }

    /// With its handshake.
    fn new(client: u32, server: u32) -> Talk {
        let mut talk = Talk::joined(client, server);
        talk.shake();
        talk
    }

    fn shake(&mut self) {
        let syn = Segment { syn: true, acknowledged: None, ..self.segment(0) };
        self.push(syn);
        self.next[0] = self.next[0].wrapping_add(1);
        let answer = Segment { syn: true, ..self.segment(1) };
        self.push(answer);
        self.next[1] = self.next[1].wrapping_add(1);
        self.ack(0);
    }

    fn segment(&self, from: usize) -> Segment {
        let ends = [endpoint(self.client), endpoint(SERVER)];
        Segment {
            time: BootTime(self.time),
            family: abi::FAMILY_INET,
            source: ends[from],
            destination: ends[1 - from],
            sequence: self.next[from],
            acknowledged: Some(self.next[1 - from]),
            ..Segment::default()
        }
    }

    fn push(&mut self, segment: Segment) {
        self.segments.push(segment);
        self.time += STEP;
    }

    fn ack(&mut self, from: usize) {
        self.push(self.segment(from));
    }

    fn say(&mut self, from: usize, bytes: &[u8]) -> usize {
        let payload = Bytes::copy_from_slice(bytes);
        self.push(Segment { bytes: bytes.len() as u32, payload, ..self.segment(from) });
        self.next[from] = self.next[from].wrapping_add(bytes.len() as u32);
        self.segments.len() - 1
    }

    fn fin(&mut self, from: usize) {
        self.push(Segment { fin: true, ..self.segment(from) });
        self.next[from] = self.next[from].wrapping_add(1);
    }

    fn end(&mut self) {
        self.fin(0);
        self.fin(1);
        self.ack(0);
    }
}

fn run(segments: &[Segment]) -> (Vec<Event>, Counts) {
    let mut reassembly = Reassembly::new(recognise);
    let mut out = Vec::new();
    for segment in segments {
        reassembly.take(segment.clone(), &mut out);
    }
    reassembly.finish(&mut out);
    assert_eq!(reassembly.rest.held, 0, "everything that was held was told");
    (out, reassembly.counts())
}

fn data(events: &[Event]) -> Vec<&Data> {
    let data = events.iter().filter_map(|event| match event {
        Event::Data(data) if data.bytes > 0 => Some(data),
        _ => None,
    });
    data.collect()
}

fn opens(events: &[Event]) -> Vec<&ConnOpen> {
    let opens =
        events.iter().filter_map(|event| if let Event::ConnOpen(open) = event { Some(open) } else { None });
    opens.collect()
}

fn closes(events: &[Event]) -> Vec<&ConnClose> {
    let all = events
        .iter()
        .filter_map(|event| if let Event::ConnClose(close) = event { Some(close) } else { None });
    all.collect()
}

/// The bytes told of a direction, by their distance from the first that was sent; in order and never twice.
fn told(events: &[Event], direction: Direction, first: u64) -> Vec<(u64, Vec<u8>)> {
    let mut stretches: Vec<(u64, Vec<u8>)> = Vec::new();
    for data in data(events).into_iter().filter(|data| data.direction() == direction) {
        let at = data.position - first;
        match stretches.last_mut() {
            Some((from, bytes)) if *from + bytes.len() as u64 == at => bytes.extend_from_slice(&data.payload),
            last => {
                assert!(
                    last.is_none_or(|(from, bytes)| *from + (bytes.len() as u64) < at),
                    "told twice or backwards"
                );
                stretches.push((at, data.payload.to_vec()));
            }
        }
    }
    stretches
}

fn check_times(events: &[Event]) {
    let times: Vec<u64> = events.iter().map(|event| crate::conn::order::time(event).0).collect();
    assert!(times.is_sorted(), "{times:?}");
}

#[test]
fn a_connection_is_told_as_its_server_sees_it() {
    let mut talk = Talk::new(100, 900);
    talk.say(0, b"?one");
    talk.say(1, b"!1");
    talk.say(1, b"234");
    talk.end();
    let (events, counts) = run(&talk.segments);
    let open = opens(&events)[0];
    assert_eq!(
        (open.role, open.flags, open.tuple.local_port, open.tuple.remote_port),
        (Role::Server, 0, SERVER, CLIENT)
    );
    assert_eq!(open.established, open.time);
    let data = data(&events);
    let seen: Vec<_> =
        data.iter().map(|d| (d.direction(), d.turn, d.has(abi::FLAG_TURN_START), &d.payload[..])).collect();
    let (i, e) = (Direction::Ingress, Direction::Egress);
    assert_eq!(seen, [(i, 1, true, &b"?one"[..]), (e, 2, true, b"!1"), (e, 2, false, b"234")]);
    assert_eq!(data[0].position, (1 << 32) + 101, "as the kernel side extends sequence numbers");
    let shuts: Vec<_> = events.iter().filter(|event| matches!(event, Event::ConnShut(_))).collect();
    let ends: Vec<_> =
        events.iter().filter(|event| matches!(event, Event::Data(d) if d.has(abi::FLAG_EOF))).collect();
    assert_eq!((shuts.len(), ends.len()), (2, 1));
    let close = closes(&events)[0];
    assert_eq!(
        (close.position, close.turn, close.reason),
        ([(1 << 32) + 105, (1 << 32) + 906], 2, abi::CLOSE_NORMAL)
    );
    assert_eq!((counts.gaps, counts.repeated, counts.stray), (0, 0, 0));
}

#[test]
fn a_sequence_number_wraps_in_the_middle() {
    let mut talk = Talk::new(u32::MAX - 3, u32::MAX - 1);
    talk.say(0, b"?abcdefgh");
    talk.say(0, b"ijk");
    talk.say(1, b"!1234");
    talk.end();
    let (events, _) = run(&talk.segments);
    let first = (1 << 32) + u64::from(u32::MAX - 2);
    assert_eq!(told(&events, Direction::Ingress, first), [(0, b"?abcdefghijk".to_vec())]);
    assert_eq!(told(&events, Direction::Egress, (1 << 32) + u64::from(u32::MAX)), [(0, b"!1234".to_vec())]);
    assert_eq!(closes(&events)[0].position[0], first + 12);
}

#[test]
fn bytes_behind_a_hole_carry_the_time_at_which_it_was_filled() {
    let mut talk = Talk::new(1, 1);
    talk.say(0, b"?ab");
    let lost = talk.say(0, b"cd");
    talk.say(0, b"ef");
    let mut again = talk.segments.remove(lost);
    again.time = BootTime(talk.time);
    let filled = again.time;
    talk.push(again);
    let (events, counts) = run(&talk.segments);
    let times: Vec<_> = data(&events).iter().map(|data| data.time).collect();
    assert_eq!(times[1..], [filled; 2]);
    assert_eq!((counts.gaps, counts.ahead), (0, 1));
    check_times(&events);
}

#[test]
fn of_bytes_sent_twice_with_another_content_the_first_seen_win() {
    let mut talk = Talk::new(1, 1);
    talk.say(0, b"?abcdef");
    let mut other = talk.segments.last().unwrap().clone();
    other.payload = Bytes::from_static(b"?XXXXXXghi");
    other.bytes = 10;
    talk.push(other);
    // Ahead of a hole as well.
    let mut ahead = talk.segment(0);
    ahead.sequence = ahead.sequence.wrapping_add(5);
    (ahead.bytes, ahead.payload) = (2, Bytes::from_static(b"mn"));
    talk.push(ahead);
    let mut all = talk.segment(0);
    all.sequence = all.sequence.wrapping_add(3);
    (all.bytes, all.payload) = (6, Bytes::from_static(b"klYYop"));
    talk.push(all);
    let (events, counts) = run(&talk.segments);
    assert_eq!(told(&events, Direction::Ingress, (1 << 32) + 2), [(0, b"?abcdefghiklmnop".to_vec())]);
    assert_eq!(counts.gaps, 0);
}

#[test]
fn keep_alive_and_zero_window_probes_are_nothing_new() {
    let mut talk = Talk::new(1, 1);
    talk.say(0, b"?ab");
    for bytes in [0, 1] {
        let mut probe = talk.segment(0);
        probe.sequence = probe.sequence.wrapping_sub(1);
        (probe.bytes, probe.payload) = (bytes, Bytes::from(vec![b'b'; bytes as usize]));
        talk.push(probe);
        talk.ack(1);
    }
    // One byte into a closed window, refused, and sent again with the rest.
    let mut probe = talk.segment(0);
    (probe.bytes, probe.payload) = (1, Bytes::from_static(b"c"));
    talk.push(probe);
    talk.ack(1);
    talk.say(0, b"cd");
    let (events, counts) = run(&talk.segments);
    assert_eq!(told(&events, Direction::Ingress, (1 << 32) + 2), [(0, b"?abcd".to_vec())]);
    assert_eq!((counts.gaps, counts.stray, counts.repeated), (0, 0, 1));
}

#[test]
fn a_new_syn_on_the_same_ends_is_another_connection_and_a_repeated_one_is_not() {
    let mut talk = Talk::new(1, 1);
    let (syn, answer) = (talk.segments[0].clone(), talk.segments[1].clone());
    talk.push(syn);
    talk.push(answer);
    talk.say(0, b"?a");
    let old = talk.segments.last().unwrap().clone();
    talk.end();
    // The last packets of the old one come again.
    talk.push(old);
    talk.next = [7_000, 9_000];
    talk.shake();
    talk.say(0, b"?b");
    talk.next = [100, 100];
    talk.shake();
    talk.say(0, b"?c");
    let (events, counts) = run(&talk.segments);
    let (opens, closes) = (opens(&events), closes(&events));
    assert_eq!((opens.len(), closes.len()), (3, 2));
    let mut ids: Vec<_> = opens.iter().map(|open| open.conn).collect();
    ids.dedup();
    assert_eq!(ids.len(), 3, "a name is never used again");
    assert!(ids.is_sorted());
    assert_eq!(closes[1].reason, abi::CLOSE_REPLACED, "the end of the second was not seen");
    assert_eq!(counts.stray, 1, "the late packet");
}

#[test]
fn a_reset_ends_a_connection_and_one_to_a_syn_was_never_one() {
    let mut talk = Talk::new(1, 1);
    talk.say(0, b"?a");
    let mut blind = Segment { reset: true, ..talk.segment(1) };
    blind.sequence = blind.sequence.wrapping_sub(NEAR_RESET);
    talk.push(blind);
    talk.push(Segment { reset: true, ..talk.segment(1) });
    talk.client = CLIENT + 1;
    talk.next = [5, 0];
    talk.push(Segment { syn: true, acknowledged: None, ..talk.segment(0) });
    talk.push(Segment { reset: true, acknowledged: Some(6), ..talk.segment(1) });
    let (events, counts) = run(&talk.segments);
    assert_eq!((opens(&events).len(), closes(&events).len()), (1, 1));
    let close = closes(&events)[0];
    assert_eq!((close.reason, close.error, close.position), (abi::CLOSE_RESET, 104, [(1 << 32) + 4, 0]));
    assert_eq!((counts.refused, counts.stray), (1, 1));
}

/// A reset from so far behind was not sent by whoever has the connection.
const NEAR_RESET: u32 = 200 << 20;

#[test]
fn one_direction_may_end_long_before_the_other() {
    let mut talk = Talk::new(1, 1);
    talk.say(0, b"?a");
    talk.fin(0);
    talk.ack(1);
    talk.say(1, b"!b");
    let (events, _) = run(&talk.segments);
    assert_eq!((closes(&events).len(), data(&events).len()), (0, 2));
    talk.fin(1);
    assert_eq!(closes(&run(&talk.segments).0).len(), 1);
}

#[test]
fn who_serves_a_connection_joined_in_the_middle_is_told_by_what_is_said() {
    let mut talk = Talk::joined(5_000, 6_000);
    // The rest of something, from the server whose port is the higher one.
    talk.client = 20;
    talk.say(1, b"rest of a response");
    talk.ack(0);
    talk.say(0, b"?a");
    talk.say(1, b"!b");
    let (events, _) = run(&talk.segments);
    let open = opens(&events)[0];
    assert_eq!((open.role, open.flags, open.tuple.local_port), (Role::Unknown, abi::FLAG_MID_JOIN, SERVER));
    assert_eq!(open.established, BootTime(0));
    assert_eq!(data(&events).iter().map(|data| data.turn).collect::<Vec<_>>(), [1, 2, 3]);
    // Without words, whoever was seen to serve, and then the lower port.
    let mut talk = Talk::joined(5_000, 6_000);
    talk.client = 20;
    talk.say(0, b"...");
    assert_eq!(opens(&run(&talk.segments).0)[0].tuple.local_port, 20);
    let mut other = Talk::new(1, 1);
    other.segments.append(&mut talk.segments);
    assert_eq!(opens(&run(&other.segments).0)[1].tuple.local_port, SERVER);
}

#[test]
fn what_was_cut_is_told_with_its_length() {
    let mut talk = Talk::new(1, 1);
    talk.say(0, b"?abcdefg");
    talk.say(0, b"hij");
    talk.segments[3].payload.truncate(3);
    let (events, counts) = run(&talk.segments);
    let seen: Vec<_> = data(&events).iter().map(|data| (data.bytes, data.payload.len())).collect();
    assert_eq!((seen, counts.cut, counts.gaps), (vec![(8, 3), (3, 3)], 1, 0));
}

#[test]
fn a_lost_response_is_a_turn_and_a_gap() {
    let mut talk = Talk::new(1, 1);
    talk.say(0, b"?a");
    let lost = talk.say(1, b"!b");
    talk.say(0, b"?c");
    talk.say(1, b"!d");
    talk.segments.remove(lost);
    let (events, counts) = run(&talk.segments);
    let turns: Vec<_> =
        data(&events).iter().map(|data| (data.turn, data.has(abi::FLAG_TURN_START))).collect();
    assert_eq!(turns, [(1, true), (3, true), (4, true)]);
    assert_eq!((counts.gaps, counts.gap_bytes, counts.turns_hidden), (1, 2, 0));
}

#[test]
fn without_acknowledgements_a_hole_is_given_up_in_time() {
    // Only the client's packets were captured.
    let mut talk = Talk::new(1, 1);
    talk.say(0, b"?a");
    let lost = talk.say(0, b"bc");
    talk.say(0, b"de");
    talk.segments.remove(lost);
    talk.segments.retain(|segment| segment.source.port != SERVER);
    let (mut events, mut reassembly) = (Vec::new(), Reassembly::new(recognise));
    for segment in &talk.segments {
        reassembly.take(segment.clone(), &mut events);
    }
    assert_eq!(data(&events).len(), 1);
    reassembly.pass(BootTime(talk.time + 6_000_000_000), &mut events);
    assert_eq!(told(&events, Direction::Ingress, (1 << 32) + 2), [(0, b"?a".to_vec()), (4, b"de".to_vec())]);
    assert_eq!(reassembly.counts().gaps, 1);
}

#[test]
fn what_waits_behind_a_hole_is_bounded() {
    let mut talk = Talk::new(1, 1);
    let lost = talk.say(0, b"?a");
    for _ in 0..6_000 {
        talk.say(0, &[b'x'; 1_000]);
    }
    talk.segments.remove(lost);
    let (mut events, mut reassembly) = (Vec::new(), Reassembly::new(recognise));
    for mut segment in talk.segments {
        // Within one time-out.
        segment.time = BootTime(STEP);
        reassembly.take(segment, &mut events);
        assert!(reassembly.rest.held < (4 << 20) + 2_000, "{}", reassembly.rest.held);
    }
    assert_eq!((reassembly.counts().held_full, reassembly.counts().gaps), (1, 1));
}

#[test]
fn the_connection_that_was_idle_longest_makes_room() {
    let mut reassembly = Reassembly::with_room(recognise, 4);
    let mut events = Vec::new();
    for n in 0..10 {
        let mut talk = Talk::joined(1, 1);
        talk.client = CLIENT + n;
        talk.time += u64::from(n) * 100 * STEP;
        talk.shake();
        talk.say(0, b"?a");
        for segment in talk.segments {
            reassembly.take(segment, &mut events);
        }
    }
    assert_eq!((opens(&events).len(), closes(&events).len(), reassembly.counts().conns_full), (10, 6, 6));
    assert_eq!(reassembly.by_key.len(), 4);
}

/// A conversation: turns of some bytes, alternating, cut into segments; and for each turn, numbers that shuffle it.
fn conversation() -> impl Strategy<Value = (Vec<Vec<Vec<u8>>>, u32, u32)> {
    let piece = proptest::collection::vec(any::<u8>(), 1..40);
    let turn = proptest::collection::vec(piece, 1..6);
    (proptest::collection::vec(turn, 1..9), any::<u32>(), any::<u32>())
}

fn talk_of(turns: &[Vec<Vec<u8>>], client: u32, server: u32) -> (Talk, Vec<Vec<usize>>) {
    let mut talk = Talk::new(client, server);
    let mut places = Vec::new();
    for (n, turn) in turns.iter().enumerate() {
        places.push(turn.iter().map(|piece| talk.say(n % 2, piece)).collect());
    }
    talk.end();
    (talk, places)
}

fn sent(turns: &[Vec<Vec<u8>>], from: usize) -> Vec<u8> {
    turns.iter().skip(from).step_by(2).flatten().flatten().copied().collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_same_bytes_come_in_order_however_segments_are_shuffled_repeated_and_joined(
        (turns, client, server) in conversation(),
        shuffles in proptest::collection::vec(any::<(u8, u8, u8)>(), 0..40),
    ) {
        let (mut talk, places) = talk_of(&turns, client, server);
        let times: Vec<BootTime> = talk.segments.iter().map(|segment| segment.time).collect();
        let mut repeated = Vec::new();
        for (turn, one, other) in shuffles {
            let turn = &places[usize::from(turn) % places.len()];
            let (one, other) = (turn[usize::from(one) % turn.len()], turn[usize::from(other) % turn.len()]);
            talk.segments.swap(one, other);
            let (low, high) = (one.min(other), one.max(other));
            if (low..=high).all(|at| talk.segments[at].bytes > 0) && low != high {
                // Sent again in one: two neighbours joined, as long as they are neighbours still.
                let (first, second) = (talk.segments[low].clone(), talk.segments[low + 1].clone());
                if first.sequence.wrapping_add(first.bytes) == second.sequence {
                    let payload = Bytes::from([first.payload, second.payload].concat());
                    repeated.push((high, Segment { bytes: payload.len() as u32, payload, ..talk.segments[low].clone() }));
                }
            }
        }
        for (segment, time) in talk.segments.iter_mut().zip(times) {
            segment.time = time;
        }
        repeated.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
        for (at, mut segment) in repeated {
            segment.time = talk.segments[at].time;
            talk.segments.insert(at + 1, segment);
        }
        let (events, counts) = run(&talk.segments);
        check_times(&events);
        let firsts = [client, server].map(|first| (1 << 32) + u64::from(first.wrapping_add(1)));
        for (from, direction) in [(0, Direction::Ingress), (1, Direction::Egress)] {
            let want = sent(&turns, from);
            let want = if want.is_empty() { Vec::new() } else { vec![(0, want)] };
            prop_assert_eq!(told(&events, direction, firsts[from]), want);
        }
        prop_assert_eq!(counts.gaps, 0);
        let starts: Vec<u32> =
            data(&events).iter().filter(|data| data.has(abi::FLAG_TURN_START)).map(|data| data.turn).collect();
        prop_assert_eq!(starts, (1..=turns.len() as u32).collect::<Vec<_>>());
        let close = closes(&events)[0];
        prop_assert_eq!(close.turn, turns.len() as u32);
    }

    #[test]
    fn copies_of_segments_tell_nothing_new(
        (turns, client, server) in conversation(),
        copies in proptest::collection::vec((any::<u16>(), 0..40_u64), 1..200),
        joined in any::<bool>(),
    ) {
        // As captured on several interfaces, each a little later than the other; also of a connection joined in the middle.
        let (mut talk, _) = talk_of(&turns, client, server);
        talk.segments.drain(..if joined { 3 } else { 0 });
        let (want, _) = run(&talk.segments);
        let mut all = talk.segments.clone();
        for (which, delay) in copies {
            let mut copy = talk.segments[usize::from(which) % talk.segments.len()].clone();
            copy.time = BootTime(copy.time.0 + delay * STEP / 4);
            all.push(copy);
        }
        all.sort_by_key(|segment| segment.time);
        let (events, counts) = run(&all);
        prop_assert_eq!(events, want);
        prop_assert_eq!((counts.gaps, counts.turns_hidden), (0, 0));
    }

    #[test]
    fn gaps_are_exactly_where_segments_were_lost(
        (turns, client, server) in conversation(),
        losses in proptest::collection::vec(any::<bool>(), 60),
    ) {
        let (talk, places) = talk_of(&turns, client, server);
        let mut want: [Vec<(u64, Vec<u8>)>; 2] = Default::default();
        let mut ends = [0; 2];
        let (mut kept, mut lost, mut number) = (talk.segments.clone(), 0, 0);
        for (n, turn) in places.iter().enumerate() {
            let (from, end) = (n % 2, &mut ends[n % 2]);
            for place in turn {
                let payload = &talk.segments[*place].payload;
                if losses[number % losses.len()] {
                    kept[*place].bytes = u32::MAX;
                    lost += payload.len() as u64;
                } else {
                    match want[from].last_mut() {
                        Some((at, bytes)) if *at + bytes.len() as u64 == *end => bytes.extend_from_slice(payload),
                        _ => want[from].push((*end, payload.to_vec())),
                    }
                }
                *end += payload.len() as u64;
                number += 1;
            }
        }
        kept.retain(|segment| segment.bytes != u32::MAX);
        let (events, counts) = run(&kept);
        check_times(&events);
        let firsts = [client, server].map(|first| (1 << 32) + u64::from(first.wrapping_add(1)));
        for (from, direction) in [(0, Direction::Ingress), (1, Direction::Egress)] {
            prop_assert_eq!(told(&events, direction, firsts[from]), want[from].clone());
        }
        prop_assert_eq!(counts.gap_bytes, lost);
        let close = closes(&events)[0];
        for from in [0, 1].into_iter().filter(|from| ends[*from] > 0) {
            prop_assert_eq!(close.position[from], firsts[from] + ends[from], "the end says what is missing there");
        }
        // Where the head of a turn and the one before it are lost, they count as turns of their own: at most twice as many.
        prop_assert!(close.turn <= 2 * turns.len() as u32);
        let starts: Vec<u32> =
            data(&events).iter().filter(|data| data.has(abi::FLAG_TURN_START)).map(|data| data.turn).collect();
        prop_assert!(starts.is_sorted());
    }

    #[test]
    fn any_segments_are_taken_and_nothing_is_told_twice(
        segments in proptest::collection::vec(
            (any::<(bool, bool, bool, bool)>(), 0..4_u32, 0..60_u32, 0..60_u32, 0..30_u32, any::<bool>()), 0..120),
    ) {
        let mut all = Vec::new();
        let mut time = 0;
        for ((client, syn, fin, reset), rare, sequence, ack, bytes, wild) in segments {
            time += if wild { 3_000_000_000 } else { STEP };
            let (source, destination) = if client { (CLIENT, SERVER) } else { (SERVER, CLIENT) };
            let base = if wild { u32::MAX - 20 } else { 0 };
            all.push(Segment {
                time: BootTime(time),
                family: abi::FAMILY_INET,
                source: endpoint(source),
                destination: endpoint(destination),
                sequence: base.wrapping_add(sequence),
                acknowledged: (rare != 1).then_some(base.wrapping_add(ack)),
                syn: syn && rare == 0,
                fin: fin && rare == 0,
                reset: reset && rare == 0,
                bytes,
                payload: Bytes::from(vec![b'x'; bytes as usize]),
            });
        }
        let (events, _) = run(&all);
        let mut reached = std::collections::HashMap::new();
        for data in data(&events) {
            let next = reached.entry((data.conn, data.direction())).or_insert(0);
            prop_assert!(data.position >= *next);
            *next = data.end();
        }
        let mut over = std::collections::HashSet::new();
        for event in &events {
            match event {
                Event::ConnClose(close) => prop_assert!(over.insert(close.conn)),
                Event::Data(data) => prop_assert!(!over.contains(&data.conn)),
                _ => {}
            }
        }
    }
}
