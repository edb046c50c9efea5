//! `bpf-linker`: links LLVM bitcode into a BPF object, so its LLVM must be able to read what the compiler writes.
//!
//! Whether the one that is there can is not guessed from versions: set-up links a trial program with it.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::{packages, toolchain::Toolchain};
use crate::shell::{command, output, run, target_dir, which};

/// The version that is installed where none works.
const VERSION: &str = "0.13.0";

/// A program of one function that needs no library, so that a trial takes a quarter of a second.
const TRIAL: &str = r#"#![feature(no_core, lang_items)]
#![allow(internal_features)]
#![no_core]
#![no_main]
#[lang = "pointee_sized"]
pub trait PointeeSized {}
#[lang = "meta_sized"]
pub trait MetaSized: PointeeSized {}
#[lang = "sized"]
pub trait Sized: MetaSized {}
#[unsafe(no_mangle)]
#[unsafe(link_section = "socket")]
pub extern "C" fn trial() -> u64 {
    0
}
"#;

/// Finds a linker that works with the toolchain, or installs one.
pub(crate) fn ensure(toolchain: &Toolchain) -> Result<PathBuf> {
    let found = packages::have_program("bpf-linker").then(|| which("bpf-linker")).flatten();
    match found {
        None => println!("setup: there is no bpf-linker"),
        Some(linker) => match trial(toolchain) {
            Ok(()) => return Ok(linker),
            Err(error) => println!("setup: {} does not work with this compiler: {error:#}", linker.display()),
        },
    }
    install(toolchain)?;
    trial(toolchain).context("the bpf-linker that was just installed does not work with the compiler")?;
    which("bpf-linker").context("bpf-linker was installed outside PATH; add cargo's bin folder to it")
}

/// Compiles and links the trial program, in a folder of its own: two set-ups may run at once, and each other's files would
/// vanish between compiler and linker.
fn trial(toolchain: &Toolchain) -> Result<()> {
    let dir = target_dir().join(format!("xtask/trial-{}", std::process::id()));
    fs::create_dir_all(&dir)?;
    let tried = trial_in(&dir, toolchain);
    fs::remove_dir_all(&dir)?;
    tried
}

fn trial_in(dir: &Path, toolchain: &Toolchain) -> Result<()> {
    let source = dir.join("trial.rs");
    fs::write(&source, TRIAL)?;
    let mut rustc = command("rustup", ["run", &toolchain.name, "rustc"]);
    rustc
        .args(["--edition", "2024", "--crate-type", "bin", "--target", "bpfel-unknown-none"])
        .args(["-C", "panic=abort", "-C", "debuginfo=2", "-C", "link-arg=--btf", "-o"])
        .arg(dir.join("trial.o"))
        .arg(&source)
        .env("RUSTC_BOOTSTRAP", "1");
    output(&mut rustc).map(drop)
}

fn install(toolchain: &Toolchain) -> Result<()> {
    let llvm = toolchain.llvm_major();
    if let Some(prefix) = llvm_prefix(llvm)? {
        println!(
            "setup: building bpf-linker {VERSION} against LLVM {llvm} in {} (about two minutes)",
            prefix.display()
        );
        return run(cargo_install(&format!("llvm-{llvm}")).env("LLVM_PREFIX", prefix));
    }
    if packages::have_program("cargo-binstall") {
        println!("setup: fetching bpf-linker {VERSION} as its authors built it");
        return run(&mut command("cargo", ["binstall", "-y", "bpf-linker", "--version", VERSION]));
    }
    bail!(
        "bpf-linker must be built against LLVM {llvm}, the compiler's: install its development files (Debian: \
         llvm-{llvm}-dev), or cargo-binstall for a ready-made one, and run `cargo xtask setup` again"
    )
}

fn cargo_install(feature: &str) -> Command {
    let mut cargo = command("cargo", ["install", "bpf-linker", "--version", VERSION, "--locked", "--force"]);
    cargo.args(["--no-default-features", "--features", feature]);
    // Beside the workspace's own target folder, so that an interrupted build goes on where it stopped.
    cargo.env("CARGO_TARGET_DIR", target_dir().join("xtask/bpf-linker"));
    cargo
}

/// LLVM's development files of one major version: where they are, after an install if apt has them.
fn llvm_prefix(major: &str) -> Result<Option<PathBuf>> {
    if let Some(prefix) = env::var_os("LLVM_PREFIX") {
        return Ok(Some(prefix.into()));
    }
    let debian = PathBuf::from(format!("/usr/lib/llvm-{major}"));
    let package = format!("llvm-{major}-dev");
    if packages::have_apt() && (packages::is_installed(&package) || packages::is_available(&package)) {
        packages::install(&[&package])?;
        return Ok(Some(debian));
    }
    for program in [format!("llvm-config-{major}"), "llvm-config".to_owned()] {
        if let Ok(version) = output(&mut command(&program, ["--version"]))
            && version.trim().split('.').next() == Some(major)
        {
            return Ok(Some(output(&mut command(&program, ["--prefix"]))?.trim().into()));
        }
    }
    Ok(None)
}
