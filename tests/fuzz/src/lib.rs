//! The parsers alone, under their usual name: they are pure and need nothing else of txray, and without its other
//! crates the fuzz target builds in seconds.

#[path = "../../../tracer-user/src/protocol/mod.rs"]
pub mod protocol;
/// What parsers make text with.
#[path = "../../../tracer-user/src/text.rs"]
pub mod text;
