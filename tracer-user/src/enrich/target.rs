//! Which processes a target flag means at this moment. Those that come later are found by the probes.

use std::{
    fs,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use rustc_hash::{FxHashMap, FxHashSet};

use super::{
    container,
    process::{exe_of, parent_in_stat, read_up_to},
};

/// Longest `comm` that the kernel keeps.
const COMM_LENGTH: usize = 15;
/// Directories entered below a cgroup.
const MAX_CGROUPS: usize = 65_536;

/// All processes, in ascending order.
pub fn all(proc_root: &Path) -> Vec<u32> {
    let entries = fs::read_dir(proc_root).into_iter().flatten();
    let mut pids: Vec<u32> =
        entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    pids
}

/// `pid` and everything that descends from it, in ascending order; empty if it does not exist.
pub fn descendants(proc_root: &Path, pid: u32) -> Vec<u32> {
    let mut children: FxHashMap<u32, Vec<u32>> = FxHashMap::default();
    let mut exists = false;
    for other in all(proc_root) {
        exists |= other == pid;
        let stat = read_up_to(&proc_root.join(format!("{other}/stat")), 4096);
        if let Some(parent) = stat.and_then(|stat| parent_in_stat(&stat)) {
            children.entry(parent).or_default().push(other);
        }
    }
    if !exists {
        return Vec::new();
    }
    // Processes come and go while they are read: a set keeps a cycle of reused numbers from running for ever.
    let mut found: FxHashSet<u32> = FxHashSet::default();
    let mut open = vec![pid];
    while let Some(next) = open.pop() {
        if found.insert(next) {
            open.extend(children.get(&next).into_iter().flatten());
        }
    }
    let mut pids: Vec<u32> = found.into_iter().collect();
    pids.sort_unstable();
    pids
}

/// The process of a thread that is not its first one. The kernel shows `/proc/TID` too, but does not list it.
pub fn process_of_thread(proc_root: &Path, tid: u32) -> Option<u32> {
    let status = read_up_to(&proc_root.join(format!("{tid}/status")), 64 << 10)?;
    let status = String::from_utf8_lossy(&status);
    let process = status.lines().find_map(|line| line.strip_prefix("Tgid:")?.trim().parse().ok())?;
    (process != tid).then_some(process)
}

/// Processes of this name. The kernel keeps 15 bytes: a longer name is compared by them.
pub fn by_comm(proc_root: &Path, name: &str) -> Vec<u32> {
    let name = &name.as_bytes()[..name.len().min(COMM_LENGTH)];
    let is_named = |pid: &u32| {
        read_up_to(&proc_root.join(format!("{pid}/comm")), 64)
            .is_some_and(|comm| comm.strip_suffix(b"\n").unwrap_or(&comm) == name)
    };
    all(proc_root).into_iter().filter(is_named).collect()
}

/// Processes that run this executable: a path (links followed; the path is the process's own view of it) or, without a
/// slash, a file name. Replaced files count: their process still runs what was there.
pub fn by_exe(proc_root: &Path, exe: &Path) -> Vec<u32> {
    let wanted = exe.as_os_str().as_bytes();
    let by_name = !wanted.contains(&b'/');
    let resolved: PathBuf = fs::canonicalize(exe).unwrap_or_else(|_| exe.to_owned());
    let is_running = |pid: &u32| {
        let path = exe_of(proc_root, *pid);
        let path = path.strip_suffix(b" (deleted)").unwrap_or(&path);
        if by_name {
            !path.is_empty() && path.rsplit(|&byte| byte == b'/').next() == Some(wanted)
        } else {
            path == wanted || path == resolved.as_os_str().as_bytes()
        }
    };
    all(proc_root).into_iter().filter(is_running).collect()
}

/// Processes in a cgroup and in those below it. `dir` is its directory (`/sys/fs/cgroup/system.slice/nginx.service`).
pub fn in_cgroup(dir: &Path) -> Vec<u32> {
    let mut pids = Vec::new();
    let mut open = vec![dir.to_owned()];
    let mut n_entered = 0;
    while let Some(next) = open.pop() {
        n_entered += 1;
        if n_entered > MAX_CGROUPS {
            break;
        }
        // Up to 7 digits and a line end for each of at most 4 million processes.
        let list = read_up_to(&next.join("cgroup.procs"), 32 << 20).unwrap_or_default();
        let text = String::from_utf8_lossy(&list);
        pids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
        let entries = fs::read_dir(&next).into_iter().flatten().flatten();
        // Links are not followed: cgroupfs has none, other directories might.
        open.extend(
            entries
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                .map(|entry| entry.path()),
        );
    }
    pids.sort_unstable();
    pids.dedup();
    // A process of another pid namespace shows as 0.
    pids.retain(|&pid| pid != 0);
    pids
}

/// The directory of the cgroup that a user names: a path below the mount, or the full path. `None` if there is none.
pub fn cgroup_dir(cgroup2_mount: &Path, name: &Path) -> Option<PathBuf> {
    let below = cgroup2_mount.join(name.strip_prefix("/").unwrap_or(name));
    let candidates = [name.to_owned(), below];
    candidates.into_iter().find(|dir| dir.join("cgroup.procs").is_file())
}

/// Processes in the container of this name or id (12 digits or more of it).
pub fn in_container(proc_root: &Path, host_root: &Path, wanted: &str) -> Vec<u32> {
    let is_id = wanted.len() >= 12 && wanted.bytes().all(|byte| byte.is_ascii_hexdigit());
    // Many processes share a container; its name is looked up once.
    let mut names: FxHashMap<String, bool> = FxHashMap::default();
    let mut is_in = |pid: &u32| {
        let cgroups = read_up_to(&proc_root.join(format!("{pid}/cgroup")), 64 << 10).unwrap_or_default();
        let Some(container) = container::membership(&String::from_utf8_lossy(&cgroups)).container else {
            return false;
        };
        (is_id && container.id.starts_with(wanted))
            || *names.entry(container.id.clone()).or_insert_with(|| {
                container::container_name(host_root, &container).as_deref() == Some(wanted)
            })
    };
    all(proc_root).into_iter().filter(|pid| is_in(pid)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(processes: &[(u32, u32, &str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for &(pid, parent, comm, exe) in processes {
            let dir = root.path().join(pid.to_string());
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join("stat"), format!("{pid} ({comm}) S {parent} 1 1 0")).unwrap();
            fs::write(dir.join("comm"), format!("{comm}\n")).unwrap();
            std::os::unix::fs::symlink(exe, dir.join("exe")).unwrap();
        }
        fs::create_dir_all(root.path().join("sys")).unwrap();
        root
    }

    #[test]
    fn descendants_are_found_at_any_depth_and_nothing_else() {
        let root = tree(&[
            (1, 0, "init", "/sbin/init"),
            (10, 1, "a) 7 (b", "/x"),
            (11, 10, "x", "/x"),
            (12, 11, "x", "/x"),
            (7, 1, "y", "/x"),
            (20, 21, "loop", "/x"),
            (21, 20, "loop", "/x"),
        ]);
        assert_eq!(descendants(root.path(), 10), [10, 11, 12]);
        assert_eq!(descendants(root.path(), 12), [12]);
        assert_eq!(descendants(root.path(), 20), [20, 21], "a cycle ends");
        assert_eq!(descendants(root.path(), 99), [0u32; 0]);
        assert_eq!(all(root.path()), [1, 7, 10, 11, 12, 20, 21]);
    }

    #[test]
    fn names_and_executables_are_matched_whole() {
        let root = tree(&[
            (1, 0, "nginx", "/usr/sbin/nginx"),
            (2, 1, "nginx", "/usr/sbin/nginx (deleted)"),
            (3, 1, "a-name-that-is-", "/opt/nginx-debug"),
            (4, 1, "nginx2", "/opt/nginx"),
        ]);
        assert_eq!(by_comm(root.path(), "nginx"), [1, 2]);
        assert_eq!(by_comm(root.path(), "a-name-that-is-cut"), [3]);
        assert_eq!(by_exe(root.path(), Path::new("/usr/sbin/nginx")), [1, 2]);
        assert_eq!(by_exe(root.path(), Path::new("nginx")), [1, 2, 4]);
        assert_eq!(by_exe(root.path(), Path::new("/sbin/nginx-not")), [0u32; 0]);
    }

    #[test]
    fn an_executable_is_found_through_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap().join("real");
        fs::write(&real, "").unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let root = tree(&[(5, 1, "x", real.to_str().unwrap())]);
        assert_eq!(by_exe(root.path(), &link), [5]);
    }

    #[test]
    fn a_cgroup_holds_those_below_it() {
        let mount = tempfile::tempdir().unwrap();
        for (dir, procs) in [("a", "3\n1\n"), ("a/b", "7\n0\n"), ("a/b/c", ""), ("other", "9\n")] {
            fs::create_dir_all(mount.path().join(dir)).unwrap();
            fs::write(mount.path().join(dir).join("cgroup.procs"), procs).unwrap();
        }
        let dir = cgroup_dir(mount.path(), Path::new("/a")).unwrap();
        assert_eq!(in_cgroup(&dir), [1, 3, 7]);
        assert_eq!(cgroup_dir(mount.path(), &mount.path().join("other")), Some(mount.path().join("other")));
        assert_eq!(cgroup_dir(mount.path(), Path::new("none")), None);
    }

    #[test]
    fn a_container_is_found_by_name_and_by_the_start_of_its_id() {
        const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
        let root = tree(&[(1, 0, "x", "/x"), (2, 1, "x", "/x")]);
        fs::write(root.path().join("2/cgroup"), format!("0::/docker/{ID}\n")).unwrap();
        let docker = root.path().join(format!("var/lib/docker/containers/{ID}"));
        fs::create_dir_all(&docker).unwrap();
        fs::write(docker.join("config.v2.json"), r#"{"Name":"/shop"}"#).unwrap();
        for (wanted, found) in
            [("shop", vec![2]), (&ID[..12], vec![2]), (&ID[..4], vec![]), ("other", vec![])]
        {
            assert_eq!(in_container(root.path(), root.path(), wanted), found, "{wanted}");
        }
    }

    #[test]
    fn this_process_descends_from_its_parent() {
        let proc_root = Path::new("/proc");
        let own = std::process::id();
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let found = descendants(proc_root, own);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(found.contains(&own) && found.contains(&child.id()));
    }
}
