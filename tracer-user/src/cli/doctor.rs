//! `txray doctor`: what this host can and cannot do.

use std::{io::Write as _, time::Duration};

use clap::Args;
use serde_json::json;

use super::ExitCode;
use crate::{
    bpf::{diagnosis::diagnose, features::Features},
    report::doctor,
};

/// How long the look at all processes' libraries may take.
const TLS_PATIENCE: Duration = Duration::from_secs(5);

/// Arguments.
#[derive(Debug, Args)]
#[command(
    long_about = "Says what this host can and cannot do: kernel, types, lockdown, privileges, hooks by a trial \
load, ring and map sizes, mounts, TLS libraries in use; and for each missing thing what it costs and how to get it.\n\n\
Nothing is attached and nothing is changed. Works without root, and says what it could not check.\n\n\
Ends with 0 when tracing works here, with 2 when it does not."
)]
pub struct DoctorArgs {
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
    /// Leave out the trial load of txray's own probes, about a second of the kernel's verification
    #[arg(long)]
    quick: bool,
}

/// Looks and reports.
pub fn run(args: &DoctorArgs) -> anyhow::Result<ExitCode> {
    let features = Features::detect(TLS_PATIENCE, args.quick);
    let diagnosis = diagnose(&features);
    let mut out = std::io::stdout().lock();
    if args.json {
        let report = json!({
            "type": "doctor",
            "version": env!("CARGO_PKG_VERSION"),
            "can_trace": diagnosis.can_trace,
            "hooks": diagnosis.families,
            "checks": diagnosis.checks,
            "features": features,
        });
        writeln!(out, "{report}")?;
    } else {
        out.write_all(doctor::text(&features, &diagnosis).as_bytes())?;
    }
    out.flush()?;
    Ok(if diagnosis.can_trace { ExitCode::Ok } else { ExitCode::Error })
}
