//! The tree and its forms: sums, marks, bounds, and what other tools read.

use std::io::Read as _;

use proptest::prelude::*;

use super::{text::Shown, *};
use crate::{
    event::StackEnd,
    sink::compliance,
    time::WallTime,
    transaction::{
        Transaction,
        anatomy::{Causes, Reason},
        stacks::{StackPart, StackSum, frames_text},
    },
};

const FUTEX: StackPart = StackPart::Off(Reason::Futex);
const DISK: StackPart = StackPart::Off(Reason::Disk);

/// A stack, the innermost frame first.
pub(super) fn stack(part: StackPart, ns: u64, count: u64, frames: &[&str], end: StackEnd) -> StackSum {
    StackSum { part, ns, count, frames: frames_text(frames), end }
}

pub(super) fn request(seq: u64, stacks: Vec<StackSum>) -> Transaction {
    let causes = Causes { stacks, ..Causes::default() };
    Transaction { causes: Some(Box::new(causes)), ..compliance::transaction(seq) }
}

/// Some requests of a shop: they compute, wait for a lock, and one reads a disk.
fn shop() -> Vec<Transaction> {
    use StackEnd::{Complete, Truncated, UnknownCaller};
    let [render, main] = ["render+0x12 (shop)", "main+0x40 (shop)"];
    let lock = ["futex_wait+0x9 (kernel)", "pthread_mutex_lock+0x77 (libc.so.6)", "cart::lock+0x1 (shop)"];
    let locked = [&lock[..], &["handle+0x33 (shop)", main]].concat();
    vec![
        request(
            1,
            vec![
                stack(StackPart::OnCpu, 40_000_000, 4, &[render, "handle+0x20 (shop)", main], Complete),
                stack(
                    StackPart::OnCpu,
                    20_000_000,
                    2,
                    &["render+0x99 (shop)", "handle+0x20 (shop)", main],
                    Complete,
                ),
                stack(
                    StackPart::OnCpu,
                    10_000_000,
                    1,
                    &["memcpy+0x3 (libc.so.6)", render, "handle+0x20 (shop)", main],
                    Complete,
                ),
                stack(FUTEX, 52_000_000, 1, &locked, Complete),
            ],
        ),
        request(
            2,
            vec![
                stack(FUTEX, 8_000_000, 3, &locked, Complete),
                stack(
                    DISK,
                    3_000_000,
                    1,
                    &["nft_x+0x1 (kernel nf_tables)", "read+0x9 (libc.so.6)"],
                    UnknownCaller,
                ),
                stack(StackPart::OnCpu, 10_000_000, 1, &["+0x1234 (libx.so)", "+0x99 (libx.so)"], Truncated),
                stack(DISK, 500_000, 7, &[], Truncated),
            ],
        ),
        compliance::transaction(3),
    ]
}

fn shown(min_percent: f64, is_diff: bool) -> Shown {
    Shown { is_diff, min_percent, top: 5 }
}

fn compared() -> StackTree {
    let mut gatherer = Gatherer::new(Parts::Both);
    let requests = shop();
    gatherer.add(&requests[0], 0);
    requests[1..].iter().for_each(|request| gatherer.add(request, 1));
    gatherer.finish()
}

#[test]
fn the_tree_as_text_says_what_each_call_has_and_what_is_not_known() {
    for (name, parts, min_percent) in [
        ("both", Parts::Both, 0.0),
        ("both_min_10", Parts::Both, 10.0),
        ("on", Parts::On, 0.0),
        ("off", Parts::Off, 0.0),
    ] {
        let tree = StackTree::of(parts, shop().iter());
        let shown = shown(min_percent, false);
        let text = format!(
            "{}\n{}\n{}",
            text::heading(&tree, parts.label(), false),
            text::tree(&tree, shown),
            text::functions(&tree, shown)
        );
        insta::assert_snapshot!(format!("tree_{name}"), text);
    }
}

#[test]
fn two_selections_are_compared_by_what_one_request_has() {
    let tree = compared();
    let shown = shown(0.0, true);
    let text = format!(
        "{}\n{}\n{}\n{}",
        text::heading(&tree, "on a CPU and off it", true),
        text::tree(&tree, shown),
        text::functions(&tree, shown),
        folded::lines(&tree, true)
    );
    insta::assert_snapshot!("diff", text);
    // A request without stacks is not among those that the time is divided by.
    assert_eq!(tree.requests[1], Requests { all: 2, with_stacks: 1 });
}

#[test]
fn a_function_is_shown_between_its_callers_and_what_it_calls() {
    let tree = StackTree::of(Parts::Both, shop().iter());
    let sandwich = tree.sandwich(|function| &*function.name == "handle").unwrap();
    insta::assert_snapshot!("sandwich", text::sandwich(&sandwich, shown(0.0, false)));
    insta::assert_snapshot!("sandwich_json", String::from_utf8(json::sandwich(&sandwich)).unwrap());
    assert!(tree.sandwich(|function| &*function.name == "nobody").is_none());
    let labels = |text: &str| {
        text::matching(&tree, text).iter().map(|function| function.label().into_owned()).collect::<Vec<_>>()
    };
    assert_eq!(labels("handle (shop)"), ["handle (shop)"]);
    assert_eq!(labels("mutex"), ["pthread_mutex_lock (libc.so.6)"]);
    assert!(labels("[truncated]").is_empty() && labels("on a CPU").is_empty(), "they are no functions");
}

#[test]
fn of_a_function_that_calls_itself_the_outermost_call_counts_and_once() {
    let frames = ["leaf+0x1 (a)", "again+0x1 (a)", "between+0x1 (a)", "again+0x9 (a)", "main+0x1 (a)"];
    let requests = [request(1, vec![stack(StackPart::OnCpu, 7, 1, &frames, StackEnd::Complete)])];
    let tree = StackTree::of(Parts::On, requests.iter());
    let row = |name: &str| {
        let rows = tree.functions();
        let row = rows.into_iter().find(|row| &*tree.functions[row.function as usize].name == name).unwrap();
        (row.own[0].ns, row.all[0].ns)
    };
    assert_eq!((row("again"), row("leaf"), row("main")), ((0, 7), (7, 7), (0, 7)));
    let Sandwich { callers, callees } = tree.sandwich(|function| &*function.name == "again").unwrap();
    assert_eq!((callers.nodes.len(), callees.nodes.len()), (2, 4));
    assert_eq!([callers.total()[0].ns, callees.total()[0].ns], [7, 7]);
}

#[test]
fn what_finds_no_room_is_one_node_and_is_counted() {
    let requests: Vec<Transaction> = (0..50)
        .map(|i| {
            let frames = [format!("f{i}+0x1 (a)"), "main+0x1 (a)".to_owned()];
            let frames: Vec<&str> = frames.iter().map(String::as_str).collect();
            request(i, vec![stack(StackPart::OnCpu, 10, 2, &frames, StackEnd::Complete)])
        })
        .collect();
    let mut gatherer = Gatherer::with_room(Parts::On, 10);
    requests.iter().for_each(|request| gatherer.add(request, 0));
    // What has a place keeps it.
    gatherer.add(&requests[0], 0);
    let tree = gatherer.finish();
    assert_eq!(tree.nodes.len(), 10);
    // The root, main, and the first seven functions have a node each.
    assert_eq!(tree.no_room()[0], Sum { count: 2 * 43, ns: 430 });
    assert_eq!(tree.total()[0], Sum { count: 102, ns: 510 });
    assert!(text::heading(&tree, "on a CPU", false).contains("86 of them are [no room]"));
    assert!(tree.functions.len() <= 23, "functions without a node are not kept: {}", tree.functions.len());
}

#[test]
fn stacks_that_cannot_be_read_are_marked_and_counted() {
    let mut broken = stack(FUTEX, 5, 1, &[], StackEnd::Complete);
    broken.frames = "no json".into();
    let tree = StackTree::of(Parts::Off, [request(1, vec![broken])].iter());
    assert_eq!(folded::lines(&tree, false), "[not readable] 5\n");
    for (end, line) in [
        (StackEnd::Complete, "f 5\n"),
        (StackEnd::Truncated, "[truncated];f 5\n"),
        (StackEnd::UnknownCaller, "[unknown caller];f 5\n"),
        (StackEnd::Unreadable, "[unreadable caller];f 5\n"),
        (StackEnd::Unresolved, "[unresolved];f 5\n"),
    ] {
        let tree =
            StackTree::of(Parts::Off, [request(1, vec![stack(FUTEX, 5, 1, &["f+0x1 (a)"], end)])].iter());
        assert_eq!(folded::lines(&tree, false), line);
    }
}

#[test]
fn folded_text_has_a_line_for_each_stack() {
    let tree = StackTree::of(Parts::Both, shop().iter());
    insta::assert_snapshot!("folded", folded::lines(&tree, false));
    let odd = stack(StackPart::OnCpu, 1, 1, &["f::<[u8; 4]>+0x1 (a)"], StackEnd::Complete);
    let tree = StackTree::of(Parts::On, [request(1, vec![odd])].iter());
    assert_eq!(folded::lines(&tree, false), "f::<[u8, 4]> 1\n");
}

#[test]
fn json_has_each_node_behind_its_parent() {
    let tree = compared();
    let text = String::from_utf8(json::tree(&tree, true, 3)).unwrap();
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    insta::assert_snapshot!("json", serde_json::to_string_pretty(&value).unwrap());
    let nodes = value["nodes"].as_array().unwrap();
    for (i, node) in nodes.iter().enumerate() {
        assert_eq!(node["id"], i);
        assert!(node["parent"].as_u64().is_none_or(|parent| parent < i as u64), "{node}");
    }
    let own: u64 = nodes.iter().filter_map(|node| node["internal_ns"].as_u64()).sum();
    assert_eq!(value["nodes"][0]["external_ns"], own);
}

/// What its schema demands of a file with a sampled profile, and what a reader needs besides.
#[test]
fn the_profile_for_speedscope_is_what_its_schema_says() {
    let tree = StackTree::of(Parts::Both, shop().iter());
    let file: serde_json::Value = serde_json::from_slice(&speedscope::file(&tree, "shop")).unwrap();
    insta::assert_snapshot!("speedscope", serde_json::to_string_pretty(&file).unwrap());
    assert_eq!(file["$schema"], "https://www.speedscope.app/file-format-schema.json");
    let frames = file["shared"]["frames"].as_array().unwrap();
    assert!(
        frames
            .iter()
            .all(|frame| frame["name"].is_string() && frame.get("file").is_none_or(|f| f.is_string()))
    );
    let [profile] = &file["profiles"].as_array().unwrap()[..] else { panic!("one profile") };
    assert_eq!((&profile["type"], &profile["unit"]), (&"sampled".into(), &"nanoseconds".into()));
    assert!(
        profile["name"].is_string() && profile["startValue"].is_number() && profile["endValue"].is_number()
    );
    let samples = profile["samples"].as_array().unwrap();
    let weights = profile["weights"].as_array().unwrap();
    assert_eq!(samples.len(), weights.len());
    let sum: u64 = weights.iter().map(|weight| weight.as_u64().unwrap()).sum();
    assert_eq!(profile["endValue"], sum);
    let index = |frame: &serde_json::Value| frames.get(frame.as_u64().unwrap() as usize);
    assert!(samples.iter().flat_map(|sample| sample.as_array().unwrap()).all(|frame| index(frame).is_some()));
}

/// Fields of a message of protocol buffers: number, and what it holds.
fn fields(mut bytes: &[u8]) -> Vec<(u64, Field)> {
    fn varint(bytes: &mut &[u8]) -> u64 {
        let mut n = 0;
        for shift in (0..).step_by(7) {
            let (first, rest) = bytes.split_first().unwrap();
            *bytes = rest;
            n |= u64::from(first & 0x7f) << shift;
            if first & 0x80 == 0 {
                break;
            }
        }
        n
    }
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        let field = match key & 7 {
            0 => Field::Number(varint(&mut bytes)),
            2 => {
                let length = varint(&mut bytes) as usize;
                let (field, rest) = bytes.split_at(length);
                bytes = rest;
                Field::Bytes(field.to_vec())
            }
            other => panic!("wire type {other}"),
        };
        fields.push((key >> 3, field));
    }
    fields
}

#[derive(Clone, Debug, PartialEq)]
enum Field {
    Number(u64),
    Bytes(Vec<u8>),
}

impl Field {
    fn number(&self) -> u64 {
        let Field::Number(n) = self else { panic!("no number: {self:?}") };
        *n
    }

    fn bytes(&self) -> &[u8] {
        let Field::Bytes(bytes) = self else { panic!("no bytes: {self:?}") };
        bytes
    }

    /// The numbers of a packed field.
    fn packed(&self) -> Vec<u64> {
        // Each as a field of its own with the number 0: the same bytes with a key in front of each.
        let mut numbers = Vec::new();
        let mut n = 0;
        let mut shift = 0;
        for byte in self.bytes() {
            n |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                numbers.push(n);
                (n, shift) = (0, 0);
            }
        }
        numbers
    }
}

#[test]
fn the_profile_for_pprof_reads_back_as_the_stacks_that_went_in() {
    let tree = StackTree::of(Parts::Both, shop().iter());
    let packed = pprof::file(&tree, Some((WallTime(1_000), WallTime(4_000)))).unwrap();
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(&packed[..]).read_to_end(&mut bytes).unwrap();
    let profile = fields(&bytes);
    let all = |number: u64| profile.iter().filter(move |(n, _)| *n == number).map(|(_, field)| field);
    let texts: Vec<&str> = all(6).map(|text| std::str::from_utf8(text.bytes()).unwrap()).collect();
    assert_eq!(texts[0], "");
    let get = |message: &[(u64, Field)], number: u64| {
        message.iter().find(|(n, _)| *n == number).map(|(_, field)| field.clone())
    };
    let text =
        |message: &[(u64, Field)], number| get(message, number).map_or("", |at| texts[at.number() as usize]);
    let types: Vec<_> = all(1)
        .map(|message| {
            let message = fields(message.bytes());
            (text(&message, 1), text(&message, 2))
        })
        .collect();
    assert_eq!(types, [("samples", "count"), ("time", "nanoseconds")]);
    assert_eq!(
        [get(&profile, 9), get(&profile, 10)],
        [Some(Field::Number(1_000)), Some(Field::Number(3_000))]
    );
    assert_eq!(text(&profile, 14), "time");
    let by_id = |number: u64| -> std::collections::HashMap<u64, Vec<(u64, Field)>> {
        let messages = all(number).map(|message| fields(message.bytes()));
        messages.map(|message| (get(&message, 1).unwrap().number(), message)).collect()
    };
    let (mappings, locations, functions) = (by_id(3), by_id(4), by_id(5));
    assert_eq!(text(&mappings[&1], 5), "shop", "the first is the program");
    let mut lines = Vec::new();
    for sample in all(2) {
        let sample = fields(sample.bytes());
        let mut names: Vec<String> = get(&sample, 1)
            .unwrap()
            .packed()
            .iter()
            .map(|id| {
                let location = &locations[id];
                let line = fields(get(location, 4).unwrap().bytes());
                let name = text(&functions[&get(&line, 1).unwrap().number()], 2);
                match get(location, 2) {
                    Some(mapping) => format!("{name} ({})", text(&mappings[&mapping.number()], 5)),
                    None => name.to_owned(),
                }
            })
            .collect();
        let label = fields(get(&sample, 3).unwrap().bytes());
        assert_eq!(text(&label, 1), "part");
        names.push(format!("[{}]", text(&label, 2)));
        names.reverse();
        let values = get(&sample, 2).unwrap().packed();
        lines.push(format!("{} {} {}", names.join(";"), values[0], values[1]));
    }
    let mut expected: Vec<String> = tree
        .nodes
        .iter()
        .enumerate()
        .filter(|(_, node)| node.own[0].count > 0)
        .map(|(i, node)| {
            let names: Vec<_> = tree
                .path(i as u32)
                .iter()
                .map(|f| tree.functions[*f as usize].label().into_owned())
                .collect();
            format!("{} {} {}", names.join(";"), node.own[0].count, node.own[0].ns)
        })
        .collect();
    lines.sort();
    expected.sort();
    assert_eq!(lines, expected);
}

#[test]
fn a_wait_is_told_by_what_the_program_was_doing_and_not_by_what_it_stands_on() {
    let requests = shop();
    let stacks = requests[0].causes.as_ref().unwrap().stacks().unwrap();
    let label = |place: Option<Place>| {
        place.map(|place| (place.function.label().into_owned(), place.ns, place.of_ns))
    };
    assert_eq!(
        label(waited_at(stacks, FUTEX)),
        Some(("cart::lock (shop)".to_owned(), 52_000_000, 52_000_000))
    );
    assert_eq!(label(hottest(stacks)), Some(("render (shop)".to_owned(), 60_000_000, 70_000_000)));
    assert_eq!(waited_at(stacks, DISK), None);
    let of = |frames: &[&str]| {
        let place = waited_at(&[stack(FUTEX, 1, 1, frames, StackEnd::Complete)], FUTEX);
        place.map(|place| place.function.label().into_owned())
    };
    let kernel = "futex_wait+0x1 (kernel)";
    let libc = "pthread_cond_wait+0x1 (libc.so.6)";
    let python = "acquire_timed+0x1 (libpython3.11.so.1.0)";
    let outer = "_PyEval_EvalFrameDefault+0x1 (libpython3.11.so.1.0)";
    assert_eq!(of(&[kernel, libc, python, outer, "handle+0x1 (app.so)"]).as_deref(), Some("handle (app.so)"));
    assert_eq!(of(&[kernel, libc, python, outer]).as_deref(), Some("acquire_timed (libpython3.11.so.1.0)"));
    assert_eq!(of(&[kernel, libc]).as_deref(), Some("pthread_cond_wait (libc.so.6)"));
    assert_eq!(of(&[kernel]).as_deref(), Some("futex_wait (kernel)"));
    assert_eq!(of(&[]), None);
    assert_eq!(of(&[kernel, libc, "+0x1234 (shop)", "main+0x1 (shop)"]).as_deref(), Some("+0x1234 (shop)"));
}

/// Stacks of few functions, so that they meet.
fn any_request() -> impl Strategy<Value = Vec<(usize, u64, u64, Vec<u8>, usize)>> {
    prop::collection::vec(
        (0_usize..4, 0_u64..1_000, 1_u64..9, prop::collection::vec(0_u8..5, 0..6), 0_usize..5),
        0..8,
    )
}

proptest! {
    #[test]
    fn sums_are_exact_and_folded_text_reads_back_as_the_same(
        requests in prop::collection::vec((any_request(), any::<bool>()), 0..12),
        room in prop::sample::select(vec![2_usize, 5, 20, MAX_NODES]),
    ) {
        const PARTS: [StackPart; 4] = [StackPart::OnCpu, FUTEX, DISK, StackPart::Off(Reason::Timer)];
        const ENDS: [StackEnd; 5] = [StackEnd::Complete, StackEnd::Truncated, StackEnd::UnknownCaller, StackEnd::Unreadable, StackEnd::Unresolved];
        let frame = |f: &u8| match f {
            0 => "futex_wait+0x1 (kernel)".to_owned(),
            f => format!("f;{f}+0x{f} (a)"),
        };
        let requests: Vec<(Transaction, usize)> = requests
            .into_iter()
            .enumerate()
            .map(|(i, (stacks, is_other))| {
                let stacks = stacks
                    .into_iter()
                    .map(|(part, ns, count, frames, end)| {
                        let frames: Vec<String> = frames.iter().map(frame).collect();
                        StackSum { part: PARTS[part], ns, count, frames: frames_text(&frames), end: ENDS[end] }
                    })
                    .collect();
                (request(i as u64, stacks), usize::from(is_other))
            })
            .collect();
        for parts in [Parts::On, Parts::Off, Parts::Both] {
            let mut gatherer = Gatherer::with_room(parts, room);
            let mut expected = Sums::default();
            for (request, selection) in &requests {
                gatherer.add(request, *selection);
                for stack in request.causes.as_ref().and_then(|causes| causes.stacks()).unwrap_or_default() {
                    let is_on = stack.part == StackPart::OnCpu;
                    if parts == Parts::Both || is_on == (parts == Parts::On) {
                        expected[*selection].add(Sum { count: stack.count, ns: stack.ns });
                    }
                }
            }
            let tree = gatherer.finish();
            prop_assert!(tree.nodes.len() <= room);
            prop_assert_eq!(tree.total(), expected);
            // Each node is itself and what it calls; all of themselves are the root.
            let mut own = Sums::default();
            for (i, node) in tree.nodes.iter().enumerate() {
                let mut below = node.own;
                for child in tree.children(i as u32) {
                    prop_assert!(*child as usize > i);
                    below.iter_mut().zip(tree.node(*child).all).for_each(|(sum, more)| sum.add(more));
                }
                prop_assert_eq!(below, node.all);
                own.iter_mut().zip(node.own).for_each(|(sum, more)| sum.add(more));
            }
            prop_assert_eq!(own, expected);
            let mut of_functions = Sums::default();
            for row in tree.functions() {
                of_functions.iter_mut().zip(row.own).for_each(|(sum, more)| sum.add(more));
                prop_assert!((0..2).all(|i| row.own[i].ns <= row.all[i].ns && row.all[i].ns <= expected[i].ns));
            }
            // What is on top in both (a part without frames, nothing known above it) is no function.
            let parts_own: u64 = tree.nodes.iter().filter(|node| node.parent == 0 || tree.functions[node.function as usize].kind == FrameKind::Part)
                .filter(|node| matches!(tree.functions[node.function as usize].kind, FrameKind::Part)).map(|node| node.own[0].ns).sum();
            let root_own = tree.nodes[0].own[0].ns;
            prop_assert_eq!(of_functions[0].ns + parts_own + root_own, expected[0].ns);
            // Folded text.
            let text = folded::lines(&tree, false);
            let mut sum = 0;
            for line in text.lines() {
                let (stack, ns) = line.rsplit_once(' ').unwrap();
                prop_assert!(!stack.is_empty());
                sum += ns.parse::<u64>().unwrap();
            }
            prop_assert_eq!(sum, expected[0].ns);
            if let Some(sandwich) = tree.sandwich(|function| function.kind == FrameKind::Kernel) {
                prop_assert_eq!(sandwich.callers.total(), sandwich.callees.total());
            }
            // No line of the tree as text is lost: what is shown at a level and what is summed up there is what its caller has.
            for least in [0.0, 0.1, 0.6] {
                let lines = text::lines(&tree, least, false);
                let hidden: u64 = lines.iter().map(|line| match &line.what { text::What::More { all, .. } => all[0].ns, _ => 0 }).sum();
                let told: u64 = lines.iter().map(|line| match &line.what { text::What::Node { node, .. } => tree.node(*node).own[0].ns, _ => 0 }).sum();
                prop_assert_eq!(hidden + told, expected[0].ns);
            }
        }
    }
}
