//! Call stacks of many requests: one tree of calls, and the forms in which it is told.
//!
//! All are pure. What is not known of a stack stands in the tree: `[truncated]`, `[unknown caller]` above frames whose callers are missing,
//! [`OTHER_STACKS`] for those that found no room in their request, [`NO_ROOM`] for those that found none in the tree.

pub mod folded;
mod frame;
pub mod json;
mod place;
pub mod pprof;
pub mod speedscope;
pub mod text;
mod tree;

pub use frame::{FrameKind, Function};
pub use place::{Place, hottest, waited_at};
pub use tree::{
    FunctionRow, Gatherer, MAX_NODES, NO_ROOM, Node, ON_CPU, OTHER_STACKS, Parts, Requests, Sandwich,
    StackTree, Sum, Sums,
};

#[cfg(test)]
mod tests;
