//! The files of a running process, opened: whatever their mount namespace, and after they were deleted.

use std::{
    ffi::OsStr,
    fmt, fs,
    fs::File,
    io::{self, ErrorKind, Read as _},
    os::unix::{
        ffi::OsStrExt as _,
        fs::{MetadataExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
};

use super::maps::{MappedFile, Range, executable_files, other_code};

/// Bytes of maps that are read: a JVM has tens of thousands of lines of about 100 bytes.
const MAX_MAPS: u64 = 8 << 20;

/// Why a process or a file of it cannot be looked into.
#[derive(Debug)]
pub enum Closed {
    /// There is no such process, or not any more.
    Gone,
    /// The caller may not; what would help.
    Denied {
        /// What was refused.
        what: &'static str,
        /// The right that it takes.
        right: &'static str,
    },
    /// The path names another file by now, and the way by the mapping is not open.
    Replaced,
    /// Something else failed.
    Failed(io::Error),
}

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Closed::Gone => f.write_str("there is no such process"),
            Closed::Denied { what, right } => write!(f, "{what} may not be read: it takes {right}"),
            Closed::Replaced => f.write_str(
                "another file has its path now, and opening a mapped file takes CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN",
            ),
            Closed::Failed(error) => error.fmt(f),
        }
    }
}

/// Whose maps and mapped files are these?
const MAPS_RIGHT: &str = "being its user, or CAP_SYS_PTRACE";

/// A process whose maps were read.
#[derive(Debug)]
pub struct Process {
    /// `/proc/PID`.
    pub dir: PathBuf,
    /// The files whose code it has mapped.
    pub files: Vec<MappedFile>,
    /// Code that is no file's.
    pub others: Vec<(Range, String)>,
    /// The name of its main thread.
    pub name: Vec<u8>,
    /// Whether its maps were longer than what is read.
    pub cut_short: bool,
}

/// A file of a process.
#[derive(Debug)]
pub struct Opened {
    /// Open for reading.
    pub file: File,
    /// A path by which the kernel finds it too, from outside: for attaching.
    pub path: PathBuf,
}

impl Process {
    /// Reads who it is and what it has mapped. `proc_root` is `/proc`.
    pub fn read(proc_root: &Path, pid: u32) -> Result<Process, Closed> {
        let dir = proc_root.join(pid.to_string());
        let mut maps = Vec::new();
        File::open(dir.join("maps"))
            .and_then(|file| file.take(MAX_MAPS).read_to_end(&mut maps))
            .map_err(|error| closed(error, "its maps", MAPS_RIGHT))?;
        let cut_short = maps.len() as u64 == MAX_MAPS;
        let mut name = Vec::new();
        let _ = File::open(dir.join("comm")).and_then(|file| file.take(64).read_to_end(&mut name));
        name.truncate(name.strip_suffix(b"\n").unwrap_or(&name).len());
        Ok(Process { dir, files: executable_files(&maps), others: other_code(&maps), name, cut_short })
    }

    /// Opens a file: by its mapping, which is certain, or else by its path below the process's root, if that still names it.
    pub fn open(&self, mapped: &MappedFile) -> Result<Opened, Closed> {
        let mut refused = None;
        for range in &mapped.ranges {
            let path = self.dir.join(format!("map_files/{:x}-{:x}", range.start, range.end));
            match open_regular(&path) {
                Ok(file) => return Ok(Opened { file, path }),
                Err(error) => refused = Some(error),
            }
        }
        let by_mapping = refused.map_or(Closed::Gone, |error| {
            closed(error, "the mapped file", "CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN")
        });
        if mapped.deleted {
            return Err(by_mapping);
        }
        let below_root = self.path(&mapped.path);
        // The device is not compared there: on btrfs and overlayfs stat(2) and maps disagree about it.
        let refused = match open_regular(&below_root) {
            Ok(file) if has_inode(&file, mapped) => return Ok(Opened { file, path: below_root }),
            Ok(_) => Closed::Replaced,
            Err(error) if error.kind() == ErrorKind::NotFound => by_mapping,
            Err(error) => closed(error, "the file", "CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH"),
        };
        // Of a process with another root in the same mount namespace maps show the path as whoever reads them would write it.
        let path = PathBuf::from(&mapped.path);
        match open_regular(&path) {
            Ok(file) if has_inode(&file, mapped) && device(&file) == Some(mapped.id.device) => {
                Ok(Opened { file, path })
            }
            _ => Err(refused),
        }
    }

    /// A path of the process's own as one from outside.
    pub fn path(&self, inside: &OsStr) -> PathBuf {
        let bytes = inside.as_bytes();
        let relative = bytes.iter().position(|&byte| byte != b'/').map_or(&b""[..], |at| &bytes[at..]);
        self.dir.join("root").join(OsStr::from_bytes(relative))
    }
}

fn has_inode(file: &File, mapped: &MappedFile) -> bool {
    file.metadata().is_ok_and(|metadata| metadata.ino() == mapped.id.inode)
}

fn device(file: &File) -> Option<(u32, u32)> {
    let device = file.metadata().ok()?.dev();
    Some((libc::major(device), libc::minor(device)))
}

/// Opens a regular file, and nothing that would wait: a pipe may stand where a library stood.
pub(crate) fn open_regular(path: &Path) -> io::Result<File> {
    let file =
        fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    let kind = file.metadata()?.file_type();
    if kind.is_file() { Ok(file) } else { Err(io::Error::new(ErrorKind::InvalidInput, "not a regular file")) }
}

fn closed(error: io::Error, what: &'static str, right: &'static str) -> Closed {
    match error.kind() {
        ErrorKind::PermissionDenied => Closed::Denied { what, right },
        ErrorKind::NotFound => Closed::Gone,
        _ if error.raw_os_error() == Some(libc::ESRCH) => Closed::Gone,
        _ => Closed::Failed(error),
    }
}
