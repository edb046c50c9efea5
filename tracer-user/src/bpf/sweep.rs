//! Unix and UDP sockets die without a hook: those that no process of theirs holds any more are found in `/proc`, so that the
//! kernel's connection map does not fill with the dead.

use std::{fs, io};

use rustc_hash::{FxHashMap, FxHashSet};
use tracer_ebpf as abi;

/// Most sockets that one sweep declares dead; the rest waits for the next.
const MAX_DEAD: usize = 1024;
/// Suspects remembered between two sweeps; beyond it, sockets are suspected later.
const MAX_SUSPECTS: usize = 65_536;

/// What was found without an owner at the last sweep.
#[derive(Debug, Default)]
pub struct Sweep {
    /// Connection → number of its turn and its positions then.
    suspects: FxHashMap<u64, (u32, [u64; 2])>,
}

impl Sweep {
    /// Which of these connections (with their keys in the map) are dead: Unix and UDP sockets that the process which used them does not hold, now
    /// and at the last sweep, and that nobody used in between. A socket that lives on in a process which never used it comes
    /// back as a new connection, joined in the middle.
    pub fn dead(&mut self, conns: impl Iterator<Item = (u64, abi::Conn)>) -> Vec<(u64, abi::Conn)> {
        let mut held: FxHashMap<u32, Option<FxHashSet<u64>>> = FxHashMap::default();
        let mut suspects = FxHashMap::default();
        let mut dead = Vec::new();
        for (key, conn) in conns {
            let dies_unseen = conn.tuple.family == abi::FAMILY_UNIX || conn.datagrams != 0;
            if !dies_unseen || conn.id == 0 || conn.inode == 0 {
                continue;
            }
            let sockets = held.entry(conn.pid).or_insert_with(|| sockets_of(conn.pid));
            if sockets.as_ref().is_none_or(|sockets| sockets.contains(&conn.inode)) {
                continue;
            }
            let state = (conn.turn, conn.position);
            if self.suspects.get(&conn.id) == Some(&state) && dead.len() < MAX_DEAD {
                dead.push((key, conn));
            } else if suspects.len() < MAX_SUSPECTS {
                suspects.insert(conn.id, state);
            }
        }
        self.suspects = suspects;
        dead
    }
}

/// Inode numbers of the sockets among a process's descriptors, none if it is gone; `None` if nobody may look.
fn sockets_of(pid: u32) -> Option<FxHashSet<u64>> {
    let descriptors = match fs::read_dir(format!("/proc/{pid}/fd")) {
        Ok(descriptors) => descriptors,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Some(FxHashSet::default()),
        Err(_) => return None,
    };
    let mut sockets = FxHashSet::default();
    for descriptor in descriptors {
        let target = match descriptor.and_then(|descriptor| fs::read_link(descriptor.path())) {
            Ok(target) => target,
            // Closed meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(_) => return None,
        };
        let inode: Option<u64> =
            target.to_str().and_then(|name| name.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok());
        sockets.extend(inode);
    }
    Some(sockets)
}

#[cfg(test)]
mod tests {
    use std::os::{
        fd::AsRawFd as _,
        unix::{fs::MetadataExt as _, net::UnixStream},
    };

    use super::*;

    fn conn(id: u64, inode: u64) -> (u64, abi::Conn) {
        let tuple = abi::Tuple { family: abi::FAMILY_UNIX, ..abi::Tuple::default() };
        (id, abi::Conn { id, inode, pid: std::process::id(), tuple, turn: 3, ..abi::Conn::default() })
    }

    #[test]
    fn a_socket_is_dead_when_nobody_holds_it_twice() {
        let (near, far) = UnixStream::pair().unwrap();
        let inode = |socket: &UnixStream| {
            fs::metadata(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap().ino()
        };
        let conns = [conn(1, inode(&near)), conn(2, inode(&far))];
        let mut sweep = Sweep::default();
        assert!(sweep.dead(conns.into_iter()).is_empty() && sweep.dead(conns.into_iter()).is_empty());
        drop(far);
        assert!(sweep.dead(conns.into_iter()).is_empty(), "suspected");
        let dead = sweep.dead(conns.into_iter());
        assert_eq!(dead.iter().map(|(key, _)| *key).collect::<Vec<_>>(), [2]);
        assert!(sweep.dead(conns.into_iter().take(1)).is_empty());
    }

    #[test]
    fn a_socket_that_is_used_meanwhile_lives() {
        let mut sweep = Sweep::default();
        let (key, mut gone) = conn(1, 1);
        for turn in 1..5 {
            gone.turn = turn;
            assert!(sweep.dead([(key, gone)].into_iter()).is_empty(), "its number of turns changes");
        }
        let (key, mut tcp) = conn(2, 1);
        tcp.tuple.family = abi::FAMILY_INET;
        assert!(sweep.dead([(key, tcp)].into_iter()).is_empty());
        assert!(sweep.dead([(key, tcp)].into_iter()).is_empty(), "a hook tells the end of these");
    }
}
