//! How many links are found, and how many of them are right: the live test prints the table itself.

use anyhow::Result;

use crate::shell::{cargo, run};

/// Programs of all sorts, with 1, 10 and 100 requests at once, with trace ids and without.
pub(super) fn print() -> Result<()> {
    let test = ["test", "--locked", "--package", "tracer-user", "--test", "integration", "--", "live::links"];
    run(cargo(test).args(["--test-threads", "1", "--nocapture"]).env("TXRAY_LINKS", "all"))
}
