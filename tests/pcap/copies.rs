//! Packets that are seen in more than one place: inside and outside of a tunnel, on both ends of a veth pair, on a bridge.

use std::fs;

use rstest::rstest;
use tracer_user::{pipeline::LostRequests, source::pcap::PcapSource};

use super::{Read, access_log, fixture, run};

#[track_caller]
pub(super) fn open(names: &[&str]) -> Read {
    let paths: Vec<_> = names.iter().map(|name| fixture(name)).collect();
    run(PcapSource::open(&paths).unwrap())
}

#[track_caller]
pub(super) fn counter(read: &Read, name: &str) -> u64 {
    let last = read.events.iter().rev().find_map(|event| match event {
        tracer_user::event::Event::Counters(counters) => Some(counters),
        _ => None,
    });
    last.unwrap().values.iter().find(|(known, _)| **known == *name).unwrap().1
}

#[rstest]
fn what_a_tunnel_carries_is_what_is_traced(
    #[values(
        "gre",
        "gre-key-number-checksum",
        "gretap",
        "erspan1",
        "erspan2",
        "erspan3",
        "vxlan",
        "vxlan-policy",
        "vxlan-fragments",
        "geneve",
        "geneve-ip",
        "ip-in-ipv4",
        "ip-in-ipv6",
        "mpls",
        "mpls-wire",
        "qinq-in-vxlan",
        "gre-in-geneve-in-ipv6"
    )]
    name: &str,
) {
    let read = open(&[&format!("tunnels/{name}.pcap.gz")]);
    assert_eq!(access_log(&read), fs::read_to_string(fixture("nginx.csv")).unwrap());
    assert_eq!((read.lost, read.report.fault()), (LostRequests::default(), None));
    let services: Vec<&str> = read.transactions.iter().map(|transaction| &*transaction.service).collect();
    assert_eq!(services[2..4], ["127.0.0.1:18391", "[::1]:18391"], "the inner addresses");
    assert_eq!((counter(&read, "capture.tcp_segments"), counter(&read, "capture.tunnelled")), (44, 44));
    assert_eq!(counter(&read, "capture.tcp_repeated"), 0);
    assert!(read.report.line().contains(", 44 out of tunnels"), "{}", read.report.line());
}

#[test]
fn tags_of_networks_are_no_tunnel() {
    let read = open(&["tunnels/qinq.pcap.gz"]);
    assert_eq!(access_log(&read), fs::read_to_string(fixture("nginx.csv")).unwrap());
    assert_eq!(counter(&read, "capture.tunnelled"), 0);
}

#[test]
fn tunnels_within_each_other_are_read_to_a_bound_and_counted_beyond() {
    let read = open(&["tunnels/five-deep.pcap.gz"]);
    assert_eq!(read.transactions.len(), 0);
    assert_eq!((counter(&read, "lost.capture_too_deep"), counter(&read, "capture.tcp_segments")), (44, 0));
    assert!(read.report.line().contains("44 within too many tunnels"), "{}", read.report.line());
}

#[test]
fn a_packet_seen_inside_and_outside_of_a_tunnel_counts_once() {
    let inside = open(&["nginx.pcap"]);
    for name in ["gre", "vxlan", "vxlan-fragments", "mpls", "qinq"] {
        let outside = format!("tunnels/{name}.pcap.gz");
        for names in [["nginx.pcap", outside.as_str()], [outside.as_str(), "nginx.pcap"]] {
            let both = open(&names);
            assert_eq!(both.lines(), inside.lines(), "{names:?}");
            assert_eq!(both.lost, LostRequests::default(), "{names:?}");
            assert_eq!(counter(&both, "capture.tcp_segments"), 88);
        }
    }
    // Copies of fragments are no fragments that lack the rest.
    let twice = open(&["tunnels/vxlan-fragments.pcap.gz", "tunnels/vxlan-fragments.pcap.gz"]);
    assert_eq!(twice.lines(), inside.lines());
    assert_eq!(counter(&twice, "lost.capture_fragments"), 0);
}

/// Packets of curl and nginx in network namespaces, seen on several interfaces of one host and of both.
#[rstest]
#[case::in_the_tunnel(&["lower"])]
#[case::behind_the_bridge(&["upper"])]
#[case::on_the_bridge_and_both_sides_of_it(&["any"])]
#[case::on_the_clients_host(&["client-any"])]
#[case::everywhere(&["any", "client-any", "lower", "upper"])]
fn a_real_tunnel_and_bridge_give_the_servers_log_once(#[case] names: &[&str]) {
    let names: Vec<String> = names.iter().map(|name| format!("real-vxlan-{name}.pcap.gz")).collect();
    let read = open(&names.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(access_log(&read), fs::read_to_string(fixture("real-vxlan.csv")).unwrap());
    assert_eq!((read.lost, read.report.fault()), (LostRequests::default(), None));
    assert!(read.transactions.iter().all(|transaction| *transaction.service == *"10.9.0.2:80"));
    let n_conns = read.events.iter().filter(|event| matches!(event, tracer_user::event::Event::ConnOpen(_)));
    assert_eq!(n_conns.count(), 4, "{}", read.report.line());
}
