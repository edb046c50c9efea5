//! Files that the screen writes: whole or not at all, and never over another.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

/// Makes a file that must not be there, for its owner alone (0600). The name is claimed first, then the finished content is renamed
/// over the claim: who reads it finds nothing in it, or all.
pub fn write_new(path: &Path, content: &[u8]) -> io::Result<()> {
    let name = path.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut temporary = OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(temporary);
    create(path)?;
    let written = (|| {
        let mut file = create(&temporary)?;
        let written = file.write_all(content).and_then(|()| file.sync_all());
        let renamed = written.and_then(|()| fs::rename(&temporary, path));
        if renamed.is_err() {
            // The first error is the one to tell.
            let _ = fs::remove_file(&temporary);
        }
        renamed
    })();
    if written.is_err() {
        let _ = fs::remove_file(path);
    }
    written
}

/// `O_EXCL`: neither a file that is there nor a link is followed.
fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).custom_flags(libc::O_CLOEXEC).open(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, symlink};

    use super::*;

    #[test]
    fn a_file_is_written_once_for_its_owner_and_nothing_else_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.txt");
        write_new(&path, b"first").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let again = write_new(&path, b"second").unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"first");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_link_is_not_followed_and_a_missing_folder_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let (target, link) = (dir.path().join("target"), dir.path().join("link"));
        symlink(&target, &link).unwrap();
        assert_eq!(write_new(&link, b"x").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert!(!target.exists());
        assert_eq!(write_new(&dir.path().join("no/x"), b"x").unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(write_new(Path::new("/"), b"x").is_err());
    }

    #[test]
    fn what_cannot_be_written_leaves_no_claim_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        // The name of the temporary file is taken.
        fs::create_dir(dir.path().join(format!(".x.{}.tmp", std::process::id()))).unwrap();
        assert!(write_new(&path, b"x").is_err());
        assert!(!path.exists());
    }
}
