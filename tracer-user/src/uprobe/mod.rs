//! Functions of other programs as places for probes: which files a process runs, what they define, where in them a uprobe costs least,
//! and which of them speak TLS.
//!
//! ```text
//! maps ─▶ file (bytes) ─▶ elf ─▶ symbols · go · usdt ─▶ code ─▶ placement ─▶ tls
//! ```
//!
//! Everything here looks and nothing attaches. What it reads belongs to others, so that every parser is bounded and takes any bytes.

pub mod bytes;
pub mod code;
pub mod debug_files;
pub mod elf;
pub mod functions;
pub mod go;
pub mod jit_map;
pub mod maps;
pub mod placement;
pub mod process;
pub mod python;
pub mod resolve;
pub mod symbols;
pub mod tls;
pub mod unwind;
pub mod usdt;
pub mod vdso;
