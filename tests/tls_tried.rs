//! With which versions of TLS libraries clear text was really seen: the live tests note it (`TXRAY_BLESS=1`), and the README shows the notes.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::PathBuf, sync::Mutex};

use tracer_user::uprobe::tls;

use crate::recognition::put_into_readme;

/// A note: library, version, the programs that used it, the test.
type Note = [String; 4];

fn path() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/tls_tried.csv"))
}

fn notes() -> Vec<Note> {
    let text = fs::read_to_string(path()).unwrap_or_default();
    let note = |line: &str| {
        let cells: Vec<String> = line.split(',').map(str::to_owned).collect();
        cells.try_into().unwrap_or_else(|cells| panic!("not four cells: {cells:?}"))
    };
    text.lines().map(note).collect()
}

/// A live test sees the clear text of a process by these libraries. Each has to be noted; its version may be another where the test runs.
#[track_caller]
pub(crate) fn tried(pid: u32, kinds: &[&str], test: &str, programs: &str) {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock();
    let found = tls::of(std::path::Path::new("/proc"), pid).unwrap();
    let named = |kind: &&str| found.libraries.iter().find(|library| library.kind == *kind);
    let used: Vec<_> = kinds.iter().filter_map(named).collect();
    assert_eq!(used.len(), kinds.len(), "{found:?}");
    let mut notes = notes();
    for library in used {
        let version = library.version.clone().unwrap_or("–".to_owned());
        let note = [library.kind.to_owned(), version, programs.replace(", ", " · "), test.to_owned()];
        // 3.0.19 and 3.0.20 are one, 1.1.1 is another.
        let series = |version: &str| version.splitn(3, '.').take(2).collect::<Vec<_>>().join(".");
        let is_same = |other: &Note| {
            (&other[0], series(&other[1]), &other[2..]) == (&note[0], series(&note[1]), &note[2..])
        };
        if std::env::var_os("TXRAY_BLESS").is_some() {
            notes.retain(|other| !is_same(other));
            notes.push(note);
        } else {
            assert!(notes.iter().any(is_same), "TXRAY_BLESS=1 notes {note:?} in {}", path().display());
        }
    }
    notes.sort();
    if std::env::var_os("TXRAY_BLESS").is_some() {
        fs::write(path(), notes.iter().map(|note| note.join(",") + "\n").collect::<String>()).unwrap();
    }
}

#[test]
fn the_readme_says_which_libraries_were_tried() {
    let mut rows: BTreeMap<[String; 2], [Vec<String>; 2]> = BTreeMap::new();
    for [library, version, programs, test] in notes() {
        let row = rows.entry([library, version]).or_default();
        for (cell, text) in row.iter_mut().zip([programs.split(" · ").collect(), vec![test.as_str()]]) {
            for one in text {
                if !cell.iter().any(|other| other == one) {
                    cell.push(one.to_owned());
                }
            }
        }
    }
    let mut table =
        "| library | version | programs | tests (`tests/live`) |\n| --- | --- | --- | --- |\n".to_owned();
    for ([library, version], [mut programs, mut tests]) in rows {
        programs.sort();
        tests.sort();
        let _ = writeln!(table, "| {library} | {version} | {} | {} |", programs.join(", "), tests.join(", "));
    }
    put_into_readme("tls libraries", &table);
}
