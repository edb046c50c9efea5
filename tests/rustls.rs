//! Programs of `fixtures/servers/rustls/`, built by this toolchain into folders of their own.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// How the program is built.
#[derive(Clone, Copy, Debug)]
pub(super) enum Build {
    /// The newest rustls, with all that compilers put in place (link-time optimisation).
    Optimised,
    /// The first rustls of the versions that are read, nobody having optimised it, its names mangled the newer way.
    Plain,
}

impl Build {
    /// The fixtures' program `https`. What is compiled once is kept among the build's own files.
    #[track_caller]
    pub(super) fn program(self) -> PathBuf {
        let (folder, profile, output, flags) = match self {
            Build::Optimised => ("https", "release", "release", ""),
            Build::Plain => ("old", "dev", "debug", "-Csymbol-mangling-version=v0"),
        };
        let source = format!("{}/../fixtures/servers/rustls/{folder}", env!("CARGO_MANIFEST_DIR"));
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("rustls-{folder}"));
        let mut command = Command::new(env!("CARGO"));
        command.args(["build", "--quiet", "--locked", "--profile", profile, "--target-dir"]).arg(&target);
        command.current_dir(source).env_remove("CARGO_ENCODED_RUSTFLAGS").env("RUSTFLAGS", flags);
        let built = command.output().unwrap();
        assert!(built.status.success(), "{command:?}: {}", String::from_utf8_lossy(&built.stderr));
        target.join(output).join("https")
    }
}
