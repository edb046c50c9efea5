//! What crosses the boundary, by topic.

pub mod config;
pub mod conn;
pub mod event;
pub mod stats;

pub use config::*;
pub use conn::*;
pub use event::*;
pub use stats::*;

/// Version of everything in this crate. User space refuses an object with another one.
pub const ABI_VERSION: u32 = 7;
