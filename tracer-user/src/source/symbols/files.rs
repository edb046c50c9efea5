//! Where the files are that a recording's frames are in: those that somebody names, those of this host, those of debug information that is installed.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use crate::{
    event::CodeFile,
    uprobe::{elf::Elf, process::open_regular},
};

/// Files of folders that are looked at: a distribution's debug information of everything has some ten thousand.
const MAX_LOOKED_AT: usize = 200_000;
/// How deep folders are looked into: `usr/lib/debug/.build-id/ab/….debug` of a root folder, and some more.
const MAX_DEPTH: usize = 12;
/// Where distributions install debug information.
const INSTALLED: &str = "/usr/lib/debug/.build-id";

/// Finds files.
#[derive(Debug, Default)]
pub struct Finder {
    /// By build id, of what somebody named.
    by_id: BTreeMap<String, Vec<PathBuf>>,
    /// Files that somebody named one by one and that have no build id, by their own name.
    by_name: BTreeMap<String, Vec<PathBuf>>,
    /// Files that were looked at.
    pub n_looked_at: usize,
    /// There were more.
    pub is_cut: bool,
}

impl Finder {
    /// Looks at what somebody names: a file of a program, a library or debug information, or a folder of such.
    pub fn look(&mut self, path: &Path) -> io::Result<()> {
        if fs::metadata(path)?.is_dir() {
            self.look_into(path, MAX_DEPTH)
        } else if self.look_at(path, true) {
            Ok(())
        } else {
            let what = "no program, library or file of debug information (ELF of 64 bits)";
            Err(io::Error::new(io::ErrorKind::InvalidData, what))
        }
    }

    fn look_into(&mut self, dir: &Path, depth: usize) -> io::Result<()> {
        let mut entries: Vec<_> = fs::read_dir(dir)?.flatten().collect();
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            if self.n_looked_at >= MAX_LOOKED_AT {
                self.is_cut = true;
                return Ok(());
            }
            // Not through links: what they lead to is there by its own name, or is not of this folder.
            match entry.file_type() {
                // One that cannot be read holds nothing for us.
                Ok(kind) if kind.is_dir() && depth > 0 => drop(self.look_into(&entry.path(), depth - 1)),
                Ok(kind) if kind.is_file() => drop(self.look_at(&entry.path(), false)),
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether it is one.
    fn look_at(&mut self, path: &Path, is_named: bool) -> bool {
        self.n_looked_at += 1;
        let Ok(file) = open_regular(path) else { return false };
        let Ok(elf) = Elf::parse(&file) else { return false };
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match elf.build_id() {
            Some(id) => self.by_id.entry(id).or_default().push(path.to_owned()),
            None if is_named => self.by_name.entry(name).or_default().push(path.to_owned()),
            None => {}
        }
        true
    }

    /// The files that say something of this one: that have its build id; without one, those that somebody named for it.
    pub fn files(&self, file: &CodeFile) -> Vec<PathBuf> {
        let path = Path::new(&file.path);
        let Some(id) = &file.build_id else {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            return self.by_name.get(&*name).cloned().unwrap_or_default();
        };
        let mut found = self.by_id.get(id).cloned().unwrap_or_default();
        let installed = id
            .get(..2)
            .zip(id.get(2..))
            .map(|(first, rest)| Path::new(INSTALLED).join(first).join(format!("{rest}.debug")));
        let here = [Some(path.to_owned()), installed];
        found.extend(here.into_iter().flatten().filter(|path| {
            open_regular(path)
                .is_ok_and(|file| Elf::parse(&file).is_ok_and(|elf| elf.build_id().as_ref() == Some(id)))
        }));
        found.dedup();
        found
    }
}
