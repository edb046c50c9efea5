//! txray's own log: to standard error, or to a file while the screen is on. `TXRAY_LOG=debug` says more.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::PathBuf,
    sync::Mutex,
};

use tracing_subscriber::EnvFilter;

/// Starts the log; later calls change nothing.
pub fn start(has_screen: bool) {
    let filter = EnvFilter::builder()
        .with_env_var("TXRAY_LOG")
        .with_default_directive(tracing::level_filters::LevelFilter::WARN.into())
        .from_env_lossy();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_target(false);
    // A second start in one process is refused; the first one's log goes on.
    let _ = if !has_screen {
        log.with_writer(io::stderr).with_ansi(false).try_init()
    } else if let Some(file) = file() {
        log.with_writer(Mutex::new(file)).with_ansi(false).try_init()
    } else {
        // Nowhere to write to: better no log than one across the screen.
        log.with_writer(io::sink).try_init()
    };
}

/// `$XDG_STATE_HOME/txray/txray.log`, by default below `~/.local/state`; for its owner's eyes only.
fn file() -> Option<File> {
    let state = std::env::var_os("XDG_STATE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".local/state")))?;
    let folder = state.join("txray");
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder).ok()?;
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(folder.join("txray.log"))
        .ok()
}
