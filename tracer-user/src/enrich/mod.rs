//! What the machine knows about processes: names, services, containers, listening ports. Read by the live source and
//! told to the pipeline as events; the pipeline itself never asks the machine.

pub mod container;
pub mod listening;
pub mod process;
pub mod service;
pub mod table;
pub mod target;
