//! How a run ends early: a signal, the end of its time, a closed pipe, a key.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    thread,
    time::Duration,
};

use tokio::signal::unix::{SignalKind, signal};

/// Why a run was told to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Reason {
    /// SIGINT, SIGTERM or SIGHUP.
    Signal = 1,
    /// Its time was over.
    Time = 2,
    /// Nobody reads the output any more.
    ClosedPipe = 3,
    /// The user quit the screen.
    Quit = 4,
}

type Calls = Vec<Box<dyn Fn() + Send>>;

/// Tells a run to stop, from any thread. The first reason stays.
#[derive(Clone, Default)]
pub struct Stop {
    reason: Arc<AtomicU8>,
    on_stop: Arc<Mutex<Calls>>,
}

impl Stop {
    /// Stops the run.
    pub fn stop(&self, reason: Reason) {
        let first =
            self.reason.compare_exchange(0, reason as u8, Ordering::AcqRel, Ordering::Acquire).is_ok();
        if first {
            for call in self.on_stop.lock().unwrap_or_else(PoisonError::into_inner).iter() {
                call();
            }
        }
    }

    /// Why it was stopped; `None` while it runs.
    pub fn reason(&self) -> Option<Reason> {
        match self.reason.load(Ordering::Acquire) {
            1 => Some(Reason::Signal),
            2 => Some(Reason::Time),
            3 => Some(Reason::ClosedPipe),
            4 => Some(Reason::Quit),
            _ => None,
        }
    }

    /// Calls `call` when the run is stopped; at once if it was.
    pub fn on_stop(&self, call: impl Fn() + Send + 'static) {
        let mut calls = self.on_stop.lock().unwrap_or_else(PoisonError::into_inner);
        if self.reason().is_some() {
            call();
        }
        calls.push(Box::new(call));
    }

    /// Stops on SIGINT, SIGTERM and SIGHUP, and after `duration`. A second signal ends the process at once, after
    /// `restore` has given the terminal back. The thread ends with the process.
    pub fn watch(&self, duration: Option<Duration>, restore: fn()) -> std::io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (mut interrupt, mut terminate, mut hang_up) = {
            // Registered before this returns: a signal right behind it is not lost.
            let _in_runtime = runtime.enter();
            (
                signal(SignalKind::interrupt())?,
                signal(SignalKind::terminate())?,
                signal(SignalKind::hangup())?,
            )
        };
        let stop = self.clone();
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            runtime.block_on(async move {
                let mut signals = 0;
                let time = async move {
                    match duration {
                        Some(duration) => tokio::time::sleep(duration).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::pin!(time);
                let mut timed = false;
                loop {
                    tokio::select! {
                        _ = interrupt.recv() => signals += 1,
                        _ = terminate.recv() => signals += 1,
                        _ = hang_up.recv() => signals += 1,
                        () = &mut time, if !timed => {
                            timed = true;
                            stop.stop(Reason::Time);
                            continue;
                        }
                    }
                    if signals > 1 {
                        restore();
                        std::process::exit(super::ExitCode::Interrupted as i32);
                    }
                    stop.stop(Reason::Signal);
                }
            });
        })?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[test]
    fn the_first_reason_stays_and_everyone_is_called_once() {
        let stop = Stop::default();
        let calls = Arc::new(AtomicUsize::new(0));
        let count = calls.clone();
        stop.on_stop(move || {
            count.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(stop.reason(), None);
        stop.stop(Reason::Quit);
        stop.stop(Reason::Signal);
        assert_eq!(stop.reason(), Some(Reason::Quit));
        let count = calls.clone();
        stop.on_stop(move || {
            count.fetch_add(10, Ordering::Relaxed);
        });
        assert_eq!(calls.load(Ordering::Relaxed), 11);
    }
}
