//! A program on a terminal of its own: what it wrote, and when.

use std::{
    fs::File,
    io::Read as _,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    process::{Child, Command},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::ansi::Screen;

/// A running program; killed when dropped.
#[derive(Debug)]
pub(crate) struct OnTerminal {
    pub(crate) child: Child,
    /// What it wrote, with the time at which it was there to read.
    written: Receiver<(Instant, Vec<u8>)>,
    pub(crate) screen: Screen,
    /// Kept open for as long as the program lives.
    _main: File,
}

impl OnTerminal {
    /// Starts it on a terminal of this size; standard error stays what the command says.
    pub(crate) fn start(command: &mut Command, width: u16, height: u16) -> Result<Self> {
        let (mut main, mut side) = (0, 0);
        let size = libc::winsize { ws_row: height, ws_col: width, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: the pointers are to live integers and a live struct; the two others may be null.
        let opened =
            unsafe { libc::openpty(&mut main, &mut side, std::ptr::null_mut(), std::ptr::null(), &size) };
        if opened != 0 {
            return Err(std::io::Error::last_os_error()).context("opening a terminal");
        }
        // SAFETY: openpty has just returned both, and nobody else owns them.
        let (main, side) = unsafe { (File::from_raw_fd(main), OwnedFd::from_raw_fd(side)) };
        // SAFETY: an open descriptor; a child that inherited it would keep the terminal open.
        unsafe { libc::fcntl(main.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC) };
        let environment = [("TERM", "xterm-256color"), ("COLORTERM", "truecolor"), ("LANG", "C.UTF-8")];
        let child = command
            .envs(environment)
            // Nobody's own settings take part.
            .env("XDG_CONFIG_HOME", "/nonexistent")
            .stdin(side.try_clone()?)
            .stdout(side)
            .spawn()
            .context("starting a program on a terminal")?;
        let (sender, written) = channel();
        let mut reader = main.try_clone()?;
        thread::spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            // Reading fails once the program is gone.
            while let Ok(n @ 1..) = reader.read(&mut buffer) {
                if sender.send((Instant::now(), buffer[..n].to_vec())).is_err() {
                    return;
                }
            }
        });
        let screen = Screen::new(usize::from(width), usize::from(height));
        Ok(Self { child, written, screen, _main: main })
    }

    /// Takes what was written next; `None` when nothing was by then, or nothing will be.
    pub(crate) fn next(&mut self, deadline: Instant) -> Option<Instant> {
        match self.written.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok((time, bytes)) => {
                self.screen.write(&bytes);
                Some(time)
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => None,
        }
    }

    /// Waits until the screen is as wanted; returns when it was.
    pub(crate) fn wait_for(
        &mut self,
        what: &str,
        patience: Duration,
        wanted: impl Fn(&Screen) -> bool,
    ) -> Result<Instant> {
        let deadline = Instant::now() + patience;
        while let Some(time) = self.next(deadline) {
            if wanted(&self.screen) {
                return Ok(time);
            }
        }
        bail!("the screen did not show {what}:\n{}", self.screen.text());
    }
}

impl Drop for OnTerminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
