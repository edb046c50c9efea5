//! The Rust toolchain of the kernel side: one with the source of its own library, so that `core` can be built for BPF.
//!
//! Two sources. Debian's `rustc-web` comes with its library source and a matching LLVM in the same archive. A rustup
//! toolchain has it as the component `rust-src`. Either becomes the rustup toolchain `txray-bpf`, which the build
//! script of `tracer-user` uses; `TXRAY_BPF_TOOLCHAIN` names another one.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use super::{Source, packages};
use crate::shell::{command, output, run};

/// Name of the rustup toolchain that set-up links.
pub(crate) const NAME: &str = "txray-bpf";
/// Debian's packages: compiler, cargo and library source.
const DEBIAN_PACKAGES: &[&str] = &["rustc-web", "cargo-web", "rust-web-src"];
const DEBIAN_CLIPPY: &str = "rust-web-clippy";
/// Where Debian's compiler finds itself.
const DEBIAN_SYSROOT: &str = "/usr";
/// Oldest compiler that builds the workspace.
const OLDEST: (u32, u32) = (1, 95);

/// A compiler that can build the kernel side.
#[derive(Clone, Debug)]
pub(crate) struct Toolchain {
    /// Name that rustup knows it by.
    pub(crate) name: String,
    /// Its folder.
    pub(crate) sysroot: PathBuf,
    /// Version as `rustc` says it (`1.96.0`).
    pub(crate) release: String,
    /// Version of its LLVM (`22.1.8`).
    pub(crate) llvm: String,
}

impl Toolchain {
    /// Major version of its LLVM.
    pub(crate) fn llvm_major(&self) -> &str {
        self.llvm.split('.').next().unwrap_or(&self.llvm)
    }
}

/// Finds the toolchain, or makes it.
pub(crate) fn ensure(source: Source) -> Result<Toolchain> {
    if let Ok(name) = env::var("TXRAY_BPF_TOOLCHAIN") {
        return inspect(&name)
            .with_context(|| format!("TXRAY_BPF_TOOLCHAIN={name} cannot build the kernel side"));
    }
    if let Ok(toolchain) = inspect(NAME)
        && (source == Source::Auto
            || (source == Source::Debian) == (toolchain.sysroot == Path::new(DEBIAN_SYSROOT)))
    {
        return Ok(toolchain);
    }
    let sysroot = match source {
        Source::Debian => debian()?,
        Source::Rustup => rustup()?,
        Source::Auto => auto()?,
    };
    println!("setup: linking {} as the rustup toolchain `{NAME}`", sysroot.display());
    run(command("rustup", ["toolchain", "link", NAME]).arg(&sysroot))?;
    inspect(NAME)
}

/// Sees to it that the toolchain has clippy.
pub(crate) fn ensure_clippy(toolchain: &Toolchain) -> Result<()> {
    let has_clippy =
        || output(&mut command("rustup", ["run", &toolchain.name, "cargo-clippy", "--version"])).is_ok();
    if has_clippy() {
        return Ok(());
    }
    if toolchain.sysroot == Path::new(DEBIAN_SYSROOT) {
        packages::install(&[DEBIAN_CLIPPY])?;
    }
    if !has_clippy() {
        bail!(
            "the toolchain `{}` in {} has no clippy: add the component to the toolchain it is linked to",
            toolchain.name,
            toolchain.sysroot.display()
        );
    }
    Ok(())
}

/// What is there already comes before what must be installed.
fn auto() -> Result<PathBuf> {
    if DEBIAN_PACKAGES.iter().all(|package| packages::is_installed(package)) {
        return Ok(DEBIAN_SYSROOT.into());
    }
    if let Some(sysroot) = rustup_with_source() {
        return Ok(sysroot);
    }
    if packages::have_apt() && DEBIAN_PACKAGES.iter().all(|package| packages::is_available(package)) {
        return debian();
    }
    rustup()
}

fn debian() -> Result<PathBuf> {
    packages::install(DEBIAN_PACKAGES)?;
    Ok(DEBIAN_SYSROOT.into())
}

fn rustup() -> Result<PathBuf> {
    if let Some(sysroot) = rustup_with_source() {
        return Ok(sysroot);
    }
    println!("setup: no rustup toolchain has the component rust-src; installing nightly with it");
    run(&mut command(
        "rustup",
        ["toolchain", "install", "nightly", "--profile", "minimal", "--component", "rust-src"],
    ))
    .context(
        "no toolchain with rust-src: install one, or Debian's packages rustc-web cargo-web rust-web-src",
    )?;
    rustup_with_source().context("nightly was installed but has no library source")
}

/// The newest of rustup's toolchains that has its library's source.
fn rustup_with_source() -> Option<PathBuf> {
    let list = output(&mut command("rustup", ["toolchain", "list"])).ok()?;
    list.lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter_map(|name| inspect(name).ok())
        .filter(|toolchain| toolchain.sysroot != Path::new(DEBIAN_SYSROOT))
        .max_by_key(|toolchain| version(&toolchain.release))
        .map(|toolchain| toolchain.sysroot)
}

/// Looks at a toolchain; an error says why it cannot build the kernel side.
fn inspect(name: &str) -> Result<Toolchain> {
    let verbose = output(&mut command("rustup", ["run", name, "rustc", "-vV"]))?;
    let field = |key: &str| {
        verbose
            .lines()
            .find_map(|line| line.strip_prefix(key))
            .map(|value| value.trim().to_owned())
            .with_context(|| format!("`rustc -vV` of {name} prints no `{key}`"))
    };
    let sysroot = output(&mut command("rustup", ["run", name, "rustc", "--print", "sysroot"]))?;
    let toolchain = Toolchain {
        name: name.to_owned(),
        sysroot: PathBuf::from(sysroot.trim()),
        release: field("release:")?,
        llvm: field("LLVM version:")?,
    };
    if version(&toolchain.release) < OLDEST {
        bail!("{name} is {}; {}.{} or newer is needed", toolchain.release, OLDEST.0, OLDEST.1);
    }
    if !toolchain.sysroot.join("lib/rustlib/src/rust/library/core/src/lib.rs").is_file() {
        bail!("{name} has no library source (component rust-src)");
    }
    Ok(toolchain)
}

/// Major and minor of `1.96.0-nightly`.
fn version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(['.', '-']).map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_as_numbers() {
        assert!(version("1.100.0") > version("1.96.0-nightly"));
        assert_eq!(version("1.97.0-nightly"), (1, 97));
        assert_eq!(version("odd"), (0, 0));
    }
}
