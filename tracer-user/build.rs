//! Builds the kernel side with the toolchain that `cargo xtask setup` prepared.

use std::{env, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, bail};

/// The rustup toolchain that can build `core` for BPF. `TXRAY_BPF_TOOLCHAIN` names another.
const TOOLCHAIN: &str = "txray-bpf";

fn main() -> Result<()> {
    println!("cargo:rerun-if-env-changed=TXRAY_BPF_TOOLCHAIN");
    let toolchain = env::var("TXRAY_BPF_TOOLCHAIN").unwrap_or_else(|_| TOOLCHAIN.to_owned());
    let has_toolchain = Command::new("rustup")
        .args(["run", &toolchain, "rustc", "--version"])
        .output()
        .is_ok_and(|output| output.status.success());
    let has_linker = Command::new("bpf-linker").arg("--version").output().is_ok_and(|o| o.status.success());
    if !has_toolchain || !has_linker {
        bail!(
            "the kernel side needs {}: run `cargo xtask setup`",
            match (has_toolchain, has_linker) {
                (false, false) => format!("the toolchain `{toolchain}` and bpf-linker"),
                (false, true) => format!("the toolchain `{toolchain}`"),
                _ => "bpf-linker".to_owned(),
            }
        );
    }
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").context("CARGO_MANIFEST_DIR")?)
        .parent()
        .context("workspace root")?
        .join("tracer-ebpf");
    let root = root.to_str().context("path of the workspace is not UTF-8")?;
    // SAFETY: the build script has one thread. `core` is built for the target, which stable Rust calls unstable; and
    // cargo would otherwise repeat each line of the inner build as a warning.
    unsafe {
        env::set_var("RUSTC_BOOTSTRAP", "1");
        env::set_var("CARGO_TERM_QUIET", "true");
    }
    // Kernel-side logging only where it was asked for.
    let features: &[&str] =
        if env::var_os("CARGO_FEATURE_LOG").is_some() { &["bpf", "log"] } else { &["bpf"] };
    aya_build::build_ebpf(
        [aya_build::Package { name: "tracer-ebpf", root_dir: root, no_default_features: true, features }],
        aya_build::Toolchain::Custom(&toolchain),
    )
}
