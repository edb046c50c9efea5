//! The kernel side's own log, for whoever debugs a probe: in builds with the feature `log` alone, where the probes write it
//! and it is drained into txray's log (`TXRAY_LOG=debug`). Other builds have neither the calls nor the map.

use aya::Ebpf;

/// The reading end; nothing without the feature.
pub struct KernelLog {
    #[cfg(feature = "log")]
    log: Option<aya_log::EbpfLogger<ToTracing>>,
}

impl KernelLog {
    /// Takes the log's map out of the loaded object.
    #[cfg(feature = "log")]
    pub fn take(ebpf: &mut Ebpf) -> KernelLog {
        let log = aya_log::EbpfLogger::init_with_logger(ebpf, ToTracing)
            .inspect_err(|error| tracing::warn!("the kernel side's log cannot be read: {error}"));
        KernelLog { log: log.ok() }
    }

    /// Takes nothing.
    #[cfg(not(feature = "log"))]
    pub fn take(_: &mut Ebpf) -> KernelLog {
        KernelLog {}
    }

    /// Hands on what was written.
    pub fn drain(&mut self) {
        #[cfg(feature = "log")]
        if let Some(log) = &mut self.log {
            log.flush();
        }
    }
}

/// Turns records of aya-log's facade into events of txray's own log.
#[cfg(feature = "log")]
struct ToTracing;

#[cfg(feature = "log")]
impl log::Log for ToTracing {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let text = record.args();
        match record.level() {
            log::Level::Error => tracing::error!("kernel: {text}"),
            log::Level::Warn => tracing::warn!("kernel: {text}"),
            log::Level::Info => tracing::info!("kernel: {text}"),
            log::Level::Debug => tracing::debug!("kernel: {text}"),
            log::Level::Trace => tracing::trace!("kernel: {text}"),
        }
    }

    fn flush(&self) {}
}
