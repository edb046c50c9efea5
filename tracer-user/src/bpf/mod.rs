//! bpf.
