//! The probes at the exit of calls, which complete what the socket tracepoints cannot tell of datagrams: who sent to a socket without a peer, and
//! which messages a vector received. They cost every call of the host some 100 ns (a filtered hit), so that they are attached only
//! while targets have such sockets: at the start where one of theirs is bound to a wanted port, otherwise when the kernel side meets one.

use std::time::{Duration, Instant};

use aya::{
    maps::{Array, MapData},
    programs::tp_btf::BtfTracePointLink,
};
use tracer_ebpf as abi;

use super::load::Loaded;

/// It is detached when the kernel side has met no such socket for so long. 90 s: what asks once a minute keeps it.
const IDLE: Duration = Duration::from_secs(90);

/// Attaches the probe when it is wanted, and detaches it when it no longer is.
pub struct DatagramExit {
    flags: Array<MapData, u32>,
    /// While it is attached.
    link: Option<BtfTracePointLink>,
    /// When it was last found to be wanted.
    wanted: Instant,
    n_attached: u64,
    /// The kernel refused, or the run ends: not tried again.
    refused: bool,
}

impl DatagramExit {
    /// `None`: this run does without (no datagrams, other hooks, or the kernel did not take the program, which was said).
    pub fn take(loaded: &mut Loaded) -> Option<DatagramExit> {
        if !loaded.has_datagram_exit {
            return None;
        }
        let flags = Array::try_from(loaded.ebpf.take_map("DATAGRAM_EXIT")?).ok()?;
        let mut exit =
            DatagramExit { flags, link: None, wanted: Instant::now(), n_attached: 0, refused: false };
        if loaded.datagram_exit_at_once {
            exit.attach(loaded);
        }
        Some(exit)
    }

    /// Looks whether it is wanted. One read of a map.
    pub fn look(&mut self, loaded: &mut Loaded, now: Instant) {
        if self.link.is_some() && now.duration_since(self.wanted) >= IDLE {
            self.detach();
        }
        if self.refused || !self.flags.get(&abi::EXIT_WANTED, 0).is_ok_and(|wanted| wanted != 0) {
            return;
        }
        // Set again by the next one. While it is attached, once in a while is enough.
        if self.link.is_none() || now.duration_since(self.wanted) >= IDLE / 8 {
            let _ = self.flags.set(abi::EXIT_WANTED, 0, 0);
            self.wanted = now;
        }
        if self.link.is_none() {
            self.attach(loaded);
        }
    }

    /// How often it was attached.
    pub fn n_attached(&self) -> u64 {
        self.n_attached
    }

    /// Detaches it for good.
    pub fn stop(&mut self) {
        self.link = None;
        self.refused = true;
    }

    fn attach(&mut self, loaded: &mut Loaded) {
        match loaded.attach_datagram_exits() {
            Ok(link) => {
                self.link = Some(link);
                self.n_attached += 1;
            }
            Err(reason) => {
                tracing::warn!(reason, "datagrams of sockets without a peer are not seen");
                self.refused = true;
                return;
            }
        }
        // Only now do the socket tracepoints leave those datagrams to it.
        if self.flags.set(abi::EXIT_ATTACHED, 1, 0).is_err() {
            self.link = None;
            self.refused = true;
        }
    }

    fn detach(&mut self) {
        if self.flags.set(abi::EXIT_ATTACHED, 0, 0).is_ok() {
            self.link = None;
        }
    }
}
