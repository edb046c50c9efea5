//! Verdicts of the pipeline, written into the kernel's arrays.

use aya::maps::{Array, MapData};
use tracer_ebpf as abi;

use crate::{event::ConnId, pipeline::VerdictSink};

/// What is known of a server's port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Port {
    /// Nothing was recognised there.
    #[default]
    Unknown,
    /// Only protocols that have to be captured whole.
    Whole,
    /// Only others.
    Heads,
    /// Both: those that want more say so one by one.
    Mixed,
}

impl Port {
    /// What is known when another protocol was recognised.
    fn with(self, is_whole: bool) -> Port {
        match (self, is_whole) {
            (Port::Unknown | Port::Whole, true) => Port::Whole,
            (Port::Unknown | Port::Heads, false) => Port::Heads,
            _ => Port::Mixed,
        }
    }

    /// As the kernel side knows it.
    fn mode(self) -> u32 {
        match self {
            Port::Unknown => abi::PORT_UNKNOWN,
            Port::Whole => abi::PORT_WHOLE,
            Port::Heads => abi::PORT_HEADS,
            Port::Mixed => abi::PORT_MIXED,
        }
    }
}

/// The live end of [`VerdictSink`].
pub struct LiveVerdicts {
    slots: Array<MapData, abi::Verdict>,
    port_modes: Array<MapData, u32>,
    ports: Box<[Port]>,
}

impl LiveVerdicts {
    /// Takes the maps `VERDICTS` and `PORT_MODES`. `whole`: ports of servers whose connections have to be captured whole.
    pub fn new(
        verdicts: aya::maps::Map,
        port_modes: aya::maps::Map,
        whole: impl IntoIterator<Item = u16>,
    ) -> Result<LiveVerdicts, aya::maps::MapError> {
        let mut live = LiveVerdicts {
            slots: Array::try_from(verdicts)?,
            port_modes: Array::try_from(port_modes)?,
            ports: vec![Port::default(); abi::PORT_SLOTS as usize].into_boxed_slice(),
        };
        for port in whole {
            live.know(port, Port::Whole);
        }
        Ok(live)
    }

    fn know(&mut self, port: u16, what: Port) {
        self.ports[usize::from(port)] = what;
        // As in `set`.
        let _ = self.port_modes.set(u32::from(port), what.mode(), 0);
    }
}

impl VerdictSink for LiveVerdicts {
    fn set(&mut self, conn: ConnId, verdict: abi::Verdict) {
        let verdict = abi::Verdict { conn_id: conn.0, ..verdict };
        // An array's slot always exists: this can only fail when the map is gone, and then so is the run.
        let _ = self.slots.set(abi::verdict_slot(conn.0), verdict, 0);
    }

    fn learn(&mut self, port: u16, is_whole: bool) -> bool {
        // 0 stands for no port: a Unix socket.
        if port == 0 {
            return false;
        }
        let known = self.ports[usize::from(port)];
        let now = known.with(is_whole);
        if now != known {
            self.know(port, now);
        }
        known == Port::Whole && !is_whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_protocol_of_which_heads_are_enough_keeps_the_others_at_its_port_from_being_copied_whole() {
        let after =
            |spoken: &[bool]| spoken.iter().fold(Port::default(), |port, is_whole| port.with(*is_whole));
        assert_eq!(after(&[]), Port::Unknown);
        assert_eq!(after(&[true, true]), Port::Whole);
        assert_eq!(after(&[false, false]), Port::Heads);
        for spoken in [&[true, false][..], &[false, true], &[true, false, true]] {
            assert_eq!(after(spoken), Port::Mixed, "{spoken:?}");
        }
    }
}
