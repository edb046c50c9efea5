//! `cargo xtask vm`: the shipped file on other kernels, in qemu under software emulation (the hosts this must run on
//! cannot nest virtual machines). Times mean nothing there; counts are exact.

mod guest;
mod image;
mod kernels;
mod scenarios;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use clap::Args;

use self::{
    image::Image,
    kernels::{Archive, Kernel, WANTED, Wanted},
};
use crate::{dist, setup, shell::target_dir, test::Counts};

#[derive(Args, Debug, Default)]
pub(crate) struct VmArgs {
    /// Only kernels whose series starts with this (`6.1`, `newest`); repeatable.
    #[arg(long)]
    kernel: Vec<String>,
    /// Boot the files in target/dist as they are.
    #[arg(long)]
    no_build: bool,
}

const INIT: &str = include_str!("../../../tests/vm/init.sh");
/// The kernel that is booted locked down as well.
const LOCKED: Wanted = Wanted::Required("6.12");
const BUSYBOX: &str = "/bin/busybox";

/// Boots every kernel and checks what the guest said.
pub(crate) fn run(args: &VmArgs) -> Result<Counts> {
    setup::vm_programs()?;
    let programs = if args.no_build {
        ["txray", "workload"].map(|name| target_dir().join("dist").join(name))
    } else {
        [dist::dist()?, dist::build("workload", "workload")?]
    };
    for program in &programs {
        dist::check_static(program)?;
    }
    let archive = Archive::open()?;
    let mut ran = Vec::new();
    let mut n_passed = 0;
    let mut faults = Vec::new();
    for &wanted in WANTED {
        if !args.kernel.is_empty() && !args.kernel.iter().any(|name| name == wanted.name()) {
            continue;
        }
        let Some(kernel) = archive.kernel(wanted)? else {
            match wanted {
                Wanted::Required(series) => faults.push(format!("{series}: the archive has no such kernel")),
                Wanted::Optional(_) | Wanted::Newest => println!("vm: {}: not in the archive", wanted.name()),
            }
            continue;
        };
        println!("vm: booting {}", kernel.version);
        match boot_and_check(&kernel, &programs) {
            Ok(n_checks) => {
                n_passed += n_checks;
                println!("vm: {}: {n_checks} checks passed", kernel.version);
            }
            Err(error) => faults.push(format!("{}: {error:#}", kernel.version)),
        }
        if wanted == LOCKED {
            match boot_locked(&kernel, &programs) {
                Ok(n_checks) => n_passed += n_checks,
                Err(error) => faults.push(format!("{} locked down: {error:#}", kernel.version)),
            }
        }
        ran.push(kernel.version);
    }
    println!("vm: kernels that ran: {}", ran.join(", "));
    for fault in &faults {
        eprintln!("vm: {fault}");
    }
    Ok(Counts { passed: n_passed as u64, failed: faults.len() as u64, ignored: 0 })
}

/// A kernel that lets nobody read its memory.
fn boot_locked(kernel: &Kernel, programs: &[PathBuf]) -> Result<usize> {
    println!("vm: booting {} with lockdown=confidentiality", kernel.version);
    let image = build_image("locked", &scenarios::script_locked(), programs)?;
    let console = guest::boot(kernel, &image, "lockdown=confidentiality")?;
    fs::write(image.with_extension("console"), &console.text)?;
    scenarios::check_locked(&console).with_context(|| guest::tail(&console.text, 5))
}

fn boot_and_check(kernel: &Kernel, programs: &[PathBuf]) -> Result<usize> {
    let image = build_image(&kernel.version, &scenarios::script(kernel), programs)?;
    let console = guest::boot(kernel, &image, "")?;
    let uname = console.step("uname").with_context(|| guest::tail(&console.text, 20))?;
    println!("vm: {}: the guest says {}", kernel.version, uname.output.trim());
    // Kept for whoever has to find out why.
    fs::write(image.with_extension("console"), &console.text)?;
    scenarios::check(kernel, &console)
}

fn build_image(name: &str, script: &str, programs: &[PathBuf]) -> Result<PathBuf> {
    let mut image = Image::default();
    for folder in ["bin", "dev", "proc", "sys", "tmp"] {
        image.directory(folder)?;
    }
    image.copy("bin/busybox", Path::new(BUSYBOX))?;
    image.file("init", 0o755, INIT.as_bytes())?;
    image.file("steps.sh", 0o755, script.as_bytes())?;
    for program in programs {
        let name = program.file_name().context("a program's name")?.to_string_lossy();
        image.copy(&name, program)?;
    }
    let dir = target_dir().join("xtask/vm");
    fs::create_dir_all(&dir)?;
    let file = dir.join(format!("{name}.cpio"));
    fs::write(&file, image.finish()?)?;
    Ok(file)
}
