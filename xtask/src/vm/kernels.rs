//! Kernels to boot: Debian's cloud images, from the archive that this host itself installs from.
//!
//! The host's own suites are left alone: a private apt folder knows the further suites, from the mirrors that the
//! host's sources name. Packages are unpacked, never installed.

use std::{
    cmp::Ordering,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};

use super::{ktls, modules};
use crate::shell::{command, output, run_quietly};

/// Suites of the archive and of its security part that have cloud kernels of the wanted series.
const SUITES: &str = "bullseye bookworm trixie trixie-backports";
const SECURITY_SUITES: &str = "bullseye-security bookworm-security trixie-security";

/// A kernel that is to be tested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// The newest of a series; without it the run fails.
    Required(&'static str),
    /// The newest of a series, where the archive has it.
    Optional(&'static str),
    /// The newest there is, if it is newer than the host's.
    Newest,
}

/// All of them, in the order they are booted.
pub(crate) const WANTED: &[Wanted] =
    &[Wanted::Optional("5.10"), Wanted::Required("6.1"), Wanted::Required("6.12"), Wanted::Newest];

impl Wanted {
    /// What it is called.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Required(series) | Self::Optional(series) => series,
            Self::Newest => "newest",
        }
    }
}

/// A kernel image on this disk.
#[derive(Clone, Debug)]
pub(crate) struct Kernel {
    /// Version as the package has it (`6.12.117+deb12`).
    pub(crate) version: String,
    /// The image.
    pub(crate) image: PathBuf,
    /// What its own TLS needs, in the order of loading; empty where that is not tried, or could not be had.
    pub(crate) modules: Vec<PathBuf>,
}

impl Kernel {
    /// Whether it is at least this version.
    pub(crate) fn is_at_least(&self, version: &str) -> bool {
        compare(&self.version, version) != Ordering::Less
    }
}

/// The archive, through an apt folder of its own.
pub(crate) struct Archive {
    dir: PathBuf,
    /// (version, package), newest first.
    packages: Vec<(String, String)>,
}

impl Archive {
    /// Reads the archive's lists. Falls back on what is cached where the archive cannot be reached.
    pub(crate) fn open() -> Result<Self> {
        let dir = cache_dir()?;
        for part in ["apt/lists/partial", "apt/cache/archives/partial", "apt/sources", "kernels"] {
            fs::create_dir_all(dir.join(part))?;
        }
        let mut archive = Self { dir, packages: Vec::new() };
        archive.configure()?;
        if let Err(error) = run_quietly(archive.apt("apt-get").args(["update", "-qq"])) {
            println!("vm: the archive's lists could not be refreshed, using what is cached: {error:#}");
        }
        let names =
            output(archive.apt("apt-cache").args(["search", "--names-only", "^linux-(image|binary)-[0-9]"]))?;
        archive.packages =
            names.lines().filter_map(|line| line.split(' ').next()).filter_map(cloud_kernel).collect();
        archive.packages.sort_by(|a, b| compare(&b.0, &a.0).then_with(|| a.1.cmp(&b.1)));
        Ok(archive)
    }

    /// The wanted kernel, downloaded if it is not cached. `None`: the archive does not have it.
    pub(crate) fn kernel(&self, wanted: Wanted) -> Result<Option<Kernel>> {
        let candidates: Vec<&(String, String)> = match wanted {
            Wanted::Required(series) | Wanted::Optional(series) => {
                self.packages.iter().filter(|(version, _)| is_of(version, series)).collect()
            }
            Wanted::Newest => {
                let host = fs::read_to_string("/proc/sys/kernel/osrelease")?;
                let host = series_of(host.trim());
                self.packages
                    .iter()
                    .filter(|(version, _)| compare(series_of(version), host) == Ordering::Greater)
                    .collect()
            }
        };
        // The lists name files that the pool has already lost; the next older one is then the newest there is.
        for (version, package) in candidates.iter().take(12) {
            match self.fetch(version, package) {
                Ok(kernel) => return Ok(Some(kernel)),
                Err(error) => println!("vm: {package}: {error:#}"),
            }
        }
        Ok(None)
    }

    fn fetch(&self, version: &str, package: &str) -> Result<Kernel> {
        let folder = self.dir.join("kernels");
        let (image, modules) =
            (folder.join(format!("vmlinuz-{version}")), folder.join(format!("modules-{version}")));
        let kernel = Kernel { version: version.to_owned(), image: image.clone(), modules: Vec::new() };
        let mut unpacked = None;
        if !image.is_file() {
            let tree = self.unpack(package)?;
            let found = find(&tree, &|name| name == "vmlinuz" || name.starts_with("vmlinuz-"))?;
            // Renamed into place, so that an interrupted run leaves no half image behind.
            let partial = image.with_extension("partial");
            fs::copy(found, &partial)?;
            fs::rename(&partial, &image)?;
            unpacked = Some(tree);
        }
        if ktls::is_tried(&kernel)
            && !modules.is_dir()
            && let Err(error) = self.fetch_modules(version, package, unpacked, &modules)
        {
            println!("vm: {package}: its modules: {error:#}");
        }
        // What was unpacked is some hundred MB.
        let _ = fs::remove_dir_all(self.dir.join("work"));
        Ok(Kernel { modules: modules::in_folder(&modules), ..kernel })
    }

    /// Modules are in the image's package, or, where that is split, in one of their own.
    fn fetch_modules(
        &self,
        version: &str,
        package: &str,
        unpacked: Option<PathBuf>,
        to: &Path,
    ) -> Result<()> {
        let tree = unpacked.map_or_else(|| self.unpack(package), Ok)?;
        if modules::copy(&tree, to)? {
            return Ok(());
        }
        let tree = self.unpack(&format!("linux-modules-{version}-cloud-amd64"))?;
        ensure!(modules::copy(&tree, to)?, "there is no TLS among them");
        Ok(())
    }

    /// Downloads a package and unpacks it, in place of the one before.
    fn unpack(&self, package: &str) -> Result<PathBuf> {
        println!("vm: downloading {package}");
        let work = self.dir.join("work");
        let _ = fs::remove_dir_all(&work);
        fs::create_dir_all(&work)?;
        output(self.apt("apt-get").args(["download", "-qq", package]).current_dir(&work))?;
        let archive = find(&work, &|name| name.ends_with(".deb"))?;
        let tree = work.join("tree");
        output(command("dpkg-deb", ["-x"]).arg(&archive).arg(&tree))?;
        fs::remove_file(archive)?;
        Ok(tree)
    }

    /// Writes the private folder's settings, from the host's own sources.
    fn configure(&self) -> Result<()> {
        let (main, security) = mirrors()?;
        let keyring = "/usr/share/keyrings/debian-archive-keyring.gpg";
        let sources = [(main, SUITES), (security, SECURITY_SUITES)]
            .iter()
            .map(|(uri, suites)| {
                format!("Types: deb\nURIs: {uri}\nSuites: {suites}\nComponents: main\nSigned-By: {keyring}\n")
            })
            .collect::<Vec<_>>()
            .join("\n");
        let apt = self.dir.join("apt");
        fs::write(apt.join("sources/kernels.sources"), sources)?;
        fs::write(apt.join("status"), "")?;
        let apt = apt.display();
        fs::write(
            self.dir.join("apt/apt.conf"),
            format!(
                "Dir::State \"{apt}\";\nDir::State::Lists \"{apt}/lists\";\nDir::State::status \"{apt}/status\";\n\
                 Dir::Cache \"{apt}/cache\";\nDir::Etc::SourceList \"/dev/null\";\n\
                 Dir::Etc::SourceParts \"{apt}/sources\";\nAPT::Sandbox::User \"\";\nAcquire::Languages \"none\";\n\
                 Acquire::Retries \"2\";\nAPT::Architecture \"amd64\";\nAPT::Architectures {{ \"amd64\"; }};\n"
            ),
        )?;
        Ok(())
    }

    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", self.dir.join("apt/apt.conf"));
        command
    }
}

/// Where images are kept from run to run: outside `target`, as they outlive a `cargo clean`.
fn cache_dir() -> Result<PathBuf> {
    let base = match env::var_os("XDG_CACHE_HOME") {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(env::var_os("HOME").context("HOME is not set")?).join(".cache"),
    };
    Ok(base.join("txray"))
}

/// The mirrors of the archive and of its security part, as this host's sources name them.
fn mirrors() -> Result<(String, String)> {
    let mut texts = Vec::new();
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(dir) = fs::read_dir("/etc/apt/sources.list.d") {
        files.extend(dir.filter_map(|entry| Some(entry.ok()?.path())));
    }
    for file in files {
        let known = file.extension().is_some_and(|extension| extension == "list" || extension == "sources");
        if known && let Ok(text) = fs::read_to_string(&file) {
            texts.push(text);
        }
    }
    mirrors_in(&texts.join("\n"))
}

/// The mirrors in the text of apt's sources, of either form.
fn mirrors_in(text: &str) -> Result<(String, String)> {
    let uris: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .flat_map(str::split_whitespace)
        .filter(|word| word.contains("://"))
        .map(|uri| uri.trim_end_matches('/'))
        .collect();
    let ending = |end: &str| uris.iter().find(|uri| uri.ends_with(end)).map(|uri| (*uri).to_owned());
    let main = ending("/debian").context("apt's sources name no mirror of the Debian archive")?;
    // Mirrors that keep both side by side are the rule; where the sources do not say, assume it.
    let security = ending("/debian-security").unwrap_or_else(|| format!("{main}-security"));
    Ok((main, security))
}

/// Version and name of a package, if it brings a cloud kernel's image.
fn cloud_kernel(package: &str) -> Option<(String, String)> {
    let rest = package.strip_prefix("linux-image-").or_else(|| package.strip_prefix("linux-binary-"))?;
    let version = rest.strip_suffix("-unsigned").unwrap_or(rest).strip_suffix("-cloud-amd64")?;
    // From 6.19 on the image is in `linux-binary-…`; its `linux-image-…` only depends on that.
    let split = compare(version, "6.19") != Ordering::Less;
    if split && package.starts_with("linux-image-") {
        return None;
    }
    // `linux-image-6.12-cloud-amd64` names no version: it points at the newest.
    (version.split('.').count() >= 3).then(|| (version.to_owned(), package.to_owned()))
}

fn is_of(version: &str, series: &str) -> bool {
    version.strip_prefix(series).is_some_and(|rest| rest.starts_with('.'))
}

/// `6.12` of `6.12.117+deb12`.
fn series_of(version: &str) -> &str {
    version.match_indices('.').nth(1).map_or(version, |(at, _)| &version[..at])
}

/// By numbers, part by part.
fn compare(a: &str, b: &str) -> Ordering {
    let numbers = |version: &str| -> Vec<u64> {
        version
            .split(|c: char| !c.is_ascii_digit())
            .filter(|part| !part.is_empty())
            .filter_map(|n| n.parse().ok())
            .collect()
    };
    numbers(a).cmp(&numbers(b))
}

/// The first file below `dir` whose name fits.
fn find(dir: &Path, fits: &dyn Fn(&str) -> bool) -> Result<PathBuf> {
    fn walk(dir: &Path, fits: &dyn Fn(&str) -> bool) -> Result<Option<PathBuf>> {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                if let Some(found) = walk(&entry.path(), fits)? {
                    return Ok(Some(found));
                }
            } else if kind.is_file() && fits(&entry.file_name().to_string_lossy()) {
                return Ok(Some(entry.path()));
            }
        }
        Ok(None)
    }
    match walk(dir, fits)? {
        Some(found) => Ok(found),
        None => bail!("nothing fitting in {}", dir.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_told_by_series_and_version() {
        let version = |package| cloud_kernel(package).map(|(version, _)| version);
        assert_eq!(version("linux-image-5.10.0-32-cloud-amd64-unsigned").as_deref(), Some("5.10.0-32"));
        assert_eq!(version("linux-image-6.12.117+deb12-cloud-amd64").as_deref(), Some("6.12.117+deb12"));
        assert_eq!(version("linux-binary-7.3.4+deb13-cloud-amd64").as_deref(), Some("7.3.4+deb13"));
        for other in [
            "linux-image-7.3.4+deb13-cloud-amd64",
            "linux-image-6.12-cloud-amd64",
            "linux-image-6.1.0-54-cloud-amd64-dbg",
            "linux-image-6.1.0-54-amd64",
        ] {
            assert_eq!(version(other), None, "{other}");
        }
        assert!(is_of("6.1.0-54", "6.1") && !is_of("6.12.117+deb12", "6.1"));
    }

    #[test]
    fn versions_compare_by_their_numbers() {
        assert_eq!(compare("6.12.117+deb12", "6.12.94+deb13"), Ordering::Greater);
        assert_eq!(compare("5.10.0-32", "5.10.0-46"), Ordering::Less);
        assert_eq!(compare(series_of("7.3.4+deb13"), series_of("6.18.44-vendor")), Ordering::Greater);
        assert_eq!(compare(series_of("6.18.5"), series_of("6.18.44-vendor")), Ordering::Equal);
    }

    #[test]
    fn mirrors_come_from_either_form_of_sources() {
        let deb822 = "# URIs: https://old.example/debian\nURIs: https://a.example/debian\nSuites: x\n\nURIs: https://a.example/debian-security/\n";
        let expected =
            ("https://a.example/debian".to_owned(), "https://a.example/debian-security".to_owned());
        assert_eq!(mirrors_in(deb822).unwrap(), expected);
        let list = "deb [arch=amd64] https://a.example/debian bookworm main\ndeb https://b.example/tool stable main\n";
        assert_eq!(mirrors_in(list).unwrap(), expected);
        assert!(mirrors_in("deb https://b.example/tool stable main\n").is_err());
    }
}
