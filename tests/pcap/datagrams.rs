//! UDP in captures: DNS that BIND and dnsmasq answered, what is seen twice, what is asked twice, headers that lie, and that each packet is counted.

use std::{collections::BTreeSet, fs};

use etherparse::PacketBuilder;
use proptest::prelude::*;
use rstest::rstest;
use tracer_user::{
    event::{Event, Role},
    pipeline::LostRequests,
    source::pcap::PcapSource,
    transaction::{Confidence, End, TimeBasis},
};

use super::{
    Form, Link, Packets, Read, START_NS,
    copies::{counter, open},
    fixture, frames, read, text, txray,
};

const MS: u64 = 1_000_000;
const CLIENT: ([u8; 4], u16) = ([10, 0, 0, 1], 40_000);
const SERVER: ([u8; 4], u16) = ([10, 0, 0, 2], 53);

/// What the servers' logs and dig's answers say of each transaction.
#[track_caller]
fn log(read: &Read) -> String {
    let rows = read.transactions.iter().map(|row| {
        assert_eq!(
            (row.confidence, row.time_basis, row.end),
            (Confidence::Complete, TimeBasis::Packet, End::Answered)
        );
        assert_eq!((row.role, row.pid, row.server_port), (Role::Server, 0, Some(53)));
        assert!(row.duration_ns > 0);
        let server = &*row.server_addr;
        let service = if server.contains(':') { format!("[{server}]:53") } else { format!("{server}:53") };
        assert_eq!(*row.service, service);
        // Over TCP two bytes of length are before each.
        let is_tcp =
            read.events.iter().any(|event| matches!(event, Event::ConnOpen(open) if open.conn == row.conn));
        format!(
            "{},{},{},{},{},{server},{}\n",
            row.operation,
            String::from_utf8_lossy(row.target.as_deref().unwrap()),
            row.status_code.unwrap(),
            row.rows.unwrap(),
            if is_tcp { "tcp" } else { "udp" },
            row.client_port.unwrap(),
        )
    });
    rows.collect()
}

/// Each packet of UDP is told, a copy, of no port that is wanted, or none.
#[track_caller]
fn check_sum(read: &Read) {
    let n = |name| counter(read, name);
    let told = read.events.iter().filter(|event| matches!(event, Event::Datagram(_))).count() as u64;
    assert_eq!(n("capture.udp_datagrams"), told);
    let parts = [
        "capture.udp_datagrams",
        "capture.udp_repeated",
        "capture.udp_not_looked_at",
        "capture.udp_bad_length",
    ];
    assert_eq!(n("capture.udp"), parts.into_iter().map(n).sum::<u64>(), "{}", read.report.line());
}

#[rstest]
#[case::at_the_client(&["dns.pcap"], 26, 0)]
#[case::at_the_bridge_and_both_sides_of_it(&["dns-any-ns.pcap.gz"], 50, 24)]
#[case::everywhere(&["dns.pcap", "dns-any-ns.pcap.gz"], 74, 48)]
#[case::in_two_files(&["dns.pcap", "dns.pcap"], 50, 24)]
fn real_captures_give_the_servers_logs(#[case] names: &[&str], #[case] n_udp: u64, #[case] n_repeated: u64) {
    let read = open(names);
    assert_eq!(log(&read), fs::read_to_string(fixture("dns.csv")).unwrap(), "{}", read.report.line());
    assert_eq!((read.lost, read.report.fault()), (LostRequests::default(), None));
    assert_eq!((counter(&read, "capture.udp"), counter(&read, "capture.udp_repeated")), (n_udp, n_repeated));
    assert_eq!(counter(&read, "lost.capture_fragments"), 0);
    check_sum(&read);
}

/// python-zeroconf probes for a name, announces it, asks for another and says goodbye, as tcpdump -r prints it.
#[test]
fn questions_are_the_groups_and_announcements_the_announcers() {
    let read = open(&["mdns.pcap"]);
    let rows: Vec<_> = read
        .transactions
        .iter()
        .map(|row| {
            assert_eq!(
                (row.role, row.protocol, row.confidence),
                (Role::Server, "mdns", Confidence::Complete)
            );
            let target = String::from_utf8_lossy(row.target.as_deref().unwrap()).into_owned();
            (row.operation.to_string(), target, row.service.to_string())
        })
        .collect();
    let row = |operation: &str, target: &str, service: &str| {
        let [operation, target, service] = [operation, target, service].map(str::to_owned);
        (operation, target, format!("{service}:5353"))
    };
    let probe = row("PTR", "_txray._tcp.local", "224.0.0.251");
    let told = row("announcement", "_txray._tcp.local", "127.0.0.1");
    let asked = row("SRV", "two._txray._tcp.local", "224.0.0.251");
    let expected =
        [&probe, &probe, &probe, &told, &told, &told, &asked, &asked, &asked, &told].map(Clone::clone);
    assert_eq!(rows, expected);
    assert_eq!(read.lost, LostRequests::default());
    check_sum(&read);
}

/// Of 110 bytes of a packet some questions are whole, most answers are not, and no fragment is.
#[test]
fn what_was_captured_in_part_is_counted() {
    let read = open(&["dns-110.pcap"]);
    check_sum(&read);
    assert!(counter(&read, "capture.udp_cut") > 0 && counter(&read, "lost.capture_fragments") == 4);
    let known = read.transactions.len() as u64;
    assert!(known + read.lost.low <= 15 && 15 <= known + read.lost.high, "{known} {:?}", read.lost);
    assert!(read.transactions.iter().any(|row| row.end == End::Answered));
    let doubtful = |end| !matches!(end, End::Answered | End::Closed);
    assert!(read.transactions.iter().any(|row| doubtful(row.end)), "an answer that was cut is none");
}

/// A message: id, name, whether it answers.
fn message(id: u16, name: &str, answers: bool) -> Vec<u8> {
    let mut bytes = id.to_be_bytes().to_vec();
    bytes.extend([if answers { 0x81 } else { 1 }, 0, 0, 1, 0, 0, 0, 0, 0, 0, name.len() as u8]);
    bytes.extend_from_slice(name.as_bytes());
    bytes.extend([0, 0, 1, 0, 1]);
    bytes
}

type End4 = ([u8; 4], u16);

/// A packet of IPv4 with this identification.
fn udp(from: End4, to: End4, id: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    PacketBuilder::ipv4(from.0, to.0, 64).udp(from.1, to.1).write(&mut bytes, payload).unwrap();
    bytes[4..6].copy_from_slice(&id.to_be_bytes());
    bytes
}

fn of(packets: &[(u64, Vec<u8>)]) -> Read {
    let packets: Packets = packets.iter().map(|(ms, ip)| (START_NS + ms * MS, ip.clone())).collect();
    let read = read(Form::LittleNs.write(276, &frames(&packets, Link::Sll2))).unwrap();
    check_sum(&read);
    read
}

/// Transactions: name, end, milliseconds.
fn short(read: &Read) -> Vec<(String, End, i64)> {
    let text = |target: Option<&[u8]>| String::from_utf8_lossy(target.unwrap_or_default()).into_owned();
    read.transactions
        .iter()
        .map(|row| (text(row.target.as_deref()), row.end, row.duration_ns / MS as i64))
        .collect()
}

#[test]
fn a_question_that_is_asked_again_is_no_copy() {
    let (ask, answer) = (message(7, "a", false), message(7, "a", true));
    for id in [100, 0] {
        // 0 is no identification: the same bytes again, at the same place, were sent again.
        let again = if id == 0 { 0 } else { id + 1 };
        let read = of(&[
            (0, udp(CLIENT, SERVER, id, &ask)),
            (30, udp(CLIENT, SERVER, again, &ask)),
            (50, udp(SERVER, CLIENT, 9, &answer)),
        ]);
        let rows = short(&read);
        assert_eq!(rows.iter().filter(|row| row.1 == End::Answered).count(), 1, "{rows:?}");
        assert_eq!((rows.len(), counter(&read, "capture.udp_repeated")), (2, 0), "{rows:?}");
    }
    // The same identification twice is one datagram, wherever it was seen.
    let read = of(&[
        (0, udp(CLIENT, SERVER, 100, &ask)),
        (1, udp(CLIENT, SERVER, 100, &ask)),
        (5, udp(SERVER, CLIENT, 9, &answer)),
    ]);
    assert_eq!(short(&read), [("a".to_owned(), End::Answered, 5)]);
    assert_eq!(counter(&read, "capture.udp_repeated"), 1);
    // Behind the time in which copies come it is used again.
    let read = of(&[(0, udp(CLIENT, SERVER, 100, &ask)), (150, udp(CLIENT, SERVER, 100, &ask))]);
    assert_eq!((short(&read).len(), counter(&read, "capture.udp_repeated")), (2, 0));
}

/// Without an identification each place that saw them all tells how many there were.
#[test]
fn without_an_identification_the_place_tells_copies() {
    let dir = tempfile::TempDir::new().unwrap();
    let (ask, answer) = (message(7, "a", false), message(7, "a", true));
    let write = |name: &str, late: u64| {
        let packets: Packets =
            [(0, &ask, true), (30, &ask, true), (50, &answer, false), (52, &answer, false)]
                .into_iter()
                .map(|(ms, bytes, asks)| {
                    let ip = if asks { udp(CLIENT, SERVER, 0, bytes) } else { udp(SERVER, CLIENT, 0, bytes) };
                    (START_NS + ms * MS + late, ip)
                })
                .collect();
        let path = dir.path().join(name);
        fs::write(&path, Form::LittleNs.write(1, &frames(&packets, Link::Ethernet))).unwrap();
        path
    };
    let paths = [write("one", 0), write("two", 20 * MS), write("three", 300_000)];
    let read = super::run(PcapSource::open(&paths).unwrap());
    check_sum(&read);
    let answered = ("a".to_owned(), End::Answered);
    let rows: Vec<_> = short(&read).into_iter().map(|(name, end, _)| (name, end)).collect();
    assert_eq!(rows, [answered.clone(), answered]);
    assert_eq!((counter(&read, "capture.udp"), counter(&read, "capture.udp_repeated")), (12, 8));
}

#[test]
fn who_serves_is_what_the_messages_say() {
    // Two resolvers that ask each other from port 53.
    let (one, other) = (([10, 0, 0, 1], 53), ([10, 0, 0, 2], 53));
    let read = of(&[
        (0, udp(one, other, 1, &message(1, "a", false))),
        (1, udp(other, one, 2, &message(2, "b", false))),
        (2, udp(other, one, 3, &message(1, "a", true))),
        (4, udp(one, other, 4, &message(2, "b", true))),
    ]);
    assert_eq!(short(&read), [("a".to_owned(), End::Answered, 2), ("b".to_owned(), End::Answered, 3)]);
    let services: Vec<&str> = read.transactions.iter().map(|row| &*row.service).collect();
    assert_eq!(services, ["10.0.0.2:53", "10.0.0.1:53"]);
}

/// Packets of several queues stand in a capture in another order than they were stamped in.
#[test]
fn an_answer_that_stands_before_its_question_is_its_answer() {
    let read = of(&[
        (0, udp(CLIENT, SERVER, 1, &message(1, "a", false))),
        (5, udp(SERVER, CLIENT, 2, &message(2, "b", true))),
        (3, udp(CLIENT, SERVER, 3, &message(2, "b", false))),
        (6, udp(SERVER, CLIENT, 4, &message(1, "a", true))),
    ]);
    assert_eq!(short(&read), [("b".to_owned(), End::Answered, 2), ("a".to_owned(), End::Answered, 6)]);
    assert_eq!(read.lost, LostRequests::default());
}

#[test]
fn who_has_the_name_answers_for_the_group() {
    let group = ([224, 0, 0, 252], 5355);
    let asker = ([10, 0, 0, 1], 50_001);
    let mut answer = message(1, "printer", true);
    answer[2] = 0x80;
    let ask = |id, name| {
        let mut ask = message(id, name, false);
        ask[2] = 0;
        udp(asker, group, id, &ask)
    };
    let read = of(&[
        (0, ask(1, "printer")),
        (3, udp(([10, 0, 0, 9], 5355), asker, 7, &answer)),
        (10, ask(2, "nobody")),
    ]);
    let rows = short(&read);
    assert_eq!(rows[0], ("printer".to_owned(), End::Answered, 3));
    assert_eq!((rows.len(), rows[1].1 == End::Answered), (2, false), "{rows:?}");
    assert!(
        read.transactions.iter().all(|row| row.protocol == "llmnr" && &*row.service == "224.0.0.252:5355")
    );
}

#[test]
fn lengths_and_ports_that_lie_are_counted_and_mislead_nobody() {
    let ask = message(7, "a", false);
    let with_length = |length: u16| {
        let mut packet = udp(CLIENT, SERVER, 1, &ask);
        packet[24..26].copy_from_slice(&length.to_be_bytes());
        packet
    };
    let whole = ask.len() as u16 + 8;
    for length in [0, 1, 7, whole + 1, u16::MAX] {
        let read = of(&[(0, with_length(length))]);
        assert_eq!((counter(&read, "capture.udp_bad_length"), read.transactions.len()), (1, 0), "{length}");
        assert!(read.report.line().contains("1 of UDP with impossible lengths"), "{}", read.report.line());
    }
    // It holds less than the packet: what is behind is nobody's.
    let read = of(&[(0, with_length(8))]);
    assert_eq!((counter(&read, "capture.udp_datagrams"), read.transactions.len()), (1, 0));
    let read = of(&[(0, with_length(whole))]);
    assert_eq!(read.transactions.len(), 1);
    // A port 0 is none that could be answered to; what was sent was sent.
    let read = of(&[(0, udp((CLIENT.0, 0), SERVER, 1, &ask)), (1, udp(CLIENT, (SERVER.0, 0), 2, &ask))]);
    assert_eq!((read.transactions.len(), counter(&read, "capture.udp_not_looked_at")), (1, 1));
    // A header that is not there.
    let mut cut = udp(CLIENT, SERVER, 1, &ask);
    cut.truncate(27);
    let read = of(&[(0, cut)]);
    assert_eq!((counter(&read, "lost.capture_headers_cut"), counter(&read, "capture.udp")), (1, 0));
}

/// The same question inside and outside of a tunnel.
#[test]
fn a_datagram_in_a_tunnel_is_what_it_is_outside() {
    let (ask, answer) =
        (udp(CLIENT, SERVER, 0, &message(7, "a", false)), udp(SERVER, CLIENT, 0, &message(7, "a", true)));
    let in_vxlan = |inner: &[u8]| {
        let frame = [&[8, 0, 0, 0, 0, 0, 5, 0], &Link::Ethernet.frame(inner)[..]].concat();
        udp(([172, 16, 0, 1], 50_000), ([172, 16, 0, 2], 4789), 0, &frame)
    };
    let read = of(&[(0, ask.clone()), (1, in_vxlan(&ask)), (2, in_vxlan(&answer)), (3, answer)]);
    assert_eq!(short(&read), [("a".to_owned(), End::Answered, 2)]);
    assert_eq!((counter(&read, "capture.tunnelled"), counter(&read, "capture.udp_repeated")), (2, 2));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn each_packet_of_udp_is_counted_once_whatever_it_says(
        packets in proptest::collection::vec(
            (0..3_u64, prop::sample::select(vec![0_u16, 53, 5353, 5355, 4789, 40_000]), prop::sample::select(vec![0_u16, 53, 5353, 5355, 80]),
             0..3_u16, prop::option::weighted(0.3, any::<u16>()), 0..60_usize, prop::option::weighted(0.3, proptest::collection::vec(any::<u8>(), 0..40))),
            1..40,
        ),
    ) {
        let mut now = 0;
        let packets: Vec<(u64, Vec<u8>)> = packets
            .into_iter()
            .map(|(later, from, to, id, length, keep, bytes)| {
                now += later * 20;
                let payload = bytes.unwrap_or_else(|| message(id, "name", from == 53));
                let mut packet = udp((CLIENT.0, from), (SERVER.0, to), id, &payload);
                if let Some(length) = length {
                    packet[24..26].copy_from_slice(&length.to_be_bytes());
                }
                if keep > 40 {
                    packet.truncate(keep);
                }
                (now, packet)
            })
            .collect();
        // It checks the sum.
        of(&packets);
    }
}

#[test]
fn ports_are_named_and_protocols_chosen_as_when_tracing() {
    let dir = tempfile::TempDir::new().unwrap();
    let file = dir.path().join("odd.pcap");
    let server = (SERVER.0, 5300);
    let packets: Packets = vec![
        (START_NS, udp(CLIENT, server, 1, &message(7, "a", false))),
        (START_NS + MS, udp(server, CLIENT, 2, &message(7, "a", true))),
        (START_NS + 2 * MS, udp(CLIENT, SERVER, 3, &message(8, "b", false))),
        (START_NS + 3 * MS, udp(SERVER, CLIENT, 4, &message(8, "b", true))),
    ];
    fs::write(&file, Form::LittleNs.write(1, &frames(&packets, Link::Ethernet))).unwrap();
    let file = file.to_str().unwrap();
    let cases: [(&[&str], &[&str], &str); 3] = [
        (&[], &["10.0.0.2:53"], "4 of UDP, 2 of UDP on other ports, not looked at"),
        (&["--udp-port", "5300"], &["10.0.0.2:5300", "10.0.0.2:53"], "4 packets, 0 of TCP, 4 of UDP\n"),
        (&["--protocol", "http1", "--udp-port", "5300"], &[], "4 of UDP on other ports"),
    ];
    for (at, (flags, services, said)) in cases.into_iter().enumerate() {
        let out = dir.path().join(format!("rec{at}"));
        let out = out.to_str().unwrap();
        let direct = txray(&[&["replay", file, "--json"], flags].concat(), None);
        let rows: Vec<serde_json::Value> =
            text(&direct.stdout).lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let rows: Vec<_> = rows.iter().filter_map(|row| row["service"].as_str()).collect();
        assert_eq!(rows, services, "{flags:?}");
        assert!(text(&direct.stderr).contains(said), "{flags:?}: {}", text(&direct.stderr));
        let recorded = txray(&[&["record", "--from", file, "--out", out, "--json"], flags].concat(), None);
        assert_eq!(recorded.status.code(), Some(0), "{}", text(&recorded.stderr));
        let again = txray(&["replay", out, "--json"], None);
        assert_eq!(text(&again.stdout), text(&direct.stdout), "{flags:?}");
        // A state is that of all protocols.
        if !flags.contains(&"--protocol") {
            let at = (START_NS + 3 * MS).to_string();
            let state = txray(&[&["snapshot", file, "--at", &at, "--json"], flags].concat(), None);
            assert_eq!(state.status.code(), Some(0), "{}", text(&state.stderr));
            let state: serde_json::Value = serde_json::from_slice(&state.stdout).unwrap();
            let named: BTreeSet<&str> = state["operations"]
                .as_array()
                .unwrap()
                .iter()
                .filter_map(|row| row["service"].as_str())
                .collect();
            assert_eq!(named, services.iter().copied().collect(), "{flags:?}: {state}");
        }
    }
}
