//! Where an executable's bytes come from: a part at a time, bounded, so that a file of gigabytes costs what is looked at.

use std::{fs::File, os::unix::fs::FileExt as _};

/// Bytes that one read may take. The largest part that is read whole is a table of symbols: 1.7 million of them, or Chrome's with debug
/// information.
pub const MAX_READ: usize = 64 << 20;

/// Bytes that can be read at any place. A file is read and not mapped: one that shrinks meanwhile ends a read and not the program.
pub trait Bytes {
    /// How many there are.
    fn size(&self) -> u64;

    /// Exactly `length` bytes at `offset`; `None` if they are not all there or are more than [`MAX_READ`].
    fn read_at(&self, offset: u64, length: usize) -> Option<Vec<u8>>;

    /// As many of `length` bytes at `offset` as there are, at most [`MAX_READ`].
    fn read_up_to(&self, offset: u64, length: u64) -> Vec<u8> {
        let left = self.size().saturating_sub(offset).min(length).min(MAX_READ as u64);
        self.read_at(offset, usize::try_from(left).unwrap_or(0)).unwrap_or_default()
    }
}

impl Bytes for [u8] {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read_at(&self, offset: u64, length: usize) -> Option<Vec<u8>> {
        let start = usize::try_from(offset).ok()?;
        let end = start.checked_add(length).filter(|_| length <= MAX_READ)?;
        self.get(start..end).map(<[u8]>::to_vec)
    }
}

impl Bytes for Vec<u8> {
    fn size(&self) -> u64 {
        self.as_slice().size()
    }

    fn read_at(&self, offset: u64, length: usize) -> Option<Vec<u8>> {
        self.as_slice().read_at(offset, length)
    }
}

impl Bytes for File {
    fn size(&self) -> u64 {
        self.metadata().map_or(0, |metadata| metadata.len())
    }

    fn read_at(&self, offset: u64, length: usize) -> Option<Vec<u8>> {
        // Asked first: a length out of a damaged file must not become an allocation.
        let end = offset.checked_add(length as u64)?;
        if length > MAX_READ || end > self.size() {
            return None;
        }
        let mut bytes = vec![0; length];
        self.read_exact_at(&mut bytes, offset).ok()?;
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_file_and_a_slice_give_the_same_and_nothing_beyond_their_end() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"0123456789").unwrap();
        let slice: &[u8] = b"0123456789";
        for bytes in [&slice.to_vec() as &dyn Bytes, &file] {
            assert_eq!(bytes.read_at(2, 3).as_deref(), Some(&b"234"[..]));
            assert_eq!(bytes.read_at(10, 0).as_deref(), Some(&b""[..]));
            assert_eq!(bytes.read_at(8, 3), None);
            assert_eq!(bytes.read_at(u64::MAX, 2), None);
            assert_eq!(bytes.read_at(0, MAX_READ + 1), None);
            assert_eq!(bytes.read_up_to(8, u64::MAX), b"89");
            assert_eq!(bytes.read_up_to(u64::MAX, 1), b"");
        }
    }
}
