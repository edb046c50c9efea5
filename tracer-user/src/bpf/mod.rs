//! The kernel's side as user space sees it: its types, what it can do, the probes' life.

mod anatomy;
pub mod btf;
pub mod datagram_exit;
pub mod diagnosis;
pub mod features;
pub mod function_probes;
pub mod go_processes;
pub mod kernel_log;
pub mod later_programs;
pub mod load;
mod lookout;
mod marks;
pub mod meter;
pub mod not_run;
pub mod offsets;
pub mod pid_namespace;
mod probes;
pub mod python_processes;
mod refusal;
pub mod ring;
pub mod ring_fill;
mod samples;
#[cfg(test)]
mod stack_depth;
pub mod sweep;
pub mod targets;
mod tls_cost;
pub mod tls_libraries;
mod tls_places;
mod tls_plan;
pub mod tls_probes;
mod tracepoints;
pub mod trial;
pub mod uprobe_link;
pub mod uprobe_programs;
pub mod uprobe_trial;
pub mod usual_libraries;
pub mod verdicts;

#[cfg(test)]
mod btf_blob;
