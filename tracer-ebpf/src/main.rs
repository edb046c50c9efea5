//! The probes: the catalogue of everything that runs in the kernel.
//!
//! Flow of a hit: hook (`probes/`) → `filter` (is the process a target?) → `socket` (which connection, where in the
//! stream?) → `conn` (its state: turn, verdict, sums) → `capture` (copy into the ring; what is in several buffers: `gather`). No application protocol is known here.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![allow(
    internal_features,
    reason = "the BPF target needs inline assembly to keep bounds visible to the verifier"
)]

mod capture;
mod conn;
mod datagram;
mod filter;
mod gather;
mod goroutine;
mod maps;
mod memory;
mod probes;
mod python;
mod settings;
mod socket;
mod stack;
mod stats;
mod threads;
mod tls;
mod tls_go;
mod tls_rustls;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // No panic survives to the verifier: a path that could reach this makes the program fail to load.
    loop {}
}

/// The helpers used (probe reads, ring buffer) are for GPL-compatible programs.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
