//! Transactions: the record, pairing and operation templates.

pub mod anatomy;
pub mod exchange;
pub mod finish;
pub mod function;
pub mod latency;
mod multiplexed;
pub mod open;
pub mod pairing;
pub mod profile;
mod record;
pub mod rollup;
mod segment;
pub mod stacks;
pub mod template;
mod tree;
pub mod watermark;

pub use record::*;
