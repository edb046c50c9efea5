//! What people read: losses, the summary, who calls whom, the strip, the filter language, traces, profiles.

pub mod doctor;
pub mod edges;
pub mod filter;
pub mod format;
pub mod head;
pub mod instant;
pub mod loss;
pub mod map;
pub mod patterns;
pub mod process_tls;
pub mod profile;
pub mod stacks;
pub mod strip;
pub mod summary;
pub mod trace;
pub mod why;
