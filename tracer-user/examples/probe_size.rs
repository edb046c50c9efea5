//! How many instructions the verifier of this kernel walks for each probe (the limit is 1,000,000), as root:
//! `cargo run --example probe_size [socket|syscall] [slow|all]`: with stacks of slow calls of
//! functions, or of all. Traces nothing.

use std::os::fd::AsRawFd as _;

use tracer_user::{
    bpf::load::{LoadConfig, load},
    config::{Hooks, Targets},
};

fn main() -> anyhow::Result<()> {
    let hooks = match std::env::args().nth(1).as_deref() {
        Some("syscall") => Hooks::Syscall,
        _ => Hooks::Socket,
    };
    let stacks = match std::env::args().nth(2).as_deref() {
        Some("slow") => Some(1),
        Some("all") => Some(0),
        _ => None,
    };
    // Itself, which is never traced.
    let pids = vec![std::process::id()];
    let targets = Targets { pids: pids.clone(), ..Targets::default() };
    let config = LoadConfig {
        hooks,
        targets,
        pids,
        ring_bytes: 65_536,
        max_conns: 64,
        stacks,
        ..LoadConfig::nothing()
    };
    let loaded = load(&config)?;
    let mut sizes = Vec::new();
    if let Err(refused) = &loaded.function_programs {
        println!("functions: {refused}");
    }
    for (name, fd) in loaded.programs() {
        // Linux 5.16 and later.
        let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd()))?;
        let size: Option<u32> =
            text.lines().find_map(|line| line.strip_prefix("verified_insns:")?.trim().parse().ok());
        sizes.push((size.unwrap_or_default(), name.to_owned()));
    }
    sizes.sort();
    for (size, name) in sizes {
        println!("{size:>9} {name}");
    }
    Ok(())
}
