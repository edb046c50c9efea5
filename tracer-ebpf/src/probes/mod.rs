//! The probes by what they watch.

pub mod call;
pub mod datagram;
pub mod function;
pub mod hit;
pub mod process;
pub mod sched;
pub mod socket;
pub mod syscall;
pub mod tcp;
pub mod tls;
pub mod tls_go;
pub mod tls_rustls;
