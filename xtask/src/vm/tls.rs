//! What is said inside TLS, on each kernel: OpenSSL's own server and client in the guest, both ends traced by name.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};

use super::{
    guest::{Console, tail},
    image::Image,
    live::{add_libraries, libraries_of},
    scenarios::Summary,
};
use crate::shell::{command, output, run, target_dir};

/// Connections, of one request each.
const N: u64 = 6;

/// OpenSSL's program, and a key and certificate for its server.
#[derive(Clone, Debug)]
pub(super) struct TlsProgram {
    program: PathBuf,
    libraries: Vec<PathBuf>,
    key: PathBuf,
    certificate: PathBuf,
}

impl TlsProgram {
    pub(super) fn find() -> Result<Self> {
        let found = output(&mut command("sh", ["-c", "command -v openssl"]))?;
        let program = PathBuf::from(found.trim());
        let libraries = libraries_of(&program)?;
        let [key, certificate] =
            ["key.pem", "certificate.pem"].map(|file| target_dir().join("xtask/vm").join(file));
        // An elliptic curve's: an emulated processor takes seconds for RSA.
        let mut make =
            command("openssl", ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]);
        make.args(["-nodes", "-days", "30", "-subj", "/CN=localhost", "-keyout"]);
        run(make.arg(&key).arg("-out").arg(&certificate))?;
        Ok(Self { program, libraries, key, certificate })
    }

    pub(super) fn add_to(&self, image: &mut Image) -> Result<()> {
        image.copy("openssl", &self.program)?;
        image.copy("key.pem", &self.key)?;
        image.copy("certificate.pem", &self.certificate)?;
        image.file("hello", 0o644, b"hello\n")?;
        add_libraries(image, &self.libraries)
    }
}

/// The guest's steps.
pub(super) fn script() -> String {
    format!("step tls tls {N}\nstep tls/replay replay\n")
}

/// Each request was seen once at each end, inside.
pub(super) fn check(console: &Console, note: &mut dyn FnMut(&str, Result<String>)) {
    for name in ["tls", "tls/replay"] {
        let outcome = console.step(name).and_then(|step| {
            ensure!(step.code == 0, "exit code {}:\n{}", step.code, tail(&step.output, 25));
            check_output(&step.output, name == "tls").with_context(|| tail(&step.output, 25))
        });
        note(name, outcome);
    }
}

fn check_output(output: &str, is_live: bool) -> Result<String> {
    let summary = Summary::of(output)?;
    if is_live {
        let inside = output
            .lines()
            .find_map(|line| line.strip_prefix("inside: "))
            .context("no count of what was inside")?;
        ensure!(inside.trim() == (2 * N).to_string(), "{inside} rows with a library, not {}", 2 * N);
    }
    let found = summary.n_of("GET /hello");
    ensure!(found == (2 * N, 0), "{} of `GET /hello`, {} of them errors, not {}", found.0, found.1, 2 * N);
    summary.lost_nothing()?;
    Ok(format!("GET /hello {}", found.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_end_of_each_request_must_be_there() {
        let printed = |count: u64, errors: u64, inside: u64| {
            format!(
                "inside: {inside}\n{{\"type\":\"summary\",\"transactions\":{count},\"open\":0,\"lost_requests\":{{\"low\":0,\"high\":0}},\
                 \"operations\":[{{\"operation\":\"GET /hello\",\"count\":{count},\"errors\":{errors}}}]}}"
            )
        };
        assert!(check_output(&printed(2 * N, 0, 2 * N), true).is_ok());
        for (count, errors, inside) in [(2 * N - 1, 0, 2 * N), (2 * N, 1, 2 * N), (2 * N, 0, N), (0, 0, 0)] {
            assert!(
                check_output(&printed(count, errors, inside), true).is_err(),
                "{count} {errors} {inside}"
            );
        }
        assert!(check_output("", false).is_err());
        assert!(super::super::INIT.contains("inside: "));
    }
}
