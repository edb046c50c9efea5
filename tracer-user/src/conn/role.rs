//! The traced process's role on a connection: what the kernel saw, then who listens, then who speaks first.

use rustc_hash::FxHashSet;
use serde::{Deserialize, Serialize};
use tracer_ebpf as abi;

use crate::event::Role;

/// Ports remembered; beyond it new ones are not taken (their connections' roles are guessed). 65,536 × 8 bytes.
pub const MAX_LISTENING: usize = 65_536;

/// Ports on which processes of this host listen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListeningSet {
    ports: FxHashSet<(u32, u16)>,
}

impl ListeningSet {
    /// Someone listens on `port` in namespace `netns` (0 = not known which).
    pub fn add(&mut self, netns: u32, port: u16) {
        if self.ports.len() < MAX_LISTENING {
            self.ports.insert((netns, port));
        }
    }

    fn contains(&self, netns: u32, port: u16) -> bool {
        port != 0 && (self.ports.contains(&(netns, port)) || (netns != 0 && self.ports.contains(&(0, port))))
    }

    /// The role on a connection with these ends, if exactly one end is a listening port.
    pub fn role(&self, netns: u32, tuple: &abi::Tuple) -> Role {
        if !matches!(tuple.family, abi::FAMILY_INET | abi::FAMILY_INET6) {
            return Role::Unknown;
        }
        let local = self.contains(netns, tuple.local_port);
        let remote = tuple.local == tuple.remote && self.contains(netns, tuple.remote_port);
        match (local, remote) {
            (true, false) => Role::Server,
            (false, true) => Role::Client,
            _ => Role::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tuple(local_port: u16, remote_port: u16) -> abi::Tuple {
        abi::Tuple { local_port, remote_port, family: abi::FAMILY_INET, ..abi::Tuple::default() }
    }

    #[test]
    fn the_end_that_listens_is_the_server() {
        let mut set = ListeningSet::default();
        set.add(7, 80);
        set.add(0, 81);
        assert_eq!(set.role(7, &tuple(80, 40_000)), Role::Server);
        assert_eq!(set.role(7, &tuple(40_000, 80)), Role::Client);
        assert_eq!(set.role(8, &tuple(80, 40_000)), Role::Unknown);
        assert_eq!(set.role(8, &tuple(81, 40_000)), Role::Server);
        assert_eq!(set.role(7, &tuple(80, 81)), Role::Unknown, "both ends listen: not decided by it");
        assert_eq!(set.role(7, &tuple(0, 0)), Role::Unknown);
    }
}
