//! The text of `txray doctor`: one line per finding, and below what is missing its cost and the way to get it.

use std::fmt::Write as _;

use crate::{
    bpf::{
        diagnosis::{Area, Check, Diagnosis, Severity},
        features::Features,
    },
    text::screen_text,
};

/// The whole report. Everything that came from the host is made safe for a screen.
pub fn text(features: &Features, diagnosis: &Diagnosis) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "txray {} on Linux {} ({})",
        env!("CARGO_PKG_VERSION"),
        screen_text(&features.kernel),
        screen_text(&features.machine)
    );
    let _ = writeln!(out, "{}\n", verdict(diagnosis));
    let mut area = None;
    for check in &diagnosis.checks {
        if area.replace(check.area) != Some(check.area) {
            let _ = writeln!(out, "{}", title(check.area));
        }
        push(&mut out, check);
    }
    out
}

/// The answer in one sentence.
pub fn verdict(diagnosis: &Diagnosis) -> String {
    if diagnosis.can_trace {
        return match (diagnosis.families.socket, diagnosis.families.syscall) {
            (true, true) => "This host can be traced, by socket tracepoints or by system calls.",
            (true, false) => "This host can be traced, by socket tracepoints.",
            _ => "This host can be traced, by system calls.",
        }
        .to_owned();
    }
    let who =
        if diagnosis.is_privilege_only() { "This user cannot trace" } else { "This host cannot be traced" };
    let why: Vec<String> = diagnosis.fatal().map(|check| screen_text(&check.what).into_owned()).collect();
    format!("{who}: {}.", why.join("; "))
}

fn title(area: Area) -> &'static str {
    match area {
        Area::Kernel => "kernel",
        Area::Privileges => "privileges",
        Area::Hooks => "hooks",
        Area::Memory => "ring and maps",
        Area::Mounts => "mounts",
        Area::Tls => "TLS in use",
    }
}

fn push(out: &mut String, check: &Check) {
    let word = match check.severity {
        Severity::Ok => "ok",
        Severity::Note => "note",
        Severity::Limit => "limit",
        Severity::Fatal => "FATAL",
    };
    // Writing to a String cannot fail.
    let _ = writeln!(out, "  {word:<5}  {}", screen_text(&check.what));
    if !check.cost.is_empty() {
        let _ = writeln!(out, "         costs: {}", screen_text(&check.cost));
    }
    if !check.fix.is_empty() {
        let _ = writeln!(out, "         get it: {}", screen_text(&check.fix));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bpf::{diagnosis::diagnose, features::test_hosts};

    #[test]
    fn hosts_are_described_as_written_down() {
        insta::with_settings!({snapshot_path => "../../../fixtures/doctor", prepend_module_to_snapshot => false}, {
            for (name, host) in
                ["good", "old", "locked_down", "unprivileged", "without_btf"].into_iter().zip(test_hosts::all())
            {
                insta::assert_snapshot!(name, text(&host, &diagnose(&host)));
            }
        });
    }

    #[test]
    fn names_from_the_host_cannot_move_the_cursor() {
        let mut host = test_hosts::old();
        host.kernel = "5.10\u{1b}[1m".to_owned();
        host.mounts.cgroup2 = Some("/a\rb".to_owned());
        let report = text(&host, &diagnose(&host));
        let unsafe_character = report.chars().find(|c| c.is_control() && *c != '\n' || *c == '\u{202e}');
        assert_eq!(unsafe_character, None);
        assert!(report.contains("evil\\u{202e}\\n"), "{report}");
    }
}
