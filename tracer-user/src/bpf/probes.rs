//! The catalogue of the probes: which program belongs where, and what is not known without it.

use std::fmt;

use tracer_ebpf as abi;

use super::btf::KernelBtf;

/// The family of data hooks in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// `sock_send_length` and `sock_recv_length`.
    Socket,
    /// `sys_exit`.
    Syscall,
}

impl Family {
    pub(super) fn probes(self) -> &'static [Probe] {
        match self {
            Family::Socket => SOCKET,
            Family::Syscall => SYSCALL,
        }
    }

    /// Whether a kernel has its tracepoints.
    pub(super) fn is_of(self, kernel: &KernelBtf) -> bool {
        let n_parameters = match self {
            Family::Socket => 3,
            Family::Syscall => 2,
        };
        let has =
            |probe: &Probe| kernel.tracepoint(probe.tracepoint).is_some_and(|all| all.len() == n_parameters);
        self.probes().iter().all(has)
    }

    /// Those for datagrams.
    pub(super) fn datagrams(self) -> &'static [Probe] {
        match self {
            Family::Socket => SOCKET_DATAGRAMS,
            Family::Syscall => SYSCALL_DATAGRAMS,
        }
    }

    /// What the programs for rustls need.
    pub(super) fn rustls(self) -> &'static Probe {
        match self {
            Family::Socket => &SOCKET_RUSTLS,
            Family::Syscall => &SYSCALL_RUSTLS,
        }
    }

    /// Those that complete what is told of datagrams, attached when they are needed.
    pub(super) fn datagram_exits(self) -> &'static [Probe] {
        match self {
            Family::Socket => DATAGRAM_EXITS,
            Family::Syscall => &[],
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::Socket => "socket tracepoints",
            Family::Syscall => "system call tracepoints",
        })
    }
}

/// Where a program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// On its tracepoint.
    Tracepoint,
    /// Behind another program of its tracepoint, which hands over to it (a tail call).
    Behind {
        /// The map of programs.
        array: &'static str,
        /// Where in it.
        slot: u32,
    },
}

/// Says on whose behalf a program is loaded, and what its absence costs.
#[derive(Debug)]
pub(super) struct Probe {
    /// Function in the object.
    pub(super) program: &'static str,
    /// Tracepoint.
    pub(super) tracepoint: &'static str,
    /// How it is reached.
    pub(super) place: Place,
    /// What is not known without it; `None` = nothing works without it.
    pub(super) feature: Option<&'static str>,
}

const fn on(tracepoint: &'static str, program: &'static str, feature: Option<&'static str>) -> Probe {
    Probe { program, tracepoint, place: Place::Tracepoint, feature }
}

/// The program that only notes times.
pub(super) const ARRIVALS: &str = "data_ready";

pub(super) const LIFE: &[Probe] = &[
    on("tcp_destroy_sock", "tcp_destroy", None),
    on("inet_sock_set_state", "tcp_state", None),
    on("sched_process_exit", "process_exit", Some("requests ended by the end of their process")),
    on("sched_process_fork", "process_fork", Some("children of targets")),
    on("sched_process_exec", "process_exec", Some("targets by name or executable that start later")),
    on("task_rename", "task_rename", Some("targets by thread name that take it later")),
    on("sk_data_ready", ARRIVALS, Some("queue time (arrival of requests; kernel 6.3 and later)")),
    on("tcp_retransmit_skb", "tcp_retransmit", Some("when segments are sent again")),
];

pub(super) const SOCKET: &[Probe] = &[on(RECEIVES, "socket_receive", None), on(SENDS, "socket_send", None)];
pub(super) const SYSCALL: &[Probe] = &[on(EXITS, "syscall_exit", None)];

const RECEIVES: &str = "sock_recv_length";
const SENDS: &str = "sock_send_length";
const EXITS: &str = "sys_exit";

const fn behind(
    tracepoint: &'static str,
    array: &'static str,
    slot: u32,
    program: &'static str,
    feature: &'static str,
) -> Probe {
    Probe { program, tracepoint, place: Place::Behind { array, slot }, feature: Some(feature) }
}

/// Programs for functions of TLS libraries: loaded at the start, attached process by process (`tls_probes`).
pub(super) const TLS: &[&str] = &[
    "tls_return",
    "tls_free",
    "tls_bio_write",
    "tls_openssl_handshake",
    "tls_openssl_read",
    "tls_openssl_read_ex",
    "tls_openssl_write",
    "tls_openssl_write_ex",
    "tls_openssl_write_internal",
    "tls_boringssl_read",
    "tls_boringssl_write",
    "tls_gnutls_read",
    "tls_gnutls_recv_int",
    "tls_gnutls_write",
    "tls_nss_read",
    "tls_nss_write",
];

/// The same for files, which the kernel encrypts. It takes the hooks of sockets: those on system calls do not know that a socket's sequence numbers count
/// records.
pub(super) const TLS_FILES: &[&str] = &["tls_openssl_sendfile"];

/// The same for Go's.
pub(super) const TLS_GO: &[&str] =
    &["tls_go_handshake", "tls_go_read", "tls_go_copy", "tls_go_copy_reader", "tls_go_send", "tls_go_sent"];

/// The same for rustls.
pub(super) const TLS_RUSTLS: &[&str] = &["tls_rustls_encrypt", "tls_rustls_decrypt", "tls_rustls_return"];

/// Programs for functions that somebody named (`function_probes`).
pub(super) const FUNCTIONS: &[&str] =
    &["function_enter", "function_return", "function_end", "function_tail", "function_mark"];

/// What a run without them does without.
pub(super) const TLS_FEATURE: &str = "clear text of TLS";
/// The same for files.
pub(super) const TLS_FILES_FEATURE: &str = "files sent by OpenSSL (SSL_sendfile)";
/// The same for Go's and rustls, whose programs are loaded when they are asked for.
pub(super) const TLS_LATER_FEATURE: &str = "clear text of Go's TLS and of rustls";
/// The same for rustls.
const TLS_RUSTLS_FEATURE: &str = "clear text of rustls";

/// What a run without the probes of the scheduler does without.
pub(super) const ANATOMY: &str = "where the time of requests went (anatomy)";

/// The scheduler, for threads that serve requests.
pub(super) const THREADS: &[Probe] =
    &[on("sched_switch", "sched_switch", Some(ANATOMY)), on("sched_waking", "sched_waking", Some(ANATOMY))];
/// And their system calls.
pub(super) const CALLS: &[Probe] =
    &[on("sys_enter", "call_enter", Some(ANATOMY)), on(EXITS, "call_exit", Some(ANATOMY))];

/// What a run without the probes of datagrams does without.
const DATAGRAMS: &str = "datagrams (DNS over UDP)";

/// Behind [`SOCKET`], for datagrams.
pub(super) const SOCKET_DATAGRAMS: &[Probe] = &[
    behind(RECEIVES, "DATAGRAM_RECEIVE", 0, "datagram_receive", DATAGRAMS),
    behind(SENDS, "DATAGRAM_SEND", 0, "datagram_send", DATAGRAMS),
];

/// Behind [`SYSCALL`], for datagrams.
pub(super) const SYSCALL_DATAGRAMS: &[Probe] = &[
    behind(EXITS, "SYS_EXIT", abi::SYS_EXIT_SINGLE, "datagram_call", DATAGRAMS),
    behind(EXITS, "SYS_EXIT", abi::SYS_EXIT_VECTOR, "datagrams_call", DATAGRAMS),
];

/// Behind [`SOCKET`], for rustls.
const SOCKET_RUSTLS: Probe =
    behind(SENDS, "DATAGRAM_SEND", abi::SEND_RUSTLS, "rustls_sent", TLS_RUSTLS_FEATURE);
/// Behind [`SYSCALL`], for rustls.
const SYSCALL_RUSTLS: Probe =
    behind(EXITS, "SYS_EXIT", abi::SYS_EXIT_RUSTLS, "rustls_sent_call", TLS_RUSTLS_FEATURE);

/// What a run without the probes at the exit of calls does without.
const UNNAMED: &str = "datagrams received by sockets without a peer and several at once (DNS servers)";

/// Beside [`SOCKET_DATAGRAMS`], when they are needed; loaded before, because a second then would be a second of lost datagrams.
pub(super) const DATAGRAM_EXITS: &[Probe] = &[
    on(EXITS, "datagram_exit", Some(UNNAMED)),
    behind(EXITS, "SYS_EXIT", abi::SYS_EXIT_VECTOR, "datagrams_exit", UNNAMED),
];
