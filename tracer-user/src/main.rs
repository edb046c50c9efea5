//! The binary `txray`.
fn main() {}
