//! Folders that take seconds to make and are the same for every test: a database as its own program sets it up. Made once for each recipe, then copied.

use std::{
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::{Path, PathBuf},
    process::Command,
};

/// Puts a copy of what `make` makes at `to`, which does not exist yet. `recipe`: all that it depends on. `make` is given a folder that does not exist either,
/// below one that others may enter; whatever it starts has ended when it returns.
#[track_caller]
pub(super) fn copy(name: &str, recipe: &str, to: &Path, make: impl FnOnce(&Path)) {
    let mut hash = DefaultHasher::new();
    recipe.hash(&mut hash);
    let kept = PathBuf::from(format!("{}/{name}-{:016x}", env!("CARGO_TARGET_TMPDIR"), hash.finish()));
    if !kept.exists() {
        // Its owner may be somebody who cannot enter this project's folders.
        let made = tempfile::TempDir::new().unwrap();
        fs::set_permissions(made.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let data = made.path().join("data");
        make(&data);
        // Whoever is interrupted leaves no half of one.
        let partial = kept.with_extension("partial");
        let _ = fs::remove_dir_all(&partial);
        copy_folder(&data, &partial);
        fs::rename(&partial, &kept).unwrap();
    }
    copy_folder(&kept, to);
}

/// With owners and permissions.
#[track_caller]
fn copy_folder(from: &Path, to: &Path) {
    let made = Command::new("cp").args(["-a", "--reflink=auto"]).arg(from).arg(to).status().unwrap();
    assert!(made.success(), "copy {} to {}", from.display(), to.display());
}
