//! Several captures read as one.

use std::{
    fs,
    path::{Path, PathBuf},
};

use proptest::prelude::*;
use tempfile::TempDir;
use tracer_user::{event::Event, source::pcap::PcapSource};

use super::{Form, Link, Packets, Read, START_NS, Wire, ends, fixture, frames, read, run, text, txray};

/// A conversation of five connections, one behind the other.
fn packets() -> Packets {
    let mut all = Packets::new();
    for n in 0..5_u64 {
        let mut wire = Wire::new(n % 2 == 1);
        // No two packets have the same time.
        wire.time += n * 300_007;
        wire.next[0] += n as u32 * 100_000;
        let begin = all.len();
        all.extend(wire.conversation());
        if n > 1 {
            // Of the same ends and at the same time as another: another port.
            for (_, ip) in &mut all[begin..] {
                let at = if ip[0] >> 4 == 6 { 40 } else { 20 };
                let port = at + if ip[at..at + 2] == super::CLIENT.to_be_bytes() { 0 } else { 2 };
                ip[port..port + 2].copy_from_slice(&(super::CLIENT + n as u16).to_be_bytes());
            }
        }
    }
    all.sort_by_key(|(time, _)| *time);
    all
}

fn told(read: &Read) -> Vec<&Event> {
    read.events.iter().filter(|event| !matches!(event, Event::Counters(_))).collect()
}

struct Folder(TempDir);

impl Folder {
    fn new() -> Folder {
        Folder(TempDir::new().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, form: Form, packets: &[(u64, Vec<u8>)]) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, form.write(1, &frames(&packets.to_vec(), Link::Ethernet))).unwrap();
        path
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn rotated_and_parallel_captures_are_the_one_that_they_were_cut_from(
        places in proptest::collection::vec(0..5_usize, 1..80),
        cuts in proptest::collection::vec(0..80_usize, 0..6),
        order in any::<u8>(),
        is_rotated in any::<bool>(),
    ) {
        let packets = packets();
        let want = read(Form::LittleNs.write(1, &frames(&packets, Link::Ethernet))).unwrap();
        prop_assert_eq!(want.transactions.len(), 15);
        let mut files = vec![Packets::new(); 8];
        for (at, packet) in packets.iter().enumerate() {
            // Which file: the one that the last cut began, or any.
            let file = match is_rotated {
                true => cuts.iter().filter(|cut| **cut <= at).count(),
                false => places[at % places.len()],
            };
            files[file].push(packet.clone());
        }
        let folder = Folder::new();
        let forms = [Form::LittleNs, Form::BigNs, Form::NgLittle, Form::NgBig];
        let mut paths: Vec<PathBuf> = Vec::new();
        for (n, file) in files.iter().enumerate() {
            paths.push(folder.write(&n.to_string(), forms[n % forms.len()], file));
        }
        paths.rotate_left(usize::from(order) % 8);
        if order > 127 {
            paths.reverse();
        }
        let read = run(PcapSource::open(&paths).unwrap());
        prop_assert_eq!(read.report.fault(), None);
        prop_assert_eq!(read.lines(), want.lines());
        prop_assert_eq!(told(&read), told(&want));
        prop_assert_eq!(read.report.line(), want.report.line());
    }
}

#[test]
fn a_packet_that_is_in_two_captures_counts_once() {
    let packets = packets();
    let folder = Folder::new();
    let whole = folder.write("whole", Form::LittleNs, &packets);
    let half = folder.write("half", Form::LittleNs, &packets[packets.len() / 3..]);
    let want = run(PcapSource::open(std::slice::from_ref(&whole)).unwrap());
    // Another clock is a little late.
    let late: Packets = packets.iter().map(|(time, ip)| (time + 40_000, ip.clone())).collect();
    let late = folder.write("late", Form::LittleNs, &late);
    for paths in [vec![whole.clone(), whole.clone()], vec![half, whole.clone()], vec![late, whole]] {
        let read = run(PcapSource::open(&paths).unwrap());
        assert_eq!(told(&read), told(&want), "{paths:?}");
        assert_eq!(read.lines(), want.lines(), "{paths:?}");
    }
}

#[test]
fn what_is_good_of_broken_captures_is_kept_and_the_others_are_read_on() {
    let packets = packets();
    let folder = Folder::new();
    let third = packets.len() / 3;
    let parts = [&packets[..third], &packets[third..2 * third], &packets[2 * third..]];
    let paths: Vec<PathBuf> = parts
        .iter()
        .enumerate()
        .map(|(n, part)| folder.write(&n.to_string(), Form::LittleNs, part))
        .collect();
    let whole = fs::read(&paths[1]).unwrap();
    // Within the last packet of the second, within its first, and within its header.
    for (length, n_lost) in [(whole.len() - 3, 1), (30, third), (9, third)] {
        fs::write(&paths[1], &whole[..length]).unwrap();
        let read = run(PcapSource::open(&paths).unwrap());
        let fault = read.report.fault().unwrap();
        assert!(fault.starts_with(&format!("{}: at byte ", paths[1].display())), "{fault}");
        assert!(fault.contains("it ends within"), "{fault}");
        assert_eq!(read.report.packets(), (packets.len() - n_lost) as u64);
    }
    // Ten of them: eight are named.
    let mut many: Vec<PathBuf> = vec![paths[0].clone()];
    for n in 0..10 {
        let path = folder.path(&format!("cut{n}"));
        fs::write(&path, &whole[..30]).unwrap();
        many.push(path);
    }
    let read = run(PcapSource::open(&many).unwrap());
    let fault = read.report.fault().unwrap();
    assert!(fault.contains("cut7: at byte ") && fault.ends_with("; and 2 more files"), "{fault}");
    assert_eq!(read.report.packets(), third as u64);
}

#[test]
fn empty_captures_among_others_are_no_fault() {
    let folder = Folder::new();
    let paths = [
        folder.write("none", Form::LittleNs, &[]),
        folder.write("all", Form::NgLittle, &packets()),
        folder.write("no more", Form::NgLittle, &[]),
    ];
    let read = run(PcapSource::open(&paths).unwrap());
    assert_eq!((read.transactions.len(), read.report.fault()), (15, None));
}

#[test]
fn more_captures_of_the_same_time_than_may_be_open_are_left_out_by_name() {
    let folder = Folder::new();
    let packets = packets();
    // Each holds a packet of the beginning and one of the end.
    let pair: Packets = vec![packets[0].clone(), (START_NS + 60_000_000_000, packets[0].1.clone())];
    let paths: Vec<PathBuf> =
        (0..260).map(|n| folder.write(&format!("{n:03}"), Form::LittleNs, &pair)).collect();
    let read = run(PcapSource::open(&paths).unwrap());
    assert_eq!(read.report.packets(), 2 * 256);
    let fault = read.report.fault().unwrap();
    assert!(fault.contains("256: left out: more than 256 captures of the same time"), "{fault}");
    assert_eq!(fault.matches("left out").count(), 4);
    // Behind each other they are as many as one likes.
    let mut next = Vec::new();
    for n in 0..300_u64 {
        let at = START_NS + n * 1_000_000;
        let pair = [(at, packets[0].1.clone()), (at + 900_000, packets[0].1.clone())];
        next.push(folder.write(&format!("next{n}"), Form::LittleNs, &pair));
    }
    let read = run(PcapSource::open(&next).unwrap());
    assert_eq!((read.report.packets(), read.report.fault()), (600, None));
}

// The commands.

#[test]
fn commands_take_several_captures_and_say_what_does_not_go_together() {
    let folder = Folder::new();
    let packets = packets();
    let one = folder.write("one.pcap", Form::LittleNs, &packets[..30]).to_str().unwrap().to_owned();
    let two = folder.write("two.pcap", Form::NgLittle, &packets[30..]).to_str().unwrap().to_owned();
    let (rec, word) = (folder.path("rec"), folder.path("text"));
    let (rec, word) = (rec.to_str().unwrap(), word.to_str().unwrap());
    fs::write(word, "no capture\n").unwrap();
    let want = read(Form::LittleNs.write(1, &frames(&packets, Link::Ethernet))).unwrap().lines();
    let want: Vec<&str> = want.iter().map(|line| line.trim_end()).collect();
    let replayed = txray(&["replay", &two, &one, "--json"], None);
    let said = text(&replayed.stderr);
    assert_eq!(replayed.status.code(), Some(0), "{said}");
    assert_eq!(text(&replayed.stdout).lines().collect::<Vec<_>>(), want);
    assert!(said.contains(&format!("txray: {} packets, {0} of TCP", packets.len())), "{said}");
    let recorded = txray(&["record", "--from", &two, "--from", &one, rec, "--json"], None);
    assert_eq!(recorded.status.code(), Some(0), "{}", text(&recorded.stderr));
    assert_eq!(text(&recorded.stdout).lines().collect::<Vec<_>>(), want);
    let again = txray(&["replay", rec, "--json"], None);
    assert_eq!(text(&again.stdout).lines().collect::<Vec<_>>(), want);
    let piped = txray(&["replay", &two, "-", "--json"], Some(Path::new(&one)));
    assert_eq!(text(&piped.stdout).lines().collect::<Vec<_>>(), want, "{}", text(&piped.stderr));
    let none = folder.path("none");
    let out = folder.path("out");
    let (none, out) = (none.to_str().unwrap(), out.to_str().unwrap());
    let failures: [(&[&str], &str, &str); 8] = [
        (&["replay", rec, &one], "rec is a folder, and ", "a recording is named alone"),
        (
            &["replay", &one, rec],
            "recordings and captures are not read together",
            "several captures are read as one",
        ),
        (&["replay", rec, rec], "recordings are read one by one", "name one folder"),
        (&["record", "--from", &one, "--from", rec, out], "not read together", "a recording is named alone"),
        (&["replay", &one, word], "text is no packet capture: it begins with", "recordings are folders"),
        (&["replay", &one, none], "none: No such file", "tcpdump -w"),
        (&["replay", "-", "-"], "standard input is named twice", "it can be read once"),
        (&["snapshot", &one, rec, "--at", "1"], "not read together", "a recording is named alone"),
    ];
    for (args, line, hint) in failures {
        let output = txray(args, None);
        let said = text(&output.stderr);
        assert_eq!(
            (output.status.code(), text(&output.stdout)),
            (Some(2), String::new()),
            "{args:?}: {said}"
        );
        assert!(said.contains(line), "{args:?}: {said}");
        let is_hint = |line: &str| line.starts_with("hint: ") && line.contains(hint);
        assert!(said.lines().any(is_hint), "{args:?}: {said}");
        assert!(!Path::new(out).exists(), "{args:?}");
    }
    // One that is cut, in the middle of a set.
    let whole = fs::read(&one).unwrap();
    let cut = ends(&frames(&packets, Link::Ethernet))[20] + 5;
    fs::write(&one, &whole[..cut]).unwrap();
    let replayed = txray(&["replay", &one, &two, "--json"], None);
    let said = text(&replayed.stderr);
    assert_eq!(replayed.status.code(), Some(2), "{said}");
    assert!(
        said.contains("one.pcap: at byte ") && said.contains("what was good before it is above"),
        "{said}"
    );
    assert!(said.contains(&format!("txray: {} packets", packets.len() - 9)), "{said}");
    assert!(text(&replayed.stdout).contains("item"), "the others are read on");
}

#[test]
fn the_state_at_an_instant_of_a_capture_is_that_of_its_recording() {
    let folder = Folder::new();
    let rec = folder.path("rec");
    let rec = rec.to_str().unwrap();
    let file = fixture("nginx.pcap");
    let file = file.to_str().unwrap();
    let recorded = txray(&["record", "--from", file, rec, "--json"], None);
    assert_eq!(recorded.status.code(), Some(0), "{}", text(&recorded.stderr));
    let rows: Vec<serde_json::Value> =
        text(&recorded.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    // While the fourth is in flight, and behind all of them.
    let between = rows[3]["start_time_ns"].as_u64().unwrap() + 1;
    for (at, n) in [(between, 3), (rows[5]["end_time_ns"].as_u64().unwrap() + 1, 6)] {
        let args = |what| ["snapshot", what, "--at", &at.to_string(), "--json"].map(str::to_owned);
        let [direct, again] = [file, rec].map(|what| {
            let output = txray(&args(what).iter().map(String::as_str).collect::<Vec<_>>(), None);
            assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
            serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()
        });
        assert_eq!(direct, again);
        assert!(direct.to_string().contains(&format!("\"transactions\":{n}")), "{direct}");
    }
    let far = txray(&["snapshot", file, "--at", "1"], None);
    assert_eq!(far.status.code(), Some(2));
    assert!(text(&far.stderr).contains("does not reach to this instant"), "{}", text(&far.stderr));
}
