//! Debug information that a distribution keeps apart from the program: names of functions that stripping removed.

use std::{
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
};

use super::{
    elf::{Elf, text_at},
    process::open_regular,
};

/// Bytes of a file whose checksum is computed: at 1 GB/s a quarter of a second; larger ones are recognised by their build id alone.
const MAX_CHECKED: u64 = 256 << 20;

/// The file of debug information that belongs to this program, if it is installed below `root`: by its build id, or by the link in
/// `.gnu_debuglink` from `folder`, the program's own.
pub fn find(elf: &Elf<'_>, root: &Path, folder: &Path) -> Option<File> {
    let build_id = elf.build_id();
    if let Some(id) = &build_id
        && let (Some(first), Some(rest)) = (id.get(..2), id.get(2..))
    {
        let path = root.join("usr/lib/debug/.build-id").join(first).join(format!("{rest}.debug"));
        if let Some(file) = open_regular(&path).ok().filter(|file| has_build_id(file, id)) {
            return Some(file);
        }
    }
    let link = elf.data(elf.section(".gnu_debuglink")?, 4096);
    let name = text_at(&link, 0);
    // A name, a zero, filled up to 4 bytes, a checksum.
    let sum = link.get((name.len() + 1).next_multiple_of(4)..)?.get(..4)?;
    let sum = u32::from_le_bytes(sum.try_into().ok()?);
    // A name and no path: what comes out of a program must not choose which file is opened.
    if name.is_empty() || name.contains('/') || name == ".." {
        return None;
    }
    let beside = root.join(relative(folder));
    let places: [PathBuf; 3] = [
        beside.join(&name),
        beside.join(".debug").join(&name),
        root.join("usr/lib/debug").join(relative(folder)).join(&name),
    ];
    places.iter().filter_map(|path| open_regular(path).ok()).find(|file| match &build_id {
        Some(id) => has_build_id(file, id),
        None => checksum(file) == Some(sum),
    })
}

fn relative(folder: &Path) -> &Path {
    folder.strip_prefix("/").unwrap_or(folder)
}

fn has_build_id(file: &File, id: &str) -> bool {
    Elf::parse(file).is_ok_and(|elf| elf.build_id().as_deref() == Some(id))
}

fn checksum(mut file: &File) -> Option<u32> {
    if file.metadata().ok()?.len() > MAX_CHECKED {
        return None;
    }
    let (mut hasher, mut buffer) = (crc32fast::Hasher::new(), vec![0; 64 << 10]);
    loop {
        match file.read(&mut buffer).ok()? {
            0 => return Some(hasher.finalize()),
            n => hasher.update(&buffer[..n]),
        }
    }
}
