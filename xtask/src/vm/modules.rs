//! Modules of a kernel's package that a guest loads: the kernel's own TLS, with the cipher that it uses.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};

use crate::shell::command;

/// What is wanted, by file name. A cipher that is no module is built in, or a module's own.
const WANTED: [&str; 4] = ["ctr", "ghash-generic", "gcm", TLS];
const TLS: &str = "tls";

/// Copies them from an unpacked package, unpacked as well and numbered in the order in which they have to be loaded. Says whether there are any.
pub(super) fn copy(tree: &Path, to: &Path) -> Result<bool> {
    let mut files = BTreeMap::new();
    list(tree, &mut files)?;
    if !files.contains_key(TLS) {
        return Ok(false);
    }
    let mut ordered = Vec::new();
    for name in WANTED {
        add(name, &files, &mut ordered)?;
    }
    // Renamed into place, so that an interrupted run leaves nothing half behind.
    let partial = to.with_extension("partial");
    let _ = fs::remove_dir_all(&partial);
    fs::create_dir_all(&partial)?;
    for (i, (name, content)) in ordered.iter().enumerate() {
        fs::write(partial.join(format!("{i:02}-{name}.ko")), content)?;
    }
    fs::rename(&partial, to)?;
    Ok(true)
}

/// Those that [`copy`] has left in a folder.
pub(super) fn in_folder(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.sort();
    files
}

/// Modules call each other with `_` where their files may have `-`.
fn key(name: &str) -> String {
    name.replace('-', "_")
}

fn list(folder: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            list(&entry.path(), files)?;
        } else if let Some((name, "ko" | "ko.xz")) = entry.file_name().to_string_lossy().split_once('.') {
            files.insert(key(name), entry.path());
        }
    }
    Ok(())
}

/// Adds a module behind those that it needs.
fn add(name: &str, files: &BTreeMap<String, PathBuf>, ordered: &mut Vec<(String, Vec<u8>)>) -> Result<()> {
    let name = key(name);
    let Some(file) = files.get(&name).filter(|_| !ordered.iter().any(|(other, _)| *other == name)) else {
        return Ok(());
    };
    let content = if file.extension().is_some_and(|extension| extension == "xz") {
        let unpacked = command("xz", ["-dc"]).arg(file).output()?;
        ensure!(unpacked.status.success(), "unpacking {}", file.display());
        unpacked.stdout
    } else {
        fs::read(file).with_context(|| format!("reading {}", file.display()))?
    };
    for needed in needs(&content) {
        add(&needed, files, ordered)?;
    }
    ordered.push((name, content));
    Ok(())
}

/// The modules that one needs (`depends=` in its section `.modinfo`: texts that end with a zero).
fn needs(module: &[u8]) -> Vec<String> {
    const MARK: &[u8] = b"\0depends=";
    let Some(at) = module.windows(MARK.len()).position(|window| window == MARK) else { return Vec::new() };
    let text = module[at + MARK.len()..].split(|byte| *byte == 0).next().unwrap_or_default();
    let text = String::from_utf8_lossy(text);
    text.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    #[test]
    fn what_a_module_needs_comes_before_it() {
        let folder = TempDir::new().unwrap();
        let tree = folder.path().join("tree/kernel/net");
        fs::create_dir_all(&tree).unwrap();
        for (name, needs) in [("tls", "gcm,a_b"), ("a-b", ""), ("gcm", "a_b"), ("other", "")] {
            let content = format!("\x7fELF\0license=GPL\0depends={needs}\0name={name}\0");
            fs::write(tree.join(format!("{name}.ko")), content).unwrap();
        }
        let to = folder.path().join("modules");
        assert!(copy(&folder.path().join("tree"), &to).unwrap());
        let names: Vec<String> = in_folder(&to)
            .iter()
            .map(|file| file.file_name().unwrap().to_string_lossy().into_owned())
            .collect();
        assert_eq!(names, ["00-a_b.ko", "01-gcm.ko", "02-tls.ko"]);
        fs::remove_file(tree.join("tls.ko")).unwrap();
        assert!(!copy(&folder.path().join("tree"), &to).unwrap());
        assert!(in_folder(&folder.path().join("none")).is_empty());
    }
}
