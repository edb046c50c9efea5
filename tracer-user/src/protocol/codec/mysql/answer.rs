//! Where a response of the MySQL protocol is.

use serde::{Deserialize, Serialize};

/// The response in progress.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// What comes next.
    pub reading: Reading,
    /// The last packet goes on in the next one.
    pub goes_on: bool,
    /// Rows returned or affected.
    pub rows: u64,
}

/// What comes next in the response flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reading {
    /// A response.
    #[default]
    First,
    /// The next result of the response in progress.
    NextResult,
    /// Definitions of columns, then rows.
    Columns {
        /// Number.
        left: u64,
    },
    /// The EOF packet behind the definitions, or what follows it.
    BehindColumns,
    /// Rows.
    Rows,
    /// Definitions behind a prepared statement's id.
    Definitions {
        /// Number in this block.
        left: u64,
        /// Number in the block behind it.
        then: u64,
    },
    /// The EOF packet behind such a block, or what follows it.
    BehindDefinitions {
        /// Number in the block behind it.
        then: u64,
    },
    /// Definitions until there are no more.
    Fields,
    /// Events.
    Events,
}
