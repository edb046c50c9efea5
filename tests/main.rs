//! Integration tests.

/// Golden captures, inference, and the registry against the folders.
mod protocols;
mod tidy;
/// Feeds parsers by their contract.
mod wire;
