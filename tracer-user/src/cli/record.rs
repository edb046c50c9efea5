//! `txray record`: trace and store.

use std::{io::Write as _, path::PathBuf};

use clap::Args;

use super::{
    ExitCode, Expected,
    args::{CaptureArgs, RunArgs},
    live,
    stop::Stop,
};
use crate::{
    config::{Config, Payload, Settings, Size, Span},
    metrics::Metrics,
    schema::PayloadMode,
    sink::recording::{Budget, RecordError, Recorder, RecordingConfig},
};

/// Trace and store: raw events that `txray replay` runs again, and transactions and their sums by second, minute and hour as Parquet
/// files that DuckDB, pandas and Polars open as they are.
///
/// Shows what `live` shows. With --filter only rows that match are stored in `transactions` (and shown); events are
/// limited by the targets alone.
#[derive(Debug, Args)]
#[command(after_help = "EXAMPLES\n  txray record --out /var/tmp/rec --max-bytes 10G --max-age 2d\n  \
    txray record rec --comm nginx --duration 1m\n  \
    txray record --from traffic.pcap --out rec")]
pub struct RecordArgs {
    /// Folder of the recording, in place of --out
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Folder of the recording
    #[arg(long, value_name = "DIR", env = "TXRAY_OUT", help_heading = "Recording")]
    out: Option<PathBuf>,
    /// Record a packet capture (pcap or pcapng, also gzip or zstd; - is standard input) in place of what happens now (repeatable)
    ///
    /// Several are read as one, in the order of their times.
    /// Of each TCP connection, and of DNS over UDP, its server's side, named by its address; times are those of the packets. Everything that was captured is
    /// kept (--payload full), and a replay gives what `txray replay FILE` gives.
    #[arg(long, value_name = "FILE", help_heading = "Recording",
        conflicts_with_all = ["pid", "comm", "exe", "cgroup", "port", "hooks", "tls", "tls_limit", "ring_size", "queue_batches"])]
    from: Vec<PathBuf>,
    /// Payload kept in events [default: heads]
    ///
    /// heads: the first bytes of each message, so that a replay parses again. full: bodies too, up to 256 KiB of each call
    /// (of the first 512 buffers that it gathers); what is beyond is counted as kernel.payload_cut or kernel.iovecs_cut, and
    /// what sendfile and splice move has no copy. none: no byte of heads or bodies; a replay shows the recorded transactions, whose targets
    /// and operations are kept, and nothing can be parsed again.
    #[arg(long, value_enum, env = "TXRAY_PAYLOAD", help_heading = "Recording")]
    payload: Option<Payload>,
    /// Byte budget: beyond it the oldest hours are deleted
    #[arg(long, value_name = "SIZE", env = "TXRAY_MAX_BYTES", help_heading = "Recording")]
    max_bytes: Option<Size>,
    /// Age budget: older hours are deleted
    #[arg(long, value_name = "TIME", env = "TXRAY_MAX_AGE", help_heading = "Recording")]
    max_age: Option<Span>,
    /// Batches in front of the recorder [default: 1024]
    #[arg(long, value_name = "N", env = "TXRAY_QUEUE_RECORDER", help_heading = "Capture")]
    queue_recorder: Option<usize>,
    #[command(flatten)]
    capture: CaptureArgs,
    #[command(flatten)]
    run: RunArgs,
}

/// Runs it.
pub fn run(args: &RecordArgs) -> anyhow::Result<ExitCode> {
    let RecordArgs { dir, out, from, payload, max_bytes, max_age, queue_recorder, capture, run } = args;
    let settings = Settings {
        out: dir.clone().or_else(|| out.clone()),
        payload: *payload,
        max_bytes: *max_bytes,
        max_age: *max_age,
        queue_recorder: *queue_recorder,
        ..Settings::default()
    };
    let config = run.resolve(capture.settings(run.settings(settings)))?;
    let Some(out) = config.record.out.clone() else {
        return Err(Expected::new("no folder to record into", "name one: txray record DIR").into());
    };
    let to_stdout = !config.terminal.json && config.terminal.summary == crate::config::SummaryForm::Text;
    let (code, fault) = if from.is_empty() {
        (live::trace(config, "record", None, Stop::default())?, None)
    } else {
        super::capture::record(from, *payload, config)?
    };
    let line = replay_line(&out);
    if to_stdout {
        std::io::stdout().write_all(line.as_bytes())?;
    } else {
        // A closed standard error is nobody's loss.
        let _ = std::io::stderr().write_all(format!("txray: {line}").as_bytes());
    }
    super::capture::whole(fault)?;
    Ok(code)
}

/// The line that says how to see a recording again.
pub(super) fn replay_line(out: &std::path::Path) -> String {
    format!("recorded in {0}; to see it again: txray replay {0}\n", quoted(out))
}

/// A path that a shell reads as one word, safe to print.
fn quoted(path: &std::path::Path) -> String {
    use std::os::unix::ffi::OsStrExt as _;
    let text = crate::text::screen_bytes(path.as_os_str().as_bytes());
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '/' | '.' | '-' | '_' | '+' | ',');
    if !text.is_empty() && text.chars().all(plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

/// Opens the recording that `config` asks for, if it does: before anything is attached.
pub(super) fn recorder(config: &Config, metrics: &Metrics) -> anyhow::Result<Option<Recorder>> {
    let Some(dir) = &config.record.out else { return Ok(None) };
    let usual = RecordingConfig::new(dir.clone());
    let recording = RecordingConfig {
        payload: match config.record.payload {
            Payload::Heads => PayloadMode::Heads,
            Payload::Full => PayloadMode::Full,
            Payload::None => PayloadMode::None,
        },
        budget: Budget {
            max_bytes: config.record.max_bytes,
            max_age_ns: config.record.max_age.map(|age| u64::try_from(age.as_nanos()).unwrap_or(u64::MAX)),
        },
        queue_batches: config.capture.recorder_queue,
        queue_bytes: usual.queue_bytes * config.capture.times() as u64,
        ..usual
    };
    Ok(Some(Recorder::start(recording, metrics.clone()).map_err(failed)?))
}

/// A recording's failure with its hint.
pub(super) fn failed(error: RecordError) -> anyhow::Error {
    match error.hint() {
        Some(hint) => Expected::new(error.to_string(), hint).into(),
        // Its cause is in its text already.
        None => anyhow::Error::msg(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_replay_line_can_be_pasted() {
        assert_eq!(quoted(Path::new("/var/tmp/rec-1")), "/var/tmp/rec-1");
        assert_eq!(quoted(Path::new("my rec")), "'my rec'");
        assert_eq!(quoted(Path::new("it's")), "'it'\\''s'");
    }
}
