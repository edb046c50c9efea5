//! Names of code that a program writes while it runs, as it tells them itself in `/tmp/perf-PID.map`: Node with `--perf-basic-prof`, Python (3.12) with `-X perf`, JVMs
//! when `jcmd PID Compiler.perfmap` asks them to, which write all of it anew each time, .NET with `DOTNET_PerfMapEnabled`. Lines of `START SIZE NAME`, numbers in hexadecimal (tools/perf/Documentation/jit-interface.txt in Linux).

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

/// Functions of one program that are known; what it writes behind them is not read. A large Node application has some 100,000.
const MAX_FUNCTIONS: usize = 500_000;
/// Bytes that are read at a time: the stack that wants a name waits for it.
const MAX_PIECE: usize = 16 << 20;
/// Longest line; what is longer ends the reading.
const MAX_LINE: usize = 64 << 10;

/// Bytes of what was read last that are held against the file when it is looked at again: addresses of a line or two.
const LAST: usize = 128;

/// What a program has said of the code that it wrote.
#[derive(Debug)]
pub struct JitMap {
    path: PathBuf,
    /// The user that the file must belong to: anybody can write to /tmp.
    user: u32,
    read: u64,
    /// The last bytes that were read: if others stand there, all was written anew.
    last: Vec<u8>,
    /// What it has said was read for the stack that is being resolved.
    is_fresh: bool,
    /// None is within another.
    functions: BTreeMap<u64, (u64, Arc<str>)>,
}

impl JitMap {
    /// Of a process, by `/proc/PID`; nothing is read yet. `None`: the process is gone.
    pub fn of(process: &Path) -> Option<JitMap> {
        let status = std::fs::read_to_string(process.join("status")).ok()?;
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
        // Its number where it runs: the last of all namespaces.
        let pid: u32 = field("NSpid:")?.split_ascii_whitespace().next_back()?.parse().ok()?;
        let user = field("Uid:")?.split_ascii_whitespace().nth(1)?.parse().ok()?;
        let path = process.join(format!("root/tmp/perf-{pid}.map"));
        let (last, functions) = (Vec::new(), BTreeMap::new());
        Some(JitMap { path, user, read: 0, last, is_fresh: false, functions })
    }

    /// Another stack comes: code is thrown away, and other code may stand in its place by now.
    pub fn look_again(&mut self) {
        self.is_fresh = false;
    }

    /// The function that an address is in: its name and how far in it. Looks whether more is said by now.
    pub fn around(&mut self, address: u64) -> Option<(Arc<str>, u64)> {
        if !std::mem::replace(&mut self.is_fresh, true) {
            // One that cannot be read says nothing.
            let _ = self.read_on();
        }
        self.known(address).or_else(|| {
            self.read_on().ok().filter(|is_more| *is_more)?;
            self.known(address)
        })
    }

    /// Whether it has said anything.
    pub fn has_said(&self) -> bool {
        !self.functions.is_empty()
    }

    fn known(&self, address: u64) -> Option<(Arc<str>, u64)> {
        let (start, (size, name)) = self.functions.range(..=address).next_back()?;
        let offset = address - start;
        (offset < *size).then(|| (name.clone(), offset))
    }

    fn read_on(&mut self) -> io::Result<bool> {
        // A link would be followed to wherever its author likes.
        let file = std::fs::OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(&self.path)?;
        let metadata = file.metadata()?;
        if !metadata.file_type().is_file() || metadata.uid() != self.user && metadata.uid() != 0 {
            return Ok(false);
        }
        self.take(&file, metadata.len())
    }

    /// Begins again where all was written anew.
    fn hold_against(&mut self, file: &File, length: u64) {
        let mut bytes = vec![0; self.last.len()];
        let at = self.read.saturating_sub(bytes.len() as u64);
        let is_the_same =
            self.read <= length && file.read_exact_at(&mut bytes, at).is_ok() && bytes == self.last;
        if !is_the_same && self.read != u64::MAX {
            (self.read, self.last, self.functions) = (0, Vec::new(), BTreeMap::new());
        }
    }

    fn take(&mut self, file: &File, length: u64) -> io::Result<bool> {
        self.hold_against(file, length);
        let more = length.saturating_sub(self.read).min(MAX_PIECE as u64) as usize;
        if more == 0 || self.functions.len() >= MAX_FUNCTIONS {
            return Ok(false);
        }
        let mut bytes = vec![0; more];
        let n = file.read_at(&mut bytes, self.read)?;
        bytes.truncate(n);
        // The last line may be half written.
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        if whole == 0 && n > MAX_LINE {
            self.read = u64::MAX;
        }
        self.read = self.read.saturating_add(whole as u64);
        if whole > 0 {
            self.last = bytes[whole.saturating_sub(LAST)..whole].to_vec();
        }
        for (start, size, name) in bytes[..whole].split(|byte| *byte == b'\n').filter_map(function) {
            if self.functions.len() >= MAX_FUNCTIONS {
                break;
            }
            self.add(start, size, name);
        }
        Ok(whole > 0)
    }

    /// What is written later is what stands there now: nothing else is left of what stood anywhere in it.
    fn add(&mut self, start: u64, size: u64, name: Arc<str>) {
        let end = start.saturating_add(size);
        while let Some((&other, (length, _))) = self.functions.range(..end).next_back()
            && other.saturating_add(*length) > start
        {
            self.functions.remove(&other);
        }
        self.functions.insert(start, (size, name));
    }
}

/// A line.
fn function(line: &[u8]) -> Option<(u64, u64, Arc<str>)> {
    let line = String::from_utf8_lossy(line);
    let mut parts = line.splitn(3, ' ');
    let mut number = || u64::from_str_radix(parts.next()?.trim_start_matches("0x"), 16).ok();
    let (start, size) = (number()?, number()?);
    let name = parts.next()?.trim();
    (size > 0 && !name.is_empty()).then(|| (start, size, name.into()))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_said_later_is_read_when_it_is_asked_for_and_replaces_what_stood_there() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let mut map = JitMap {
            path: file.path().to_owned(),
            user: file.as_file().metadata().unwrap().uid(),
            read: 0,
            last: Vec::new(),
            is_fresh: false,
            functions: BTreeMap::new(),
        };
        assert_eq!((map.around(0x1010), map.has_said()), (None, false));
        file.write_all(b"1000 20 LazyCompile:~handle /srv/app.js:7\nnonsense\n2000 10 b\n30").unwrap();
        let name = |map: &mut JitMap, at| map.around(at).map(|(name, offset)| (name.to_string(), offset));
        assert_eq!(name(&mut map, 0x1010), Some(("LazyCompile:~handle /srv/app.js:7".into(), 0x10)));
        assert_eq!((name(&mut map, 0x1020), name(&mut map, 0x3000)), (None, None));
        file.write_all(b"00 8 c\n1000 20 *handle\n").unwrap();
        assert_eq!(name(&mut map, 0x3007), Some(("c".into(), 7)));
        assert_eq!(name(&mut map, 0x1000), Some(("*handle".into(), 0)));
        // Other code stands there now, and some of it where something else began.
        file.write_all(b"ff0 24 *other\n").unwrap();
        assert_eq!(name(&mut map, 0x1000), Some(("*handle".into(), 0)));
        map.look_again();
        assert_eq!(name(&mut map, 0x1000), Some(("*other".into(), 0x10)));
        assert_eq!((name(&mut map, 0x1013), name(&mut map, 0x1014)), (Some(("*other".into(), 0x23)), None));
        // All is written anew, and what was compiled since is among it.
        for text in [
            "1000 40 *third\n4000 8 e\n1000 40 *fourth\n2000 10 longer than all that stood there before it\n7000 8 f\n8000 8 g\n",
            "1000 40 *fifth\n",
        ] {
            file.as_file().set_len(0).unwrap();
            std::fs::write(file.path(), text).unwrap();
            map.look_again();
            let last = if text.contains("fifth") { "*fifth" } else { "*fourth" };
            assert_eq!(name(&mut map, 0x1013), Some((last.into(), 0x13)));
            assert_eq!(name(&mut map, 0x3007), None, "it is not said any more");
        }
        use std::io::Seek as _;
        file.seek(std::io::SeekFrom::End(0)).unwrap();
        map.user = u32::MAX - 1;
        file.write_all(b"5000 8 d\n").unwrap();
        // Root may write for all.
        assert_eq!(name(&mut map, 0x5000).is_some(), file.as_file().metadata().unwrap().uid() == 0);
    }

    proptest! {
        #[test]
        fn any_line_is_survived(line in prop::collection::vec(any::<u8>(), 0..100)) {
            function(&line);
        }
    }
}
