//! Debian packages: asked for by the program they bring, installed only when it is missing.

use std::{env, fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command};

use anyhow::{Context as _, Result, bail};

use crate::shell::{command, is_root, output, run, which};

/// Where Debian keeps the script that says whether a package may start its service.
const SERVICE_POLICY: &str = "/usr/sbin/policy-rc.d";

/// Whether this host has apt at all, and is not told to do without (`TXRAY_SETUP_SOURCE=rustup`).
pub(crate) fn have_apt() -> bool {
    which("apt-get").is_some() && which("dpkg-query").is_some()
}

/// Whether a package is installed.
pub(crate) fn is_installed(package: &str) -> bool {
    output(&mut command("dpkg-query", ["-W", "-f=${db:Status-Status}", package]))
        .is_ok_and(|status| status.trim() == "installed")
}

/// Whether apt knows an installable version of the package, after one `apt-get update` if need be.
pub(crate) fn is_available(package: &str) -> bool {
    known_to_apt(package) || (update().is_ok() && known_to_apt(package))
}

fn known_to_apt(package: &str) -> bool {
    output(&mut command("apt-cache", ["policy", package]))
        .is_ok_and(|policy| policy.contains("Candidate:") && !policy.contains("Candidate: (none)"))
}

fn update() -> Result<()> {
    // Once per run is enough.
    static DONE: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    if *DONE.get_or_init(|| run(&mut as_root("apt-get", &["update", "-qq"])).is_ok()) {
        Ok(())
    } else {
        bail!("apt-get update failed")
    }
}

/// Installs what is missing of `packages`; says nothing when nothing is.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    let missing: Vec<&str> = packages.iter().copied().filter(|package| !is_installed(package)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    println!("setup: installing Debian packages: {}", missing.join(" "));
    if !have_apt() {
        bail!("these programs' packages are missing and this host has no apt: {}", missing.join(" "));
    }
    for package in &missing {
        if !is_available(package) {
            bail!("apt knows no installable version of `{package}`");
        }
    }
    let policy = ServicePolicy::hold()?;
    let mut args = vec!["install", "-y", "-qq", "--no-install-recommends"];
    args.extend(&missing);
    let installed = run(as_root("apt-get", &args).env("DEBIAN_FRONTEND", "noninteractive"));
    // Lists may be older than the mirror: the files they name are then gone.
    let installed = match installed {
        Err(_) => update().and_then(|()| run(&mut as_root("apt-get", &args))),
        done => done,
    };
    drop(policy);
    installed.with_context(|| format!("could not install {}", missing.join(" ")))
}

/// Puts what a package holds into a folder, and installs nothing.
pub(crate) fn extract(package: &str, into: &Path) -> Result<()> {
    println!("setup: taking {package} apart into {}", into.display());
    if !have_apt() {
        bail!("this host has no apt to get {package} with");
    }
    // Renamed into place, so that an interrupted run leaves nothing that looks whole.
    let work = into.with_extension("partial");
    let _ = fs::remove_dir_all(&work);
    fs::create_dir_all(work.join("tree"))?;
    let download = || output(command("apt-get", ["download", "-qq", package]).current_dir(&work));
    // Lists may be missing, or older than the mirror.
    download().or_else(|_| update().and_then(|()| download()))?;
    let archive = fs::read_dir(&work)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|end| end == "deb"))
        .with_context(|| format!("apt-get download {package} left no package"))?;
    output(command("dpkg-deb", ["-x"]).arg(archive).arg(work.join("tree")))?;
    fs::rename(work.join("tree"), into)?;
    fs::remove_dir_all(&work)?;
    Ok(())
}

/// A command as root, through sudo where this is not root.
fn as_root(program: &str, args: &[&str]) -> Command {
    if is_root() {
        command(program, args)
    } else {
        let mut sudo = command("sudo", [program]);
        sudo.args(args);
        sudo
    }
}

/// Keeps packages (nginx) from starting their services while it lives. Set-up wants the program, not the service.
struct ServicePolicy {
    ours: bool,
}

impl ServicePolicy {
    fn hold() -> Result<Self> {
        // Only root can write there, and a policy that somebody else has put there is theirs.
        let ours = is_root() && !Path::new(SERVICE_POLICY).exists();
        if ours {
            fs::write(SERVICE_POLICY, "#!/bin/sh\nexit 101\n")?;
            fs::set_permissions(SERVICE_POLICY, fs::Permissions::from_mode(0o755))?;
        }
        Ok(Self { ours })
    }
}

impl Drop for ServicePolicy {
    fn drop(&mut self) {
        if self.ours
            && let Err(error) = fs::remove_file(SERVICE_POLICY)
        {
            eprintln!("setup: could not remove {SERVICE_POLICY}: {error}");
        }
    }
}

/// Whether a program is there; `TXRAY_SETUP_HIDE` (a list of names) hides some, for the tests of set-up.
pub(crate) fn have_program(program: &str) -> bool {
    let hidden = env::var("TXRAY_SETUP_HIDE").unwrap_or_default();
    !hidden.split(',').any(|name| name == program) && which(program).is_some()
}
