//! The last step: from a request that ended to the record, with names, addresses and wall time.

use std::{
    borrow::Cow,
    net::{Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use tracer_ebpf as abi;

use super::{
    End, Kind, ProtocolName, TimeBasis, Transaction,
    open::{Ended, Open},
};
use crate::{
    conn::connection::Connection,
    event::{ConnId, Role},
    protocol::{ErrorFor, Operation, Response},
    time::Anchor,
};

/// The two ends of a connection as text, made once.
#[derive(Clone, Debug)]
pub struct Ends {
    client: (Arc<str>, Option<u16>),
    server: (Arc<str>, Option<u16>),
    /// [`server_name`], where it was asked for.
    name: Option<Arc<str>>,
}

impl Ends {
    /// Of a connection on which the traced process has `role`.
    pub fn of(conn: &Connection, role: Role) -> Ends {
        let [local, remote] = local_and_remote(&conn.tuple, &conn.unix_path);
        match role {
            Role::Client => Ends { client: local, server: remote, name: None },
            Role::Server | Role::Unknown => Ends { client: remote, server: local, name: None },
        }
    }

    /// [`server_name`], made once.
    pub fn server_name(&mut self, conn: &Connection, role: Role) -> Arc<str> {
        self.name.get_or_insert_with(|| server_name(&conn.tuple, &conn.unix_path, role)).clone()
    }
}

/// Whether bytes came from a packet capture, where no process moved them: none has number 0 and no name.
pub fn is_captured(pid: u32, comm: &[u8; 16]) -> bool {
    pid == 0 && *comm == [0; 16]
}

/// What the stamps of a request are.
pub fn time_basis(open: &Open) -> TimeBasis {
    if is_captured(open.pid, &open.comm) {
        TimeBasis::Packet
    } else if open.entry {
        TimeBasis::EntryExit
    } else {
        TimeBasis::Exit
    }
}

/// What a service is called of which nothing is known but where it listens: `address:port`, `[address]:port` for IPv6.
pub fn server_name(tuple: &abi::Tuple, unix_path: &[u8], role: Role) -> Arc<str> {
    let [local, remote] = local_and_remote(tuple, unix_path);
    let (address, port) = if role == Role::Client { remote } else { local };
    match port {
        Some(port) if tuple.family == abi::FAMILY_INET6 => format!("[{address}]:{port}").into(),
        Some(port) => format!("{address}:{port}").into(),
        None => address,
    }
}

/// Address and port of a process's own end and of its peer's, as text.
pub fn local_and_remote(tuple: &abi::Tuple, unix_path: &[u8]) -> [(Arc<str>, Option<u16>); 2] {
    let address = |bytes: &[u8; 16], port: u16| -> (Arc<str>, Option<u16>) {
        match tuple.family {
            abi::FAMILY_INET => {
                let [a, b, c, d, ..] = *bytes;
                (Ipv4Addr::new(a, b, c, d).to_string().into(), Some(port))
            }
            abi::FAMILY_INET6 => (Ipv6Addr::from(*bytes).to_canonical().to_string().into(), Some(port)),
            abi::FAMILY_UNIX => (unix(unix_path, bytes).into(), None),
            _ => ("".into(), None),
        }
    };
    [address(&tuple.local, tuple.local_port), address(&tuple.remote, tuple.remote_port)]
}

/// `unix:PATH`; an abstract name as `unix:@NAME`; bytes that are not UTF-8 as `\xNN`.
fn unix(path: &[u8], start: &[u8; 16]) -> String {
    let path = if path.is_empty() { &start[..] } else { path };
    let (mark, name) = match path.split_first() {
        Some((0, name)) if name.iter().any(|&byte| byte != 0) => ("@", name),
        _ => ("", path),
    };
    let end = name.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    let mut text = format!("unix:{mark}");
    for chunk in name[..end].utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

/// The record of a request that ended, and its operation, which gets its name behind the watermark.
#[expect(clippy::too_many_arguments, reason = "one call; the arguments are what different layers know")]
pub fn finish(
    ended: Ended,
    anchor: Anchor,
    conn: ConnId,
    role: Role,
    protocol: ProtocolName,
    guessed: bool,
    ends: &Ends,
    service: Arc<str>,
    comm: Arc<str>,
) -> (Transaction, Operation) {
    let Ended { open, end, at } = ended;
    let confidence = open.confidence(guessed);
    let response_start = open.response_start.or(open.interim);
    let ttfb_ns = match (open.request_end, response_start) {
        (Some(asked), Some(answered)) if answered >= asked => Some(answered.0 - asked.0),
        _ => None,
    };
    let (error, error_type) = outcome(open.response.as_ref(), end, open.kind, role);
    let transaction = Transaction {
        start_time: anchor.wall(open.start),
        request_end: open.request_end.map(|at| anchor.wall(at)),
        response_start: response_start.map(|at| anchor.wall(at)),
        end_time: anchor.wall(at),
        duration_ns: at.signed_since(open.start),
        ttfb_ns,
        queue_ns: open.queue_ns,
        time_basis: time_basis(&open),
        kind: open.kind,
        role,
        protocol: if open.more.protocol.is_empty() { protocol } else { open.more.protocol },
        operation: Arc::default(),
        target: open.target,
        namespace: open.more.namespace,
        status_code: open.response.as_ref().and_then(|response| response.status_code),
        error,
        error_type: error_type.map(|name| open.more.reset.unwrap_or(name)),
        error_message: open.more.error_message,
        rows: open.more.rows,
        pid: open.pid,
        tid: open.tid,
        comm,
        service,
        client_addr: ends.client.0.clone(),
        client_port: ends.client.1,
        server_addr: ends.server.0.clone(),
        server_port: ends.server.1,
        tls: open.more.tls,
        trace_id: open.more.trace_id,
        request_bytes: open.request_bytes,
        response_bytes: open.response_bytes,
        request_messages: open.more.messages[0],
        response_messages: open.more.messages[1],
        call: None,
        causes: None,
        network: None,
        end,
        confidence,
        conn,
        carrier: None,
        ordinal: open.ordinal,
        seq: 0,
    };
    (transaction, open.operation)
}

/// Whether it is an error for this role, and which.
fn outcome(
    response: Option<&Response>,
    end: End,
    kind: Kind,
    role: Role,
) -> (bool, Option<Cow<'static, str>>) {
    if let Some(response) = response {
        let error = match response.error {
            ErrorFor::None => false,
            ErrorFor::Client => role == Role::Client,
            ErrorFor::Both => true,
        };
        if error {
            let code = || response.status_code.map(|code| Cow::Owned(code.to_string()));
            return (true, response.error_type.clone().or_else(code));
        }
    }
    // Names as OpenTelemetry's `error.type` has them where it has any.
    let reason = match end {
        _ if kind != Kind::Request => None,
        End::Closed => Some("connection_closed"),
        End::Reset => Some("connection_reset"),
        End::Exited => Some("process_exited"),
        End::Stuck => Some("timeout"),
        End::Answered | End::Upgraded | End::TracerStopped | End::Unwound => None,
    };
    (reason.is_some(), reason.map(Cow::Borrowed))
}
