//! What this run cannot know: features that did not load, processes that it may not look into.

use unicode_width::UnicodeWidthStr as _;

use crate::{report::format::count, tui::model::Model};

/// Both in one line that is no wider than `room`, or in as few words as there are; empty where nothing is missing.
pub(super) fn badge(model: &Model, room: usize) -> String {
    let mut long = Vec::new();
    let mut short = Vec::new();
    if !model.missing.is_empty() {
        let features: Vec<&str> = model.missing.iter().map(|[feature, _]| &**feature).collect();
        long.push(format!("degraded: without {}", features.join(", ")));
        short.push(format!("degraded {}", model.missing.len()));
    }
    if model.denied != 0 {
        long.push(denied(model));
        short.push(format!("not looked into {}", count(model.denied)));
    }
    let framed = |parts: &[String]| {
        if parts.is_empty() { String::new() } else { format!(" {} ", parts.join("; ")) }
    };
    let long = framed(&long);
    if long.width() <= room { long } else { framed(&short) }
}

/// Each with its reason, one a line.
pub(super) fn lines(model: &Model) -> Vec<String> {
    let mut lines: Vec<String> =
        model.missing.iter().map(|[feature, reason]| format!("without {feature}: {reason}")).collect();
    if model.denied != 0 {
        lines.push(format!("{}; their services are named by what anyone may see", denied(model)));
    }
    lines
}

fn denied(model: &Model) -> String {
    let (n, processes) = (count(model.denied), if model.denied == 1 { "process" } else { "processes" });
    let why = match &model.lacks[..] {
        // Recorded elsewhere, or a security module: the rights alone do not explain it.
        [] => "the system refused".to_owned(),
        [right] => format!("{right} is missing"),
        rights => format!("{} are missing", rights.join(", ")),
    };
    format!("{n} {processes} could not be looked into: {why}")
}
