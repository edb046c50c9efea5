//! The guest's first and only file system: a cpio archive (`newc`, as the kernel's documentation of initramfs has it).

use std::{fs, io::Write as _, os::unix::fs::PermissionsExt as _, path::Path};

use anyhow::{Context as _, Result};

const DIRECTORY: u32 = 0o040_755;
const REGULAR: u32 = 0o100_000;

/// An archive being written.
#[derive(Debug, Default)]
pub(crate) struct Image {
    bytes: Vec<u8>,
    entries: u32,
}

impl Image {
    /// Adds an empty folder. Parents come first.
    pub(crate) fn directory(&mut self, path: &str) -> Result<()> {
        self.entry(path, DIRECTORY, &[])
    }

    /// Adds a file with these permissions.
    pub(crate) fn file(&mut self, path: &str, permissions: u32, content: &[u8]) -> Result<()> {
        self.entry(path, REGULAR | permissions, content)
    }

    /// Adds a file of this host, under another name.
    pub(crate) fn copy(&mut self, path: &str, from: &Path) -> Result<()> {
        let content = fs::read(from).with_context(|| format!("reading {}", from.display()))?;
        let permissions = fs::metadata(from)?.permissions().mode() & 0o777;
        self.file(path, permissions, &content)
    }

    /// Closes the archive and returns it.
    pub(crate) fn finish(mut self) -> Result<Vec<u8>> {
        self.entry("TRAILER!!!", 0, &[])?;
        Ok(self.bytes)
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.entries += 1;
        let links = if mode == DIRECTORY { 2 } else { 1 };
        let size = u32::try_from(content.len()).context("a file of the image is larger than 4 GB")?;
        let name_size = u32::try_from(path.len() + 1)?;
        // inode, mode, uid, gid, links, mtime, size, device ×2, its device ×2, name size, checksum.
        let fields = [self.entries, mode, 0, 0, links, 0, size, 0, 0, 0, 0, name_size, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            write!(self.bytes, "{field:08x}")?;
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend_from_slice(content);
        self.align();
        Ok(())
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_aligned_and_the_archive_ends_with_its_trailer() {
        let mut image = Image::default();
        image.directory("bin").unwrap();
        image.file("init", 0o755, b"#!/bin/sh\n").unwrap();
        image.file("bin/sh", 0o755, b"x").unwrap();
        let bytes = image.finish().unwrap();
        assert_eq!(bytes.len() % 4, 0);
        let headers: Vec<usize> =
            bytes.windows(6).enumerate().filter(|(_, w)| w == b"070701").map(|(at, _)| at).collect();
        assert_eq!(headers.len(), 4);
        assert!(headers.iter().all(|at| at % 4 == 0));
        // Size of `init`, the seventh field of the second header.
        let at = headers[1] + 6 + 6 * 8;
        assert_eq!(&bytes[at..at + 8], b"0000000a");
        assert!(bytes.windows(10).any(|w| w == b"TRAILER!!!"));
    }
}
