//! Transactions: the record, pairing and operation templates.

mod record;

pub use record::*;
