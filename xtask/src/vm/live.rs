//! The live layer's tests in a guest: the test program that this host's live layer runs too, on the shipped file. They hold
//! each transaction against what both ends logged; the scenarios only count.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;

use super::{
    guest::{Console, tail},
    image::Image,
};
use crate::shell::{cargo, command, output, run, show, target_dir};

/// Name of the step.
const STEP: &str = "live";

/// The tests, with a place for the family of hooks. Chosen for what differs from kernel to kernel (calls, kinds of sockets,
/// processes), and for being short: emulated, the start of each one's tracer takes seconds.
const TESTS: &[&str] = &[
    "live::http1::methods_framings_and_statuses::{hooks}",
    "live::http1::every_call::read_4___recvmsg__::{hooks}",
    "live::http1::forked_workers_and_passed_descriptors::{hooks}::mode_3___pass_descriptors__",
    "live::http1::a_client_that_resets::{hooks}",
    "live::http1::unix_stream::{hooks}",
];

/// The tests' names for a family of hooks, as rstest makes them.
fn names(has_socket_hooks: bool) -> impl Iterator<Item = String> {
    let hooks = if has_socket_hooks { "hooks_1_Hooks__Socket" } else { "hooks_2_Hooks__Syscall" };
    TESTS.iter().map(move |name| name.replace("{hooks}", hooks))
}

/// The guest's steps.
pub(super) fn script(has_socket_hooks: bool) -> String {
    let names: Vec<String> = names(has_socket_hooks).collect();
    format!("step {STEP} live {}\n", names.join(" "))
}

/// Each test on its own: it ran, and it passed.
pub(super) fn check(console: &Console, has_socket_hooks: bool, note: &mut dyn FnMut(&str, Result<String>)) {
    for name in names(has_socket_hooks) {
        let outcome = console.step(STEP).and_then(|step| {
            ensure!(has_passed(&step.output, &name), "did not pass:\n{}", tail(&step.output, 60));
            Ok("passed".to_owned())
        });
        note(&name, outcome);
    }
}

fn has_passed(output: &str, name: &str) -> bool {
    output.lines().any(|line| line.trim() == format!("test {name} ... ok"))
}

/// The test program, with what it needs to start where there is nothing else.
#[derive(Clone, Debug)]
pub(super) struct TestProgram {
    program: PathBuf,
    libraries: Vec<PathBuf>,
}

impl TestProgram {
    /// Builds it as the live layer does, txray beside it.
    pub(super) fn build() -> Result<Self> {
        let mut build = cargo(["test", "--locked", "--package", "tracer-user", "--test", "integration"]);
        build.args(["--no-run", "--message-format", "json-render-diagnostics"]);
        println!("   $ {}", show(&build));
        // Not `output`, which keeps the compiler's own words to itself.
        let built = build.stderr(std::process::Stdio::inherit()).output()?;
        ensure!(built.status.success(), "failed: {}", show(&build));
        let found = executable(&String::from_utf8_lossy(&built.stdout));
        let found = found.context("cargo named no test program")?;
        let program = target_dir().join("xtask/vm/integration");
        run(command("strip", ["--strip-debug", "-o"]).arg(&program).arg(&found))?;
        let libraries = libraries_of(&program)?;
        Ok(Self { program, libraries })
    }

    /// Puts it into a guest.
    pub(super) fn add_to(&self, image: &mut Image) -> Result<()> {
        image.copy("integration", &self.program)?;
        add_libraries(image, &self.libraries)
    }
}

/// The programs that the live layer traces with and traces, as built beside the test program.
pub(super) fn traced_programs() -> Result<[PathBuf; 2]> {
    run(&mut cargo(["build", "--locked", "--package", "workload", "--bin", "workload"]))?;
    let strip = |name: &str| -> Result<PathBuf> {
        let stripped = target_dir().join("xtask/vm").join(name);
        run(command("strip", ["--strip-debug", "-o"])
            .arg(&stripped)
            .arg(target_dir().join("debug").join(name)))?;
        Ok(stripped)
    };
    Ok([strip("txray")?, strip("workload")?])
}

/// The libraries that a program is linked to.
pub(super) fn libraries_of(program: &Path) -> Result<Vec<PathBuf>> {
    libraries(&output(command("ldd", [program]).env("LC_ALL", "C"))?)
}

/// Puts libraries into a guest, where its loader looks for them.
pub(super) fn add_libraries(image: &mut Image, libraries: &[PathBuf]) -> Result<()> {
    let mut folders: Vec<&Path> = libraries
        .iter()
        .flat_map(|library| library.ancestors().skip(1))
        .filter_map(|folder| folder.strip_prefix("/").ok())
        .filter(|folder| !folder.as_os_str().is_empty())
        .collect();
    folders.sort_unstable();
    folders.dedup();
    for folder in folders {
        image.directory(&folder.to_string_lossy())?;
    }
    for library in libraries {
        let inside = library.strip_prefix("/")?;
        image.copy(&inside.to_string_lossy(), library)?;
    }
    Ok(())
}

/// The test program in cargo's messages.
fn executable(messages: &str) -> Option<PathBuf> {
    #[derive(Deserialize)]
    struct Message {
        executable: Option<PathBuf>,
        target: Option<Target>,
    }
    #[derive(Deserialize)]
    struct Target {
        name: String,
        kind: Vec<String>,
    }
    let mut programs = messages.lines().filter_map(|line| {
        let Message { executable, target } = serde_json::from_str(line).ok()?;
        let Target { name, kind } = target?;
        (name == "integration" && kind == ["test"]).then_some(executable)?
    });
    programs.next()
}

/// The files in ldd's list: `name => file (address)`, and the loader, which stands there alone.
fn libraries(list: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for line in list.lines() {
        let file = line.split_once("=> ").map_or(line, |(_, file)| file).trim();
        let file = file.split(" (").next().unwrap_or_default();
        if file.starts_with('/') {
            found.push(PathBuf::from(file));
        } else if line.contains("not found") {
            bail!("the test program lacks a library: {}", line.trim());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_counts_only_if_it_ran_and_passed() {
        let printed = "running 2 tests\ntest live::a::hooks ... ok\r\ntest live::b::hooks ... FAILED\n";
        assert!(has_passed(printed, "live::a::hooks"));
        for name in ["live::b::hooks", "live::a", "live::c::hooks"] {
            assert!(!has_passed(printed, name), "{name}");
        }
    }

    #[test]
    fn libraries_are_those_with_a_path() {
        let list = "\tlinux-vdso.so.1 (0x1)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x2)\n\t/lib64/ld-linux-x86-64.so.2 (0x3)\n";
        let expected = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from);
        assert_eq!(libraries(list).unwrap(), expected);
        assert!(libraries("\tlibx.so => not found\n").is_err());
    }

    #[test]
    fn cargo_names_the_test_program() {
        let messages = "{\"reason\":\"build-script-executed\"}\n\
             {\"target\":{\"name\":\"txray\",\"kind\":[\"bin\"]},\"executable\":\"/t/txray\"}\n\
             {\"target\":{\"name\":\"integration\",\"kind\":[\"test\"]},\"executable\":\"/t/integration-1\"}\n";
        assert_eq!(executable(messages), Some(PathBuf::from("/t/integration-1")));
    }
}
