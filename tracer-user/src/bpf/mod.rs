//! The kernel's side as user space sees it: its types, what it can do, the probes' life.

pub mod btf;
pub mod diagnosis;
pub mod features;
pub mod offsets;
pub mod tls_libraries;
pub mod trial;

#[cfg(test)]
mod btf_blob;
