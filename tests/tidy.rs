//! The house rules that a machine can check: who may name which crate, which way modules look, that lists and folders
//! agree, that documents say what the program says. Each rule is a function over text with a test of its own that
//! shows it going red.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Invariant 9: the crate roots, and the places below `tracer-user/src` that alone may name them.
const OWNED_CRATES: &[(&[&str], &[&str])] = &[
    (&["aya", "aya_obj", "aya_log"], &["bpf/"]),
    (&["ratatui", "crossterm"], &["tui/"]),
    (
        &["arrow_array", "arrow_buffer", "arrow_ipc", "arrow_schema", "parquet"],
        &["schema", "sink/parquet", "sink/recording", "source/replay", "source/recording"],
    ),
];

/// Modules in the order in which an event travels. A module may name those before it and itself.
const FLOW: &[&str] = &[
    "uprobe",
    "bpf",
    "event",
    "conn",
    "protocol",
    "transaction",
    "enrich",
    "pipeline",
    "schema",
    "sink",
    "source",
    "report",
    "tui",
    "cli",
];
/// What everyone may use.
const BASE: &[&str] = &["config", "metrics", "text", "time"];
/// Pairs that look downstream on purpose: the ring yields events, and live capture hands the pipeline its verdicts.
const ALLOWED_BACKWARDS: &[(&str, &str)] = &[("bpf", "event"), ("bpf", "pipeline")];

/// Words that name nothing here, as part of a type's or a file's name.
const BANNED_WORDS: &[&str] =
    &["packet", "flow", "session", "stitch", "manager", "handler", "helper", "util", "utils"];
/// The one name with such a word: which way a message goes, not a flow of traffic.
const BANNED_WORDS_EXCEPT: &[&str] = &["Flow"];

/// No file is longer than this, in lines.
const LONGEST_FILE: usize = 800;

#[test]
fn each_crate_is_named_only_where_it_belongs() {
    check(|file, text| {
        let inside = file.strip_prefix("tracer-user/src/")?;
        let mut faults = Vec::new();
        for (names, places) in OWNED_CRATES {
            if !places.iter().any(|place| inside.starts_with(place)) {
                faults.extend(crates_named(text, names));
            }
        }
        Some(faults)
    });
    assert!(!crates_named("use aya::Ebpf;", &["aya"]).is_empty());
    assert!(!crates_named("    let x = parquet::file::Reader::new();", &["parquet"]).is_empty());
    assert!(!crates_named("use {\n    bytes::Bytes,\n    ratatui::Frame,\n};", &["ratatui"]).is_empty());
    assert!(crates_named("use crate::sink::parquet::Parquet; // aya::x", &["aya", "parquet"]).is_empty());
    assert!(crates_named("use super::{jsonl::A, parquet::B};", &["parquet"]).is_empty());
}

#[test]
fn modules_look_only_upstream() {
    check(|file, text| {
        let inside = file.strip_prefix("tracer-user/src/")?;
        let module = inside.split(['/', '.']).next()?;
        (!["lib", "main"].contains(&module)).then(|| modules_looked_at_from(module, text))
    });
    assert!(!modules_looked_at_from("protocol", "use crate::sink::Sink;").is_empty());
    assert!(!modules_looked_at_from("conn", "use crate::{\n    event::Event,\n    tui::App,\n};").is_empty());
    assert!(!modules_looked_at_from("conn", "fn f() { crate::cli::run() }").is_empty());
    assert!(!modules_looked_at_from("time", "use crate::event::Event;").is_empty());
    assert!(modules_looked_at_from("sink", "use crate::{event::{Event, tui}, time::Timestamp};").is_empty());
    assert!(
        modules_looked_at_from("conn", "#[cfg(test)]\nmod tests { use crate::source::Source; }").is_empty()
    );
}

#[test]
fn lib_lists_the_modules_in_the_order_of_the_flow() {
    let text = read("tracer-user/src/lib.rs");
    let listed: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod ").and_then(|rest| rest.strip_suffix(';')))
        .collect();
    for module in &listed {
        assert!(FLOW.contains(module) || BASE.contains(module), "`{module}` has no place in tests/tidy.rs");
    }
    let known: BTreeSet<&str> = FLOW.iter().chain(BASE).copied().collect();
    let gone: Vec<_> =
        known.difference(&listed.iter().copied().collect()).copied().filter(|m| *m != "text").collect();
    assert!(gone.is_empty(), "no longer modules, but still in tests/tidy.rs: {gone:?}");
}

#[test]
fn the_registry_the_files_and_the_fixtures_agree() {
    let registered: BTreeSet<String> =
        tracer_user::protocol::REGISTRY.iter().map(|protocol| protocol.name().to_owned()).collect();
    assert_eq!(registered, protocol_files(), "REGISTRY and tracer-user/src/protocol/*.rs");
    let missing: Vec<_> =
        registered.iter().filter(|name| !root().join("fixtures").join(name).is_dir()).collect();
    assert!(missing.is_empty(), "protocols without a folder in fixtures/: {missing:?}");
}

/// Names of the protocols that have a file or a folder of their own.
fn protocol_files() -> BTreeSet<String> {
    // Shared parts that are no protocols.
    const SHARED: &[&str] = &["mod", "codec", "infer", "properties", "testing"];
    fs::read_dir(root().join("tracer-user/src/protocol"))
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
        .filter(|stem| !SHARED.contains(&stem.as_str()))
        .collect()
}

#[test]
fn every_file_says_in_its_first_line_what_it_is() {
    check(|_, text| Some(first_line_faults(text)));
    assert!(!first_line_faults("use std::fs;\n").is_empty());
    assert!(!first_line_faults("//!\n").is_empty());
    assert!(first_line_faults("//! Something.\n").is_empty());
}

#[test]
fn no_file_is_too_long() {
    check(|_, text| Some(length_faults(text)));
    assert!(!length_faults(&"x\n".repeat(LONGEST_FILE + 1)).is_empty());
}

#[test]
fn files_and_types_have_names_from_the_glossary() {
    check(|file, text| {
        let mut faults = banned_in_path(file);
        // This file plants such names below.
        if file != "tests/tidy.rs" {
            faults.extend(banned_types(text));
        }
        Some(faults)
    });
    assert!(!banned_types("pub(crate) struct PacketQueue;").is_empty());
    assert!(!banned_types("enum FlowKind {}").is_empty());
    assert!(banned_types("pub enum Flow {}\nstruct Overflow;\n// struct Packet;").is_empty());
    assert!(!banned_in_path("tracer-user/src/conn/session_table.rs").is_empty());
    assert!(banned_in_path("tracer-user/src/conn/overflow.rs").is_empty());
}

#[test]
fn no_test_is_ignored_or_expected_to_panic() {
    check(|_, text| Some(attribute_faults(text)));
    assert!(!attribute_faults(concat!("    #[", "ignore = \"slow\"]")).is_empty());
    assert!(!attribute_faults(concat!("#[should", "_panic(expected = \"x\")]")).is_empty());
    assert!(attribute_faults("#[test]").is_empty());
}

#[test]
fn nothing_names_the_place_it_was_built_in() {
    let here = root();
    let here = here.canonicalize().unwrap_or(here);
    let here = format!("{}/", here.display());
    let faults: Vec<String> = text_files()
        .into_iter()
        .filter(|file| read(file).contains(&here))
        .map(|file| format!("{file}: names {here}"))
        .collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn the_readme_shows_the_help_that_the_program_prints() {
    let help = std::process::Command::new(env!("CARGO_BIN_EXE_txray"))
        .arg("--help")
        .env_remove("COLUMNS")
        .output()
        .expect("txray --help");
    assert!(help.status.success());
    let help = String::from_utf8(help.stdout).unwrap();
    let readme = read("README.md");
    let shown = help_block(&readme).expect("README.md has a block that begins with `$ txray --help`");
    if shown.trim_end() == help.trim_end() {
        return;
    }
    assert!(bless(), "README.md shows another help than `txray --help` prints; {BLESS}");
    let blessed = readme
        .replace(&format!("{HELP_COMMAND}{shown}\n```"), &format!("{HELP_COMMAND}{}\n```", help.trim_end()));
    fs::write(root().join("README.md"), blessed).unwrap();
}

#[test]
fn the_block_of_the_readme_is_what_stands_between_the_command_and_the_fence() {
    assert_eq!(help_block("```text\n$ txray --help\nA\nB\n```\nC\n```\n"), Some("A\nB"));
    assert_eq!(help_block("# txray\n"), None);
}

#[test]
fn a_change_of_the_abi_raises_its_version() {
    let mut code = String::new();
    for file in text_files().into_iter().filter(|file| file.starts_with("tracer-ebpf/src/abi/")) {
        // What the compiler sees: no comments, no indentation, no tests.
        let text = read(&file);
        code.extend(code_lines(before_tests(&text)).map(|line| line.trim().to_owned() + "\n"));
    }
    let now = format!("{} {:016x}\n", tracer_ebpf::ABI_VERSION, fnv1a(code.as_bytes()));
    let committed = read(ABI_FILE);
    if now == committed {
        return;
    }
    let version = |text: &str| text.split(' ').next().map(str::to_owned);
    assert_ne!(version(&now), version(&committed), "the ABI changed: raise ABI_VERSION, then {BLESS}");
    assert!(bless(), "the ABI has a new version; {BLESS}");
    fs::write(root().join(ABI_FILE), now).unwrap();
}

#[test]
fn the_hash_of_the_abi_tells_one_byte() {
    assert_ne!(fnv1a(b"pub a: u32,"), fnv1a(b"pub a: u64,"));
    // The published value for this input.
    assert_eq!(fnv1a(b"a"), 0xaf63_dc4c_8601_ec8c);
}

/// Version and hash of the ABI, as committed.
const ABI_FILE: &str = "fixtures/abi.txt";
const HELP_COMMAND: &str = "$ txray --help\n";
/// How to accept what is there now.
#[test]
fn the_readme_names_every_key_of_a_transaction() {
    let readme = read("README.md");
    let columns = tracer_user::schema::transaction_rows::COLUMNS;
    for key in tracer_user::sink::jsonl::KEYS.iter().chain(columns) {
        assert!(readme.contains(&format!("`{key}`")), "README.md does not name {key}");
    }
}

const BLESS: &str = "accept it with `TXRAY_BLESS=1 cargo test tidy`";

fn bless() -> bool {
    std::env::var_os("TXRAY_BLESS").is_some_and(|value| value == "1")
}

/// The block of the README that shows the help.
fn help_block(readme: &str) -> Option<&str> {
    let (_, rest) = readme.split_once(HELP_COMMAND)?;
    let (block, _) = rest.split_once("\n```")?;
    Some(block)
}

fn fnv1a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Lines that name one of the crates as a crate, comments and paths through our own modules apart.
fn crates_named(text: &str, names: &[&str]) -> Vec<String> {
    let mut faults = Vec::new();
    let mut own_use = false;
    for line in code_lines(text) {
        // `use crate::…` and `use super::…` name our modules, over as many lines as they take.
        let trimmed = line.trim_start().trim_start_matches("pub ").trim_start_matches("pub(crate) ");
        own_use |= ["use crate::", "use super::", "use self::"].iter().any(|own| trimmed.starts_with(own));
        if !own_use {
            faults
                .extend(names.iter().filter(|name| names_crate(line, name)).map(|_| line.trim().to_owned()));
        }
        own_use &= !line.contains(';');
    }
    faults
}

/// Whether `name::` or `use name;` stands in the line as the beginning of a path.
fn names_crate(line: &str, name: &str) -> bool {
    line.match_indices(name).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let behind = &line[at + name.len()..];
        let begins = before.is_none_or(|c| !c.is_alphanumeric() && c != '_' && c != ':' && c != '"');
        begins
            && (behind.starts_with("::")
                || (line.trim_start().starts_with("use ") && behind.starts_with(';')))
    })
}

/// Modules of ours that a file of `module` names although they stand downstream of it.
fn modules_looked_at_from(module: &str, text: &str) -> Vec<String> {
    let rank = |name: &str| FLOW.iter().position(|known| *known == name);
    // The pipeline composes, and so do the subcommands.
    if module == "pipeline" {
        return Vec::new();
    }
    let text = before_tests(text);
    let code: String = code_lines(text).map(|line| format!("{line}\n")).collect();
    let mut faults = Vec::new();
    for named in crate_paths(&code) {
        let allowed = named == module
            || BASE.contains(&named.as_str())
            || ALLOWED_BACKWARDS.contains(&(module, named.as_str()))
            || match (rank(module), rank(&named)) {
                (Some(own), Some(other)) => other < own,
                // Macros and re-exports at the root have no rank.
                (_, None) => true,
                (None, Some(_)) => false,
            };
        if !allowed {
            faults.push(format!("`{module}` names `{named}`, which stands downstream of it"));
        }
    }
    faults
}

/// First segments of the paths that begin with `crate::`, through one level of braces.
fn crate_paths(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, root) in code.match_indices("crate::") {
        // `pub(crate)` has no `::`, and `$crate::` is a macro's.
        let behind = &code[at + root.len()..];
        match behind.strip_prefix('{') {
            None => found.extend(first_segment(behind)),
            Some(list) => {
                let (mut depth, mut item) = (0_usize, String::new());
                for c in list.chars() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => {
                            found.extend(first_segment(item.trim()));
                            item.clear();
                            continue;
                        }
                        _ => {}
                    }
                    item.push(c);
                }
                found.extend(first_segment(item.trim()));
            }
        }
    }
    found
}

fn first_segment(path: &str) -> Option<String> {
    let segment: String = path.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    (!segment.is_empty()).then_some(segment)
}

/// The text up to its unit tests, which may use whatever they need.
fn before_tests(text: &str) -> &str {
    text.split_once("#[cfg(test)]").map_or(text, |(code, _)| code)
}

fn code_lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(|line| line.split_once("//").map_or(line, |(code, _)| code))
}

fn first_line_faults(text: &str) -> Vec<String> {
    let first = text.lines().next().unwrap_or_default();
    let says = first.strip_prefix("//! ").is_some_and(|rest| rest.len() > 3);
    if says { Vec::new() } else { vec![format!("its first line is no `//!` line: {first:?}")] }
}

fn length_faults(text: &str) -> Vec<String> {
    let n_lines = text.lines().count();
    if n_lines > LONGEST_FILE { vec![format!("{n_lines} lines; split it")] } else { Vec::new() }
}

fn banned_in_path(file: &str) -> Vec<String> {
    let stem = Path::new(file).file_stem().unwrap_or_default().to_string_lossy().into_owned();
    stem.split(['_', '-'])
        .filter(|word| BANNED_WORDS.contains(word))
        .map(|word| format!("the file's name has the word `{word}`"))
        .collect()
}

fn banned_types(text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    for line in code_lines(text) {
        let mut words =
            line.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty());
        let Some(_) = words.find(|word| ["struct", "enum", "trait", "type", "union", "mod"].contains(word))
        else {
            continue;
        };
        let Some(name) = words.next() else { continue };
        let banned = words_of(name).into_iter().find(|word| BANNED_WORDS.contains(&word.as_str()));
        if let Some(word) = banned
            && !BANNED_WORDS_EXCEPT.contains(&name)
        {
            faults.push(format!("`{name}` has the word `{word}`"));
        }
    }
    faults
}

/// The words of a CamelCase or snake_case name, in lower case.
fn words_of(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    for c in name.chars() {
        if c == '_' || c.is_uppercase() {
            words.push(String::new());
        }
        if c != '_'
            && let Some(word) = words.last_mut()
        {
            word.extend(c.to_lowercase());
        }
    }
    words
}

fn attribute_faults(text: &str) -> Vec<String> {
    let banned = [concat!("#[", "ignore"), concat!("#[should", "_panic")];
    text.lines()
        .map(str::trim_start)
        .filter(|line| banned.iter().any(|attribute| line.starts_with(attribute)))
        .map(str::to_owned)
        .collect()
}

/// Runs a rule over every Rust file of ours and fails with all faults at once.
#[track_caller]
fn check(rule: impl Fn(&str, &str) -> Option<Vec<String>>) {
    let mut faults = BTreeMap::new();
    let mut n_files = 0;
    for file in text_files().into_iter().filter(|file| file.ends_with(".rs")) {
        n_files += 1;
        let found = rule(&file, &read(&file)).unwrap_or_default();
        if !found.is_empty() {
            faults.insert(file, found);
        }
    }
    assert!(n_files > 30, "the files were not found: {n_files}");
    assert!(faults.is_empty(), "{faults:#?}");
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_path_buf()
}

fn read(file: &str) -> String {
    fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// Our text files, relative to the workspace's root.
fn text_files() -> Vec<String> {
    const KINDS: &[&str] = &["rs", "toml", "md", "sh", "txt", "yml", "yaml"];
    fn walk(dir: &Path, files: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() {
                let is_ours = !["target", ".git", "corpus", "artifacts"].contains(&name.as_str());
                if is_ours && !path.is_symlink() {
                    walk(&path, files);
                }
            } else if KINDS.iter().any(|kind| name.ends_with(&format!(".{kind}"))) {
                files.push(path);
            }
        }
    }
    let mut files = Vec::new();
    walk(&root(), &mut files);
    files.push(root().join(".ci/run"));
    let mut files: Vec<String> = files
        .into_iter()
        .map(|file| file.strip_prefix(root()).unwrap().to_string_lossy().into_owned())
        .collect();
    files.sort();
    files.dedup();
    files
}
