//! Processes of a run: started with a log of their own, waited for, ended by their number.

use std::{
    fs::File,
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::shell::show;

/// Longest that a program may take until it listens.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server, ended when dropped.
#[derive(Debug)]
pub(super) struct Server {
    child: Child,
    pub(super) port: u16,
    pub(super) log: PathBuf,
    signal: libc::c_int,
}

impl Server {
    /// Starts it with both outputs in a file, and waits until its port answers.
    pub(super) fn start(command: &mut Command, port: u16, log: &Path) -> Result<Server> {
        let file = File::create(log)?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = command.spawn().with_context(|| show(command))?;
        let mut server = Server { child, port, log: log.to_owned(), signal: libc::SIGTERM };
        let began = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if began.elapsed() > PATIENCE || server.child.try_wait()?.is_some() {
                bail!("{} does not listen; see {}", show(command), log.display());
            }
            thread::sleep(Duration::from_millis(100));
        }
        Ok(server)
    }

    /// It ends by another signal than SIGTERM.
    pub(super) fn ended_by(mut self, signal: libc::c_int) -> Server {
        self.signal = signal;
        self
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // SAFETY: a plain signal to a child that has not been waited for, so the number is still its.
        unsafe { libc::kill(self.child.id() as libc::pid_t, self.signal) };
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(10) {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(Duration::from_millis(50));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Free a moment ago.
pub(super) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
