//! Flags that several subcommands share. Each turns into a layer of [`Settings`]; clap fills a flag from its
//! environment variable where the flag is absent, so that both stand above the file.

use std::{ffi::OsString, path::PathBuf};

use clap::Args;

use crate::{
    config::{
        Anatomy, Config, Hooks, RequestStacks, Settings, Size, Span, Stacks, SummaryForm, Terminal, Tls,
    },
    protocol::REGISTRY,
    report::filter::Thresholds,
    sink::recording::Owner,
};

/// What is traced, and how: live runs only.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Targets (default: the whole host)")]
pub struct CaptureArgs {
    /// Trace this process and the children it starts (repeatable): its number as ps shows it where txray runs, not inside a
    /// container
    #[arg(long, value_name = "PID", env = "TXRAY_PID", value_delimiter = ',', value_parser = process_number)]
    pub pid: Vec<u32>,
    /// Trace processes of this name (repeatable)
    #[arg(long, value_name = "NAME", env = "TXRAY_COMM")]
    pub comm: Vec<String>,
    /// Trace processes that run this executable: a path or a bare name (repeatable)
    #[arg(long, value_name = "PATH", env = "TXRAY_EXE")]
    pub exe: Vec<PathBuf>,
    /// Trace processes of this cgroup (repeatable)
    #[arg(long, value_name = "PATH", env = "TXRAY_CGROUP")]
    pub cgroup: Vec<PathBuf>,
    /// Trace connections with this TCP port at either end (repeatable)
    #[arg(long, value_name = "PORT", env = "TXRAY_PORT", value_delimiter = ',')]
    pub port: Vec<u16>,
    /// Family of data hooks [default: auto]
    #[arg(long, value_enum, env = "TXRAY_HOOKS", help_heading = "Capture")]
    pub hooks: Option<Hooks>,
    /// Connections of TLS: what programs say in them, seen in their own libraries, or only turns from outside [default: clear]
    #[arg(long, value_enum, value_name = "HOW", env = "TXRAY_TLS")]
    pub tls: Option<Tls>,
    /// Leave a process' TLS opaque when probes on its library take more of its processor time than this, percent [default: 30]
    #[arg(long, value_name = "PERCENT", env = "TXRAY_TLS_LIMIT", help_heading = "Capture")]
    pub tls_limit: Option<u32>,
    /// Where the time of requests went: not at all, by what their threads waited for, or that and what they did in the kernel [default: calls]
    #[arg(long, value_enum, value_name = "HOW", env = "TXRAY_ANATOMY", help_heading = "Capture")]
    pub anatomy: Option<Anatomy>,
    /// Of which requests to keep the call stacks, of moments on a CPU and of waits: of none, of slow and failed ones and some others, or of
    /// all [default: slow]
    #[arg(long, value_enum, value_name = "WHICH", env = "TXRAY_STACKS", help_heading = "Capture")]
    pub stacks: Option<RequestStacks>,
    /// Make each call of this function a transaction (repeatable): BINARY:SYMBOL, with types for values (int,str)->int; * and ? stand for others;
    /// BINARY:SYMBOL+0x12, BINARY:0xADDR, BINARY:usdt:PROVIDER:NAME
    #[arg(long, value_name = "WHERE", env = "TXRAY_UPROBE", help_heading = "Capture")]
    pub uprobe: Vec<String>,
    /// Show which code called the functions of --uprobe: of slow calls (3 s, or what `slow` in the settings says), of those that take at least a
    /// duration, or of all [default: none; without a value: slow]
    #[arg(
        long,
        value_name = "slow|all|DURATION",
        env = "TXRAY_STACK",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "slow",
        help_heading = "Capture"
    )]
    pub stack: Option<Stacks>,
    /// Bytes of the kernel's ring, a power of two [default: 16M]; the queues of the pipeline and the recorder grow with it
    #[arg(long, value_name = "SIZE", env = "TXRAY_RING_SIZE", help_heading = "Capture")]
    pub ring_size: Option<Size>,
    /// Batches between the ring reader and the pipeline [default: 256]
    #[arg(long, value_name = "N", env = "TXRAY_QUEUE_BATCHES", help_heading = "Capture")]
    pub queue_batches: Option<usize>,
}

/// One look instead of a screen: `live` and `replay`, not `record`, whose recording is what one wants to keep.
#[derive(Clone, Copy, Debug, Default, Args)]
#[command(next_help_heading = "Output")]
pub struct OnceArgs {
    /// Without a screen: print one table at the end, and nothing else; with --json the summary as JSON
    #[arg(long)]
    pub once: bool,
}

impl OnceArgs {
    /// What it makes of the settings. `run`: what was typed.
    pub fn apply(self, config: Config, run: &RunArgs) -> anyhow::Result<Config> {
        if !self.once {
            return Ok(config);
        }
        let terminal = &config.terminal;
        if terminal.json && run.summary == Some(SummaryForm::Text) {
            return Err(super::Expected::new(
                "--once prints one thing: --json asks for JSON, --summary text for a table",
                "leave one of the two out",
            )
            .into());
        }
        let summary = if terminal.json { SummaryForm::Json } else { terminal.summary };
        let terminal = Terminal { once: true, json: false, summary, ..terminal.clone() };
        Ok(Config { terminal, ..config })
    }
}

/// The settings file, for subcommands that only ask it what the words of a filter mean.
#[derive(Clone, Debug, Default, Args)]
pub struct WordsArgs {
    /// Settings file (TOML): what `slow` means [default: config.toml in $XDG_CONFIG_HOME/txray, if it is there]
    #[arg(long, value_name = "FILE", env = "TXRAY_CONFIG")]
    config: Option<PathBuf>,
}

impl WordsArgs {
    /// What they mean.
    pub fn thresholds(&self) -> anyhow::Result<Thresholds> {
        let mut config =
            RunArgs { config: self.config.clone(), ..RunArgs::default() }.resolve(Settings::default())?;
        // Layouts say nothing of words.
        (config.screen.folder, config.screen.layout) = (None, None);
        Ok(super::run::screen(&config)?.thresholds())
    }
}

/// Whose datagrams are looked at: live, and in packet captures.
#[derive(Clone, Debug, Default, Args)]
pub struct DatagramArgs {
    /// Datagrams of this UDP port at either end are DNS (repeatable), beside those of 53, 5353 and 5355; of what is in a recording already
    /// nothing is left to choose
    #[arg(
        long,
        value_name = "PORT",
        env = "TXRAY_UDP_PORT",
        value_delimiter = ',',
        help_heading = "Capture"
    )]
    pub udp_port: Vec<u16>,
}

/// What every run takes.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Output")]
pub struct RunArgs {
    /// Settings file (TOML); environment and flags win over it [default: config.toml in $XDG_CONFIG_HOME/txray, if it is there]
    #[arg(long, value_name = "FILE", env = "TXRAY_CONFIG", help_heading = "Run")]
    pub config: Option<PathBuf>,
    /// Look for this protocol only (repeatable): connections that speak another one, and none that leads there, are counted and not read [default: all]
    #[arg(long, value_name = "NAME", env = "TXRAY_PROTOCOL", value_delimiter = ',', value_parser = protocol_names(), help_heading = "Run")]
    pub protocol: Vec<String>,
    /// On this port of a server (repeatable), show what no parser knows turn by turn; elsewhere it is only counted
    #[arg(long, value_name = "PORT", env = "TXRAY_OPAQUE_PORT", value_delimiter = ',', help_heading = "Run")]
    pub opaque_port: Vec<u16>,
    #[command(flatten)]
    pub(super) datagrams: DatagramArgs,
    /// Stop after this time: 500ms, 20s, 5m
    #[arg(long, value_name = "TIME", env = "TXRAY_DURATION", help_heading = "Run")]
    pub duration: Option<Span>,
    /// Show only transactions that match: 'duration >= 100ms and status_code = 500'
    #[arg(long, value_name = "EXPR", env = "TXRAY_FILTER")]
    pub filter: Option<String>,
    /// Print one JSON object per transaction and line, and nothing else
    #[arg(long)]
    pub json: bool,
    /// Form of the summary at the end [default: text]
    #[arg(long, value_enum, value_name = "FORM", env = "TXRAY_SUMMARY")]
    pub summary: Option<SummaryForm>,
    /// Batches in front of each sink [default: 256]
    #[arg(long, value_name = "N", env = "TXRAY_QUEUE_SINK", help_heading = "Capture")]
    pub queue_sink: Option<usize>,
    /// Layout of the screen at the start: one of the settings, or one that was kept with S
    #[arg(long, value_name = "NAME", env = "TXRAY_LAYOUT")]
    pub layout: Option<String>,
    /// Dots that the XLog holds [default: 1048576]
    #[arg(long, value_name = "N", env = "TXRAY_XLOG_DOTS", help_heading = "Capture")]
    pub xlog_dots: Option<usize>,
    /// Link that the key o makes of a transaction, with {trace_id} {from_ms} {to_ms} {service} {operation} {conn_id}
    #[arg(long, value_name = "TEMPLATE", env = "TXRAY_OPEN_URL")]
    pub open_url: Option<String>,
}

fn process_number(text: &str) -> Result<u32, crate::config::ParseError> {
    // Larger than pid_max on every kernel (2^22), and what the kernel could not hold either.
    let number = text.parse().ok().filter(|number| (1..=i32::MAX as u32).contains(number));
    number.ok_or_else(|| crate::config::ParseError::new(text, "a process number"))
}

fn protocol_names() -> clap::builder::PossibleValuesParser {
    REGISTRY.iter().map(|protocol| protocol.name()).collect::<Vec<_>>().into()
}

/// What clap has checked of the flag and its variable, the file may still get wrong.
fn check_protocols(names: &[String]) -> Result<(), super::Expected> {
    let known: Vec<&str> = REGISTRY.iter().map(|protocol| protocol.name()).collect();
    match names.iter().find(|name| !known.contains(&name.as_str())) {
        Some(name) => Err(super::Expected::new(
            format!("there is no protocol '{}'", crate::text::screen_text(name)),
            format!("known are: {}", known.join(", ")),
        )),
        None => Ok(()),
    }
}

/// The user's own folder of settings, asked through `variable`: under sudo that of whoever called it.
fn settings_folder(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let folder = |name: &str| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    if let Some(folder) = folder("XDG_CONFIG_HOME") {
        return Some(folder.join("txray"));
    }
    let sudo = Owner::behind_sudo().filter(|_| variable("SUDO_UID").is_some());
    let home = sudo.and_then(|owner| home_of(owner.uid, &std::fs::read_to_string("/etc/passwd").ok()?));
    Some(home.or_else(|| folder("HOME"))?.join(".config/txray"))
}

/// Home of a user by number, in the text of `/etc/passwd`.
fn home_of(uid: u32, passwd: &str) -> Option<PathBuf> {
    let mut users = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let user = users.find(|fields| fields.get(2).is_some_and(|number| number.parse() == Ok(uid)))?;
    user.get(5).map(PathBuf::from).filter(|path| path.is_absolute())
}

impl CaptureArgs {
    /// The flags' layer, under what `settings` says already.
    pub fn settings(&self, settings: Settings) -> Settings {
        let CaptureArgs {
            pid,
            comm,
            exe,
            cgroup,
            port,
            hooks,
            tls,
            tls_limit,
            anatomy,
            stacks,
            uprobe,
            stack,
            ring_size,
            queue_batches,
        } = self.clone();
        Settings {
            pid,
            comm,
            exe,
            cgroup,
            port,
            hooks,
            tls,
            tls_limit,
            anatomy,
            stacks,
            uprobe,
            stack,
            ring_size,
            queue_batches,
            ..settings
        }
    }
}

impl RunArgs {
    /// The flags' layer, under what `settings` says already.
    pub fn settings(&self, settings: Settings) -> Settings {
        let RunArgs {
            config: _,
            protocol,
            opaque_port,
            datagrams: DatagramArgs { udp_port },
            duration,
            filter,
            json,
            summary,
            layout,
            queue_sink,
            xlog_dots,
            open_url,
        } = self.clone();
        Settings {
            protocol,
            opaque_port,
            udp_port,
            duration,
            filter,
            json: json.then_some(true),
            summary,
            layout,
            queue_sink,
            xlog_dots,
            open_url,
            ..settings
        }
    }

    /// Defaults, then the file, then `flags` (environment included).
    pub fn resolve(&self, flags: Settings) -> anyhow::Result<Config> {
        // A folder that must not even be looked into is somebody else's: HOME may be another user's, of whom this process was.
        let denied = |folder: &PathBuf| {
            std::fs::metadata(folder).is_err_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied)
        };
        let own = settings_folder(|name| std::env::var_os(name)).filter(|folder| !denied(folder));
        let default = own.as_ref().map(|folder| folder.join("config.toml")).filter(|file| file.is_file());
        let file = match self.config.as_ref().or(default.as_ref()) {
            Some(path) => Settings::read(path).map_err(|error| {
                super::Expected::new(
                    error.to_string().trim_end(),
                    "keys are the long flags with _ for -, for example ring_size = \"64M\", and the section [screen]",
                )
            })?,
            None => Settings::default(),
        };
        let mut config = Config::resolve([file, flags])?;
        config.screen.folder = match &self.config {
            // What was saved stands beside what was written.
            Some(path) => path
                .parent()
                .map(|folder| if folder.as_os_str().is_empty() { ".".into() } else { folder.into() }),
            None => own,
        };
        check_protocols(&config.protocols)?;
        super::run::template(&config)?;
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_of_settings_is_the_users_own() {
        let folder = |pairs: &[(&str, &str)]| {
            settings_folder(|name| pairs.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).into()))
        };
        assert_eq!(
            folder(&[("XDG_CONFIG_HOME", "/x"), ("HOME", "/home/a")]),
            Some(PathBuf::from("/x/txray"))
        );
        assert_eq!(folder(&[("XDG_CONFIG_HOME", "x"), ("HOME", "relative")]), None);
        let passwd = "root:x:0:0:root:/root:/bin/sh\nodd\nann:x:1000:1000:Ann,,,:/home/ann:/bin/sh\n";
        assert_eq!(home_of(1000, passwd), Some(PathBuf::from("/home/ann")));
        assert_eq!(home_of(1001, passwd), None);
    }
}
