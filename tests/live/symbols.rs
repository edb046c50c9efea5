//! Names for the frames of stripped programs, found after the program is gone: by their build ids, inlined functions included.

use std::{
    fs,
    net::TcpStream,
    path::{Path, PathBuf},
    process::Command,
};

use rstest::rstest;
use serde_json::Value;
use tempfile::TempDir;

use super::{
    Hooks, anatomy::ask, functions::compile, machine, stacks::serve, tool, tracer::Tracer, txray_program,
};

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// What a command of txray prints about a recording, and its exit code.
fn txray(what: &str, dir: &Path, args: &[&str]) -> (String, Option<i32>) {
    let output = Command::new(txray_program()).arg(what).arg(dir).args(args).output().unwrap();
    assert!(output.stderr.is_empty() || output.status.code() == Some(0), "{what} {args:?}: {output:?}");
    (String::from_utf8(output.stdout).unwrap(), output.status.code())
}

/// What of a program is in the frames of all stacks, without offsets, by what prints them.
fn chains(dir: &Path) -> Vec<Vec<String>> {
    let (folded, _) = txray("stacks", dir, &["--part", "on", "--format", "folded"]);
    let names = |line: &str| line.rsplit_once(' ').unwrap().0.split(';').rev().map(str::to_owned).collect();
    folded.lines().map(names).collect()
}

fn replayed(dir: &Path) -> Vec<Value> {
    let (lines, _) = txray("replay", dir, &["--json"]);
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[rstest]
#[case::c("serves.c", &["-g", "-DWITHIN"], "inner", "middle", "outer")]
#[case::rust("serves.rs", &["-g", "--cfg", "within", "--check-cfg", "cfg(within)"],
    "serves::inner", "serves::middle", "serves::outer")]
fn a_stripped_program_gets_its_names_from_its_debug_file_when_it_is_gone(
    #[case] source: &str,
    #[case] flags: &[&str],
    #[case] inner: &str,
    #[case] middle: &str,
    #[case] outer: &str,
) {
    let _machine = machine();
    let folder = TempDir::new().unwrap();
    let path = compile(&Path::new("stacks").join(source), folder.path(), flags);
    let [objcopy, strip, readelf] = ["objcopy", "strip", "readelf"].map(|name| tool(name, "binutils"));
    // Anywhere, by any name.
    let elsewhere = folder.path().join("images/of/shop");
    fs::create_dir_all(&elsewhere).unwrap();
    let debug: PathBuf = elsewhere.join("f00.debug");
    run(Command::new(objcopy).arg("--only-keep-debug").args([&path, &debug]));
    run(Command::new(strip).arg("--strip-all").arg(&path));
    let notes = run(Command::new(readelf).arg("-n").arg(&path));
    let (_, id) = notes.split_once("Build ID: ").unwrap();
    let id = id.split_whitespace().next().unwrap();

    let served = serve(Command::new(&path));
    let tracer = Tracer::start_with(Hooks::Socket, &[served.pid], &["--stacks", "all"]);
    ask(&mut TcpStream::connect(("127.0.0.1", served.port)).unwrap(), "/spin/400", None);
    let capture = tracer.stop();
    let dir = capture.recording();
    let recorded = replayed(&dir);
    drop(served);
    fs::remove_file(&path).unwrap();

    // As it was recorded: places without names.
    let before = chains(&dir);
    let has = |chains: &[Vec<String>], name: &str| chains.iter().flatten().any(|frame| frame == name);
    assert!(before.iter().flatten().any(|frame| frame.starts_with("serves+0x")), "{before:?}");
    assert!(![inner, middle, outer].iter().any(|name| has(&before, name)), "{before:?}");
    let (told, _) = txray("symbols", &dir, &[]);
    let line = told.lines().find(|line| line.starts_with(path.to_str().unwrap())).unwrap();
    assert!(line.contains(id) && line.ends_with("; no file with this build id was found"), "{told}");
    // A file that is of another program says nothing.
    let other = std::env::current_exe().unwrap();
    txray("symbols", &dir, &[other.to_str().unwrap()]);
    assert_eq!(
        chains(&dir).iter().flatten().filter(|frame| frame.starts_with("serves+0x")).count(),
        before.iter().flatten().filter(|frame| frame.starts_with("serves+0x")).count()
    );

    // From a folder of debug files.
    let (told, code) = txray("symbols", &dir, &[folder.path().join("images").to_str().unwrap()]);
    let line = told.lines().find(|line| line.starts_with(path.to_str().unwrap())).unwrap();
    assert!(line.ends_with(&format!("; read {}", debug.display())) && line.contains("named now"), "{told}");
    assert!(line.contains("with inlined functions") && !line.contains("without a name"), "{told}");
    assert_eq!(code, Some(0), "{told}");
    let after = chains(&dir);
    let full = |chain: &&Vec<String>| chain.windows(3).any(|three| three == [inner, middle, outer]);
    let n_full = after.iter().filter(full).count();
    // One may be of reading or answering.
    let is_all = after.len() - n_full <= 1 || n_full * 20 >= after.len() * 19;
    assert!(is_all && n_full > 0, "{after:#?}");
    assert!(!after.iter().flatten().any(|frame| frame.starts_with("serves+0x")), "{after:#?}");
    // Looked for again where nothing is: what was found stays.
    txray("symbols", &dir, &[]);
    assert_eq!(chains(&dir), after);

    // A replay says the same, and nothing else has changed.
    let now = replayed(&dir);
    let text = serde_json::to_string(&now).unwrap();
    for wanted in [format!("\"{inner}+0x"), format!("\"{middle} (serves)\""), format!("\"{outer}+0x")] {
        assert!(text.contains(&wanted), "{wanted}: {text}");
    }
    let without = |mut all: Vec<Value>| {
        all.iter_mut().for_each(|one| drop(one.as_object_mut().unwrap().remove("stacks")));
        all
    };
    assert_eq!(without(now), without(recorded.clone()));
    // Without the file it is as it was recorded.
    fs::remove_file(dir.join("symbols.json")).unwrap();
    assert_eq!(replayed(&dir), recorded);
    fs::write(dir.join("symbols.json"), "{}").unwrap();
    let output = Command::new(txray_program()).arg("stacks").arg(&dir).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && told.contains("symbols.json"), "{output:?}");
}
