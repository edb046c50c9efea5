//! How many patterns are found, and how many are told that are not there: on made-up traffic whose parameters are drawn by seeds. Run it in release:
//! `cargo run --release --example pattern_figures [training|held-out] [scenarios of each kind] [-v]`.

#[path = "../../tests/patterns/synthetic.rs"]
#[allow(dead_code, reason = "shared with the test")]
mod synthetic;

use std::time::Instant;

use synthetic::{BEGIN, Count, HELD_OUT, MADE, STEADY, Scenario, TRAINING, count, steady, with};
use tracer_user::sink::patterns::{Pattern, Patterns};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let seeds = if arguments.iter().any(|text| text == "held-out") { HELD_OUT } else { TRAINING };
    let n = arguments.iter().find_map(|text| text.parse().ok()).unwrap_or(200);
    let tells = arguments.iter().any(|text| text == "-v");
    let mut counts = [Count::default(); Pattern::ALL.len()];
    let mut transactions = 0;
    let mut one = |scenario: Scenario, counts: &mut [Count; Pattern::ALL.len()]| {
        transactions += scenario.dots.len();
        let before = *counts;
        let findings = scenario.findings();
        count(&scenario, &findings, counts);
        let missed =
            counts.iter().zip(&before).any(|(now, old)| now.there - old.there > now.found - old.found);
        let wrong = counts.iter().zip(&before).any(|(now, old)| now.wrong > old.wrong);
        if tells && (missed || wrong) {
            println!("{}: {} {:?}", scenario.name, if missed { "MISSED" } else { "" }, scenario.truth);
            for finding in &findings {
                let at = |time: tracer_user::time::WallTime| (time.0 as f64 - BEGIN as f64) / 1e9;
                let (from, to) = (at(finding.from), at(finding.to));
                println!(
                    "    {} {from:.2}..{to:.2} n={} {} {:?}",
                    finding.pattern.name(),
                    finding.n,
                    finding.service,
                    finding.figures
                );
            }
        }
    };
    let begun = Instant::now();
    for seed in seeds.clone().take(n) {
        MADE.iter().for_each(|pattern| one(with(*pattern, seed), &mut counts));
    }
    let mut by_kind = Vec::new();
    for (kind, name) in STEADY.iter().enumerate() {
        let mut of_kind = [Count::default(); Pattern::ALL.len()];
        seeds.clone().take(n).for_each(|seed| one(steady(kind, seed), &mut of_kind));
        let wrong: u64 = of_kind.iter().map(|count| count.wrong).sum();
        by_kind.push(format!("{name} {wrong}"));
        counts.iter_mut().zip(of_kind).for_each(|(sum, count)| sum.wrong += count.wrong);
    }
    println!(
        "| pattern | there | found | wrong | recall | precision |\n| --- | --- | --- | --- | --- | --- |"
    );
    for (pattern, count) in Pattern::ALL.iter().zip(&counts) {
        let Count { there, found, wrong } = count;
        let (recall, precision) = (count.recall(), count.precision());
        println!("| {} | {there} | {found} | {wrong} | {recall:.3} | {precision:.3} |", pattern.name());
    }
    println!("steady traffic, {n} of each kind, findings: {}", by_kind.join(", "));
    println!("{transactions} transactions, {:.1} s with making them", begun.elapsed().as_secs_f64());
    cost();
}

/// CPU for each transaction, of one busy service.
fn cost() {
    let rows = steady(0, 7).transactions();
    let mut patterns = Patterns::default();
    let begun = Instant::now();
    rows.iter().for_each(|row| patterns.push(row));
    patterns.finish();
    let ns = begun.elapsed().as_nanos() as f64 / rows.len() as f64;
    println!("{ns:.0} ns for each of {} transactions, looks included", rows.len());
}
