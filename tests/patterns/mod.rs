//! Patterns of the XLog: found in made-up traffic whose truth is known, told only where they are, and the same live and in a replay.

mod recorded;
#[allow(dead_code, reason = "the example uses the rest of it")]
pub mod synthetic;

use synthetic::{Count, HELD_OUT, MADE, STEADY, count, steady, with};
use tracer_user::{
    report::patterns::{lines, seen, write_json},
    sink::patterns::{Cause, Figures, Finding, Part, Pattern, Patterns},
    time::WallTime,
    transaction::{End, Kind, Transaction},
};

/// Traffic of each kind; `cargo run --release --example pattern_figures held-out` looks at many more.
const N: u64 = 4;

#[test]
fn patterns_are_found_where_they_are_and_only_there() {
    let mut counts = [Count::default(); Pattern::ALL.len()];
    // Not those of the published figures.
    for seed in HELD_OUT.rev().take(N as usize) {
        for pattern in MADE {
            let scenario = with(pattern, seed);
            count(&scenario, &scenario.findings(), &mut counts);
        }
    }
    for (pattern, count) in Pattern::ALL.iter().zip(&counts) {
        // One of four may be missed, and one told that is not there: the figures over many say how often that is.
        assert_eq!(count.there, N);
        assert!(count.found + 1 >= N && count.wrong <= 1, "{pattern:?}: {count:?}");
    }
    let wrong: u64 = counts.iter().map(|count| count.wrong).sum();
    assert!(wrong <= 2, "{counts:?}");
}

#[test]
fn nothing_is_found_in_steady_traffic() {
    for seed in HELD_OUT.rev().take(2) {
        for (kind, name) in STEADY.iter().enumerate() {
            let findings = steady(kind, seed).findings();
            assert!(findings.is_empty(), "{name} {seed}: {findings:?}");
        }
    }
}

/// The finding of a pattern in traffic with it.
fn found(pattern: Pattern, seed: u64) -> Finding {
    let findings = with(pattern, seed).findings();
    findings.into_iter().find(|finding| finding.pattern == pattern).expect("it is found")
}

#[test]
fn what_is_recorded_of_the_cause_is_told_and_nothing_where_nothing_is() {
    let (mut known, mut unknown) = (0, 0);
    for seed in 0..8 {
        let finding = found(Pattern::Vertical, seed);
        let why = tracer_user::report::patterns::why(&finding).unwrap();
        match &finding.cause {
            Cause::Part { part, n, of, .. } => {
                known += 1;
                assert!(matches!(part, Part::Waiting(_) | Part::Calls), "{part:?}");
                assert!(n <= of && why.contains(part.label()), "{why}");
                if *part == Part::Calls {
                    assert!(why.contains("10.0.0.4:6379"), "{why}");
                }
            }
            Cause::NoAnatomy => {
                unknown += 1;
                assert!(why.contains("no anatomy was taken"), "{why}");
            }
            Cause::Mixed { .. } => {}
        }
    }
    assert!(known > 0 && unknown > 0, "{known} {unknown}");
}

#[test]
fn the_attribute_that_splits_two_bands_is_named() {
    let mut attributes = Vec::new();
    for seed in 0..16 {
        let finding = found(Pattern::Bands, seed);
        let Figures::Bands { split, .. } = &finding.figures else { panic!("{finding:?}") };
        let told = seen(&finding);
        match split {
            Some(split) => {
                assert!(split.share > 0.3 && split.share <= 1.0, "{split:?}");
                if split.attribute == "operation" {
                    assert_eq!((&*split.lower, &*split.upper), ("GET /item/{id}", "POST /order"));
                }
                attributes.push(split.attribute);
            }
            None => {
                assert!(told.contains("No recorded attribute tells them apart"), "{told}");
                attributes.push("none");
            }
        }
    }
    attributes.sort_unstable();
    attributes.dedup();
    assert!(attributes.len() >= 5, "{attributes:?}");
}

#[test]
fn a_gap_in_what_was_seen_is_not_called_silence_of_the_service() {
    let findings = with(Pattern::Unseen, 3).findings();
    assert!(findings.iter().all(|finding| finding.pattern != Pattern::Silence), "{findings:?}");
    let unseen = findings.iter().find(|finding| finding.pattern == Pattern::Unseen).unwrap();
    assert!(seen(unseen).contains("txray lost 500 records in that time"), "{}", seen(unseen));
    // The same without losses, and where nobody would tell.
    let known = found(Pattern::Silence, 3);
    assert!(seen(&known).contains("No records were lost in that time"));
    let mut patterns = Patterns::default();
    with(Pattern::Silence, 3).transactions().iter().for_each(|row| patterns.push(row));
    patterns.finish();
    let silence = patterns.findings().find(|finding| finding.pattern == Pattern::Silence).unwrap();
    assert!(seen(silence).contains("not known"), "{}", seen(silence));
}

#[test]
fn every_pattern_is_told_in_text_and_json() {
    for pattern in MADE {
        let finding = found(pattern, 1);
        let text = lines(&finding);
        assert!(text.contains(pattern.name()) && text.contains("shop") && text.contains(" dots "), "{text}");
        let mut json = Vec::new();
        write_json(&mut json, &finding);
        let value: serde_json::Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(value["pattern"], pattern.as_str());
        assert_eq!((&value["service"], &value["role"]), (&"shop".into(), &"server".into()));
        assert_eq!(
            (value["from_ns"].as_u64(), value["dots"].as_u64()),
            (Some(finding.from.0), Some(finding.n))
        );
        assert!(finding.from <= finding.to && finding.n != 0, "{finding:?}");
        assert!(value["figures"].as_object().is_some_and(|figures| figures.len() >= 4), "{value}");
        assert!(value["text"].as_str().is_some_and(|text| text.contains(seen(&finding).trim())));
    }
}

#[test]
fn names_from_the_network_cannot_move_a_terminal() {
    let hostile = "\u{1b}[2J\u{202e}evil\r\n";
    let mut finding = found(Pattern::Bands, 1);
    (finding.service, finding.operation) = (hostile.into(), Some(hostile.into()));
    let mut json = Vec::new();
    write_json(&mut json, &finding);
    for text in [lines(&finding), String::from_utf8(json).unwrap()] {
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
        assert!(!text.contains('\u{202e}'), "{text:?}");
    }
}

#[test]
fn bounds_are_kept_and_counted() {
    let mut patterns = Patterns::default();
    let row = |i: u64, service: u64| Transaction {
        start_time: WallTime(synthetic::BEGIN + i),
        end_time: WallTime(synthetic::BEGIN + i + 1_000_000),
        duration_ns: 1_000_000,
        service: format!("service {service}").into(),
        operation: format!("GET /{i}").into(),
        ..Transaction::default()
    };
    // More services than are looked at, more names than are told apart, more in a second than are kept.
    for i in 0..20_000 {
        patterns.push(&row(i * 100_000, i % 100));
    }
    let bounds = patterns.bounds();
    assert_eq!(bounds.services, 20_000 / 100 * 36);
    assert!(bounds.names > 0, "{bounds:?}");
    // A service that is gone leaves its place to another.
    patterns.push(&row(300_000_000_000, 500));
    patterns.push(&row(300_000_000_000, 501));
    assert_eq!(patterns.bounds().services, bounds.services);
    // What is no request with a duration of its own draws no pattern.
    let mut patterns = Patterns::default();
    let stuck = Transaction { end: End::Stuck, ..row(0, 0) };
    let tunnel = Transaction { kind: Kind::LongLived, ..row(0, 0) };
    [stuck, tunnel].iter().for_each(|row| patterns.push(row));
    patterns.finish();
    assert_eq!((patterns.findings().len(), patterns.bounds().services), (0, 0));
    // One that comes when its second was looked at is counted.
    let mut patterns = Patterns::default();
    patterns.push(&row(0, 0));
    patterns.push(&row(5_000_000_000, 0));
    patterns.push(&row(1_000, 0));
    assert_eq!(patterns.bounds().late, 1);
}
