//! Patterns for people, in sentences, and for machines, one JSON object a line.

use std::{fmt::Write as _, io::Write as _};

use super::format::{Align, clock, count, date_clock, duration, fit};
use crate::{
    event::Role,
    sink::patterns::{Bounds, Cause, Figures, Finding, MAX_FINDINGS, MAX_SERVICES, Pattern, Split},
    text::{push_json, screen_text},
};

/// Times that are built into Linux and common libraries, and what they are. That a line lies at one is a hint: nothing recorded says so.
const KNOWN_TIMES: [(u64, &str); 6] = [
    (40_000_000, "the longest that Linux delays an acknowledgement at first"),
    (200_000_000, "the shortest time after which TCP sends again on Linux"),
    (1_000_000_000, "the time after which a lost SYN is sent again"),
    (3_000_000_000, "the time after which a lost SYN has been sent again twice"),
    (5_000_000_000, "the time that resolvers wait for an answer of DNS"),
    (30_000_000_000, "a usual timeout of clients"),
];
/// How near a line must be to one of them.
const NEAR: f64 = 0.03;

/// Served or made, as the other tables say it.
fn role(role: Role) -> &'static str {
    match role {
        Role::Client => "made",
        Role::Server => "served",
        Role::Unknown => "role not known",
    }
}

/// What its dots are of: the service, and the operation if they have one in common. Safe to show.
pub fn whose(finding: &Finding) -> String {
    let mut text = screen_text(&finding.service).into_owned();
    if let Some(operation) = &finding.operation {
        let _ = write!(text, " {}", screen_text(operation));
    }
    text
}

/// One line: when, which, whose, how many.
pub fn heading(finding: &Finding) -> String {
    let Finding { pattern, from, to, n, is_open, .. } = finding;
    let length = duration(to.0 - from.0);
    let goes_on = if *is_open { ", may go on" } else { "" };
    format!(
        "{}  {}  {}  {} ({})  {} dots over {length}{goes_on}",
        date_clock(*from),
        date_clock(*to),
        fit(pattern.name(), 15, Align::Left),
        whose(finding),
        role(finding.role),
        count(*n),
    )
}

/// What was seen, in a sentence with its figures.
pub fn seen(finding: &Finding) -> String {
    let n = count(finding.n);
    match &finding.figures {
        Figures::Vertical { width_ns, longest_ns, expected, z, .. } => format!(
            "{n} ended within {}, where {expected:.1} would otherwise (z {z:.0}), however long they had taken, up to {}: they waited for \
             something that was released at once.",
            duration(*width_ns),
            duration(*longest_ns),
        ),
        Figures::Horizontal { level_ns, multiples, expected, share, log10_p } => {
            let mut text = format!(
                "{n} took {}, {:.1} % of all, where {expected:.1} would beside it (p {}).",
                duration(*level_ns),
                share * 100.0,
                power(*log10_p),
            );
            if !multiples.is_empty() {
                let times: Vec<String> = multiples.iter().map(|times| format!("{times}×")).collect();
                let _ = write!(text, " There are lines at {} of it as well.", times.join(", "));
            }
            if let Some(known) = known_time(*level_ns) {
                let _ = write!(text, " So long is {known}; that is a hint, nothing recorded says so.");
            }
            text
        }
        Figures::Floor { before_ns, after_ns, medians_ns: [before, after], log10_p } => format!(
            "The shortest 5 % took up to {} before and {} since then (medians {} and {}, p {}): each pays a constant.",
            duration(*before_ns),
            duration(*after_ns),
            duration(*before),
            duration(*after),
            power(*log10_p),
        ),
        Figures::Bands { medians_ns: [lower, upper], upper_share, valley, split, .. } => format!(
            "{:.0} % took around {}, the others around {}, and few something in between (density {valley:.2} of the thinner band). {}",
            upper_share * 100.0,
            duration(*upper),
            duration(*lower),
            split.as_ref().map_or_else(|| "No recorded attribute tells them apart.".to_owned(), split_text,),
        ),
        Figures::Ramp { slope_ns, medians_ns: [low, high], correlation, in_flight: [few, many], dropped } => {
            let mut text = format!(
                "Elapsed time grew from {} to {}, {} each second (rank correlation {correlation:.2}), while those in flight went from {few} to \
                 {many}: more came than was served, and a queue built up.",
                duration(*low),
                duration(*high),
                duration(slope_ns.unsigned_abs()),
            );
            match dropped {
                Some(at) => drop(write!(text, " It dropped at {}.", clock(*at))),
                None => text.push_str(" It has not dropped yet."),
            }
            text
        }
        Figures::Silence { gap_ns, rate, usual_ns, log10_p, burst, burst_held, lost } => {
            let mut text = format!(
                "Nothing ended for {}; before, {rate:.1} did each second, and {} was the longest gap (p {}).",
                duration(*gap_ns),
                duration(*usual_ns),
                power(*log10_p),
            );
            match (finding.pattern, lost) {
                (Pattern::Unseen, Some(lost)) => {
                    let _ = write!(
                        text,
                        " But txray lost {} records in that time: it is a gap in what was seen, and says nothing of the service.",
                        count(*lost),
                    );
                    return text;
                }
                (_, None) => text.push_str(" Whether records were lost in that time is not known."),
                _ => text.push_str(" No records were lost in that time."),
            }
            let _ = match burst_held {
                0 => write!(
                    text,
                    " In the second behind it {} ended, none of which had waited: nothing was asked.",
                    count(*burst)
                ),
                held => write!(
                    text,
                    " In the second behind it {} ended, {} of which had begun before: it stood still.",
                    count(*burst),
                    count(*held),
                ),
            };
            text
        }
    }
}

fn power(log10_p: f64) -> String {
    format!("< 1e{:.0}", log10_p.ceil().min(-1.0))
}

fn known_time(level_ns: u64) -> Option<&'static str> {
    let near = |known: u64| (level_ns as f64 / known as f64 - 1.0).abs() < NEAR;
    KNOWN_TIMES.iter().find(|(known, _)| near(*known)).map(|(_, what)| *what)
}

fn split_text(split: &Split) -> String {
    let Split { attribute, lower, upper, bits, share } = split;
    let (lower, upper) = (screen_text(lower), screen_text(upper));
    let what = match *attribute {
        "asked" => "whom they ask longest",
        "part" => "the longest part of their time",
        "peer" => "the other end",
        other => other,
    };
    let told = format!("it tells {bits:.2} bits, {:.0} % of which band one is in", share * 100.0);
    if lower == upper {
        return format!("What tells them apart best is {what}, of several values each: {told}.");
    }
    format!(
        "What tells them apart best is {what}, mostly {upper} in the slower band and {lower} in the other: {told}."
    )
}

/// What recorded facts say of the cause, in a sentence; `None` where there is nothing to say it of.
pub fn why(finding: &Finding) -> Option<String> {
    if finding.pattern == Pattern::Unseen {
        return None;
    }
    Some(match &finding.cause {
        Cause::NoAnatomy if finding.pattern == Pattern::Silence => return None,
        Cause::NoAnatomy => "Where their time went is not known: no anatomy was taken.".to_owned(),
        Cause::Mixed { of } => format!("Of {} with an anatomy most have no part in common.", count(*of)),
        Cause::Part { part, peer, median_ns, n, of } => {
            let peer = peer.as_ref().map(|peer| format!(", most of them {}", screen_text(peer)));
            let peer = peer.unwrap_or_default();
            let (part, time) = (part.label(), duration(*median_ns));
            let (n, of) = (count(*n), count(*of));
            match finding.pattern {
                Pattern::Floor => {
                    format!("What grew is {part}{peer}: by {time} in the mean ({n} of {of} with an anatomy).")
                }
                Pattern::Horizontal => {
                    format!(
                        "What makes it up is {part}{peer}: {time} in the median ({n} of {of} with an anatomy)."
                    )
                }
                _ => format!("Of {of} with an anatomy {n} were longest {part}{peer}: {time} in the median."),
            }
        }
    })
}

/// All of a finding, for a terminal.
pub fn lines(finding: &Finding) -> String {
    let mut text = format!("{}\n    {}\n", heading(finding), seen(finding));
    if let Some(why) = why(finding) {
        let _ = writeln!(text, "    {why}");
    }
    text
}

/// What was not looked at, or is not kept; empty where nothing was left out.
pub fn bounds_line(bounds: &Bounds) -> String {
    let Bounds { services, thinned, late, names, findings } = bounds;
    let told = [
        (*services, format!("transactions of services beyond {MAX_SERVICES} were not looked at")),
        (*thinned, "transactions of busy seconds are not among the samples".to_owned()),
        (*late, "came too late to be looked at".to_owned()),
        (*names, "have an operation or peer that is not told apart".to_owned()),
        (*findings, format!("older findings beyond {MAX_FINDINGS} are not kept")),
    ];
    let parts: Vec<String> =
        told.iter().filter(|(n, _)| *n != 0).map(|(n, what)| format!("{} {what}", count(*n))).collect();
    parts.join("; ")
}

/// Appends a finding as one JSON object and a line feed.
pub fn write_json(out: &mut Vec<u8>, finding: &Finding) {
    // Writing to a Vec cannot fail.
    let _ = try_write_json(out, finding);
}

fn try_write_json(out: &mut Vec<u8>, finding: &Finding) -> std::io::Result<()> {
    let Finding { number, pattern, from, to, service, role, operation, n, figures, cause, is_open, .. } =
        finding;
    write!(out, "{{\"number\":{number},\"pattern\":\"{}\"", pattern.as_str())?;
    write!(out, ",\"from_ns\":{},\"to_ns\":{},\"open\":{is_open},\"service\":", from.0, to.0)?;
    push_json(out, service);
    write!(out, ",\"role\":\"{}\",\"operation\":", role.as_str())?;
    match operation {
        Some(operation) => push_json(out, operation),
        None => out.extend_from_slice(b"null"),
    }
    write!(out, ",\"dots\":{n},\"figures\":{{")?;
    figures_json(out, figures)?;
    out.extend_from_slice(b"},\"cause\":");
    match cause {
        Cause::NoAnatomy => out.extend_from_slice(b"null"),
        Cause::Mixed { of } => write!(out, "{{\"part\":null,\"of\":{of}}}")?,
        Cause::Part { part, peer, median_ns, n, of } => {
            write!(out, "{{\"part\":\"{}\",\"peer\":", part.as_str())?;
            match peer {
                Some(peer) => push_json(out, peer),
                None => out.extend_from_slice(b"null"),
            }
            write!(out, ",\"median_ns\":{median_ns},\"dots\":{n},\"of\":{of}}}")?;
        }
    }
    out.extend_from_slice(b",\"text\":");
    let text = match why(finding) {
        Some(why) => format!("{} {why}", seen(finding)),
        None => seen(finding),
    };
    push_json(out, &text);
    out.extend_from_slice(b"}\n");
    Ok(())
}

fn figures_json(out: &mut Vec<u8>, figures: &Figures) -> std::io::Result<()> {
    match figures {
        Figures::Vertical { width_ns, longest_ns, expected, z, log10_p, uneven } => write!(
            out,
            "\"width_ns\":{width_ns},\"longest_ns\":{longest_ns},\"expected\":{expected:.3},\"z\":{z:.2},\
             \"log10_p\":{log10_p:.2},\"uneven\":{uneven:.3}"
        ),
        Figures::Horizontal { level_ns, multiples, expected, share, log10_p } => write!(
            out,
            "\"level_ns\":{level_ns},\"multiples\":{multiples:?},\"expected\":{expected:.3},\"share\":{share:.5},\
             \"log10_p\":{log10_p:.2}"
        ),
        Figures::Floor { before_ns, after_ns, medians_ns: [before, after], log10_p } => write!(
            out,
            "\"before_ns\":{before_ns},\"after_ns\":{after_ns},\"median_before_ns\":{before},\
             \"median_after_ns\":{after},\"log10_p\":{log10_p:.2}"
        ),
        Figures::Bands { medians_ns: [lower, upper], upper_share, valley, log10_p, split } => {
            write!(
                out,
                "\"lower_ns\":{lower},\"upper_ns\":{upper},\"upper_share\":{upper_share:.4},\"valley\":{valley:.4},\
                 \"log10_p\":{log10_p:.2},\"split\":"
            )?;
            let Some(Split { attribute, lower, upper, bits, share }) = split else {
                out.extend_from_slice(b"null");
                return Ok(());
            };
            write!(out, "{{\"attribute\":\"{attribute}\",\"lower\":")?;
            push_json(out, lower);
            out.extend_from_slice(b",\"upper\":");
            push_json(out, upper);
            write!(out, ",\"bits\":{bits:.3},\"share\":{share:.3}}}")
        }
        Figures::Ramp { slope_ns, medians_ns: [low, high], correlation, in_flight: [few, many], dropped } => {
            write!(
                out,
                "\"slope_ns\":{slope_ns},\"median_from_ns\":{low},\"median_to_ns\":{high},\
                 \"correlation\":{correlation:.3},\"in_flight_from\":{few},\"in_flight_to\":{many},\"dropped_ns\":"
            )?;
            match dropped {
                Some(at) => write!(out, "{}", at.0),
                None => write!(out, "null"),
            }
        }
        Figures::Silence { gap_ns, rate, usual_ns, log10_p, burst, burst_held, lost } => {
            write!(
                out,
                "\"gap_ns\":{gap_ns},\"rate\":{rate:.3},\"usual_ns\":{usual_ns},\"log10_p\":{log10_p:.2},\
                 \"burst\":{burst},\"burst_held\":{burst_held},\"lost\":"
            )?;
            match lost {
                Some(lost) => write!(out, "{lost}"),
                None => write!(out, "null"),
            }
        }
    }
}
