//! Process numbers: the kernel's are those of the initial pid namespace, a user's are those of the `/proc` at hand. They are
//! the same where that `/proc` is the initial namespace's, whatever namespace the caller itself is in.

use std::{fs, path::Path};

/// What `/proc/PID/ns/pid` of the initial namespace says (`PROC_PID_INIT_INO`, include/linux/proc_ns.h).
const INITIAL: &str = "pid:[4026531836]";
/// A flag in `/proc/PID/stat`: the kernel's own thread (`PF_KTHREAD`, include/linux/sched.h). The initial namespace alone has
/// such threads, `kthreadd` with the number 2 first of all.
const KERNEL_THREAD: u64 = 0x0020_0000;
const KTHREADD: u32 = 2;

/// `/proc` numbers processes otherwise than the kernel does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "txray runs in a pid namespace of its own: the kernel numbers processes differently, and no process can be told from another"
)]
pub struct Foreign;

/// What helps.
pub const HINT: &str = "start it in the host's pid namespace: docker run --pid=host, hostPID: true, or nsenter --target 1 --pid on the host";

/// The caller's own process number as the kernel has it; an error where the two kinds of numbers differ.
pub fn own_pid(proc_root: &Path) -> Result<u32, Foreign> {
    let status = fs::read_to_string(proc_root.join("self/status")).unwrap_or_default();
    // From the namespace of this `/proc` down to the caller's own.
    let first = status
        .lines()
        .find_map(|line| line.strip_prefix("NSpid:")?.split_ascii_whitespace().next()?.parse().ok());
    let pid = first.unwrap_or_else(std::process::id);
    match fs::read_link(proc_root.join("self/ns/pid")) {
        Ok(link) if link.as_os_str() != INITIAL && !has_kernel_threads(proc_root) => Err(Foreign),
        // No namespaces in this kernel, or nothing that can be read: nothing speaks against it.
        Ok(_) | Err(_) => Ok(pid),
    }
}

fn has_kernel_threads(proc_root: &Path) -> bool {
    let stat = fs::read_to_string(proc_root.join(format!("{KTHREADD}/stat"))).unwrap_or_default();
    // Behind the name, which may hold anything: state, parent, group, session, terminal, its group, flags (proc_pid_stat(5)).
    let flags = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(6)?.parse::<u64>().ok());
    flags.is_some_and(|flags| flags & KERNEL_THREAD != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proc(own: Option<&str>, second: &str, status: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("self/ns")).unwrap();
        fs::create_dir_all(root.path().join("2")).unwrap();
        if let Some(link) = own {
            std::os::unix::fs::symlink(link, root.path().join("self/ns/pid")).unwrap();
        }
        fs::write(root.path().join("self/status"), status).unwrap();
        fs::write(root.path().join("2/stat"), second).unwrap();
        root
    }

    #[test]
    fn the_numbers_agree_where_proc_is_the_initial_namespaces() {
        const OTHER: Option<&str> = Some("pid:[4026532001]");
        let (kthreadd, shell) =
            ("2 (kthreadd) S 0 0 0 0 -1 2129984 0 0", "2 (kthreadd) S 0) S 1 2 2 0 -1 4194560 0 0");
        let own = "Name:\ttxray\nNSpid:\t4711\n";
        let pid = |own, second, status| own_pid(proc(own, second, status).path());
        assert_eq!(pid(Some(INITIAL), kthreadd, own), Ok(4711));
        assert_eq!(pid(Some(INITIAL), "", own), Ok(4711));
        // In a namespace of its own with the host's /proc.
        assert_eq!(pid(OTHER, kthreadd, "NSpid:\t4711\t7\n"), Ok(4711));
        assert_eq!(pid(OTHER, shell, "NSpid:\t7\n"), Err(Foreign));
        assert_eq!(pid(OTHER, "", "NSpid:\t7\n"), Err(Foreign));
        assert_eq!(pid(None, "", ""), Ok(std::process::id()));
    }

    #[test]
    fn this_process_has_the_kernels_number() {
        assert_eq!(own_pid(Path::new("/proc")), Ok(std::process::id()));
    }
}
