//! `txray doctor`: what this host can and cannot do.

use std::{io::Write as _, path::Path, time::Duration};

use clap::Args;
use serde_json::json;

use super::{ExitCode, Expected};
use crate::{
    bpf::{diagnosis::diagnose, features::Features},
    report::{doctor, process_tls},
    uprobe::{process::Closed, tls},
};

/// How long the look at all processes' libraries may take.
const TLS_PATIENCE: Duration = Duration::from_secs(5);

/// Arguments.
#[derive(Debug, Args)]
#[command(
    long_about = "Says what this host can and cannot do: kernel, types, lockdown, privileges, hooks by a trial \
load, ring and map sizes, mounts, TLS libraries in use; and for each missing thing what it costs and how to get it.\n\n\
With --pid also the TLS libraries of one process, and where in them probes would go at which cost.\n\n\
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
    /// Also look at this process: which TLS libraries it uses, and where probes would go
    #[arg(long, value_name = "PID", value_parser = clap::value_parser!(u32).range(1..))]
    pid: Option<u32>,
}

/// Looks and reports.
pub fn run(args: &DoctorArgs) -> anyhow::Result<ExitCode> {
    let process = args.pid.map(|pid| (pid, tls::of(Path::new("/proc"), pid)));
    if let Some((pid, Err(Closed::Gone))) = &process {
        return Err(
            Expected::new(format!("there is no process {pid}"), "ps -e lists those that are there").into()
        );
    }
    let features = Features::detect(TLS_PATIENCE, args.quick);
    let diagnosis = diagnose(&features);
    let mut out = std::io::stdout().lock();
    if args.json {
        let mut report = json!({
            "type": "doctor",
            "version": env!("CARGO_PKG_VERSION"),
            "can_trace": diagnosis.can_trace,
            "hooks": diagnosis.families,
            "checks": diagnosis.checks,
            "features": features,
        });
        match &process {
            Some((_, Ok(found))) => report["process"] = serde_json::to_value(found)?,
            Some((pid, Err(why))) => report["process"] = json!({"pid": pid, "error": why.to_string()}),
            None => {}
        }
        writeln!(out, "{report}")?;
    } else {
        out.write_all(doctor::text(&features, &diagnosis).as_bytes())?;
        match &process {
            Some((_, Ok(found))) => out.write_all(process_tls::text(found).as_bytes())?,
            Some((pid, Err(why))) => out.write_all(process_tls::closed(*pid, &why.to_string()).as_bytes())?,
            None => {}
        }
    }
    out.flush()?;
    Ok(if diagnosis.can_trace { ExitCode::Ok } else { ExitCode::Error })
}
