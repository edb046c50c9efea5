//! The kernel's file systems that a fresh machine may not have mounted.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};

use crate::shell::{command, is_root, run};

/// Type and mount point, and what misses it.
const MOUNTS: &[(&str, &str, &str)] = &[
    ("tracefs", "/sys/kernel/tracing", "tracepoints by id cannot be attached"),
    ("bpf", "/sys/fs/bpf", "nothing can be pinned"),
];

/// Mounts what is missing; a host that refuses is told what that costs, and goes on.
pub(crate) fn ensure() -> Result<()> {
    let mounted = fs::read_to_string("/proc/self/mounts").context("reading /proc/self/mounts")?;
    for &(kind, point, cost) in MOUNTS {
        if is_mounted(&mounted, kind, point) {
            continue;
        }
        if !is_root() {
            println!(
                "setup: {kind} is not mounted at {point} ({cost}); as root: mount -t {kind} {kind} {point}"
            );
            continue;
        }
        println!("setup: mounting {kind} at {point}");
        if !Path::new(point).is_dir() || run(&mut command("mount", ["-t", kind, kind, point])).is_err() {
            println!("setup: warning: {kind} cannot be mounted here: {cost}");
        }
    }
    Ok(())
}

/// Whether the table of mounts (as `/proc/self/mounts` prints it) has this type at this point.
fn is_mounted(mounts: &str, kind: &str, point: &str) -> bool {
    mounts.lines().any(|line| {
        let mut fields = line.split(' ');
        let (_device, at, of) = (fields.next(), fields.next(), fields.next());
        at == Some(point) && of == Some(kind)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_counts_by_its_point_and_its_type() {
        let mounts = "none /sys/fs/bpf bpf rw 0 0\ntracefs /elsewhere tracefs rw 0 0\n";
        assert!(is_mounted(mounts, "bpf", "/sys/fs/bpf"));
        assert!(!is_mounted(mounts, "tracefs", "/sys/kernel/tracing"));
        assert!(!is_mounted(mounts, "tracefs", "/sys/fs/bpf"));
    }
}
