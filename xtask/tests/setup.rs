//! Set-up with each of its sources hidden in turn: it finds the other one, says what it does, does nothing the second
//! time, and what it found builds the kernel side.

use std::{
    env, fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::Command,
};

/// A home of rustup that knows the stable toolchain and what a test adds; the real one stays as it is.
struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        let home = tempfile::tempdir().expect("a folder");
        fs::create_dir(home.path().join("toolchains")).expect("toolchains");
        // In full: rustup takes the default's name for a folder.
        let stable = output(Command::new("rustc").args(["--print", "sysroot"]).current_dir(root()));
        let stable = Path::new(stable.trim());
        let name = stable.file_name().expect("the toolchain's name");
        symlink(stable, home.path().join("toolchains").join(name)).expect("link");
        fs::write(
            home.path().join("settings.toml"),
            format!("default_toolchain = {name:?}\nprofile = \"minimal\"\nversion = \"12\"\n\n[overrides]\n"),
        )
        .expect("settings");
        Self(home)
    }

    /// Adds a toolchain with library sources, as the component rust-src would bring them: a folder of its own around
    /// Debian's compiler, which believes that it lives there.
    fn add_toolchain_with_source(&self) -> PathBuf {
        let dir = self.0.path().join("toolchains/with-source-x86_64-unknown-linux-gnu");
        fs::create_dir_all(dir.join("bin")).expect("bin");
        fs::create_dir_all(dir.join("lib")).expect("lib");
        symlink("/usr/lib/rustlib", dir.join("lib/rustlib")).expect("library");
        let rustc = dir.join("bin/rustc");
        fs::write(&rustc, format!("#!/bin/sh\nexec /usr/bin/rustc --sysroot '{}' \"$@\"\n", dir.display()))
            .expect("rustc");
        fs::set_permissions(&rustc, fs::Permissions::from_mode(0o755)).expect("permissions");
        symlink("/usr/bin/cargo", dir.join("bin/cargo")).expect("cargo");
        dir
    }

    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env("RUSTUP_HOME", self.0.path()).current_dir(root());
        for name in ["RUSTUP_TOOLCHAIN", "TXRAY_BPF_TOOLCHAIN", "CARGO", "RUSTC", "LD_LIBRARY_PATH"] {
            command.env_remove(name);
        }
        command
    }

    fn setup(&self, source: &str) -> String {
        output(self.command(env!("CARGO_BIN_EXE_xtask")).arg("setup").env("TXRAY_SETUP_SOURCE", source))
    }

    /// What the build script does, with the toolchain that set-up made.
    fn build_kernel_side(&self) {
        let target = self.0.path().join("target");
        let mut cargo = self.command("rustup");
        cargo.args([
            "run",
            "txray-bpf",
            "cargo",
            "build",
            "--locked",
            "--release",
            "--package",
            "tracer-ebpf",
        ]);
        cargo.args(["--bins", "--no-default-features", "--features", "bpf"]);
        cargo.args(["--target", "bpfel-unknown-none", "-Z", "build-std=core", "--target-dir"]).arg(&target);
        cargo.env("RUSTC_BOOTSTRAP", "1");
        cargo.env(
            "CARGO_ENCODED_RUSTFLAGS",
            "--cfg=bpf_target_arch=\"x86_64\"\u{1f}-Cdebuginfo=2\u{1f}-Clink-arg=--btf",
        );
        output(&mut cargo);
        let object = fs::read(target.join("bpfel-unknown-none/release/txray-bpf")).expect("the object");
        // Little-endian ELF for machine 247, BPF.
        assert_eq!((&object[..6], object[18]), (&b"\x7fELF\x02\x01"[..], 247));
    }
}

#[test]
fn with_debian_hidden_a_rustup_toolchain_with_rust_src_builds_the_kernel_side() {
    let home = Home::new();
    let dir = home.add_toolchain_with_source();
    let said = home.setup("rustup");
    assert!(said.contains(&format!("linking {}", dir.display())), "{said}");
    assert_second_run_does_nothing(&home, "rustup");
    home.build_kernel_side();
}

#[test]
fn with_rustup_hidden_debians_packages_build_the_kernel_side() {
    let home = Home::new();
    let said = home.setup("debian");
    assert!(said.contains("linking /usr as"), "{said}");
    assert_second_run_does_nothing(&home, "debian");
    home.build_kernel_side();
}

#[test]
fn a_named_toolchain_that_cannot_build_it_is_one_clear_error() {
    let home = Home::new();
    let run = home
        .command(env!("CARGO_BIN_EXE_xtask"))
        .arg("setup")
        .env("TXRAY_BPF_TOOLCHAIN", "not-there")
        .output()
        .expect("set-up starts");
    assert_eq!(run.status.code(), Some(2));
    let errors = String::from_utf8_lossy(&run.stderr);
    assert!(errors.contains("TXRAY_BPF_TOOLCHAIN=not-there cannot build the kernel side"), "{errors}");
}

#[track_caller]
fn assert_second_run_does_nothing(home: &Home, source: &str) {
    let said = home.setup(source);
    for step in ["linking", "installing", "mounting", "building", "$ "] {
        assert!(!said.contains(step), "the second run did something ({step}):\n{said}");
    }
    assert!(said.contains("setup: done"), "{said}");
}

#[track_caller]
fn output(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}\n{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn root() -> PathBuf {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("the workspace").to_path_buf()
}
