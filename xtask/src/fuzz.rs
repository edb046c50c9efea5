//! `cargo xtask fuzz`: libFuzzer on every target of `tests/fuzz` for a bounded time.
//!
//! The folder has cargo-fuzz's layout, so `cargo fuzz` works on it too; this builds the same with the stable compiler, whose
//! flags for coverage are all it takes. The parsers are safe Rust: what is looked for is a panic, a hang or a broken
//! property, for which no sanitizer is needed.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::{
    setup,
    shell::{cargo, command, run, show, target_dir, workspace_root},
};

#[derive(Args, Debug)]
pub(crate) struct FuzzArgs {
    /// How long each target runs.
    #[arg(long, default_value_t = 60)]
    pub(crate) seconds: u64,
    /// Only this target.
    target: Option<String>,
}

const TARGET: &str = "x86_64-unknown-linux-gnu";
/// As cargo-fuzz sets them, sanitizer apart.
const FLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
                     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
                     -Cllvm-args=-sanitizer-coverage-trace-compares -Clink-dead-code -Cdebug-assertions \
                     -Ccodegen-units=1";
/// Largest input, in bytes.
const LONGEST_INPUT: u32 = 4096;
/// Seconds on one input that count as a hang. libFuzzer takes them from the wall clock: on a busy machine a niced run may
/// not be on a CPU for 13 of them (seen), while an input takes a millisecond.
const HANG: u32 = 120;

pub(crate) fn fuzz(args: &FuzzArgs) -> Result<()> {
    setup::run(&setup::SetupArgs::default())?;
    setup::cxx()?;
    let dir = workspace_root().join("tests/fuzz");
    let targets: Vec<String> = targets(&dir)?
        .into_iter()
        .filter(|name| args.target.as_ref().is_none_or(|only| only == name))
        .collect();
    if targets.is_empty() {
        bail!("no such target in {}", dir.display());
    }
    let target_dir = target_dir().join("fuzz");
    let mut build = cargo(["build", "--release", "--bins", "--target", TARGET, "--manifest-path"]);
    build.arg(dir.join("Cargo.toml")).arg("--target-dir").arg(&target_dir);
    build.env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS", FLAGS);
    run(&mut build)?;
    for target in &targets {
        println!("fuzz: {target} for {} s", args.seconds);
        run_target(&target_dir.join(TARGET).join("release").join(target), target, &dir, args.seconds)?;
    }
    println!("fuzz: {} targets found nothing in {} s each", targets.len(), args.seconds);
    Ok(())
}

fn run_target(program: &Path, name: &str, dir: &Path, seconds: u64) -> Result<()> {
    // New inputs go to the first folder; the kept corpus behind it is only read.
    let found = target_dir().join("fuzz/found").join(name);
    let artifacts = target_dir().join("fuzz/artifacts").join(name);
    fs::create_dir_all(&found)?;
    fs::create_dir_all(&artifacts)?;
    let mut fuzzer = command(&program.to_string_lossy(), [&found]);
    let corpus = dir.join("corpus").join(name);
    if corpus.is_dir() {
        fuzzer.arg(&corpus);
    }
    fuzzer
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-artifact_prefix={}/", artifacts.display()));
    fuzzer.args([
        format!("-max_len={LONGEST_INPUT}"),
        format!("-timeout={HANG}"),
        "-print_final_stats=1".into(),
    ]);
    run_shown_in_part(&mut fuzzer)
        .with_context(|| format!("{name} found something; the input is in {}", artifacts.display()))
}

/// Runs libFuzzer and shows what it says, without its thousands of lines of progress and of recommended dictionary.
fn run_shown_in_part(fuzzer: &mut Command) -> Result<()> {
    println!("   $ {}", show(fuzzer));
    let mut child = fuzzer.stderr(Stdio::piped()).spawn().context("starting the fuzzer")?;
    let stderr = child.stderr.take().context("the fuzzer's output")?;
    for line in BufReader::new(stderr).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        // `#1234 NEW cov: …`, `"\001\000" # Uses: 38`.
        let is_progress = line.starts_with('#') && (line.contains(" NEW ") || line.contains("REDUCE"));
        let is_dictionary = line.starts_with('"') && line.contains(" # Uses: ");
        if !is_progress && !is_dictionary {
            println!("{line}");
        }
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("failed ({status}): {}", show(fuzzer));
    }
    Ok(())
}

/// Names of the targets: the files in `fuzz_targets`.
fn targets(dir: &Path) -> Result<Vec<String>> {
    let folder = dir.join("fuzz_targets");
    let entries = fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))?;
    let files: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    let mut names: Vec<String> = files
        .iter()
        .filter(|file| file.extension().is_some_and(|extension| extension == "rs"))
        .filter_map(|file| Some(file.file_stem()?.to_string_lossy().into_owned()))
        .collect();
    names.sort();
    Ok(names)
}
