//! Packet captures: what real ones hold against the server's log, one conversation in every format there is, and files that are damaged.

mod copies;
mod datagrams;
mod many;
mod waiting;

use std::{
    fs,
    io::{Cursor, Write as _},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use etherparse::PacketBuilder;
use proptest::prelude::*;
use rstest::rstest;
use tracer_user::{
    event::{Event, EventBatch},
    metrics::Metrics,
    pipeline::{LostRequests, NullVerdicts, Pipeline, PipelineConfig},
    sink::jsonl::write_transaction,
    source::{
        Source as _,
        pcap::{CaptureError, PcapSource, Report},
    },
    transaction::{Confidence, TimeBasis, Transaction},
};

const START_NS: u64 = 1_790_000_000_000_000_000;
const CLIENT: u16 = 40_000;
const SERVER: u16 = 8_080;

fn fixture(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/captures")).join(name)
}

/// What a capture gives.
struct Read {
    transactions: Vec<Transaction>,
    lost: LostRequests,
    events: Vec<Event>,
    report: Report,
}

impl Read {
    fn lines(&self) -> Vec<String> {
        let line = |transaction: &Transaction| {
            let mut line = Vec::new();
            write_transaction(&mut line, transaction);
            String::from_utf8(line).unwrap()
        };
        self.transactions.iter().map(line).collect()
    }
}

fn read(bytes: Vec<u8>) -> Result<Read, CaptureError> {
    Ok(run(PcapSource::new("test", Cursor::new(bytes))?))
}

fn run(mut source: PcapSource) -> Read {
    let report = source.report();
    let mut pipeline = Pipeline::new(PipelineConfig::default(), Metrics::default(), Box::new(NullVerdicts));
    let (mut transactions, mut events) = (Vec::new(), Vec::new());
    while let Some(EventBatch { first_ordinal, events: more }) = source.next_batch().unwrap() {
        assert_eq!(first_ordinal, events.len() as u64);
        for event in &more {
            pipeline.push(event);
        }
        transactions.extend(pipeline.drain().transactions);
        events.extend(more);
    }
    transactions.extend(pipeline.finish().transactions);
    Read { transactions, lost: pipeline.snapshot().lost_requests, events, report }
}

/// What the access log of nginx says of each transaction, all of which were seen whole.
#[track_caller]
fn access_log(read: &Read) -> String {
    let rows = read.transactions.iter().map(|transaction| {
        assert_eq!(
            (transaction.confidence, transaction.time_basis),
            (Confidence::Complete, TimeBasis::Packet)
        );
        assert!(transaction.duration_ns > 0 && transaction.queue_ns.is_none());
        let (method, _) = transaction.operation.split_once(' ').unwrap();
        format!(
            "{},{},{},{method},{}\n",
            transaction.status_code.unwrap(),
            transaction.response_bytes,
            transaction.request_bytes,
            String::from_utf8_lossy(transaction.target.as_deref().unwrap()),
        )
    });
    rows.collect()
}

fn txray(args: &[&str], input: Option<&Path>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_txray"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("TXRAY_")) {
        command.env_remove(name);
    }
    command.env("XDG_CONFIG_HOME", "/nonexistent").args(args);
    command.stdin(input.map_or_else(Stdio::null, |path| fs::File::open(path).unwrap().into()));
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[rstest]
fn a_real_capture_gives_the_servers_log(
    #[values("nginx.pcap", "nginx-any-ns.pcap", "nginx.pcapng", "nginx-330-ns.pcap")] name: &str,
) {
    let read = read(fs::read(fixture(name)).unwrap()).unwrap();
    assert_eq!(access_log(&read), fs::read_to_string(fixture("nginx.csv")).unwrap());
    assert_eq!((read.lost, read.report.fault()), (LostRequests::default(), None));
    let services: Vec<&str> = read.transactions.iter().map(|transaction| &*transaction.service).collect();
    assert_eq!(services[2..4], ["127.0.0.1:18391", "[::1]:18391"]);
}

// One conversation in all formats.

/// IP packets with their times.
type Packets = Vec<(u64, Vec<u8>)>;

/// Writes one connection's packets.
struct Wire {
    is_v6: bool,
    next: [u32; 2],
    time: u64,
    packets: Packets,
}

impl Wire {
    fn new(is_v6: bool) -> Wire {
        // The server's numbers wrap.
        Wire { is_v6, next: [1_000, u32::MAX - 50], time: START_NS, packets: Vec::new() }
    }

    fn packet(&self, from: usize, flags: &str, payload: &[u8]) -> Vec<u8> {
        let ports = [CLIENT, SERVER];
        let mut bytes = Vec::new();
        let (source, destination) = (ports[from], ports[1 - from]);
        macro_rules! tcp {
            ($ip:expr) => {{
                let mut tcp = $ip.tcp(source, destination, self.next[from], 60_000);
                if flags.contains('S') {
                    tcp = tcp.syn();
                }
                if flags.contains('F') {
                    tcp = tcp.fin();
                }
                if flags.contains('.') {
                    tcp = tcp.ack(self.next[1 - from]);
                }
                // Options of the length that Linux sends.
                tcp = tcp.options_raw(&[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]).unwrap();
                tcp.write(&mut bytes, payload).unwrap();
            }};
        }
        if self.is_v6 {
            let address = |n: usize| [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, n as u8];
            tcp!(PacketBuilder::ipv6(address(from), address(1 - from), 64));
        } else {
            tcp!(PacketBuilder::ipv4([10, 0, 0, from as u8], [10, 0, 0, 1 - from as u8], 64));
        }
        bytes
    }

    fn push(&mut self, from: usize, flags: &str, payload: &[u8]) {
        let packet = self.packet(from, flags, payload);
        self.packets.push((self.time, packet));
        self.time += 250_000;
        let more = payload.len() as u32 + u32::from(flags.contains(['S', 'F']));
        self.next[from] = self.next[from].wrapping_add(more);
    }

    /// Three requests, the second with a body in two packets, the third answered in two.
    fn conversation(mut self) -> Packets {
        self.push(0, "S", b"");
        self.push(1, "S.", b"");
        self.push(0, ".", b"");
        for n in 0..3 {
            let head =
                format!("POST /item/{n}?q=1 HTTP/1.1\r\nHost: shop\r\nContent-Length: {}\r\n\r\n", n * 5);
            self.push(0, ".", head.as_bytes());
            if n > 0 {
                self.push(0, ".", &vec![b'b'; n * 5]);
            }
            self.push(1, ".", format!("HTTP/1.1 20{n} OK\r\nContent-Length: {}\r\n\r\n", n * 600).as_bytes());
            if n > 0 {
                self.push(1, ".", &vec![b'a'; n * 600]);
            }
        }
        for from in [0, 1] {
            self.push(from, "F.", b"");
        }
        self.push(0, ".", b"");
        self.packets
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Link {
    Ethernet,
    Vlan,
    QinQ,
    Snap,
    Raw,
    Version,
    Null,
    NullBig,
    Loop,
    Sll,
    Sll2,
}

impl Link {
    const ALL: [Link; 11] = [
        Link::Ethernet,
        Link::Vlan,
        Link::QinQ,
        Link::Snap,
        Link::Raw,
        Link::Version,
        Link::Null,
        Link::NullBig,
        Link::Loop,
        Link::Sll,
        Link::Sll2,
    ];

    fn number(self, is_v6: bool) -> u32 {
        match self {
            Link::Ethernet | Link::Vlan | Link::QinQ | Link::Snap => 1,
            Link::Raw => 101,
            Link::Version => 228 + u32::from(is_v6),
            Link::Null | Link::NullBig => 0,
            Link::Loop => 108,
            Link::Sll => 113,
            Link::Sll2 => 276,
        }
    }

    fn frame(self, ip: &[u8]) -> Vec<u8> {
        let is_v6 = ip[0] >> 4 == 6;
        let ether_type: [u8; 2] = if is_v6 { [0x86, 0xdd] } else { [8, 0] };
        let family: u32 = if is_v6 { 30 } else { 2 };
        let mut frame = match self {
            Link::Ethernet => [&[2; 12][..], &ether_type].concat(),
            Link::Vlan => [&[2; 12][..], &[0x81, 0, 0, 7], &ether_type].concat(),
            Link::QinQ => [&[2; 12][..], &[0x88, 0xa8, 0, 9, 0x81, 0, 0, 7], &ether_type].concat(),
            Link::Snap => {
                [&[2; 12][..], &(ip.len() as u16 + 8).to_be_bytes(), &[0xaa, 0xaa, 3, 0, 0, 0], &ether_type]
                    .concat()
            }
            Link::Raw | Link::Version => Vec::new(),
            Link::Null => family.to_le_bytes().to_vec(),
            Link::NullBig | Link::Loop => family.to_be_bytes().to_vec(),
            Link::Sll => [&[0, 0, 0, 1, 0, 6, 1, 2, 3, 4, 5, 6, 0, 0][..], &ether_type].concat(),
            Link::Sll2 => [&ether_type[..], &[0, 0, 0, 0, 0, 1, 0, 1, 0, 6, 1, 2, 3, 4, 5, 6, 0, 0]].concat(),
        };
        frame.extend_from_slice(ip);
        if self == Link::Ethernet {
            // As short frames are filled up.
            frame.resize(frame.len().max(60), 0);
        }
        frame
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Form {
    Little,
    Big,
    LittleNs,
    BigNs,
    Patched,
    NgLittle,
    NgBig,
    /// Two interfaces, one of them with ticks of 2⁻³⁰ s; then another section, with an offset of seconds.
    NgMany,
    NgOld,
    Gzip,
    Zstd,
}

impl Form {
    const ALL: [Form; 11] = [
        Form::Little,
        Form::Big,
        Form::LittleNs,
        Form::BigNs,
        Form::Patched,
        Form::NgLittle,
        Form::NgBig,
        Form::NgMany,
        Form::NgOld,
        Form::Gzip,
        Form::Zstd,
    ];

    fn write(self, link: u32, frames: &[(u64, Vec<u8>)]) -> Vec<u8> {
        match self {
            Form::Little => pcap(frames, link, false, false, None),
            Form::Big => pcap(frames, link, true, false, None),
            Form::LittleNs => pcap(frames, link, false, true, None),
            Form::BigNs => pcap(frames, link, true, true, None),
            Form::Patched => pcap(frames, link, false, false, Some(&[0; 8])),
            Form::NgLittle => pcapng(frames, link, false, self),
            Form::NgBig => pcapng(frames, link, true, self),
            Form::NgMany | Form::NgOld => pcapng(frames, link, false, self),
            Form::Gzip => {
                let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                packed.write_all(&Form::Little.write(link, frames)).unwrap();
                packed.finish().unwrap()
            }
            Form::Zstd => zstd::stream::encode_all(&Form::NgLittle.write(link, frames)[..], 1).unwrap(),
        }
    }
}

fn number(value: u32, is_big: bool) -> [u8; 4] {
    if is_big { value.to_be_bytes() } else { value.to_le_bytes() }
}

fn half(value: u16, is_big: bool) -> [u8; 2] {
    if is_big { value.to_be_bytes() } else { value.to_le_bytes() }
}

fn pcap(frames: &[(u64, Vec<u8>)], link: u32, is_big: bool, is_ns: bool, more: Option<&[u8]>) -> Vec<u8> {
    let n = |value: u32| number(value, is_big);
    let magic = match (is_ns, more) {
        (_, Some(_)) => 0xa1b2_cd34,
        (true, _) => 0xa1b2_3c4d,
        _ => 0xa1b2_c3d4,
    };
    let mut bytes = [n(magic), [half(2, is_big), half(4, is_big)].concat().try_into().unwrap()].concat();
    bytes.extend([n(0), n(0), n(65_535), n(link)].concat());
    for (time, frame) in frames {
        let parts = time % 1_000_000_000 / if is_ns { 1 } else { 1_000 };
        let length = frame.len() as u32;
        bytes.extend([n((time / 1_000_000_000) as u32), n(parts as u32), n(length), n(length)].concat());
        bytes.extend_from_slice(more.unwrap_or_default());
        bytes.extend_from_slice(frame);
    }
    bytes
}

fn pcapng(frames: &[(u64, Vec<u8>)], link: u32, is_big: bool, form: Form) -> Vec<u8> {
    let n = |value: u32| number(value, is_big);
    let h = |value: u16| half(value, is_big);
    let block = |kind: u32, body: &[u8]| {
        let mut body = body.to_vec();
        body.resize(body.len().next_multiple_of(4), 0);
        let length = n(body.len() as u32 + 12);
        [&n(kind)[..], &length, &body, &length].concat()
    };
    let section = || {
        let magic = n(0x1a2b_3c4d);
        block(0x0a0d_0d0a, &[&magic[..], &h(1), &h(0), &[0xff; 8]].concat())
    };
    let option = |code: u16, value: &[u8]| {
        let mut padded = value.to_vec();
        padded.resize(value.len().next_multiple_of(4), 0);
        [&h(code)[..], &h(value.len() as u16), &padded].concat()
    };
    let interface = |options: &[u8]| block(1, &[&h(link as u16)[..], &h(0), &n(0), options].concat());
    let name = option(2, b"eth0");
    let mut bytes = section();
    // Names of hosts, and a kind of block that nobody knows.
    bytes.extend(block(4, &[&h(0)[..], &h(0)].concat()));
    bytes.extend(block(0x7777, b"odd"));
    // Ticks of nanoseconds, and of 2⁻³⁰ s.
    bytes.extend(interface(&[&name[..], &option(9, &[9]), &option(0, &[])].concat()));
    bytes.extend(interface(&[option(9, &[0x80 | 30]), option(0, &[])].concat()));
    let mut is_second = false;
    for (at, (time, frame)) in frames.iter().enumerate() {
        let is_many = form == Form::NgMany;
        if is_many && at == frames.len() / 2 {
            is_second = true;
            bytes.extend(block(
                5,
                &[&n(0)[..], &n(0), &n(0), &option(5, &7_u64.to_le_bytes()), &option(0, &[])].concat(),
            ));
            bytes.extend(section());
            let offset = 1_000_000_i64.to_le_bytes();
            bytes.extend(interface(&[option(14, &offset), option(0, &[])].concat()));
        }
        let (id, ticks) = match (is_many, is_second) {
            (true, true) => (0, (time - 1_000_000_000_000_000) / 1_000),
            // Rounded up: the time is a whole number of microseconds.
            (true, false) if at % 2 == 1 => (1, ((u128::from(*time) << 30).div_ceil(1_000_000_000)) as u64),
            _ => (0, *time),
        };
        let length = frame.len() as u32;
        let times = [n((ticks >> 32) as u32), n(ticks as u32), n(length), n(length)].concat();
        bytes.extend(match form {
            Form::NgOld => block(2, &[&h(id as u16)[..], &h(0), &times, frame].concat()),
            _ => block(6, &[&n(id)[..], &times, frame].concat()),
        });
    }
    bytes
}

fn frames(packets: &Packets, link: Link) -> Packets {
    packets.iter().map(|(time, ip)| (*time, link.frame(ip))).collect()
}

#[track_caller]
fn check(bytes: Vec<u8>, want: &[String], what: &str) -> Read {
    let read = read(bytes).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(read.report.fault(), None, "{what}");
    assert_eq!(read.lost, LostRequests::default(), "{what}");
    let lines = read.lines();
    assert_eq!(lines.len(), want.len(), "{what}");
    for (line, want) in lines.iter().zip(want) {
        assert_eq!(line, want, "{what}");
    }
    read
}

#[rstest]
fn one_conversation_is_the_same_in_every_format(#[values(false, true)] is_v6: bool) {
    let packets = Wire::new(is_v6).conversation();
    let file = |form: Form, link: Link| form.write(link.number(is_v6), &frames(&packets, link));
    let read = read(file(Form::Little, Link::Ethernet)).unwrap();
    let rows: Vec<_> = read
        .transactions
        .iter()
        .map(|row| (&*row.operation, row.status_code, row.request_bytes, row.response_bytes, row.duration_ns))
        .collect();
    assert_eq!(rows.len(), 3);
    for (n, row) in rows.iter().enumerate() {
        assert_eq!((row.0, row.1), ("POST /item/{id}", Some(200 + n as i32)));
    }
    assert_eq!(rows[0].4, 250_000);
    assert_eq!(rows[2].4, 750_000, "first packet of the request to the last of the response");
    let service = if is_v6 { "[2001:db8::1]:8080" } else { "10.0.0.1:8080" };
    assert!(read.transactions.iter().all(|row| *row.service == *service && row.client_port == Some(CLIENT)));
    let want = read.lines();
    for link in Link::ALL {
        check(file(Form::LittleNs, link), &want, &format!("{link:?}"));
    }
    for form in Form::ALL {
        let read = check(file(form, Link::Ethernet), &want, &format!("{form:?}"));
        let dropped = read.report.line().contains("7 dropped");
        assert_eq!(dropped, form == Form::NgMany, "{}", read.report.line());
    }
}

/// Puts extension headers before TCP.
fn extended(ip: &[u8]) -> Vec<u8> {
    let hop_by_hop = [60, 0, 1, 4, 0, 0, 0, 0];
    let destination = [6, 0, 1, 4, 0, 0, 0, 0];
    let mut bytes = [&ip[..40], &hop_by_hop, &destination, &ip[40..]].concat();
    bytes[6] = 0;
    let length = (bytes.len() - 40) as u16;
    bytes[4..6].copy_from_slice(&length.to_be_bytes());
    bytes
}

/// Cuts an IP packet into fragments of 64 bytes, the last first.
fn fragmented(ip: &[u8], id: u16) -> Vec<Vec<u8>> {
    let is_v6 = ip[0] >> 4 == 6;
    let (header, payload) = ip.split_at(if is_v6 { 40 } else { 20 });
    let n = payload.len().div_ceil(64);
    let fragments = payload.chunks(64).enumerate().map(|(at, chunk)| {
        let (more, offset) = (at + 1 < n, (at * 8) as u16);
        let mut bytes = header.to_vec();
        if is_v6 {
            let place = offset << 3 | u16::from(more);
            bytes.extend([&[header[6], 0][..], &place.to_be_bytes(), &u32::from(id).to_be_bytes()].concat());
            bytes[6] = 44;
            bytes[4..6].copy_from_slice(&(chunk.len() as u16 + 8).to_be_bytes());
        } else {
            bytes[2..4].copy_from_slice(&(chunk.len() as u16 + 20).to_be_bytes());
            bytes[4..6].copy_from_slice(&id.to_be_bytes());
            bytes[6..8].copy_from_slice(&(offset | u16::from(more) << 13).to_be_bytes());
        }
        bytes.extend_from_slice(chunk);
        bytes
    });
    fragments.rev().collect()
}

#[rstest]
fn extension_headers_and_fragments_change_nothing(#[values(false, true)] is_v6: bool) {
    let packets = Wire::new(is_v6).conversation();
    let file = |packets: &Packets| Form::LittleNs.write(1, &frames(packets, Link::Ethernet));
    let want = read(file(&packets)).unwrap().lines();
    if is_v6 {
        let packets = packets.iter().map(|(time, ip)| (*time, extended(ip))).collect();
        check(file(&packets), &want, "extension headers");
    }
    let mut cut: Packets = Vec::new();
    for (id, (time, ip)) in packets.iter().enumerate() {
        cut.extend(fragmented(ip, id as u16).into_iter().map(|fragment| (*time, fragment)));
    }
    assert!(cut.len() > packets.len() + 10);
    check(file(&cut), &want, "fragments");
    // One fragment of a body is missing: that body has a gap, and the loss is counted.
    let at = cut.iter().rposition(|(_, ip)| ip.len() > 80).unwrap();
    cut.remove(at);
    let read = read(file(&cut)).unwrap();
    assert!(read.report.line().contains("fragments lost") && read.report.line().contains("1 gaps"));
    assert_eq!((read.transactions.len(), read.lost), (3, LostRequests::default()));
}

#[test]
fn packets_that_hold_no_tcp_are_counted_by_name() {
    let mut packets = frames(&Wire::new(false).conversation(), Link::Ethernet);
    let mut udp = Vec::new();
    PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).udp(123, 123).write(&mut udp, b"ntp").unwrap();
    let mut ping = Vec::new();
    PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
        .icmpv4_echo_request(1, 2)
        .write(&mut ping, b"")
        .unwrap();
    let arp = [&[2; 12][..], &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &[0; 20]].concat();
    let time = packets[0].0;
    packets.extend([
        (time, Link::Ethernet.frame(&udp)),
        (time, Link::Ethernet.frame(&ping)),
        (time, arp),
        (time, vec![1; 9]),
    ]);
    let read = read(Form::Little.write(1, &packets)).unwrap();
    assert_eq!(
        read.report.line(),
        "20 packets, 16 of TCP, 1 of UDP, 1 of UDP on other ports, not looked at, 1 of other protocols of IP, 1 not of IP, 1 with headers cut"
    );
    assert_eq!(read.transactions.len(), 3);
    let Some(Event::Counters(counters)) = read.events.last() else { panic!("the counters come last") };
    let udp = counters.values.iter().find(|(name, _)| **name == *"capture.udp_not_looked_at");
    assert_eq!(udp.map(|(_, n)| *n), Some(1));
}

#[test]
fn a_capture_that_lacks_packets_says_how_many_requests_may_be_lost() {
    let packets = Wire::new(false).conversation();
    // The second request's two packets, and its answer's.
    let thin: Packets = packets
        .iter()
        .enumerate()
        .filter(|(at, _)| !(5..9).contains(at))
        .map(|(_, packet)| packet.clone())
        .collect();
    let read = read(Form::Little.write(101, &thin)).unwrap();
    let rows: Vec<_> =
        read.transactions.iter().map(|row| (row.status_code, row.end.as_str(), row.confidence)).collect();
    assert_eq!(
        rows,
        [(Some(200), "answered", Confidence::Complete), (Some(202), "answered", Confidence::Complete)]
    );
    assert!(read.lost.low == 1 && read.lost.high >= 1, "{:?}", read.lost);
    assert_eq!(read.report.line().matches("2 gaps").count(), 1, "{}", read.report.line());
}

#[test]
fn what_is_no_capture_is_an_error_that_says_so() {
    let cases: [(&[u8], &str); 5] = [
        (b"", "it is empty"),
        (b"ab", "it has 2 bytes"),
        (b"hello world, this is text", "it begins with the bytes 68 65 6c 6c"),
        (&[0x1f, 0x8b, 9, 9, 9, 9, 9, 9, 9, 9, 9], "of what is compressed"),
        (&[0xd4, 0xc3, 0xb2, 0xa1, 2, 0], "it ends within its header"),
    ];
    for (bytes, reason) in cases {
        let error = read(bytes.to_vec()).err().unwrap().to_string();
        assert!(error.starts_with("test") && error.contains(reason), "{error}");
    }
    let error = read(pcap(&[], 127, false, false, None)).err().unwrap().to_string();
    assert!(error.contains("link type 127 (802.11 with radiotap) are not read"), "{error}");
    let packets = frames(&Wire::new(false).conversation(), Link::Raw);
    let read = read(pcapng(&packets, 189, false, Form::NgLittle)).unwrap();
    assert_eq!(read.report.fault().as_deref(), Some("16 packets of link type 189 (USB) were left out"));
}

/// Where each packet of a pcap file ends.
fn ends(packets: &Packets) -> Vec<usize> {
    let mut at = 24;
    packets
        .iter()
        .map(|(_, frame)| {
            at += 16 + frame.len();
            at
        })
        .collect()
}

#[test]
fn what_is_before_a_cut_is_kept_wherever_it_is() {
    let packets = frames(&Wire::new(false).conversation(), Link::Ethernet);
    let (whole, ends) = (Form::Little.write(1, &packets), ends(&packets));
    assert_eq!(ends.last(), Some(&whole.len()));
    let want = read(whole.clone()).unwrap().lines();
    for length in 24..whole.len() {
        let read = read(whole[..length].to_vec()).unwrap();
        let n = ends.iter().filter(|end| **end <= length).count();
        assert_eq!(read.report.packets(), n as u64);
        let is_between = length == 24 || ends.contains(&length);
        assert_eq!(read.report.fault().is_none(), is_between, "{length}: {:?}", read.report.fault());
        if let Some(fault) = read.report.fault() {
            let begin = ends.get(n.wrapping_sub(1)).copied().unwrap_or(24);
            assert!(fault.starts_with(&format!("test: at byte {begin}: it ends within")), "{fault}");
        }
        let finished: Vec<_> = read.transactions.iter().filter(|row| row.is_finished()).cloned().collect();
        for (row, want) in (Read { transactions: finished, ..read }).lines().iter().zip(&want) {
            assert_eq!(row, want, "{length}");
        }
    }
}

#[test]
fn compressed_captures_that_end_early_keep_what_came_before() {
    // More than a block of zstd, which comes out as one.
    let packets = frames(&Wire::new(false).conversation(), Link::Ethernet);
    let packets: Packets = packets.iter().cycle().take(1_600).cloned().collect();
    for form in [Form::Gzip, Form::Zstd] {
        let whole = form.write(1, &packets);
        let cut = read(whole[..whole.len() - 10].to_vec()).unwrap();
        let fault = cut.report.fault().unwrap();
        assert!(fault.contains("of what is compressed"), "{form:?}: {fault}");
        assert_eq!(cut.transactions.len(), 3, "{form:?}: {}", cut.report.packets());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_damage_keeps_the_packets_before_it(at in 24..4_000_usize, bytes in proptest::collection::vec(any::<u8>(), 1..30)) {
        let packets = frames(&Wire::new(false).conversation(), Link::Ethernet);
        let (mut file, ends) = (Form::Little.write(1, &packets), ends(&packets));
        let at = 24 + at % (file.len() - 24);
        let end = (at + bytes.len()).min(file.len());
        file[at..end].copy_from_slice(&bytes[..end - at]);
        let read = read(file).unwrap();
        let before = ends.iter().filter(|end| **end <= at).count();
        prop_assert!(read.report.packets() >= before as u64);
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(
        head in 0..9_usize,
        bytes in proptest::collection::vec(any::<u8>(), 0..400),
        frame in proptest::collection::vec(any::<u8>(), 0..120),
        link in 0..13_usize,
    ) {
        let packets = frames(&Wire::new(false).conversation(), Link::Ethernet);
        let form = [Form::Little, Form::BigNs, Form::NgLittle, Form::NgBig, Form::NgMany, Form::NgOld, Form::Patched, Form::Gzip, Form::Zstd][head];
        let whole = form.write(1, &packets);
        for keep in [0, 4, 24, whole.len() / 2] {
            let _ = read([&whole[..keep.min(whole.len())], &bytes].concat());
        }
        // And any bytes as a packet, of each link type.
        let link = [0, 1, 12, 14, 101, 108, 109, 113, 228, 229, 276, 1, 113][link];
        let _ = read(Form::Little.write(link, &[(START_NS, frame)]));
    }
}

// The commands.

#[test]
fn a_recording_of_a_capture_replays_to_the_same_bytes() {
    let dir = tempfile::TempDir::new().unwrap();
    let file = dir.path().join("many.pcap");
    let out = dir.path().join("rec");
    let packets = frames(&Wire::new(false).conversation(), Link::Sll);
    fs::write(&file, Form::LittleNs.write(113, &packets)).unwrap();
    for (file, n) in [(file.as_path(), 3), (fixture("nginx.pcapng").as_path(), 6)] {
        let (file, out) = (file.to_str().unwrap(), out.join(n.to_string()));
        let out = out.to_str().unwrap();
        let recorded = txray(&["record", "--from", file, "--out", out, "--json", "--summary", "json"], None);
        assert_eq!(recorded.status.code(), Some(0), "{}", text(&recorded.stderr));
        let args = |what| ["replay", what, "--json", "--summary", "json"];
        let (direct, again) = (txray(&args(file), None), txray(&args(out), None));
        assert_eq!(text(&direct.stdout).lines().count(), n + 1);
        let lines =
            |output: &Output| text(&output.stdout).lines().take(n).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(lines(&direct), lines(&recorded));
        assert_eq!(lines(&direct), lines(&again));
        let piped = txray(&args("-"), Some(Path::new(file)));
        assert_eq!(text(&piped.stdout), text(&direct.stdout));
        let summary = |output: &Output| -> serde_json::Value {
            serde_json::from_str(text(&output.stdout).lines().last().unwrap()).unwrap()
        };
        let (direct, again) = (summary(&direct), summary(&again));
        for key in ["events", "transactions", "open", "unpaired", "lost", "lost_requests", "operations"] {
            assert_eq!(direct[key], again[key], "{key}");
        }
    }
    let rows = out.join("6");
    let rows = rows.to_str().unwrap();
    let found = txray(&["find", rows, "time_basis = packet and service = '[::1]:18391'", "--json"], None);
    assert_eq!(text(&found.stdout).lines().count(), 1, "{}", text(&found.stderr));
}

#[test]
fn a_range_of_a_capture_is_the_whole_cut() {
    let whole = text(&txray(&["replay", fixture("nginx.pcap").to_str().unwrap(), "--json"], None).stdout);
    let rows: Vec<serde_json::Value> =
        whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let end = |at: usize| rows[at]["end_time_ns"].to_string();
    let (from, to) = (end(1), end(4));
    let args = ["replay", fixture("nginx.pcap").to_str().unwrap(), "--json", "--from", &from, "--to", &to]
        .map(str::to_owned);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let cut = text(&txray(&args, None).stdout);
    assert_eq!(cut.lines().collect::<Vec<_>>(), whole.lines().skip(1).take(3).collect::<Vec<_>>());
}

#[test]
fn commands_say_what_is_wrong_with_a_capture_and_print_what_was_good() {
    let dir = tempfile::TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let whole = fs::read(fixture("nginx.pcap")).unwrap();
    fs::write(path("cut"), &whole[..whole.len() - 5]).unwrap();
    fs::write(path("text"), "no capture\n").unwrap();
    let cut = txray(&["replay", &path("cut"), "--once"], None);
    let said = text(&cut.stderr);
    assert_eq!(cut.status.code(), Some(2), "{said}");
    assert!(text(&cut.stdout).contains("6 transactions in"), "{}", text(&cut.stdout));
    assert!(said.contains("cut: at byte ") && said.contains("it ends within a packet: "), "{said}");
    assert!(said.contains("hint: what was good before it is above, and was counted"), "{said}");
    let recorded = txray(&["record", "--from", &path("cut"), &path("rec")], None);
    assert_eq!(recorded.status.code(), Some(2));
    assert!(text(&recorded.stdout).contains("to see it again"), "{}", text(&recorded.stdout));
    let replayed = txray(&["replay", &path("rec"), "--once"], None);
    assert!(text(&replayed.stdout).contains("6 transactions in"), "{}", text(&replayed.stderr));
    let rec = path("rec");
    let failures = [
        (vec!["replay", "TEXT"], "is no packet capture: it begins with the bytes 6e 6f 20 63", "pcapng"),
        (vec!["replay", "NONE"], "none", "txray record --out"),
        (vec!["record", "--from", "NONE", "OUT"], "No such file", "tcpdump"),
        (vec!["record", "--from", &rec, "OUT"], "is a folder", "txray replay"),
        (vec!["record", "--from", "TEXT", "OUT"], "is no packet capture", "pcapng"),
        (vec!["record", "--from", "CUT"], "no folder to record into", "txray record DIR"),
        (vec!["record", "--from", "CUT", "OUT", "--payload", "heads"], "--payload heads", "leave it out"),
        (vec!["find", "TEXT"], "recording", "txray record --from"),
    ];
    for (args, line, hint) in failures {
        let named = |arg: &&str| match *arg {
            "TEXT" => path("text"),
            "NONE" => path("none"),
            "CUT" => path("cut"),
            "OUT" => path("out"),
            other => other.to_owned(),
        };
        let args: Vec<String> = args.iter().map(named).collect();
        let output = txray(&args.iter().map(String::as_str).collect::<Vec<_>>(), None);
        let said = text(&output.stderr);
        assert_eq!(
            (output.status.code(), text(&output.stdout)),
            (Some(2), String::new()),
            "{args:?}: {said}"
        );
        assert!(said.contains(line), "{args:?}: {said}");
        assert!(
            said.lines().any(|said| said.starts_with("hint: ") && said.contains(hint)),
            "{args:?}: {said}"
        );
        assert!(!Path::new(&path("out")).exists(), "{args:?}: nothing is made for what cannot be recorded");
    }
    let both = txray(&["record", "--from", &path("cut"), &path("out"), "--pid", "1"], None);
    assert!(text(&both.stderr).contains("cannot be used with"), "{}", text(&both.stderr));
}
