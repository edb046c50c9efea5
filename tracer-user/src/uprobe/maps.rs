//! `/proc/PID/maps`: the files whose code a process runs.

use std::{ffi::OsString, os::unix::ffi::OsStringExt as _};

use rustc_hash::FxHashMap;

/// Files of one process that are kept: a browser has some three hundred.
pub const MAX_FILES: usize = 4096;
/// Ranges of one file that are kept: a library has one of code, a file that is rewritten while it runs some more.
const MAX_RANGES: usize = 64;

/// A file, wherever it is mounted and whether it still has a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId {
    /// Major and minor number of its device, as the kernel writes them into maps.
    pub device: (u32, u32),
    /// Its number there.
    pub inode: u64,
}

/// A part of a file in a process's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// First address.
    pub start: u64,
    /// First address behind it.
    pub end: u64,
    /// Where in the file it begins.
    pub offset: u64,
}

/// A file of which some code is mapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MappedFile {
    /// Which.
    pub id: FileId,
    /// Its path as the process sees it, or saw it.
    pub path: OsString,
    /// Whether that path no longer names it.
    pub deleted: bool,
    /// Its executable ranges.
    pub ranges: Vec<Range>,
}

/// All files with an executable mapping, in the order of their first.
pub fn executable_files(maps: &[u8]) -> Vec<MappedFile> {
    let mut files: Vec<MappedFile> = Vec::new();
    let mut known: FxHashMap<FileId, usize> = FxHashMap::default();
    for mapping in maps.split(|&byte| byte == b'\n').filter_map(mapping) {
        if let Some(&at) = known.get(&mapping.id) {
            if files[at].ranges.len() < MAX_RANGES {
                files[at].ranges.extend(mapping.ranges);
            }
        } else if files.len() < MAX_FILES {
            known.insert(mapping.id, files.len());
            files.push(mapping);
        }
    }
    files
}

/// Executable ranges that are no file's, by what the kernel calls them: `[vdso]`, nothing for memory into which a program writes code.
pub fn other_code(maps: &[u8]) -> Vec<(Range, String)> {
    maps.split(|&byte| byte == b'\n')
        .filter_map(line)
        .filter(|line| line.is_code && !line.is_file())
        .map(|line| (line.range, String::from_utf8_lossy(line.path).into_owned()))
        .take(MAX_FILES)
        .collect()
}

/// A line: `START-END PERMISSIONS OFFSET MAJOR:MINOR INODE    PATH`.
struct Line<'a> {
    range: Range,
    is_code: bool,
    id: FileId,
    path: &'a [u8],
}

impl Line<'_> {
    fn is_file(&self) -> bool {
        self.id.inode != 0 && self.path.starts_with(b"/")
    }
}

fn line(line: &[u8]) -> Option<Line<'_>> {
    let mut rest = line;
    let mut field = || {
        let start = rest.iter().position(|&byte| byte != b' ')?;
        let end = rest[start..].iter().position(|&byte| byte == b' ').map_or(rest.len(), |at| start + at);
        let (field, behind) = rest.split_at(end);
        rest = behind;
        std::str::from_utf8(&field[start..]).ok()
    };
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    let (start, end) = field()?.split_once('-')?;
    let is_code = field()?.as_bytes().get(2) == Some(&b'x');
    let offset = hex(field()?)?;
    let (major, minor) = field()?.split_once(':')?;
    let inode = field()?.parse().ok()?;
    let range = Range { start: hex(start)?, end: hex(end)?, offset };
    let device = (u32::try_from(hex(major)?).ok()?, u32::try_from(hex(minor)?).ok()?);
    Some(Line { range, is_code, id: FileId { device, inode }, path: rest.trim_ascii_start() })
}

/// `None` if it is no file's code.
fn mapping(text: &[u8]) -> Option<MappedFile> {
    let line = line(text).filter(|line| line.is_code && line.is_file())?;
    let (id, range, path) = (line.id, line.range, line.path);
    // A name that ends like this itself is taken for a deleted one: it is only said, and the file is found by its number.
    let (path, deleted) = match path.strip_suffix(b" (deleted)") {
        Some(path) => (path, true),
        None => (path, false),
    };
    let path = OsString::from_vec(unescape(path));
    Some(MappedFile { id, path, deleted, ranges: vec![range] })
}

/// The kernel writes a line feed in a name as `\012`, and nothing else so.
fn unescape(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = memchr::memmem::find(rest, b"\\012") {
        out.extend_from_slice(&rest[..at]);
        out.push(b'\n');
        rest = &rest[at + 4..];
    }
    out.extend_from_slice(rest);
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn files_are_told_apart_by_their_number_and_not_by_their_name() {
        let maps = b"\
55d0-55d1 r--p 00000000 fe:00 11                          /usr/bin/app\n\
55d1-55d4 r-xp 00001000 fe:00 11                          /usr/bin/app\n\
7f00-7f08 r-xp 00002000 fe:01 11                          /lib/libssl.so.3 (deleted)\n\
7f10-7f18 r-xp 00003000 fe:00 11                          /usr/bin/app\n\
7f20-7f28 r-xp 00000000 00:05 12                          /memfd:a\\012b (deleted)\n\
7f30-7f38 rwxp 00000000 00:00 0 \n\
7ffc-7ffd r-xp 00000000 00:00 0                           [vdso]\n\
garbage\n";
        let files = executable_files(maps);
        let short: Vec<_> = files
            .iter()
            .map(|file| (file.path.to_str().unwrap(), file.deleted, file.id.device, file.ranges.len()))
            .collect();
        assert_eq!(
            short,
            [
                ("/usr/bin/app", false, (0xfe, 0), 2),
                ("/lib/libssl.so.3", true, (0xfe, 1), 1),
                ("/memfd:a\nb", true, (0, 5), 1)
            ]
        );
        assert_eq!(files[1].ranges, [Range { start: 0x7f00, end: 0x7f08, offset: 0x2000 }]);
        let others = other_code(maps);
        let short: Vec<_> = others.iter().map(|(range, name)| (range.start, name.as_str())).collect();
        assert_eq!(short, [(0x7f30, ""), (0x7ffc, "[vdso]")]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            executable_files(&bytes);
            other_code(&bytes);
        }

        #[test]
        fn broken_lines_are_survived(line in "[0-9a-f]{0,18}-?[0-9a-f]{0,18} [r-]?.?x?p? [0-9a-f]{0,9} [0-9a-f:]{0,9} [0-9]{0,22} /?[ -~]{0,9}") {
            executable_files(line.as_bytes());
        }
    }
}
