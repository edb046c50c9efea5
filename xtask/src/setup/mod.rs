//! `cargo xtask setup`: everything that a fresh machine lacks. Idempotent; each step says what it does, and a second
//! run finds nothing to do.

mod linker;
mod mounts;
mod packages;
mod toolchain;

use std::{env, path::Path};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::shell::{command, output, target_dir, which, workspace_root};

/// Programs of the tests and the package each comes in.
const TEST_PROGRAMS: &[(&str, &str)] = &[
    ("nginx", "nginx"),
    ("wrk", "wrk"),
    ("curl", "curl"),
    ("python3", "python3"),
    ("nghttpd", "nghttp2-server"),
    ("h2load", "nghttp2-client"),
    ("nghttp", "nghttp2-client"),
    ("nghttpx", "nghttp2-proxy"),
    ("node", "nodejs"),
    ("openssl", "openssl"),
    ("nc", "netcat-openbsd"),
    ("tmux", "tmux"),
    ("named", "bind9"),
    ("dig", "bind9-dnsutils"),
    ("dnsmasq", "dnsmasq-base"),
    ("redis-server", "redis-server"),
    ("redis-benchmark", "redis-tools"),
    ("psql", "postgresql"),
    ("mariadbd", "mariadb-server"),
    ("mariadb", "mariadb-client"),
    ("sysbench", "sysbench"),
    ("tcpdump", "tcpdump"),
    ("objdump", "binutils"),
    ("gnutls-cli", "gnutls-bin"),
    ("tstclnt", "libnss3-tools"),
    ("restic", "restic"),
    ("g++", "g++"),
    ("nm", "binutils"),
    ("go", "golang-go"),
    ("javac", "default-jdk-headless"),
];

/// Programs of the VM tests and the package each comes in.
const VM_PROGRAMS: &[(&str, &str)] = &[
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("cpio", "cpio"),
    ("dpkg-deb", "dpkg"),
    ("xz", "xz-utils"),
    ("nginx", "nginx"),
];

#[derive(Args, Debug, Default)]
pub(crate) struct SetupArgs {
    /// Also install what the tests use: servers, clients and the VM.
    #[arg(long)]
    pub(crate) tests: bool,
}

/// Where the kernel side's compiler comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// What is there, then Debian's packages, then rustup.
    Auto,
    /// Debian's packages.
    Debian,
    /// A rustup toolchain with rust-src.
    Rustup,
}

impl Source {
    fn from_env() -> Result<Self> {
        match env::var("TXRAY_SETUP_SOURCE").as_deref() {
            Err(_) | Ok("" | "auto") => Ok(Self::Auto),
            Ok("debian") => Ok(Self::Debian),
            Ok("rustup") => Ok(Self::Rustup),
            Ok(other) => bail!("TXRAY_SETUP_SOURCE={other}: it is one of auto, debian, rustup"),
        }
    }
}

/// Does all of it.
pub(crate) fn run(args: &SetupArgs) -> Result<()> {
    if which("rustup").is_none() {
        bail!(
            "rustup is not in PATH; the build needs it to run the kernel side's compiler beside the stable one"
        );
    }
    if !packages::have_program("cc") {
        packages::install(&["gcc", "libc6-dev"])
            .context("a C compiler is needed to link, and to build zstd")?;
    }
    let toolchain = toolchain::ensure(Source::from_env()?)?;
    println!(
        "setup: kernel side: toolchain `{}`, rustc {} with LLVM {}, in {}",
        toolchain.name,
        toolchain.release,
        toolchain.llvm,
        toolchain.sysroot.display()
    );
    let linker = linker::ensure(&toolchain)?;
    println!("setup: kernel side: {} links what it compiles", linker.display());
    mounts::ensure()?;
    if args.tests {
        test_programs(TEST_PROGRAMS)?;
        // A program with OpenSSL inside is made of it.
        packages::install(&["libssl-dev"])?;
        go_modules()?;
        crates()?;
        // Clients by other libraries than OpenSSL.
        packages::install(&["libcurl3-nss", "libcurl3-gnutls"])?;
        python_venv()?;
        python_modules()?;
        resolved()?;
        vm_programs()?;
    }
    println!("setup: done");
    Ok(())
}

/// Debian's Go, whatever other one is in PATH, and the modules of the tests' programs.
fn go_modules() -> Result<()> {
    packages::install(&["golang-go"])?;
    for program in ["grpc", "links-sql"] {
        let mut download = command("/usr/bin/go", ["mod", "download"]);
        download.current_dir(workspace_root().join("fixtures/servers/go").join(program));
        output(&mut download).context("download the modules of the tests' programs in Go")?;
    }
    Ok(())
}

/// What the tests' programs with rustls are built of.
fn crates() -> Result<()> {
    for program in ["https", "old"] {
        let mut fetch = command("cargo", ["fetch", "--quiet", "--locked"]);
        fetch.current_dir(workspace_root().join("fixtures/servers/rustls").join(program));
        output(&mut fetch).context("download the crates of the tests' programs with rustls")?;
    }
    Ok(())
}

/// The tests of recordings open them with pyarrow and the like, which they install into a folder of their own.
fn python_venv() -> Result<()> {
    if output(&mut command("python3", ["-c", "import venv, ensurepip"])).is_err() {
        packages::install(&["python3-venv"])?;
    }
    Ok(())
}

/// Modules of Debian's Python that the live tests speak with, and the package each comes in.
const PYTHON_MODULES: &[(&str, &str)] = &[
    ("pip", "python3-pip"),
    ("websockets.legacy.protocol", "python3-websockets"),
    ("grpc", "python3-grpcio"),
    ("zeroconf", "python3-zeroconf"),
    ("hypercorn.asyncio", "python3-hypercorn"),
];

fn python_modules() -> Result<()> {
    for (module, package) in PYTHON_MODULES {
        if output(&mut command("/usr/bin/python3", ["-c", &format!("import {module}")])).is_err() {
            packages::install(&[package])?;
        }
    }
    Ok(())
}

/// systemd-resolved speaks LLMNR. Installed, it would make itself the resolver of this host: only the program is taken out of its package.
fn resolved() -> Result<()> {
    const PROGRAM: &str = "lib/systemd/systemd-resolved";
    let folder = target_dir().join("tools/systemd-resolved");
    if Path::new("/").join(PROGRAM).is_file() || folder.join(PROGRAM).is_file() {
        return Ok(());
    }
    packages::install(&["libsystemd-shared"])?;
    packages::extract("systemd-resolved", &folder)
}

/// What the VM tests use.
pub(crate) fn vm_programs() -> Result<()> {
    test_programs(VM_PROGRAMS)?;
    // Not by the program's name: the plain busybox of a host may be a dynamic one.
    packages::install(&["busybox-static"])
}

/// Name of the kernel side's toolchain, with clippy.
pub(crate) fn kernel_side_clippy() -> Result<String> {
    let toolchain = toolchain::ensure(Source::from_env()?)?;
    toolchain::ensure_clippy(&toolchain)?;
    Ok(toolchain.name)
}

/// A C++ compiler: libFuzzer is C++.
pub(crate) fn cxx() -> Result<()> {
    test_programs(&[("c++", "g++")])
}

fn test_programs(programs: &[(&str, &'static str)]) -> Result<()> {
    let missing: Vec<&str> = programs
        .iter()
        .filter(|(program, _)| !packages::have_program(program))
        .map(|&(_, package)| package)
        .collect();
    packages::install(&missing)
}
