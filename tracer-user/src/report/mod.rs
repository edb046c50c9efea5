//! What people read: losses, the summary, the strip, the filter language.

pub mod doctor;
pub mod filter;
pub mod format;
pub mod instant;
pub mod loss;
pub mod strip;
pub mod summary;
