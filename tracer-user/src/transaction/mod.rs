//! Transactions: the record, pairing and operation templates.

mod record;
mod segment;
pub mod template;

pub use record::*;
