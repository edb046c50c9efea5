//! Standard input that another program still writes: whether anything is there to be read.

use std::{
    io::{self, Read, Stdin},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// Standard input, counted.
pub(super) struct Counted {
    input: Stdin,
    n_read: Arc<AtomicU64>,
}

/// How much of it was read.
#[derive(Clone, Debug, Default)]
pub(super) struct Waiting {
    n_read: Arc<AtomicU64>,
}

/// Opens it.
pub(super) fn stdin() -> (Counted, Waiting) {
    let waiting = Waiting::default();
    (Counted { input: io::stdin(), n_read: waiting.n_read.clone() }, waiting)
}

impl Read for Counted {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.input.read(buf)?;
        self.n_read.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

impl Waiting {
    /// Whether whoever has used up `used` bytes of it would wait for longer than `most`. Its end is no wait.
    pub(super) fn is_dry(&self, used: u64, most: Duration) -> bool {
        if self.n_read.load(Ordering::Relaxed) != used {
            return false;
        }
        let mut input = libc::pollfd { fd: libc::STDIN_FILENO, events: libc::POLLIN, revents: 0 };
        let most = most.as_millis().min(1_000) as libc::c_int;
        // SAFETY: one entry, which outlives the call.
        let n = unsafe { libc::poll(&raw mut input, 1, most) };
        n == 0
    }
}
