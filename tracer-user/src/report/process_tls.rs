//! The section of `txray doctor --pid`: the TLS libraries of one process, and where probes would go.

use std::fmt::Write as _;

use crate::{
    text::screen_text,
    uprobe::{
        code::Step,
        placement::Site,
        tls::{End, Function, Library, ProcessTls},
    },
};

/// What a process that may not be looked into costs its user to change.
const FIX: &str =
    "run as root, or: setcap cap_sys_ptrace,cap_checkpoint_restore,cap_dac_read_search+ep txray";

/// The section. Everything that came from the process is made safe for a screen.
pub fn text(tls: &ProcessTls) -> String {
    let mut out = String::new();
    let push = &mut out;
    line(push, format_args!("TLS of process {} ({})", tls.pid, screen_text(&tls.name)));
    for library in &tls.libraries {
        push_library(push, library);
    }
    if tls.libraries.is_empty() {
        let n = tls.n_files;
        line(push, format_args!("  note   no library of TLS was found in its {n} files with code"));
    }
    for what in &tls.unreadable {
        line(push, format_args!("  limit  {}", screen_text(what)));
    }
    if tls.libraries.iter().flat_map(|library| &library.functions).next().is_some() {
        let costs = "emulated: about 1 µs a call; single-stepped: two to three times as much, 12 to 17 µs in a nested virtual machine";
        line(push, format_args!("         costs: {costs}"));
    }
    out
}

/// The section where the process as a whole may not be looked into.
pub fn closed(pid: u32, why: &str) -> String {
    format!("TLS of process {pid}\n  limit  {}\n         get it: {FIX}\n", screen_text(why))
}

fn push_library(out: &mut String, library: &Library) {
    let version = library.version.as_deref().map(|version| format!(" {version}")).unwrap_or_default();
    let deleted = if library.deleted { " (deleted)" } else { "" };
    let word = if library.functions.is_empty() { "limit" } else { "ok   " };
    let (version, file) = (screen_text(&version), screen_text(&library.file));
    line(out, format_args!("  {word}  {}{version}: {file}{deleted}", library.kind));
    if let Some(note) = &library.note {
        line(out, format_args!("         {}", screen_text(note)));
    }
    let width =
        library.functions.iter().map(|function| function.name.chars().count()).max().unwrap_or(0).min(44);
    for function in &library.functions {
        push_function(out, function, width);
    }
}

fn push_function(out: &mut String, function: &Function, width: usize) {
    let name = screen_text(&function.name);
    let entry = match (&function.entry, &function.end) {
        (Some(site), _) => place(site),
        (None, End::Sends(_)) => "not needed".to_owned(),
        (None, _) => "no place".to_owned(),
    };
    let end = match &function.end {
        End::ReturnProbe(site) => format!("return probe {}", place(site)),
        End::Inner(site) | End::InnerWithFlags(site) => {
            format!("return probe of its inner function {}", place(site))
        }
        End::Copies(site, _) => format!("copy {}", place(site)),
        End::Sends(sends) => {
            let sends =
                sends.iter().map(|send| format!("{}, behind it {}", place(&send.call), place(&send.behind)));
            format!("sends {}", sends.collect::<Vec<_>>().join("; "))
        }
        End::Unneeded => "not needed".to_owned(),
        End::Unseen => "not seen".to_owned(),
    };
    line(out, format_args!("         {name:width$}  arguments {entry}; end: {end}"));
}

/// `0x35446 (+22 js, emulated)`.
fn place(site: &Site) -> String {
    let step = match site.step {
        Step::Emulated => "emulated",
        Step::LongNop => "emulated from Linux 6.18 on",
        Step::SingleStepped => "single-stepped",
        Step::Refused => "refused",
    };
    let again = if site.once { "" } else { ", at times passed again" };
    format!("{:#x} (+{} {}, {step}{again})", site.file_offset, site.into, site.instruction)
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::uprobe::tls::{Copy, Send};

    fn site(into: u64, instruction: &str, step: Step) -> Site {
        Site { file_offset: 0x35430 + into, into, instruction: instruction.to_owned(), step, once: true }
    }

    #[test]
    fn the_section_is_exactly_this() {
        let library = Library {
            kind: "OpenSSL",
            version: Some("3.0.19".to_owned()),
            file: "/usr/lib/libssl.so.3".to_owned(),
            id: crate::uprobe::maps::FileId { device: (8, 1), inode: 7 },
            deleted: true,
            path: "/proc/7/map_files/1-2".to_owned(),
            build_id: None,
            functions: vec![Function {
                name: "SSL_read".to_owned(),
                file_offset: 0x35430,
                entry: Some(site(22, "js", Step::Emulated)),
                end: End::ReturnProbe(site(0, "sub", Step::SingleStepped)),
            }],
            note: None,
        };
        let rustls = Library {
            kind: "rustls",
            functions: Vec::new(),
            deleted: false,
            note: Some("nothing says where\u{1b}".to_owned()),
            ..library.clone()
        };
        let own =
            |name: &str, entry, end| Function { name: name.to_owned(), file_offset: 0x35430, entry, end };
        let push = Some(site(10, "push", Step::Emulated));
        let send = |into| Send {
            call: site(into, "call", Step::Emulated),
            behind: site(into + 8, "je", Step::Emulated),
        };
        let go = Library {
            kind: "Go crypto/tls",
            version: Some("go1.26.8".to_owned()),
            deleted: false,
            functions: vec![
                own("Read", push.clone(), End::Copies(site(526, "call", Step::Emulated), Copy::Memmove)),
                own("Write", None, End::Sends(vec![send(889), send(1360)])),
                own("serverHandshake", push, End::Unneeded),
            ],
            ..library.clone()
        };
        let tls = ProcessTls {
            pid: 7,
            name: "evil\u{202e}".to_owned(),
            libraries: vec![library, rustls, go],
            n_files: 3,
            unreadable: vec!["/x: may not be read".to_owned()],
        };
        insta::assert_snapshot!(text(&tls));
        insta::assert_snapshot!(
            text(&ProcessTls { pid: 7, n_files: 3, ..ProcessTls::default() }) + &closed(7, "it may not")
        );
    }
}
