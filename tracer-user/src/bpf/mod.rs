//! The kernel's side as user space sees it: its types, what it can do, the probes' life.

pub mod btf;
pub mod offsets;

#[cfg(test)]
mod btf_blob;
