//! What is said inside TLS, on each kernel: OpenSSL's own server and client in the guest, both ends traced by name.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};

use super::{
    guest::{Console, tail},
    image::Image,
    kernels::Kernel,
    live::{add_libraries, libraries_of},
    scenarios::{Summary, missed},
};
use crate::shell::{command, output, run, target_dir};

/// Connections, of one request each.
const N: u64 = 6;

/// Requests of which a kernel that preempts probes may leave something out that it does not count: seen on 7.3, in six runs, are 0 to 2 of 12 that are missing, or
/// whose answer is.
pub(super) const UNCOUNTED: u64 = 4;

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

/// Each request was seen once at each end, inside; where the kernel left out probes, what is missing is known to be lost.
pub(super) fn check(kernel: &Kernel, console: &Console, note: &mut dyn FnMut(&str, Result<String>)) {
    let n_uncounted = if kernel.is_at_least("7.0") { UNCOUNTED } else { 0 };
    let n_missed = n_uncounted + console.step("tls").map_or(0, |step| missed(&step.output));
    for name in ["tls", "tls/replay"] {
        let outcome = console.step(name).and_then(|step| {
            ensure!(step.code == 0, "exit code {}:\n{}", step.code, tail(&step.output, 25));
            check_output(&step.output, name == "tls", n_missed, n_uncounted)
                .with_context(|| tail(&step.output, 25))
        });
        note(name, outcome);
    }
}

fn check_output(output: &str, is_live: bool, n_missed: u64, n_uncounted: u64) -> Result<String> {
    let summary = Summary::of(output)?;
    let (found, errors) = summary.n_of("GET /hello");
    if is_live {
        let inside = output
            .lines()
            .find_map(|line| line.strip_prefix("inside: ")?.trim().parse::<u64>().ok())
            .context("no count of what was inside")?;
        ensure!(inside == found, "{inside} rows with a library, not {found}");
    }
    let most = summary.most_unknown() + n_uncounted;
    // Of a request whose answer went by unseen, the end of its connection is all that is known.
    let most_errors = if n_missed != 0 { most } else { 0 };
    ensure!(
        found <= 2 * N && errors <= most_errors,
        "{found} of `GET /hello`, {errors} of them errors, not {}",
        2 * N
    );
    if n_missed != 0 {
        let told = found;
        ensure!(2 * N <= told + most, "{found} of {}, {most} at most are known to be lost", 2 * N);
        return Ok(format!(
            "GET /hello {found}, at most {most} lost (the kernel ran no probe for {n_missed} calls)"
        ));
    }
    ensure!(found == 2 * N, "{found} of `GET /hello`, not {}", 2 * N);
    summary.lost_nothing()?;
    Ok(format!("GET /hello {found}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_end_of_each_request_must_be_there() {
        let printed = |count: u64, errors: u64, inside: u64, high: u64| {
            format!(
                "inside: {inside}\n{{\"type\":\"summary\",\"transactions\":{count},\"open\":0,\"lost_requests\":{{\"low\":0,\"high\":{high}}},\
                 \"operations\":[{{\"operation\":\"GET /hello\",\"count\":{count},\"errors\":{errors}}}]}}"
            )
        };
        let all = 2 * N;
        assert!(check_output(&printed(all, 0, all, 0), true, 0, 0).is_ok());
        for (count, errors, inside) in [(all - 1, 0, all - 1), (all, 1, all), (all, 0, N), (0, 0, 0)] {
            assert!(
                check_output(&printed(count, errors, inside, 0), true, 0, 0).is_err(),
                "{count} {errors} {inside}"
            );
        }
        assert!(check_output("", false, 0, 0).is_err());
        assert!(check_output(&printed(all - 2, 0, all - 2, 2), true, 5, 0).is_ok());
        assert!(check_output(&printed(all - 2, 2, all - 2, 2), true, 5, 0).is_ok());
        assert!(check_output(&printed(all - 2, 3, all - 2, 2), true, 5, 0).is_err());
        assert!(check_output(&printed(all - 3, 0, all - 3, 2), true, 5, 0).is_err());
        assert!(check_output(&printed(all - 2, 0, all - 2, 2), true, 0, 0).is_err());
        assert!(check_output(&printed(all - 2, 2, all - 2, 0), true, 4, 4).is_ok());
        assert!(check_output(&printed(all - 5, 0, all - 5, 0), true, 4, 4).is_err());
        assert!(super::super::INIT.contains("inside: "));
    }
}
