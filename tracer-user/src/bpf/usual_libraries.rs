//! TLS libraries where distributions put them, mapped by txray itself: a run that traces the whole host has its probes on them before a program with
//! them begins. A short-lived client says all it has to say before anybody could look at it.

use std::{
    ffi::c_void,
    fs::{self, File},
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
};

use rustc_hash::FxHashSet;

/// Where dynamic loaders look, x86-64 (Debian's multiarch, Fedora's, what has neither, and where `/lib` is a folder of its own).
const FOLDERS: [&str; 7] = [
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    "/usr/local/lib",
    "/lib/x86_64-linux-gnu",
    "/lib64",
    "/lib",
];
/// OpenSSL's, GnuTLS' and NSS' names, without versions.
const NAMES: [&str; 3] = ["libssl.so.", "libgnutls.so.", "libssl3.so"];
/// A host has a handful.
const MOST: usize = 32;

/// A file in this process's memory, executable as in those that use it, and never executed.
#[derive(Debug)]
pub struct Mapped {
    address: *mut c_void,
    length: usize,
}

// SAFETY: nobody reads or writes it.
unsafe impl Send for Mapped {}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: mapped by this value, used by nobody.
        unsafe { libc::munmap(self.address, self.length) };
    }
}

/// Maps those that there are.
pub fn map() -> Vec<Mapped> {
    files(Path::new("/")).iter().filter_map(|file| map_one(file)).collect()
}

/// Their files, each once, whatever links lead to it.
fn files(root: &Path) -> Vec<PathBuf> {
    let mut seen = FxHashSet::default();
    let mut found = Vec::new();
    for folder in FOLDERS {
        let entries = fs::read_dir(root.join(folder.trim_start_matches('/'))).into_iter().flatten().flatten();
        for entry in entries {
            let name = entry.file_name();
            let is_one = name.to_str().is_some_and(|name| NAMES.iter().any(|start| name.starts_with(start)));
            if is_one
                && let Ok(file) = entry.path().canonicalize()
                && found.len() < MOST
                && seen.insert(file.clone())
            {
                found.push(file);
            }
        }
    }
    found
}

fn map_one(file: &Path) -> Option<Mapped> {
    let file = File::open(file).ok()?;
    let metadata = file.metadata().ok().filter(fs::Metadata::is_file)?;
    let length = usize::try_from(metadata.len()).ok().filter(|&length| length > 0)?;
    let protection = libc::PROT_READ | libc::PROT_EXEC;
    // SAFETY: a new mapping, at a place of the kernel's choice.
    let address = unsafe {
        libc::mmap(std::ptr::null_mut(), length, protection, libc::MAP_PRIVATE, file.as_raw_fd(), 0)
    };
    (address != libc::MAP_FAILED).then_some(Mapped { address, length })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn each_library_is_found_once_and_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("usr/lib64");
        fs::create_dir_all(&folder).unwrap();
        for name in ["libssl.so.3.0.19", "libgnutls.so.30.1", "libssl3.so", "libc.so.6", "libssl.a"] {
            fs::write(folder.join(name), "x").unwrap();
        }
        symlink("libssl.so.3.0.19", folder.join("libssl.so.3")).unwrap();
        symlink("nowhere", folder.join("libssl.so.4")).unwrap();
        let mut found: Vec<_> =
            files(root.path()).iter().map(|file| file.file_name().unwrap().to_owned()).collect();
        found.sort();
        assert_eq!(found, ["libgnutls.so.30.1", "libssl.so.3.0.19", "libssl3.so"]);
    }

    #[test]
    fn what_is_mapped_stands_in_the_maps() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("libssl.so.3");
        fs::write(&file, [0x90; 5000]).unwrap();
        let mapped = map_one(&file).unwrap();
        let line = || {
            let maps = fs::read_to_string("/proc/self/maps").unwrap();
            maps.lines().find(|line| line.ends_with(file.to_str().unwrap())).map(str::to_owned)
        };
        assert!(line().unwrap().contains("r-xp"));
        drop(mapped);
        assert_eq!(line(), None);
        fs::write(&file, "").unwrap();
        assert!(map_one(&file).is_none());
    }
}
