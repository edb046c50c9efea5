//! `txray live`: trace and show.

use std::{path::Path, time::Duration};

use clap::Args;

use super::{
    ExitCode, Expected,
    args::{CaptureArgs, OnceArgs, RunArgs},
    record,
    run::{self, Input, Mode, Run},
    stop::Stop,
};
use crate::{
    bpf::{
        diagnosis::diagnose,
        features::{Capabilities, Capability, Features},
        load::Capture,
    },
    config::{Anatomy, Config, Payload, RequestStacks, Settings, Stacks, Targets, Tls},
    metrics::Metrics,
    pipeline::PipelineConfig,
    source::{
        live::{LiveConfig, LiveError, LiveSource},
        targets,
    },
    text::screen_text,
    tui,
    uprobe::functions::Spec,
};

/// Trace, and show every transaction as it happens: the XLog and the operations table on a terminal, one line a second
/// without one, one JSON object a line with --json.
///
/// Needs root, or CAP_BPF, CAP_PERFMON and CAP_SYS_PTRACE. Ctrl-C ends it with a summary.
#[derive(Debug, Args)]
#[command(
    after_help = "EXAMPLES\n  txray live\n  txray live --pid 4711 --filter 'duration >= 100ms or err'\n  \
    txray live --comm nginx --duration 20s --json > rows.jsonl\n  \
    txray live --once --port 8080"
)]
pub struct LiveArgs {
    #[command(flatten)]
    capture: CaptureArgs,
    #[command(flatten)]
    once: OnceArgs,
    #[command(flatten)]
    run: RunArgs,
}

/// How long `--once` looks where nobody says.
const ONCE: Duration = Duration::from_secs(5);

/// Runs it.
pub fn run(args: &LiveArgs) -> anyhow::Result<ExitCode> {
    let config = args.run.resolve(args.capture.settings(args.run.settings(Settings::default())))?;
    let mut config = args.once.apply(config, &args.run)?;
    if config.terminal.once {
        config.duration.get_or_insert(ONCE);
    }
    trace(config, "live", None, Stop::default())
}

/// Traces as `config` says; `record` and `demo` come here too. `whom`: what the targets are called, where their numbers
/// say nothing.
pub(super) fn trace(config: Config, name: &str, whom: Option<&str>, stop: Stop) -> anyhow::Result<ExitCode> {
    // Everything that can be wrong with what was typed is found before anything is attached.
    run::filter(&config)?;
    let screen = run::screen(&config)?;
    let age_steps = screen.age_steps;
    if config.stacks.is_some() && config.uprobes.is_empty() {
        let hint = "name a function with --uprobe BINARY:SYMBOL; stacks are those of its calls";
        return Err(Expected::new("--stack has no functions to take the stacks of", hint).into());
    }
    if config.request_stacks != RequestStacks::Off && config.anatomy != Anatomy::Calls {
        let hint = "leave out --anatomy, or --stacks";
        return Err(Expected::new(
            "--stacks needs --anatomy calls: stacks are taken at the end of calls",
            hint,
        )
        .into());
    }
    let stacks = config.stacks.map(|stacks| match stacks {
        Stacks::Slow => screen.thresholds().slow_ns.max(1),
        Stacks::All => 0,
        Stacks::From(span) => u64::try_from(span.0.as_nanos()).unwrap_or(u64::MAX),
    });
    let functions = config
        .uprobes
        .iter()
        .map(|text| Spec::parse(text, Path::exists))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| Expected::new(error.what, error.hint))?;
    let metrics = Metrics::default();
    let recorder = record::recorder(&config, &metrics)?;
    let everything = recorder.is_some() && config.record.payload == Payload::Full;
    let live = LiveConfig {
        targets: config.targets.clone(),
        hooks: config.hooks,
        ring_bytes: config.capture.ring_bytes,
        batch_queue: config.capture.batch_queue,
        capture: if everything { Capture::Everything } else { Capture::Heads },
        udp_ports: run::udp_ports(&config),
        tls: config.tls == Tls::Clear,
        tls_limit: config.tls_limit,
        functions,
        stacks,
        anatomy: config.anatomy,
        request_stacks: config.request_stacks,
        ..LiveConfig::default()
    };
    let mut source = LiveSource::start(&live, metrics.clone()).map_err(|error| explain(&error))?;
    give_back_memory();
    let handle = source.stop_handle();
    stop.on_stop(move || handle.stop());
    let verdicts = source.verdicts();
    let targets = whom.map_or_else(|| targets_text(&config.targets), str::to_owned);
    let missing = source.missing().iter();
    let may_look = Capabilities::own().has(Capability::SysPtrace);
    let heading = tui::Heading {
        title: format!("{name}  {targets}"),
        whom: targets.clone(),
        missing: missing.map(|missing| (missing.feature.to_owned(), missing.reason.clone())).collect(),
        lacks: if may_look { Vec::new() } else { vec![Capability::SysPtrace.name().to_owned()] },
        ..tui::Heading::default()
    };
    // For people and scripts alike: from this line on traffic is seen.
    let mut notes = format!("txray: tracing {targets} through {}\n", source.family());
    for name in targets::not_running(&config.targets) {
        notes.push_str(&format!("txray: no process {} yet: waiting for one to start\n", screen_text(&name)));
    }
    for note in source.notes() {
        notes.push_str(&format!("txray: {}\n", screen_text(note)));
    }
    for missing in source.missing() {
        notes.push_str(&format!("txray: without {}: {}\n", missing.feature, missing.reason));
    }
    run::run(Run {
        pipeline: PipelineConfig {
            protocols: config.protocols.clone(),
            opaque_ports: config.opaque_ports.clone(),
            age_steps,
            ..PipelineConfig::default()
        },
        mode: Mode::Live,
        input: Input::Events(Box::new(source)),
        verdicts,
        recorder,
        metrics,
        stop,
        heading,
        notes,
        config,
    })
}

/// Reading the kernel's types takes tens of megabytes that nothing needs any more: an idle tracer had 82 MB resident before, 34 of
/// them the ring of 16 MiB, which is mapped twice, and has 44 MB since.
fn give_back_memory() {
    // SAFETY: gives free pages of the heap back to the kernel; nothing points into them.
    unsafe { libc::malloc_trim(0) };
}

/// A start that failed, in the words of `doctor` where it knows the cause: the kernel's own are about programs and maps.
fn explain(error: &LiveError) -> Expected {
    if matches!(error, LiveError::Load(_)) {
        let diagnosis = diagnose(&Features::detect_kernel());
        if let Some(check) = diagnosis.fatal().next() {
            return Expected::new(
                format!("nothing can be traced: {}", check.what),
                format!("{}; `txray doctor` says more", check.fix),
            );
        }
    }
    Expected::new(error.to_string(), error.hint())
}

/// Targets in a few words.
fn targets_text(targets: &Targets) -> String {
    if targets.is_whole_host() {
        return "the whole host".to_owned();
    }
    let Targets { pids, comms, exes, cgroups, ports } = targets;
    let mut words = Vec::new();
    words.extend(pids.iter().map(|pid| format!("pid {pid}")));
    words.extend(comms.iter().map(|comm| format!("comm {comm}")));
    words.extend(exes.iter().map(|exe| format!("exe {}", exe.display())));
    words.extend(cgroups.iter().map(|cgroup| format!("cgroup {}", cgroup.display())));
    words.extend(ports.iter().map(|port| format!("port {port}")));
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_named_in_a_few_words() {
        assert_eq!(targets_text(&Targets::default()), "the whole host");
        let targets = Targets { pids: vec![1, 2], ports: vec![80], ..Targets::default() };
        assert_eq!(targets_text(&targets), "pid 1, pid 2, port 80");
    }
}
