//! txray's user side: from the kernel's records to transactions, the XLog, Parquet and back.
//!
//! ```text
//! bpf ─▶ event ─▶ conn ─▶ protocol ─▶ transaction ─▶ enrich ─▶ (watermark) ─▶ sink ─▶ tui · report
//!  └──── source (live · replay · synthetic) pushes events into the one pipeline ────┘
//! ```
//!
//! The modules stand in the order in which an event travels. A module knows what stands above it, never what stands
//! below; `pipeline` alone composes. `time`, `text`, `metrics` and `config` are the base that everyone may use.

pub mod config;
pub mod metrics;
pub mod text;
pub mod time;

pub mod uprobe;

pub mod bpf;
pub mod event;

pub mod conn;
pub mod protocol;
pub mod transaction;

pub mod enrich;
pub mod pipeline;

pub mod schema;
pub mod sink;
pub mod source;

pub mod report;
pub mod tui;

pub mod cli;
