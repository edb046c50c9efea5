//! Folders and files of a recording, made without following links: 0700 and 0600, owned by the user behind sudo.
//!
//! txray runs as root and may write into a folder that belongs to someone else. Everything below the recording's own
//! folder is therefore opened relative to the folder above it, which is held open, and never through a link.

use std::{
    ffi::CString,
    fs::File,
    io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::{ffi::OsStrExt as _, fs::PermissionsExt},
    },
    path::{Path, PathBuf},
};

/// A user and a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl Owner {
    /// The user behind sudo, when this process is root through it.
    pub fn behind_sudo() -> Option<Owner> {
        // SAFETY: takes no argument and cannot fail.
        if unsafe { libc::geteuid() } != 0 {
            return None;
        }
        let number = |name| std::env::var(name).ok()?.parse().ok();
        Some(Owner { uid: number("SUDO_UID")?, gid: number("SUDO_GID")? })
    }
}

/// A folder, held open.
#[derive(Debug)]
pub struct Folder {
    fd: OwnedFd,
    path: PathBuf,
    owner: Option<Owner>,
}

impl Folder {
    /// Opens the recording's folder; makes it, and what is missing above it.
    pub fn create(path: &Path, owner: Option<Owner>) -> io::Result<Folder> {
        let mut missing = Vec::new();
        let mut at = Some(path);
        while let Some(folder) = at.filter(|folder| !folder.as_os_str().is_empty()) {
            if folder.symlink_metadata().is_ok() {
                break;
            }
            missing.push(folder);
            at = folder.parent();
        }
        for folder in missing.into_iter().rev() {
            std::fs::create_dir(folder)?;
            std::fs::set_permissions(folder, PermissionsExt::from_mode(0o700))?;
            if let Some(owner) = owner {
                std::os::unix::fs::lchown(folder, Some(owner.uid), Some(owner.gid))?;
            }
        }
        Self::open_at(libc::AT_FDCWD, path, path, owner)
    }

    /// Opens a folder that is there.
    pub fn open(path: &Path, owner: Option<Owner>) -> io::Result<Folder> {
        Self::open_at(libc::AT_FDCWD, path, path, owner)
    }

    /// Opens a folder below; makes it if it is missing.
    pub fn sub(&self, name: &str) -> io::Result<Folder> {
        let path = self.path.join(name);
        let open = || Self::open_at(self.fd.as_raw_fd(), Path::new(name), &path, self.owner);
        match open() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            opened => return opened,
        }
        let text = c_string(Path::new(name))?;
        // SAFETY: `fd` is open and `text` ends in a zero.
        let made = unsafe { libc::mkdirat(self.fd.as_raw_fd(), text.as_ptr(), 0o700) };
        if made != 0 {
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::AlreadyExists {
                return Err(error);
            }
        }
        let folder = open()?;
        folder.give_to_owner(folder.fd.as_raw_fd())?;
        Ok(folder)
    }

    fn open_at(at: libc::c_int, name: &Path, path: &Path, owner: Option<Owner>) -> io::Result<Folder> {
        let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_CLOEXEC;
        let fd = open_fd(at, name, flags)?;
        Ok(Folder { fd, path: path.to_owned(), owner })
    }

    /// Its path, for messages and readers.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a file that must not be there yet, to read and write.
    pub fn create_file(&self, name: &str) -> io::Result<File> {
        let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW | libc::O_CLOEXEC;
        self.file(name, flags)
    }

    /// Opens a file to read and write; makes it if it is missing.
    pub fn open_or_create_file(&self, name: &str) -> io::Result<File> {
        self.file(name, libc::O_RDWR | libc::O_CREAT | libc::O_NOFOLLOW | libc::O_CLOEXEC)
    }

    /// Opens a file to read.
    pub fn open_file(&self, name: &str) -> io::Result<File> {
        let flags = libc::O_RDONLY | libc::O_NOFOLLOW | libc::O_CLOEXEC;
        Ok(open_fd(self.fd.as_raw_fd(), Path::new(name), flags)?.into())
    }

    fn file(&self, name: &str, flags: libc::c_int) -> io::Result<File> {
        let fd = open_fd(self.fd.as_raw_fd(), Path::new(name), flags)?;
        self.give_to_owner(fd.as_raw_fd())?;
        Ok(fd.into())
    }

    fn give_to_owner(&self, fd: libc::c_int) -> io::Result<()> {
        let Some(Owner { uid, gid }) = self.owner else { return Ok(()) };
        // SAFETY: `fd` is open.
        check(unsafe { libc::fchown(fd, uid, gid) })
    }

    /// Renames a file within the folder, over what has the name.
    pub fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let (fd, from, to) = (self.fd.as_raw_fd(), c_string(Path::new(from))?, c_string(Path::new(to))?);
        // SAFETY: `fd` is open and the names end in a zero.
        check(unsafe { libc::renameat(fd, from.as_ptr(), fd, to.as_ptr()) })
    }

    /// Removes a file; fine when it is not there.
    pub fn remove_file(&self, name: &str) -> io::Result<()> {
        let name = c_string(Path::new(name))?;
        // SAFETY: `fd` is open and the name ends in a zero.
        match check(unsafe { libc::unlinkat(self.fd.as_raw_fd(), name.as_ptr(), 0) }) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }

    /// Makes renames and removals durable.
    pub fn sync(&self) -> io::Result<()> {
        // SAFETY: `fd` is open.
        check(unsafe { libc::fsync(self.fd.as_raw_fd()) })
    }
}

/// Takes the recording's lock for as long as the file lives: one writer at a time.
pub fn lock(folder: &Folder) -> io::Result<File> {
    let file = folder.open_or_create_file(".lock")?;
    // SAFETY: `file` is open.
    check(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) })?;
    Ok(file)
}

fn open_fd(at: libc::c_int, name: &Path, flags: libc::c_int) -> io::Result<OwnedFd> {
    let name = c_string(name)?;
    // SAFETY: `at` is open (or AT_FDCWD), the name ends in a zero, and the mode is there for O_CREAT.
    let fd = unsafe { libc::openat(at, name.as_ptr(), flags, 0o600 as libc::c_uint) };
    check(fd)?;
    // SAFETY: `fd` was just opened and belongs to no one else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn c_string(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn folders_and_files_are_private_and_links_are_not_followed() {
        let temp = tempfile::tempdir().unwrap();
        let root = Folder::create(&temp.path().join("a/b"), None).unwrap();
        let sub = root.sub("c").unwrap();
        sub.create_file("file").unwrap();
        let mode = |path: &str| temp.path().join(path).symlink_metadata().unwrap().mode() & 0o777;
        assert_eq!([mode("a"), mode("a/b"), mode("a/b/c"), mode("a/b/c/file")], [0o700, 0o700, 0o700, 0o600]);

        std::os::unix::fs::symlink("/etc", temp.path().join("a/b/link")).unwrap();
        assert!(root.sub("link").is_err());
        assert!(root.create_file("link").is_err());
        assert!(root.open_or_create_file("link").is_err());
        assert!(Folder::create(&temp.path().join("a/b/link"), None).is_err());
        assert!(sub.create_file("file").is_err(), "a file that is there is not taken over");
    }

    #[test]
    fn a_folder_has_one_lock() {
        let temp = tempfile::tempdir().unwrap();
        let root = Folder::create(temp.path(), None).unwrap();
        let held = lock(&root).unwrap();
        assert!(lock(&root).is_err());
        drop(held);
        assert!(lock(&root).is_ok());
    }
}
