//! `cargo xtask dist`: one static file that runs on a bare host. The VM tests boot exactly this file.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    setup,
    shell::{cargo, command, is_root, output, run, target_dir},
};

/// The C library is linked in. Naming the target keeps the flag away from build scripts and macros, which must stay
/// dynamic.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Builds the file, proves that it is static and that it starts where there is nothing else, and returns its path.
pub(crate) fn dist() -> Result<PathBuf> {
    setup::run(&setup::SetupArgs::default())?;
    let file = build("tracer-user", "txray")?;
    check_static(&file)?;
    check_alone(&file)?;
    let size = file.metadata()?.len();
    println!("dist: {} is static, {:.1} MB", file.display(), size as f64 / 1e6);
    Ok(file)
}

/// Builds one program of a package as a static file, in `target/dist`.
pub(crate) fn build(package: &str, program: &str) -> Result<PathBuf> {
    let mut build = cargo(["build", "--locked", "--release", "--package", package, "--bin", program]);
    build.args(["--target", TARGET]);
    // Not through RUSTFLAGS, which the kernel side's own build would inherit.
    build.env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS", "-C target-feature=+crt-static");
    run(&mut build)?;
    let dir = target_dir().join("dist");
    fs::create_dir_all(&dir)?;
    let file = dir.join(program);
    // A running copy of the old file keeps its inode: write beside it and rename.
    let fresh = dir.join(format!("{program}.new"));
    fs::copy(target_dir().join(TARGET).join("release").join(program), &fresh)?;
    run(command("strip", ["--strip-debug"]).arg(&fresh))?;
    fs::rename(&fresh, &file)?;
    Ok(file)
}

/// A static file names no interpreter.
pub(crate) fn check_static(file: &Path) -> Result<()> {
    match interpreter(&fs::read(file)?)? {
        None => Ok(()),
        Some(interpreter) => bail!("{} is not static: it is started by {interpreter}", file.display()),
    }
}

/// Starts the file in a folder that holds nothing but it.
fn check_alone(file: &Path) -> Result<()> {
    let dir = target_dir().join("dist/root");
    fs::create_dir_all(&dir)?;
    let inside = dir.join("txray");
    fs::copy(file, &inside)?;
    fs::set_permissions(&inside, fs::Permissions::from_mode(0o755))?;
    if is_root() {
        let version = output(command("chroot", [&dir]).args(["/txray", "--version"]))?;
        println!("dist: in an empty root it says: {}", version.trim());
    } else {
        println!("dist: not root, so it was not started in an empty root");
    }
    Ok(())
}

/// The interpreter that a 64-bit little-endian ELF file names, if it names one.
fn interpreter(elf: &[u8]) -> Result<Option<String>> {
    const PT_INTERP: u64 = 3;
    let number = |at: usize, size: usize| -> Result<u64> {
        let bytes = elf.get(at..at + size).context("the file is cut short")?;
        Ok(bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    };
    if !elf.starts_with(b"\x7fELF\x02\x01") {
        bail!("not a 64-bit ELF file");
    }
    let (table, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
    for index in 0..count {
        let at = usize::try_from(table + index * size)?;
        if number(at, 4)? == PT_INTERP {
            let (from, length) =
                (usize::try_from(number(at + 8, 8)?)?, usize::try_from(number(at + 32, 8)?)?);
            let name = elf.get(from..from + length).context("the file is cut short")?;
            return Ok(Some(String::from_utf8_lossy(name).trim_end_matches('\0').to_owned()));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dynamic_program_is_told_by_its_interpreter() {
        let this_test = fs::read(std::env::current_exe().unwrap()).unwrap();
        let interpreter = interpreter(&this_test).unwrap();
        assert!(
            interpreter.is_some_and(|name| name.contains("ld-linux")),
            "cargo tests are dynamic on this target"
        );
    }

    #[test]
    fn a_file_that_is_no_elf_file_is_an_error() {
        for bytes in [&b""[..], b"#!/bin/sh\n", b"\x7fELF\x02\x01\x01"] {
            assert!(interpreter(bytes).is_err());
        }
    }
}
