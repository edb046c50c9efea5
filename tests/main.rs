//! Integration tests.

/// What this host can do, as root and as others.
mod doctor;
/// Golden captures, inference, and the registry against the folders.
mod protocols;
mod tidy;
/// The live screen, drawn into memory.
mod tui;
/// Feeds parsers by their contract.
mod wire;
