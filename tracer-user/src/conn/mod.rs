//! Connections: events put in order, streams with explicit gaps, roles, and the count of what was lost.
//!
//! Nothing here knows a protocol. Ring order is neither time order nor stream order: [`order`] sorts all events by time
//! within a bounded window, [`stream`] sorts each direction by the kernel's stream position, and [`connection`] holds
//! one direction back for the other where the stamps alone would mislead.

pub mod connection;
pub mod order;
pub mod reassembly;
pub mod role;
pub mod stream;
pub mod tracker;
pub mod turns;
