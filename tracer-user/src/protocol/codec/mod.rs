//! Encodings that several protocols share, or that stand on their own: no protocol stands here.

pub mod chunked;
pub mod head;
pub mod interim;
