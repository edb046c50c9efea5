//! `cargo xtask vm`: the shipped file on other kernels, in qemu under software emulation (the hosts this must run on
//! cannot nest virtual machines). Times mean nothing there; counts are exact.

mod guest;
mod image;
mod kernels;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use self::{
    guest::Console,
    image::Image,
    kernels::{Archive, Kernel, WANTED, Wanted},
};
use crate::{setup, shell::target_dir};

#[derive(Args, Debug, Default)]
pub(crate) struct VmArgs {
    /// Only kernels whose series starts with this (`6.1`, `newest`); repeatable.
    #[arg(long)]
    kernel: Vec<String>,
}

const INIT: &str = include_str!("../../../tests/vm/init.sh");
const BUSYBOX: &str = "/bin/busybox";

/// Boots every kernel and checks what the guest said.
pub(crate) fn run(args: &VmArgs) -> Result<()> {
    setup::vm_programs()?;
    let image = build_image()?;
    let archive = Archive::open()?;
    let mut ran = Vec::new();
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
        match guest::boot(&kernel, &image, "").and_then(|console| check(&kernel, &console)) {
            Ok(()) => println!("vm: {}: passed", kernel.version),
            Err(error) => faults.push(format!("{}: {error:#}", kernel.version)),
        }
        ran.push(kernel.version);
    }
    println!("vm: kernels that ran: {}", ran.join(", "));
    if !faults.is_empty() {
        bail!("vm:\n  {}", faults.join("\n  "));
    }
    Ok(())
}

fn check(kernel: &Kernel, console: &Console) -> Result<()> {
    let uname = console.step("uname").with_context(|| guest::tail(&console.text, 20))?;
    println!("vm: {}: the guest says {}", kernel.version, uname.output.trim());
    Ok(())
}

fn build_image() -> Result<PathBuf> {
    let mut image = Image::default();
    for folder in ["bin", "dev", "proc", "sys", "tmp"] {
        image.directory(folder)?;
    }
    image.copy("bin/busybox", Path::new(BUSYBOX))?;
    image.file("init", 0o755, INIT.as_bytes())?;
    let dir = target_dir().join("xtask/vm");
    fs::create_dir_all(&dir)?;
    let file = dir.join("image.cpio");
    fs::write(&file, image.finish()?)?;
    Ok(file)
}
