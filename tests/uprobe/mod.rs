//! Places for probes in real programs of Debian's, against binutils and against processes that run them.

/// What the kernel does with the places.
pub(crate) mod hits;
/// What binutils say about the same files.
mod oracles;
/// What is found in running processes.
mod processes;

use std::process::Command;

/// Debian's libraries.
const LIBSSL: &str = "/usr/lib/x86_64-linux-gnu/libssl.so.3";
const LIBGNUTLS: &str = "/usr/lib/x86_64-linux-gnu/libgnutls.so.30";

/// What a program of a Debian package prints.
#[track_caller]
fn printed(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output();
    let output =
        output.unwrap_or_else(|error| panic!("{program} is needed (`cargo xtask setup --tests`): {error}"));
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
