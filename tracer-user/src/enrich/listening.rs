//! Which TCP ports processes listen on, from `/proc/PID/net/tcp` and `tcp6`: tells the role of connections that are
//! older than the tracer. Ports that are opened later come from the kernel as events.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
};

use rustc_hash::{FxHashMap, FxHashSet};

use crate::{event::Listening, time::BootTime};

/// Listening sockets read per network namespace and family. The kernel prints them before all others.
const MAX_LISTENING: usize = 65_536;
/// Descriptors looked at per process.
const MAX_DESCRIPTORS: usize = 1_048_576;
/// State LISTEN in `/proc/net/tcp`.
const LISTEN: &str = "0A";
/// State CLOSE in `/proc/net/udp`: no peer.
const OPEN_UDP: &str = "07";

/// The ports on which the processes `pids` listen, each once per namespace, in order.
pub fn of_processes(proc_root: &Path, pids: &[u32], time: BootTime) -> Vec<Listening> {
    collect(proc_root, pids, time, false)
}

/// The ports on which anything listens in the namespaces of `pids`: no descriptors are walked, so that it is cheap
/// also for the whole host (give one process of each namespace, or all).
pub fn of_namespaces(proc_root: &Path, pids: &[u32], time: BootTime) -> Vec<Listening> {
    collect(proc_root, pids, time, true)
}

fn collect(proc_root: &Path, pids: &[u32], time: BootTime, all: bool) -> Vec<Listening> {
    // Namespace → (socket inode → port).
    let mut namespaces: FxHashMap<u32, FxHashMap<u64, u16>> = FxHashMap::default();
    let mut found: FxHashSet<(u32, u16)> = FxHashSet::default();
    for &pid in pids {
        // Not readable, or gone: nothing can be said of it.
        let Some(netns) = netns_of(proc_root, pid) else { continue };
        let sockets = namespaces.entry(netns).or_insert_with(|| {
            let mut sockets = FxHashMap::default();
            for family in ["tcp", "tcp6"] {
                read_table(&proc_root.join(format!("{pid}/net/{family}")), LISTEN, &mut sockets);
            }
            sockets
        });
        if all {
            found.extend(sockets.values().map(|&port| (netns, port)));
        } else if !sockets.is_empty() {
            let own = socket_inodes(proc_root, pid).filter_map(|inode| sockets.get(&inode));
            found.extend(own.map(|&port| (netns, port)));
        }
    }
    let mut ports: Vec<(u32, u16)> = found.into_iter().collect();
    ports.sort_unstable();
    ports.into_iter().map(|(netns, port)| Listening { time, netns, port }).collect()
}

/// Whether one of `pids` has a UDP socket without a peer that is bound to one of `ports`; `all`: whether anything in their namespaces has.
pub fn have_open_udp(proc_root: &Path, pids: &[u32], ports: &[u16], all: bool) -> bool {
    let mut namespaces: FxHashMap<u32, FxHashMap<u64, u16>> = FxHashMap::default();
    pids.iter().any(|&pid| {
        let Some(netns) = netns_of(proc_root, pid) else { return false };
        let sockets = namespaces.entry(netns).or_insert_with(|| {
            let mut sockets = FxHashMap::default();
            for family in ["udp", "udp6"] {
                read_table(&proc_root.join(format!("{pid}/net/{family}")), OPEN_UDP, &mut sockets);
            }
            sockets.retain(|_, port| ports.contains(port));
            sockets
        });
        !sockets.is_empty()
            && (all || socket_inodes(proc_root, pid).any(|inode| sockets.contains_key(&inode)))
    })
}

/// Inode number of a process's network namespace, as the probes give it.
pub fn netns_of(proc_root: &Path, pid: u32) -> Option<u32> {
    let link = fs::read_link(proc_root.join(format!("{pid}/ns/net"))).ok()?;
    link.to_str()?.strip_prefix("net:[")?.strip_suffix(']')?.parse().ok()
}

/// Adds the sockets of one table that are in a state. Those that listen come first, so that a million connections behind them cost nothing.
fn read_table(path: &Path, wanted: &str, sockets: &mut FxHashMap<u64, u16>) {
    let Ok(file) = fs::File::open(path) else { return };
    // The first line names the columns.
    for line in BufReader::new(file).lines().skip(1).take(MAX_LISTENING) {
        let Ok(line) = line else { return };
        let mut fields = line.split_ascii_whitespace();
        let (local, state, inode) = (fields.nth(1), fields.nth(1), fields.nth(5));
        if state != Some(wanted) {
            if wanted == LISTEN {
                return;
            }
            continue;
        }
        let port = local
            .and_then(|local| local.rsplit_once(':'))
            .and_then(|(_, port)| u16::from_str_radix(port, 16).ok());
        let inode = inode.and_then(|inode| inode.parse().ok());
        if let (Some(port), Some(inode)) = (port, inode) {
            sockets.insert(inode, port);
        }
    }
}

/// Inode numbers of the sockets that a process has open; none if its descriptors may not be read.
fn socket_inodes(proc_root: &Path, pid: u32) -> impl Iterator<Item = u64> {
    let entries = fs::read_dir(proc_root.join(format!("{pid}/fd"))).ok();
    entries.into_iter().flatten().take(MAX_DESCRIPTORS).filter_map(|entry| {
        let target = fs::read_link(entry.ok()?.path()).ok()?;
        target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use std::{
        net::{TcpListener, TcpStream},
        os::unix::fs::symlink,
    };

    use super::*;

    const T0: BootTime = BootTime(5);
    const HEAD: &str =
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";

    fn row(port: u16, state: &str, inode: u64) -> String {
        format!(
            "   0: 0100007F:{port:04X} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000     0        0 {inode} 1 0 0 10 0\n"
        )
    }

    #[test]
    fn only_own_listening_sockets_count_and_once() {
        let root = tempfile::tempdir().unwrap();
        for (pid, netns) in [(1, 10), (2, 10), (3, 11)] {
            let dir = root.path().join(pid.to_string());
            for sub in ["net", "ns", "fd"] {
                fs::create_dir_all(dir.join(sub)).unwrap();
            }
            symlink(format!("net:[{netns}]"), dir.join("ns/net")).unwrap();
            let v4 = format!(
                "{HEAD}{}{}{}{}",
                row(80, "0A", 100),
                row(81, "0A", 101),
                row(82, "01", 102),
                row(83, "0A", 103)
            );
            fs::write(dir.join("net/tcp"), v4).unwrap();
            fs::write(dir.join("net/tcp6"), format!("{HEAD}{}", row(80, "0A", 104))).unwrap();
        }
        symlink("socket:[100]", root.path().join("1/fd/3")).unwrap();
        symlink("socket:[104]", root.path().join("1/fd/4")).unwrap();
        symlink("socket:[102]", root.path().join("1/fd/5")).unwrap();
        symlink("socket:[103]", root.path().join("1/fd/6")).unwrap();
        symlink("/dev/null", root.path().join("1/fd/7")).unwrap();
        symlink("socket:[101]", root.path().join("3/fd/3")).unwrap();
        let at = |netns, port| Listening { time: T0, netns, port };
        assert_eq!(of_processes(root.path(), &[1, 2, 3, 4], T0), [at(10, 80), at(11, 81)]);
        assert_eq!(
            of_namespaces(root.path(), &[1, 2, 3, 4], T0),
            [at(10, 80), at(10, 81), at(11, 80), at(11, 81)],
            "what stands behind the first established socket is not read"
        );
    }

    #[test]
    fn a_port_of_this_process_is_found_and_a_connection_is_none() {
        let proc_root = Path::new("/proc");
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let v6 = TcpListener::bind("[::1]:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let own = std::process::id();
        let ports: Vec<u16> =
            of_processes(proc_root, &[own], T0).iter().map(|listening| listening.port).collect();
        assert!(ports.contains(&port));
        assert!(ports.contains(&v6.local_addr().unwrap().port()));
        assert!(!ports.contains(&stream.local_addr().unwrap().port()));
        let netns = netns_of(proc_root, own).unwrap();
        assert!(of_namespaces(proc_root, &[own], T0).contains(&Listening { time: T0, netns, port }));
        drop(listener);
        let ports: Vec<u16> =
            of_processes(proc_root, &[own], T0).iter().map(|listening| listening.port).collect();
        assert!(!ports.contains(&port));
    }
}
